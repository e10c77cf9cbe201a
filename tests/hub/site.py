"""The application over a test's database, with a clock of the test's own, and a real server."""

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import uvicorn
from fastapi import FastAPI
from sqlalchemy import Engine

from hub.app import Server, create_app
from hub.auth.accounts import add_account, as_login, check_password, hash_password
from hub.auth.tokens import new_token
from hub.context import Certify, Enrol, Health, Joining
from hub.derive import derive_batch
from hub.domain.terms import Role
from tests.hub.world import Entry, World, district, minutes, uid_of

ZONE = ZoneInfo("Asia/Shanghai")
PASSWORD = "correct horse battery"


def make_account(conn: Any, *, password: str, **values: Any) -> uuid.UUID:
    """An account whose holder chose this password."""
    check_password(password, as_login(values["login"]))
    return add_account(conn, hashed=hash_password(password), **values)


@dataclass
class Site:
    """A district as in `tests.hub.world`, tokens of its organisations, and the application."""

    engine: Engine
    now_ms: int = minutes(-5)
    health: Health | None = None
    enrol: Enrol | None = None
    joining: Joining | None = None
    certify: Certify | None = None
    tokens: dict[str, str] = field(default_factory=dict)
    """By organisation: a secretary's; by (organisation, role) in words, such as 甲 AUDITOR."""
    ids: dict[str, int] = field(default_factory=dict)
    seq: int = 0

    def __post_init__(self) -> None:
        with self.engine.begin() as conn:
            world = district(conn)
            world.epoch("e", "一号")
            self.ids = world.ids
            for code in ("区", "甲", "乙"):
                self.tokens[code] = new_token(
                    conn, f"{code}秘书", code, minutes(-1000), role=Role.SECRETARY
                )
                self.account(conn, code, f"{code}秘书", code, Role.SECRETARY)
        self.app = self.application()

    def account(
        self,
        conn: Any,
        login: str,
        name: str,
        organisation: str,
        role: Role,
        member: str | None = None,
    ) -> None:
        """An account with the password of all tests."""
        make_account(
            conn,
            login=login,
            name=name,
            role=role,
            organisation_id=self.ids[organisation],
            member_id=None if member is None else self.ids[member],
            password=PASSWORD,
            must_change=False,
            now_ms=minutes(-1000),
        )

    def signed_in(self, login: str = "甲") -> "Client":
        """Requests of a session; "区", "甲" and "乙" are the secretaries there."""
        return self.client().sign_in(login)

    def application(self) -> FastAPI:
        """The application anew, as after a start of the process."""
        return create_app(
            self.engine,
            zone=ZONE,
            clock=lambda: self.now_ms,
            enrol=self.enrol,
            health=self.health,
            joining=self.joining,
            certify=self.certify,
        )

    def world(self, conn: Any) -> World:
        return World(conn, self.ids)

    def tap(self, member: str | None, at_ms: int, card: int | None = None) -> None:
        """A tap at 礼堂, taken in and derived."""
        self.seq += 1
        with self.engine.begin() as conn:
            world = self.world(conn)
            credential = card if member is None else uid_of(world, member)
            entry = Entry(at_ms - minutes(-1000), at_ms, True, credential)
            world.batch("e", self.seq, [entry], at_ms)
            derive_batch(conn)

    def client(self, *, token: str | None = None) -> "Client":
        return Client(self.app, None if token is None else self.tokens[token])


class Client:
    """Plain requests in this process; follows no redirect."""

    def __init__(self, app: FastAPI, token: str | None) -> None:
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.cookies = httpx.Cookies()
        self._app = app

    def request(self, method: str, url: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://hub.test", cookies=self.cookies
            ) as client:
                headers = {**self._headers, **more.pop("headers", {})}
                response = await client.request(method, url, headers=headers, **more)
                self.cookies = client.cookies
                return response

        return asyncio.run(ask())

    def get(self, url: str, **more: Any) -> httpx.Response:
        return self.request("GET", url, **more)

    def post(self, url: str, **more: Any) -> httpx.Response:
        return self.request("POST", url, **more)

    def sign_in(self, login: str) -> "Client":
        response = self.post("/sign-in", data={"login": login, "password": PASSWORD})
        assert response.status_code == 303, response.text
        return self


@contextmanager
def serving(app: FastAPI, port: int = 0) -> Iterator[tuple[str, Callable[[], None]]]:
    """A real server on a (free) loopback port: its URL, and how to tell it to stop."""
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, ws="none")
    server = Server(app, config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]

        def stop() -> None:
            server.should_exit = True
            thread.join(15)
            assert not thread.is_alive()

        yield f"http://127.0.0.1:{port}", stop
    finally:
        server.should_exit = True
        thread.join(15)
