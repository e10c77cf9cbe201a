"""Taps to be checked, cards, devices and venues in a real browser, also without JavaScript."""

import pytest
from sqlalchemy import Engine

from hub.context import Joining
from hub.domain.terms import Role
from tests.hub.site import Site, serving
from tests.hub.web.axe import assert_accessible, assert_light, sticking_out
from tests.hub.web.test_browser import browser, one_database, sign_in, watched
from tests.hub.world import Entry, minutes, public_id

pytestmark = [pytest.mark.browser, one_database]

MEETING = public_id("会")


@pytest.fixture
def site(engine: Engine) -> Site:
    joining = Joining(bytes(range(10)), "mqtt://127.0.0.1:1883")
    site = Site(engine, now_ms=minutes(20), joining=joining)
    with engine.begin() as conn:
        world = site.world(conn)
        card = world.card(None, "04FEEDFACE1234")
        site.account(conn, "op", "管理员", "区", Role.OPERATOR)
        at = Entry(5, site.now_ms - 10_000, trusted=True)
        world.heartbeat("一号", "e", 2, at, site.now_ms - 10_000)
    site.tap(None, minutes(3), card)
    site.tap("王", minutes(-40))
    return site


def test_every_page_is_accessible_fits_and_is_light(site: Site) -> None:
    complaints: list[str] = []
    with serving(site.app) as (url, _), browser() as tab:
        page = watched(tab, complaints)
        sign_in(page, url, "/taps", "op")
        tap = page.locator("td.deeds a").first.get_attribute("href")
        assert tap is not None
        page.goto(f"{url}/taps?kind=UNPLACED")
        unplaced = page.locator("td.deeds a").first.get_attribute("href")
        page.goto(f"{url}/members/{public_id('李')}/cards")
        card = page.locator("td.deeds a").first.get_attribute("href")
        bind = f"{tap.partition('?')[0]}?member={public_id('赵')}"
        paths = [
            "/taps",
            f"/taps?meeting={MEETING}",
            "/taps?from=2026-05-01&to=2026-01-01",
            f"{tap}&name=z",
            bind,
            unplaced,
            f"/members/{public_id('李')}/cards",
            card,
            "/devices",
            "/devices/new",
            f"/devices/{public_id('一号')}",
            "/venues",
            "/venues/new",
            f"/venues/{public_id('礼堂')}",
        ]
        assert_light(tab, f"{url}/devices")
        for path in paths:
            for lang in ("zh", "en"):
                tab.add_cookies([{"name": "lang", "value": lang, "url": url}])
                for width in (360, 1280):
                    page.set_viewport_size({"width": width, "height": 700})
                    page.goto(f"{url}{path}")
                    assert sticking_out(page) == [], f"{path} {width} {lang}"
                    assert_accessible(page)
        page.close()
    assert [each for each in complaints if "422" not in each] == []


def test_a_code_is_shown_with_its_picture(site: Site) -> None:
    complaints: list[str] = []
    with serving(site.app) as (url, _), browser() as tab:
        page = watched(tab, complaints)
        sign_in(page, url, "/devices/new", "op")
        page.get_by_label("设备名称").fill("二号")
        page.get_by_label("装在哪个会场").select_option(str(public_id("礼堂")))
        page.get_by_role("button", name="添加并生成登记码").click()
        picture = page.get_by_role("img", name="登记命令的二维码")
        picture.wait_for()
        assert picture.evaluate("image => image.naturalWidth") > 100
        for width in (360, 1280):
            page.set_viewport_size({"width": width, "height": 700})
            assert sticking_out(page) == []
            assert_accessible(page)
        page.close()
    assert complaints == []


def test_from_the_list_to_the_meeting_without_javascript(site: Site) -> None:
    with serving(site.app) as (url, _), browser(java_script_enabled=False) as tab:
        page = tab.new_page()
        sign_in(page, url, f"/taps?meeting={MEETING}")
        page.get_by_role("link", name="是谁的卡").click()
        page.get_by_label("姓名、拼音或编号").fill("赵")
        page.get_by_role("button", name="查找").click()
        page.get_by_role("link", name="赵名").first.click()
        page.get_by_role("button", name="登记为本人的卡").click()
        page.get_by_text("已登记持卡人").wait_for()
        assert page.get_by_text("没有要核对的。").is_visible()
        page.goto(f"{url}/meetings/{MEETING}")
        assert page.get_by_role("row", name="赵名").first.is_visible()
