"""P3, P6: journals of every earlier format are brought up to date, and nothing in them is lost."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edge import store
from edge.store import Journal, JournalError, JournalNewerError, JournalReader, Owner, Retention
from protocol.credential import Credential, member_credential
from protocol.identity import OpeningKey
from protocol.journal import Action, EpochHeader, ReaderDown, Stamp, decode_entry
from protocol.sealing import Place, SubjectBox, subject_digest, unwrap_content_key

KEPT = Path(__file__).parents[1] / "journals"
HUB = OpeningKey(bytes(range(32)))
OWNER = Owner(b"kept test edge 1", HUB.public)
NOW = Stamp(5_000, 1_777_100_000_000, trusted=True)
FORMATS = range(1, store.SCHEMA_VERSION + 1)


def uid(number: int) -> Credential:
    return Credential("uid", "", f"{0x04_000000_000000 + number:014X}")


def kept(folder: Path, number: int) -> Path:
    """A folder with a copy of the journal of that format."""
    shutil.copyfile(KEPT / f"format-{number}.db", folder / store.FILE_NAME)
    return folder


def begin(data: Path) -> Journal:
    return Journal.open(data, OWNER, b"b" * 16, NOW)


def subjects(data: Path) -> list[Credential]:
    """Whom the entries speak of, as the hub would open what a batch brings."""
    found = []
    with closing(JournalReader(data)) as reader:
        for held in reader.epochs():
            batch, sealed = reader.batch(held.epoch, held.first, held.head)
            assert batch.withheld == ()
            header = EpochHeader.decode(batch.header_bytes)
            key = unwrap_content_key(header.wrapped_key, HUB, header.edge, header.epoch)
            box = SubjectBox(key, header.edge, header.epoch)
            by_digest = {subject_digest(each): each for each in sealed}
            for seq, item in enumerate(batch.items, batch.first):
                assert isinstance(item, bytes), "a sound journal has no gap"
                entry = decode_entry(item)
                if isinstance(entry, Action) and entry.about is not None:
                    found.append(box.open(seq, by_digest[entry.about], Place.ABOUT))
                if subject := getattr(entry, "subject", None):
                    found.append(box.open(seq, by_digest[subject]))
    return found


@pytest.mark.parametrize("number", FORMATS)
def test_a_journal_of_each_format_is_brought_up_to_date_and_loses_nothing(
    tmp_path: Path, number: int
) -> None:
    data = kept(tmp_path, number)
    if number < store.SCHEMA_VERSION:
        with pytest.raises(JournalError, match="earlier version; start"):
            JournalReader(data)
    witnessed = [] if number == 1 else [member_credential("M-1"), uid(5)]
    journal = begin(data)
    assert subjects(data) == [*(uid(each) for each in range(1, 5)), *witnessed]
    with closing(JournalReader(data)) as reader:
        assert list(reader.problems()) == []
        assert reader.generation() == 4
        first, second, third = reader.epochs()
        assert (first.head, first.released, second.released) == (5, 3, 0)
        *_, (_, last, digest, _) = reader.entries(second.epoch)
        assert isinstance(decode_entry(last), ReaderDown)
        parent = EpochHeader.decode(third.header).parent
        assert parent is not None
        assert (parent.epoch, parent.seq, parent.digest) == (second.epoch, second.head, digest)
    journal.close()
    assert not list(data.glob("*.damaged-*")) + list(data.glob("*.former-*"))


@pytest.mark.parametrize("number", FORMATS)
def test_what_had_its_receipt_may_go_by_the_new_rules_and_nothing_else(
    tmp_path: Path, number: int
) -> None:
    data = kept(tmp_path, number)
    journal = Journal.open(data, OWNER, b"b" * 16, NOW, Retention(entries=1))
    journal.release(journal.epoch, 1)
    journal.flush(NOW.boottime_ms)
    with closing(JournalReader(data)) as reader:
        first, second, _ = reader.epochs()
        assert (first.first, first.head, second.first) == (4, 5, 1)
        assert list(reader.problems()) == []
    journal.close()


def test_an_upgrade_that_is_cut_off_is_done_again(tmp_path: Path) -> None:
    data = kept(tmp_path, 1)
    upgrades = store._UPGRADES
    for step in upgrades:
        for cut in range(len(upgrades[step]) + 1):
            broken = {**upgrades, step: (*upgrades[step][:cut], "no SQL at all")}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(store, "_UPGRADES", broken)
                with pytest.raises(JournalError, match="syntax error"):
                    begin(data)
            with closing(sqlite3.connect(data / store.FILE_NAME)) as db:
                assert db.execute("PRAGMA user_version").fetchone() == (1,)
    begin(data).close()
    assert subjects(data) == [uid(each) for each in range(1, 5)]


@pytest.mark.parametrize("number", FORMATS)
def test_an_older_version_refuses_a_newer_journal_and_leaves_it_alone(
    tmp_path: Path, number: int
) -> None:
    data = kept(tmp_path, number)
    before = (data / store.FILE_NAME).read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SCHEMA_VERSION", number - 1)
        with pytest.raises(JournalNewerError, match=rf"format {number}, this one reads"):
            begin(data)
        with pytest.raises(JournalNewerError, match="install that version again"):
            JournalReader(data)
    assert (data / store.FILE_NAME).read_bytes() == before
    assert not list(data.glob("*.damaged-*"))
