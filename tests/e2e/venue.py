"""A venue and its hub, all real: pcscd with virtual cards, edge, mosquitto, hub, database.

What was presented and what was acknowledged is kept here, outside of every process that is killed
(`Ledger`); what is stored is read from the two databases, past the product's own code.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sqlalchemy import create_engine, make_url, text

from tests.rig import Mosquitto, Pcscd, TcpProxy, UidCard, VirtualReader, wait_for
from tests.rig.product import Edge, Hub

DISTRICT = Path(__file__).parents[2] / "deploy" / "demo" / "district"


@dataclass
class Ledger:
    """Every card that was held to the reader, and those whose light said that it is recorded."""

    presented: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)

    def next_card(self) -> str:
        """A UID that was never presented before."""
        uid = f"{0x04_5A5A_0000_0000 + len(self.presented):014X}"
        self.presented.append(uid)
        return uid


class Venue:
    """Starts everything; the edge's and the hub's connections to the broker run through proxies."""

    def __init__(self, directory: Path, database: str = "") -> None:
        with ExitStack() as stack:
            (directory / "pcscd").mkdir()
            self.pcscd = stack.enter_context(Pcscd(directory / "pcscd"))
            self.mosquitto = stack.enter_context(Mosquitto(directory / "mosquitto"))
            self.edge_line = stack.enter_context(TcpProxy(self.mosquitto.port))
            self.hub_line = stack.enter_context(TcpProxy(self.mosquitto.port))
            self.hub = stack.enter_context(
                Hub(
                    directory / "hub",
                    mqtt=f"mqtt://127.0.0.1:{self.hub_line.port}",
                    edge_mqtt=f"mqtt://127.0.0.1:{self.edge_line.port}",
                    database=database,
                )
            )
            self.hub.command("init")
            for register in ("organisations", "members", "venues", "cards"):
                self.hub.command("import", register, str(DISTRICT / f"{register}.csv"))
            code = self.hub.command("device", "add", "门口-01", "--venue", "V-1").strip()
            self.hub.start()
            self.edge = stack.enter_context(Edge(directory / "edge", self.pcscd.env))
            self.edge.enrol(self.hub.url, code)
            self.edge.start()
            self.reader = stack.enter_context(VirtualReader(self.pcscd.ports[0]))
            self.ledger = Ledger()
            self._engine = create_engine(make_url(self.hub.database))
            stack.callback(self._engine.dispose)
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- tapping --------------------------------------------------------------------------------

    def tap(self, uid: str | None = None) -> str:
        """Taps a card and waits for its light, which is noted; gives the UID."""
        uid = uid or self.ledger.next_card()
        seen = len(self.edge.lights)
        self.reader.tap_until_read(UidCard(bytes.fromhex(uid)))
        self.edge.wait_recorded(seen)
        self.ledger.acknowledged.append(uid)
        return uid

    @contextmanager
    def tapping(self, when_read: Callable[[], None] | None = None) -> Iterator[str]:
        """Holds a new card to the reader until the block ends, where it must have been read.

        `when_read` is called at the moment at which the UID leaves the card. A light that shows
        before the block ends is noted.
        """
        uid = self.ledger.next_card()
        seen = len(self.edge.lights)
        answers = len(self.reader.answers)
        if when_read is not None:
            self.reader.on_answer = lambda _answer: when_read()
        self.reader.present(UidCard(bytes.fromhex(uid)))
        wait_for(lambda: len(self.reader.answers) > answers, "a card that was read")
        try:
            yield uid
        finally:
            self.reader.on_answer = None
            self.reader.remove()
            if any(light.recorded for light in self.edge.lights[seen:]):
                self.ledger.acknowledged.append(uid)

    # --- looking from outside -------------------------------------------------------------------

    def in_journal(self) -> int:
        """Taps in the edge's journal."""
        with self._journal() as db:
            return int(
                db.execute("SELECT count(*) FROM entries WHERE sealed NOTNULL").fetchone()[0]
            )

    def without_receipt(self) -> int:
        """Entries in the journal that no receipt has released."""
        with self._journal() as db:
            return int(
                db.execute(
                    "SELECT count(*) FROM entries JOIN epochs ON id = epoch_id WHERE seq > released"
                ).fetchone()[0]
            )

    @contextmanager
    def journal_locked(self) -> Iterator[None]:
        """While the block runs, nobody else can commit to the journal."""
        db = sqlite3.connect(self.edge.journal, isolation_level=None, timeout=10)
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            db.execute("ROLLBACK")
            db.close()

    @contextmanager
    def _journal(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(f"file:{self.edge.journal}?mode=ro", uri=True, timeout=10)
        try:
            yield db
        finally:
            db.close()

    def look_away(self) -> None:
        """Lets go of the hub's database, so that its files can be replaced."""
        self._engine.dispose()

    def at_hub(self) -> Counter[str]:
        """How often each UID is stored at the hub."""
        with self._engine.connect() as conn:
            return Counter(
                conn.scalars(
                    text(
                        "SELECT value FROM entries"
                        " JOIN credentials ON credentials.id = entries.credential_id"
                    )
                )
            )

    def wait_at_hub(self, uid: str, timeout_s: float = 15) -> None:
        wait_for(lambda: uid in self.at_hub(), f"{uid} at the hub", timeout_s)

    def check(self, timeout_s: float = 60) -> None:
        """Once all has arrived: each acknowledged tap once, and none that was not presented."""
        wait_for(lambda: self.without_receipt() == 0, "receipts for everything", timeout_s)
        # the journal's pages and the hub's are read at two moments: what is released is stored
        time.sleep(0.1)
        stored = self.at_hub()
        doubled = {uid: count for uid, count in stored.items() if count != 1}
        lost = set(self.ledger.acknowledged) - stored.keys()
        strange = stored.keys() - set(self.ledger.presented)
        assert not lost, f"acknowledged and lost: {lost}"
        assert not doubled, f"stored more than once: {doubled}"
        assert not strange, f"stored and never presented: {strange}"
        assert sum(stored.values()) == self.in_journal()
        assert "sound" in self.edge.command("journal", "verify")
