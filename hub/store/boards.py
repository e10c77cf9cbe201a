"""What a screen at the door may show of meetings: totals, and never a person.

Promises: the figures are those that the meeting's own page shows. Only what can be seen at the door
is counted: nobody is, before check-in has opened. Reads only.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, assert_never

from sqlalchemy import Connection, func, select

from hub.domain.declared import CAME
from hub.domain.terms import MeetingKind, Quorum
from hub.store import schema as s
from hub.store.expected import IS_EXPECTED_OF, AtTheDoor
from hub.store.queries import quorum_of
from hub.store.scope import taking_part
from protocol.roster import MAX_TITLE_CHARS, Board, BoardQuorum

_CUT: Final = "…"


def boards(conn: Connection, meetings: Sequence[AtTheDoor], now_ms: int) -> list[Board]:
    """The boards of meetings that are not over, in their order."""
    if not meetings:
        return []
    expected: dict[int, int] = {
        row.meeting_id: row.people
        for row in conn.execute(
            select(
                taking_part.c.meeting_id,
                func.count(s.memberships.c.member_id.distinct()).label("people"),
            )
            .select_from(s.meetings)
            .join(taking_part, taking_part.c.meeting_id == s.meetings.c.id)
            .join(s.memberships, IS_EXPECTED_OF)
            .where(s.meetings.c.id.in_([each.id for each in meetings]))
            .group_by(taking_part.c.meeting_id)
        )
    }
    came: dict[int, set[int]] = defaultdict(set)
    opened = [each.id for each in meetings if each.opens_ms <= now_ms]
    if opened:
        a = s.attendances.c
        for row in conn.execute(
            select(a.meeting_id, a.member_id).where(
                a.meeting_id.in_(opened), a.verdict.in_([each.value for each in CAME])
            )
        ):
            came[row.meeting_id].add(row.member_id)
    return [
        Board(
            title(each.organisation, each.kind),
            each.starts_ms,
            expected.get(each.id, 0),
            len(came[each.id]),
            _quorum(conn, each.id, came[each.id]) if each.id in opened else BoardQuorum.UNKNOWN,
        )
        for each in meetings
    ]


def title(organisation: str, kind: MeetingKind) -> str:
    """The organisation and the kind; a name that is too long loses its end, never the kind."""
    room = MAX_TITLE_CHARS - len(kind.zh) - 1
    if len(organisation) > room:
        organisation = organisation[: room - len(_CUT)] + _CUT
    return f"{organisation} {kind.zh}"


def _quorum(conn: Connection, meeting_id: int, came: set[int]) -> BoardQuorum:
    meeting = conn.execute(select(s.meetings).where(s.meetings.c.id == meeting_id)).one()
    match found := quorum_of(conn, meeting, came, final=False):
        case Quorum.MET:
            return BoardQuorum.MET
        case Quorum.NOT_MET:
            return BoardQuorum.NOT_MET
        case Quorum.UNKNOWN:
            return BoardQuorum.UNKNOWN
        case Quorum.NOT_ASKED:
            return BoardQuorum.NOT_ASKED
        case _:
            assert_never(found)
