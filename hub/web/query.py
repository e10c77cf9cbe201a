"""Attendance asked for by conditions, its files for a spreadsheet, and the members.

Every look is written down before it is shown, and every file besides in the audit log.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Annotated, Final
from urllib.parse import urlencode
from uuid import UUID
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from sqlalchemy import Connection

from hub import audit
from hub.audit import Look, look_at
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, page_right
from hub.days import day_from, span_ms
from hub.domain.terms import MeetingKind, Verdict
from hub.exports import Cell, FileFormat, download, table_file
from hub.store import attendance_query as store
from hub.store.attendance_query import Asked, Line, Query, Sum, TooManyNamedError, Totals
from hub.store.engine import reading
from hub.store.queries import Named
from hub.store.scope import find_organisation
from hub.web.pages import page
from hub.web.view import Chip
from hub.web.words import short_day, t

BACK_DAYS: Final = 90
PAGE_LINES: Final = 50
MOST_LINES: Final = 100_000
"""A larger file is refused: a shorter period makes several of it."""
_LONGEST_NAME: Final = 100
_FORMATS: Final = {each.value: each for each in FileFormat}

Asking = Annotated[Caller, Depends(page_right(Right.VIEW))]

router = APIRouter(include_in_schema=False)


@router.get("/attendance")
def attendance_by_conditions(request: Request, caller: Asking, hub: Hub) -> Response:
    """Members at meetings: a page of them, and the sums of all."""
    now_ms = hub.clock()
    given = _Given.read(request, _today(hub))
    with reading(hub.engine) as conn:
        branches = store.tree(conn, caller.organisation_id)
        found = _find(conn, caller, hub, given, now_ms)
    if isinstance(found, Mapping):
        return _page(caller, given, branches, None, found)
    if found.totals.all.times:  # nobody shown, nobody looked at
        hub.looks(caller, look_at("attendance.page", found.query))
    return _page(caller, given, branches, found, {})


@router.get("/attendance/file")
def attendance_file(request: Request, caller: Asking, hub: Hub) -> Response:
    """The same as a file, all of it."""
    now_ms = hub.clock()
    given = _Given.read(request, _today(hub))
    form = _FORMATS.get(request.query_params.get("format", "xlsx"))
    if form is None:
        raise HTTPException(404)
    with reading(hub.engine) as conn:
        branches = store.tree(conn, caller.organisation_id)
        found = _find(conn, caller, hub, given, now_ms)
        if isinstance(found, Mapping):
            return _page(caller, given, branches, None, found)
        if found.totals.all.times > MOST_LINES:
            said = t(
                "共 {n} 条，超过一次能导出的 {most} 条。请缩短时间，分几次导出。",
                n=found.totals.all.times,
                most=MOST_LINES,
            )
            return _page(caller, given, branches, None, {"file": said})
        every = store.every_line(conn, found.query, now_ms, limit=MOST_LINES)
        file = table_file(
            form,
            t("考勤"),
            _above(caller, given, found, hub.local(now_ms)),
            _titles(),
            _cells(every, hub.zone),
        )
    with hub.engine.begin() as conn:
        look = look_at("attendance.export", found.query)
        audit.looked(conn, caller, look, now_ms)
        audit.record(
            conn,
            caller,
            "attendance.export",
            look.organisation_id,
            "organisation",
            UUID(found.organisation.public_id),
            now_ms,
            format=form,
            lines=found.totals.all.times,
            conditions=given.query(),
        )
    name = "-".join((t("考勤"), given.first.isoformat(), given.last.isoformat()))
    return download(file, form, name)


@router.get("/members")
def members(request: Request, caller: Asking, hub: Hub) -> Response:
    """The members of the sub-tree now, found by name, pinyin or code."""
    now_ms = hub.clock()
    given = _Given.read(request, _today(hub))
    with reading(hub.engine) as conn:
        branches = store.tree(conn, caller.organisation_id)
        scope = caller.organisation_id
        if given.organisation is not None:
            scope = find_organisation(conn, scope, given.organisation).id
        found, count = store.members(
            conn,
            scope,
            given.name,
            now_ms,
            limit=PAGE_LINES,
            offset=(given.page - 1) * PAGE_LINES,
        )
    if found:  # nobody shown, nobody looked at
        hub.looks(caller, Look("members.page", organisation_id=scope))
    return page(
        "members.html",
        caller=caller,
        section="members",
        given=given,
        branches=_choices(branches),
        members=found,
        total_found=count,
        search=given.search,
        pages=_pages(count),
    )


@router.get("/members/{member}")
def member(request: Request, caller: Asking, hub: Hub, member: UUID) -> Response:
    """One member's attendance in a period."""
    now_ms = hub.clock()
    given = replace(_Given.read(request, _today(hub)), member=member, organisation=None, name="")
    with reading(hub.engine) as conn:
        found = _find(conn, caller, hub, given, now_ms)
        if isinstance(found, Mapping):
            given, errors = given.without_days(_today(hub)), found
            found = _find(conn, caller, hub, given, now_ms)
        else:
            errors = {}
    if isinstance(found, Mapping) or found.query.member is None:
        raise HTTPException(404)
    hub.looks(caller, look_at("member.page", found.query))
    return page(
        "member.html",
        422 if errors else 200,
        caller=caller,
        section="members",
        given=given,
        member=found.query.member,
        branch=found.branch,
        found=found,
        errors=errors,
        pages=_pages(found.totals.all.times),
    )


# --- What is asked for ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Given:
    """The conditions as the address has them; `errors` where something was not understood."""

    first: date
    last: date
    organisation: UUID | None
    meeting: UUID | None
    member: UUID | None
    name: str
    kind: MeetingKind | None
    verdict: Verdict | None
    page: int
    errors: Mapping[str, str]

    @classmethod
    def read(cls, request: Request, today: date) -> "_Given":
        """From the query. What no form of ours would send is 404, like an id of nothing."""
        texts = {name: text.strip() for name, text in request.query_params.items()}
        errors: dict[str, str] = {}
        days: dict[str, date | None] = {}
        for name, words in (("from", t("开始日期")), ("to", t("结束日期"))):
            text = texts.get(name, "")
            days[name] = day_from(text)
            if text and days[name] is None:
                errors[name] = t("{name}没有看懂，请按 2026-07-01 这样的格式填写。", name=words)
        first, last = days["from"], days["to"]
        last = last or max(first or today, today)
        first = first or min(last, today) - timedelta(days=BACK_DAYS)
        if not errors and first > last:
            errors["from"] = t("开始日期晚于结束日期，请重新选择。")
        number = texts.get("page", "1")
        name = texts.get("name", "")
        if len(name) > _LONGEST_NAME or "\0" in name:
            errors["name"] = t("姓名或编号太长。")
            name = ""
        kind, verdict = texts.get("kind", ""), texts.get("verdict", "")
        chosen = MeetingKind.parse(kind), Verdict.parse(verdict)
        if (kind and chosen[0] is None) or (verdict and chosen[1] is None):
            raise HTTPException(404)
        return cls(
            first,
            last,
            _id(texts.get("organisation")),
            _id(texts.get("meeting")),
            _id(texts.get("member")),
            name,
            *chosen,
            int(number) if re.fullmatch(r"[1-9][0-9]{0,5}", number) else 1,
            errors,
        )

    def query(self) -> str:
        """The address's query of the same, without the page."""
        given = {
            "from": self.first.isoformat(),
            "to": self.last.isoformat(),
            "organisation": self.organisation or "",
            "meeting": self.meeting or "",
            "member": self.member or "",
            "name": self.name,
            "kind": self.kind or "",
            "verdict": self.verdict or "",
        }
        return urlencode({name: str(value) for name, value in given.items() if str(value)})

    @property
    def search(self) -> str:
        """The query of a search for members."""
        given = {"name": self.name, "organisation": str(self.organisation or "")}
        return urlencode({name: value for name, value in given.items() if value})

    @property
    def period(self) -> str:
        """The query of the days alone."""
        return urlencode({"from": self.first.isoformat(), "to": self.last.isoformat()})

    def without_days(self, today: date) -> "_Given":
        """The same of the days that stand when nothing was asked for."""
        return replace(self, first=today - timedelta(days=BACK_DAYS), last=today, errors={})

    def asked(self, zone: ZoneInfo) -> Asked:
        """As the store takes it."""
        return Asked(
            *span_ms(self.first, self.last, zone),
            self.organisation,
            self.meeting,
            self.member,
            self.name,
            self.kind,
            self.verdict,
        )


def _id(text: str | None) -> UUID | None:
    if not text:
        return None
    try:
        return UUID(text)
    except ValueError:
        raise HTTPException(404) from None


def _today(hub: Context) -> date:
    return hub.local(hub.clock()).date()


# --- What is shown ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LineView:
    """A member at a meeting, worded."""

    meeting_id: str
    title: str
    kind: str
    organisation: str
    venue: str
    day: str
    iso: str
    hour: str
    member_id: str | None
    """None: there is no page of theirs here."""
    name: str
    code: str
    branch: str
    chip: Chip
    at: str
    taps: int
    evidence: str
    """Empty where the verdict says it already."""


@dataclass(frozen=True, slots=True)
class Found:
    """What fits the conditions: a page of it, and sums of all."""

    query: Query
    organisation: Named
    totals: Totals
    lines: tuple[LineView, ...]
    branch: str | None
    """Where the last member that is shown belonged then."""
    as_of: str

    @property
    def sums(self) -> list[tuple[str, Sum]]:
        """Each figure with its word."""
        by = self.totals.by
        none = Sum(0, 0)
        shown = (
            Verdict.LATE,
            Verdict.EXCUSED,
            Verdict.NOT_SEEN,
            Verdict.PENDING,
            Verdict.GUEST,
        )
        return [
            (t("应到"), self.totals.expected),
            (t("实到"), self.totals.present),
            *((t(verdict), by.get(verdict, none)) for verdict in shown),
        ]


def _find(
    conn: Connection, caller: Caller, hub: Context, given: _Given, now_ms: int
) -> Found | Mapping[str, str]:
    """What fits; or what is wrong with the conditions, by field."""
    if given.errors:
        return given.errors
    try:
        query = store.resolve(conn, caller.organisation_id, given.asked(hub.zone))
    except TooManyNamedError:
        return {"name": t("符合这个姓名的人太多，请写得更完整一些。")}
    totals = store.totals(conn, query, now_ms)
    some = store.lines(conn, query, now_ms, limit=PAGE_LINES, offset=(given.page - 1) * PAGE_LINES)
    home = Named(caller.organisation_public_id, "", caller.organisation)
    return Found(
        query,
        query.organisation or home,
        totals,
        tuple(_view(each, hub.zone) for each in some),
        some[0].branch if some else None,
        f"{hub.local(now_ms):%Y-%m-%d %H:%M:%S}",
    )


def _view(line: Line, zone: ZoneInfo) -> LineView:
    starts = datetime.fromtimestamp(line.starts_ms / 1000, zone)
    return LineView(
        line.meeting.public_id,
        line.meeting.name,
        t(line.kind),
        line.organisation,
        line.venue,
        short_day(starts.date()),
        starts.date().isoformat(),
        f"{starts:%H:%M}",
        line.member.public_id if line.belongs else None,
        line.member.name,
        line.member.code,
        line.branch or "",
        Chip.of_verdict(line.verdict),
        "" if line.at_ms is None else _at(line, starts, zone),
        line.taps,
        _how(line),
    )


def _how(line: Line) -> str:
    """The evidence, unless the verdict says the same."""
    words = "" if line.evidence is None else t(line.evidence)
    return "" if words == t(line.verdict) else words


def _at(line: Line, starts: datetime, zone: ZoneInfo) -> str:
    at = datetime.fromtimestamp((line.at_ms or 0) / 1000, zone)
    return f"{at:%H:%M:%S}" if at.date() == starts.date() else f"{at:%m-%d %H:%M:%S}"


def _page(
    caller: Caller,
    given: _Given,
    branches: list[store.Branch],
    found: Found | None,
    errors: Mapping[str, str],
) -> Response:
    return page(
        "query.html",
        422 if errors else 200,
        caller=caller,
        section="attendance",
        given=given,
        branches=_choices(branches),
        kinds=[(each.value, t(each)) for each in MeetingKind],
        verdicts=[(each.value, t(each)) for each in Verdict],
        found=found,
        errors=errors,
        pages=1 if found is None else _pages(found.totals.all.times),
    )


def _choices(branches: list[store.Branch]) -> list[tuple[str, str]]:
    """The options of the organisation's field, each level a little further in."""
    return [
        (each.organisation.public_id, "\u3000" * each.depth + each.organisation.name)
        for each in branches
    ]


def _pages(count: int) -> int:
    return max(1, -(-count // PAGE_LINES))


# --- Files ------------------------------------------------------------------------------------


def _above(caller: Caller, given: _Given, found: Found, now: datetime) -> list[list[str]]:
    query = found.query
    conditions = [
        query.meeting or "",
        "" if query.member is None else f"{query.member.name} {query.member.code}",
        given.name,
        "" if given.kind is None else t(given.kind),
        "" if given.verdict is None else t(given.verdict),
    ]
    sums = (f"{name} {each.times}" for name, each in found.sums)
    return [
        [t("期间"), given.first.isoformat(), t("至"), given.last.isoformat()],
        [t("组织"), t("{name}（含下级）", name=found.organisation.name)],
        [t("条件"), t("，").join(each for each in conditions if each) or t("不限")],
        [t("合计（人次）"), t("，").join(sums)],
        [t("合计（人）"), str(found.totals.all.people)],
        [t("导出人"), caller.name],
        [t("数据截至"), f"{now:%Y-%m-%d %H:%M:%S}"],
    ]


def _titles() -> list[str]:
    return [
        t("会议编号"),
        t("会议"),
        t("类型"),
        t("组织"),
        t("地点"),
        t("开始时间"),
        t("人员编号"),
        t("姓名"),
        t("所在组织"),
        t("结果"),
        t("签到时间"),
        t("依据"),
        t("刷卡次数"),
    ]


def _cells(lines: Iterator[Line], zone: ZoneInfo) -> Iterator[list[Cell]]:
    for line in lines:
        yield [
            line.meeting.code,
            line.meeting.name,
            t(line.kind),
            line.organisation,
            line.venue,
            _moment(line.starts_ms, zone)[:-3],
            line.member.code,
            line.member.name,
            line.branch or "",
            t(line.verdict),
            "" if line.at_ms is None else _moment(line.at_ms, zone),
            "" if line.evidence is None else t(line.evidence),
            line.taps,
        ]


def _moment(at_ms: int, zone: ZoneInfo) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, zone):%Y-%m-%d %H:%M:%S}"
