"""Couriers carry signed batches of the journal to the hub, and its receipts back.

Here is what a courier and the owner of the journal say to each other; it knows no transport.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from protocol.batch import ReaderState
from protocol.journal import Stamp
from protocol.roster import Roster


@dataclass(frozen=True, slots=True)
class Opened:
    """The journal began an epoch; its first entry is durable."""

    epoch: bytes
    header_bytes: bytes


@dataclass(frozen=True, slots=True)
class Appended:
    """Everything of `epoch` up to `head` is durable."""

    epoch: bytes
    head: int


@dataclass(frozen=True, slots=True)
class Pruned:
    epoch: bytes
    first: int


@dataclass(frozen=True, slots=True)
class JournalState:
    """The recorder's statement: nothing was tapped before `at` that is not in the journal."""

    epoch: bytes
    head: int
    digest: bytes
    at: Stamp
    readers: tuple[ReaderState, ...]
    closing: bool = False
    """The device is retired: nothing comes after `head`."""


JournalEvent = Opened | Appended | Pruned | JournalState


class Told(Protocol):
    """Whoever wants to know what became durable."""

    def tell(self, event: JournalEvent) -> None:
        """Returns at once; called by the thread that owns the journal."""


class Everybody:
    """Tells each of several, in their order."""

    def __init__(self, listeners: Sequence[Told]) -> None:
        self._listeners = listeners

    def tell(self, event: JournalEvent) -> None:
        """Tells them all."""
        for each in self._listeners:
            each.tell(event)


class JournalOwner(Protocol):
    """What the courier asks of the thread that owns the journal."""

    def release(self, epoch: bytes, through: int) -> None: ...

    def new_generation(self, generation: int) -> None: ...

    def alarm(self, reason: str) -> None:
        """Journal and hub differ: for the doctor. May be said again and again."""

    def retire(self, order: bytes) -> None:
        """The hub, by this signed message, has told the edge to retire. May be said again."""

    def new_hub_key(self, seal: bytes) -> None:
        """The hub has another key (raw X25519) to which subjects are sealed from now on."""

    def new_roster(self, roster: Roster) -> None: ...

    def ask_state(self) -> None:
        """Answered by a `JournalState` to the courier, once all taps so far are recorded."""
