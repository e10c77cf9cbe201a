"""The kiosk's web server: one page for a browser on this machine, in a thread of its own.

Promises: it is bound to 127.0.0.1, and answers nobody who comes from elsewhere or calls it by
another name, as a page of the internet would whose name is pointed here; whatever changes something
must come from our own page, with a token that no other page can read. It never delays a tap: a page
that reads slowly gets the latest state and not all of them. A port that is taken is said once and
tried again. Whoever has a shell on this machine is not kept out.
"""

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edge.config import Config
from edge.kiosk import corner
from edge.kiosk.corner import CannotError
from edge.kiosk.face import Face, NotNowError

HOST: Final = "127.0.0.1"
BEAT_S: Final = 1.0
"""A page that hears nothing for a few of these knows that the device is not running."""
MAX_PAGES: Final = 8
"""Pages with a stream."""
MAX_CONNECTIONS: Final = 32
SLOW_S: Final = 10.0
"""A page that takes nothing for so long is let go."""
SEND_BUFFER_BYTES: Final = 64 * 1024
MAX_BODY_BYTES: Final = 4096
TRY_AGAIN_S: Final = 5.0
STOP_S: Final = 3.0

FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/kiosk.css": ("kiosk.css", "text/css; charset=utf-8"),
    "/kiosk.js": ("kiosk.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_STATIC: Final = Path(__file__).parent / "static"
POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    b" connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = (
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)

log = logging.getLogger(__name__)
_Given = TypeVar("_Given")


class Kiosk:
    """Serves `face` on `port` of the loopback address, from `start` to `stop`."""

    def __init__(self, config: Config, face: Face, port: int) -> None:
        self._config = config
        self.face = face
        self._port = port
        self._token = secrets.token_urlsafe(24)
        self._files = {
            path: ((_STATIC / name).read_bytes(), kind) for path, (name, kind) in FILES.items()
        }
        self._version = hashlib.sha256(repr(sorted(self._files.items())).encode()).hexdigest()[:12]
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._wakes: set[asyncio.Event] = set()
        self._examining = asyncio.Lock()
        self._thread = threading.Thread(target=self._run, name="kiosk", daemon=True)
        face.on_change = self._changed

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the streams and lets go of the port."""
        self._stopping.set()
        server = self._server
        if server is not None:
            server.should_exit = True
        self._changed()
        self._thread.join(timeout=STOP_S)

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        trouble = ""
        while not self._stopping.is_set():
            try:
                with _listener(self._port) as listener:
                    log.info("the screen is at http://%s:%d", HOST, self._port)
                    trouble = ""
                    asyncio.run(self._serve(listener))
            except OSError as error:
                if str(error) != trouble:
                    log.error(  # noqa: TRY400
                        "the screen cannot be shown: port %d of %s: %s; tried again",
                        self._port,
                        HOST,
                        error.strerror or error,
                    )
                trouble = str(error)
            except Exception:
                log.exception("the screen failed, and is tried again")
            self._stopping.wait(TRY_AGAIN_S)

    async def _serve(self, listener: socket.socket) -> None:
        self._examining = asyncio.Lock()
        self._wakes = set()
        server = uvicorn.Server(
            uvicorn.Config(
                self._application(),
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                # A browser that goes away in the middle is no news; our own errors are logged here.
                log_level=logging.CRITICAL,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=1,
            )
        )
        self._server = server
        self._loop = asyncio.get_running_loop()
        try:
            if not self._stopping.is_set():  # `stop` may have looked before there was a server
                await server.serve(sockets=[listener])
        finally:
            self._loop = self._server = None

    def _changed(self) -> None:
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for each in self._wakes:
            each.set()

    # --- what it answers --------------------------------------------------------------------------

    def _application(self) -> ASGIApp:
        routes = [Route(path, self._file, methods=["GET"]) for path in self._files]
        routes.append(Route("/events", _Stream(self), methods=["GET"]))
        for name, answer in (
            ("look", self._look),
            ("enrol", self._enrol),
            ("ask", self._ask),
            ("cancel", self._cancel),
        ):
            routes.append(Route(f"/corner/{name}", self._corner(answer), methods=["POST"]))
        return Guard(Starlette(routes=routes), self._port, self._token)

    async def _file(self, request: Request) -> Response:
        content, kind = self._files[request.url.path]
        return Response(content, headers={"content-type": kind})

    def _corner(self, answer: Callable[[dict[str, str]], Any]) -> Any:
        async def endpoint(request: Request) -> Response:
            try:
                asked = msgspec.json.decode(await _body(request), type=dict[str, str])
            except (ValueError, ClientDisconnect):
                return _json({"words": "请求无法理解"}, 400)
            try:
                return _json(await answer(asked))
            except NotNowError as error:
                return _json({"words": str(error)}, 409)
            except CannotError as error:
                return _json({"words": error.words, "detail": error.detail}, 409)

        return endpoint

    async def _look(self, asked: dict[str, str]) -> dict[str, Any]:
        """Who this is; with `what`, the doctor's findings or the last entries of the journal."""
        data = self._config.edge.data
        found: dict[str, Any] = {"here": await _aside(lambda: corner.here(data))}
        match asked.get("what"):
            case "findings":
                async with self._examining:
                    found["findings"] = await _aside(lambda: corner.findings(self._config))
                found["failure"] = self.face.failure()
            case "entries":
                found["entries"] = await _aside(lambda: corner.last_entries(data))
            case _:
                pass
        return found

    async def _enrol(self, asked: dict[str, str]) -> dict[str, Any]:
        hub, code = asked.get("hub", ""), asked.get("code", "")
        name = await _aside(lambda: corner.join(self._config.edge.data, hub, code))
        return {"words": f"已登记为“{name}”"}

    async def _ask(self, asked: dict[str, str]) -> dict[str, Any]:
        self.face.ask(
            corner.wish(asked.get("act", ""), asked.get("number", ""), asked.get("member", ""))
        )
        return {}

    async def _cancel(self, _asked: dict[str, str]) -> dict[str, Any]:
        self.face.cancel()
        return {}

    # --- the stream -------------------------------------------------------------------------------

    def greeting(self) -> bytes:
        """What only our own page can read: see `Guard`."""
        said = msgspec.json.encode({"token": self._token, "version": self._version})
        return b"retry: 500\nevent: hello\ndata: " + said + b"\n\n"

    async def states(self) -> AsyncIterator[bytes]:
        """The whole state whenever it has changed, and a beat while it has not, as SSE has it.

        Whoever comes back late for the next gets the latest, and none of those before.
        """
        if len(self._wakes) >= MAX_PAGES:
            raise TooManyError
        wake = asyncio.Event()
        self._wakes.add(wake)
        try:
            last = b""
            while not self._stopping.is_set():
                wake.clear()
                shown, left_ms = self.face.screen()
                state = msgspec.json.encode(shown)
                yield b"event: beat\ndata: 1\n\n" if state == last else _event(state)
                last = state
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), min(BEAT_S, left_ms / 1000))
        finally:
            self._wakes.discard(wake)


class TooManyError(Exception):
    """There are MAX_PAGES pages already."""


class _Stream:
    """`GET /events`, as an application of its own: it lets go of whoever does not read."""

    def __init__(self, kiosk: Kiosk) -> None:
        self._kiosk = kiosk

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        states = self._kiosk.states()
        try:
            first = await anext(states, b"")
        except TooManyError:
            await Response("too many pages", 503)(_scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        writing = asyncio.create_task(self._write(first, states, headers, send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (writing, leaving):
                each.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)
            await states.aclose()  # type: ignore[attr-defined]  # it is a generator

    async def _write(
        self,
        first: bytes,
        states: AsyncIterator[bytes],
        headers: list[tuple[bytes, bytes]],
        send: Send,
    ) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with contextlib.suppress(TimeoutError):
            await _part(send, self._kiosk.greeting() + first)
            async for each in states:
                await _part(send, each)
            await send({"type": "http.response.body", "body": b""})


class Guard:
    """Lets in only a browser on this machine, by this machine's own name, on our own page.

    A page from elsewhere, in the same browser, may send requests here, but it can read no answer,
    so it has no token, and its browser says where it comes from.
    """

    def __init__(self, inner: ASGIApp, port: int, token: str) -> None:
        self._inner = inner
        self._token = token.encode()
        names = ("127.0.0.1", "localhost", "[::1]")
        self._hosts = {f"{name}:{port}".encode() for name in names}
        if port == 80:
            self._hosts |= {name.encode() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal:
            await Response(refusal, 403)(scope, receive, with_headers)
            return
        try:
            await self._inner(scope, receive, with_headers)
        except Exception:
            log.exception("a page could not be answered")
            raise

    def _refusal(self, scope: Scope) -> str:
        """Why this request is not answered; empty where it is."""
        client = scope.get("client")
        if client is None or not ipaddress.ip_address(client[0]).is_loopback:
            return "only this machine"
        found: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            found.setdefault(name.lower(), []).append(value)
        hosts = found.get(b"host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return "another host"
        if scope["path"] != "/" and found.get(b"sec-fetch-site", [b"same-origin"]) not in (
            [b"same-origin"],
            [b"none"],
        ):
            return "another page"
        if scope["method"] in {"GET", "HEAD"}:
            return ""
        if found.get(b"origin") != [b"http://" + hosts[0]]:
            return "another origin"
        if not secrets.compare_digest(b"".join(found.get(b"x-kiosk-token", [])), self._token):
            return "no token"
        if found.get(b"content-type") != [b"application/json"]:
            return "no JSON"
        return ""


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # what a page does not read is kept by the kernel, and this bounds it
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind((HOST, port))
    except BaseException:
        listener.close()
        raise
    return listener


async def _part(send: Send, body: bytes) -> None:
    """Raises TimeoutError where nobody reads."""
    async with asyncio.timeout(SLOW_S):
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> bytes:
    """Raises ValueError where it is too long, ClientDisconnect."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ValueError("too long")
    return body


async def _aside(work: Callable[[], _Given]) -> _Given:
    """Does slow work in a thread that nothing waits for at the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Given] = loop.create_future()

    def settle(given: _Given | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(given)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def run() -> None:
        given: _Given | None = None
        failed: Exception | None = None
        try:
            given = work()
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, given, failed)

    threading.Thread(target=run, name="kiosk aside", daemon=True).start()
    return await done


def _event(state: bytes) -> bytes:
    return b"data: " + state + b"\n\n"


def _json(answer: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(answer), status, media_type="application/json")
