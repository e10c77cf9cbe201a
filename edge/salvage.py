"""What can be read of a damaged journal, brought into one that the daemon can carry.

Each entry is held to its epoch's chain. What fits goes over, with its sealed subjects; what is
missing between shows as a gap, as in any journal. Nothing that the damaged file says of receipts is
believed: all of it is offered to the hub again, which answers at once for what it has.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from edge import wreck
from protocol.errors import RemoteError
from protocol.journal import (
    DIGEST_BYTES,
    MAX_ENTRY_BYTES,
    EpochHeader,
    chain_next,
    chain_start,
)
from protocol.sealing import subject_digest

MAX_SEQ: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was brought over, and what was not."""

    epochs: int
    entries: int
    foreign: int
    """Epochs of another edge, which the hub would not take from this one."""


class _Row(NamedTuple):
    entry: bytes
    digest: bytes
    sealed: bytes | None
    about: bytes | None

    def subjects(self) -> int:
        """How many of its subjects are those that the entry states."""
        there = [each for each in (self.sealed, self.about) if each is not None]
        return sum(subject_digest(each) in self.entry for each in there)


@dataclass(slots=True)
class _Epoch:
    """What was found of one epoch; it begins after `previous`, the digest before `first`."""

    header: bytes
    epoch: bytes
    first: int = 1
    previous: bytes = b""
    rows: dict[int, set[_Row]] = field(default_factory=dict)


def salvage(damaged: Path, db: sqlite3.Connection, edge: bytes | None) -> Salvaged:
    """Adds to the journal `db` what `damaged` (and its -wal) has; within the caller's transaction.

    Only epochs of `edge` are brought over, of any edge where that is None. Epochs come before those
    of `db`, in their order. Raises OSError and sqlite3.Error.
    """
    found = _found(damaged)
    own = [each for each in found if edge is None or EpochHeader.decode(each.header).edge == edge]
    entries = 0
    for each in reversed(own):
        entries += _bring(db, each, _chained(each))
    return Salvaged(len(own), entries, len(found) - len(own))


def _found(damaged: Path) -> list[_Epoch]:
    """The epochs of a damaged file with all rows that may be theirs, oldest first."""
    epochs: dict[int, _Epoch] = {}
    copies: dict[bytes, bytes] = {}
    entries: dict[int, dict[int, set[_Row]]] = {}
    for rowid, values in wreck.rows(damaged, damaged.with_name(f"{damaged.name}-wal")):
        match values:
            case (None, bytes(epoch), bytes(header), int(first), bytes(previous), int()):
                if rowid is None or not _is_of(header, epoch) or len(previous) != DIGEST_BYTES:
                    copies.setdefault(epoch, header)
                    continue
                known = epochs.get(rowid)
                if 1 <= first < MAX_SEQ and (known is None or first < known.first):
                    epochs[rowid] = _Epoch(header, epoch, first, previous)
            case (bytes(epoch), bytes(header), *_) if _is_of(header, epoch):
                copies[epoch] = header
            case (int(number), int(seq), bytes(entry), bytes(digest), *sealed):
                row = _row(seq, entry, digest, sealed)
                if row is not None:
                    entries.setdefault(number, {}).setdefault(seq, set()).add(row)
            case _:
                pass
    housed = {each.epoch for each in epochs.values()}
    homeless = [header for epoch, header in copies.items() if epoch not in housed]
    for number, rows in entries.items():
        if number not in epochs:
            _house(epochs, number, rows, homeless)
        if number in epochs:
            epochs[number].rows = rows
    return [epochs[number] for number in sorted(epochs)]


def _house(
    epochs: dict[int, _Epoch], number: int, rows: dict[int, set[_Row]], homeless: Iterable[bytes]
) -> None:
    """Finds the epoch of rows whose own row of `epochs` is lost: by the copies of headers."""
    for header in homeless:
        start = chain_start(header)
        if any(chain_next(start, row.entry) == row.digest for row in rows.get(1, ())):
            epochs[number] = _Epoch(header, EpochHeader.decode(header).epoch, 1, start)


def _is_of(header: bytes, epoch: bytes) -> bool:
    try:
        return EpochHeader.decode(header).epoch == epoch
    except RemoteError:
        return False


def _row(seq: int, entry: bytes, digest: bytes, sealed: Sequence[object]) -> _Row | None:
    match sealed:
        case [(bytes() | None) as subject]:  # of the first format
            about = None
        case [(bytes() | None) as subject, (bytes() | None) as about]:
            pass
        case _:
            return None
    fits = 1 <= seq < MAX_SEQ and len(digest) == DIGEST_BYTES and len(entry) <= MAX_ENTRY_BYTES
    return _Row(entry, digest, subject, about) if fits else None


def _chained(epoch: _Epoch) -> list[tuple[int, _Row]]:
    """Of each seq the row that fits the chain best; none where none says anything true."""
    chosen: list[tuple[int, _Row]] = []
    expected = epoch.first
    digest = chain_start(epoch.header) if epoch.first == 1 else epoch.previous
    for seq in sorted(epoch.rows):
        if seq < epoch.first:
            continue
        rows = epoch.rows[seq]
        fitting = [row for row in rows if seq == expected and _follows(digest, row)]
        if not fitting:
            # After a hole, or with a rotten entry: its digest is true if the next one goes on.
            later = epoch.rows.get(seq + 1, ())
            fitting = [row for row in rows if any(_follows(row.digest, each) for each in later)]
        if not fitting and seq != expected:
            fitting = list(rows)  # the only word there is on where the hole ends
        if fitting:
            best = max(fitting, key=lambda row: (row.subjects(), row.digest, row.entry))
            chosen.append((seq, best))
            expected, digest = seq + 1, best.digest
    return chosen


def _follows(digest: bytes, row: _Row) -> bool:
    return chain_next(digest, row.entry) == row.digest


def _bring(db: sqlite3.Connection, epoch: _Epoch, rows: Iterable[tuple[int, _Row]]) -> int:
    """Puts an epoch before all others of `db`, or what is missing there into the one it has."""
    known = db.execute("SELECT id, first FROM epochs WHERE epoch = ?", (epoch.epoch,)).fetchone()
    if known is None:
        (number,) = db.execute(
            "INSERT INTO epochs (id, epoch, header, first, previous)"
            " VALUES ((SELECT coalesce(min(id), 1) - 1 FROM epochs), ?, ?, ?, ?) RETURNING id",
            (epoch.epoch, epoch.header, epoch.first, epoch.previous),
        ).fetchone()
        db.execute(
            "REPLACE INTO header_copies (epoch, header) VALUES (?, ?)", (epoch.epoch, epoch.header)
        )
        first = epoch.first
    else:
        number, first = known
    count = 0
    for seq, row in rows:
        if seq < first:
            continue  # it had its receipt, and went
        # an entry without content only states where a gap ends
        count += db.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " entry = excluded.entry, sealed = excluded.sealed, about = excluded.about"
            " WHERE entry = x'' AND digest = excluded.digest",
            (number, seq, *row),
        ).rowcount
    return count
