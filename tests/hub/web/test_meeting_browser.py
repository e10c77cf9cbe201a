"""A meeting kept in a real browser, without JavaScript, on a phone; the blank sheet on A4."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page
from sqlalchemy import Engine, select

from hub.store import schema as s
from hub.store.engine import reading
from tests.hub.site import PASSWORD, Site, serving
from tests.hub.web.axe import assert_accessible, sticking_out
from tests.hub.web.test_browser import browser, one_database, watched
from tests.hub.world import minutes, public_id

pytestmark = [pytest.mark.browser, one_database]

MEETING = f"/meetings/{public_id('会')}"
PATHS = [
    "/meetings/new",
    "/asks",
    *(
        f"{MEETING}/{each}"
        for each in (
            "desk",
            "sheet",
            "sheet/print",
            "leave",
            "back-fill",
            "statements",
            "edit",
            "cancel",
            "partners?q=乙",
        )
    ),
]


@pytest.fixture
def site(engine: Engine) -> Site:
    return Site(engine, now_ms=minutes(70))


def sign_in(context: BrowserContext, url: str, complaints: list[str]) -> Page:
    page = watched(context, complaints)
    page.goto(f"{url}/sign-in")
    page.fill("#f-login", "甲")
    page.fill("#f-password", PASSWORD)
    page.click("main button")
    page.wait_for_url(f"{url}/")
    return page


def told(page: Page) -> str:
    return page.locator(".notice-top").inner_text()


def attendances(site: Site) -> dict[str, str]:
    a, m = s.attendances.c, s.members.c
    with reading(site.engine) as conn:
        return {
            row.code: row.verdict
            for row in conn.execute(select(m.code, a.verdict).join(s.members, m.id == a.member_id))
        }


def test_a_meeting_is_run_on_a_phone_without_javascript(site: Site) -> None:
    complaints: list[str] = []
    with (
        serving(site.app) as (url, _),
        browser(viewport={"width": 360, "height": 740}, java_script_enabled=False) as context,
    ):
        page = sign_in(context, url, complaints)
        page.goto(f"{url}{MEETING}")
        page.get_by_role("link", name="会务处理").click()
        page.get_by_role("button", name=re.compile("证明到场.*王名")).click()
        assert told(page) == "已记为现场证明到场。"
        assert page.get_by_role("button", name=re.compile("证明到场.*王名")).count() == 0
        page.get_by_role("button", name="确认已召开").click()
        page.get_by_label("清点人数").fill("2")
        page.get_by_role("button", name="记下").click()
        assert told(page) == "已记下清点人数：2人。"
        page.get_by_role("link", name=re.compile("请假.*赵名")).click()
        assert page.get_by_label("党员", exact=True).input_value() == str(public_id("赵"))
        page.get_by_label("病假").check()
        page.get_by_role("button", name="保存").click()
        assert told(page) == "已准假。"
        page.get_by_role("link", name="纸质签到表").click()
        page.get_by_label("李名").check()
        page.get_by_role("button", name="录入").click()
        assert attendances(site) == {"王": "WITNESSED", "赵": "EXCUSED", "李": "PRESENT"}
        page.get_by_role("link", name="办理记录").click()
        page.get_by_role("link", name=re.compile("撤回.*现场证明")).click()
        page.get_by_role("button", name="撤回").click()
        assert told(page) == "已撤回。"
        assert attendances(site) == {"赵": "EXCUSED", "李": "PRESENT"}
    assert complaints == []


@pytest.mark.parametrize("width", [360, 1280])
def test_every_page_is_accessible_and_fits(site: Site, width: int) -> None:
    complaints: list[str] = []
    with (
        serving(site.app) as (url, _),
        browser(viewport={"width": width, "height": 740}) as context,
    ):
        page = sign_in(context, url, complaints)
        for member in "李王":
            page.goto(f"{url}{MEETING}/leave")
            page.select_option("#f-member", str(public_id(member)))
            page.check("input[value=WORK]")
            page.uncheck("#f-granted")
            page.click(".form-actions button")
            page.wait_for_selector(".notice-top")
        page.goto(f"{url}{MEETING}/sheet")
        page.check(f"input[value='{public_id('赵')}']")
        page.click(".form-actions button")
        page.wait_for_selector(".notice-top")
        for path in PATHS:
            page.goto(f"{url}{path}")
            assert_accessible(page)
            assert sticking_out(page) == [], path
            if width == 360:
                # What is done with a thumb is large enough for one (WCAG 2.5.8 asks for 24).
                for box in page.locator("main button:visible").all():
                    found: Any = box.bounding_box()
                    assert found["height"] >= 30, path
    assert complaints == []


@pytest.mark.parametrize(("members", "pages"), [(5, 1), (40, 2)])
def test_the_blank_sheet_fits_a4(site: Site, tmp_path: Path, members: int, pages: int) -> None:
    with site.engine.begin() as conn:
        for number in range(members - 3):
            site.world(conn).member(f"党员{number}", "甲")
    with (
        serving(site.app) as (url, _),
        browser(viewport={"width": 1280, "height": 740}) as context,
    ):
        page = sign_in(context, url, [])
        page.goto(f"{url}{MEETING}/sheet/print")
        assert page.locator("tbody tr").count() == members + 10
        pdf = page.pdf(prefer_css_page_size=True)
        assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == pages
        assert re.search(rb"/MediaBox\s*\[0 0 59[45]\S* 84[12]", pdf)
