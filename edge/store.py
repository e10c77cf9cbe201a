"""The journal on disk: SQLite in WAL mode with synchronous=FULL, so that a commit is durable.

Promises: `append` returns only after the entries and their digests are on storage that honours
fdatasync, in the files that a later start will find; an entry is never changed; what has no receipt
is never removed; what is lost all the same is stated. It does not decide when to send, whom to
tell, or whether a tap is a repeat.

After any failure the journal is opened anew, in a new epoch. What the kernel holds of a failed sync
is trusted by nobody: opening writes all of the log into the file and begins the log again.

One thread owns a `Journal`, which writes. Any number of `JournalReader`s read beside it.
"""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import secrets
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, NoReturn, Self
from urllib.parse import quote

from edge import ballast
from edge.salvage import Salvaged, salvage
from protocol.batch import MAX_ITEMS, Batch
from protocol.credential import Assurance, Credential
from protocol.errors import RemoteError
from protocol.identity import MAX_MESSAGE_BYTES, key_id
from protocol.journal import (
    DIGEST_BYTES,
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
SCHEMA_VERSION: Final = 3
APPLICATION_ID: Final = 0x73687561  # "shua"

DAMAGED: Final = "damaged"
FORMER: Final = "former"
"""Why a journal was set aside: it is kept as FILE_NAME.damaged-1, FILE_NAME.former-1 and so on."""

KEEP_DAYS: Final = 90
KEEP_ENTRIES: Final = 100_000

PRUNE_AT_ONCE: Final = 5_000
"""Entries that one `flush` removes at most: cards wait meanwhile."""
DAY_MS: Final = 86_400_000
NEAR_BITS: Final = 64
"""Two digests that differ in no more of their 256 bits are one, with some flipped."""
ODOMETER_MS: Final = 600_000
"""How often the time that the journal has been open is written down."""
_SCHEMA: Final = """
CREATE TABLE epochs (
    id INTEGER PRIMARY KEY,
    epoch BLOB NOT NULL UNIQUE,
    header BLOB NOT NULL,
    first INTEGER NOT NULL DEFAULT 1,
    previous BLOB NOT NULL,
    released INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE header_copies (
    epoch BLOB PRIMARY KEY,
    header BLOB NOT NULL,
    released INTEGER NOT NULL DEFAULT 0
);
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
CREATE TABLE receipts (
    day INTEGER NOT NULL,
    epoch BLOB NOT NULL,
    through INTEGER NOT NULL,
    PRIMARY KEY (day, epoch)
) WITHOUT ROWID;
"""
"""`released` stands twice, and the lesser of both counts: rot must not let go of an entry. A row of
`receipts` says how far an epoch was released on that day of the odometer."""

_TRIAL: Final = """
INSERT INTO epochs (id, epoch, header, first, previous, released)
    VALUES (1 << 60, x'', x'', 1, x'', 0);
INSERT INTO header_copies (epoch, header, released) VALUES (x'', x'', 0);
INSERT INTO entries (epoch_id, seq, entry, digest, sealed, about)
    VALUES (1 << 60, 1, x'', x'', NULL, NULL), (1 << 60, 2, x'', x'', x'', x'');
REPLACE INTO state (name, value) VALUES ('', 0);
INSERT INTO receipts (day, epoch, through) VALUES (-1, x'', 0)
    ON CONFLICT DO UPDATE SET through = max(through, excluded.through);
SELECT e.released, c.released FROM epochs e LEFT JOIN header_copies c USING (epoch)
    WHERE id IN (SELECT epoch_id FROM entries WHERE seq = 2);
"""

_UPGRADES: Final = {
    1: ("ALTER TABLE entries ADD COLUMN about BLOB",),
    2: (
        "ALTER TABLE header_copies ADD COLUMN released INTEGER NOT NULL DEFAULT 0",
        (
            "UPDATE header_copies SET released ="
            " coalesce((SELECT released FROM epochs e WHERE e.epoch = header_copies.epoch), 0)"
        ),
        (
            "CREATE TABLE receipts (day INTEGER NOT NULL, epoch BLOB NOT NULL,"
            " through INTEGER NOT NULL, PRIMARY KEY (day, epoch)) WITHOUT ROWID"
        ),
        "INSERT INTO receipts SELECT 0, epoch, released FROM epochs WHERE released > 0",
    ),
}
"""What makes the next format of each earlier one."""


logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept after its receipt, so that a hub restored from a backup can ask again."""

    days: int = KEEP_DAYS
    """Of running time: no clock that is set wrong ages anything."""
    entries: int = KEEP_ENTRIES
    """At most; what has no receipt is kept whatever its number or age."""


DEFAULT_RETENTION: Final = Retention()


@dataclass(frozen=True, slots=True)
class Ended:
    """How far an epoch was durable when its journal was given up."""

    header: bytes
    head: int
    digest: bytes


class Journal:
    """The journal open for writing, in a new epoch."""

    def __init__(
        self,
        db: sqlite3.Connection,
        lock: int,
        path: Path,
        header: EpochHeader,
        box: SubjectBox,
        keep: Retention,
    ) -> None:
        self._db = db
        self._keep = keep
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
        self._files: dict[Path, os.stat_result] = {}
        self._opened_ms = header.opened.boottime_ms
        self._odometer_ms = 0
        self._running_ms = 0
        self._started_ms = 0
        self._pruned_on = -1
        self._is_pruning = False
        self._has_ballast = False

    @classmethod
    def open(
        cls,
        data: Path,
        owner: Owner,
        boot: bytes,
        now: Stamp,
        keep: Retention = DEFAULT_RETENTION,
        after: Ended | None = None,
    ) -> Self:
        """Opens the journal in folder `data` and begins an epoch, durably.

        `after` is where this process gave the journal up, if it had it open before: what is not
        there any more of it is stated. A full disk is given the ballast's room, once. A file that
        is damaged beyond use, or of another edge (this device was enrolled anew), is set aside
        under another name, never deleted, and a new one begun.
        Raises JournalBusyError, JournalNewerError, JournalError.
        """
        try:
            return cls._open(data, owner, boot, now, keep, after)
        except (sqlite3.Error, OSError) as error:
            if not _is_full(error) or not ballast.release(data):
                raise _worded(data / FILE_NAME, error) from error
        try:
            return cls._open(data, owner, boot, now, keep, after)
        except (sqlite3.Error, OSError) as error:
            raise _worded(data / FILE_NAME, error) from error

    @classmethod
    def _open(
        cls,
        data: Path,
        owner: Owner,
        boot: bytes,
        now: Stamp,
        keep: Retention,
        after: Ended | None,
    ) -> Self:
        path = data / FILE_NAME
        lock = _lock(data)
        try:
            db = _open_or_set_aside(path, owner.edge)
            try:
                _begin_log_again(db, path, is_needed=after is not None)
                return cls._begin(db, lock, path, owner, boot, now, keep, after)
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
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
        keep: Retention,
        after: Ended | None,
    ) -> Self:
        with _transaction(db):
            if after is not None:
                _state_loss(db, after)
            _mend_ends(db)
        epoch = secrets.token_bytes(16)
        content_key = secrets.token_bytes(CONTENT_KEY_BYTES)
        header = EpochHeader(
            edge=owner.edge,
            epoch=epoch,
            boot=boot,
            opened=now,
            parent=_last_entry(db),
            software=_software(),
            hub_key=key_id(owner.hub_seal),
            wrapped_key=wrap_content_key(content_key, owner.hub_seal, owner.edge, epoch),
            rehearsal=owner.rehearsal,
        )
        journal = cls(db, lock, path, header, SubjectBox(content_key, owner.edge, epoch), keep)
        with _transaction(db):
            (journal._id,) = db.execute(
                "INSERT INTO epochs (epoch, header, previous) VALUES (?, ?, ?) RETURNING id",
                (epoch, journal.header_bytes, journal.digest),
            ).fetchone()
            db.execute(
                "INSERT INTO header_copies (epoch, header) VALUES (?, ?)",
                (epoch, journal.header_bytes),
            )
            db.execute("DELETE FROM state WHERE name = 'alarm'")
            journal._write([ClockSample(now)])
        row = db.execute("SELECT value FROM state WHERE name = 'odometer'").fetchone()
        journal._running_ms = journal._odometer_ms = max(0, int(row[0])) if row else 0
        journal._started_ms = journal._running_ms
        journal._look_at_files()
        journal._has_ballast = ballast.lay_in(path.parent)
        journal._advance(1)
        return journal

    def append(self, items: Sequence[Entry | NewTap | NewAction]) -> int:
        """Makes `items` durable in one commit and gives the last seq.

        Raises JournalError; it is then unknown whether they are stored, and this object must not
        be used any more: close it and open the journal anew.
        """
        try:
            self._look_at_files()
            with _transaction(self._db):
                count = self._write(items)
                self._write_releases()
            self._look_at_files()
        except (sqlite3.Error, OSError) as error:
            raise _worded(self.path, error) from error
        self._advance(count)
        return self.head

    def ended(self) -> Ended:
        """How far this epoch is durable, for who opens the journal after a failure."""
        return Ended(self.header_bytes, self.head, self.digest)

    def release(self, epoch: bytes, through: int) -> None:
        """Notes receipts up to `through`; written with the next commit or by `flush`.

        Losing the note only means that the entries are offered to the hub once more.
        """
        self._releases[epoch] = max(through, self._releases.get(epoch, 0))

    def flush(self, boottime_ms: int = 0) -> list[tuple[bytes, int]]:
        """Writes noted releases and removes what need not be kept; call it when there is time.

        `boottime_ms` is CLOCK_BOOTTIME of the same boot as at opening. Gives (epoch, first seq
        still held) of each epoch that lost entries. Raises JournalError.
        """
        since_ms = max(0, boottime_ms - self._opened_ms)
        self._running_ms = max(self._running_ms, self._started_ms + since_ms)
        if not self._has_ballast:
            self._has_ballast = ballast.lay_in(self.path.parent)
        aged = self._running_ms // DAY_MS != self._pruned_on
        if not (self._releases or self._is_pruning or aged or self._is_odometer_due()):
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
                self._db.execute("UPDATE header_copies SET released = 0")
                self._db.execute("DELETE FROM receipts")
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
        noted = [(through, epoch) for epoch, through in self._releases.items()]
        for table in ("epochs", "header_copies"):
            self._db.executemany(
                f"UPDATE {table} SET released = max(released, ?) WHERE epoch = ?",  # noqa: S608
                noted,
            )
        today = self._running_ms // DAY_MS
        self._db.executemany(
            "INSERT INTO receipts VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
            " SET through = max(through, excluded.through)",
            [(today, epoch, through) for through, epoch in noted],
        )
        self._releases.clear()

    def _is_odometer_due(self) -> bool:
        return self._running_ms - self._odometer_ms >= ODOMETER_MS

    def _prune(self) -> list[tuple[bytes, int]]:
        """Removes what has a receipt and is too much or too old; a part at a time."""
        today = self._running_ms // DAY_MS
        oldest = today - self._keep.days
        if self._is_odometer_due():
            self._db.execute("REPLACE INTO state VALUES ('odometer', ?)", (self._running_ms,))
            self._odometer_ms = self._running_ms
        aged = dict(
            self._db.execute(
                "SELECT epoch, max(through) FROM receipts WHERE day < ? GROUP BY epoch", (oldest,)
            )
        )
        spans = [
            (epoch_id, epoch, first, max(first - 1, min(released, head)))
            for epoch_id, epoch, first, head, released in _epochs(self._db)
        ]
        # On a disk that is nearly full the next tap is worth more than a restored hub's question.
        keep = self._keep.entries if self._has_ballast else 0
        surplus = sum(last - first + 1 for _, _, first, last in spans) - keep
        room = PRUNE_AT_ONCE
        pruned = []
        for epoch_id, epoch, first, released in spans:
            old = min(aged.get(epoch, 0), released) - first + 1
            count = min(max(old, min(surplus, released - first + 1)), room)
            if count <= 0:
                continue
            surplus -= count
            room -= count
            held = self._db.execute(
                "SELECT seq, digest FROM entries WHERE epoch_id = ? AND seq < ?"
                " ORDER BY seq DESC LIMIT 1",
                (epoch_id, first + count),
            ).fetchone()
            if held is None:  # missing entries, up to one that stays
                continue
            last, digest = held
            self._db.execute(
                "UPDATE epochs SET first = ?, previous = ? WHERE id = ?",
                (last + 1, digest, epoch_id),
            )
            self._db.execute(
                "DELETE FROM entries WHERE epoch_id = ? AND seq <= ?", (epoch_id, last)
            )
            pruned.append((epoch, last + 1))
        self._is_pruning = room <= 0
        if not self._is_pruning:
            self._pruned_on = today
            self._db.execute("DELETE FROM receipts WHERE day < ?", (oldest,))
        self._db.execute(
            "DELETE FROM epochs WHERE id <> ?"
            " AND NOT EXISTS (SELECT 1 FROM entries WHERE epoch_id = id)",
            (self._id,),
        )
        for table in ("header_copies", "receipts"):
            self._db.execute(
                f"DELETE FROM {table} WHERE epoch NOT IN (SELECT epoch FROM epochs)"  # noqa: S608
            )
        return pruned

    def _look_at_files(self) -> None:
        """Raises JournalError or OSError unless a later start finds what was written here."""
        for name in (self.path.name, f"{self.path.name}-wal"):
            path = self.path.with_name(name)
            found, before = path.stat(), self._files.get(path)
            if before is not None and (
                (found.st_dev, found.st_ino) != (before.st_dev, before.st_ino)
                or found.st_size < before.st_size
            ):
                raise JournalError(f"{path}: was exchanged or cut short by another program")
            self._files[path] = found


def _lock(data: Path) -> int:
    """The descriptor that holds folder `data`, made if need be, for one writer alone."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise JournalBusyError(
            f"{data / FILE_NAME}: another shuaka-edge is writing here"
        ) from error
    return lock


@contextlib.contextmanager
def _locked(data: Path) -> Iterator[None]:
    lock = _lock(data)
    try:
        yield
    finally:
        os.close(lock)


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
        still = "&immutable=1" if _is_still(self.path) else ""
        try:
            self._db = sqlite3.connect(
                f"file:{quote(str(self.path))}?mode=ro{still}",
                uri=True,
                timeout=10,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: {error}") from error
        try:
            if _check_version(self._db, self.path) in range(1, SCHEMA_VERSION):
                raise JournalError(  # noqa: TRY301
                    f"{self.path}: written by an earlier version; start this version's shuaka-edge"
                    " once, which brings it up to date"
                )
        except (sqlite3.Error, UnicodeDecodeError) as error:
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
                    " WHERE epoch = ? AND seq > ? ORDER BY seq LIMIT 1",
                    (held.epoch, held.released),
                ).fetchone()
            with contextlib.suppress(RemoteError):
                if row is not None:
                    boot = EpochHeader.decode(held.header).boot
                    return boot, decode_entry(row[0]).at.boottime_ms
        return None

    def epochs(self) -> list[Held]:
        """All epochs, oldest first."""
        with self._errors():
            headers = dict(self._db.execute("SELECT epoch, CAST(header AS BLOB) FROM epochs"))
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
        """(seq, entry, digest, sealed subjects) of an epoch from `first` on, in order.

        Some at a time: who reads on slowly keeps nobody from beginning the log again.
        """
        while True:
            with self._errors():
                rows = self._db.execute(
                    f"SELECT {_ROW} FROM entries"  # noqa: S608
                    " JOIN epochs ON id = epoch_id WHERE epoch = ? AND seq >= ?"
                    " ORDER BY seq LIMIT 500",
                    (epoch, first),
                ).fetchall()
            if not rows:
                return
            for seq, entry, digest, *sealed in rows:
                yield seq, entry, digest, _held(sealed)
            first = rows[-1][0] + 1

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
            f"SELECT {_EPOCH} FROM epochs e"  # noqa: S608
            " LEFT JOIN header_copies c USING (epoch) WHERE epoch = ?",
            (epoch,),
        ).fetchone()
        if row is None:
            raise JournalError(f"{self.path}: epoch {epoch.hex()} is held no more")
        epoch_id, _, header, copy, first, previous = row
        header = _sounder(header, copy, epoch, first, previous)
        if first == 1:
            previous = chain_start(header)
        return _Span(epoch_id, header, first, previous.ljust(DIGEST_BYTES, b"\0")[:DIGEST_BYTES])

    def _chain(
        self, span: "_Span", first: int, count: int
    ) -> Iterator[tuple[Link, tuple[bytes, ...]]]:
        """What can be said of `count` entries from `first` on, with their sealed subjects.

        A little more at both ends: what comes before settles the digest that `first` goes on from,
        what comes after tells whether an entry rotted or its digest.
        """
        columns = f"SELECT {_ROW} FROM entries WHERE epoch_id = ? AND length(digest) = 32"  # noqa: S608
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
        except (sqlite3.Error, TypeError, UnicodeDecodeError) as error:
            raise JournalError(f"{self.path}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Span:
    """An epoch as it is held: from `first` on, which follows the digest `previous`."""

    id: int
    header: bytes
    first: int
    previous: bytes


def _sounder(header: bytes, copy: bytes | None, epoch: bytes, first: int, previous: bytes) -> bytes:
    """Of an epoch's header and the copy of it, the one that is sound."""
    if header == copy:
        return header
    fitting = [each for each in (header, copy) if _is_header(each, epoch, first, previous)]
    return (fitting[0] or header) if fitting else header


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
    log = path.with_name(f"{path.name}-wal")
    damaged = None
    if not (path.exists() and path.stat().st_size) and log.exists() and log.stat().st_size:
        damaged = _set_aside(path, DAMAGED)  # SQLite would delete the log of a file that is gone
    if path.exists():
        db = _open_if_usable(path) or _open_if_usable(path)  # a read may fail once, and never again
        if db is None:
            damaged = _set_aside(path, DAMAGED)
        else:
            try:
                foreign = _is_foreign(db, edge)
            except BaseException:
                db.close()
                raise
            if not foreign:
                return db
            db.close()
            _set_aside(path, FORMER)
    db = _open(path, create=True)
    if damaged is not None:
        _salvage(damaged, db, edge)
    return db


def _salvage(damaged: Path, db: sqlite3.Connection, edge: bytes) -> None:
    """Takes over what can be read; whatever that meets must not keep taps from being recorded."""
    try:
        with _transaction(db):
            found = salvage(damaged, db, edge)
    except Exception:
        logger.exception("%s: nothing could be taken over", damaged)
    else:
        logger.error(
            "%s: the journal was damaged; %d entries of %d epochs were taken over into a new one",
            damaged,
            found.entries,
            found.epochs,
        )


def salvage_into(data: Path, damaged: Path, edge: bytes | None) -> Salvaged:
    """Takes over what can be read of `damaged` into the journal in folder `data`, made if need be.

    No shuaka-edge may be running on `data`. Raises JournalBusyError, JournalNewerError and
    JournalError; nothing is half done then.
    """
    path = data / FILE_NAME
    if damaged.resolve() == path.resolve():
        raise JournalError(
            f"{damaged}: this is the journal itself; give the one that was set aside"
        )
    try:
        with damaged.open("rb"):
            pass
        with _locked(data), contextlib.closing(_open(path, create=True)) as db:
            if edge is not None and _is_foreign(db, edge):
                raise JournalError(f"{path}: is the journal of another edge")
            with _transaction(db):
                found = salvage(damaged, db, edge)
                _mend_ends(db)
            return found
    except (sqlite3.Error, OSError) as error:
        raise _worded(path, error) from error


def _open_if_usable(path: Path) -> sqlite3.Connection | None:
    """None where the file is damaged, or cannot be read."""
    try:
        return _open(path, create=False)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode not in _UNUSABLE:
            raise
    except UnicodeDecodeError:
        pass  # SQLite complains of a name, in which bits rotted
    return None


_UNUSABLE: Final = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
}
"""What trying again does not mend: one unreadable sector would keep the light red for ever."""


def _is_full(error: sqlite3.Error | OSError) -> bool:
    """Whether it failed for want of room."""
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    # of -shm SQLite says that it cannot be had, and not why
    full = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN}
    return getattr(error, "sqlite_errorcode", None) in {*full, sqlite3.SQLITE_CANTOPEN}


def _worded(path: Path, error: sqlite3.Error | OSError) -> JournalError:
    if isinstance(error, OSError):
        return JournalError(f"{error.filename or path}: {error.strerror}")
    return JournalError(f"{path}: {error}")


def _is_still(path: Path) -> bool:
    """Whether nobody can be writing there, and the file alone holds everything."""
    log = path.with_name(f"{path.name}-wal")
    try:
        if not os.statvfs(path).f_flag & os.ST_RDONLY:
            return False
        return not log.exists() or log.stat().st_size == 0
    except OSError:
        return False


@functools.cache
def _software() -> str:
    return f"shuaka-edge {version('shuaka')}"


def _begin_log_again(db: sqlite3.Connection, path: Path, *, is_needed: bool) -> None:
    """Writes all of the log into the file, syncs that, and empties the log.

    What the kernel failed to sync it may call clean and yet never write: commits behind such a
    page would be lost with it at the next power cut. Within this process (`is_needed`) nothing is
    recorded before that has succeeded.
    """
    if not is_needed:
        db.execute("PRAGMA busy_timeout = 100")
    (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    db.execute("PRAGMA busy_timeout = 2000")
    if busy and is_needed:
        raise JournalError(f"{path}: another program keeps it open; end that program")


def _state_loss(db: sqlite3.Connection, after: Ended) -> None:
    """Has the journal say what of an epoch was durable and is here no more."""
    epoch = EpochHeader.decode(after.header).epoch
    row = db.execute("SELECT id FROM epochs WHERE epoch = ?", (epoch,)).fetchone()
    if row is None:
        row = db.execute(
            "INSERT INTO epochs (epoch, header, previous) VALUES (?, ?, ?) RETURNING id",
            (epoch, after.header, chain_start(after.header)),
        ).fetchone()
        db.execute(
            "REPLACE INTO header_copies (epoch, header) VALUES (?, ?)", (epoch, after.header)
        )
    _state_end(db, row[0], after.head, after.digest)


def _state_end(db: sqlite3.Connection, epoch_id: int, head: int, digest: bytes) -> None:
    """An epoch that ends before `head` gets an entry there that fits nothing: the end of a gap."""
    db.execute(
        "INSERT INTO entries SELECT id, ?, x'', ?, NULL, NULL FROM epochs WHERE id = ? AND ? >"
        " coalesce((SELECT max(seq) FROM entries WHERE epoch_id = id), first - 1)",
        (head, digest, epoch_id, head),
    )


def _mend_ends(db: sqlite3.Connection) -> None:
    """Holds the end of each epoch to what the next one's header says of it.

    Entries that are missing there become a gap, and a digest that rotted there is known again.
    """
    # a value whose kind or length rotted: as good as no entry
    db.execute("DELETE FROM entries WHERE length(CAST(digest AS BLOB)) <> ?", (DIGEST_BYTES,))
    rows = db.execute(
        f"SELECT {_EPOCH} FROM epochs e"  # noqa: S608
        " LEFT JOIN header_copies c USING (epoch) ORDER BY id"
    ).fetchall()
    ids = {epoch: epoch_id for epoch_id, epoch, *_ in rows}
    for _, epoch, header, copy, first, previous in rows:
        try:
            parent = EpochHeader.decode(_sounder(header, copy, epoch, first, previous)).parent
        except (RemoteError, TypeError):
            continue
        if parent is None or parent.epoch not in ids:
            continue
        _state_end(db, ids[parent.epoch], parent.seq, parent.digest)
        db.execute(
            "UPDATE entries SET digest = ? WHERE epoch_id = ? AND seq = ? AND digest <> ?"
            " AND seq = (SELECT max(seq) FROM entries WHERE epoch_id = ?)",
            (parent.digest, ids[parent.epoch], parent.seq, parent.digest, ids[parent.epoch]),
        )
    if rows:
        _mend_last_digest(db, *rows[-1])


def _mend_last_digest(
    db: sqlite3.Connection,
    epoch_id: int,
    epoch: bytes,
    header: bytes,
    copy: bytes | None,
    first: int,
    previous: bytes,
) -> None:
    """The newest digest has no witness: but a few flipped bits of it leave it near to the true one,
    and those of the entry don't.
    """
    last = db.execute(
        f"SELECT {_ROW} FROM entries WHERE epoch_id = ?"  # noqa: S608
        " ORDER BY seq DESC LIMIT 2",
        (epoch_id,),
    ).fetchall()
    if not last:
        return
    seq, entry, stored, *_ = last[0]
    if len(last) == 2 and last[1][0] == seq - 1:
        before = last[1][2]
    elif seq == first:
        sound = _sounder(header, copy, epoch, first, previous)
        before = chain_start(sound) if first == 1 else previous
    else:
        return
    computed = chain_next(before, entry)
    far = int.from_bytes(computed, "big") ^ int.from_bytes(stored, "big")
    if 0 < far.bit_count() <= NEAR_BITS:
        db.execute(
            "UPDATE entries SET digest = ? WHERE epoch_id = ? AND seq = ?",
            (computed, epoch_id, seq),
        )


def _is_foreign(db: sqlite3.Connection, edge: bytes) -> bool:
    """Whether it is another edge's: its headers can be read, and not one of them names `edge`."""
    found = False
    for table in ("epochs", "header_copies"):
        for (header,) in db.execute(f"SELECT header FROM {table} ORDER BY rowid DESC"):  # noqa: S608
            with contextlib.suppress(RemoteError, TypeError):
                if EpochHeader.decode(header).edge == edge:
                    return False
                found = True
    return found


def _set_aside(path: Path, why: str) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.{why}-{number}")).exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


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
        # the quick check does not look whether rows are where a search for them leads
        if db.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
            _raise_corrupt()
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found < SCHEMA_VERSION:
            with _transaction(db):
                for step in range(found, SCHEMA_VERSION):
                    for statement in _UPGRADES[step]:
                        db.execute(statement)
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        _try_out(db)
    except BaseException:
        db.close()
        raise
    return db


def _try_out(db: sqlite3.Connection) -> None:
    """Writes a row of each kind and takes it back: a schema in which bits rotted is damage."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in _TRIAL.split(";")[:-1]:
            db.execute(statement)
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT}:
            _raise_corrupt()
        raise
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


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


_FIRST: Final = (
    "CAST(max(1, min(first, coalesce((SELECT min(seq) FROM entries WHERE epoch_id = id), first)))"
    " AS INTEGER)"
)
"""What is held begins no later than its first entry, whatever rot made of `first`."""
_RELEASED: Final = "CAST(min(e.released, coalesce(c.released, 0)) AS INTEGER)"
_EPOCH: Final = (
    f"id, epoch, CAST(e.header AS BLOB), CAST(c.header AS BLOB), {_FIRST}, CAST(previous AS BLOB)"
)
_ROW: Final = (
    "seq, CAST(entry AS BLOB), CAST(digest AS BLOB), CAST(sealed AS BLOB), CAST(about AS BLOB)"
)
"""Bytes, whatever rot made of their kind."""


def _epochs(db: sqlite3.Connection) -> list[tuple[int, bytes, int, int, int]]:
    """(id, epoch, first held, head, released) of each epoch, oldest first."""
    return [
        (epoch_id, epoch, first, first - 1 if head is None else head, released)
        for epoch_id, epoch, first, released, head in db.execute(
            f"SELECT id, epoch, {_FIRST}, {_RELEASED},"  # noqa: S608
            " (SELECT max(seq) FROM entries WHERE epoch_id = id) FROM epochs e"
            " LEFT JOIN header_copies c USING (epoch) ORDER BY id"
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
