"""How entries get across, and are let go of: the edge's Sender and the hub's Receiver, sans I/O.

The Sender is told what happened (appended, connected, a receipt came) and asked what to send
next; it holds no entry, only which seqs of which epoch are where. The Receiver is a function from
what the hub has and a batch to what the hub has then. Both ends live here, so that a test can join
them through any loss, duplication, reordering and crash.

What frees an entry is a receipt whose digest equals the edge's own: no acknowledgement of the
broker does, and nothing else here either.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from protocol.batch import MAX_HELD_EPOCHS, MAX_ITEMS, MAX_RANGES, HubState, Range, Receipt
from protocol.errors import LocalError, Reason, RemoteError
from protocol.journal import Gap, Link

WINDOW: Final = 8
"""Batches on their way without a receipt."""
COALESCE_MS: Final = 50
RESEND_MS: Final = 1_000
MAX_RESEND_MS: Final = 30_000
MAX_REST_MS: Final = 600_000
"""How long an older epoch that the hub gives no receipt for is left alone between tries."""

DigestOf = Callable[[bytes, int], bytes | None]
"""(epoch, seq) -> the journal's own digest there; None where it holds none."""


# --- the edge's end -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Entries to send now: from `first`, at most up to `last` (fewer if they are large)."""

    epoch: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Released:
    """The hub has everything of `epoch` up to `through`; the edge may prune it by its rule."""

    epoch: bytes
    through: int


@dataclass(frozen=True, slots=True)
class NewGeneration:
    """The hub came back with an older memory: whatever is still held is to be offered again."""

    generation: int


class Refusal(StrEnum):
    """Why a receipt freed nothing."""

    OTHER_EDGE = "other_edge"
    OLD_GENERATION = "old_generation"
    UNKNOWN_EPOCH = "unknown_epoch"
    BEYOND_HEAD = "beyond_head"
    """The hub has more than this journal ever wrote: the card was rolled back or cloned."""
    DIGEST_DIFFERS = "digest_differs"
    """The hub has something else than this journal holds."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A receipt that was not followed; an alarm where it says that histories differ."""

    reason: Refusal
    epoch: bytes
    through: int


Outcome = Released | NewGeneration | Refused


@dataclass(slots=True)
class _Lane:
    """One epoch on its way to the hub."""

    first: int
    head: int
    have: list[tuple[int, int]] = field(default_factory=list)
    """What receipts of this generation cover: disjoint, rising."""
    failures: int = 0
    """How often in a row it was sent and got no receipt in time."""
    rests_until: int = 0
    given_up: int = 0
    """The highest seq that was sent and waited for in vain."""

    def next_span(self, busy: Iterable[tuple[int, int]], limit: int) -> tuple[int, int] | None:
        """The first seqs that no receipt covers and that are not `busy`, on their way already."""
        first, last = self.first, self.head
        for a, b in _union([*self.have, *busy]):
            if b < first:
                continue
            if a <= first:
                first = b + 1
            else:
                last = min(last, a - 1)
                break
        if first > last:
            return None
        return first, min(last, first + limit - 1)

    def covers(self, first: int, last: int) -> bool:
        """Whether all of it has a receipt; what was pruned had one."""
        first = max(first, self.first)
        return first > last or any(a <= first and last <= b for a, b in self.have)

    def released(self) -> int:
        """Everything up to here has a receipt."""
        if self.have and self.have[0][0] <= self.first:
            return self.have[0][1]
        return self.first - 1

    def unreceipted(self) -> int:
        held = self.head - self.first + 1
        return held - sum(min(b, self.head) - max(a, self.first) + 1 for a, b in self.have)


@dataclass(slots=True)
class _Flight:
    ticket: int
    epoch: bytes
    first: int
    last: int
    again: bool
    """Sent before: whose receipt comes, that of the first or of this one, cannot be told."""
    carried_at: int | None = None
    """When the broker had it; a slow line may still be sending it until then."""


class Sender:
    """Decides what to send and when; `edge` is this edge's id.

    All times are milliseconds of one monotonic clock, given by the caller.
    """

    def __init__(self, edge: bytes, generation: int, rng: random.Random) -> None:
        self.generation = generation
        self._edge = edge
        self._rng = rng
        self._lanes: dict[bytes, _Lane] = {}
        self._flights: list[_Flight] = []
        self._connected = False
        self._hub_session = (0, 0)
        self._paused_until: int | None = None
        self._pending_since: int | None = None
        self._tickets = 0
        self._base_ms = RESEND_MS
        self._resend_ms = RESEND_MS
        self._silent = False

    # what the caller tells

    def hold(self, epoch: bytes, first: int, head: int, released: int) -> None:
        """At start: the journal holds `first` to `head`, with receipts up to `released`."""
        if epoch in self._lanes:
            raise LocalError("an epoch is held once")
        if first < 1 or head < first - 1:
            raise LocalError(f"an epoch cannot hold {first} to {head}")
        lane = _Lane(first, head)
        if released >= first:
            lane.have.append((first, min(released, head)))
        self._lanes[epoch] = lane

    def knows(self, epoch: bytes) -> bool:
        return epoch in self._lanes

    def keep_only(self, epochs: Iterable[bytes]) -> None:
        """The journal holds no other epochs any more (its file was damaged and set aside)."""
        kept = set(epochs)
        self._lanes = {epoch: lane for epoch, lane in self._lanes.items() if epoch in kept}
        self._flights = [flight for flight in self._flights if flight.epoch in kept]

    def appended(self, epoch: bytes, head: int, now: int) -> None:
        """Everything of `epoch` up to `head` is durable; what is known already changes nothing."""
        lane = self._lanes[epoch]
        if head <= lane.head:
            return
        lane.head = head
        if self._pending_since is None:
            self._pending_since = now

    def pruned(self, epoch: bytes, first: int) -> None:
        """The journal now begins at `first`: what it says goes, whatever was thought released."""
        lane = self._lanes[epoch]
        lane.first = max(lane.first, first)
        lane.head = max(lane.head, lane.first - 1)
        lane.have = [(max(a, lane.first), b) for a, b in lane.have if b >= lane.first]
        if lane.first > lane.head and epoch != next(reversed(self._lanes)):
            del self._lanes[epoch]
            self._flights = [flight for flight in self._flights if flight.epoch != epoch]

    def connected(self, now: int) -> None:
        self._connected = True
        self._paused_until = None
        self._resend_ms = self._base_ms
        self._flights.clear()
        self._rouse()
        self._start_over(now)

    def disconnected(self) -> None:
        self._connected = False

    def nobody_listens(self, now: int) -> None:
        """The broker took a batch for nobody, or refused it: wait, then try again."""
        if self._paused_until is not None:
            return  # said of each batch that was on its way
        self._back_off()
        self._flights.clear()
        self._start_over(now)
        self._paused_until = now + self._resend_ms

    def hub_state(self, state: HubState, now: int) -> list[Outcome]:
        """What the hub (its signature verified) says of itself."""
        if (state.generation, state.session) < self._hub_session:
            return []
        fresh = (state.generation, state.session) > self._hub_session
        self._hub_session = (state.generation, state.session)
        outcomes = self._generation(state.generation, now)
        if state.online and (fresh or self._paused_until is not None):
            self._paused_until = None
            self._resend_ms = self._base_ms
            self._rouse()
        return outcomes

    def sent(self, send: Send, last: int) -> int:
        """The caller published `send`, up to `last`; gives a ticket for `carried`."""
        lane = self._lanes.get(send.epoch)
        if lane is None or not send.first <= last <= send.last:
            raise LocalError("sent what was not asked for")
        self._tickets += 1
        again = send.first <= lane.given_up
        self._flights.append(_Flight(self._tickets, send.epoch, send.first, last, again))
        if not self._unsent():
            self._pending_since = None
        return self._tickets

    def unreadable(self, epoch: bytes, now: int) -> None:
        """The journal cannot give what was asked for: that epoch rests, the others go on."""
        self._rest(self._lanes[epoch], now)

    def carried(self, ticket: int, now: int) -> None:
        """The broker acknowledged that batch. It frees nothing: waiting for the receipt begins."""
        for flight in self._flights:
            if flight.ticket == ticket and flight.carried_at is None:
                flight.carried_at = now

    def receipt(self, receipt: Receipt, digest_of: DigestOf, now: int) -> list[Outcome]:
        """A receipt whose signature by this edge's hub was verified."""
        refusal = self._refusal(receipt, digest_of)
        if refusal is not None:
            return [Refused(refusal, receipt.epoch, receipt.through)]
        outcomes = self._generation(receipt.generation, now)
        lane = self._lanes[receipt.epoch]
        released, unreceipted = lane.released(), lane.unreceipted()
        covered = [(1, receipt.through)] if receipt.through else []
        covered += [(each.first, each.last) for each in receipt.have]
        lane.have = [
            (max(a, lane.first), b) for a, b in _union([*lane.have, *covered]) if b >= lane.first
        ]
        if lane.unreceipted() < unreceipted:
            lane.failures = lane.rests_until = 0
            if self._silent:
                self._silent = False
                self._rouse()
        for flight in self._flights:
            if flight.epoch == receipt.epoch and lane.covers(flight.first, flight.last):
                self._arrived(flight, now)
        if lane.released() > released:
            outcomes.append(Released(receipt.epoch, lane.released()))
        return outcomes

    # what the caller asks

    def next(self, now: int) -> Send | None:
        """What to send now; call again after `sent` until it gives None."""
        if not self._connected:
            return None
        if self._paused_until is not None:
            if now < self._paused_until:
                return None
            self._paused_until = None
        due = self._resend_at()
        if due is not None and now >= due:
            self._give_up_waiting(now)
        send = self._candidate(now)
        if send is None:
            return None
        full = send.last - send.first + 1 == MAX_ITEMS
        return send if full or not self._flights or self._ripe(now) else None

    def wake_at(self, now: int) -> int | None:
        """When to ask `next` again, if nothing happens before."""
        if not self._connected:
            return None
        if self._paused_until is not None:
            return self._paused_until
        wakes = [lane.rests_until for lane in self._lanes.values() if lane.rests_until > now]
        if (due := self._resend_at()) is not None:
            wakes.append(due)
        if self._pending_since is not None and self._candidate(now) is not None:
            wakes.append(self._pending_since + COALESCE_MS)
        return min(wakes, default=None)

    def held(self) -> list[tuple[bytes, int, int]]:
        """(epoch, first, last) with entries that have no receipt, oldest first, for the hello."""
        lanes = [(e, lane) for e, lane in self._lanes.items() if lane.unreceipted()]
        return [(e, lane.released() + 1, lane.head) for e, lane in lanes[:MAX_HELD_EPOCHS]]

    def unreceipted(self) -> int:
        """How many entries have no receipt."""
        return sum(lane.unreceipted() for lane in self._lanes.values())

    def released(self, epoch: bytes) -> int:
        """The seq of `epoch` up to which everything has a receipt."""
        return self._lanes[epoch].released()

    # ------------------------------------------------------------------

    def _refusal(self, receipt: Receipt, digest_of: DigestOf) -> Refusal | None:
        if receipt.edge != self._edge:
            return Refusal.OTHER_EDGE
        if receipt.generation < self.generation:
            return Refusal.OLD_GENERATION
        lane = self._lanes.get(receipt.epoch)
        if lane is None:
            return Refusal.UNKNOWN_EPOCH
        ends = [(receipt.through, receipt.digest)] if receipt.through else []
        ends += [(each.last, each.digest) for each in receipt.have]
        for seq, digest in ends:
            if seq > lane.head:
                return Refusal.BEYOND_HEAD
            # Below what is held there is nothing left to compare, and nothing to free either.
            if seq >= lane.first and digest_of(receipt.epoch, seq) != digest:
                return Refusal.DIGEST_DIFFERS
        return None

    def _generation(self, generation: int, now: int) -> list[Outcome]:
        if generation <= self.generation:
            return []
        self.generation = generation
        for lane in self._lanes.values():
            lane.have.clear()
        self._rouse()
        self._start_over(now)
        return [NewGeneration(generation)]

    def _candidate(self, now: int) -> Send | None:
        """What comes next, oldest first, if the window has a place for it.

        The last place is the newest epoch's, and an older one that got no receipt rests and is
        then tried with one batch: entries such that the hub never gives a receipt for them hold up
        neither the taps of today nor the other epochs.
        """
        newest = next(reversed(self._lanes), None)
        for epoch, lane in self._lanes.items():
            busy = [(each.first, each.last) for each in self._flights if each.epoch == epoch]
            if len(self._flights) >= (WINDOW if epoch == newest else WINDOW - 1):
                continue
            if epoch != newest and (lane.rests_until > now or (lane.failures > 1 and busy)):
                continue
            span = lane.next_span(busy, MAX_ITEMS)
            if span is not None:
                return Send(epoch, *span)
        return None

    def _resend_at(self) -> int | None:
        """When the oldest batch on its way is given up; None while the line still carries it."""
        if not self._flights or self._flights[0].carried_at is None:
            return None
        return self._flights[0].carried_at + self._resend_ms

    def _give_up_waiting(self, now: int) -> None:
        """What the broker has had, and no receipt came for, is to be sent again."""
        newest = next(reversed(self._lanes), None)
        carried = [each for each in self._flights if each.carried_at is not None]
        for flight in carried:
            lane = self._lanes[flight.epoch]
            lane.given_up = max(lane.given_up, flight.last)
        for epoch in {each.epoch for each in carried}:
            lane = self._lanes[epoch]
            if epoch == newest:
                lane.failures += 1
            else:
                self._rest(lane, now)
        self._silent = True
        self._back_off()
        self._flights = [each for each in self._flights if each.carried_at is None]
        self._start_over(now)

    def _rest(self, lane: _Lane, now: int) -> None:
        lane.failures += 1
        lane.rests_until = now + min(RESEND_MS << min(lane.failures, 16), MAX_REST_MS)

    def _arrived(self, flight: _Flight, now: int) -> None:
        """A receipt covers the batch: the line and the hub are as fast as this shows."""
        oldest = flight is self._flights[0]
        self._flights = [each for each in self._flights if each is not flight]
        # Patience that was learnt is kept until a batch that was sent once shows that less will do
        # (Karn's rule, RFC 6298 section 3): otherwise a slow hub is sent everything twice.
        if flight.carried_at is not None and not flight.again:
            took = now - flight.carried_at
            self._base_ms = min(max(RESEND_MS, 2 * took), MAX_RESEND_MS)
            self._resend_ms = self._base_ms
        # Later batches that arrive are no progress: taps that keep coming would keep one that was
        # lost from ever being sent again.
        if oldest and self._flights and self._flights[0].carried_at is not None:
            self._flights[0].carried_at = now

    def _rouse(self) -> None:
        """There is a hub again: no epoch rests any longer, nor for long after its next failure."""
        for lane in self._lanes.values():
            lane.rests_until = 0
            lane.failures = min(lane.failures, 2)

    def _start_over(self, now: int) -> None:
        """Sending goes on from the first entry without a receipt that is not on its way."""
        self._pending_since = now if self._unsent() else None

    def _back_off(self) -> None:
        doubled = min(self._resend_ms * 2, MAX_RESEND_MS)
        self._resend_ms = int(doubled * self._rng.uniform(0.75, 1.0))

    def _unsent(self) -> bool:
        return any(
            lane.next_span(
                [(each.first, each.last) for each in self._flights if each.epoch == epoch], 1
            )
            for epoch, lane in self._lanes.items()
        )

    def _ripe(self, now: int) -> bool:
        return self._pending_since is None or now >= self._pending_since + COALESCE_MS


def _union(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same seqs as disjoint, rising spans with holes between them."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


# --- the hub's end --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Island:
    """A stored range beyond a hole: `previous` is the digest before `first`."""

    first: int
    last: int
    previous: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """What the hub has of one epoch: all up to `through`, and islands beyond it, rising."""

    through: int
    digest: bytes
    islands: tuple[Island, ...] = ()

    def receipt(self, edge: bytes, generation: int, epoch: bytes) -> Receipt:
        """To be signed and sent once this mark is committed."""
        have = tuple(Range(i.first, i.last, i.digest) for i in self.islands[:MAX_RANGES])
        return Receipt(edge, generation, epoch, self.through, self.digest, have)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a batch changed: the mark to commit together with the `fresh` links."""

    mark: Mark
    fresh: tuple[Link, ...]
    returned: tuple[Gap, ...] = ()
    """Gaps that were stated before, and of which `fresh` has entries after all."""


def accept(
    mark: Mark, previous: bytes, links: Sequence[Link], stated: Sequence[Gap] = ()
) -> Accepted:
    """Takes a batch (`previous` digest and its chained links) into what the hub has.

    What it has already is passed over, except that entries take the place of a `stated` gap, if
    the batch reaches to its end and the chain fits there: what was thought lost was found again.
    Raises RemoteError(CONFLICT) where the batch and the hub tell different histories of one epoch;
    nothing is taken of such a batch.
    """
    if not links:
        raise LocalError("a batch has at least one entry")
    batch_digests = {links[0].first - 1: previous}
    batch_digests.update((each.last, each.digest) for each in links)
    known = {mark.through: mark.digest}
    for island in mark.islands:
        known[island.first - 1] = island.previous
        known[island.last] = island.digest
    for seq, digest in known.items():
        if batch_digests.get(seq, digest) != digest:
            raise RemoteError(Reason.CONFLICT, f"another history at {seq} than the hub has")
    held = [Island(1, mark.through, b"", mark.digest), *mark.islands]
    if links[0].first > held[-1].last:
        fresh = tuple(links)  # as nearly always
    else:
        fresh = tuple(part for each in links for part in _not_held(each, held))
    fitting = [gap for gap in stated if batch_digests.get(gap.last) == gap.digest]
    found = tuple(
        each
        for each in links
        if not isinstance(each.item, Gap)
        and any(gap.first <= each.first <= gap.last for gap in fitting)
    )
    if found:
        returned = tuple(
            gap for gap in fitting if any(gap.first <= each.first <= gap.last for each in found)
        )
        fresh = tuple(sorted({*fresh, *found}, key=lambda each: each.first))
    else:
        returned = ()
    if not fresh:
        return Accepted(mark, ())
    pieces = [
        *held,
        Island(links[0].first, links[-1].last, previous, links[-1].digest),
    ]
    base, *islands = _join(pieces)
    return Accepted(Mark(base.last, base.digest, tuple(islands)), fresh, returned)


def _not_held(each: Link, held: Sequence[Island]) -> list[Link]:
    """`each` where nothing of it is held; a gap is cut down to the seqs that are missing."""
    parts = [each]
    for island in held:
        parts = [rest for part in parts for rest in _minus(part, island)]
    return parts


def _minus(part: Link, held: Island) -> list[Link]:
    if held.last < part.first or held.first > part.last:
        return [part]
    rest = []
    if part.first < held.first:
        rest.append(replace(part, last=held.first - 1, digest=held.previous))
    if part.last > held.last:
        rest.append(replace(part, first=held.last + 1))
    return rest


def _join(pieces: Iterable[Island]) -> list[Island]:
    """Pieces that touch or overlap become one; the digests at their ends stay."""
    joined: list[Island] = []
    for piece in sorted(pieces, key=lambda each: (each.first, each.last)):
        if joined and piece.first <= joined[-1].last + 1:
            if piece.last > joined[-1].last:
                joined[-1] = replace(joined[-1], last=piece.last, digest=piece.digest)
        else:
            joined.append(piece)
    return joined
