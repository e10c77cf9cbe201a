"""The PC/SC driver under the reader contract: a real pcscd, three readers at once."""

import contextlib
import os
from collections.abc import Mapping
from typing import ClassVar

from edge.readers import Readers
from edge.readers.pcsc import PcscReaders
from tests.rig import Pcscd, SilentCard, UidCard, VirtualReader, private_dir


class PcscHarness:
    """PcscReaders on a private pcscd with the rig's own reader driver."""

    places: ClassVar[int] = 3
    tells_leaving: ClassVar[bool] = True
    can_unplug: ClassVar[bool] = True
    can_fall_silent: ClassVar[bool] = True
    needs_servers: ClassVar[bool] = True

    def __init__(self) -> None:
        with contextlib.ExitStack() as held:
            directory = held.enter_context(private_dir())
            self.pcscd = held.enter_context(Pcscd(directory, self.places, handler=True))
            held.enter_context(_environment(self.pcscd.env))  # the driver's workers inherit it
            self.fields = [
                held.enter_context(VirtualReader(port, gap_s=self.pcscd.gap_s))
                for port in self.pcscd.ports
            ]
            self._readers = PcscReaders()
            self._held = held.pop_all()

    @property
    def readers(self) -> Readers:
        return self._readers

    def name(self, place: int) -> str:
        return self.pcscd.reader_names[place]

    def present(self, uid: str, place: int = 0) -> None:
        self.fields[place].present(UidCard(bytes.fromhex(uid)))

    def remove(self, place: int = 0) -> None:
        self.fields[place].remove()

    def unplug(self, place: int = 0) -> None:
        self.pcscd.unplug(place)
        self.fields[place].remove()  # after that: it is not the card's leaving that is noticed

    def replug(self, place: int = 0) -> None:
        self.pcscd.replug(place)

    def silence(self, place: int = 0) -> None:
        self.fields[place].present(SilentCard())

    def speak(self, place: int = 0) -> None:
        self.fields[place].remove()

    def close(self) -> None:
        self._held.close()


@contextlib.contextmanager
def _environment(env: Mapping[str, str]):  # noqa: ANN202
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
