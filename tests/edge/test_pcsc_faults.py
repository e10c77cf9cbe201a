"""Faults on three PC/SC readers, from the card to the light: real pcscd, driver, recorder, journal.

At the end of every test: nothing crashed; every light that says recorded came after its tap was on
disk, and there are as many taps as readings; the journal knows when which reader was down.
tests/edge/test_pcsc.py has the driver's own faults.
"""

import itertools
import logging
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge.cards.settings import CardsSection, Plan, ProfileName, plan_of
from edge.clock import SystemClock, Trust
from edge.couriers import JournalEvent
from edge.feedback import Notice, Outcome, Standing
from edge.readers import (
    CardGone,
    Down,
    ReaderDown,
    ReaderEvent,
    ReaderUp,
    Unreadable,
)
from edge.readers.pcsc import PcscReaders
from edge.recorder import Recorder
from edge.store import JournalError, JournalReader, Owner
from protocol import journal as entries
from protocol.identity import OpeningKey
from tests.contracts.readers import EventLog, check_contract
from tests.rig import (
    Answer,
    AtrAnswerCard,
    Card,
    Pcscd,
    SilentCard,
    UidCard,
    VirtualReader,
    WrongLengthCard,
    private_dir,
    storage_card_atr,
    wait_for,
)

pytestmark = pytest.mark.servers

READERS = ("Rig 0 00 00", "Rig 1 00 00", "Rig 2 00 00")
LI, WANG = UidCard(bytes.fromhex("11223344")), UidCard(bytes.fromhex("55667788"))
CPU_FIRST = plan_of(CardsSection(profiles=(ProfileName.CPU_FILE, ProfileName.UID)))


@dataclass
class Lamp:
    """Feedback that looks into the journal at the moment of each light."""

    data: Path
    notices: list[Notice] = field(default_factory=list)
    taps_then: list[int] = field(default_factory=list)

    def show(self, notice: Notice) -> None:
        self.taps_then.append(taps_on_disk(self.data))
        self.notices.append(notice)

    def stand(self, standing: Standing, detail: str = "") -> None:
        pass

    def outcomes(self, reader: str) -> list[Outcome]:
        return [notice.outcome for notice in self.notices if notice.reader == reader]


class Nobody:
    """Listens to the recorder in the courier's place."""

    def tell(self, event: JournalEvent) -> None:
        pass


def on_disk(data: Path) -> list[entries.Entry]:
    try:
        reader = JournalReader(data)
    except JournalError:
        return []
    try:
        held = [entry for each in reader.epochs() for _, entry, _, _ in reader.entries(each.epoch)]
    finally:
        reader.close()
    return [entries.decode_entry(entry) for entry in held]


def taps_on_disk(data: Path) -> int:
    return sum(isinstance(entry, entries.Tap) for entry in on_disk(data))


class Venue:
    """Three readers, everything on the device behind them, and hands with cards."""

    def __init__(self, pcscd: Pcscd, data: Path, plan: Plan) -> None:
        self.pcscd = pcscd
        self.log = EventLog()
        self.lamp = Lamp(data)
        self.fields = [VirtualReader(port, gap_s=pcscd.gap_s) for port in pcscd.ports]
        self.readers = PcscReaders(cards=plan)
        self.recorder = Recorder(
            data,
            Owner(bytes(16), OpeningKey.generate().public),
            SystemClock(Trust.ALWAYS),
            self.lamp,
            debounce_ms=0,
            read_timeout_ms=1000,
        )

    def start(self) -> None:
        self.recorder.start(Nobody())
        self.readers.start(self._event)

    def stop(self) -> None:
        """Ends everything and holds what was shown against what is there."""
        assert self.readers.alive()
        assert self.recorder.alive()
        self.readers.stop()
        for each in self.fields:
            each.remove()
        self.recorder.stop()
        check_contract(self.log)
        lights = itertools.accumulate(notice.outcome.recorded for notice in self.lamp.notices)
        for lit, taps in zip(lights, self.lamp.taps_then, strict=True):
            assert lit <= taps
        lit = sum(notice.outcome.recorded for notice in self.lamp.notices)
        assert lit == taps_on_disk(self.lamp.data) == len(self.log.numbers())
        told = [
            (event.reader, event.reason if isinstance(event, ReaderDown) else "")
            for event in self.log.events
            if isinstance(event, (ReaderUp, ReaderDown))
        ]
        assert told == [
            (entry.reader, entry.reason if isinstance(entry, entries.ReaderDown) else "")
            for entry in on_disk(self.lamp.data)
            if isinstance(entry, (entries.ReaderUp, entries.ReaderDown))
        ]

    def _event(self, event: ReaderEvent) -> None:
        self.log(event)
        self.recorder.reader_event(event)

    def worker(self, reader: str = READERS[0]) -> int:
        process = self.readers._readers[reader.encode()]._keeper._process
        assert process is not None
        return process._popen.pid

    def until_up(self, times: int = 1, seconds: float = 10) -> None:
        for reader in READERS:
            up = ReaderUp(reader)
            self.log.wait_for(lambda events, up=up: events.count(up) >= times, seconds)

    def until_numbers(self, *numbers: str, place: int = 0, seconds: float = 5) -> None:
        reader = READERS[place]
        self.log.wait_for(lambda _: self.log.numbers(reader) == list(numbers), seconds)

    def until_unreadable(self, *reasons: Unreadable, place: int = 0) -> None:
        reader = READERS[place]
        self.log.wait_for(lambda _: self.log.unreadable(reader) == list(reasons), 3)

    def until_gone(self, times: int, place: int = 0) -> None:
        def holds(events: list[ReaderEvent]) -> bool:
            gone = [e for e in events if isinstance(e, CardGone) and e.reader == READERS[place]]
            return len(gone) == times

        self.log.wait_for(holds)


@pytest.fixture
def pcscd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pcscd]:
    with private_dir() as directory:
        daemon = Pcscd(directory, slots=3, handler=True)
        for name, value in daemon.env.items():
            monkeypatch.setenv(name, value)
        try:
            yield daemon
        finally:
            daemon.kill()


@contextmanager
def running(pcscd: Pcscd, data: Path, plan: Plan) -> Iterator[Venue]:
    venue = Venue(pcscd, data, plan)
    venue.start()
    try:
        yield venue
    finally:
        venue.stop()


@pytest.fixture
def venue(
    pcscd: Pcscd, tmp_path: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[Venue]:
    """All readers up; cards are asked by the plan that the test gives as a parameter."""
    pcscd.start()
    with running(pcscd, tmp_path, getattr(request, "param", CPU_FIRST)) as venue:
        venue.until_up()
        yield venue
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


class CpuCard:
    """A CPU card. Its public file takes four exchanges: it answers 61xx to SELECT, and 6Cxx to the
    first READ BINARY. `before` is called with the number of each exchange, from 0, before it is
    answered; what it gives is the answer in place of the card's, and None silence.
    """

    EXCHANGES = 4

    def __init__(
        self, serial: int = 7, before: Callable[[int], bytes | None] = lambda _: b""
    ) -> None:
        self.atr = storage_card_atr()
        self.number = f"{serial:020X}"
        self._before = before
        self._exchange = 0
        self._application = b""

    def answer(self, apdu: bytes) -> bytes | None:
        exchange, self._exchange = self._exchange, self._exchange + 1
        instead = self._before(exchange)
        return self._usual(apdu) if instead == b"" else instead

    def _usual(self, apdu: bytes) -> bytes:
        match apdu[1]:
            case 0xA4:
                self._application = apdu[5:7]
                self._refused = False
                return b"\x61\x05"
            case 0xC0:
                return b"\x6f\x03\x80\x01\x00\x90\x00"
            case 0xB0 if not self._refused:
                self._refused = True
                return b"\x6c\x1e"
            case 0xB0:
                serial = self.number if self._application == b"\x10\x01" else "F" + self.number[1:]
                return bytes.fromhex(f"{'A1' * 8}0101{serial}20200101204912310000") + b"\x90\x00"
        return b"\x6d\x00"


def test_two_hundred_short_taps_beside_a_reader_that_suffers(venue: Venue) -> None:
    """100 to 150 ms a tap, 200 ms between two, on two readers at once; all are recorded."""
    over = threading.Event()
    given: dict[int, list[str]] = {0: [], 1: []}

    def members(place: int) -> None:
        dice = random.Random(place)
        for n in range(100):
            uid = f"{0x10000000 * (place + 1) + n:08X}"
            given[place].append(uid)
            venue.fields[place].tap(UidCard(bytes.fromhex(uid)), 0.1 + 0.05 * dice.random())
            time.sleep(0.2)

    def third() -> None:
        misfits: list[Card] = [
            WrongLengthCard(),
            AtrAnswerCard(),
            CpuCard(before=lambda _: b"\x61\x10"),
            CpuCard(before=lambda _: b"\x6c\x04"),
            CpuCard(before=lambda _: bytes(300)),
            CpuCard(before=lambda _: b"\x90"),
            UidCard(bytes.fromhex("08A1B2C3")),
            UidCard(bytes(4)),
            SilentCard(),
        ]
        for card in itertools.cycle(misfits):
            for act in (
                lambda card=card: venue.fields[2].tap(card, 0.4),
                lambda: venue.fields[2].tap(LI, 0.15),
                lambda: venue.pcscd.unplug(2),
                lambda: venue.pcscd.replug(2),
            ):
                act()
                if over.wait(0.1):
                    venue.pcscd.replug(2)
                    return

    hands = [threading.Thread(target=members, args=(place,)) for place in given]
    trouble = threading.Thread(target=third)
    for hand in (*hands, trouble):
        hand.start()
    for hand in hands:
        hand.join()
    over.set()
    trouble.join()
    wait_for(
        lambda: len(venue.lamp.notices) >= 200 + len(venue.lamp.outcomes(READERS[2])), "lights"
    )
    for place, uids in given.items():
        assert len(uids) == 100
        assert venue.log.numbers(READERS[place]) == uids
        assert venue.log.unreadable(READERS[place]) == []
        assert venue.lamp.outcomes(READERS[place]) == [Outcome.RECORDED] * 100
        downs = [e for e in venue.log.of(READERS[place]) if isinstance(e, ReaderDown)]
        assert downs == []
    assert len(venue.log.of(READERS[2])) > 50


@pytest.mark.parametrize("moment", ["asked", "answered"])
def test_a_card_that_is_pulled_at_any_exchange(venue: Venue, moment: str) -> None:
    """Instead of its answer, or just after it; the next card is read, and so is one elsewhere."""
    numbers: list[str] = []
    reasons: list[Unreadable] = []
    elsewhere: list[str] = []
    for pulled_at in range(CpuCard.EXCHANGES):
        answers = venue.fields[0].answers

        def pull(exchange: int, pulled_at: int = pulled_at) -> bytes | None:
            if exchange != pulled_at or moment != "asked":
                return b""
            venue.fields[0].remove()
            return None

        def pulled(_: Answer, pulled_at: int = pulled_at, before: int = len(answers)) -> None:
            if moment == "answered" and len(venue.fields[0].answers) - before == pulled_at + 1:
                venue.fields[0].remove()

        card = CpuCard(serial=pulled_at + 1, before=pull)
        venue.fields[0].on_answer = pulled
        venue.fields[0].present(card)
        if moment == "answered" and pulled_at == CpuCard.EXCHANGES - 1:
            numbers.append(card.number)  # all had been said
        else:
            reasons.append(Unreadable.REMOVED)
        venue.until_numbers(*numbers)
        venue.until_unreadable(*reasons)
        venue.fields[0].on_answer = None
        for place, seen in ((0, numbers), (1, elsewhere)):
            whole = CpuCard(serial=100 + pulled_at)
            seen.append(whole.number)
            venue.fields[place].present(whole)
            venue.until_numbers(*seen, place=place)
    assert len(reasons) == CpuCard.EXCHANGES - (moment == "answered")


NONSENSE = {
    "61xx": b"\x61\x10",
    "6100": b"\x61\x00",
    "6Cxx": b"\x6c\x1e",
    "oversize": bytes(300),
    "one byte": b"\x90",
    "no data": b"\x90\x00",
    "its ATR": storage_card_atr(),
    "an error with data": bytes(30) + b"\x6f\x00",
}


def test_nonsense_from_any_exchange_on_is_no_identity(venue: Venue) -> None:
    workers = [venue.worker(reader) for reader in READERS]
    kinds = list(itertools.product(NONSENSE.items(), range(CpuCard.EXCHANGES)))
    for n in range(0, len(kinds), len(READERS)):
        for place, ((_, nonsense), first) in enumerate(kinds[n : n + len(READERS)]):
            venue.fields[place].present(CpuCard(before=_from(first, nonsense)))
        told = min(n + len(READERS), len(kinds))
        venue.log.wait_for(lambda _, told=told: len(venue.log.unreadable()) == told, 5)
        assert venue.log.numbers() == [], kinds[n : n + len(READERS)]
    for place in range(len(READERS)):
        whole = CpuCard(serial=place + 1)
        venue.fields[place].present(whole)
        venue.until_numbers(whole.number, place=place)
    # Nothing had to be ended for it.
    assert [venue.worker(reader) for reader in READERS] == workers


def _from(first: int, nonsense: bytes) -> Callable[[int], bytes]:
    return lambda exchange: nonsense if exchange >= first else b""


@pytest.mark.parametrize("exchange", [1, 3])
def test_a_card_that_falls_silent_in_the_middle(venue: Venue, exchange: int) -> None:
    """On two readers at once; the third goes on meanwhile."""
    for place in (0, 2):
        card = CpuCard(before=lambda number: None if number == exchange else b"")
        venue.fields[place].present(card)
        venue.log.wait_for(lambda _, place=place: len(venue.log.of(READERS[place])) == 2)
    for n in range(1, 4):
        venue.fields[1].present(WANG)
        venue.until_numbers(*["55667788"] * n, place=1, seconds=0.8)
        venue.fields[1].remove()
        venue.until_gone(n, place=1)
    for place in (0, 2):
        venue.until_unreadable(Unreadable.TIMEOUT, place=place)
        venue.fields[place].present(LI)
        venue.until_numbers("11223344", place=place)


@pytest.mark.parametrize("exchange", [0, 3])
def test_a_worker_that_is_killed_in_the_middle(venue: Venue, exchange: int) -> None:
    def kill(number: int) -> bytes:
        if number == exchange:
            os.kill(venue.worker(), signal.SIGKILL)
            time.sleep(0.1)
        return b""

    venue.fields[0].present(CpuCard(before=kill))
    venue.log.wait_for(lambda events: ReaderDown(READERS[0], Down.FAILED) in events, 3)
    venue.fields[1].present(WANG)
    venue.until_numbers("55667788", place=1)
    venue.log.wait_for(lambda events: events.count(ReaderUp(READERS[0])) == 2, 5)
    assert venue.log.unreadable() == [Unreadable.BAD_ANSWER]
    whole = CpuCard()
    venue.fields[0].present(whole)
    venue.until_numbers(whole.number)


def test_a_reader_that_is_unplugged_at_any_exchange(venue: Venue) -> None:
    numbers: list[str] = []
    for unplugged_at in range(CpuCard.EXCHANGES):

        def unplug(exchange: int, unplugged_at: int = unplugged_at) -> bytes | None:
            if exchange != unplugged_at:
                return b""
            venue.pcscd.unplug(0)
            venue.fields[0].remove()
            return None

        times, down = unplugged_at + 1, ReaderDown(READERS[0], Down.UNPLUGGED)
        venue.fields[0].present(CpuCard(before=unplug))
        venue.log.wait_for(lambda events, n=times, down=down: events.count(down) == n, 5)
        venue.fields[1].present(WANG)
        venue.until_numbers(*["55667788"] * times, place=1)
        venue.pcscd.replug(0)
        up = ReaderUp(READERS[0])
        venue.log.wait_for(lambda events, n=times, up=up: events.count(up) == n + 1, 10)
        whole = CpuCard(serial=times)
        numbers.append(whole.number)
        venue.fields[0].present(whole)
        venue.until_numbers(*numbers)
        assert len(venue.log.unreadable()) == times


@pytest.mark.parametrize("exchange", [0, 2])
def test_pcscd_that_is_killed_in_the_middle(venue: Venue, exchange: int) -> None:
    kill = threading.Event()

    def killing(number: int) -> bytes | None:
        if number != exchange or kill.is_set():
            return b""
        kill.set()
        os.kill(venue.pcscd.child.pid, signal.SIGKILL)
        return None

    card = CpuCard(before=killing)
    venue.fields[0].present(card)
    for reader in READERS:
        down = ReaderDown(reader, Down.NO_SERVICE)
        venue.log.wait_for(lambda events, down=down: down in events, 5)
    assert venue.log.numbers() == []
    wait_for(lambda: bool(venue.lamp.notices), "a light")
    assert venue.lamp.outcomes(READERS[0]) == [Outcome.UNREADABLE]
    venue.pcscd.kill()
    venue.pcscd.start()
    venue.until_up(times=2)
    venue.until_numbers(card.number)  # it lies there still
    venue.fields[1].present(WANG)
    venue.until_numbers("55667788", place=1)


def test_a_card_that_waits_for_pcscd_is_read_when_it_comes(pcscd: Pcscd, tmp_path: Path) -> None:
    with running(pcscd, tmp_path, CPU_FIRST) as venue:
        venue.fields[0].present(LI)
        time.sleep(1)
        assert venue.log.events == []
        pcscd.start()
        venue.until_up()
        venue.until_numbers("11223344")
        pcscd.restart()
        venue.until_up(times=2)
        venue.until_numbers("11223344", "11223344")  # for the debounce to judge
        assert venue.log.unreadable() == []


OTHER_PROGRAM = """
import sys
from smartcard.scard import *
_, context = SCardEstablishContext(SCARD_SCOPE_USER)
code, card, protocol = SCardConnect(context, sys.argv[1], SCARD_SHARE_SHARED, 3)
assert code == 0, hex(code)
if sys.argv[2] == "holds":
    assert SCardBeginTransaction(card) == 0
print("connected", flush=True)
sys.stdin.readline()
for _ in range(20):
    code, answer = SCardTransmit(card, protocol, [0x00, 0xA4, 0x00, 0x00, 0x02, 0x3F, 0x00])
    assert code == 0, hex(code)
SCardDisconnect(card, SCARD_LEAVE_CARD)
print("done", flush=True)
"""


@contextmanager
def other_program(venue: Venue, card: Card, how: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`card` lies there; another program is connected with it before our worker goes on."""
    with paused(venue.worker()):
        venue.fields[0].present(card)
        assert venue.fields[0].wait_seen()
        time.sleep(0.1)
        other = subprocess.Popen(
            [sys.executable, "-c", OTHER_PROGRAM, READERS[0], how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert other.stdout is not None
        assert other.stdout.readline() == b"connected\n"
    with other:
        try:
            yield other
        finally:
            other.kill()


@contextmanager
def paused(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_what_another_program_says_to_the_card_in_between_changes_no_identity(
    venue: Venue,
) -> None:
    """It selects another application whenever it is let in; that one's file holds other numbers."""
    begin, others_turn = threading.Event(), threading.Event()

    def slowly(number: int) -> bytes:
        if number == 0:
            begin.set()
            assert others_turn.wait(5)
            time.sleep(0.1)
        else:
            time.sleep(0.02)
        return b""

    card = CpuCard(before=slowly)
    with other_program(venue, card, "speaks") as other:
        assert begin.wait(5)
        assert other.stdin is not None
        other.stdin.write(b"\n")
        other.stdin.flush()
        others_turn.set()
        venue.until_numbers(card.number)
        assert other.stdout is not None
        assert select.select([other.stdout], [], [], 5)[0]
        assert other.stdout.readline() == b"done\n"  # nor is it kept out


def test_a_card_that_takes_anothers_place_while_a_program_holds_the_reader_is_itself(
    venue: Venue,
) -> None:
    """The worker waits for the reader with the first card in mind, and gets it with the second."""
    with other_program(venue, LI, "holds") as other:
        venue.log.wait_for(lambda _: len(venue.log.of(READERS[0])) == 2)  # up, seen
        time.sleep(0.1)
        venue.fields[0].present(WANG)
        assert venue.fields[0].wait_seen()
        time.sleep(0.05)
        other.kill()
        venue.until_numbers("55667788")
    time.sleep(0.3)
    venue.until_numbers("55667788")
    venue.until_unreadable(Unreadable.REMOVED)
