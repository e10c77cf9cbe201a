"""The hub's end: what is committed, what a crash or a failed commit leaves, and the receipts.

Two of them: `DictHub` reads messages with the product's code and commits to dictionaries; `FileHub`
is the product's own ingest (`hub.ingest.service`, `hub.ingest.files`) on SQLite, without its
threads. Both can be put back to an earlier state, which begins a new generation.
"""

import sqlite3
from bisect import insort
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Protocol
from uuid import UUID

from sqlalchemy import Engine, event, insert
from sqlalchemy.exc import OperationalError

from hub.derive import _date
from hub.domain import completeness
from hub.ingest import service
from hub.ingest.files import FileIngest
from hub.ingest.landing import Message, _read
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.clocks import believed
from hub.store.engine import open_engine
from hub.store.state import begin_generation
from protocol import topics
from protocol.batch import Batch, Heartbeat, Hello, HubState
from protocol.courierfile import Channel as FileChannel
from protocol.courierfile import CourierReader, Direction, Item, begin, end
from protocol.delivery import Mark, accept
from protocol.errors import Reason, RemoteError
from protocol.identity import MessageType
from protocol.journal import Action, Entry, EpochHeader, Gap, Tap, chain_start, decode_entry, link
from protocol.sealing import SubjectBox, unwrap_content_key
from protocol.timekeeping import Dated, Sample
from protocol.topics import parse_up
from tests.simulation.invariants import check

Outgoing = tuple[str, bytes]
Key = tuple[bytes, bytes]
"""(edge, epoch)"""

MAX_GROUP: Final = 64


class CommitFailed(Exception):  # noqa: N818 - it reads as what it says
    """The database failed at the commit; the process lives on and tries again."""


class Watch(Protocol):
    """What the hub tells the world."""

    def hub_step(self, where: str) -> None:
        """A step is about to be made; raises HubCrash where the process dies."""

    def commit_fails(self) -> bool:
        """Whether this commit fails."""

    def committed(self, key: Key, fact: "Fact") -> None:
        """A tap was committed for the first time."""


class Hub(Protocol):
    """The hub's process and database."""

    rejected: Counter[str]

    def land(self, messages: Sequence[tuple[str, bytes]], now_ms: int) -> None:
        """Takes messages in and publishes receipts; raises CommitFailed."""

    def carry_in(self, file: bytes, now_ms: int) -> dict[bytes, bytes]:
        """Takes a stick's file in; gives the files to carry back, by edge."""

    def begin_session(self) -> tuple[bytes, bytes]:
        """A connection's signed words: here I am, and I am gone."""

    def die(self) -> None:
        """The process dies: what it held in memory is gone."""

    def back_up(self) -> object: ...

    def restore(self, backup: object, now_ms: int) -> None: ...

    def contiguous(self, key: Key, generation: int) -> int:
        """How far all entries of an epoch were stored in the memory of that generation, counted
        from what is stored and not from any mark."""

    def taps(self) -> Counter[int]:
        """How often each tap is stored, by its card's number."""


# --- in dictionaries ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fact:
    """A stored entry that says something; a tap has its card's number."""

    tap: int | None
    boottime_ms: int
    wall_ms: int
    trusted: bool
    received_ms: int


@dataclass(slots=True)
class _Stored:
    """What is committed of one epoch."""

    header: EpochHeader
    header_bytes: bytes
    mark: Mark
    seqs: dict[int, Fact | None] = field(default_factory=dict)
    """seq -> its fact; None: a gap was stated."""
    gaps: tuple[Gap, ...] = ()
    contiguous: int = 0
    first_received_ms: int = 0

    def copy(self) -> "_Stored":
        return replace(self, seqs=dict(self.seqs))


@dataclass(slots=True)
class _Database:
    generation: int
    session: int = 0
    epochs: dict[Key, _Stored] = field(default_factory=dict)
    heartbeats: dict[bytes, list[tuple[Heartbeat, int]]] = field(default_factory=dict)
    samples: dict[Key, list[Sample]] = field(default_factory=dict)
    """By (edge, boot), in order."""

    def copy(self) -> "_Database":
        return _Database(
            self.generation,
            self.session,
            {key: each.copy() for key, each in self.epochs.items()},
            {edge: list(each) for edge, each in self.heartbeats.items()},
            {boot: list(each) for boot, each in self.samples.items()},
        )


class DictHub:
    """A hub whose database is a dictionary."""

    def __init__(
        self,
        keyring: Keyring,
        devices: Mapping[bytes, bytes],
        generation: int,
        publish: Callable[[str, bytes], None],
        watch: Watch,
        enrolled_ms: int,
    ) -> None:
        self._keyring, self._publish, self._watch = keyring, publish, watch
        self._devices: dict[bytes, Any] = {
            edge: SimpleNamespace(edge=edge, sign_key=key) for edge, key in devices.items()
        }
        self._enrolled_ms = enrolled_ms
        self.database = _Database(generation)
        self._past: dict[int, dict[Key, int]] = {}
        self._boxes: dict[Key, SubjectBox | None] = {}
        self.rejected: Counter[str] = Counter()

    def begin_session(self) -> tuple[bytes, bytes]:
        self.database.session += 1
        state = HubState(self.database.generation, self.database.session, online=True)
        sign = self._keyring.sign.sign
        return (
            sign(MessageType.HUB_STATE, state.encode()),
            sign(MessageType.HUB_STATE, replace(state, online=False).encode()),
        )

    def die(self) -> None:
        self._boxes.clear()

    def back_up(self) -> object:
        return self.database.copy()

    def restore(self, backup: object, now_ms: int) -> None:
        assert isinstance(backup, _Database)
        past = self.database
        self._past[past.generation] = {k: e.contiguous for k, e in past.epochs.items()}
        self.database = backup.copy()
        self.database.generation = max(past.generation + 1, now_ms // 1000)

    def contiguous(self, key: Key, generation: int) -> int:
        if generation in self._past:
            return self._past[generation].get(key, 0)
        stored = self.database.epochs.get(key)
        return stored.contiguous if stored else 0

    def taps(self) -> Counter[int]:
        return Counter(
            fact.tap
            for stored in self.database.epochs.values()
            for fact in stored.seqs.values()
            if fact is not None and fact.tap is not None
        )

    # --- landing ----------------------------------------------------------------------------------

    def land(self, messages: Sequence[tuple[str, bytes]], now_ms: int) -> None:
        for topic, payload in self._land(messages, now_ms):
            self._watch.hub_step("between receipts")
            self._publish(topic, payload)

    def carry_in(self, file: bytes, now_ms: int) -> dict[bytes, bytes]:
        reader = CourierReader(Direction.UP)
        answers: dict[bytes, list[Item]] = {}
        items = reader.feed(file)
        reader.close()
        for at in range(0, len(items), MAX_GROUP):
            group = [(each.topic, each.payload) for each in items[at : at + MAX_GROUP]]
            for topic, payload in self._land(group, now_ms):
                edge = bytes.fromhex(topic.split("/")[3])
                answers.setdefault(edge, []).append(Item(FileChannel.RECEIPT, edge, payload))
        return {
            edge: begin(Direction.DOWN) + b"".join(map(Item.encode, items)) + end(len(items))
            for edge, items in answers.items()
        }

    def _land(self, messages: Sequence[tuple[str, bytes]], now_ms: int) -> list[Outgoing]:
        staged = _Staged(self.database)
        for topic, payload in messages:
            try:
                self._take(staged, topic, payload, now_ms)
            except RemoteError as error:
                self.rejected[error.reason] += 1
        self._watch.hub_step("before the commit")
        if self._watch.commit_fails():
            raise CommitFailed
        self._commit(staged, now_ms)
        self._watch.hub_step("after the commit")
        generation = self.database.generation
        return [
            (
                topics.receipt(key[0]),
                self._keyring.sign.sign(
                    MessageType.RECEIPT,
                    self.database.epochs[key].mark.receipt(key[0], generation, key[1]).encode(),
                ),
            )
            for key in staged.touched
        ]

    def _take(self, staged: "_Staged", topic: str, payload: bytes, now_ms: int) -> None:
        edge, channel = parse_up(topic)
        device = self._devices.get(edge)
        if device is None:
            raise RemoteError(Reason.UNKNOWN_DEVICE, "no such device")
        arrived = _read(Message(topic, payload), device, channel)
        match arrived.value:
            case Batch() as batch:
                assert arrived.header is not None
                self._batch(staged, edge, arrived.header, batch, arrived.subjects, now_ms)
            case Hello() as hello:
                named = [(edge, epoch) for epoch, _, _ in hello.held]
                staged.touched |= dict.fromkeys(key for key in named if staged.epoch(key))
            case Heartbeat() as heartbeat:
                if staged.epoch((edge, heartbeat.epoch)) is None:
                    raise RemoteError(Reason.UNKNOWN_EPOCH, "not yet known")
                staged.heartbeats.append((edge, heartbeat))

    def _batch(
        self,
        staged: "_Staged",
        edge: bytes,
        header: EpochHeader,
        batch: Batch,
        subjects: Mapping[bytes, bytes],
        now_ms: int,
    ) -> None:
        key = (edge, header.epoch)
        stored = staged.epoch(key) or staged.begin(
            key, _Stored(header, batch.header_bytes, Mark(0, chain_start(batch.header_bytes)))
        )
        if stored.header_bytes != batch.header_bytes:
            raise RemoteError(Reason.CONFLICT, "another header")
        accepted = accept(
            stored.mark,
            batch.previous,
            list(link(batch.first, batch.previous, batch.items)),
            stored.gaps,
        )
        box = self._box(key, header)
        facts: dict[int, Fact | None] = {}
        gaps = []
        for each in accepted.fresh:
            if isinstance(each.item, Gap):
                gaps.append(Gap(each.first, each.last, each.digest, each.item.reason))
                facts |= dict.fromkeys(range(each.first, each.last + 1))
                continue
            entry = decode_entry(each.item)
            tap = self._tap(entry, box, each.first, subjects)
            at = entry.at
            facts[each.first] = Fact(tap, at.boottime_ms, at.wall_ms, at.trusted, now_ms)
        staged.take(key, accepted.mark, facts, tuple(gaps), accepted.returned)

    def _tap(
        self, entry: Entry, box: SubjectBox | None, seq: int, subjects: Mapping[bytes, bytes]
    ) -> int | None:
        if not isinstance(entry, Tap | Action):
            return None
        sealed = subjects.get(entry.subject)
        if sealed is None:
            raise RemoteError(Reason.DAMAGED_SUBJECTS, f"the subject of {seq} is missing")
        assert box is not None
        return int(box.open(seq, sealed).value, 16)

    def _box(self, key: Key, header: EpochHeader) -> SubjectBox | None:
        if key not in self._boxes:
            opening = self._keyring.opening_key(header.hub_key)
            assert opening is not None
            content = unwrap_content_key(header.wrapped_key, opening, *key)
            self._boxes[key] = SubjectBox(content, *key)
        return self._boxes[key]

    def _commit(self, staged: "_Staged", now_ms: int) -> None:
        database = self.database
        for key, change in staged.changes.items():
            stored = database.epochs.get(key)
            if stored is None:
                stored = database.epochs[key] = change.stored
                stored.first_received_ms = now_ms
                opened = stored.header.opened
                if opened.trusted and believed(opened.wall_ms, now_ms):
                    self._sample(key[0], stored, opened.boottime_ms, opened.wall_ms)
            for seq, fact in change.facts.items():
                again = stored.seqs.get(seq) is not None
                check(not again, "a fact is stored a second time")
                stored.seqs[seq] = fact
                if fact is None:
                    continue
                if fact.trusted and believed(fact.wall_ms, fact.received_ms):
                    self._sample(key[0], stored, fact.boottime_ms, fact.wall_ms)
                if fact.tap is not None:
                    self._watch.committed(key, fact)
            stored.mark, stored.gaps = change.mark, change.gaps
            while stored.contiguous + 1 in stored.seqs:
                stored.contiguous += 1
            _check_mark(stored)
        for edge, heartbeat in staged.heartbeats:
            database.heartbeats.setdefault(edge, []).append((heartbeat, now_ms))
            at = heartbeat.at
            if at.trusted and believed(at.wall_ms, now_ms):
                self._sample(
                    edge, database.epochs[edge, heartbeat.epoch], at.boottime_ms, at.wall_ms
                )

    def _sample(self, edge: bytes, stored: _Stored, boottime_ms: int, wall_ms: int) -> None:
        samples = self.database.samples.setdefault((edge, stored.header.boot), [])
        sample = Sample(boottime_ms, wall_ms)
        if sample not in samples[-8:]:
            insort(samples, sample)

    # --- what it makes of it ----------------------------------------------------------------------

    def dated(self, key: Key, fact: Fact) -> Dated:
        """When a fact was, by the product's `hub.derive`."""
        header = self.database.epochs[key].header
        boot = (1, header.boot)
        row = SimpleNamespace(
            epoch_id=1,
            device_id=1,
            boot_id=header.boot,
            trusted=fact.trusted,
            boottime_ms=fact.boottime_ms,
            wall_ms=fact.wall_ms,
            received_ms=fact.received_ms,
        )
        samples = {boot: self.database.samples.get((key[0], header.boot), [])}
        return _date(row, samples, _NotBefore(lambda: self._not_before(key)))  # type: ignore[arg-type]

    def _not_before(self, key: Key) -> int:
        """As `hub.store.clocks.not_before`, which is a query."""
        parent = self.database.epochs[key].header.parent
        if parent is None:
            return self._enrolled_ms
        before = self.database.epochs.get((key[0], parent.epoch))
        if before is None:
            return self._enrolled_ms
        for seq in range(parent.seq, 0, -1):
            fact = before.seqs.get(seq)
            if fact and fact.trusted and believed(fact.wall_ms, fact.received_ms):
                return max(self._enrolled_ms, fact.wall_ms)
        return self._enrolled_ms

    def completeness(self, edge: bytes) -> completeness.Completeness:
        """What the product makes of the device's statements."""
        epochs = []
        for key, each in self.database.epochs.items():
            if key[0] != edge:
                continue
            header, parent = each.header, each.header.parent
            opened = header.opened
            fact = Fact(
                None, opened.boottime_ms, opened.wall_ms, opened.trusted, each.first_received_ms
            )
            epochs.append(
                completeness.Epoch(
                    header.epoch,
                    parent and completeness.Parent(parent.epoch, parent.seq, parent.digest),
                    each.mark.through,
                    each.mark.digest if each.mark.through else None,
                    max(each.seqs, default=0),
                    _exact(self.dated(key, fact)),
                )
            )
        statements = [
            completeness.Statement(
                beat.epoch,
                beat.head,
                beat.digest,
                _exact(
                    self.dated(
                        (edge, beat.epoch),
                        Fact(
                            None, beat.at.boottime_ms, beat.at.wall_ms, beat.at.trusted, received_ms
                        ),
                    )
                ),
                received_ms,
            )
            for beat, received_ms in self.database.heartbeats.get(edge, [])[-30:]
        ]
        return completeness.completeness(epochs, statements)


class _NotBefore(dict[int, int]):
    """Looked up only for what needs it."""

    def __init__(self, of: Callable[[], int]) -> None:
        self._of = of

    def __missing__(self, _epoch: int) -> int:
        return self._of()


def _exact(dated: Dated) -> int | None:
    return dated.earliest_ms if dated.exact else None


@dataclass(slots=True)
class _Change:
    stored: _Stored
    mark: Mark
    gaps: tuple[Gap, ...]
    facts: dict[int, Fact | None] = field(default_factory=dict)


class _Staged:
    """A transaction that is not committed yet."""

    def __init__(self, database: _Database) -> None:
        self._database = database
        self.changes: dict[Key, _Change] = {}
        self.touched: dict[Key, None] = {}
        self.heartbeats: list[tuple[bytes, Heartbeat]] = []

    def epoch(self, key: Key) -> _Stored | None:
        """An epoch as this transaction sees it."""
        change = self.changes.get(key)
        if change is not None:
            return replace(change.stored, mark=change.mark, gaps=change.gaps)
        return self._database.epochs.get(key)

    def begin(self, key: Key, stored: _Stored) -> _Stored:
        self.changes[key] = _Change(stored, stored.mark, stored.gaps)
        return stored

    def take(
        self,
        key: Key,
        mark: Mark,
        facts: Mapping[int, Fact | None],
        gaps: tuple[Gap, ...],
        returned: tuple[Gap, ...],
    ) -> None:
        self.touched[key] = None
        change = self.changes.get(key)
        if change is None:
            stored = self._database.epochs[key]
            change = self.changes[key] = _Change(stored, stored.mark, stored.gaps)
        change.mark = mark
        change.gaps = tuple(each for each in change.gaps if each not in returned) + gaps
        change.facts.update(facts)


def _check_mark(stored: _Stored) -> None:
    """The mark says what is stored: no more, which loses entries, and no less."""
    mark = stored.mark
    check(
        mark.through == stored.contiguous,
        f"the mark says {mark.through}, stored are all up to {stored.contiguous}",
    )
    told = mark.through + sum(island.last - island.first + 1 for island in mark.islands)
    check(told == len(stored.seqs), f"the mark tells of {told}, stored are {len(stored.seqs)}")
    end_ = mark.through
    for island in mark.islands:
        check(island.first > end_ + 1, "islands touch")
        end_ = island.last
        check(island.first in stored.seqs and end_ in stored.seqs, "an island is not stored")


# --- on a file ------------------------------------------------------------------------------------


class FileHub:
    """The product's ingest on SQLite, driven without its threads."""

    def __init__(
        self,
        keyring: Keyring,
        devices: Mapping[bytes, bytes],
        generation: int,
        publish: Callable[[str, bytes], None],
        watch: Watch,
        enrolled_ms: int,
        folder: Path,
    ) -> None:
        self._keyring, self._publish, self._watch = keyring, publish, watch
        self._path = folder / "hub.db"
        self._now_ms = enrolled_ms
        self._backups = 0
        self._past: dict[int, dict[Key, int]] = {}
        self.rejected: Counter[str] = Counter()
        self._engine = self._open()
        s.metadata.create_all(self._engine)
        with self._engine.begin() as conn:
            begin_generation(conn, generation * 1000)
            for n, (edge, key) in enumerate(devices.items(), 1):
                conn.execute(
                    insert(s.devices).values(
                        public_id=UUID(bytes=edge),
                        name=f"device {n}",
                        status="ACTIVE",
                        sign_key=key,
                        seal_key=bytes(32),
                        enrolled_at_ms=enrolled_ms,
                    )
                )
        self._ingest = self._start()
        event.listen(self._engine, "commit", self._before_commit)

    def _open(self) -> Engine:
        return open_engine(f"sqlite:///{self._path}")

    def _start(self) -> Any:
        ingest = service.Ingest(
            self._engine,
            self._keyring,
            topics.Broker("broker.invalid", 1883, tls=False),
            now_ms=lambda: self._now_ms,
        )
        ingest._network = SimpleNamespace(publish=self._outgoing)  # type: ignore[assignment]
        # no meetings, no rosters: they are asked for all the same, and that takes long
        ingest._rosters = SimpleNamespace(due=lambda *_: ())  # type: ignore[assignment]
        return ingest

    def _outgoing(self, topic: str, payload: bytes) -> None:
        self._watch.hub_step("between receipts")
        self._publish(topic, payload)

    def _before_commit(self, _conn: Any) -> None:
        self._watch.hub_step("before the commit")
        if self._watch.commit_fails():
            raise OperationalError("COMMIT", {}, Exception("the storage fails"))

    def begin_session(self) -> tuple[bytes, bytes]:
        return self._ingest._state()  # type: ignore[no-any-return]

    def die(self) -> None:
        self._ingest = self._start()

    def land(self, messages: Sequence[tuple[str, bytes]], now_ms: int) -> None:
        self._now_ms = now_ms
        group = [service._Arrival(Message(*each), lambda: None) for each in messages]
        try:
            self._ingest._take(group)
        except OperationalError as error:
            raise CommitFailed from error
        for reason, count in self._ingest._untold.items():
            self.rejected[reason] += count
        self._ingest._untold.clear()

    def carry_in(self, file: bytes, now_ms: int) -> dict[bytes, bytes]:
        ingest = FileIngest(self._engine, self._keyring, now_ms)
        try:
            ingest.take([file])
        except OperationalError as error:
            raise CommitFailed from error
        return {edge: answer for edge, _, answer in ingest.answers()}

    def back_up(self) -> object:
        self._backups += 1
        path = self._path.with_name(f"backup-{self._backups}.db")
        with closing(sqlite3.connect(self._path)) as db, closing(sqlite3.connect(path)) as to:
            db.backup(to)
        return path

    def restore(self, backup: object, now_ms: int) -> None:
        assert isinstance(backup, Path)
        generation, past = self._contiguous()
        self._past[generation] = past
        self._engine.dispose()
        with closing(sqlite3.connect(backup)) as db, closing(sqlite3.connect(self._path)) as to:
            db.backup(to)
        event.remove(self._engine, "commit", self._before_commit)
        with self._engine.begin() as conn:
            conn.exec_driver_sql("UPDATE hub_state SET generation = ?", (generation,))
            begin_generation(conn, now_ms)
        event.listen(self._engine, "commit", self._before_commit)
        self.die()

    def contiguous(self, key: Key, generation: int) -> int:
        if generation in self._past:
            return self._past[generation].get(key, 0)
        return self._contiguous(key)[1].get(key, 0)

    def _contiguous(self, only: Key | None = None) -> tuple[int, dict[Key, int]]:
        with closing(sqlite3.connect(self._path)) as db:
            (generation,) = db.execute("SELECT generation FROM hub_state").fetchone()
            found: dict[Key, int] = {}
            for number, name, public_id in db.execute(
                "SELECT p.id, p.epoch, d.public_id FROM epochs p JOIN devices d"
                " ON d.id = p.device_id WHERE ? OR p.epoch = ?",
                (only is None, only and only[1]),
            ).fetchall():
                spans = db.execute(
                    "SELECT seq, seq FROM entries WHERE epoch_id = ?"
                    " UNION ALL SELECT first, last FROM gaps WHERE epoch_id = ? ORDER BY 1",
                    (number, number),
                ).fetchall()
                through = 0
                for first, last in spans:
                    if first > through + 1:
                        break
                    through = max(through, last)
                found[UUID(str(public_id)).bytes, name] = through
            return generation, found

    def taps(self) -> Counter[int]:
        with closing(sqlite3.connect(self._path)) as db:
            return Counter(
                {
                    int(value, 16): count
                    for value, count in db.execute(
                        "SELECT c.value, count(*) FROM entries e JOIN credentials c"
                        " ON c.id = e.credential_id GROUP BY c.value"
                    )
                }
            )
