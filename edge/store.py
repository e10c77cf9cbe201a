"""The journal on disk: SQLite in WAL mode with synchronous=FULL, so that a commit is durable.

Promises: `append` returns only after the entries and their digests are on storage that honours
fdatasync; an entry is never changed; what has no receipt is never removed. It does not decide when
to send, whom to tell, or whether a tap is a repeat.

One thread owns a `Journal`, which writes. Any number of `JournalReader`s read beside it.
"""

import contextlib
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, NoReturn, Self

from protocol.batch import MAX_ITEMS, Batch
from protocol.credential import Assurance, Credential
from protocol.errors import RemoteError
from protocol.identity import MAX_MESSAGE_BYTES, key_id
from protocol.journal import (
    Act,
    Action,
    ClockSample,
    Entry,
    EpochHeader,
    Gap,
    Link,
    Parent,
    Stamp,
    Tap,
    chain_next,
    chain_start,
    decode_entry,
    encode_entry,
)
from protocol.sealing import (
    CONTENT_KEY_BYTES,
    NONCE_BYTES,
    Place,
    SubjectBox,
    subject_digest,
    wrap_content_key,
)

FILE_NAME: Final = "journal.db"
LOCK_NAME: Final = "journal.lock"
SCHEMA_VERSION: Final = 2
APPLICATION_ID: Final = 0x73687561  # "shua"

DAMAGED: Final = "damaged"
FORMER: Final = "former"
"""Why a journal was set aside: it is kept as FILE_NAME.damaged-1, FILE_NAME.former-1 and so on."""

KEEP_RELEASED: Final = 100_000
"""Entries kept after their receipt, so that a hub restored from a backup can ask again."""

_SCHEMA: Final = """
CREATE TABLE epochs (
    id INTEGER PRIMARY KEY,
    epoch BLOB NOT NULL UNIQUE,
    header BLOB NOT NULL,
    first INTEGER NOT NULL DEFAULT 1,
    previous BLOB NOT NULL,
    released INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE header_copies (epoch BLOB PRIMARY KEY, header BLOB NOT NULL);
CREATE TABLE entries (
    epoch_id INTEGER NOT NULL REFERENCES epochs,
    seq INTEGER NOT NULL,
    entry BLOB NOT NULL,
    digest BLOB NOT NULL,
    sealed BLOB,
    about BLOB,
    PRIMARY KEY (epoch_id, seq)
) WITHOUT ROWID;
CREATE TABLE state (name TEXT PRIMARY KEY, value NOT NULL);
"""
_FROM_VERSION_1: Final = "ALTER TABLE entries ADD COLUMN about BLOB"


class JournalError(Exception):
    """The journal cannot be read or written; the message names the file and says why."""


class JournalBusyError(JournalError):
    """Another daemon has the journal open."""


class JournalNewerError(JournalError):
    """The journal was written by a later version, which alone can read it."""


@dataclass(frozen=True, slots=True)
class NewTap:
    """A tap that is about to become an entry: its subject is still in clear, in memory."""

    at: Stamp
    reader: str
    assurance: Assurance
    credential: Credential


@dataclass(frozen=True, slots=True)
class NewAction:
    """An action that is about to become an entry: both subjects are still in clear, in memory."""

    at: Stamp
    reader: str
    what: Act
    number: int | None
    assurance: Assurance
    credential: Credential
    """Of the card that authorises it."""
    about: Credential | None
    """Whom it speaks of."""


@dataclass(frozen=True, slots=True)
class Held:
    """An epoch in the journal: what is on disk and up to where it has a receipt."""

    epoch: bytes
    header: bytes
    first: int
    head: int
    released: int


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose journal it is, and whom its subjects are sealed to (raw X25519 public key)."""

    edge: bytes
    hub_seal: bytes
    rehearsal: bool = False
    """Whether its epochs count for nothing, see `protocol.journal.EpochHeader`."""


class Journal:
    """The journal open for writing, in a new epoch."""

    def __init__(
        self, db: sqlite3.Connection, lock: int, path: Path, header: EpochHeader, box: SubjectBox
    ) -> None:
        self._db = db
        self._lock = lock
        self.path = path
        self.header_bytes = header.encode()
        self.epoch = header.epoch
        self.boot = header.boot
        self.head = 0
        self.digest = chain_start(self.header_bytes)
        self._id = 0
        self._box = box
        self._next_digest = self.digest
        self._releases: dict[bytes, int] = {}
        self._alarm = ""

    @classmethod
    def open(cls, data: Path, owner: Owner, boot: bytes, now: Stamp) -> Self:
        """Opens the journal in folder `data` and begins an epoch, durably.

        Raises JournalBusyError, JournalNewerError, JournalError. A file that is damaged beyond
        use, or of another edge (this device was enrolled anew), is set aside under another name,
        never deleted, and a new one begun.
        """
        path = data / FILE_NAME
        try:
            data.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"{data}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise JournalBusyError(f"{path}: another shuaka-edge is writing here") from error
            try:
                db = _open_or_set_aside(path, owner.edge)
            except sqlite3.Error as error:
                raise JournalError(f"{path}: {error}") from error
            except OSError as error:
                raise JournalError(f"{path}: {error.strerror}") from error
            try:
                return cls._begin(db, lock, path, owner, boot, now)
            except BaseException:
                db.close()
                raise
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def _begin(
        cls,
        db: sqlite3.Connection,
        lock: int,
        path: Path,
        owner: Owner,
        boot: bytes,
        now: Stamp,
    ) -> Self:
        epoch = secrets.token_bytes(16)
        content_key = secrets.token_bytes(CONTENT_KEY_BYTES)
        try:
            header = EpochHeader(
                edge=owner.edge,
                epoch=epoch,
                boot=boot,
                opened=now,
                parent=_last_entry(db),
                software=f"shuaka-edge {version('shuaka')}",
                hub_key=key_id(owner.hub_seal),
                wrapped_key=wrap_content_key(content_key, owner.hub_seal, owner.edge, epoch),
                rehearsal=owner.rehearsal,
            )
            journal = cls(db, lock, path, header, SubjectBox(content_key, owner.edge, epoch))
            with _transaction(db):
                (journal._id,) = db.execute(
                    "INSERT INTO epochs (epoch, header, previous) VALUES (?, ?, ?) RETURNING id",
                    (epoch, journal.header_bytes, journal.digest),
                ).fetchone()
                db.execute("INSERT INTO header_copies VALUES (?, ?)", (epoch, journal.header_bytes))
                db.execute("DELETE FROM state WHERE name = 'alarm'")
                journal._write([ClockSample(now)])
        except sqlite3.Error as error:
            raise JournalError(f"{path}: {error}") from error
        journal._advance(1)
        return journal

    def append(self, items: Sequence[Entry | NewTap | NewAction]) -> int:
        """Makes `items` durable in one commit and gives the last seq.

        Raises JournalError; it is then unknown whether they are stored, and this object must not
        be used any more: close it and open the journal anew.
        """
        try:
            with _transaction(self._db):
                count = self._write(items)
                self._write_releases()
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: {error}") from error
        self._advance(count)
        return self.head

    def release(self, epoch: bytes, through: int) -> None:
        """Notes receipts up to `through`; written with the next commit or by `flush`.

        Losing the note only means that the entries are offered to the hub once more.
        """
        self._releases[epoch] = max(through, self._releases.get(epoch, 0))

    def flush(self) -> list[tuple[bytes, int]]:
        """Writes noted releases and prunes beyond KEEP_RELEASED. Raises JournalError.

        Gives (epoch, first seq still held) of each epoch that lost entries.
        """
        if not self._releases:
            return []
        try:
            with _transaction(self._db):
                self._write_releases()
                return self._prune()
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: {error}") from error

    def new_generation(self, generation: int) -> None:
        """The hub lost memory: nothing held counts as received any more. Raises JournalError."""
        self._releases.clear()
        try:
            with _transaction(self._db):
                self._db.execute("UPDATE epochs SET released = 0")
                self._db.execute("REPLACE INTO state VALUES ('generation', ?)", (generation,))
                self._db.execute("DELETE FROM state WHERE name = 'alarm'")
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: {error}") from error
        self._alarm = ""

    def alarm(self, reason: str) -> None:
        """Keeps for the doctor that journal and hub differ, until the next epoch or generation.

        Raises JournalError.
        """
        if reason == self._alarm:
            return
        try:
            with _transaction(self._db):
                self._db.execute("REPLACE INTO state VALUES ('alarm', ?)", (reason,))
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: {error}") from error
        self._alarm = reason

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        os.close(self._lock)

    # ------------------------------------------------------------------

    def _write(self, items: Sequence[Entry | NewTap | NewAction]) -> int:
        """Inserts; the chain's end in memory moves only once the commit has succeeded."""
        self._next_digest = self.digest
        rows = []
        for seq, item in enumerate(items, self.head + 1):
            written, sealed, about = self._sealed(seq, item)
            entry = encode_entry(written)
            self._next_digest = chain_next(self._next_digest, entry)
            rows.append((self._id, seq, entry, self._next_digest, sealed, about))
        self._db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", rows)
        return len(rows)

    def _sealed(
        self, seq: int, item: Entry | NewTap | NewAction
    ) -> tuple[Entry, bytes | None, bytes | None]:
        """What is written of `item` at `seq`, and its sealed subjects."""
        if not isinstance(item, NewTap | NewAction):
            return item, None, None
        sealed = self._box.seal(seq, item.credential, secrets.token_bytes(NONCE_BYTES))
        subject = subject_digest(sealed)
        if isinstance(item, NewTap):
            return Tap(item.at, item.reader, item.assurance, subject), sealed, None
        about = None
        if item.about is not None:
            nonce = secrets.token_bytes(NONCE_BYTES)
            about = self._box.seal(seq, item.about, nonce, Place.ABOUT)
        action = Action(
            item.at,
            item.reader,
            item.what,
            item.number,
            item.assurance,
            subject,
            None if about is None else subject_digest(about),
        )
        return action, sealed, about

    def _advance(self, count: int) -> None:
        self.head += count
        self.digest = self._next_digest

    def _write_releases(self) -> None:
        self._db.executemany(
            "UPDATE epochs SET released = max(released, ?) WHERE epoch = ?",
            [(through, epoch) for epoch, through in self._releases.items()],
        )
        self._releases.clear()

    def _prune(self) -> list[tuple[bytes, int]]:
        spans = [
            (epoch_id, epoch, first, max(first - 1, min(released, head)))
            for epoch_id, epoch, first, head, released in _epochs(self._db)
        ]
        surplus = sum(last - first + 1 for _, _, first, last in spans) - KEEP_RELEASED
        pruned = []
        for epoch_id, epoch, first, released in spans:
            count = min(surplus, released - first + 1)
            if count <= 0:
                continue
            surplus -= count
            last = first + count - 1
            self._db.execute(
                "UPDATE epochs SET first = ?, previous ="
                " (SELECT digest FROM entries WHERE epoch_id = id AND seq = ?) WHERE id = ?",
                (last + 1, last, epoch_id),
            )
            self._db.execute(
                "DELETE FROM entries WHERE epoch_id = ? AND seq <= ?", (epoch_id, last)
            )
            pruned.append((epoch, last + 1))
        self._db.execute(
            "DELETE FROM epochs WHERE id <> ?"
            " AND NOT EXISTS (SELECT 1 FROM entries WHERE epoch_id = id)",
            (self._id,),
        )
        self._db.execute("DELETE FROM header_copies WHERE epoch NOT IN (SELECT epoch FROM epochs)")
        return pruned


def is_recording(data: Path) -> bool:
    """Whether a daemon has the journal in folder `data` open for writing."""
    try:
        lock = os.open(data / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


class JournalReader:
    """The journal open for reading, beside its writer or alone. Raises JournalError throughout."""

    def __init__(self, data: Path) -> None:
        self.path = data / FILE_NAME
        if not self.path.exists():
            raise JournalError(f"{self.path}: there is no journal yet")
        try:
            self._db = sqlite3.connect(
                f"file:{self.path}?mode=ro", uri=True, timeout=10, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: {error}") from error
        try:
            if _check_version(self._db, self.path) in range(1, SCHEMA_VERSION):
                raise JournalError(  # noqa: TRY301
                    f"{self.path}: written by an earlier version; start this version's shuaka-edge"
                    " once, which brings it up to date"
                )
        except sqlite3.Error as error:
            self._db.close()
            raise JournalError(f"{self.path}: {error}") from error
        except JournalError:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def generation(self) -> int:
        """The hub's generation that this journal last heard of; 0 for none."""
        with self._errors():
            row = self._db.execute("SELECT value FROM state WHERE name = 'generation'").fetchone()
            return int(row[0]) if row else 0

    def alarm(self) -> str:
        """Why a receipt was not followed since the last start, if journal and hub differ."""
        with self._errors():
            row = self._db.execute("SELECT value FROM state WHERE name = 'alarm'").fetchone()
            return str(row[0]) if row else ""

    def oldest_waiting(self) -> tuple[bytes, int] | None:
        """(boot, milliseconds since that boot) of the oldest readable entry without a receipt."""
        for held in self.epochs():
            with self._errors():
                row = self._db.execute(
                    "SELECT entry FROM entries JOIN epochs ON id = epoch_id"
                    " WHERE epoch = ? AND seq > released ORDER BY seq LIMIT 1",
                    (held.epoch,),
                ).fetchone()
            with contextlib.suppress(RemoteError):
                if row is not None:
                    boot = EpochHeader.decode(held.header).boot
                    return boot, decode_entry(row[0]).at.boottime_ms
        return None

    def epochs(self) -> list[Held]:
        """All epochs, oldest first."""
        with self._errors():
            headers = dict(self._db.execute("SELECT epoch, header FROM epochs"))
            return [
                Held(epoch, headers[epoch], first, head, released)
                for _, epoch, first, head, released in _epochs(self._db)
            ]

    def digest(self, epoch: bytes, seq: int) -> bytes | None:
        """The chain's digest at `seq`, as long as that entry is held; as `batch` states it."""
        with self._snapshot():
            known = self._db.execute("SELECT 1 FROM epochs WHERE epoch = ?", (epoch,)).fetchone()
            if known is None:
                return None
            span = self._span(epoch)
            for each, _ in self._chain(span, seq, 1):
                if each.last == seq:
                    return each.digest
        return None

    def entries(
        self, epoch: bytes, first: int = 1
    ) -> Iterator[tuple[int, bytes, bytes, tuple[bytes, ...]]]:
        """(seq, entry, digest, sealed subjects) of an epoch from `first` on, in order."""
        with self._errors():
            for seq, entry, digest, *sealed in self._db.execute(
                "SELECT seq, entry, digest, sealed, about FROM entries"
                " JOIN epochs ON id = epoch_id WHERE epoch = ? AND seq >= ? ORDER BY seq",
                (epoch, first),
            ):
                yield seq, entry, digest, _held(sealed)

    def batch(self, epoch: bytes, first: int, last: int) -> tuple[Batch, list[bytes]]:
        """As many entries from `first` as fit into a message, and their sealed subjects.

        Each entry is held to its digest. What does not fit it, or is not there any more, is stated
        as a gap. A gap over missing entries takes in the one after them: only that has a digest to
        go on from. So a batch may begin before `first` or end after `last`, if a gap stands there.
        """
        with self._snapshot():
            span = self._span(epoch)
            if first < span.first:
                raise JournalError(f"{self.path}: entry {first} of {epoch.hex()} is held no more")
            chain = list(self._chain(span, first, min(last - first + 1, MAX_ITEMS)))
        previous = span.previous
        items: list[bytes | Gap] = []
        subjects: list[bytes] = []
        withheld: list[int] = []
        room = MAX_MESSAGE_BYTES - 2048
        for each, sealed in chain:
            if each.last < first:
                previous = each.digest
                continue
            if not isinstance(each.item, Gap):
                room -= len(each.item) + sum(len(subject) for subject in sealed)
            room -= 64
            if items and (room < 0 or each.last > last or len(items) == MAX_ITEMS):
                break
            if not items:
                first = each.first
            items.append(each.item)
            if isinstance(each.item, Gap):
                continue
            whole, fitting = _fitting(each.item, sealed)
            subjects += fitting
            if not whole:
                withheld.append(each.first)
        if not items:
            raise JournalError(f"{self.path}: entries {first} to {last} of {epoch.hex()} are gone")
        return Batch(span.header, first, previous, tuple(items), tuple(withheld)), subjects

    def _span(self, epoch: bytes) -> "_Span":
        row = self._db.execute(
            "SELECT id, e.header, c.header, first, previous FROM epochs e"
            " LEFT JOIN header_copies c USING (epoch) WHERE epoch = ?",
            (epoch,),
        ).fetchone()
        if row is None:
            raise JournalError(f"{self.path}: epoch {epoch.hex()} is held no more")
        epoch_id, header, copy, first, previous = row
        if header != copy:
            fitting = [each for each in (header, copy) if _is_header(each, epoch, first, previous)]
            header = fitting[0] if fitting else header
        if first == 1:
            previous = chain_start(header)
        return _Span(epoch_id, header, first, previous)

    def _chain(
        self, span: "_Span", first: int, count: int
    ) -> Iterator[tuple[Link, tuple[bytes, ...]]]:
        """What can be said of `count` entries from `first` on, with their sealed subjects.

        A little more at both ends: what comes before settles the digest that `first` goes on from,
        what comes after tells whether an entry rotted or its digest.
        """
        columns = "SELECT seq, entry, digest, sealed, about FROM entries WHERE epoch_id = ?"
        before = self._db.execute(
            f"{columns} AND seq < ? ORDER BY seq DESC LIMIT 3", (span.id, first)
        ).fetchall()[::-1]
        rows = (
            before
            + self._db.execute(
                f"{columns} AND seq >= ? ORDER BY seq LIMIT ?", (span.id, first, count + 1)
            ).fetchall()
        )
        expected, digest = span.first, span.previous
        if len(before) == 3:
            expected, digest = before[0][0] + 1, before[0][2]
            del rows[0]
        for at, (seq, entry, stored, *sealed) in enumerate(rows):
            item: bytes | Gap = entry
            computed = chain_next(digest, entry)
            if seq != expected:
                item = Gap(expected, seq, stored, "entries are missing")
            elif computed != stored and not _goes_on(seq, computed, rows[at + 1 : at + 2]):
                item = Gap(seq, seq, stored, "the entry does not fit its digest")
            digest = stored if isinstance(item, Gap) else computed
            yield Link(expected, seq, digest, item), _held(sealed)
            expected = seq + 1

    def problems(self) -> Iterator[str]:
        """What is wrong with the journal, in words; nothing where it is sound."""
        with self._errors():
            for (finding,) in self._db.execute("PRAGMA integrity_check(20)"):
                if finding != "ok":
                    yield f"SQLite: {finding}"
            copies = dict(self._db.execute("SELECT epoch, header FROM header_copies"))
            previous = dict(self._db.execute("SELECT epoch, previous FROM epochs"))
        ends: dict[bytes, tuple[int, bytes]] = {}
        for held in self.epochs():
            name = f"epoch {held.epoch.hex()[:8]}"
            if copies.get(held.epoch) != held.header:
                yield f"{name}: its header and the copy of it differ"
            try:
                parent = EpochHeader.decode(held.header).parent
            except RemoteError as error:
                yield f"{name}: {error.detail}"
                continue
            if parent is not None and parent.epoch in ends:
                end = ends[parent.epoch]
                if (parent.seq, parent.digest) != end:
                    yield (
                        f"{name}: goes on from entry {parent.seq} of epoch"
                        f" {parent.epoch.hex()[:8]}, which ends at {end[0]} or differs"
                    )
            ends[held.epoch] = yield from self._entry_problems(name, held, previous[held.epoch])

    def _entry_problems(
        self, name: str, held: Held, digest: bytes
    ) -> Generator[str, None, tuple[int, bytes]]:
        """Yields what is wrong with an epoch's entries; gives its last seq and digest."""
        expected = held.first
        for seq, entry, stored, sealed in self.entries(held.epoch):
            if seq != expected:
                yield f"{name}: entries {expected} to {seq - 1} are missing"
            elif chain_next(digest, entry) != stored:
                yield f"{name}, entry {seq}: does not fit its digest"
            if not _fitting(entry, sealed)[0]:
                yield f"{name}, entry {seq}: a sealed subject of it is damaged"
            digest, expected = stored, seq + 1
        return expected - 1, digest

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """All that is read within is of one moment: the writer may prune between two queries."""
        with self._errors():
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.rollback()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, TypeError) as error:
            raise JournalError(f"{self.path}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Span:
    """An epoch as it is held: from `first` on, which follows the digest `previous`."""

    id: int
    header: bytes
    first: int
    previous: bytes


def _is_header(header: bytes | None, epoch: bytes, first: int, previous: bytes) -> bool:
    """Whether this is the header of `epoch`, as far as that can still be told."""
    if header is None:
        return False
    if first == 1:
        return chain_start(header) == previous
    try:
        return EpochHeader.decode(header).epoch == epoch
    except RemoteError:
        return False


def _goes_on(
    seq: int, digest: bytes, following: Sequence[tuple[int, bytes, bytes, object, object]]
) -> bool:
    """Whether the next entry follows `digest`: then it is the stored digest that rotted."""
    return any(
        after == seq + 1 and chain_next(digest, entry) == stored
        for after, entry, stored, *_ in following
    )


def _held(sealed: Iterable[bytes | None]) -> tuple[bytes, ...]:
    return tuple(each for each in sealed if each is not None)


def _stated(entry: bytes) -> tuple[bytes, ...] | None:
    """The digests of the subjects that `entry` has; None where it can't be read here."""
    try:
        decoded = decode_entry(entry)
    except RemoteError:
        return None
    match decoded:
        case Tap(subject=subject) | Action(subject=subject, about=None):
            return (subject,)
        case Action(subject=subject, about=bytes(about)):
            return subject, about
        case _:
            return ()


def _fitting(entry: bytes, sealed: Sequence[bytes]) -> tuple[bool, Sequence[bytes]]:
    """Whether these are the subjects that `entry` states, and those of them that are.

    Of an entry that can't be read here nothing is known: they are taken as its own.
    """
    stated = _stated(entry)
    if stated is None:
        return True, sealed
    digests = [subject_digest(each) for each in sealed]
    fitting = [each for each, digest in zip(sealed, digests, strict=True) if digest in stated]
    return sorted(digests) == sorted(stated), fitting


def _open_or_set_aside(path: Path, edge: bytes) -> sqlite3.Connection:
    if path.exists():
        try:
            db = _open(path, create=False)
        except sqlite3.DatabaseError as error:
            damaged = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
            if error.sqlite_errorcode not in damaged:
                raise
            _set_aside(path, DAMAGED)
        else:
            try:
                own = _edge(db) in {None, edge}
            except BaseException:
                db.close()
                raise
            if own:
                return db
            db.close()
            _set_aside(path, FORMER)
    return _open(path, create=True)


def _edge(db: sqlite3.Connection) -> bytes | None:
    """Whose the newest epoch is; None where there is none, or no header of it can be read."""
    headers = db.execute(
        "SELECT e.header, c.header FROM epochs e LEFT JOIN header_copies c USING (epoch)"
        " ORDER BY id DESC LIMIT 1"
    ).fetchone()
    for header in headers or ():
        with contextlib.suppress(RemoteError, TypeError):
            return EpochHeader.decode(header).edge
    return None


def _set_aside(path: Path, why: str) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.{why}-{number}")).exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))


def _open(path: Path, *, create: bool) -> sqlite3.Connection:
    if create:
        # SQLite would make it readable to all that the umask lets in
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=2, isolation_level=None, check_same_thread=False)
    try:
        _check_version(db, path)
        _use_wal(db, path)
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        # A checkpoint syncs the WAL into the file: often, since one rotten bit in the middle of
        # the WAL makes SQLite drop every commit after it.
        db.execute("PRAGMA wal_autocheckpoint = 100")
        if db.execute("PRAGMA user_version").fetchone() == (0,):
            with _transaction(db):
                for statement in _SCHEMA.split(";")[:-1]:
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            _raise_corrupt()
        if db.execute("PRAGMA user_version").fetchone() == (1,):
            with _transaction(db):
                db.execute(_FROM_VERSION_1)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _use_wal(db: sqlite3.Connection, path: Path) -> None:
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":  # SQLite says no more than this, and goes on without
        raise JournalError(f"{path}: its file system cannot have SQLite's write-ahead log")


def _raise_corrupt() -> NoReturn:
    damage = sqlite3.DatabaseError("the file is damaged")
    damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    raise damage


def _check_version(db: sqlite3.Connection, path: Path) -> int:
    """The format of the file; 0 where there is nothing in it yet."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (found,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or found or tables):
        raise JournalError(f"{path}: this is a database of another program")
    if found > SCHEMA_VERSION:
        raise JournalNewerError(
            f"{path}: written by a later version (format {found}, this one reads {SCHEMA_VERSION});"
            " install that version again"
        )
    return int(found)


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _epochs(db: sqlite3.Connection) -> list[tuple[int, bytes, int, int, int]]:
    """(id, epoch, first held, head, released) of each epoch, oldest first."""
    return [
        (epoch_id, epoch, first, first - 1 if head is None else head, released)
        for epoch_id, epoch, first, released, head in db.execute(
            "SELECT id, epoch, first, released,"
            " (SELECT max(seq) FROM entries WHERE epoch_id = id) FROM epochs ORDER BY id"
        )
    ]


def _last_entry(db: sqlite3.Connection) -> Parent | None:
    """Where the last epoch ends: what the next one names as its parent."""
    row = db.execute(
        "SELECT epoch, e.first - 1, previous, seq, digest FROM epochs e"
        " LEFT JOIN entries ON epoch_id = id ORDER BY id DESC, seq DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    epoch, before, previous, seq, digest = row
    return Parent(epoch, before, previous) if seq is None else Parent(epoch, seq, digest)
