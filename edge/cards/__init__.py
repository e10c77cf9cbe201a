"""Card profiles: how an identity is read from a card, as pure generators over APDUs.

A profile yields each `Command` that it wants the card to answer, is sent the `Response`, and
returns a `Reading`, or raises `CardRefused` (this card is no identity here, trying again is
pointless), `CardUnusable` (what it answered makes no sense, trying again may help) or, before the
card has shown that it is of the profile's kind, `NotThisKind` (the next profile may ask). A profile
knows no reader, no clock and no transport; `run` joins it to one, edge.cards.choose the several.

Nothing here trusts a card: the number of exchanges and the length of answers are bounded.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from enum import StrEnum
from typing import Final

from protocol.credential import Assurance, Credential

MAX_EXCHANGES: Final = 64
"""Exchanges that `run` grants one profile: several files and an authentication fit well."""

MAX_CHAINED: Final = 16
"""GET RESPONSE commands that `complete` sends for one command (16 times 256 bytes)."""

_MORE_DATA: Final = 0x61
_WRONG_LE: Final = 0x6C
_MAX_ANSWER: Final = 258


class Refusal(StrEnum):
    """Why a card that was read well is still no identity."""

    RANDOM_NUMBER = "random-number"
    """The number is new at each tap, as phones and watches send it."""
    NO_NUMBER = "no-number"
    """All zero: the card hides its number (resident ID cards do)."""
    ID_CARD = "id-card"
    """A resident ID card (二代身份证)."""
    BLANK = "blank"
    """Of the right kind, but nothing has been written where its number should stand."""
    UNKNOWN_KIND = "unknown-kind"
    """Of no kind that is read here."""


class CardError(Exception):
    """A card gave no identity."""


class CardRefused(CardError):  # noqa: N818 - a refusal is an answer, not a defect
    """The card was read and can be no identity; `reason` says why."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason.value)
        self.reason = reason


class CardUnusable(CardError):  # noqa: N818 - as above
    """The card answered nonsense or an error; the message holds no card number."""


class NotThisKind(CardError):  # noqa: N818 - as above
    """The card is none that the profile reads, as far as it has shown."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command APDU, ISO/IEC 7816-4 §5.1: at least the header CLA INS P1 P2."""

    apdu: bytes
    of_kind: bool = False
    """Only a card that has shown that it is of the profile's kind is asked this."""

    def __post_init__(self) -> None:
        if len(self.apdu) < 4:
            raise ValueError("a command APDU has at least 4 bytes")


@dataclass(frozen=True, slots=True)
class Response:
    """A response APDU: `data` without the status bytes `sw1`, `sw2`."""

    data: bytes
    sw1: int
    sw2: int

    @property
    def succeeded(self) -> bool:
        return (self.sw1, self.sw2) == (0x90, 0x00)

    @property
    def status(self) -> str:
        """The status bytes as four upper-case hex digits, or words where they may be none.

        An answer that is nonsense ends in two bytes of what it should not have been, perhaps of a
        card number: only an answer that is a status alone (ISO/IEC 7816-4 §5.1.3) is one for sure.
        """
        if self.data or self.sw1 >> 4 not in {0x6, 0x9}:
            return f"{len(self.data) + 2} bytes without success"
        return f"{self.sw1:02X}{self.sw2:02X}"

    @classmethod
    def parse(cls, raw: bytes) -> "Response":
        """The response in `raw`; CardUnusable when it has no status or is over-long."""
        if len(raw) < 2:
            raise CardUnusable(f"an answer of {len(raw)} bytes has no status")
        if len(raw) > _MAX_ANSWER:
            raise CardUnusable(f"an answer of {len(raw)} bytes is longer than a card may send")
        return cls(bytes(raw[:-2]), raw[-2], raw[-1])


_CHINA: Final = timezone(timedelta(hours=8))


@dataclass(frozen=True, slots=True)
class Validity:
    """The days, both included, for which a card says that it is valid; in China's time."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError("a validity does not end before it begins")

    def holds(self, at_ms: int) -> bool:
        """Whether it covers a moment, in ms since the Unix epoch."""
        day = datetime.fromtimestamp(at_ms // 1000, UTC).astimezone(_CHINA).date()
        return self.first <= day <= self.last


@dataclass(frozen=True, slots=True)
class Reading:
    """What a profile made of a card; `valid` where the card has dates. Out of them it is an
    identity all the same.
    """

    credential: Credential
    assurance: Assurance
    valid: Validity | None = None


Profile = Generator[Command, Response, Reading]
"""One reading in progress."""


def run(
    profile: Profile, transmit: Callable[[bytes], bytes], *, max_exchanges: int = MAX_EXCHANGES
) -> Reading:
    """Runs `profile` against a card: `transmit` takes a command APDU and gives the raw answer.

    Raises CardRefused or CardUnusable; whatever `transmit` raises passes through.
    """
    try:
        command = next(profile)
        for _ in range(max_exchanges):
            command = profile.send(Response.parse(transmit(command.apdu)))
    except StopIteration as finished:
        reading: Reading = finished.value
        return reading
    finally:
        profile.close()
    raise CardUnusable(f"no end after {max_exchanges} exchanges")


def complete(command: Command) -> Generator[Command, Response, Response]:
    """Sends `command` and sees it through to a final status.

    6Cxx repeats the command once with Le = xx; 61xx fetches the rest with GET RESPONSE
    (ISO/IEC 7816-4 §5.3.4), at most MAX_CHAINED times. Other statuses are the caller's to judge.
    Raises CardUnusable when the card asks for more than that.
    """
    response = yield command
    if response.sw1 == _WRONG_LE:
        response = yield Command(_without_le(command.apdu) + bytes([response.sw2]))
        if response.sw1 == _WRONG_LE:
            raise CardUnusable("the card refuses the length that it asked for (6Cxx twice)")
    data = response.data
    for _ in range(MAX_CHAINED):
        if response.sw1 != _MORE_DATA:
            return Response(data, response.sw1, response.sw2)
        response = yield Command(bytes([0x00, 0xC0, 0x00, 0x00, response.sw2]))
        data += response.data
    raise CardUnusable(f"the card still has data after {MAX_CHAINED} GET RESPONSE (61xx)")


def _without_le(apdu: bytes) -> bytes:
    """The command up to its Le, ISO/IEC 7816-4 §5.2: the fifth byte counts data that follow it."""
    if len(apdu) <= 5:
        return apdu[:4]
    return apdu[: 5 + apdu[4]]


def said_not_here(response: Response) -> bool:
    """Whether a card, or a reader in its place, says that it has no such command or file.

    Reader: 6300, 6900 and 6A81 for what memory cards do not have. Card, ISO/IEC 7816-4 §5.6: 6700
    length, 6881, 6882 channel or secure messaging, 6999 no such applet (GlobalPlatform), 6A82 no
    such file, 6A86, 6A87 parameters, 6D00 instruction, 6E00 class.
    """
    return not response.data and (response.sw1, response.sw2) in _NOT_HERE


_NOT_HERE: Final = frozenset(
    (status >> 8, status & 0xFF)
    for status in (
        0x6300,
        0x6700,
        0x6881,
        0x6882,
        0x6900,
        0x6999,
        0x6A81,
        0x6A82,
        0x6A86,
        0x6A87,
        0x6D00,
        0x6E00,
    )
)
