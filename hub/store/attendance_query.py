"""Attendance asked for by conditions: one row for each meeting and member, in pages, with sums.

Promises: a row is there for each of the sub-tree's people at each meeting that expected them or
where they came, wherever that was, and for whoever was expected at a meeting that the sub-tree
hosts; cancelled meetings have none. Whoever came from elsewhere as a guest is not listed: there is
no name of them to give. What is asked for by id and lies outside of the scope raises
NotFoundError. Conditions, order, sums and pages are the database's work; only names are compared
here, since the database knows no pinyin.

Reads only. Periods `[from_ms, to_ms)` are of meetings' starts.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    CompoundSelect,
    Connection,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    union_all,
)

from hub.domain.declared import CAME
from hub.domain.terms import Body, Evidence, MeetingKind, OrgKind, Verdict
from hub.pinyin import matches
from hub.store import schema as s
from hub.store.expected import IS_EXPECTED_OF, holds
from hub.store.queries import Named, evidence_of
from hub.store.scope import (
    EVERYTHING,
    NotFoundError,
    Scope,
    belongs,
    find_meeting,
    find_organisation,
    subtree,
    taking_part,
    within,
)

MOST_NAMED: Final = 5000
"""So many members may a search by name find, for their attendance to be asked for."""


class TooManyNamedError(ValueError):
    """The name that was asked for fits more than MOST_NAMED members."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Conditions as a person gives them; None: any."""

    from_ms: int
    to_ms: int
    organisation: uuid.UUID | None = None
    """None: all of the scope."""
    meeting: uuid.UUID | None = None
    member: uuid.UUID | None = None
    name: str = ""
    """As `hub.pinyin.matches` takes it; empty: any."""
    kind: MeetingKind | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """Conditions found to be within the scope, by the hub's own keys. Made by `resolve` alone."""

    scope: Scope
    """What was asked for and the asker may see."""
    organisation: Named | None
    """None: all of the asker's scope."""
    from_ms: int
    to_ms: int
    meeting_id: int | None
    meeting: str | None
    """The meeting's title."""
    member_id: int | None
    member: Named | None
    member_ids: tuple[int, ...] | None
    """Those whom the name fits; None: any."""
    kind: MeetingKind | None
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Line:
    """One member at one meeting."""

    meeting: Named
    """`name` is its title."""
    kind: MeetingKind
    organisation: str
    """The host's name."""
    venue: str
    starts_ms: int
    member: Named
    belongs: bool
    """Whether the member belonged to what was asked for; otherwise expected there as a partner."""
    branch: str | None
    """Where the member belonged then."""
    verdict: Verdict
    at_ms: int | None
    taps: int
    evidence: Evidence | None


@dataclass(frozen=True, slots=True)
class Sum:
    """How often, and how many different people."""

    times: int
    """人次"""
    people: int
    """人"""


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all lines, not over a page."""

    all: Sum
    meetings: int
    expected: Sum
    """应到: all but the guests."""
    present: Sum
    """实到: those of the expected who took part."""
    by: dict[Verdict, Sum]


def resolve(conn: Connection, scope: Scope, asked: Asked) -> Query:
    """The conditions by key. Raises NotFoundError, and TooManyNamedError."""
    organisation, inside = None, scope
    if asked.organisation is not None:
        row = find_organisation(conn, scope, asked.organisation)
        organisation, inside = Named(str(row.public_id), row.code, row.name), row.id
    meeting = None if asked.meeting is None else find_meeting(conn, scope, asked.meeting)
    member = None
    if asked.member is not None:
        member = find_member_of(conn, scope, asked.member, asked.from_ms, asked.to_ms)
    named: tuple[int, ...] | None = None
    if asked.name.strip():
        named = tuple(
            row.id
            for row in conn.execute(_concerned(inside, asked.from_ms, asked.to_ms))
            if matches(asked.name, row.name, row.code)
        )
        if len(named) > MOST_NAMED:
            raise TooManyNamedError
    return Query(
        inside,
        organisation,
        asked.from_ms,
        asked.to_ms,
        None if meeting is None else meeting.id,
        None if meeting is None else meeting.title,
        None if member is None else member.id,
        None if member is None else Named(str(member.public_id), member.code, member.name),
        named,
        asked.kind,
        asked.verdict,
    )


def totals(conn: Connection, query: Query, now_ms: int) -> Totals:
    """Sums over everything that fits."""
    rows = _rows(query, now_ms).cte("asked")
    verdict = rows.c.verdict
    each = [func.count(case((verdict == one.value, 1))) for one in Verdict]
    came = func.count(case((verdict.in_([one.value for one in CAME]), 1)))
    expected = func.count(case((verdict != Verdict.GUEST.value, 1)))
    figures = [func.count(), expected, came, *each]
    # First by member: so many sums of different people would be sorted one by one.
    members = (
        select(*(figure.label(f"n{at}") for at, figure in enumerate(figures)))
        .select_from(rows)
        .group_by(rows.c.member_id)
        .subquery()
    )
    meetings = select(func.count(rows.c.meeting_id.distinct())).scalar_subquery()
    columns: list[ColumnElement[Any]] = [meetings]
    for figure in members.c:
        columns.append(func.coalesce(func.sum(figure), 0))
        columns.append(func.count(case((figure > 0, 1))))
    count, *sums = map(int, conn.execute(select(*columns).select_from(members)).one())
    every, all_expected, present, *by = map(Sum, sums[::2], sums[1::2])
    found = {verdict: each for verdict, each in zip(Verdict, by, strict=True) if each.times}
    return Totals(every, count, all_expected, present, found)


def lines(
    conn: Connection, query: Query, now_ms: int, *, limit: int, offset: int = 0
) -> list[Line]:
    """What fits, the latest meeting first, then by the codes of meeting and member."""
    return [_line(row) for row in conn.execute(_lines(query, now_ms, limit, offset))]


def every_line(conn: Connection, query: Query, now_ms: int, *, limit: int) -> Iterator[Line]:
    """The same, one by one, without holding them all."""
    statement = _lines(query, now_ms, limit, 0)
    for row in conn.execute(statement, execution_options={"yield_per": 1000}):
        yield _line(row)


# --- Members ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemberLine:
    """A member in a list."""

    public_id: str
    code: str
    name: str
    branch: str | None


def find_member_of(
    conn: Connection, scope: Scope, public_id: uuid.UUID, from_ms: int, to_ms: int
) -> Row[Any]:
    """The row of a member who belonged to the scope in the period. Raises NotFoundError."""
    row = conn.execute(
        select(s.members).where(s.members.c.public_id == public_id, belongs(scope, from_ms, to_ms))
    ).one_or_none()
    if row is None:
        raise NotFoundError
    return row


def members(
    conn: Connection, scope: Scope, name: str, at_ms: int, *, limit: int, offset: int = 0
) -> tuple[list[MemberLine], int]:
    """A page of those who belong to the scope at `at_ms` and fit the name, by code; and how many.

    `name` as `hub.pinyin.matches` takes it.
    """
    m = s.members.c
    asked = select(m.id, m.code, m.name).where(belongs(scope, at_ms)).order_by(m.code)
    if name.strip():
        fitting = [row.id for row in conn.execute(asked) if matches(name, row.name, row.code)]
        count = len(fitting)
        chosen = m.id.in_(fitting[offset : offset + limit])
        page = select(s.members).where(chosen).order_by(m.code)
    else:
        count = conn.scalar(select(func.count()).select_from(asked.subquery())) or 0
        page = (
            select(s.members)
            .where(belongs(scope, at_ms))
            .order_by(m.code)
            .limit(limit)
            .offset(offset)
        )
    page = page.add_columns(_branch(m.id, literal(at_ms)).label("branch"))
    return [
        MemberLine(str(row.public_id), row.code, row.name, row.branch) for row in conn.execute(page)
    ], count


@dataclass(frozen=True, slots=True)
class Branch:
    """An organisation of a tree, and how deep it lies below the top."""

    organisation: Named
    kind: OrgKind
    depth: int


def tree(conn: Connection, scope: Scope) -> list[Branch]:
    """The scope's organisations, each followed by those below it, by code."""
    o = s.organisations.c
    below: dict[int | None, list[Row[Any]]] = {}
    rows = conn.execute(
        select(s.organisations).where(within(scope, o.id)).order_by(o.code.desc())
    ).all()
    known = {row.id for row in rows}
    for row in rows:
        below.setdefault(row.parent_id if row.parent_id in known else None, []).append(row)
    found: list[Branch] = []
    ahead = [(row, 0) for row in below.get(None, ())]
    while ahead:
        row, depth = ahead.pop()
        found.append(
            Branch(Named(str(row.public_id), row.code, row.name), OrgKind(row.kind), depth)
        )
        ahead += [(each, depth + 1) for each in below.get(row.id, ())]
    return found


# --- Helpers ----------------------------------------------------------------------------------


def _rows(query: Query, now_ms: int) -> CompoundSelect[Any] | Select[Any]:
    """meeting_id, member_id, verdict, at_ms, taps, declaration_id of everything that fits."""
    m, mo, a, p = (
        s.meetings.c,
        taking_part.c,
        s.attendances.c,
        s.memberships.c,
    )
    asked = [m.starts_ms >= query.from_ms, m.starts_ms < query.to_ms, ~m.cancelled]
    if query.meeting_id is not None:
        asked.append(m.id == query.meeting_id)
    if query.kind is not None:
        asked.append(m.kind == query.kind.value)
    nothing = cast(null(), BigInteger)
    seen = (
        select(a.meeting_id, a.member_id, a.verdict, a.at_ms, a.taps, a.declaration_id)
        .join(s.meetings, m.id == a.meeting_id)
        .where(
            # By the key, meeting by meeting, and not through all that ever was.
            a.meeting_id.in_(select(m.id).where(*asked).correlate(None)),
            *_whom(query, a.member_id),
            _is_shown(query.scope, a.member_id, a.verdict != Verdict.GUEST.value),
        )
    )
    unseen = (
        select(
            m.id,
            p.member_id,
            # As `hub.domain.attendance.verdict_without_tap` says it.
            case((m.ends_ms < now_ms, Verdict.PENDING.value), else_=Verdict.NOT_SEEN.value),
            nothing,
            literal(0),
            nothing,
        )
        .distinct()
        .select_from(s.meetings)
        .join(taking_part, mo.meeting_id == m.id)
        .join(s.memberships, IS_EXPECTED_OF)
        .where(
            *asked,
            *_whom(query, p.member_id),
            _is_shown(query.scope, p.member_id, literal(value=True)),
            ~exists().where(a.meeting_id == m.id, a.member_id == p.member_id),
        )
    )
    match query.verdict:
        case None:
            return union_all(seen, unseen)
        case Verdict.PENDING:
            unseen = unseen.where(m.ends_ms < now_ms)
        case Verdict.NOT_SEEN:
            unseen = unseen.where(m.ends_ms >= now_ms)
        case verdict:
            return seen.where(a.verdict == verdict.value)
    # One that a union with nothing would name and type in the same way.
    return union_all(seen.where(literal(value=False)), unseen)


def _concerned(scope: Scope, from_ms: int, to_ms: int) -> Select[Any]:
    """Members of the scope in the period, and of the partners of meetings that it hosts then."""
    m, mo, p = s.meetings.c, taking_part.c, s.memberships.c
    found = select(s.members.c.id, s.members.c.code, s.members.c.name)
    if scope is EVERYTHING:
        return found
    partners = (
        select(mo.organisation_id)
        .join(s.meetings, m.id == mo.meeting_id)
        .where(within(scope, m.organisation_id), m.starts_ms >= from_ms, m.starts_ms < to_ms)
    )
    places = select(p.member_id).where(
        or_(within(scope, p.organisation_id), p.organisation_id.in_(partners)),
        p.valid_from_ms < to_ms,
        or_(p.valid_to_ms.is_(None), p.valid_to_ms > from_ms),
    )
    return found.where(s.members.c.id.in_(places))


def _whom(query: Query, member_id: ColumnElement[int]) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if query.member_id is not None:
        found.append(member_id == query.member_id)
    if query.member_ids is not None:
        # In the statement's text: there may be more of them than a statement has parameters.
        ids: BindParameter[Any] = bindparam(
            None, list(query.member_ids), expanding=True, literal_execute=True
        )
        found.append(member_id.in_(ids))
    return found


def _is_shown(
    scope: Scope, member_id: ColumnElement[int], is_expected: ColumnElement[bool]
) -> ColumnElement[bool]:
    if scope is EVERYTHING:
        return literal(value=True)
    inside = select(subtree(scope).c.id)
    hosted = s.meetings.c.organisation_id.in_(inside)
    p = s.memberships.alias("ever")
    # Looked up once, so that most are told at once to have no place there at any time.
    ever = member_id.in_(select(p.c.member_id).where(p.c.organisation_id.in_(inside)))
    return or_(and_(is_expected, hosted), and_(ever, _belonged(scope, member_id)))


def _belonged(scope: Scope, member_id: ColumnElement[int]) -> ColumnElement[bool]:
    """The condition that a member had a place in the scope when the meeting began."""
    if scope is EVERYTHING:
        return literal(value=True)
    place = s.memberships.alias("place")
    return exists().where(
        place.c.member_id == member_id,
        place.c.organisation_id.in_(select(subtree(scope).c.id)),
        holds(place, s.meetings.c.starts_ms),
    )


def _branch(member_id: ColumnElement[int], at_ms: ColumnElement[int]) -> ColumnElement[Any]:
    """The name of the organisation, other than a group, that a member belongs to at a time.

    Of several the branch, then the one that came last.
    """
    home, o = s.memberships.alias("home"), s.organisations.alias("home_organisation")
    return (
        select(o.c.name)
        .join(home, home.c.organisation_id == o.c.id)
        .where(
            home.c.member_id == member_id,
            home.c.body == Body.MEMBER.value,
            o.c.kind != OrgKind.GROUP.value,
            holds(home, at_ms),
        )
        .order_by(
            case((o.c.kind == OrgKind.BRANCH.value, 1), else_=0).desc(),
            home.c.valid_from_ms.desc(),
            home.c.id.desc(),
        )
        .limit(1)
        .correlate(s.members, s.meetings)
        .scalar_subquery()
    )


def _lines(query: Query, now_ms: int, limit: int, offset: int) -> Select[Any]:
    rows = _rows(query, now_ms).subquery("asked")
    m, p = s.meetings.c, s.members.c
    # First which they are, then all that is to be said of those few.
    page = (
        select(rows)
        .join(s.meetings, m.id == rows.c.meeting_id)
        .join(s.members, p.id == rows.c.member_id)
        .order_by(m.starts_ms.desc(), m.code, p.code)
        .limit(limit)
        .offset(offset)
        .subquery("page")
    )
    return (
        select(
            m.public_id.label("meeting_public_id"),
            m.code.label("meeting_code"),
            m.title,
            m.kind,
            m.starts_ms,
            s.organisations.c.name.label("organisation"),
            s.venues.c.name.label("venue"),
            p.public_id,
            p.code,
            p.name,
            _belonged(query.scope, p.id).label("belongs"),
            _branch(p.id, m.starts_ms).label("branch"),
            page.c.verdict,
            page.c.at_ms,
            page.c.taps,
            cast(s.declarations.c.kind, Text).label("stated"),
        )
        .select_from(page)
        .join(s.meetings, m.id == page.c.meeting_id)
        .join(s.organisations, s.organisations.c.id == m.organisation_id)
        .join(s.venues, s.venues.c.id == m.venue_id)
        .join(s.members, p.id == page.c.member_id)
        .outerjoin(s.declarations, s.declarations.c.id == page.c.declaration_id)
        .order_by(m.starts_ms.desc(), m.code, p.code)
    )


def _line(row: Row[Any]) -> Line:
    verdict = Verdict(row.verdict)
    is_known = verdict not in {Verdict.NOT_SEEN, Verdict.PENDING}
    return Line(
        Named(str(row.meeting_public_id), row.meeting_code, row.title),
        MeetingKind(row.kind),
        row.organisation,
        row.venue,
        row.starts_ms,
        Named(str(row.public_id), row.code, row.name),
        bool(row.belongs),
        row.branch,
        verdict,
        row.at_ms,
        row.taps,
        evidence_of(row.verdict, row.stated, row.taps) if is_known else None,
    )
