"""NFC chips that are no PC/SC readers, by nfcpy: a PN532 on a serial line, Sony's RC-S380 by USB.

Promises what edge.readers promises, and: no reader stops the others or the daemon; each recovers
by itself, within 10 s, from a line that is pulled and comes back and from a chip that falls silent.
Unlike PC/SC readers they are named in the configuration, for nothing tells what hangs on a line.

This process never talks to a chip: the workers do (edge.readers.nfc_worker), one for each.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edge.cards.settings import UID_ONLY, Plan
from edge.readers.configured import ConfiguredReaders
from edge.readers.supervised import DEFAULT_READ_TIMEOUT_MS, Outlet, SupervisedReader

TAKEN: Final = "another program uses it"
"""In a reader's trouble: its line or USB device is not ours, perhaps another shuaka-edge's."""

_WORKER: Final = (sys.executable, "-P", "-m", "edge.readers.nfc_worker")


@dataclass(frozen=True, slots=True)
class NfcDevice:
    """A chip: `device` is its serial line's path, or a path as nfcpy has them (`usb:054c:06c3`)."""

    device: str
    name: str = ""
    """What events call it; where empty, `nfc` and the device's base name."""

    @property
    def reader(self) -> str:
        return self.name or f"nfc {self.device.rpartition('/')[2]}"


class NfcReaders(ConfiguredReaders):
    """The driver. `worker` is the workers' command line (for tests)."""

    def __init__(
        self,
        devices: Sequence[NfcDevice],
        *,
        read_timeout_ms: int = DEFAULT_READ_TIMEOUT_MS,
        cards: Plan = UID_ONLY,
        worker: Sequence[str] = _WORKER,
    ) -> None:
        outlet = Outlet()
        readers = [
            SupervisedReader(
                outlet,
                each.reader,
                os.fsencode(each.device),
                tuple(worker),
                read_timeout_ms,
                cards,
            )
            for each in devices
        ]
        super().__init__("nfc", outlet, readers)
