"""`/api/v1/attendance` and `/api/v1/members`: attendance by conditions, and members by name."""

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import Field

from hub.api.answers import OF_ONE
from hub.api.models import (
    AttendanceList,
    MemberFound,
    MemberList,
    Paged,
    Period,
    Told,
    sums,
)
from hub.audit import Look, look_at
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Hub, api_right
from hub.days import span_ms
from hub.domain.terms import MeetingKind, Verdict
from hub.store import attendance_query as store
from hub.store.engine import reading
from hub.store.scope import find_organisation

LONGEST_NAME: Final = 100

Asking = Annotated[Caller, Depends(api_right(Right.VIEW))]
Subtree = Annotated[
    UUID | None,
    Field(description="Of this organisation and all below it; by default the token's own."),
]
Name = Annotated[
    str,
    Field(
        max_length=LONGEST_NAME,
        description="Part of a name, its pinyin or initials, or the beginning of a code.",
    ),
]

router = APIRouter(prefix="/api/v1")


class Conditions(Period):
    """The query of attendance by conditions; all of them hold."""

    organisation: Subtree = None
    meeting: UUID | None = None
    member: UUID | None = None
    name: Name = ""
    kind: MeetingKind | None = None
    verdict: Verdict | None = None


class Search(Paged):
    """The query of members."""

    search: Name = ""
    organisation: Subtree = None


@router.get("/attendance", tags=["attendance"], responses=OF_ONE)
def list_attendance(
    caller: Asking, hub: Hub, query: Annotated[Conditions, Query()]
) -> AttendanceList:
    """Members at meetings: the sub-tree's people wherever they met, and who it expected as a host.

    Guests from elsewhere have no name here, and are told by the meeting alone.
    """
    now_ms = hub.clock()
    told = Told(hub.zone)
    today = datetime.fromtimestamp(now_ms / 1000, hub.zone).date()
    asked = store.Asked(
        *span_ms(*query.days(today), hub.zone),
        query.organisation,
        query.meeting,
        query.member,
        query.name,
        query.kind,
        query.verdict,
    )
    with reading(hub.engine) as conn:
        try:
            found = store.resolve(conn, caller.organisation_id, asked)
        except store.TooManyNamedError:
            raise HTTPException(
                422, f"name: fits more than {store.MOST_NAMED} members; say more of it"
            ) from None
        totals = store.totals(conn, found, now_ms)
        lines = store.lines(conn, found, now_ms, limit=query.limit, offset=query.offset)
    if totals.all.times:  # nobody shown, nobody looked at
        hub.looks(caller, look_at("attendance.api", found))
    return AttendanceList(
        totals=sums(totals),
        total=totals.all.times,
        limit=query.limit,
        offset=query.offset,
        as_of=told.time(now_ms),
        items=[told.line(each) for each in lines],
    )


@router.get("/members", tags=["members"], responses=OF_ONE)
def list_members(caller: Asking, hub: Hub, query: Annotated[Search, Query()]) -> MemberList:
    """Members who belong to the sub-tree now, by code."""
    now_ms = hub.clock()
    with reading(hub.engine) as conn:
        scope = caller.organisation_id
        if query.organisation is not None:
            scope = find_organisation(conn, scope, query.organisation).id
        found, count = store.members(
            conn, scope, query.search, now_ms, limit=query.limit, offset=query.offset
        )
    if found:  # nobody shown, nobody looked at
        hub.looks(caller, Look("members.api", organisation_id=scope))
    return MemberList(
        total=count,
        limit=query.limit,
        offset=query.offset,
        as_of=Told(hub.zone).time(now_ms),
        items=[
            MemberFound(
                public_id=each.public_id, code=each.code, name=each.name, branch=each.branch
            )
            for each in found
        ],
    )
