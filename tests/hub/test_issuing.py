"""The desk station at the hub: what it is told of a card, and whose card that becomes, or not."""

import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, select, update

from hub import issuing, serve
from hub.auth.tokens import new_token, revoke
from hub.domain.terms import Role, Verdict
from hub.issuing import READING_MS, READS_A_MINUTE, UNDO_MS
from hub.store import schema as s
from hub.store.engine import reading as reads
from hub.store.scope import NotFoundError
from hub.web.live import STREAMS_A_SESSION
from tests.hub.site import PASSWORD, Client, Site, serving
from tests.hub.web.test_live import Stream
from tests.hub.world import LONG_AGO, minutes, public_id

CARD = "04FEEDFACE1234"
OTHER = "04FEEDFACE5678"
MINUTE_MS = 60_000


@pytest.fixture
def site(engine: Engine) -> Site:
    return Site(engine, now_ms=minutes(20))


def read(client: Client, value: str = CARD) -> dict[str, Any]:
    said = {"scheme": "uid", "value": value}
    response = client.post("/api/v1/desk/readings", json=said)
    assert response.status_code == 201, response.text
    assert value not in response.text
    return dict(response.json())


def bind(client: Client, reading: dict[str, Any], member: str, **more: Any) -> httpx.Response:
    path = f"/api/v1/desk/readings/{reading['public_id']}/{'replace' if 'card' in more else 'bind'}"
    return client.post(path, json={"member": str(public_id(member)), **more})


def undo(client: Client, reading: dict[str, Any]) -> httpx.Response:
    return client.post(f"/api/v1/desk/readings/{reading['public_id']}/undo")


def cards(site: Site, member: str) -> list[dict[str, Any]]:
    response = site.client(token="区").get(f"/api/v1/members/{public_id(member)}/cards")
    return list(response.json()["items"])


def tables(site: Site) -> dict[str, list[Any]]:
    """What binding changes."""
    with reads(site.engine) as conn:
        found: dict[str, list[Any]] = {
            table.name: sorted(map(tuple, conn.execute(select(table).order_by(table.c.id)).all()))
            for table in (s.cards, s.credentials)
        }
        b = s.bindings.c
        found["bindings"] = sorted(
            map(
                str,
                conn.execute(select(b.card_id, b.member_id, b.valid_from_ms, b.valid_to_ms)).all(),
            )
        )
        found["readings"] = [
            tuple(row)
            for row in conn.execute(
                select(s.readings).order_by(s.readings.c.epoch_id, s.readings.c.seq)
            )
        ]
        found["attendances"] = sorted(
            str(tuple(row)) for row in conn.execute(select(s.attendances))
        )
    return found


def stranger(site: Site, value: str = CARD) -> int:
    with site.engine.begin() as conn:
        return site.world(conn).card(None, value)


def came(site: Site) -> dict[str, str]:
    with reads(site.engine) as conn:
        rows = conn.execute(
            select(s.members.c.code, s.attendances.c.verdict).join(
                s.attendances, s.attendances.c.member_id == s.members.c.id
            )
        )
        return {row.code: row.verdict for row in rows}


# --- what is told ---------------------------------------------------------------------------------


def test_three_taps_of_an_unknown_card_count_once_it_is_somebody_s(site: Site) -> None:
    card = stranger(site)
    for at in (-20, -5, 3):
        site.tap(None, minutes(at), card)
    assert came(site) == {}
    client = site.client(token="甲")
    found = read(client)
    assert (found["card_last"], found["state"], found["holder"]) == ("1234", "UNKNOWN", None)
    assert found["since"].startswith("2026-04-24T10:46:00")
    made = bind(client, found, "王")
    assert made.status_code == 200, made.text
    assert made.json()["valid_from"] == found["since"]
    assert made.json()["numbers_last"] == ["1234"]
    assert came(site) == {"王": Verdict.PRESENT}


def test_taps_that_the_branch_does_not_see_give_no_time(site: Site) -> None:
    site.tap(None, minutes(-5), stranger(site))
    found = read(site.client(token="乙"))
    assert (found["state"], found["since"]) == ("UNKNOWN", None)
    made = bind(site.client(token="乙"), found, "钱")
    assert made.json()["valid_from"] == found["at"], "from now on"


def test_taps_before_an_earlier_owner_s_end_are_not_taken(site: Site) -> None:
    with site.engine.begin() as conn:
        card = site.world(conn).card("李", CARD, since=minutes(-30), until=minutes(-9.8))
    for at in (-40, -9.6, 3):
        site.tap(None, minutes(at), card)
    client = site.client(token="甲")
    found = read(client)
    assert (found["state"], found["holder"]["code"]) == ("ENDED", "李")
    assert found["since"].startswith("2026-04-24T10:56:12"), "not the minute's begin: 李 had it"
    assert bind(client, found, "王").status_code == 200
    assert came(site)["王"] == "PRESENT"


def test_whose_it_is_is_told_within_the_sub_tree_alone(site: Site) -> None:
    with site.engine.begin() as conn:
        site.world(conn).card("李", CARD)
    for token, state, holder in (
        ("甲", "BOUND", "李"),
        ("区", "BOUND", "李"),
        ("乙", "ELSEWHERE", None),
    ):
        found = read(site.client(token=token))
        assert found["state"] == state
        assert (found["holder"] or {}).get("code") == holder
        if holder is None:
            assert "李" not in json.dumps(found, ensure_ascii=False)
            assert found["card"] is None
            refused = bind(site.client(token=token), found, "钱")
            assert refused.status_code == 409
            assert "李" not in refused.text


def test_a_card_that_is_lost_or_somebody_s_is_not_taken(site: Site) -> None:
    client = site.client(token="甲")
    with site.engine.begin() as conn:
        site.world(conn).card("李", CARD)
    before = tables(site)
    refused = bind(client, read(client), "王")
    assert refused.status_code == 409
    assert "李名" in refused.text
    assert tables(site) == before
    [mine] = [each for each in cards(site, "李") if each["numbers_last"] == ["1234"]]
    assert client.post(f"/api/v1/cards/{mine['public_id']}/lost", json={}).status_code == 204
    found = read(client)
    assert (found["state"], found["holder"]["code"]) == ("LOST", "李")
    before = tables(site)
    assert bind(client, found, "王").status_code == 409
    assert tables(site) == before


def test_a_look_is_written_where_somebody_is_named(site: Site) -> None:
    def looks() -> list[Any]:
        with reads(site.engine) as conn:
            return list(conn.scalars(select(s.accesses.c.member_id)))

    client = site.client(token="甲")
    read(client)
    assert looks() == []
    with site.engine.begin() as conn:
        site.world(conn).card("李", CARD)
    read(client)
    assert looks() == [site.ids["李"]]


def test_to_be_told_that_a_card_is_somebody_s_elsewhere_is_written_down(site: Site) -> None:
    def written() -> list[Any]:
        a = s.audit.c
        with reads(site.engine) as conn:
            found = conn.execute(select(s.audit).where(a.what == "card.elsewhere")).all()
        assert CARD not in str(found)
        assert "李" not in str(found)
        return [(row.token_id is not None, row.organisation_id) for row in found]

    client = site.client(token="乙")
    read(client)
    assert written() == []
    with site.engine.begin() as conn:
        site.world(conn).card("李", CARD)
    read(site.client(token="甲"))
    assert written() == []
    read(client)
    assert written() == [(True, site.ids["乙"])]


def test_a_token_cannot_ask_about_number_after_number(site: Site) -> None:
    client, other = site.client(token="乙"), site.client(token="甲")
    said = {"scheme": "uid", "value": CARD}
    for _ in range(READS_A_MINUTE - 1):
        read(client)
    site.now_ms += 30_000
    read(client)
    refused = client.post("/api/v1/desk/readings", json=said)
    assert refused.status_code == 429
    assert "within a minute" in refused.json()["detail"]
    assert "UNKNOWN" not in refused.text
    read(other)
    site.now_ms += 30_001
    for _ in range(READS_A_MINUTE - 1):
        read(client)
    assert client.post("/api/v1/desk/readings", json=said).status_code == 429


def test_of_a_revoked_station_nothing_is_bound_but_what_was_done_can_be_undone(site: Site) -> None:
    page, station = site.signed_in("甲"), site.client(token="甲")
    done = read(station)
    assert bind(station, done, "王").status_code == 200
    read(station, OTHER)
    fields = hidden(page.get(f"/cards/desk?member={public_id('李')}").text)
    before = tables(site)
    with site.engine.begin() as conn:
        assert revoke(conn, "甲秘书", site.now_ms)
    refused = page.post("/cards/desk/bind", data={**fields, "old": "keep"})
    assert refused.status_code == 422
    assert "已经不是刚才刷的那张卡了" in refused.text
    assert tables(site) == before
    with reads(site.engine) as conn:
        for name in conn.scalars(
            select(s.desk_readings.c.public_id).where(s.desk_readings.c.value.is_not(None))
        ):
            with pytest.raises(NotFoundError):
                issuing.find(conn, site.ids["甲"], name, site.now_ms)
    undone = page.post("/cards/desk/undo", data={"reading": done["public_id"]})
    assert undone.status_code == 303
    assert tables(site) != before


@pytest.mark.parametrize(
    "said",
    [
        {"scheme": "uid", "value": "0BADBAD"},
        {"scheme": "uid", "value": "04feedface1234"},
        {"scheme": "uid", "issuer": "x", "value": CARD},
        {"scheme": "uid", "value": "08FEED01"},
        {"scheme": "uid", "value": "00000000"},
        {"scheme": "classic-sector", "issuer": "x", "value": "1234\u0000"},
        {"scheme": "member", "value": "李"},
        {"scheme": "rehearsal", "value": "1"},
        {"scheme": "", "value": CARD},
        {"scheme": "uid", "value": ""},
        {"scheme": "uid", "value": "F" * 65},
        {"scheme": "uid", "value": CARD, "more": 1},
        {"value": CARD},
    ],
)
def test_what_is_no_card_is_refused_without_its_number(site: Site, said: dict[str, Any]) -> None:
    response = site.client(token="甲").post("/api/v1/desk/readings", json=said)
    assert response.status_code == 422
    if len(said["value"]) > 3:
        assert said["value"] not in response.text
    with reads(site.engine) as conn:
        assert conn.execute(select(s.desk_readings)).all() == []


# --- forgetting -----------------------------------------------------------------------------------


def numbers(site: Site) -> list[str | None]:
    with reads(site.engine) as conn:
        return list(conn.scalars(select(s.desk_readings.c.value).order_by(s.desk_readings.c.id)))


def test_a_number_is_forgotten_when_used_when_another_comes_and_in_time(site: Site) -> None:
    client = site.client(token="甲")
    first = read(client)
    second = read(client, OTHER)
    assert numbers(site) == [OTHER]
    assert bind(client, first, "王").status_code == 404
    assert bind(client, second, "王").status_code == 200
    assert numbers(site) == [None]
    third = read(client)
    site.now_ms += READING_MS
    assert bind(client, third, "王").status_code == 404
    with site.engine.begin() as conn:
        issuing.forget(conn, site.now_ms)
    assert numbers(site) == [None], "what can be undone stays, without its number"
    site.now_ms = minutes(20) + UNDO_MS
    assert undo(client, second).status_code == 404
    read(client)
    assert numbers(site) == [CARD]


def test_the_hub_forgets_by_itself(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    read(site.client(token="甲"))
    monkeypatch.setattr(serve, "FORGET_EVERY_S", 0.01)
    stopping = threading.Event()
    thread = threading.Thread(target=serve._forget, args=(site.engine, stopping))
    thread.start()  # its clock is today's, long after the site's
    try:
        for _ in range(500):
            if numbers(site) == []:
                break
            stopping.wait(0.01)
    finally:
        stopping.set()
        thread.join()
    assert numbers(site) == []


def test_no_log_holds_a_number(site: Site) -> None:
    client = site.client(token="甲")
    found = read(client)
    bind(client, found, "王")
    undo(client, found)
    with reads(site.engine) as conn:
        acts = conn.execute(select(s.audit.c.what, s.audit.c.details, s.audit.c.token_id)).all()
    mine = [each for each in acts if each.what.startswith("card.")]
    assert [each.what for each in mine] == ["card.bind", "card.undo"]
    assert all(each.token_id for each in mine)
    assert CARD not in str(acts)


# --- once, whole, and back ------------------------------------------------------------------------


def test_the_same_again_changes_nothing(site: Site) -> None:
    client = site.client(token="甲")
    found = read(client)
    first = bind(client, found, "王")
    after = tables(site)
    assert bind(client, found, "王").json() == first.json()
    assert bind(client, found, "李").status_code == 409
    assert tables(site) == after
    assert undo(client, found).status_code == 204
    assert undo(client, found).status_code == 204
    assert bind(client, found, "王").status_code == 409, "the number is gone: read it again"


def test_undo_leaves_everything_as_it_was(site: Site) -> None:
    card = stranger(site)
    site.tap(None, minutes(-5), card)
    client = site.client(token="甲")
    before = tables(site)
    found = read(client)
    assert bind(client, found, "王", code="0815").status_code == 200
    assert tables(site) != before
    assert undo(client, found).status_code == 204
    assert tables(site) == before
    again = read(client)
    assert again["state"] == "UNKNOWN"
    assert bind(client, again, "李", code="0815").status_code == 200


@pytest.mark.parametrize("lost", [True, False])
def test_replace_ends_the_old_and_binds_the_new_or_neither(site: Site, lost: bool) -> None:
    client = site.client(token="甲")
    [old] = cards(site, "王")
    before = tables(site)
    found = read(client)
    assert bind(client, found, "王", card=str(public_id("nowhere"))).status_code == 404
    [of_li] = cards(site, "李")
    assert bind(client, found, "王", card=of_li["public_id"]).status_code == 404
    late = "2199-01-01T00:00:00+08:00"
    refused = bind(client, found, "王", card=old["public_id"], lost=lost, valid_from=late)
    assert refused.status_code == 409
    assert tables(site) == before
    made = bind(client, found, "王", card=old["public_id"], lost=lost)
    assert made.status_code == 200, made.text
    new, former = cards(site, "王")
    assert new["numbers_last"] == ["1234"]
    assert former["status"] == ("LOST" if lost else "ACTIVE")
    assert former["valid_to"] == new["valid_from"]
    assert undo(client, found).status_code == 204
    after = tables(site)
    assert {each: rows for each, rows in after.items() if each != "credentials"} == {
        each: rows for each, rows in before.items() if each != "credentials"
    }
    assert [row for row in after["credentials"] if row[4]] == [
        row for row in before["credentials"] if row[4]
    ]


def test_a_card_is_not_replaced_by_itself(site: Site) -> None:
    client = site.client(token="甲")
    with site.engine.begin() as conn:
        site.world(conn).card("王", CARD)
    mine = next(each for each in cards(site, "王") if each["numbers_last"] == ["1234"])
    before = tables(site)
    assert bind(client, read(client), "王", card=mine["public_id"]).status_code == 409
    assert tables(site) == before


def test_the_last_is_undone_first_and_nothing_that_was_changed_since(site: Site) -> None:
    client = site.client(token="甲")
    first = read(client)
    card = bind(client, first, "王").json()["public_id"]
    second = read(client, OTHER)
    bind(client, second, "李")
    assert undo(client, first).status_code == 409
    assert undo(client, second).status_code == 204
    at = {"at": "2026-04-24T11:26:00+08:00"}
    site.now_ms += MINUTE_MS
    assert client.post(f"/api/v1/cards/{card}/lost", json={}).status_code == 204
    before = tables(site)
    assert undo(client, first).status_code == 409
    assert tables(site) == before
    # What was ended at its beginning never was: asked again, it is not made up.
    third = read(client, OTHER)
    made = bind(client, third, "李").json()
    at = {"at": made["valid_from"]}
    assert client.post(f"/api/v1/cards/{made['public_id']}/end", json=at).status_code == 204
    assert bind(client, third, "李").status_code == 409
    assert undo(client, third).status_code == 409


def test_another_branch_can_use_and_undo_nothing(site: Site) -> None:
    ours, theirs = site.client(token="甲"), site.client(token="乙")
    found = read(ours)
    assert bind(theirs, found, "钱").status_code == 404
    assert bind(ours, found, "钱").status_code == 404
    assert bind(ours, found, "王").status_code == 200
    before = tables(site)
    assert undo(theirs, found).status_code == 404
    assert tables(site) == before
    assert undo(site.client(token="区"), found).status_code == 204, "the district may"


def test_who_may_not_bind_reads_nothing(site: Site) -> None:
    with site.engine.begin() as conn:
        site.tokens["看"] = new_token(conn, "看", "甲", LONG_AGO, role=Role.AUDITOR)
    said = {"scheme": "uid", "value": CARD}
    client = site.client(token="看")
    assert client.post("/api/v1/desk/readings", json=said).status_code == 403
    assert numbers(site) == []


# --- the page -------------------------------------------------------------------------------------


def hidden(html: str) -> dict[str, str]:
    """The fields of the form that binds."""
    form = html[html.index('action="/cards/desk/bind"') :]
    form = form[: form.index("</form>")]
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))


def test_the_page_shows_what_a_station_read_and_binds_it(site: Site) -> None:
    site.tap(None, minutes(-5), stranger(site))
    page, station = site.signed_in("甲"), site.client(token="甲")
    assert "还没有读到卡" in page.get("/cards/desk").text
    read(station)
    shown = page.get("/cards/desk")
    assert "甲秘书" in shown.text
    assert "1234" in shown.text
    assert "下一步" in shown.text
    assert CARD not in shown.text
    assert "王名" in page.get("/cards/desk?name=w").text
    fields = hidden(page.get(f"/cards/desk?member={public_id('王')}").text)
    done = page.post("/cards/desk/bind", data={**fields, "old": "lost"})
    assert done.status_code == 303
    assert came(site) == {"王": "PRESENT"}
    new, old = cards(site, "王")
    assert (new["status"], old["status"]) == ("ACTIVE", "LOST")
    after = page.get(done.headers["location"]).text
    assert "已登记为王名的卡" in after
    assert "登记给了王名" in after
    reading = after[after.index("/cards/desk/undo") :]
    name = reading[reading.index('name="reading" value="') + 22 :][:36]
    assert page.post("/cards/desk/undo", data={"reading": name}).status_code == 303
    assert came(site) == {}
    assert [each["status"] for each in cards(site, "王")] == ["ACTIVE"]


def test_the_page_takes_a_time_and_a_code(site: Site) -> None:
    page = site.signed_in("甲")
    found = read(site.client(token="甲"))
    path = f"/cards/desk?member={public_id('王')}&reading={found['public_id']}"
    fields = hidden(page.get(path).text)
    wrong = {**fields, "day": "2026-04-31", "time": "11:00", "code": "0815"}
    refused = page.post("/cards/desk/bind", data=wrong)
    assert refused.status_code == 422
    assert "0815" in refused.text
    right = {**wrong, "day": "2026-04-24"}
    assert page.post("/cards/desk/bind", data=right).status_code == 303
    made = cards(site, "王")[0]
    assert (made["code"], made["valid_from"][:16]) == ("0815", "2026-04-24T11:00")


def test_each_button_that_binds_says_which_card(site: Site) -> None:
    """The form is exchanged under the finger when another card is read."""
    page, station = site.signed_in("甲"), site.client(token="甲")
    for value in (CARD, OTHER):
        read(station, value)
        html = page.get(f"/cards/desk?member={public_id('王')}").text
        form = html[html.index('action="/cards/desk/bind"') :]
        buttons = re.findall(r"<button[^>]*>([^<]*)<", form[: form.index("</form>")])
        assert len(buttons) == 3
        assert all(f"末四位 {value[-4:]}：" in each for each in buttons)


def test_a_form_of_another_card_than_the_last_is_told_so(site: Site) -> None:
    page, station = site.signed_in("甲"), site.client(token="甲")
    read(station)
    fields = hidden(page.get(f"/cards/desk?member={public_id('王')}").text)
    read(station, OTHER)
    before = tables(site)
    for reading in (fields["reading"], str(uuid.uuid4()), ""):
        refused = page.post("/cards/desk/bind", data={**fields, "reading": reading})
        assert refused.status_code == 422
        assert "不是刚才刷的那张卡" in refused.text
    assert page.post("/cards/desk/bind", data={**fields, "reading": "x"}).status_code == 404
    assert tables(site) == before


def test_a_card_is_reported_lost_on_the_page(site: Site) -> None:
    page = site.signed_in("甲")
    [card] = cards(site, "王")
    assert "现在挂失" in page.get(f"/cards/desk?member={public_id('王')}").text
    data = {"card": card["public_id"], "member": str(public_id("王"))}
    assert page.post("/cards/desk/lost", data=data).status_code == 303
    assert cards(site, "王")[0]["status"] == "LOST"
    assert page.post("/cards/desk/lost", data=data).status_code == 422
    [theirs] = cards(site, "钱")
    data = {"card": theirs["public_id"], "member": str(public_id("王"))}
    assert page.post("/cards/desk/lost", data=data).status_code == 404
    assert cards(site, "钱")[0]["status"] == "ACTIVE"


def test_stations_of_another_branch_or_silent_or_revoked_are_not_there(site: Site) -> None:
    read(site.client(token="甲"))
    assert "1234" not in site.signed_in("乙").get("/cards/desk").text
    assert "1234" in site.signed_in("区").get("/cards/desk").text
    page = site.signed_in("甲")
    site.now_ms += READING_MS
    assert "还没有读到卡" in page.get("/cards/desk").text
    read(site.client(token="甲"))
    with site.engine.begin() as conn:
        revoke(conn, "甲秘书", site.now_ms)
    assert "还没有读到卡" in page.get("/cards/desk").text


def test_of_two_stations_the_chosen_one_is_shown(site: Site) -> None:
    with site.engine.begin() as conn:
        site.tokens["二"] = new_token(conn, "二台", "甲", LONG_AGO, role=Role.SECRETARY)
        ids = {row.name: row.public_id for row in conn.execute(select(s.tokens))}
    read(site.client(token="甲"))
    site.now_ms += 1000
    read(site.client(token="二"), OTHER)
    page = site.signed_in("甲")
    assert ">5678<" in page.get("/cards/desk").text, "whichever read last"
    assert ">1234<" in page.get(f"/cards/desk?station={ids['甲秘书']}").text


def test_who_is_named_on_the_page_is_looked_at(site: Site) -> None:
    with site.engine.begin() as conn:
        site.world(conn).card("李", CARD)
    page = site.signed_in("甲")
    read(site.client(token="甲"))
    with site.engine.begin() as conn:
        conn.execute(update(s.tokens).values(created_ms=0))

    def looks() -> list[tuple[str, int]]:
        with reads(site.engine) as conn:
            a = s.accesses.c
            rows = conn.execute(select(a.what, a.member_id).where(a.account_id.is_not(None)))
            return [tuple(row) for row in rows]

    assert looks() == []
    page.get("/cards/desk")
    assert looks() == [("card.page", site.ids["李"])]


# --- the stream -----------------------------------------------------------------------------------


@contextmanager
def streaming(url: str, login: str = "甲", query: str = "") -> Iterator[Stream]:
    with httpx.Client(base_url=url, timeout=5, trust_env=False) as client:
        client.post("/sign-in", data={"login": login, "password": PASSWORD})
        with client.stream("GET", f"/cards/desk/live{query}") as response:
            assert response.status_code == 200
            yield Stream(response.iter_lines())


def test_a_card_that_is_read_appears(site: Site) -> None:
    with serving(site.app) as (url, stop), streaming(url) as stream:
        first = stream.next()
        assert first is not None
        assert "还没有读到卡" in first[1]
        read(site.client(token="甲"))
        second = stream.next()
        assert second is not None
        assert "1234" in second[1]
        assert CARD not in second[1]
        assert second[1].strip() in site.signed_in("甲").get("/cards/desk").text
        stop()
        assert stream.next() is None


def test_a_stream_ends_with_its_session_and_of_nobody_s_member(site: Site) -> None:
    with serving(site.app) as (url, _):
        with streaming(url, query=f"?member={public_id('钱')}") as stream:
            assert stream.next() == ("end", "over")
        with streaming(url) as stream:
            assert stream.next() is not None
            with site.engine.begin() as conn:
                conn.execute(s.sessions.delete())
            assert stream.next() == ("end", "over")


def test_a_session_has_so_many_streams_and_no_more(site: Site) -> None:
    with serving(site.app) as (url, _), httpx.Client(base_url=url, trust_env=False) as client:
        client.post("/sign-in", data={"login": "甲", "password": PASSWORD})
        with ExitStack() as stack:
            for _ in range(STREAMS_A_SESSION):
                response = stack.enter_context(client.stream("GET", "/cards/desk/live"))
                assert response.status_code == 200
            assert client.get("/cards/desk/live").status_code == 429
        for _ in range(200):
            if not site.app.state.desk_streams:
                break
            time.sleep(0.02)
        assert not site.app.state.desk_streams
