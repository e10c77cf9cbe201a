"""The journal keeps what it said it has, and says what it cannot keep (P1, P6, P8)."""

import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge import store
from edge.store import (
    Journal,
    JournalBusyError,
    JournalError,
    JournalNewerError,
    JournalReader,
    NewAction,
    NewTap,
    Owner,
    Retention,
)
from protocol import cbor
from protocol.batch import MAX_ITEMS, Batch, Parcel, seal_batch
from protocol.credential import Assurance, Credential, member_credential
from protocol.identity import MAX_MESSAGE_BYTES, OpeningKey, SigningKey
from protocol.journal import (
    Act,
    Action,
    EpochHeader,
    Gap,
    ReaderUp,
    Stamp,
    Tap,
    chain_next,
    decode_entry,
    link,
)
from protocol.sealing import Place, SubjectBox, subject_digest, unwrap_content_key

HUB = OpeningKey.generate()
OWNER = Owner(b"e" * 16, HUB.public)
NOW = Stamp(5_000, 1_777_000_000_000, trusted=True)


def uid(number: int) -> Credential:
    return Credential("uid", "", f"{0x04_000000_000000 + number:014X}")


def tap(number: int) -> NewTap:
    return NewTap(NOW, "reader", Assurance.UID, uid(number))


def witnessed(number: int, code: str) -> NewAction:
    return NewAction(
        NOW, "reader", Act.WITNESSED, None, Assurance.UID, uid(number), member_credential(code)
    )


def begin(data: Path, keep: int = 100_000) -> Journal:
    return Journal.open(data, OWNER, b"b" * 16, NOW, Retention(entries=keep))


def numbers(data: Path) -> list[str]:
    """The UIDs in the journal, as the hub would open them."""
    reader = JournalReader(data)
    found = []
    for held in reader.epochs():
        header = EpochHeader.decode(held.header)
        key = unwrap_content_key(header.wrapped_key, HUB, header.edge, header.epoch)
        box = SubjectBox(key, header.edge, header.epoch)
        for seq, _, _, sealed in reader.entries(held.epoch):
            found += [box.open(seq, each).value for each in sealed[:1]]
    reader.close()
    return found


def test_what_was_appended_is_there_chained_and_only_the_hub_can_read_it(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    assert journal.append([tap(1), ReaderUp(NOW, "reader")]) == 3
    assert journal.append([tap(2)]) == 4
    digest = journal.digest
    journal.close()
    assert numbers(tmp_path) == [uid(1).value, uid(2).value]
    reader = JournalReader(tmp_path)
    [held] = reader.epochs()
    assert (held.first, held.head, held.released) == (1, 4, 0)
    assert reader.digest(held.epoch, 4) == digest
    assert list(reader.problems()) == []
    reader.close()
    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert uid(1).value.encode() not in on_disk
    assert bytes.fromhex(uid(1).value) not in on_disk


def test_files_are_the_owner_s_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    journal = begin(data)
    journal.append([tap(1)])
    for path in [data, *data.iterdir()]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    journal.close()


def test_each_opening_is_an_epoch_whose_parent_is_the_last_entry(tmp_path: Path) -> None:
    first = begin(tmp_path)
    first.append([tap(1)])
    first.close()
    second = begin(tmp_path)
    second.close()
    third = begin(tmp_path)
    reader = JournalReader(tmp_path)
    headers = [EpochHeader.decode(held.header) for held in reader.epochs()]
    assert headers[0].parent is None
    assert headers[1].parent is not None
    assert (headers[1].parent.epoch, headers[1].parent.seq) == (first.epoch, 2)
    assert headers[1].parent.digest == first.digest
    assert headers[2].parent is not None
    assert (headers[2].parent.epoch, headers[2].parent.digest) == (second.epoch, second.digest)
    assert list(reader.problems()) == []
    reader.close()
    third.close()


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    with pytest.raises(JournalBusyError, match="another shuaka-edge"):
        begin(tmp_path)
    journal.close()
    begin(tmp_path).close()


def test_a_later_version_s_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    begin(tmp_path).close()
    db = sqlite3.connect(tmp_path / store.FILE_NAME)
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = (tmp_path / store.FILE_NAME).read_bytes()
    with pytest.raises(JournalNewerError, match="later version"):
        begin(tmp_path)
    assert (tmp_path / store.FILE_NAME).read_bytes() == before
    assert not list(tmp_path.glob("*damaged*"))


def test_another_program_s_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / store.FILE_NAME)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(JournalError, match="another program"):
        begin(tmp_path)
    db = sqlite3.connect(tmp_path / store.FILE_NAME)
    assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    db.close()


def test_a_file_that_is_no_database_is_set_aside_and_recording_begins_anew(tmp_path: Path) -> None:
    (tmp_path / store.FILE_NAME).write_bytes(b"not a database at all" * 500)
    journal = begin(tmp_path)
    journal.append([tap(1)])
    journal.close()
    [aside] = tmp_path.glob("*.damaged-1")
    assert aside.read_bytes().startswith(b"not a database")
    assert numbers(tmp_path) == [uid(1).value]


def test_the_journal_of_another_edge_is_set_aside_and_names_no_parent(tmp_path: Path) -> None:
    """The device was enrolled anew: under its new name nobody would take the old epochs."""
    old = begin(tmp_path)
    old.append([tap(1)])
    old.close()
    new = Journal.open(tmp_path, Owner(b"f" * 16, HUB.public), b"b" * 16, NOW)
    new.append([tap(2)])
    new.close()
    reader = JournalReader(tmp_path)
    [held] = reader.epochs()
    assert EpochHeader.decode(held.header).parent is None
    reader.close()
    [aside] = tmp_path.glob("*.former-1")
    aside.rename(tmp_path / store.FILE_NAME)
    assert numbers(tmp_path) == [uid(1).value]


def test_a_header_that_rotted_sets_no_journal_aside(tmp_path: Path) -> None:
    begin(tmp_path).close()
    _damage(tmp_path, "UPDATE epochs SET header = zeroblob(200)")
    begin(tmp_path).close()
    _damage(tmp_path, "UPDATE epochs SET header = zeroblob(200)")
    _damage(tmp_path, "UPDATE header_copies SET header = zeroblob(200)")
    begin(tmp_path).close()
    assert not list(tmp_path.glob("*.former-*"))


def test_every_commit_syncs_the_log_by_the_settings_of_the_journal_itself(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    journal.close()


def test_where_there_can_be_no_write_ahead_log_nothing_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def without_shared_memory(path: Path, **options: Any) -> sqlite3.Connection:
        return connect(f"file:{path}?vfs=unix-dotfile", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", without_shared_memory)
    with pytest.raises(JournalError, match="write-ahead log"):
        begin(tmp_path)


def test_a_folder_that_takes_no_file_is_a_journal_error(tmp_path: Path) -> None:
    (tmp_path / store.FILE_NAME).mkdir()
    with pytest.raises(JournalError, match=r"journal\.db"):
        begin(tmp_path)
    (tmp_path / store.FILE_NAME).rmdir()
    (tmp_path / store.FILE_NAME).symlink_to(tmp_path / "none" / "there")
    with pytest.raises(JournalError, match="No such file"):
        begin(tmp_path)


def _syncs(data: Path, appends: int, setting: str) -> int:
    """How often a process that appends so many times has the kernel sync a file."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from tests.edge.test_store import begin, tap
        journal = begin(Path(sys.argv[1]))
        if sys.argv[3]:
            journal._db.execute(f"PRAGMA synchronous = {sys.argv[3]}")
        for number in range(int(sys.argv[2])):
            journal.append([tap(number)])
        """
    )
    trace = data.with_suffix(".trace")
    tracing = ["strace", "-f", "-e", "trace=fsync,fdatasync", "-o", trace]
    child = [sys.executable, "-c", script, data, str(appends), setting]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([*tracing, *child], env=env, check=True)
    return len(re.findall(r"\bf(?:data)?sync\(\d+\) += 0", trace.read_text()))


def test_every_append_has_the_kernel_sync_the_file(tmp_path: Path) -> None:
    """P1, by what the kernel is asked; the last line shows that the count would miss it."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    if subprocess.run(["strace", "-o", os.devnull, "true"], check=False).returncode:
        pytest.skip("tracing is forbidden here")
    opening = _syncs(tmp_path / "none", 0, "")
    assert _syncs(tmp_path / "full", 20, "") - opening >= 20
    assert _syncs(tmp_path / "off", 20, "OFF") - opening <= 0


def test_a_write_that_fails_says_so_and_a_reopened_journal_goes_on(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append([tap(1)])
    journal._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(JournalError, match="full"):
        for _ in range(200):
            journal.append([tap(2)] * 20)
    journal.close()
    again = begin(tmp_path)
    again.append([tap(3)])
    again.close()
    kept = numbers(tmp_path)
    assert kept[0] == uid(1).value
    assert kept[-1] == uid(3).value
    assert len([n for n in kept if n == uid(2).value]) % 20 == 0
    reader = JournalReader(tmp_path)
    assert list(reader.problems()) == []
    reader.close()


def test_batches_fit_into_a_message_and_cover_everything(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append([tap(number) for number in range(1200)])
    reader = JournalReader(tmp_path)
    key = SigningKey.generate()
    first, items = 1, 0
    while first <= journal.head:
        batch, subjects = reader.batch(journal.epoch, first, journal.head)
        payload = seal_batch(batch, key, subjects)
        assert len(payload) <= MAX_MESSAGE_BYTES
        Parcel.decode(payload)
        assert len(batch.items) <= MAX_ITEMS
        items += len(batch.items)
        first = batch.last + 1
    assert items == journal.head
    reader.close()
    journal.close()


def _damage(data: Path, statement: str, *values: object) -> None:
    db = sqlite3.connect(data / store.FILE_NAME)
    db.execute(statement, values)
    db.commit()
    db.close()


def test_a_rotten_entry_is_stated_as_a_gap_and_the_others_flow(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append([tap(number) for number in range(4)])
    journal.close()
    _damage(tmp_path, "UPDATE entries SET entry = zeroblob(40) WHERE seq = 3")
    reader = JournalReader(tmp_path)
    batch, subjects = reader.batch(journal.epoch, 1, 5)
    assert [isinstance(item, Gap) for item in batch.items] == [False, False, True, False, False]
    assert len(subjects) == 3
    assert any("entry 3" in problem for problem in reader.problems())
    reader.close()


def test_a_rotten_digest_costs_no_entry(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append([tap(number) for number in range(4)])
    journal.close()
    _damage(tmp_path, "UPDATE entries SET digest = zeroblob(32) WHERE seq = 3")
    reader = JournalReader(tmp_path)
    batch, subjects = reader.batch(journal.epoch, 1, 5)
    assert not any(isinstance(item, Gap) for item in batch.items)
    assert len(subjects) == 4
    reader.close()


def test_a_rotten_subject_is_withheld_and_its_tap_still_sent(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append([tap(1), tap(2)])
    journal.close()
    _damage(tmp_path, "UPDATE entries SET sealed = zeroblob(92) WHERE seq = 2")
    reader = JournalReader(tmp_path)
    batch, subjects = reader.batch(journal.epoch, 1, 3)
    assert batch.withheld == (2,)
    assert len(subjects) == 1
    reader.close()


def test_an_action_is_sent_with_both_subjects_each_in_its_place(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    count = NewAction(NOW, "reader", Act.HEAD_COUNT, 23, Assurance.DATA, uid(1), None)
    journal.append([tap(1), witnessed(2, "党员-7"), count])
    journal.close()
    reader = JournalReader(tmp_path)
    batch, subjects = reader.batch(journal.epoch, 1, 4)
    assert (len(subjects), batch.withheld) == (4, ())
    assert list(reader.problems()) == []
    reader.close()
    header = EpochHeader.decode(journal.header_bytes)
    box = SubjectBox(
        unwrap_content_key(header.wrapped_key, HUB, OWNER.edge, journal.epoch),
        OWNER.edge,
        journal.epoch,
    )
    by_digest = {subject_digest(each): each for each in subjects}
    said, counted = [decode_entry(bytes(item)) for item in batch.items[2:]]  # type: ignore[arg-type]
    assert isinstance(said, Action)
    assert said.about is not None
    assert box.open(3, by_digest[said.subject]) == uid(2)
    assert box.open(3, by_digest[said.about], Place.ABOUT) == member_credential("党员-7")
    assert said.subject != said.about
    assert isinstance(counted, Action)
    assert (counted.what, counted.number, counted.about) == (Act.HEAD_COUNT, 23, None)
    assert counted.assurance is Assurance.DATA
    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert "党员-7".encode() not in on_disk


@pytest.mark.parametrize("spoilt", ["sealed", "about"])
@pytest.mark.parametrize("content", ["zeroblob(92)", "NULL"])
def test_a_rotten_subject_of_an_action_is_withheld_and_the_other_still_sent(
    tmp_path: Path, spoilt: str, content: str
) -> None:
    journal = begin(tmp_path)
    journal.append([witnessed(2, "M-1"), tap(1)])
    journal.close()
    _damage(tmp_path, f"UPDATE entries SET {spoilt} = {content} WHERE seq = 2")  # noqa: S608
    reader = JournalReader(tmp_path)
    batch, subjects = reader.batch(journal.epoch, 1, 3)
    assert (batch.withheld, len(subjects)) == ((2,), 2)
    assert len(list(reader.problems())) == 1
    reader.close()


def test_a_batch_of_actions_stays_within_a_message(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append([witnessed(number, "党" * 64) for number in range(499)])
    journal.close()
    reader = JournalReader(tmp_path)
    first, key = 1, SigningKey.generate()
    while first <= 500:
        batch, subjects = reader.batch(journal.epoch, first, 500)
        assert len(seal_batch(batch, key, subjects)) <= MAX_MESSAGE_BYTES
        first = batch.last + 1
    reader.close()


def _sent(data: Path, epoch: bytes, head: int, size: int, first: int = 1) -> list[Batch]:
    """The batches that cover an epoch, as a hub takes them: each goes on from the one before."""
    reader = JournalReader(data)
    batches: list[Batch] = []
    while first <= head:
        batch, _ = reader.batch(epoch, first, min(first + size - 1, head))
        if batches:
            assert batch.first == batches[-1].last + 1
            *_, end = link(batches[-1].first, batches[-1].previous, batches[-1].items)
            assert batch.previous == end.digest, f"a conflict at {batch.first}"
            assert reader.digest(epoch, end.last) == end.digest
        batches.append(batch)
        first = batch.last + 1
    reader.close()
    return batches


def _gaps(batches: list[Batch]) -> list[tuple[int, int]]:
    items = [item for batch in batches for item in batch.items]
    return [(item.first, item.last) for item in items if isinstance(item, Gap)]


def _ends_as(batches: list[Batch], digest: bytes) -> bool:
    *_, end = link(batches[-1].first, batches[-1].previous, batches[-1].items)
    return end.digest == digest


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("seq", range(1, 9))
def test_a_rotten_digest_costs_nothing_wherever_a_batch_ends(
    tmp_path: Path, seq: int, size: int
) -> None:
    journal = begin(tmp_path)
    journal.append([tap(number) for number in range(8)])
    journal.close()
    _damage(tmp_path, "UPDATE entries SET digest = zeroblob(32) WHERE seq = ?", seq)
    batches = _sent(tmp_path, journal.epoch, 9, size)
    assert _gaps(batches) == []
    assert _ends_as(batches, journal.digest)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("seq", range(1, 10))
def test_a_rotten_entry_costs_itself_wherever_a_batch_ends(
    tmp_path: Path, seq: int, size: int
) -> None:
    journal = begin(tmp_path)
    journal.append([tap(number) for number in range(8)])
    journal.close()
    _damage(tmp_path, "UPDATE entries SET entry = zeroblob(40) WHERE seq = ?", seq)
    batches = _sent(tmp_path, journal.epoch, 9, size)
    assert _gaps(batches) == [(seq, seq)]
    assert _ends_as(batches, journal.digest)


@pytest.mark.parametrize("size", [2, 3, 4, 9])
@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 3), (4, 4), (4, 6), (8, 8)])
def test_missing_entries_are_a_gap_up_to_the_next_and_no_later_one_moves(
    tmp_path: Path, first: int, last: int, size: int
) -> None:
    journal = begin(tmp_path)
    journal.append([tap(number) for number in range(8)])
    journal.close()
    with closing(JournalReader(tmp_path)) as reader:
        before = {row[0]: row[1] for row in reader.entries(journal.epoch)}
    _damage(tmp_path, "DELETE FROM entries WHERE seq BETWEEN ? AND ?", first, last)
    batches = _sent(tmp_path, journal.epoch, 9, size)
    assert _gaps(batches) == [(first, last + 1)]
    assert _ends_as(batches, journal.digest)
    for batch in batches:
        for each in link(batch.first, batch.previous, batch.items):
            assert isinstance(each.item, Gap) or each.item == before[each.first]


def test_asking_from_within_what_is_missing_gives_the_whole_gap(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append([tap(number) for number in range(8)])
    journal.close()
    _damage(tmp_path, "DELETE FROM entries WHERE seq BETWEEN 3 AND 5")
    [batch] = _sent(tmp_path, journal.epoch, 9, 9, first=4)
    assert (batch.first, batch.last) == (3, 9)
    assert _gaps([batch]) == [(3, 6)]
    assert _ends_as([batch], journal.digest)


def test_what_is_held_no_more_is_refused_and_not_numbered_anew(tmp_path: Path) -> None:
    journal = begin(tmp_path, keep=1)
    journal.append([tap(number) for number in range(8)])
    journal.release(journal.epoch, 6)
    journal.flush()
    reader = JournalReader(tmp_path)
    with pytest.raises(JournalError, match="held no more"):
        reader.batch(journal.epoch, 5, 9)
    with pytest.raises(JournalError, match="are gone"):
        reader.batch(journal.epoch, 10, 12)
    with pytest.raises(JournalError, match="held no more"):
        reader.batch(bytes(16), 1, 9)
    assert reader.digest(bytes(16), 1) is None
    reader.close()
    journal.close()


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE epochs SET header = zeroblob(200)",
        "UPDATE header_copies SET header = zeroblob(200)",
        "DELETE FROM header_copies",
    ],
)
def test_of_two_headers_the_sound_one_is_sent(tmp_path: Path, damage: str, pruned: bool) -> None:
    journal = begin(tmp_path, keep=1)
    journal.append([tap(number) for number in range(8)])
    if pruned:
        journal.release(journal.epoch, 6)
        journal.flush()
    journal.close()
    _damage(tmp_path, damage)
    [batch] = _sent(tmp_path, journal.epoch, 9, 9, first=6 if pruned else 1)
    assert batch.header_bytes == journal.header_bytes
    assert _gaps([batch]) == []


def test_a_rotten_start_of_the_chain_costs_no_entry(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append([tap(number) for number in range(8)])
    journal.close()
    _damage(tmp_path, "UPDATE epochs SET previous = zeroblob(32)")
    [batch] = _sent(tmp_path, journal.epoch, 9, 9)
    assert _gaps([batch]) == []
    assert _ends_as([batch], journal.digest)


def test_the_subject_of_a_kind_that_is_not_known_here_is_sent_along(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    entry, sealed = cbor.encode([9, 5, 5, True, "of a later version"]), b"sealed"
    with closing(sqlite3.connect(tmp_path / store.FILE_NAME)) as db, db:
        db.execute(
            "INSERT INTO entries VALUES (1, 2, ?, ?, ?, NULL)",
            (entry, chain_next(journal.digest, entry), sealed),
        )
    db.close()
    reader = JournalReader(tmp_path)
    batch, subjects = reader.batch(journal.epoch, 1, 2)
    assert (batch.items[1], batch.withheld, subjects) == (entry, (), [sealed])
    assert list(reader.problems()) == []
    reader.close()
    journal.close()


def test_only_what_has_a_receipt_is_pruned_and_the_chain_still_verifies(tmp_path: Path) -> None:
    first = begin(tmp_path, keep=5)
    first.append([tap(number) for number in range(20)])
    first.close()
    journal = begin(tmp_path, keep=5)
    journal.append([tap(number) for number in range(20, 30)])
    journal.release(first.epoch, 12)
    assert journal.flush() == [(first.epoch, 8)]
    reader = JournalReader(tmp_path)
    old, new = reader.epochs()
    assert (old.first, old.head, old.released) == (8, 21, 12)
    assert (new.first, new.head, new.released) == (1, 11, 0)
    assert list(reader.problems()) == []
    batch, _ = reader.batch(first.epoch, 8, 21)
    digest = batch.previous
    for item in batch.items:
        assert isinstance(item, bytes)
        digest = chain_next(digest, item)
    assert digest == first.digest
    journal.new_generation(7)
    assert reader.generation() == 7
    assert all(held.released == 0 for held in reader.epochs())
    reader.close()
    journal.close()


def test_after_a_restored_hub_the_edge_prunes_again_and_forgets_empty_epochs(
    tmp_path: Path,
) -> None:
    first = begin(tmp_path, keep=5)
    first.append([tap(number) for number in range(20)])
    first.close()
    journal = begin(tmp_path, keep=5)
    journal.append([tap(number) for number in range(20, 30)])
    journal.release(first.epoch, 18)
    assert journal.flush() == [(first.epoch, 14)]
    journal.new_generation(2)
    journal.release(journal.epoch, 10)
    assert journal.flush() == [(journal.epoch, 6)], "what was pruned before takes no room"
    reader = JournalReader(tmp_path)
    journal.release(first.epoch, 21)
    journal.flush()
    assert [held.epoch for held in reader.epochs()] == [journal.epoch]
    assert list(reader.problems()) == []
    for table in ("epochs", "header_copies"):
        assert reader._db.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)  # noqa: S608
    journal.release(journal.epoch, 11)
    journal.flush()
    journal.append([tap(30)])
    reader.close()
    journal.close()
    begin(tmp_path, keep=5).close()
    reader = JournalReader(tmp_path)
    assert list(reader.problems()) == []
    reader.close()


def test_released_again_is_harmless_and_never_goes_back(tmp_path: Path) -> None:
    journal = begin(tmp_path)
    journal.append([tap(1), tap(2)])
    journal.release(journal.epoch, 3)
    journal.release(journal.epoch, 2)
    journal.flush()
    reader = JournalReader(tmp_path)
    assert reader.epochs()[0].released == 3
    reader.close()
    journal.close()


def test_reading_where_there_is_no_journal_says_so(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal yet"):
        JournalReader(tmp_path)


def test_every_append_that_returned_survives_sigkill(tmp_path: Path) -> None:
    """P1: a writer is killed in mid-stride; what it reported is in the journal."""
    script = textwrap.dedent(
        """
        import sys
        from tests.edge.test_store import begin, tap
        from pathlib import Path
        journal = begin(Path(sys.argv[1]))
        start = int(sys.argv[2])
        for number in range(start, start + 100000):
            journal.append([tap(number)])
            print(number, flush=True)
        """
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    reported: list[int] = []
    for round_ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(round_ * 100_000)],
            stdout=subprocess.PIPE,
            env=env,
            text=True,
        )
        assert writer.stdout is not None
        for line in writer.stdout:
            reported.append(int(line))
            if len(reported) % 97 == 96:
                break
        writer.kill()
        reported += [int(line) for line in writer.stdout.read().split()]
        writer.wait()
        writer.stdout.close()
    reader = JournalReader(tmp_path)
    taps = sum(
        isinstance(decode_entry(entry), Tap)
        for held in reader.epochs()
        for _, entry, _, _ in reader.entries(held.epoch)
    )
    assert list(reader.problems()) == []
    assert taps >= len(reported)
    assert taps <= len(reported) + 4  # at most the one in hand at each kill
    reader.close()
