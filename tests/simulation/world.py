"""A year of one device, or of several for a part of it, from a seed.

Evenings with taps and faults, each followed by a calm in which everything must arrive within
CONVERGES_MS, and by a week of silence. What must hold is looked at where it may break: at each
commit of the hub, each release, each removal of an entry; after each evening; at the end.
"""

import contextlib
import hashlib
import heapq
import itertools
import logging
import os
import random
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from edge import recorder as recorder_module
from edge.couriers import mqtt as mqtt_module
from edge.enrol import Keys
from edge.feedback import Outcome
from hub.keys import Keyring
from protocol import topics
from protocol.batch import HubState, Receipt
from protocol.identity import Enrolment, MessageType, OpeningKey, SigningKey
from tests.simulation import curve
from tests.simulation.card import Card, DictCard, FileCard
from tests.simulation.device import RECORDED, YEARS_10_MS, Device
from tests.simulation.hub import CommitFailed, DictHub, Fact, FileHub, Hub, Key
from tests.simulation.invariants import Broken, check

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
WEEK_MS: Final = 7 * 86_400_000
CONVERGES_MS: Final = 60_000
BEGINS_MS: Final = 1_790_000_000_000  # September 2026
MAX_GROUP: Final = 64
REMEMBERED: Final = 60
"""Payloads that the broker remembers, to play them back."""
NEVER: Final = 1 << 62
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - a folder of its own is made in it

PER_YEAR: Final = {"taps": 2_000, "crashes": 50, "partitions": 20, "clock steps": 5}
"""What a simulated device-year has at least."""


class HubCrash(BaseException):
    """The hub's process dies: nothing may catch it."""


@dataclass(frozen=True, slots=True)
class WorldKind:
    """Which parts are the product's own to the last, at the cost of time."""

    signs: bool = False
    """With Ed25519 and not with a keyed hash."""
    journal_on_file: bool = False
    hub_on_file: bool = False

    @classmethod
    def of(cls, seed: int) -> "WorldKind":
        return cls(seed % 10 == 1, seed % 10 == 4, seed % 10 == 7)


@dataclass
class Faults:
    """How bad an evening is: shares of messages, of steps, of commits."""

    loss: float = 0.0
    double: float = 0.0
    delay_ms: tuple[int, int] = (2, 30)
    crash: float = 0.0
    storage: float = 0.0
    commit: float = 0.0


@dataclass(slots=True)
class Reading:
    """A card that was held to a reader; several times, if the member was impatient."""

    edge: bytes
    true_ms: list[int]
    is_acknowledged: bool = False
    is_excused: bool = False
    """The storage that had it rotted or was thrown away: it may be missing."""
    places: list[Key] = field(default_factory=list)
    """(epoch, seq) of where it was made durable, as (epoch, seq as 8 bytes)."""


@dataclass(frozen=True, slots=True)
class Lived:
    """What a world came to."""

    seed: int
    years: float
    tally: Mapping[str, int]
    lost: int
    doubled: int
    worst_converge_ms: int
    digest: str


class World:
    """Everything, and what must hold."""

    def __init__(self, seed: int, folder: Path, kind: WorldKind) -> None:
        self.seed, self.kind = seed, kind
        self.rng = random.Random(seed)
        self.now = BEGINS_MS
        self.faults = Faults()
        self.tally: Counter[str] = Counter()
        self.story = hashlib.blake2b(digest_size=16)
        self.recent: deque[str] = deque(maxlen=40)
        self._order = itertools.count()
        self._events: list[tuple[int, int, Callable[[], object]]] = []
        self._names = (f"card-{n}" for n in itertools.count())
        self._folder = folder
        rng = self.rng
        # who is who
        self.keyring = Keyring(SigningKey(rng.randbytes(32)), (OpeningKey(rng.randbytes(32)),))
        self._mallory = SigningKey(rng.randbytes(32))
        self.generation = self.now // 1000 - 10_000
        count = rng.choice((1, 2, 2, 3))
        self.weeks = -(-52 // count) if not kind.hub_on_file else 6
        self.running: Device | None = None
        self.sessions: dict[bytes, Device] = {}
        enrolled = [self._enrol(n) for n in range(count)]
        self.devices = [
            Device(self, f"device {n}", *each, self._new_card(), folder / f"data-{n}")
            for n, each in enumerate(enrolled)
        ]
        self.clones: list[Device] = []
        # the broker
        self.state_topic = topics.HUB_STATE
        self.broker_up = True
        self.retained: bytes | None = None
        self._up: deque[tuple[str, bytes]] = deque(maxlen=REMEMBERED)
        self._down: deque[tuple[str, bytes]] = deque(maxlen=REMEMBERED)
        # the hub
        self.hub_is_up = self.hub_listens = False
        self._hub_queue: list[tuple[str, bytes]] = []
        self._hub_due = False
        self._will = b""
        devices = {enrolment.edge: keys.sign.public for enrolment, keys in enrolled}
        made = (self.keyring, devices, self.generation, self.from_hub, self, BEGINS_MS - WEEK_MS)
        self.hub: Hub = FileHub(*made, folder) if kind.hub_on_file else DictHub(*made)
        self.backups: list[object] = [self.hub.back_up()]
        self.generations = {self.generation}
        # what must come out
        self.ledger: dict[int, Reading] = {}
        self.at_place: dict[tuple[bytes, int], int] = {}
        self._facts: list[tuple[Key, Fact]] = []
        self._cards = itertools.count(1)
        self.forked_ms: dict[bytes, int] = {}
        self.worst_converge_ms = 0
        self.start_hub()
        for device in self.devices:
            device.start()

    def _enrol(self, number: int) -> tuple[Enrolment, Keys]:
        keys = Keys(SigningKey(self.rng.randbytes(32)), OpeningKey(self.rng.randbytes(32)))
        hub = self.keyring.public()
        name = f"device {number}"
        enrolment = Enrolment(
            self.rng.randbytes(16), name, keys.sign.public, hub, self.generation, "mqtt://x"
        )
        return enrolment, keys

    def _new_card(self) -> Card:
        nobody: Any = None
        if self.kind.journal_on_file:
            return FileCard(nobody, self._folder, lambda: next(self._names))
        return DictCard(nobody)

    # --- time and the story -----------------------------------------------------------------------

    def at(self, when: int, what: Callable[[], object]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def in_a_while(self, what: Callable[[], object], most_ms: int) -> None:
        self.at(self.now + self.rng.randint(most_ms // 10, most_ms), what)

    def run(self, until: int) -> None:
        events = self._events
        while events and events[0][0] <= until:
            when, _, what = heapq.heappop(events)
            self.now = max(self.now, when)
            what()
        self.now = max(self.now, until)

    def count(self, what: str, times: int = 1) -> None:
        self.tally[what] += times
        self.note(what)

    def note(self, *what: object) -> None:
        """A line of the story; no key, digest or signature, which are nobody's choice."""
        line = f"{self.now - BEGINS_MS} {' '.join(map(str, what))}"
        self.story.update(line.encode())
        self.recent.append(line)

    # --- the network ------------------------------------------------------------------------------

    def _delay(self) -> int:
        return self.rng.randint(*self.faults.delay_ms)

    def _copies(self) -> int:
        rng, faults = self.rng, self.faults
        copies = 1
        if faults.double and rng.random() < faults.double:
            copies += rng.randint(1, 2)
        if faults.loss:
            copies = sum(rng.random() >= faults.loss for _ in range(copies))
        return copies

    def from_edge(self, device: Device, number: int, topic: str, payload: bytes) -> None:
        connection = device.connection
        self.note("up", device.name, topic.rpartition("/")[2], len(payload))

        def at_broker() -> None:
            if connection != device.connection or device.is_partitioned or not self.broker_up:
                return
            self._up.append((topic, payload))
            if topic.endswith("/journal"):
                # The line to the broker loses nothing while it stands. What the broker does is
                # another matter: it says that it has the message, and loses it.
                heard = device.carried if self.hub_listens else None
                self.at(
                    self.now + self._delay(),
                    (lambda: heard(connection, number))
                    if heard is not None
                    else (lambda: device.not_taken(connection)),
                )
            for _ in range(self._copies()):
                self.at(self.now + self._delay(), lambda: self._at_hub(topic, payload))

        self.at(self.now + self._delay(), at_broker)

    def from_hub(self, topic: str, payload: bytes) -> None:
        """What the hub publishes."""
        if not self.hub_listens or not self.broker_up:
            return
        self._down.append((topic, payload))
        edge = bytes.fromhex(topic.split("/")[3])
        self.note("down", topic.rpartition("/")[2])
        self.to_edge(edge, topic, payload)

    def to_edge(self, edge: bytes, topic: str, payload: bytes) -> None:
        for _ in range(self._copies()):
            self.at(self.now + self._delay(), lambda: self._deliver(edge, topic, payload))

    def _deliver(self, edge: bytes, topic: str, payload: bytes) -> None:
        device = self.sessions.get(edge)
        if device is not None:
            device.incoming(topic, payload)

    def restart_broker(self) -> None:
        """It forgets all: sessions, what was retained, what was on its way."""
        if not self.broker_up:
            return
        self.count("broker restarted")
        self.broker_up, self.retained = False, None
        for device in list(self.sessions.values()):
            device.disconnect()
        if self.hub_listens:
            self.hub_listens = False
        self.in_a_while(self._broker_is_back, 5_000)

    def _broker_is_back(self) -> None:
        self.broker_up = True
        self.in_a_while(self._hub_connects, 8_000)

    # --- the hub ----------------------------------------------------------------------------------

    def start_hub(self) -> None:
        if not self.hub_is_up:
            self.hub_is_up = True
            self._hub_connects()

    def _hub_connects(self) -> None:
        if not self.hub_is_up or self.hub_listens or not self.broker_up:
            return
        try:
            online, self._will = self.hub.begin_session()
        except HubCrash:
            self._hub_dies()
            return
        except Exception as error:  # the database failed: the network's thread tries again
            if "COMMIT" not in str(error):
                raise
            self.in_a_while(self._hub_connects, 8_000)
            return
        self.hub_listens = True
        self._state(online)

    def _state(self, word: bytes) -> None:
        if self.broker_up:
            self.retained = word
            for edge in list(self.sessions):
                self.to_edge(edge, self.state_topic, word)

    def crash_hub(self) -> None:
        if self.hub_is_up:
            self._hub_dies()

    def _hub_dies(self) -> None:
        self.count("hub crash")
        self.hub_is_up = False
        self.hub.die()
        self._hub_queue.clear()
        if self.hub_listens:
            self.hub_listens = False
            will = self._will
            self.in_a_while(lambda: self._state(will), 20_000)
        self.in_a_while(self.start_hub, 15_000)

    def _at_hub(self, topic: str, payload: bytes) -> None:
        if not self.hub_listens:
            return
        self._hub_queue.append((topic, payload))
        if not self._hub_due:
            self._hub_due = True
            self.at(self.now + self.rng.randint(0, 15), self._land)

    def _land(self) -> None:
        self._hub_due = False
        if not self.hub_is_up or not self._hub_queue:
            return
        group = self._hub_queue[:MAX_GROUP]
        try:
            self.hub.land(group, self.now)
        except HubCrash:
            self._hub_dies()
            return
        except CommitFailed:
            self.count("commit failed")
            wait = self.rng.choice((500, 1_000, 4_000))
        else:
            del self._hub_queue[: len(group)]
            wait = 1
        if self._hub_queue:
            self._hub_due = True
            self.at(self.now + wait, self._land)

    def hub_step(self, where: str) -> None:
        if self.faults.crash and self.rng.random() < self.faults.crash:
            self.count(f"hub crash {where}")
            raise HubCrash

    def commit_fails(self) -> bool:
        return bool(self.faults.commit) and self.rng.random() < self.faults.commit

    def committed(self, key: Key, fact: Fact) -> None:
        self._facts.append((key, fact))

    def restore_hub(self) -> None:
        """An older backup is put back: a new generation.

        Not while a device is away for weeks: what it was given receipts for it may remove before it
        hears of this. That is a limit of every retention by age, and stated as one.
        """
        if any(device.weeks_alone for device in self.devices):
            return
        self.count("hub restored")
        if self.hub_listens:
            self._state(self._will)
        self.hub_is_up = self.hub_listens = False
        self._hub_queue.clear()
        self.hub.die()
        self.hub.restore(self.rng.choice(self.backups), self.now)
        self.start_hub()

    # --- a stick ----------------------------------------------------------------------------------

    def send_stick(self, device: Device) -> None:
        file = device.export()
        if file is None or len(file) < 40:
            return
        self.count("stick carried")
        self.in_a_while(
            lambda: self._stick_at_hub(file), self.rng.choice((MINUTE_MS, HOUR_MS, 2 * WEEK_MS))
        )

    def _stick_at_hub(self, file: bytes) -> None:
        if not self.hub_is_up:
            self.in_a_while(lambda: self._stick_at_hub(file), HOUR_MS)
            return
        try:
            answers = self.hub.carry_in(file, self.now)
        except HubCrash:
            self._hub_dies()
            answers = None
        except CommitFailed:
            answers = None
        if answers is None:  # whoever imports does so again
            self.in_a_while(lambda: self._stick_at_hub(file), 10 * MINUTE_MS)
            return
        if self.rng.random() < 0.2:
            self.count("stick imported twice")
            self.in_a_while(lambda: self._stick_at_hub(file), HOUR_MS)
        for edge, answer in answers.items():
            for device in self.devices:
                if device.edge == edge:
                    back = self._reads_stick(device, answer)
                    self.in_a_while(back, self.rng.choice((MINUTE_MS, HOUR_MS, 2 * WEEK_MS)))

    def _reads_stick(self, device: Device, answer: bytes) -> Callable[[], None]:
        return lambda: device.read_stick(answer)

    # --- whoever means ill ------------------------------------------------------------------------

    def mean_ill(self) -> None:
        """The broker is in wrong hands: it plays back, swaps, spoils and forges."""
        rng = self.rng
        kind = rng.choice(
            (
                "replay up",
                "replay down",
                "swap",
                "forge",
                "unsigned",
                "other edge",
                "spoil",
                "state",
            )
        )
        device = rng.choice(self.devices)
        self.count(kind)
        match kind:
            case "replay up" if self._up:
                self._at_hub(*rng.choice(self._up))
            case "replay down" if self._down:
                topic, payload = rng.choice(self._down)
                self._deliver(bytes.fromhex(topic.split("/")[3]), topic, payload)
            case "swap" if self._down:
                topic, payload = rng.choice(self._down)
                tail = topic.rpartition("/")[2]
                self._deliver(device.edge, f"shuaka/v1/down/{device.edge.hex()}/{tail}", payload)
            case "swap" | "spoil" if self._up:
                topic, payload = rng.choice(self._up)
                at = rng.randrange(len(payload))
                spoilt = bytearray(payload)
                spoilt[at] ^= 1 << rng.randrange(8)
                self._at_hub(topic, bytes(spoilt))
            case "forge" | "unsigned" | "other edge":
                self._forge(device, kind)
            case "state":
                word = HubState(self.generation + 10**9, 1, online=True)
                self._deliver(
                    device.edge,
                    self.state_topic,
                    self._mallory.sign(MessageType.HUB_STATE, word.encode()),
                )
            case _:
                pass

    def _forge(self, device: Device, kind: str) -> None:
        """A receipt that is perfect but for one thing: of what the hub may lack, with the digest
        that whoever saw the batch can compute."""
        courier = device.courier
        held = [each for each in device.card.held() if each.head >= each.first]
        if courier is None or not held:
            return
        last = held[-1]
        digest = device.card.digest(last.epoch, last.head)
        if digest is None:
            return
        generation = courier._sender.generation
        receipt = Receipt(device.edge, generation, last.epoch, last.head, digest)
        match kind:
            case "forge":
                payload = self._mallory.sign(MessageType.RECEIPT, receipt.encode())
            case "unsigned":
                signed = self.keyring.sign.sign(MessageType.RECEIPT, receipt.encode())
                payload = signed[:-64] + bytes(64)
            case _:
                # What the hub signs for a device that has a copy of this card under its own name.
                other = replace(receipt, edge=bytes(16))
                payload = self.keyring.sign.sign(MessageType.RECEIPT, other.encode())
        self._deliver(device.edge, topics.receipt(device.edge), payload)

    # --- what must hold ---------------------------------------------------------------------------

    def placed(self, epoch: bytes, seq: int, tap: int) -> None:
        """A tap was made durable there."""
        self.at_place[epoch, seq] = tap
        self.ledger[tap].places.append((epoch, seq.to_bytes(8)))

    def check_released(self, device: Device, epoch: bytes, through: int) -> None:
        """Nothing is let go of that the hub lacks."""
        self.note("released", device.name, through)
        assert device.courier is not None
        generation = device.courier._sender.generation
        has = self.hub.contiguous((device.edge, epoch), generation)
        check(through <= has, f"{device.name} lets go up to {through}; the hub has up to {has}")

    def check_removed(self, device: Device, epoch: bytes, last: int) -> None:
        """Nothing is removed from a card that the hub lacks, nor after a restore."""
        key = (device.edge, epoch)
        has = self.hub.contiguous(key, NEVER)
        check(last <= has, f"{device.name} removed up to {last}; the hub has up to {has}")
        if isinstance(self.hub, DictHub):
            for backup in self.backups:
                stored = backup.epochs.get(key)  # type: ignore[attr-defined]
                has = stored.contiguous if stored else 0
                check(last <= has, f"{device.name} removed up to {last}; a backup has up to {has}")

    def check_generation(self, generation: int) -> None:
        check(generation < self.generation + 10**8, "a generation that no hub began")

    def _check_times(self) -> None:
        """What is dated exactly is right; an interval holds the true time; order is kept."""
        hub = self.hub
        assert isinstance(hub, DictHub)
        orders: dict[Key, tuple[int, int]] = {}
        for key, fact in self._facts:
            stored = hub.database.epochs.get(key)
            if stored is None or fact.tap is None:
                continue
            dated = hub.dated(key, fact)
            truths = self.ledger[fact.tap].true_ms
            if dated.exact:
                check(
                    dated.earliest_ms in truths,
                    f"tap {fact.tap} is dated {dated.earliest_ms}; it was at {truths}",
                )
            else:
                low = dated.earliest_ms or 0
                high = NEVER if dated.latest_ms is None else dated.latest_ms
                check(
                    any(low <= each <= high for each in truths),
                    f"tap {fact.tap} is dated {low} to {high}; it was at {truths}",
                )
            boot = (key[0], stored.header.boot)
            if dated.exact and len(truths) == 1:
                at = dated.earliest_ms or 0
                before = orders.get(boot)
                if before is not None:
                    check(
                        (fact.boottime_ms - before[0]) == (at - before[1]),
                        "the order within a boot is not kept",
                    )
                orders[boot] = (fact.boottime_ms, at)
        self._facts.clear()

    def _check_completeness(self) -> None:
        """Where the record is said to be complete, no acknowledged tap is missing."""
        hub = self.hub
        assert isinstance(hub, DictHub)
        has = hub.taps()
        for device in self.devices:
            known = hub.completeness(device.edge)
            if known.through_ms is None:
                continue
            self.tally["said to be complete"] += 1
            until = min(known.through_ms, self.forked_ms.get(device.edge, NEVER))
            for tap, reading in self._recent_readings(device.edge):
                if reading.is_acknowledged and not reading.is_excused and not has[tap]:
                    check(
                        reading.true_ms[0] >= until,
                        f"complete up to {until}, but tap {tap} of {reading.true_ms[0]} is missing",
                    )

    def _recent_readings(self, edge: bytes) -> Iterator[tuple[int, Reading]]:
        for tap in range(len(self.ledger), max(0, len(self.ledger) - 1_000), -1):
            reading = self.ledger.get(tap)
            if reading is not None and reading.edge == edge:
                yield tap, reading

    def _missing(self, device: Device) -> str:
        """What has not arrived of what is on a card; empty where all has."""
        for held in device.card.held():
            has = self.hub.contiguous((device.edge, held.epoch), NEVER)
            if held.head >= held.first and has < held.head:
                return f"{held.epoch.hex()[:8]}: {has} of {held.head}"
        if device.is_on and not device.is_forked:
            assert device.courier is not None
            waiting = device.courier._sender.unreceipted()
            return f"{waiting} without a receipt" if waiting else ""
        return ""

    def _count_taps(self) -> tuple[int, int]:
        has = self.hub.taps()
        lost = [
            tap
            for tap, reading in self.ledger.items()
            if reading.is_acknowledged and not reading.is_excused and not has[tap]
        ]
        doubled = [tap for tap, times in has.items() if times > len(self.ledger[tap].true_ms)]
        check(not lost, f"{len(lost)} acknowledged taps never arrived: {lost[:5]}")
        check(not doubled, f"{len(doubled)} taps are stored too often: {doubled[:5]}")
        return len(lost), len(doubled)

    # --- a year -----------------------------------------------------------------------------------

    def live(self) -> Lived:
        for week in range(self.weeks):
            self._evening()
            if self.rng.random() < 0.8 or week == self.weeks - 1:
                self._calm(is_last=week == self.weeks - 1)
            self._look()
            self._week()
        self._calm(is_last=True)
        self._look()
        lost, doubled = self._count_taps()
        self.note("ends")
        return Lived(
            self.seed,
            self.weeks * len(self.devices) / 52,
            dict(self.tally),
            lost,
            doubled,
            self.worst_converge_ms,
            self.story.hexdigest(),
        )

    def _look(self) -> None:
        if isinstance(self.hub, DictHub):
            self._check_times()
            self._check_completeness()

    def _evening(self) -> None:
        rng = self.rng
        self.faults = Faults(
            loss=rng.choice((0.0, 0.02, 0.2, 0.5)),
            double=rng.choice((0.0, 0.1, 0.4)),
            delay_ms=rng.choice(((2, 30), (2, 30), (5, 200), (0, 3_000))),
            crash=rng.choice((0.0, 0.0005, 0.002)),
            storage=rng.choice((0.0, 0.0, 0.01)),
            commit=rng.choice((0.0, 0.0, 0.03)),
        )
        begins, ends = self.now, self.now + rng.randint(6, 15) * MINUTE_MS

        def some_time() -> int:
            return rng.randint(begins, ends)

        for device in self.devices + self.clones:
            device.is_away = False
            if not device.is_on:
                device.clock.reboot()
                device.start()
            if not device.weeks_alone:
                device.join()
            else:
                device.part()
            self._plan(device, some_time)
        for chance, what in (
            (0.5, self.crash_hub),
            (0.25, self.restart_broker),
            (0.06, self.restore_hub),
            (0.6, self.mean_ill),
            (0.6, self.mean_ill),
            (0.4, self.mean_ill),
        ):
            if rng.random() < chance:
                self.at(some_time(), what)
        self.run(ends)

    def _plan(self, device: Device, some_time: Callable[[], int]) -> None:
        """Taps and mishaps of an evening."""
        rng = self.rng
        left = rng.randint(36, 46)
        while left > 0:
            together = min(left, rng.choice((1, 1, 1, 2, 4)))
            left -= together
            self.at(some_time(), self._taps(device, together))
        if rng.random() < 0.6 and not device.clock.trusted():
            self.at(some_time(), device.clock.set_right)
        for minute in range(3):
            self.at(self.now + (minute + 1) * 2 * MINUTE_MS, device.idle)
        for chance, what in (
            (0.5, lambda: self._kill(device, reboots=False)),
            (0.4, lambda: self._kill(device, reboots=True)),
            (0.5, lambda: self._part_for_a_while(device)),
            (0.22, lambda: self._step_clock(device)),
            (0.12, lambda: self._rot(device)),
            (0.2, device.stumble),
            (0.3 if device.weeks_alone else 0.05, lambda: self.send_stick(device)),
        ):
            if rng.random() < chance:
                self.at(some_time(), what)

    def _taps(self, device: Device, count: int) -> Callable[[], None]:
        def happens() -> None:
            if not device.is_on:
                return
            cards = [next(self._cards) for _ in range(count)]
            for card in cards:
                self.ledger[card] = Reading(device.edge, [self.now])
            self.tally["taps"] += count
            lights = device.tap(cards)
            self.note("taps", device.name, *(light.name for light in lights))
            recorded = [
                card for card, light in zip(cards, lights, strict=False) if light in RECORDED
            ]
            for card in recorded:
                self.ledger[card].is_acknowledged = True
            if recorded and device.is_on and self.rng.random() < 0.1:
                self._again(device, recorded[-1])

        return happens

    def _again(self, device: Device, card: int) -> None:
        """The member is impatient, and holds the card to the reader once more."""
        was = device.recorder

        def happens() -> None:
            if device.is_on:
                self.ledger[card].true_ms.append(self.now)
                self.tally["impatient"] += 1
                lights = device.tap([card])
                if device.recorder is was and lights:
                    check(lights == [Outcome.ALREADY], f"a repeat is said to be {lights}")
                    self.ledger[card].true_ms.pop()

        self.at(self.now + self.rng.randint(200, 2_500), happens)

    def _kill(self, device: Device, *, reboots: bool) -> None:
        if device.is_on:
            self.count("killed")
            device.die(reboots=reboots)
            self.in_a_while(device.start, 20_000)

    def _part_for_a_while(self, device: Device) -> None:
        if not device.is_partitioned:
            device.part()
            if not device.weeks_alone:
                self.in_a_while(device.join, self.rng.choice((5_000, MINUTE_MS, 5 * MINUTE_MS)))

    def _step_clock(self, device: Device) -> None:
        self.count("clock stepped")
        by_ms = self.rng.choice((-HOUR_MS, YEARS_10_MS))
        # a lie that is trusted is seen through only where it is in the future
        device.clock.step(by_ms, trusted=by_ms > 0 and self.rng.random() < 0.3)
        device.idle()
        if self.rng.random() < 0.8:
            self.in_a_while(device.clock.set_right, 4 * MINUTE_MS)

    def _rot(self, device: Device) -> None:
        """An entry rots; if it was not delivered, it is lost and stated to be."""
        held = [each for each in device.card.held() if each.head > each.first]
        if not held:
            return
        each = self.rng.choice(held[-3:])
        seq = self.rng.randint(each.first, each.head - 1)
        self.count("rotten")
        device.card.rot(each.epoch, seq)
        tap = self.at_place.get((each.epoch, seq))
        if tap is not None:
            self.ledger[tap].is_excused = True

    def _calm(self, *, is_last: bool) -> None:
        """No more faults: everything arrives, in time."""
        rng = self.rng
        self.faults = Faults()
        begins = self.now
        for device in self.devices:
            if is_last:
                device.weeks_alone = 0
        for group in ([*self.devices], [*self.clones]):
            if not group:
                continue
            begins = self.now
            for device in self.devices + self.clones:
                device.is_away = device not in group
                if device.is_away:
                    device.die()
            reachable = [device for device in group if not device.weeks_alone]
            for device in reachable:
                device.is_partitioned = False
                self.at(self.now, device.start)
                self.at(self.now + rng.randint(0, 10_000), device.connect)
            self._settle(reachable, begins)
        for device in self.devices:
            device.is_away = False
        for device in self.clones:
            self._put_away(device)
        if self.clones and (is_last or rng.random() < 0.6):
            for device in self.clones:  # all has arrived; but a hub put back asks for it in vain
                self._excuse(device, {})
            self.clones.clear()

    def _put_away(self, device: Device) -> None:
        device.is_away = True
        device.die()

    def _settle(self, devices: list[Device], begins: int) -> None:
        self.at(self.now, self.start_hub)
        if self.rng.random() < 0.5:
            for device in devices:
                self.at(self.now + self.rng.randint(0, 3_000), self._taps(device, 1))
        self.run(self.now + 3_100)
        while True:
            missing = {each.name: what for each in devices if (what := self._missing(each))}
            if not missing:
                break
            check(
                self.now - begins <= CONVERGES_MS,
                f"{CONVERGES_MS // 1000} s after the faults stopped: {missing}",
            )
            self.run(self.now + 250)
        self.worst_converge_ms = max(self.worst_converge_ms, self.now - begins)
        self.note("calm", len(devices))
        for device in devices:
            device.idle()
        self.run(self.now + 100)

    def _week(self) -> None:
        """Nobody is there. Cards are exchanged, the hub is backed up, time goes by."""
        rng = self.rng
        self.faults = Faults()
        for device in self.clones:  # else the two drive each other out the whole week
            self._put_away(device)
        for device in self.devices:
            unsettled = device.is_forked or bool(self._missing(device))
            how = rng.choice(("stop", "cut", "on", "on")) if not device.weeks_alone else "on"
            if how == "stop" and device.is_on:
                device.stop()
            elif how == "cut" or (unsettled and not device.is_partitioned):
                device.die()
            if device.weeks_alone:
                device.weeks_alone -= 1
            elif not unsettled and rng.random() < 0.1 / len(self.devices):
                device.weeks_alone = rng.randint(1, 6)
                device.part()
            if rng.random() < 0.03:
                self._roll_back(device)
            elif rng.random() < 0.03 and not self.clones:
                self._clone(device)
        self.run(self.now + HOUR_MS)
        if not self.hub_is_up:
            self.start_hub()
        self.backups = [*self.backups[-1:], self.hub.back_up()]
        self.run(self.now + WEEK_MS - HOUR_MS)

    def _roll_back(self, device: Device) -> None:
        """The card is replaced by a copy of it made some taps ago."""
        self.count("rolled back")
        copy = device.card.copy()
        self._forked(device)
        self.faults = Faults()
        if not device.is_on:
            device.start()
        for _ in range(self.rng.randint(0, 4)):
            self._taps(device, 1)()
        self.run(self.now + self.rng.choice((0, 2_000)))
        device.die()
        self._excuse(device, {each.epoch: each.head for each in copy.held()})
        device.card = copy

    def _excuse(self, device: Device, kept: Mapping[bytes, int]) -> None:
        """A card is thrown away: what is on it beyond `kept` can be asked for no more."""
        for each in device.card.held():
            for seq in range(kept.get(each.epoch, 0) + 1, each.head + 1):
                tap = self.at_place.get((each.epoch, seq))
                if tap is not None:
                    self.ledger[tap].is_excused = True

    def _clone(self, device: Device) -> None:
        """Its card is copied into a second device, which goes on beside it."""
        self.count("cloned")
        self._forked(device)
        clone = Device(
            self,
            f"copy of {device.name}",
            device.enrolment,
            device.keys,
            device.card.copy(),
            device.data.with_name(f"{device.data.name}-copy-{self.tally['cloned']}"),
        )
        clone.is_forked = True
        self.clones.append(clone)

    def _forked(self, device: Device) -> None:
        device.is_forked = True
        self.forked_ms.setdefault(device.edge, self.now)


def crashes(tally: Mapping[str, int]) -> int:
    """Of devices and of the hub, however they came about."""
    return sum(
        times
        for what, times in tally.items()
        if what in {"killed", "hub crash", "broker restarted"} or what.startswith("crash ")
    )


def of_the_year(tally: Mapping[str, int]) -> dict[str, int]:
    """What PER_YEAR asks for."""
    return {
        "taps": tally.get("taps", 0),
        "crashes": crashes(tally),
        "partitions": tally.get("partition", 0),
        "clock steps": tally.get("clock stepped", 0),
    }


@contextlib.contextmanager
def _joined(world_of: Callable[[], World]) -> Iterator[None]:
    """The product's modules ask this world's clocks and storage."""
    mqtt: Any = mqtt_module
    recorder: Any = recorder_module
    kept = mqtt._now, mqtt.JournalReader, recorder.Journal, logging.root.manager.disable

    def running() -> Device:
        device = world_of().running
        assert device is not None
        return device

    mqtt._now = lambda: running().clock.boottime_ms()  # noqa: PLW0108
    mqtt.JournalReader = lambda _data: running().card.reader()
    recorder.Journal = SimpleNamespace(open=lambda *args: running().card.open(*args))  # noqa: PLW0108
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        mqtt._now, mqtt.JournalReader, recorder.Journal = kept[:3]
        logging.disable(kept[3])


@dataclass(frozen=True, slots=True)
class Failed:
    """A world in which something did not hold."""

    seed: int
    why: str
    story: tuple[str, ...]
    """Its last lines."""

    def __str__(self) -> str:
        lines = "\n  ".join(self.story)
        again = f"python -m tests.simulation --seed {self.seed} --seeds 1"
        return f"seed {self.seed}: {self.why}\n  {lines}\nagain: {again}"


def simulate(seed: int, kind: WorldKind | None = None) -> Lived | Failed:
    """Lives the world of `seed`."""
    kind = kind or WorldKind.of(seed)
    base = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    worlds: list[World] = []
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=base))
    try:
        with (
            contextlib.nullcontext() if kind.signs else curve.cheap(),
            _joined(lambda: worlds[0]),
        ):
            try:
                worlds.append(World.__new__(World))
                worlds[0].__init__(seed, folder, kind)  # type: ignore[misc]
                return worlds[0].live()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a defect
                recent = tuple(getattr(worlds[0], "recent", ()))
                why = (
                    str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
                )
                return Failed(seed, why, recent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
