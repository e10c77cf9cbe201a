"""The configured profiles as one: which of them a card is read by.

They are asked in their order. The next is asked only while the card has not shown that it is of a
profile's kind: a card that is, and fails then, is not read by a weaker profile, however often it is
tried. What is of no kind is refused, and told apart: a phone, a card without a number, something
else.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import assert_never

from edge.cards import CardRefused, CardUnusable, NotThisKind, Profile, Reading, Refusal
from edge.cards.classic_sector import classic_sector
from edge.cards.cpu_file import cpu_file
from edge.cards.id_card_b import id_card_b
from edge.cards.settings import Plan, ProfileName
from edge.cards.uid import uid

Profiles = Sequence[Callable[[], Profile]]
"""What begins each profile, in the order in which a card is asked."""


def profiles_of(plan: Plan) -> Profiles:
    """The plan's profiles."""
    return tuple(_begin(plan, name) for name in plan.profiles)


class Presentation:
    """One card at a reader, through as many attempts as reading it takes.

    Remembers the profile whose kind the card has shown: at the edge of the field a reader says of
    the same card that it is nothing of the sort, and tells the UID that it keeps.
    """

    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles
        self._shown: Callable[[], Profile] | None = None

    def identify(self) -> Profile:
        """One attempt: reads the card by the first of the profiles whose kind it is."""
        if self._shown is not None:
            try:
                return (yield from self._noting(self._shown))
            except NotThisKind as error:
                raise CardUnusable(f"it was of a kind before, now: {error}") from error
        for begin in self._profiles:
            try:
                return (yield from self._noting(begin))
            except NotThisKind:
                continue
        with suppress(CardUnusable):
            # A number that is none says best what was held there; one that is one is not kept.
            yield from uid()
        raise CardRefused(Refusal.UNKNOWN_KIND)

    def _noting(self, begin: Callable[[], Profile]) -> Profile:
        profile = begin()
        try:
            command = next(profile)
            while True:
                if command.of_kind:
                    self._shown = begin
                command = profile.send((yield command))
        except StopIteration as finished:
            reading: Reading = finished.value
            return reading
        finally:
            profile.close()


def _begin(plan: Plan, name: ProfileName) -> Callable[[], Profile]:
    match name:
        case ProfileName.UID:
            return uid
        case ProfileName.CLASSIC_SECTOR:
            assert plan.sector is not None  # noqa: S101 - as a plan promises
            return partial(
                classic_sector,
                plan.sector.place,
                plan.sector.key,
                plan.sector.which,
                plan.sector.numbering,
            )
        case ProfileName.CPU_FILE:
            return partial(cpu_file, plan.layout)
        case ProfileName.ID_CARD_B:
            return id_card_b
        case _:
            assert_never(name)
