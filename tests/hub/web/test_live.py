"""The live stream, through a real server: what it sends and when it ends."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from hub.audit import LOOK_AGAIN_MS
from hub.store import schema as s
from hub.store.engine import reading
from hub.web import live, pages
from tests.hub.site import PASSWORD, Site, serving
from tests.hub.world import minutes, public_id

MEETING = f"/meetings/{public_id('会')}"
SOON_S = 5
"""Every wait below ends with an event well before, or fails here."""


class Stream:
    """Events as a browser would read them."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    def next(self) -> tuple[str, str] | None:
        """(event, data) of the next event, None when the stream has ended."""
        event, data = "message", []
        for line in self._lines:
            if not line:
                if data:
                    return event, "\n".join(data)
                continue
            name, _, value = line.partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                data.append(value)
        return None


@contextmanager
def streaming(site: Site, url: str, cookies: httpx.Cookies | None = None) -> Iterator[Stream]:
    with httpx.Client(base_url=url, timeout=SOON_S, trust_env=False, cookies=cookies) as client:
        if cookies is None:
            client.post("/sign-in", data={"login": "甲", "password": PASSWORD})
        with client.stream("GET", f"{MEETING}/live") as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-store"
            assert "content-encoding" not in response.headers, "it would be held back"
            assert "default-src 'self'" in response.headers["content-security-policy"]
            yield Stream(response.iter_lines())


def test_a_tap_appears(site: Site) -> None:
    with serving(site.app) as (url, _), streaming(site, url) as stream:
        first = stream.next()
        assert first is not None
        assert first[0] == "message"
        assert "应到3人，实到0人" in first[1]
        begun = time.monotonic()
        site.tap("李", minutes(-6))
        second = stream.next()
        assert second is not None
        assert "应到3人，实到1人" in second[1]
        assert time.monotonic() - begun < 4 * live.POLL_S
        # What is sent is exactly what the page says after a reload.
        page = site.client().sign_in("甲").get(MEETING).text
        assert second[1].strip() in page


def test_the_stream_of_names_is_a_look_and_again_while_it_goes_on(site: Site) -> None:
    def looks() -> list[tuple[str, int]]:
        with reading(site.engine) as conn:
            a = s.accesses.c
            rows = conn.execute(select(a.what, a.meeting_id).order_by(a.id))
            return [(row.what, row.meeting_id) for row in rows]

    one = ("meeting.page", site.ids["会"])
    with serving(site.app) as (url, _), streaming(site, url) as stream:
        assert stream.next() is not None
        assert looks() == [one]
        site.tap("李", minutes(-6))
        assert stream.next() is not None
        assert looks() == [one]
        site.now_ms += LOOK_AGAIN_MS
        assert stream.next() is not None
        assert looks() == [one, one]


def test_the_screen_is_no_look(site: Site) -> None:
    with (
        serving(site.app) as (url, _),
        httpx.Client(base_url=url, timeout=SOON_S, trust_env=False) as client,
    ):
        client.post("/sign-in", data={"login": "甲", "password": PASSWORD})
        with client.stream("GET", f"{MEETING}/screen/live") as response:
            assert Stream(response.iter_lines()).next() is not None
    with reading(site.engine) as conn:
        assert conn.execute(select(s.accesses)).all() == []


def test_each_reads_the_stream_in_their_language(site: Site) -> None:
    client = site.signed_in()
    client.post("/language", data={"lang": "en"})
    english = httpx.Cookies({name: str(value) for name, value in client.cookies.items()})
    with (
        serving(site.app) as (url, _),
        streaming(site, url) as one,
        streaming(site, url, english) as two,
    ):
        for stream, words in ((one, "应到3人，实到0人"), (two, "expected: 3, present: 0")):
            event = stream.next()
            assert event is not None
            assert words in event[1]


def test_nothing_is_sent_while_nothing_is_new(site: Site) -> None:
    with serving(site.app) as (url, _), streaming(site, url) as stream:
        assert stream.next() is not None
        time.sleep(3 * live.POLL_S)
        site.tap("李", minutes(-6))
        event = stream.next()
        assert event is not None
        assert "实到1人" in event[1]


def test_the_clock_alone_changes_the_page(site: Site) -> None:
    site.now_ms = minutes(59)
    with serving(site.app) as (url, _), streaming(site, url) as stream:
        event = stream.next()
        assert event is not None
        assert "未见3人" in event[1]
        # Nothing turns for half a minute, then the completeness is looked at again.
        site.now_ms += live.REFRESH_MS - 1
        time.sleep(2 * live.POLL_S)
        site.now_ms += 1
        event = stream.next()
        assert event is not None
        assert "12:05:30" in event[1]
        site.now_ms = minutes(60) + 1
        event = stream.next()
        assert event is not None
        assert "待定3人" in event[1]
        assert "已结束" in event[1]


@pytest.mark.parametrize("ending", ["account disabled", "signed out", "time", "meeting moved away"])
def test_a_stream_ends_with_its_right(site: Site, ending: str) -> None:
    with serving(site.app) as (url, _), streaming(site, url) as stream:
        assert stream.next() is not None
        with site.engine.begin() as conn:
            match ending:
                case "account disabled":
                    conn.execute(update(s.accounts).values(disabled_ms=site.now_ms))
                case "signed out":
                    conn.execute(delete(s.sessions))
                case "time":
                    site.now_ms += 12 * 3600 * 1000
                case _:
                    conn.execute(update(s.meetings).values(organisation_id=site.ids["乙"]))
                    conn.execute(
                        update(s.meeting_organisations).values(organisation_id=site.ids["乙"])
                    )
        assert stream.next() == ("end", "over")
        assert stream.next() is None


def test_a_server_that_stops_is_not_held_up(site: Site) -> None:
    with serving(site.app) as (url, stop), streaming(site, url) as stream:
        assert stream.next() is not None
        begun = time.monotonic()
        stop()
        assert time.monotonic() - begun < 2
        assert stream.next() is None


def test_open_streams_hold_no_connection(site: Site) -> None:
    pool = site.engine.pool
    assert isinstance(pool, QueuePool)
    with serving(site.app) as (url, _), streaming(site, url) as one, streaming(site, url) as two:
        assert one.next()
        assert two.next()
        free = 0
        for _attempt in range(40):
            free += pool.checkedout() == 0
            time.sleep(0.02)
        assert free > 20
        # And a writer is never kept waiting.
        begun = time.monotonic()
        site.tap("李", minutes(-6))
        assert time.monotonic() - begun < 1


def test_all_who_watch_the_same_share_one_look(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[str] = []

    def render(template: str, **values: Any) -> str:
        rendered.append(template)
        return pages.render(template, **values)

    with serving(site.app) as (url, _), ExitStack() as stack:
        streams = [stack.enter_context(streaming(site, url)) for _ in range(4)]
        time.sleep(3 * live.POLL_S)
        monkeypatch.setattr(live, "render", render)
        site.tap("李", minutes(-6))
        for stream in streams:
            while (event := stream.next()) and "实到1人" not in event[1]:
                pass
            assert event is not None
        assert rendered == ["attendance.html"]


def test_one_session_that_ends_ends_no_other(site: Site) -> None:
    with serving(site.app) as (url, _), streaming(site, url) as one, streaming(site, url) as two:
        assert one.next()
        assert two.next()
        with site.engine.begin() as conn:
            first = select(func.min(s.sessions.c.id)).scalar_subquery()
            conn.execute(delete(s.sessions).where(s.sessions.c.id == first))
        while (event := one.next()) != ("end", "over"):
            assert event is not None
        assert one.next() is None
        site.tap("李", minutes(-6))
        while (event := two.next()) and "实到1人" not in event[1]:
            pass
        assert event is not None
    assert site.app.state.boards == {}


def test_a_session_has_so_many_streams_and_no_more(site: Site) -> None:
    cookies = site.client().sign_in("甲").cookies
    mine = httpx.Cookies({name: str(value) for name, value in cookies.items()})
    with serving(site.app) as (url, _):

        def refused() -> bool:
            with httpx.stream("GET", f"{url}{MEETING}/live", cookies=mine) as response:
                assert response.status_code in {200, 429}
                return response.status_code == 429

        with ExitStack() as stack:
            streams = [
                stack.enter_context(streaming(site, url, mine))
                for _ in range(live.STREAMS_A_SESSION)
            ]
            assert all(stream.next() for stream in streams)
            assert refused()
            with streaming(site, url) as other:
                assert other.next(), "another session is not concerned"
        deadline = time.monotonic() + SOON_S
        while refused():
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("SELECT", {}, Exception("gone")),
        InterfaceError("SELECT", {}, Exception("gone")),
        PoolTimeoutError("no connection is free"),
    ],
)
def test_a_database_that_goes_away_ends_the_stream_and_the_browser_comes_again(
    site: Site,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise error

    with serving(site.app) as (url, _), streaming(site, url) as stream:
        assert stream.next()
        with monkeypatch.context() as patch:
            patch.setattr("hub.store.queries.meeting_change", fail)
            assert stream.next() is None
            client = site.client().sign_in("甲")
            assert client.get(f"{MEETING}/live").status_code == 503
        with streaming(site, url) as again:
            assert again.next()
    assert "Exception in ASGI application" not in caplog.text


def test_a_stream_of_nobody_or_of_another_is_refused(site: Site) -> None:
    client = site.client()
    assert client.get(f"{MEETING}/live").status_code == 401
    client.sign_in("乙")
    assert client.get(f"{MEETING}/live").status_code == 404
