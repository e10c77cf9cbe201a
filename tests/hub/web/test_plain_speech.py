"""What a newcomer stumbled over: what pages say of overlaps, outages, looks, refusals and names."""

import re
from html import unescape

import httpx
import pytest
from sqlalchemy import Engine, delete, insert, select, update

from hub import audit
from hub.auth.callers import Caller, caller_of, select_callers
from hub.context import Joining
from hub.domain.terms import Role
from hub.store import schema as s
from hub.store.engine import reading
from tests.hub.site import Client, Site
from tests.hub.world import Entry, minutes, public_id

MEETING = f"/meetings/{public_id('会')}"
LATER = f"/meetings/{public_id('后会')}"


@pytest.fixture
def site(engine: Engine) -> Site:
    found = Site(engine, now_ms=minutes(70))
    with engine.begin() as conn:
        found.account(conn, "管", "管理员", "区", Role.OPERATOR)
        found.account(conn, "党", "李本人", "甲", Role.MEMBER, "李")
        found.account(conn, "李书", "李名", "甲", Role.SECRETARY, "李")
    return found


def text_of(response: httpx.Response) -> str:
    main = response.text.split("<main")[1]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", main)).split())


def followed(client: Client, response: httpx.Response) -> str:
    assert response.status_code == 303, text_of(response)
    return text_of(client.get(response.headers["location"]))


def caller(site: Site, login: str) -> Caller:
    with reading(site.engine) as conn:
        row = conn.execute(select_callers(s.accounts).where(s.accounts.c.login == login)).one()
        return caller_of(row, s.accounts)


def another(site: Site, organisation: str = "甲", start: float = 64) -> None:
    """A meeting in the same hall, whose check-in begins before the first one ends."""
    with site.engine.begin() as conn:
        site.world(conn).meeting("后会", organisation, "礼堂", start=start)


# --- One tap, two meetings --------------------------------------------------------------------


def test_both_of_two_meetings_that_share_taps_say_so(site: Site) -> None:
    client = site.signed_in()
    assert "重叠" not in text_of(client.get(MEETING))
    another(site)
    assert "重叠时间内刷一次卡" in text_of(client.get(MEETING))
    assert "“后会题”（12:10–13:10）" in text_of(client.get(MEETING))
    assert f'href="{LATER}"' in client.get(MEETING).text
    assert "“会题”（11:06–12:06）" in text_of(client.get(LATER))
    with site.engine.begin() as conn:
        conn.execute(update(s.meetings).where(s.meetings.c.code == "后会").values(cancelled=True))
    for path in (MEETING, LATER):
        assert "重叠" not in text_of(client.get(path))


def test_meetings_that_follow_each_other_with_room_between_share_nothing(site: Site) -> None:
    another(site, start=91)
    assert "重叠" not in text_of(site.signed_in().get(MEETING))


def test_a_meeting_of_others_in_the_hall_is_not_named(site: Site) -> None:
    another(site, "乙")
    response = site.signed_in().get(MEETING)
    assert "其他组织的会议（12:10–13:10）" in text_of(response)
    assert "后会题" not in response.text
    assert str(public_id("后会")) not in response.text


def test_whoever_makes_moves_or_restores_one_is_warned(site: Site) -> None:
    client = site.signed_in()
    form = {
        "organisation": str(public_id("甲")),
        "kind": "THEME_PARTY_DAY",
        "title": "主题党日",
        "venue": str(public_id("礼堂")),
        "day": "2026-04-24",
        "starts": "12:16",
        "ends": "13:00",
        "chair": "",
    }
    said = followed(client, client.post("/meetings/new", data=form))
    assert "会议已建立。请注意：签到时间与同一会场的“会题”重叠" in said
    apart = {**form, "title": "晚会", "starts": "18:00", "ends": "19:00"}
    response = client.post("/meetings/new", data=apart)
    said = followed(client, response)
    assert "会议已建立。" in said
    assert "重叠" not in said
    path = response.headers["location"]
    shown = re.findall(r'name="shown" value="([^"]*)"', client.get(f"{path}/edit").text)[0]
    moved = {**apart, "starts": "12:20", "shown": shown, "grace_minutes": "0", "end_day": ""}
    said = followed(client, client.post(f"{path}/edit", data=moved))
    assert "会议已修改。请注意：签到时间与同一会场的“会题”、“主题党日”重叠" in said
    client.post(f"{path}/cancel", data={"reason": "人不齐"})
    said = followed(client, client.post(f"{path}/restore", data={"reason": "人齐了"}))
    assert "会议已恢复。请注意：" in said


# --- The hub receives nothing -----------------------------------------------------------------


def test_no_device_is_blamed_while_the_hub_itself_receives_nothing(site: Site) -> None:
    with site.engine.begin() as conn:
        world = site.world(conn)
        at = Entry(9, minutes(10), trusted=True)
        world.heartbeat("一号", "e", 0, at, minutes(10))
        conn.execute(
            update(s.heartbeats).values(readers='[{"name": "r", "up": true}]', unreceipted=0)
        )
    trouble: list[str | None] = [None]
    site.health = lambda: trouble[0]
    site.app = site.application()
    device = f"/devices/{public_id('一号')}"
    site.now_ms = minutes(11)
    client = site.signed_in()
    assert "所有设备都正常" in text_of(client.get("/devices"))
    trouble[0] = "the broker is lost"
    for now in (11, 70):
        site.now_ms = minutes(now)
        for path in ("/devices", device):
            said = text_of(client.get(path))
            assert "系统现在收不到签到设备的数据" in said
            assert "设备静默" not in said
            assert "所有设备都正常" not in said
            assert "现在不知道" in said
    trouble[0] = None
    said = text_of(client.get("/devices"))
    assert "设备静默" in said
    assert "系统现在收不到" not in said


def test_a_late_report_is_no_slow_clock(site: Site) -> None:
    device = f"/devices/{public_id('一号')}"
    client = site.signed_in()
    for off_ms, words in ((-5000, "已校准"), (5000, "已校准，比服务器快5秒")):
        with site.engine.begin() as conn:
            conn.execute(delete(s.heartbeats))
            at = Entry(9, minutes(69) + off_ms, trusted=True)
            site.world(conn).heartbeat("一号", "e", 0, at, minutes(69))
        clock = re.findall(r"<dt>时钟</dt><dd>([^<]*)</dd>", client.get(device).text)
        assert clock == [words]


# --- Looks --------------------------------------------------------------------------------------


def test_looks_that_read_the_same_are_one_line(site: Site) -> None:
    client = site.signed_in()
    for path in (MEETING, f"{MEETING}/desk", f"{MEETING}/sheet"):
        client.get(path)
    site.now_ms += 1_200_000
    client.get(MEETING)
    me = site.signed_in("党")
    for path in ("/me/access", "/me/export"):
        said = text_of(me.get(path))
        assert said.count("查看了会议“会题”（2026-04-24）的考勤") == 1
        assert "12:16至12:36，共4次" in said


def test_who_saw_nobody_has_not_looked(site: Site) -> None:
    client = site.signed_in()
    client.get("/members?name=nobody")
    client.get("/attendance?from=2020-01-01&to=2020-01-31")
    headers = {"Authorization": f"Bearer {site.tokens['甲']}"}
    client.get("/api/v1/members?search=nobody", headers=headers)
    client.get("/api/v1/attendance?from=2020-01-01&to=2020-01-31", headers=headers)
    with reading(site.engine) as conn:
        assert conn.scalars(select(s.accesses.c.what)).all() == []
    client.get("/members")
    with reading(site.engine) as conn:
        assert conn.scalars(select(s.accesses.c.what)).all() == ["members.page"]


# --- Refused, asked once more -----------------------------------------------------------------


def test_a_leave_of_ones_own_says_what_to_untick(site: Site) -> None:
    client = site.signed_in("李书")
    form = {"member": str(public_id("李")), "reason": "FAMILY", "granted": "yes"}
    reason = re.findall(r'name="reason" value="([A-Z]+)"', client.get(f"{MEETING}/leave").text)
    form["reason"] = reason[0]
    response = client.post(f"{MEETING}/leave", data=form)
    assert response.status_code == 422
    assert 'href="#f-granted"' in response.text
    assert "不能审批自己的申请，请由他人办理。去掉“同时准假”，可以先记下申请。" in text_of(response)
    del form["granted"]
    assert "等待审批" in followed(client, client.post(f"{MEETING}/leave", data=form))


def test_beside_ones_own_name_there_is_no_button_that_can_only_refuse(site: Site) -> None:
    own, others = f'value="{public_id("李")}"', f'value="{public_id("王")}"'
    response = site.signed_in("李书").get(f"{MEETING}/desk")
    assert own not in response.text
    assert others in response.text
    assert "不能证明自己到场，请由他人办理。" in text_of(response)
    assert own in site.signed_in().get(f"{MEETING}/desk").text


def test_that_it_was_not_held_is_asked_once_more_with_what_says_the_contrary(site: Site) -> None:
    site.now_ms = minutes(-5)
    client = site.signed_in()
    desk = client.get(f"{MEETING}/desk").text
    assert "desk/not-held" not in desk
    assert 'value="yes"' not in desk  # nor was it held, yet
    site.now_ms = minutes(10)
    desk = client.get(f"{MEETING}/desk").text
    assert f'href="{MEETING}/desk/not-held"' in desk
    assert 'value="yes"' in desk
    assert 'value="no"' not in desk
    asked = text_of(client.get(f"{MEETING}/desk/not-held"))
    assert "矛盾" not in asked
    site.tap("李", minutes(3))
    client.post(f"{MEETING}/desk/head-count", data={"number": "4"})
    response = client.get(f"{MEETING}/desk/not-held")
    asked = text_of(response)
    assert "实到 1人" in asked
    assert "清点人数 4人" in asked
    assert "矛盾" in asked
    assert 'name="held" value="no"' in response.text
    assert "已确认会议未召开。" in followed(
        client, client.post(f"{MEETING}/desk/held", data={"held": "no"})
    )


# --- Called off ---------------------------------------------------------------------------------


def test_a_member_is_told_that_a_meeting_is_off_and_why(site: Site) -> None:
    site.now_ms = minutes(-100)
    secretary, me = site.signed_in(), site.signed_in("党")
    assert "取消了的会议" not in text_of(me.get("/me"))
    secretary.post(f"{MEETING}/cancel", data={"reason": "暴雨，道路不通"})
    mine = text_of(me.get("/me"))
    assert "取消了的会议 会题 已取消" in mine
    assert "原因：暴雨，道路不通" in mine
    assert "原因：暴雨，道路不通" in text_of(me.get(f"/me/meetings/{public_id('会')}"))
    for path in (MEETING, f"{MEETING}/desk"):
        assert "原因：暴雨，道路不通" in text_of(secretary.get(path))
    assert "恢复会议" in text_of(secretary.get(MEETING))
    site.now_ms = minutes(200)
    assert "取消了的会议" in text_of(me.get("/me"))
    secretary.post(f"{MEETING}/restore", data={"reason": "路通了"})
    assert "取消了的会议" not in text_of(me.get("/me"))
    assert "暴雨" not in text_of(secretary.get(MEETING))


def test_only_who_was_expected_is_told(site: Site) -> None:
    with site.engine.begin() as conn:
        site.account(conn, "钱", "钱本人", "乙", Role.MEMBER, "钱")
    site.signed_in().post(f"{MEETING}/cancel", data={"reason": "暴雨"})
    assert "会题" not in site.signed_in("钱").get("/me").text


def test_of_a_meeting_to_come_the_whole_file_says_nothing_yet(site: Site) -> None:
    site.now_ms = minutes(-100)
    me = site.signed_in("党")
    assert "未见" not in text_of(me.get("/me/export"))
    site.now_ms = minutes(5)
    assert "未见" in text_of(me.get("/me/export"))


# --- Words ----------------------------------------------------------------------------------------


def test_a_log_names_what_was_acted_on(site: Site) -> None:
    secretary = site.signed_in()
    secretary.post(f"{MEETING}/cancel", data={"reason": "暴雨"})
    site.client().post("/sign-in", data={"login": "党", "password": "wrong"})
    for _ in range(6):
        site.client().post("/sign-in", data={"login": "党", "password": "wrong"})
    with site.engine.begin() as conn:
        card = conn.execute(
            select(s.cards.c.public_id)
            .join(s.bindings, s.bindings.c.card_id == s.cards.c.id)
            .where(s.bindings.c.member_id == site.ids["王"])
        ).scalar_one()
        who = caller(site, "甲")
        audit.record(conn, who, "card.lost", site.ids["甲"], "card", card, site.now_ms)
    said = text_of(site.signed_in("管").get("/log"))
    assert "会议：取消 会题，甲名" in said
    assert "账号：多次输错密码，暂时锁定 李本人，甲名" in said
    assert "卡：挂失 王名，甲名" in said
    # Who was shown whose card it was has looked.
    with reading(site.engine) as conn:
        assert "log.page" in conn.scalars(select(s.accesses.c.what)).all()


def test_a_page_that_cannot_be_shown_still_says_who_is_signed_in(site: Site) -> None:
    client = site.signed_in()
    for path, status in (("/none", 404), ("/accounts", 403)):
        response = client.get(path)
        assert response.status_code == status
        assert "甲秘书" in response.text
        assert "<nav" in response.text
        assert "重新操作" not in response.text
    foreign = client.post("/meetings/new", headers={"sec-fetch-site": "cross-site"})
    assert foreign.status_code == 403
    assert "重新操作一次" in text_of(foreign)
    assert "<nav" not in site.client().get("/none").text


def test_whom_a_partner_may_not_name_is_said_in_one_line(site: Site) -> None:
    with site.engine.begin() as conn:
        conn.execute(
            insert(s.meeting_organisations).values(
                meeting_id=site.ids["会"], organisation_id=site.ids["乙"], agreed_ms=0
            )
        )
    site.now_ms = minutes(5)
    site.tap("李", minutes(2))
    said = text_of(site.signed_in("乙").get(MEETING))
    assert "应到人员 共 5 人" in said
    assert "外单位人员 甲名，2人 未见" in said
    assert said.count("外单位人员") == 2 + said.split("最近签到")[1].count("外单位人员")
    assert "还没有设备" not in text_of(site.signed_in("乙").get("/devices"))


def test_slips_and_codes_warn_of_an_address_that_nobody_else_reaches(site: Site) -> None:
    site.joining = Joining(bytes(10), "mqtt://127.0.0.1:1883")
    site.app = site.application()
    client = site.signed_in("管")
    assert "请先在 hub.toml 里设置 edge_mqtt，重新启动服务" in text_of(client.get("/devices/new"))
    form = {
        "name": "新人",
        "login": "xinren",
        "role": "AUDITOR",
        "organisation": str(public_id("区")),
        "no_member": "yes",
    }
    assert "别的电脑和手机打不开" not in text_of(client.post("/accounts/new", data=form))
    there = client.post(
        "/accounts/new",
        data={**form, "login": "xinren2"},
        headers={"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"},
    )
    assert "别的电脑和手机打不开" in text_of(there)


def test_a_field_that_depends_on_others_is_not_called_optional(site: Site) -> None:
    html = site.signed_in("管").get("/accounts/new").text
    [label] = re.findall(r'<label for="f-whose">(.*?)</label>', html)
    assert label == "对应党员"
    assert not re.search(r'id="f-whose"[^>]* required', html)
