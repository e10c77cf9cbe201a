"""The PC/SC driver on a real pcscd with virtual cards: what goes wrong at a door, provoked."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge.readers import CardGone, Down, ReaderDown, ReaderUp, Unreadable, supervised
from edge.readers.pcsc import PcscReaders
from tests.contracts.readers import EventLog, check_contract
from tests.rig import (
    AtrAnswerCard,
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

LI = UidCard(bytes.fromhex("11223344"))
WANG = UidCard(bytes.fromhex("55667788"))
ZHAO = UidCard(bytes.fromhex("04A1B2C3D4E5F6"))
FIRST, SECOND = "Rig 0 00 00", "Rig 1 00 00"


@dataclass
class Door:
    """A private pcscd with two readers, the driver on it, and what it told."""

    pcscd: Pcscd
    readers: PcscReaders
    log: EventLog
    fields: list[VirtualReader]

    def worker(self, reader: str = FIRST) -> int:
        """The process id of a reader's worker."""
        process = self.readers._readers[reader.encode()]._keeper._process
        assert process is not None
        return process._popen.pid

    def until_up(self, times: int = 1, seconds: float = 10) -> None:
        for reader in (FIRST, SECOND):
            up = ReaderUp(reader)
            self.log.wait_for(lambda events, up=up: events.count(up) >= times, seconds)

    def until_numbers(self, *numbers: str, reader: str | None = None, seconds: float = 5) -> None:
        self.log.wait_for(lambda _: self.log.numbers(reader) == list(numbers), seconds)

    def until_unreadable(self, *reasons: Unreadable, seconds: float = 5) -> None:
        self.log.wait_for(lambda _: self.log.unreadable() == list(reasons), seconds)


@contextmanager
def door_on(pcscd: Pcscd, **options: int) -> Iterator[Door]:
    log = EventLog()
    readers = PcscReaders(**options)
    fields = [VirtualReader(port) for port in pcscd.ports]
    readers.start(log)
    try:
        yield Door(pcscd, readers, log, fields)
    finally:
        readers.stop()
        for one in fields:
            one.remove()
        told = len(log.events)
        check_contract(log)
        assert len(log.events) == told


@pytest.fixture
def pcscd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pcscd]:
    with private_dir() as directory:
        daemon = Pcscd(directory, slots=2)
        for name, value in daemon.env.items():
            monkeypatch.setenv(name, value)
        try:
            yield daemon
        finally:
            daemon.kill()


@pytest.fixture
def door(pcscd: Pcscd) -> Iterator[Door]:
    pcscd.start()
    with door_on(pcscd) as door:
        door.until_up()
        yield door


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children_of(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_cards_are_read_on_both_readers(door: Door) -> None:
    door.fields[0].tap(LI)
    door.fields[1].tap(ZHAO)
    door.fields[0].tap(WANG)
    door.log.wait_for(lambda events: sum(isinstance(e, CardGone) for e in events) == 3)
    assert door.log.numbers(FIRST) == ["11223344", "55667788"]
    assert door.log.numbers(SECOND) == ["04A1B2C3D4E5F6"]


def test_a_card_left_lying_is_told_once(door: Door) -> None:
    door.fields[0].present(LI)
    door.until_numbers("11223344")
    time.sleep(6)  # pcscd powers a card down after five seconds
    assert door.log.numbers() == ["11223344"]
    assert not any(isinstance(event, CardGone) for event in door.log.events)


@dataclass
class Scripted:
    """Answers by `reply`; a storage card otherwise."""

    reply: Callable[[bytes], bytes | None]
    atr: bytes = field(default_factory=storage_card_atr)

    def answer(self, apdu: bytes) -> bytes | None:
        return self.reply(apdu)


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        (WrongLengthCard(), Unreadable.BAD_ANSWER),
        (AtrAnswerCard(), Unreadable.BAD_ANSWER),
        (Scripted(lambda _: b"\x61\x10"), Unreadable.BAD_ANSWER),
        (Scripted(lambda _: b"\x6c\x04"), Unreadable.BAD_ANSWER),
        (Scripted(lambda _: bytes(300)), Unreadable.BAD_ANSWER),
        (Scripted(lambda _: b"\x90"), Unreadable.BAD_ANSWER),
        (UidCard(bytes.fromhex("08A1B2C3")), Unreadable.RANDOM_NUMBER),
        (UidCard(bytes(4)), Unreadable.NO_NUMBER),
    ],
    ids=["length", "atr", "61xx", "6Cxx", "oversize", "one-byte", "phone", "zero"],
)
def test_a_card_that_is_no_identity_is_told_so_and_the_next_is_read(
    door: Door, card: Scripted | UidCard, reason: Unreadable
) -> None:
    worker = door.worker()
    door.fields[0].present(card)
    door.until_unreadable(reason, seconds=3)
    door.fields[0].present(LI)
    door.until_numbers("11223344")
    assert door.log.unreadable() == [reason]
    assert door.worker() == worker  # nothing had to be ended for it


def test_an_answer_that_makes_sense_at_the_second_try_is_taken(door: Door) -> None:
    answers = iter([storage_card_atr() + b"\x90\x00"])
    door.fields[0].present(Scripted(lambda _: next(answers, bytes.fromhex("112233449000"))))
    door.until_numbers("11223344")
    assert door.log.unreadable() == []


def test_a_silent_card_is_cut_off_and_stops_nobody_else(door: Door) -> None:
    worker = door.worker()
    door.fields[0].present(SilentCard())
    door.log.wait_for(lambda _: len(door.log.of(FIRST)) == 2)  # up, seen
    seen = time.monotonic()
    door.fields[1].present(WANG)
    door.until_numbers("55667788")
    assert time.monotonic() - seen < 0.9
    door.until_unreadable(Unreadable.TIMEOUT)
    assert 0.9 < time.monotonic() - seen < 1.6
    wait_for(lambda: not alive(worker), "end of the worker")
    time.sleep(2)
    assert door.log.unreadable() == [Unreadable.TIMEOUT]  # the card still lies there: not again
    assert ReaderDown(FIRST, Down.NOT_ANSWERING) not in door.log.events
    door.fields[0].present(LI)
    door.until_numbers("55667788", "11223344")


def test_silent_cards_one_after_the_other(door: Door) -> None:
    for n in range(1, 4):
        door.fields[0].present(SilentCard())
        door.until_unreadable(*[Unreadable.TIMEOUT] * n)
    door.fields[0].present(LI)
    door.until_numbers("11223344")
    assert door.log.unreadable() == [Unreadable.TIMEOUT] * 3


def test_a_card_pulled_in_the_middle_of_its_answer(door: Door) -> None:
    def pulled(apdu: bytes) -> None:
        door.fields[0].remove()

    door.fields[0].present(Scripted(pulled))
    door.until_unreadable(Unreadable.REMOVED, seconds=3)
    door.fields[0].present(LI)
    door.until_numbers("11223344")


@contextmanager
def paused(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_quick_swap_of_cards_of_one_kind_is_two_cards(door: Door) -> None:
    door.fields[0].present(LI)
    door.until_numbers("11223344")
    with paused(door.worker()):  # between its two looks LI goes and WANG comes
        door.fields[0].present(WANG)
        assert door.fields[0].wait_seen()
    door.until_numbers("11223344", "55667788")


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_card_that_came_and_went_between_two_looks_is_told(door: Door, earlier: int) -> None:
    for n in range(earlier):
        door.fields[0].tap(ZHAO)
        door.log.wait_for(lambda events, n=n: CardGone(FIRST, 2 * n + 1) in events)
    with paused(door.worker()):
        door.fields[0].present(LI)
        assert door.fields[0].wait_seen()
        time.sleep(0.1)
        door.fields[0].remove()
        time.sleep(0.6)
    door.until_unreadable(Unreadable.REMOVED)
    door.fields[0].present(WANG)
    door.until_numbers(*["04A1B2C3D4E5F6"] * earlier, "55667788")
    assert door.log.unreadable() == [Unreadable.REMOVED]


HOLD = """
import sys, time
from smartcard.scard import *
_, context = SCardEstablishContext(SCARD_SCOPE_USER)
code, card, _ = SCardConnect(context, sys.argv[1], int(sys.argv[2]), 3)
assert code == 0, hex(code)
if sys.argv[3] == "transaction":
    assert SCardBeginTransaction(card) == 0
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(reader: str, share: int, how: str) -> Iterator[None]:
    """Another program holds the card on `reader` (share: 1 exclusive, 2 shared)."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, reader, str(share), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            other.kill()


@pytest.mark.parametrize(
    ("share", "how", "reason"),
    [(1, "exclusive", Unreadable.BUSY), (2, "transaction", Unreadable.TIMEOUT)],
)
def test_another_program_that_holds_a_reader_stops_neither_us_nor_the_other_reader(
    door: Door, share: int, how: str, reason: Unreadable
) -> None:
    with paused(door.worker()):
        door.fields[0].present(LI)
        assert door.fields[0].wait_seen()
        time.sleep(0.1)
        holding = held(FIRST, share, how)
        holding.__enter__()
    began = time.monotonic()
    door.fields[1].present(WANG)
    door.until_numbers("55667788")
    door.until_unreadable(reason)
    assert time.monotonic() - began < 2
    holding.__exit__(None, None, None)
    door.fields[0].present(ZHAO)
    door.until_numbers("55667788", "04A1B2C3D4E5F6")


def test_a_program_that_holds_a_reader_for_a_moment_costs_no_tap(door: Door) -> None:
    with paused(door.worker()):
        door.fields[0].present(LI)
        assert door.fields[0].wait_seen()
        time.sleep(0.1)
        holding = held(FIRST, 1, "exclusive")
        holding.__enter__()
    time.sleep(0.2)
    holding.__exit__(None, None, None)
    door.until_numbers("11223344")
    assert door.log.unreadable() == []


def test_pcscd_that_starts_late(pcscd: Pcscd, caplog: pytest.LogCaptureFixture) -> None:
    with door_on(pcscd) as door:
        time.sleep(2.5)
        assert door.log.events == []
        health = door.readers.health()
        assert not health.working
        assert "systemctl start pcscd" in health.trouble
        assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
        pcscd.start()
        door.until_up()
        assert door.readers.health().trouble == ""
        door.fields[0].present(LI)
        door.until_numbers("11223344")


@pytest.mark.parametrize("ending", [Pcscd.kill, Pcscd.stop])
def test_pcscd_that_ends_and_comes_back(
    door: Door, ending: Callable[[Pcscd], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    door.fields[0].present(LI)
    door.until_numbers("11223344")
    worker = door.worker()
    ending(door.pcscd)
    door.log.wait_for(lambda events: ReaderDown(FIRST, Down.NO_SERVICE) in events, 5)
    door.log.wait_for(lambda events: ReaderDown(SECOND, Down.NO_SERVICE) in events, 5)
    door.fields[0].remove()
    time.sleep(3)
    assert not door.readers.health().working
    # Four readers (two of them unused) and the listing; first "it ended", then "it is not there".
    assert len(caplog.records) <= 10
    door.pcscd.start()
    door.until_up(times=2)
    door.fields[0].present(WANG)
    door.until_numbers("11223344", "55667788")
    assert door.worker() == worker


def test_pcscd_restarted_at_once_with_a_card_on_the_reader(door: Door) -> None:
    door.fields[0].present(LI)
    door.until_numbers("11223344")
    door.pcscd.restart()
    door.until_up(times=2)
    door.fields[1].present(WANG)
    door.until_numbers("55667788", reader=SECOND)


def test_a_service_that_comes_back_with_fewer_readers_and_then_with_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with private_dir() as directory, private_dir() as other:
        both, one = Pcscd(directory, slots=2), Pcscd(other, slots=1)
        link = directory / "link"
        link.symlink_to(both.socket_path)
        monkeypatch.setenv("PCSCLITE_CSOCK_NAME", str(link))
        with both, door_on(both) as door:
            door.until_up()
            both.stop()
            link.unlink()
            link.symlink_to(one.socket_path)
            with one:
                door.log.wait_for(lambda events: events.count(ReaderUp(FIRST)) == 2)
                wait_for(lambda: len(door.readers.health().readers) == 2, "end of the others")
                assert door.log.events.count(ReaderUp(SECOND)) == 1
            link.unlink()
            link.symlink_to(both.socket_path)
            both.start()
            door.log.wait_for(lambda events: events.count(ReaderUp(SECOND)) == 2)
            door.fields[1].present(LI)
            door.until_numbers("11223344", reader=SECOND)


def test_pcscd_that_hangs(pcscd: Pcscd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "_SILENCE_S", 3.0)
    pcscd.start()
    with door_on(pcscd) as door:
        door.until_up()
        with paused(pcscd.child.pid):
            door.log.wait_for(lambda events: ReaderDown(FIRST, Down.NOT_ANSWERING) in events)
        door.until_up(times=2)
        door.fields[0].present(LI)
        door.until_numbers("11223344")


def test_a_worker_that_is_killed_is_replaced_and_reads_no_card_twice(door: Door) -> None:
    door.fields[0].present(LI)
    door.until_numbers("11223344")
    os.kill(door.worker(), signal.SIGKILL)
    door.log.wait_for(lambda events: events.count(ReaderUp(FIRST)) == 2)
    time.sleep(0.5)
    assert door.log.numbers() == ["11223344"]
    door.fields[0].present(WANG)
    door.until_numbers("11223344", "55667788")


def test_idle_costs_next_to_nothing_with_pcscd_and_without(door: Door) -> None:
    door.fields[0].present(LI)
    door.until_numbers("11223344")
    workers = children_of(os.getpid())
    workers.remove(door.pcscd.child.pid)
    for ending in (lambda: None, door.pcscd.kill):
        ending()
        time.sleep(0.5)
        before = {pid: cpu_seconds(pid) for pid in [*workers, os.getpid()]}
        time.sleep(3)
        spent = sum(cpu_seconds(pid) - used for pid, used in before.items())
        assert spent < 0.3, f"{spent} s of CPU in 3 s by {len(before)} processes"


def test_stop_is_quick_and_leaves_no_process(door: Door) -> None:
    door.fields[0].present(SilentCard())
    door.log.wait_for(lambda _: len(door.log.of(FIRST)) == 2)
    workers = [door.worker(FIRST), door.worker(SECOND)]
    began = time.monotonic()
    door.readers.stop()
    assert time.monotonic() - began < 1
    assert not any(alive(pid) for pid in workers)
    assert door.log.unreadable() == []  # and nothing was told after stop


DAEMON = """
import time
from edge.readers.pcsc import PcscReaders
PcscReaders().start(lambda event: print(event, flush=True))
time.sleep(600)
"""


@pytest.mark.parametrize("silent", [False, True])
def test_workers_die_with_a_killed_daemon(pcscd: Pcscd, silent: bool) -> None:
    pcscd.start()
    field = VirtualReader(pcscd.ports[0])
    with subprocess.Popen([sys.executable, "-c", DAEMON], stdout=subprocess.PIPE) as daemon, field:
        assert daemon.stdout is not None
        for _ in range(4):  # two entries, and each is two readers
            assert b"ReaderUp" in daemon.stdout.readline()
        if silent:
            field.present(SilentCard())
            assert b"CardSeen" in daemon.stdout.readline()
        workers = children_of(daemon.pid)
        assert len(workers) == 5
        daemon.kill()
        wait_for(lambda: not any(map(alive, workers)), "end of the workers", 2)


def test_a_worker_ends_with_its_input_and_ignores_the_terminals_signals(pcscd: Pcscd) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "edge.readers.pcsc_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdin is not None
        worker.stdin.write(b'{"do":"list"}\n')
        worker.stdin.flush()
        assert worker.stdout is not None
        assert b"trouble" in worker.stdout.readline()  # there is no pcscd
        worker.send_signal(signal.SIGINT)
        worker.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert worker.poll() is None
        worker.stdin.close()
        assert worker.wait(2) == 0
