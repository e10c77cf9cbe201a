"""The rig is what it says: real servers, real cards, and nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tests.rig import (
    Answer,
    AtrAnswerCard,
    Card,
    Child,
    Mosquitto,
    NotReadyError,
    Pcscd,
    Postgres,
    SilentCard,
    TcpProxy,
    UidCard,
    VirtualReader,
    WrongLengthCard,
    storage_card_atr,
    wait_for,
)

# Waits for so many cards on the named reader; prints ATR and answer to FF CA 00 00 00 of each.
_READ = """
import sys, time
from smartcard.scard import *
name, cards, deadline = sys.argv[1], int(sys.argv[2]), time.monotonic() + 8
_, context = SCardEstablishContext(SCARD_SCOPE_SYSTEM)
state = SCARD_STATE_UNAWARE
while cards and time.monotonic() < deadline:
    hresult, [(_, event, atr)] = SCardGetStatusChange(context, 500, [(name, state)])
    if event & SCARD_STATE_PRESENT and not state & SCARD_STATE_PRESENT:
        _, card, protocol = SCardConnect(context, name, SCARD_SHARE_SHARED, 3)
        pci = SCARD_PCI_T1 if protocol == 2 else SCARD_PCI_T0
        _, answer = SCardTransmit(card, pci, [0xFF, 0xCA, 0, 0, 0])
        SCardDisconnect(card, SCARD_LEAVE_CARD)
        print(bytes(atr).hex(), bytes(answer).hex(), flush=True)
        cards -= 1
    state = event & ~SCARD_STATE_CHANGED
"""


def read(pcscd: Pcscd, slot: int = 0, cards: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _READ, pcscd.reader_names[slot], str(cards)],
        env={**os.environ, **pcscd.env},
        stdout=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> list[str]:
    text, _ = process.communicate(timeout=20)
    return text.split()


@pytest.mark.parametrize("slot", [0, 1])
def test_a_uid_goes_through_the_real_stack(pcscd: Pcscd, slot: int) -> None:
    uids = [bytes.fromhex("04A1B2C3D4E5F6"), bytes.fromhex("DEADBEEF")]
    with VirtualReader(pcscd.ports[0]) as first, VirtualReader(pcscd.ports[1]) as second:
        first.present(UidCard(uids[0]))
        second.present(UidCard(uids[1]))
        began_ns = time.monotonic_ns()
        atr, answer = output(read(pcscd, slot))
        answered = (first, second)[slot].answers
    assert bytes.fromhex(atr) == storage_card_atr()
    assert bytes.fromhex(answer) == uids[slot] + b"\x90\x00"
    assert [given.apdu.hex() for given in answered] == ["ffca000000"]
    assert began_ns < answered[0].at_ns < time.monotonic_ns()


@pytest.mark.parametrize(
    ("card", "expected"),
    [(WrongLengthCard(), "01020304059000"), (AtrAnswerCard(), storage_card_atr().hex())],
)
def test_cards_that_answer_wrongly(pcscd: Pcscd, card: Card, expected: str) -> None:
    with VirtualReader(pcscd.ports[0]) as reader:
        reader.present(card)
        assert output(read(pcscd))[1] == expected


def test_a_silent_card_blocks_the_reader_until_it_goes(pcscd: Pcscd) -> None:
    with VirtualReader(pcscd.ports[0]) as reader:
        reader.present(SilentCard())
        process = read(pcscd)
        wait_for(lambda: bool(reader.answers), "command at the card")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        assert reader.answers[0].response is None
        reader.remove()
        process.wait(5)
        assert process.stdout is not None
        process.stdout.close()


def test_a_tap_is_seen_read_and_over(pcscd: Pcscd) -> None:
    uids = [bytes([0x11, 0x22, 0x33, last]) for last in range(3)]
    told: list[Answer] = []
    process = read(pcscd, cards=3)
    with VirtualReader(pcscd.ports[0], on_answer=told.append) as reader:
        for uid in uids:
            answers = reader.tap_until_read(UidCard(uid))
            assert [answer.response for answer in answers] == [uid + b"\x90\x00"]
    assert output(process)[1::2] == [uid.hex() + "9000" for uid in uids]
    assert tuple(told) == reader.answers


@pytest.fixture
def handled(rig_dir: Path) -> Iterator[Pcscd]:
    """A private pcscd with a reader of the rig's own driver."""
    with Pcscd(rig_dir, slots=1, handler=True) as daemon:
        yield daemon


# Counts the comings and goings of cards at the named reader until it is unplugged.
_COUNT = """
import sys
from smartcard.scard import *
_, context = SCardEstablishContext(SCARD_SCOPE_SYSTEM)
_, [(_, state, _)] = SCardGetStatusChange(context, 0, [(sys.argv[1], SCARD_STATE_UNAWARE)])
print("ready", flush=True)
while not state & SCARD_STATE_UNAVAILABLE:
    last = state
    hresult, [(_, state, _)] = SCardGetStatusChange(context, 8000, [(sys.argv[1], state)])
    assert hresult == 0, hex(hresult)
    state &= ~SCARD_STATE_CHANGED
print(last >> 16)
"""


@pytest.mark.servers
def test_the_rigs_driver_misses_no_change_of_cards_and_can_be_unplugged(handled: Pcscd) -> None:
    for _ in range(2):  # and plugged in again
        with (
            subprocess.Popen(
                [sys.executable, "-c", _COUNT, handled.reader_names[0]],
                env={**os.environ, **handled.env},
                stdout=subprocess.PIPE,
                text=True,
            ) as process,
            VirtualReader(handled.ports[0], gap_s=handled.gap_s) as reader,
        ):
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for last in range(20):  # each takes the place of the one before, at once
                reader.present(UidCard(bytes([0x11, 0x22, 0x33, last])))
                assert reader.wait_seen()
                time.sleep(0.02 + 0.005 * last)
            handled.unplug()
            assert int(process.stdout.readline()) == 39
        handled.restart()
        assert handled.running
        handled.replug()
        handled.restart()


_ESCAPE = """
import sys
from smartcard.scard import *
_, context = SCardEstablishContext(SCARD_SCOPE_SYSTEM)
_, card, _ = SCardConnect(context, sys.argv[1], SCARD_SHARE_DIRECT, 0)
hresult, answer = SCardControl(card, 0x42000001, list(bytes.fromhex(sys.argv[2])))
print(hresult == 0, bytes(answer).hex())
"""


@pytest.mark.servers
def test_escape_commands_reach_the_rigs_driver(handled: Pcscd) -> None:
    def escape(command: str) -> tuple[list[str], float]:
        began = time.monotonic()
        argv = [sys.executable, "-c", _ESCAPE, handled.reader_names[0], command]
        env = {**os.environ, **handled.env}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
        return done.stdout.split(), time.monotonic() - began

    assert handled.escapes() == []
    assert escape("e000002901ff")[0] == ["True", "9000"]
    handled.delay_escapes(0, 400)
    answer, took = escape("ff00400d0402020401")
    assert (answer, took > 0.4) == (["True", "9000"], True)
    handled.delay_escapes(0, 0)
    handled.fail_escapes(0, True)
    assert escape("e0000028010a")[0] == ["False"]
    assert [each.hex() for each in handled.escapes()] == [
        "e000002901ff",
        "ff00400d0402020401",
        "e0000028010a",
    ]
    plain = Pcscd.__new__(Pcscd)
    plain.handler = False
    with pytest.raises(RuntimeError, match="handler=True"):
        plain.unplug()


def test_nobody_looks_at_a_card_without_a_daemon(pcscd: Pcscd) -> None:
    pcscd.kill()
    with VirtualReader(pcscd.ports[0]) as reader:
        assert reader.tap(UidCard(b"\x11\x22\x33\x44")) == ()


@pytest.mark.parametrize("end", [Pcscd.stop, Pcscd.kill])
def test_a_card_left_on_the_reader_is_found_by_the_next_daemon(
    pcscd: Pcscd, end: Callable[[Pcscd], None]
) -> None:
    with VirtualReader(pcscd.ports[0]) as reader:
        reader.present(UidCard(b"\x11\x22\x33\x44"))
        assert reader.wait_seen()
        end(pcscd)
        pcscd.restart()
        assert output(read(pcscd))[1] == "112233449000"


def test_mosquitto_carries_a_message_and_forgets_it_when_killed(rig_dir: Path) -> None:
    with Mosquitto(rig_dir) as broker:
        publish(broker.port, "a/b", b"kept")
        assert retained(broker.port, "a/b") == b"kept"
        broker.kill()
        broker.start()
        assert retained(broker.port, "a/b") is None


def test_postgres_gives_a_plain_role_its_own_database(
    postgres: Postgres, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE t (x text)")
        row = connection.execute(
            "SELECT rolsuper, rolcreatedb, rolbypassrls FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    assert row == (False, False, False)
    assert postgres.create_database() != postgres_url


def test_postgres_keeps_what_was_committed_before_a_kill(rig_dir: Path) -> None:
    with Postgres(rig_dir) as server:
        url = server.create_database().replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE t (x int)")
            connection.execute("INSERT INTO t VALUES (7)")
        server.kill()
        server.start()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT x FROM t").fetchall() == [(7,)]
            assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_the_proxy_holds_one_direction_and_lets_it_go_in_order() -> None:
    with echo_server() as port, TcpProxy(port) as proxy, connect(proxy.port) as client:
        client.sendall(b"a")
        assert client.recv(10) == b"a"
        proxy.hold("to_client")
        client.sendall(b"b")
        assert proxy.wait_held("to_client")
        client.sendall(b"c")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(10)
        client.settimeout(5)
        assert proxy.forwarded("to_server") == 3
        proxy.release("to_client")
        assert client.recv(1) + client.recv(1) == b"bc"


def test_the_proxy_cuts_and_refuses() -> None:
    with echo_server() as port, TcpProxy(port) as proxy:
        with connect(proxy.port) as client:
            client.sendall(b"a")
            assert client.recv(10) == b"a"
            proxy.hold("to_server")
            client.sendall(b"lost")
            assert proxy.wait_held("to_server")
            proxy.cut()
            assert hung_up(client)
        assert proxy.connections == 0
        proxy.release("to_server")
        proxy.refuse(True)
        with connect(proxy.port) as client:
            assert hung_up(client)
        proxy.refuse(False)
        with connect(proxy.port) as client:
            client.sendall(b"b")
            assert client.recv(10) == b"b"


def test_a_client_of_a_dead_upstream_is_hung_up_on() -> None:
    with echo_server() as port:
        pass
    with TcpProxy(port) as proxy, connect(proxy.port) as client:
        assert hung_up(client)


def test_a_child_that_fails_is_reported_with_its_log(tmp_path: Path) -> None:
    child = Child(["/bin/sh", "-c", "echo no such luck; exit 3"], log=tmp_path / "log")
    with pytest.raises(NotReadyError, match=r"(?s)ended with 3 before lunch.*no such luck"):
        child.wait_until(lambda: False, "lunch")


def test_nothing_outlives_a_killed_parent(tmp_path: Path, rig_dir: Path) -> None:
    script = f"""
import pathlib, time
from tests.rig import *
here = pathlib.Path({str(rig_dir)!r})
servers = [Mosquitto(here).start(), Pcscd(here).start(), Postgres(here, fsync=False).start()]
print(*(server.child.pid for server in servers), servers[2]._data, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert parent.stdout is not None
    with parent.stdout:
        *pids, data = parent.stdout.readline().split()
    assert len(pids) == 3
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not any(alive(int(pid)) for pid in pids), "end of the servers")
    wait_for(lambda: not (Path(data) / "postmaster.pid").exists(), "end of PostgreSQL")
    subprocess.run(["/bin/rm", "-rf", data], check=True)


def test_leaving_the_machine_is_refused() -> None:
    with pytest.raises(Exception, match="only loopback"), socket.socket() as outside:
        outside.connect(("192.0.2.1", 9))
    with pytest.raises(Exception, match="only loopback"):
        socket.getaddrinfo("example.org", 443)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def hung_up(client: socket.socket) -> bool:
    try:
        return client.recv(10) == b""
    except ConnectionResetError:
        return True


class echo_server:  # noqa: N801
    """A port that sends back what it gets."""

    def __enter__(self) -> int:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()
        return int(self.listener.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._echo, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    connection.sendall(data)
            except OSError:
                return


def publish(port: int, topic: str, payload: bytes) -> None:
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.publish(topic, payload, qos=1, retain=True).wait_for_publish(5)
    client.disconnect()
    client.loop_stop()


def retained(port: int, topic: str) -> bytes | None:
    found: list[bytes] = []

    def note(client: Client, userdata: object, message: MQTTMessage) -> None:
        found.append(bytes(message.payload))

    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.on_message = note
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe(topic, qos=1)
    time.sleep(0.3)
    client.disconnect()
    client.loop_stop()
    return found[0] if found else None
