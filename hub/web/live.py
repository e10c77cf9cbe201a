"""A meeting's page kept up to date: server-sent events, each a fragment of HTML.

All who watch a meeting from the same sub-tree and in the same language share one look at it, twice
a second at the least while somebody watches, in a worker thread and a read transaction that ends at
once; and one rendering, when the meeting's change number has grown, when the clock passes the
opening, the start, the end of the grace or the end, when somebody joins, and every thirty seconds,
since devices report how complete their record is without anything changing. A stream ends when its
session does, when the meeting is out of sight, and when the server begins to stop.

The page's stream shows names: it is a look, written before the first event and again while it goes
on. The screen's shows totals and is none.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from hub.audit import LOOK_AGAIN_MS, Look
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.auth.sessions import which_hold
from hub.context import Context, context, session
from hub.failures import DATABASE_FAILURES
from hub.store import queries
from hub.store.engine import reading
from hub.store.scope import find_meeting
from hub.web.pages import render
from hub.web.view import attendance, next_turn_ms
from hub.web.words import Language, speaking, spoken

POLL_S: Final = 0.5
REFRESH_MS: Final = 30_000
RETRY_MS: Final = 2000
STREAMS_A_SESSION: Final = 6
"""As many as a browser opens to one site."""

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Shown:
    """What watchers see, of which change number, and when to show anew without a change."""

    change: int
    until_ms: int
    is_cut_off: bool
    """Whether the hub itself took in no taps then."""
    html: str


class Board:
    """A meeting as one sub-tree sees it in one form and language, and the sessions that watch it.

    Belongs to the event loop; only `_look` runs in a worker thread, one at a time.
    """

    def __init__(
        self, hub: Context, scope: int, public_id: str, language: Language, template: str
    ) -> None:
        self._hub = hub
        self._language = language
        self._template = template
        self._scope = scope
        self._public_id = public_id
        self._lock = asyncio.Lock()
        self._looked_s = float("-inf")
        self._is_fresh = False
        self.watchers: Counter[bytes] = Counter()
        """Streams by session key."""
        self.ended: frozenset[bytes] = frozenset()
        """Sessions that were over at the last look."""
        self.shown: Shown | None = None
        """None before the first look, and once the meeting is out of sight."""

    def join(self, key: bytes) -> None:
        self.watchers[key] += 1
        self._is_fresh = False  # the page is newer than what the others were shown

    def leave(self, key: bytes) -> None:
        self.watchers -= Counter([key])

    async def look(self) -> None:
        """Brings `shown` and `ended` up to date, unless another stream has just done it."""
        async with self._lock:
            if time.monotonic() - self._looked_s < POLL_S / 2:
                return
            is_fresh, self._is_fresh = self._is_fresh, True
            shown = self.shown if is_fresh else None
            keys = frozenset(self.watchers)
            self.shown, held = await run_in_threadpool(self._look, shown, keys)
            self.ended = keys - held
            self._looked_s = time.monotonic()

    def _look(
        self, shown: Shown | None, keys: frozenset[bytes]
    ) -> tuple[Shown | None, frozenset[bytes]]:
        hub, now_ms = self._hub, self._hub.clock()
        is_cut_off = cut_off(hub)
        with reading(hub.engine) as conn:
            held = which_hold(conn, keys, self._scope, now_ms)
            change = queries.meeting_change(conn, self._scope, self._public_id)
            same = shown is not None and (shown.change, shown.is_cut_off) == (change, is_cut_off)
            if shown is not None and same and now_ms < shown.until_ms:
                return shown, held
            found = queries.meeting_attendance(conn, self._scope, self._public_id, now_ms, hub.zone)
        if found is None:
            return None, held
        turn_ms = next_turn_ms(found.meeting, now_ms)
        until_ms = now_ms + REFRESH_MS if turn_ms is None else min(now_ms + REFRESH_MS, turn_ms)
        with speaking(self._language):
            view = attendance(found, hub.zone, is_cut_off=is_cut_off)
            html = render(self._template, meeting=view)
        return Shown(found.meeting.change, until_ms, is_cut_off, html), held


def cut_off(hub: Context) -> bool:
    """Whether the hub says that it takes in no taps now; asked in a worker thread."""
    return hub.health is not None and hub.health() is not None


Boards = dict[tuple[int, str, Language, str], Board]
"""What is watched now, by sub-tree, meeting, language and template."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A session looking at a meeting."""

    hub: Context
    board: Board
    key: bytes
    caller: Caller
    look: Look | None
    """None: nobody is named."""


@asynccontextmanager
async def _watching(
    request: Request, meeting: UUID, template: str, *, names: bool
) -> AsyncIterator[Watch]:
    """The watch of whoever is signed in, until the answer is over.

    401 without a session, 404 out of their sub-tree, 429 with too many streams of the session.
    """
    hub, name = context(request), str(meeting)
    found = await run_in_threadpool(session, request)
    if found is None:
        raise HTTPException(401)
    if not found.caller.may(Right.VIEW) or found.must_change:
        raise HTTPException(403)
    scope = found.caller.organisation_id

    def find() -> int | None:
        with reading(hub.engine) as conn:
            if queries.meeting_change(conn, scope, name) is None:
                return None
            return int(find_meeting(conn, scope, meeting).id)

    meeting_id = await run_in_threadpool(find)
    if meeting_id is None:
        raise HTTPException(404)
    look = Look("meeting.page", meeting_id=meeting_id)
    boards: Boards = request.app.state.boards
    if sum(board.watchers[found.key] for board in boards.values()) >= STREAMS_A_SESSION:
        raise HTTPException(429)
    which = (scope, name, spoken(), template)
    board = boards.setdefault(which, Board(hub, *which))
    board.join(found.key)
    try:
        yield Watch(hub, board, found.key, found.caller, look if names else None)
    finally:
        board.leave(found.key)
        if not board.watchers:
            boards.pop(which, None)


async def watching_page(request: Request, meeting: UUID) -> AsyncIterator[Watch]:
    """Of the meeting's page, see `_watching`."""
    async with _watching(request, meeting, "attendance.html", names=True) as watch:
        yield watch


async def watching_screen(request: Request, meeting: UUID) -> AsyncIterator[Watch]:
    """Of the shared screen, see `_watching`."""
    async with _watching(request, meeting, "screen-live.html", names=False) as watch:
        yield watch


@router.get("/meetings/{meeting}/live", response_class=EventSourceResponse)
async def live(watch: Annotated[Watch, Depends(watching_page)]) -> AsyncIterator[ServerSentEvent]:
    """The meeting's page: unnamed events with HTML; `end` where coming again is of no use."""
    async for event in _events(watch):
        yield event


@router.get("/meetings/{meeting}/screen/live", response_class=EventSourceResponse)
async def live_screen(
    watch: Annotated[Watch, Depends(watching_screen)],
) -> AsyncIterator[ServerSentEvent]:
    """The shared screen, likewise."""
    async for event in _events(watch):
        yield event


async def _events(watch: Watch) -> AsyncIterator[ServerSentEvent]:
    board = watch.board
    seen = board.shown
    looked_ms: int | None = None
    while not watch.hub.closing.is_set():
        try:
            now_ms = watch.hub.clock()
            is_due = looked_ms is None or now_ms - looked_ms >= LOOK_AGAIN_MS
            if watch.look is not None and is_due and watch.key not in board.ended:
                await run_in_threadpool(watch.hub.looks, watch.caller, watch.look)
                looked_ms = now_ms
            await board.look()
        except DATABASE_FAILURES:
            return  # the browser connects again, and is told by a 503 that it must wait
        if board.shown is None or watch.key in board.ended:
            yield ServerSentEvent(event="end", raw_data="over")
            return
        if board.shown is not seen:
            seen = board.shown
            yield ServerSentEvent(raw_data=seen.html, retry=RETRY_MS)
        try:
            await asyncio.wait_for(watch.hub.closing.wait(), POLL_S)
        except TimeoutError:
            continue
