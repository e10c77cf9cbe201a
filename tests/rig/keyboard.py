"""A keyboard wedge without /dev/input: typed keys come as struct input_event through a socket."""

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Final

from edge.readers.wedge import EV_KEY, EV_SYN, EVENT

_KEYS: Final = {
    **{digit: 2 + at for at, digit in enumerate("1234567890")},
    **dict(zip("ABCDEF", (30, 48, 46, 32, 18, 33), strict=True)),
    "\n": 28,
    " ": 57,
    "-": 12,
    ";": 39,
    "G": 34,
}
_SHIFT: Final = 42


def key(code: int, value: int, kind: int = EV_KEY) -> bytes:
    """One event and the SYN_REPORT that follows it."""
    return EVENT.pack(0, 0, kind, code, value) + EVENT.pack(0, 0, EV_SYN, 0, 0)


def keys(text: str) -> bytes:
    """What typing it sends; capital letters with shift."""
    events = b""
    for char in text:
        code = _KEYS[char]
        down = key(code, 1) + key(code, 0)
        events += key(_SHIFT, 1) + down + key(_SHIFT, 0) if char.isalpha() else down
    return events


def dec10(uid: str) -> str:
    """A UID of four bytes as the usual wedge types it."""
    return f"{int.from_bytes(bytes.fromhex(uid), 'little'):010d}"


class Keyboard:
    """One device. `open` stands in for opening it: give it to the driver."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plugged = True
        self._held: socket.socket | None = None
        self.opened = 0

    def open(self, path: Path) -> int:
        with self._lock:
            if not self._plugged:
                raise FileNotFoundError(2, os.strerror(2), str(path))
            if self._held is not None:
                self._held.close()
            self._held, theirs = socket.socketpair()
            self.opened += 1
            return theirs.detach()

    def send(self, events: bytes) -> None:
        """What nobody reads is lost, as from a keyboard."""
        with self._lock, contextlib.suppress(OSError):
            if self._held is not None:
                self._held.sendall(events)

    def type(self, text: str) -> None:
        self.send(keys(text))

    def unplug(self) -> None:
        with self._lock:
            self._plugged = False
            if self._held is not None:
                self._held.close()
                self._held = None

    def plug(self) -> None:
        with self._lock:
            self._plugged = True
