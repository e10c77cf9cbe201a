"""The configured profiles as one: which of them a card is read by.

They are asked in their order. The next is asked only while the card has not shown that it is of a
profile's kind: a card that is, and fails then, is not read by a weaker profile. What is of no kind
is refused, and told apart: a phone, a card without a number, something else.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import assert_never

from edge.cards import CardRefused, CardUnusable, NotThisKind, Profile, Refusal
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


def identify(profiles: Profiles) -> Profile:
    """Reads a card by the first of `profiles` whose kind it is."""
    for begin in profiles:
        try:
            return (yield from begin())
        except NotThisKind:
            continue
    with suppress(CardUnusable):
        # A number that is none says best what was held there; one that is a number is not kept.
        yield from uid()
    raise CardRefused(Refusal.UNKNOWN_KIND)


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
