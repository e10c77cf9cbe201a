"""Leaving the fleet: what a device that is retired, lost, compromised or forked still counts for.

The tests try to make counting what must not count, to lose what must not be lost, and to conclude
of anybody that they were absent.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest
from sqlalchemy import Engine, func, select

from hub import leaving
from hub.audit import Machine
from hub.derive import derive_batch, rebuild, rebuild_check
from hub.devices import DeviceError
from hub.domain.completeness import Completeness, Obstacle
from hub.domain.terms import DeviceStatus, OtherHistory
from hub.ingest.landing import MAX_HELD_BYTES, Landed, Landing, Message
from hub.ingest.orders import Orders
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.queries import device_completeness, meeting_attendance
from hub.store.scope import EVERYTHING
from hub.store.state import begin_generation
from protocol.batch import Receipt
from protocol.errors import Reason, RemoteError
from protocol.fleet import Command, Order
from protocol.identity import OpeningKey, SigningKey
from protocol.journal import ClockSample, Stamp, encode_entry
from protocol.topics import Up
from tests.fakes.edge import FakeEdge, uid
from tests.hub.site import ZONE
from tests.hub.world import LONG_AGO, district, minutes

WHO = Machine()
LI, WANG = uid(77), uid(78)
WHY = "测试"


@dataclass
class Fleet:
    """The district, whose hall has one device; each step is a transaction."""

    engine: Engine
    keyring: Keyring
    now_ms: int = minutes(90)
    edges: dict[str, FakeEdge] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.landing = Landing(self.keyring)
        with self.engine.begin() as conn:
            begin_generation(conn, self.now_ms)
            world = district(conn)
            conn.execute(s.placements.update().values(valid_to_ms=LONG_AGO + 1))
            world.card("李", LI.value)
            world.card("王", WANG.value)
            self.meeting = world.ids["会"]
            self.hall = world.ids["礼堂"]
        self.edge = self.add("门口")

    def add(self, name: str) -> FakeEdge:
        edge = FakeEdge(self.keyring.public(), name)
        with self.engine.begin() as conn:
            device_id = edge.add_to(conn)
            conn.execute(
                s.placements.insert().values(
                    device_id=device_id, venue_id=self.hall, valid_from_ms=LONG_AGO
                )
            )
        return edge

    def land(self, *messages: tuple[str, bytes], at: float | None = None) -> Landed:
        now_ms = self.now_ms if at is None else minutes(at)
        with self.engine.begin() as conn:
            landed = self.landing.land(conn, [Message(*each) for each in messages], now_ms)
        self.derive()
        return landed

    def send(
        self, edge: FakeEdge, first: int = 1, last: int | None = None, at: float | None = None
    ) -> Landed:
        return self.land((edge.topic(), edge.payload(first, last)), at=at)

    def beat(
        self, edge: FakeEdge, wall: float, *, closing: bool = False, at: float | None = None
    ) -> Landed:
        beat = edge.heartbeat(minutes(wall), closing=closing)
        return self.land((edge.topic(Up.STATE), beat), at=wall if at is None else at)

    def hello(self, edge: FakeEdge) -> Landed:
        return self.land((edge.topic(Up.HELLO), edge.hello((edge.epoch, 1, len(edge.entries)))))

    def take_admitted(self) -> Landed:
        total = Landed()
        while True:
            with self.engine.begin() as conn:
                landed = self.landing.land_admitted(conn)
            total.add(landed)
            if not landed.batches and not landed.rejected:
                self.derive()
                return total

    def derive(self) -> None:
        with self.engine.begin() as conn:
            while derive_batch(conn).batches:
                pass

    def count(self, table: object) -> int:
        with self.engine.connect() as conn:
            return conn.scalar(select(func.count()).select_from(table)) or 0  # type: ignore[arg-type]

    def device(self, edge: FakeEdge | None = None) -> object:
        with self.engine.connect() as conn:
            return conn.execute(
                select(s.devices).where(
                    s.devices.c.public_id == UUID(bytes=(edge or self.edge).edge)
                )
            ).one()

    def known(self, edge: FakeEdge | None = None) -> Completeness:
        with self.engine.connect() as conn:
            device_id = self.device(edge).id  # type: ignore[attr-defined]
            return device_completeness(conn, [device_id])[device_id]

    def status(self) -> DeviceStatus:
        return DeviceStatus(self.device().status)  # type: ignore[attr-defined]

    def came(self) -> dict[str, int]:
        """By name: how many taps show somebody at the meeting. A rebuild says the same."""
        found = []
        for rebuilds in (False, True):
            with self.engine.begin() as conn:
                if rebuilds:
                    assert rebuild_check(conn) == []
                    rebuild(conn)
                a, m = s.attendances.c, s.members.c
                found.append(
                    dict(
                        conn.execute(
                            select(m.code, a.taps)
                            .join(s.members, m.id == a.member_id)
                            .where(a.meeting_id == self.meeting)
                        ).all()
                    )
                )
        assert found[0] == found[1]
        return found[0]

    def page(self) -> object:
        with self.engine.connect() as conn:
            return meeting_attendance(conn, EVERYTHING, "会", self.now_ms, ZONE)

    def reasons(self) -> str:
        """Why nothing is concluded; nobody is ever absent without excuse."""
        page = self.page()
        assert all(each.verdict != "UNEXCUSED" for each in page.rows)  # type: ignore[attr-defined]
        return "；".join(map(str, page.reasons))  # type: ignore[attr-defined]

    def is_complete(self) -> bool:
        return bool(self.page().complete)  # type: ignore[attr-defined]

    def do(
        self, act: object, *args: object, edge: FakeEdge | None = None, now: float = 90
    ) -> object:
        with self.engine.begin() as conn:
            public_id = UUID(bytes=(edge or self.edge).edge)
            return act(conn, WHO, public_id, *args, minutes(now))  # type: ignore[operator]


@pytest.fixture
def fleet(engine: Engine) -> Iterator[Fleet]:
    yield Fleet(engine, Keyring(SigningKey.generate(), (OpeningKey.generate(),)))


# --- retire ---------------------------------------------------------------------------------------


def orders_of(fleet: Fleet) -> Orders:
    return Orders(fleet.engine, fleet.keyring.sign)


def test_an_order_goes_out_at_once_and_at_each_hello_until_it_is_carried_out(fleet: Fleet) -> None:
    orders, edge = orders_of(fleet), fleet.edge
    assert list(orders.due({})) == list(orders.due({edge.edge: True})) == []
    fleet.do(leaving.retire, WHY, now=70)
    fleet.do(leaving.retire, WHY, now=80)  # once more does nothing more
    [(to, payload)] = orders.due({})
    order = Order.open(payload, fleet.keyring.sign.public, edge.edge)
    assert (to, order.command, order.issued_ms) == (edge.edge, Command.RETIRE, minutes(70))
    assert list(orders.due({})) == list(orders.due({edge.edge: False})) == []
    assert list(orders.due({edge.edge: True})) == [(edge.edge, payload)]
    with pytest.raises(RemoteError):
        Order.open(payload, fleet.keyring.sign.public, bytes(16))
    assert fleet.status() is DeviceStatus.ACTIVE
    with fleet.engine.connect() as conn:
        done = select(s.audit.c.what).where(s.audit.c.object == "device")
        assert list(conn.scalars(done)) == ["device.retire"]


def test_it_has_left_once_its_last_word_and_all_before_it_are_here(fleet: Fleet) -> None:
    edge = fleet.edge
    edge.tap(LI, minutes(1))
    fleet.send(edge)
    fleet.do(leaving.retire, WHY, now=40)
    edge.tap(WANG, minutes(2))
    fleet.beat(edge, 41, closing=True)  # of an entry that is not here
    assert fleet.status() is DeviceStatus.ACTIVE
    fleet.send(edge)
    fleet.beat(edge, 42)
    assert fleet.status() is DeviceStatus.ACTIVE
    fleet.beat(edge, 43, closing=True)
    row = fleet.device()
    assert fleet.status() is DeviceStatus.RETIRED
    assert (row.left_ms, row.closing_seq) == (minutes(43), 3)  # type: ignore[attr-defined]
    known = fleet.known()
    assert known.is_closed
    assert known.covers(minutes(-30), minutes(1e6))
    assert fleet.came() == {"李": 1, "王": 1}
    assert "43" in fleet.reasons() or "没有登记的签到设备" in fleet.reasons()
    fleet.beat(edge, 44, closing=True)  # said again
    assert fleet.device().left_ms == minutes(43)  # type: ignore[attr-defined]


def test_a_meeting_that_ended_before_is_complete_and_later_ones_ask_for_nothing(
    fleet: Fleet,
) -> None:
    edge = fleet.edge
    edge.tap(LI, minutes(1))
    fleet.send(edge)
    fleet.do(leaving.retire, WHY, now=61)
    fleet.beat(edge, 61, closing=True)
    fleet.now_ms = minutes(10_000)
    assert fleet.is_complete()
    assert "门口" not in fleet.reasons()


def test_what_was_recorded_before_the_last_word_is_taken_and_what_came_after_is_held(
    fleet: Fleet,
) -> None:
    edge = fleet.edge
    edge.tap(LI, minutes(1))
    copy = replace_journal(edge)  # an older copy of its storage
    fleet.send(edge)
    fleet.do(leaving.retire, WHY, now=61)
    fleet.beat(edge, 61, closing=True)
    copy.reopen()
    copy.tap(WANG, minutes(2))
    assert [each.through for each in fleet.send(copy).receipts] == [2]
    assert fleet.came() == {"李": 1, "王": 1}
    copy.tap(LI, minutes(300))
    landed = fleet.send(copy, 3, at=301)
    assert (landed.held, landed.receipts, landed.entries) == (1, [], 0)
    copy.reopen()
    copy.entries.append(b"what a later version wrote")
    landed = fleet.land((copy.topic(), copy.sign(replace(copy.batch(1, 1)))), at=302)
    assert (landed.held, landed.entries) == (0, 1)  # no tap in it


def replace_journal(edge: FakeEdge) -> FakeEdge:
    """The same device with the journal as it is now."""
    import copy

    twin = copy.copy(edge)
    twin.entries, twin.digests = list(edge.entries), list(edge.digests)
    twin.sealed = dict(edge.sealed)
    return twin


def test_an_older_copy_of_a_retired_device_is_told_again(fleet: Fleet) -> None:
    fleet.do(leaving.retire, WHY, now=61)
    fleet.send(fleet.edge)
    fleet.beat(fleet.edge, 62, closing=True)
    orders = orders_of(fleet)
    assert list(orders.due({})) == []
    landed = fleet.hello(fleet.edge)
    assert landed.heard == {fleet.edge.edge: True}
    assert [edge for edge, _ in orders.due(landed.heard)] == [fleet.edge.edge]


def test_a_last_word_that_nobody_asked_for_is_believed(fleet: Fleet) -> None:
    """A hub restored from before the order: the device will record nothing, whatever it knows."""
    fleet.send(fleet.edge)
    fleet.beat(fleet.edge, 62, closing=True)
    assert fleet.status() is DeviceStatus.RETIRED


def test_a_lost_device_leaves_at_once_and_its_meetings_stay_pending(fleet: Fleet) -> None:
    edge = fleet.edge
    edge.tap(LI, minutes(1))
    fleet.send(edge)
    fleet.beat(edge, 30)
    fleet.do(leaving.give_up, WHY, now=70)
    fleet.do(leaving.give_up, WHY, now=71)
    assert fleet.device().left_ms == minutes(70)  # type: ignore[attr-defined]
    assert not fleet.is_complete()
    assert Obstacle.GONE.zh in fleet.reasons()
    # It turns up: what it held counts, what it recorded since is held, and it is told to retire.
    edge.tap(WANG, minutes(50))
    landed = fleet.send(edge, 3)
    assert [each.through for each in landed.receipts] == [3]
    assert fleet.came() == {"李": 1, "王": 1}
    assert [each for each, _ in orders_of(fleet).due(fleet.hello(edge).heard)] == [edge.edge]
    edge.reopen()
    fleet.send(edge)
    fleet.beat(edge, 95, closing=True)
    assert fleet.device().left_ms == minutes(70)  # type: ignore[attr-defined]
    assert fleet.is_complete()


def test_a_lost_device_with_taps_of_an_unknown_time_waits_for_a_person(fleet: Fleet) -> None:
    fleet.do(leaving.give_up, WHY, now=70)
    edge = fleet.edge
    edge.raw(encode_entry(ClockSample(Stamp(5, 5, trusted=False))))
    edge.tap(LI, minutes(75))
    assert fleet.send(edge, at=95).held == 1
    assert fleet.came() == {}
    assert fleet.do(leaving.admit, minutes(94), minutes(96), WHY, now=97) == 3
    assert [each.through for each in fleet.take_admitted().receipts] == [3]


def test_a_lost_device_that_is_found_completes_its_meetings_by_what_it_states(
    fleet: Fleet,
) -> None:
    edge = fleet.edge
    fleet.send(edge)
    fleet.do(leaving.give_up, WHY, now=70)
    edge.tap(LI, minutes(5))
    fleet.beat(edge, 95)  # of an entry that is still on its way
    assert not fleet.is_complete()
    fleet.send(edge, at=96)
    assert fleet.is_complete()
    assert fleet.came() == {"李": 1}
    edge.tap(WANG, minutes(97))  # since then: held, and nothing is concluded before it is looked at
    fleet.send(edge, 3, at=98)
    fleet.beat(edge, 99)
    assert fleet.came() == {"李": 1}
    assert fleet.is_complete()  # nothing of before can be missing


def test_a_thousand_entries_wait_and_none_is_lost(fleet: Fleet) -> None:
    edge = fleet.edge
    for number in range(1_000):
        edge.tap(uid(number), minutes(1))
    fleet.do(leaving.retire, WHY, now=61)
    for first, last in ((801, 1_000), (1, 400), (401, 800)):
        fleet.beat(edge, 62, closing=True)
        assert fleet.status() is DeviceStatus.ACTIVE
        fleet.send(edge, first, last)
    fleet.beat(edge, 63, closing=True)
    assert fleet.status() is DeviceStatus.ACTIVE
    fleet.send(edge, 1_001)
    fleet.beat(edge, 64, closing=True)
    assert fleet.status() is DeviceStatus.RETIRED
    assert fleet.count(s.entries) == 1_001


def test_a_compromised_device_cannot_retire_itself(fleet: Fleet) -> None:
    edge = compromised(fleet)
    landed = fleet.beat(edge, 30, closing=True)
    assert landed.rejected == {Reason.INACTIVE_DEVICE: 1}
    assert fleet.status() is DeviceStatus.COMPROMISED


# --- compromise -----------------------------------------------------------------------------------


def compromised(fleet: Fleet) -> FakeEdge:
    """李 tapped before, and that was received; 王 after."""
    edge = fleet.edge
    edge.tap(LI, minutes(1))
    fleet.send(edge, at=2)
    fleet.beat(edge, 3)
    fleet.do(leaving.compromise, minutes(10), WHY, now=20)
    return edge


def test_later_taps_give_nobody_attendance_until_they_are_admitted(fleet: Fleet) -> None:
    edge = compromised(fleet)
    edge.tap(WANG, minutes(15))
    edge.tap(LI, minutes(16))
    payload = edge.payload(3)
    for _ in range(3):
        landed = fleet.land((edge.topic(), payload), at=25)
        assert (landed.held, landed.receipts, dict(landed.rejected)) == (1, [], {})
    assert fleet.came() == {"李": 1}
    assert fleet.count(s.held_messages) == 1
    with fleet.engine.connect() as conn:
        assert conn.scalar(select(s.held_messages.c.payload)) == payload
    assert not fleet.is_complete()
    assert Obstacle.COMPROMISED.zh in fleet.reasons()

    assert fleet.do(leaving.admit, minutes(24), minutes(26), WHY) == 2
    with pytest.raises(DeviceError):
        fleet.do(leaving.admit, minutes(24), minutes(26), WHY)
    assert [(each.edge, each.through) for each in fleet.take_admitted().receipts] == [
        (edge.edge, 4)
    ]
    assert fleet.came() == {"李": 2, "王": 1}
    for _ in range(2):  # and once more changes nothing
        with pytest.raises(DeviceError):
            fleet.do(leaving.admit, minutes(24), minutes(26), WHY)
        assert not fleet.take_admitted().batches
        assert fleet.came() == {"李": 2, "王": 1}
    assert fleet.count(s.admissions) == 1
    assert [each.through for each in fleet.land((edge.topic(), payload)).receipts] == [4]
    assert not fleet.is_complete()  # taps show who came, and never who did not
    assert Obstacle.COMPROMISED.zh in fleet.reasons()


def test_what_was_taken_before_anybody_knew_counts_no_more_and_what_came_before_stays(
    fleet: Fleet,
) -> None:
    edge = fleet.edge
    edge.tap(LI, minutes(1))
    fleet.send(edge, at=2)
    fleet.beat(edge, 61)
    assert fleet.is_complete()
    edge.tap(WANG, minutes(2))
    fleet.send(edge, 3, at=62)
    fleet.beat(edge, 64)
    assert fleet.came() == {"李": 1, "王": 1}
    fleet.do(leaving.compromise, minutes(62), WHY, now=70)
    assert fleet.came() == {"李": 1}
    assert fleet.known().through_ms == minutes(61)
    assert fleet.is_complete()  # 王 was not seen by anybody when the record was complete
    fleet.do(leaving.compromise, minutes(62), WHY, now=71)
    with pytest.raises(DeviceError):
        fleet.do(leaving.compromise, minutes(65), WHY, now=71)
    fleet.do(leaving.compromise, minutes(1.5), WHY, now=72)
    assert fleet.came() == {}
    assert fleet.known().through_ms is None
    assert not fleet.is_complete()
    fleet.do(leaving.admit, minutes(1), minutes(3), WHY)
    assert fleet.came() == {"李": 1}
    fleet.do(leaving.admit, minutes(62), minutes(63), WHY)
    assert fleet.came() == {"李": 1, "王": 1}
    assert not fleet.is_complete()


def test_a_statement_from_before_does_not_cover_what_came_after(fleet: Fleet) -> None:
    """It says that entry 3 was in the journal; that came only when nothing was believed."""
    edge = fleet.edge
    edge.tap(LI, minutes(1))
    fleet.send(edge, at=2)
    fleet.beat(edge, 3)
    edge.tap(WANG, minutes(5))
    fleet.beat(edge, 61)
    fleet.send(edge, 3, at=65)
    assert fleet.is_complete()
    fleet.do(leaving.compromise, minutes(63), WHY, now=70)
    assert fleet.came() == {"李": 1}
    assert fleet.known().through_ms == minutes(3)
    assert not fleet.is_complete()


def test_its_clock_dates_nothing_any_more(fleet: Fleet) -> None:
    edge = fleet.edge
    edge.raw(encode_entry(ClockSample(Stamp(minutes(1) - 1_776_999_999_000, 5, trusted=False))))
    boot_of_tap = minutes(4) - 1_776_999_999_000
    fleet.send(edge, at=2)
    compromised_at = 10
    fleet.do(leaving.compromise, minutes(compromised_at), WHY, now=20)
    assert boot_of_tap
    landed = fleet.beat(edge, 30)
    assert landed.rejected == {Reason.INACTIVE_DEVICE: 1}
    assert fleet.count(s.heartbeats) == 0


def test_nothing_is_sent_to_it(fleet: Fleet) -> None:
    edge = compromised(fleet)
    landed = fleet.hello(edge)
    assert (landed.receipts, landed.heard) == ([], {})
    assert fleet.send(edge, 1, 2).receipts == []  # what the hub has for long
    assert list(orders_of(fleet).due({edge.edge: True})) == []


def test_a_receipt_after_an_admission_never_frees_what_was_not_admitted(fleet: Fleet) -> None:
    edge = compromised(fleet)
    edge.tap(WANG, minutes(15))
    fleet.send(edge, 3, 3, at=25)
    edge.tap(LI, minutes(16))
    fleet.send(edge, 4, 4, at=35)
    fleet.do(leaving.admit, minutes(24), minutes(26), WHY)
    [receipt] = fleet.take_admitted().receipts
    assert (receipt.through, receipt.have) == (3, ())
    for landed in (fleet.send(edge, 4, 4), fleet.hello(edge), fleet.send(edge, 3, 3)):
        assert all(isinstance(each, Receipt) and each.through == 3 for each in landed.receipts)
    assert fleet.came() == {"李": 1, "王": 1}


def test_forged_entries_do_not_take_the_place_of_honest_ones(fleet: Fleet) -> None:
    edge = compromised(fleet)
    thief = replace_journal(edge)
    thief.tap(WANG, minutes(15))
    fleet.send(thief, 3, at=25)
    edge.tap(LI, minutes(16))
    assert fleet.send(edge, 3, at=35).held == 1
    fleet.do(leaving.admit, minutes(34), minutes(36), WHY)
    fleet.take_admitted()
    assert fleet.came() == {"李": 2}
    # The other would be another entry of the same number: it stays, and says why.
    fleet.do(leaving.admit, minutes(24), minutes(26), WHY)
    assert fleet.take_admitted().rejected == {Reason.CONFLICT: 1}
    assert fleet.came() == {"李": 2}
    assert fleet.count(s.held_messages) == 1


def test_what_is_held_is_bounded(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_HELD_BYTES == 64 << 20
    edge = compromised(fleet)
    monkeypatch.setattr("hub.ingest.landing.MAX_HELD_BYTES", 2_000)
    for number in range(20):
        edge.tap(uid(number), minutes(15))
    held = sum(fleet.send(edge, seq, seq).held for seq in range(3, 23))
    assert 0 < held < 20
    assert fleet.send(edge, 3, 3).held == 1  # what is there already, is not too much
    with fleet.engine.connect() as conn:
        assert (conn.scalar(select(func.sum(func.length(s.held_messages.c.payload)))) or 0) <= 2_000


def test_damaged_and_forged_messages_are_not_held(fleet: Fleet) -> None:
    edge = compromised(fleet)
    edge.tap(WANG, minutes(15))
    payload = edge.payload(3)
    landed = fleet.land(
        (edge.topic(), payload[:-1]),
        (edge.topic(), FakeEdge(fleet.keyring.public()).payload()),
    )
    assert landed.held == 0
    assert landed.rejected.total() == 2


# --- forks ----------------------------------------------------------------------------------------


def forked(fleet: Fleet) -> tuple[FakeEdge, FakeEdge]:
    """A card was copied: both went on, 王 tapped at the copy."""
    edge = fleet.edge
    edge.tap(LI, minutes(1))
    fleet.send(edge)
    fleet.beat(edge, 2)
    copy = replace_journal(edge)
    edge.reopen()
    copy.reopen()
    copy.tap(WANG, minutes(6))
    fleet.send(edge)
    fleet.send(copy)
    fleet.beat(copy, 10)
    fleet.beat(edge, 70)
    assert fleet.known().obstacle is Obstacle.FORKED
    assert not fleet.is_complete()
    return edge, copy


def test_a_settled_fork_with_both_histories_in_hand_is_complete(fleet: Fleet) -> None:
    edge, copy = forked(fleet)
    fleet.do(leaving.settle, OtherHistory.IN_HAND, WHY, now=80)
    assert fleet.known().obstacle is None
    assert fleet.is_complete()
    assert fleet.came() == {"李": 1, "王": 1}
    with pytest.raises(DeviceError):
        fleet.do(leaving.settle, OtherHistory.LOST, WHY, now=81)
    edge.reopen(wall_ms=minutes(84))
    fleet.send(edge)
    fleet.beat(edge, 85)
    assert (fleet.known().obstacle, fleet.known().through_ms) == (None, minutes(85))
    # The copy is used again: that is another fork.
    copy.reopen(wall_ms=minutes(86))
    copy.tap(uid(5), minutes(86))
    fleet.send(copy)
    fleet.beat(edge, 88)
    assert fleet.known().obstacle is Obstacle.FORKED
    assert fleet.is_complete()  # of what was settled nothing is taken back


def test_a_lost_history_keeps_its_time_incomplete_and_the_alarm_ends(fleet: Fleet) -> None:
    edge, _ = forked(fleet)
    fleet.do(leaving.settle, OtherHistory.LOST, WHY, now=80)
    known = fleet.known()
    assert known.obstacle is None
    assert [each.is_forked for each in known.holes] == [True]
    assert not fleet.is_complete()
    assert "另一份记录已经丢失" in fleet.reasons()
    assert fleet.came() == {"李": 1, "王": 1}
    fleet.beat(edge, 85)
    assert fleet.known().through_ms == minutes(85)
    assert fleet.known().covers(minutes(81), minutes(84))


def test_a_history_that_is_not_all_here_cannot_be_said_to_be_in_hand(fleet: Fleet) -> None:
    _, copy = forked(fleet)
    copy.tap(uid(9), minutes(11))
    fleet.beat(copy, 12)
    with pytest.raises(DeviceError) as refused:
        fleet.do(leaving.settle, OtherHistory.IN_HAND, WHY, now=80)
    assert refused.value.field == "other"
    fleet.do(leaving.settle, OtherHistory.LOST, WHY, now=80)
    assert fleet.known().obstacle is None
    # It turns up after all, and counts.
    fleet.send(copy)
    assert fleet.known().obstacle is None


def test_a_copy_that_still_writes_after_it_was_settled_is_a_fork_again(fleet: Fleet) -> None:
    _, copy = forked(fleet)
    fleet.do(leaving.settle, OtherHistory.IN_HAND, WHY, now=80)
    fleet.beat(copy, 85)
    assert fleet.known().obstacle is Obstacle.FORKED


# --- names and identities ------------------------------------------------------------------------


def test_a_renamed_device_is_the_same(fleet: Fleet) -> None:
    fleet.edge.tap(LI, minutes(1))
    fleet.send(fleet.edge)
    fleet.add("另一台")
    fleet.do(leaving.rename, "大门", WHY)
    assert fleet.device().name == "大门"  # type: ignore[attr-defined]
    for name in ("另一台", " ", "x" * 65, "a\nb"):
        with pytest.raises(DeviceError) as refused:
            fleet.do(leaving.rename, name, WHY)
        assert refused.value.field == "name"
    assert fleet.came() == {"李": 1}


def test_enrolled_again_it_keeps_its_name_and_the_old_facts_stay_with_the_old(
    fleet: Fleet,
) -> None:
    old = fleet.edge
    old.tap(LI, minutes(1))
    fleet.send(old)
    with fleet.engine.begin() as conn:
        added = leaving.renew(conn, WHO, bytes(10), UUID(bytes=old.edge), WHY, minutes(90))
    assert added.name == "门口"
    assert added.public_id.bytes != old.edge
    assert fleet.device().name == "门口（旧1）"  # type: ignore[attr-defined]
    assert fleet.status() is DeviceStatus.RETIRED
    assert fleet.came() == {"李": 1}
    with fleet.engine.connect() as conn:
        at = conn.execute(
            select(s.devices.c.name, s.placements.c.valid_to_ms)
            .join(s.placements)
            .where(s.placements.c.venue_id == fleet.hall, s.placements.c.valid_from_ms >= LONG_AGO)
        ).all()
    assert ("门口", None) in [tuple(each) for each in at]
    assert ("门口（旧1）", minutes(90)) in [tuple(each) for each in at]
    with pytest.raises(DeviceError), fleet.engine.begin() as conn:
        leaving.renew(conn, WHO, bytes(10), added.public_id, WHY, minutes(91))


@pytest.mark.parametrize("reason", ["", "  ", "x" * 201, "a\x00b"])
def test_every_act_has_a_reason(fleet: Fleet, reason: str) -> None:
    for act, *args in (
        (leaving.retire,),
        (leaving.give_up,),
        (leaving.compromise, minutes(1)),
        (leaving.admit, minutes(1), minutes(2)),
        (leaving.settle, OtherHistory.LOST),
        (leaving.rename, "大门"),
    ):
        with pytest.raises(DeviceError) as refused:
            fleet.do(act, *args, reason)
        assert refused.value.field == "reason"
    assert fleet.status() is DeviceStatus.ACTIVE
    assert fleet.count(s.audit) == 0
