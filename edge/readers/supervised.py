"""Readers whose work is done by a process that can be ended: the half that no driver differs in.

A card or a reader that never answers blocks the call that talks to it, and often nothing but the
end of the process undoes that. So a driver's work on one reader is a worker process, which tells
by lines (edge.readers.lines) what happens; `SupervisedReader` turns them into events that keep the
contract of edge.readers whatever the worker does: a card without an outcome after
`read_timeout_ms` is unreadable, a worker that is silent, ends or talks nonsense is started anew,
with growing pauses. Each trouble is logged once.

There is one thread per worker, and it lives as long as the worker: Linux delivers a parent's death
signal when the *thread* ends that started the child.
"""

import logging
import os
import select
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final, assert_never

import msgspec

from edge.cards.settings import UID_ONLY, Plan
from edge.feedback import Outcome
from edge.readers import (
    CardGone,
    CardRead,
    CardSeen,
    CardUnreadable,
    Down,
    ReaderDown,
    ReaderEvent,
    ReaderHealth,
    ReaderUp,
    Sink,
    Unreadable,
)
from edge.readers.lines import (
    Alive,
    AnyLine,
    AnyTask,
    Gone,
    LampTrouble,
    Listed,
    Read,
    Seen,
    ServeReader,
    Signal,
    Trouble,
    Unread,
    Working,
)
from protocol.credential import Assurance, Credential, InvalidCredentialError

DEFAULT_READ_TIMEOUT_MS: Final = 1000

STARTING: Final = "starting"
"""A reader's trouble before anything is known of it."""

STOP_S: Final = 3.0
"""What a driver grants its threads to end in `stop`."""

_SILENCE_S: Final = 8.0
"""A worker gives a sign of life every two seconds; starting one takes a second on a small Pi."""
_FIRST_BACK_OFF_S: Final = 0.25
_LONGEST_BACK_OFF_S: Final = 4.0
_LONG_LIFE_S: Final = 30.0
_MAX_LINE: Final = 65536

_log = logging.getLogger(__name__)


class Outlet:
    """The way to the sink: one event at a time, from `open` to `close`."""

    def __init__(self) -> None:
        self._sink: Sink | None = None
        self._lock = threading.Lock()

    def open(self, sink: Sink) -> None:
        """From now on events go to `sink`."""
        with self._lock:
            self._sink = sink

    def close(self) -> None:
        """Afterwards the sink is not called any more."""
        with self._lock:
            self._sink = None

    def emit(self, event: ReaderEvent) -> None:
        """Passes `event` to the sink; a defect of the sink is logged and goes no further."""
        with self._lock:
            if self._sink is None:
                return
            try:
                self._sink(event)
            except Exception:  # noqa: BLE001 - not this thread's fault
                _log.exception("an event of a reader could not be passed on")


def join(threads: Iterable[threading.Thread]) -> None:
    """Waits for `threads` to end, STOP_S at most; one that was never started has nothing to end."""
    deadline = time.monotonic() + STOP_S
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, deadline - time.monotonic()))


class SupervisedReader:
    """One reader: turns its worker's lines into events that keep the contract's order.

    `name` is what events call it, `device` what the worker is told to serve, `worker` the worker's
    command line.
    """

    def __init__(
        self,
        outlet: Outlet,
        name: str,
        device: bytes,
        worker: Sequence[str],
        read_timeout_ms: int = DEFAULT_READ_TIMEOUT_MS,
        cards: Plan = UID_ONLY,
    ) -> None:
        self._emit = outlet.emit
        self._name = name
        self._device = device
        self._read_timeout_ms = read_timeout_ms
        self._cards = cards
        self._keeper = Keeper(worker)
        self._up = False
        self._trouble = STARTING
        self._logged = ""
        self._lamp_trouble = ""
        self._counter: int | None = None  # what the worker's successor has to know
        self._card = False
        self._mark = b""
        self._present: int | None = None  # generation told by CardSeen and not yet by CardGone
        self._open: Seen | None = None  # CardSeen without an outcome
        self._deadline = 0.0
        self.thread = threading.Thread(target=self._run, name=f"reader {name}", daemon=True)

    def start(self) -> None:
        """Starts the worker and the thread that follows it."""
        self.thread.start()

    def stop(self) -> None:
        """Ends the worker, and soon after it the thread, which the caller may join."""
        self._keeper.stop()

    def signal(self, outcome: Outcome) -> None:
        """Has the reader show `outcome` by its own lamp and buzzer, if it has any; returns at once.
        From any thread.
        """
        now_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        self._keeper.signal(Signal(outcome.name, now_ms))

    def health(self) -> ReaderHealth:
        """How the reader is now; from any thread."""
        return ReaderHealth(self._name, self._up, "" if self._up else self._trouble)

    def _run(self) -> None:
        back_off = BackOff()
        while True:
            task = ServeReader(
                self._device,
                self._read_timeout_ms * 7 // 10,
                self._counter,
                self._card,
                self._cards,
                self._mark,
            )
            process = self._keeper.begin(task)
            if process is None:
                break
            try:
                down, what = self._follow(process)
            except WorkerEnded as ended:
                down, what = Down.FAILED, f"its worker process ended ({ended})"
                self._unread(Unreadable.BAD_ANSWER)
            except Exception as error:  # noqa: BLE001 - else it would look as if it worked
                _log.exception("%s: failed", self._name)
                down, what = Down.FAILED, f"failed ({error!r})"
            finally:
                process.end()
            if self._keeper.stopped:
                break
            if down is not None:
                self._down(down, f"{what}; it is started anew")
                self._keeper.wait(back_off.after(process))
        self._down(Down.UNPLUGGED, "the reader is no longer connected")

    def _follow(self, process: "WorkerProcess") -> tuple[Down | None, str]:
        """Takes lines until one is overdue; then (why the reader is down, in words), or None
        where only the card was at fault.
        """
        self._deadline = time.monotonic() + _SILENCE_S
        while (line := process.line(self._deadline)) is not None:
            self._take(line)
        if self._open is None:
            return Down.NOT_ANSWERING, "its worker process does not answer"
        process.end()
        for line in process.rest():  # what came between the deadline and the end counts
            self._take(line)
        if self._open is not None:
            _log.warning("%s: a card gave no answer in %d ms", self._name, self._read_timeout_ms)
            self._unread(Unreadable.TIMEOUT)
        return None, ""

    def _take(self, line: AnyLine) -> None:
        match line:
            case Alive():
                pass
            case Working(counter):
                if self._counter is None:
                    self._counter = counter
                if not self._up:
                    self._up = True
                    self._logged = ""
                    _log.info("%s: works", self._name)
                    self._emit(ReaderUp(self._name))
            case Trouble(down, what):
                self._counter, self._card = None, False
                self._down(down, what)
            case Seen(generation, boottime_ms, mark):
                self._unread(Unreadable.BAD_ANSWER)
                self._gone()
                self._counter, self._card, self._mark = generation, True, mark
                self._present = generation
                self._open = line
                self._deadline = time.monotonic() + self._read_timeout_ms / 1000
                self._emit(CardSeen(self._name, generation, boottime_ms))
            case Read():
                self._read(line)
            case Unread(generation, reason, detail):
                _log.info("%s: a card was not read: %s", self._name, detail)
                if self._open is not None and self._open.generation == generation:
                    self._unread(reason)
            case Gone(generation, counter):
                self._counter, self._card = counter, False
                if self._present == generation:
                    self._gone()
            case LampTrouble(what):
                self._lamp(what)
            case Listed():
                raise WorkerEnded("it sent a line that is not its to send")
            case _:
                assert_never(line)
        if self._open is None:
            self._deadline = time.monotonic() + _SILENCE_S

    def _read(self, line: Read) -> None:
        if self._open is None or self._open.generation != line.generation:
            return
        try:
            event = CardRead(
                self._name,
                line.generation,
                self._open.boottime_ms,
                Credential(line.scheme, line.issuer, line.value),
                Assurance(line.assurance),
                line.valid,
            )
        except (InvalidCredentialError, ValueError):
            _log.error("%s: a worker sent an impossible credential", self._name)
            self._unread(Unreadable.BAD_ANSWER)
            return
        self._open = None
        self._emit(event)

    def _unread(self, reason: Unreadable) -> None:
        if self._open is not None:
            seen, self._open = self._open, None
            self._emit(CardUnreadable(self._name, seen.generation, seen.boottime_ms, reason))

    def _gone(self) -> None:
        if self._present is not None:
            generation, self._present = self._present, None
            self._emit(CardGone(self._name, generation))

    def _lamp(self, trouble: str) -> None:
        if trouble and trouble != self._lamp_trouble:
            _log.warning("%s: its lamp: %s", self._name, trouble)
        elif self._lamp_trouble and not trouble:
            _log.info("%s: its lamp works again", self._name)
        self._lamp_trouble = trouble

    def _down(self, reason: Down, what: str) -> None:
        self._unread(Unreadable.BAD_ANSWER)
        self._gone()
        self._trouble = what
        if what != self._logged and not self._keeper.stopped:
            self._logged = what
            _log.warning("%s: %s", self._name, what)
        if self._up:
            self._up = False
            self._emit(ReaderDown(self._name, reason))


class WorkerEnded(Exception):  # noqa: N818 - an expected event
    """The worker process is gone, or sent what no worker sends."""


class Keeper:
    """At most one worker process at a time, and the means to end it from another thread."""

    def __init__(self, worker: Sequence[str]) -> None:
        self._worker = tuple(worker)
        self._lock = threading.Lock()
        self._process: WorkerProcess | None = None
        self._signal: Signal | None = None  # for the next worker
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def begin(self, task: AnyTask) -> "WorkerProcess | None":
        """A worker doing `task`, started by the calling thread; None once stopped.

        While the system refuses to start a process, it waits and tries again.
        """
        back_off = BackOff()
        while True:
            with self._lock:
                if self.stopped:
                    return None
                try:
                    process = self._process = WorkerProcess(self._worker)
                except OSError as error:
                    process = None
                    _log.error("a worker process cannot be started: %s", error)
            if process is not None:
                process.give(task)
                with self._lock:
                    signal, self._signal = self._signal, None
                if signal is not None:
                    self.signal(signal)
                return process
            self.wait(back_off.next_s())

    def signal(self, signal: Signal) -> None:
        """Passes it to the worker, or to the next one where this one has ended."""
        with self._lock:
            if self._process is None or not self._process.signal(signal):
                self._signal = signal

    def stop(self) -> None:
        """Ends the worker for good."""
        self._stopped.set()
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def wait(self, seconds: float) -> None:
        """Waits so long, or until stopped."""
        self._stopped.wait(seconds)


class WorkerProcess:
    """A running worker and the lines that it sends."""

    def __init__(self, command: Sequence[str]) -> None:
        self._popen = subprocess.Popen(
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.began = time.monotonic()
        assert self._popen.stdin is not None  # noqa: S101 - both are pipes
        assert self._popen.stdout is not None  # noqa: S101
        self._input = self._popen.stdin
        self._signalling = threading.Lock()
        self._hears = False
        self._output = self._popen.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._decoder: msgspec.json.Decoder[AnyLine] = msgspec.json.Decoder(AnyLine)
        self._lines: deque[bytes] = deque()
        self._partial = b""

    def give(self, task: AnyTask) -> None:
        """Tells the worker its task, once; `line` tells it where the worker has ended already."""
        with suppress(BrokenPipeError):
            self._input.write(msgspec.json.encode(task) + b"\n")
        os.set_blocking(self._input.fileno(), False)
        with self._signalling:
            self._hears = True

    def signal(self, signal: Signal) -> bool:
        """Passes it to the worker, after its task; one that does not listen misses it. False where
        the worker has ended.
        """
        with self._signalling:
            if not self._hears:
                return False
            try:  # of so short a line a full pipe takes nothing
                self._input.write(msgspec.json.encode(signal) + b"\n")
            except BrokenPipeError:
                return False
            return True

    def line(self, deadline: float | None = None) -> AnyLine | None:
        """The next line; None when there is none by `deadline` (monotonic, seconds), or, without
        one, when the worker has been silent for longer than any does.

        What has already arrived is given also after the deadline. WorkerEnded at the end, and at
        a line that is none.
        """
        if deadline is None:
            deadline = time.monotonic() + _SILENCE_S
        while not self._lines:
            wait_s = max(0.0, deadline - time.monotonic())
            if not self._poll.poll(wait_s * 1000):
                return None
            if not self._fetch():
                raise WorkerEnded(self._status())
        return self._decode(self._lines.popleft())

    def rest(self) -> Iterator[AnyLine]:
        """Lines that an ended worker left behind."""
        while self._lines:
            yield self._decode(self._lines.popleft())

    def kill(self) -> None:
        """Ends the process."""
        self._popen.kill()

    def end(self) -> None:
        """Ends the process and takes in what it left; may be called again."""
        self._popen.kill()
        if self._popen.stdout is None or self._popen.stdout.closed:
            return
        while self._fetch():
            pass
        self._popen.wait()
        self._popen.stdout.close()
        with self._signalling:
            self._hears = False
            self._input.close()

    def _fetch(self) -> bool:
        """Takes in what there is; False at the end. A line without end is cut into lines."""
        chunk = os.read(self._output, _MAX_LINE)
        *whole, self._partial = (self._partial + chunk).split(b"\n")
        self._lines.extend(whole)
        if len(self._partial) > _MAX_LINE:
            self._lines.append(self._partial)
            self._partial = b""
        return bool(chunk)

    def _decode(self, line: bytes) -> AnyLine:
        try:
            return self._decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise WorkerEnded("it sent a line that is none") from error

    def _status(self) -> str:
        try:
            code = self._popen.wait(1)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        return f"exit status {code}"


class BackOff:
    """Growing pauses between attempts."""

    def __init__(self) -> None:
        self._pause_s = _FIRST_BACK_OFF_S

    def next_s(self) -> float:
        """The next pause, in seconds."""
        pause, self._pause_s = self._pause_s, min(self._pause_s * 2, _LONGEST_BACK_OFF_S)
        return pause

    def after(self, process: WorkerProcess) -> float:
        """The pause after `process` failed; the first one again if it had lived for long."""
        if time.monotonic() - process.began > _LONG_LIFE_S:
            self._pause_s = _FIRST_BACK_OFF_S
        return self.next_s()
