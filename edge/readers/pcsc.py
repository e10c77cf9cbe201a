"""PC/SC readers (pcscd), any number of them, each in a process that can be ended.

Promises what edge.readers promises, and: a silent card, a hanging driver or another program's
lock on one reader never stops the others; a card without an outcome after `read_timeout_ms` is
reported unreadable and its worker process ended and started anew; it starts without pcscd and
without readers and recovers by itself, within 10 s, from pcscd started late, ended or started
anew and from readers plugged in and out. Each trouble is logged once.

This process never calls PC/SC: the workers do (edge.readers.pcsc_worker). There is one thread
per worker, and it lives as long as the worker: Linux delivers a parent's death signal when the
*thread* ends that started the child.
"""

import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, assert_never

import msgspec

from edge.readers import (
    CardGone,
    CardRead,
    CardSeen,
    CardUnreadable,
    Down,
    Health,
    ReaderDown,
    ReaderEvent,
    ReaderHealth,
    ReaderUp,
    Sink,
    Unreadable,
)
from edge.readers.pcsc_errors import NO_READERS, NO_SERVICE, Kind, explain, meaning
from edge.readers.pcsc_lines import (
    Alive,
    AnyLine,
    AnyTask,
    Gone,
    Listed,
    ListReaders,
    Read,
    Seen,
    ServeReader,
    Trouble,
    Unread,
    Working,
)
from protocol.credential import Assurance, Credential, InvalidCredentialError

DEFAULT_READ_TIMEOUT_MS: Final = 1000

_WORKER: Final = (sys.executable, "-P", "-m", "edge.readers.pcsc_worker")
_SILENCE_S: Final = 8.0
"""A worker gives a sign of life every two seconds; starting one takes a second on a small Pi."""
_FIRST_BACK_OFF_S: Final = 0.25
_LONGEST_BACK_OFF_S: Final = 4.0
_LONG_LIFE_S: Final = 30.0
_STOP_S: Final = 3.0
_MAX_LINE: Final = 65536

_log = logging.getLogger(__name__)


class PcscReaders:
    """The driver. `worker` is the command line that a task is appended to (for tests)."""

    def __init__(
        self,
        *,
        read_timeout_ms: int = DEFAULT_READ_TIMEOUT_MS,
        worker: Sequence[str] = _WORKER,
    ) -> None:
        self._read_timeout_ms = read_timeout_ms
        self._worker = tuple(worker)
        self._sink: Sink | None = None
        self._sink_lock = threading.Lock()
        self._lock = threading.Lock()
        self._readers: dict[bytes, _Reader] = {}
        self._listing = _Keeper(self._worker)
        self._trouble = "not started"
        self._thread = threading.Thread(target=self._list, name="pcsc-list", daemon=True)

    def start(self, sink: Sink) -> None:
        """Begins to report to `sink`; returns at once."""
        self._sink = sink
        self._thread.start()

    def stop(self) -> None:
        """Ends workers and threads; afterwards the sink is not called any more."""
        with self._sink_lock:
            self._sink = None
        self._listing.stop()
        with self._lock:
            readers = list(self._readers.values())
        for reader in readers:
            reader.stop()
        deadline = time.monotonic() + _STOP_S
        for thread in [self._thread, *(reader.thread for reader in readers)]:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def health(self) -> Health:
        """All readers that PC/SC lists, and what keeps it from listing any."""
        with self._lock:
            readers = tuple(reader.health() for reader in self._readers.values())
            return Health("pcsc", readers, self._trouble)

    def alive(self) -> bool:
        """Whether all threads run that should."""
        with self._lock:
            threads = [self._thread, *(reader.thread for reader in self._readers.values())]
        return all(thread.is_alive() for thread in threads)

    def emit(self, event: ReaderEvent) -> None:
        """Passes `event` to the sink; a defect of the sink is logged and goes no further."""
        with self._sink_lock:
            if self._sink is None:
                return
            try:
                self._sink(event)
            except Exception:  # noqa: BLE001 - not this thread's fault
                _log.exception("an event of a reader could not be passed on")

    def _list(self) -> None:
        back_off = _BackOff()
        while (process := self._listing.begin(ListReaders())) is not None:
            try:
                while (line := process.line(time.monotonic() + _SILENCE_S)) is not None:
                    self._listed(line)
                what = "the listing of readers does not answer"
            except _WorkerEnded as ended:
                what = f"the listing of readers ended ({ended})"
            except Exception as error:  # noqa: BLE001 - else no reader would be seen again
                _log.exception("the listing of readers failed")
                what = f"the listing of readers failed ({error!r})"
            finally:
                process.end()
            if self._listing.stopped:
                return
            self._troubled(f"{what}; it is started anew")
            self._listing.wait(back_off.after(process))

    def _listed(self, line: AnyLine) -> None:
        match line:
            case Listed(names):
                self._troubled("" if names else explain(NO_READERS))
                self._keep_only(names)
            case Trouble(code, during):
                self._troubled(f"{during}: {explain(code)}")
            case _:
                pass

    def _troubled(self, trouble: str) -> None:
        with self._lock:
            known, self._trouble = self._trouble, trouble
        if trouble and trouble != known:
            _log.warning("%s", trouble)

    def _keep_only(self, names: Sequence[bytes]) -> None:
        with self._lock:
            left = [name for name in self._readers if name not in names]
            retired = [self._readers.pop(name) for name in left]
        for reader in retired:
            reader.stop()
            reader.thread.join(_STOP_S)
        with self._lock:
            if self._listing.stopped:
                return
            for name in names:
                if name not in self._readers:
                    self._readers[name] = _Reader(self, name, self._worker, self._read_timeout_ms)
                    self._readers[name].thread.start()


class _Reader:
    """One reader: turns its worker's lines into events that keep the contract's order."""

    def __init__(
        self, readers: PcscReaders, name: bytes, worker: Sequence[str], read_timeout_ms: int
    ) -> None:
        self._emit = readers.emit
        self._name_bytes = name
        self._name = os.fsdecode(name)
        self._read_timeout_ms = read_timeout_ms
        self._keeper = _Keeper(worker)
        self._up = False
        self._trouble = "starting"
        self._logged = ""
        self._counter: int | None = None  # what the worker's successor has to know
        self._card = False
        self._present: int | None = None  # generation told by CardSeen and not yet by CardGone
        self._open: Seen | None = None  # CardSeen without an outcome
        self._deadline = 0.0
        self.thread = threading.Thread(target=self._run, name=f"pcsc {self._name}", daemon=True)

    def stop(self) -> None:
        self._keeper.stop()

    def health(self) -> ReaderHealth:
        return ReaderHealth(self._name, self._up, "" if self._up else self._trouble)

    def _run(self) -> None:
        back_off = _BackOff()
        while True:
            task = ServeReader(
                self._name_bytes, self._read_timeout_ms * 7 // 10, self._counter, self._card
            )
            process = self._keeper.begin(task)
            if process is None:
                break
            try:
                down, what = self._follow(process)
            except _WorkerEnded as ended:
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
        self._down(Down.UNPLUGGED, explain(NO_READERS))

    def _follow(self, process: "_Process") -> tuple[Down | None, str]:
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
            case Trouble(code, during):
                self._counter, self._card = None, False
                self._down(_down(code), f"{during}: {explain(code)}")
            case Seen(generation, boottime_ms):
                self._unread(Unreadable.BAD_ANSWER)
                self._gone()
                self._counter, self._card = generation, True
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
            case Listed():
                raise _WorkerEnded("it sent a line that is not its to send")
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


def _down(code: int) -> Down:
    if code == NO_SERVICE:
        return Down.NO_SERVICE
    match meaning(code).kind:
        case Kind.SERVICE:
            return Down.NO_SERVICE
        case Kind.READER:
            return Down.UNPLUGGED
        case Kind.TIME_OUT | Kind.REMOVED | Kind.BUSY | Kind.AGAIN | Kind.OTHER:
            return Down.FAILED


class _WorkerEnded(Exception):  # noqa: N818 - an expected event
    """The worker process is gone, or sent what no worker sends."""


class _Keeper:
    """At most one worker process at a time, and the means to end it from another thread."""

    def __init__(self, worker: Sequence[str]) -> None:
        self._worker = tuple(worker)
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._stopped = threading.Event()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def begin(self, task: AnyTask) -> "_Process | None":
        """A worker doing `task`, started by the calling thread; None once stopped.

        While the system refuses to start a process, it waits and tries again.
        """
        back_off = _BackOff()
        while True:
            with self._lock:
                if self.stopped:
                    return None
                try:
                    self._process = _Process([*self._worker, msgspec.json.encode(task).decode()])
                except OSError as error:
                    _log.error("a worker process cannot be started: %s", error)
                else:
                    return self._process
            self.wait(back_off.next_s())

    def stop(self) -> None:
        self._stopped.set()
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def wait(self, seconds: float) -> None:
        self._stopped.wait(seconds)


class _Process:
    """A running worker and the lines that it sends."""

    def __init__(self, command: list[str]) -> None:
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.began = time.monotonic()
        assert self._popen.stdout is not None  # noqa: S101 - it is a pipe
        self._output = self._popen.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._decoder: msgspec.json.Decoder[AnyLine] = msgspec.json.Decoder(AnyLine)
        self._lines: deque[bytes] = deque()
        self._partial = b""

    def line(self, deadline: float) -> AnyLine | None:
        """The next line; None when there is none by `deadline` (monotonic, seconds).

        What has already arrived is given also after the deadline. _WorkerEnded at the end, and at
        a line that is none.
        """
        while not self._lines:
            wait_s = max(0.0, deadline - time.monotonic())
            if not self._poll.poll(wait_s * 1000):
                return None
            if not self._fetch():
                raise _WorkerEnded(self._status())
        return self._decode(self._lines.popleft())

    def rest(self) -> Iterator[AnyLine]:
        """Lines that an ended worker left behind."""
        while self._lines:
            yield self._decode(self._lines.popleft())

    def kill(self) -> None:
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
        if self._popen.stdin is not None:
            self._popen.stdin.close()

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
            raise _WorkerEnded("it sent a line that is none") from error

    def _status(self) -> str:
        try:
            code = self._popen.wait(1)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        return f"exit status {code}"


class _BackOff:
    """Growing pauses between attempts."""

    def __init__(self) -> None:
        self._pause_s = _FIRST_BACK_OFF_S

    def next_s(self) -> float:
        pause, self._pause_s = self._pause_s, min(self._pause_s * 2, _LONGEST_BACK_OFF_S)
        return pause

    def after(self, process: _Process) -> float:
        """The pause after `process` failed; the first one again if it had lived for long."""
        if time.monotonic() - process.began > _LONG_LIFE_S:
            self._pause_s = _FIRST_BACK_OFF_S
        return self.next_s()
