"""The pages by which a secretary keeps meetings: made and moved, run on the spot, put right later.

Phone first; every act is a form, answered by a redirect or by the same form with what is wrong.
The rules are `hub.meetings` and `hub.statements`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy import Connection, Row, select

from hub import joining, meetings, statements
from hub.audit import Look, look_at_statements
from hub.auth.callers import Caller, person_of
from hub.auth.rights import Right
from hub.context import Context, Hub, page_right
from hub.days import FIRST_DAY, LAST_DAY, span_ms
from hub.domain import stating
from hub.domain.terms import (
    DeclarationKind,
    LeaveReason,
    MeetingKind,
    OrgKind,
    Verdict,
)
from hub.domain.words import Words
from hub.meetings import MeetingChangedError, MeetingError, Plan
from hub.store import queries
from hub.store import schema as s
from hub.store.engine import reading
from hub.store.policies import BACK_FILL_DAYS, BACK_FILL_PER_YEAR, Policies
from hub.store.scope import (
    NotFoundError,
    find_meeting,
    find_organisation,
    is_within,
    within,
)
from hub.store.statement_query import (
    Change,
    CountedAct,
    IdleAct,
    Statement,
    Whom,
    changes_of,
    concerns,
    counted_acts,
    idle_acts,
    open_asks,
    statements_of,
)
from hub.web.joining import invitations as invited_to
from hub.web.pages import page
from hub.web.view import Chip, attendance
from hub.web.visit import done
from hub.web.words import day_words, t
from protocol.journal import Act

PAGE_LINES: Final = 50
MAX_OPTIONS: Final = 300
BLANK_ROWS: Final = 8
"""Of a sign-in sheet, for guests."""
_NAMED_OVERLAPS: Final = 3
_LENGTH: Final = timedelta(hours=1, minutes=30)
_SEEN: Final = frozenset({Verdict.NOT_SEEN, Verdict.PENDING})

Keeping = Annotated[Caller, Depends(page_right(Right.MEETINGS))]
Asking = Annotated[Caller, Depends(page_right(Right.VIEW))]
Text = Annotated[str, Form()]
Several = Annotated[list[str] | None, Form()]
Errors = dict[str, object]

router = APIRouter(include_in_schema=False)


# --- New, edit, cancel ----------------------------------------------------------------------


@router.get("/meetings/new")
def new_meeting_page(caller: Keeping, hub: Hub, organisation: str = "", q: str = "") -> Response:
    """The form of a new meeting, filled in like the last one of the sub-tree."""
    with reading(hub.engine) as conn:
        values = _like_the_last(conn, hub, caller, organisation)
        return _new_form(conn, caller, 200, values, {}, q)


@router.post("/meetings/new")
def new_meeting(
    caller: Keeping,
    hub: Hub,
    organisation: Text = "",
    kind: Text = "",
    title: Text = "",
    venue: Text = "",
    day: Text = "",
    starts: Text = "",
    ends: Text = "",
    chair: Text = "",
) -> Response:
    """Make it, and go to its page."""
    values = {
        "organisation": organisation,
        "kind": kind,
        "title": title,
        "venue": venue,
        "day": day,
        "starts": starts,
        "ends": ends,
        "end_day": "",
        "chair": chair,
    }
    plan, errors = _plan(hub, values)
    host = _uuid(organisation)
    if host is None:
        errors["organisation"] = Words("请选择召开会议的组织")
    if plan is not None and host is not None:
        try:
            with hub.engine.begin() as conn:
                made = meetings.create(conn, caller, host, plan, hub.clock())
        except NotFoundError:
            errors["organisation"] = Words("请选择召开会议的组织")
        except MeetingError as error:
            errors[error.field] = error
        else:
            return _saved(hub, caller, made, Words("会议已建立。"))
    with reading(hub.engine) as conn:
        return _new_form(conn, caller, 422, values, errors, "")


@router.get("/meetings/{meeting}/edit")
def edit_page(caller: Keeping, hub: Hub, meeting: UUID) -> Response:
    """The form that changes it: title, time, venue, chair."""
    with reading(hub.engine) as conn:
        row = _own(conn, caller, meeting)
        return _edit_form(conn, caller, row, 200, _as_it_is(conn, hub, row), {})


@router.post("/meetings/{meeting}/edit")
def edit(
    caller: Keeping,
    hub: Hub,
    meeting: UUID,
    kind: Text = "",
    title: Text = "",
    venue: Text = "",
    day: Text = "",
    starts: Text = "",
    ends: Text = "",
    end_day: Text = "",
    chair: Text = "",
    grace_minutes: Text = "",
    shown: Text = "",
) -> Response:
    """Change it, unless somebody did since the form was `shown`."""
    with reading(hub.engine) as conn:
        row = _own(conn, caller, meeting)
    values = {
        "kind": kind,
        "title": title,
        "venue": venue,
        "day": day,
        "starts": starts,
        "ends": ends,
        "end_day": end_day,
        "chair": chair,
        "grace_minutes": grace_minutes,
        "shown": shown,
    }
    plan, errors = _plan(hub, values)
    grace = _whole(grace_minutes)
    if grace is None:
        errors["grace_minutes"] = Words("请填写整数")
    if plan is not None and grace is not None:
        try:
            with hub.engine.begin() as conn:
                plan = replace(plan, grace_minutes=grace)
                meetings.edit(conn, caller, meeting, plan, hub.clock(), shown=shown)
        except MeetingChangedError:
            with reading(hub.engine) as conn:
                row = _own(conn, caller, meeting)
                now = _as_it_is(conn, hub, row)
                return _edit_form(conn, caller, row, 409, now, {}, typed=values)
        except MeetingError as error:
            errors[error.field] = error
        else:
            return _saved(hub, caller, meeting, Words("会议已修改。"))
    with reading(hub.engine) as conn:
        return _edit_form(conn, caller, row, 422, values, errors)


@router.get("/meetings/{meeting}/cancel")
def cancel_page(caller: Keeping, hub: Hub, meeting: UUID) -> Response:
    """Asks before a meeting is called off, or before a cancelled one is taken up again."""
    with reading(hub.engine) as conn:
        return _cancel_form(caller, hub, _own(conn, caller, meeting), 200, "", {})


@router.post("/meetings/{meeting}/cancel")
def cancel(caller: Keeping, hub: Hub, meeting: UUID, reason: Text = "") -> Response:
    """Call it off."""
    return _call_off(caller, hub, meeting, reason, cancelled=True)


@router.post("/meetings/{meeting}/restore")
def restore(caller: Keeping, hub: Hub, meeting: UUID, reason: Text = "") -> Response:
    """Take it up again."""
    return _call_off(caller, hub, meeting, reason, cancelled=False)


def _call_off(
    caller: Caller, hub: Context, meeting: UUID, reason: str, *, cancelled: bool
) -> Response:
    with reading(hub.engine) as conn:
        row = _own(conn, caller, meeting)
    try:
        with hub.engine.begin() as conn:
            act = meetings.cancel if cancelled else meetings.restore
            act(conn, caller, meeting, reason, hub.clock())
    except MeetingError as error:
        if not error.field:  # somebody else did it meanwhile
            return _told(f"/meetings/{meeting}", error)
        return _cancel_form(caller, hub, row, 422, reason, {error.field: error})
    if cancelled:
        return done(f"/meetings/{meeting}", "会议已取消。")
    return _saved(hub, caller, meeting, Words("会议已恢复。"))


def _saved(hub: Context, caller: Caller, meeting: UUID, said: Words) -> Response:
    """To the meeting's page; says there if taps may count for other meetings as well."""
    location = f"/meetings/{meeting}"
    with reading(hub.engine) as conn:
        row = _own(conn, caller, meeting)
        found = queries.overlaps(conn, caller.organisation_id, row)
    if not found:
        return done(location, said)
    return done(
        location,
        "{said}请注意：签到时间与同一会场的{others}重叠，重叠时间内刷的卡几场都算，那几场的人数也可能改变，已经导出的表不会自己更新。",
        "warn",
        said=said,
        others=t("、").join(
            t("其他组织的会议") if each.public_id is None else t("“{title}”", title=each.title)
            for each in found[:_NAMED_OVERLAPS]
        ),
    )


@router.get("/meetings/{meeting}/partners")
def partners_page(caller: Keeping, hub: Hub, meeting: UUID, q: str = "") -> Response:
    """Who takes part in a joint meeting, and a search for others."""
    with reading(hub.engine) as conn:
        row = _own(conn, caller, meeting)
        return _partners_form(conn, caller, hub, row, 200, q, {})


@router.post("/meetings/{meeting}/partners")
def partners(
    caller: Keeping, hub: Hub, meeting: UUID, code: Several = None, q: Text = ""
) -> Response:
    """Let those that are ticked take part."""
    with reading(hub.engine) as conn:
        row = _own(conn, caller, meeting)
    try:
        with hub.engine.begin() as conn:
            meetings.set_partners(conn, caller, meeting, code or [], hub.clock())
    except MeetingError as error:
        with reading(hub.engine) as conn:
            return _partners_form(conn, caller, hub, row, 422, q, {error.field: error})
    return done(f"/meetings/{meeting}/partners", "参加会议的组织已保存。")


# --- On the spot ----------------------------------------------------------------------------


@router.get("/meetings/{meeting}/desk")
def desk_page(caller: Keeping, hub: Hub, meeting: UUID) -> Response:
    """What a secretary does while the meeting runs: who is missing, how many are there."""
    return _desk(caller, hub, meeting, 200, {}, {})


@router.get("/meetings/{meeting}/desk/not-held")
def not_held_page(caller: Keeping, hub: Hub, meeting: UUID) -> Response:
    """Asks before a meeting is said not to have been held, with what says the contrary."""
    now_ms = hub.clock()
    with reading(hub.engine) as conn:
        row = _own(conn, caller, meeting)
        found = _found(conn, hub, caller, meeting, now_ms)
    counts = found.counts
    against = [
        (t("实到"), counts.present),
        (t("列席"), counts.guests),
        (t("清点人数"), found.head_count or 0),
    ]
    there = [(words, t("{n}人", n=n)) for words, n in against if n]
    return page(
        "confirm.html",
        caller=caller,
        section="meetings",
        crumbs=[
            (t("会议考勤"), "/"),
            (row.title, f"/meetings/{meeting}"),
            (t("会务处理"), f"/meetings/{meeting}/desk"),
            (t("没有召开"), None),
        ],
        title=t("会议没有召开？"),
        facts=[
            (t("会议"), f"{row.title} {day_words(hub.local(row.starts_ms).date())}"),
            *there,
        ],
        words=t(
            "系统里已有上面这些到会记录，与“没有召开”矛盾，请先核实。确认以后记录仍然保留，要更正的请到“办理记录”撤回。"
        )
        if there
        else t("请核实后再确认；以后可以在“办理记录”里撤回。"),
        action=f"/meetings/{meeting}/desk/held",
        button=t("没有召开"),
        back=f"/meetings/{meeting}/desk",
        fields={"held": "no"},
        is_danger=True,
    )


@router.post("/meetings/{meeting}/desk/held")
def confirm_held(caller: Keeping, hub: Hub, meeting: UUID, held: Text = "") -> Response:
    """It took place, or it did not."""
    if held not in {"yes", "no"}:
        with reading(hub.engine) as conn:
            _own(conn, caller, meeting)
        return RedirectResponse(f"/meetings/{meeting}/desk", 303)
    try:
        with hub.engine.begin() as conn:
            statements.confirm(conn, caller, meeting, hub.clock(), held=held == "yes")
    except MeetingError as error:
        return _told(f"/meetings/{meeting}/desk", error)
    said = Words("已确认会议召开。") if held == "yes" else Words("已确认会议未召开。")
    return done(f"/meetings/{meeting}/desk", said)


@router.post("/meetings/{meeting}/desk/head-count")
def count_heads(caller: Keeping, hub: Hub, meeting: UUID, number: Text = "") -> Response:
    """清点人数."""
    with reading(hub.engine) as conn:
        _own(conn, caller, meeting)
    errors: Errors = {}
    count = _whole(number)
    if count is None:
        errors["number"] = Words("请填写整数")
    else:
        try:
            with hub.engine.begin() as conn:
                statements.count_heads(conn, caller, meeting, count, hub.clock())
        except MeetingError as error:
            if not error.field:
                return _told(f"/meetings/{meeting}/desk", error)
            errors[error.field] = error
        else:
            return done(f"/meetings/{meeting}/desk", "已记下清点人数：{n}人。", n=count)
    return _desk(caller, hub, meeting, 422, {"number": number}, errors)


@router.post("/meetings/{meeting}/desk/witness")
def witness(
    caller: Keeping, hub: Hub, meeting: UUID, member: Text = "", code: Text = ""
) -> Response:
    """现场证明, by the button beside a name or by a guest's number."""
    with reading(hub.engine) as conn:
        _own(conn, caller, meeting)
    who = _uuid(member)
    if who is None and not code.strip():
        errors: Errors = {"code": Words("请填写党员编号")}
        return _desk(caller, hub, meeting, 422, {"code": code}, errors)
    try:
        with hub.engine.begin() as conn:
            statements.witness(conn, caller, meeting, hub.clock(), member=who, code=code)
    except MeetingError as error:
        _note(hub, caller, error)
        if who is not None or error.field != "code":
            return _told(f"/meetings/{meeting}/desk", error)
        return _desk(caller, hub, meeting, 422, {"code": code}, {error.field: error})
    return done(f"/meetings/{meeting}/desk", "已记为现场证明到场。")


def _note(hub: Context, caller: Caller, error: MeetingError) -> None:
    if isinstance(error, statements.WrongCodeError):
        with hub.engine.begin() as conn:
            statements.note_wrong_code(conn, caller, hub.clock())


def _desk(
    caller: Caller,
    hub: Context,
    meeting: UUID,
    status: int,
    values: Mapping[str, str],
    errors: Errors,
) -> HTMLResponse:
    now_ms = hub.clock()
    with reading(hub.engine) as conn:
        row = _own(conn, caller, meeting)
        found = _found(conn, hub, caller, meeting, now_ms)
        said = statements_of(conn, caller, row)
        idle = idle_acts(conn, caller, row, row.opens_ms, row.ends_ms + 1)
        mine = _mine(conn, caller)
    hub.looks(caller, Look("meeting.desk", meeting_id=row.id))
    return page(
        "desk.html",
        status,
        caller=caller,
        section="meetings",
        meeting=attendance(found, hub.zone),
        held=found.held,
        head_count=found.head_count,
        missing=[each for each in found.rows if each.verdict in _SEEN],
        excused=[each for each in found.rows if each.verdict is Verdict.EXCUSED],
        asks=[_line(each, hub) for each in said if each.may_decide],
        idle=[_idle(each, hub) for each in idle],
        mine=mine,
        begun=now_ms >= row.opens_ms,
        started=now_ms >= row.starts_ms,
        over=now_ms > row.ends_ms,
        values={"number": "", "code": "", **values},
        errors=errors,
    )


def _mine(conn: Connection, caller: Caller) -> set[str]:
    """The public ids of the members whom the caller is taken to be."""
    found = person_of(conn, caller.name, caller.account_id, caller.token_id).members
    m = s.members.c
    return {str(each) for each in conn.scalars(select(m.public_id).where(m.id.in_(sorted(found))))}


# --- The paper sheet ------------------------------------------------------------------------


@router.get("/meetings/{meeting}/sheet")
def sheet_page(caller: Keeping, hub: Hub, meeting: UUID) -> Response:
    """Where the signatures of a paper sheet are entered."""
    return _sheet(caller, hub, meeting, 200, (), "", {})


@router.post("/meetings/{meeting}/sheet")
def enter_sheet(
    caller: Keeping,
    hub: Hub,
    meeting: UUID,
    member: Several = None,
    codes: Text = "",
    complete: Text = "",
) -> Response:
    """Enter who signed, and perhaps declare the sheet complete."""
    with reading(hub.engine) as conn:
        _own(conn, caller, meeting)
    asked = [each for each in map(_uuid, member or []) if each is not None]
    guests = re.split(r"[\s,，、;；]+", codes.strip()) if codes.strip() else []
    if not asked and not guests and not complete:
        errors: Errors = {"member": Words("请勾选在签到表上签名的人")}
        return _sheet(caller, hub, meeting, 422, (), codes, errors)
    try:
        with hub.engine.begin() as conn:
            if asked or guests:
                statements.enter_sheet(
                    conn, caller, meeting, hub.clock(), members=asked, codes=guests
                )
            if complete:
                statements.complete_sheet(conn, caller, meeting, hub.clock())
    except MeetingError as error:
        _note(hub, caller, error)
        field = {"code": "codes", "": "member"}.get(error.field, error.field)
        ticked = [str(each) for each in asked]
        return _sheet(caller, hub, meeting, 422, ticked, codes, {field: error})
    if complete:
        return done(f"/meetings/{meeting}/sheet", "签到表已录入，并已确认录完。")
    return done(f"/meetings/{meeting}/sheet", "签到表已录入{n}人。", n=len(asked) + len(guests))


def _sheet(
    caller: Caller,
    hub: Context,
    meeting: UUID,
    status: int,
    ticked: Sequence[str],
    codes: str,
    errors: Errors,
) -> HTMLResponse:
    now_ms = hub.clock()
    with reading(hub.engine) as conn:
        row = _own(conn, caller, meeting)
        found = _found(conn, hub, caller, meeting, now_ms)
        said = statements_of(conn, caller, row)
    hub.looks(caller, Look("meeting.sheet", meeting_id=row.id))
    sheets = [each for each in said if each.kind is DeclarationKind.SHEET and each.stands]
    entered = {each.whom.public_id for each in sheets if each.whom is not None}
    return page(
        "sheet.html",
        status,
        caller=caller,
        section="meetings",
        meeting=attendance(found, hub.zone),
        unsigned=[
            (each, Chip.of_verdict(each.verdict))
            for each in _by_branch(found)
            if each.person.public_id not in entered
        ],
        sheets=[_line(each, hub) for each in reversed(sheets)],
        complete=[
            _line(each, hub)
            for each in said
            if each.kind is DeclarationKind.SHEET_COMPLETE and each.stands
        ],
        begun=now_ms >= row.opens_ms,
        over=now_ms > row.ends_ms,
        ticked=ticked,
        codes=codes,
        errors=errors,
    )


def _by_branch(found: queries.MeetingAttendance) -> list[queries.AttendanceRow]:
    """The expected as a sheet lists them: those of the host first, each branch by code."""
    host = found.meeting.organisation.name
    return sorted(
        (each for each in found.rows if each.verdict is not Verdict.GUEST),
        key=lambda each: (
            each.person.branch != host,
            each.person.branch or "",
            each.person.code or "",
        ),
    )


@router.get("/meetings/{meeting}/sheet/print")
def print_sheet(caller: Keeping, hub: Hub, meeting: UUID) -> Response:
    """A blank sign-in sheet, for A4."""
    with reading(hub.engine) as conn:
        row = _own(conn, caller, meeting)
        found = _found(conn, hub, caller, meeting, hub.clock())
    hub.looks(caller, Look("meeting.sheet", meeting_id=row.id))
    people = [each.person for each in _by_branch(found)]
    return page(
        "sheet-print.html",
        caller=caller,
        section="meetings",
        meeting=attendance(found, hub.zone),
        people=people,
        is_joint=bool(found.meeting.partners),
        blank=BLANK_ROWS,
    )


# --- Leave and 补签 --------------------------------------------------------------------------


@router.get("/meetings/{meeting}/leave")
def leave_page(caller: Keeping, hub: Hub, meeting: UUID, member: str = "") -> Response:
    """Where leave is asked for on a member's behalf, and what was asked for."""
    values = {"member": member, "reason": ""}
    return _ask_page(caller, hub, meeting, DeclarationKind.LEAVE_ASKED, 200, values, {})


@router.post("/meetings/{meeting}/leave")
def ask_leave(
    caller: Keeping,
    hub: Hub,
    meeting: UUID,
    member: Text = "",
    reason: Text = "",
    granted: Text = "",
) -> Response:
    """Ask, and perhaps grant it at once."""
    values = {"member": member, "reason": reason}
    why = LeaveReason.parse(reason)
    errors: Errors = {} if why is not None else {"reason": Words("请选择请假类别")}
    who = _uuid(member)
    if who is None:
        errors["member"] = Words("请选择党员")
    if who is not None and why is not None:
        try:
            with hub.engine.begin() as conn:
                now_ms = hub.clock()
                asked = statements.ask_leave(conn, caller, meeting, who, why, now_ms)
                if granted:
                    _grant_at_once(conn, caller, asked, now_ms)
        except MeetingError as error:
            errors[error.field or "member"] = error
        else:
            said = Words("已准假。") if granted else Words("请假申请已记下，等待审批。")
            return done(f"/meetings/{meeting}/leave", said)
    return _ask_page(caller, hub, meeting, DeclarationKind.LEAVE_ASKED, 422, values, errors)


def _grant_at_once(conn: Connection, caller: Caller, asked: UUID, now_ms: int) -> None:
    """Grant what was just asked for; what is refused is said at the tick that asked for it."""
    try:
        statements.decide(conn, caller, asked, now_ms, granted=True)
    except MeetingError as error:
        raise MeetingError(
            "granted", Words("{why}去掉“同时准假”，可以先记下申请。", why=error.args[0])
        ) from None


@router.get("/meetings/{meeting}/back-fill")
def back_fill_page(caller: Keeping, hub: Hub, meeting: UUID, member: str = "") -> Response:
    """Where 补签 is asked for on a member's behalf, and what was asked for."""
    values = {"member": member, "reason": ""}
    return _ask_page(caller, hub, meeting, DeclarationKind.BACK_FILL_ASKED, 200, values, {})


@router.post("/meetings/{meeting}/back-fill")
def ask_back_fill(
    caller: Keeping, hub: Hub, meeting: UUID, member: Text = "", reason: Text = ""
) -> Response:
    """Ask; another person decides."""
    values = {"member": member, "reason": reason}
    errors: Errors = {}
    who = _uuid(member)
    if who is None:
        errors["member"] = Words("请选择党员")
    else:
        try:
            with hub.engine.begin() as conn:
                statements.ask_back_fill(conn, caller, meeting, who, reason, hub.clock())
        except MeetingError as error:
            errors[error.field or "member"] = error
        else:
            said = Words("补签申请已提交，须由另一人审批。")
            return done(f"/meetings/{meeting}/back-fill", said)
    return _ask_page(caller, hub, meeting, DeclarationKind.BACK_FILL_ASKED, 422, values, errors)


def _ask_page(
    caller: Caller,
    hub: Context,
    meeting: UUID,
    kind: DeclarationKind,
    status: int,
    values: Mapping[str, str],
    errors: Errors,
) -> HTMLResponse:
    now_ms = hub.clock()
    with reading(hub.engine) as conn:
        row = find_meeting(conn, caller.organisation_id, meeting)
        found = _found(conn, hub, caller, meeting, now_ms)
        said = statements_of(conn, caller, row)
        policies = Policies.load(conn)
        at = row.starts_ms, row.organisation_id
        days = policies.number(BACK_FILL_DAYS, *at)
        limit = policies.number(BACK_FILL_PER_YEAR, *at)
        is_host = is_within(conn, caller.organisation_id, row.organisation_id)
    asked_of = values["member"]
    if status == 200 and asked_of and asked_of not in {e.person.public_id for e in found.rows}:
        raise NotFoundError
    hub.looks(caller, Look("meeting.asks", meeting_id=row.id))
    is_leave = kind is DeclarationKind.LEAVE_ASKED
    times = stating.Times(row.opens_ms, row.starts_ms, row.ends_ms, row.cancelled)
    closed = stating.when_refused(kind, times, now_ms)
    deadline_ms = stating.back_fill_deadline_ms(row.ends_ms, days, hub.zone)
    if closed is None and not is_leave and now_ms >= deadline_ms:
        closed = Words("已超过补签期限：应在会议结束后{days}天内申请。", days=days)
    waiting = {
        each.whom.public_id
        for each in said
        if each.kind is kind
        and each.stands
        and each.whom is not None
        and each.answer not in {DeclarationKind.LEAVE_REFUSED, DeclarationKind.BACK_FILL_REFUSED}
    }
    missing = [
        each.person
        for each in found.rows
        if each.verdict in {*_SEEN, *([] if is_leave else [Verdict.EXCUSED])}
        and each.person.public_id is not None
        and each.person.public_id not in waiting
    ]
    return page(
        "leave.html" if is_leave else "back-fill.html",
        status,
        caller=caller,
        section="meetings",
        meeting=attendance(found, hub.zone),
        is_host=is_host,
        closed=closed,
        missing=[
            (each.public_id, t("{name}（{code}）", name=each.name, code=each.code))
            for each in missing
        ],
        reasons=[(each.value, t(each)) for each in LeaveReason],
        asks=[_line(each, hub) for each in said if each.kind is kind],
        days=days,
        limit=limit,
        last_day=day_words(hub.local(deadline_ms - 1).date()),
        values=values,
        errors=errors,
    )


@router.post("/declarations/{declaration}/decide")
def decide(
    caller: Keeping, hub: Hub, declaration: UUID, granted: Text = "", back: Text = ""
) -> Response:
    """Grant or refuse what was asked for."""
    with reading(hub.engine) as conn:
        said = _declaration(conn, caller, declaration)
    location = _back(said, back)
    if granted not in {"yes", "no"}:
        return RedirectResponse(location, 303)
    try:
        with hub.engine.begin() as conn:
            statements.decide(conn, caller, declaration, hub.clock(), granted=granted == "yes")
    except MeetingError as error:
        return _told(location, error)
    return done(location, Words("已同意。") if granted == "yes" else Words("已记为不同意。"))


# --- What was stated ------------------------------------------------------------------------


@router.get("/meetings/{meeting}/statements")
def statements_page(caller: Asking, hub: Hub, meeting: UUID) -> Response:
    """All that was stated of the meeting, by whom and when."""
    now_ms = hub.clock()
    with reading(hub.engine) as conn:
        row = find_meeting(conn, caller.organisation_id, meeting)
        found = _found(conn, hub, caller, meeting, now_ms)
        said = statements_of(conn, caller, row)
        is_host = is_within(conn, caller.organisation_id, row.organisation_id)
        changes = changes_of(conn, row) if is_host else ()
        first, last = (hub.local(each).date() for each in (row.opens_ms, row.ends_ms))
        span = span_ms(first, last, hub.zone)
        idle = idle_acts(conn, caller, row, *span) if is_host else ()
        acts = counted_acts(conn, caller, row)
    hub.looks(caller, Look("meeting.statements", meeting_id=row.id))
    kinds = {each.public_id: each for each in said}
    done_there = {each.name: each for each in acts}
    lines = [(each.made_ms, _line(each, hub, kinds, done_there)) for each in said]
    lines += [(each.at_ms, _act_line(each, hub, row)) for each in acts]
    lines.sort(key=lambda line: line[0], reverse=True)
    return page(
        "statements.html",
        caller=caller,
        section="meetings",
        meeting=attendance(found, hub.zone),
        is_host=is_host,
        lines=[line for _, line in lines],
        idle=[_idle(each, hub) for each in idle],
        changes=[_changed(each, hub) for each in changes if each.what in _CHANGES],
    )


@router.get("/declarations/{declaration}/withdraw")
def withdraw_page(caller: Keeping, hub: Hub, declaration: UUID, back: str = "") -> Response:
    """Asks before something is taken back."""
    with reading(hub.engine) as conn:
        said = _declaration(conn, caller, declaration)
        look = look_at_statements(conn, "declaration.page", [declaration])
    if look is not None:
        hub.looks(caller, look)
    action = f"/declarations/{declaration}/withdraw"
    return _withdrawal(caller, _line(said, hub), action, _back(said, back), back)


@router.post("/declarations/{declaration}/withdraw")
def withdraw(caller: Keeping, hub: Hub, declaration: UUID, back: Text = "") -> Response:
    """Take it back."""
    with reading(hub.engine) as conn:
        said = _declaration(conn, caller, declaration)
    location = _back(said, back)
    try:
        with hub.engine.begin() as conn:
            statements.withdraw(conn, caller, declaration, hub.clock())
    except MeetingError as error:
        return _told(location, error)
    return done(location, "已撤回。")


@router.get("/meetings/{meeting}/acts/{act}/withdraw")
def withdraw_act_page(caller: Keeping, hub: Hub, meeting: UUID, act: str) -> Response:
    """Asks before an act at a reader is taken back."""
    with reading(hub.engine) as conn:
        row = _own(conn, caller, meeting)
        found = [each for each in counted_acts(conn, caller, row) if each.name == act]
    if not found:
        raise NotFoundError
    hub.looks(caller, Look("meeting.statements", meeting_id=row.id))
    back = f"/meetings/{meeting}/statements"
    action = f"/meetings/{meeting}/acts/{act}/withdraw"
    return _withdrawal(caller, _act_line(found[0], hub, row), action, back, "statements")


@router.post("/meetings/{meeting}/acts/{act}/withdraw")
def withdraw_act(caller: Keeping, hub: Hub, meeting: UUID, act: str) -> Response:
    """Take it back."""
    location = f"/meetings/{meeting}/statements"
    try:
        with hub.engine.begin() as conn:
            statements.withdraw_act(conn, caller, meeting, act, hub.clock())
    except MeetingError as error:
        return _told(location, error)
    return done(location, "已撤回。")


@router.get("/asks")
def asks_page(request: Request, caller: Keeping, hub: Hub) -> Response:
    """What waits to be decided in the whole sub-tree."""
    asked = request.query_params.get("page", "1")
    number = int(asked) if re.fullmatch(r"[1-9][0-9]{0,5}", asked) else 1
    with reading(hub.engine) as conn:
        total, found = open_asks(conn, caller, PAGE_LINES, (number - 1) * PAGE_LINES)
        invited, invitations = invited_to(conn, caller, hub, hub.clock())
    hub.looks(caller, Look("asks.page", organisation_id=caller.organisation_id))
    return page(
        "asks.html",
        caller=caller,
        section="asks",
        invited=invited,
        invitations=invitations,
        lines=[_line(each, hub) for each in found],
        total=total,
        page=number,
        pages=max(1, -(-total // PAGE_LINES)),
    )


# --- Helpers --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    """A statement as pages show it."""

    public_id: str
    kind: str
    whom: str
    """The name of the member it speaks of; empty: it speaks of the meeting."""
    code: str
    what: str
    """A number or a reason; empty where there is none, or where it is not for the reader."""
    author: str
    at: str
    state: Chip | None
    """None: nothing can become of it."""
    is_back_fill: bool
    withdraw: str
    """Where it is withdrawn; empty: the reader may not."""
    may_decide: bool
    meeting: str
    meeting_title: str
    meeting_day: str
    organisation: str


def _line(
    each: Statement,
    hub: Context,
    known: Mapping[str, Statement] | None = None,
    acts: Mapping[str, CountedAct] | None = None,
) -> Said:
    what = ""
    if each.number is not None:
        what = t("{n}人", n=each.number)
    elif each.leave is not None:
        what = t(each.leave)
    elif each.words is not None:
        what = each.words
    about = (known or {}).get(each.about or "")
    if each.kind is DeclarationKind.WITHDRAWN and about is not None:
        what = t(about.kind)
        if about.number is not None:
            what = t("{what}{n}人", what=what, n=about.number)
    act = (acts or {}).get(each.act or "")
    if act is not None:
        what = t(_ACTS[act.what])
        if act.number is not None:
            what = t("{what}{n}人", what=what, n=act.number)
    return Said(
        each.public_id,
        t(each.kind),
        _name(each.whom),
        "" if each.whom is None else each.whom.code or "",
        what,
        each.author,
        f"{hub.local(each.made_ms):%Y-%m-%d %H:%M}",
        _state(each),
        each.kind is DeclarationKind.BACK_FILL_ASKED,
        f"/declarations/{each.public_id}/withdraw" if each.may_withdraw else "",
        each.may_decide,
        each.of.public_id,
        each.of.title,
        day_words(hub.local(each.of.starts_ms).date()),
        each.of.organisation,
    )


def _act_line(each: CountedAct, hub: Context, row: Row[Any]) -> Said:
    """An act at a reader, shown like what was stated on a page."""
    gone = Chip("stop", "stop", t("已撤回"))
    return Said(
        each.name,
        t(_ACTS[each.what]),
        _name(each.about),
        "" if each.about is None else each.about.code or "",
        "" if each.number is None else t("{n}人", n=each.number),
        t(
            "{who}，在刷卡机“{device}”上刷卡",
            who=each.holder or t("（姓名不明）"),
            device=each.device,
        ),
        f"{hub.local(each.at_ms):%Y-%m-%d %H:%M}",
        gone if each.withdrawn else Chip("open", "ok", t("有效")),
        is_back_fill=False,
        withdraw=(
            f"/meetings/{row.public_id}/acts/{each.name}/withdraw" if each.may_withdraw else ""
        ),
        may_decide=False,
        meeting=str(row.public_id),
        meeting_title=row.title,
        meeting_day=day_words(hub.local(row.starts_ms).date()),
        organisation="",
    )


def _withdrawal(caller: Caller, line: Said, action: str, location: str, back: str) -> Response:
    """Asks before something is taken back: what, of whom, by whom and when, of which meeting."""
    named = t("（{whom}）", whom=line.whom) if line.whom else ""
    what = f"{line.kind} {line.what}".strip()
    return page(
        "confirm.html",
        caller=caller,
        section="meetings",
        crumbs=[
            (t("会议考勤"), "/"),
            (line.meeting_title, f"/meetings/{line.meeting}"),
            (t("撤回"), None),
        ],
        title=t("撤回“{what}”{whom}？", what=what, whom=named),
        facts=[
            (t("会议"), f"{line.meeting_title} {line.meeting_day}"),
            (t("谁记的"), f"{line.author} {line.at}"),
        ],
        words=t("撤回后这一项不再起作用，但会留下记录：谁在什么时候记的、谁撤回的。"),
        action=action,
        button=t("撤回"),
        back=location,
        fields={"back": back},
        is_danger=True,
    )


def _name(whom: Whom | None) -> str:
    """Empty where nobody is meant."""
    return "" if whom is None else whom.name or t("外单位人员")


_ACTS: Final = {
    Act.OPENED: Words("会议开始"),
    Act.CLOSED: Words("会议结束"),
    Act.HEAD_COUNT: Words("清点人数"),
    Act.WITNESSED: Words("现场证明"),
}


def _idle(each: IdleAct, hub: Context) -> tuple[str, str, str, str]:
    """An act, more of it, by whose card and when, and why it counts for nothing."""
    known = each.what in set(Act)
    what = t(_ACTS[Act(each.what)]) if known else t("第{n}种操作", n=each.what)
    more = _name(each.about) or each.about_code
    if each.number is not None:
        more = t("{n}人", n=each.number)
    who = _name(each.holder) or t("未登记的卡")
    return what, more, f"{who} {hub.local(each.at_ms):%Y-%m-%d %H:%M}", t(each.why)


_CHANGES: Final = {
    "meeting.create": Words("建立会议"),
    "meeting.edit": Words("修改会议"),
    "meeting.cancel": Words("取消会议"),
    "meeting.restore": Words("恢复会议"),
    "meeting.partners": Words("调整参加组织"),
    "meeting.agree": Words("同意参加"),
    "meeting.decline": Words("不同意参加"),
}


def _changed(each: Change, hub: Context) -> tuple[str, str, str]:
    """What was done, more of it, and by whom and when."""
    more = each.reason
    if each.starts_ms is not None:
        old, new = (f"{hub.local(ms):%Y-%m-%d %H:%M}" for ms in each.starts_ms)
        more = t("由{old}改到{new}", old=old, new=new)
    return t(_CHANGES[each.what]), more, f"{each.actor} {hub.local(each.at_ms):%Y-%m-%d %H:%M}"


def _state(each: Statement) -> Chip | None:
    if each.kind is DeclarationKind.WITHDRAWN:
        return None
    if not each.stands:
        return Chip("stop", "stop", t("已撤回"))
    if each.kind not in stating.ASKS:
        return Chip("open", "ok", t("有效"))
    if each.answer is None:
        return Chip("warn", "ask", t("待审批"))
    is_yes = each.answer is stating.ASKS[each.kind][0]
    return Chip("ok" if is_yes else "stop", "ok" if is_yes else "stop", t(each.answer))


def _told(location: str, error: MeetingError) -> RedirectResponse:
    return done(location, error, kind="warn")


def _own(conn: Connection, caller: Caller, meeting: UUID) -> Row[Any]:
    return find_meeting(conn, caller.organisation_id, meeting, to_change=True)


def _found(
    conn: Connection, hub: Context, caller: Caller, meeting: UUID, now_ms: int
) -> queries.MeetingAttendance:
    found = queries.meeting_attendance(conn, caller.organisation_id, str(meeting), now_ms, hub.zone)
    if found is None:
        raise NotFoundError
    return found


def _declaration(conn: Connection, caller: Caller, declaration: UUID) -> Statement:
    """A statement on which the caller decides, or which they may take back."""
    d = s.declarations.c
    row = conn.execute(
        select(s.meetings)
        .join(s.declarations, d.meeting_id == s.meetings.c.id)
        .where(d.public_id == declaration, concerns(caller.organisation_id))
    ).one_or_none()
    if row is None:
        raise NotFoundError
    for each in statements_of(conn, caller, row):
        if each.public_id == str(declaration):
            return each
    raise NotFoundError


def _back(said: Statement, back: str) -> str:
    """Where an act was begun, of the places that have such acts."""
    if back == "asks":
        return "/asks"
    known = {"desk", "sheet", "leave", "back-fill", "statements"}
    return f"/meetings/{said.of.public_id}/{back if back in known else 'statements'}"


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text.strip()) else None


def _day(text: str) -> date | None:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text.strip()):
        return None
    try:
        day = date.fromisoformat(text.strip())
    except ValueError:
        return None
    return day if FIRST_DAY <= day <= LAST_DAY else None


def _time(text: str) -> time | None:
    found = re.fullmatch(r"([01]?[0-9]|2[0-3])[:：]([0-5][0-9])(?::[0-5][0-9])?", text.strip())
    return None if found is None else time(int(found[1]), int(found[2]))


def _plan(hub: Context, values: Mapping[str, str]) -> tuple[Plan | None, Errors]:
    """What the form says, as far as it can be read, and what is wrong with it."""
    errors: Errors = {}
    kind = MeetingKind.parse(values["kind"])
    if kind is None:
        errors["kind"] = Words("请选择会议类型")
    if not values["title"].strip():
        errors["title"] = Words("请填写会议名称")
    venue = _uuid(values["venue"])
    if venue is None:
        errors["venue"] = Words("请选择会场")
    day = _day(values["day"])
    if day is None:
        errors["day"] = Words("请按 2026-07-01 这样的格式填写日期")
    end_day = _day(values["end_day"]) if values["end_day"].strip() else day
    if values["end_day"].strip() and end_day is None:
        errors["end_day"] = Words("请按 2026-07-01 这样的格式填写日期")
    starts, ends = _time(values["starts"]), _time(values["ends"])
    for name, found in (("starts", starts), ("ends", ends)):
        if found is None:
            errors[name] = Words("请按 19:00 这样的格式填写时间")
    if errors or not (kind and venue and day and end_day and starts and ends):
        return None, errors
    at, until = (
        round(datetime.combine(each, clock, hub.zone).timestamp() * 1000)
        for each, clock in ((day, starts), (end_day, ends))
    )
    return Plan(kind, values["title"], venue, at, until, values["chair"]), errors


def _like_the_last(
    conn: Connection, hub: Context, caller: Caller, organisation: str
) -> dict[str, str]:
    """A new meeting's form, with what the last one of the sub-tree had."""
    m, o, v = s.meetings.c, s.organisations.c, s.venues.c
    host = _uuid(organisation)
    if organisation:
        find_organisation(conn, caller.organisation_id, host or UUID(int=0))
    last = conn.execute(
        select(s.meetings, o.public_id.label("host"), v.public_id.label("venue"))
        .join(s.organisations, o.id == m.organisation_id)
        .join(s.venues, v.id == m.venue_id)
        .where(
            within(caller.organisation_id, m.organisation_id),
            *([] if host is None else [o.public_id == host]),
        )
        .order_by(m.starts_ms.desc(), m.id.desc())
        .limit(1)
    ).one_or_none()
    begin = hub.local(hub.clock()).replace(minute=0) + timedelta(hours=1)
    end = begin + _LENGTH
    if last is not None:
        begin, end = hub.local(last.starts_ms), hub.local(last.ends_ms)
    return {
        "organisation": organisation or (str(last.host) if last else caller.organisation_public_id),
        "kind": last.kind if last else "",
        "title": "",
        "venue": str(last.venue) if last else "",
        "day": hub.local(hub.clock()).date().isoformat(),
        "starts": f"{begin:%H:%M}",
        "ends": f"{end:%H:%M}",
        "end_day": "",
        "chair": last.chair if last else "",
    }


def _new_form(
    conn: Connection,
    caller: Caller,
    status: int,
    values: Mapping[str, str],
    errors: Errors,
    query: str,
) -> HTMLResponse:
    o = s.organisations.c
    words = query.strip() if query.isprintable() else ""  # PostgreSQL takes no NUL
    rows = conn.execute(
        select(o.id, o.public_id, o.name, o.kind)
        .where(
            within(caller.organisation_id, o.id),
            *([o.name.contains(words, autoescape=True)] if words else []),
        )
        .order_by(o.code)
        .limit(MAX_OPTIONS + 1)
    ).all()
    levels = {OrgKind(row.kind) for row in rows}
    return page(
        "meeting-new.html",
        status,
        caller=caller,
        section="meetings",
        organisations=[(str(row.public_id), row.name) for row in rows[:MAX_OPTIONS]],
        is_cut=len(rows) > MAX_OPTIONS,
        query=words,
        kinds=_kinds(levels),
        venues=_venues(conn, caller, caller.organisation_id, None),
        values=values,
        errors=errors,
    )


def _as_it_is(conn: Connection, hub: Context, row: Row[Any]) -> dict[str, str]:
    """A meeting's form, filled in."""
    plan = meetings.plan_of(conn, row)
    starts, ends = hub.local(plan.starts_ms), hub.local(plan.ends_ms)
    return {
        "kind": plan.kind.value,
        "title": plan.title,
        "venue": str(plan.venue),
        "day": starts.date().isoformat(),
        "starts": f"{starts:%H:%M}",
        "ends": f"{ends:%H:%M}",
        "end_day": "" if ends.date() == starts.date() else ends.date().isoformat(),
        "chair": plan.chair,
        "grace_minutes": str(plan.grace_minutes),
        "shown": meetings.version_of(plan),
    }


def _edit_form(
    conn: Connection,
    caller: Caller,
    row: Row[Any],
    status: int,
    values: Mapping[str, str],
    errors: Errors,
    *,
    typed: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """`typed`: what was not saved because somebody changed the meeting meanwhile."""
    level = conn.execute(
        select(s.organisations.c.kind).where(s.organisations.c.id == row.organisation_id)
    ).scalar_one()
    return page(
        "meeting-edit.html",
        status,
        caller=caller,
        section="meetings",
        row=row,
        kinds=_kinds({OrgKind(level)}),
        venues=_venues(conn, caller, row.organisation_id, row.venue_id),
        values=values,
        errors=errors,
        typed=typed,
    )


def _kinds(levels: set[OrgKind]) -> list[tuple[str, str]]:
    return [
        (kind.value, t(kind))
        for kind in MeetingKind
        if any(stating.kind_refused(kind, level) is None for level in levels)
    ]


def _venues(
    conn: Connection, caller: Caller, organisation_id: int, kept_id: int | None
) -> list[tuple[str, str]]:
    found = meetings.venues_for(conn, caller.organisation_id, organisation_id, kept_id)
    return [(str(each.public_id), each.name) for each in found]


def _cancel_form(
    caller: Caller, hub: Context, row: Row[Any], status: int, reason: str, errors: Errors
) -> HTMLResponse:
    starts = hub.local(row.starts_ms)
    return page(
        "meeting-cancel.html",
        status,
        caller=caller,
        section="meetings",
        row=row,
        when=f"{day_words(starts.date())} {starts:%H:%M}",
        reason=reason,
        errors=errors,
    )


def _partners_form(
    conn: Connection,
    caller: Caller,
    hub: Context,
    row: Row[Any],
    status: int,
    query: str,
    errors: Errors,
) -> HTMLResponse:
    found = _found(conn, hub, caller, row.public_id, hub.clock())
    return page(
        "meeting-partners.html",
        status,
        caller=caller,
        section="meetings",
        meeting=attendance(found, hub.zone),
        partners=joining.partners_of(conn, row.id),
        others=meetings.possible_partners(conn, caller, row.public_id, query[:100]),
        query=query[:100],
        errors=errors,
    )
