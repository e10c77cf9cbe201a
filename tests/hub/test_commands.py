"""What single commands of `shuaka-hub` promise beyond what they refuse."""

import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from hub.store import engine
from tests.hub.test_cli import ORGANISATIONS, VENUES, Cli


@pytest.fixture
def hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cli]:
    cli = Cli(tmp_path, capsys, monkeypatch)
    cli.config.write_text('data = "data"\nlisten = "127.0.0.1:1"\n', encoding="utf-8")
    monkeypatch.setenv("SHUAKA_HUB_CONFIG", str(cli.config))
    mask = os.umask(0o022)
    cli.ok("init")
    cli.ok("import", "organisations", cli.file("organisations.csv", ORGANISATIONS))
    cli.ok("import", "venues", cli.file("venues.csv", VENUES))
    yield cli
    os.umask(mask)


MEETINGS = "code,organisation,kind,title,venue,start,end\n"


def test_a_meeting_in_1950_is_refused_in_words(hub: Cli) -> None:
    path = hub.file("m.csv", f"{MEETINGS}m,qu,党课,课,hall,1950-01-01 10:00,1950-01-01 11:00\n")
    answer = hub("import", "meetings", path)
    assert answer.status == 1
    assert "第2行 start列" in answer.err


@pytest.mark.parametrize(
    "command",
    [
        "rejections|--last|99999999999999999999",
        "rejections|--last|1001",
        "rejections|--last|-1",
        "device|move|门口|--venue|hall|--since|0001-01-01T00:00",
        "device|move|门口|--venue|hall|--since|9999-12-31T23:59",
        "attendance|--org|qu|--from|1999-12-31",
        "attendance|--org|qu|--to|2200-01-01",
        "import|venues|{}|--rename",
    ],
)
def test_numbers_and_days_out_of_bounds_are_a_wrong_call(hub: Cli, command: str) -> None:
    before = hub.dump()
    hub(*command.format(hub.file("v.csv", VENUES)).split("|")).refused(status=2)
    assert hub.dump() == before


def test_bounds_themselves_are_allowed(hub: Cli) -> None:
    hub.ok("rejections", "--last", "1000")
    hub.ok("attendance", "--org", "qu", "--from", "2000-01-01", "--to", "2199-12-31")
    hub.ok("attendance", "--org", "qu")


def test_a_person_is_renamed_by_saying_so(hub: Cli) -> None:
    header = "code,name,organisation,from\n"
    hub.ok("import", "members", hub.file("a.csv", f"{header}m1,李一,qu,2026-01-01\n"))
    renamed = hub.file("b.csv", f"{header}m1,李改名,qu,2026-01-01\n")
    answer = hub("import", "members", renamed)
    assert answer.status == 1
    assert "--rename" in answer.err
    assert "1 changed" in hub.ok("import", "members", renamed, "--rename")


def test_a_command_that_only_reads_waits_for_no_writer(hub: Cli) -> None:
    with closing(sqlite3.connect(hub.database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        for command in ("device|list", "token|list", "rejections", "attendance|--org|qu"):
            hub.ok(*command.split("|"))
        assert time.monotonic() - began < 10
        writer.execute("ROLLBACK")


def test_only_serve_and_restored_bring_an_older_database_up_to_date(
    hub: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = shutil.copytree(engine._MIGRATIONS, tmp_path / "migrations")
    with closing(sqlite3.connect(hub.database)) as db:
        [newest] = db.execute("SELECT version_num FROM alembic_version").fetchone()
    (scripts / "versions" / "9999_next.py").write_text(
        f'from alembic import op\nrevision, down_revision = "9999", "{newest}"\n'
        'def upgrade():\n    op.execute("CREATE TABLE next (id INTEGER)")\n',
        encoding="utf-8",
    )
    monkeypatch.setattr(engine, "_MIGRATIONS", scripts)
    before = hub.dump()
    for command in ("device|list", "device|add|x|--venue|hall", "attendance|--org|qu"):
        hub(*command.split("|")).refused(str(hub.database), "earlier version", "shuaka-hub serve")
    assert hub.dump() == before
    hub.ok("restored")
    assert any("CREATE TABLE next" in line for line in hub.dump())
    hub.ok("device", "list")


def test_restored_is_refused_while_the_hub_is_served(hub: Cli) -> None:
    before = hub.dump()
    served = engine.open_engine(f"sqlite:///{hub.database}")
    with engine.serving(served):
        hub("restored").refused(str(hub.database), "serve", "stop it")
    assert hub.dump() == before
    hub.ok("restored")
    assert hub.dump() != before


def test_restored_is_refused_beside_what_belongs_to_another_database(hub: Cli) -> None:
    backup = hub.folder / "backup.db"
    with closing(sqlite3.connect(hub.database)) as live:
        live.execute("VACUUM INTO ?", [str(backup)])
    with closing(sqlite3.connect(hub.database)) as live:
        live.execute("UPDATE policies SET source = 'later'")
        live.commit()
        wal = Path(f"{hub.database}-wal")
        left = wal.read_bytes()
        assert left
    hub.database.unlink()
    backup.rename(hub.database)
    wal.write_bytes(left)
    whole = hub.database.read_bytes()
    hub("restored").refused(str(wal), "move it", "-shm")
    assert (hub.database.read_bytes(), wal.read_bytes()) == (whole, left)
    wal.unlink()
    hub.ok("restored")
    assert not any("later" in line for line in hub.dump())


def test_a_device_is_listed_with_the_day_since_when_it_hangs_there(hub: Cli) -> None:
    hub.ok("import", "venues", hub.file("w.csv", f"{VENUES}room,小房间,qu\n"))
    hub.ok("device", "add", "门口", "--venue", "hall")
    time.sleep(1.1)  # a placement begins with a whole second
    hub.ok("device", "move", "门口", "--venue", "room")
    [name, status, venue, since, *never] = hub.ok("device", "list").strip().split("\t")
    assert never == ["-", "-"]
    assert (name, status, venue) == ("门口", "PENDING", "room")
    assert abs(datetime.fromisoformat(f"{since}+08:00").timestamp() - time.time()) < 60
    hub.ok("device", "unplace", "门口", "--since", "2190-01-01T00:00")
    assert "room" in hub.ok("device", "list"), "not before its time"
    hub("device", "unplace", "门口").refused("given already")
    hub("device", "unplace", "nobody").refused("“nobody”", "no device")


def test_an_account_is_made_listed_reset_and_ended(hub: Cli) -> None:
    account = ("account", "add", "Wang", "--name", "王", "--role", "支部书记", "--org", "qu")
    first = hub.ok(*account).strip()
    assert re.fullmatch(r"(?:[a-z2-9]{4}-){3}[a-z2-9]{4}", first)
    assert hub.ok("account", "list") == "wang\t王\t支部书记 SECRETARY\t某区党委\tactive\n"
    with closing(sqlite3.connect(hub.database)) as db, db:
        db.execute("UPDATE accounts SET locked_until_ms = ?", [int(time.time() + 60) * 1000])
    assert hub.ok("account", "list").endswith("\tlocked\n")
    second = hub.ok("account", "reset", "WANG").strip()
    assert hub.ok("account", "list").endswith("\tactive\n")
    assert second != first
    hub.ok("account", "disable", "wang")
    assert hub.ok("account", "list").endswith("\tdisabled\n")
    stored = "\n".join(hub.dump())
    assert first not in stored
    assert second not in stored
    for what in ("account.create", "account.reset_password", "account.disable"):
        assert stored.count(f"'{what}'") == 1
    assert "'hub 命令行'" in stored


def test_the_last_operator_cannot_be_disabled(hub: Cli) -> None:
    hub.ok("account", "add", "a", "--name", "甲", "--role", "OPERATOR", "--org", "qu")
    hub("account", "disable", "a").refused("last operator")
    hub.ok("account", "add", "b", "--name", "乙", "--role", "OPERATOR", "--org", "qu")
    hub.ok("account", "disable", "a")
    hub("account", "disable", "b").refused("last operator")


def test_a_token_is_made_listed_and_revoked_and_the_audit_log_says_so(hub: Cli) -> None:
    token = hub.ok("token", "add", "统计", "--org", "qu").strip()
    assert token.startswith("shk_")
    [name, role, organisation, _, state] = hub.ok("token", "list").strip().split("\t")
    assert (name, role, organisation, state) == ("统计", "监督员 AUDITOR", "qu", "valid")
    hub.ok("token", "revoke", "统计")
    hub.ok("token", "revoke", "统计")
    assert hub.ok("token", "list").strip().endswith("\trevoked")
    stored = "\n".join(hub.dump())
    assert token not in stored
    assert (stored.count("'token.create'"), stored.count("'token.revoke'")) == (1, 1)
