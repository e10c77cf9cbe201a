"""What every page knows of the browser that asks: its language, the address, a notice left.

A middleware reads them once for each request; templates use `t`, `here()` and `left_notice()`.
Nothing here is about who asks.
"""

import base64
import json
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from fastapi.responses import RedirectResponse
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub.web.words import Language, speak, t

LANGUAGE_COOKIE: Final = "lang"
NOTICE_COOKIE: Final = "notice"
YEAR_S: Final = 365 * 24 * 3600
_NOTICE_S: Final = 60
_LONGEST: Final = 2000
"""Of a notice in its cookie, which holds 4096 bytes at the most."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What an act says on the page that follows it."""

    kind: str
    """`ok` or `warn`: the look."""
    words: str


@dataclass(frozen=True, slots=True)
class Visit:
    """One request, as far as every page may show it."""

    here: str = "/"
    """Path and query of the page itself, to come back to."""
    notice: Notice | None = None


_NOWHERE: Final = Visit()
_visit: Final = ContextVar("visit", default=_NOWHERE)


def here() -> str:
    """The address of the page that is made: path and query."""
    return _visit.get().here


def left_notice() -> Notice | None:
    """What the act before this page left to be said."""
    return _visit.get().notice


def done(location: str, words: object, kind: str = "ok", **values: object) -> RedirectResponse:
    """After an act: go to `location` (303), where `words` are shown once.

    `words` as for `hub.web.words.t`. They travel in a cookie of a minute, so a reload does not
    repeat them, nor does a link that somebody passes on.
    """
    response = RedirectResponse(location, 303)
    text = json.dumps([kind, t(words, **values)[:500]], ensure_ascii=False).encode()
    cookie = base64.urlsafe_b64encode(text).decode()
    if len(cookie) <= _LONGEST:
        response.set_cookie(NOTICE_COOKIE, cookie, max_age=_NOTICE_S, httponly=True, samesite="lax")
    return response


class Visits:
    """ASGI middleware: says in which language a page is made, and hands it the notice once."""

    def __init__(self, app: ASGIApp) -> None:
        """Wraps `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, within the visit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        query = request.url.query
        found = _notice(request.cookies)
        visit = Visit(request.url.path + (f"?{query}" if query else ""), found)

        async def send_told(message: Message) -> None:
            if found is not None and message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                # What has been shown goes; a redirect or a stream has shown nothing.
                if headers.get("content-type", "").startswith("text/html"):
                    headers.append("Set-Cookie", f"{NOTICE_COOKIE}=; Max-Age=0; Path=/; HttpOnly")
            await send(message)

        # Not set back: a request is a task of its own, and the page of a failure is made outside.
        _visit.set(visit)
        speak(Language.EN if request.cookies.get(LANGUAGE_COOKIE) == "en" else Language.ZH)
        await self._app(scope, receive, send_told)


def _notice(cookies: Mapping[str, str]) -> Notice | None:
    """What the cookie says; None for one that `done` has not made."""
    try:
        found: Any = json.loads(base64.urlsafe_b64decode(cookies[NOTICE_COOKIE]))
    except (KeyError, ValueError, RecursionError):
        return None
    match found:
        case [("ok" | "warn") as kind, str(words)]:
            return Notice(kind, words)
        case _:
            return None
