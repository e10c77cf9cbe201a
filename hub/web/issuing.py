"""The desk station's page (发卡台): pick a member, hold a card to the reader, bind it.

What the station read comes by server-sent events, each the fragment of the page that shows it; a
stream looks twice a second, sends what has changed, and ends when its session does and when the
server begins to stop. Who is named is written down as looked at before it is shown.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from hub import cards, issuing
from hub.audit import Look
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.auth.sessions import which_hold
from hub.cards import HeldCard
from hub.context import Context, Hub, context, page_right, session
from hub.days import moment_from
from hub.domain.terms import CardState, CardStatus
from hub.domain.words import Words
from hub.failures import DATABASE_FAILURES
from hub.issuing import Deed, Reading, Station
from hub.store.attendance_query import members
from hub.store.engine import reading as reads
from hub.store.queries import Person
from hub.store.scope import NotFoundError, find_card, find_member
from hub.taps import TapError
from hub.web.devices import NOT_A_TIME, moment
from hub.web.live import POLL_S, RETRY_MS, STREAMS_A_SESSION
from hub.web.pages import page, render
from hub.web.view import Chip
from hub.web.visit import done
from hub.web.words import t

FOUND: Final = 30
HOME: Final = "/cards/desk"

Asking = Annotated[Caller, Depends(page_right(Right.TAPS))]
Text = Annotated[str, Form()]

router = APIRouter(include_in_schema=False)

_CHIPS: Final = {
    CardState.UNKNOWN: ("open", "ask"),
    CardState.BOUND: ("ok", "ok"),
    CardState.LOST: ("stop", "stop"),
    CardState.ENDED: ("open", "open"),
    CardState.ELSEWHERE: ("warn", "alert"),
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the address asks for."""

    station: str = ""
    member: str = ""

    def query(self, **more: str) -> str:
        """The same as an address, with more."""
        pairs = {"station": self.station, "member": self.member, **more}
        return HOME + "?" + urlencode({name: each for name, each in pairs.items() if each})

    @property
    def live(self) -> str:
        """Where the stream of it is."""
        return self.query().replace(HOME, f"{HOME}/live", 1)


@dataclass(frozen=True, slots=True)
class _Member:
    """Whom a card is for."""

    id: int
    public_id: str
    name: str
    code: str
    cards: tuple[HeldCard, ...] = ()
    """Those in use."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the live part shows."""

    stations: list[Station] = field(default_factory=list)
    station: Station | None = None
    reading: Reading | None = None
    deed: Deed | None = None
    member: _Member | None = None

    @property
    def named(self) -> set[int]:
        """Whom it names."""
        ids = {
            None if self.reading is None else self.reading.holder_id,
            None if self.deed is None else self.deed.holder_id,
            None if self.member is None else self.member.id,
        }
        return {each for each in ids if each is not None}


@router.get(HOME)
def desk(request: Request, caller: Asking, hub: Hub) -> Response:
    """The station's screen."""
    return _page(caller, hub, request.query_params, {})


@router.post(f"{HOME}/bind")
def bind(
    caller: Asking,
    hub: Hub,
    reading: Text = "",
    member: Text = "",
    station: Text = "",
    old: Text = "",
    card: Text = "",
    code: Text = "",
    day: Text = "",
    time: Text = "",
) -> Response:
    """The card that was read is the member's; `old` says what becomes of the one in use."""
    given = {"reading": reading if day or time else "", "day": day, "time": time, "code": code}
    try:
        if not member:
            raise TapError("member", Words("请先选择党员。"))  # noqa: TRY301
        from_ms = None
        if day or time:
            from_ms = moment_from(day, time, hub.zone)
            if from_ms is None:
                raise TapError("day", NOT_A_TIME)  # noqa: TRY301
        with hub.engine.begin() as conn:
            row = find_member(conn, caller.organisation_id, _uuid(member), hub.clock())
            issuing.bind(
                conn,
                caller,
                _still(conn, caller, hub, reading),
                row.public_id,
                hub.clock(),
                valid_from_ms=from_ms,
                code=code,
                old=_uuid(card) if old in {"end", "lost"} else None,
                is_lost=old == "lost",
            )
    except TapError as error:
        name = {"valid_from": "day"}.get(error.field, error.field)
        values = {"station": station, "member": member, **given}
        return _page(caller, hub, values, {name: error})
    return done(
        _Asked(station).query(),
        Words("已登记为{name}的卡，以前的刷卡已重新计算。", name=row.name),
    )


@router.post(f"{HOME}/lost")
def lost(
    caller: Asking, hub: Hub, card: Text = "", member: Text = "", station: Text = ""
) -> Response:
    """A member's card is lost, from now on."""
    asked = _Asked(station, member)
    try:
        if not card:
            raise TapError("member", Words("请先选择党员。"))  # noqa: TRY301
        with hub.engine.begin() as conn:
            row = find_card(conn, caller.organisation_id, _uuid(card), hub.clock())
            cards.report_lost(conn, caller, row.public_id, hub.clock(), hub.clock())
    except TapError as error:
        return _page(caller, hub, {"station": station, "member": member}, {"card": error})
    return done(asked.query(), Words("已挂失，从现在起这张卡的刷卡不再算他的。"))


@router.post(f"{HOME}/undo")
def undo(
    caller: Asking, hub: Hub, reading: Text = "", member: Text = "", station: Text = ""
) -> Response:
    """Take back what the station did last."""
    asked = _Asked(station, member)
    try:
        with hub.engine.begin() as conn:
            issuing.undo(conn, caller, _still(conn, caller, hub, reading), hub.clock())
    except TapError as error:
        return _page(caller, hub, {"station": station, "member": member}, {"reading": error})
    return done(asked.query(), Words("已撤销，刷卡已重新计算。要重新登记，请再刷一次卡。"))


def _still(conn: Connection, caller: Caller, hub: Context, reading: str) -> UUID:
    """The reading's name, while it is one. Raises TapError: it is the form that is old."""
    name = _uuid(reading) if reading else None
    if name is None or not issuing.is_there(conn, caller.organisation_id, name, hub.clock()):
        raise TapError("reading", Words("已经不是刚才刷的那张卡了，请再刷一次。"))
    return name


# --- What is shown ------------------------------------------------------------------------------


def _page(
    caller: Caller, hub: Context, given: Mapping[str, str], errors: Mapping[str, object]
) -> Response:
    asked = _Asked(given.get("station", ""), given.get("member", ""))
    searched = given.get("name", "").strip()[:100]
    now_ms, scope = hub.clock(), caller.organisation_id
    chosen = None
    people: list[Person] = []
    more = 0
    with reads(hub.engine) as conn:
        seen = _look(conn, scope, asked, now_ms)
        if given.get("reading"):
            with suppress(NotFoundError):
                chosen = issuing.find(conn, scope, _uuid(given["reading"]), now_ms)
        if searched and seen.member is None:
            found, count = members(conn, scope, searched, now_ms, limit=FOUND)
            people = [Person(each.public_id, each.code, each.name, each.branch) for each in found]
            more = count - len(people)
    named = seen.named | ({chosen.holder_id} if chosen and chosen.holder_id else set())
    for each in sorted(named):
        hub.looks(caller, Look("card.page", member_id=each))
    if people:
        hub.looks(caller, Look("members.page", organisation_id=scope))
    since = now_ms if chosen is None or chosen.since_ms is None else chosen.since_ms
    local = hub.local(since)
    values = {"day": f"{local:%Y-%m-%d}", "time": f"{local:%H:%M}", "code": ""}
    if errors:
        values |= {name: each for name, each in given.items() if name in values}
    return page(
        "issuing.html",
        422 if errors else 200,
        caller=caller,
        section="desk",
        people=people,
        more=more,
        searched=searched,
        chosen=None if chosen is None or seen.member is None else chosen,
        values=values,
        errors=errors,
        **_shown(hub, asked, seen),
    )


def _look(conn: Connection, scope: int, asked: _Asked, now_ms: int) -> _Seen:
    member = None
    if asked.member:
        row = find_member(conn, scope, _uuid(asked.member), now_ms)
        held = tuple(
            each
            for each in cards.cards_of(conn, scope, row.id, now_ms)
            if each.status is CardStatus.ACTIVE
            and each.is_last
            and (each.valid_to_ms is None or each.valid_to_ms > now_ms)
        )
        member = _Member(row.id, str(row.public_id), row.name, row.code, held)
    stations = issuing.stations(conn, scope, now_ms)
    if not stations:
        return _Seen(member=member)
    # One that has become silent is not waited for: whichever read last is shown.
    station = next((each for each in stations if each.public_id == asked.station), stations[0])
    return _Seen(
        sorted(stations, key=lambda each: each.name),
        station,
        issuing.read_last(conn, scope, station.public_id, now_ms),
        issuing.done_last(conn, scope, station.public_id, now_ms),
        member,
    )


def _shown(hub: Context, asked: _Asked, seen: _Seen) -> dict[str, Any]:
    """What the live part is made of."""
    reading = seen.reading
    return {
        "asked": asked,
        "seen": seen,
        "member": seen.member,
        "old": seen.member.cards[0] if seen.member and len(seen.member.cards) == 1 else None,
        "state": None if reading is None else Chip(*_CHIPS[reading.state], reading.state.zh),
        "may_bind": reading is not None and reading.state in {CardState.UNKNOWN, CardState.ENDED},
        "read_at": None if reading is None else f"{hub.local(reading.at_ms):%H:%M:%S}",
        "since": None
        if reading is None or reading.since_ms is None
        else moment(reading.since_ms, hub.zone),
        "numbers": lambda card: t("、").join(card.numbers) or "—",
    }


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise NotFoundError from None


# --- The stream ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Watch:
    hub: Context
    caller: Caller
    key: bytes
    asked: _Asked


async def _watching(request: Request) -> AsyncIterator[_Watch]:
    """Whoever is signed in, until the answer is over: 401, 403, 404, or 429 as `hub.web.live`."""
    hub = context(request)
    found = await run_in_threadpool(session, request)
    if found is None:
        raise HTTPException(401)
    if not found.caller.may(Right.TAPS) or found.must_change:
        raise HTTPException(403)
    asked = _Asked(*(request.query_params.get(name, "") for name in ("station", "member")))
    streams = request.app.state.desk_streams
    if streams[found.key] >= STREAMS_A_SESSION:
        raise HTTPException(429)
    streams[found.key] += 1
    try:
        yield _Watch(hub, found.caller, found.key, asked)
    finally:
        streams.subtract([found.key])
        if not streams[found.key]:
            del streams[found.key]


@router.get(f"{HOME}/live", response_class=EventSourceResponse)
async def live(watch: Annotated[_Watch, Depends(_watching)]) -> AsyncIterator[ServerSentEvent]:
    """Unnamed events with HTML; `end` where coming again is of no use."""
    sent = None
    while not watch.hub.closing.is_set():
        try:
            html = await run_in_threadpool(_fragment, watch)
        except DATABASE_FAILURES:
            return  # the browser connects again, and is told by a 503 that it must wait
        except NotFoundError:
            html = None
        if html is None:
            yield ServerSentEvent(event="end", raw_data="over")
            return
        if html != sent:
            sent = html
            yield ServerSentEvent(raw_data=html, retry=RETRY_MS)
        with suppress(TimeoutError):
            await asyncio.wait_for(watch.hub.closing.wait(), POLL_S)


def _fragment(watch: _Watch) -> str | None:
    """The live part as it is now; None: the session is over."""
    hub, scope, now_ms = watch.hub, watch.caller.organisation_id, watch.hub.clock()
    with reads(hub.engine) as conn:
        if not which_hold(conn, [watch.key], scope, now_ms):
            return None
        seen = _look(conn, scope, watch.asked, now_ms)
    for each in sorted(seen.named):
        hub.looks(watch.caller, Look("card.page", member_id=each))
    return render("issuing-live.html", **_shown(hub, watch.asked, seen))
