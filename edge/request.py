"""One request to a hub over HTTP or HTTPS: JSON there and back, every failure in one plain line.

Nothing a hub or a stranger in its place says is trusted: the answer's size and the time that it
takes are bounded, redirections are not followed (a token goes to nobody else), and what is quoted
of it fits one line of a terminal. TLS certificates are checked as the system has them.
"""

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import SplitResult, urlencode, urlsplit

TIMEOUT_S: Final = 15
"""How long a hub may keep silent."""
LONGEST_S: Final = 30
"""How long it may take altogether."""
MAX_ANSWER_BYTES: Final = 64 * 1024
NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for."""
LOOPBACKS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class RequestError(Exception):
    """Why there is no answer; the message is one line."""


class NotAskedError(RequestError):
    """The hub was not reached: what was asked has not happened."""


class NoAnswerError(RequestError):
    """What came back is no answer of a hub: what was asked may have happened or not."""


class RefusedError(RequestError):
    """The hub refused, in its own words: what was asked has not happened."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"the hub refused ({status}): {detail}")
        self.status = status
        self.detail = detail


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Where a hub is."""

    parts: SplitResult

    @classmethod
    def parse(cls, url: str) -> Self:
        """`http://` or `https://`, a host, perhaps a port and a path. Raises NotAskedError."""
        try:
            parts = urlsplit(url)
            fits = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
            more = parts.username or parts.password or parts.query or parts.fragment
            url.encode("ascii")
        except ValueError:
            fits, more = None, None
        if not fits or more or not url.isprintable() or " " in url:
            raise NotAskedError(f"{url!r} is not the address of a hub, such as https://hub.example")
        return cls(parts)

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way can read what is sent."""
        return self.parts.scheme == "https" or self.parts.hostname in LOOPBACKS

    def __str__(self) -> str:
        return self.parts.geturl()


def ask(
    hub: HubAddress,
    method: str,
    path: str,
    body: Mapping[str, object] | None = None,
    *,
    query: Mapping[str, object] | None = None,
    token: str | None = None,
    checks_time: bool = True,
) -> dict[str, object]:
    """The JSON object that the hub answers with; empty where it answers with nothing.

    Not `checks_time`: for what is signed end to end, and asked by a device whose clock may be off.
    Raises NotAskedError, NoAnswerError, RefusedError.
    """
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    where = hub.parts.path.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
    content = None if body is None else json.dumps(body)
    response, raw = _exchange(_connection(hub, checks_time), hub, method, where, content, headers)
    if response.status == 204:
        return {}
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        answer = {}
    match response.status, answer.get("detail"):
        case ((200 | 201), _):
            return answer
        case status, str(detail) if status >= 500:
            raise NoAnswerError(f"{hub} cannot do it now ({status}): {plain(detail)}")
        case status, str(detail):
            raise RefusedError(status, plain(detail))
        case status, _ if 300 <= status < 400:
            target = plain(response.getheader("Location") or "another address")
            raise NoAnswerError(f"{hub} sends on to {target}: give --hub the address of the hub")
        case status, _:
            what = plain(f"{status} {response.reason}")
            raise NoAnswerError(f"{hub} did not answer as a hub does: {what}")


def plain(text: str) -> str:
    """What a stranger said, fit for one line of a terminal."""
    shown = "".join(char if char.isprintable() else " " for char in text[:200])
    return " ".join(shown.split())


def _connection(hub: HubAddress, checks_time: bool) -> http.client.HTTPConnection:
    host, port = str(hub.parts.hostname), hub.parts.port
    if hub.parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    context = ssl.create_default_context()
    if not checks_time:
        context.verify_flags |= NO_CHECK_TIME
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)


def _exchange(
    connection: http.client.HTTPConnection,
    hub: HubAddress,
    method: str,
    where: str,
    content: str | None,
    headers: Mapping[str, str],
) -> tuple[http.client.HTTPResponse, bytes]:
    try:
        with contextlib.closing(connection), _bounded(connection):
            try:
                connection.connect()
            except OSError as error:
                raise NotAskedError(f"{hub} cannot be reached: {error}") from error
            connection.request(method, where, content, dict(headers))
            with connection.getresponse() as response:
                return response, response.read(MAX_ANSWER_BYTES)
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        raise NoAnswerError(f"{hub} did not answer as a hub does: {plain(why)}") from error


@contextlib.contextmanager
def _bounded(connection: http.client.HTTPConnection) -> Iterator[None]:
    """Hangs up after LONGEST_S: the time-out starts anew with each byte that comes."""

    def hang_up() -> None:
        with contextlib.suppress(OSError, AttributeError):
            connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(LONGEST_S, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
