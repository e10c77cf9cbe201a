"""When something happened, from clocks that may be wrong.

CLOCK_BOOTTIME never steps within a boot, so one trusted reading of the wall clock dates the whole
boot, before and after it. A boot that never saw a trusted clock gives an interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Sample:
    """A trusted reading of both clocks of one boot, in ms (wall: UTC since the Unix epoch)."""

    boottime_ms: int
    wall_ms: int


@dataclass(frozen=True, slots=True)
class Dated:
    """When it happened, UTC ms: between the two, which are equal where it is known; None: open."""

    earliest_ms: int | None
    latest_ms: int | None

    @property
    def exact(self) -> bool:
        return self.earliest_ms is not None and self.earliest_ms == self.latest_ms


def date(
    boottime_ms: int,
    samples: Sequence[Sample],
    not_before_ms: int | None,
    not_after_ms: int | None,
) -> Dated:
    """Dates a moment of a boot by the sample nearest to it on the boot's own clock.

    Without a sample: the interval from `not_before_ms` (the previous boot's last dated event) to
    `not_after_ms` (when the hub received it). Ties go to the earlier sample, so that the answer
    does not depend on the order of `samples`.
    """
    if not samples:
        return Dated(not_before_ms, not_after_ms)
    nearest = min(samples, key=lambda each: (abs(each.boottime_ms - boottime_ms), each))
    at = nearest.wall_ms + boottime_ms - nearest.boottime_ms
    return Dated(at, at)
