"""A device: its clocks, its card, and the product's recorder and courier, turned by hand.

The threads of both are not started: each `turn` lets them do what they would do now, until neither
has anything left. A step of the storage, of the light or of the network may be the last before the
power goes (`Crash`).
"""

import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.couriers.file import Export
from edge.couriers.mqtt import Carried, Connected, Courier, Disconnected, Incoming, NotTaken, Stop
from edge.enrol import Keys
from edge.feedback import Notice, Outcome, Standing
from edge.readers import CardRead, ReaderDown, ReaderUp
from edge.recorder import Recorder
from edge.store import JournalError, NewTap, Owner, Retention
from protocol.courierfile import CourierReader, Direction
from protocol.credential import Assurance, Credential
from protocol.errors import RemoteError
from protocol.identity import Enrolment
from protocol.roster import Roster
from protocol.topics import Broker
from tests.simulation.card import Card
from tests.simulation.invariants import check

if TYPE_CHECKING:
    from tests.simulation.world import World

KEEP = Retention(days=16, entries=1200)
"""More than the backups that the hub is put back to are old: those of the last two weeks."""
DEBOUNCE_MS = 3_000
RECORDED = frozenset({Outcome.RECORDED, Outcome.RECOGNISED, Outcome.UNKNOWN})
YEARS_10_MS = 10 * 365 * 86_400_000
READER = "reader"


class Crash(BaseException):
    """The power goes, or the process is killed: nothing may catch it."""


class Clock:
    """What the device believes the time to be."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.reboot()

    def reboot(self) -> None:
        """CLOCK_BOOTTIME begins anew; the wall clock is anywhere in the past, and not trusted."""
        rng = self._world.rng
        self._booted_ms = self._world.now - rng.randint(1_000, 20_000)
        self._boot = rng.randbytes(16)
        self._trusted = False
        # 1970, the last saved time, or as it was
        self._offset_ms = rng.choice((-self._world.now, -rng.randint(0, 90 * 86_400_000), 0))

    def boottime_ms(self) -> int:
        return self._world.now - self._booted_ms

    def wall_ms(self) -> int:
        return self._world.now + self._offset_ms

    def trusted(self) -> bool:
        return self._trusted

    def boot_id(self) -> bytes:
        return self._boot

    def set_right(self) -> None:
        self._offset_ms, self._trusted = 0, True

    def step(self, by_ms: int, *, trusted: bool) -> None:
        self._offset_ms += by_ms
        self._trusted = trusted


class Device:
    """One device and its card; `edge` may be that of another, if the card is a copy."""

    def __init__(
        self, world: "World", name: str, enrolment: Enrolment, keys: Keys, card: Card, data: Path
    ) -> None:
        self.world, self.name = world, name
        self.rng = random.Random(world.rng.random())
        self.enrolment, self.keys, self.card, self.data = enrolment, keys, card, data
        self.edge = enrolment.edge
        self.clock = Clock(world)
        self.recorder: Recorder | None = None
        self.courier: Courier | None = None
        self.connection = 0
        self.is_connected = False
        self.is_partitioned = False
        self.is_forked = False
        self.is_away = False
        """Nobody switches it on."""
        self.weeks_alone = 0
        self.outcomes: list[Outcome] = []
        self._message = self._wakes = 0
        self._tries = False

    # --- its life ---------------------------------------------------------------------------------

    @property
    def is_on(self) -> bool:
        return self.courier is not None

    def start(self) -> None:
        """The daemon starts; in the boot that is."""
        if self.is_on or self.is_away:
            return
        self.card.watch = self
        owner = Owner(self.edge, self.enrolment.hub.seal)
        try:
            recorder = Recorder(
                self.data,
                owner,
                self.clock,
                self,
                debounce_ms=DEBOUNCE_MS,
                read_timeout_ms=2_000,
                keep=KEEP,
            )
            courier = Courier(
                self.data,
                self.enrolment,
                self.keys,
                Broker("broker.invalid", 1883, tls=False),
                _Owner(self, recorder),
            )
            courier._link = self  # type: ignore[assignment]
            courier._sender._rng = self.rng
            recorder._listener = courier
            self.recorder, self.courier = recorder, courier
            self.world.running = self
            try:
                recorder._open()
            except JournalError as error:
                recorder._lose_journal(error)
            recorder.reader_event(ReaderUp(READER))
        except Crash:
            self.die()
            return
        self.turn()
        self.world.in_a_while(self.connect, 500)

    def die(self, *, reboots: bool = False) -> None:
        """The process is killed, or the power goes."""
        if not self.is_on:
            return
        self.recorder = self.courier = None
        self._hang_up()
        self.card.cut()
        if reboots:
            self.clock.reboot()

    def stop(self) -> None:
        """An orderly end: what was read is recorded, the end is stated."""
        if self.recorder is not None and self.courier is not None:
            self.recorder.ask_state()
            self.turn()
            self.die()

    def turn(self, *events: Any) -> None:
        """Recorder and courier do all that there is to do."""
        if self.recorder is None or self.courier is None:
            return
        self.world.running = self
        try:
            for event in events:
                self.courier.tell(event)
            while self._do():
                pass
        except Crash:
            self.world.note("crash", self.name)
            self.die(reboots=self.rng.random() < 0.4)
            self.world.in_a_while(self.start, 20_000)
            return
        self._set_alarm()

    def idle(self) -> None:
        """Half a second without events."""
        if self.recorder is None:
            return
        self.world.running = self
        try:
            self.recorder._idle()
        except JournalError as error:
            self.recorder._lose_journal(error)
        except Crash:
            self.world.note("crash", self.name)
            self.die()
            self.world.in_a_while(self.start, 20_000)
            return
        self.turn()

    def _do(self) -> bool:
        recorder, courier = self.recorder, self.courier
        assert recorder is not None
        assert courier is not None
        while not recorder._events.empty():
            try:
                recorder._turn()
            except JournalError as error:
                recorder._lose_journal(error)
        courier.tell(Stop())
        try:
            courier._loop()
        except JournalError:
            courier._close_reader()
            courier._synced = False
            self.world.at(self.world.now + 2_000, self.turn)
            return False
        return not (recorder._events.empty() and courier._events.empty())

    def _set_alarm(self) -> None:
        assert self.courier is not None
        if self.recorder is not None and self.recorder._journal is None and not self._tries:
            self._tries = True
            self.world.at(self.world.now + 5_500, self._try_again)
        now = self.clock.boottime_ms()
        wake = self.courier._sender.wake_at(now)
        self._wakes += 1
        if wake is None:
            return
        check(wake > now, f"wakes at {wake}, which is {now}, with nothing to do: it spins")
        mine = self._wakes
        self.world.at(self.world.now + wake - now, lambda: self._wake(mine))

    def _try_again(self) -> None:
        """While the journal fails, the recorder tries to open it again by itself."""
        self._tries = False
        self.idle()

    def _wake(self, which: int) -> None:
        if which == self._wakes:
            self.turn()

    # --- what it stands on ------------------------------------------------------------------------

    def step(self, where: str) -> None:
        faults = self.world.faults
        if faults.crash and self.rng.random() < faults.crash:
            self.world.count(f"crash {where}")
            raise Crash

    def fails(self) -> bool:
        if self.world.faults.storage and self.rng.random() < self.world.faults.storage:
            self.world.count("storage failed")
            return True
        return False

    def durable(self, epoch: bytes, first: int, items: Sequence[Any]) -> None:
        for seq, item in enumerate(items, first):
            if isinstance(item, NewTap):
                self.world.placed(epoch, seq, int(item.credential.value, 16))

    def removed(self, epoch: bytes, _first: int, last: int) -> None:
        self.world.count("pruned")
        self.world.check_removed(self, epoch, last)

    def show(self, notice: Notice) -> None:
        self.step("before the light")
        self.outcomes.append(notice.outcome)

    def stand(self, standing: Standing, detail: str = "") -> None:
        pass

    # --- taps -------------------------------------------------------------------------------------

    def tap(self, cards: Sequence[int]) -> list[Outcome]:
        """Cards are held to the reader, each a different one; what the lights said, in order."""
        if self.recorder is None:
            return []
        self.outcomes = []
        at = self.clock.boottime_ms()
        for card in cards:
            credential = Credential("uid", "", f"{card:014X}")
            self.recorder.reader_event(CardRead(READER, card, at, credential, Assurance.UID))
        self.turn()
        return self.outcomes

    def stumble(self) -> None:
        """The reader goes away and comes back."""
        if self.recorder is not None:
            self.recorder.reader_event(ReaderDown(READER, "unplugged"))
            self.recorder.reader_event(ReaderUp(READER))
            self.turn()

    # --- the network ------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes) -> int | None:
        """What the courier asks of its link."""
        self.step("before publishing")
        if not self.is_connected:
            return None
        self._message += 1
        self.world.from_edge(self, self._message, topic, payload)
        self.step("after publishing")
        return self._message

    def connect(self) -> None:
        world = self.world
        if not self.is_on or self.is_connected or self.is_partitioned:
            return
        if not world.broker_up:
            world.in_a_while(self.connect, 8_000)
            return
        former = world.sessions.get(self.edge)
        if former is not None and former is not self:
            world.count("taken over")
            former.disconnect(back_in_ms=10_000)
        world.sessions[self.edge] = self
        self.connection += 1
        self.is_connected = True
        retained = world.retained
        self.turn(Connected())
        if retained is not None:
            world.to_edge(self.edge, world.state_topic, retained)

    def disconnect(self, back_in_ms: int = 1_000) -> None:
        """The connection is lost, and the device notices."""
        if self.is_connected:
            self._hang_up()
            self.turn(Disconnected())
            self.world.in_a_while(self.connect, back_in_ms)

    def _hang_up(self) -> None:
        self.is_connected = False
        self.connection += 1
        if self.world.sessions.get(self.edge) is self:
            del self.world.sessions[self.edge]

    def part(self) -> None:
        """The network goes; the device notices at once, or after two keep-alives."""
        if self.is_partitioned:
            return
        self.is_partitioned = True
        self.world.count("partition")
        was = self.connection
        if self.rng.random() < 0.5:
            self.disconnect()
        else:
            self.world.at(
                self.world.now + 22_000,
                lambda: self.disconnect() if was == self.connection else None,
            )

    def join(self) -> None:
        """The network is back."""
        self.is_partitioned = False
        self.world.in_a_while(self.connect, 10_000)

    def carried(self, connection: int, number: int) -> None:
        if connection == self.connection and not self.is_partitioned:
            self.turn(Carried(number))

    def not_taken(self, connection: int) -> None:
        if connection == self.connection and not self.is_partitioned:
            self.turn(NotTaken("no matching subscribers"))

    def incoming(self, topic: str, payload: bytes) -> None:
        if self.is_connected and not self.is_partitioned:
            self.turn(Incoming(topic, payload))

    # --- a stick ----------------------------------------------------------------------------------

    def export(self) -> bytes | None:
        """A stick's file; pulled too early it is cut off anywhere."""
        if not self.is_on:
            return None
        reader = self.card.reader()
        try:
            file = b"".join(Export(reader, self.edge, self.keys, None).pieces())
        except JournalError:
            return None
        finally:
            reader.close()
        if self.rng.random() < 0.3:
            self.world.count("stick pulled")
            file = file[: self.rng.randrange(len(file))]
        return file

    def read_stick(self, file: bytes) -> None:
        """The hub's answers."""
        if self.courier is None:
            return
        if self.rng.random() < 0.2:
            file = file[: self.rng.randrange(len(file))]
        reader = CourierReader(Direction.DOWN)
        with suppress(RemoteError):
            items = reader.feed(file)
            self.courier.bring([(each.topic, each.payload) for each in items], 0)
            self.turn()


class _Owner:
    """Passes on what the courier asks of the recorder; what it lets go of is looked at."""

    def __init__(self, device: Device, recorder: Recorder) -> None:
        self._device, self._recorder = device, recorder

    def release(self, epoch: bytes, through: int) -> None:
        self._device.world.check_released(self._device, epoch, through)
        self._device.step("before a release")
        self._recorder.release(epoch, through)

    def new_generation(self, generation: int) -> None:
        self._device.world.count("new generation")
        self._device.world.check_generation(generation)
        self._recorder.new_generation(generation)

    def alarm(self, reason: str) -> None:
        self._device.world.count("alarm")
        check(self._device.is_forked, f"alarm of a device that is no copy: {reason}")
        self._recorder.alarm(reason)

    def retire(self, _order: bytes) -> None:
        check(False, "nobody told it to retire")

    def new_hub_key(self, _seal: bytes) -> None:
        check(False, "the hub has no other key")

    def new_roster(self, roster: Roster) -> None:
        self._recorder.new_roster(roster)

    def ask_state(self) -> None:
        self._recorder.ask_state()
