"""Tap → durable: the product's journal beside a bare SQLite commit and a bare fdatasync.

The three take turns in small blocks, since a machine's speed changes while it is measured; all
write to the same file system.
"""

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge.store import Journal, NewTap, Owner
from protocol.credential import Assurance
from protocol.identity import OpeningKey
from protocol.journal import Stamp
from tests.bench.figures import Figure, block_ratio, latency
from tests.fakes.edge import uid

BLOCK: Final = 40
ROW_BYTES: Final = 200
"""As many as the product stores of a tap: entry, digest and sealed subject."""


def measure(folder: Path, samples: int) -> list[Figure]:
    """At least `samples` of each of the three."""
    contenders = [_product(folder), _sqlite(folder), _fdatasync(folder)]
    times: list[list[list[float]]] = [[], [], []]
    for once, _ in contenders:
        for _ in range(BLOCK):
            once()
    for turn in range(-(-samples // BLOCK)):
        # rotated, so that none always follows the same other
        for each in range(3):
            which = (each + turn) % 3
            times[which].append(_block(contenders[which][0]))
    for _, close in contenders:
        close()
    product, bare, floor = times
    return [
        latency(
            "tap → durable: Journal.append",
            _flat(product),
            f"{block_ratio(product, floor):.2f} × fdatasync, "
            f"{block_ratio(product, bare):.2f} × SQLite (target ≤ 1.5 × fdatasync)",
        ),
        latency(
            f"  bare SQLite, WAL, FULL, a commit of {ROW_BYTES} bytes",
            _flat(bare),
            f"{block_ratio(bare, floor):.2f} × fdatasync",
        ),
        latency(f"  bare append of {ROW_BYTES} bytes + fdatasync, preallocated", _flat(floor)),
    ]


_Contender = tuple[Callable[[], object], Callable[[], object]]
"""What is measured once, and how it is closed."""


def _product(folder: Path) -> _Contender:
    owner = Owner(os.urandom(16), OpeningKey.generate().public)
    journal = Journal.open(folder / "edge", owner, os.urandom(16), Stamp(0, 0, trusted=False))
    members = 0

    def once() -> None:
        nonlocal members
        members += 1
        at = Stamp(1_000_000 + members, 1_777_000_000_000 + members, trusted=True)
        journal.append([NewTap(at, "reader-1", Assurance.UID, uid(members))])

    return once, journal.close


def _sqlite(folder: Path) -> _Contender:
    db = sqlite3.connect(folder / "bare.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE taps (id INTEGER PRIMARY KEY, tap BLOB NOT NULL)")
    row = (os.urandom(ROW_BYTES),)
    return lambda: db.execute("INSERT INTO taps (tap) VALUES (?)", row), db.close


def _fdatasync(folder: Path) -> _Contender:
    size = 8 << 20
    file = os.open(folder / "bare.log", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # Written, not only reserved: else each new block costs a commit of the file system's journal.
    os.write(file, bytes(size))
    os.fsync(file)
    row = os.urandom(ROW_BYTES)
    at = 0

    def once() -> None:
        nonlocal at
        os.pwrite(file, row, at)
        os.fdatasync(file)
        at = (at + ROW_BYTES) % (size - ROW_BYTES)

    return once, lambda: os.close(file)


def _block(once: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(BLOCK):
        began = time.perf_counter()
        once()
        times.append(time.perf_counter() - began)
    return times


def _flat(blocks: list[list[float]]) -> list[float]:
    return [each for block in blocks for each in block]
