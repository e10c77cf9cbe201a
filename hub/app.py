"""The hub's pages and API as one ASGI application, and the server that stops without delay.

Composition only: what is answered is in `hub.api` and `hub.web`. One process, one worker.
"""

import time
from collections import Counter
from collections.abc import Callable
from socket import socket
from zoneinfo import ZoneInfo

import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from sqlalchemy import Engine
from starlette.middleware.gzip import GZipMiddleware

from hub.api import access as access_api
from hub.api import certificates as certificates_api
from hub.api import devices as devices_api
from hub.api import imports as imports_api
from hub.api import issuing as issuing_api
from hub.api import joining as joining_api
from hub.api import meetings as meetings_api
from hub.api import own as own_api
from hub.api import query as query_api
from hub.api import routes as api
from hub.api import taps as taps_api
from hub.auth.tokens import random_text
from hub.context import Carry, Certify, Context, Enrol, Health, Joining
from hub.failures import BodyLimit, SameSite, SecurityHeaders, answer_failures
from hub.imports.jobs import Desk
from hub.issuing import Brake
from hub.web import (
    access,
    accounts,
    devices,
    imports,
    issuing,
    language,
    leaving,
    log,
    meetings,
    objections,
    own,
    query,
    sticks,
    taps,
)
from hub.web import joining as joining_pages
from hub.web import routes as web
from hub.web.pages import STATIC
from hub.web.visit import Visits


def wall_ms() -> int:
    """Now, in ms since the Unix epoch."""
    return time.time_ns() // 1_000_000


def create_app(
    engine: Engine,
    *,
    zone: ZoneInfo,
    clock: Callable[[], int] = wall_ms,
    enrol: Enrol | None = None,
    health: Health | None = None,
    first_run_code: str | None = None,
    joining: Joining | None = None,
    certify: Certify | None = None,
    carry: Carry | None = None,
) -> FastAPI:
    """The application over an engine whose database is migrated.

    `enrol`, `joining`, `certify` and `carry` None: this process takes no enrolments, gives no
    certificates and takes no files from sticks (503). `health` says what is wrong beyond the
    database, None meaning nothing; it is asked in a worker thread and must not block. With
    `first_run_code` the first account can be made; None: by the command line alone.
    """
    app = FastAPI(
        title="shuaka",
        version="1",
        summary="刷卡考勤: who attended which meeting",
        description=api.DESCRIPTION,
        openapi_url=None,  # served behind the token by hub.api
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
    )
    app.state.context = Context(
        engine, zone, clock, enrol, health, first_run_code or random_text(), joining, certify, carry
    )
    app.state.boards = {}  # of `hub.web.live`
    app.state.desk = Desk(engine, clock)
    app.state.outbox = sticks.Outbox()
    app.state.desk_brake = Brake()
    app.state.desk_streams = Counter[bytes]()  # of `hub.web.issuing`
    app.add_middleware(BodyLimit)
    app.add_middleware(SameSite)
    app.add_middleware(Visits)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(GZipMiddleware, compresslevel=6)  # all but live streams
    answer_failures(app)
    app.include_router(api.router)
    app.include_router(meetings_api.router)
    app.include_router(joining_api.router)
    app.include_router(taps_api.router)
    app.include_router(issuing_api.router)
    app.include_router(certificates_api.router)
    app.include_router(devices_api.router)
    app.include_router(imports_api.router)
    app.include_router(access_api.router)
    app.include_router(own_api.router)
    app.include_router(query_api.router)
    app.include_router(joining_pages.router)
    app.include_router(meetings.router)  # /meetings/new before /meetings/{meeting}
    app.include_router(web.router)
    app.include_router(query.router)
    app.include_router(imports.router)
    app.include_router(own.router)
    app.include_router(objections.router)
    app.include_router(issuing.router)  # /cards/desk before /cards/{card}
    app.include_router(taps.router)
    app.include_router(devices.router)
    app.include_router(sticks.router)
    app.include_router(leaving.router)
    app.include_router(access.router)
    app.include_router(accounts.router)
    app.include_router(log.router)
    app.include_router(language.router)
    app.mount("/static", StaticFiles(directory=STATIC), "static")
    return app


class Server(uvicorn.Server):
    """uvicorn, telling the application when it begins to stop: live streams end at once."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        """`config` must be of `app`."""
        super().__init__(config)
        self._context: Context = app.state.context

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop listening, let requests finish; live streams are told first."""
        self._context.closing.set()
        await super().shutdown(sockets)


def _operation_id(route: APIRoute) -> str:
    return route.name
