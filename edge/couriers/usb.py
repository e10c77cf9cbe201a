"""Carries the journal by a marked stick: written when it is mounted, receipts taken off it first.

Below the folder that is configured, a mounted file system with a plain file SHUAKA-STICK in its
root is a stick. What lies there for this edge goes to the courier that talks to the hub, which
verifies it and follows it by the same rules as by the network. Then everything that has no receipt
is written, whole or not at all; as long as the stick stays, it is written anew when there is more.

A stick may be pulled at any moment, be full, write-protected, broken or a trap: nothing of it
reaches the journal but receipts that the hub signed, and no link on it is followed.
"""

import errno
import logging
import os
import re
import select
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Final, Protocol

from edge.couriers import Appended, JournalEvent
from edge.couriers.file import Export, Written, folder_of, unreceipted, up_name, write_whole
from edge.couriers.statement import Statement
from edge.enrol import Keys
from edge.feedback import Standing
from edge.store import JournalError, JournalReader
from protocol.courierfile import CourierReader, Direction, Ending, Item
from protocol.errors import RemoteError
from protocol.identity import Enrolment

MARK: Final = "SHUAKA-STICK"
MOUNTS: Final = Path("/proc/self/mountinfo")
LOOK_S: Final = 1.0
SHOWN_S: Final = 30.0
"""How long the door tells what became of a stick."""
AGAIN_S: Final = 30.0
"""A stick that stays is written again after this, if there is more."""
REFRESH_S: Final = 600.0
"""A stick that stays is written again after this in any case: for how far the journal is whole."""
SETTLED_S: Final = 3.0
MAX_ANSWER_BYTES: Final = 4 << 20
PIECE_BYTES: Final = 64 << 10

log = logging.getLogger(__name__)

Bring = Callable[[Sequence[tuple[str, bytes]]], int]
"""Hands (topic, payload) to the courier; gives how many entries have no receipt afterwards."""


class Door(Protocol):
    """The recorder, for whom writes sticks."""

    def stick(self, standing: Standing | None, detail: str = "") -> None:
        """What the door tells of a stick; None: nothing any more."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount below the folder, by the kernel's number: plugged in again, it is another."""

    number: int
    point: Path


@dataclass(slots=True)
class _Stick:
    """A stick that is there, and what was last written onto it."""

    written_s: float
    appended: int


class Sticks:
    """The thread that watches for sticks. `tell` it what the recorder tells."""

    def __init__(
        self,
        data: Path,
        enrolment: Enrolment,
        keys: Keys,
        folder: Path,
        door: Door,
        statement: Statement,
        bring: Bring,
        mounts: Path = MOUNTS,
    ) -> None:
        self._data = data
        self._edge = enrolment.edge
        self._keys = keys
        self._folder = folder
        self._door = door
        self._bring = bring
        self._mounts = mounts
        self._statement = statement
        self._stopping = threading.Event()
        self._appended = 0
        self._known: dict[Mounted, _Stick | None] = {}
        self._shown: Standing | None = None
        self._shown_until = 0.0
        self._thread = threading.Thread(target=self._run, name="sticks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Does not wait for a stick that hangs: what it got is whole or not there."""
        self._stopping.set()
        self._thread.join(timeout=5)

    def alive(self) -> bool:
        return self._thread.is_alive()

    def tell(self, event: JournalEvent) -> None:
        """The recorder's listener; returns at once."""
        if isinstance(event, Appended):
            self._appended += 1

    # ------------------------------------------------------------------

    def _run(self) -> None:
        trouble = ""
        while not self._stopping.is_set():
            try:
                with self._mounts.open("rb", buffering=0) as mounts:
                    while not self._stopping.is_set():
                        mounts.seek(0)
                        self._look(_all_of(mounts), time.monotonic())
                        trouble = ""
                        _wait_for_change(mounts)
                now = ""
            except Exception as error:
                now = str(error) or type(error).__name__
                if now != trouble:
                    log.exception("sticks are not looked for now, and will be again")
                self._stopping.wait(LOOK_S)
            trouble = now

    def _look(self, mounts: str, now: float) -> None:
        if self._shown is not None and now >= self._shown_until:
            self._show(None)
        there = mounted(self._folder, mounts)
        for gone in self._known.keys() - set(there):
            if self._known.pop(gone) is not None and self._shown is Standing.STICK_WRITTEN:
                self._show(None)
        for each in there:
            if each not in self._known:
                self._known[each] = _Stick(0, 0) if is_marked(each.point) else None
                if self._known[each] is not None:
                    self._serve(each)
            elif (stick := self._known[each]) is not None:
                waited = now - stick.written_s
                more = self._appended > stick.appended
                if waited >= REFRESH_S or (more and waited >= AGAIN_S):
                    self._serve(each)

    def _serve(self, each: Mounted) -> None:
        """Takes what lies there for us, then writes; tells the door."""
        self._show(Standing.STICK_WRITING)
        appended = self._appended
        try:
            taken, written = self.serve(each.point)
        except (OSError, JournalError) as error:
            log.error("the stick at %s was not written: %s", each.point, error)  # noqa: TRY400
            self._show(Standing.STICK_FAILED, _why(error))
        else:
            log.info(
                "the stick at %s: %d messages of the hub taken, %d entries written",
                *(each.point, taken, written.entries),
            )
            self._show(Standing.STICK_WRITTEN)
        self._known[each] = _Stick(time.monotonic(), appended)

    def serve(self, point: Path) -> tuple[int, Written]:
        """How many messages were taken off the stick, and what was written onto it.

        Raises OSError, JournalError.
        """
        with folder_of(point) as folder, closing(JournalReader(self._data)) as reader:
            brought = self._answers(folder)
            if brought:
                self._settle(reader, self._bring([(each.topic, each.payload) for each in brought]))
            state = self._statement.ask()
            export = Export(reader, self._edge, self._keys, state)
            write_whole(folder, up_name(self._edge), export.pieces())
        if export.written.unreadable:
            log.warning("%d epochs cannot be read; they wait", export.written.unreadable)
        return len(brought), export.written

    def _answers(self, folder: int) -> list[Item]:
        """What the hub's file on the stick has for this edge; what is wrong with it is logged."""
        reader = CourierReader(Direction.DOWN)
        items: list[Item] = []
        try:
            for piece in _read(folder, down_name(self._edge)):
                items += reader.feed(piece)
            reader.close()
        except FileNotFoundError:
            return []
        except RemoteError as error:
            log.warning("receipts on the stick were not taken: %s", error)
            return []
        except OSError as error:
            log.warning("receipts on the stick cannot be read further: %s", error.strerror)
        else:
            if reader.ending is not Ending.WHOLE:
                log.warning("receipts on the stick are not whole: %s", reader.problem)
        return [each for each in items if each.edge == self._edge]

    def _settle(self, reader: JournalReader, waiting: int) -> None:
        """Until the journal knows the receipts; it may do without, and offers something twice."""
        until = time.monotonic() + SETTLED_S
        while sum(unreceipted(each) for each in reader.epochs()) > waiting:
            if time.monotonic() > until or self._stopping.wait(0.1):
                return

    def _show(self, standing: Standing | None, detail: str = "") -> None:
        self._shown, self._shown_until = standing, time.monotonic() + SHOWN_S
        self._door.stick(standing, detail)


def down_name(edge: bytes) -> str:
    """What the hub's file for an edge is called."""
    return f"shuaka-{edge.hex()}.down"


def mounted(folder: Path, mounts: str) -> list[Mounted]:
    """What is mounted at `folder` or below it, by the text of /proc/self/mountinfo (proc(5))."""
    found = []
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 5 or not fields[0].isdecimal():
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        if point == folder or folder in point.parents:
            found.append(Mounted(int(fields[0]), point))
    return found


def _all_of(mounts: RawIOBase) -> str:
    pieces = []
    while piece := mounts.read(PIECE_BYTES):
        pieces.append(piece)
    return b"".join(pieces).decode("utf-8", "surrogateescape")


def _wait_for_change(mounts: RawIOBase) -> None:
    """Until something is mounted or unmounted (proc(5)), or it is time to look anyway."""
    poll = select.poll()
    poll.register(mounts.fileno(), select.POLLPRI | select.POLLERR)
    poll.poll(LOOK_S * 1000)


def is_marked(point: Path) -> bool:
    """Whether a plain file SHUAKA-STICK lies in the root of what is mounted there."""
    try:
        with folder_of(point) as folder:
            mark = os.stat(MARK, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(mark.st_mode)


def _read(folder: int, name: str) -> Iterator[bytes]:
    """A plain file piece by piece. Raises OSError; FileNotFoundError also for what is none."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=folder), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileNotFoundError(errno.ENOENT, "is no plain file", name)
        left = MAX_ANSWER_BYTES
        while left > 0 and (piece := file.read(min(PIECE_BYTES, left))):
            left -= len(piece)
            yield piece


def _why(error: Exception) -> str:
    """A word for the door, where there is one that helps."""
    if isinstance(error, JournalError):
        return "设备的记录读不出来"
    match getattr(error, "errno", None):
        case errno.ENOSPC | errno.EDQUOT:
            return "U盘空间不足"
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return "U盘写保护"
        case errno.ENODEV | errno.ENXIO | errno.EIO | errno.ENOENT:
            return "U盘被拔出或已损坏"
        case _:
            return ""
