"""Cards that are read by more than their UID, all real: from the register of cards and the device's
settings to the light at the door and the attendance at the hub.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import create_engine, make_url, text

from tests.e2e.venue import DISTRICT
from tests.rig import Card, Mosquitto, Pcscd, UidCard, VirtualReader, wait_for
from tests.rig.product import Edge, Hub
from tests.rig.smartcards import FMCOS_FILE, ClassicCard, CpuCard, IdCardB, Phone

pytestmark = pytest.mark.servers

CARDS = """card,member,format,number,from,to,issuer
K-1,M001,cpu-file,00000000000000123456,2020-01-01,,3301000012345678
K-2,M002,classic-sector,20230815,2020-01-01,,campus
K-3,M003,hex,11223344,2020-01-01,,
K-4,M004,cpu-file,00000000000000654321,2020-01-01,,3301000012345678
"""
OUT_OF_DATE = CpuCard(
    applications={
        b"\x10\x01": {
            0x15: FMCOS_FILE[:10]
            + bytes.fromhex("000000000000006543212010010120191231")
            + FMCOS_FILE[28:]
        }
    }
)


def configured(edge: Edge) -> Path:
    """Has it read cards by every profile; gives the key file."""
    with edge.config.open("a", encoding="utf-8") as config:
        config.write(
            '[cards]\nprofiles = ["id-card-b", "cpu-file", "classic-sector", "uid"]\n'
            '[cards.classic-sector]\nissuer = "campus"\nkey_file = "sector.key"\n'
        )
    key = edge.directory / "sector.key"
    key.write_text("A0A1A2A3A4A5\n", "ascii")
    key.chmod(0o600)
    return key


class Door:
    """A hub with a meeting that is going on, and an edge that reads cards by every profile."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        (directory / "pcscd").mkdir()
        pcscd = stack.enter_context(Pcscd(directory / "pcscd"))
        broker = stack.enter_context(Mosquitto(directory / "mosquitto"))
        self.hub = stack.enter_context(Hub(directory / "hub", mqtt=broker.url))
        self.hub.command("init")
        now = datetime.now(ZoneInfo("Asia/Shanghai"))
        begins, ends = (now + timedelta(minutes=each) for each in (5, 65))
        own = {
            "cards": CARDS,
            "meetings": "code,organisation,kind,title,venue,start,end\n"
            f"C-1,QX-01,主题党日,学习,V-1,{begins:%Y-%m-%d %H:%M},{ends:%Y-%m-%d %H:%M}\n",
        }
        for register in ("organisations", "members", "venues", *own):
            path = DISTRICT / f"{register}.csv"
            if register in own:
                path = directory / f"{register}.csv"
                path.write_text(own[register], "utf-8")
            self.hub.command("import", register, str(path))
        code = self.hub.command("device", "add", "门口-01", "--venue", "V-1").strip()
        self.hub.start()
        self.edge = stack.enter_context(Edge(directory / "edge", pcscd.env))
        configured(self.edge)
        self.edge.enrol(self.hub.url, code)
        self.edge.start()
        self.reader = stack.enter_context(VirtualReader(pcscd.ports[0]))

    def tap(self, card: Card, words: str) -> None:
        """Holds the card there until the door says something of it, which must be `words`."""
        seen = len(self.edge.lights)
        self.reader.present(card)
        self.edge.wait_line(words, since=seen)
        self.reader.remove()

    def until_known(self, card: Card) -> None:
        """Until the device has its roster: taps are white before that."""

        def green() -> bool:
            seen = len(self.edge.lights)
            self.reader.tap(card)
            return any(
                "签到成功" in light.line or "您已签到" in light.line
                for light in self.edge.lights[seen:]
            )

        wait_for(green, "a roster", 60)

    def stored(self) -> list[tuple[str, str, str, int]]:
        engine = create_engine(make_url(self.hub.database))
        with engine.connect() as conn:
            rows = conn.execute(
                text(
                    "SELECT DISTINCT c.scheme, c.issuer, c.value, e.assurance FROM entries e"
                    " JOIN credentials c ON c.id = e.credential_id ORDER BY 1, 3"
                )
            )
            found = [tuple(row) for row in rows]
        engine.dispose()
        return found


@pytest.fixture
def door(rig_dir: Path) -> Iterator[Door]:
    with ExitStack() as stack:
        yield Door(rig_dir, stack)


def test_each_kind_of_card_comes_to_its_member(door: Door) -> None:
    door.until_known(CpuCard())
    door.tap(ClassicCard(), "签到成功")
    door.tap(UidCard(bytes.fromhex("11223344")), "签到成功")
    door.tap(OUT_OF_DATE, "此卡不在有效期内，已记录，待核对")
    door.tap(IdCardB(uid=bytes.fromhex("1122334455667788")), "身份证不能用于签到")
    door.tap(Phone(), "手机、手表不能代替党员卡")
    door.tap(ClassicCard(blocks={}), "还没有写入号码")
    # The same chips by their UIDs are nobody's.
    door.tap(UidCard(CpuCard().uid), "▲ 黄 已记录，待核对")
    wait_for(lambda: len(door.stored()) == 5, "five numbers at the hub", 30)
    assert door.stored() == [
        ("classic-sector", "campus", "20230815", 1),
        ("cpu-file", "3301000012345678", "00000000000000123456", 1),
        ("cpu-file", "3301000012345678", "00000000000000654321", 1),
        ("uid", "", "11223344", 0),
        ("uid", "", "1A2B3C4D", 0),
    ]

    def verdicts() -> dict[str, str]:
        told = json.loads(door.hub.command("attendance", "C-1", "--format", "json"))
        return {row["person"]["code"]: row["verdict"] for row in told["rows"]}

    here = ["M001", "M002", "M003", "M004"]  # who had an old card is here all the same
    wait_for(lambda: [verdicts()[code] for code in here] == ["PRESENT"] * 4, "attendance", 15)
    log = (door.edge.directory / "edge.log").read_text("utf-8")
    for number in ("20230815", "123456", "654321", "A0A1A2", "a0a1a2"):
        assert number not in log


def test_without_its_key_the_service_says_which_file_it_wants(tmp_path: Path) -> None:
    with Edge(tmp_path, {}) as edge:
        key = configured(edge)
        key.chmod(0o640)
        edge.start(wait=False)
        wait_for(lambda: not edge.running, "the end of a service that cannot read its key")
        assert f"{key}: other users can read the key" in edge.log_tail()
