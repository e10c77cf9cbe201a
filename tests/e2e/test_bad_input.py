"""Both commands as processes: what is refused leaves all as it was, and SIGTERM is obeyed soon.

The finer points of bad input are in the tests of each command line and of the enrolment.
"""

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.e2e.venue import DISTRICT
from tests.rig import Mosquitto, Pcscd, TcpProxy, UidCard, VirtualReader, wait_for
from tests.rig.product import CommandError, Edge, Hub

SOON_S = 6.0
_NO_PCSCD = {"PCSCLITE_CSOCK_NAME": "/nonexistent/pcscd.comm"}


@pytest.fixture(scope="module")
def hub_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of an initialised hub, made once."""
    made = Hub(tmp_path_factory.mktemp("hub"), "mqtt://127.0.0.1:1")
    made.command("init")
    for register in ("organisations", "members", "venues", "cards"):
        made.command("import", register, str(DISTRICT / f"{register}.csv"))
    return made.directory / "data"


@pytest.fixture
def hub(rig_dir: Path, hub_files: Path, mosquitto: Mosquitto) -> Iterator[Hub]:
    """A hub with the example district, not started."""
    with Hub(rig_dir / "hub", mosquitto.url) as hub:
        (rig_dir / "hub" / "data").mkdir(mode=0o700)
        for path in hub_files.iterdir():
            copy = rig_dir / "hub" / "data" / path.name
            copy.write_bytes(path.read_bytes())
            copy.chmod(0o600)
        yield hub


@pytest.fixture
def edge(rig_dir: Path) -> Iterator[Edge]:
    """An edge that is not enrolled, without any pcscd."""
    with Edge(rig_dir / "edge", _NO_PCSCD) as edge:
        yield edge


def enrolled(edge: Edge, hub: Hub) -> None:
    """Enrols, and leaves the hub stopped."""
    code = hub.command("device", "add", "门口", "--venue", "V-1").strip()
    hub.start()
    edge.enrol(hub.url, code)
    hub.stop()


def refused(edge: Edge, *arguments: str) -> str:
    with pytest.raises(CommandError) as error:
        edge.command(*arguments)
    text = str(error.value)
    assert "status 1\n" in text
    assert "Traceback" not in text
    return text


def ends_soon(edge: Edge) -> None:
    began = time.monotonic()
    assert edge.stop() == 0, edge.log_tail()
    assert time.monotonic() - began < SOON_S
    log = (edge.directory / "edge.log").read_text(encoding="utf-8")
    assert "Traceback" not in log, log


# --- enrolment with a real hub --------------------------------------------------------------------


def test_codes_that_do_not_fit_enrol_nobody(hub: Hub, edge: Edge, rig_dir: Path) -> None:
    code = hub.command("device", "add", "门口", "--venue", "V-1").strip()
    arguments = ("enrol", "--hub", hub.url, "--code")
    assert "cannot be reached" in refused(edge, *arguments, code)
    hub.start()
    # a code of another hub
    other = Hub(rig_dir / "other", "mqtt://127.0.0.1:1")
    other.command("init")
    for register in ("organisations", "venues"):
        other.command("import", register, str(DISTRICT / f"{register}.csv"))
    foreign = other.command("device", "add", "门口", "--venue", "V-1").strip()
    assert "403" in refused(edge, *arguments, foreign)
    # a code that was replaced
    newer = hub.command("device", "add", "门口", "--venue", "V-1").strip()
    assert "403" in refused(edge, *arguments, code)
    # an expired one
    with closing(sqlite3.connect(rig_dir / "hub" / "data" / "hub.db")) as db, db:
        kept = db.execute("SELECT max(expires_ms) FROM enrolment_codes").fetchone()
        db.execute("UPDATE enrolment_codes SET expires_ms = 1")
    assert "403" in refused(edge, *arguments, newer)
    assert not (edge.directory / "data" / "enrolment.json").exists()
    assert hub.command("device", "list").startswith("门口\tPENDING\tV-1\t")
    with closing(sqlite3.connect(rig_dir / "hub" / "data" / "hub.db")) as db, db:
        db.execute("UPDATE enrolment_codes SET expires_ms = ?", kept)
    edge.enrol(hub.url, newer)
    assert hub.command("device", "list").startswith("门口\tACTIVE\tV-1\t")
    before = (edge.directory / "data" / "enrolment.json").read_bytes()
    assert "enrolled already" in refused(edge, *arguments, newer)
    # a reply that was lost: the same again gives the same
    (edge.directory / "data" / "enrolment.json").unlink()
    edge.enrol(hub.url, newer)
    assert (edge.directory / "data" / "enrolment.json").read_bytes() == before
    # another device with the used code
    with Edge(rig_dir / "second", _NO_PCSCD) as second:
        assert "409" in refused(second, *arguments, newer)
        assert not (rig_dir / "second" / "data" / "enrolment.json").exists()


# --- SIGTERM in every state -----------------------------------------------------------------------


def test_an_edge_that_waits_for_its_enrolment_ends(edge: Edge) -> None:
    edge.start(wait=False)
    edge.wait_line("未登记")
    ends_soon(edge)


def test_an_edge_without_pcscd_and_broker_ends(hub: Hub, edge: Edge) -> None:
    enrolled(edge, hub)
    edge.start(wait=False)
    edge.wait_line("未连接")
    time.sleep(2)
    ends_soon(edge)


def test_an_edge_whose_pcscd_hangs_or_dies_ends(hub: Hub, pcscd: Pcscd, rig_dir: Path) -> None:
    with Edge(rig_dir / "edge", pcscd.env) as edge:
        enrolled(edge, hub)
        edge.start()
        os.kill(pcscd.child.pid, signal.SIGSTOP)
        try:
            time.sleep(1)
            ends_soon(edge)
            edge.start(wait=False)
            time.sleep(2)
            ends_soon(edge)
        finally:
            os.kill(pcscd.child.pid, signal.SIGCONT)
        edge.start()
        ends_soon(edge)


def test_an_edge_with_a_dead_line_and_a_locked_journal_ends(
    hub: Hub, pcscd: Pcscd, rig_dir: Path, mosquitto: Mosquitto
) -> None:
    with TcpProxy(mosquitto.port) as proxy:
        hub.config.write_text(
            hub.config.read_text(encoding="utf-8").replace(
                'edge_mqtt = ""', f'edge_mqtt = "mqtt://127.0.0.1:{proxy.port}"'
            ),
            encoding="utf-8",
        )
        with Edge(rig_dir / "edge", pcscd.env) as edge:
            enrolled(edge, hub)
            edge.start()
            proxy.hold("to_client")
            proxy.hold("to_server")
            with closing(sqlite3.connect(edge.journal, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with VirtualReader(pcscd.ports[0]) as reader:
                    before = len(edge.lights)
                    reader.tap_until_read(UidCard(bytes.fromhex("04000000000001")))
                    edge.wait_line("无法记录", since=before)
                    reader.tap_until_read(UidCard(bytes.fromhex("04000000000002")))
                    began = time.monotonic()
                    assert edge.stop() == 0
                    assert time.monotonic() - began < SOON_S + 2
                other.execute("ROLLBACK")
            assert "sound" in edge.command("journal", "verify")


def test_two_daemons_never_share_a_folder(hub: Hub, edge: Edge) -> None:
    enrolled(edge, hub)
    edge.start(wait=False)
    edge.wait_line("未连接")
    assert "another shuaka-edge is writing here" in refused(edge, "run")
    assert edge.running
    assert "sound" in edge.command("journal", "verify")
    ends_soon(edge)


def test_an_edge_whose_output_nobody_reads_records_on(
    hub: Hub, pcscd: Pcscd, rig_dir: Path
) -> None:
    with Edge(rig_dir / "edge", pcscd.env) as edge:
        enrolled(edge, hub)
        read_end, write_end = os.pipe()
        with (rig_dir / "log").open("wb") as log:
            process = subprocess.Popen(
                [Path(sys.executable).parent / "shuaka-edge", "run", "--config", edge.config],
                stdout=write_end,
                stderr=log,
                env={**os.environ, **pcscd.env},
                process_group=0,
            )
        os.close(write_end)
        try:
            assert os.read(read_end, 100)
            os.close(read_end)
            with VirtualReader(pcscd.ports[0]) as reader:
                for number in range(3):
                    reader.tap_until_read(UidCard(bytes.fromhex(f"0400000000000{number}")))
                wait_for(lambda: _taps(edge.journal) == 3, "three taps in the journal")
            process.send_signal(signal.SIGTERM)
            assert process.wait(SOON_S) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _taps(journal: Path) -> int:
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        (count,) = db.execute("SELECT count(*) FROM entries WHERE sealed IS NOT NULL").fetchone()
        return int(count)


def test_a_hub_ends_soon_in_every_state(hub: Hub, rig_dir: Path) -> None:
    password = hub.account("秘书", "SECRETARY", "QX")
    # without a broker
    with_broker = hub.config.read_text(encoding="utf-8")
    hub.config.write_text(
        "\n".join(
            'mqtt = "mqtt://127.0.0.1:1"' if line.startswith("mqtt") else line
            for line in with_broker.splitlines()
        ),
        encoding="utf-8",
    )
    hub.start(wait=False)
    health = f"{hub.url}/api/v1/health"
    wait_for(lambda: _get(health) == (503, "the broker cannot be reached"), "bad health")
    _ends(hub)
    # with a page that is live, and a database that is locked
    hub.config.write_text(with_broker, encoding="utf-8")
    now = time.time()
    start, end = (
        time.strftime("%Y-%m-%d %H:%M", time.gmtime(now + 8 * 3600 + more)) for more in (0, 3600)
    )
    meetings = rig_dir / "meetings.csv"
    meetings.write_text(
        "code,organisation,kind,title,venue,start,end\n"
        f"M-1,QX-01,支部党员大会,大会,V-1,{start},{end}\n",
        encoding="utf-8",
    )
    hub.command("import", "meetings", str(meetings))
    hub.start()
    with _live_page(hub, password) as stream:
        assert next(stream)
        _ends(hub)
    hub.start()
    with closing(sqlite3.connect(rig_dir / "hub" / "data" / "hub.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        assert _get(health)[0] == 200, "reading goes on"
        with socket.create_connection(("127.0.0.1", hub.port)) as client:
            body = b"login=x&password=y"
            client.sendall(
                b"POST /sign-in HTTP/1.1\r\nHost: hub\r\n"
                b"Content-Type: application/x-www-form-urlencoded\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            time.sleep(0.5)
            _ends(hub, clean=False)


def _ends(hub: Hub, *, clean: bool = True) -> None:
    """Ends soon; `clean`: without a request that had to be cut short, which uvicorn logs."""
    log = hub.directory / "hub.log"
    began = time.monotonic()
    assert hub.stop() in {0, -signal.SIGTERM}, log.read_text(encoding="utf-8")
    assert time.monotonic() - began < SOON_S
    assert not clean or "Traceback" not in log.read_text(encoding="utf-8")


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, str(json.loads(error.read())["detail"])
    except OSError as error:
        return 0, str(error)


@contextlib.contextmanager
def _live_page(hub: Hub, password: str) -> Iterator[Iterator[str]]:
    """The lines of the live stream of the first meeting on the first page."""
    with httpx.Client(base_url=hub.url, timeout=10, trust_env=False) as client:
        hub.sign_in(client, "秘书", password)
        link = re.search(r"/meetings/[0-9a-f-]{32,36}", client.get("/").text)
        assert link is not None
        with client.stream("GET", f"{link[0]}/live") as response:
            assert response.status_code == 200
            yield response.iter_lines()


def test_a_hub_whose_log_nobody_reads_goes_on(hub: Hub) -> None:
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [Path(sys.executable).parent / "shuaka-hub", "serve", "--config", hub.config],
        stdout=subprocess.DEVNULL,
        stderr=write_end,
    )
    os.close(write_end)
    os.close(read_end)
    try:
        wait_for(hub.healthy, "a healthy hub", 30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON_S) in {0, -signal.SIGTERM}
    finally:
        process.kill()
        process.wait()
