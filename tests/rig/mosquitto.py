"""A private mosquitto on loopback. It keeps nothing on disk: a stop or kill loses all its state."""

import os
import pwd
from collections.abc import Sequence
from pathlib import Path

from tests.rig.processes import Child, Server, accepts, find_program, free_port


class Mosquitto(Server):
    """mosquitto on 127.0.0.1:`port`, open to anyone there; `extra` lines end its configuration."""

    def __init__(self, directory: Path, extra: Sequence[str] = ()) -> None:
        self.directory = directory
        self.log = directory / "mosquitto.log"
        self.port = free_port()
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

    def _launch(self) -> Child:
        program = find_program("mosquitto", "mosquitto")
        return Child([program, "-c", self._config], log=self.log)

    def _is_ready(self) -> bool:
        return accepts(self.port)


class SecureMosquitto(Server):
    """mosquitto by the folder that `shuaka-hub broker` writes, at `port`; the hub's is another."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.folder = directory / "broker"
        self.log = directory / "mosquitto.log"
        self.pid_file = directory / "mosquitto.pid"
        self.port, self.hub_port = free_port(), free_port()
        self._config = directory / "run.conf"
        self._config.write_text(
            "\n".join(
                [
                    f"user {pwd.getpwuid(os.geteuid()).pw_name}",
                    "log_dest stdout",
                    "log_timestamp_format %Y-%m-%dT%H:%M:%S",
                    f"include_dir {self.folder}",
                    "",
                ]
            ),
            encoding="utf-8",
        )

    def options(self, *hosts: str) -> list[str]:
        """What `shuaka-hub broker` is to be told."""
        named = [word for host in hosts for word in ("--host", host)]
        ports = ["--port", str(self.port), "--hub-port", str(self.hub_port)]
        return [str(self.folder), *named, *ports, "--pid-file", str(self.pid_file)]

    @property
    def url(self) -> str:
        return f"mqtts://127.0.0.1:{self.port}"

    @property
    def hub_url(self) -> str:
        return f"mqtts://127.0.0.1:{self.hub_port}"

    def _launch(self) -> Child:
        program = find_program("mosquitto", "mosquitto")
        return Child([program, "-c", self._config], log=self.log)

    def _is_ready(self) -> bool:
        return accepts(self.port) and self.pid_file.exists()
