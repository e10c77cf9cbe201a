"""Each profile through a real pcscd and the driver: virtual cards with files and sectors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from edge.cards import Validity
from edge.cards.settings import CardsSection, ClassicSectorSection, ProfileName, plan_of
from edge.readers import CardGone, CardRead, ReaderUp, Unreadable
from edge.readers.pcsc import PcscReaders
from protocol.credential import Assurance, Credential
from tests.contracts.readers import EventLog, check_contract
from tests.rig import Card, Pcscd, UidCard, VirtualReader, private_dir
from tests.rig.cards import GET_UID
from tests.rig.smartcards import FAILED, OK, ClassicCard, CpuCard, IdCardB, Phone

pytestmark = pytest.mark.servers

KEY = bytes.fromhex("A0A1A2A3A4A5")
CPU = Credential("cpu-file", "3301000012345678", "00000000000000123456")
SECTOR = Credential("classic-sector", "campus", "20230815")


class Pulled:
    """A card that is taken away when it is asked the command at `index`, and answers no more."""

    def __init__(self, card: Card, index: int, pull: Callable[[], None]) -> None:
        self.atr = card.atr
        self.card = card
        self.left = index
        self.pull = pull

    def answer(self, apdu: bytes) -> bytes | None:
        if self.left == 0:
            self.pull()
            return None
        self.left -= 1
        return self.card.answer(apdu)


@contextmanager
def door(*names: ProfileName) -> Iterator[tuple[VirtualReader, EventLog]]:
    plan = plan_of(CardsSection(names, ClassicSectorSection(issuer="campus")), KEY)
    with private_dir() as directory, pytest.MonkeyPatch.context() as patched:
        pcscd = Pcscd(directory, slots=1)
        for name, value in pcscd.env.items():
            patched.setenv(name, value)
        pcscd.start()
        log = EventLog()
        readers = PcscReaders(cards=plan)
        readers.start(log)
        try:
            reader = pcscd.reader_names[0]
            log.wait_for(lambda events: ReaderUp(reader) in events)
            with VirtualReader(pcscd.ports[0]) as field:
                yield field, log
        finally:
            readers.stop()
            pcscd.kill()
            check_contract(log)


def outcomes(log: EventLog) -> list[Credential | Unreadable]:
    found: list[Credential | Unreadable] = []
    for event in log.events:
        if isinstance(event, CardRead):
            found.append(event.credential)
        elif hasattr(event, "reason"):
            found.append(event.reason)
    return found


ALL = tuple(ProfileName(each) for each in ("id-card-b", "cpu-file", "classic-sector", "uid"))


def test_each_card_is_read_by_its_profile_or_refused() -> None:
    cards: list[tuple[Card, Credential | Unreadable]] = [
        (CpuCard(), CPU),
        (ClassicCard(), SECTOR),
        (UidCard(bytes.fromhex("11223344")), Credential("uid", "", "11223344")),
        (ClassicCard(key=bytes(6)), Credential("uid", "", "5A2B3C4D")),
        (IdCardB(), Unreadable.ID_CARD),
        (IdCardB(uid=bytes.fromhex("1122334455667788")), Unreadable.ID_CARD),
        (Phone(), Unreadable.RANDOM_NUMBER),
        (ClassicCard(blocks={}), Unreadable.BLANK),
        (CpuCard(applications={b"\x10\x01": {0x15: b"\x33" * 30}}), Unreadable.BAD_ANSWER),
    ]
    with door(*ALL) as (field, log):
        for at, (card, _) in enumerate(cards):
            field.present(card)
            log.wait_for(lambda _, n=at: len(outcomes(log)) > n)
            field.remove()
            log.wait_for(lambda es, n=at: sum(isinstance(e, CardGone) for e in es) > n)
    assert outcomes(log) == [outcome for _, outcome in cards]
    read = [event for event in log.events if isinstance(event, CardRead)]
    assert [event.assurance for event in read] == [
        Assurance.DATA,
        Assurance.DATA,
        Assurance.UID,
        Assurance.UID,
    ]
    dates = Validity(date(2020, 7, 1), date(2099, 12, 31))
    assert [event.valid for event in read] == [dates, None, None, None]


def test_without_uid_what_is_of_no_kind_is_refused() -> None:
    with door(ProfileName.CPU_FILE) as (field, log):
        field.present(UidCard(bytes.fromhex("11223344")))
        log.wait_for(lambda _: outcomes(log) == [Unreadable.UNKNOWN_KIND])


def test_a_card_pulled_at_any_command_is_no_identity_and_the_next_is_read() -> None:
    card = CpuCard()
    with door(*ALL) as (field, log):
        for index in range(4):  # UID, an ID card's number, SELECT, READ BINARY
            before = len(outcomes(log))
            field.present(Pulled(card, index, field.remove))
            log.wait_for(lambda _, n=before: len(outcomes(log)) > n)
            field.present(card)
            log.wait_for(lambda _, n=before: len(outcomes(log)) > n + 1)
            field.remove()
            assert outcomes(log)[before:] == [Unreadable.REMOVED, CPU]


class Scripted:
    """Answers by a script, then as a reader does for a card at the edge of its field: it says 6300
    of all, and tells the UID that it keeps.
    """

    def __init__(self, card: CpuCard | ClassicCard, *script: bytes) -> None:
        self.atr = card.atr
        self.uid = card.uid
        self.script = list(script)

    def answer(self, apdu: bytes) -> bytes | None:
        if apdu == GET_UID:
            return self.uid + OK
        return self.script.pop(0) if self.script else FAILED


@pytest.mark.parametrize(
    ("name", "card"),
    [
        (ProfileName.CPU_FILE, Scripted(CpuCard(), OK, b"\x6f\x00")),
        (ProfileName.CPU_FILE, Scripted(CpuCard(), FAILED, OK, FAILED)),
        (ProfileName.CLASSIC_SECTOR, Scripted(ClassicCard(), OK, OK, FAILED)),
    ],
    ids=["file", "asked twice", "sector"],
)
def test_a_card_that_has_shown_its_kind_is_not_read_by_its_uid(
    name: ProfileName, card: Scripted
) -> None:
    with door(name, ProfileName.UID) as (field, log):
        field.present(card)
        log.wait_for(lambda _: len(outcomes(log)) > 0)
        assert card.script == []
        assert outcomes(log) == [Unreadable.BAD_ANSWER]


def test_the_key_stands_on_no_command_line() -> None:
    with door(*ALL) as (field, log):
        field.present(ClassicCard())
        log.wait_for(lambda _: outcomes(log) == [SECTOR])
        children = [
            child
            for task in Path("/proc/self/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
        lines = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    workers = [line for line in lines if b"edge.readers.pcsc_worker" in line]
    assert workers
    for line in workers:
        assert line.endswith(b"pcsc_worker\0")
