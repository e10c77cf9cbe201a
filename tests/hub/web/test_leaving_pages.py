"""Leaving the fleet by page and by API: who may, what is said first, and what is refused."""

import re
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from hub.auth.tokens import new_token
from hub.context import Joining
from hub.domain.terms import Role
from hub.store import schema as s
from hub.web.leaving import FOLLOWS
from tests.hub.site import Client, Site
from tests.hub.world import minutes, public_id

PATH = f"/devices/{public_id('一号')}"
ACTS = tuple(FOLLOWS)
TRUST = {"compromise", "admit"}


@pytest.fixture
def site(engine: Engine) -> Site:
    site = Site(engine, now_ms=minutes(90), joining=Joining(bytes(10), "mqtt://h"))
    with engine.begin() as conn:
        site.account(conn, "op", "管理员", "区", Role.OPERATOR)
        site.account(conn, "tech", "技术员", "区", Role.TECHNICIAN)
        for role in (Role.OPERATOR, Role.TECHNICIAN):
            site.tokens[role.value] = new_token(conn, role.value, "区", minutes(-1000), role=role)
        conn.execute(update(s.devices).where(s.devices.c.name == "一号").values(sign_key=bytes(32)))
    site.tap("李", minutes(3))
    return site


def device(site: Site) -> Any:
    with site.engine.connect() as conn:
        return conn.execute(
            select(s.devices).where(s.devices.c.public_id == public_id("一号"))
        ).one()


def came(site: Site) -> int:
    with site.engine.connect() as conn:
        return len(conn.execute(select(s.attendances)).all())


@pytest.mark.parametrize("act", ACTS)
def test_each_page_says_what_follows_and_wants_a_reason(act: str, site: Site) -> None:
    operator = site.signed_in("op")
    page = operator.get(f"{PATH}/{act}").text
    for words in FOLLOWS[act]:
        assert str(words) in page
    assert f'action="{PATH}/{act}"' in page
    answer = operator.post(
        f"{PATH}/{act}",
        data={"name": "别名", "other": "LOST", "day": "2026-04-24", "time": "10:00"},
    )
    assert answer.status_code == 422
    assert "从哪天起" in answer.text or "请写明原因" in answer.text
    assert (device(site).status, device(site).retiring_ms) == ("ACTIVE", None)


@pytest.mark.parametrize("act", ACTS)
def test_what_is_believed_is_an_operators_to_say(act: str, site: Site) -> None:
    for login in ("tech", "区"):
        who = site.signed_in(login)
        may = login == "tech" and act not in TRUST
        assert who.get(f"{PATH}/{act}").status_code == (200 if may else 403)
        assert who.post(f"{PATH}/{act}", data={}).status_code == (422 if may else 403)
    home = site.signed_in("tech").get(PATH).text
    assert f"{PATH}/retire" in home
    assert f"{PATH}/compromise" not in home


def test_a_device_is_retired_given_up_and_enrolled_again_on_the_pages(site: Site) -> None:
    tech = site.signed_in("tech")
    assert tech.post(f"{PATH}/retire", data={"reason": "改建"}).status_code == 303
    assert device(site).retiring_ms == minutes(90)
    home = tech.get(PATH).text
    assert "正在退役" in home
    assert "通知退役" in home
    assert f"{PATH}/retire" not in home
    assert tech.post(f"{PATH}/gone", data={"reason": "找不到"}).status_code == 303
    assert device(site).status == "RETIRED"
    answer = tech.post(f"{PATH}/renew", data={"reason": "换新"})
    assert answer.status_code == 200
    assert "一号" in answer.text
    assert device(site).name == "一号（旧1）"
    assert came(site) == 1
    assert tech.post(f"{PATH}/renew", data={"reason": "换新"}).status_code == 422
    log = site.signed_in("op").get("/log").text
    for words in ("设备：退役", "设备：遗失退役", "设备：重新登记"):
        assert words in log


def test_compromise_and_admission_on_the_pages(site: Site) -> None:
    operator = site.signed_in("op")
    data = {"day": "2026-04-20", "time": "00:00", "reason": "丢了钥匙"}
    assert (
        operator.post(f"{PATH}/compromise", data={**data, "day": "2199-01-01"}).status_code == 422
    )
    assert operator.post(f"{PATH}/compromise", data={**data, "day": "x"}).status_code == 422
    assert came(site) == 1
    assert operator.post(f"{PATH}/compromise", data=data).status_code == 303
    assert came(site) == 0
    home = operator.get(PATH).text
    assert "失密" in home
    assert "有1条记录等待核准" in home
    form = operator.get(f"{PATH}/admit").text
    fields = dict(re.findall(r'name="(day|time|to_day|to_time)" type="\w+" value="([^"]*)"', form))
    assert len(fields) == 4
    assert operator.post(f"{PATH}/admit", data={**fields, "reason": "核对过"}).status_code == 303
    assert came(site) == 1
    again = operator.post(f"{PATH}/admit", data={**fields, "reason": "核对过"})
    assert again.status_code == 422
    assert "没有等待核准" in again.text


def ask(client: Client, path: str, status: int = 200, method: str = "POST", **body: Any) -> Any:
    response = client.request(method, f"/api/v1{path}", json=body)
    assert response.status_code == status, response.text
    return response.json()


def test_the_same_by_the_api(site: Site) -> None:
    operator, tech = (site.client(token=role) for role in ("OPERATOR", "TECHNICIAN"))
    ask(tech, f"{PATH}/retirement", 422)
    ask(tech, f"{PATH}/retirement", 409, reason=" ")
    found = ask(tech, f"{PATH}/retirement", reason="改建")["device"]["leaving"]
    assert found["retiring_since"] is not None
    assert found["left_at"] is None
    since = "2026-04-20T00:00:00+08:00"
    ask(tech, f"{PATH}/compromise", 403, reason="x", since=since)
    ask(tech, f"{PATH}/admissions", 403, reason="x", since=since, until=since)
    ask(operator, f"{PATH}/admissions", 409, reason="x", since=since, until=since)
    found = ask(operator, f"{PATH}/compromise", reason="x", since=since)["device"]
    assert found["status"] == "COMPROMISED"
    assert found["leaving"]["waiting"]["entries"] == 1
    assert came(site) == 0
    until = "2199-01-01T00:00:00+08:00"  # means: until now
    found = ask(operator, f"{PATH}/admissions", reason="x", since=since, until=until)["device"]
    assert found["leaving"]["waiting"] is None
    assert came(site) == 1
    ask(operator, f"{PATH}/admissions", 409, reason="x", since=since, until=until)
    ask(operator, f"{PATH}/retirement", 409, reason="x", gone=True)
    ask(tech, f"{PATH}/settlement", 409, reason="x", other="LOST")
    ask(tech, f"{PATH}/settlement", 422, reason="x", other="WHAT")
    assert (
        ask(tech, f"{PATH}/name", method="PUT", reason="x", name="大门")["device"]["name"] == "大门"
    )
    code = ask(tech, f"{PATH}/renewal", 201, reason="x")
    assert code["name"] == "大门"
    assert code["device"] != str(public_id("一号"))
    elsewhere = site.client(token="乙")
    ask(elsewhere, f"{PATH}/retirement", 403, reason="x")
