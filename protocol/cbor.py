"""CBOR (RFC 8949) as this project writes and reads it: arrays, definite lengths, no tags.

Writing is deterministic (RFC 8949 §4.2). Reading is strict about structure and bounded in depth,
and lenient about one thing alone: elements after the known ones of an array, which a later
version may append, are left to the caller to ignore.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

import cbor2

from protocol.errors import Reason, RemoteError

MAX_DEPTH: Final = 8
MAX_DETAIL_CHARS: Final = 200

T = TypeVar("T")
Value: TypeAlias = Any
"""A decoded CBOR value whose type the fields below check one by one."""


def encode(value: object) -> bytes:
    return cbor2.dumps(value, canonical=True)


def decode(data: bytes, what: str) -> Value:
    """The one value in `data`. RemoteError(MALFORMED): broken, nested, or followed by more."""
    stream = BytesIO(data)
    value = _read(stream, what)
    if stream.tell() != len(data):
        raise RemoteError(Reason.MALFORMED, f"{what} is followed by other bytes")
    return value


def decode_prefix(data: bytes, what: str) -> Value:
    """The first value in `data`, whatever follows it. Raises as `decode` does."""
    return _read(BytesIO(data), what)


def _read(stream: BytesIO, what: str) -> Value:
    try:
        return cbor2.CBORDecoder(
            stream,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=False,
            semantic_decoders=_NO_TAGS,
            tag_hook=_refuse_tag,
        ).decode()
    except RemoteError:
        raise
    except Exception as error:  # the decoder's own, and what a hostile value makes Python raise
        # a decoder's message may quote what it read, at any length
        detail = f"{what} is not CBOR as expected: {error}"[:MAX_DETAIL_CHARS]
        raise RemoteError(Reason.MALFORMED, detail) from error


class Fields:
    """Reads an array's elements in order and names what is wrong with which.

    `Fields(value, "receipt", 7)` checks that there are at least seven; more are ignored.
    """

    __slots__ = ("_items", "_next", "_what")

    def __init__(self, value: Value, what: str, at_least: int) -> None:
        if type(value) is not list:
            _wrong(what, "is not an array")
        if len(value) < at_least:
            _wrong(what, f"has {len(value)} of {at_least} elements")
        self._items = value
        self._what = what
        self._next = 0

    def need(self, at_least: int) -> None:
        """Checks again, once the kind tells how many there must be."""
        if len(self._items) < at_least:
            _wrong(self._what, f"has {len(self._items)} of {at_least} elements")

    @property
    def more(self) -> bool:
        """Whether there is another element: what a later version appended, an earlier one lacks."""
        return self._next < len(self._items)

    def any(self) -> Value:
        value = self._items[self._next]
        self._next += 1
        return value

    def optional(self, read: Callable[[], T]) -> T | None:
        """What `read` makes of the next element; None where that is null."""
        if self._items[self._next] is not None:
            return read()
        self._next += 1
        return None

    def uint(self, name: str, most: int = (1 << 63) - 1) -> int:
        return self.integer(name, 0, most)

    def integer(self, name: str, least: int = -(1 << 63), most: int = (1 << 63) - 1) -> int:
        value = self.any()
        # bool is an int to Python, and not to us
        if type(value) is not int:
            _wrong(self._what, f"{name} is not an integer")
        if not least <= value <= most:
            _wrong(self._what, f"{name} is out of range")
        return value

    def flag(self, name: str) -> bool:
        value = self.any()
        if type(value) is not bool:
            _wrong(self._what, f"{name} is not true or false")
        return value

    def octets(self, name: str, least: int, most: int | None = None) -> bytes:
        """A byte string of `least` (or `least` to `most`) bytes."""
        value = self.any()
        if type(value) is not bytes:
            _wrong(self._what, f"{name} is not a byte string")
        if not least <= len(value) <= (least if most is None else most):
            _wrong(self._what, f"{name} has {len(value)} bytes")
        return value

    def text(self, name: str, most: int) -> str:
        value = self.any()
        if type(value) is not str:
            _wrong(self._what, f"{name} is not a text")
        if len(value) > most:
            _wrong(self._what, f"{name} has more than {most} characters")
        if "\x00" in value:
            _wrong(self._what, f"{name} contains a zero character")
        return value

    def array(self, name: str, most: int) -> list[Value]:
        value = self.any()
        if type(value) is not list:
            _wrong(self._what, f"{name} is not an array")
        if len(value) > most:
            _wrong(self._what, f"{name} has more than {most} elements")
        return value


def _wrong(what: str, detail: str) -> NoReturn:
    raise RemoteError(Reason.MALFORMED, f"{what}: {detail}")


def _refuse_tag(*_: object) -> NoReturn:
    raise RemoteError(Reason.MALFORMED, "a CBOR tag where none belongs")


# The decoder knows how to build dates, regular expressions, networks and shared references from
# tags. Nothing here uses a tag, and the bytes come from strangers: none is built.
_TAGS_WITH_DECODERS: Final = (
    *range(6), 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799,
)  # fmt: skip
_NO_TAGS: Final = dict.fromkeys(_TAGS_WITH_DECODERS, _refuse_tag)
