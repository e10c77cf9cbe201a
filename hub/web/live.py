"""A meeting's page kept up to date: server-sent events, each a fragment of HTML.

The server looks at the meeting's change number twice a second, in a worker thread and a read
transaction that ends at once. A fragment is sent when that number has grown, when the clock passes
the opening, the start, the end of the grace or the end, and every thirty seconds, since devices
report how complete their record is without anything changing. A stream ends when its session does,
when the meeting is out of sight, and when the server begins to stop.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool

from hub.auth.sessions import Session, session_by_key
from hub.context import Context, context, session
from hub.store import queries
from hub.store.engine import reading
from hub.web.pages import render
from hub.web.view import attendance, next_turn_ms

POLL_S: Final = 0.5
REFRESH_MS: Final = 30_000
RETRY_MS: Final = 2000

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Shown:
    """What the browser shows: the change number, and when to show anew without a change."""

    change: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Watch:
    """A session looking at a meeting."""

    hub: Context
    session: Session
    public_id: str

    def look(self, shown: Shown | None) -> tuple[Shown, str] | Shown | None:
        """What to show next with its HTML, `shown` while nothing is new, None when it is over."""
        hub, now_ms = self.hub, self.hub.clock()
        scope = self.session.caller.organisation_id
        with reading(hub.engine) as conn:
            held = session_by_key(conn, self.session.key, now_ms)
            if held is None or held.caller.organisation_id != scope:
                return None
            change = queries.meeting_change(conn, scope, self.public_id)
            if change is None:
                return None
            if shown is not None and shown.change == change and now_ms < shown.until_ms:
                return shown
            found = queries.meeting_attendance(conn, scope, self.public_id, now_ms, hub.zone)
        if found is None:
            return None
        turn_ms = next_turn_ms(found.meeting, now_ms)
        until_ms = now_ms + REFRESH_MS if turn_ms is None else min(now_ms + REFRESH_MS, turn_ms)
        html = render("attendance.html", meeting=attendance(found, hub.zone))
        return Shown(found.meeting.change, until_ms), html


def watching(request: Request, public_id: UUID) -> Watch:
    """The watch of whoever is signed in: 401 without a session, 404 out of their sub-tree."""
    hub, found = context(request), session(request)
    if found is None:
        raise HTTPException(401)
    with reading(hub.engine) as conn:
        change = queries.meeting_change(conn, found.caller.organisation_id, str(public_id))
    if change is None:
        raise HTTPException(404)
    return Watch(hub, found, str(public_id))


@router.get("/meetings/{public_id}/live", response_class=EventSourceResponse)
async def live(watch: Annotated[Watch, Depends(watching)]) -> AsyncIterator[ServerSentEvent]:
    """`attendance` events with HTML; an `end` event where connecting again is of no use."""
    shown: Shown | None = None
    while not watch.hub.closing.is_set():
        try:
            seen = await run_in_threadpool(watch.look, shown)
        except OperationalError:
            return  # the browser connects again, and is told by a 503 that it must wait
        match seen:
            case None:
                yield ServerSentEvent(event="end", raw_data="over")
                return
            case Shown():
                pass
            case (shown, html):
                yield ServerSentEvent(event="attendance", raw_data=html, retry=RETRY_MS)
        try:
            await asyncio.wait_for(watch.hub.closing.wait(), POLL_S)
        except TimeoutError:
            continue
