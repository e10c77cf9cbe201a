"""Every page there is, found in the table of routes, in a browser.

A page that is added later is looked at without being named here: axe finds nothing (WCAG 2.1 AA),
it fits a phone and a desk, costs little to open, complains of nothing, has one heading of the first
level, and reads without JavaScript. See `tests.hub.test_routes` for what paths may name.
"""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import BrowserContext
from sqlalchemy import Engine

from hub.domain.terms import Role
from tests.hub.site import serving
from tests.hub.test_routes import ALL, STREAMS, Ground, ground
from tests.hub.web.axe import assert_accessible, assert_light, sticking_out
from tests.hub.web.test_browser import browser, sign_in, watched

__all__ = ["ground"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(400),
    pytest.mark.parametrize("engine", ["sqlite"], indirect=True),
]

PAGES = [
    each
    for each in ALL
    if each.method == "GET" and not each.is_api and not STREAMS.search(each.path)
]
LOGIN = f"甲-{Role.OPERATOR.value}"
"""Who may open all of them: an operator who is a member too."""
WIDTHS = (360, 1280)


def shown(ground: Ground) -> list[str]:
    """The addresses that answer with a page and not with a file, asked by LOGIN."""
    client = ground.site.signed_in(LOGIN)
    found = []
    for route in PAGES:
        address = route.url(ground.things["甲"])
        kind = client.get(address).headers.get("content-type", "")
        if kind.startswith("text/html"):
            found.append(address)
    assert len(found) >= 30
    return found


def wrong(check: Callable[[], None]) -> list[str]:
    try:
        check()
    except AssertionError as error:
        return [str(error)]
    return []


def test_every_page_is_accessible_fits_and_is_light(engine: Engine, ground: Ground) -> None:
    complaints: list[str] = []
    found: list[str] = []
    addresses = shown(ground)
    with serving(ground.site.app) as (url, _), browser() as context:
        page = watched(context, complaints)
        sign_in(page, url, "/password", LOGIN)
        for address in addresses:
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 740})
                page.goto(url + address)
                found += wrong(lambda: assert_accessible(page))
                found += [f"{address} at {width}: {each}" for each in sticking_out(page)]
            if page.get_by_role("heading", level=1).count() != 1:
                found.append(f"{address}: not one h1")
            found += wrong(lambda: assert_light(context, url + address))  # noqa: B023
        page.close()
    assert not found, "\n".join(found)
    # Pages that need something done before are 404, and the browser notes that.
    assert [each for each in complaints if "404" not in each and "403" not in each] == []


def test_every_page_reads_without_javascript(engine: Engine, ground: Ground) -> None:
    """The same headings, the same columns, the same fields, the same forms."""
    said: list[dict[str, list[str]]] = []
    addresses = shown(ground)
    with serving(ground.site.app) as (url, _):
        cookies: Any = None
        for scripts in (True, False):
            # One session for both: pages list sessions, and the log tells of each.
            with browser(java_script_enabled=scripts) as context:
                if cookies is None:
                    page = context.new_page()
                    sign_in(page, url, "/password", LOGIN)
                    page.close()
                    cookies = context.cookies()
                context.add_cookies(cookies)
                said.append({each: parts(context, url + each) for each in addresses})
    with_scripts, without = said
    for address in addresses:
        assert without[address] == with_scripts[address], address


def parts(context: BrowserContext, address: str) -> list[str]:
    """What a page says where nothing is live: its headings, columns, fields, forms."""
    page = context.new_page()
    page.goto(address)
    found = []
    for selector in ("h1", "h2", "th", "label"):
        found += [
            f"{selector}: {each}" for each in page.locator(f"main {selector}").all_inner_texts()
        ]
    for each in page.locator("form").all():
        found.append(f"form {each.get_attribute('method')} {each.get_attribute('action')}")
    page.close()
    assert found, address
    return found
