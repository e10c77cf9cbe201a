"""The daemon's own parts in a rehearsal: recorder, courier and outputs, on a scratch journal.

Runs as a process of its own, which `edge.rehearsal.run` starts and kills. Its standard input
brings a task (a line of JSON), then commands (`Command`, a line each); at its end, which is also
the end of who started it, the process ends. What is shown goes, beside the configured outputs, as
lines of JSON (`Said`) to the descriptor that the task names. Console and screen say with all of it
that this is a rehearsal; lamps and loudspeaker say nothing, or whoever holds a real card, which
nobody reads, would take another's light for theirs.

Only readers, clock and the way to the broker stand in for the real ones; whether a card is
recorded, and when its light comes, is the product's own doing.
"""

import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from edge.certificate import Certificates
from edge.clock import Clock, SystemClock
from edge.config import Config, load
from edge.couriers import JournalEvent
from edge.couriers.mqtt import Courier
from edge.enrol import load_identity
from edge.feedback import REHEARSING, Feedback, Notice, Standing
from edge.feedback.console import Console
from edge.feedback.fanout import Fanout
from edge.kiosk import open_kiosk
from edge.readers.simulated import Plug, Present, Remove, SimulatedReaders, Step, Unplug
from edge.recorder import Recorder
from edge.status import CourierStatus
from edge.store import Owner
from protocol.credential import REHEARSAL_SCHEME, Credential
from protocol.topics import Broker

WATCH_S: Final = 0.5


class _Line(msgspec.Struct, frozen=True, tag_field="is", tag=str.lower, forbid_unknown_fields=True):
    pass


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to rehearse."""

    config: str | None
    """The configuration file; None: the defaults."""
    scratch: str
    """Where the scratch journal is."""
    edge: bytes
    hub_seal: bytes
    lights: int
    """The descriptor that hears what is shown."""
    via: tuple[str, int] | None
    """The way to the broker; None: offline."""
    verbose: bool = False


class PlugIn(_Line, frozen=True):
    """A reader is connected."""

    reader: str


class TakeOff(_Line, frozen=True):
    """It is unplugged."""

    reader: str


class Hold(_Line, frozen=True):
    """A virtual card is held to a reader."""

    reader: str
    number: int


class Lift(_Line, frozen=True):
    """The card there is taken away."""

    reader: str


class SetClock(_Line, frozen=True):
    """The wall clock is off by so much, and is trusted no more than `trusted` says."""

    step_ms: int
    trusted: bool


class Stop(_Line, frozen=True):
    """The service is stopped, in good order."""


Command = PlugIn | TakeOff | Hold | Lift | SetClock | Stop


class Shown(_Line, frozen=True):
    """A light for a card: the name of its Outcome."""

    outcome: str
    reader: str
    message: str


class Stood(_Line, frozen=True):
    """How the device is between cards: the name of its Standing."""

    standing: str


class Took(_Line, frozen=True):
    """The readers have told of a card; no word on what became of it."""

    number: int


Said = Shown | Stood | Took


class RehearsalClock:
    """The device's clocks, of which the wall clock can be set wrong."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.wrong = SetClock(0, trusted=True)

    def boottime_ms(self) -> int:
        return self._clock.boottime_ms()

    def wall_ms(self) -> int:
        return self._clock.wall_ms() + self.wrong.step_ms

    def trusted(self) -> bool:
        return self.wrong.trusted and self._clock.trusted()

    def boot_id(self) -> bytes:
        return self._clock.boot_id()


class _Outside:
    """Feedback to whoever keeps the ledger."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def show(self, notice: Notice) -> None:
        self._say(Shown(notice.outcome.name, notice.reader, notice.message))

    def stand(self, standing: Standing, _detail: str = "") -> None:
        self._say(Stood(standing.name))

    def took(self, number: int) -> None:
        """A card has been handed on."""
        self._say(Took(number))

    def _say(self, said: Said) -> None:
        os.write(self._descriptor, msgspec.json.encode(said) + b"\n")


class Marked:
    """Shows what it is given, as a rehearsal's."""

    def __init__(self, output: Feedback) -> None:
        self._output = output

    def show(self, notice: Notice) -> None:
        self._output.show(Notice(notice.outcome, notice.reader, f"演练：{notice.message}"))

    def stand(self, standing: Standing, detail: str = "") -> None:
        self._output.stand(standing, "；".join(filter(None, (REHEARSING, detail))))


class _Nobody:
    """In the courier's place where there is no hub."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def tell(self, event: JournalEvent) -> None:
        pass

    def status(self) -> CourierStatus:
        return CourierStatus(connected=False, hub_online=None, unreceipted=0, alarm="")


def main() -> None:
    """Rehearses the task on standard input until told to stop."""
    os.umask(0o077)
    line = sys.stdin.buffer.readline()
    if not line:
        return  # whoever started it is gone
    task = msgspec.json.decode(line, type=Task)
    if not Path(task.scratch).is_dir():
        return
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if task.verbose else logging.ERROR,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    config = Config() if task.config is None else load(Path(task.config))
    commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
    threading.Thread(target=_hear, args=(commands,), name="commands", daemon=True).start()
    _rehearse(task, config, commands)


def _hear(commands: queue.SimpleQueue[Command]) -> None:
    for line in sys.stdin.buffer:
        command = msgspec.json.decode(line, type=Command)
        commands.put(command)
        if isinstance(command, Stop):
            return
    os._exit(1)  # whoever started it is gone


def _rehearse(task: Task, config: Config, commands: queue.SimpleQueue[Command]) -> None:
    clock = RehearsalClock(SystemClock(config.clock.trust))
    scratch = Path(task.scratch)
    kiosk = open_kiosk(config, rehearsing=True)
    screens = [] if kiosk is None else [kiosk.face]
    outside = _Outside(task.lights)
    console = [Marked(Console())] if config.feedback.console else []
    feedback = Fanout([outside, *console, *screens])
    recorder = Recorder(
        scratch,
        Owner(task.edge, task.hub_seal, rehearsal=True),
        clock,
        feedback,
        debounce_ms=config.readers.debounce_ms,
        read_timeout_ms=config.readers.read_timeout_ms,
    )
    courier = _courier(task, config, recorder)
    recorder.start(courier)
    courier.start()
    for screen in screens:
        screen.attach(recorder, courier)
    stopped = threading.Event()

    def script() -> Iterator[Step]:
        while not isinstance(command := commands.get(), Stop):
            match command:
                case PlugIn(reader):
                    yield Plug(reader)
                case TakeOff(reader):
                    yield Unplug(reader)
                case Hold(reader, number):
                    yield Present(reader, Credential(REHEARSAL_SCHEME, "", str(number)))
                    outside.took(number)
                case Lift(reader):
                    yield Remove(reader)
                case SetClock():
                    clock.wrong = command
        stopped.set()

    readers = SimulatedReaders(script(), clock.boottime_ms)
    readers.start(recorder.reader_event)
    while not stopped.wait(WATCH_S):
        recorder.watch()
    readers.stop()
    recorder.stop()
    courier.stop()
    feedback.stop()
    if kiosk is not None:
        kiosk.stop()


def _courier(task: Task, config: Config, recorder: Recorder) -> Courier | _Nobody:
    if task.via is None:
        return _Nobody()
    identity = load_identity(config.edge.data)
    assert identity is not None  # noqa: S101  whoever wrote the task has read it
    enrolment, keys = identity
    broker = Broker.parse(config.mqtt.url or enrolment.mqtt_url)
    certificates = Certificates(config.edge.data) if broker.tls else None
    return Courier(Path(task.scratch), enrolment, keys, broker, recorder, task.via, certificates)


if __name__ == "__main__":
    main()
