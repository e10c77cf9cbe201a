"""The pages of accounts, sessions, tokens and logs, as people use them."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

import hub
from hub import audit
from hub.domain.terms import DeclarationKind, Role
from hub.store import schema as s
from hub.store.engine import reading
from hub.web.accounts import browser_words
from hub.web.deeds import AREAS, DEEDS, MANY, what_words
from tests.hub.site import Client, Site
from tests.hub.web.test_pages import visible
from tests.hub.world import public_id

LI = str(public_id("李"))


@pytest.fixture
def site(engine: Engine) -> Site:
    site = Site(engine)
    with engine.begin() as conn:
        for branch in ("区", "甲", "乙"):
            site.account(conn, f"{branch}管", f"{branch}管理", branch, Role.OPERATOR)
    return site


@pytest.fixture
def operator(site: Site) -> Client:
    return site.signed_in("甲管")


def form(**more: str) -> dict[str, str]:
    values = {"login": "neu", "name": "新人", "role": "SECRETARY"}
    values |= {"organisation": str(public_id("甲"))} | more
    if values["role"] == "SECRETARY" and "whose" not in values:
        values["no_member"] = "yes"
    return values


def told(html: str) -> str:
    """The first password that a page tells."""
    [found] = re.findall(r">((?:[a-z2-9]{4}-){3}[a-z2-9]{4})<", html)
    return str(found)


def address(site: Site, login: str) -> str:
    with reading(site.engine) as conn:
        found = conn.scalars(select(s.accounts.c.public_id).filter_by(login=login)).one()
    return f"/accounts/{found}"


def replace_first(site: Site, login: str, password: str) -> Client:
    client = site.client()
    signed = client.post("/sign-in", data={"login": login, "password": password})
    assert signed.status_code == 303
    assert client.get("/").headers["location"] == "/password"
    new = {"old": password, "new": "my own password", "again": "my own password"}
    assert client.post("/password", data=new).headers["location"] == "/"
    return client


def test_an_account_is_made_its_password_told_once_and_replaced(
    site: Site, operator: Client
) -> None:
    assert "支部书记：建会" in visible(operator.get("/accounts/new").text)
    response = operator.post("/accounts/new", data=form())
    assert response.status_code == 200
    password = told(response.text)
    for path in ("/accounts", address(site, "neu"), "/log"):
        page = operator.get(path)
        assert page.status_code == 200
        assert password not in page.text
    again = operator.post("/accounts/new", data=form())
    assert again.status_code == 422, "sent again, the form makes no second account"
    assert "已有人使用" in again.text
    assert replace_first(site, "neu", password).get("/").status_code == 200


def test_a_members_account_begins_at_the_member(site: Site, operator: Client) -> None:
    page = operator.get(f"/accounts/new?member={LI}").text
    assert re.search(r'name="whose"[^>]* value="李"', page)
    assert re.search(r'value="MEMBER" checked', page)
    made = operator.post("/accounts/new", data=form(role="MEMBER", whose="李"))
    client = replace_first(site, "neu", told(made.text))
    assert client.get("/").headers["location"] == "/me"
    assert client.get("/accounts").status_code == 403


def test_namesakes_are_chosen_from(site: Site, operator: Client) -> None:
    with site.engine.begin() as conn:
        conn.execute(update(s.members).where(s.members.c.code != "李").values(name="王芳"))
    unclear = operator.post("/accounts/new", data=form(role="MEMBER", whose="王芳"))
    assert unclear.status_code == 422
    assert "有2人符合" in unclear.text
    assert str(public_id("钱")) not in unclear.text, "of another branch"
    chosen = form(role="MEMBER", whose="王芳", member=str(public_id("赵")))
    assert operator.post("/accounts/new", data=chosen).status_code == 200
    with reading(site.engine) as conn:
        found = conn.scalars(select(s.accounts.c.member_id).filter_by(login="neu")).one()
    assert found == site.ids["赵"]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"login": ""}, "请填写登录名"),
        ({"login": "a b"}, "不含空格"),
        ({"login": "甲"}, "已有人使用"),
        ({"name": ""}, "姓名应为"),
        ({"role": ""}, "请选择角色"),
        ({"role": "EMPEROR"}, "请选择角色"),
        ({"role": "MEMBER"}, "必须对应一名党员"),
        ({"whose": "", "role": "SECRETARY"}, "请填写对应哪名党员"),
        ({"whose": "", "role": "OPERATOR"}, "请填写对应哪名党员"),
        ({"whose": "李", "no_member": "yes"}, "请不要再勾选"),
        ({"whose": "没有这人"}, "没有找到这名党员"),
        ({"whose": "钱"}, "没有找到这名党员"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_made(
    site: Site, operator: Client, more: dict[str, str], complaint: str
) -> None:
    response = operator.post("/accounts/new", data=form(**more))
    assert response.status_code == 422
    assert complaint in response.text
    with reading(site.engine) as conn:
        assert len(conn.execute(select(s.accounts)).all()) == 6


@pytest.mark.parametrize("organisation", [str(public_id("乙")), str(public_id("x")), "x", ""])
def test_an_organisation_of_others_is_404(site: Site, operator: Client, organisation: str) -> None:
    for path, more in (("/accounts/new", {}), ("/tokens/new", {"name": "x", "role": "AUDITOR"})):
        data = form(**more) | {"organisation": organisation}
        assert operator.post(path, data=data).status_code == 404
    response = operator.post("/accounts/branch", data={"organisation": organisation})
    assert response.status_code == (303 if organisation == "" else 404)


def test_a_branch_gets_its_accounts_on_slips(site: Site, operator: Client) -> None:
    branch = str(public_id("甲"))
    page = visible(operator.get(f"/accounts/branch?organisation={branch}").text)
    assert "还没有账号的党员：3人" in page
    made = operator.post("/accounts/branch", data={"organisation": branch})
    passwords = re.findall(r">((?:[a-z2-9]{4}-){3}[a-z2-9]{4})<", made.text)
    assert len(set(passwords)) == 3
    for name in ("李名", "王名", "赵名"):
        assert name in made.text
    assert "http://hub.test" in made.text
    again = operator.post("/accounts/branch", data={"organisation": branch})
    assert again.status_code == 303
    with reading(site.engine) as conn:
        found = conn.scalars(select(s.accounts.c.login).filter_by(role="MEMBER")).all()
    assert sorted(found) == ["李", "王", "赵"]


def test_a_reset_asks_first_and_signs_out(site: Site, operator: Client) -> None:
    secretary = site.signed_in("甲")
    path = address(site, "甲")
    assert "马上作废" in operator.get(f"{path}/reset").text
    assert secretary.get("/").status_code == 200
    password = told(operator.post(f"{path}/reset").text)
    assert secretary.get("/").status_code == 303
    replace_first(site, "甲", password)


def test_disabled_and_enabled(site: Site, operator: Client) -> None:
    secretary, path = site.signed_in("甲"), address(site, "甲")
    assert operator.get(f"{path}/disable").status_code == 200
    assert operator.post(f"{path}/disable").headers["location"] == path
    assert secretary.get("/").status_code == 303
    assert "已停用" in operator.get(path).text
    assert "甲秘书" not in visible(operator.get("/accounts").text)
    assert "甲秘书" in visible(operator.get("/accounts?state=disabled").text)
    assert operator.post(f"{path}/enable").status_code == 303
    assert site.signed_in("甲").get("/").status_code == 200


def test_ones_own_account_cannot_be_taken_away(site: Site, operator: Client) -> None:
    path = address(site, "甲管")
    for deed in ("disable", "reset"):
        response = operator.post(f"{path}/{deed}")
        assert response.status_code == 303
        assert operator.get(path).status_code == 200
    page = operator.get(path).text
    assert f"{path}/disable" not in page


def test_sessions_are_seen_and_ended(site: Site, operator: Client) -> None:
    agent = "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/126.0 Mobile Safari/537.36"
    phone = site.client()
    phone.post(
        "/sign-in",
        data={"login": "甲", "password": "correct horse battery"},
        headers={"User-Agent": agent},
    )
    here = site.signed_in("甲")
    page = here.get("/sessions").text
    assert "Chrome · 安卓手机" in visible(page)
    assert visible(page).count("就是这里") == 1
    with reading(site.engine) as conn:
        [session] = conn.scalars(
            select(s.sessions.c.public_id).where(s.sessions.c.browser == agent)
        ).all()
    assert site.signed_in("乙管").post(f"/sessions/{session}/end").status_code == 404
    assert phone.get("/").status_code == 200
    assert here.post(f"/sessions/{session}/end").headers["location"] == "/sessions"
    assert phone.get("/").status_code == 303
    assert here.get("/").status_code == 200
    path = address(site, "甲")
    assert operator.post(f"{path}/sign-out").headers["location"] == path
    assert here.get("/").status_code == 303
    own = address(site, "甲管")
    other = site.signed_in("甲管")
    operator.post(f"{own}/sign-out")
    assert operator.get("/").status_code == 200, "but for the one that asks"
    assert other.get("/").status_code == 303


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/126 Safari/537 Edg/126", "Edge · Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17) Safari MicroMessenger/8.0", "微信 · iPhone"),
        ("Mozilla/5.0 (X11; Linux x86_64) Firefox/128.0", "Firefox · Linux"),
        ("curl/8", "curl/8"),
        ("", "未知浏览器"),
    ],
)
def test_browsers_in_words(agent: str, words: str) -> None:
    assert browser_words(agent) == words


def test_a_token_is_shown_once_works_and_ends(site: Site, operator: Client) -> None:
    values = {"name": "统计", "role": "AUDITOR", "organisation": str(public_id("甲"))}
    made = operator.post("/tokens/new", data=values | {"until": "2026-12-31"})
    [token] = set(re.findall(r"shk_[\w-]{43}", made.text))
    assert token not in operator.get("/tokens").text
    headers = {"Authorization": f"Bearer {token}"}
    assert site.client().get("/api/v1/meetings", headers=headers).status_code == 200
    assert operator.post("/tokens/new", data=values).status_code == 422
    with reading(site.engine) as conn:
        row = conn.execute(select(s.tokens).filter_by(name="统计")).one()
    assert row.expires_ms == 1_798_732_800_000, "2027-01-01 00:00 in Shanghai"
    assert operator.get(f"/tokens/{row.public_id}/revoke").status_code == 200
    assert operator.post(f"/tokens/{row.public_id}/revoke").headers["location"] == "/tokens"
    assert site.client().get("/api/v1/meetings", headers=headers).status_code == 401
    assert "已作废" in operator.get("/tokens").text


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"name": ""}, "名称应为"),
        ({"role": "MEMBER"}, "请选择角色"),
        ({"until": "soon"}, "没有看懂"),
        ({"until": "2020-01-01"}, "已经过去"),
        ({"until": "2190-01-01"}, "最长用一年"),
    ],
)
def test_a_token_that_will_not_do(operator: Client, more: dict[str, str], complaint: str) -> None:
    values = {"name": "x", "role": "AUDITOR", "organisation": str(public_id("甲"))} | more
    response = operator.post("/tokens/new", data=values)
    assert response.status_code == 422
    assert complaint in response.text
    assert "shk_" not in response.text


def test_the_logs_tell_who_did_what_and_who_looked(site: Site, operator: Client) -> None:
    operator.post("/accounts/new", data=form())
    site.signed_in("区").get(f"/meetings/{public_id('会')}")
    site.signed_in("乙管").post(
        "/accounts/new", data=form(login="z") | {"organisation": str(public_id("乙"))}
    )
    log = visible(operator.get("/log").text)
    assert "甲管理 管理员 账号：建立" in log
    assert "角色：支部书记" in log
    assert "neu" not in log
    assert "乙管理" not in log
    assert "乙管理" in visible(site.signed_in("区管").get("/log").text)
    looks = visible(operator.get("/log/looks").text)
    assert "区秘书 支部书记 会议：查看页面 会题" in looks
    for query, found in (
        ("person=%E7%94%B2%E7%AE%A1", True),
        ("person=nobody", False),
        ("person=%00%25", False),
        ("area=account", True),
        ("area=token", False),
        ("from=2020-01-01&to=2020-02-01", False),
        ("page=2", False),
    ):
        page = visible(operator.get(f"/log?{query}").text)
        assert ("账号：建立" in page) is found, query
    for query in ("from=x", "from=2026-02-01&to=2026-01-01"):
        assert operator.get(f"/log?{query}").status_code == 422
    assert site.signed_in("甲").get("/log").status_code == 403


def test_a_look_at_a_member_is_in_the_log_of_who_is_there(site: Site, operator: Client) -> None:
    site.signed_in("区").get(f"/members/{LI}")
    looks = visible(operator.get("/log/looks?area=member").text)
    assert "区秘书" in looks
    assert "李名" in looks
    assert "李名" not in visible(site.signed_in("乙管").get("/log/looks").text)


def own_looks(site: Site, login: str) -> str:
    return visible(site.signed_in(login).get("/me/access").text)


@pytest.fixture
def li(site: Site) -> Site:
    """李 has an account, and 周 of the other branch one by the old branch's operator."""
    with site.engine.begin() as conn:
        site.account(conn, "li", "李名", "甲", Role.MEMBER, "李")
    return site


def test_a_member_is_told_who_got_the_means_to_read_their_file(li: Site, operator: Client) -> None:
    operator.post("/accounts/new", data=form(whose="李"))
    assert "甲管理（甲名 管理员）" in own_looks(li, "li")
    assert "为您建立了账号，并拿到了初始密码" in own_looks(li, "li")
    operator.post(f"{address(li, 'neu')}/reset")
    assert "重设了您账号的密码，并拿到了初始密码" in own_looks(li, "li")
    operator.get(address(li, "neu"))
    assert "查看了您的账号" in own_looks(li, "li")


def test_a_member_has_one_account_of_their_own(li: Site, operator: Client) -> None:
    second = form(role="MEMBER", whose="李")
    refused = operator.post("/accounts/new", data=second)
    assert refused.status_code == 422
    assert "已有在用的党员账号" in refused.text
    operator.post(f"{address(li, 'li')}/disable")
    assert operator.post("/accounts/new", data=second).status_code == 200
    path = address(li, "li")
    assert operator.post(f"{path}/enable").headers["location"] == path
    assert "已停用" in operator.get(path).text, "it would be the second one"


def test_who_went_to_another_branch_is_no_longer_in_the_old_ones_hands(
    li: Site, operator: Client
) -> None:
    p = s.memberships.c
    with li.engine.begin() as conn:
        conn.execute(
            update(s.memberships)
            .where(p.member_id == li.ids["李"])
            .values(organisation_id=li.ids["乙"])
        )
    member, path = li.signed_in("li"), address(li, "li")
    for deed in ("reset", "disable"):
        assert operator.post(f"{path}/{deed}").headers["location"] == path
        assert member.get("/me").status_code == 200
    assert "现在属于别的组织" in visible(operator.get(path).text)
    assert told(li.signed_in("区管").post(f"{path}/reset").text), "whoever is above both can"
    with li.engine.begin() as conn:
        conn.execute(
            update(s.memberships)
            .where(p.member_id == li.ids["李"])
            .values(valid_to_ms=p.valid_from_ms + 1)
        )
    assert operator.post(f"{path}/disable").status_code == 303
    assert "已停用" in operator.get(path).text, "of one who is nowhere now"


def test_names_of_members_are_not_seen_without_a_trace(site: Site, operator: Client) -> None:
    branch = str(public_id("甲"))
    with site.engine.begin() as conn:
        conn.execute(update(s.members).values(name="王芳"))
    for number, ask in enumerate(
        (
            lambda: operator.post("/accounts/new", data=form(role="", whose="王芳")),
            lambda: operator.get(f"/accounts/new?member={LI}"),
            lambda: operator.get(f"/accounts/branch?organisation={branch}"),
        ),
        1,
    ):
        assert "王芳" in ask().text
        with reading(site.engine) as conn:
            assert len(conn.execute(select(s.accesses)).all()) >= number
        site.now_ms += 3600_000
    site.now_ms += 3600_000
    operator = site.signed_in("甲管")
    assert "王芳" in operator.get("/log/looks").text
    with reading(site.engine) as conn:
        assert "log.page" in conn.scalars(select(s.accesses.c.what)).all()


def test_a_member_makes_a_token_of_their_own(li: Site, operator: Client) -> None:
    member = li.signed_in("li")
    assert member.get("/me/tokens").status_code == 200
    made = member.post("/me/tokens", data={"name": "我的程序"})
    [token] = set(re.findall(r"shk_[\w-]{43}", made.text))
    headers = {"Authorization": f"Bearer {token}"}
    assert li.client().get("/api/v1/me", headers=headers).json()["name"] == "李名"
    assert li.client().get("/api/v1/meetings", headers=headers).status_code == 403
    page = member.get("/me/tokens").text
    assert "我的程序" in page
    assert token not in page
    for field, data in (("name", {"name": ""}), ("until", {"name": "x", "until": "2190-01-01"})):
        refused = member.post("/me/tokens", data=data)
        assert refused.status_code == 422
        assert f'id="e-{field}"' in refused.text
    with reading(li.engine) as conn:
        row = conn.execute(select(s.tokens).filter_by(name="我的程序")).one()
        theirs = conn.scalars(select(s.tokens.c.public_id).filter_by(name="乙秘书")).one()
    assert row.made_by_account_id is not None
    assert row.expires_ms is not None
    for which in (str(theirs), "x"):
        assert member.post("/me/tokens/revoke", data={"which": which}).status_code == 404
    assert member.post("/me/tokens/revoke", data={"which": str(row.public_id)}).status_code == 303
    assert li.client().get("/api/v1/me", headers=headers).status_code == 401
    assert operator.get("/me/tokens").status_code == 403


def test_with_an_account_end_the_tokens_that_it_made(site: Site, operator: Client) -> None:
    with site.engine.begin() as conn:
        site.account(conn, "zwei", "第二管理", "甲", Role.OPERATOR)
    values = {"name": "统计", "role": "AUDITOR", "organisation": str(public_id("甲"))}
    made = site.signed_in("zwei").post("/tokens/new", data=values)
    [token] = set(re.findall(r"shk_[\w-]{43}", made.text))
    headers = {"Authorization": f"Bearer {token}"}
    path = address(site, "zwei")
    assert "1个令牌同时作废" in operator.get(f"{path}/disable").text
    assert site.client().get("/api/v1/meetings", headers=headers).status_code == 200
    operator.post(f"{path}/disable")
    assert site.client().get("/api/v1/meetings", headers=headers).status_code == 401
    assert "令牌：作废" in visible(operator.get("/log").text)


def test_signing_out_and_wrong_passwords_are_told(site: Site, operator: Client) -> None:
    for _ in range(2):
        site.client().post("/sign-in", data={"login": "甲", "password": "wrong password"})
    secretary = site.signed_in("甲")
    secretary.post("/sign-out")
    log = visible(operator.get("/log").text)
    assert "登录：开始" in log
    assert "此前输错密码次数：2" in log
    assert "登录：结束" in log


def test_filters_hold(site: Site, operator: Client) -> None:
    def found(query: str) -> set[str]:
        page = operator.get(f"/accounts?{query}").text.partition("<main")[2]
        return {name for name in ("甲秘书", "甲管理", "乙秘书", "区秘书") if name in page}

    assert found("") >= {"甲秘书", "甲管理"}
    assert not found("") & {"乙秘书", "区秘书"}
    assert found("role=SECRETARY") == {"甲秘书"}
    assert found("text=%25") == set()
    assert found("text=%00") == {"甲秘书", "甲管理"}
    assert found("text=%E7%A7%98") == {"甲秘书"}


SOURCES = [*Path(hub.__file__).parent.rglob("*.py")]
WRITERS = re.compile(r"_?(?:record|record_token|looked|looks|look|Look)")


def literals() -> set[str]:
    """What the code writes into the two logs."""
    found: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                    if not WRITERS.fullmatch(name):
                        continue
                case ast.Assign(targets=[ast.Name(id="what")]):
                    pass
                case _:
                    continue
            for each in ast.walk(node):
                if isinstance(each, ast.Constant) and isinstance(each.value, str):
                    found.update(re.findall(r"^[a-z_]+\.[a-z_]+$", each.value))
    return found


@pytest.mark.parametrize("what", sorted(literals()))
def test_everything_that_is_logged_has_words(what: str) -> None:
    area, _, deed = what.partition(".")
    assert area in AREAS, f"{what}: say it in hub/web/deeds.py"
    assert deed in DEEDS, f"{what}: say it in hub/web/deeds.py"
    assert what_words(what) != what


def test_the_words_of_deeds_are_used() -> None:
    found = literals()
    assert {"meeting.create", "account.create", "token.revoke", "meeting.page"} <= found
    text = "\n".join(path.read_text("utf-8") for path in SOURCES if path.name != "deeds.py")
    for area in AREAS:
        assert re.search(rf'"{area}\.', text), f"{area}: nothing of it is logged"
    for deed in DEEDS:
        assert re.search(rf'\.{deed}"', text), f"{deed}: is never logged"
    assert set(AREAS) > MANY
    for kind in DeclarationKind:
        assert what_words(f"declaration.{kind.value.lower()}").endswith(kind.zh)


def test_an_entry_that_has_no_words_is_said_as_it_is() -> None:
    assert what_words("something.else") == "something.else"
    assert what_words("") == ""


def test_somebody_who_sees_no_attendance_lands_where_they_may(site: Site) -> None:
    with site.engine.begin() as conn:
        site.account(conn, "技", "技", "甲", Role.TECHNICIAN)
        site.account(conn, "党", "党", "甲", Role.MEMBER, "李")
    for login, place in (("技", "/devices"), ("党", "/me")):
        client = site.signed_in(login)
        assert client.get("/").headers["location"] == place
        assert client.get(place).status_code == 200
        page = client.get("/sessions")
        assert page.status_code == 200


@pytest.mark.parametrize("details", [{}, {"register": "later", "meeting": None, "number": 3}])
def test_the_log_shows_whatever_was_ever_recorded(site: Site, details: dict[str, Any]) -> None:
    at_ms = site.now_ms
    with site.engine.begin() as conn:
        for area in AREAS:
            audit.record(conn, audit.Machine(), f"{area}.x", None, area, None, at_ms, **details)
    person = site.signed_in("区管")
    for area in AREAS:
        page = person.get(f"/log?area={area}")
        assert page.status_code == 200, area
    assert person.get("/log").status_code == 200
