"""A device that hangs elsewhere now, and what that makes of its taps."""

import pytest
from sqlalchemy import Connection, Engine, select

from hub.audit import Machine
from hub.derive import derive_batch, rebuild_check
from hub.devices import DeviceError, move_device
from hub.store import schema as s
from tests.hub.world import Entry, World, minutes


def move(
    conn: Connection, name: str, venue: str | None, at_ms: int, *, replaces: bool = False
) -> None:
    move_device(conn, Machine(), name, venue, at_ms, NOW, replaces=replaces)


NOW = minutes(1000)


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
        move(conn, "D", "W", minutes(4))
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
        ("?", "W", minutes(1), "没有叫“\\?”的设备"),
        ("D", "?", minutes(1), "没有编号为“\\?”的会场"),
        ("D", "V", minutes(1), "就在“V名”"),
        ("D", "W", minutes(0), "已经登记过"),
        ("D", "W", minutes(-1), "已经登记过"),
    ):
        with pytest.raises(DeviceError, match=words), engine.begin() as conn:
            move(conn, name, venue, at_ms)
        with engine.begin() as conn:
            assert placements(conn) == [("V", minutes(0), None)]


def test_a_device_can_hang_nowhere_and_come_back(engine: Engine) -> None:
    with engine.begin() as conn:
        world = World(conn)
        world.organisation("B")
        world.venue("V", "B")
        world.device("D", "V", since=minutes(0))
        move(conn, "D", None, minutes(5))
        assert placements(conn) == [("V", minutes(0), minutes(5))]
        with pytest.raises(DeviceError, match="不在任何会场"):
            move(conn, "D", None, minutes(6))
        move(conn, "D", "V", minutes(7))
        assert placements(conn) == [
            ("V", minutes(0), minutes(5)),
            ("V", minutes(7), None),
        ]


@pytest.mark.parametrize(
    ("venue", "at", "left"),
    [
        ("W", 0, [("W", 0, None)]),
        ("W", 5, [("V", 0, 5), ("W", 5, None)]),
        ("W", 10, [("V", 0, 10), ("W", 10, None)]),
        ("V", 5, [("V", 0, None)]),
        ("V", 15, [("V", 0, 10), ("W", 10, 15), ("V", 15, None)]),
        (None, 5, [("V", 0, 5)]),
        ("W", 30, [("V", 0, 10), ("W", 10, 20), ("W", 30, None)]),
    ],
)
def test_what_was_said_of_its_place_is_replaced(
    engine: Engine, venue: str | None, at: int, left: list[tuple[str, int, int | None]]
) -> None:
    with engine.begin() as conn:
        world = World(conn)
        world.organisation("B")
        world.member("M", "B")
        world.venue("V", "B")
        world.venue("W", "B")
        world.device("D", "V", since=minutes(0), until=minutes(10))
        world.device("D", "W", since=minutes(10), until=minutes(20))
        world.meeting("here", "B", "V")
        world.meeting("there", "B", "W")
        world.epoch("E", "D")
        card = world.card("M", "04AABBCCDDEEFF")
        world.batch(
            "E",
            1,
            [Entry(at, minutes(at), trusted=True, credential_id=card) for at in range(1, 60, 4)],
        )
        while derive_batch(conn).batches:
            pass
        move(conn, "D", venue, minutes(at), replaces=True)
        assert placements(conn) == [
            (code, minutes(start), None if end is None else minutes(end))
            for code, start, end in left
        ]
        assert rebuild_check(conn) == []


def test_a_device_keeps_one_place_at_least(engine: Engine) -> None:
    with engine.begin() as conn:
        world = World(conn)
        world.organisation("B")
        world.venue("V", "B")
        world.device("D", "V", since=minutes(0))
        with pytest.raises(DeviceError, match="请选一个会场"):
            move(conn, "D", None, minutes(0), replaces=True)
        assert placements(conn) == [("V", minutes(0), None)]
