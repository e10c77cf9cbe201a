"""What every request may use: the database, the clock, the district's zone, and who is asking.

Scope is enforced here and nowhere else: a route gets its `Caller` from `bearer` (API) or
`signed_in` (pages) and hands `caller.organisation_id` to the query as its scope. Who asks is found
in a short read transaction of its own: a request that waits for a worker thread holds no
connection.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated
from urllib.parse import quote
from zoneinfo import ZoneInfo

from fastapi import HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine

from hub.auth.sessions import COOKIE, Session, find_session
from hub.auth.tokens import Caller, caller_by_token
from hub.store.engine import reading

Enrol = Callable[[bytes, bytes, bytes], bytes]
"""(sign key, seal key, proof) -> signed answer; raises hub.devices.EnrolmentRefusedError."""
Health = Callable[[], str | None]
"""None while all is well, otherwise what is wrong, in words without personal data."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the process gives to its requests."""

    engine: Engine
    zone: ZoneInfo
    clock: Callable[[], int]
    """Now, in ms since the Unix epoch."""
    enrol: Enrol | None
    health: Health | None
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server begins to stop: live streams end then."""

    def local(self, at_ms: int) -> datetime:
        """`at_ms` in the district's zone."""
        return datetime.fromtimestamp(at_ms / 1000, self.zone)


def context(request: Request) -> Context:
    """The context of the running application."""
    found = request.app.state.context
    assert isinstance(found, Context)  # noqa: S101
    return found


_scheme = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="An access token, made by `shuaka-hub token add`; it sees one sub-tree.",
)


def bearer(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_scheme)],
) -> Caller:
    """Whoever holds the bearer token; 401 without a token that holds now."""
    caller = None
    if credentials is not None:
        hub = context(request)
        with reading(hub.engine) as conn:
            caller = caller_by_token(conn, credentials.credentials, hub.clock())
    if caller is None:
        raise HTTPException(
            401,
            "Authorization: a bearer token that is valid now is needed",
            {"WWW-Authenticate": "Bearer"},
        )
    return caller


def session(request: Request) -> Session | None:
    """The session of the request's cookie, if it holds now."""
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        return None
    hub = context(request)
    with reading(hub.engine) as conn:
        return find_session(conn, cookie, hub.clock())


class NotSignedInError(Exception):
    """A page was asked for without a session; leads to the sign-in page and back."""

    def __init__(self, request: Request) -> None:
        path = request.url.path
        self.back = path if not request.url.query else f"{path}?{request.url.query}"

    @property
    def location(self) -> str:
        """Where to sign in, to come back to the page afterwards."""
        return f"/sign-in?next={quote(self.back, safe='')}"


def signed_in(request: Request) -> Caller:
    """Whoever is signed in; otherwise the browser is sent to the sign-in page."""
    found = session(request)
    if found is None:
        raise NotSignedInError(request)
    return found.caller
