"""Fifty device-years hold, a seed tells one story, and each planted bug is caught; see `world`."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.world import PER_YEAR, Failed, Lived, of_the_year, simulate

ROOT = Path(__file__).parents[2]
BUGS = Path(__file__).parent / "bugs"
YEARS = 50
WANTED = frozenset(
    {
        "broker restarted",
        "cloned",
        "commit failed",
        "crash after publishing",
        "crash after the commit",
        "crash before a release",
        "crash before publishing",
        "crash before the commit",
        "crash before the light",
        "forge",
        "hub crash after the commit",
        "hub crash before the commit",
        "hub crash between receipts",
        "hub restored",
        "impatient",
        "new generation",
        "other edge",
        "pruned",
        "replay down",
        "replay up",
        "rolled back",
        "rotten",
        "said to be complete",
        "spoil",
        "stick carried",
        "stick imported twice",
        "stick pulled",
        "storage failed",
        "swap",
        "taken over",
        "unsigned",
    }
)
FIRST_SEEDS = {
    "mark-outside-transaction": 7,
    "prune-by-age": 4,
    "receipt-before-commit": 7,
}
"""Bugs of what only some worlds run; the others begin with seed 0."""
SEEDS = 50


@pytest.mark.timeout(900)
def test_everything_arrives_once_through_fifty_device_years() -> None:
    tally: Counter[str] = Counter()
    years, seed = 0.0, 0
    while years < YEARS:
        lived = simulate(seed)
        assert isinstance(lived, Lived), str(lived)
        tally.update(lived.tally)
        years, seed = years + lived.years, seed + 1
    had = of_the_year(tally)
    assert {what: had[what] / years for what in had if had[what] / years < PER_YEAR[what]} == {}
    assert {what for what in WANTED if tally[what] < 5} == set()


@pytest.mark.parametrize("seed", [2, 4, 7])
def test_a_seed_tells_the_same_story_each_time(seed: int) -> None:
    lived, again = simulate(seed), simulate(seed)
    assert isinstance(lived, Lived), str(lived)
    assert lived == again


def test_another_seed_tells_another_story() -> None:
    lived, other = simulate(2), simulate(5)
    assert isinstance(lived, Lived)
    assert isinstance(other, Lived)
    assert lived.digest != other.digest


def planted(bug: str, folder: Path) -> None:
    """A copy of the code with the bug in it."""
    for package in ("protocol", "edge", "hub", "tests/simulation"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "static")
        )
    shutil.copy(ROOT / "tests/__init__.py", folder / "tests")
    patch = BUGS / f"{bug}.patch"
    applied = subprocess.run(
        ["git", "apply", "-p1", str(patch)],
        cwd=folder,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert applied.returncode == 0, f"the bug is to be planted anew: {applied.stderr}"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", sorted(each.stem for each in BUGS.glob("*.patch")))
def test_a_planted_bug_is_caught_and_replays(bug: str, tmp_path: Path) -> None:
    planted(bug, tmp_path)
    first = FIRST_SEEDS.get(bug, 0)

    def run(seed: int, seeds: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(sys.executable, "-m", "tests.simulation", "--stop"),
                *("--seed", str(seed), "--seeds", str(seeds), "--years", str(seeds + 1)),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    caught = run(first, SEEDS - first)
    assert caught.returncode == 1, caught.stdout + caught.stderr
    story = caught.stdout[caught.stdout.index("seed ") :].partition("again: ")[0]
    again = run(int(story.split()[1].rstrip(":")), 1)
    assert story in again.stdout


def test_all_ten_bugs_are_there() -> None:
    assert len(list(BUGS.glob("*.patch"))) == 10
    assert Failed(7, "why", ("a line",)).__str__().startswith("seed 7: why")
