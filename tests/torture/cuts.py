"""Real power cuts: a journal on a real ext4, of which nothing that was not synced survives.

The child appends as fast as it can and says what is durable; the ledger is here. At a random moment
the file system is shut down without a last flush (EXT4_IOC_SHUTDOWN, as if the power had gone), the
child is killed, the volume is mounted anew, and the product opens what is there.

Needs a loop device and a mount namespace of one's own: `python -m tests.torture.cuts` runs itself
under `unshare -m`.
"""

import argparse
import fcntl
import json
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.torture.result import Result
from tests.torture.states import Ledger, Said, judge

SHUTDOWN: Final = 0x8004587D
"""EXT4_IOC_SHUTDOWN of <linux/ext4.h>: _IOR('X', 125, __u32)."""
NO_FLUSH: Final = (2).to_bytes(4, sys.byteorder)
TRY: Final = (
    'f=$(mktemp) && truncate -s 8M "$f" && mkfs.ext4 -q "$f" && d=$(mktemp -d)'
    ' && mount -o loop "$f" "$d" && umount "$d" && rm -r "$f" "$d"'
)
SIZE: Final = 24 << 20
APPENDS: Final = 100_000
"""More than a child gets to."""


def missing() -> str:
    """Why it can't be done here; empty where it can."""
    tried = subprocess.run(
        [
            *("unshare", "-m", "--propagation", "private", "sh", "-c"),
            TRY,
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    return "" if tried.returncode == 0 else f"no ext4 on a loop device: {tried.stderr.strip()}"


def run(rounds: int, seed: int, setting: str = "") -> Result:
    """In a mount namespace of its own. `setting`: a PRAGMA that breaks the promise."""
    done = subprocess.run(
        [
            *("unshare", "-m", "--propagation", "private", sys.executable, "-m"),
            *(__name__, "--rounds", str(rounds), "--seed", str(seed), "--setting", setting),
        ],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the cuts ended with status {done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Result(
        "power cuts on ext4", rounds, found["lost"], 0, f"{found['acknowledged']:,} acknowledged"
    )


def _go(rounds: int, seed: int, setting: str) -> dict[str, int]:
    chance = random.Random(seed)
    lost = acknowledged = 0
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        image, place = Path(folder, "image"), Path(folder, "place")
        place.mkdir()
        for number in range(rounds):
            with image.open("wb") as file:
                file.truncate(SIZE)
            _do("mkfs.ext4", "-q", "-F", "-O", "^metadata_csum", str(image))
            _do("mount", "-o", "loop", str(image), str(place))
            ledger = _cut(place, chance.uniform(0.02, 0.25), setting)
            _do("umount", str(place))
            _do("mount", "-o", "loop", str(image), str(place))
            acknowledged += sum(seq for seq, _ in ledger.ends.values())
            wrong = judge(place / "data", ledger)
            _do("umount", str(place))
            if wrong:
                lost += 1
                print(f"seed {seed}, cut {number}: {'; '.join(wrong)}", file=sys.stderr)
    return {"lost": lost, "acknowledged": acknowledged}


def _cut(place: Path, after_s: float, setting: str) -> Ledger:
    """What was acknowledged before the file system was shut down."""
    data = place / "data"
    data.mkdir()
    os.sync()
    ledger, rest = Ledger(), b""
    child = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.torture.states", "--write", str(data)),
            *("--appends", str(APPENDS), "--setting", setting),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    output = child.stdout.fileno()
    descriptor = os.open(place, os.O_RDONLY)
    try:
        until = None
        while until is None or time.monotonic() < until:
            ready, _, _ = select.select([output], [], [], 0.005)
            if ready:
                chunk = os.read(output, 65536)
                if not chunk:
                    break
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    _hear(ledger, line)
                until = until or time.monotonic() + after_s
        # Nothing that is read from here on counts: the ledger is closed before the cut.
        fcntl.ioctl(descriptor, SHUTDOWN, NO_FLUSH)
    finally:
        os.close(descriptor)
        child.kill()
        child.wait()
        child.stdout.close()
    return ledger


def _hear(ledger: Ledger, line: bytes) -> None:
    what, epoch, seq, digest = line.decode().split(" ")
    ledger.hear(Said(what, bytes.fromhex(epoch), int(seq), bytes.fromhex(digest)))


def _do(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--setting", default="")
    options = parser.parse_args()
    print(json.dumps(_go(options.rounds, options.seed, options.setting)))


if __name__ == "__main__":
    main()
