"""Outputs at the door that are no screen: the commands of readers' lamps, pins, a loudspeaker."""

import io
import itertools
import logging
import math
import struct
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import gpiozero
import pytest
from gpiozero.pins.mock import MockFactory, MockPin, MockPWMPin

from edge.feedback import Light, Notice, Outcome, Standing
from edge.feedback.gpio import PinNumbers, Pins, open_pins
from edge.feedback.latest import Latest
from edge.feedback.reader import Acr122u, Acr1252, ReaderLamps, lamp_of
from edge.feedback.sound import Sound, wav
from tests.rig import wait_for


def notice(outcome: Outcome, reader: str = "r") -> Notice:
    return Notice(outcome, reader)


# --- readers' own lamps ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ACS ACR122U 00 00", Acr122u),
        ("ACS ACR122U PICC Interface 01 00", Acr122u),
        ("ACS ACR1252 Dual Reader [ACR1252 Dual Reader PICC] 00 00", Acr1252),
        ("ACS ACR1252IMP Reader 00 00", Acr1252),
        ("ACS ACR1552 1S CL Reader [ACR1552 Reader PICC] 00 00", Acr1252),
        ("ACS ACR1222L 00 00", None),  # another command set
        ("OMNIKEY 5022 CL 00 00", None),
        ("nfc ttyS0", None),
        ("", None),
    ],
)
def test_the_kind_of_lamp_is_told_by_the_name(name: str, kind: type | None) -> None:
    lamp = lamp_of(name)
    assert (None if lamp is None else type(lamp)) is kind


def led(command: bytes) -> tuple[bool, bool]:
    """Red and green after an ACR122U's command, as its manual reads."""
    return bool(command[3] & 1), bool(command[3] & 2)


COLOURS = {
    Light.GREEN: (False, True),
    Light.AMBER: (True, True),
    Light.RED: (True, False),
    Light.RED_BLINKING: (True, False),
}


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_acr122u_is_told_colour_and_beeps_and_is_never_kept_for_long(outcome: Outcome) -> None:
    commands = [step.command for step in Acr122u().steps(outcome) if step.command is not None]
    beeps = 0
    for command in commands:
        assert command[:3] == b"\xff\x00\x40"
        assert (len(command), command[4]) == (9, 4)
        t1, t2, times, buzzer = command[5:]
        assert t2 == 0
        assert t1 * times <= 2, "blocks the reader"
        assert buzzer == (1 if t1 else 0)
        beeps += buzzer
        if outcome.light is Light.NEUTRAL:
            assert command[3] == 0, "the lamp is the reader's own then"
        else:
            assert command[3] & 0b1100 == 0b1100
            assert led(command) in {COLOURS[outcome.light], (False, False)}
    assert beeps == len([tone for tone in outcome.pattern if tone.hz])
    if outcome.light is not Light.NEUTRAL:
        shown = [led(command) for command in commands]
        assert shown.count(COLOURS[outcome.light]) == len([f for f in outcome.blink if f.on])
        assert commands[-1] == Acr122u.dark


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_acr1252_is_told_colour_and_beeps(outcome: Outcome) -> None:
    commands = [step.command for step in Acr1252().steps(outcome) if step.command is not None]
    beeps = [each[5] for each in commands if each[:5] == b"\xe0\x00\x00\x28\x01"]
    lamps = [each[5] for each in commands if each[:5] == b"\xe0\x00\x00\x29\x01"]
    assert len(beeps) + len(lamps) == len(commands)
    assert beeps == [tone.ms // 10 for tone in outcome.pattern if tone.hz]
    if outcome.light is Light.NEUTRAL:
        assert lamps == []
        return
    red, green = COLOURS[outcome.light]
    colour = red | green << 1
    assert lamps == [colour, 0] * len([flash for flash in outcome.blink if flash.on])


@pytest.mark.parametrize("lamp", [Acr122u(), Acr1252()])
@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_outcome_takes_its_time_and_leaves_the_lamp_off(
    lamp: Acr122u | Acr1252, outcome: Outcome
) -> None:
    steps = lamp.steps(outcome)
    assert sum(step.ms for step in steps) == sum(moment.ms for moment in outcome.moments)
    assert not steps[-1].lit
    assert any(step.lit for step in steps) == (outcome.light is not Light.NEUTRAL)


def test_a_notice_goes_to_its_own_reader() -> None:
    told: list[tuple[str, Outcome]] = []
    lamps = ReaderLamps(lambda *what: told.append(what))
    lamps.show(notice(Outcome.UNKNOWN, "reader 7"))
    lamps.stand(Standing.CANNOT_RECORD, "detail")
    assert told == [("reader 7", Outcome.UNKNOWN)]


# --- the latest alone -----------------------------------------------------------------------------


def test_only_the_latest_is_taken() -> None:
    box: Latest[int] = Latest()
    assert box.take(0) is None
    for number in range(5):
        box.put(number)
    assert box.newer(0)
    assert box.take() == 4
    assert not box.newer(0.01)
    assert box.take(0.01) is None


def test_while_held_nothing_is_given_and_what_plays_ends() -> None:
    box: Latest[int] = Latest()
    with box.held():
        assert box.newer(10)
        box.put(1)
        assert box.take(0.01) is None
    assert box.take() == 1


def test_a_closed_box_gives_nothing() -> None:
    box: Latest[int] = Latest()
    box.put(1)
    box.close()
    assert box.take() is None
    assert box.newer(10)


# --- pins -----------------------------------------------------------------------------------------

ALL = PinNumbers(green=17, amber=27, red=22, white=23, buzzer=18)


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type[MockPin]], MockFactory]]:
    """Makes the pins of a board that gpiozero simulates."""
    made: list[MockFactory] = []

    def make(kind: type[MockPin]) -> MockFactory:
        found = MockFactory(pin_class=kind)
        monkeypatch.setattr(gpiozero.Device, "pin_factory", found)
        made.append(found)
        return found

    yield make
    for each in made:
        each.reset()


def levels(factory: MockFactory, number: int) -> list[float]:
    """What the pin was set to, one after the other."""
    return [float(state.state) for state in factory.pin(number).states]


def lit(factory: MockFactory, number: int) -> int:
    """How often the pin went on."""
    found = levels(factory, number)
    return sum(not a and bool(b) for a, b in itertools.pairwise(found))


def over(pins: Pins, outcome: Outcome) -> None:
    pins.show(notice(outcome))
    time.sleep(sum(moment.ms for moment in outcome.moments) / 1000 + 0.3)


@pytest.mark.parametrize(
    ("outcome", "number"),
    [
        (Outcome.RECOGNISED, 17),
        (Outcome.UNKNOWN, 27),
        (Outcome.UNREADABLE, 22),
        (Outcome.FAILED, 22),
        (Outcome.RECORDED, 23),
    ],
)
def test_an_outcome_lights_its_lamp_alone_and_sounds(
    factory: Callable[[type[MockPin]], MockFactory], outcome: Outcome, number: int
) -> None:
    board = factory(MockPWMPin)
    pins = open_pins(ALL)
    assert pins is not None
    over(pins, outcome)
    lamps = {each: lit(board, each) for each in (17, 27, 22, 23)}
    assert lamps.pop(number) == len([flash for flash in outcome.blink if flash.on])
    assert set(lamps.values()) == {0}
    assert lit(board, 18) == len([tone for tone in outcome.pattern if tone.hz])
    assert [levels(board, each)[-1] for each in (17, 27, 22, 23, 18)] == [0] * 5
    pins.close()


def test_a_buzzer_plays_the_pitches(factory: Callable[[type[MockPin]], MockFactory]) -> None:
    board = factory(MockPWMPin)
    heard: list[int] = []
    pin = board.pin(18)
    original = type(pin)._set_frequency

    def listen(self: MockPWMPin, value: float | None) -> None:
        if value is not None:
            heard.append(round(value))
        original(self, value)

    type(pin)._set_frequency = listen
    type(pin).frequency = property(type(pin)._get_frequency, listen)
    try:
        pins = open_pins(PinNumbers(buzzer=18))
        assert pins is not None
        heard.clear()
        over(pins, Outcome.FAILED)
        pins.close()
    finally:
        type(pin)._set_frequency = original
        type(pin).frequency = property(type(pin)._get_frequency, original)
    assert heard == [tone.hz for tone in Outcome.FAILED.pattern if tone.hz]


def test_a_pin_without_pitches_keeps_the_rhythm(
    factory: Callable[[type[MockPin]], MockFactory],
) -> None:
    board = factory(MockPin)
    pins = open_pins(PinNumbers(buzzer=18))
    assert pins is not None
    over(pins, Outcome.UNREADABLE)
    assert lit(board, 18) == 4
    pins.close()


def test_between_cards_red_says_that_the_door_cannot_be_used(
    factory: Callable[[type[MockPin]], MockFactory],
) -> None:
    board = factory(MockPWMPin)
    pins = open_pins(ALL)
    assert pins is not None
    pins.stand(Standing.CANNOT_RECORD)
    wait_for(lambda: levels(board, 22)[-1] == 1, "red")
    over(pins, Outcome.RECOGNISED)
    assert lit(board, 17) == 1
    assert levels(board, 22)[-1] == 1, "red again afterwards"
    pins.stand(Standing.READY)
    wait_for(lambda: levels(board, 22)[-1] == 0, "no red")
    pins.stand(Standing.AWAITING)
    pins.close()
    assert lit(board, 17) == 1
    assert [lit(board, each) for each in (27, 23, 18)] == [0, 0, 1]


def test_a_newer_outcome_does_not_wait_for_an_older_one(
    factory: Callable[[type[MockPin]], MockFactory],
) -> None:
    board = factory(MockPWMPin)
    pins = open_pins(ALL)
    assert pins is not None
    began = time.monotonic()
    for _ in range(50):
        pins.show(notice(Outcome.FAILED))
    pins.show(notice(Outcome.RECOGNISED))
    wait_for(lambda: levels(board, 17)[-1] == 1, "green", 1)
    assert time.monotonic() - began < 0.5
    pins.show(notice(Outcome.RECOGNISED))
    wait_for(lambda: lit(board, 17) == 2, "green again, after a dark", 1)
    pins.close()
    assert levels(board, 17)[-1] == 0


def test_a_lamp_without_a_pin_is_missed_by_nobody(
    factory: Callable[[type[MockPin]], MockFactory],
) -> None:
    board = factory(MockPWMPin)
    pins = open_pins(PinNumbers(green=17))
    assert pins is not None
    over(pins, Outcome.UNKNOWN)
    assert lit(board, 17) == 0
    over(pins, Outcome.RECOGNISED)
    assert lit(board, 17) == 1
    pins.close()


def test_a_lamp_that_breaks_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Loose:
        def on(self) -> None:
            raise OSError("the wire is off")

        def off(self) -> None:
            pass

        def close(self) -> None:
            pass

    pins = Pins({Light.GREEN: Loose()}, None)
    for _ in range(3):
        over(pins, Outcome.RECOGNISED)
    pins.close()
    assert len(caplog.records) == 1
    assert "the wire is off" in caplog.text


def told_once(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    words = record.getMessage()
    assert "\n" not in words
    return words


def test_a_machine_without_pins_is_told_once_and_nothing_else_happens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpiozero.Device, "pin_factory", None)
    monkeypatch.delenv("GPIOZERO_PIN_FACTORY", raising=False)
    assert open_pins(ALL) is None
    assert "no lamps on pins: this machine has no pins" in told_once(caplog)


def test_a_missing_library_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "gpiozero", None)
    assert open_pins(ALL) is None
    assert "gpiozero or lgpio is not installed" in told_once(caplog)


def test_pins_that_another_has_are_told_and_none_is_kept(
    factory: Callable[[type[MockPin]], MockFactory], caplog: pytest.LogCaptureFixture
) -> None:
    factory(MockPWMPin)
    other = gpiozero.DigitalOutputDevice(22)
    assert open_pins(ALL) is None
    assert "GPIO22" in told_once(caplog)
    other.close()
    pins = open_pins(ALL)
    assert pins is not None
    pins.close()


# --- a loudspeaker --------------------------------------------------------------------------------

# Keeps what it was given to play; plays for as long as `long` says, fails or hangs.
APLAY = """#!{python}
import os, sys, time
said = sys.stdin.buffer.read()
folder = {folder!r}
mode = open(folder + "/mode").read()
if mode == "fails":
    print("ALSA lib: no such card", "aplay: main:830: audio open error", sep="\\n", file=sys.stderr)
    sys.exit(1)
name = f"{{folder}}/{{time.monotonic_ns()}}"
open(name + ".part", "wb").write(said)
os.rename(name + ".part", name + ".wav")
open(folder + "/arguments", "w").write(" ".join(sys.argv[1:]))
if mode == "hangs":
    time.sleep(60)
"""


@pytest.fixture
def speaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `aplay` on PATH that keeps what it was given in the folder."""
    program = tmp_path / "bin" / "aplay"
    program.parent.mkdir()
    program.write_text(APLAY.format(python=sys.executable, folder=str(tmp_path)))
    program.chmod(0o755)
    (tmp_path / "mode").write_text("plays")
    monkeypatch.setenv("PATH", str(program.parent))
    return tmp_path


@pytest.fixture
def sound() -> Iterator[Sound]:
    found = Sound()
    yield found
    found.close()


def played(folder: Path) -> list[bytes]:
    return [each.read_bytes() for each in sorted(folder.glob("*.wav"))]


def test_aplay_is_given_the_outcomes_tones(speaker: Path, sound: Sound) -> None:
    for number, outcome in enumerate(Outcome, 1):
        sound.show(notice(outcome))
        wait_for(lambda n=number: len(played(speaker)) == n, f"sound {number}")
        time.sleep(0.1)
    assert played(speaker) == [wav(outcome.pattern) for outcome in Outcome]
    assert (speaker / "arguments").read_text() == "-q -"
    sound.stand(Standing.CANNOT_RECORD)
    time.sleep(0.2)
    assert len(played(speaker)) == len(Outcome)


def test_a_newer_sound_ends_an_older_one(speaker: Path, sound: Sound) -> None:
    (speaker / "mode").write_text("hangs")
    sound.show(notice(Outcome.FAILED))
    wait_for(lambda: len(played(speaker)) == 1, "a sound")
    began = time.monotonic()
    for _ in range(100):
        sound.show(notice(Outcome.UNKNOWN))
    assert time.monotonic() - began < 0.2
    sound.show(notice(Outcome.RECOGNISED))
    wait_for(lambda: played(speaker)[-1] == wav(Outcome.RECOGNISED.pattern), "the newest", 3)
    assert len(played(speaker)) <= 3


def test_an_aplay_that_does_not_end_is_ended_and_told(
    speaker: Path, sound: Sound, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edge.feedback.sound._PATIENCE_S", 0.3)
    (speaker / "mode").write_text("hangs")
    sound.show(notice(Outcome.RECOGNISED))
    wait_for(lambda: bool(caplog.records), "a line in the log")
    assert told_once(caplog) == "no sound: aplay does not end"


def test_no_aplay_is_told_once_and_tried_again(
    speaker: Path, sound: Sound, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    program = speaker / "bin" / "aplay"
    program.rename(speaker / "bin" / "gone")
    for _ in range(3):
        sound.show(notice(Outcome.RECOGNISED))
        time.sleep(0.1)
    assert told_once(caplog) == "no sound: aplay is not installed (Debian: alsa-utils)"
    (speaker / "bin" / "gone").rename(program)
    sound.show(notice(Outcome.RECOGNISED))
    wait_for(lambda: len(caplog.records) == 2, "a line in the log")
    assert caplog.messages[-1] == "sound works again"


def test_no_sound_card_is_told_once_in_aplays_words(
    speaker: Path, sound: Sound, caplog: pytest.LogCaptureFixture
) -> None:
    (speaker / "mode").write_text("fails")
    for _ in range(3):
        sound.show(notice(Outcome.RECOGNISED))
        time.sleep(0.2)
    assert told_once(caplog) == "no sound: aplay failed (1): aplay: main:830: audio open error"


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_wav_file_has_the_pitches_for_as_long_as_they_last(outcome: Outcome) -> None:
    with wave.open(io.BytesIO(wav(outcome.pattern))) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        rate = file.getframerate()
        data = file.readframes(file.getnframes())
    samples = struct.unpack(f"<{len(data) // 2}h", data)
    at = 0
    for tone in outcome.pattern:
        count = tone.ms * rate // 1000
        part = samples[at : at + count]
        at += count
        if not tone.hz:
            assert set(part) == {0}
            continue
        assert 0.4 < max(part) / 32_767 < 0.6
        crossings = sum(a < 0 <= b for a, b in itertools.pairwise(part))
        assert math.isclose(crossings, tone.hz * tone.ms / 1000, abs_tol=2)
        assert max(map(abs, part[:5] + part[-5:])) < 2_000, "it would click"
    assert at == len(samples)


def test_nothing_is_said_where_all_is_well(
    speaker: Path, sound: Sound, caplog: pytest.LogCaptureFixture
) -> None:
    sound.show(notice(Outcome.RECOGNISED))
    wait_for(lambda: len(played(speaker)) == 1, "a sound")
    time.sleep(0.1)
    assert caplog.records == []
