"""A reader's own lamp on a real pcscd: after the commit, at the right reader, in nobody's way."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge.couriers import JournalEvent
from edge.feedback import Outcome
from edge.feedback.fanout import Fanout
from edge.feedback.reader import Acr122u, ReaderLamps, lamp_of
from edge.readers import ReaderUp
from edge.readers.pcsc import PcscReaders
from edge.readers.pcsc_lamp import NOT_ALLOWED
from edge.recorder import Recorder
from edge.store import Journal, Owner
from protocol.credential import Credential
from protocol.identity import OpeningKey
from protocol.roster import OpenMeeting, Roster, cards_of
from tests.contracts.readers import EventLog, check_contract
from tests.fakes.clock import FakeClock
from tests.rig import (
    Pcscd,
    SilentCard,
    UidCard,
    VirtualReader,
    private_dir,
    storage_card_atr,
    wait_for,
)

pytestmark = pytest.mark.servers

OWNER = Owner(bytes(16), OpeningKey.generate().public)
SMALL, LARGE, UNKNOWN_KIND = 0, 1, 2
NAMES = ("ACS ACR122U", "ACS ACR1252 Reader", "Nobody's Reader")


def card(number: int) -> UidCard:
    return UidCard(bytes([0x10, 0x20, 0x30, number]))


def commands(reader: int, outcome: Outcome) -> list[bytes]:
    lamp = lamp_of(NAMES[reader])
    assert lamp is not None
    return [step.command for step in lamp.steps(outcome) if step.command is not None]


class Nobody:
    def tell(self, event: JournalEvent) -> None:
        pass


@dataclass
class Door:
    """Three readers of different kinds, the driver on them, what it told, and a recorder."""

    pcscd: Pcscd
    readers: PcscReaders
    fields: list[VirtualReader]
    recorder: Recorder
    log: EventLog = field(default_factory=EventLog)

    def shown(self, reader: int) -> list[bytes]:
        """The commands that came, without the one at the beginning."""
        return [each for each in self.pcscd.escapes(reader) if each != Acr122u.hush]

    def until_shown(self, reader: int, *outcomes: Outcome, seconds: float = 5) -> None:
        wanted = [each for outcome in outcomes for each in commands(reader, outcome)]
        wait_for(
            lambda: self.shown(reader) == wanted,
            f"{outcomes} at {NAMES[reader]}",
            seconds,
        )

    def until_read(self, count: int, reader: int | None = None, seconds: float = 5) -> None:
        name = None if reader is None else self.pcscd.reader_names[reader]
        self.log.wait_for(lambda _: len(self.log.numbers(name)) == count, seconds)

    def worker(self, reader: int) -> int:
        process = self.readers._readers[self.pcscd.reader_names[reader].encode()]._keeper._process
        assert process is not None
        return process._popen.pid


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    with ExitStack() as held:
        pcscd = Pcscd(held.enter_context(private_dir()), 3, handler=True, names=NAMES)
        for name, value in pcscd.env.items():
            monkeypatch.setenv(name, value)
        held.enter_context(pcscd)
        readers = PcscReaders()
        feedback = Fanout([ReaderLamps(readers.signal)])
        recorder = Recorder(
            tmp_path / "data", OWNER, FakeClock(), feedback, debounce_ms=0, read_timeout_ms=1000
        )
        fields = [
            held.enter_context(VirtualReader(port, gap_s=pcscd.gap_s)) for port in pcscd.ports
        ]
        door = Door(pcscd, readers, fields, recorder)

        def both(event: Any) -> None:
            door.log(event)
            recorder.reader_event(event)

        recorder.start(Nobody())
        readers.start(both)
        try:
            for name in pcscd.reader_names:
                door.log.wait_for(lambda events, name=name: ReaderUp(name) in events, 10)
            yield door
        finally:
            readers.stop()
            recorder.stop()
            feedback.stop()
        check_contract(door.log)


def expects(*cards: UidCard) -> Roster:
    """A roster whose one meeting, open for ever, expects these cards."""
    credentials = [Credential("uid", "", each.uid.hex().upper()) for each in cards]
    return Roster(
        OWNER.edge, 1, bytes(16), (OpenMeeting(0, 1 << 50, cards_of(bytes(16), credentials)),)
    )


def test_each_outcome_is_shown_at_the_reader_where_the_card_was_and_at_no_other(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    li, wang = card(1), card(2)
    door.recorder.new_roster(expects(li))
    door.fields[SMALL].tap_until_read(li, linger_s=1.3)
    door.until_shown(SMALL, Outcome.RECOGNISED)
    assert door.shown(LARGE) == []

    door.fields[LARGE].tap_until_read(wang, linger_s=1.3)
    door.until_shown(LARGE, Outcome.UNKNOWN)
    door.fields[LARGE].tap_until_read(UidCard(bytes(4)), linger_s=1.3)  # gives no number
    door.until_shown(LARGE, Outcome.UNKNOWN, Outcome.UNREADABLE)

    def fail(self: Journal, items: Any) -> int:
        raise OSError("no room")

    monkeypatch.setattr(Journal, "append", fail)
    door.fields[LARGE].tap_until_read(li, linger_s=2.3)
    door.until_shown(LARGE, Outcome.UNKNOWN, Outcome.UNREADABLE, Outcome.FAILED)
    assert door.shown(SMALL) == commands(SMALL, Outcome.RECOGNISED)
    assert door.shown(UNKNOWN_KIND) == []


def test_a_reader_is_told_once_not_to_beep_of_itself(door: Door) -> None:
    """A beep for every card that comes would be taken for the one after the commit."""
    for number in range(1, 4):
        door.fields[SMALL].tap_until_read(card(number), linger_s=0.5)
        door.until_shown(SMALL, *[Outcome.RECORDED] * number)
    assert door.pcscd.escapes(SMALL) == [Acr122u.hush, *commands(SMALL, Outcome.RECORDED) * 3]


def test_a_silent_card_is_shown_as_unreadable_when_it_is_lifted(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """Its worker is ended, and as long as it lies there pcscd lets no command through."""
    door.fields[SMALL].present(SilentCard())
    door.log.wait_for(lambda _: len(door.log.unreadable()) == 1)
    time.sleep(0.5)
    assert door.shown(SMALL) == []
    door.fields[SMALL].remove()
    door.until_shown(SMALL, Outcome.UNREADABLE)
    assert not [each for each in caplog.messages if "lamp" in each]


def test_a_light_that_would_come_late_does_not_come(door: Door) -> None:
    door.fields[SMALL].present(SilentCard())
    door.log.wait_for(lambda _: len(door.log.unreadable()) == 1)
    time.sleep(2.5)
    door.fields[SMALL].remove()
    time.sleep(0.5)
    assert door.shown(SMALL) == []
    door.fields[SMALL].present(card(1))
    door.until_shown(SMALL, Outcome.RECORDED)


def test_no_light_before_the_commit(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Journal.append
    reached, answer = threading.Event(), threading.Event()

    def hang(self: Journal, items: Any) -> int:
        reached.set()
        answer.wait(10)
        return original(self, items)

    monkeypatch.setattr(Journal, "append", hang)
    door.fields[SMALL].present(card(1))
    assert reached.wait(5)
    time.sleep(0.5)
    assert door.shown(SMALL) == []
    answer.set()
    door.until_shown(SMALL, Outcome.RECORDED)


def test_a_reader_of_an_unknown_kind_is_left_alone_and_read(door: Door) -> None:
    door.fields[UNKNOWN_KIND].present(card(1))
    door.until_read(1, UNKNOWN_KIND)
    time.sleep(0.3)
    assert [door.shown(reader) for reader in range(3)] == [[], [], []]


def test_twenty_quick_taps_are_all_read_while_the_lamp_is_slow(door: Door) -> None:
    """Slow as a buzzer of an ACR122U is: a while in which pcscd hears nothing of the reader."""
    door.pcscd.delay_escapes(SMALL, 150)
    cards = [card(number) for number in range(20)]
    door.recorder.new_roster(expects(*cards))  # green lasts a second, two taps and more
    for each in cards:
        door.fields[SMALL].tap(each, dwell_s=0.3)
        time.sleep(0.1)
    door.until_read(20, SMALL)
    assert door.log.numbers() == [each.uid.hex().upper() for each in cards]
    assert door.log.unreadable() == []
    assert len(door.shown(SMALL)) >= 20, "there was no lamp that could have been in the way"


def test_a_newer_outcome_ends_an_older_one(door: Door) -> None:
    """FAILED lasts more than two seconds; a good card in between does not wait for its end."""
    door.readers.signal(door.pcscd.reader_names[SMALL], Outcome.FAILED)
    first = commands(SMALL, Outcome.FAILED)[0]
    wait_for(lambda: door.shown(SMALL) == [first], "a red lamp")
    door.readers.signal(door.pcscd.reader_names[SMALL], Outcome.RECOGNISED)
    lamp = lamp_of(NAMES[SMALL])
    assert lamp is not None
    shown = [first, lamp.dark, *commands(SMALL, Outcome.RECOGNISED)]
    wait_for(lambda: door.shown(SMALL) == shown, "green after dark")
    time.sleep(1)
    assert door.shown(SMALL) == shown


def test_a_hanging_lamp_holds_nobody_up_for_long_and_is_then_left_alone(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """What pcscd itself cannot do is hear of a card at a reader while a command to it hangs."""
    door.pcscd.delay_escapes(SMALL, 2_000)
    door.fields[SMALL].present(card(0))
    wait_for(lambda: len(door.pcscd.escapes(SMALL)) == 1, "a command that hangs")
    began = time.monotonic()
    for number in range(1, 6):
        door.fields[LARGE].tap_until_read(card(number), linger_s=0.02)
        door.until_read(number, LARGE)
    assert time.monotonic() - began < 1.5, "another reader had to wait"
    door.fields[SMALL].present(card(6))
    door.until_read(2, SMALL, seconds=3)
    for number in range(7, 12):
        began = time.monotonic()
        door.fields[SMALL].present(card(number))
        door.until_read(number - 4, SMALL)
        assert time.monotonic() - began < 0.5, "a card had to wait for the lamp again"
    assert len(door.pcscd.escapes(SMALL)) == 1
    assert door.log.unreadable() == []
    told = [each.getMessage() for each in caplog.records if "lamp" in each.getMessage()]
    assert len(told) == 1
    assert "left alone for a minute" in told[0]
    assert NAMES[SMALL] in told[0]


def test_a_lamp_that_fails_is_told_once_and_no_cards_fault(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    door.pcscd.fail_escapes(LARGE, True)
    for number in range(5):
        door.fields[LARGE].tap_until_read(card(number))
        wait_for(lambda n=number: len(door.shown(LARGE)) == n + 1, "an attempt")
    door.until_read(5, LARGE)
    assert door.log.unreadable() == []
    told = [each.getMessage() for each in caplog.records if "lamp" in each.getMessage()]
    assert told == [f"{door.pcscd.reader_names[LARGE]}: its lamp: {NOT_ALLOWED}"]
    door.pcscd.fail_escapes(LARGE, False)
    door.fields[LARGE].tap_until_read(card(5))
    wait_for(lambda: caplog.messages[-1].endswith("its lamp works again"), "a lamp that works")


@dataclass(frozen=True)
class Bypass:
    """A card on a reader that takes its own commands out of what goes to the card."""

    uid: bytes = b"\x11\x22\x33\x44"
    atr: bytes = field(default_factory=storage_card_atr)

    def answer(self, apdu: bytes) -> bytes | None:
        if apdu == Acr122u.hush:
            return b"\x63\x00"
        return b"\x90\x02" if apdu[:3] == b"\xff\x00\x40" else self.uid + b"\x90\x00"


def test_where_the_driver_allows_no_escapes_the_commands_go_with_those_to_the_card(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    door.pcscd.fail_escapes(SMALL, True)
    door.fields[SMALL].present(Bypass())
    wanted = commands(SMALL, Outcome.RECORDED)

    def shown() -> list[bytes]:
        return [each.apdu for each in door.fields[SMALL].answers if each.apdu[2] == 0x40]

    wait_for(lambda: shown() == wanted, "the lamp's commands at the card")
    assert door.pcscd.escapes(SMALL) == [Acr122u.hush]  # tried once
    door.fields[SMALL].present(Bypass(b"\x55\x66\x77\x88"))
    wait_for(lambda: shown() == wanted * 2, "the same again")
    door.fields[SMALL].tap_until_read(Bypass(b"\x55\x66\x77\x99"), linger_s=0)
    door.until_read(3, SMALL)
    assert door.pcscd.escapes(SMALL) == [Acr122u.hush]
    assert door.log.unreadable() == []
    told = [each.getMessage() for each in caplog.records if "lamp" in each.getMessage()]
    assert len(told) == 1
    assert NOT_ALLOWED in told[0]


def test_a_worker_that_does_not_listen_holds_up_nobody(door: Door) -> None:
    name = door.pcscd.reader_names[SMALL]
    os.kill(door.worker(SMALL), signal.SIGSTOP)
    try:
        began = time.monotonic()
        for _ in range(5_000):  # more than a pipe holds
            door.readers.signal(name, Outcome.FAILED)
        assert time.monotonic() - began < 2
        door.readers.signal("no such reader", Outcome.FAILED)
    finally:
        os.kill(door.worker(SMALL), signal.SIGCONT)
    door.fields[SMALL].present(card(1))
    door.until_read(1, SMALL)


def test_a_lamp_goes_on_after_pcscd_was_started_anew(door: Door) -> None:
    door.fields[LARGE].tap_until_read(card(1), linger_s=0.6)
    door.until_shown(LARGE, Outcome.RECORDED)
    door.pcscd.restart()
    for name in door.pcscd.reader_names:
        up = ReaderUp(name)
        door.log.wait_for(lambda events, up=up: events.count(up) == 2, 10)
    door.fields[LARGE].tap_until_read(card(2), linger_s=0.6)
    door.until_shown(LARGE, Outcome.RECORDED, Outcome.RECORDED)


@pytest.mark.parametrize("shows", [True, False])
def test_the_daemon_has_its_readers_show_outcomes_unless_told_not_to(
    tmp_path: Path, shows: bool
) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(f"[edge]\ndata = 'data'\n[feedback]\nreader = {str(shows).lower()}\n")
    with private_dir() as directory, Pcscd(directory, 2, handler=True, names=NAMES) as pcscd:
        command = [Path(sys.executable).parent / "shuaka-edge", "run", "--config", config]
        daemon = subprocess.Popen(
            command, env=os.environ | pcscd.env, stdout=subprocess.PIPE, text=True
        )
        try:
            assert daemon.stdout is not None
            with VirtualReader(pcscd.ports[LARGE], gap_s=pcscd.gap_s) as reader:
                reader.present(card(1))
                # It belongs to no hub yet: how it stands, and then what becomes of the card.
                for _ in range(2):
                    assert Outcome.NOT_ENROLLED.wording in next(daemon.stdout)
                wanted = commands(LARGE, Outcome.NOT_ENROLLED)
                if shows:
                    wait_for(lambda: pcscd.escapes(LARGE) == wanted, "the reader's lamp")
                else:
                    time.sleep(1)
                    assert pcscd.escapes(LARGE) == []
        finally:
            daemon.terminate()
            daemon.communicate(timeout=10)
        assert pcscd.escapes(SMALL) == []
