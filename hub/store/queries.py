"""What people ask: the attendance of a meeting, a member, an organisation's sub-tree.

Promises: every function takes a `scope`, the organisation whose sub-tree the asker may see, and
gives None for anything outside of it, just as for what does not exist; `EVERYTHING` must be said.
Reads only; each answer is of frozen dataclasses with texts, numbers and tuples, ready for JSON.
Terms are their identifiers, and have `.zh`.

Who may see what: a meeting, if its organisation lies in the scope; a member, if a membership that
overlaps the time asked for does. Of a member's meetings those are shown at which the member
belonged to the scope at the time. A guest from outside of the scope is a branch's name and nothing
else.

`name` arguments are a code or a public id. Periods `[from_ms, to_ms)` are of meetings' starts.
"""

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Row,
    Select,
    Table,
    and_,
    exists,
    func,
    literal,
    or_,
    select,
    union,
    union_all,
)

from hub.domain.attendance import (
    CoveringDevice,
    Validity,
    device_words,
    pending_reasons,
    quorum,
    unattended_words,
    verdict_without_tap,
)
from hub.domain.completeness import (
    CLOCKS_APART_MS,
    Completeness,
    Epoch,
    Hole,
    Obstacle,
    Parent,
    Settlement,
    Statement,
    completeness,
    forked_ms,
)
from hub.domain.declared import CAME
from hub.domain.terms import (
    Body,
    DeclarationKind,
    DeviceStatus,
    Evidence,
    MeetingKind,
    OrgKind,
    OtherHistory,
    Outcome,
    Quorum,
    QuorumRule,
    Verdict,
)
from hub.store import schema as s
from hub.store.bulk import chunks
from hub.store.clocks import (
    EARLIEST_MS,
    Boot,
    believed,
    date_by,
    is_believed,
    samples_of,
)
from hub.store.expected import IS_EXPECTED, IS_EXPECTED_OF, holds
from hub.store.policies import QUORUM_ASSEMBLY, Policies
from hub.store.scope import EVERYTHING, Scope, is_within, takes_part, taking_part, within
from hub.store.stated import is_assigned, organisations_of, stated_of
from protocol.journal import KIND_TAP


@dataclass(frozen=True, slots=True)
class Named:
    """An organisation or a venue."""

    public_id: str
    code: str
    name: str


@dataclass(frozen=True, slots=True)
class MeetingHead:
    """What a meeting is."""

    public_id: str
    code: str
    title: str
    kind: MeetingKind
    organisation: Named
    partners: tuple[Named, ...]
    """The other organisations of a joint meeting."""
    venue: Named
    chair: str
    """主持人, empty where none is named."""
    opens_ms: int
    starts_ms: int
    ends_ms: int
    grace_minutes: int
    cancelled: bool
    change: int
    """Grows whenever anything of the meeting may have changed."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The figures of a meeting, or their sums."""

    expected: int
    """应到"""
    present: int
    """实到: those of the expected who took part, see `hub.domain.declared.CAME`."""
    late: int
    """迟到"""
    excused: int
    """请假"""
    not_seen: int
    """未见: expected, no tap, and the meeting is not over."""
    pending: int
    """待定: expected, no tap, and nothing is concluded."""
    guests: int
    """列席"""


@dataclass(frozen=True, slots=True)
class Person:
    """A member; of a guest from outside of the scope only `branch` is known."""

    public_id: str | None
    code: str | None
    name: str | None
    branch: str | None
    """Name of the organisation that the member belonged to at the time."""


@dataclass(frozen=True, slots=True)
class AttendanceRow:
    """One person of a meeting."""

    person: Person
    verdict: Verdict
    at_ms: int | None
    """When the member came, as far as that is known: of the earliest tap that counts."""
    taps: int
    evidence: Evidence | None
    """None: nothing is known of the member."""


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device that covers a meeting, and through which time its record is complete."""

    public_id: str
    name: str
    complete: bool
    """Whether nothing of the device's record of the meeting's window can be missing."""
    through_ms: int | None
    last_contact_ms: int | None
    words: str


@dataclass(frozen=True, slots=True)
class Overlap:
    """A meeting at the same venue whose check-in window has a time in common with another's."""

    public_id: str | None
    """None: it is of others, and not to be named."""
    title: str
    starts_ms: int
    ends_ms: int


@dataclass(frozen=True, slots=True)
class MeetingAttendance:
    """A meeting with everybody it concerns."""

    meeting: MeetingHead
    counts: Counts
    rows: tuple[AttendanceRow, ...]
    """The expected by code, then the guests by time."""
    devices: tuple[DeviceState, ...]
    complete: bool
    """Whether nothing of the window can be missing: the devices spanned it, and have sent all."""
    unmatched: int
    """Taps in the window, at the venue, of cards that are bound to nobody."""
    unplaced: int
    """Taps there of members who belong to none of several open meetings."""
    undated: int
    """Taps of the covering devices that may have been in the window: their time is not known."""
    reasons: tuple[str, ...]
    """Why those without a tap are not concluded to be absent; empty where there are none."""
    held: bool | None
    """Whether somebody confirmed that it took place; None: nobody has said."""
    head_count: int | None
    """清点人数"""
    sheet_complete: bool
    """Whether a signed paper sheet was declared complete."""
    quorum: Quorum
    as_of_ms: int
    unattended: tuple[str, ...] = ()
    """In which parts of the window no device stood at the venue, a sentence each."""
    overlaps: tuple[Overlap, ...] = ()
    why_cancelled: str = ""
    """The reason that was given when it was called off; empty of others."""
    """Meetings for which a tap may count as well."""


@dataclass(frozen=True, slots=True)
class MeetingCounts:
    """A meeting in a list."""

    meeting: MeetingHead
    counts: Counts


@dataclass(frozen=True, slots=True)
class OrganisationAttendance:
    """The meetings of a sub-tree in a period, by start."""

    organisation: Named
    meetings: tuple[MeetingCounts, ...]
    totals: Counts
    """Sums over the meetings that were not cancelled: 人次, not people."""
    as_of_ms: int


@dataclass(frozen=True, slots=True)
class MemberMeeting:
    """A member at one meeting."""

    meeting: MeetingHead
    verdict: Verdict
    at_ms: int | None
    taps: int
    evidence: Evidence | None


@dataclass(frozen=True, slots=True)
class MemberAttendance:
    """A member's meetings in a period, by start."""

    member: Person
    meetings: tuple[MemberMeeting, ...]
    as_of_ms: int


# --- Meetings ---------------------------------------------------------------------------------


def meeting_attendance(
    conn: Connection, scope: Scope, name: str, now_ms: int, zone: ZoneInfo
) -> MeetingAttendance | None:
    """Everything that is known of a meeting; times in words are in `zone`."""
    row = conn.execute(
        _MEETINGS.where(_is_named(s.meetings, name), takes_part(scope))
    ).one_or_none()
    if row is None:
        return None
    devices = _covering(conn, row)
    stated = stated_of(conn, [row.id])[row.id]
    people = {} if row.cancelled else _people(conn, scope, row, now_ms)
    rows = tuple(people.values())
    counts = _count(rows)
    waiting = _waiting(conn, row)
    unmatched, unplaced = waiting[Outcome.UNMATCHED], waiting[Outcome.UNPLACED]
    undated = _undated(conn, row, devices)
    unattended = unattended_words(
        row.opens_ms, row.ends_ms, [each for _, each in devices.values()], zone
    )
    complete = stated.sheet_complete or (
        all(each.completeness.covers(row.opens_ms, row.ends_ms) for _, each in devices.values())
        and not unattended
    )
    return MeetingAttendance(
        meeting=_head(row, _partners(conn, [row.id])),
        counts=counts,
        rows=rows,
        devices=tuple(
            _state(each, public_id, row, now_ms, zone) for public_id, each in devices.values()
        ),
        complete=complete,
        unmatched=unmatched,
        unplaced=unplaced,
        undated=undated,
        reasons=pending_reasons(
            row.opens_ms,
            row.ends_ms,
            [each for _, each in devices.values()],
            zone,
            held=stated.held,
            sheet_complete=stated.sheet_complete,
            is_over=now_ms > row.ends_ms,
        )
        if counts.not_seen or counts.pending
        else (),
        held=stated.held,
        head_count=stated.head_count,
        sheet_complete=stated.sheet_complete,
        quorum=quorum_of(
            conn,
            row,
            {each for each, person in people.items() if person.verdict in CAME},
            # Nobody can be found to have come after all.
            final=complete and now_ms > row.ends_ms and not (unmatched or unplaced or undated),
        ),
        as_of_ms=now_ms,
        unattended=tuple(unattended),
        overlaps=overlaps(conn, scope, row),
        why_cancelled=_why_cancelled(conn, row.public_id) if row.cancelled else "",
    )


def _why_cancelled(conn: Connection, public_id: uuid.UUID) -> str:
    """The reason that was given when a meeting was last called off; empty if none is known."""
    a = s.audit.c
    details = conn.scalar(
        select(a.details)
        .where(a.object == "meeting", a.object_id == public_id, a.what == "meeting.cancel")
        .order_by(a.at_ms.desc(), a.id.desc())
        .limit(1)
    )
    return "" if details is None else str(json.loads(details).get("reason", ""))


def cancelled_meetings(
    conn: Connection, scope: Scope, member_id: int, from_ms: int, to_ms: int
) -> list[tuple[MeetingHead, str]]:
    """What was called off of the meetings in a period that expect a member, with the reasons."""
    ms = s.memberships.c
    rows = conn.execute(
        _MEETINGS.where(
            s.meetings.c.cancelled,
            takes_part(scope),
            s.meetings.c.starts_ms >= from_ms,
            s.meetings.c.starts_ms < to_ms,
            select(ms.id)
            .where(ms.member_id == member_id, IS_EXPECTED)
            .correlate(s.meetings)
            .exists(),
        ).order_by(s.meetings.c.starts_ms.desc(), s.meetings.c.id)
    ).all()
    partners = _partners(conn, [row.id for row in rows])
    return [(_head(row, partners), _why_cancelled(conn, row.public_id)) for row in rows]


def overlaps(conn: Connection, scope: Scope, meeting: Row[Any]) -> tuple[Overlap, ...]:
    """The other meetings for which a tap within the meeting's window may count, by start."""
    if meeting.cancelled:
        return ()
    m = s.meetings.c
    return tuple(
        Overlap(
            str(row.public_id) if row.is_seen else None,
            row.title if row.is_seen else "",
            row.starts_ms,
            row.ends_ms,
        )
        for row in conn.execute(
            select(m.public_id, m.title, m.starts_ms, m.ends_ms, takes_part(scope).label("is_seen"))
            .where(
                m.venue_id == meeting.venue_id,
                m.id != meeting.id,
                ~m.cancelled,
                m.opens_ms <= meeting.ends_ms,
                m.ends_ms >= meeting.opens_ms,
            )
            .order_by(m.starts_ms, m.id)
        )
    )


def meeting_change(conn: Connection, scope: Scope, name: str) -> int | None:
    """The meeting's change number: when it grows, there is something new to show."""
    change: int | None = conn.scalar(
        select(s.meetings.c.change).where(_is_named(s.meetings, name), takes_part(scope))
    )
    return change


def quorum_of(conn: Connection, meeting: Row[Any], came: set[int], *, final: bool) -> Quorum:
    """Whether the meeting of this row may vote, of whose members those with the ids `came` came.

    `final`: nobody can be found to have come after all.
    """
    kind = MeetingKind(meeting.kind)
    if kind is not MeetingKind.BRANCH_ASSEMBLY or meeting.cancelled:
        return Quorum.NOT_ASKED
    voters: dict[int, set[int]] = {
        each: set() for each in organisations_of(conn, [meeting.id])[meeting.id]
    }
    for row in conn.execute(
        select(s.memberships.c.organisation_id, s.memberships.c.member_id)
        .select_from(s.memberships)
        .join(s.meetings, IS_EXPECTED)
        .where(s.meetings.c.id == meeting.id, s.memberships.c.votes)
    ):
        voters[row.organisation_id].add(row.member_id)
    policies = Policies.load(conn)
    each_of = {
        quorum(
            kind,
            QuorumRule(policies.at(QUORUM_ASSEMBLY, meeting.starts_ms, organisation_id).value),
            len(members),
            len(members & came),
            final=final,
        )
        for organisation_id, members in voters.items()
        if members
    }
    # Each branch of a joint assembly votes for itself.
    if Quorum.NOT_MET in each_of:
        return Quorum.NOT_MET
    return Quorum.MET if each_of == {Quorum.MET} else Quorum.UNKNOWN


def organisation_attendance(
    conn: Connection, scope: Scope, name: str, from_ms: int, to_ms: int, now_ms: int
) -> OrganisationAttendance | None:
    """The meetings of an organisation and all below it, with their figures."""
    o = s.organisations.c
    organisation = conn.execute(
        select(o.id, o.public_id, o.code, o.name).where(
            _is_named(s.organisations, name), within(scope, o.id)
        )
    ).one_or_none()
    if organisation is None:
        return None
    asked = and_(
        takes_part(organisation.id),
        s.meetings.c.starts_ms >= from_ms,
        s.meetings.c.starts_ms < to_ms,
    )
    expected = {
        row.id: row.expected
        for row in conn.execute(
            select(
                s.meetings.c.id, func.count(s.memberships.c.member_id.distinct()).label("expected")
            )
            .select_from(s.meetings)
            .join(taking_part, taking_part.c.meeting_id == s.meetings.c.id)
            .join(s.memberships, IS_EXPECTED_OF)
            .where(asked)
            .group_by(s.meetings.c.id)
        )
    }
    seen: dict[int, Counter[Verdict]] = defaultdict(Counter)
    for row in conn.execute(
        select(s.attendances.c.meeting_id, s.attendances.c.verdict, func.count().label("people"))
        .join(s.meetings, s.meetings.c.id == s.attendances.c.meeting_id)
        .where(asked)
        .group_by(s.attendances.c.meeting_id, s.attendances.c.verdict)
    ):
        seen[row.meeting_id][Verdict(row.verdict)] = row.people
    partners = _partners(conn, select(s.meetings.c.id).where(asked))
    meetings = tuple(
        MeetingCounts(
            _head(row, partners),
            _NOBODY
            if row.cancelled
            else _counts(expected.get(row.id, 0), seen[row.id], row.ends_ms, now_ms),
        )
        for row in conn.execute(
            _MEETINGS.where(asked).order_by(s.meetings.c.starts_ms, s.meetings.c.code)
        )
    )
    return OrganisationAttendance(
        Named(str(organisation.public_id), organisation.code, organisation.name),
        meetings,
        _sum(each.counts for each in meetings),
        now_ms,
    )


# --- Members ----------------------------------------------------------------------------------


def member_attendance(
    conn: Connection, scope: Scope, name: str, from_ms: int, to_ms: int, now_ms: int
) -> MemberAttendance | None:
    """Where a member was expected, and where else the member came.

    Of somebody who belongs elsewhere by now, the branch is the last one in the scope.
    """
    m = s.memberships.c
    member = conn.execute(
        select(s.members).where(
            _is_named(s.members, name),
            s.members.c.id.in_(
                select(m.member_id).where(
                    within(scope, m.organisation_id),
                    m.valid_from_ms < to_ms,
                    or_(m.valid_to_ms.is_(None), m.valid_to_ms > from_ms),
                )
            )
            if scope is not EVERYTHING
            else literal(value=True),
        )
    ).one_or_none()
    if member is None:
        return None
    is_expected = (
        select(m.id).where(m.member_id == member.id, IS_EXPECTED).correlate(s.meetings).exists()
    )
    belonged = (
        select(m.id)
        .where(
            m.member_id == member.id,
            within(scope, m.organisation_id),
            holds(s.memberships, s.meetings.c.starts_ms),
        )
        .correlate(s.meetings)
        .exists()
    )
    c = s.attendances.c
    d = s.declarations.c
    rows = conn.execute(
        _MEETINGS.add_columns(c.verdict, c.at_ms, c.taps, d.kind.label("stated"))
        .outerjoin(s.attendances, and_(c.meeting_id == s.meetings.c.id, c.member_id == member.id))
        .outerjoin(s.declarations, d.id == c.declaration_id)
        .where(
            s.meetings.c.starts_ms >= from_ms,
            s.meetings.c.starts_ms < to_ms,
            ~s.meetings.c.cancelled,
            or_(c.verdict.is_not(None), is_expected),
            # Not the scope's own meetings as such: who was a guest there, unnamed, and joined
            # later stays unnamed.
            belonged if scope is not EVERYTHING else literal(value=True),
        )
        .order_by(s.meetings.c.starts_ms, s.meetings.c.code)
    ).all()
    partners = _partners(conn, [row.id for row in rows])
    meetings = tuple(
        MemberMeeting(
            _head(row, partners),
            verdict_without_tap(row.ends_ms, now_ms)
            if row.verdict is None
            else Verdict(row.verdict),
            row.at_ms,
            row.taps or 0,
            evidence_of(row.verdict, row.stated, row.taps),
        )
        for row in rows
    )
    o = s.organisations.c
    branch = conn.scalar(
        select(o.name)
        .join(s.memberships, m.organisation_id == o.id)
        .where(
            m.member_id == member.id,
            m.body == Body.MEMBER.value,
            o.kind != OrgKind.GROUP.value,
            within(scope, o.id),
            m.valid_from_ms <= min(now_ms, to_ms - 1),
            or_(m.valid_to_ms.is_(None), m.valid_to_ms > from_ms),
        )
        # The one that lasts longest; of several the branch, then the one that came last.
        .order_by(
            m.valid_to_ms.is_(None).desc(),
            m.valid_to_ms.desc(),
            (o.kind == OrgKind.BRANCH.value).desc(),
            m.valid_from_ms.desc(),
            m.id.desc(),
        )
        .limit(1)
    )
    return MemberAttendance(
        Person(str(member.public_id), member.code, member.name, branch), meetings, now_ms
    )


# --- Helpers ----------------------------------------------------------------------------------

_NOBODY: Final = Counts(0, 0, 0, 0, 0, 0, 0)

_MEETINGS: Final[Select[Any]] = (
    select(
        s.meetings,
        s.organisations.c.public_id.label("organisation_public_id"),
        s.organisations.c.code.label("organisation_code"),
        s.organisations.c.name.label("organisation_name"),
        s.venues.c.public_id.label("venue_public_id"),
        s.venues.c.code.label("venue_code"),
        s.venues.c.name.label("venue_name"),
    )
    .join(s.organisations, s.organisations.c.id == s.meetings.c.organisation_id)
    .join(s.venues, s.venues.c.id == s.meetings.c.venue_id)
)


def _is_named(table: Table, name: str) -> ColumnElement[bool]:
    try:
        public_id = uuid.UUID(name)
    except ValueError:
        return table.c.code == name
    return or_(table.c.code == name, table.c.public_id == public_id)


def evidence_of(verdict: str | None, stated: str | None, taps: int | None) -> Evidence | None:
    """By what an attendance is shown: its verdict, and the kind of the declaration that decides."""
    if verdict is None:
        return None
    match stated:
        case None:
            # Nobody stated it on a page and the member did not tap: an act at a reader.
            return Evidence.TAP if taps else Evidence.WITNESSED
        case DeclarationKind.TAP_ASSIGNED.value:
            return Evidence.ASSIGNED
        case DeclarationKind.SHEET.value:
            return Evidence.SHEET
        case DeclarationKind.WITNESSED.value:
            return Evidence.WITNESSED
        case DeclarationKind.BACK_FILL_GRANTED.value:
            return Evidence.BACK_FILL
        case _:
            return Evidence.LEAVE


def _partners(conn: Connection, meeting_ids: Sequence[int] | Select[Any]) -> dict[int, list[Named]]:
    """By meeting: the other organisations that take part."""
    mo, o = taking_part.c, s.organisations.c
    found: dict[int, list[Named]] = defaultdict(list)
    parts = [meeting_ids] if isinstance(meeting_ids, Select) else list(chunks(meeting_ids))
    for part in parts:
        for row in conn.execute(
            select(mo.meeting_id, o.public_id, o.code, o.name)
            .select_from(taking_part)
            .join(s.organisations, o.id == mo.organisation_id)
            .join(s.meetings, s.meetings.c.id == mo.meeting_id)
            .where(mo.meeting_id.in_(part), o.id != s.meetings.c.organisation_id)
            .order_by(o.code)
        ):
            found[row.meeting_id].append(Named(str(row.public_id), row.code, row.name))
    return found


def _head(row: Row[Any], partners: Mapping[int, Sequence[Named]]) -> MeetingHead:
    return MeetingHead(
        str(row.public_id),
        row.code,
        row.title,
        MeetingKind(row.kind),
        Named(str(row.organisation_public_id), row.organisation_code, row.organisation_name),
        tuple(partners.get(row.id, ())),
        Named(str(row.venue_public_id), row.venue_code, row.venue_name),
        row.chair,
        row.opens_ms,
        row.starts_ms,
        row.ends_ms,
        row.grace_minutes,
        row.cancelled,
        row.change,
    )


def _people(
    conn: Connection, scope: Scope, meeting: Row[Any], now_ms: int
) -> dict[int, AttendanceRow]:
    m = s.members.c
    attended = {
        row.member_id: row
        for row in conn.execute(
            select(s.attendances, s.declarations.c.kind.label("stated"))
            .select_from(s.attendances)
            .outerjoin(s.declarations, s.declarations.c.id == s.attendances.c.declaration_id)
            .where(s.attendances.c.meeting_id == meeting.id)
        )
    }
    expected = set(
        conn.scalars(
            select(s.memberships.c.member_id)
            .select_from(s.memberships)
            .join(s.meetings, IS_EXPECTED)
            .where(s.meetings.c.id == meeting.id)
        )
    )
    ids = sorted(expected | attended.keys())
    people = {
        row.id: row
        for part in chunks(ids)
        for row in conn.execute(select(m.id, m.public_id, m.code, m.name).where(m.id.in_(part)))
    }
    branches = _branches(conn, ids, meeting.starts_ms)
    known = _belonging(conn, scope, ids, meeting.starts_ms)
    if is_within(conn, scope, meeting.organisation_id):
        known |= expected
    rows: list[tuple[Any, int, AttendanceRow]] = []
    for member_id in ids:
        person, seen = people[member_id], attended.get(member_id)
        branch = branches.get(member_id)
        verdict = (
            verdict_without_tap(meeting.ends_ms, now_ms) if seen is None else Verdict(seen.verdict)
        )
        row = AttendanceRow(
            Person(str(person.public_id), person.code, person.name, branch)
            if member_id in known
            else Person(None, None, None, branch),
            verdict,
            None if seen is None else seen.at_ms,
            0 if seen is None else seen.taps,
            None if seen is None else evidence_of(seen.verdict, seen.stated, seen.taps),
        )
        is_guest = verdict is Verdict.GUEST
        order = (is_guest, row.at_ms or 0 if is_guest else 0, person.code)
        rows.append((order, member_id, row))
    return {member_id: row for _, member_id, row in sorted(rows, key=lambda each: each[0])}


def _belonging(conn: Connection, scope: Scope, member_ids: Sequence[int], at_ms: int) -> set[int]:
    """Those of the members who belong to the scope at that time."""
    m = s.memberships.c
    return {
        member_id
        for part in chunks(member_ids)
        for member_id in conn.scalars(
            select(m.member_id).where(
                m.member_id.in_(part),
                within(scope, m.organisation_id),
                holds(s.memberships, at_ms),
            )
            if scope is not EVERYTHING
            else select(s.members.c.id).where(s.members.c.id.in_(part))
        )
    }


def _branches(conn: Connection, member_ids: Sequence[int], at_ms: int) -> dict[int, str]:
    """The name of the organisation, other than a group, that each member belongs to then."""
    m, o = s.memberships.c, s.organisations.c
    found: dict[int, str] = {}
    for part in chunks(member_ids):
        for row in conn.execute(
            select(m.member_id, o.name)
            .join(s.organisations, o.id == m.organisation_id)
            .where(
                m.member_id.in_(part),
                m.body == Body.MEMBER.value,
                o.kind != OrgKind.GROUP.value,
                holds(s.memberships, at_ms),
            )
            # Of several the branch, then the one that came last.
            .order_by(o.kind == OrgKind.BRANCH.value, m.valid_from_ms, m.id)
        ):
            found[row.member_id] = row.name
    return found


def _count(rows: Iterable[AttendanceRow]) -> Counts:
    by = Counter(row.verdict for row in rows)
    return Counts(
        expected=by.total() - by[Verdict.GUEST],
        present=sum(by[each] for each in CAME),
        late=by[Verdict.LATE],
        excused=by[Verdict.EXCUSED],
        not_seen=by[Verdict.NOT_SEEN],
        pending=by[Verdict.PENDING],
        guests=by[Verdict.GUEST],
    )


def _counts(expected: int, seen: Counter[Verdict], ends_ms: int, now_ms: int) -> Counts:
    present = sum(seen[each] for each in CAME)
    excused = seen[Verdict.EXCUSED]
    missing = {verdict_without_tap(ends_ms, now_ms): expected - present - excused}
    return Counts(
        expected,
        present,
        seen[Verdict.LATE],
        excused,
        missing.get(Verdict.NOT_SEEN, 0),
        missing.get(Verdict.PENDING, 0),
        seen[Verdict.GUEST],
    )


def _sum(several: Iterable[Counts]) -> Counts:
    total = _NOBODY
    for each in several:
        total = Counts(
            total.expected + each.expected,
            total.present + each.present,
            total.late + each.late,
            total.excused + each.excused,
            total.not_seen + each.not_seen,
            total.pending + each.pending,
            total.guests + each.guests,
        )
    return total


def _waiting(conn: Connection, meeting: Row[Any]) -> Counter[Outcome]:
    """The readings at the venue in the window that wait for a person, as `hub.taps` lists them."""
    r, e = s.readings.c, s.entries.c
    return Counter(
        {
            Outcome(row.outcome): row.taps
            for row in conn.execute(
                select(r.outcome, func.count().label("taps"))
                .select_from(s.readings)
                .join(s.entries, and_(e.epoch_id == r.epoch_id, e.seq == r.seq))
                .where(
                    r.venue_id == meeting.venue_id,
                    r.at_ms.between(meeting.opens_ms, meeting.ends_ms),
                    or_(
                        r.outcome == Outcome.UNMATCHED.value,
                        and_(
                            r.outcome == Outcome.UNPLACED.value,
                            e.kind == KIND_TAP,
                            ~is_assigned(),
                        ),
                    ),
                )
                .group_by(r.outcome)
            )
        }
    )


def _undated(conn: Connection, meeting: Row[Any], device_ids: Iterable[int]) -> int:
    r, e = s.readings.c, s.entries.c
    count: int | None = conn.scalar(
        select(func.count())
        .select_from(s.readings)
        .join(s.epochs, s.epochs.c.id == r.epoch_id)
        .join(s.entries, and_(e.epoch_id == r.epoch_id, e.seq == r.seq))
        .where(
            r.at_ms.is_(None),
            e.kind == KIND_TAP,
            ~is_assigned(),
            s.epochs.c.device_id.in_(list(device_ids)),
            or_(r.earliest_ms.is_(None), r.earliest_ms <= meeting.ends_ms),
            or_(r.latest_ms.is_(None), r.latest_ms >= meeting.opens_ms),
        )
    )
    return count or 0


# --- Completeness -----------------------------------------------------------------------------


def _covering(conn: Connection, meeting: Row[Any]) -> dict[int, tuple[str, CoveringDevice]]:
    """By id: each device that stood at the venue during the window; its public id and state."""
    p, d = s.placements.c, s.devices.c
    stood: dict[Any, list[Validity]] = defaultdict(list)
    for row in conn.execute(
        select(d.id, d.public_id, d.name, d.status, d.left_ms, p.valid_from_ms, p.valid_to_ms)
        .join(s.placements, p.device_id == d.id)
        .where(
            p.venue_id == meeting.venue_id,
            # one that was never enrolled has recorded nothing that could be missing
            d.status != DeviceStatus.PENDING,
            # and one that has left records nothing any more
            or_(d.status != DeviceStatus.RETIRED, d.left_ms > meeting.opens_ms),
            p.valid_from_ms <= meeting.ends_ms,
            or_(d.status != DeviceStatus.RETIRED, d.left_ms > p.valid_from_ms),
            or_(p.valid_to_ms.is_(None), p.valid_to_ms > meeting.opens_ms),
        )
        .order_by(d.name, p.valid_from_ms)
    ):
        ends = [row.valid_to_ms, row.left_ms if row.status == DeviceStatus.RETIRED else None]
        until_ms = min((each for each in ends if each is not None), default=None)
        stood[row.id, str(row.public_id), row.name].append(Validity(row.valid_from_ms, until_ms))
    known = device_completeness(conn, [device_id for device_id, *_ in stood])
    return {
        device_id: (public_id, CoveringDevice(name, known[device_id], tuple(times)))
        for (device_id, public_id, name), times in stood.items()
    }


def device_completeness(conn: Connection, device_ids: Sequence[int]) -> dict[int, Completeness]:
    """Through which time the record of each device is complete. No scope: it names nobody."""
    rows = _epochs(conn, device_ids)
    standing = _standings(conn, device_ids)
    withheld = _withheld_from(
        conn, [key for key, each in standing.items() if each.compromised_ms is not None]
    )
    settled = _settled(conn, rows, [key for key, each in standing.items() if each.is_settled])
    opened = _openings(conn, rows)
    epochs: dict[int, list[Epoch]] = defaultdict(list)
    boots: dict[tuple[int, bytes], Boot] = {}
    for row in rows:
        if withheld.get(row.id) == 1:
            continue  # nothing of it is believed, and nothing follows from it
        parent = (
            None
            if row.parent_epoch is None
            else Parent(row.parent_epoch, row.parent_seq, row.parent_digest)
        )
        head = max(row.told_head or 0, row.island_head or 0)
        through, digest = row.through, row.through_digest
        if row.id in withheld and withheld[row.id] <= through:
            head = max(head, through)
            through, digest = withheld[row.id] - 1, None
        epochs[row.device_id].append(
            Epoch(row.epoch, parent, through, digest, head, opened[row.id])
        )
        boots[row.device_id, row.epoch] = (row.device_id, row.boot_id)
    statements = _statements(conn, _telling_heartbeats(conn, device_ids), boots)
    for row in rows:
        if row.id in withheld:
            # The last of those that speak of nothing but what counts.
            before = _held(before_seq=withheld[row.id]).where(s.epochs.c.id == row.id)
            statements[row.device_id] += _statements(conn, _heartbeats(conn, before), boots)[
                row.device_id
            ]
    for device_id in device_ids:
        # The last of an epoch may be of a time in which there was another history already.
        forked = forked_ms(epochs[device_id], settled[device_id])
        for each in tuple(statements[device_id]):
            if each.at_ms is not None and inf > forked.get(each.epoch, inf) <= each.at_ms:
                before = _held(forked[each.epoch]).where(
                    s.epochs.c.device_id == device_id, s.epochs.c.epoch == each.epoch
                )
                statements[device_id] += _statements(conn, _heartbeats(conn, before), boots)[
                    device_id
                ]
    holes = _holes(conn, device_ids)
    return {
        device_id: _as_it_stands(
            completeness(
                epochs[device_id],
                statements[device_id],
                holes[device_id],
                settled[device_id],
                _closing(standing[device_id]),
            ),
            standing[device_id],
        )
        for device_id in device_ids
    }


def _standings(conn: Connection, device_ids: Sequence[int]) -> dict[int, Row[Any]]:
    d = s.devices.c
    rows: Any = conn.execute(
        select(
            d.id,
            d.status,
            d.closing_epoch,
            d.closing_seq,
            d.left_ms,
            d.compromised_ms,
            exists().where(s.settlements.c.device_id == d.id).label("is_settled"),
        ).where(d.id.in_(device_ids))
    )
    return {row.id: row for row in rows}


def _closing(device: Row[Any]) -> tuple[bytes, int] | None:
    return None if device.closing_epoch is None else (device.closing_epoch, device.closing_seq)


def _as_it_stands(known: Completeness, device: Row[Any]) -> Completeness:
    """What is known of a device, given how it left the fleet, if it did."""
    if device.status == DeviceStatus.COMPROMISED:
        return replace(known, obstacle=Obstacle.COMPROMISED, is_closed=False)
    if device.status == DeviceStatus.RETIRED and device.closing_epoch is None:
        # It was found, and has stated since then that nothing of before is missing.
        is_back = known.through_ms is not None and known.through_ms >= device.left_ms
        return replace(known, obstacle=None if is_back else Obstacle.GONE, is_closed=is_back)
    return replace(known, obstacle=None) if known.is_closed else known


def _withheld_from(conn: Connection, device_ids: Sequence[int]) -> dict[int, int]:
    """By epoch's id: the first of its entries that came in a batch that does not count."""
    b, n, g = s.batches.c, s.entries.c, s.gaps.c
    found: dict[int, int] = {}
    if not device_ids:
        return found
    epochs = select(s.epochs.c.id).where(s.epochs.c.device_id.in_(device_ids))
    for table, first in ((n, n.seq), (g, g.first)):
        for row in conn.execute(
            select(table.epoch_id, func.min(first).label("first"))
            .join(s.batches, b.id == table.batch_id)
            .where(table.epoch_id.in_(epochs), b.held)
            .group_by(table.epoch_id)
        ):
            found[row.epoch_id] = min(row.first, found.get(row.epoch_id, row.first))
    return found


def _settled(
    conn: Connection, epochs: Sequence[Row[Any]], device_ids: Sequence[int]
) -> dict[int, list[Settlement]]:
    t = s.settlements.c
    found: dict[int, list[Settlement]] = defaultdict(list)
    if not device_ids:
        return found
    for row in conn.execute(
        select(s.settlements).where(t.device_id.in_(device_ids)).order_by(t.id)
    ):
        known = frozenset(
            each.epoch
            for each in epochs
            if each.device_id == row.device_id and each.id <= row.last_epoch_id
        )
        found[row.device_id].append(
            Settlement(known, row.epoch, OtherHistory(row.other), row.made_ms)
        )
    return found


def _epochs(conn: Connection, device_ids: Sequence[int]) -> Sequence[Row[Any]]:
    """All real epochs, with the last entry of each that a heartbeat or an island tells of."""
    e, h, i = s.epochs.c, s.heartbeats.c, s.islands.c
    told = select(func.max(h.head_seq)).where(
        h.device_id == e.device_id, h.epoch == e.epoch, ~h.held
    )
    beyond = select(func.max(i.last)).where(i.epoch_id == e.id)
    received = select(func.min(s.batches.c.received_ms)).where(s.batches.c.epoch_id == e.id)
    return conn.execute(
        select(
            s.epochs,
            told.scalar_subquery().label("told_head"),
            beyond.scalar_subquery().label("island_head"),
            received.scalar_subquery().label("received_ms"),
        ).where(e.device_id.in_(device_ids), ~e.rehearsal)
    ).all()


def _openings(conn: Connection, epochs: Sequence[Row[Any]]) -> dict[int, int | None]:
    """By epoch's id: when it was opened, as far as that is known.

    One whose own clock was not trusted is dated by its boot, if it begins a history beside another.
    """
    beside = Counter((row.device_id, row.parent_epoch) for row in epochs)
    asked = [
        row
        for row in epochs
        if not row.opened_trusted and beside[row.device_id, row.parent_epoch] > 1
    ]
    samples = samples_of(
        conn, (((row.device_id, row.boot_id), row.opened_boottime_ms) for row in asked)
    )
    opened: dict[int, int | None] = {}
    for row in epochs:
        opened[row.id] = None
        if row.received_ms is None:
            continue
        if row.opened_trusted:
            if believed(row.opened_wall_ms, row.received_ms):
                opened[row.id] = row.opened_wall_ms
            continue
        of_boot = samples.get((row.device_id, row.boot_id), ())
        dated = date_by(of_boot, row.opened_boottime_ms, None, row.received_ms)
        opened[row.id] = dated.earliest_ms if dated.exact else None
    return opened


def _held(before_ms: float = inf, before_seq: int | None = None) -> Select[Any]:
    """Of each epoch the id of its last heartbeat whose entries are held.

    None whose clock is surely wrong, none that says that it is of `before_ms` or later, and none
    that speaks of entry `before_seq` or a later one.
    """
    e, h = s.epochs.c, s.heartbeats.c
    plausible = is_believed(h.wall_ms, h.received_ms)
    last = (
        select(h.id)
        .where(
            h.device_id == e.device_id,
            h.epoch == e.epoch,
            h.head_seq <= e.through,
            ~h.held,
            *([] if before_seq is None else [h.head_seq < before_seq]),
            or_(~h.trusted, plausible)
            if before_ms == inf
            else and_(h.trusted, plausible, h.wall_ms < before_ms),
        )
        .order_by(h.boottime_ms.desc())
        .limit(1)
    )
    return select(last.scalar_subquery()).select_from(s.epochs)


def _telling_heartbeats(conn: Connection, device_ids: Sequence[int]) -> Sequence[Any]:
    """Of each epoch the last heartbeat whose entries are held, and of each device the newest."""
    h, d = s.heartbeats.c, s.devices.c
    newest = (
        select(h.id)
        .where(h.device_id == d.id, ~h.held)
        .order_by(h.received_ms.desc(), h.boottime_ms.desc(), h.head_seq.desc(), h.id.desc())
        .limit(1)
    )
    return _heartbeats(
        conn,
        union(
            _held().where(s.epochs.c.device_id.in_(device_ids)),
            select(newest.scalar_subquery()).where(d.id.in_(device_ids)),
        ),
    )


def _heartbeats(conn: Connection, ids: Select[Any] | CompoundSelect[Any]) -> Sequence[Any]:
    return conn.execute(select(s.heartbeats).where(s.heartbeats.c.id.in_(ids))).all()


def _statements(
    conn: Connection, told: Sequence[Any], boots: Mapping[tuple[int, bytes], Boot]
) -> dict[int, list[Statement]]:
    """By device's id, what these heartbeats state, dated as well as can be."""
    statements: dict[int, list[Statement]] = defaultdict(list)
    samples = samples_of(
        conn,
        (
            (boots[row.device_id, row.epoch], row.boottime_ms)
            for row in told
            if not row.trusted and (row.device_id, row.epoch) in boots
        ),
    )
    for heard in told:
        at_ms: int | None = None
        if heard.trusted:
            at_ms = heard.wall_ms if heard.wall_ms >= EARLIEST_MS else None
        elif (heard.device_id, heard.epoch) in boots:
            of_boot = samples.get(boots[heard.device_id, heard.epoch], ())
            dated = date_by(of_boot, heard.boottime_ms, None, heard.received_ms)
            at_ms = dated.earliest_ms if dated.exact else None
        statements[heard.device_id].append(
            Statement(heard.epoch, heard.head_seq, heard.head_digest, at_ms, heard.received_ms)
        )
    return statements


def _holes(conn: Connection, device_ids: Sequence[int]) -> dict[int, list[Hole]]:
    """What cannot be read: stated gaps, and entries that no code here can decode.

    Bounded by the trusted times nearest to them in their epoch, and by when the hub was told.
    """
    e, b, g = s.entries.c, s.batches.c, s.gaps.c
    broken = (
        select(
            e.epoch_id,
            e.seq,
            b.received_ms,
            (e.seq - func.row_number().over(partition_by=e.epoch_id, order_by=e.seq)).label("run"),
        )
        .join(s.epochs, s.epochs.c.id == e.epoch_id)
        .join(s.batches, b.id == e.batch_id)
        .where(s.epochs.c.device_id.in_(device_ids), e.problem.is_not(None))
        .subquery("broken")
    )
    hole = union_all(
        select(g.epoch_id, g.first, g.last, b.received_ms)
        .join(s.epochs, s.epochs.c.id == g.epoch_id)
        .join(s.batches, b.id == g.batch_id)
        .where(s.epochs.c.device_id.in_(device_ids)),
        select(
            broken.c.epoch_id,
            func.min(broken.c.seq),
            func.max(broken.c.seq),
            func.max(broken.c.received_ms),
        ).group_by(broken.c.epoch_id, broken.c.run),
    ).subquery("hole")
    beside = (
        select(e.wall_ms)
        .join(s.batches, b.id == e.batch_id)
        .where(e.epoch_id == hole.c.epoch_id, e.trusted, is_believed(e.wall_ms, b.received_ms))
        .limit(1)
    )
    earliest = beside.where(e.seq < hole.c.first).order_by(e.seq.desc()).scalar_subquery()
    latest = beside.where(e.seq > hole.c.last).order_by(e.seq).scalar_subquery()
    found: dict[int, list[Hole]] = defaultdict(list)
    for row in conn.execute(
        select(
            s.epochs.c.device_id,
            earliest.label("earliest_ms"),
            func.coalesce(latest, hole.c.received_ms + CLOCKS_APART_MS).label("latest_ms"),
        ).join(s.epochs, s.epochs.c.id == hole.c.epoch_id)
    ):
        found[row.device_id].append(Hole(row.earliest_ms, row.latest_ms))
    return found


def _state(
    device: CoveringDevice, public_id: str, meeting: Row[Any], now_ms: int, zone: ZoneInfo
) -> DeviceState:
    known = device.completeness
    return DeviceState(
        public_id,
        device.name,
        known.covers(meeting.opens_ms, meeting.ends_ms),
        known.through_ms,
        known.last_contact_ms,
        device_words(
            device, meeting.opens_ms, meeting.ends_ms, zone, is_over=now_ms > meeting.ends_ms
        ),
    )
