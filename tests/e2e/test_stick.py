"""A venue without network, end to end: real readers, daemon, stick that is mounted, command, hub.

The stick is a folder that is mounted below the one that the daemon watches, and unmounted to be
carried; on the hub's side `serve` runs all the while.
"""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.venue import Venue
from tests.rig import wait_for

pytestmark = pytest.mark.servers


class Stick:
    """Something to carry: `folder` is what lies on it, `point` where the device mounts it."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "stick"
        self.folder.mkdir()
        (self.folder / "SHUAKA-STICK").touch()
        self.media = directory / "media"
        self.point = self.media / "usb0"
        self.point.mkdir(parents=True)

    @contextmanager
    def plugged_in(self) -> Iterator[None]:
        mounted = subprocess.run(
            ["mount", "--bind", str(self.folder), str(self.point)], check=False, capture_output=True
        )
        if mounted.returncode:
            pytest.skip("mounting is forbidden here")
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(self.point)], check=True)


def venue_with(directory: Path, stick: Stick, more: str) -> Venue:
    """A venue whose device looks at sticks."""
    venue = Venue(directory)
    venue.edge.stop()
    with venue.edge.config.open("a", encoding="utf-8") as config:
        config.write(f'[usb]\nmounts = "{stick.media}"\n{more}')
    venue.edge.start()
    return venue


def lose_the_network(venue: Venue) -> None:
    venue.edge_line.refuse(True)
    venue.edge_line.cut()


def write(venue: Venue, stick: Stick) -> None:
    """Plugs the stick in, and pulls it once the door says so."""
    shown = len(venue.edge.lights)
    with stick.plugged_in():
        venue.edge.wait_line("已写入，可以拔出U盘", since=shown)


def test_a_venue_without_network_by_stick_to_the_hub_and_back(rig_dir: Path) -> None:
    """One venue for all of it: to set one up takes longer than what is asked here."""
    stick = Stick(rig_dir)
    with venue_with(rig_dir, stick, "[journal]\nkeep_entries = 0\n") as venue:
        lose_the_network(venue)
        uids = [venue.tap() for _ in range(4)]
        write(venue, stick)
        assert not venue.at_hub(), "nothing came by any other way"
        said = venue.hub.command("import-journal", str(stick.folder))
        assert "门口-01: " in said
        assert "receipts for 门口-01" in said
        assert venue.at_hub() == dict.fromkeys(uids, 1)

        # damaged on its way, the hub's answer frees nothing; whole, it does
        [down] = stick.folder.glob("*.down")
        answer = down.read_bytes()
        down.write_bytes(answer[:-40] + bytes(40))
        waiting = venue.without_receipt()
        write(venue, stick)
        assert venue.without_receipt() == waiting
        down.write_bytes(answer)
        late = venue.tap()
        write(venue, stick)
        wait_for(lambda: venue.in_journal() == 1, "what has its receipt is let go")

        # played back, it frees nothing of what came later
        waiting = venue.without_receipt()
        assert waiting
        write(venue, stick)
        assert venue.without_receipt() == waiting
        assert sorted(path.suffix for path in stick.folder.iterdir()) == ["", ".down", ".up"]

        # by the network as well, while the command runs beside `serve`
        said_since: list[str] = []

        def bring() -> None:
            said_since.append(venue.hub.command("import-journal", *[str(stick.folder)] * 3))

        carrier = threading.Thread(target=bring)
        carrier.start()
        venue.edge_line.refuse(False)
        more = [venue.tap() for _ in range(3)]
        carrier.join()
        assert "here already" in said_since[0]
        wait_for(lambda: venue.without_receipt() == 0, "receipts for everything", 60)
        assert venue.at_hub() == dict.fromkeys([*uids, late, *more], 1)
