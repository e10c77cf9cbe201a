"""A courier's file is read up to its first broken record, in any pieces, and tells if it is whole.

Nothing that happens to a file makes the reader fail, keep more than a record, or give an item that
was not written.
"""

import random
from collections.abc import Sequence

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import cbor, topics
from protocol.courierfile import (
    MAX_RECORD_BYTES,
    Channel,
    CourierReader,
    Direction,
    Ending,
    Item,
    begin,
    end,
    record,
)
from protocol.errors import LocalError, Reason, RemoteError
from protocol.identity import MAX_MESSAGE_BYTES
from tests.protocol.samples import DOWN_ITEMS, EDGE, UP_ITEMS, courier_file
from tests.protocol.test_cddl import SCHEMA


def read(
    data: bytes, direction: Direction = Direction.UP, piece: int = 1 << 20
) -> tuple[list[Item], CourierReader]:
    reader = CourierReader(direction)
    items = []
    for at in range(0, len(data), piece):
        items += reader.feed(data[at : at + piece])
    reader.close()
    return items, reader


def written(count: int = 5) -> list[Item]:
    chance = random.Random(count)
    channels = [each for each in Channel if each.direction is Direction.UP]
    return [
        Item(channels[n % 3], chance.randbytes(16), chance.randbytes(1 + n * 17))
        for n in range(count)
    ]


WRITTEN = written()
FILE = courier_file(Direction.UP, WRITTEN)


@pytest.mark.parametrize("piece", [1, 2, 7, 100, 1 << 20])
def test_what_was_written_is_read_in_any_pieces(piece: int) -> None:
    items, reader = read(FILE, piece=piece)
    assert items == WRITTEN
    assert (reader.ending, reader.problem) == (Ending.WHOLE, "")


def test_an_item_belongs_to_the_topic_of_its_channel() -> None:
    assert [each.topic for each in UP_ITEMS] == [
        topics.up(EDGE, each) for each in (topics.Up.HELLO, topics.Up.JOURNAL, topics.Up.STATE)
    ]
    wanted = [topics.keys(EDGE), topics.receipt(EDGE), topics.order(EDGE)]
    assert [each.topic for each in DOWN_ITEMS] == wanted


def test_what_could_not_be_published_is_no_item() -> None:
    for edge, payload in ((b"short", b"x"), (EDGE, b""), (EDGE, bytes(MAX_MESSAGE_BYTES + 1))):
        with pytest.raises(LocalError):
            Item(Channel.JOURNAL, edge, payload)


def test_the_largest_payload_fits() -> None:
    largest = Item(Channel.JOURNAL, EDGE, bytes(MAX_MESSAGE_BYTES))
    assert read(courier_file(Direction.UP, [largest]))[0] == [largest]


def test_cut_off_at_any_byte_gives_what_is_whole() -> None:
    header = len(begin(Direction.UP))
    for cut in range(len(FILE)):
        if cut < header:
            with pytest.raises(RemoteError, match="header is not there"):
                read(FILE[:cut])
            continue
        items, reader = read(FILE[:cut])
        assert items == WRITTEN[: len(items)]
        assert reader.ending is Ending.TRUNCATED
        ends = header
        whole = 0
        for each in WRITTEN:
            ends += len(each.encode())
            whole += ends <= cut
        assert len(items) == whole


def test_what_follows_the_end_is_not_read() -> None:
    items, reader = read(FILE + FILE + b"\xff" * 100)
    assert items == WRITTEN
    assert reader.ending is Ending.WHOLE


@pytest.mark.parametrize("items", [[], WRITTEN[:1] * 3, WRITTEN[1:]])
def test_a_count_that_does_not_fit_is_said(items: Sequence[Item]) -> None:
    body = b"".join(each.encode() for each in items)
    found, reader = read(begin(Direction.UP) + body + end(len(items) + 1))
    assert found == list(items)
    assert reader.ending is Ending.BROKEN
    assert reader.problem == f"{len(items)} items where it says {len(items) + 1}"


def test_channels_of_a_later_version_and_of_the_other_way_are_passed_over() -> None:
    later = record(cbor.encode(["photograph", EDGE, b"x", 1]))
    wrong_way = DOWN_ITEMS[0].encode()
    longer = record(cbor.encode([Channel.HELLO, EDGE, b"hi", "appended"]))
    items, reader = read(begin(Direction.UP) + later + longer + wrong_way + end(3))
    assert items == [Item(Channel.HELLO, EDGE, b"hi")]
    assert (reader.ending, reader.passed_over) == (Ending.WHOLE, 2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"\x89PNG\r\n\x1a\n" * 9, Reason.MALFORMED),
        (bytes(100), Reason.MALFORMED),
        (record(b"\xff"), Reason.MALFORMED),
        (record(cbor.encode(["shuaka-courier"])), Reason.MALFORMED),
        (record(cbor.encode(["another", 1, "up"])), Reason.MALFORMED),
        (record(cbor.encode(["shuaka-courier", 2, "up"])), Reason.FUTURE_VERSION),
        (begin(Direction.DOWN), Reason.WRONG_TYPE),
        (b"\x5b" + b"\xff" * 8, Reason.MALFORMED),
        (b"\x5a\x7f\xff\xff\xff" + bytes(100), Reason.MALFORMED),
        (b"\x5f\x41a\xff", Reason.MALFORMED),
    ],
)
def test_what_is_no_such_file_is_refused_at_once(content: bytes, reason: Reason) -> None:
    with pytest.raises(RemoteError) as caught:
        read(content)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    "broken",
    [
        b"\x00",
        b"\xff",
        b"\x5f\x41a\xff",
        b"\x5a" + (MAX_RECORD_BYTES + 1).to_bytes(4),
        b"\x5b" + b"\xff" * 8,
        record(b"not CBOR"),
        record(cbor.encode([])),
        record(cbor.encode(["hello", EDGE])),
        record(cbor.encode(["hello", EDGE[1:], b"x"])),
        record(cbor.encode(["hello", EDGE, b""])),
        record(cbor.encode(["hello", EDGE, "text"])),
        record(cbor.encode(["hello", EDGE, bytes(MAX_MESSAGE_BYTES + 1)])),
        record(cbor.encode([7, EDGE, b"x"])),
        record(cbor.encode(["end", -1])),
        record(cbor.encode({"channel": "hello"})),
        record(cbor2.dumps(cbor2.CBORTag(2, b"x"))),
        record(b"\x81" * 200 + b"\x00"),
    ],
)
def test_at_what_is_no_record_reading_ends_and_what_came_before_counts(broken: bytes) -> None:
    before, after = WRITTEN[:2], WRITTEN[2:]
    body = [b"".join(each.encode() for each in part) for part in (before, after)]
    data = begin(Direction.UP) + body[0] + broken + body[1] + end(5)
    for piece in (1, 1 << 20):
        items, reader = read(data, piece=piece)
        assert items == before
        assert reader.ending is Ending.BROKEN
        assert reader.problem


def test_a_file_without_end_takes_no_more_memory_than_a_record() -> None:
    reader = CourierReader(Direction.UP)
    reader.feed(begin(Direction.UP))
    reader.feed(b"\x5a" + MAX_RECORD_BYTES.to_bytes(4))
    for _ in range(1000):
        reader.feed(bytes(4096))
        assert len(reader._buffer) <= MAX_RECORD_BYTES + 4096 + 5
    assert reader.ending is Ending.BROKEN


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_makes_it_fail_or_makes_items_up(data: st.DataObject) -> None:
    damaged = bytearray(FILE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "grow"])):
            case "flip":
                damaged[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del damaged[at : at + data.draw(st.integers(1, 40))]
            case "grow":
                damaged[at:at] = data.draw(st.binary(max_size=40))
        if not damaged:
            return
    piece = data.draw(st.integers(1, 300))
    try:
        items, reader = read(bytes(damaged), piece=piece)
    except RemoteError:
        return
    whole, _ = read(bytes(damaged))
    assert items == whole
    if reader.ending is Ending.WHOLE and len(damaged) == len(FILE):
        assert len(items) + reader.passed_over == len(WRITTEN)


def test_every_record_obeys_the_description() -> None:
    for direction, items in ((Direction.UP, UP_ITEMS), (Direction.DOWN, DOWN_ITEMS)):
        records = [begin(direction), *(each.encode() for each in items), end(len(items))]
        rules = ["courier-header", *["courier-item"] * len(items), "courier-end"]
        for each, rule in zip(records, rules, strict=True):
            content = cbor2.loads(each)
            assert SCHEMA.obeys("courier-record", content)
            tree = cbor2.loads(content)
            assert SCHEMA.obeys(rule, tree)
            assert SCHEMA.obeys(rule, [*tree, "later"])
            assert not SCHEMA.obeys(rule, tree[:-1])
            for at in range(len(tree)):
                assert not SCHEMA.obeys(rule, [*tree[:at], 1.5, *tree[at + 1 :]])
