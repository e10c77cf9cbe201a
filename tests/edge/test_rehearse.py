"""The rehearsal finds what is wrong: each promise is broken on purpose, and it says so."""

import random
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from edge import retirement
from edge.certificate import _Certified
from edge.cli import main
from edge.clock import SystemClock
from edge.config import Config, load
from edge.enrol import Keys
from edge.rehearsal.child import RehearsalClock, SetClock, Task
from edge.rehearsal.ledger import Ledger, Light, Report, Tap, table
from edge.rehearsal.line import Line
from edge.rehearsal.run import Fault, RehearsalError, Step, Wanted, cards_needed, plan, rehearse
from edge.store import Journal, JournalReader, Owner
from protocol.identity import Enrolment, HubKeys, OpeningKey, SigningKey
from protocol.journal import EpochHeader, Stamp
from tests.rig import wait_for

DEFECTS = Path(__file__).with_name("rehearsal_defects.py")
ALL = frozenset(Fault)
OFFLINE = Wanted(frozenset(), 4, seconds=1, seed=1, is_offline=True, pace_s=0)


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "edge.toml"
    path.write_text('[edge]\ndata = "data"\n[clock]\ntrust = "always"\n', "utf-8")
    return path


@pytest.fixture
def config(config_path: Path) -> Config:
    return load(config_path)


class Rehearsal:
    """Rehearses with a defect, and keeps what was said."""

    def __init__(self, config: Config, path: Path) -> None:
        self.config, self.path = config, path
        self.said: list[str] = []

    def __call__(self, defect: str, *faults: Fault, cards: int = 4) -> Report:
        wanted = replace(OFFLINE, faults=frozenset(faults), cards=cards)
        argv = (sys.executable, str(DEFECTS), defect)
        return rehearse(self.config, self.path, wanted, self.said.append, argv)

    def row(self, title: str) -> str:
        [line] = [line for line in self.said if line.startswith(title)]
        return line.removeprefix(title).strip()


@pytest.fixture
def rehearsed(config: Config, config_path: Path) -> Rehearsal:
    return Rehearsal(config, config_path)


# --- planted defects ------------------------------------------------------------------------------


def test_where_nothing_is_wrong_it_passes(rehearsed: Rehearsal, tmp_path: Path) -> None:
    report = rehearsed("does_nothing_wrong", *Fault, cards=9)
    assert report.passed, rehearsed.said
    assert (report.presented, report.received) == (9, None)
    assert report.durable >= report.lit >= 6
    assert "通过 passed" in rehearsed.said[-1]
    assert not (tmp_path / "data").exists()


def test_a_light_before_the_commit_is_found_by_the_power_that_goes(rehearsed: Rehearsal) -> None:
    report = rehearsed("lights_before_the_commit", Fault.POWER)
    assert report.false
    assert report.lost, "the power went between light and commit"
    assert not report.passed
    assert rehearsed.row("误亮（未存先亮） false lights") != "0"
    assert "未通过 FAILED" in rehearsed.said[-1]


def test_a_tap_that_is_lit_and_not_written_is_lost(rehearsed: Rehearsal) -> None:
    report = rehearsed("forgets_a_tap")
    assert (report.lost, report.false) == ((2, 4), (2, 4))
    assert (report.lit, report.durable) == (4, 2)
    assert rehearsed.row("丢失 lost") == "2 (2, 4)"


def test_a_tap_that_is_written_only_later_was_lit_falsely(rehearsed: Rehearsal) -> None:
    report = rehearsed("writes_a_tap_later")
    assert report.false == (1, 2, 3, 4)
    assert 4 in report.lost


def test_a_tap_that_is_written_twice_is_doubled(rehearsed: Rehearsal) -> None:
    report = rehearsed("writes_a_tap_twice")
    assert report.doubled == (2, 4)
    assert (report.lost, report.false) == ((), ())
    assert not report.passed


def test_a_red_light_is_told_with_its_words(rehearsed: Rehearsal) -> None:
    report = rehearsed("cannot_write")
    assert report.red[0] == (2, "无法记录，请联系工作人员")
    assert (report.lost, report.doubled, report.false) == ((), (), ())
    assert not report.passed
    assert any("2: 无法记录" in line for line in rehearsed.said)


def test_a_card_without_any_light_is_found(
    rehearsed: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.rehearsal.run.LIGHT_S", 0.5)
    report = rehearsed("shows_no_light")
    assert report.dark == (2, 4)
    assert not report.passed


def test_a_clock_that_is_trusted_and_wrong_is_found(rehearsed: Rehearsal) -> None:
    report = rehearsed("trusts_any_clock", Fault.CLOCK)
    assert report.misdated
    assert not report.passed


def test_a_device_that_is_ready_without_a_reader_is_found(
    rehearsed: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.rehearsal.run.LIGHT_S", 1)
    report = rehearsed("is_ready_without_a_reader", Fault.READER)
    assert any("读卡器未连接" in failure for failure in report.failures)
    assert not report.passed


def test_a_daemon_that_ends_by_itself_is_found(rehearsed: Rehearsal) -> None:
    report = rehearsed("ends_by_itself")
    assert "ended by itself" in report.failures[0]
    assert (report.presented, report.durable, report.dark) == (2, 1, (2,))


def test_a_daemon_that_does_not_start_is_told(rehearsed: Rehearsal, tmp_path: Path) -> None:
    with pytest.raises(RehearsalError, match="did not start"):
        rehearsed("does_not_start")


# --- refused --------------------------------------------------------------------------------------


def test_it_is_refused_while_the_journal_is_somebody_s(
    config: Config, config_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    now = Stamp(0, 0, trusted=False)
    journal = Journal.open(config.edge.data, Owner(bytes(16), bytes(31) + b"\x09"), bytes(16), now)
    command = ["rehearse", "--config", str(config_path), "--offline", "--faults", "none"]
    with closing(journal):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 1
        said = capfd.readouterr().err
        assert "systemctl stop shuaka-edge" in said
        assert "systemctl start shuaka-edge" in said
    with closing(JournalReader(config.edge.data)) as reader:
        [before] = reader.epochs()
    with pytest.raises(SystemExit) as ended:
        main([*command, "--cards", "1"])
    assert ended.value.code == 0
    with closing(JournalReader(config.edge.data)) as reader:
        assert reader.epochs() == [before]
    assert not list(config.edge.data.glob("rehearsal*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--faults", "flood"], "'flood' is no list of power, network, clock, reader"),
        (["--faults", ""], "is no list"),
        (["--cards", "0"], "no whole number from 1 up"),
        (["--seconds", "-1"], "no whole number"),
    ],
)
def test_a_wrong_call_is_refused(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rehearse", *options])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_fewer_cards_than_the_faults_need_are_refused(config: Config) -> None:
    least = cards_needed(ALL)
    wanted = Wanted(ALL, least - 1, seconds=1, seed=1)
    with pytest.raises(RehearsalError, match=rf"--cards.* {least} "):
        rehearse(config, None, wanted, print)


def test_who_is_not_enrolled_is_told_so(config: Config) -> None:
    with pytest.raises(RehearsalError, match=r"not enrolled.*--offline"):
        rehearse(config, None, replace(OFFLINE, is_offline=False), print)


def test_a_device_that_retired_is_not_rehearsed(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = HubKeys(bytes(32), OpeningKey.generate().public)
    enrolment = Enrolment(bytes(range(16)), "门口", bytes(32), hub, 1, "mqtt://127.0.0.1")
    keys = Keys(SigningKey.generate(), OpeningKey.generate())
    monkeypatch.setattr("edge.rehearsal.run.load_identity", lambda _data: (enrolment, keys))
    config.edge.data.mkdir()
    retirement.keep(config.edge.data, enrolment.edge, b"order")
    for is_offline in (True, False):
        with pytest.raises(RehearsalError, match="told this device to retire"):
            rehearse(config, None, replace(OFFLINE, is_offline=is_offline), print)


# --- parts ----------------------------------------------------------------------------------------


def test_an_owner_that_rehearses_says_so_in_every_epoch(tmp_path: Path) -> None:
    for is_rehearsal in (True, False):
        owner = Owner(bytes(16), bytes(31) + b"\x09", is_rehearsal)
        folder = tmp_path / f"{is_rehearsal}"
        for _ in range(2):
            with closing(Journal.open(folder, owner, bytes(16), Stamp(0, 0, trusted=False))):
                pass
        with closing(JournalReader(folder)) as reader:
            headers = [EpochHeader.decode(held.header) for held in reader.epochs()]
        assert [each.rehearsal for each in headers] == [is_rehearsal] * 2


@pytest.mark.parametrize("seed", range(20))
def test_the_plan_brings_every_fault_with_a_card_and_ends_it(seed: int) -> None:
    steps = plan(Wanted(ALL, 12, seconds=1, seed=seed))
    assert steps == plan(Wanted(ALL, 12, seconds=1, seed=seed))
    assert sum(step.takes_card for step in steps) == 12
    for began, ended in ((Step.CUT, Step.MEND), (Step.STALL, Step.MEND)):
        rest = steps[steps.index(began) + 1 :]
        assert any(step.takes_card for step in rest[: rest.index(ended)])
    rest = steps[steps.index(Step.CLOCK_WRONG) + 1 :]
    assert any(step.takes_card for step in rest[: rest.index(Step.CLOCK_RIGHT)])
    assert {Step.KILL_BEFORE, Step.KILL_LIT, Step.KILL_ANY, Step.UNPLUG} <= set(steps)


def test_only_the_faults_that_are_wanted_come() -> None:
    steps = set(plan(Wanted(frozenset({Fault.CLOCK}), 5, seconds=1, seed=1)))
    assert steps == {Step.TAP, Step.CLOCK_WRONG, Step.CLOCK_RIGHT}
    assert plan(Wanted(frozenset(), 2, seconds=1, seed=1)) == [Step.TAP] * 2


def test_the_ledger_knows_a_tap_by_reader_and_time() -> None:
    ledger = Ledger()
    first, second = ledger.present("a", 100), ledger.present("b", 200)
    first.lights.append(Light(True, "已记录", was_durable=True))
    second.was_interrupted = True
    mine = Tap("a", 150, trusted=True, is_received=True)
    whole = ledger.report([mine], with_hub=True)
    assert whole.passed
    assert (whole.lit, whole.durable, whole.received) == (1, 1, 1)
    for strange in (replace(mine, boottime_ms=99), replace(mine, boottime_ms=250)):
        report = ledger.report([mine, strange], with_hub=True)
        assert report.strange == 1
        assert not report.passed
    waiting = ledger.report([replace(mine, is_received=False)], with_hub=True)
    assert (waiting.unreceived, waiting.received) == ((1,), 0)
    assert not waiting.passed
    assert ledger.report([replace(mine, is_received=False)], with_hub=False).passed
    lost = ledger.report([], with_hub=True)
    assert lost.lost == (1,)
    assert any("丢失 lost" in line and line.endswith(" 1 (1)") for line in table(lost))


def test_the_clock_is_wrong_as_long_as_it_is_told_to_be() -> None:
    class Right(SystemClock):
        def trusted(self) -> bool:
            return True

    clock = RehearsalClock(Right())
    assert abs(clock.wall_ms() - Right().wall_ms()) < 1000
    assert clock.trusted()
    clock.wrong = SetClock(-3_600_000, trusted=False)
    assert abs(clock.wall_ms() - Right().wall_ms() + 3_600_000) < 1000
    assert not clock.trusted()
    assert abs(clock.boottime_ms() - Right().boottime_ms()) < 1000


# --- the line -------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that says again what it hears; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    conn, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=again, args=(conn,), daemon=True).start()

        def again(conn: socket.socket) -> None:
            with conn:
                while chunk := conn.recv(65536):
                    conn.sendall(chunk)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextmanager
def joined(line: Line) -> Iterator[socket.socket]:
    with socket.create_connection(line.address, timeout=5) as conn:
        yield conn


def hears(conn: socket.socket, timeout_s: float = 5) -> bytes:
    conn.settimeout(timeout_s)
    try:
        return conn.recv(100)
    except TimeoutError:
        return b"(nothing)"
    except OSError:
        return b""


def test_a_line_passes_holds_and_is_cut(echo: int) -> None:
    with closing(Line("127.0.0.1", echo)) as line, joined(line) as conn:
        conn.sendall(b"one")
        assert hears(conn) == b"one"
        line.hold()
        conn.sendall(b"two")
        assert hears(conn, 0.2) == b"(nothing)"
        line.mend()
        assert hears(conn) == b"two"
        line.cut()
        assert hears(conn) == b""
        with joined(line) as late:
            assert hears(late) == b""
        line.mend()
        with joined(line) as again:
            again.sendall(b"three")
            assert hears(again) == b"three"
            line.hold()
            again.sendall(b"four")
            line.cut()
            assert hears(again) == b""


def test_a_broker_that_is_not_there_hangs_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with closing(Line("127.0.0.1", port)) as line, joined(line) as conn:
        assert hears(conn) == b""


def test_a_lot_passes_whole(echo: int) -> None:
    sent = random.Random(1).randbytes(1 << 20)
    with closing(Line("127.0.0.1", echo)) as line, joined(line) as conn:
        threading.Thread(target=conn.sendall, args=(sent,), daemon=True).start()
        got = b""
        while len(got) < len(sent) and (chunk := conn.recv(65536)):
            got += chunk
    assert got == sent


@pytest.mark.parametrize(("host", "is_taken"), [("broker.example", True), ("127.0.0.1", False)])
def test_the_broker_s_certificate_counts_also_by_way_of_a_line(
    tmp_path: Path, host: str, is_taken: bool
) -> None:
    """Whatever paho takes for the host: the address of the line has no certificate."""
    certificate = _certificate("broker.example", tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    near, far = socket.socketpair()
    failed: list[Exception] = []

    def serve() -> None:
        try:
            server.wrap_socket(far, server_side=True).close()
        except (ssl.SSLError, OSError) as error:
            failed.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    client = _Certified(host)
    client.load_verify_locations(certificate)
    try:
        wrapped = client.wrap_socket(near, server_hostname="127.0.0.1")
        wrapped.close()
        assert is_taken
    except ssl.SSLCertVerificationError:
        assert not is_taken
    finally:
        near.close()
        thread.join()


def _certificate(host: str, folder: Path) -> Path:
    """A certificate for `host` with its key, which vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, SHA256())
    )
    path = folder / "broker.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + made.public_bytes(Encoding.PEM)
    )
    return path


def test_all_that_a_console_shows_is_marked_and_no_lamp_is_lit(
    config_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever holds a real card meanwhile must not take a light for theirs."""
    text = config_path.read_text("utf-8") + "[feedback]\ngpio = { green = 17 }\n"
    config_path.write_text(text, "utf-8")
    wanted = replace(OFFLINE, cards=4, faults=frozenset({Fault.READER}))
    report = rehearse(load(config_path), config_path, wanted, lambda _: None)
    assert report.lit
    out, err = capfd.readouterr()
    shown = out.splitlines()
    assert sum("已记录" in line for line in shown) >= report.lit
    assert any("请刷党员卡（演练中，刷卡不记录）" in line for line in shown)
    assert [line for line in shown if "演练" not in line] == []
    assert "gpio" not in err.lower()


def test_the_process_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """Its standard input ends: nobody is there who could tell it to stop."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edge.rehearsal.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    task = Task(None, str(tmp_path), bytes(16), OpeningKey.generate().public, 1, None)
    process.stdin.write(msgspec.json.encode(task) + b"\n")
    process.stdin.flush()
    wait_for((tmp_path / "journal.db").exists, "a journal")
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(10) == 1
