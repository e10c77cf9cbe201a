"""A private PostgreSQL on loopback, with a plain role for the hub, which is no superuser.

Its data lies in a temporary directory of its own, since as root the server runs as user postgres,
who must be able to reach it. Authentication is `trust`: loopback and tests only.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar, Final, Self

import psycopg

from tests.rig.processes import (
    Child,
    MissingProgramError,
    NotReadyError,
    Server,
    find_program,
    free_port,
)

HUB_ROLE: Final = "shuaka"
_ADMIN: Final = "postgres"


class Postgres(Server):
    """PostgreSQL on 127.0.0.1:`port`.

    `fsync=False` is for tests that do not ask about power cuts. A stop is a fast shutdown: sessions
    are ended, data is synced.
    """

    ready_s: ClassVar[float] = 30
    stop_s: ClassVar[float] = 30
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(self, directory: Path, *, fsync: bool = True) -> None:
        self.directory = directory
        self.log = directory / "postgres.log"
        self.port = free_port()
        self._fsync = fsync
        self._data: Path | None = None
        self._user = "postgres" if os.geteuid() == 0 else None
        directory.mkdir(parents=True, exist_ok=True)

    def start(self) -> Self:
        """Starts it, the first time with a fresh cluster; returns when it answers a query."""
        is_fresh = self._data is None
        super().start()
        if is_fresh:
            self._run(
                f"CREATE ROLE {HUB_ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"
            )
        return self

    def _launch(self) -> Child:
        if self._data is None:
            self._data = self._create_cluster()
        switch = "on" if self._fsync else "off"
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._data),
            "fsync": switch,
            "full_page_writes": switch,
            "max_connections": "60",
            "shared_buffers": "32MB",
            "log_line_prefix": "%m [%p] ",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        # An immediate shutdown, should we die: SIGKILL would leave its processes to find out alone.
        return Child(
            [_binaries() / "postgres", "-D", self._data, *options],
            log=self.log,
            cwd=self._data,
            user=self._user,
            death_signal="QUIT",
        )

    def _is_ready(self) -> bool:
        try:
            self._run("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self) -> str:
        """A fresh, empty database owned by the plain role, as a SQLAlchemy URL."""
        name = f"shuaka_{secrets.token_hex(6)}"
        self._run(f"CREATE DATABASE {name} OWNER {HUB_ROLE}")
        return f"postgresql+psycopg://{HUB_ROLE}@127.0.0.1:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        """Removes a database that `create_database` gave, whoever is still connected."""
        self._run(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" WITH (FORCE)')

    def kill(self) -> None:
        """SIGKILL to the server and every session process."""
        if self._child is None:
            return
        pid = self._child.pid
        with contextlib.suppress(OSError):
            sessions = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
            self._child.send(signal.SIGSTOP)
            for session in sessions:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(session), signal.SIGKILL)
        self._child.kill()
        self._child = None

    def close(self) -> None:
        """Stops it and removes its data."""
        self.stop()
        if self._data is not None:
            shutil.rmtree(self._data, ignore_errors=True)
            self._data = None

    def _create_cluster(self) -> Path:
        data = Path(tempfile.mkdtemp(prefix="shuaka-pg-"))
        command = [
            str(_binaries() / "initdb"),
            "--pgdata",
            str(data),
            f"--username={_ADMIN}",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            *([] if self._fsync else ["--no-sync"]),
        ]
        if self._user is not None:
            shutil.chown(data, self._user, self._user)
            setpriv = find_program("setpriv", "util-linux")
            who = ["--reuid", self._user, "--regid", self._user, "--init-groups"]
            command = [setpriv, *who, "--", *command]
        done = subprocess.run(command, cwd=data, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(data, ignore_errors=True)
            raise NotReadyError(f"initdb failed:\n{done.stdout}{done.stderr}")
        return data

    def _run(self, statement: str) -> None:
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user=_ADMIN, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement.encode())


def _binaries() -> Path:
    """The newest installed server's directory: Debian keeps it out of PATH."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not found:
        raise MissingProgramError("the PostgreSQL server", "postgresql")
    return max(found, key=lambda path: int(path.parent.name))
