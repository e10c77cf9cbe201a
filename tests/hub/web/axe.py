"""What a browser finds wrong with a page: axe-core over it, and how many bytes it cost to open.

axe-core comes with the browser packages (see hatch_build.py). `assert_accessible` takes a page as
it stands, so show errors first; `assert_light` opens an address with an empty cache.
"""

import gzip
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page, Response

AXE = Path(__file__).parents[3] / "node_modules/axe-core/axe.min.js"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
COLD_LOAD_BYTES = 300_000


def violations(page: Page) -> list[str]:
    """What axe finds: rule, what is wrong, and where. WCAG 2.1 A and AA, and good practice."""
    # Over the debugger, past the page's policy; a second time does no harm.
    page.evaluate(AXE.read_text("utf-8"))
    found: dict[str, Any] = page.evaluate(
        "tags => axe.run(document, {runOnly: tags, resultTypes: ['violations']})", TAGS
    )
    assert found["testEngine"]["name"] == "axe-core"
    return [
        f"{rule['id']}: {node['html'][:200]}\n  {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


def assert_accessible(page: Page) -> None:
    """axe finds nothing on the page as it stands."""
    found = violations(page)
    assert not found, f"{page.url}\n" + "\n".join(found)


def sticking_out(page: Page) -> list[str]:
    """What is wider than the screen or than its card, and what in the top bar covers another."""
    found: list[str] = page.evaluate(
        """() => {
          const found = Array.from(document.querySelectorAll("html, .card, .bar"))
            .filter((each) => each.scrollWidth > each.clientWidth)
            .map((each) => `${each.className || each.tagName} is ${each.scrollWidth} wide`);
          const parts = Array.from(document.querySelectorAll(".bar > *"));
          const bar = parts.map((each) => each.getBoundingClientRect());
          bar.slice(1).forEach((each, n) => {
            if (each.left < bar[n].right) found.push(`part ${n + 1} of the bar covers part ${n}`);
          });
          return found;
        }"""
    )
    return found


def cold_load_bytes(context: BrowserContext, url: str) -> int:
    """What opening `url` transfers with an empty cache: the bodies, each compressed by gzip.

    The session of `context` is used. Live streams are left out.
    """
    page = context.new_page()
    client = context.new_cdp_session(page)
    client.send("Network.enable")
    client.send("Network.clearBrowserCache")
    got: list[Response] = []
    page.on("response", lambda each: got.append(each))  # noqa: PLW0108  it must be a function
    page.goto(url, wait_until="load")
    page.wait_for_timeout(200)
    bodies = [
        each.body()
        for each in got
        if each.status == 200 and "event-stream" not in each.headers.get("content-type", "")
    ]
    page.close()
    assert bodies, url
    return sum(len(gzip.compress(body)) for body in bodies)


def assert_light(context: BrowserContext, url: str) -> None:
    """A cold load of `url` stays below what was promised."""
    size = cold_load_bytes(context, url)
    assert 1000 < size <= COLD_LOAD_BYTES, f"{url}: {size} bytes"
