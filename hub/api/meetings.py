"""`/api/v1/meetings`, `/declarations`, `/asks`: meetings kept, and what people state of them.

The rules are `hub.meetings` and `hub.statements`; what they refuse is 409, with the field and the
reason in English.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, assert_never
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import Field
from sqlalchemy import Connection, Row, select

from hub import audit, meetings, statements
from hub.api.answers import DONE, LISTED, OF_ONE
from hub.api.models import In, MeetingOut, Moment, Out, Paged, Time, Told
from hub.audit import Look, look_at_statements
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, api_right
from hub.domain.stating import MAX_HEAD_COUNT
from hub.domain.terms import DeclarationKind, LeaveReason, MeetingKind
from hub.meetings import (
    MAX_CHAIR_CHARS,
    MAX_GRACE_MINUTES,
    MAX_PARTNERS,
    MAX_REASON_CHARS,
    MAX_TITLE_CHARS,
    MeetingError,
    Plan,
)
from hub.statements import MAX_SIGNATURES
from hub.store import queries
from hub.store import schema as s
from hub.store.engine import reading
from hub.store.scope import NotFoundError, find_meeting
from hub.store.statement_query import Statement, concerns, open_asks, statement, statements_of
from hub.web.words import Language, speaking, t

Keeping = Annotated[Caller, Depends(api_right(Right.MEETINGS))]
Asking = Annotated[Caller, Depends(api_right(Right.VIEW))]

router = APIRouter(prefix="/api/v1", tags=["meetings"])


# --- In -------------------------------------------------------------------------------------

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
Kind = Annotated[MeetingKind, Field(description="Must suit the organisation's level.")]
Title = Annotated[str, Field(min_length=1, max_length=MAX_TITLE_CHARS)]
Venue = Annotated[
    UUID, Field(description="Of the token's sub-tree, or of an organisation above the meeting's.")
]
Chair = Annotated[str, Field(max_length=MAX_CHAIR_CHARS, description="Who presides.")]
Grace = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_GRACE_MINUTES,
        strict=True,
        description="LATE begins so many minutes after the start; by default as the policy says.",
    ),
]
Reason = Annotated[str, Field(min_length=1, max_length=MAX_REASON_CHARS)]


class NewMeeting(In):
    """A meeting to be made. Its code is generated; check-in opens as the policy says."""

    organisation: UUID
    kind: Kind
    title: Title
    venue: Venue
    starts_at: Moment
    ends_at: Moment
    chair: Chair = ""
    grace_minutes: Grace | None = None


class MeetingChange(In):
    """What of a meeting is to be otherwise; what is left out stays."""

    kind: Kind | None = None
    title: Title | None = None
    venue: Venue | None = None
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    chair: Chair | None = None
    grace_minutes: Grace | None = None


class Why(In):
    """Why a meeting is called off, or taken up again."""

    reason: Reason


class Partners(In):
    """All that take part beside the meeting's own organisation."""

    codes: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        max_length=MAX_PARTNERS, description="Codes of organisations anywhere in the district."
    )


class Held(In):
    """It took place, or it did not."""

    kind: Literal["HELD", "NOT_HELD"]


class HeadCount(In):
    """清点人数"""

    kind: Literal["HEAD_COUNT"]
    number: int = Field(ge=0, le=MAX_HEAD_COUNT, strict=True)


class Witnessed(In):
    """现场证明: a member is there."""

    kind: Literal["WITNESSED"]
    member: UUID | None = Field(
        None, description="Of the expected, or of the token's sub-tree. Otherwise `code`."
    )
    code: str = Field("", max_length=64, description="A member's code, wherever they belong.")


class Sheet(In):
    """纸质签到: these signed. Adds to what was entered before."""

    kind: Literal["SHEET"]
    members: list[UUID] = Field([], max_length=MAX_SIGNATURES)
    codes: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        [], max_length=MAX_SIGNATURES, description="Codes of guests."
    )


class SheetComplete(In):
    """签到表已录完: the signed sheet was entered whole."""

    kind: Literal["SHEET_COMPLETE"]


class LeaveAsked(In):
    """请假"""

    kind: Literal["LEAVE_ASKED"]
    member: UUID
    reason: LeaveReason = Field(description="The class; nothing else is kept.")


class BackFillAsked(In):
    """补签; another person decides."""

    kind: Literal["BACK_FILL_ASKED"]
    member: UUID
    reason: Reason


Stating = Annotated[
    Held | HeadCount | Witnessed | Sheet | SheetComplete | LeaveAsked | BackFillAsked,
    Field(discriminator="kind"),
]


class Decision(In):
    """The answer to what was asked for."""

    granted: bool = Field(strict=True)


class OfMeeting(Out):
    """The meeting of which something is stated."""

    public_id: str
    title: str
    organisation: str
    starts_at: Time
    ends_at: Time


class WhomOut(Out):
    """The member of whom something is stated; all null: of another sub-tree."""

    public_id: str | None
    code: str | None
    name: str | None


class DeclarationOut(Out):
    """A statement, and what became of it."""

    public_id: str
    kind: DeclarationKind
    meeting: OfMeeting
    member: WhomOut | None = Field(description="Null: it speaks of the meeting.")
    number: int | None = Field(description="A head-count.")
    leave_reason: LeaveReason | None = Field(
        description="Null also for those who do not decide on it."
    )
    reason: str | None = Field(description="Of a back-fill; null also for those who do not decide.")
    author: str
    made_at: Time
    stands: bool = Field(description="Neither it nor what it answers was withdrawn.")
    answer: DeclarationKind | None = Field(description="The answer that stands.")
    about: str | None = Field(description="The public id of what it answers or withdraws.")
    may_withdraw: bool
    may_decide: bool = Field(
        description="The rules may refuse it yet: a back-fill needs another person."
    )


class Declarations(Out):
    """Statements."""

    items: list[DeclarationOut]


class AskList(Out):
    """What waits to be decided, the oldest first."""

    total: int = Field(description="How many items there are in all.")
    limit: int
    offset: int
    as_of: Time
    items: list[DeclarationOut]


# --- Meetings -------------------------------------------------------------------------------


@router.post("/meetings", status_code=201, responses=DONE)
def create_meeting(caller: Keeping, hub: Hub, wanted: NewMeeting) -> MeetingOut:
    """Make a meeting of an organisation in the sub-tree."""
    plan = Plan(
        wanted.kind,
        wanted.title,
        wanted.venue,
        _ms(wanted.starts_at),
        _ms(wanted.ends_at),
        wanted.chair,
        wanted.grace_minutes,
    )
    with _doing(hub) as conn:
        made = meetings.create(conn, caller, wanted.organisation, plan, hub.clock())
        return _meeting(conn, caller, hub, made)


@router.patch("/meetings/{meeting}", responses=DONE)
def change_meeting(caller: Keeping, hub: Hub, meeting: UUID, change: MeetingChange) -> MeetingOut:
    """Change a meeting: its time and venue included. Attendance follows."""
    with _doing(hub) as conn:
        old = meetings.plan_of(conn, meetings.to_change(conn, caller, meeting))
        plan = Plan(
            change.kind or old.kind,
            old.title if change.title is None else change.title,
            change.venue or old.venue,
            old.starts_ms if change.starts_at is None else _ms(change.starts_at),
            old.ends_ms if change.ends_at is None else _ms(change.ends_at),
            old.chair if change.chair is None else change.chair,
            old.grace_minutes if change.grace_minutes is None else change.grace_minutes,
        )
        meetings.edit(conn, caller, meeting, plan, hub.clock())
        return _meeting(conn, caller, hub, meeting)


@router.post("/meetings/{meeting}/cancel", responses=DONE)
def cancel_meeting(caller: Keeping, hub: Hub, meeting: UUID, why: Why) -> MeetingOut:
    """Call it off: it counts nothing; what is known of it is kept."""
    with _doing(hub) as conn:
        meetings.cancel(conn, caller, meeting, why.reason, hub.clock())
        return _meeting(conn, caller, hub, meeting)


@router.post("/meetings/{meeting}/restore", responses=DONE)
def restore_meeting(caller: Keeping, hub: Hub, meeting: UUID, why: Why) -> MeetingOut:
    """Take a cancelled meeting up again."""
    with _doing(hub) as conn:
        meetings.restore(conn, caller, meeting, why.reason, hub.clock())
        return _meeting(conn, caller, hub, meeting)


@router.put("/meetings/{meeting}/partners", responses=DONE)
def set_partners(caller: Keeping, hub: Hub, meeting: UUID, wanted: Partners) -> MeetingOut:
    """Ask exactly these organisations to take part; those outside of the sub-tree must agree."""
    with _doing(hub) as conn:
        meetings.set_partners(conn, caller, meeting, wanted.codes, hub.clock())
        return _meeting(conn, caller, hub, meeting)


# --- Statements -----------------------------------------------------------------------------


@router.get("/meetings/{meeting}/declarations", responses=OF_ONE)
def list_declarations(caller: Asking, hub: Hub, meeting: UUID) -> Declarations:
    """All that was stated of a meeting, the newest first."""
    with reading(hub.engine) as conn:
        row = find_meeting(conn, caller.organisation_id, meeting)
        found = statements_of(conn, caller, row)
    hub.looks(caller, Look("meeting.statements", meeting_id=row.id))
    return Declarations(items=[_out(hub, each) for each in found])


@router.post("/meetings/{meeting}/declarations", responses=DONE)
def declare(caller: Keeping, hub: Hub, meeting: UUID, said: Stating) -> Declarations:
    """State something of a meeting. What stands already is not stated again."""
    with _doing(hub, caller) as conn:
        made = _declare(conn, caller, meeting, said, hub.clock())
        row = find_meeting(conn, caller.organisation_id, meeting)
        _looks(conn, caller, made, hub.clock())
        wanted = {str(each) for each in made}
        found = [each for each in statements_of(conn, caller, row) if each.public_id in wanted]
    return Declarations(items=[_out(hub, each) for each in found])


@router.post("/declarations/{declaration}/decision", responses=DONE)
def decide(caller: Keeping, hub: Hub, declaration: UUID, answer: Decision) -> DeclarationOut:
    """Grant or refuse leave or 补签; gives the answer."""
    return _about(
        caller,
        hub,
        lambda conn: statements.decide(
            conn, caller, declaration, hub.clock(), granted=answer.granted
        ),
    )


@router.post("/declarations/{declaration}/withdrawal", responses=DONE)
def withdraw(caller: Keeping, hub: Hub, declaration: UUID) -> DeclarationOut:
    """Take a statement back; gives the withdrawal. Nothing stated is ever deleted."""
    return _about(
        caller,
        hub,
        lambda conn: statements.withdraw(conn, caller, declaration, hub.clock()),
    )


@router.get("/asks", responses=LISTED)
def list_asks(caller: Keeping, hub: Hub, query: Annotated[Paged, Query()]) -> AskList:
    """Leave and 补签 that wait to be decided in the sub-tree."""
    with reading(hub.engine) as conn:
        total, found = open_asks(conn, caller, query.limit, query.offset)
    hub.looks(caller, Look("asks.api", organisation_id=caller.organisation_id))
    return AskList(
        total=total,
        limit=query.limit,
        offset=query.offset,
        as_of=Told(hub.zone).time(hub.clock()),
        items=[_out(hub, each) for each in found],
    )


# --- Helpers --------------------------------------------------------------------------------


def _declare(
    conn: Connection, caller: Caller, meeting: UUID, said: Stating, now_ms: int
) -> list[UUID]:
    match said:
        case Held():
            held = said.kind == "HELD"
            return [statements.confirm(conn, caller, meeting, now_ms, held=held)]
        case HeadCount():
            return [statements.count_heads(conn, caller, meeting, said.number, now_ms)]
        case Witnessed():
            return [
                statements.witness(
                    conn, caller, meeting, now_ms, member=said.member, code=said.code
                )
            ]
        case Sheet():
            return statements.enter_sheet(
                conn, caller, meeting, now_ms, members=said.members, codes=said.codes
            )
        case SheetComplete():
            return [statements.complete_sheet(conn, caller, meeting, now_ms)]
        case LeaveAsked():
            return [statements.ask_leave(conn, caller, meeting, said.member, said.reason, now_ms)]
        case BackFillAsked():
            return [
                statements.ask_back_fill(conn, caller, meeting, said.member, said.reason, now_ms)
            ]
        case _:
            assert_never(said)


@contextmanager
def _doing(hub: Context, caller: Caller | None = None) -> Iterator[Connection]:
    """A write transaction; what is refused becomes 409, in English, with its field.

    `caller`: whoever may name people by code.
    """
    try:
        with hub.engine.begin() as conn:
            yield conn
    except MeetingError as error:
        if caller is not None and isinstance(error, statements.WrongCodeError):
            with hub.engine.begin() as conn:
                statements.note_wrong_code(conn, caller, hub.clock())
        with speaking(Language.EN):
            said = f"{error.field}: {t(error)}" if error.field else t(error)
        raise HTTPException(409, said) from error


def _about(caller: Caller, hub: Context, act: Callable[[Connection], UUID]) -> DeclarationOut:
    with _doing(hub) as conn:
        made = act(conn)
        _looks(conn, caller, [made], hub.clock())
        row = _meeting_of(conn, caller, made)
        return _out(hub, statement(conn, caller, row, str(made)))


def _looks(conn: Connection, caller: Caller, made: Sequence[UUID], now_ms: int) -> None:
    """Write that the caller is told whom these statements are about."""
    look = look_at_statements(conn, "declaration.api", made)
    if look is not None:
        audit.looked(conn, caller, look, now_ms)


def _meeting_of(conn: Connection, caller: Caller, declaration: UUID) -> Row[Any]:
    d = s.declarations.c
    row = conn.execute(
        select(s.meetings)
        .join(s.declarations, d.meeting_id == s.meetings.c.id)
        .where(d.public_id == declaration, concerns(caller.organisation_id))
    ).one_or_none()
    if row is None:
        raise NotFoundError
    return row


def _meeting(conn: Connection, caller: Caller, hub: Context, meeting: UUID) -> MeetingOut:
    found = queries.meeting_attendance(
        conn, caller.organisation_id, str(meeting), hub.clock(), hub.zone
    )
    if found is None:
        raise NotFoundError
    return Told(hub.zone).meeting(found.meeting)


def _ms(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(milliseconds=1)


def _out(hub: Context, each: Statement) -> DeclarationOut:
    told = Told(hub.zone)
    return DeclarationOut(
        public_id=each.public_id,
        kind=each.kind,
        meeting=OfMeeting(
            public_id=each.of.public_id,
            title=each.of.title,
            organisation=each.of.organisation,
            starts_at=told.time(each.of.starts_ms),
            ends_at=told.time(each.of.ends_ms),
        ),
        member=None
        if each.whom is None
        else WhomOut(public_id=each.whom.public_id, code=each.whom.code, name=each.whom.name),
        number=each.number,
        leave_reason=each.leave,
        reason=each.words,
        author=each.author,
        made_at=told.time(each.made_ms),
        stands=each.stands,
        answer=each.answer,
        about=each.about,
        may_withdraw=each.may_withdraw,
        may_decide=each.may_decide,
    )
