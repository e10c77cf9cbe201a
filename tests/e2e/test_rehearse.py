"""演练 through the command lines: a real hub and broker, and nothing of it counts."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, func, make_url, select
from sqlalchemy import table as table_of

from tests.e2e.venue import DISTRICT
from tests.rig import Mosquitto, find_program, wait_for
from tests.rig.product import CommandError, Edge, Hub

SHUAKA_EDGE = Path(sys.executable).parent / "shuaka-edge"


@dataclass
class Site:
    """A hub, its broker, and an enrolled device without a reader."""

    hub: Hub
    edge: Edge
    mosquitto: Mosquitto

    def rehearse(self, *options: str) -> tuple[str, int]:
        """Output and exit status."""
        done = subprocess.run(
            [SHUAKA_EDGE, "rehearse", "--config", self.edge.config, *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        return done.stdout + done.stderr, done.returncode

    def at_hub(self, table: str) -> int:
        engine = create_engine(make_url(self.hub.database))
        with engine.connect() as conn:
            count = conn.scalar(select(func.count()).select_from(table_of(table)))
        engine.dispose()
        return int(count)

    def left_behind(self) -> list[str]:
        data = self.edge.directory / "data"
        return [each.name for each in data.iterdir() if each.name.startswith("rehearsal")]


@pytest.fixture
def site(request: pytest.FixtureRequest, rig_dir: Path) -> Iterator[Site]:
    """On SQLite, unless a test asks for both."""
    is_postgres = getattr(request, "param", "") == "postgres"
    database = request.getfixturevalue("postgres_url") if is_postgres else ""
    with ExitStack() as stack:
        mosquitto = stack.enter_context(Mosquitto(rig_dir / "mosquitto"))
        broker = f"mqtt://127.0.0.1:{mosquitto.port}"
        hub = stack.enter_context(Hub(rig_dir / "hub", broker, database, broker))
        hub.command("init")
        for register in ("organisations", "members", "venues", "cards"):
            hub.command("import", register, str(DISTRICT / f"{register}.csv"))
        code = hub.command("device", "add", "门口-01", "--venue", "V-1").strip()
        hub.start()
        edge = stack.enter_context(Edge(rig_dir / "edge", {}))
        text_ = edge.config.read_text("utf-8").replace("[readers]\n", "[readers]\npcsc = false\n")
        edge.config.write_text(text_, "utf-8")
        edge.enrol(hub.url, code)
        yield Site(hub, edge, mosquitto)


def value_of(output: str, title: str) -> str:
    found = re.search(rf"^{re.escape(title)} +(\S.*)$", output, re.MULTILINE)
    assert found, output
    return found[1]


@pytest.mark.parametrize("site", ["sqlite", "postgres"], indirect=True)
@pytest.mark.timeout(240)
def test_a_venue_is_tried_and_nothing_of_it_counts(site: Site) -> None:
    credentials = site.at_hub("credentials")
    output, status = site.rehearse("--seed", "11")
    assert status == 0, output
    assert value_of(output, "模拟刷卡 presented") == "12"
    durable = value_of(output, "已存入存储卡 durable")
    assert value_of(output, "服务器已收到 received by the hub") == durable
    for title in ("丢失 lost", "重复 doubled", "误亮（未存先亮） false lights"):
        assert value_of(output, title) == "0"
    assert "通过 passed" in output
    assert output.count("断电 power") == 3
    assert site.left_behind() == []
    listed = site.hub.command("device", "list")
    assert re.search(rf"\t演练 20[-\d]+ [\d:]+ {durable}$", listed, re.MULTILINE), listed
    assert [site.at_hub(t) for t in ("entries", "readings", "attendances", "heartbeats")] == [0] * 4
    assert site.at_hub("credentials") == credentials
    assert site.at_hub("epochs") == 4
    # The device goes on as one that was never rehearsed, and is not rehearsed while it runs.
    site.edge.start(wait=False)
    site.edge.wait_line("读卡器未连接", timeout_s=20)
    refused, status = site.rehearse()
    assert status == 1
    assert "systemctl stop shuaka-edge" in refused
    assert "systemctl start shuaka-edge" in refused
    wait_for(lambda: site.at_hub("heartbeats") > 0, "a heartbeat", 20)
    wait_for(lambda: site.at_hub("entries") > 0, "an entry of the journal", 20)
    first = site.hub.account("op", "技术员", "QX")
    with httpx.Client() as client:
        site.hub.sign_in(client, "op", first)
        page = client.get(f"{site.hub.url}/devices").text
        [path] = set(re.findall(r"/devices/[0-9a-f-]{36}", page))
        shown = client.get(site.hub.url + path).text
    assert "分叉" not in shown
    assert f"收到{durable}次模拟刷卡" in shown
    site.edge.stop()
    assert "sound" in site.edge.command("journal", "verify")


@pytest.mark.timeout(120)
def test_a_hub_that_does_not_answer_is_found_out(site: Site) -> None:
    site.hub.stop()
    output, status = site.rehearse("--faults", "none", "--cards", "2", "--seconds", "2")
    assert status == 1
    assert value_of(output, "没有等到服务器回执 no receipt in time") == "2 (1, 2)"
    assert value_of(output, "丢失 lost") == "0"


@pytest.mark.timeout(120)
def test_cancelled_at_any_moment_it_leaves_nothing(site: Site) -> None:
    for delay_s, number in ((0, signal.SIGINT), (1.5, signal.SIGINT), (4, signal.SIGTERM)):
        process = subprocess.Popen(
            [
                # Whoever started the tests may ignore Ctrl-C.
                *(find_program("env", "coreutils"), "--default-signal=INT"),
                *(SHUAKA_EDGE, "rehearse", "--config", site.edge.config, "--seed", "3"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        assert "演练" in process.stdout.readline()
        time.sleep(delay_s)
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 130, output
        assert "Traceback" not in output
        assert site.left_behind() == []
        assert not [
            each
            for each in Path("/proc").glob("[0-9]*/cmdline")
            if b"edge.rehearsal.child" in _read(each) and _parent(each) in {1, process.pid}
        ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _parent(cmdline: Path) -> int:
    stat = _read(cmdline.with_name("stat"))
    return int(stat.rpartition(b")")[2].split()[1]) if stat else -1


@pytest.mark.timeout(60)
def test_what_was_left_by_one_that_was_killed_is_cleared_away(site: Site) -> None:
    process = subprocess.Popen(
        [SHUAKA_EDGE, "rehearse", "--config", site.edge.config, "--offline"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: bool(site.left_behind()), "a scratch journal")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert site.left_behind()
    output, status = site.rehearse("--offline", "--faults", "none", "--cards", "1")
    assert status == 0, output
    assert site.left_behind() == []


def test_who_is_not_enrolled_rehearses_offline_alone(rig_dir: Path) -> None:
    edge = Edge(rig_dir / "edge", {})
    with pytest.raises(CommandError, match=r"not enrolled.*--offline"):
        edge.command("rehearse")
    assert "通过 passed" in edge.command(
        "rehearse", "--offline", "--faults", "none", "--cards", "1"
    )
    assert not (edge.directory / "data").exists()
