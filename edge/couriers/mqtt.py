"""Carries the journal to the hub over MQTT 5, and lets go on the hub's receipt alone.

`Courier` is one thread that drives protocol.delivery.Sender: it is told what became durable, asks
the Sender what to send, reads that from the journal and publishes it. `Link` is the connection: it
comes back by itself, with jitter, and tells the courier what happened. The broker's PUBACK frees
nothing; it is only heard where it says that no hub listens.
"""

import contextlib
import logging
import queue
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge.certificate import Certificates
from edge.couriers import Appended, JournalEvent, JournalOwner, JournalState, Opened, Pruned
from edge.enrol import IdentityError, Keys, follow
from edge.status import CourierStatus
from edge.store import JournalError, JournalReader
from protocol import topics
from protocol.batch import (
    Heartbeat,
    Hello,
    HubState,
    open_hub_state,
    open_receipt,
    seal_batch,
)
from protocol.delivery import NewGeneration, Outcome, Refusal, Refused, Released, Sender
from protocol.errors import LocalError, Reason, RemoteError
from protocol.fleet import Command, NextKeys, Order
from protocol.identity import MAX_MESSAGE_BYTES, Enrolment, MessageType
from protocol.roster import Roster
from protocol.topics import Broker

KEEPALIVE_S: Final = 15
HEARTBEAT_MS: Final = 30_000
COMPLAIN_MS: Final = 60_000
LONGEST_WAIT_MS: Final = 1_000
NO_MATCHING_SUBSCRIBERS: Final = 0x10  # MQTT 5 §3.4.2.1
STEADY_S: Final = 30.0
"""A connection that did not last so long is followed by a longer wait: two clients with one
identity would throw each other out many times a second.
"""
MAX_INCOMING: Final = 256
HISTORIES_DIFFER: Final = frozenset({Refusal.BEYOND_HEAD, Refusal.DIGEST_DIFFERS})
MAX_AT_ONCE: Final = 64
"""Events handled before something is sent again: a flood must not keep taps from going out."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Connected:
    pass


@dataclass(frozen=True, slots=True)
class Disconnected:
    pass


@dataclass(frozen=True, slots=True)
class Incoming:
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Carried:
    """The broker acknowledged the message of this number."""

    number: int


@dataclass(frozen=True, slots=True)
class NotTaken:
    """The broker took a message for nobody, or refused it; why, in its words."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Brought:
    """What the hub said, brought on another way."""

    messages: Sequence[tuple[str, bytes]]
    done: threading.Event


@dataclass(frozen=True, slots=True)
class Stop:
    pass


LinkEvent = Connected | Disconnected | Incoming | Carried | NotTaken
CourierEvent = LinkEvent | JournalEvent | _Brought | Stop


class Link:
    """An MQTT connection that is kept up until `stop`.

    `tell` is called by the network's thread and must return at once. `via` is an address (host,
    port) from which the way leads on to the broker, which alone is asked who it is.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        subscriptions: Sequence[str],
        tell: Callable[[LinkEvent], None],
        via: tuple[str, int] | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        if broker.tls and certificates is None:
            raise LocalError("a broker with TLS wants a certificate")
        self._certificates = certificates
        self._broker = broker
        self._address = via or (broker.host, broker.port)
        self._client_id = client_id
        self._subscriptions = subscriptions
        self._tell = tell
        self._stopping = threading.Event()
        self._client: paho.Client | None = None
        self._was_answered = self._was_connected = False
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        client = self._client
        if client is not None:
            client.disconnect()
        self._thread.join(timeout=5)

    def reconnect(self) -> None:
        """Ends the connection, and with it all that was subscribed to; it comes back by itself."""
        client = self._client
        if client is not None:
            client.disconnect()

    def publish(self, topic: str, payload: bytes) -> int | None:
        """Hands `payload` to the network; its number, or None where there is no connection now."""
        client = self._client
        if client is None:
            return None
        info = client.publish(topic, payload, topics.QOS)
        return info.mid if info.rc == paho.MQTT_ERR_SUCCESS else None

    def _run(self) -> None:
        delay = 0.5
        trouble = ""
        while not self._stopping.is_set():
            self._was_connected = False
            began = time.monotonic()
            try:
                self._connect_and_loop()
                now = "the connection was lost" if self._was_connected else "refused"
            except Exception as error:  # noqa: BLE001  the thread's outermost loop
                now = str(error) or type(error).__name__
            if self._was_connected:
                trouble = ""
                self._tell(Disconnected())
                if time.monotonic() - began > STEADY_S:
                    delay = 0.5
            if now != trouble and not self._stopping.is_set():
                log.warning("broker %s:%d: %s", self._broker.host, self._broker.port, now)
            trouble = now
            self._stopping.wait(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, 15.0)

    def _connect_and_loop(self) -> None:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        certificates = self._certificates if self._broker.tls else None
        if certificates is not None:
            client.tls_set_context(certificates.context(self._broker.host))
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_socket_open = _no_delay
        # Without this, paho writes to the socket in the thread that publishes as well, and two
        # packets can end up inside each other.
        client.on_socket_register_write = lambda *_: None
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = MAX_MESSAGE_BYTES + 1024
        self._was_answered = False
        try:
            client.connect(
                *self._address,
                KEEPALIVE_S,
                clean_start=True,
                properties=properties,
            )
        except ssl.SSLError:
            if certificates is not None:
                certificates.refused()
            raise
        self._client = client
        if self._stopping.is_set():  # `stop` may have looked before there was a client
            client.disconnect()
        try:
            # Not loop_forever(): that lets a `publish` of another thread wait for its next second.
            while client.loop(timeout=1.0) == paho.MQTT_ERR_SUCCESS:
                pass
        finally:
            self._client = None
            with contextlib.suppress(OSError):
                client.disconnect()
        # With TLS 1.3 a broker says only after the handshake that it does not take a certificate.
        if certificates is not None and not self._was_answered and not self._stopping.is_set():
            certificates.refused()

    # paho swallows no exception of a callback: it ends its thread. These only pass things on.

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        self._was_answered = True
        if reason.is_failure:
            log.warning("the broker refused: %s", reason)
            client.disconnect()
        else:
            client.subscribe([(topic, topics.QOS) for topic in self._subscriptions])

    def _on_subscribe(
        self,
        client: paho.Client,
        _data: Any,
        _mid: int,
        reasons: Sequence[ReasonCode],
        _properties: Any,
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            log.warning("the broker refused a subscription: %s", ", ".join(refused))
            client.disconnect()
            return
        # only now will the receipts that a hello brings be heard
        self._was_connected = True
        log.info("broker %s:%d: connected", self._broker.host, self._broker.port)
        self._tell(Connected())

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self._tell(Incoming(message.topic, bytes(message.payload)))

    def _on_publish(
        self, _client: Any, _data: Any, mid: int, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure or reason.value == NO_MATCHING_SUBSCRIBERS:
            self._tell(NotTaken(str(reason)))
        else:
            self._tell(Carried(mid))


class Courier:
    """The thread that sends. `tell` it what happened, from any thread."""

    def __init__(
        self,
        data: Path,
        enrolment: Enrolment,
        keys: Keys,
        broker: Broker,
        owner: JournalOwner,
        via: tuple[str, int] | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self._data = data
        self._enrolment = enrolment
        self._keys = keys
        self._owner = owner
        self._events: queue.SimpleQueue[CourierEvent] = queue.SimpleQueue()
        self._sender = Sender(enrolment.edge, enrolment.generation, random.Random())
        self._receipts = topics.receipt(enrolment.edge)
        self._rosters = topics.roster(enrolment.edge)
        self._orders = topics.order(enrolment.edge)
        self._next_keys = topics.keys(enrolment.edge)
        self._keys_number = self._ask_keys_at = 0
        self._roster_issued_ms = 0
        self._greeted = (0, 0)
        self._not_taken = ""
        self._tickets: dict[int, int] = {}
        """The Sender's tickets by the numbers of the messages on their way."""
        self._link = Link(
            broker,
            enrolment.edge.hex(),
            [self._receipts, self._rosters, self._orders, self._next_keys, topics.HUB_STATE],
            self.tell,
            via,
            certificates,
        )
        self._reader: JournalReader | None = None
        self._epoch = b""
        self._header_bytes = b""
        self._synced = False
        self._connected = False
        self._next_heartbeat = 0
        self._is_retired = self._has_closed = False
        self._complain_at = self._unsaid = 0
        self._hub_online: bool | None = None
        self._hub_session = (0, 0)
        self._status = CourierStatus(connected=False, hub_online=None, unreceipted=0, alarm="")
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._link.start()

    def stop(self) -> None:
        """Sends what is on hand, without waiting for receipts, and ends."""
        self.tell(Stop())
        self._thread.join(timeout=5)
        self._link.stop()

    def tell(self, event: CourierEvent) -> None:
        if isinstance(event, Incoming) and self._events.qsize() > MAX_INCOMING:
            return  # a flood: receipts are repeated, memory is not endless
        self._events.put(event)

    def bring(self, messages: Sequence[tuple[str, bytes]], timeout_s: float = 5) -> int:
        """Messages (topic, payload) that came on another way, to be followed as from the broker.

        Returns once they were; gives how many entries have no receipt then.
        """
        brought = _Brought(messages, threading.Event())
        self._events.put(brought)
        brought.done.wait(timeout_s)
        return self._status.unreceipted

    def status(self) -> CourierStatus:
        """How it is now; from any thread."""
        return self._status

    def alive(self) -> bool:
        return self._thread.is_alive()

    # ------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                self._loop()
            except JournalError as error:
                log.error("the journal cannot be read, nothing is sent: %s", error)  # noqa: TRY400
            except Exception:
                log.exception("the courier failed and starts over")
            else:
                self._close_reader()
                return
            self._close_reader()
            self._synced = False
            time.sleep(2)

    def _loop(self) -> None:
        going = True
        while going:
            going = self._handle_what_waits()
            self._send_all()
            self._heartbeat_if_due()
            self._close_if_done()
            self._status = replace(
                self._status,
                connected=self._connected,
                hub_online=self._hub_online,
                unreceipted=self._sender.unreceipted(),
            )

    def _handle_what_waits(self) -> bool:
        """Waits for an event, then handles a bounded number of them; False at the end."""
        for handled in range(MAX_AT_ONCE):
            try:
                event = self._events.get(timeout=0 if handled else self._wait_s())
            except queue.Empty:
                break
            if isinstance(event, Stop):
                return False
            self._handle(event)
        return True

    def _wait_s(self) -> float:
        wake = self._sender.wake_at(_now())
        wait = LONGEST_WAIT_MS if wake is None else wake - _now()
        return max(0, min(wait, LONGEST_WAIT_MS)) / 1000

    def _handle(self, event: CourierEvent) -> None:
        match event:
            case Opened(epoch, header_bytes):
                self._open(epoch, header_bytes)
            case Appended(epoch, head):
                if self._sender.knows(epoch):
                    self._sender.appended(epoch, head, _now())
            case Pruned(epoch, first):
                if self._sender.knows(epoch):
                    self._sender.pruned(epoch, first)
            case Connected():
                self._connected = True
                self._hub_online = None
                self._greeted = (0, 0)
                self._not_taken = ""
                self._tickets.clear()
                self._sender.connected(_now())
                self._hello()
                self._owner.ask_state()
            case Disconnected():
                self._connected = False
                self._hub_online = None
                self._sender.disconnected()
            case Carried(number):
                if number in self._tickets:
                    self._sender.carried(self._tickets.pop(number), _now())
            case NotTaken(reason):
                if reason != self._not_taken:
                    log.info("the broker: %s", reason)
                self._not_taken = reason
                self._hub_online = False
                self._sender.nobody_listens(_now())
            case Incoming(topic, payload):
                self._incoming(topic, payload)
            case _Brought(messages, done):
                try:
                    self._take_brought(messages)
                finally:
                    done.set()
            case JournalState() if not self._sender.knows(event.epoch):
                pass
            case JournalState():
                self._is_retired = event.closing
                self._publish(topics.Up.STATE, MessageType.HEARTBEAT, self._heartbeat(event))
            case Stop():
                pass

    def _open(self, epoch: bytes, header_bytes: bytes) -> None:
        self._epoch, self._header_bytes = epoch, header_bytes
        self._close_reader()  # it may read a file that has been set aside
        self._synced = False

    def _sync(self) -> None:
        """Makes the Sender know what the journal holds: at start, and after any failure."""
        reader = self._journal()
        held = reader.epochs()
        written = reader.generation()
        if written < self._sender.generation:
            # heard of while the journal was closed: its releases are of another memory of the hub
            self._owner.new_generation(self._sender.generation)
        self._sender.generation = max(self._sender.generation, written)
        self._sender.keep_only(each.epoch for each in held)
        for each in held:
            if self._sender.knows(each.epoch):
                self._sender.appended(each.epoch, each.head, _now())
                self._sender.pruned(each.epoch, each.first)
            elif each.head >= each.first or each.epoch == self._epoch:
                released = each.released if written == self._sender.generation else 0
                self._sender.hold(each.epoch, each.first, each.head, released)
        self._synced = True
        if self._connected:
            self._hello()

    def _journal(self) -> JournalReader:
        if self._reader is None:
            self._reader = JournalReader(self._data)
        return self._reader

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _send_all(self) -> None:
        if not self._header_bytes:
            return
        if not self._synced:
            self._sync()
        while (send := self._sender.next(_now())) is not None:
            try:
                batch, subjects = self._journal().batch(send.epoch, send.first, send.last)
            except JournalError as error:
                if send.epoch == self._epoch:
                    raise
                self._complain(f"epoch {send.epoch.hex()[:8]} waits: {error}")
                self._sender.unreadable(send.epoch, _now())
                continue
            payload = seal_batch(batch, self._keys.sign, subjects)
            topic = topics.up(self._enrolment.edge, topics.Up.JOURNAL)
            number = self._link.publish(topic, payload)
            if number is None:
                self._sender.disconnected()
                return
            # a gap may reach further than what was asked for
            self._tickets[number] = self._sender.sent(send, min(batch.last, send.last))

    def _incoming(self, topic: str, payload: bytes) -> None:
        hub = self._enrolment.hub.sign
        try:
            if topic == self._receipts and self._synced:
                receipt = open_receipt(payload, hub)
                outcomes = self._sender.receipt(receipt, self._journal().digest, _now())
            elif topic == topics.HUB_STATE:
                outcomes = self._hub_state(open_hub_state(payload, hub))
            elif topic == self._rosters:
                self._take_roster(Roster.open(payload, hub, self._enrolment.edge, self._keys.seal))
                return
            elif topic == self._next_keys:
                self._follow(payload)
                return
            elif topic == self._orders:
                order = Order.open(payload, hub, self._enrolment.edge)
                if order.command == Command.RETIRE:
                    self._owner.retire(payload)
                return
            else:
                return
        except RemoteError as error:
            self._complain(f"a message on {topic} was not taken: {error}")
            if topic == topics.HUB_STATE and error.reason is Reason.BAD_SIGNATURE:
                self._ask_keys()
            return
        for outcome in outcomes:
            match outcome:
                case Released(epoch, through):
                    self._owner.release(epoch, through)
                case NewGeneration(generation):
                    log.warning("the hub was restored: everything still held is offered again")
                    self._owner.new_generation(generation)
                    self._hello()
                case Refused(reason, epoch, through):
                    what = f"a receipt up to {through} of epoch {epoch.hex()[:8]}: {reason}"
                    if reason in HISTORIES_DIFFER:
                        if not self._status.alarm:
                            log.error("journal and hub differ: %s", what)
                        self._status = replace(self._status, alarm=reason)
                        self._owner.alarm(reason)
                    self._complain(f"{what}; it was not followed")

    def _take_brought(self, messages: Sequence[tuple[str, bytes]]) -> None:
        if self._header_bytes and not self._synced:
            self._sync()
        for topic, payload in messages:
            self._incoming(topic, payload)
        self._status = replace(self._status, unreceipted=self._sender.unreceipted())

    def _complain(self, what: str) -> None:
        """A line in the log at once, then one a minute: whoever may publish could fill a disk."""
        now = _now()
        if now < self._complain_at:
            self._unsaid += 1
            return
        log.warning("%s%s", what, f" (and {self._unsaid} others before)" if self._unsaid else "")
        self._complain_at, self._unsaid = now + COMPLAIN_MS, 0

    def _hub_state(self, state: HubState) -> list[Outcome]:
        """A hub that has just come has heard no hello of ours: the broker keeps none for it."""
        session = (state.generation, state.session)
        if session >= self._hub_session:  # an older one may be played back
            self._hub_session = session
            self._hub_online = state.online
        if state.online and session > self._greeted:
            self._greeted = session
            self._roster_issued_ms = 0  # the clock of the hub that was may have been ahead
            self._hello()
            self._owner.ask_state()
        return self._sender.hub_state(state, _now())

    def _ask_keys(self) -> None:
        """Says hello to a hub that may have changed its keys: its answer begins with them."""
        if _now() >= self._ask_keys_at:
            self._ask_keys_at = _now() + COMPLAIN_MS
            self._hello()

    def _follow(self, payload: bytes) -> None:
        """The hub's next keys, where the key that is known says so; of others nothing is said."""
        try:
            said = NextKeys.open(payload, self._enrolment.hub.sign)
        except RemoteError as error:
            if error.reason is Reason.BAD_SIGNATURE:
                return  # a change from before our time, which is told at each hello
            raise
        if said.number <= self._keys_number:
            return
        try:
            follow(self._data, said)
        except IdentityError as error:
            self._complain(f"the hub's new keys could not be kept: {error}")
        self._keys_number = said.number
        self._enrolment = replace(self._enrolment, hub=said.keys)
        self._owner.new_hub_key(said.keys.seal)
        log.info("the hub has changed its keys")
        self._link.reconnect()  # what it said of itself by them was passed over until now

    def _take_roster(self, roster: Roster) -> None:
        if roster.issued_ms > self._roster_issued_ms:  # an older one may be played back
            self._roster_issued_ms = roster.issued_ms
            self._owner.new_roster(roster)

    def _hello(self) -> None:
        if self._synced:
            hello = Hello(self._header_bytes, tuple(self._sender.held()))
            self._publish(topics.Up.HELLO, MessageType.HELLO, hello.encode())

    def _heartbeat_if_due(self) -> None:
        if self._connected and self._synced and _now() >= self._next_heartbeat:
            self._next_heartbeat = _now() + HEARTBEAT_MS
            self._owner.ask_state()

    def _close_if_done(self) -> None:
        """Says that this was all as soon as it was; said again with each heartbeat."""
        if not (self._is_retired and self._synced and self._sender.unreceipted() == 0):
            self._has_closed = False
        elif self._connected and not self._has_closed:
            self._has_closed = True
            self._owner.ask_state()

    def _heartbeat(self, state: JournalState) -> bytes:
        held = {each.epoch: each for each in self._journal().epochs()}
        return Heartbeat(
            epoch=state.epoch,
            head=state.head,
            digest=state.digest,
            at=state.at,
            released=self._sender.released(state.epoch),
            first_held=held[state.epoch].first,
            unreceipted=self._sender.unreceipted(),
            readers=state.readers,
            closing=state.closing and self._synced and self._sender.unreceipted() == 0,
        ).encode()

    def _publish(self, channel: topics.Up, message: MessageType, payload: bytes) -> None:
        """Sends what nobody waits for: a lost one is followed by another."""
        self._link.publish(
            topics.up(self._enrolment.edge, channel), self._keys.sign.sign(message, payload)
        )


def _now() -> int:
    """CLOCK_BOOTTIME in ms: goes on through suspend, never steps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _no_delay(_client: Any, _data: Any, sock: Any) -> None:
    # a socket of another family has no such option
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
