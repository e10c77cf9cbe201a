"""The two logs as somebody may read them: what was done, and who looked at what.

Promises: only what concerns the scope is found: an act of an organisation in it (of the hub as a
whole: for the whole district alone); a look at a meeting that one of its organisations takes part
in, at somebody who belongs to it now, or at an organisation in it. The latest come first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, and_, func, or_, select

from hub.store import schema as s
from hub.store.scope import belongs, takes_part, within

_O: Final = s.organisations


@dataclass(frozen=True, slots=True)
class Asked:
    """Which entries."""

    from_ms: int
    to_ms: int
    """The entries of `[from_ms, to_ms)`."""
    actor: str = ""
    """Part of the name of whoever did it."""
    area: str = ""
    """How it begins, such as meeting."""
    account_id: int | None = None


def count_acts(conn: Connection, scope: int, asked: Asked) -> int:
    """How many acts there are."""
    return _count(conn, s.audit, _acts(scope, asked))


def acts(conn: Connection, scope: int, asked: Asked, limit: int, offset: int) -> Sequence[Row[Any]]:
    """Acts, with `organisation` and `organisation_public_id` (None: the hub as a whole).

    Also with what it was done to, as it is called now: `account` (and whether it `is_member`),
    `meeting`, `device`, `venue`, or `member`: that one, or who held the card then.
    """
    a, b = s.audit.c, s.bindings.c
    account = s.accounts.alias("about_account")
    holder = s.members.alias("holder")
    held = (
        select(holder.c.name)
        .join(s.bindings, b.member_id == holder.c.id)
        .join(s.cards, s.cards.c.id == b.card_id)
        .where(
            a.object == "card",
            s.cards.c.public_id == a.object_id,
            b.valid_from_ms <= a.at_ms,
        )
        .order_by(b.valid_from_ms.desc(), b.id.desc())
        .limit(1)
        .correlate(s.audit)
        .scalar_subquery()
    )
    statement: Select[Any] = (
        select(
            s.audit,
            _O.c.name.label("organisation"),
            _O.c.public_id.label("organisation_public_id"),
            account.c.name.label("account"),
            account.c.member_id.is_not(None).label("is_member"),
            s.meetings.c.title.label("meeting"),
            s.devices.c.name.label("device"),
            s.venues.c.name.label("venue"),
            func.coalesce(s.members.c.name, held).label("member"),
            *_who(),
        )
        .outerjoin(_O, _O.c.id == a.organisation_id)
        .outerjoin(account, and_(a.object == "account", account.c.public_id == a.object_id))
        .outerjoin(s.meetings, and_(a.object == "meeting", s.meetings.c.public_id == a.object_id))
        .outerjoin(s.devices, and_(a.object == "device", s.devices.c.public_id == a.object_id))
        .outerjoin(s.venues, and_(a.object == "venue", s.venues.c.public_id == a.object_id))
        .outerjoin(s.members, and_(a.object == "member", s.members.c.public_id == a.object_id))
        .outerjoin(s.accounts, s.accounts.c.id == a.account_id)
        .outerjoin(s.tokens, s.tokens.c.id == a.token_id)
        .where(_acts(scope, asked))
        .order_by(a.at_ms.desc(), a.id.desc())
        .limit(limit)
        .offset(offset)
    )
    return conn.execute(statement).all()


def count_looks(conn: Connection, scope: int, asked: Asked, now_ms: int) -> int:
    """How many looks there are."""
    return _count(conn, s.accesses, _looks(scope, asked, now_ms))


def looks(
    conn: Connection, scope: int, asked: Asked, now_ms: int, limit: int, offset: int
) -> Sequence[Row[Any]]:
    """Looks, with names and public ids of the meeting, member and organisation shown."""
    x, m, p = s.accesses.c, s.meetings.c, s.members.c
    statement: Select[Any] = (
        select(
            s.accesses,
            m.title.label("meeting"),
            m.public_id.label("meeting_public_id"),
            p.name.label("member"),
            p.public_id.label("member_public_id"),
            _O.c.name.label("organisation"),
            _O.c.public_id.label("organisation_public_id"),
            *_who(),
        )
        .outerjoin(s.meetings, m.id == x.meeting_id)
        .outerjoin(s.members, p.id == x.member_id)
        .outerjoin(_O, _O.c.id == x.organisation_id)
        .outerjoin(s.accounts, s.accounts.c.id == x.account_id)
        .outerjoin(s.tokens, s.tokens.c.id == x.token_id)
        .where(_looks(scope, asked, now_ms))
        .order_by(x.at_ms.desc(), x.id.desc())
        .limit(limit)
        .offset(offset)
    )
    return conn.execute(statement).all()


def _who() -> tuple[ColumnElement[Any], ...]:
    return (
        s.accounts.c.public_id.label("account_public_id"),
        s.tokens.c.public_id.label("token_public_id"),
        func.coalesce(s.accounts.c.role, s.tokens.c.role).label("role"),
    )


def _count(conn: Connection, table: Table, condition: ColumnElement[bool]) -> int:
    return int(conn.scalar(select(func.count()).select_from(table).where(condition)) or 0)


def _acts(scope: int, asked: Asked) -> ColumnElement[bool]:
    a = s.audit.c
    is_whole = select(_O.c.parent_id).where(_O.c.id == scope).scalar_subquery().is_(None)
    return and_(
        _common(s.audit, asked),
        or_(within(scope, a.organisation_id), and_(a.organisation_id.is_(None), is_whole)),
    )


def _looks(scope: int, asked: Asked, now_ms: int) -> ColumnElement[bool]:
    x = s.accesses.c
    return and_(
        _common(s.accesses, asked),
        or_(
            within(scope, x.organisation_id),
            x.meeting_id.in_(select(s.meetings.c.id).where(takes_part(scope))),
            x.member_id.in_(select(s.members.c.id).where(belongs(scope, now_ms))),
        ),
    )


def _common(table: Table, asked: Asked) -> ColumnElement[bool]:
    c = table.c
    conditions = [c.at_ms >= asked.from_ms, c.at_ms < asked.to_ms]
    if asked.actor:
        conditions.append(c.actor.contains(asked.actor, autoescape=True))
    if asked.area:
        conditions.append(c.what.startswith(asked.area, autoescape=True))
    if asked.account_id is not None:
        conditions.append(c.account_id == asked.account_id)
    return and_(*conditions)
