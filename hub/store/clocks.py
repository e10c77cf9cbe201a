"""What is known of the devices' clocks: the trusted samples that date what an untrusted one saw.

Reads only. That a boot's samples date its other moments is `protocol.timekeeping`.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import Connection, and_, exists, func, or_, select

from hub.store import schema as s
from protocol.timekeeping import Dated, Sample, date

Boot = tuple[int, bytes]
"""(device's id, boot id): one run of one device's CLOCK_BOOTTIME."""

SAME_EPOCH: Final = and_(
    s.heartbeats.c.device_id == s.epochs.c.device_id, s.heartbeats.c.epoch == s.epochs.c.epoch
)
"""Joins `heartbeats` to `epochs`."""


def samples_of(conn: Connection, moments: Iterable[tuple[Boot, int]]) -> dict[Boot, list[Sample]]:
    """By boot, in order, the trusted samples that can date `moments`, each (boot, boottime ms).

    Of a boot: those between its first and last moment, and the next one on either side.
    """
    spans: dict[Boot, tuple[int, int]] = {}
    for boot, boottime_ms in moments:
        low, high = spans.get(boot, (boottime_ms, boottime_ms))
        spans[boot] = (min(low, boottime_ms), max(high, boottime_ms))
    return {boot: _samples_between(conn, boot, *span) for boot, span in spans.items()}


def date_by(samples: Sequence[Sample], boottime_ms: int, not_after_ms: int | None) -> Dated:
    """Date a moment by its boot's `samples`, which are in order; they may be none."""
    after = bisect_left(samples, boottime_ms, key=lambda each: each.boottime_ms)
    return date(boottime_ms, samples[max(after - 1, 0) : after + 1], None, not_after_ms)


def _samples_between(conn: Connection, boot: Boot, low: int, high: int) -> list[Sample]:
    same_boot = and_(s.epochs.c.device_id == boot[0], s.epochs.c.boot_id == boot[1])
    every = (
        select(s.entries.c.boottime_ms, s.entries.c.wall_ms)
        .join(s.epochs, s.epochs.c.id == s.entries.c.epoch_id)
        .where(same_boot, s.entries.c.trusted)
        .union_all(
            select(s.heartbeats.c.boottime_ms, s.heartbeats.c.wall_ms)
            .join(s.epochs, SAME_EPOCH)
            .where(same_boot, s.heartbeats.c.trusted),
            # An opening counts from the first batch on, which is what has it looked at.
            select(s.epochs.c.opened_boottime_ms, s.epochs.c.opened_wall_ms).where(
                same_boot,
                s.epochs.c.opened_trusted,
                exists().where(s.batches.c.epoch_id == s.epochs.c.id),
            ),
        )
        .cte("every")
    )
    boottime = every.c.boottime_ms
    below = select(func.max(boottime)).where(boottime < low).scalar_subquery()
    above = select(func.min(boottime)).where(boottime > high).scalar_subquery()
    rows = conn.execute(
        select(boottime, func.min(every.c.wall_ms))
        .where(or_(boottime.between(low, high), boottime == below, boottime == above))
        .group_by(boottime)
        .order_by(boottime)
    )
    return [Sample(*row) for row in rows]
