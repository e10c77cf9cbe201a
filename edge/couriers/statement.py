"""How far the journal is whole, asked of the recorder: for what is carried without a network."""

import threading
from collections.abc import Callable
from typing import Final

from edge.couriers import JournalEvent, JournalState

STATEMENT_S: Final = 5.0


class Statement:
    """Tell it what the recorder tells; any thread may ask."""

    def __init__(self, ask: Callable[[], None]) -> None:
        """`ask` makes the recorder tell a JournalState."""
        self._ask = ask
        self._heard = threading.Condition()
        self._latest: JournalState | None = None
        self._count = 0

    def tell(self, event: JournalEvent) -> None:
        """Keeps what is asked for."""
        if isinstance(event, JournalState):
            with self._heard:
                self._latest, self._count = event, self._count + 1
                self._heard.notify_all()

    def ask(self, timeout_s: float = STATEMENT_S) -> JournalState | None:
        """A statement that came after this was called; None where none does in time."""
        with self._heard:
            before = self._count
        self._ask()
        with self._heard:
            came = self._heard.wait_for(lambda: self._count > before, timeout_s)
            return self._latest if came else None
