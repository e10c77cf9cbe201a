"""A file from a device is uploaded on a page, and its receipts are downloaded by who brought it."""

import re

import pytest
from sqlalchemy import Engine, select

from hub.app import create_app
from hub.domain.terms import Role
from hub.ingest.files import carry
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.state import begin_generation
from hub.web.sticks import KEPT
from protocol.batch import open_receipt
from protocol.courierfile import Channel, CourierReader, Direction, Item, begin, end
from protocol.identity import OpeningKey, SigningKey
from tests.fakes.edge import FakeEdge, uid
from tests.hub.ingest.test_files import items_of, written
from tests.hub.site import ZONE, Client, Site

KEYRING = Keyring(SigningKey.generate(), (OpeningKey.generate(),))


SQLITE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
"""What is asked does not depend on the database."""


@pytest.fixture
def site(engine: Engine) -> Site:
    made = Site(engine)
    with engine.begin() as conn:
        begin_generation(conn, made.now_ms)
        for login, organisation in (("tech", "区"), ("other", "区"), ("branch", "乙")):
            made.account(conn, login, login, organisation, Role.TECHNICIAN)
    made.app = create_app(
        engine,
        zone=ZONE,
        clock=lambda: made.now_ms,
        carry=lambda pieces: carry(engine, KEYRING, pieces, made.now_ms),
    )
    return made


@pytest.fixture
def edge(site: Site) -> FakeEdge:
    """A device at the hall, which is the branch 甲's."""
    edge = FakeEdge(KEYRING.public(), name="U盘设备")
    with site.engine.begin() as conn:
        device = edge.add_to(conn)
        site.world(conn).add(
            s.placements, device_id=device, venue_id=site.ids["礼堂"], valid_from_ms=0
        )
    for number in range(3):
        edge.tap(uid(number))
    return edge


def upload(client: Client, content: bytes) -> str:
    response = client.request("POST", "/sticks", files={"file": ("a.up", content)})
    assert response.status_code in {200, 422}
    return response.text


def links(page: str) -> list[str]:
    return re.findall(r'href="(/sticks/receipts\?of=[^"]+)"', page)


def test_a_file_is_brought_and_its_receipts_go_back(site: Site, edge: FakeEdge) -> None:
    client = site.signed_in("tech")
    assert "/sticks" in client.get("/devices").text
    page = upload(client, written(items_of(edge)))
    assert "U盘设备：收到新记录 4 条。" in page
    [link] = links(page)
    response = client.get(link)
    assert response.status_code == 200
    assert f"shuaka-{edge.edge.hex()}.down" in response.headers["content-disposition"]
    [item] = CourierReader(Direction.DOWN).feed(response.content)
    receipt = open_receipt(item.payload, KEYRING.sign.public)
    assert (item.channel, receipt.edge, receipt.through) == (Channel.RECEIPT, edge.edge, 4)
    again = upload(client, written(items_of(edge)))
    assert "没有新记录" in again
    with site.engine.begin() as conn:
        seen = conn.execute(select(s.audit.c.actor).where(s.audit.c.what == "device.import"))
        assert list(seen.scalars()) == ["tech", "tech"]
        assert all(conn.scalars(select(s.batches.c.derived)))


@SQLITE
def test_receipts_are_for_who_brought_the_file_and_not_for_ever(site: Site, edge: FakeEdge) -> None:
    client = site.signed_in("tech")
    file = written(items_of(edge))
    [link] = links(upload(client, file))
    assert site.signed_in("other").get(link).status_code == 404
    assert client.get("/sticks/receipts").status_code == 404
    assert client.get(link + "x").status_code == 404
    for _ in range(KEPT):
        upload(client, file)
    assert client.get(link).status_code == 404


@SQLITE
def test_of_a_device_beyond_the_sub_tree_nothing_is_told(site: Site, edge: FakeEdge) -> None:
    page = upload(site.signed_in("branch"), written(items_of(edge)))
    assert "其他组织的设备 1 台" in page
    assert edge.name not in page
    assert not links(page)
    with site.engine.begin() as conn:
        assert len(conn.execute(select(s.batches.c.id)).all()) == 1


WRONG = {
    b"\xff\xd8\xff\xe0 a picture": "这不是设备写的U盘文件",
    begin(Direction.DOWN) + end(0): "这是给设备的回执",
    b"\x52\x83\x6eshuaka-courier\x02\x60": "这个文件来自更新的版本",
    begin(Direction.UP) + end(0): "文件里没有记录",
    begin(Direction.UP): "文件不完整",
    written([Item(Channel.HELLO, bytes(16), b"<b>")]): "没有收下（unknown_device）",
    b"": "请先选择一个文件",
}


@SQLITE
def test_what_is_wrong_is_said(site: Site) -> None:
    client = site.signed_in("tech")
    for content, words in WRONG.items():
        page = upload(client, content)
        assert words in page
        assert not links(page)


@SQLITE
def test_a_secretary_may_not(site: Site, edge: FakeEdge) -> None:
    client = site.signed_in("区")
    assert client.get("/sticks").status_code == 403
    answer = client.request("POST", "/sticks", files={"file": ("a.up", written(items_of(edge)))})
    assert answer.status_code == 403
    with site.engine.begin() as conn:
        assert not conn.execute(select(s.batches.c.id)).all()
