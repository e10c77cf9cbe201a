"""Who sees what of whom, and that the figures are those of the rules."""

import dataclasses
import inspect
import json
import random
import re
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection, Engine, delete, event, func, insert, select, update

from hub.derive import derive_batch, memberships, rebuild
from hub.domain.attendance import NO_DEVICE, NOT_CONFIRMED, NOT_TOLD, expected, moment
from hub.domain.completeness import Completeness, Obstacle
from hub.domain.terms import MeetingKind, Verdict
from hub.store import queries
from hub.store import schema as s
from hub.store.queries import (
    Counts,
    MeetingAttendance,
    device_completeness,
    meeting_attendance,
    meeting_change,
    member_attendance,
    organisation_attendance,
)
from hub.store.scope import EVERYTHING, subtree
from tests.hub.world import (
    LONG_AGO,
    Entry,
    World,
    digest,
    district,
    minutes,
    public_id,
    uid_of,
)

CHINA = ZoneInfo("Asia/Shanghai")
EVER = (0, minutes(10_000_000))


def attended(conn: Connection) -> World:
    """Li in time, Wang late, Zhao not seen; Qian of the other branch a guest, and a stranger."""
    world = district(conn)
    world.epoch("e", "一号", opened=Entry(0, minutes(-60), trusted=True))
    stranger = world.card(None, "AABBCCDD")
    world.batch(
        "e",
        1,
        [
            Entry(at, minutes(at), True, card)
            for at, card in [
                (0, uid_of(world, "李")),
                (1, uid_of(world, "李")),
                (2, uid_of(world, "王")),
                (3, uid_of(world, "钱")),
                (4, stranger),
            ]
        ],
    )
    derive_batch(conn)
    return world


def test_a_meeting_with_everybody_it_concerns(engine: Engine) -> None:
    with engine.begin() as conn:
        world = attended(conn)
        found = meeting_attendance(conn, world.ids["区"], "会", minutes(30), CHINA)
        assert found is not None
        assert found.counts == Counts(3, 2, 1, 0, 1, 0, 1)
        assert [(row.person.code, row.verdict, row.at_ms, row.taps) for row in found.rows] == [
            ("李", Verdict.PRESENT, minutes(0), 2),
            ("王", Verdict.LATE, minutes(2), 1),
            ("赵", Verdict.NOT_SEEN, None, 0),
            ("钱", Verdict.GUEST, minutes(3), 1),
        ]
        assert (found.unmatched, found.unplaced, found.undated) == (1, 0, 0)
        assert found.meeting.public_id == str(public_id("会"))
        assert (found.meeting.organisation.code, found.meeting.venue.name) == ("甲", "礼堂名")
        assert len(found.devices) == 1
        assert not found.devices[0].complete
        assert found.reasons == (found.devices[0].words, NOT_CONFIRMED, NOT_TOLD)
        by_id = meeting_attendance(conn, EVERYTHING, found.meeting.public_id, minutes(30), CHINA)
        assert by_id == found
        assert json.loads(json.dumps(dataclasses.asdict(found)))["rows"][1]["verdict"] == "LATE"

        over = meeting_attendance(conn, world.ids["区"], "会", minutes(61), CHINA)
        assert over is not None
        assert (over.counts.not_seen, over.counts.pending) == (0, 1)


def test_a_guest_from_elsewhere_is_a_branch_and_nothing_else(engine: Engine) -> None:
    with engine.begin() as conn:
        world = attended(conn)
        found = meeting_attendance(conn, world.ids["甲"], "会", minutes(30), CHINA)
        assert found is not None
        guest = found.rows[-1]
        assert dataclasses.astuple(guest.person) == (None, None, None, "乙名")
        assert "钱" not in json.dumps(dataclasses.asdict(found), ensure_ascii=False)


def test_what_lies_outside_of_the_scope_is_as_if_it_were_not(engine: Engine) -> None:
    with engine.begin() as conn:
        world = attended(conn)
        other, now = world.ids["乙"], minutes(30)
        assert meeting_attendance(conn, other, "会", now, CHINA) is None
        assert meeting_change(conn, other, "会") is None
        assert meeting_change(conn, world.ids["甲"], "会") == 1
        for name in ("甲", "区", "nobody", str(public_id("甲"))):
            assert organisation_attendance(conn, other, name, *EVER, now) is None
        for name in ("李", "nobody", str(public_id("李"))):
            assert member_attendance(conn, other, name, *EVER, now) is None
        assert member_attendance(conn, world.ids["甲"], "李", *EVER, now) is not None


def test_every_query_of_people_demands_a_scope() -> None:
    exempt = {"device_completeness", "evidence_of", "quorum_of"}  # they name nobody
    for name, function in inspect.getmembers(queries, inspect.isfunction):
        if function.__module__ == queries.__name__ and not name.startswith("_"):
            parameters = list(inspect.signature(function).parameters.values())
            if name in exempt:
                continue
            assert parameters[1].name == "scope", name
            assert parameters[1].default is inspect.Parameter.empty, name


def test_a_sub_tree_holds_all_levels_and_ends_at_a_circle(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.organisation("组", "甲", "GROUP")
        o = s.organisations.c

        def codes(of: str) -> set[str]:
            below = subtree(world.ids[of])
            return set(conn.scalars(select(o.code).join(below, below.c.id == o.id)))

        assert codes("区") == {"区", "甲", "乙", "组"}
        assert codes("甲") == {"甲", "组"}
        assert codes("组") == {"组"}
        conn.execute(
            update(s.organisations).where(o.code == "区").values(parent_id=world.ids["组"])
        )
        assert codes("甲") == {"区", "甲", "乙", "组"}


def test_the_meetings_of_a_sub_tree_and_their_sums(engine: Engine) -> None:
    with engine.begin() as conn:
        world = attended(conn)
        world.venue("小间", "乙")
        world.meeting("晚会", "乙", "小间", 1000)
        world.meeting("取消", "甲", "小间", 2000)
        conn.execute(update(s.meetings).where(s.meetings.c.code == "取消").values(cancelled=True))
        found = organisation_attendance(conn, world.ids["区"], "区", *EVER, minutes(100))
        assert found is not None
        assert [(each.meeting.code, each.counts) for each in found.meetings] == [
            ("会", Counts(3, 2, 1, 0, 0, 1, 1)),
            ("晚会", Counts(2, 0, 0, 0, 2, 0, 0)),
            ("取消", Counts(0, 0, 0, 0, 0, 0, 0)),
        ]
        assert found.totals == Counts(5, 2, 1, 0, 2, 1, 1)
        one = organisation_attendance(
            conn, world.ids["区"], "甲", minutes(0), minutes(1000), minutes(100)
        )
        assert one is not None
        assert [each.meeting.code for each in one.meetings] == ["会"]
        none = organisation_attendance(
            conn, world.ids["区"], "区", minutes(1), minutes(1000), minutes(100)
        )
        assert none is not None
        assert none.meetings == ()
        cancelled = meeting_attendance(conn, EVERYTHING, "取消", minutes(100), CHINA)
        assert cancelled is not None
        assert (cancelled.rows, cancelled.reasons, cancelled.devices) == ((), (), ())


def test_a_meeting_without_a_device_says_so(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.venue("小间", "乙")
        world.meeting("晚会", "乙", "小间", 1000)
        found = meeting_attendance(conn, EVERYTHING, "晚会", 0, CHINA)
        assert found is not None
        assert NO_DEVICE in found.reasons


def test_a_member_sees_where_they_were_expected_and_where_else_they_came(engine: Engine) -> None:
    with engine.begin() as conn:
        world = attended(conn)
        world.venue("小间", "乙")
        world.meeting("乙会", "乙", "小间", 100)
        found = member_attendance(conn, world.ids["乙"], "钱", *EVER, minutes(90))
        assert found is not None
        assert found.member.branch == "乙名"
        assert [(each.meeting.code, each.verdict, each.taps) for each in found.meetings] == [
            ("会", Verdict.GUEST, 1),
            ("乙会", Verdict.NOT_SEEN, 0),
        ]
        late = member_attendance(conn, world.ids["乙"], "钱", minutes(50), EVER[1], minutes(161))
        assert late is not None
        assert [(each.meeting.code, each.verdict) for each in late.meetings] == [
            ("乙会", Verdict.PENDING)
        ]


def test_a_branch_sees_nothing_of_a_member_after_they_left(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.member("周", "甲", LONG_AGO, minutes(500))
        world.member("周", "乙", minutes(500))
        world.meeting("后会", "乙", "礼堂", 1000)
        now = minutes(2000)

        def meetings(scope: str, from_ms: int = 0) -> list[str] | None:
            found = member_attendance(conn, world.ids[scope], "周", from_ms, EVER[1], now)
            return None if found is None else [each.meeting.code for each in found.meetings]

        assert meetings("甲") == ["会"]
        assert meetings("乙") == ["后会"]
        assert meetings("区") == ["会", "后会"]
        assert meetings("甲", minutes(500)) is None


def test_a_branch_learns_nothing_of_a_member_from_when_they_belonged_elsewhere(
    engine: Engine,
) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.member("周", "甲", LONG_AGO, minutes(500))
        world.member("周", "乙", minutes(500))
        card = world.card("周", "0A0B0C0D")
        world.meeting("乙前会", "乙", "礼堂", -200)
        world.meeting("甲后会", "甲", "礼堂", 1000)
        world.epoch("e", "一号")
        # A guest of the branch that they join later, and then of the one that they have left.
        world.batch("e", 1, [Entry(at, minutes(at), True, card) for at in (-199, 1001)])
        derive_batch(conn)
        assert conn.scalars(select(s.attendances.c.verdict)).all() == ["GUEST", "GUEST"]

        def seen(scope: str, now: int = 2000) -> tuple[list[str], str | None]:
            found = member_attendance(conn, world.ids[scope], "周", *EVER, minutes(now))
            assert found is not None
            return [each.meeting.code for each in found.meetings], found.member.branch

        assert seen("甲") == (["乙前会", "会"], "甲名")
        assert seen("乙") == (["甲后会"], "乙名")
        assert seen("区") == (["乙前会", "会", "甲后会"], "乙名")
        everything = member_attendance(conn, EVERYTHING, "周", *EVER, minutes(2000))
        assert everything is not None
        assert everything.member.branch == "乙名"
        guests = meeting_attendance(conn, world.ids["乙"], "乙前会", minutes(2000), CHINA)
        assert guests is not None
        assert [each.person.name for each in guests.rows if each.verdict is Verdict.GUEST] == [None]


def test_completeness_follows_what_was_stated_and_what_is_held(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        device = world.ids["一号"]

        def words(now: int = 70) -> tuple[bool, str]:
            found = meeting_attendance(conn, EVERYTHING, "会", minutes(now), CHINA)
            assert found is not None
            return found.devices[0].complete, found.devices[0].words

        assert words() == (False, "设备“一号”：记录是否完整尚不清楚（从未报告过记录情况）")
        world.epoch("e1", "一号")
        world.epoch("e2", "一号", parent=("e1", 2))
        world.heartbeat("一号", "e2", 1, Entry(5, minutes(65), trusted=True), minutes(66))
        assert "还有记录没有送到" in words()[1]
        world.batch("e2", 1, [Entry(4, minutes(5), trusted=True)])
        assert "以前开机时的记录还没有送齐" in words()[1]
        world.batch("e1", 1, [Entry(1, minutes(1), True), Entry(2, minutes(2), True)])
        complete, said = words()
        assert complete
        assert said.startswith("设备“一号”：记录完整至")
        # Another copy of the same card wrote on after the first epoch.
        world.epoch("e3", "一号", parent=("e1", 2))
        world.batch("e3", 1, [Entry(1, minutes(1), True)])
        assert not words()[0]
        assert device_completeness(conn, [device])[device].through_ms is None


def test_an_untrusted_heartbeat_counts_once_its_boot_is_dated(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        device = world.ids["一号"]
        world.epoch("e", "一号")
        world.batch("e", 1, [Entry(0, 7, trusted=False)])
        world.heartbeat("一号", "e", 1, Entry(10 * 60_000, 8, trusted=False), minutes(500))
        assert device_completeness(conn, [device])[device].through_ms is None
        world.batch("e", 2, [Entry(20 * 60_000, minutes(80), trusted=True)])
        assert device_completeness(conn, [device])[device].through_ms == minutes(70)


def completeness_of(world: World) -> Completeness:
    (known,) = device_completeness(world.conn, [world.ids["一号"]]).values()
    return known


def test_what_its_own_statements_and_islands_tell_of_is_missed(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        world.batch("e", 1, [Entry(1, minutes(1), trusted=True)] * 5)
        # Its card is put back to where entry 5 was the last.
        world.epoch("f", "一号", boot="later", parent=("e", 5))
        world.batch("f", 1, [Entry(1, minutes(50), trusted=True)])
        world.heartbeat("一号", "f", 1, Entry(9, minutes(65), trusted=True), minutes(65))
        assert completeness_of(world).covers(minutes(-30), minutes(60))
        beat = world.heartbeat("一号", "e", 10, Entry(2, minutes(10), trusted=True), minutes(10))
        assert completeness_of(world).obstacle is Obstacle.FORKED
        conn.execute(delete(s.heartbeats).where(s.heartbeats.c.id == beat))
        assert completeness_of(world).obstacle is None
        conn.execute(
            insert(s.islands).values(
                epoch_id=world.ids["e"], first=8, last=8, previous_digest=b"", last_digest=b""
            )
        )
        assert completeness_of(world).obstacle is Obstacle.FORKED


def test_a_statement_of_a_time_to_come_covers_nothing(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        world.batch("e", 1, [Entry(1, minutes(1), trusted=True)])
        world.heartbeat("一号", "e", 1, Entry(7, minutes(7), trusted=True), minutes(7))
        # An hour fast, in the middle of the meeting.
        world.heartbeat("一号", "e", 1, Entry(20, minutes(80), trusted=True), minutes(20))
        known = completeness_of(world)
        assert (known.through_ms, known.obstacle) == (minutes(7), Obstacle.AHEAD)
        found = meeting_attendance(conn, EVERYTHING, "会", minutes(90), CHINA)
        assert found is not None
        assert Obstacle.AHEAD.zh in found.devices[0].words
        assert not found.complete


@pytest.mark.parametrize("trusted", [True, False])
def test_a_new_card_takes_back_nothing_of_before(engine: Engine, trusted: bool) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        world.batch("e", 1, [Entry(1, minutes(1), trusted=True)])
        for at in (30, 65, 75):  # the old card goes on for a while
            world.heartbeat("一号", "e", 1, Entry(at, minutes(at), trusted=True), minutes(at))
        opened = Entry(5 * 60_000, minutes(70) if trusted else 7, trusted)
        world.epoch("new", "一号", boot="new", opened=opened)
        if trusted:
            world.batch("new", 1, [Entry(1, 1, trusted=False)])
        else:
            world.batch("new", 1, [Entry(10 * 60_000, minutes(75), trusted=True)])
        world.heartbeat("一号", "new", 1, Entry(99 * 60_000, minutes(164), True), minutes(164))
        known = completeness_of(world)
        assert (known.through_ms, known.obstacle) == (minutes(65), Obstacle.FORKED)
        assert known.covers(minutes(-30), minutes(60))


def test_a_device_that_was_there_for_a_minute_does_not_make_a_meeting_complete(
    engine: Engine,
) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        world.batch("e", 1, [Entry(1, minutes(1), trusted=True)])
        world.heartbeat("一号", "e", 1, Entry(9, minutes(65), trusted=True), minutes(65))

        def found() -> MeetingAttendance:
            found = meeting_attendance(conn, EVERYTHING, "会", minutes(90), CHINA)
            assert found is not None
            assert found.devices[0].complete
            return found

        assert found().complete
        conn.execute(update(s.placements).values(valid_from_ms=minutes(59)))
        assert not found().complete
        gap = f"{moment(minutes(59), minutes(59), CHINA)}前会场没有登记的签到设备"
        assert found().reasons == (gap, NOT_CONFIRMED, NOT_TOLD)
        # It came back: two placements, one device.
        world.device("一号", "礼堂", LONG_AGO, minutes(59))
        assert found().complete
        assert len(found().devices) == 1


def test_entries_that_cannot_be_read_are_holes_between_their_trusted_neighbours(
    engine: Engine,
) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        times = [-50, -48, -40, 0, 1, 2, 70]
        world.batch("e", 1, [Entry(at, minutes(at), at != -48) for at in times], minutes(80))
        world.heartbeat("一号", "e", 7, Entry(99, minutes(81), trusted=True), minutes(81))

        def broken(*seqs: int) -> set[tuple[int | None, int | None]]:
            conn.execute(
                update(s.entries)
                .where(s.entries.c.seq.in_(seqs))
                .values(kind=0, trusted=None, wall_ms=None, boottime_ms=None, problem="?")
            )
            return {(each.earliest_ms, each.latest_ms) for each in completeness_of(world).holes}

        assert broken() == set()
        assert broken(3) == {(minutes(-50), minutes(0))}
        assert broken(5) == {(minutes(-50), minutes(0)), (minutes(0), minutes(2))}
        assert not completeness_of(world).covers(minutes(-30), minutes(60))
        assert completeness_of(world).covers(minutes(3), minutes(60))
        assert broken(6) == {(minutes(-50), minutes(0)), (minutes(0), minutes(70))}
        # Neither begun by anything trusted, nor followed: it was before the hub had it.
        assert broken(1, 2, 4, 7) == {(None, minutes(81))}


@pytest.mark.parametrize("boots", [2, 40])
def test_a_page_asks_as_much_after_a_year_as_after_a_day(engine: Engine, boots: int) -> None:
    asked: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        asked.append((statement, parameters))

    with engine.begin() as conn:
        world = district(conn)
        before = None
        for number in range(boots):
            name = f"e{number}"
            world.epoch(name, "一号", boot=name, parent=before)
            before = (name, 1)
            world.batch(name, 1, [Entry(1, 1, trusted=False)])
            for at in (1, 2, 3):
                beat = Entry(at, at, trusted=False)
                world.heartbeat("一号", name, 1, beat, minutes(200 + number))
        event.listen(engine, "before_cursor_execute", note)
        try:
            assert meeting_attendance(conn, EVERYTHING, "会", minutes(500), CHINA) is not None
        finally:
            event.remove(engine, "before_cursor_execute", note)
        assert len(asked) <= 21
        if engine.dialect.name == "sqlite":
            for statement, parameters in asked:
                plan = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                for row in plan:
                    assert not re.match(r"SCAN (heartbeats|entries|readings|batches)", row[3]), (
                        statement,
                        row,
                    )


def test_a_stated_gap_in_the_window_shows(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        batch = world.batch("e", 1, [Entry(1, minutes(-50), trusted=True)])
        world.batch("e", 4, [Entry(9, minutes(-40), trusted=True)])
        conn.execute(
            insert(s.gaps).values(
                epoch_id=world.ids["e"],
                first=2,
                last=3,
                digest=b"",
                reason="bad sector",
                batch_id=batch,
            )
        )
        conn.execute(update(s.epochs).values(through=4, through_digest=digest("e", 4)))
        world.heartbeat("一号", "e", 4, Entry(10, minutes(65), trusted=True), minutes(66))
        (known,) = device_completeness(conn, [world.ids["一号"]]).values()
        assert known.covers(minutes(-30), minutes(60))
        assert not known.covers(minutes(-45), minutes(60))


def test_undated_taps_of_a_covering_device_are_counted_beside_the_meeting(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        world.batch("e", 1, [Entry(1, 5, False, uid_of(world, "李"))], minutes(-31))
        world.batch("e", 2, [Entry(2, 6, False, uid_of(world, "李"))], minutes(90))
        while derive_batch(conn).batches:
            pass
        found = meeting_attendance(conn, EVERYTHING, "会", minutes(90), CHINA)
        assert found is not None
        # The first had reached the hub before the window opened.
        assert found.undated == 1


@pytest.mark.parametrize("seed", range(8))
def test_the_queries_expect_whom_the_rules_expect(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)
    with engine.begin() as conn:
        world = district(conn)
        world.organisation("组", "甲", "GROUP")
        for number in range(30):
            since = minutes(chance.randint(-200, 100))
            until = chance.choice([None, since + chance.randint(1, 12_000_000)])
            body = chance.choice(["MEMBER", "COMMITTEE"])
            world.member(f"m{number}", chance.choice(["区", "甲", "乙", "组"]), since, until, body)
        for number in range(20):
            kind = chance.choice(list(MeetingKind)).value
            organisation = chance.choice(["区", "甲", "乙", "组"])
            start = chance.randint(-100, 200)
            world.meeting(f"x{number}", organisation, "礼堂", start, kind=kind)
        world.epoch("e", "一号")
        cards = [world.card(f"m{number}", f"{number:08X}") for number in range(30)]
        world.batch(
            "e",
            1,
            [Entry(at, minutes(at), True, chance.choice(cards)) for at in range(-130, 260, 3)],
        )
        rebuild(conn)
        m = s.meetings.c
        for row in conn.execute(select(m.code, m.organisation_id, m.kind, m.starts_ms)).all():
            places = memberships(conn, [row.organisation_id])[row.organisation_id]
            who = expected(row.organisation_id, MeetingKind(row.kind), row.starts_ms, places)
            names = set(conn.scalars(select(s.members.c.code).where(s.members.c.id.in_(who))))
            found = meeting_attendance(conn, EVERYTHING, row.code, minutes(0), CHINA)
            assert found is not None
            shown = {each.person.code for each in found.rows if each.verdict is not Verdict.GUEST}
            assert shown == names
            listed = organisation_attendance(
                conn, EVERYTHING, "区", row.starts_ms, row.starts_ms + 1, minutes(0)
            )
            assert listed is not None
            (counts,) = [each.counts for each in listed.meetings if each.meeting.code == row.code]
            assert counts == found.counts
            for name in names:
                theirs = member_attendance(conn, EVERYTHING, name, *EVER, minutes(0))
                assert theirs is not None
                assert row.code in {each.meeting.code for each in theirs.meetings}
        assert (conn.scalar(select(func.count()).select_from(s.attendances)) or 0) > 20


def test_a_device_that_was_never_enrolled_is_waited_for_by_no_meeting(engine: Engine) -> None:
    with engine.begin() as conn:
        district(conn)
        before = meeting_attendance(conn, EVERYTHING, "会", minutes(500), CHINA)
        assert before is not None
        names = {device.name for device in before.devices}
        conn.execute(update(s.devices).where(s.devices.c.name == "一号").values(status="PENDING"))
        after = meeting_attendance(conn, EVERYTHING, "会", minutes(500), CHINA)
        assert after is not None
    assert names - {device.name for device in after.devices} == {"一号"}
