"""`python -m tests.simulation --years 1000 --seed 0`: device-years, as many as are wanted.

Goes on where the result file says that this commit's run from this seed ended. A world that fails
is printed with its seed and the end of its story; the same seed gives the same story again.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.simulation.world import Failed, of_the_year, simulate

RESULTS = Path(__file__).parents[1] / "torture" / "results.jsonl"
PART = "simulation"
SAVED_EVERY_S = 60


def commit() -> str:
    """The commit that runs, marked where the code under test was changed since."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
        return run.stdout.strip()

    changed = git("status", "--porcelain", "--", "protocol", "edge", "hub", "tests/simulation")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def done(results: Path, first: int, at: str) -> int:
    """The first seed from `first` on that no line of this commit has."""
    spans = []
    if results.exists():
        for line in results.read_text("utf-8").splitlines():
            entry = json.loads(line)
            if entry.get("part") == PART and entry.get("commit") == at:
                spans.append(entry["seeds"])
    for low, high in sorted(spans):
        if low <= first <= high:
            first = high + 1
    return int(first)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--years", type=float, default=50, help="device-years (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=None, help="at most so many seeds")
    parser.add_argument("--stop", action="store_true", help="end at the first violation")
    parser.add_argument("--results", type=Path, default=None, help=f"appended to, e.g. {RESULTS}")
    wanted = parser.parse_args()
    at = commit()
    seed = done(wanted.results, wanted.seed, at) if wanted.results else wanted.seed
    if seed != wanted.seed:
        print(f"goes on with seed {seed}")
    tally: Counter[str] = Counter()
    years = all_years = worst = 0.0
    first, rounds, broken = seed, 0, 0
    saved = began = time.monotonic()

    def save() -> None:
        nonlocal first, rounds, broken, years, worst
        if wanted.results and rounds:
            line: dict[str, Any] = {
                "part": PART,
                "seeds": [first, seed - 1],
                "commit": at,
                "rounds": rounds,
                "years": round(years, 2),
                # a world ends at its first violation, of whatever kind: each counts as a loss
                "lost": broken,
                "doubled": 0,
                "worst_converge_s": worst / 1000,
            }
            with wanted.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            first, rounds, broken, years, worst = seed, 0, 0, 0.0, 0.0

    failures = 0
    last = None if wanted.seeds is None else wanted.seed + wanted.seeds
    while all_years < wanted.years and seed != last and not (wanted.stop and failures):
        came = simulate(seed)
        seed, rounds = seed + 1, rounds + 1
        if isinstance(came, Failed):
            print(came, flush=True)
            broken, failures, all_years = broken + 1, failures + 1, all_years + 1
        else:
            years, all_years = years + came.years, all_years + came.years
            worst = max(worst, came.worst_converge_ms)
            tally.update(came.tally)
        if time.monotonic() - saved > SAVED_EVERY_S:
            saved = time.monotonic()
            save()
            print(f"{all_years:.0f} of {wanted.years:.0f} device-years, seed {seed}", flush=True)
    save()
    took = time.monotonic() - began
    print(f"{all_years:.1f} device-years in {took:.0f} s: {failures} with a violation")
    print(", ".join(f"{name} {times}" for name, times in of_the_year(tally).items()))
    print(", ".join(f"{name} {times}" for name, times in tally.most_common()))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
