"""A courier's file: what would have travelled by MQTT, on a stick instead.

A CBOR sequence (RFC 8742) of byte strings, each of which holds one record: a header, then items,
then the end. An item is a payload, byte for byte as it would be published, with its channel and the
edge of its topic. The file adds no trust and takes none away: each payload is signed, or opened,
as on the topic.

It can be read up to its first broken record, and says whether it is whole. It hides nothing but
what the payloads hide, and says nothing in clear but ids. Pure: bytes in, items out.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol import cbor, topics
from protocol.errors import LocalError, Reason, RemoteError
from protocol.identity import MAX_MESSAGE_BYTES
from protocol.journal import ID_BYTES

MAGIC: Final = "shuaka-courier"
VERSION: Final = 1
END: Final = "end"
MAX_RECORD_BYTES: Final = MAX_MESSAGE_BYTES + 256
MAX_CHANNEL_CHARS: Final = 16

_BYTE_STRING: Final = 0x40
_LENGTH_BYTES: Final = {0x58: 1, 0x59: 2, 0x5A: 4, 0x5B: 8}  # RFC 8949 §3: major type 2


class Direction(StrEnum):
    """Whom a file is for."""

    UP = "up"
    """From edges, for the hub."""
    DOWN = "down"
    """From the hub, for edges."""


class Channel(StrEnum):
    """What an item is: the last part of the topic that it would be published to."""

    JOURNAL = "journal"
    HELLO = "hello"
    STATE = "state"
    RECEIPT = "receipt"
    KEYS = "keys"
    ORDER = "order"

    @property
    def direction(self) -> Direction:
        """In which files it is read."""
        up = {Channel.JOURNAL, Channel.HELLO, Channel.STATE}
        return Direction.UP if self in up else Direction.DOWN


class Ending(StrEnum):
    """How a file ended."""

    WHOLE = "whole"
    TRUNCATED = "truncated"
    """Its end is missing: a stick that was pulled, or a copy that was interrupted."""
    BROKEN = "broken"
    """What follows the items that were read is no record."""


@dataclass(frozen=True, slots=True)
class Item:
    """One payload on its way."""

    channel: Channel
    edge: bytes
    payload: bytes

    def __post_init__(self) -> None:
        if len(self.edge) != ID_BYTES or not 0 < len(self.payload) <= MAX_MESSAGE_BYTES:
            raise LocalError("an item is an edge's id and a payload that could be published")

    @property
    def topic(self) -> str:
        """Where it would be published."""
        match self.channel:
            case Channel.JOURNAL | Channel.HELLO | Channel.STATE:
                return topics.up(self.edge, topics.Up(self.channel))
            case Channel.RECEIPT:
                return topics.receipt(self.edge)
            case Channel.KEYS:
                return topics.keys(self.edge)
            case Channel.ORDER:
                return topics.order(self.edge)

    def encode(self) -> bytes:
        """Its bytes in the file."""
        return record(cbor.encode([self.channel, self.edge, self.payload]))


def begin(direction: Direction) -> bytes:
    """The first bytes of a file."""
    return record(cbor.encode([MAGIC, VERSION, direction]))


def end(items: int) -> bytes:
    """The last bytes of a file of so many items."""
    return record(cbor.encode([END, items]))


def record(content: bytes) -> bytes:
    """`content` as it stands in the sequence."""
    return cbor.encode(content)


class CourierReader:
    """Reads a file for one direction, in pieces of any size; holds one record at most.

    Read `ending` after `close`.
    """

    def __init__(self, direction: Direction) -> None:
        self._direction = direction
        self._buffer = bytearray()
        self._begun = False
        self.ending: Ending | None = None
        self.problem = ""
        """Why it is not whole, for a log."""
        self.items = 0
        self.passed_over = 0
        """Items of a channel that is not known here or belongs into the other direction."""

    def feed(self, data: bytes) -> list[Item]:
        """The items that `data` completes; none once the file has ended or is broken.

        Raises RemoteError if it is no file for this direction: MALFORMED, FUTURE_VERSION,
        WRONG_TYPE.
        """
        items: list[Item] = []
        if self._is_done():
            return items
        self._buffer += data
        at = 0
        try:
            while not self._is_done() and (span := self._span(at)) is not None:
                content, at = bytes(self._buffer[span[0] : span[1]]), span[1]
                if self._begun:
                    self._take(content, items)
                else:
                    self._open(content)
        except RemoteError as error:
            if not self._begun:
                raise
            self._break(error.detail)
        del self._buffer[:at]
        if self._is_done():
            self._buffer.clear()
        return items

    def close(self) -> None:
        """No more data comes. Raises RemoteError(MALFORMED) where not even the header is there."""
        if not self._begun:
            raise RemoteError(Reason.MALFORMED, "no courier file: its header is not there")
        if self.ending is None:
            self.ending = Ending.TRUNCATED
            self.problem = "its end is missing"

    # ------------------------------------------------------------------

    def _is_done(self) -> bool:
        return self.ending is not None

    def _span(self, at: int) -> tuple[int, int] | None:
        """Where the content of the record at `at` is; None: it is not all there yet."""
        if at >= len(self._buffer):
            return None
        first = self._buffer[at]
        start, size = at + 1, first - _BYTE_STRING
        if first in _LENGTH_BYTES:
            start += _LENGTH_BYTES[first]
            if start > len(self._buffer):
                return None
            size = int.from_bytes(self._buffer[at + 1 : start])
        elif not 0 <= size < 0x18:
            raise RemoteError(Reason.MALFORMED, self._no("record begins where one belongs"))
        if size > MAX_RECORD_BYTES:
            raise RemoteError(Reason.MALFORMED, self._no(f"record has {size} bytes"))
        return (start, start + size) if start + size <= len(self._buffer) else None

    def _no(self, what: str) -> str:
        return f"no {what}" if self._begun else "no courier file"

    def _open(self, content: bytes) -> None:
        try:
            fields = cbor.Fields(cbor.decode(content, "header"), "header", 3)
            magic, version = fields.text("magic", 64), fields.uint("version")
            direction = fields.text("direction", MAX_CHANNEL_CHARS)
        except RemoteError as error:
            raise RemoteError(Reason.MALFORMED, "no courier file") from error
        if magic != MAGIC:
            raise RemoteError(Reason.MALFORMED, "no courier file")
        if version != VERSION:
            raise RemoteError(
                Reason.FUTURE_VERSION, f"a courier file of version {version}, not {VERSION}"
            )
        if direction != self._direction:
            raise RemoteError(Reason.WRONG_TYPE, f"a courier file for the other way: {direction}")
        self._begun = True

    def _take(self, content: bytes, items: list[Item]) -> None:
        fields = cbor.Fields(cbor.decode(content, "record"), "record", 2)
        name = fields.text("channel", MAX_CHANNEL_CHARS)
        if name == END:
            self._finish(fields.uint("items"))
            return
        self.items += 1
        if name not in set(Channel) or Channel(name).direction is not self._direction:
            self.passed_over += 1
            return
        fields.need(3)
        edge = fields.octets("edge", ID_BYTES)
        items.append(Item(Channel(name), edge, fields.octets("payload", 1, MAX_MESSAGE_BYTES)))

    def _finish(self, said: int) -> None:
        if said == self.items:
            self.ending = Ending.WHOLE
        else:
            self._break(f"{self.items} items where it says {said}")

    def _break(self, why: str) -> None:
        self.ending, self.problem = Ending.BROKEN, why
