"""What was stated and what was tapped, put together: the rules, and that no order matters."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.domain.attendance import CheckIn, Meeting, TapKey
from hub.domain.declared import (
    ActionTaken,
    AssignedTap,
    Attendance,
    Declaration,
    conclude,
    fold,
    standing,
)
from hub.domain.terms import DeclarationKind as K
from hub.domain.terms import Verdict
from protocol.journal import Act
from tests.hub.world import minutes

LI, WANG, GUEST = 1, 2, 9
MEETING = Meeting(100, 7, minutes(-30), minutes(0), minutes(60), 0, frozenset({LI, WANG}))
SHEET = Declaration(1, K.SHEET, 10, LI)
WITNESSED = Declaration(2, K.WITNESSED, 11, LI)
ASKED = Declaration(3, K.BACK_FILL_ASKED, 12, LI)
GRANTED = Declaration(4, K.BACK_FILL_GRANTED, 13, LI, about_id=3)
LEAVE = Declaration(5, K.LEAVE_ASKED, 1, LI)
LET = Declaration(6, K.LEAVE_GRANTED, 2, LI, about_id=5)


def verdicts(*said: Declaration, taps: dict[int, float] | None = None) -> dict[int, Verdict]:
    check_ins = {
        member: CheckIn(
            100,
            member,
            Verdict.LATE if at > 0 else Verdict.PRESENT,
            minutes(at),
            TapKey(1, member),
            1,
        )
        for member, at in (taps or {}).items()
    }
    found = conclude(MEETING, check_ins, fold(said), {})
    return {member: each.verdict for member, each in found.items()}


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ((), None),
        ((LEAVE,), None),
        ((ASKED,), None),
        ((LEAVE, LET), Verdict.EXCUSED),
        ((ASKED, GRANTED), Verdict.BACK_FILLED),
        ((WITNESSED, ASKED, GRANTED, LEAVE, LET), Verdict.WITNESSED),
        ((SHEET, WITNESSED, ASKED, GRANTED, LEAVE, LET), Verdict.PRESENT),
        ((ASKED, GRANTED, LEAVE, LET), Verdict.BACK_FILLED),
        # The last answer holds.
        ((LEAVE, LET, Declaration(7, K.LEAVE_REFUSED, 3, LI, about_id=5)), None),
        ((LEAVE, LET, Declaration(7, K.LEAVE_REFUSED, 1, LI, about_id=5)), Verdict.EXCUSED),
        # What was withdrawn counts for nothing, nor does an answer to it.
        ((WITNESSED, Declaration(7, K.WITHDRAWN, 12, about_id=2)), None),
        ((LEAVE, LET, Declaration(7, K.WITHDRAWN, 3, about_id=5)), None),
        ((LEAVE, LET, Declaration(7, K.WITHDRAWN, 3, about_id=6)), None),
        ((ASKED, GRANTED, SHEET, Declaration(7, K.WITHDRAWN, 14, about_id=1)), Verdict.BACK_FILLED),
        # An answer to nothing is none.
        ((GRANTED,), Verdict.BACK_FILLED),
    ],
)
def test_what_is_stated_of_a_member(said: tuple[Declaration, ...], verdict: Verdict | None) -> None:
    assert verdicts(*said).get(LI) == verdict


def test_a_tap_is_outweighed_by_nothing() -> None:
    everything = (SHEET, WITNESSED, ASKED, GRANTED, LEAVE, LET)
    assert verdicts(*everything, taps={LI: -5})[LI] is Verdict.PRESENT
    assert verdicts(*everything, taps={LI: 5})[LI] is Verdict.LATE


def test_who_is_not_expected_is_a_guest_and_cannot_be_excused() -> None:
    for each, verdict in (
        (SHEET, Verdict.GUEST),
        (WITNESSED, Verdict.GUEST),
        (GRANTED, None),
        (LET, None),
    ):
        assert verdicts(replace(each, member_id=GUEST)).get(GUEST) == verdict


@pytest.mark.parametrize(
    ("said", "held"),
    [
        ([], None),
        ([(K.HELD, 1)], True),
        ([(K.HELD, 1), (K.NOT_HELD, 2)], False),
        ([(K.NOT_HELD, 2), (K.HELD, 3)], True),
    ],
)
def test_whether_it_was_held(said: list[tuple[K, int]], held: bool | None) -> None:
    assert fold([Declaration(n, kind, at) for n, (kind, at) in enumerate(said)]).held is held


def act(what: Act, at: int, *, speaks: bool = True, **more: int) -> ActionTaken:
    return ActionTaken(TapKey(3, at), what, at, speaks, **more)


def test_an_act_counts_if_its_card_may_speak() -> None:
    acts = [act(Act.WITNESSED, 5, about_member_id=LI), act(Act.HEAD_COUNT, 6, number=12)]
    said = fold([], [*acts, act(Act.OPENED, 4)])
    assert (said.held, said.head_count) == (True, 12)
    found = conclude(MEETING, {}, said, {})[LI]
    assert found == Attendance(100, LI, Verdict.WITNESSED, 5, TapKey(3, 5), None, 0)
    silent = fold([], [replace(each, speaks=False) for each in (*acts, act(Act.OPENED, 4))])
    assert silent == fold([])


def test_the_later_of_page_and_reader_says_the_head_count() -> None:
    page = Declaration(1, K.HEAD_COUNT, 10, number=20)
    assert fold([page], [act(Act.HEAD_COUNT, 9, number=7)]).head_count == 20
    assert fold([page], [act(Act.HEAD_COUNT, 11, number=7)]).head_count == 7


def test_an_assigned_tap_shows_its_member_and_an_undated_one_makes_nobody_late() -> None:
    key = TapKey(4, 4)
    said = fold([Declaration(8, K.TAP_ASSIGNED, 20, key=key)])
    late = conclude(MEETING, {}, said, {key: AssignedTap(LI, minutes(5))})
    assert (late[LI].verdict, late[LI].key, late[LI].declaration_id) == (Verdict.LATE, key, 8)
    undated = conclude(MEETING, {}, said, {key: AssignedTap(LI, None)})
    assert (undated[LI].verdict, undated[LI].at_ms) == (Verdict.PRESENT, None)
    assert conclude(MEETING, {}, said, {key: AssignedTap(GUEST, None)})[GUEST].verdict is (
        Verdict.GUEST
    )
    assert conclude(MEETING, {}, said, {}) == {}


def test_the_earliest_tap_decides_assigned_or_not() -> None:
    early, late = TapKey(9, 1), TapKey(1, 1)
    said = fold(
        [
            Declaration(8, K.TAP_ASSIGNED, 20, key=early),
            Declaration(9, K.TAP_ASSIGNED, 21, key=late),
        ]
    )
    assigned = {early: AssignedTap(LI, minutes(-40)), late: AssignedTap(LI, minutes(70))}
    found = conclude(MEETING, {}, said, assigned)[LI]
    assert (found.verdict, found.key, found.declaration_id, found.taps) == (
        Verdict.PRESENT,
        early,
        8,
        2,
    )
    check_in = CheckIn(100, LI, Verdict.LATE, minutes(50), TapKey(5, 5), 1)
    found = conclude(MEETING, {LI: check_in}, said, assigned)[LI]
    assert (found.verdict, found.key, found.taps) == (Verdict.PRESENT, early, 3)
    # One that counts by itself is counted once.
    twice = {early: AssignedTap(LI, minutes(50), counts=True)}
    found = conclude(MEETING, {LI: check_in}, said, twice)[LI]
    assert (found.key, found.declaration_id, found.taps) == (TapKey(5, 5), None, 1)


def test_a_sheet_that_nobody_signed_says_nothing() -> None:
    complete = Declaration(7, K.SHEET_COMPLETE, 30)
    assert fold([SHEET, complete]).sheet_complete
    assert not fold([complete]).sheet_complete
    assert not fold([SHEET, complete, Declaration(8, K.WITHDRAWN, 31, about_id=1)]).sheet_complete


declarations = st.lists(
    st.builds(
        Declaration,
        st.integers(1, 12),
        st.sampled_from(K),
        st.integers(0, 5),
        st.sampled_from([None, LI, WANG, GUEST]),
        st.none() | st.integers(1, 12),
        st.none() | st.integers(0, 50),
        st.none() | st.builds(TapKey, st.integers(1, 2), st.integers(1, 3)),
    ),
    max_size=10,
    unique_by=lambda each: each.id,
)
acts = st.lists(
    st.builds(
        ActionTaken,
        st.builds(TapKey, st.integers(5, 6), st.integers(1, 5)),
        st.sampled_from(Act),
        st.integers(0, 5),
        st.booleans(),
        st.none() | st.integers(0, 50),
        st.sampled_from([None, LI, WANG, GUEST]),
    ),
    max_size=5,
    unique_by=lambda each: each.key,
)


@given(declarations, acts, st.data())
def test_neither_order_nor_repetition_matters(
    said: list[Declaration], done: list[ActionTaken], data: st.DataObject
) -> None:
    again = data.draw(st.lists(st.sampled_from(said))) if said else []
    assert fold(data.draw(st.permutations(said + again)), data.draw(st.permutations(done))) == fold(
        said, done
    )


@given(declarations)
def test_withdrawing_everything_leaves_nothing(said: list[Declaration]) -> None:
    gone = [
        Declaration(100 + each.id, K.WITHDRAWN, 9, about_id=each.id)
        for each in said
        if each.kind is not K.WITHDRAWN
    ]
    assert standing([*said, *gone]) == []
    assert fold([*said, *gone]) == fold([])


@given(declarations, acts)
def test_nobody_is_said_to_be_absent(said: list[Declaration], done: list[ActionTaken]) -> None:
    found = conclude(MEETING, {}, fold(said, done), {TapKey(1, 1): AssignedTap(WANG, None)})
    for each in found.values():
        assert each.verdict not in {Verdict.NOT_SEEN, Verdict.PENDING}
        assert (each.key or each.declaration_id) is not None
        assert (each.verdict is Verdict.GUEST) == (each.member_id not in MEETING.expected)
