"""Meetings made, moved and called off, and what people state of them, over a database."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, select, update

from hub import joining, meetings, statements
from hub.auth.callers import Caller
from hub.derive import derive_batch, rebuild_check, rederive_meetings
from hub.domain.attendance import MINUTE_MS
from hub.domain.stating import Idle
from hub.domain.terms import DeclarationKind, LeaveReason, MeetingKind, Role
from hub.meetings import MeetingError, Plan
from hub.store import schema as s
from hub.store.policies import BACK_FILL_PER_YEAR
from hub.store.scope import NotFoundError
from hub.store.stated import stated_of
from hub.store.statement_query import idle_acts
from protocol.credential import MEMBER_SCHEME
from protocol.journal import Act
from tests.hub.world import START, Entry, district, minutes, public_id, uid_of

K = DeclarationKind
DAY = 24 * 60
AFTER = minutes(61)
MEETING, LI, WANG, ZHAO, QIAN = (public_id(name) for name in "会李王赵钱")


class Town:
    """The district of `tests.hub.world`, with people who act in it."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.world = district(conn)
        self.world.epoch("e", "一号")
        self.seq = 0
        self.secretary = self.caller("甲书记", "甲")
        self.deputy = self.caller("甲副书记", "甲")
        self.other = self.caller("乙书记", "乙")
        self.top = self.caller("区组织科", "区", Role.OPERATOR)
        self.li = self.caller("李本人", "甲", Role.MEMBER, "李")

    def caller(
        self,
        name: str,
        organisation: str,
        role: Role = Role.SECRETARY,
        member: str | None = None,
    ) -> Caller:
        member_id = None if member is None else self.world.ids[member]
        account_id = self.world.add(
            s.accounts,
            public_id=public_id(f"account {name}"),
            login=name,
            name=name,
            role=role.value,
            organisation_id=self.world.ids[organisation],
            member_id=member_id,
            password="none",
            must_change=False,
            created_ms=0,
        )
        return Caller(
            name,
            role,
            self.world.ids[organisation],
            str(public_id(organisation)),
            organisation,
            member_id,
            account_id=account_id,
        )

    def tap(self, member: str, at: float) -> None:
        self.seq += 1
        entry = Entry(minutes(at) - minutes(-1000), minutes(at), True, uid_of(self.world, member))
        self.world.batch("e", self.seq, [entry], minutes(at))
        derive_batch(self.conn)

    def act(
        self,
        member: str,
        what: Act,
        at: float,
        *,
        number: int | None = None,
        about: str | None = None,
    ) -> None:
        """An act at the reader, authorised by the member's card; `about` has its credential."""
        self.seq += 1
        c = s.credentials.c
        named = select(c.id).where(c.scheme == MEMBER_SCHEME, c.value == about)
        entry = Entry(
            minutes(at) - minutes(-1000),
            minutes(at),
            True,
            uid_of(self.world, member),
            what,
            number,
            None if about is None else self.conn.scalars(named).one(),
        )
        self.world.batch("e", self.seq, [entry], minutes(at))
        derive_batch(self.conn)

    def stated(self) -> tuple[bool | None, int | None]:
        """Whether it was held, and the head-count, by all that was stated."""
        found = stated_of(self.conn, [self.row().id])[self.row().id]
        return found.held, found.head_count

    def verdicts(self, meeting: UUID = MEETING) -> dict[str, str]:
        a, m = s.attendances.c, s.members.c
        return {
            row.code: row.verdict
            for row in self.conn.execute(
                select(m.code, a.verdict)
                .join(s.attendances, a.member_id == m.id)
                .join(s.meetings, s.meetings.c.id == a.meeting_id)
                .where(s.meetings.c.public_id == meeting)
            )
        }

    def row(self, meeting: UUID = MEETING) -> Any:
        return self.conn.execute(select(s.meetings).where(s.meetings.c.public_id == meeting)).one()

    def declared(self) -> list[tuple[str, str]]:
        d = s.declarations.c
        return [
            (row.kind, row.author)
            for row in self.conn.execute(select(d.kind, d.author).order_by(d.id))
        ]

    def audited(self) -> list[Any]:
        return list(self.conn.execute(select(s.audit).order_by(s.audit.c.id)))

    def plan(self, **more: Any) -> Plan:
        return replace(meetings.plan_of(self.conn, self.row()), **more)


@pytest.fixture
def town(engine: Engine) -> Any:
    with engine.begin() as conn:
        yield Town(conn)
        assert rebuild_check(conn) == []


PLAN = Plan(
    MeetingKind.BRANCH_ASSEMBLY, " 四月  大会 ", public_id("礼堂"), minutes(300), minutes(360), "李"
)
HOST = public_id("甲")


def refused(field: str, act: Callable[[], Any]) -> str:
    with pytest.raises(MeetingError) as found:
        act()
    assert found.value.field == field
    return str(found.value)


# --- Meetings -------------------------------------------------------------------------------


def test_a_meeting_is_made_with_what_the_policies_say(town: Town) -> None:
    made = meetings.create(town.conn, town.secretary, HOST, PLAN, minutes(0))
    row = town.row(made)
    assert (row.title, row.chair, row.kind) == ("四月 大会", "李", "BRANCH_ASSEMBLY")
    assert (row.opens_ms, row.grace_minutes) == (minutes(270), 0)
    assert row.code == "甲-20260424"
    again = meetings.create(town.conn, town.secretary, HOST, PLAN, minutes(0))
    assert town.row(again).code == "甲-20260424-2"
    audited = town.audited()
    assert [(each.what, each.object_id) for each in audited] == [
        ("meeting.create", made),
        ("meeting.create", again),
    ]
    assert audited[0].account_id == town.secretary.account_id
    mo = s.meeting_organisations.c
    assert town.conn.scalars(select(mo.organisation_id).where(mo.meeting_id == row.id)).all() == [
        town.world.ids["甲"]
    ]


def test_a_meeting_made_afterwards_takes_up_the_taps_that_were_there(town: Town) -> None:
    town.tap("李", 290)
    town.tap("钱", 310)
    made = meetings.create(town.conn, town.secretary, HOST, PLAN, minutes(400))
    assert town.verdicts(made) == {"李": "PRESENT", "钱": "GUEST"}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("kind", {"kind": MeetingKind.PARTY_GROUP}),
        ("title", {"title": "  "}),
        ("title", {"title": "题" * 101}),
        ("title", {"title": "题\x00"}),
        ("chair", {"chair": "持" * 51}),
        ("venue", {"venue": public_id("nowhere")}),
        ("venue", {"venue": public_id("乙室")}),
        ("ends", {"ends_ms": PLAN.starts_ms}),
        ("ends", {"ends_ms": PLAN.starts_ms + DAY * MINUTE_MS + 1}),
        ("starts", {"starts_ms": -(10**12)}),
        ("starts", {"starts_ms": 10**14, "ends_ms": 10**14 + 1}),
        ("grace_minutes", {"grace_minutes": -1}),
        ("grace_minutes", {"grace_minutes": 601}),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(
    town: Town, field: str, changes: dict[str, Any]
) -> None:
    town.world.venue("乙室", "乙")
    bad = replace(PLAN, **changes)
    refused(field, lambda: meetings.create(town.conn, town.secretary, HOST, bad, 0))
    refused(field, lambda: meetings.edit(town.conn, town.secretary, MEETING, bad, 0))
    assert town.audited() == []


def test_a_venue_of_an_organisation_above_may_be_used(town: Town) -> None:
    town.world.venue("区礼堂", "区")
    plan = replace(PLAN, venue=public_id("区礼堂"))
    made = meetings.create(town.conn, town.secretary, HOST, plan, 0)
    assert town.row(made).venue_id == town.world.ids["区礼堂"]


def test_nothing_happens_outside_of_the_sub_tree(town: Town) -> None:
    conn = town.conn
    acts: list[Callable[[Caller], object]] = [
        lambda who: meetings.create(conn, who, HOST, PLAN, AFTER),
        lambda who: meetings.edit(conn, who, MEETING, PLAN, AFTER),
        lambda who: meetings.cancel(conn, who, MEETING, "雨", AFTER),
        lambda who: meetings.restore(conn, who, MEETING, "晴", AFTER),
        lambda who: meetings.set_partners(conn, who, MEETING, [], AFTER),
        lambda who: meetings.possible_partners(conn, who, MEETING, "区"),
        lambda who: statements.confirm(conn, who, MEETING, AFTER, held=True),
        lambda who: statements.count_heads(conn, who, MEETING, 3, AFTER),
        lambda who: statements.witness(conn, who, MEETING, AFTER, member=LI),
        lambda who: statements.witness(conn, who, MEETING, AFTER, code="李"),
        lambda who: statements.enter_sheet(conn, who, MEETING, AFTER, members=[LI]),
        lambda who: statements.complete_sheet(conn, who, MEETING, AFTER),
        lambda who: statements.ask_leave(conn, who, MEETING, LI, LeaveReason.WORK, AFTER),
        lambda who: statements.ask_back_fill(conn, who, MEETING, LI, "忘带卡", AFTER),
    ]
    nobody = replace(town.secretary, role=Role.TECHNICIAN)
    for act in acts:
        for who in (town.other, nobody):
            with pytest.raises(NotFoundError):
                act(who)
    asked = statements.ask_leave(conn, town.secretary, MEETING, LI, LeaveReason.WORK, AFTER)
    for who in (town.other, nobody):
        with pytest.raises(NotFoundError):
            statements.decide(conn, who, asked, AFTER, granted=True)
        with pytest.raises(NotFoundError):
            statements.withdraw(conn, who, asked, AFTER)
    assert town.declared() == [("LEAVE_ASKED", "甲书记")]


def test_a_moved_meeting_leaves_its_taps_and_finds_others(town: Town) -> None:
    town.tap("李", -5)
    town.tap("王", 200)
    assert town.verdicts() == {"李": "PRESENT"}
    moved = town.plan(starts_ms=minutes(190), ends_ms=minutes(250))
    meetings.edit(town.conn, town.secretary, MEETING, moved, 0)
    assert town.verdicts() == {"王": "LATE"}
    assert town.row().opens_ms == minutes(160)
    meetings.edit(town.conn, town.secretary, MEETING, replace(moved, grace_minutes=10), 0)
    assert town.verdicts() == {"王": "PRESENT"}
    town.world.venue("小会议室", "甲")
    elsewhere = town.plan(venue=public_id("小会议室"))
    meetings.edit(town.conn, town.secretary, MEETING, elsewhere, 0)
    assert town.verdicts() == {}
    details = [json.loads(each.details) for each in town.audited()]
    assert details[0] == {
        "starts_ms": [minutes(0), minutes(190)],
        "ends_ms": [minutes(60), minutes(250)],
    }
    assert details[1] == {"grace_minutes": [0, 10]}


def test_an_edit_that_changes_nothing_is_none(town: Town) -> None:
    before = town.row().change
    meetings.edit(town.conn, town.secretary, MEETING, town.plan(), 0)
    assert town.row().change == before
    assert town.audited() == []
    meetings.edit(town.conn, town.secretary, MEETING, town.plan(title="新题"), 0)
    assert town.row().change == before + 1


def test_what_was_stated_does_not_move_to_another_day(town: Town) -> None:
    conn, who = town.conn, town.secretary
    [signed] = statements.enter_sheet(conn, who, MEETING, AFTER, members=[LI])
    held = statements.confirm(conn, who, MEETING, AFTER, held=True)
    week = 7 * DAY
    later = town.plan(starts_ms=minutes(week), ends_ms=minutes(week + 60))

    def move() -> None:
        meetings.edit(conn, who, MEETING, later, AFTER)

    said = refused("starts", move)
    assert "“确认已召开”、“纸质签到”" in said
    meetings.cancel(conn, who, MEETING, "雨", AFTER)
    assert refused("starts", move) == said
    meetings.restore(conn, who, MEETING, "晴", AFTER)
    assert (town.row().starts_ms, town.verdicts()) == (START, {"李": "PRESENT"})
    # Its end, its title and its room are put right all the same.
    town.world.venue("小会议室", "甲")
    mended = town.plan(ends_ms=minutes(55), title="新题", venue=public_id("小会议室"))
    meetings.edit(conn, who, MEETING, mended, AFTER)
    statements.withdraw(conn, who, held, AFTER)
    assert "“纸质签到”" in refused("starts", move)
    statements.withdraw(conn, who, signed, AFTER)
    move()
    assert town.verdicts() == {}


def test_an_assigned_tap_holds_a_meeting_to_its_day(town: Town) -> None:
    town.tap("李", -40)
    town.world.declare(
        "会", "TAP_ASSIGNED", "李", epoch_id=town.world.ids["e"], seq=town.seq, at=70
    )
    rederive_meetings(town.conn, [town.world.ids["会"]])
    later = town.plan(starts_ms=minutes(DAY), ends_ms=minutes(DAY + 60))
    refused("starts", lambda: meetings.edit(town.conn, town.secretary, MEETING, later, AFTER))


def test_what_was_done_at_readers_stays_where_it_was_done(town: Town) -> None:
    town.world.office("王", "甲")
    town.world.names("李")
    town.act("王", Act.WITNESSED, 10, about="李")
    town.act("王", Act.HEAD_COUNT, 11, number=28)
    town.act("王", Act.CLOSED, 50)
    assert town.verdicts() == {"李": "WITNESSED", "王": "LATE"}
    later = town.plan(starts_ms=minutes(DAY), ends_ms=minutes(DAY + 60))
    meetings.edit(town.conn, town.secretary, MEETING, later, AFTER)
    assert (town.verdicts(), town.stated()) == ({}, (None, None))


def test_what_an_act_at_a_reader_overtook_is_stated_anew(town: Town) -> None:
    conn, who = town.conn, town.secretary
    town.world.office("王", "甲")
    first = statements.count_heads(conn, who, MEETING, 30, minutes(5))
    town.act("王", Act.HEAD_COUNT, 10, number=28)
    assert town.stated() == (None, 28)
    again = statements.count_heads(conn, who, MEETING, 30, minutes(15))
    assert again != first
    assert town.stated() == (None, 30)
    assert statements.count_heads(conn, who, MEETING, 30, minutes(16)) == again
    town.act("王", Act.HEAD_COUNT, 17, number=30)
    assert statements.count_heads(conn, who, MEETING, 30, minutes(18)) == again

    never = statements.confirm(conn, who, MEETING, minutes(20), held=False)
    town.act("王", Act.CLOSED, 25)
    assert town.stated() == (True, 30)
    anew = statements.confirm(conn, who, MEETING, minutes(30), held=False)
    assert anew != never
    assert town.stated() == (False, 30)
    assert statements.confirm(conn, who, MEETING, minutes(31), held=False) == anew


@pytest.mark.parametrize(
    "changes",
    [
        {"title": "新题"},
        {"chair": "王"},
        {"starts_ms": minutes(5)},
        {"ends_ms": minutes(65)},
        {"grace_minutes": 3},
        {"kind": MeetingKind.PARTY_LECTURE},
        {"venue": public_id("小会议室")},
    ],
)
def test_what_another_changed_meanwhile_is_not_undone(town: Town, changes: dict[str, Any]) -> None:
    conn = town.conn
    town.world.venue("小会议室", "甲")
    was = town.plan()
    shown = meetings.version_of(was)
    mine = replace(was, title="更正的题", chair="钱")
    meetings.edit(conn, town.deputy, MEETING, town.plan(**changes), 0, shown=shown)
    now = town.plan()
    assert meetings.version_of(now) != shown
    with pytest.raises(meetings.MeetingChangedError):
        meetings.edit(conn, town.secretary, MEETING, mine, 0, shown=shown)
    assert town.plan() == now
    # Taps and statements make live pages move; they are no change of what the form shows.
    town.tap("李", 1)
    meetings.edit(conn, town.deputy, MEETING, now, 0, shown=shown)  # the same twice
    shown = meetings.version_of(now)
    meetings.edit(conn, town.secretary, MEETING, mine, 0, shown=shown)
    assert town.plan() == mine


def idle(town: Town, caller: Caller | None = None) -> list[tuple[Any, ...]]:
    """What counts for nothing from 11 hours before the start to 11 hours after it."""
    row = town.row()
    return [
        (
            each.why,
            None if each.holder is None else each.holder.code,
            each.about_code or (None if each.about is None else each.about.code),
            each.number,
        )
        for each in idle_acts(town.conn, caller or town.secretary, row, minutes(-660), minutes(660))
    ]


def test_acts_that_count_for_nothing_are_told_with_the_reason(town: Town) -> None:
    conn, world = town.conn, town.world
    world.office("王", "甲")
    world.office("钱", "乙")
    stranger = world.card(None, "AABBCCDD")
    for code in ("李", "孙", "没有的"):
        world.names(code)
    town.act("王", Act.OPENED, -60)
    town.act("王", Act.OPENED, -20)
    town.act("赵", Act.HEAD_COUNT, 5, number=17)
    town.act("钱", Act.WITNESSED, 6, about="李")
    town.act("王", Act.WITNESSED, 7, about="没有的")
    town.act("王", Act.WITNESSED, 8, about="李")
    town.act("赵", Act.WITNESSED, 9, about="孙")
    town.seq += 1
    at = minutes(10)
    entry = Entry(at - minutes(-1000), at, True, stranger, Act.CLOSED)
    world.batch("e", town.seq, [entry], at)
    derive_batch(conn)
    town.act("王", Act.CLOSED, 70)
    assert idle(town) == [
        (Idle.NO_MEETING, "王", None, None),
        (Idle.NO_OFFICE, "赵", None, 17),
        # 钱 and 孙 are of another branch.
        (Idle.NO_OFFICE, None, "李", None),
        (Idle.NO_SUCH_MEMBER, "王", "没有的", None),
        (Idle.NO_OFFICE, "赵", None, None),
        (Idle.NO_HOLDER, None, None, None),
        (Idle.NO_MEETING, "王", None, None),
    ]
    assert [each[1] for each in idle(town, town.top)] == ["王", "赵", "钱", "王", "赵", None, "王"]
    # An office that is entered afterwards makes it count.
    world.office("赵", "甲")
    rederive_meetings(conn, [world.ids["会"]])
    assert [each[0] for each in idle(town)].count(Idle.NO_OFFICE) == 1
    # A number that a later version knows is told as such.
    conn.execute(update(s.actions).where(s.actions.c.seq == 2).values(what=99))
    assert [each.what for each in idle_acts(conn, town.top, town.row(), 0, AFTER)][1] == 99


def test_an_act_that_counts_for_another_meeting_there_is_none_that_counts_for_nothing(
    town: Town,
) -> None:
    town.world.meeting("乙会", "乙", "礼堂", start=10)
    town.world.office("钱", "乙")
    town.act("钱", Act.HEAD_COUNT, 15, number=2)
    assert idle(town) == []
    town.act("孙", Act.HEAD_COUNT, 65, number=3)  # in the other's window alone
    assert idle(town) == []
    town.act("孙", Act.HEAD_COUNT, 16, number=4)  # in both
    assert idle(town) == [(Idle.NO_OFFICE, None, None, 4)]


def test_a_title_keeps_a_window_that_was_another_policys(town: Town) -> None:
    town.conn.execute(update(s.meetings).values(opens_ms=minutes(-90), grace_minutes=7))
    meetings.edit(town.conn, town.secretary, MEETING, town.plan(title="新题"), 0)
    assert (town.row().opens_ms, town.row().grace_minutes) == (minutes(-90), 7)
    meetings.edit(town.conn, town.secretary, MEETING, town.plan(starts_ms=minutes(1)), 0)
    assert (town.row().opens_ms, town.row().grace_minutes) == (minutes(-29), 7)


def test_a_cancelled_meeting_counts_nothing_until_it_is_restored(town: Town) -> None:
    town.tap("李", -5)
    statements.confirm(town.conn, town.secretary, MEETING, AFTER, held=True)
    refused("reason", lambda: meetings.cancel(town.conn, town.secretary, MEETING, " ", AFTER))
    refused("", lambda: meetings.restore(town.conn, town.secretary, MEETING, "晴", AFTER))
    meetings.cancel(town.conn, town.secretary, MEETING, "下雨", AFTER)
    assert town.verdicts() == {}
    refused("", lambda: meetings.cancel(town.conn, town.secretary, MEETING, "雨", AFTER))
    refused("", lambda: statements.witness(town.conn, town.secretary, MEETING, AFTER, member=WANG))
    meetings.restore(town.conn, town.secretary, MEETING, "天晴", AFTER)
    assert town.verdicts() == {"李": "PRESENT"}
    assert [
        (each.what, json.loads(each.details)["reason"])
        for each in town.audited()
        if each.object == "meeting"
    ] == [("meeting.cancel", "下雨"), ("meeting.restore", "天晴")]


# --- Joint meetings -------------------------------------------------------------------------


def test_a_joint_meeting_expects_the_members_of_each(town: Town) -> None:
    town.tap("钱", -5)
    assert town.verdicts() == {"钱": "GUEST"}
    [found] = meetings.possible_partners(town.conn, town.secretary, MEETING, "乙")
    assert (found.code, found.name) == ("乙", "乙名")
    meetings.set_partners(town.conn, town.secretary, MEETING, ["乙", " 乙 ", ""], 0)
    assert town.verdicts() == {"钱": "GUEST"}  # nobody of 乙 has agreed
    joining.answer(town.conn, town.other, MEETING, public_id("乙"), 0, agreed=True)
    assert town.verdicts() == {"钱": "PRESENT"}
    assert meetings.possible_partners(town.conn, town.secretary, MEETING, "乙") == []
    meetings.set_partners(town.conn, town.secretary, MEETING, ["乙"], 0)
    meetings.set_partners(town.conn, town.secretary, MEETING, [], 0)
    assert town.verdicts() == {"钱": "GUEST"}
    assert [each.what for each in town.audited()] == [
        "meeting.partners",
        "meeting.agree",
        "meeting.partners",
    ]


@pytest.mark.parametrize("code", ["丙", "甲", "区", "\x00"])
def test_who_cannot_take_part_is_refused(town: Town, code: str) -> None:
    refused(
        "partners",
        lambda: meetings.set_partners(town.conn, town.secretary, MEETING, ["乙", code], 0),
    )
    assert meetings.possible_partners(town.conn, town.secretary, MEETING, code) == []


def test_the_kind_must_suit_those_who_take_part(town: Town) -> None:
    plan = replace(town.plan(), kind=MeetingKind.PARTY_LECTURE)
    meetings.edit(town.conn, town.secretary, MEETING, plan, 0)
    meetings.set_partners(town.conn, town.secretary, MEETING, ["区"], 0)
    back = replace(plan, kind=MeetingKind.BRANCH_ASSEMBLY)
    refused("kind", lambda: meetings.edit(town.conn, town.secretary, MEETING, back, 0))


def test_a_partner_sees_the_meeting_and_decides_on_its_own_members_alone(town: Town) -> None:
    conn = town.conn
    meetings.set_partners(conn, town.top, MEETING, ["乙"], 0)
    with pytest.raises(NotFoundError):
        statements.confirm(conn, town.other, MEETING, AFTER, held=True)
    with pytest.raises(NotFoundError):
        statements.witness(conn, town.other, MEETING, AFTER, member=QIAN)
    with pytest.raises(NotFoundError):
        statements.ask_leave(conn, town.other, MEETING, LI, LeaveReason.WORK, AFTER)
    theirs = statements.ask_leave(conn, town.other, MEETING, QIAN, LeaveReason.WORK, AFTER)
    ours = statements.ask_leave(conn, town.secretary, MEETING, LI, LeaveReason.WORK, AFTER)
    with pytest.raises(NotFoundError):
        statements.decide(conn, town.other, ours, AFTER, granted=True)
    statements.decide(conn, town.other, theirs, AFTER, granted=True)
    assert town.verdicts() == {"钱": "EXCUSED"}
    said = statements.witness(conn, town.secretary, MEETING, AFTER, member=QIAN)
    with pytest.raises(NotFoundError):
        statements.withdraw(conn, town.other, said, AFTER)


# --- Statements -----------------------------------------------------------------------------


def test_each_statement_is_made_once_and_can_be_taken_back(town: Town) -> None:
    conn, who = town.conn, town.secretary
    town.tap("李", -5)
    held = statements.confirm(conn, who, MEETING, AFTER, held=True)
    assert statements.confirm(conn, town.deputy, MEETING, AFTER, held=True) == held
    count = statements.count_heads(conn, who, MEETING, 3, AFTER)
    assert statements.count_heads(conn, who, MEETING, 3, AFTER) == count
    assert statements.count_heads(conn, who, MEETING, 4, AFTER) != count
    seen = statements.witness(conn, who, MEETING, AFTER, member=WANG)
    assert statements.witness(conn, who, MEETING, AFTER, member=WANG) == seen
    assert statements.witness(conn, who, MEETING, AFTER, code=" 王 ") == seen
    guest = statements.witness(conn, who, MEETING, AFTER, code="钱")
    assert town.verdicts() == {"李": "PRESENT", "王": "WITNESSED", "钱": "GUEST"}
    assert town.declared() == [
        ("HELD", "甲书记"),
        ("HEAD_COUNT", "甲书记"),
        ("HEAD_COUNT", "甲书记"),
        ("WITNESSED", "甲书记"),
        ("WITNESSED", "甲书记"),
    ]
    statements.withdraw(conn, town.deputy, seen, AFTER)
    statements.withdraw(conn, town.top, guest, AFTER)
    assert town.verdicts() == {"李": "PRESENT"}
    refused("", lambda: statements.withdraw(conn, who, seen, AFTER))
    d = s.declarations.c
    last = conn.execute(select(d.public_id).order_by(d.id.desc()).limit(1)).scalar_one()
    refused("", lambda: statements.withdraw(conn, who, last, AFTER))
    assert statements.witness(conn, who, MEETING, AFTER, member=WANG) != seen


def test_whom_nobody_can_witness(town: Town) -> None:
    conn = town.conn
    town.tap("李", -5)
    refused("member", lambda: statements.witness(conn, town.secretary, MEETING, AFTER, member=LI))
    for code in ("无", "", "\x00"):
        refused(
            "code",
            lambda: statements.witness(conn, town.secretary, MEETING, AFTER, code=code),  # noqa: B023
        )
    with pytest.raises(NotFoundError):
        statements.witness(conn, town.secretary, MEETING, AFTER, member=QIAN)
    himself = town.caller("王书记", "甲", member="王")
    refused("member", lambda: statements.witness(conn, himself, MEETING, AFTER, member=WANG))
    refused(
        "", lambda: statements.witness(conn, town.secretary, MEETING, minutes(-31), member=WANG)
    )
    assert town.declared() == []


def test_a_paper_sheet_is_entered_in_parts_and_declared_complete(town: Town) -> None:
    conn, who = town.conn, town.secretary
    refused("complete", lambda: statements.complete_sheet(conn, who, MEETING, AFTER))
    first = statements.enter_sheet(conn, who, MEETING, AFTER, members=[LI, LI], codes=["钱", ""])
    assert len(first) == 2
    again = statements.enter_sheet(conn, who, MEETING, AFTER, members=[LI, WANG], codes=["钱"])
    assert again[0] == first[0]
    assert again[2] == first[1]
    assert town.verdicts() == {"李": "PRESENT", "王": "PRESENT", "钱": "GUEST"}
    change = town.row().change
    statements.enter_sheet(conn, who, MEETING, AFTER, members=[LI])
    assert town.row().change == change
    refused("", lambda: statements.complete_sheet(conn, who, MEETING, minutes(60)))
    whole = statements.complete_sheet(conn, who, MEETING, AFTER)
    assert statements.complete_sheet(conn, who, MEETING, AFTER) == whole
    # Nothing of a list is entered if one of it is wrong.
    before = town.declared()
    refused(
        "code",
        lambda: statements.enter_sheet(conn, who, MEETING, AFTER, members=[ZHAO], codes=["无"]),
    )
    assert town.declared() == before


# --- Leave ----------------------------------------------------------------------------------


def test_leave_is_asked_for_and_granted(town: Town) -> None:
    conn, who = town.conn, town.secretary
    asked = statements.ask_leave(conn, who, MEETING, LI, LeaveReason.ILLNESS, minutes(-100))
    assert town.verdicts() == {}
    refused(
        "member",
        lambda: statements.ask_leave(conn, town.li, MEETING, LI, LeaveReason.WORK, minutes(-99)),
    )
    no = statements.decide(conn, who, asked, minutes(-98), granted=False)
    refused("", lambda: statements.decide(conn, who, asked, minutes(-97), granted=True))
    statements.withdraw(conn, who, no, minutes(-96))
    statements.decide(conn, who, asked, minutes(-95), granted=True)
    assert town.verdicts() == {"李": "EXCUSED"}
    # Who came all the same was there.
    town.tap("李", -5)
    assert town.verdicts() == {"李": "PRESENT"}
    assert "ILLNESS" not in "".join(each.details for each in town.audited())


def test_members_ask_for_themselves_alone_and_take_back_what_nobody_answered(
    town: Town,
) -> None:
    conn = town.conn
    with pytest.raises(NotFoundError):
        statements.ask_leave(conn, town.li, MEETING, WANG, LeaveReason.WORK, 0)
    asked = statements.ask_leave(conn, town.li, MEETING, LI, LeaveReason.WORK, 0)
    with pytest.raises(NotFoundError):
        statements.decide(conn, town.li, asked, 0, granted=True)
    statements.withdraw(conn, town.li, asked, 0)
    refused("", lambda: statements.decide(conn, town.secretary, asked, 0, granted=True))
    asked = statements.ask_leave(conn, town.li, MEETING, LI, LeaveReason.WORK, 0)
    yes = statements.decide(conn, town.secretary, asked, 0, granted=True)
    refused("", lambda: statements.withdraw(conn, town.li, asked, 0))
    refused("", lambda: statements.withdraw(conn, town.li, yes, 0))
    assert town.verdicts() == {"李": "EXCUSED"}
    # An answer falls with what it answers.
    statements.withdraw(conn, town.secretary, asked, 0)
    assert town.verdicts() == {}


def test_members_ask_for_leave_from_meetings_that_expect_them(town: Town) -> None:
    conn = town.conn
    town.world.meeting("外会", "乙", "礼堂", 100)
    with pytest.raises(NotFoundError):
        statements.ask_leave(conn, town.li, public_id("外会"), LI, LeaveReason.WORK, 0)
    refused(
        "member",
        lambda: statements.ask_leave(conn, town.top, public_id("外会"), LI, LeaveReason.WORK, 0),
    )


def test_nobody_grants_their_own_leave(town: Town) -> None:
    conn = town.conn
    wang = town.caller("王书记", "甲", member="王")
    asked = statements.ask_leave(conn, wang, MEETING, WANG, LeaveReason.WORK, 0)
    refused("", lambda: statements.decide(conn, wang, asked, 0, granted=True))
    statements.decide(conn, town.top, asked, 0, granted=True)
    assert town.verdicts() == {"王": "EXCUSED"}


# --- 补签 -------------------------------------------------------------------------------------


def test_a_back_fill_needs_a_second_person(town: Town) -> None:
    conn, who = town.conn, town.secretary
    refused("", lambda: statements.ask_back_fill(conn, who, MEETING, LI, "忘带卡", minutes(60)))
    refused("reason", lambda: statements.ask_back_fill(conn, who, MEETING, LI, " ", AFTER))
    asked = statements.ask_back_fill(conn, who, MEETING, LI, "忘带卡", AFTER)
    for granted in (True, False):
        refused("", lambda: statements.decide(conn, who, asked, AFTER, granted=granted))  # noqa: B023
    statements.decide(conn, town.deputy, asked, AFTER, granted=True)
    assert town.verdicts() == {"李": "BACK_FILLED"}
    d = s.declarations.c
    assert conn.scalar(select(d.reason).where(d.public_id == asked)) == "忘带卡"


def test_a_members_own_ask_is_not_granted_by_an_account_of_that_member(town: Town) -> None:
    conn = town.conn
    asked = statements.ask_back_fill(conn, town.li, MEETING, LI, "忘带卡", AFTER)
    same = town.caller("李书记", "甲", Role.SECRETARY, "李")
    refused("", lambda: statements.decide(conn, same, asked, AFTER, granted=True))
    # Nor is what that member asked for others under another account of theirs.
    asked = statements.ask_back_fill(conn, same, MEETING, WANG, "忘带卡", AFTER)
    twin = town.caller("李委员", "甲", Role.SECRETARY, "李")
    refused("", lambda: statements.decide(conn, twin, asked, AFTER, granted=True))
    statements.decide(conn, town.deputy, asked, AFTER, granted=True)
    assert town.verdicts() == {"王": "BACK_FILLED"}


def test_two_secretaries_are_two_whoever_made_their_accounts(town: Town) -> None:
    conn = town.conn
    conn.execute(
        update(s.accounts)
        .where(s.accounts.c.id.in_([town.secretary.account_id, town.deputy.account_id]))
        .values(made_by_account_id=town.top.account_id)
    )
    asked = statements.ask_back_fill(conn, town.secretary, MEETING, LI, "忘带卡", AFTER)
    # Whoever made an account of nobody could have used it.
    refused("", lambda: statements.decide(conn, town.top, asked, AFTER, granted=True))
    statements.decide(conn, town.deputy, asked, AFTER, granted=True)
    assert town.verdicts() == {"李": "BACK_FILLED"}


def test_one_token_grants_not_what_it_asked_for(town: Town) -> None:
    conn = town.conn
    tokens = []
    for name in ("一", "二"):
        token_id = town.world.add(
            s.tokens,
            public_id=public_id(f"token {name}"),
            name=name,
            token_sha256=public_id(name).bytes * 2,
            role="SECRETARY",
            organisation_id=town.world.ids["甲"],
            created_ms=0,
        )
        tokens.append(replace(town.secretary, name=name, account_id=None, token_id=token_id))
    asked = statements.ask_back_fill(conn, tokens[0], MEETING, LI, "忘带卡", AFTER)
    refused("", lambda: statements.decide(conn, tokens[0], asked, AFTER, granted=True))
    statements.decide(conn, tokens[1], asked, AFTER, granted=True)
    assert town.verdicts() == {"李": "BACK_FILLED"}


def test_a_back_fill_has_its_deadline(town: Town) -> None:
    # It ends on 2026-04-24 in Shanghai, so until the end of 2026-05-01.
    end_of_day = 1_777_651_200_000
    refused(
        "member",
        lambda: statements.ask_back_fill(
            town.conn, town.secretary, MEETING, LI, "忘带卡", end_of_day
        ),
    )
    asked = statements.ask_back_fill(
        town.conn, town.secretary, MEETING, LI, "忘带卡", end_of_day - 1
    )
    statements.decide(town.conn, town.deputy, asked, end_of_day * 2, granted=True)
    assert town.verdicts() == {"李": "BACK_FILLED"}


def test_back_fills_of_a_year_are_counted_but_those_refused_and_withdrawn(town: Town) -> None:
    conn, who = town.conn, town.secretary
    later = minutes(7 * DAY)
    for number in range(1, 8):
        town.world.meeting(f"会{number}", "甲", "礼堂", number * 100)
    # Next year's count for themselves.
    town.world.meeting("明年", "甲", "礼堂", 300 * DAY)

    def ask(meeting: str, member: UUID = LI, now_ms: int = later - MINUTE_MS) -> UUID:
        return statements.ask_back_fill(conn, who, public_id(meeting), member, "忘带卡", now_ms)

    first, second, third = ask("会1"), ask("会2"), ask("会3")
    assert "3次" in refused("member", lambda: ask("会4"))
    ask("会4", WANG)
    ask("明年", now_ms=minutes(301 * DAY))
    statements.decide(conn, town.deputy, first, later, granted=False)
    fourth = ask("会4")
    refused("member", lambda: ask("会5"))
    statements.withdraw(conn, who, second, later)
    ask("会5")
    refused("member", lambda: ask("会6"))
    statements.decide(conn, town.deputy, third, later, granted=True)
    refused("member", lambda: ask("会6"))
    # A cancelled meeting's is none.
    meetings.cancel(conn, who, public_id("会4"), "取消", later)
    sixth = ask("会6")
    assert town.conn.scalars(
        select(s.declarations.c.public_id).where(
            s.declarations.c.member_id == town.world.ids["李"],
            s.declarations.c.public_id.in_([fourth, sixth]),
        )
    ).all()


def test_a_refusal_taken_back_cannot_get_round_the_limit(town: Town) -> None:
    conn, who = town.conn, town.secretary
    conn.execute(
        update(s.policies).where(s.policies.c.name == BACK_FILL_PER_YEAR).values(value="1")
    )
    town.world.meeting("会1", "甲", "礼堂", 100)
    later = minutes(300)
    first = statements.ask_back_fill(conn, who, MEETING, LI, "忘带卡", later)
    no = statements.decide(conn, town.deputy, first, later, granted=False)
    second = statements.ask_back_fill(conn, who, public_id("会1"), LI, "忘带卡", later)
    statements.decide(conn, town.deputy, second, later, granted=True)
    statements.withdraw(conn, who, no, later)
    refused("", lambda: statements.decide(conn, town.deputy, first, later, granted=True))
    statements.decide(conn, town.deputy, first, later, granted=False)
    assert town.verdicts() == {}
    conn.execute(
        update(s.policies).where(s.policies.c.name == BACK_FILL_PER_YEAR).values(value="3")
    )


def test_who_was_seen_needs_no_back_fill(town: Town) -> None:
    town.tap("李", -5)
    refused(
        "member",
        lambda: statements.ask_back_fill(town.conn, town.secretary, MEETING, LI, "忘", AFTER),
    )


def test_an_objection_is_taken_back_by_its_member_alone(town: Town) -> None:
    declaration = town.world.declare("会", "OBJECTION", "李", reason="我到了")
    d = s.declarations.c
    found = town.conn.scalar(select(d.public_id).where(d.id == declaration))
    assert found is not None
    refused("", lambda: statements.withdraw(town.conn, town.secretary, found, AFTER))
    statements.withdraw(town.conn, town.li, found, AFTER)


# --- Step by step as from nothing -----------------------------------------------------------

MEMBERS = "李王赵钱孙"
act = st.one_of(
    st.tuples(st.just("tap"), st.sampled_from(MEMBERS), st.integers(-40, 130)),
    st.tuples(st.just("witness"), st.sampled_from(MEMBERS), st.integers(0, 1)),
    st.tuples(st.just("sheet"), st.sampled_from(MEMBERS), st.integers(0, 1)),
    st.tuples(st.just("leave"), st.sampled_from(MEMBERS), st.integers(0, 1)),
    st.tuples(st.just("back fill"), st.sampled_from(MEMBERS), st.integers(0, 1)),
    st.tuples(st.just("decide"), st.booleans(), st.integers(0, 9)),
    st.tuples(st.just("withdraw"), st.just(""), st.integers(0, 19)),
    st.tuples(st.just("cancel"), st.booleans(), st.integers(0, 1)),
    st.tuples(st.just("move"), st.integers(-40, 130), st.integers(0, 1)),
    st.tuples(st.just("partners"), st.booleans(), st.integers(0, 1)),
    st.tuples(st.just("complete"), st.just(""), st.integers(0, 1)),
    st.tuples(st.just("held"), st.booleans(), st.integers(0, 1)),
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A migrated SQLite database with two meetings that overlap; every example rolls back."""
    from hub.store.engine import migrate, open_engine

    found = open_engine(f"sqlite:///{tmp_path_factory.mktemp('any')}/hub.db")
    migrate(found)
    yield found
    found.dispose()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(acts=st.lists(act, max_size=14))
def test_any_sequence_of_statements_and_taps_is_as_derived_from_nothing(
    template: Engine, acts: list[tuple[str, Any, int]]
) -> None:
    with template.begin() as conn:
        town = Town(conn)
        town.world.meeting("二会", "甲", "礼堂", 40)
        # Whatever moves, leaves some of these and finds others.
        for member, at in zip("李钱王孙", (-5, 20, 70, 110), strict=True):
            town.tap(member, at)
        said: list[UUID] = []
        for what, which, number in acts:
            # All but a tap concern one of the two meetings.
            meeting = public_id("会" if number % 2 else "二会")
            with suppress(MeetingError, NotFoundError):
                said += _do(town, what, which, number, meeting, said)
        assert rebuild_check(conn) == []
        conn.rollback()


def _do(
    town: Town, what: str, which: Any, number: int, meeting: UUID, said: list[UUID]
) -> list[UUID]:
    conn, who, later = town.conn, town.secretary, minutes(200)
    member = public_id(which) if isinstance(which, str) else None
    match what:
        case "tap":
            town.tap(which, number)
        case "witness":
            return [statements.witness(conn, who, meeting, later, code=which)]
        case "sheet":
            return statements.enter_sheet(conn, who, meeting, later, codes=[which])
        case "leave":
            assert member is not None
            return [statements.ask_leave(conn, who, meeting, member, LeaveReason.WORK, later)]
        case "back fill":
            assert member is not None
            return [statements.ask_back_fill(conn, who, meeting, member, "忘", later)]
        case "decide" if said:
            asked = said[number % len(said)]
            return [statements.decide(conn, town.deputy, asked, later, granted=which)]
        case "withdraw" if said:
            return [statements.withdraw(conn, who, said[number % len(said)], later)]
        case "cancel":
            (meetings.cancel if which else meetings.restore)(conn, who, meeting, "雨", later)
        case "move":
            plan = replace(
                meetings.plan_of(conn, town.row(meeting)),
                starts_ms=minutes(which),
                ends_ms=minutes(which + 60),
            )
            meetings.edit(conn, who, meeting, plan, later)
        case "partners":
            meetings.set_partners(conn, who, meeting, ["乙"] if which else [], later)
        case "complete":
            return [statements.complete_sheet(conn, who, meeting, later)]
        case "held":
            return [statements.confirm(conn, who, meeting, later, held=which)]
        case _:
            pass
    return []
