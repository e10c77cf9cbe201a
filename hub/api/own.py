"""`/api/v1/me`: a member's own file, for a token of role MEMBER; and objections for who decides.

Any other meeting than the member's own is 404. Reading one's own file is no look at it, and is
written down nowhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, select

from hub import objections as service
from hub import own, statements
from hub.api.answers import DONE, LISTED, OF_ONE
from hub.api.models import MeetingOut, Out, Period, PersonOut, Ref, Time, Told, named, person
from hub.audit import Look
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, api_right
from hub.days import span_ms
from hub.domain.terms import (
    Body,
    CardStatus,
    DeclarationKind,
    Evidence,
    LeaveReason,
    Office,
    Outcome,
    Role,
    Verdict,
)
from hub.evidence import Entry, Facts, Source, TapSeen, concerns, facts, how, whom, without_cards
from hub.evidence import entry as entry_of
from hub.meetings import MeetingError
from hub.objections import MAX_REASON_CHARS, Objection, ObjectionError, ObjectionState
from hub.store import schema as s
from hub.store.engine import reading
from hub.store.scope import NotFoundError
from hub.web.words import Language, speaking, t

ALL_TIME: Final = (0, 7_289_568_000_000)
"""The period of everything: 1970 to 2200."""

Own = Annotated[Caller, Depends(api_right(Right.OWN))]
Deciding = Annotated[Caller, Depends(api_right(Right.MEETINGS))]

router = APIRouter(prefix="/api/v1")


# --- In and out -----------------------------------------------------------------------------


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ObjectionRequest(_In):
    """What the member says is wrong."""

    words: str = Field(min_length=1, max_length=MAX_REASON_CHARS)


class LeaveRequest(_In):
    """请假"""

    reason: LeaveReason = Field(strict=False, description="The class; nothing else is kept.")


class BackFillRequest(_In):
    """补签"""

    reason: str = Field(min_length=1, max_length=200, description="In words.")


class DecisionRequest(_In):
    """How an objection is decided, and why."""

    upheld: bool
    reason: str = Field(
        min_length=1, max_length=MAX_REASON_CHARS, description="The member reads it."
    )


class PlaceOut(Out):
    """A place in an organisation or its committee."""

    organisation: Ref
    body: Body
    votes: bool = Field(description="May vote there.")
    valid_from: Time
    valid_to: Time | None


class OfficeOut(Out):
    """An office."""

    organisation: Ref
    office: Office
    valid_from: Time
    valid_to: Time | None


class CardOut(Out):
    """A card that is or was the member's."""

    numbers: list[str] = Field(description="The last four characters of each of its numbers.")
    status: CardStatus
    valid_from: Time
    valid_to: Time | None


class MeOut(Out):
    """Who the member is to the hub."""

    public_id: str
    code: str
    name: str
    places: list[PlaceOut]
    offices: list[OfficeOut]
    cards: list[CardOut]


class SourceOut(Out):
    """How an entry was recorded."""

    evidence: Evidence
    words: str = Field(description="In a sentence, in Chinese.")
    tapped_at: Time | None
    device: str | None
    venue: str | None
    card: str = Field(description="The last four characters of the card's number; may be empty.")
    author: str | None = Field(description="Who stated it; null: a tap speaks for itself.")
    stated_at: Time | None
    asked_by: str | None
    asked_at: Time | None


class ObjectionOut(Out):
    """An objection and what became of it."""

    public_id: str
    meeting: str = Field(description="Public id.")
    words: str
    made_at: Time
    state: ObjectionState
    decided_by: str | None
    decided_at: Time | None
    decision: str = Field(description="Why; empty while it is not decided.")


class MineOut(Out):
    """The member at one meeting."""

    meeting: MeetingOut
    verdict: Verdict
    at: Time | None
    source: SourceOut | None = Field(description="null: nothing is known.")
    objection: ObjectionOut | None = Field(description="The last one that stands.")


class MyMeetings(Out):
    """The member's meetings in a period, the latest first."""

    total: int
    limit: int
    offset: int
    as_of: Time
    items: list[MineOut]


class TapOut(Out):
    """A tap of the member's."""

    at: Time | None
    received_at: Time
    device: str
    venue: str | None
    card: str
    outcome: Outcome
    counts: bool = Field(description="Whether it shows the member at this meeting.")
    decides: bool


class SaidOut(Out):
    """Something that was stated of the member."""

    kind: DeclarationKind
    author: str
    made_at: Time
    reason: str = Field(description="Words or a class; may be empty.")
    device: str | None = Field(description="At whose reader it was stated.")
    decides: bool
    withdrawn_at: Time | None
    withdrawn_by: str | None


class FactsOut(Out):
    """All taps and statements of the member at a meeting."""

    is_expected: bool
    taps: list[TapOut]
    said: list[SaidOut]


class EntryOut(Out):
    """The member at one meeting, with everything that it rests on."""

    meeting: MeetingOut
    verdict: Verdict | None = Field(description="null: the meeting was cancelled.")
    at: Time | None
    source: SourceOut | None
    reasons: list[str] = Field(description="Of a PENDING one: why, in Chinese.")
    held: bool | None
    facts: FactsOut
    objections: list[ObjectionOut]
    as_of: Time


class AskOut(Out):
    """Leave or 补签 that was asked for."""

    public_id: str
    kind: DeclarationKind
    meeting: str = Field(description="Public id.")
    title: str
    reason: str
    author: str
    made_at: Time
    answer: DeclarationKind | None
    answered_by: str | None
    answered_at: Time | None
    is_withdrawn: bool


class Asks(Out):
    """All that was asked for the member, the latest first."""

    items: list[AskOut]


class LookedOut(Out):
    """The same look by the same person on one day."""

    day: str
    actor: str
    role: Role | None = Field(description="null: the hub's own machine.")
    organisation: str | None
    is_program: bool
    is_me: bool
    what: str = Field(examples=["meeting.page"])
    words: str = Field(description="What was shown, in Chinese.")
    first_at: Time
    last_at: Time
    times: int


class Accesses(Out):
    """Who was shown data of the member, the latest first."""

    total: int
    limit: int
    offset: int
    items: list[LookedOut]


class WholeEntry(Out):
    """One meeting of the whole file."""

    meeting: MeetingOut
    verdict: Verdict
    at: Time | None
    source: SourceOut | None
    facts: FactsOut


class WholeFile(Out):
    """Everything that the hub holds of the member."""

    as_of: Time
    member: MeOut
    meetings: list[WholeEntry]
    asks: list[AskOut]
    objections: list[ObjectionOut]
    accesses: list[LookedOut]


class CreatedOut(Out):
    """What was stated."""

    public_id: str


class OpenObjection(Out):
    """An objection that waits, for whoever decides."""

    objection: ObjectionOut
    member: PersonOut
    may_decide: bool
    why_not: str | None = Field(description="Why the caller may not decide it.")


class OpenObjections(Out):
    """Those that wait at meetings of the sub-tree, the oldest first."""

    items: list[OpenObjection]


class ObjectionFile(Out):
    """An objection with the evidence beside it."""

    objection: ObjectionOut
    member: PersonOut
    may_decide: bool
    why_not: str | None
    entry: EntryOut


# --- The member's own -----------------------------------------------------------------------


@router.get("/me", tags=["own"], responses=LISTED)
def me(caller: Own, hub: Hub) -> MeOut:
    """Who the token's member is, with places, offices and cards, the latest first."""
    with reading(hub.engine) as conn:
        return _Own(hub, conn).me(_member(caller))


@router.get("/me/meetings", tags=["own"], responses=LISTED)
def my_meetings(caller: Own, hub: Hub, query: Annotated[Period, Query()]) -> MyMeetings:
    """Where the member was expected or came, everywhere, with how it was recorded."""
    now_ms = hub.clock()
    with reading(hub.engine) as conn:
        found = own.my_meetings(conn, _member(caller), *_span(hub, query), now_ms)
        told = _Own(hub, conn)
        return MyMeetings(
            total=len(found),
            limit=query.limit,
            offset=query.offset,
            as_of=told.time(now_ms),
            items=[told.mine(each) for each in found[query.offset : query.offset + query.limit]],
        )


@router.get("/me/meetings/{meeting}", tags=["own"], responses=OF_ONE)
def my_entry(caller: Own, hub: Hub, meeting: UUID) -> EntryOut:
    """All taps and statements of the member at one meeting."""
    with reading(hub.engine) as conn:
        found, objected = own.my_entry(conn, _member(caller), meeting, hub.clock(), hub.zone)
        return _Own(hub, conn).entry(found, objected)


@router.post("/me/meetings/{meeting}/objection", status_code=201, tags=["own"], responses=DONE)
def object_to(caller: Own, hub: Hub, meeting: UUID, wanted: ObjectionRequest) -> CreatedOut:
    """Say that one's own entry, or that there is none, is wrong."""
    with _doing(hub) as conn:
        return CreatedOut(
            public_id=service.object_to(conn, caller, meeting, wanted.words, hub.clock())
        )


@router.post("/me/objections/{objection}/withdraw", tags=["own"], responses=DONE)
def withdraw_objection(caller: Own, hub: Hub, objection: UUID) -> CreatedOut:
    """Take back an open objection of one's own."""
    with _doing(hub) as conn:
        return CreatedOut(
            public_id=service.withdraw(conn, caller, objection, hub.clock()).public_id
        )


@router.post("/me/meetings/{meeting}/leave", status_code=201, tags=["own"], responses=DONE)
def ask_leave(caller: Own, hub: Hub, meeting: UUID, wanted: LeaveRequest) -> CreatedOut:
    """Ask for leave; of the reason only its class is kept."""
    with _doing(hub) as conn:
        service.find_mine(conn, _member(caller), meeting)
        member = _public_id(conn, caller)
        said = statements.ask_leave(conn, caller, meeting, member, wanted.reason, hub.clock())
        return CreatedOut(public_id=str(said))


@router.post("/me/meetings/{meeting}/back-fill", status_code=201, tags=["own"], responses=DONE)
def ask_back_fill(caller: Own, hub: Hub, meeting: UUID, wanted: BackFillRequest) -> CreatedOut:
    """Ask for 补签."""
    with _doing(hub) as conn:
        service.find_mine(conn, _member(caller), meeting)
        member = _public_id(conn, caller)
        said = statements.ask_back_fill(conn, caller, meeting, member, wanted.reason, hub.clock())
        return CreatedOut(public_id=str(said))


@router.get("/me/asks", tags=["own"], responses=LISTED)
def my_asks(caller: Own, hub: Hub) -> Asks:
    """Leave and 补签 that were asked for the member, by whomever."""
    with reading(hub.engine) as conn:
        told = _Own(hub, conn)
        return Asks(items=[told.ask(each) for each in own.my_asks(conn, _member(caller))])


@router.post("/me/asks/{ask}/withdraw", tags=["own"], responses=DONE)
def withdraw_ask(caller: Own, hub: Hub, ask: UUID) -> CreatedOut:
    """Take back what was asked for, while nobody has answered."""
    with _doing(hub) as conn:
        return CreatedOut(public_id=str(take_back(conn, caller, ask, hub.clock())))


@router.get("/me/cards", tags=["own"], responses=LISTED)
def my_cards(caller: Own, hub: Hub) -> list[CardOut]:
    """The member's cards, the latest first."""
    with reading(hub.engine) as conn:
        return _Own(hub, conn).me(_member(caller)).cards


@router.get("/me/accesses", tags=["own"], responses=LISTED)
def who_looked(caller: Own, hub: Hub, query: Annotated[Period, Query()]) -> Accesses:
    """Who was shown data of the member in a period, by day."""
    with reading(hub.engine) as conn:
        found = own.looked_at(conn, _member(caller), *_span(hub, query), hub.zone)
        told = _Own(hub, conn)
        return Accesses(
            total=len(found),
            limit=query.limit,
            offset=query.offset,
            items=[told.looked(each) for each in found[query.offset : query.offset + query.limit]],
        )


@router.get("/me/export", tags=["own"], responses=LISTED)
def export(caller: Own, hub: Hub) -> WholeFile:
    """Everything that the hub holds of the member, of all time."""
    with reading(hub.engine) as conn:
        return whole_file(hub, conn, _member(caller))


def whole_file(hub: Context, conn: Connection, member_id: int) -> WholeFile:
    """Everything that the hub holds of a member; also what the page gives as a file."""
    now_ms = hub.clock()
    told = _Own(hub, conn)
    mine = own.my_meetings(conn, member_id, *ALL_TIME, now_ms)
    rows = {
        str(row.public_id): row
        for row in conn.execute(select(s.meetings).where(concerns(member_id)))
    }
    return WholeFile(
        as_of=told.time(now_ms),
        member=told.me(member_id),
        meetings=[
            WholeEntry(
                meeting=told.meeting(each.meeting),
                verdict=each.verdict,
                at=told.maybe(each.at_ms),
                source=told.source(each.source, each.meeting.starts_ms),
                facts=told.facts(
                    facts(conn, rows[each.meeting.public_id], member_id, with_leave_reason=True)
                ),
            )
            for each in mine
        ],
        asks=[told.ask(each) for each in own.my_asks(conn, member_id)],
        objections=[told.objection(each) for each in service.objections_of(conn, member_id)],
        accesses=[
            told.looked(each) for each in own.looked_at(conn, member_id, *ALL_TIME, hub.zone)
        ],
    )


def take_back(conn: Connection, caller: Caller, declaration: UUID, now_ms: int) -> UUID:
    """Withdraw leave or 补签 asked for the caller. Raises NotFoundError, MeetingError.

    Whoever may withdraw other things too does not do it here.
    """
    mine = own.my_asks(conn, _member(caller))
    if str(declaration) not in {each.public_id for each in mine}:
        raise NotFoundError
    return statements.withdraw(conn, caller, declaration, now_ms)


# --- Objections to decide -------------------------------------------------------------------


@router.get("/objections", tags=["objections"], responses=LISTED)
def open_objections(caller: Deciding, hub: Hub) -> OpenObjections:
    """Objections that wait, at meetings that the sub-tree hosts."""
    with reading(hub.engine) as conn:
        found = service.open_objections(conn, caller.organisation_id)
        told = _Own(hub, conn)
        items = [told.open_objection(conn, caller, each) for each in found]
    for each in found:
        hub.looks(caller, look("objection.api", each))
    return OpenObjections(items=items)


@router.get("/objections/{objection}", tags=["objections"], responses=OF_ONE)
def one_objection(caller: Deciding, hub: Hub, objection: UUID) -> ObjectionFile:
    """One objection, with all taps and statements that it may be about."""
    with reading(hub.engine) as conn:
        found = service.find_objection(conn, caller.organisation_id, objection)
        meeting = conn.execute(select(s.meetings).where(s.meetings.c.id == found.meeting_id)).one()
        entry = entry_of(conn, meeting, found.member_id, hub.clock(), hub.zone)
        if whom(conn, caller.organisation_id, meeting, found.member_id).name is None:
            entry = without_cards(entry)
        told = _Own(hub, conn)
        head = told.open_objection(conn, caller, found)
        answer = ObjectionFile(**head.model_dump(), entry=told.entry(entry, [found]))
    hub.looks(caller, look("objection.api", found))
    return answer


@router.post(
    "/objections/{objection}/decision",
    status_code=201,
    tags=["objections"],
    responses=DONE,
)
def decide_objection(
    caller: Deciding, hub: Hub, objection: UUID, wanted: DecisionRequest
) -> ObjectionOut:
    """Decide an objection. What an upheld one needs is stated separately."""
    with _doing(hub) as conn:
        service.decide(
            conn,
            caller,
            objection,
            upheld=wanted.upheld,
            reason=wanted.reason,
            now_ms=hub.clock(),
        )
        now = service.find_objection(conn, caller.organisation_id, objection)
        return _Own(hub, conn).objection(now)


def look(what: str, each: Objection) -> Look:
    """The look at a member's entry that goes with an objection."""
    return Look(what, meeting_id=each.meeting_id, member_id=each.member_id)


# --- Helpers --------------------------------------------------------------------------------


class _Own(Told):
    """`Told`, for what is here."""

    def __init__(self, hub: Context, conn: Connection) -> None:
        super().__init__(hub.zone)
        self._conn = conn
        self._of = hub.zone

    def me(self, member_id: int) -> MeOut:
        found = own.me(self._conn, member_id)
        return MeOut(
            public_id=found.public_id,
            code=found.code,
            name=found.name,
            places=[
                PlaceOut(
                    organisation=named(each.organisation),
                    body=each.body,
                    votes=each.votes,
                    valid_from=self.time(each.from_ms),
                    valid_to=self.maybe(each.to_ms),
                )
                for each in found.places
            ],
            offices=[
                OfficeOut(
                    organisation=named(each.organisation),
                    office=each.office,
                    valid_from=self.time(each.from_ms),
                    valid_to=self.maybe(each.to_ms),
                )
                for each in found.offices
            ],
            cards=[
                CardOut(
                    numbers=list(each.numbers),
                    status=each.status,
                    valid_from=self.time(each.from_ms),
                    valid_to=self.maybe(each.to_ms),
                )
                for each in own.my_cards(self._conn, member_id)
            ],
        )

    def source(self, source: Source | None, near_ms: int) -> SourceOut | None:
        if source is None:
            return None
        return SourceOut(
            evidence=source.evidence,
            words=how(source, near_ms, self._of),
            tapped_at=self.maybe(source.tap_ms),
            device=source.device,
            venue=source.venue,
            card=source.card,
            author=source.author,
            stated_at=self.maybe(source.made_ms),
            asked_by=source.asked_by,
            asked_at=self.maybe(source.asked_ms),
        )

    def objection(self, each: Objection) -> ObjectionOut:
        return ObjectionOut(
            public_id=each.public_id,
            meeting=each.meeting_public_id,
            words=each.words,
            made_at=self.time(each.made_ms),
            state=each.state,
            decided_by=each.decided_by,
            decided_at=self.maybe(each.decided_ms),
            decision=each.decision,
        )

    def open_objection(self, conn: Connection, caller: Caller, each: Objection) -> OpenObjection:
        why_not = service.obstacle(conn, caller, each)
        if each.state is not ObjectionState.OPEN:
            why_not = service.NOT_OPEN
        meeting = conn.execute(select(s.meetings).where(s.meetings.c.id == each.meeting_id)).one()
        return OpenObjection(
            objection=self.objection(each),
            member=person(whom(conn, caller.organisation_id, meeting, each.member_id)),
            may_decide=why_not is None,
            why_not=why_not,
        )

    def mine(self, each: own.Mine) -> MineOut:
        return MineOut(
            meeting=self.meeting(each.meeting),
            verdict=each.verdict,
            at=self.maybe(each.at_ms),
            source=self.source(each.source, each.meeting.starts_ms),
            objection=None if each.objection is None else self.objection(each.objection),
        )

    def facts(self, found: Facts) -> FactsOut:
        return FactsOut(
            is_expected=found.is_expected,
            taps=[self._tap(each) for each in found.taps],
            said=[
                SaidOut(
                    kind=each.kind,
                    author=each.author,
                    made_at=self.time(each.made_ms),
                    reason=each.reason,
                    device=each.device,
                    decides=each.decides,
                    withdrawn_at=self.maybe(each.withdrawn_ms),
                    withdrawn_by=each.withdrawn_by,
                )
                for each in found.said
            ],
        )

    def entry(self, found: Entry, objected: list[Objection]) -> EntryOut:
        return EntryOut(
            meeting=self.meeting(found.meeting),
            verdict=found.verdict,
            at=self.maybe(found.at_ms),
            source=self.source(found.source, found.meeting.starts_ms),
            reasons=list(found.reasons),
            held=found.held,
            facts=self.facts(found.facts),
            objections=[self.objection(each) for each in objected],
            as_of=self.time(found.as_of_ms),
        )

    def ask(self, each: own.Asked) -> AskOut:
        return AskOut(
            public_id=each.public_id,
            kind=each.kind,
            meeting=each.meeting_public_id,
            title=each.meeting,
            reason=each.reason,
            author=each.author,
            made_at=self.time(each.made_ms),
            answer=each.answer,
            answered_by=each.answered_by,
            answered_at=self.maybe(each.answered_ms),
            is_withdrawn=each.is_withdrawn,
        )

    def looked(self, each: own.Looked) -> LookedOut:
        return LookedOut(
            day=each.day.isoformat(),
            actor=each.actor,
            role=each.role,
            organisation=each.organisation,
            is_program=each.is_program,
            is_me=each.is_me,
            what=each.what,
            words=each.of,
            first_at=self.time(each.first_ms),
            last_at=self.time(each.last_ms),
            times=each.times,
        )

    def _tap(self, each: TapSeen) -> TapOut:
        return TapOut(
            at=self.maybe(each.at_ms),
            received_at=self.time(each.received_ms),
            device=each.device,
            venue=each.venue,
            card=each.card,
            outcome=each.outcome,
            counts=each.counts,
            decides=each.decides,
        )


@contextmanager
def _doing(hub: Context) -> Iterator[Connection]:
    """A write transaction; what is refused becomes 422 where a field is wrong, otherwise 409."""
    try:
        with hub.engine.begin() as conn:
            yield conn
    except (ObjectionError, MeetingError) as error:
        with speaking(Language.EN):
            said = t(error)
        if error.field in {"words", "reason"}:
            raise HTTPException(422, f"{error.field}: {said}") from error
        raise HTTPException(409, said) from error


def _member(caller: Caller) -> int:
    assert caller.member_id is not None  # noqa: S101  Right.OWN says so
    return caller.member_id


def _public_id(conn: Connection, caller: Caller) -> UUID:
    m = s.members.c
    found: UUID = conn.scalars(select(m.public_id).where(m.id == _member(caller))).one()
    return found


def _span(hub: Context, query: Period) -> tuple[int, int]:
    today = datetime.fromtimestamp(hub.clock() / 1000, hub.zone).date()
    return span_ms(*query.days(today), hub.zone)
