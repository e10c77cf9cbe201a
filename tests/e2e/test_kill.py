"""P1, P2, P3, P6, P7: processes are killed at every point of a tap's way, from outside.

Each phase is reached on purpose, without a hook in the product: another connection holds the
journal's write lock (before commit), the console's pipe is full (commit → light), a proxy holds
back what comes to the edge (publish → receipt) or from the hub (hub commit → receipt). Further
kills come at random moments. The seed decides order and delays, and is printed.
"""

import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.e2e.venue import Venue
from tests.rig import wait_for
from tests.rig.product import CommandError

ROUNDS = int(os.environ.get("SHUAKA_KILL_ROUNDS", "5"))
SEED = int(os.environ.get("SHUAKA_KILL_SEED", "20261124"))


@pytest.fixture(params=["sqlite", "postgres"])
def venue(request: pytest.FixtureRequest, rig_dir: Path) -> Iterator[Venue]:
    database = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    with Venue(rig_dir, database) as venue:
        yield venue


def before_commit(venue: Venue, chance: random.Random) -> None:
    stored = venue.in_journal()
    with ExitStack() as held:
        held.enter_context(venue.journal_locked())
        with venue.tapping():
            time.sleep(chance.uniform(0.05, 0.2))
            venue.edge.kill()
    assert venue.in_journal() == stored
    venue.ledger.phases["before commit"] += 1
    venue.edge.start()


def commit_to_light(venue: Venue, _chance: random.Random) -> None:
    stored = venue.in_journal()
    acknowledged = len(venue.ledger.acknowledged)
    venue.edge.stall_console()
    with venue.tapping():
        wait_for(lambda: venue.in_journal() > stored, "a commit")
        venue.edge.kill()
    assert len(venue.ledger.acknowledged) == acknowledged
    venue.ledger.phases["commit → light"] += 1
    venue.edge.start()


def publish_to_receipt(venue: Venue, chance: random.Random) -> None:
    wait_for(lambda: venue.without_receipt() == 0, "receipts so far", 30)
    venue.edge_line.hold("to_client")
    uid = venue.tap()
    venue.wait_at_hub(uid)
    time.sleep(chance.uniform(0, 0.1))
    assert venue.without_receipt() > 0
    venue.edge.kill()
    venue.edge_line.release("to_client")
    venue.ledger.phases["publish → receipt"] += 1
    venue.edge.start()


def hub_commit_to_receipt(venue: Venue, chance: random.Random) -> None:
    wait_for(lambda: venue.without_receipt() == 0, "receipts so far", 30)
    venue.hub_line.hold("to_server")
    uid = venue.tap()
    venue.wait_at_hub(uid)
    time.sleep(chance.uniform(0, 0.05))
    assert venue.without_receipt() > 0
    venue.hub.kill()
    venue.hub_line.cut()
    venue.hub_line.release("to_server")
    venue.ledger.phases["hub commit → receipt"] += 1
    venue.hub.start()


def edge_at_any_moment(venue: Venue, chance: random.Random) -> None:
    """From the moment on at which the UID leaves the card, over the time that a light takes."""
    stored = venue.in_journal()
    acknowledged = len(venue.ledger.acknowledged)
    with venue.tapping(lambda: _kill_in(venue.edge.pid, chance.uniform(0, 0.006))):
        venue.edge.kill()
    if len(venue.ledger.acknowledged) > acknowledged:
        venue.ledger.phases["at random: after the light"] += 1
    elif venue.in_journal() > stored:
        venue.ledger.phases["at random: commit → light"] += 1
    else:
        venue.ledger.phases["at random: before commit"] += 1
    venue.edge.start()


def hub_at_any_moment(venue: Venue, chance: random.Random) -> None:
    delay = chance.uniform(0, 0.02)
    seen = len(venue.edge.lights)
    with venue.tapping(lambda: _kill_in(venue.hub.child.pid, delay)) as uid:
        venue.edge.wait_recorded(seen)
        venue.hub.kill()
    stored = uid in venue.at_hub()
    venue.ledger.phases[f"at random: hub {'after' if stored else 'before'} its commit"] += 1
    venue.hub.start()


def _kill_in(pid: int, delay_s: float) -> None:
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)


PHASES: tuple[Callable[[Venue, random.Random], None], ...] = (
    before_commit,
    commit_to_light,
    publish_to_receipt,
    hub_commit_to_receipt,
    edge_at_any_moment,
    hub_at_any_moment,
)


@pytest.mark.timeout(600)
def test_every_acknowledged_tap_is_stored_once_whatever_is_killed_when(
    venue: Venue, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(SEED)
    plan = [phase for phase in PHASES for _ in range(ROUNDS)]
    chance.shuffle(plan)
    for phase in plan:
        phase(venue, chance)
        if chance.random() < 0.3:
            venue.tap()
    venue.check()
    with capsys.disabled():
        print(f"\nkills by phase, seed {SEED}:")
        for phase_name, count in sorted(venue.ledger.phases.items()):
            print(f"  {count:>4}  {phase_name}")
        print(
            f"  {len(venue.ledger.presented)} presented, {len(venue.ledger.acknowledged)}"
            f" acknowledged, {sum(venue.at_hub().values())} stored, 0 lost, 0 doubled"
        )
    for name in ("before commit", "commit → light", "publish → receipt", "hub commit → receipt"):
        assert venue.ledger.phases[name] >= ROUNDS


@pytest.mark.timeout(180)
def test_a_broker_that_loses_everything_costs_nothing(venue: Venue) -> None:
    """Its state is gone while taps are unsent, and while others are sent without a receipt."""
    venue.tap()
    wait_for(lambda: venue.without_receipt() == 0, "a first receipt")
    venue.hub_line.hold("to_server")  # what arrives is stored, and no receipt comes back
    sent = [venue.tap() for _ in range(3)]
    venue.wait_at_hub(sent[-1])
    venue.hub_line.hold("to_client")  # what is sent now stays in the broker
    stuck = [venue.tap() for _ in range(3)]
    time.sleep(0.5)
    assert venue.without_receipt() >= 6
    assert not set(stuck) & set(venue.at_hub())
    venue.mosquitto.kill()
    unsent = [venue.tap() for _ in range(3)]
    venue.hub_line.cut()
    venue.edge_line.cut()
    venue.hub_line.release("to_server")
    venue.hub_line.release("to_client")
    assert not set(unsent) & set(venue.at_hub())
    venue.mosquitto.start()
    venue.check()
    assert set(venue.at_hub()) >= {*sent, *stuck, *unsent}


@pytest.mark.timeout(180)
def test_a_hub_restored_from_a_backup_gets_again_what_it_lost(rig_dir: Path) -> None:
    with Venue(rig_dir) as venue:
        kept = [venue.tap() for _ in range(3)]
        wait_for(lambda: venue.without_receipt() == 0, "receipts before the backup")
        database = Path(venue.hub.database.removeprefix("sqlite:///"))
        backup = rig_dir / "backup.db"
        with closing(sqlite3.connect(database)) as live:
            live.execute("VACUUM INTO ?", [str(backup)])
        since = [venue.tap() for _ in range(3)]
        wait_for(lambda: venue.without_receipt() == 0, "receipts after the backup", 40)
        with pytest.raises(CommandError, match="serve runs"):
            venue.hub.command("restored")
        assert venue.hub.stop() == 0
        venue.look_away()
        assert not list(database.parent.glob("hub.db-*")), "all is in the database itself"
        database.unlink()
        backup.rename(database)
        venue.hub.command("restored")
        assert set(venue.at_hub()) == set(kept)
        venue.hub.start()
        for uid in since:
            venue.wait_at_hub(uid, timeout_s=40)
        venue.check()


@pytest.mark.timeout(120)
def test_it_starts_with_nothing_there_and_recovers_from_each_loss(venue: Venue) -> None:
    """No hub, no broker, no pcscd at its start: it records as soon as there is a reader."""
    venue.hub.kill()
    venue.mosquitto.kill()
    venue.pcscd.kill()
    venue.edge.kill()
    venue.edge.start(wait=False)
    venue.edge.wait_line("读卡器未连接", since=len(venue.edge.lights) - 1)
    since = len(venue.edge.lights)
    venue.pcscd.start()
    venue.edge.wait_line("请刷党员卡", since=since, timeout_s=15)
    venue.tap()
    venue.mosquitto.start()
    venue.tap()
    venue.hub.start()
    venue.tap()
    venue.check()
