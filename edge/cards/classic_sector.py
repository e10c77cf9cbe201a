"""Profile `classic-sector`: a number that stands in a sector of a Mifare Classic (or FM11RF08).

The reader, not the card, answers to PC/SC part 3: load the key, authenticate, read. A card that our
key does not open is not this kind; one that it opens is, and whatever fails then is a failure.

The cipher is broken and the key in every reader: the number can be read and copied with effort
(Assurance.DATA), which is more than a UID asks and no proof.
"""

from collections.abc import Generator
from dataclasses import dataclass
from enum import StrEnum
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
    complete,
    said_not_here,
)
from protocol.credential import Assurance, InvalidCredentialError, classic_sector_credential

BLOCK_BYTES: Final = 16
KEY_BYTES: Final = 6
SECTORS: Final = 40
"""Of a 4K card; the last eight have 16 blocks, the others 4."""
_SMALL_SECTORS: Final = 32

_PADDING: Final = b"\x00\xff"
_REFUSED_KEY: Final = frozenset({(0x63, 0x00), (0x69, 0x82), (0x69, 0x83)})


class Content(StrEnum):
    """How the number is written."""

    ASCII = "ascii"
    """Characters, filled up with blanks, 00 or FF."""
    BCD = "bcd"
    """Two digits to a byte, filled up with F at the end."""
    HEX = "hex"
    """Bytes; the number is their hex digits."""


class WhichKey(StrEnum):
    """Each sector has two keys."""

    A = "A"
    B = "B"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the number stands and how it is written.

    `offset` bytes into data block `block` of `sector` (both from 0), `length` bytes long, running
    on into the sector's next data blocks if need be. ValueError where no number can stand.
    """

    sector: int
    block: int
    offset: int
    length: int
    content: Content

    def __post_init__(self) -> None:
        if not 0 <= self.sector < SECTORS:
            raise ValueError(f"sector is 0 to {SECTORS - 1}, not {self.sector}")
        if not 0 <= self.block < self._trailer:
            raise ValueError(
                f"block is 0 to {self._trailer - 1} in sector {self.sector}, not {self.block}: the"
                " last block holds keys"
            )
        if self.sector == 0 and self.block == 0:
            raise ValueError("block 0 of sector 0 is the maker's and holds no number but the UID")
        if not 0 <= self.offset < BLOCK_BYTES:
            raise ValueError(f"offset is 0 to {BLOCK_BYTES - 1}, not {self.offset}")
        most = min(
            (self._trailer - self.block) * BLOCK_BYTES - self.offset,
            64 if self.content is Content.ASCII else 32,
        )
        if not 1 <= self.length <= most:
            raise ValueError(f"length is 1 to {most} there, not {self.length}")

    @property
    def _trailer(self) -> int:
        return 3 if self.sector < _SMALL_SECTORS else 15

    @property
    def blocks(self) -> range:
        """The blocks to read, counted over the whole card."""
        if self.sector < _SMALL_SECTORS:
            first = self.sector * 4
        else:
            first = _SMALL_SECTORS * 4 + (self.sector - _SMALL_SECTORS) * 16
        first += self.block
        return range(first, first + -(-(self.offset + self.length) // BLOCK_BYTES))

    def cut(self, data: bytes) -> bytes:
        """The number's bytes out of those of `blocks`."""
        return data[self.offset : self.offset + self.length]


def classic_sector(place: Place, key: bytes, which: WhichKey, numbering: str) -> Profile:
    """Reads the number that stands at `place`, opened by `key` of 6 bytes."""
    response = yield from complete(Command(bytes([0xFF, 0x82, 0, 0, KEY_BYTES]) + key))
    if said_not_here(response):
        raise NotThisKind("the reader takes no key for this card")
    if not response.succeeded:
        raise CardUnusable(f"LOAD KEYS gave {response.status}")
    yield from _authenticate(place.blocks[0], which)
    data = b""
    for block in place.blocks:
        apdu = bytes([0xFF, 0xB0, 0, block, BLOCK_BYTES])
        response = yield from complete(Command(apdu, of_kind=True))
        if not response.succeeded:
            raise CardUnusable(f"READ BINARY of block {block} gave {response.status}")
        if len(response.data) != BLOCK_BYTES:
            raise CardUnusable(f"{len(response.data)} bytes are no block ({BLOCK_BYTES})")
        data += response.data
    number = _number(place.cut(data), place.content)
    try:
        return Reading(classic_sector_credential(numbering, number), Assurance.DATA)
    except InvalidCredentialError as error:
        raise CardUnusable("the number is not accepted as a credential") from error


def _authenticate(block: int, which: WhichKey) -> Generator[Command, Response, None]:
    """GENERAL AUTHENTICATE, PC/SC part 3 §3.2.2.1.6; asked twice, for a card that moves fails too,
    and would be taken for one of another kind.
    """
    command = Command(
        bytes([0xFF, 0x86, 0, 0, 5, 1, 0, block, 0x60 if which is WhichKey.A else 0x61, 0])
    )
    for _ in range(2):
        response = yield from complete(command)
        if response.succeeded:
            return
        if said_not_here(response) and (response.sw1, response.sw2) not in _REFUSED_KEY:
            raise NotThisKind("no Mifare Classic")
        if response.data or (response.sw1, response.sw2) not in _REFUSED_KEY:
            raise CardUnusable(f"GENERAL AUTHENTICATE gave {response.status}")
    raise NotThisKind("the key does not open it")


def _number(stored: bytes, content: Content) -> str:
    if not stored.strip(_PADDING):
        raise CardRefused(Refusal.BLANK)
    match content:
        case Content.ASCII:
            text = stored.rstrip(_PADDING).strip(b" ").rstrip(_PADDING)
            if not text or not text.strip(b"0"):
                raise CardRefused(Refusal.BLANK)
            if not all(0x21 <= byte <= 0x7E for byte in text):
                raise CardUnusable("what stands there is no text")
            return text.decode("ascii")
        case Content.BCD:
            digits = stored.hex().rstrip("f")
            if not digits.isdecimal():
                raise CardUnusable("what stands there is no BCD")
            if not digits.strip("0"):
                raise CardRefused(Refusal.BLANK)
            return digits
        case Content.HEX:
            return stored.hex().upper()
