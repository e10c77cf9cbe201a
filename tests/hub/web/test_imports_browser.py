"""An import in a browser, from the template to the result, on a desk and on a phone."""

from pathlib import Path

import pytest
from playwright.sync_api import Page
from sqlalchemy import Engine

from hub.domain.terms import Role
from tests.hub.site import Site, serving
from tests.hub.test_import_files import EXPORT, sheet
from tests.hub.web.axe import assert_accessible, sticking_out
from tests.hub.web.test_browser import browser, one_database, sign_in, watched

pytestmark = pytest.mark.browser

MEMBERS = [
    ["党员编号", "姓名", "组织编号", "开始日期", "结束日期"],
    ["m8", "八", "甲", "2026-07-01", ""],
    ["李", "李名", "甲", "2025-03-20 11:06", "2026-12-31"],
]


def looked_at(page: Page, url: str, name: str, tmp_path: Path) -> None:
    for language in ("zh", "en"):
        page.context.add_cookies([{"name": "lang", "value": language, "url": url}])
        page.reload()
        tag = "zh-CN" if language == "zh" else "en"
        assert page.locator("html").get_attribute("lang") == tag
        for width in (360, 768, 1280):
            page.set_viewport_size({"width": width, "height": 780})
            page.screenshot(path=tmp_path / f"import-{name}-{language}{width}.png", full_page=True)
            assert sticking_out(page) == [], (name, language, width)
            assert_accessible(page)
    page.context.add_cookies([{"name": "lang", "value": "zh", "url": url}])
    page.reload()


def send(page: Page, rows: list[list[str]]) -> None:
    page.get_by_label("文件").set_input_files(
        {"name": "某区党员名册2026.xlsx", "mimeType": "application/x", "buffer": sheet(rows)}
    )
    page.get_by_role("button", name="上传并预览").click()


@one_database
@pytest.mark.parametrize("java_script", [True, False])
def test_a_list_is_corrected_matched_previewed_and_imported(
    engine: Engine, tmp_path: Path, java_script: bool
) -> None:
    site, complaints = Site(engine), list[str]()
    with engine.begin() as conn:
        site.account(conn, "op", "管理员", "区", Role.OPERATOR)
    with (
        serving(site.app) as (url, _),
        browser(java_script_enabled=java_script, accept_downloads=True) as tab,
    ):

        def look(name: str) -> None:
            if java_script:
                looked_at(page, url, name, tmp_path)

        page = watched(tab, complaints)
        sign_in(page, url, "/imports", "op")
        look("list")
        page.get_by_role("link", name="2. 党员").click()
        look("upload")
        with page.expect_download() as download:
            page.get_by_role("link", name="下载模板").click()
        assert download.value.suggested_filename == "党员.xlsx"
        send(page, [*MEMBERS, ["m10", "十", "丙", "昨天", ""]])
        page.get_by_role("heading", name="有问题，没有导入").wait_for()
        assert page.get_by_role("row", name="第4行 组织编号").count() == 1
        look("wrong")
        with page.expect_download() as download:
            page.get_by_role("link", name="下载标出问题的文件").click()
        assert download.value.suggested_filename == "党员-有问题.xlsx"
        page.get_by_role("link", name="重新上传").click()
        rows = [row.copy() for row in EXPORT]
        rows[2][4] = rows[3][4] = "甲名"
        send(page, rows)
        page.get_by_role("heading", name="对应各列").wait_for()
        look("columns")
        page.get_by_label("表决权：文件里没有时，每行都写").fill("无")
        page.get_by_role("button", name="预览").click()
        page.get_by_role("heading", name="预览", exact=True).wait_for()
        look("preview")
        page.get_by_role("button", name="确认导入").click()
        page.get_by_text("已全部导入：新增2行").wait_for()
        look("done")
        page.get_by_role("link", name="再导入一个文件").click()
        send(page, MEMBERS)
        page.get_by_role("heading", name="预览", exact=True).wait_for()
        assert page.locator("mark").all_inner_texts() == ["2026-12-31"]
        look("changes")
        page.get_by_role("button", name="放弃").click()
        page.get_by_text("已放弃，没有导入任何内容").wait_for()
        page.goto(url + "/imports/work")
        page.get_by_role("heading", name="没有正在处理的文件").wait_for()
        look("none")
        page.close()
    assert complaints == []
