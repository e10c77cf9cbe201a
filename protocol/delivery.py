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
from protocol.journal import Link

WINDOW: Final = 8
"""Batches on their way without a receipt."""
COALESCE_MS: Final = 50
RESEND_MS: Final = 1_000
MAX_RESEND_MS: Final = 30_000

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
    cursor: int = 0
    """Where sending goes on."""

    def next_span(self, limit: int) -> tuple[int, int] | None:
        """The first seqs at or after the cursor that no receipt covers."""
        first, last = max(self.cursor, self.first), self.head
        for a, b in self.have:
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
    epoch: bytes
    first: int
    last: int


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
        self._progress_at = 0
        self._resend_ms = RESEND_MS

    # what the caller tells

    def hold(self, epoch: bytes, first: int, head: int, released: int) -> None:
        """At start: the journal holds `first` to `head`, with receipts up to `released`."""
        if epoch in self._lanes:
            raise LocalError("an epoch is held once")
        if first < 1 or head < first - 1:
            raise LocalError(f"an epoch cannot hold {first} to {head}")
        lane = _Lane(first, head, cursor=first)
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
        """The journal now begins at `first`; only what has a receipt may go."""
        lane = self._lanes[epoch]
        if first - 1 > lane.released():
            raise LocalError("pruned what has no receipt")
        lane.first = max(lane.first, first)
        lane.have = [(a, b) for a, b in lane.have if b >= lane.first]
        if lane.first > lane.head and epoch != next(reversed(self._lanes)):
            del self._lanes[epoch]

    def connected(self, now: int) -> None:
        self._connected = True
        self._paused_until = None
        self._resend_ms = RESEND_MS
        self._start_over(now)

    def disconnected(self) -> None:
        self._connected = False

    def nobody_listens(self, now: int) -> None:
        """The broker said that no hub is subscribed: wait, then try again."""
        if self._paused_until is not None:
            return  # said of each batch that was on its way
        self._back_off()
        self._start_over(now)
        self._paused_until = now + self._resend_ms

    def hub_state(self, state: HubState, now: int) -> list[Outcome]:
        """What the hub (its signature verified) says of itself."""
        if (state.generation, state.session) < self._hub_session:
            return []
        self._hub_session = (state.generation, state.session)
        outcomes = self._generation(state.generation, now)
        if state.online and self._connected and self._paused_until is not None:
            self._paused_until = None
            self._resend_ms = RESEND_MS
        return outcomes

    def sent(self, send: Send, last: int, now: int) -> None:
        """The caller published `send`, up to `last`."""
        lane = self._lanes[send.epoch]
        if not send.first <= last <= send.last:
            raise LocalError("sent what was not asked for")
        if not self._flights:
            self._progress_at = now
        self._flights.append(_Flight(send.epoch, send.first, last))
        lane.cursor = last + 1
        if not self._unsent():
            self._pending_since = None

    def receipt(self, receipt: Receipt, digest_of: DigestOf, now: int) -> list[Outcome]:
        """A receipt whose signature by this edge's hub was verified."""
        refusal = self._refusal(receipt, digest_of)
        if refusal is not None:
            return [Refused(refusal, receipt.epoch, receipt.through)]
        outcomes = self._generation(receipt.generation, now)
        lane = self._lanes[receipt.epoch]
        before = lane.released()
        covered = [(1, receipt.through)] if receipt.through else []
        covered += [(each.first, each.last) for each in receipt.have]
        lane.have = [
            (max(a, lane.first), b) for a, b in _union([*lane.have, *covered]) if b >= lane.first
        ]
        oldest = self._flights[:1]
        self._flights = [
            flight
            for flight in self._flights
            if flight.epoch != receipt.epoch or not lane.covers(flight.first, flight.last)
        ]
        # Later batches that arrive are no progress: taps that keep coming would keep one that was
        # lost from ever being sent again.
        if self._flights[:1] != oldest:
            self._progress_at = now
            self._resend_ms = RESEND_MS
        if lane.released() > before:
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
        if self._flights and now >= self._progress_at + self._resend_ms:
            self._back_off()
            self._start_over(now)
        send = self._candidate()
        if send is None:
            return None
        full = send.last - send.first + 1 == MAX_ITEMS
        return send if full or not self._flights or self._ripe(now) else None

    def wake_at(self) -> int | None:
        """When to ask `next` again, if nothing happens before."""
        if not self._connected:
            return None
        if self._paused_until is not None:
            return self._paused_until
        if not self._flights:
            return None
        wake = self._progress_at + self._resend_ms
        if self._pending_since is not None and self._candidate() is not None:
            wake = min(wake, self._pending_since + COALESCE_MS)
        return wake

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
        self._start_over(now)
        return [NewGeneration(generation)]

    def _candidate(self) -> Send | None:
        """What comes next, oldest first, if the window has a place for it.

        The last place is the newest epoch's: older entries, and be they such that the hub never
        gives a receipt for them, do not hold up the taps of today.
        """
        newest = next(reversed(self._lanes), None)
        for epoch, lane in self._lanes.items():
            if len(self._flights) < (WINDOW if epoch == newest else WINDOW - 1):
                span = lane.next_span(MAX_ITEMS)
                if span is not None:
                    return Send(epoch, *span)
        return None

    def _start_over(self, now: int) -> None:
        """Nothing is on its way; sending goes on from the first entry without a receipt."""
        self._flights.clear()
        for lane in self._lanes.values():
            lane.cursor = lane.first
        self._progress_at = now
        self._pending_since = now if self._unsent() else None

    def _back_off(self) -> None:
        doubled = min(self._resend_ms * 2, MAX_RESEND_MS)
        self._resend_ms = int(doubled * self._rng.uniform(0.75, 1.0))

    def _unsent(self) -> bool:
        return any(lane.next_span(1) for lane in self._lanes.values())

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


def accept(mark: Mark, previous: bytes, links: Sequence[Link]) -> Accepted:
    """Takes a batch (`previous` digest and its chained links) into what the hub has.

    What it has already is passed over. Raises RemoteError(CONFLICT) where the batch and the hub
    tell different histories of one epoch; nothing is taken of such a batch.
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
    if not fresh:
        return Accepted(mark, ())
    pieces = [
        *held,
        Island(links[0].first, links[-1].last, previous, links[-1].digest),
    ]
    base, *islands = _join(pieces)
    return Accepted(Mark(base.last, base.digest, tuple(islands)), fresh)


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
