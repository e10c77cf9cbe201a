"""A roster greets whom it must, names nobody, and opens for its edge alone."""

import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import cbor
from protocol.credential import Credential
from protocol.errors import LocalError, Reason, RemoteError
from protocol.identity import MAX_MESSAGE_BYTES, MessageType, OpeningKey, SigningKey
from protocol.roster import (
    MAX_CARDS,
    Board,
    BoardQuorum,
    Known,
    OpenMeeting,
    Roster,
    cards_of,
)
from protocol.sealing import seal_to

HUB = SigningKey.generate()
EDGE_KEY = OpeningKey.generate()
EDGE = b"e" * 16
KEY = b"k" * 16


def uid(number: int) -> Credential:
    return Credential("uid", "", f"{0x04_0000_0000_0000 + number:014X}")


def meeting(opens_ms: int, closes_ms: int, *numbers: int) -> OpenMeeting:
    return OpenMeeting(opens_ms, closes_ms, cards_of(KEY, map(uid, numbers)))


def roster(*meetings: OpenMeeting) -> Roster:
    return Roster(EDGE, 5, KEY, meetings)


@pytest.mark.parametrize(
    ("number", "at", "known"),
    [
        (1, 99, Known.SILENT),
        (1, 100, Known.EXPECTED),
        (1, 200, Known.EXPECTED),
        (1, 201, Known.SILENT),
        (2, 150, Known.STRANGE),
        (2, 300, Known.EXPECTED),
        (1, 300, Known.STRANGE),
        (3, 150, Known.STRANGE),
        (3, 250, Known.SILENT),
    ],
)
def test_a_card_is_expected_only_while_a_meeting_that_expects_it_is_open(
    number: int, at: int, known: Known
) -> None:
    both = roster(meeting(100, 200, 1), meeting(300, 400, 2))
    assert both.known(uid(number), at) is known


def test_one_of_two_open_meetings_is_enough() -> None:
    both = roster(meeting(100, 200, 1), meeting(150, 250, 2))
    assert both.known(uid(2), 160) is Known.EXPECTED
    assert both.known(uid(2), 140) is Known.STRANGE


@pytest.mark.parametrize(
    ("at", "opened"), [(99, None), (100, 100), (150, 150), (201, 150), (251, None)]
)
def test_it_knows_when_check_in_opened_last(at: int, opened: int | None) -> None:
    assert roster(meeting(100, 200), meeting(150, 250)).opened_ms(at) == opened


@given(
    st.text(max_size=64).filter(lambda text: "\0" not in text and text.isprintable()),
    st.integers(-(1 << 40), 1 << 50),
    st.integers(0, 1 << 31),
    st.integers(0, 1 << 31),
    st.sampled_from(BoardQuorum),
)
def test_a_board_comes_out_the_same(
    title: str, starts_ms: int, expected: int, present: int, quorum: BoardQuorum
) -> None:
    board = Board(title, starts_ms, expected, present, quorum)
    sent = roster(replace(meeting(100, 200, 1), board=board), meeting(300, 400))
    assert Roster.open(sent.seal(HUB, EDGE_KEY.public), HUB.public, EDGE, EDGE_KEY) == sent


@pytest.mark.parametrize(
    "wrong", [["t" * 65, 0, 0, 0, 0], ["t", 0, 0, 0, 4], ["t", 0, -1, 0, 0], ["t"]]
)
def test_a_board_out_of_bounds_is_refused(wrong: list[object]) -> None:
    content = cbor.encode([KEY, [[0, 1, b"", wrong]]])
    sealed = seal_to(EDGE_KEY.public, content, b"shuaka/1/roster" + EDGE + (5).to_bytes(8))
    payload = HUB.sign(MessageType.ROSTER, cbor.encode([EDGE, 5, sealed]))
    with pytest.raises(RemoteError, match="roster board"):
        Roster.open(payload, HUB.public, EDGE, EDGE_KEY)
    with pytest.raises(LocalError):
        Board("t" * 65, 0, 0, 0, BoardQuorum.MET)


def test_it_travels_sealed_and_comes_out_the_same() -> None:
    sent = roster(meeting(100, 200, *range(300)), meeting(0, 1))
    payload = sent.seal(HUB, EDGE_KEY.public)
    assert Roster.open(payload, HUB.public, EDGE, EDGE_KEY) == sent
    assert all(card not in payload for card in sent.meetings[0].cards)


def test_the_largest_roster_fits_into_a_message() -> None:
    largest = roster(meeting(0, 1, *range(MAX_CARDS)))
    assert len(largest.seal(HUB, EDGE_KEY.public)) <= MAX_MESSAGE_BYTES
    with pytest.raises(LocalError, match="too many"):
        roster(meeting(0, 1, *range(MAX_CARDS)), meeting(2, 3, MAX_CARDS + 1))


def test_one_with_too_many_cards_is_refused_where_it_arrives() -> None:
    cards = b"".join(at.to_bytes(8) for at in range(MAX_CARDS // 2 + 1))
    content = cbor.encode([KEY, [[0, 1, cards], [2, 3, cards]]])
    sealed = seal_to(EDGE_KEY.public, content, b"shuaka/1/roster" + EDGE + (5).to_bytes(8))
    payload = HUB.sign(MessageType.ROSTER, cbor.encode([EDGE, 5, sealed]))
    with pytest.raises(RemoteError, match="more than 6000 cards"):
        Roster.open(payload, HUB.public, EDGE, EDGE_KEY)


def test_only_its_edge_opens_it_and_only_its_hub_wrote_it() -> None:
    payload = roster(meeting(0, 1, 1)).seal(HUB, EDGE_KEY.public)
    for hub, edge, key, reason in (
        (SigningKey.generate().public, EDGE, EDGE_KEY, Reason.BAD_SIGNATURE),
        (HUB.public, b"x" * 16, EDGE_KEY, Reason.WRONG_TOPIC),
        (HUB.public, EDGE, OpeningKey.generate(), Reason.MALFORMED),
    ):
        with pytest.raises(RemoteError) as refused:
            Roster.open(payload, hub, edge, key)
        assert refused.value.reason is reason


def test_a_sealed_roster_cannot_be_passed_off_as_a_later_one() -> None:
    first = roster(meeting(0, 1, 1))
    outer = cbor.decode(first.seal(HUB, EDGE_KEY.public), "x")
    _, issued_ms, sealed = cbor.decode(outer[2], "x")
    resigned = HUB.sign(MessageType.ROSTER, cbor.encode([EDGE, issued_ms + 1, sealed]))
    with pytest.raises(RemoteError, match="cannot be opened"):
        Roster.open(resigned, HUB.public, EDGE, EDGE_KEY)


def test_a_new_key_gives_the_same_card_another_hash() -> None:
    assert not cards_of(KEY, [uid(1)]) & cards_of(b"K" * 16, [uid(1)])


@given(st.binary(max_size=300), st.integers(0, 1 << 40))
def test_whatever_the_hub_might_seal_is_read_or_refused(content: bytes, issued_ms: int) -> None:
    info = b"shuaka/1/roster" + EDGE + issued_ms.to_bytes(8)
    sealed = seal_to(EDGE_KEY.public, content, info)
    payload = HUB.sign(MessageType.ROSTER, cbor.encode([EDGE, issued_ms, sealed]))
    with contextlib.suppress(RemoteError):
        assert Roster.open(payload, HUB.public, EDGE, EDGE_KEY).issued_ms == issued_ms


def test_flipped_bits_never_open() -> None:
    payload = bytearray(roster(meeting(0, 1, 1, 2, 3)).seal(HUB, EDGE_KEY.public))
    chance = random.Random(7)
    for _ in range(300):
        at, bit = chance.randrange(len(payload)), 1 << chance.randrange(8)
        payload[at] ^= bit
        with pytest.raises(RemoteError):
            Roster.open(bytes(payload), HUB.public, EDGE, EDGE_KEY)
        payload[at] ^= bit


def test_a_roster_s_key_has_its_length() -> None:
    with pytest.raises(LocalError, match="key"):
        replace(roster(), key=b"short")
