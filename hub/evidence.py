"""What one member's attendance of one meeting rests on: taps, statements, and what is not known.

Promises: all that is here is about that member; of others there is only who stated something, as
authors. Of a card the last four characters are told. The class of a leave's reason is left out
unless it is asked for, which the member's own page does alone.

Reads only. Who may ask is decided by whoever calls.
"""

from dataclasses import dataclass, replace
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Row,
    Select,
    and_,
    case,
    exists,
    or_,
    select,
    union,
)

from hub.domain.attendance import TapKey, expected_body, moment
from hub.domain.terms import DeclarationKind, Evidence, MeetingKind, Outcome, Verdict
from hub.domain.words import Words
from hub.store import queries
from hub.store import schema as s
from hub.store.bulk import chunks
from hub.store.expected import holds
from hub.store.queries import MeetingHead, Person, evidence_of
from hub.store.scope import EVERYTHING, Scope, taking_part
from hub.store.stated import stated_of
from hub.taps import last_of, person
from protocol.credential import MEMBER_SCHEME
from protocol.journal import Act

_OF_OBJECTIONS: Final = (
    DeclarationKind.OBJECTION,
    DeclarationKind.OBJECTION_UPHELD,
    DeclarationKind.OBJECTION_DISMISSED,
)


@dataclass(frozen=True, slots=True)
class Source:
    """What decided: a tap, an act at a reader or a statement."""

    evidence: Evidence
    tap_ms: int | None
    """When the card was held to the reader; None: no card was, or its time is not known."""
    device: str | None
    """The reader's device; None: there was none."""
    venue: str | None
    card: str
    """The last characters of the card's number; empty: not known, or not the member's own."""
    author: str | None
    """Who stated it; None: nobody, a tap speaks for itself."""
    made_ms: int | None
    asked_by: str | None
    """Who asked for it, where it was asked for."""
    asked_ms: int | None


@dataclass(frozen=True, slots=True)
class TapSeen:
    """A tap of the member's at the meeting."""

    at_ms: int | None
    """None: not known exactly."""
    received_ms: int
    """When the hub got it."""
    device: str
    venue: str | None
    card: str
    outcome: Outcome
    counts: bool
    """Whether it shows the member at this meeting."""
    decides: bool


@dataclass(frozen=True, slots=True)
class Said:
    """Something that was stated of the member."""

    kind: DeclarationKind
    author: str
    made_ms: int
    reason: str
    """Words, or a LeaveReason; empty: none, or not for whoever asks."""
    device: str | None
    """At whose reader it was stated; None: on a page or by the API."""
    decides: bool
    withdrawn_ms: int | None
    withdrawn_by: str | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is of a member at a meeting."""

    is_expected: bool
    taps: tuple[TapSeen, ...]
    """By time."""
    said: tuple[Said, ...]
    """By time; objections are not among them, see `hub.objections`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A member at a meeting, with everything that it rests on."""

    meeting: MeetingHead
    verdict: Verdict | None
    """None: the meeting was cancelled, nothing counts."""
    at_ms: int | None
    source: Source | None
    """None: nothing is known."""
    reasons: tuple[str, ...]
    """Of a PENDING one: why nothing is concluded."""
    held: bool | None
    facts: Facts
    as_of_ms: int
    why_cancelled: str = ""


def concerns(member_id: int) -> ColumnElement[bool]:
    """The condition that a meeting has to do with a member: expected, shown or spoken of there."""
    return s.meetings.c.id.in_(concerned(member_id))


def concerned(member_id: int) -> CompoundSelect[Any]:
    """The ids of those meetings."""
    return union(_expecting(member_id), *_spoken_of(member_id))


def spoken_of(member_id: int) -> CompoundSelect[Any]:
    """The ids of the meetings that show a member or speak of one, expected or not."""
    return union(*_spoken_of(member_id))


def _spoken_of(member_id: int) -> tuple[Select[Any], Select[Any]]:
    a, d = s.attendances.c, s.declarations.c
    return (
        select(a.meeting_id).where(a.member_id == member_id),
        select(d.meeting_id).where(d.member_id == member_id),
    )


def was_expected(member_id: int, at_ms: ColumnElement[int]) -> ColumnElement[bool]:
    """The condition that a row of `meetings` expected a member by who took part in it at `at_ms`.

    `at_ms`: a column of `accesses`.
    """
    m, mo, ms = s.meetings, s.meeting_organisations.c, s.memberships
    body = case({kind.value: expected_body(kind).value for kind in MeetingKind}, value=m.c.kind)
    return (
        exists()
        .where(
            mo.meeting_id == m.c.id,
            mo.agreed_ms <= at_ms,
            or_(mo.left_ms.is_(None), mo.left_ms > at_ms),
            ms.c.organisation_id == mo.organisation_id,
            ms.c.member_id == member_id,
            ms.c.body == body,
            holds(ms, m.c.starts_ms),
        )
        .correlate(m, s.accesses)
    )


def is_expected(member_id: int) -> ColumnElement[bool]:
    """The condition that a meeting expects a member."""
    return s.meetings.c.id.in_(_expecting(member_id))


def _expecting(member_id: int) -> Select[Any]:
    # From the member's few places on: a planner begins with all meetings else.
    m, mo, ms = s.meetings.alias("expecting"), taking_part.c, s.memberships.c
    body = case({kind.value: expected_body(kind).value for kind in MeetingKind}, value=m.c.kind)
    return (
        select(m.c.id)
        .select_from(s.memberships)
        .join(taking_part, mo.organisation_id == ms.organisation_id)
        .join(m, m.c.id == mo.meeting_id)
        .where(ms.member_id == member_id, ms.body == body, holds(s.memberships, m.c.starts_ms))
    )


def entry(
    conn: Connection,
    meeting: Row[Any],
    member_id: int,
    now_ms: int,
    zone: ZoneInfo,
    *,
    with_leave_reason: bool = False,
) -> Entry:
    """Everything of one member at a meeting (its row); times in words are in `zone`."""
    whole = queries.meeting_attendance(conn, EVERYTHING, str(meeting.public_id), now_ms, zone)
    assert whole is not None  # noqa: S101  the row is there
    public_id = str(
        conn.scalars(select(s.members.c.public_id).where(s.members.c.id == member_id)).one()
    )
    # An empty public id would be a guest's; everybody is named within EVERYTHING.
    row = next((each for each in whole.rows if each.person.public_id == public_id), None)
    return Entry(
        whole.meeting,
        None if row is None else row.verdict,
        None if row is None else row.at_ms,
        sources(conn, member_id, [meeting.id]).get(meeting.id),
        whole.reasons if row is not None and row.verdict is Verdict.PENDING else (),
        whole.held,
        facts(conn, meeting, member_id, with_leave_reason=with_leave_reason),
        now_ms,
        whole.why_cancelled,
    )


def facts(
    conn: Connection, meeting: Row[Any], member_id: int, *, with_leave_reason: bool = False
) -> Facts:
    """The taps and statements of one member at a meeting (its row)."""
    expected = bool(
        conn.scalar(select(is_expected(member_id)).where(s.meetings.c.id == meeting.id))
    )
    decided = _deciding(conn, meeting.id, member_id)
    return Facts(
        expected,
        _taps(conn, meeting, member_id, decided.key, is_expected=expected),
        _said(conn, meeting, member_id, decided, with_leave_reason=with_leave_reason),
    )


def whom(conn: Connection, scope: Scope, meeting: Row[Any], member_id: int) -> Person:
    """A member as the host of a meeting may name them: of a guest from elsewhere, the branch."""
    is_expected_there = conn.scalar(
        select(is_expected(member_id)).where(s.meetings.c.id == meeting.id)
    )
    return person(conn, EVERYTHING if is_expected_there else scope, member_id, meeting.starts_ms)


def without_cards(found: Entry) -> Entry:
    """The entry of somebody who is not named: nothing of their card's number."""
    taps = tuple(replace(each, card="") for each in found.facts.taps)
    return replace(
        found,
        source=None if found.source is None else replace(found.source, card=""),
        facts=replace(found.facts, taps=taps),
    )


def sources(conn: Connection, member_id: int, meeting_ids: list[int]) -> dict[int, Source]:
    """By meeting: what decided, of those meetings that know something of the member."""
    a, d, e, r = s.attendances.c, s.declarations.c, s.entries.c, s.readings.c
    asked, officer = s.declarations.alias("asked"), s.members.alias("officer")
    found: dict[int, Source] = {}
    for part in chunks(meeting_ids):
        for row in conn.execute(
            select(
                a.meeting_id,
                a.verdict,
                r.at_ms,
                a.taps,
                s.devices.c.name.label("device"),
                s.venues.c.name.label("venue"),
                s.credentials.c.value,
                d.kind,
                d.author,
                d.made_ms,
                asked.c.author.label("asked_by"),
                asked.c.made_ms.label("asked_ms"),
                officer.c.name.label("officer"),
            )
            .select_from(s.attendances)
            .outerjoin(s.declarations, d.id == a.declaration_id)
            .outerjoin(asked, asked.c.id == d.about_id)
            .outerjoin(s.entries, and_(e.epoch_id == a.epoch_id, e.seq == a.seq))
            .outerjoin(s.readings, and_(r.epoch_id == a.epoch_id, r.seq == a.seq))
            .outerjoin(s.credentials, s.credentials.c.id == e.credential_id)
            .outerjoin(s.epochs, s.epochs.c.id == a.epoch_id)
            .outerjoin(s.devices, s.devices.c.id == s.epochs.c.device_id)
            .outerjoin(s.venues, s.venues.c.id == r.venue_id)
            .outerjoin(officer, officer.c.id == r.member_id)
            .where(a.member_id == member_id, a.meeting_id.in_(part))
        ):
            # An act is made with somebody else's card.
            is_act = row.kind is None and not row.taps
            evidence = (
                Evidence.WITNESSED if is_act else evidence_of(row.verdict, row.kind, row.taps)
            )
            assert evidence is not None  # noqa: S101
            found[row.meeting_id] = Source(
                evidence,
                row.at_ms,
                row.device,
                row.venue,
                "" if is_act else last_of(row.value),
                row.officer if is_act else row.author,
                row.at_ms if is_act else row.made_ms,
                row.asked_by,
                row.asked_ms,
            )
    return found


def how(source: Source, near_ms: int, zone: ZoneInfo) -> Words:
    """How it was recorded, in a sentence; times without a date are of the day of `near_ms`."""

    def at(at_ms: int | None) -> Words:
        return UNKNOWN_TIME if at_ms is None else moment(at_ms, near_ms, zone)

    card = Words("（卡号末四位{card}）", card=source.card) if source.card else ""
    author = source.author or UNKNOWN_PERSON
    where = UNKNOWN_PLACE if source.venue is None else source.venue
    asked: Words | str = ""
    if source.asked_by is not None:
        asked = Words("{who}于{at}申请，", who=source.asked_by, at=at(source.asked_ms))
    match source.evidence:
        case Evidence.TAP:
            return Words(
                "{at}在{venue}的签到设备“{device}”刷卡{card}",
                at=at(source.tap_ms),
                venue=where,
                device=source.device or "",
                card=card,
            )
        case Evidence.ASSIGNED:
            return Words(
                "{at}在{venue}的签到设备“{device}”刷卡{card}，{made}由{author}归入这次会议",
                at=at(source.tap_ms),
                venue=where,
                device=source.device or "",
                card=card,
                made=at(source.made_ms),
                author=author,
            )
        case Evidence.SHEET:
            return Words(
                "{author}于{made}按签了名的纸质签到表录入", author=author, made=at(source.made_ms)
            )
        case Evidence.WITNESSED if source.device is not None:
            return Words(
                "{author}于{made}在{venue}的签到设备“{device}”上用自己的卡证明到场",
                author=author,
                made=at(source.made_ms),
                venue=where,
                device=source.device,
            )
        case Evidence.WITNESSED:
            return Words("{author}于{made}证明到场", author=author, made=at(source.made_ms))
        case Evidence.BACK_FILL:
            return Words(
                "补签：{asked}{author}于{made}同意",
                asked=asked,
                author=author,
                made=at(source.made_ms),
            )
        case Evidence.LEAVE:
            return Words(
                "请假：{asked}{author}于{made}准假",
                asked=asked,
                author=author,
                made=at(source.made_ms),
            )


UNKNOWN_TIME: Final = Words("（时间不明）")
UNKNOWN_PERSON: Final = Words("（姓名不明）")
UNKNOWN_PLACE: Final = Words("（地点不明）")


@dataclass(frozen=True, slots=True)
class _Decided:
    key: TapKey | None
    declaration_id: int | None


def _deciding(conn: Connection, meeting_id: int, member_id: int) -> _Decided:
    a = s.attendances.c
    row = conn.execute(
        select(a.epoch_id, a.seq, a.declaration_id).where(
            a.meeting_id == meeting_id, a.member_id == member_id
        )
    ).one_or_none()
    if row is None:
        return _Decided(None, None)
    return _Decided(
        None if row.epoch_id is None else TapKey(row.epoch_id, row.seq), row.declaration_id
    )


def is_assigned_tap_of(member_id: int, meeting: Row[Any]) -> ColumnElement[bool]:
    """The condition that a declaration assigned a tap of the member's to the meeting."""
    d, e, r, b, c = (
        s.declarations.c,
        s.entries.c,
        s.readings.c,
        s.bindings.c,
        s.credentials.c,
    )
    # A tap without a time belongs to whoever held the card at the meeting, see `hub.derive`.
    held = (
        exists()
        .where(
            b.card_id == c.card_id, b.member_id == member_id, holds(s.bindings, meeting.starts_ms)
        )
        .correlate(s.credentials)
    )
    return and_(
        d.meeting_id == meeting.id,
        d.kind == DeclarationKind.TAP_ASSIGNED.value,
        select(r.seq)
        .select_from(s.readings)
        .join(s.entries, and_(e.epoch_id == r.epoch_id, e.seq == r.seq))
        .outerjoin(s.credentials, c.id == e.credential_id)
        .where(
            r.epoch_id == d.epoch_id,
            r.seq == d.seq,
            or_(r.member_id == member_id, and_(r.at_ms.is_(None), held)),
        )
        .correlate(s.declarations)
        .exists(),
    )


def _taps(
    conn: Connection,
    meeting: Row[Any],
    member_id: int,
    decides: TapKey | None,
    *,
    is_expected: bool,
) -> tuple[TapSeen, ...]:
    r, d, e = s.readings.c, s.declarations.c, s.entries.c
    assigned = set(stated_of(conn, [meeting.id])[meeting.id].assigned)
    ever = conn.execute(
        select(d.epoch_id, d.seq).where(is_assigned_tap_of(member_id, meeting))
    ).all()
    rows = conn.execute(
        select(
            r.epoch_id,
            r.seq,
            r.at_ms,
            r.outcome,
            s.batches.c.received_ms,
            s.devices.c.name.label("device"),
            s.venues.c.name.label("venue"),
            s.credentials.c.value,
        )
        .select_from(s.readings)
        .join(s.entries, and_(e.epoch_id == r.epoch_id, e.seq == r.seq))
        .join(s.epochs, s.epochs.c.id == r.epoch_id)
        .join(s.devices, s.devices.c.id == s.epochs.c.device_id)
        .join(s.batches, s.batches.c.id == e.batch_id)
        .outerjoin(s.venues, s.venues.c.id == r.venue_id)
        .outerjoin(s.credentials, s.credentials.c.id == e.credential_id)
        .where(
            or_(
                and_(
                    r.member_id == member_id,
                    r.venue_id == meeting.venue_id,
                    r.at_ms.between(meeting.opens_ms, meeting.ends_ms),
                ),
                *(and_(r.epoch_id == each.epoch_id, r.seq == each.seq) for each in ever),
            ),
        )
    ).all()
    found = []
    for row in rows:
        key, outcome = TapKey(row.epoch_id, row.seq), Outcome(row.outcome)
        if outcome is Outcome.COUNTED and not is_expected:
            continue  # for another meeting in the same room
        found.append(
            TapSeen(
                row.at_ms,
                row.received_ms,
                row.device,
                row.venue,
                last_of(row.value),
                outcome,
                not meeting.cancelled
                and (outcome in {Outcome.COUNTED, Outcome.GUEST} or key in assigned),
                key == decides,
            )
        )
    return tuple(sorted(found, key=lambda each: (each.at_ms or 0, each.received_ms)))


def _said(
    conn: Connection,
    meeting: Row[Any],
    member_id: int,
    decided: _Decided,
    *,
    with_leave_reason: bool,
) -> tuple[Said, ...]:
    d = s.declarations.c
    gone = s.declarations.alias("gone")
    rows = conn.execute(
        select(
            s.declarations,
            gone.c.made_ms.label("withdrawn_ms"),
            gone.c.author.label("withdrawn_by"),
        )
        .outerjoin(
            gone, and_(gone.c.about_id == d.id, gone.c.kind == DeclarationKind.WITHDRAWN.value)
        )
        .where(
            d.meeting_id == meeting.id,
            or_(d.member_id == member_id, is_assigned_tap_of(member_id, meeting)),
            d.kind.not_in([each.value for each in (*_OF_OBJECTIONS, DeclarationKind.WITHDRAWN)]),
        )
        .order_by(d.made_ms, d.id, gone.c.made_ms)
    ).all()
    found: dict[Any, Said] = {}
    for row in rows:
        kind = DeclarationKind(row.kind)
        is_class = kind is DeclarationKind.LEAVE_ASKED
        found.setdefault(
            row.id,
            Said(
                kind,
                row.author,
                row.made_ms,
                (row.reason or "") if with_leave_reason or not is_class else "",
                None,
                row.id == decided.declaration_id,
                row.withdrawn_ms,
                row.withdrawn_by,
            ),
        )
    taken_back = {
        TapKey(row.epoch_id, row.seq): row
        for row in conn.execute(
            select(d.epoch_id, d.seq, d.made_ms, d.author).where(
                d.meeting_id == meeting.id,
                d.kind == DeclarationKind.WITHDRAWN.value,
                d.epoch_id.is_not(None),
            )
        )
    }
    for row in conn.execute(acts_of(meeting, member_id)):
        key = TapKey(row.epoch_id, row.seq)
        back = taken_back.get(key)
        found[key] = Said(
            DeclarationKind.WITNESSED,
            row.officer or UNKNOWN_PERSON,
            row.at_ms,
            "",
            row.device,
            key == decided.key,
            None if back is None else back.made_ms,
            None if back is None else back.author,
        )
    return tuple(sorted(found.values(), key=lambda each: each.made_ms))


def acts_of(meeting: Row[Any], member_id: int) -> Select[Any]:
    """Acts at the meeting's readers that witness the member, with whose card made them."""
    r, a, c = s.readings.c, s.actions.c, s.credentials.c
    about = s.members.alias("about")
    return (
        select(
            r.epoch_id,
            r.seq,
            r.at_ms,
            r.member_id.label("officer_id"),
            s.members.c.name.label("officer"),
            s.devices.c.name.label("device"),
        )
        .select_from(s.readings)
        .join(s.actions, and_(a.epoch_id == r.epoch_id, a.seq == r.seq))
        .join(s.credentials, and_(c.id == a.about_credential_id, c.scheme == MEMBER_SCHEME))
        .join(about, about.c.code == c.value)
        .join(s.epochs, s.epochs.c.id == r.epoch_id)
        .join(s.devices, s.devices.c.id == s.epochs.c.device_id)
        .outerjoin(s.members, s.members.c.id == r.member_id)
        .where(
            about.c.id == member_id,
            a.what == Act.WITNESSED.value,
            r.venue_id == meeting.venue_id,
            r.at_ms.between(meeting.opens_ms, meeting.ends_ms),
        )
        .order_by(r.at_ms, r.epoch_id, r.seq)
    )
