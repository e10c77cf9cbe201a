"""Bits rot in the journal: each becomes a gap or a withheld subject, and everything else flows.

One place after the other is spoilt, in a row of each kind and also at the ends of epochs, and what
then travels is taken as a hub takes it: chained, each epoch going on from the one before.
"""

import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge import store
from edge.store import JournalReader
from protocol.errors import RemoteError
from protocol.journal import EpochHeader, Gap, link
from tests.edge.test_store import begin, tap, witnessed

EPOCHS, TAPS = 3, 5
HEAD = TAPS + 2
PAGE_ENTRIES = 16
FLIPS = int(os.environ.get("SHUAKA_ROT_FLIPS", "250"))


def written(data: Path) -> dict[tuple[bytes, int], bytes]:
    """Makes epochs of a clock sample, taps and an action; gives their entries."""
    true = {}
    for number in range(EPOCHS):
        journal = begin(data)
        journal.append([tap(10 * number + each) for each in range(TAPS)])
        journal.append([witnessed(10 * number + 9, "M-1")])
        journal.close()
    with closing(JournalReader(data)) as reader:
        for held in reader.epochs():
            for seq, entry, _, _ in reader.entries(held.epoch):
                true[held.epoch, seq] = entry
    return true


class Taken:
    """What a hub has after everything was sent, in batches of at most `size`."""

    def __init__(self, data: Path, size: int = 500) -> None:
        self.entries: dict[tuple[bytes, int], bytes] = {}
        self.gaps: list[tuple[bytes, int, int]] = []
        self.withheld: list[tuple[bytes, int]] = []
        self.subjects = 0
        self.unknown: set[bytes] = set()
        """Epochs whose header cannot be read by anybody."""
        self.forks = 0
        before = None
        with closing(JournalReader(data)) as reader:
            for held in reader.epochs():
                first, end = max(held.first, 1), None
                while first <= held.head:
                    batch, subjects = reader.batch(
                        held.epoch, first, min(held.head, first + size - 1)
                    )
                    assert batch.first == first
                    assert end is None or end == batch.previous, "the hub sees a conflict"
                    self.withheld += [(held.epoch, seq) for seq in batch.withheld]
                    self.subjects += len(subjects)
                    for each in link(batch.first, batch.previous, batch.items):
                        end = each.digest
                        if isinstance(each.item, Gap):
                            self.gaps.append((held.epoch, each.first, each.last))
                        else:
                            self.entries[held.epoch, each.first] = each.item
                    assert reader.digest(held.epoch, batch.last) == end
                    first = batch.last + 1
                try:
                    parent = EpochHeader.decode(batch.header_bytes).parent
                except RemoteError:
                    self.unknown.add(held.epoch)
                else:
                    found = None if parent is None else (parent.epoch, parent.seq, parent.digest)
                    self.forks += found != before
                before = (held.epoch, held.head, end)


def spoilt(data: Path, column: str, epoch_id: int, seq: int, rng: random.Random, how: str) -> None:
    """Changes one value in place."""
    table, _, name = column.partition(".")
    where = {
        "entries": f"epoch_id = {epoch_id} AND seq = {seq}",
        "epochs": f"id = {epoch_id}",
        "header_copies": f"epoch = (SELECT epoch FROM epochs WHERE id = {epoch_id})",  # noqa: S608
    }[table]
    with closing(sqlite3.connect(data / store.FILE_NAME)) as db, db:
        (value,) = db.execute(f"SELECT {name} FROM {table} WHERE {where}").fetchone()  # noqa: S608
        if isinstance(value, int):
            value ^= 1 << rng.randrange(40)
        elif how == "a bit":
            at = rng.randrange(len(value))
            value = value[:at] + bytes([value[at] ^ 1 << rng.randrange(8)]) + value[at + 1 :]
        else:
            value = rng.randbytes(len(value))
        db.execute(f"UPDATE {table} SET {name} = ? WHERE {where}", (value,))  # noqa: S608
    db.close()


def places() -> Iterator[tuple[str, int, int]]:
    for epoch_id in range(1, EPOCHS + 1):
        for column in ("epochs.header", "epochs.first", "epochs.previous", "epochs.released"):
            yield column, epoch_id, 0
        yield "header_copies.header", epoch_id, 0
        yield "header_copies.released", epoch_id, 0
        for seq in (1, 2, 4, HEAD - 1, HEAD):
            yield "entries.entry", epoch_id, seq
            yield "entries.digest", epoch_id, seq
            if seq > 1:
                yield "entries.sealed", epoch_id, seq
        yield "entries.about", epoch_id, HEAD


@pytest.mark.parametrize("how", ["a bit", "all of it"])
def test_each_place_that_rots_costs_itself_at_most(tmp_path: Path, how: str) -> None:
    kept = tmp_path / "kept"
    true = written(kept)
    sound = (kept / store.FILE_NAME).read_bytes()
    rng = random.Random(7)
    for number, (column, epoch_id, seq) in enumerate(places()):
        data = tmp_path / str(number)
        data.mkdir()
        (data / store.FILE_NAME).write_bytes(sound)
        spoilt(data, column, epoch_id, seq, rng, how)
        begin(data).close()
        where = f"{column} {epoch_id} {seq}"
        taken = Taken(data, size=rng.choice((1, 2, 3, 500)))
        lost = [each for each in true if taken.entries.get(each) != true[each]]
        newest = epoch_id == EPOCHS and seq == HEAD
        match column:
            case "entries.entry":
                assert len(lost) == 1, where
                assert lost[0][1] == seq, where
                assert [each[1:] for each in taken.gaps] == [(seq, seq)], where
            case "entries.digest":
                # that of the very last entry has no witness, if nothing of it is left
                assert lost == [] or (newest and how == "all of it"), where
            case "entries.sealed" | "entries.about":
                assert lost == [], where
                assert [each[1] for each in taken.withheld] == [seq], where
            case _:
                assert lost == [], where
                assert taken.gaps == [], where
        assert taken.unknown == set(), where
        assert taken.forks == 0, where
        whole = EPOCHS * (TAPS + 2)
        assert taken.subjects >= whole - (2 if column.startswith("entries") else 0), where


@pytest.mark.parametrize("count", [1, 2, HEAD])
@pytest.mark.parametrize("epoch_id", [1, 2])
def test_the_end_of_an_epoch_that_is_lost_is_a_gap(
    tmp_path: Path, epoch_id: int, count: int
) -> None:
    true = written(tmp_path)
    with closing(sqlite3.connect(tmp_path / store.FILE_NAME)) as db, db:
        db.execute("DELETE FROM entries WHERE epoch_id = ? AND seq > ?", (epoch_id, HEAD - count))
    db.close()
    begin(tmp_path).close()
    taken = Taken(tmp_path)
    assert [each[1:] for each in taken.gaps] == [(HEAD - count + 1, HEAD)]
    assert len([each for each in true if each in taken.entries]) == EPOCHS * HEAD - count
    assert taken.forks == 0


def test_flipped_bits_anywhere_in_the_file_keep_nothing_else_from_flowing(tmp_path: Path) -> None:
    """Through the daemon's own start: the file is used, or set aside and read page by page."""
    kept = tmp_path / "kept"
    true = written(kept)
    sound = (kept / store.FILE_NAME).read_bytes()
    rng = random.Random(20_261_124)
    used = [at for at in range(len(sound)) if sound[at]]
    lost = []
    for number in range(FLIPS):
        data = tmp_path / str(number)
        data.mkdir()
        at = rng.choice(used)
        flipped = bytearray(sound)
        flipped[at] ^= 1 << rng.randrange(8)
        (data / store.FILE_NAME).write_bytes(flipped)
        try:
            begin(data).close()
        except store.JournalError as error:
            # the two numbers by which a file says that it must be left alone
            if not (at in range(60, 64) or at in range(68, 72)):
                pytest.fail(f"byte {at}: {error}")
            continue
        taken = Taken(data)
        for key, entry in taken.entries.items():
            assert true.get(key, entry) == entry, f"byte {at}: another history"
        lost.append(len([key for key in true if key not in taken.entries]))
        assert lost[-1] <= PAGE_ENTRIES, f"byte {at}: {lost[-1]} entries are lost"
    assert sum(each > 1 for each in lost) < len(lost) // 10
