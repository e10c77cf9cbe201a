"""Nobody takes part in another's meeting before their own side has agreed; and looks are kept."""

from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from hub.domain.terms import Role
from hub.statements import MAX_WRONG_CODES
from hub.store import schema as s
from hub.store.engine import reading
from tests.hub.site import Site
from tests.hub.world import minutes, public_id

MEETING = f"/meetings/{public_id('会')}"
API = f"/api/v1{MEETING}"
THEIRS = f"{MEETING}/partners/{public_id('乙')}"


@pytest.fixture
def site(engine: Engine) -> Site:
    return Site(engine)


def looks(site: Site) -> list[Any]:
    with reading(site.engine) as conn:
        return list(conn.execute(select(s.accesses).order_by(s.accesses.c.id)))


def audited(site: Site) -> list[str]:
    with reading(site.engine) as conn:
        return list(conn.scalars(select(s.audit.c.what).order_by(s.audit.c.id)))


def named(site: Site, token: str) -> set[str | None]:
    found = site.client(token=token).get(f"{API}/attendance").json()
    return {each["person"]["name"] for each in found["items"]}


def set_partners(site: Site, *codes: str, by: str = "甲") -> None:
    response = site.client(token=by).request("PUT", f"{API}/partners", json={"codes": list(codes)})
    assert response.status_code == 200


def test_the_host_is_shown_nobody_of_a_partner_that_has_not_agreed(site: Site) -> None:
    alone = named(site, "甲")
    set_partners(site, "乙")
    assert named(site, "甲") == alone
    secretary = site.client(token="甲")
    assert secretary.get(API).status_code in {404, 405}
    assert "钱名" not in site.signed_in("甲").get(MEETING).text
    assert [each["agreed"] for each in secretary.get(f"{API}/partners").json()["items"]] == [False]
    # Nor does the partner see the meeting, but for what it is asked.
    other = site.client(token="乙")
    assert other.get(f"{API}/attendance").status_code == 404
    assert site.signed_in("乙").get(MEETING).status_code == 404
    [asked] = other.get("/api/v1/invitations").json()["items"]
    assert (asked["title"], asked["organisation"]["code"]) == ("会题", "乙")
    page = site.signed_in("乙").get("/asks").text
    assert "请本支部参加的会议" in page
    assert "会题" in page
    assert "会题" not in site.signed_in("甲").get("/asks").text
    assert secretary.get("/api/v1/invitations").json()["total"] == 0


def test_whoever_asks_cannot_agree_for_another(site: Site) -> None:
    set_partners(site, "乙")
    for who in ("甲", "乙"):
        at = THEIRS if who == "甲" else f"{MEETING}/partners/{public_id('甲')}"
        assert site.signed_in(who).post(at, data={"agreed": "yes"}).status_code == 404
        response = site.client(token=who).post(f"/api/v1{at}", json={"agreed": True})
        assert response.status_code == 404
    assert "钱名" not in named(site, "甲")


@pytest.mark.parametrize("by_page", [True, False])
def test_a_partner_agrees_and_takes_part(site: Site, by_page: bool) -> None:
    set_partners(site, "乙")
    if by_page:
        client = site.signed_in("乙")
        assert client.post(THEIRS, data={"agreed": "perhaps"}).status_code == 404
        assert client.post(THEIRS, data={"agreed": "yes"}).status_code == 303
    else:
        client = site.client(token="乙")
        response = client.post(f"/api/v1{THEIRS}", json={"agreed": True})
        assert response.status_code == 204
    assert "钱名" in named(site, "甲")
    assert named(site, "乙") >= {"钱名", None}
    assert audited(site)[-1] == "meeting.agree"
    again = site.signed_in("乙").post(THEIRS, data={"agreed": "no"})
    assert again.status_code == 404
    assert "同意参加" in site.signed_in("甲").get(f"{MEETING}/statements").text


def test_a_partner_says_no_and_may_be_asked_again(site: Site) -> None:
    set_partners(site, "乙")
    assert site.signed_in("乙").post(THEIRS, data={"agreed": "no"}).status_code == 303
    assert "钱名" not in named(site, "甲")
    assert site.client(token="甲").get(f"{API}/partners").json()["items"] == []
    assert site.client(token="乙").get("/api/v1/invitations").json()["total"] == 0
    set_partners(site, "乙")
    assert site.client(token="乙").get("/api/v1/invitations").json()["total"] == 1


def test_saving_again_keeps_who_is_asked(site: Site) -> None:
    set_partners(site, "乙")
    client = site.signed_in("甲")
    page = client.get(f"{MEETING}/partners").text
    assert "等待对方同意" in page
    assert 'value="乙" checked' in page
    client.post(f"{MEETING}/partners", data={"code": "乙"})
    assert audited(site).count("meeting.partners") == 1
    # Whoever is above both agrees for it by setting the same.
    set_partners(site, "乙", by="区")
    assert "钱名" in named(site, "甲")


def test_a_cancelled_or_old_meeting_asks_nobody(site: Site) -> None:
    set_partners(site, "乙")
    other = site.client(token="乙")
    site.now_ms = minutes(60 * 24 * 100)
    assert other.get("/api/v1/invitations").json()["total"] == 0
    site.now_ms = minutes(-5)
    with site.engine.begin() as conn:
        conn.execute(update(s.meetings).values(cancelled=True))
    assert other.get("/api/v1/invitations").json()["total"] == 0
    assert site.signed_in("乙").post(THEIRS, data={"agreed": "yes"}).status_code == 404


def test_naming_in_an_answer_or_a_confirmation_is_a_look(site: Site) -> None:
    client = site.client(token="甲")
    site.now_ms = minutes(5)
    said = {"kind": "WITNESSED", "member": str(public_id("李"))}
    made = client.post(f"{API}/declarations", json=said).json()["items"][0]["public_id"]
    [look] = looks(site)
    assert (look.what, look.member_id, look.scope_id) == (
        "declaration.api",
        site.ids["李"],
        site.ids["甲"],
    )
    page = site.signed_in("甲").get(f"/declarations/{made}/withdraw")
    assert "李名" in page.text
    assert [each.what for each in looks(site)] == ["declaration.api", "declaration.page"]
    client.post(f"{API}/declarations", json={"kind": "HELD"})
    assert len(looks(site)) == 2


def test_who_is_a_secretary_too_does_not_take_back_the_answer_to_their_own_ask(site: Site) -> None:
    with site.engine.begin() as conn:
        site.account(conn, "李书记", "李书记", "甲", Role.SECRETARY, "李")
        asked = site.world(conn).declare("会", "LEAVE_ASKED", "李", at=-20, reason="WORK")
        site.world(conn).declare("会", "LEAVE_REFUSED", "李", about=asked, at=-10)
        d = s.declarations.c
        refusal = conn.scalar(select(d.public_id).where(d.about_id == asked))
    response = site.signed_in("李书记").post(f"/declarations/{refusal}/withdraw", data={})
    assert response.status_code == 303
    with reading(site.engine) as conn:
        assert "WITHDRAWN" not in set(conn.scalars(select(s.declarations.c.kind)))


@pytest.mark.parametrize(
    "path", ["meetings", f"organisations/{public_id('甲')}/attendance"], ids=["list", "sums"]
)
def test_a_period_has_an_end(site: Site, path: str) -> None:
    client = site.client(token="甲")
    asked = f"/api/v1/{path}?from=2026-01-01&to="
    assert client.get(f"{asked}2027-02-04").status_code == 200
    response = client.get(f"{asked}2027-02-05")
    assert response.status_code == 422
    assert "400" in response.json()["detail"]
    page = site.signed_in("甲").get("/?from=2000-01-01&to=2199-12-31")
    assert page.status_code == 422
    assert "一次最多查400天" in page.text


def test_a_guest_who_objects_is_a_branch_to_the_host(site: Site) -> None:
    site.tap("钱", minutes(-6))
    site.now_ms = minutes(10)
    with site.engine.begin() as conn:
        site.world(conn).declare("会", "OBJECTION", "钱", at=5, reason="不对")
        card = conn.scalar(
            select(s.credentials.c.value)
            .join(s.bindings, s.bindings.c.card_id == s.credentials.c.card_id)
            .where(s.bindings.c.member_id == site.ids["钱"])
        )
    client = site.client(token="甲")
    [found] = client.get("/api/v1/objections").json()["items"]
    assert found["member"]["name"] is None
    assert found["member"]["branch"] == "乙名"
    one = f"/objections/{found['objection']['public_id']}"
    pages = [
        client.get(f"/api/v1{one}").text,
        site.signed_in("甲").get("/objections").text,
        site.signed_in("甲").get(one).text,
    ]
    for each in pages:
        assert "乙名" in each
        assert "钱名" not in each
        assert str(public_id("钱")) not in each
        assert card[-4:] not in each
    assert "钱名" in site.client(token="区").get(f"/api/v1{one}").text


def test_codes_are_not_for_finding_out_who_exists(site: Site) -> None:
    client = site.client(token="甲")
    site.now_ms = minutes(5)

    def ask(code: str) -> str:
        said = {"kind": "WITNESSED", "code": code}
        response = client.post(f"{API}/declarations", json=said)
        return str(response.json().get("detail", response.status_code))

    for each in range(MAX_WRONG_CODES - 2):
        assert "unknown" not in ask(f"x{each}")
    pages = site.signed_in("甲")
    for each in range(2):
        assert "没有编号" in pages.post(f"{MEETING}/desk/witness", data={"code": f"y{each}"}).text
        # Those of a session are counted by themselves.
        ask(f"z{each}")
    assert "Too many unknown codes" in ask("钱")
    assert audited(site).count("declaration.wrong_code") == MAX_WRONG_CODES + 2
    assert pages.post(f"{MEETING}/desk/witness", data={"code": "钱"}).status_code == 303
    site.now_ms += 24 * 3600 * 1000
    assert "Too many" not in ask("钱")
