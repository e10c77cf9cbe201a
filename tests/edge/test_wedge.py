"""Keyboard wedges: what is typed, what cannot be a number, and a line that is lost.

The devices are sockets of the rig (there is no /dev/input to test with); what a kernel does on
EVIOCGRAB is played.
"""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import doctor
from edge.cards.settings import CardsSection, ClassicSectorSection, ProfileName
from edge.config import Config, ReadersSection, WedgeSection
from edge.readers import (
    CardGone,
    CardRead,
    CardSeen,
    CardUnreadable,
    Down,
    ReaderDown,
    ReaderUp,
    Unreadable,
)
from edge.readers.wedge import (
    EV_KEY,
    EV_SYN,
    EVENT,
    HALF_S,
    LONGEST_LINE,
    LONGEST_PAUSE_S,
    SYN_DROPPED,
    Typed,
    Wedge,
    WedgeReaders,
    open_device,
    read_line,
)
from protocol.credential import CardNumberFormat, Credential
from tests.contracts.readers import EventLog, check_contract
from tests.rig import wait_for
from tests.rig.keyboard import Keyboard, dec10, key, keys

DEVICE = Path("/dev/input/by-id/door")
NAME = "wedge door"
LI = "11223344"


class Door:
    """One wedge, its driver, and what that told."""

    def __init__(self, number_format: CardNumberFormat) -> None:
        self.keyboard = Keyboard()
        self.failure = 0
        self.readers = WedgeReaders([Wedge(DEVICE, number_format)], open_=self.open)
        self.log = EventLog()

    def open(self, path: Path) -> int:
        if self.failure:
            raise OSError(self.failure, os.strerror(self.failure), str(path))
        return self.keyboard.open(path)

    def start(self) -> None:
        self.readers.start(self.log)

    def until_up(self, times: int = 1) -> None:
        self.log.wait_for(lambda events: events.count(ReaderUp(NAME)) == times)

    def until_unreadable(self, *reasons: Unreadable) -> None:
        self.log.wait_for(lambda _: self.log.unreadable() == list(reasons), 5)

    def until_numbers(self, *numbers: str) -> None:
        self.log.wait_for(lambda _: self.log.numbers() == list(numbers), 5)


@pytest.fixture
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    door = Door(getattr(request, "param", CardNumberFormat.DEC10))
    try:
        yield door
    finally:
        if door.readers.alive():
            door.readers.stop()
        door.keyboard.unplug()
        check_contract(door.log)


@pytest.fixture
def up(door: Door) -> Door:
    door.start()
    door.until_up()
    return door


def lines(events: bytes) -> list[str]:
    """What a new Typed makes of them, all at once."""
    typed = Typed()
    told = [typed.take(*event, 0.0) for _, _, *event in EVENT.iter_unpack(events)]
    return [line for line in told if line is not None]


# --- what is typed --------------------------------------------------------------------------------


def test_digits_and_enter_are_a_line() -> None:
    assert lines(keys("0123456789\n")) == ["0123456789"]
    assert lines(keys("1234567890\n0987654321\n")) == ["1234567890", "0987654321"]
    assert lines(keys("123")) == []


def test_the_keypad_is_as_good() -> None:
    codes = (82, 79, 80, 81, 75, 76, 77, 71, 72, 73, 96)
    assert lines(b"".join(key(code, 1) + key(code, 0) for code in codes)) == ["0123456789"]


def test_letters_with_and_without_shift_are_capitals() -> None:
    plain = b"".join(key(code, 1) for code in (30, 48, 46, 32, 18, 33))
    assert lines(keys("04ABCDEF\n") + plain + keys("\n")) == ["04ABCDEF", "ABCDEF"]
    # Caps lock around the number, as some wedges have it.
    assert lines(key(58, 1) + key(58, 0) + plain + key(58, 1) + keys("\n")) == ["ABCDEF"]


def test_an_enter_alone_is_nothing_and_a_key_held_down_is_one() -> None:
    held = key(2, 1) + key(2, 2) * 9 + key(2, 0)
    assert lines(keys("\n\n1\n\n") + held + keys("\n")) == ["1", "1"]


@pytest.mark.parametrize(
    "events",
    [
        keys("12G34\n"),
        keys("12;34\n"),
        key(42, 1) + keys("12") + key(42, 0) + keys("34\n"),  # shifted digits are other signs
        keys("12") + key(15, 1) + keys("\n"),
        keys("12") + key(SYN_DROPPED, 0, EV_SYN) + keys("34\n"),
        keys("1" * (LONGEST_LINE + 1) + "\n"),
        keys("1" * 500 + "\n"),
    ],
)
def test_a_line_that_can_be_no_number_is_told_once_and_the_next_is_read(events: bytes) -> None:
    assert lines(events + keys("42\n")) == ["", "42"]


def test_keys_that_are_missing_may_have_released_shift() -> None:
    events = key(42, 1) + key(SYN_DROPPED, 0, EV_SYN) + keys("\n12\n")
    assert lines(events) == ["", "12"]


def test_the_next_number_is_read_where_keys_were_lost_with_an_enter() -> None:
    typed = Typed()

    def at(now_s: float, events: bytes) -> list[str]:
        told = [typed.take(*event, now_s) for _, _, *event in EVENT.iter_unpack(events)]
        return [line for line in told if line is not None]

    assert at(1.0, keys("00012") + key(SYN_DROPPED, 0, EV_SYN)) == [""]
    assert at(1.1, keys("34567")) == []  # may be the rest of it
    assert at(1.35, keys("0001234567\n")) == ["0001234567"]
    # What is broken otherwise goes on up to its end.
    assert at(5.0, keys("12G34")) == [""]
    assert at(5.3, keys("5678\n")) == []


def test_a_line_that_was_being_typed_when_the_device_was_taken_is_none() -> None:
    typed = Typed(10.0)
    told = [typed.take(*event, 9.9) for _, _, *event in EVENT.iter_unpack(keys("D4E5"))]
    told += [typed.take(*event, 10.1) for _, _, *event in EVENT.iter_unpack(keys("E580\n"))]
    told += [typed.take(*event, 10.2) for _, _, *event in EVENT.iter_unpack(keys("11223344\n"))]
    assert [line for line in told if line is not None] == ["", "11223344"]


def test_a_line_is_given_up_after_a_pause() -> None:
    typed = Typed()
    assert not typed.give_up(99.0)
    typed.take(EV_KEY, 2, 1, 100.0)
    assert not typed.give_up(100.0 + LONGEST_PAUSE_S)
    typed.take(EV_KEY, 3, 1, 101.5)
    assert not typed.give_up(103.5)
    assert typed.give_up(103.6)
    assert not typed.give_up(200.0)
    typed.take(EV_KEY, 4, 1, 200.0)
    assert typed.take(EV_KEY, 28, 1, 200.1) == "3"


def test_a_broken_line_that_pauses_was_told_already() -> None:
    typed = Typed()
    assert typed.take(EV_KEY, 15, 1, 1.0) == ""
    assert not typed.give_up(50.0)
    assert typed.take(EV_KEY, 28, 1, 60.0) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from([EV_SYN, EV_KEY, 4, 17]),
            st.integers(0, 120),
            st.integers(-1, 2),
            st.floats(0, 3),
        ),
        max_size=200,
    )
)
def test_whatever_is_typed_is_bounded(events: list[tuple[int, int, int, float]]) -> None:
    typed, now, told = Typed(), 0.0, 0
    for kind, code, value, pause in events:
        now += pause
        told += typed.give_up(now)
        line = typed.take(kind, code, value, now)
        told += line is not None
        if line:
            assert len(line) <= LONGEST_LINE
            assert set(line) <= set("0123456789ABCDEF -:")
    assert told <= len(events)
    # Whatever came before, an Enter makes room for the next card.
    typed.take(EV_KEY, 28, 1, now)
    assert [typed.take(EV_KEY, code, 1, now) for code in (2, 3, 28)] == [None, None, "12"]


@pytest.mark.parametrize(
    ("number_format", "line", "value"),
    [
        ("dec10", "0123456789", "15CD5B07"),
        ("dec10", "4294967295", Unreadable.BAD_ANSWER),
        ("dec10-reversed", "0123456789", "075BCD15"),
        ("dec10-reversed", "4294967295", Unreadable.BAD_ANSWER),
        ("dec10-reversed", f"{0x08A1B2C3:010d}", Unreadable.RANDOM_NUMBER),
        ("dec10-reversed", "123456789", Unreadable.BAD_ANSWER),
        ("dec10-reversed", "0000000000", Unreadable.NO_NUMBER),
        ("hex", "FF" * 7, Unreadable.BAD_ANSWER),
        ("hex", "04A1B2C3D4E5F6", "04A1B2C3D4E5F6"),
        ("hex", "04 A1-B2:C3", "04A1B2C3"),
        ("hex-reversed", "44332211", "11223344"),
        ("dec10", "0000000000", Unreadable.NO_NUMBER),
        ("hex", "00000000000000", Unreadable.NO_NUMBER),
        (
            "dec10",
            f"{int.from_bytes(bytes.fromhex('08A1B2C3'), 'little'):010d}",
            Unreadable.RANDOM_NUMBER,
        ),
        ("hex", "08A1B2C3", Unreadable.RANDOM_NUMBER),
        ("hex-reversed", "C3B2A108", Unreadable.RANDOM_NUMBER),
        ("dec10", "123456789", Unreadable.BAD_ANSWER),
        ("dec10", "01234567890", Unreadable.BAD_ANSWER),
        ("dec10", "4294967296", Unreadable.BAD_ANSWER),
        ("dec10", "04A1B2C3", Unreadable.BAD_ANSWER),
        ("dec10", "", Unreadable.BAD_ANSWER),
        ("hex", "04A1B2C", Unreadable.BAD_ANSWER),
        ("hex", "04A1B2C3D4", Unreadable.BAD_ANSWER),
        ("hex", "", Unreadable.BAD_ANSWER),
        ("dec8", "12345678", Unreadable.BAD_ANSWER),
    ],
)
def test_lines_as_numbers(number_format: str, line: str, value: str | Unreadable) -> None:
    outcome = read_line(line, CardNumberFormat(number_format))
    got = outcome if isinstance(outcome, Unreadable) else outcome.credential.value
    assert got == value


# --- the driver -----------------------------------------------------------------------------------


def test_a_line_is_a_card_that_came_and_went(up: Door) -> None:
    up.keyboard.type(f"{dec10(LI)}\n")
    up.log.wait_for(lambda events: len(events) == 4)
    told, seen, read, gone = up.log.events
    assert told == ReaderUp(NAME)
    assert isinstance(seen, CardSeen)
    assert isinstance(read, CardRead)
    assert read.credential == Credential("uid", "", LI)
    assert read.valid is None
    assert gone == CardGone(NAME, seen.generation)


@pytest.mark.parametrize("door", [CardNumberFormat.HEX], indirect=True)
def test_the_format_is_the_configured_one(up: Door) -> None:
    time.sleep(2 * HALF_S)
    up.keyboard.type("04A1B2C3D4E5F6\n11223344\n")
    up.until_numbers("04A1B2C3D4E5F6", "11223344")


def test_what_comes_byte_by_byte_is_the_same(up: Door) -> None:
    for byte in keys(f"{dec10(LI)}\n"):
        up.keyboard.send(bytes([byte]))
    up.until_numbers(LI)


def test_phones_and_zeros_say_so(up: Door) -> None:
    up.keyboard.type(f"{dec10('08A1B2C3')}\n0000000000\n")
    up.until_unreadable(Unreadable.RANDOM_NUMBER, Unreadable.NO_NUMBER)


def test_a_wrong_line_is_unreadable_and_told_to_no_log(
    up: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    up.keyboard.type(f"9876543\n{'5' * 100}\n{dec10(LI)}\n")
    up.until_numbers(LI)
    up.until_unreadable(Unreadable.BAD_ANSWER, Unreadable.BAD_ANSWER)
    assert [type(event) for event in up.log.events[1:]] == [
        CardSeen, CardUnreadable, CardGone, CardSeen, CardUnreadable, CardGone,
        CardSeen, CardRead, CardGone,
    ]  # fmt: skip
    for number in ("9876543", "5555", dec10(LI), LI):
        assert number not in caplog.text


def test_a_line_that_stops_is_told_without_another_key(up: Door) -> None:
    up.keyboard.type(dec10(LI)[:6])
    began = time.monotonic()
    up.until_unreadable(Unreadable.BAD_ANSWER)
    assert LONGEST_PAUSE_S - 0.1 < time.monotonic() - began < LONGEST_PAUSE_S + 1
    up.keyboard.type(f"{dec10(LI)}\n")
    up.until_numbers(LI)


def test_a_line_cut_by_the_reader_s_loss_does_not_join_the_next(up: Door) -> None:
    up.keyboard.type("01234")
    up.keyboard.send(key(2, 1)[:7])
    up.keyboard.unplug()
    up.log.wait_for(lambda events: ReaderDown(NAME, Down.UNPLUGGED) in events)
    up.keyboard.plug()
    up.until_up(2)
    up.keyboard.type(f"{dec10(LI)}\n")
    up.until_numbers(LI)
    assert up.log.unreadable() == []


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (errno.ENOENT, "is not connected"),
        (errno.EACCES, "group input"),
        (errno.EBUSY, "another program"),
        (errno.ENOTTY, "no input device"),
        (errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_a_device_that_cannot_be_used_is_said_once_and_tried_again(
    door: Door, caplog: pytest.LogCaptureFixture, failure: int, words: str
) -> None:
    door.failure = failure
    door.start()
    wait_for(lambda: words in door.readers.health().readers[0].trouble, words)
    time.sleep(1.3)
    assert not door.readers.health().working
    assert door.log.events == []
    assert caplog.text.count(words) == 1
    assert str(DEVICE) in caplog.text
    door.failure = 0
    door.until_up()
    assert door.readers.health().readers[0].trouble == ""


def test_a_defect_is_logged_and_survived(
    door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr("edge.readers.wedge.read_line", failing)
        door.start()
        door.until_up()
        door.keyboard.type("1\n")
        door.log.wait_for(lambda events: ReaderDown(NAME, Down.FAILED) in events)
    door.until_up(2)
    door.keyboard.type(f"{dec10(LI)}\n")
    door.until_numbers(LI)
    assert "ZeroDivisionError" in caplog.text


# --- the device -----------------------------------------------------------------------------------


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    "make", [Path.touch, os.mkfifo, Path.mkdir], ids=["file", "fifo", "folder"]
)
def test_what_cannot_be_grabbed_is_not_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "device"
    make(path)
    before = descriptors()
    for each in (path, Path("/dev/null")):
        with pytest.raises(OSError, match=r"Inappropriate ioctl|Invalid argument"):
            open_device(each)
    assert descriptors() == before


def test_the_device_is_taken_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(fcntl, "ioctl", lambda *call: asked.append(call))
    descriptor = open_device(Path("/dev/null"))
    try:
        assert asked == [(descriptor, 0x40044590, 1)]  # EVIOCGRAB = _IOW('E', 0x90, int)
        assert not os.get_blocking(descriptor)
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_the_layout_is_the_kernel_s() -> None:
    assert EVENT.size in {24, 16}  # 64 and 32 bit
    assert key(28, 1)[: EVENT.size] == EVENT.pack(0, 0, 1, 28, 1)
    if EVENT.size == 24:
        assert EVENT.pack(1, 2, 3, 4, -5) == bytes.fromhex(
            "0100000000000000020000000000000003000400fbffffff"
        )


# --- doctor ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "recording", "told"),
    [
        (0, False, "ok reader: wedge door"),
        (errno.EBUSY, True, "ok reader: wedge door, which shuaka-edge has"),
        (errno.EBUSY, False, "TODO reader wedge door: /dev/door: another program has it"),
        (errno.ENOENT, True, "TODO reader wedge door: /dev/door: the reader is not connected"),
        (errno.EACCES, True, "TODO reader wedge door: /dev/door: this user may not read it"),
    ],
)
def test_the_doctor_looks_at_it_and_takes_it_from_nobody(
    monkeypatch: pytest.MonkeyPatch, failure: int, recording: bool, told: str
) -> None:
    def open_(path: Path) -> int:
        if failure:
            raise OSError(failure, os.strerror(failure), str(path))
        return os.open(os.devnull, os.O_RDONLY)

    monkeypatch.setattr(doctor, "open_device", open_)
    monkeypatch.setattr(doctor, "is_recording", lambda _: recording)
    wedges = (WedgeSection(Path("/dev/door")),)
    before = descriptors()
    findings = doctor._wedges(Config(readers=ReadersSection(pcsc=False, wedge=wedges)))
    lines = [f"{'ok' if each.good else 'TODO'} {each.what}" for each in findings]
    assert len(lines) == 1
    assert lines[0].startswith(told)
    assert descriptors() == before


def test_the_doctor_says_that_a_key_keeps_the_service_from_starting(tmp_path: Path) -> None:
    key = tmp_path / "key"
    sector = ClassicSectorSection(issuer="campus", key_file=key)
    section = CardsSection((ProfileName.CLASSIC_SECTOR,), sector)
    config = Config(cards=section)
    (finding,) = doctor._cards(config)
    assert not finding.good
    assert str(key) in finding.what
    assert "does not start" in finding.advice
    key.write_text("A0A1A2A3A4A5")
    key.chmod(0o600)
    (finding,) = doctor._cards(config)
    assert (finding.good, finding.what) == (True, "cards are read by classic-sector")
