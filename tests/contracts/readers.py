"""What every reader driver promises (edge.readers), checked over a log of its events, and what a
driver needs so that tests/contracts/test_readers.py can put it to the proof: a `Harness`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from edge.readers import (
    CardGone,
    CardRead,
    CardSeen,
    CardUnreadable,
    ReaderDown,
    ReaderEvent,
    Readers,
    ReaderUp,
    Unreadable,
)

OUTCOME_S = 3.0
"""A card that was seen has an outcome after this long, come what may; read bounds are about 1 s."""


class Harness(Protocol):
    """A driver that is not started yet, on readers of the rig, and a hand that holds cards to them.

    Made without arguments for each test, and closed after it. `place` counts the readers from 0;
    all are plugged in, and nothing lies on them. Every method returns at once and may be called
    whether the driver runs or not. UIDs are upper-case hex of four bytes.
    """

    places: ClassVar[int]
    """How many readers there are; more than one wherever the driver can serve more."""
    tells_leaving: ClassVar[bool]
    """Whether the driver knows how long a card lies there; if not, it is gone once it is read."""
    can_unplug: ClassVar[bool]
    can_fall_silent: ClassVar[bool]
    needs_servers: ClassVar[bool]
    """Whether it starts real servers."""

    @property
    def readers(self) -> Readers:
        """The driver."""

    def name(self, place: int) -> str:
        """The reader's name in the driver's events."""

    def present(self, uid: str, place: int = 0) -> None:
        """Holds a card to the reader, in place of one that lies there: no pause between them."""

    def remove(self, place: int = 0) -> None:
        """Takes away the card, if any."""

    def unplug(self, place: int = 0) -> None:
        """Takes the reader away, also with a card on it or while it is silent."""

    def replug(self, place: int = 0) -> None:
        """Brings the reader back; the card, if one was there, is not there any more."""

    def silence(self, place: int = 0) -> None:
        """From now on nothing at the reader answers: a card that says nothing lies there, or the
        reader itself says nothing.
        """

    def speak(self, place: int = 0) -> None:
        """Ends the silence; no card is there then."""

    def close(self) -> None:
        """Gives back everything but the driver, which is stopped already."""


@dataclass
class EventLog:
    """A sink that keeps what it was told and notices calls that overlap.

    `slow_s` is how long each call takes: the slower, the surer that others overlap with it.
    """

    events: list[ReaderEvent] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    slow_s: float = 0
    overlapping: bool = False
    _busy: threading.Lock = field(default_factory=threading.Lock)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, event: ReaderEvent) -> None:
        if not self._busy.acquire(blocking=False):
            self.overlapping = True
            return
        if self.slow_s:
            time.sleep(self.slow_s)
        with self._changed:
            self.events.append(event)
            self.at.append(time.monotonic())
            self._changed.notify_all()
        self._busy.release()

    def wait_for(self, holds: Callable[[list[ReaderEvent]], bool], seconds: float = 10) -> None:
        """Waits until `holds` of the events so far, or fails and shows them."""
        with self._changed:
            if not self._changed.wait_for(lambda: holds(self.events), seconds):
                story = "\n".join(map(str, self.events))
                raise AssertionError(f"not within {seconds} s:\n{story}")

    def of(self, reader: str) -> list[ReaderEvent]:
        return [event for event in self.events if event.reader == reader]

    def numbers(self, reader: str | None = None) -> list[str]:
        """The values read, in their order."""
        return [
            event.credential.value
            for event in self.events
            if isinstance(event, CardRead) and reader in {None, event.reader}
        ]

    def unreadable(self, reader: str | None = None) -> list[Unreadable]:
        return [
            event.reason
            for event in self.events
            if isinstance(event, CardUnreadable) and reader in {None, event.reader}
        ]


def check_contract(log: EventLog) -> None:
    """Asserts all of the contract that a finished log can show."""
    assert not log.overlapping
    for reader in {event.reader for event in log.events}:
        _check_reader(log.of(reader))
    _check_bound(log)


def _check_bound(log: EventLog) -> None:
    """Outcomes follow in bounded time; one that stop cut off was not overdue either."""
    seen_at: dict[str, float] = {}
    for event, at in zip(log.events, log.at, strict=True):
        match event:
            case CardSeen():
                seen_at[event.reader] = at
            case CardRead() | CardUnreadable():
                took = at - seen_at.pop(event.reader)
                assert took < OUTCOME_S, f"{event} came after {took} s"
            case _:
                pass


def _check_reader(events: list[ReaderEvent]) -> None:
    up = False
    seen: CardSeen | None = None
    outcome = False
    last_ms = 0
    for event in events:
        match event:
            case ReaderUp():
                assert not up, f"{event} while up"
                up = True
            case ReaderDown():
                assert up, f"{event} while down"
                assert seen is None, f"{event} before CardGone of {seen}"
                up = False
            case CardSeen():
                assert up, f"{event} while down"
                assert seen is None, f"{event} before CardGone of {seen}"
                assert event.boottime_ms >= last_ms, f"{event} goes back in time"
                seen, outcome, last_ms = event, False, event.boottime_ms
            case CardRead() | CardUnreadable():
                assert seen is not None, f"{event} without CardSeen"
                assert not outcome, f"{event} is a second outcome"
                assert (event.generation, event.boottime_ms) == (seen.generation, seen.boottime_ms)
                outcome = True
            case CardGone():
                assert seen is not None, f"{event} without CardSeen"
                assert event.generation == seen.generation
                assert outcome, f"{event} before an outcome"
                seen = None
