"""`shuaka-edge act` and the socket to the daemon: who may ask, what is answered, what is half-done.

The server, the recorder and the journal are the real ones; cards are events.
"""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge import actsocket, enrol
from edge.acts import WAIT_MS, Done, Refused, Tell, Unknown, Waiting, Why, Wish, named
from edge.actsocket import (
    MAX_CONNECTIONS,
    MAX_LINE_BYTES,
    SOCKET_NAME,
    ActError,
    ActLine,
    ActServer,
)
from edge.enrol import Keys
from edge.feedback import Feedback, Notice, Standing
from edge.readers import CardRead, CardUnreadable, ReaderUp, Unreadable
from edge.recorder import Recorder
from edge.store import JournalReader, Owner
from protocol.credential import Assurance, Credential, member_credential
from protocol.identity import OpeningKey, SigningKey
from protocol.journal import Act, Action, Tap, decode_entry
from tests.fakes.clock import FakeClock
from tests.rig import wait_for

PROGRAM = Path(sys.executable).parent / "shuaka-edge"
WITNESS = Wish(Act.WITNESSED, about=member_credential("M-1"))


class Nothing:
    """Feedback, and courier, that show and tell nothing."""

    def show(self, notice: Notice) -> None: ...

    def stand(self, standing: Standing, detail: str = "") -> None: ...

    def tell(self, event: Any) -> None: ...


@dataclass
class Desk:
    """Takes what is asked, as the recorder does, and answers when the test says so."""

    wishes: list[Wish] = field(default_factory=list)
    tells: list[Tell] = field(default_factory=list)
    cancelled: list[Wish] = field(default_factory=list)

    def ask(self, wish: Wish, tell: Tell) -> Callable[[], None]:
        self.wishes.append(wish)
        self.tells.append(tell)
        tell(Waiting(30))

        def cancel() -> None:
            self.cancelled.append(wish)
            tell(Refused(Why.CANCELLED))

        return cancel


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[tuple[Desk, Path]]:
    data = tmp_path / ("a" * 120)
    data.mkdir(mode=0o700)
    desk = Desk()
    server = ActServer(data, desk)
    server.start()
    yield desk, data
    server.stop()


def connected(data: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    fd = os.open(data, os.O_RDONLY)
    sock.connect(f"/proc/self/fd/{fd}/{SOCKET_NAME}")
    os.close(fd)
    return sock


def said(data: Path, line: bytes, *, end: bool = True) -> dict[str, Any]:
    """The answer to raw bytes."""
    with connected(data) as sock:
        # it may have answered, and hung up, before it has read all
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(line)
            if end:
                sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            return dict(json.loads(sock.recv(4096) or b"{}"))
    return {}


def test_the_socket_is_the_owner_s_alone_whatever_the_umask_and_the_path(tmp_path: Path) -> None:
    data = tmp_path / ("x" * 200)
    data.mkdir()
    mask = os.umask(0)
    try:
        server = ActServer(data, Desk())
        server.start()
        mode = (data / SOCKET_NAME).stat().st_mode
    finally:
        os.umask(mask)
    server.stop()
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_what_is_asked_arrives_and_answers_come_line_by_line(desk: tuple[Desk, Path]) -> None:
    taker, data = desk
    for wish in (WITNESS, Wish(Act.OPENED), Wish(Act.CLOSED), Wish(Act.HEAD_COUNT, 0)):
        with ActLine(data) as line:
            line.ask(wish)
            answers = line.answers()
            assert next(answers) == Waiting(30)
            taker.tells[-1](Done("ab", 7))
            assert list(answers) == [Done("ab", 7)]
    assert taker.wishes == [WITNESS, Wish(Act.OPENED), Wish(Act.CLOSED), Wish(Act.HEAD_COUNT, 0)]


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"?\n",
        b"[]\n",
        b"null\n",
        b"\xff\xfe\n",
        b"[" * 4000 + b"\n",
        b"{}\n",
        b'{"act": "dance"}\n',
        b'{"act": 1}\n',
        b'{"act": "open", "number": 1}\n',
        b'{"act": "open", "more": 1}\n',
        b'{"act": "head-count"}\n',
        b'{"act": "head-count", "number": -1}\n',
        b'{"act": "head-count", "number": 100001}\n',
        b'{"act": "head-count", "number": 1.5}\n',
        b'{"act": "head-count", "number": true}\n',
        b'{"act": "witness"}\n',
        b'{"act": "witness", "member": ""}\n',
        b'{"act": "witness", "member": "a b"}\n',
        b'{"act": "witness", "member": "' + b"x" * 65 + b'"}\n',
        b'{"act": "witness", "member": "M-1", "number": 3}\n',
        b'{"act": "witness", "member": "\\u0000"}\n',
        b'{"act": "witness", "member": "' + b"x" * MAX_LINE_BYTES,
    ],
    ids=lambda line: repr(line[:40]),
)
def test_nonsense_is_refused_in_words_and_reaches_nobody(
    desk: tuple[Desk, Path], line: bytes
) -> None:
    taker, data = desk
    answer = said(data, line)
    assert answer == {} if line == b"\n" else answer["why"] == "invalid", answer
    assert not answer or answer["detail"]
    assert taker.wishes == []
    with ActLine(data) as other:
        other.ask(WITNESS)
        assert next(other.answers()) == Waiting(30)


def test_who_says_nothing_is_let_go(
    desk: tuple[Desk, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actsocket, "REQUEST_S", 0.05)
    _, data = desk
    with connected(data) as silent:
        assert silent.recv(10) == b""


def test_who_hangs_up_has_cancelled(desk: tuple[Desk, Path]) -> None:
    taker, data = desk
    with ActLine(data) as line:
        line.ask(WITNESS)
        assert next(line.answers()) == Waiting(30)
        assert taker.cancelled == []
    wait_for(lambda: taker.cancelled == [WITNESS], "a cancellation")


def test_who_cancels_hears_what_became_of_it(desk: tuple[Desk, Path]) -> None:
    taker, data = desk
    with ActLine(data) as line:
        line.ask(WITNESS)
        answers = line.answers()
        next(answers)
        line.cancel()
        assert list(answers) == [Refused(Why.CANCELLED)]
    # and if the card was faster
    with ActLine(data) as line:
        line.ask(WITNESS)
        answers = line.answers()
        next(answers)
        taker.tells[-1](Done("ab", 7))
        line.cancel()
        assert list(answers) == [Done("ab", 7)]


def test_that_nobody_knows_whether_it_was_recorded_ends_it_too(desk: tuple[Desk, Path]) -> None:
    taker, data = desk
    with ActLine(data) as line:
        line.ask(WITNESS)
        answers = line.answers()
        next(answers)
        taker.tells[-1](Unknown("bad sector"))
        assert list(answers) == [Unknown("bad sector")]


def test_who_does_not_listen_holds_nobody_up(desk: tuple[Desk, Path]) -> None:
    taker, data = desk
    with connected(data) as deaf:
        deaf.sendall(b'{"act": "open"}\n')
        wait_for(lambda: bool(taker.tells), "the question")
        began = time.monotonic()
        for _ in range(20_000):
            taker.tells[0](Waiting(30))
        assert time.monotonic() - began < 5
    wait_for(lambda: bool(taker.cancelled), "a cancellation")
    taker.tells[0](Done("ab", 7))


def test_more_than_a_few_at_once_are_sent_away_and_places_come_free(
    desk: tuple[Desk, Path],
) -> None:
    taker, data = desk
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(connected(data))
        time.sleep(0.3)
        assert said(data, b'{"act": "open"}\n', end=False) == {}
        assert taker.wishes == []
    wait_for(
        lambda: said(data, b'{"act": "open"}\n', end=False).get("state") == "waiting",
        "a free place",
    )


def test_a_socket_left_by_one_that_was_killed_is_replaced(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / SOCKET_NAME))
    left.close()
    with pytest.raises(ActError, match="not running here"):
        ActLine(tmp_path)
    server = ActServer(tmp_path, Desk())
    server.start()
    ActLine(tmp_path).__exit__()
    server.stop()
    with pytest.raises(ActError, match="not running here"):
        ActLine(tmp_path)


def test_a_folder_that_comes_later_gets_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(actsocket, "TRY_AGAIN_S", 0.02)
    data = tmp_path / "data"
    server = ActServer(data, Desk())
    server.start()
    time.sleep(0.1)
    assert [record.levelname for record in caplog.records] == ["ERROR"], "it says so once"
    data.mkdir()
    wait_for((data / SOCKET_NAME).exists, "a socket")
    server.stop()


def test_a_server_that_ends_lets_go_of_everybody(tmp_path: Path) -> None:
    server = ActServer(tmp_path, Desk())
    server.start()
    with ActLine(tmp_path) as line:
        line.ask(WITNESS)
        answers = line.answers()
        next(answers)
        server.stop()
        # a recorder that was stopped before has said so; here nobody has
        with pytest.raises(ActError, match="gave no answer"):
            next(answers)
    wait_for(
        lambda: not [each for each in threading.enumerate() if each.name in {"act", "acts"}],
        "no thread left",
    )


def test_a_line_that_breaks_says_where_to_look(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / SOCKET_NAME))
        listener.listen()
        for reply in (b"", b"{}\n", b'{"state": "dancing"}\n', b"\xff\n", b'{"state": "recorded"'):
            with ActLine(tmp_path) as line:
                line.ask(WITNESS)
                conn, _ = listener.accept()
                conn.sendall(reply)
                conn.close()
                with pytest.raises(ActError, match="gave no answer: `shuaka-edge journal list"):
                    list(line.answers())


def test_every_refusal_has_words() -> None:
    for why in Why:
        assert Refused(why, "because").words
    assert named(Act.WITNESSED) == "现场证明 WITNESSED"
    assert "later version" in named(77)


# --- the command, and the real recorder -----------------------------------------------------------


@dataclass
class Device:
    """A folder that is enrolled, and what runs in it."""

    folder: Path
    recorder: Recorder
    clock: FakeClock
    server: ActServer

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def act(self, *words: str) -> subprocess.Popen[str]:
        # Whatever runs these tests in the background may have had Ctrl-C ignored.
        command = ["env", "--default-signal=INT", PROGRAM, "act", *words]
        return subprocess.Popen(
            [*command, "--config", self.folder / "edge.toml"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tap(self, number: int) -> None:
        credential = Credential("uid", "", f"{0x04_0000_0000_0000 + number:014X}")
        at = self.clock.boottime_ms()
        self.recorder.reader_event(CardRead("r", number, at, credential, Assurance.UID))

    def entries(self) -> list[Action | Tap]:
        reader = JournalReader(self.data)
        found = [
            decode_entry(entry)
            for held in reader.epochs()
            for _, entry, _, _ in reader.entries(held.epoch)
        ]
        reader.close()
        return [entry for entry in found if isinstance(entry, Action | Tap)]


def enrolled(folder: Path) -> Path:
    data = folder / "data"
    keys = Keys.load_or_make(data)
    hub = SigningKey.generate().public, OpeningKey.generate().public
    record = enrol._EnrolmentFile(
        bytes(16), "门口", keys.sign.public, *hub, 1, "mqtt://127.0.0.1:1"
    )
    enrol._write(data / "enrolment.json", record)
    return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "edge.toml").write_text('[edge]\ndata = "data"\n', "utf-8")
    return tmp_path


@pytest.fixture
def device(folder: Path) -> Iterator[Device]:
    data = enrolled(folder)
    clock, quiet = FakeClock(), Nothing()
    feedback: Feedback = quiet
    owner = Owner(bytes(16), OpeningKey.generate().public)
    recorder = Recorder(data, owner, clock, feedback, debounce_ms=3000, read_timeout_ms=1000)
    recorder.start(quiet)
    recorder.reader_event(ReaderUp("r"))
    server = ActServer(data, recorder)
    server.start()
    yield Device(folder, recorder, clock, server)
    recorder.stop()
    server.stop()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    assert process.stdout is not None
    assert process.stderr is not None
    # not `communicate`, which passes over what `readline` has read ahead
    with process:
        out, err = process.stdout.read(), process.stderr.read()
    assert "Traceback" not in err
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("words", "what", "number", "told"),
    [
        (["witness", "党员-7"], Act.WITNESSED, None, "现场证明 WITNESSED of member 党员-7."),
        (["head-count", "23"], Act.HEAD_COUNT, 23, "清点人数 HEAD_COUNT: 23."),
        (["open"], Act.OPENED, None, "会议开始 OPENED."),
        (["close"], Act.CLOSED, None, "会议结束 CLOSED."),
    ],
)
def test_a_command_waits_for_the_card_and_says_recorded_once_it_is(
    device: Device, words: list[str], what: Act, number: int | None, told: str
) -> None:
    process = device.act(*words)
    line = first_line(process)
    assert line.startswith(told)
    assert "within 30 seconds" in line
    assert device.entries() == []
    device.recorder.reader_event(CardUnreadable("r", 1, 5, Unreadable.REMOVED))
    assert Unreadable.REMOVED.wording in first_line(process)
    device.tap(1)
    status, out, err = ended(process)
    assert (status, err) == (0, "")
    assert out.startswith("Recorded, as entry ")
    [entry] = device.entries()
    assert isinstance(entry, Action)
    assert (entry.what, entry.number, entry.about is not None) == (
        what,
        number,
        what is Act.WITNESSED,
    )
    listed = subprocess.run(
        [PROGRAM, "journal", "list", "--config", device.folder / "edge.toml"],
        capture_output=True,
        text=True,
        check=True,
    )
    [shown] = [each for each in listed.stdout.splitlines() if named(what) in each]
    assert "at r (uid, subject sealed" in shown
    assert ("member sealed" in shown) == (what is Act.WITNESSED)
    assert "党员-7" not in listed.stdout


def test_no_card_ends_it_in_words(device: Device) -> None:
    process = device.act("witness", "M-1")
    first_line(process)
    device.clock.advance(WAIT_MS + 1)
    status, _, err = ended(process)
    assert (status, err) == (
        1,
        "shuaka-edge: no card was read within 30 seconds: nothing was recorded\n",
    )
    assert device.entries() == []


def test_a_second_command_is_refused_and_the_first_goes_on(device: Device) -> None:
    first = device.act("witness", "M-1")
    first_line(first)
    status, _, err = ended(device.act("open"))
    assert status == 1
    assert err == "shuaka-edge: another command waits for a card: try again when it is done\n"
    device.tap(1)
    assert ended(first)[0] == 0
    assert len(device.entries()) == 1


def test_ctrl_c_cancels_and_the_next_card_is_a_tap(device: Device) -> None:
    process = device.act("witness", "M-1")
    first_line(process)
    process.send_signal(signal.SIGINT)
    status, out, err = ended(process)
    assert (status, out, err) == (130, "Cancelled: nothing was recorded.\n", "")
    device.tap(1)
    wait_for(lambda: len(device.entries()) == 1, "a tap")
    assert isinstance(device.entries()[0], Tap)


def test_a_command_that_is_killed_leaves_nothing_waiting(device: Device) -> None:
    process = device.act("witness", "M-1")
    first_line(process)
    process.kill()
    ended(process)
    following = device.act("head-count", "3")
    line = first_line(following)
    if not line:  # the one before was not missed yet
        assert "another command" in ended(following)[2]
        following = device.act("head-count", "3")
        line = first_line(following)
    assert "HEAD_COUNT" in line
    device.tap(1)
    assert ended(following)[0] == 0


def test_a_stop_of_the_daemon_is_said(device: Device) -> None:
    process = device.act("witness", "M-1")
    first_line(process)
    device.recorder.stop()
    status, _, err = ended(process)
    assert (status, err) == (1, "shuaka-edge: shuaka-edge is being stopped: nothing was recorded\n")


def test_a_device_that_is_not_enrolled_or_does_not_run_says_so(folder: Path) -> None:
    command = [PROGRAM, "act", "open", "--config", folder / "edge.toml"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "this device is not enrolled" in told.stderr
    assert not (folder / "data").exists()
    enrolled(folder)
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "it is not running here, or does not record yet: start it with" in told.stderr
    assert told.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["witness", ""], "not empty"),
        (["witness", "a b"], "no blank"),
        (["witness", "x" * 65], "at most 64"),
        (["head-count", "-1"], "no whole number from 0 to 100000"),
        (["head-count", "x"], "no whole number from 0 to 100000"),
        (["head-count", "100001"], "no whole number from 0 to 100000"),
        (["head-count", "٣"], "no whole number from 0 to 100000"),
        (["dance"], "invalid choice"),
        ([], "required"),
    ],
)
def test_what_is_called_wrongly_is_refused_before_anything(
    folder: Path, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from edge.cli import main

    with pytest.raises(SystemExit) as end:
        main(["act", *words])
    assert end.value.code == 2
    assert reason in capsys.readouterr().err
