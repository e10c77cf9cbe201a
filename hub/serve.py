"""The hub's process: one ingest thread, one uvicorn worker, one database.

Ends on SIGTERM and SIGINT (uvicorn's doing): pages first, then what is being committed.
"""

import structlog
import uvicorn
from sqlalchemy import Engine

from hub.app import Server, create_app, wall_ms
from hub.config import Settings
from hub.devices import enrol
from hub.ingest.service import Ingest
from hub.keys import Keyring
from hub.store.engine import reading
from hub.store.policies import Policies
from protocol.topics import Broker

log = structlog.get_logger(__name__)


def serve(engine: Engine, keyring: Keyring, settings: Settings) -> None:
    """Serves until the process is told to stop."""
    ingest = Ingest(engine, keyring, Broker.parse(settings.mqtt))

    def answer(sign_key: bytes, seal_key: bytes, proof: bytes) -> bytes:
        keys = sign_key, seal_key
        return enrol(engine, keyring, settings.broker_for_edges, keys, proof, wall_ms())

    def trouble() -> str | None:
        if not ingest.alive():
            return "ingest has ended"
        if not ingest.health.connected:
            return "the broker cannot be reached"
        return ingest.health.trouble or ingest.health.derivation or None

    with reading(engine) as conn:
        zone = Policies.load(conn).zone(wall_ms())
    app = create_app(engine, zone=zone, enrol=answer, health=trouble)
    host, port = settings.address
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )
    ingest.start()
    log.info("serving", pages=f"http://{settings.listen}", broker=settings.mqtt)
    try:
        Server(app, config).run()
    finally:
        ingest.stop()
