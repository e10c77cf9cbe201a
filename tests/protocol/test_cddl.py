"""docs/wire.cddl describes the golden vectors, and not what they are not."""

import json
from pathlib import Path
from typing import Any

import cbor2
import pycddl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import RemoteError
from protocol.identity import MessageType
from protocol.journal import Act, Action, decode_entry
from tests.protocol.cddl import Schema
from tests.protocol.samples import SAMPLES, VECTORS

TEXT = (Path(__file__).parents[2] / "docs" / "wire.cddl").read_text("utf-8")
SCHEMA = Schema(TEXT)


def tree_of(name: str) -> Any:
    data = bytes.fromhex(json.loads((VECTORS / f"{name}.json").read_text("utf-8"))["hex"])
    return data if SAMPLES[name].rule == "sealed-subject" else cbor2.loads(data)


def test_an_independent_reader_takes_the_file() -> None:
    pycddl.Schema(TEXT)


def test_the_small_reader_can_tell_right_from_wrong() -> None:
    schema = Schema(
        """a = [x: 1..3, ? tstr, 1*2 b, * any] ; as the file has it
        b = bstr .size (2..3) / null   c = { 1 => a, * any => any }  d = [bstr .cbor b]"""
    )
    for good in ([1, None], [3, "t", b"12", b"123"], [1, b"12", 9, 9], [1, None, None, None]):
        assert schema.obeys("a", good), good
        assert schema.obeys("c", {1: good, "more": 0})
    for bad in ([], [0, None], [True, None], [1], [1, "t"], [1, b"1"], [1, "t", "t", None], {}, 1):
        assert not schema.obeys("a", bad), bad
    assert not schema.obeys("c", {2: [1, None]})
    assert schema.obeys("d", [b"\xf6"])
    assert not schema.obeys("d", [b"\x00"])
    assert not schema.obeys("d", [None])
    for broken in ("a = ", "a = b", "a = [1", "a = 1 a = 2", "= 1"):
        with pytest.raises(ValueError):  # noqa: PT011 - the message is for people
            Schema(broken)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_vector_obeys_its_rule(name: str) -> None:
    assert SCHEMA.obeys(SAMPLES[name].rule, tree_of(name))


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_appended_is_allowed_and_what_is_missing_is_not(name: str) -> None:
    tree, rule = tree_of(name), SAMPLES[name].rule
    if name == "epoch-header-rehearsal":
        assert SCHEMA.obeys(rule, tree)
        tree = tree[:-1]  # that one may be missing
    if isinstance(tree, list):
        assert SCHEMA.obeys(rule, [*tree, "later", 1])
        assert not SCHEMA.obeys(rule, tree[:-1]) or rule == "entry"
        assert not SCHEMA.obeys(rule, {})
        for at in range(len(tree)):
            wrong = [*tree[:at], 1.5, *tree[at + 1 :]]
            assert not SCHEMA.obeys(rule, wrong) or name == "entry-unknown", at


NUMBERS = st.integers(-1, 6) | st.sampled_from([100_000, 100_001, 1 << 62, 1 << 63])


@settings(max_examples=1000)
@given(
    st.sampled_from([*Act, *Act, 0, 5, 32_767, 32_768, -1]),
    st.none() | NUMBERS | st.booleans(),
    st.integers(-1, 3),
    st.sampled_from([bytes(32), bytes(32), bytes(31), None]),
    st.sampled_from([None, bytes(32), bytes(33), 0]),
    # What CBOR calls an integer: beyond it there are only tags, and the wire has none.
    st.lists(st.integers(-(1 << 64), (1 << 64) - 1), max_size=1),
)
def test_an_action_is_read_if_and_only_if_it_is_as_described(
    what: int, number: object, assurance: int, subject: object, about: object, more: list[int]
) -> None:
    fields = [2, 1, 1, True, "r", int(what), number, assurance, subject, about, *more]
    try:
        is_read = isinstance(decode_entry(cbor2.dumps(fields)), Action)
    except RemoteError:
        is_read = False
    assert SCHEMA.obeys("action", fields) == is_read
    assert SCHEMA.obeys("entry", fields) == is_read


def test_a_vector_obeys_no_other_messages_rule() -> None:
    signed = {f"signed-{message}" for message in MessageType}
    assert signed <= SCHEMA.rules.keys()
    for name, sample in SAMPLES.items():
        if sample.rule in signed:
            obeyed = {rule for rule in signed if SCHEMA.obeys(rule, tree_of(name))}
            assert obeyed == {sample.rule}


def test_nothing_is_left_over() -> None:
    tops = {"parcel", "sealed-subject", "subject", "entry", "roster-content", "courier-record"}
    assert SCHEMA.unused() - tops == {f"signed-{each}" for each in MessageType} - {"signed-batch"}
