"""What pages are made of, in a browser: accessible, nothing sticks out, works on a phone."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from hub.domain.words import Words
from hub.failures import SecurityHeaders
from hub.web.pages import STATIC, _environment, render
from hub.web.visit import Visits, done
from tests.hub.site import serving
from tests.hub.web.axe import assert_accessible, sticking_out
from tests.hub.web.test_browser import browser, watched

pytestmark = pytest.mark.browser


GALLERY = (Path(__file__).parent / "gallery.html").read_text("utf-8")
ERRORS = {
    "title": Words("{name}没有看懂，请按 2026-07-01 这样的格式填写。", name="A"),
    "kind": "开始日期晚于结束日期，请重新选择。",
    "reason": Words("没有。"),
    "file": Words("没有。"),
}
CALLER = {
    "name": "Zhang San of a name that is rather long",
    "organisation": "Committee of a district",
}


def gallery() -> FastAPI:
    """Every macro on one page, and the page that asks before a deed."""
    app = FastAPI(openapi_url=None)
    app.state.context = SimpleNamespace(closing=asyncio.Event())
    app.add_middleware(Visits)
    app.add_middleware(SecurityHeaders)
    nav: list[Any] = [
        {"section": f"s{n}", "path": f"/{n}", "icon": icon, "words": Words("会议考勤")}
        for n, icon in enumerate(["meeting", "people", "device", "search", "key", "log", "person"])
    ]

    @app.get("/gallery")
    def show(request: Request) -> HTMLResponse:
        errors = ERRORS if "wrong" in request.query_params else {}
        return HTMLResponse(
            _environment.from_string(GALLERY).render(
                caller=CALLER, section="s1", nav=nav, errors=errors
            )
        )

    @app.get("/confirm")
    def confirm() -> HTMLResponse:
        text = render(
            "confirm.html",
            caller=CALLER,
            section="s1",
            nav=nav,
            title="Cancel it?",
            words="It cannot be undone.",
            action="/gallery",
            button="Cancel the meeting",
            back="/gallery",
            is_danger=True,
            fields={"why": "x"},
        )
        return HTMLResponse(text)

    @app.post("/gallery")
    def act() -> Any:
        return done("/gallery", "{month}月{day}日 {weekday}", month=7, day=1, weekday="<b>")

    app.mount("/static", StaticFiles(directory=STATIC), "static")
    return app


def test_the_parts_of_pages_are_accessible_and_stay_within_the_screen(tmp_path: Path) -> None:
    complaints: list[str] = []
    with serving(gallery()) as (url, _), browser() as tab:
        tab_page = watched(tab, complaints)
        for language in ("zh", "en"):
            tab.add_cookies([{"name": "lang", "value": language, "url": url}])
            for path in ("/gallery", "/gallery?wrong", "/confirm"):
                for width in (360, 768, 1280):
                    tab_page.set_viewport_size({"width": width, "height": 780})
                    tab_page.goto(url + path)
                    tab_page.screenshot(
                        path=tmp_path / f"{language}{path[1:]}{width}.png", full_page=True
                    )
                    assert_accessible(tab_page)
                    assert sticking_out(tab_page) == []
            assert tab_page.locator("html").get_attribute("lang") == (
                "zh-CN" if language == "zh" else "en"
            )
        tab_page.close()
    assert complaints == []


def test_on_a_phone_the_main_deed_stays_in_reach_and_is_large() -> None:
    with serving(gallery()) as (url, _), browser(viewport={"width": 360, "height": 700}) as tab:
        page = tab.new_page()
        page.goto(url + "/gallery?wrong")
        page.get_by_label("会议", exact=True).focus()
        button = page.get_by_role("button", name="保存")
        box = button.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 700
        assert box["height"] >= 48
        for each in page.locator("button:visible, a.button:visible, .field:visible").all():
            box = each.bounding_box()
            assert box is not None
            assert box["height"] >= 24, each.inner_html()  # WCAG 2.2, 2.5.8
        page.close()


def test_an_error_leads_to_its_field_and_is_read_with_it() -> None:
    with serving(gallery()) as (url, _), browser() as tab:
        page = tab.new_page()
        page.goto(url + "/gallery?wrong")
        field = page.locator("#f-title")
        assert field.get_attribute("aria-invalid") == "true"
        told = (field.get_attribute("aria-describedby") or "").split()
        assert [page.locator(f"#{each}").inner_text() for each in told] == [
            "例如 2026-07-01",
            "A没有看懂，请按 2026-07-01 这样的格式填写。",
        ]
        assert field.input_value() == "x<y"
        page.get_by_role("alert").get_by_role("link", name="会议").click()
        assert page.evaluate("document.activeElement.id") == "f-title"
        page.close()


def test_a_notice_is_shown_once_after_the_deed_also_without_javascript() -> None:
    with serving(gallery()) as (url, _), browser(java_script_enabled=False) as tab:
        page = tab.new_page()
        page.goto(url + "/confirm")
        page.get_by_role("button", name="Cancel the meeting").click()
        page.wait_for_url(url + "/gallery")
        assert page.get_by_role("status").first.inner_text() == "7月1日 <b>"
        assert not page.get_by_role("button", name="打印").is_visible()
        page.reload()
        assert page.get_by_text("7月1日").count() == 0
        page.close()


def test_an_impatient_finger_sends_a_form_once() -> None:
    with serving(gallery()) as (url, _), browser() as tab:
        page = tab.new_page()
        sent: list[str] = []
        page.on("request", lambda each: sent.append(each.method))
        page.goto(url + "/confirm")
        page.get_by_role("button", name="Cancel the meeting").dblclick()
        page.wait_for_url(url + "/gallery")
        assert sent.count("POST") == 1
        page.close()
