"""Derived tables: step by step equals from nothing, whatever the order."""

import random
from typing import Any

import pytest
from sqlalchemy import Engine, delete, select, update

from hub.derive import Step, derive_batch, rebuild, rebuild_check
from hub.domain.attendance import MINUTE_MS
from hub.store import schema as s
from tests.hub.world import LONG_AGO, Entry, World, district, minutes, uid_of

NOTHING = Step(0, 0, 0, ())


def verdicts(world: World, meeting: str = "会") -> dict[str, tuple[str, int, int]]:
    names = {world.ids[name]: name for name in "李王赵钱孙"}
    c = s.check_ins.c
    return {
        names[row.member_id]: (row.verdict, row.at_ms, row.taps)
        for row in world.conn.execute(
            select(c.member_id, c.verdict, c.at_ms, c.taps).where(
                c.meeting_id == world.ids[meeting]
            )
        )
    }


def outcomes(world: World) -> list[tuple[str, int | None]]:
    r = s.readings.c
    return [
        (row.outcome, row.at_ms)
        for row in world.conn.execute(select(r.outcome, r.at_ms).order_by(r.epoch_id, r.seq))
    ]


def derived(conn: Any) -> tuple[list[Any], list[Any]]:
    return (
        sorted(tuple(row) for row in conn.execute(select(s.readings))),
        sorted(tuple(row) for row in conn.execute(select(s.check_ins))),
    )


def test_taps_become_check_ins_and_each_batch_is_taken_once(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        stranger = world.card(None, "AABBCCDD")
        world.batch(
            "e",
            1,
            [
                Entry(0, minutes(-40), trusted=True),
                Entry(1, minutes(-10), True, uid_of(world, "李")),
                Entry(2, minutes(-9), True, uid_of(world, "李")),
                Entry(3, minutes(1), True, uid_of(world, "王")),
                Entry(4, minutes(2), True, uid_of(world, "钱")),
                Entry(5, minutes(3), True, stranger),
                Entry(6, minutes(61), True, uid_of(world, "赵")),
            ],
        )
        assert derive_batch(conn) == Step(1, 0, 6, (world.ids["会"],))
        assert verdicts(world) == {
            "李": ("PRESENT", minutes(-10), 2),
            "王": ("LATE", minutes(1), 1),
            "钱": ("GUEST", minutes(2), 1),
        }
        assert [outcome for outcome, _ in outcomes(world)] == [
            "COUNTED",
            "COUNTED",
            "COUNTED",
            "GUEST",
            "UNMATCHED",
            "UNPLACED",
        ]
        assert conn.scalar(select(s.meetings.c.change)) == 1
        assert derive_batch(conn) == NOTHING
        # The same batch again: taken, and nothing comes of it.
        world.batch("e", 2, [Entry(1, minutes(-10), True, uid_of(world, "李"))])
        assert derive_batch(conn).readings == 0
        assert len(outcomes(world)) == 6
        assert rebuild_check(conn) == []


def test_a_step_that_is_rolled_back_is_taken_again(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        world.batch("e", 1, [Entry(1, minutes(0), True, uid_of(world, "李"))])
    with engine.connect() as conn:
        assert derive_batch(conn).batches == 1
        conn.rollback()
    with engine.begin() as conn:
        assert derive_batch(conn).batches == 1
        assert conn.scalar(select(s.check_ins.c.verdict)) == "PRESENT"


@pytest.mark.parametrize("source", ["entry", "heartbeat", "opening", "another epoch"])
def test_a_clock_that_becomes_known_dates_the_boot_before_it(engine: Engine, source: str) -> None:
    with engine.begin() as conn:
        world = district(conn)
        trusted = Entry(100 * MINUTE_MS, minutes(30), trusted=True)
        world.epoch("e", "一号", opened=Entry(0, 0, trusted=False))
        world.batch("e", 1, [Entry(60 * MINUTE_MS, 5, False, uid_of(world, "李"))], minutes(20))
        assert derive_batch(conn).readings == 1
        assert outcomes(world) == [("UNDATED", None)]
        assert conn.execute(select(s.readings.c.earliest_ms, s.readings.c.latest_ms)).all() == [
            (None, minutes(20))
        ]
        match source:
            case "entry":
                world.batch("e", 2, [trusted])
            case "heartbeat":
                world.heartbeat("一号", "e", 1, trusted, minutes(30))
            case "opening":
                world.epoch("e2", "一号", opened=trusted)
                world.batch("e2", 1, [Entry(100 * MINUTE_MS, 7, trusted=False)])
            case _:
                world.epoch("e2", "一号")
                world.batch("e2", 1, [trusted])
        step = derive_batch(conn)
        assert (step.readings, step.meetings) == (1, (world.ids["会"],))
        assert outcomes(world) == [("COUNTED", minutes(-10))]
        assert verdicts(world) == {"李": ("PRESENT", minutes(-10), 1)}
        assert rebuild_check(conn) == []


def test_another_boot_dates_nothing(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号", boot="first")
        world.epoch("e2", "一号", boot="second")
        world.batch("e", 1, [Entry(60, 5, False, uid_of(world, "李"))])
        world.batch("e2", 1, [Entry(100, minutes(30), trusted=True)])
        derive_batch(conn)
        assert outcomes(world) == [("UNDATED", None)]


def test_a_tap_that_moves_leaves_the_meeting_it_seemed_to_belong_to(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        # The far sample is an hour off, and the nearer one, which arrives later, is right.
        world.batch("e", 1, [Entry(0, 0, False, uid_of(world, "李"))])
        world.batch("e", 3, [Entry(50 * MINUTE_MS, minutes(40), trusted=True)])
        derive_batch(conn)
        assert verdicts(world) == {"李": ("PRESENT", minutes(-10), 1)}
        world.batch("e", 2, [Entry(10 * MINUTE_MS, minutes(100), trusted=True)])
        assert derive_batch(conn).meetings == (world.ids["会"],)
        assert verdicts(world) == {}
        assert outcomes(world) == [("UNPLACED", minutes(90))]
        assert rebuild_check(conn) == []


def test_the_card_and_the_place_of_that_time_decide(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.venue("别处", "甲")
        world.conn.execute(delete(s.placements))
        world.device("一号", "别处", LONG_AGO, minutes(0))
        world.device("一号", "礼堂", minutes(0))
        card = world.card("李", "01020304", LONG_AGO, minutes(10))
        world.card("王", "01020304", minutes(10))
        world.epoch("e", "一号")
        world.batch("e", 1, [Entry(at, minutes(at), True, card) for at in (-1, 0, 9, 10, 60)])
        derive_batch(conn)
        assert verdicts(world) == {
            "李": ("PRESENT", minutes(0), 2),
            "王": ("LATE", minutes(10), 2),
        }


def test_a_rebuild_follows_the_registers(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        stranger = world.card(None, "AABBCCDD")
        world.batch("e", 1, [Entry(1, minutes(0), True, stranger)])
        derive_batch(conn)
        world.card("赵", "AABBCCDD")
        assert rebuild_check(conn) != []
        assert verdicts(world) == {}
        assert rebuild(conn) == 1
        assert verdicts(world) == {"赵": ("PRESENT", minutes(0), 1)}
        conn.execute(update(s.meetings).values(cancelled=True))
        rebuild(conn)
        assert verdicts(world) == {}
        assert [outcome for outcome, _ in outcomes(world)] == ["UNPLACED"]
        assert rebuild_check(conn) == []


@pytest.mark.parametrize("seed", range(25))
def test_any_order_of_arrival_gives_what_a_rebuild_gives(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)
    with engine.begin() as conn:
        world = district(conn)
        world.meeting("二会", "乙", "礼堂", chance.choice([20, 40, 90]))
        world.venue("小间", "乙")
        world.device("二号", "小间", LONG_AGO, minutes(20))
        world.device("二号", "礼堂", minutes(20))
        world.meeting("三会", "乙", "小间", kind="PARTY_LECTURE", grace=5)
        cards = [uid_of(world, name) for name in "李王赵钱孙"] + [world.card(None, "AABBCCDD")]
        pieces: list[Any] = []
        for device in ("一号", "二号"):
            for boot in ("x", "y"):
                # Wall time of boottime 0; each trusted reading may be off by some minutes.
                zero = chance.randint(-60, 60)
                knows = chance.random() < 0.7
                for number in range(chance.randint(1, 2)):
                    epoch = f"{device}{boot}{number}"
                    world.epoch(epoch, device, boot=device + boot)
                    entries = []
                    for at in sorted(chance.sample(range(120), 12)):
                        trusted = knows and chance.random() < 0.5
                        wall = minutes(zero + at + chance.choice([0, 0, 2])) if trusted else at
                        card = chance.choice([None, *cards])
                        entries.append(Entry(at * MINUTE_MS, wall, trusted, card))
                    pieces += [
                        ("batch", epoch, first + 1, entries[first : first + 3])
                        for first in range(0, 12, 3)
                    ]
                    pieces.append(("batch", epoch, 1, entries[:5]))
                    if knows:
                        beat = Entry(130 * MINUTE_MS, minutes(zero + 130), trusted=True)
                        pieces.append(("heartbeat", device, epoch, beat))
        chance.shuffle(pieces)
        for kind, *rest in pieces:
            if kind == "batch":
                world.batch(*rest)
            else:
                device, epoch, beat = rest
                world.heartbeat(device, epoch, 12, beat, minutes(200))
            if chance.random() < 0.6:
                derive_batch(conn, limit=chance.randint(1, 3))
        while derive_batch(conn, limit=chance.randint(1, 5)) != NOTHING:
            pass
        step_by_step = derived(conn)
        assert len(step_by_step[0]) > 0
        assert rebuild_check(conn) == []
        rebuild(conn)
        assert derived(conn) == step_by_step


@pytest.mark.parametrize(
    ("received", "follows"), [(-31, False), (-30, True), (60, True), (1500, True), (1501, False)]
)
def test_an_open_page_learns_that_a_device_was_heard(
    engine: Engine, received: int, follows: bool
) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        beat = Entry(1, minutes(received), trusted=True)
        world.heartbeat("一号", "e", 0, beat, minutes(received))
        assert derive_batch(conn) == Step(0, 1, 0, (world.ids["会"],) if follows else ())
        assert conn.scalar(select(s.meetings.c.change)) == int(follows)
        assert derive_batch(conn) == NOTHING
