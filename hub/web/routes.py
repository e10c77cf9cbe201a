"""The pages: sign-in, the meetings, one meeting and its live stream.

A page belongs to whoever is signed in; without a session the browser is sent to sign in and back.
Whatever lies outside of the signed-in sub-tree is 404.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Annotated, Final
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import Connection

from hub.auth.sessions import COOKIE, SESSION_MS, begin_session, end_session
from hub.auth.tokens import Caller, caller_by_token
from hub.context import Context, context, session, signed_in
from hub.days import FIRST_DAY, LAST_DAY, span_ms
from hub.store import queries
from hub.store.engine import reading
from hub.web import live
from hub.web.pages import page
from hub.web.view import Section, around_today, attendance, day_words, line

BACK_DAYS: Final = 14
AHEAD_DAYS: Final = 14
PAGE_LINES: Final = 100
_WRONG_TOKEN: Final = "令牌不正确，或者已经停用、过期。请核对后重新输入。"  # noqa: S105

Hub = Annotated[Context, Depends(context)]
Asking = Annotated[Caller, Depends(signed_in)]

router = APIRouter(include_in_schema=False)
router.include_router(live.router)


def same_site(request: Request) -> None:
    """Refuse a form that another site's page has sent (403)."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        foreign = site not in {"same-origin", "none"}
    else:
        foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    if foreign:
        raise HTTPException(403, "the form was sent from another site")


@router.get("/sign-in")
def sign_in_page(request: Request, next: str = "/") -> Response:  # noqa: A002  the address says so
    """Where a token is typed in; who is signed in already goes on."""
    back = local_path(next)
    if session(request) is not None:
        return RedirectResponse(back, 303)
    return page("sign-in.html", caller=None, back=back, problem=None)


@router.post("/sign-in", dependencies=[Depends(same_site)])
def sign_in(
    request: Request,
    hub: Hub,
    token: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",  # noqa: A002
) -> Response:
    """Begin a session with a token."""
    back, now_ms = local_path(next), hub.clock()
    old = request.cookies.get(COOKIE)
    with reading(hub.engine) as conn:
        caller = caller_by_token(conn, token.strip(), now_ms)
    if caller is None:
        return page("sign-in.html", 403, caller=None, back=back, problem=_WRONG_TOKEN)
    with hub.engine.begin() as conn:
        if old is not None:
            end_session(conn, old)
        cookie = begin_session(conn, caller, now_ms)
    response = RedirectResponse(back, 303)
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=SESSION_MS // 1000,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/sign-out", dependencies=[Depends(same_site)])
def sign_out(request: Request, hub: Hub) -> Response:
    """End the session."""
    cookie = request.cookies.get(COOKIE)
    # Whoever has no session must not wait for, nor take, the database's write lock.
    if cookie is not None and session(request) is not None:
        with hub.engine.begin() as conn:
            end_session(conn, cookie)
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(
        COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return response


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
def meetings(request: Request, caller: Asking, hub: Hub) -> Response:
    """The meetings of the sub-tree: today and around, or of the days asked for."""
    now_ms = hub.clock()
    today = datetime.fromtimestamp(now_ms / 1000, hub.zone).date()
    asked = _read_filter(request, today)
    with reading(hub.engine) as conn:
        found = _meetings(conn, hub, caller, asked, now_ms)
    if asked.asked:
        ordered = [("查询结果", each) for each in reversed(found)]
    else:
        ordered = around_today(found, today, hub.zone)
    shown = ordered[(asked.page - 1) * PAGE_LINES : asked.page * PAGE_LINES]
    sections = [
        Section(
            title,
            day_words(today) if title == "今天" else "",
            tuple(line(each, now_ms, hub.zone) for _, each in some),
            with_day=title != "今天",
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
        has_today=any(each.title == "今天" for each in sections),
        total=len(ordered),
        pages=max(1, -(-len(ordered) // PAGE_LINES)),
    )


@router.get("/meetings/{public_id}")
def meeting(caller: Asking, hub: Hub, public_id: UUID) -> Response:
    """One meeting's attendance."""
    with reading(hub.engine) as conn:
        found = queries.meeting_attendance(
            conn, caller.organisation_id, str(public_id), hub.clock(), hub.zone
        )
    if found is None:
        raise HTTPException(404)
    return page(
        "meeting.html",
        caller=caller,
        section="meetings",
        at_top=False,
        meeting=attendance(found, hub.zone),
    )


def local_path(path: str) -> str:
    r"""`path` if it is one of this site's, otherwise the start page.

    A browser reads `//host` and `/\host` as another site, and leaves out tabs and line ends.
    """
    return path if re.fullmatch(r"/(?:[!-.0-\[\]-~][!-\[\]-~]*)?", path) else "/"


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
    days = [_read_day(text) for text in texts]
    problem = None
    for name, text, day in zip(("开始日期", "结束日期"), texts, days, strict=True):
        if text and day is None:
            problem = f"{name}没有看懂，请按 2026-07-01 这样的格式填写。"
    first, last = days[0] or days[1] or around[0], days[1] or max(days[0] or today, today)
    if problem is None and first > last:
        problem = "开始日期晚于结束日期，请重新选择。"
    if problem is not None:
        return _Filter(*around, asked=False, problem=problem, page=1)
    return _Filter(first, last, asked=True, problem=None, page=page_number)


def _read_day(text: str) -> date | None:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day if FIRST_DAY <= day <= LAST_DAY else None
