"""How many entries a second the hub takes in, on SQLite and on PostgreSQL.

`shuaka-hub serve` and the tutorial hub are processes of their own; this one publishes to both
through the same broker and looks into their databases from outside. They take turns. Whatever the
publisher and the broker need is taken from the same cores.
"""

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from sqlalchemy import Engine, create_engine, make_url, text

from hub.derive import derive_batch
from hub.ingest.landing import Landing, Message
from hub.ingest.service import MAX_GROUP
from hub.keys import Keyring
from hub.store.engine import reading
from tests.bench.district import BATCH, BRANCHES, District, make, stored, underived
from tests.bench.figures import Figure, rate
from tests.bench.tutorial import no_delay
from tests.rig import Child, Mosquitto, Postgres, wait_for
from tests.rig.product import Hub

CHUNK: Final = 5000
"""Rows a transaction of the raw limits, as many as the product takes at most with a good wind."""
WARM_UP: Final = BRANCHES
"""Messages before the first round."""
Publish = Callable[[Sequence[Message]], None]
BROKER: Final = ("max_queued_messages 1000000", "max_inflight_messages 100")


@dataclass(slots=True)
class _Rates:
    """Entries per second, a value a round."""

    committed: list[float] = field(default_factory=list)
    derived: list[float] = field(default_factory=list)
    tutorials: dict[str, list[float]] = field(default_factory=dict)


def measure(folder: Path, rounds: int, taps: int, messages: int) -> list[Figure]:
    """Each round: `taps` entries to the product and `messages` to the tutorial hub."""
    figures: list[Figure] = []
    with ExitStack() as stack:
        broker = stack.enter_context(Mosquitto(folder / "broker", extra=BROKER))
        server = stack.enter_context(Postgres(folder / "postgres"))
        district = make(Hub(folder / "keys", broker.url), rounds * taps + WARM_UP * BATCH)
        for name, new in (
            ("SQLite", _files(folder)),
            ("PostgreSQL", server.create_database),
        ):
            figures += _on(folder / name, name, new, broker, district, rounds, messages)
    return figures


def _on(
    folder: Path,
    name: str,
    new: Callable[[], str],
    broker: Mosquitto,
    district: District,
    rounds: int,
    messages: int,
) -> list[Figure]:
    hub = Hub(folder / "hub", broker.url, new())
    engine = district.settle(hub)
    rates = _Rates()
    sqlite = name == "SQLite"
    with ExitStack() as stack:
        stack.enter_context(hub)
        tutorials = {
            topic: stack.enter_context(_tutorial(folder, new(), broker, topic, *wal))
            for topic, *wal in ([["plain"], ["tuned", "wal"]] if sqlite else [["plain"]])
        }
        publish = stack.enter_context(_publisher(broker))
        hub.start()
        _warm_up(publish, engine, tutorials, district)
        sent, rest = sum(district.sizes[:WARM_UP]), len(district.messages) - WARM_UP
        for turn in range(rounds):
            span = slice(WARM_UP + turn * rest // rounds, WARM_UP + (turn + 1) * rest // rounds)
            before, sent = sent, sent + sum(district.sizes[span])
            _product_round(publish, engine, district.messages[span], before, sent, rates)
            _tutorial_round(publish, tutorials, messages, rates)
    alone, derivation = _landing_alone(Hub(folder / "alone", broker.url, new()), district)
    raw = _raw(engine, name)
    engine.dispose()
    slow = {topic: median(each) for topic, each in rates.tutorials.items()}

    def times(value: float) -> str:
        tuned = f" ({value / slow['tuned']:.1f} × with WAL)" if sqlite else ""
        return f"{value / slow['plain']:.1f} × tutorial{tuned}"

    fast, whole = median(rates.committed), median(rates.derived)
    figures = [
        rate(
            f"hub ingest, {name}: mosquitto → committed",
            fast,
            f"{times(fast)}, {fast / raw:.2f} × raw (target ≥ 20 × tutorial)",
        ),
        rate("  … until all attendance is derived too", whole, times(whole)),
        rate("  Landing alone, no broker, no derivation", alone, times(alone)),
        rate("  derivation alone", derivation, times(derivation)),
        rate(f"  raw {'executemany' if sqlite else 'COPY'} of the same rows", raw, times(raw)),
        rate("  tutorial hub: paho, JSON, an ORM commit a message", slow["plain"]),
    ]
    if sqlite:
        figures.append(rate("  tutorial hub, with WAL and synchronous=FULL", slow["tuned"]))
    return figures


def _warm_up(
    publish: Publish, engine: Engine, tutorials: Mapping[str, Engine], district: District
) -> None:
    """A message of each edge, and as many to the tutorial hub: statements compiled, caches warm."""
    aside = _Rates()
    first = sum(district.sizes[:WARM_UP])
    _product_round(publish, engine, district.messages[:WARM_UP], 0, first, aside)
    _tutorial_round(publish, tutorials, WARM_UP, aside)


def _product_round(
    publish: Publish,
    engine: Engine,
    part: Sequence[Message],
    before: int,
    after: int,
    rates: _Rates,
) -> None:
    began = time.perf_counter()
    publish(part)
    wait_for(lambda: stored(engine) == after, f"{after} entries at the hub", timeout_s=120)
    committed = time.perf_counter() - began
    wait_for(lambda: underived(engine) == 0, "derivation", timeout_s=120)
    whole = time.perf_counter() - began
    rates.committed.append((after - before) / committed)
    rates.derived.append((after - before) / whole)


def _tutorial_round(
    publish: Publish, tutorials: Mapping[str, Engine], count: int, rates: _Rates
) -> None:
    for topic, engine in tutorials.items():
        part = [
            Message(
                topic,
                json.dumps(
                    {
                        "device": f"bench-{at % BRANCHES:02}",
                        "reader": "reader",
                        "uid": f"{0x04_0000_0000_0000 + at:014X}",
                        "at": "2026-01-01T17:00:00+08:00",
                        "assurance": "UID",
                    }
                ).encode(),
            )
            for at in range(count)
        ]
        wanted = _taught(engine) + count
        began = time.perf_counter()
        publish(part)
        wait_for(partial(_has_learnt, engine, wanted), "the tutorial hub's commits", timeout_s=120)
        taken = count / (time.perf_counter() - began)
        rates.tutorials.setdefault(topic, []).append(taken)


def _has_learnt(engine: Engine, count: int) -> bool:
    return _taught(engine) == count


def _taught(engine: Engine) -> int:
    with engine.connect() as conn:
        return int(
            conn.execute(text("SELECT coalesce(max(id), 0) FROM tutorial_taps")).scalar_one()
        )


def _landing_alone(hub: Hub, district: District) -> tuple[float, float]:
    """The same messages in the same groups, without broker and receipts; then derivation."""
    engine = district.settle(hub)
    landing = Landing(Keyring.load(hub.directory / "data"))
    gc.collect()
    gc.freeze()  # as the hub does: this process holds all that was published
    began = time.perf_counter()
    for at in range(0, len(district.messages), MAX_GROUP):
        with engine.begin() as conn:
            landing.land(conn, district.messages[at : at + MAX_GROUP], 1_777_000_000_000)
    landed = time.perf_counter()
    while True:
        with engine.begin() as conn:
            if not derive_batch(conn).batches:
                break
    derived = time.perf_counter()
    assert stored(engine) == district.entries
    engine.dispose()
    return district.entries / (landed - began), district.entries / (derived - landed)


def _raw(engine: Engine, name: str) -> float:
    """The rows that the product stored, into a copy of the table with its indexes and no keys."""
    with reading(engine) as conn:
        rows = [tuple(row) for row in conn.execute(text("SELECT * FROM entries"))]
    raw = engine.raw_connection()
    try:
        return len(rows) / (_copy(raw, rows) if name == "PostgreSQL" else _executemany(raw, rows))
    finally:
        raw.detach()
        raw.close()


def _copy(db: Any, rows: Sequence[tuple[Any, ...]]) -> float:
    cursor = db.cursor()
    cursor.execute("CREATE TABLE raw_entries (LIKE entries INCLUDING ALL)")
    db.commit()
    began = time.perf_counter()
    for at in range(0, len(rows), CHUNK):
        with cursor.copy("COPY raw_entries FROM STDIN") as copy:
            for row in rows[at : at + CHUNK]:
                copy.write_row(row)
        db.commit()
    return time.perf_counter() - began


def _executemany(db: Any, rows: Sequence[tuple[Any, ...]]) -> float:
    cursor = db.cursor()
    cursor.execute("PRAGMA query_only = OFF")
    (table,) = cursor.execute("SELECT sql FROM sqlite_master WHERE name = 'entries'").fetchone()
    indexes = cursor.execute(
        "SELECT sql FROM sqlite_master"
        " WHERE tbl_name = 'entries' AND type = 'index' AND sql NOTNULL"
    ).fetchall()
    cursor.execute(table.replace("entries", "raw_entries", 1))
    for (index,) in indexes:
        cursor.execute(index.replace("INDEX ", "INDEX raw_", 1).replace(" entries", " raw_entries"))
    cursor.execute("PRAGMA foreign_keys = OFF")
    insert = f"INSERT INTO raw_entries VALUES ({','.join('?' * len(rows[0]))})"  # noqa: S608
    began = time.perf_counter()
    for at in range(0, len(rows), CHUNK):
        cursor.execute("BEGIN IMMEDIATE")
        cursor.executemany(insert, rows[at : at + CHUNK])
        cursor.execute("COMMIT")
    return time.perf_counter() - began


@contextmanager
def _tutorial(folder: Path, url: str, broker: Mosquitto, topic: str, *wal: str) -> Iterator[Engine]:
    arguments = [sys.executable, "-m", "tests.bench.tutorial", url, str(broker.port), topic, *wal]
    child = Child(arguments, log=folder / f"tutorial-{topic}.log")
    engine = create_engine(make_url(url))
    try:
        child.wait_until(lambda: "ready" in child.log_text(), "the tutorial hub", timeout_s=30)
        yield engine
    finally:
        child.kill()
        engine.dispose()


@contextmanager
def _publisher(broker: Mosquitto) -> Iterator[Publish]:
    """Publishes at QoS 1 as fast as the broker takes it."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.max_inflight_messages_set(100)
    client.on_socket_open = no_delay
    client.connect("127.0.0.1", broker.port)
    client.loop_start()

    def publish(messages: Sequence[Message]) -> None:
        infos = [client.publish(each.topic, each.payload, qos=1) for each in messages]
        infos[-1].wait_for_publish(60)

    try:
        yield publish
    finally:
        client.disconnect()
        client.loop_stop()


def _files(folder: Path) -> Callable[[], str]:
    """A fresh SQLite file at each call."""
    numbers = iter(range(100))
    return lambda: f"sqlite:///{folder / f'hub-{next(numbers)}.db'}"
