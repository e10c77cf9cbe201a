"""Whom a door may greet: sent by the hub, sealed to one edge, kept in its memory alone.

A roster makes a light green or amber; it judges nothing, and whoever it does not know is recorded
all the same. It names nobody: a card is eight bytes of a keyed hash, and the key is new with each
roster. It speaks of meetings by their check-in windows, so that a door never says "signed in" at a
time that counts for nothing. With a meeting may come its board: what a screen at the door may show
of it, which is totals and never a person.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, Self

from cryptography.exceptions import InvalidTag

from protocol import cbor
from protocol.credential import Credential
from protocol.errors import LocalError, Reason, RemoteError
from protocol.identity import MessageType, OpeningKey, Signed, SigningKey
from protocol.journal import ID_BYTES
from protocol.sealing import open_sealed, seal_to

HASH_BYTES: Final = 8
KEY_BYTES: Final = 16
MAX_MEETINGS: Final = 16
MAX_CARDS: Final = 6000
"""In one roster, over all its meetings: what fits into a message."""
MAX_TITLE_CHARS: Final = 64
MAX_COUNT: Final = 1 << 31


class Known(Enum):
    """What a roster says of a card at a moment."""

    EXPECTED = "expected"
    """A meeting is open, and expects whoever holds this card."""
    STRANGE = "strange"
    """A meeting is open, and this card is none that it expects."""
    SILENT = "silent"
    """No meeting is open that the roster speaks of."""


class BoardQuorum(IntEnum):
    """All that a shared screen may show of a quorum."""

    UNKNOWN = 0
    MET = 1
    NOT_MET = 2
    NOT_ASKED = 3
    """This kind of meeting needs none."""


@dataclass(frozen=True, slots=True)
class Board:
    """What a screen at the door may show of a meeting, as the hub knew it when it wrote."""

    title: str
    """Such as the branch and the kind of meeting; at most MAX_TITLE_CHARS characters."""
    starts_ms: int
    expected: int
    present: int
    quorum: BoardQuorum

    def __post_init__(self) -> None:
        if len(self.title) > MAX_TITLE_CHARS:
            raise LocalError(f"a title has at most {MAX_TITLE_CHARS} characters")
        if not (0 <= self.expected <= MAX_COUNT and 0 <= self.present <= MAX_COUNT):
            raise LocalError(f"{self.present} of {self.expected} people cannot be")


@dataclass(frozen=True, slots=True)
class OpenMeeting:
    """One meeting: its check-in window (UTC ms, both ends included) and the cards expected."""

    opens_ms: int
    closes_ms: int
    cards: frozenset[bytes]
    """Keyed hashes, see `card_hash`."""
    board: Board | None = None


@dataclass(frozen=True, slots=True)
class Roster:
    """What one edge may know; `issued_ms` rises with each roster, and an older one is stale."""

    edge: bytes
    issued_ms: int
    key: bytes
    meetings: tuple[OpenMeeting, ...]

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise LocalError(f"a roster's key has {KEY_BYTES} bytes")
        cards = sum(len(meeting.cards) for meeting in self.meetings)
        if len(self.meetings) > MAX_MEETINGS or cards > MAX_CARDS:
            raise LocalError(f"{len(self.meetings)} meetings and {cards} cards are too many")

    def known(self, credential: Credential, wall_ms: int) -> Known:
        """What to show for a card that was read at `wall_ms`, by a clock that can be trusted."""
        now_open = [each for each in self.meetings if each.opens_ms <= wall_ms <= each.closes_ms]
        if not now_open:
            return Known.SILENT
        card = card_hash(self.key, credential)
        return Known.EXPECTED if any(card in each.cards for each in now_open) else Known.STRANGE

    def opened_ms(self, wall_ms: int) -> int | None:
        """When check-in opened for the meeting, of those open at `wall_ms`, that opened last."""
        opened = [
            each.opens_ms for each in self.meetings if each.opens_ms <= wall_ms <= each.closes_ms
        ]
        return max(opened, default=None)

    def seal(self, hub: SigningKey, edge_seal: bytes) -> bytes:
        """The payload of `down/<edge>/roster`: sealed to `edge_seal`, then signed by the hub."""
        content = cbor.encode(
            [
                self.key,
                [
                    [
                        each.opens_ms,
                        each.closes_ms,
                        b"".join(sorted(each.cards)),
                        *_board_items(each.board),
                    ]
                    for each in self.meetings
                ],
            ]
        )
        sealed = seal_to(edge_seal, content, _info(self.edge, self.issued_ms))
        return hub.sign(MessageType.ROSTER, cbor.encode([self.edge, self.issued_ms, sealed]))

    @classmethod
    def open(cls, data: bytes, hub_sign: bytes, edge: bytes, key: OpeningKey) -> Self:
        """Reads what the hub sent to this edge. Raises RemoteError."""
        payload = Signed.parse(data, MessageType.ROSTER).verify(hub_sign)
        outer = cbor.Fields(cbor.decode(payload, "roster"), "roster", 3)
        if outer.octets("edge", ID_BYTES) != edge:
            raise RemoteError(Reason.WRONG_TOPIC, "the roster is for another edge")
        issued_ms = outer.uint("issued")
        sealed = outer.octets("sealed", 0, 1 << 16)
        try:
            content = open_sealed(key, sealed, _info(edge, issued_ms))
        except (InvalidTag, ValueError) as error:
            raise RemoteError(Reason.MALFORMED, "the roster cannot be opened") from error
        fields = cbor.Fields(cbor.decode(content, "roster"), "roster", 2)
        hash_key = fields.octets("key", KEY_BYTES)
        meetings = tuple(_meeting(value) for value in fields.array("meetings", MAX_MEETINGS))
        if sum(len(meeting.cards) for meeting in meetings) > MAX_CARDS:
            raise RemoteError(Reason.MALFORMED, f"roster: more than {MAX_CARDS} cards")
        return cls(edge, issued_ms, hash_key, meetings)


def card_hash(key: bytes, credential: Credential) -> bytes:
    """Eight bytes by which a roster knows a card: keyed BLAKE2b (RFC 7693) of its credential."""
    subject = cbor.encode([credential.scheme, credential.issuer, credential.value])
    return hashlib.blake2b(subject, digest_size=HASH_BYTES, key=key).digest()


def cards_of(key: bytes, credentials: Iterable[Credential]) -> frozenset[bytes]:
    """The hashes of several cards."""
    return frozenset(card_hash(key, each) for each in credentials)


def _meeting(value: cbor.Value) -> OpenMeeting:
    fields = cbor.Fields(value, "roster meeting", 3)
    opens_ms, closes_ms = fields.integer("opens"), fields.integer("closes")
    joined = fields.octets("cards", 0, MAX_CARDS * HASH_BYTES)
    if len(joined) % HASH_BYTES:
        raise RemoteError(Reason.MALFORMED, "roster: half a card")
    return OpenMeeting(
        opens_ms,
        closes_ms,
        frozenset(joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)),
        _board(fields.any()) if fields.more else None,
    )


def _board_items(board: Board | None) -> list[cbor.Value]:
    if board is None:
        return []
    counts = [board.starts_ms, board.expected, board.present, int(board.quorum)]
    return [[board.title, *counts]]


def _board(value: cbor.Value) -> Board | None:
    if value is None:
        return None
    fields = cbor.Fields(value, "roster board", 5)
    return Board(
        fields.text("title", MAX_TITLE_CHARS),
        fields.integer("starts"),
        fields.uint("expected", MAX_COUNT),
        fields.uint("present", MAX_COUNT),
        BoardQuorum(fields.uint("quorum", max(BoardQuorum))),
    )


def _info(edge: bytes, issued_ms: int) -> bytes:
    return b"shuaka/1/roster" + edge + issued_ms.to_bytes(8)
