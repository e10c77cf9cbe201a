"""Virtual cards with files and sectors, as a contactless reader shows them to PC/SC.

Each also answers GET DATA of its UID. A card keeps its state from one command to the next; a new
SELECT or key begins anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.rig.cards import GET_UID, storage_card_atr

OK: Final = b"\x90\x00"
NO_SUCH_FILE: Final = b"\x6a\x82"
NO_SUCH_COMMAND: Final = b"\x6d\x00"
NO_SUCH_FUNCTION: Final = b"\x6a\x81"
REFUSED: Final = b"\x69\x82"
FAILED: Final = b"\x63\x00"

CPU_ATR: Final = bytes.fromhex("3B888001000000000000000009")
"""What a reader makes up for an ISO/IEC 14443-4 card, PC/SC part 3 §3.1.3.2.3.2."""

FMCOS_FILE: Final = bytes.fromhex("330100001234567801020000000000000012345620200701209912310000")
"""A public file: issuer, type, version, serial number, first and last day, type of the FCI."""


@dataclass
class CpuCard:
    """ISO/IEC 7816-4: applications by identifier or name, each with files by short identifier."""

    uid: bytes = bytes.fromhex("1A2B3C4D")
    applications: Mapping[bytes, Mapping[int, bytes]] = field(
        default_factory=lambda: {b"\x10\x01": {0x15: FMCOS_FILE}}
    )
    atr: bytes = CPU_ATR
    _files: Mapping[int, bytes] | None = None

    def answer(self, apdu: bytes) -> bytes | None:
        if apdu == GET_UID:
            return self.uid + OK
        match apdu[:2]:
            case b"\x00\xa4":
                self._files = self.applications.get(apdu[5 : 5 + apdu[4]])
                return NO_SUCH_FILE if self._files is None else OK
            case b"\x00\xb0":
                held = (self._files or {}).get(apdu[2] & 0x1F)
                if held is None or not apdu[2] & 0x80:
                    return NO_SUCH_FILE
                wanted = apdu[4] or 256
                if wanted > len(held):
                    return bytes([0x6C, len(held)])
                return held[apdu[3] :][:wanted] + OK
            case _:
                return NO_SUCH_COMMAND


@dataclass
class ClassicCard:
    """A Mifare Classic behind a reader: key, authentication of a sector, blocks.

    `key` opens all sectors as key A; `blocks` are counted over the card, others are blank.
    """

    uid: bytes = bytes.fromhex("5A2B3C4D")
    key: bytes = bytes.fromhex("A0A1A2A3A4A5")
    blocks: Mapping[int, bytes] = field(default_factory=lambda: {4: b"20230815".ljust(16, b"\x00")})
    atr: bytes = field(default_factory=storage_card_atr)
    _loaded: bytes = b""
    _open: int | None = None

    def answer(self, apdu: bytes) -> bytes | None:
        if apdu == GET_UID:
            return self.uid + OK
        match apdu[:2]:
            case b"\xff\x82":
                self._loaded = apdu[5 : 5 + apdu[4]]
                return OK
            case b"\xff\x86":
                opens = self._loaded == self.key and apdu[8] == 0x60
                self._open = _sector(apdu[7]) if opens else None
                return OK if opens else FAILED
            case b"\xff\xb0":
                if self._open is None or self._open != _sector(apdu[3]):
                    return REFUSED
                return self.blocks.get(apdu[3], bytes(16)) + OK
            case _:
                return NO_SUCH_FUNCTION


@dataclass(frozen=True, slots=True)
class IdCardB:
    """A resident ID card: its number as a UID is all zero, or whatever a reader makes of it."""

    uid: bytes = bytes(4)
    managed: bytes = bytes.fromhex("0102030405060708")
    atr: bytes = CPU_ATR

    def answer(self, apdu: bytes) -> bytes | None:
        if apdu == GET_UID:
            return self.uid + OK
        return self.managed + OK if apdu == bytes.fromhex("0036000008") else NO_SUCH_COMMAND


@dataclass(frozen=True, slots=True)
class Phone:
    """A phone: speaks ISO/IEC 14443-4, has no application of ours, and a new number each time."""

    uid: bytes = bytes.fromhex("08C1D2E3")
    atr: bytes = CPU_ATR

    def answer(self, apdu: bytes) -> bytes | None:
        if apdu == GET_UID:
            return self.uid + OK
        return NO_SUCH_FILE if apdu[:2] == b"\x00\xa4" else NO_SUCH_COMMAND


def _sector(block: int) -> int:
    return block // 4 if block < 128 else 32 + (block - 128) // 16
