"""The hub that a tutorial would have: paho, JSON, one ORM object and one commit a message.

    python -m tests.bench.tutorial DATABASE-URL BROKER-PORT TOPIC [wal]

It verifies, deduplicates and derives nothing. `wal`: SQLite in WAL mode with synchronous=FULL,
which tutorials leave out.
"""

import json
import socket
import sys
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from sqlalchemy import create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class TapRow(Base):
    __tablename__ = "tutorial_taps"

    id: Mapped[int] = mapped_column(primary_key=True)
    device: Mapped[str]
    reader: Mapped[str]
    uid: Mapped[str]
    at: Mapped[str]
    assurance: Mapped[str]


def main(url: str, port: int, topic: str, wal: str = "") -> None:
    engine = create_engine(url)
    if wal:
        event.listen(engine, "connect", _durable)
    Base.metadata.create_all(engine)

    def connected(client: paho.Client, *_: Any) -> None:
        client.subscribe(topic, qos=1)

    def subscribed(*_: Any) -> None:
        print("ready", flush=True)

    def message(_client: paho.Client, _data: Any, incoming: paho.MQTTMessage) -> None:
        with Session(engine) as session:
            session.add(TapRow(**json.loads(incoming.payload)))
            session.commit()

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.on_connect = connected
    client.on_subscribe = subscribed
    client.on_message = message
    client.on_socket_open = no_delay
    client.connect("127.0.0.1", port)
    client.loop_forever()


def _durable(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


def no_delay(_client: Any, _data: Any, sock: Any) -> None:
    """paho's on_socket_open: small packets leave at once."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
