"""The NFC driver under the reader contract: nfcpy on simulated PN532s."""

import contextlib
import time
from typing import ClassVar

from edge.readers import Readers
from edge.readers.nfc import NfcDevice, NfcReaders
from tests.rig import private_dir
from tests.rig.pn532 import Pn532, TypeA

_AWAY_S = 0.3


class Pn532Harness:
    """NfcReaders on two chips."""

    places: ClassVar[int] = 2
    tells_leaving: ClassVar[bool] = True
    can_unplug: ClassVar[bool] = True
    can_fall_silent: ClassVar[bool] = True
    needs_servers: ClassVar[bool] = False

    def __init__(self) -> None:
        with contextlib.ExitStack() as held:
            directory = held.enter_context(private_dir())
            self.chips = [
                held.enter_context(Pn532(directory / f"ttyUSB{place}"))
                for place in range(self.places)
            ]
            self._readers = NfcReaders([NfcDevice(str(chip.path)) for chip in self.chips])
            self._held = held.pop_all()

    @property
    def readers(self) -> Readers:
        return self._readers

    def name(self, place: int) -> str:
        return f"nfc ttyUSB{place}"

    def present(self, uid: str, place: int = 0) -> None:
        card = TypeA(bytes.fromhex(uid))
        if self.chips[place].card == card:  # the same one again has been away
            self.chips[place].remove()
            time.sleep(_AWAY_S)
        self.chips[place].present(card)

    def remove(self, place: int = 0) -> None:
        self.chips[place].remove()

    def unplug(self, place: int = 0) -> None:
        self.chips[place].unplug()
        self.chips[place].remove()

    def replug(self, place: int = 0) -> None:
        self.chips[place].plug()

    def silence(self, place: int = 0) -> None:
        self.chips[place].mute()

    def speak(self, place: int = 0) -> None:
        self.chips[place].remove()
        self.chips[place].mute(mute=False)

    def close(self) -> None:
        self._held.close()
