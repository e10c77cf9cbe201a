"""What is known of the devices' clocks: the trusted samples that date what an untrusted one saw.

A date is believed if it lies in this age and not after the hub had word of it, give or take
`CLOCKS_APART_MS`: a clock that says otherwise is wrong however much its device trusts it, and
dates nothing.

Reads only. That a boot's samples date its other moments is `protocol.timekeeping`.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    and_,
    case,
    func,
    literal,
    or_,
    select,
    union_all,
)

from hub.days import FIRST_DAY
from hub.domain.completeness import CLOCKS_APART_MS
from hub.store import schema as s
from hub.store.bulk import chunks
from protocol.timekeeping import Dated, Sample, date

Boot = tuple[int, bytes]
"""(device's id, boot id): one run of one device's CLOCK_BOOTTIME."""

EARLIEST_MS: Final = round(
    datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, tzinfo=UTC).timestamp() * 1000
)

SAME_EPOCH: Final = and_(
    s.heartbeats.c.device_id == s.epochs.c.device_id, s.heartbeats.c.epoch == s.epochs.c.epoch
)
"""Joins `heartbeats` to `epochs`."""

_SPANS_A_QUERY: Final = 200  # SQLite takes some 500 terms in one compound query


def believed(at_ms: int, received_ms: int) -> bool:
    """Whether something of which the hub had word at `received_ms` can have been at `at_ms`."""
    return EARLIEST_MS <= at_ms <= received_ms + CLOCKS_APART_MS


def is_believed(at_ms: ColumnElement[int], received_ms: Any) -> ColumnElement[bool]:
    """The same, as a condition."""
    return and_(at_ms >= EARLIEST_MS, at_ms <= received_ms + CLOCKS_APART_MS)


def samples_of(conn: Connection, moments: Iterable[tuple[Boot, int]]) -> dict[Boot, list[Sample]]:
    """By boot, in order, the trusted samples that can date `moments`, each (boot, boottime ms).

    Of a boot: those between its first and last moment, and the next one on either side.
    """
    spans: dict[Boot, tuple[int, int]] = {}
    for boot, boottime_ms in moments:
        low, high = spans.get(boot, (boottime_ms, boottime_ms))
        spans[boot] = (min(low, boottime_ms), max(high, boottime_ms))
    found: dict[Boot, list[Sample]] = defaultdict(list)
    for part in chunks(list(spans.items()), _SPANS_A_QUERY):
        for row in conn.execute(_samples_between(part)):
            found[row.device_id, row.boot_id].append(Sample(row.boottime_ms, row.wall_ms))
    return found


def date_by(
    samples: Sequence[Sample], boottime_ms: int, not_before_ms: int | None, received_ms: int
) -> Dated:
    """Date a moment by its boot's `samples`, which are in order; they may be none.

    What they say counts where it is believed; else it was some time until `received_ms`.
    """
    after = bisect_left(samples, boottime_ms, key=lambda each: each.boottime_ms)
    dated = date(boottime_ms, samples[max(after - 1, 0) : after + 1], None, received_ms)
    if dated.earliest_ms is not None and believed(dated.earliest_ms, received_ms):
        return dated
    return undated(not_before_ms, received_ms)


def undated(not_before_ms: int | None, received_ms: int) -> Dated:
    """Some time until it was received, and after `not_before_ms` where that makes sense."""
    if not_before_ms is not None and not_before_ms >= received_ms:
        return Dated(None, received_ms)
    return Dated(not_before_ms, received_ms)


def not_before(conn: Connection, epoch_ids: Iterable[int]) -> Mapping[int, int | None]:
    """By epoch's id: nothing in it was before this. None: not known.

    That is when its device was enrolled, or the last trusted time in the epoch before it.
    """
    e, h, parent = s.entries.c, s.heartbeats.c, s.epochs.alias("parent")
    last_entry = (
        select(e.wall_ms)
        .join(s.batches, s.batches.c.id == e.batch_id)
        .where(
            e.epoch_id == parent.c.id,
            e.seq <= s.epochs.c.parent_seq,
            e.trusted,
            ~s.batches.c.held,
            is_believed(e.wall_ms, s.batches.c.received_ms),
        )
        .order_by(e.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    last_heartbeat = (
        select(h.wall_ms)
        .where(
            h.device_id == parent.c.device_id,
            h.epoch == parent.c.epoch,
            h.head_seq <= s.epochs.c.parent_seq,
            h.trusted,
            ~h.held,
            is_believed(h.wall_ms, h.received_ms),
        )
        .order_by(h.boottime_ms.desc())
        .limit(1)
        .scalar_subquery()
    )
    found: dict[int, int | None] = {}
    for part in chunks(sorted(set(epoch_ids))):
        for row in conn.execute(
            select(s.epochs.c.id, s.devices.c.enrolled_at_ms, last_entry, last_heartbeat)
            .join(s.devices, s.devices.c.id == s.epochs.c.device_id)
            .outerjoin(
                parent,
                and_(
                    parent.c.device_id == s.epochs.c.device_id,
                    parent.c.epoch == s.epochs.c.parent_epoch,
                ),
            )
            .where(s.epochs.c.id.in_(part))
        ):
            epoch_id, *bounds = row
            found[epoch_id] = max((each for each in bounds if each is not None), default=None)
    return found


def _samples_between(spans: Iterable[tuple[Boot, tuple[int, int]]]) -> Any:
    number = s.epochs.c.opened_boottime_ms.type
    span = union_all(
        *(
            select(
                literal(device_id, s.epochs.c.device_id.type).label("device_id"),
                literal(boot_id, LargeBinary()).label("boot_id"),
                literal(low, number).label("low"),
                literal(high, number).label("high"),
            )
            for (device_id, boot_id), (low, high) in spans
        )
    ).cte("span")
    of_boot = and_(s.epochs.c.device_id == span.c.device_id, s.epochs.c.boot_id == span.c.boot_id)
    # An opening counts from the first batch on, which is what has it looked at.
    first_received = (
        select(func.min(s.batches.c.received_ms))
        .where(s.batches.c.epoch_id == s.epochs.c.id, ~s.batches.c.held)
        .scalar_subquery()
    )
    e, h = s.entries.c, s.heartbeats.c
    every = union_all(
        select(span, e.boottime_ms, e.wall_ms)
        .join(s.epochs, of_boot)
        .join(s.entries, e.epoch_id == s.epochs.c.id)
        .join(s.batches, s.batches.c.id == e.batch_id)
        .where(e.trusted, ~s.batches.c.held, is_believed(e.wall_ms, s.batches.c.received_ms)),
        select(span, h.boottime_ms, h.wall_ms)
        .join(s.epochs, of_boot)
        # "+ 0": later SQLite would otherwise begin with all heartbeats ever.
        .join(
            s.heartbeats, and_(h.device_id == s.epochs.c.device_id + 0, h.epoch == s.epochs.c.epoch)
        )
        .where(h.trusted, ~h.held, is_believed(h.wall_ms, h.received_ms)),
        select(span, s.epochs.c.opened_boottime_ms, s.epochs.c.opened_wall_ms)
        .join(s.epochs, of_boot)
        .where(
            s.epochs.c.opened_trusted,
            is_believed(s.epochs.c.opened_wall_ms, first_received),
            # which may set its clock wrong on purpose
            ~s.epochs.c.rehearsal,
        ),
    ).subquery("every")
    c = every.c
    boot = [c.device_id, c.boot_id]
    near = select(
        every,
        func.max(case((c.boottime_ms < c.low, c.boottime_ms)))
        .over(partition_by=boot)
        .label("below"),
        func.min(case((c.boottime_ms > c.high, c.boottime_ms)))
        .over(partition_by=boot)
        .label("above"),
    ).subquery("near")
    n = near.c
    return (
        select(n.device_id, n.boot_id, n.boottime_ms, func.min(n.wall_ms).label("wall_ms"))
        .where(
            or_(
                n.boottime_ms.between(n.low, n.high),
                n.boottime_ms == n.below,
                n.boottime_ms == n.above,
            )
        )
        .group_by(n.device_id, n.boot_id, n.boottime_ms)
        .order_by(n.device_id, n.boot_id, n.boottime_ms)
    )
