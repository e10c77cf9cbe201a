"""Profile `id-card-b`: a resident ID card (二代身份证, ISO/IEC 14443 type B), to be refused.

It takes no identity from one: where its number can be asked for at all, it is for the police's
modules and not for a door. It only recognises the card, so that the door can say what to use
instead, also where a reader gives some number in the place of a UID. Nothing that the card answers
is kept.
"""

from typing import Final

from edge.cards import CardRefused, Command, NotThisKind, Profile, Refusal, complete
from edge.cards.uid import GET_UID

ASK: Final = Command(bytes.fromhex("0036000008"))
"""The card manager's own number: 8 bytes, which no other kind of card answers."""


def id_card_b() -> Profile:
    """Raises CardRefused for a resident ID card, NotThisKind for any other."""
    response = yield from complete(GET_UID)
    if response.succeeded and response.data and not any(response.data):
        raise CardRefused(Refusal.ID_CARD)
    response = yield from complete(ASK)
    if response.succeeded and len(response.data) == 8:
        raise CardRefused(Refusal.ID_CARD)
    raise NotThisKind("no resident ID card")
