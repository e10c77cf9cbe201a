"""A device is told of the meetings at its venue, when it asks and when they change."""

from collections.abc import Iterator
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection, Engine, delete, event, select, update

from hub.domain.terms import MeetingKind
from hub.ingest.rosters import RENEW_MS, Rosters
from hub.store import schema as s
from hub.store.engine import reading
from hub.store.queries import meeting_attendance
from hub.store.scope import EVERYTHING
from protocol.credential import Credential
from protocol.identity import OpeningKey, SigningKey
from protocol.roster import MAX_TITLE_CHARS, Board, BoardQuorum, Known, Roster
from tests.hub.world import World, minutes

HUB = SigningKey.generate()
DOOR = OpeningKey.generate()
NOW = minutes(-10)
CARD, OTHER = Credential("uid", "", "04AABBCCDDEEFF"), Credential("uid", "", "04112233445566")


class Door:
    """A venue with a device and one meeting, and what the device is told."""

    def __init__(self, engine: Engine) -> None:
        self.rosters = Rosters(engine, HUB)
        with engine.begin() as conn:
            world = self.world = World(conn)
            world.organisation("B")
            world.member("M", "B")
            world.member("N", "B")
            world.venue("V", "B")
            world.device("D", "V")
            world.card("M", CARD.value)
            world.meeting("T", "B", "V")
            self.device = world.ids["D"]
            conn.execute(update(s.devices).values(seal_key=DOOR.public))
            [row] = conn.execute(s.devices.select()).all()
            self.edge: bytes = row.public_id.bytes

    def told(self, *, hello: bool, now_ms: int = NOW) -> Roster | None:
        for edge, payload in self.rosters.due({self.edge: hello}, now_ms):
            assert edge == self.edge
            return Roster.open(payload, HUB.public, self.edge, DOOR)
        return None


@pytest.fixture
def door(engine: Engine) -> Iterator[Door]:
    yield Door(engine)


def test_the_expected_card_is_greeted_in_the_window_and_no_other(door: Door) -> None:
    roster = door.told(hello=True)
    assert roster is not None
    assert roster.known(CARD, NOW) is Known.EXPECTED
    assert roster.known(OTHER, NOW) is Known.STRANGE
    assert roster.known(CARD, minutes(-31)) is Known.SILENT
    assert roster.known(CARD, minutes(1000)) is Known.SILENT


def test_a_sign_of_life_brings_a_roster_only_when_something_changed(
    door: Door, engine: Engine
) -> None:
    assert door.told(hello=False) is not None
    assert door.told(hello=False) is None
    assert door.told(hello=True) is not None
    with engine.begin() as conn:
        conn.execute(update(s.meetings).values(cancelled=True))
    roster = door.told(hello=False)
    assert roster is not None
    assert roster.meetings == ()
    assert door.told(hello=False) is None


def test_an_unknown_or_inactive_device_is_told_nothing(door: Door, engine: Engine) -> None:
    assert list(door.rosters.due({b"?" * 16: True}, NOW)) == []
    with engine.begin() as conn:
        conn.execute(update(s.devices).values(status="COMPROMISED", compromised_ms=0))
    assert door.told(hello=True) is None


def test_a_card_returned_or_erased_or_a_device_moved_away_is_not_in_it(
    door: Door, engine: Engine
) -> None:
    with engine.begin() as conn:
        conn.execute(update(s.credentials).values(value=None))
    roster = door.told(hello=True)
    assert roster is not None
    assert [meeting.cards for meeting in roster.meetings] == [frozenset()]
    assert roster.known(CARD, NOW) is Known.STRANGE
    with engine.begin() as conn:
        conn.execute(update(s.credentials).values(value=CARD.value))
        conn.execute(update(s.placements).values(valid_to_ms=NOW - 1))
    roster = door.told(hello=True)
    assert roster is not None
    assert roster.meetings == ()


def test_a_meeting_far_ahead_or_over_is_not_in_it(door: Door) -> None:
    for now_ms in (minutes(-14 * 60), minutes(24 * 60)):
        roster = door.told(hello=True, now_ms=now_ms)
        assert roster is not None
        assert roster.meetings == ()


def test_a_device_that_nothing_can_be_sealed_to_keeps_no_other_from_its_roster(
    door: Door, engine: Engine
) -> None:
    with engine.begin() as conn:
        world = World(conn, {"V": conn.execute(select(s.venues.c.id)).scalar_one()})
        world.device("A", "V")
        world.device("Z", "V")
        conn.execute(update(s.devices).where(s.devices.c.name != "D").values(seal_key=bytes(32)))
        edges = [row.public_id.bytes for row in conn.execute(s.devices.select())]
    assert len(edges) == 3
    for hello in (True, True):
        told = [edge for edge, _ in door.rosters.due(dict.fromkeys(edges, hello), NOW)]
        assert told == [door.edge]
    assert list(door.rosters.due(dict.fromkeys(edges, False), NOW)) == []


# --- boards ---------------------------------------------------------------------------------------


def board_of(roster: Roster | None) -> Board:
    assert roster is not None
    [meeting] = roster.meetings
    assert meeting.board is not None
    return meeting.board


def came(conn: Connection, world: World, *verdicts: str) -> None:
    """Members of the branch with these verdicts, as derivation would leave them."""
    conn.execute(delete(s.attendances))
    for number, verdict in enumerate(verdicts):
        world.member(f"A{number}", "G" if verdict == "GUEST" else "B")
        world.add(
            s.attendances,
            meeting_id=world.ids["T"],
            member_id=world.ids[f"A{number}"],
            verdict=verdict,
            at_ms=NOW,
            epoch_id=1,
            seq=number + 1,
            taps=1,
        )


def test_a_board_is_what_the_page_of_the_meeting_shows(door: Door, engine: Engine) -> None:
    with engine.begin() as conn:
        door.world.conn = conn
        door.world.organisation("G")
        came(conn, door.world, "PRESENT", "LATE", "WITNESSED", "EXCUSED", "GUEST", "BACK_FILLED")
    board = board_of(door.told(hello=True))
    assert board == Board("B名 支部党员大会", minutes(0), 7, 4, BoardQuorum.MET)
    with reading(engine) as conn:
        page = meeting_attendance(conn, EVERYTHING, "T", NOW, ZoneInfo("Asia/Shanghai"))
    assert page is not None
    assert (page.counts.expected, page.counts.present) == (board.expected, board.present)
    assert page.quorum.value == board.quorum.name


def test_a_figure_that_changed_comes_with_the_next_sign_of_life(door: Door, engine: Engine) -> None:
    assert board_of(door.told(hello=False)).present == 0
    assert door.told(hello=False) is None
    with engine.begin() as conn:
        door.world.conn = conn
        came(conn, door.world, "PRESENT")
    board = board_of(door.told(hello=False))
    assert (board.expected, board.present, board.quorum) == (3, 1, BoardQuorum.UNKNOWN)
    assert door.told(hello=False) is None


def test_while_a_meeting_is_open_what_is_shown_of_it_does_not_grow_old(door: Door) -> None:
    assert door.told(hello=True) is not None
    assert door.told(hello=False, now_ms=NOW + RENEW_MS - 1) is None
    renewed = door.told(hello=False, now_ms=NOW + RENEW_MS)
    assert renewed is not None
    assert renewed.issued_ms == NOW + RENEW_MS
    before = minutes(-31)
    assert door.told(hello=True, now_ms=before) is not None
    assert door.told(hello=False, now_ms=before + RENEW_MS) is None


def test_nothing_is_counted_before_check_in_opens(door: Door, engine: Engine) -> None:
    with engine.begin() as conn:
        door.world.conn = conn
        came(conn, door.world, "BACK_FILLED", "PRESENT", "PRESENT")
    early = board_of(door.told(hello=True, now_ms=minutes(-31)))
    assert (early.expected, early.present, early.quorum) == (5, 0, BoardQuorum.UNKNOWN)
    assert board_of(door.told(hello=True, now_ms=minutes(-30))).present == 3


@pytest.mark.parametrize("kind", list(MeetingKind))
def test_each_kind_of_meeting_is_called_by_its_name(
    door: Door, engine: Engine, kind: MeetingKind
) -> None:
    with engine.begin() as conn:
        conn.execute(update(s.meetings).values(kind=kind.value))
    board = board_of(door.told(hello=True))
    assert board.title == f"B名 {kind.zh}"
    asked = kind is MeetingKind.BRANCH_ASSEMBLY
    assert board.quorum is (BoardQuorum.UNKNOWN if asked else BoardQuorum.NOT_ASKED)


def test_a_long_name_is_cut_and_the_kind_is_not(door: Door, engine: Engine) -> None:
    with engine.begin() as conn:
        conn.execute(update(s.organisations).values(name="长" * 64))
    found = board_of(door.told(hello=True)).title
    assert len(found) == MAX_TITLE_CHARS
    assert found.endswith("长… 支部党员大会")


def test_two_meetings_at_once_have_a_board_each(door: Door, engine: Engine) -> None:
    with engine.begin() as conn:
        door.world.conn = conn
        door.world.organisation("C")
        door.world.member("O", "C")
        door.world.card("O", OTHER.value)
        door.world.meeting("U", "C", "V", kind="PARTY_LECTURE")
    roster = door.told(hello=True)
    assert roster is not None
    titles = [meeting.board.title for meeting in roster.meetings if meeting.board]
    assert titles == ["B名 支部党员大会", "C名 党课"]
    assert [len(meeting.cards) for meeting in roster.meetings] == [1, 1]
    assert roster.known(CARD, NOW) is roster.known(OTHER, NOW) is Known.EXPECTED


def test_where_no_meeting_is_near_nothing_is_counted(door: Door, engine: Engine) -> None:
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *each: asked.append(each[2]))
    assert door.told(hello=True, now_ms=minutes(-14 * 60)) is not None
    assert sum(each.startswith("SELECT") for each in asked) == 2, asked
    assert not any("memberships" in each or "attendances" in each for each in asked)


def test_what_was_told_is_not_kept(door: Door) -> None:
    assert door.told(hello=True) is not None
    assert CARD.value not in repr(vars(door.rosters))
