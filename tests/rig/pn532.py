"""A PN532 at the other end of a pseudo-terminal, for nfcpy's real driver, and cards to hold to it.

Speaks the chip's frames (PN532 User Manual, §6.2 and §7): what nfcpy asks of it at the start, the
search for cards of type A and B, registers, and the two ways to a card, InDataExchange and
InCommunicateThru. It does not simulate radio, speed or power.

It can be made to hear nothing (`mute`), to send rubbish (`garble`) and to lose its line, which
comes back under the same path, as a cable does.
"""

import os
import pty
import select
import threading
import tty
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_ACK: Final = bytes.fromhex("0000FF00FF00")
_START: Final = b"\x00\xff"
_ERROR_FRAME: Final = bytes.fromhex("0000FF01FF7F8100")
_FIFO_DATA: Final = 0x6339
_SENS_REQ: Final = 0x26
_TIME_OUT: Final = b"\x01"
_WRONG_KEY: Final = b"\x14"
_BAD_CONTEXT: Final = b"\x27"

Answering = Callable[[bytes], bytes | None]
"""A card's answer to a command APDU, with its status; None stays silent."""


@dataclass(frozen=True, slots=True)
class TypeA:
    """A card of ISO/IEC 14443 type A. `answering` makes it a CPU card (ISO-DEP); `sectors` a Mifare
    Classic: key A and the first block, by sector.
    """

    uid: bytes
    answering: Answering | None = None
    sectors: dict[int, tuple[bytes, bytes]] | None = None
    random: bool = False
    """Another UID `08xxxxxx` each time that the field comes on."""
    stalling: bool = False
    """Asks for more time in place of every answer."""
    ats: bytes = bytes.fromhex("0578807002")
    """Frames of 256 bytes, 38 ms to answer (ISO/IEC 14443-4 §5.2)."""

    @property
    def kind(self) -> int:
        """SAK."""
        return (0x20 if self.answering else 0) | (0x08 if self.sectors is not None else 0)


@dataclass(frozen=True, slots=True)
class TypeB:
    """A card of type B; `iso` is what it claims of ISO-DEP, which resident ID cards do not."""

    pupi: bytes
    answering: Answering = lambda _: b"\x6d\x00"
    iso: bool = True
    random: bool = False
    """Another PUPI each time that the field comes on."""


@dataclass(slots=True)
class _Talk:
    """What the chip and the card have agreed on since the card was last selected."""

    ats: bool = False
    open_sector: int | None = None
    halted: bool = False


@dataclass
class Pn532:
    """The chip on the line `path`, which need not exist yet. Use as a context manager."""

    path: Path
    commands: list[bytes] = field(default_factory=list)
    """Every command that it took."""

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._card: TypeA | TypeB | None = None
        self._talk = _Talk()
        self._registers: dict[int, int] = {}
        self._looks = 0
        self._mute = False
        self._garbled = 0
        self._during: Callable[[], None] | None = None
        self._line: _End | None = None

    def __enter__(self) -> Self:
        self.plug()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unplug()

    def plug(self) -> None:
        """The line is there."""
        self._line = _End(self.path, self._received)

    def unplug(self) -> None:
        """The line is gone, in the middle of whatever went over it."""
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def present(self, card: TypeA | TypeB) -> None:
        """Holds `card` to it, in place of the one there."""
        with self._lock:
            self._card, self._talk = card, _Talk()

    def remove(self) -> None:
        """Takes the card away."""
        with self._lock:
            self._card = None

    def remove_during_exchange(self) -> None:
        """Takes the card away when it is next spoken to."""
        self._during = self.remove

    def mute(self, *, mute: bool = True) -> None:
        """From now on the chip hears nothing, or hears again."""
        self._mute = mute

    def garble(self, answers: int) -> None:
        """So many of its next answers are rubbish, each of another sort."""
        self._garbled = answers

    @property
    def card(self) -> TypeA | TypeB | None:
        """What is held to it."""
        return self._card

    @property
    def looks(self) -> int:
        """How many times it was asked for a card of type A."""
        return self._looks

    # --- frames ---------------------------------------------------------------------------------

    def _received(self, heard: bytearray, send: Callable[[bytes], None]) -> None:
        """Takes whole frames out of `heard` and answers them."""
        while (command := _frame(heard)) is not None:
            if self._mute or not command:
                continue
            self.commands.append(command)
            send(_ACK)
            with self._lock:
                answer = self._do(command[0], command[1:])
            frame = _ERROR_FRAME if answer is None else _framed(0xD5, command[0] + 1, answer)
            if self._garbled:
                self._garbled -= 1
                frame = _spoilt(frame, self._garbled)
            send(frame)

    def _do(self, code: int, data: bytes) -> bytes | None:
        """The answer to a command; None: it is none that the chip knows."""
        match code:
            case 0x00:  # Diagnose: the line
                return data
            case 0x02:  # GetFirmwareVersion
                return bytes.fromhex("32010607")
            case 0x06:  # ReadRegister
                return bytes(self._register(pair) for pair in _chunks(data, 2))
            case 0x08:  # WriteRegister
                for each in _chunks(data, 3):
                    self._registers[int.from_bytes(each[:2])] = each[2]
                return b""
            case 0x10 | 0x12 | 0x14:  # SetSerialBaudRate, SetParameters, SAMConfiguration
                return b""
            case 0x16:  # PowerDown
                return b"\x00"
            case 0x32:  # RFConfiguration
                return b""
            case 0x40:  # InDataExchange
                return self._exchanged(data[1:])
            case 0x42:  # InCommunicateThru
                return self._through(data)
            case 0x4A:  # InListPassiveTarget
                return self._listed(data[1], data[2:])
            case _:
                return None

    def _register(self, pair: bytes) -> int:
        number = int.from_bytes(pair)
        if number == _FIFO_DATA:  # what it sent last, where nobody answered
            return 0 if isinstance(self._card, TypeA) else _SENS_REQ
        return self._registers.get(number, 0)

    def _listed(self, kind: int, wanted: bytes) -> bytes:
        card = self._card
        self._talk = _Talk()
        match kind:
            case 0:
                self._looks += 1
                if not isinstance(card, TypeA):
                    return b"\x00"
                uid = b"\x08" + os.urandom(3) if card.random else card.uid
                if wanted and wanted.replace(b"\x88", b"") != uid:
                    return b"\x00"
                size = {4: 0x00, 7: 0x40, 10: 0x80}[len(uid)]
                return bytes([1, 1, 0x00, size | 0x04, card.kind, len(uid)]) + uid
            case 3:
                if not isinstance(card, TypeB):
                    return b"\x00"
                protocol = bytes([0x00, 0x81 if card.iso else 0x80, 0x71])
                pupi = os.urandom(4) if card.random else card.pupi
                return b"\x01\x01\x50" + pupi + bytes(4) + protocol + b"\x01\x00"
            case _:
                return b"\x00"

    # --- cards ----------------------------------------------------------------------------------

    def _spoken_to(self) -> TypeA | TypeB | None:
        if self._during is not None:
            during, self._during = self._during, None
            during()
        return self._card

    def _exchanged(self, data: bytes) -> bytes:
        card = self._spoken_to()
        if isinstance(card, TypeB):
            answer = card.answering(data)
            return _TIME_OUT if answer is None else b"\x00" + answer
        if card is None or self._talk.halted:
            return _TIME_OUT
        if card.sectors is None:
            return _BAD_CONTEXT
        if data[0] == 0x60:
            sector = data[1] // 4
            key, _ = card.sectors.get(sector, (b"", b""))
            if data[2:] != key + card.uid[-4:]:
                self._talk.halted = True
                return _WRONG_KEY
            self._talk.open_sector = sector
            return b"\x00"
        if data[0] == 0x30 and data[1] // 4 == self._talk.open_sector:
            _, block = card.sectors[data[1] // 4]
            return b"\x00" + (block if data[1] % 4 == 0 else bytes(16))
        self._talk.halted = True
        return _TIME_OUT

    def _through(self, frame: bytes) -> bytes:
        """A raw frame, to a card of type A that talks ISO-DEP (ISO/IEC 14443-4)."""
        card = self._spoken_to()
        if not isinstance(card, TypeA) or card.answering is None:
            return _TIME_OUT
        if frame[0] == 0xE0:
            self._talk.ats = True
            return b"\x00" + card.ats
        if self._talk.ats and card.stalling:
            return b"\x00\xf2\x01"
        if not self._talk.ats or frame[0] & 0xFE != 0x02:  # a whole I-block
            return _TIME_OUT
        answer = card.answering(frame[1:])
        return _TIME_OUT if answer is None else b"\x00" + frame[:1] + answer


class _End:
    """The chip's end of a new pseudo-terminal, whose other end is reached by `path`."""

    def __init__(
        self, path: Path, received: Callable[[bytearray, Callable[[bytes], None]], None]
    ) -> None:
        self._received = received
        self._own, self._other = pty.openpty()
        tty.setraw(self._other)  # and kept open, or its end would be ours when nobody has it open
        self._path = path
        self._closing = False
        self._wake_read, self._wake = os.pipe()
        path.symlink_to(os.ttyname(self._other))
        self._thread = threading.Thread(target=self._run, name=f"PN532 at {path}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._path.unlink()
        self._closing = True
        os.write(self._wake, b"x")
        if self._thread is not threading.current_thread():  # a card may cut it, in its answer
            self._thread.join()

    def _run(self) -> None:
        heard = bytearray()
        while not self._closing:
            ready, _, _ = select.select([self._own, self._wake_read], [], [])
            if self._own in ready:
                heard += os.read(self._own, 4096)
                self._received(heard, self._send)
        for each in (self._own, self._other, self._wake_read, self._wake):
            os.close(each)

    def _send(self, frame: bytes) -> None:
        if not self._closing:
            os.write(self._own, frame)


def _frame(heard: bytearray) -> bytes | None:
    """The next frame's command and data, taken out of `heard`; b"" for one that is no command, None
    where there is no whole frame yet.
    """
    at = heard.find(_START)
    if at < 0:
        del heard[: max(0, len(heard) - 1)]
        return None
    head = heard[at + 2 :]
    if len(head) < 2:
        return None
    if bytes(head[:2]) in (b"\x00\xff", b"\xff\x00"):  # ACK, NACK
        del heard[: at + 4]
        return b""
    size, begins = head[0], 2
    if head[:2] == b"\xff\xff":
        size, begins = int.from_bytes(head[2:4]), 5
    if len(head) < begins + size + 1:
        return None
    body = bytes(head[begins : begins + size])
    sound = (sum(body) + head[begins + size]) & 0xFF == 0 and body[:1] == b"\xd4"
    del heard[: at + 2 + begins + size + 1]
    return body[1:] if sound else b""


def _framed(way: int, code: int, data: bytes) -> bytes:
    body = bytes([way, code]) + data
    if len(body) < 256:
        head = bytes([len(body), -len(body) & 0xFF])
    else:
        size = len(body).to_bytes(2)
        head = b"\xff\xff" + size + bytes([-sum(size) & 0xFF])
    return b"\x00" + _START + head + body + bytes([-sum(body) & 0xFF, 0])


def _spoilt(frame: bytes, how: int) -> bytes:
    match how % 4:
        case 0:
            return frame[:-2] + bytes([frame[-2] ^ 0x55, 0])  # checksum
        case 1:
            return frame[: len(frame) // 2]
        case 2:
            return os.urandom(len(frame))
        case _:
            return b"\x00"


def _chunks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
