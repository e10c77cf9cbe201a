"""A member's own file: my meetings, my cards, what I asked for; and who looked at it.

Promises: it is the whole file, wherever a meeting was and whichever branch the member was of; it
tells nothing of any other member but who stated something, and who looked. A meeting that has
nothing to do with the member is not found. That members read their own file is no look at it.

Reads only. Whoever calls has `Right.OWN`, and gives the `member_id` of the caller.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, false, func, or_, select

from hub.domain.terms import Body, CardStatus, DeclarationKind, Office, Role, Verdict
from hub.domain.words import Words
from hub.evidence import (
    Entry,
    Source,
    concerns,
    entry,
    is_expected,
    sources,
    spoken_of,
    was_expected,
)
from hub.objections import Objection, find_mine, objections_of
from hub.store import queries
from hub.store import schema as s
from hub.store.queries import MeetingHead, Named
from hub.store.scope import EVERYTHING
from hub.taps import last_of

AHEAD_MS: Final = 366 * 24 * 3600 * 1000
"""Meetings are upcoming if they begin within this time."""
_LONGEST_MS: Final = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Place:
    """Where the member belongs or belonged; times half-open."""

    organisation: Named
    body: Body
    votes: bool
    from_ms: int
    to_ms: int | None


@dataclass(frozen=True, slots=True)
class OfficeHeld:
    """What the member does or did for an organisation."""

    organisation: Named
    office: Office
    from_ms: int
    to_ms: int | None


@dataclass(frozen=True, slots=True)
class Me:
    """Who the member is, to the hub."""

    public_id: str
    code: str
    name: str
    places: tuple[Place, ...]
    offices: tuple[OfficeHeld, ...]


@dataclass(frozen=True, slots=True)
class Mine:
    """A meeting in the member's list."""

    meeting: MeetingHead
    verdict: Verdict
    at_ms: int | None
    source: Source | None
    """None: nothing is known."""
    objection: Objection | None
    """The last one that was not withdrawn."""
    as_of_ms: int


@dataclass(frozen=True, slots=True)
class Card:
    """A card that is or was the member's."""

    numbers: tuple[str, ...]
    """The last characters of each of its numbers; none where they were erased."""
    status: CardStatus
    from_ms: int
    to_ms: int | None


@dataclass(frozen=True, slots=True)
class Asked:
    """Leave or 补签 that was asked for the member."""

    public_id: str
    kind: DeclarationKind
    meeting: str
    """The meeting's title."""
    meeting_public_id: str
    starts_ms: int
    reason: str
    """A LeaveReason, or words."""
    author: str
    made_ms: int
    answer: DeclarationKind | None
    """None: it waits, unless it was withdrawn."""
    answered_by: str | None
    answered_ms: int | None
    is_withdrawn: bool


def me(conn: Connection, member_id: int) -> Me:
    """Who the member is, with every place and office there ever was, the latest first."""
    ms, of, o = s.memberships.c, s.offices.c, s.organisations.c
    row = conn.execute(select(s.members).where(s.members.c.id == member_id)).one()
    places = conn.execute(
        select(s.memberships, o.public_id, o.code, o.name)
        .join(s.organisations, o.id == ms.organisation_id)
        .where(ms.member_id == member_id)
        .order_by(ms.valid_from_ms.desc(), ms.id.desc())
    )
    offices = conn.execute(
        select(s.offices, o.public_id, o.code, o.name)
        .join(s.organisations, o.id == of.organisation_id)
        .where(of.member_id == member_id)
        .order_by(of.valid_from_ms.desc(), of.id.desc())
    )
    return Me(
        str(row.public_id),
        row.code,
        row.name,
        tuple(
            Place(_named(each), Body(each.body), each.votes, each.valid_from_ms, each.valid_to_ms)
            for each in places
        ),
        tuple(
            OfficeHeld(_named(each), Office(each.office), each.valid_from_ms, each.valid_to_ms)
            for each in offices
        ),
    )


def my_meetings(
    conn: Connection, member_id: int, from_ms: int, to_ms: int, now_ms: int
) -> list[Mine]:
    """Where the member was expected or came, of meetings that start in the period; latest first."""
    public_id = conn.scalars(select(s.members.c.public_id).where(s.members.c.id == member_id)).one()
    found = queries.member_attendance(conn, EVERYTHING, str(public_id), from_ms, to_ms, now_ms)
    assert found is not None  # noqa: S101
    m = s.meetings.c
    ids = {
        str(row.public_id): row.id
        for row in conn.execute(
            select(m.id, m.public_id).where(
                concerns(member_id), m.starts_ms >= from_ms, m.starts_ms < to_ms
            )
        )
    }
    known = sources(conn, member_id, sorted(ids.values()))
    objections = _last_by_meeting(objections_of(conn, member_id))
    return [
        Mine(
            each.meeting,
            each.verdict,
            each.at_ms,
            known.get(ids[each.meeting.public_id]),
            objections.get(each.meeting.public_id),
            now_ms,
        )
        for each in reversed(found.meetings)
    ]


def upcoming(conn: Connection, member_id: int, now_ms: int) -> list[Mine]:
    """Meetings that expect the member and are not over, the next one first."""
    found = my_meetings(conn, member_id, now_ms - _LONGEST_MS, now_ms + AHEAD_MS, now_ms)
    expecting = {
        str(each)
        for each in conn.scalars(
            select(s.meetings.c.public_id).where(
                is_expected(member_id), s.meetings.c.ends_ms >= now_ms
            )
        )
    }
    return [each for each in reversed(found) if each.meeting.public_id in expecting]


def my_entry(
    conn: Connection, member_id: int, meeting: uuid.UUID, now_ms: int, zone: ZoneInfo
) -> tuple[Entry, list[Objection]]:
    """One meeting with all evidence, and what the member objected. Raises NotFoundError."""
    row = find_mine(conn, member_id, meeting)
    found = entry(conn, row, member_id, now_ms, zone, with_leave_reason=True)
    mine = [each for each in objections_of(conn, member_id) if each.meeting_id == row.id]
    return found, mine


def my_cards(conn: Connection, member_id: int) -> list[Card]:
    """Every card that is or was bound to the member, the latest first."""
    b, c = s.bindings.c, s.credentials.c
    numbers: dict[int, list[str]] = {}
    for row in conn.execute(
        select(c.card_id, c.value)
        .where(
            c.card_id.in_(select(b.card_id).where(b.member_id == member_id)), c.value.is_not(None)
        )
        .order_by(c.id)
    ):
        numbers.setdefault(row.card_id, []).append(last_of(row.value))
    return [
        Card(
            tuple(numbers.get(row.card_id, ())),
            CardStatus(row.status),
            row.valid_from_ms,
            row.valid_to_ms,
        )
        for row in conn.execute(
            select(b.card_id, b.valid_from_ms, b.valid_to_ms, s.cards.c.status)
            .join(s.cards, s.cards.c.id == b.card_id)
            .where(b.member_id == member_id)
            .order_by(b.valid_from_ms.desc(), b.id.desc())
        )
    ]


def my_asks(conn: Connection, member_id: int) -> list[Asked]:
    """Leave and 补签 asked for the member, by whomever, the latest first."""
    d = s.declarations.c
    answer, gone = s.declarations.alias("answer"), s.declarations.alias("gone")
    answer_gone = s.declarations.alias("answer_gone")
    withdrawn = DeclarationKind.WITHDRAWN.value
    answers = [
        each.value
        for each in (
            DeclarationKind.LEAVE_GRANTED,
            DeclarationKind.LEAVE_REFUSED,
            DeclarationKind.BACK_FILL_GRANTED,
            DeclarationKind.BACK_FILL_REFUSED,
        )
    ]
    is_gone = exists().where(gone.c.about_id == d.id, gone.c.kind == withdrawn)
    rows = conn.execute(
        select(
            s.declarations,
            s.meetings.c.title,
            s.meetings.c.public_id.label("meeting_public_id"),
            s.meetings.c.starts_ms,
            is_gone.correlate(s.declarations).label("is_withdrawn"),
            answer.c.kind.label("answer"),
            answer.c.author.label("answered_by"),
            answer.c.made_ms.label("answered_ms"),
        )
        .select_from(s.declarations)
        .join(s.meetings, s.meetings.c.id == d.meeting_id)
        .outerjoin(
            answer,
            and_(
                answer.c.about_id == d.id,
                answer.c.kind.in_(answers),
                ~exists()
                .where(answer_gone.c.about_id == answer.c.id, answer_gone.c.kind == withdrawn)
                .correlate(answer),
            ),
        )
        .where(
            d.member_id == member_id,
            d.kind.in_([DeclarationKind.LEAVE_ASKED.value, DeclarationKind.BACK_FILL_ASKED.value]),
        )
        # Of several answers the last one holds.
        .order_by(d.made_ms.desc(), d.id.desc(), answer.c.made_ms.desc(), answer.c.id.desc())
    ).all()
    found: dict[int, Asked] = {}
    for row in rows:
        is_answered = row.answer is not None and not row.is_withdrawn
        found.setdefault(
            row.id,
            Asked(
                str(row.public_id),
                DeclarationKind(row.kind),
                row.title,
                str(row.meeting_public_id),
                row.starts_ms,
                row.reason or "",
                row.author,
                row.made_ms,
                DeclarationKind(row.answer) if is_answered else None,
                row.answered_by if is_answered else None,
                row.answered_ms if is_answered else None,
                bool(row.is_withdrawn),
            ),
        )
    return list(found.values())


# --- Who looked -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Looked:
    """The same look by the same person on one day, however often."""

    day: date
    actor: str
    role: Role | None
    """None: the hub's own machine."""
    organisation: str | None
    """Whose sub-tree the looker's account or token is for, by its name now."""
    is_program: bool
    """Whether it was a token, and not somebody signed in."""
    is_me: bool
    """Whether the account is the member's own, in another role."""
    what: str
    """Such as meeting.page."""
    of: Words
    """What was shown."""
    first_ms: int
    last_ms: int
    times: int


def looked_at(
    conn: Connection, member_id: int, from_ms: int, to_ms: int, zone: ZoneInfo
) -> list[Looked]:
    """Who was shown data of the member in `[from_ms, to_ms)`, the latest first.

    Directly; through a meeting that expected the member or where the member came, if it was its
    host's side that looked, or the side to which the member belonged; through what was shown of an
    organisation that the member belonged to in the period shown, or that hosted a meeting then
    which expected the member. Which organisations took part is asked of the time of the look.
    """
    x, a, t = s.accesses.c, s.accounts.c, s.tokens.c
    own = s.organisations.alias("own")
    of = s.organisations.alias("of")
    rows = conn.execute(
        select(
            s.accesses,
            func.coalesce(a.role, t.role).label("role"),
            a.member_id.label("actor_member_id"),
            own.c.name.label("actor_organisation"),
            of.c.name.label("of_organisation"),
            s.meetings.c.title,
            s.meetings.c.starts_ms,
        )
        .select_from(s.accesses)
        .outerjoin(s.accounts, a.id == x.account_id)
        .outerjoin(s.tokens, t.id == x.token_id)
        .outerjoin(own, own.c.id == func.coalesce(a.organisation_id, t.organisation_id))
        .outerjoin(of, of.c.id == x.organisation_id)
        .outerjoin(s.meetings, s.meetings.c.id == x.meeting_id)
        .where(x.at_ms >= from_ms, x.at_ms < to_ms, _shows(conn, member_id))
        .order_by(x.at_ms.desc(), x.id.desc())
    )
    found: dict[tuple[Any, ...], Looked] = {}
    for row in rows:
        day = datetime.fromtimestamp(row.at_ms / 1000, zone).date()
        key = (
            day,
            row.account_id,
            row.token_id,
            row.actor,
            row.what,
            row.meeting_id,
            row.member_id,
            row.organisation_id,
            row.from_ms,
            row.to_ms,
        )
        known = found.get(key)
        found[key] = Looked(
            day,
            row.actor,
            None if row.role is None else Role(row.role),
            row.actor_organisation,
            row.token_id is not None,
            row.actor_member_id == member_id,
            row.what,
            _shown(row, zone),
            row.at_ms,
            row.at_ms if known is None else known.last_ms,
            1 if known is None else known.times + 1,
        )
    return list(found.values())


def _shows(conn: Connection, member_id: int) -> ColumnElement[bool]:
    """The condition that an access showed the member."""
    x, ms, m = s.accesses.c, s.memberships.c, s.meetings.c
    shown_from, shown_to = func.coalesce(x.from_ms, x.at_ms), func.coalesce(x.to_ms, x.at_ms + 1)
    parents = _parents(conn)
    places = conn.execute(
        select(ms.organisation_id, ms.valid_from_ms, ms.valid_to_ms).where(
            ms.member_id == member_id
        )
    ).all()
    through: list[ColumnElement[bool]] = [
        and_(
            x.organisation_id.in_(_above(parents, row.organisation_id)),
            shown_to > row.valid_from_ms,
            *(() if row.valid_to_ms is None else (shown_from < row.valid_to_ms,)),
        )
        for row in places
    ]
    expected = was_expected(member_id, x.at_ms)
    # Whoever is shown a sub-tree's meetings is shown the people of partners that they expected.
    mo = s.meeting_organisations.c
    ever = select(mo.meeting_id).where(
        mo.organisation_id.in_(select(ms.organisation_id).where(ms.member_id == member_id))
    )
    hosts = conn.scalars(
        select(m.organisation_id)
        .where(or_(m.id.in_(ever), m.id.in_(spoken_of(member_id))))
        .distinct()
    ).all()
    through += [
        and_(
            x.organisation_id.in_(_above(parents, host)),
            exists()
            .where(
                m.organisation_id == host,
                expected,
                m.starts_ms >= shown_from,
                m.starts_ms < shown_to,
            )
            .correlate(s.accesses),
        )
        for host in hosts
    ]
    # A meeting shows its host's side everybody there, and another side its own people.
    to_host = [
        and_(m.organisation_id == host, x.scope_id.in_(_above(parents, host))) for host in hosts
    ]
    to_theirs = [
        and_(
            x.scope_id.in_(_above(parents, row.organisation_id)),
            m.starts_ms >= row.valid_from_ms,
            *(() if row.valid_to_ms is None else (m.starts_ms < row.valid_to_ms,)),
        )
        for row in places
    ]
    in_meeting = (
        exists()
        .where(
            m.id == x.meeting_id,
            or_(m.id.in_(spoken_of(member_id)), expected),
            or_(x.scope_id.is_(None), *to_host, *to_theirs),
        )
        .correlate(s.accesses)
    )
    # The list of what is asked for shows those who have asked.
    d = s.declarations.c
    asked = (
        exists()
        .where(
            d.member_id == member_id,
            d.kind.in_([DeclarationKind.LEAVE_ASKED.value, DeclarationKind.BACK_FILL_ASKED.value]),
            d.made_ms <= x.at_ms,
        )
        .correlate(s.accesses)
    )
    # What names a member shows that one alone, whatever else it names.
    return or_(
        x.member_id == member_id,
        and_(x.member_id.is_(None), in_meeting),
        and_(
            x.member_id.is_(None),
            x.meeting_id.is_(None),
            or_(false(), *through),
            or_(x.what.not_like("asks.%"), asked),
        ),
    )


def _parents(conn: Connection) -> dict[int, int | None]:
    o = s.organisations.c
    return {row.id: row.parent_id for row in conn.execute(select(o.id, o.parent_id))}


def _above(parents: dict[int, int | None], organisation_id: int) -> list[int]:
    """The organisation and all above it."""
    found: list[int] = []
    here: int | None = organisation_id
    while here is not None and here not in found:
        found.append(here)
        here = parents.get(here)
    return found


def _shown(row: Row[Any], zone: ZoneInfo) -> Words:
    area, _, deed = row.what.partition(".")
    if row.member_id is not None:
        if row.title is not None:
            return Words("您在会议“{title}”的记录", title=row.title)
        if area == "account":
            return Words("您的账号")
        return Words("您的卡") if "card" in area or deed == "cards" else Words("您本人的记录")
    if row.title is not None:
        day = datetime.fromtimestamp(row.starts_ms / 1000, zone).date().isoformat()
        if deed == "asks":
            return Words("会议“{title}”（{day}）的请假和补签", title=row.title, day=day)
        return Words("会议“{title}”（{day}）的考勤", title=row.title, day=day)
    name = row.of_organisation
    if row.from_ms is not None and row.to_ms is not None:
        first, last = (
            datetime.fromtimestamp(each / 1000, zone).date().isoformat()
            for each in (row.from_ms, row.to_ms - 1)
        )
        return Words("“{name}”及下级组织{first}至{last}的考勤", name=name, first=first, last=last)
    match area:
        case "asks":
            return Words("“{name}”及下级组织的请假和补签申请", name=name)
        case "tap" | "taps":
            return Words("“{name}”及下级组织待核对的刷卡（其中可能有您的）", name=name)
        case _:
            return Words("“{name}”及下级组织的人员", name=name)


# --- Helpers --------------------------------------------------------------------------------


def _named(row: Row[Any]) -> Named:
    return Named(str(row.public_id), row.code, row.name)


def _last_by_meeting(several: Iterable[Objection]) -> dict[str, Objection]:
    """By meeting's public id, of objections with the latest first: the last that stands."""
    found: dict[str, Objection] = {}
    for each in several:
        if each.state != "WITHDRAWN":
            found.setdefault(each.meeting_public_id, each)
    return found
