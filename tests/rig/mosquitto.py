"""A private mosquitto on loopback. It keeps nothing on disk: a stop or kill loses all its state."""

import os
import pwd
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig.processes import Child, accepts, find_program, free_port


class Mosquitto:
    """mosquitto on 127.0.0.1:`port`, open to anyone there; `extra` lines end its configuration."""

    def __init__(self, directory: Path, extra: Sequence[str] = ()) -> None:
        self.directory = directory
        self.log = directory / "mosquitto.log"
        self.port = free_port()
        self._child: Child | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self._config = directory / "mosquitto.conf"
        self._config.write_text(
            "\n".join(
                [
                    f"listener {self.port} 127.0.0.1",
                    "allow_anonymous true",
                    "persistence false",
                    "set_tcp_nodelay true",
                    "max_packet_size 131072",
                    "log_dest stdout",
                    "log_timestamp_format %Y-%m-%dT%H:%M:%S",
                    # Started as root it would change to a user who cannot read this directory.
                    f"user {pwd.getpwuid(os.geteuid()).pw_name}",
                    *extra,
                    "",
                ]
            ),
            encoding="utf-8",
        )

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def child(self) -> Child:
        """The running broker."""
        if self._child is None:
            raise RuntimeError("mosquitto is not started")
        return self._child

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def start(self) -> Self:
        """Starts it; returns when it accepts connections."""
        if self.running:
            return self
        program = find_program("mosquitto", "mosquitto")
        self._child = Child([program, "-c", self._config], log=self.log)
        try:
            self._child.wait_until(lambda: accepts(self.port), f"broker on port {self.port}")
        except BaseException:
            self._child.kill()
            raise
        return self

    def stop(self) -> None:
        """Ends it in good order."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def kill(self) -> None:
        """SIGKILL: connections are reset, sessions and queues are gone."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def restart(self) -> None:
        """A new broker with no memory, on the same port."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
