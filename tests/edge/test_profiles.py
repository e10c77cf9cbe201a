"""The profiles, one by one and as a door has them: cards of a kind, that fail, that lie."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.cards import (
    MAX_CHAINED,
    MAX_EXCHANGES,
    CardError,
    CardRefused,
    CardUnusable,
    Command,
    NotThisKind,
    Profile,
    Reading,
    Refusal,
    Validity,
    complete,
    run,
)
from edge.cards.choose import Presentation, profiles_of
from edge.cards.classic_sector import Content, Place, WhichKey, classic_sector
from edge.cards.cpu_file import Layout, cpu_file
from edge.cards.id_card_b import id_card_b
from edge.cards.settings import (
    CardsSection,
    ClassicSectorSection,
    CpuFileSection,
    Plan,
    ProfileName,
    plan_of,
)
from edge.readers import Unreadable
from edge.readers.lines import AnyTask, ServeReader
from protocol.credential import Assurance, Credential
from tests.rig.cards import GET_UID, Card, UidCard
from tests.rig.smartcards import FMCOS_FILE, OK, ClassicCard, CpuCard, IdCardB, Phone

KEY = bytes.fromhex("A0A1A2A3A4A5")
PLACE = Place(1, 0, 0, 16, Content.ASCII)
CAMPUS = ClassicSectorSection(issuer="campus")
CPU = Reading(
    Credential("cpu-file", "3301000012345678", "00000000000000123456"),
    Assurance.DATA,
    Validity(date(2020, 7, 1), date(2099, 12, 31)),
)
SECTOR = Reading(Credential("classic-sector", "campus", "20230815"), Assurance.DATA)


class Reader:
    """Joins a profile to a virtual card; `instead` answers in the card's place, by index."""

    def __init__(self, card: Card, instead: dict[int, bytes] | None = None) -> None:
        self.card = card
        self.instead = instead or {}
        self.asked: list[str] = []

    def __call__(self, apdu: bytes) -> bytes:
        at = len(self.asked)
        self.asked.append(apdu.hex().upper())
        answer = self.instead[at] if at in self.instead else self.card.answer(apdu)
        assert answer is not None
        return answer


class PulledError(Exception):
    pass


def plan(*names: str) -> Plan:
    profiles = tuple(map(ProfileName, names))
    return plan_of(CardsSection(profiles, CAMPUS), KEY)


def door(*names: str) -> Callable[[], Profile]:
    profiles = profiles_of(plan(*names))
    return lambda: Presentation(profiles).identify()


def sector(place: Place = PLACE, which: WhichKey = WhichKey.A) -> Profile:
    return classic_sector(place, KEY, which, "campus")


ALL = door("id-card-b", "cpu-file", "classic-sector", "uid")


# --- cpu-file -------------------------------------------------------------------------------------


def test_the_public_file_of_a_cpu_card() -> None:
    reader = Reader(CpuCard())
    assert run(cpu_file(Layout()), reader) == CPU
    assert reader.asked == ["00A40000021001", "00B095001E"]


def test_an_application_by_its_name_and_a_file_of_another_layout() -> None:
    name = bytes.fromhex("A00000000386980701")
    file = b"\xff" * 3 + bytes.fromhex("0102030405060708") + b"\xaa" + bytes.fromhex("0099")
    layout = Layout(name, 1, 14, issuer_at=3, serial_at=12, serial_bytes=2, dated=False)
    reader = Reader(CpuCard(applications={name: {1: file}}))
    reading = run(cpu_file(layout), reader)
    assert reading.credential == Credential("cpu-file", "0102030405060708", "0099")
    assert reading.valid is None
    assert reader.asked == [f"00A4040009{name.hex().upper()}", "00B081000E"]


@pytest.mark.parametrize("status", ["6A82", "6D00", "6E00", "6A81", "6300", "6700", "6A86", "6900"])
def test_without_the_application_it_is_another_kind(status: str) -> None:
    said = bytes.fromhex(status)
    with pytest.raises(NotThisKind):
        run(cpu_file(Layout()), Reader(CpuCard(), {0: said, 1: said}))


def test_a_reader_that_says_no_is_asked_again() -> None:
    for said in (b"\x63\x00", b"\x69\x00"):
        reader = Reader(CpuCard(), {0: said})
        assert run(cpu_file(Layout()), reader) == CPU
        assert reader.asked == ["00A40000021001", "00A40000021001", "00B095001E"]
    # A card that says it of itself is believed.
    with pytest.raises(NotThisKind):
        run(cpu_file(Layout()), reader := Reader(CpuCard(applications={})))
    assert len(reader.asked) == 1


@pytest.mark.parametrize(
    "answer", ["6283", "6985", "9303", "6F00", "9001", "6A80", "016A82", "63C3", "0000", "6400"]
)
def test_an_application_that_answers_anything_else_is_a_failure(answer: str) -> None:
    with pytest.raises(CardUnusable):
        run(cpu_file(Layout()), Reader(CpuCard(), {0: bytes.fromhex(answer)}))


@pytest.mark.parametrize(
    "answer",
    [
        "6982",
        "63C2",
        "6F00",
        "9000",
        FMCOS_FILE[:-1].hex() + "9000",
        FMCOS_FILE.hex() + "009000",
        FMCOS_FILE.hex() + "6282",
        FMCOS_FILE.hex(),
    ],
)
def test_a_file_that_is_not_the_whole_file_is_none(answer: str) -> None:
    with pytest.raises(CardUnusable) as unusable:
        run(cpu_file(Layout()), Reader(CpuCard(), {1: bytes.fromhex(answer)}))
    assert "123456" not in str(unusable.value)


def test_an_application_without_the_file_is_somebody_else_s() -> None:
    with pytest.raises(CardRefused) as refused:
        run(cpu_file(Layout()), Reader(CpuCard(applications={b"\x10\x01": {}})))
    assert refused.value.reason is Refusal.UNKNOWN_KIND


@pytest.mark.parametrize("byte", ["00", "FF"])
def test_a_card_that_nobody_has_written_is_blank(byte: str) -> None:
    file = bytes.fromhex(byte) * 30
    with pytest.raises(CardRefused) as refused:
        run(cpu_file(Layout()), Reader(CpuCard(applications={b"\x10\x01": {0x15: file}})))
    assert refused.value.reason is Refusal.BLANK


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("20200701", "20200630"),
        ("20201301", "20991231"),
        ("20200230", "20991231"),
        ("2020070A", "20991231"),
        ("00000000", "00000000"),
        ("FFFFFFFF", "FFFFFFFF"),
        ("20200701", "00000000"),
        ("00010101", "20991231"),
    ],
)
def test_days_that_are_none_are_no_validity(first: str, last: str) -> None:
    file = FMCOS_FILE[:20] + bytes.fromhex(first + last) + FMCOS_FILE[28:]
    card = CpuCard(applications={b"\x10\x01": {0x15: file}})
    with pytest.raises(CardUnusable, match="days of validity"):
        run(cpu_file(Layout()), Reader(card))
    # A device that is told that the days mean nothing reads the card.
    assert run(cpu_file(Layout(dated=False)), Reader(card)).credential == CPU.credential


def test_6cxx_after_a_command_with_data_leaves_the_data_alone() -> None:
    reader = Reader(CpuCard(), {0: bytes.fromhex("6C10")})
    with pytest.raises(CardUnusable):
        run(cpu_file(Layout()), Reader(CpuCard(), {0: bytes.fromhex("6C10"), 1: b"\x6c\x01"}))
    assert run(cpu_file(Layout()), reader) == CPU
    assert reader.asked[:2] == ["00A40000021001", "00A4000002100110"]

    def with_le() -> Profile:
        yield from complete(Command(bytes.fromhex("00A4040001AA00")))
        raise CardUnusable("seen")

    third = Reader(CpuCard(), {0: bytes.fromhex("6C10"), 1: OK})
    with pytest.raises(CardUnusable, match="seen"):
        run(with_le(), third)
    assert third.asked[1] == "00A4040001AA10"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"application": b"\x10"}, "2 digits"),
        ({"application": b"\x10\x01\x02"}, "6 digits"),
        ({"application": bytes(17)}, "34 digits"),
        ({"sfi": 0}, "sfi is 1 to 30"),
        ({"sfi": 31}, "sfi is 1 to 30"),
        ({"length": 0}, "length"),
        ({"length": 257}, "length"),
        ({"length": 27}, "last_at: 4 bytes at 24"),
        ({"issuer_at": -1}, "issuer_at"),
        ({"serial_at": 21}, "serial_at: 10 bytes at 21"),
        ({"serial_bytes": 0}, "serial_bytes"),
        ({"first_at": 27}, "first_at"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(change: dict[str, bytes | int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Layout(**change)  # type: ignore[arg-type]


# --- classic-sector -------------------------------------------------------------------------------


def test_a_number_in_a_sector() -> None:
    reader = Reader(ClassicCard())
    assert run(sector(), reader) == SECTOR
    assert reader.asked == [f"FF82000006{KEY.hex().upper()}", "FF860000050100046000", "FFB0000410"]


def test_key_b_and_a_number_over_two_blocks_of_a_large_sector() -> None:
    number = "0123456789ABCDEFGH"
    held = bytes(7) + number.encode()
    place = Place(39, 13, 7, len(number), Content.ASCII)
    card = ClassicCard(blocks={253: held[:16], 254: held[16:].ljust(16)})
    reader = Reader(card)
    assert run(sector(place), reader).credential.value == number
    assert reader.asked[1:] == [
        "FF860000050100FD6000",
        "FFB000FD10",
        "FFB000FE10",
    ]
    with pytest.raises(NotThisKind):
        run(sector(place, WhichKey.B), other := Reader(card))
    assert other.asked[1] == "FF860000050100FD6100"


@pytest.mark.parametrize(
    ("content", "stored", "number"),
    [
        (Content.ASCII, b"12345".ljust(16, b"\xff"), "12345"),
        (Content.ASCII, b"  A-12 ".ljust(16, b"\x00"), "A-12"),
        (Content.ASCII, b"1234567890123456", "1234567890123456"),
        (Content.BCD, bytes.fromhex("0012345F") + b"\xff" * 12, "0012345"),
        (
            Content.BCD,
            bytes.fromhex("12345678901234567890123456789012"),
            "12345678901234567890123456789012",
        ),
        (Content.HEX, bytes.fromhex("00A1") + bytes(14), "00A1" + "00" * 14),
    ],
)
def test_numbers_as_sectors_have_them(content: Content, stored: bytes, number: str) -> None:
    place = Place(1, 0, 0, 16, content)
    assert run(sector(place), Reader(ClassicCard(blocks={4: stored}))).credential.value == number


@pytest.mark.parametrize("content", list(Content))
@pytest.mark.parametrize("stored", [bytes(16), b"\xff" * 16, b"\x00\xff" * 8])
def test_a_blank_sector_is_no_number(content: Content, stored: bytes) -> None:
    with pytest.raises(CardRefused) as refused:
        run(sector(Place(1, 0, 0, 16, content)), Reader(ClassicCard(blocks={4: stored})))
    assert refused.value.reason is Refusal.BLANK


@pytest.mark.parametrize("stored", [b"0000".ljust(16, b"\x00"), b" " * 16])
def test_text_without_a_number_is_blank_too(stored: bytes) -> None:
    with pytest.raises(CardRefused):
        run(sector(), Reader(ClassicCard(blocks={4: stored})))


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        (Content.ASCII, b"12\x0034".ljust(16, b"\x00")),
        (Content.ASCII, b"12 34".ljust(16, b"\x00")),
        (Content.ASCII, "学号1".encode().ljust(16, b"\x00")),
        (Content.ASCII, b"\x7f1".ljust(16, b"\x00")),
        (Content.BCD, bytes.fromhex("12A4") + bytes(14)),
        (Content.BCD, bytes.fromhex("1F34") + bytes(14)),
    ],
)
def test_what_is_no_such_text_is_unusable_and_told_to_nobody(
    content: Content, stored: bytes
) -> None:
    with pytest.raises(CardUnusable) as unusable:
        run(sector(Place(1, 0, 0, 16, content)), Reader(ClassicCard(blocks={4: stored})))
    assert "12" not in str(unusable.value)


def test_another_key_is_another_kind_asked_twice() -> None:
    reader = Reader(ClassicCard(key=bytes(6)))
    with pytest.raises(NotThisKind):
        run(sector(), reader)
    assert [each[:4] for each in reader.asked] == ["FF82", "FF86", "FF86"]
    # A card that moved is read at the second try.
    assert run(sector(), Reader(ClassicCard(), {1: b"\x63\x00"})) == SECTOR


@pytest.mark.parametrize(
    ("at", "answer", "error"),
    [
        (0, "6A81", NotThisKind),
        (0, "6D00", NotThisKind),
        (0, "6986", CardUnusable),
        (0, "00", CardUnusable),
        (1, "6A81", NotThisKind),
        (1, "6D00", NotThisKind),
        (1, "6581", CardUnusable),
        (1, "016300", CardUnusable),
        (2, "6300", CardUnusable),
        (2, "6982", CardUnusable),
        (2, "6A82", CardUnusable),
        (2, "9000", CardUnusable),
        (2, "31" * 15 + "9000", CardUnusable),
        (2, "31" * 17 + "9000", CardUnusable),
        (2, "31" * 16, CardUnusable),
    ],
)
def test_what_a_sector_s_commands_may_answer(at: int, answer: str, error: type[CardError]) -> None:
    with pytest.raises(error):
        run(sector(), Reader(ClassicCard(), {at: bytes.fromhex(answer)}))


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ((40, 0, 0, 16), "sector is 0 to 39"),
        ((-1, 0, 0, 16), "sector is 0 to 39"),
        ((1, 3, 0, 16), "the last block holds keys"),
        ((39, 15, 0, 16), "block is 0 to 14"),
        ((0, 0, 0, 16), "the maker's"),
        ((1, 0, 16, 1), "offset"),
        ((1, 0, 0, 0), "length is 1 to 48"),
        ((1, 0, 0, 49), "length is 1 to 48"),
        ((1, 2, 1, 16), "length is 1 to 15"),
        ((35, 0, 0, 65), "length is 1 to 64"),
    ],
)
def test_a_place_where_no_number_stands_is_refused(
    place: tuple[int, int, int, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Place(*place, Content.ASCII)


def test_a_number_in_hex_fits_a_credential() -> None:
    assert Place(35, 0, 0, 32, Content.HEX)
    with pytest.raises(ValueError, match="length is 1 to 32"):
        Place(35, 0, 0, 33, Content.HEX)


# --- id-card-b and phones -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "card", [IdCardB(), IdCardB(uid=bytes.fromhex("0102030405060708")), IdCardB(managed=b"")]
)
def test_a_resident_id_card_is_refused(card: IdCardB) -> None:
    for begin in (id_card_b, ALL, door("id-card-b", "uid")):
        with pytest.raises(CardRefused) as refused:
            run(begin(), Reader(card))
        assert refused.value.reason is Refusal.ID_CARD


def test_without_that_profile_an_id_card_s_zeros_are_refused_all_the_same() -> None:
    for names in (("uid",), ("cpu-file",), ("cpu-file", "classic-sector", "uid")):
        with pytest.raises(CardRefused) as refused:
            run(door(*names)(), Reader(IdCardB()))
        assert refused.value.reason is Refusal.NO_NUMBER


@pytest.mark.parametrize(
    "names", [("uid",), ("cpu-file",), ("id-card-b", "cpu-file", "classic-sector", "uid")]
)
def test_a_phone_is_told_to_be_one(names: tuple[str, ...]) -> None:
    with pytest.raises(CardRefused) as refused:
        run(door(*names)(), Reader(Phone()))
    assert refused.value.reason is Refusal.RANDOM_NUMBER
    assert "手机" in Unreadable.because(refused.value.reason).wording


def test_a_phone_with_a_number_that_stays_is_no_card_of_ours() -> None:
    with pytest.raises(CardRefused) as refused:
        run(
            door("cpu-file", "classic-sector")(), Reader(Phone(uid=bytes.fromhex("04112233445566")))
        )
    assert refused.value.reason is Refusal.UNKNOWN_KIND
    assert "手机" in Unreadable.because(refused.value.reason).wording


@pytest.mark.parametrize("refusal", list(Refusal))
def test_every_refusal_has_words_at_the_door(refusal: Refusal) -> None:
    assert Unreadable.because(refusal).wording


# --- which one ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "value"),
    [
        (CpuCard(), "00000000000000123456"),
        (ClassicCard(), "20230815"),
        (UidCard(bytes.fromhex("11223344")), "11223344"),
        (CpuCard(applications={}), "1A2B3C4D"),
        (ClassicCard(key=bytes(6)), "5A2B3C4D"),
    ],
)
def test_each_card_by_the_first_profile_whose_kind_it_is(card: Card, value: str) -> None:
    reading = run(ALL(), Reader(card))
    assert reading.credential.value == value
    uid = reading.credential.scheme == "uid"
    assert reading.assurance is (Assurance.UID if uid else Assurance.DATA)


def test_the_order_is_the_configured_one() -> None:
    class Both(CpuCard):
        def answer(self, apdu: bytes) -> bytes | None:
            return ClassicCard.answer(classic, apdu) if apdu[0] == 0xFF else super().answer(apdu)

    classic = ClassicCard()
    assert run(door("cpu-file", "classic-sector")(), Reader(Both())) == CPU
    assert run(door("classic-sector", "cpu-file")(), Reader(Both())) == SECTOR


@pytest.mark.parametrize("card", [CpuCard(), ClassicCard()])
def test_a_card_of_a_kind_that_fails_is_read_by_no_weaker_profile(card: Card) -> None:
    whole = Reader(card)
    run(ALL(), whole)
    at = len(whole.asked) - 1  # what reads the number
    for answer in ("6982", "6F00", "6A81", "9000", "6300", "63C0"):
        with pytest.raises(CardUnusable):
            run(ALL(), reader := Reader(card, {at: bytes.fromhex(answer)}))
        assert len(reader.asked) == at + 1


@pytest.mark.parametrize("card", [CpuCard(), ClassicCard()])
@pytest.mark.parametrize("fails", [b"\x6f\x00", None], ids=["bad answer", "transport"])
@pytest.mark.parametrize("then", ["6300", "6900", "6A82", "6A81", "6D00"])
def test_nor_is_it_at_the_next_attempt(card: Card, fails: bytes | None, then: str) -> None:
    """Its reader says it is nothing of the sort, and tells the UID that it keeps."""
    names = ("id-card-b", "cpu-file", "classic-sector", "uid")
    whole = Reader(card)
    run(door(*names)(), whole)
    last = len(whole.asked) - 1
    presentation = Presentation(profiles_of(plan(*names)))

    def first(apdu: bytes) -> bytes:
        if apdu.hex().upper() != whole.asked[last]:
            return whole(apdu)
        if fails is None:
            raise PulledError
        return fails

    def at_the_edge(apdu: bytes) -> bytes:
        return b"\x1a\x2b\x3c\x4d" + OK if apdu == GET_UID else bytes.fromhex(then)

    with pytest.raises((CardUnusable, PulledError)):
        run(presentation.identify(), first)
    for _ in range(3):
        with pytest.raises(CardUnusable):
            run(presentation.identify(), at_the_edge)
    assert run(presentation.identify(), Reader(card)).assurance is Assurance.DATA


def test_what_a_card_has_not_shown_is_not_held_against_it() -> None:
    presentation = Presentation(profiles_of(plan("cpu-file", "classic-sector", "uid")))
    with pytest.raises(CardUnusable):  # its UID comes garbled
        run(
            presentation.identify(), Reader(UidCard(bytes(4)), dict.fromkeys(range(9), b"\x6f\x00"))
        )
    card = UidCard(bytes.fromhex("11223344"))
    assert run(presentation.identify(), Reader(card)).credential.value == "11223344"


def test_a_card_of_no_kind_is_refused_also_where_the_reader_has_no_uid() -> None:
    for answer in (b"\x11\x22\x33\x44" + OK, b"\x6a\x81", b"\x11" * 5 + OK):
        reader = Reader(UidCard(b""), {1: answer})
        with pytest.raises(CardRefused) as refused:
            run(door("cpu-file")(), reader)
        assert refused.value.reason is Refusal.UNKNOWN_KIND
        assert reader.asked[1:] == [GET_UID.hex().upper()]


CARDS: list[Card] = [
    CpuCard(),
    ClassicCard(),
    ClassicCard(key=bytes(6)),
    UidCard(bytes.fromhex("04A1B2C3D4E5F6")),
    IdCardB(),
    Phone(),
]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: type(card).__name__)
def test_a_card_pulled_at_any_command_is_no_identity(card: Card) -> None:
    whole = Reader(card)
    with suppress(CardRefused):
        run(ALL(), whole)
    assert whole.asked
    for at in range(len(whole.asked)):

        def transmit(apdu: bytes, last: int = at) -> bytes:
            nonlocal asked
            if asked == last:
                raise PulledError
            asked += 1
            answer = card.answer(apdu)
            assert answer is not None
            return answer

        asked = 0
        profile = ALL()
        with pytest.raises(PulledError):
            run(profile, transmit)
        assert asked == at
        with pytest.raises(StopIteration):  # closed: nothing of it goes on
            next(profile)


@pytest.mark.parametrize("card", [CpuCard(), ClassicCard()], ids=lambda card: type(card).__name__)
def test_every_status_at_every_command_ends_and_only_success_reads(card: Card) -> None:
    """Of all statuses of ISO/IEC 7816-4 at each command, none makes a number of nothing."""
    whole = Reader(card)
    truth = run(ALL(), whole)
    own = Credential("uid", "", card.uid.hex().upper())  # type: ignore[attr-defined]
    for at in range(len(whole.asked)):
        for status in (*range(0x6000, 0x7000), *range(0x9000, 0xA000)):
            reader = Reader(card, {at: status.to_bytes(2)})
            try:
                reading = run(ALL(), reader)
            except (CardRefused, CardUnusable):
                continue
            assert reading.credential in {truth.credential, own}
            assert len(reader.asked) <= MAX_EXCHANGES


@pytest.mark.parametrize("answer", ["6C04", "6110", "AA6110", "6100", "6C00"])
@pytest.mark.parametrize("from_", range(6))
def test_a_card_that_never_ends_is_given_up(answer: str, from_: int) -> None:
    for card in (CpuCard(), ClassicCard()):
        endless = dict.fromkeys(range(from_, 200), bytes.fromhex(answer))
        reader = Reader(card, endless)
        with suppress(CardUnusable, CardRefused):
            run(ALL(), reader)
        assert len(reader.asked) <= from_ + 2 * (1 + MAX_CHAINED)


@pytest.mark.parametrize("raw", [b"", b"\x90", bytes(259), bytes(70_000)])
@pytest.mark.parametrize("at", range(6))
def test_an_answer_without_status_or_over_long_is_never_an_identity(raw: bytes, at: int) -> None:
    for card in (CpuCard(), ClassicCard()):
        whole = Reader(card)
        run(ALL(), whole)
        if at < len(whole.asked):
            with pytest.raises(CardUnusable):
                run(ALL(), Reader(card, {at: raw}))


PLANS = st.lists(
    st.sampled_from(["id-card-b", "cpu-file", "classic-sector"]), min_size=1, unique=True
).map(lambda names: [*names, "uid"])
ANSWERS = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda data: data + OK, st.binary(max_size=32)),
    st.sampled_from([FMCOS_FILE + OK, OK, b"20230815".ljust(16, b"\x00") + OK, bytes(16) + OK]),
    st.builds(
        lambda data, sw1, sw2: data + bytes([sw1, sw2]),
        st.binary(max_size=12),
        st.sampled_from([0x61, 0x6C, 0x63, 0x6A, 0x69, 0x90]),
        st.integers(0, 255),
    ),
    st.sampled_from([b"\x6a\x82", b"\x6d\x00", b"\x63\x00", b"\x6a\x81"]),
)


@settings(max_examples=400)
@given(PLANS, st.lists(ANSWERS, min_size=1, max_size=10))
def test_whatever_a_card_answers_there_are_three_outcomes(
    names: list[str], answers: list[bytes]
) -> None:
    given_: list[bytes] = []

    def cycling() -> Iterator[bytes]:
        while True:
            yield from answers

    endless = cycling()

    def transmit(_apdu: bytes) -> bytes:
        given_.append(next(endless))
        return given_[-1]

    try:
        reading = run(door(*names)(), transmit)
    except (CardRefused, CardUnusable):
        pass
    else:
        # A number is what came with success in one answer, or in one chain of them.
        assert given_[-1].endswith(OK)
        chained = b"".join(each[:-2] for each in given_)
        who = reading.credential
        match who.scheme:
            case "uid":
                assert bytes.fromhex(who.value) in chained
                assert any(bytes.fromhex(who.value))
                assert not (len(who.value) == 8 and who.value.startswith("08"))
                assert reading.assurance is Assurance.UID
            case "cpu-file":
                assert bytes.fromhex(who.issuer) in chained
                assert bytes.fromhex(who.value) in chained
                assert who.value.strip("0")
                assert reading.valid is not None
                assert reading.assurance is Assurance.DATA
            case scheme:
                assert (scheme, who.issuer) == ("classic-sector", "campus")
                assert who.value.encode() in chained
                assert who.value.strip("0")
    assert len(given_) <= MAX_EXCHANGES


# --- the configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "at least one"),
        (["uid", "cpu-file"], "cpu-file after it is never asked"),
        (["uid", "id-card-b"], "id-card-b after it is never asked"),
        (["uid", "uid"], "more than once"),
        (["cpu-file", "cpu-file"], "more than once"),
        (["id-card-b"], "only refuses"),
    ],
)
def test_profiles_that_make_no_sense_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan(*names)


def test_what_is_not_used_is_not_judged() -> None:
    section = CardsSection(
        (ProfileName.UID,), ClassicSectorSection(sector=99), CpuFileSection(application="x")
    )
    assert plan_of(section).profiles == (ProfileName.UID,)
    for name, words in (("classic-sector", "sector is 0 to 39"), ("cpu-file", "hex digits")):
        with pytest.raises(ValueError, match=f"{name}: .*{words}"):
            plan_of(msgspec.structs.replace(section, profiles=(ProfileName(name),)))


@pytest.mark.parametrize("issuer", ["", "two words", "a\nb", "x" * 65])
def test_a_sector_s_numbers_need_a_name_for_who_gives_them(issuer: str) -> None:
    section = CardsSection((ProfileName.CLASSIC_SECTOR,), ClassicSectorSection(issuer=issuer))
    with pytest.raises(ValueError, match="classic-sector: issuer"):
        plan_of(section, KEY)


def test_a_plan_comes_to_a_worker_as_it_was_and_shows_no_key() -> None:
    whole = plan("id-card-b", "cpu-file", "classic-sector", "uid")
    task = ServeReader(b"r", 700, cards=whole)
    assert msgspec.json.decode(msgspec.json.encode(task), type=AnyTask) == task
    for key in (KEY.hex(), repr(KEY), "A0A1"):
        assert key not in repr(task)
        assert key.upper() not in repr(task)


def test_no_key_stands_in_the_settings(tmp_path: Path) -> None:
    assert "key_file" in ClassicSectorSection.__struct_fields__
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"key": KEY.hex()}, ClassicSectorSection)
