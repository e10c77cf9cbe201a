"""What was presented and what was lit, kept outside of the process that is killed; and the verdict.

Pure: no clock, no file. Cards are presented one after the other, so a tap in the journal is of the
card that was presented last before it at that reader: the numbers of cards are sealed, and nothing
that the rehearsed process says of its own entries is believed.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_WIDTH: Final = 34
_MANY: Final = 8


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap in the scratch journal."""

    reader: str
    boottime_ms: int
    trusted: bool
    is_received: bool
    """Whether the hub's receipt covers it."""


@dataclass(frozen=True, slots=True)
class Light:
    """What was shown for a card."""

    recorded: bool
    words: str
    was_durable: bool
    """Whether the tap was found in the journal at the moment of the light."""


@dataclass(slots=True)
class Card:
    """A virtual card that was presented."""

    number: int
    reader: str
    at_ms: int
    """By CLOCK_BOOTTIME, before it was presented."""
    lights: list[Light]
    was_interrupted: bool = False
    """The power went before there was a light: whether it is recorded is open."""
    clock_is_wrong: bool = False
    """The clock was wrong, and known to be."""

    @property
    def is_lit(self) -> bool:
        return any(light.recorded for light in self.lights)


@dataclass(frozen=True, slots=True)
class Report:
    """What became of it; of each kind the numbers of the cards."""

    presented: int
    lit: int
    durable: int
    received: int | None
    """None: there was no hub."""
    lost: tuple[int, ...]
    """Lit as recorded, and not in the journal at the end."""
    doubled: tuple[int, ...]
    """More than once in the journal."""
    false: tuple[int, ...]
    """Lit as recorded before it was durable."""
    dark: tuple[int, ...]
    """No light came at all, and the power was on."""
    red: tuple[tuple[int, str], ...]
    """A red light, and its words."""
    unreceived: tuple[int, ...]
    """In the journal, and no receipt came in time."""
    misdated: tuple[int, ...]
    """Recorded as of a clock to be trusted, which was not."""
    strange: int
    """Taps in the journal of no card that was presented."""
    failures: tuple[str, ...]
    """What else went wrong."""

    @property
    def passed(self) -> bool:
        """Whether every promise was kept, and all came through."""
        return not (
            self.lost
            or self.doubled
            or self.false
            or self.dark
            or self.red
            or self.unreceived
            or self.misdated
            or self.strange
            or self.failures
        )


class Ledger:
    """Notes what happens, in order."""

    def __init__(self) -> None:
        self.cards: list[Card] = []
        self.failures: list[str] = []

    def present(self, reader: str, at_ms: int) -> Card:
        """A new card at `reader`; later than the last one."""
        card = Card(len(self.cards) + 1, reader, at_ms, [])
        self.cards.append(card)
        return card

    def of(self, taps: Iterable[Tap]) -> tuple[dict[int, list[Tap]], int]:
        """The taps of each card by its number, and how many are of none."""
        starts = [card.at_ms for card in self.cards]
        found: dict[int, list[Tap]] = {}
        strange = 0
        for tap in taps:
            at = bisect_right(starts, tap.boottime_ms) - 1
            if at < 0 or self.cards[at].reader != tap.reader:
                strange += 1
            else:
                found.setdefault(self.cards[at].number, []).append(tap)
        return found, strange

    def report(self, taps: Sequence[Tap], *, with_hub: bool) -> Report:
        """The verdict, by the taps that the journal holds at the end."""
        of, strange = self.of(taps)
        cards = self.cards

        def those(*numbers: bool) -> tuple[int, ...]:
            return tuple(card.number for card, yes in zip(cards, numbers, strict=True) if yes)

        received = [
            bool(of.get(c.number)) and all(t.is_received for t in of[c.number]) for c in cards
        ]
        return Report(
            presented=len(cards),
            lit=sum(card.is_lit for card in cards),
            durable=len(of),
            received=sum(received) if with_hub else None,
            lost=those(*(card.is_lit and card.number not in of for card in cards)),
            doubled=those(*(len(of.get(card.number, ())) > 1 for card in cards)),
            false=those(
                *(any(each.recorded and not each.was_durable for each in c.lights) for c in cards)
            ),
            dark=those(*(not card.lights and not card.was_interrupted for card in cards)),
            red=tuple(
                (card.number, light.words)
                for card in cards
                for light in card.lights
                if not light.recorded
            ),
            unreceived=those(
                *(
                    with_hub and card.number in of and not each
                    for card, each in zip(cards, received, strict=True)
                )
            ),
            misdated=those(
                *(c.clock_is_wrong and any(t.trusted for t in of.get(c.number, ())) for c in cards)
            ),
            strange=strange,
            failures=tuple(self.failures),
        )


def table(report: Report) -> list[str]:
    """The report in words, a line each."""
    received = "离线，未试 (offline)" if report.received is None else report.received
    lines = [
        _row("模拟刷卡 presented", report.presented),
        _row("亮灯为已记录 lit as recorded", report.lit),
        _row("已存入存储卡 durable", report.durable),
        _row("服务器已收到 received by the hub", received),
        _row("丢失 lost", _named(report.lost)),
        _row("重复 doubled", _named(report.doubled)),
        _row("误亮（未存先亮） false lights", _named(report.false)),
        _row("没有亮灯 no light", _named(report.dark)),
        _row("红灯 red lights", _named([number for number, _ in report.red])),
    ]
    lines += [f"    {number}: {words}" for number, words in report.red[:_MANY]]
    for title, numbers in (
        ("没有等到服务器回执 no receipt in time", report.unreceived),
        ("时钟不可信却记为可信 wrong clock trusted", report.misdated),
    ):
        if numbers:
            lines.append(_row(title, _named(numbers)))
    if report.strange:
        lines.append(_row("没有刷过却有记录 recorded, never presented", report.strange))
    lines += [f"! {failure}" for failure in report.failures]
    return lines


def _row(title: str, value: object) -> str:
    width = sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in title)
    return f"{title}{' ' * max(1, _WIDTH - width)} {value}"


def _named(numbers: Sequence[int]) -> str:
    """How many, and the first of them by number."""
    if not numbers:
        return "0"
    shown = ", ".join(f"{number}" for number in numbers[:_MANY])
    return f"{len(numbers)} ({shown}{', …' if len(numbers) > _MANY else ''})"
