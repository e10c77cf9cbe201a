"""演练: what a device rehearses is received like anything else, and counts for nothing.

The tests try to make it count: with a member's real card, through every way of deriving, beside a
real journal, and by changing the header's mind.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, func, select, update

from hub import fleet
from hub.derive import (
    Step,
    derive_batch,
    rebuild,
    rebuild_check,
    rederive_credentials,
    rederive_devices,
    rederive_meetings,
    rederive_windows,
)
from hub.domain.terms import Outcome
from hub.ingest.landing import Landed, Landing, Message
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.clocks import samples_of
from hub.store.queries import device_completeness, meeting_attendance
from hub.store.scope import EVERYTHING
from hub.store.state import begin_generation
from hub.taps import WAITING, Asked, waiting
from protocol.credential import REHEARSAL_SCHEME, Credential
from protocol.errors import Reason
from protocol.identity import OpeningKey, SigningKey
from protocol.journal import Act, ClockSample, Gap, Parent, Stamp, chain_start, encode_entry
from protocol.topics import Up
from tests.fakes.edge import FakeEdge, uid
from tests.hub.site import ZONE, Site
from tests.hub.world import LONG_AGO, MINUTE_MS, World, district, minutes, public_id

NOW = minutes(90)
MEMBER_S = uid(77)
DERIVED = (s.readings, s.attendances, s.entries, s.actions, s.gaps, s.unopened_subjects)


@dataclass
class Venue:
    """The district, whose hall has a device that lands what it says."""

    conn: Connection
    world: World
    edge: FakeEdge
    landing: Landing
    now_ms: int = NOW

    def land(self, *messages: tuple[str, bytes]) -> Landed:
        landed = self.landing.land(self.conn, [Message(*each) for each in messages], self.now_ms)
        while derive_batch(self.conn).batches:
            pass
        return landed

    def send(self, edge: FakeEdge, first: int = 1, last: int | None = None) -> Landed:
        return self.land((edge.topic(), edge.payload(first, last)))

    def beat(self, edge: FakeEdge, wall_ms: int, *, trusted: bool = True) -> Landed:
        return self.land((edge.topic(Up.STATE), edge.heartbeat(wall_ms, trusted=trusted)))

    def count(self, table: Any) -> int:
        return self.conn.scalar(select(func.count()).select_from(table)) or 0

    def came(self) -> list[Any]:
        return list(self.conn.execute(select(s.attendances)))

    def device(self) -> fleet.Device:
        [device] = fleet.devices(self.conn, EVERYTHING, self.now_ms, ZONE, self.device_id)
        return device

    @property
    def device_id(self) -> int:
        return self.world.ids["door"]

    def rederive_all(self) -> None:
        """Every way in which something may come to count that did not before."""
        meeting = self.world.ids["会"]
        rederive_meetings(self.conn, [meeting])
        window = (self.world.ids["礼堂"], minutes(-30), minutes(60))
        rederive_windows(self.conn, [window], [meeting])
        rederive_credentials(self.conn, self.conn.scalars(select(s.credentials.c.id)).all())
        rederive_devices(self.conn, [self.device_id])
        assert rebuild_check(self.conn) == []
        rebuild(self.conn)


@pytest.fixture
def venue(engine: Engine) -> Iterator[Venue]:
    keyring = Keyring(SigningKey.generate(), (OpeningKey.generate(),))
    with engine.connect() as conn, conn.begin() as transaction:
        begin_generation(conn, NOW)
        world = district(conn)
        conn.execute(update(s.placements).values(valid_to_ms=LONG_AGO + 1))
        edge = FakeEdge(keyring.public(), "门口")
        world.ids["door"] = edge.add_to(conn)
        world.add(
            s.placements,
            device_id=world.ids["door"],
            venue_id=world.ids["礼堂"],
            valid_from_ms=LONG_AGO,
        )
        world.card("李", MEMBER_S.value)
        yield Venue(conn, world, edge, Landing(keyring))
        transaction.rollback()


def test_a_member_s_own_card_counts_in_the_journal_and_not_in_a_rehearsal(venue: Venue) -> None:
    known = venue.count(s.credentials)
    scratch = venue.edge.rehearse()
    for at in (1, 2, 5):
        scratch.tap(MEMBER_S, minutes(at))
    scratch.tap(uid(501), minutes(2))
    scratch.act(Act.OPENED, MEMBER_S, wall_ms=minutes(1))
    landed = venue.landing.land(venue.conn, [Message(scratch.topic(), scratch.payload())], NOW)
    assert derive_batch(venue.conn) == Step(0, 0, 0, ())
    [receipt] = landed.receipts
    assert (receipt.epoch, receipt.through) == (scratch.epoch, 6)
    assert receipt.digest == scratch.digests[6]
    assert not landed.rejected
    assert venue.count(s.batches) == 1
    for look in (lambda: None, venue.rederive_all):
        look()
        assert [venue.count(table) for table in DERIVED] == [0] * len(DERIVED)
        assert venue.count(s.credentials) == known
        assert all(each.first_seen_ms is None for each in venue.conn.execute(select(s.credentials)))
        for outcome in (*WAITING, Outcome.COUNTED):
            asked = Asked(outcome, 0, minutes(1e6))
            assert not waiting(venue.conn, venue.world.ids["区"], asked, NOW).lines
    # The same card in the journal does count, and binding the stranger's later finds nothing.
    venue.edge.tap(MEMBER_S, minutes(3))
    venue.send(venue.edge)
    assert len(venue.came()) == 1
    assert venue.came()[0].taps == 1
    venue.world.card("王", uid(501).value)
    venue.rederive_all()
    assert len(venue.came()) == 1
    assert venue.count(s.entries) == 2


def test_a_journal_beside_a_rehearsal_is_complete_and_not_forked(venue: Venue) -> None:
    venue.edge.tap(MEMBER_S, minutes(3))
    venue.send(venue.edge)
    venue.beat(venue.edge, minutes(80))
    before = device_completeness(venue.conn, [venue.device_id])[venue.device_id]
    assert before.through_ms == minutes(80)
    scratch = venue.edge.rehearse()
    scratch.tap(uid(1), minutes(81))
    venue.send(scratch)
    scratch.reopen()
    scratch.tap(uid(2), minutes(82))
    # The second epoch of a rehearsal has come, and what it goes on from has a hole.
    venue.send(scratch, 2, 2)
    venue.beat(scratch, minutes(95))
    assert device_completeness(venue.conn, [venue.device_id])[venue.device_id] == before
    venue.edge.reopen()
    venue.edge.tap(uid(3), minutes(84))
    venue.send(venue.edge)
    venue.beat(venue.edge, minutes(86))
    after = device_completeness(venue.conn, [venue.device_id])[venue.device_id]
    assert (after.through_ms, after.obstacle, after.holes) == (minutes(86), None, ())
    found = meeting_attendance(venue.conn, EVERYTHING, "会", NOW, ZONE)
    assert found is not None
    assert [each.complete for each in found.devices if each.name == "门口"] == [True]
    assert not any("分叉" in words for words in venue.device().troubles)


def test_a_rehearsal_s_false_clock_dates_nothing_and_is_not_the_device_s(venue: Venue) -> None:
    edge = venue.edge
    venue.send(edge)
    venue.beat(edge, NOW)
    before = replace(venue.device(), rehearsed=None)
    scratch = edge.rehearse()
    # The same boot, trusted, an hour slow: what a rehearsal does to its clock on purpose.
    header = replace(scratch.header, opened=Stamp(2000, NOW - 60 * MINUTE_MS, trusted=True))
    scratch.header, scratch.header_bytes = header, header.encode()
    assert header.boot == edge.header.boot
    rehearsed = _with_header(scratch)
    rehearsed.tap(uid(1), NOW - 60 * MINUTE_MS)
    venue.send(rehearsed)
    venue.beat(rehearsed, NOW - 50 * MINUTE_MS)
    venue.beat(rehearsed, NOW + 50 * MINUTE_MS, trusted=False)
    boot = (venue.device_id, edge.header.boot)
    samples = samples_of(venue.conn, [(boot, 0), (boot, 1 << 40)])
    assert {each.boottime_ms - each.wall_ms for each in samples[boot]} == {-1_776_999_999_000}
    assert venue.count(s.heartbeats) == 1
    device = venue.device()
    assert device.rehearsed == fleet.Rehearsed(NOW, 1)
    assert replace(device, rehearsed=None) == before


def _with_header(edge: FakeEdge) -> FakeEdge:
    """The edge, whose chain begins anew with its header as it is now."""
    edge.entries, edge.digests = [], [chain_start(edge.header_bytes)]
    edge.raw(encode_entry(ClockSample(edge.header.opened)))
    return edge


@pytest.mark.parametrize("first", ["rehearsal", "journal"])
def test_an_epoch_does_not_change_its_mind(venue: Venue, first: str) -> None:
    scratch = venue.edge.rehearse()
    scratch.tap(MEMBER_S, minutes(1))
    other = replace(scratch.header, rehearsal=False)
    taken, late = scratch, scratch.rehearse()
    for each, header in ((late, other), (taken, scratch.header)):
        each.header, each.header_bytes, each.epoch = header, header.encode(), header.epoch
        each.box = scratch.box
        _with_header(each).tap(MEMBER_S, minutes(1))
    if first == "journal":
        taken, late = late, taken
    assert not venue.send(taken).rejected
    counted = len(venue.came())
    assert counted == (first == "journal")
    landed = venue.send(late)
    assert landed.rejected == {Reason.CONFLICT: 1}
    venue.rederive_all()
    assert len(venue.came()) == counted


@pytest.mark.parametrize("seed", range(4))
def test_its_taps_are_counted_once_in_any_order(venue: Venue, seed: int) -> None:
    chance = random.Random(seed)
    scratch = venue.edge.rehearse()
    for number in range(20):
        scratch.tap(Credential(REHEARSAL_SCHEME, "", f"{number}"), minutes(number + 1))
    spans = [(first, min(21, first + chance.randrange(6))) for first in range(1, 22)] * 2
    chance.shuffle(spans)
    while spans:
        group = [spans.pop() for _ in range(min(len(spans), chance.randrange(1, 5)))]
        landed = venue.land(*((scratch.topic(), scratch.payload(*span)) for span in group))
        assert not landed.rejected
    [receipt] = landed.receipts
    assert (receipt.through, receipt.have) == (21, ())
    assert venue.device().rehearsed == fleet.Rehearsed(NOW, 20)
    assert (
        venue.count(s.credentials.select().where(s.credentials.c.scheme != "uid").subquery()) == 0
    )


def test_a_rehearsal_is_all_its_starts_and_the_last_one_is_told(venue: Venue) -> None:
    assert "还没有联系过" in venue.device().troubles[0]
    venue.now_ms = minutes(10)
    first = venue.edge.rehearse()
    first.tap(uid(1), minutes(1))
    venue.send(first)
    assert venue.device().rehearsed == fleet.Rehearsed(minutes(10), 1)
    assert "只演练过" in venue.device().troubles[0]
    assert venue.device().software is None
    venue.now_ms = minutes(20)
    second = venue.edge.rehearse()
    second.tap(uid(1), minutes(1))
    venue.send(second)
    second.reopen()
    second.tap(uid(2), minutes(1))
    second.tap(uid(3), minutes(1))
    venue.now_ms = minutes(21)
    venue.send(second)
    venue.land((second.topic(Up.HELLO), second.hello((second.epoch, 1, 3))))
    assert venue.device().rehearsed == fleet.Rehearsed(minutes(21), 3)


def test_a_stated_gap_in_a_rehearsal_is_no_hole_of_the_device(venue: Venue) -> None:
    scratch = venue.edge.rehearse()
    scratch.tap(uid(1), minutes(1))
    scratch.tap(uid(2), minutes(2))
    gap = Gap(2, 2, scratch.digests[2], "rotted")
    batch = scratch.batch(items=(scratch.entries[0], gap, scratch.entries[2]))
    landed = venue.land(
        (scratch.topic(), scratch.sign(batch)), (scratch.topic(), scratch.payload())
    )
    assert not landed.rejected
    assert landed.receipts[0].through == 3
    venue.send(venue.edge)
    venue.beat(venue.edge, minutes(80))
    known = device_completeness(venue.conn, [venue.device_id])[venue.device_id]
    assert (known.through_ms, known.holes) == (minutes(80), ())


def test_a_virtual_card_in_a_real_journal_is_kept_and_is_nobody_s(venue: Venue) -> None:
    venue.edge.tap(Credential(REHEARSAL_SCHEME, "", "7"), minutes(1))
    venue.edge.tap(MEMBER_S, minutes(2))
    landed = venue.send(venue.edge)
    assert landed.receipts[0].through == 3
    assert landed.rejected == {Reason.BROKEN_ENTRY: 1}
    assert REHEARSAL_SCHEME not in set(venue.conn.scalars(select(s.credentials.c.scheme)))
    for _ in range(2):
        for outcome in WAITING:
            asked = Asked(outcome, 0, minutes(1e6))
            assert not waiting(venue.conn, venue.world.ids["区"], asked, NOW).lines
        assert len(venue.came()) == 1
        venue.rederive_all()
    kept = venue.conn.execute(select(s.entries).where(s.entries.c.problem.is_not(None))).one()
    assert kept.body == venue.edge.entries[1]
    # Something is wrong with that device: its record is not taken for whole.
    venue.beat(venue.edge, minutes(80))
    assert device_completeness(venue.conn, [venue.device_id])[venue.device_id].holes


def test_page_and_api_tell_of_it(engine: Engine) -> None:
    site = Site(engine)
    client = site.client(token="甲")
    path = f"/api/v1/devices/{public_id('一号')}"
    assert client.get(path).json()["device"]["rehearsal"] is None
    page = f"/devices/{public_id('一号')}"
    assert "没有演练过" in site.signed_in("甲").get(page).text
    with engine.begin() as conn:
        world = site.world(conn)
        world.epoch("演", "一号")
        world.batch("演", 1, [], minutes(-10))
        which = s.epochs.c.id == world.ids["演"]
        conn.execute(update(s.epochs).where(which).values(rehearsal=True, rehearsed=12))
    [listed] = client.get("/api/v1/devices").json()["items"]
    assert listed == client.get(path).json()["device"]
    assert listed["rehearsal"] == {"at": "2026-04-24T10:56:00.000+08:00", "taps": 12}
    assert "10:56，收到12次模拟刷卡，不计入考勤" in site.signed_in("甲").get(page).text


def test_a_rehearsal_whose_epochs_come_in_another_order_is_one(venue: Venue) -> None:
    scratch = venue.edge.rehearse()
    for number in range(3):
        scratch.tap(uid(number))
    first = scratch.topic(), scratch.payload()
    scratch.reopen()
    scratch.tap(uid(9))
    venue.send(scratch)
    venue.land(first)
    assert venue.device().rehearsed == fleet.Rehearsed(NOW, 4)


def test_epochs_that_name_each_other_break_no_page(venue: Venue) -> None:
    """A device may sign what it likes."""
    scratch = venue.edge.rehearse()
    parent = Parent(scratch.epoch, 1, bytes(32))
    scratch.header = replace(scratch.header, parent=parent)
    scratch.header_bytes = scratch.header.encode()
    _with_header(scratch).tap(uid(1))
    assert not venue.send(scratch).rejected
    rehearsed = venue.device().rehearsed
    assert rehearsed is not None
    assert rehearsed.taps == 1
