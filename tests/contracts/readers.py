"""What every reader driver promises (edge.readers), checked over a log of its events."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edge.readers import (
    CardGone,
    CardRead,
    CardSeen,
    CardUnreadable,
    ReaderDown,
    ReaderEvent,
    ReaderUp,
    Unreadable,
)


@dataclass
class EventLog:
    """A sink that keeps what it was told and notices calls that overlap."""

    events: list[ReaderEvent] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    overlapping: bool = False
    _busy: threading.Lock = field(default_factory=threading.Lock)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, event: ReaderEvent) -> None:
        if not self._busy.acquire(blocking=False):
            self.overlapping = True
            return
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
