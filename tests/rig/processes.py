"""Child processes that cannot be left behind, and waiting for them with a reason when it fails.

A child gets a process group of its own (Ctrl-C reaches the parent alone), its output goes to a
file, and the kernel kills it when the parent goes (PR_SET_PDEATHSIG, by util-linux's setpriv). The
kernel means the *thread* that started the child: start children from a thread that lives on.
"""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

_SYSTEM_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")


class MissingProgramError(Exception):
    """A program or driver that the rig needs is not installed."""

    def __init__(self, what: str, package: str) -> None:
        super().__init__(f"{what} is not installed (Debian package {package}): run bin/setup test")


class NotReadyError(Exception):
    """A child ended or missed its deadline before it was ready; the message ends with its log."""


class Child:
    """A running child process. Its standard output and error are appended to `log`.

    `env` is laid over this process's environment; None as a value removes the variable.
    `user` changes to that user first (root only). `stdin` becomes descriptor 0.
    """

    def __init__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        log: Path,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        stdin: int | None = None,
        user: str | None = None,
        death_signal: str = "KILL",
    ) -> None:
        self.argv = [os.fspath(part) for part in argv]
        self.log = log
        environment = dict(os.environ)
        for name, value in (env or {}).items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        launcher = [find_program("setpriv", "util-linux"), "--pdeathsig", death_signal]
        if user is not None:
            launcher += ["--reuid", user, "--regid", user, "--init-groups"]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*launcher, "--", *self.argv],
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                process_group=0,
            )

    @property
    def pid(self) -> int:
        """The process id (setpriv executes the program in place)."""
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """The exit status, once it has ended. Raises NotReadyError after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise NotReadyError(self._report(f"still runs after {timeout_s} s")) from None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process itself; nothing happens if it has ended."""
        self._process.send_signal(number)

    def stop(self, timeout_s: float = 10, number: signal.Signals = signal.SIGTERM) -> int:
        """Asks it to end; after `timeout_s` kills the group. Gives the exit status."""
        self.send(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.kill()

    def kill(self) -> int:
        """SIGKILL to the whole process group, also when the leader has ended; reaps the child."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def log_tail(self, lines: int = 20) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def wait_until(self, ready: Callable[[], bool], what: str, timeout_s: float = 10) -> None:
        """Returns once `ready()` is true; NotReadyError if it ends or `timeout_s` passes first."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise NotReadyError(self._report(f"ended with {self.returncode} before {what}"))
            if time.monotonic() > deadline:
                raise NotReadyError(self._report(f"after {timeout_s} s still no {what}"))
            time.sleep(0.01)

    def _report(self, what: str) -> str:
        return f"{' '.join(self.argv)}: {what}; its log {self.log} ends:\n{self.log_tail()}"


class Server(ABC):
    """A server of the rig: a child that can be started, ended in two ways, and started again."""

    directory: Path
    log: Path
    ready_s: ClassVar[float] = 10
    stop_s: ClassVar[float] = 10
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    _child: Child | None = None

    @abstractmethod
    def _launch(self) -> Child:
        """The child, just started."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether it can be used by now."""

    @property
    def child(self) -> Child:
        """The running server."""
        if self._child is None:
            raise RuntimeError(f"{type(self).__name__} is not started")
        return self._child

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def start(self) -> Self:
        """Starts it; returns when it can be used. Does nothing where it runs."""
        if self.running:
            return self
        child = self._launch()
        try:
            child.wait_until(self._is_ready, f"{type(self).__name__} that is ready", self.ready_s)
        except BaseException:
            child.kill()
            raise
        self._child = child
        return self

    def stop(self) -> None:
        """Ends it in good order."""
        if self._child is not None:
            self._child.stop(self.stop_s, self.stop_signal)
            self._child = None

    def kill(self) -> None:
        """SIGKILL to all of it."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def restart(self) -> None:
        """Stops it and starts it, in the same place."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Ends it for good."""
        self.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_for(ready: Callable[[], bool], what: str, timeout_s: float = 10) -> None:
    """Polls `ready` each 10 ms until it is true; NotReadyError naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise NotReadyError(f"after {timeout_s} s still no {what}")
        time.sleep(0.01)


def find_program(name: str, package: str) -> str:
    """The path of a program, also where /usr/sbin is not in PATH."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(_SYSTEM_PATH))
    if found is None:
        raise MissingProgramError(name, package)
    return found


def free_port(count: int = 1) -> int:
    """The first of `count` consecutive TCP ports that nobody listens on now, on any address.

    They lie below the kernel's ephemeral range, so that no outgoing connection takes one meanwhile.
    """
    low = 20000 + (os.getpid() * 37) % 9000
    for first in itertools.chain(range(low, 32000 - count), range(20000, low)):
        ports = range(first, first + count)
        if all(_is_free(port) for port in ports):
            _given.update(ports)
            return first
    raise NotReadyError("no free TCP port between 20000 and 32000")


_given: set[int] = set()


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: a connection of an earlier server that is still in TIME_WAIT is no bar.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return port not in _given


def accepts(port: int) -> bool:
    """Whether something accepts TCP connections on 127.0.0.1:`port`."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def private_dir() -> Iterator[Path]:
    """A fresh directory, removed afterwards, whose path is short enough for Unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="shuaka-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
