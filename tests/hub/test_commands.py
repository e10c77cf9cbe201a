"""What single commands of `shuaka-hub` promise beyond what they refuse."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

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
