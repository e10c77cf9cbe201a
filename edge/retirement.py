"""That this edge was told to retire: one file beside the journal, and nothing undoes it.

Promises: once `keep` has returned, the edge is retired through every power cut; before, it is not.
The file is named after the edge: a device that is enrolled again is somebody else, and no order to
whom it was before concerns it. Who may order it is not asked here (protocol.fleet.Order).
"""

from pathlib import Path

from edge.wholefile import write


def is_retired(data: Path, edge: bytes) -> bool:
    """Whether the edge of this id, whose journal is in `data`, was told to retire."""
    return _path(data, edge).exists()


def keep(data: Path, edge: bytes, order: bytes) -> None:
    """Makes the order durable, byte for byte. Raises OSError, and then nothing was kept."""
    write(_path(data, edge), order)


def _path(data: Path, edge: bytes) -> Path:
    return data / f"retired-{edge.hex()}.order"
