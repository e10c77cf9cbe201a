"""Keyboard wedges: readers that type a card's number and Enter, like a keyboard (evdev).

Promises what edge.readers promises, and: nothing that such a reader types reaches a console or
another program (an exclusive grab; without one the reader is not used); it works within seconds
after it is plugged in. A card cannot be seen to leave: CardGone follows
the outcome at once.

A wedge tells a UID in digits and proves nothing (Assurance.UID). Whoever plugs a keyboard in at the
configured place can type numbers; a line that pauses for longer than `LONGEST_PAUSE_S` is none.
"""

import errno
import fcntl
import logging
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge.cards import CardRefused, CardUnusable, Reading
from edge.cards.uid import reading_of
from edge.readers import (
    CardGone,
    CardRead,
    CardSeen,
    CardUnreadable,
    Down,
    ReaderDown,
    ReaderHealth,
    ReaderUp,
    Unreadable,
)
from edge.readers.configured import ConfiguredReaders
from edge.readers.supervised import STARTING, Outlet
from protocol.credential import CardNumberFormat, InvalidCredentialError, uid_bytes

LONGEST_PAUSE_S: Final = 2.0
"""Between two keys of one number; a wedge takes milliseconds."""
FRESH_S: Final = 0.2
"""After such a pause keys are another number's, where the end of one was lost."""
HALF_S: Final = 0.1
"""So soon after the device was taken, its first line may be the rest of one."""
LONGEST_LINE: Final = 32
"""A UID of ten bytes in hex with a separator between each two would be 29."""

EVENT: Final = struct.Struct("@llHHi")
"""struct input_event of <linux/input.h>: time (two longs), type, code, value."""
EV_SYN: Final = 0x00
EV_KEY: Final = 0x01
SYN_DROPPED: Final = 3
"""The kernel had no room: keys are missing."""
_EVIOCGRAB: Final = 0x40044590
_RELEASED, _PRESSED = 0, 1

ENTER: Final = frozenset({28, 96})
"""KEY_ENTER, KEY_KPENTER."""
SHIFT: Final = frozenset({42, 54})
_SILENT: Final = frozenset({58, 69})
"""Caps lock, num lock: some wedges press them around a number."""
_DIGITS: Final = {
    **dict(zip(range(2, 12), "1234567890", strict=True)),
    # the keypad
    **dict(zip((71, 72, 73, 75, 76, 77, 79, 80, 81, 82), "7894561230", strict=True)),
}
_LETTERS: Final = {30: "A", 48: "B", 46: "C", 32: "D", 18: "E", 33: "F"}
_SEPARATORS: Final = {57: " ", 12: "-"}
_SHIFTED: Final = {**_LETTERS, 39: ":"}
_PLAIN: Final = {**_DIGITS, **_LETTERS, **_SEPARATORS}

_RETRY_S: Final = 1.0
_LOOK_MS: Final = 200
"""How often it looks, without a key, whether to stop or to give a line up."""
_CHUNK: Final = 64 * EVENT.size

_log = logging.getLogger(__name__)


class Typed:
    """Keys in, lines out: pure, `now_s` is any monotonic time.

    `take` gives the line that a key ended, "" for one that can be no number, None while there is
    none. An Enter without a line is none. A line that begins before `whole_from_s` can be none.
    """

    def __init__(self, whole_from_s: float = float("-inf")) -> None:
        self._whole_from_s = whole_from_s
        self._line = ""
        self._broken = False
        self._dropped = False
        self._began = False
        self._shift = False
        self._last_s = 0.0

    def give_up(self, now_s: float) -> bool:
        """Whether a line was begun and not gone on with; then it is forgotten."""
        if not self._began or now_s - self._last_s <= LONGEST_PAUSE_S:
            return False
        told = not self._broken
        self._forget()
        return told

    def take(self, kind: int, code: int, value: int, now_s: float) -> str | None:
        """One event, as struct input_event has it."""
        if (kind, code) == (EV_SYN, SYN_DROPPED):
            self._shift = False
            self._dropped = True
            return self._spoil(now_s)
        if kind != EV_KEY:
            return None
        if code in SHIFT:
            self._shift = value != _RELEASED
            return None
        if value != _PRESSED or code in _SILENT:
            return None
        if self._dropped and now_s - self._last_s > FRESH_S:
            self._forget()
        if code in ENTER:
            line, told = self._line, self._began and not self._broken
            self._forget()
            return line if told else None
        char = (_SHIFTED if self._shift else _PLAIN).get(code)
        half = not self._began and now_s < self._whole_from_s
        if char is None or half or len(self._line) == LONGEST_LINE:
            return self._spoil(now_s)
        self._began = True
        self._last_s = now_s
        if not self._broken:
            self._line += char
        return None

    def _spoil(self, now_s: float) -> str | None:
        """The line can be no number: that is told once, and the rest of it passed over."""
        told = not self._broken
        self._began = self._broken = True
        self._last_s = now_s
        return "" if told else None

    def _forget(self) -> None:
        self._shift = False  # its release may be lost, and would spoil all lines to come
        self._line = ""
        self._began = self._broken = self._dropped = False


@dataclass(frozen=True, slots=True)
class Wedge:
    """One reader: its device, best by /dev/input/by-id, what it types, and what it is called."""

    device: Path
    format: CardNumberFormat = CardNumberFormat.DEC10
    name: str = ""

    @property
    def reader(self) -> str:
        """The name that its events have."""
        return self.name or f"wedge {self.device.name}"


def read_line(line: str, number_format: CardNumberFormat) -> Reading | Unreadable:
    """What a typed line comes to."""
    try:
        return reading_of(uid_bytes(line, number_format))
    except CardRefused as refused:
        return Unreadable.because(refused.reason)
    except (InvalidCredentialError, CardUnusable):
        return Unreadable.BAD_ANSWER


def open_device(path: Path) -> int:
    """A descriptor of the event device, which types to nobody else from now on. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _EVIOCGRAB, 1)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class WedgeReaders(ConfiguredReaders):
    """The driver. `open_` gives a descriptor that can be polled (for tests)."""

    def __init__(
        self, wedges: Sequence[Wedge], *, open_: Callable[[Path], int] = open_device
    ) -> None:
        outlet = Outlet()
        super().__init__("wedge", outlet, [_Reader(each, outlet, open_) for each in wedges])


class _Reader:
    """One wedge: turns its keys into events that keep the contract's order."""

    def __init__(self, wedge: Wedge, outlet: Outlet, open_: Callable[[Path], int]) -> None:
        self._wedge = wedge
        self._name = wedge.reader
        self._emit = outlet.emit
        self._open = open_
        self._generation = 0
        self._up = False
        self._trouble = STARTING
        self._logged = ""
        self._stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"reader {self._name}", daemon=True)

    def stop(self) -> None:
        """Ends the thread soon, which the caller may join."""
        self._stopped.set()

    def health(self) -> ReaderHealth:
        """How the reader is now; from any thread."""
        return ReaderHealth(self._name, self._up, "" if self._up else self._trouble)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                descriptor = self._open(self._wedge.device)
                try:
                    self._works()
                    self._follow(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                self._down(*explained(error, self._wedge.device))
            except Exception as error:  # noqa: BLE001 - else no card would be seen again
                _log.exception("%s: failed", self._name)
                self._down(Down.FAILED, f"failed ({error!r})")
            self._stopped.wait(_RETRY_S)

    def _follow(self, descriptor: int) -> None:
        """Takes keys until stopped. Raises OSError when the line is lost."""
        # Ten digits show by themselves that they are all.
        ten = self._wedge.format in {CardNumberFormat.DEC10, CardNumberFormat.DEC10_REVERSED}
        typed = Typed() if ten else Typed(time.monotonic() + HALF_S)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        pending = b""
        while not self._stopped.is_set():
            ready = poll.poll(_LOOK_MS)
            now_s = time.monotonic()
            if not ready:
                if typed.give_up(now_s):
                    self._card(Unreadable.BAD_ANSWER)
                continue
            try:
                came = os.read(descriptor, _CHUNK)
            except BlockingIOError:
                continue
            if not came:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            pending += came
            whole = len(pending) - len(pending) % EVENT.size
            for _, _, kind, code, value in EVENT.iter_unpack(pending[:whole]):
                line = typed.take(kind, code, value, now_s)
                if line is not None:
                    self._card(read_line(line, self._wedge.format))
            pending = pending[whole:]

    def _card(self, outcome: Reading | Unreadable) -> None:
        self._generation += 1
        at_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        name, generation = self._name, self._generation
        self._emit(CardSeen(name, generation, at_ms))
        if isinstance(outcome, Unreadable):
            _log.info("%s: a number was not taken: %s", name, outcome.value)
            self._emit(CardUnreadable(name, generation, at_ms, outcome))
        else:
            self._emit(CardRead(name, generation, at_ms, outcome.credential, outcome.assurance))
        self._emit(CardGone(name, generation))

    def _works(self) -> None:
        self._up = True
        self._logged = ""
        _log.info("%s: works", self._name)
        self._emit(ReaderUp(self._name))

    def _down(self, reason: Down, what: str) -> None:
        self._trouble = what
        if what != self._logged and not self._stopped.is_set():
            self._logged = what
            _log.warning("%s: %s", self._name, what)
        if self._up:
            self._up = False
            self._emit(ReaderDown(self._name, reason))


def explained(error: OSError, device: Path) -> tuple[Down, str]:
    """Why `device` cannot be used, and the same in words."""
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO | errno.EIO:
            return Down.UNPLUGGED, f"{device}: the reader is not connected"
        case errno.EACCES | errno.EPERM:
            return (
                Down.FAILED,
                f"{device}: this user may not read it; it must be in the group input",
            )
        case errno.EBUSY:
            return Down.FAILED, f"{device}: another program has it for itself"
        case errno.ENOTTY | errno.EINVAL:
            return Down.FAILED, f"{device}: is no input device"
        case _:
            return Down.FAILED, f"{device}: {error.strerror}"
