"""A private pcscd whose readers are vsmartcard-vpcd's: real daemon, real driver, virtual cards.

It runs without systemd and as any user: the listening socket is made here and handed over the way
systemd does (sd_listen_fds(3)), so the machine's own daemon keeps its socket.

With `handler=True` each entry is a reader of the rig's own driver (tests/rig/ifd/ifd.c, built here)
around libifdvpcd: it notices cards as fast as USB readers do, can be unplugged, and takes escape
commands.

Two things it cannot keep apart: the pid file /run/pcscd/pcscd.pid is a fixed path in pcscd, written
and removed where this user may; and Debian 12's pcscd also finds a USB reader that is plugged in
(newer ones are told to look for none).
"""

import contextlib
import functools
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.rig.cards import POLL_GAP_S
from tests.rig.processes import (
    Child,
    MissingProgramError,
    Server,
    find_program,
    free_port,
    private_dir,
    wait_for,
)

_HANDLER_SOURCE: Final = Path(__file__).parent / "ifd" / "ifd.c"
_HEADERS: Final = Path("/usr/include/PCSC")

# pcscd has room for 16 readers, and each vpcd entry opens two.
_MOST_SLOTS = 8


class Pcscd(Server):
    """pcscd in directory `directory` with `slots` reader entries.

    Each entry has its own copy of the driver (entries that share one library answer for each other)
    and two adjacent ports, of which the rig uses the first; the second is a reader with no card.
    `ports[i]` is where `VirtualReader` connects for `reader_names[i]`. `names` names the first
    entries: "ACS ACR122U" becomes "ACS ACR122U 00 00".

    With `handler`, there is no second reader; `unplug`, `replug` and what concerns escape commands
    need it. It writes each escape command of entry i (SCardControl with code 0x42000001 or
    0x42000DAC) as a line of lower-case hex into `folders[i] / "escapes"` and answers 90 00.
    """

    def __init__(
        self,
        directory: Path,
        slots: int = 1,
        *,
        handler: bool = False,
        names: Sequence[str] = (),
    ) -> None:
        if not 1 <= slots <= _MOST_SLOTS:
            raise ValueError(f"slots must be 1 to {_MOST_SLOTS}, not {slots}")
        self.directory = directory
        self.socket_path = directory / "pcscd.sock"
        if len(bytes(self.socket_path)) > 107:
            raise ValueError(f"{self.socket_path} is too long for a Unix socket (107 bytes)")
        self.log = directory / "pcscd.log"
        self.ports = tuple(free_port(2) for _ in range(slots))
        friendly = [*names, *(f"Rig {index}" for index in range(len(names), slots))]
        self.reader_names = tuple(f"{name} 00 00" for name in friendly)
        self.handler = handler
        self.gap_s = 0.0 if handler else POLL_GAP_S
        """How long a field must be empty so that a card's leaving is noticed."""
        self.folders = tuple(directory / f"entry-{index}" for index in range(slots))
        driver = _driver()
        self._no_drivers = directory / "no-usb-drivers"
        self._no_drivers.mkdir(parents=True, exist_ok=True)
        self._conf = directory / "reader.conf.d"
        self._conf.mkdir(parents=True, exist_ok=True)
        for index, port in enumerate(self.ports):
            folder = self.folders[index]
            folder.mkdir()
            library, device = folder / "libifdvpcd.so", "/dev/null"
            shutil.copyfile(driver, library)
            if handler:
                library, device = folder / "ifd.so", str(folder)
                library.write_bytes(_built_handler())
            (self._conf / f"rig-{index}").write_text(
                f'FRIENDLYNAME "{friendly[index]}"\n'
                f"DEVICENAME {device}:{port:#x}\n"
                f"LIBPATH {library}\n"
                f"CHANNELID {port:#x}\n",
                encoding="utf-8",
            )

    @property
    def env(self) -> dict[str, str]:
        """What a PC/SC client needs in its environment (read once per process by libpcsclite)."""
        return {"PCSCLITE_CSOCK_NAME": str(self.socket_path)}

    def unplug(self, slot: int = 0) -> None:
        """Takes the reader away, and the card with it.

        pcscd reports it as unavailable, and goes on listing it until it is started anew: readers of
        reader.conf never leave its list.
        """
        self._needs_handler()
        (self.folders[slot] / "unplugged").touch()

    def replug(self, slot: int = 0) -> None:
        """Brings the reader back."""
        self._needs_handler()
        (self.folders[slot] / "unplugged").unlink(missing_ok=True)

    def escapes(self, slot: int = 0) -> list[bytes]:
        """The escape commands that this reader was given so far, in order."""
        self._needs_handler()
        log = self.folders[slot] / "escapes"
        lines = log.read_text(encoding="ascii").splitlines() if log.exists() else []
        return [bytes.fromhex(line) for line in lines]

    def delay_escapes(self, slot: int, ms: int) -> None:
        """From now on each escape command takes `ms`."""
        self._needs_handler()
        (self.folders[slot] / "escape-delay").write_text(f"{ms}\n", encoding="ascii")

    def fail_escapes(self, slot: int, fails: bool) -> None:
        """From now on escape commands fail (they are written down all the same), or do not."""
        self._needs_handler()
        mark = self.folders[slot] / "escape-fails"
        if fails:
            mark.touch()
        else:
            mark.unlink(missing_ok=True)

    def _needs_handler(self) -> None:
        if not self.handler:
            raise RuntimeError("only the rig's own driver does this: Pcscd(…, handler=True)")

    def _launch(self) -> Child:
        program = find_program("pcscd", "pcscd")
        with contextlib.suppress(PermissionError):
            Path("/run/pcscd").mkdir(mode=0o755, exist_ok=True)
        options = ["--foreground", "--config", str(self._conf)]
        if "--disable-polkit" in _help(program):
            options.append("--disable-polkit")
        # The daemon wants its socket as descriptor 3 and its own pid in LISTEN_PID; only the shell
        # that becomes the daemon knows that pid.
        script = 'exec 3<&0 </dev/null; LISTEN_PID=$$; export LISTEN_PID; exec "$@"'
        self.socket_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(self.socket_path))
            self.socket_path.chmod(0o666)
            listener.listen(16)
            return Child(
                ["/bin/sh", "-c", script, "pcscd", program, *options],
                log=self.log,
                env={"LISTEN_FDS": "1", "PCSCLITE_HP_DROPDIR": str(self._no_drivers)},
                stdin=listener.fileno(),
            )

    def _is_ready(self) -> bool:
        """Whether it listens for cards on every slot."""
        return all(
            _listens(port) or (folder / "unplugged").exists()
            for port, folder in zip(self.ports, self.folders, strict=True)
        )

    def stop(self) -> None:
        """Ends it in good order; its socket file goes, as with a stopped service.

        A kill leaves the file behind, and nobody listens on it.
        """
        super().stop()
        self.socket_path.unlink(missing_ok=True)

    def restart(self) -> None:
        """A new daemon on the same socket path and the same ports."""
        self.stop()
        # The old daemon's listeners go with it, at the latest when its last thread has ended.
        wait_for(
            lambda: not any(_listens(port) for port in self.ports), "free virtual reader ports"
        )
        self.start()


def _driver() -> Path:
    """libifdvpcd.so, wherever this release's package put it."""
    listing = subprocess.run(
        [find_program("dpkg", "dpkg"), "-L", "vsmartcard-vpcd"],
        capture_output=True,
        text=True,
        check=False,
        env={"LC_ALL": "C.UTF-8"},
    )
    for line in listing.stdout.splitlines():
        if line.endswith("/libifdvpcd.so") and Path(line).exists():
            return Path(line)
    raise MissingProgramError("the reader driver libifdvpcd.so", "vsmartcard-vpcd")


@functools.cache
def _built_handler() -> bytes:
    """The rig's own driver, compiled."""
    if not (_HEADERS / "ifdhandler.h").exists():
        raise MissingProgramError("ifdhandler.h", "libpcsclite-dev")
    warnings = ("-Wall", "-Wextra", "-Werror")
    options = (*warnings, "-std=c11", "-O1", "-fPIC", "-shared", f"-I{_HEADERS}")
    with private_dir() as directory:
        library = directory / "ifd.so"
        subprocess.run(
            [find_program("gcc", "gcc"), *options, "-o", library, _HANDLER_SOURCE], check=True
        )
        return library.read_bytes()


def _help(program: str) -> str:
    answer = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    return answer.stdout + answer.stderr


def _listens(port: int) -> bool:
    """Whether a socket listens on `port`; from the kernel's table, since a connection is a card."""
    wanted = f":{port:04X}"
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(wanted) and fields[3] == "0A":
            return True
    return False
