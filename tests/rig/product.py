"""The product's own commands as child processes: a hub, and edges whose lights are kept.

`Edge` reads what the daemon writes to its console and keeps it, so that what was acknowledged is
known outside of the process that may be killed at any moment.
"""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from tests.rig.processes import Child, NotReadyError, find_program, free_port, wait_for

PASSWORD = "correct horse battery"
PROGRAMS = Path(sys.executable).parent
_FILLER = b"~\n"
_F_SETPIPE_SZ = 1031


class CommandError(Exception):
    """A command of the product did not succeed; the message holds what it printed."""


def run(program: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Standard output of a command that must succeed; CommandError otherwise."""
    done = subprocess.run(
        [PROGRAMS / program, *arguments],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise CommandError(
            f"{program} {' '.join(arguments)}: status {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


class Hub:
    """`shuaka-hub` with its data in `directory`; `database` is a URL (default: SQLite there)."""

    def __init__(
        self,
        directory: Path,
        mqtt: str,
        database: str = "",
        edge_mqtt: str = "",
        broker_dir: str = "",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = directory / "hub.toml"
        self.database = database or f"sqlite:///{directory / 'data' / 'hub.db'}"
        self.config.write_text(
            f'data = "data"\n'
            f'database = "{self.database}"\n'
            f'mqtt = "{mqtt}"\n'
            f'edge_mqtt = "{edge_mqtt}"\n'
            f'broker_dir = "{broker_dir}"\n'
            f'listen = "127.0.0.1:{self.port}"\n',
            encoding="utf-8",
        )
        self._child: Child | None = None

    def command(self, *arguments: str) -> str:
        """What `shuaka-hub …` prints."""
        return run("shuaka-hub", *arguments, env={"SHUAKA_HUB_CONFIG": str(self.config)})

    def account(self, login: str, role: str, organisation: str, *more: str) -> str:
        """Makes an account; gives its first password, which is replaced at the first sign-in."""
        account = ("account", "add", login, "--name", login, "--role", role)
        return self.command(*account, "--org", organisation, *more).strip()

    def sign_in(self, client: httpx.Client, login: str, first: str) -> None:
        """Signs `client` in by a first password, and replaces it with PASSWORD."""
        for path, form in (
            ("/sign-in", {"login": login, "password": first}),
            ("/password", {"old": first, "new": PASSWORD, "again": PASSWORD}),
        ):
            response = client.post(f"{self.url}{path}", data=form)
            if response.status_code != 303:
                raise NotReadyError(f"POST {path}: status {response.status_code}")

    @property
    def child(self) -> Child:
        if self._child is None:
            raise RuntimeError("the hub is not started")
        return self._child

    def start(self, *, wait: bool = True) -> Self:
        """Starts `serve`; with `wait`, returns when it is healthy (broker included)."""
        self._child = Child(
            [PROGRAMS / "shuaka-hub", "serve", "--config", self.config],
            log=self.directory / "hub.log",
        )
        if wait:
            self._child.wait_until(self.healthy, "a healthy hub", timeout_s=30)
        return self

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/health", timeout=2) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def stop(self) -> int:
        """SIGTERM; gives the exit status."""
        status = self.child.stop()
        self._child = None
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@dataclass(frozen=True, slots=True)
class Light:
    """A line that the daemon showed, and time.monotonic_ns() when it was read here."""

    line: str
    at_ns: int

    @property
    def recorded(self) -> bool:
        """Whether it tells a member that the tap is durable: green, neutral or amber."""
        return any(f" {colour} " in self.line for colour in ("绿", "白", "黄")) and not (
            self.standing or "已记录过" in self.line
        )

    @property
    def standing(self) -> bool:
        """Whether it says how the device is, and not what became of a card."""
        return any(
            words in self.line for words in ("请刷党员卡", "刷卡确认", "未连接", "未登记", "U盘")
        )


class Edge:
    """`shuaka-edge` with its data in `directory`, on the pcscd that `env` names."""

    def __init__(
        self,
        directory: Path,
        env: Mapping[str, str],
        mqtt: str = "",
        debounce_ms: int = 3000,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.env = env
        self.config = directory / "edge.toml"
        self.config.write_text(
            '[edge]\ndata = "data"\n'
            f"[readers]\ndebounce_ms = {debounce_ms}\n"
            # the host keeps this machine's clock, and does not tell the kernel
            '[clock]\ntrust = "always"\n' + (f'[mqtt]\nurl = "{mqtt}"\n' if mqtt else ""),
            encoding="utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._lights: list[Light] = []
        self._reading = threading.Lock()
        self._thread: threading.Thread | None = None
        self._write_end = -1

    @property
    def journal(self) -> Path:
        return self.directory / "data" / "journal.db"

    @property
    def lights(self) -> tuple[Light, ...]:
        """Everything shown so far, by every start of the daemon."""
        return tuple(self._lights)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the edge is not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def command(self, *arguments: str) -> str:
        """What `shuaka-edge … --config` prints."""
        return run("shuaka-edge", *arguments, "--config", str(self.config), env=self.env)

    def enrol(self, hub_url: str, code: str) -> None:
        self.command("enrol", "--hub", hub_url, "--code", code)

    def start(self, *, wait: bool = True) -> Self:
        """Starts `run`; with `wait`, returns once it shows that a card may be tapped."""
        read_end, self._write_end = os.pipe()
        fcntl.fcntl(self._write_end, _F_SETPIPE_SZ, 4096)
        before = len(self._lights)
        with (self.directory / "edge.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    find_program("setpriv", "util-linux"),
                    *("--pdeathsig", "KILL", "--"),
                    *(PROGRAMS / "shuaka-edge", "run", "--config", self.config),
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._write_end,
                stderr=log,
                env={**os.environ, **self.env},
                process_group=0,
            )
        self._thread = threading.Thread(target=self._read, args=(read_end,), daemon=True)
        self._thread.start()
        if wait:
            self.wait_line("请刷党员卡", since=before, timeout_s=20)
        return self

    def wait_line(self, words: str, since: int = 0, timeout_s: float = 10) -> Light:
        """The first line with `words` among those shown after the first `since`."""

        def found() -> bool:
            if self._process is not None and not self.running:
                raise NotReadyError(f"the edge ended before it showed {words!r}: {self.log_tail()}")
            return any(words in light.line for light in self._lights[since:])

        wait_for(found, f"light {words!r}", timeout_s)
        return next(light for light in self._lights[since:] if words in light.line)

    def wait_recorded(self, since: int, timeout_s: float = 10) -> Light:
        """The first light that acknowledges a tap, after the first `since` lines."""
        wait_for(
            lambda: any(light.recorded for light in self._lights[since:]),
            "a light that says recorded",
            timeout_s,
        )
        return next(light for light in self._lights[since:] if light.recorded)

    def stall_console(self) -> None:
        """From now on the daemon's console takes no more: a light can't be seen until a kill."""
        self._reading.acquire()
        os.set_blocking(self._write_end, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self._write_end, _FILLER)
        os.set_blocking(self._write_end, True)

    def kill(self) -> None:
        """SIGKILL to the daemon and its workers; then everything it wrote has been read."""
        self._end(signal.SIGKILL)

    def stop(self, timeout_s: float = 15) -> int:
        """SIGTERM to the daemon; gives the exit status."""
        return self._end(signal.SIGTERM, timeout_s)

    def log_tail(self, lines: int = 20) -> str:
        path = self.directory / "edge.log"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()

    def _end(self, number: signal.Signals, timeout_s: float = 0) -> int:
        process = self._process
        if process is None:
            return 0
        if number == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        else:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout_s)
        status = process.wait() if number == signal.SIGKILL else process.poll()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait() if status is None else status
        if self._reading.locked():
            self._reading.release()
        os.close(self._write_end)
        if self._thread is not None:
            self._thread.join()
        self._process = None
        return status

    def _read(self, read_end: int) -> None:
        rest = b""
        with os.fdopen(read_end, "rb", buffering=0) as pipe:
            while True:
                select.select([pipe], [], [])
                with self._reading:
                    chunk = pipe.read(4096)
                if not chunk:
                    return
                *lines, rest = (rest + chunk).split(b"\n")
                now = time.monotonic_ns()
                self._lights += [
                    Light(line.decode(), now) for line in lines if line and line + b"\n" != _FILLER
                ]
