"""The simulated driver under the reader contract."""

import queue
import time
from collections.abc import Iterator
from typing import ClassVar

from edge.readers import Readers, Unreadable
from edge.readers.simulated import Pause, Plug, Present, Remove, SimulatedReaders, Step, Unplug
from protocol.credential import Credential


class SimulatedHarness:
    """SimulatedReaders, whose script is written while it is played."""

    places: ClassVar[int] = 2
    tells_leaving: ClassVar[bool] = True
    can_unplug: ClassVar[bool] = True
    can_fall_silent: ClassVar[bool] = True
    needs_servers: ClassVar[bool] = False

    def __init__(self) -> None:
        self._steps: queue.SimpleQueue[Step] = queue.SimpleQueue()
        self._readers = SimulatedReaders(self._script(), _boottime_ms)
        for place in range(self.places):
            self._steps.put(Plug(self.name(place)))

    @property
    def readers(self) -> Readers:
        return self._readers

    def name(self, place: int) -> str:
        return f"simulated {place}"

    def present(self, uid: str, place: int = 0) -> None:
        self._steps.put(Present(self.name(place), Credential("uid", "", uid)))

    def remove(self, place: int = 0) -> None:
        self._steps.put(Remove(self.name(place)))

    def unplug(self, place: int = 0) -> None:
        self._steps.put(Unplug(self.name(place)))

    def replug(self, place: int = 0) -> None:
        self._steps.put(Plug(self.name(place)))

    def silence(self, place: int = 0) -> None:
        self._steps.put(Present(self.name(place), Unreadable.TIMEOUT))

    def speak(self, place: int = 0) -> None:
        self.remove(place)

    def close(self) -> None:
        pass

    def _script(self) -> Iterator[Step]:
        while True:
            try:
                yield self._steps.get(timeout=0.01)
            except queue.Empty:
                yield Pause(0)  # so that it can be stopped


def _boottime_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
