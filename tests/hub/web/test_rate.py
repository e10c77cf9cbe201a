"""到会率 says something only where something is known."""

from dataclasses import replace
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from hub.store.queries import meeting_attendance
from hub.store.scope import EVERYTHING
from hub.web.view import attendance
from tests.hub.world import World, minutes

CHINA = ZoneInfo("Asia/Shanghai")


def test_no_rate_accuses_where_nothing_is_known(engine: Engine) -> None:
    with engine.begin() as conn:
        world = World(conn)
        world.organisation("B")
        world.member("M", "B")
        world.venue("V", "B")
        world.meeting("T", "B", "V")
        found = meeting_attendance(conn, EVERYTHING, "T", minutes(500), CHINA)
    assert found is not None
    assert found.counts.expected == 1
    assert not found.complete
    assert attendance(found, CHINA).rate is None
    assert attendance(replace(found, complete=True), CHINA).rate == "0.0%"
    one_came = replace(found, counts=replace(found.counts, present=1))
    assert attendance(one_came, CHINA).rate == "100.0%"
