"""A forgotten card, all real: the command on the device, a card at pcscd, the hub's database."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import create_engine, make_url, text

from edge.store import JournalReader
from protocol.journal import Action, decode_entry
from tests.e2e.test_kill import _kill_in
from tests.e2e.venue import Venue
from tests.rig import UidCard, wait_for

PROGRAM = Path(sys.executable).parent / "shuaka-edge"
ROUNDS = 4
SECRETARY = "04B108CBF27734"
"""The card of M001 in the demo's district."""


@pytest.fixture
def venue(rig_dir: Path) -> Iterator[Venue]:
    with Venue(rig_dir) as venue:
        yield venue


def act(venue: Venue, *words: str) -> "subprocess.Popen[str]":
    """The command, once it waits for a card."""
    process = subprocess.Popen(
        [PROGRAM, "act", *words, "--config", venue.edge.config],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "within 30 seconds" in line, line + process.stdout.read()
    return process


def rest_of(process: "subprocess.Popen[str]") -> str:
    """What it says until its end."""
    assert process.stdout is not None
    with process.stdout:
        said = process.stdout.read()
    process.wait(10)
    return said


def in_journal(venue: Venue) -> int:
    """Actions in the edge's journal."""
    reader = JournalReader(venue.edge.journal.parent)
    found = [
        decode_entry(entry)
        for held in reader.epochs()
        for _, entry, _, _ in reader.entries(held.epoch)
    ]
    reader.close()
    return sum(isinstance(entry, Action) for entry in found)


def at_hub(venue: Venue) -> list[tuple[object, ...]]:
    """(what, number, whose card, about whom) of each action."""
    engine = create_engine(make_url(venue.hub.database))
    with engine.connect() as conn:
        rows = conn.execute(
            text(
                "SELECT a.what, a.number, card.value, about.scheme, about.value FROM actions a"
                " JOIN entries e ON e.epoch_id = a.epoch_id AND e.seq = a.seq"
                " JOIN credentials card ON card.id = e.credential_id"
                " LEFT JOIN credentials about ON about.id = a.about_credential_id"
                " ORDER BY a.epoch_id, a.seq"
            )
        )
        found = [tuple(row) for row in rows]
    engine.dispose()
    return found


def meeting_now(venue: Venue, directory: Path) -> None:
    """M001 is the secretary of QX-01, which meets where the device hangs."""
    now = datetime.now(ZoneInfo("Asia/Shanghai"))
    begins, ends = (now + timedelta(minutes=each) for each in (-5, 60))
    registers = {
        "offices": "member,organisation,office,from\nM001,QX-01,书记,2020-01-01\n",
        "meetings": "code,organisation,kind,title,venue,start,end\n"
        f"ACT-1,QX-01,主题党日,学习,V-1,{begins:%Y-%m-%d %H:%M},{ends:%Y-%m-%d %H:%M}\n",
    }
    for register, content in registers.items():
        path = directory / f"{register}.csv"
        path.write_text(content, "utf-8")
        venue.hub.command("import", register, str(path))


def test_without_a_network_the_secretary_s_card_speaks_for_who_has_none(
    venue: Venue, tmp_path: Path
) -> None:
    meeting_now(venue, tmp_path)
    card = UidCard(bytes.fromhex(SECRETARY))
    venue.tap(SECRETARY)
    venue.wait_at_hub(SECRETARY)
    venue.hub.kill()
    for words in (["witness", "M002"], ["head-count", "23"], ["close"]):
        seen = len(venue.edge.lights)
        process = act(venue, *words)
        venue.edge.wait_line("请负责人刷卡确认", since=seen)
        venue.reader.tap_until_read(card)
        out = rest_of(process)
        assert process.returncode == 0, out
        assert "Recorded" in out
    venue.edge.wait_line("已记录：现场证明")
    assert (venue.in_journal(), in_journal(venue)) == (4, 3), "each is an action and no tap"
    venue.hub.start()
    wait_for(lambda: len(at_hub(venue)) == 3, "the actions at the hub", 30)
    assert at_hub(venue) == [
        (4, None, SECRETARY, "member", "M002"),
        (3, 23, SECRETARY, None, None),
        (2, None, SECRETARY, None, None),
    ]

    def attendance() -> dict[str, Any]:
        return dict(json.loads(venue.hub.command("attendance", "ACT-1", "--format", "json")))

    wait_for(lambda: attendance()["head_count"] == 23, "what follows from them", 15)
    told = attendance()
    verdicts = {row["person"]["code"]: row["verdict"] for row in told["rows"]}
    assert (verdicts["M001"], verdicts["M002"], verdicts["M003"]) == (
        "LATE",
        "WITNESSED",
        "NOT_SEEN",
    )
    assert told["held"] is True
    assert "sound" in venue.edge.command("journal", "verify")


@pytest.mark.timeout(300)
def test_a_command_says_recorded_only_of_what_survives_a_kill_at_any_moment(
    venue: Venue, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(20261124)
    told: Counter[str] = Counter()
    written = 0
    for number in range(ROUNDS):
        process = act(venue, "head-count", str(number))
        delay = chance.uniform(0, 0.008)
        answers = len(venue.reader.answers)
        venue.reader.on_answer = lambda _, delay=delay: _kill_in(venue.edge.pid, delay)
        venue.reader.present(UidCard(bytes.fromhex(SECRETARY)))
        wait_for(lambda before=answers: len(venue.reader.answers) > before, "a card that was read")
        venue.edge.kill()
        venue.reader.on_answer = None
        venue.reader.remove()
        out = rest_of(process)
        more = in_journal(venue) - written
        assert more in {0, 1}
        if "Recorded" in out:
            assert (process.returncode, more) == (0, 1), out
        else:
            assert process.returncode == 1
            assert "`shuaka-edge journal list --last 5` shows" in out, out
        told[f"{'said' if 'Recorded' in out else 'not said'}, {more} written"] += 1
        written += more
        venue.edge.start()
    # with the storage held, so that it is killed before the commit in any case
    process = act(venue, "open")
    with venue.journal_locked():
        venue.reader.present(UidCard(bytes.fromhex(SECRETARY)))
        time.sleep(0.4)
        venue.edge.kill()
    venue.reader.remove()
    assert "`shuaka-edge journal list --last 5` shows" in rest_of(process)
    assert in_journal(venue) == written
    venue.edge.start()
    with capsys.disabled():
        print(f"\n{dict(told)}")
    wait_for(lambda: len(at_hub(venue)) == written, "what was written, and no more, at the hub", 30)
    assert "sound" in venue.edge.command("journal", "verify")
