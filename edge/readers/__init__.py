"""Readers: what every driver reports, and how it is started and stopped.

A driver tells of its readers and cards by events and nothing else. It promises for each reader:

- `ReaderUp` and `ReaderDown` alternate, beginning with `ReaderUp`;
- each `CardSeen` is followed by exactly one `CardRead` or `CardUnreadable` of the same
  generation, in bounded time, also where the card or the reader never answers; they carry the
  same `boottime_ms`, the moment at which the card was noticed;
- `CardGone` comes after that outcome, once per `CardSeen`, when the card has left or nothing can
  be said of it any more (the reader went down);
- the sink is called by one thread at a time, and never after `stop` has returned.

A driver does not debounce, knows no member and records nothing.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from edge.cards import Refusal, Validity
from protocol.credential import Assurance, Credential

WIRE_NAME_CHARS: Final = 64
"""A reader's name on the wire has at most this many characters."""


class Unreadable(StrEnum):
    """Why a card that was seen could not be read."""

    TIMEOUT = "timeout"
    """No answer within the bound: a silent card, or another program holds the reader."""
    REMOVED = "removed"
    """The card left before it was read."""
    BUSY = "busy"
    """Another program has the reader for itself."""
    BAD_ANSWER = "bad-answer"
    """The card's answers make no sense, also when asked again."""
    RANDOM_NUMBER = "random-number"
    """A phone or watch: its number is new at each tap."""
    NO_NUMBER = "no-number"
    """The card hides its number, as resident ID cards do."""
    ID_CARD = "id-card"
    """A resident ID card."""
    BLANK = "blank"
    """Of the right kind, but nobody has written a number into it."""
    UNKNOWN_KIND = "unknown-kind"
    """A card of no kind that is read here."""

    @classmethod
    def because(cls, refusal: Refusal) -> "Unreadable":
        """The reason that a profile's refusal is to a reader."""
        return cls(refusal.value)

    @property
    def wording(self) -> str:
        """What the door tells the person, in Chinese."""
        return _WORDING[self]


_WORDING: Final = {
    Unreadable.TIMEOUT: "没有读到卡，请再刷一次",
    Unreadable.REMOVED: "卡拿开太快，请停留一下再刷一次",
    Unreadable.BUSY: "读卡器正忙，请稍后再刷一次",
    Unreadable.BAD_ANSWER: "没有读清，请再刷一次",
    Unreadable.RANDOM_NUMBER: "手机、手表不能代替党员卡，请刷实体卡",
    Unreadable.NO_NUMBER: "此卡（如身份证）不能用于签到，请刷党员卡",
    Unreadable.ID_CARD: "身份证不能用于签到，请刷党员卡",
    Unreadable.BLANK: "此卡还没有写入号码，请联系工作人员",
    Unreadable.UNKNOWN_KIND: "不是党员卡（如手机、银行卡），请刷党员卡",
}


class Down(StrEnum):
    """Why a reader cannot be used."""

    NO_SERVICE = "no-service"
    """The smart-card service (pcscd) is not running, or ended."""
    UNPLUGGED = "unplugged"
    """The reader is gone."""
    NOT_ANSWERING = "not-answering"
    """The reader, its driver or the service hangs."""
    FAILED = "failed"
    """Anything else; the log has the particulars."""


@dataclass(frozen=True, slots=True)
class ReaderUp:
    """The reader works: a card held to it will be seen."""

    reader: str


@dataclass(frozen=True, slots=True)
class ReaderDown:
    """The reader cannot see cards until its next ReaderUp."""

    reader: str
    reason: Down


@dataclass(frozen=True, slots=True)
class CardSeen:
    """A card is in the field and being read.

    `generation` tells one presentation of a card from the next on the same reader; it may begin
    anew after a ReaderDown. `boottime_ms` is CLOCK_BOOTTIME when the card was noticed.
    """

    reader: str
    generation: int
    boottime_ms: int


@dataclass(frozen=True, slots=True)
class CardRead:
    """The card seen as `generation` has this identity."""

    reader: str
    generation: int
    boottime_ms: int
    credential: Credential
    assurance: Assurance
    valid: Validity | None = None
    """The days for which the card says that it is valid, where it does."""


@dataclass(frozen=True, slots=True)
class CardUnreadable:
    """The card seen as `generation` gave no identity."""

    reader: str
    generation: int
    boottime_ms: int
    reason: Unreadable


@dataclass(frozen=True, slots=True)
class CardGone:
    """The card seen as `generation` is no longer there."""

    reader: str
    generation: int


ReaderEvent = ReaderUp | ReaderDown | CardSeen | CardRead | CardUnreadable | CardGone

Sink = Callable[[ReaderEvent], None]
"""Takes an event and returns at once (puts it into a queue): a slow sink delays every reader."""


@dataclass(frozen=True, slots=True)
class ReaderHealth:
    """One reader as it is now; `trouble` is empty, or says in plain English what is wrong."""

    reader: str
    up: bool
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """A driver as it is now; `trouble` concerns all its readers (no service, no reader)."""

    driver: str
    readers: tuple[ReaderHealth, ...] = ()
    trouble: str = ""

    @property
    def working(self) -> bool:
        """True while at least one reader can see cards."""
        return any(reader.up for reader in self.readers)


class Readers(Protocol):
    """A driver with any number of readers."""

    def start(self, sink: Sink) -> None:
        """Begins to report; returns at once, also when there is no reader. Call it once."""

    def stop(self) -> None:
        """Ends all that `start` began and waits for it, a few seconds at most."""

    def health(self) -> Health:
        """How it is now; from any thread."""

    def alive(self) -> bool:
        """Whether it can still report; False only by a defect, which no waiting mends."""


def wire_name(reader: str) -> str:
    """`reader` as it may travel: valid Unicode of at most WIRE_NAME_CHARS characters.

    A longer name is cut and ends in eight hex digits of its SHA-256, so that two readers whose
    names differ late stay two.
    """
    whole = reader.encode("utf-8", "surrogateescape")
    text = whole.decode("utf-8", "replace")
    if len(text) <= WIRE_NAME_CHARS:
        return text
    digest = hashlib.sha256(whole).hexdigest()[:8]
    return f"{text[: WIRE_NAME_CHARS - 9]}~{digest}"
