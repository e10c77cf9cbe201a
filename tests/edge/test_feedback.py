"""Feedback: wording, lines, and outputs that hang or break."""

import io
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from edge.feedback import (
    ALREADY_RECOGNISED,
    Flash,
    Light,
    Moment,
    Notice,
    Outcome,
    Standing,
    Tone,
    together,
)
from edge.feedback.console import Console
from edge.feedback.fanout import Fanout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at_half_past_seven() -> datetime:
    return datetime(2026, 7, 1, 19, 31, 5, tzinfo=UTC)


def console(output: io.StringIO) -> Console:
    return Console(output, at_half_past_seven)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_only_recognised_is_green_and_only_it_says_success() -> None:
    green = [outcome for outcome in Outcome if outcome.light is Light.GREEN]
    success = [outcome for outcome in Outcome if "成功" in outcome.wording]
    assert green == success == [Outcome.RECOGNISED]
    assert "签到" not in Outcome.ALREADY.wording  # without a roster nobody is known
    assert "签到" in ALREADY_RECOGNISED


def test_what_was_not_recorded_is_red_and_what_was_is_not() -> None:
    assert {outcome for outcome in Outcome if not outcome.recorded} == {
        Outcome.UNREADABLE,
        Outcome.FAILED,
        Outcome.NOT_ENROLLED,
        Outcome.RETIRED,
    }


CLASSES = {
    "recorded and recognised": [Outcome.RECOGNISED],
    "recorded, to be checked": [Outcome.UNKNOWN],
    "not readable, try again": [Outcome.UNREADABLE],
    "cannot record": [Outcome.FAILED, Outcome.NOT_ENROLLED, Outcome.RETIRED],
}
NEUTRAL = [Outcome.RECORDED, Outcome.ALREADY, Outcome.ACTED]


def pitches(outcome: Outcome) -> list[int]:
    return [tone.hz for tone in outcome.pattern if tone.hz]


def flashes(outcome: Outcome) -> list[int]:
    return [flash.ms for flash in outcome.blink if flash.on]


def test_every_outcome_is_of_a_class_or_neutral() -> None:
    assert Counter([*itertools.chain(*CLASSES.values()), *NEUTRAL]) == Counter(Outcome)
    assert {outcome.light for outcome in NEUTRAL} == {Light.NEUTRAL}


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(CLASSES, 2)))
def test_two_classes_differ_for_eyes_and_ears_and_without_colour_or_pitch(
    one: str, other: str
) -> None:
    for a, b in itertools.product(CLASSES[one], CLASSES[other]):
        assert a.symbol != b.symbol
        assert a.light != b.light
        assert a.pattern != b.pattern
        assert pitches(a) != pitches(b)
        assert a.blink != b.blink
        assert len(pitches(a)) != len(pitches(b)), "only pitch would tell them apart"
        assert len(flashes(a)) != len(flashes(b)), "only colour would tell them apart"


def test_what_is_in_one_class_is_shown_alike() -> None:
    for outcomes in CLASSES.values():
        shown = {(each.symbol, each.light, each.pattern, each.blink) for each in outcomes}
        assert len(shown) == 1


def test_a_neutral_outcome_is_quiet_and_like_no_class() -> None:
    loud = list(itertools.chain(*CLASSES.values()))
    for outcome in NEUTRAL:
        assert max(pitches(outcome)) < min(max(pitches(each)) for each in loud)
        sounds_ms = sum(tone.ms for tone in outcome.pattern if tone.hz)
        assert sounds_ms <= min(sum(t.ms for t in each.pattern if t.hz) for each in loud)
        assert not {outcome.pattern, outcome.blink} & {
            shown for each in loud for shown in (each.pattern, each.blink)
        }
    assert len({outcome.pattern for outcome in NEUTRAL}) == len(NEUTRAL)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_outcome_is_over_before_the_next_person_is_there(outcome: Outcome) -> None:
    assert 100 <= sum(moment.ms for moment in outcome.moments) <= 2_500
    assert all(tone.ms % 100 == 0 for tone in outcome.pattern)
    assert outcome.pattern[-1].hz != 0
    assert outcome.blink[-1].on


def test_moments_are_lamp_and_buzzer_together() -> None:
    pattern = (Tone(800, 200), Tone(0, 100), Tone(900, 200))
    blink = (Flash(True, 250), Flash(False, 50), Flash(True, 500))
    assert together(pattern, blink) == (
        Moment(200, 800, True, 200),
        Moment(50, 0, True, 0),
        Moment(50, 0, False, 0),
        Moment(200, 900, True, 200),
        Moment(300, 0, True, 0),
    )
    cut = (Tone(700, 400),)
    assert together(cut, (Flash(True, 100),)) == (
        Moment(100, 700, True, 400),
        Moment(300, 700, False, 0),  # the tone that began goes on
    )


@pytest.mark.parametrize("outcome", list(Outcome))
def test_moments_lose_nothing(outcome: Outcome) -> None:
    moments = outcome.moments
    assert [moment.tone_ms for moment in moments if moment.tone_ms] == [
        tone.ms for tone in outcome.pattern if tone.hz
    ]
    for parts, on in (
        ([(tone.hz, tone.ms) for tone in outcome.pattern], [m.hz for m in moments]),
        ([(flash.on, flash.ms) for flash in outcome.blink], [m.lit for m in moments]),
    ):
        every_ms = [what for what, ms in parts for _ in range(ms)]
        played = [what for what, m in zip(on, moments, strict=True) for _ in range(m.ms)]
        assert played[: len(every_ms)] == every_ms
        assert not any(played[len(every_ms) :])


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_line_is_time_symbol_colour_and_words(outcome: Outcome) -> None:
    output = io.StringIO()
    console(output).show(Notice(outcome, "reader 0"))
    assert output.getvalue() == (
        f"19:31:05 {outcome.symbol} {outcome.light.value} {outcome.wording}\n"
    )


def test_message_and_detail_stay_on_one_line() -> None:
    output = io.StringIO()
    console(output).show(Notice(Outcome.ALREADY, "r", "您已签到，\n无需重复刷卡"))
    console(output).stand(Standing.NOT_ENROLLED, "登记文件\n无法使用")
    assert output.getvalue() == (
        "19:31:05 ◎ 白 您已签到， 无需重复刷卡\n"
        "19:31:05 ✘ 红 设备未登记，无法记录，请联系工作人员（登记文件 无法使用）\n"
    )


def test_colours_only_on_a_terminal() -> None:
    plain, terminal = io.StringIO(), Terminal()
    console(plain).show(Notice(Outcome.FAILED, "r"))
    console(terminal).show(Notice(Outcome.FAILED, "r"))
    assert "\x1b" not in plain.getvalue()
    assert terminal.getvalue() == "19:31:05 \x1b[1;31m✘ 红\x1b[0m 无法记录，请联系工作人员\n"


def test_a_standing_is_told_when_it_changes() -> None:
    output = io.StringIO()
    out = console(output)
    for standing in (Standing.READY, Standing.READY, Standing.NO_READER, Standing.READY):
        out.stand(standing)
    assert [line.split()[-1] for line in output.getvalue().splitlines()] == [
        "请刷党员卡",
        "读卡器未连接，请联系工作人员",
        "请刷党员卡",
    ]


class Recording:
    def __init__(self) -> None:
        self.shown: list[str] = []
        self.standings: list[Standing] = []

    def show(self, notice: Notice) -> None:
        self.shown.append(notice.message)

    def stand(self, standing: Standing, detail: str = "") -> None:  # noqa: ARG002
        self.standings.append(standing)


class Stuck(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.release = threading.Event()

    def show(self, notice: Notice) -> None:
        self.reached.set()
        self.release.wait()
        super().show(notice)


class Broken(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.working = False
        self.tried = 0

    def show(self, notice: Notice) -> None:
        self.tried += 1
        if not self.working:
            raise OSError("the lamp is gone")
        super().show(notice)


def numbered(n: int) -> Notice:
    return Notice(Outcome.RECORDED, "r", str(n))


def test_a_stuck_output_delays_neither_the_caller_nor_the_others_and_drops_the_oldest() -> None:
    stuck, good = Stuck(), Recording()
    fanout = Fanout([stuck, good], limit=3)
    fanout.show(numbered(0))
    assert stuck.reached.wait(5)
    began = time.monotonic()
    for n in range(1, 11):
        fanout.show(numbered(n))
        eventually(lambda n=n: len(good.shown) == n + 1)
    fanout.stand(Standing.NO_READER)
    assert time.monotonic() - began < 2
    assert good.shown == [str(n) for n in range(11)]
    eventually(lambda: good.standings == [Standing.NO_READER])
    stuck.release.set()
    fanout.stop()
    assert stuck.shown == ["0", "8", "9", "10"]
    assert stuck.standings == [Standing.NO_READER]


def test_a_broken_output_is_logged_once_and_used_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    broken, good = Broken(), Recording()
    fanout = Fanout([broken, good])
    for n in range(5):
        fanout.show(numbered(n))
    eventually(lambda: len(good.shown) == broken.tried == 5)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    broken.working = True
    fanout.show(numbered(5))
    fanout.stop()
    assert good.shown == ["0", "1", "2", "3", "4", "5"]
    assert broken.shown == ["5"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_stop_is_bounded_by_a_stuck_output_and_nothing_is_shown_afterwards() -> None:
    stuck, good = Stuck(), Recording()
    fanout = Fanout([stuck, good])
    fanout.show(numbered(0))
    began = time.monotonic()
    fanout.stop()
    assert time.monotonic() - began < 4
    fanout.show(numbered(1))
    stuck.release.set()
    time.sleep(0.05)
    assert good.shown == ["0"]
