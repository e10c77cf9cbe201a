"""P1, P5, P6: storage that fails under the journal. What was acknowledged is there afterwards.

A process of its own appends, with a ledger outside of it, and opens the journal anew after each
failure, as the recorder does. strace makes its system calls fail, or kills it at one of them; a
small file system in memory is a full disk, or one that was remounted read-only.
"""

import os
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from edge import store
from edge.store import Journal, JournalError, JournalReader
from protocol.journal import EpochHeader, Gap, link
from tests.edge.test_store import NOW, OWNER, begin, numbers, tap, uid
from tests.torture import capabilities
from tests.torture.states import Ledger, Said, judge

ROOT = Path(__file__).parents[2]


def heard(told: bytes) -> Ledger:
    """What the child said before it ended; a line that was cut off was never said."""
    ledger = Ledger()
    for line in told.decode().split("\n")[:-1]:
        what, epoch, seq, digest = line.split(" ")
        ledger.hear(Said(what, bytes.fromhex(epoch), int(seq), bytes.fromhex(digest)))
    return ledger


def appending(data: Path, fault: str, appends: int = 60) -> tuple[Ledger, int]:
    """Has a child append while strace injects `fault`; its ledger, and how it ended."""
    capabilities.need(capabilities.tracing())
    strace = ["strace", "-o", os.devnull, "-e", f"inject={fault}"]
    for name in (store.FILE_NAME, f"{store.FILE_NAME}-wal", f"{store.FILE_NAME}-journal"):
        strace += ["-P", str(data / name)]
    child = [sys.executable, "-m", "tests.torture.states", "--write", str(data)]
    ran = subprocess.run(
        [*strace, *child, "--appends", str(appends)],
        check=False,
        capture_output=True,
        cwd=ROOT,
    )
    return heard(ran.stdout), ran.returncode


ERRORS = [
    "fdatasync:error=EIO:when=3+17",
    "fdatasync:error=EIO:when=30+7",
    "fdatasync:error=ENOSPC:when=5+23",
    "pwrite64:error=EIO:when=31+47",
    "pwrite64:error=ENOSPC:when=25+61",
    "pread64:error=EIO:when=14+61",
    "ftruncate:error=EIO:when=1+3",
]


@pytest.mark.parametrize("fault", ERRORS)
def test_a_system_call_that_fails_costs_nothing_acknowledged(tmp_path: Path, fault: str) -> None:
    ledger, status = appending(tmp_path, fault)
    # reading and truncating is done at opening, which is tried again: no epoch more for these
    assert len(ledger.ends) > 3 or fault.startswith(("pread64", "ftruncate")), "nothing failed"
    assert status == 0
    assert judge(tmp_path, ledger, again=True) == []


KILLS = [f"pwrite64:signal=KILL:when={n}" for n in (1, 2, 5, 11, 31, 60, 61, 127, 200)]
KILLS += [f"fdatasync:signal=KILL:when={n}" for n in (1, 3, 8, 29, 58)]
KILLS += ["ftruncate:signal=KILL:when=1", "unlink:signal=KILL:when=2"]


@pytest.mark.parametrize("fault", KILLS)
def test_a_process_killed_at_a_system_call_loses_nothing_acknowledged(
    tmp_path: Path, fault: str
) -> None:
    ledger, status = appending(tmp_path, fault)
    assert status == -9, "it was not killed"
    assert judge(tmp_path, ledger, again=True) == []


# --- files that go while they are written ---------------------------------------------------------


def gaps(data: Path, epoch: bytes) -> list[tuple[int, int]]:
    """The holes that a hub would see in an epoch, which must be chained to its end."""
    with closing(JournalReader(data)) as reader:
        [held] = [each for each in reader.epochs() if each.epoch == epoch]
        first, found = held.first, []
        while first <= held.head:
            batch, _ = reader.batch(epoch, first, held.head)
            found += [(each.first, each.last) for each in batch.items if isinstance(each, Gap)]
            *_, end = link(batch.first, batch.previous, batch.items)
            first = batch.last + 1
        assert end.digest == reader.digest(epoch, held.head)
        return found


def lost(journal: Journal, number: int = 9) -> Journal:
    """The journal as the recorder opens it after its failure."""
    with pytest.raises(JournalError):
        journal.append([tap(number)])
    ended = journal.ended()
    journal.close()
    return Journal.open(journal.path.parent, OWNER, b"b" * 16, NOW, after=ended)


def parent_of(journal: Journal) -> tuple[bytes, int, bytes]:
    parent = EpochHeader.decode(journal.header_bytes).parent
    assert parent is not None
    return parent.epoch, parent.seq, parent.digest


def test_a_journal_that_was_deleted_takes_no_tap_and_what_was_in_it_is_stated(
    tmp_path: Path,
) -> None:
    journal = begin(tmp_path)
    journal.append([tap(1), tap(2)])
    for path in tmp_path.glob("journal.db*"):
        path.unlink()
    again = lost(journal)
    again.append([tap(3)])
    assert gaps(tmp_path, journal.epoch) == [(1, 3)]
    assert parent_of(again) == (journal.epoch, 3, journal.digest)
    again.close()


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("how", ["deleted", "moved", "exchanged", "cut short"])
def test_one_file_of_it_that_goes_shows_at_the_next_tap(
    tmp_path: Path, suffix: str, how: str
) -> None:
    """What is left may be of no use: then all is stated, and what was readable is set aside."""
    journal = begin(tmp_path)
    journal.append([tap(1), tap(2)])
    path = tmp_path / f"{store.FILE_NAME}{suffix}"
    match how:
        case "deleted":
            path.unlink()
        case "moved":
            path.rename(tmp_path / "elsewhere")
        case "exchanged":
            path.rename(tmp_path / "elsewhere")
            path.write_bytes((tmp_path / "elsewhere").read_bytes())
        case "cut short":
            os.truncate(path, 0)
    again = lost(journal)
    again.append([tap(3)])
    epoch, seq, _ = parent_of(again)
    assert epoch == journal.epoch
    assert seq in {3, 4}, "the tap of which nobody knows may be there"
    for first, last in gaps(tmp_path, journal.epoch):
        assert 1 <= first <= last <= 3
    assert gaps(tmp_path, again.epoch) == []
    with closing(JournalReader(tmp_path)) as reader:
        assert sum(len(b) for _, b, _, _ in reader.entries(again.epoch)) > 0
    again.close()


@pytest.mark.parametrize("size", [0, 1, 511, 4096, 4097, 12_288, 20_000])
def test_a_file_cut_short_while_nobody_wrote_is_set_aside_and_recording_goes_on(
    tmp_path: Path, size: int
) -> None:
    journal = begin(tmp_path)
    journal.append([tap(number) for number in range(60)])
    journal.close()
    os.truncate(tmp_path / store.FILE_NAME, size)
    journal = begin(tmp_path)
    journal.append([tap(99)])
    assert gaps(tmp_path, journal.epoch) == []
    assert numbers(tmp_path)[-1] == uid(99).value
    journal.close()
    asides = list(tmp_path.glob("*.damaged-*"))
    assert [each.stat().st_size for each in asides] == ([size] if size > 1 else [])


@pytest.mark.parametrize("content", [None, b""])
def test_a_log_whose_file_is_gone_is_set_aside_and_not_deleted(
    tmp_path: Path, content: bytes | None
) -> None:
    journal = begin(tmp_path)
    journal.append([tap(1)])
    with closing(JournalReader(tmp_path)):
        log = (tmp_path / "journal.db-wal").read_bytes()
    journal.close()
    (tmp_path / store.FILE_NAME).unlink()
    if content is not None:
        (tmp_path / store.FILE_NAME).write_bytes(content)
    (tmp_path / "journal.db-wal").write_bytes(log)
    begin(tmp_path).close()
    assert (tmp_path / "journal.db.damaged-1-wal").read_bytes() == log


def test_shared_memory_that_is_lost_or_nonsense_costs_nothing(tmp_path: Path) -> None:
    for content in (None, b"", os.urandom(32_768)):
        journal = begin(tmp_path)
        journal.append([tap(1)])
        copy = {path.name: path.read_bytes() for path in tmp_path.glob("journal.db*")}
        journal.close()
        for name, each in copy.items():
            (tmp_path / name).write_bytes(each)
        if content is None:
            (tmp_path / "journal.db-shm").unlink()
        else:
            (tmp_path / "journal.db-shm").write_bytes(content)
    begin(tmp_path).close()
    assert numbers(tmp_path) == [uid(1).value] * 3


# --- a full disk, one that is read-only -----------------------------------------------------------


def in_namespace(tmp_path: Path, script: str, size: str = "2m") -> str:
    """Runs `script` with a small file system mounted on its folder `data`."""
    capabilities.need(capabilities.mounting())
    data = tmp_path / "data"
    data.mkdir()
    start = (
        f'mount -t tmpfs -o size={size} none {data} && exec {sys.executable} -c "$SCRIPT" {data}'
    )
    prelude = """
        import os, sys, subprocess
        from contextlib import closing
        from pathlib import Path
        from edge import ballast, store
        from edge.store import Journal, JournalError, JournalReader, Retention
        from tests.edge.test_store import NOW, OWNER, begin, tap
        from tests.edge.test_store_faults import fill, problems
        ballast.BALLAST_BYTES = 256 * 1024
        data = Path(sys.argv[1])
        """
    ran = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", start],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "SCRIPT": textwrap.dedent(prelude) + textwrap.dedent(script)},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def fill(folder: Path) -> Path:
    """Leaves no room, by a file that can be deleted."""
    path = folder / "somebody's"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    return path


def problems(data: Path) -> list[str]:
    with closing(JournalReader(data)) as reader:
        return list(reader.problems())


def test_a_full_disk_is_told_and_the_ballast_s_room_takes_the_taps_that_follow(
    tmp_path: Path,
) -> None:
    told = in_namespace(
        tmp_path,
        """
        journal = begin(data)
        assert ballast.is_there(data)
        journal.append([tap(0)])
        theirs = fill(data)
        acknowledged = 1
        def until_full(journal):
            global acknowledged
            while True:
                try:
                    journal.append([tap(acknowledged)])
                except JournalError as error:
                    assert "full" in str(error), error
                    ended = journal.ended()
                    journal.close()
                    return ended
                acknowledged += 1
        ended = until_full(journal)
        while ballast.is_there(data):  # the log, written into the file, makes some room at first
            before = acknowledged
            journal = Journal.open(data, OWNER, b"b" * 16, NOW, after=ended)
            ended = until_full(journal)
        assert acknowledged - before > 20, acknowledged - before
        # now it is full in earnest
        for _ in range(3):
            try:
                Journal.open(data, OWNER, b"b" * 16, NOW, after=ended).append([tap(1)] * 50)
            except JournalError as error:
                print("red:", error)
        theirs.unlink()
        journal = Journal.open(data, OWNER, b"b" * 16, NOW, after=ended)
        journal.append([tap(acknowledged)])
        acknowledged += 1
        journal.flush(0)
        assert ballast.is_there(data), "laid in again"
        assert problems(data) == []
        with closing(JournalReader(data)) as reader:
            kept = sum(
                len(sealed)
                for held in reader.epochs()
                for *_, sealed in reader.entries(held.epoch)
            )
        assert kept >= acknowledged, (kept, acknowledged)
        print("done")
        """,
    )
    assert told.count("red:") >= 1
    assert told.endswith("done\n")


def test_on_a_full_disk_what_has_a_receipt_makes_room_and_nothing_else(tmp_path: Path) -> None:
    told = in_namespace(
        tmp_path,
        """
        journal = begin(data)
        for number in range(1500):
            journal.append([tap(number)])
        received = journal.head - 10
        journal.release(journal.epoch, received)
        journal.flush(0)
        first = journal.epoch
        fill(data)
        while True:
            try:
                journal.append([tap(1)])
            except JournalError:
                break
        ended = journal.ended()
        journal.close()
        journal = Journal.open(data, OWNER, b"b" * 16, NOW, after=ended)
        journal.flush(0)
        with closing(JournalReader(data)) as reader:
            [held] = [each for each in reader.epochs() if each.epoch == first]
            assert held.first == received + 1, held
        written = 0
        try:
            while written < 1200:
                journal.append([tap(number) for number in range(4)])
                written += 4
        except JournalError:
            pass
        print(written)
        assert problems(data) == []
        """,
    )
    assert int(told) == 1200, "the room of 1500 entries serves again"


def test_a_disk_remounted_read_only_takes_no_tap_is_still_sent_and_goes_on_later(
    tmp_path: Path,
) -> None:
    in_namespace(
        tmp_path,
        """
        def remount(how):
            subprocess.run(["mount", "-o", f"remount,{how}", data], check=True)
        def readable():
            with closing(JournalReader(data)) as reader:
                for held in reader.epochs():
                    reader.batch(held.epoch, held.first, held.head)
                return sum(held.head for held in reader.epochs())
        journal = begin(data)
        journal.append([tap(1)])
        ended = journal.ended()
        journal.close()
        # nothing of the log is left: a reader on a read-only disk could not make one
        journal, before = None, readable()
        try:
            for name in ("journal.db-wal", "journal.db-shm"):
                (data / name).unlink(missing_ok=True)
            remount("ro")
            assert readable() == before == 2
            try:
                Journal.open(data, OWNER, b"b" * 16, NOW, after=ended)
            except JournalError as error:
                assert "Read-only" in str(error), error
            else:
                raise AssertionError("opened")
        finally:
            remount("rw")
        # with a log: the writer had died
        child = subprocess.run([sys.executable, "-c", '''
        import os, sys
        from pathlib import Path
        from tests.edge.test_store import begin, tap
        journal = begin(Path(sys.argv[1]))
        journal.append([tap(2), tap(3)])
        os._exit(0)
        '''.replace("        ", ""), data], check=True)
        assert (data / "journal.db-wal").stat().st_size
        remount("ro")
        assert readable() == 5
        remount("rw")
        (data / "journal.db-shm").unlink()
        remount("ro")
        try:
            assert readable() == 5
        except JournalError as error:
            print(error)
        remount("rw")
        journal = Journal.open(data, OWNER, b"b" * 16, NOW, after=ended)
        journal.append([tap(4)])
        assert problems(data) == []
        assert readable() == 7
        """,
    )
