"""A register by the API: dry run, taken whole or refused with reasons."""

import json
import threading
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from hub.auth.tokens import new_token
from hub.domain.terms import Role
from hub.imports import jobs
from hub.store import schema as s
from hub.store.engine import reading
from tests.hub.site import Client, Site
from tests.hub.test_import_files import EXPORT, sheet
from tests.hub.world import minutes

MEMBERS = "党员编号,姓名,组织编号,开始日期\nm8,八,甲,2026-07-01\nm9,九,甲,2026-07-01\n"


@pytest.fixture
def operator(site: Site) -> Client:
    with site.engine.begin() as conn:
        for role in (Role.OPERATOR, Role.AUDITOR):
            name = f"甲 {role.value}"
            site.tokens[name] = new_token(conn, name, "甲", minutes(-1000), role=role)
    return site.client(token="甲 OPERATOR")


def send(client: Client, data: Any, query: str = "", register: str = "members") -> httpx.Response:
    content = data.encode() if isinstance(data, str) else data
    return client.post(f"/api/v1/imports/{register}{query}", content=content)


def members(site: Site) -> int:
    with reading(site.engine) as conn:
        return conn.scalar(select(func.count()).select_from(s.members)) or 0


def test_it_says_what_it_would_do_and_does_it_once(site: Site, operator: Client) -> None:
    before = members(site)
    counts = {"rows": 2, "changed": 0}
    response = send(operator, MEMBERS, "?dry_run=true")
    assert response.json() == {**counts, "dry_run": True, "added": 2, "unchanged": 0}
    assert members(site) == before
    response = send(operator, MEMBERS)
    assert (response.status_code, response.json()["added"]) == (200, 2)
    assert members(site) == before + 2
    rows = [line.split(",") for line in MEMBERS.splitlines()]
    again = operator.post("/api/v1/imports/members", files={"file": ("名册.xlsx", sheet(rows))})
    assert again.json() == {**counts, "dry_run": False, "added": 0, "unchanged": 2}
    with reading(site.engine) as conn:
        logged = conn.execute(select(s.audit).where(s.audit.c.what == "register.import")).all()
    assert [row.actor for row in logged] == ["甲 OPERATOR"] * 2
    assert json.loads(logged[1].details)["file"] == "名册.xlsx"


def test_what_is_wrong_is_said_and_nothing_is_taken(site: Site, operator: Client) -> None:
    before = members(site)
    response = send(operator, MEMBERS + "m10,十,乙,昨天\n")
    assert response.status_code == 422
    assert response.json()["detail"] == "file: 2 problem(s); nothing was taken"
    assert [(each["row"], each["column"]) for each in response.json()["problems"]] == [
        (4, "from"),
        (4, "organisation"),
    ]
    assert response.json()["problems"][0]["heading"] == "开始日期"
    assert members(site) == before
    for data, words in ((b"", "空的"), (b"PK\x03\x04x", "Excel"), (b"\xff\xfea", "UTF-16")):
        response = send(operator, data)
        assert response.status_code == 422
        assert words in response.json()["problems"][0]["message"]


def test_other_columns_are_read_by_a_mapping(site: Site, operator: Client) -> None:
    columns = {"code": "党员编号（必填）", "name": "姓 名", "from": "进入当前支部日期"}
    more = {"columns": json.dumps(columns), "fixed": json.dumps({"organisation": "甲"})}
    file = {"file": ("x.xlsx", sheet(EXPORT))}
    response = operator.post("/api/v1/imports/members", data=more, files=file)
    assert (response.status_code, response.json()["added"]) == (200, 2)
    for wrong, word in (
        ({"columns": "[]"}, "columns"),
        ({"columns": '{"a": 1}'}, "columns"),
        ({"columns": "{}", "fixed": "x"}, "fixed"),
        ({"fixed": "{}"}, "fixed"),
    ):
        response = operator.post("/api/v1/imports/members", data=wrong, files=file)
        assert response.status_code == 422
        assert response.json()["detail"].startswith(f"{word}:")
    response = operator.post("/api/v1/imports/members", data={"columns": "{}"}, files={"f": b"x"})
    assert response.json()["detail"] == "file: is missing"


def test_who_may_not_is_refused_before_anything_is_read(site: Site, operator: Client) -> None:
    assert send(site.client(), MEMBERS).status_code == 401
    assert send(site.client(token="甲 AUDITOR"), MEMBERS).status_code == 403
    assert send(site.client(token="甲"), MEMBERS).status_code == 403
    assert send(operator, MEMBERS, register="nothing").status_code == 422
    assert send(operator, b"x" * (33 << 20)).status_code == 413
    assert send(operator, "x,y\n" + "1,2\n" * 100_000).status_code == 422


def test_a_new_name_is_taken_only_where_that_is_said(site: Site, operator: Client) -> None:
    text = "code,name,organisation,from,to\n李,新名,甲,2025-03-20 11:06,\n"
    assert send(operator, text).status_code == 422
    assert send(operator, text, "?renames=true").json()["changed"] == 1


def test_the_hub_takes_one_file_at_a_time_whoever_sends_it(
    site: Site, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = members(site)
    monkeypatch.setattr(jobs, "WAIT_S", 0.01)
    desk = site.app.state.desk
    for query in ("", "?dry_run=true"):
        with desk.turn():
            response = send(operator, MEMBERS, query)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "30")
        assert response.json()["detail"] == "other imports are being done; try again"
    assert members(site) == before
    assert send(operator, "x").status_code == 422, "a file that is refused gives its turn back"
    assert send(operator, MEMBERS).status_code == 200
    # Where many wait, nobody else does: they would take the threads that serve the pages.
    monkeypatch.setattr(jobs, "WAIT_S", 60.0)
    waiting = [threading.Thread(target=_take_a_turn, args=(desk,)) for _ in range(4)]
    with desk.turn():
        for each in waiting:
            each.start()
        while desk._waiting.acquire(blocking=False):
            desk._waiting.release()
        assert send(operator, MEMBERS).status_code == 503
    for each in waiting:
        each.join(20)
    assert send(operator, MEMBERS).status_code == 200


def _take_a_turn(desk: jobs.Desk) -> None:
    with desk.turn():
        pass
