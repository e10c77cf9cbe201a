"""What people stated of meetings, on pages and at readers, loaded for `hub.domain.declared`.

Reads only.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, Connection, Table, and_, exists, not_, or_, select

from hub.domain.attendance import TapKey
from hub.domain.declared import ActionTaken, Declaration, Stated, fold
from hub.domain.terms import Body, DeclarationKind, Office
from hub.store import schema as s
from hub.store.bulk import chunks
from hub.store.expected import holds
from protocol.credential import MEMBER_SCHEME
from protocol.journal import Act


def organisations_of(conn: Connection, meeting_ids: Iterable[int]) -> dict[int, list[int]]:
    """The organisations that take part, by meeting."""
    found: dict[int, list[int]] = defaultdict(list)
    mo = s.meeting_organisations.c
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
            said[row.meeting_id].append(
                Declaration(
                    row.id,
                    DeclarationKind(row.kind),
                    row.made_ms,
                    row.member_id,
                    row.about_id,
                    row.number,
                    None if row.epoch_id is None else TapKey(row.epoch_id, row.seq),
                )
            )
    done = _actions_at(conn, meeting_ids)
    return {each: fold(said[each], done[each]) for each in meeting_ids}


def _actions_at(conn: Connection, meeting_ids: Sequence[int]) -> dict[int, list[ActionTaken]]:
    """By meeting: what was done at its venue's readers in its window."""
    found: dict[int, list[ActionTaken]] = defaultdict(list)
    r, m, a, c = s.readings.c, s.meetings.c, s.actions.c, s.credentials.c
    for part in chunks(meeting_ids):
        for row in conn.execute(
            select(
                m.id.label("meeting_id"),
                r.epoch_id,
                r.seq,
                r.at_ms,
                r.member_id,
                a.what,
                a.number,
                s.members.c.id.label("about_member_id"),
                _speaks().label("speaks"),
            )
            .select_from(s.meetings)
            .join(
                s.readings,
                and_(
                    r.venue_id == m.venue_id,
                    r.at_ms.between(m.opens_ms, m.ends_ms),
                ),
            )
            .join(s.actions, and_(a.epoch_id == r.epoch_id, a.seq == r.seq))
            .outerjoin(
                s.credentials, and_(c.id == a.about_credential_id, c.scheme == MEMBER_SCHEME)
            )
            .outerjoin(s.members, s.members.c.code == c.value)
            .where(m.id.in_(part), not_(m.cancelled), a.what.in_([each.value for each in Act]))
        ):
            found[row.meeting_id].append(
                ActionTaken(
                    TapKey(row.epoch_id, row.seq),
                    Act(row.what),
                    row.at_ms,
                    bool(row.speaks),
                    row.number,
                    row.about_member_id,
                )
            )
    return found


def _speaks() -> ColumnElement[bool]:
    """Whether a reading's member held an office or a committee place in the meeting, then."""
    r, m, mo = s.readings.c, s.meetings.c, s.meeting_organisations.c

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
