"""Long runs that try to break the promises; each is added to a file that can be summed up.

bin/torture                         a small slice of each part
bin/torture cuts --rounds 2000      one part, for as long as it takes
bin/torture --table                 what all kept runs come to
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.rig import Postgres
from tests.torture import capabilities, cuts, fuzz, kills, states
from tests.torture.result import Result, keep, kept, table


@dataclass(frozen=True, slots=True)
class Part:
    """How many rounds a slice has, what does them, and why it cannot here."""

    slice: int
    run: Callable[[int, int], Result]
    missing: Callable[[], str] = lambda: ""


def _states(rounds: int, seed: int) -> Result:
    found = states.run(rounds, seed)
    return Result("crash states of the journal", found.states, len(found.lost), 0)


def _fuzz(rounds: int, seed: int) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        return fuzz.run(rounds, seed, folder)


def _kills(rounds: int, seed: int) -> Result:
    with tempfile.TemporaryDirectory(prefix="sh-") as folder:
        return kills.run(rounds, seed, Path(folder))


def _kills_postgres(rounds: int, seed: int) -> Result:
    with tempfile.TemporaryDirectory(prefix="sh-") as folder:
        Path(folder).chmod(0o711)
        with Postgres(Path(folder, "postgres")) as server:
            Path(folder, "venue").mkdir()
            return kills.run(rounds, seed, Path(folder, "venue"), server.create_database())


PARTS = {
    "states": Part(20_000, _states, capabilities.tracing),
    "cuts": Part(100, cuts.run, cuts.missing),
    "kills": Part(50, _kills),
    "kills-postgres": Part(50, _kills_postgres),
    "fuzz": Part(200_000, _fuzz),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bin/torture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, help="instead of a slice's")
    parser.add_argument("--seed", type=int, help="default: the time")
    parser.add_argument("--forget", action="store_true", help="keep no line of it")
    parser.add_argument("--table", action="store_true", help="only what was kept")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    found: list[Result] = []
    for name in [] if options.table else options.parts or list(PARTS):
        part = PARTS[name]
        if why := part.missing():
            print(f"{name}: SKIPPED: {why}", file=sys.stderr)
            continue
        seed = options.seed if options.seed is not None else int(time.time())
        began = time.monotonic()
        result = part.run(options.rounds or part.slice, seed)
        print(f"{name}: seed {seed}, {time.monotonic() - began:.0f} s", file=sys.stderr)
        found.append(result)
        if not options.forget:
            keep(result, seed, time.monotonic() - began)
    print(table(kept() if options.table else found))
    return 0 if all(each.is_clean for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
