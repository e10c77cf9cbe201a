"""The reader contract's own values, and the simulated driver."""

import itertools
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.cards import Refusal
from edge.readers import (
    CardGone,
    CardRead,
    CardSeen,
    CardUnreadable,
    Down,
    ReaderDown,
    Readers,
    ReaderUp,
    Unreadable,
    wire_name,
)
from edge.readers.pcsc_errors import Kind, explain, meaning, unsigned
from edge.readers.simulated import (
    Pause,
    Plug,
    Present,
    Remove,
    SimulatedReaders,
    Step,
    Unplug,
)
from protocol.credential import Assurance, Credential
from tests.contracts.readers import EventLog, check_contract
from tests.fakes.clock import FakeClock

LI = Credential("uid", "", "11223344")
WANG = Credential("uid", "", "11223345")


def play(*script: Step) -> EventLog:
    log, done = EventLog(), threading.Event()

    def telling() -> Iterator[Step]:
        yield from script
        done.set()
        yield Pause(0)

    readers: Readers = SimulatedReaders(telling(), FakeClock().boottime_ms)
    readers.start(log)
    assert done.wait(5)
    readers.stop()
    check_contract(log)
    return log


def test_every_refusal_and_every_reason_has_words() -> None:
    assert {Unreadable.because(refusal).value for refusal in Refusal} <= set(Unreadable)
    assert len({reason.wording for reason in Unreadable}) == len(Unreadable)
    assert "手机" in Unreadable.RANDOM_NUMBER.wording
    assert "请再刷一次" in Unreadable.TIMEOUT.wording


@given(st.text(max_size=200))
def test_a_wire_name_is_short_and_valid(name: str) -> None:
    wire = wire_name(name.encode("utf-8", "replace").decode())
    assert len(wire) <= 64
    wire.encode("utf-8")
    if len(name) <= 64 and name.isascii():
        assert wire == name


def test_long_names_that_differ_late_stay_two() -> None:
    one, two = (f"{'ACS ACR122U PICC Interface ' * 3}0{n} 00" for n in (0, 1))
    assert wire_name(one) != wire_name(two)
    assert len(wire_name(one)) == 64
    assert wire_name(one).startswith("ACS ACR122U PICC Interface ACS")
    assert wire_name(b"\xff reader".decode("utf-8", "surrogateescape")) == "\ufffd reader"


@pytest.mark.parametrize(
    ("hresult", "name", "kind"),
    [
        (-2146435043, "SCARD_E_NO_SERVICE", Kind.SERVICE),
        (0x80100069 - (1 << 32), "SCARD_W_REMOVED_CARD", Kind.REMOVED),
        (0x12345678, "0x12345678", Kind.OTHER),
    ],
)
def test_a_result_code_has_plain_words(hresult: int, name: str, kind: Kind) -> None:
    code = unsigned(hresult)
    assert meaning(code).kind is kind
    assert name in explain(code)
    assert f"{code:08X}" in explain(code)


def test_a_script_is_told_in_order() -> None:
    log = play(
        Present("door", LI),  # not connected: nothing happens
        Plug("door"),
        Plug("door"),
        Present("door", LI),
        Present("door", WANG),
        Remove("door"),
        Remove("door"),
        Present("door", Unreadable.RANDOM_NUMBER),
        Unplug("door"),
        Unplug("door"),
        Plug("door"),
    )
    assert log.events == [
        ReaderUp("door"),
        CardSeen("door", 1, 1_000),
        CardRead("door", 1, 1_000, LI, Assurance.UID),
        CardGone("door", 1),
        CardSeen("door", 2, 1_000),
        CardRead("door", 2, 1_000, WANG, Assurance.UID),
        CardGone("door", 2),
        CardSeen("door", 3, 1_000),
        CardUnreadable("door", 3, 1_000, Unreadable.RANDOM_NUMBER),
        CardGone("door", 3),
        ReaderDown("door", Down.UNPLUGGED),
        ReaderUp("door"),
    ]


NAMES = st.sampled_from(["door", "desk"])
STEPS = st.one_of(
    st.builds(Plug, NAMES),
    st.builds(Unplug, NAMES, st.sampled_from(Down)),
    st.builds(Present, NAMES, st.sampled_from([LI, WANG, Unreadable.TIMEOUT])),
    st.builds(Remove, NAMES),
    st.just(Pause(0)),
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_any_script_keeps_the_contract(script: list[Step]) -> None:
    play(*script)


def test_stop_ends_an_endless_script_and_its_pauses() -> None:
    log = EventLog()
    endless = itertools.cycle([Plug("door"), Present("door", LI), Pause(60_000)])
    readers = SimulatedReaders(endless, FakeClock().boottime_ms)
    readers.start(log)
    log.wait_for(lambda events: len(events) == 3)
    assert readers.health().working
    began = time.monotonic()
    readers.stop()
    assert time.monotonic() - began < 2
    assert len(log.events) == 3


def test_stop_without_start() -> None:
    SimulatedReaders([], FakeClock().boottime_ms).stop()
