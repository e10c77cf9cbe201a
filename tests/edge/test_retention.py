"""P3, P4: what goes from the journal had its receipt; no clock and no rot makes more of it go."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edge import ballast, store
from edge.store import DAY_MS, Journal, JournalReader, Retention
from protocol.journal import Stamp
from tests.edge.test_store import OWNER, begin, tap

YEARS_MS = 10 * 365 * DAY_MS


def opened(
    data: Path, days: int, boottime_ms: int = 0, wall_ms: int = 1_777_000_000_000
) -> Journal:
    now = Stamp(boottime_ms, wall_ms, trusted=True)
    return Journal.open(data, OWNER, b"b" * 16, now, Retention(days=days))


def held(data: Path) -> list[tuple[int, int, int]]:
    """(first, head, released) of each epoch."""
    with closing(JournalReader(data)) as reader:
        assert list(reader.problems()) == []
        return [(each.first, each.head, each.released) for each in reader.epochs()]


def change(data: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(data / store.FILE_NAME)) as db, db:
        db.execute(statement, values)
    db.close()


def test_what_has_a_receipt_goes_when_the_service_has_run_long_enough(tmp_path: Path) -> None:
    journal = opened(tmp_path, days=2)
    journal.append([tap(number) for number in range(9)])
    journal.release(journal.epoch, 4)
    journal.flush(1_000)
    journal.release(journal.epoch, 6)
    journal.flush(DAY_MS + 1_000)
    for days, first in [(2, 1), (3, 5), (4, 7), (400, 7)]:
        journal.flush(days * DAY_MS)
        assert held(tmp_path) == [(first, 10, 6)], days
    journal.close()


def test_the_days_of_a_device_that_is_switched_off_between_meetings_add_up(tmp_path: Path) -> None:
    first = opened(tmp_path, days=1)
    first.append([tap(1), tap(2)])
    first.release(first.epoch, 3)
    first.flush(0)
    first.close()
    spans = 0
    while len(held(tmp_path)) > spans:
        # each boot begins at nought again, and its wall clock says what it likes
        journal = opened(tmp_path, days=1, wall_ms=(-1) ** spans * YEARS_MS)
        journal.flush(DAY_MS // 4)
        journal.close()
        spans += 1
        assert spans < 20
    assert spans == 8, "two days in quarters"


@pytest.mark.parametrize("step_ms", [YEARS_MS, -3_600_000, -YEARS_MS])
def test_no_step_of_the_wall_clock_ages_anything(tmp_path: Path, step_ms: int) -> None:
    journal = opened(tmp_path, days=1)
    journal.append([tap(1)])
    journal.release(journal.epoch, 2)
    journal.flush(1_000)
    journal.close()
    journal = opened(tmp_path, days=1, wall_ms=1_777_000_000_000 + step_ms)
    journal.release(journal.epoch, 1)
    journal.flush(2_000)
    assert [each[:2] for each in held(tmp_path)] == [(1, 2), (1, 1)]
    journal.close()


def test_what_has_no_receipt_stays_whatever_its_age_and_number(tmp_path: Path) -> None:
    journal = Journal.open(
        tmp_path, OWNER, b"b" * 16, Stamp(0, 0, trusted=False), Retention(days=0, entries=0)
    )
    journal.append([tap(number) for number in range(50)])
    journal.release(journal.epoch, 10)
    for days in (1, 2, 10_000):
        journal.flush(days * DAY_MS)
        assert held(tmp_path) == [(11, 51, 10)]
    journal.close()


def test_a_restored_hub_s_journal_counts_as_received_no_more(tmp_path: Path) -> None:
    journal = opened(tmp_path, days=1)
    journal.append([tap(1), tap(2)])
    journal.release(journal.epoch, 3)
    journal.flush(0)
    journal.new_generation(2)
    journal.flush(100 * DAY_MS)
    assert held(tmp_path) == [(1, 3, 0)]
    journal.release(journal.epoch, 2)
    journal.flush(100 * DAY_MS + 1)
    journal.flush(101 * DAY_MS)
    assert held(tmp_path) == [(1, 3, 2)], "age begins anew"
    journal.flush(102 * DAY_MS)
    assert held(tmp_path) == [(3, 3, 2)]
    journal.close()


def test_much_that_may_go_goes_a_part_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PRUNE_AT_ONCE", 10)
    journal = begin(tmp_path, keep=5)
    journal.append([tap(number) for number in range(40)])
    journal.release(journal.epoch, 41)
    firsts = []
    while pruned := journal.flush():
        firsts.append(pruned[0][1])
    assert firsts == [11, 21, 31, 37]
    journal.close()


def test_where_there_is_no_room_for_a_ballast_received_entries_go_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ballast, "BALLAST_BYTES", 1 << 50)
    journal = begin(tmp_path)
    journal.append([tap(number) for number in range(5)])
    journal.release(journal.epoch, 4)
    journal.flush()
    assert held(tmp_path) == [(5, 6, 4)]
    monkeypatch.setattr(ballast, "BALLAST_BYTES", 4096)
    journal.release(journal.epoch, 5)
    journal.flush()
    assert ballast.is_there(tmp_path)
    assert held(tmp_path) == [(5, 6, 5)]
    journal.close()


@pytest.mark.parametrize("table", ["epochs", "header_copies"])
@pytest.mark.parametrize("rotten", [1 << 40, 19, -5])
def test_a_receipt_that_rot_made_is_none(tmp_path: Path, table: str, rotten: int) -> None:
    journal = begin(tmp_path, keep=0)
    journal.append([tap(number) for number in range(18)])
    journal.close()
    change(tmp_path, f"UPDATE {table} SET released = ?", rotten)  # noqa: S608
    journal = begin(tmp_path, keep=0)
    journal.flush()
    journal.release(journal.epoch, 1)
    journal.flush()
    [old, _] = held(tmp_path)
    assert old[:2] == (1, 19)
    assert old[2] <= 0
    journal.close()


@pytest.mark.parametrize("rotten", [1 << 40, 7, 0, -3, 1 << 62])
def test_a_beginning_that_rot_made_hides_no_entry(tmp_path: Path, rotten: int) -> None:
    journal = begin(tmp_path)
    journal.append([tap(number) for number in range(18)])
    journal.close()
    change(tmp_path, "UPDATE epochs SET first = ?", rotten)
    begin(tmp_path).close()
    with closing(JournalReader(tmp_path)) as reader:
        old, _ = reader.epochs()
        assert (max(old.first, 1), old.head) == (1, 19)
        batch, subjects = reader.batch(old.epoch, 1, 19)
        assert all(isinstance(item, bytes) for item in batch.items)
        assert len(subjects) == 18


def test_entries_that_are_missing_keep_nothing_from_being_pruned(tmp_path: Path) -> None:
    journal = begin(tmp_path, keep=2)
    journal.append([tap(number) for number in range(9)])
    change(tmp_path, "DELETE FROM entries WHERE seq BETWEEN 6 AND 8")
    journal.release(journal.epoch, 10)
    journal.flush()
    journal.append([tap(9)])
    with closing(JournalReader(tmp_path)) as reader:
        [each] = reader.epochs()
        assert each.first == 6
        batch, _ = reader.batch(each.epoch, each.first, each.head)
        assert batch.last == 11
    journal.close()


def test_at_random_nothing_goes_that_had_no_receipt(tmp_path: Path) -> None:
    rng = random.Random(5)
    for number in range(12):
        data = tmp_path / str(number)
        received: dict[bytes, int] = {}
        heads: dict[bytes, int] = {}
        boottime_ms = 0
        keep = Retention(days=rng.choice((0, 1, 5)), entries=rng.choice((0, 3, 50)))
        for _ in range(5):
            wall = Stamp(0, rng.randrange(1 << 45), trusted=True)
            journal = Journal.open(data, OWNER, b"b" * 16, wall, keep)
            boottime_ms = 0
            for _ in range(rng.randrange(20)):
                journal.append([tap(each) for each in range(rng.randrange(1, 5))])
                heads[journal.epoch] = journal.head
                epoch = rng.choice(list(heads))
                if rng.random() < 0.5:
                    through = rng.randint(received.get(epoch, 0), heads[epoch])
                    received[epoch] = through
                    journal.release(epoch, through)
                boottime_ms += rng.randrange(2 * DAY_MS)
                if rng.random() < 0.7:
                    journal.flush(boottime_ms)
            journal.close()
        with closing(JournalReader(data)) as reader:
            assert list(reader.problems()) == []
            found = {each.epoch: each for each in reader.epochs()}
        for epoch, head in heads.items():
            if epoch not in found:
                assert received.get(epoch, 0) == head
            else:
                assert found[epoch].first - 1 <= received.get(epoch, 0)
                assert found[epoch].head == head
