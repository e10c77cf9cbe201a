"""Whom a meeting expects, in SQL, and the cards that they hold.

Reads only. The rule itself is `hub.domain.attendance.expected`.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Connection, FromClause, and_, case, or_, select

from hub.domain.attendance import expected_body
from hub.domain.terms import MeetingKind
from hub.store import schema as s
from hub.store.scope import taking_part


def holds(table: FromClause, at_ms: ColumnElement[int] | int) -> ColumnElement[bool]:
    """The condition that a row of a dated table is valid at a moment."""
    return and_(
        table.c.valid_from_ms <= at_ms,
        or_(table.c.valid_to_ms.is_(None), table.c.valid_to_ms > at_ms),
    )


TAKES_PART: Final = s.memberships.c.organisation_id.in_(
    select(taking_part.c.organisation_id)
    .where(taking_part.c.meeting_id == s.meetings.c.id)
    .correlate(s.meetings)
    .scalar_subquery()
)
"""Joins `memberships` to `meetings`: an organisation that takes part in the meeting."""

_HOLDS_ITS_PLACE: Final = and_(
    s.memberships.c.body
    == case(
        {kind.value: expected_body(kind).value for kind in MeetingKind}, value=s.meetings.c.kind
    ),
    holds(s.memberships, s.meetings.c.starts_ms),
)
IS_EXPECTED: Final = and_(TAKES_PART, _HOLDS_ITS_PLACE)
"""Joins `memberships` to `meetings`: whoever is expected there."""
IS_EXPECTED_OF: Final = and_(
    s.memberships.c.organisation_id == taking_part.c.organisation_id, _HOLDS_ITS_PLACE
)
"""Joins `memberships` to `meetings` and their `taking_part`: the same, found by index.

For questions about many meetings; whoever belongs to several of the organisations comes up twice.
"""


@dataclass(frozen=True, slots=True)
class AtTheDoor:
    """A meeting at a device's venue, and the cards that it expects, as (scheme, issuer, value)."""

    id: int
    kind: MeetingKind
    organisation: str
    """Its name."""
    opens_ms: int
    starts_ms: int
    ends_ms: int
    cards: tuple[tuple[str, str, str], ...]


def at_the_door(conn: Connection, device_id: int, now_ms: int, until_ms: int) -> list[AtTheDoor]:
    """The meetings at a device's venue that end after `now_ms` and open before `until_ms`.

    By the opening of check-in. No scope: this is for the device, sealed.
    """
    p, b, c, m, o = (
        s.placements.c,
        s.bindings.c,
        s.credentials.c,
        s.meetings.c,
        s.organisations.c,
    )
    rows = conn.execute(
        select(m.id, m.kind, o.name, m.opens_ms, m.starts_ms, m.ends_ms, m.code)
        .distinct()
        .select_from(s.meetings)
        .join(s.placements, and_(p.venue_id == m.venue_id, holds(s.placements, now_ms)))
        .join(s.organisations, o.id == m.organisation_id)
        .where(
            p.device_id == device_id,
            ~m.cancelled,
            m.ends_ms >= now_ms,
            m.opens_ms <= until_ms,
        )
        .order_by(m.opens_ms, m.ends_ms, m.code)
    ).all()
    if not rows:
        return []
    cards: dict[int, list[tuple[str, str, str]]] = defaultdict(list)
    for row in conn.execute(
        select(m.id, c.scheme, c.issuer, c.value)
        .distinct()
        .select_from(s.meetings)
        .join(s.memberships, IS_EXPECTED)
        .join(
            s.bindings,
            and_(b.member_id == s.memberships.c.member_id, holds(s.bindings, m.starts_ms)),
        )
        .join(s.credentials, c.card_id == b.card_id)
        .where(m.id.in_([row.id for row in rows]), c.value.is_not(None))
        .order_by(c.scheme, c.issuer, c.value)
    ):
        cards[row.id].append((row.scheme, row.issuer, row.value))
    return [
        AtTheDoor(
            row.id,
            MeetingKind(row.kind),
            row.name,
            row.opens_ms,
            row.starts_ms,
            row.ends_ms,
            tuple(cards[row.id]),
        )
        for row in rows
    ]
