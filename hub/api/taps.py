"""`/api/v1/taps` and `/api/v1/cards`: what waits for a person, and whose card it is.

Of a card's number nothing but the last characters leaves the hub.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import Field
from sqlalchemy import Connection

from hub import cards, taps
from hub.api.answers import DONE, OF_ONE
from hub.api.models import In, Moment, Out, Period, PersonOut, Ref, Time, Told, named, person
from hub.audit import Look
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.cards import MAX_CARD_CODE_CHARS, HeldCard
from hub.context import Context, Hub, api_right
from hub.days import span_ms
from hub.devices import DeviceError
from hub.domain.terms import CardStatus, Outcome
from hub.store.engine import reading
from hub.store.scope import find_card, find_meeting, find_member, find_venue
from hub.taps import Asked, Choice, FoundTap, Line, TapError
from hub.venues import VenueError
from hub.web.words import Language, speaking, t

Asking = Annotated[Caller, Depends(api_right(Right.TAPS))]

router = APIRouter(prefix="/api/v1", tags=["taps"])


# --- In -----------------------------------------------------------------------------------------


class Waits(Period):
    """The query of the list of taps; by default of the last days."""

    outcome: Outcome = Query(
        Outcome.UNMATCHED, description="UNMATCHED, UNPLACED or UNDATED: what waits for a person."
    )
    venue: UUID | None = Query(None, description="At this venue.")
    meeting: UUID | None = Query(
        None, description="At this meeting's venue in its window; the days are of no matter then."
    )


class BindRequest(In):
    """Whose card it is."""

    member: UUID
    valid_from: Moment
    card: UUID | None = Field(
        None, description="A card that the member has, of which this is another number."
    )
    code: str | None = Field(
        None,
        max_length=MAX_CARD_CODE_CHARS,
        pattern=r"^\S*$",
        description="Of a new card; by default one is made up.",
    )


class AssignRequest(In):
    """Which meeting it was."""

    meeting: UUID


class AtRequest(In):
    """From when on."""

    at: Moment


class LostRequest(In):
    """From when on."""

    at: Moment | None = Field(None, description="By default now.")


# --- Out ----------------------------------------------------------------------------------------


class WaitingTapOut(Out):
    """One tap, or all taps of one unknown card at one venue."""

    tap: str = Field(description="The name of the tap; of several, of the first.")
    outcome: Outcome
    venue: Ref | None
    device: str
    card_last: str = Field(description="The last characters of the number; empty: none is known.")
    taps: int
    first_at: Time | None
    last_at: Time | None
    earliest: Time | None = Field(description="Where there is no exact time: not before.")
    latest: Time | None = Field(description="Where there is no exact time: not after.")
    person: PersonOut | None = Field(
        description="Whose card it is; of who is not of the sub-tree only the branch."
    )


class WaitingCounts(Out):
    """How many items there are of each outcome."""

    UNMATCHED: int
    UNPLACED: int
    UNDATED: int


class TapList(Out):
    """What waits, the newest first."""

    total: int
    limit: int
    offset: int
    as_of: Time
    counts: WaitingCounts
    items: list[WaitingTapOut]


class ChoiceOut(Out):
    """A meeting that the tap may be assigned to."""

    meeting: str
    title: str
    starts_at: Time
    ends_at: Time
    venue: str
    assigned: bool


class TapDetailOut(Out):
    """A tap, and what may be said of it."""

    tap: WaitingTapOut
    meetings: list[ChoiceOut]
    suggested: list[PersonOut] = Field(
        description="Of an unknown card: who was expected then, and was not seen."
    )


class CardOut(Out):
    """A card that a member holds or held."""

    public_id: str
    code: str
    status: CardStatus
    numbers_last: list[str] = Field(description="The last characters of each of its numbers.")
    valid_from: Time
    valid_to: Time | None
    is_last: bool = Field(description="Nobody has held it since.")


class CardList(Out):
    """A member's cards, the newest first."""

    member: PersonOut
    total: int
    items: list[CardOut]


# --- Taps ---------------------------------------------------------------------------------------


@router.get("/taps", responses=OF_ONE)
def list_taps(caller: Asking, hub: Hub, query: Annotated[Waits, Query()]) -> TapList:
    """Taps to be checked, of one outcome, by venue, meeting and period."""
    if query.outcome not in taps.WAITING:
        raise HTTPException(422, "outcome: is none of UNMATCHED, UNPLACED and UNDATED")
    now_ms, scope = hub.clock(), caller.organisation_id
    today = hub.local(now_ms).date()
    with reading(hub.engine) as conn:
        venue = None if query.venue is None else find_venue(conn, scope, query.venue)
        meeting = None if query.meeting is None else find_meeting(conn, scope, query.meeting)
        found = taps.waiting(
            conn,
            scope,
            Asked(
                query.outcome,
                *span_ms(*query.days(today), hub.zone),
                None if venue is None else venue.id,
                None if meeting is None else meeting.id,
                query.limit,
                query.offset,
            ),
            now_ms,
        )
    if any(each.person is not None for each in found.lines):
        look = (
            Look("taps.api", organisation_id=scope)
            if meeting is None
            else Look("taps.api", meeting_id=meeting.id)
        )
        hub.looks(caller, look)
    told = Told(hub.zone)
    return TapList(
        total=found.counts[query.outcome],
        limit=query.limit,
        offset=query.offset,
        as_of=told.time(now_ms),
        counts=WaitingCounts(**{each.value: found.counts[each] for each in taps.WAITING}),
        items=[_line(each, told) for each in found.lines],
    )


@router.get("/taps/{tap}", responses=OF_ONE)
def show_tap(caller: Asking, hub: Hub, tap: str) -> TapDetailOut:
    """A tap, the meetings that it may be assigned to, and whose card it may be."""
    now_ms, scope = hub.clock(), caller.organisation_id
    with reading(hub.engine) as conn:
        found = taps.find_tap(conn, scope, tap)
        line = taps.line_of(conn, scope, found, now_ms)
        choices: list[Choice] = []
        if found.outcome in {Outcome.UNPLACED, Outcome.UNDATED}:
            choices = taps.choices(conn, scope, found, hub.zone)
        is_unknown = found.outcome is Outcome.UNMATCHED
        suggested = cards.suggested(conn, scope, found) if is_unknown else []
    if suggested or line.person is not None:
        hub.looks(caller, Look("tap.api", organisation_id=scope))
    told = Told(hub.zone)
    return TapDetailOut(
        tap=_line(line, told),
        meetings=[
            ChoiceOut(
                meeting=each.public_id,
                title=each.title,
                starts_at=told.time(each.starts_ms),
                ends_at=told.time(each.ends_ms),
                venue=each.venue,
                assigned=each.is_assigned,
            )
            for each in choices
        ],
        suggested=[person(each) for each in suggested],
    )


@router.post("/taps/{tap}/bind", responses=DONE)
def bind_card(caller: Asking, hub: Hub, tap: str, wanted: BindRequest) -> CardOut:
    """Say whose card an unknown one is, from when on; its taps since are counted anew."""
    now_ms, scope = hub.clock(), caller.organisation_id
    with doing(hub) as conn:
        card = cards.bind(
            conn,
            caller,
            tap,
            wanted.member,
            ms(wanted.valid_from),
            now_ms,
            card=wanted.card,
            code=wanted.code or "",
        )
        holder = find_member(conn, scope, wanted.member, now_ms)
        held = cards.cards_of(conn, scope, holder.id, now_ms)
    return next(card_out(each, Told(hub.zone)) for each in held if each.public_id == str(card))


@router.post("/taps/{tap}/assign", responses=DONE)
def assign_tap(caller: Asking, hub: Hub, tap: str, wanted: AssignRequest) -> WaitingTapOut:
    """Say which meeting an UNPLACED or UNDATED tap belongs to."""
    with doing(hub) as conn:
        taps.assign(conn, caller, tap, wanted.meeting, hub.clock(), hub.zone)
        found = taps.find_tap(conn, caller.organisation_id, tap)
        line = _of(conn, caller, found, hub)
    return _line(line, Told(hub.zone))


@router.post("/taps/{tap}/withdraw", responses=DONE)
def withdraw_tap(caller: Asking, hub: Hub, tap: str) -> WaitingTapOut:
    """Take back that it was assigned."""
    with doing(hub) as conn:
        taps.withdraw(conn, caller, tap, hub.clock())
        found = taps.find_tap(conn, caller.organisation_id, tap)
        line = _of(conn, caller, found, hub)
    return _line(line, Told(hub.zone))


# --- Cards --------------------------------------------------------------------------------------


@router.get("/members/{member}/cards", tags=["cards"], responses=OF_ONE)
def list_cards(caller: Asking, hub: Hub, member: UUID) -> CardList:
    """The cards that a member holds or held."""
    now_ms, scope = hub.clock(), caller.organisation_id
    with reading(hub.engine) as conn:
        row = find_member(conn, scope, member, now_ms)
        found = cards.cards_of(conn, scope, row.id, now_ms)
        who = taps.person(conn, scope, row.id, now_ms)
    hub.looks(caller, Look("member.cards", member_id=row.id))
    told = Told(hub.zone)
    return CardList(
        member=person(who), total=len(found), items=[card_out(each, told) for each in found]
    )


@router.post("/cards/{card}/lost", tags=["cards"], responses=DONE, status_code=204)
def report_card_lost(caller: Asking, hub: Hub, card: UUID, wanted: LostRequest) -> None:
    """The card is lost: what it taps from then on is nobody's."""
    now_ms = hub.clock()
    with doing(hub) as conn:
        at_ms = now_ms if wanted.at is None else ms(wanted.at)
        cards.report_lost(conn, caller, card, at_ms, now_ms)


@router.post("/cards/{card}/end", tags=["cards"], responses=DONE, status_code=204)
def end_card(caller: Asking, hub: Hub, card: UUID, wanted: AtRequest) -> None:
    """Its holder has it no more; at or before its beginning: it never was theirs."""
    with doing(hub) as conn:
        find_card(conn, caller.organisation_id, card, hub.clock())
        cards.end_binding(conn, caller, card, ms(wanted.at), hub.clock())


@router.post("/cards/{card}/reinstate", tags=["cards"], responses=DONE, status_code=204)
def reinstate_card(caller: Asking, hub: Hub, card: UUID) -> None:
    """It was found: from now on it is its last holder's again."""
    with doing(hub) as conn:
        cards.reinstate(conn, caller, card, hub.clock())


# --- Helpers ------------------------------------------------------------------------------------


@contextmanager
def doing(hub: Context) -> Iterator[Connection]:
    """A write transaction; what is refused becomes 409, in English, with its field."""
    try:
        with hub.engine.begin() as conn:
            yield conn
    except (TapError, DeviceError, VenueError) as error:
        with speaking(Language.EN):
            raise HTTPException(409, f"{error.field}: {t(error)}") from error


def ms(at: datetime) -> int:
    """A time in ms."""
    return round(at.timestamp() * 1000)


def _of(conn: Connection, caller: Caller, found: FoundTap, hub: Context) -> Line:
    return taps.line_of(conn, caller.organisation_id, found, hub.clock())


def _line(each: Line, told: Told) -> WaitingTapOut:
    return WaitingTapOut(
        tap=each.tap,
        outcome=each.outcome,
        venue=None if each.venue is None else named(each.venue),
        device=each.device,
        card_last=each.card,
        taps=each.taps,
        first_at=told.maybe(each.first_ms),
        last_at=told.maybe(each.last_ms),
        earliest=told.maybe(each.earliest_ms),
        latest=told.maybe(each.latest_ms),
        person=None if each.person is None else person(each.person),
    )


def card_out(each: HeldCard, told: Told) -> CardOut:
    """A card that a member holds or held."""
    return CardOut(
        public_id=each.public_id,
        code=each.code,
        status=each.status,
        numbers_last=list(each.numbers),
        valid_from=told.time(each.valid_from_ms),
        valid_to=told.maybe(each.valid_to_ms),
        is_last=each.is_last,
    )
