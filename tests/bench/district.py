"""A district with a backlog: members, cards, meetings, and edges whose journals wait to be sent.

Each branch has a venue, an edge there, and a meeting a week. Every member taps once at each of
them, so that derivation has all of its work: cards, memberships, meetings and check-ins.
"""

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, insert, select, text

from hub.imports.plan import import_file
from hub.imports.words import Register
from hub.ingest.landing import Message
from hub.keys import FILE_NAME, Keyring
from hub.store import schema as s
from hub.store.engine import open_engine, reading
from protocol.batch import MAX_ITEMS
from protocol.identity import MAX_MESSAGE_BYTES
from tests.fakes.edge import FakeEdge, uid
from tests.rig.product import Hub

BRANCHES: Final = 10
MEMBERS: Final = 100
"""In each branch."""
WEEK_MS: Final = 7 * 24 * 3600 * 1000
FIRST_MEETING_MS: Final = 1_777_539_600_000  # 2026-04-30 17:00 in Beijing
ENTRY_BYTES: Final = 200
"""What a tap takes of a message, with its sealed subject, generously."""
BATCH: Final = min(MAX_ITEMS, (MAX_MESSAGE_BYTES - 2048) // ENTRY_BYTES)
"""Entries in a full message."""


@dataclass(frozen=True, slots=True)
class District:
    """The registers as CSV, and the edges, which know the hub of `keys`."""

    keys: Path
    registers: dict[Register, bytes]
    edges: tuple[FakeEdge, ...]
    messages: tuple[Message, ...]
    """Full batches, the edges in turn."""
    sizes: tuple[int, ...]
    """How many entries each of `messages` holds."""

    @property
    def entries(self) -> int:
        return sum(len(edge.entries) for edge in self.edges)

    def settle(self, hub: Hub) -> Engine:
        """Makes `hub` the hub of this district; gives its database."""
        hub.command("init")
        shutil.copy(self.keys, hub.directory / "data" / FILE_NAME)
        engine = open_engine(hub.database)
        with engine.begin() as conn:
            for register, content in self.registers.items():
                report = import_file(conn, register, content, FIRST_MEETING_MS)
                assert not report.problems, report.problems[:3]
            venues = conn.scalars(select(s.venues.c.id).order_by(s.venues.c.code)).all()
            placements = [
                {"device_id": edge.add_to(conn), "venue_id": venue, "valid_from_ms": 0}
                for edge, venue in zip(self.edges, venues, strict=True)
            ]
            conn.execute(insert(s.placements), placements)
        return engine


def make(hub: Hub, taps: int) -> District:
    """A district for `hub`, with about `taps` taps; `hub` is initialised for its keys."""
    hub.command("init")
    keyring = Keyring.load(hub.directory / "data")
    weeks = max(1, round(taps / (BRANCHES * MEMBERS)))
    edges = tuple(FakeEdge(keyring.public(), f"bench-{at:02}") for at in range(BRANCHES))
    order = random.Random(1)
    for branch, edge in enumerate(edges):
        for week in range(weeks):
            members = list(range(MEMBERS))
            order.shuffle(members)
            for place, member in enumerate(members):
                at = FIRST_MEETING_MS + week * WEEK_MS + (place - MEMBERS) * 15_000
                edge.tap(uid(branch * MEMBERS + member + 1), at)
    rows = zip(*(_batches(edge) for edge in edges), strict=True)
    batches = [each for row in rows for each in row]
    return District(
        hub.directory / "data" / FILE_NAME,
        _registers(weeks),
        edges,
        tuple(message for message, _ in batches),
        tuple(size for _, size in batches),
    )


def _batches(edge: FakeEdge) -> Iterator[tuple[Message, int]]:
    for first in range(1, len(edge.entries) + 1, BATCH):
        last = min(first + BATCH - 1, len(edge.entries))
        yield Message(edge.topic(), edge.payload(first, last)), last - first + 1


def _registers(weeks: int) -> dict[Register, bytes]:
    organisations = ["code,name,kind,parent", "B,长河街道党工委,党委,"]
    members = ["code,name,organisation,from,to"]
    cards = ["card,member,format,number,from,to"]
    venues = ["code,name,organisation"]
    meetings = ["code,organisation,kind,title,venue,start,end"]
    for branch in range(BRANCHES):
        code = f"B-{branch:02}"
        organisations.append(f"{code},第{branch + 1}党支部,党支部,B")
        venues.append(f"V-{branch:02},第{branch + 1}会议室,{code}")
        for member in range(MEMBERS):
            number = branch * MEMBERS + member + 1
            members.append(f"M{number:05},党员{number},{code},2020-01-01,")
            value = uid(number).value
            cards.append(f"C{number:05},M{number:05},hex,{value},2020-01-01,")
        for week in range(weeks):
            day = _date(FIRST_MEETING_MS + week * WEEK_MS)
            meetings.append(
                f"M-{branch:02}-{week:03},{code},支部党员大会,例会,V-{branch:02},"
                f"{day} 17:00,{day} 18:00"
            )
    return {
        Register.ORGANISATIONS: _csv(organisations),
        Register.MEMBERS: _csv(members),
        Register.VENUES: _csv(venues),
        Register.CARDS: _csv(cards),
        Register.MEETINGS: _csv(meetings),
    }


def _csv(lines: list[str]) -> bytes:
    return "\n".join([*lines, ""]).encode()


def _date(at_ms: int) -> str:
    east = timezone(timedelta(hours=8))
    return datetime.fromtimestamp(at_ms / 1000, east).date().isoformat()


def stored(engine: Engine) -> int:
    """Entries that the hub has committed, by the marks that its receipts state."""
    with reading(engine) as conn:
        return int(conn.execute(text("SELECT coalesce(sum(through), 0) FROM epochs")).scalar_one())


def underived(engine: Engine) -> int:
    """Batches from which no attendance was derived yet."""
    with reading(engine) as conn:
        return int(
            conn.execute(text("SELECT count(*) FROM batches WHERE NOT derived")).scalar_one()
        )
