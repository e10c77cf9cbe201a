"""A small district for tests: rows made directly, as imports and ingest would make them."""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Table, insert, select, update

from hub.domain.attendance import MINUTE_MS
from hub.store import schema as s
from protocol.journal import KIND_ACTION, KIND_CLOCK, KIND_TAP, Act

START = 1_777_000_000_000 // MINUTE_MS * MINUTE_MS
"""Some whole minute in 2026, in ms."""
LONG_AGO = START - 400 * 24 * 60 * MINUTE_MS


def minutes(count: float) -> int:
    return START + int(count * MINUTE_MS)


def public_id(name: str) -> uuid.UUID:
    return uuid.UUID(bytes=hashlib.sha256(name.encode()).digest()[:16])


@dataclass(frozen=True)
class Entry:
    """What a device wrote; `wall_ms` is what its clock showed."""

    boottime_ms: int
    wall_ms: int
    trusted: bool
    credential_id: int | None = None
    act: Act | None = None
    """What was done at the reader with that card, if it is no tap."""
    number: int | None = None
    about: int | None = None
    """Credential of the member that the act speaks of."""


@dataclass
class World:
    """Ids by name, and how to add more of everything."""

    conn: Connection
    ids: dict[str, int] = field(default_factory=dict)

    def add(self, table: Table, known_as: str | None = None, /, **values: Any) -> int:
        result = self.conn.execute(insert(table).values(**values))
        key: int = result.inserted_primary_key[0]
        if known_as is not None:
            self.ids[known_as] = key
        return key

    def organisation(self, code: str, parent: str | None = None, kind: str = "BRANCH") -> int:
        return self.add(
            s.organisations,
            code,
            public_id=public_id(code),
            code=code,
            name=f"{code}名",
            kind=kind,
            parent_id=None if parent is None else self.ids[parent],
        )

    def member(
        self,
        code: str,
        organisation: str,
        since: int = LONG_AGO,
        until: int | None = None,
        body: str = "MEMBER",
    ) -> int:
        if code not in self.ids:
            self.add(s.members, code, public_id=public_id(code), code=code, name=f"{code}名")
        self.add(
            s.memberships,
            member_id=self.ids[code],
            organisation_id=self.ids[organisation],
            body=body,
            valid_from_ms=since,
            valid_to_ms=until,
        )
        return self.ids[code]

    def card(
        self, member: str | None, uid: str, since: int = LONG_AGO, until: int | None = None
    ) -> int:
        """A credential, and the card bound to `member` if there is one; gives the credential."""
        card = None
        if member is not None:
            card = self.ids.get(f"card {uid}") or self.add(
                s.cards, f"card {uid}", public_id=public_id(uid), code=uid, status="ACTIVE"
            )
            self.add(
                s.bindings,
                card_id=card,
                member_id=self.ids[member],
                valid_from_ms=since,
                valid_to_ms=until,
            )
        if f"uid {uid}" in self.ids:
            self.conn.execute(
                update(s.credentials)
                .where(s.credentials.c.id == self.ids[f"uid {uid}"])
                .values(card_id=card)
            )
            return self.ids[f"uid {uid}"]
        return self.add(
            s.credentials, f"uid {uid}", scheme="uid", issuer="", value=uid, card_id=card
        )

    def venue(self, code: str, organisation: str) -> int:
        return self.add(
            s.venues,
            code,
            public_id=public_id(code),
            code=code,
            name=f"{code}名",
            organisation_id=self.ids[organisation],
        )

    def device(self, name: str, venue: str, since: int = LONG_AGO, until: int | None = None) -> int:
        if name not in self.ids:
            self.add(
                s.devices,
                name,
                public_id=public_id(name),
                name=name,
                status="ACTIVE",
                sign_key=bytes(32),
            )
        self.add(
            s.placements,
            device_id=self.ids[name],
            venue_id=self.ids[venue],
            valid_from_ms=since,
            valid_to_ms=until,
        )
        return self.ids[name]

    def meeting(
        self,
        code: str,
        organisation: str,
        venue: str,
        start: float = 0,
        length: float = 60,
        *,
        before: float = 30,
        grace: int = 0,
        kind: str = "BRANCH_ASSEMBLY",
        partners: Sequence[str] = (),
    ) -> int:
        meeting = self.add(
            s.meetings,
            code,
            public_id=public_id(code),
            code=code,
            organisation_id=self.ids[organisation],
            kind=kind,
            title=f"{code}题",
            venue_id=self.ids[venue],
            starts_ms=minutes(start),
            ends_ms=minutes(start + length),
            opens_ms=minutes(start - before),
            grace_minutes=grace,
        )
        for each in (organisation, *partners):
            self.conn.execute(
                insert(s.meeting_organisations).values(
                    meeting_id=meeting, organisation_id=self.ids[each], agreed_ms=LONG_AGO
                )
            )
        return meeting

    def declare(
        self,
        meeting: str,
        kind: str,
        member: str | None = None,
        *,
        about: int | None = None,
        at: float = 0,
        **more: Any,
    ) -> int:
        """Somebody states something of a meeting; gives the declaration's id."""
        return self.add(
            s.declarations,
            public_id=s.new_public_id(),
            meeting_id=self.ids[meeting],
            member_id=None if member is None else self.ids[member],
            kind=kind,
            about_id=about,
            author="某人",
            made_ms=minutes(at),
            **more,
        )

    def office(self, member: str, organisation: str, office: str = "SECRETARY") -> None:
        self.add(
            s.offices,
            member_id=self.ids[member],
            organisation_id=self.ids[organisation],
            office=office,
            valid_from_ms=LONG_AGO,
        )

    def names(self, member: str) -> int:
        """The credential by which an act at a reader names a member."""
        return self.add(s.credentials, scheme="member", issuer="", value=member)

    def epoch(
        self,
        name: str,
        device: str,
        *,
        boot: str = "boot",
        parent: tuple[str, int] | None = None,
        opened: Entry | None = None,
    ) -> int:
        opened = opened or Entry(0, 0, trusted=False)
        return self.add(
            s.epochs,
            name,
            device_id=self.ids[device],
            epoch=public_id(name).bytes,
            boot_id=public_id(boot).bytes,
            header=name.encode(),
            parent_epoch=None if parent is None else public_id(parent[0]).bytes,
            parent_seq=None if parent is None else parent[1],
            parent_digest=None if parent is None else digest(*parent),
            opened_boottime_ms=opened.boottime_ms,
            opened_wall_ms=opened.wall_ms,
            opened_trusted=opened.trusted,
            software="test",
        )

    def batch(
        self, epoch: str, first: int, entries: Sequence[Entry], received_ms: int | None = None
    ) -> int:
        """Entries that are held already stay; `through` goes on if they follow it."""
        epoch_id, last = self.ids[epoch], first + len(entries) - 1
        batch = self.add(
            s.batches,
            epoch_id=epoch_id,
            first=first,
            last=last,
            signed=b"signed",
            received_ms=max(minutes(200), *(entry.wall_ms for entry in entries))
            if received_ms is None
            else received_ms,
            transport="mqtt",
        )
        held = set(
            self.conn.scalars(select(s.entries.c.seq).where(s.entries.c.epoch_id == epoch_id))
        )
        for seq, entry in enumerate(entries, first):
            if seq in held:
                continue
            self.conn.execute(
                insert(s.entries).values(
                    epoch_id=epoch_id,
                    seq=seq,
                    kind=KIND_CLOCK
                    if entry.credential_id is None
                    else KIND_TAP
                    if entry.act is None
                    else KIND_ACTION,
                    boottime_ms=entry.boottime_ms,
                    wall_ms=entry.wall_ms,
                    trusted=entry.trusted,
                    reader="r",
                    assurance=0,
                    credential_id=entry.credential_id,
                    subject_state=0 if entry.credential_id is None else 1,
                    batch_id=batch,
                )
            )
            if entry.act is not None:
                self.conn.execute(
                    insert(s.actions).values(
                        epoch_id=epoch_id,
                        seq=seq,
                        what=entry.act,
                        number=entry.number,
                        about_credential_id=entry.about,
                        about_state=0 if entry.about is None else 1,
                    )
                )
        held |= set(range(first, last + 1))
        through = 0
        while through + 1 in held:
            through += 1
        self.conn.execute(
            update(s.epochs)
            .where(s.epochs.c.id == epoch_id)
            .values(through=through, through_digest=digest(epoch, through) if through else None)
        )
        return batch

    def heartbeat(self, device: str, epoch: str, head: int, at: Entry, received_ms: int) -> int:
        return self.add(
            s.heartbeats,
            device_id=self.ids[device],
            epoch=public_id(epoch).bytes,
            head_seq=head,
            head_digest=digest(epoch, head),
            boottime_ms=at.boottime_ms,
            wall_ms=at.wall_ms,
            trusted=at.trusted,
            released_through=0,
            first_held=1,
            readers="[]",
            signed=b"signed",
            received_ms=received_ms,
        )


def digest(epoch: str, seq: int) -> bytes:
    """A stand-in for the chain's digest at `seq`."""
    return hashlib.sha256(f"{epoch} {seq}".encode()).digest()


def district(conn: Connection) -> World:
    """One committee with two branches; a hall with one device; an assembly at START."""
    world = World(conn)
    world.organisation("区", kind="COMMITTEE")
    world.organisation("甲", "区")
    world.organisation("乙", "区")
    for branch, members in (("甲", ("李", "王", "赵")), ("乙", ("钱", "孙"))):
        for number, member in enumerate(members):
            world.member(member, branch)
            world.card(member, f"{len(world.ids):06X}{number:02X}")
    world.venue("礼堂", "甲")
    world.device("一号", "礼堂")
    world.meeting("会", "甲", "礼堂")
    return world


def uid_of(world: World, member: str) -> int:
    """The credential bound to `member`."""
    found = world.conn.scalar(
        select(s.credentials.c.id)
        .join(s.bindings, s.bindings.c.card_id == s.credentials.c.card_id)
        .where(s.bindings.c.member_id == world.ids[member])
        .limit(1)
    )
    assert found is not None
    return found
