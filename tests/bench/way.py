"""Tap → durable → committed at the hub → receipt followed at the edge, at a steady 50 a second.

The edge's own `Recorder` and `Courier` run in this process, `shuaka-hub serve` and mosquitto in
theirs. A bare echo by a fourth process takes turns with them on the same broker: a second of taps,
a second of echoes.
"""

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from sqlalchemy import update

from edge.clock import SystemClock, Trust
from edge.couriers.mqtt import Courier
from edge.enrol import Keys
from edge.feedback import Notice, Standing
from edge.readers import CardRead
from edge.recorder import Recorder
from edge.store import FILE_NAME, Owner
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.engine import open_engine
from hub.store.state import generation
from protocol.credential import Assurance
from protocol.identity import Enrolment, OpeningKey
from protocol.roster import Roster
from protocol.topics import Broker
from tests.bench.echo import PING, PONG
from tests.bench.figures import Figure, block_ratio, latency
from tests.bench.tutorial import no_delay
from tests.fakes.edge import FakeEdge, uid
from tests.rig import Child, Mosquitto, Postgres, wait_for
from tests.rig.product import Hub

PER_SECOND: Final = 50
ECHO_BYTES: Final = 700
"""About what a batch of one tap takes."""


def measure(folder: Path, blocks: int) -> list[Figure]:
    """`blocks` seconds of taps and as many of echoes, for each database."""
    figures: list[Figure] = []
    with ExitStack() as stack:
        broker = stack.enter_context(Mosquitto(folder / "broker"))
        server = stack.enter_context(Postgres(folder / "postgres"))
        echo = stack.enter_context(_echo(folder, broker))
        for name, url in (("SQLite", ""), ("PostgreSQL", server.create_database())):
            taps: list[list[float]] = []
            echoes: list[list[float]] = []
            with _way(folder / name, broker, url) as way:
                for _ in range(blocks + 1):
                    taps.append(_block(way))
                    echoes.append(_block(echo))
            del taps[0], echoes[0]  # the first of each warms up
            flat = [each for block in taps for each in block]
            ratio = block_ratio(taps, echoes)
            figures += [
                latency(f"tap → committed on {name} → receipt", flat, f"{ratio:.1f} × echo"),
                latency("  bare MQTT 5 QoS 1 echo", [each for b in echoes for each in b]),
            ]
    return figures


class _Trips(Protocol):
    """Round trips that are begun one by one."""

    def start(self) -> None: ...

    def finish(self) -> list[float]:
        """Waits for those begun since the last call; gives how long each took, in seconds."""


def _block(trips: _Trips) -> list[float]:
    """One second of them."""
    due = time.perf_counter()
    for _ in range(PER_SECOND):
        due += 1 / PER_SECOND
        time.sleep(max(0, due - time.perf_counter()))
        trips.start()
    return trips.finish()


class _Echo:
    """Round trips of a bare message."""

    def __init__(self, broker: Mosquitto) -> None:
        self._began: list[float] = []
        self._ended: list[float] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_message = lambda *_: self._ended.append(time.perf_counter())
        self._client.on_socket_open = no_delay
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self._client.subscribe(PONG, qos=1)

    def start(self) -> None:
        self._began.append(time.perf_counter())
        self._client.publish(PING, bytes(ECHO_BYTES), qos=1)

    def finish(self) -> list[float]:
        # the broker keeps one client's messages in order, and so does the echo
        wait_for(lambda: len(self._ended) == len(self._began), "all echoes", timeout_s=30)
        times = [end - began for began, end in zip(self._began, self._ended, strict=True)]
        self._began.clear()
        self._ended.clear()
        return times

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class _Dark:
    """Feedback for nobody."""

    def show(self, notice: Notice) -> None: ...

    def stand(self, standing: Standing, detail: str = "") -> None: ...


class _Way:
    """Taps through the product; it is the owner that the courier tells what is released."""

    def __init__(self, data: Path, enrolment: Enrolment, keys: Keys, broker: Broker) -> None:
        owner = Owner(enrolment.edge, enrolment.hub.seal)
        clock = SystemClock(Trust.ALWAYS)
        self._recorder = Recorder(
            data, owner, clock, _Dark(), debounce_ms=1000, read_timeout_ms=1000
        )
        self._courier = Courier(data, enrolment, keys, broker, self)
        self._clock = clock
        self._taps = 0
        self._began: list[float] = []
        self._releases: list[tuple[int, float]] = []
        self._recorder.start(self._courier)
        self._courier.start()
        self._journal = sqlite3.connect(f"file:{data / FILE_NAME}?mode=ro", uri=True)
        wait_for(lambda: bool(self._releases), "the first receipt", timeout_s=30)

    def start(self) -> None:
        self._taps += 1
        card = CardRead(
            "reader", self._taps, self._clock.boottime_ms(), uid(self._taps), Assurance.UID
        )
        self._began.append(time.perf_counter())
        self._recorder.reader_event(card)

    def finish(self) -> list[float]:
        wait_for(lambda: len(self._seqs()) == self._taps, "the journal", timeout_s=30)
        seqs = self._seqs()[-len(self._began) :]
        wait_for(lambda: self._releases[-1][0] >= seqs[-1], "all receipts", timeout_s=30)
        times = [
            next(at for through, at in self._releases if through >= seq) - began
            for began, seq in zip(self._began, seqs, strict=True)
        ]
        self._began.clear()
        del self._releases[:-1]
        return times

    def _seqs(self) -> list[int]:
        """Which seqs the taps have, past the product's code: a clock sample may lie between."""
        rows = self._journal.execute("SELECT seq FROM entries WHERE sealed NOTNULL ORDER BY seq")
        return [seq for (seq,) in rows]

    def close(self) -> None:
        self._recorder.stop()
        self._courier.stop()
        self._journal.close()

    # edge.couriers.JournalOwner

    def release(self, epoch: bytes, through: int) -> None:
        self._releases.append((through, time.perf_counter()))
        self._recorder.release(epoch, through)

    def new_generation(self, generation: int) -> None:
        self._recorder.new_generation(generation)

    def alarm(self, reason: str) -> None:
        self._recorder.alarm(reason)

    def new_hub_key(self, seal: bytes) -> None: ...

    def new_roster(self, roster: Roster) -> None:
        self._recorder.new_roster(roster)

    def ask_state(self) -> None:
        self._recorder.ask_state()


@contextmanager
def _echo(folder: Path, broker: Mosquitto) -> Iterator[_Echo]:
    arguments = [sys.executable, "-m", "tests.bench.echo", str(broker.port)]
    child = Child(arguments, log=folder / "echo.log")
    try:
        child.wait_until(lambda: "ready" in child.log_text(), "the echo", timeout_s=30)
        with closing(_Echo(broker)) as echo:
            yield echo
    finally:
        child.kill()


@contextmanager
def _way(folder: Path, broker: Mosquitto, url: str) -> Iterator[_Way]:
    with Hub(folder / "hub", broker.url, url) as hub:
        hub.command("init")
        public = Keyring.load(hub.directory / "data").public()
        edge = FakeEdge(public)
        keys = Keys(edge.key, OpeningKey.generate())
        engine = open_engine(hub.database)
        with engine.begin() as conn:
            edge.add_to(conn)
            conn.execute(update(s.devices).values(seal_key=keys.seal.public))
            begun = generation(conn) or 0
        engine.dispose()
        hub.start()
        enrolment = Enrolment(edge.edge, edge.name, edge.key.public, public, begun, broker.url)
        with closing(_Way(folder / "edge", enrolment, keys, Broker.parse(broker.url))) as way:
            yield way
