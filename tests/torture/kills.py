"""kill -9 of the edge and of the hub at every point of a tap's way, in a venue where all is real.

The phases are those of tests/e2e/test_kill.py; the ledger of what was acknowledged is kept outside
of every process that is killed.
"""

import random
import time
from pathlib import Path

from tests.e2e.test_kill import PHASES
from tests.e2e.venue import Venue
from tests.torture.result import Result

AT_ONCE = 60
"""Kills between two looks whether all has arrived."""


def run(rounds: int, seed: int, folder: Path, database: str = "") -> Result:
    """Raises AssertionError, which says what was lost or doubled."""
    chance = random.Random(seed)
    longest = 0.0
    with Venue(folder, database) as venue:
        for number in range(rounds):
            chance.choice(PHASES)(venue, chance)
            if (number + 1) % AT_ONCE == 0 or number + 1 == rounds:
                began = time.monotonic()
                venue.check()
                longest = max(longest, time.monotonic() - began)
        acknowledged = len(venue.ledger.acknowledged)
    return Result("kill -9 of edge or hub", rounds, 0, 0, f"{acknowledged:,} acknowledged", longest)
