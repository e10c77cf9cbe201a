"""Real servers and virtual cards to run the product against: private, unprivileged where possible.

Gives pcscd with vsmartcard-vpcd readers and cards to hold to them, mosquitto, PostgreSQL, and a TCP
proxy that can stall or cut a connection. Everything listens on ports and sockets of its own, so any
number can run side by side and beside the machine's own services. Nothing outlives the process that
started it, not even when that process is killed. No pytest in here: the demo uses it too.
"""

from tests.rig.cards import (
    Answer,
    AtrAnswerCard,
    Card,
    SilentCard,
    UidCard,
    VirtualReader,
    WrongLengthCard,
    storage_card_atr,
)
from tests.rig.mosquitto import Mosquitto, SecureMosquitto
from tests.rig.pcscd import Pcscd
from tests.rig.postgres import Postgres
from tests.rig.processes import (
    Child,
    MissingProgramError,
    NotReadyError,
    find_program,
    free_port,
    private_dir,
    wait_for,
)
from tests.rig.proxy import Direction, TcpProxy

__all__ = [
    "Answer",
    "AtrAnswerCard",
    "Card",
    "Child",
    "Direction",
    "MissingProgramError",
    "Mosquitto",
    "NotReadyError",
    "Pcscd",
    "Postgres",
    "SecureMosquitto",
    "SilentCard",
    "TcpProxy",
    "UidCard",
    "VirtualReader",
    "WrongLengthCard",
    "find_program",
    "free_port",
    "private_dir",
    "storage_card_atr",
    "wait_for",
]
