"""Silence is only silence once the record is known to be complete."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.domain.completeness import (
    CLOCKS_APART_MS,
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
        # The same, and of what the device took back only a heartbeat tells.
        ([replace(FIRST, head=11), SECOND], SAYS, Obstacle.FORKED),
        (
            [replace(FIRST, through=9, through_digest=b"nine", head=11), SECOND],
            SAYS,
            Obstacle.FORKED,
        ),
        # Two copies of one card went on.
        ([FIRST, SECOND, replace(SECOND, epoch=b"3")], SAYS, Obstacle.FORKED),
        # A journal begun anew says nothing of the old one's tail.
        ([FIRST, Epoch(b"2", None, 5, b"five")], SAYS, Obstacle.FORKED),
        ([FIRST, SECOND], replace(SAYS, at_ms=None), Obstacle.UNDATED),
        # Nobody can have stated at 1000 + an hour what came in at 1001.
        ([FIRST, SECOND], replace(SAYS, at_ms=1000 + 3_600_000), Obstacle.AHEAD),
        ([FIRST, SECOND], replace(SAYS, at_ms=1001 + CLOCKS_APART_MS + 1), Obstacle.AHEAD),
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


def test_clocks_may_be_a_little_apart() -> None:
    says = replace(SAYS, at_ms=1001 + CLOCKS_APART_MS)
    assert completeness([FIRST, SECOND], [says]).obstacle is None


@pytest.mark.parametrize(
    "newcomer",
    [
        # A new card, and the journal begun anew.
        Epoch(b"new", None, 1, b"one", opened_ms=500),
        # A copy of the card as it was after the first epoch, and what came after the copy.
        Epoch(b"new", Parent(b"1", 10, b"ten"), 1, b"one", opened_ms=500),
    ],
)
@pytest.mark.parametrize("opened", [499, 500, 501, None])
def test_another_history_takes_nothing_back_from_before_it_was_opened(
    newcomer: Epoch, opened: int | None
) -> None:
    newcomer = replace(newcomer, opened_ms=opened)
    later = Epoch(b"later", Parent(b"new", 1, b"one"), 0, None)
    says = [replace(SAYS, at_ms=500), Statement(b"new", 1, b"one", 600, 1601)]
    found = completeness([FIRST, SECOND, newcomer, later], [*says, replace(SAYS, at_ms=700)])
    assert found.through_ms == (500 if opened == 501 else None)
    assert completeness([FIRST, SECOND, newcomer, later], says).obstacle is Obstacle.FORKED


def test_what_an_epoch_states_after_another_went_on_from_its_middle_does_not_count() -> None:
    copy = Epoch(b"copy", Parent(b"1", 8, b"eight"), 3, b"three", opened_ms=500)
    early, late = (Statement(b"1", 10, b"ten", at, 1001) for at in (499, 500))
    assert completeness([FIRST, copy], [early, late]).through_ms == 499
    assert completeness([FIRST, replace(copy, opened_ms=None)], [early]).through_ms is None


def test_an_epoch_that_speaks_on_beside_the_next_one_is_another_copy() -> None:
    following = replace(SECOND, through=0, through_digest=None, head=1, opened_ms=500)
    early, late = (Statement(b"1", 10, b"ten", at, 1001) for at in (499, 500))
    assert completeness([FIRST, following], [early, late]).through_ms == 499
    # That a boot cannot tell when it began takes nothing back.
    undated = replace(following, opened_ms=None)
    assert completeness([FIRST, undated], [early, late]).through_ms == 500


def test_a_thousand_journals_begun_anew_are_judged_at_once() -> None:
    epochs = [Epoch(number.to_bytes(2), None, 1, b"x", opened_ms=number) for number in range(5000)]
    says = Statement(epochs[0].epoch, 1, b"x", 0, 1)
    assert completeness(epochs, [says]).through_ms == 0


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
    assert completeness([FIRST, SECOND, replace(third, opened_ms=1001)], [SAYS]).through_ms == 1000
    # One that began before may belong anywhere.
    found = completeness([FIRST, SECOND, replace(third, opened_ms=1000)], [SAYS])
    assert (found.through_ms, found.obstacle) == (None, Obstacle.MISSING_EARLIER)


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


@dataclass
class Copy:
    """One card: where its journal stands."""

    epoch: int
    seq: int


EVENTS = st.sampled_from("tap tap say say say restart copy roll-back empty".split())  # noqa: SIM905


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_nothing_that_the_hub_has_heard_of_is_missing_from_what_is_called_complete(
    data: st.DataObject,
) -> None:
    """Cards are copied, rolled back, emptied, and go on beside each other."""
    copies: list[Copy] = []
    opened: list[tuple[int, Parent | None]] = []
    written: list[list[int]] = []  # of each epoch, when each of its entries was
    said: list[Statement] = []

    def digest(epoch: int, seq: int) -> bytes:
        return bytes([epoch, seq])

    def open_on(at: int, before: Copy | None) -> Copy:
        parent = before and Parent(
            bytes([before.epoch]), before.seq, digest(before.epoch, before.seq)
        )
        opened.append((at, parent))
        written.append([])
        copies.append(Copy(len(opened) - 1, 0))
        return copies[-1]

    open_on(0, None)
    for at in range(1, data.draw(st.integers(1, 30))):
        copy = data.draw(st.sampled_from(copies))
        match data.draw(EVENTS):
            case "tap" if copy.seq == len(written[copy.epoch]):
                written[copy.epoch].append(at)
                copy.seq += 1
            case "say":
                head = digest(copy.epoch, copy.seq)
                said.append(Statement(bytes([copy.epoch]), copy.seq, head, at, at))
            case "restart":
                copies.remove(copy)
                open_on(at, copy)
            case "copy":
                open_on(at, copy)
            case "roll-back" if copy.seq:
                copies.remove(copy)
                open_on(at, Copy(copy.epoch, data.draw(st.integers(0, copy.seq - 1))))
            case "empty":
                copies.remove(copy)
                open_on(at, None)
    heard = data.draw(st.lists(st.sampled_from(said), unique=True)) if said else []
    epochs = []
    for number, (at, parent) in enumerate(opened):
        all_of_it = len(written[number])
        left = [
            each.seq for _, each in opened if each is not None and each.epoch == bytes([number])
        ]
        held = data.draw(st.sampled_from([all_of_it, *left, 0, all_of_it // 2]))
        head = max((each.head_seq for each in heard if each.epoch == bytes([number])), default=0)
        if held or head or data.draw(st.booleans()):
            last = digest(number, held) if held else None
            epochs.append(Epoch(bytes([number]), parent, held, last, head, at))
    found = completeness(epochs, heard)
    assert found == completeness(
        data.draw(st.permutations(epochs)), data.draw(st.permutations(heard * 2))
    )
    if found.through_ms is None:
        return
    for each in epochs:
        known = written[each.epoch[0]][: max(each.head, each.through)]
        missing = known[each.through :]
        assert not [at for at in missing if at <= found.through_ms]
        # And nobody else wrote meanwhile, of whom the hub may not have heard everything.
        if each.opened_ms is not None and each.opened_ms <= found.through_ms:
            assert len({other.parent for other in epochs if other.parent == each.parent}) == 1
