"""Ingest from MQTT: takes what arrives, commits it, then sends receipts and derives.

One thread owns the writing (`Ingest`), another the network (`_Network`, which comes back by
itself). A message is acknowledged to the broker only once it has been dealt with, and the broker
is asked to send no more than RECEIVE_MAXIMUM before that: nothing else is built on the
acknowledgement. Not every broker keeps to it, and QoS 0, which no edge uses, knows no such bound:
what would not fit into MAX_WAITING_BYTES is dropped and counted; edges send theirs again. A
database that fails is tried again with the same messages; a payload that makes the code fail is
left out and logged, so that one bad message can never stop the others.
"""

import contextlib
import queue
import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from sqlalchemy import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from hub import derive
from hub.ingest.landing import Landed, Landing, Message
from hub.ingest.orders import Orders
from hub.ingest.rosters import Rosters
from hub.keys import Keyring
from hub.store.state import begin_session, generation
from protocol import topics
from protocol.batch import HubState, Receipt
from protocol.identity import MAX_MESSAGE_BYTES, MessageType
from protocol.topics import Broker

RECEIVE_MAXIMUM: Final = 256
"""Messages on their way from the broker to us (mosquitto 2.0.11 sends up to 1000 more)."""
MAX_WAITING_BYTES: Final = 64 << 20
"""What may wait here, whatever the broker sends and lost connections leave behind."""
MESSAGE_COSTS_BYTES: Final = 1024
"""What a message takes in memory beside its payload."""
MAX_GROUP: Final = 64
"""Messages taken into one transaction."""
STUCK_S: Final = 5.0
"""A transaction that takes longer waits for something: it is told as trouble."""
TELL_EVERY_S: Final = 10.0
"""How often what was not taken is logged, at most."""
KEEPALIVE_S: Final = 15
DERIVE_AT_LEAST_EVERY_S: Final = 1.0
LOOK_ROUND_EVERY_S: Final = 1.0
"""How soon what people decide of devices is carried out here: orders, what is admitted."""
LONGEST_BACK_OFF_S: Final = 15.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Arrival:
    message: Message
    acknowledge: Callable[[], None]

    @property
    def size(self) -> int:
        return MESSAGE_COSTS_BYTES + len(self.message.payload)


@dataclass(slots=True)
class IngestHealth:
    """What a health check and `doctor` want to know."""

    connected: bool = False
    trouble: str = ""
    """Why nothing is taken in now; empty where it is."""
    derivation: str = ""
    """Why attendance is not brought up to date; empty where it is."""
    dropped: int = 0
    """Messages that were more than could wait: edges send theirs again."""


class Ingest:
    """Takes in what edges send, until `stop`."""

    def __init__(
        self,
        engine: Engine,
        keyring: Keyring,
        broker: Broker,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """`tls` gives how to go to a broker that wants TLS, anew for each connection."""
        self._engine = engine
        self._keyring = keyring
        self._now_ms = now_ms
        self._landing = Landing(keyring)
        self._room = _Room(MAX_WAITING_BYTES)
        self._rosters = Rosters(engine, keyring.sign)
        self._orders = Orders(engine, keyring.sign)
        self._look_at = 0.0
        self._arrivals: queue.Queue[_Arrival | None] = queue.Queue()
        self._network = _Network(broker, self._arrivals, self._room, self._state, self, tls)
        self.health = IngestHealth()
        self._derive_at = 0.0
        self._derive_by = 0.0
        self._derive_waits_since: float | None = None
        self._began: float | None = None
        self._untold: Counter[str] = Counter()
        self._told_dropped = 0
        self._tell_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._network.start()

    def stop(self) -> None:
        """Finishes what is being committed, says good-bye, and ends.

        What waits for a database that does not answer is left: it has no receipt and comes again.
        """
        self._stopping.set()
        self._network.stop()
        self._arrivals.put(None)
        self._thread.join(timeout=2)

    def alive(self) -> bool:
        """Whether both threads live, without which nothing is taken in."""
        return self._thread.is_alive() and self._network.alive()

    def trouble(self) -> str:
        """Why the hub does not take in and derive now, without particulars; empty where it does."""
        began = self._began
        if not self.alive():
            return "ingest has ended"
        if self.health.trouble:
            return self.health.trouble
        if began is not None and time.monotonic() - began > STUCK_S:
            return "the database does not answer"
        if not self.health.connected:
            return "the broker cannot be reached"
        return self.health.derivation

    # ------------------------------------------------------------------

    def _state(self) -> tuple[bytes, bytes]:
        """The signed words "here I am" and "I am gone" for one connection."""
        with self._engine.begin() as conn:
            session, begun = begin_session(conn), generation(conn) or 0
        online, offline = (
            self._keyring.sign.sign(
                MessageType.HUB_STATE, HubState(begun, session, online=word).encode()
            )
            for word in (True, False)
        )
        return online, offline

    def _run(self) -> None:
        group: list[_Arrival] = []
        back_off = 0.5
        stopping = False
        while not stopping:
            group, stopping = self._next_group()
            while group:
                try:
                    self._began = time.monotonic()
                    self._take(group)
                except Exception as error:
                    self._began = None
                    if _is_transient(error):
                        self.health.trouble = "the database cannot be used; it is tried again"
                        log.warning("the database failed; tried again", error=_line(error))
                    else:
                        self.health.trouble = "ingest fails by itself; the log says why"
                        log.exception("ingest failed; tried again", messages=len(group))
                    if self._stopping.wait(back_off):
                        return
                    back_off = min(back_off * 2, LONGEST_BACK_OFF_S)
                else:
                    self._began = None
                    self._room.leave(group)
                    group = []
                    back_off = 0.5
                    self.health.trouble = ""
            self._look_round()
            self._derive_if_due()
            self._tell_rejected()

    def _next_group(self) -> tuple[list[_Arrival], bool]:
        """Everything that waits, up to a bound; whether it is time to stop."""
        group: list[_Arrival] = []
        timeout = max(0.0, min(DERIVE_AT_LEAST_EVERY_S, self._derive_at - time.monotonic()))
        with contextlib.suppress(queue.Empty):
            while len(group) < MAX_GROUP:
                arrival = (
                    self._arrivals.get(timeout=timeout)
                    if not group
                    else (self._arrivals.get_nowait())
                )
                if arrival is None:
                    return group, True
                group.append(arrival)
        return group, False

    def _take(self, group: Sequence[_Arrival]) -> None:
        landed = self._land([arrival.message for arrival in group])
        # before receipts: those are signed with the keys that this speaks of
        for edge in [edge for edge, greets in landed.heard.items() if greets]:
            for statement in self._keyring.statements:
                self._network.publish(topics.keys(edge), statement)
        self._send_receipts(landed.receipts)
        for arrival in group:
            arrival.acknowledge()
        if any(landed.heard.values()):
            self._send_orders(landed.heard)
        self._send_rosters(landed.heard)
        for edge in landed.left:
            log.info("a device has retired: all it held is here", edge=edge.hex())
        if landed.batches or landed.heartbeats:
            self._derive_at = min(self._derive_at, time.monotonic())
        self._untold.update(_plain(landed.rejected))

    def _look_round(self) -> None:
        """Carries out what people have decided of devices, here or in another process."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_ROUND_EVERY_S
        self._send_orders({})
        try:
            with self._engine.begin() as conn:
                landed = self._landing.land_admitted(conn)
        except Exception as error:
            if _is_transient(error):
                log.warning("what was admitted: the database failed", error=_line(error))
            else:
                log.exception("what was admitted could not be taken in")
            self._look_at = now + LONGEST_BACK_OFF_S
            return
        self._send_receipts(landed.receipts)
        if landed.batches:
            log.info("admitted", batches=landed.batches, entries=landed.entries)
            self._derive_at = min(self._derive_at, time.monotonic())
            self._look_at = now
        self._untold.update(_plain(landed.rejected))

    def _send_orders(self, heard: Mapping[bytes, bool]) -> None:
        try:
            for edge, payload in self._orders.due(heard):
                self._network.publish(topics.order(edge), payload)
        except Exception as error:
            if _is_transient(error):
                log.warning("no orders were sent", error=_line(error))
            else:
                log.exception("no orders were sent")

    def _send_receipts(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            self._network.publish(
                topics.receipt(receipt.edge),
                self._keyring.sign.sign(MessageType.RECEIPT, receipt.encode()),
            )

    def _send_rosters(self, heard: Mapping[bytes, bool]) -> None:
        """Tells devices whom to greet; a failure costs them a colour and nothing else."""
        try:
            for edge, payload in self._rosters.due(heard, self._now_ms()):
                self._network.publish(topics.roster(edge), payload)
        except Exception:
            log.exception("no rosters were sent")

    def _tell_rejected(self) -> None:
        """A line now and then: a flood must not become one of the log."""
        now = time.monotonic()
        dropped = self.health.dropped - self._told_dropped
        if (self._untold or dropped) and now >= self._tell_at:
            log.warning("not taken", **self._untold, **({"dropped": dropped} if dropped else {}))
            self._untold.clear()
            self._told_dropped += dropped
            self._tell_at = now + TELL_EVERY_S

    def _land(self, messages: Sequence[Message]) -> Landed:
        """Commits `messages`; where they make the code fail, those that do are left out."""
        try:
            with self._engine.begin() as conn:
                return self._landing.land(conn, messages, self._now_ms())
        except Exception as error:
            if _is_transient(error):
                raise
            if len(messages) == 1:
                if time.monotonic() >= self._tell_at:
                    log.exception("a message made ingest fail", topic=messages[0].topic)
                self._untold["made_ingest_fail"] += 1
                self._tell_rejected()
                return Landed()
            half = len(messages) // 2
            landed = self._land(messages[:half])
            landed.add(self._land(messages[half:]))
            return landed

    def _derive_if_due(self) -> None:
        """Derives once nothing waits, or when that has not been the case for a while.

        A failure, or another command that derives at the moment, is tried again after a pause and
        never keeps facts from being taken in.
        """
        now = time.monotonic()
        if now < self._derive_at or not (self._arrivals.empty() or now >= self._derive_by):
            return
        try:
            with self._engine.begin() as conn:
                step = derive.derive_batch(conn) if derive.try_lock(conn) else None
        except Exception as error:
            if _is_transient(error):
                log.warning("derivation: the database failed; tried again", error=_line(error))
            else:
                log.exception("derivation failed; tried again")
            self.health.derivation = "attendance is not brought up to date; the log says why"
            self._derive_at = now + LONGEST_BACK_OFF_S
            return
        if step is None:
            waits_since = self._derive_waits_since = self._derive_waits_since or now
            if now - waits_since > STUCK_S:
                self.health.derivation = "attendance waits for an import or another command"
            self._derive_at = now + DERIVE_AT_LEAST_EVERY_S
            return
        self._derive_waits_since = None
        self.health.derivation = ""
        self._derive_by = now + DERIVE_AT_LEAST_EVERY_S
        if not step.batches and not step.heartbeats:
            self._derive_at = float("inf")  # until something arrives


class _Network:
    """The connection to the broker, kept up until `stop`."""

    def __init__(
        self,
        broker: Broker,
        arrivals: "queue.Queue[_Arrival | None]",
        room: "_Room",
        state: Callable[[], tuple[bytes, bytes]],
        ingest: Ingest,
        tls: Callable[[], ssl.SSLContext] | None,
    ) -> None:
        self._broker = broker
        self._tls = tls
        self._arrivals = arrivals
        self._room = room
        self._state = state
        self._ingest = ingest
        self._online = self._offline = b""
        self._client: paho.Client | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        client = self._client
        if client is not None:
            with contextlib.suppress(Exception):
                info = client.publish(topics.HUB_STATE, self._offline, topics.QOS, retain=True)
                info.wait_for_publish(timeout=2)
            client.disconnect()
        self._thread.join(timeout=5)

    def alive(self) -> bool:
        return self._thread.is_alive()

    def publish(self, topic: str, payload: bytes) -> None:
        """Sends what is repeated anyway when it is lost."""
        client = self._client
        if client is not None:
            client.publish(topic, payload, topics.QOS)

    def _run(self) -> None:
        delay = 0.5
        trouble = ""
        while not self._stopping.is_set():
            try:
                self._connect_and_loop()
                now = "the connection was lost"
            except Exception as error:  # noqa: BLE001  the thread's outermost loop
                now = _line(error)
            if self._ingest.health.connected:
                self._ingest.health.connected = False
                delay = 0.5
            if now != trouble and not self._stopping.is_set():
                log.warning("broker", host=self._broker.host, port=self._broker.port, trouble=now)
            trouble = now
            self._stopping.wait(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, LONGEST_BACK_OFF_S)

    def _connect_and_loop(self) -> None:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"shuaka-hub-{random.getrandbits(64):016x}",
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._online, self._offline = self._state()
        client.will_set(topics.HUB_STATE, self._offline, topics.QOS, retain=True)
        if self._broker.tls:
            if self._tls is None:
                raise ssl.SSLError("the broker wants TLS, and nothing says how")
            client.tls_set_context(self._tls())
        client.max_inflight_messages_set(1000)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_socket_open = _no_delay
        # Without this, paho writes to the socket in the thread that publishes as well, and two
        # packets can end up inside each other.
        client.on_socket_register_write = lambda *_: None
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.MaximumPacketSize = 2 * MAX_MESSAGE_BYTES
        client.connect(
            self._broker.host,
            self._broker.port,
            KEEPALIVE_S,
            clean_start=True,
            properties=properties,
        )
        self._client = client
        if self._stopping.is_set():  # `stop` may have looked before there was a client
            client.disconnect()
        try:
            # Not loop_forever(): that lets a `publish` of another thread wait for its next second.
            while client.loop(timeout=1.0) == paho.MQTT_ERR_SUCCESS:
                pass
        finally:
            self._client = None

    # An exception in a callback would end the thread: these only pass things on.

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            log.warning("the broker refused", reason=str(reason))
            client.disconnect()
        else:
            client.subscribe(topics.ALL_UP, topics.QOS)

    def _on_subscribe(
        self,
        client: paho.Client,
        _data: Any,
        _mid: int,
        reasons: Sequence[ReasonCode],
        _properties: Any,
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            log.warning("the broker refused the subscription", reason=str(reasons[0]))
            client.disconnect()
            return
        # only now is a message that an edge sends heard here
        client.publish(topics.HUB_STATE, self._online, topics.QOS, retain=True)
        self._ingest.health.connected = True
        log.info("connected", host=self._broker.host, port=self._broker.port)

    def _on_message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        mid, qos = message.mid, message.qos
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        arrival = _Arrival(
            Message(topic, bytes(message.payload)), lambda: _acknowledge(client, mid, qos)
        )
        if (qos or self._arrivals.qsize() < RECEIVE_MAXIMUM) and self._room.enter(arrival):
            self._arrivals.put(arrival)
        else:
            self._ingest.health.dropped += 1
            arrival.acknowledge()


class _Room:
    """Counts what waits, in bytes; entered by the network's thread, left by the other."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._lock = threading.Lock()

    def enter(self, arrival: _Arrival) -> bool:
        with self._lock:
            if self._left < arrival.size:
                return False
            self._left -= arrival.size
            return True

    def leave(self, arrivals: Sequence[_Arrival]) -> None:
        with self._lock:
            self._left += sum(arrival.size for arrival in arrivals)


def _acknowledge(client: paho.Client, mid: int, qos: int) -> None:
    # the connection may have gone meanwhile, and the message with it
    with contextlib.suppress(OSError, ValueError):
        client.ack(mid, qos)


def _is_transient(error: Exception) -> bool:
    """Whether the database is at fault, and not what was to be written into it."""
    if isinstance(error, (DataError, IntegrityError)):
        return False
    return isinstance(error, (DBAPIError, PoolTimeoutError))


def _line(error: Exception) -> str:
    what = getattr(error, "orig", None) or error
    return " ".join(str(what).split()) or type(error).__name__


def _plain(counts: Counter[Any]) -> dict[str, int]:
    return {str(reason): count for reason, count in counts.items()}


def _no_delay(_client: Any, _data: Any, sock: Any) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
