"""Objections: a member says that an entry is wrong, and somebody else decides.

Promises: an objection, its withdrawal and its decision are statements like any other, added and
never changed; of one meeting a member has one open objection at most; it is decided once, by the
host's side, with a reason, and never by whoever has to do with what is objected to: who stated
anything of the member at that meeting, who confirmed it as held or its sheet as complete, whose
card did so at the reader, or who is the member. An account, a token and a card of one person are
one: they are compared by key, by linked member, by who made them (`hub.auth.callers.person_of`),
and by the name they stated it under.

An upheld objection changes no attendance by itself: what it needs is stated as always.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, and_, insert, or_, select

from hub import audit
from hub.auth.callers import Caller, person_of
from hub.derive import lock
from hub.domain.declared import standing
from hub.domain.terms import DeclarationKind, Term
from hub.domain.words import Words
from hub.evidence import acts_of, concerns, is_assigned_tap_of
from hub.store import schema as s
from hub.store.bulk import chunks
from hub.store.scope import NotFoundError, within
from hub.store.stated import declaration_of
from protocol.journal import Act

MAX_REASON_CHARS: Final = 500
_OBJECTION: Final = DeclarationKind.OBJECTION
_DECIDED: Final = (DeclarationKind.OBJECTION_UPHELD, DeclarationKind.OBJECTION_DISMISSED)
_OF_THE_MEETING: Final = (
    DeclarationKind.HELD,
    DeclarationKind.NOT_HELD,
    DeclarationKind.SHEET_COMPLETE,
)


class ObjectionError(ValueError):
    """It cannot be done; the message says why, and `field` names the input."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class ObjectionState(Term):
    """Where an objection stands."""

    OPEN = "OPEN", "待处理"
    UPHELD = "UPHELD", "成立"
    DISMISSED = "DISMISSED", "不成立"
    WITHDRAWN = "WITHDRAWN", "已撤回"


@dataclass(frozen=True, slots=True)
class Objection:
    """An objection and what became of it."""

    id: int
    public_id: str
    meeting_id: int
    meeting_public_id: str
    meeting: str
    """The meeting's title."""
    starts_ms: int
    member_id: int
    member_public_id: str
    member: str
    """The member's name."""
    words: str
    made_ms: int
    state: ObjectionState
    decided_by: str | None
    decided_ms: int | None
    decision: str
    """Why it was decided so; empty while it is not."""


# --- Made and withdrawn by the member -------------------------------------------------------


def object_to(conn: Connection, caller: Caller, meeting: uuid.UUID, words: str, now_ms: int) -> str:
    """The caller objects to their own entry at a meeting; gives the objection's public id.

    Also where there is no entry: that nothing is known can be what is wrong. Raises
    ObjectionError, NotFoundError.
    """
    lock(conn)
    member_id = _member(caller)
    row = find_mine(conn, member_id, meeting)
    mine = objections(conn, and_(_D.meeting_id == row.id, _D.member_id == member_id))
    why = refused(row, mine, now_ms)
    if why is not None:
        raise ObjectionError("meeting", why)
    text = _text("words", words, Words("请写明哪里不对"))
    public_id = _declare(conn, caller, row.id, member_id, _OBJECTION, now_ms, reason=text)
    _record(conn, caller, "objection.make", row, public_id, now_ms)
    return str(public_id)


def refused(meeting: Row[Any], mine: Iterable[Objection], now_ms: int) -> Words | None:
    """Why a member who made the objections `mine` there cannot object now; None: they can."""
    if meeting.cancelled:
        return Words("会议已取消，没有考勤记录。")
    if now_ms < meeting.opens_ms:
        return Words("会议还没有开始签到，现在没有考勤记录。")
    if any(each.state is ObjectionState.OPEN for each in mine):
        return Words("您对这次会议的异议正在处理，不用再提。")
    return None


def withdraw(conn: Connection, caller: Caller, objection: uuid.UUID, now_ms: int) -> Objection:
    """The caller takes back an open objection of their own. Raises ObjectionError, NotFoundError.

    Gives it as it was.
    """
    lock(conn)
    member_id = _member(caller)
    found = _one(conn, and_(_D.public_id == objection, _D.member_id == member_id))
    if found.state is not ObjectionState.OPEN:
        raise ObjectionError("objection", NOT_OPEN)
    row = _meeting(conn, found)
    public_id = _declare(
        conn, caller, row.id, member_id, DeclarationKind.WITHDRAWN, now_ms, about_id=found.id
    )
    _record(conn, caller, "objection.withdraw", row, public_id, now_ms)
    return found


def find_mine(conn: Connection, member_id: int, meeting: uuid.UUID) -> Row[Any]:
    """The row of a meeting that concerns the member. Raises NotFoundError."""
    row = conn.execute(
        select(s.meetings).where(s.meetings.c.public_id == meeting, concerns(member_id))
    ).one_or_none()
    if row is None:
        raise NotFoundError
    return row


def objections_of(conn: Connection, member_id: int) -> list[Objection]:
    """All that a member ever made, the latest first."""
    return objections(conn, _D.member_id == member_id)[::-1]


# --- Decided by somebody else ---------------------------------------------------------------


def open_objections(conn: Connection, scope: int) -> list[Objection]:
    """Those that wait, at meetings that the scope hosts; the oldest first."""
    return [
        each
        for each in objections(conn, within(scope, s.meetings.c.organisation_id))
        if each.state is ObjectionState.OPEN
    ]


def find_objection(conn: Connection, scope: int, public_id: uuid.UUID) -> Objection:
    """One at a meeting that the scope hosts. Raises NotFoundError."""
    return _one(conn, and_(_D.public_id == public_id, within(scope, s.meetings.c.organisation_id)))


def decide(
    conn: Connection,
    caller: Caller,
    public_id: uuid.UUID,
    *,
    upheld: bool,
    reason: str,
    now_ms: int,
) -> Objection:
    """Decide an open objection; gives it as it was. Raises ObjectionError, NotFoundError."""
    lock(conn)
    found = find_objection(conn, caller.organisation_id, public_id)
    if found.state is not ObjectionState.OPEN:
        raise ObjectionError("objection", NOT_OPEN)
    why = obstacle(conn, caller, found)
    if why is not None:
        raise ObjectionError("objection", why)
    text = _text("reason", reason, Words("请写明处理的理由，本人会看到"))
    row = _meeting(conn, found)
    kind = DeclarationKind.OBJECTION_UPHELD if upheld else DeclarationKind.OBJECTION_DISMISSED
    said = _declare(
        conn, caller, row.id, found.member_id, kind, now_ms, reason=text, about_id=found.id
    )
    what = "objection.uphold" if upheld else "objection.dismiss"
    _record(conn, caller, what, row, said, now_ms, member=found.member_public_id)
    return found


def obstacle(conn: Connection, caller: Caller, objection: Objection) -> Words | None:
    """Why the caller may not decide this one; None: the caller may."""
    me = person_of(conn, caller.name, caller.account_id, caller.token_id)
    if objection.member_id in me.members:
        return Words("这是您本人提出的异议，须由别人处理。")
    row = _meeting(conn, objection)
    if me.members & _officers(conn, row, objection.member_id):
        return _INVOLVED
    d = _D
    of_member = _ids(conn, row, objection.member_id)
    for part in chunks(of_member) if of_member else ():
        for each in conn.execute(
            select(d.kind, d.author, d.account_id, d.token_id).where(d.id.in_(part))
        ):
            if me.is_same(person_of(conn, each.author, each.account_id, each.token_id)):
                return _refusal(DeclarationKind(each.kind))
    made = conn.execute(
        select(d.author, d.account_id, d.token_id).where(d.id == objection.id)
    ).one()
    if me.is_same(person_of(conn, made.author, made.account_id, made.token_id)):
        return Words("这是您本人提出的异议，须由别人处理。")
    return None


NOT_OPEN: Final = Words("这项异议已经处理过或已撤回。")
_INVOLVED: Final = Words("有关记录是您本人作出的，这项异议须由别人处理。")
_CONFIRMED: Final = Words("这次会议的情况是您本人确认的，这项异议须由别人处理。")


def _refusal(kind: DeclarationKind) -> Words:
    return _CONFIRMED if kind in _OF_THE_MEETING else _INVOLVED


def _ids(conn: Connection, meeting: Row[Any], member_id: int) -> list[int]:
    """Declarations, withdrawn or not, of the member's attendance and of the meeting as such."""
    d = _D
    about = conn.scalars(
        select(d.id).where(
            d.meeting_id == meeting.id,
            or_(
                d.kind.in_([each.value for each in _OF_THE_MEETING]),
                and_(
                    d.member_id == member_id,
                    d.kind.not_in(
                        [
                            DeclarationKind.WITHDRAWN.value,
                            _OBJECTION.value,
                            *(each.value for each in _DECIDED),
                        ]
                    ),
                ),
                is_assigned_tap_of(member_id, meeting),
            ),
        )
    ).all()
    # Who took such a statement back has made the entry what it is, too.
    taken_back = [
        each
        for part in chunks(about)
        for each in conn.scalars(
            select(d.id).where(d.about_id.in_(part), d.kind == DeclarationKind.WITHDRAWN.value)
        )
    ]
    a = s.actions.c
    acts_taken_back = conn.scalars(
        select(d.id)
        .join(s.actions, and_(a.epoch_id == d.epoch_id, a.seq == d.seq))
        .where(
            d.meeting_id == meeting.id,
            d.kind == DeclarationKind.WITHDRAWN.value,
            or_(
                a.what.in_([Act.OPENED.value, Act.CLOSED.value]),
                d.member_id == member_id,
            ),
        )
    )
    return [*about, *taken_back, *acts_taken_back]


def _officers(conn: Connection, meeting: Row[Any], member_id: int) -> set[int]:
    """Whose cards witnessed the member, or opened or closed the meeting, at its reader."""
    r, a = s.readings.c, s.actions.c
    witnesses = {row.officer_id for row in conn.execute(acts_of(meeting, member_id))}
    opened = conn.scalars(
        select(r.member_id)
        .join(s.actions, and_(a.epoch_id == r.epoch_id, a.seq == r.seq))
        .where(
            a.what.in_([Act.OPENED.value, Act.CLOSED.value]),
            r.venue_id == meeting.venue_id,
            r.at_ms.between(meeting.opens_ms, meeting.ends_ms),
        )
    )
    return {each for each in {*witnesses, *opened} if each is not None}


# --- Loading --------------------------------------------------------------------------------

_D: Final = s.declarations.c


def objections(conn: Connection, condition: ColumnElement[bool]) -> list[Objection]:
    """The objections for which a condition on declarations and meetings holds, by time."""
    rows = conn.execute(
        select(
            s.declarations,
            s.meetings.c.public_id.label("meeting_public_id"),
            s.meetings.c.title,
            s.meetings.c.starts_ms,
            s.members.c.public_id.label("member_public_id"),
            s.members.c.name.label("member"),
        )
        .join(s.meetings, s.meetings.c.id == _D.meeting_id)
        .join(s.members, s.members.c.id == _D.member_id)
        .where(_D.kind == _OBJECTION.value, condition)
        .order_by(_D.made_ms, _D.id)
    ).all()
    answers = _about(conn, [row.id for row in rows])
    later = _about(conn, [each.id for each in answers])
    kept = {
        each.id: each for each in standing(declaration_of(row) for row in [*rows, *answers, *later])
    }
    decided: dict[int, Row[Any]] = {}
    for each in answers:
        if each.id in kept:
            decided[each.about_id] = each
    return [_objection(row, decided.get(row.id), is_there=row.id in kept) for row in rows]


def _objection(row: Row[Any], answer: Row[Any] | None, *, is_there: bool) -> Objection:
    state = ObjectionState.OPEN if is_there else ObjectionState.WITHDRAWN
    if is_there and answer is not None:
        is_upheld = answer.kind == DeclarationKind.OBJECTION_UPHELD.value
        state = ObjectionState.UPHELD if is_upheld else ObjectionState.DISMISSED
    return Objection(
        row.id,
        str(row.public_id),
        row.meeting_id,
        str(row.meeting_public_id),
        row.title,
        row.starts_ms,
        row.member_id,
        str(row.member_public_id),
        row.member,
        row.reason or "",
        row.made_ms,
        state,
        None if answer is None else answer.author,
        None if answer is None else answer.made_ms,
        "" if answer is None else answer.reason or "",
    )


def _about(conn: Connection, ids: Iterable[int]) -> list[Row[Any]]:
    """What answers or withdraws these declarations, by time."""
    kinds = [each.value for each in (*_DECIDED, DeclarationKind.WITHDRAWN)]
    return [
        row
        for part in chunks(sorted(set(ids)))
        for row in conn.execute(
            select(s.declarations)
            .where(_D.about_id.in_(part), _D.kind.in_(kinds))
            .order_by(_D.made_ms, _D.id)
        )
    ]


def _one(conn: Connection, condition: ColumnElement[bool]) -> Objection:
    found = objections(conn, condition)
    if not found:
        raise NotFoundError
    return found[0]


def _meeting(conn: Connection, objection: Objection) -> Row[Any]:
    return conn.execute(select(s.meetings).where(s.meetings.c.id == objection.meeting_id)).one()


def _member(caller: Caller) -> int:
    if caller.member_id is None:
        raise NotFoundError
    return caller.member_id


def _text(field: str, words: str, missing: Words) -> str:
    text = words.replace("\r\n", "\n").strip()
    if not text:
        raise ObjectionError(field, missing)
    if len(text) > MAX_REASON_CHARS:
        raise ObjectionError(field, Words("最多写{n}个字", n=MAX_REASON_CHARS))
    if not text.replace("\n", "").isprintable():
        raise ObjectionError(field, Words("含有不能显示的字符，请删去后再提交"))
    return text


def _declare(
    conn: Connection,
    caller: Caller,
    meeting_id: int,
    member_id: int,
    kind: DeclarationKind,
    now_ms: int,
    *,
    reason: str | None = None,
    about_id: int | None = None,
) -> uuid.UUID:
    public_id = s.new_public_id()
    conn.execute(
        insert(s.declarations).values(
            public_id=public_id,
            meeting_id=meeting_id,
            member_id=member_id,
            kind=kind.value,
            about_id=about_id,
            reason=reason,
            author=caller.name,
            account_id=caller.account_id,
            token_id=caller.token_id,
            made_ms=now_ms,
        )
    )
    return public_id


def _record(
    conn: Connection,
    caller: Caller,
    what: str,
    meeting: Row[Any],
    declaration: uuid.UUID,
    now_ms: int,
    **details: object,
) -> None:
    audit.record(
        conn,
        caller,
        what,
        meeting.organisation_id,
        "meeting",
        meeting.public_id,
        now_ms,
        declaration=str(declaration),
        **details,
    )
