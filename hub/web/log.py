"""The logs: what was done, and who looked at whose data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import Row

from hub.audit import Look
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, page_right
from hub.days import day_from, span_ms
from hub.domain.terms import Role
from hub.store.engine import reading
from hub.store.log_query import Asked, acts, count_acts, count_looks, looks
from hub.web.accounts import page_number, typed
from hub.web.deeds import AREAS, MANY, details_words, what_words
from hub.web.pages import page
from hub.web.words import t

BACK_DAYS: Final = 30
PAGE_LINES: Final = 50

Reading = Annotated[Caller, Depends(page_right(Right.AUDIT))]

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class LogLine:
    """An entry of either log."""

    at: str
    iso: str
    actor: str
    role: Role | None
    is_token: bool
    what: str
    about: str
    href: str | None
    details: str


@dataclass(frozen=True, slots=True)
class _Given:
    """The conditions, as the address has them."""

    first: date
    last: date
    person: str
    area: str
    page: int
    errors: Mapping[str, str]

    @classmethod
    def read(cls, request: Request, today: date) -> "_Given":
        texts = {name: text.strip() for name, text in request.query_params.items()}
        errors = {}
        days: dict[str, date | None] = {}
        for name, words in (("from", t("开始日期")), ("to", t("结束日期"))):
            days[name] = day_from(texts.get(name, ""))
            if texts.get(name) and days[name] is None:
                errors[name] = t("{name}没有看懂，请按 2026-07-01 这样的格式填写。", name=words)
        last = days["to"] or max(days["from"] or today, today)
        first = days["from"] or min(last, today) - timedelta(days=BACK_DAYS)
        if not errors and first > last:
            errors["from"] = t("开始日期晚于结束日期，请重新选择。")
        area = texts.get("area", "")
        return cls(
            first,
            last,
            typed(texts.get("person", "")),
            area if area in AREAS else "",
            page_number(texts.get("page", "")),
            errors,
        )

    @property
    def query(self) -> str:
        """The address's query, without the page."""
        days = {"from": self.first.isoformat(), "to": self.last.isoformat()}
        return urlencode({**days, "person": self.person, "area": self.area})

    def asked(self, hub: Context) -> Asked:
        """The same for the database."""
        return Asked(*span_ms(self.first, self.last, hub.zone), actor=self.person, area=self.area)


@router.get("/log")
def log_of_acts(request: Request, caller: Reading, hub: Hub) -> Response:
    """What was done."""
    given = _given(request, hub)
    rows: list[Row[Any]] = []
    count = 0
    if not given.errors:
        asked, scope = given.asked(hub), caller.organisation_id
        with reading(hub.engine) as conn:
            count = count_acts(conn, scope, asked)
            rows = list(acts(conn, scope, asked, PAGE_LINES, (given.page - 1) * PAGE_LINES))
    if any(each.member is not None or each.is_member for each in rows):
        hub.looks(caller, Look("log.page", organisation_id=caller.organisation_id))
    return _page("/log", t("操作日志"), caller, given, [_act(each, hub) for each in rows], count)


@router.get("/log/looks")
def log_of_looks(request: Request, caller: Reading, hub: Hub) -> Response:
    """Who looked at personal data."""
    given, now_ms = _given(request, hub), hub.clock()
    rows: list[Row[Any]] = []
    count = 0
    if not given.errors:
        asked, scope = given.asked(hub), caller.organisation_id
        with reading(hub.engine) as conn:
            count = count_looks(conn, scope, asked, now_ms)
            offset = (given.page - 1) * PAGE_LINES
            rows = list(looks(conn, scope, asked, now_ms, PAGE_LINES, offset))
    if any(each.member is not None for each in rows):
        hub.looks(caller, Look("log.page", organisation_id=caller.organisation_id))
    lines = [_look(each, hub) for each in rows]
    return _page("/log/looks", t("查看记录"), caller, given, lines, count)


def _given(request: Request, hub: Context) -> _Given:
    return _Given.read(request, hub.local(hub.clock()).date())


def _page(
    path: str, title: str, caller: Caller, given: _Given, lines: list[LogLine], count: int
) -> Response:
    return page(
        "log.html",
        422 if given.errors else 200,
        caller=caller,
        section="log",
        path=path,
        title=title,
        given=given,
        areas=[(key, t(words)) for key, words in AREAS.items() if key not in MANY],
        lines=lines,
        count=count,
        pages=max(1, -(-count // PAGE_LINES)),
    )


_PAGES: Final = {
    "account": "/accounts/",
    "meeting": "/meetings/",
    "member": "/members/",
    "device": "/devices/",
}


def _act(row: Row[Any], hub: Context) -> LogLine:
    path = _PAGES.get(row.object)
    href = None if path is None or row.object_id is None else f"{path}{row.object_id}"
    if row.object == "declaration":
        # A wrong code is of no meeting.
        meeting = json.loads(row.details).get("meeting")
        href = None if meeting is None else f"/meetings/{meeting}/statements"
    about = row.organisation or t("整个系统")
    named = row.account or row.meeting or row.device or row.venue or row.member
    if named:
        about = t("{what}，{organisation}", what=named, organisation=about)
    return _line(row, hub, about, href, details_words(row.details))


def _look(row: Row[Any], hub: Context) -> LogLine:
    if row.member is not None:
        about, href = row.member, f"/members/{row.member_public_id}"
    elif row.meeting is not None:
        about, href = row.meeting, f"/meetings/{row.meeting_public_id}"
    else:
        about, href = row.organisation or "", None
    period = ""
    if row.from_ms is not None and row.to_ms is not None:
        first, last = hub.local(row.from_ms).date(), hub.local(row.to_ms - 1).date()
        period = t("{first} 至 {last}", first=first, last=last)
    return _line(row, hub, about, href, period)


def _line(row: Row[Any], hub: Context, about: str, href: str | None, details: str) -> LogLine:
    at: datetime = hub.local(row.at_ms)
    return LogLine(
        f"{at:%Y-%m-%d %H:%M:%S}",
        at.isoformat(timespec="seconds"),
        t(row.actor),
        None if row.role is None else Role(row.role),
        row.token_id is not None,
        what_words(row.what),
        about,
        href,
        details,
    )
