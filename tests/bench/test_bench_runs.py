"""The benchmarks run and give a figure for all that they say; how fast is not asked here."""

import re
from pathlib import Path

import pytest

from tests.bench.__main__ import Sizes, main, parts
from tests.bench.figures import Figure, block_ratio, file_system, percentile, table
from tests.contracts.test_readers import HARNESSES

TINY = Sizes(samples=80, seconds=1, rounds=1, taps=2000, messages=20, door=10)


@pytest.mark.servers
@pytest.mark.parametrize("part", parts(TINY))
def test_every_part_gives_its_figures(part: str, rig_dir: Path) -> None:
    figures = parts(TINY)[part](rig_dir)
    door = 1 + 4 * (len(HARNESSES) - 1) + 2
    assert len(figures) == {"durable": 3, "door": door, "way": 4, "ingest": 13}[part]
    for figure in figures:
        values = [value for value in (figure.rate, figure.p50, figure.mb) if value]
        assert len(values) == 1, figure
        assert bool(figure.p50) == bool(figure.p99), figure
        assert float(values[0].replace(",", "")) > 0, figure
    compared = [figure for figure in figures if not figure.what.startswith("  ")]
    assert compared
    assert all(re.match(r"\d+\.\d+ × ", figure.ratio) for figure in compared)


def test_percentiles_are_samples_that_were_measured() -> None:
    samples = [float(each) for each in range(1, 101)]
    assert percentile(samples, 50) == 50
    assert percentile(samples, 99) == 99
    assert percentile([3.0], 99) == 3.0


def test_a_ratio_of_neighbouring_blocks_withstands_a_machine_that_slows_down() -> None:
    theirs = [[1.0] * 3, [10.0] * 3, [100.0] * 3]
    ours = [[2.0] * 3, [20.0] * 3, [200.0] * 3]
    assert block_ratio(ours, theirs) == 2.0


def test_the_table_has_a_line_for_each_figure() -> None:
    lines = table([Figure("a", "1.000", "2.000"), Figure("b", rate="3,000")]).splitlines()
    assert len(lines) == 4
    assert "3,000" in lines[3]


def test_memory_is_refused_as_storage(capsys: pytest.CaptureFixture[str]) -> None:
    shm = Path("/dev/shm")  # noqa: S108
    if not shm.is_dir() or file_system(shm) != "tmpfs":
        pytest.skip("no tmpfs here")
    with pytest.raises(SystemExit):
        main(["--folder", str(shm)])
    assert "in memory" in capsys.readouterr().err


def test_an_unknown_part_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["durble"])
    assert "durble" in capsys.readouterr().err
