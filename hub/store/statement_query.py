"""What was stated of a meeting, and what waits to be decided, as it may be shown to who asks.

Promises: a leave's reason is given to those alone who decide on it (`Right.MEETINGS` over the
meeting's organisation or, of a joint meeting, over the member's); people are named as in
`hub.store.queries`: the expected to the host's sub-tree, others to the one they belong to.

Reads only.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    and_,
    exists,
    func,
    not_,
    or_,
    select,
    tuple_,
)

from hub.auth.callers import Caller, person_of
from hub.auth.rights import Right
from hub.domain.attendance import TapKey
from hub.domain.declared import Declaration, standing
from hub.domain.stating import ANSWERS, ASKS, Idle, act_idle, answer_refused
from hub.domain.terms import DeclarationKind, LeaveReason
from hub.store import schema as s
from hub.store.bulk import chunks
from hub.store.expected import IS_EXPECTED, holds
from hub.store.scope import Scope, is_within, within
from hub.store.stated import actions_at, declaration_of, speaks
from protocol.credential import MEMBER_SCHEME
from protocol.journal import Act

_OBJECTIONS: Final = frozenset(
    {
        DeclarationKind.OBJECTION,
        DeclarationKind.OBJECTION_UPHELD,
        DeclarationKind.OBJECTION_DISMISSED,
    }
)


@dataclass(frozen=True, slots=True)
class Of:
    """The meeting of which something is stated."""

    public_id: str
    title: str
    organisation: str
    starts_ms: int
    ends_ms: int


@dataclass(frozen=True, slots=True)
class Whom:
    """The member of whom something is stated; all None: somebody from elsewhere."""

    public_id: str | None
    code: str | None
    name: str | None


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement, and what became of it."""

    public_id: str
    kind: DeclarationKind
    of: Of
    whom: Whom | None
    """None: it speaks of the meeting."""
    number: int | None
    leave: LeaveReason | None
    """The class of a leave's reason; None also for those who may not know it."""
    words: str | None
    """The reason of a 补签."""
    author: str
    made_ms: int
    stands: bool
    """It was not withdrawn, nor was what it answers."""
    answer: DeclarationKind | None
    """The answer that stands."""
    about: str | None
    """The public id of what it answers or withdraws."""
    act: str | None
    """Of a withdrawal of an act at a reader: its name, see `CountedAct`."""
    may_withdraw: bool
    may_decide: bool
    """The caller may answer it: it waits, and they are not who asked, where another has to."""


@dataclass(frozen=True, slots=True)
class Change:
    """A meeting was made, changed, called off or taken up again."""

    what: str
    """meeting.create, meeting.edit, meeting.cancel, meeting.restore or meeting.partners."""
    actor: str
    at_ms: int
    reason: str
    """Why it was called off or taken up again; otherwise empty."""
    starts_ms: tuple[int, int] | None
    """Of an edit that moved it: from when to when."""


@dataclass(frozen=True, slots=True)
class CountedAct:
    """An act at a reader that counts, or did until somebody withdrew it."""

    name: str
    """The entry that it is: epoch (hex), dash, seq."""
    key: TapKey
    what: Act
    number: int | None
    at_ms: int
    device: str
    holder: str | None
    """The name of the officer whose card authorised it."""
    about_member_id: int | None
    about: Whom | None
    withdrawn: bool
    may_withdraw: bool


@dataclass(frozen=True, slots=True)
class IdleAct:
    """An act at a reader that counts for nothing, and why."""

    what: int
    """The number of a `protocol.journal.Act`, or of one that this version does not know."""
    number: int | None
    at_ms: int
    why: Idle
    holder: Whom | None
    """Whose card authorised it; None: nobody's."""
    about: Whom | None
    about_code: str
    """The code that was typed, where no member has it."""


def changes_of(conn: Connection, meeting: Row[Any]) -> tuple[Change, ...]:
    """What became of the meeting itself, by the audit log, the newest first."""
    a = s.audit.c
    rows = conn.execute(
        select(a.what, a.actor, a.at_ms, a.details)
        .where(a.object_id == meeting.public_id, a.object == "meeting")
        .order_by(a.at_ms.desc(), a.id.desc())
    ).all()
    found = []
    for row in rows:
        details = json.loads(row.details)
        moved = details.get("starts_ms") if row.what == "meeting.edit" else None
        found.append(
            Change(
                row.what,
                row.actor,
                row.at_ms,
                details.get("reason", ""),
                None if moved is None else (moved[0], moved[1]),
            )
        )
    return tuple(found)


def statements_of(conn: Connection, caller: Caller, meeting: Row[Any]) -> tuple[Statement, ...]:
    """All that was stated of a meeting which the caller sees, the newest first."""
    d = s.declarations.c
    rows = conn.execute(
        _ROWS.where(d.meeting_id == meeting.id).order_by(d.made_ms.desc(), d.id.desc())
    ).all()
    is_host = is_within(conn, caller.organisation_id, meeting.organisation_id)
    ids = [row.member_id for row in rows]
    named = _known(conn, caller, meeting.id, ids, is_host=is_host)
    ours = _decided_by(conn, caller, [row.id for row in rows])
    # To others' branches a joint meeting tells of their own people and of itself.
    shown = [row for row in rows if is_host or row.member_id is None or row.member_id in named]
    stands = {each.id for each in standing(declaration_of(row) for row in rows)}
    theirs = _to_answer(conn, caller, [row for row in shown if row.id in ours])
    return tuple(
        _statement(row, rows, stands, named, ours, theirs, is_host=is_host) for row in shown
    )


def open_asks(
    conn: Connection, caller: Caller, limit: int, offset: int = 0
) -> tuple[int, tuple[Statement, ...]]:
    """How many asks wait for the caller's decision, and some of them, the oldest first."""
    d = s.declarations.c
    waiting = and_(
        d.kind.in_([each.value for each in ASKS]),
        ~s.meetings.c.cancelled,
        concerns(caller.organisation_id),
        is_open(),
    )
    total: int = conn.execute(
        select(func.count())
        .select_from(s.declarations)
        .join(s.meetings, s.meetings.c.id == d.meeting_id)
        .where(waiting)
    ).scalar_one()
    rows = conn.execute(
        _ROWS.where(waiting).order_by(d.made_ms, d.id).limit(limit).offset(offset)
    ).all()
    named, ids = {row.member_id for row in rows}, {row.id for row in rows}
    theirs = _to_answer(conn, caller, rows)
    return total, tuple(_statement(row, [], ids, named, ids, theirs, is_host=True) for row in rows)


def statement(conn: Connection, caller: Caller, meeting: Row[Any], public_id: str) -> Statement:
    """One of `statements_of`. LookupError where there is no such one to be seen."""
    for each in statements_of(conn, caller, meeting):
        if each.public_id == public_id:
            return each
    raise LookupError(public_id)


def counted_acts(conn: Connection, caller: Caller, meeting: Row[Any]) -> tuple[CountedAct, ...]:
    """What was done at readers and is said of a meeting which the caller sees, the newest first.

    To others' branches a joint meeting tells of their own people and of itself.
    """
    r, d = s.readings.c, s.declarations.c
    acts = {
        each.key: each
        for each in actions_at(conn, [meeting.id])[meeting.id]
        if each.speaks and (each.what is not Act.WITNESSED or each.about_member_id is not None)
    }
    gone = {
        TapKey(row.epoch_id, row.seq)
        for row in conn.execute(
            select(d.epoch_id, d.seq).where(
                d.meeting_id == meeting.id,
                d.kind == DeclarationKind.WITHDRAWN.value,
                d.epoch_id.is_not(None),
            )
        )
    }
    is_host = is_within(conn, caller.organisation_id, meeting.organisation_id)
    ids = [each.about_member_id for each in acts.values()]
    named = _known(conn, caller, meeting.id, ids, is_host=is_host)
    about = {
        row.id: Whom(str(row.public_id), row.code, row.name)
        for part in chunks(sorted(named))
        for row in conn.execute(select(s.members).where(s.members.c.id.in_(part)))
    }
    found = []
    for part in chunks(sorted((key.epoch_id, key.seq) for key in acts), 400):
        for row in conn.execute(
            select(
                r.epoch_id,
                r.seq,
                s.epochs.c.epoch,
                s.devices.c.name.label("device"),
                s.members.c.name.label("holder"),
            )
            .select_from(s.readings)
            .join(s.epochs, s.epochs.c.id == r.epoch_id)
            .join(s.devices, s.devices.c.id == s.epochs.c.device_id)
            .outerjoin(s.members, s.members.c.id == r.member_id)
            .where(tuple_(r.epoch_id, r.seq).in_(part))
        ):
            act = acts[TapKey(row.epoch_id, row.seq)]
            member_id = act.about_member_id if act.what is Act.WITNESSED else None
            if not is_host and member_id is not None and member_id not in named:
                continue
            is_gone = act.key in gone
            found.append(
                CountedAct(
                    f"{row.epoch.hex()}-{row.seq}",
                    act.key,
                    act.what,
                    act.number,
                    act.at_ms,
                    row.device,
                    row.holder,
                    member_id,
                    None if member_id is None else about.get(member_id, Whom(None, None, None)),
                    is_gone,
                    is_host
                    and not is_gone
                    and caller.may(Right.MEETINGS)
                    and (member_id is None or member_id != caller.member_id),
                )
            )
    return tuple(sorted(found, key=lambda each: (each.at_ms, each.key), reverse=True))


def idle_acts(
    conn: Connection, caller: Caller, meeting: Row[Any], from_ms: int, to_ms: int
) -> tuple[IdleAct, ...]:
    """What was done at the readers of the meeting's venue in [from_ms, to_ms) and counts nowhere.

    In time order: what fell into its window, and what fell into no meeting's. For the host's
    sub-tree. What has no exact time is not here.
    """
    r, a, m, c = s.readings.c, s.actions.c, s.meetings.c, s.credentials.c
    holder, about = s.members.alias("holder"), s.members.alias("about")
    is_open = and_(
        m.venue_id == r.venue_id, r.at_ms.between(m.opens_ms, m.ends_ms), not_(m.cancelled)
    )
    acts: dict[tuple[int, int], list[Row[Any]]] = {}
    asked: Select[Any] = (
        select(
            r.epoch_id,
            r.seq,
            r.at_ms,
            r.member_id,
            a.what,
            a.number,
            c.value.label("typed"),
            *_named("holder", holder),
            *_named("about", about),
            m.id.label("meeting_id"),
            speaks().label("speaks"),
        )
        .select_from(s.readings)
        .join(s.actions, and_(a.epoch_id == r.epoch_id, a.seq == r.seq))
        .outerjoin(s.meetings, is_open)
        .outerjoin(s.credentials, and_(c.id == a.about_credential_id, c.scheme == MEMBER_SCHEME))
        .outerjoin(about, about.c.code == c.value)
        .outerjoin(holder, holder.c.id == r.member_id)
        .where(r.venue_id == meeting.venue_id, r.at_ms >= from_ms, r.at_ms < to_ms)
        .order_by(r.at_ms, r.epoch_id, r.seq)
    )
    for row in conn.execute(asked):
        acts.setdefault((row.epoch_id, row.seq), []).append(row)
    found = []
    for rows in acts.values():
        act, open_ids = rows[0], {row.meeting_id for row in rows} - {None}
        why = act_idle(
            known=act.what in set(Act),
            is_open=bool(open_ids),
            has_holder=act.member_id is not None,
            speaks=any(row.speaks for row in rows),
            names_somebody=act.what != Act.WITNESSED or act.about_id is not None,
        )
        if why is not None and (meeting.id in open_ids or not open_ids):
            found.append((act, why))
    ids = [each for act, _ in found for each in (act.member_id, act.about_id)]
    named = _known(conn, caller, meeting.id, ids, is_host=True)
    return tuple(
        IdleAct(
            act.what,
            act.number,
            act.at_ms,
            why,
            _whom(act, "holder", named),
            _whom(act, "about", named),
            "" if act.about_id is not None else act.typed or "",
        )
        for act, why in found
    )


def standing_of(conn: Connection, meeting_id: int) -> list[Declaration]:
    """What was declared of a meeting and not withdrawn, in order."""
    d = s.declarations.c
    return standing(
        declaration_of(row)
        for row in conn.execute(select(s.declarations).where(d.meeting_id == meeting_id))
    )


# --- Conditions ----------------------------------------------------------------------------


def concerns(scope: Scope) -> ColumnElement[bool]:
    """The condition, on `declarations` joined to `meetings`, that the scope decides on it.

    The meeting is its own, or it expects the member for an organisation of the scope.
    """
    ms = s.memberships.c
    return or_(
        within(scope, s.meetings.c.organisation_id),
        select(ms.id)
        .where(
            ms.member_id == s.declarations.c.member_id,
            IS_EXPECTED,
            within(scope, ms.organisation_id),
        )
        .correlate(s.meetings, s.declarations)
        .exists(),
    )


def is_open() -> ColumnElement[bool]:
    """The condition that a declaration was neither withdrawn nor answered by one that stands."""
    answer = s.declarations.alias("answer")
    d = s.declarations.c
    return and_(
        not_(is_withdrawn(d.id)),
        not_(
            exists()
            .where(
                answer.c.about_id == d.id,
                answer.c.kind != DeclarationKind.WITHDRAWN.value,
                not_(is_withdrawn(answer.c.id)),
            )
            .correlate(s.declarations)
        ),
    )


def is_withdrawn(declaration_id: ColumnElement[int]) -> ColumnElement[bool]:
    """The condition that the declaration with this id was withdrawn."""
    taken_back = s.declarations.alias()
    return (
        exists()
        .where(
            taken_back.c.about_id == declaration_id,
            taken_back.c.kind == DeclarationKind.WITHDRAWN.value,
        )
        .correlate_except(taken_back)
    )


def expected_ids(conn: Connection, meeting_id: int) -> frozenset[int]:
    """The ids of the members whom it expects."""
    return frozenset(
        conn.scalars(
            select(s.memberships.c.member_id)
            .select_from(s.memberships)
            .join(s.meetings, IS_EXPECTED)
            .where(s.meetings.c.id == meeting_id)
        )
    )


# --- Helpers --------------------------------------------------------------------------------

_ROWS: Final[Select[Any]] = (
    select(
        s.declarations,
        s.meetings.c.public_id.label("meeting_public_id"),
        s.meetings.c.title,
        s.meetings.c.starts_ms,
        s.meetings.c.ends_ms,
        s.organisations.c.name.label("organisation"),
        s.members.c.public_id.label("member_public_id"),
        s.members.c.code.label("member_code"),
        s.members.c.name.label("member_name"),
        s.epochs.c.epoch,
    )
    .select_from(s.declarations)
    .join(s.meetings, s.meetings.c.id == s.declarations.c.meeting_id)
    .join(s.organisations, s.organisations.c.id == s.meetings.c.organisation_id)
    .outerjoin(s.members, s.members.c.id == s.declarations.c.member_id)
    .outerjoin(s.epochs, s.epochs.c.id == s.declarations.c.epoch_id)
)


def _named(prefix: str, members: FromClause) -> list[ColumnElement[Any]]:
    c = members.c
    return [
        c.id.label(f"{prefix}_id"),
        c.public_id.label(f"{prefix}_public_id"),
        c.code.label(f"{prefix}_code"),
        c.name.label(f"{prefix}_name"),
    ]


def _whom(row: Row[Any], prefix: str, named: set[int]) -> Whom | None:
    member_id, public_id, code, name = (
        getattr(row, f"{prefix}_{each}") for each in ("id", "public_id", "code", "name")
    )
    if member_id is None:
        return None
    return Whom(str(public_id), code, name) if member_id in named else Whom(None, None, None)


def _known(
    conn: Connection,
    caller: Caller,
    meeting_id: int,
    member_ids: Iterable[int | None],
    *,
    is_host: bool,
) -> set[int]:
    """The members among these whom the caller may see named at this one meeting."""
    m = s.memberships.c
    ids = sorted({each for each in member_ids if each is not None})
    of_ours = and_(
        within(caller.organisation_id, m.organisation_id),
        holds(s.memberships, s.meetings.c.starts_ms),
    )
    found: set[int] = set()
    for part in chunks(ids):
        found |= set(
            conn.scalars(
                select(m.member_id)
                .select_from(s.memberships)
                .join(s.meetings, or_(of_ours, IS_EXPECTED) if is_host else of_ours)
                .where(s.meetings.c.id == meeting_id, m.member_id.in_(part))
            )
        )
    return found


def _decided_by(conn: Connection, caller: Caller, ids: Iterable[int]) -> set[int]:
    """The declarations among `ids` on which the caller decides."""
    if not caller.may(Right.MEETINGS):
        return set()
    d = s.declarations.c
    return {
        declaration_id
        for part in chunks(list(ids))
        for declaration_id in conn.scalars(
            select(d.id)
            .join(s.meetings, s.meetings.c.id == d.meeting_id)
            .where(d.id.in_(part), concerns(caller.organisation_id))
        )
    }


def _to_answer(conn: Connection, caller: Caller, rows: Iterable[Row[Any]]) -> set[int]:
    """The asks among `rows` that the caller may answer: not their own, nor a 补签 asked by them."""
    decides = person_of(conn, caller.name, caller.account_id, caller.token_id)
    return {
        row.id
        for row in rows
        if row.kind in ASKS
        and not answer_refused(
            DeclarationKind(row.kind),
            answered=False,
            decides=decides,
            asked=person_of(conn, row.author, row.account_id, row.token_id),
            member_id=row.member_id,
        )
    }


def _statement(
    row: Row[Any],
    rows: Sequence[Row[Any]],
    stands: set[int],
    named: set[int],
    ours: set[int],
    theirs: set[int],
    *,
    is_host: bool,
) -> Statement:
    kind = DeclarationKind(row.kind)
    answers = [
        DeclarationKind(each.kind)
        for each in rows
        if each.about_id == row.id and each.id in stands and each.kind in ANSWERS
    ]
    about = next((each.public_id for each in rows if each.id == row.about_id), None)
    is_theirs = row.id in ours
    whom = None
    if row.member_id is not None:
        whom = (
            Whom(str(row.member_public_id), row.member_code, row.member_name)
            if row.member_id in named
            else Whom(None, None, None)
        )
    is_leave = kind is DeclarationKind.LEAVE_ASKED
    is_back_fill = kind is DeclarationKind.BACK_FILL_ASKED
    is_on_leave = kind in {*ASKS, *ANSWERS}
    return Statement(
        public_id=str(row.public_id),
        kind=kind,
        of=Of(str(row.meeting_public_id), row.title, row.organisation, row.starts_ms, row.ends_ms),
        whom=whom,
        number=row.number,
        leave=LeaveReason(row.reason) if is_leave and is_theirs else None,
        words=row.reason if is_back_fill and is_theirs else None,
        author=row.author,
        made_ms=row.made_ms,
        stands=row.id in stands or kind is DeclarationKind.WITHDRAWN,
        answer=answers[0] if answers else None,
        about=None if about is None else str(about),
        act=(
            f"{row.epoch.hex()}-{row.seq}"
            if kind is DeclarationKind.WITHDRAWN and row.epoch is not None
            else None
        ),
        may_withdraw=(
            row.id in stands and kind not in _OBJECTIONS and is_theirs and (is_host or is_on_leave)
        ),
        may_decide=row.id in theirs and row.id in stands and not answers,
    )
