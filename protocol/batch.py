"""The signed messages: batches, hellos and heartbeats up; receipts and the hub's state down.

Each is a frozen value with `encode()`; each is read by the `open_…` function of its name, which
raises RemoteError with the reason that is counted. docs/wire.md and docs/wire.cddl say the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from protocol import cbor
from protocol.errors import Reason, RemoteError
from protocol.identity import MAX_MESSAGE_BYTES, MessageType, Signed, SigningKey
from protocol.journal import (
    DIGEST_BYTES,
    ID_BYTES,
    MAX_ENTRY_BYTES,
    MAX_HEADER_BYTES,
    MAX_READER_CHARS,
    MAX_REASON_CHARS,
    MAX_TIME_MS,
    EpochHeader,
    Gap,
    Stamp,
    read_stamp,
)
from protocol.sealing import MAX_SEALED_BYTES, subject_digest

MAX_ITEMS: Final = 500
MAX_RANGES: Final = 64
MAX_READERS: Final = 16
MAX_HELD_EPOCHS: Final = 256

Items = tuple[bytes | Gap, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive entries of one epoch, with the header that makes them readable."""

    header_bytes: bytes
    first: int
    previous: bytes
    """The chain's digest before entry `first`."""
    items: Items
    withheld: tuple[int, ...] = ()
    """Seqs of entries of which the edge cannot read a sealed subject any more."""
    subjects: int = 0
    """How many sealed subjects travel beside it: a receiver that finds fewer got a damaged one,
    also where it cannot read the entries that they belong to."""

    @property
    def last(self) -> int:
        """The seq of the last entry."""
        return (
            self.first
            - 1
            + sum(item.last - item.first + 1 if isinstance(item, Gap) else 1 for item in self.items)
        )

    def encode(self) -> bytes:
        return cbor.encode(
            [
                self.header_bytes,
                self.first,
                self.previous,
                [
                    [item.last - item.first + 1, item.digest, item.reason]
                    if isinstance(item, Gap)
                    else item
                    for item in self.items
                ],
                list(self.withheld),
                self.subjects,
            ]
        )

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        fields = cbor.Fields(cbor.decode(payload, "batch"), "batch", 6)
        header = fields.octets("header", 1, MAX_HEADER_BYTES)
        first = fields.uint("first seq", (1 << 62) - 1)
        previous = fields.octets("previous digest", DIGEST_BYTES)
        if first < 1:
            raise RemoteError(Reason.MALFORMED, "batch: seqs start at 1")
        raw = fields.array("entries", MAX_ITEMS)
        if not raw:
            raise RemoteError(Reason.MALFORMED, "batch: no entries")
        items: list[bytes | Gap] = []
        seq = first
        for value in raw:
            if type(value) is bytes:
                if len(value) > MAX_ENTRY_BYTES:
                    raise RemoteError(Reason.MALFORMED, f"batch: entry {seq} is too long")
                items.append(value)
                seq += 1
            else:
                gap = cbor.Fields(value, "gap", 3)
                count = gap.uint("count", 1 << 62)
                if count < 1 or seq + count >= 1 << 62:
                    raise RemoteError(Reason.MALFORMED, "gap: count is out of range")
                items.append(
                    Gap(
                        seq,
                        seq + count - 1,
                        gap.octets("digest", DIGEST_BYTES),
                        gap.text("reason", MAX_REASON_CHARS),
                    )
                )
                seq += count
        withheld = fields.array("withheld", MAX_ITEMS)
        if not all(type(value) is int and first <= value < seq for value in withheld):
            raise RemoteError(Reason.MALFORMED, "batch: withheld names a seq it does not hold")
        subjects = fields.uint("subjects", MAX_ITEMS)
        return cls(header, first, previous, tuple(items), tuple(withheld), subjects)


@dataclass(frozen=True, slots=True)
class Parcel:
    """What travels: the signed batch, byte for byte, and the sealed subjects beside it.

    The subjects are outside of the signature, so that they can be erased later; each is held to
    the digest that its signed entry states.
    """

    signed: bytes
    subjects: tuple[bytes, ...]

    def encode(self) -> bytes:
        return cbor.encode([self.signed, list(self.subjects)])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteError: OVERSIZE or MALFORMED."""
        if len(data) > MAX_MESSAGE_BYTES:
            raise RemoteError(Reason.OVERSIZE, f"{len(data)} bytes")
        fields = cbor.Fields(cbor.decode(data, "parcel"), "parcel", 2)
        signed = fields.octets("signed batch", 1, MAX_MESSAGE_BYTES)
        subjects = fields.array("subjects", MAX_ITEMS)
        for subject in subjects:
            if type(subject) is not bytes or len(subject) > MAX_SEALED_BYTES:
                raise RemoteError(Reason.MALFORMED, "parcel: a subject is no short byte string")
        return cls(signed, tuple(subjects))

    def by_digest(self) -> Mapping[bytes, bytes]:
        """The sealed subjects by their SHA-256."""
        return {subject_digest(sealed): sealed for sealed in self.subjects}


def seal_batch(batch: Batch, key: SigningKey, subjects: Sequence[bytes]) -> bytes:
    """The payload of `up/<edge>/journal`; the batch states how many `subjects` there are."""
    stated = replace(batch, subjects=len(subjects)).encode()
    return Parcel(key.sign(MessageType.BATCH, stated), tuple(subjects)).encode()


@dataclass(frozen=True, slots=True)
class Hello:
    """Sent at each connection: what the edge holds without a receipt. Answered by receipts."""

    header_bytes: bytes
    held: tuple[tuple[bytes, int, int], ...]
    """(epoch, first, last) of each epoch with entries that have no receipt; oldest first."""

    def encode(self) -> bytes:
        return cbor.encode([self.header_bytes, [list(each) for each in self.held]])

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        fields = cbor.Fields(cbor.decode(payload, "hello"), "hello", 2)
        header = fields.octets("header", 1, MAX_HEADER_BYTES)
        held: list[tuple[bytes, int, int]] = []
        for value in fields.array("held", MAX_HELD_EPOCHS):
            each = cbor.Fields(value, "held epoch", 3)
            epoch = each.octets("epoch", ID_BYTES)
            first, last = each.uint("first"), each.uint("last")
            if not 1 <= first <= last:
                raise RemoteError(Reason.MALFORMED, f"hello: holds {first} to {last}")
            held.append((epoch, first, last))
        return cls(header, tuple(held))


@dataclass(frozen=True, slots=True)
class ReaderState:
    """A reader's name, whether it works, and since when (CLOCK_BOOTTIME, ms)."""

    name: str
    up: bool
    since_boottime_ms: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The edge's statement that its journal is contiguous through `head`, as of `at`.

    What completeness rests on: nothing was tapped before `at` that is not in the journal.
    """

    epoch: bytes
    head: int
    digest: bytes
    at: Stamp
    released: int
    """Highest seq of this epoch up to which everything has a receipt."""
    first_held: int
    """Lowest seq of this epoch still on disk; head + 1 where none is."""
    unreceipted: int
    """Entries of all epochs that have no receipt yet."""
    readers: tuple[ReaderState, ...]
    closing: bool = False
    """This edge was told to retire and records nothing after this: its last word."""

    def encode(self) -> bytes:
        return cbor.encode(
            [
                self.epoch,
                self.head,
                self.digest,
                self.at.boottime_ms,
                self.at.wall_ms,
                self.at.trusted,
                self.released,
                self.first_held,
                self.unreceipted,
                [[reader.name, reader.up, reader.since_boottime_ms] for reader in self.readers],
                *([True] if self.closing else []),
            ]
        )

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        fields = cbor.Fields(cbor.decode(payload, "heartbeat"), "heartbeat", 10)
        return cls(
            epoch=fields.octets("epoch", ID_BYTES),
            head=fields.uint("head"),
            digest=fields.octets("digest", DIGEST_BYTES),
            at=read_stamp(fields),
            released=fields.uint("released"),
            first_held=fields.uint("first held"),
            unreceipted=fields.uint("unreceipted"),
            readers=tuple(_reader_state(value) for value in fields.array("readers", MAX_READERS)),
            closing=fields.flag("closing") if fields.more else False,
        )


def _reader_state(value: cbor.Value) -> ReaderState:
    fields = cbor.Fields(value, "reader", 3)
    return ReaderState(
        fields.text("name", MAX_READER_CHARS),
        fields.flag("up"),
        fields.uint("since", MAX_TIME_MS),
    )


@dataclass(frozen=True, slots=True)
class Range:
    """Seqs `first` to `last`, both included, with the chain's digest at `last`."""

    first: int
    last: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """The hub has these entries, committed. The only thing that lets an edge let go."""

    edge: bytes
    generation: int
    """Of the hub's memory: a hub restored from a backup begins a higher one."""
    epoch: bytes
    through: int
    """Every entry up to here is stored; 0 where none is."""
    digest: bytes
    """The chain's digest at `through`."""
    have: tuple[Range, ...] = ()
    """What is stored beyond a hole, in rising order."""

    def encode(self) -> bytes:
        return cbor.encode(
            [
                self.edge,
                self.generation,
                self.epoch,
                self.through,
                self.digest,
                [[each.first, each.last, each.digest] for each in self.have],
            ]
        )

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        fields = cbor.Fields(cbor.decode(payload, "receipt"), "receipt", 6)
        edge = fields.octets("edge", ID_BYTES)
        generation = fields.uint("generation")
        epoch = fields.octets("epoch", ID_BYTES)
        through = fields.uint("through")
        digest = fields.octets("digest", DIGEST_BYTES)
        have: list[Range] = []
        least = through + 2
        for value in fields.array("have", MAX_RANGES):
            each = cbor.Fields(value, "have", 3)
            held = Range(each.uint("first"), each.uint("last"), each.octets("digest", DIGEST_BYTES))
            if not least <= held.first <= held.last:
                raise RemoteError(Reason.MALFORMED, "receipt: ranges are not in rising order")
            have.append(held)
            least = held.last + 2
        return cls(edge, generation, epoch, through, digest, tuple(have))


@dataclass(frozen=True, slots=True)
class HubState:
    """Whether the hub listens: retained, and left behind as its will when it dies."""

    generation: int
    session: int
    """Rises with every start of a hub process; an older session's word is stale."""
    online: bool

    def encode(self) -> bytes:
        return cbor.encode([self.generation, self.session, self.online])

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        fields = cbor.Fields(cbor.decode(payload, "hub state"), "hub state", 3)
        return cls(fields.uint("generation"), fields.uint("session"), fields.flag("online"))


def open_receipt(data: bytes, hub_sign: bytes) -> Receipt:
    return Receipt.decode(Signed.parse(data, MessageType.RECEIPT).verify(hub_sign))


def open_hub_state(data: bytes, hub_sign: bytes) -> HubState:
    return HubState.decode(Signed.parse(data, MessageType.HUB_STATE).verify(hub_sign))


def header_of(batch_or_hello: Batch | Hello, edge: bytes) -> EpochHeader:
    """Its epoch header, which must name `edge`, whose signature was verified."""
    header = EpochHeader.decode(batch_or_hello.header_bytes)
    if header.edge != edge:
        raise RemoteError(Reason.WRONG_TOPIC, "the epoch belongs to another edge")
    return header
