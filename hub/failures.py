"""What every answer has in common: security headers, and failures told in plain words.

The API says `{"detail": "…"}` in English and names the field; pages say it in Chinese. No answer
repeats what was sent, quotes a database or shows a traceback.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub.auth.callers import Caller
from hub.context import MustChangePasswordError, NotSignedInError, session
from hub.imports.rows import MAX_BYTES as MAX_FILE_BYTES
from hub.store.scope import NotFoundError
from hub.web.pages import error_page

log = structlog.get_logger(__name__)

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; form-action 'self'; "
        "base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: a form would then be posted with `Origin: null`.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
DATABASE_FAILURES: Final = (OperationalError, InterfaceError, PoolTimeoutError)
"""What is raised when the database cannot be used now; anything else of it is our mistake."""
MAX_BODY_BYTES: Final = 64 * 1024
_STATIC: Final = "/static/"
_FOREVER: Final = "public, max-age=31536000, immutable"


class SecurityHeaders:
    """ASGI middleware: the same strict headers on every answer; only static files are cached."""

    def __init__(self, app: ASGIApp) -> None:
        """Wraps `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with the headers added."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers["Cache-Control"] = _cache(scope, message["status"])
            await send(message)

        await self._app(scope, receive, send_hardened)


class SameSite:
    """ASGI middleware: a form that another site's page has sent is refused (403).

    The API is left out: it knows no cookies. Fetch Metadata where the browser sends it, else the
    Origin (RFC 6454).
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wraps `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if (
            scope["type"] == "http"
            and scope["method"] not in _SAFE
            and not scope["path"].startswith("/api/")
            and _is_foreign(Headers(scope=scope))
        ):
            await error_page(403, is_foreign=True)(scope, receive, send)
            return
        await self._app(scope, receive, send)


_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def _is_foreign(headers: Headers) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site not in {"same-origin", "none"}
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


class BodyLimit:
    """ASGI middleware: a larger body than `MAX_BODY_BYTES` is refused, declared or not.

    A register's file may be as large as an import takes it.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wraps `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse with 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = _FILE_BODY_BYTES if _IMPORT.fullmatch(scope["path"]) else MAX_BODY_BYTES
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > most:
            words = f"body: is larger than {most >> 10} KiB"
            await _failure(Request(scope), 413, words)(scope, receive, send)
            return
        received = 0

        async def receive_some() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise HTTPException(413, f"body: is larger than {most >> 10} KiB")
            return message

        await self._app(scope, receive_some, send)


_IMPORT: Final = re.compile(r"(?:/api/v1)?/imports/[a-z]+|/sticks")
_FILE_BODY_BYTES: Final = MAX_FILE_BYTES + MAX_BODY_BYTES


def _cache(scope: Scope, status: int) -> str:
    # A static file's address names its content (?v=…); without that it is asked for again.
    if scope["path"].startswith(_STATIC) and status in {200, 304}:
        return _FOREVER if scope["query_string"].startswith(b"v=") else "no-cache"
    return "no-store"


def answer_failures(app: FastAPI) -> None:
    """Register what is answered when a request fails."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(NotSignedInError, _not_signed_in)
    app.add_exception_handler(MustChangePasswordError, _must_change)
    app.add_exception_handler(NotFoundError, _not_found)
    for error in DATABASE_FAILURES:
        app.add_exception_handler(error, _database)
    app.add_exception_handler(Exception, _bug)


def _failure(
    request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    if request.url.path.startswith("/api/"):
        return JSONResponse({"detail": detail}, status, headers)
    return error_page(status, headers, caller=_caller(request, status))


def _caller(request: Request, status: int) -> Caller | None:
    """Who is signed in, so that the page of a failure does not look as if nobody were."""
    if status in _UNASKED:
        return None
    try:
        found = session(request)
    except DATABASE_FAILURES:
        return None
    return None if found is None or found.must_change else found.caller


_UNASKED: Final = frozenset({413, 503})
"""Failures told where nothing may wait, or because the database cannot be asked."""


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    detail = error.detail
    if detail == HTTPStatus(error.status_code).phrase:  # none was given
        detail = _WORDS.get(error.status_code, detail)
    return _failure(request, error.status_code, detail, error.headers)


_WORDS: Final = {
    403: "the form was sent from another site",
    404: "there is nothing at this address",
    405: "this address knows no such method",
}


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    words = []
    for each in error.errors():
        where, *inside = each["loc"]
        # A JSON error gives a position in place of a name.
        name = ".".join(str(part) for part in inside if each["type"] != "json_invalid")
        said = each["msg"].removeprefix("Value error, ")
        # A rule about several fields names them itself.
        by_itself = not name and each["type"] == "value_error"
        words.append(said if by_itself else f"{name or where}: {said}")
    is_page = not request.url.path.startswith("/api/")
    return _failure(request, 404 if is_page else 422, "; ".join(words))


def _not_found(request: Request, _error: Exception) -> Response:
    return _failure(request, 404, "there is no such thing in your sub-tree")


def _must_change(_request: Request, _error: Exception) -> Response:
    return RedirectResponse("/password", 303)


def _not_signed_in(request: Request, error: Exception) -> Response:
    assert isinstance(error, NotSignedInError)  # noqa: S101
    location = error.location if request.method == "GET" else "/sign-in"
    return RedirectResponse(location, 303)


def _database(request: Request, error: Exception) -> Response:
    log.error("database failed", path=request.url.path, error=repr(error.__cause__ or error))
    return _failure(
        request, 503, "the hub's database cannot be used now; try again", {"Retry-After": "5"}
    )


def _bug(request: Request, _error: Exception) -> Response:
    # Answered outside of the middleware, which therefore adds nothing; the server logs the error.
    response = _failure(request, 500, "an error of the hub's own; it was logged")
    response.headers.update({**_HEADERS, "Cache-Control": "no-store"})
    return response
