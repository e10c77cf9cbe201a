"""The reader contract (edge.readers), put to every driver that there is.

A driver joins by its harness (tests.contracts.readers.Harness): an import and a line in HARNESSES.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest

from edge.readers import (
    CardGone,
    CardRead,
    CardSeen,
    CardUnreadable,
    Down,
    ReaderDown,
    ReaderEvent,
    ReaderUp,
    Unreadable,
)
from protocol.credential import Assurance, Credential
from tests.contracts.pcsc import PcscHarness
from tests.contracts.pn532 import Pn532Harness
from tests.contracts.readers import OUTCOME_S, EventLog, Harness, check_contract
from tests.contracts.simulated import SimulatedHarness
from tests.contracts.wedge import WedgeHarness
from tests.rig import wait_for

HARNESSES: Final[tuple[type[Harness], ...]] = (
    SimulatedHarness,
    PcscHarness,
    Pn532Harness,
    WedgeHarness,
)

LI, WANG, ZHAO = "11223344", "55667788", "99AABBCC"
RECOVERY_S: Final = 10.0
STOP_S: Final = 5.0


@dataclass
class Stand:
    """A driver's harness, and what the driver told."""

    harness: Harness
    log: EventLog = field(default_factory=EventLog)
    started: bool = False
    stopped: bool = False

    @property
    def places(self) -> range:
        return range(self.harness.places)

    def start(self) -> None:
        """Starts the driver and sees to it that it returns at once."""
        self.started = True
        began = time.monotonic()
        self.harness.readers.start(self.log)
        assert time.monotonic() - began < 0.5

    def stop(self) -> None:
        """Stops the driver, once, and sees to it that it takes not too long."""
        if self.started and not self.stopped:
            self.stopped = True
            began = time.monotonic()
            self.harness.readers.stop()
            assert time.monotonic() - began < STOP_S

    def of(self, place: int) -> list[ReaderEvent]:
        return self.log.of(self.harness.name(place))

    def count(self, kind: type[ReaderEvent], place: int) -> int:
        return sum(isinstance(event, kind) for event in self.of(place))

    def until(self, kind: type[ReaderEvent], place: int, times: int, seconds: float = 5) -> None:
        self.log.wait_for(lambda _: self.count(kind, place) >= times, seconds)

    def until_up(self, times: int = 1) -> None:
        for place in self.places:
            self.until(ReaderUp, place, times, RECOVERY_S)

    def until_read(self, place: int, *uids: str, seconds: float = 5) -> None:
        name = self.harness.name(place)
        self.log.wait_for(lambda _: self.log.numbers(name) == list(uids), seconds)

    def is_up(self, place: int) -> bool:
        health = self.harness.readers.health()
        return any(reader.up for reader in health.readers if reader.reader == self.name(place))

    def name(self, place: int) -> str:
        return self.harness.name(place)


@pytest.fixture
def stand(request: pytest.FixtureRequest) -> Iterator[Stand]:
    stand = Stand(request.param())
    try:
        yield stand
        if stand.started and not stand.stopped:
            assert stand.harness.readers.alive()
    finally:
        try:
            stand.stop()
            told = len(stand.log.events)
        finally:
            stand.harness.close()
    check_contract(stand.log)
    assert len(stand.log.events) == told


@pytest.fixture
def up(stand: Stand) -> Stand:
    """A started driver, all of whose readers are up."""
    stand.start()
    stand.until_up()
    return stand


def drivers(able: Callable[[type[Harness]], bool] = lambda _: True) -> pytest.MarkDecorator:
    """Runs a test for each driver that is able to undergo it."""
    return pytest.mark.parametrize(
        "stand",
        [
            pytest.param(
                kind,
                id=kind.__name__.removesuffix("Harness").lower(),
                marks=[pytest.mark.servers] if kind.needs_servers else [],
            )
            for kind in HARNESSES
            if able(kind)
        ],
        indirect=True,
    )


def boottime_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


@drivers()
def test_every_reader_is_told_and_health_agrees(stand: Stand) -> None:
    assert not stand.harness.readers.health().working
    stand.start()
    stand.until_up()
    names = {stand.name(place) for place in stand.places}
    wait_for(lambda: all(map(stand.is_up, stand.places)), "readers that are up")
    health = stand.harness.readers.health()
    assert health.working
    assert health.trouble == ""
    assert {reader.reader for reader in health.readers} == names
    assert {reader.trouble for reader in health.readers} == {""}
    assert {event.reader for event in stand.log.events} == names


@drivers()
def test_a_card_is_seen_and_read_and_gone(up: Stand) -> None:
    before = boottime_ms()
    up.harness.present(LI)
    up.until_read(0, LI)
    after = boottime_ms()
    up.harness.remove()
    up.until(CardGone, 0, 1)
    name = up.name(0)
    _, seen, *_ = events = up.of(0)
    assert isinstance(seen, CardSeen)
    generation, at_ms = seen.generation, seen.boottime_ms
    assert before <= at_ms <= after
    assert events == [
        ReaderUp(name),
        CardSeen(name, generation, at_ms),
        CardRead(name, generation, at_ms, Credential("uid", "", LI), Assurance.UID),
        CardGone(name, generation),
    ]


@drivers(lambda kind: kind.tells_leaving)
def test_a_card_that_lies_there_is_told_once(up: Stand) -> None:
    up.harness.present(LI)
    up.until_read(0, LI)
    time.sleep(1)
    assert [type(event) for event in up.of(0)] == [ReaderUp, CardSeen, CardRead]


@drivers()
def test_cards_of_one_kind_in_quick_succession_are_each_one(up: Stand) -> None:
    uids: list[str] = []
    for uid in (LI, WANG, LI, LI, ZHAO):
        up.harness.present(uid)  # in place of the last
        uids.append(uid)
        up.until_read(0, *uids)
    up.harness.remove()
    up.until(CardGone, 0, len(uids))
    generations = [event.generation for event in up.of(0) if isinstance(event, CardSeen)]
    assert len(generations) == len(set(generations)) == len(uids)


@drivers()
def test_a_card_that_takes_the_place_of_one_still_being_read_is_read(up: Stand) -> None:
    up.harness.present(LI)
    up.until(CardSeen, 0, 1)
    up.harness.present(WANG)
    up.log.wait_for(lambda _: up.log.numbers()[-1:] == [WANG], 5)
    assert up.log.numbers() in ([LI, WANG], [WANG])
    assert up.count(CardSeen, 0) == 2


@drivers(lambda kind: kind.places > 1)
def test_readers_work_at_the_same_time(up: Stand) -> None:
    up.log.slow_s = 0.003
    expected: list[list[str]] = [[] for _ in up.places]

    def hand(place: int) -> None:
        dice = random.Random(place)
        for n in range(8):
            uid = f"{0x11000000 + place * 0x10000 + n:08X}"
            up.harness.present(uid, place)
            expected[place].append(uid)
            up.until_read(place, *expected[place])
            time.sleep(dice.random() * 0.05)
            if dice.random() < 0.5:
                up.harness.remove(place)
                time.sleep(dice.random() * 0.05)

    hands = [threading.Thread(target=hand, args=(place,)) for place in up.places]
    for each in hands:
        each.start()
    for each in hands:
        each.join()
    assert [up.log.numbers(up.name(place)) for place in up.places] == expected
    assert [len(uids) for uids in expected] == [8] * len(up.places)


@drivers(lambda kind: kind.can_unplug)
@pytest.mark.parametrize("with_card", [True, False], ids=["card", "empty"])
def test_a_reader_that_is_unplugged_comes_back(up: Stand, with_card: bool) -> None:
    read: list[str] = []
    for times in (1, 2):
        if with_card:
            up.harness.present(LI)
            read.append(LI)
            up.until_read(0, *read)
        up.harness.unplug()
        up.until(ReaderDown, 0, times, RECOVERY_S)
        wait_for(lambda: not up.is_up(0), "health that knows it")
        for place in up.places[1:]:
            up.harness.present(ZHAO, place)
            up.until_read(place, *[ZHAO] * times)
            up.harness.remove(place)
            up.until(CardGone, place, times)
        up.harness.replug()
        up.until(ReaderUp, 0, times + 1, RECOVERY_S)
        wait_for(lambda: up.is_up(0), "health that knows it")
    up.harness.present(WANG)
    up.until_read(0, *read, WANG)
    assert all(up.count(ReaderDown, place) == 0 for place in up.places[1:])


@drivers(lambda kind: kind.can_unplug)
def test_it_starts_without_a_reader(stand: Stand) -> None:
    for place in stand.places:
        stand.harness.unplug(place)
    stand.start()
    time.sleep(1)
    told = [stand.count(ReaderUp, place) for place in stand.places]
    assert told == [stand.count(ReaderDown, place) for place in stand.places]
    assert len(set(told)) == 1
    health = stand.harness.readers.health()
    assert not health.working
    assert health.trouble or any(reader.trouble for reader in health.readers)
    assert stand.harness.readers.alive()
    for place in stand.places:
        stand.harness.replug(place)
    stand.until_up(told[0] + 1)
    stand.harness.present(LI)
    stand.until_read(0, LI)


@drivers(lambda kind: kind.can_fall_silent)
def test_a_silent_reader_is_nobody_elses_trouble_and_recovers(up: Stand) -> None:
    up.harness.silence()
    began = time.monotonic()
    read, over = 0, False
    while not over and time.monotonic() - began < OUTCOME_S:
        read += 1
        for place in up.places[1:]:
            up.harness.present(WANG, place)
            up.until_read(place, *[WANG] * read, seconds=1)
            up.harness.remove(place)
            up.until(CardGone, place, read, 1)
        time.sleep(0.2)
        over = up.count(CardUnreadable, 0) > 0
    assert up.count(CardRead, 0) == 0
    assert up.count(CardUnreadable, 0) == up.count(CardSeen, 0)
    up.harness.speak()
    wait_for(lambda: up.is_up(0), "a reader that is up", RECOVERY_S)
    up.harness.present(LI)
    up.until_read(0, LI)


@drivers()
@pytest.mark.parametrize("when", ["empty", "reading", "read"])
def test_nothing_is_told_after_stop(up: Stand, when: str) -> None:
    if when != "empty":
        for place in up.places:
            up.harness.present(LI, place)
    if when == "read":
        for place in up.places:
            up.until_read(place, LI)
    up.stop()
    told = list(up.log.events)
    for place in up.places:
        up.harness.present(WANG, place)
        up.harness.remove(place)
    if up.harness.can_unplug:
        up.harness.unplug()
        up.harness.replug()
    time.sleep(0.3)
    assert up.log.events == told


@drivers(lambda kind: kind.can_fall_silent)
def test_stop_does_not_wait_for_the_silent(up: Stand) -> None:
    for place in up.places:
        up.harness.silence(place)
    time.sleep(0.2)
    up.stop()
    assert all(up.count(CardRead, place) == 0 for place in up.places)


CARD = Credential("uid", "", LI)
UP, DOWN, GONE = ReaderUp("r"), ReaderDown("r", Down.FAILED), CardGone("r", 1)
SEEN, READ = CardSeen("r", 1, 5), CardRead("r", 1, 5, CARD, Assurance.UID)


@pytest.mark.parametrize(
    "events",
    [
        [DOWN],
        [UP, UP],
        [SEEN],
        [UP, READ],
        [UP, GONE],
        [UP, SEEN, SEEN],
        [UP, SEEN, GONE],
        [UP, SEEN, DOWN],
        [UP, SEEN, READ, READ],
        [UP, SEEN, READ, CardUnreadable("r", 1, 5, Unreadable.BUSY)],
        [UP, SEEN, READ, DOWN],
        [UP, SEEN, READ, GONE, GONE],
        [UP, SEEN, CardRead("r", 2, 5, CARD, Assurance.UID)],
        [UP, SEEN, CardRead("r", 1, 6, CARD, Assurance.UID)],
        [UP, SEEN, READ, CardGone("r", 2)],
        [UP, SEEN, READ, GONE, CardSeen("r", 2, 4)],
        [UP, SEEN, CardRead("other", 1, 5, CARD, Assurance.UID)],
    ],
)
def test_a_log_that_breaks_the_contract_is_found_out(events: list[ReaderEvent]) -> None:
    log = EventLog()
    for event in events:
        log(event)
    with pytest.raises(AssertionError):
        check_contract(log)


def test_overlapping_calls_and_late_outcomes_are_found_out() -> None:
    late, overlapping = EventLog(), EventLog()
    for event in (UP, SEEN, READ):
        late(event)
        overlapping(event)
    check_contract(late)
    late.at[-1] += OUTCOME_S
    with overlapping._busy:
        overlapping(GONE)
    for log in (late, overlapping):
        with pytest.raises(AssertionError):
            check_contract(log)
