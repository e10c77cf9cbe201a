"""What was done and who looked: two logs that are only ever added to.

Promises: `record` writes in the transaction of the act, so that neither is there without the
other; a look is written before what it shows is sent. Details hold no secret, no card number and
no reason of a leave. Triggers in the database refuse every change.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

from sqlalchemy import Connection, insert, select

from hub.auth.callers import Caller
from hub.domain.words import Words
from hub.store import schema as s
from hub.store.attendance_query import Query
from hub.store.bulk import chunks

LOOK_AGAIN_MS: Final = 10 * 60 * 1000
"""The same look by the same person within this time is one look."""
MACHINE: Final = str(Words("hub 命令行"))
"""The actor of the command line on the hub's own machine."""


class _Who(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def account_id(self) -> int | None: ...
    @property
    def token_id(self) -> int | None: ...
    @property
    def organisation_id(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Machine:
    """Whoever works on the hub's own machine, as an actor."""

    name: str = MACHINE
    account_id: None = None
    token_id: None = None
    organisation_id: None = None


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Whoever made the first account in the browser, as an actor."""

    name: str
    account_id: int
    organisation_id: int
    token_id: None = None


@dataclass(frozen=True, slots=True)
class Stranger:
    """Whoever is not signed in, as an actor."""

    name: str = str(Words("未登录的人"))
    account_id: None = None
    token_id: None = None
    organisation_id: None = None


def record(
    conn: Connection,
    who: _Who,
    what: str,
    organisation_id: int | None,
    object_kind: str,
    object_id: UUID | None,
    now_ms: int,
    **details: Any,
) -> None:
    """Write that `who` did `what` (such as meeting.create) to an object of an organisation."""
    conn.execute(
        insert(s.audit).values(
            at_ms=now_ms,
            actor=who.name,
            account_id=who.account_id,
            token_id=who.token_id,
            what=what,
            organisation_id=organisation_id,
            object=object_kind,
            object_id=object_id,
            details=json.dumps(details, ensure_ascii=False, sort_keys=True, default=str),
        )
    )


@dataclass(frozen=True, slots=True)
class Look:
    """What was shown: a meeting with everybody there, one member, or a sub-tree in a period."""

    what: str
    """Such as meeting.page, member.page, attendance.export."""
    meeting_id: int | None = None
    member_id: int | None = None
    organisation_id: int | None = None
    from_ms: int | None = None
    to_ms: int | None = None


def look_at(what: str, query: Query) -> Look:
    """The look at whatever fits these conditions: at one member, else at a sub-tree in a period."""
    if query.member_id is not None:
        return Look(what, member_id=query.member_id, from_ms=query.from_ms, to_ms=query.to_ms)
    return Look(
        what,
        meeting_id=query.meeting_id,
        organisation_id=query.scope if isinstance(query.scope, int) else None,
        from_ms=query.from_ms,
        to_ms=query.to_ms,
    )


def look_at_statements(conn: Connection, what: str, made: Sequence[UUID]) -> Look | None:
    """The look at statements of one meeting: at the member, or at the meeting if there are several.

    None: they name nobody.
    """
    d = s.declarations.c
    rows = [
        row
        for part in chunks(made)
        for row in conn.execute(
            select(d.meeting_id, d.member_id).where(d.public_id.in_(part), d.member_id.is_not(None))
        )
    ]
    members = {row.member_id for row in rows}
    if not members:
        return None
    return Look(
        what, meeting_id=rows[0].meeting_id, member_id=members.pop() if len(members) == 1 else None
    )


def looked(conn: Connection, caller: _Who, look: Look, now_ms: int) -> None:
    """Write that `caller` is shown personal data. `conn` is in a write transaction."""
    conn.execute(
        insert(s.accesses).values(
            at_ms=now_ms,
            actor=caller.name,
            account_id=caller.account_id,
            token_id=caller.token_id,
            scope_id=caller.organisation_id,
            what=look.what,
            meeting_id=look.meeting_id,
            member_id=look.member_id,
            organisation_id=look.organisation_id,
            from_ms=look.from_ms,
            to_ms=look.to_ms,
        )
    )


def has_looked(conn: Connection, caller: Caller, look: Look, now_ms: int) -> bool:
    """Whether this very look was written within LOOK_AGAIN_MS; asked in a reading transaction."""
    a = s.accesses.c
    return (
        conn.scalar(
            select(a.id)
            .where(
                a.at_ms > now_ms - LOOK_AGAIN_MS,
                a.account_id.is_not_distinct_from(caller.account_id),
                a.token_id.is_not_distinct_from(caller.token_id),
                a.scope_id == caller.organisation_id,
                a.what == look.what,
                a.meeting_id.is_not_distinct_from(look.meeting_id),
                a.member_id.is_not_distinct_from(look.member_id),
                a.organisation_id.is_not_distinct_from(look.organisation_id),
                a.from_ms.is_not_distinct_from(look.from_ms),
                a.to_ms.is_not_distinct_from(look.to_ms),
            )
            .limit(1)
        )
        is not None
    )
