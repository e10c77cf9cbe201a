"""The recorder: what is durable before which light, and what comes after a failure.

The journal is the real one; a full disk is SQLite's own, by `PRAGMA max_page_count`.
"""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from edge import store
from edge.acts import (
    WAIT_MS,
    Again,
    Answer,
    Done,
    InvalidWishError,
    Refused,
    Unknown,
    Waiting,
    Why,
    Wish,
)
from edge.cards import Validity
from edge.couriers import Appended, JournalEvent, JournalState, Opened
from edge.feedback import (
    ALREADY_ACTED,
    ALREADY_RECOGNISED,
    ALREADY_UNKNOWN,
    OUT_OF_DATE,
    Notice,
    Outcome,
    Standing,
)
from edge.readers import CardRead, CardUnreadable, Down, ReaderDown, ReaderUp, Unreadable
from edge.recorder import MAX_GROUP, REOPEN_EVERY_MS, SETTLE_MS, STALL_MS, Recorder
from edge.status import Heard, Window
from edge.store import Journal, JournalBusyError, JournalNewerError, JournalReader, Owner
from protocol import journal as entries
from protocol.batch import MAX_READERS
from protocol.credential import Assurance, Credential, member_credential
from protocol.identity import OpeningKey
from protocol.journal import MAX_TIME_MS, Act, Action, ClockSample, Entry, Tap, decode_entry
from protocol.roster import Board, BoardQuorum, OpenMeeting, Roster, cards_of
from tests.fakes.clock import FakeClock
from tests.rig import wait_for

OWNER = Owner(bytes(16), OpeningKey.generate().public)
READ_TIMEOUT_MS = 1_500


@dataclass
class Door:
    """Feedback that looks into the journal at the moment of each light."""

    data: Path
    notices: list[Notice] = field(default_factory=list)
    taps_then: list[int] = field(default_factory=list)
    """Taps on disk when the notice of the same place was shown."""
    standings: list[Standing] = field(default_factory=list)

    def show(self, notice: Notice) -> None:
        self.taps_then.append(taps_on_disk(self.data))
        self.notices.append(notice)

    def stand(self, standing: Standing, detail: str = "") -> None:  # noqa: ARG002
        if self.standings[-1:] != [standing]:
            self.standings.append(standing)

    @property
    def outcomes(self) -> list[Outcome]:
        return [notice.outcome for notice in self.notices]


@dataclass
class Listener:
    events: list[JournalEvent] = field(default_factory=list)

    def tell(self, event: JournalEvent) -> None:
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@dataclass
class Place:
    data: Path
    clock: FakeClock = field(default_factory=FakeClock)
    listener: Listener = field(default_factory=Listener)

    def __post_init__(self) -> None:
        self.door = Door(self.data)
        self.recorder = Recorder(
            self.data,
            OWNER,
            self.clock,
            self.door,
            debounce_ms=3_000,
            read_timeout_ms=READ_TIMEOUT_MS,
        )

    def start(self) -> "Place":
        self.recorder.start(self.listener)
        return self

    def tap(self, number: int, reader: str = "r") -> None:
        self.recorder.reader_event(card(number, self.clock.boottime_ms(), reader))

    def wait(self, notices: int) -> None:
        wait_for(lambda: len(self.door.notices) >= notices, f"{notices} notices")

    def wait_idle(self) -> None:
        """Until the recorder has looked round with nothing to do."""
        before = len(self.listener.of(JournalState))
        self.recorder.ask_state()
        wait_for(lambda: len(self.listener.of(JournalState)) > before, "an answer")


def card(number: int, at_ms: int, reader: str = "r") -> CardRead:
    value = f"{0x04_0000_0000_0000 + number:014X}"
    return CardRead(reader, number, at_ms, Credential("uid", "", value), Assurance.UID)


@dataclass
class Terminal:
    """Whoever asked, and what it was told; `durable` is how many actions were on disk then."""

    data: Path
    answers: list[Answer] = field(default_factory=list)
    durable: list[int] = field(default_factory=list)
    cancel: Callable[[], None] = lambda: None

    def tell(self, answer: Answer) -> None:
        self.durable.append(len(actions_on_disk(self.data)))
        self.answers.append(answer)

    def wait(self, answers: int) -> None:
        wait_for(lambda: len(self.answers) >= answers, f"{answers} answers")


def on_disk(data: Path) -> list[Entry]:
    reader = JournalReader(data)
    try:
        return [
            decode_entry(entry)
            for held in reader.epochs()
            for _, entry, _, _ in reader.entries(held.epoch)
            if entry  # where a gap ends there is none
        ]
    finally:
        reader.close()


def taps_on_disk(data: Path) -> int:
    try:
        return sum(isinstance(entry, Tap) for entry in on_disk(data))
    except store.JournalError:
        return 0


def actions_on_disk(data: Path) -> list[Action]:
    try:
        return [entry for entry in on_disk(data) if isinstance(entry, Action)]
    except store.JournalError:
        return []


def asked(place: Place, wish: Wish) -> Terminal:
    """Somebody who asks at a place whose journal is open and whose reader works."""
    place.recorder.reader_event(ReaderUp("r"))
    place.wait_idle()
    terminal = Terminal(place.data)
    terminal.cancel = place.recorder.ask(wish, terminal.tell)
    terminal.wait(1)
    return terminal


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "data")
    yield place
    place.recorder.stop()
    assert not place.recorder.alive()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Call it with True to fill the disk under every open journal, with False to make room."""
    opened: list[sqlite3.Connection] = []
    full = False
    original = store._open

    def limit(db: sqlite3.Connection) -> None:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages if full else 1 << 30}")

    def opening(path: Path, *, create: bool) -> sqlite3.Connection:
        db = original(path, create=create)
        opened.append(db)
        limit(db)
        return db

    def fill(now: bool) -> None:
        nonlocal full
        full = now
        for db in opened:
            try:
                limit(db)
            except sqlite3.ProgrammingError:  # closed
                continue

    monkeypatch.setattr(store, "_open", opening)
    yield fill
    fill(False)


def test_recording_needs_no_transport() -> None:
    """A device that is emptied with a USB stick needs no MQTT client."""
    code = "import sys, edge.recorder; sys.exit('paho' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_light_before_the_commit(place: Place) -> None:
    place.start()
    for number in range(20):
        place.tap(number)
        place.wait(number + 1)
    assert set(place.door.outcomes) == {Outcome.RECORDED}
    assert all(seen > number for number, seen in enumerate(place.door.taps_then))


def test_what_waits_shares_a_commit_and_each_gets_its_light_after_it(place: Place) -> None:
    for number in range(200):
        place.tap(number)
    place.start()
    place.wait(200)
    assert place.door.outcomes == [Outcome.RECORDED] * 200
    assert all(seen > number for number, seen in enumerate(place.door.taps_then))
    assert len(place.listener.of(Appended)) == -(-200 // MAX_GROUP)


def test_the_same_card_soon_again_is_one_tap(place: Place) -> None:
    place.tap(1)
    place.tap(1, "other")
    place.start()
    place.tap(1)
    place.wait(3)
    assert place.door.outcomes == [Outcome.RECORDED, Outcome.ALREADY, Outcome.ALREADY]
    place.clock.advance(3_000)
    place.tap(1)
    place.wait(4)
    assert place.door.outcomes[3] is Outcome.RECORDED
    assert taps_on_disk(place.data) == 2


def test_a_meeting_that_opens_between_two_taps_gets_its_own(place: Place) -> None:
    opens_ms = place.clock.wall_ms() + 1_000
    one = OpenMeeting(0, opens_ms + 500, frozenset())
    two = OpenMeeting(opens_ms, opens_ms + 500, frozenset())
    place.recorder.new_roster(Roster(OWNER.edge, 1, bytes(16), (one, two)))
    place.start()
    place.tap(1)
    place.clock.advance(900)
    place.tap(1)  # the same meeting
    place.clock.advance(200)
    place.tap(1)  # the next has opened
    place.tap(1)
    place.wait(4)
    told = [notice.message == ALREADY_UNKNOWN for notice in place.door.notices]
    assert told == [False, True, False, True]
    assert taps_on_disk(place.data) == 2


def test_how_hard_a_card_is_to_copy_goes_with_its_tap(place: Place) -> None:
    place.start()
    for number, assurance in enumerate(Assurance):
        place.recorder.reader_event(replace(card(number, 1_000), assurance=assurance))
    place.wait(len(Assurance))
    with closing(JournalReader(place.data)) as reader:
        (epoch,) = reader.epochs()
        taps = [decode_entry(entry) for _, entry, *_ in reader.entries(epoch.epoch)]
    assert [tap.assurance for tap in taps if isinstance(tap, Tap)] == list(Assurance)


ON_THE_FIRST = datetime(2026, 7, 1, 0, 0, tzinfo=timezone(timedelta(hours=8)))


@pytest.mark.parametrize(
    ("at", "trusted", "outcome", "words"),
    [
        (ON_THE_FIRST - timedelta(milliseconds=1), True, Outcome.UNKNOWN, OUT_OF_DATE),
        (ON_THE_FIRST, True, Outcome.RECOGNISED, ""),
        (
            ON_THE_FIRST + timedelta(days=2) - timedelta(milliseconds=1),
            True,
            Outcome.RECOGNISED,
            "",
        ),
        (ON_THE_FIRST + timedelta(days=2), True, Outcome.UNKNOWN, OUT_OF_DATE),
        (ON_THE_FIRST + timedelta(days=99), False, Outcome.RECORDED, ""),
    ],
)
def test_a_card_out_of_its_dates_is_recorded_and_amber(
    place: Place, at: datetime, trusted: bool, outcome: Outcome, words: str
) -> None:
    place.clock.wall = int(at.timestamp() * 1000)
    place.clock.trust = trusted
    valid = Validity(date(2026, 7, 1), date(2026, 7, 2))
    tap = replace(card(1, place.clock.boottime_ms()), valid=valid)
    meeting = OpenMeeting(0, MAX_TIME_MS, cards_of(bytes(16), [tap.credential]))
    place.recorder.new_roster(Roster(OWNER.edge, 1, bytes(16), (meeting,)))
    place.start()
    place.recorder.reader_event(tap)
    place.recorder.reader_event(tap)
    place.wait(2)
    assert place.door.notices[0] == Notice(outcome, "r", words)
    assert place.door.taps_then[0] == taps_on_disk(place.data) == 1
    # Tapped again it is no success either.
    again = {
        Outcome.RECOGNISED: Notice(Outcome.ALREADY, "r", ALREADY_RECOGNISED),
        Outcome.UNKNOWN: Notice(Outcome.UNKNOWN, "r", ALREADY_UNKNOWN),
        Outcome.RECORDED: Notice(Outcome.ALREADY, "r"),
    }
    assert place.door.notices[1] == again[outcome]


def test_a_strange_card_that_flickers_stays_to_be_checked(place: Place) -> None:
    meeting = OpenMeeting(0, MAX_TIME_MS, frozenset())
    place.recorder.new_roster(Roster(OWNER.edge, 1, bytes(16), (meeting,)))
    place.start()
    for _ in range(3):
        place.tap(1)
        place.clock.advance(400)
    place.wait(3)
    assert place.door.outcomes == [Outcome.UNKNOWN] * 3
    assert taps_on_disk(place.data) == 1


def test_an_unreadable_card_says_why_and_is_no_entry(place: Place) -> None:
    place.start()
    place.recorder.reader_event(CardUnreadable("r", 1, 5, Unreadable.NO_NUMBER))
    place.wait(1)
    assert place.door.notices == [Notice(Outcome.UNREADABLE, "r", Unreadable.NO_NUMBER.wording)]
    assert taps_on_disk(place.data) == 0


def test_a_full_disk_shows_red_and_room_again_is_a_new_epoch(
    place: Place, disk: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    place.start()
    place.recorder.reader_event(ReaderUp("r"))
    place.tap(0)
    place.wait(1)
    disk(True)
    green = 1
    number = 0
    while place.door.outcomes[-1] is Outcome.RECORDED:  # until the last page is full
        number += 1
        place.tap(number)
        place.wait(number + 1)
        green += place.door.outcomes[-1] is Outcome.RECORDED
    assert number > 1
    assert place.door.outcomes[-1] is Outcome.FAILED
    wait_for(lambda: place.door.standings[-1] is Standing.CANNOT_RECORD, "a red door")
    assert "full" in caplog.text
    for repeat in (number, number, number + 1):
        before = len(place.door.notices)
        place.tap(repeat)
        place.wait(before + 1)
        assert place.door.outcomes[-1] is Outcome.FAILED
    assert taps_on_disk(place.data) == green

    disk(False)
    place.clock.advance(REOPEN_EVERY_MS)
    wait_for(lambda: place.door.standings[-1] is Standing.READY, "a journal again")
    assert len(place.listener.of(Opened)) == 2
    before = len(place.door.notices)
    place.tap(number)
    place.wait(before + 1)
    assert place.door.outcomes[-1] is Outcome.RECORDED, "a card that failed is no repeat"
    assert taps_on_disk(place.data) == green + 1
    reader = JournalReader(place.data)
    assert not list(reader.problems())
    reader.close()
    told = [each for each in on_disk(place.data) if not isinstance(each, (ClockSample, Tap))]
    assert [type(each) for each in told[-2:]] == [entries.ReaderDown, entries.ReaderUp]
    assert told[-2].at.boottime_ms < told[-1].at.boottime_ms, "the time without a record is stated"


def test_a_journal_that_is_deleted_under_it_shows_red_once_and_its_loss_is_stated(
    place: Place,
) -> None:
    place.start()
    place.recorder.reader_event(ReaderUp("r"))
    place.tap(1)
    place.wait(1)
    before = place.listener.of(Opened)[0]
    for path in place.data.glob("journal.db*"):
        path.unlink()
    place.tap(2)
    wait_for(lambda: Outcome.FAILED in [each.outcome for each in place.door.notices], "red")
    place.tap(3)
    wait_for(lambda: place.door.outcomes[-1] is Outcome.RECORDED, "a light again")
    assert place.door.outcomes.count(Outcome.FAILED) == 1
    with closing(JournalReader(place.data)) as reader:
        lost, now = reader.epochs()
        assert lost.epoch == before.epoch
        batch, _ = reader.batch(lost.epoch, 1, lost.head)
        [gap] = batch.items
        assert isinstance(gap, entries.Gap)
        assert (gap.first, gap.last) == (1, lost.head)
        parent = entries.EpochHeader.decode(now.header).parent
        assert parent is not None
        assert (parent.epoch, parent.seq, parent.digest) == (lost.epoch, lost.head, gap.digest)


def test_a_card_that_makes_the_code_fail_shows_red_and_the_next_is_recorded(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.start()
    original = Journal.append

    def fail(self: Journal, items: Any) -> int:
        if any(getattr(item, "reader", "") == "bad" for item in items):
            raise RuntimeError("a bug")
        return original(self, items)

    monkeypatch.setattr(Journal, "append", fail)
    place.tap(1, "bad")
    place.wait(1)
    assert place.door.outcomes == [Outcome.FAILED]
    place.clock.advance(REOPEN_EVERY_MS)
    place.tap(2)
    place.tap(1)
    place.wait(3)
    assert place.door.outcomes[1:] == [Outcome.RECORDED] * 2
    assert place.recorder.alive()


def test_it_starts_without_a_journal_and_finds_one_later(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.data.write_bytes(b"in the way")
    place.start()
    assert place.door.standings == [Standing.CANNOT_RECORD]
    assert str(place.data) in caplog.text
    place.tap(1)
    place.wait(1)
    place.data.unlink()
    place.clock.advance(REOPEN_EVERY_MS)
    place.tap(1)
    place.wait(2)
    assert place.door.outcomes == [Outcome.FAILED, Outcome.RECORDED]
    assert taps_on_disk(place.data) == 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a bug")])
def test_whatever_keeps_the_journal_from_opening_shows_red_and_ends_by_itself(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    original = store._open

    def fail(path: Path, *, create: bool) -> sqlite3.Connection:
        raise error

    monkeypatch.setattr(store, "_open", fail)
    place.start()
    assert place.door.standings == [Standing.CANNOT_RECORD]
    for number in range(3):
        place.clock.advance(REOPEN_EVERY_MS)
        place.tap(number)
        place.wait(number + 1)
    assert place.door.outcomes == [Outcome.FAILED] * 3
    assert len([each for each in caplog.records if each.levelname == "ERROR"]) == 1
    monkeypatch.setattr(store, "_open", original)
    place.clock.advance(REOPEN_EVERY_MS)
    place.tap(1)
    place.wait(4)
    assert place.door.outcomes[-1] is Outcome.RECORDED


def test_a_storage_that_does_not_answer_shows_red_until_it_does(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.start()
    place.recorder.reader_event(ReaderUp("r"))
    place.wait_idle()
    original = Journal.append
    reached, answer = threading.Event(), threading.Event()

    def hang(self: Journal, items: Any) -> int:
        reached.set()
        answer.wait(10)
        return original(self, items)

    monkeypatch.setattr(Journal, "append", hang)
    place.tap(1)
    assert reached.wait(5)
    place.recorder.watch()
    place.clock.advance(STALL_MS)
    place.recorder.watch()
    assert place.door.standings[-1] is Standing.READY
    place.clock.advance(1)
    place.recorder.watch()
    place.recorder.watch()
    assert place.door.standings[-2:] == [Standing.READY, Standing.CANNOT_RECORD]
    assert place.door.notices == []
    answer.set()
    place.wait(1)
    assert place.door.outcomes == [Outcome.RECORDED]
    wait_for(lambda: place.door.standings[-1] is Standing.READY, "a door that is ready again")
    place.clock.advance(STALL_MS + 1)
    place.recorder.watch()
    assert place.door.standings[-1] is Standing.READY, "to wait for cards is no stall"


def test_two_recorders_never_share_a_journal(place: Place) -> None:
    place.start()
    second = Place(place.data)
    with pytest.raises(JournalBusyError, match=r"journal\.db"):
        second.start()
    place.tap(1)
    place.wait(1)
    assert place.door.outcomes == [Outcome.RECORDED]
    assert len(second.listener.events) == 0


def test_a_later_journal_is_left_alone(place: Place) -> None:
    Place(place.data).start().recorder.stop()
    with closing(sqlite3.connect(place.data / "journal.db")) as db, db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(JournalNewerError):
        place.start()
    with closing(sqlite3.connect(place.data / "journal.db")) as db, db:
        db.execute(f"PRAGMA user_version = {store.SCHEMA_VERSION}")
    db.close()
    place.start()


def test_a_journal_held_by_another_program_shows_red_soon(place: Place) -> None:
    place.start()
    with closing(sqlite3.connect(place.data / "journal.db", isolation_level=None)) as other, other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        place.tap(1)
        place.wait(1)
        assert time.monotonic() - began < 4
        assert place.door.outcomes == [Outcome.FAILED]
        other.execute("ROLLBACK")
    other.close()
    place.clock.advance(REOPEN_EVERY_MS)
    place.tap(1)
    place.wait(2)
    assert place.door.outcomes[-1] is Outcome.RECORDED


@dataclass
class SteppedClock(FakeClock):
    """Steps by thirty years, and becomes trusted or ends to be so, at the `at`th question."""

    at: int = 0
    asked: int = 0

    def _ask(self) -> None:
        self.asked += 1
        if self.asked == self.at:
            self.wall += 30 * 31_557_600_000 * (-1 if self.trust else 1)
            self.trust = not self.trust

    def boottime_ms(self) -> int:
        self._ask()
        return super().boottime_ms()

    def wall_ms(self) -> int:
        self._ask()
        return super().wall_ms()

    def trusted(self) -> bool:
        self._ask()
        return super().trusted()


@pytest.mark.parametrize("trusted_first", [False, True])
@pytest.mark.parametrize("at", range(1, 8))
def test_no_wrong_time_is_called_trusted_whenever_the_clock_is_stepped(
    tmp_path: Path, at: int, trusted_first: bool
) -> None:
    clock = SteppedClock(at=at, trust=trusted_first)
    right = clock.wall
    if not trusted_first:
        clock.wall -= 30 * 31_557_600_000
    stamp = Place(tmp_path, clock).recorder._stamp(clock.boottime)
    assert not stamp.trusted or stamp.wall_ms == right
    assert stamp.boottime_ms == clock.boottime


def test_the_clock_is_noted_when_trust_changes_or_it_steps(place: Place) -> None:
    place.start()

    def samples() -> list[ClockSample]:
        return [entry for entry in on_disk(place.data) if isinstance(entry, ClockSample)]

    def wait_samples(count: int) -> None:
        wait_for(lambda: len(samples()) == count, f"{count} clock samples")

    wait_samples(1)
    place.clock.trust = False
    wait_samples(2)
    place.clock.step(-3_600_000)
    wait_samples(3)
    place.clock.step(400)
    place.clock.advance(86_400_000)
    place.wait_idle()
    time.sleep(0.7)
    assert len(samples()) == 3, "drift below a second, or mere time, is no step"
    place.clock.step(700)
    wait_samples(4)  # two small steps add up
    place.clock.trust = True
    wait_samples(5)
    assert [sample.at.trusted for sample in samples()] == [True, False, False, False, True]


def test_readers_come_and_go_in_the_journal_and_at_the_door(place: Place) -> None:
    place.start()
    place.recorder.reader_event(ReaderUp("r"))
    place.recorder.reader_event(ReaderUp("二号"))
    place.recorder.reader_event(ReaderDown("r", Down.UNPLUGGED))
    place.wait_idle()
    place.recorder.reader_event(ReaderDown("二号", Down.NO_SERVICE))
    place.wait_idle()
    assert place.door.standings == [Standing.NO_READER, Standing.READY, Standing.NO_READER]
    told = [entry for entry in on_disk(place.data) if not isinstance(entry, ClockSample)]
    assert [type(entry) for entry in told] == [
        entries.ReaderUp,
        entries.ReaderUp,
        entries.ReaderDown,
        entries.ReaderDown,
    ]
    state = place.listener.of(JournalState)[-1]
    assert {(reader.name, reader.up) for reader in state.readers} == {("r", False), ("二号", False)}


def test_readers_that_change_their_name_do_not_outgrow_a_heartbeat(place: Place) -> None:
    place.start()
    for number in range(3 * MAX_READERS):
        place.recorder.reader_event(ReaderUp(f"r {number}"))
        place.recorder.reader_event(ReaderDown(f"r {number}", Down.UNPLUGGED))
    place.recorder.reader_event(ReaderUp("r"))
    place.wait_idle()
    state = place.listener.of(JournalState)[-1]
    assert len(state.readers) <= MAX_READERS
    assert any(reader.name == "r" and reader.up for reader in state.readers)


def test_a_statement_comes_after_the_taps_it_speaks_of(place: Place) -> None:
    place.clock.advance(100_000)
    for number in range(3):
        place.tap(number)
    place.recorder.ask_state()
    place.start()
    wait_for(lambda: bool(place.listener.of(JournalState)), "a statement")
    (state,) = place.listener.of(JournalState)
    assert state.head == 4
    assert taps_on_disk(place.data) == 3
    settled = READ_TIMEOUT_MS + SETTLE_MS
    assert state.at.boottime_ms == place.clock.boottime_ms() - settled
    assert state.at.wall_ms == place.clock.wall_ms() - settled


def test_soon_after_boot_a_statement_does_not_reach_before_it(place: Place) -> None:
    place.start()
    place.wait_idle()
    (state,) = place.listener.of(JournalState)
    assert state.at.boottime_ms == 0
    assert state.at.wall_ms == place.clock.wall_ms() - place.clock.boottime_ms()


def test_the_last_statement_speaks_for_all_until_the_stop(place: Place) -> None:
    place.start()
    for number in range(5):
        place.tap(number)
    place.recorder.stop()
    state = place.listener.of(JournalState)[-1]
    assert state.at.boottime_ms == place.clock.boottime_ms()
    assert state.head == 6
    assert place.door.outcomes == [Outcome.RECORDED] * 5


def test_a_stop_without_a_journal_makes_no_statement(place: Place) -> None:
    place.data.write_bytes(b"in the way")
    place.start()
    place.recorder.stop()
    assert place.listener.of(JournalState) == []
    place.data.unlink()


def test_that_journal_and_hub_differ_is_kept_for_the_doctor(place: Place) -> None:
    place.start()
    place.recorder.alarm("beyond_head")
    place.wait_idle()
    reader = JournalReader(place.data)
    assert reader.alarm() == "beyond_head"
    reader.close()


WITNESS = Wish(Act.WITNESSED, about=member_credential("M-1"))


def test_the_card_that_comes_authorises_what_was_asked_and_is_no_tap(place: Place) -> None:
    place.start()
    terminal = asked(place, WITNESS)
    assert terminal.answers == [Waiting(30)]
    assert place.door.standings[-1] is Standing.AWAITING
    place.clock.advance(29_000)
    place.tap(7, "二号")
    terminal.wait(2)
    [action] = actions_on_disk(place.data)
    assert (action.what, action.number, action.reader) == (Act.WITNESSED, None, "二号")
    assert action.at.boottime_ms == place.clock.boottime_ms()
    assert action.about is not None
    assert taps_on_disk(place.data) == 0
    done = terminal.answers[1]
    assert isinstance(done, Done)
    assert bytes.fromhex(done.epoch) == place.listener.of(Opened)[-1].epoch
    assert terminal.durable == [0, 1], "it is durable before the command says so"
    assert place.door.notices == [Notice(Outcome.ACTED, "二号", "已记录：现场证明")]
    assert place.door.standings[-1] is Standing.READY
    assert place.listener.of(Appended)[-1].head == done.seq
    place.tap(8)
    place.wait(2)
    assert place.door.outcomes[-1] is Outcome.RECORDED
    assert taps_on_disk(place.data) == 1


def test_a_card_that_has_just_checked_in_authorises_all_the_same(place: Place) -> None:
    place.start()
    place.tap(1)
    place.wait(1)
    terminal = asked(place, Wish(Act.HEAD_COUNT, 23))
    place.tap(1)
    terminal.wait(2)
    assert isinstance(terminal.answers[1], Done)
    assert place.door.outcomes == [Outcome.RECORDED, Outcome.ACTED]
    assert [action.number for action in actions_on_disk(place.data)] == [23]
    # and again, for the next one, within the same seconds
    terminal = asked(place, Wish(Act.CLOSED))
    place.tap(1)
    terminal.wait(2)
    assert [action.what for action in actions_on_disk(place.data)] == [Act.HEAD_COUNT, Act.CLOSED]
    assert taps_on_disk(place.data) == 1


def test_a_card_that_acted_is_no_check_in_at_once_is_told_so_and_is_one_later(
    place: Place,
) -> None:
    place.start()
    terminal = asked(place, Wish(Act.OPENED))
    place.tap(1)
    terminal.wait(2)
    place.clock.advance(100)
    place.tap(1)
    place.wait(2)
    assert place.door.notices[-1] == Notice(Outcome.ACTED, "r", ALREADY_ACTED)
    assert taps_on_disk(place.data) == 0
    place.clock.advance(3_000)
    place.tap(1)
    place.wait(3)
    assert place.door.outcomes[-1] is Outcome.RECORDED
    assert taps_on_disk(place.data) == 1


def test_a_card_that_was_there_before_the_question_authorises_nothing(place: Place) -> None:
    place.start()
    seen = place.clock.boottime_ms()
    place.clock.advance(10)
    terminal = asked(place, WITNESS)
    place.recorder.reader_event(card(1, seen))
    place.wait(1)
    assert place.door.outcomes == [Outcome.RECORDED]
    assert terminal.answers == [Waiting(30)]
    place.tap(2)
    terminal.wait(2)
    assert isinstance(terminal.answers[1], Done)


def test_who_comes_second_is_refused_and_the_first_goes_on(place: Place) -> None:
    place.start()
    first = asked(place, WITNESS)
    second = asked(place, Wish(Act.OPENED))
    assert second.answers == [Refused(Why.BUSY)]
    second.cancel()
    place.wait_idle()
    place.tap(1)
    first.wait(2)
    assert isinstance(first.answers[1], Done)
    assert [action.what for action in actions_on_disk(place.data)] == [Act.WITNESSED]


def test_no_card_in_time_records_nothing_and_a_later_one_is_a_tap(place: Place) -> None:
    place.start()
    terminal = asked(place, WITNESS)
    place.clock.advance(WAIT_MS + 1)
    late = card(1, place.clock.boottime_ms())
    place.recorder.reader_event(late)
    terminal.wait(2)
    assert terminal.answers[1] == Refused(Why.TIMED_OUT)
    place.wait(1)
    assert place.door.outcomes == [Outcome.RECORDED]
    assert place.door.standings[-1] is Standing.READY
    assert actions_on_disk(place.data) == []


def test_time_runs_out_without_any_card(place: Place) -> None:
    place.start()
    terminal = asked(place, WITNESS)
    place.clock.advance(WAIT_MS + 1)
    terminal.wait(2)
    assert terminal.answers[1] == Refused(Why.TIMED_OUT)


def test_what_was_cancelled_is_not_recorded(place: Place) -> None:
    place.start()
    terminal = asked(place, WITNESS)
    terminal.cancel()
    terminal.wait(2)
    assert terminal.answers[1] == Refused(Why.CANCELLED)
    assert place.door.standings[-1] is Standing.READY
    place.tap(1)
    place.wait(1)
    assert (taps_on_disk(place.data), actions_on_disk(place.data)) == (1, [])
    terminal.cancel()
    place.wait_idle()
    assert len(terminal.answers) == 2


def test_a_card_that_could_not_be_read_may_try_again(place: Place) -> None:
    place.start()
    terminal = asked(place, WITNESS)
    place.recorder.reader_event(CardUnreadable("r", 1, 5, Unreadable.REMOVED))
    terminal.wait(2)
    assert terminal.answers[1] == Again(Unreadable.REMOVED.wording)
    place.tap(1)
    terminal.wait(3)
    assert isinstance(terminal.answers[2], Done)


def test_without_a_reader_or_a_journal_nobody_waits(place: Place) -> None:
    place.data.write_bytes(b"in the way")
    place.start()
    terminal = Terminal(place.data)
    place.recorder.ask(WITNESS, terminal.tell)
    terminal.wait(1)
    [refused] = terminal.answers
    assert isinstance(refused, Refused)
    assert refused.why is Why.CANNOT_RECORD
    assert str(place.data) in refused.words
    place.data.unlink()
    place.clock.advance(REOPEN_EVERY_MS)
    place.recorder.ask(WITNESS, terminal.tell)
    terminal.wait(2)
    assert terminal.answers[1] == Refused(Why.NO_READER)


def test_an_action_on_a_full_disk_shows_red_and_is_not_half_done(
    place: Place, disk: Callable[[bool], None]
) -> None:
    place.start()
    terminal = asked(place, WITNESS)
    disk(True)
    number = 0
    while place.door.outcomes[-1:] != [Outcome.FAILED]:
        terminal = asked(place, WITNESS)
        number += 1
        place.tap(number)
        place.wait(number)
    terminal.wait(1)
    wait_for(lambda: isinstance(terminal.answers[-1], Unknown), "an answer")
    unknown = terminal.answers[-1]
    assert isinstance(unknown, Unknown)
    assert "not known whether it was recorded" in unknown.words
    assert "full" in unknown.words
    wait_for(lambda: place.door.standings[-1] is Standing.CANNOT_RECORD, "a red door")
    written = len(actions_on_disk(place.data))
    disk(False)
    place.clock.advance(REOPEN_EVERY_MS)
    wait_for(lambda: place.door.standings[-1] is Standing.READY, "a journal again")
    terminal = asked(place, WITNESS)
    place.tap(number)
    terminal.wait(2)
    assert isinstance(terminal.answers[1], Done)
    assert len(actions_on_disk(place.data)) == written + 1


def test_a_bug_while_it_is_recorded_leaves_nobody_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.start()
    terminal = asked(place, WITNESS)

    def fail(*_: Any) -> int:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", fail)
        place.tap(1)
        terminal.wait(2)
    assert terminal.answers[1] == Unknown()
    assert place.door.outcomes == [Outcome.FAILED]
    assert place.door.standings[-1] is Standing.READY
    terminal = asked(place, WITNESS)
    place.tap(1)
    terminal.wait(2)
    assert isinstance(terminal.answers[1], Done)


def test_an_action_that_was_written_before_the_journal_failed_is_not_said_to_be_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.start()
    terminal = asked(place, Wish(Act.HEAD_COUNT, 23))
    append = Journal.append

    def fail(journal: Journal, items: Any) -> int:
        append(journal, items)
        raise store.JournalError("bad sector")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", fail)
        place.tap(1)
        terminal.wait(2)
    assert terminal.answers[1] == Unknown("bad sector")
    assert [action.number for action in actions_on_disk(place.data)] == [23]
    [notice] = place.door.notices
    assert notice == Notice(Outcome.FAILED, "r", "不能确定是否已记录：清点人数 23，请联系工作人员")


def test_a_stop_tells_who_waits(place: Place) -> None:
    place.start()
    terminal = asked(place, WITNESS)
    place.recorder.stop()
    assert terminal.answers == [Waiting(30), Refused(Why.STOPPING)]


@pytest.mark.parametrize(
    ("what", "number", "about"),
    [
        (Act.OPENED, 1, None),
        (Act.CLOSED, None, member_credential("M-1")),
        (Act.HEAD_COUNT, None, None),
        (Act.HEAD_COUNT, -1, None),
        (Act.HEAD_COUNT, 100_001, None),
        (Act.HEAD_COUNT, 1, member_credential("M-1")),
        (Act.WITNESSED, None, None),
        (Act.WITNESSED, None, Credential("uid", "", "04A1B2C3")),
    ],
)
def test_what_no_journal_could_hold_is_not_asked(
    what: Act, number: int | None, about: Credential | None
) -> None:
    with pytest.raises(InvalidWishError):
        Wish(what, number, about)


# --- what a screen may ask ------------------------------------------------------------------------


def board(present: int) -> Board:
    return Board("甲支部 党课", 1_782_900_600_000, 42, present, BoardQuorum.NOT_ASKED)


def told(place: Place, *meetings: OpenMeeting) -> None:
    place.recorder.new_roster(Roster(OWNER.edge, 77, bytes(16), meetings))
    place.wait_idle()


def test_the_status_tells_readers_and_what_the_hub_said_with_its_age(place: Place) -> None:
    place.start()
    window = place.clock.wall - 1_000, place.clock.wall + 60_000
    told(place, OpenMeeting(*window, frozenset({b"12345678"}), board(7)))
    place.recorder.reader_event(ReaderDown("r", Down.UNPLUGGED))
    place.recorder.reader_event(ReaderUp("s"))
    place.clock.advance(90_000)
    place.wait_idle()
    status = place.recorder.status()
    assert status.heard == Heard((Window(*window, board(7)),), 77, 1_000)
    assert status.boottime_ms - status.heard.boottime_ms == 90_000
    assert [(each.name, each.up) for each in status.readers] == [("r", False), ("s", True)]
    assert (status.failure, status.stalled, status.clock_trusted) == ("", False, True)
    place.clock.trust = False
    place.clock.step(5_000_000)
    again = place.recorder.status()
    assert not again.clock_trusted
    assert again.boottime_ms - again.heard.boottime_ms == 90_000, "no step moves an age"


def test_taps_are_counted_from_when_check_in_opened(place: Place) -> None:
    place.start()
    counted: list[int | None] = [place.recorder.status().taps]
    for number in (1, 2, 2):  # the third repeats
        place.tap(number)
    place.wait(3)
    place.wait_idle()
    counted.append(place.recorder.status().taps)
    opens = place.clock.wall + 10_000
    told(place, OpenMeeting(opens, opens + 60_000, frozenset()))
    counted.append(place.recorder.status().taps)
    place.clock.advance(10_000)
    counted.append(place.recorder.status().taps)
    place.tap(3)
    place.wait(4)
    place.wait_idle()
    counted.append(place.recorder.status().taps)
    place.clock.advance(61_000)
    counted.append(place.recorder.status().taps)
    assert counted == [0, 2, None, 0, 1, None]


def test_the_status_says_why_nothing_is_recorded_and_does_not_wait_for_the_storage(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.start()
    entered, going = threading.Event(), threading.Event()

    def hang(_journal: Journal, _items: Any) -> int:
        entered.set()
        assert going.wait(10)
        raise store.JournalError("bad sector")

    monkeypatch.setattr(Journal, "append", hang)
    place.tap(1)
    assert entered.wait(5)
    place.clock.advance(STALL_MS + 1)
    place.recorder.watch()
    began = time.monotonic()
    assert place.recorder.status().stalled
    assert time.monotonic() - began < 1
    going.set()
    wait_for(lambda: place.recorder.status().failure == "bad sector", "the reason")
    wait_for(lambda: not place.recorder.status().stalled, "an answer of the storage")
    assert place.recorder.status().taps == 0


def test_the_status_knows_no_card(place: Place) -> None:
    place.start()
    told(place, OpenMeeting(0, place.clock.wall + 60_000, frozenset({b"12345678"}), board(7)))
    place.tap(0x1234)
    place.wait(1)
    shown = repr(place.recorder.status())
    assert "甲支部 党课" in shown
    assert "12345678" not in shown
    assert card(0x1234, 0).credential.value not in shown


def test_it_ends_with_no_thread_and_no_file_left(tmp_path: Path) -> None:
    def files() -> set[str]:
        found = set()
        for path in Path("/proc/self/fd").iterdir():
            try:
                found.add(str(path.readlink()))
            except OSError:
                continue
        return {name for name in found if str(tmp_path) in name}

    for _ in range(20):
        place = Place(tmp_path / "data").start()
        place.tap(1)
        place.recorder.stop()
        assert place.door.outcomes == [Outcome.RECORDED]
    assert not files()
    assert not [thread for thread in threading.enumerate() if thread.name == "recorder"]
    assert taps_on_disk(tmp_path / "data") == 20
