"""The courier against a real broker that comes late, dies, hangs, or carries hostile messages."""

import contextlib
import logging
import os
import random
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge.couriers import mqtt
from edge.couriers.mqtt import Connected, Courier, Disconnected, Link, LinkEvent
from edge.enrol import Keys
from edge.recorder import Recorder
from edge.store import Journal, JournalError, JournalReader, Owner
from protocol import topics
from protocol.batch import Batch, Hello, HubState, Parcel, Receipt, header_of
from protocol.identity import Enrolment, HubKeys, MessageType, OpeningKey, Signed, SigningKey
from protocol.journal import ClockSample, Gap, Stamp, link
from protocol.topics import Broker
from tests.edge.test_recorder import Door, card
from tests.fakes.clock import FakeClock
from tests.rig import Mosquitto, TcpProxy, wait_for

LONG = os.environ.get("SHUAKA_LONG_TESTS") == "1"


@dataclass
class Hub:
    """A hub that keeps in memory what comes in order, and says so."""

    port: int
    edge: bytes
    edge_sign: bytes
    key: SigningKey
    generation: int = 7
    session: int = 1
    through: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    gaps: set[tuple[int, int]] = field(default_factory=set)
    hellos: int = 0
    answering: bool = True

    def start(self) -> "Hub":
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_message = self._heard
        self.client.on_connect = lambda *_: self.client.subscribe(topics.ALL_UP, 1)
        ready = threading.Event()
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.connect("127.0.0.1", self.port)
        self.client.loop_start()
        assert ready.wait(10)
        self.say(online=True)
        return self

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def say(self, *, online: bool, generation: int | None = None) -> None:
        state = HubState(generation or self.generation, self.session, online=online)
        payload = self.key.sign(MessageType.HUB_STATE, state.encode())
        self.client.publish(topics.HUB_STATE, payload, 1, retain=True)

    def receipt(self, receipt: Receipt) -> bytes:
        return self.key.sign(MessageType.RECEIPT, receipt.encode())

    def send(self, payload: bytes) -> None:
        self.client.publish(topics.receipt(self.edge), payload, 1)

    def _heard(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        edge, channel = topics.parse_up(message.topic)
        if edge != self.edge:
            return
        if channel is topics.Up.HELLO:
            signed = Signed.parse(message.payload, MessageType.HELLO)
            Hello.decode(signed.verify(self.edge_sign))
            self.hellos += 1
        if channel is not topics.Up.JOURNAL:
            return
        signed = Signed.parse(Parcel.decode(message.payload).signed, MessageType.BATCH)
        batch = Batch.decode(signed.verify(self.edge_sign))
        epoch = header_of(batch, edge).epoch
        through, _ = self.through.get(epoch, (0, b""))
        if batch.first <= through + 1 <= batch.last:
            *_, end = link(batch.first, batch.previous, batch.items)
            self.gaps |= {(gap.first, gap.last) for gap in batch.items if isinstance(gap, Gap)}
            through = end.last
            self.through[epoch] = through, end.digest
        if self.answering and through:
            self.send(self.receipt(Receipt(edge, self.generation, epoch, *self.through[epoch])))

    def entries(self) -> int:
        return sum(through for through, _ in self.through.values())


class Place:
    """A recorder and its courier in `data`, the hub's keys, and a journal that fills."""

    def __init__(self, data: Path, port: int) -> None:
        self.key = SigningKey.generate()
        hub = HubKeys(self.key.public, OpeningKey.generate().public)
        self.keys = Keys.load_or_make(data)
        self.edge = secrets.token_bytes(16)
        self.enrolment = Enrolment(
            self.edge, "门口", self.keys.sign.public, hub, 7, f"mqtt://127.0.0.1:{port}"
        )
        self.data = data
        self.door = Door(data)
        self.recorder = Recorder(
            data,
            Owner(self.edge, hub.seal),
            FakeClock(),
            self.door,
            debounce_ms=0,
            read_timeout_ms=1_000,
        )
        self.courier = self.new_courier(port)
        self.taps = 0

    def new_courier(self, port: int) -> Courier:
        broker = Broker("127.0.0.1", port, tls=False)
        return Courier(self.data, self.enrolment, self.keys, broker, self.recorder)

    def hub(self, port: int) -> Hub:
        return Hub(port, self.edge, self.keys.sign.public, self.key)

    def start(self) -> "Place":
        self.recorder.start(self.courier)
        self.courier.start()
        return self

    def tap(self, count: int = 1) -> None:
        """Taps, and waits for the lights."""
        for _ in range(count):
            self.taps += 1
            self.recorder.reader_event(card(self.taps, 1_000 + self.taps))
        wait_for(lambda: len(self.door.notices) == self.taps, "lights")

    def stop(self) -> None:
        self.recorder.stop()
        self.courier.stop()
        assert not self.courier.alive()

    def all_there(self, hub: Hub) -> bool:
        """Whether the hub has every entry and the edge knows it."""
        return hub.entries() == self.taps + 1 and self.courier.status().unreceipted == 0

    def wait_all(self, hub: Hub, timeout_s: float = 10) -> None:
        wait_for(lambda: self.all_there(hub), "receipts for everything", timeout_s)


MakePlace = Callable[[int], Place]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakePlace]:
    """Place(port) that is stopped after the test."""
    with contextlib.ExitStack() as stack:

        def place(port: int) -> Place:
            made = Place(tmp_path / "data", port)
            stack.callback(made.stop)
            return made

        yield place


def test_the_broker_comes_late_and_dies(make: MakePlace, rig_dir: Path) -> None:
    broker = Mosquitto(rig_dir / "own")
    place = make(broker.port).start()
    place.tap(3)
    wait_for(lambda: place.courier.status().unreceipted == 4, "four entries that wait")
    assert not place.courier.status().connected
    with broker:
        hub = place.hub(broker.port).start()
        place.wait_all(hub)
        for go_away in (broker.kill, broker.stop):
            go_away()
            wait_for(lambda: not place.courier.status().connected, "a loss that is noticed")
            place.tap(2)
            broker.start()
            wait_for(hub.client.is_connected, "the hub again")
            place.wait_all(hub, 15)
        hub.stop()


def test_the_status_tells_a_lost_line_from_a_hub_that_is_gone(
    make: MakePlace, rig_dir: Path
) -> None:
    def status_becomes(connected: bool, hub_online: bool | None) -> None:
        wait_for(
            lambda: (
                (place.courier.status().connected, place.courier.status().hub_online)
                == (connected, hub_online)
            ),
            f"{connected}, {hub_online}",
        )

    with Mosquitto(rig_dir / "own") as broker:
        place = make(broker.port).start()
        status_becomes(True, False)  # the broker has nobody for what is sent
        hub = place.hub(broker.port).start()
        status_becomes(True, True)
        hub.say(online=False)
        status_becomes(True, False)
        hub.say(online=True)
        status_becomes(True, True)
        hub.session -= 1
        hub.say(online=False)  # of a session that is over
        place.tap()
        place.wait_all(hub)
        status_becomes(True, True)
        broker.kill()
        status_becomes(False, None)
        hub.stop()


def test_more_missing_entries_than_a_batch_holds_are_a_gap_and_the_others_flow(
    make: MakePlace, mosquitto: Mosquitto
) -> None:
    place = make(mosquitto.port)
    at = Stamp(1, 1_777_000_000_000, trusted=True)
    journal = Journal.open(place.data, place.recorder._owner, bytes(16), at)
    journal.append([ClockSample(at) for _ in range(999)])
    journal.close()
    with closing(sqlite3.connect(place.data / "journal.db")) as db, db:
        db.execute("DELETE FROM entries WHERE seq BETWEEN 1 AND 600")
    db.close()
    hub = place.hub(mosquitto.port).start()
    place.start()
    place.tap()
    wait_for(lambda: hub.entries() == 1_000 + 2, "everything that is there, and the gap")
    wait_for(lambda: place.courier.status().unreceipted == 0, "receipts")
    assert hub.gaps == {(1, 601)}
    hub.stop()


def test_an_old_epoch_that_cannot_be_read_holds_up_no_other(
    make: MakePlace, mosquitto: Mosquitto
) -> None:
    place = make(mosquitto.port)
    at = Stamp(1, 1_777_000_000_000, trusted=True)
    for _ in range(2):
        journal = Journal.open(place.data, place.recorder._owner, bytes(16), at)
        journal.append([ClockSample(at)])
        journal.close()
    with closing(JournalReader(place.data)) as reader:
        oldest = reader.epochs()[0].epoch
    hub = place.hub(mosquitto.port)
    read = JournalReader.batch

    def batch(self: JournalReader, epoch: bytes, first: int, last: int) -> Any:
        if epoch == oldest:
            raise JournalError("bad sector")
        return read(self, epoch, first, last)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JournalReader, "batch", batch)
        hub.start()
        place.start()
        place.tap()
        wait_for(lambda: place.courier.status().unreceipted == 2, "receipts for all but the oldest")
        place.tap()
        wait_for(lambda: place.courier.status().unreceipted == 2, "a receipt for another tap")
    hub.say(online=True)
    hub.stop()


def test_a_tap_is_at_the_hub_at_once(make: MakePlace, mosquitto: Mosquitto) -> None:
    place = make(mosquitto.port).start()
    hub = place.hub(mosquitto.port).start()
    place.tap()
    place.wait_all(hub)
    took = []
    for _ in range(7):
        time.sleep(0.15)
        place.tap()
        began = time.monotonic()
        place.wait_all(hub)
        took.append(time.monotonic() - began)
    assert sorted(took)[3] < 0.1, took
    hub.stop()


def test_a_hub_that_comes_late_is_served_at_once(make: MakePlace, rig_dir: Path) -> None:
    with Mosquitto(rig_dir / "own") as broker:
        place = make(broker.port).start()
        place.tap()
        wait_for(lambda: place.courier.status().connected, "a connection")
        time.sleep(3)  # long enough for its patience to have grown
        hub = place.hub(broker.port)
        began = time.monotonic()
        hub.start()
        place.wait_all(hub)
        assert time.monotonic() - began < 1.5
        hub.stop()
        place.tap()
        time.sleep(2)
        hub.session += 1
        began = time.monotonic()
        hub.start()
        place.wait_all(hub)
        assert time.monotonic() - began < 1.5
        hub.stop()


@pytest.mark.parametrize("direction", ["to_client", "both"])
def test_a_dead_line_is_noticed_within_two_keep_alives(
    make: MakePlace, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    monkeypatch.setattr(mqtt, "KEEPALIVE_S", 2)
    with TcpProxy(mosquitto.port) as proxy:
        place = make(proxy.port).start()
        hub = place.hub(mosquitto.port).start()
        place.tap()
        place.wait_all(hub)
        held = ("to_client", "to_server") if direction == "both" else (direction,)
        for each in held:
            proxy.hold(each)  # type: ignore[arg-type]
        began = time.monotonic()
        place.tap(5)
        wait_for(lambda: not place.courier.status().connected, "a loss that is noticed", 10)
        assert time.monotonic() - began < 2 * 2 + 2
        for each in held:
            proxy.release(each)  # type: ignore[arg-type]
        place.wait_all(hub, 20)
        hub.stop()


def _hostile(place: Place, hub: Hub, rng: random.Random) -> bytes:
    """Something that a receipt may not be; none may free an entry."""
    epoch = next(iter(hub.through), secrets.token_bytes(16))
    through, digest = hub.through.get(epoch, (1, bytes(32)))
    good = Receipt(place.edge, 7, epoch, through, digest)
    match rng.randrange(9):
        case 0:
            return rng.randbytes(rng.choice([0, 1, 10, 1_000, 60_000]))
        case 1:
            return b"\x81" * 60_000
        case 2:
            return SigningKey.generate().sign(MessageType.RECEIPT, good.encode())
        case 3:
            return hub.receipt(Receipt(rng.randbytes(16), 7, epoch, through, digest))
        case 4:
            return hub.receipt(Receipt(place.edge, 6, epoch, through, digest))
        case 5:
            return hub.receipt(Receipt(place.edge, 7, epoch, 2, rng.randbytes(32)))
        case 6:
            return hub.receipt(Receipt(place.edge, 7, epoch, 1 << 40, digest))
        case 7:
            return hub.receipt(Receipt(place.edge, 7, rng.randbytes(16), 1, digest))
        case _:
            whole = hub.receipt(good)
            return whole[: rng.randrange(len(whole))] + rng.randbytes(3)


@pytest.mark.timeout(300 if LONG else 90)
def test_hostile_receipts_free_nothing_and_hold_up_nothing(
    make: MakePlace, mosquitto: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place = make(mosquitto.port).start()
    hub = place.hub(mosquitto.port)
    hub.answering = False
    hub.start()
    place.tap(5)
    wait_for(lambda: hub.entries() == 6, "entries at the hub")
    rng = random.Random(1)
    before = _rss()
    worst = 0
    for number in range(20_000 if LONG else 3_000):
        payload = _hostile(place, hub, rng)
        topic = rng.choice(
            [topics.receipt(place.edge), topics.roster(place.edge), topics.HUB_STATE]
        )
        info = hub.client.publish(topic, payload, 1)
        if number % 50 == 0:
            info.wait_for_publish(10)
            worst = max(worst, _rss())
    place.tap(5)
    wait_for(lambda: hub.entries() == 11, "taps that go on")
    assert place.courier.status().unreceipted == 11
    assert worst - before < 60 << 20, f"{(worst - before) >> 20} MB more"
    ours = [each for each in caplog.records if each.name.startswith("edge")]
    assert 0 < len(ours) < 20, "a flood must not become one of the log"
    assert place.courier.status().alarm, "a receipt that differs is an alarm"
    reader = JournalReader(place.data)
    wait_for(lambda: reader.alarm() == place.courier.status().alarm, "an alarm for the doctor")
    reader.close()
    hub.answering = True
    place.tap()
    place.wait_all(hub)
    hub.say(online=True)
    hub.stop()


def test_forged_generations_are_not_believed(make: MakePlace, mosquitto: Mosquitto) -> None:
    place = make(mosquitto.port).start()
    hub = place.hub(mosquitto.port).start()
    place.tap(3)
    place.wait_all(hub)
    other = place.hub(mosquitto.port)
    other.key = SigningKey.generate()
    other.client = hub.client
    other.say(online=True, generation=99)
    other.send(other.receipt(Receipt(place.edge, 99, next(iter(hub.through)), 1, bytes(32))))
    place.tap()
    place.wait_all(hub)
    # the hub itself is believed, and from then on no older receipt
    hub.answering = False
    hub.generation = 8
    hub.say(online=True)
    wait_for(lambda: place.courier.status().unreceipted == place.taps + 1, "all offered again")
    epoch, (through, digest) = next(iter(hub.through.items()))
    hub.send(hub.receipt(Receipt(place.edge, 7, epoch, through, digest)))
    place.tap()
    time.sleep(0.3)
    assert place.courier.status().unreceipted == place.taps + 1
    hub.answering = True
    place.tap()
    place.wait_all(hub)
    hub.stop()


def test_two_with_one_identity_do_not_throw_each_other_out_for_ever(mosquitto: Mosquitto) -> None:
    """As two copies of one storage card would."""
    heard: list[list[LinkEvent]] = [[], []]
    name = secrets.token_hex(16)
    broker = Broker("127.0.0.1", mosquitto.port, tls=False)
    links = [Link(broker, name, ["shuaka/v1/none"], each.append) for each in heard]
    for link_, told in zip(links, heard, strict=True):
        link_.start()
        wait_for(lambda told=told: Connected() in told, "a connection")
    time.sleep(6)
    for link_ in links:
        link_.stop()
    connections = [told.count(Connected()) for told in heard]
    assert sum(connections) <= 10, connections  # after 0.5, 1, 2 and 4 seconds at the most
    assert Disconnected() in heard[0]


def test_many_lost_connections_leave_nothing_behind(
    make: MakePlace, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "STEADY_S", 0)  # each comes back at once
    with TcpProxy(mosquitto.port) as proxy:
        place = make(proxy.port).start()
        hub = place.hub(mosquitto.port).start()

        def cycle() -> None:
            hellos = hub.hellos
            proxy.cut()
            wait_for(lambda: hub.hellos > hellos, "a hello")
            place.tap()
            place.wait_all(hub)

        place.tap()
        place.wait_all(hub)
        for _ in range(3):
            cycle()
        threads, files, memory = threading.active_count(), _files(), _rss()
        for _ in range(200 if LONG else 8):
            cycle()
        assert threading.active_count() <= threads
        assert _files() <= files + 3
        assert _rss() - memory < 20 << 20
        hub.stop()


@pytest.mark.parametrize("state", ["connected", "refused", "black hole", "never started hub"])
def test_it_ends_soon_in_every_state(tmp_path: Path, mosquitto: Mosquitto, state: str) -> None:
    with TcpProxy(mosquitto.port) as proxy:
        proxy.refuse(state == "refused")
        if state == "black hole":
            proxy.hold("to_client")
            proxy.hold("to_server")
        place = Place(tmp_path / "data", proxy.port).start()
        place.tap(3)
        if state == "connected":
            wait_for(lambda: place.courier.status().connected, "a connection")
        time.sleep(0.5)
        began = time.monotonic()
        place.stop()
        assert time.monotonic() - began < 6
        wait_for(
            lambda: not any(thread.name == "mqtt" for thread in threading.enumerate()),
            "the network's end",
        )


def _files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _rss() -> int:
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
