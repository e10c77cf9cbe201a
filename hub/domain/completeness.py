"""Through which time a device's record is complete, from its own signed statements.

A heartbeat states: at this time my journal ended with this entry. It counts once the hub holds
every entry up to there, in its epoch and in all epochs before it. Until then, somebody may have
tapped without the hub knowing, and nothing may be concluded from silence.

A second history of the device (a copied, replaced or rolled back journal) may hold what nobody has
seen, but nothing from before it was opened: what was stated and held until then stays so.

Promises: the answer depends on the facts alone, never on their order; in doubt it says "not known".
It judges no meeting, and it does not look at readers that were down.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from hub.domain.terms import Term

CLOCKS_APART_MS: Final = 60_000
"""How far a device's clock, where it is right, and the hub's may be apart."""


class Obstacle(Term):
    """Why a device's newest statement does not count."""

    SILENT = "SILENT", "从未报告过记录情况"
    MISSING = "MISSING", "还有记录没有送到"
    MISSING_EARLIER = "MISSING_EARLIER", "以前开机时的记录还没有送齐"
    UNDATED = "UNDATED", "设备时钟未经校准，说不清是什么时候"
    AHEAD = "AHEAD", "设备时钟快了，报告的时间比收到的时间还晚"
    FORKED = "FORKED", "记录出现分叉，存储卡可能被复制或换过，待技术人员核查"


@dataclass(frozen=True, slots=True)
class Parent:
    """The last entry of the epoch before, as the later epoch's header states it."""

    epoch: bytes
    seq: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of the device as far as the hub holds it."""

    epoch: bytes
    parent: Parent | None
    through: int
    """The contiguous mark: entries 1 to `through` are held or stated as lost."""
    through_digest: bytes | None
    """None while nothing is held."""
    head: int = 0
    """The last entry that the hub has heard of, held or not; below `through` it says nothing."""
    opened_ms: int | None = None
    """When it was opened; None: not known."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A heartbeat: at `at_ms` the journal's head was entry `head_seq` of `epoch`."""

    epoch: bytes
    head_seq: int
    head_digest: bytes
    at_ms: int | None
    """Exact time, from a trusted clock or corrected by one; None where that is not known."""
    received_ms: int


@dataclass(frozen=True, slots=True)
class Hole:
    """A stated gap: entries lost in a time of which the bounds are known, or open (None)."""

    earliest_ms: int | None
    latest_ms: int | None

    def touches(self, from_ms: int, to_ms: int) -> bool:
        """Whether something lost may have happened from `from_ms` to `to_ms`, both included."""
        return (self.earliest_ms is None or self.earliest_ms <= to_ms) and (
            self.latest_ms is None or from_ms <= self.latest_ms
        )


@dataclass(frozen=True, slots=True)
class Completeness:
    """What is known of one device."""

    through_ms: int | None
    """Its record is complete up to this time, but for the holes; None: not known."""
    obstacle: Obstacle | None
    """Why its newest statement does not count; None where it does."""
    last_contact_ms: int | None
    """When its newest statement came in, on the hub's clock."""
    holes: tuple[Hole, ...] = ()

    def covers(self, from_ms: int, to_ms: int) -> bool:
        """Whether nothing of `from_ms` to `to_ms` can be missing."""
        return (
            self.through_ms is not None
            and self.through_ms > to_ms
            and not any(each.touches(from_ms, to_ms) for each in self.holes)
        )


def completeness(
    epochs: Iterable[Epoch], statements: Iterable[Statement], holes: Iterable[Hole] = ()
) -> Completeness:
    """What the device's statements amount to, given the entries that the hub holds.

    `epochs`: all that the device ever opened and the hub has heard of.
    """
    lines = _lines({each.epoch: each for each in epochs})
    stated = set(statements)
    lost = tuple(sorted(set(holes), key=lambda each: (each.earliest_ms or 0, each.latest_ms or 0)))
    if not stated:
        return Completeness(None, Obstacle.SILENT, None, lost)
    newest = max(
        stated,
        key=lambda each: (
            each.received_ms,
            each.at_ms is not None,
            each.at_ms or 0,
            each.head_seq,
            each.epoch,
            each.head_digest,
        ),
    )
    return Completeness(
        max(
            (
                each.at_ms
                for each in stated
                if each.at_ms is not None and _obstacle(each, lines) is None
            ),
            default=None,
        ),
        _obstacle(newest, lines),
        newest.received_ms,
        lost,
    )


def forked_ms(epochs: Iterable[Epoch]) -> dict[bytes, float]:
    """By epoch: from when on there may have been another history of the device; `inf`: never."""
    return {
        key: line.forked_ms for key, line in _lines({each.epoch: each for each in epochs}).items()
    }


@dataclass(frozen=True, slots=True)
class _Line:
    """An epoch with what was found out about its ancestors and its kin."""

    epoch: Epoch
    obstacle: Obstacle | None
    """In the way of every statement made in this epoch, whatever it holds."""
    forked_ms: float
    """From when on there may have been another history of the device; `inf`: never."""
    adrift_ms: float
    """From when on there was an epoch of which nobody knows yet where it belongs."""


def _lines(by_id: Mapping[bytes, Epoch]) -> dict[bytes, _Line]:
    children: dict[bytes | None, list[Epoch]] = {}
    for each in by_id.values():
        parent = None if each.parent is None else each.parent.epoch
        children.setdefault(parent, []).append(each)
    # From the oldest on: those whose whole line back to a first epoch is known.
    rooted = list(children.get(None, ()))
    for each in rooted:
        rooted.extend(children.get(each.epoch, ()))
    before: dict[bytes, Obstacle | None] = {}
    opened: dict[bytes, float] = {}
    for each in rooted:
        opened[each.epoch] = -inf if each.opened_ms is None else each.opened_ms
        before[each.epoch] = None
        if each.parent is not None:
            above = each.parent.epoch
            opened[each.epoch] = max(opened[each.epoch], opened[above])
            before[each.epoch] = before[above] or _joint(by_id[above], each.parent)
    # When the first of an epoch and all that came after it was opened: at the earliest, and of
    # those whose time is known.
    begun = dict(opened)
    dated = {each.epoch: inf if each.opened_ms is None else each.opened_ms for each in rooted}
    for each in reversed(rooted):
        if each.parent is not None:
            for first_of in (begun, dated):
                first_of[each.parent.epoch] = min(first_of[each.parent.epoch], first_of[each.epoch])
    # An epoch that is neither an ancestor nor came after is of another history.
    forked: dict[bytes | None, float] = {None: inf}
    for parent in (None, *(each.epoch for each in rooted)):
        siblings = children.get(parent, ())
        first, second, *_ = *sorted(begun[each.epoch] for each in siblings), inf, inf
        for each in siblings:
            others = second if begun[each.epoch] == first else first
            forked[each.epoch] = min(forked[parent], others)
    adrift = min(
        (
            each.opened_ms
            for key, each in by_id.items()
            if key not in before and each.opened_ms is not None
        ),
        default=inf,
    )
    lines = {}
    for key, each in by_id.items():
        if key not in before:
            lines[key] = _Line(each, Obstacle.MISSING_EARLIER, inf, inf)
            continue
        # An epoch ends where the next is opened: if it went on, that was in another copy.
        ends = (
            (begun if _head(each) > later.parent.seq else dated)[later.epoch]
            for later in children.get(key, ())
            if later.parent is not None
        )
        lines[key] = _Line(each, before[key], min(forked[key], *ends, inf), adrift)
    return lines


def _head(epoch: Epoch) -> int:
    return max(epoch.head, epoch.through)


def _joint(before: Epoch, parent: Parent) -> Obstacle | None:
    """What is wrong where a later epoch says that it went on after `parent`."""
    if _head(before) > parent.seq:
        return Obstacle.FORKED
    if before.through < parent.seq:
        return Obstacle.MISSING_EARLIER
    return Obstacle.FORKED if before.through_digest not in {None, parent.digest} else None


def _obstacle(statement: Statement, lines: Mapping[bytes, _Line]) -> Obstacle | None:
    line = lines.get(statement.epoch)
    if line is None or line.epoch.through < statement.head_seq:
        return Obstacle.MISSING
    if line.obstacle is not None:
        return line.obstacle
    # Below the mark the chain vouches for the digest; an empty epoch has none to compare.
    if line.epoch.through == statement.head_seq and line.epoch.through_digest not in {
        None,
        statement.head_digest,
    }:
        return Obstacle.FORKED
    if statement.at_ms is None:
        return Obstacle.UNDATED if line.forked_ms == inf else Obstacle.FORKED
    if statement.at_ms >= line.forked_ms:
        return Obstacle.FORKED
    if statement.at_ms >= line.adrift_ms:
        return Obstacle.MISSING_EARLIER
    return Obstacle.AHEAD if statement.at_ms > statement.received_ms + CLOCKS_APART_MS else None
