"""The NFC driver: nfcpy on a simulated PN532, and what goes wrong with cards, chip and line."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nfc
import nfc.clf
import pytest

from edge import doctor
from edge.cards.classic_sector import Content, Place, WhichKey
from edge.cards.settings import UID_ONLY, Plan, ProfileName, Sector
from edge.config import load
from edge.daemon import inputs
from edge.readers import CardGone, Down, ReaderDown, ReaderUp, Unreadable
from edge.readers.nfc import TAKEN, NfcDevice, NfcReaders
from tests.contracts.readers import EventLog, check_contract
from tests.rig import free_port, private_dir, wait_for
from tests.rig.pn532 import Answering, Pn532, TypeA, TypeB

LI = TypeA(bytes.fromhex("11223344"))
WANG = TypeA(bytes.fromhex("55667788"))
ZHAO = TypeA(bytes.fromhex("04A1B2C3D4E5F6"))
READER = "nfc ttyS0"

FILE = bytes.fromhex("1002000000000001 01 01 00010203040506070809 20200101 20991231 FFFF")
CPU_FILE = Plan((ProfileName.CPU_FILE,))
KEY = bytes.fromhex("A0B1C2D3E4F5")
SECTOR = Sector(Place(1, 0, 0, 8, Content.ASCII), KEY, WhichKey.A, "工会")
CLASSIC = Plan((ProfileName.CLASSIC_SECTOR, ProfileName.UID), SECTOR)
CLASSIC_ONLY = Plan((ProfileName.CLASSIC_SECTOR,), SECTOR)


def with_file(apdu: bytes) -> bytes | None:
    """What a CPU card answers to profile cpu-file."""
    match apdu[1]:
        case 0xA4:
            return b"\x90\x00"
        case 0xB0:
            return FILE + b"\x90\x00"
        case _:
            return b"\x6d\x00"


CPU_CARD = TypeA(bytes.fromhex("B1B2B3B4"), with_file)


def other_card(answering: Answering, *, stalling: bool = False) -> TypeA:
    """A CPU card, and not CPU_CARD."""
    return TypeA(bytes.fromhex("A1A2A3A4"), answering, stalling=stalling)


@dataclass
class Door:
    """A simulated chip, the driver on it, and what it told."""

    chip: Pn532
    readers: NfcReaders
    log: EventLog

    def worker(self) -> int:
        process = self.readers._readers[0]._keeper._process
        assert process is not None
        return process._popen.pid

    def until_up(self, times: int = 1, seconds: float = 10) -> None:
        self.log.wait_for(lambda events: events.count(ReaderUp(READER)) >= times, seconds)

    def until_down(self, reason: Down, seconds: float = 10) -> None:
        self.log.wait_for(lambda events: ReaderDown(READER, reason) in events, seconds)

    def until_numbers(self, *numbers: str, seconds: float = 5) -> None:
        self.log.wait_for(lambda _: self.log.numbers() == list(numbers), seconds)

    def until_unreadable(self, *reasons: Unreadable, seconds: float = 5) -> None:
        self.log.wait_for(lambda _: self.log.unreadable() == list(reasons), seconds)

    def until_gone(self, times: int = 1) -> None:
        self.log.wait_for(lambda events: sum(isinstance(e, CardGone) for e in events) == times, 3)


@contextmanager
def door_on(chip: Pn532, cards: Plan = UID_ONLY) -> Iterator[Door]:
    log = EventLog()
    readers = NfcReaders([NfcDevice(str(chip.path))], cards=cards)
    readers.start(log)
    try:
        yield Door(chip, readers, log)
    finally:
        readers.stop()
        told = len(log.events)
        check_contract(log)
        assert len(log.events) == told


@pytest.fixture
def chip() -> Iterator[Pn532]:
    with private_dir() as directory, Pn532(directory / "ttyS0") as chip:
        yield chip


@pytest.fixture
def door(chip: Pn532) -> Iterator[Door]:
    with door_on(chip) as door:
        door.until_up()
        yield door


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


# --- cards ----------------------------------------------------------------------------------------


def test_cards_are_read_one_after_the_other(door: Door) -> None:
    for times, card in enumerate((LI, ZHAO, WANG), 1):
        door.chip.present(card)
        door.log.wait_for(lambda _, times=times: len(door.log.numbers()) == times, 2)
        door.chip.remove()
        door.until_gone(times)
    assert door.log.numbers() == ["11223344", "04A1B2C3D4E5F6", "55667788"]


def test_a_card_left_lying_is_told_once(door: Door) -> None:
    door.chip.present(LI)
    door.until_numbers("11223344")
    looks = door.chip.looks
    wait_for(lambda: door.chip.looks > looks + 20, "looks")
    assert door.log.numbers() == ["11223344"]
    assert not any(isinstance(event, CardGone) for event in door.log.events)


def test_a_card_in_place_of_another_is_two_cards(door: Door) -> None:
    door.chip.present(LI)
    door.until_numbers("11223344")
    door.chip.present(WANG)
    door.until_numbers("11223344", "55667788")


def test_a_card_missed_by_one_look_is_the_same_card(door: Door) -> None:
    door.chip.present(LI)
    door.until_numbers("11223344")
    for _ in range(3):
        looks = door.chip.looks
        door.chip.remove()
        wait_for(lambda looks=looks: door.chip.looks > looks, "a look")
        door.chip.present(LI)
        wait_for(lambda looks=looks: door.chip.looks > looks + 2, "a look")
    assert door.log.numbers() == ["11223344"]


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        (TypeA(b"\x08abc", random=True), Unreadable.RANDOM_NUMBER),
        (TypeA(bytes(4)), Unreadable.NO_NUMBER),
        (TypeB(bytes(4), iso=False), Unreadable.NO_NUMBER),
        (TypeB(b"", random=True), Unreadable.RANDOM_NUMBER),
    ],
    ids=["phone", "zero", "ID card", "passport"],
)
def test_a_card_that_is_no_identity_is_told_so_once(
    door: Door, card: TypeA | TypeB, reason: Unreadable
) -> None:
    door.chip.present(card)
    door.until_unreadable(reason)
    looks = door.chip.looks
    wait_for(lambda: door.chip.looks > looks + 10, "looks")
    door.chip.present(LI)
    door.until_numbers("11223344")
    assert door.log.unreadable() == [reason]


def test_a_card_of_type_b_has_its_number(door: Door) -> None:
    door.chip.present(TypeB(bytes.fromhex("A7B6C5D4")))
    door.until_numbers("A7B6C5D4")


def test_an_id_card_that_shows_a_number_is_refused(chip: Pn532) -> None:
    def number(apdu: bytes) -> bytes:
        return bytes(8) + b"\x90\x00" if apdu == bytes.fromhex("0036000008") else b"\x6d\x00"

    with door_on(chip, Plan((ProfileName.ID_CARD_B, ProfileName.UID))) as door:
        chip.present(TypeB(bytes.fromhex("01020304"), number, iso=False))
        door.until_unreadable(Unreadable.ID_CARD)
        chip.present(LI)
        door.until_numbers("11223344")


def test_the_file_of_a_cpu_card_is_read(chip: Pn532) -> None:
    with door_on(chip, CPU_FILE) as door:
        chip.present(CPU_CARD)
        door.until_numbers("00010203040506070809")
        chip.present(LI)
        door.until_unreadable(Unreadable.UNKNOWN_KIND)
        chip.present(TypeB(b"", with_file, random=True))  # of its PUPI nothing is taken
        door.until_numbers("00010203040506070809", "00010203040506070809")


def test_a_card_that_has_shown_its_kind_is_not_read_by_its_uid(chip: Pn532) -> None:
    """At the edge of the field: the file fails, then the reader knows of no application."""
    answers = iter([b"\x90\x00", b"\x6f\x00"])
    with door_on(chip, Plan((ProfileName.CPU_FILE, ProfileName.UID))) as door:
        chip.present(other_card(lambda _: next(answers, b"\x63\x00")))
        door.until_unreadable(Unreadable.BAD_ANSWER)
        assert door.log.numbers() == []
        # Taken away and held again it is a card like another.
        chip.present(CPU_CARD)
        door.until_numbers("00010203040506070809")


@pytest.mark.parametrize("ats", ["01", "0202", "0372F0", "03426F", "0378FF", "0F78807002C0FFEE"])
def test_a_cpu_card_need_not_say_all_of_itself(chip: Pn532, ats: str) -> None:
    with door_on(chip, CPU_FILE) as door:
        chip.present(TypeA(LI.uid, with_file, ats=bytes.fromhex(ats)))
        door.until_numbers("00010203040506070809")


@pytest.mark.parametrize("ats", ["", "00"])
def test_a_cpu_card_that_says_nothing_of_itself(chip: Pn532, ats: str) -> None:
    with door_on(chip, CPU_FILE) as door:
        chip.present(TypeA(LI.uid, lambda _: b"", ats=bytes.fromhex(ats)))
        door.until_unreadable(Unreadable.BAD_ANSWER)
        chip.present(CPU_CARD)
        door.until_numbers("00010203040506070809")


def test_the_sector_of_a_classic_is_read(chip: Pn532) -> None:
    block = b"20260042" + bytes(8)
    with door_on(chip, CLASSIC) as door:
        chip.present(TypeA(LI.uid, sectors={1: (KEY, block)}))
        door.until_numbers("20260042")
        chip.present(TypeA(ZHAO.uid, sectors={1: (KEY, block.replace(b"42", b"43"))}))
        door.until_numbers("20260042", "20260043")


def test_a_classic_of_another_key_and_a_cpu_card_are_of_another_kind(chip: Pn532) -> None:
    sectors = {1: (bytes(6), b"20260042" + bytes(8))}
    with door_on(chip, CLASSIC) as door:
        chip.present(TypeA(LI.uid, sectors=sectors))
        door.until_numbers("11223344")
        chip.present(TypeA(WANG.uid, with_file))
        door.until_numbers("11223344", "55667788")
    with door_on(chip, CLASSIC_ONLY) as door:
        chip.present(TypeA(LI.uid, sectors=sectors))
        door.until_unreadable(Unreadable.UNKNOWN_KIND)


def test_a_card_that_is_both_is_asked_as_both(chip: Pn532) -> None:
    both = Plan((ProfileName.CPU_FILE, ProfileName.CLASSIC_SECTOR), SECTOR)
    card = TypeA(LI.uid, lambda _: b"\x6a\x82", {1: (KEY, b"20260042" + bytes(8))})
    with door_on(chip, both) as door:
        chip.present(card)
        door.until_numbers("20260042")


@pytest.mark.parametrize(
    ("plan", "card"),
    [
        (CPU_FILE, CPU_CARD),
        (CPU_FILE, TypeB(bytes.fromhex("01020304"), with_file)),
        (CLASSIC, TypeA(LI.uid, sectors={1: (KEY, b"20260042" + bytes(8))})),
    ],
    ids=["CPU card", "type B", "Classic"],
)
def test_a_card_pulled_while_it_is_read_is_said_to_be(
    chip: Pn532, plan: Plan, card: TypeA | TypeB
) -> None:
    with door_on(chip, plan) as door:
        door.until_up()
        chip.remove_during_exchange()
        chip.present(card)
        door.until_unreadable(Unreadable.REMOVED)
        door.until_gone()
        assert door.log.numbers() == []
        chip.present(card)
        door.log.wait_for(lambda _: len(door.log.numbers()) == 1, 3)


def test_a_silent_card_costs_itself_only(chip: Pn532) -> None:
    with door_on(chip, CPU_FILE) as door:
        door.until_up()
        worker = door.worker()
        began = time.monotonic()
        chip.present(other_card(lambda _: None))
        door.until_unreadable(Unreadable.TIMEOUT)
        assert time.monotonic() - began < 2.5
        looks = chip.looks
        wait_for(lambda: chip.looks > looks + 10, "looks")
        assert door.log.unreadable() == [Unreadable.TIMEOUT]
        chip.present(CPU_CARD)
        door.until_numbers("00010203040506070809")
        assert door.worker() == worker


def test_a_card_that_asks_for_more_time_for_ever_is_cut_off(chip: Pn532) -> None:
    with door_on(chip, CPU_FILE) as door:
        door.until_up()
        worker = door.worker()
        chip.present(other_card(with_file, stalling=True))
        door.until_unreadable(Unreadable.TIMEOUT)
        wait_for(lambda: not alive(worker), "end of the worker")
        looks = chip.looks
        wait_for(lambda: chip.looks > looks + 10, "looks of its successor")
        assert door.log.unreadable() == [Unreadable.TIMEOUT]  # it still lies there: not again
        chip.present(CPU_CARD)
        door.until_numbers("00010203040506070809")
        assert door.log.events.count(ReaderUp(READER)) == 1


def test_a_card_that_breaks_the_protocol_is_not_read(chip: Pn532) -> None:
    answers = iter([b"", b"\x90", bytes(300), b"\x90\x00\x00"])
    with door_on(chip, CPU_FILE) as door:
        chip.present(other_card(lambda _: next(answers, b"")))
        door.until_unreadable(Unreadable.BAD_ANSWER)
        chip.present(CPU_CARD)
        door.until_numbers("00010203040506070809")


# --- chip and line --------------------------------------------------------------------------------


def test_a_chip_that_falls_silent_is_told_once_and_comes_back(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    door.chip.present(LI)
    door.until_numbers("11223344")
    door.chip.mute()
    door.until_down(Down.NOT_ANSWERING, 5)
    health = door.readers.health()
    assert not health.working
    time.sleep(2)
    assert len(warnings_in(caplog)) <= 2  # it fell silent; none is there
    assert "switches are set to UART" in door.readers.health().readers[0].trouble
    door.chip.remove()
    door.chip.mute(mute=False)
    door.until_up(2)
    door.chip.present(WANG)
    door.until_numbers("11223344", "55667788")


def test_a_disturbance_costs_no_tap(door: Door) -> None:
    for n, card in enumerate([LI, WANG, ZHAO] * 3, 1):
        door.chip.garble(2)
        door.chip.present(card)
        door.log.wait_for(lambda _, n=n: len(door.log.numbers()) == n, 3)
    assert [event for event in door.log.events if isinstance(event, ReaderDown)] == []


def test_rubbish_without_end_is_told_and_gets_over(door: Door) -> None:
    door.chip.garble(1_000_000)
    door.until_down(Down.NOT_ANSWERING, 8)
    time.sleep(1)
    door.chip.garble(0)
    door.until_up(2)
    door.chip.present(LI)
    door.until_numbers("11223344")


@pytest.mark.parametrize("with_card", [False, True])
def test_a_line_that_is_lost_and_comes_back(door: Door, with_card: bool) -> None:
    if with_card:
        door.chip.present(LI)
        door.until_numbers("11223344")
    worker = door.worker()
    door.chip.unplug()
    door.until_down(Down.UNPLUGGED, 5)
    wait_for(lambda: "there is no" in door.readers.health().readers[0].trouble, "the words")
    door.chip.remove()
    time.sleep(3)
    door.chip.plug()
    began = time.monotonic()
    door.until_up(2)
    assert time.monotonic() - began < 10
    door.chip.present(WANG)
    door.until_numbers(*["11223344"] * with_card, "55667788")
    assert door.worker() == worker


def test_a_line_that_blinks_many_times_leaves_nothing_open(door: Door) -> None:
    for times in range(2, 6):
        door.chip.unplug()
        door.log.wait_for(
            lambda events, n=times: sum(isinstance(e, ReaderDown) for e in events) == n - 1
        )
        door.chip.plug()
        door.until_up(times)
    assert len(list(Path(f"/proc/{door.worker()}/fd").iterdir())) < 10


def test_a_line_lost_while_a_card_is_read(chip: Pn532) -> None:
    with door_on(chip, CPU_FILE) as door:
        door.until_up()

        def cut(_: bytes) -> None:
            chip.unplug()

        chip.present(other_card(cut))
        door.until_down(Down.UNPLUGGED)
        assert len(door.log.unreadable()) == 1
        chip.present(CPU_CARD)
        chip.plug()
        door.until_numbers("00010203040506070809", seconds=10)


def test_a_line_that_is_not_there_at_the_start(
    chip: Pn532, caplog: pytest.LogCaptureFixture
) -> None:
    chip.unplug()
    with door_on(chip) as door:
        wait_for(lambda: "there is no" in door.readers.health().readers[0].trouble, "the words")
        time.sleep(1)
        assert len(warnings_in(caplog)) == 1
        chip.plug()
        door.until_up()
        chip.present(LI)
        door.until_numbers("11223344")


def test_a_line_that_another_program_has_is_not_shared(door: Door) -> None:
    with door_on(door.chip) as other:
        wait_for(lambda: TAKEN in other.readers.health().readers[0].trouble, "the words")
        door.chip.present(LI)
        door.until_numbers("11223344")
        assert other.log.events == []


def test_without_nfcpy_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    program = "import sys; sys.modules['nfc'] = None; import edge.readers.nfc_worker as w; w.main()"
    readers = NfcReaders([NfcDevice("/dev/ttyS0")], worker=[sys.executable, "-c", program])
    log = EventLog()
    readers.start(log)
    try:
        wait_for(lambda: "shuaka[edge-nfc]" in readers.health().readers[0].trouble, "the words")
        time.sleep(0.5)
    finally:
        readers.stop()
    assert log.events == []
    assert len(warnings_in(caplog)) == 1


def test_a_reader_that_is_not_there_on_usb_is_said_to_be_none() -> None:
    readers = NfcReaders([NfcDevice("usb:054c:06c3")])
    log = EventLog()
    readers.start(log)
    try:
        wait_for(lambda: "usb:054c:06c3" in readers.health().readers[0].trouble, "the words")
    finally:
        readers.stop()
    assert log.events == []


def test_a_card_by_another_of_nfcpys_drivers() -> None:
    """Its UDP driver, on both ends: what the chip of a PN53x does is left to nfcpy there."""
    path = f"udp:localhost:{free_port()}"
    card = nfc.clf.LocalTarget("106A", sens_res=b"\x04\x00", sdd_res=LI.uid, sel_res=b"\x00")
    away = threading.Event()

    def lie() -> None:
        with nfc.ContactlessFrontend(path) as field:
            while not away.is_set():
                field.listen(card, 0.5)

    readers = NfcReaders([NfcDevice(path)])
    log = EventLog()
    lying = threading.Thread(target=lie)
    readers.start(log)
    try:
        log.wait_for(lambda events: ReaderUp(f"nfc {path}") in events)
        lying.start()
        log.wait_for(lambda _: log.numbers() == ["11223344"])
        away.set()
        log.wait_for(lambda events: isinstance(events[-1], CardGone))
    finally:
        away.set()
        readers.stop()
        lying.join()
    check_contract(log)
    assert log.numbers() == ["11223344"]


def test_a_worker_that_is_killed_is_replaced_and_reads_no_card_twice(door: Door) -> None:
    door.chip.present(LI)
    door.until_numbers("11223344")
    os.kill(door.worker(), signal.SIGKILL)
    door.until_up(2)
    looks = door.chip.looks
    wait_for(lambda: door.chip.looks > looks + 5, "looks")
    assert door.log.numbers() == ["11223344"]
    os.kill(door.worker(), signal.SIGKILL)
    door.chip.present(WANG)  # in the meantime
    door.until_numbers("11223344", "55667788")


def test_one_reader_does_not_stop_the_other(chip: Pn532) -> None:
    with private_dir() as directory, Pn532(directory / "ttyUSB7") as other:
        log = EventLog()
        readers = NfcReaders([NfcDevice(str(chip.path)), NfcDevice(str(other.path), "后门")])
        readers.start(log)
        try:
            log.wait_for(lambda events: {ReaderUp(READER), ReaderUp("后门")} <= set(events))
            chip.mute()
            other.present(LI)
            log.wait_for(lambda _: log.numbers("后门") == ["11223344"], 3)
            log.wait_for(lambda events: ReaderDown(READER, Down.NOT_ANSWERING) in events)
            other.present(WANG)
            log.wait_for(lambda _: log.numbers("后门") == ["11223344", "55667788"], 3)
        finally:
            readers.stop()
        check_contract(log)


def test_stop_is_quick_and_leaves_no_process(door: Door) -> None:
    worker = door.worker()
    assert alive(worker)
    assert door.readers.alive()
    began = time.monotonic()
    door.readers.stop()
    assert time.monotonic() - began < 1
    assert not alive(worker)


def test_the_doctor_looks_at_each_chip(
    chip: Pn532, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(
        f'[readers]\npcsc = false\nnfc = [{{device = "{chip.path}"}}, {{device = "/dev/ttyNone"}}]'
    )
    good, bad = list(doctor._chips(load(file)))
    assert (good.good, good.what) == (True, f"reader: {READER}")
    assert not bad.good
    assert "there is no /dev/ttyNone" in bad.what
    with door_on(chip) as door:
        door.until_up()
        taken, _ = list(doctor._chips(load(file)))
        assert not taken.good
        assert TAKEN in taken.what
        monkeypatch.setattr(doctor, "is_recording", lambda _: True)
        taken, _ = list(doctor._chips(load(file)))
        assert (taken.good, taken.what) == (True, f"reader: {READER}, which shuaka-edge has")


def test_a_configuration_brings_its_chips(chip: Pn532, tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(f'[readers]\npcsc = false\nnfc = [{{device = "{chip.path}", name = "门"}}]')
    (readers,) = inputs(load(file))
    log = EventLog()
    readers.start(log)
    try:
        chip.present(LI)
        log.wait_for(lambda _: log.numbers("门") == ["11223344"])
    finally:
        readers.stop()


def test_names() -> None:
    assert NfcDevice("/dev/ttyS0").reader == "nfc ttyS0"
    assert NfcDevice("usb:054c:06c3").reader == "nfc usb:054c:06c3"
    assert NfcDevice("/dev/ttyS0", "前门").reader == "前门"
