"""Taps that wait for a person: who sees them, whose card it is, which meeting it was."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, select

from hub.auth.callers import Caller
from hub.cards import bind, cards_of, end_binding, reinstate, report_lost, suggested
from hub.derive import derive_batch, rebuild_check
from hub.devices import DeviceError, place
from hub.domain.terms import Outcome, Role, Verdict
from hub.store import schema as s
from hub.store.queries import meeting_attendance
from hub.store.scope import NotFoundError
from hub.taps import (
    WAITING,
    Asked,
    FoundTap,
    Line,
    TapError,
    assign,
    choices,
    find_tap,
    waiting,
    withdraw,
)
from protocol.journal import Act
from tests.hub.site import ZONE
from tests.hub.world import LONG_AGO, Entry, World, district, minutes, public_id

NOW = minutes(300)
STRANGER = "04FEEDFACE1234"


@dataclass
class Hall:
    """The district, with taps at 礼堂 and at a hall of 乙."""

    conn: Connection
    world: World
    seq: dict[str, int] = field(default_factory=dict)

    def caller(self, organisation: str) -> Caller:
        return Caller(
            f"{organisation}书记",
            Role.SECRETARY,
            self.world.ids[organisation],
            str(public_id(organisation)),
            organisation,
            account_id=self.world.ids[f"account {organisation}"],
        )

    def scope(self, organisation: str) -> int:
        return self.world.ids[organisation]

    def tap(
        self,
        epoch: str,
        credential: int | None,
        at: float,
        *,
        trusted: bool = True,
        act: Act | None = None,
        about: int | None = None,
    ) -> None:
        self.seq[epoch] = self.seq.get(epoch, 0) + 1
        at_ms = minutes(at)
        self.world.batch(
            epoch,
            self.seq[epoch],
            [
                Entry(
                    at_ms - LONG_AGO,
                    at_ms if trusted else 0,
                    trusted,
                    credential,
                    act,
                    about=about,
                )
            ],
            received_ms=NOW,
        )
        while derive_batch(self.conn).batches:
            pass

    def lines(
        self, organisation: str, outcome: Outcome = Outcome.UNMATCHED, **more: int
    ) -> tuple[Line, ...]:
        asked = Asked(outcome, more.pop("from_ms", 0), more.pop("to_ms", minutes(1e6)), **more)
        found = waiting(self.conn, self.scope(organisation), asked, NOW)
        if asked.limit >= 50:
            assert found.counts[outcome] == len(found.lines)
        return found.lines

    def came(self, meeting: str = "会") -> dict[str, Verdict]:
        a = s.attendances.c
        return {
            row.code: Verdict(row.verdict)
            for row in self.conn.execute(
                select(s.members.c.code, a.verdict)
                .join(s.attendances, a.member_id == s.members.c.id)
                .where(a.meeting_id == self.world.ids[meeting])
            )
        }


@contextmanager
def open_hall(engine: Engine) -> Iterator[Hall]:
    with engine.connect() as conn, conn.begin() as transaction:
        world = district(conn)
        world.venue("乙厅", "乙")
        world.device("二号", "乙厅")
        world.epoch("e", "一号", boot="b1")
        world.epoch("f", "二号", boot="b2")
        for code in ("区", "甲", "乙"):
            world.add(
                s.accounts,
                f"account {code}",
                public_id=public_id(f"account {code}"),
                login=code,
                name=code,
                role="SECRETARY",
                organisation_id=world.ids[code],
                password="-",
                must_change=False,
                created_ms=LONG_AGO,
            )
        yield Hall(conn, world)
        transaction.rollback()


@pytest.fixture
def hall(engine: Engine) -> Iterator[Hall]:
    with open_hall(engine) as hall:
        yield hall


def test_one_unknown_card_is_one_line_at_each_venue(hall: Hall) -> None:
    card = hall.world.card(None, STRANGER)
    hall.tap("e", card, 1)
    hall.tap("e", card, 3)
    hall.tap("f", card, 5)
    [at_a] = hall.lines("甲")
    assert (at_a.taps, at_a.first_ms, at_a.last_ms) == (2, minutes(1), minutes(3))
    assert at_a.card == "1234"
    assert at_a.venue is not None
    assert at_a.venue.code == "礼堂"
    [at_b] = hall.lines("乙")
    assert at_b.taps == 1
    assert [each.taps for each in hall.lines("区")] == [1, 2]
    assert STRANGER not in repr(hall.lines("区"))


def test_who_sees_a_tap_by_its_name(hall: Hall) -> None:
    hall.tap("e", hall.world.card(None, STRANGER), 1)
    [line] = hall.lines("甲")
    assert find_tap(hall.conn, hall.scope("区"), line.tap).card == "1234"
    for name in (line.tap, line.tap + "0", line.tap.upper(), "", "1", f"{line.tap[:66]}99"):
        with pytest.raises(NotFoundError):
            find_tap(hall.conn, hall.scope("乙"), name)
    assert not {str(each) for each in hall.world.ids.values() if each > 9} & set(
        line.tap.split("-")
    )


def test_a_branch_sees_what_fell_into_its_own_meeting_in_another_s_hall(hall: Hall) -> None:
    hall.world.meeting("客会", "乙", "礼堂", 200)
    card = hall.world.card(None, STRANGER)
    hall.tap("e", card, 1)
    hall.tap("e", card, 201)
    assert [each.first_ms for each in hall.lines("乙")] == [minutes(201)]
    assert len(hall.lines("乙", meeting_id=hall.world.ids["客会"])) == 1
    assert hall.lines("乙", meeting_id=hall.world.ids["会"]) == ()
    find_tap(hall.conn, hall.scope("乙"), hall.lines("乙")[0].tap)


def test_what_stands_nowhere_is_for_the_whole_district(hall: Hall) -> None:
    hall.world.add(
        s.devices,
        "三号",
        public_id=public_id("三号"),
        name="三号",
        status="ACTIVE",
        sign_key=bytes(32),
    )
    hall.world.epoch("g", "三号", boot="b3")
    hall.world.epoch("h", "三号", boot="b4", parent=("g", 2))
    hall.tap("g", hall.world.card(None, STRANGER), 1)
    hall.tap("g", hall.world.card("李", "04AA0000000001"), 2)
    hall.tap("h", hall.world.card(None, STRANGER), 3, trusted=False)
    for outcome in Outcome.UNMATCHED, Outcome.UNPLACED, Outcome.UNDATED:
        assert len(hall.lines("区", outcome)) == 1, outcome
        assert hall.lines("甲", outcome) == ()
        [line] = hall.lines("区", outcome)
        find_tap(hall.conn, hall.scope("区"), line.tap)
        with pytest.raises(NotFoundError):
            find_tap(hall.conn, hall.scope("甲"), line.tap)


def test_the_list_by_period_venue_and_page(hall: Hall) -> None:
    for number in range(5):
        hall.tap("e", hall.world.card(None, f"04FEEDFACE000{number}"), number)
    assert [each.card for each in hall.lines("甲", limit=2)] == ["0004", "0003"]
    assert [each.card for each in hall.lines("甲", limit=2, offset=4)] == ["0000"]
    found = hall.lines("甲", from_ms=minutes(1), to_ms=minutes(3))
    assert [each.card for each in found] == ["0002", "0001"]
    assert len(hall.lines("区", venue_id=hall.world.ids["礼堂"])) == 5
    assert hall.lines("区", venue_id=hall.world.ids["乙厅"]) == ()


def test_a_card_that_is_somebody_s_now_counts_from_then_on(hall: Hall) -> None:
    card = hall.world.card(None, STRANGER)
    hall.tap("e", card, 1)
    [line] = hall.lines("甲")
    assert [
        each.code for each in suggested(hall.conn, hall.scope("甲"), _tap(hall, line))
    ] == sorted(["李", "王", "赵"])
    assert line.first_ms is not None
    bind(hall.conn, hall.caller("甲"), line.tap, public_id("王"), line.first_ms, NOW)
    assert hall.came() == {"王": Verdict.LATE}
    assert hall.lines("甲") == ()
    assert rebuild_check(hall.conn) == []
    held = cards_of(hall.conn, hall.scope("甲"), hall.world.ids["王"], NOW)
    assert held[0].numbers == ("1234",)
    assert held[0].is_last
    assert STRANGER not in repr(held)
    assert STRANGER not in " ".join(hall.conn.scalars(select(s.audit.c.details)))
    # Said again, it is known.
    with pytest.raises(TapError, match="已经知道"):
        bind(hall.conn, hall.caller("甲"), line.tap, public_id("李"), line.first_ms, NOW)


def _tap(hall: Hall, line: Line) -> FoundTap:
    return find_tap(hall.conn, hall.scope("区"), line.tap)


def test_another_number_of_the_card_that_the_member_has(hall: Hall) -> None:
    hall.tap("e", hall.world.card(None, STRANGER), 1)
    [line] = hall.lines("甲")
    [own] = cards_of(hall.conn, hall.scope("甲"), hall.world.ids["王"], NOW)
    card = bind(
        hall.conn,
        hall.caller("甲"),
        line.tap,
        public_id("王"),
        minutes(1),
        NOW,
        card=uuid.UUID(own.public_id),
    )
    assert str(card) == own.public_id
    assert hall.came() == {"王": Verdict.LATE}
    [own] = cards_of(hall.conn, hall.scope("甲"), hall.world.ids["王"], NOW)
    assert len(own.numbers) == 2


def test_what_cannot_be_bound_says_why_and_changes_nothing(hall: Hall) -> None:
    scope, caller = hall.scope("甲"), hall.caller("甲")
    card = hall.world.card("李", STRANGER, since=minutes(2))
    hall.tap("e", card, 1)
    [line] = hall.lines("甲")
    [of_wang] = cards_of(hall.conn, scope, hall.world.ids["王"], NOW)

    def refused(words: str, member: str = "王", at: float = 1, **more: object) -> None:
        with pytest.raises(TapError, match=words), hall.conn.begin_nested():
            bind(hall.conn, caller, line.tap, public_id(member), minutes(at), NOW, **more)  # type: ignore[arg-type]

    refused("登记给李名")
    refused("登记给李名", at=5)
    refused("不能晚于现在", at=301)
    refused("另一张卡", card=uuid.UUID(of_wang.public_id))
    with pytest.raises(NotFoundError):
        bind(hall.conn, caller, line.tap, public_id("钱"), minutes(1), NOW)
    with pytest.raises(NotFoundError):
        bind(hall.conn, hall.caller("乙"), line.tap, public_id("钱"), minutes(1), NOW)
    assert len(hall.lines("甲")) == 1
    # Of the member who holds it anyway the beginning is moved.
    bind(hall.conn, caller, line.tap, public_id("李"), minutes(1), NOW)
    assert hall.came() == {"李": Verdict.LATE}
    assert (
        len(
            hall.conn.scalars(
                select(s.bindings.c.id).where(s.bindings.c.valid_from_ms >= minutes(0))
            ).all()
        )
        == 1
    )
    assert rebuild_check(hall.conn) == []


def test_who_holds_it_elsewhere_is_not_named(hall: Hall) -> None:
    hall.tap("e", hall.world.card("钱", STRANGER, since=minutes(2)), 1)
    [line] = hall.lines("甲")
    with pytest.raises(TapError) as refused:
        bind(hall.conn, hall.caller("甲"), line.tap, public_id("王"), minutes(1), NOW)
    assert "其他组织" in str(refused.value)
    assert "钱" not in str(refused.value)


def test_the_code_of_a_new_card(hall: Hall) -> None:
    hall.tap("e", hall.world.card(None, STRANGER), 1)
    [line] = hall.lines("甲")
    for code, words in (("a b", "空格"), ("x" * 65, "64"), ("taken", "另一张卡")):
        hall.world.conn.execute(s.cards.delete().where(s.cards.c.code == "taken"))
        hall.world.add(s.cards, public_id=s.new_public_id(), code="taken", status="ACTIVE")
        with pytest.raises(TapError, match=words):
            bind(
                hall.conn, hall.caller("甲"), line.tap, public_id("王"), minutes(1), NOW, code=code
            )
    bind(hall.conn, hall.caller("甲"), line.tap, public_id("王"), minutes(1), NOW, code=" 0815 ")
    assert "0815" in {
        each.code for each in cards_of(hall.conn, hall.scope("甲"), hall.world.ids["王"], NOW)
    }


def test_a_binding_ends_a_card_is_lost_and_found(hall: Hall) -> None:
    caller, scope = hall.caller("甲"), hall.scope("甲")
    [own] = cards_of(hall.conn, scope, hall.world.ids["李"], NOW)
    card = uuid.UUID(own.public_id)
    credential = hall.conn.scalar(
        select(s.credentials.c.id)
        .join(s.cards, s.cards.c.id == s.credentials.c.card_id)
        .where(s.cards.c.public_id == card)
    )
    hall.tap("e", credential, 1)
    hall.tap("e", credential, 10)
    with pytest.raises(TapError, match="不能晚于现在"):
        report_lost(hall.conn, caller, card, NOW + 1, NOW)
    with pytest.raises(NotFoundError):
        report_lost(hall.conn, hall.caller("乙"), card, NOW, NOW)
    report_lost(hall.conn, caller, card, minutes(5), NOW)
    assert [each.first_ms for each in hall.lines("甲")] == [minutes(10)]
    assert hall.came() == {"李": Verdict.LATE}
    with pytest.raises(TapError, match="已经挂失"):
        report_lost(hall.conn, caller, card, minutes(6), NOW)
    [line] = hall.lines("甲")
    with pytest.raises(TapError, match="恢复使用"):
        bind(hall.conn, caller, line.tap, public_id("李"), minutes(6), NOW)
    reinstate(hall.conn, caller, card, minutes(8))
    assert hall.lines("甲") == ()
    with pytest.raises(TapError, match="正在使用"):
        reinstate(hall.conn, caller, card, NOW)
    assert rebuild_check(hall.conn) == []
    # At its beginning: it never was.
    end_binding(hall.conn, caller, card, minutes(8), NOW)
    assert [each.first_ms for each in hall.lines("甲")] == [minutes(10)]
    with pytest.raises(TapError, match="没有持卡人"):
        end_binding(hall.conn, caller, card, NOW, NOW)
    end_binding(hall.conn, caller, card, LONG_AGO, NOW)
    assert hall.came() == {}
    assert rebuild_check(hall.conn) == []


def _bindings(hall: Hall, uid: str = STRANGER) -> list[tuple[str, int, int | None]]:
    b = s.bindings.c
    return [
        (row.code, row.valid_from_ms, row.valid_to_ms)
        for row in hall.conn.execute(
            select(s.members.c.code, b.valid_from_ms, b.valid_to_ms)
            .join(s.bindings, b.member_id == s.members.c.id)
            .join(s.credentials, s.credentials.c.card_id == b.card_id)
            .where(s.credentials.c.value == uid)
            .order_by(b.valid_from_ms)
        )
    ]


def test_a_card_whose_binding_ended_is_bound_again_to_the_same_member(hall: Hall) -> None:
    caller = hall.caller("甲")
    card = hall.world.card("李", STRANGER, since=minutes(-60), until=minutes(-5))
    hall.tap("e", card, 1)
    [line] = hall.lines("甲")
    bind(hall.conn, caller, line.tap, public_id("李"), minutes(-30), NOW)
    assert hall.lines("甲") == ()
    assert hall.came() == {"李": Verdict.LATE}
    assert _bindings(hall) == [("李", minutes(-60), None)]
    assert rebuild_check(hall.conn) == []


def test_an_end_that_was_said_stays_where_only_the_beginning_is_bound_earlier(hall: Hall) -> None:
    card = hall.world.card("李", STRANGER, since=minutes(10), until=minutes(20))
    hall.tap("e", card, 1)
    hall.tap("e", card, 30)
    [line] = hall.lines("甲")
    assert line.first_ms == minutes(1)
    bind(hall.conn, hall.caller("甲"), line.tap, public_id("李"), minutes(1), NOW)
    assert _bindings(hall) == [("李", minutes(1), minutes(20))]
    # The later tap is a question of its own; several validities become one.
    [line] = hall.lines("甲")
    assert line.first_ms == minutes(30)
    hall.world.card("李", STRANGER, since=minutes(40), until=minutes(50))
    bind(hall.conn, hall.caller("甲"), line.tap, public_id("李"), minutes(5), NOW)
    assert _bindings(hall) == [("李", minutes(1), None)]
    assert hall.lines("甲") == ()


def test_a_binding_goes_on_over_nobody_else_s(hall: Hall) -> None:
    hall.world.card("李", STRANGER, since=minutes(-60), until=minutes(-5))
    hall.world.card("王", STRANGER, since=minutes(-4), until=minutes(0))
    card = hall.world.card("赵", STRANGER, since=minutes(50))
    hall.tap("e", card, 1)
    [line] = hall.lines("甲")
    before = _bindings(hall)
    for at, words in ((-30, "登记给王名"), (1, "登记给赵名")):
        with pytest.raises(TapError, match=words):
            bind(hall.conn, hall.caller("甲"), line.tap, public_id("李"), minutes(at), NOW)
    # From after the tap on it is theirs anyway: nothing would come of it.
    with pytest.raises(TapError, match="更早的起始时间"):
        bind(hall.conn, hall.caller("甲"), line.tap, public_id("赵"), minutes(60), NOW)
    assert _bindings(hall) == before
    assert "card.bind" not in hall.conn.scalars(select(s.audit.c.what)).all()


def test_a_card_that_somebody_else_is_to_have_is_its_holder_s_until_then(hall: Hall) -> None:
    caller, scope = hall.caller("甲"), hall.scope("甲")
    hall.world.card("李", STRANGER, since=LONG_AGO, until=NOW + 60_000)
    credential = hall.world.card("钱", STRANGER, since=NOW + 60_000)
    hall.tap("e", credential, 10)
    [held] = [
        each
        for each in cards_of(hall.conn, scope, hall.world.ids["李"], NOW)
        if each.code == STRANGER
    ]
    assert held.is_last
    card = uuid.UUID(held.public_id)
    with pytest.raises(NotFoundError):
        report_lost(hall.conn, hall.caller("乙"), card, minutes(5), NOW)
    with pytest.raises(TapError, match="正在使用"):
        reinstate(hall.conn, caller, card, NOW)
    # Nobody of another branch is to lose it unasked.
    with pytest.raises(TapError, match="其他组织"), hall.conn.begin_nested():
        report_lost(hall.conn, caller, card, minutes(5), NOW)
    report_lost(hall.conn, hall.caller("区"), card, minutes(5), NOW)
    assert _bindings(hall) == [("李", LONG_AGO, minutes(5))]
    assert hall.came() == {}
    assert [each.last_ms for each in hall.lines("甲")] == [minutes(10)]
    assert rebuild_check(hall.conn) == []


def test_an_unplaced_tap_is_assigned_and_taken_back(hall: Hall) -> None:
    caller = hall.caller("甲")
    own = hall.world.card("李", "04AA0000000001")
    hall.tap("e", own, -45)
    [line] = hall.lines("甲", Outcome.UNPLACED)
    assert line.person is not None
    assert line.person.name == "李名"
    assert hall.lines("甲") == ()
    [choice] = choices(hall.conn, hall.scope("甲"), _tap(hall, line), ZONE)
    assert choice.title == "会题"
    assert not choice.is_assigned
    hall.world.meeting("远会", "甲", "礼堂", 60 * 24 * 3)
    hall.world.meeting("别处", "乙", "乙厅")
    with pytest.raises(TapError, match="同一天"):
        assign(hall.conn, caller, line.tap, public_id("远会"), NOW, ZONE)
    with pytest.raises(NotFoundError):
        assign(hall.conn, caller, line.tap, public_id("别处"), NOW, ZONE)
    with pytest.raises(TapError, match="同一个地点"):
        assign(hall.conn, hall.caller("区"), line.tap, public_id("别处"), NOW, ZONE)
    assign(hall.conn, caller, line.tap, public_id("会"), NOW, ZONE)
    assert hall.came() == {"李": Verdict.PRESENT}
    assert hall.lines("甲", Outcome.UNPLACED) == ()
    assert choices(hall.conn, hall.scope("甲"), _tap(hall, line), ZONE)[0].is_assigned
    with pytest.raises(TapError, match="已归入"):
        assign(hall.conn, caller, line.tap, public_id("会"), NOW, ZONE)
    with pytest.raises(NotFoundError):
        withdraw(hall.conn, hall.caller("乙"), line.tap, NOW)
    assert rebuild_check(hall.conn) == []
    withdraw(hall.conn, caller, line.tap, NOW)
    assert hall.came() == {}
    assert len(hall.lines("甲", Outcome.UNPLACED)) == 1
    with pytest.raises(TapError, match="没有归入"):
        withdraw(hall.conn, caller, line.tap, NOW)
    assign(hall.conn, caller, line.tap, public_id("会"), NOW, ZONE)
    assert hall.came() == {"李": Verdict.PRESENT}


def test_a_tap_without_a_time_needs_a_holder_and_a_meeting_that_it_may_have_been(
    hall: Hall,
) -> None:
    caller = hall.caller("甲")
    hall.tap("e", hall.world.card(None, STRANGER), 1, trusted=False)
    [line] = hall.lines("甲", Outcome.UNDATED)
    assert (line.first_ms, line.latest_ms) == (None, NOW)
    with pytest.raises(TapError, match="先登记是谁的卡"):
        assign(hall.conn, caller, line.tap, public_id("会"), NOW, ZONE)
    bind(hall.conn, caller, line.tap, public_id("王"), minutes(-10), NOW)
    [line] = hall.lines("甲", Outcome.UNDATED)
    assert line.person is not None
    assert line.person.name == "王名"
    hall.world.meeting("明天", "甲", "礼堂", 60 * 24)
    with pytest.raises(TapError, match="不可能是那个时候"):
        assign(hall.conn, caller, line.tap, public_id("明天"), NOW, ZONE)
    assert len(hall.lines("甲", Outcome.UNDATED, meeting_id=hall.world.ids["会"])) == 1
    assert hall.lines("甲", Outcome.UNDATED, meeting_id=hall.world.ids["明天"]) == ()
    assign(hall.conn, caller, line.tap, public_id("会"), NOW, ZONE)
    assert hall.came() == {"王": Verdict.PRESENT}
    assert hall.lines("甲", Outcome.UNDATED) == ()
    assert rebuild_check(hall.conn) == []


def test_a_tap_without_a_time_follows_its_card_to_whoever_holds_it(hall: Hall) -> None:
    caller = hall.caller("甲")
    hall.tap("e", hall.world.card(None, STRANGER), 1, trusted=False)
    [line] = hall.lines("甲", Outcome.UNDATED)
    card = bind(hall.conn, caller, line.tap, public_id("王"), minutes(-10), NOW)
    assign(hall.conn, caller, line.tap, public_id("会"), NOW, ZONE)
    assert hall.came() == {"王": Verdict.PRESENT}
    end_binding(hall.conn, caller, card, LONG_AGO, NOW)
    assert hall.came() == {}
    bind(hall.conn, caller, line.tap, public_id("赵"), minutes(-10), NOW)
    assert hall.came() == {"赵": Verdict.PRESENT}
    report_lost(hall.conn, caller, card, minutes(-5), NOW)
    assert hall.came() == {}
    assert rebuild_check(hall.conn) == []


def test_the_unknown_card_of_an_act_waits_and_then_speaks_for_its_holder(hall: Hall) -> None:
    caller, scope = hall.caller("甲"), hall.scope("甲")
    hall.world.office("李", "甲")
    card = hall.world.card(None, STRANGER)
    hall.tap("e", card, 1, act=Act.WITNESSED, about=hall.world.names("王"))
    hall.tap("e", card, 3)
    [line] = hall.lines("甲")
    assert (line.taps, line.first_ms, line.card) == (2, minutes(1), "1234")
    assert hall.lines("甲", meeting_id=hall.world.ids["会"]) == (line,)
    shown = meeting_attendance(hall.conn, scope, str(public_id("会")), NOW, ZONE)
    assert shown is not None
    assert shown.unmatched == line.taps
    found = find_tap(hall.conn, scope, line.tap)
    assert found.is_act
    assert choices(hall.conn, scope, found, ZONE) == []
    bind(hall.conn, caller, line.tap, public_id("李"), minutes(1), NOW)
    assert hall.came() == {"李": Verdict.LATE, "王": Verdict.WITNESSED}
    assert hall.lines("甲") == ()
    assert rebuild_check(hall.conn) == []


@pytest.mark.parametrize(("at", "trusted"), [(-45, True), (1, False)])
def test_an_act_is_assigned_to_no_meeting(hall: Hall, at: float, trusted: bool) -> None:
    hall.tap("e", hall.world.card("李", "04AA0000000001"), at, trusted=trusted, act=Act.OPENED)
    for outcome in WAITING:
        assert hall.lines("甲", outcome) == ()
    name = f"{public_id('一号')}-{public_id('e').hex}-1"
    with pytest.raises(TapError, match="不是签到"):
        assign(hall.conn, hall.caller("甲"), name, public_id("会"), NOW, ZONE)


def test_whoever_is_of_another_branch_is_told_as_a_branch(hall: Hall) -> None:
    hall.world.meeting("又一会", "甲", "礼堂", 10)
    hall.tap("e", hall.world.card("钱", "04AA0000000002"), 15)
    [line] = hall.lines("甲", Outcome.UNPLACED)
    assert line.person is not None
    assert (line.person.name, line.person.code, line.person.branch) == (None, None, "乙名")
    [line] = hall.lines("区", Outcome.UNPLACED)
    assert line.person is not None
    assert line.person.name == "钱名"


DEEDS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "bind",
                "end",
                "lost",
                "found",
                "tap",
                "undated",
                "act",
                "assign",
                "withdraw",
                "move",
            ]
        ),
        st.sampled_from(["李", "王", "赵"]),
        st.integers(-20, 90),
    ),
    max_size=12,
)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@given(deeds=DEEDS)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whatever_is_said_of_cards_a_rebuild_changes_nothing(
    engine: Engine, deeds: list[tuple[str, str, int]]
) -> None:
    with open_hall(engine) as hall:
        caller = hall.caller("甲")
        strangers = [hall.world.card(None, f"04FEEDFACE00{number:02}") for number in range(2)]
        only_acts = hall.world.card(None, "04FEEDFACE0098")
        hall.world.office("李", "甲")
        for each in ("李", "王", "赵"):
            hall.world.ids[f"names {each}"] = hall.world.names(each)
        hall.world.venue("甲厅", "甲")
        hall.world.epoch("u", "一号", boot="b3", parent=("e", 1))
        for at, stranger in enumerate(strangers * 2):
            hall.tap("e", stranger, at * 7 - 20)
            hall.tap("u", stranger, at * 7 - 20, trusted=False)
        # Of a card that has no tap with a time: no other leads to the meeting.
        hall.tap("u", hall.world.card(None, "04FEEDFACE0099"), 0, trusted=False)
        first = hall.lines("甲", Outcome.UNDATED)[0].tap
        bind(hall.conn, caller, first, public_id("王"), minutes(-20), NOW)
        assign(hall.conn, caller, first, public_id("会"), NOW, ZONE)
        assigned = [first]
        for deed, member, at in deeds:
            held = cards_of(hall.conn, hall.scope("甲"), hall.world.ids[member], NOW)
            card = uuid.UUID(held[0].public_id) if held else None
            try:
                match deed:
                    case "bind":
                        for line in hall.lines("甲")[:1]:
                            bind(hall.conn, caller, line.tap, public_id(member), minutes(at), NOW)
                            found = find_tap(hall.conn, hall.scope("甲"), line.tap)
                            assert (found.outcome is Outcome.UNMATCHED) == (
                                found.at_ms is not None and found.at_ms < minutes(at)
                            )
                    case "end" if card is not None:
                        end_binding(hall.conn, caller, card, minutes(at), NOW)
                    case "lost" if card is not None:
                        report_lost(hall.conn, caller, card, minutes(at), NOW)
                    case "found" if card is not None:
                        reinstate(hall.conn, caller, card, minutes(at))
                    case "tap":
                        hall.tap("e", strangers[at % 2], at)
                    case "undated":
                        hall.tap("u", strangers[at % 2], at, trusted=False)
                    case "act":
                        hall.tap(
                            "e",
                            [*strangers, only_acts][at % 3],
                            at,
                            act=Act.WITNESSED,
                            about=hall.world.ids[f"names {member}"],
                        )
                    case "assign":
                        for outcome in Outcome.UNPLACED, Outcome.UNDATED:
                            for line in hall.lines("甲", outcome)[:1]:
                                assigned.append(line.tap)
                                assign(hall.conn, caller, line.tap, public_id("会"), NOW, ZONE)
                    case "withdraw":
                        for tap in assigned[:1]:
                            withdraw(hall.conn, caller, tap, NOW)
                            assigned.remove(tap)
                    case "move":
                        device = hall.conn.execute(
                            select(s.devices).where(s.devices.c.name == "一号")
                        ).one()
                        venue = hall.conn.execute(
                            select(s.venues).where(
                                s.venues.c.code == ("礼堂" if at % 2 else "甲厅")
                            )
                        ).one()
                        place(hall.conn, caller, device, venue, minutes(at), NOW, replaces=True)
            except (TapError, DeviceError):
                pass
            # Whatever happened: every list can be read, and leads to what it names.
            for outcome in WAITING:
                for line in hall.lines("甲", outcome):
                    find_tap(hall.conn, hall.scope("甲"), line.tap)
        assert rebuild_check(hall.conn) == []
        rows = hall.conn.execute(
            select(s.bindings).order_by(s.bindings.c.card_id, s.bindings.c.valid_from_ms)
        ).all()
        for one, other in pairwise(rows):
            if one.card_id == other.card_id:
                assert one.valid_to_ms is not None
                assert one.valid_to_ms <= other.valid_from_ms
