"""Files that are whole or not there at all, also after a power cut and to who reads meanwhile."""

import os
import tempfile
from pathlib import Path


def write_once(path: Path, content: bytes) -> None:
    """A new file that its owner alone can read. Raises FileExistsError where there is one."""
    scratch = _scratch(path, content, 0o600)
    try:
        os.link(scratch, path)
    finally:
        scratch.unlink()
    _sync_folder(path.parent)


def replace(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Puts `content` in the place of whatever is there."""
    scratch = _scratch(path, content, mode)
    try:
        scratch.rename(path)
    except OSError:
        scratch.unlink()
        raise
    _sync_folder(path.parent)


def _scratch(path: Path, content: bytes, mode: int) -> Path:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    scratch = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        scratch.unlink()
        raise
    return scratch


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
