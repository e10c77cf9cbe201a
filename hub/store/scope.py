"""Who may see what: the one place where a sub-tree becomes a condition.

Promises: what lies outside of the scope is not found, exactly as what does not exist. A meeting is
seen by every organisation that takes part in it, and may be changed by its own alone
(`find_meeting(…, to_change=True)`). One that was asked to take part and has not agreed sees nothing
of it here, and nobody sees anything of it there: see `hub.joining`.
"""

import uuid
from enum import Enum
from typing import Any, Final, Literal

from sqlalchemy import CTE, ColumnElement, Connection, Row, Select, literal, or_, select

from hub.store import schema as s


class Everything(Enum):
    """The scope of whoever works on the hub's own machine."""

    EVERYTHING = "EVERYTHING"


EVERYTHING: Final = Everything.EVERYTHING
Scope = int | Literal[Everything.EVERYTHING]
"""An organisation's id, for it and all below it; or EVERYTHING."""


_MO: Final = s.meeting_organisations.c
taking_part: Final = (
    select(_MO.meeting_id, _MO.organisation_id)
    .where(_MO.agreed_ms.is_not(None), _MO.left_ms.is_(None))
    .subquery("taking_part")
)
"""Which organisations take part in which meetings now: (meeting_id, organisation_id)."""


class NotFoundError(LookupError):
    """There is no such thing, or not for whoever asks."""


def subtree(organisation_id: int) -> CTE:
    """A recursive CTE with one column `id`: the organisation and everything below it."""
    below = select(literal(organisation_id, s.organisations.c.id.type).label("id")).cte(
        recursive=True
    )
    child = s.organisations.alias("child")
    # UNION, not UNION ALL: it ends even if a circle was ever written.
    return below.union(select(child.c.id).join(below, child.c.parent_id == below.c.id))


def within(scope: Scope, organisation_id: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that an organisation lies in the scope."""
    if isinstance(scope, Everything):
        return literal(value=True)
    return organisation_id.in_(select(subtree(scope).c.id))


def is_within(conn: Connection, scope: Scope, organisation_id: int) -> bool:
    """Whether this organisation lies in the scope."""
    if isinstance(scope, Everything):
        return True
    return (
        conn.scalar(
            select(literal(1)).where(literal(organisation_id).in_(select(subtree(scope).c.id)))
        )
        is not None
    )


def takes_part(scope: Scope) -> ColumnElement[bool]:
    """The condition that one of a meeting's organisations lies in the scope."""
    mo = taking_part.c
    if isinstance(scope, Everything):
        return literal(value=True)
    return s.meetings.c.id.in_(
        select(mo.meeting_id).where(mo.organisation_id.in_(select(subtree(scope).c.id)))
    )


def belongs(scope: Scope, from_ms: int, to_ms: int | None = None) -> ColumnElement[bool]:
    """The condition that a member had a place in the scope in `[from_ms, to_ms)`.

    `to_ms` None: at `from_ms`.
    """
    m = s.memberships.c
    if isinstance(scope, Everything):
        return literal(value=True)
    return s.members.c.id.in_(
        select(m.member_id).where(
            within(scope, m.organisation_id),
            m.valid_from_ms < (from_ms + 1 if to_ms is None else to_ms),
            or_(m.valid_to_ms.is_(None), m.valid_to_ms > from_ms),
        )
    )


def find_organisation(conn: Connection, scope: Scope, public_id: uuid.UUID) -> Row[Any]:
    """The row of an organisation. Raises NotFoundError."""
    o = s.organisations.c
    return _one(conn, select(s.organisations).where(o.public_id == public_id, within(scope, o.id)))


def find_meeting(
    conn: Connection, scope: Scope, public_id: uuid.UUID, *, to_change: bool = False
) -> Row[Any]:
    """The row of a meeting; `to_change`: only of the scope's own. Raises NotFoundError."""
    m = s.meetings.c
    may = within(scope, m.organisation_id) if to_change else takes_part(scope)
    return _one(conn, select(s.meetings).where(m.public_id == public_id, may))


def find_member(conn: Connection, scope: Scope, public_id: uuid.UUID, at_ms: int) -> Row[Any]:
    """The row of a member who belongs to the scope at `at_ms`. Raises NotFoundError."""
    return _one(
        conn,
        select(s.members).where(s.members.c.public_id == public_id, belongs(scope, at_ms)),
    )


def find_venue(conn: Connection, scope: Scope, public_id: uuid.UUID) -> Row[Any]:
    """The row of a venue of an organisation in the scope. Raises NotFoundError."""
    v = s.venues.c
    return _one(
        conn, select(s.venues).where(v.public_id == public_id, within(scope, v.organisation_id))
    )


def sees_device(scope: Scope) -> ColumnElement[bool]:
    """The condition that a device stands, or stood last, at a venue of the scope.

    One that was never placed is seen by the whole district alone.
    """
    if isinstance(scope, Everything):
        return literal(value=True)
    p, v = s.placements.c, s.venues.c
    last = (
        select(v.organisation_id)
        .join(s.placements, p.venue_id == v.id)
        .where(p.device_id == s.devices.c.id)
        .order_by(p.valid_from_ms.desc())
        .limit(1)
        .correlate(s.devices)
        .scalar_subquery()
    )
    o = s.organisations.c
    is_root = select(o.parent_id).where(o.id == scope).scalar_subquery().is_(None)
    return or_(within(scope, last), last.is_(None) & is_root)


def find_device(conn: Connection, scope: Scope, public_id: uuid.UUID) -> Row[Any]:
    """The row of a device of the scope, see `sees_device`. Raises NotFoundError."""
    return _one(
        conn, select(s.devices).where(s.devices.c.public_id == public_id, sees_device(scope))
    )


def last_begun(at_ms: int) -> tuple[ColumnElement[Any], ...]:
    """The order of a card's bindings: whoever holds it at `at_ms` or held it last, comes first.

    Who is to have it later counts where nobody has had it yet.
    """
    b = s.bindings.c
    return (b.valid_from_ms <= at_ms).desc(), b.valid_from_ms.desc()


def find_card(conn: Connection, scope: Scope, public_id: uuid.UUID, at_ms: int) -> Row[Any]:
    """The row of a card whose last holder belongs to the scope at `at_ms`. Raises NotFoundError."""
    b = s.bindings.c
    last = (
        select(b.member_id)
        .where(b.card_id == s.cards.c.id)
        .order_by(*last_begun(at_ms))
        .limit(1)
        .correlate(s.cards)
        .scalar_subquery()
    )
    return _one(
        conn,
        select(s.cards)
        .select_from(s.cards.join(s.members, s.members.c.id == last))
        .where(s.cards.c.public_id == public_id, belongs(scope, at_ms)),
    )


def _one(conn: Connection, statement: Select[Any]) -> Row[Any]:
    row = conn.execute(statement).one_or_none()
    if row is None:
        raise NotFoundError
    return row
