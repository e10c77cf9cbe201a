"""The system's clocks."""

import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import edge.clock
from edge.clock import Clock, SystemClock, Trust
from tests.fakes.clock import FakeClock


def test_the_boot_is_named_by_16_bytes_and_does_not_change() -> None:
    text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert SystemClock().boot_id() == UUID(text).bytes
    assert len(SystemClock().boot_id()) == 16


def test_boottime_goes_on_and_wall_time_is_the_epochs() -> None:
    clock = SystemClock()
    before, wall = clock.boottime_ms(), clock.wall_ms()
    time.sleep(0.02)
    assert 15 <= clock.boottime_ms() - before < 5_000
    assert abs(wall - time.time() * 1000) < 5_000


def test_the_operators_word_wins() -> None:
    assert SystemClock(Trust.ALWAYS).trusted() is True
    assert SystemClock(Trust.NEVER).trusted() is False


@pytest.mark.parametrize(
    ("returned", "status", "marked", "trusted"),
    [
        (0, 0x2001, False, True),
        (5, 0x0040, False, False),
        (0, 0x0040, False, False),
        (5, 0x0000, False, False),
        (-1, 0x0000, False, False),
        (5, 0x0040, True, False),  # set by hand since, or long without a word
        (0, 0x0040, True, False),
        (0, 0x2001, True, True),
        (-1, 0x0000, True, True),
    ],
)
def test_auto_asks_the_kernel_and_timesyncd_only_where_that_is_silent(
    returned: int,
    status: int,
    marked: bool,
    trusted: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    class Libc:
        @staticmethod
        def adjtimex(reference: Any) -> int:
            reference._obj.status = status
            return returned

    mark = tmp_path / "synchronized"
    if marked:
        mark.touch()
    monkeypatch.setattr(edge.clock, "_libc", Libc)
    monkeypatch.setattr(edge.clock, "_TIMESYNC_MARK", mark)
    assert SystemClock(Trust.AUTO).trusted() is trusted


def test_the_real_adjtimex_reads_a_plausible_status() -> None:
    timex = edge.clock._Timex()
    state = edge.clock._libc.adjtimex(edge.clock.ctypes.byref(timex))
    if state == -1:
        pytest.skip("this machine forbids adjtimex")
    assert 0 <= state <= 5
    assert abs(timex.time.seconds - time.time()) < 60  # the layout is right up to there
    assert 9_000 <= timex.tick <= 11_000


def test_the_fake_is_a_clock() -> None:
    clock: Clock = FakeClock(trust=False)
    assert (clock.trusted(), len(clock.boot_id())) == (False, 16)
