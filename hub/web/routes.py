"""The meetings, one meeting and its live stream."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import Connection, Row

from hub.audit import Look
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, page_right, signed_in
from hub.days import MAX_DAYS, day_from, is_too_long, span_ms
from hub.store import queries
from hub.store.engine import reading
from hub.store.scope import find_meeting, is_within
from hub.web import live
from hub.web.pages import page
from hub.web.view import FOUND, TODAY, Attendance, Section, around_today, attendance, line
from hub.web.words import day_words, t

BACK_DAYS: Final = 14
AHEAD_DAYS: Final = 14
PAGE_LINES: Final = 100

Asking = Annotated[Caller, Depends(page_right(Right.VIEW))]

router = APIRouter(include_in_schema=False)
router.include_router(live.router)


@dataclass(frozen=True, slots=True)
class _Filter:
    first: date
    last: date
    asked: bool
    """Whether a person chose the days."""
    problem: str | None
    page: int

    def query(self, number: int) -> str:
        """The address's query of another page of the same."""
        days = {"from": self.first.isoformat(), "to": self.last.isoformat()} if self.asked else {}
        return urlencode({**days, "page": number})


@router.get("/")
def meetings(request: Request, caller: Annotated[Caller, Depends(signed_in)], hub: Hub) -> Response:
    """The meetings of the sub-tree: today and around, or of the days asked for.

    Whoever may not see them begins elsewhere.
    """
    if not caller.may(Right.VIEW):
        return RedirectResponse("/devices" if caller.may(Right.DEVICES_VIEW) else "/me", 303)
    now_ms = hub.clock()
    today = datetime.fromtimestamp(now_ms / 1000, hub.zone).date()
    asked = _read_filter(request, today)
    with reading(hub.engine) as conn:
        found = _meetings(conn, hub, caller, asked, now_ms)
    if asked.asked:
        ordered = [(FOUND, each) for each in reversed(found)]
    else:
        ordered = around_today(found, today, hub.zone)
    shown = ordered[(asked.page - 1) * PAGE_LINES : asked.page * PAGE_LINES]
    sections = [
        Section(
            title,
            day_words(today) if title == TODAY else "",
            tuple(line(each, now_ms, hub.zone) for _, each in some),
            is_today=title == TODAY,
        )
        for title, some in groupby(shown, key=lambda each: each[0])
    ]
    return page(
        "meetings.html",
        422 if asked.problem else 200,
        caller=caller,
        section="meetings",
        at_top=True,
        filter=asked,
        sections=sections,
        today=day_words(today),
        has_today=any(each.is_today for each in sections),
        total=len(ordered),
        pages=max(1, -(-len(ordered) // PAGE_LINES)),
    )


@router.get("/meetings/{meeting}")
def meeting(caller: Asking, hub: Hub, meeting: UUID) -> Response:
    """One meeting's attendance."""
    row, shown, is_own = _meeting(caller, hub, meeting)
    hub.looks(caller, Look("meeting.page", meeting_id=row.id))
    return page(
        "meeting.html",
        caller=caller,
        section="meetings",
        meeting=shown,
        may_change=is_own and caller.may(Right.MEETINGS),
    )


@router.get("/meetings/{meeting}/screen")
def screen(caller: Asking, hub: Hub, meeting: UUID) -> Response:
    """One meeting for all in the room to see: totals and nothing of anybody, so no look is kept."""
    return page("screen.html", caller=caller, meeting=_meeting(caller, hub, meeting)[1])


def _meeting(caller: Caller, hub: Context, public_id: UUID) -> tuple[Row[Any], Attendance, bool]:
    """The meeting's row, all of it as pages show it, and whether it is the scope's own."""
    is_cut_off = live.cut_off(hub)
    with reading(hub.engine) as conn:
        row = find_meeting(conn, caller.organisation_id, public_id)
        is_own = is_within(conn, caller.organisation_id, row.organisation_id)
        found = queries.meeting_attendance(
            conn, caller.organisation_id, str(public_id), hub.clock(), hub.zone
        )
    if found is None:
        raise HTTPException(404)
    return row, attendance(found, hub.zone, is_cut_off=is_cut_off), is_own


def _meetings(
    conn: Connection, hub: Context, caller: Caller, asked: _Filter, now_ms: int
) -> Sequence[queries.MeetingCounts]:
    found = queries.organisation_attendance(
        conn,
        caller.organisation_id,
        caller.organisation_public_id,
        *span_ms(asked.first, asked.last, hub.zone),
        now_ms,
    )
    return () if found is None else found.meetings


def _read_filter(request: Request, today: date) -> _Filter:
    texts = [request.query_params.get(name, "").strip() for name in ("from", "to")]
    number = request.query_params.get("page", "1")
    page_number = int(number) if re.fullmatch(r"[1-9][0-9]{0,5}", number) else 1
    around = today - timedelta(days=BACK_DAYS), today + timedelta(days=AHEAD_DAYS)
    if not any(texts):
        return _Filter(*around, asked=False, problem=None, page=page_number)
    days = [day_from(text) for text in texts]
    problem = None
    for name, text, day in zip((t("开始日期"), t("结束日期")), texts, days, strict=True):
        if text and day is None:
            problem = t("{name}没有看懂，请按 2026-07-01 这样的格式填写。", name=name)
    first, last = days[0] or days[1] or around[0], days[1] or max(days[0] or today, today)
    if problem is None and first > last:
        problem = t("开始日期晚于结束日期，请重新选择。")
    if problem is None and is_too_long(first, last):
        problem = t("一次最多查{days}天，请缩短时间，分几次查。", days=MAX_DAYS)
    if problem is not None:
        return _Filter(*around, asked=False, problem=problem, page=1)
    return _Filter(first, last, asked=True, problem=None, page=page_number)
