"""Derived tables: step by step equals from nothing, whatever the order."""

import random
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, delete, select, update

import hub.derive
from hub.derive import Step, derive_batch, rebuild, rebuild_check
from hub.domain.attendance import MINUTE_MS
from hub.imports.plan import import_file
from hub.imports.words import Register
from hub.ingest.landing import _WITHIN_A_RUN
from hub.store import schema as s
from tests.hub.world import LONG_AGO, Entry, World, district, minutes, public_id, uid_of

NOTHING = Step(0, 0, 0, ())


def verdicts(world: World, meeting: str = "会") -> dict[str, tuple[str, int, int]]:
    names = {world.ids[name]: name for name in "李王赵钱孙"}
    c = s.attendances.c
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
        sorted(tuple(row) for row in conn.execute(select(s.attendances))),
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
        assert conn.scalar(select(s.attendances.c.verdict)) == "PRESENT"


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
        conn.execute(update(s.devices).values(enrolled_at_ms=minutes(-70)))
        world.meeting("二会", "乙", "礼堂", chance.choice([20, 40, 90]))
        world.venue("小间", "乙")
        world.device("二号", "小间", LONG_AGO, minutes(20))
        world.device("二号", "礼堂", minutes(20))
        world.meeting("三会", "乙", "小间", kind="PARTY_LECTURE", grace=5)
        cards = [uid_of(world, name) for name in "李王赵钱孙"] + [world.card(None, "AABBCCDD")]
        pieces: list[Any] = []
        for device in ("一号", "二号"):
            before = None
            for boot in ("x", "y"):
                # Wall time of boottime 0; each trusted reading may be off by some minutes.
                zero = chance.randint(-60, 60)
                knows = chance.random() < 0.7
                for number in range(chance.randint(1, 2)):
                    epoch = f"{device}{boot}{number}"
                    world.epoch(epoch, device, boot=device + boot, parent=before)
                    before = (epoch, 12)
                    entries = []
                    for at in sorted(chance.sample(range(120), 12)):
                        trusted = knows and chance.random() < 0.5
                        # Now and then a clock runs hours ahead.
                        wall = minutes(zero + at + chance.choice([0, 0, 2, 2, 500]))
                        wall = wall if trusted else at
                        card = chance.choice([None, *cards])
                        entries.append(Entry(at * MINUTE_MS, wall, trusted, card))
                    pieces += [
                        ("batch", epoch, first + 1, entries[first : first + 3], minutes(200))
                        for first in range(0, 12, 3)
                    ]
                    pieces.append(("batch", epoch, 1, entries[:5], minutes(200)))
                    for at in (130, 132, 135, 136):
                        off = chance.choice([0, 1])
                        beat = Entry(at * MINUTE_MS, minutes(zero + at + off), trusted=knows)
                        pieces.append(("heartbeat", device, epoch, beat))
        chance.shuffle(pieces)
        for kind, *rest in pieces:
            if kind == "batch":
                world.batch(*rest)
            else:
                device, epoch, beat = rest
                world.heartbeat(device, epoch, 12, beat, minutes(200))
                run = {"device_id": world.ids[device], "epoch": public_id(epoch).bytes}
                run |= {"head_seq": 12, "trusted": beat.trusted, "readers": "[]"}
                run["closing"] = False
                conn.execute(_WITHIN_A_RUN, run | {"boottime_ms": beat.boottime_ms})
            if chance.random() < 0.6:
                derive_batch(conn, limit=chance.randint(1, 3))
        while derive_batch(conn, limit=chance.randint(1, 5)) != NOTHING:
            pass
        step_by_step = derived(conn)
        assert len(step_by_step[0]) > 0
        assert rebuild_check(conn) == []
        rebuild(conn)
        assert derived(conn) == step_by_step


# Two connections that write at once: SQLite has none.
@pytest.mark.parametrize(
    "engine", [pytest.param("postgres", marks=pytest.mark.servers)], indirect=True
)
@pytest.mark.parametrize("part", ["_read_taps", "_write_attendances"])
def test_what_ingest_commits_during_an_import_is_derived_afterwards(
    engine: Engine, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        world.epoch("f", "一号", boot="other")
        world.batch("f", 1, [Entry(1, minutes(0), True, uid_of(world, "王"))])
        world.batch("f", 2, [Entry(9, 9, False, uid_of(world, "赵"))])
    original = getattr(hub.derive, part)

    def and_meanwhile(conn: Any, *rest: Any, **named: Any) -> Any:
        result = original(conn, *rest, **named)
        monkeypatch.setattr(hub.derive, part, original)
        with engine.begin() as other:
            late = World(other, world.ids)
            # Behind where the scan of the rebuild stands by now.
            late.batch("e", 1, [Entry(1, minutes(0), True, uid_of(late, "李"))])
            late.heartbeat("一号", "f", 2, Entry(8, minutes(-10), True), minutes(200))
        return result

    monkeypatch.setattr(hub.derive, part, and_meanwhile)
    file = "card,member,format,number,from\nK,赵,hex,0A0B0C0D,2026-01-01\n".encode()
    with engine.begin() as conn:
        report = import_file(conn, Register.CARDS, file, now_ms=minutes(200))
        assert report.added == 1, report
    with engine.begin() as conn:
        while derive_batch(conn) != NOTHING:
            pass
        assert set(verdicts(World(conn, world.ids))) == {"李", "王", "赵"}
        assert rebuild_check(conn) == []


def test_no_tap_is_later_than_the_hub_had_word_of_it(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        # Its clock is an hour fast, and says that it is right.
        fast, now = Entry(60 * MINUTE_MS, minutes(60), True, uid_of(world, "李")), minutes(0)
        world.batch("e", 1, [fast, replace(fast, wall_ms=now + MINUTE_MS)], now)
        # Nor does such a reading date anything else of its boot.
        earlier = Entry(55 * MINUTE_MS, 7, False, uid_of(world, "王"))
        world.batch("e", 3, [earlier], minutes(300))
        world.heartbeat("一号", "e", 3, replace(fast, boottime_ms=56 * MINUTE_MS), now)
        derive_batch(conn)
        assert outcomes(world) == [
            ("UNDATED", None),
            ("COUNTED", now + MINUTE_MS),
            ("COUNTED", minutes(-4)),
        ]
        latest = conn.scalars(select(s.readings.c.latest_ms).order_by(s.readings.c.seq)).all()
        assert latest == [now, now + MINUTE_MS, minutes(-4)]
        assert rebuild_check(conn) == []


@pytest.mark.parametrize("wall_ms", [-(1 << 45), 0, 946_684_799_999, 1 << 47, 1 << 62])
def test_a_clock_of_another_age_dates_nothing(engine: Engine, wall_ms: int) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号", opened=Entry(1 << 46, wall_ms, trusted=True))
        card = uid_of(world, "李")
        world.batch("e", 1, [Entry(5, wall_ms, True, card), Entry(6, 6, False, card)], minutes(0))
        derive_batch(conn)
        assert outcomes(world) == [("UNDATED", None)] * 2
        assert rebuild_check(conn) == []


def test_an_undated_tap_was_after_its_device_was_enrolled_and_after_the_epoch_before(
    engine: Engine,
) -> None:
    def earliest() -> list[int | None]:
        while derive_batch(conn) != NOTHING:
            pass
        assert rebuild_check(conn) == []
        r = s.readings.c
        return list(conn.scalars(select(r.earliest_ms).where(r.epoch_id == world.ids["f"])))

    with engine.begin() as conn:
        world = district(conn)
        world.epoch("f", "一号", boot="later", parent=("e", 3))
        world.batch("f", 1, [Entry(1, 1, False, uid_of(world, "李"))], minutes(50))
        assert earliest() == [None]
        conn.execute(update(s.devices).values(enrolled_at_ms=minutes(-90)))
        rebuild(conn)
        assert earliest() == [minutes(-90)]
        world.epoch("e", "一号")
        world.batch("e", 1, [Entry(1, minutes(-60), True), Entry(2, 2, trusted=False)])
        assert earliest() == [minutes(-60)]
        world.heartbeat("一号", "e", 3, Entry(9, minutes(-20), True), minutes(200))
        assert earliest() == [minutes(-20)]
        # Neither what came after the fork nor what was after the tap had arrived bounds it.
        world.batch("e", 4, [Entry(10, minutes(-10), trusted=True)])
        assert earliest() == [minutes(-20)]
        world.batch("e", 3, [Entry(3, minutes(50), trusted=True)])
        assert earliest() == [None]


def test_a_trusted_reading_has_only_those_taps_read_again_that_it_may_date(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[int]] = []
    original = hub.derive._derive

    def noting(conn: Any, rows: Any) -> Any:
        read.append(sorted(row.seq for row in rows))
        return original(conn, rows)

    monkeypatch.setattr(hub.derive, "_derive", noting)
    with engine.begin() as conn:
        world = district(conn)
        card = uid_of(world, "李")

        def beat(at: int, *, trusted: bool = True) -> list[int]:
            entry = Entry(at * MINUTE_MS, minutes(at), trusted)
            world.heartbeat("一号", "e", 9, entry, minutes(200))
            derive_batch(conn)
            return read.pop()

        def batch(seq: int, *entries: Entry) -> list[int]:
            world.batch("e", seq, entries)
            derive_batch(conn)
            return read.pop()

        def entry(at: int, *, trusted: bool) -> Entry:
            return Entry(at * MINUTE_MS, minutes(at) if trusted else 0, trusted, card)

        world.epoch("e", "一号")
        assert batch(1, *(entry(at, trusted=False) for at in (1, 2, 3))) == [1, 2, 3]
        assert beat(4, trusted=False) == []
        assert batch(4, entry(5, trusted=False)) == [4]
        assert beat(6) == [1, 2, 3, 4]
        assert beat(7) == []
        assert batch(5, entry(8, trusted=True)) == [5]
        assert batch(6, entry(9, trusted=False)) == [6]
        assert beat(10) == [6]
        assert rebuild_check(conn) == []


def test_a_sign_of_life_changes_no_meeting(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        world.heartbeat("一号", "e", 0, Entry(1, minutes(1), trusted=True), minutes(1))
        assert derive_batch(conn) == Step(0, 1, 0, ())
        assert conn.scalar(select(s.meetings.c.change)) == 0
