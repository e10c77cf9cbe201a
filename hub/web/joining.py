"""The forms by which an organisation says whether it takes part in another's meeting.

What it is asked stands on `/asks`, beside what its members ask.
"""

from dataclasses import dataclass
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Response
from sqlalchemy import Connection

from hub import joining
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, page_right
from hub.store.scope import NotFoundError
from hub.web.visit import done
from hub.web.words import day_words, t

MOST: Final = 50
"""So many are shown at once; the others follow when these are answered."""

Keeping = Annotated[Caller, Depends(page_right(Right.MEETINGS))]

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an organisation is asked to take part in, worded."""

    action: str
    """Where the answer goes."""
    organisation: str
    title: str
    kind: str
    host: str
    venue: str
    when: str


def invitations(
    conn: Connection, caller: Caller, hub: Context, now_ms: int
) -> tuple[int, list[Invitation]]:
    """How many answers the caller's sub-tree owes, and the first of them."""
    scope = caller.organisation_id
    return joining.count_asked(conn, scope, now_ms), [
        Invitation(
            f"/meetings/{each.meeting_public_id}/partners/{each.organisation.public_id}",
            each.organisation.name,
            each.title,
            t(each.kind),
            each.host,
            each.venue,
            _when(hub, each.starts_ms, each.ends_ms),
        )
        for each in joining.asked(conn, scope, now_ms, MOST)
    ]


@router.post("/meetings/{meeting}/partners/{organisation}")
def answer(
    caller: Keeping,
    hub: Hub,
    meeting: UUID,
    organisation: UUID,
    agreed: Annotated[str, Form()] = "",
) -> Response:
    """Say yes or no for an organisation of the sub-tree."""
    if agreed not in {"yes", "no"}:
        raise NotFoundError
    with hub.engine.begin() as conn:
        joining.answer(conn, caller, meeting, organisation, hub.clock(), agreed=agreed == "yes")
    if agreed == "yes":
        return done("/asks", "已同意参加，本组织的党员列入应到。")
    return done("/asks", "已答复不参加。")


def _when(hub: Context, starts_ms: int, ends_ms: int) -> str:
    starts, ends = hub.local(starts_ms), hub.local(ends_ms)
    return f"{day_words(starts.date())} {starts:%H:%M}–{ends:%H:%M}"
