"""The journal's entries, the epoch that holds them, and the chain that links them.

An entry is bytes first: what was written is what is hashed, sent and kept. `decode_entry` reads it
where it can. Digests: `digest(0)` is the SHA-256 of the epoch's header, `digest(n)` that of
`digest(n-1)` followed by entry n. Seqs start at 1 in each epoch.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final, Self, assert_never

from protocol import cbor
from protocol.credential import Assurance
from protocol.errors import LocalError, Reason, RemoteError
from protocol.identity import KEY_ID_BYTES
from protocol.sealing import MAX_WRAPPED_KEY_BYTES

ID_BYTES: Final = 16
"""An edge, an epoch and a boot are named by 16 bytes each."""
DIGEST_BYTES: Final = 32
MAX_ENTRY_BYTES: Final = 1024
MAX_HEADER_BYTES: Final = 512
MAX_READER_CHARS: Final = 64
MAX_REASON_CHARS: Final = 200
MAX_HEAD_COUNT: Final = 100_000

MAX_TIME_MS: Final = 1 << 47
"""The latest time that a clock may tell: some 4,459 years after it began."""
EARLIEST_WALL_MS: Final = -(1 << 45)
"""The earliest wall time, in the ninth century: a wrong clock is kept, nonsense is not."""

_MAX_ASSURANCE: Final = max(Assurance)

KIND_TAP: Final = 1
KIND_ACTION: Final = 2
KIND_CLOCK: Final = 3
KIND_READER_UP: Final = 4
KIND_READER_DOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Stamp:
    """When the edge saw something: CLOCK_BOOTTIME and the wall clock, both in ms, and its worth."""

    boottime_ms: int
    wall_ms: int
    trusted: bool
    """Whether the wall clock was known to be right (synchronised) at that moment."""


def read_stamp(fields: cbor.Fields) -> Stamp:
    """The next three elements as a stamp; RemoteError(MALFORMED) outside of the bounds above."""
    return Stamp(
        fields.uint("boottime", MAX_TIME_MS),
        fields.integer("wall time", EARLIEST_WALL_MS, MAX_TIME_MS),
        fields.flag("trusted"),
    )


@dataclass(frozen=True, slots=True)
class Tap:
    """A card was held to a reader. Whose it is, the sealed subject tells the hub alone."""

    KIND: ClassVar[int] = KIND_TAP

    at: Stamp
    reader: str
    assurance: Assurance
    subject: bytes
    """SHA-256 of the sealed subject, which travels beside the signed bytes."""


class Act(IntEnum):
    """What is done at a reader with a card that authorises it. A later version may know more."""

    OPENED = 1
    """The meeting here begins."""
    CLOSED = 2
    """The meeting here is over."""
    HEAD_COUNT = 3
    """So many people are here."""
    WITNESSED = 4
    """This member is here, without a card."""


MAX_ACT: Final = (1 << 15) - 1


@dataclass(frozen=True, slots=True)
class Action:
    """What somebody did at a reader, authorised by a card. Whether it may, the hub judges alone."""

    KIND: ClassVar[int] = KIND_ACTION

    at: Stamp
    """When the card was held to the reader."""
    reader: str
    what: int
    """An `Act`, or the number of one that only a later version knows: kept, and not understood."""
    number: int | None
    """The head-count; None for every other act that is known here."""
    assurance: Assurance
    subject: bytes
    """SHA-256 of the sealed subject of the card, as in a tap."""
    about: bytes | None
    """SHA-256 of the sealed subject that names the member witnessed; None for every other act that
    is known here."""


@dataclass(frozen=True, slots=True)
class ClockSample:
    """What the clocks said: the first entry of each epoch, and one at each change of trust."""

    KIND: ClassVar[int] = KIND_CLOCK

    at: Stamp


@dataclass(frozen=True, slots=True)
class ReaderUp:
    KIND: ClassVar[int] = KIND_READER_UP

    at: Stamp
    reader: str


@dataclass(frozen=True, slots=True)
class ReaderDown:
    KIND: ClassVar[int] = KIND_READER_DOWN

    at: Stamp
    reader: str
    reason: str


Entry = Tap | Action | ClockSample | ReaderUp | ReaderDown


def encode_entry(entry: Entry) -> bytes:
    """The bytes for the journal; LocalError if a hub could not read them, because of a limit."""
    match entry:
        case Tap(at, reader, assurance, subject):
            tail: list[object] = [reader, int(assurance), subject]
        case Action(at, reader, what, number, assurance, subject, about):
            tail = [reader, int(what), number, int(assurance), subject, about]
        case ClockSample(at):
            tail = []
        case ReaderUp(at, reader):
            tail = [reader]
        case ReaderDown(at, reader, reason):
            tail = [reader, reason]
        case _:
            assert_never(entry)
    # What is written stays: an entry that breaks a limit would be kept for ever and never count.
    try:
        encoded = cbor.encode([entry.KIND, at.boottime_ms, at.wall_ms, at.trusted, *tail])
        decode_entry(encoded)
    except (RemoteError, UnicodeEncodeError) as error:
        raise LocalError(f"this cannot be written: {error}") from error
    return encoded


def decode_entry(data: bytes) -> Entry:
    """The entry in `data`; RemoteError(MALFORMED) where it is broken or of an unknown kind.

    Elements after the known ones are ignored: a later version may append some.
    """
    if len(data) > MAX_ENTRY_BYTES:
        raise RemoteError(Reason.MALFORMED, f"an entry of {len(data)} bytes")
    value = cbor.decode(data, "entry")
    fields = cbor.Fields(value, "entry", 4)
    kind = fields.uint("kind")
    at = read_stamp(fields)
    match kind:
        case 1:
            fields.need(7)
            reader = fields.text("reader", MAX_READER_CHARS)
            assurance = Assurance(fields.uint("assurance", _MAX_ASSURANCE))
            return Tap(at, reader, assurance, fields.octets("subject", DIGEST_BYTES))
        case 2:
            fields.need(10)
            return _action(at, fields)
        case 3:
            return ClockSample(at)
        case 4:
            fields.need(5)
            return ReaderUp(at, fields.text("reader", MAX_READER_CHARS))
        case 5:
            fields.need(6)
            return ReaderDown(
                at,
                fields.text("reader", MAX_READER_CHARS),
                fields.text("reason", MAX_REASON_CHARS),
            )
        case _:
            raise RemoteError(Reason.MALFORMED, f"entry: kind {kind} is not known here")


def _action(at: Stamp, fields: cbor.Fields) -> Action:
    reader = fields.text("reader", MAX_READER_CHARS)
    what = fields.uint("act", MAX_ACT)
    counts, speaks_of = what == Act.HEAD_COUNT, what == Act.WITNESSED
    is_known = what in set(Act)
    number = fields.optional(
        lambda: fields.uint("number", MAX_HEAD_COUNT) if counts else fields.uint("number")
    )
    assurance = Assurance(fields.uint("assurance", _MAX_ASSURANCE))
    subject = fields.octets("subject", DIGEST_BYTES)
    about = fields.optional(lambda: fields.octets("about", DIGEST_BYTES))
    if is_known and (number is not None) != counts:
        raise RemoteError(Reason.MALFORMED, f"entry: {_has(number)} number for act {what}")
    if is_known and (about is not None) != speaks_of:
        raise RemoteError(Reason.MALFORMED, f"entry: {_has(about)} member for act {what}")
    return Action(at, reader, what, number, assurance, subject, about)


def _has(value: object) -> str:
    return "no" if value is None else "a"


@dataclass(frozen=True, slots=True)
class Parent:
    """The last durable entry before this epoch: where the chain goes on from."""

    epoch: bytes
    seq: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class EpochHeader:
    """Opens an epoch: one start of the daemon, or one reopening of its journal."""

    edge: bytes
    epoch: bytes
    boot: bytes
    opened: Stamp
    parent: Parent | None
    software: str
    hub_key: bytes
    """Key id of the hub's sealing key for which the content key is wrapped."""
    wrapped_key: bytes
    rehearsal: bool = False
    """Nobody was there: virtual cards, on a journal of their own, to try a venue beforehand.
    The hub receives it like any other and counts nothing in it."""

    def encode(self) -> bytes:
        parent = self.parent
        return cbor.encode(
            [
                self.edge,
                self.epoch,
                self.boot,
                self.opened.boottime_ms,
                self.opened.wall_ms,
                self.opened.trusted,
                None if parent is None else [parent.epoch, parent.seq, parent.digest],
                self.software,
                self.hub_key,
                self.wrapped_key,
                *([True] if self.rehearsal else []),
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteError(MALFORMED)."""
        if len(data) > MAX_HEADER_BYTES:
            raise RemoteError(Reason.MALFORMED, f"an epoch header of {len(data)} bytes")
        fields = cbor.Fields(cbor.decode(data, "epoch header"), "epoch header", 10)
        return cls(
            edge=fields.octets("edge", ID_BYTES),
            epoch=fields.octets("epoch", ID_BYTES),
            boot=fields.octets("boot", ID_BYTES),
            opened=read_stamp(fields),
            parent=_parent(fields.any()),
            software=fields.text("software", 64),
            hub_key=fields.octets("hub key", KEY_ID_BYTES),
            wrapped_key=fields.octets("wrapped key", 1, MAX_WRAPPED_KEY_BYTES),
            rehearsal=fields.flag("rehearsal") if fields.more else False,
        )


def _parent(value: cbor.Value) -> Parent | None:
    if value is None:
        return None
    fields = cbor.Fields(value, "parent", 3)
    return Parent(
        fields.octets("epoch", ID_BYTES), fields.uint("seq"), fields.octets("digest", DIGEST_BYTES)
    )


@dataclass(frozen=True, slots=True)
class Gap:
    """Stands in a batch where entries `first` to `last` should be and cannot be read any more.

    `digest` is the chain's digest after `last`, so that what follows still links up.
    """

    first: int
    last: int
    digest: bytes
    reason: str


def chain_start(header: bytes) -> bytes:
    """digest(0) of the epoch with these header bytes."""
    return hashlib.sha256(header).digest()


def chain_next(digest: bytes, entry: bytes) -> bytes:
    """digest(n) from digest(n-1) and the bytes of entry n."""
    return hashlib.sha256(digest + entry).digest()


@dataclass(frozen=True, slots=True)
class Link:
    """An item of a batch with its place in the chain: one entry, or a gap over several seqs."""

    first: int
    last: int
    digest: bytes
    item: "bytes | Gap"


def link(first: int, previous: bytes, items: Iterable[bytes | Gap]) -> Iterator[Link]:
    """Chains `items` on from `previous`, the digest before seq `first`."""
    seq, digest = first, previous
    for item in items:
        if isinstance(item, Gap):
            if item.first != seq:
                raise RemoteError(Reason.MALFORMED, f"a gap from {item.first} stands at {seq}")
            digest, last = item.digest, item.last
        else:
            digest, last = chain_next(digest, item), seq
        yield Link(seq, last, digest, item)
        seq = last + 1
