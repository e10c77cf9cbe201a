"""The routes of `/api/v1`. Open are health and enrolment; all else wants a bearer token.

Outside of the token's sub-tree everything is 404, exactly as what does not exist.
"""

from base64 import urlsafe_b64encode
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from sqlalchemy import select, text

from hub.api.answers import OF_ONE, UNAVAILABLE, problem
from hub.api.models import (
    EnrolmentAnswer,
    EnrolmentRequest,
    Healthy,
    MeetingAttendanceOut,
    MeetingList,
    MemberAttendanceOut,
    OrganisationAttendanceOut,
    Period,
    Told,
    counts,
    named,
    person,
)
from hub.audit import Look
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, api_right, bearer
from hub.days import MAX_DAYS, is_too_long, span_ms
from hub.devices import EnrolmentRefusedError
from hub.store import queries
from hub.store import schema as s
from hub.store.engine import reading
from hub.store.scope import find_meeting

DESCRIPTION: Final = """\
Attendance, as far as the token's organisation and all below it; anything else is 404.

Days are local days of the district. Times are RFC 3339 with the district's offset and three digits
of milliseconds. Lists take `limit` and `offset` and tell the `total`. A failure is
`{"detail": "…"}` in words; a parameter that is not known is refused by name.
"""

T = TypeVar("T")
Asking = Annotated[Caller, Depends(api_right(Right.VIEW))]


class Meetings(Period):
    """The query of the list of meetings."""

    organisation: UUID | None = Query(
        None, description="Of this organisation and all below it; by default the token's own."
    )


router = APIRouter(prefix="/api/v1")


@router.get(
    "/health",
    tags=["hub"],
    responses={503: problem("The database cannot be used, or taps are not taken in.")},
)
def health(hub: Hub) -> Healthy:
    """Whether the hub can do its work: the database answers, and taps are taken in."""
    with reading(hub.engine) as conn:
        conn.execute(text("SELECT 1"))
    trouble = hub.health() if hub.health is not None else None
    if trouble:
        raise HTTPException(503, trouble)
    return Healthy(status="ok")


@router.post(
    "/enrol",
    tags=["devices"],
    responses={
        400: problem("The body is no text."),
        403: problem("No code that is valid now fits the proof."),
        409: problem("The code was used already."),
        413: problem("The request is too large."),
        422: problem("A field is missing or wrong; it is named."),
        **UNAVAILABLE,
    },
)
def enrol(hub: Hub, wanted: EnrolmentRequest) -> EnrolmentAnswer:
    """An edge joins with a one-time code. The same again, soon, gives the same answer."""
    if hub.enrol is None:
        raise HTTPException(503, "this hub takes no enrolments")
    try:
        answer = hub.enrol(wanted.sign_key, wanted.seal_key, wanted.proof)
    except EnrolmentRefusedError as error:
        raise HTTPException(error.status, error.detail) from error
    return EnrolmentAnswer(answer=urlsafe_b64encode(answer).decode().rstrip("="))


@router.get("/meetings", tags=["attendance"], responses=OF_ONE)
def list_meetings(caller: Asking, hub: Hub, query: Annotated[Meetings, Query()]) -> MeetingList:
    """Meetings of a sub-tree in a period, with their figures, by start."""
    asked = str(query.organisation or caller.organisation_public_id)
    found = _organisation(hub, caller, asked, query)
    told = Told(hub.zone)
    return MeetingList(
        total=len(found.meetings),
        limit=query.limit,
        offset=query.offset,
        as_of=told.time(found.as_of_ms),
        items=[told.item(each) for each in _slice(found.meetings, query)],
    )


@router.get("/meetings/{meeting}/attendance", tags=["attendance"], responses=OF_ONE)
def meeting_attendance(caller: Asking, hub: Hub, meeting: UUID) -> MeetingAttendanceOut:
    """Everybody a meeting concerns, and how complete the record of it is."""
    with reading(hub.engine) as conn:
        row = find_meeting(conn, caller.organisation_id, meeting)
        found = queries.meeting_attendance(
            conn, caller.organisation_id, str(meeting), hub.clock(), hub.zone
        )
    if found is None:
        raise HTTPException(404, "meeting: there is no such one in your sub-tree")
    hub.looks(caller, Look("meeting.api", meeting_id=row.id))
    return Told(hub.zone).attendance(found)


@router.get("/members/{member}/attendance", tags=["attendance"], responses=OF_ONE)
def member_attendance(
    caller: Asking, hub: Hub, member: UUID, query: Annotated[Period, Query()]
) -> MemberAttendanceOut:
    """A member's meetings in a period, by start; the member must belong to the sub-tree then."""
    with reading(hub.engine) as conn:
        found = queries.member_attendance(
            conn, caller.organisation_id, str(member), *_span(hub, query), hub.clock()
        )
        member_id = conn.scalar(select(s.members.c.id).where(s.members.c.public_id == member))
    if found is None:
        raise HTTPException(404, "member: there is no such one in your sub-tree")
    hub.looks(caller, Look("member.api", member_id=member_id))
    told = Told(hub.zone)
    return MemberAttendanceOut(
        member=person(found.member),
        total=len(found.meetings),
        limit=query.limit,
        offset=query.offset,
        as_of=told.time(found.as_of_ms),
        items=[told.member_item(each) for each in _slice(found.meetings, query)],
    )


@router.get("/organisations/{organisation}/attendance", tags=["attendance"], responses=OF_ONE)
def organisation_attendance(
    caller: Asking, hub: Hub, organisation: UUID, query: Annotated[Period, Query()]
) -> OrganisationAttendanceOut:
    """An organisation's meetings and all below it, with sums over the whole period."""
    found = _organisation(hub, caller, str(organisation), query)
    told = Told(hub.zone)
    return OrganisationAttendanceOut(
        organisation=named(found.organisation),
        totals=counts(found.totals),
        total=len(found.meetings),
        limit=query.limit,
        offset=query.offset,
        as_of=told.time(found.as_of_ms),
        items=[told.item(each) for each in _slice(found.meetings, query)],
    )


@router.get("/openapi.json", include_in_schema=False, dependencies=[Depends(bearer)])
def openapi(request: Request) -> dict[str, Any]:
    """The description of all this in OpenAPI."""
    described: dict[str, Any] = request.app.openapi()
    return described


def _organisation(
    hub: Context, caller: Caller, public_id: str, query: Period
) -> queries.OrganisationAttendance:
    if is_too_long(*query.days(hub.local(hub.clock()).date())):
        raise HTTPException(422, f"from, to: at most {MAX_DAYS} days at once")
    with reading(hub.engine) as conn:
        found = queries.organisation_attendance(
            conn, caller.organisation_id, public_id, *_span(hub, query), hub.clock()
        )
    if found is None:
        raise HTTPException(404, "organisation: there is no such one in your sub-tree")
    return found


def _span(hub: Context, query: Period) -> tuple[int, int]:
    today = datetime.fromtimestamp(hub.clock() / 1000, hub.zone).date()
    return span_ms(*query.days(today), hub.zone)


def _slice(items: tuple[T, ...], query: Period) -> tuple[T, ...]:
    return items[query.offset : query.offset + query.limit]
