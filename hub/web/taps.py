"""Taps to be checked, whose card one is, and a member's cards.

Who is named on such a page is written down as looked at before it is shown.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, Form, Request, Response
from sqlalchemy import Connection, Row, select

from hub import cards, taps, venues
from hub.audit import Look
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, page_right
from hub.days import day_from, moment_from, span_ms
from hub.domain.terms import CardStatus, Outcome
from hub.domain.words import Words
from hub.store import schema as s
from hub.store.attendance_query import members
from hub.store.engine import reading
from hub.store.queries import Person
from hub.store.scope import NotFoundError, find_card, find_meeting, find_member, find_venue
from hub.taps import Asked, FoundTap, Line, TapError
from hub.web.access import local_path
from hub.web.devices import NOT_A_TIME, moment
from hub.web.pages import page
from hub.web.view import Chip
from hub.web.visit import done
from hub.web.words import t

BACK_DAYS: Final = 90
PAGE_LINES: Final = 50
FOUND: Final = 30

Asking = Annotated[Caller, Depends(page_right(Right.TAPS))]
Text = Annotated[str, Form()]

router = APIRouter(include_in_schema=False)

_TABS: Final = {
    Outcome.UNMATCHED: Words("卡没有登记，不知道是谁"),
    Outcome.UNPLACED: Words("知道是谁，不知道算哪场会议"),
    Outcome.UNDATED: Words("设备时钟未校准，不知道是什么时候"),
}


@dataclass(frozen=True, slots=True)
class LineView:
    """A line of the list."""

    tap: str
    card: str
    who: str | None
    branch: str | None
    venue: str | None
    """None: not known, like the time."""
    device: str
    times: str
    taps: int


@dataclass(frozen=True, slots=True)
class _Given:
    """What the address asks for."""

    outcome: Outcome | None
    meeting: UUID | None
    venue: UUID | None
    first: date
    last: date
    is_period: bool
    page: int
    problem: Words | None

    def query(self, outcome: Outcome | None = None) -> str:
        """The same, for another outcome, without the page."""
        chosen = outcome or self.outcome
        pairs = {
            "kind": None if chosen is None else chosen.value,
            "meeting": self.meeting,
            "venue": self.venue,
            "from": self.first if self.is_period else None,
            "to": self.last if self.is_period else None,
        }
        return urlencode({name: each for name, each in pairs.items() if each is not None})


@router.get("/taps")
def tap_list(request: Request, caller: Asking, hub: Hub) -> Response:
    """What waits for a person, of one kind; by venue, meeting and period."""
    now_ms = hub.clock()
    given = _read(request, hub.local(now_ms).date())
    with reading(hub.engine) as conn:
        meeting = (
            None
            if given.meeting is None
            else find_meeting(conn, caller.organisation_id, given.meeting)
        )
        venue = (
            None if given.venue is None else find_venue(conn, caller.organisation_id, given.venue)
        )
        from_ms, to_ms = span_ms(given.first, given.last, hub.zone)
        asked = Asked(
            given.outcome or Outcome.UNMATCHED,
            from_ms,
            to_ms,
            None if venue is None else venue.id,
            None if meeting is None else meeting.id,
            PAGE_LINES,
            (given.page - 1) * PAGE_LINES,
        )
        found = taps.waiting(conn, caller.organisation_id, asked, now_ms)
        first = next((each for each in taps.WAITING if found.counts[each]), Outcome.UNMATCHED)
        if given.outcome is None and first is not Outcome.UNMATCHED:
            asked = _of(asked, first)
            found = taps.waiting(conn, caller.organisation_id, asked, now_ms)
        choices = venues.venues(conn, caller.organisation_id, now_ms)
    if any(each.person is not None and each.person.name for each in found.lines):
        hub.looks(
            caller,
            Look(
                "taps.page",
                meeting_id=asked.meeting_id,
                organisation_id=None if meeting is not None else caller.organisation_id,
            ),
        )
    count = found.counts[asked.outcome]
    return page(
        "taps.html",
        422 if given.problem else 200,
        caller=caller,
        section="taps",
        tabs=[
            (each.value, each.zh, found.counts[each], given.query(each), each is asked.outcome)
            for each in taps.WAITING
        ],
        outcome=asked.outcome.value,
        why=_TABS[asked.outcome],
        lines=[_view(each, hub) for each in found.lines],
        count=count,
        pages=max(1, -(-count // PAGE_LINES)),
        given=given,
        search=given.query(asked.outcome),
        back=f"/taps?{given.query(asked.outcome)}",
        meeting=None if meeting is None else (str(meeting.public_id), meeting.title),
        venues=[("", t("全部会场")), *((each.public_id, each.name) for each in choices)],
    )


@router.get("/taps/{tap}")
def one_tap(request: Request, caller: Asking, hub: Hub, tap: str) -> Response:
    """Whose card, or which meeting: whatever is not known of the tap."""
    chosen = request.query_params.get("member", "")
    back = _back(request.query_params.get("back", ""))
    name = request.query_params.get("name", "")[:100]
    return _tap(caller, hub, tap, back, {"name": name, "member": chosen}, {})


@router.post("/taps/{tap}/bind")
def bind(
    caller: Asking,
    hub: Hub,
    tap: str,
    member: Text = "",
    card: Text = "",
    code: Text = "",
    day: Text = "",
    time: Text = "",
    back: Text = "",
) -> Response:
    """Say whose card it is."""
    values = {
        "name": "",
        "member": member,
        "card": card,
        "code": code,
        "day": day,
        "time": time,
    }
    try:
        with hub.engine.begin() as conn:
            taps.find_tap(conn, caller.organisation_id, tap)
            cards.bind(
                conn,
                caller,
                tap,
                _chosen(member),
                _moment(day, time, hub),
                hub.clock(),
                card=None if card in {"", "new"} else _uuid(card),
                code=code if card in {"", "new"} else "",
            )
    except TapError as error:
        field = {"valid_from": "day", "tap": "member"}.get(error.field, error.field)
        return _tap(caller, hub, tap, _back(back), values, {field: error})
    return done(_back(back), Words("已登记持卡人，以前的刷卡已重新计算。"))


@router.post("/taps/{tap}/assign")
def assign(caller: Asking, hub: Hub, tap: str, meeting: Text = "", back: Text = "") -> Response:
    """Say which meeting it was."""
    try:
        with hub.engine.begin() as conn:
            taps.find_tap(conn, caller.organisation_id, tap)
            if not meeting:
                raise TapError("meeting", Words("请选择一场会议。"))  # noqa: TRY301
            taps.assign(conn, caller, tap, _uuid(meeting), hub.clock(), hub.zone)
    except TapError as error:
        return _tap(caller, hub, tap, _back(back), {}, {"meeting": error})
    return done(_back(back), Words("已归入会议，考勤已重新计算。"))


@router.post("/taps/{tap}/withdraw")
def withdraw(caller: Asking, hub: Hub, tap: str, back: Text = "") -> Response:
    """Take back that it was assigned."""
    try:
        with hub.engine.begin() as conn:
            taps.withdraw(conn, caller, tap, hub.clock())
    except TapError as error:
        return _tap(caller, hub, tap, _back(back), {}, {"meeting": error})
    return done(_back(back), Words("已撤回归会，这次刷卡又回到待核对里。"))


# --- Cards ------------------------------------------------------------------------------------


@router.get("/members/{member}/cards")
def member_cards(caller: Asking, hub: Hub, member: UUID) -> Response:
    """The cards that a member holds or held."""
    now_ms = hub.clock()
    with reading(hub.engine) as conn:
        row = find_member(conn, caller.organisation_id, member, now_ms)
        found = cards.cards_of(conn, caller.organisation_id, row.id, now_ms)
    hub.looks(caller, Look("member.cards", member_id=row.id))
    return page(
        "cards.html",
        caller=caller,
        section="members",
        member=(str(row.public_id), row.name, row.code),
        cards=[(each, _card_chip(each, now_ms), *_held(each, hub)) for each in found],
    )


@router.get("/cards/{card}")
def one_card(caller: Asking, hub: Hub, card: UUID) -> Response:
    """A card: who holds it, and what may be said of it."""
    return _card(caller, hub, card, {}, {})


@router.post("/cards/{card}/lost")
def lost(caller: Asking, hub: Hub, card: UUID, day: Text = "", time: Text = "") -> Response:
    """It is lost, from a time on."""
    try:
        with hub.engine.begin() as conn:
            find_card(conn, caller.organisation_id, card, hub.clock())
            cards.report_lost(conn, caller, card, _moment(day, time, hub), hub.clock())
    except TapError as error:
        return _card(caller, hub, card, {"day": day, "time": time}, {_at(error): error})
    return done(f"/cards/{card}", Words("已挂失，从那时起这张卡的刷卡不再算他的。"))


@router.post("/cards/{card}/end")
def end(caller: Asking, hub: Hub, card: UUID, day: Text = "", time: Text = "") -> Response:
    """Its holder has it no more, from a time on."""
    try:
        with hub.engine.begin() as conn:
            row = find_card(conn, caller.organisation_id, card, hub.clock())
            holder_id = taps.last_holder(conn, row.id, hub.clock())
            holder = conn.scalar(select(s.members.c.public_id).where(s.members.c.id == holder_id))
            cards.end_binding(conn, caller, card, _moment(day, time, hub), hub.clock())
    except TapError as error:
        return _card(caller, hub, card, {"day": day, "time": time}, {_at(error): error})
    return done(f"/members/{holder}/cards", Words("已结束这张卡的登记，刷卡已重新计算。"))


@router.post("/cards/{card}/reinstate")
def reinstate(caller: Asking, hub: Hub, card: UUID) -> Response:
    """It was found, or is used again."""
    try:
        with hub.engine.begin() as conn:
            cards.reinstate(conn, caller, card, hub.clock())
    except TapError as error:
        return _card(caller, hub, card, {}, {"card": error})
    return done(f"/cards/{card}", Words("已恢复使用，从现在起又是本人的卡。"))


# --- Helpers ----------------------------------------------------------------------------------


def _tap(
    caller: Caller,
    hub: Context,
    name: str,
    back: str,
    values: Mapping[str, str],
    errors: Mapping[str, object],
) -> Response:
    now_ms, scope = hub.clock(), caller.organisation_id
    searched = values.get("name", "").strip()
    with reading(hub.engine) as conn:
        tap = taps.find_tap(conn, scope, name)
        line = taps.line_of(conn, scope, tap, now_ms)
        is_unknown = tap.outcome is Outcome.UNMATCHED or (
            tap.outcome is Outcome.UNDATED
            and (tap.card_id is None or taps.holder_at(conn, tap.card_id, now_ms) is None)
        )
        member = None
        if is_unknown and values.get("member"):
            member = find_member(conn, scope, _uuid(values["member"]), now_ms)
        people: list[Person] = []
        suggested: list[Person] = []
        more = 0
        if is_unknown and member is None:
            suggested = cards.suggested(conn, scope, tap)
            if searched:
                found, more = members(conn, scope, searched, now_ms, limit=FOUND)
                people = [
                    Person(each.public_id, each.code, each.name, each.branch) for each in found
                ]
        own = [] if member is None else _own_cards(conn, caller, tap, member, now_ms)
        choices = (
            []
            if is_unknown or tap.outcome not in taps.WAITING
            else taps.choices(conn, scope, tap, hub.zone)
        )
    if member is not None:
        hub.looks(caller, Look("tap.page", member_id=member.id))
    elif people or suggested or (line.person is not None and line.person.name):
        hub.looks(caller, Look("tap.page", organisation_id=scope))
    default = hub.local(_since(tap))
    shown = {
        "day": f"{default:%Y-%m-%d}",
        "time": f"{default:%H:%M}",
        "card": "new",
        "code": "",
        "name": searched,
        **{key: each for key, each in values.items() if key != "name" and each},
    }
    return page(
        "tap.html",
        422 if errors else 200,
        caller=caller,
        section="taps",
        tap=_view(line, hub),
        outcome=Chip("warn", "ask", tap.outcome.zh),
        is_unknown=is_unknown,
        has_number=tap.credential_id is not None,
        has_card=tap.card_id is not None,
        is_act=tap.is_act,
        member=None if member is None else (str(member.public_id), member.name, member.code),
        people=people,
        more=max(0, more - len(people)),
        suggested=suggested,
        own=own,
        choices=[
            (each.public_id, f"{moment(each.starts_ms, hub.zone)} · {each.title} · {each.venue}")
            for each in choices
        ],
        assigned=next((each.title for each in choices if each.is_assigned), None),
        values=shown,
        errors=errors,
        back=back,
        path=f"/taps/{tap.name}",
    )


def _own_cards(
    conn: Connection, caller: Caller, tap: FoundTap, member: Row[Any], now_ms: int
) -> list[tuple[str, str]]:
    """To choose from: a new card, or one that the member has, where the number has none yet."""
    if tap.card_id is not None:
        return []
    held = cards.cards_of(conn, caller.organisation_id, member.id, now_ms)
    return [
        ("new", t("这是一张新卡")),
        *(
            (
                each.public_id,
                t(
                    "是他已有的卡 {code}（尾号 {numbers}）的另一个卡号",
                    code=each.code,
                    numbers=t("、").join(each.numbers) or "—",
                ),
            )
            for each in held
            if each.is_last and each.status is CardStatus.ACTIVE
        ),
    ]


def _since(tap: FoundTap) -> int:
    """From when on a card is somebody's, unless somebody says otherwise: its minute, or its day."""
    if tap.at_ms is not None:
        return tap.at_ms // 60_000 * 60_000
    return tap.received_ms if tap.earliest_ms is None else tap.earliest_ms


def _view(line: Line, hub: Context) -> LineView:
    who = line.person
    return LineView(
        line.tap,
        line.card,
        None if who is None else who.name,
        None if who is None else who.branch,
        _venue(line),
        line.device,
        _times(line, hub),
        line.taps,
    )


def _venue(line: Line) -> str | None:
    if line.venue is not None:
        return line.venue.name
    return None if line.first_ms is None else t("不在任何会场")


def _times(line: Line, hub: Context) -> str:
    if line.first_ms is not None and line.last_ms is not None:
        first, last = (moment(each, hub.zone) for each in (line.first_ms, line.last_ms))
        if first == last:
            return first
        day, _, hour = last.partition(" ")
        return t("{first} 至 {last}", first=first, last=hour if first.startswith(day) else last)
    earliest, latest = (
        None if each is None else moment(each, hub.zone)
        for each in (line.earliest_ms, line.latest_ms)
    )
    if earliest is not None and latest is not None:
        return t("{first} 至 {last} 之间", first=earliest, last=latest)
    if latest is not None:
        return t("不晚于 {last}", last=latest)
    if earliest is not None:
        return t("不早于 {first}", first=earliest)
    return t("时间不明")


def _card(
    caller: Caller,
    hub: Context,
    card: UUID,
    values: Mapping[str, str],
    errors: Mapping[str, object],
) -> Response:
    now_ms = hub.clock()
    with reading(hub.engine) as conn:
        row = find_card(conn, caller.organisation_id, card, now_ms)
        holder_id = taps.last_holder(conn, row.id, now_ms)
        if holder_id is None:
            raise NotFoundError
        held = next(
            each
            for each in cards.cards_of(conn, caller.organisation_id, holder_id, now_ms)
            if each.public_id == str(row.public_id) and each.is_last
        )
    hub.looks(caller, Look("card.page", member_id=holder_id))
    now = hub.local(now_ms)
    return page(
        "card.html",
        422 if errors else 200,
        caller=caller,
        section="members",
        card=held,
        state=_card_chip(held, now_ms),
        held=_held(held, hub),
        is_used=held.valid_to_ms is None or held.valid_to_ms > now_ms,
        is_active=held.status is CardStatus.ACTIVE,
        values={"day": f"{now:%Y-%m-%d}", "time": f"{now:%H:%M}", **values},
        errors=errors,
    )


def _card_chip(card: cards.HeldCard, now_ms: int) -> Chip:
    if card.status is not CardStatus.ACTIVE:
        return Chip("stop", "stop", card.status.zh)
    if card.valid_to_ms is not None and card.valid_to_ms <= now_ms:
        return Chip("open", "open", Words("已结束"))
    return Chip("ok", "ok", card.status.zh)


def _held(card: cards.HeldCard, hub: Context) -> tuple[str, str | None]:
    until = None if card.valid_to_ms is None else moment(card.valid_to_ms, hub.zone)
    return moment(card.valid_from_ms, hub.zone), until


def _at(error: TapError) -> str:
    return {"at": "day"}.get(error.field, error.field)


def _moment(day: str, time: str, hub: Context) -> int:
    at_ms = moment_from(day, time, hub.zone)
    if at_ms is None:
        raise TapError("day", NOT_A_TIME)
    return at_ms


def _chosen(member: str) -> UUID:
    if not member:
        raise TapError("member", Words("请先选择党员。"))
    return _uuid(member)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise NotFoundError from None


def _back(text: str) -> str:
    """Where to go on: the list as it was asked for."""
    path = local_path(text)
    return path if re.fullmatch(r"/(?:taps|meetings)(?:[/?].*)?", path) else "/taps"


def _of(asked: Asked, outcome: Outcome) -> Asked:
    return Asked(
        outcome,
        asked.from_ms,
        asked.to_ms,
        asked.venue_id,
        asked.meeting_id,
        asked.limit,
        asked.offset,
    )


def _read(request: Request, today: date) -> _Given:
    asked = {name: each.strip() for name, each in request.query_params.items()}
    outcome = Outcome.parse(asked.get("kind", ""))
    number = asked.get("page", "1")
    days = [day_from(asked.get(name, "")) for name in ("from", "to")]
    wrong = any(
        asked.get(name) and day is None for name, day in zip(("from", "to"), days, strict=True)
    )
    last = days[1] or max(today, days[0] or today)
    first = days[0] or last - timedelta(days=BACK_DAYS)
    problem = Words("日期没有看懂，请重新选择。") if wrong else None
    if first > last:
        problem, first = Words("开始日期晚于结束日期，请重新选择。"), last
    return _Given(
        outcome if outcome in taps.WAITING else None,
        _uuid(asked["meeting"]) if asked.get("meeting") else None,
        _uuid(asked["venue"]) if asked.get("venue") else None,
        first,
        last,
        is_period=any(days),
        page=int(number) if re.fullmatch(r"[1-9][0-9]{0,5}", number) else 1,
        problem=problem,
    )
