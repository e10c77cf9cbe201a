"""A member's own pages and API, and those where objections are decided."""

import json
import re
import uuid
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select

from hub import audit, statements
from hub.auth.callers import Caller, caller_of, select_callers
from hub.auth.tokens import new_token
from hub.derive import rederive_meetings
from hub.domain.terms import LeaveReason, Role
from hub.store import schema as s
from hub.store.engine import reading
from tests.hub.site import Client, Site
from tests.hub.web.axe import assert_accessible, assert_light, sticking_out
from tests.hub.web.test_browser import browser, sign_in, watched
from tests.hub.world import minutes, public_id

MEETING = f"/me/meetings/{public_id('会')}"


@pytest.fixture
def site(engine: Engine) -> Site:
    """With accounts and tokens of 李 and 钱, and a second secretary of 甲."""
    site = Site(engine, now_ms=minutes(100))
    with engine.begin() as conn:
        site.account(conn, "li", "李名", "甲", Role.MEMBER, "李")
        site.account(conn, "qian", "钱名", "乙", Role.MEMBER, "钱")
        site.account(conn, "second", "副书记", "甲", Role.SECRETARY)
        site.account(conn, "operator", "管理员", "区", Role.OPERATOR)
        for name, organisation, member in (("li", "甲", "李"), ("qian", "乙", "钱")):
            site.tokens[name] = new_token(
                conn,
                name,
                organisation,
                0,
                role=Role.MEMBER,
                member_id=site.ids[member],
            )
        site.tokens["second"] = new_token(conn, "第二程序", "甲", 0, role=Role.SECRETARY)
    return site


def caller(site: Site, login: str) -> Caller:
    with reading(site.engine) as conn:
        row = conn.execute(select_callers(s.accounts).where(s.accounts.c.login == login)).one()
        return caller_of(row, s.accounts)


def accesses(site: Site) -> list[Any]:
    with reading(site.engine) as conn:
        return list(conn.execute(select(s.accesses).order_by(s.accesses.c.id)))


def objection_of(site: Site) -> str:
    with reading(site.engine) as conn:
        found = conn.scalars(
            select(s.declarations.c.public_id)
            .where(s.declarations.c.kind == "OBJECTION")
            .order_by(s.declarations.c.id.desc())
            .limit(1)
        )
        return str(found.one())


def object_to(site: Site, words: str = "我到了") -> str:
    response = site.signed_in("li").post(f"{MEETING}/objection", data={"words": words})
    assert response.status_code == 303, response.text
    return objection_of(site)


def test_every_own_page_reads_and_is_no_look(site: Site) -> None:
    site.tap("李", minutes(-3))
    object_to(site)
    member = site.signed_in("li")
    for path in (
        "/me",
        MEETING,
        f"{MEETING}/objection",
        f"{MEETING}/leave",
        f"{MEETING}/back-fill",
        "/me/leave",
        "/me/access",
        "/me/cards",
        "/me/export",
        "/me/export.json",
    ):
        response = member.get(path)
        assert response.status_code == 200, path
        for other in ("王名", "赵名", "钱名"):
            assert other not in response.text, path
    for path in ("", "/meetings", f"/meetings/{public_id('会')}", "/accesses", "/export"):
        assert site.client(token="li").get(f"/api/v1/me{path}").status_code == 200
    assert accesses(site) == []


def test_a_member_begins_at_their_own_page(site: Site) -> None:
    member = site.signed_in("li")
    response = member.get("/")
    assert (response.status_code, response.headers["location"]) == (303, "/me")
    page = member.get("/me").text
    assert "四位" not in page
    site.tap("李", minutes(3))
    page = member.get("/me").text
    assert "会题" in page
    assert "设备“一号”刷卡" in page
    assert re.search("卡号末四位[0-9A-F]{4}", page)


@pytest.mark.parametrize("login", ["甲", "second"])
def test_who_is_no_member_has_no_such_page(site: Site, login: str) -> None:
    assert site.signed_in(login).get("/me").status_code == 403


def test_what_concerns_somebody_else_is_not_found(site: Site) -> None:
    """Neither a meeting, nor what another member has asked for or objected to."""
    objection = object_to(site)
    me = caller(site, "li")
    with site.engine.begin() as conn:
        ask = statements.ask_leave(
            conn, me, public_id("会"), public_id("李"), LeaveReason.WORK, minutes(1)
        )
    other, token = site.signed_in("qian"), site.client(token="qian")
    assert other.get(MEETING).status_code == 404
    assert token.get(f"/api/v1{MEETING}").status_code == 404
    for path in (
        f"{MEETING}/objection",
        f"{MEETING}/leave",
        f"{MEETING}/back-fill",
        f"/me/objections/{objection}/withdraw",
        f"/me/asks/{ask}/withdraw",
    ):
        assert other.post(path, data={"words": "x", "reason": "WORK"}).status_code == 404, path
        body = {"words": "x"} if path.endswith("objection") else {"reason": "WORK"}
        assert token.post(f"/api/v1{path}", json=body).status_code == 404, path
    # The secretary may withdraw it on the meeting's pages, and not on another's own.
    assert site.signed_in("operator").post(f"/me/asks/{ask}/withdraw").status_code == 403


def test_a_guest_sees_their_own_record_and_no_more(site: Site) -> None:
    site.tap("钱", minutes(2))
    site.tap("李", minutes(3))
    page = site.signed_in("qian").get(MEETING)
    assert page.status_code == 200
    assert "列席" in page.text
    assert "李名" not in page.text
    assert len(site.client(token="qian").get(f"/api/v1{MEETING}").json()["facts"]["taps"]) == 1


def test_the_class_of_a_leave_is_for_the_member_alone(site: Site) -> None:
    member = site.signed_in("li")
    assert member.post(f"{MEETING}/leave", data={"reason": "ILLNESS"}).status_code == 303
    assert "病假" in member.get(MEETING).text
    assert "病假" in member.get("/me/leave").text
    objection = object_to(site)
    page = site.signed_in("second").get(f"/objections/{objection}")
    assert "申请请假" in page.text
    assert "病假" not in page.text
    token = site.client(token="second").get(f"/api/v1/objections/{objection}")
    assert token.status_code == 200
    assert "ILLNESS" not in token.text
    assert "ILLNESS" in site.client(token="li").get(f"/api/v1{MEETING}").text


@pytest.mark.parametrize("reason", ["", "SICK", "ILLNESS\n"])
def test_a_leave_needs_a_class(site: Site, reason: str) -> None:
    response = site.signed_in("li").post(f"{MEETING}/leave", data={"reason": reason})
    assert response.status_code == 422
    assert "请选择请假类别" in response.text
    token = site.client(token="li").post(f"/api/v1{MEETING}/leave", json={"reason": reason})
    assert token.status_code == 422
    assert token.json()["detail"].startswith("reason:")


def test_leave_and_back_fill_are_asked_for_and_taken_back(site: Site) -> None:
    member = site.signed_in("li")
    for path, reason in (("leave", "WORK"), ("back-fill", "忘带卡")):
        assert member.post(f"{MEETING}/{path}", data={"reason": reason}).status_code == 303
        again = member.post(f"{MEETING}/{path}", data={"reason": reason})
        assert again.status_code == 422
        assert "已经申请过" in again.text
    page = member.get("/me/leave").text
    withdrawals = re.findall(r'action="(/me/asks/[^"]+/withdraw)"', page)
    assert len(withdrawals) == 2
    for each in withdrawals:
        assert member.post(each).status_code == 303
    assert "/withdraw" not in member.get("/me/leave").text
    # A second time: said in words, and nothing more is stated.
    before = len(declarations(site))
    assert member.post(withdrawals[0]).status_code == 303
    assert len(declarations(site)) == before


def declarations(site: Site) -> list[Any]:
    with reading(site.engine) as conn:
        return list(conn.execute(select(s.declarations)))


def test_an_objection_is_decided_by_somebody_else(site: Site) -> None:
    """Who witnessed it cannot, on the page or with a token of the same name; another can."""
    first = caller(site, "甲")
    with site.engine.begin() as conn:
        statements.witness(conn, first, public_id("会"), minutes(20), member=public_id("李"))
    objection = object_to(site, "我没有去")
    form = {"upheld": "yes", "reason": "核实过"}
    page = site.signed_in("甲").get(f"/objections/{objection}")
    assert "须由别人处理" in page.text
    assert "<textarea" not in page.text
    refused = site.signed_in("甲").post(f"/objections/{objection}", data=form)
    assert refused.status_code == 422
    assert "须由别人处理" in refused.text
    body = {"upheld": True, "reason": "核实过"}
    same = site.client(token="甲").post(f"/api/v1/objections/{objection}/decision", json=body)
    assert same.status_code == 409
    # 乙 has nothing to do with it, and the member does not decide at all.
    assert site.signed_in("乙").get(f"/objections/{objection}").status_code == 404
    assert site.signed_in("li").post(f"/objections/{objection}", data=form).status_code == 403
    response = site.client(token="second").post(
        f"/api/v1/objections/{objection}/decision", json=body
    )
    assert response.status_code == 201
    assert response.json()["state"] == "UPHELD"
    again = site.signed_in("second").post(f"/objections/{objection}", data=form)
    assert again.status_code == 422
    page = site.signed_in("li").get(MEETING).text
    assert "异议成立" in page
    assert "核实过" in page
    # What it needs is stated by a person: nothing has changed by itself.
    assert "现场证明" in page


def test_a_token_that_made_the_entry_does_not_decide(site: Site) -> None:
    with site.engine.begin() as conn:
        token_id = conn.scalars(select(s.tokens.c.id).where(s.tokens.c.name == "第二程序")).one()
        conn.execute(
            insert(s.declarations).values(
                public_id=s.new_public_id(),
                meeting_id=site.ids["会"],
                member_id=site.ids["李"],
                kind="SHEET",
                author="旧名",
                token_id=token_id,
                made_ms=minutes(70),
            )
        )
        rederive_meetings(conn, [site.ids["会"]])
    objection = object_to(site)
    body = {"upheld": False, "reason": "核实过"}
    path = f"/api/v1/objections/{objection}/decision"
    assert site.client(token="second").post(path, json=body).status_code == 409
    told = site.client(token="second").get(f"/api/v1/objections/{objection}").json()
    assert told["may_decide"] is False
    assert site.client(token="甲").post(path, json=body).status_code == 201


def test_looking_at_an_objection_is_seen_by_the_member(site: Site) -> None:
    objection = object_to(site)
    site.signed_in("second").get("/objections")
    site.signed_in("second").get(f"/objections/{objection}")
    page = site.signed_in("li").get("/me/access").text
    assert page.count("副书记") == 1
    assert "您在会议“会题”的记录" in page
    assert "支部书记" in page
    assert "副书记" not in site.signed_in("qian").get("/me/access").text


@pytest.mark.parametrize("days", ["from=2026-13-01", "to=x", "from=2026-05-02&to=2026-05-01"])
def test_days_that_are_none_are_said(site: Site, days: str) -> None:
    for path in ("/me", "/me/access"):
        response = site.signed_in("li").get(f"{path}?{days}")
        assert response.status_code == 200
        assert "notice-err" in response.text


@pytest.mark.parametrize("page", ["0", "-1", "9999999999999999999", "x", "²"])
def test_a_page_that_there_is_not_is_empty(site: Site, page: str) -> None:
    assert site.signed_in("li").get("/me", params={"page": page}).status_code == 200


def test_the_whole_file_is_the_members_own(site: Site) -> None:
    site.tap("李", minutes(-3))
    site.tap("王", minutes(-2))
    with site.engine.begin() as conn:
        look = audit.Look("meeting.page", meeting_id=site.ids["会"])
        audit.looked(conn, caller(site, "甲"), look, minutes(5))
    object_to(site)
    response = site.signed_in("li").get("/me/export.json")
    assert response.headers["content-disposition"].startswith("attachment")
    whole = json.loads(response.text)
    assert whole == site.client(token="li").get("/api/v1/me/export").json()
    assert whole["member"]["code"] == "李"
    assert [len(each["facts"]["taps"]) for each in whole["meetings"]] == [1]
    assert [each["state"] for each in whole["objections"]] == ["OPEN"]
    assert [each["actor"] for each in whole["accesses"]] == ["甲秘书"]
    with reading(site.engine) as conn:
        secrets = [
            *conn.scalars(select(s.credentials.c.value)),
            *(code for code in conn.scalars(select(s.members.c.name)) if code != "李名"),
        ]
    for each in secrets:
        assert each not in response.text


def test_acts_are_in_the_audit_log_without_their_words(site: Site) -> None:
    objection = object_to(site, "私密的话")
    site.signed_in("second").post(
        f"/objections/{objection}", data={"upheld": "no", "reason": "私密的理由"}
    )
    with reading(site.engine) as conn:
        acts = conn.execute(select(s.audit).where(s.audit.c.what.like("objection.%"))).all()
    assert [(each.what, each.actor) for each in acts] == [
        ("objection.make", "李名"),
        ("objection.dismiss", "副书记"),
    ]
    assert "私密" not in str(acts)


def test_the_api_says_what_is_wrong(site: Site) -> None:
    token = site.client(token="li")
    for body, field in (
        ({}, "words"),
        ({"words": ""}, "words"),
        ({"words": 501 * "x"}, "words"),
        ({"words": "x", "more": 1}, "more"),
        ({"words": " "}, "words"),
    ):
        response = token.post(f"/api/v1{MEETING}/objection", json=body)
        assert response.status_code == 422
        assert field in response.json()["detail"]
    assert token.post(f"/api/v1{MEETING}/objection", json={"words": "x"}).status_code == 201
    again = token.post(f"/api/v1{MEETING}/objection", json={"words": "x"})
    assert (again.status_code, again.json()["detail"]) == (
        409,
        "Your objection to this meeting is being looked at already.",
    )
    withdrawn = token.post(f"/api/v1/me/objections/{objection_of(site)}/withdraw")
    assert withdrawn.status_code == 200
    assert token.post(f"/api/v1/me/objections/{uuid.uuid4()}/withdraw").status_code == 404


def test_a_secretarys_token_has_no_own_file(site: Site) -> None:
    client: Client = site.client(token="甲")
    assert client.get("/api/v1/me").status_code == 403
    assert site.client(token="li").get("/api/v1/objections").status_code == 403


@pytest.mark.browser
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("width", [360, 1280])
def test_by_a_browser_without_javascript_and_by_axe(site: Site, width: int) -> None:
    from tests.hub.site import serving

    site.tap("李", minutes(2))
    with site.engine.begin() as conn:
        look = audit.Look("meeting.page", meeting_id=site.ids["会"])
        audit.looked(conn, caller(site, "甲"), look, minutes(5))
    complaints: list[str] = []
    size = {"width": width, "height": 740}
    with serving(site.app) as (url, _):
        with browser(viewport=size, java_script_enabled=False) as tab:
            page = tab.new_page()
            sign_in(page, url, "/me", "li")
            page.get_by_role("link", name="会题").click()
            page.get_by_role("link", name="提出异议").click()
            page.get_by_label("哪里不对").fill("我没有迟到")
            page.get_by_role("button", name="提交异议").click()
            page.get_by_text("异议已提交").wait_for()
            page.get_by_role("link", name="谁看过我的记录").click()
            page.get_by_text("甲秘书").wait_for()
        with browser(viewport=size, java_script_enabled=False) as tab:
            page = tab.new_page()
            sign_in(page, url, "/objections", "second")
            page.get_by_role("link", name="李名").click()
            page.get_by_label("异议不成立").check()
            page.get_by_label("理由").fill("时钟已核对")
            page.get_by_role("button", name="提交处理结果").click()
            page.get_by_text("没有待处理的异议").wait_for()
        second = object_to(site, "再看一次")
        for login, paths in (
            ("li", ["/me", MEETING, "/me/leave", "/me/access", "/me/cards", "/me/export"]),
            ("second", ["/objections", f"/objections/{second}"]),
        ):
            with browser(viewport=size) as tab:
                page = watched(tab, complaints)
                sign_in(page, url, paths[0], login)
                for path in paths:
                    page.goto(url + path)
                    assert_accessible(page)
                    assert sticking_out(page) == [], path
                if login == "li":
                    page.goto(f"{url}{MEETING}/back-fill")
                    assert_accessible(page)
                    assert_light(tab, url + "/me/export")
    assert complaints == []
