"""Bad input to `shuaka-edge`: one line that says what, where and what to do; nothing half-done."""

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge import doctor
from edge.cli import main
from edge.enrol import Keys
from edge.store import Journal, Owner
from protocol import cbor
from protocol.identity import EnrolmentCode, OpeningKey
from protocol.journal import EARLIEST_WALL_MS, MAX_TIME_MS, ClockSample, Stamp
from tests.fakes.clock import FakeClock

CODE = str(EnrolmentCode(1, bytes(10)))
OWNER = Owner(bytes(16), OpeningKey.generate().public)
PROGRAM = Path(sys.executable).parent / "shuaka-edge"


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str

    def refused(self, *words: str) -> None:
        """It said no in one line of plain words, each of `words` among them."""
        assert self.status == 1, self
        assert self.err.startswith("shuaka-edge: ")
        assert self.err.count("\n") == 1, self.err
        for word in words:
            assert word in self.err


@dataclass(frozen=True)
class Cli:
    folder: Path
    capture: pytest.CaptureFixture[str]

    @property
    def config(self) -> Path:
        return self.folder / "edge.toml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def __call__(self, *arguments: str) -> Answer:
        self.capture.readouterr()
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--config", str(self.config)])
        told = self.capture.readouterr()
        assert "Traceback" not in told.err
        assert isinstance(end.value.code, int)
        return Answer(end.value.code, told.out, told.err)

    def journal(self, count: int = 0) -> None:
        journal = Journal.open(self.data, OWNER, bytes(16), Stamp(1, 2, trusted=True))
        from protocol.journal import ReaderUp

        for number in range(count):
            journal.append([ReaderUp(Stamp(number, number, trusted=True), "读卡器")])
        journal.close()


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    cli = Cli(tmp_path, capsys)
    cli.config.write_text(
        '[edge]\ndata = "data"\n[readers]\npcsc = false\n[clock]\ntrust = "always"\n',
        encoding="utf-8",
    )
    mask = os.umask(0o022)
    yield cli
    os.umask(mask)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Without root's right to read and write everything, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


COMMANDS = (
    ["run"],
    ["enrol", "--hub", "http://127.0.0.1:1", "--code", CODE],
    ["journal", "list"],
    ["journal", "verify"],
    ["journal", "salvage", "damaged.db"],
    ["doctor"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_configuration_that_cannot_be_used_stops_every_command(
    cli: Cli, command: list[str]
) -> None:
    for text, word in [
        ("edge = 5", "edge: "),
        ("[edge]\nfolder = 1", "unknown key `folder`"),
        ('[edge]\ndata = "a\\u0000b"', "edge.data: "),
        ("[edge]\ndata = 1", "edge.data: "),
        ("?", "is not TOML"),
    ]:
        cli.config.write_text(text, encoding="utf-8")
        cli(*command).refused(str(cli.config), word)
    cli.config.write_bytes(b"\xff")
    cli(*command).refused(str(cli.config), "UTF-8")
    cli.config.unlink()
    cli(*command).refused(str(cli.config), "No such file")
    cli.config.mkdir()
    cli(*command).refused(str(cli.config), "directory")
    assert not cli.data.exists()


@pytest.mark.parametrize("command", COMMANDS[1:4], ids=" ".join)
def test_a_folder_that_is_a_file_or_impossible_is_named(cli: Cli, command: list[str]) -> None:
    cli.data.write_bytes(b"mine")
    cli(*command).refused(str(cli.data))
    assert cli.data.read_bytes() == b"mine"
    cli.config.write_text(f'[edge]\ndata = "{"a" * 300}"', encoding="utf-8")
    cli(*command).refused("aaaa", "too long")


def test_the_doctor_names_a_folder_that_is_a_file(cli: Cli) -> None:
    cli.data.write_bytes(b"mine")
    answer = cli("doctor")
    assert answer.status == 1
    assert f"TODO {cli.data}: is no folder" in answer.out
    assert "Not a directory" in answer.out


def test_the_doctor_sends_nobody_to_start_what_waits_for_its_enrolment(cli: Cli) -> None:
    told = cli("doctor").out
    assert "One that runs waits for that, and then begins by itself." in told
    assert "`shuaka-edge enrol` creates it." in told
    assert "systemctl start" not in told


def test_another_user_is_told_so(cli: Cli) -> None:
    cli.journal()
    cli.data.chmod(0)
    # Whatever ran before in this process may have left a strict umask.
    cli.config.chmod(0o644)
    for folder in (cli.folder, *cli.folder.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    try:
        with ordinary_user():
            for command in COMMANDS[1:4]:
                cli(*command).refused(str(cli.data), "Permission denied")
            answer = cli("doctor")
        assert answer.status == 1
        assert "Permission denied" in answer.out
        assert "the service's user" in answer.out
    finally:
        cli.data.chmod(0o700)


@pytest.mark.parametrize("count", ["0", "-1", "x", "1.5", ""])
def test_a_count_that_is_none_is_refused(cli: Cli, count: str) -> None:
    answer = cli("journal", "list", f"--last={count}")
    assert answer.status == 2
    assert f"{count!r} is no whole number from 1 up" in answer.err


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("", "0 characters of 30"),
        (CODE[:-1], "29 characters of 30"),
        (CODE[:-1] + ("A" if CODE[-1] != "A" else "B"), "mistyped"),
        (CODE.replace("0", "!", 1), "'!'"),
        ("\udcff", "'\\udcff'"),
    ],
)
def test_a_mistyped_code_is_refused_before_anything_is_made(cli: Cli, code: str, word: str) -> None:
    cli("enrol", "--hub", "http://127.0.0.1:1", "--code", code).refused("code", word)
    assert not cli.data.exists()


def test_a_journal_that_is_none_is_named_and_kept(cli: Cli) -> None:
    for what in ("list", "verify"):
        cli("journal", what).refused("journal.db", "no journal yet")
    assert not cli.data.exists()
    cli.data.mkdir()
    path = cli.data / "journal.db"
    for content in (b"garbage" * 1000, b"x"):
        path.write_bytes(content)
        for what in ("list", "verify"):
            cli("journal", what).refused(str(path))
        assert f"TODO journal: {path}" in cli("doctor").out
        assert path.read_bytes() == content
    path.unlink()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE songs (title)")
    db.close()
    cli("journal", "list").refused(str(path), "another program")
    path.unlink()
    path.mkdir()
    cli("journal", "list").refused(str(path))


def test_what_a_damaged_journal_still_holds_is_taken_over(cli: Cli, tmp_path: Path) -> None:
    cli.journal(10)
    damaged = tmp_path / "damaged.db"
    (cli.data / "journal.db").rename(damaged)
    with damaged.open("r+b") as file:
        file.write(bytes(4096))  # SQLite reads it no more
    before = damaged.read_bytes()
    cli("journal", "salvage", str(tmp_path / "none")).refused("none", "No such file")
    answer = cli("journal", "salvage", str(damaged))
    assert (answer.status, "11 entries of 1 epochs" in answer.out) == (0, True), answer
    assert damaged.read_bytes() == before
    assert "sound: 11 entries in 1 epochs, 11 not yet received" in cli("journal", "verify").out
    again = cli("journal", "salvage", str(damaged), str(cli.data))
    assert (again.status, "nothing was found" in again.out) == (1, True)
    assert cli("journal", "salvage", str(damaged), str(tmp_path / "new")).status == 0
    assert (tmp_path / "new" / "journal.db").exists()
    itself = str(cli.data / "journal.db")
    cli("journal", "salvage", itself).refused("the journal itself")
    journal = Journal.open(cli.data, OWNER, bytes(16), Stamp(1, 2, trusted=True))
    cli("journal", "salvage", str(damaged)).refused("another shuaka-edge")
    journal.close()


def test_a_later_journal_is_named(cli: Cli) -> None:
    cli.journal()
    with closing(sqlite3.connect(cli.data / "journal.db")) as db, db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    cli("journal", "verify").refused("journal.db", "later version")


def test_the_journal_is_read_while_it_is_written(cli: Cli) -> None:
    journal = Journal.open(cli.data, OWNER, bytes(16), Stamp(1, 2, trusted=True))
    try:
        assert "sound: 1 entries" in cli("journal", "verify").out
        assert cli("journal", "list").out.count("\n") == 1
    finally:
        journal.close()


def test_listing_takes_the_last(cli: Cli) -> None:
    cli.journal(10)
    cli.journal(2)
    assert cli("journal", "list").out.count("\n") == 14
    lines = cli("journal", "list", "--last", "4").out.splitlines()
    assert [line.split()[1] for line in lines] == ["11", "1", "2", "3"]


def test_no_time_is_too_early_or_late_to_be_listed(cli: Cli) -> None:
    journal = Journal.open(cli.data, OWNER, bytes(16), Stamp(1, 2, trusted=True))
    journal.append(
        [ClockSample(Stamp(1, at, trusted=True)) for at in (EARLIEST_WALL_MS, MAX_TIME_MS)]
    )
    journal.close()
    with closing(sqlite3.connect(cli.data / "journal.db")) as db, db:
        later = cbor.encode([3, 1, 1 << 62, True])  # as no clock of this version tells it
        db.execute("INSERT INTO entries VALUES (1, 4, ?, zeroblob(32), NULL, NULL)", (later,))
    db.close()
    lines = cli("journal", "list").out.splitlines()
    assert [line.split()[2].lstrip("0") for line in lines] == [
        "1970-01-01",
        "855-01-19",
        "6429-10-17",
        "unreadable:",
    ]


def test_damage_is_found_and_the_file_left_as_it_is(cli: Cli) -> None:
    cli.journal(3)
    path = cli.data / "journal.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE entries SET entry = x'00' WHERE seq = 2")
    db.close()
    answer = cli("journal", "verify")
    assert answer.status == 1
    assert "entry 2" in answer.out
    assert "keep this file" in answer.out
    assert "unreadable" in cli("journal", "list").out


def test_the_doctor_changes_nothing(cli: Cli) -> None:
    cli("doctor")
    assert not cli.data.exists()
    Keys.load_or_make(cli.data)
    (cli.data / "enrolment.json").write_bytes(b"{}")
    before = {path: path.read_bytes() for path in cli.data.iterdir()}
    assert "TODO" in cli("doctor").out
    (cli.data / "keys.json").unlink()
    assert "TODO" in cli("doctor").out
    before.pop(cli.data / "keys.json")
    assert {path: path.read_bytes() for path in cli.data.iterdir()} == before


@pytest.mark.parametrize(
    ("boot", "uptime_s", "recorded_s", "minutes"),
    [
        (b"boot-boot-boot-1", 5_000, 5_000 - 599, None),
        (b"boot-boot-boot-1", 5_000, 5_000 - 601, 10),
        (b"an earlier boot.", 599, 100_000, None),
        (b"an earlier boot.", 3_601, 100_000, 60),
    ],
)
def test_the_doctor_is_not_content_while_nothing_reaches_the_hub(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    boot: bytes,
    uptime_s: int,
    recorded_s: int,
    minutes: int | None,
) -> None:
    monkeypatch.setattr(doctor, "SystemClock", lambda *_: FakeClock(uptime_s * 1_000))
    stamp = Stamp(recorded_s * 1_000, 2, trusted=True)
    journal = Journal.open(cli.data, OWNER, boot, Stamp(0, 2, trusted=True))
    journal.append([ClockSample(stamp)])
    journal.release(journal.epoch, 1)
    journal.flush()
    told = "journal: 1 entries not yet received by the hub"
    if minutes is None:
        assert f"ok   {told}\n" in cli("doctor").out
    else:
        assert f"TODO {told}, the oldest for {minutes} minutes\n" in cli("doctor").out
    journal.release(journal.epoch, 2)
    journal.flush()
    assert "ok   journal: 0 entries" in cli("doctor").out
    journal.close()


def test_the_doctor_tells_that_journal_and_hub_differ_until_that_is_over(cli: Cli) -> None:
    journal = Journal.open(cli.data, OWNER, bytes(16), Stamp(1, 2, trusted=True))
    words = "TODO journal and hub differ: a receipt was not followed (digest_differs)"
    assert words not in cli("doctor").out
    journal.alarm("digest_differs")
    assert words in cli("doctor").out
    journal.new_generation(2)
    assert words not in cli("doctor").out
    journal.alarm("digest_differs")
    journal.close()
    assert words in cli("doctor").out
    cli.journal()
    assert words not in cli("doctor").out


def test_the_doctor_tells_of_the_journal_of_a_former_enrolment(cli: Cli) -> None:
    cli.journal(3)
    new = Owner(b"another edge now", OWNER.hub_seal)
    Journal.open(cli.data, new, bytes(16), Stamp(1, 2, trusted=True)).close()
    told = cli("doctor")
    assert "TODO journal.db.former-1: the journal of this device's former enrolment" in told.out
    assert told.status == 1


def test_the_doctor_looks_at_the_keys_before_there_is_an_enrolment(cli: Cli) -> None:
    cli.data.mkdir()
    (cli.data / "keys.json").write_bytes(b"{")
    assert "TODO " + str(cli.data / "keys.json") in cli("doctor").out


def test_whoever_has_seen_enough_is_no_failure(cli: Cli) -> None:
    cli.journal(3000)
    command = f"{PROGRAM} journal list --config {cli.config}"
    seen = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -n 1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (seen.returncode, seen.stderr, seen.stdout.count("\n")) == (0, "", 1)
    # so little that it is written only at the end
    closed = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} --last 1 | true"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (closed.returncode, closed.stderr) == (0, "")
    full = subprocess.run(
        ["bash", "-c", f"{command} --last 1 > /dev/full"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    nowhere = subprocess.run(
        ["bash", "-c", f"{command} --last 1 >&-"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (nowhere.returncode, nowhere.stderr) == (0, "")
    assert full.returncode == 1
    assert full.stderr == "shuaka-edge: output: No space left on device\n"


def test_ctrl_c_leaves_no_traceback(cli: Cli, monkeypatch: Any) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edge.cli.enrol", interrupt)
    assert cli(*COMMANDS[1]) == Answer(130, "", "")


def test_the_doctor_sees_whether_anything_records(cli: Cli) -> None:
    assert "TODO shuaka-edge is not recording" in cli("doctor").out
    at = Stamp(1, 1_777_000_000_000, trusted=True)
    journal = Journal.open(cli.data, Owner(bytes(16), OpeningKey.generate().public), bytes(16), at)
    assert "ok   shuaka-edge is running and records" in cli("doctor").out
    journal.close()
    assert "TODO shuaka-edge is not recording" in cli("doctor").out
