"""Ingest between a real broker and a real database, each of which goes away, or is used badly."""

import contextlib
import os
import secrets
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import DataError
from structlog.testing import capture_logs

from hub.derive import lock
from hub.ingest import service
from hub.ingest.landing import Landed, Landing
from hub.ingest.service import RECEIVE_MAXIMUM, Ingest
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.engine import migrate, open_engine, reading
from hub.store.state import begin_generation
from protocol import topics
from protocol.batch import HubState, Receipt, open_hub_state, open_receipt
from protocol.errors import RemoteError
from protocol.identity import OpeningKey, SigningKey
from protocol.topics import Broker
from tests.fakes.edge import FakeEdge, uid
from tests.rig import Mosquitto, Postgres, TcpProxy, wait_for

LONG = os.environ.get("SHUAKA_LONG_TESTS") == "1"


class Line:
    """A plain MQTT client that keeps what the hub says."""

    def __init__(self, port: int, hub_sign: bytes) -> None:
        self._hub = hub_sign
        self.receipts: list[Receipt] = []
        self.states: list[HubState] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_connect = lambda *_: self.client.subscribe([("shuaka/v1/#", 1)])
        ready = threading.Event()
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_message = self._heard
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        self.client.connect("127.0.0.1", port, clean_start=True, properties=properties)
        self.client.loop_start()
        assert ready.wait(10)

    def _heard(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        with contextlib.suppress(RemoteError):  # what another test's hub left behind
            if message.topic.endswith("/receipt"):
                self.receipts.append(open_receipt(message.payload, self._hub))
            elif message.topic == topics.HUB_STATE:
                self.states.append(open_hub_state(message.payload, self._hub))

    def send(self, topic: str, payload: bytes, qos: int = 1) -> paho.MQTTMessageInfo:
        return self.client.publish(topic, payload, qos)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Hub:
    """An ingest over `engine`, an edge it knows, and a line of that edge's to the broker."""

    def __init__(self, engine: Engine, port: int, broker_port: int) -> None:
        self.engine = engine
        self.keyring = Keyring(SigningKey.generate(), (OpeningKey.generate(),))
        self.edge = FakeEdge(self.keyring.public())
        with engine.begin() as conn:
            begin_generation(conn, 1_777_000_000_000)
            self.edge.add_to(conn)
        self.port = port
        self.ingest = self.new_ingest()
        self.line = Line(broker_port, self.keyring.sign.public)

    def new_ingest(self) -> Ingest:
        return Ingest(self.engine, self.keyring, Broker("127.0.0.1", self.port, tls=False))

    def start(self) -> "Hub":
        self.ingest.start()
        wait_for(lambda: not self.ingest.trouble(), "an ingest that works")
        return self

    def tap(self, number: int) -> int:
        """Sends a tap in a batch of its own; gives its seq."""
        seq = self.edge.tap(uid(number))
        self.send(seq)
        return seq

    def send(self, seq: int) -> None:
        self.line.send(self.edge.topic(), self.edge.payload(seq, seq))

    def through(self) -> int:
        return max((each.through for each in self.line.receipts), default=0)

    def wait_through(self, seq: int, timeout_s: float = 10) -> None:
        wait_for(lambda: self.through() >= seq, f"a receipt through {seq}", timeout_s)

    def stored(self) -> int:
        with reading(self.engine) as conn:
            return int(conn.scalar(select(func.count()).select_from(s.entries)) or 0)

    def close(self) -> None:
        if self.ingest.alive():
            self.ingest.stop()
        self.line.close()


MakeHub = Callable[..., Hub]


@pytest.fixture
def make_hub() -> Iterator[MakeHub]:
    """Hub(engine, port, broker_port), ended after the test."""
    with contextlib.ExitStack() as stack:

        def make(engine: Engine, port: int, broker_port: int) -> Hub:
            hub = Hub(engine, port, broker_port)
            stack.callback(hub.close)
            return hub

        yield make


@pytest.fixture
def hub(engine: Engine, mosquitto: Mosquitto, make_hub: MakeHub) -> Hub:
    return make_hub(engine, mosquitto.port, mosquitto.port)


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path / 'hub.db'}")
    migrate(engine)
    yield engine
    engine.dispose()


def test_a_receipt_comes_after_what_it_says_is_stored(hub: Hub) -> None:
    hub.start()
    hub.send(1)
    hub.wait_through(1)
    for number in range(5):
        hub.wait_through(hub.tap(number))
        assert hub.stored() == number + 2
    took = []
    for number in range(7):
        time.sleep(0.15)
        began = time.monotonic()
        hub.wait_through(hub.tap(number))
        took.append(time.monotonic() - began)
    assert sorted(took)[3] < 0.3, took
    assert hub.line.states[-1].online
    hub.ingest.stop()
    wait_for(lambda: not hub.line.states[-1].online, "a good-bye")


def test_the_broker_comes_late_and_goes_and_comes_back(
    make_hub: MakeHub, sqlite_engine: Engine, rig_dir: Path
) -> None:
    broker = Mosquitto(rig_dir / "own")
    with broker, TcpProxy(broker.port) as proxy:
        proxy.refuse(True)
        hub = make_hub(sqlite_engine, proxy.port, broker.port)
        hub.ingest.start()
        time.sleep(1)
        assert hub.ingest.trouble() == "the broker cannot be reached"
        proxy.refuse(False)
        hub.send(1)
        wait_for(lambda: not hub.ingest.trouble(), "an ingest that works")
        hub.send(1)
        hub.wait_through(1)
        sessions = [state.session for state in hub.line.states]
        for _ in range(30 if LONG else 4):
            proxy.cut()
            wait_for(lambda: bool(hub.ingest.trouble()), "trouble that is told")
            wait_for(lambda: not hub.ingest.trouble(), "an ingest that works")
            seq = hub.tap(1)
            hub.wait_through(seq)
        states = hub.line.states
        assert [state.session for state in states] == sorted(state.session for state in states)
        assert states[-1].session > sessions[-1]
        broker.kill()
        wait_for(lambda: bool(hub.ingest.trouble()), "trouble that is told")
        broker.start()
        wait_for(lambda: not hub.ingest.trouble(), "an ingest that works", 15)


def test_a_dead_line_is_noticed_within_two_keep_alives(
    make_hub: MakeHub, sqlite_engine: Engine, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "KEEPALIVE_S", 2)
    with TcpProxy(mosquitto.port) as proxy:
        hub = make_hub(sqlite_engine, proxy.port, mosquitto.port).start()
        proxy.hold("to_client")
        proxy.hold("to_server")
        began = time.monotonic()
        wait_for(lambda: bool(hub.ingest.trouble()), "trouble that is told", 10)
        assert time.monotonic() - began < 2 * 2 + 1.5
        proxy.release("to_client")
        proxy.release("to_server")
        wait_for(lambda: not hub.ingest.trouble(), "an ingest that works", 15)


@pytest.mark.timeout(90)
def test_a_database_that_is_locked_for_long_costs_nothing(
    make_hub: MakeHub, tmp_path: Path, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.store.engine.BUSY_TIMEOUT_MS", 1500)
    monkeypatch.setattr(service, "STUCK_S", 0.5)
    engine = open_engine(f"sqlite:///{tmp_path / 'hub.db'}")
    migrate(engine)
    hub = make_hub(engine, mosquitto.port, mosquitto.port).start()
    hub.send(1)
    hub.wait_through(1)
    with closing(sqlite3.connect(tmp_path / "hub.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        seqs = [hub.tap(number) for number in range(200)]
        wait_for(lambda: hub.ingest.trouble() == "the database does not answer", "trouble", 5)
        wait_for(lambda: "tried again" in hub.ingest.trouble(), "trouble", 10)
        time.sleep(40 if LONG else 2)
        assert hub.through() == 1
        other.execute("ROLLBACK")
    hub.wait_through(seqs[-1], 20)
    wait_for(lambda: not hub.ingest.trouble(), "an ingest that works")
    assert hub.stored() == 201
    hub.ingest.stop()
    engine.dispose()


def test_a_stop_does_not_wait_for_a_database_that_is_locked(
    make_hub: MakeHub, sqlite_engine: Engine, tmp_path: Path, mosquitto: Mosquitto
) -> None:
    hub = make_hub(sqlite_engine, mosquitto.port, mosquitto.port).start()
    with closing(sqlite3.connect(tmp_path / "hub.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        hub.send(1)
        time.sleep(0.3)
        began = time.monotonic()
        hub.ingest.stop()
        assert time.monotonic() - began < 6
        other.execute("ROLLBACK")
    wait_for(lambda: not hub.line.states[-1].online, "a good-bye")
    # Its connection must be back before the engine goes.
    hub.ingest._thread.join(30)
    assert not hub.ingest._thread.is_alive()


@pytest.mark.timeout(90)
def test_a_database_server_that_restarts_under_load(
    make_hub: MakeHub, mosquitto: Mosquitto, rig_dir: Path
) -> None:
    server = Postgres(rig_dir / "pg", fsync=False)
    try:
        server.start()
        engine = open_engine(server.create_database())
        migrate(engine)
        hub = make_hub(engine, mosquitto.port, mosquitto.port).start()
        going = threading.Event()

        def load() -> None:
            number = 0
            while not going.is_set():
                number += 1
                hub.edge.tap(uid(number))
                # an edge repeats what has no receipt
                first = hub.through() + 1
                last = min(len(hub.edge.entries), first + 20)
                hub.line.send(hub.edge.topic(), hub.edge.payload(first, last))
                time.sleep(0.01)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            wait_for(lambda: hub.through() > 20, "some receipts")
            for go_away in (server.stop, server.kill):
                go_away()
                before = hub.through()
                wait_for(lambda: bool(hub.ingest.trouble()), "trouble that is told", 20)
                assert "\n" not in hub.ingest.trouble()
                assert "SELECT" not in hub.ingest.trouble()
                server.start()
                wait_for(lambda: not hub.ingest.trouble(), "an ingest that works", 30)
                wait_for(lambda: hub.through() > before + 20, "new receipts")  # noqa: B023
        finally:
            going.set()
            thread.join()
        first = hub.through() + 1
        if first <= len(hub.edge.entries):
            hub.line.send(hub.edge.topic(), hub.edge.payload(first))
        hub.wait_through(len(hub.edge.entries))
        assert hub.stored() == len(hub.edge.entries)
        hub.ingest.stop()  # a connection that is out when the engine goes is closed by nobody
        engine.dispose()
    finally:
        server.close()


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), DataError("INSERT", {}, Exception("bad bytes"))]
)
def test_a_message_that_makes_the_code_fail_stops_no_other(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    original = Landing.land

    def land(self: Landing, conn: Any, messages: Any, now_ms: int) -> Landed:
        if any(message.payload == b"poison" for message in messages):
            raise error
        return original(self, conn, messages, now_ms)

    monkeypatch.setattr(Landing, "land", land)
    hub.send(1)
    for number in range(30):
        hub.tap(number)
        hub.line.send(hub.edge.topic(), b"poison")
    hub.start()
    for seq in range(1, 32):
        hub.send(seq)
        hub.line.send(hub.edge.topic(), b"poison")
    hub.wait_through(31)
    assert hub.stored() == 31
    assert not hub.ingest.trouble()


def _rss() -> int:
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _flood(port: int, edge: FakeEdge, count: int, qos: int) -> None:
    """Hostile messages as raw packets: no client of ours keeps them in memory."""
    rng = secrets.SystemRandom()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        name = b"flood-%d" % qos
        sock.sendall(
            bytes([0x10, 13 + len(name)]) + b"\0\4MQTT\5\2\0\0\0" + bytes([0, len(name)]) + name
        )
        assert sock.recv(64)[0] == 0x20
        sock.settimeout(0.01)
        whole = edge.payload(1, 1)
        for number in range(count):
            topic = rng.choice(
                [edge.topic(), edge.topic(topics.Up.HELLO), "shuaka/v1/up/x/y", edge.topic()]
            ).encode()
            body = rng.choice(
                [
                    secrets.token_bytes(rng.choice([0, 1, 100, 5_000, 65_000])),
                    b"\x81" * 30_000,
                    whole[: rng.randrange(len(whole))],
                    whole[:-1] + b"\0",
                ]
            )
            rest = len(topic).to_bytes(2, "big") + topic
            if qos:
                rest += (number % 65_535 + 1).to_bytes(2, "big")
            rest += b"\0" + body
            size = len(rest)
            length = b""
            while True:
                size, digit = divmod(size, 128)
                length += bytes([digit | (0x80 if size else 0)])
                if not size:
                    break
            sock.settimeout(30)
            sock.sendall(bytes([0x30 | qos << 1]) + length + rest)
            sock.settimeout(0.0)
            try:
                while sock.recv(65536):
                    pass
            except (BlockingIOError, TimeoutError):
                continue


@pytest.mark.timeout(600 if LONG else 90)
@pytest.mark.parametrize("qos", [0, 1])
def test_a_flood_of_hostile_messages_leaves_memory_bounded_and_taps_going(
    make_hub: MakeHub, sqlite_engine: Engine, mosquitto: Mosquitto, qos: int
) -> None:
    hub = make_hub(sqlite_engine, mosquitto.port, mosquitto.port).start()
    hub.send(1)
    hub.wait_through(1)
    _flood(mosquitto.port, hub.edge, 200, qos)
    before = _rss()
    count = 20_000 if LONG else 4_000
    worst = 0
    flood = threading.Thread(target=_flood, args=(mosquitto.port, hub.edge, count, qos))
    flood.start()
    number = 0
    while flood.is_alive():
        seq = hub.tap(number)
        number += 1
        deadline = time.monotonic() + 20
        while hub.through() < seq:
            assert time.monotonic() < deadline, "a tap was not taken in during the flood"
            time.sleep(0.2)
            if hub.through() < seq:
                hub.send(seq)
        worst = max(worst, _rss())
    flood.join()
    hub.wait_through(hub.tap(number), 20)
    assert worst - before < 100 << 20, f"{(worst - before) >> 20} MB more"
    assert not hub.ingest.trouble()
    with reading(hub.engine) as conn:
        assert conn.scalar(select(func.sum(s.rejection_counts.c.count))) > 100
        assert conn.scalar(select(func.count()).select_from(s.rejections)) <= 1_000
    print(f"{(worst - before) >> 20} MB more; {hub.ingest.health}")


def test_what_waits_is_bounded_however_it_came(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    original = Landing.land

    def land(self: Landing, conn: Any, messages: Any, now_ms: int) -> Landed:
        gate.wait(30)
        return original(self, conn, messages, now_ms)

    monkeypatch.setattr(service, "MAX_WAITING_BYTES", 4 << 20)
    hub.ingest = hub.new_ingest()
    hub.start()
    monkeypatch.setattr(Landing, "land", land)
    for _ in range(2 * RECEIVE_MAXIMUM):
        hub.line.send(hub.edge.topic(), b"x", qos=0)
    wait_for(lambda: hub.ingest.health.dropped > 100, "messages that were too many")
    assert hub.ingest._arrivals.qsize() <= RECEIVE_MAXIMUM
    dropped = hub.ingest.health.dropped
    for _ in range(150):
        hub.line.send(hub.edge.topic(), bytes(60_000))
    wait_for(lambda: hub.ingest.health.dropped > dropped + 20, "messages that were too large")
    with capture_logs() as told:
        gate.set()
        wait_for(hub.ingest._arrivals.empty, "an empty queue")
        wait_for(lambda: any("dropped" in each for each in told), "a line that says so")
    hub.send(1)
    hub.wait_through(1)
    assert hub.ingest._room._left == 4 << 20


@pytest.mark.servers
def test_taps_are_taken_in_while_another_command_derives(
    postgres_url: str, mosquitto: Mosquitto, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "STUCK_S", 0.5)
    engine = open_engine(postgres_url)
    migrate(engine)
    hub = make_hub(engine, mosquitto.port, mosquitto.port).start()
    hub.send(1)
    hub.wait_through(1)
    waiting = select(func.count()).where(s.batches.c.derived.is_(False))

    def underived() -> int:
        with reading(engine) as conn:
            return int(conn.scalar(waiting) or 0)

    wait_for(lambda: underived() == 0, "a derived batch")
    with engine.begin() as other:
        lock(other)
        for number in range(3):
            hub.wait_through(hub.tap(number))
        wait_for(lambda: "waits for an import" in hub.ingest.trouble(), "trouble that is told")
        hub.wait_through(hub.tap(3))
        assert underived() == 4
    wait_for(lambda: underived() == 0, "derived batches")
    wait_for(lambda: not hub.ingest.trouble(), "an ingest that works")
    hub.ingest.stop()
    engine.dispose()


def test_many_starts_and_stops_leave_nothing_behind(
    make_hub: MakeHub, sqlite_engine: Engine, mosquitto: Mosquitto
) -> None:
    hub = make_hub(sqlite_engine, mosquitto.port, mosquitto.port).start()

    def cycle() -> None:
        hub.ingest.stop()
        assert not hub.ingest.alive()
        hub.ingest = hub.new_ingest()
        hub.start()

    for _ in range(3):
        cycle()
    threads, files, memory = threading.active_count(), _files(), _rss()
    for _ in range(200 if LONG else 15):
        cycle()
    assert threading.active_count() <= threads
    assert _files() <= files + 2
    assert _rss() - memory < 20 << 20


def _files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
