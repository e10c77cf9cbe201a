"""Profile `uid`: the number that a contactless card sends before anything else.

It is trivially cloned (Assurance.UID) and works with every contactless card. It refuses numbers
that are none: all-zero, and random ones as phones send them.
"""

from typing import Final

from edge.cards import CardRefused, CardUnusable, Command, Profile, Reading, Refusal, complete
from protocol.credential import Assurance, InvalidCredentialError, uid_credential

GET_UID: Final = Command(bytes.fromhex("FFCA000000"))
"""GET DATA of the UID, PC/SC part 3 §3.2.2.1.3; the reader answers it, not the card."""

_LENGTHS: Final = frozenset({4, 7, 8, 10})


def uid() -> Profile:
    """Reads the UID. CardUnusable on any status but 9000 and on a length that no UID has: under
    load a reader may answer with something else, for instance the ATR.
    """
    response = yield from complete(GET_UID)
    if not response.succeeded:
        raise CardUnusable(f"GET DATA of the UID gave {response.status}")
    return reading_of(response.data)


def reading_of(number: bytes) -> Reading:
    """What a UID comes to, also where a reader types it. Raises as `uid` does."""
    if len(number) not in _LENGTHS:
        raise CardUnusable(f"{len(number)} bytes are no UID (4, 7, 8 or 10)")
    if not any(number):
        raise CardRefused(Refusal.NO_NUMBER)
    if not number.strip(b"\xff"):
        raise CardUnusable("nothing but FF is no UID")
    if len(number) == 4 and number[0] == 0x08:
        raise CardRefused(Refusal.RANDOM_NUMBER)
    try:
        return Reading(uid_credential(number), Assurance.UID)
    except InvalidCredentialError as error:
        # Only if protocol.credential has come to refuse more than this module knows.
        raise CardUnusable("the UID is not accepted as a credential") from error
