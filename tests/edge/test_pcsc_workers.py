"""The PC/SC supervisor against workers that misbehave; no pcscd, so each can be made to order."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import msgspec
import pytest

from edge.cards import Validity
from edge.feedback import Outcome
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
    supervised,
)
from edge.readers.lines import Gone, Listed, Read, Seen, Trouble, Unread, Working
from edge.readers.pcsc import PcscReaders
from edge.readers.pcsc_worker import News, Slot, news
from edge.readers.supervised import SupervisedReader
from protocol.credential import Assurance, Credential
from tests.contracts.readers import EventLog, check_contract
from tests.rig import wait_for

# Says what its text says: a line to print, `sleep N`, `exit N`, or `once` to go on only the first
# time; then stays. The listing worker always names one reader.
WORKER = r"""
import json, os, sys, time
told = sys.stdin.readline()
task = json.loads(told)
if task["do"] == "list":
    print(json.dumps({"is": "listed", "names": ["ZG9vcg=="]}), flush=True)
else:
    with open(sys.argv[2], "a") as starts:
        starts.write(told)
    first = len(open(sys.argv[2]).readlines()) == 1
    for step in json.loads(sys.argv[1]):
        word, _, rest = step.partition(" ")
        if word == "sleep":
            time.sleep(float(rest))
        elif word == "exit":
            sys.exit(int(rest))
        elif word == "once":
            if not first:
                break
        else:
            os.write(1, step.encode())
sys.stdin.read()
"""


# Sees a card, and with the second start of it tells each order that comes, as a lamp's trouble.
LISTENER = r"""
import json, os, sys, time
told = sys.stdin.readline()
if json.loads(told)["do"] == "list":
    print(json.dumps({"is": "listed", "names": ["ZG9vcg=="]}), flush=True)
    sys.stdin.read()
with open(sys.argv[1], "a") as starts:
    starts.write(told)
print(json.dumps({"is": "working", "counter": 1}), flush=True)
if len(open(sys.argv[1]).readlines()) == 1:
    print(json.dumps({"is": "seen", "generation": 2, "boottime_ms": 5}), flush=True)
    time.sleep(60)
for order in sys.stdin:
    print(json.dumps({"is": "lamp", "what": order.strip()}), flush=True)
"""


def line(value: object) -> str:
    return msgspec.json.encode(value).decode() + "\n"


SEEN = line(Seen(5, 1234))
READ = line(Read(5, "uid", "", "11223344", 0))
WORKING = line(Working(4))
TROUBLE = line(Trouble(Down.FAILED, "x"))
UP = ReaderUp("door")


@pytest.fixture
def starts(tmp_path: Path) -> Path:
    path = tmp_path / "starts"
    path.touch()
    return path


@contextmanager
def playing(starts: Path, *steps: str, read_timeout_ms: int = 300) -> Iterator[EventLog]:
    log = EventLog()
    readers = PcscReaders(
        read_timeout_ms=read_timeout_ms,
        worker=[sys.executable, "-c", WORKER, msgspec.json.encode(steps).decode(), str(starts)],
    )
    readers.start(log)
    try:
        yield log
    finally:
        readers.stop()
        check_contract(log)


def test_lines_become_events(starts: Path) -> None:
    steps = [WORKING, SEEN, READ, line(Gone(5, 6)), line(Seen(7, 2000))]
    steps += [line(Unread(7, Unreadable.REMOVED, "")), line(Gone(7, 8)), TROUBLE]
    with playing(starts, *steps) as log:
        log.wait_for(lambda events: len(events) == 8)
    assert log.events == [
        UP,
        CardSeen("door", 5, 1234),
        CardRead("door", 5, 1234, Credential("uid", "", "11223344"), Assurance.UID),
        CardGone("door", 5),
        CardSeen("door", 7, 2000),
        CardUnreadable("door", 7, 2000, Unreadable.REMOVED),
        CardGone("door", 7),
        ReaderDown("door", Down.FAILED),
    ]


def test_days_of_validity_go_with_a_card(starts: Path) -> None:
    valid = Validity(date(2026, 1, 1), date(2026, 12, 31))
    read = line(Read(5, "cpu-file", "0102030405060708", "0099", 1, valid))
    wrong = read.replace("2026-12-31", "2025-12-31").replace('"generation":5', '"generation":6')
    steps = [WORKING, SEEN, read, line(Gone(5, 6)), "once", line(Seen(6, 2000)), wrong]
    with playing(starts, *steps) as log:
        log.wait_for(lambda _: log.unreadable() == [Unreadable.BAD_ANSWER], 3)
    (card,) = [event for event in log.events if isinstance(event, CardRead)]
    assert (card.valid, card.assurance) == (valid, Assurance.DATA)


def test_an_outcome_that_does_not_come_is_a_timeout_told_to_the_successor(
    starts: Path,
) -> None:
    with playing(starts, WORKING, "once", SEEN) as log:
        log.wait_for(lambda _: log.unreadable() == [Unreadable.TIMEOUT], 3)
        time.sleep(0.5)
    assert log.events.count(UP) == 1
    tasks = [msgspec.json.decode(text) for text in starts.read_text().splitlines()]
    assert [(task["counter"], task["card"]) for task in tasks] == [(None, False), (5, True)]


def test_an_outcome_in_time_is_taken_however_slow(starts: Path) -> None:
    with playing(starts, WORKING, SEEN, "sleep 0.2", READ) as log:
        log.wait_for(lambda _: log.numbers() == ["11223344"], 3)
        time.sleep(0.5)
    assert log.unreadable() == []


def test_signs_of_life_do_not_prolong_the_bound(starts: Path) -> None:
    alive = ['{"is":"alive"}\n', "sleep 0.1"] * 30
    with playing(starts, WORKING, "once", SEEN, *alive) as log:
        log.wait_for(lambda _: log.unreadable() == [Unreadable.TIMEOUT], 1.5)


@pytest.mark.parametrize(
    "garbage",
    [
        "hello\n",
        "{}\n",
        '{"is":"read"}\n',
        '{"is":"alive","more":1}\n',
        "\n",
        line(Listed((b"x",))),
        "x" * 100_000,
        "\x00\n",
    ],
)
def test_a_worker_that_sends_what_none_sends_is_replaced(starts: Path, garbage: str) -> None:
    with playing(starts, WORKING, "once", SEEN, garbage) as log:
        log.wait_for(lambda events: events.count(UP) == 2, 5)
    assert log.unreadable() == [Unreadable.BAD_ANSWER]
    assert ReaderDown("door", Down.FAILED) in log.events


@pytest.mark.parametrize(
    "read",
    [
        Read(5, "uid", "", "123", 0),
        Read(5, "uid", "x", "11223344", 0),
        Read(5, "uid", "", "11223344", 9),
    ],
)
def test_an_impossible_credential_is_no_reading(starts: Path, read: Read) -> None:
    with playing(starts, WORKING, SEEN, line(read)) as log:
        log.wait_for(lambda _: log.unreadable() == [Unreadable.BAD_ANSWER], 3)


def test_an_outcome_of_another_card_is_not_taken(starts: Path) -> None:
    other = line(Read(6, "uid", "", "11223344", 0))
    with playing(starts, WORKING, "once", SEEN, other) as log:
        log.wait_for(lambda _: log.unreadable() == [Unreadable.TIMEOUT], 3)
    assert log.numbers() == []


def test_a_second_card_without_an_end_of_the_first_keeps_the_contract(starts: Path) -> None:
    with playing(starts, WORKING, SEEN, line(Seen(7, 2000)), TROUBLE) as log:
        log.wait_for(lambda events: ReaderDown("door", Down.FAILED) in events, 3)
    assert log.unreadable() == [Unreadable.BAD_ANSWER] * 2


@pytest.mark.parametrize("before", [[], [WORKING]])
def test_a_worker_that_ends_at_once_is_started_with_growing_pauses(
    starts: Path, caplog: pytest.LogCaptureFixture, before: list[str]
) -> None:
    with playing(starts, *before, "exit 3") as log:
        time.sleep(4)
    assert not any(isinstance(event, CardSeen) for event in log.events)
    assert 3 <= len(starts.read_text().splitlines()) <= 5
    said = [record.getMessage() for record in caplog.records]
    assert set(said) == {"door: its worker process ended (exit status 3); it is started anew"}
    assert before or len(said) == 1


def test_a_silent_worker_is_replaced(starts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "_SILENCE_S", 0.5)
    with playing(starts, WORKING) as log:
        log.wait_for(lambda events: events.count(UP) == 2, 5)
    assert ReaderDown("door", Down.NOT_ANSWERING) in log.events


def test_a_program_that_does_not_exist_is_said_and_stop_still_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    readers = PcscReaders(worker=["/nonexistent/worker"])
    readers.start(EventLog())
    time.sleep(0.2)
    readers.stop()
    assert "cannot be started" in caplog.text


def test_a_sink_that_raises_stops_nothing(starts: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = []

    def sink(event: object) -> None:
        told.append(event)
        raise ValueError("no")

    readers = PcscReaders(
        worker=[
            sys.executable,
            "-c",
            WORKER,
            msgspec.json.encode([WORKING, SEEN, READ]).decode(),
            str(starts),
        ]
    )
    readers.start(sink)
    deadline = time.monotonic() + 5
    while len(told) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    readers.stop()
    assert len(told) == 3


PLUGGING = r"""
import json, sys, time
told = sys.stdin.readline()
task = json.loads(told)
if task["do"] == "list":
    for names in (["ZG9vcg=="], [], ["ZG9vcg==", "ZGVzaw=="]):
        print(json.dumps({"is": "listed", "names": names}), flush=True)
        time.sleep(0.6)
else:
    print(json.dumps({"is": "working", "counter": 1}), flush=True)
    print(json.dumps({"is": "seen", "generation": 1, "boottime_ms": 5}), flush=True)
sys.stdin.read()
"""


def test_a_reader_that_is_unplugged_with_a_card_on_it_and_comes_back() -> None:
    log = EventLog()
    readers = PcscReaders(worker=[sys.executable, "-c", PLUGGING])
    readers.start(log)
    log.wait_for(lambda events: ReaderDown("door", Down.UNPLUGGED) in events)
    assert "no reader is connected" in readers.health().trouble
    log.wait_for(lambda events: events.count(UP) == 2 and ReaderUp("desk") in events)
    assert {reader.reader for reader in readers.health().readers} == {"door", "desk"}
    readers.stop()
    check_contract(log)
    assert log.of("door")[:5] == [
        UP,
        CardSeen("door", 1, 5),
        CardUnreadable("door", 1, 5, Unreadable.BAD_ANSWER),
        CardGone("door", 1),
        ReaderDown("door", Down.UNPLUGGED),
    ]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, Slot(0, card=False), News()),
        (None, Slot(7, card=True), News(came=7)),
        (Slot(0, card=False), Slot(0, card=False), News()),
        (Slot(0, card=False), Slot(1, card=True), News(came=1)),
        (Slot(1, card=True), Slot(2, card=False), News(gone=1)),
        (Slot(1, card=True), Slot(3, card=True), News(gone=1, came=3)),
        (Slot(0, card=False), Slot(2, card=False), News(missed=1)),
        (Slot(1, card=True), Slot(5, card=True), News(gone=1, missed=3, came=5)),
        (Slot(1, card=True), Slot(4, card=False), News(gone=1, missed=3)),
        (Slot(2, card=False), Slot(5, card=True), News(missed=3, came=5)),
        (Slot(65535, card=True), Slot(1, card=True), News(gone=65535, came=1)),
        (Slot(65534, card=False), Slot(0, card=False), News(missed=65535)),
        # A service that does not count: what can be seen is told.
        (Slot(0, card=False), Slot(0, card=True), News(came=0)),
        (Slot(0, card=True), Slot(0, card=False), News(gone=0)),
    ],
)
def test_news(before: Slot | None, now: Slot, expected: News) -> None:
    assert news(before, now) == expected


def _fail_once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    original = getattr(owner, name)
    left = [1]

    def failing(self: object, line: object) -> None:
        if left:
            left.pop()
            raise RuntimeError("a bug")
        original(self, line)

    monkeypatch.setattr(owner, name, failing)


def test_a_defect_in_a_reader_s_thread_is_told_and_its_cards_are_read_again(
    starts: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _fail_once(monkeypatch, SupervisedReader, "_read")
    with playing(starts, WORKING, SEEN, READ) as log:
        log.wait_for(lambda _: log.numbers() == ["11223344"], 8)
    assert [event for event in log.events if isinstance(event, (ReaderUp, ReaderDown))] == [
        UP,
        ReaderDown("door", Down.FAILED),
        UP,
    ]
    assert log.unreadable() == [Unreadable.BAD_ANSWER]
    assert "a bug" in caplog.text


def test_a_defect_in_the_listing_does_not_end_it(
    starts: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _fail_once(monkeypatch, PcscReaders, "_listed")
    with playing(starts, WORKING, SEEN, READ) as log:
        log.wait_for(lambda _: log.numbers() == ["11223344"], 8)
    assert "a bug" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("owner", [SupervisedReader, PcscReaders])
def test_a_thread_that_ends_all_the_same_is_no_life(
    starts: Path, monkeypatch: pytest.MonkeyPatch, owner: type
) -> None:
    readers = PcscReaders(
        worker=[sys.executable, "-c", WORKER, msgspec.json.encode([WORKING]).decode(), str(starts)]
    )
    log = EventLog()
    readers.start(log)
    try:
        log.wait_for(lambda events: UP in events)
        assert readers.alive()

        def end(_self: object, _line: object) -> None:
            raise SystemExit

        monkeypatch.setattr(owner, "_take" if owner is SupervisedReader else "_listed", end)
        for process in (readers._listing._process, readers._readers[b"door"]._keeper._process):
            assert process is not None
            process.kill()
        wait_for(lambda: not readers.alive(), "the end of a thread")
    finally:
        readers.stop()


def test_a_signal_for_a_worker_that_has_ended_goes_to_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = EventLog()
    readers = PcscReaders(
        read_timeout_ms=200, worker=(sys.executable, "-c", LISTENER, str(tmp_path / "starts"))
    )

    def show(event: ReaderEvent) -> None:
        log(event)
        if isinstance(event, CardUnreadable):  # its worker has been ended for it
            readers.signal(event.reader, Outcome.FAILED)
            readers.signal(event.reader, Outcome.UNREADABLE)

    def lamp() -> list[str]:
        return [each.getMessage() for each in caplog.records if "its lamp: " in each.getMessage()]

    readers.start(show)
    try:
        wait_for(lambda: len(lamp()) == 1, "a signal")
        readers.signal("door", Outcome.RECOGNISED)
        wait_for(lambda: len(lamp()) == 2, "another")
    finally:
        readers.stop()
    assert "UNREADABLE" in lamp()[0]
    assert "RECOGNISED" in lamp()[1]
    check_contract(log)
    readers.signal("door", Outcome.RECOGNISED)  # is nobody's fault after the end
