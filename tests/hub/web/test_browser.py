"""A real browser at a real server: signing in, a tap that appears by itself, print, phones."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright
from sqlalchemy import Engine, delete

from hub.store import schema as s
from hub.web import live
from tests.hub.site import PASSWORD, Site, serving
from tests.hub.web.axe import assert_accessible, assert_light, sticking_out
from tests.hub.world import Entry, minutes, public_id

pytestmark = pytest.mark.browser

one_database = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
"""For what only the browser decides."""
MEETING = f"/meetings/{public_id('会')}"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def browser(**options: Any) -> Iterator[BrowserContext]:
    """Debian's chromium with a profile of its own."""
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path="/usr/bin/chromium", args=FLAGS, **options
        )
        try:
            yield context
        finally:
            context.close()


def watched(context: BrowserContext, complaints: list[str]) -> Page:
    """A page of which everything that the console or the policy complains about is kept."""
    page = context.new_page()
    page.on(
        "console",
        lambda each: complaints.append(each.text) if each.type in {"error", "warning"} else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.add_init_script(
        "document.addEventListener('securitypolicyviolation',"
        " (event) => console.error('policy: ' + event.violatedDirective));"
    )
    return page


@one_database
def test_on_a_phone_the_navigation_shows_where_one_is(site: Site) -> None:
    with (
        serving(site.app) as (url, _),
        browser(viewport={"width": 360, "height": 740}) as context,
    ):
        page = context.new_page()
        sign_in(page, url, "/")
        for path in ("/devices", "/"):
            page.goto(url + path)
            row = page.locator(".side ul")
            here = page.locator(".side a[aria-current]").bounding_box()
            assert here
            assert here["x"] >= 0
            # Clear of the fade that says that there is more.
            assert here["x"] + here["width"] <= 360 - 32
            assert "gradient" in row.evaluate("each => getComputedStyle(each).maskImage")


def sign_in(page: Page, url: str, path: str, login: str = "甲") -> None:
    page.goto(url + path)
    page.get_by_label("登录名").fill(login)
    page.get_by_label("密码").fill(PASSWORD)
    page.get_by_role("button", name="登录").click()
    page.wait_for_url(url + path)


def heard_of(site: Site) -> None:
    """The device is heard of now: what the page shows does not lag behind."""
    with site.engine.begin() as conn:
        at = Entry(9, site.now_ms, trusted=True)
        site.world(conn).heartbeat("一号", "e", site.seq, at, site.now_ms)


def test_a_tap_appears_without_reload(engine: Engine, tmp_path: Path) -> None:
    site, complaints = Site(engine), list[str]()
    site.tap("李", minutes(-10))
    heard_of(site)
    with serving(site.app) as (url, stop), browser(viewport={"width": 1280, "height": 900}) as tab:
        page = watched(tab, complaints)
        sign_in(page, url, MEETING)
        assert page.title() == "会题 · 刷卡考勤"
        page.get_by_text("实时更新中").wait_for()
        page.evaluate("window.notReloaded = true")
        members = page.get_by_role("table", name="应到人员")
        assert members.get_by_role("row", name="王名 未见").count() == 1
        site.now_ms = minutes(1)
        site.tap("王", minutes(1))
        members.get_by_role("row", name=re.compile("王名 迟到 .*11:07:00")).wait_for(timeout=5000)
        assert page.locator("tr.fresh").count() == 1
        assert "实到2人" in page.locator("#say").inner_text()
        assert page.evaluate("window.notReloaded") is True
        # Icons are drawn: a symbol that is missing would leave nothing.
        boxes = page.locator(".chip .icon").evaluate_all(
            "all => all.map(each => each.querySelector('use').getBBox().width)"
        )
        assert boxes
        assert all(boxes)
        assert page.get_by_role("button", name="打印").is_visible()
        page.emulate_media(media="print")
        assert not page.locator(".bar").is_visible()
        assert not page.locator(".side").is_visible()
        page.pdf(path=tmp_path / "a4.pdf", prefer_css_page_size=True)
        page.emulate_media(media="screen")
        assert complaints == []
        # A session that ends: the page says so, and does not go on asking.
        with engine.begin() as conn:
            conn.execute(delete(s.sessions))
        page.get_by_text("已停止更新，请刷新页面").wait_for(timeout=5000)
        page.get_by_role("link", name="刷新").click()
        page.wait_for_url("**/sign-in?next=*")
        assert complaints == []
        stop()


@one_database
def test_a_server_that_comes_back_is_found_again(engine: Engine) -> None:
    site = Site(engine)
    heard_of(site)
    with browser() as tab:
        page = tab.new_page()
        with serving(site.app) as (url, stop):
            port = int(url.rpartition(":")[2])
            sign_in(page, url, MEETING)
            page.get_by_text("实时更新中").wait_for()
            stop()
            page.get_by_text("连接已断开，正在重连").wait_for(timeout=5000)
        site.tap("李", minutes(-6))
        with serving(site.application(), port=port):
            page.get_by_text("实时更新中").wait_for(timeout=15_000)
            page.get_by_role("row", name="李名 出席").wait_for(timeout=5000)
            page.close()


@one_database
def test_it_is_live_also_where_a_script_comes_late(engine: Engine) -> None:
    site = Site(engine)
    heard_of(site)
    with serving(site.app) as (url, _), browser() as tab:
        page = tab.new_page()
        page.route("**/hx-sse*", lambda each: (page.wait_for_timeout(500), each.continue_())[1])
        sign_in(page, url, MEETING)
        page.get_by_text("实时更新中").wait_for(timeout=5000)
        page.close()


@one_database
def test_a_stream_that_cannot_begin_is_tried_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(engine)
    heard_of(site)
    with serving(site.app) as (url, _), browser() as tab:
        page = tab.new_page()
        with monkeypatch.context() as patch:
            patch.setattr(live, "STREAMS_A_SESSION", 0)
            sign_in(page, url, MEETING)
            page.get_by_text("连接已断开，正在重连").wait_for()
            # What was there stays: an answer that is no stream is not put on the page.
            assert page.get_by_role("row", name="李名 未见").count() == 1
        page.get_by_text("实时更新中").wait_for(timeout=10_000)
        page.close()


@one_database
@pytest.mark.parametrize("login", ["甲", None])
def test_every_page_is_accessible_fits_and_is_light(engine: Engine, login: str | None) -> None:
    site, complaints = Site(engine), list[str]()
    for number, member in enumerate(["李", "王", "钱"]):
        site.tap(member, minutes(number - 1))
    with serving(site.app) as (url, _), browser() as tab:
        page = watched(tab, complaints)
        paths = ["/sign-in", "/none"]
        if login is not None:
            sign_in(page, url, "/", login)
            paths = ["/", "/?from=x", MEETING, f"{MEETING}/screen", "/password", "/none"]
            paths += ["/attendance", "/attendance?from=x", "/members"]
            paths += [f"/members/{public_id('李')}", f"/members/{public_id('李')}?to=x"]
        for path in paths:
            if path not in {"/none", "/?from=x"}:
                assert_light(tab, url + path)
            for lang in ("zh", "en"):
                tab.add_cookies([{"name": "lang", "value": lang, "url": url}])
                for width in (360, 390, 768, 1280):
                    page.set_viewport_size({"width": width, "height": 700})
                    page.goto(url + path)
                    assert sticking_out(page) == [], f"{path} {width} {lang}"
                assert page.get_by_role("heading", level=1).count() == 1
                for width in (360, 1280):
                    page.set_viewport_size({"width": width, "height": 700})
                    assert_accessible(page)
        page.close()
    assert [each for each in complaints if "40" not in each and "422" not in each] == []


@one_database
def test_all_of_it_reads_without_javascript(engine: Engine) -> None:
    site = Site(engine)
    with serving(site.app) as (url, _), browser(java_script_enabled=False) as tab:
        page = tab.new_page()
        sign_in(page, url, MEETING)
        assert page.get_by_role("row", name="李名 未见").count() == 1
        assert not page.get_by_role("button", name="打印").is_visible()
        site.tap("李", minutes(-6))
        page.get_by_role("link", name="刷新").click()
        page.get_by_role("row", name="李名 出席").wait_for(timeout=5000)
        page.get_by_role("button", name="退出").click()
        page.wait_for_url("**/sign-in")
