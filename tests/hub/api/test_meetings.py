"""The API of meetings and statements: it keeps to its description and says what it refuses."""

from typing import Any

import pytest
from sqlalchemy import Engine, insert, select

from hub.auth.tokens import new_token
from hub.domain.terms import Role
from hub.store import schema as s
from hub.store.engine import reading
from tests.hub.api.test_api import checked
from tests.hub.site import Client, Site
from tests.hub.world import minutes, public_id

MEETINGS = "/api/v1/meetings"
OF_ONE = "/api/v1/meetings/{meeting}"
MEETING = f"{MEETINGS}/{public_id('会')}"
DECLARATIONS = f"{MEETING}/declarations"
LI, WANG, QIAN = (str(public_id(each)) for each in "李王钱")
NEW = {
    "organisation": str(public_id("甲")),
    "kind": "PARTY_LECTURE",
    "title": "五月党课",
    "venue": str(public_id("礼堂")),
    "starts_at": "2026-05-06T19:00:00+08:00",
    "ends_at": "2026-05-06T12:30:00.0019z",
}


@pytest.fixture
def site(engine: Engine) -> Site:
    found = Site(engine, now_ms=minutes(70))
    with engine.begin() as conn:
        for name, code, role in (
            ("副", "甲", Role.SECRETARY),
            ("监", "甲", Role.AUDITOR),
            ("技", "甲", Role.TECHNICIAN),
        ):
            found.tokens[name] = new_token(conn, name, code, minutes(-1000), role=role)
    return found


def attendances(site: Site) -> dict[str, str]:
    a, m = s.attendances.c, s.members.c
    with reading(site.engine) as conn:
        return {
            row.code: row.verdict
            for row in conn.execute(select(m.code, a.verdict).join(s.members, m.id == a.member_id))
        }


def state(site: Site, client: Client, **body: Any) -> list[Any]:
    response = client.post(DECLARATIONS, json=body)
    assert response.status_code == 200, response.text
    answer = checked(site, response, f"{OF_ONE}/declarations", "post")
    found: list[Any] = answer["items"]
    return found


def test_a_meeting_is_made_changed_and_called_off(site: Site) -> None:
    client = site.client(token="甲")
    response = client.post(MEETINGS, json=NEW)
    assert response.status_code == 201
    made = checked(site, response, MEETINGS, "post")
    assert made["code"] == "甲-20260506"
    assert made["starts_at"] == "2026-05-06T19:00:00.000+08:00"
    assert made["ends_at"] == "2026-05-06T20:30:00.001+08:00"
    assert made["opens_at"] == "2026-05-06T18:30:00.000+08:00"
    one = f"{MEETINGS}/{made['public_id']}"
    response = client.request("PATCH", one, json={"chair": "王", "grace_minutes": 5})
    changed = checked(site, response, OF_ONE, "patch")
    assert (changed["chair"], changed["grace_minutes"]) == ("王", 5)
    assert changed["title"] == "五月党课"
    response = client.post(f"{one}/cancel", json={"reason": "台风"})
    assert checked(site, response, f"{OF_ONE}/cancel", "post")["cancelled"] is True
    again = client.post(f"{one}/cancel", json={"reason": "台风"})
    assert again.status_code == 409
    assert checked(site, again, f"{OF_ONE}/cancel", "post") == {
        "detail": "The meeting is cancelled already."
    }
    response = client.post(f"{one}/restore", json={"reason": "转晴"})
    assert checked(site, response, f"{OF_ONE}/restore", "post")["cancelled"] is False


def test_organisations_take_part(site: Site) -> None:
    client = site.client(token="甲")
    response = client.request("PUT", f"{MEETING}/partners", json={"codes": ["乙"]})
    body = checked(site, response, f"{OF_ONE}/partners", "put")
    assert body["partners"] == []  # it is asked, and has not agreed
    assert site.client(token="乙").get(DECLARATIONS).status_code == 404
    yes = f"{MEETING}/partners/{public_id('乙')}"
    assert site.client(token="乙").post(yes, json={"agreed": True}).status_code == 204
    assert site.client(token="乙").get(DECLARATIONS).status_code == 200
    found = client.get(f"{MEETING}/attendance").json()["meeting"]["partners"]
    assert [each["code"] for each in found] == ["乙"]
    response = client.request("PUT", f"{MEETING}/partners", json={"codes": ["无"]})
    assert response.status_code == 409
    assert response.json()["detail"].startswith("partners: ")


@pytest.mark.parametrize(
    ("changes", "status", "named"),
    [
        ({"starts_at": "2026-05-06T19:00:00"}, 422, "starts_at"),
        ({"starts_at": 1_777_000_000}, 422, "starts_at"),
        ({"starts_at": "2026-02-30T19:00:00Z"}, 422, "starts_at"),
        ({"starts_at": "0001-01-01T00:00:00+14:00"}, 422, "starts_at"),
        ({"ends_at": "9999-12-31T23:59:59-14:00"}, 422, "ends_at"),
        ({"ends_at": NEW["starts_at"]}, 409, "ends"),
        ({"kind": "PARTY_GROUP"}, 409, "kind"),
        ({"kind": "党课"}, 422, "kind"),
        ({"venue": str(public_id("乙"))}, 409, "venue"),
        ({"title": "  "}, 409, "title"),
        ({"title": ""}, 422, "title"),
        ({"grace_minutes": 601}, 422, "grace_minutes"),
        ({"grace_minutes": "5"}, 422, "grace_minutes"),
        ({"more": 1}, 422, "more"),
        ({"organisation": str(public_id("乙"))}, 404, "sub-tree"),
    ],
)
def test_what_is_wrong_is_named(
    site: Site, changes: dict[str, Any], status: int, named: str
) -> None:
    response = site.client(token="甲").post(MEETINGS, json={**NEW, **changes})
    assert response.status_code == status, response.text
    assert named in checked(site, response, MEETINGS, "post")["detail"]
    with reading(site.engine) as conn:
        assert conn.scalars(select(s.meetings.c.code)).all() == ["会"]


def test_each_statement(site: Site) -> None:
    client = site.client(token="甲")
    [held] = state(site, client, kind="HELD")
    assert held["member"] is None
    assert state(site, client, kind="HELD")[0]["public_id"] == held["public_id"]
    [count] = state(site, client, kind="HEAD_COUNT", number=3)
    assert count["number"] == 3
    [seen] = state(site, client, kind="WITNESSED", member=LI)
    assert seen["member"]["name"] == "李名"
    [guest] = state(site, client, kind="WITNESSED", code="钱")
    assert guest["member"] == {"public_id": None, "code": None, "name": None}
    assert len(state(site, client, kind="SHEET", members=[LI, WANG], codes=["孙"])) == 3
    state(site, client, kind="SHEET_COMPLETE")
    assert attendances(site) == {
        "李": "PRESENT",
        "王": "PRESENT",
        "钱": "GUEST",
        "孙": "GUEST",
    }
    response = client.get(DECLARATIONS)
    items = checked(site, response, f"{OF_ONE}/declarations")["items"]
    assert [each["kind"] for each in items] == [
        "SHEET_COMPLETE",
        *3 * ["SHEET"],
        *2 * ["WITNESSED"],
        "HEAD_COUNT",
        "HELD",
    ]
    assert {each["author"] for each in items} == {"甲秘书"}
    path = f"/api/v1/declarations/{guest['public_id']}/withdrawal"
    described = "/api/v1/declarations/{declaration}/withdrawal"
    taken = checked(site, client.post(path), described, "post")
    assert (taken["kind"], taken["about"]) == ("WITHDRAWN", guest["public_id"])
    assert client.post(path).status_code == 409
    assert "钱" not in attendances(site)
    items = client.get(DECLARATIONS).json()["items"]
    assert [each["stands"] for each in items if each["public_id"] == guest["public_id"]] == [False]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"kind": "TAP_ASSIGNED"}, 422, ""),
        ({"kind": "HEAD_COUNT", "number": -1}, 422, "number"),
        ({"kind": "HEAD_COUNT", "number": True}, 422, "number"),
        ({"kind": "WITNESSED"}, 409, "code"),
        ({"kind": "WITNESSED", "code": "无"}, 409, "code"),
        ({"kind": "WITNESSED", "member": QIAN}, 404, ""),
        ({"kind": "SHEET_COMPLETE"}, 409, "complete"),
        ({"kind": "LEAVE_ASKED", "member": LI, "reason": "感冒"}, 422, "reason"),
        ({"kind": "LEAVE_ASKED", "member": QIAN, "reason": "WORK"}, 404, ""),
        ({"kind": "BACK_FILL_ASKED", "member": LI, "reason": " "}, 409, "reason"),
    ],
)
def test_what_cannot_be_stated(site: Site, body: dict[str, Any], status: int, named: str) -> None:
    response = site.client(token="甲").post(DECLARATIONS, json=body)
    assert response.status_code == status, response.text
    assert named in checked(site, response, f"{OF_ONE}/declarations", "post")["detail"]
    assert attendances(site) == {}


def test_asks_wait_for_another_person(site: Site) -> None:
    client, deputy = site.client(token="甲"), site.client(token="副")
    [leave] = state(site, client, kind="LEAVE_ASKED", member=LI, reason="ILLNESS")
    [fill] = state(site, client, kind="BACK_FILL_ASKED", member=WANG, reason="忘带卡")
    assert (leave["leave_reason"], fill["reason"]) == ("ILLNESS", "忘带卡")
    waiting = checked(site, client.get("/api/v1/asks?limit=1"), "/api/v1/asks")
    assert (waiting["total"], len(waiting["items"])) == (2, 1)
    assert waiting["items"][0]["public_id"] == leave["public_id"]
    assert site.client(token="乙").get("/api/v1/asks").json()["total"] == 0
    path = f"/api/v1/declarations/{fill['public_id']}/decision"
    described = "/api/v1/declarations/{declaration}/decision"
    response = client.post(path, json={"granted": True})
    assert response.status_code == 409
    assert "another person" in checked(site, response, described, "post")["detail"]
    answer = checked(site, deputy.post(path, json={"granted": True}), described, "post")
    assert (answer["kind"], answer["about"]) == ("BACK_FILL_GRANTED", fill["public_id"])
    path = f"/api/v1/declarations/{leave['public_id']}/decision"
    assert deputy.post(path, json={"granted": False}).json()["kind"] == "LEAVE_REFUSED"
    assert deputy.get("/api/v1/asks").json()["total"] == 0
    assert attendances(site) == {"王": "BACK_FILLED"}


def test_reasons_are_for_those_who_decide(site: Site) -> None:
    client = site.client(token="甲")
    state(site, client, kind="LEAVE_ASKED", member=LI, reason="ILLNESS")
    state(site, client, kind="BACK_FILL_ASKED", member=WANG, reason="忘带卡")
    response = site.client(token="监").get(DECLARATIONS)
    for each in checked(site, response, f"{OF_ONE}/declarations")["items"]:
        assert each["member"]["name"]
        assert each["leave_reason"] is None
        assert each["reason"] is None
        assert not each["may_withdraw"]
        assert not each["may_decide"]
    assert site.client(token="监").get("/api/v1/asks").status_code == 403
    assert site.client(token="技").get(DECLARATIONS).status_code == 403
    with site.engine.begin() as conn:
        conn.execute(
            insert(s.meeting_organisations).values(
                meeting_id=site.ids["会"], organisation_id=site.ids["乙"], agreed_ms=0
            )
        )
    # A partner is told nothing of another branch's people.
    assert site.client(token="乙").get(DECLARATIONS).json()["items"] == []
