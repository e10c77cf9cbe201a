"""What people state of a meeting on pages and by the API: that it was held, who was there, leave.

Promises: every statement is by somebody who may make it, one entry of the audit log and the
narrowest deriving, all in the caller's transaction; what is refused has changed nothing, and says
why in plain Chinese. Stating the same twice states it once, unless an act at a reader came between.
Nothing stated is ever changed: it is answered or withdrawn.

Of a meeting speaks whoever has `Right.MEETINGS` over its own organisation. On leave and 补签 of a
member of another organisation that takes part, whoever has that right over the member's
organisation decides too; for themselves members ask with `Right.OWN`.

The rules are `hub.domain.stating`; `conn` is always in a write transaction.
"""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    exists,
    func,
    insert,
    not_,
    or_,
    select,
)

from hub import audit
from hub.auth.callers import Caller, person_of
from hub.auth.rights import Right
from hub.days import span_ms
from hub.derive import lock, rederive_meetings
from hub.domain import stating
from hub.domain.attendance import DAY_MS, TapKey
from hub.domain.stating import ASKS, Person, Times
from hub.domain.terms import DeclarationKind, LeaveReason, Verdict
from hub.domain.words import Words
from hub.meetings import MAX_REASON_CHARS, MeetingError, clean_text, may, must_have, to_change
from hub.store import schema as s
from hub.store.expected import IS_EXPECTED
from hub.store.policies import BACK_FILL_DAYS, BACK_FILL_PER_YEAR, Policies
from hub.store.scope import NotFoundError, Scope, belongs, within
from hub.store.stated import stated_of
from hub.store.statement_query import (
    concerns,
    counted_acts,
    expected_ids,
    is_withdrawn,
    standing_of,
)

MAX_WRONG_CODES: Final = 30
"""So many codes of nobody may be tried within a day: codes are not for finding out who exists."""
MAX_SIGNATURES: Final = 2000
"""Of a paper sheet, entered at once."""


def confirm(conn: Connection, caller: Caller, meeting: UUID, now_ms: int, *, held: bool) -> UUID:
    """It took place, or it did not."""
    row = to_change(conn, caller, meeting)
    kind = DeclarationKind.HELD if held else DeclarationKind.NOT_HELD
    _must_be_time(kind, row, now_ms)
    said = [
        each
        for each in standing_of(conn, row.id)
        if each.kind in {DeclarationKind.HELD, DeclarationKind.NOT_HELD}
    ]
    if said and said[-1].kind is kind and stated_of(conn, [row.id])[row.id].held is held:
        return _public_id(conn, said[-1].id)
    return _state(conn, caller, row, kind, now_ms)


def count_heads(conn: Connection, caller: Caller, meeting: UUID, number: int, now_ms: int) -> UUID:
    """清点人数: so many people are there."""
    row = to_change(conn, caller, meeting)
    _must_be_time(DeclarationKind.HEAD_COUNT, row, now_ms)
    may("number", stating.head_count_refused(number))
    said = [each for each in standing_of(conn, row.id) if each.kind is DeclarationKind.HEAD_COUNT]
    so_far = stated_of(conn, [row.id])[row.id].head_count
    if said and said[-1].number == number == so_far:
        return _public_id(conn, said[-1].id)
    return _state(conn, caller, row, DeclarationKind.HEAD_COUNT, now_ms, number=number)


def witness(
    conn: Connection,
    caller: Caller,
    meeting: UUID,
    now_ms: int,
    *,
    member: UUID | None = None,
    code: str = "",
) -> UUID:
    """现场证明: a member is there. One of the expected (`member`), or anybody by `code`."""
    row = to_change(conn, caller, meeting)
    kind = DeclarationKind.WITNESSED
    _must_be_time(kind, row, now_ms)
    expected = expected_ids(conn, row.id)
    member_id = (
        _member_by_code(conn, caller, code, now_ms)
        if member is None
        else _member_there(conn, caller, row, member, expected)
    )
    for each in standing_of(conn, row.id):
        if each.kind is kind and each.member_id == member_id:
            return _public_id(conn, each.id)
    if member_id in _person(conn, caller).members:
        raise MeetingError("member", Words("不能证明自己到场，请由他人办理。"))
    verdict = _verdict(conn, row.id, member_id)
    may("member", stating.member_refused(kind, verdict, is_expected=member_id in expected))
    return _state(conn, caller, row, kind, now_ms, member_id=member_id)


def enter_sheet(
    conn: Connection,
    caller: Caller,
    meeting: UUID,
    now_ms: int,
    *,
    members: Iterable[UUID] = (),
    codes: Iterable[str] = (),
) -> list[UUID]:
    """These signed the paper sheet: of the expected by id, guests by code. Adds to what stands."""
    row = to_change(conn, caller, meeting)
    kind = DeclarationKind.SHEET
    _must_be_time(kind, row, now_ms)
    asked, guests = list(dict.fromkeys(members)), [each for each in codes if each.strip()]
    if len(asked) + len(guests) > MAX_SIGNATURES:
        raise MeetingError("members", Words("一次最多录入{most}人", most=MAX_SIGNATURES))
    expected = expected_ids(conn, row.id)
    signed = [_member_there(conn, caller, row, each, expected) for each in asked]
    signed += [_member_by_code(conn, caller, each, now_ms) for each in guests]
    known = {each.member_id: each.id for each in standing_of(conn, row.id) if each.kind is kind}
    if _person(conn, caller).members & {*signed} - known.keys():
        raise MeetingError("members", Words("不能录入自己的签名，请由他人办理。"))
    found = []
    for member_id in dict.fromkeys(signed):
        if member_id in known:
            found.append(_public_id(conn, known[member_id]))
        else:
            found.append(_say(conn, caller, row, kind, now_ms, member_id=member_id))
    if not known.keys() >= set(signed):
        rederive_meetings(conn, [row.id])
    return found


def complete_sheet(conn: Connection, caller: Caller, meeting: UUID, now_ms: int) -> UUID:
    """The signed paper sheet was entered whole: whoever is not on it did not sign."""
    row = to_change(conn, caller, meeting)
    kind = DeclarationKind.SHEET_COMPLETE
    _must_be_time(kind, row, now_ms)
    stands = standing_of(conn, row.id)
    for each in stands:
        if each.kind is kind:
            return _public_id(conn, each.id)
    signatures = sum(each.kind is DeclarationKind.SHEET for each in stands)
    may("complete", stating.sheet_complete_refused(signatures))
    return _state(conn, caller, row, kind, now_ms)


# --- Leave and 补签 ----------------------------------------------------------------------------


def ask_leave(
    conn: Connection,
    caller: Caller,
    meeting: UUID,
    member: UUID,
    reason: LeaveReason,
    now_ms: int,
) -> UUID:
    """请假 for a member, before or after the meeting; of the reason only its class is kept."""
    row, member_id = _of_member(conn, caller, meeting, member)
    kind = DeclarationKind.LEAVE_ASKED
    _must_be_askable(conn, row, member_id, kind, now_ms)
    return _state(conn, caller, row, kind, now_ms, member_id=member_id, reason=reason.value)


def ask_back_fill(
    conn: Connection, caller: Caller, meeting: UUID, member: UUID, reason: str, now_ms: int
) -> UUID:
    """补签 for a member who was there and left no trace, with the reason in words."""
    row, member_id = _of_member(conn, caller, meeting, member)
    kind = DeclarationKind.BACK_FILL_ASKED
    why = clean_text("reason", reason, MAX_REASON_CHARS)
    _must_be_askable(conn, row, member_id, kind, now_ms)
    may("member", _back_fill_refused(conn, row, member_id, now_ms))
    return _state(conn, caller, row, kind, now_ms, member_id=member_id, reason=why)


def decide(
    conn: Connection, caller: Caller, declaration: UUID, now_ms: int, *, granted: bool
) -> UUID:
    """Grant or refuse leave or 补签 that somebody asked for."""
    must_have(caller, Right.MEETINGS)
    lock(conn)
    asked = _find(conn, declaration, concerns(caller.organisation_id))
    row = _meeting(conn, asked.meeting_id)
    kind = DeclarationKind(asked.kind)
    stands = standing_of(conn, row.id)
    if all(each.id != asked.id for each in stands):
        raise MeetingError("", Words("这项申请已经撤回。"))
    if row.cancelled:
        raise MeetingError("", Words("会议已取消，请先恢复会议。"))
    may(
        "",
        stating.answer_refused(
            kind,
            answered=any(each.about_id == asked.id for each in stands),
            decides=_person(conn, caller),
            asked=person_of(conn, asked.author, asked.account_id, asked.token_id),
            member_id=asked.member_id,
        ),
    )
    if granted and kind is DeclarationKind.BACK_FILL_ASKED:
        # Another may have been granted since this one was refused, and the refusal taken back.
        may("", _over_limit(conn, row, asked))
    yes, no = ASKS[kind]
    return _state(
        conn,
        caller,
        row,
        yes if granted else no,
        now_ms,
        member_id=asked.member_id,
        about_id=asked.id,
    )


def withdraw(conn: Connection, caller: Caller, declaration: UUID, now_ms: int) -> UUID:
    """Take a statement back: it counts for nothing from now on, and stays on record."""
    lock(conn)
    d, m = s.declarations.c, s.meetings.c
    own = d.member_id == (-1 if caller.member_id is None else caller.member_id)
    asks = d.kind.in_([each.value for each in ASKS])
    scope = caller.organisation_id
    over = or_(within(scope, m.organisation_id), and_(asks, concerns(scope)))
    as_member = not caller.may(Right.MEETINGS)
    if as_member:
        must_have(caller, Right.OWN)
        stated = _find(conn, declaration, own)
    else:
        try:
            stated = _find(conn, declaration, over)
        except NotFoundError:
            as_member = True
            stated = _find(conn, declaration, own)
    kind = DeclarationKind(stated.kind)
    # In what is about oneself one is a member like any other, whatever else one may.
    as_member |= stated.member_id is not None and stated.member_id == caller.member_id
    row = _meeting(conn, stated.meeting_id)
    stands = standing_of(conn, row.id)
    may(
        "",
        stating.withdrawal_refused(
            kind,
            stands=any(each.id == stated.id for each in stands),
            answered=any(each.about_id == stated.id for each in stands),
            as_member=as_member,
        ),
    )
    return _state(
        conn,
        caller,
        row,
        DeclarationKind.WITHDRAWN,
        now_ms,
        member_id=stated.member_id,
        about_id=stated.id,
    )


def withdraw_act(conn: Connection, caller: Caller, meeting: UUID, act: str, now_ms: int) -> UUID:
    """Take back an act at a reader, by its name: it counts for nothing at this meeting any more."""
    row = to_change(conn, caller, meeting)
    for each in counted_acts(conn, caller, row):
        if each.name == act:
            break
    else:
        raise NotFoundError
    about = each.about_member_id
    may(
        "",
        stating.act_withdrawal_refused(
            withdrawn=each.withdrawn,
            as_member=about is not None and about == caller.member_id,
        ),
    )
    kind = DeclarationKind.WITHDRAWN
    return _state(conn, caller, row, kind, now_ms, member_id=about, key=each.key)


def back_fill_refused(
    conn: Connection, meeting: Row[Any], member_id: int, now_ms: int
) -> Words | None:
    """Why a member may not ask for 补签 of this meeting now; None: they may."""
    kind = DeclarationKind.BACK_FILL_ASKED
    return (
        stating.when_refused(kind, _times(meeting), now_ms)
        or _ask_refused(conn, meeting, member_id, kind)
        or _back_fill_refused(conn, meeting, member_id, now_ms)
    )


def leave_refused(conn: Connection, meeting: Row[Any], member_id: int, now_ms: int) -> Words | None:
    """Why a member may not ask for leave from this meeting now; None: they may."""
    kind = DeclarationKind.LEAVE_ASKED
    return stating.when_refused(kind, _times(meeting), now_ms) or _ask_refused(
        conn, meeting, member_id, kind
    )


class WrongCodeError(MeetingError):
    """Nobody in the district has this code; whoever catches it notes it by `note_wrong_code`."""


_WRONG: Final = "declaration.wrong_code"


# --- Who may ---------------------------------------------------------------------------------


def _of_member(
    conn: Connection, caller: Caller, meeting: UUID, member: UUID
) -> tuple[Row[Any], int]:
    """The meeting, and the id of a member for whom the caller may ask there."""
    lock(conn)
    m, ms = s.meetings.c, s.memberships.c
    row = conn.execute(select(s.meetings).where(m.public_id == meeting)).one_or_none()
    member_id = conn.scalar(select(s.members.c.id).where(s.members.c.public_id == member))
    if row is None or member_id is None:
        raise NotFoundError
    is_expected = member_id in expected_ids(conn, row.id)
    if caller.may(Right.OWN) and caller.member_id == member_id and is_expected:
        return row, member_id
    must_have(caller, Right.MEETINGS)
    scope = caller.organisation_id
    is_ours = conn.scalar(select(m.id).where(m.id == row.id, within(scope, m.organisation_id)))
    is_their_branch = conn.scalar(
        select(ms.id)
        .select_from(s.memberships)
        .join(s.meetings, IS_EXPECTED)
        .where(m.id == row.id, ms.member_id == member_id, within(scope, ms.organisation_id))
        .limit(1)
    )
    is_known = is_expected or _belongs(conn, scope, member_id, row.starts_ms)
    if (is_ours is None or not is_known) and is_their_branch is None:
        raise NotFoundError
    return row, member_id


def _member_there(
    conn: Connection, caller: Caller, meeting: Row[Any], member: UUID, expected: frozenset[int]
) -> int:
    """The id of one who is expected, or who belongs to the caller's sub-tree."""
    member_id: int | None = conn.scalar(
        select(s.members.c.id).where(s.members.c.public_id == member)
    )
    if member_id is not None and (
        member_id in expected
        or _belongs(conn, caller.organisation_id, member_id, meeting.starts_ms)
    ):
        return member_id
    raise NotFoundError


def _belongs(conn: Connection, scope: Scope, member_id: int, at_ms: int) -> bool:
    found = select(s.members.c.id).where(s.members.c.id == member_id, belongs(scope, at_ms))
    return conn.scalar(found) is not None


def note_wrong_code(conn: Connection, caller: Caller, now_ms: int) -> None:
    """Count a WrongCodeError of the caller; in a transaction after the one that it undid."""
    audit.record(conn, caller, _WRONG, caller.organisation_id, "declaration", None, now_ms)


def _member_by_code(conn: Connection, caller: Caller, code: str, now_ms: int) -> int:
    a, asked = s.audit.c, code.strip()
    tried = conn.scalar(
        select(func.count())
        .select_from(s.audit)
        .where(
            a.what == _WRONG,
            a.at_ms > now_ms - DAY_MS,
            a.account_id.is_not_distinct_from(caller.account_id),
            a.token_id.is_not_distinct_from(caller.token_id),
        )
    )
    if (tried or 0) >= MAX_WRONG_CODES:
        raise MeetingError("code", Words("一天内填错的编号太多，请核对编号，明天再试。"))
    member_id: int | None = None
    if asked.isprintable():  # PostgreSQL takes no NUL
        member_id = conn.scalar(select(s.members.c.id).where(s.members.c.code == asked))
    if member_id is None:
        raise WrongCodeError("code", Words("没有编号为“{code}”的党员", code=asked[:64]))
    return member_id


def _person(conn: Connection, caller: Caller) -> Person:
    return person_of(conn, caller.name, caller.account_id, caller.token_id)


# --- Helpers ---------------------------------------------------------------------------------


def _times(row: Row[Any]) -> Times:
    return Times(row.opens_ms, row.starts_ms, row.ends_ms, row.cancelled)


def _must_be_time(kind: DeclarationKind, row: Row[Any], now_ms: int) -> None:
    may("", stating.when_refused(kind, _times(row), now_ms))


def _must_be_askable(
    conn: Connection, row: Row[Any], member_id: int, kind: DeclarationKind, now_ms: int
) -> None:
    _must_be_time(kind, row, now_ms)
    may("member", _ask_refused(conn, row, member_id, kind))


def _ask_refused(
    conn: Connection, row: Row[Any], member_id: int, kind: DeclarationKind
) -> Words | None:
    is_expected = member_id in expected_ids(conn, row.id)
    verdict = _verdict(conn, row.id, member_id)
    refused = stating.member_refused(kind, verdict, is_expected=is_expected)
    if refused is not None:
        return refused
    stands = standing_of(conn, row.id)
    _, no = ASKS[kind]
    turned_down = {each.about_id for each in stands if each.kind is no}
    for each in stands:
        if each.kind is kind and each.member_id == member_id and each.id not in turned_down:
            return Words("已经申请过，不必再申请。")
    return None


def _back_fill_refused(
    conn: Connection, row: Row[Any], member_id: int, now_ms: int
) -> Words | None:
    policies = Policies.load(conn)
    zone = policies.zone(row.starts_ms)
    at = row.starts_ms, row.organisation_id
    return stating.back_fill_refused(
        row.ends_ms,
        now_ms,
        days=policies.number(BACK_FILL_DAYS, *at),
        used=_back_fills(conn, row, member_id, zone),
        limit=policies.number(BACK_FILL_PER_YEAR, *at),
        zone=zone,
    )


def _over_limit(conn: Connection, row: Row[Any], asked: Row[Any]) -> Words | None:
    policies = Policies.load(conn)
    zone, at = policies.zone(row.starts_ms), (row.starts_ms, row.organisation_id)
    return stating.too_many_back_fills(
        used=_back_fills(conn, row, asked.member_id, zone, but_id=asked.id),
        limit=policies.number(BACK_FILL_PER_YEAR, *at),
    )


def _back_fills(
    conn: Connection, row: Row[Any], member_id: int, zone: ZoneInfo, but_id: int = 0
) -> int:
    """How many of the member's in the meeting's year were neither withdrawn nor refused."""
    year = datetime.fromtimestamp(row.starts_ms / 1000, zone).year
    from_ms, to_ms = span_ms(date(year, 1, 1), date(year, 12, 31), zone)
    d, m = s.declarations.c, s.meetings.c
    no = s.declarations.alias("no")
    refused = (
        exists()
        .where(
            no.c.about_id == d.id,
            no.c.kind == DeclarationKind.BACK_FILL_REFUSED.value,
            not_(is_withdrawn(no.c.id)),
        )
        .correlate(s.declarations)
    )
    count: int | None = conn.scalar(
        select(func.count())
        .select_from(s.declarations)
        .join(s.meetings, m.id == d.meeting_id)
        .where(
            d.id != but_id,
            d.member_id == member_id,
            d.kind == DeclarationKind.BACK_FILL_ASKED.value,
            m.starts_ms >= from_ms,
            m.starts_ms < to_ms,
            not_(m.cancelled),
            not_(is_withdrawn(d.id)),
            not_(refused),
        )
    )
    return count or 0


def _verdict(conn: Connection, meeting_id: int, member_id: int) -> Verdict | None:
    a = s.attendances.c
    found = conn.scalar(
        select(a.verdict).where(a.meeting_id == meeting_id, a.member_id == member_id)
    )
    return None if found is None else Verdict(found)


def _find(conn: Connection, declaration: UUID, may: ColumnElement[bool]) -> Row[Any]:
    d = s.declarations.c
    row = conn.execute(
        select(s.declarations)
        .join(s.meetings, s.meetings.c.id == d.meeting_id)
        .where(d.public_id == declaration, may)
    ).one_or_none()
    if row is None:
        raise NotFoundError
    return row


def _meeting(conn: Connection, meeting_id: int) -> Row[Any]:
    return conn.execute(select(s.meetings).where(s.meetings.c.id == meeting_id)).one()


def _public_id(conn: Connection, declaration_id: int) -> UUID:
    d = s.declarations.c
    found: UUID = conn.execute(select(d.public_id).where(d.id == declaration_id)).scalar_one()
    return found


def _state(
    conn: Connection,
    caller: Caller,
    meeting: Row[Any],
    kind: DeclarationKind,
    now_ms: int,
    **more: Any,
) -> UUID:
    public_id = _say(conn, caller, meeting, kind, now_ms, **more)
    rederive_meetings(conn, [meeting.id])
    return public_id


def _say(
    conn: Connection,
    caller: Caller,
    meeting: Row[Any],
    kind: DeclarationKind,
    now_ms: int,
    *,
    member_id: int | None = None,
    about_id: int | None = None,
    number: int | None = None,
    reason: str | None = None,
    key: TapKey | None = None,
) -> UUID:
    public_id = s.new_public_id()
    conn.execute(
        insert(s.declarations).values(
            public_id=public_id,
            meeting_id=meeting.id,
            member_id=member_id,
            kind=kind.value,
            about_id=about_id,
            epoch_id=None if key is None else key.epoch_id,
            seq=None if key is None else key.seq,
            number=number,
            reason=reason,
            author=caller.name,
            account_id=caller.account_id,
            token_id=caller.token_id,
            made_ms=now_ms,
        )
    )
    # A leave's reason, and anybody's, stays out of the log.
    audit.record(
        conn,
        caller,
        f"declaration.{kind.value.lower()}",
        meeting.organisation_id,
        "declaration",
        public_id,
        now_ms,
        meeting=meeting.public_id,
        **({} if number is None else {"number": number}),
    )
    return public_id
