"""Attendance by conditions and its files, members, and what is said of a meeting that goes on."""

import csv
import html
import io
import re
from typing import Any

import httpx
import pytest
from python_calamine import CalamineWorkbook
from sqlalchemy import insert, select, update

from hub.derive import rebuild
from hub.store import schema as s
from hub.web import query
from tests.hub.site import PASSWORD, Site, serving
from tests.hub.web.test_live import Stream
from tests.hub.web.test_pages import visible
from tests.hub.world import Entry, minutes, public_id

MEETING = f"/meetings/{public_id('会')}"
MEMBER = f"/members/{public_id('李')}"


def rows(page: str) -> list[tuple[str, str]]:
    """(name, verdict) of each line of a list."""
    body = page.rsplit("<tbody>", maxsplit=1)[-1].split("</tbody>", maxsplit=1)[0]
    found = []
    for each in body.split("<tr>")[1:]:
        name = re.search(r'<th scope="row">(?:<a [^>]*>)?([^<]*)', each)
        verdict = re.search(r"chip-\w+\">.*?</svg>([^<]*)<", each)
        if name and verdict:
            found.append((name[1], verdict[1]))
    return found


def declare(site: Site, kind: str, member: str | None = None, number: int | None = None) -> None:
    with site.engine.begin() as conn:
        conn.execute(
            insert(s.declarations).values(
                public_id=public_id(f"{kind} {member} {number}"),
                meeting_id=site.ids["会"],
                kind=kind,
                member_id=None if member is None else site.ids[member],
                number=number,
                author="某人",
                made_ms=site.now_ms,
            )
        )
        rebuild(conn)


def heard(site: Site, at_ms: int) -> None:
    with site.engine.begin() as conn:
        entry = Entry(at_ms - minutes(-1000), at_ms, trusted=True)
        site.world(conn).heartbeat("一号", "e", site.seq, entry, at_ms)


@pytest.fixture
def over(site: Site) -> Site:
    """李 in time, 王 late, 赵 unknown, 钱 of another branch a guest; the meeting is over."""
    site.tap("李", minutes(-10))
    site.tap("王", minutes(3))
    site.tap("钱", minutes(4))
    site.now_ms = minutes(90)
    return site


def test_a_page_by_each_condition(over: Site) -> None:
    client = over.signed_in()

    def found(conditions: str) -> set[tuple[str, str]]:
        response = client.get(f"/attendance?{conditions}")
        assert response.status_code == 200
        return set(rows(response.text))

    whole = {("李名", "出席"), ("王名", "迟到"), ("赵名", "待定")}
    assert found("") == whole
    assert found("name=wm") == found("name=王") == {("王名", "迟到")}
    assert found("verdict=PENDING") == {("赵名", "待定")}
    assert found("kind=PARTY_LECTURE") == set()
    assert found("from=2026-04-24&to=2026-04-24") == whole
    assert found("to=2026-04-23") == set()
    assert found(f"member={public_id('李')}") == {("李名", "出席")}
    assert found(f"meeting={public_id('会')}") == whole
    text = visible(client.get("/attendance").text)
    assert "共 3 条" in text
    assert "应到 3 人次 3 人 实到 2 人次 2 人 迟到 1 人次 1 人" in text
    above = rows(over.signed_in("区").get("/attendance").text)
    assert ("钱名", "列席") in above


def test_pages_have_every_line_once(over: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "PAGE_LINES", 2)
    client = over.signed_in()
    first = client.get("/attendance").text
    second = client.get("/attendance?page=2").text
    assert "第 1 / 2 页" in visible(first)
    assert len(rows(first)) == 2
    assert sorted(rows(first) + rows(second)) == sorted(
        [("李名", "出席"), ("王名", "迟到"), ("赵名", "待定")]
    )
    follow = re.search(r'<a class="button" href="([^"]*)" rel="next">', first)
    assert follow
    assert rows(client.get(html.unescape(follow[1])).text) == rows(second)


@pytest.mark.parametrize(
    ("conditions", "complaint"),
    [
        ("from=2026-02-30", "开始日期没有看懂"),
        ("to=1999-12-31", "结束日期没有看懂"),
        ("from=2026-05-02&to=2026-05-01", "开始日期晚于结束日期"),
        ("name=" + "x" * 101, "姓名或编号太长"),
        ("name=%00", "姓名或编号太长"),
    ],
)
@pytest.mark.parametrize("path", ["/attendance", "/attendance/file"])
def test_what_is_not_understood_is_said(
    over: Site, path: str, conditions: str, complaint: str
) -> None:
    response = over.signed_in().get(f"{path}?{conditions}")
    assert response.status_code == 422
    assert complaint in response.text
    assert "李名" not in response.text


@pytest.mark.parametrize(
    "conditions",
    [
        "organisation=x",
        "verdict=ABSENT",
        "kind=x",
        f"organisation={public_id('乙')}",
        f"organisation={public_id('区')}",
        f"member={public_id('钱')}",
        f"meeting={public_id('none')}",
    ],
)
def test_what_is_not_there_or_elsewhere_is_404(over: Site, conditions: str) -> None:
    for path in ("/attendance", "/attendance/file"):
        assert over.signed_in().get(f"{path}?{conditions}").status_code == 404


def test_a_name_that_fits_too_many(over: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query.store, "MOST_NAMED", 2)
    response = over.signed_in().get("/attendance?name=名")
    assert response.status_code == 422
    assert "符合这个姓名的人太多" in response.text


def test_the_files_hold_what_the_page_holds(over: Site) -> None:
    client = over.signed_in()
    response = client.get("/attendance/file?format=csv&from=2026-04-01&to=2026-04-30")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"].endswith("-2026-04-01-2026-04-30.csv")
    assert response.headers["cache-control"] == "no-store"
    lines = list(csv.reader(io.StringIO(response.content.decode("utf-8-sig"), newline="")))
    head = {line[0]: line[1:] for line in lines[:7]}
    assert head["期间"][:3] == ["2026-04-01", "至", "2026-04-30"]
    assert head["组织"][0] == "甲名（含下级）"
    assert head["导出人"][0] == "甲秘书"
    assert head["数据截至"][0] == "2026-04-24 12:36:00"
    titles, *table = lines[7:]
    assert [(row[7], row[9], row[10][-8:], row[11]) for row in table] == [
        ("李名", "出席", "10:56:00", "刷卡"),
        ("王名", "迟到", "11:09:00", "刷卡"),
        ("赵名", "待定", "", ""),
    ]
    book = client.get("/attendance/file?from=2026-04-01&to=2026-04-30")
    sheet = CalamineWorkbook.from_filelike(io.BytesIO(book.content)).get_sheet_by_index(0)
    as_read: list[list[Any]] = sheet.to_python()
    assert as_read[7] == titles
    assert [[str(cell) for cell in row[:12]] for row in as_read[8:]] == [row[:12] for row in table]
    assert client.get("/attendance/file?format=exe").status_code == 404


def test_a_file_that_is_too_large_is_refused_in_words(
    over: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "MOST_LINES", 2)
    response = over.signed_in().get("/attendance/file")
    assert response.status_code == 422
    assert "共 3 条，超过一次能导出的 2 条" in response.text
    # Nobody is named: that would be a look.
    assert "李名" not in response.text
    with over.engine.connect() as conn:
        assert (
            conn.execute(select(s.audit).where(s.audit.c.what == "attendance.export")).all() == []
        )


def test_every_look_and_file_is_written_down(over: Site) -> None:
    client = over.signed_in()
    client.get("/attendance?from=2026-04-01&to=2026-04-30")
    for _ in range(2):
        client.get("/attendance/file?from=2026-04-01&to=2026-04-30&verdict=LATE")
    client.get(MEMBER)
    client.get("/members?name=x")  # shows nobody
    client.get("/members?name=李")
    client.get(f"{MEETING}/screen")
    with over.engine.connect() as conn:
        looks = conn.execute(select(s.accesses).order_by(s.accesses.c.id)).all()
        deeds = conn.execute(select(s.audit).where(s.audit.c.what == "attendance.export")).all()
    branch = over.ids["甲"]
    assert [(row.what, row.organisation_id, row.member_id) for row in looks] == [
        ("attendance.page", branch, None),
        ("attendance.export", branch, None),
        ("attendance.export", branch, None),
        ("member.page", None, over.ids["李"]),
        ("members.page", branch, None),
    ]
    assert {row.actor for row in looks} == {"甲秘书"}
    assert all(row.from_ms < row.to_ms for row in looks[:4])
    assert len(deeds) == 2
    assert "verdict=LATE" in deeds[0].details
    assert '"lines": 1' in deeds[0].details


def test_names_do_not_become_code_or_formulas(over: Site) -> None:
    evil = "=1+<script>alert(1)</script>"
    with over.engine.begin() as conn:
        for table in (s.members, s.venues, s.organisations):
            conn.execute(update(table).values(name=evil))
        conn.execute(update(s.meetings).values(title=evil))
    client = over.signed_in()
    for path in ("/attendance", "/members", MEMBER, MEETING, f"{MEETING}/screen"):
        assert "<script>alert" not in client.get(path).text
    lines = client.get("/attendance/file?format=csv").content.decode("utf-8-sig").splitlines()
    cells = [cell for line in csv.reader(lines) for cell in line]
    assert any(cell.startswith("'=1+") for cell in cells)
    assert not any(cell.startswith("=") for cell in cells)


def test_members_are_found_and_each_has_a_page(over: Site) -> None:
    client = over.signed_in()
    text = visible(client.get("/members").text)
    assert "共 3 条" in text
    assert "钱名" not in text
    found = client.get("/members?name=lm").text
    assert "李名" in found
    assert "王名" not in found
    page = client.get(MEMBER)
    assert rows(page.text) == [("会题", "出席")]
    assert "应到 1 次 实到 1 次" in visible(page.text)
    assert rows(client.get(f"{MEMBER}?to=2026-04-23").text) == []
    bad = client.get(f"{MEMBER}?from=x")
    assert bad.status_code == 422
    assert "开始日期没有看懂" in bad.text
    assert rows(bad.text) == [("会题", "出席")]
    assert client.get(f"/members/{public_id('钱')}").status_code == 404
    assert over.signed_in("区").get(f"/members/{public_id('钱')}").status_code == 200


# --- The meeting's page and the shared screen ---------------------------------------------------


def test_what_was_stated_stands_beside_what_was_tapped(site: Site) -> None:
    site.tap("李", minutes(-10))
    site.now_ms = minutes(5)
    client = site.signed_in()
    text = visible(client.get(MEETING).text)
    assert "清点" not in text
    assert "是否达到法定人数尚不清楚" in text
    declare(site, "HEAD_COUNT", number=1)
    assert "清点 1 人，与到会记录一致" in visible(client.get(MEETING).text)
    site.now_ms += 1
    declare(site, "HEAD_COUNT", number=3)
    assert "清点 3 人，到会记录 1 人（含列席）：记录比清点少 2 人" in visible(
        client.get(MEETING).text
    )
    declare(site, "SHEET", "王")
    declare(site, "WITNESSED", "赵")
    declare(site, "SHEET", "钱")
    declare(site, "HELD")
    declare(site, "SHEET_COMPLETE")
    text = visible(client.get(MEETING).text)
    assert "清点 3 人，到会记录 4 人（含列席）：记录比清点多 1 人" in text
    assert "达到法定人数" in text
    assert "已确认召开" in text
    assert "签到表已录完" in text
    assert "王名 出席 纸质签到表 —" in text
    assert "赵名 现场证明 —" in text
    assert "李名 出席 刷卡 10:56:00" in text


def test_live_is_said_only_where_it_is_so(site: Site) -> None:
    trouble: list[str | None] = [None]
    site.health = lambda: trouble[0]
    site.app = site.application()
    site.tap("李", minutes(-10))
    site.now_ms = minutes(1)
    client = site.signed_in()

    def doubts(path: str = MEETING) -> str:
        page = client.get(path).text
        assert ("data-doubt" in page) == ("notice-warn doubts" in page or path != MEETING)
        return visible(page)

    assert "设备“一号”还没有联系上" in doubts()
    heard(site, minutes(0.5))
    assert "data-doubt" not in client.get(MEETING).text
    assert "设备“一号”：11:06以前的刷卡都已收到" in visible(client.get(MEETING).text)
    site.now_ms = minutes(4)
    assert "设备“一号”已有 3 分钟没有联系" in doubts()
    heard(site, minutes(4))
    trouble[0] = "the broker cannot be reached"
    assert "系统现在收不到签到设备的数据" in doubts()
    assert "broker" not in client.get(MEETING).text
    assert "数据可能有延迟" in doubts(f"{MEETING}/screen")
    # Nothing is promised before and after, and so nothing is in doubt.
    site.now_ms = minutes(61)
    assert "data-doubt" not in client.get(MEETING).text


def test_a_device_that_goes_on_is_no_failure_while_the_meeting_does(site: Site) -> None:
    site.tap("李", minutes(-10))
    heard(site, minutes(30))
    client = site.signed_in()
    site.now_ms = minutes(31)
    assert "记录只完整至" not in client.get(MEETING).text
    site.now_ms = minutes(61)
    assert "记录只完整至11:36，会议12:06结束" in client.get(MEETING).text


def test_a_shared_screen_shows_nobody(over: Site) -> None:
    over.now_ms = minutes(30)
    declare(over, "LEAVE_ASKED", "赵")
    client = over.signed_in()
    page = client.get(f"{MEETING}/screen")
    assert page.status_code == 200
    text = visible(page.text)
    assert "应到 3 实到 2 列席 1" in text
    assert "达到法定人数" in text
    for word in (
        "李",
        "王",
        "赵",
        "钱",
        "迟到",
        "未见",
        "请假",
        "待定",
        "缺席",
        "甲秘书",
        "到会率",
    ):
        assert word not in text
    assert over.client().get(f"{MEETING}/screen").status_code == 303
    assert over.signed_in("乙").get(f"{MEETING}/screen").status_code == 404


def test_the_screen_follows_and_says_when_it_cannot(site: Site) -> None:
    trouble: list[str | None] = [None]
    site.health = lambda: trouble[0]
    site.app = site.application()
    site.tap("李", minutes(-10))
    site.now_ms = minutes(1)
    heard(site, minutes(1))
    with serving(site.app) as (url, _), httpx.Client(base_url=url, trust_env=False) as client:
        client.post("/sign-in", data={"login": "甲", "password": PASSWORD})
        with client.stream("GET", f"{MEETING}/screen/live", timeout=5) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            stream = Stream(response.iter_lines())

            def shown() -> str:
                event = stream.next()
                assert event is not None
                assert "名 " not in visible(event[1]).replace("甲名", "").replace("礼堂名", "")
                return event[1]

            assert "实到 1 " in visible(shown())
            site.tap("王", minutes(1))
            first = shown()
            assert "实到 2 " in visible(first)
            assert "data-doubt" not in first
            # Nothing of the meeting changes, but what can be said of it does.
            trouble[0] = "the broker cannot be reached"
            assert "data-doubt" in shown()
            trouble[0] = None
            assert "data-doubt" not in shown()


def test_who_may_change_the_meeting_is_led_to_its_desk(site: Site) -> None:
    desk = f'href="{MEETING}/desk"'
    assert desk in site.signed_in("甲").get(MEETING).text
    assert desk in site.signed_in("区").get(MEETING).text
    with site.engine.begin() as conn:
        conn.execute(
            insert(s.meeting_organisations).values(
                meeting_id=site.ids["会"], organisation_id=site.ids["乙"], agreed_ms=0
            )
        )
    partner = site.signed_in("乙").get(MEETING).text
    assert desk not in partner
    assert "联合召开 乙名" in visible(partner)
