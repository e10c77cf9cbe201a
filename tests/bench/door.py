"""Card held to a reader → noticed → read → durable → light, for each driver; and the memory.

Driver and recorder run in this process, as in the daemon; the readers are those of the contract
suite: pcscd with virtual cards, a PN532 on a pseudo-terminal, keys on a pipe. The simulated driver,
which reads in no time, is what the others are compared with: what is left is theirs. Drivers take
turns.

Memory: `shuaka-edge run` as it stands at a venue, its worker processes counted, with the screen and
without.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from threading import Condition
from typing import Final

from edge.clock import SystemClock, Trust
from edge.feedback import Notice, Standing
from edge.readers import CardGone, CardRead, CardSeen, ReaderEvent
from edge.recorder import Recorder
from edge.store import Owner
from protocol.identity import OpeningKey
from tests.bench.figures import Figure, block_ratio, latency, memory
from tests.contracts.readers import Harness
from tests.contracts.test_readers import HARNESSES
from tests.e2e.venue import Venue
from tests.rig import free_port, wait_for

WAIT_S: Final = 10
BLOCK: Final = 10
"""Taps of one driver before the next has its turn."""


def measure(folder: Path, taps: int) -> list[Figure]:
    """`taps` for each driver, then the memory."""
    figures: list[Figure] = []
    drivers = [_Door(folder, harness) for harness in HARNESSES]
    try:
        for door in drivers:
            door.start()
        for _ in range(taps // BLOCK + 1):
            for door in drivers:
                door.block()
    finally:
        for door in drivers:
            door.close()
    bare = next(door for door in drivers if door.name == "simulated")
    for door in drivers:
        light = [[each.light - each.seen for each in block] for block in door.blocks[1:]]
        beside = [[each.light - each.seen for each in block] for block in bare.blocks[1:]]
        ratio = f"{block_ratio(light, beside):.1f} × simulated"
        figures.append(latency(f"{door.name}: card seen → light", list(chain(*light)), ratio))
        if door is not bare:
            flat = list(chain(*door.blocks[1:]))
            parts = {
                "held there → seen": [each.seen - each.held for each in flat],
                "seen → number": [each.read - each.seen for each in flat],
                "number → durable, light": [each.light - each.read for each in flat],
            }
            figures += [latency(f"  {what}", seconds) for what, seconds in parts.items()]
    return figures + _memory(folder)


def _memory(folder: Path) -> list[Figure]:
    """Without the screen, then with it and a page that follows."""
    found = []
    for what, screen in (("  edge, no screen", False), ("edge with its screen", True)):
        (folder / f"memory-{screen}").mkdir()
        with Venue(folder / f"memory-{screen}") as venue:
            venue.edge.stop()
            if screen:
                with venue.edge.config.open("a", encoding="utf-8") as config:
                    config.write(f"[kiosk]\nport = {free_port()}\n")
            venue.edge.start()
            for _ in range(5):
                venue.tap()
            found.append((what, *_proportional_kb(venue.edge.pid)))
    (_, bare, _), *_ = found
    return [
        memory(
            what,
            kilobytes,
            f"{kilobytes / bare:.2f} × without, {count} processes" if what[0] != " " else "",
        )
        for what, kilobytes, count in found
    ]


@dataclass(frozen=True, slots=True)
class _Tap:
    """When it happened, in seconds of perf_counter."""

    held: float
    seen: float
    read: float
    light: float


@dataclass
class _Times:
    """Feedback, and the readers' sink in front of the recorder: notes when each thing came."""

    changed: Condition = field(default_factory=Condition)
    seen: float = 0
    read: float = 0
    light: float = 0
    gone: bool = True
    recorder: Recorder | None = None

    def show(self, notice: Notice) -> None:
        with self.changed:
            assert notice.outcome.recorded, notice
            self.light = time.perf_counter()
            self.changed.notify()

    def stand(self, standing: Standing, detail: str = "") -> None: ...

    def sink(self, event: ReaderEvent) -> None:
        now = time.perf_counter()
        with self.changed:
            match event:
                case CardSeen():
                    self.seen, self.gone = now, False
                case CardRead():
                    self.read = now
                case CardGone():
                    self.gone = True
                    self.changed.notify()
                case _:
                    pass
        if self.recorder is not None:
            self.recorder.reader_event(event)

    def tell(self, event: object) -> None: ...


class _Door:
    """One driver with a recorder of its own."""

    def __init__(self, folder: Path, kind: type[Harness]) -> None:
        self.name = kind.__name__.removesuffix("Harness").lower()
        self.blocks: list[list[_Tap]] = []
        self._harness = kind()
        self._number = 0
        self._times = _Times()
        data = folder / self.name
        data.mkdir()
        owner = Owner(os.urandom(16), OpeningKey.generate().public)
        self._recorder = Recorder(
            data,
            owner,
            SystemClock(Trust.ALWAYS),
            self._times,
            debounce_ms=0,
            read_timeout_ms=1000,
        )

    def start(self) -> None:
        self._times.recorder = self._recorder
        self._recorder.start(self._times)
        self._harness.readers.start(self._times.sink)
        readers = self._harness.readers
        wait_for(
            lambda: sum(each.up for each in readers.health().readers) == self._harness.places,
            f"{self.name} readers",
            timeout_s=20,
        )

    def block(self) -> None:
        self.blocks.append([self._tap() for _ in range(BLOCK)])

    def _tap(self) -> _Tap:
        times = self._times
        self._number += 1
        with times.changed:
            times.light = 0
        held = time.perf_counter()
        self._harness.present(f"{0x11000000 + self._number:08X}")
        with times.changed:
            assert times.changed.wait_for(lambda: times.light, WAIT_S), f"no light: {self.name}"
        self._harness.remove()
        with times.changed:
            assert times.changed.wait_for(lambda: times.gone, WAIT_S), f"not gone: {self.name}"
        return _Tap(held, times.seen, times.read, times.light)

    def close(self) -> None:
        self._harness.readers.stop()
        self._recorder.stop()
        self._harness.close()


def _proportional_kb(pid: int) -> tuple[int, int]:
    """Memory of a process and those below it, shared pages divided (PSS), and how many they are."""
    found = list(_tree(pid))
    sizes = [
        int(line.split()[1])
        for each in found
        for line in Path(f"/proc/{each}/smaps_rollup").read_text(encoding="ascii").splitlines()
        if line.startswith("Pss:")
    ]
    return sum(sizes), len(found)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            yield from _tree(int(child))
