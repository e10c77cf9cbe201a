"""Crash states of the journal: what a power cut may leave, and what the product makes of it.

A child appends to the real journal under strace, with a ledger outside of it: what it said it had.
Its writes, syncs, truncations and unlinks are replayed up to each point, and from there every kind
of state is built that a file system like ext4 may leave:

- what was synced is there;
- of the writes since then any subset is, each of them whole, not at all, or some of its sectors of
  512 bytes (a file that grew has zeros where nothing came);
- creations, unlinks, renames and truncations are there up to some point in their order, at least
  up to the last of a file that was synced since;
- of what a sync failed to write (`faults`), some never comes, whatever is synced later: the kernel
  has called it clean.

Each state is opened by the product's own Journal.open and JournalReader. Whatever the ledger had
must be there, chained, with no problem and no gap; nothing may have been set aside.

States are numbered: number n of a seed is always the same kind of state at the same place.
`python -m tests.torture.states --states 1000000 --seed 1 --start 0` goes through them.
"""

import argparse
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from edge import ballast, store
from edge.store import Ended, Journal, JournalError, JournalReader, NewTap, Owner, Retention
from protocol.credential import Assurance, Credential
from protocol.identity import OpeningKey
from protocol.journal import Entry, ReaderUp, Stamp

SECTOR: Final = 512
KEPT: Final = Path(__file__).parents[1] / "journals"
OWNER: Final = Owner(b"kept test edge 1", OpeningKey(bytes(range(32))).public)
KEEP: Final = Retention(entries=30)
SMALL_BALLAST: Final = 4096
CALLS: Final = (
    "openat,pwrite64,write,fdatasync,fsync,ftruncate,fallocate,unlink,unlinkat,rename,renameat"
)
STRACE: Final = ("strace", "-y", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-o")
AGAIN: Final = 16
"""Each so-manieth state is also appended to, closed and opened once more."""


# --- what is recorded -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Create:
    name: str


@dataclass(frozen=True, slots=True)
class Write:
    name: str
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Sync:
    name: str


@dataclass(frozen=True, slots=True)
class FailedSync:
    name: str


@dataclass(frozen=True, slots=True)
class Truncate:
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Unlink:
    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    name: str
    to: str


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the ledger: (what, epoch, seq, digest)."""

    what: str
    epoch: bytes
    seq: int
    digest: bytes


Step = Create | Write | Sync | FailedSync | Truncate | Unlink | Rename | Said


def write_journal(data: Path, appends: int, setting: str = "") -> None:
    """The child: whatever a journal lives through, with each promise said on standard output.

    A thing is said after it was promised (an append), or before it is asked for (a release). A
    journal that fails is opened anew, as the recorder does it. `setting` is a PRAGMA that breaks
    the promise.
    """
    ballast.BALLAST_BYTES = SMALL_BALLAST  # type: ignore[misc]

    def say(what: str, journal: Journal, seq: int, digest: bytes = b"") -> None:
        os.write(1, f"{what} {journal.epoch.hex()} {seq} {digest.hex()}\n".encode())

    def begin(at_ms: int, after: Ended | None = None) -> Journal:
        now = Stamp(at_ms, 1_777_000_000_000 + at_ms, trusted=True)
        for tries in range(8, -1, -1):
            try:
                journal = Journal.open(data, OWNER, b"a boot of an hr.", now, KEEP, after)
                break
            except JournalError:
                if not tries:
                    raise
        if setting:
            journal._db.execute(setting)
        say("open", journal, journal.head, journal.digest)
        return journal

    number = 0
    for part, end in enumerate((appends * 6 // 10, appends * 9 // 10, appends)):
        journal = begin(part * 100_000)
        while number < end:
            number += 1
            at = Stamp(number, 1_777_000_000_000 + number, trusted=True)
            items: list[Entry | NewTap] = [
                NewTap(at, "r", Assurance.UID, Credential("uid", "", f"{number:08X}"))
                for _ in range(1 + number % 3)
            ]
            try:
                journal.append([*items, ReaderUp(at, "r")] if number % 5 == 0 else items)
                say("append", journal, journal.head, journal.digest)
                if number % 7 == 0:
                    say("release", journal, journal.head - 2)
                    journal.release(journal.epoch, journal.head - 2)
                if number % 14 == 0:
                    journal.flush(number * 1_000)
            except JournalError:
                ended = journal.ended()
                journal.close()
                journal = begin(part * 100_000, ended)
        journal.close()


def record(
    folder: Path,
    appends: int,
    former: int | None = None,
    faults: str = "",
    setting: str = "",
) -> list[Step]:
    """Has the child write into `folder`, which a journal of format `former` may lie in already.

    `faults` is what strace is told to inject, such as `fdatasync:error=EIO:when=9+20`.
    """
    data, trace = folder / "data", folder / "trace"
    data.mkdir()
    if former is not None:
        shutil.copyfile(KEPT / f"format-{former}.db", data / store.FILE_NAME)
    inject = ["-e", f"inject={faults}"] if faults else []
    child = [sys.executable, "-m", "tests.torture.states", "--write", str(data)]
    subprocess.run(
        [*STRACE, str(trace), *inject, *child, "--appends", str(appends), "--setting", setting],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    with trace.open(encoding="ascii") as lines:
        return list(_steps(lines, data))


_CALL: Final = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)(?:<.*>| .*)?$")
_ON: Final = re.compile(r"(\d+)<([^>]*)>(?:, )?(.*)")
_TEXT: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def _steps(lines: Iterator[str] | Sequence[str], data: Path) -> Iterator[Step]:
    """What happened to the files of folder `data`, and the ledger; of strace's output."""
    for line in lines:
        found = _CALL.match(line.rstrip())
        if found is None:
            continue
        call, rest = found[1], found[2]
        texts = [bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(rest)]
        on = _ON.match(rest)
        path = Path(_plain(on[2])) if on else Path()
        name = path.name
        ours = path.parent == data and name not in _OTHERS
        if int(found[3]) < 0:
            if ours and call == "fdatasync":
                yield FailedSync(name)
            continue
        match call:
            case "openat":
                path = Path(os.fsdecode(texts[0]))
                if path.parent == data and "O_CREAT" in rest and path.name not in _OTHERS:
                    yield Create(path.name)
            case "write" if on and on[1] == "1":
                what, epoch, seq, digest = texts[0].decode().rstrip("\n").split(" ")
                yield Said(what, bytes.fromhex(epoch), int(seq), bytes.fromhex(digest))
            case "pwrite64" if ours and on:
                yield Write(name, int(on[3].rsplit(", ", 1)[1]), texts[0][: int(found[3])])
            case "fdatasync" | "fsync" if ours:
                yield Sync(name)
            case "ftruncate" if ours and on:
                yield Truncate(name, int(on[3]))
            case "unlink" | "unlinkat":
                path = Path(os.fsdecode(texts[0]))
                if path.parent == data and path.name not in _OTHERS:
                    yield Unlink(path.name)
            case "rename" | "renameat":
                old, new = (Path(os.fsdecode(text)) for text in texts)
                yield Rename(old.name, new.name)
            case _:
                pass


_OTHERS: Final = {
    store.LOCK_NAME,
    ballast.FILE_NAME,
    f"{store.FILE_NAME}-shm",  # shared memory, which nobody reads after a crash
}


def _plain(path: str) -> str:
    """A path beside a descriptor, which strace writes in hex like any other text, or not."""
    if path.startswith("\\x"):
        return os.fsdecode(bytes.fromhex(path.replace("\\x", "")))
    return path


# --- what may be left of it -----------------------------------------------------------------------


@dataclass(slots=True)
class _File:
    content: bytearray = field(default_factory=bytearray)
    """As it was synced last."""
    pending: list[tuple[int, Write | Truncate]] = field(default_factory=list)
    """Since then; a truncation with its place among `Disk.changes`."""
    changed: int = 0
    """The place after its last change of name or size."""


class Disk:
    """Files as they are on disk and in the kernel's memory; `state` is what a power cut leaves."""

    def __init__(self, rng: random.Random, former: bytes | None = None) -> None:
        self._rng = rng
        self.names: dict[str, _File] = {}
        """As they are on disk."""
        self.now: dict[str, _File] = {}
        """As the program sees them."""
        self.changes: list[tuple[str, str, _File | None]] = []
        """(name, name it had before or "", file that is there now) since those that are on disk."""
        self.gone = 0
        """Changes that are on disk, which are left out of the list."""
        if former is not None:
            self.names[store.FILE_NAME] = self.now[store.FILE_NAME] = _File(bytearray(former))

    def do(self, step: Step) -> None:
        match step:
            case Create(name):
                if name not in self.now:
                    self.now[name] = _File()
                    self._change(name, "", self.now[name])
            case Write(name):
                self.now[name].pending.append((0, step))
            case Truncate(name):
                file = self.now[name]
                self._change("", "", file)
                file.pending.append((file.changed, step))
            case Unlink(name):
                del self.now[name]
                self._change(name, "", None)
            case Rename(name, to):
                self.now[to] = self.now.pop(name)
                self._change(to, name, self.now[to])
            case Sync(name):
                file = self.now[name]
                _apply(file.content, [each for _, each in file.pending])
                file.pending.clear()
                self._settle(file.changed)
            case FailedSync(name):
                file = self.now[name]
                lost = self._rng.choice((0.3, 1.0))
                file.pending = [
                    each
                    for each in file.pending
                    if isinstance(each[1], Truncate) or self._rng.random() >= lost
                ]
            case Said():
                pass

    def _change(self, name: str, before: str, file: _File | None) -> None:
        self.changes.append((name, before, file))
        if file is not None:
            file.changed = self.gone + len(self.changes)

    def _settle(self, through: int) -> None:
        count = through - self.gone
        if count > 0:
            self.names = _renamed(self.names, self.changes[:count])
            del self.changes[:count]
            self.gone = through

    def state(self, kind: int, rng: random.Random) -> dict[str, bytes]:
        """Files by name. Kind 0: nothing since the last syncs; 1: everything; else by `rng`."""
        if kind == 0:
            count = 0
        elif kind == 1:
            count = len(self.changes)
        else:
            count = rng.randint(0, len(self.changes))
        names = _renamed(self.names, self.changes[:count])
        style = rng.randrange(4)
        left = {}
        for name, file in names.items():
            content = file.content
            if file.pending and kind:
                content = bytearray(content)
                chosen = _chosen(file.pending, self.gone + count, kind, style, rng)
                _apply(content, chosen)
            left[name] = bytes(content)
        return left


def _chosen(
    pending: Sequence[tuple[int, Write | Truncate]],
    changes: int,
    kind: int,
    style: int,
    rng: random.Random,
) -> Iterator[Write | Truncate]:
    """Those of a file's unsynced writes that came through; a truncation, if it is among them."""
    cut = rng.randint(0, len(pending)) if style == 0 else len(pending)
    for at, (place, each) in enumerate(pending):
        if isinstance(each, Truncate):
            if place > changes:
                return  # what came after it is in blocks that nothing names
            yield each
        elif kind == 1 or (style == 0 and at < cut):
            yield each
        elif style == 0:
            if at == cut:
                yield from _torn(each, rng)
            return
        elif style == 1:
            if rng.random() < 0.5:
                yield each
        elif style == 2 or rng.random() < 0.1:
            yield from _torn(each, rng)
        else:
            yield each


def _torn(write: Write, rng: random.Random) -> Iterator[Write]:
    """Some of its sectors."""
    at, end = write.offset, write.offset + len(write.content)
    while at < end:
        stop = min(end, at - at % SECTOR + SECTOR)
        if rng.random() < 0.5:
            yield Write(write.name, at, write.content[at - write.offset : stop - write.offset])
        at = stop


def _apply(
    content: bytearray, steps: Iterator[Write | Truncate] | Sequence[Write | Truncate]
) -> None:
    for each in steps:
        match each:
            case Write(_, offset, written):
                if offset > len(content):
                    content.extend(bytes(offset - len(content)))
                content[offset : offset + len(written)] = written
            case Truncate(_, size):
                if size < len(content):
                    del content[size:]
                else:
                    content.extend(bytes(size - len(content)))


def _renamed(
    names: dict[str, _File], changes: Sequence[tuple[str, str, _File | None]]
) -> dict[str, _File]:
    after = dict(names)
    for name, before, file in changes:
        after.pop(before, None)
        if file is None:
            after.pop(name, None)
        elif name:
            after[name] = file
    return after


# --- what the product makes of it -----------------------------------------------------------------


@dataclass(slots=True)
class Ledger:
    """What the journal has promised."""

    ends: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    """By epoch: the last seq that was acknowledged, and the chain's digest there."""
    released: dict[bytes, int] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> Self:
        """What a journal that lies there already has promised."""
        ledger = cls()
        with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as db:
            for epoch, released, seq, digest in db.execute(
                "SELECT epoch, released, max(seq), digest FROM entries JOIN epochs ON id = epoch_id"
                " GROUP BY id"
            ):
                ledger.ends[epoch] = (seq, digest)
                ledger.released[epoch] = released
        return ledger

    def hear(self, said: Said) -> None:
        if said.what == "release":
            self.released[said.epoch] = said.seq
        else:
            self.ends[said.epoch] = (said.seq, said.digest)


def judge(data: Path, ledger: Ledger, *, again: bool = False) -> list[str]:
    """What is wrong with the journal in `data` once the product has opened it; nothing is right."""
    now = Stamp(0, 1_777_000_000_000, trusted=False)
    try:
        journal = Journal.open(data, OWNER, b"the boot after..", now)
        if again:
            journal.append([NewTap(now, "r", Assurance.UID, Credential("uid", "", "FFFFFFFF"))])
            journal.close()
            journal = Journal.open(data, OWNER, b"the boot after..", now)
    except JournalError as error:
        return [f"it cannot be opened: {error}"]
    wrong = []
    try:
        with closing(JournalReader(data)) as reader:
            wrong += reader.problems()
            held = {each.epoch: each for each in reader.epochs()}
            for epoch, (seq, digest) in ledger.ends.items():
                released = ledger.released.get(epoch, 0)
                name = f"epoch {epoch.hex()[:8]}"
                if epoch not in held:
                    if released < seq:
                        wrong.append(f"{name} is gone, with entries up to {seq}")
                    continue
                if held[epoch].first > released + 1:
                    wrong.append(f"{name}: entries {released + 1} to {held[epoch].first - 1} went")
                if held[epoch].head < seq:
                    wrong.append(f"{name}: ends at {held[epoch].head}, {seq} was acknowledged")
                elif held[epoch].first <= seq and reader.digest(epoch, seq) != digest:
                    wrong.append(f"{name}: another history at {seq}")
    except JournalError as error:
        wrong.append(f"it cannot be read: {error}")
    finally:
        journal.close()
    if ledger.ends:
        wrong += [f"set aside: {path.name}" for path in data.glob(f"{store.FILE_NAME}.*-*")]
    return wrong


@dataclass(frozen=True, slots=True)
class Lost:
    """A state in which a promise was broken."""

    seed: int
    number: int
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    states: int
    points: int
    lost: tuple[Lost, ...]
    seconds: float


def run(
    states: int,
    seed: int,
    start: int = 0,
    *,
    appends: int = 130,
    former: int | None = None,
    faults: str = "",
    setting: str = "",
    keep: Path | None = None,
) -> Result:
    """Goes through states `start` to `start + states`; in a memory file system where there is one.

    `keep`: a folder where the files of a state that lost something are left.
    """
    ballast.BALLAST_BYTES = SMALL_BALLAST  # type: ignore[misc]
    began = time.monotonic()
    memory = Path("/dev/shm")  # noqa: S108
    with (
        tempfile.TemporaryDirectory() as traced,
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as place,
    ):
        steps = record(Path(traced), appends, former, faults, setting)
        before = None if former is None else (KEPT / f"format-{former}.db").read_bytes()
        points = sum(not isinstance(step, Said) for step in steps)
        lost: list[Lost] = []
        number = start - start % points
        while number < start + states:
            disk = Disk(random.Random(f"{seed}:{number}:faults"), before)
            ledger = Ledger() if former is None else Ledger.of(KEPT / f"format-{former}.db")
            for step in steps:
                if isinstance(step, Said):
                    ledger.hear(step)
                    continue
                disk.do(step)
                if start <= number < start + states:
                    files = disk.state(number // points, random.Random(f"{seed}:{number}"))
                    _lay_out(Path(place), files)
                    wrong = judge(Path(place), ledger, again=number % AGAIN == 0)
                    if wrong:
                        lost.append(Lost(seed, number, tuple(wrong)))
                        if keep is not None:
                            _lay_out(keep / str(number), files)
                number += 1
    return Result(states, points, tuple(lost), time.monotonic() - began)


def _lay_out(data: Path, files: dict[str, bytes]) -> None:
    """Makes `data` a folder with these files and no others, but the lock and the ballast."""
    data.mkdir(parents=True, exist_ok=True)
    for path in data.iterdir():
        if path.name not in {store.LOCK_NAME, ballast.FILE_NAME}:
            path.unlink()
    for name, content in files.items():
        (data / name).write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description="Crash states of the journal.")
    parser.add_argument("--states", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="the number of the first state")
    parser.add_argument("--appends", type=int, default=130, help="of the child")
    parser.add_argument("--former", type=int, help="a kept journal's format, to be upgraded")
    parser.add_argument("--faults", default="", help="for strace to inject")
    parser.add_argument("--setting", default="", help="a PRAGMA that breaks the promise")
    parser.add_argument("--keep", type=Path, help="leave what was lost here")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write is not None:
        write_journal(options.write, options.appends, options.setting)
        return
    result = run(
        options.states,
        options.seed,
        options.start,
        appends=options.appends,
        former=options.former,
        faults=options.faults,
        setting=options.setting,
        keep=options.keep,
    )
    for each in result.lost[:20]:
        print(f"seed {each.seed}, state {each.number}: {'; '.join(each.wrong)}")
    print(
        json.dumps(
            {
                "states": result.states,
                "points": result.points,
                "seed": options.seed,
                "start": options.start,
                "lost": len(result.lost),
                "seconds": round(result.seconds, 1),
            }
        )
    )
    sys.exit(1 if result.lost else 0)


if __name__ == "__main__":
    main()
