"""Profiles against cards that lie, stutter and never end."""

from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cards import (
    MAX_CHAINED,
    CardRefused,
    CardUnusable,
    Command,
    Profile,
    Reading,
    Refusal,
    Response,
    complete,
    run,
)
from edge.cards.uid import uid
from protocol.credential import Assurance, Credential

OK = b"\x90\x00"
STORAGE_CARD_ATR = bytes.fromhex("3B8F8001804F0CA000000306030001000000006A")


class Card:
    """Answers with `answers` in turn and remembers what it was asked."""

    def __init__(self, answers: Iterable[bytes]) -> None:
        self.answers: Iterator[bytes] = iter(answers)
        self.asked: list[str] = []

    def __call__(self, apdu: bytes) -> bytes:
        self.asked.append(apdu.hex().upper())
        return next(self.answers)


def forever(answer: bytes) -> Iterator[bytes]:
    while True:
        yield answer


@pytest.mark.parametrize("length", [4, 7, 8, 10])
def test_uid_of_every_length_that_cards_have(length: int) -> None:
    number = bytes(range(0x11, 0x11 + length))
    card = Card([number + OK])
    assert run(uid(), card) == Reading(Credential("uid", "", number.hex().upper()), Assurance.UID)
    assert card.asked == ["FFCA000000"]


@pytest.mark.parametrize("length", [n for n in range(30) if n not in {4, 7, 8, 10}])
def test_no_other_length_is_a_uid(length: int) -> None:
    with pytest.raises(CardUnusable, match=f"{length} bytes"):
        run(uid(), Card([b"\x11" * length + OK]))


def test_an_atr_in_place_of_a_uid_is_not_one() -> None:
    with pytest.raises(CardUnusable, match="20 bytes are no UID"):
        run(uid(), Card([STORAGE_CARD_ATR + OK]))
    with pytest.raises(CardUnusable):
        run(uid(), Card([STORAGE_CARD_ATR]))


@pytest.mark.parametrize("number", ["00000000", "00000000000000", "00000000000000000000"])
def test_an_all_zero_uid_is_refused(number: str) -> None:
    with pytest.raises(CardRefused) as refused:
        run(uid(), Card([bytes.fromhex(number) + OK]))
    assert refused.value.reason is Refusal.NO_NUMBER


def test_a_phone_is_refused_and_a_long_uid_that_begins_with_08_is_not() -> None:
    with pytest.raises(CardRefused) as refused:
        run(uid(), Card([bytes.fromhex("08A1B2C3") + OK]))
    assert refused.value.reason is Refusal.RANDOM_NUMBER
    assert run(uid(), Card([bytes.fromhex("08A1B2C3D4E5F6") + OK])).credential.value.startswith(
        "08"
    )


@pytest.mark.parametrize("status", ["6300", "6A81", "6D00", "9100", "9001"])
def test_another_status_than_9000_is_never_an_identity(status: str) -> None:
    with pytest.raises(CardUnusable, match=status):
        run(uid(), Card([bytes.fromhex(status)]))


@pytest.mark.parametrize("answer", ["112233446300", "11223344", "04112233445592", "0000", "4455"])
def test_of_nonsense_no_byte_is_told(answer: str) -> None:
    with pytest.raises(CardUnusable) as unusable:
        run(uid(), Card([bytes.fromhex(answer)]))
    assert f"{len(answer) // 2} bytes" in str(unusable.value)
    assert answer[-4:] not in str(unusable.value)


def test_6cxx_is_repeated_once_with_that_length() -> None:
    card = Card([bytes.fromhex("6C04"), bytes.fromhex("112233449000")])
    assert run(uid(), card).credential.value == "11223344"
    assert card.asked == ["FFCA000000", "FFCA000004"]


def test_61xx_is_fetched_with_get_response() -> None:
    card = Card([bytes.fromhex("6107"), bytes.fromhex("112233446103"), bytes.fromhex("5566779000")])
    assert run(uid(), card).credential.value == "11223344556677"
    assert card.asked == ["FFCA000000", "00C0000007", "00C0000003"]


@pytest.mark.parametrize(
    ("answer", "exchanges"), [("6C04", 2), ("6110", 1 + MAX_CHAINED), ("AA6110", 1 + MAX_CHAINED)]
)
def test_a_card_that_never_ends_is_given_up(answer: str, exchanges: int) -> None:
    card = Card(forever(bytes.fromhex(answer)))
    with pytest.raises(CardUnusable):
        run(uid(), card)
    assert len(card.asked) == exchanges


@pytest.mark.parametrize("raw", [b"", b"\x90", bytes(259), bytes(70_000)])
def test_an_answer_without_status_or_over_long_is_unusable(raw: bytes) -> None:
    with pytest.raises(CardUnusable):
        run(uid(), Card([raw]))


def test_a_profile_without_end_is_cut_off_and_closed() -> None:
    closed = []

    def endless() -> Profile:
        try:
            while True:
                yield Command(bytes(5))
        finally:
            closed.append(True)

    card = Card(forever(OK))
    with pytest.raises(CardUnusable, match="after 10 exchanges"):
        run(endless(), card, max_exchanges=10)
    assert len(card.asked) == 10
    assert closed


def test_the_last_granted_exchange_still_counts() -> None:
    def two() -> Profile:
        yield Command(bytes(5))
        yield Command(bytes(5))
        return Reading(Credential("uid", "", "11223344"), Assurance.UID)

    assert run(two(), Card(forever(OK)), max_exchanges=2).credential.value == "11223344"
    with pytest.raises(CardUnusable):
        run(two(), Card(forever(OK)), max_exchanges=1)


def test_the_transports_own_error_passes_and_closes_the_profile() -> None:
    profile = uid()

    def broken(apdu: bytes) -> bytes:
        raise ConnectionError("pulled")

    with pytest.raises(ConnectionError):
        run(profile, broken)
    with pytest.raises(StopIteration):
        next(profile)


def test_complete_keeps_other_statuses_for_its_caller() -> None:
    def profile() -> Profile:
        response = yield from complete(Command(bytes(4)))
        assert response == Response(b"\x01", 0x62, 0x82)
        raise CardUnusable("seen")

    with pytest.raises(CardUnusable, match="seen"):
        run(profile(), Card([bytes.fromhex("016282")]))


ANSWERS = st.one_of(
    st.binary(max_size=20),
    st.builds(lambda data, sw: data + sw, st.binary(max_size=12), st.just(OK)),
    st.builds(
        lambda data, sw1, sw2: data + bytes([sw1, sw2]),
        st.binary(max_size=12),
        st.sampled_from([0x61, 0x6C, 0x63, 0x90]),
        st.integers(0, 255),
    ),
)


@given(st.lists(ANSWERS, min_size=1, max_size=8))
def test_whatever_a_card_answers_there_are_three_outcomes(answers: list[bytes]) -> None:
    def cycling() -> Iterator[bytes]:
        while True:
            yield from answers

    card = Card(cycling())
    transmit: Callable[[bytes], bytes] = card
    try:
        reading = run(uid(), transmit)
    except (CardRefused, CardUnusable):
        pass
    else:
        assert len(reading.credential.value) in {8, 14, 16, 20}
        assert reading.assurance is Assurance.UID
    assert len(card.asked) <= 2 + MAX_CHAINED


def test_a_credential_shows_no_number_where_it_is_printed() -> None:
    reading = Reading(Credential("uid", "", "11223344"), Assurance.UID)
    assert "scheme='uid'" in repr(reading)
    assert "11223344" not in repr(reading)
