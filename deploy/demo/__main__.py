"""The way of a tap, shown on real parts: `bin/demo`.

Starts mosquitto, a private pcscd with virtual readers, the hub and an edge; lets members of an
invented district tap; takes the broker away, kills the edge, brings both back; then shows that
every tap whose light said "recorded" is attendance once. With --once it ends by itself, with
status 0 if that held.
"""

import argparse
import csv
import json
import signal
import sys
import time
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from tests.rig import Mosquitto, Pcscd, UidCard, VirtualReader, private_dir, wait_for
from tests.rig.product import Edge, Hub, Light

HERE: Final = Path(__file__).parent
DISTRICT: Final = HERE / "district"
BRANCH: Final = "QX-01"
MEETING: Final = "DEMO-1"
LOGIN: Final = "demo"
BUS_CARD: Final = "9E10B5C7"
ZONE: Final = ZoneInfo("Asia/Shanghai")


class Demo:
    """The servers, the door, and what was shown there."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.began = time.monotonic()
        self.stack = stack
        self.acknowledged: list[str] = []
        self.cards = _cards()
        (directory / "pcscd").mkdir()
        self.say("starting a broker (mosquitto) and a card service (pcscd, virtual reader)")
        self.broker = stack.enter_context(Mosquitto(directory / "mosquitto"))
        self.pcscd = stack.enter_context(Pcscd(directory / "pcscd"))
        self.say("making a hub: keys, database, an invented district")
        self.hub = stack.enter_context(Hub(directory / "hub", mqtt=self.broker.url))
        self.hub.command("init")
        for register in ("organisations", "members", "venues", "cards"):
            self.tell(self.hub.command("import", register, str(DISTRICT / f"{register}.csv")))
        meetings = directory / "meetings.csv"
        meetings.write_text(_meeting(), encoding="utf-8")
        self.tell(self.hub.command("import", "meetings", str(meetings)))
        # printed once; whoever signs in with it replaces it
        account = ("account", "add", LOGIN, "--name", "演示", "--role", "OPERATOR", "--org", "QX")
        self.password = self.hub.command(*account).strip()
        self.hub.start()
        self.say("adding a device at the venue, and enrolling it with its one-time code")
        code = self.hub.command("device", "add", "会议室门口-01", "--venue", "V-1").strip()
        self.edge = stack.enter_context(
            Edge(directory / "edge", {**self.pcscd.env, "TZ": ZONE.key})
        )
        self.edge.enrol(self.hub.url, code)
        self.edge.start()
        self.reader = stack.enter_context(VirtualReader(self.pcscd.ports[0]))
        self.say(f"ready. Watch it live: {self.hub.url}")
        print(f"          login {LOGIN}, first password {self.password}", flush=True)

    def say(self, words: str) -> None:
        """One line of progress."""
        print(f"[{time.monotonic() - self.began:5.1f} s] {words}", flush=True)

    def tell(self, lines: str) -> None:
        """What the product printed, indented and without this run's paths."""
        for line in lines.splitlines():
            print(f"          {line.rpartition('/')[2]}", flush=True)

    def tap(self, who: str) -> None:
        """A member (or the bus card) taps; the light is shown and kept."""
        uid = self.cards.get(who, who)
        seen = len(self.edge.lights)
        self.reader.tap_until_read(UidCard(bytes.fromhex(uid)))
        self.note(who, self.edge.wait_recorded(seen))

    def note(self, who: str, light: Light) -> None:
        """The light acknowledged a tap of `who`."""
        self.acknowledged.append(who)
        print(f"          {who:<9} {light.line}", flush=True)

    def play(self) -> None:
        """The story."""
        expected = [code for code in self.cards if code in _members(BRANCH)]
        guest = next(iter(_members("QX-02")))
        evening = iter(expected)

        def some(count: int) -> list[str]:
            return [next(evening) for _ in range(count)]

        self.say("the evening begins: members tap")
        for who in some(6):
            self.tap(who)
        self.say("the broker goes away; members go on tapping")
        self.broker.kill()
        for who in [*some(4), guest, BUS_CARD]:
            self.tap(who)
        self.say("the edge is killed (SIGKILL) and started again; still no broker")
        self.edge.kill()
        self.edge.start()
        for who in some(4):
            self.tap(who)
        self.say("the broker comes back, and remembers nothing")
        self.broker.start()
        before = time.monotonic()
        wait_for(
            lambda: "0 not yet received" in self.edge.command("journal", "verify"),
            "receipts for everything",
            timeout_s=60,
        )
        self.say(f"everything is at the hub, {time.monotonic() - before:.1f} s later")
        for who in some(2):
            self.tap(who)

    def prove(self) -> bool:
        """Whether the attendance is exactly what the lights said, each tap once."""
        wanted = sorted(who for who in self.acknowledged if who != BUS_CARD)

        def complete() -> bool:
            return len(self.people()) >= len(wanted) and self.attendance()["unmatched"] >= 1

        wait_for(complete, "attendance for everything", timeout_s=30)
        print()
        print(self.hub.command("attendance", MEETING))
        self.tell(self.edge.command("journal", "verify"))
        taps = self.people()
        right = sorted(taps) == wanted and set(taps.values()) == {1}
        right = right and self.attendance()["unmatched"] == self.acknowledged.count(BUS_CARD)
        unknown = self.attendance()["unmatched"]
        self.say(f"{len(self.acknowledged)} taps were acknowledged at the door; at the hub are")
        print(f"          {sum(taps.values())} of members, {unknown} of an unknown card")
        print(f"          {'each once, as it must be' if right else 'NOT WHAT IT MUST BE'}")
        return right

    def people(self) -> dict[str, int]:
        """Taps by member code."""
        return {
            row["person"]["code"]: row["taps"] for row in self.attendance()["rows"] if row["taps"]
        }

    def attendance(self) -> dict:  # type: ignore[type-arg]
        """The meeting, as the product's JSON."""
        found = json.loads(self.hub.command("attendance", MEETING, "--format", "json"))
        assert isinstance(found, dict)  # noqa: S101
        return found


def main() -> int:
    """Runs the demo; gives the exit status."""
    parser = argparse.ArgumentParser(prog="bin/demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end by itself, with 0 or 1")
    once = parser.parse_args().once
    # also where a script started us in the background, which ignores Ctrl-C otherwise
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with private_dir() as directory, ExitStack() as stack:
            demo = Demo(directory, stack)
            demo.play()
            right = demo.prove()
            if once:
                return 0 if right else 1
            print(f"\n  The hub keeps running:  {demo.hub.url}")
            print(f"  Sign in as  {LOGIN}  with the first password  {demo.password}")
            print("  (it is replaced at the first sign-in).")
            print("  Ctrl-C ends everything and leaves nothing behind.\n", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("\nended; nothing is left behind")
        return 130 if once else 0
    return 0


def _cards() -> dict[str, str]:
    """UID by member code."""
    with (DISTRICT / "cards.csv").open(encoding="utf-8") as file:
        return {row["member"]: row["number"] for row in csv.DictReader(file)}


def _members(organisation: str) -> list[str]:
    """Codes of an organisation's members."""
    with (DISTRICT / "members.csv").open(encoding="utf-8") as file:
        return [row["code"] for row in csv.DictReader(file) if row["organisation"] == organisation]


def _meeting() -> str:
    """A meeting that begins in a few minutes, as the file that a secretary would import."""
    start = datetime.now(ZONE) + timedelta(minutes=10)
    end = start + timedelta(minutes=90)
    return (
        "code,organisation,kind,title,venue,start,end\n"
        f"{MEETING},{BRANCH},主题党日,{start.month}月主题党日,V-1,"
        f"{start:%Y-%m-%d %H:%M},{end:%Y-%m-%d %H:%M}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
