"""Every route of the application, found in its table: what is open, and that scope holds.

A route that is added later is in these tests without being named here; one that takes a new kind
of parameter fails until the test knows what belongs to whom.
"""

import re
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlalchemy import Engine

from hub.store.engine import open_engine
from tests.hub.site import ZONE, Site
from tests.hub.world import public_id

OPEN = {
    ("GET", "/api/v1/health"),
    ("POST", "/api/v1/enrol"),
    ("GET", "/sign-in"),
    ("POST", "/sign-in"),
    ("POST", "/sign-out"),
}
"""Beside the static files, these and no others answer who has no token."""

THINGS = {"meetings": "会", "members": "李", "organisations": "甲"}
"""What of branch 甲 a path's public id may name; 乙 must not see any of it."""


def routes(app: FastAPI) -> list[tuple[str, str]]:
    found = []
    for route in iter_route_contexts(app.routes):
        if route.path == "/static":
            continue
        assert route.methods, f"{route.path}: is neither a route nor the static files"
        found += [(method, route.path) for method in route.methods if method != "HEAD"]
    return sorted(found)


def fill(path: str) -> str:
    match = re.fullmatch(r"(?:/api/v1)?/(\w+)/\{public_id\}(/\w+)?", path)
    assert match, f"{path}: say here what its parameters may name"
    return path.replace("{public_id}", str(public_id(THINGS[match[1]])))


def all_routes() -> list[tuple[str, str]]:
    from hub.app import create_app

    return routes(create_app(open_engine("sqlite:////nowhere/hub.db"), zone=ZONE))


@pytest.fixture
def site(engine: Engine) -> Site:
    return Site(engine)


def test_the_table_is_the_applications(site: Site) -> None:
    assert routes(site.app) == all_routes()
    assert set(all_routes()) >= OPEN
    assert len(all_routes()) >= 12


@pytest.mark.parametrize(("method", "path"), sorted(set(all_routes()) - OPEN))
@pytest.mark.parametrize("credential", ["none", "wrong"])
def test_without_a_token_there_is_nothing(
    site: Site, method: str, path: str, credential: str
) -> None:
    client = site.client()
    headers = {}
    if credential == "wrong":
        headers = {"Authorization": "Bearer shk_" + 43 * "A"}
        client.cookies.set("shuaka_session", 43 * "A")
    address = fill(path) if "{" in path else path
    # Also what does not exist, or cannot: nobody learns which.
    for url in {address, address.replace(str(public_id("会")), str(public_id("none")))}:
        response = client.request(method, url, headers=headers)
        if path.startswith("/api/") or path.endswith("/live"):
            assert response.status_code == 401
            assert "会题" not in response.text
        else:
            assert response.status_code == 303
            assert response.headers["location"].startswith("/sign-in?next=")


@pytest.mark.parametrize(
    ("method", "path"), [each for each in all_routes() if "{" in each[1] and each not in OPEN]
)
def test_another_sub_tree_is_404(site: Site, method: str, path: str) -> None:
    url = fill(path)
    refused: dict[str, Any] = {}
    for name, address in (("theirs", url), ("nothing", re.sub(r"[0-9a-f-]{36}", _NOWHERE, url))):
        client = site.client(token="乙").sign_in(site.tokens["乙"])
        response = client.request(method, address)
        assert response.status_code == 404
        refused[name] = response.text, dict(response.headers)
    # What is hidden and what does not exist look the same, to the byte.
    assert refused["theirs"] == refused["nothing"]


_NOWHERE = str(public_id("nowhere"))


@pytest.mark.parametrize("token", ["甲", "区"])
@pytest.mark.parametrize(
    ("method", "path"),
    [each for each in all_routes() if each not in OPEN and not each[1].endswith("/live")],
)
def test_ones_own_sub_tree_answers(site: Site, method: str, path: str, token: str) -> None:
    client = site.client(token=token).sign_in(site.tokens[token])
    url = fill(path) if "{" in path else path
    assert client.request(method, url).status_code == 200


def test_a_token_of_the_api_opens_no_page_and_a_session_no_api(site: Site) -> None:
    assert site.client(token="甲").get("/").status_code == 303
    client = site.client().sign_in(site.tokens["甲"])
    assert client.get("/").status_code == 200
    assert client.get("/api/v1/meetings").status_code == 401
