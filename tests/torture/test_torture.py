"""Slices of the torture, and that it can tell a promise that is broken."""

import os
from pathlib import Path

import pytest

from tests.torture import cuts, fuzz
from tests.torture.result import Result, keep, kept, table

SEED = int(os.environ.get("SHUAKA_TORTURE_SEED", "20261124"))


def _need_loop_devices() -> None:
    if why := cuts.missing():
        pytest.skip(f"SKIPPED: {why}")


@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_by_a_power_cut_on_ext4() -> None:
    _need_loop_devices()
    assert cuts.run(100, SEED).is_clean


@pytest.mark.timeout(120)
def test_a_journal_that_does_not_wait_for_the_disk_is_found_out() -> None:
    _need_loop_devices()
    assert cuts.run(10, SEED, "PRAGMA synchronous=OFF").lost


@pytest.mark.timeout(300)
def test_no_payload_ends_the_hub_or_keeps_an_honest_one_out(tmp_path: Path) -> None:
    assert fuzz.run(int(os.environ.get("SHUAKA_FUZZ_ROUNDS", "200000")), SEED, tmp_path).is_clean


def test_runs_are_kept_and_added_up(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert kept(path) == []
    keep(Result("cuts", 1_000, 0, 0, "first", 1.5), 1, 2.0, path)
    keep(Result("cuts", 500, 1, 0, "then", 0.5), 2, 2.0, path)
    assert [each.rounds for each in kept(path)] == [1_000, 500]
    assert not kept(path)[1].is_clean
    line = table(kept(path)).splitlines()[-1]
    assert line.split() == ["cuts", "1,500", "1", "0", "1.5", "then"]
