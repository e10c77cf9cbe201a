"""The pages by which meetings are kept: every act as a plain form, and what each reader may see."""

import re
from html import unescape

import httpx
import pytest
from sqlalchemy import Engine, insert, select

from hub.derive import derive_batch, rebuild_check
from hub.domain.terms import Role
from hub.store import schema as s
from hub.store.engine import reading
from protocol.journal import Act
from tests.hub.site import Client, Site
from tests.hub.world import Entry, minutes, public_id, uid_of

MEETING = f"/meetings/{public_id('会')}"
LI, WANG, ZHAO, QIAN = (str(public_id(each)) for each in "李王赵钱")


@pytest.fixture
def site(engine: Engine) -> Site:
    found = Site(engine, now_ms=minutes(70))
    with engine.begin() as conn:
        found.account(conn, "副", "甲副书记", "甲", Role.SECRETARY)
        found.account(conn, "监", "监督员", "区", Role.AUDITOR)
        found.account(conn, "党", "李本人", "甲", Role.MEMBER, "李")
    return found


def text_of(response: httpx.Response) -> str:
    """What a reader sees, blanks made one."""
    main = response.text.split("<main")[1]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", main)).split())


def followed(client: Client, response: httpx.Response) -> str:
    assert response.status_code == 303, text_of(response)
    return text_of(client.get(response.headers["location"]))


def shown_in(response: httpx.Response) -> str:
    """The version of a meeting that its form shows."""
    [found] = re.findall(r'name="shown" value="([^"]*)"', response.text)
    return str(found)


def attendances(site: Site) -> dict[str, str]:
    a, m = s.attendances.c, s.members.c
    with reading(site.engine) as conn:
        return {
            row.code: row.verdict
            for row in conn.execute(select(m.code, a.verdict).join(s.members, m.id == a.member_id))
        }


def declared(site: Site, kind: str) -> str:
    """The public id of the last declaration of this kind."""
    d = s.declarations.c
    with reading(site.engine) as conn:
        found = conn.scalars(
            select(d.public_id).where(d.kind == kind).order_by(d.id.desc()).limit(1)
        ).one()
    return str(found)


FORM = {
    "organisation": str(public_id("甲")),
    "kind": "PARTY_LECTURE",
    "title": "五月党课",
    "venue": str(public_id("礼堂")),
    "day": "2026-05-06",
    "starts": "19:00",
    "ends": "20:30",
    "chair": "王",
}


# --- New, edit, cancel ----------------------------------------------------------------------


def test_a_meeting_is_made_on_a_page(site: Site) -> None:
    client = site.signed_in()
    page = text_of(client.get("/meetings/new"))
    assert "支部党员大会" in page
    assert "党小组会" not in page  # a branch holds none
    assert client.get("/meetings/new?q=%00").status_code == 200
    response = client.post("/meetings/new", data=FORM)
    shown = followed(client, response)
    assert "会议已建立。" in shown
    assert "五月党课" in shown
    assert "2026年5月6日 星期三 19:00–20:30" in shown
    assert "主持人 王" in shown


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"organisation": ""}, "请选择召开会议的组织"),
        ({"organisation": str(public_id("乙"))}, "请选择召开会议的组织"),
        ({"kind": "x"}, "请选择会议类型"),
        ({"kind": "PARTY_GROUP"}, "党支部不开党小组会：应由党小组召开"),
        ({"title": " "}, "请填写会议名称"),
        ({"title": "题" * 101}, "最多100个字"),
        ({"venue": "x"}, "请选择会场"),
        ({"venue": str(public_id("乙"))}, "请选择会场"),
        ({"day": "2026-02-30"}, "填写日期"),
        ({"day": "1999-12-31"}, "填写日期"),
        ({"starts": "25:00"}, "填写时间"),
        ({"ends": "18:00"}, "结束时间应晚于开始时间"),
        ({"title": "题\x00"}, "不能有特殊符号"),
        ({"chair": "王\x00"}, "主持人最多50个字"),
        ({"chair": "王" * 51}, "主持人最多50个字"),
    ],
)
def test_what_is_wrong_is_said_and_what_was_typed_stays(
    site: Site, changes: dict[str, str], said: str
) -> None:
    form = {**FORM, **changes}
    response = site.signed_in().post("/meetings/new", data=form)
    assert response.status_code == 422
    assert said in text_of(response)
    for name, value in form.items():
        if name in {"title", "chair", "day"} and name not in changes:
            assert f'value="{value}"' in response.text


def test_a_meeting_is_moved_cancelled_and_restored(site: Site) -> None:
    client = site.signed_in()
    page = client.get(f"{MEETING}/edit")
    assert 'value="会题"' in page.text
    form = {
        **FORM,
        "grace_minutes": "5",
        "end_day": "2026-05-07",
        "ends": "01:00",
        "shown": shown_in(page),
    }
    response = client.post(f"{MEETING}/edit", data=form)
    shown = followed(client, response)
    assert "会议已修改。" in shown
    assert "19:00–5月7日01:00" in shown
    assert 'value="2026-05-07"' in client.get(f"{MEETING}/edit").text
    wrong = client.post(f"{MEETING}/edit", data={**form, "grace_minutes": "几分"})
    assert wrong.status_code == 422
    assert "请填写整数" in text_of(wrong)
    assert client.post(f"{MEETING}/cancel", data={"reason": ""}).status_code == 422
    shown = followed(client, client.post(f"{MEETING}/cancel", data={"reason": "台风"}))
    assert "会议已取消。" in shown
    assert "恢复会议" in text_of(client.get(f"{MEETING}/cancel"))
    again = followed(client, client.post(f"{MEETING}/cancel", data={"reason": "台风"}))
    assert "会议已经取消。" in again
    for path in ("desk", "sheet", "leave", "back-fill", "statements"):
        assert client.get(f"{MEETING}/{path}").status_code == 200
    assert "已取消" in text_of(client.get(f"{MEETING}/leave"))
    shown = followed(client, client.post(f"{MEETING}/restore", data={"reason": "转晴"}))
    assert "会议已恢复。" in shown
    changes = text_of(client.get(f"{MEETING}/statements"))
    assert "恢复会议 ：转晴" in changes
    assert "取消会议 ：台风" in changes
    assert "修改会议 ：由2026-04-24 11:06改到2026-05-06 19:00" in changes


def test_who_changes_what_another_has_changed_is_shown_it_first(site: Site) -> None:
    mine, theirs = site.signed_in(), site.signed_in("副")
    form = {**FORM, "kind": "BRANCH_ASSEMBLY", "grace_minutes": "0", "end_day": ""}
    form["shown"] = shown_in(mine.get(f"{MEETING}/edit"))
    assert theirs.post(f"{MEETING}/edit", data={**form, "starts": "20:00"}).status_code == 303
    site.tap("李", minutes(-5))
    mended = {**form, "title": "更正的题", "chair": ""}
    response = mine.post(f"{MEETING}/edit", data=mended)
    assert response.status_code == 409
    page = text_of(response)
    assert "没有保存：您打开这一页以后，会议已被修改。" in page
    for each in ("会议名称 ：更正的题", "开始时间 ：19:00", "主持人 ：（空）"):
        assert each.replace(" ", "") in page.replace(" ", "")
    assert "结束时间：" not in page.replace(" ", "")
    for each in ("20:00", "五月党课"):
        assert f'value="{each}"' in response.text
    # What was seen now is changed; and what is not seen, or was made up, is not.
    again = {**form, "starts": "20:00", "title": "更正的题", "shown": shown_in(response)}
    for wrong in ({"shown": ""}, {"shown": "\x00"}, {"shown": form["shown"]}):
        assert mine.post(f"{MEETING}/edit", data={**again, **wrong}).status_code == 409
    assert "会议已修改。" in followed(mine, mine.post(f"{MEETING}/edit", data=again))
    # Another mistake does not make the form forget what it had shown.
    stale = {**again, "title": ""}
    response = mine.post(f"{MEETING}/edit", data=stale)
    assert (response.status_code, shown_in(response)) == (422, again["shown"])


def test_a_refused_move_is_said_beside_the_time(site: Site) -> None:
    client = site.signed_in()
    client.post(f"{MEETING}/desk/held", data={"held": "yes"})
    form = {**FORM, "kind": "BRANCH_ASSEMBLY", "grace_minutes": "0"}
    form["shown"] = shown_in(client.get(f"{MEETING}/edit"))
    response = client.post(f"{MEETING}/edit", data=form)
    assert response.status_code == 422
    assert "已按原来的时间办理了“确认已召开”" in text_of(response)


def test_organisations_take_part_by_ticking_them(site: Site) -> None:
    client = site.signed_in()
    assert "乙名" not in text_of(client.get(f"{MEETING}/partners"))
    assert "乙名" in text_of(client.get(f"{MEETING}/partners?q=乙"))
    response = client.post(f"{MEETING}/partners", data={"code": ["乙"]})
    assert "乙名" in followed(client, response)
    partner = site.signed_in("乙")
    assert partner.get(MEETING).status_code == 404  # it has not agreed yet
    theirs = f"{MEETING}/partners/{public_id('乙')}"
    assert partner.post(theirs, data={"agreed": "yes"}).status_code == 303
    assert partner.get(MEETING).status_code == 200
    wrong = client.post(f"{MEETING}/partners", data={"code": ["乙", "无"]})
    assert wrong.status_code == 422
    assert "没有可以联合的组织“无”" in text_of(wrong)
    client.post(f"{MEETING}/partners", data={})
    assert site.signed_in("乙").get(MEETING).status_code == 404


# --- At the reader -------------------------------------------------------------------------


def test_an_act_that_counts_for_nothing_is_shown_with_the_reason(site: Site) -> None:
    with site.engine.begin() as conn:
        world = site.world(conn)
        world.office("王", "甲")
        unknown = world.names("M-999")
        for seq, (who, what, at, about) in enumerate(
            [
                ("王", Act.WITNESSED, 10, unknown),
                ("李", Act.HEAD_COUNT, 11, None),
                ("王", Act.CLOSED, 63, None),
            ],
            1,
        ):
            number = 23 if what is Act.HEAD_COUNT else None
            card = uid_of(world, who)
            entry = Entry(
                minutes(at) - minutes(-1000), minutes(at), True, card, what, number, about
            )
            world.batch("e", seq, [entry], minutes(at))
        derive_batch(conn)
    client = site.signed_in()
    desk = text_of(client.get(f"{MEETING}/desk"))
    said = text_of(client.get(f"{MEETING}/statements"))
    for page in (desk, said):
        assert "刷卡机上没有起作用的操作" in page
        assert "现场证明 ：M-999 王名 2026-04-24 11:16 按编号找不到这名党员 不算数" in page
        assert "清点人数 ：23人 李名 2026-04-24 11:17 刷卡人当时没有参会组织的职务" in page
    late = "会议结束 王名 2026-04-24 12:09 当时这个会场没有会议在签到"
    assert late in said
    assert "会议结束" not in desk
    # A partner is told of its own people alone, not of the room.
    with site.engine.begin() as conn:
        conn.execute(
            insert(s.meeting_organisations).values(
                meeting_id=site.ids["会"], organisation_id=site.ids["乙"], agreed_ms=0
            )
        )
    response = site.signed_in("乙").get(f"{MEETING}/statements")
    assert response.status_code == 200
    assert "没有起作用" not in text_of(response)


def at_the_reader(site: Site, *acts: tuple[str, Act, float, int | None, str | None]) -> None:
    """Whose card, what, the minute, a number and a member's code: each as a device tells it."""
    with site.engine.begin() as conn:
        world = site.world(conn)
        for who, what, at, number, code in acts:
            site.seq += 1
            about = None if code is None else world.names(code)
            entry = Entry(
                minutes(at) - minutes(-1000),
                minutes(at),
                True,
                uid_of(world, who),
                what,
                number,
                about,
            )
            world.batch("e", site.seq, [entry], minutes(at))
        derive_batch(conn)


def test_what_counts_at_the_reader_is_listed_and_can_be_withdrawn(site: Site) -> None:
    with site.engine.begin() as conn:
        site.world(conn).office("王", "甲")
    at_the_reader(
        site,
        ("王", Act.OPENED, 1, None, None),
        ("王", Act.HEAD_COUNT, 11, 6, None),
        ("王", Act.WITNESSED, 12, None, "李"),
    )
    client = site.signed_in()
    said = text_of(client.get(f"{MEETING}/statements"))
    by = "王名，在刷卡机“一号”上刷卡"
    assert f"现场证明 ：李名 李 {by} 2026-04-24 11:18 有效 撤回" in said
    assert f"清点人数 6人 {by} 2026-04-24 11:17 有效 撤回" in said
    assert f"会议开始 {by} 2026-04-24 11:07 有效 撤回" in said
    assert said.index("现场证明") < said.index("清点人数") < said.index("会议开始")
    assert attendances(site)["李"] == "WITNESSED"

    paths = re.findall(r'href="([^"]*/acts/[^"]*)"', client.get(f"{MEETING}/statements").text)
    for path, verb in zip(paths, ("现场证明”（李名", "清点人数 6人”", "会议开始”"), strict=True):
        asked = text_of(client.get(path))
        assert f"撤回“{verb}" in asked
        assert "会题" in asked
        assert by in asked
        assert "已撤回" in followed(client, client.post(path.split("?")[0]))
    said = text_of(client.get(f"{MEETING}/statements"))
    assert "李" not in attendances(site)
    assert said.count("有效") == 0
    assert "撤回 清点人数6人 甲秘书 2026-04-24" in said
    desk = text_of(client.get(f"{MEETING}/desk"))
    assert "会议召开了吗？" in desk
    # Once is enough, and it is said.
    again = followed(client, client.post(paths[0].split("?")[0]))
    assert "这一项已经撤回。" in again
    with site.engine.begin() as conn:
        assert rebuild_check(conn) == []


def test_who_was_witnessed_at_the_reader_does_not_withdraw_it(site: Site) -> None:
    with site.engine.begin() as conn:
        world = site.world(conn)
        world.office("王", "甲")
        found = Role.OPERATOR
        site.account(conn, "李管", "李管理", "甲", found, "李")
    at_the_reader(site, ("王", Act.WITNESSED, 12, None, "李"))
    [path] = re.findall(
        r'href="([^"]*/acts/[^"?]*)', site.signed_in().get(f"{MEETING}/statements").text
    )
    client = site.signed_in("李管")
    assert "/acts/" not in client.get(f"{MEETING}/statements").text
    assert "这一项不能由本人撤回。" in followed(client, client.post(path))
    assert attendances(site)["李"] == "WITNESSED"


def test_a_partner_is_told_of_acts_at_the_reader_what_concerns_it(site: Site) -> None:
    with site.engine.begin() as conn:
        site.world(conn).office("王", "甲")
        conn.execute(
            insert(s.meeting_organisations).values(
                meeting_id=site.ids["会"], organisation_id=site.ids["乙"], agreed_ms=0
            )
        )
    at_the_reader(
        site,
        ("王", Act.HEAD_COUNT, 11, 6, None),
        ("王", Act.WITNESSED, 12, None, "李"),
        ("王", Act.WITNESSED, 13, None, "钱"),
    )
    response = site.signed_in("乙").get(f"{MEETING}/statements")
    said = text_of(response)
    assert "清点人数 6人" in said
    assert "现场证明 ：钱名" in said
    assert "李名" not in said
    assert "/acts/" not in response.text


def test_a_withdrawal_says_what_of_which_meeting_by_whom_and_when(site: Site) -> None:
    client = site.signed_in()
    client.post(f"{MEETING}/desk/head-count", data={"number": "6"})
    path = f"/declarations/{declared(site, 'HEAD_COUNT')}/withdraw"
    asked = text_of(client.get(path))
    assert "撤回“清点人数 6人”？" in asked
    assert "会议 会题 2026年4月24日 星期五" in asked
    assert "甲秘书 2026-04-24 12:16" in asked
    client.post(path)
    said = text_of(client.get(f"{MEETING}/statements"))
    at = "甲秘书 2026-04-24 12:16"
    assert f"撤回 清点人数6人 {at} 清点人数 6人 {at} 已撤回" in said


def test_without_such_an_act_there_is_no_word_of_it(site: Site) -> None:
    client = site.signed_in()
    for path in ("desk", "statements"):
        assert "没有起作用" not in text_of(client.get(f"{MEETING}/{path}"))


# --- On the spot ----------------------------------------------------------------------------


def test_who_is_missing_is_witnessed_with_one_tap(site: Site) -> None:
    site.now_ms = minutes(10)
    site.tap("李", minutes(-5))
    client = site.signed_in()
    page = client.get(f"{MEETING}/desk")
    assert f'value="{WANG}"' in page.text
    assert f'value="{LI}"' not in page.text  # has tapped
    response = client.post(f"{MEETING}/desk/witness", data={"member": WANG})
    shown = followed(client, response)
    assert "已记为现场证明到场。" in shown
    assert attendances(site) == {"李": "PRESENT", "王": "WITNESSED"}
    # A page that is out of date says so and changes nothing.
    late = followed(client, client.post(f"{MEETING}/desk/witness", data={"member": LI}))
    assert "这名党员已有到会记录。" in late
    client.post(f"{MEETING}/desk/witness", data={"code": "钱"})
    assert attendances(site)["钱"] == "GUEST"
    for code, said in (("无", "没有编号为“无”的党员"), (" ", "请填写党员编号")):
        wrong = client.post(f"{MEETING}/desk/witness", data={"code": code})
        assert wrong.status_code == 422
        assert said in text_of(wrong)


def test_the_meeting_is_confirmed_and_heads_are_counted(site: Site) -> None:
    client = site.signed_in()
    assert "已确认会议召开。" in followed(
        client, client.post(f"{MEETING}/desk/held", data={"held": "yes"})
    )
    assert "已确认召开" in text_of(client.get(f"{MEETING}/desk"))
    followed(client, client.post(f"{MEETING}/desk/held", data={"held": "no"}))
    assert "已确认未召开" in text_of(client.get(f"{MEETING}/desk"))
    assert client.post(f"{MEETING}/desk/held", data={"held": "x"}).status_code == 303
    assert "清点人数：3人" in followed(
        client, client.post(f"{MEETING}/desk/head-count", data={"number": "3"})
    )
    for number, said in (("三", "请填写整数"), ("-1", "请填写整数"), ("999999", "0到100000")):
        wrong = client.post(f"{MEETING}/desk/head-count", data={"number": number})
        assert wrong.status_code == 422
        assert said in text_of(wrong)


def test_before_check_in_nobody_can_be_witnessed(site: Site) -> None:
    site.now_ms = minutes(-40)
    client = site.signed_in()
    page = client.get(f"{MEETING}/desk")
    assert "证明到场" not in page.text.split("<main")[1].split("未见人员")[1]
    told = followed(client, client.post(f"{MEETING}/desk/witness", data={"member": WANG}))
    assert "会议签到还没有开始" in told
    assert attendances(site) == {}


# --- The paper sheet ------------------------------------------------------------------------


def test_a_signed_sheet_is_entered(site: Site) -> None:
    client = site.signed_in()
    response = client.post(
        f"{MEETING}/sheet", data={"member": [LI, WANG], "codes": "钱\n", "complete": "yes"}
    )
    shown = followed(client, response)
    assert "签到表已录入，并已确认录完。" in shown
    assert "外单位人员" in shown  # the guest is not named to this branch
    assert "钱名" not in shown
    assert attendances(site) == {"李": "PRESENT", "王": "PRESENT", "钱": "GUEST"}
    assert f'value="{LI}"' not in client.get(f"{MEETING}/sheet").text
    wrong = client.post(f"{MEETING}/sheet", data={"member": [ZHAO], "codes": "无"})
    assert wrong.status_code == 422
    assert "没有编号为“无”的党员" in text_of(wrong)
    assert re.search(f'value="{ZHAO}" checked', wrong.text)
    assert client.post(f"{MEETING}/sheet", data={}).status_code == 422
    assert "赵" not in attendances(site)
    path = f"/declarations/{declared(site, 'SHEET')}/withdraw"
    assert "撤回后这一项不再起作用" in text_of(client.get(path))
    assert "已撤回。" in followed(client, client.post(path, data={"back": "sheet"}))
    assert "钱" not in attendances(site)
    assert "这一项已经撤回。" in followed(client, client.post(path, data={"back": "sheet"}))


def test_a_blank_sheet_has_everybody_and_room_for_guests(site: Site) -> None:
    page = site.signed_in().get(f"{MEETING}/sheet/print")
    shown = text_of(page)
    for words in ("会题 签到表", "甲名", "礼堂名", "应到3人", "李名", "王名", "赵名", "签名"):
        assert words in shown
    rows = re.findall(r"<tr>", page.text.split("<tbody>")[1])
    assert len(rows) == 3
    assert len(re.findall(r"<tr>", page.text.split("<tbody>")[2])) == 8


# --- Leave and 补签 --------------------------------------------------------------------------


def test_leave_is_entered_and_granted_in_one_go_or_later(site: Site) -> None:
    client = site.signed_in()
    form = {"member": LI, "reason": "ILLNESS", "granted": "yes"}
    assert "已准假。" in followed(client, client.post(f"{MEETING}/leave", data=form))
    form = {"member": WANG, "reason": "WORK"}
    assert "等待审批" in followed(client, client.post(f"{MEETING}/leave", data=form))
    assert attendances(site) == {"李": "EXCUSED"}
    asked = declared(site, "LEAVE_ASKED")
    assert "王名" in text_of(client.get("/asks"))
    assert "王名" in text_of(client.get(f"{MEETING}/desk"))
    response = client.post(f"/declarations/{asked}/decide", data={"granted": "yes", "back": "asks"})
    assert response.headers["location"] == "/asks"
    assert "现在没有需要审批的申请。" in followed(client, response)
    assert attendances(site) == {"李": "EXCUSED", "王": "EXCUSED"}
    again = client.post(f"/declarations/{asked}/decide", data={"granted": "no"})
    assert "已经办理" in followed(client, again)
    assert client.post(f"/declarations/{asked}/decide", data={}).status_code == 303
    for form, said in (
        ({"member": ZHAO}, "请选择请假类别"),
        ({"reason": "WORK"}, "请选择党员"),
        ({"member": LI, "reason": "WORK"}, "已经申请过"),
    ):
        wrong = client.post(f"{MEETING}/leave", data=form)
        assert wrong.status_code == 422
        assert said in text_of(wrong)


def test_a_back_fill_is_decided_by_somebody_else(site: Site) -> None:
    client = site.signed_in()
    form = {"member": LI, "reason": "忘带卡"}
    assert "须由另一人审批" in followed(client, client.post(f"{MEETING}/back-fill", data=form))
    asked = declared(site, "BACK_FILL_ASKED")
    path = f"/declarations/{asked}/decide"
    refused = followed(client, client.post(path, data={"granted": "yes"}))
    assert "补签须由申请人以外的人审批。" in refused
    assert attendances(site) == {}
    deputy = site.signed_in("副")
    assert "忘带卡" in text_of(deputy.get("/asks"))
    for person, may in ((client, False), (deputy, True)):
        for page in ("/asks", f"{MEETING}/back-fill"):
            assert (path in person.get(page).text) is may
    followed(deputy, deputy.post(path, data={"granted": "yes", "back": "back-fill"}))
    assert attendances(site) == {"李": "BACK_FILLED"}
    for form, said in (
        ({"member": WANG, "reason": " "}, "请填写这一项"),
        ({"member": "x", "reason": "忘"}, "请选择党员"),
    ):
        wrong = client.post(f"{MEETING}/back-fill", data=form)
        assert wrong.status_code == 422
        assert said in text_of(wrong)


def test_too_late_for_a_back_fill_is_said_at_once(site: Site) -> None:
    site.now_ms = minutes(60 * 24 * 9)
    page = text_of(site.signed_in().get(f"{MEETING}/back-fill"))
    assert "已超过补签期限：应在会议结束后7天内申请。" in page
    assert "补签原因" not in page


def test_who_does_not_decide_on_a_leave_does_not_learn_its_reason(site: Site) -> None:
    client = site.signed_in()
    client.post(f"{MEETING}/leave", data={"member": LI, "reason": "ILLNESS", "granted": "yes"})
    client.post(f"{MEETING}/back-fill", data={"member": WANG, "reason": "忘带卡了"})
    assert "病假" in text_of(client.get(f"{MEETING}/statements"))
    shown = text_of(site.signed_in("监").get(f"{MEETING}/statements"))
    assert "李名" in shown
    for secret in ("病假", "忘带卡了", "撤回 ："):
        assert secret not in shown
    auditor = site.signed_in("监")
    for path in ("desk", "sheet", "sheet/print", "leave", "back-fill", "edit", "cancel"):
        assert auditor.get(f"{MEETING}/{path}").status_code == 403
    assert site.signed_in("党").get(f"{MEETING}/statements").status_code == 403


# --- Other branches -------------------------------------------------------------------------


@pytest.fixture
def joint(site: Site) -> Site:
    with site.engine.begin() as conn:
        conn.execute(
            insert(s.meeting_organisations).values(
                meeting_id=site.ids["会"], organisation_id=site.ids["乙"], agreed_ms=0
            )
        )
    return site


def test_a_partner_decides_on_its_own_and_sees_no_others(joint: Site) -> None:
    host, partner = joint.signed_in("甲"), joint.signed_in("乙")
    host.post(f"{MEETING}/leave", data={"member": LI, "reason": "ILLNESS"})
    theirs = declared(joint, "LEAVE_ASKED")
    host.post(f"{MEETING}/desk/witness", data={"member": WANG})
    for path in ("desk", "sheet", "sheet/print", "edit", "cancel", "partners"):
        assert partner.get(f"{MEETING}/{path}").status_code == 404
    for path in ("leave", "back-fill", "statements"):
        # But for the choices of a form.
        page = partner.get(f"{MEETING}/{path}").text
        shown = re.sub(r"<fieldset.*?</fieldset>", "", page, flags=re.DOTALL)
        for name in ("李名", "王名", "赵名", "病假"):
            assert name not in shown
    assert "钱名" in partner.get(f"{MEETING}/leave").text
    assert "李名" not in text_of(partner.get("/asks"))
    assert (
        partner.post(f"/declarations/{theirs}/decide", data={"granted": "yes"}).status_code == 404
    )
    assert partner.post(f"/declarations/{theirs}/withdraw").status_code == 404
    assert partner.get(f"/declarations/{theirs}/withdraw").status_code == 404
    partner.post(f"{MEETING}/leave", data={"member": QIAN, "reason": "AWAY"})
    ours = declared(joint, "LEAVE_ASKED")
    assert "钱名" in text_of(partner.get("/asks"))
    assert partner.post(f"/declarations/{ours}/decide", data={"granted": "yes"}).status_code == 303
    # The host sees all of it: it is their meeting.
    shown = text_of(host.get(f"{MEETING}/statements"))
    assert "钱名" in shown
    assert "外出" in shown


def test_who_looked_is_on_record(site: Site) -> None:
    client = site.signed_in()
    for path in ("desk", "sheet", "sheet/print", "leave", "back-fill", "statements"):
        client.get(f"{MEETING}/{path}")
    client.get("/asks")
    with reading(site.engine) as conn:
        what = set(conn.scalars(select(s.accesses.c.what)))
    assert what == {
        "meeting.desk",
        "meeting.sheet",
        "meeting.asks",
        "meeting.statements",
        "asks.page",
    }


def test_open_asks_come_in_pages(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.web.meetings.PAGE_LINES", 2)
    client = site.signed_in()
    for member in (LI, WANG, ZHAO):
        client.post(f"{MEETING}/leave", data={"member": member, "reason": "WORK"})
    first, second = text_of(client.get("/asks")), text_of(client.get("/asks?page=2"))
    assert "共 3 条" in first
    assert "李名" in first
    assert "赵名" not in first
    assert "赵名" in second
    assert client.get("/asks?page=x").status_code == 200


PATHS = [
    f"{MEETING}/{path}"
    for path in ("desk", "sheet", "sheet/print", "leave", "back-fill", "statements", "edit")
]


@pytest.mark.parametrize("path", [*PATHS, "/asks", "/meetings/new"])
def test_each_page_reads_in_english(site: Site, path: str) -> None:
    client = site.signed_in()
    client.cookies.set("lang", "en")
    client.post(f"{MEETING}/leave", data={"member": LI, "reason": "WORK"})
    page = client.get(path)
    plain = re.sub(r'value="[^"]*"', "", page.text)
    # Names, titles and codes are data; a single character each, or one and 名, 题 or 秘书.
    words = re.findall(r"[\u4e00-\u9fff]{2,}", re.sub(r"<[^>]*>", " ", plain.split("<main")[1]))
    data = {"会题", "礼堂", "礼堂名", "甲秘书", *(f"{each}名" for each in "李王赵甲乙区")}
    assert set(words) <= data


def test_a_joint_sheet_begins_with_the_hosts_own(joint: Site) -> None:
    client = joint.signed_in("甲")
    names = re.findall(r'class="c-name">([^ <]+) ', client.get(f"{MEETING}/sheet/print").text)
    assert [sorted(names[:3]), sorted(names[3:])] == [
        sorted(["李名", "王名", "赵名"]),
        sorted(["钱名", "孙名"]),
    ]
    # What is entered afterwards stands in the order of the paper.
    entered = re.findall(r"<b>(.名)</b>", client.get(f"{MEETING}/sheet").text)
    assert entered == names
