"""A member's own pages: my meetings and what they rest on, leave, cards, who looked, all of it.

For whoever is signed in with a member's file of their own (`Right.OWN`), and of that member alone.
No look at one's own file is written down; each act is.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Form, Request, Response
from sqlalchemy import Connection, Row

from hub import objections as service
from hub import own, statements
from hub.api.own import ALL_TIME, take_back, whole_file
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, page_right
from hub.days import day_from, span_ms
from hub.domain.terms import DeclarationKind, LeaveReason, Verdict
from hub.domain.words import Words
from hub.evidence import Entry, Said, TapSeen, entry, how
from hub.meetings import MAX_REASON_CHARS, MeetingError
from hub.objections import Objection, ObjectionError, ObjectionState
from hub.own import Asked, Looked, Mine
from hub.store import queries
from hub.store.engine import reading
from hub.store.queries import MeetingHead
from hub.store.scope import EVERYTHING
from hub.web.deeds import GIVEN
from hub.web.pages import page
from hub.web.view import Chip
from hub.web.visit import done
from hub.web.words import day_words, t

BACK_DAYS: Final = 365
LOOKS_BACK_DAYS: Final = 30
PAGE_LINES: Final = 20
PAGE_LOOKS: Final = 100
NEXT_LINES: Final = 5
BACK_FILL_DAYS_SHOWN: Final = 60
"""On the page of leave and 补签, how old a meeting may be to be offered."""

Asking = Annotated[Caller, Depends(page_right(Right.OWN))]
Text = Annotated[str, Form()]

router = APIRouter(include_in_schema=False)

_OBJECTION_LOOK: Final = {
    ObjectionState.OPEN: ("warn", "ask"),
    ObjectionState.UPHELD: ("ok", "ok"),
    ObjectionState.DISMISSED: ("open", "stop"),
    ObjectionState.WITHDRAWN: ("open", "stop"),
}


# --- What the pages show --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MeetingLine:
    """A meeting in a list of one's own."""

    public_id: str
    title: str
    kind: str
    organisation: str
    venue: str
    iso: str
    day: str
    hours: str
    chips: tuple[Chip, ...]
    """The verdict, once there can be one; what was asked for; the objection."""
    how: str
    """How it was recorded; empty: nothing is known."""
    reasons: tuple[str, ...]
    """Why nothing is concluded."""


@dataclass(frozen=True, slots=True)
class TapLine:
    """A tap."""

    at: str
    where: str
    card: str
    received: str
    note: str
    decides: bool


@dataclass(frozen=True, slots=True)
class SaidLine:
    """A statement."""

    at: str
    words: str
    author: str
    reason: str
    is_leave: bool
    """Whether the reason is a class of leave."""
    gone: str
    """That it was taken back, when and by whom; empty: it stands."""
    decides: bool


@dataclass(frozen=True, slots=True)
class ObjectionLine:
    """An objection."""

    public_id: str
    words: str
    made: str
    chip: Chip
    is_open: bool
    decided: str
    """By whom and when."""
    decision: str


@dataclass(frozen=True, slots=True)
class AskLine:
    """Leave or 补签 that was asked for."""

    public_id: str
    meeting_public_id: str
    title: str
    day: str
    words: str
    reason: str
    is_leave: bool
    made: str
    chip: Chip
    answered: str
    is_open: bool


@dataclass(frozen=True, slots=True)
class LookLine:
    """A look at one's data."""

    who: str
    did: str
    when: str
    is_me: bool


class Worded:
    """Turns what the services give into what pages show, with times in one zone."""

    def __init__(self, zone: ZoneInfo) -> None:
        """Times are told in `zone`."""
        self._zone = zone

    def when(self, at_ms: int) -> str:
        """Day and time to the minute."""
        return f"{self._local(at_ms):%Y-%m-%d %H:%M}"

    def head(self, head: MeetingHead) -> dict[str, str]:
        """What a meeting is."""
        starts, ends = self._local(head.starts_ms), self._local(head.ends_ms)
        last = f"{ends:%H:%M}" if ends.date() == starts.date() else f"{ends:%Y-%m-%d %H:%M}"
        return {
            "public_id": head.public_id,
            "title": head.title,
            "kind": t(head.kind),
            "organisation": t("、").join(each.name for each in (head.organisation, *head.partners)),
            "venue": head.venue.name,
            "iso": starts.date().isoformat(),
            "day": day_words(starts.date()),
            "hours": f"{starts:%H:%M}–{last}",
        }

    def mine(
        self, each: Mine, reasons: Sequence[str] = (), asks: Sequence[Asked] = ()
    ) -> MeetingLine:
        """A meeting in a list; of all the member's `asks` those that wait for it are shown."""
        chips = list(self.verdict(each.verdict, each.meeting, each.as_of_ms))
        for asked in asks:
            line = self.ask(asked)
            if line.is_open and asked.meeting_public_id == each.meeting.public_id:
                words = t("{what}：{state}", what=line.words, state=line.chip.word)
                chips.append(Chip(line.chip.style, line.chip.icon, words))
        if each.objection is not None:
            chips.append(self.objection(each.objection).chip)
        return MeetingLine(
            **self.head(each.meeting),
            chips=tuple(chips),
            how=self.how(each),
            reasons=tuple(t(words) for words in reasons),
        )

    def verdict(
        self, verdict: Verdict | None, meeting: MeetingHead, now_ms: int
    ) -> tuple[Chip, ...]:
        """The verdict's chip; none where there is none, or nobody can have come yet."""
        if verdict is None or (verdict is Verdict.NOT_SEEN and now_ms < meeting.opens_ms):
            return ()
        return (Chip.of_verdict(verdict),)

    def how(self, each: Mine | Entry) -> str:
        """How it was recorded, in a sentence; empty where nothing is known."""
        if each.source is None:
            return ""
        return t(how(each.source, each.meeting.starts_ms, self._zone))

    def tap(self, each: TapSeen) -> TapLine:
        """A tap."""
        if each.at_ms is None:
            at = t("（时间不明）")
        else:
            at = f"{self._local(each.at_ms):%Y-%m-%d %H:%M:%S}"
        return TapLine(
            at,
            t("{venue}，设备“{device}”", venue=each.venue or "—", device=each.device),
            each.card,
            self.when(each.received_ms),
            "" if each.counts else t("不计入这次会议：{outcome}", outcome=each.outcome),
            each.decides,
        )

    def said(self, each: Said) -> SaidLine:
        """A statement."""
        reason = each.reason
        if each.kind is DeclarationKind.LEAVE_ASKED and reason:
            reason = t(LeaveReason(reason))
        words = t(each.kind)
        if each.device is not None:
            words = t("{words}（用卡在设备“{device}”上）", words=words, device=each.device)
        gone = ""
        if each.withdrawn_ms is not None:
            gone = t(
                "已由{author}于{at}撤回",
                author=each.withdrawn_by or "",
                at=self.when(each.withdrawn_ms),
            )
        return SaidLine(
            self.when(each.made_ms),
            words,
            t(each.author),
            reason,
            each.kind is DeclarationKind.LEAVE_ASKED,
            gone,
            each.decides,
        )

    def objection(self, each: Objection) -> ObjectionLine:
        """An objection."""
        decided = ""
        if each.decided_ms is not None:
            decided = f"{self.when(each.decided_ms)} {each.decided_by}"
        return ObjectionLine(
            each.public_id,
            each.words,
            self.when(each.made_ms),
            Chip(*_OBJECTION_LOOK[each.state], t("异议{state}", state=t(each.state))),
            each.state is ObjectionState.OPEN,
            decided,
            each.decision,
        )

    def ask(self, each: Asked) -> AskLine:
        """Leave or 补签."""
        is_leave = each.kind is DeclarationKind.LEAVE_ASKED
        granted = each.answer in {
            DeclarationKind.LEAVE_GRANTED,
            DeclarationKind.BACK_FILL_GRANTED,
        }
        if each.is_withdrawn:
            chip = Chip("open", "stop", t("已撤回"))
        elif each.answer is None:
            chip = Chip("warn", "ask", t("等待审批"))
        else:
            chip = Chip(*(("ok", "ok") if granted else ("stop", "stop")), t(each.answer))
        answered = ""
        if each.answered_ms is not None:
            answered = f"{self.when(each.answered_ms)} {each.answered_by}"
        return AskLine(
            each.public_id,
            each.meeting_public_id,
            each.meeting,
            self._local(each.starts_ms).date().isoformat(),
            t("请假") if is_leave else t("补签"),
            t(LeaveReason(each.reason)) if is_leave and each.reason else each.reason,
            is_leave,
            f"{self.when(each.made_ms)} {each.author}",
            chip,
            answered,
            each.answer is None and not each.is_withdrawn,
        )

    def looked(self, each: Looked) -> LookLine:
        """A look."""
        first, last = self._local(each.first_ms), self._local(each.last_ms)
        when = f"{first:%H:%M}"
        if each.times > 1:
            when = t("{first}至{last}，共{n}次", first=when, last=f"{last:%H:%M}", n=each.times)
        if each.is_me:
            who = t("您本人（以{role}身份）", role=t(each.role or ""))
        elif each.role is None:
            who = t("{name}（系统主机上的操作）", name=each.actor)
        else:
            who = t(
                "{name}（{organisation} {role}）",
                name=each.actor,
                organisation=each.organisation or "",
                role=t("接口程序") if each.is_program else t(each.role),
            )
        return LookLine(who, t(_did(each.what, each.of)), when, each.is_me)

    def _local(self, at_ms: int) -> datetime:
        return datetime.fromtimestamp(at_ms / 1000, self._zone)


def _merged(told: Worded, looks: Iterable[Looked]) -> list[Looked]:
    """The looks of a day by one person that read the same are one, however they were made."""
    found: dict[tuple[object, ...], Looked] = {}
    for each in looks:
        line = told.looked(each)
        key = (each.day, line.who, line.did)
        known = found.get(key)
        found[key] = (
            each
            if known is None
            else replace(
                known,
                first_ms=min(known.first_ms, each.first_ms),
                last_ms=max(known.last_ms, each.last_ms),
                times=known.times + each.times,
            )
        )
    return sorted(found.values(), key=lambda each: (each.day, each.last_ms), reverse=True)


def _did(what: str, of: Words) -> Words:
    if what in GIVEN:
        return GIVEN[what]
    match what.rpartition(".")[2]:
        case "api":
            return Words("通过接口读取了{of}", of=of)
        case "export":
            return Words("导出了{of}", of=of)
        case _:
            return Words("查看了{of}", of=of)


# --- Pages ----------------------------------------------------------------------------------


@router.get("/me")
def my_page(request: Request, caller: Asking, hub: Hub) -> Response:
    """What comes next, and where I was."""
    member_id, now_ms, told = _member(caller), hub.clock(), Worded(hub.zone)
    asked = _Days.read(request, hub, BACK_DAYS)
    with reading(hub.engine) as conn:
        name = own.me(conn, member_id).name
        off = _called_off(conn, told, member_id, asked.span(hub), now_ms)
        coming, asks = own.upcoming(conn, member_id, now_ms), own.my_asks(conn, member_id)
        found = [
            each
            for each in own.my_meetings(conn, member_id, *asked.span(hub), now_ms)
            if each.meeting.ends_ms < now_ms
        ]
        shown = found[(asked.page - 1) * PAGE_LINES : asked.page * PAGE_LINES]
        lines = [told.mine(each, _reasons(conn, hub, each, now_ms)) for each in shown]
    return page(
        "own.html",
        caller=caller,
        section="own",
        tab="/me",
        name=name,
        off=off,
        coming=[told.mine(each, asks=asks) for each in coming[:NEXT_LINES]],
        more=max(len(coming) - NEXT_LINES, 0),
        lines=lines,
        total_lines=len(found),
        pages=max(-(-len(found) // PAGE_LINES), 1),
        asked=asked,
    )


@router.get("/me/meetings/{meeting}")
def my_entry(caller: Asking, hub: Hub, meeting: UUID) -> Response:
    """One meeting, and everything that my entry rests on."""
    return _entry(caller, hub, meeting)


@router.get("/me/meetings/{meeting}/objection")
def objection_form(caller: Asking, hub: Hub, meeting: UUID) -> Response:
    """The form in which I say what is wrong."""
    return _form(caller, hub, meeting, "objection")


@router.post("/me/meetings/{meeting}/objection")
def object_to(caller: Asking, hub: Hub, meeting: UUID, words: Text = "") -> Response:
    """Object to my entry."""
    return _act(
        caller,
        hub,
        meeting,
        "objection",
        {"words": words},
        lambda conn: service.object_to(conn, caller, meeting, words, hub.clock()),
        Words("异议已提交，会由与这条记录无关的人处理。"),
    )


@router.post("/me/objections/{objection}/withdraw")
def withdraw_objection(caller: Asking, hub: Hub, objection: UUID) -> Response:
    """Take an open objection back."""
    try:
        with hub.engine.begin() as conn:
            found = service.withdraw(conn, caller, objection, hub.clock())
    except ObjectionError as error:
        return done("/me", error, "warn")
    return done(f"/me/meetings/{found.meeting_public_id}", Words("异议已撤回。"))


@router.get("/me/meetings/{meeting}/leave")
def leave_form(caller: Asking, hub: Hub, meeting: UUID) -> Response:
    """The form in which I ask for leave."""
    return _form(caller, hub, meeting, "leave")


@router.post("/me/meetings/{meeting}/leave")
def ask_leave(caller: Asking, hub: Hub, meeting: UUID, reason: Text = "") -> Response:
    """Ask for leave."""

    def ask(conn: Connection) -> None:
        service.find_mine(conn, _member(caller), meeting)
        if reason not in set(LeaveReason):
            raise MeetingError("reason", Words("请选择请假类别"))
        statements.ask_leave(
            conn, caller, meeting, _my_public_id(conn, caller), LeaveReason(reason), hub.clock()
        )

    said = Words("请假申请已提交，等待审批。")
    return _act(caller, hub, meeting, "leave", {"reason": reason}, ask, said)


@router.get("/me/meetings/{meeting}/back-fill")
def back_fill_form(caller: Asking, hub: Hub, meeting: UUID) -> Response:
    """The form in which I ask for 补签."""
    return _form(caller, hub, meeting, "back-fill")


@router.post("/me/meetings/{meeting}/back-fill")
def ask_back_fill(caller: Asking, hub: Hub, meeting: UUID, reason: Text = "") -> Response:
    """Ask for 补签."""

    def ask(conn: Connection) -> None:
        service.find_mine(conn, _member(caller), meeting)
        member = _my_public_id(conn, caller)
        statements.ask_back_fill(conn, caller, meeting, member, reason, hub.clock())

    said = Words("补签申请已提交，等待审批。")
    return _act(caller, hub, meeting, "back-fill", {"reason": reason}, ask, said)


@router.post("/me/asks/{ask}/withdraw")
def withdraw_ask(caller: Asking, hub: Hub, ask: UUID) -> Response:
    """Take back what I asked for."""
    try:
        with hub.engine.begin() as conn:
            take_back(conn, caller, ask, hub.clock())
    except MeetingError as error:
        return done("/me/leave", error, "warn")
    return done("/me/leave", Words("申请已撤回。"))


@router.get("/me/leave")
def my_leave(caller: Asking, hub: Hub) -> Response:
    """What I asked for, and for which meetings I can ask."""
    member_id, now_ms, told = _member(caller), hub.clock(), Worded(hub.zone)
    since_ms = now_ms - BACK_FILL_DAYS_SHOWN * 24 * 3600 * 1000
    with reading(hub.engine) as conn:
        asks = own.my_asks(conn, member_id)
        coming = [
            each
            for each in own.upcoming(conn, member_id, now_ms)
            if statements.leave_refused(conn, _row(conn, member_id, each), member_id, now_ms)
            is None
        ]
        missed = [
            each
            for each in own.my_meetings(conn, member_id, since_ms, now_ms, now_ms)
            if each.verdict is Verdict.PENDING
            and statements.back_fill_refused(conn, _row(conn, member_id, each), member_id, now_ms)
            is None
        ]
    return page(
        "own-leave.html",
        caller=caller,
        section="own",
        tab="/me/leave",
        asks=[told.ask(each) for each in asks],
        coming=[told.mine(each) for each in coming],
        missed=[told.mine(each) for each in missed],
    )


@router.get("/me/access")
def who_looked(request: Request, caller: Asking, hub: Hub) -> Response:
    """Who was shown my data, day by day."""
    told = Worded(hub.zone)
    asked = _Days.read(request, hub, LOOKS_BACK_DAYS)
    with reading(hub.engine) as conn:
        found = own.looked_at(conn, _member(caller), *asked.span(hub), hub.zone)
    found = _merged(told, found)
    shown = found[(asked.page - 1) * PAGE_LOOKS : asked.page * PAGE_LOOKS]
    return page(
        "own-access.html",
        caller=caller,
        section="own",
        tab="/me/access",
        days=[
            (day_words(day), [told.looked(each) for each in several])
            for day, several in groupby(shown, key=lambda each: each.day)
        ],
        total_lines=len(found),
        pages=max(-(-len(found) // PAGE_LOOKS), 1),
        asked=asked,
    )


@router.get("/me/cards")
def my_cards(caller: Asking, hub: Hub) -> Response:
    """My cards."""
    with reading(hub.engine) as conn:
        cards = own.my_cards(conn, _member(caller))
    days = [
        (
            each,
            hub.local(each.from_ms).date().isoformat(),
            None if each.to_ms is None else hub.local(each.to_ms).date().isoformat(),
        )
        for each in cards
    ]
    return page("own-cards.html", caller=caller, section="own", tab="/me/cards", cards=days)


@router.get("/me/export")
def my_file(caller: Asking, hub: Hub) -> Response:
    """Everything that the hub holds of me, to read and to print."""
    told = Worded(hub.zone)
    with reading(hub.engine) as conn:
        whole = whole_file(hub, conn, _member(caller))
        asks = [told.ask(each) for each in own.my_asks(conn, _member(caller))]
        objections = [
            (each.meeting, told.objection(each))
            for each in service.objections_of(conn, _member(caller))
        ]
        looks = _merged(told, own.looked_at(conn, _member(caller), *ALL_TIME, hub.zone))
        mine = own.my_meetings(conn, _member(caller), *ALL_TIME, hub.clock())
        hows = [told.how(each) for each in mine]
        results = [
            next((chip.word for chip in told.verdict(e.verdict, e.meeting, e.as_of_ms)), "—")
            for e in mine
        ]
    return page(
        "own-export.html",
        caller=caller,
        section="own",
        tab="/me/export",
        whole=whole,
        asks=asks,
        objections=objections,
        looks=[(each.day.isoformat(), told.looked(each)) for each in looks],
        hows=hows,
        results=results,
    )


@router.get("/me/export.json")
def my_file_as_json(caller: Asking, hub: Hub) -> Response:
    """The same, for a program."""
    with reading(hub.engine) as conn:
        whole = whole_file(hub, conn, _member(caller))
    return Response(
        whole.model_dump_json(indent=2),
        media_type="application/json",
        headers={"Content-Disposition": 'attachment; filename="my-attendance.json"'},
    )


# --- Helpers --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Days:
    """The days that a list is of, and which page of it."""

    first: date
    last: date
    problem: str | None
    page: int

    @classmethod
    def read(cls, request: Request, hub: Context, back_days: int) -> "_Days":
        today = hub.local(hub.clock()).date()
        usual = today - timedelta(days=back_days), today
        texts = [request.query_params.get(name, "").strip() for name in ("from", "to")]
        number = request.query_params.get("page", "1")
        page_number = int(number) if number.isascii() and number.isdecimal() else 1
        page_number = min(max(page_number, 1), 100_000)
        days = [day_from(text) for text in texts]
        for name, text, day in zip((t("开始日期"), t("结束日期")), texts, days, strict=True):
            if text and day is None:
                problem = t("{name}没有看懂，请按 2026-07-01 这样的格式填写。", name=name)
                return cls(*usual, problem, 1)
        first = days[0] or min(usual[0], days[1] or today)
        last = days[1] or max(today, first)
        if first > last:
            return cls(*usual, t("开始日期晚于结束日期，请重新选择。"), 1)
        return cls(first, last, None, page_number)

    def span(self, hub: Context) -> tuple[int, int]:
        return span_ms(self.first, self.last, hub.zone)

    def query(self) -> str:
        return urlencode({"from": self.first.isoformat(), "to": self.last.isoformat()})


def _entry(caller: Caller, hub: Context, meeting: UUID) -> Response:
    member_id, now_ms, told = _member(caller), hub.clock(), Worded(hub.zone)
    with reading(hub.engine) as conn:
        row = service.find_mine(conn, member_id, meeting)
        found, objected = own.my_entry(conn, member_id, meeting, now_ms, hub.zone)
        may = {
            "leave": statements.leave_refused(conn, row, member_id, now_ms) is None,
            "back_fill": statements.back_fill_refused(conn, row, member_id, now_ms) is None,
            "object": service.refused(row, objected, now_ms) is None,
        }
        asks = [
            each
            for each in own.my_asks(conn, member_id)
            if each.meeting_public_id == found.meeting.public_id
        ]
    return page(
        "own-entry.html",
        caller=caller,
        section="own",
        tab="",
        may=may,
        asks=[told.ask(each) for each in asks],
        **shown(found, objected, told),
    )


def shown(found: Entry, objected: Sequence[Objection], told: Worded) -> dict[str, Any]:
    """What `own-evidence.html` shows of an entry."""
    return {
        "meeting": told.head(found.meeting),
        "chip": next(iter(told.verdict(found.verdict, found.meeting, found.as_of_ms)), None),
        "cancelled": found.meeting.cancelled,
        "why_cancelled": found.why_cancelled,
        "expected": found.facts.is_expected,
        "how": told.how(found),
        "reasons": [t(each) for each in found.reasons],
        "taps": [told.tap(each) for each in found.facts.taps],
        "said": [told.said(each) for each in found.facts.said],
        "objections": [told.objection(each) for each in objected],
    }


def _form(
    caller: Caller,
    hub: Context,
    meeting: UUID,
    kind: str,
    values: dict[str, str] | None = None,
    errors: dict[str, object] | None = None,
) -> Response:
    member_id, now_ms = _member(caller), hub.clock()
    with reading(hub.engine) as conn:
        row = service.find_mine(conn, member_id, meeting)
        found = entry(conn, row, member_id, now_ms, hub.zone)
        refused: Words | None
        match kind:
            case "leave":
                refused = statements.leave_refused(conn, row, member_id, now_ms)
            case "back-fill":
                refused = statements.back_fill_refused(conn, row, member_id, now_ms)
            case _:
                mine = service.objections_of(conn, member_id)
                refused = service.refused(
                    row, [each for each in mine if each.meeting_id == row.id], now_ms
                )
    told = Worded(hub.zone)
    return page(
        "own-form.html",
        200 if not errors else 422,
        caller=caller,
        section="own",
        tab="",
        kind=kind,
        meeting=told.head(found.meeting),
        chip=next(iter(told.verdict(found.verdict, found.meeting, now_ms)), None),
        how=told.how(found),
        refused=refused,
        values={"words": "", "reason": "", **(values or {})},
        errors=errors or {},
        leave_reasons=[(each.value, t(each)) for each in LeaveReason],
        most=MAX_REASON_CHARS if kind == "back-fill" else service.MAX_REASON_CHARS,
    )


def _act(
    caller: Caller,
    hub: Context,
    meeting: UUID,
    kind: str,
    values: dict[str, str],
    act: Callable[[Connection], object],
    words: Words,
) -> Response:
    try:
        with hub.engine.begin() as conn:
            act(conn)
    except (ObjectionError, MeetingError) as error:
        field = error.field if error.field in values else next(iter(values))
        return _form(caller, hub, meeting, kind, values, {field: error})
    return done(f"/me/meetings/{meeting}", words)


def _called_off(
    conn: Connection, told: Worded, member_id: int, span: tuple[int, int], now_ms: int
) -> list[tuple[dict[str, str], str]]:
    """Meetings of the period or to come that were called off, each with the reason."""
    from_ms, to_ms = min(span[0], now_ms), max(span[1], now_ms + own.AHEAD_MS)
    found = queries.cancelled_meetings(conn, EVERYTHING, member_id, from_ms, to_ms)
    return [
        (told.head(head), why)
        for head, why in found
        if head.starts_ms < span[1] or head.ends_ms >= now_ms
    ]


def _reasons(conn: Connection, hub: Context, each: Mine, now_ms: int) -> tuple[str, ...]:
    if each.verdict is not Verdict.PENDING:
        return ()
    found = queries.meeting_attendance(conn, EVERYTHING, each.meeting.public_id, now_ms, hub.zone)
    return () if found is None else found.reasons


def _row(conn: Connection, member_id: int, each: Mine) -> Row[Any]:
    return service.find_mine(conn, member_id, UUID(each.meeting.public_id))


def _my_public_id(conn: Connection, caller: Caller) -> UUID:
    return UUID(own.me(conn, _member(caller)).public_id)


def _member(caller: Caller) -> int:
    assert caller.member_id is not None  # noqa: S101  Right.OWN says so
    return caller.member_id
