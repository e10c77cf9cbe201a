"""Room kept back on the journal's file system, for the day on which something else fills it.

A full disk is filled by others nearly always. Then the ballast is let go once, and the journal goes
on in its room: it can state where recording stopped, and record some thousand taps more. It is laid
in again as soon as there is plenty of room.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

FILE_NAME: Final = "journal.ballast"
BALLAST_BYTES: Final = 4 * 1024 * 1024
PLENTY: Final = 4
"""It is laid in where there is so many times as much room: it must not fill the disk itself."""


def is_there(data: Path) -> bool:
    """Whether all of it lies in folder `data`."""
    try:
        return (data / FILE_NAME).stat().st_size >= BALLAST_BYTES
    except OSError:
        return False


def release(data: Path) -> bool:
    """Lets it go; False where none was there. Its room is free at once."""
    try:
        (data / FILE_NAME).unlink()
    except OSError:
        return False
    return True


def lay_in(data: Path) -> bool:
    """Whether it lies there now; made if it was missing and there is plenty of room.

    Raises nothing: without a ballast everything goes on as with one, until the disk is full.
    """
    if is_there(data):
        return True
    path = data / FILE_NAME
    with contextlib.suppress(OSError):
        room = os.statvfs(data)
        if room.f_bavail * room.f_frsize < PLENTY * BALLAST_BYTES:
            return False
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, BALLAST_BYTES)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        return True
    return False
