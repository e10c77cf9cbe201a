"""A driver without hardware: it plays a script of readers and cards.

For tests and rehearsals. It keeps the same contract as every driver (see edge.readers), so what
is built on it holds on real readers. It reads a card at once and never blocks.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edge.readers import (
    CardGone,
    CardRead,
    CardSeen,
    CardUnreadable,
    Down,
    Health,
    ReaderDown,
    ReaderEvent,
    ReaderHealth,
    ReaderUp,
    Sink,
    Unreadable,
)
from protocol.credential import Assurance, Credential

_STOP_S = 3.0


@dataclass(frozen=True, slots=True)
class Plug:
    """The reader is connected and works."""

    reader: str


@dataclass(frozen=True, slots=True)
class Unplug:
    """The reader is taken away, with the card on it."""

    reader: str
    reason: Down = Down.UNPLUGGED


@dataclass(frozen=True, slots=True)
class Present:
    """A card is held to the reader, in place of the one there; `card` is its identity, or why it
    has none.
    """

    reader: str
    card: Credential | Unreadable


@dataclass(frozen=True, slots=True)
class Remove:
    """The card is taken away."""

    reader: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing happens for `ms`."""

    ms: int


Step = Plug | Unplug | Present | Remove | Pause


@dataclass(slots=True)
class _Slot:
    generation: int = 0
    card: bool = False


class SimulatedReaders:
    """The driver. `script` may be endless and may block; `boottime_ms` gives CLOCK_BOOTTIME.

    A step that makes no sense (a card on a reader that is not connected) is skipped, as reality
    would have it.
    """

    def __init__(self, script: Iterable[Step], boottime_ms: Callable[[], int]) -> None:
        self._script = script
        self._boottime_ms = boottime_ms
        self._slots: dict[str, _Slot] = {}
        self._generations: dict[str, int] = {}
        self._sink: Sink | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._play, name="simulated", daemon=True)

    def start(self, sink: Sink) -> None:
        """Begins to play the script to `sink`; returns at once."""
        self._sink = sink
        self._thread.start()

    def stop(self) -> None:
        """Ends the play; afterwards the sink is not called any more."""
        self._stopped.set()
        with self._lock:
            self._sink = None
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)

    def health(self) -> Health:
        """The readers that are connected."""
        with self._lock:
            readers = tuple(ReaderHealth(name, up=True) for name in self._slots)
        return Health("simulated", readers, "" if readers else "no reader is connected")

    def alive(self) -> bool:
        """Always: a script may end."""
        return True

    def _play(self) -> None:
        for step in self._script:
            if self._stopped.is_set():
                return
            if isinstance(step, Pause):
                self._stopped.wait(step.ms / 1000)
                continue
            with self._lock:
                if self._sink is None:
                    return
                for event in self._events(step):
                    self._sink(event)

    def _events(self, step: Plug | Unplug | Present | Remove) -> list[ReaderEvent]:
        reader = step.reader
        slot = self._slots.get(reader)
        if slot is None:
            if not isinstance(step, Plug):
                return []
            self._slots[reader] = _Slot(self._generations.get(reader, 0))
            return [ReaderUp(reader)]
        match step:
            case Plug():
                return []
            case Unplug(_, reason):
                del self._slots[reader]
                return [*self._gone(reader, slot), ReaderDown(reader, reason)]
            case Remove():
                return self._gone(reader, slot)
            case Present(_, card):
                gone = self._gone(reader, slot)
                slot.card = True
                slot.generation += 1
                self._generations[reader] = slot.generation
                return [*gone, *self._tap(reader, slot.generation, card)]

    def _tap(
        self, reader: str, generation: int, card: Credential | Unreadable
    ) -> list[ReaderEvent]:
        at_ms = self._boottime_ms()
        outcome: ReaderEvent
        if isinstance(card, Unreadable):
            outcome = CardUnreadable(reader, generation, at_ms, card)
        else:
            outcome = CardRead(reader, generation, at_ms, card, Assurance.UID)
        return [CardSeen(reader, generation, at_ms), outcome]

    def _gone(self, reader: str, slot: _Slot) -> list[ReaderEvent]:
        if not slot.card:
            return []
        slot.card = False
        return [CardGone(reader, slot.generation)]
