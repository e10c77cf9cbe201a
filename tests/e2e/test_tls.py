"""The broker with TLS, all real: who gets in, what a device may say there, and how it is put out.

mosquitto runs by the folder that `shuaka-hub broker` writes and `shuaka-hub serve` keeps. A
`Stranger` is a plain MQTT client with whatever certificate a test gives it.
"""

import json
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from sqlalchemy import Engine, func, select

from edge.certificate import CERTIFICATE_FILE, KEY_FILE, Certificates, Held, request
from edge.enrol import Keys, enrol, load_hub_url, load_identity
from edge.request import HubAddress
from edge.store import JournalError, JournalReader
from hub.audit import Machine
from hub.authority import Authority, key_pem, new_key
from hub.devices import add_device
from hub.keys import Keyring
from hub.leaving import compromise, give_up
from hub.store import schema as s
from hub.store.engine import open_engine, reading
from protocol import topics
from protocol.batch import Heartbeat
from protocol.identity import MessageType
from protocol.journal import EpochHeader, Stamp
from tests.hub.world import World
from tests.rig import SecureMosquitto, private_dir, wait_for
from tests.rig.product import PROGRAMS, Hub, run

pytestmark = pytest.mark.servers

PROMISED_S = 60
NOT_AUTHORISED = 0x87


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Device:
    """A device in a folder of its own, enrolled and known to the broker; it needs no reader."""

    said = ""

    def __init__(self, site: "Site", name: str, *, by_command: bool = False) -> None:
        self.name = name
        self.folder = site.folder / name
        self.folder.mkdir()
        self.data = self.folder / "data"
        self.config = self.folder / "edge.toml"
        self.config.write_text(
            '[edge]\ndata = "data"\n[readers]\npcsc = false\n[clock]\ntrust = "always"\n', "utf-8"
        )
        fingerprint = Keyring.load(site.hub.directory / "data").public().fingerprint()
        with site.engine.begin() as conn:
            code = add_device(conn, Machine(), fingerprint, name, "V-1", now_ms()).code
        if by_command:
            enrolled = ("enrol", "--hub", site.hub.url, "--code", str(code))
            self.said = self.command(*enrolled)
        else:
            enrol(self.data, site.hub.url, code)
        identity = load_identity(self.data)
        assert identity is not None
        self.enrolment, self.keys = identity
        self.id = self.enrolment.edge
        if not by_command:
            self.renew()
        acl = site.broker.folder / "acl"
        wait_for(lambda: self.id.hex() in acl.read_text("ascii"), "the device", timeout_s=15)
        time.sleep(0.3)  # the signal is on its way

    def command(self, *arguments: str) -> str:
        return run("shuaka-edge", *arguments, "--config", str(self.config))

    def start(self) -> "subprocess.Popen[bytes]":
        with (self.folder / "edge.log").open("ab") as log:
            return subprocess.Popen(
                [PROGRAMS / "shuaka-edge", "run", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def log(self) -> str:
        return (self.folder / "edge.log").read_text("utf-8")

    def unreceipted(self) -> int:
        """Entries that the hub has not said to have; -1 where there is no journal yet."""
        try:
            with closing(JournalReader(self.data)) as reader:
                held = reader.epochs()
        except JournalError:
            return -1
        return sum(each.head - each.released for each in held) if held else -1

    def renew(self) -> Held:
        hub = HubAddress.parse(load_hub_url(self.data))
        return request(self.data, hub, self.enrolment, self.keys)


@dataclass
class Site:
    """A hub, its broker, and two devices."""

    folder: Path
    broker: SecureMosquitto
    hub: Hub
    engine: Engine
    devices: dict[str, Device] = field(default_factory=dict)

    def put_out(self, device: Device, status: str) -> None:
        with self.engine.begin() as conn:
            public_id = UUID(bytes=device.id)
            if status == "RETIRED":
                give_up(conn, Machine(), public_id, "遗失", now_ms())
            else:
                compromise(conn, Machine(), public_id, now_ms() - 1000, "被盗", now_ms())

    def stored(self, statement: Any) -> Any:
        with reading(self.engine) as conn:
            return conn.execute(statement).scalars().all()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with private_dir() as folder:
        broker = SecureMosquitto(folder / "mosquitto")
        hub = Hub(
            folder / "hub", broker.hub_url, edge_mqtt=broker.url, broker_dir=str(broker.folder)
        )
        hub.command("init")
        engine = open_engine(hub.database)
        with engine.begin() as conn:
            world = World(conn)
            world.organisation("B")
            world.venue("V-1", "B")
        hub.command("broker", *broker.options("127.0.0.1", "broker.example"))
        with broker, hub:
            broker.start()
            hub.start()
            found = Site(folder, broker, hub, engine)
            found.devices["甲"] = Device(found, "甲", by_command=True)
            found.devices["乙"] = Device(found, "乙")
            yield found
        engine.dispose()


class Stranger:
    """An MQTT client that tells what the broker answered."""

    def __init__(
        self,
        site: Site,
        context: ssl.SSLContext,
        *,
        client_id: str = "",
        user: str | None = None,
        port: int | None = None,
    ) -> None:
        self.connected: list[str] = []
        self.heard: list[tuple[str, bytes]] = []
        self.answers: dict[int, int] = {}
        self.granted: list[int] = []
        self.gone = threading.Event()
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        if user is not None:
            self.client.username_pw_set(user)
        self.client.tls_set_context(context)
        self.client.on_connect = lambda _c, _d, _f, reason, _p: self.connected.append(str(reason))
        self.client.on_message = lambda _c, _d, message: self.heard.append(
            (message.topic, message.payload)
        )
        self.client.on_publish = lambda _c, _d, mid, reason, _p: self.answers.update(
            {mid: reason.value}
        )
        self.client.on_subscribe = lambda _c, _d, _m, reasons, _p: self.granted.extend(
            reason.value for reason in reasons
        )
        self.client.on_disconnect = lambda *_: self.gone.set()
        self._properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        self._port = port or site.broker.port

    def __enter__(self) -> Self:
        self.client.connect("127.0.0.1", self._port, 15, properties=self._properties)
        self.client.loop_start()
        wait_for(lambda: self.connected or self.gone.is_set(), "an answer", timeout_s=10)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    @property
    def is_in(self) -> bool:
        return self.connected == ["Success"] and not self.gone.is_set()

    def may_publish(self, topic: str) -> bool:
        info = self.client.publish(topic, b"?", 1)
        wait_for(lambda: info.mid in self.answers, "the answer to a message", timeout_s=5)
        return self.answers[info.mid] != NOT_AUTHORISED

    def may_subscribe(self, topic: str) -> bool:
        self.granted.clear()
        self.client.subscribe(topic, 1)
        wait_for(lambda: self.granted, "the answer to a subscription", timeout_s=5)
        return self.granted[0] < 0x80


def certified(device: Device, host: str = "127.0.0.1") -> ssl.SSLContext:
    return Certificates(device.data).context(host)


def is_kept_out(site: Site, context: ssl.SSLContext, *, port: int | None = None) -> bool:
    """Whether the broker hangs up: with TLS 1.3 it says so only after the handshake."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port or site.broker.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
        ):
            wrapped.settimeout(1.0)
            return wrapped.recv(1) == b""
    except TimeoutError:
        return False
    except (ssl.SSLError, ConnectionError):
        return True


# --- enrolling ------------------------------------------------------------------------------------


def test_enrolling_brings_a_certificate_that_its_owner_alone_can_read(site: Site) -> None:
    device = site.devices["甲"]
    assert "Certificate for the broker until" in device.said
    for name in (KEY_FILE, CERTIFICATE_FILE):
        assert stat.S_IMODE((device.data / name).stat().st_mode) == 0o600
    held = Held.load(device.data)
    assert held is not None
    (name,) = held.certificate.subject
    assert name.value == device.id.hex()
    days = (held.ends_ms - now_ms()) / 86_400_000
    assert 89.9 < days <= 90


def test_the_hub_keeps_its_authority_s_key_to_itself(site: Site) -> None:
    data = site.hub.directory / "data"
    assert stat.S_IMODE((data / "hub-ca.key").stat().st_mode) == 0o600
    assert b"PRIVATE" not in (site.broker.folder / "authority.pem").read_bytes()


def test_a_device_brings_what_it_records_to_the_hub(site: Site) -> None:
    device = site.devices["乙"]
    process = device.start()
    try:
        wait_for(lambda: device.unreceipted() == 0, "receipts", timeout_s=20)
    finally:
        process.terminate()
        process.wait(15)


# --- who gets in ----------------------------------------------------------------------------------


def test_nobody_gets_in_without_a_certificate_of_this_hub(site: Site, tmp_path: Path) -> None:
    device = site.devices["甲"]
    assert not is_kept_out(site, certified(device))

    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.load_verify_locations(site.broker.folder / "authority.pem")
    other = Authority.make(tmp_path, now_ms())
    forged = other.as_hub(now_ms())
    forged.load_verify_locations(site.broker.folder / "authority.pem")
    own = Authority.load(site.hub.directory / "data")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # shows the broker's own certificate
    server.load_verify_locations(site.broker.folder / "authority.pem")
    server.load_cert_chain(site.broker.folder / "broker.pem", site.broker.folder / "broker.key")
    old = certified(device)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    late = _context(own, device.id, now_ms() - 91 * 86_400_000)
    for context in (nobody, forged, server, old, late):
        for port in (site.broker.port, site.broker.hub_port):
            assert is_kept_out(site, context, port=port)
    # nothing of it is for want of a broker
    assert not is_kept_out(site, certified(device))


def _context(authority: Authority, edge: bytes, at_ms: int) -> ssl.SSLContext:
    """A certificate for the edge that was given at another time."""
    key = new_key()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.pem().decode())
    certificate = authority.for_device(key.public_key(), edge, at_ms)
    with private_dir() as folder:
        path = folder / "own.pem"
        path.write_bytes(certificate.public_bytes(Encoding.PEM) + key_pem(key))
        context.load_cert_chain(path)
    return context


def test_what_a_device_may_say_and_hear_is_its_own(site: Site) -> None:
    one, other = site.devices["甲"], site.devices["乙"]
    with Stranger(site, certified(one)) as stranger:
        assert all(stranger.may_publish(topics.up(one.id, channel)) for channel in topics.Up)
        for channel in topics.Up:
            assert not stranger.may_publish(topics.up(other.id, channel))
        for topic in (
            topics.receipt(one.id),
            topics.receipt(other.id),
            topics.order(one.id),
            topics.HUB_STATE,
            f"shuaka/v1/up/{one.id.hex()}/other",
            "$SYS/broker",
            "anything",
        ):
            assert not stranger.may_publish(topic), topic
        assert stranger.may_subscribe(topics.receipt(one.id))
        assert stranger.may_subscribe(topics.HUB_STATE)
        with Stranger(site, certified(other)) as neighbour:
            # What mosquitto grants here it does not deliver: a wish may be wider than a right.
            for topic in ("#", "shuaka/v1/+/+/+", topics.receipt(other.id)):
                stranger.may_subscribe(topic)
            heard = len(stranger.heard)
            assert neighbour.may_publish(topics.up(other.id, topics.Up.JOURNAL))
            time.sleep(0.5)
            assert {topic for topic, _ in stranger.heard[heard:]} <= {topics.HUB_STATE}


def test_a_device_passes_for_nobody_else(site: Site) -> None:
    """Neither by user name nor by client id: those that it claims are passed over."""
    one, other = site.devices["甲"], site.devices["乙"]
    with Stranger(site, certified(other)) as neighbour:
        for claimed in ("shuaka-hub", other.id.hex()):
            with Stranger(site, certified(one), client_id=claimed, user=claimed) as stranger:
                assert stranger.is_in
                assert not stranger.may_publish(topics.HUB_STATE)
                assert not stranger.may_publish(topics.up(other.id, topics.Up.JOURNAL))
                assert stranger.may_publish(topics.up(one.id, topics.Up.JOURNAL))
        assert neighbour.is_in
    time.sleep(0.3)
    assert site.hub.healthy()


# --- renewing -------------------------------------------------------------------------------------


def test_a_certificate_that_has_expired_is_renewed_by_the_broker_s_refusal_alone(
    site: Site,
) -> None:
    """Our clock may say anything; what the broker does not take is replaced."""
    device = Device(site, "丙")
    own = Authority.load(site.hub.directory / "data")
    held = Held.load(device.data)
    assert held is not None
    begins = now_ms() - 91 * 86_400_000
    public = held.certificate.public_key()
    late = own.for_device(public, device.id, begins)  # type: ignore[arg-type]
    both = late.public_bytes(Encoding.PEM) + own.pem()
    (device.data / CERTIFICATE_FILE).write_bytes(both)
    assert is_kept_out(site, certified(device))
    process = device.start()
    try:
        wait_for(lambda: device.unreceipted() == 0, "receipts", timeout_s=30)
    finally:
        process.terminate()
        process.wait(15)
    renewed = Held.load(device.data)
    assert renewed is not None
    assert renewed.ends_ms > now_ms()


# --- leaving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["RETIRED", "COMPROMISED"])
def test_who_is_put_out_says_nothing_any_more_within_a_minute(site: Site, status: str) -> None:
    device = Device(site, f"去{status}")
    stays = site.devices["乙"]
    own_topic = topics.up(device.id, topics.Up.JOURNAL)
    with Stranger(site, certified(device)) as live, Stranger(site, certified(stays)) as neighbour:
        assert live.may_publish(own_topic)
        assert live.may_subscribe(topics.HUB_STATE)
        site.put_out(device, status)
        began = time.monotonic()
        wait_for(lambda: not live.may_publish(own_topic), "the end", timeout_s=PROMISED_S)
        wait_for(lambda: is_kept_out(site, certified(device)), "no way in", timeout_s=5)
        took = time.monotonic() - began
        assert took < PROMISED_S
        print(f"{status}: put out after {took:.1f} s")
        assert neighbour.is_in
        assert neighbour.may_publish(topics.up(stays.id, topics.Up.JOURNAL))
    assert not is_kept_out(site, certified(stays))
    # and there is no other certificate for it
    with pytest.raises(Exception, match="403"):
        device.renew()
    # the list of what is revoked holds its certificate, and those of nobody else
    listed = x509.load_pem_x509_crl((site.broker.folder / "revoked.pem").read_bytes())
    serials = {f"{each.serial_number:x}" for each in listed}
    of_device = (
        select(s.certificates.c.serial).join(s.devices).where(s.devices.c.name == device.name)
    )
    assert set(site.stored(of_device)) <= serials
    of_others = (
        select(s.certificates.c.serial).join(s.devices).where(s.devices.c.status == "ACTIVE")
    )
    assert not set(site.stored(of_others)) & serials


def test_the_hub_itself_refuses_who_is_not_active_should_the_broker_let_it_in(site: Site) -> None:
    device = Device(site, "内")
    counts = s.rejection_counts.c
    inactive = select(func.coalesce(func.sum(counts.count), 0)).where(
        counts.reason == "inactive_device"
    )
    (before,) = site.stored(inactive)
    with Stranger(site, certified(device)) as live:
        heartbeat = Heartbeat(
            epoch=bytes(16),
            head=0,
            digest=bytes(32),
            at=Stamp(1, 1, trusted=False),
            released=0,
            first_held=1,
            unreceipted=0,
            readers=(),
        )
        said = device.keys.sign.sign(MessageType.HEARTBEAT, heartbeat.encode())
        site.put_out(device, "COMPROMISED")
        live.client.publish(topics.up(device.id, topics.Up.STATE), said, 1)  # not yet cut off
        wait_for(lambda: site.stored(inactive)[0] > before, "a refusal", timeout_s=10)


# --- keys -----------------------------------------------------------------------------------------


def test_devices_follow_the_hub_s_next_keys(site: Site, tmp_path: Path) -> None:
    device = Device(site, "键")
    data = site.hub.directory / "data"
    process = device.start()
    try:
        wait_for(lambda: device.unreceipted() == 0, "receipts", timeout_s=30)
        before = Keyring.load(data)
        site.hub.command("keys", "rotate")
        after = Keyring.load(data).rotate(data)  # and once more before the device hears of it
        assert after.sign.public != before.sign.public
        site.hub.stop()
        site.hub.start()

        def follows() -> bool:
            identity = load_identity(device.data)
            return identity is not None and identity[0].hub == after.public()

        wait_for(follows, "the new keys", timeout_s=30)
        wait_for(lambda: device.unreceipted() == 0, "receipts of the new keys", timeout_s=30)

        def sealed_to() -> set[bytes]:
            """The hub's keys of the device's epochs; those of one landing are in no order."""
            headers = select(s.epochs.c.header).join(s.devices)
            found = site.stored(headers.where(s.devices.c.name == device.name))
            return {EpochHeader.decode(header).hub_key for header in found}

        wait_for(lambda: after.open[0].public_id in sealed_to(), "an epoch under it", timeout_s=20)
    finally:
        process.terminate()
        process.wait(15)
    # started anew, it knows them
    assert Keys.load(device.data).sign.public == device.enrolment.edge_sign
    listed = site.hub.command("keys", "list").splitlines()
    assert [line.split("\t")[1] for line in listed] == ["in use", "retired", "retired"]
    # others of this site have said nothing since: the retired keys stay
    with pytest.raises(Exception, match="devices may hold taps"):
        site.hub.command("keys", "drop", before.open[0].public_id.hex())
    site.hub.command("keys", "backup", str(tmp_path / "again.json"))
    assert "hub-keys.json is backed up" in _doctor(site)
    assert json.loads((tmp_path / "again.json").read_bytes())["statements"]


def _doctor(site: Site) -> str:
    try:
        return site.hub.command("doctor")
    except Exception as error:  # noqa: BLE001  status 1: what it printed is in the message
        return str(error)


def test_doctor_finds_the_broker_as_it_should_be(site: Site) -> None:
    said = _doctor(site)
    assert "lets the hub in; its certificate: 89 days" in said or "90 days" in said
    assert "lets in" in said
    edge = site.devices["甲"]
    try:
        said = edge.command("doctor")
    except Exception as error:  # noqa: BLE001
        said = str(error)
    assert "certificate for the broker: 89 days left" in said
    assert "answers" in said
    assert f"broker 127.0.0.1:{site.broker.port} answers" in said
