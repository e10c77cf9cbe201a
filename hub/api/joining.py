"""`/api/v1/…/partners`, `/invitations`: who takes part in a joint meeting, and who is asked to."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from hub import joining
from hub.api.answers import DONE, LISTED, OF_ONE
from hub.api.models import MAX_LIMIT, In, Out, Paged, Ref, Time, Told
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Hub, api_right
from hub.domain.terms import MeetingKind
from hub.store.engine import reading
from hub.store.queries import Named
from hub.store.scope import find_meeting

Keeping = Annotated[Caller, Depends(api_right(Right.MEETINGS))]

router = APIRouter(prefix="/api/v1", tags=["meetings"])


class Invited(Paged):
    """Which part of the list of invitations."""

    limit: int = Field(50, ge=1, le=MAX_LIMIT, description="How many items at most.")


class PartnerOut(Out):
    """An organisation, other than the host, that takes part or is asked to."""

    organisation: Ref
    agreed: bool = Field(description="False: it is asked to, and takes no part yet.")


class PartnerList(Out):
    """All of them, by code."""

    items: list[PartnerOut]


class InvitationOut(Out):
    """A meeting that an organisation of the sub-tree is asked to take part in."""

    meeting: str = Field(description="Its public id; the meeting is not to be read before a yes.")
    title: str
    kind: MeetingKind
    host: str
    venue: str
    starts_at: Time
    ends_at: Time
    organisation: Ref = Field(description="Which is asked.")


class InvitationList(Out):
    """What the sub-tree has not answered, by start."""

    total: int = Field(description="How many items there are in all.")
    limit: int
    offset: int
    as_of: Time
    items: list[InvitationOut]


class Answer(In):
    """Yes or no."""

    agreed: bool


@router.get("/meetings/{meeting}/partners", responses=OF_ONE)
def list_partners(caller: Keeping, hub: Hub, meeting: UUID) -> PartnerList:
    """Who takes part in a meeting of one's own beside its host, and who is asked to."""
    with reading(hub.engine) as conn:
        row = find_meeting(conn, caller.organisation_id, meeting, to_change=True)
        found = joining.partners_of(conn, row.id)
    return PartnerList(
        items=[
            PartnerOut(organisation=_ref(each.organisation), agreed=each.has_agreed)
            for each in found
        ]
    )


@router.post("/meetings/{meeting}/partners/{organisation}", status_code=204, responses=DONE)
def answer(caller: Keeping, hub: Hub, meeting: UUID, organisation: UUID, said: Answer) -> Response:
    """Say for an organisation of the sub-tree whether it takes part; 404 if nobody asks it."""
    with hub.engine.begin() as conn:
        joining.answer(conn, caller, meeting, organisation, hub.clock(), agreed=said.agreed)
    return Response(status_code=204)


@router.get("/invitations", responses=LISTED)
def list_invitations(
    caller: Keeping, hub: Hub, query: Annotated[Invited, Query()]
) -> InvitationList:
    """Meetings of others that the sub-tree's organisations are asked to take part in."""
    now_ms, scope, told = hub.clock(), caller.organisation_id, Told(hub.zone)
    with reading(hub.engine) as conn:
        total = joining.count_asked(conn, scope, now_ms)
        found = joining.asked(conn, scope, now_ms, query.limit, query.offset)
    return InvitationList(
        total=total,
        limit=query.limit,
        offset=query.offset,
        as_of=told.time(now_ms),
        items=[
            InvitationOut(
                meeting=each.meeting_public_id,
                title=each.title,
                kind=each.kind,
                host=each.host,
                venue=each.venue,
                starts_at=told.time(each.starts_ms),
                ends_at=told.time(each.ends_ms),
                organisation=_ref(each.organisation),
            )
            for each in found
        ],
    )


def _ref(named: Named) -> Ref:
    return Ref(public_id=named.public_id, code=named.code, name=named.name)
