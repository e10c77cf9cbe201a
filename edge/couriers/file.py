"""What an edge gives to whoever carries a file to the hub, and where it is written.

The journal is only read, beside the thread that writes it. What goes into the file is signed and
sealed as it would be for the broker; nothing in it is in clear.
"""

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge.couriers import JournalState
from edge.enrol import Keys
from edge.store import Held, JournalError, JournalReader
from protocol.batch import MAX_HELD_EPOCHS, MAX_ITEMS, Heartbeat, Hello, seal_batch
from protocol.courierfile import Channel, Direction, Item, begin, end
from protocol.identity import MessageType

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Written:
    """What went into a file."""

    items: int = 0
    entries: int = 0
    size: int = 0
    unreadable: int = 0
    """Epochs of which something could not be read: it waits in the journal."""


class Export:
    """The file's bytes, piece by piece; `written` counts them."""

    def __init__(
        self,
        reader: JournalReader,
        edge: bytes,
        keys: Keys,
        state: JournalState | None,
        *,
        is_all: bool = False,
    ) -> None:
        """What has no receipt, or `is_all` that is held.

        `state` is the recorder's statement, asked for before this; None where none is to be had.
        """
        self._reader = reader
        self._edge = edge
        self._keys = keys
        self._state = state
        self._is_all = is_all
        self.written = Written()

    def pieces(self) -> Iterator[bytes]:
        """Raises JournalError where the journal cannot be read at all."""
        held = self._reader.epochs()
        yield self._counted(begin(Direction.UP))
        for item in self._items(held):
            self.written.items += 1
            yield self._counted(item.encode())
        yield self._counted(end(self.written.items))

    def _counted(self, piece: bytes) -> bytes:
        self.written.size += len(piece)
        return piece

    def _items(self, held: list[Held]) -> Iterator[Item]:
        if not held:
            return
        sign = self._keys.sign.sign
        waiting = [each for each in held if unreceipted(each)]
        spans = [(each.epoch, _released(each) + 1, each.head) for each in waiting]
        hello = Hello(held[-1].header, tuple(spans[:MAX_HELD_EPOCHS]))
        yield Item(Channel.HELLO, self._edge, sign(MessageType.HELLO, hello.encode()))
        for each in held:
            yield from self._journal(each)
        if self._state is not None and any(each.epoch == self._state.epoch for each in held):
            beat = _heartbeat(self._state, held)
            yield Item(Channel.STATE, self._edge, sign(MessageType.HEARTBEAT, beat.encode()))

    def _journal(self, held: Held) -> Iterator[Item]:
        at = held.first if self._is_all else _released(held) + 1
        while at <= held.head:
            try:
                batch, subjects = self._reader.batch(
                    held.epoch, at, min(held.head, at + MAX_ITEMS - 1)
                )
            except JournalError:
                first = self._first(held.epoch)
                if first is not None and first <= at:
                    self.written.unreadable += 1
                    return
                if first is None:
                    return  # removed meanwhile, as only what has a receipt is
                at = first
                continue
            payload = seal_batch(batch, self._keys.sign, subjects)
            self.written.entries += batch.last - batch.first + 1
            yield Item(Channel.JOURNAL, self._edge, payload)
            at = batch.last + 1

    def _first(self, epoch: bytes) -> int | None:
        """Where `epoch` begins now; None where it is held no more."""
        return next((each.first for each in self._reader.epochs() if each.epoch == epoch), None)


def up_name(edge: bytes) -> str:
    """What an edge's file for the hub is called on a stick."""
    return f"shuaka-{edge.hex()}.up"


def unreceipted(held: Held) -> int:
    """How many entries of an epoch have no receipt."""
    return held.head - _released(held)


def _released(held: Held) -> int:
    return min(held.head, max(held.first - 1, held.released))


def _heartbeat(state: JournalState, held: list[Held]) -> Heartbeat:
    [own] = [each for each in held if each.epoch == state.epoch]
    waiting = sum(unreceipted(each) for each in held)
    return Heartbeat(
        epoch=state.epoch,
        head=state.head,
        digest=state.digest,
        at=state.at,
        released=_released(own),
        first_held=own.first,
        unreceipted=waiting,
        readers=state.readers,
        closing=state.closing and waiting == 0,
    )


# --- writing --------------------------------------------------------------------------------------


@contextmanager
def folder_of(path: Path) -> Iterator[int]:
    """The folder `path`, open, itself and not what a link in its place leads to. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def write_whole(folder: int, name: str, pieces: Iterable[bytes]) -> None:
    """Puts a file `name` into the open folder: whole and durable, or what was there stays.

    Follows no link. Raises OSError, and whatever `pieces` raise.
    """
    scratch = f".{name}.part"
    with suppress(FileNotFoundError):
        os.unlink(scratch, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(scratch, flags, 0o600, dir_fd=folder), "wb") as file:
            for piece in pieces:
                file.write(piece)
            with suppress(OSError):  # the hub's user reads it; FAT knows no modes
                os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(scratch, dir_fd=folder)
        raise
    os.fsync(folder)
    # FAT keeps in the file system as a whole what fsync of a file does not reach
    if _LIBC.syncfs(folder):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
