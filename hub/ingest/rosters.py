"""Rosters for the doors: which cards the meetings of the next hours expect at a device's venue.

With each meeting comes its board: what a screen at the door may show of it. A device is sent a
roster when it says hello, and when a heartbeat comes and the roster has changed since, which may be
a figure of a board; while a meeting is open, with each heartbeat, so that an old board at the door
is one of a hub that cannot be heard. Sealed to the device (protocol.roster); never kept, never
retained. A venue that expects more cards than a roster holds gets an empty one: its door then shows
the neutral light.
"""

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, select

from hub.domain.terms import DeviceStatus
from hub.store import schema as s
from hub.store.boards import boards
from hub.store.engine import reading
from hub.store.expected import AtTheDoor, at_the_door
from protocol.credential import Credential
from protocol.identity import SigningKey
from protocol.roster import (
    KEY_BYTES,
    MAX_CARDS,
    MAX_MEETINGS,
    Board,
    OpenMeeting,
    Roster,
    cards_of,
)

log = structlog.get_logger(__name__)

AHEAD_MS: Final = 12 * 3600 * 1000
"""A roster speaks of the meetings whose check-in opens within this."""
RENEW_MS: Final = 25_000
"""While a meeting is open, what is older is sent again: heartbeats come each half minute."""

_Meeting = tuple[AtTheDoor, Board]


class Rosters:
    """Makes rosters, and remembers what each device was told last."""

    def __init__(self, engine: Engine, key: SigningKey) -> None:
        self._engine = engine
        self._key = key
        self._told: dict[bytes, tuple[bytes, int]] = {}
        """By edge, a digest of what its roster said, and when: the cards are kept nowhere."""

    def due(self, heard: Mapping[bytes, bool], now_ms: int) -> Iterator[tuple[bytes, bytes]]:
        """(edge, payload) for each device of `heard` that is to be told something now.

        `heard`: whether it said hello (it then knows nothing) or only gave a sign of life.
        """
        if not heard:
            return
        with reading(self._engine) as conn:
            d = s.devices.c
            devices = conn.execute(
                select(d.id, d.public_id, d.seal_key).where(
                    d.public_id.in_([UUID(bytes=edge) for edge in heard]),
                    d.status == DeviceStatus.ACTIVE,
                    d.seal_key.is_not(None),
                )
            ).all()
            wanted = {device: self._meetings(conn, device.id, now_ms) for device in devices}
        for device, meetings in wanted.items():
            edge = device.public_id.bytes
            digest = hashlib.sha256(repr(meetings).encode()).digest()
            told, told_ms = self._told.get(edge, (b"", 0))
            is_open = any(each.opens_ms <= now_ms for each, _ in meetings)
            is_old = is_open and not 0 <= now_ms - told_ms < RENEW_MS
            if not (heard[edge] or told != digest or is_old):
                continue
            self._told[edge] = digest, now_ms
            try:
                payload = self._roster(edge, meetings, now_ms).seal(self._key, device.seal_key)
            except ValueError as error:  # such as a key that nothing can be sealed to
                log.warning("no roster can be made", edge=edge.hex(), error=type(error).__name__)
                continue
            yield edge, payload

    def _meetings(self, conn: Connection, device_id: int, now_ms: int) -> list[_Meeting]:
        meetings = at_the_door(conn, device_id, now_ms, now_ms + AHEAD_MS)
        return list(zip(meetings, boards(conn, meetings, now_ms), strict=True))

    def _roster(self, edge: bytes, meetings: Sequence[_Meeting], now_ms: int) -> Roster:
        key = secrets.token_bytes(KEY_BYTES)
        cards = sum(len(meeting.cards) for meeting, _ in meetings)
        if len(meetings) > MAX_MEETINGS or cards > MAX_CARDS:
            return Roster(edge, now_ms, key, ())
        return Roster(
            edge,
            now_ms,
            key,
            tuple(
                OpenMeeting(
                    meeting.opens_ms,
                    meeting.ends_ms,
                    cards_of(key, (Credential(*card) for card in meeting.cards)),
                    board,
                )
                for meeting, board in meetings
            ),
        )
