"""Debounce, held to a naive model and to the stories at the door."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from edge.taps import LONGEST_RUN_MS, Debounce
from protocol.credential import Credential

LI = Credential("uid", "", "11223344")
WANG = Credential("uid", "", "11223345")
KEY = b"k" * 32


def tap(debounce: Debounce, credential: Credential, at_ms: int) -> bool:
    """A tap whose record succeeds; whether it was new."""
    if debounce.repeats(credential, at_ms):
        return False
    debounce.recorded(credential, at_ms)
    return True


def test_the_same_card_within_the_window_is_one_tap_and_after_it_two() -> None:
    debounce = Debounce(KEY, window_ms=3000)
    assert tap(debounce, LI, 10_000)
    assert not tap(debounce, LI, 12_999)
    assert tap(debounce, LI, 12_999 + 3000)


def test_five_quick_taps_are_one() -> None:
    debounce = Debounce(KEY)
    assert [tap(debounce, LI, 10_000 + 900 * n) for n in range(5)] == [True] + [False] * 4


def test_a_card_left_for_a_minute_is_one_tap() -> None:
    debounce = Debounce(KEY)
    assert sum(tap(debounce, LI, 10_000 + 400 * n) for n in range(150)) == 1


def test_a_card_left_lying_for_an_hour_is_seen_by_the_next_meeting() -> None:
    debounce = Debounce(KEY)
    taps = sum(tap(debounce, LI, 10_000 + 1000 * n) for n in range(3600))
    assert taps == 3_600_000 // LONGEST_RUN_MS


def test_consecutive_meetings_get_a_tap_each() -> None:
    debounce = Debounce(KEY)
    debounce.recorded(LI, 10_000)
    assert debounce.repeats(LI, 11_000, opened_ms=10_000)
    assert debounce.repeats(LI, 11_500, opened_ms=-1_790_000)
    assert not debounce.repeats(LI, 12_000, opened_ms=11_900)
    debounce.recorded(LI, 12_000)
    assert debounce.repeats(LI, 12_500, opened_ms=11_900)


def test_what_has_not_opened_yet_ends_no_run() -> None:
    debounce = Debounce(KEY)
    debounce.recorded(LI, 10_000)
    assert debounce.repeats(LI, 11_000, opened_ms=11_001)


def test_two_cards_in_quick_succession_are_two_also_while_the_first_is_being_recorded() -> None:
    debounce = Debounce(KEY)
    assert not debounce.repeats(LI, 10_000)
    assert not debounce.repeats(WANG, 10_001)
    debounce.recorded(LI, 10_000)
    debounce.recorded(WANG, 10_001)
    assert debounce.repeats(LI, 10_002)
    assert debounce.repeats(WANG, 10_003)


def test_a_record_that_failed_does_not_make_the_next_try_a_repeat() -> None:
    debounce = Debounce(KEY)
    assert not debounce.repeats(LI, 10_000)  # and nothing is recorded
    assert not debounce.repeats(LI, 10_500)


def test_a_reading_slightly_older_than_the_last_repeats_it() -> None:
    debounce = Debounce(KEY)
    debounce.recorded(LI, 10_000)
    assert debounce.repeats(LI, 9_990)
    assert not debounce.repeats(LI, 7_000)


def test_scheme_and_issuer_count() -> None:
    debounce = Debounce(KEY)
    debounce.recorded(Credential("chip", "a", "b1"), 1)
    assert not debounce.repeats(Credential("chip", "ab", "1"), 1)
    assert not debounce.repeats(Credential("chi", "pa", "b1"), 1)


def test_memory_is_bounded_and_holds_no_number() -> None:
    debounce = Debounce(KEY, window_ms=60_000, max_remembered=100)
    for n in range(1000):
        debounce.recorded(Credential("uid", "", f"{0x11000000 + n:08X}"), 10_000 + n)
    assert len(debounce) == 100
    assert debounce.repeats(Credential("uid", "", f"{0x11000000 + 999:08X}"), 11_000)
    assert f"{0x11000000 + 999:08X}" not in repr(vars(debounce)).upper()


def test_what_is_over_is_forgotten() -> None:
    debounce = Debounce(KEY, window_ms=3000)
    debounce.recorded(LI, 10_000)
    debounce.recorded(WANG, 20_000)
    assert len(debounce) == 1


@dataclass
class Model:
    """The rule, word by word, over everything that ever happened."""

    window_ms: int
    recorded_at: dict[Credential, int] = field(default_factory=dict)
    seen_at: dict[Credential, int] = field(default_factory=dict)

    def repeats(self, card: Credential, at_ms: int) -> bool:
        if card not in self.recorded_at:
            return False
        if (
            at_ms - self.seen_at[card] >= self.window_ms
            or at_ms - self.recorded_at[card] >= LONGEST_RUN_MS
        ):
            return False
        self.seen_at[card] = at_ms
        return True

    def recorded(self, card: Credential, at_ms: int) -> None:
        self.recorded_at[card] = self.seen_at[card] = at_ms


CARDS = st.sampled_from([Credential("uid", "", f"A0B0C0{n:02X}") for n in range(5)])


@given(
    st.sampled_from([0, 1, 1000, 3000, 60_000]),
    st.lists(st.tuples(CARDS, st.integers(0, 9000), st.booleans()), max_size=60),
)
def test_it_is_the_naive_model(window_ms: int, story: list[tuple[Credential, int, bool]]) -> None:
    debounce, model, now_ms = Debounce(KEY, window_ms=window_ms), Model(window_ms), 5_000
    for card, later_ms, commits in story:
        now_ms += later_ms
        repeats = debounce.repeats(card, now_ms)
        assert repeats == model.repeats(card, now_ms)
        if not repeats and commits:
            debounce.recorded(card, now_ms)
            model.recorded(card, now_ms)
