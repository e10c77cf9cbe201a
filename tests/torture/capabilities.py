"""What this machine lets a test do: each check gives why not, in words, or nothing."""

import functools
import os
import shutil
import subprocess

import pytest


def need(missing: str) -> None:
    """Goes on only where nothing is missing. tests/conftest.py says what may be."""
    if missing:
        pytest.skip(f"SKIPPED: {missing}")


@functools.cache
def tracing() -> str:
    """Whether strace may watch, and harm, a process."""
    if shutil.which("strace") is None:
        return "there is no strace"
    if subprocess.run(["strace", "-o", os.devnull, "true"], check=False).returncode:
        return "tracing is forbidden here"
    return ""


@functools.cache
def mounting() -> str:
    """Whether a file system may be mounted, in a mount namespace of one's own."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    mount = "mount -t tmpfs -o size=64k none /mnt"
    tried = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", mount],
        check=False,
        capture_output=True,
    )
    return "" if tried.returncode == 0 else "mounting is forbidden here"
