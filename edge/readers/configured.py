"""A driver whose readers the configuration names: they are known at the start and stay the same."""

import threading
from collections.abc import Sequence
from typing import Protocol

from edge.readers import Health, ReaderHealth, Sink
from edge.readers.supervised import Outlet, join


class Reader(Protocol):
    """One reader, served by a thread of its own."""

    thread: threading.Thread

    def stop(self) -> None:
        """Ends the thread soon, which the caller may join."""

    def health(self) -> ReaderHealth:
        """How it is now; from any thread."""


class ConfiguredReaders:
    """The driver called `driver`; its `readers` tell by way of `outlet`."""

    def __init__(self, driver: str, outlet: Outlet, readers: Sequence[Reader]) -> None:
        self._driver = driver
        self._outlet = outlet
        self._readers = tuple(readers)

    def start(self, sink: Sink) -> None:
        """Begins to report to `sink`; returns at once."""
        self._outlet.open(sink)
        for reader in self._readers:
            reader.thread.start()

    def stop(self) -> None:
        """Lets go of the devices; afterwards the sink is not called any more."""
        self._outlet.close()
        for reader in self._readers:
            reader.stop()
        join(reader.thread for reader in self._readers)

    def health(self) -> Health:
        """All configured readers."""
        return Health(self._driver, tuple(reader.health() for reader in self._readers))

    def alive(self) -> bool:
        """Whether all threads run that should."""
        return all(reader.thread.is_alive() for reader in self._readers)
