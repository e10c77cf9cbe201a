"""What every request may use: the database, the clock, the district's zone, and who is asking.

Rights and scope are enforced here and in `hub.store.scope`, and nowhere else: a route names the
right that it needs (`api_right` for the API, `page_right` for pages), and hands
`caller.organisation_id` to its queries as their scope. Who asks is found in a short read
transaction of its own: a request that waits for a worker thread holds no connection.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated
from urllib.parse import quote
from zoneinfo import ZoneInfo

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Engine

from hub import audit
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.auth.sessions import COOKIE, Session, find_session
from hub.auth.tokens import caller_by_token
from hub.ingest.files import Carried
from hub.store.engine import reading

Enrol = Callable[[bytes, bytes, bytes], bytes]
"""(sign key, seal key, proof) -> signed answer; raises hub.devices.EnrolmentRefusedError."""
Certify = Callable[[bytes], bytes]
"""Signed request -> signed answer; raises hub.certificates.CertificateRefusedError."""
Carry = Callable[[Iterable[bytes]], Carried]
"""A file from a device, piece by piece -> what it brought; raises RemoteError where it is none."""
Health = Callable[[], str | None]
"""None while all is well, otherwise what is wrong, in words without personal data."""


@dataclass(frozen=True, slots=True)
class Joining:
    """What devices are told to join this hub."""

    fingerprint: bytes
    """Of the hub's keys; part of every enrolment code."""
    broker: str
    """The broker's address, as devices are told it."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the process gives to its requests."""

    engine: Engine
    zone: ZoneInfo
    clock: Callable[[], int]
    """Now, in ms since the Unix epoch."""
    enrol: Enrol | None
    health: Health | None
    first_run_code: str
    """Whoever knows it may make the first account; of no use once there is one."""
    joining: Joining | None = None
    """None: this process takes no enrolments, and makes no codes for them."""
    certify: Certify | None = None
    """None: this process gives no certificates."""
    carry: Carry | None = None
    """None: this process takes no files from devices."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server begins to stop: live streams end then."""

    def looks(self, caller: Caller, look: audit.Look) -> None:
        """Write down that the caller is about to be shown personal data."""
        now_ms = self.clock()
        with reading(self.engine) as conn:
            known = audit.has_looked(conn, caller, look, now_ms)
        if not known:
            with self.engine.begin() as conn:
                audit.looked(conn, caller, look, now_ms)

    def local(self, at_ms: int) -> datetime:
        """`at_ms` in the district's zone."""
        return datetime.fromtimestamp(at_ms / 1000, self.zone)


def context(request: Request) -> Context:
    """The context of the running application."""
    found = request.app.state.context
    assert isinstance(found, Context)  # noqa: S101
    return found


Hub = Annotated[Context, Depends(context)]
"""How a route asks for the context."""

_scheme = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="An access token: a role in one sub-tree.",
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


def api_right(right: Right) -> Callable[..., Caller]:
    """A dependency of API routes: the bearer's Caller, if it has the right; otherwise 403."""

    def asking(caller: Annotated[Caller, Depends(bearer)]) -> Caller:
        if not caller.may(right):
            raise HTTPException(403, f"the token's role may not do this: it needs {right.value}")
        return caller

    return asking


def page_right(right: Right) -> Callable[..., Caller]:
    """A dependency of pages: whoever is signed in, if they have the right; otherwise 403."""

    def asking(caller: Annotated[Caller, Depends(signed_in)]) -> Caller:
        if not caller.may(right):
            raise HTTPException(403)
        return caller

    return asking


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


class MustChangePasswordError(Exception):
    """The password was given by somebody else; leads to the page where it is replaced."""


def signed_in(request: Request) -> Caller:
    """Whoever is signed in; otherwise the browser is sent to the sign-in page."""
    found = session(request)
    if found is None:
        raise NotSignedInError(request)
    if found.must_change:
        raise MustChangePasswordError
    return found.caller
