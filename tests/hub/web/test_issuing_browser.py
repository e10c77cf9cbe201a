"""The desk station's page in a real browser: a card appears by itself, or after a reload."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine

from tests.hub.site import Site, serving
from tests.hub.test_issuing import CARD, OTHER, cards, read, stranger
from tests.hub.web.axe import assert_accessible, assert_light, sticking_out
from tests.hub.web.test_browser import browser, one_database, sign_in, watched
from tests.hub.world import minutes, public_id

pytestmark = [pytest.mark.browser, one_database]

WANG = f"/cards/desk?member={public_id('王')}"


@pytest.fixture
def site(engine: Engine) -> Site:
    site = Site(engine, now_ms=minutes(20))
    site.tap(None, minutes(-5), stranger(site))
    return site


@contextmanager
def station(site: Site) -> Iterator[Callable[[str], None]]:
    """Reads a card, in a thread without an event loop of a browser's."""
    wanted: queue.Queue[str | None] = queue.Queue()
    done: queue.Queue[None] = queue.Queue()

    def run() -> None:
        client = site.client(token="甲")
        for value in iter(wanted.get, None):
            read(client, value)
            done.put(None)

    thread = threading.Thread(target=run)
    thread.start()

    def read_one(value: str) -> None:
        wanted.put(value)
        done.get(timeout=10)

    try:
        yield read_one
    finally:
        wanted.put(None)
        thread.join()


def test_a_card_appears_and_is_bound_and_undone(site: Site) -> None:
    complaints: list[str] = []
    with serving(site.app) as (url, _), station(site) as reads, browser() as tab:
        page = watched(tab, complaints)
        sign_in(page, url, "/cards/desk")
        page.get_by_text("还没有读到卡").wait_for()
        page.get_by_text("实时更新中").wait_for()
        page.evaluate("window.notReloaded = true")
        reads(CARD)
        page.get_by_text("1234").wait_for()
        page.get_by_text("下一步").wait_for()
        assert page.evaluate("window.notReloaded") is True
        page.get_by_label("姓名、拼音或编号").fill("w")
        page.get_by_role("button", name="查找").click()
        page.get_by_role("link", name="王名").click()
        page.get_by_text("王名已经有一张卡").wait_for()
        page.get_by_text("实时更新中").wait_for()
        for width in (360, 1280):
            page.set_viewport_size({"width": width, "height": 740})
            assert sticking_out(page) == []
            assert_accessible(page)
        page.get_by_role("button", name="换卡，旧卡停用").click()
        page.get_by_text("已登记为王名的卡").wait_for()
        reads(OTHER)
        page.get_by_text("5678").wait_for()
        page.get_by_role("button", name="撤销，旧卡恢复").click()
        page.get_by_text("已撤销").wait_for()
        assert_light(tab, f"{url}{WANG}")
        page.close()
    assert complaints == []
    assert [each["valid_to"] for each in cards(site, "王")] == [None]


def test_without_javascript_a_reload_shows_the_card(site: Site) -> None:
    with (
        serving(site.app) as (url, _),
        station(site) as reads,
        browser(java_script_enabled=False) as tab,
    ):
        page = tab.new_page()
        sign_in(page, url, WANG)
        reads(CARD)
        page.get_by_role("link", name="刷新").click()
        page.get_by_text("1234", exact=True).wait_for()
        page.get_by_role("link", name="改起始时间").click()
        page.get_by_label("卡的编号").fill("0815")
        page.get_by_role("button", name="登记为本人的卡").click()
        page.get_by_text("已登记为王名的卡").wait_for()
    assert cards(site, "王")[0]["code"] == "0815"
