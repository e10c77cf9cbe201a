"""Bad input to `shuaka-hub`: one line that says what, where and what to do; nothing half-done."""

import json
import os
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from hub.cli import main
from hub.imports.rows import MAX_BYTES
from tests.hub.test_import_files import sheet

ORGANISATIONS = "code,name,kind,parent\nqu,某区党委,党委,\n"
VENUES = "code,name,organisation\nhall,礼堂,qu\n"


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str

    def refused(self, *words: str, status: int = 1) -> None:
        """It said no in one line of plain words, each of `words` among them."""
        assert self.status == status, self
        assert "Traceback" not in self.err
        if status == 1:
            assert self.err.startswith("shuaka-hub: ")
            assert self.err.count("\n") == 1, self.err
            assert self.out == ""
        for word in words:
            assert word in self.err


@dataclass(frozen=True)
class Cli:
    folder: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    @property
    def config(self) -> Path:
        return self.folder / "hub.toml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def keys(self) -> Path:
        return self.data / "hub-keys.json"

    @property
    def database(self) -> Path:
        return self.data / "hub.db"

    def __call__(self, *arguments: str) -> Answer:
        self.patch.setattr(sys, "argv", ["shuaka-hub", *arguments])
        self.capture.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(bool(end.code))
        told = self.capture.readouterr()
        return Answer(status, told.out, told.err)

    def ok(self, *arguments: str) -> str:
        answer = self(*arguments)
        assert answer.status == 0, answer
        return answer.out

    def file(self, name: str, content: str) -> str:
        path = self.folder / name
        path.write_text(content, encoding="utf-8")
        return str(path)

    def dump(self) -> list[str]:
        """Everything in the database."""
        with closing(sqlite3.connect(self.database)) as db, db:
            found = list(db.iterdump())
        db.close()
        return found


@pytest.fixture
def cli(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cli]:
    cli = Cli(tmp_path, capsys, monkeypatch)
    cli.config.write_text('data = "data"\nlisten = "127.0.0.1:1"\n', encoding="utf-8")
    monkeypatch.setenv("SHUAKA_HUB_CONFIG", str(cli.config))
    mask = os.umask(0o022)
    yield cli
    os.umask(mask)
    structlog.reset_defaults()  # `serve` sets the process's log


_made: dict[str, bytes] = {}
"""The files of an initialised hub, made once: each commit is synced, which takes its time."""


@pytest.fixture
def hub(cli: Cli) -> Cli:
    """Initialised, with an organisation and a venue."""
    if not _made:
        cli.ok("init")
        cli.ok("import", "organisations", cli.file("organisations.csv", ORGANISATIONS))
        cli.ok("import", "venues", cli.file("venues.csv", VENUES))
        _made.update({path.name: path.read_bytes() for path in cli.data.iterdir()})
    cli.data.mkdir(mode=0o700, exist_ok=True)
    for name, content in _made.items():
        (cli.data / name).write_bytes(content)
        (cli.data / name).chmod(0o600)
    return cli


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data = ?", ("is not TOML", "line 1")),
        ("a = " + "[" * 5000, ("is not TOML",)),
        ('dta = "x"', ("dta", "unknown setting")),
        ("[web]\nport = 1", ("web", "unknown setting")),
        ("data = 5", ("data", "path of a folder")),
        ('data = ""', ("data", "path of a folder")),
        ('data = "a\\u0000b"', ("data", "path of a folder")),
        ("listen = 8000", ("listen",)),
        ('listen = "8000"', ("listen", "ADDRESS:PORT")),
        ('listen = "[]:8000"', ("listen", "ADDRESS:PORT")),
        ('listen = "0.0.0.0:0"', ("listen", "ADDRESS:PORT")),
        ('mqtt = "http://x"', ("mqtt", "mqtt://HOST")),
        ('edge_mqtt = "mqtt://x:99999"', ("edge_mqtt",)),
        ('database = "mysql://x/y"', ("database", "mysql")),
        ('database = "hub.db"', ("database", "sqlite:///FILE")),
        ('database = "sqlite://"', ("database", "sqlite:///FILE")),
    ],
)
def test_a_mistaken_setting_is_named_with_its_file(
    cli: Cli, text: str, words: tuple[str, ...]
) -> None:
    cli.config.write_text(text, encoding="utf-8")
    cli("init").refused(str(cli.config), *words)
    assert sorted(path.name for path in cli.folder.iterdir()) == ["hub.toml"]


def test_a_file_that_cannot_be_read_is_named(cli: Cli) -> None:
    cli("init", "--config", str(cli.folder / "no.toml")).refused("no.toml", "no such file")
    cli("init", "--config", str(cli.folder)).refused(str(cli.folder), "no such file")
    cli.config.write_bytes(b"\xff\xfe")
    cli("init").refused("hub.toml", "UTF-8")


def test_a_mistaken_environment_variable_is_named(cli: Cli, monkeypatch: Any) -> None:
    monkeypatch.setenv("SHUAKA_HUB_LISTEN", "here")
    cli("init").refused("SHUAKA_HUB_LISTEN", "ADDRESS:PORT")
    monkeypatch.delenv("SHUAKA_HUB_LISTEN")
    monkeypatch.setenv("SHUAKA_HUB_DATABSE", "sqlite:///x.db")
    cli("init").refused("SHUAKA_HUB_DATABSE", "unknown setting")
    assert not cli.data.exists()


def test_a_relative_database_lies_beside_the_file_that_names_it(cli: Cli) -> None:
    cli.config.write_text('data = "data"\ndatabase = "sqlite:///mine.db"', encoding="utf-8")
    assert str(cli.folder / "mine.db") in cli.ok("init")
    assert (cli.folder / "mine.db").exists()


# --- init -----------------------------------------------------------------------------------------


def test_what_init_makes_is_for_its_own_user_alone(cli: Cli) -> None:
    cli.ok("init")
    for path in [cli.data, *cli.data.iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path
    made = ["hub-ca.key", "hub-ca.pem", "hub-keys.json", "hub.db"]
    assert sorted(path.name for path in cli.data.iterdir()) == made


def test_a_second_init_changes_nothing(hub: Cli) -> None:
    before = hub.keys.read_bytes(), hub.dump()
    hub("init").refused(str(hub.database), "belongs to a hub already")
    assert (hub.keys.read_bytes(), hub.dump()) == before


def test_init_over_a_database_whose_keys_are_lost_asks_for_them(hub: Cli) -> None:
    hub.keys.unlink()
    before = hub.dump()
    hub("init").refused("restore its hub-keys.json")
    assert not hub.keys.exists()
    assert hub.dump() == before


def test_init_for_a_lost_database_keeps_the_keys(hub: Cli) -> None:
    keys = hub.keys.read_bytes()
    hub.database.unlink()
    hub("device", "list").refused(str(hub.database), "restore it", "init")
    assert not hub.database.exists()
    hub.ok("init")
    assert hub.keys.read_bytes() == keys
    assert hub.ok("device", "list") == ""


@pytest.mark.parametrize("step", ["hub.cli.migrate", "hub.cli.begin_generation", "os.link"])
def test_an_interrupted_init_can_be_repeated(cli: Cli, monkeypatch: Any, step: str) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(step, kill)
        with pytest.raises(Killed):
            cli("init")
    keys = cli.keys.read_bytes() if cli.keys.exists() else None
    if keys is not None:
        cli("device", "list").refused("run", "shuaka-hub init")
    cli.ok("init")
    assert keys in {None, cli.keys.read_bytes()}
    assert cli.ok("device", "list") == ""


def test_a_data_folder_that_is_a_file_is_named(cli: Cli) -> None:
    cli.data.write_bytes(b"mine")
    cli("init").refused(str(cli.data), "File exists")
    cli.config.write_text('data = "data/deeper"', encoding="utf-8")
    cli("init").refused(str(cli.data / "deeper"), "Not a directory")
    assert cli.data.read_bytes() == b"mine"


def test_init_leaves_the_database_of_another_program_alone(cli: Cli) -> None:
    cli.data.mkdir()
    with closing(sqlite3.connect(cli.database)) as db, db:
        db.execute("CREATE TABLE songs (title)")
    db.close()
    before = cli.dump()
    cli("init").refused(str(cli.database), "another program")
    assert cli.dump() == before
    assert not cli.keys.exists()


# --- keys -----------------------------------------------------------------------------------------


def _changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(path: Path) -> None:
        content = json.loads(path.read_bytes())
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")

    return apply


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), ("no keys yet", "init")),
        (lambda path: path.write_bytes(b""), ("backup",)),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), ("backup",)),
        (lambda path: path.write_bytes(b"\xff"), ("backup",)),
        (lambda path: path.write_text("[]"), ("backup",)),
        (lambda path: path.write_text("[" * 100_000), ("backup",)),
        (_changed(lambda keys: keys.update(open=[])), ("no opening key", "backup")),
        (_changed(lambda keys: keys.update(open="abcd")), ("backup",)),
        (_changed(lambda keys: keys.update(sign="AAAA")), ("32 bytes", "backup")),
        (_changed(lambda keys: keys.pop("sign")), ("'sign' is missing", "backup")),
        (_changed(lambda keys: keys.update(format=3)), ("format 3",)),
        (lambda path: path.chmod(0o644), ("every user", "chmod 600")),
    ],
)
def test_keys_that_cannot_be_used_stop_every_command(
    hub: Cli, damage: Callable[[Path], object], words: tuple[str, ...]
) -> None:
    damage(hub.keys)
    before = hub.dump()
    for command in (["serve"], ["device", "add", "门口", "--venue", "hall"], ["token", "list"]):
        hub(*command).refused(str(hub.keys), *words)
    assert hub.dump() == before


# --- database -------------------------------------------------------------------------------------


def test_a_database_that_cannot_be_used_is_named(hub: Cli) -> None:
    with closing(sqlite3.connect(hub.database)) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    db.close()
    before = hub.dump()
    for command in (["serve"], ["init"], ["device", "list"]):
        hub(*command).refused()
    hub("device", "list").refused("9999", "newer version")
    assert hub.dump() == before
    hub.database.write_bytes(b"no database " * 100)
    for command in (["serve"], ["init"], ["device", "list"]):
        hub(*command).refused(str(hub.database), "not a database")
    hub.config.write_text('data = "data"\ndatabase = "sqlite:////proc/no.db"', encoding="utf-8")
    hub("init").refused("/proc/no.db", "unable to open")


def test_a_database_server_that_is_down_is_named_without_its_password(hub: Cli) -> None:
    hub.config.write_text(
        'data = "data"\ndatabase = "postgresql://me:secret@127.0.0.1:1/hub"', encoding="utf-8"
    )
    for command in (["serve"], ["init"], ["device", "list"]):
        answer = hub(*command)
        answer.refused("127.0.0.1:1/hub", "refused")
        assert "secret" not in answer.err


@pytest.mark.servers
def test_a_role_without_rights_is_named(hub: Cli, postgres: Any, postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2]
    postgres._run(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')
    postgres._run("DROP ROLE IF EXISTS nobody_here")
    hub.config.write_text(
        f'data = "data"\ndatabase = "{postgres_url.replace("shuaka@", "nobody_here@")}"',
        encoding="utf-8",
    )
    hub("device", "list").refused(name, "nobody_here")


# --- what a command is called with ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("device|add|x|--venue|no", ("“no”", "venue")),
        ("device|add||--venue|hall", ("1 to 64",)),
        ("device|add| |--venue|hall", ("1 to 64",)),
        ("device|add|a\tb|--venue|hall", ("1 to 64",)),
        (f"device|add|{'长' * 65}|--venue|hall", ("1 to 64",)),
        ("token|add|x|--org|no", ("“no”", "organisation")),
        (f"token|add|{'x' * 65}|--org|qu", ("1 to 64",)),
        ("token|add|a\nb|--org|qu", ("1 to 64",)),
        ("token|add|x|--org|qu|--role|MEMBER", ("member",)),
        ("token|add|x|--org|qu|--member|no", ("'no'", "member")),
        ("token|revoke|no", ("“no”", "token")),
        ("account|add|x|--name|甲|--role|OPERATOR|--org|no", ("'no'", "organisation")),
        ("account|add|x|--name|甲|--role|MEMBER|--org|qu", ("member",)),
        ("account|add|x|--name|甲|--role|MEMBER|--org|qu|--member|no", ("'no'", "member")),
        ("account|add|x|--name||--role|OPERATOR|--org|qu", ("name",)),
        ("account|add|a b|--name|甲|--role|OPERATOR|--org|qu", ("login", "no blanks")),
        (f"account|add|{'x' * 65}|--name|甲|--role|OPERATOR|--org|qu", ("login", "1 to 64")),
        ("account|reset|no", ("'no'", "account")),
        ("account|disable|no", ("'no'", "account")),
        ("attendance|no", ("'no'", "meeting")),
        ("attendance|--member|no", ("'no'", "member")),
        ("attendance|--org|no", ("'no'", "organisation")),
        ("import|members|/no/such.csv", ("/no/such.csv", "No such file")),
        ("import|members|/", ("/", "directory")),
    ],
)
def test_what_is_not_there_or_not_allowed_is_named(
    hub: Cli, command: str, words: tuple[str, ...]
) -> None:
    before = hub.dump()
    hub(*command.split("|")).refused(*words)
    assert hub.dump() == before


@pytest.mark.parametrize(
    "command",
    [
        "attendance",
        "attendance|x|--member|y",
        "attendance|x|--from|2026-01-01",
        "attendance|--org|qu|--from|2026-02-30",
        "attendance|--org|qu|--from|yesterday",
        "attendance|--org|qu|--to|9999-12-31",
        "attendance|--org|qu|--from|0001-01-01",
        "attendance|--org|qu|--from|2026-02-01|--to|2026-01-31",
        "attendance|x|--format|xml",
        "import|nonsense|x.csv",
        "device|add|x",
        "serve|now",
        "token|revoke|\udcff",
        "account|add|x|--name|甲|--role|皇帝|--org|qu",
        "account|add|x|--role|OPERATOR|--org|qu",
        "account|list|x",
        "device|add|x|--venue|\udcff",
        "attendance|\udcff",
    ],
)
def test_a_wrong_call_is_refused(hub: Cli, command: str) -> None:
    hub(*command.split("|")).refused(status=2)


def test_a_name_is_given_once(hub: Cli) -> None:
    hub.ok("token", "add", "秘书", "--org", "qu")
    hub("token", "add", " 秘书", "--org", "qu").refused("“秘书”", "already")
    account = ("account", "add", "Wang", "--name", "王", "--role", "管理员", "--org", "qu")
    hub.ok(*account)
    hub(*account).refused("login", "taken")
    first = hub.ok("device", "add", "门口", "--venue", "hall")
    assert hub.ok("device", "add", "门口", "--venue", "hall") != first, "a new code"
    assert hub.ok("device", "list").startswith("门口\tPENDING\thall\t2")


def test_a_file_that_cannot_be_taken_is_refused_whole(hub: Cli) -> None:
    before = hub.dump()
    wrong = {
        "empty.csv": b"",
        "zero.csv": b"a\0b",
        "latin.csv": "code,name\nx,ü".encode("latin-1"),
        "columns.csv": b"code,colour\nx,red\n",
        "row.csv": "code,name,organisation,from\nm1,甲,qu,2026-01-01\nm2,乙,no,soon\n".encode(),
    }
    for name, content in wrong.items():
        path = hub.folder / name
        path.write_bytes(content)
        answer = hub("import", "members", str(path))
        assert answer.status == 1
        assert answer.out == ""
        assert all(line.startswith(f"{path}: ") for line in answer.err.splitlines()), answer.err
        assert "nothing was taken" in answer.err
    assert "第3行 from列" in answer.err
    assert "第3行 organisation列" in answer.err
    assert hub.dump() == before


def test_an_excel_file_is_taken_like_a_csv(hub: Cli, tmp_path: Path) -> None:
    path = tmp_path / "组织.xlsx"
    rows = [["编号", "名称", "类型", "上级编号"], ["另一区", "另一区党委", "党委", ""]]
    path.write_bytes(sheet(rows))
    assert "1 added" in hub.ok("import", "organisations", str(path))
    assert "1 unchanged" in hub.ok("import", "organisations", str(path))
    path.write_bytes(sheet([*rows, [330102199001011234, "甲村党支部", "党支部", "另一区"]]))
    answer = hub("import", "organisations", str(path))
    assert answer.status == 1
    assert "第3行 编号列" in answer.err
    assert "请将该列设为文本格式" in answer.err


def test_a_file_without_end_is_refused(hub: Cli) -> None:
    answer = hub("import", "members", "/dev/zero")
    assert answer.status == 1
    assert f"{MAX_BYTES >> 20} MB" in answer.err


# --- serve ----------------------------------------------------------------------------------------


def test_an_address_that_is_taken_is_named(hub: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        hub.config.write_text(f'data = "data"\nlisten = "{address}"', encoding="utf-8")
        hub("serve").refused(f"listen: {address}", "in use")
    hub.config.write_text('data = "data"\nlisten = "192.0.2.1:80"', encoding="utf-8")
    hub("serve").refused("listen: 192.0.2.1:80", "assign")
