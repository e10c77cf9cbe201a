"""The storage of a device: a card that keeps what was durable, and nothing more.

Two of them: `DictCard` in dictionaries, for most worlds, and `FileCard`, which is the product's own
`edge.store` on a file. A card can be snapshot and put back (rolled back), copied into a second
device (cloned), rot, and fail an append before or after it took it.
"""

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Protocol, Self

from edge import store
from edge.store import DAY_MS, Ended, Held, JournalError, Owner, Retention
from protocol.batch import MAX_ITEMS, Batch
from protocol.identity import MAX_MESSAGE_BYTES, key_id
from protocol.journal import (
    ClockSample,
    EpochHeader,
    Gap,
    Parent,
    Stamp,
    chain_next,
    chain_start,
    encode_entry,
)
from protocol.sealing import SubjectBox, wrap_content_key


class Watch(Protocol):
    """What a card tells its device, which may cut the power or have the storage fail."""

    rng: Random

    def step(self, where: str) -> None:
        """A step is about to be made; raises Crash where the power goes."""

    def fails(self) -> bool:
        """Whether the storage fails now."""

    def durable(self, epoch: bytes, first: int, items: Sequence[Any]) -> None:
        """Items were made durable."""

    def removed(self, epoch: bytes, first: int, last: int) -> None:
        """Entries were removed from the card."""


class Card(Protocol):
    """A device's storage."""

    watch: Watch

    def open(self, *args: Any) -> Any:
        """`edge.store.Journal.open`."""

    def reader(self) -> Any:
        """`edge.store.JournalReader`."""

    def cut(self) -> None:
        """The power went, or the process died: what was not durable is gone."""

    def copy(self) -> "Card":
        """What is on it now, to be put back or to be put into another device."""

    def held(self) -> list[Held]: ...

    def digest(self, epoch: bytes, seq: int) -> bytes | None: ...

    def rot(self, epoch: bytes, seq: int) -> None:
        """An entry cannot be read any more."""


# --- in dictionaries ------------------------------------------------------------------------------


@dataclass
class _Epoch:
    id: bytes
    header: bytes
    digests: list[bytes]
    """digests[n] is digest(n)."""
    entries: list[bytes] = field(default_factory=list)
    subjects: list[tuple[bytes, ...]] = field(default_factory=list)
    rotten: set[int] = field(default_factory=set)
    first: int = 1
    released: int = 0
    receipts: list[tuple[int, int]] = field(default_factory=list)
    """(day, through), rising."""

    @property
    def head(self) -> int:
        return len(self.entries)

    def copy(self) -> "_Epoch":
        return replace(
            self,
            digests=list(self.digests),
            entries=list(self.entries),
            subjects=list(self.subjects),
            rotten=set(self.rotten),
            receipts=list(self.receipts),
        )


class DictCard:
    """A card in dictionaries."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.epochs: dict[bytes, _Epoch] = {}
        self.generation = 0
        self.odometer_ms = 0

    def open(
        self,
        _data: Path,
        owner: Owner,
        boot: bytes,
        now: Stamp,
        keep: Retention,
        _after: Ended | None,
    ) -> "_DictJournal":
        self.watch.step("open")
        if self.watch.fails():
            raise JournalError("the storage fails")
        return _DictJournal(self, owner, boot, now, keep)

    def reader(self) -> "_DictReader":
        return _DictReader(self)

    def cut(self) -> None:
        pass

    def copy(self) -> "DictCard":
        card = DictCard(self.watch)
        card.epochs = {name: each.copy() for name, each in self.epochs.items()}
        card.generation, card.odometer_ms = self.generation, self.odometer_ms
        return card

    def held(self) -> list[Held]:
        return [
            Held(e.id, e.header, e.first, e.head, max(e.released, 0)) for e in self.epochs.values()
        ]

    def digest(self, epoch: bytes, seq: int) -> bytes | None:
        held = self.epochs.get(epoch)
        return held.digests[seq] if held is not None and held.first <= seq <= held.head else None

    def rot(self, epoch: bytes, seq: int) -> None:
        self.epochs[epoch].rotten.add(seq)


class _DictJournal:
    """What `edge.store.Journal` promises."""

    _sealed = store.Journal._sealed

    def __init__(
        self, card: DictCard, owner: Owner, boot: bytes, now: Stamp, keep: Retention
    ) -> None:
        self._card, self._watch, self._keep = card, card.watch, keep
        rng = card.watch.rng
        self.epoch, self.boot = rng.randbytes(16), boot
        content_key = rng.randbytes(32)
        last = next(reversed(card.epochs.values()), None)
        header = EpochHeader(
            edge=owner.edge,
            epoch=self.epoch,
            boot=boot,
            opened=now,
            parent=last and Parent(last.id, last.head, last.digests[last.head]),
            software="simulated",
            hub_key=key_id(owner.hub_seal),
            wrapped_key=wrap_content_key(content_key, owner.hub_seal, owner.edge, self.epoch),
        )
        self.header_bytes = header.encode()
        self._box = SubjectBox(content_key, owner.edge, self.epoch)
        self._releases: dict[bytes, int] = {}
        self._opened_ms, self._started_ms = now.boottime_ms, card.odometer_ms
        self._own = _Epoch(self.epoch, self.header_bytes, [chain_start(self.header_bytes)])
        card.epochs[self.epoch] = self._own
        self._write([ClockSample(now)])
        self._watch.step("opened")

    @property
    def head(self) -> int:
        return self._own.head

    @property
    def digest(self) -> bytes:
        return self._own.digests[-1]

    def append(self, items: Sequence[Any]) -> int:
        self._watch.step("before the commit")
        fails = self._watch.fails()
        if fails and self._watch.rng.random() < 0.5:
            raise JournalError("the storage fails")
        self._write(items)
        self._write_releases()
        self._watch.step("after the commit")
        if fails:
            raise JournalError("the storage fails, and has it")
        return self.head

    def _write(self, items: Sequence[Any]) -> None:
        own, first = self._own, self._own.head + 1
        for item in items:
            written, *subjects = self._sealed(own.head + 1, item)  # type: ignore[call-arg, arg-type]
            entry = encode_entry(written)
            own.digests.append(chain_next(own.digests[-1], entry))
            own.entries.append(entry)
            own.subjects.append(tuple(each for each in subjects if each is not None))
        self._watch.durable(self.epoch, first, items)

    def ended(self) -> Ended:
        return Ended(self.header_bytes, self.head, self.digest)

    def release(self, epoch: bytes, through: int) -> None:
        self._releases[epoch] = max(through, self._releases.get(epoch, 0))

    def _write_releases(self) -> None:
        day = self._card.odometer_ms // DAY_MS
        for name, through in self._releases.items():
            epoch = self._card.epochs.get(name)
            if epoch is not None and through > epoch.released:
                epoch.released = through
                epoch.receipts.append((day, through))
        self._releases.clear()

    def flush(self, boottime_ms: int = 0) -> list[tuple[bytes, int]]:
        self._watch.step("flush")
        card = self._card
        card.odometer_ms = max(
            card.odometer_ms, self._started_ms + max(0, boottime_ms - self._opened_ms)
        )
        self._write_releases()
        oldest = card.odometer_ms // DAY_MS - self._keep.days
        surplus = -self._keep.entries + sum(
            max(0, min(e.released, e.head) - e.first + 1) for e in card.epochs.values()
        )
        pruned = []
        for epoch in list(card.epochs.values()):
            released = min(epoch.released, epoch.head)
            aged = max((through for day, through in epoch.receipts if day < oldest), default=0)
            through = max(min(aged, released), min(epoch.first - 1 + max(surplus, 0), released))
            if through < epoch.first:
                continue
            self._watch.removed(epoch.id, epoch.first, through)
            surplus -= through - epoch.first + 1
            epoch.first = through + 1
            pruned.append((epoch.id, epoch.first))
            if epoch.first > epoch.head and epoch is not self._own:
                del card.epochs[epoch.id]
        self._watch.step("flushed")
        return pruned

    def new_generation(self, generation: int) -> None:
        self._watch.step("generation")
        self._releases.clear()
        self._card.generation = generation
        for epoch in self._card.epochs.values():
            epoch.released = 0
            epoch.receipts.clear()

    def alarm(self, reason: str) -> None:
        pass

    def close(self) -> None:
        pass


class _DictReader:
    """What `edge.store.JournalReader` promises."""

    def __init__(self, card: DictCard) -> None:
        self._card = card

    def close(self) -> None:
        pass

    def epochs(self) -> list[Held]:
        return self._card.held()

    def generation(self) -> int:
        return self._card.generation

    def digest(self, epoch: bytes, seq: int) -> bytes | None:
        return self._card.digest(epoch, seq)

    def batch(self, epoch: bytes, first: int, last: int) -> tuple[Batch, list[bytes]]:
        held = self._card.epochs.get(epoch)
        if held is None or not held.first <= first <= held.head:
            raise JournalError(f"entry {first} of {epoch.hex()} is held no more")
        room = MAX_MESSAGE_BYTES - 2048
        items: list[bytes | Gap] = []
        subjects: list[bytes] = []
        for seq in range(first, min(last, held.head, first + MAX_ITEMS - 1) + 1):
            entry, sealed = held.entries[seq - 1], held.subjects[seq - 1]
            room -= len(entry) + sum(map(len, sealed)) + 64
            if items and room < 0:
                break
            if seq in held.rotten:
                items.append(Gap(seq, seq, held.digests[seq], "rotten"))
            else:
                items.append(entry)
                subjects += sealed
        return Batch(held.header, first, held.digests[first - 1], tuple(items)), subjects


# --- on a file ------------------------------------------------------------------------------------


class FileCard:
    """The product's own store, in a folder of its own."""

    def __init__(self, watch: Watch, folder: Path, names: Callable[[], str]) -> None:
        self.watch = watch
        self.folder = folder / names()
        self.folder.mkdir()
        self._parent, self._names = folder, names
        self._open: list[Any] = []

    def open(self, _data: Path, *args: Any) -> "_WatchedJournal":
        self.watch.step("open")
        if self.watch.fails():
            raise JournalError("the storage fails")
        _WatchedJournal.watch = self.watch
        journal = _WatchedJournal.open(self.folder, *args)
        journal.watch = self.watch
        self._open.append(journal)
        self.watch.durable(journal.epoch, 1, [None])
        self.watch.step("opened")
        return journal

    def reader(self) -> store.JournalReader:
        reader = store.JournalReader(self.folder)
        self._open.append(reader)
        return reader

    def cut(self) -> None:
        for each in self._open:
            with suppress(OSError, sqlite3.Error):
                each.close()
        self._open.clear()

    def copy(self) -> "FileCard":
        card = FileCard(self.watch, self._parent, self._names)
        for path in self.folder.iterdir():
            if path.name.startswith("journal.db") and not path.name.endswith("-shm"):
                shutil.copy(path, card.folder)
        return card

    def held(self) -> list[Held]:
        if not (self.folder / store.FILE_NAME).exists():
            return []
        with closing(store.JournalReader(self.folder)) as reader:
            return reader.epochs()

    def digest(self, epoch: bytes, seq: int) -> bytes | None:
        with closing(store.JournalReader(self.folder)) as reader:
            return reader.digest(epoch, seq)

    def rot(self, epoch: bytes, seq: int) -> None:
        with closing(sqlite3.connect(self.folder / store.FILE_NAME)) as db, db:
            db.execute(
                "UPDATE entries SET entry = x'00' WHERE seq = ? AND epoch_id ="
                " (SELECT id FROM epochs WHERE epoch = ?)",
                (seq, epoch),
            )


class _WatchedJournal(store.Journal):
    watch: Watch
    _is_closed = False

    def close(self) -> None:
        if not self._is_closed:  # its lock's descriptor may be another's by now
            self._is_closed = True
            super().close()

    @classmethod
    def open(cls, *args: Any) -> Self:
        return super().open(*args)

    def append(self, items: Sequence[Any]) -> int:
        self.watch.step("before the commit")
        fails = self.watch.fails()
        if fails and self.watch.rng.random() < 0.5:
            raise JournalError("the storage fails")
        head = super().append(items)
        self.watch.durable(self.epoch, head - len(items) + 1, items)
        self.watch.step("after the commit")
        if fails:
            raise JournalError("the storage fails, and has it")
        return head

    def flush(self, boottime_ms: int = 0) -> list[tuple[bytes, int]]:
        self.watch.step("flush")
        firsts = dict(self._db.execute("SELECT epoch, first FROM epochs").fetchall())
        pruned = super().flush(boottime_ms)
        for epoch, first in pruned:
            self.watch.removed(epoch, firsts[epoch], first - 1)
        self.watch.step("flushed")
        return pruned

    def new_generation(self, generation: int) -> None:
        self.watch.step("generation")
        super().new_generation(generation)
