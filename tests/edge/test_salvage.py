"""What can be read of a damaged journal goes on to the hub, chained, with its holes stated."""

import random
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from edge import store
from edge.store import (
    Journal,
    JournalBusyError,
    JournalError,
    JournalReader,
    NewTap,
    Owner,
    salvage_into,
)
from protocol.credential import Assurance, Credential
from protocol.journal import Action, EpochHeader, Gap, ReaderDown, Tap, decode_entry, link
from tests.edge.test_store import HUB, NOW, OWNER, begin, numbers, tap, uid, witnessed

PAGE = 4096


def written(data: Path, epochs: int = 3, taps: int = 60) -> list[Journal]:
    """Journals of some epochs, closed."""
    done = []
    for epoch in range(epochs):
        journal = begin(data)
        for number in range(0, taps, 2):
            journal.append([tap(1000 * epoch + number), tap(1000 * epoch + number + 1)])
        journal.append([witnessed(1000 * epoch + 999, "党员-7")])
        journal.close()
        done.append(journal)
    return done


def sent(data: Path) -> tuple[dict[bytes, tuple[int, bytes]], int, list[tuple[int, int]]]:
    """As a hub takes it: where each epoch ends, how many entries came, and which gaps."""
    ends, entries, gaps = {}, 0, []
    with closing(JournalReader(data)) as reader:
        for held in reader.epochs():
            first, end = held.first, None
            while first <= held.head:
                batch, _ = reader.batch(held.epoch, first, held.head)
                assert batch.first == first
                if end is not None:
                    assert batch.previous == end
                for each in link(batch.first, batch.previous, batch.items):
                    end = each.digest
                    if isinstance(each.item, Gap):
                        gaps.append((each.item.first, each.item.last))
                    else:
                        entries += 1
                first = batch.last + 1
            assert end is not None
            ends[held.epoch] = (held.head, end)
    return ends, entries, gaps


def ends_of(journals: list[Journal]) -> dict[bytes, tuple[int, bytes]]:
    return {each.epoch: (each.head, each.digest) for each in journals}


def is_one_line(data: Path) -> bool:
    """Whether each epoch goes on where the one before ended: a hub sees no fork."""
    ends, _, _ = sent(data)
    before = None
    with closing(JournalReader(data)) as reader:
        for held in reader.epochs():
            parent = EpochHeader.decode(held.header).parent
            found = None if parent is None else (parent.epoch, parent.seq, parent.digest)
            if found != before:
                return False
            before = (held.epoch, *ends[held.epoch])
    return True


def test_a_sound_journal_comes_over_whole(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    journals = written(old)
    found = salvage_into(new, old / store.FILE_NAME, OWNER.edge)
    assert (found.epochs, found.entries, found.foreign) == (3, 3 * 62, 0)
    assert sent(new) == (ends_of(journals), 3 * 62, [])
    assert numbers(new) == numbers(old)
    assert is_one_line(new)
    assert salvage_into(new, old / store.FILE_NAME, OWNER.edge).entries == 0, "once more"
    assert sent(new)[1] == 3 * 62


def test_what_is_in_the_log_alone_comes_over_too(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    journal = begin(old)
    journal.append([tap(1), tap(2)])
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (store.FILE_NAME, f"{store.FILE_NAME}-wal"):
        shutil.copyfile(old / name, copy / name)
    journal.close()
    (copy / store.FILE_NAME).unlink()
    (copy / store.FILE_NAME).touch()
    assert salvage_into(new, copy / store.FILE_NAME, OWNER.edge).entries == 3
    assert numbers(new) == [uid(1).value, uid(2).value]


@pytest.mark.parametrize("content", ["zeros", "noise", "another page"])
def test_each_page_that_is_lost_costs_its_own_entries_and_is_a_gap(
    tmp_path: Path, content: str
) -> None:
    """The daemon does it by itself, and goes on where the last epoch ended."""
    kept = tmp_path / "kept"
    journals = written(kept)
    sound = (kept / store.FILE_NAME).read_bytes()
    rng = random.Random(1)
    worst = 0
    for at in range(PAGE, len(sound), PAGE):
        data = tmp_path / f"page-{at}"
        data.mkdir()
        page = {"zeros": bytes(PAGE), "noise": rng.randbytes(PAGE), "another page": sound[-PAGE:]}
        (data / store.FILE_NAME).write_bytes(sound[:at] + page[content] + sound[at + PAGE :])
        journal = begin(data)
        journal.append([tap(7)])
        journal.close()
        ends, entries, _ = sent(data)
        worst = max(worst, 3 * 62 + 2 - entries)
        known = {epoch: end for epoch, end in ends.items() if epoch != journal.epoch}
        expected = ends_of(journals)
        for epoch, end in known.items():
            if epoch != journals[-1].epoch:
                assert end == expected[epoch], at
        assert is_one_line(data), at
        assert numbers(data)[-1] == uid(7).value
    assert worst < 40, "a page holds some 15 entries"


def test_no_flipped_bits_or_truncation_make_it_fail_or_tell_another_history(
    tmp_path: Path,
) -> None:
    kept = tmp_path / "kept"
    journals = written(kept, epochs=2, taps=20)
    sound = (kept / store.FILE_NAME).read_bytes()
    with closing(JournalReader(kept)) as reader:
        true = {
            (each.epoch, seq): entry
            for each in journals
            for seq, entry, _, _ in reader.entries(each.epoch)
        }
    rng = random.Random(20_261_124)
    for number in range(150):
        data = tmp_path / f"{number}"
        data.mkdir()
        spoilt = bytearray(sound)
        for _ in range(rng.choice((1, 3, 40, 400))):
            spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
        if number % 3 == 0:
            del spoilt[rng.randrange(len(spoilt)) :]
        (data / "wreck").write_bytes(spoilt)
        salvage_into(data, data / "wreck", OWNER.edge)
        with closing(JournalReader(data)) as reader:
            for held in reader.epochs():
                if held.head < held.first:
                    continue
                batch, _ = reader.batch(held.epoch, held.first, held.head)
                for each in link(batch.first, batch.previous, batch.items):
                    if not isinstance(each.item, Gap):
                        assert each.item == true[held.epoch, each.first], number


def test_entries_fill_the_gap_that_the_daemon_had_stated_for_them(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append([tap(1), tap(2), tap(3)])
    copies = {path.name: path.read_bytes() for path in tmp_path.glob("journal.db*")}
    for path in tmp_path.glob("journal.db*"):
        path.unlink()
    with pytest.raises(JournalError):
        journal.append([tap(4)])
    ended = journal.ended()
    journal.close()
    again = Journal.open(tmp_path, OWNER, b"b" * 16, NOW, after=ended)
    again.close()
    assert sent(tmp_path)[2] == [(1, 4)]
    for name, content in copies.items():
        (tmp_path / name.replace("journal.db", "found")).write_bytes(content)
    salvage_into(tmp_path, tmp_path / "found", OWNER.edge)
    ends, entries, gaps = sent(tmp_path)
    assert (entries, gaps) == (5, [])
    assert ends[journal.epoch] == (4, ended.digest)
    assert is_one_line(tmp_path)
    assert numbers(tmp_path) == [uid(number).value for number in (1, 2, 3)]


def test_nothing_that_a_damaged_file_says_of_receipts_is_believed(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    journal = begin(old)
    journal.append([tap(1), tap(2)])
    journal.release(journal.epoch, 3)
    journal.flush()
    journal.close()
    salvage_into(new, old / store.FILE_NAME, OWNER.edge)
    with closing(JournalReader(new)) as reader:
        assert [held.released for held in reader.epochs()] == [0]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_journals_of_earlier_formats_can_be_salvaged(tmp_path: Path, number: int) -> None:
    kept = Path(__file__).parents[1] / "journals" / f"format-{number}.db"
    found = salvage_into(tmp_path, kept, b"kept test edge 1")
    assert (found.epochs, found.entries) == (2, 8 if number == 1 else 9)
    with closing(JournalReader(tmp_path)) as reader:
        kinds = [
            type(decode_entry(entry))
            for held in reader.epochs()
            for _, entry, _, _ in reader.entries(held.epoch)
        ]
        assert list(reader.problems()) == []
    assert (kinds.count(Tap), kinds.count(Action), kinds[-1]) == (4, number > 1, ReaderDown)


def test_long_rows_that_run_over_their_page_come_over(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    journal = begin(old)
    name = "读" * 64
    journal.append([ReaderDown(NOW, name, "坏" * 200) for _ in range(9)])
    journal.append([NewTap(NOW, name, Assurance.UID, Credential("uid", "", "04112233"))])
    journal.close()
    assert salvage_into(new, old / store.FILE_NAME, OWNER.edge).entries == 11
    assert sent(new) == sent(old)


def test_epochs_of_another_edge_stay_where_they_are(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    written(old, epochs=1)
    Journal.open(new, Owner(b"f" * 16, HUB.public), b"b" * 16, NOW).close()
    found = salvage_into(new, old / store.FILE_NAME, b"f" * 16)
    assert (found.epochs, found.entries, found.foreign) == (0, 0, 1)
    with pytest.raises(JournalError, match="another edge"):
        salvage_into(new, old / store.FILE_NAME, OWNER.edge)


def test_what_cannot_be_done_is_refused_and_nothing_is_half_done(tmp_path: Path) -> None:
    data = tmp_path / "data"
    journal = begin(data)
    aside = tmp_path / "aside"
    aside.write_bytes(b"nothing of ours" * 999)
    with pytest.raises(JournalBusyError, match="another shuaka-edge"):
        salvage_into(data, aside, OWNER.edge)
    journal.close()
    with pytest.raises(JournalError, match="the journal itself"):
        salvage_into(data, data / store.FILE_NAME, OWNER.edge)
    with pytest.raises(JournalError, match="No such file"):
        salvage_into(data, tmp_path / "none", OWNER.edge)
    assert salvage_into(data, aside, OWNER.edge).entries == 0
    assert aside.read_bytes().startswith(b"nothing of ours")
