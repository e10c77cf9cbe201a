"""Edge and hub joined by a network that loses, doubles, delays and reorders, in virtual time.

The edge's Sender and the hub's `accept` and `Mark.receipt` are the real ones, and what passes
between them are the real encoded batches and receipts (unsigned: keys have tests of their own). The
journal, the hub's database and the backups are dictionaries here, and what is in them survives a
crash. After every step the world checks what must always hold and raises `Broken` where it does
not. Everything follows from the seed.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from protocol.batch import Batch, HubState, Items, Range, Receipt
from protocol.delivery import (
    Accepted,
    Mark,
    NewGeneration,
    Refused,
    Released,
    Send,
    Sender,
    accept,
)
from protocol.errors import RemoteError
from protocol.journal import Gap, Link, Parent, chain_next, chain_start, link

EDGE = b"E" * 16
OTHER_EDGE = b"O" * 16
FIRST_GENERATION = 1_700_000_000

Accept = Callable[[Mark, bytes, Sequence[Link]], Accepted]


class Broken(AssertionError):  # noqa: N818 - it reads as what it says
    """An invariant does not hold."""


def check(condition: object, message: str) -> None:
    if not condition:
        raise Broken(message)


@dataclass
class Epoch:
    """One epoch on the edge's disk."""

    id: bytes
    header: bytes
    parent: Parent | None
    entries: list[bytes] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    """digests[n] is digest(n)."""
    unreadable: set[int] = field(default_factory=set)
    first: int = 1
    released: int = 0

    @property
    def head(self) -> int:
        return len(self.entries)

    def items(self, first: int, last: int) -> Items:
        """Entries first..last; what cannot be read any more is stated as gaps."""
        found: list[bytes | Gap] = []
        for seq in range(first, last + 1):
            if seq not in self.unreadable:
                found.append(self.entries[seq - 1])
                continue
            start = seq
            if found and isinstance(found[-1], Gap):
                start = found.pop().first  # type: ignore[union-attr]
            found.append(Gap(start, seq, self.digests[seq], "unreadable"))
        return tuple(found)


@dataclass
class Disk:
    """What the edge has durably."""

    epochs: dict[bytes, Epoch] = field(default_factory=dict)
    generation: int = FIRST_GENERATION

    def digest_of(self, epoch: bytes, seq: int) -> bytes | None:
        held = self.epochs.get(epoch)
        if held is None or not held.first <= seq <= held.head:
            return None
        # The digest after a run of unreadable entries is known from the next one; within, none is.
        if seq in held.unreadable and seq + 1 in held.unreadable:
            return None
        return held.digests[seq]


@dataclass
class Stored:
    """What the hub has committed of one epoch."""

    mark: Mark
    seqs: dict[int, bytes | None] = field(default_factory=dict)
    """seq -> its bytes, or None where a gap was stated."""


@dataclass
class Database:
    epochs: dict[bytes, Stored] = field(default_factory=dict)


@dataclass
class Faults:
    loss: float = 0.0
    double: float = 0.0
    delay_ms: tuple[int, int] = (5, 40)
    crashes: bool = False


class World:
    def __init__(
        self,
        seed: int,
        sender: type[Sender] = Sender,
        accept: Accept = accept,
        *,
        key_by_epoch: bool = True,
        receipt_before_commit: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 1_000
        self._sender_type = sender
        self._accept = accept
        self._key_by_epoch = key_by_epoch
        self._receipt_before_commit = receipt_before_commit
        self.faults = Faults()
        self.tally: dict[str, int] = {}
        self._order = itertools.count()
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        # edge
        self.disk = Disk()
        self.sender: Sender | None = None
        self._connection = 0
        self._connected = False
        # hub
        self.generation = FIRST_GENERATION
        self.session = 1
        self.database = Database()
        self.past: dict[int, Database] = {}
        """What an earlier generation had when it ended."""
        self.backups: list[Database] = [Database()]
        self.hub_up = True
        self.start_edge()

    # --- time -----------------------------------------------------------------------------------

    def at(self, when: int, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def run(self, until: int) -> None:
        """Lets things happen up to `until`; the edge is woken by events and `wake_at` alone."""
        while True:
            self.pump()
            event = self._events[0][0] if self._events else until + 1
            wake = self._wake()
            when = min(event, wake)
            if when > until:
                break
            self.now = max(self.now, when)
            if event <= wake:
                heapq.heappop(self._events)[2]()
                self.check()
        self.now = until

    def _wake(self) -> int:
        wake = self.sender.wake_at(self.now) if self.sender is not None else None
        if wake is None:
            return 1 << 62
        check(
            wake > self.now, f"wake_at gives {wake} at {self.now}, with nothing to send: it spins"
        )
        return wake

    def count(self, what: str) -> None:
        self.tally[what] = self.tally.get(what, 0) + 1

    # --- network --------------------------------------------------------------------------------

    def carry(self, what: Callable[[], None]) -> None:
        copies = 1
        if self.rng.random() < self.faults.double:
            copies += self.rng.randint(1, 2)
        for _ in range(copies):
            if self.rng.random() >= self.faults.loss:
                self.at(self.now + self.rng.randint(*self.faults.delay_ms), what)

    # --- edge -----------------------------------------------------------------------------------

    @property
    def epoch(self) -> Epoch:
        return list(self.disk.epochs.values())[-1]

    def start_edge(self) -> None:
        parent = None
        if self.disk.epochs:
            last = [e for e in self.disk.epochs.values() if e.head]
            if last:
                parent = Parent(last[-1].id, last[-1].head, last[-1].digests[-1])
        name = self.rng.randbytes(16)
        header = b"header of " + name
        self.disk.epochs[name] = Epoch(name, header, parent, digests=[chain_start(header)])
        self.sender = self._sender_type(
            EDGE, self.disk.generation, random.Random(self.rng.random())
        )
        for each in self.disk.epochs.values():
            if each.first <= each.head or each is self.epoch:
                self.sender.hold(each.id, each.first, each.head, each.released)
        self.append()

    def kill_edge(self) -> None:
        self.count("edge crash")
        self.sender = None
        self._connected = False
        self._connection += 1

    def append(self) -> None:
        epoch = self.epoch
        entry = self.rng.randbytes(self.rng.randint(0, 6))
        epoch.entries.append(entry)
        epoch.digests.append(chain_next(epoch.digests[-1], entry))
        if self.faults.crashes and self.rng.random() < 0.02:
            self.kill_edge()  # durable, and nobody told the Sender
            return
        if self.sender is not None:
            self.sender.appended(epoch.id, epoch.head, self.now)

    def spoil(self) -> None:
        """An entry that was written cannot be read any more (never an epoch's last)."""
        epoch = self.rng.choice(list(self.disk.epochs.values()))
        if epoch.head > 2:
            self.count("unreadable entry")
            epoch.unreadable.add(self.rng.randint(1, epoch.head - 1))

    def connect(self) -> None:
        if self.sender is None or self._connected:
            return
        self._connection += 1
        self._connected = True
        self.sender.connected(self.now)
        state = HubState(self.generation, self.session, self.hub_up)
        self._to_edge(lambda: self._on_hub_state(state))
        held = self.sender.held()
        for _epoch, first, last in held:
            check(1 <= first <= last, f"the hello names {first} to {last}")
        self.carry(lambda: self._on_hello(held))

    def disconnect(self) -> None:
        if self.sender is not None and self._connected:
            self.count("disconnected")
            self._connected = False
            self._connection += 1
            self.sender.disconnected()

    def pump(self) -> None:
        while self.sender is not None:
            send = self.sender.next(self.now)
            if send is None:
                return
            check(self._connected, "sends while there is no connection")
            self._publish(send)

    def _publish(self, send: Send) -> None:
        epoch = self.disk.epochs[send.epoch]
        check(epoch.first <= send.first <= send.last <= epoch.head, f"asks for {send}")
        last = min(send.last, send.first + self.rng.choice((0, 1, 3, 9, 499)))
        batch = Batch(
            epoch.header,
            send.first,
            epoch.digests[send.first - 1],
            epoch.items(send.first, last),
        ).encode()
        self.count("batch")
        if self.faults.crashes and self.rng.random() < 0.01:
            self.kill_edge()  # perhaps sent, perhaps not
            if self.rng.random() < 0.5:
                self.carry(lambda: self._on_batch(send.epoch, batch))
            return
        assert self.sender is not None
        ticket = self.sender.sent(send, last)
        connection = self._connection

        def carried() -> None:
            if self.sender is not None and connection == self._connection:
                self.sender.carried(ticket, self.now)

        # The line to the broker loses nothing while it stands; what the broker does is another
        # matter.
        self.at(self.now + self.rng.randint(0, 300), carried)
        if not self.hub_up and self.rng.random() < 0.7:
            self.count("nobody listens")
            self._to_edge(self._on_nobody)
            return
        self.carry(lambda: self._on_batch(send.epoch, batch))

    def _to_edge(self, what: Callable[[], None]) -> None:
        """To the edge, over the connection that it has now; what is late finds it gone."""
        connection = self._connection

        def arrive() -> None:
            if self.sender is not None and connection == self._connection:
                what()

        self.carry(arrive)

    def _on_nobody(self) -> None:
        assert self.sender is not None
        self.sender.nobody_listens(self.now)

    def _on_hub_state(self, state: HubState) -> None:
        assert self.sender is not None
        self._follow(self.sender.hub_state(HubState.decode(state.encode()), self.now))

    def _on_receipt(self, data: bytes) -> None:
        assert self.sender is not None
        self._follow(self.sender.receipt(Receipt.decode(data), self.disk.digest_of, self.now))

    def _follow(self, outcomes: Sequence[Released | NewGeneration | Refused]) -> None:
        for outcome in outcomes:
            if self.faults.crashes and self.rng.random() < 0.02:
                self.kill_edge()  # a receipt that was not written down comes again
                return
            match outcome:
                case Released(epoch, through):
                    self.count("released")
                    held = self.disk.epochs[epoch]
                    check(through > held.released, "releases what was released")
                    held.released = through
                case NewGeneration(generation):
                    self.count("new generation")
                    check(generation > self.disk.generation, "a generation comes again")
                    # one transaction on the edge's disk
                    self.disk.generation = generation
                    for each in self.disk.epochs.values():
                        each.released = each.first - 1
                case Refused():
                    self.count("receipt refused")

    def prune(self) -> None:
        """Lets go of what has a receipt and is in every backup that the hub may come back from."""
        if self.sender is None:
            return
        epoch = self.rng.choice(list(self.disk.epochs.values()))
        through = epoch.released
        for database in (*self.backups, self.database):
            stored = database.epochs.get(epoch.id)
            through = min(through, stored.mark.through if stored else 0)
        if through >= epoch.first:
            self.count("pruned")
            epoch.first = through + 1
            self.sender.pruned(epoch.id, epoch.first)

    # --- hub ------------------------------------------------------------------------------------

    def _on_batch(self, epoch: bytes, data: bytes) -> None:
        if not self.hub_up:
            return
        batch = Batch.decode(data)
        links = tuple(link(batch.first, batch.previous, batch.items))
        key = epoch if self._key_by_epoch else next(iter(self.database.epochs), epoch)
        stored = self.database.epochs.get(key) or Stored(Mark(0, chain_start(batch.header_bytes)))
        before = deepcopy(stored)
        try:
            accepted = self._accept(stored.mark, batch.previous, links)
        except RemoteError as error:
            raise Broken(f"an honest batch was refused: {error}") from error
        for each in accepted.fresh:
            for seq in range(each.first, each.last + 1):
                check(seq not in stored.seqs, f"fresh repeats {seq}")
                stored.seqs[seq] = each.item if isinstance(each.item, bytes) else None
        stored.mark = accepted.mark
        if self._receipt_before_commit:
            self._send_receipt(key, stored.mark)
        if self.faults.crashes and self.rng.random() < 0.02:
            self.count("hub crash before commit")
            if before.seqs:
                self.database.epochs[key] = before
            self.crash_hub()
            return
        self.database.epochs[key] = stored
        if self.faults.crashes and self.rng.random() < 0.03:
            self.count("hub crash between commit and receipt")
            self.crash_hub()
            return
        self._send_receipt(key, stored.mark)

    def _send_receipt(self, epoch: bytes, mark: Mark) -> None:
        data = mark.receipt(EDGE, self.generation, epoch).encode()
        self._to_edge(lambda: self._on_receipt(data))

    def _on_hello(self, held: Sequence[tuple[bytes, int, int]]) -> None:
        if self.hub_up:
            for epoch, _first, _last in held:
                stored = self.database.epochs.get(epoch)
                if stored is not None:
                    self._send_receipt(epoch, stored.mark)

    def crash_hub(self) -> None:
        if self.hub_up:
            self.hub_up = False
            state = HubState(self.generation, self.session, online=False)
            self._to_edge(lambda: self._on_hub_state(state))  # its will
            self.at(self.now + self.rng.randint(100, 4_000), self.start_hub)

    def start_hub(self) -> None:
        if self.hub_up:
            return
        self.hub_up = True
        self.session += 1
        state = HubState(self.generation, self.session, online=True)
        self._to_edge(lambda: self._on_hub_state(state))

    def backup_hub(self) -> None:
        self.count("backup")
        self.backups = [*self.backups[-1:], deepcopy(self.database)]

    def restore_hub(self) -> None:
        """The hub comes back as it was at a backup, in a new generation, its session count too."""
        self.count("hub restored")
        self.past[self.generation] = self.database
        self.database = deepcopy(self.rng.choice(self.backups))
        self.generation += self.rng.choice((1, 1, 50))
        self.session = self.rng.randint(0, self.session)
        self.hub_up = False
        self.start_hub()

    # --- what must hold -------------------------------------------------------------------------

    def check(self) -> None:
        for database in (self.database,):
            for name, stored in database.epochs.items():
                self._check_stored(name, stored)
        if self.sender is None:
            return
        generation = self.sender.generation
        check(generation <= self.generation, "the edge knows a generation that never was")
        database = self.past.get(generation, self.database)
        unreceipted = 0
        for epoch in self.disk.epochs.values():
            stored = database.epochs.get(epoch.id)
            seqs = stored.seqs if stored else {}
            missing = [seq for seq in range(epoch.first, epoch.head + 1) if seq not in seqs]
            unreceipted += len(missing)
            if epoch.first <= epoch.head:
                released = self.sender.released(epoch.id)
                check(released <= epoch.head, "releases beyond the head")
                check(
                    not missing or released < missing[0],
                    f"released through {released}; the hub lacks {missing[:3]}",
                )
        check(
            self.sender.unreceipted() >= unreceipted,
            f"{unreceipted} entries are not at the hub; the edge thinks "
            f"{self.sender.unreceipted()} are without a receipt",
        )

    def _check_stored(self, name: bytes, stored: Stored) -> None:
        epoch = self.disk.epochs.get(name)
        check(epoch is not None, "the hub has an epoch that never was")
        assert epoch is not None
        for seq, entry in stored.seqs.items():
            check(1 <= seq <= epoch.head, f"the hub has {seq}, which was never durable")
            if entry is None:
                check(seq in epoch.unreadable, f"a gap over {seq}, which is readable")
            else:
                check(entry == epoch.entries[seq - 1], f"the hub has another entry {seq}")
        mark = stored.mark
        told = [(1, mark.through), *((i.first, i.last) for i in mark.islands)]
        for (_, before), (after, _) in itertools.pairwise(told):
            check(after > before + 1, "islands touch")
        covered = {seq for first, last in told for seq in range(first, last + 1)}
        check(covered == stored.seqs.keys(), "the mark does not say what is stored")
        check(mark.digest == epoch.digests[mark.through], "the mark's digest is wrong")
        for island in mark.islands:
            check(island.previous == epoch.digests[island.first - 1], "an island's start is wrong")
            check(island.digest == epoch.digests[island.last], "an island's end is wrong")

    def check_converged(self) -> None:
        assert self.sender is not None
        check(
            self.sender.unreceipted() == 0,
            f"{self.sender.unreceipted()} of {sum(e.head for e in self.disk.epochs.values())} "
            "entries have no receipt long after the faults stopped",
        )
        for epoch in self.disk.epochs.values():
            stored = self.database.epochs.get(epoch.id)
            have = stored.seqs.keys() if stored else set()
            check(
                have == set(range(1, epoch.head + 1)),
                f"the hub has {len(have)} of {epoch.head} entries of an epoch",
            )

    # --- a story --------------------------------------------------------------------------------

    def live(self, for_ms: int) -> None:
        """Bad times of many kinds, then good ones, in which everything must arrive."""
        rng = self.rng
        self.faults = Faults(
            loss=rng.choice((0.0, 0.05, 0.3, 0.6)),
            double=rng.choice((0.0, 0.1, 0.5)),
            delay_ms=rng.choice(((5, 40), (5, 40), (0, 3_000))),
            crashes=rng.random() < 0.7,
        )
        end = self.now + for_ms
        restores = rng.random() < 0.6
        while self.now < end:
            self.run(self.now + rng.choice((0, 1, 20, 200, 1_500)))
            match rng.randrange(24):
                case 0 | 1:
                    self.disconnect()
                case 2 | 3 | 4 | 5:
                    self.connect()
                case 6 if self.faults.crashes:
                    self.kill_edge()
                case 7 if self.faults.crashes:
                    self.count("hub crash")
                    self.crash_hub()
                case 8:
                    self.backup_hub()
                case 9 if restores:
                    self.restore_hub()
                case 10 | 11:
                    self.prune()
                case 12 if rng.random() < 0.3:
                    self.spoil()
                case 13:
                    for _ in range(rng.choice((5, 30))):
                        if self.sender is not None:
                            self.append()
                case _:
                    if self.sender is not None:
                        self.append()
            if self.sender is None and rng.random() < 0.5:
                self.start_edge()
            self.check()
        self.recover()

    def recover(self) -> None:
        """The faults stop: 60 s of a good network, in which a tap comes in now and then."""
        self.faults = Faults()
        if not self.hub_up:
            self.start_hub()
        if self.sender is None:
            self.start_edge()
        self.connect()
        end = self.now + 60_000
        while self.now < end - 5_000:
            self.run(self.now + self.rng.randint(300, 3_000))
            self.append()
        self.run(end)
        self.check()
        self.check_converged()

    def forged(self, epoch: bytes) -> list[Receipt]:
        """Receipts that are wrong in one way each, for an epoch with two entries or more."""
        held = self.disk.epochs[epoch]
        assert self.sender is not None
        generation, head = self.sender.generation, held.head
        good = held.digests[head]
        bad = bytes(32)
        return [
            Receipt(OTHER_EDGE, generation, epoch, head, good),
            Receipt(EDGE, generation - 1, epoch, head, good),
            Receipt(EDGE, generation, b"?" * 16, head, good),
            Receipt(EDGE, generation, epoch, head, bad),
            Receipt(EDGE, generation, epoch, head, held.digests[head - 1]),
            Receipt(EDGE, generation, epoch, head + 1, good),
            Receipt(EDGE, generation, epoch, 0, bad, (Range(2, head, bad),)),
            Receipt(EDGE, generation, epoch, 0, bad, (Range(2, head + 1, good),)),
            # of a later generation, and wrong: does not even bring its generation along
            Receipt(EDGE, generation + 1, epoch, head, bad),
        ]
