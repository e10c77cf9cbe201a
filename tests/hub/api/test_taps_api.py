"""The API of taps to be checked, cards, devices and venues."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from hub.auth.tokens import new_token
from hub.context import Joining
from hub.domain.terms import Role
from tests.hub.site import Client, Site
from tests.hub.world import minutes, public_id

STRANGER = "04FEEDFACE1234"
V1 = "/api/v1"
AT = "2026-04-24T11:10:00+08:00"


@pytest.fixture
def site(engine: Engine) -> Site:
    site = Site(engine, now_ms=minutes(20), joining=Joining(bytes(10), "mqtt://h"))
    with engine.begin() as conn:
        card = site.world(conn).card(None, STRANGER)
        site.tokens["op"] = new_token(conn, "op", "区", minutes(-1000), role=Role.OPERATOR)
    site.tap(None, minutes(3), card)
    site.tap("王", minutes(-40))
    return site


def ask(client: Client, method: str, path: str, status: int = 200, **body: Any) -> Any:
    response = client.request(method, V1 + path, **({"json": body} if body else {}))
    assert response.status_code == status, response.text
    assert STRANGER not in response.text
    return response.json() if response.content else None


def test_whose_card_it_is(site: Site) -> None:
    client = site.client(token="甲")
    found = ask(client, "GET", "/taps")
    assert found["counts"] == {"UNMATCHED": 1, "UNPLACED": 1, "UNDATED": 0}
    [line] = found["items"]
    assert (line["card_last"], line["taps"], line["person"]) == ("1234", 1, None)
    path = f"/taps/{line['tap']}"
    names = {each["name"] for each in ask(client, "GET", path)["suggested"]}
    assert names == {"李名", "王名", "赵名"}
    wanted = {"member": str(public_id("赵")), "valid_from": line["first_at"]}
    assert "code" in ask(client, "POST", f"{path}/bind", 422, **wanted, code="a b")["detail"]
    assert (
        "valid_from"
        in ask(client, "POST", f"{path}/bind", 422, **{**wanted, "valid_from": "2026-04-24"})[
            "detail"
        ]
    )
    ask(client, "POST", f"{path}/bind", 422, **wanted, cord="x")
    ask(client, "POST", f"{path}/bind", 404, **{**wanted, "member": str(public_id("钱"))})
    ask(client, "POST", f"{path}/bind", 404, **wanted, card=str(uuid4()))
    card = ask(client, "POST", f"{path}/bind", **wanted, code="0815")
    assert (card["code"], card["numbers_last"]) == ("0815", ["1234"])
    refused = ask(client, "POST", f"{path}/bind", 409, **wanted)
    assert refused["detail"] == "tap: Whose card this is, is known already."
    assert ask(client, "GET", "/taps")["items"] == []
    held = ask(client, "GET", f"/members/{public_id('赵')}/cards")
    assert held["items"][0]["code"] == "0815"
    of_card = f"/cards/{card['public_id']}"
    ask(client, "POST", f"{of_card}/lost", 204, at=AT)
    ask(client, "POST", f"{of_card}/lost", 409, at=AT)
    ask(client, "POST", f"{of_card}/reinstate", 204)
    ask(client, "POST", f"{of_card}/end", 204, at="2020-01-01T00:00:00Z")
    ask(client, "GET", f"/members/{public_id('钱')}/cards", 404)


def test_which_meeting_it_was(site: Site) -> None:
    client = site.client(token="甲")
    [line] = ask(client, "GET", "/taps?outcome=UNPLACED")["items"]
    assert line["person"]["name"] == "王名"
    path = f"/taps/{line['tap']}"
    [meeting] = ask(client, "GET", path)["meetings"]
    assert not meeting["assigned"]
    ask(client, "POST", f"{path}/assign", meeting=meeting["meeting"])
    assert ask(client, "GET", path)["meetings"][0]["assigned"]
    assert ask(client, "GET", "/taps?outcome=UNPLACED")["total"] == 0
    ask(client, "POST", f"{path}/assign", 409, meeting=meeting["meeting"])
    ask(client, "POST", f"{path}/withdraw")
    ask(client, "POST", f"{path}/withdraw", 409)
    ask(client, "GET", f"/taps?outcome=UNPLACED&meeting={public_id('会')}")
    ask(client, "GET", "/taps?outcome=COUNTED", 422)
    ask(client, "GET", "/taps/x", 404)
    ask(client, "POST", "/taps/x/withdraw", 404)


def test_devices_and_venues(site: Site) -> None:
    client = site.client(token="op")
    [device] = ask(client, "GET", "/devices")["items"]
    assert device["troubles"] == ["登记后还没有联系过：请检查设备的电源和网络"]
    owner = str(public_id("甲"))
    venue = ask(client, "POST", "/venues", 201, code="V2", name="新", organisation=owner)
    ask(client, "POST", "/venues", 409, code="V2", name="新", organisation=owner)
    ask(client, "POST", "/venues", 422, code="", name="新", organisation=owner)
    changed = ask(client, "PUT", f"/venues/{venue['public_id']}", name="又", organisation=owner)
    assert changed["name"] == "又"
    assert {each["name"] for each in ask(client, "GET", "/venues")["items"]} == {"礼堂名", "又"}
    assert ask(client, "GET", "/venues?limit=1&offset=1")["total"] == 2
    assert len(ask(client, "GET", "/venues?limit=1&offset=1")["items"]) == 1
    assert ask(client, "GET", "/devices?offset=9")["items"] == []
    assert "limt" in ask(client, "GET", "/devices?limt=1", 422)["detail"]
    code = ask(client, "POST", "/devices", 201, name="二号", venue=venue["public_id"])
    assert len(code["code"]) == 35
    path = f"/devices/{code['device']}"
    assert ask(client, "POST", f"{path}/code", 201)["code"] != code["code"]
    assert ask(client, "GET", path)["device"]["status"] == "PENDING"
    path = f"/devices/{device['public_id']}"
    ask(client, "POST", f"{path}/code", 409)
    ask(client, "POST", f"{path}/placements", 422, at=AT)
    placed = ask(client, "POST", f"{path}/placements", venue=venue["public_id"], at=AT)
    assert [each["venue"] for each in placed["placements"]] == ["又", "礼堂名"]
    earlier = {"venue": None, "at": "2026-04-24T11:00:00+08:00"}
    assert "replace" in ask(client, "POST", f"{path}/placements", 409, **earlier)["detail"]
    placed = ask(client, "POST", f"{path}/placements", **earlier, replaces=True)
    assert placed["device"]["venue"] is None


def test_a_hub_that_takes_no_enrolments_makes_no_codes(engine: Engine) -> None:
    site = Site(engine)
    with engine.begin() as conn:
        site.tokens["op"] = new_token(conn, "op", "区", minutes(-1000), role=Role.OPERATOR)
    client = site.client(token="op")
    ask(client, "POST", "/devices", 503, name="二号", venue=str(public_id("礼堂")))
    ask(client, "POST", f"/devices/{public_id('一号')}/code", 503)
