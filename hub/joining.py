"""Organisations that are asked to take part in another's meeting, and say yes or no.

Promises: nobody is made to take part by somebody who does not speak for them. Until somebody with
`Right.MEETINGS` over the organisation agrees, its members are not expected, the host is shown none
of them, and it is shown no more of the meeting than its title, host, time and venue. Whoever asks
and speaks for it as well has agreed for it (`hub.meetings.set_partners`).

An answer is given once; an organisation that was taken out, or said no, may be asked again.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select, update

from hub import audit
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.derive import lock, rederive_windows
from hub.domain.terms import MeetingKind
from hub.store import schema as s
from hub.store.queries import Named
from hub.store.scope import NotFoundError, Scope, within

_MO = s.meeting_organisations.c
_WAITS = _MO.agreed_ms.is_(None) & _MO.left_ms.is_(None)


@dataclass(frozen=True, slots=True)
class Asked:
    """An organisation that is asked to take part in a meeting, and has not answered."""

    meeting_public_id: str
    title: str
    kind: MeetingKind
    host: str
    """Names, as those of the venue."""
    venue: str
    starts_ms: int
    ends_ms: int
    organisation: Named
    """Which is asked."""


@dataclass(frozen=True, slots=True)
class Partner:
    """An organisation, other than the host, that takes part or is asked to."""

    organisation: Named
    has_agreed: bool


def partners_of(conn: Connection, meeting_id: int) -> list[Partner]:
    """Those that take part in a meeting beside its host, and those that are asked to; by code."""
    o = s.organisations.c
    return [
        Partner(Named(str(row.public_id), row.code, row.name), row.agreed_ms is not None)
        for row in conn.execute(
            select(o.public_id, o.code, o.name, _MO.agreed_ms)
            .select_from(s.meeting_organisations)
            .join(s.organisations, o.id == _MO.organisation_id)
            .join(s.meetings, s.meetings.c.id == _MO.meeting_id)
            .where(
                _MO.meeting_id == meeting_id,
                _MO.left_ms.is_(None),
                o.id != s.meetings.c.organisation_id,
            )
            .order_by(o.code)
        )
    ]


def count_asked(conn: Connection, scope: Scope, now_ms: int) -> int:
    """How many answers the scope owes."""
    return int(
        conn.scalar(
            select(func.count())
            .select_from(s.meeting_organisations)
            .join(s.meetings, s.meetings.c.id == _MO.meeting_id)
            .where(_is_asked(scope, now_ms))
        )
        or 0
    )


def asked(conn: Connection, scope: Scope, now_ms: int, limit: int, offset: int = 0) -> list[Asked]:
    """What the scope is asked to take part in and has not answered, by start."""
    m, host, asks = s.meetings.c, s.organisations.alias("host"), s.organisations.alias("asks")
    statement: Select[Any] = (
        select(
            m.public_id,
            m.title,
            m.kind,
            m.starts_ms,
            m.ends_ms,
            host.c.name.label("host"),
            s.venues.c.name.label("venue"),
            asks.c.public_id.label("asked_public_id"),
            asks.c.code.label("asked_code"),
            asks.c.name.label("asked_name"),
        )
        .select_from(s.meeting_organisations)
        .join(s.meetings, m.id == _MO.meeting_id)
        .join(host, host.c.id == m.organisation_id)
        .join(s.venues, s.venues.c.id == m.venue_id)
        .join(asks, asks.c.id == _MO.organisation_id)
        .where(_is_asked(scope, now_ms))
        .order_by(m.starts_ms, m.id, asks.c.code)
        .limit(limit)
        .offset(offset)
    )
    return [
        Asked(
            str(row.public_id),
            row.title,
            MeetingKind(row.kind),
            row.host,
            row.venue,
            row.starts_ms,
            row.ends_ms,
            Named(str(row.asked_public_id), row.asked_code, row.asked_name),
        )
        for row in conn.execute(statement)
    ]


def answer(
    conn: Connection,
    caller: Caller,
    meeting: UUID,
    organisation: UUID,
    now_ms: int,
    *,
    agreed: bool,
) -> Row[Any]:
    """Say yes or no for an organisation of the caller's sub-tree; gives the meeting's row.

    `conn` is in a write transaction. Raises NotFoundError where it is not asked, or not any more.
    """
    if not caller.may(Right.MEETINGS):
        raise NotFoundError
    lock(conn)
    m, o = s.meetings.c, s.organisations.c
    waiting = conn.execute(
        select(_MO.id, _MO.meeting_id, _MO.organisation_id)
        .join(s.meetings, m.id == _MO.meeting_id)
        .join(s.organisations, o.id == _MO.organisation_id)
        .where(
            m.public_id == meeting,
            o.public_id == organisation,
            _WAITS,
            ~m.cancelled,
            within(caller.organisation_id, o.id),
        )
    ).one_or_none()
    if waiting is None:
        raise NotFoundError
    conn.execute(
        update(s.meeting_organisations)
        .where(_MO.id == waiting.id)
        .values({_MO.agreed_ms if agreed else _MO.left_ms: now_ms})
    )
    what = "meeting.agree" if agreed else "meeting.decline"
    audit.record(
        conn,
        caller,
        what,
        waiting.organisation_id,
        "meeting",
        meeting,
        now_ms,
        organisation=organisation,
    )
    row = conn.execute(select(s.meetings).where(m.id == waiting.meeting_id)).one()
    if agreed:
        rederive_windows(conn, [(row.venue_id, row.opens_ms, row.ends_ms)], [row.id])
    return row


def _is_asked(scope: Scope, now_ms: int) -> ColumnElement[bool]:
    # Nobody takes part any more in what is long over; a late yes helps for some weeks.
    m = s.meetings.c
    return (
        _WAITS & within(scope, _MO.organisation_id) & ~m.cancelled & (m.ends_ms > now_ms - _KEPT_MS)
    )


_KEPT_MS = 60 * 24 * 3600 * 1000
