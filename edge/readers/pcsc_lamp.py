"""The lamp and buzzer of one PC/SC reader, beside the reading of its cards and never before it.

A thread with a PC/SC context of its own plays the latest outcome; a newer one, or a card that is
noticed, ends what plays. What goes wrong is told once, as the lamp's trouble and no card's.

While a command to a reader lasts, pcscd notices no card at it. So only single short commands are
sent, and a lamp whose commands take longer than those of any known kind should is left alone for a
minute. Other readers never notice.

It does nothing for a reader of a kind that edge.feedback.reader does not know.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import smartcard.scard

from edge.feedback import Outcome
from edge.feedback.latest import Latest
from edge.feedback.reader import Lamp, lamp_of
from edge.readers.lines import Signal
from edge.readers.pcsc_errors import SUCCESS, Kind, explain, meaning, unsigned

scard: Any = smartcard.scard  # it has no types

_ESCAPE: Final = 0x42000001
"""SCARD_CTL_CODE(1), as libccid has it: the bytes go to the reader and not to the card."""
_REFUSED: Final = 0x80100016
"""SCARD_E_NOT_TRANSACTED, what pcscd makes of a driver's no."""
_UNSUPPORTED: Final = frozenset({0x8010001F, 0x80100022})
"""SCARD_E_UNSUPPORTED_FEATURE in older and in newer pcscd."""
_PASSING: Final = frozenset({Kind.SERVICE, Kind.READER, Kind.REMOVED, Kind.BUSY, Kind.TIME_OUT})
"""Not the lamp's doing: told elsewhere, or no trouble at all."""
_LATE_MS: Final = 2_000
"""A light that comes later is a light for the next person."""
_DARK_MS: Final = 60
"""Between two outcomes, so that the same colour twice is seen as two."""
_FORGOTTEN_S: Final = 1.0
"""A lamp that was left on because a card came is put out after this, if nothing new is shown."""
_TOO_LONG_S: Final = 0.35
"""The longest command is a beep of 0.2 s."""
_REST_S: Final = 60.0

NOT_ALLOWED: Final = (
    "the driver passes no escape commands on; set ifdDriverOptions to 0x0001 in "
    "/etc/libccid_Info.plist and start pcscd anew"
)


class LampError(Exception):
    """A command was not carried out; `code` is PC/SC's result, 0 where that was in order."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


class LampRefusedError(LampError):
    """The reader itself said no."""


def start(reader: str, signals: Latest[Signal], tell: Callable[[str], None]) -> None:
    """Begins to show `signals` by the reader's lamp, if it has one that is known.

    `tell` takes a trouble in words, and "" when it is over; it is called by another thread.
    """
    lamp = lamp_of(reader)
    if lamp is not None:
        player = _Player(reader, lamp, signals, tell)
        threading.Thread(target=player.run, name="lamp", daemon=True).start()


class _Player:
    def __init__(
        self, reader: str, lamp: Lamp, signals: Latest[Signal], tell: Callable[[str], None]
    ) -> None:
        self._reader = reader
        self._lamp = lamp
        self._signals = signals
        self._tell = tell
        self._trouble = ""
        self._lit = False
        self._hushed = lamp.hush is None
        self._escapes = True
        self._rests_until = float("-inf")

    def run(self) -> None:
        while True:
            self._show(self._signals.take(_FORGOTTEN_S if self._lit else None))

    def _show(self, signal: Signal | None) -> None:
        """Shows it; without one, puts out what an ended outcome left on."""
        if time.monotonic() < self._rests_until:
            self._lit = False
            return
        try:
            with _link(self._reader) as link:
                if not self._hushed and self._lamp.hush is not None:
                    with suppress(LampRefusedError):  # it can show all the same
                        self._send(link, self._lamp.hush)
                    self._hushed = True
                if self._lit:
                    self._put_out(link)
                if signal is not None and not _late(signal):
                    self._play(link, Outcome[signal.outcome])
        except LampError as error:
            self._lit = False
            if meaning(error.code).kind not in _PASSING:
                self._note(str(error))
        except Exception as error:  # noqa: BLE001 - a lamp is no reason to end
            self._note(repr(error))

    def _put_out(self, link: "_Link") -> None:
        self._send(link, self._lamp.dark)
        self._lit = False
        self._signals.newer(_DARK_MS / 1000)

    def _play(self, link: "_Link", outcome: Outcome) -> None:
        due = time.monotonic()
        for step in self._lamp.steps(outcome):
            if step.command is not None:
                self._send(link, step.command)
                self._lit = step.lit
            due += step.ms / 1000
            if self._signals.newer(due - time.monotonic()):
                return

    def _send(self, link: "_Link", command: bytes) -> None:
        try:
            self._pass(link, command)
        finally:
            if link.took_s > _TOO_LONG_S:
                self._rests_until = time.monotonic() + _REST_S
        if link.took_s > _TOO_LONG_S:
            words = f"a command took {link.took_s:.1f} s; it is left alone for a minute"
            raise LampError(0, words)
        if self._escapes:
            self._note("")

    def _pass(self, link: "_Link", command: bytes) -> None:
        if self._escapes:
            try:
                link.escape(command)
            except LampError as error:
                if error.code not in {_REFUSED, *_UNSUPPORTED}:
                    raise
                if not self._lamp.by_card:
                    raise LampError(error.code, NOT_ALLOWED) from error
                self._escapes = False
                self._note(f"it shows only while the card is there: {NOT_ALLOWED}")
            else:
                return
        link.by_card(command)

    def _note(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._tell(trouble)


class _Link:
    """A way to the reader, for one outcome; `took_s` is how long the latest command lasted."""

    def __init__(self, context: int, reader: str) -> None:
        self._context = context
        self._reader = reader
        self._direct: int | None = None
        self.took_s = 0.0

    def escape(self, command: bytes) -> None:
        """Passes `command` to the reader itself, whether a card is there or not."""
        if self._direct is None:
            code, card, _ = scard.SCardConnect(
                self._context, self._reader, scard.SCARD_SHARE_DIRECT, 0
            )
            _check(code)
            self._direct = card
        with self._timed():
            code, answer = scard.SCardControl(self._direct, _ESCAPE, list(command))
        _check(code)
        _agreed(bytes(answer))

    def by_card(self, command: bytes) -> None:
        """Passes `command` on the way of commands to a card, of which the reader keeps its own."""
        code, card, protocol = scard.SCardConnect(
            self._context,
            self._reader,
            scard.SCARD_SHARE_SHARED,
            scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1,
        )
        _check(code)
        try:
            with self._timed():
                code, answer = scard.SCardTransmit(card, protocol, list(command))
            _check(code)
            _agreed(bytes(answer))
        finally:
            scard.SCardDisconnect(card, scard.SCARD_LEAVE_CARD)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.took_s = time.monotonic() - began

    def close(self) -> None:
        """Lets the reader go."""
        if self._direct is not None:
            scard.SCardDisconnect(self._direct, scard.SCARD_LEAVE_CARD)


@contextmanager
def _link(reader: str) -> Iterator[_Link]:
    code, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)
    _check(code)
    link = _Link(context, reader)
    try:
        yield link
    finally:
        link.close()
        scard.SCardReleaseContext(context)


def _late(signal: Signal) -> bool:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 - signal.boottime_ms > _LATE_MS


def _check(code: int) -> None:
    if unsigned(code) != SUCCESS:
        raise LampError(unsigned(code), explain(unsigned(code)))


def _agreed(answer: bytes) -> None:
    if answer[:1] and answer[0] & 0xF0 == 0x60:  # a status word that is an error
        raise LampRefusedError(0, f"the reader refuses a command (its answer: {answer.hex()})")
