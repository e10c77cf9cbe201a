"""The switch of language, and that an English page is English but for what people typed in."""

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import Engine, select, update

from hub.store import schema as s
from tests.hub.site import Client, Site
from tests.hub.web.test_words import CHINESE
from tests.hub.world import minutes, public_id

MEETING = f"/meetings/{public_id('会')}"


def in_english(site: Site, login: str = "甲") -> Client:
    client = site.signed_in(login)
    assert client.post("/language", data={"lang": "en", "next": "/"}).status_code == 303
    return client


def plain_names(engine: Engine) -> None:
    """What people typed in, without Chinese."""
    with engine.begin() as conn:
        for table in (s.organisations, s.members, s.venues, s.devices, s.accounts):
            conn.execute(update(table).values(name="Name"))
        conn.execute(update(s.meetings).values(title="Title"))
        conn.execute(update(s.venues).values(code="V"))
        for code, number in enumerate(conn.scalars(select(s.members.c.id)).all()):
            conn.execute(update(s.members).where(s.members.c.id == number).values(code=f"M{code}"))


def pages(site: Site) -> Iterator[str]:
    """The address of every page that needs no more than a meeting to be named."""
    for route in iter_route_contexts(site.app.routes):
        if route.path != "/static" and "GET" in route.methods:
            path = route.path.replace("{meeting}", str(public_id("会")))
            if not path.startswith("/api/") and "{" not in path and not path.endswith("/live"):
                yield path


def left_chinese(html: str) -> list[str]:
    """Of a page: Chinese that is not marked as such by `lang`."""
    html = re.sub(r'<(\w+)[^>]* lang="zh-CN"[^>]*>.*?</\1>', "", html)
    html = re.sub(r"“[^”]*”", "", html)  # what a device says, or is called
    return [line.strip() for line in html.splitlines() if CHINESE.search(line)]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("login", ["甲", None])
def test_an_english_page_is_english(site: Site, login: str | None) -> None:
    site.tap("李", minutes(-10))
    site.tap("王", minutes(3))
    site.tap("钱", minutes(4))
    plain_names(site.engine)
    client = site.client() if login is None else site.signed_in(login)
    client.post("/language", data={"lang": "en", "next": "/"})
    seen = set()
    for now_ms in (minutes(-5), minutes(90)):
        site.now_ms = now_ms
        for path in [*pages(site), "/none", "/?from=x", "/?from=2026-05-02&to=2026-05-01"]:
            response = client.get(path)
            if response.headers.get("content-type", "").startswith("text/html"):
                seen.add(path)
                assert left_chinese(response.text) == [], path
                assert '<html lang="en">' in response.text
    assert seen >= ({"/sign-in", "/none"} if login is None else {"/", MEETING, "/none"})


def test_the_switch_leads_back_to_the_page_and_is_kept(site: Site) -> None:
    client = site.signed_in()
    path = "/?from=2026-04-01&to=2026-05-01"
    html = client.get(path).text
    assert '<html lang="zh-CN">' in html
    assert 'name="next" value="/?from=2026-04-01&amp;to=2026-05-01"' in html
    response = client.post("/language", data={"lang": "en", "next": path})
    assert (response.status_code, response.headers["location"]) == (303, path)
    assert re.fullmatch(
        r"lang=en; HttpOnly; Max-Age=31536000; Path=/; SameSite=lax",
        response.headers["set-cookie"],
    )
    text = client.get(path).text
    assert "Meetings" in text
    assert 'value="zh" lang="zh-CN">中文<' in text
    client.post("/language", data={"lang": "zh"})
    assert '<html lang="zh-CN">' in client.get("/").text


@pytest.mark.parametrize("lang", ["", "fr", "EN", "../../x", "zh"])
def test_any_other_language_is_chinese(site: Site, lang: str) -> None:
    client = site.client()
    client.post("/language", data={"lang": lang})
    assert '<html lang="zh-CN">' in client.get("/sign-in").text
    client.cookies.set("lang", quote(lang))
    assert '<html lang="zh-CN">' in client.get("/sign-in").text


@pytest.mark.parametrize("way", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_the_switch_leads_nowhere_else(site: Site, way: str) -> None:
    response = site.client().post("/language", data={"lang": "en", "next": way})
    assert response.headers["location"] == "/"


def test_two_who_watch_one_meeting_in_two_languages_read_their_own(site: Site) -> None:
    client = in_english(site)
    english = client.get(MEETING).text
    assert "expected: 3, present: 0" in english
    assert "应到3人，实到0人" in site.signed_in().get(MEETING).text


@pytest.mark.parametrize(
    "cookie", ["x", "====", "W10=", "WyJlcnIiLCJ4Il0=", "eyJhIjoxfQ==", "W1siLCJd", "5pel"]
)
def test_a_notice_that_nobody_left_is_not_shown(site: Site, cookie: str) -> None:
    client = site.client()
    client.cookies.set("notice", cookie)
    response = client.get("/sign-in")
    assert response.status_code == 200
    assert "notice-top" not in response.text
