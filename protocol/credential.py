"""What a card says of itself: a Credential, and how far it can be trusted.

A card's Credential identifies; it names nobody. Whose it is, only the hub knows. Two schemes
are no card's: with `member` a device says whom somebody spoke of, with `rehearsal` it tries itself.
"""

import re
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final

UID_SCHEME: Final = "uid"
CLASSIC_SECTOR_SCHEME: Final = "classic-sector"
"""A number that stands in a sector of a Mifare Classic card."""
CPU_FILE_SCHEME: Final = "cpu-file"
"""The issuer and serial number that stand in a file of a CPU card."""
MEMBER_SCHEME: Final = "member"
"""Names a member by the code of the register: whom an act at a reader speaks of. No card has it."""

REHEARSAL_SCHEME: Final = "rehearsal"
"""Of the virtual cards of a rehearsal, see `protocol.journal.EpochHeader`. No card has it."""

MAX_FIELD_CHARS: Final = 64
"""Upper bound of each of a Credential's three texts, in characters."""


class Assurance(IntEnum):
    """How hard the credential is to copy; it travels with every tap."""

    UID = 0
    """A serial number sent in clear before any key: trivially cloned."""
    DATA = 1
    """Read from the card's files or sectors: copied with effort."""
    AUTHENTICATED = 2
    """The card proved that it holds a key."""


class CardNumberFormat(StrEnum):
    """How a list of card numbers writes a UID; see `uid_from`."""

    HEX = "hex"
    HEX_REVERSED = "hex-reversed"
    DEC10 = "dec10"
    DEC10_REVERSED = "dec10-reversed"
    DEC8 = "dec8"


class InvalidCredentialError(ValueError):
    """A text that cannot be an identity; the message says why."""


@dataclass(frozen=True, slots=True)
class Credential:
    """(scheme, issuer, value): the three texts that together identify a card.

    `scheme` is the profile's name (`uid`), `issuer` who numbers the values (empty for `uid`),
    `value` the identifier itself; a `uid` is upper-case hex in the order in which the reader
    returns it (PC/SC part 3, GET DATA `FF CA 00 00 00`), without separators. A `member` has no
    issuer either; its value is the member's code as the hub's register has it, which neither blanks
    nor control characters stand in. `cpu_file_credential` and `classic_sector_credential` say what
    stands in theirs.
    """

    scheme: str
    issuer: str
    value: str = field(repr=False)  # a log shows no card number, whatever is printed there

    def __post_init__(self) -> None:
        for name, text in (
            ("scheme", self.scheme),
            ("issuer", self.issuer),
            ("value", self.value),
        ):
            if len(text) > MAX_FIELD_CHARS:
                raise InvalidCredentialError(f"{name} has more than {MAX_FIELD_CHARS} characters")
        if not self.scheme or not self.value:
            raise InvalidCredentialError("a credential needs a scheme and a value")
        if self.scheme == UID_SCHEME:
            if self.issuer:
                raise InvalidCredentialError("a uid has no issuer")
            _check_uid(self.value)
        elif self.scheme == MEMBER_SCHEME:
            if self.issuer:
                raise InvalidCredentialError("a member's code has no issuer")
            if re.search(r"[\s\x00-\x1f\ud800-\udfff]", self.value):
                raise InvalidCredentialError("no blank or control may stand in a member's code")


def uid_credential(uid: bytes) -> Credential:
    """The credential of a UID as the reader returned it.

    Raises InvalidCredentialError for a length that no card has (ISO/IEC 14443-3 §6.5: 4, 7 or
    10 bytes; ISO/IEC 15693-3: 8), for an all-zero UID, and for a random one (first byte 08,
    ISO/IEC 14443-3 §6.5.4), which phones send anew at each tap.
    """
    return Credential(UID_SCHEME, "", uid.hex().upper())


def cpu_file_credential(issuer: str, serial: str) -> Credential:
    """The credential of a CPU card's public file: the issuer's code, 16 hex digits, and the serial
    number, an even number of hex digits. Raises InvalidCredentialError, also where nothing but
    zeros or F is written.
    """
    issuer, serial = issuer.upper(), serial.upper()
    if not re.fullmatch(r"[0-9A-F]{16}", issuer):
        raise InvalidCredentialError("an issuer's code is 16 hex digits")
    if not re.fullmatch(r"(?:[0-9A-F]{2})+", serial):
        raise InvalidCredentialError("a serial number is an even number of hex digits")
    if not serial.strip("0") or not serial.strip("F"):
        raise InvalidCredentialError("a serial number of zeros or F identifies nothing")
    return Credential(CPU_FILE_SCHEME, issuer, serial)


def classic_sector_credential(numbering: str, number: str) -> Credential:
    """The credential of a number in a card's sector; `numbering` names who gives such numbers.

    Raises InvalidCredentialError where one is empty or has blanks or what cannot be printed, and
    where the number is nothing but zeros.
    """
    for name, text in (("numbering", numbering), ("number", number)):
        if not text or not text.isprintable() or re.search(r"\s", text):
            raise InvalidCredentialError(f"a {name} is not empty, without blanks, and printable")
    if not number.strip("0"):
        raise InvalidCredentialError("a number of zeros identifies nothing")
    return Credential(CLASSIC_SECTOR_SCHEME, numbering, number)


def member_credential(code: str) -> Credential:
    """Whom an act at a reader speaks of; InvalidCredentialError where no member has such a code."""
    if len(code) > MAX_FIELD_CHARS:
        raise InvalidCredentialError(
            f"a member's code has at most {MAX_FIELD_CHARS} characters, not {len(code)}"
        )
    if not code:
        raise InvalidCredentialError("a member's code is not empty")
    return Credential(MEMBER_SCHEME, "", code)


def uid_from(number: str, number_format: CardNumberFormat) -> Credential:
    """The credential of a card number as a list writes it; see `uid_bytes`, and `uid_credential`
    for the numbers that are none, of which nothing but F is another.
    """
    uid = uid_bytes(number, number_format)
    if not uid.strip(b"\xff"):
        raise InvalidCredentialError("a uid of nothing but F identifies nothing")
    return uid_credential(uid)


def uid_bytes(number: str, number_format: CardNumberFormat) -> bytes:
    """The bytes of a card number as a list or a wedge writes it.

    `hex`: as the reader returns it; `hex-reversed`: bytes in the opposite order; `dec10`: the four
    UID bytes, first byte lowest, as one decimal number of ten digits (common wedge readers);
    `dec10-reversed`: the same, first byte highest;
    `dec8`: three digits of one byte and five of two, which cannot name a four-byte UID and is
    therefore refused. Raises InvalidCredentialError with the reason.
    """
    text = number.strip()
    match number_format:
        case CardNumberFormat.HEX | CardNumberFormat.HEX_REVERSED:
            digits = re.sub(r"[ :\-]", "", text).upper()
            if not re.fullmatch(r"(?:[0-9A-F]{2})+", digits):
                raise InvalidCredentialError(f"{text!r} is not an even number of hex digits")
            uid = bytes.fromhex(digits)
            return uid[::-1] if number_format is CardNumberFormat.HEX_REVERSED else uid
        case CardNumberFormat.DEC10 | CardNumberFormat.DEC10_REVERSED:
            if not re.fullmatch(r"[0-9]{10}", text):
                raise InvalidCredentialError(
                    f"{text!r} is not ten digits (were leading zeros lost in a spreadsheet?)"
                )
            value = int(text)
            if value >= 1 << 32:
                raise InvalidCredentialError(f"{text!r} is more than four bytes can hold")
            lowest_first = number_format is CardNumberFormat.DEC10
            return value.to_bytes(4, "little" if lowest_first else "big")
        case CardNumberFormat.DEC8:
            raise InvalidCredentialError(
                f"{text!r}: dec8 shows three of a card's four bytes and fits 256 cards; "
                "export the list as hex or dec10"
            )


def _check_uid(value: str) -> None:
    if not re.fullmatch(r"(?:[0-9A-F]{2})+", value):
        raise InvalidCredentialError(f"uid {value!r} is not upper-case hex")
    length = len(value) // 2
    if length not in {4, 7, 8, 10}:
        raise InvalidCredentialError(f"a uid has 4, 7, 8 or 10 bytes, not {length}")
    if not value.strip("0"):
        raise InvalidCredentialError("an all-zero uid identifies nothing")
    if length == 4 and value.startswith("08"):
        raise InvalidCredentialError("a uid that begins with 08 is random, new at each tap")
