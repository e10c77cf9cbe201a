"""Declarations and acts at readers become attendance, step by step as from nothing."""

import random
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from hub.derive import (
    derive_batch,
    rebuild_check,
    rederive_credentials,
    rederive_devices,
    rederive_meetings,
    rederive_windows,
)
from hub.domain.terms import DeclarationKind
from hub.store import schema as s
from hub.store.stated import stated_of
from protocol.journal import Act
from tests.hub.world import Entry, World, district, minutes, uid_of


def verdicts(world: World, meeting: str = "会") -> dict[str, str]:
    names = {key: name for name, key in world.ids.items() if name in set("李王赵钱孙")}
    a = s.attendances.c
    return {
        names[row.member_id]: row.verdict
        for row in world.conn.execute(
            select(a.member_id, a.verdict).where(a.meeting_id == world.ids[meeting])
        )
    }


def test_an_act_counts_for_the_meeting_of_its_officer_alone(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.office("王", "甲")
        world.office("钱", "乙")
        world.epoch("e", "一号")
        about = {name: world.names(name) for name in "李赵孙"}

        def witnessed(by: str, of: str, at: float) -> Entry:
            card = uid_of(world, by)
            return Entry(int(at), minutes(at), True, card, Act.WITNESSED, about=about[of])

        world.batch(
            "e",
            1,
            [
                witnessed("王", "李", 5),
                witnessed("钱", "赵", 6),  # an officer of another branch
                witnessed("赵", "赵", 7),  # no officer
                witnessed("王", "孙", 8),  # of another branch: a guest
                witnessed("王", "赵", 200),  # after the meeting
                Entry(9, minutes(9), True, uid_of(world, "王"), Act.HEAD_COUNT, 17),
            ],
        )
        derive_batch(conn)
        assert verdicts(world) == {
            "李": "WITNESSED",
            "孙": "GUEST",
            # Their cards were at the reader.
            "王": "LATE",
            "赵": "LATE",
            "钱": "GUEST",
        }
        assert rebuild_check(conn) == []


def test_a_joint_meeting_expects_the_members_of_each(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.meeting("联", "甲", "礼堂", start=300, partners=["乙"])
        world.epoch("e", "一号")
        world.batch(
            "e", 1, [Entry(n, minutes(295), True, uid_of(world, m)) for n, m in enumerate("李钱")]
        )
        derive_batch(conn)
        assert verdicts(world, "联") == {"李": "PRESENT", "钱": "PRESENT"}


def test_an_act_speaks_for_one_meeting_and_a_witness_for_each_that_is_open(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.office("王", "甲")
        world.meeting("晚", "甲", "礼堂", start=60)
        world.epoch("e", "一号")
        officer = uid_of(world, "王")
        world.batch(
            "e",
            1,
            [
                Entry(1, minutes(50), True, officer, Act.CLOSED),
                Entry(2, minutes(50), True, officer, Act.HEAD_COUNT, 5),
                Entry(3, minutes(51), True, officer, Act.WITNESSED, about=world.names("李")),
            ],
        )
        derive_batch(conn)
        said = stated_of(conn, [world.ids["会"], world.ids["晚"]])
        first, second = said[world.ids["会"]], said[world.ids["晚"]]
        assert (first.held, first.head_count) == (True, 5)
        assert (second.held, second.head_count) == (None, None)
        assert verdicts(world)["李"] == verdicts(world, "晚")["李"] == "WITNESSED"
        assert rebuild_check(conn) == []


def test_a_tap_is_assigned_to_one_meeting_whatever_becomes_of_the_other(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.meeting("晚", "甲", "礼堂", start=120)
        world.epoch("e", "一号")
        # After the one and before the other.
        world.batch("e", 1, [Entry(1, minutes(70), True, uid_of(world, "李"))])
        derive_batch(conn)
        entry = {"epoch_id": world.ids["e"], "seq": 1}
        world.declare("会", "TAP_ASSIGNED", at=80, **entry)
        rederive_meetings(conn, [world.ids["会"]])
        assert verdicts(world) == {"李": "LATE"}
        later = world.declare("晚", "TAP_ASSIGNED", at=81, **entry)
        rederive_meetings(conn, [world.ids["晚"]])
        assert (verdicts(world), verdicts(world, "晚")) == ({}, {"李": "PRESENT"})
        assert rebuild_check(conn) == []
        world.declare("晚", "WITHDRAWN", about=later, at=82)
        rederive_meetings(conn, [world.ids["晚"]])
        assert (verdicts(world), verdicts(world, "晚")) == ({"李": "LATE"}, {})
        assert rebuild_check(conn) == []


def test_an_assignment_counts_as_long_as_it_fits_what_is_known(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        card = uid_of(world, "李")
        world.batch("e", 1, [Entry(60_000, 7, False, card)], minutes(5000))
        derive_batch(conn)
        world.declare("会", "TAP_ASSIGNED", at=20, epoch_id=world.ids["e"], seq=1)
        rederive_meetings(conn, [world.ids["会"]])
        assert verdicts(world) == {"李": "PRESENT"}
        # The boot's clock becomes known: it was two days later.
        dated = Entry(120_000, minutes(3000), trusted=True)
        world.heartbeat("一号", "e", 1, dated, minutes(5001))
        derive_batch(conn)
        assert verdicts(world) == {}
        assert rebuild_check(conn) == []


@pytest.mark.parametrize("seed", range(12))
def test_step_by_step_equals_from_nothing(engine: Engine, seed: int) -> None:
    """Taps, acts, declarations, meetings and bindings, all mixed."""
    chance = random.Random(seed)
    with engine.begin() as conn:
        world = district(conn)
        world.meeting("晚", "甲", "礼堂", start=50, partners=["乙"] if seed % 2 else [])
        world.office("王", "甲")
        world.office("钱", "乙")
        world.epoch("e", "一号")
        stranger = world.card(None, "AABBCCDD")
        cards = {name: uid_of(world, name) for name in "李王赵钱孙"}
        about = [world.names(name) for name in "李赵孙"]
        said: list[int] = []
        seq = 0
        for _ in range(40):
            match chance.randrange(7):
                case 0 | 1:
                    seq += 1
                    card = chance.choice([stranger, *cards.values()])
                    at = chance.randrange(-60, 150)
                    world.batch("e", seq, [Entry(seq, minutes(at), chance.random() < 0.9, card)])
                    derive_batch(conn)
                case 2:
                    seq += 1
                    at, what = chance.randrange(-60, 150), chance.choice(list(Act))
                    number = 5 if what is Act.HEAD_COUNT else None
                    of = chance.choice(about) if what is Act.WITNESSED else None
                    card = cards[chance.choice("李王钱")]
                    world.batch("e", seq, [Entry(seq, minutes(at), True, card, what, number, of)])
                    derive_batch(conn)
                case 3:
                    said.append(_declare(world, chance, said, seq))
                case 4:
                    _move(world, chance)
                case 5:
                    one, other = chance.sample("赵孙李", 2)
                    conn.execute(
                        update(s.bindings)
                        .where(s.bindings.c.member_id == world.ids[one])
                        .values(member_id=world.ids[other])
                    )
                    rederive_credentials(conn, conn.scalars(select(s.credentials.c.id)).all())
                case _:
                    conn.execute(
                        update(s.placements).values(valid_from_ms=minutes(chance.randrange(-90, 9)))
                    )
                    rederive_devices(conn, [world.ids["一号"]])
            assert rebuild_check(conn) == []


def _declare(world: World, chance: random.Random, said: list[int], seq: int) -> int:
    meeting, kind = chance.choice("会晚"), chance.choice(list(DeclarationKind))
    more: dict[str, Any] = {}
    if kind is DeclarationKind.TAP_ASSIGNED and seq:
        more = {"epoch_id": world.ids["e"], "seq": chance.randint(1, seq)}
    key = world.declare(
        meeting,
        kind.value,
        chance.choice("李王赵钱孙"),
        about=chance.choice([None, *said]),
        at=chance.randrange(100),
        **more,
    )
    touched = set(world.conn.scalars(select(s.declarations.c.meeting_id)))
    rederive_meetings(world.conn, touched)
    return key


def _move(world: World, chance: random.Random) -> None:
    meeting = world.ids[chance.choice("会晚")]
    m = s.meetings.c
    row = world.conn.execute(select(s.meetings).where(m.id == meeting)).one()
    start = chance.randrange(-60, 90)
    world.conn.execute(
        update(s.meetings)
        .where(m.id == meeting)
        .values(
            opens_ms=minutes(start - 30),
            starts_ms=minutes(start),
            ends_ms=minutes(start + 45),
            cancelled=chance.random() < 0.2,
        )
    )
    venue = world.ids["礼堂"]
    windows = [
        (venue, row.opens_ms, row.ends_ms),
        (venue, minutes(start - 30), minutes(start + 45)),
    ]
    rederive_windows(world.conn, windows, [meeting])
