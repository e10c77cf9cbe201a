"""The way from a command on the device to the running daemon: a Unix socket beside the journal.

One JSON line asks (`{"act": "witness", "member": "M-1"}`), lines answer (`edge.acts.Answer`), the
last of which says `recorded`, `refused` or `unknown`. Whoever hangs up, or ends its side, has
cancelled. `{"act": "statement"}` is answered by how far the journal is whole, for an export. The
socket's folder and its mode (0600) let in nobody but the daemon's own user and root.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol, Self

import msgspec

from edge.acts import (
    WAIT_MS,
    Answer,
    InvalidWishError,
    Last,
    Refused,
    Tell,
    Why,
    Wish,
)
from edge.couriers import JournalState
from protocol.credential import InvalidCredentialError, member_credential
from protocol.journal import Act

SOCKET_NAME: Final = "act.sock"
MAX_LINE_BYTES: Final = 4096
MAX_CONNECTIONS: Final = 8
REQUEST_S: Final = 5.0
ANSWER_S: Final = WAIT_MS / 1000 + 15
"""How long an answer may take: the wait for a card, and a storage that is slow."""
STATEMENT_S: Final = 10.0
MAX_STATEMENT_BYTES: Final = 32 << 10
TRY_AGAIN_S: Final = 5.0
TICK_S: Final = 0.2

VERBS: Final = {
    "open": Act.OPENED,
    "close": Act.CLOSED,
    "head-count": Act.HEAD_COUNT,
    "witness": Act.WITNESSED,
}

log = logging.getLogger(__name__)


class ActError(Exception):
    """Why nothing was recorded, or why it is not known whether it was; and what to do."""


class _Request(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    act: str
    number: int | None = None
    member: str | None = None


class Takes(Protocol):
    """Whoever records what is asked: the recorder."""

    def ask(self, wish: Wish, tell: Tell) -> Callable[[], None]: ...


class ActServer:
    """Takes commands while the daemon records; a socket that cannot be made is tried again."""

    def __init__(
        self,
        data: Path,
        recorder: Takes,
        statement: Callable[[], JournalState | None] = lambda: None,
    ) -> None:
        self._data = data
        self._recorder = recorder
        self._statement = statement
        self._stopping = threading.Event()
        self._tried = threading.Event()
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._run, name="acts", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._tried.wait(1)

    def stop(self) -> None:
        """Stop the recorder first: it tells whoever waits that nothing was recorded."""
        self._stopping.set()
        self._thread.join(timeout=2)
        for conn in tuple(self._open):
            with suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        trouble = ""
        while not self._stopping.is_set():
            try:
                with _folder(self._data) as folder, _listener(folder) as listener:
                    self._tried.set()
                    trouble = ""
                    self._accept(listener)
            except OSError as error:
                if str(error) != trouble:
                    log.error("no command can be taken: %s", error)  # noqa: TRY400
                trouble = str(error)
            except Exception:
                log.exception("commands cannot be taken, and will be again")
            self._tried.set()
            if not self._stopping.is_set():
                self._stopping.wait(TRY_AGAIN_S)

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                conn, _ = listener.accept()
            except TimeoutError:
                continue
            if not self._places.acquire(blocking=False):
                conn.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(conn,), name="act", daemon=True).start()
            except RuntimeError as error:  # no thread to be had
                conn.close()
                self._places.release()
                log.warning("a command was sent away: %s", error)

    def _serve(self, conn: socket.socket) -> None:
        self._open.add(conn)
        try:
            with conn, conn.dup() as out:
                out.setblocking(False)
                self._answer(conn, out)
        except OSError as error:
            log.debug("a command hung up: %s", error)
        except Exception:
            log.exception("a command failed")
        finally:
            self._open.discard(conn)
            self._places.release()

    def _answer(self, conn: socket.socket, out: socket.socket) -> None:
        ended = threading.Event()

        def tell(answer: Answer) -> None:
            with suppress(OSError):  # nobody listens any more, or reads
                out.send(msgspec.json.encode(answer) + b"\n")
            if isinstance(answer, Last):
                ended.set()

        conn.settimeout(REQUEST_S)
        line = _line(conn)
        if not line:
            return
        if line == _STATEMENT:
            conn.sendall(msgspec.json.encode(self._statement()) + b"\n")
            return
        try:
            wish = _wish(line)
        except (msgspec.MsgspecError, InvalidWishError, InvalidCredentialError) as error:
            tell(Refused(Why.INVALID, str(error)))
            return
        cancel = self._recorder.ask(wish, tell)
        conn.settimeout(ANSWER_S)
        try:
            while conn.recv(64):
                pass
        except OSError:
            pass
        finally:
            cancel()
            ended.wait(REQUEST_S)


class ActLine:
    """A command's side of it. Use it as a context manager."""

    def __init__(self, data: Path) -> None:
        """Raises ActError."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _folder(data) as folder:
                self._sock.settimeout(REQUEST_S)
                self._sock.connect(f"{folder}/{SOCKET_NAME}")
        except (FileNotFoundError, ConnectionRefusedError) as error:
            self._sock.close()
            raise ActError(
                "it is not running here, or does not record yet: start it with `systemctl start"
                " shuaka-edge`, or see `shuaka-edge doctor`; nothing was recorded"
            ) from error
        except OSError as error:
            self._sock.close()
            raise ActError(
                f"{data / SOCKET_NAME}: {error.strerror or error}; run this as the service's user"
                " or as root"
            ) from error
        self._file = self._sock.makefile("rb")

    def ask(self, wish: Wish) -> None:
        """Raises ActError."""
        verb = next(verb for verb, act in VERBS.items() if act is wish.what)
        member = None if wish.about is None else wish.about.value
        request = msgspec.json.encode(_Request(verb, wish.number, member))
        try:
            self._sock.sendall(request + b"\n")
        except OSError as error:
            raise ActError(_LOST) from error

    def cancel(self) -> None:
        """The answers go on: the card may have come first."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def answers(self) -> Iterator[Answer]:
        """Until the last one. Raises ActError."""
        self._sock.settimeout(ANSWER_S)
        while True:
            try:
                line = self._file.readline(MAX_LINE_BYTES)
                answer = msgspec.json.decode(line, type=Answer)
            except (OSError, msgspec.MsgspecError) as error:
                raise ActError(_LOST) from error
            yield answer
            if isinstance(answer, Last):
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._sock.close()


def ask_statement(data: Path) -> JournalState | None:
    """How far the journal in `data` is whole, by the daemon that runs; None where it says nothing.

    What was tapped before that moment is in the journal by the time this returns.
    """
    with (
        suppress(OSError, msgspec.MsgspecError),
        _folder(data) as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock,
    ):
        sock.settimeout(STATEMENT_S)
        sock.connect(f"{folder}/{SOCKET_NAME}")
        sock.sendall(_STATEMENT + b"\n")
        with sock.makefile("rb") as file:
            line = file.readline(MAX_STATEMENT_BYTES)
            return msgspec.json.decode(line, type=JournalState | None)
    return None


_STATEMENT: Final = b'{"act":"statement"}'

_LOST: Final = (
    "the running shuaka-edge gave no answer: `shuaka-edge journal list --last 5` shows whether it"
    " was recorded"
)


def _wish(line: bytes) -> Wish:
    request = msgspec.json.decode(line, type=_Request)
    if request.act not in VERBS:
        raise InvalidWishError(f"there is no act {request.act[:20]!r}")
    about = None if request.member is None else member_credential(request.member)
    return Wish(VERBS[request.act], request.number, about)


def _line(conn: socket.socket) -> bytes:
    """Up to the end of the line; what comes without one, or is too long, is cut."""
    line = b""
    while b"\n" not in line and len(line) < MAX_LINE_BYTES:
        chunk = conn.recv(MAX_LINE_BYTES)
        if not chunk:
            break
        line += chunk
    return line.partition(b"\n")[0]


@contextmanager
def _folder(data: Path) -> Iterator[str]:
    """A short name for `data`: a socket's path has at most 107 bytes."""
    fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


@contextmanager
def _listener(folder: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        os.fchmod(listener.fileno(), 0o600)  # what it is bound with: never open for a moment
        # left by a daemon that was killed: whoever has the journal has the socket
        Path(folder, SOCKET_NAME).unlink(missing_ok=True)
        listener.bind(f"{folder}/{SOCKET_NAME}")
        listener.listen(MAX_CONNECTIONS)
        listener.settimeout(TICK_S)
        yield listener
