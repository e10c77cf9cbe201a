"""Meetings as people keep them: made, moved, called off, held jointly.

Promises: every act is a right of the caller over the meeting's own organisation, one entry of the
audit log and the narrowest deriving, all in the caller's transaction; what is refused has changed
nothing, and says why in plain Chinese. Doing the same twice does it once.

What people state of a meeting is `hub.statements`; the rules are `hub.domain.stating`. `conn` is
always in a write transaction.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import CTE, Connection, Row, insert, literal, or_, select, update

from hub import audit
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.derive import lock, rederive_windows
from hub.domain import stating
from hub.domain.attendance import MINUTE_MS
from hub.domain.terms import MeetingKind, OrgKind
from hub.domain.words import Words
from hub.store import schema as s
from hub.store.policies import GRACE_MINUTES, OPENS_BEFORE_MINUTES, Policies
from hub.store.scope import NotFoundError, Scope, find_meeting, find_organisation, is_within, within
from hub.store.statement_query import standing_of

MAX_TITLE_CHARS: Final = 100
MAX_CHAIR_CHARS: Final = 50
MAX_REASON_CHARS: Final = 200
MAX_PARTNERS: Final = 200
MAX_GRACE_MINUTES: Final = 600
_FOUND: Final = 30
_LONGEST_STEM: Final = 50


class MeetingError(ValueError):
    """It cannot be done; the message says why, and `field` names the input ("": none of them)."""

    def __init__(self, field: str, message: Words) -> None:
        super().__init__(message)
        self.field = field


class MeetingChangedError(MeetingError):
    """Somebody changed it since whoever changes it now has looked."""

    def __init__(self) -> None:
        super().__init__("", Words("会议在您填写时已被别人修改。"))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a meeting is to be."""

    kind: MeetingKind
    title: str
    venue: UUID
    starts_ms: int
    ends_ms: int
    chair: str = ""
    grace_minutes: int | None = None
    """None: as the policy says, or as it was."""


def create(conn: Connection, caller: Caller, organisation: UUID, plan: Plan, now_ms: int) -> UUID:
    """A new meeting of an organisation in the caller's sub-tree; gives its public id."""
    must_have(caller, Right.MEETINGS)
    lock(conn)
    host = find_organisation(conn, caller.organisation_id, organisation)
    zone = Policies.load(conn).zone(now_ms)
    values = _values(conn, caller, host, plan, zone, None)
    day = datetime.fromtimestamp(plan.starts_ms / 1000, zone).date()
    public_id = s.new_public_id()
    meeting_id: int = conn.execute(
        insert(s.meetings)
        .values(
            public_id=public_id,
            code=_free_code(conn, host.code, day),
            organisation_id=host.id,
            **values,
        )
        .returning(s.meetings.c.id)
    ).scalar_one()
    conn.execute(
        insert(s.meeting_organisations).values(
            meeting_id=meeting_id, organisation_id=host.id, agreed_ms=now_ms
        )
    )
    _record(conn, caller, "meeting.create", host.id, public_id, now_ms, **_told(plan))
    rederive_windows(
        conn, [(values["venue_id"], values["opens_ms"], values["ends_ms"])], [meeting_id]
    )
    return public_id


def plan_of(conn: Connection, meeting: Row[Any]) -> Plan:
    """What a meeting is now, to be changed."""
    v = s.venues.c
    venue: UUID = conn.execute(select(v.public_id).where(v.id == meeting.venue_id)).scalar_one()
    return Plan(
        MeetingKind(meeting.kind),
        meeting.title,
        venue,
        meeting.starts_ms,
        meeting.ends_ms,
        meeting.chair,
        meeting.grace_minutes,
    )


def version_of(plan: Plan) -> str:
    """A short text that is another one as soon as anything of the plan is."""
    told = json.dumps(_told(plan), default=str, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def edit(
    conn: Connection,
    caller: Caller,
    meeting: UUID,
    plan: Plan,
    now_ms: int,
    *,
    shown: str | None = None,
) -> None:
    """Make the meeting what `plan` says: another time or venue included.

    `shown`: the `version_of` what it was when `plan` was thought of. Raises MeetingChangedError if
    somebody changed it since, unless to this very plan.
    """
    old = to_change(conn, caller, meeting)
    o = s.organisations
    host = conn.execute(select(o).where(o.c.id == old.organisation_id)).one()
    before = plan_of(conn, old)
    for each in _partners(conn, old):
        may("kind", stating.kind_refused(plan.kind, OrgKind(each.kind)))
    zone = Policies.load(conn).zone(now_ms)
    values = _values(conn, caller, host, plan, zone, old)
    differing = {name for name, value in values.items() if getattr(old, name) != value}
    if not differing:
        return
    if shown is not None and shown != version_of(before):
        raise MeetingChangedError
    was = stating.Times(old.opens_ms, old.starts_ms, old.ends_ms, old.cancelled)
    to = replace(was, **{name: values[name] for name in ("opens_ms", "starts_ms", "ends_ms")})
    said = {each.kind for each in standing_of(conn, old.id)}
    may("starts", stating.move_refused(was, to, said, now_ms, zone))
    conn.execute(
        update(s.meetings)
        .where(s.meetings.c.id == old.id)
        .values(**values, change=s.meetings.c.change + 1)
    )
    past, now = _told(before), _told(plan)
    changed = {name: [past[name], now[name]] for name in now if past[name] != now[name]}
    _record(conn, caller, "meeting.edit", host.id, meeting, now_ms, **changed)
    if differing - {"title", "chair"}:
        rederive_windows(
            conn,
            [
                (old.venue_id, old.opens_ms, old.ends_ms),
                (values["venue_id"], values["opens_ms"], values["ends_ms"]),
            ],
            [old.id],
        )


def cancel(conn: Connection, caller: Caller, meeting: UUID, reason: str, now_ms: int) -> None:
    """Call it off: it counts nothing, and what is known of it stays."""
    _call_off(conn, caller, meeting, reason, now_ms, cancelled=True)


def restore(conn: Connection, caller: Caller, meeting: UUID, reason: str, now_ms: int) -> None:
    """Take a cancelled meeting up again."""
    _call_off(conn, caller, meeting, reason, now_ms, cancelled=False)


def _call_off(
    conn: Connection, caller: Caller, meeting: UUID, reason: str, now_ms: int, *, cancelled: bool
) -> None:
    row = to_change(conn, caller, meeting)
    why = clean_text("reason", reason, MAX_REASON_CHARS)
    if row.cancelled == cancelled:
        raise MeetingError("", Words("会议已经取消。") if cancelled else Words("会议没有取消。"))
    conn.execute(update(s.meetings).where(s.meetings.c.id == row.id).values(cancelled=cancelled))
    what = "meeting.cancel" if cancelled else "meeting.restore"
    _record(conn, caller, what, row.organisation_id, meeting, now_ms, reason=why)
    _rederive(conn, row)


def set_partners(
    conn: Connection, caller: Caller, meeting: UUID, codes: Iterable[str], now_ms: int
) -> None:
    """Ask exactly these other organisations to take part too, wherever in the district they are.

    For those in the caller's own sub-tree the caller agrees at once, see `hub.joining`.
    """
    row = to_change(conn, caller, meeting)
    asked = list(dict.fromkeys(code.strip() for code in codes if code.strip()))
    if len(asked) > MAX_PARTNERS:
        raise MeetingError("partners", Words("联合召开的组织最多{most}个", most=MAX_PARTNERS))
    o, mo = s.organisations.c, s.meeting_organisations.c
    found = {
        each.code: each
        for each in conn.execute(
            select(o.id, o.code, o.kind).where(
                # PostgreSQL takes no NUL.
                o.code.in_([code for code in asked if code.isprintable()]),
                o.id != row.organisation_id,
            )
        )
    }
    for code in asked:
        if code not in found:
            raise MeetingError("partners", Words("没有可以联合的组织“{code}”", code=code))
        wrong = stating.kind_refused(MeetingKind(row.kind), OrgKind(found[code].kind))
        if wrong is not None:
            raise MeetingError("partners", wrong)
    known = _partners(conn, row)
    kept, agreed = (
        {each.id for each in known},
        {each.id for each in known if each.agreed_ms is not None},
    )
    wanted = {each.id for each in found.values()}
    ours = {each for each in wanted if is_within(conn, caller.organisation_id, each)}
    if wanted == kept and ours <= agreed:
        return
    now = mo.left_ms.is_(None) & (mo.meeting_id == row.id)
    conn.execute(
        update(s.meeting_organisations)
        .where(now, mo.organisation_id.in_(kept - wanted))
        .values(left_ms=now_ms)
    )
    conn.execute(
        update(s.meeting_organisations)
        .where(now, mo.organisation_id.in_(ours), mo.agreed_ms.is_(None))
        .values(agreed_ms=now_ms)
    )
    added = sorted(wanted - kept)
    if added:
        conn.execute(
            insert(s.meeting_organisations),
            [
                {
                    "meeting_id": row.id,
                    "organisation_id": each,
                    "agreed_ms": now_ms if each in ours else None,
                }
                for each in added
            ],
        )
    _record(conn, caller, "meeting.partners", row.organisation_id, meeting, now_ms, partners=asked)
    _rederive(conn, row)


def possible_partners(
    conn: Connection, caller: Caller, meeting: UUID, query: str
) -> list[Row[Any]]:
    """Organisations (public_id, code, name) that could take part; found by name or code."""
    must_have(caller, Right.MEETINGS)
    row = find_meeting(conn, caller.organisation_id, meeting, to_change=True)
    o, mo = s.organisations.c, s.meeting_organisations.c
    words = query.strip()
    if not words or not words.isprintable():  # PostgreSQL takes no NUL
        return []
    levels = [
        level.value
        for level in OrgKind
        if stating.kind_refused(MeetingKind(row.kind), level) is None
    ]
    return list(
        conn.execute(
            select(o.public_id, o.code, o.name)
            .where(
                o.kind.in_(levels),
                or_(o.name.contains(words, autoescape=True), o.code == words),
                o.id.not_in(
                    select(mo.organisation_id).where(mo.meeting_id == row.id, mo.left_ms.is_(None))
                ),
            )
            .order_by(o.code)
            .limit(_FOUND)
        )
    )


def venues_for(
    conn: Connection, scope: Scope, organisation_id: int, kept_id: int | None = None
) -> list[Row[Any]]:
    """The venues (id, public_id, name) where it may meet: the scope's, and those of organisations
    above it; `kept_id` is one that a meeting has already.
    """
    v = s.venues.c
    return list(
        conn.execute(
            select(v.id, v.public_id, v.name)
            .where(
                or_(
                    within(scope, v.organisation_id),
                    v.organisation_id.in_(select(_above(organisation_id).c.id)),
                    literal(value=False) if kept_id is None else v.id == kept_id,
                )
            )
            .order_by(v.name, v.code)
        )
    )


# --- Who may ---------------------------------------------------------------------------------


def must_have(caller: Caller, right: Right) -> None:
    """Raise NotFoundError for whoever has not this right."""
    # Routes ask before; whoever else calls must not get past it.
    if not caller.may(right):
        raise NotFoundError


def to_change(conn: Connection, caller: Caller, meeting: UUID) -> Row[Any]:
    """The row of a meeting that the caller speaks for; nobody else derives until the end."""
    must_have(caller, Right.MEETINGS)
    lock(conn)
    return find_meeting(conn, caller.organisation_id, meeting, to_change=True)


def may(field: str, reason: Words | None) -> None:
    """Raise MeetingError if there is a reason why not."""
    if reason is not None:
        raise MeetingError(field, reason)


def _partners(conn: Connection, meeting: Row[Any]) -> list[Row[Any]]:
    """Those that take part beside the host, and those that are asked to."""
    o, mo = s.organisations.c, s.meeting_organisations.c
    return list(
        conn.execute(
            select(o.id, o.kind, mo.agreed_ms)
            .join(s.meeting_organisations, mo.organisation_id == o.id)
            .where(
                mo.meeting_id == meeting.id,
                mo.left_ms.is_(None),
                o.id != meeting.organisation_id,
            )
        )
    )


def _record(
    conn: Connection,
    caller: Caller,
    what: str,
    organisation_id: int,
    meeting: UUID,
    now_ms: int,
    **details: Any,
) -> None:
    audit.record(conn, caller, what, organisation_id, "meeting", meeting, now_ms, **details)


def _rederive(conn: Connection, meeting: Row[Any]) -> None:
    rederive_windows(conn, [(meeting.venue_id, meeting.opens_ms, meeting.ends_ms)], [meeting.id])


# --- Helpers ---------------------------------------------------------------------------------


def _values(
    conn: Connection,
    caller: Caller,
    host: Row[Any],
    plan: Plan,
    zone: ZoneInfo,
    old: Row[Any] | None,
) -> dict[str, Any]:
    """The columns that a plan comes to; whatever is wrong with it is refused."""
    wrong = stating.kind_refused(plan.kind, OrgKind(host.kind))
    may("kind", wrong)
    title = clean_text("title", plan.title, MAX_TITLE_CHARS)
    chair = plan.chair.strip()
    if len(chair) > MAX_CHAIR_CHARS or not chair.isprintable():
        raise MeetingError("chair", Words("主持人最多{most}个字", most=MAX_CHAIR_CHARS))
    bad_time = stating.times_refused(plan.starts_ms, plan.ends_ms, zone)
    if bad_time is not None:
        raise MeetingError(*bad_time)
    kept_id = None if old is None else old.venue_id
    venues = venues_for(conn, caller.organisation_id, host.id, kept_id)
    venue_id = next((each.id for each in venues if each.public_id == plan.venue), None)
    if venue_id is None:
        raise MeetingError("venue", Words("请选择会场"))
    policies, at = Policies.load(conn), (plan.starts_ms, host.id)
    before = policies.number(OPENS_BEFORE_MINUTES, *at)
    grace = plan.grace_minutes
    if grace is None:
        grace = policies.number(GRACE_MINUTES, *at) if old is None else old.grace_minutes
    if not 0 <= grace <= MAX_GRACE_MINUTES:
        raise MeetingError(
            "grace_minutes", Words("宽限时间应在0到{most}分钟之间", most=MAX_GRACE_MINUTES)
        )
    opens_ms = plan.starts_ms - before * MINUTE_MS
    if old is not None and old.starts_ms == plan.starts_ms:
        opens_ms = old.opens_ms
    return {
        "kind": plan.kind.value,
        "title": title,
        "venue_id": venue_id,
        "starts_ms": plan.starts_ms,
        "ends_ms": plan.ends_ms,
        "opens_ms": opens_ms,
        "grace_minutes": grace,
        "chair": chair,
    }


def _told(plan: Plan) -> dict[str, Any]:
    """A plan as the audit log keeps it."""
    return {
        "kind": plan.kind.value,
        "title": plan.title.strip(),
        "venue": plan.venue,
        "starts_ms": plan.starts_ms,
        "ends_ms": plan.ends_ms,
        "chair": plan.chair.strip(),
        "grace_minutes": plan.grace_minutes,
    }


def clean_text(field: str, text: str, most: int) -> str:
    """The text without needless blanks. Raises MeetingError if none is left, or too much."""
    found = " ".join(text.split())
    if not found:
        raise MeetingError(field, Words("请填写这一项"))
    if len(found) > most or not found.isprintable():
        raise MeetingError(field, Words("最多{most}个字，不能有特殊符号", most=most))
    return found


def _free_code(conn: Connection, organisation_code: str, day: date) -> str:
    """A code of the organisation and the day; a number follows where there are several."""
    stem = f"{organisation_code[:_LONGEST_STEM]}-{day:%Y%m%d}"
    taken = set(
        conn.scalars(
            select(s.meetings.c.code).where(s.meetings.c.code.startswith(stem, autoescape=True))
        )
    )
    number = 1
    while (code := stem if number == 1 else f"{stem}-{number}") in taken:
        number += 1
    return code


def _above(organisation_id: int) -> CTE:
    """A recursive CTE with one column `id`: the organisation and everything above it."""
    o = s.organisations.c
    own = literal(organisation_id, o.id.type)
    above = select(o.id, o.parent_id).where(o.id == own).cte(recursive=True)
    parent = s.organisations.alias("parent")
    return above.union(
        select(parent.c.id, parent.c.parent_id).join(above, parent.c.id == above.c.parent_id)
    )
