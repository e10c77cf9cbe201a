"""How the device is now, for whoever shows it: frozen snapshots, taken without waiting for anybody.

Here is no number of a card and no name: what a screen at the door may know.
"""

from dataclasses import dataclass

from protocol.batch import ReaderState
from protocol.roster import Board, Roster


@dataclass(frozen=True, slots=True)
class Window:
    """A meeting's check-in (UTC ms, both ends included), and what may be shown of it."""

    opens_ms: int
    closes_ms: int
    board: Board | None


@dataclass(frozen=True, slots=True)
class Heard:
    """What the hub said last of the meetings here, and when: its age is told by CLOCK_BOOTTIME."""

    windows: tuple[Window, ...]
    issued_ms: int
    """By the hub's clock."""
    boottime_ms: int
    """When it came, by this device's."""

    @classmethod
    def of(cls, roster: Roster, boottime_ms: int) -> "Heard":
        """What of a roster is no secret."""
        windows = (Window(each.opens_ms, each.closes_ms, each.board) for each in roster.meetings)
        return cls(tuple(windows), roster.issued_ms, boottime_ms)


@dataclass(frozen=True, slots=True)
class RecorderStatus:
    """The recorder at `boottime_ms`."""

    boottime_ms: int
    wall_ms: int
    clock_trusted: bool
    readers: tuple[ReaderState, ...]
    failure: str
    """Why nothing can be recorded, in English; empty while it can."""
    stalled: bool
    """The storage has not answered for a while."""
    heard: Heard | None
    taps: int | None
    """Recorded since check-in opened; since the start where it is not known whether any has;
    None where none is open."""


@dataclass(frozen=True, slots=True)
class CourierStatus:
    """The way to the hub."""

    connected: bool
    """To the broker."""
    hub_online: bool | None
    """None: nothing was heard of it since the connection."""
    unreceipted: int
    """Entries that the hub has not said to have."""
    alarm: str
    """Why a receipt was not followed, where that means that histories differ."""
