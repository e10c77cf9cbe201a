"""Taps that a person has to look at, and to which meeting one belongs.

Promises: a tap is seen where its venue's organisation lies in the caller's sub-tree, or where it
fell into a meeting of that sub-tree; one that nobody can place, by the whole district alone. Of a
card only the last four characters are told, and taps of one card at two venues are two lines that
nothing links. Who is not of the sub-tree is not named. Whatever is said here is written with its
author and its effects, in the transaction of the caller.

The card of an act at a reader waits like that of a tap, until it is known whose it is; an act is
no check-in, and belongs to no meeting by assignment.

A tap is named by device, epoch and number, none of which is a key of this database. Whose card an
unknown one is, is said in `hub.cards`.
"""

import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Row,
    Select,
    and_,
    case,
    exists,
    false,
    func,
    insert,
    or_,
    select,
    text,
    true,
    union,
)

from hub import audit
from hub.auth.callers import Caller
from hub.days import span_ms
from hub.derive import lock, rederive_meetings
from hub.domain.terms import Body, DeclarationKind, OrgKind, Outcome
from hub.domain.words import Words
from hub.store import schema as s
from hub.store.expected import holds
from hub.store.queries import Named, Person
from hub.store.scope import (
    NotFoundError,
    Scope,
    belongs,
    find_meeting,
    is_within,
    last_begun,
    within,
)
from hub.store.stated import is_assigned, stands
from protocol.journal import KIND_ACTION, KIND_TAP

WAITING: Final = (Outcome.UNMATCHED, Outcome.UNPLACED, Outcome.UNDATED)
"""What waits for a person."""
MAX_SUGGESTED: Final = 200

_LAST: Final = 4
_NAME: Final = re.compile(
    r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-([0-9a-f]{32})-([1-9][0-9]{0,18})"
)


class TapError(ValueError):
    """A tap or a card cannot be treated so; the message says why, and `field` names the input."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Asked:
    """Which taps to list."""

    outcome: Outcome
    from_ms: int
    to_ms: int
    """The period `[from_ms, to_ms)`; of no matter where a meeting is named."""
    venue_id: int | None = None
    meeting_id: int | None = None
    limit: int = 50
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """One tap, or all taps of one unknown card at one venue."""

    tap: str
    """The name of the tap, of several the first."""
    outcome: Outcome
    venue: Named | None
    device: str
    card: str
    """The last characters of the card's number; empty: the hub has no number."""
    taps: int
    first_ms: int | None
    last_ms: int | None
    earliest_ms: int | None
    latest_ms: int | None
    """Where there is no exact time: between which it was; None: no bound."""
    person: Person | None
    """Whose card it is, as far as that is known."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A page of what waits."""

    lines: tuple[Line, ...]
    counts: dict[Outcome, int]
    """How many lines there are of each outcome."""


@dataclass(frozen=True, slots=True)
class FoundTap:
    """One tap, as far as whoever asks may know it."""

    name: str
    epoch_id: int
    seq: int
    device_id: int
    device: str
    credential_id: int | None
    """None also where its number was erased."""
    card: str
    card_id: int | None
    outcome: Outcome
    at_ms: int | None
    earliest_ms: int | None
    latest_ms: int | None
    received_ms: int
    venue_id: int | None
    venue: Named | None
    member_id: int | None
    is_act: bool = False
    """Whether it is the card of an act at the reader."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A meeting that a tap may be assigned to."""

    public_id: str
    title: str
    starts_ms: int
    ends_ms: int
    venue: str
    is_assigned: bool


# --- Listing ----------------------------------------------------------------------------------


def waiting(conn: Connection, scope: int, asked: Asked, now_ms: int) -> Waiting:
    """The taps that wait, of one outcome, and how many lines there are of each."""
    counts = {
        outcome: conn.scalar(
            select(func.count()).select_from(_lines(conn, scope, asked, outcome).subquery())
        )
        or 0
        for outcome in WAITING
    }
    rows = conn.execute(
        _lines(conn, scope, asked, asked.outcome).limit(asked.limit).offset(asked.offset)
    ).all()
    if asked.outcome is Outcome.UNMATCHED:
        lines = [_group(conn, row) for row in rows]
    else:
        lines = [
            _line(conn, scope, _one(conn, _is_key(row.epoch_id, row.seq)), now_ms) for row in rows
        ]
    return Waiting(tuple(lines), counts)


def find_tap(conn: Connection, scope: int, name: str) -> FoundTap:
    """A tap by its name. Raises NotFoundError for what does not exist or is not to be seen."""
    parts = _NAME.fullmatch(name)
    if parts is None or int(parts[3]) >= 1 << 63:
        raise NotFoundError
    return _one(
        conn,
        s.devices.c.public_id == uuid.UUID(parts[1]),
        s.epochs.c.epoch == bytes.fromhex(parts[2]),
        s.readings.c.seq == int(parts[3]),
        _sees(conn, scope),
    )


def line_of(conn: Connection, scope: int, tap: FoundTap, now_ms: int) -> Line:
    """A tap as a line of the list."""
    return _line(conn, scope, tap, now_ms)


def _lines(conn: Connection, scope: int, asked: Asked, outcome: Outcome) -> Select[Any]:
    r, e, p = s.readings.c, s.entries.c, s.epochs.c
    seen = _seen(conn, scope, asked, outcome).subquery("seen")
    joined = (
        s.readings.join(seen, and_(seen.c.epoch_id == r.epoch_id, seen.c.seq == r.seq))
        .join(s.entries, and_(e.epoch_id == r.epoch_id, e.seq == r.seq))
        .join(s.epochs, p.id == r.epoch_id)
    )
    if outcome is Outcome.UNMATCHED:
        # Where no venue is known, taps at two devices are taps at two places.
        device = case((r.venue_id.is_(None), p.device_id))
        first, last = func.min(r.at_ms), func.max(r.at_ms)
        return (
            select(
                e.credential_id,
                r.venue_id,
                device.label("device_id"),
                func.count().label("taps"),
                first.label("first_ms"),
                last.label("last_ms"),
            )
            .select_from(joined)
            .group_by(e.credential_id, r.venue_id, device)
            .order_by(last.desc(), first, e.credential_id)
        )
    return (
        select(r.epoch_id, r.seq)
        .select_from(joined)
        .where(e.kind == KIND_TAP, ~is_assigned())
        .order_by(r.at_ms.desc(), r.epoch_id.desc(), r.seq.desc())
    )


def _seen(
    conn: Connection, scope: int, asked: Asked, outcome: Outcome
) -> Select[Any] | CompoundSelect[Any]:
    """The keys of the scope's readings of an outcome; so written that indexes are of use."""
    r, m = s.readings.c, s.meetings.c
    keys = select(r.epoch_id, r.seq).where(r.outcome == outcome.value)
    if outcome is not Outcome.UNDATED:
        # As their index says it; the outcome itself is a parameter.
        keys = keys.where(text("readings.outcome IN ('UNMATCHED', 'UNPLACED')"))
    if outcome is Outcome.UNDATED:
        keys = keys.join(s.epochs, s.epochs.c.id == r.epoch_id).where(r.at_ms.is_(None))
        return keys.where(*_undated_asked(conn, scope, asked))
    if asked.meeting_id is not None:
        meeting = conn.execute(select(s.meetings).where(m.id == asked.meeting_id)).one()
        return keys.where(
            r.venue_id == meeting.venue_id,
            r.at_ms.between(meeting.opens_ms, meeting.ends_ms),
            true() if _is_ours(conn, scope, meeting) else false(),
        )
    keys = keys.where(r.at_ms >= asked.from_ms, r.at_ms < asked.to_ms)
    if asked.venue_id is not None:
        return keys.where(r.venue_id == asked.venue_id)
    hosted = keys.join(
        s.meetings, and_(m.venue_id == r.venue_id, r.at_ms.between(m.opens_ms, m.ends_ms))
    ).where(
        within(scope, m.organisation_id),
        ~m.cancelled,
        m.ends_ms >= asked.from_ms,
        m.opens_ms < asked.to_ms,
    )
    several = [keys.where(r.venue_id.in_(_venues(scope))), hosted]
    if _is_district(conn, scope):
        several.append(keys.where(r.venue_id.is_(None)))
    return union(*several)


def _undated_asked(conn: Connection, scope: int, asked: Asked) -> list[ColumnElement[bool]]:
    r, p = s.readings.c, s.placements.c
    if asked.meeting_id is not None:
        meeting = conn.execute(select(s.meetings).where(s.meetings.c.id == asked.meeting_id)).one()
        return [
            _may_be_in(meeting.opens_ms, meeting.ends_ms),
            _stood(
                p.venue_id == meeting.venue_id,
                p.valid_from_ms <= meeting.ends_ms,
                or_(p.valid_to_ms.is_(None), p.valid_to_ms > meeting.opens_ms),
            ),
            true() if _is_ours(conn, scope, meeting) else false(),
        ]
    period = [
        or_(r.latest_ms.is_(None), r.latest_ms >= asked.from_ms),
        or_(r.earliest_ms.is_(None), r.earliest_ms < asked.to_ms),
    ]
    if asked.venue_id is not None:
        return [*period, _stood(p.venue_id == asked.venue_id)]
    return [*period, _sees(conn, scope)]


def _sees(conn: Connection, scope: int) -> ColumnElement[bool]:
    """The condition that a reading, joined with its epoch, is the scope's to look at."""
    r, m, p = s.readings.c, s.meetings.c, s.placements.c
    hosted = (within(scope, m.organisation_id), ~m.cancelled)
    seen = [
        r.venue_id.in_(_venues(scope)),
        exists().where(m.venue_id == r.venue_id, r.at_ms.between(m.opens_ms, m.ends_ms), *hosted),
        and_(
            r.at_ms.is_(None),
            or_(
                _stood(p.venue_id.in_(_venues(scope))),
                _stood(
                    exists().where(
                        m.venue_id == p.venue_id,
                        p.valid_from_ms <= m.ends_ms,
                        or_(p.valid_to_ms.is_(None), p.valid_to_ms > m.opens_ms),
                        or_(r.earliest_ms.is_(None), r.earliest_ms <= m.ends_ms),
                        or_(r.latest_ms.is_(None), r.latest_ms >= m.opens_ms),
                        *hosted,
                    )
                ),
            ),
        ),
    ]
    if _is_district(conn, scope):
        seen.append(and_(r.venue_id.is_(None), or_(r.at_ms.is_not(None), ~_stood(true()))))
    return or_(*seen)


def _stood(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """The condition that the epoch's device stood somewhere when the reading may have been."""
    r, p = s.readings.c, s.placements.c
    return exists().where(
        p.device_id == s.epochs.c.device_id,
        or_(r.latest_ms.is_(None), p.valid_from_ms <= r.latest_ms),
        or_(r.earliest_ms.is_(None), p.valid_to_ms.is_(None), p.valid_to_ms > r.earliest_ms),
        *conditions,
    )


def _may_be_in(from_ms: int, to_ms: int) -> ColumnElement[bool]:
    r = s.readings.c
    return and_(
        or_(r.earliest_ms.is_(None), r.earliest_ms <= to_ms),
        or_(r.latest_ms.is_(None), r.latest_ms >= from_ms),
    )


def _venues(scope: int) -> Select[Any]:
    v = s.venues.c
    return select(v.id).where(within(scope, v.organisation_id))


def _is_district(conn: Connection, scope: int) -> bool:
    o = s.organisations.c
    return conn.scalar(select(o.parent_id).where(o.id == scope)) is None


def _is_ours(conn: Connection, scope: int, meeting: Row[Any]) -> bool:
    """Whether the meeting, or the venue where it is, is the scope's."""
    v = s.venues.c
    venue_s = conn.scalar(select(v.organisation_id).where(v.id == meeting.venue_id))
    return is_within(conn, scope, meeting.organisation_id) or (
        venue_s is not None and is_within(conn, scope, venue_s)
    )


def _assignments() -> Select[Any]:
    """What stands of the declarations that a reading was assigned to a meeting."""
    d, m = s.declarations.c, s.meetings.c
    return (
        select(d.id, d.meeting_id, m.title, m.organisation_id)
        .join(s.meetings, m.id == d.meeting_id)
        .where(stands(), ~m.cancelled)
    )


def _one(conn: Connection, *conditions: ColumnElement[bool]) -> FoundTap:
    r, e, p, d, c, v = (
        table.c for table in (s.readings, s.entries, s.epochs, s.devices, s.credentials, s.venues)
    )
    row = conn.execute(
        select(
            r.epoch_id,
            r.seq,
            r.at_ms,
            r.earliest_ms,
            r.latest_ms,
            r.venue_id,
            r.member_id,
            r.outcome,
            p.epoch,
            p.device_id,
            d.public_id,
            d.name,
            e.kind,
            e.credential_id,
            c.value,
            c.card_id,
            s.batches.c.received_ms,
            v.public_id.label("venue_public_id"),
            v.code.label("venue_code"),
            v.name.label("venue_name"),
        )
        .select_from(s.readings)
        .join(s.entries, and_(e.epoch_id == r.epoch_id, e.seq == r.seq))
        .join(s.batches, s.batches.c.id == e.batch_id)
        .join(s.epochs, p.id == r.epoch_id)
        .join(s.devices, d.id == p.device_id)
        .outerjoin(s.credentials, c.id == e.credential_id)
        .outerjoin(s.venues, v.id == r.venue_id)
        .where(e.kind.in_([KIND_TAP, KIND_ACTION]), *conditions)
    ).one_or_none()
    if row is None:
        raise NotFoundError
    return FoundTap(
        name=f"{row.public_id}-{row.epoch.hex()}-{row.seq}",
        epoch_id=row.epoch_id,
        seq=row.seq,
        device_id=row.device_id,
        device=row.name,
        credential_id=row.credential_id if row.value is not None else None,
        card=last_of(row.value),
        card_id=row.card_id,
        outcome=Outcome(row.outcome),
        at_ms=row.at_ms,
        earliest_ms=row.earliest_ms,
        latest_ms=row.latest_ms,
        received_ms=row.received_ms,
        venue_id=row.venue_id,
        venue=None
        if row.venue_id is None
        else Named(str(row.venue_public_id), row.venue_code, row.venue_name),
        member_id=row.member_id,
        is_act=row.kind == KIND_ACTION,
    )


def _is_key(epoch_id: int, seq: int) -> ColumnElement[bool]:
    return and_(s.readings.c.epoch_id == epoch_id, s.readings.c.seq == seq)


def _group(conn: Connection, row: Row[Any]) -> Line:
    """All taps of one unknown card at one place, named by the first."""
    r, e = s.readings.c, s.entries.c
    key = conn.execute(
        select(r.epoch_id, r.seq)
        .join(s.entries, and_(e.epoch_id == r.epoch_id, e.seq == r.seq))
        .join(s.epochs, s.epochs.c.id == r.epoch_id)
        .where(
            r.venue_id.is_(None) if row.venue_id is None else r.venue_id == row.venue_id,
            r.at_ms == row.first_ms,
            r.outcome == Outcome.UNMATCHED.value,
            e.credential_id.is_not_distinct_from(row.credential_id),
            true() if row.device_id is None else s.epochs.c.device_id == row.device_id,
        )
        .order_by(r.epoch_id, r.seq)
        .limit(1)
    ).one()
    first = _one(conn, _is_key(key.epoch_id, key.seq))
    return Line(
        first.name,
        first.outcome,
        first.venue,
        first.device,
        first.card,
        row.taps,
        row.first_ms,
        row.last_ms,
        None,
        None,
        None,
    )


def _line(conn: Connection, scope: int, tap: FoundTap, now_ms: int) -> Line:
    member_id, at_ms = tap.member_id, tap.at_ms
    if member_id is None and tap.outcome is Outcome.UNDATED and tap.card_id is not None:
        member_id = last_holder(conn, tap.card_id, now_ms)
    return Line(
        tap.name,
        tap.outcome,
        tap.venue,
        tap.device,
        tap.card,
        1,
        tap.at_ms,
        tap.at_ms,
        tap.earliest_ms if tap.at_ms is None else None,
        tap.latest_ms if tap.at_ms is None else None,
        None
        if member_id is None
        else person(conn, scope, member_id, now_ms if at_ms is None else at_ms),
    )


def first_unmatched(conn: Connection, scope: int, credential_id: int, from_ms: int) -> int | None:
    """When an unknown card was first tapped since then, as far as the scope sees it."""
    r, e = s.readings.c, s.entries.c
    first_ms: int | None = conn.scalar(
        select(func.min(r.at_ms))
        .select_from(s.readings)
        .join(s.entries, and_(e.epoch_id == r.epoch_id, e.seq == r.seq))
        .join(s.epochs, s.epochs.c.id == r.epoch_id)
        .where(
            e.credential_id == credential_id,
            r.outcome == Outcome.UNMATCHED.value,
            r.at_ms >= from_ms,
            _sees(conn, scope),
        )
    )
    return first_ms


def last_of(number: str | None) -> str:
    """All that is told of a card's number."""
    return "" if number is None else number[-_LAST:]


def person(conn: Connection, scope: Scope, member_id: int, at_ms: int) -> Person:
    """A member as the scope may name them at a time; of others the branch alone."""
    m, o = s.memberships.c, s.organisations.c
    branch = conn.scalar(
        select(o.name)
        .join(s.memberships, m.organisation_id == o.id)
        .where(
            m.member_id == member_id,
            m.body == Body.MEMBER.value,
            o.kind != OrgKind.GROUP.value,
            holds(s.memberships, at_ms),
        )
        .order_by((o.kind == OrgKind.BRANCH.value).desc(), m.valid_from_ms.desc(), m.id.desc())
        .limit(1)
    )
    row = conn.execute(
        select(s.members).where(s.members.c.id == member_id, belongs(scope, at_ms))
    ).one_or_none()
    if row is None:
        return Person(None, None, None, branch)
    return Person(str(row.public_id), row.code, row.name, branch)


def last_holder(conn: Connection, card_id: int, now_ms: int) -> int | None:
    """The member who holds a card, or held it last."""
    b = s.bindings.c
    found: int | None = conn.scalar(
        select(b.member_id).where(b.card_id == card_id).order_by(*last_begun(now_ms)).limit(1)
    )
    return found


# --- Which meeting ----------------------------------------------------------------------------


def choices(conn: Connection, scope: int, tap: FoundTap, zone: ZoneInfo) -> list[Choice]:
    """The meetings of the scope that a tap may be assigned to, by start."""
    if tap.is_act:
        return []
    m, d = s.meetings.c, s.declarations.c
    assigned = (
        _assignments()
        .where(d.epoch_id == tap.epoch_id, d.seq == tap.seq, d.meeting_id == m.id)
        .correlate(s.meetings)
        .exists()
    )
    return [
        Choice(
            str(row.public_id), row.title, row.starts_ms, row.ends_ms, row.venue, row.is_assigned
        )
        for row in conn.execute(
            select(
                m.public_id,
                m.title,
                m.starts_ms,
                m.ends_ms,
                s.venues.c.name.label("venue"),
                assigned.label("is_assigned"),
            )
            .join(s.venues, s.venues.c.id == m.venue_id)
            .where(within(scope, m.organisation_id), ~m.cancelled, *_fits(tap, zone))
            .order_by(m.starts_ms, m.id)
            .limit(MAX_SUGGESTED)
        )
    ]


def assign(
    conn: Connection,
    caller: Caller,
    name: str,
    meeting: uuid.UUID,
    now_ms: int,
    zone: ZoneInfo,
) -> None:
    """Say that a tap belongs to a meeting. Raises TapError, NotFoundError.

    To one at the tap's venue on the same day; a tap without a time, to one at whose time the device
    stood there. Only a card that is somebody's then.
    """
    lock(conn)
    tap = find_tap(conn, caller.organisation_id, name)
    found = find_meeting(conn, caller.organisation_id, meeting, to_change=True)
    if tap.is_act:
        raise TapError(
            "tap", Words("这次刷卡是在设备上办事（如会议开始、现场证明），不是签到，不能归入会议。")
        )
    if tap.outcome not in {Outcome.UNPLACED, Outcome.UNDATED}:
        raise TapError(
            "tap",
            Words("还不知道这是谁的卡，请先登记持卡人。")
            if tap.outcome is Outcome.UNMATCHED
            else Words("这次刷卡已经算作会议的签到，不用再归会。"),
        )
    standing = _assignment(conn, tap)
    if standing is not None:
        raise TapError("tap", Words("这次刷卡已归入一场会议，请先撤回那次归会。"))
    if found.cancelled:
        raise TapError("meeting", Words("这场会议已取消。"))
    m = s.meetings.c
    if conn.scalar(select(m.id).where(m.id == found.id, *_fits(tap, zone))) is None:
        raise TapError(
            "meeting",
            Words("刷卡的设备在这场会议期间不在会场，或者刷卡不可能是那个时候。")
            if tap.outcome is Outcome.UNDATED
            else Words("这次刷卡和会议不在同一个地点、同一天。"),
        )
    if tap.outcome is Outcome.UNDATED and (
        tap.card_id is None or holder_at(conn, tap.card_id, found.starts_ms) is None
    ):
        raise TapError("tap", Words("会议那天这张卡没有登记持卡人，请先登记是谁的卡。"))
    _declare(conn, caller, found.id, DeclarationKind.TAP_ASSIGNED, now_ms, tap=tap)
    audit.record(
        conn,
        caller,
        "tap.assign",
        found.organisation_id,
        "meeting",
        found.public_id,
        now_ms,
        tap=tap.name,
    )
    rederive_meetings(conn, [found.id])


def withdraw(conn: Connection, caller: Caller, name: str, now_ms: int) -> None:
    """Take back that a tap was assigned. Raises TapError, NotFoundError."""
    lock(conn)
    tap = find_tap(conn, caller.organisation_id, name)
    standing = _assignment(conn, tap)
    if standing is None:
        raise TapError("tap", Words("这次刷卡没有归入会议。"))
    if not is_within(conn, caller.organisation_id, standing.organisation_id):
        raise NotFoundError
    _declare(
        conn,
        caller,
        standing.meeting_id,
        DeclarationKind.WITHDRAWN,
        now_ms,
        about_id=standing.id,
    )
    public_id = conn.scalar(
        select(s.meetings.c.public_id).where(s.meetings.c.id == standing.meeting_id)
    )
    audit.record(
        conn,
        caller,
        "tap.withdraw",
        standing.organisation_id,
        "meeting",
        public_id,
        now_ms,
        tap=tap.name,
    )
    rederive_meetings(conn, [standing.meeting_id])


def _fits(tap: FoundTap, zone: ZoneInfo) -> list[ColumnElement[bool]]:
    """The conditions under which a meeting may be the one where the tap was."""
    m, p = s.meetings.c, s.placements.c
    if tap.at_ms is None:
        bounds = []
        if tap.earliest_ms is not None:
            bounds.append(m.ends_ms >= tap.earliest_ms)
        if tap.latest_ms is not None:
            bounds.append(m.opens_ms <= tap.latest_ms)
        return [
            *bounds,
            exists()
            .where(
                p.device_id == tap.device_id,
                p.venue_id == m.venue_id,
                p.valid_from_ms <= m.ends_ms,
                or_(p.valid_to_ms.is_(None), p.valid_to_ms > m.opens_ms),
            )
            .correlate(s.meetings),
        ]
    day = datetime.fromtimestamp(tap.at_ms / 1000, zone).date()
    from_ms, to_ms = span_ms(day, day, zone)
    when = or_(
        and_(m.starts_ms >= from_ms, m.starts_ms < to_ms),
        and_(m.opens_ms <= tap.at_ms, m.ends_ms >= tap.at_ms),
    )
    return [when] if tap.venue_id is None else [when, m.venue_id == tap.venue_id]


def _assignment(conn: Connection, tap: FoundTap) -> Row[Any] | None:
    d = s.declarations.c
    return conn.execute(
        _assignments()
        .where(d.epoch_id == tap.epoch_id, d.seq == tap.seq)
        .order_by(d.made_ms.desc(), d.id.desc())
        .limit(1)
    ).one_or_none()


def _declare(
    conn: Connection,
    caller: Caller,
    meeting_id: int,
    kind: DeclarationKind,
    now_ms: int,
    *,
    tap: FoundTap | None = None,
    about_id: int | None = None,
) -> None:
    conn.execute(
        insert(s.declarations).values(
            public_id=s.new_public_id(),
            meeting_id=meeting_id,
            kind=kind.value,
            about_id=about_id,
            epoch_id=None if tap is None else tap.epoch_id,
            seq=None if tap is None else tap.seq,
            author=caller.name,
            account_id=caller.account_id,
            token_id=caller.token_id,
            made_ms=now_ms,
        )
    )


def holder_at(conn: Connection, card_id: int, at_ms: int) -> int | None:
    """The member who holds a card then."""
    found: int | None = conn.scalar(
        select(s.bindings.c.member_id).where(
            s.bindings.c.card_id == card_id, holds(s.bindings, at_ms)
        )
    )
    return found
