"""First figures, each as a ratio to something bare that is measured beside it in the same run."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import door, durable, ingest, way
from tests.bench.figures import Figure, file_system, machine, table
from tests.rig import MissingProgramError, NotReadyError


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    samples: int
    """Of each way to make a tap durable."""
    seconds: int
    """Of taps, and of echoes, for each database."""
    rounds: int
    taps: int
    """A round, to the product."""
    messages: int
    """A round, to the tutorial hub."""
    door: int
    """Taps at each driver's reader."""


FULL = Sizes(samples=6000, seconds=15, rounds=3, taps=100_000, messages=1500, door=200)
QUICK = Sizes(samples=2000, seconds=3, rounds=1, taps=20_000, messages=500, door=30)


def parts(sizes: Sizes) -> dict[str, Callable[[Path], list[Figure]]]:
    """What can be measured, by name; each is given a folder of its own."""
    return {
        "durable": lambda folder: durable.measure(folder, sizes.samples),
        "door": lambda folder: door.measure(folder, sizes.door),
        "way": lambda folder: way.measure(folder, sizes.seconds),
        "ingest": lambda folder: ingest.measure(folder, sizes.rounds, sizes.taps, sizes.messages),
    }


def run(folder: Path, names: Sequence[str], sizes: Sizes) -> list[Figure]:
    """Measures the named parts in `folder`, one after the other."""
    figures: list[Figure] = []
    for name in names:
        began = time.monotonic()
        (folder / name).mkdir()
        figures += parts(sizes)[name](folder / name)
        print(f"bench: {name} measured in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return figures


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"{', '.join(parts(QUICK))} (default: all)")
    parser.add_argument("--quick", action="store_true", help="under a minute, and rougher")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108  a fresh folder in it is used
        metavar="DIR",
        help="where to write, on the storage to be measured (default: /var/tmp)",
    )
    chosen = parser.parse_args(argv)
    unknown = set(chosen.parts) - parts(QUICK).keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if not chosen.folder.is_dir() or not os.access(chosen.folder, os.W_OK):
        parser.error(f"--folder {chosen.folder}: no folder that can be written to")
    if file_system(chosen.folder) in {"tmpfs", "ramfs"}:
        parser.error(f"--folder {chosen.folder}: is kept in memory, where nothing is ever durable")
    try:
        with tempfile.TemporaryDirectory(prefix="shuaka-bench-", dir=chosen.folder) as made:
            folder = Path(made)
            # PostgreSQL, as its own user, has to get through, and puts its data there as well
            folder.chmod(0o711)
            tempfile.tempdir = made
            sizes = QUICK if chosen.quick else FULL
            figures = run(folder, chosen.parts or list(parts(sizes)), sizes)
            print(table(figures))
            print(machine(folder))
    except (MissingProgramError, NotReadyError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
