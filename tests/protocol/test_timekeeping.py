"""One trusted reading dates a whole boot; without any there is an interval."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.timekeeping import Dated, Sample, date

MS = st.integers(0, 10_000_000_000)
WALL = st.integers(0, 4_000_000_000_000)
SAMPLES = st.lists(st.builds(Sample, MS, WALL), min_size=1, max_size=8)
BOUNDS = st.none() | WALL


@given(MS, SAMPLES, BOUNDS, BOUNDS, st.randoms())
def test_the_order_and_repetition_of_samples_do_not_matter(
    at: int, samples: list[Sample], earliest: int | None, latest: int | None, rng: object
) -> None:
    dated = date(at, samples, earliest, latest)
    shuffled = samples * 2
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert date(at, shuffled, earliest, latest) == dated


@given(MS, SAMPLES, BOUNDS, BOUNDS)
def test_with_a_sample_it_is_exact_and_the_bounds_do_not_matter(
    at: int, samples: list[Sample], earliest: int | None, latest: int | None
) -> None:
    dated = date(at, samples, earliest, latest)
    assert dated.exact
    assert dated == date(at, samples, None, None)


@given(WALL, MS, st.lists(MS, min_size=1, max_size=8))
def test_a_wall_clock_that_runs_true_gives_the_true_time_from_any_samples(
    boot_began: int, at: int, sampled_at: list[int]
) -> None:
    samples = [Sample(each, boot_began + each) for each in sampled_at]
    assert date(at, samples, None, None) == Dated(boot_began + at, boot_began + at)


@given(SAMPLES, st.data())
def test_at_a_sample_it_is_what_the_sample_says(samples: list[Sample], data: st.DataObject) -> None:
    sample = data.draw(st.sampled_from(samples))
    same_moment = [each.wall_ms for each in samples if each.boottime_ms == sample.boottime_ms]
    assert date(sample.boottime_ms, samples, None, None).earliest_ms == min(same_moment)


@given(MS, SAMPLES, st.builds(Sample, MS, WALL))
def test_a_sample_that_is_farther_away_changes_nothing(
    at: int, samples: list[Sample], more: Sample
) -> None:
    nearest = min(abs(each.boottime_ms - at) for each in samples)
    if abs(more.boottime_ms - at) > nearest:
        assert date(at, [*samples, more], None, None) == date(at, samples, None, None)


def test_of_two_that_are_as_near_the_earlier_counts() -> None:
    before, after = Sample(100, 1_000), Sample(300, 9_000)
    assert date(200, [after, before], None, None) == Dated(1_100, 1_100)


@given(MS, BOUNDS, BOUNDS)
def test_without_a_sample_it_is_the_interval_that_is_known(
    at: int, earliest: int | None, latest: int | None
) -> None:
    dated = date(at, [], earliest, latest)
    assert dated == Dated(earliest, latest)
    assert dated.exact == (earliest is not None and earliest == latest)
