"""Whom a meeting expects, in SQL, and the cards that they hold.

Reads only. The rule itself is `hub.domain.attendance.expected`.
"""

from collections import defaultdict
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


def expected_cards(
    conn: Connection, device_id: int, now_ms: int, until_ms: int
) -> dict[tuple[int, int], list[tuple[str, str, str]]]:
    """The cards that meetings at a device's venue expect, by check-in window (opens, ends).

    Of the meetings that end after `now_ms` and open before `until_ms`; a card is (scheme, issuer,
    value). No scope: this is for the device, sealed.
    """
    p, b, c, meetings = s.placements.c, s.bindings.c, s.credentials.c, s.meetings.c
    found: dict[tuple[int, int], list[tuple[str, str, str]]] = defaultdict(list)
    for row in conn.execute(
        select(meetings.opens_ms, meetings.ends_ms, c.scheme, c.issuer, c.value)
        .distinct()
        .select_from(s.meetings)
        .join(s.placements, and_(p.venue_id == meetings.venue_id, holds(s.placements, now_ms)))
        .join(s.memberships, IS_EXPECTED)
        .join(
            s.bindings,
            and_(
                b.member_id == s.memberships.c.member_id,
                holds(s.bindings, meetings.starts_ms),
            ),
        )
        .join(s.credentials, c.card_id == b.card_id)
        .where(
            p.device_id == device_id,
            ~meetings.cancelled,
            meetings.ends_ms >= now_ms,
            meetings.opens_ms <= until_ms,
            c.value.is_not(None),
        )
        .order_by(meetings.opens_ms, meetings.ends_ms, c.scheme, c.issuer, c.value)
    ):
        found[row.opens_ms, row.ends_ms].append((row.scheme, row.issuer, row.value))
    return dict(found)
