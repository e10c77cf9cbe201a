"""Through which time a device's record is complete, from its own signed statements.

A heartbeat states: at this time my journal ended with this entry. It counts once the hub holds
every entry up to there, in its epoch and in all epochs before it. Until then, somebody may have
tapped without the hub knowing, and nothing may be concluded from silence.

A second history of the device (a copied, replaced or rolled back journal) may hold what nobody has
seen, but nothing from before it was opened: what was stated and held until then stays so.

Promises: the answer depends on the facts alone, never on their order; in doubt it says "not known".
It judges no meeting, and it does not look at readers that were down.

A fork that a person has settled is one no more: of what was known of the device then, every history
is taken as it is, and what the settling person says is lost is a hole.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from hub.domain.terms import OtherHistory, Term

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
    COMPROMISED = "COMPROMISED", "设备失密，以后送到的记录须经管理员核准"
    GONE = "GONE", "设备遗失后退役，可能还有记录没有交回"


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
    is_forked: bool = False
    """Another history of the device was lost; otherwise entries that it cannot read."""

    def touches(self, from_ms: int, to_ms: int) -> bool:
        """Whether something lost may have happened from `from_ms` to `to_ms`, both included."""
        return (self.earliest_ms is None or self.earliest_ms <= to_ms) and (
            self.latest_ms is None or from_ms <= self.latest_ms
        )


@dataclass(frozen=True, slots=True)
class Settlement:
    """Of the epochs known at `at_ms`, a person said: no fork is open, and `epoch` goes on."""

    epochs: frozenset[bytes]
    epoch: bytes
    other: OtherHistory
    at_ms: int


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
    is_closed: bool = False
    """It has said its last word, and the hub holds all of it: nothing can come after."""

    def covers(self, from_ms: int, to_ms: int) -> bool:
        """Whether nothing of `from_ms` to `to_ms` can be missing."""
        return (
            self.is_closed or (self.through_ms is not None and self.through_ms > to_ms)
        ) and not any(each.touches(from_ms, to_ms) for each in self.holes)


def completeness(
    epochs: Iterable[Epoch],
    statements: Iterable[Statement],
    holes: Iterable[Hole] = (),
    settled: Iterable[Settlement] = (),
    closing: tuple[bytes, int] | None = None,
) -> Completeness:
    """What the device's statements amount to, given the entries that the hub holds.

    `epochs`: all that the device ever opened and the hub has heard of; `closing`: epoch and number
    of its last entry of all, where it has said so.
    """
    by_id = {each.epoch: each for each in epochs}
    in_turn = sorted(settled, key=lambda each: (each.at_ms, len(each.epochs)))
    last = in_turn[-1] if in_turn else None
    stated = set(statements)
    lines = _lines(by_id, last)
    if last is not None and any(_goes_on_elsewhere(each, last) for each in stated):
        lines = {
            key: replace(line, forked_ms=min(line.forked_ms, last.at_ms))
            for key, line in lines.items()
        }
    lost = tuple(
        sorted(
            {*holes, *_lost(by_id, in_turn)},
            key=lambda each: (each.earliest_ms or 0, each.latest_ms or 0, each.is_forked),
        )
    )
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
        any(
            (each.epoch, each.head_seq) == closing
            and _obstacle(each, lines) in {None, Obstacle.UNDATED, Obstacle.AHEAD}
            for each in stated
        ),
    )


def forked_ms(epochs: Iterable[Epoch], settled: Iterable[Settlement] = ()) -> dict[bytes, float]:
    """By epoch: from when on there may have been another history of the device; `inf`: never."""
    last = max(settled, key=lambda each: (each.at_ms, len(each.epochs)), default=None)
    lines = _lines({each.epoch: each for each in epochs}, last)
    return {key: line.forked_ms for key, line in lines.items()}


def _lost(by_id: Mapping[bytes, Epoch], settled: Sequence[Settlement]) -> Iterator[Hole]:
    """What settling persons said to be lost: from where the record forked until they said so."""
    before: Settlement | None = None
    for each in settled:
        if each.other is OtherHistory.LOST:
            known = {key: epoch for key, epoch in by_id.items() if key in each.epochs}
            lines = _lines(known, before)
            since = [line.forked_ms for line in lines.values() if line.forked_ms != inf]
            for line in lines.values():
                parent = line.epoch.parent
                if parent is not None and line.obstacle is Obstacle.FORKED:
                    above = known.get(parent.epoch)
                    opened = None if above is None else above.opened_ms
                    since.append(-inf if opened is None else opened)
            goes_on = known.get(each.epoch)
            opened = None if goes_on is None else goes_on.opened_ms
            earliest = min(since, default=-inf if opened is None else opened)
            yield Hole(None if earliest == -inf else int(earliest), each.at_ms, is_forked=True)
        before = each


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


def _lines(by_id: Mapping[bytes, Epoch], settled: Settlement | None = None) -> dict[bytes, _Line]:
    known = frozenset[bytes]() if settled is None else settled.epochs
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
            is_settled = each.epoch in known
            joint = _joint(by_id[above], each.parent, is_settled=is_settled)
            before[each.epoch] = before[above] or joint
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
        new, newer, *_ = (
            *sorted(begun[each.epoch] for each in siblings if each.epoch not in known),
            inf,
            inf,
        )
        for each in siblings:
            if each.epoch in known:
                others = new
            elif known:
                others = newer if begun[each.epoch] == new else new
            else:
                others = second if begun[each.epoch] == first else first
            forked[each.epoch] = min(forked[parent], others)
    if settled is not None:
        _fork_strays(rooted, begun, forked, settled)
    adrift = min(
        (
            each.opened_ms
            for key, each in by_id.items()
            if key not in before and key not in known and each.opened_ms is not None
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
            if later.parent is not None and later.epoch not in known
        )
        lines[key] = _Line(each, before[key], min(forked[key], *ends, inf), adrift)
    return lines


def _goes_on_elsewhere(statement: Statement, settled: Settlement) -> bool:
    """Whether a history that was said to have ended is still written."""
    return (
        statement.epoch in settled.epochs
        and statement.epoch != settled.epoch
        and statement.at_ms is not None
        and min(statement.at_ms, statement.received_ms) > settled.at_ms
    )


def _fork_strays(
    rooted: Sequence[Epoch],
    begun: Mapping[bytes, float],
    forked: dict[bytes | None, float],
    settled: Settlement,
) -> None:
    """What goes on after a settled fork elsewhere than where it was said to, is another history."""
    strays = set[bytes]()
    for each in rooted:
        parent = None if each.parent is None else each.parent.epoch
        if each.epoch in settled.epochs:
            continue
        if (
            parent in strays
            or parent is None
            or (parent in settled.epochs and parent != settled.epoch)
        ):
            strays.add(each.epoch)
    since = min((begun[each] for each in strays), default=inf)
    for each in rooted:
        forked[each.epoch] = -inf if each.epoch in strays else min(forked[each.epoch], since)


def _head(epoch: Epoch) -> int:
    return max(epoch.head, epoch.through)


def _joint(before: Epoch, parent: Parent, *, is_settled: bool) -> Obstacle | None:
    """What is wrong where a later epoch says that it went on after `parent`."""
    if _head(before) > parent.seq and not is_settled:
        return Obstacle.FORKED
    if before.through < parent.seq:
        return Obstacle.MISSING_EARLIER
    if is_settled:
        return None
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
