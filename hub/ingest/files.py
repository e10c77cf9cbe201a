"""Ingest from files that somebody carried here (protocol.courierfile), beside MQTT or without it.

What a file holds lands as if it had come by MQTT, by the same code and with the same outcome: each
entry once, whatever comes again, in whatever order, on whatever way. A file may be cut off or
damaged: what is whole of it counts. What cannot be taken is counted and never stops the rest.

Receipts for what was taken are given to carry back once it is committed, never before.
"""

import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from hub import derive
from hub.ingest.landing import Landed, Landing, Message
from hub.ingest.orders import Orders
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.bulk import chunks
from protocol.batch import Receipt
from protocol.courierfile import Channel, CourierReader, Direction, Ending, Item, begin, end
from protocol.errors import Reason
from protocol.identity import MessageType

UP_SUFFIX: Final = ".up"
MAX_GROUP: Final = 64
"""Items taken into one transaction."""
MAX_REFUSED: Final = 1_000
"""A file of which so many items were refused is not read on."""
PIECE_BYTES: Final = 64 << 10

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Taken:
    """What one file brought."""

    ending: Ending = Ending.TRUNCATED
    problem: str = ""
    """Why it was not read to its end; empty where it was."""
    items: int = 0
    journals: int = 0
    batches: int = 0
    """Batches of which something was new, and the entries that were."""
    entries: int = 0
    held: int = 0
    """Batches of a device that has left, or is compromised, which wait for a person."""
    rejected: Counter[str] = field(default_factory=Counter)
    """By reason; of `broken_entry` the batch was taken all the same."""
    left: list[bytes] = field(default_factory=list)
    """Devices of which the last word came: they have retired."""
    edges: dict[bytes, None] = field(default_factory=dict)
    """Of whom something was taken or known already, in order."""

    @property
    def refused(self) -> int:
        """Items that were not taken."""
        return self.rejected.total() - self.rejected[Reason.BROKEN_ENTRY]

    @property
    def is_sound(self) -> bool:
        """Whether it is whole and everything in it was taken."""
        is_whole = self.ending is Ending.WHOLE and not self.problem
        return is_whole and not self.rejected and not self.held


class FileIngest:
    """Takes files in, one after another, and gives the receipts for all of them."""

    def __init__(self, engine: Engine, keyring: Keyring, now_ms: int) -> None:
        self._engine = engine
        self._keyring = keyring
        self._now_ms = now_ms
        self._landing = Landing(keyring)
        self._receipts: dict[bytes, dict[bytes, Receipt]] = {}

    def take(self, pieces: Iterable[bytes]) -> Taken:
        """Takes what is whole of a file.

        `pieces` may end with an OSError: what came before it counts.
        Raises RemoteError where it is no courier file for a hub, or of a later version; OSError
        where nothing of it can be read.
        """
        reader, taken = CourierReader(Direction.UP), Taken()
        waiting: list[Item] = []
        for piece in _until_it_fails(pieces, taken):
            waiting += reader.feed(piece)
            while len(waiting) >= MAX_GROUP:
                self._land(waiting[:MAX_GROUP], taken)
                del waiting[:MAX_GROUP]
            if reader.ending is not None or taken.refused >= MAX_REFUSED:
                break
        reader.close()
        while waiting:
            self._land(waiting[:MAX_GROUP], taken)
            del waiting[:MAX_GROUP]
        taken.ending = reader.ending or Ending.TRUNCATED
        taken.problem = taken.problem or reader.problem
        if taken.refused >= MAX_REFUSED:
            taken.problem = f"{taken.refused} of its items were refused: it was not read on"
        return taken

    def derive(self) -> None:
        """Makes attendance of what was taken; `serve` would, but only once it hears something."""
        step = True
        while step:
            with self._engine.begin() as conn:
                done = derive.derive_batch(conn)
                step = bool(done.batches or done.heartbeats)

    def answers(self) -> Iterator[tuple[bytes, int, bytes]]:
        """For each edge that was heard of: its id, its receipts' number, and the file for it."""
        heard = dict.fromkeys(self._receipts, True)
        orders = dict(Orders(self._engine, self._keyring.sign).due(heard))
        for edge, receipts in self._receipts.items():
            file = answer(self._keyring, edge, list(receipts.values()), orders.get(edge))
            yield edge, len(receipts), file

    # ------------------------------------------------------------------

    def _land(self, items: Sequence[Item], taken: Taken) -> None:
        messages = [Message(each.topic, each.payload, "usb") for each in items]
        landed = self._landed(messages, taken)
        taken.items += len(items)
        taken.journals += sum(each.channel is Channel.JOURNAL for each in items)
        taken.batches += landed.batches
        taken.entries += landed.entries
        taken.held += landed.held
        taken.left += landed.left
        taken.rejected.update({str(reason): n for reason, n in landed.rejected.items()})
        for receipt in landed.receipts:
            taken.edges[receipt.edge] = None
            self._receipts.setdefault(receipt.edge, {})[receipt.epoch] = receipt

    def _landed(self, messages: Sequence[Message], taken: Taken) -> Landed:
        """Commits `messages`; where one makes the code fail, it alone is left out."""
        try:
            with self._engine.begin() as conn:
                return self._landing.land(conn, messages, self._now_ms)
        except Exception as error:
            if isinstance(error, DBAPIError) and not isinstance(error, DataError | IntegrityError):
                raise
            if len(messages) == 1:
                log.exception("an item made ingest fail", topic=messages[0].topic)
                taken.rejected["made_ingest_fail"] += 1
                return Landed()
        landed = Landed()
        for each in messages:
            landed.add(self._landed([each], taken))
        return landed


def _until_it_fails(pieces: Iterable[bytes], taken: Taken) -> Iterator[bytes]:
    is_begun = False
    try:
        for piece in pieces:
            is_begun = True
            yield piece
    except OSError as error:
        if not is_begun:
            raise
        taken.problem = f"it cannot be read further: {error.strerror}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The file to carry back to an edge."""

    edge: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class Carried:
    """What one file brought, and what goes back."""

    taken: Taken
    answers: tuple[Answer, ...]


def carry(engine: Engine, keyring: Keyring, pieces: Iterable[bytes], now_ms: int) -> Carried:
    """Takes one file in, all the way to attendance. Raises as `FileIngest.take` does."""
    ingest = FileIngest(engine, keyring, now_ms)
    taken = ingest.take(pieces)
    ingest.derive()
    return Carried(taken, tuple(Answer(edge, file) for edge, _, file in ingest.answers()))


def answer(
    keyring: Keyring, edge: bytes, receipts: Sequence[Receipt], order: bytes | None = None
) -> bytes:
    """The file to carry back to `edge`. What the receipts speak of must be committed."""
    items = [
        *(Item(Channel.KEYS, edge, statement) for statement in keyring.statements),
        *(
            Item(Channel.RECEIPT, edge, keyring.sign.sign(MessageType.RECEIPT, each.encode()))
            for each in receipts
        ),
        *([] if order is None else [Item(Channel.ORDER, edge, order)]),
    ]
    return b"".join([begin(Direction.DOWN), *(each.encode() for each in items), end(len(items))])


def answer_name(edge: bytes) -> str:
    """What the file to carry back is called on a stick."""
    return f"shuaka-{edge.hex()}.down"


def names(conn: Connection, edges: Iterable[bytes]) -> dict[bytes, str]:
    """What the devices are called here; those that are not known are left out."""
    found: dict[bytes, str] = {}
    for part in chunks([UUID(bytes=each) for each in edges]):
        rows = conn.execute(
            select(s.devices.c.public_id, s.devices.c.name).where(s.devices.c.public_id.in_(part))
        )
        found |= {row.public_id.bytes: row.name for row in rows}
    return found


# --- files on disk --------------------------------------------------------------------------------


def files_in(path: Path) -> list[Path]:
    """`path` itself, or the courier files of that folder; no link is followed out of it.

    Raises OSError.
    """
    if not path.is_dir():
        return [path]
    return sorted(
        each
        for each in path.iterdir()
        if each.name.endswith(UP_SUFFIX) and each.is_file() and not each.is_symlink()
    )


def pieces_of(path: Path) -> Iterator[bytes]:
    """A file piece by piece. Raises OSError."""
    # a pipe would wait for a writer for ever
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def write_whole(path: Path, content: bytes) -> None:
    """Puts `content` in the place of whatever is at `path`, in one step. Raises OSError.

    Unlike hub.durable it can do without modes and links, which FAT does not know.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(scratch, flags, 0o600), "wb") as file:
            file.write(content)
            with suppress(OSError):  # whoever carries it, and the device, may read it
                os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
