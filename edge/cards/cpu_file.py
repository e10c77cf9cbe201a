"""Profile `cpu-file`: issuer and serial number in a public file of a CPU card (FM1208 and others).

ISO/IEC 7816-4: SELECT the application, READ BINARY of one file. A card without the application is
not this kind; one that has it is, and whatever fails then is a failure.

The file is public: whoever reads it can write the same into another card (Assurance.DATA). Only an
authentication with the card's key would prove more; this profile has none.
"""

from collections.abc import Generator
from dataclasses import dataclass
from datetime import date
from typing import Final

from edge.cards import (
    CardRefused,
    CardUnusable,
    Command,
    NotThisKind,
    Profile,
    Reading,
    Refusal,
    Response,
    Validity,
    complete,
    said_not_here,
)
from protocol.credential import Assurance, InvalidCredentialError, cpu_file_credential

ISSUER_BYTES: Final = 8
_DATE_BYTES: Final = 4
_FIRST_YEAR: Final = 1980
_READER_SAYS_NO: Final = frozenset({(0x63, 0x00), (0x69, 0x00)})


@dataclass(frozen=True, slots=True)
class Layout:
    """Which file is read, and what stands where in it. ValueError where that cannot be.

    The defaults are the public file 0x15 of FMCOS: issuer 8 bytes, type 1, version 1, serial number
    10, first and last day 4 each (BCD, YYYYMMDD), type of the FCI 2.
    """

    application: bytes = b"\x10\x01"
    """A file identifier (2 bytes) or an application's name (5 to 16)."""
    sfi: int = 0x15
    """Short file identifier, 1 to 30."""
    length: int = 30
    """Bytes that are read, from the beginning."""
    issuer_at: int = 0
    serial_at: int = 10
    serial_bytes: int = 10
    dated: bool = True
    """Whether days of validity stand in it, at the next two."""
    first_at: int = 20
    last_at: int = 24

    def __post_init__(self) -> None:
        if len(self.application) != 2 and not 5 <= len(self.application) <= 16:
            raise ValueError(
                "application is a file identifier (4 hex digits) or a name (10 to 32), not"
                f" {2 * len(self.application)} digits"
            )
        if not 1 <= self.sfi <= 30:
            raise ValueError(f"sfi is 1 to 30, not {self.sfi}")
        if not 1 <= self.length <= 256:
            raise ValueError(f"length is 1 to 256, not {self.length}")
        if not 1 <= self.serial_bytes <= 32:
            raise ValueError(f"serial_bytes is 1 to 32, not {self.serial_bytes}")
        parts = {
            "issuer_at": (self.issuer_at, ISSUER_BYTES),
            "serial_at": (self.serial_at, self.serial_bytes),
        }
        if self.dated:
            parts["first_at"] = (self.first_at, _DATE_BYTES)
            parts["last_at"] = (self.last_at, _DATE_BYTES)
        for name, (at, size) in parts.items():
            if at < 0 or at + size > self.length:
                raise ValueError(f"{name}: {size} bytes at {at} are not within {self.length}")


def cpu_file(layout: Layout) -> Profile:
    """Reads issuer, serial number and days of validity."""
    yield from _select(layout.application)
    apdu = bytes([0x00, 0xB0, 0x80 | layout.sfi, 0x00, layout.length % 256])
    response = yield from complete(Command(apdu, of_kind=True))
    if not response.data and (response.sw1, response.sw2) == (0x6A, 0x82):
        raise CardRefused(Refusal.UNKNOWN_KIND)
    if not response.succeeded:
        raise CardUnusable(f"READ BINARY gave {response.status}")
    if len(response.data) != layout.length:
        raise CardUnusable(f"{len(response.data)} bytes are not the file ({layout.length})")
    return _reading(response.data, layout)


def _select(application: bytes) -> Generator[Command, Response, None]:
    """Asked twice where it is the reader that says no: it does of a card that moves, too."""
    by_name = len(application) > 2
    head = bytes([0x00, 0xA4, 0x04 if by_name else 0x00, 0x00, len(application)])
    for _ in range(2):
        response = yield from complete(Command(head + application))
        if response.succeeded:
            return
        if not said_not_here(response):
            raise CardUnusable(f"SELECT gave {response.status}")
        if (response.sw1, response.sw2) not in _READER_SAYS_NO:
            break
    raise NotThisKind(f"SELECT gave {response.status}")


def _reading(file: bytes, layout: Layout) -> Reading:
    issuer = file[layout.issuer_at : layout.issuer_at + ISSUER_BYTES]
    serial = file[layout.serial_at : layout.serial_at + layout.serial_bytes]
    if not any(serial) or set(serial) == {0xFF}:
        raise CardRefused(Refusal.BLANK)
    try:
        credential = cpu_file_credential(issuer.hex(), serial.hex())
    except InvalidCredentialError as error:
        raise CardUnusable("the file is not accepted as a credential") from error
    if not layout.dated:
        return Reading(credential, Assurance.DATA)
    try:
        valid = Validity(_day(file, layout.first_at), _day(file, layout.last_at))
    except ValueError as error:
        raise CardUnusable("the days of validity are none") from error
    return Reading(credential, Assurance.DATA, valid)


def _day(file: bytes, at: int) -> date:
    digits = file[at : at + _DATE_BYTES].hex()
    if not digits.isdecimal():
        raise ValueError("no BCD")
    if int(digits[:4]) < _FIRST_YEAR:
        raise ValueError("from before there were such cards")
    return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
