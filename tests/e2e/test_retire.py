"""A device is retired by a command while a real edge records and a real hub takes in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.e2e.venue import Venue
from tests.rig import UidCard, wait_for


@pytest.fixture(params=["sqlite", "postgres"])
def venue(request: pytest.FixtureRequest, rig_dir: Path) -> Iterator[Venue]:
    database = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    with Venue(rig_dir, database) as found:
        yield found


def status(venue: Venue) -> str:
    with venue._engine.connect() as conn:
        return str(conn.scalar(text("SELECT status FROM devices")))


def is_retired(venue: Venue) -> bool:
    return any(venue.edge.journal.parent.glob("retired-*.order"))


def refused(venue: Venue) -> None:
    """A card that is held there now shows red."""
    seen = len(venue.edge.lights)
    venue.reader.tap_until_read(UidCard(bytes.fromhex("04FFFFFFFFFFFF")))
    wait_for(lambda: len(venue.edge.lights) > seen, "a light")
    assert not any(light.recorded for light in venue.edge.lights[seen:])


@pytest.mark.timeout(180)
def test_killed_between_the_order_and_its_last_word_it_still_leaves_with_nothing_lost(
    venue: Venue,
) -> None:
    venue.tap()
    wait_for(lambda: venue.without_receipt() == 0, "receipts", 30)
    venue.edge_line.hold("to_server")
    for _ in range(3):
        venue.tap()
    venue.hub.command("device", "retire", "门口-01", "--reason", "改建")
    wait_for(lambda: is_retired(venue), "the order", 30)
    refused(venue)
    assert "正在退役" in venue.hub.command("device", "list")
    assert status(venue) == "ACTIVE"
    venue.edge.kill()
    venue.edge_line.cut()
    venue.edge_line.release("to_server")
    seen = len(venue.edge.lights)
    venue.edge.start(wait=False)
    venue.edge.wait_line("设备已退役", since=seen, timeout_s=30)
    wait_for(lambda: status(venue) == "RETIRED", "its last word", 60)
    refused(venue)
    assert set(venue.at_hub()) == set(venue.ledger.acknowledged)
    assert len(venue.ledger.acknowledged) == 4
