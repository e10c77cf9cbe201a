"""The daemon puts its parts together; here: what it shows while it does not know who it is."""

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gpiozero
import pytest
from gpiozero.pins.mock import MockFactory, MockPWMPin

from edge import daemon as module
from edge import enrol
from edge.cards.settings import CardsSection, ClassicSectorSection, ProfileName
from edge.config import (
    Config,
    EdgeSection,
    FeedbackSection,
    NfcSection,
    ReadersSection,
    WedgeSection,
)
from edge.daemon import NO_IDENTITY, Daemon
from edge.enrol import Keys
from edge.feedback import Notice, Outcome, Standing
from edge.feedback.console import Console
from edge.feedback.gpio import PinNumbers, Pins
from edge.feedback.sound import Sound
from edge.readers import CardGone, CardSeen, CardUnreadable, ReaderUp, Sink, Unreadable
from edge.readers.nfc import NfcReaders
from edge.readers.pcsc import PcscReaders
from edge.readers.simulated import Plug, Present, Remove, SimulatedReaders, Step
from protocol.credential import Credential
from protocol.identity import OpeningKey, SigningKey
from tests.rig import wait_for


@dataclass
class Door:
    notices: list[Notice] = field(default_factory=list)
    standings: list[tuple[Standing, str]] = field(default_factory=list)

    def show(self, notice: Notice) -> None:
        self.notices.append(notice)

    def stand(self, standing: Standing, detail: str = "") -> None:
        self.standings.append((standing, detail))


def taps() -> Iterator[Step]:
    yield Plug("r")
    while True:
        time.sleep(0.02)
        yield Present("r", Credential("uid", "", "04112233445566"))
        yield Remove("r")


class Silent:
    """A reader at which one card after the other cannot be read."""

    def start(self, sink: Sink) -> None:
        sink(ReaderUp("r"))
        sink(CardSeen("r", 1, 1))
        sink(CardUnreadable("r", 1, 1, Unreadable.BAD_ANSWER))
        sink(CardGone("r", 1))

    def stop(self) -> None:
        pass


def test_also_a_card_that_cannot_be_read_is_told_that_nothing_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = Door()
    daemon = Daemon(Config(edge=EdgeSection(tmp_path)))
    monkeypatch.setattr(daemon, "_readers", lambda: [Silent()])
    thread = threading.Thread(target=daemon._wait_for_identity, args=(door,))
    thread.start()
    wait_for(lambda: len(door.notices) == 1, "a light")
    daemon._stopping.set()
    thread.join(5)
    assert [each.outcome for each in door.notices] == [Outcome.NOT_ENROLLED]


class AtADoor(Daemon):
    def _readers(self) -> list[SimulatedReaders]:
        return [SimulatedReaders(taps(), lambda: 1)]


def test_what_the_configuration_names_reads_cards_as_it_says(tmp_path: Path) -> None:
    assert [type(each) for each in module.inputs(Config())] == [PcscReaders]
    key = tmp_path / "key"
    key.write_text("A0A1A2A3A4A5")
    key.chmod(0o600)
    profiles = (ProfileName.CPU_FILE, ProfileName.CLASSIC_SECTOR)
    config = Config(
        readers=ReadersSection(
            nfc=(NfcSection("/dev/ttyS0"),), wedge=(WedgeSection(Path("/dev/door")),)
        ),
        cards=CardsSection(profiles, ClassicSectorSection(issuer="campus", key_file=key)),
    )
    pcsc, nfc, wedge = module.inputs(config)
    assert isinstance(pcsc, PcscReaders)
    assert isinstance(nfc, NfcReaders)
    for plan in (pcsc._cards, nfc._readers[0]._cards):
        assert plan.profiles == profiles
        assert plan.sector is not None
        assert plan.sector.key == bytes.fromhex("A0A1A2A3A4A5")
    assert [each.reader for each in wedge.health().readers] == ["wedge door"]


def test_what_the_configuration_names_shows_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpiozero.Device, "pin_factory", MockFactory(pin_class=MockPWMPin))
    none = FeedbackSection(console=False, reader=False)
    assert module.outputs(Config(feedback=none)) == []
    some = FeedbackSection(sound=True, gpio=PinNumbers(green=17))
    console, sound, pins = module.outputs(Config(feedback=some))
    assert isinstance(console, Console)
    assert isinstance(sound, Sound)
    assert isinstance(pins, Pins)
    sound.close()
    pins.close()


def test_lamps_that_are_configured_and_not_there_stop_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "gpiozero", None)
    section = FeedbackSection(gpio=PinNumbers(green=17))
    assert len(module.outputs(Config(feedback=section))) == 1
    assert len(caplog.records) == 1


def enrolled(keys: Keys) -> enrol._EnrolmentFile:
    hub = SigningKey.generate().public, OpeningKey.generate().public
    return enrol._EnrolmentFile(bytes(16), "门口", keys.sign.public, *hub, 1, "mqtt://127.0.0.1:1")


@pytest.mark.parametrize("spoilt", ["keys.json", "enrolment.json", "other keys", "a folder"])
def test_an_identity_that_cannot_be_read_shows_red_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, spoilt: str
) -> None:
    monkeypatch.setattr(module, "LOOK_FOR_ENROLMENT_S", 0.05)
    keys = Keys.load_or_make(tmp_path)
    enrol._write(tmp_path / "enrolment.json", enrolled(keys))
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    match spoilt:
        case "other keys":
            (tmp_path / "keys.json").unlink()
            Keys.load_or_make(tmp_path)
        case "a folder":
            (tmp_path / "keys.json").unlink()
            (tmp_path / "keys.json").mkdir()
        case name:
            (tmp_path / name).write_bytes(b"{")
    door = Door()
    daemon = AtADoor(Config(edge=EdgeSection(tmp_path)))
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(daemon._wait_for_identity(door)))
    thread.start()
    wait_for(lambda: len(door.notices) > 3, "cards that are refused")
    assert {notice.outcome for notice in door.notices} == {Outcome.NOT_ENROLLED}
    assert set(door.standings) == {(Standing.NOT_ENROLLED, NO_IDENTITY)}
    assert len(caplog.records) == 1, "the log says it once"
    assert str(tmp_path) in caplog.text
    if spoilt == "a folder":
        (tmp_path / "keys.json").rmdir()
    for path, content in whole.items():
        path.write_bytes(content)
    thread.join(10)
    [(enrolment, found)] = answers
    assert (enrolment.name, found.sign.public) == ("门口", keys.sign.public)
