"""Venues: where meetings are, and where devices stand.

A venue is never deleted: meetings and placements of the past name it.
"""

import re
import uuid
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, insert, select, update

from hub import audit
from hub.auth.callers import Caller
from hub.derive import lock
from hub.domain.words import Words
from hub.store import schema as s
from hub.store.expected import holds
from hub.store.queries import Named
from hub.store.scope import Scope, find_organisation, find_venue, within

MAX_CODE_CHARS: Final = 64
MAX_NAME_CHARS: Final = 200


class VenueError(ValueError):
    """A venue cannot be so; the message says why, and `field` names the input."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Venue:
    """A venue and how many devices stand there."""

    public_id: str
    code: str
    name: str
    organisation: Named
    devices: int


def venues(conn: Connection, scope: Scope, now_ms: int) -> list[Venue]:
    """The venues of the scope, by organisation and name."""
    v, o, p = s.venues.c, s.organisations.c, s.placements.c
    stand = (
        select(func.count())
        .select_from(s.placements)
        .where(p.venue_id == v.id, holds(s.placements, now_ms))
        .correlate(s.venues)
        .scalar_subquery()
    )
    return [
        Venue(
            str(row.public_id),
            row.code,
            row.name,
            Named(str(row.of_public_id), row.of_code, row.of_name),
            row.devices,
        )
        for row in conn.execute(
            select(
                v.public_id,
                v.code,
                v.name,
                o.public_id.label("of_public_id"),
                o.code.label("of_code"),
                o.name.label("of_name"),
                stand.label("devices"),
            )
            .join(s.organisations, o.id == v.organisation_id)
            .where(within(scope, v.organisation_id))
            .order_by(o.code, v.name, v.code)
        )
    ]


def organisations(conn: Connection, scope: Scope) -> list[Named]:
    """The organisations of the scope, by code: whose a venue may be."""
    o = s.organisations.c
    return [
        Named(str(row.public_id), row.code, row.name)
        for row in conn.execute(
            select(o.public_id, o.code, o.name).where(within(scope, o.id)).order_by(o.code)
        )
    ]


def make_venue(
    conn: Connection, caller: Caller, code: str, name: str, organisation: uuid.UUID, now_ms: int
) -> uuid.UUID:
    """A new venue of an organisation of the caller's; gives its public id.

    Raises VenueError, NotFoundError.
    """
    lock(conn)
    code, name = code.strip(), _name(name)
    if not code or len(code) > MAX_CODE_CHARS or re.search(r"\s", code) or not code.isprintable():
        raise VenueError(
            "code", Words("会场编号要有1到{n}个字符，中间不能有空格。", n=MAX_CODE_CHARS)
        )
    owner = find_organisation(conn, caller.organisation_id, organisation)
    if conn.scalar(select(s.venues.c.id).where(s.venues.c.code == code)) is not None:
        raise VenueError("code", Words("这个编号已经有另一个会场用了。"))
    public_id = s.new_public_id()
    conn.execute(
        insert(s.venues).values(public_id=public_id, code=code, name=name, organisation_id=owner.id)
    )
    audit.record(
        conn, caller, "venue.make", owner.id, "venue", public_id, now_ms, code=code, name=name
    )
    return public_id


def change_venue(
    conn: Connection,
    caller: Caller,
    venue: uuid.UUID,
    name: str,
    organisation: uuid.UUID,
    now_ms: int,
) -> None:
    """Another name, or another of the caller's organisations. Raises VenueError, NotFoundError."""
    found = find_venue(conn, caller.organisation_id, venue)
    owner = find_organisation(conn, caller.organisation_id, organisation)
    name = _name(name)
    conn.execute(
        update(s.venues)
        .where(s.venues.c.id == found.id)
        .values(name=name, organisation_id=owner.id)
    )
    audit.record(
        conn,
        caller,
        "venue.change",
        owner.id,
        "venue",
        found.public_id,
        now_ms,
        name=name,
        organisation=owner.code,
    )


def _name(name: str) -> str:
    name = name.strip()
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise VenueError("name", Words("会场名称要有1到{n}个可见的字符。", n=MAX_NAME_CHARS))
    return name
