"""A device that hangs elsewhere now, and what that makes of its taps."""

import pytest
from sqlalchemy import Connection, Engine, select

from hub.derive import derive_batch
from hub.devices import DeviceError, move_device
from hub.store import schema as s
from tests.hub.world import Entry, World, minutes


def placements(conn: Connection) -> list[tuple[str, int, int | None]]:
    p = s.placements.c
    return [
        tuple(row)
        for row in conn.execute(
            select(s.venues.c.code, p.valid_from_ms, p.valid_to_ms)
            .join(s.venues, s.venues.c.id == p.venue_id)
            .order_by(p.valid_from_ms)
        )
    ]


def test_from_then_on_its_taps_belong_to_the_other_venue_s_meetings(engine: Engine) -> None:
    with engine.begin() as conn:
        world = World(conn)
        world.organisation("B")
        world.member("M", "B")
        world.venue("V", "B")
        world.venue("W", "B")
        world.device("D", "V", since=minutes(-100))
        card = world.card("M", "04AABBCCDDEEFF")
        world.meeting("here", "B", "V")
        world.meeting("there", "B", "W")
        world.epoch("E", "D")
        world.batch("E", 1, [Entry(0, minutes(5), trusted=True, credential_id=card)])
        while derive_batch(conn).batches:
            pass
        came = select(s.attendances.c.meeting_id)
        assert conn.scalars(came).all() == [world.ids["here"]]
        move_device(conn, "D", "W", minutes(4))
        assert conn.scalars(came).all() == [world.ids["there"]]
        assert placements(conn) == [
            ("V", minutes(-100), minutes(4)),
            ("W", minutes(4), None),
        ]


def test_a_move_that_cannot_be_says_why_and_changes_nothing(engine: Engine) -> None:
    with engine.begin() as conn:
        world = World(conn)
        world.organisation("B")
        world.venue("V", "B")
        world.venue("W", "B")
        world.device("D", "V", since=minutes(0))
    for name, venue, at_ms, words in (
        ("?", "W", minutes(1), "no device"),
        ("D", "?", minutes(1), "no venue"),
        ("D", "V", minutes(1), "is at V already"),
        ("D", "W", minutes(0), "later time"),
        ("D", "W", minutes(-1), "later time"),
    ):
        with pytest.raises(DeviceError, match=words), engine.begin() as conn:
            move_device(conn, name, venue, at_ms)
        with engine.begin() as conn:
            assert placements(conn) == [("V", minutes(0), None)]


def test_a_device_can_hang_nowhere_and_come_back(engine: Engine) -> None:
    with engine.begin() as conn:
        world = World(conn)
        world.organisation("B")
        world.venue("V", "B")
        world.device("D", "V", since=minutes(0))
        move_device(conn, "D", None, minutes(5))
        assert placements(conn) == [("V", minutes(0), minutes(5))]
        with pytest.raises(DeviceError, match="no venue already"):
            move_device(conn, "D", None, minutes(6))
        move_device(conn, "D", "V", minutes(7))
        assert placements(conn) == [
            ("V", minutes(0), minutes(5)),
            ("V", minutes(7), None),
        ]
