"""That this edge was told to retire: one file beside the journal, and nothing undoes it.

Promises: once `keep` has returned, the edge is retired through every power cut; before, it is not.
The file is named after the edge: a device that is enrolled again is somebody else, and no order to
whom it was before concerns it. Who may order it is not asked here (protocol.fleet.Order).
"""

import os
from pathlib import Path


def is_retired(data: Path, edge: bytes) -> bool:
    """Whether the edge of this id, whose journal is in `data`, was told to retire."""
    return _path(data, edge).exists()


def keep(data: Path, edge: bytes, order: bytes) -> None:
    """Makes the order durable, byte for byte. Raises OSError, and then nothing was kept."""
    path = _path(data, edge)
    scratch = path.with_suffix(".new")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(order)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)
    folder = os.open(data, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _path(data: Path, edge: bytes) -> Path:
    return data / f"retired-{edge.hex()}.order"
