"""Silence is only silence once the record is known to be complete."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.domain.completeness import (
    Completeness,
    Epoch,
    Hole,
    Obstacle,
    Parent,
    Statement,
    completeness,
)

FIRST = Epoch(b"1", None, 10, b"ten")
SECOND = Epoch(b"2", Parent(b"1", 10, b"ten"), 5, b"five")
SAYS = Statement(b"2", 5, b"five", 1000, 1001)


def test_a_statement_counts_when_everything_before_it_is_held() -> None:
    assert completeness([FIRST, SECOND], [SAYS]) == Completeness(1000, None, 1001)


@pytest.mark.parametrize(
    ("epochs", "statement", "obstacle"),
    [
        ([FIRST, replace(SECOND, through=4, through_digest=b"four")], SAYS, Obstacle.MISSING),
        ([FIRST], SAYS, Obstacle.MISSING),
        ([SECOND], SAYS, Obstacle.MISSING_EARLIER),
        (
            [replace(FIRST, through=9, through_digest=b"nine"), SECOND],
            SAYS,
            Obstacle.MISSING_EARLIER,
        ),
        # The card was rolled back: the hub knows more of the first epoch than the device does.
        ([replace(FIRST, through=11, through_digest=b"eleven"), SECOND], SAYS, Obstacle.FORKED),
        ([replace(FIRST, through_digest=b"other"), SECOND], SAYS, Obstacle.FORKED),
        ([FIRST, replace(SECOND, through_digest=b"other")], SAYS, Obstacle.FORKED),
        # Two copies of one card went on.
        ([FIRST, SECOND, replace(SECOND, epoch=b"3")], SAYS, Obstacle.FORKED),
        # A journal begun anew says nothing of the old one's tail.
        ([FIRST, Epoch(b"2", None, 5, b"five")], SAYS, Obstacle.FORKED),
        ([FIRST, SECOND], replace(SAYS, at_ms=None), Obstacle.UNDATED),
        # A line that never reaches a first epoch, whatever is said there.
        (
            [Epoch(b"1", Parent(b"2", 5, b"five"), 10, b"ten"), SECOND],
            SAYS,
            Obstacle.MISSING_EARLIER,
        ),
    ],
)
def test_why_a_statement_does_not_count(
    epochs: list[Epoch], statement: Statement, obstacle: Obstacle
) -> None:
    assert completeness(epochs, [statement]) == Completeness(None, obstacle, 1001)


def test_a_device_that_never_spoke_is_silent() -> None:
    assert completeness([FIRST], []) == Completeness(None, Obstacle.SILENT, None)


def test_an_empty_journal_is_complete_too() -> None:
    says = Statement(b"1", 0, b"zero", 1000, 1001)
    assert completeness([Epoch(b"1", None, 0, None)], [says]).through_ms == 1000


def test_the_latest_statement_that_counts_is_kept_beside_why_a_newer_one_does_not() -> None:
    newer = Statement(b"2", 6, b"six", 2000, 2001)
    assert completeness([FIRST, SECOND], [newer, SAYS]) == Completeness(
        1000, Obstacle.MISSING, 2001
    )


def test_a_later_epoch_on_its_way_does_not_take_back_what_was_stated() -> None:
    third = Epoch(b"4", Parent(b"3", 1, b"?"), 1, b"x")
    assert completeness([FIRST, SECOND, third], [SAYS]).through_ms == 1000


@pytest.mark.parametrize(
    ("hole", "covers"),
    [
        (Hole(None, None), False),
        (Hole(None, 99), True),
        (Hole(None, 100), False),
        (Hole(200, None), False),
        (Hole(201, None), True),
        (Hole(120, 130), False),
    ],
)
def test_a_hole_in_the_window_leaves_it_uncovered(hole: Hole, covers: bool) -> None:
    assert completeness([FIRST, SECOND], [SAYS], [hole]).covers(100, 200) is covers


def test_complete_through_the_end_is_not_past_the_end() -> None:
    assert not Completeness(200, None, 1).covers(100, 200)
    assert Completeness(201, None, 1).covers(100, 200)


chains = st.lists(st.integers(1, 20), min_size=1, max_size=5).map(
    lambda heads: [
        Epoch(
            bytes([number]),
            Parent(bytes([number - 1]), heads[number - 1], bytes([heads[number - 1]]))
            if number
            else None,
            head,
            bytes([head]),
        )
        for number, head in enumerate(heads)
    ]
)


@given(chains, st.data())
def test_the_answer_never_depends_on_order_and_only_grows_with_what_arrives(
    whole: list[Epoch], data: st.DataObject
) -> None:
    statements = [
        Statement(each.epoch, each.through, bytes([each.through]), 100 * number, 100 * number)
        for number, each in enumerate(whole)
    ]
    assert completeness(whole, statements).through_ms == 100 * (len(whole) - 1)
    part = [
        replace(each, through=held, through_digest=bytes([held]) if held else None)
        for each in whole
        if (held := data.draw(st.integers(0, each.through))) or data.draw(st.booleans())
    ]
    found = completeness(part, statements)
    assert found == completeness(
        data.draw(st.permutations(part)), data.draw(st.permutations(statements * 2))
    )
    complete = 0
    for held, each in zip(part, whole, strict=False):
        if held != each:
            break
        complete += 1
    assert found.through_ms == (100 * (complete - 1) if complete else None)
