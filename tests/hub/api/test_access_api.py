"""The API of accounts, sessions, tokens and the two logs: the same rules as the pages."""

import json
from typing import Any

import pytest
from sqlalchemy import Engine, select

from hub.auth.accounts import sign_in
from hub.auth.tokens import new_token
from hub.domain.terms import Role
from hub.store import schema as s
from hub.store.engine import reading
from tests.hub.site import Client, Site
from tests.hub.world import minutes, public_id

BRANCH = str(public_id("甲"))
API = "/api/v1"


@pytest.fixture
def site(engine: Engine) -> Site:
    site = Site(engine)
    with engine.begin() as conn:
        for branch in ("区", "甲", "乙"):
            site.tokens[f"{branch}管"] = new_token(
                conn, f"{branch}管", branch, minutes(-1000), role=Role.OPERATOR
            )
    return site


@pytest.fixture
def operator(site: Site) -> Client:
    return site.client(token="甲管")


def new(**more: Any) -> dict[str, Any]:
    return {"login": "Neu", "name": "新人", "role": "AUDITOR", "organisation": BRANCH} | more


def test_an_account_from_its_making_to_its_end(site: Site, operator: Client) -> None:
    made = operator.post(f"{API}/accounts", json=new(member=str(public_id("李"))))
    assert made.status_code == 201
    account, password = made.json()["account"], made.json()["first_password"]
    assert account == {
        "public_id": account["public_id"],
        "login": "neu",
        "name": "新人",
        "role": "AUDITOR",
        "organisation": {"public_id": BRANCH, "code": "甲", "name": "甲名"},
        "member": {"public_id": str(public_id("李")), "name": "李名"},
        "must_change": True,
        "locked_until": None,
        "created_at": account["created_at"],
        "disabled_at": None,
    }
    assert sign_in(site.engine, "neu", password, site.now_ms).must_change
    path = f"{API}/accounts/{account['public_id']}"
    assert operator.get(path).json() == account
    assert password not in operator.get(f"{API}/accounts").text
    second = operator.post(f"{path}/reset").json()["first_password"]
    assert second != password
    ended = operator.post(f"{path}/disable").json()
    assert ended["disabled_at"] is not None
    assert operator.post(f"{path}/disable").json() == ended, "again: no change"
    active = operator.get(f"{API}/accounts?state=active").json()["items"]
    assert account["public_id"] not in {each["public_id"] for each in active}
    assert operator.post(f"{path}/enable").json()["disabled_at"] is None
    sign_in(site.engine, "neu", second, site.now_ms)
    told = operator.get(f"{API}/audit?area=account").json()
    assert [each["what"] for each in told["items"]] == [
        "account.enable",
        "account.disable",
        "account.reset_password",
        "account.create",
    ]
    assert told["total"] == 4
    assert {each["actor"] for each in told["items"]} == {"甲管"}
    assert "neu" not in str(told["items"]), "a name could never be erased again"
    assert password not in str(told)


@pytest.mark.parametrize(
    ("more", "status", "words"),
    [
        ({"login": "甲"}, 409, "login: This login is taken"),
        ({"login": "a b"}, 409, "login: "),
        ({"name": " "}, 409, "name: "),
        ({"role": "MEMBER"}, 409, "member: "),
        ({"role": "SECRETARY"}, 409, "member: Say"),
        ({"role": "OPERATOR"}, 409, "member: Say"),
        ({"role": "SECRETARY", "no_member": True, "member": str(public_id("李"))}, 409, "member: "),
        ({"role": "EMPEROR"}, 422, "role"),
        ({"login": ""}, 422, "login"),
        ({"login": "x" * 65}, 422, "login"),
        ({"password": "mine"}, 422, "password"),
        ({"organisation": str(public_id("乙"))}, 404, "sub-tree"),
        ({"member": str(public_id("钱"))}, 404, "sub-tree"),
        ({"member": "钱"}, 422, "member"),
        ({"login": "a\x00b"}, 409, "login: "),
        ({"name": "\ud800"}, 422, ""),
    ],
)
def test_what_is_refused_is_named_and_nothing_made(
    site: Site, operator: Client, more: dict[str, Any], status: int, words: str
) -> None:
    content = json.dumps(new(**more))
    headers = {"Content-Type": "application/json"}
    response = operator.post(f"{API}/accounts", content=content, headers=headers)
    assert response.status_code == status, response.text
    assert words in response.json()["detail"]
    with reading(site.engine) as conn:
        assert len(conn.execute(select(s.accounts)).all()) == 3
        assert conn.execute(select(s.audit)).all() == []


def test_a_branchs_accounts(site: Site, operator: Client) -> None:
    path = f"{API}/organisations/{BRANCH}/member-accounts"
    made = operator.post(path)
    assert made.status_code == 201
    assert made.json()["remaining"] == 0
    assert [each["account"]["login"] for each in made.json()["items"]] == ["李", "王", "赵"]
    assert operator.post(path).json() == {"items": [], "remaining": 0}


def test_sessions(site: Site, operator: Client) -> None:
    secretary, other = site.signed_in("甲"), site.signed_in("乙")
    told = operator.get(f"{API}/sessions").json()
    assert told["total"] == 1
    [session] = told["items"]
    assert session["login"] == "甲"
    of_account = operator.get(f"{API}/sessions?account={session['account']}").json()
    assert of_account["items"] == told["items"]
    response = operator.post(f"{API}/sessions/{session['public_id']}/end")
    assert (response.status_code, response.text) == (204, "")
    assert operator.post(f"{API}/sessions/{session['public_id']}/end").status_code == 404
    assert secretary.get("/").status_code == 303
    assert other.get("/").status_code == 200


def test_a_token_from_its_making_to_its_end(site: Site, operator: Client) -> None:
    wanted = {
        "name": "统计",
        "role": "AUDITOR",
        "organisation": BRANCH,
        "expires_at": "2027-01-01T00:00:00+08:00",
    }
    made = operator.post(f"{API}/tokens", json=wanted)
    assert made.status_code == 201
    token, secret = made.json()["token"], made.json()["secret"]
    assert token["expires_at"] == "2027-01-01T00:00:00.000+08:00"
    headers = {"Authorization": f"Bearer {secret}"}
    assert site.client().get(f"{API}/meetings", headers=headers).status_code == 200
    path = f"{API}/tokens/{token['public_id']}"
    assert operator.get(path).json() == token
    listed = operator.get(f"{API}/tokens")
    assert token in listed.json()["items"]
    assert secret not in listed.text
    assert operator.post(f"{API}/tokens", json=wanted).status_code == 409
    assert operator.post(f"{path}/revoke").json()["revoked_at"] is not None
    assert site.client().get(f"{API}/meetings", headers=headers).status_code == 401
    for more in ({"expires_at": "soon"}, {"expires_at": "2027-01-01"}, {"expires_at": 5}):
        assert operator.post(f"{API}/tokens", json=wanted | more).status_code == 422
    late = operator.post(f"{API}/tokens", json=wanted | {"expires_at": "2020-01-01T00:00:00Z"})
    assert late.status_code == 409
    assert late.json()["detail"].startswith("expires: ")


def test_a_members_token_is_made_by_nobody_else(site: Site, operator: Client) -> None:
    wanted = {"name": "x", "role": "MEMBER", "organisation": BRANCH}
    assert operator.post(f"{API}/tokens", json=wanted).status_code == 409
    wanted["member"] = str(public_id("李"))
    assert operator.post(f"{API}/tokens", json=wanted).status_code == 422
    with reading(site.engine) as conn:
        assert conn.scalars(select(s.tokens.c.id).filter_by(name="x")).all() == []


def test_a_token_ends_within_a_year(site: Site, operator: Client) -> None:
    wanted = {"name": "x", "role": "AUDITOR", "organisation": BRANCH}
    late = operator.post(f"{API}/tokens", json=wanted | {"expires_at": "2190-01-01T00:00:00Z"})
    assert late.status_code == 409
    assert late.json()["detail"].startswith("expires: ")
    assert operator.post(f"{API}/tokens", json=wanted).json()["token"]["expires_at"] is not None


def test_whose_accounts_there_are_is_looked_at(site: Site, operator: Client) -> None:
    def looks() -> list[tuple[str, int | None]]:
        with reading(site.engine) as conn:
            x = s.accesses.c
            return [
                tuple(each) for each in conn.execute(select(x.what, x.member_id).order_by(x.id))
            ]

    made = operator.post(f"{API}/accounts", json=new(role="SECRETARY", member=str(public_id("李"))))
    account, li = made.json()["account"]["public_id"], site.ids["李"]
    assert looks() == [("account.create", li)]
    operator.get(f"{API}/accounts/{account}")
    assert looks()[1:] == [("account.api", li)]
    operator.get(f"{API}/accounts")
    assert looks()[2:] == [("accounts.api", None)]
    operator.post(f"{API}/accounts/{account}/reset")
    assert looks()[3:] == [("account.reset", li)]
    assert "李名" in operator.get(f"{API}/accesses").text
    assert looks()[4:] == [("log.api", None)]


def test_lists_have_pages(site: Site, operator: Client) -> None:
    for number in range(3):
        assert operator.post(f"{API}/accounts", json=new(login=f"n{number}")).status_code == 201
    for path, count in (("accounts", 4), ("tokens", 2), ("audit", 3)):
        first = operator.get(f"{API}/{path}?limit=1").json()
        rest = operator.get(f"{API}/{path}?limit=100&offset=1").json()
        assert first["total"] == rest["total"] == count
        assert len(first["items"]) == 1
        assert len(rest["items"]) == count - 1
        assert first["items"][0] not in rest["items"]
        assert operator.get(f"{API}/{path}?nonsense=1").status_code == 422


def test_who_looked(site: Site, operator: Client) -> None:
    site.client(token="区").get(f"{API}/meetings/{public_id('会')}/attendance")
    site.client(token="乙").get(f"{API}/members/{public_id('钱')}/attendance")
    told = operator.get(f"{API}/accesses").json()
    [look] = told["items"]
    assert (look["actor"], look["role"], look["what"]) == ("区秘书", "SECRETARY", "meeting.api")
    assert look["meeting"] == {"public_id": str(public_id("会")), "name": "会题"}
    assert look["token"] is not None
    assert look["account"] is None
    assert site.client(token="区管").get(f"{API}/accesses").json()["total"] == 2
    assert site.client(token="甲").get(f"{API}/accesses").status_code == 403
    assert operator.get(f"{API}/accesses?actor=%00").status_code == 422
    assert operator.get(f"{API}/accesses?actor=%25").json()["total"] == 0
    nobody = f"{API}/audit?account={public_id('nobody')}"
    assert operator.get(nobody).status_code == 404
