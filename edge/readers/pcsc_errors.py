"""What PC/SC's result codes mean, and what to do: the one table for worker, log and doctor.

Codes are PC/SC's 32-bit results as unsigned numbers (pyscard gives them signed). Each was seen
on pcscd 1.9 unless the table says otherwise.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from edge.readers import Down


class Kind(Enum):
    """What a result asks of the worker's loop."""

    TIME_OUT = auto()
    """Nothing happened: go on waiting."""
    SERVICE = auto()
    """The service is away: make a new context, with back-off."""
    READER = auto()
    """The reader is away: likewise."""
    REMOVED = auto()
    """The card left."""
    BUSY = auto()
    """Another program holds the reader: try again within the bound."""
    AGAIN = auto()
    """The card has to be connected anew: try again within the bound."""
    OTHER = auto()
    """Not known to pass by itself: new context, with back-off."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """A result code: PC/SC's name for it, what it asks for, and plain words."""

    name: str
    kind: Kind
    words: str


SUCCESS: Final = 0
NO_SERVICE: Final = 0x8010001D
NO_READERS: Final = 0x8010002E
UNKNOWN_READER: Final = 0x80100009
NOT_TRANSACTED: Final = 0x80100016
REMOVED_CARD: Final = 0x80100069
NO_CARD: Final = 0x8010000C
TIME_OUT: Final = 0x8010000A

_SERVICE_DO = "start it: systemctl start pcscd.socket"

TABLE: Final[dict[int, Meaning]] = {
    TIME_OUT: Meaning("SCARD_E_TIMEOUT", Kind.TIME_OUT, "nothing happened"),
    0x80100002: Meaning("SCARD_E_CANCELLED", Kind.TIME_OUT, "the wait was cancelled"),
    NO_SERVICE: Meaning(
        "SCARD_E_NO_SERVICE",
        Kind.SERVICE,
        f"the smart-card service (pcscd) is not running; {_SERVICE_DO}",
    ),
    0x8010001E: Meaning(
        "SCARD_E_SERVICE_STOPPED",
        Kind.SERVICE,
        f"the smart-card service (pcscd) was stopped; {_SERVICE_DO}",
    ),
    0x80100013: Meaning(
        "SCARD_F_COMM_ERROR", Kind.SERVICE, "the smart-card service (pcscd) ended during a call"
    ),
    0x80100003: Meaning(
        "SCARD_E_INVALID_HANDLE", Kind.SERVICE, "the smart-card service (pcscd) was started anew"
    ),
    0x8010006A: Meaning(
        "SCARD_W_SECURITY_VIOLATION",
        Kind.SERVICE,
        "the smart-card service (pcscd) does not allow this user; allow it in polkit "
        "(org.debian.pcsc-lite.access_pcsc and access_card)",
    ),
    NO_READERS: Meaning(
        "SCARD_E_NO_READERS_AVAILABLE",
        Kind.READER,
        "no reader is connected; check its cable, and that the kernel's pn533 and nfc modules "
        "do not hold it",
    ),
    UNKNOWN_READER: Meaning(
        "SCARD_E_UNKNOWN_READER", Kind.READER, "the reader is no longer connected"
    ),
    0x80100017: Meaning("SCARD_E_READER_UNAVAILABLE", Kind.READER, "the reader was unplugged"),
    NO_CARD: Meaning("SCARD_E_NO_SMARTCARD", Kind.REMOVED, "no card in the field"),
    REMOVED_CARD: Meaning("SCARD_W_REMOVED_CARD", Kind.REMOVED, "the card was taken away"),
    NOT_TRANSACTED: Meaning(
        "SCARD_E_NOT_TRANSACTED", Kind.AGAIN, "the exchange with the card failed half-way"
    ),
    0x8010000B: Meaning(
        "SCARD_E_SHARING_VIOLATION", Kind.BUSY, "another program has the reader for itself"
    ),
    0x80100068: Meaning("SCARD_W_RESET_CARD", Kind.AGAIN, "another program reset the card"),
    0x80100066: Meaning("SCARD_W_UNRESPONSIVE_CARD", Kind.AGAIN, "the card does not start"),
    0x80100067: Meaning("SCARD_W_UNPOWERED_CARD", Kind.AGAIN, "the card has no power"),
    0x8010000F: Meaning("SCARD_E_PROTO_MISMATCH", Kind.AGAIN, "the card speaks another protocol"),
    0x80100008: Meaning(
        "SCARD_E_INSUFFICIENT_BUFFER", Kind.AGAIN, "the card's answer is over-long"
    ),
    0x8010001F: Meaning("SCARD_E_UNEXPECTED", Kind.OTHER, "the service refused the call"),
}


def unsigned(hresult: int) -> int:
    """A result code as pyscard gives it, as the unsigned number of the table."""
    return hresult & 0xFFFFFFFF


def meaning(code: int) -> Meaning:
    """What `code` means; codes not in the table are `Kind.OTHER`."""
    return TABLE.get(code) or Meaning(f"0x{code:08X}", Kind.OTHER, "an unknown PC/SC error")


def explain(code: int) -> str:
    """`code` for a log line or a technician: plain words, then name and number."""
    known = meaning(code)
    return f"{known.words} ({known.name}, {code:08X})"


def down(code: int) -> Down:
    """Why a reader that `code` keeps from working cannot be used."""
    match meaning(code).kind:
        case Kind.SERVICE:
            return Down.NO_SERVICE
        case Kind.READER:
            return Down.UNPLUGGED
        case Kind.TIME_OUT | Kind.REMOVED | Kind.BUSY | Kind.AGAIN | Kind.OTHER:
            return Down.FAILED
