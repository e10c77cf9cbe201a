"""A device that is told to retire: who may tell it, what it then shows, and its last word.

Against a real broker; the hub is one that keeps in memory what came.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge import recorder as recorders
from edge.acts import Refused, Why, Wish
from edge.feedback import Outcome, Standing
from edge.readers import CardUnreadable, ReaderUp, Unreadable
from edge.recorder import Recorder
from edge.retirement import is_retired
from edge.store import Owner
from protocol import topics
from protocol.batch import Heartbeat
from protocol.fleet import Order
from protocol.identity import MessageType, Signed, SigningKey
from protocol.journal import Act
from tests.edge.test_courier import Hub, Place
from tests.edge.test_recorder import Door, Terminal, card, taps_on_disk
from tests.fakes.clock import FakeClock
from tests.rig import Mosquitto, wait_for


@dataclass
class Fleet(Hub):
    """A hub that hears heartbeats too and gives orders."""

    heartbeats: list[Heartbeat] = field(default_factory=list)

    def _heard(self, client: Any, data: Any, message: Any) -> None:
        super()._heard(client, data, message)
        if message.topic == topics.up(self.edge, topics.Up.STATE):
            signed = Signed.parse(message.payload, MessageType.HEARTBEAT)
            self.heartbeats.append(Heartbeat.decode(signed.verify(self.edge_sign)))

    def order(self, order: Order | None = None, key: SigningKey | None = None) -> None:
        self.send_order((order or Order(self.edge, 1, 1)).seal(key or self.key))

    def send_order(self, payload: bytes) -> None:
        self.client.publish(topics.order(self.edge), payload, 1)

    def closings(self) -> list[Heartbeat]:
        return [each for each in self.heartbeats if each.closing]


class Site(Place):
    """A place that can be killed and started again on the same journal."""

    def again(self, port: int) -> None:
        self.door = Door(self.data)
        self.taps = 0
        self.recorder = Recorder(
            self.data,
            Owner(self.edge, self.enrolment.hub.seal),
            FakeClock(),
            self.door,
            debounce_ms=0,
            read_timeout_ms=1_000,
        )
        self.courier = self.new_courier(port)
        self.start()


@pytest.fixture
def site(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Site]:
    with contextlib.closing(_Closing(Site(tmp_path / "data", mosquitto.port))) as each:
        yield each.site


@dataclass
class _Closing:
    site: Site

    def close(self) -> None:
        self.site.stop()


@pytest.fixture
def hub(site: Site, mosquitto: Mosquitto) -> Iterator[Fleet]:
    found = Fleet(mosquitto.port, site.edge, site.keys.sign.public, site.key)
    found.start()
    yield found
    found.stop()


def begin(site: Site, hub: Fleet) -> None:
    """Starts, and waits until an order would be heard."""
    site.start()
    wait_for(lambda: hub.hellos, "a hello")


def is_retired_here(site: Site) -> bool:
    return is_retired(site.data, site.edge)


def test_it_records_nothing_more_sends_what_it_has_and_says_that_this_was_all(
    site: Site, hub: Fleet
) -> None:
    begin(site, hub)
    site.recorder.reader_event(ReaderUp("r"))
    site.tap(3)
    wait_for(lambda: site.courier.status().unreceipted == 0, "receipts")
    assert not hub.closings()
    hub.order()
    wait_for(hub.closings, "its last word")
    last = hub.closings()[-1]
    assert (last.unreceipted, last.head) == (0, hub.entries())
    assert site.door.standings[-1] is Standing.RETIRED

    site.recorder.reader_event(card(99, 9_000))
    site.recorder.reader_event(CardUnreadable("r", 100, 9_100, Unreadable.TIMEOUT))
    site.recorder.reader_event(ReaderUp("another"))
    wait_for(lambda: len(site.door.notices) == 5, "two red lights")
    assert site.door.outcomes[-2:] == [Outcome.RETIRED, Outcome.RETIRED]
    assert not Outcome.RETIRED.recorded
    assert taps_on_disk(site.data) == 3
    said = len(hub.closings())
    site.recorder.ask_state()
    wait_for(lambda: len(hub.closings()) > said, "the same word again")
    assert {(each.epoch, each.head) for each in hub.closings()} == {(last.epoch, last.head)}


def test_what_waits_is_handed_over_before_the_last_word(site: Site, hub: Fleet) -> None:
    hub.answering = False
    begin(site, hub)
    site.tap(1_000)
    hub.order()
    wait_for(lambda: is_retired_here(site), "the order")
    wait_for(lambda: hub.heartbeats and hub.heartbeats[-1].unreceipted == 1_001, "a sign of life")
    assert not hub.closings()
    hub.answering = True
    wait_for(hub.closings, "its last word", 30)
    assert hub.entries() == hub.closings()[-1].head == 1_001


@pytest.mark.parametrize(
    "name", ["another hub's", "for another edge", "unknown command", "cut off", "no message"]
)
def test_what_is_no_order_of_its_hub_for_itself_changes_nothing(
    name: str, site: Site, hub: Fleet
) -> None:
    begin(site, hub)
    site.tap()
    order = Order(site.edge, 1, 1)
    hub.send_order(
        {
            "another hub's": order.seal(SigningKey.generate()),
            "for another edge": Order(bytes(16), 1, 1).seal(site.key),
            "unknown command": Order(site.edge, 1, 77).seal(site.key),
            "cut off": order.seal(site.key)[:-1],
            "no message": b"",
        }[name]
    )
    heard = hub.hellos
    hub.session += 1
    hub.say(online=True)  # comes after the order, and is answered
    wait_for(lambda: hub.hellos > heard, "another hello")
    site.tap()
    assert not is_retired_here(site)
    assert site.door.outcomes == [Outcome.RECORDED] * 2


def test_a_replayed_order_retires_nobody_who_is_enrolled_anew(site: Site, hub: Fleet) -> None:
    was = Order(bytes(range(16)), 1, 1).seal(site.key)  # to whom this device was before
    begin(site, hub)
    hub.send_order(was)
    (site.data / f"retired-{bytes(range(16)).hex()}.order").write_bytes(was)
    site.tap()
    site.stop()
    site.again(hub.port)
    site.tap()
    assert site.door.outcomes == [Outcome.RECORDED]


def test_killed_between_order_and_last_word_it_stays_retired_and_says_it(
    site: Site, hub: Fleet, mosquitto: Mosquitto
) -> None:
    hub.answering = False
    begin(site, hub)
    site.tap(5)
    hub.order()
    wait_for(lambda: is_retired_here(site), "the order")
    site.courier.stop()
    site.recorder.stop()
    assert not hub.closings()
    hub.answering = True
    site.again(mosquitto.port)
    site.recorder.reader_event(card(50, 5_000))
    wait_for(lambda: site.door.outcomes == [Outcome.RETIRED], "red")
    wait_for(hub.closings, "its last word", 30)
    assert hub.closings()[-1].unreceipted == 0
    assert taps_on_disk(site.data) == 5


def test_an_order_that_cannot_be_kept_is_not_followed_until_it_can(
    site: Site, hub: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True
    really = recorders.keep

    def keep(data: Path, edge: bytes, order: bytes) -> None:
        if full:
            raise OSError(28, "No space left on device")
        really(data, edge, order)

    monkeypatch.setattr(recorders, "keep", keep)
    begin(site, hub)
    hub.order()
    wait_for(lambda: site.recorder._order is not None, "a try")
    site.tap()
    assert site.door.outcomes == [Outcome.RECORDED]
    full = False
    wait_for(hub.closings, "its last word", 30)
    assert site.door.standings[-1] is Standing.RETIRED


def test_no_action_is_recorded_any_more(site: Site, hub: Fleet) -> None:
    begin(site, hub)
    site.recorder.reader_event(ReaderUp("r"))
    waiting = Terminal(site.data)
    site.recorder.ask(Wish(Act.OPENED), waiting.tell)
    wait_for(lambda: waiting.answers, "somebody who waits")
    hub.order()
    wait_for(lambda: len(waiting.answers) == 2, "an answer")
    late = Terminal(site.data)
    site.recorder.ask(Wish(Act.CLOSED), late.tell)
    wait_for(lambda: late.answers, "another answer")
    assert waiting.answers[-1] == late.answers[-1] == Refused(Why.RETIRED)
