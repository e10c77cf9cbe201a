"""What is in the field of an NFC chip, by nfcpy: the cards there, and commands to them.

Imports nfcpy, so only a worker that serves such a chip imports this. Each call is bounded, by
nfcpy's own time-outs. nfcpy trusts the bytes that it reads, and has a dozen ways to fail on those
that are none; here they become three: `Lost`, `NoAnswer`, `Garbled`.

A profile speaks as to a PC/SC reader (PC/SC part 3, §3.2.2), so what such a reader answers itself
is answered here: the UID, and the keys, authentication and blocks of a Mifare Classic.

Cards of ISO/IEC 14443 type A and type B are seen. FeliCa, Topaz (NFC type 1) and ISO/IEC 15693 are
not.
"""

import errno
import os
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

import nfc
import nfc.clf
import nfc.clf.pn53x
import nfc.clf.pn532
import nfc.clf.transport
import nfc.tag
import nfc.tag.tt4

from edge.readers import Down
from edge.readers.nfc import TAKEN

_nfc: Any = nfc  # it has no types
_serial: Any = _nfc.clf.transport.serial

DONE: Final = b"\x90\x00"
REFUSED: Final = b"\x63\x00"
"""PC/SC part 3: authentication failed, or the reader has no more to say."""
NO_SUCH: Final = b"\x6a\x81"
"""PC/SC part 3: this card, or this reader, does not have that."""

_EXCHANGE_S: Final = 0.5
_WRITE_S: Final = 0.5
_ABORT_S: Final = 0.01
_TIME_OUT: Final = 0x01
_WRONG_KEY: Final = 0x14
_MOST_PARTS: Final = 4
_ISO_DEP: Final = 0x20
_CLASSIC: Final = 0x08
_CRC_CHECK: Final = 0x80
_TYPE_B: Final = 3
_RATS_S: Final = 0.03
_FWT_S: Final = 4096 / 13.56e6
"""The shortest frame waiting time; each step of a card's FWI doubles it (ISO/IEC 14443-4 §7.2)."""
_FRAME_BYTES: Final = (16, 24, 32, 40, 48, 64, 96, 128, 256)
"""By a card's FSCI (ISO/IEC 14443-4 §5.1)."""

_WIRES: Final = (
    "see that it is wired (TX to RX), has power, and that its switches are set to UART (HSU)"
)


class Lost(Exception):  # noqa: N818 - an expected event
    """The chip cannot be used any more: close the field and open it anew."""

    def __init__(self, down: Down, what: str) -> None:
        super().__init__(what)
        self.down = down
        self.what = what


class NoAnswer(Exception):  # noqa: N818 - as above
    """The card does not answer, or has left."""


class Garbled(Exception):  # noqa: N818 - as above
    """Card or chip answered what makes no sense; it may pass. The message holds no card number."""


class Card(Protocol):
    """A card in the field."""

    @property
    def mark(self) -> bytes:
        """What tells this card from the next; the same as long as the same card lies there."""

    @property
    def doubtful(self) -> bytes | None:
        """The number that it tells as its UID where that may be another at the next look."""

    def transmit(self, apdu: bytes) -> bytes:
        """The answer to a command, with its status; raises NoAnswer, Garbled, Lost."""


class Field:
    """The field of the chip on `device`: a serial line's path, where it is a PN532, or what nfcpy
    calls a path, such as `usb:054c:06c3`.

    Raises Lost where it cannot be used, with words for a technician.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._line: _Line | None
        self.frontend: Any
        self._line, self.frontend = (
            _on_line(device) if device.startswith("/") else (None, _by_path(device))
        )
        # What only the PN53x family has: it runs ISO-DEP and Mifare's cipher itself.
        chipset = getattr(self.frontend.device, "chipset", None)
        self.chip: Any = chipset if isinstance(chipset, _nfc.clf.pn53x.Chipset) else None

    def close(self) -> None:
        """Lets go of the device; the chip needs no farewell and may be beyond one."""
        if self._line is not None:
            self._line.close()
        else:
            with suppress(Exception):  # libusb has errors of its own
                self.frontend.close()

    def look(self) -> Card | None:
        """The card that is there; raises Garbled, NoAnswer, Lost."""
        with self.calling():
            found = self.frontend.sense(_nfc.clf.RemoteTarget("106A"))
            if found is not None:
                return _CardA(self, found)
            if self.chip is None:
                found = self.frontend.sense(_nfc.clf.RemoteTarget("106B"))
                return None if found is None else _CardB(self, found)
            # nfcpy's own search leaves out cards that do not claim ISO-DEP, as resident ID cards.
            answer = self.chip.in_list_passive_target(1, _TYPE_B, b"\x00")
            return None if answer is None else _ActivatedB(self, bytes(answer[1:5]))

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Makes nfcpy's failures ours."""
        try:
            yield
        except (Lost, NoAnswer, Garbled):
            raise
        except _nfc.clf.TimeoutError as error:
            raise NoAnswer("the card does not answer") from error
        except _nfc.tag.TagCommandError as error:
            if error.errno == _nfc.tag.TIMEOUT_ERROR:
                raise NoAnswer("the card does not answer") from error
            raise Garbled("the card breaks the protocol") from error
        except _nfc.clf.pn53x.Chipset.Error as error:
            if error.errno == _TIME_OUT:
                raise NoAnswer("the card does not answer") from error
            raise Garbled(f"the chip reports error {error.errno:02X}") from error
        except (_serial.SerialException, termios.error) as error:
            raise Lost(Down.UNPLUGGED, f"the line {self._device} is gone") from error
        except OSError as error:
            if error.errno in {errno.EIO, errno.ETIMEDOUT}:
                raise Garbled("the chip does not answer, or not clearly") from error
            raise Lost(Down.UNPLUGGED, f"{self._device} is gone: {error.strerror}") from error
        except Exception as error:
            # IndexError and others, from a frame that is shorter than nfcpy thinks.
            raise Garbled(f"the chip's answer is none ({type(error).__name__})") from error


class _CardA:
    """A card of type A."""

    def __init__(self, field: Field, target: Any) -> None:
        self._field = field
        self._uid = bytes(target.sdd_res or b"")
        self._kind = target.sel_res[0] if target.sel_res else 0
        self._dep: Any = None
        self._keys: dict[int, bytes] = {}
        self._fresh = True  # as anticollision left it

    @property
    def mark(self) -> bytes:
        # A random UID is another one each time the field comes on, that is at each look.
        random = len(self._uid) == 4 and self._uid[0] == 0x08
        return b"random" if random else b"A" + self._uid

    @property
    def doubtful(self) -> bytes | None:
        return None  # one that does not last begins with 08

    def transmit(self, apdu: bytes) -> bytes:
        with self._field.calling():
            if apdu[0] == 0xFF:
                return self._pseudo(apdu)
            if not self._kind & _ISO_DEP:
                return NO_SUCH
            if self._dep is None:
                self._select()
                self._fresh = False
                self._dep = _activated(self._field.frontend)
            return bytes(self._dep.exchange(bytearray(apdu)))

    def _pseudo(self, apdu: bytes) -> bytes:
        if apdu[1:4] == b"\xca\x00\x00":
            return self._uid + DONE if self._uid else NO_SUCH
        if self._field.chip is None or not self._kind & _CLASSIC:
            return NO_SUCH
        match apdu[1], apdu[4:]:
            case 0x82, body if len(body) == 7 and body[0] == 6:
                self._keys[apdu[3]] = body[1:]
                return DONE
            case 0x86, body if len(body) == 6 and body[:3] == b"\x05\x01\x00":
                return self._authenticate(body[3], body[4], self._keys.get(body[5]))
            case 0xB0, body if len(body) == 1 and apdu[2] == 0:
                data, _ = self._field.chip.in_data_exchange(bytearray([0x30, apdu[3]]), _EXCHANGE_S)
                return bytes(data[: body[0] or 16]) + DONE
            case _:
                return NO_SUCH

    def _authenticate(self, block: int, which: int, key: bytes | None) -> bytes:
        if key is None or which not in {0x60, 0x61}:
            return REFUSED
        self._select()
        self._fresh = False
        chip = self._field.chip
        # nfcpy switches the check off for cards of its type 2, of which this seems to be one.
        mode = chip.read_register("CIU_RxMode")
        chip.write_register("CIU_RxMode", mode | _CRC_CHECK)
        try:
            chip.in_data_exchange(bytearray([which, block]) + key + self._uid[-4:], _EXCHANGE_S)
        except _nfc.clf.pn53x.Chipset.Error as error:
            if error.errno != _WRONG_KEY:
                raise
            self._select()  # the card ends the conversation; and it must still be there
            return REFUSED
        return DONE

    def _select(self) -> None:
        """Has the card as anticollision left it."""
        if self._fresh:
            return
        again = self._field.frontend.sense(_nfc.clf.RemoteTarget("106A", sel_req=self._uid))
        if again is None or bytes(again.sdd_res or b"") != self._uid:
            raise NoAnswer("the card has left")
        self._dep = None
        self._fresh = True


def _activated(frontend: Any) -> Any:
    """Asks a card of type A to talk ISO-DEP, and takes it at its word (ISO/IEC 14443-4 §5.2).

    nfcpy does so, too, but is at a loss where the card leaves out what it may leave out.
    """
    ours = 0x80 if frontend.max_recv_data_size >= _FRAME_BYTES[-1] else 0x70
    answer = bytes(frontend.exchange(bytearray([0xE0, ours]), _RATS_S) or b"")
    if not answer:
        raise Garbled("the card's answer to RATS is empty")
    parts = answer[1] if len(answer) > 1 else 0x02
    at = 3 if parts & 0x10 else 2
    wait = answer[at] >> 4 if parts & 0x20 and len(answer) > at else 4
    size = _FRAME_BYTES[min(parts & 0x0F, len(_FRAME_BYTES) - 1)]
    return _nfc.tag.tt4.IsoDepInitiator(
        frontend,
        min(size, frontend.max_send_data_size),
        _FWT_S * 2 ** (4 if wait == 15 else wait),
    )


class _ActivatedB:
    """A card of type B that a PN53x has found, activated, and talks ISO-DEP with by itself."""

    mark = b"B"  # some are of another number at each look (PUPI, ISO/IEC 14443-3 §7.9.2)

    def __init__(self, field: Field, number: bytes) -> None:
        self._field = field
        self.doubtful = number

    def transmit(self, apdu: bytes) -> bytes:
        if apdu[0] == 0xFF:
            return self.doubtful + DONE if apdu[1:4] == b"\xca\x00\x00" else NO_SUCH
        answer, more = b"", True
        with self._field.calling():
            data, more = self._field.chip.in_data_exchange(bytearray(apdu), _EXCHANGE_S)
            answer = bytes(data)
            for _ in range(_MOST_PARTS):
                if not more:
                    return answer
                data, more = self._field.chip.in_data_exchange(bytearray(), _EXCHANGE_S)
                answer += bytes(data)
        raise Garbled("the card's answer does not end")


class _CardB:
    """A card of type B on another chip: nfcpy talks ISO-DEP with it."""

    mark = b"B"

    def __init__(self, field: Field, target: Any) -> None:
        self._field = field
        self._target = target
        self._dep: Any = None
        self.doubtful = bytes(target.sensb_res[1:5])

    def transmit(self, apdu: bytes) -> bytes:
        if apdu[0] == 0xFF:
            return self.doubtful + DONE if apdu[1:4] == b"\xca\x00\x00" else NO_SUCH
        with self._field.calling():
            if self._dep is None:
                self._dep = _nfc.tag.tt4.Type4BTag(self._field.frontend, self._target)
            return bytes(self._dep.transceive(apdu))


class _Line(_nfc.clf.transport.TTY):  # type: ignore[misc]
    """nfcpy's serial line, but ours alone, with bounded writes, and closed in whatever state."""

    def open(self, port: str, baudrate: int = 115200) -> None:
        self.close()
        self.tty = _serial.Serial(
            port, baudrate, timeout=0.05, write_timeout=_WRITE_S, exclusive=True
        )

    def close(self) -> None:
        if self.tty is not None:
            tty, self.tty = self.tty, None
            with suppress(OSError, termios.error):
                tty.close()


def _on_line(device: str) -> tuple[_Line, Any]:
    # nfcpy asks the program stty whether the line can go faster, and then has the chip do so. When
    # a worker is ended, that leaves a chip that hears nobody at the usual speed: let it find none.
    os.environ["PATH"] = os.devnull
    try:
        line = _Line(device)
    except (OSError, termios.error) as error:
        raise _not_opened(device, error) from error
    try:
        line.write(_nfc.clf.pn53x.Chipset.ACK)  # ends what a worker that was ended had begun
        time.sleep(_ABORT_S)
        frontend = _nfc.ContactlessFrontend()
        frontend.device = _nfc.clf.pn532.init(line)
    except Exception as error:  # whatever nfcpy makes of bytes that are none
        line.close()
        raise Lost(Down.NOT_ANSWERING, f"no PN532 answers on {device}; {_WIRES}") from error
    return line, frontend


def _by_path(path: str) -> Any:
    try:
        return _nfc.ContactlessFrontend(path)
    except OSError as error:
        raise _not_opened(path, error) from error
    except Exception as error:
        raise Lost(
            Down.NOT_ANSWERING, f"the reader {path} does not answer ({type(error).__name__})"
        ) from error


def _not_opened(device: str, error: Exception) -> Lost:
    match getattr(error, "errno", None):
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return Lost(Down.UNPLUGGED, f"there is no {device}; see that it is plugged in")
        case errno.EACCES | errno.EPERM:
            return Lost(
                Down.FAILED,
                f"{device} may not be opened; for a serial line, add the service's user to the"
                " group dialout",
            )
        case errno.EBUSY | errno.EAGAIN:
            return Lost(Down.FAILED, f"{device}: {TAKEN}")
        case _:
            return Lost(Down.FAILED, f"{device} cannot be opened: {error}")
