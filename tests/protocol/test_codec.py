"""Whatever comes off the wire: either the value that was sent, or a RemoteError that names why."""

import random
import resource
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol import cbor
from protocol.batch import (
    MAX_HELD_EPOCHS,
    MAX_ITEMS,
    MAX_RANGES,
    MAX_READERS,
    Batch,
    Heartbeat,
    Hello,
    HubState,
    Parcel,
    Range,
    ReaderState,
    Receipt,
    header_of,
    open_hub_state,
    open_receipt,
    seal_batch,
)
from protocol.credential import Assurance
from protocol.errors import LocalError, Reason, RemoteError
from protocol.identity import (
    MAX_MESSAGE_BYTES,
    MessageType,
    Signed,
    SigningKey,
)
from protocol.journal import (
    MAX_ACT,
    MAX_ENTRY_BYTES,
    MAX_HEAD_COUNT,
    MAX_READER_CHARS,
    MAX_REASON_CHARS,
    Act,
    Action,
    ClockSample,
    Entry,
    EpochHeader,
    Gap,
    Parent,
    ReaderDown,
    ReaderUp,
    Stamp,
    Tap,
    chain_next,
    chain_start,
    decode_entry,
    encode_entry,
    link,
)
from protocol.sealing import subject_digest
from protocol.topics import Up, parse_up, receipt, up

# --- values ---------------------------------------------------------------------------------------

IDS = st.binary(min_size=16, max_size=16)
DIGESTS = st.binary(min_size=32, max_size=32)
UINTS = st.integers(0, (1 << 63) - 1)
SEQS = st.integers(1, (1 << 62) - 1000)
TEXT = st.characters(exclude_characters="\x00", exclude_categories=["Cs"])


def texts(most: int) -> st.SearchStrategy[str]:
    return st.text(TEXT, max_size=most)


STAMPS = st.builds(Stamp, st.integers(0, 1 << 47), st.integers(-(1 << 45), 1 << 47), st.booleans())
READERS = texts(MAX_READER_CHARS)


@st.composite
def actions(draw: st.DrawFn) -> Action:
    what = draw(st.sampled_from(Act) | st.integers(0, MAX_ACT))
    number = about = None
    if what not in set(Act):
        number = draw(st.none() | UINTS)
        about = draw(st.none() | DIGESTS)
    elif what == Act.HEAD_COUNT:
        number = draw(st.integers(0, MAX_HEAD_COUNT))
    elif what == Act.WITNESSED:
        about = draw(DIGESTS)
    assurance = draw(st.sampled_from(Assurance))
    return Action(draw(STAMPS), draw(READERS), what, number, assurance, draw(DIGESTS), about)


ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Tap, STAMPS, READERS, st.sampled_from(Assurance), DIGESTS),
    actions(),
    st.builds(ClockSample, STAMPS),
    st.builds(ReaderUp, STAMPS, READERS),
    st.builds(ReaderDown, STAMPS, texts(40), texts(150)),
)
HEADERS = st.builds(
    EpochHeader,
    edge=IDS,
    epoch=IDS,
    boot=IDS,
    opened=STAMPS,
    parent=st.none() | st.builds(Parent, IDS, UINTS, DIGESTS),
    software=texts(16),
    hub_key=st.binary(min_size=8, max_size=8),
    wrapped_key=st.binary(min_size=80, max_size=80),
)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    first = seq = draw(SEQS)
    items: list[bytes | Gap] = []
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            items.append(draw(st.binary(max_size=40)))
            seq += 1
        else:
            last = seq + draw(st.integers(0, 100))
            items.append(Gap(seq, last, draw(DIGESTS), draw(texts(20))))
            seq = last + 1
    withheld = draw(st.lists(st.integers(first, seq - 1), max_size=4))
    header = draw(st.binary(min_size=1, max_size=512))
    return Batch(header, first, draw(DIGESTS), tuple(items), tuple(withheld))


@st.composite
def receipts(draw: st.DrawFn) -> Receipt:
    at = through = draw(st.integers(0, 1 << 40))
    have = []
    for _ in range(draw(st.integers(0, 5))):
        first = at + 2 + draw(st.integers(0, 50))
        at = first + draw(st.integers(0, 50))
        have.append(Range(first, at, draw(DIGESTS)))
    return Receipt(draw(IDS), draw(UINTS), draw(IDS), through, draw(DIGESTS), tuple(have))


@st.composite
def hellos(draw: st.DrawFn) -> Hello:
    held = []
    for _ in range(draw(st.integers(0, 4))):
        first = draw(SEQS)
        held.append((draw(IDS), first, first + draw(st.integers(0, 500))))
    return Hello(draw(st.binary(min_size=1, max_size=512)), tuple(held))


HEARTBEATS = st.builds(
    Heartbeat,
    epoch=IDS,
    head=UINTS,
    digest=DIGESTS,
    at=STAMPS,
    released=UINTS,
    first_held=UINTS,
    unreceipted=UINTS,
    readers=st.lists(
        st.builds(ReaderState, READERS, st.booleans(), st.integers(0, 1 << 47)), max_size=4
    ).map(tuple),
)
PARCELS = st.builds(
    Parcel,
    st.binary(min_size=1, max_size=300),
    st.lists(st.binary(max_size=200), max_size=4).map(tuple),
)
HUB_STATES = st.builds(HubState, UINTS, UINTS, st.booleans())


@dataclass(frozen=True)
class Kind:
    name: str
    values: st.SearchStrategy[Any]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


KINDS = [
    Kind("entry", ENTRIES, encode_entry, decode_entry),
    Kind("epoch header", HEADERS, EpochHeader.encode, EpochHeader.decode),
    Kind("batch", batches(), Batch.encode, Batch.decode),
    Kind("parcel", PARCELS, Parcel.encode, Parcel.decode),
    Kind("hello", hellos(), Hello.encode, Hello.decode),
    Kind("heartbeat", HEARTBEATS, Heartbeat.encode, Heartbeat.decode),
    Kind("receipt", receipts(), Receipt.encode, Receipt.decode),
    Kind("hub state", HUB_STATES, HubState.encode, HubState.decode),
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def refused(decode: Callable[[bytes], object], data: bytes) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        decode(data)
    return caught.value


def read(decode: Callable[[bytes], object], data: bytes) -> object:
    """What `decode` makes of `data`: a value, or a RemoteError with a short detail."""
    try:
        return decode(data)
    except RemoteError as error:
        assert len(error.detail) < 400  # noqa: PT017
        assert error.reason in {Reason.MALFORMED, Reason.OVERSIZE}  # noqa: PT017
        return None


# --- what is sent is what is read -----------------------------------------------------------------


@each_kind
@given(data=st.data())
def test_round_trip(kind: Kind, data: st.DataObject) -> None:
    value = data.draw(kind.values)
    encoded = kind.encode(value)
    assert kind.decode(encoded) == value
    assert kind.encode(kind.decode(encoded)) == encoded


@each_kind
@given(data=st.data())
def test_writing_is_deterministic_cbor_without_tags_or_indefinite_lengths(
    kind: Kind, data: st.DataObject
) -> None:
    encoded = kind.encode(data.draw(kind.values))
    assert cbor2.dumps(cbor2.loads(encoded, allow_indefinite=False), canonical=True) == encoded


# --- what is not ours -----------------------------------------------------------------------------


@each_kind
@settings(max_examples=300)
@given(data=st.binary(max_size=300))
@example(data=b"")
@example(data=b"\xff")
@example(data=b"\x80")
@example(data=b"\xa0")
@example(data=b"\xf6")
def test_random_bytes(kind: Kind, data: bytes) -> None:
    read(kind.decode, data)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=40)
    | texts(20),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(texts(5), inner, max_size=3),
    max_leaves=40,
)


@each_kind
@settings(max_examples=200)
@given(value=ANYTHING)
def test_well_formed_cbor_of_any_shape(kind: Kind, value: object) -> None:
    read(kind.decode, cbor2.dumps(value))


@each_kind
@given(data=st.data())
def test_truncated_or_followed_by_more(kind: Kind, data: st.DataObject) -> None:
    encoded = kind.encode(data.draw(kind.values))
    cut = data.draw(st.integers(0, len(encoded) - 1))
    assert refused(kind.decode, encoded[:cut]).reason is Reason.MALFORMED
    more = data.draw(st.binary(min_size=1, max_size=5))
    assert refused(kind.decode, encoded + more).reason is Reason.MALFORMED


@each_kind
@given(data=st.data())
def test_flipped_bits(kind: Kind, data: st.DataObject) -> None:
    encoded = bytearray(kind.encode(data.draw(kind.values)))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    read(kind.decode, bytes(encoded))


OTHER_TYPES: list[object] = [
    None, True, False, 0, 1, -1, 1.0, 1 << 63, 1 << 64, -(1 << 64), b"", b"x" * 4000, "",
    "x" * 4000,
    "a\x00b", [], {}, [[]], cbor2.CBORTag(1, 0), cbor2.CBORTag(2, b"\x01"), cbor2.CBORTag(4242, 0),
    cbor2.undefined, cbor2.CBORSimpleValue(99),
]  # fmt: skip


def paths(value: object, at: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    if not isinstance(value, list):
        return [at]
    return [at, *(path for i, each in enumerate(value) for path in paths(each, (*at, i)))]


def replaced(value: Any, path: tuple[int, ...], other: object) -> Any:
    if not path:
        return other
    return [replaced(each, path[1:], other) if i == path[0] else each
            for i, each in enumerate(value)]  # fmt: skip


@each_kind
@settings(max_examples=60)
@given(data=st.data())
def test_every_element_replaced_by_every_other_type(kind: Kind, data: st.DataObject) -> None:
    tree = cbor2.loads(kind.encode(data.draw(kind.values)))
    for path in paths(tree):
        for other in OTHER_TYPES:
            value = read(kind.decode, cbor2.dumps(replaced(tree, path, other)))
            if value is not None:
                # it was taken, so it is a value like any other: a bool did not pass for an int
                assert kind.decode(kind.encode(value)) == value
                assert "CBORTag" not in repr(value)


@pytest.mark.parametrize("at", [0, 1])
def test_a_bool_is_no_int(at: int) -> None:
    fields: list[object] = [1, 1, True]
    fields[at] = True
    error = refused(HubState.decode, cbor2.dumps(fields))
    assert "is not an integer" in error.detail


@pytest.mark.parametrize("number", [1, 0, 1.0, "true", None])
def test_an_int_is_no_bool(number: object) -> None:
    error = refused(HubState.decode, cbor2.dumps([1, 1, number]))
    assert "online is not true or false" in error.detail


@each_kind
@given(data=st.data())
def test_elements_that_a_later_version_appends_are_ignored(kind: Kind, data: st.DataObject) -> None:
    value = data.draw(kind.values)
    tree = cbor2.loads(kind.encode(value))
    if isinstance(value, EpochHeader | Heartbeat):
        tree.append(False)  # whether it is a rehearsal, or closes: what was appended already
    more = data.draw(st.lists(UINTS | texts(5), min_size=1, max_size=3))
    assert kind.decode(cbor2.dumps([*tree, *more])) == value


def test_elements_appended_to_inner_arrays_are_ignored() -> None:
    gap = Batch(b"h", 1, bytes(32), (Gap(1, 3, bytes(32), "lost"),))
    tree = cbor2.loads(gap.encode())
    tree[3][0].append("later")
    assert Batch.decode(cbor2.dumps(tree)) == gap
    hello = Hello(b"h", ((bytes(16), 1, 2),))
    tree = cbor2.loads(hello.encode())
    tree[1][0].append("later")
    assert Hello.decode(cbor2.dumps(tree)) == hello
    told = Receipt(bytes(16), 1, bytes(16), 0, bytes(32), (Range(2, 3, bytes(32)),))
    tree = cbor2.loads(told.encode())
    tree[5][0].append("later")
    assert Receipt.decode(cbor2.dumps(tree)) == told
    at = Stamp(1, 1, trusted=True)
    beat = Heartbeat(
        bytes(16), 1, bytes(32), at, 0, 1, 1, (ReaderState("r", up=True, since_boottime_ms=0),)
    )
    tree = cbor2.loads(beat.encode())
    tree[9][0].append("later")
    assert Heartbeat.decode(cbor2.dumps(tree)) == beat
    header = EpochHeader(
        bytes(16), bytes(16), bytes(16), at, Parent(bytes(16), 1, bytes(32)), "1", bytes(8),
        bytes(80),
    )  # fmt: skip
    tree = cbor2.loads(header.encode())
    tree[6].append("later")
    assert EpochHeader.decode(cbor2.dumps(tree)) == header


BOMBS = {
    "an array of 2^64 - 1": bytes.fromhex("9bffffffffffffffff"),
    "an array of 2^40": bytes.fromhex("9b0000010000000000"),
    "an array of 2^30": bytes.fromhex("9a40000000"),
    "arrays of 2^27 in one another": bytes.fromhex("9a08000000") * 8,
    "a map of 2^40": bytes.fromhex("bb0000010000000000"),
    "bytes of 2^64 - 1": bytes.fromhex("5bffffffffffffffff"),
    "bytes of 2^40": bytes.fromhex("5b0000010000000000"),
    "text of 2^40": bytes.fromhex("7b0000010000000000"),
    "a deep nest of arrays": b"\x81" * 60_000 + b"\x00",
    "a deep nest of maps": b"\xa1\x00" * 30_000 + b"\x00",
    "a deep nest of tags": b"\xd9\xff\xff" * 20_000 + b"\x00",
    "a deep nest of indefinite arrays": b"\x9f" * 60_000,
    "indefinite bytes": b"\x5f" + b"\x41x" * 30_000 + b"\xff",
    "a big number": b"\xc2\x59\xff\x00" + b"\xff" * 65_280,
    "a decimal of a huge exponent": b"\xc4\x82\x1b" + b"\x7f" * 8 + b"\x01",
    "a rational over zero": b"\xd8\x1e\x82\x01\x00",
    "a date in the year 10^18": b"\xc1\x1b" + b"\x0d" * 8,
    "a regular expression": b"\xd8\x23\x78\x18" + b"(a+)+" * 4 + b"$aaa",
    "a shared value that holds itself": b"\xd8\x1c\x81\xd8\x1d\x00",
    "a string reference": b"\xd9\x01\x00\x82\x63aaa\xd8\x19\x00",
    "an IP address": b"\xd9\x01\x04\x44\x7f\x00\x00\x01",
    "a set": b"\xd9\x01\x02\x82\x01\x02",
    "duplicate keys": b"\xa2" + (b"\x79\x70\x00" + b"k" * 28_672 + b"\x00") * 2,
    "a wrong UTF-8": b"\x62\xc3\x28",
    "a surrogate": b"\x63\xed\xa0\x80",
    "keys that hash alike": b"\xb9\x07\xff"
    + b"".join(b"\xfb" + (i << 4).to_bytes(2) + bytes(6) + b"\x00" for i in range(1, 0x800)),
}  # fmt: skip


@each_kind
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_go_off_in_little_time_and_memory(kind: Kind, bomb: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    began = time.perf_counter()
    for data in (bomb, b"\x81" + bomb, b"\x8a" + bomb * 10 if len(bomb) < 100 else bomb):
        error = refused(kind.decode, data)
        assert error.reason in {Reason.MALFORMED, Reason.OVERSIZE}
        assert len(error.detail) < 400
    took = time.perf_counter() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 1
    assert peak < 4 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_no_tag_is_read() -> None:
    for tag in [*range(70_000), 1 << 32, (1 << 64) - 1]:
        head = cbor2.dumps(cbor2.CBORTag(tag, 0))
        assert refused(lambda data: cbor.decode(data, "tag"), head).reason is Reason.MALFORMED


@pytest.mark.parametrize("size", [MAX_MESSAGE_BYTES + 1, 1 << 20])
@pytest.mark.parametrize("filling", [b"\x00", b"\x81", b"\x9f", b"\xff"])
def test_a_megabyte_is_oversize_before_it_is_read(size: int, filling: bytes) -> None:
    data = filling * size
    assert refused(Parcel.decode, data).reason is Reason.OVERSIZE
    for message in MessageType:
        assert refused(lambda d, m=message: Signed.parse(d, m), data).reason is Reason.OVERSIZE  # type: ignore[misc]


def act(what: int, number: int | None = None, about: bytes | None = None) -> Action:
    at = Stamp(0, 0, trusted=False)
    return Action(at, "r", what, number, Assurance.UID, bytes(32), about)


def test_an_act_of_a_later_version_is_an_action_with_all_that_it_says() -> None:
    for later in (act(0), act(5, (1 << 63) - 1), act(MAX_ACT, 0, b"a" * 32)):
        assert decode_entry(encode_entry(later)) == later


@pytest.mark.parametrize("missing", range(4, 10))
def test_an_action_with_less_is_refused(missing: int) -> None:
    fields = cbor2.loads(encode_entry(act(Act.WITNESSED, about=bytes(32))))
    assert f"has {missing} of 10" in refused(decode_entry, cbor2.dumps(fields[:missing])).detail


# --- limits ---------------------------------------------------------------------------------------


def test_lists_have_their_limits() -> None:
    digest, name = bytes(32), bytes(16)

    def batch(count: int) -> bytes:
        return Batch(b"h", 1, digest, (b"",) * count).encode()

    assert len(Batch.decode(batch(MAX_ITEMS)).items) == MAX_ITEMS
    assert "entries" in refused(Batch.decode, batch(MAX_ITEMS + 1)).detail
    assert "no entries" in refused(Batch.decode, batch(0)).detail

    def told(count: int) -> bytes:
        ranges = tuple(Range(2 * i, 2 * i, digest) for i in range(1, count + 1))
        return Receipt(name, 1, name, 0, digest, ranges).encode()

    assert len(Receipt.decode(told(MAX_RANGES)).have) == MAX_RANGES
    refused(Receipt.decode, told(MAX_RANGES + 1))

    def hello(count: int) -> bytes:
        return Hello(b"h", ((name, 1, 1),) * count).encode()

    assert len(Hello.decode(hello(MAX_HELD_EPOCHS)).held) == MAX_HELD_EPOCHS
    refused(Hello.decode, hello(MAX_HELD_EPOCHS + 1))

    def beat(count: int) -> bytes:
        readers = (ReaderState("r", up=True, since_boottime_ms=0),) * count
        at = Stamp(0, 0, trusted=False)
        return Heartbeat(name, 1, digest, at, 0, 1, 1, readers).encode()

    assert len(Heartbeat.decode(beat(MAX_READERS)).readers) == MAX_READERS
    refused(Heartbeat.decode, beat(MAX_READERS + 1))


@pytest.mark.parametrize(
    ("first", "items"),
    [
        (0, [b"x"]),
        (1 << 62, [b"x"]),
        (1, [bytes(MAX_ENTRY_BYTES + 1)]),
        (1, [[0, bytes(32), ""]]),
        (1, [[1 << 62, bytes(32), ""]]),
        ((1 << 62) - 1, [[1, bytes(32), ""]]),
        (1, [[1, bytes(31), ""]]),
        (1, [[1, bytes(32), "x" * (MAX_REASON_CHARS + 1)]]),
        (1, [[1, bytes(32)]]),
        (1, [{}]),
        (1, ["entry"]),
    ],
)
def test_batches_that_cannot_be(first: int, items: list[object]) -> None:
    data = cbor2.dumps([b"h", first, bytes(32), items, [], 0])
    assert refused(Batch.decode, data).reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("first", "items"),
    [
        ((1 << 62) - 1, [b""]),
        (1, [bytes(MAX_ENTRY_BYTES)]),
        (1, [[(1 << 62) - 2, bytes(32), "x" * MAX_REASON_CHARS]]),
        ((1 << 62) - 2, [[1, bytes(32), ""]]),
    ],
)
def test_batches_that_just_can_be(first: int, items: list[object]) -> None:
    data = cbor2.dumps([b"h", first, bytes(32), items, [], 500])
    assert Batch.decode(data).encode() == data


@pytest.mark.parametrize("withheld", [[0], [4], [True], ["1"], [-1], [1 << 70], 1])
def test_withheld_names_seqs_of_the_batch_alone(withheld: object) -> None:
    data = cbor2.dumps([b"h", 1, bytes(32), [b"x", [2, bytes(32), ""]], withheld, 0])
    refused(Batch.decode, data)


@pytest.mark.parametrize(
    ("through", "have"),
    [
        (5, [(6, 7)]),  # touches: it would be part of `through`
        (5, [(3, 9)]),
        (5, [(9, 8)]),
        (5, [(10, 12), (8, 8)]),
        (5, [(8, 9), (10, 12)]),
        (0, [(1, 2)]),
    ],
)
def test_ranges_of_a_receipt_rise_and_do_not_touch(
    through: int, have: list[tuple[int, int]]
) -> None:
    ranges = tuple(Range(first, last, bytes(32)) for first, last in have)
    data = Receipt(bytes(16), 1, bytes(16), through, bytes(32), ranges).encode()
    assert "rising order" in refused(Receipt.decode, data).detail


@pytest.mark.parametrize(("first", "last"), [(0, 1), (2, 1), (0, 0)])
def test_a_hello_names_spans_that_can_be(first: int, last: int) -> None:
    data = Hello(b"h", ((bytes(16), first, last),)).encode()
    assert refused(Hello.decode, data).reason is Reason.MALFORMED


@pytest.mark.parametrize(
    "entry",
    [
        ReaderUp(Stamp(0, 0, trusted=False), "r" * (MAX_READER_CHARS + 1)),
        ReaderUp(Stamp(0, 0, trusted=False), "r\x00"),
        ReaderUp(Stamp(-1, 0, trusted=False), "r"),
        ReaderDown(Stamp(0, 0, trusted=False), "r", "x" * (MAX_REASON_CHARS + 1)),
        ReaderDown(Stamp(0, 0, trusted=False), "\U0001f600" * 64, "\U0001f600" * 200),
        Tap(Stamp((1 << 47) + 1, 0, trusted=False), "r", Assurance.UID, bytes(32)),
        Tap(Stamp(0, -(1 << 45) - 1, trusted=False), "r", Assurance.UID, bytes(32)),
        Tap(Stamp(0, (1 << 47) + 1, trusted=False), "r", Assurance.UID, bytes(32)),
        Tap(Stamp(0, 0, trusted=False), "r", Assurance.UID, bytes(31)),
        ReaderUp(Stamp(0, 0, trusted=False), "\ud800"),
        act(Act.OPENED, number=0),
        act(Act.CLOSED, about=bytes(32)),
        act(Act.HEAD_COUNT),
        act(Act.HEAD_COUNT, number=-1),
        act(Act.HEAD_COUNT, number=MAX_HEAD_COUNT + 1),
        act(Act.HEAD_COUNT, number=1, about=bytes(32)),
        act(Act.WITNESSED),
        act(Act.WITNESSED, about=bytes(31)),
        act(Act.WITNESSED, number=1, about=bytes(32)),
        act(MAX_ACT + 1),
        act(-1),
        act(MAX_ACT, number=1 << 63),
    ],
    ids=repr,
)
def test_an_entry_that_nobody_could_read_is_not_written(entry: Entry) -> None:
    """What is in the journal stays there: a reader's name that is too long must show up here."""
    with pytest.raises(LocalError):
        encode_entry(entry)


@given(kind=st.integers(6, 1 << 40) | st.sampled_from([0, 2]), rest=st.lists(ANYTHING, max_size=4))
def test_an_unknown_kind_of_entry_is_not_read_and_its_bytes_stay_as_they_are(
    kind: int, rest: list[object]
) -> None:
    entry = cbor2.dumps([kind, 0, 0, True, *rest])
    error = refused(decode_entry, entry)
    assert error.reason is Reason.MALFORMED
    batch = Batch(b"h", 1, chain_start(b"h"), (entry[:MAX_ENTRY_BYTES],))
    assert Batch.decode(batch.encode()).items == (entry[:MAX_ENTRY_BYTES],)


# --- signatures -----------------------------------------------------------------------------------

EDGE_KEY = SigningKey(bytes(range(32)))
HUB_KEY = SigningKey(bytes(range(32, 64)))


@given(st.binary(max_size=200), st.sampled_from(MessageType))
def test_a_signed_message_opens_with_its_key_as_its_type_alone(
    payload: bytes, message: MessageType
) -> None:
    data = EDGE_KEY.sign(message, payload)
    signed = Signed.parse(data, message)
    assert signed.signer == EDGE_KEY.public_id
    assert signed.verify(EDGE_KEY.public) == payload
    with pytest.raises(RemoteError) as caught:
        signed.verify(HUB_KEY.public)
    assert caught.value.reason is Reason.BAD_SIGNATURE
    # a liar who claims the other key's id
    with pytest.raises(RemoteError) as caught:
        replace(signed, signer=HUB_KEY.public_id).verify(HUB_KEY.public)
    assert caught.value.reason is Reason.BAD_SIGNATURE
    for other in MessageType:
        if other is not message:
            error = refused(lambda d, m=other: Signed.parse(d, m), data)  # type: ignore[misc]
            assert error.reason is Reason.WRONG_TYPE


def test_a_receipt_that_was_signed_as_something_else_is_none() -> None:
    payload = Receipt(bytes(16), 1, bytes(16), 0, bytes(32)).encode()
    for message in set(MessageType) - {MessageType.RECEIPT}:
        with pytest.raises(RemoteError) as caught:
            open_receipt(HUB_KEY.sign(message, payload), HUB_KEY.public)
        assert caught.value.reason is Reason.WRONG_TYPE
    good = HUB_KEY.sign(MessageType.RECEIPT, payload)
    assert open_receipt(good, HUB_KEY.public) == Receipt.decode(payload)
    with pytest.raises(RemoteError) as caught:
        open_receipt(EDGE_KEY.sign(MessageType.RECEIPT, payload), HUB_KEY.public)
    assert caught.value.reason is Reason.BAD_SIGNATURE


@settings(max_examples=300)
@given(st.data())
def test_no_bit_of_a_signed_message_can_change(data: st.DataObject) -> None:
    state = HubState(5, 6, online=True)
    good = HUB_KEY.sign(MessageType.HUB_STATE, state.encode())
    changed = bytearray(good)
    changed[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(RemoteError):
        open_hub_state(bytes(changed), HUB_KEY.public)


def resigned(header: object, key: SigningKey = EDGE_KEY) -> bytes:
    """A message that is signed as it should be, whatever its protected header says."""
    protected = header if isinstance(header, bytes) else cbor2.dumps(header, canonical=True)
    to_be_signed = cbor2.dumps(["Signature1", protected, b"", b"payload"], canonical=True)
    return cbor2.dumps([protected, {}, b"payload", key._key.sign(to_be_signed)])


GOOD_HEADER: dict[object, object] = {1: -19, 4: EDGE_KEY.public_id, 16: "shuaka/1/batch"}


def test_a_protected_header_of_a_later_kind_may_say_more() -> None:
    data = resigned({**GOOD_HEADER, 99: "later"})
    assert Signed.parse(data, MessageType.BATCH).verify(EDGE_KEY.public) == b"payload"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({16: "shuaka/2/batch"}, Reason.FUTURE_VERSION),
        ({16: "shuaka/10/batch"}, Reason.FUTURE_VERSION),
        ({16: "shuaka/2/whatever"}, Reason.FUTURE_VERSION),
        ({1: -50}, Reason.FUTURE_VERSION),
        ({1: -8}, Reason.FUTURE_VERSION),
        ({1: None}, Reason.FUTURE_VERSION),
        ({1: -19.0}, Reason.FUTURE_VERSION),
        ({16: "shuaka/1/receipt"}, Reason.WRONG_TYPE),
        ({16: "shuaka/1/"}, Reason.WRONG_TYPE),
        ({16: "shuaka/one/batch"}, Reason.WRONG_TYPE),
        ({16: "shuaka//batch"}, Reason.WRONG_TYPE),
        ({16: "shuaka/1/batch/2"}, Reason.WRONG_TYPE),
        ({16: "shuaka/１/batch"}, Reason.WRONG_TYPE),
        ({16: "other/1/batch"}, Reason.WRONG_TYPE),
        ({16: 1}, Reason.WRONG_TYPE),
        ({16: None}, Reason.WRONG_TYPE),
        ({16: b"shuaka/1/batch"}, Reason.WRONG_TYPE),
        ({4: b"short"}, Reason.MALFORMED),
        ({4: None}, Reason.MALFORMED),
    ],
)
def test_protected_headers(change: dict[object, object], reason: Reason) -> None:
    data = resigned({**GOOD_HEADER, **change})
    assert refused(lambda d: Signed.parse(d, MessageType.BATCH), data).reason is reason


@pytest.mark.parametrize(
    "header", [b"\xa0" + b"x", b"\x80", b"\xf6", b"\xff", b"x" * 129, b"", b"\xbf\xff"]
)
def test_broken_protected_headers(header: bytes) -> None:
    error = refused(lambda d: Signed.parse(d, MessageType.BATCH), resigned(header))
    assert error.reason in {Reason.MALFORMED, Reason.WRONG_TYPE}


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from(MessageType))
def test_random_bytes_are_no_signed_message(data: bytes, message: MessageType) -> None:
    refused(lambda d: Signed.parse(d, message), data)


@settings(max_examples=200)
@given(ANYTHING, st.sampled_from(MessageType))
def test_anything_at_all_validly_signed_is_read_or_refused(
    value: object, message: MessageType
) -> None:
    payload = Signed.parse(EDGE_KEY.sign(message, cbor2.dumps(value)), message).verify(
        EDGE_KEY.public
    )
    for kind in KINDS:
        read(kind.decode, payload)


def test_the_sealed_batch_is_what_was_signed_with_its_subjects_beside_it() -> None:
    batch = Batch(b"header", 1, chain_start(b"header"), (b"one", b"two"))
    parcel = Parcel.decode(seal_batch(batch, EDGE_KEY, [b"first", b"second"]))
    signed = Signed.parse(parcel.signed, MessageType.BATCH)
    assert Batch.decode(signed.verify(EDGE_KEY.public)) == replace(batch, subjects=2)
    assert parcel.by_digest() == {subject_digest(each): each for each in (b"first", b"second")}
    # erasing the subjects leaves the signature as it was
    assert Parcel.decode(Parcel(parcel.signed, ()).encode()).signed == parcel.signed


@given(HEADERS, IDS)
def test_an_epoch_belongs_to_the_edge_that_signed(header: EpochHeader, other: bytes) -> None:
    hello = Hello(header.encode(), ())
    assert header_of(hello, header.edge) == header
    if other != header.edge:
        with pytest.raises(RemoteError) as caught:
            header_of(hello, other)
        assert caught.value.reason is Reason.WRONG_TOPIC


# --- chain ----------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=12), st.data())
def test_the_chain_is_the_same_wherever_it_is_cut_and_whatever_is_a_gap(
    entries: list[bytes], data: st.DataObject
) -> None:
    digests = [chain_start(b"header")]
    for entry in entries:
        digests.append(chain_next(digests[-1], entry))
    first = data.draw(st.integers(1, len(entries)))
    whole = list(link(first, digests[first - 1], entries[first - 1 :]))
    assert [each.digest for each in whole] == digests[first:]
    assert [(each.first, each.last) for each in whole] == [
        (seq, seq) for seq in range(first, len(entries) + 1)
    ]
    last = data.draw(st.integers(first, len(entries)))
    gap = Gap(first, last, digests[last], "lost")
    holed = list(link(first, digests[first - 1], [gap, *entries[last:]]))
    assert holed[0].item == gap
    assert holed[-1].digest == digests[-1]
    assert holed[-1].last == len(entries)


def test_a_gap_stands_where_it_says() -> None:
    with pytest.raises(RemoteError):
        list(link(1, bytes(32), [Gap(2, 3, bytes(32), "lost")]))


@given(st.lists(st.binary(max_size=30), min_size=2, max_size=8), st.data())
def test_a_changed_entry_changes_every_later_digest(
    entries: list[bytes], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(entries) - 1))
    other = data.draw(st.binary(max_size=30).filter(lambda each: each != entries[at]))
    changed = [*entries[:at], other, *entries[at + 1 :]]
    true = [each.digest for each in link(1, bytes(32), entries)]
    false = [each.digest for each in link(1, bytes(32), changed)]
    assert true[:at] == false[:at]
    assert all(a != b for a, b in zip(true[at:], false[at:], strict=True))


# --- topics ---------------------------------------------------------------------------------------


@given(IDS, st.sampled_from(Up))
def test_topics_round_trip(edge: bytes, channel: Up) -> None:
    assert parse_up(up(edge, channel)) == (edge, channel)
    refused(lambda _: parse_up(receipt(edge)), b"")


@given(st.text(max_size=80))
@example("shuaka/v1/up/" + "A" * 32 + "/journal")
@example("shuaka/v1/up/" + "a" * 32 + "/journal\n")
@example("shuaka/v1/up/" + "a" * 32 + "/receipt")
@example("shuaka/v2/up/" + "a" * 32 + "/journal")
@example("shuaka/v1/up/" + "٣" * 32 + "/journal")
def test_other_topics_are_refused(topic: str) -> None:
    with pytest.raises(RemoteError) as caught:
        parse_up(topic)
    assert caught.value.reason is Reason.WRONG_TOPIC


def test_hostile_bytes_by_the_thousand() -> None:
    """A quick run over many mutations of good messages, half of them inside a valid signature."""
    rng = random.Random(20)
    entry = encode_entry(Tap(Stamp(1, 2, trusted=True), "door", Assurance.UID, bytes(32)))
    entries = (entry,) * 3 + (encode_entry(act(Act.WITNESSED, about=bytes(32))),) * 2
    batch = Batch(b"h" * 100, 1, bytes(32), entries, (2,))
    good = [batch.encode(), seal_batch(batch, EDGE_KEY, [bytes(92)] * 5)]
    began = time.perf_counter()
    for _ in range(5_000):
        data = bytearray(rng.choice(good))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.randint(1, 20)]
                case 2:
                    data[at:at] = rng.randbytes(rng.randint(1, 20))
                case _:
                    data[at:at] = data[max(0, at - 30) : at]
            if not data:
                data = bytearray(b"\x00")
        for decode in (Batch.decode, Parcel.decode):
            read(decode, bytes(data))
        payload = Signed.parse(EDGE_KEY.sign(MessageType.BATCH, bytes(data)), MessageType.BATCH)
        read(Batch.decode, payload.verify(EDGE_KEY.public))
    assert time.perf_counter() - began < 30
