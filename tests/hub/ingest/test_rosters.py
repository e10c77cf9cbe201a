"""A device is told of the meetings at its venue, when it asks and when they change."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, select, update

from hub.ingest.rosters import Rosters
from hub.store import schema as s
from protocol.credential import Credential
from protocol.identity import OpeningKey, SigningKey
from protocol.roster import Known, Roster
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
            world = World(conn)
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
        conn.execute(update(s.devices).values(status="COMPROMISED"))
    assert door.told(hello=True) is None


def test_a_card_returned_or_erased_or_a_device_moved_away_is_not_in_it(
    door: Door, engine: Engine
) -> None:
    with engine.begin() as conn:
        conn.execute(update(s.credentials).values(value=None))
    roster = door.told(hello=True)
    assert roster is not None
    assert roster.meetings == ()
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


def test_what_was_told_is_not_kept(door: Door) -> None:
    assert door.told(hello=True) is not None
    assert CARD.value not in repr(vars(door.rosters))
