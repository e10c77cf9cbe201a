"""Virtual cards, and the hand that holds them to a vsmartcard-vpcd reader.

vpcd's protocol over TCP: each message is a 2-byte big-endian length and that many bytes. One byte
from the reader is a control: 00 power off, 01 power on, 02 reset (none of them answered), 04 asks
for the ATR. Everything longer is a command APDU. A connection is a card in the field; closing it
takes the card away. vpcd's own driver looks each 400 ms, and only then: a shorter visit can go
unseen. The rig's driver around it (Pcscd with `handler=True`) misses nothing over some 30 ms.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Protocol, Self

GET_UID: Final = bytes.fromhex("FFCA000000")
_ASK_ATR: Final = b"\x04"

# vpcd looks for cards each 400 ms; a card must be away for one look to count as away.
POLL_S: Final = 0.4
POLL_GAP_S: Final = 0.45


class Card(Protocol):
    """What lies in the field: an ATR, and an answer to each command APDU; None stays silent."""

    @property
    def atr(self) -> bytes: ...
    def answer(self, apdu: bytes, /) -> bytes | None: ...


def storage_card_atr(name: int = 0x0001) -> bytes:
    """The ATR that a contactless reader makes up for a memory card (PC/SC part 3, 3.1.3.2.3.1).

    `name` is the 16-bit card name; 0x0001 is Mifare Classic 1K.
    """
    body = bytes.fromhex("8F8001804F0CA00000030603") + name.to_bytes(2) + bytes(4)
    check = 0
    for byte in body:
        check ^= byte
    return b"\x3b" + body + bytes([check])


@dataclass(frozen=True, slots=True)
class UidCard:
    """A memory card: tells its UID, refuses everything else with 6D00."""

    uid: bytes
    atr: bytes = field(default_factory=storage_card_atr)

    def answer(self, apdu: bytes) -> bytes | None:
        return self.uid + b"\x90\x00" if apdu == GET_UID else b"\x6d\x00"


@dataclass(frozen=True, slots=True)
class SilentCard:
    """Is there, and never answers a command: the transmit blocks until the card goes."""

    atr: bytes = field(default_factory=storage_card_atr)

    def answer(self, apdu: bytes) -> bytes | None:  # noqa: ARG002
        return None


@dataclass(frozen=True, slots=True)
class WrongLengthCard:
    """Reports success with a UID whose length no standard knows."""

    uid: bytes = b"\x01\x02\x03\x04\x05"
    atr: bytes = field(default_factory=storage_card_atr)

    def answer(self, apdu: bytes) -> bytes | None:
        return self.uid + b"\x90\x00" if apdu == GET_UID else b"\x6d\x00"


@dataclass(frozen=True, slots=True)
class AtrAnswerCard:
    """Answers the UID command with its ATR, as the driver has been seen to do under load."""

    atr: bytes = field(default_factory=storage_card_atr)

    def answer(self, apdu: bytes) -> bytes | None:  # noqa: ARG002
        return self.atr


@dataclass(frozen=True, slots=True)
class Answer:
    """One command that a card was given, and what it said (None: nothing).

    `at_ns` is time.monotonic_ns() just before the answer left: nobody can have known it earlier.
    """

    card: Card
    apdu: bytes
    response: bytes | None
    at_ns: int


class VirtualReader:
    """One reader's field on vpcd's TCP `port`: at most one card lies in it.

    While a card is presented the connection is made again whenever it is lost or refused, as a card
    that lies on a reader is found again by a restarted daemon.
    `on_answer` is called in the card's thread after each answer has been sent. `gap_s` is how long
    the field stays empty between two cards: `Pcscd.gap_s`.
    """

    def __init__(
        self,
        port: int,
        on_answer: Callable[[Answer], None] | None = None,
        gap_s: float = POLL_GAP_S,
    ) -> None:
        self.port = port
        self.on_answer = on_answer
        self._gap_s = gap_s
        self._answers: list[Answer] = []
        self._asked = threading.Event()
        self._answered = threading.Event()
        self._visit: _Visit | None = None
        self._gone_at = float("-inf")

    @property
    def answers(self) -> tuple[Answer, ...]:
        """Every command that reached a card in this field so far, in order."""
        return tuple(self._answers)

    def present(self, card: Card) -> None:
        """Puts the card in the field; waits first until a previous one must have been missed."""
        self.remove()
        pause = self._gone_at + self._gap_s - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        self._asked.clear()
        self._answered.clear()
        self._visit = _Visit(self.port, card, self._asked, self._note)

    def remove(self) -> None:
        """Takes the card out of the field, also in the middle of a command."""
        if self._visit is not None:
            self._visit.end()
            self._visit = None
            self._gone_at = time.monotonic()

    def wait_seen(self, timeout_s: float = 3) -> bool:
        """Whether the driver has asked the present card for its ATR within `timeout_s`."""
        return self._asked.wait(timeout_s)

    def tap(self, card: Card, dwell_s: float = 0.55) -> tuple[Answer, ...]:
        """Holds the card in the field for `dwell_s` and takes it away, come what may.

        Gives the commands it was given: empty if nobody looked. A visit under
        0.45 s can be missed.
        """
        before = len(self._answers)
        self.present(card)
        time.sleep(dwell_s)
        self.remove()
        return tuple(self._answers[before:])

    def tap_until_read(
        self, card: Card, timeout_s: float = 5, linger_s: float = 0.1
    ) -> tuple[Answer, ...]:
        """Holds the card in the field until it has answered, and `linger_s` longer.

        Gives its answers; empty if nothing was asked within `timeout_s`.
        """
        before = len(self._answers)
        self.present(card)
        if self._answered.wait(timeout_s):
            time.sleep(linger_s)
        self.remove()
        return tuple(self._answers[before:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def _note(self, answer: Answer) -> None:
        self._answers.append(answer)
        self._answered.set()
        if self.on_answer is not None:
            self.on_answer(answer)


class _Visit:
    """One card's stay: connects, answers, connects again, until ended."""

    def __init__(
        self, port: int, card: Card, asked: threading.Event, note: Callable[[Answer], None]
    ) -> None:
        self._port = port
        self._card = card
        self._asked = asked
        self._note = note
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name=f"card on {port}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        with self._lock:
            if self._connection is not None:
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)
        # on_answer may take the card away from within the card's own thread.
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError), socket.socket() as connection:
                connection.connect(("127.0.0.1", self._port))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    if self._over.is_set():
                        return
                    self._connection = connection
                try:
                    self._serve(connection)
                finally:
                    with self._lock:
                        self._connection = None
            self._over.wait(0.02)

    def _serve(self, connection: socket.socket) -> None:
        while (message := _receive(connection)) is not None:
            if message == _ASK_ATR:
                _send(connection, self._card.atr)
                self._asked.set()
            elif len(message) > 1:
                response = self._card.answer(message)
                at_ns = time.monotonic_ns()
                if response is not None:
                    _send(connection, response)
                self._note(Answer(self._card, message, response, at_ns))


def _receive(connection: socket.socket) -> bytes | None:
    """The next message, or None when the reader hung up."""
    header = _exactly(connection, 2)
    return None if header is None else _exactly(connection, int.from_bytes(header))


def _exactly(connection: socket.socket, length: int) -> bytes | None:
    parts = b""
    while len(parts) < length:
        # vpcd sends length and payload apart; without the early ACK each command takes 44 ms.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        part = connection.recv(length - len(parts))
        if not part:
            return None
        parts += part
    return parts


def _send(connection: socket.socket, payload: bytes) -> None:
    connection.sendall(len(payload).to_bytes(2) + payload)
