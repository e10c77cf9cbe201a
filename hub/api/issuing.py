"""`/api/v1/desk`: a desk station (发卡台) says what it read, and whose card that becomes.

Of a card's number nothing but the last characters leaves the hub. See `hub.issuing`.
"""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import Field

from hub import cards, issuing
from hub.api.answers import DONE, problem
from hub.api.models import In, Moment, Out, PersonOut, Time, Told, person
from hub.api.taps import CardOut, card_out, doing, ms
from hub.audit import Look
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.cards import MAX_CARD_CODE_CHARS
from hub.context import Context, Hub, api_right
from hub.domain.terms import CardState
from hub.store.scope import find_member
from protocol.credential import (
    MAX_FIELD_CHARS,
    MEMBER_SCHEME,
    REHEARSAL_SCHEME,
    Credential,
    InvalidCredentialError,
)

Asking = Annotated[Caller, Depends(api_right(Right.TAPS))]

router = APIRouter(prefix="/api/v1/desk", tags=["desk"])

_NO_CARDS = frozenset({MEMBER_SCHEME, REHEARSAL_SCHEME})
"""Schemes that no card has."""


class ReadRequest(In):
    """The three texts that identify a card, as a reader gives them."""

    scheme: str = Field(min_length=1, max_length=MAX_FIELD_CHARS, description="Such as `uid`.")
    issuer: str = Field("", max_length=MAX_FIELD_CHARS, description="Empty for `uid`.")
    value: str = Field(min_length=1, max_length=MAX_FIELD_CHARS)


class DeskBindRequest(In):
    """Whose card it becomes."""

    member: UUID
    valid_from: Moment | None = Field(
        None, description="By default the first tap of it that waits in the sub-tree, else now."
    )
    code: str | None = Field(
        None,
        max_length=MAX_CARD_CODE_CHARS,
        pattern=r"^\S*$",
        description="Of a card that the hub does not know; by default one is made up.",
    )


class ReplaceRequest(DeskBindRequest):
    """Whose card it becomes, in place of which."""

    card: UUID = Field(description="A card of the member, which ends now.")
    lost: bool = Field(False, description="The old card is reported lost.")


class ReadingOut(Out):
    """The card that was read."""

    public_id: str
    card_last: str = Field(description="The last characters of its number.")
    state: CardState = Field(
        description="ELSEWHERE: somebody's outside of the sub-tree. WITHDRAWN cards are ENDED."
    )
    holder: PersonOut | None = Field(description="Whose it is or was, within the sub-tree.")
    card: str | None = Field(description="The card, where there is a holder.")
    since: Time | None = Field(description="Of the first tap of it that waits in the sub-tree.")
    at: Time
    expires_at: Time = Field(description="Then the hub has forgotten it.")


@router.post(
    "/readings",
    responses={**DONE, 429: problem("The token has read too many cards within a minute.")},
    status_code=201,
)
def read_card(request: Request, caller: Asking, hub: Hub, wanted: ReadRequest) -> ReadingOut:
    """A station has read a card. What it read before is forgotten, unless it was used."""
    if wanted.scheme in _NO_CARDS:
        raise HTTPException(422, "scheme: is none of a card")
    if not (wanted.scheme + wanted.issuer + wanted.value).isprintable():
        raise HTTPException(422, "scheme, issuer, value: must be text without control characters")
    try:
        credential = Credential(wanted.scheme, wanted.issuer, wanted.value)
    except InvalidCredentialError:  # which would quote the number
        raise HTTPException(422, "value: is no number that a card of this scheme has") from None
    brake: issuing.Brake = request.app.state.desk_brake
    if caller.token_id is not None and not brake.lets(caller.token_id, hub.clock()):
        raise HTTPException(
            429,
            f"more than {issuing.READS_A_MINUTE} cards within a minute: wait one, then go on",
            {"Retry-After": "60"},
        )
    with doing(hub) as conn:
        name = issuing.note(conn, caller, credential, hub.clock())
        found = issuing.heard(conn, caller, name, hub.clock())
    if found.holder_id is not None:
        hub.looks(caller, Look("card.api", member_id=found.holder_id))
    told = Told(hub.zone)
    return ReadingOut(
        public_id=found.public_id,
        card_last=found.last,
        state=found.state,
        holder=None if found.holder is None else person(found.holder),
        card=found.card,
        since=told.maybe(found.since_ms),
        at=told.time(found.at_ms),
        expires_at=told.time(found.expires_ms),
    )


@router.post("/readings/{reading}/bind", responses=DONE)
def bind_read_card(caller: Asking, hub: Hub, reading: UUID, wanted: DeskBindRequest) -> CardOut:
    """The card that was read is the member's. The same again gives the same answer."""
    return _bind(caller, hub, reading, wanted, None, is_lost=False)


@router.post("/readings/{reading}/replace", responses=DONE)
def replace_card(caller: Asking, hub: Hub, reading: UUID, wanted: ReplaceRequest) -> CardOut:
    """The card that was read is the member's, and an old one ends; both or neither."""
    return _bind(caller, hub, reading, wanted, wanted.card, is_lost=wanted.lost)


@router.post("/readings/{reading}/undo", responses=DONE, status_code=204)
def undo_reading(caller: Asking, hub: Hub, reading: UUID) -> None:
    """Take back what became of it: of what the station has done, the last first."""
    with doing(hub) as conn:
        issuing.undo(conn, caller, reading, hub.clock())


def _bind(
    caller: Caller,
    hub: Context,
    name: UUID,
    wanted: DeskBindRequest,
    old: UUID | None,
    *,
    is_lost: bool,
) -> CardOut:
    now_ms, scope = hub.clock(), caller.organisation_id
    with doing(hub) as conn:
        card = issuing.bind(
            conn,
            caller,
            name,
            wanted.member,
            now_ms,
            valid_from_ms=None if wanted.valid_from is None else ms(wanted.valid_from),
            code=wanted.code or "",
            old=old,
            is_lost=is_lost,
        )
        holder = find_member(conn, scope, wanted.member, now_ms)
        held = cards.cards_of(conn, scope, holder.id, now_ms)
    return next(card_out(each, Told(hub.zone)) for each in held if each.public_id == str(card))
