"""Everything gets across, once, and nothing is let go of early: see `hostile.py` for how."""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from protocol.batch import MAX_HELD_EPOCHS, MAX_ITEMS, MAX_RANGES, HubState, Range, Receipt
from protocol.delivery import (
    COALESCE_MS,
    MAX_RESEND_MS,
    MAX_REST_MS,
    RESEND_MS,
    WINDOW,
    Accepted,
    DigestOf,
    Island,
    Mark,
    NewGeneration,
    Outcome,
    Refusal,
    Refused,
    Released,
    Send,
    Sender,
    accept,
)
from protocol.errors import LocalError, Reason, RemoteError
from protocol.journal import Gap, Link, chain_next, chain_start, link
from tests.protocol.hostile import EDGE, OTHER_EDGE, Broken, Faults, World

# --- the two ends over a hostile network ----------------------------------------------------------


@settings(max_examples=400)
@given(st.integers(0, 1 << 32))
@example(162)
@example(348)
def test_everything_arrives_once_and_nothing_is_let_go_of_early(seed: int) -> None:
    World(seed).live(20_000)


def test_the_story_has_every_fault_in_it() -> None:
    tally: dict[str, int] = {}
    for seed in range(150):
        world = World(seed)
        world.live(20_000)
        for what, times in world.tally.items():
            tally[what] = tally.get(what, 0) + times
    wanted = {
        "backup",
        "disconnected",
        "edge crash",
        "hub crash",
        "hub crash before commit",
        "hub crash between commit and receipt",
        "hub restored",
        "new generation",
        "nobody listens",
        "pruned",
        "receipt refused",
        "unreadable entry",
    }
    assert {what for what in wanted if tally.get(what, 0) < 5} == set()


# Bugs that were planted to see whether the story above notices. Each must break it soon.


class FreesWhenSent(Sender):
    def sent(self, send: Send, last: int) -> int:
        ticket = super().sent(send, last)
        lane = self._lanes[send.epoch]
        lane.have = [(lane.first, last)]
        return ticket


class NeverResends(Sender):
    def _resend_at(self) -> int | None:
        return None


class TakesAnyReceipt(Sender):
    def _refusal(self, receipt: Receipt, _digest_of: DigestOf) -> Refusal | None:
        return None if receipt.epoch in self._lanes else Refusal.UNKNOWN_EPOCH


class KeepsReceiptsOfAnOlderGeneration(Sender):
    def _generation(self, generation: int, _now: int) -> list[Outcome]:
        self.generation = max(generation, self.generation)
        return []


class FreesTheIslandsHole(Sender):
    def receipt(self, receipt: Receipt, digest_of: DigestOf, now: int) -> list[Outcome]:
        if receipt.have:
            last = receipt.have[-1]
            receipt = replace(receipt, through=last.last, digest=last.digest, have=())
        return super().receipt(receipt, digest_of, now)


def highest_seq_as_through(mark: Mark, previous: bytes, links: Sequence[Link]) -> Accepted:
    accepted = accept(mark, previous, links)
    if links[-1].last <= mark.through:
        return accepted
    return replace(accepted, mark=Mark(links[-1].last, links[-1].digest))


def forgets_islands(mark: Mark, previous: bytes, links: Sequence[Link]) -> Accepted:
    accepted = accept(mark, previous, links)
    return replace(accepted, mark=replace(accepted.mark, islands=()))


def takes_again_what_it_has(mark: Mark, previous: bytes, links: Sequence[Link]) -> Accepted:
    return replace(accept(mark, previous, links), fresh=tuple(links))


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(lambda seed: World(seed, FreesWhenSent), id="free on sent"),
        pytest.param(lambda seed: World(seed, NeverResends), id="no resend timer"),
        pytest.param(lambda seed: World(seed, TakesAnyReceipt), id="receipt unchecked"),
        pytest.param(
            lambda seed: World(seed, KeepsReceiptsOfAnOlderGeneration), id="generation ignored"
        ),
        pytest.param(lambda seed: World(seed, FreesTheIslandsHole), id="hole freed"),
        pytest.param(lambda seed: World(seed, accept=highest_seq_as_through), id="max(seq)"),
        pytest.param(lambda seed: World(seed, accept=forgets_islands), id="islands forgotten"),
        pytest.param(lambda seed: World(seed, accept=takes_again_what_it_has), id="doubled"),
        pytest.param(lambda seed: World(seed, key_by_epoch=False), id="epoch ignored"),
        pytest.param(
            lambda seed: World(seed, receipt_before_commit=True), id="receipt before commit"
        ),
    ],
)
def test_a_planted_bug_is_noticed(world: Callable[[int], World]) -> None:
    for seed in range(50):
        try:
            world(seed).live(20_000)
        except (Broken, LocalError, KeyError):
            return
    pytest.fail("50 seeds went by and nothing was noticed")


def test_a_backlog_drains_in_few_batches_and_short_time() -> None:
    world = World(1)
    for _ in range(5_000):
        world.append()
    world.rng.choice = lambda options: options[-1]  # type: ignore[method-assign]
    world.connect()
    world.run(world.now + 2_000)
    world.check_converged()
    assert world.tally["batch"] <= 12


@given(st.integers(0, 1 << 32))
@settings(max_examples=50)
def test_forged_receipts_free_nothing(seed: int) -> None:
    world = World(seed)
    for _ in range(5):
        world.append()
    world.faults = Faults(loss=1.0)
    world.connect()
    world.run(world.now + 100)
    assert world.sender is not None
    before = (world.sender.held(), world.sender.unreceipted(), world.sender.generation)
    for receipt in world.forged(world.epoch.id):
        outcomes = world.sender.receipt(receipt, world.disk.digest_of, world.now)
        assert [type(each) for each in outcomes] == [Refused]
        after = (world.sender.held(), world.sender.unreceipted(), world.sender.generation)
        assert after == before, receipt
    world.recover()


# --- the Sender, step by step ---------------------------------------------------------------------

EPOCH = b"a" * 16
LATER = b"b" * 16
MIDDLE = b"m" * 16


def digest(seq: int, epoch: bytes = EPOCH) -> bytes:
    return epoch + seq.to_bytes(16)


def digest_of(epoch: bytes, seq: int) -> bytes | None:
    return digest(seq, epoch)


def receipt_for(
    through: int, *have: tuple[int, int], epoch: bytes = EPOCH, generation: int = 7
) -> Receipt:
    ranges = tuple(Range(first, last, digest(last, epoch)) for first, last in have)
    return Receipt(EDGE, generation, epoch, through, digest(through, epoch), ranges)


def sender_with(head: int, first: int = 1, released: int = 0) -> Sender:
    sender = Sender(EDGE, 7, random.Random(0))
    sender.hold(EPOCH, first, head, released)
    return sender


def drain(sender: Sender, now: int) -> list[Send]:
    sends = []
    while (send := sender.next(now)) is not None:
        sender.carried(sender.sent(send, send.last), now)
        sends.append(send)
    return sends


def test_nothing_is_sent_before_there_is_a_connection() -> None:
    sender = sender_with(3)
    assert sender.next(0) is None
    assert sender.wake_at(0) is None
    sender.connected(0)
    assert sender.next(0) == Send(EPOCH, 1, 3)
    sender.disconnected()
    assert sender.next(0) is None


def test_an_idle_sender_sends_at_once_and_a_busy_one_gathers() -> None:
    sender = sender_with(0)
    sender.connected(0)
    sender.appended(EPOCH, 1, 10)
    assert drain(sender, 10) == [Send(EPOCH, 1, 1)]
    sender.appended(EPOCH, 2, 20)
    sender.appended(EPOCH, 3, 60)
    assert sender.next(20 + COALESCE_MS - 1) is None
    assert sender.wake_at(20 + COALESCE_MS - 1) == 20 + COALESCE_MS
    assert drain(sender, 20 + COALESCE_MS) == [Send(EPOCH, 2, 3)]


def test_a_full_batch_does_not_wait_and_the_window_bounds_what_is_on_its_way() -> None:
    sender = sender_with(MAX_ITEMS * (WINDOW + 2))
    sender.connected(0)
    sends = drain(sender, 0)
    assert [(each.first, each.last) for each in sends] == [
        (at * MAX_ITEMS + 1, (at + 1) * MAX_ITEMS) for at in range(WINDOW)
    ]
    sender.receipt(receipt_for(MAX_ITEMS), digest_of, 1)
    assert [each.first for each in drain(sender, 1)] == [WINDOW * MAX_ITEMS + 1]


def test_a_batch_may_end_before_what_was_asked_for() -> None:
    sender = sender_with(10)
    sender.connected(0)
    send = sender.next(0)
    assert send == Send(EPOCH, 1, 10)
    sender.carried(sender.sent(send, 4), 0)
    assert sender.next(COALESCE_MS) == Send(EPOCH, 5, 10)
    with pytest.raises(LocalError):
        sender.sent(Send(EPOCH, 5, 10), 11)


def test_holes_alone_are_sent_again() -> None:
    sender = sender_with(20)
    sender.connected(0)
    drain(sender, 0)
    outcomes = sender.receipt(receipt_for(3, (6, 9), (15, 20)), digest_of, 5)
    assert outcomes == [Released(EPOCH, 3)]
    assert sender.held() == [(EPOCH, 4, 20)]
    assert sender.unreceipted() == 7
    sender.connected(10)
    assert drain(sender, 10 + COALESCE_MS) == [Send(EPOCH, 4, 5), Send(EPOCH, 10, 14)]
    assert sender.receipt(receipt_for(20), digest_of, 20) == [Released(EPOCH, 20)]
    assert sender.held() == []
    assert sender.wake_at(20) is None


def test_a_receipt_beyond_a_hole_releases_nothing_yet() -> None:
    sender = sender_with(5)
    assert sender.receipt(receipt_for(0, (2, 5)), digest_of, 0) == []
    assert sender.released(EPOCH) == 0
    assert sender.receipt(receipt_for(1), digest_of, 0) == [Released(EPOCH, 5)]


def test_an_old_receipt_takes_nothing_back() -> None:
    sender = sender_with(5)
    sender.receipt(receipt_for(5), digest_of, 0)
    assert sender.receipt(receipt_for(2), digest_of, 0) == []
    assert sender.released(EPOCH) == 5


def test_below_what_is_held_there_is_nothing_to_compare() -> None:
    sender = sender_with(20, first=11, released=10)
    outcomes = sender.receipt(receipt_for(4, (6, 8), (15, 16)), digest_of, 0)
    assert outcomes == []
    assert sender.held() == [(EPOCH, 11, 20)]
    assert sender.unreceipted() == 8


def test_a_hub_that_lacks_what_was_pruned_still_frees_the_rest() -> None:
    sender = sender_with(20, first=11, released=10)
    assert sender.receipt(receipt_for(0, (11, 20)), digest_of, 0) == [Released(EPOCH, 20)]


@pytest.mark.parametrize("first", [2, 4, 6])
def test_pruning_moves_what_is_held(first: int) -> None:
    sender = sender_with(8, released=5)
    sender.pruned(EPOCH, first)
    assert sender.released(EPOCH) == 5
    assert sender.held() == [(EPOCH, 6, 8)]
    assert sender.unreceipted() == 3


def test_what_the_journal_pruned_is_gone_whatever_was_thought_released() -> None:
    """It was pruned by receipts of a generation that has ended meanwhile."""
    sender = sender_with(8, released=5)
    sender.connected(0)
    sender.hub_state(HubState(8, 1, online=True), 5)
    sender.pruned(EPOCH, 5)
    assert sender.held() == [(EPOCH, 5, 8)]
    assert drain(sender, 5) == [Send(EPOCH, 5, 8)]


def test_an_older_epoch_that_is_pruned_whole_is_forgotten_and_the_current_one_is_not() -> None:
    sender = sender_with(3, released=3)
    sender.hold(LATER, 1, 2, 2)
    sender.pruned(EPOCH, 4)
    sender.pruned(LATER, 3)
    [refused] = sender.receipt(receipt_for(3), digest_of, 0)
    assert refused == Refused(Refusal.UNKNOWN_EPOCH, EPOCH, 3)
    sender.appended(LATER, 3, 0)
    assert sender.held() == [(LATER, 3, 3)]


def test_what_was_partly_pruned_while_on_its_way_counts_as_arrived() -> None:
    sender = sender_with(10)
    sender.connected(0)
    drain(sender, 0)
    sender.receipt(receipt_for(5), digest_of, 10)
    sender.pruned(EPOCH, 6)
    sender.receipt(receipt_for(10), digest_of, 20)
    assert sender.wake_at(20) is None
    sender.appended(EPOCH, 11, 30)
    assert drain(sender, 30) == [Send(EPOCH, 11, 11)]


def test_a_receipt_for_all_that_was_to_be_sent_leaves_nothing_to_wake_for() -> None:
    sender = sender_with(MAX_ITEMS)
    sender.connected(0)
    drain(sender, 0)
    sender.appended(EPOCH, MAX_ITEMS + 1, 10)
    # of an earlier connection, when both were sent and only this receipt came through
    sender.receipt(receipt_for(0, (MAX_ITEMS + 1, MAX_ITEMS + 1)), digest_of, 20)
    assert sender.next(500) is None
    wake = sender.wake_at(500)
    assert wake is not None
    assert wake >= RESEND_MS


def test_a_lost_batch_comes_again_although_later_ones_arrive() -> None:
    sender = sender_with(1)
    sender.connected(0)
    assert drain(sender, 0) == [Send(EPOCH, 1, 1)]  # and the broker loses it
    resent = []
    for seq in range(2, 40):
        now = seq * 100
        sender.appended(EPOCH, seq, now)
        resent += [each for each in drain(sender, now) if each.first == 1]
        if resent:
            break
        sender.receipt(receipt_for(0, (2, seq)), digest_of, now + 10)
    assert resent, "taps that kept coming kept the lost one from being sent again"
    assert now <= RESEND_MS + 200


def test_old_entries_that_the_hub_never_receipts_do_not_hold_up_live_taps() -> None:
    sender = sender_with(MAX_ITEMS * WINDOW * 3)
    sender.hold(LATER, 1, 0, 0)
    sender.connected(0)
    drain(sender, 0)
    waits = []
    for seq in range(1, 200):
        now = seq * 1_000
        sender.appended(LATER, seq, now)
        sent = [each for at in range(now, now + 1_000, 10) for each in drain(sender, at)]
        live = [each.last for each in sent if each.epoch == LATER]
        if live:
            sender.receipt(receipt_for(max(live), epoch=LATER), digest_of, now + 999)
        waits.append(sender.unreceipted() - MAX_ITEMS * WINDOW * 3)
    assert max(waits) <= 1


def test_an_epoch_that_never_gets_a_receipt_starves_no_other_and_costs_little() -> None:
    """The oldest never does; one in the middle and the newest do."""
    sender = sender_with(MAX_ITEMS * WINDOW * 3)
    sender.hold(MIDDLE, 1, MAX_ITEMS * 20, 0)
    sender.hold(LATER, 1, 0, 0)
    sender.connected(0)
    now, day, hopeless, middle_done = 0, 24 * 3600 * 1000, 0, None
    while now < day:
        for each in drain(sender, now):
            if each.epoch == EPOCH:
                hopeless += 1
            elif each.epoch == MIDDLE:
                sender.receipt(receipt_for(each.last, epoch=MIDDLE), digest_of, now + 5)
        if middle_done is None and sender.released(MIDDLE) == MAX_ITEMS * 20:
            middle_done = now
        wake = sender.wake_at(now)
        assert wake is not None
        assert wake > now
        now = wake
    assert middle_done is not None
    assert middle_done < 60_000
    assert hopeless < 300


def test_a_hub_that_comes_back_is_offered_resting_epochs_at_once() -> None:
    sender = sender_with(10)
    sender.hold(LATER, 1, 0, 0)
    sender.connected(0)
    now = 0
    while now < 3600_000:
        drain(sender, now)
        wake = sender.wake_at(now)
        assert wake is not None
        now = wake
    sender.hub_state(HubState(7, 2, online=True), now)
    assert drain(sender, now) == [Send(EPOCH, 1, 10)]


def a_hub_comes(sender: Sender, now: int) -> None:
    sender.hub_state(HubState(7, 2, online=True), now)


def the_line_comes(sender: Sender, now: int) -> None:
    sender.disconnected()
    sender.connected(now)


def a_newer_epoch_gets_its_receipt(sender: Sender, now: int) -> None:
    sender.appended(LATER, 1, now)
    drain(sender, now)
    sender.receipt(receipt_for(1, epoch=LATER), digest_of, now)


@pytest.mark.parametrize("comes", [a_hub_comes, the_line_comes, a_newer_epoch_gets_its_receipt])
def test_what_failed_for_hours_is_soon_tried_again_if_the_hub_that_is_back_misses_it(
    comes: Callable[[Sender, int], None],
) -> None:
    """A hub that has just come may lose the first try: the next is no ten minutes away."""
    sender = sender_with(10)
    sender.hold(LATER, 1, 0, 0)
    sender.connected(0)

    def run(now: int, until: int) -> tuple[int, list[int]]:
        tries = []
        while now < until:
            tries += [now for each in drain(sender, now) if each.epoch == EPOCH]
            wake = sender.wake_at(now)
            assert wake is not None
            now = wake
        return now, tries

    now, before = run(0, 3 * 3600_000)
    assert before[-1] - before[-2] >= MAX_REST_MS
    comes(sender, now)
    _, after = run(now, now + MAX_REST_MS)
    pauses = [b - a for a, b in itertools.pairwise(after)]
    assert pauses[0] <= MAX_RESEND_MS + 8 * RESEND_MS
    assert pauses == sorted(pauses)  # where the hub stays silent it costs less and less


@pytest.mark.parametrize("receipt_ms", [5, 4_000])
@pytest.mark.parametrize("ms_a_batch", [100, 2_000, 20_000])
def test_a_slow_line_carries_each_batch_about_once(ms_a_batch: int, receipt_ms: int) -> None:
    """A line that is first in, first out: the broker has a batch when the line has carried it."""
    batches = 24
    sender = sender_with(MAX_ITEMS * batches)
    sender.connected(0)
    now = free_at = 0
    line: list[tuple[int, int, Send]] = []
    back: list[tuple[int, int]] = []
    sent = 0
    while sender.unreceipted():
        while (send := sender.next(now)) is not None:
            sent += 1
            free_at = max(free_at, now) + ms_a_batch
            line.append((free_at, sender.sent(send, send.last), send))
        wake = sender.wake_at(now)
        moments = [each[0] for each in [*line[:1], *back[:1]]] + ([] if wake is None else [wake])
        now = min(moments)
        if line and line[0][0] <= now:
            _, ticket, carried = line.pop(0)
            sender.carried(ticket, now)
            back.append((now + receipt_ms, carried.last))
        if back and back[0][0] <= now:
            sender.receipt(receipt_for(back.pop(0)[1]), digest_of, now)
    assert sent <= batches + 4 * WINDOW  # until it is known how slow the hub is
    if receipt_ms < RESEND_MS:
        assert sent == batches
        assert now == batches * ms_a_batch + receipt_ms


def test_the_resend_timer_backs_off_within_its_bounds_and_progress_resets_it() -> None:
    for seed in range(50):
        sender = Sender(EDGE, 7, random.Random(seed))
        sender.hold(EPOCH, 1, 3, 0)
        sender.connected(0)
        now, pauses = 0, []
        for _ in range(12):
            assert drain(sender, now) == [Send(EPOCH, 1, 3)]
            wake = sender.wake_at(now)
            assert wake is not None
            assert sender.next(wake - 1) is None
            pauses.append(wake - now)
            now = wake
        assert pauses[0] == RESEND_MS
        assert all(
            0.75 * min(2 * a, MAX_RESEND_MS) - 1 <= b <= min(2 * a, MAX_RESEND_MS)
            for a, b in itertools.pairwise(pauses)
        )
        assert pauses[-1] >= 0.75 * MAX_RESEND_MS - 1
        drain(sender, now)
        patient = sender.wake_at(now)
        sender.receipt(receipt_for(3), digest_of, now)  # of which of the sends, nobody knows
        sender.appended(EPOCH, 4, now)
        drain(sender, now)
        assert sender.wake_at(now) == patient
        sender.receipt(receipt_for(4), digest_of, now + 5)
        sender.appended(EPOCH, 5, now + 5)
        drain(sender, now + 5)
        assert sender.wake_at(now + 5) == now + 5 + RESEND_MS


def test_back_off_is_jittered() -> None:
    wakes = set()
    for seed in range(20):
        sender = Sender(EDGE, 7, random.Random(seed))
        sender.hold(EPOCH, 1, 1, 0)
        sender.connected(0)
        drain(sender, 0)
        drain(sender, RESEND_MS)
        wakes.add(sender.wake_at(RESEND_MS))
    assert len(wakes) > 10


def test_where_nobody_listens_it_waits_and_the_hubs_word_ends_the_wait() -> None:
    sender = sender_with(MAX_ITEMS * 3)
    sender.connected(0)
    assert len(drain(sender, 0)) == 3
    for _ in range(3):  # the broker says so of each
        sender.nobody_listens(10)
    wake = sender.wake_at(10)
    assert wake is not None
    assert 10 + RESEND_MS < wake <= 10 + 2 * RESEND_MS
    assert sender.next(wake - 1) is None
    sender.hub_state(HubState(7, 1, online=False), 20)
    assert sender.next(21) is None
    sender.hub_state(HubState(7, 2, online=True), 30)
    assert sender.next(30) == Send(EPOCH, 1, MAX_ITEMS)


def test_a_stale_will_is_seen_through() -> None:
    sender = sender_with(1)
    sender.connected(0)
    sender.hub_state(HubState(7, 5, online=False), 0)
    drain(sender, 0)
    sender.nobody_listens(5)
    sender.hub_state(HubState(7, 4, online=True), 10)
    sender.hub_state(HubState(6, 9, online=True), 10)
    assert sender.next(10) is None


def test_a_new_generation_offers_everything_again() -> None:
    sender = sender_with(10, first=4, released=10)
    sender.connected(0)
    assert sender.next(0) is None
    assert sender.hub_state(HubState(8, 1, online=True), 5) == [NewGeneration(8)]
    assert sender.hub_state(HubState(8, 1, online=True), 5) == []
    assert sender.held() == [(EPOCH, 4, 10)]
    assert sender.next(5) == Send(EPOCH, 4, 10)
    outcomes = sender.receipt(receipt_for(6, generation=9), digest_of, 6)
    assert outcomes == [NewGeneration(9), Released(EPOCH, 6)]
    [refused] = sender.receipt(receipt_for(10, generation=8), digest_of, 7)
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.OLD_GENERATION


def test_each_refusal_has_its_reason() -> None:
    sender = sender_with(5)
    good = receipt_for(5)
    wrong = {
        Refusal.OTHER_EDGE: replace(good, edge=OTHER_EDGE),
        Refusal.OLD_GENERATION: replace(good, generation=6),
        Refusal.UNKNOWN_EPOCH: replace(good, epoch=LATER),
        Refusal.BEYOND_HEAD: receipt_for(6),
        Refusal.DIGEST_DIFFERS: replace(good, digest=bytes(32)),
    }
    for reason, receipt in wrong.items():
        assert sender.receipt(receipt, digest_of, 0) == [
            Refused(reason, receipt.epoch, receipt.through)
        ]
    beyond = receipt_for(1, (3, 6))
    assert sender.receipt(beyond, digest_of, 0) == [Refused(Refusal.BEYOND_HEAD, EPOCH, 1)]
    assert sender.receipt(good, lambda _e, _s: None, 0) == [
        Refused(Refusal.DIGEST_DIFFERS, EPOCH, 5)
    ]
    assert sender.unreceipted() == 5


def test_the_hello_names_no_more_epochs_than_fit() -> None:
    sender = Sender(EDGE, 7, random.Random(0))
    for at in range(MAX_HELD_EPOCHS + 10):
        sender.hold(at.to_bytes(16), 1, 2, 0)
    assert len(sender.held()) == MAX_HELD_EPOCHS
    assert sender.held()[0] == (bytes(16), 1, 2)
    assert sender.unreceipted() == 2 * (MAX_HELD_EPOCHS + 10)


def test_the_callers_mistakes_are_named() -> None:
    sender = sender_with(3)
    with pytest.raises(LocalError):
        sender.hold(EPOCH, 1, 3, 0)
    with pytest.raises(LocalError):
        sender.hold(LATER, 0, 3, 0)
    with pytest.raises(LocalError):
        sender.hold(LATER, 5, 3, 0)
    with pytest.raises(LocalError):
        sender.sent(Send(LATER, 1, 1), 1)


SPANS = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 6)), max_size=6)


@given(st.integers(1, 15), st.integers(0, 20), SPANS, st.integers(1, 35), st.integers(1, 8))
def test_a_lane_agrees_with_a_set_of_seqs(
    first: int, count: int, spans: list[tuple[int, int]], cursor: int, limit: int
) -> None:
    head = first + count - 1
    sender = Sender(EDGE, 7, random.Random(0))
    sender.hold(EPOCH, first, head, 0)
    missing = set(range(first, head + 1))
    for a, length in spans:
        b = min(a + length, head)
        if 2 <= a <= b:
            sender.receipt(receipt_for(0, (a, b)), digest_of, 0)
            missing -= set(range(a, b + 1))
    assert sender.unreceipted() == len(missing)
    released = sender.released(EPOCH)
    assert released == (min(missing) - 1 if missing else head)
    assert bool(sender.held()) == bool(missing)
    lane = sender._lanes[EPOCH]
    busy = (cursor, cursor + 2)
    rest = sorted(seq for seq in missing if not busy[0] <= seq <= busy[1])
    span = lane.next_span([busy], limit)
    if not rest:
        assert span is None
    else:
        run = [seq for at, seq in enumerate(rest) if at < limit and seq == rest[0] + at]
        assert span == (run[0], run[-1])
    if released >= first:
        sender.pruned(EPOCH, released + 1)
        assert sender.unreceipted() == len(missing)
        assert sender.released(EPOCH) == released


# --- the Receiver against a dictionary ------------------------------------------------------------

HISTORY_LENGTH = 40


class History:
    """One epoch as it truly was, or as an impostor tells it from `forked_at` on."""

    def __init__(self, forked_at: int | None = None) -> None:
        self.digests = [chain_start(b"header")]
        self.entries = [b""]
        for seq in range(1, HISTORY_LENGTH + 1):
            forked = forked_at is not None and seq >= forked_at
            self.entries.append(b"%s %d" % (b"another" if forked else b"entry", seq))
            self.digests.append(chain_next(self.digests[-1], self.entries[-1]))

    def links(self, first: int, last: int, gaps: Sequence[tuple[int, int]] = ()) -> list[Link]:
        items: list[bytes | Gap] = []
        seq = first
        while seq <= last:
            end = next((min(b, last) for a, b in gaps if a <= seq <= b), None)
            if end is None:
                items.append(self.entries[seq])
                seq += 1
            else:
                items.append(Gap(seq, end, self.digests[end], "lost"))
                seq = end + 1
        return list(link(first, self.digests[first - 1], items))


TRUE = History()
SPAN = st.tuples(st.integers(1, HISTORY_LENGTH), st.integers(0, 12)).map(
    lambda each: (each[0], min(each[0] + each[1], HISTORY_LENGTH))
)


@settings(max_examples=300)
@given(st.lists(st.tuples(SPAN, st.lists(SPAN, max_size=2)), min_size=1, max_size=15))
def test_accept_agrees_with_a_dictionary(
    batches: list[tuple[tuple[int, int], list[tuple[int, int]]]],
) -> None:
    mark = Mark(0, TRUE.digests[0])
    stored: dict[int, object] = {}
    for (first, last), gaps in batches:
        links = TRUE.links(first, last, gaps)
        accepted = accept(mark, TRUE.digests[first - 1], links)
        fresh = {
            seq: each.item for each in accepted.fresh for seq in range(each.first, each.last + 1)
        }
        assert sum(each.last - each.first + 1 for each in accepted.fresh) == len(fresh)
        assert fresh.keys() == set(range(first, last + 1)) - stored.keys()
        assert all(each.digest == TRUE.digests[each.last] for each in accepted.fresh)
        for seq, item in fresh.items():
            if isinstance(item, bytes):
                assert item == TRUE.entries[seq]
            else:
                assert isinstance(item, Gap)
                assert item.first <= seq <= item.last
        stored.update(fresh)
        mark = accepted.mark
        assert mark == the_mark_of(stored)
        again = accept(mark, TRUE.digests[first - 1], links)
        assert again == Accepted(mark, ())
        receipt = mark.receipt(EDGE, 7, EPOCH)
        assert Receipt.decode(receipt.encode()) == receipt


def the_mark_of(stored: dict[int, object]) -> Mark:
    runs: list[list[int]] = []
    for seq in sorted(stored):
        if runs and seq == runs[-1][-1] + 1:
            runs[-1].append(seq)
        else:
            runs.append([seq])
    through = runs.pop(0)[-1] if runs and runs[0][0] == 1 else 0
    digests = TRUE.digests
    return Mark(
        through,
        digests[through],
        tuple(Island(run[0], run[-1], digests[run[0] - 1], digests[run[-1]]) for run in runs),
    )


@settings(max_examples=300)
@given(st.lists(SPAN, max_size=6), SPAN, st.integers(1, HISTORY_LENGTH))
def test_another_history_is_never_mixed_in(
    held: list[tuple[int, int]], told: tuple[int, int], forked_at: int
) -> None:
    """What is taken of an impostor's batch is what both histories share, or it is a CONFLICT.

    Or it is beyond all that the hub has, where nobody can tell; then the receipt's digest differs
    from the true journal's, which therefore frees nothing.
    """
    mark = Mark(0, TRUE.digests[0])
    for first, last in held:
        mark = accept(mark, TRUE.digests[first - 1], TRUE.links(first, last)).mark
    first, last = told
    other = History(forked_at)
    accepted = conflict = None
    try:
        accepted = accept(mark, other.digests[first - 1], other.links(first, last))
    except RemoteError as error:
        conflict = error
    if accepted is None:
        assert conflict is not None
        assert conflict.reason is Reason.CONFLICT
        assert last >= forked_at
        return
    taken = {seq for each in accepted.fresh for seq in range(each.first, each.last + 1)}
    wrong = {seq for seq in taken if seq >= forked_at}
    assume(wrong)
    new = accepted.mark
    ends = {new.through: new.digest} | {each.last: each.digest for each in new.islands}
    for seq in wrong:
        end = min(each for each in ends if each >= seq)
        assert ends[end] == other.digests[end] != TRUE.digests[end]


def test_a_receipt_names_no_more_ranges_than_fit() -> None:
    islands = tuple(
        Island(at * 10, at * 10 + 5, bytes(32), bytes(32)) for at in range(1, MAX_RANGES + 20)
    )
    receipt = Mark(3, bytes(32), islands).receipt(EDGE, 7, EPOCH)
    assert len(receipt.have) == MAX_RANGES
    assert Receipt.decode(receipt.encode()) == receipt


def test_a_batch_of_nothing_is_our_own_mistake() -> None:
    with pytest.raises(LocalError):
        accept(Mark(0, bytes(32)), bytes(32), [])
