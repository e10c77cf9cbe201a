"""Takes messages of edges into the database: verified, each entry once, or counted as rejected.

One call of `land` is one transaction of the caller's. It gives the receipts to sign and send once
that transaction is committed, never before (P3). A message that cannot be taken is counted with
its reason and leaves no fact behind (an epoch that its signed header opened stays known); it never
stops the others.

What is validly signed by an active device is kept and receipted, also where an entry in it cannot
be decoded (each such entry is counted as well); anything else is never receipted, since a receipt
for a damaged batch would make the edge throw the good one away.

Of a device that has left the fleet, what it recorded before that is taken like any other's. Its
other batches, and all of one that is compromised, are verified and held: byte for byte, without a
receipt, counting for nothing, until a person has admitted the time in which they came.

Of a rehearsal (演练) the batches are verified, kept and receipted like any other, and that is all:
its entries, cards and heartbeats are written nowhere, its taps are only counted.
"""

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import (
    Connection,
    Delete,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from hub import audit
from hub.domain.completeness import CLOCKS_APART_MS
from hub.domain.terms import DeviceStatus
from hub.domain.words import Words
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.bulk import insert_rows
from protocol.batch import Batch, Heartbeat, Hello, Parcel, Receipt, header_of
from protocol.credential import REHEARSAL_SCHEME, Credential
from protocol.delivery import Island, Mark, accept
from protocol.errors import Reason, RemoteError
from protocol.identity import MessageType, Signed
from protocol.journal import (
    Action,
    Entry,
    EpochHeader,
    Gap,
    Link,
    Tap,
    chain_start,
    decode_entry,
    link,
)
from protocol.sealing import Place, SubjectBox, unwrap_content_key
from protocol.topics import Up, parse_up

DEVICE_ITSELF: Final = str(Words("设备自己"))
"""The actor of what a device says of itself."""
SAMPLE_BYTES: Final = 256
SAMPLES_KEPT: Final = 1000
SAMPLES_A_LANDING: Final = 8
BOXES_KEPT: Final = 4096

MAX_HELD_BYTES: Final = 64 << 20
"""What is held of one device: whoever has its key must not fill a disk."""
ADMITTED_A_LANDING: Final = 50

KIND_UNREADABLE: Final = 0
"""`entries.kind` of what could not be decoded."""


@dataclass(frozen=True, slots=True)
class Message:
    """What came in on a topic (or, from a stick, would have)."""

    topic: str
    payload: bytes
    transport: str = "mqtt"


@dataclass(slots=True)
class Landed:
    """What one landing did: receipts to send after the commit, and counts."""

    receipts: list[Receipt] = field(default_factory=list)
    entries: int = 0
    batches: int = 0
    heartbeats: int = 0
    held: int = 0
    """Batches that wait for a person, those that are held already included."""
    rejected: Counter[Reason] = field(default_factory=Counter)
    """Messages that were not taken, and entries that were, and cannot be decoded."""
    heard: dict[bytes, bool] = field(default_factory=dict)
    """Edges that said a hello (True) or a heartbeat (False): they may want a roster."""
    left: list[bytes] = field(default_factory=list)
    """Edges of which the last word came."""

    def add(self, other: "Landed") -> None:
        """Makes this what both did together."""
        self.receipts += other.receipts
        self.entries += other.entries
        self.batches += other.batches
        self.heartbeats += other.heartbeats
        self.held += other.held
        self.rejected += other.rejected
        self.heard |= other.heard
        self.left += other.left


@dataclass(frozen=True, slots=True)
class _Device:
    id: int
    edge: bytes
    sign_key: bytes
    status: DeviceStatus
    left_ms: int | None
    closing: tuple[bytes, int] | None
    """Epoch and number of its last entry of all, by its own last word."""
    is_answered: bool
    """Whether it is told what the hub has of it."""


@dataclass(slots=True)
class _Epoch:
    """An epoch's row, and what this landing makes of it."""

    id: int
    device: _Device
    header: EpochHeader
    header_bytes: bytes
    mark: Mark
    stored: Mark
    gaps: list[Gap]
    rehearsed: int = 0
    """Taps of a rehearsal that this landing brings."""

    @property
    def key(self) -> tuple[bytes, bytes]:
        return self.device.edge, self.header.epoch


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A message whose signature by an active device was verified."""

    message: Message
    device: _Device
    value: Batch | Hello | Heartbeat
    header: EpochHeader | None = None
    """Of a batch or hello; a heartbeat only names its epoch."""
    signed: bytes = b""
    """Of a batch: the signed bytes, and its sealed subjects by their digests."""
    subjects: Mapping[bytes, bytes] = field(default_factory=dict)

    @property
    def epoch(self) -> tuple[bytes, bytes]:
        """The edge and the epoch that it speaks of."""
        if isinstance(self.value, Heartbeat):
            return self.device.edge, self.value.epoch
        return self.device.edge, cast("EpochHeader", self.header).epoch


class Landing:
    """Lands messages; holds nothing between landings but opened content keys, in memory."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._boxes: OrderedDict[bytes, SubjectBox | None] = OrderedDict()

    def land(self, conn: Connection, messages: Sequence[Message], now_ms: int) -> Landed:
        """Takes `messages` within the caller's write transaction."""
        return _Run(conn, self, now_ms).land(messages)

    def land_admitted(self, conn: Connection) -> Landed:
        """Takes what was held of devices and has been admitted, as of when it came in.

        A bounded number of messages within the caller's write transaction: call it until nothing
        is landed and nothing rejected. What can still not be taken stays, with the reason.
        """
        h, a = s.held_messages.c, s.admissions.c
        rows = conn.execute(
            select(s.held_messages)
            .where(
                h.problem.is_(None),
                exists().where(
                    a.device_id == h.device_id, a.from_ms <= h.received_ms, h.received_ms < a.to_ms
                ),
            )
            .order_by(h.received_ms, h.id)
            .limit(ADMITTED_A_LANDING)
            .with_for_update()
        ).all()
        total = Landed()
        for row in rows:
            message = Message(row.topic, row.payload, row.transport)
            landed = _Run(conn, self, row.received_ms, admitted=True).land([message])
            problems = set(landed.rejected) - {Reason.BROKEN_ENTRY}
            if problems:
                conn.execute(
                    update(s.held_messages)
                    .where(h.id == row.id)
                    .values(problem=min(problems).value)
                )
            else:
                conn.execute(delete(s.held_messages).where(h.id == row.id))
            total.add(landed)
        return total

    def box(self, header: EpochHeader) -> SubjectBox | None:
        """What opens the subjects of an epoch; None where its wrapped key is no good.

        Raises RemoteError(UNKNOWN_HUB_KEY) where it was wrapped for a key that is not here: that
        key may yet be restored.
        """
        name = header.edge + header.epoch
        if name in self._boxes:
            self._boxes.move_to_end(name)
            return self._boxes[name]
        key = self._keyring.opening_key(header.hub_key)
        if key is None:
            raise RemoteError(Reason.UNKNOWN_HUB_KEY, f"sealed for hub key {header.hub_key.hex()}")
        try:
            content_key = unwrap_content_key(header.wrapped_key, key, header.edge, header.epoch)
            box = SubjectBox(content_key, header.edge, header.epoch)
        except RemoteError:
            box = None
        self._boxes[name] = box
        if len(self._boxes) > BOXES_KEPT:
            self._boxes.popitem(last=False)
        return box


def _within_a_run() -> Delete:
    """Deletes heartbeats between the first and this one of the same words.

    While an epoch's head and readers stay as they are, the first and the last heartbeat say all
    that the many between them said.
    """
    h, first = s.heartbeats.c, s.heartbeats.alias("first").c
    same = ("device_id", "epoch", "head_seq", "trusted", "readers", "closing")
    began = (
        select(func.min(first.boottime_ms))
        .where(*(first[name] == bindparam(name) for name in same))
        .scalar_subquery()
    )
    return delete(s.heartbeats).where(
        *(h[name] == bindparam(name) for name in same),
        h.derived,
        h.boottime_ms < bindparam("boottime_ms"),
        h.boottime_ms > began,
    )


_WITHIN_A_RUN: Final = _within_a_run()


class _Run:
    """One landing."""

    def __init__(
        self, conn: Connection, landing: Landing, now_ms: int, *, admitted: bool = False
    ) -> None:
        self._conn = conn
        self._admitted = admitted
        self._landing = landing
        self._now_ms = now_ms
        self._landed = Landed()
        self._epochs: dict[tuple[bytes, bytes], _Epoch] = {}
        self._touched: dict[tuple[bytes, bytes], None] = {}
        self._rows: list[dict[str, Any]] = []
        self._actions: list[dict[str, Any]] = []
        self._batches: list[dict[str, Any]] = []
        self._gaps: list[dict[str, Any]] = []
        self._returned: list[dict[str, Any]] = []
        self._unopened: list[dict[str, Any]] = []
        self._heartbeats: list[dict[str, Any]] = []
        self._held: list[dict[str, Any]] = []
        self._closings: list[tuple[_Device, Heartbeat]] = []
        self._rejections: list[dict[str, Any]] = []

    def land(self, messages: Sequence[Message]) -> Landed:
        arrived = self._verified(messages)
        self._load_epochs(arrived)
        for each in arrived:
            try:
                self._take(each)
            except RemoteError as error:
                self._reject(each.message, error.reason)
        self._write()
        self._landed.receipts = [
            epoch.mark.receipt(epoch.device.edge, self._generation(), epoch.header.epoch)
            for key in self._touched
            for epoch in [self._epochs[key]]
            if epoch.device.is_answered
        ]
        return self._landed

    # --- verification ---------------------------------------------------------------------------

    def _verified(self, messages: Sequence[Message]) -> list[_Arrived]:
        addressed = []
        for message in messages:
            try:
                addressed.append((message, *parse_up(message.topic)))
            except RemoteError as error:
                self._reject(message, error.reason)
        devices = self._devices({edge for _, edge, _ in addressed})
        arrived = []
        for message, edge, channel in addressed:
            try:
                device = devices.get(edge)
                if device is None:
                    raise RemoteError(Reason.UNKNOWN_DEVICE, f"no device {edge.hex()}")  # noqa: TRY301
                if isinstance(device, DeviceStatus):
                    raise RemoteError(Reason.INACTIVE_DEVICE, f"the device is {device}")  # noqa: TRY301
                each = _read(message, device, channel)
                if device.status is DeviceStatus.COMPROMISED and (
                    channel is Up.STATE or (channel is Up.HELLO and not device.is_answered)
                ):
                    raise RemoteError(Reason.INACTIVE_DEVICE, "the device is compromised")  # noqa: TRY301
                arrived.append(each)
            except RemoteError as error:
                self._reject(message, error.reason)
        return arrived

    def _devices(self, edges: set[bytes]) -> Mapping[bytes, "_Device | DeviceStatus"]:
        """The devices among `edges`; of those that are not enrolled, the status."""
        if not edges:
            return {}
        d, a = s.devices.c, s.admissions.c
        rows = self._conn.execute(
            select(
                d.id,
                d.public_id,
                d.status,
                d.sign_key,
                d.left_ms,
                d.closing_epoch,
                d.closing_seq,
                exists().where(a.device_id == d.id).label("is_admitted"),
            )
            .where(d.public_id.in_([UUID(bytes=edge) for edge in edges]))
            .order_by(d.id)
            # Whoever declares one compromised waits, and then finds all that was taken before.
            .with_for_update(read=True)
        )
        return {
            row.public_id.bytes: DeviceStatus(row.status)
            if row.sign_key is None or row.status == DeviceStatus.PENDING
            else _Device(
                row.id,
                row.public_id.bytes,
                row.sign_key,
                DeviceStatus(row.status),
                row.left_ms,
                None if row.closing_epoch is None else (row.closing_epoch, row.closing_seq),
                row.status != DeviceStatus.COMPROMISED or row.is_admitted,
            )
            for row in rows
        }

    def _is_held(self, each: _Arrived) -> bool:
        """Whether it waits for a person: a batch of a device that has left, or is compromised."""
        device = each.device
        if self._admitted or not isinstance(each.value, Batch):
            return False
        match device.status:
            case DeviceStatus.COMPROMISED:
                return True
            case DeviceStatus.RETIRED:
                return not _is_of_before(each.value, each.epoch[1], device)
            case _:
                return False

    def _hold(self, each: _Arrived, batch: Batch) -> None:
        """Keeps it for a person; what is a fact already is only answered, where one is."""
        epoch = self._epochs.get(each.epoch)
        if epoch is not None and epoch.header_bytes == batch.header_bytes:
            links = list(link(batch.first, batch.previous, batch.items))
            try:
                is_known = not accept(epoch.mark, batch.previous, links, epoch.gaps).fresh
            except RemoteError:
                is_known = False
            if is_known:
                self._touched[epoch.key] = None
                return
        h, payload = s.held_messages.c, each.message.payload
        digest = hashlib.sha256(payload).digest()
        kept = self._conn.execute(
            select(
                func.coalesce(func.sum(func.length(h.payload)), 0),
                func.count().filter(h.sha256 == digest),
            ).where(h.device_id == each.device.id)
        ).one()
        waiting = sum(
            len(row["payload"]) for row in self._held if row["device_id"] == each.device.id
        )
        if not kept[1] and kept[0] + waiting + len(payload) > MAX_HELD_BYTES:
            raise RemoteError(Reason.INACTIVE_DEVICE, "too much is held of this device")
        self._landed.held += 1
        self._held.append(
            {
                "device_id": each.device.id,
                "topic": each.message.topic,
                "payload": payload,
                "sha256": digest,
                "transport": each.message.transport,
                "received_ms": self._now_ms,
                "entries": batch.last - batch.first + 1,
            }
        )

    # --- epochs ---------------------------------------------------------------------------------

    def _load_epochs(self, arrived: Iterable[_Arrived]) -> None:
        """Loads, locked until the commit, each epoch that is spoken of; adds those not known."""
        headers: dict[tuple[bytes, bytes], tuple[_Device, EpochHeader, bytes]] = {}
        spoken: dict[tuple[bytes, bytes], _Device] = {}
        for each in arrived:
            spoken[each.epoch] = each.device
            if isinstance(each.value, Hello):
                spoken |= {(each.device.edge, epoch): each.device for epoch, *_ in each.value.held}
            if (
                each.header is not None
                and not isinstance(each.value, Heartbeat)
                and not self._is_held(each)
                and (self._admitted or each.device.status is not DeviceStatus.COMPROMISED)
            ):
                headers.setdefault(each.epoch, (each.device, each.header, each.value.header_bytes))
        self._add_epochs(headers)
        devices = {device.id: device for device in spoken.values()}
        rows = self._conn.execute(
            select(s.epochs)
            .where(
                s.epochs.c.device_id.in_(devices),
                s.epochs.c.epoch.in_([epoch for _, epoch in spoken]),
            )
            .order_by(s.epochs.c.id)
            .with_for_update()
        ).all()
        islands: dict[int, list[Island]] = {}
        for row in self._conn.execute(
            select(s.islands)
            .where(s.islands.c.epoch_id.in_([row.id for row in rows]))
            .order_by(s.islands.c.first)
        ):
            islands.setdefault(row.epoch_id, []).append(
                Island(row.first, row.last, row.previous_digest, row.last_digest)
            )
        gaps: dict[int, list[Gap]] = {}
        for row in self._conn.execute(
            select(s.gaps).where(s.gaps.c.epoch_id.in_([row.id for row in rows]))
        ):
            gaps.setdefault(row.epoch_id, []).append(
                Gap(row.first, row.last, row.digest, row.reason)
            )
        for row in rows:
            device = devices[row.device_id]
            digest = row.through_digest or chain_start(row.header)
            mark = Mark(row.through, digest, tuple(islands.get(row.id, ())))
            epoch = _Epoch(
                id=row.id,
                device=device,
                header=EpochHeader.decode(row.header),
                header_bytes=row.header,
                mark=mark,
                stored=mark,
                gaps=gaps.get(row.id, []),
            )
            self._epochs[epoch.key] = epoch

    def _add_epochs(
        self, headers: Mapping[tuple[bytes, bytes], tuple[_Device, EpochHeader, bytes]]
    ) -> None:
        if not headers:
            return
        rows = [
            {
                "device_id": device.id,
                "epoch": header.epoch,
                "boot_id": header.boot,
                "header": raw,
                "parent_epoch": header.parent and header.parent.epoch,
                "parent_seq": header.parent and header.parent.seq,
                "parent_digest": header.parent and header.parent.digest,
                "opened_boottime_ms": header.opened.boottime_ms,
                "opened_wall_ms": header.opened.wall_ms,
                "opened_trusted": header.opened.trusted,
                "software": header.software,
                "rehearsal": header.rehearsal,
            }
            for device, header, raw in headers.values()
        ]
        rows.sort(key=lambda row: (row["device_id"], row["epoch"]))
        self._insert_new(s.epochs, rows, ["device_id", "epoch"])

    def _insert_new(self, table: Any, rows: list[dict[str, Any]], key: list[str]) -> None:
        """Inserts those of `rows` whose key is not there; no error where another was faster."""
        dialect = postgresql if self._conn.dialect.name == "postgresql" else sqlite
        self._conn.execute(dialect.insert(table).on_conflict_do_nothing(index_elements=key), rows)

    # --- one message ----------------------------------------------------------------------------

    def _take(self, each: _Arrived) -> None:
        match each.value:
            case Batch() as batch if self._is_held(each):
                self._hold(each, batch)
            case Batch() as batch:
                self._batch(each, batch)
            case Hello() as hello:
                if each.device.status is not DeviceStatus.COMPROMISED:
                    self._landed.heard[each.device.edge] = True
                held = ((each.device.edge, epoch) for epoch, _, _ in hello.held)
                for key in [each.epoch, *held]:
                    if key in self._epochs:
                        self._touched[key] = None
            case Heartbeat() as heartbeat:
                self._heartbeat(each, heartbeat)

    def _batch(self, each: _Arrived, batch: Batch) -> None:
        epoch = self._epochs[each.epoch]
        if epoch.header_bytes != batch.header_bytes:
            raise RemoteError(Reason.CONFLICT, "another header of this epoch than the hub has")
        box = self._landing.box(epoch.header)
        accepted = accept(
            epoch.mark,
            batch.previous,
            list(link(batch.first, batch.previous, batch.items)),
            epoch.gaps,
        )
        rows, actions, gaps, unopened = self._facts(epoch, each, batch, box, accepted.fresh)
        self._touched[epoch.key] = None
        if not accepted.fresh:
            return
        number = len(self._batches)
        epoch.mark = accepted.mark
        self._batches.append(
            {
                "epoch_id": epoch.id,
                "first": batch.first,
                "last": batch.last,
                "signed": each.signed,
                "received_ms": self._now_ms,
                "transport": each.message.transport,
                # nothing is ever made of it
                "derived": epoch.header.rehearsal,
            }
        )
        if epoch.header.rehearsal:
            epoch.rehearsed += sum(row["kind"] == Tap.KIND for row in rows)
            self._landed.batches += 1
            return
        for row in (*rows, *gaps):
            row["batch_id"] = number  # its id, once there is one
        self._rows += rows
        self._actions += actions
        self._gaps += gaps
        self._unopened += unopened
        epoch.gaps += [Gap(row["first"], row["last"], row["digest"], row["reason"]) for row in gaps]
        self._give_back(epoch, batch, accepted.returned)
        self._landed.batches += 1
        self._landed.entries += len(rows)
        for row in rows:
            if row["problem"] is not None:
                self._reject(each.message, Reason.BROKEN_ENTRY, row["body"])

    def _facts(
        self,
        epoch: _Epoch,
        arrived: _Arrived,
        batch: Batch,
        box: SubjectBox | None,
        fresh: Sequence[Link],
    ) -> tuple[
        list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]
    ]:
        """Rows for entries, actions, gaps and unopened subjects.

        Raises RemoteError(DAMAGED_SUBJECTS) where a subject that the edge has did not come along.
        """
        rows: list[dict[str, Any]] = []
        actions: list[dict[str, Any]] = []
        gaps: list[dict[str, Any]] = []
        unopened: list[dict[str, Any]] = []
        unreadable: list[dict[str, Any]] = []
        claimed: set[bytes] = set()
        is_partly_withheld = False

        def subject(row: dict[str, Any], digest: bytes, place: Place) -> tuple[Any, int]:
            """What a stated subject says, where it can be told, and its state."""
            claimed.add(digest)
            sealed = arrived.subjects.get(digest)
            if sealed is None:
                if row["seq"] not in batch.withheld:
                    raise RemoteError(
                        Reason.DAMAGED_SUBJECTS, f"a subject of entry {row['seq']} is missing"
                    )
                return None, s.SUBJECT_WITHHELD
            credential = _opened(box, row["seq"], sealed, place)
            if credential is None:
                unopened.append(_unopened(row, digest, sealed))
                return None, s.SUBJECT_UNOPENED
            return credential, s.SUBJECT_OPENED

        for each in fresh:
            if isinstance(each.item, Gap):
                stated = Gap(each.first, each.last, each.digest, each.item.reason)
                gaps.append(_gap_row(epoch.id, stated))
                continue
            entry, row = _entry_row(epoch.id, each.first, each.item)
            rows.append(row)
            if entry is None:
                unreadable.append(row)
            elif isinstance(entry, Tap | Action):
                row["credential"], row["subject_state"] = subject(row, entry.subject, Place.CARD)
                if _is_virtual(row["credential"]) and not epoch.header.rehearsal:
                    _set_apart(row, each.item)
            if isinstance(entry, Action):
                action = _action_row(row, entry)
                actions.append(action)
                if entry.about is not None:
                    about = subject(row, entry.about, Place.ABOUT)
                    action["about"], action["about_state"] = about
                    is_partly_withheld |= each.first in batch.withheld
        if unreadable or is_partly_withheld:
            there = _there(batch, arrived.subjects)
            unopened += _unclaimed(there, arrived.subjects, claimed, unreadable)
        return rows, actions, gaps, unopened

    def _give_back(self, epoch: _Epoch, batch: Batch, returned: Sequence[Gap]) -> None:
        """Entries have come that a gap had stated as lost: it shrinks to what is still missing."""
        for gap in returned:
            self._returned.append({"of_epoch": epoch.id, "at": gap.first})
            self._gaps = [
                row
                for row in self._gaps
                if (row["epoch_id"], row["first"]) != (epoch.id, gap.first)
            ]
            epoch.gaps.remove(gap)
            if gap.first < batch.first:
                rest = replace(gap, last=batch.first - 1, digest=batch.previous)
                epoch.gaps.append(rest)
                self._gaps.append(_gap_row(epoch.id, rest) | {"batch_id": len(self._batches) - 1})

    def _heartbeat(self, each: _Arrived, heartbeat: Heartbeat) -> None:
        if each.epoch not in self._epochs:
            raise RemoteError(Reason.UNKNOWN_EPOCH, "a heartbeat of an epoch not yet known")
        self._landed.heartbeats += 1
        if self._epochs[each.epoch].header.rehearsal:
            # it says nothing of the device's own journal, and maybe a false time on purpose
            return
        self._landed.heard.setdefault(each.device.edge, False)
        if heartbeat.closing and heartbeat.unreceipted == 0:
            self._closings.append((each.device, heartbeat))
        self._heartbeats.append(
            {
                "device_id": each.device.id,
                "epoch": heartbeat.epoch,
                "head_seq": heartbeat.head,
                "head_digest": heartbeat.digest,
                "boottime_ms": heartbeat.at.boottime_ms,
                "wall_ms": heartbeat.at.wall_ms,
                "trusted": heartbeat.at.trusted,
                "released_through": heartbeat.released,
                "first_held": heartbeat.first_held,
                "unreceipted": heartbeat.unreceipted,
                "readers": json.dumps(
                    [
                        {"name": r.name, "up": r.up, "since_boottime_ms": r.since_boottime_ms}
                        for r in heartbeat.readers
                    ],
                    ensure_ascii=False,
                ),
                "signed": each.message.payload,
                "closing": heartbeat.closing,
                "received_ms": self._now_ms,
            }
        )

    # --- writing --------------------------------------------------------------------------------

    def _write(self) -> None:
        if self._batches:
            ids = self._conn.execute(
                insert(s.batches).returning(s.batches.c.id, sort_by_parameter_order=True),
                self._batches,
            ).scalars()
            batch_ids = list(ids)
            credentials = self._credential_ids()
            for row in self._rows:
                row["batch_id"] = batch_ids[row["batch_id"]]
                credential = row.pop("credential", None)
                row["credential_id"] = None if credential is None else credentials[credential]
            for row in self._actions:
                about = row.pop("about")
                row["about_credential_id"] = None if about is None else credentials[about]
            for row in self._gaps:
                row["batch_id"] = batch_ids[row["batch_id"]]
        if self._returned:
            self._conn.execute(
                delete(s.gaps).where(
                    s.gaps.c.epoch_id == bindparam("of_epoch"), s.gaps.c.first == bindparam("at")
                ),
                self._returned,
            )
        for table, rows in (
            (s.entries, self._rows),
            (s.actions, self._actions),
            (s.gaps, self._gaps),
            (s.unopened_subjects, self._unopened),
        ):
            insert_rows(self._conn, table, rows)
        heartbeats = [row for row in self._heartbeats if self._is_news(row)]
        if heartbeats:
            self._insert_new(
                s.heartbeats, heartbeats, ["device_id", "epoch", "boottime_ms", "head_seq"]
            )
            self._conn.execute(_WITHIN_A_RUN, heartbeats)
        self._write_marks()
        self._write_rejections()
        if self._held:
            self._insert_new(s.held_messages, self._held, ["device_id", "sha256"])
        for device, heartbeat in self._closings:
            self._close(device, heartbeat)

    def _close(self, device: _Device, heartbeat: Heartbeat) -> None:
        """The device has said that this was all: once the hub has all of it, it has left.

        It says so again and again until then.
        """
        epoch = self._epochs[device.edge, heartbeat.epoch]
        if device.closing is not None or epoch.mark.through < heartbeat.head:
            return
        d, at = s.devices.c, heartbeat.at
        left_ms = at.wall_ms if at.trusted and at.wall_ms <= self._now_ms else self._now_ms
        if device.left_ms is not None:
            left_ms = min(left_ms, device.left_ms)
        changed = self._conn.execute(
            update(s.devices)
            .where(d.id == device.id, d.closing_epoch.is_(None))
            .values(
                status=DeviceStatus.RETIRED,
                left_ms=left_ms,
                closing_epoch=heartbeat.epoch,
                closing_seq=heartbeat.head,
            )
        ).rowcount
        if not changed:
            return
        self._landed.left.append(device.edge)
        audit.record(
            self._conn,
            audit.Machine(DEVICE_ITSELF),
            "device.left",
            self._conn.scalar(
                select(s.venues.c.organisation_id)
                .join(s.placements, s.placements.c.venue_id == s.venues.c.id)
                .where(s.placements.c.device_id == device.id)
                .order_by(s.placements.c.valid_from_ms.desc())
                .limit(1)
            ),
            "device",
            UUID(bytes=device.edge),
            self._now_ms,
            left_ms=left_ms,
        )

    def _is_news(self, row: dict[str, Any]) -> bool:
        """Whether a heartbeat says more than those that are kept.

        One that comes after later ones of its epoch, late or replayed, is no new contact: it
        counts as received when the next later one was.
        """
        h = s.heartbeats.c
        words = (h.head_seq, h.trusted, h.readers, h.closing)
        same_epoch = (h.device_id == row["device_id"], h.epoch == row["epoch"])
        later = self._conn.execute(
            select(*words, h.received_ms)
            .where(*same_epoch, h.boottime_ms >= row["boottime_ms"])
            .order_by(h.boottime_ms)
        ).all()
        if not later:
            return True
        said = [row[word.name] for word in words]
        if any(list(each[: len(words)]) == said for each in later):
            began = select(h.id).where(
                *same_epoch,
                *(word == row[word.name] for word in words),
                h.boottime_ms <= row["boottime_ms"],
            )
            if self._conn.execute(began.limit(1)).first() is not None:
                return False
        row["received_ms"] = min(row["received_ms"], later[0].received_ms)
        return True

    def _credential_ids(self) -> dict[Credential, int]:
        wanted = {row["credential"] for row in self._rows if row.get("credential")}
        wanted |= {row["about"] for row in self._actions if row["about"]}
        ids = self._find_credentials(wanted)
        missing = sorted(wanted - ids.keys(), key=lambda c: (c.scheme, c.issuer, c.value))
        if missing:
            self._insert_new(
                s.credentials,
                [
                    {
                        "scheme": each.scheme,
                        "issuer": each.issuer,
                        "value": each.value,
                        "first_seen_ms": self._now_ms,
                    }
                    for each in missing
                ],
                ["scheme", "issuer", "value"],
            )
            ids |= self._find_credentials(missing)
        return ids

    def _find_credentials(self, wanted: Iterable[Credential]) -> dict[Credential, int]:
        table = s.credentials.c
        found: dict[Credential, int] = {}
        values = sorted({each.value for each in wanted})
        for at in range(0, len(values), 1000):
            for row in self._conn.execute(
                select(table.id, table.scheme, table.issuer, table.value).where(
                    table.value.in_(values[at : at + 1000])
                )
            ):
                found[Credential(row.scheme, row.issuer, row.value)] = row.id
        return found

    def _write_marks(self) -> None:
        for epoch in self._epochs.values():
            if epoch.mark == epoch.stored:
                continue
            self._conn.execute(
                update(s.epochs)
                .where(s.epochs.c.id == epoch.id)
                .values(
                    through=epoch.mark.through,
                    through_digest=epoch.mark.digest,
                    rehearsed=s.epochs.c.rehearsed + epoch.rehearsed,
                )
            )
            if epoch.mark.islands != epoch.stored.islands:
                self._conn.execute(delete(s.islands).where(s.islands.c.epoch_id == epoch.id))
            if epoch.mark.islands and epoch.mark.islands != epoch.stored.islands:
                self._conn.execute(
                    insert(s.islands),
                    [
                        {
                            "epoch_id": epoch.id,
                            "first": island.first,
                            "last": island.last,
                            "previous_digest": island.previous,
                            "last_digest": island.digest,
                        }
                        for island in epoch.mark.islands
                    ],
                )

    def _reject(self, message: Message, reason: Reason, what: bytes | None = None) -> None:
        """Counts `what`, which is the whole message unless it is said."""
        what = message.payload if what is None else what
        self._landed.rejected[reason] += 1
        if len(self._rejections) < SAMPLES_A_LANDING:
            topic = message.topic[:200].encode("utf-8", "replace").decode().replace("\x00", "�")
            parts = topic.split("/")
            self._rejections.append(
                {
                    "reason": reason,
                    "topic": topic,
                    "size": len(what),
                    "sample": what[:SAMPLE_BYTES],
                    "edge": parts[3][:64] if len(parts) > 3 else None,
                    "at_ms": self._now_ms,
                }
            )

    def _write_rejections(self) -> None:
        if not self._landed.rejected:
            return
        self._conn.execute(insert(s.rejections), self._rejections)
        newest = self._conn.scalar(select(func.max(s.rejections.c.id))) or 0
        self._conn.execute(delete(s.rejections).where(s.rejections.c.id <= newest - SAMPLES_KEPT))
        dialect = postgresql if self._conn.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(s.rejection_counts)
        self._conn.execute(
            statement.on_conflict_do_update(
                index_elements=["reason"],
                set_={
                    "count": s.rejection_counts.c.count + statement.excluded.count,
                    "last_ms": statement.excluded.last_ms,
                },
            ),
            [
                {"reason": reason, "count": count, "last_ms": self._now_ms}
                for reason, count in sorted(self._landed.rejected.items())
            ],
        )

    def _generation(self) -> int:
        generation: int = self._conn.execute(select(s.hub_state.c.generation)).scalar_one()
        return generation


def _read(message: Message, device: _Device, channel: Up) -> _Arrived:
    """Verifies and decodes; what is wrong with it raises RemoteError."""
    match channel:
        case Up.JOURNAL:
            parcel = Parcel.decode(message.payload)
            signed = Signed.parse(parcel.signed, MessageType.BATCH)
            batch = Batch.decode(signed.verify(device.sign_key))
            header = header_of(batch, device.edge)
            return _Arrived(message, device, batch, header, parcel.signed, parcel.by_digest())
        case Up.HELLO:
            signed = Signed.parse(message.payload, MessageType.HELLO)
            hello = Hello.decode(signed.verify(device.sign_key))
            return _Arrived(message, device, hello, header_of(hello, device.edge))
        case Up.STATE:
            signed = Signed.parse(message.payload, MessageType.HEARTBEAT)
            return _Arrived(message, device, Heartbeat.decode(signed.verify(device.sign_key)))


def _is_of_before(batch: Batch, epoch: bytes, device: _Device) -> bool:
    """Whether all taps in the batch are surely of before the device left.

    That is so up to its last word; otherwise by the times of a clock that was trusted.
    """
    if device.closing is not None and device.closing[0] == epoch:
        return batch.last <= device.closing[1]
    until_ms = (device.left_ms or 0) + (0 if device.closing is None else CLOCKS_APART_MS)
    for item in batch.items:
        if isinstance(item, Gap):
            continue
        try:
            entry = decode_entry(item)
        except RemoteError:
            return False
        if isinstance(entry, Tap | Action) and not (
            entry.at.trusted and entry.at.wall_ms <= until_ms
        ):
            return False
    return True


def _gap_row(epoch_id: int, gap: Gap) -> dict[str, Any]:
    return {
        "epoch_id": epoch_id,
        "first": gap.first,
        "last": gap.last,
        "digest": gap.digest,
        "reason": gap.reason,
    }


def _unopened(row: Mapping[str, Any], digest: bytes, sealed: bytes) -> dict[str, Any]:
    return {
        "epoch_id": row["epoch_id"],
        "seq": row["seq"],
        "digest": digest,
        "sealed": sealed,
    }


def _there(batch: Batch, subjects: Mapping[bytes, bytes]) -> list[bytes]:
    """The digests of the subjects that came along, each of which an entry states.

    Raises RemoteError(DAMAGED_SUBJECTS) where they are fewer than the signed batch states.
    """
    entries = b"".join(item for item in batch.items if isinstance(item, bytes))
    there = [digest for digest in subjects if digest in entries]
    if len(there) < batch.subjects:
        raise RemoteError(
            Reason.DAMAGED_SUBJECTS, f"{len(there)} of {batch.subjects} subjects came along"
        )
    return there


def _unclaimed(
    there: Sequence[bytes],
    subjects: Mapping[bytes, bytes],
    claimed: AbstractSet[bytes],
    unreadable: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """The sealed subjects of entries that a later version wrote: kept until it reads them.

    Such an entry names its subjects' digests somewhere in its bytes.
    """
    kept = []
    for row in unreadable:
        for digest in there:
            if digest not in claimed and digest in row["body"]:
                row["subject_state"] = s.SUBJECT_UNOPENED
                kept.append(_unopened(row, digest, subjects[digest]))
    return kept


def _entry_row(epoch_id: int, seq: int, raw: bytes) -> tuple[Entry | None, dict[str, Any]]:
    """An entry, None where it can't be decoded, and its row."""
    row: dict[str, Any] = {
        "epoch_id": epoch_id,
        "seq": seq,
        "kind": KIND_UNREADABLE,
        "boottime_ms": None,
        "wall_ms": None,
        "trusted": None,
        "reader": None,
        "assurance": None,
        "subject_state": s.SUBJECT_NONE,
        "body": raw,
        "problem": None,
    }
    try:
        entry = decode_entry(raw)
    except RemoteError as error:
        row["problem"] = error.detail[:200].replace("\x00", "�")
        return None, row
    row["boottime_ms"] = entry.at.boottime_ms
    row["wall_ms"] = entry.at.wall_ms
    row["trusted"] = entry.at.trusted
    row["kind"] = entry.KIND
    if isinstance(entry, Tap | Action):
        row["reader"] = entry.reader
        row["assurance"] = int(entry.assurance)
    if isinstance(entry, Tap):
        row["body"] = None
    return entry, row


def _is_virtual(credential: Credential | None) -> bool:
    return credential is not None and credential.scheme == REHEARSAL_SCHEME


def _set_apart(row: dict[str, Any], raw: bytes) -> None:
    """A card that there is not, in a journal that counts: kept as it is, and never anybody's."""
    row["credential"], row["subject_state"] = None, s.SUBJECT_NONE
    row["problem"], row["body"] = "a virtual card, which only a rehearsal has", raw


def _action_row(row: Mapping[str, Any], action: Action) -> dict[str, Any]:
    """Beside its entry's row; `about` becomes `about_credential_id`."""
    return {
        "epoch_id": row["epoch_id"],
        "seq": row["seq"],
        "what": action.what,
        "number": action.number,
        "about": None,
        "about_state": s.SUBJECT_NONE,
    }


def _opened(box: SubjectBox | None, seq: int, sealed: bytes, place: Place) -> Credential | None:
    if box is None:
        return None
    try:
        return box.open(seq, sealed, place)
    except RemoteError:
        return None
