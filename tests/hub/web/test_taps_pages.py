"""Pages of taps to be checked, cards, devices and venues, as forms without JavaScript."""

import re
from html import unescape
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, insert, select

from hub.context import Joining
from hub.derive import derive_batch
from hub.domain.terms import Role
from hub.store import schema as s
from hub.store.engine import reading
from protocol.identity import EnrolmentCode
from protocol.journal import Act
from tests.hub.site import Client, Site
from tests.hub.world import Entry, minutes, public_id

STRANGER = "04FEEDFACE1234"
MEETING = public_id("会")


@pytest.fixture
def site(engine: Engine) -> Site:
    site = Site(engine, now_ms=minutes(20), joining=Joining(bytes(range(10)), "mqtt://127.0.0.1"))
    with engine.begin() as conn:
        world = site.world(conn)
        card = world.card(None, STRANGER)
        site.account(conn, "tech", "技术员", "区", Role.TECHNICIAN)
        site.account(conn, "op", "管理员", "区", Role.OPERATOR)
        site.account(conn, "audit", "监督员", "区", Role.AUDITOR)
    site.tap(None, minutes(3), card)
    site.tap("李", minutes(4))
    site.tap("王", minutes(-40))
    return site


def links(text: str) -> list[str]:
    return [each.replace("&amp;", "&") for each in re.findall(r'href="(/taps/[^"]+)"', text)]


def test_from_the_meeting_to_whose_card_it_is(site: Site) -> None:
    client = site.signed_in("甲")
    listed = client.get(f"/taps?meeting={MEETING}").text
    assert "尾号 1234" in listed
    assert STRANGER not in listed
    [link] = links(listed)
    found = client.get(link).text
    assert "王名" in found
    assert "李名" not in found, "has come"
    assert "没有找到" in client.get(f"{link}&name=nobody").text
    assert "赵名" in client.get(f"{link}&name=赵").text
    [pick] = {
        each for each in links(client.get(f"{link}&name=赵").text) if str(public_id("赵")) in each
    }
    form = client.get(pick).text
    assert "这是一张新卡" in form
    fields = {
        name: unescape(value)
        for name, value in re.findall(r'name="(\w+)"[^>]*value="([^"]*)"', form)
    }
    path = link.partition("?")[0]
    response = client.post(f"{path}/bind", data={**fields, "card": "new", "code": "新 卡"})
    assert response.status_code == 422
    assert "空格" in response.text
    response = client.post(f"{path}/bind", data={**fields, "card": "new", "code": "0815"})
    assert response.status_code == 303, response.text
    assert response.headers["location"] == f"/taps?kind=UNMATCHED&meeting={MEETING}"
    assert "尾号 1234" not in client.get(response.headers["location"]).text
    assert "赵名" in client.get(f"/meetings/{MEETING}").text
    cards = client.get(f"/members/{public_id('赵')}/cards").text
    assert "0815" in cards
    assert "1234" in cards
    assert STRANGER not in cards


def test_an_unplaced_tap_is_assigned_and_taken_back(site: Site) -> None:
    client = site.signed_in("甲")
    listed = client.get("/taps?kind=UNPLACED").text
    assert "王名" in listed
    [link] = links(listed)
    path = link.partition("?")[0]
    assert "会题" in client.get(link).text
    assert client.post(f"{path}/assign", data={}).status_code == 422
    assert client.post(f"{path}/assign", data={"meeting": str(MEETING)}).status_code == 303
    assert links(client.get("/taps?kind=UNPLACED").text) == []
    assert "撤回归会" in client.get(path).text
    assert client.post(f"{path}/withdraw", data={"back": f"/meetings/{MEETING}"}).status_code == 303
    assert len(links(client.get("/taps?kind=UNPLACED").text)) == 1
    assert client.post(f"{path}/withdraw").status_code == 422


def test_the_unknown_card_of_an_act_is_in_the_list_and_can_be_bound(site: Site) -> None:
    with site.engine.begin() as conn:
        world = site.world(conn)
        card = world.ids[f"uid {STRANGER}"]
        act = Entry(minutes(2), minutes(2), trusted=True, credential_id=card, act=Act.OPENED)
        world.batch("e", 4, [act], minutes(2))
        derive_batch(conn)
    client = site.signed_in("甲")
    assert "2次" in client.get("/taps").text
    [link] = links(client.get("/taps").text)
    page = client.get(f"{link}&member={public_id('赵')}")
    assert page.status_code == 200
    fields = {"member": str(public_id("赵")), "day": "2026-04-24", "time": "00:00"}
    assert client.post(f"{link.partition('?')[0]}/bind", data=fields).status_code == 303
    assert links(client.get("/taps?kind=UNMATCHED").text) == []
    # It is known by now, and nothing else can be said of it.
    client.post("/language", data={"lang": "en", "next": "/"})
    assert client.get(link).status_code == 200
    assert "no check-in" in client.get(link).text


def test_a_card_is_lost_and_found(site: Site) -> None:
    client = site.signed_in("甲")
    page = client.get(f"/members/{public_id('李')}/cards").text
    [card] = re.findall(r"/cards/[0-9a-f-]{36}", page)
    form = client.get(card).text
    assert "挂失" in form
    wrong = client.post(f"{card}/lost", data={"day": "2026-02-31", "time": "25:00"})
    assert wrong.status_code == 422
    assert "没有看懂" in wrong.text
    at = {"day": "2026-04-24", "time": "10:00"}
    assert client.post(f"{card}/lost", data=at).status_code == 303
    assert "挂失" in client.get(f"/members/{public_id('李')}/cards").text
    assert client.post(f"{card}/lost", data=at).status_code == 422
    assert client.post(f"{card}/reinstate").status_code == 303
    assert client.post(f"{card}/reinstate").status_code == 422
    gone = client.post(f"{card}/end", data={"day": "2020-01-01", "time": "10:00"})
    assert gone.headers["location"] == f"/members/{public_id('李')}/cards"


def test_a_device_is_added_with_a_code_that_is_shown_once(site: Site) -> None:
    client = site.signed_in("tech")
    assert client.get("/").headers["location"] == "/devices"
    wrong = client.post("/devices/new", data={"name": "三楼", "venue": ""})
    assert wrong.status_code == 422
    made = client.post("/devices/new", data={"name": "三楼", "venue": str(public_id("礼堂"))})
    assert made.status_code == 200
    [code] = re.findall(r"--code ((?:[0-9A-Z]{5}-){5}[0-9A-Z]{5})", made.text)
    assert EnrolmentCode.parse(code).fingerprint == bytes(range(10))
    assert "data:image/svg+xml" in made.text
    assert "edge_mqtt" in made.text
    assert made.headers["cache-control"] == "no-store"
    [path] = set(re.findall(r"/devices/[0-9a-f-]{36}", made.text))
    shown = client.get(path)
    assert code not in shown.text
    assert "输入登记码" in shown.text
    again = client.post(f"{path}/code")
    [other] = re.findall(r"--code ((?:[0-9A-Z]{5}-){5}[0-9A-Z]{5})", again.text)
    assert other != code
    with reading(site.engine) as conn:
        told = " ".join(conn.scalars(select(s.audit.c.details)))
    assert code not in told
    taken = client.post("/devices/new", data={"name": "一号", "venue": str(public_id("礼堂"))})
    assert taken.status_code == 422
    assert client.post(f"/devices/{public_id('一号')}/code").status_code == 303


def test_a_device_is_placed_from_a_time_on(site: Site) -> None:
    client = site.signed_in("op")
    new = {"code": "V2", "name": "新会场", "organisation": str(public_id("甲"))}
    assert client.post("/venues/new", data={**new, "code": ""}).status_code == 422
    assert client.post("/venues/new", data=new).status_code == 303
    assert client.post("/venues/new", data=new).status_code == 422
    [venue] = re.findall(r"/venues/([0-9a-f-]{36})", client.get("/venues").text)[-1:]
    ids = set(re.findall(r"/venues/([0-9a-f-]{36})", client.get("/venues").text))
    venue = (ids - {str(public_id("礼堂"))}).pop()
    path = f"/devices/{public_id('一号')}"
    at = {"venue": venue, "day": "2026-04-24", "time": "11:00"}
    assert client.post(f"{path}/place", data={**at, "day": ""}).status_code == 422
    assert client.post(f"{path}/place", data={**at, "venue": ""}).status_code == 422
    assert client.post(f"{path}/place", data=at).status_code == 303
    refused = client.post(f"{path}/place", data={**at, "time": "10:00", "venue": "none"})
    assert refused.status_code == 422
    assert "须选择替换" in refused.text
    done = client.post(
        f"{path}/place", data={**at, "time": "10:00", "venue": "none", "replaces": "yes"}
    )
    assert done.status_code == 303
    assert "不在任何会场" in client.get(path).text
    renamed = {"name": "又一名", "organisation": str(public_id("甲"))}
    assert client.post(f"/venues/{venue}", data={**renamed, "name": " "}).status_code == 422
    assert client.post(f"/venues/{venue}", data=renamed).status_code == 303
    assert "又一名" in client.get("/venues").text


def test_what_ones_role_does_not_allow(site: Site) -> None:
    place = f"/devices/{public_id('一号')}/place"
    for login, refused, open_ in (
        ("甲", ["/devices/new", "/venues/new"], ["/devices", "/venues", "/taps"]),
        ("tech", ["/taps", f"/members/{public_id('李')}/cards"], ["/devices", "/devices/new"]),
        ("audit", ["/taps", "/devices/new"], ["/devices"]),
    ):
        client = site.signed_in(login)
        for path in refused:
            assert client.get(path).status_code == 403, (login, path)
        for path in open_:
            assert client.get(path).status_code == 200, (login, path)
    assert site.signed_in("甲").post(place, data={}).status_code == 403
    assert site.signed_in("tech").post("/taps/x/bind", data={}).status_code == 403


def test_what_was_looked_at_is_written_down(site: Site) -> None:
    client = site.signed_in("甲")
    client.get("/taps?kind=UNPLACED")
    client.get(f"/members/{public_id('李')}/cards")
    with reading(site.engine) as conn:
        seen = set(conn.scalars(select(s.accesses.c.what)))
    assert {"taps.page", "member.cards"} <= seen


@pytest.mark.parametrize(
    "query",
    [
        "kind=X&page=0&from=x",
        "from=2026-05-01&to=2026-01-01",
        "venue=x",
        f"venue={public_id('礼堂')}",
        "meeting=x",
        "page=999",
        "from=2199-12-31",
    ],
)
def test_no_address_breaks_the_list(site: Site, query: str) -> None:
    assert site.signed_in("甲").get(f"/taps?{query}").status_code in {200, 404, 422}


@pytest.mark.parametrize("back", ["//evil.test", "/password", "https://evil.test", "/taps/../x y"])
def test_it_leads_back_to_the_lists_alone(site: Site, back: str) -> None:
    client = site.signed_in("甲")
    [link] = links(client.get("/taps?kind=UNPLACED").text)
    path = link.partition("?")[0]
    page = client.get(f"{path}?back={quote(back)}").text
    assert "evil" not in page.partition("<main")[2]
    said = client.post(f"{path}/assign", data={"meeting": str(MEETING), "back": back})
    assert said.headers["location"] == "/taps"


def test_english(site: Site) -> None:
    client: Client = site.signed_in("op")
    client.cookies.set("lang", "en")
    for path in ("/taps", "/devices", "/venues", f"/devices/{public_id('一号')}", "/venues/new"):
        text = re.sub(r"<[^>]*>", " ", client.get(path).text)
        said = set(re.findall(r"[\u4e00-\u9fff]+", text)) - {"中文"}
        names = {"区名", "甲名", "乙名", "礼堂名", "礼堂", "一号", "管理员"}
        assert said <= names, path


def test_nobody_is_told_a_stranger_s_card(site: Site) -> None:
    with site.engine.begin() as conn:
        world = site.world(conn)
        conn.execute(insert(s.credentials).values(scheme="uid", issuer="", value="04AAAAAAAA9999"))
        world.epoch("z", "一号", boot="z", parent=("e", 1))
        world.batch("z", 1, [Entry(5, 0, False, world.ids[f"uid {STRANGER}"])], minutes(30))
    for login in ("区", "op"):
        client = site.signed_in(login)
        for path in ("/taps", "/taps?kind=UNDATED", f"/meetings/{MEETING}", "/attendance"):
            assert STRANGER not in client.get(path).text
