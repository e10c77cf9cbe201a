"""PC/SC readers (pcscd), any number of them, each in a process that can be ended.

Promises what edge.readers promises, and: a silent card, a hanging driver or another program's
lock on one reader never stops the others; it starts without pcscd and without readers and recovers
by itself, within 10 s, from pcscd started late, ended or started anew and from readers plugged in
and out. Each trouble is logged once.

This process never calls PC/SC: the workers do (edge.readers.pcsc_worker). One of them lists the
readers; each that it lists is a `SupervisedReader` with a worker of its own.
"""

import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Final

from edge.cards.settings import UID_ONLY, Plan
from edge.feedback import Outcome
from edge.readers import Health, Sink
from edge.readers.lines import AnyLine, Listed, ListReaders, Trouble
from edge.readers.pcsc_errors import NO_READERS, explain
from edge.readers.supervised import (
    DEFAULT_READ_TIMEOUT_MS,
    STOP_S,
    BackOff,
    Keeper,
    Outlet,
    SupervisedReader,
    WorkerEnded,
    join,
)

_WORKER: Final = (sys.executable, "-P", "-m", "edge.readers.pcsc_worker")

_log = logging.getLogger(__name__)


class PcscReaders:
    """The driver. `worker` is the workers' command line (for tests)."""

    def __init__(
        self,
        *,
        read_timeout_ms: int = DEFAULT_READ_TIMEOUT_MS,
        cards: Plan = UID_ONLY,
        worker: Sequence[str] = _WORKER,
    ) -> None:
        self._cards = cards
        self._read_timeout_ms = read_timeout_ms
        self._worker = tuple(worker)
        self._outlet = Outlet()
        self._lock = threading.Lock()
        self._readers: dict[bytes, SupervisedReader] = {}
        self._listing = Keeper(self._worker)
        self._trouble = "not started"
        self._thread = threading.Thread(target=self._list, name="pcsc-list", daemon=True)

    def start(self, sink: Sink) -> None:
        """Begins to report to `sink`; returns at once."""
        self._outlet.open(sink)
        self._thread.start()

    def stop(self) -> None:
        """Ends workers and threads; afterwards the sink is not called any more."""
        self._outlet.close()
        self._listing.stop()
        with self._lock:
            readers = list(self._readers.values())
        for reader in readers:
            reader.stop()
        join([self._thread, *(reader.thread for reader in readers)])

    def signal(self, reader: str, outcome: Outcome) -> None:
        """Has the reader of that name, if it is there, show `outcome` by its own lamp and buzzer;
        returns at once.
        """
        with self._lock:
            known = self._readers.get(os.fsencode(reader))
        if known is not None:
            known.signal(outcome)

    def health(self) -> Health:
        """All readers that PC/SC lists, and what keeps it from listing any."""
        with self._lock:
            readers = tuple(reader.health() for reader in self._readers.values())
            return Health("pcsc", readers, self._trouble)

    def alive(self) -> bool:
        """Whether all threads run that should."""
        with self._lock:
            threads = [self._thread, *(reader.thread for reader in self._readers.values())]
        return all(thread.is_alive() for thread in threads)

    def _list(self) -> None:
        back_off = BackOff()
        while (process := self._listing.begin(ListReaders())) is not None:
            try:
                while (line := process.line()) is not None:
                    self._listed(line)
                what = "the listing of readers does not answer"
            except WorkerEnded as ended:
                what = f"the listing of readers ended ({ended})"
            except Exception as error:  # noqa: BLE001 - else no reader would be seen again
                _log.exception("the listing of readers failed")
                what = f"the listing of readers failed ({error!r})"
            finally:
                process.end()
            if self._listing.stopped:
                return
            self._troubled(f"{what}; it is started anew")
            self._listing.wait(back_off.after(process))

    def _listed(self, line: AnyLine) -> None:
        match line:
            case Listed(names):
                self._troubled("" if names else explain(NO_READERS))
                self._keep_only(names)
            case Trouble(_, what):
                self._troubled(what)
            case _:
                pass

    def _troubled(self, trouble: str) -> None:
        with self._lock:
            known, self._trouble = self._trouble, trouble
        if trouble and trouble != known:
            _log.warning("%s", trouble)

    def _keep_only(self, names: Sequence[bytes]) -> None:
        with self._lock:
            left = [name for name in self._readers if name not in names]
            retired = [self._readers.pop(name) for name in left]
        for reader in retired:
            reader.stop()
            reader.thread.join(STOP_S)
        with self._lock:
            if self._listing.stopped:
                return
            for name in names:
                if name not in self._readers:
                    reader = self._readers[name] = SupervisedReader(
                        self._outlet,
                        os.fsdecode(name),
                        name,
                        self._worker,
                        self._read_timeout_ms,
                        self._cards,
                    )
                    reader.start()
