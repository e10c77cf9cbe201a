"""The REST API: its answers keep to its own description, and bad input is named."""

import json
from base64 import urlsafe_b64encode
from datetime import datetime
from typing import Any

import jsonschema
import pytest
from sqlalchemy import Engine, insert, select, update

from hub.api.models import MAX_LIMIT
from hub.app import create_app
from hub.auth.tokens import revoke
from hub.derive import rebuild
from hub.devices import EnrolmentRefusedError
from hub.store import schema as s
from hub.store.engine import open_engine
from tests.hub.site import ZONE, Client, Site
from tests.hub.world import minutes, public_id

MEETING = f"/api/v1/meetings/{public_id('会')}/attendance"
RAW = bytes(range(32))
TEXT = urlsafe_b64encode(RAW).decode().rstrip("=")
KEYS = {"sign_key": TEXT, "seal_key": TEXT, "proof": TEXT}


def checked(site: Site, response: Any, path: str, method: str = "get") -> Any:
    """The body, once it is what the description says of this path and status."""
    described = site.app.openapi()
    answers = described["paths"][path][method]["responses"]
    schema = answers[str(response.status_code)]["content"]["application/json"]["schema"]
    body = response.json()
    jsonschema.validate(
        body,
        {**schema, "components": described["components"]},
        cls=jsonschema.Draft202012Validator,
        format_checker=jsonschema.FormatChecker(),
    )
    return body


def test_a_meetings_attendance(site: Site) -> None:
    site.tap("李", minutes(-10.5))
    site.tap("王", minutes(2))
    site.tap("钱", minutes(3))
    site.now_ms = minutes(20)
    response = site.client(token="甲").get(MEETING)
    body = checked(site, response, "/api/v1/meetings/{meeting}/attendance")
    assert body["counts"] == {
        "expected": 3,
        "present": 2,
        "late": 1,
        "excused": 0,
        "not_seen": 1,
        "pending": 0,
        "guests": 1,
    }
    assert [(row["person"]["name"], row["verdict"]) for row in body["items"]] == [
        *sorted([("李名", "PRESENT"), ("王名", "LATE"), ("赵名", "NOT_SEEN")]),
        (None, "GUEST"),
    ]
    guest = body["items"][-1]["person"]
    assert guest == {"public_id": None, "code": None, "name": None, "branch": "乙名"}
    at = next(row["at"] for row in body["items"] if row["person"]["name"] == "李名")
    assert at.endswith(".000+08:00")
    assert datetime.fromisoformat(at).timestamp() * 1000 == minutes(-10.5)
    assert body["meeting"]["day"] == body["meeting"]["starts_at"][:10]
    above = site.client(token="区").get(MEETING).json()
    assert above["items"][-1]["person"]["name"] == "钱名"


def test_what_people_stated_is_told(site: Site) -> None:
    with site.engine.begin() as conn:
        world = site.world(conn)
        for number, (kind, member, count) in enumerate(
            [("HELD", None, None), ("HEAD_COUNT", None, 9), ("SHEET", "李", None)]
        ):
            conn.execute(
                insert(s.declarations).values(
                    public_id=public_id(f"said {number}"),
                    meeting_id=world.ids["会"],
                    kind=kind,
                    member_id=None if member is None else world.ids[member],
                    number=count,
                    author="某人",
                    made_ms=minutes(1),
                )
            )
        conn.execute(
            insert(s.meeting_organisations).values(
                meeting_id=world.ids["会"], organisation_id=world.ids["乙"], agreed_ms=0
            )
        )
        conn.execute(update(s.meetings).values(chair="王主持"))
        rebuild(conn)
    site.now_ms = minutes(5)
    response = site.client(token="甲").get(MEETING)
    body = checked(site, response, "/api/v1/meetings/{meeting}/attendance")
    assert (body["held"], body["head_count"], body["sheet_complete"]) == (True, 9, False)
    assert (body["quorum"], body["complete"]) == ("UNKNOWN", False)
    assert body["meeting"]["chair"] == "王主持"
    assert [each["code"] for each in body["meeting"]["partners"]] == ["乙"]
    assert {row["person"]["code"]: row["evidence"] for row in body["items"]}["李"] == "SHEET"


def test_attendance_by_conditions(site: Site) -> None:
    site.tap("李", minutes(-10))
    site.tap("钱", minutes(3))
    site.now_ms = minutes(90)

    def rows(query: str, of: str = "区") -> list[tuple[str, str]]:
        response = site.client(token=of).get(f"/api/v1/attendance{query}")
        body = checked(site, response, "/api/v1/attendance")
        assert body["totals"]["all"]["times"] == body["total"]
        return [(each["member"]["code"], each["verdict"]) for each in body["items"]]

    whole = sorted([("李", "PRESENT"), ("王", "PENDING"), ("赵", "PENDING"), ("钱", "GUEST")])
    assert sorted(rows("")) == whole
    assert rows("", "乙") == [("钱", "GUEST")]
    assert rows(f"?organisation={public_id('乙')}") == [("钱", "GUEST")]
    assert rows("?verdict=PRESENT&kind=BRANCH_ASSEMBLY&name=lm") == [("李", "PRESENT")]
    assert rows("?kind=PARTY_LECTURE") == []
    assert rows(f"?member={public_id('王')}&meeting={public_id('会')}") == [("王", "PENDING")]
    assert rows("?limit=2&offset=1") == rows("")[1:3]
    body = site.client(token="区").get("/api/v1/attendance").json()
    assert body["totals"]["present"] == {"times": 1, "people": 1}
    assert body["totals"]["by_verdict"]["PENDING"] == {"times": 2, "people": 2}
    for name, thing in (("organisation", "乙"), ("member", "钱"), ("meeting", "none")):
        url = f"/api/v1/attendance?{name}={public_id(thing)}"
        assert site.client(token="甲").get(url).status_code == 404
    for query, named in (
        ("verdict=ABSENT", "verdict"),
        ("kind=x", "kind"),
        ("member=x", "member"),
        (f"name={'x' * 101}", "name"),
        ("nmae=x", "nmae"),
    ):
        response = site.client(token="甲").get(f"/api/v1/attendance?{query}")
        assert response.status_code == 422
        assert response.json()["detail"].startswith(f"{named}: ")


def test_members_by_name(site: Site) -> None:
    def codes(query: str, of: str = "区") -> list[str]:
        response = site.client(token=of).get(f"/api/v1/members{query}")
        body = checked(site, response, "/api/v1/members")
        return [each["code"] for each in body["items"]]

    assert set(codes("")) == set("李王赵钱孙")
    assert set(codes("", "甲")) == set("李王赵")
    assert codes("?search=qm") == codes("?search=钱") == ["钱"]
    assert codes("?search=qm", "甲") == []
    assert codes("?limit=2&offset=1") == codes("")[1:3]
    url = f"/api/v1/members?organisation={public_id('乙')}"
    assert site.client(token="甲").get(url).status_code == 404


def test_what_is_told_of_people_is_written_down(site: Site) -> None:
    client = site.client(token="甲")
    client.get(MEETING)
    client.get("/api/v1/attendance")
    client.get("/api/v1/attendance")
    client.get(f"/api/v1/attendance?member={public_id('李')}")
    client.get("/api/v1/members")
    with site.engine.connect() as conn:
        a = s.accesses.c
        looks = conn.execute(
            select(a.what, a.organisation_id, a.member_id, a.from_ms).order_by(a.id)
        ).all()
    assert [(row.what, row.organisation_id, row.member_id) for row in looks] == [
        ("meeting.api", None, None),
        ("attendance.api", site.ids["甲"], None),
        ("attendance.api", None, site.ids["李"]),
        ("members.api", site.ids["甲"], None),
    ]
    assert looks[1].from_ms is not None


def test_a_member_and_an_organisation(site: Site) -> None:
    site.tap("李", minutes(-10))
    site.now_ms = minutes(90)
    client = site.client(token="区")
    member = checked(
        site,
        client.get(f"/api/v1/members/{public_id('李')}/attendance"),
        "/api/v1/members/{member}/attendance",
    )
    assert [(each["meeting"]["code"], each["verdict"]) for each in member["items"]] == [
        ("会", "PRESENT")
    ]
    organisation = checked(
        site,
        client.get(f"/api/v1/organisations/{public_id('区')}/attendance"),
        "/api/v1/organisations/{organisation}/attendance",
    )
    assert (organisation["totals"]["present"], organisation["totals"]["pending"]) == (1, 2)


def test_the_list_of_meetings_by_day_organisation_and_page(site: Site) -> None:
    with site.engine.begin() as conn:
        world = site.world(conn)
        for number in range(1, 5):
            world.meeting(f"m{number}", "乙", "礼堂", number * 24 * 60)
    client = site.client(token="区")

    def codes(query: str) -> tuple[list[str], int]:
        body = checked(site, client.get(f"/api/v1/meetings{query}"), "/api/v1/meetings")
        return [each["meeting"]["code"] for each in body["items"]], body["total"]

    assert codes("") == (["会", "m1", "m2", "m3", "m4"], 5)
    assert codes("?limit=2&offset=1") == (["m1", "m2"], 5)
    assert codes("?offset=9") == ([], 5)
    assert codes(f"?organisation={public_id('甲')}") == (["会"], 1)
    # START is 2026-04-24 11:06 in Shanghai; both days belong to the period.
    assert codes("?from=2026-04-25&to=2026-04-26") == (["m1", "m2"], 2)
    assert codes("?from=2026-04-27") == (["m3", "m4"], 2)
    assert codes("?to=2026-04-24") == (["会"], 1)
    assert codes("?from=2030-01-01") == ([], 0)
    assert codes("?to=2010-01-01") == ([], 0)
    assert site.client(token="甲").get("/api/v1/meetings").json()["total"] == 1
    other = site.client(token="甲").get(f"/api/v1/meetings?organisation={public_id('乙')}")
    assert other.status_code == 404


def test_a_day_begins_and_ends_where_the_district_is(site: Site) -> None:
    with site.engine.begin() as conn:
        midnight = minutes(0) - (11 * 60 + 6) * 60_000 - 40_000  # 00:00 of that day in Shanghai
        midnight -= midnight % 60_000
        conn.execute(
            update(s.meetings).values(
                opens_ms=midnight, starts_ms=midnight, ends_ms=midnight + 60_000
            )
        )
    client = site.client(token="甲")
    day = client.get("/api/v1/meetings").json()["items"][0]["meeting"]["day"]
    assert client.get(f"/api/v1/meetings?from={day}&to={day}").json()["total"] == 1


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("from=2026-13-01", "from"),
        ("from=2026-02-30", "from"),
        ("from=0", "from"),
        ("from=20260101", "from"),
        ("from=٢٠٢٦-٠١-٠١", "from"),
        ("to=yesterday", "to"),
        ("to=9999-12-31", "to"),
        ("from=1999-12-31", "from"),
        ("from=2026-02-01&to=2026-01-01", "from"),
        ("from=", "from"),
        ("limit=0", "limit"),
        (f"limit={MAX_LIMIT + 1}", "limit"),
        ("limit=x", "limit"),
        ("offset=-1", "offset"),
        ("offset=99999999999999999999999", "offset"),
        ("form=2026-01-01", "form"),
        ("organisation=x", "organisation"),
        ("organisation=%00", "organisation"),
    ],
)
def test_a_bad_parameter_is_named(site: Site, query: str, names: str) -> None:
    response = site.client(token="甲").get(f"/api/v1/meetings?{query}")
    assert response.status_code == 422
    detail = checked(site, response, "/api/v1/meetings")["detail"]
    assert detail.startswith(f"{names}: ")


@pytest.mark.parametrize("bad", ["x", "1", "%00", "%F0%9F%98%80", str(public_id("会")) + "0"])
def test_a_bad_public_id_is_named(site: Site, bad: str) -> None:
    response = site.client(token="甲").get(f"/api/v1/meetings/{bad}/attendance")
    assert response.status_code == 422
    assert response.json()["detail"].startswith("meeting: ")


def test_revoked_and_malformed_authorisation(site: Site) -> None:
    client = site.client()
    token = site.tokens["甲"]
    for value in (
        "",
        "Bearer",
        "Bearer ",
        f"Basic {token}",
        token,
        "Bearer \u00ff",
        f"Bearer {token}x",
    ):
        response = client.get(
            "/api/v1/meetings", headers={"Authorization": value.encode("latin-1")}
        )
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    assert client.get("/api/v1/meetings", headers={"Authorization": f"bearer {token}"}).is_success
    with site.engine.begin() as conn:
        revoke(conn, "甲秘书", minutes(-10))
    assert site.client(token="甲").get("/api/v1/meetings").status_code == 401


def test_the_description_is_whole(site: Site) -> None:
    assert site.client().get("/openapi.json").status_code == 404
    assert site.client().get("/docs").status_code == 404
    described = site.client(token="甲").get("/api/v1/openapi.json").json()
    operations = {
        (method, path): operation
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(ids) == len(set(ids))
    assert {"enrol", "health", "list_attendance", "list_meetings", "list_members"} <= set(ids)
    for (_, path), operation in operations.items():
        is_open = path in {"/api/v1/health", "/api/v1/enrol", "/api/v1/certificate"}
        assert ("security" not in operation) == is_open
        if not is_open:
            assert {"401", "403", "422", "503"} <= operation["responses"].keys()
            assert any(status.startswith("2") for status in operation["responses"])
        for answer in operation["responses"].values():
            assert answer["description"]
    assert described["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_health(site: Site, engine: Engine) -> None:
    response = site.client().get("/api/v1/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    trouble = create_app(engine, zone=ZONE, health=lambda: "ingest: the broker is away")
    response = Client(trouble, None).get("/api/v1/health")
    assert (response.status_code, response.json()) == (
        503,
        {"detail": "ingest: the broker is away"},
    )


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/hub.db", "postgresql://nobody:secret@127.0.0.1:1/none"]
)
def test_a_database_that_is_away_is_503_and_not_quoted(url: str) -> None:
    engine = open_engine(url)
    client = Client(create_app(engine, zone=ZONE), "shk_x")
    for path in ("/api/v1/health", "/api/v1/meetings"):
        response = client.get(path)
        assert response.status_code == 503
        assert set(response.json()) == {"detail"}
        assert "database" in response.json()["detail"]
        assert "nowhere" not in response.text
        assert "secret" not in response.text
    client.cookies.set("shuaka_session", "x")
    page = client.get("/")
    assert page.status_code == 503
    assert "数据库" in page.text
    engine.dispose()


def test_an_error_of_our_own_tells_nothing_and_keeps_the_headers(engine: Engine) -> None:
    def broken() -> str | None:
        raise RuntimeError("a secret")

    response = Client(create_app(engine, zone=ZONE, health=broken), None).get("/api/v1/health")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["content-security-policy"]


# --- Enrolment --------------------------------------------------------------------------------


def enrolling(engine: Engine, seen: list[Any], refuse: EnrolmentRefusedError | None = None) -> Site:
    def enrol(*given: bytes) -> bytes:
        seen.append(given)
        if refuse is not None:
            raise refuse
        return b"\xff\xfe answer"

    return Site(engine, enrol=enrol)


def test_enrolment_hands_over_bytes_and_gives_the_answer(engine: Engine) -> None:
    seen: list[Any] = []
    site = enrolling(engine, seen)
    response = site.client().post("/api/v1/enrol", json={**KEYS, "csr": "of later"})
    body = checked(site, response, "/api/v1/enrol", "post")
    assert body == {"answer": urlsafe_b64encode(b"\xff\xfe answer").decode().rstrip("=")}
    assert seen == [(RAW, RAW, RAW)]


def test_a_refused_enrolment_says_why(engine: Engine) -> None:
    site = enrolling(engine, [], EnrolmentRefusedError(409, "the code was used already"))
    response = site.client().post("/api/v1/enrol", json=KEYS)
    assert response.status_code == 409
    assert checked(site, response, "/api/v1/enrol", "post") == {
        "detail": "the code was used already"
    }


@pytest.mark.parametrize(
    ("body", "status", "names"),
    [
        ({**KEYS, "proof": TEXT + "="}, 422, "proof"),
        ({**KEYS, "proof": TEXT[:-1]}, 422, "proof"),
        ({**KEYS, "sign_key": TEXT[:-1] + "/"}, 422, "sign_key"),
        # The last character holds four bits; these would be lost.
        ({**KEYS, "seal_key": TEXT[:-1] + "9"}, 422, "seal_key"),
        ({**KEYS, "seal_key": 7}, 422, "seal_key"),
        ({**KEYS, "seal_key": None}, 422, "seal_key"),
        ({**KEYS, "seal_key": "\u00e9" * 43}, 422, "seal_key"),
        ({**KEYS, "seal_key": [TEXT]}, 422, "seal_key"),
        ({"sign_key": TEXT, "seal_key": TEXT}, 422, "proof"),
        ([], 422, "body"),
        ("text", 422, "body"),
        (b"{", 422, "body"),
        (b"", 422, "body"),
        (b"\xff\xfe\xff", 400, ""),
        (b"[" * 10_000, 422, ""),
    ],
)
def test_a_bad_enrolment_is_named_and_handed_to_nobody(
    engine: Engine, body: Any, status: int, names: str
) -> None:
    seen: list[Any] = []
    site = enrolling(engine, seen)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = site.client().post(
        "/api/v1/enrol", content=content, headers={"Content-Type": "application/json"}
    )
    if content.startswith(b"[["):
        assert response.status_code in {400, 422}
    else:
        assert response.status_code == status
    detail = response.json()["detail"]
    assert names in detail
    assert TEXT not in detail
    assert seen == []


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_413(engine: Engine, declared: bool) -> None:
    seen: list[Any] = []
    site = enrolling(engine, seen)
    content = json.dumps({**KEYS, "more": "x" * 65 * 1024}).encode()

    async def piecewise() -> Any:
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    response = site.client().post(
        "/api/v1/enrol",
        content=content if declared else piecewise(),
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 413
    assert "64 KiB" in response.json()["detail"]
    assert seen == []


def test_a_form_is_no_enrolment(engine: Engine) -> None:
    seen: list[Any] = []
    response = enrolling(engine, seen).client().post("/api/v1/enrol", data=KEYS)
    assert response.status_code == 422
    assert seen == []


def test_a_hub_without_enrolment_says_so(site: Site) -> None:
    response = site.client().post("/api/v1/enrol", json=KEYS)
    assert (response.status_code, "enrolments" in response.text) == (503, True)
