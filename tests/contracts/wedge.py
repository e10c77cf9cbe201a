"""Keyboard wedges under the reader contract, at keyboards of the rig."""

from pathlib import Path
from typing import ClassVar

from edge.readers import Readers
from edge.readers.wedge import Wedge, WedgeReaders
from tests.rig.keyboard import Keyboard, dec10


class WedgeHarness:
    """WedgeReaders on two keyboards that type ten digits."""

    places: ClassVar[int] = 2
    tells_leaving: ClassVar[bool] = False
    can_unplug: ClassVar[bool] = True
    can_fall_silent: ClassVar[bool] = False  # a reader that types nothing is one without a card
    needs_servers: ClassVar[bool] = False

    def __init__(self) -> None:
        devices = [Path(f"/dev/input/by-id/door-{place}") for place in range(self.places)]
        self._keyboards = {device: Keyboard() for device in devices}
        self._readers = WedgeReaders(
            [Wedge(device) for device in devices],
            open_=lambda device: self._keyboards[device].open(device),
        )

    @property
    def readers(self) -> Readers:
        return self._readers

    def name(self, place: int) -> str:
        return f"wedge door-{place}"

    def present(self, uid: str, place: int = 0) -> None:
        self._keyboard(place).type(f"{dec10(uid)}\n")

    def remove(self, place: int = 0) -> None:
        pass

    def unplug(self, place: int = 0) -> None:
        self._keyboard(place).unplug()

    def replug(self, place: int = 0) -> None:
        self._keyboard(place).plug()

    def silence(self, place: int = 0) -> None:
        raise NotImplementedError

    def speak(self, place: int = 0) -> None:
        raise NotImplementedError

    def close(self) -> None:
        for keyboard in self._keyboards.values():
            keyboard.unplug()

    def _keyboard(self, place: int) -> Keyboard:
        return list(self._keyboards.values())[place]
