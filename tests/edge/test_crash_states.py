"""P1, P6: whatever a power cut leaves of the journal's files, nothing acknowledged is lost."""

import json
import random

import pytest

from tests.torture import capabilities
from tests.torture.states import (
    Create,
    Disk,
    FailedSync,
    Rename,
    Result,
    Step,
    Sync,
    Truncate,
    Unlink,
    Write,
    run,
)

SEED = 20_261_124


def crash(**how: object) -> Result:
    capabilities.need(capabilities.tracing())
    return run(**how)  # type: ignore[arg-type]


def told(result: Result) -> str:
    return json.dumps([[each.seed, each.number, each.wrong] for each in result.lost[:5]])


@pytest.mark.timeout(300)
def test_no_crash_state_loses_what_was_acknowledged(capsys: pytest.CaptureFixture[str]) -> None:
    result = crash(states=13_000, seed=SEED)
    assert not result.lost, told(result)
    assert result.points > 800
    with capsys.disabled():
        print(f"\n{result.states} crash states in {result.seconds:.0f} s, 0 lost")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("former", [1, 2])
def test_no_crash_state_of_an_upgrade_loses_anything(former: int) -> None:
    result = crash(states=1_500, seed=SEED, former=former, appends=20)
    assert not result.lost, told(result)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "faults",
    [
        "fdatasync:error=EIO:when=9+13",
        "fdatasync:error=EIO:when=20+37",
        "pwrite64:error=ENOSPC:when=60+71",
        "pwrite64:error=EIO:when=60+71",
    ],
)
def test_a_power_cut_after_failed_syncs_and_writes_loses_nothing_either(faults: str) -> None:
    result = crash(states=1_000, seed=SEED, faults=faults)
    assert not result.lost, told(result)


@pytest.mark.parametrize("setting", ["PRAGMA synchronous = OFF", "PRAGMA synchronous = NORMAL"])
def test_a_journal_that_does_not_sync_each_commit_is_caught(setting: str) -> None:
    assert crash(states=400, seed=SEED, setting=setting).lost


# --- the disk that is played back -----------------------------------------------------------------


def states(steps: list[Step], count: int = 300) -> set[tuple[tuple[str, bytes], ...]]:
    """What a power cut after `steps` may leave."""
    found = set()
    for number in range(count):
        disk = Disk(random.Random(number))
        for step in steps:
            disk.do(step)
        left = disk.state(number % 5, random.Random(number))
        found.add(tuple(sorted(left.items())))
    return found


def test_what_was_synced_is_always_there_and_what_was_not_may_be() -> None:
    begun: list[Step] = [Create("a"), Write("a", 0, b"12"), Sync("a")]
    assert states(begun) == {(("a", b"12"),)}
    assert states(begun[:2]) == {(), (("a", b""),), (("a", b"12"),)}
    assert states([*begun, Write("a", 1, b"3")]) == {(("a", b"12"),), (("a", b"13"),)}


def test_a_write_may_be_torn_at_its_sectors_and_leaves_zeros_where_nothing_came() -> None:
    new = b"x" * 512 + b"y" * 512
    left = {dict(each)["a"] for each in states([Create("a"), Sync("a"), Write("a", 0, new)])}
    assert left == {b"", new[:512], bytes(512) + new[512:], new}


def test_writes_come_through_in_any_combination() -> None:
    steps: list[Step] = [Create("a"), Write("a", 0, b"___"), Sync("a")]
    steps += [Write("a", at, b"x") for at in range(3)]
    left = {dict(each)["a"] for each in states(steps)}
    assert len(left) == 8


def test_a_name_goes_and_comes_in_order_and_a_sync_settles_what_was_before() -> None:
    steps: list[Step] = [
        *(Create("a"), Write("a", 0, b"1"), Sync("a")),
        *(Create("b"), Write("b", 0, b"2"), Unlink("a"), Rename("b", "a")),
    ]
    left = states(steps)
    assert (("a", b"1"),) in left
    assert (("a", b"2"),) in left
    assert () not in left, "one of both names is always there"
    assert states([*steps, Sync("a")]) == {(("a", b"2"),)}


def test_a_truncation_that_did_not_come_through_takes_what_followed_with_it() -> None:
    steps: list[Step] = [Create("a"), Write("a", 0, b"12"), Sync("a")]
    steps += [Truncate("a", 0), Write("a", 0, b"3")]
    assert {dict(each)["a"] for each in states(steps)} == {b"12", b"", b"3"}


def test_what_a_sync_failed_to_write_may_never_come() -> None:
    steps: list[Step] = [Create("a"), Sync("a"), Write("a", 0, b"1"), FailedSync("a"), Sync("a")]
    assert states(steps) == {(("a", b""),), (("a", b"1"),)}
