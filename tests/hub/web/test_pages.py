"""Pages: signing in and out, what is shown to whom, and that nothing leaks or executes."""

import re

import pytest
from sqlalchemy import Engine, select, update

from hub.auth.accounts import disable
from hub.auth.sessions import SESSION_MS
from hub.store import schema as s
from hub.web.access import local_path
from hub.web.routes import PAGE_LINES
from tests.hub.site import PASSWORD, Site
from tests.hub.world import Entry, minutes, public_id

MEETING = f"/meetings/{public_id('会')}"


def visible(html: str) -> str:
    """The text of a page, its tags taken away, spaces made one."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)).strip()


def test_a_page_leads_to_sign_in_and_back(site: Site) -> None:
    client = site.client()
    path = f"{MEETING}?a=b&c=d"
    response = client.get(path)
    assert response.status_code == 303
    form = client.get(response.headers["location"])
    assert form.status_code == 200
    assert f'value="{path.replace("&", "&amp;")}"' in form.text
    response = client.post("/sign-in", data={"login": "甲", "password": PASSWORD, "next": path})
    assert (response.status_code, response.headers["location"]) == (303, path)
    assert "会题" in client.get(path).text
    assert client.get("/sign-in?next=/meetings").headers["location"] == "/meetings"


@pytest.mark.parametrize("login", ["甲", "nobody", "", "a\x00b", " " * 300])
@pytest.mark.parametrize(
    "password", ["", "x", PASSWORD + " ", PASSWORD.upper(), "\U0001f600", "a\x00b", "x" * 5000]
)
def test_a_wrong_password_signs_nobody_in(site: Site, login: str, password: str) -> None:
    client = site.client()
    data = {"login": login, "password": password, "next": MEETING}
    response = client.post("/sign-in", data=data)
    assert response.status_code == 403
    assert "登录名或密码不对" in response.text
    assert f'value="{MEETING}"' in response.text
    assert 'name="password" type="password" required' in response.text, "comes back empty"
    assert "set-cookie" not in response.headers
    with site.engine.connect() as conn:
        assert conn.execute(select(s.sessions)).all() == []


def test_the_cookie(site: Site) -> None:
    client = site.client()
    plain = client.post("/sign-in", data={"login": " 甲", "password": PASSWORD})
    cookie = plain.headers["set-cookie"]
    assert re.fullmatch(
        r"shuaka_session=[\w-]{43}; HttpOnly; Max-Age=43200; Path=/; SameSite=strict", cookie
    )
    secure = client.post("https://hub.test/sign-in", data={"login": "甲", "password": PASSWORD})
    assert secure.headers["set-cookie"].endswith("; Secure")


def test_a_session_ends(site: Site) -> None:
    client = site.client().sign_in("甲")
    first = client.cookies["shuaka_session"]
    client.sign_in("区")
    second = client.cookies["shuaka_session"]

    def is_in(cookie: str) -> bool:
        other = site.client()
        other.cookies.set("shuaka_session", cookie)
        return other.get("/").status_code == 200

    assert not is_in(first), "signing in anew ends the session before"
    assert is_in(second)
    assert client.post("/sign-out").headers["location"] == "/sign-in"
    assert "shuaka_session" not in client.cookies
    assert not is_in(second)
    client.sign_in("甲")
    site.now_ms += SESSION_MS - 1
    assert client.get("/").status_code == 200
    site.now_ms += 1
    assert client.get("/").status_code == 303
    client.sign_in("甲")
    with site.engine.begin() as conn:
        disable(conn, conn.scalars(select(s.accounts.c.id).filter_by(login="甲")).one(), 1)
    assert client.get("/").status_code == 303


@pytest.mark.parametrize("path", ["/sign-in", "/sign-out"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://hub.test.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://hub.test"},
    ],
)
def test_a_form_of_another_site_is_refused(site: Site, path: str, headers: dict[str, str]) -> None:
    client = site.client().sign_in("甲")
    data = {"login": "甲", "password": PASSWORD}
    assert client.post(path, data=data, headers=headers).status_code == 403
    assert client.get("/").status_code == 200
    own = {"Origin": "http://hub.test", "Sec-Fetch-Site": "same-origin"}
    assert client.post(path, data=data, headers=own).status_code == 303


@pytest.mark.parametrize(
    "path",
    ["/", "/meetings/x", "/?from=2026-01-01&to=2026-02-01", "/a//b", "/a:b@c", "/[x]", "/%5c%5cx"],
)
def test_a_path_of_ones_own_is_kept(path: str) -> None:
    assert local_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "x",
        "//evil.example",
        "/\\evil.example",
        "/a\\b",
        "/\t/evil.example",
        "/\n/evil.example",
        "\t//evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "/ok\r\nSet-Cookie: a=b",
        "/ok\n",
        "/日",
        " /",
    ],
)
def test_a_way_out_is_not_followed(site: Site, path: str) -> None:
    assert local_path(path) == "/"
    response = site.client().post(
        "/sign-in", data={"login": "甲", "password": PASSWORD, "next": path}
    )
    assert (response.status_code, response.headers["location"]) == (303, "/")


def test_every_answer_is_hardened(site: Site) -> None:
    client = site.client().sign_in("甲")
    for path in ("/", MEETING, "/sign-in", "/none", "/api/v1/health", "/api/v1/none", "/static/x"):
        headers = client.get(path).headers
        assert headers["content-security-policy"] == (
            "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
            "form-action 'self'; base-uri 'none'"
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"


def test_static_files_are_cached_by_content(site: Site) -> None:
    client = site.client().sign_in("甲")
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+)"', client.get(MEETING).text)
    assert len(addresses) == 6
    for address in addresses:
        response = site.client().get(address)
        assert response.status_code == 200
        assert "immutable" in response.headers["cache-control"]
        assert site.client().get(address.split("?")[0]).headers["cache-control"] == "no-cache"
    assert site.client().get("/static/../routes.py").status_code == 404
    assert site.client().get("/static/%2e%2e/routes.py").status_code == 404


def test_pages_and_static_files_travel_compressed(site: Site) -> None:
    client = site.signed_in()
    html = client.get("/")
    (style,) = re.findall(r'href="(/static/app.css[^"]+)"', html.text)
    for answer in (html, client.get(style)):
        assert answer.headers["content-encoding"] == "gzip"
        assert "accept-encoding" in answer.headers["vary"].lower()
    plain = client.get("/", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == html.text


def test_no_page_has_inline_code_or_leaves_a_place_empty(site: Site) -> None:
    site.tap("李", minutes(-10))
    client = site.client().sign_in("甲")
    for path in ("/", MEETING, "/none"):
        html = client.get(path).text
        assert not re.search(r"<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=|javascript:", html)
        assert html.count("<h1") == 1
        assert 'lang="zh-CN"' in html
        assert "<main" in html
        assert not re.search(r"https?://", html), "a page fetches nothing from elsewhere"
        tables = html.count("<table")
        assert html.count("<caption>") == tables
        labels = set(re.findall(r'<label for="(\w+)"', html))
        fields = set(re.findall(r'<input class="field" id="(\w+)"', html))
        assert labels == fields


def test_names_do_not_become_code(site: Site) -> None:
    evil = "<script>alert(1)</script>\"'&"
    with site.engine.begin() as conn:
        conn.execute(update(s.members).values(name=evil))
        conn.execute(update(s.meetings).values(title=evil))
        conn.execute(update(s.venues).values(name=evil))
        conn.execute(update(s.organisations).values(name=evil))
        conn.execute(update(s.devices).values(name=evil))
    site.tap("李", minutes(-1))
    site.now_ms = minutes(90)
    client = site.client().sign_in("甲")
    for path in ("/", MEETING):
        html = client.get(path).text
        assert "<script>alert" not in html
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;" in html


def test_the_words_follow_the_clock(site: Site) -> None:
    site.tap("李", minutes(-10))
    site.tap("王", minutes(2))
    site.tap("钱", minutes(3))
    client = site.client().sign_in("甲")
    for at, phase, missing in (
        (-31, "未开始", "未见"),
        (-30, "签到中", "未见"),
        (0, "进行中", "未见"),
        (60, "进行中", "未见"),
        (60.001, "已结束", "待定"),
    ):
        site.now_ms = minutes(at)
        text = visible(client.get(MEETING).text)
        assert f"状态 {phase} 类型 支部党员大会 组织 甲名 地点 礼堂名" in text
        assert f"{missing} 1 人" in text
    assert "实到 2 人 到会率 66.7% 应到 3 人 待定 1 人 请假 0 人 其中迟到 1 人 列席 1 人" in text
    assert "外单位人员 乙名 列席" in text
    assert "钱名" not in text, "a guest from another sub-tree is a branch and no name"
    assert "为什么是“待定” 没有刷卡记录的 1 人" in text
    assert "会议是否召开尚未确认" in text
    assert "设备“一号”" in text


def test_taps_to_be_looked_at_are_counted(site: Site) -> None:
    with site.engine.begin() as conn:
        world = site.world(conn)
        stranger = world.card(None, "DEADBEEF")
        world.meeting("会2", "甲", "礼堂", 10)
    site.tap(None, minutes(5), stranger)
    site.tap("钱", minutes(6))
    client = site.client().sign_in("甲")
    text = visible(client.get(MEETING).text)
    assert "未识别 卡没有登记，不知道是谁 1 次" in text
    assert "未归会 同时有几场会议，不知道算哪一场 1 次" in text
    assert "DEADBEEF" not in client.get(MEETING).text


def test_a_device_that_came_late_leaves_the_record_open_before_it(site: Site) -> None:
    site.tap("李", minutes(0))
    site.now_ms = minutes(70)
    with site.engine.begin() as conn:
        world = site.world(conn)
        world.heartbeat("一号", "e", 1, Entry(9, minutes(65), trusted=True), minutes(65))
    client = site.client().sign_in("甲")
    assert "刷卡记录已全部收齐" in visible(client.get(MEETING).text)
    with site.engine.begin() as conn:
        conn.execute(update(s.placements).values(valid_from_ms=minutes(-10)))
    text = visible(client.get(MEETING).text)
    assert "收齐。" not in text
    assert "签到期间（10:36–12:06）不是一直有设备：10:56前会场没有登记的签到设备。" in text
    assert "前会场没有登记的签到设备" in text


def test_a_cancelled_meeting_counts_nothing(site: Site) -> None:
    with site.engine.begin() as conn:
        conn.execute(update(s.meetings).values(cancelled=True))
    client = site.client().sign_in("甲")
    text = visible(client.get(MEETING).text)
    assert "已取消" in text
    assert "应到" not in text


def test_namesakes_are_told_apart(site: Site) -> None:
    with site.engine.begin() as conn:
        conn.execute(
            update(s.members).where(s.members.c.code.in_(["李", "王"])).values(name="王芳")
        )
    text = visible(site.client().sign_in("甲").get(MEETING).text)
    assert "王芳 编号 李" in text
    assert "王芳 编号 王" in text
    assert "赵名 编号" not in text


def test_the_list_begins_with_today(site: Site) -> None:
    with site.engine.begin() as conn:
        world = site.world(conn)
        world.meeting("昨", "甲", "礼堂", -24 * 60)
        world.meeting("前", "乙", "礼堂", -48 * 60)
        world.meeting("明", "甲", "礼堂", 24 * 60)
        world.meeting("远", "甲", "礼堂", 60 * 24 * 60)
    client = site.client().sign_in("区")
    text = visible(client.get("/").text)
    order = [
        "共 4 场",
        "今天 2026年4月24日 星期五",
        "会题",
        "接下来",
        "明题",
        "之前",
        "昨题",
        "前题",
    ]
    places = [text.index(each) for each in order]
    assert places == sorted(places)
    assert "远题" not in text
    far = visible(client.get("/?from=2026-06-01&to=2026-07-01").text)
    assert "查询结果" in far
    assert "远题" in far
    assert "会题" not in far
    own = visible(site.client().sign_in("乙").get("/").text)
    assert "今天没有会议" in own
    assert "前题" in own
    assert "会题" not in own


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("from=2026-02-30", "开始日期没有看懂"),
        ("from=x&to=2026-01-01", "开始日期没有看懂"),
        ("to=2026-1-1", "结束日期没有看懂"),
        ("to=9999-12-31", "结束日期没有看懂"),
        ("from=2026-05-02&to=2026-05-01", "开始日期晚于结束日期"),
    ],
)
def test_a_bad_day_is_said_in_words(site: Site, query: str, complaint: str) -> None:
    response = site.client().sign_in("甲").get(f"/?{query}")
    assert response.status_code == 422
    assert complaint in response.text
    assert "会题" in response.text


def test_a_long_list_has_pages(site: Site) -> None:
    with site.engine.begin() as conn:
        world = site.world(conn)
        for number in range(PAGE_LINES):
            world.meeting(f"m{number}", "甲", "礼堂", 24 * 60 + number)
    client = site.client().sign_in("甲")
    first, second = client.get("/").text, client.get("/?page=2").text
    assert first.count("<tr>") - first.count("<thead>") == PAGE_LINES
    assert second.count("<tr>") - second.count("<thead>") == 1
    assert "m99题" in second
    assert 'href="/?page=2"' in first
    assert client.get("/?page=3").status_code == 200
    assert visible(client.get("/?page=x").text) == visible(first)


@pytest.mark.parametrize("bad", ["x", "%00", str(public_id("会"))[:-1]])
def test_an_address_that_names_nothing_is_a_page_in_words(site: Site, bad: str) -> None:
    client = site.client().sign_in("甲")
    for path in (f"/meetings/{bad}", f"/meetings/{bad}/live", "/nothing"):
        response = client.get(path)
        assert response.status_code == 404
        assert "没有找到这个页面" in response.text


def test_a_form_that_is_too_large_is_refused(engine: Engine) -> None:
    response = Site(engine).client().post("/sign-in", data={"token": "x" * 70_000})
    assert response.status_code == 413
    assert "太大" in response.text
