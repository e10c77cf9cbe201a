"""What people stated of meetings, on pages and at readers, loaded for `hub.domain.declared`.

Reads only.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Table,
    and_,
    exists,
    not_,
    or_,
    select,
    tuple_,
)

from hub.domain.attendance import DAY_MS, TapKey
from hub.domain.declared import ActionTaken, Declaration, Stated, fold
from hub.domain.terms import Body, DeclarationKind, Office
from hub.store import schema as s
from hub.store.bulk import chunks
from hub.store.expected import holds
from hub.store.scope import taking_part
from protocol.credential import MEMBER_SCHEME
from protocol.journal import Act


def organisations_of(conn: Connection, meeting_ids: Iterable[int]) -> dict[int, list[int]]:
    """The organisations that take part now, by meeting."""
    found: dict[int, list[int]] = defaultdict(list)
    mo = taking_part.c
    for part in chunks(sorted(set(meeting_ids))):
        for row in conn.execute(
            select(mo.meeting_id, mo.organisation_id).where(mo.meeting_id.in_(part))
        ):
            found[row.meeting_id].append(row.organisation_id)
    return found


def stated_of(conn: Connection, meeting_ids: Sequence[int]) -> dict[int, Stated]:
    """By meeting: what stands of what was stated of it, on pages and at its readers."""
    said: dict[int, list[Declaration]] = defaultdict(list)
    d = s.declarations.c
    for part in chunks(meeting_ids):
        for row in conn.execute(select(s.declarations).where(d.meeting_id.in_(part))):
            said[row.meeting_id].append(declaration_of(row))
    overtaken = _assigned_elsewhere(conn, [each for several in said.values() for each in several])
    done = actions_at(conn, meeting_ids)
    return {
        meeting_id: fold(
            [each for each in said[meeting_id] if each.id not in overtaken], done[meeting_id]
        )
        for meeting_id in meeting_ids
    }


def declaration_of(row: Row[Any]) -> Declaration:
    """The declaration in a row of the table."""
    return Declaration(
        row.id,
        DeclarationKind(row.kind),
        row.made_ms,
        row.member_id,
        row.about_id,
        row.number,
        None if row.epoch_id is None else TapKey(row.epoch_id, row.seq),
    )


def _assigned_elsewhere(conn: Connection, said: Iterable[Declaration]) -> set[int]:
    """Those that assign an entry which somebody assigned to another meeting since."""
    d = s.declarations.c
    own = {each.id: each for each in said if each.kind is DeclarationKind.TAP_ASSIGNED}
    entries = {(each.key.epoch_id, each.key.seq) for each in own.values() if each.key is not None}
    latest: dict[tuple[int, int], tuple[int, int]] = {}
    for part in chunks(sorted(entries), 400):
        for row in conn.execute(
            select(d.id, d.epoch_id, d.seq, d.made_ms).where(
                tuple_(d.epoch_id, d.seq).in_(part), stands()
            )
        ):
            entry, when = (row.epoch_id, row.seq), (row.made_ms, row.id)
            latest[entry] = max(latest.get(entry, when), when)
    return {
        each.id
        for each in own.values()
        if each.key is not None
        and latest.get((each.key.epoch_id, each.key.seq), (0, each.id))[1] != each.id
    }


def stands() -> ColumnElement[bool]:
    """The condition that a declaration assigns a tap and was not withdrawn."""
    d, later = s.declarations.c, s.declarations.alias("later")
    withdrawn = exists().where(
        later.c.about_id == d.id, later.c.kind == DeclarationKind.WITHDRAWN.value
    )
    return and_(
        d.epoch_id.is_not(None),
        d.kind == DeclarationKind.TAP_ASSIGNED.value,
        not_(withdrawn.correlate(s.declarations)),
    )


def fits() -> ColumnElement[bool]:
    """The condition that a reading may be of a meeting: at its venue, about its time.

    An assignment stands as long as this holds of what has become known of the tap.
    """
    r, m = s.readings.c, s.meetings.c
    return or_(
        r.at_ms.is_(None),
        and_(
            or_(r.venue_id.is_(None), r.venue_id == m.venue_id),
            r.at_ms.between(m.opens_ms - DAY_MS, m.ends_ms + DAY_MS),
        ),
    )


def is_assigned() -> ColumnElement[bool]:
    """The condition that a reading counts for a meeting because somebody assigned it there."""
    d, m, r = s.declarations.c, s.meetings.c, s.readings.c
    return (
        exists()
        .where(
            d.epoch_id == r.epoch_id,
            d.seq == r.seq,
            stands(),
            m.id == d.meeting_id,
            not_(m.cancelled),
            fits(),
        )
        .correlate(s.readings)
    )


def actions_at(conn: Connection, meeting_ids: Sequence[int]) -> dict[int, list[ActionTaken]]:
    """By meeting: what was done at its venue's readers in its window.

    A member is witnessed as by a tap: for each meeting that is open there. Anything else is said of
    one meeting: of those open for which the card's holder may speak the one that began last, or if
    none has, the one that begins first.
    """
    found: dict[int, list[ActionTaken]] = defaultdict(list)
    acts: dict[TapKey, list[Row[Any]]] = defaultdict(list)
    r, m, a, c = s.readings.c, s.meetings.c, s.actions.c, s.credentials.c
    asked = s.meetings.alias("asked")
    for part in chunks(meeting_ids):
        for row in conn.execute(
            select(
                m.id.label("meeting_id"),
                m.starts_ms,
                r.epoch_id,
                r.seq,
                r.at_ms,
                a.what,
                a.number,
                s.members.c.id.label("about_member_id"),
                speaks().label("speaks"),
            )
            .distinct()
            .select_from(asked)
            .join(
                s.readings,
                and_(
                    r.venue_id == asked.c.venue_id,
                    r.at_ms.between(asked.c.opens_ms, asked.c.ends_ms),
                ),
            )
            .join(s.actions, and_(a.epoch_id == r.epoch_id, a.seq == r.seq))
            .join(
                s.meetings,
                and_(
                    m.venue_id == r.venue_id,
                    r.at_ms.between(m.opens_ms, m.ends_ms),
                    not_(m.cancelled),
                ),
            )
            .outerjoin(
                s.credentials, and_(c.id == a.about_credential_id, c.scheme == MEMBER_SCHEME)
            )
            .outerjoin(s.members, s.members.c.code == c.value)
            .where(
                asked.c.id.in_(part),
                not_(asked.c.cancelled),
                a.what.in_([each.value for each in Act]),
            )
        ):
            acts[TapKey(row.epoch_id, row.seq)].append(row)
    wanted = set(meeting_ids)
    for key, rows in acts.items():
        speaking = [row for row in rows if row.speaks]
        if speaking and rows[0].what != Act.WITNESSED.value:
            speaking = [min(speaking, key=_nearness)]
        meant = {row.meeting_id for row in speaking}
        for row in {row.meeting_id: row for row in rows}.values():
            if row.meeting_id in wanted:
                is_meant = row.meeting_id in meant
                about = row.about_member_id
                found[row.meeting_id].append(
                    ActionTaken(key, Act(row.what), row.at_ms, is_meant, row.number, about)
                )
    return found


def _nearness(row: Row[Any]) -> tuple[bool, int, int]:
    """Sorts the meetings that are open at an act's time: the one that is meant comes first."""
    has_begun = row.starts_ms <= row.at_ms
    return not has_begun, -row.starts_ms if has_begun else row.starts_ms, row.meeting_id


def speaks() -> ColumnElement[bool]:
    """Whether a reading's member held an office or a committee place in the meeting, then."""
    r, m, mo = s.readings.c, s.meetings.c, taking_part.c

    def held(table: Table, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
        return (
            exists()
            .where(
                mo.meeting_id == m.id,
                table.c.organisation_id == mo.organisation_id,
                table.c.member_id == r.member_id,
                holds(table, r.at_ms),
                *conditions,
            )
            .correlate(s.readings, s.meetings)
        )

    return or_(
        held(s.offices, s.offices.c.office.in_([each.value for each in Office])),
        held(s.memberships, s.memberships.c.body == Body.COMMITTEE.value),
    )
