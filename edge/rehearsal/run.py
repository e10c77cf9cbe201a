"""`shuaka-edge rehearse`: presents virtual cards, brings the faults about, and judges from outside.

Promises: the device's own journal and state are not touched, nothing that is recorded counts for
anybody, and nothing is left behind, however it ends. While it runs, the daemon can't.
"""

import contextlib
import fcntl
import os
import queue
import random
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Final

import msgspec

from edge.config import Config
from edge.enrol import load_identity
from edge.feedback import Outcome, Standing
from edge.recorder import TICK_S
from edge.rehearsal.child import (
    Command,
    Hold,
    Lift,
    PlugIn,
    Said,
    SetClock,
    Shown,
    Stood,
    Stop,
    TakeOff,
    Task,
    Took,
)
from edge.rehearsal.ledger import Card, Ledger, Light, Report, Tap, table
from edge.rehearsal.line import Line
from edge.retirement import is_retired
from edge.store import FILE_NAME, LOCK_NAME, Held, JournalReader
from protocol.errors import RemoteError
from protocol.identity import OpeningKey
from protocol.journal import Tap as TapEntry
from protocol.journal import decode_entry
from protocol.topics import Broker

CHILD: Final = (sys.executable, "-P", "-m", "edge.rehearsal.child")
READERS: Final = ("rehearsal 1", "rehearsal 2")
PREFIX: Final = "rehearsal-"
START_S: Final = 30.0
LIGHT_S: Final = 6.0
STOP_S: Final = 20.0
QUIET_S: Final = TICK_S + 0.2
"""After this without a change the recorder has noted what it had to."""
OTHER_REHEARSAL: Final = "another rehearsal runs here"
RUNNING: Final = (
    "shuaka-edge runs here: stop it first (systemctl stop shuaka-edge), and start it again"
    " afterwards (systemctl start shuaka-edge)"
)
WRONG_CLOCK: Final = SetClock(-3_600_000, trusted=False)
RIGHT_CLOCK: Final = SetClock(0, trusted=True)


class Fault(StrEnum):
    """What can go wrong at a venue."""

    POWER = "power"
    NETWORK = "network"
    CLOCK = "clock"
    READER = "reader"


class RehearsalError(Exception):
    """It cannot be rehearsed here; the message says why and what to do."""


class _EndedError(Exception):
    """The rehearsed process ended by itself."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to rehearse."""

    faults: frozenset[Fault]
    cards: int
    seconds: float
    """How long to wait for the hub at the end."""
    seed: int
    is_offline: bool = False
    pace_s: float = 0.5
    """Between two cards: time for a lamp to be seen."""
    is_verbose: bool = False


class Step(StrEnum):
    """What is done next; the value is what the person who watches is told."""

    TAP = ""
    KILL_BEFORE = "断电 power: gone while a card is being stored"
    KILL_LIT = "断电 power: gone at the moment of the light"
    KILL_ANY = "断电 power: gone at any moment"
    CUT = "断网 network: cut"
    STALL = "断网 network: connected again, and nothing passes"
    MEND = "网络恢复 network: back"
    CLOCK_WRONG = "时钟 clock: an hour slow, and not trusted"
    CLOCK_RIGHT = "时钟恢复 clock: set right"
    UNPLUG = "读卡器 reader: both unplugged, and plugged in again"

    @property
    def takes_card(self) -> bool:
        """Whether a card is presented in it."""
        return self in {Step.TAP, Step.KILL_BEFORE, Step.KILL_LIT, Step.KILL_ANY}


_OF: Final = {
    Fault.POWER: (Step.KILL_BEFORE, Step.TAP, Step.KILL_LIT, Step.KILL_ANY),
    Fault.NETWORK: (Step.CUT, Step.TAP, Step.MEND, Step.STALL, Step.TAP, Step.MEND),
    Fault.CLOCK: (Step.CLOCK_WRONG, Step.TAP, Step.CLOCK_RIGHT, Step.TAP),
    Fault.READER: (Step.UNPLUG, Step.TAP),
}


def cards_needed(faults: frozenset[Fault]) -> int:
    """The fewest cards with which each of these faults is met by one."""
    return max(1, sum(step.takes_card for fault in faults for step in _OF[fault]))


def plan(wanted: Wanted) -> list[Step]:
    """The steps, in an order that the seed decides; each fault's own stay in theirs."""
    chance = random.Random(wanted.seed)
    waiting = [list(_OF[fault]) for fault in sorted(wanted.faults)]
    spare = wanted.cards - sum(step.takes_card for several in waiting for step in several)
    waiting.append([Step.TAP] * spare)
    steps = []
    while any(waiting):
        several = chance.choices(waiting, [len(each) for each in waiting])[0]
        steps.append(several.pop(0))
    return steps


def rehearse(
    config: Config,
    config_path: Path | None,
    wanted: Wanted,
    say: Callable[[str], None],
    child: Sequence[str] = CHILD,
) -> Report:
    """Rehearses and tells of it by `say`, a line each; gives what became of it.

    Raises RehearsalError, IdentityError and JournalError.
    """
    if wanted.is_offline:
        wanted = replace(wanted, faults=wanted.faults - {Fault.NETWORK})
    if wanted.cards < (least := cards_needed(wanted.faults)):
        raise RehearsalError(f"--cards: these faults need {least} or more")
    data = config.edge.data
    identity = load_identity(data)
    if identity is None and not wanted.is_offline:
        raise RehearsalError(
            "this device is not enrolled: run shuaka-edge enrol --hub URL --code CODE, or rehearse"
            " without a hub: --offline"
        )
    if identity is not None and is_retired(data, identity[0].edge):
        raise RehearsalError("the hub has told this device to retire: it records nothing any more")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone(data))
        scratch = stack.enter_context(_scratch(data))
        if identity is None:
            name, edge, hub_seal = "未登记 (not enrolled)", secrets.token_bytes(16), _nobody_s_key()
        else:
            enrolment, _ = identity
            name, edge, hub_seal = enrolment.name, enrolment.edge, enrolment.hub.seal
        line, way = None, "离线 offline"
        if identity is not None and not wanted.is_offline:
            broker = Broker.parse(config.mqtt.url or enrolment.mqtt_url)
            line = Line(broker.host, broker.port)
            stack.callback(line.close)
            way = f"hub by way of {broker.host}:{broker.port}"
        say(f"演练 rehearsal of {name}, {way}; {wanted.cards} virtual cards, seed {wanted.seed}")
        task = Task(
            None if config_path is None else str(config_path.absolute()),
            str(scratch),
            edge,
            hub_seal,
            -1,
            None if line is None else line.address,
            wanted.is_verbose,
        )
        run = _Run(scratch, task, line, wanted, say, child)
        stack.callback(run.end)
        report = run.run()
    for each in table(report):
        say(each)
    verdict = "通过 passed" if report.passed else "未通过 FAILED: see above"
    say(f"结论 result: {verdict}. 模拟刷卡不计入考勤 nothing of it counts as attendance.")
    return report


@contextlib.contextmanager
def _alone(data: Path) -> Iterator[None]:
    """While the block runs, neither the daemon nor another rehearsal does."""
    with contextlib.ExitStack() as stack:
        for path, what in ((data, OTHER_REHEARSAL), (data / LOCK_NAME, RUNNING)):
            try:
                lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # no daemon ever was here
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RehearsalError(what) from error
        yield


@contextlib.contextmanager
def _scratch(data: Path) -> Iterator[Path]:
    """A folder for the scratch journal, on the storage that is to be tried; removed at the end."""
    beside = data if data.is_dir() and os.access(data, os.W_OK) else None
    if beside is not None:
        for left in beside.glob(f"{PREFIX}*"):  # of one that was killed
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=beside))
    try:
        yield folder
    finally:
        with _undisturbed():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not leave half of it behind."""
    kept = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, kept)


def _nobody_s_key() -> bytes:
    return OpeningKey.generate().public


class _Run:
    """One rehearsal."""

    def __init__(
        self,
        scratch: Path,
        task: Task,
        line: Line | None,
        wanted: Wanted,
        say: Callable[[str], None],
        child: Sequence[str],
    ) -> None:
        self._scratch = scratch
        self._task = task
        self._line = line
        self._wanted = wanted
        self._say = say
        self._argv = child
        self._chance = random.Random(wanted.seed)
        self._ledger = Ledger()
        self._child: _Child | None = None
        self._clock = RIGHT_CLOCK

    def run(self) -> Report:
        try:
            self._start()
            for step in plan(self._wanted):
                if step.value:
                    self._say(step.value)
                self._do(step)
            self._line_is(Step.MEND)
            if self._line is not None:
                self._wait_for_receipts()
            if not self._now.stop():
                self._ledger.failures.append("the daemon did not stop in good order")
        except _EndedError as error:
            self._ledger.failures.append(f"{error}: see its messages above, or use --verbose")
            self.end()
        if not (self._scratch / FILE_NAME).exists():
            raise RehearsalError("the daemon's parts did not start: see their messages above")
        with contextlib.closing(JournalReader(self._scratch)) as reader:
            self._ledger.failures += reader.problems()
        return self._ledger.report(self._taps(), with_hub=self._line is not None)

    def end(self) -> None:
        """Kills what still runs."""
        if self._child is not None:
            with _undisturbed():
                self._child.kill()

    @property
    def _now(self) -> "_Child":
        assert self._child is not None  # noqa: S101  started first
        return self._child

    def _start(self) -> None:
        self._child = _Child(self._argv, self._task)
        self._now.tell(self._clock, *(PlugIn(reader) for reader in READERS))
        self._await(Standing.READY, START_S)

    def _do(self, step: Step) -> None:
        match step:
            case Step.TAP:
                self._tap()
            case Step.KILL_BEFORE | Step.KILL_LIT | Step.KILL_ANY:
                self._lose_power(step)
            case Step.CUT | Step.STALL | Step.MEND:
                self._line_is(step)
            case Step.CLOCK_WRONG | Step.CLOCK_RIGHT:
                self._clock = WRONG_CLOCK if step is Step.CLOCK_WRONG else RIGHT_CLOCK
                self._now.tell(self._clock)
            case Step.UNPLUG:
                self._now.tell(*(TakeOff(reader) for reader in READERS))
                self._await(Standing.NO_READER, LIGHT_S)
                self._now.tell(*(PlugIn(reader) for reader in READERS))
                self._await(Standing.READY, LIGHT_S)

    def _line_is(self, step: Step) -> None:
        if self._line is not None:
            {Step.CUT: self._line.cut, Step.STALL: self._line.hold, Step.MEND: self._line.mend}[
                step
            ]()

    def _await(self, standing: Standing, timeout_s: float) -> None:
        """Waits until the device shows that; that it doesn't is noted."""
        deadline = time.monotonic() + timeout_s
        while (said := self._now.hear(deadline - time.monotonic())) is not None:
            if said == Stood(standing.name):
                return
        self._ledger.failures.append(
            f"没有显示 not shown within {timeout_s:.0f} s: {standing.wording}"
        )

    # --- cards ----------------------------------------------------------------------------------

    def _present(self) -> Card:
        last = self._ledger.cards[-1].at_ms if self._ledger.cards else 0
        while (now := _boottime_ms()) <= last + 1:
            time.sleep(0.001)
        card = self._ledger.present(self._chance.choice(READERS), now)
        card.clock_is_wrong = not self._clock.trusted
        self._now.tell(Hold(card.reader, card.number))
        return card

    def _tap(self) -> None:
        card = self._present()
        self._await_light(card)
        time.sleep(self._wanted.pace_s)
        self._now.tell(Lift(card.reader))

    def _await_light(self, card: Card) -> None:
        deadline = time.monotonic() + LIGHT_S
        while not card.lights:
            said = self._now.hear(deadline - time.monotonic())
            if said is None:
                return
            self._note(card, said)

    def _await_taken(self, card: Card) -> None:
        """Waits until the readers have told of the card, or there was a light."""
        deadline = time.monotonic() + LIGHT_S
        while not card.lights:
            said = self._now.hear(deadline - time.monotonic())
            if said is None or said == Took(card.number):
                return
            self._note(card, said)

    def _note(self, card: Card, said: Said) -> None:
        """A light of the card, and whether the tap is durable at this moment."""
        if isinstance(said, Shown) and said.reader == card.reader:
            recorded = Outcome[said.outcome].recorded
            card.lights.append(Light(recorded, said.message, recorded and self._is_durable(card)))

    def _is_durable(self, card: Card) -> bool:
        return card.number in self._ledger.of(self._taps())[0]

    def _lose_power(self, step: Step) -> None:
        is_held = step is Step.KILL_BEFORE
        if is_held:
            self._await_quiet()
        with self._journal_held() if is_held else contextlib.nullcontext():
            card = self._present()
            if step is Step.KILL_LIT:
                self._await_light(card)
            elif is_held:
                self._await_taken(card)
                time.sleep(self._chance.uniform(0.2, 0.4))
            else:
                time.sleep(self._chance.uniform(0, 0.03))
            # while the journal is held, what was lit is not durable
            for said in self._now.kill():
                self._note(card, said)
        card.was_interrupted = True
        self._start()

    def _await_quiet(self) -> None:
        """Waits until nothing else is about to be written, or a few seconds."""
        before: list[Held] = []
        same_since = started = time.monotonic()
        while (now := time.monotonic()) - same_since < QUIET_S and now - started < 5 * QUIET_S:
            with contextlib.closing(JournalReader(self._scratch)) as reader:
                held = reader.epochs()
            if held != before:
                before, same_since = held, now
            time.sleep(0.05)

    @contextlib.contextmanager
    def _journal_held(self) -> Iterator[None]:
        """While the block runs, nobody can commit to the scratch journal."""
        db = sqlite3.connect(self._scratch / FILE_NAME, isolation_level=None, timeout=2)
        with contextlib.closing(db):
            db.execute("BEGIN IMMEDIATE")
            yield
            db.execute("ROLLBACK")

    # --- the journal ----------------------------------------------------------------------------

    def _taps(self) -> list[Tap]:
        """What the scratch journal holds, read from outside."""
        found = []
        with contextlib.closing(JournalReader(self._scratch)) as reader:
            for held in reader.epochs():
                for seq, raw, _, _ in reader.entries(held.epoch):
                    with contextlib.suppress(RemoteError):
                        entry = decode_entry(raw)
                        if isinstance(entry, TapEntry):
                            at = entry.at
                            received = seq <= held.released
                            found.append(Tap(entry.reader, at.boottime_ms, at.trusted, received))
        return found

    def _wait_for_receipts(self) -> None:
        self._say("等待服务器回执 waiting for the hub's receipts")
        deadline = time.monotonic() + self._wanted.seconds
        while time.monotonic() < deadline:
            with contextlib.closing(JournalReader(self._scratch)) as reader:
                if all(held.released >= held.head for held in reader.epochs()):
                    return
            self._now.hear(0.2)


class _Child:
    """The process that is rehearsed, and what it shows."""

    def __init__(self, argv: Sequence[str], task: Task) -> None:
        read_end, write_end = os.pipe()
        self._said: queue.SimpleQueue[Said | None] = queue.SimpleQueue()
        try:
            self._process = subprocess.Popen(
                [*argv], stdin=subprocess.PIPE, pass_fds=(write_end,), process_group=0
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self._thread = threading.Thread(target=self._read, args=(read_end,), daemon=True)
        self._thread.start()
        try:
            self._write(msgspec.structs.replace(task, lights=write_end))
        except BaseException:
            self.kill()
            raise

    def tell(self, *commands: Command) -> None:
        for command in commands:
            self._write(command)

    def hear(self, timeout_s: float) -> Said | None:
        """What it shows next; None where nothing came. Raises _EndedError."""
        try:
            said = self._said.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        if said is None:
            self._said.put(None)
            raise _EndedError("the daemon ended by itself")
        return said

    def kill(self) -> list[Said]:
        """SIGKILL; gives what it had shown and nobody had heard yet."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._pipe.close()
        rest = []
        while not self._said.empty():
            said = self._said.get()
            if said is not None:
                rest.append(said)
        self._said.put(None)
        return rest

    def stop(self) -> bool:
        """In good order; whether it did."""
        self.tell(Stop())
        try:
            return self._process.wait(STOP_S) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            self.kill()

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101  it was asked for
        return self._process.stdin

    def _write(self, what: Task | Command) -> None:
        try:
            self._pipe.write(msgspec.json.encode(what) + b"\n")
            self._pipe.flush()
        except OSError as error:
            raise _EndedError("the daemon ended by itself") from error

    def _read(self, read_end: int) -> None:
        with os.fdopen(read_end, "rb") as lines:
            for line in lines:
                with contextlib.suppress(msgspec.MsgspecError):  # the last one may be cut off
                    self._said.put(msgspec.json.decode(line, type=Said))
        self._said.put(None)


def _boottime_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
