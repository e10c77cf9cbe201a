"""An edge's journal in memory: real keys, real sealing, real chain, no disk and no daemon."""

import copy
import itertools
import secrets
from uuid import UUID

from sqlalchemy import Connection, insert

from hub.store import schema as s
from protocol import topics
from protocol.batch import Batch, Heartbeat, Hello, Items, Parcel, seal_batch
from protocol.credential import Assurance, Credential
from protocol.identity import HubKeys, MessageType, SigningKey, key_id
from protocol.journal import (
    Action,
    ClockSample,
    EpochHeader,
    Parent,
    Stamp,
    Tap,
    chain_next,
    chain_start,
    encode_entry,
)
from protocol.sealing import Place, SubjectBox, subject_digest, wrap_content_key

_numbers = itertools.count(1)


def uid(number: int) -> Credential:
    return Credential("uid", "", f"{0x04_0000_0000_0000 + number:014X}")


class FakeEdge:
    """One device, its key, and one epoch at a time; `add_to` registers it with a hub."""

    def __init__(self, hub: HubKeys, name: str = "") -> None:
        self.key = SigningKey.generate()
        self.edge = secrets.token_bytes(16)
        self.name = name or f"device-{next(_numbers)}"
        self.hub = hub
        self.parent: Parent | None = None
        self.is_rehearsal = False
        self.reopen()

    def rehearse(self) -> "FakeEdge":
        """The same device in a rehearsal, with a scratch journal beside its own."""
        scratch = copy.copy(self)
        scratch.parent, scratch.entries, scratch.is_rehearsal = None, [], True
        scratch.reopen()
        return scratch

    def reopen(self, boot: bytes | None = None, wall_ms: int = 1_777_000_000_000) -> None:
        """Begins a new epoch, whose parent is where the last one ended."""
        if getattr(self, "entries", None):
            self.parent = Parent(self.epoch, len(self.entries), self.digests[-1])
        self.epoch = secrets.token_bytes(16)
        content_key = secrets.token_bytes(32)
        self.box = SubjectBox(content_key, self.edge, self.epoch)
        self.header = EpochHeader(
            edge=self.edge,
            epoch=self.epoch,
            boot=boot or getattr(self, "boot", None) or secrets.token_bytes(16),
            opened=Stamp(wall_ms - 1_776_999_999_000, wall_ms, trusted=True),
            parent=self.parent,
            software="fake",
            hub_key=key_id(self.hub.seal),
            wrapped_key=wrap_content_key(content_key, self.hub.seal, self.edge, self.epoch),
            rehearsal=self.is_rehearsal,
        )
        self.boot = self.header.boot
        self.header_bytes = self.header.encode()
        self.entries: list[bytes] = []
        self.digests = [chain_start(self.header_bytes)]
        self.sealed: dict[int, bytes] = {}
        self.about: dict[int, bytes] = {}
        self.raw(encode_entry(ClockSample(self.header.opened)))

    def add_to(self, conn: Connection, status: str = "ACTIVE") -> int:
        row = conn.execute(
            insert(s.devices)
            .values(
                public_id=UUID(bytes=self.edge),
                name=self.name,
                status=status,
                sign_key=self.key.public,
                seal_key=bytes(32),
                enrolled_at_ms=0,
                left_ms=0 if status == "RETIRED" else None,
                compromised_ms=0 if status == "COMPROMISED" else None,
            )
            .returning(s.devices.c.id)
        )
        return int(row.scalar_one())

    def raw(self, entry: bytes) -> int:
        self.entries.append(entry)
        self.digests.append(chain_next(self.digests[-1], entry))
        return len(self.entries)

    def tap(self, credential: Credential, wall_ms: int = 1_777_000_000_000) -> int:
        seq = len(self.entries) + 1
        sealed = self.box.seal(seq, credential, secrets.token_bytes(12))
        self.sealed[seq] = sealed
        at = Stamp(wall_ms - 1_776_999_999_000, wall_ms, trusted=True)
        return self.raw(encode_entry(Tap(at, "reader", Assurance.UID, subject_digest(sealed))))

    def act(
        self,
        what: int,
        credential: Credential,
        *,
        number: int | None = None,
        about: Credential | None = None,
        wall_ms: int = 1_777_000_000_000,
    ) -> int:
        """An action that the card `credential` authorises."""
        seq = len(self.entries) + 1
        sealed = self.sealed[seq] = self.box.seal(seq, credential, secrets.token_bytes(12))
        digest = None
        if about is not None:
            nonce = secrets.token_bytes(12)
            self.about[seq] = self.box.seal(seq, about, nonce, Place.ABOUT)
            digest = subject_digest(self.about[seq])
        at = Stamp(wall_ms - 1_776_999_999_000, wall_ms, trusted=True)
        subject = subject_digest(sealed)
        return self.raw(
            encode_entry(Action(at, "reader", what, number, Assurance.UID, subject, digest))
        )

    def batch(self, first: int = 1, last: int | None = None, items: Items | None = None) -> Batch:
        last = len(self.entries) if last is None else last
        return Batch(
            self.header_bytes,
            first,
            self.digests[first - 1],
            items or tuple(self.entries[first - 1 : last]),
        )

    def payload(self, first: int = 1, last: int | None = None) -> bytes:
        batch = self.batch(first, last)
        return self.sign(batch)

    def sign(self, batch: Batch) -> bytes:
        span = range(batch.first, batch.last + 1)
        subjects = [held[n] for held in (self.sealed, self.about) for n in span if n in held]
        return seal_batch(batch, self.key, subjects)

    def sign_bytes(self, message: MessageType, payload: bytes) -> bytes:
        return self.key.sign(message, payload)

    def parcel_of(self, payload: bytes, subjects: tuple[bytes, ...] = ()) -> bytes:
        """Validly signed bytes of any content, as a journal message."""
        return Parcel(self.key.sign(MessageType.BATCH, payload), subjects).encode()

    def hello(self, *held: tuple[bytes, int, int]) -> bytes:
        return self.key.sign(MessageType.HELLO, Hello(self.header_bytes, held).encode())

    def heartbeat(self, wall_ms: int, *, trusted: bool = True, closing: bool = False) -> bytes:
        beat = Heartbeat(
            epoch=self.epoch,
            head=len(self.entries),
            digest=self.digests[-1],
            at=Stamp(max(0, wall_ms - 1_776_999_999_000), wall_ms, trusted),
            released=0,
            first_held=1,
            unreceipted=0 if closing else len(self.entries),
            readers=(),
            closing=closing,
        )
        return self.key.sign(MessageType.HEARTBEAT, beat.encode())

    def topic(self, channel: topics.Up = topics.Up.JOURNAL) -> str:
        return topics.up(self.edge, channel)
