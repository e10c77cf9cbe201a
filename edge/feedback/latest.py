"""A box for the latest thing alone: a light that comes late is a light for the wrong person."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """What is put in replaces what waits; nobody who puts waits.

    While it is held, nothing is given out, and whoever asks for something newer is told so.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._held = False
        self._closed = False

    def put(self, item: T) -> None:
        """Replaces what waits."""
        with self._changed:
            self._item = item
            self._changed.notify_all()

    def close(self) -> None:
        """Whoever takes is given nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def hold(self) -> None:
        """Something else goes before, until the release."""
        with self._changed:
            self._held = True
            self._changed.notify_all()

    def release(self) -> None:
        """Ends the hold, if there is one."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Held for as long as this lasts."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def take(self, within_s: float | None = None) -> T | None:
        """Waits for the next, without end or up to so long, and takes it out; None once closed, and
        where nothing came in time.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or (self._item is not None and not self._held), within_s
            )
            if self._closed or self._held:
                return None
            item, self._item = self._item, None
            return item

    def newer(self, within_s: float) -> bool:
        """Waits up to so long; whether what was taken has to end: for a newer one, because the box
        is held or because it is closed.
        """
        with self._changed:
            return self._changed.wait_for(
                lambda: self._closed or self._held or self._item is not None, max(0.0, within_s)
            )
