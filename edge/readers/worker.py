"""What every worker process does, whatever its driver: it hears its task, tells, and dies in time.

A worker ends with its supervisor and never before it: at the supervisor's death, or at the end of
standard input.
"""

import ctypes
import os
import signal
import threading
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from edge.feedback.latest import Latest
from edge.readers.lines import AnyLine, AnyTask, Signal

signals: Final[Latest[Signal]] = Latest()
"""What the reader's own lamp and buzzer are to show."""

_PR_SET_PDEATHSIG: Final = 1
_CHUNK: Final = 65536


def begin() -> AnyTask:
    """The task that the supervisor gives; call it first, and once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C and `systemctl stop` reach the whole
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # group; the supervisor ends its workers itself
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # That signal is missed if the parent died before the call; the end of standard input is not.
    came = b""
    while b"\n" not in came:
        came += _input()
    first, _, rest = came.partition(b"\n")
    task: AnyTask = msgspec.json.decode(first, type=AnyTask)
    threading.Thread(target=_heed, args=(rest,), daemon=True).start()
    return task


def say(line: AnyLine) -> None:
    """Tells the supervisor."""
    os.write(1, msgspec.json.encode(line) + b"\n")  # shorter than PIPE_BUF: written whole


def _input() -> bytes:
    """What comes next by standard input; at its end, so does the process."""
    chunk = os.read(0, _CHUNK)
    if not chunk:
        os._exit(0)
    return chunk


def _heed(came: bytes) -> NoReturn:
    """Takes what comes after the task, for as long as the supervisor lives."""
    while True:
        *whole, came = came.split(b"\n")
        for line in whole:
            with suppress(msgspec.MsgspecError):  # the end of input must be noticed come what may
                signals.put(msgspec.json.decode(line, type=Signal))
        came += _input()
