"""The hub's process: one ingest thread, one uvicorn worker, one database.

Ends on SIGTERM and SIGINT (uvicorn's doing): pages first, then what is being committed.
"""

import gc
import signal
import socket
import threading
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from sqlalchemy import Engine

from hub.app import Server, create_app, wall_ms
from hub.auth.accounts import first_password, has_accounts
from hub.authority import Authority
from hub.broker import BrokerError, Told, arrange, read_anew
from hub.certificates import admitted, certify
from hub.config import ConfigError, Settings
from hub.context import Joining
from hub.devices import enrol
from hub.failures import DATABASE_FAILURES
from hub.ingest.files import carry
from hub.ingest.service import Ingest
from hub.issuing import forget
from hub.keys import Keyring
from hub.store.engine import reading
from hub.store.policies import Policies
from protocol.topics import Broker

FORGET_EVERY_S: Final = 60.0
TEND_EVERY_S: Final = 3.0
"""How soon the broker hears of a device that has come or gone."""

log = structlog.get_logger(__name__)


def serve(engine: Engine, keyring: Keyring, settings: Settings) -> None:
    """Serves until the process is told to stop.

    Raises ConfigError where it cannot listen, KeysError.
    """
    authority = Authority.load_or_make(settings.data, wall_ms())
    listener = _listen(settings)
    ingest = Ingest(
        engine, keyring, Broker.parse(settings.mqtt), tls=lambda: authority.as_hub(wall_ms())
    )

    def answer(sign_key: bytes, seal_key: bytes, proof: bytes) -> bytes:
        keys = sign_key, seal_key
        return enrol(engine, keyring, settings.broker_for_edges, keys, proof, wall_ms())

    with reading(engine) as conn:
        zone = Policies.load(conn).zone(wall_ms())
        is_new = not has_accounts(conn)
    code = first_password()
    app = create_app(
        engine,
        zone=zone,
        enrol=answer,
        health=lambda: ingest.trouble() or None,
        first_run_code=code,
        joining=Joining(keyring.public().fingerprint(), settings.broker_for_edges),
        certify=lambda asked: certify(engine, keyring, authority, asked, wall_ms()),
        carry=lambda pieces: carry(engine, keyring, pieces, wall_ms()),
    )
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )
    # Ingest makes so many objects that the collector comes often: what is here by now is not looked
    # through each time (a quarter of ingest's time).
    gc.collect()
    gc.freeze()
    ingest.start()
    log.info("serving", pages=f"http://{settings.listen}", broker=settings.mqtt)
    if is_new:
        log.info("no account yet", make_one=f"http://{settings.listen}/first-run?code={code}")
    stopping = threading.Event()
    threading.Thread(target=_forget, args=(engine, stopping), name="forget", daemon=True).start()
    if settings.broker_dir:
        tending = engine, authority, Path(settings.broker_dir), stopping
        threading.Thread(target=_tend, args=tending, name="broker", daemon=True).start()
    server = Server(app, config)
    # uvicorn raises the signal once more when it has stopped, which would end the process here
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    try:
        server.run([listener])
    finally:
        stopping.set()
        ingest.stop()


def _forget(engine: Engine, stopping: threading.Event) -> None:
    """Deletes what desk stations read and nobody used, until told to stop."""
    while not stopping.wait(FORGET_EVERY_S):
        try:
            with engine.begin() as conn:
                forget(conn, wall_ms())
        except DATABASE_FAILURES as error:
            log.warning("nothing was forgotten; tried again", error=type(error).__name__)


def _tend(engine: Engine, authority: Authority, folder: Path, stopping: threading.Event) -> None:
    """Keeps the broker's folder as the fleet is, until told to stop: a failure is tried again."""
    untold = True
    trouble = ""
    while True:
        try:
            told = Told.load(folder)
            if told is None:
                raise BrokerError(f"{folder}: run shuaka-hub broker first")  # noqa: TRY301
            with reading(engine) as conn:
                wanted = admitted(conn, wall_ms())
            if written := arrange(folder, authority, told, wanted, wall_ms()):
                log.info("broker written", files=" ".join(written))
            untold |= bool(written)
            now = read_anew(told.pid_file) if untold else ""
            untold = bool(now)
        except DATABASE_FAILURES as error:
            now = f"the database failed: {type(error).__name__}"
        except BrokerError as error:
            now = str(error)
        except Exception as error:
            log.exception("the broker's folder is not kept up to date; tried again")
            now = type(error).__name__
        if now and now != trouble:
            log.warning("the broker was not told; tried again", why=now)
        trouble = now
        if stopping.wait(TEND_EVERY_S):
            return


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(f"listen: {settings.listen}: {error.strerror}") from error
