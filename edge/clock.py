"""The device's clocks, and whether its wall clock can be trusted.

A Pi has no battery clock: it wakes in 1970 or at the last saved time and may step by years when
the network comes. So order and intervals come from CLOCK_BOOTTIME, which never steps and counts
sleep, within a boot named by `boot_id`; the wall clock goes along with a word on its trust.
"""

import ctypes
import time
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID


class Clock(Protocol):
    """What the edge asks about time."""

    def boottime_ms(self) -> int:
        """CLOCK_BOOTTIME: milliseconds since this boot, sleep included."""

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC, right or wrong."""

    def trusted(self) -> bool:
        """Whether something has set the wall clock right since this boot."""

    def boot_id(self) -> bytes:
        """16 bytes that name this boot."""


class Trust(StrEnum):
    """Where the word on the wall clock's trust comes from."""

    AUTO = "auto"
    """From the kernel and systemd-timesyncd, see SystemClock.trusted."""
    ALWAYS = "always"
    """The operator vouches for it (a hardware clock, a machine set by other means)."""
    NEVER = "never"
    """The operator knows that it is wrong."""


_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_TIMESYNC_MARK: Final = Path("/run/systemd/timesync/synchronized")
_STA_UNSYNC: Final = 0x0040
_TIME_ERROR: Final = 5


class SystemClock:
    """The clocks of the Linux that this runs on."""

    def __init__(self, trust: Trust = Trust.AUTO) -> None:
        self._trust = trust
        self._boot_id = UUID(_BOOT_ID.read_text("ascii").strip()).bytes

    def boottime_ms(self) -> int:
        """CLOCK_BOOTTIME, see Clock."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def wall_ms(self) -> int:
        """CLOCK_REALTIME, see Clock."""
        return time.time_ns() // 1_000_000

    def trusted(self) -> bool:
        """With Trust.AUTO: whether the kernel's STA_UNSYNC is clear.

        The kernel boots with STA_UNSYNC set; chrony, ntpd and timesyncd clear it when they have
        set the time, and the kernel sets it again when they have been silent too long (the
        estimated error passes 16 s) or somebody sets the clock by hand. Only where the kernel does
        not say (some containers forbid to ask) timesyncd's mark counts, which stays until the next
        boot whatever happens to the clock.
        """
        match self._trust:
            case Trust.ALWAYS:
                return True
            case Trust.NEVER:
                return False
            case Trust.AUTO:
                synchronized = _kernel_synchronized()
                return _TIMESYNC_MARK.exists() if synchronized is None else synchronized

    def boot_id(self) -> bytes:
        """/proc/sys/kernel/random/boot_id as its 16 bytes."""
        return self._boot_id


class _Timeval(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("microseconds", ctypes.c_long))


class _Timex(ctypes.Structure):
    """struct timex, adjtimex(2), as 64-bit Linux lays it out; only `status` is read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("max_error", ctypes.c_long),
        ("estimated_error", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", _Timeval),
        ("tick", ctypes.c_long),
        ("rest", ctypes.c_byte * 256),
    )


_libc: Final = ctypes.CDLL(None)


def _kernel_synchronized() -> bool | None:
    """Whether STA_UNSYNC is clear; None where the kernel does not say."""
    timex = _Timex()  # modes = 0: only read
    state: int = _libc.adjtimex(ctypes.byref(timex))
    if state == -1:
        return None
    return state != _TIME_ERROR and not timex.status & _STA_UNSYNC
