"""Every route of the application, found in its table: rights and scope hold for all of them.

A route that is added later is in these tests without being named here. What a route may need:

- a path parameter of a new kind: say in `THINGS` how one of it is made in a branch, or in `WORDS`
  what it may be, if it is a word that belongs to nobody;
- something that must have been done before it answers: `NEEDS_MORE`;
- an API route with a body that `example` cannot make up from its description: say one in `BODIES`;
- a route that anybody may call: `OPEN`; whoever is signed in, whatever their role: `ANYBODY`;
- a right that is asked for in another way than by `page_right` or `api_right`: `RIGHTS`.
"""

import inspect
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy import Engine, select, update

from hub.auth.rights import Right, rights_of
from hub.auth.sessions import begin_session
from hub.auth.tokens import new_token
from hub.context import Joining, api_right, page_right
from hub.derive import derive_batch
from hub.domain.terms import Role
from hub.store import schema as s
from hub.store.engine import open_engine, reading
from protocol.journal import Act
from tests.hub.site import ZONE, Client, Site
from tests.hub.world import Entry, World, minutes, public_id, uid_of

OPEN = {
    ("GET", "/api/v1/health"),
    ("POST", "/api/v1/enrol"),
    ("POST", "/api/v1/certificate"),  # its signature says who asks
    ("GET", "/sign-in"),
    ("POST", "/sign-in"),
    ("POST", "/sign-out"),
    ("GET", "/first-run"),  # 404 once there is an account, see test_auth
    ("POST", "/first-run"),
    ("POST", "/language"),
}
"""Beside the static files, these and no others answer whoever is nobody."""

ANYBODY = {
    ("GET", "/"),
    ("GET", "/api/v1/openapi.json"),
    ("GET", "/password"),
    ("POST", "/password"),
    ("GET", "/sessions"),
    ("POST", "/sessions/{session}/end"),
}
"""These ask for no right: whoever is signed in may call them, and sees what is their own."""

RIGHTS = {
    ("GET", "/meetings/{meeting}/live"): Right.VIEW,
    ("GET", "/meetings/{meeting}/screen/live"): Right.VIEW,
    ("GET", "/cards/desk/live"): Right.TAPS,
}
"""Of routes that ask for their right in another way."""

NEEDS_MORE = {
    ("GET", "/imports/work/problems"),
    ("GET", "/imports/work/file"),
    ("GET", "/sticks/receipts"),
    # a branch is asked to take part in another's meeting, and in none of its own
    ("POST", "/meetings/{meeting}/partners/{organisation}"),
    ("POST", "/api/v1/meetings/{meeting}/partners/{organisation}"),
}
"""These may answer 404 in one's own sub-tree, as long as nothing was done before."""

STREAMS = re.compile(r"/live$")
"""What answers for as long as somebody listens, or 401 in place of a page."""

BRANCHES = {"甲": "李", "乙": "钱"}
"""The two sub-trees, and a member of each."""

NOWHERE = public_id("nowhere")


# --- what paths may name --------------------------------------------------------------------------


def _token(site: Site, world: World, branch: str) -> uuid.UUID:
    new_token(world.conn, f"令{branch}", branch, minutes(-1000))
    return _latest(world, s.tokens)


def _account(site: Site, world: World, branch: str) -> uuid.UUID:
    site.account(world.conn, f"员{branch}", "员", branch, Role.TECHNICIAN)
    return _latest(world, s.accounts)


def _session(site: Site, world: World, branch: str) -> uuid.UUID:
    account = select(s.accounts.c.id).where(s.accounts.c.login == f"员{branch}")
    begin_session(world.conn, world.conn.scalars(account).one(), "browser", site.now_ms)
    return _latest(world, s.sessions)


def _declaration(site: Site, world: World, branch: str) -> uuid.UUID:
    world.declare(f"会{branch}", "WITNESSED", BRANCHES[branch], at=-4)
    return _latest(world, s.declarations)


def _objection(site: Site, world: World, branch: str) -> uuid.UUID:
    world.declare(f"会{branch}", "OBJECTION", BRANCHES[branch], at=-4, reason="x")
    return _latest(world, s.declarations)


def _ask(site: Site, world: World, branch: str) -> uuid.UUID:
    world.declare(f"会{branch}", "LEAVE_ASKED", BRANCHES[branch], at=-4, reason="WORK")
    return _latest(world, s.declarations)


def _card(site: Site, world: World, branch: str) -> uuid.UUID:
    card = select(s.credentials.c.card_id).where(
        s.credentials.c.id == uid_of(world, BRANCHES[branch])
    )
    return uuid.UUID(
        str(world.conn.scalar(select(s.cards.c.public_id).where(s.cards.c.id.in_(card))))
    )


def _tap(site: Site, world: World, branch: str) -> str:
    """A tap of an unknown card at the branch's own device."""
    world.epoch(f"e{branch}", f"机{branch}")
    card = world.card(None, f"0BAD{ord(branch):06X}")
    entry = Entry(minutes(-5) - minutes(-1000), minutes(-5), True, card)
    world.batch(f"e{branch}", 1, [entry], minutes(-5))
    derive_batch(world.conn)
    return f"{public_id(f'机{branch}')}-{public_id(f'e{branch}').hex}-1"


def _act(site: Site, world: World, branch: str) -> str:
    """A head-count at the branch's own device, by the card of its secretary."""
    member = BRANCHES[branch]
    world.office(member, branch)
    card = uid_of(world, member)
    entry = Entry(minutes(-4) - minutes(-1000), minutes(-4), True, card, Act.HEAD_COUNT, 5)
    world.batch(f"e{branch}", 2, [entry], minutes(-4))
    derive_batch(world.conn)
    return f"{public_id(f'e{branch}').hex}-2"


def _reading(site: Site, world: World, branch: str) -> uuid.UUID:
    """What a station of the branch has read: an unknown card."""
    new_token(world.conn, f"台{branch}", branch, minutes(-1000), role=Role.SECRETARY)
    token_id = world.conn.scalar(select(s.tokens.c.id).where(s.tokens.c.name == f"台{branch}"))
    world.add(
        s.desk_readings,
        public_id=public_id(f"读{branch}"),
        token_id=token_id,
        at_ms=site.now_ms,
        expires_ms=site.now_ms + 600_000,
        scheme="uid",
        issuer="",
        value=f"0BAD0000{ord(branch):06X}",
        last=f"{ord(branch):06X}"[-4:],
    )
    return public_id(f"读{branch}")


THINGS: dict[str, Callable[[Site, World, str], uuid.UUID | str]] = {
    "organisation": lambda _, __, branch: public_id(branch),
    "member": lambda _, __, branch: public_id(BRANCHES[branch]),
    "meeting": lambda _, __, branch: public_id(f"会{branch}"),
    "venue": lambda _, __, branch: public_id(f"堂{branch}"),
    "device": lambda _, __, branch: public_id(f"机{branch}"),
    "account": _account,
    "token": _token,
    "session": _session,
    "declaration": _declaration,
    "objection": _objection,
    "ask": _ask,
    "card": _card,
    "tap": _tap,
    "reading": _reading,
    "act": _act,
}
"""How one of each kind is made in a branch (甲 or 乙); gives what a path calls it.

The branch has a member, a meeting 会…, a venue 堂… and a device 机… already; `world` adds more
of anything, see `tests.hub.world`.
"""

NOTHING: dict[str, str] = {"tap": f"{NOWHERE}-{NOWHERE.hex}-1", "act": f"{NOWHERE.hex}-1"}
"""What a path calls something that does not exist, where that is no UUID."""

WORDS = {"register": "members"}
"""Parameters of paths that are a word of a closed set."""

BODIES: dict[tuple[str, str], Any] = {}
"""Bodies of API routes for which a made up one will not do."""

FILES = {
    ("POST", "/api/v1/imports/{register}"): "code,name,organisation,from\nm8,八,甲,2026-07-01\n",
}
"""Bodies of API routes that take no JSON."""


def _latest(world: World, table: Any) -> uuid.UUID:
    found = world.conn.scalars(select(table.c.public_id).order_by(table.c.id.desc()).limit(1))
    return uuid.UUID(str(found.one()))


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Route:
    """One method of one path."""

    method: str
    path: str
    route: APIRoute

    @property
    def key(self) -> tuple[str, str]:
        return self.method, self.path

    @property
    def is_api(self) -> bool:
        return self.path.startswith("/api/")

    @property
    def kinds(self) -> list[str]:
        """What the path's parameters are called, so what they name."""
        return [each for each in re.findall(r"\{(\w+)", self.path) if each not in WORDS]

    @property
    def asked_kinds(self) -> list[str]:
        """The parameters of the query that name something."""
        names = [each.alias for each in _all_query(self.route.dependant)]
        return [each for each in names if each in THINGS]

    @property
    def right(self) -> Right | None:
        """What is asked for; None for whoever is signed in."""
        if self.key in RIGHTS:
            return RIGHTS[self.key]
        found = {
            inspect.getclosurevars(each.call).nonlocals["right"]
            for each in _all(self.route.dependant)
            if inspect.isfunction(each.call)
            and each.call.__qualname__.startswith((page_right.__name__, api_right.__name__))
        }
        assert len(found) <= 1, f"{self}: asks for several rights"
        return found.pop() if found else None

    def url(self, names: dict[str, str]) -> str:
        return re.sub(r"\{(\w+)[^}]*\}", lambda each: (names | WORDS)[each[1]], self.path)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def _all(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for each in dependant.dependencies:
        yield from _all(each)


def _all_query(dependant: Dependant) -> Iterator[Any]:
    for each in _all(dependant):
        for parameter in each.query_params:
            fields = getattr(parameter.field_info.annotation, "model_fields", None)
            if fields is None:
                yield parameter
                continue
            for name, field in fields.items():
                yield type("Field", (), {"alias": field.alias or name})


def routes(app: FastAPI) -> list[Route]:
    found = []
    for each in iter_route_contexts(app.routes):
        if each.path == "/static":
            continue
        assert each.methods, f"{each.path}: is neither a route nor the static files"
        for method in each.methods:
            if method != "HEAD":
                assert isinstance(each.original_route, APIRoute)
                found.append(Route(method, each.path, each.original_route))
    return sorted(found, key=lambda each: (each.path, each.method))


def _table() -> list[Route]:
    from hub.app import create_app

    return routes(create_app(open_engine("sqlite:////nowhere/hub.db"), zone=ZONE))


ALL = _table()
CLOSED = [each for each in ALL if each.key not in OPEN]
NAMING = [each for each in CLOSED if each.kinds or each.asked_kinds]


def example(schema: dict[str, Any], whole: dict[str, Any], things: dict[str, str]) -> Any:
    """Something that a JSON schema allows; a field called as a kind of thing names that one."""
    if "$ref" in schema:
        return example(whole["components"]["schemas"][schema["$ref"].split("/")[-1]], whole, things)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return example(schema[key][0], whole, things)
    for key in ("examples", "enum"):
        if key in schema:
            return schema[key][0]
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    match schema.get("type"):
        case "object":
            named = schema.get("properties", {})
            return {
                name: things[name]
                if name in things and "array" not in str(named[name])
                else example(named[name], whole, things)
                for name in schema.get("required", [])
            }
        case "array":
            return [example(schema["items"], whole, things)] if schema.get("minItems") else []
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "string" if schema.get("format") == "uuid":
            return str(NOWHERE)
        case _:
            return "x" * max(1, schema.get("minLength", 1))


def more(app: FastAPI, route: Route, things: dict[str, str]) -> dict[str, Any]:
    """The body of a request, as a browser or a program sends it."""
    if route.method == "GET" or not route.is_api:
        return {}
    if route.key in BODIES:
        return {"json": BODIES[route.key]}
    whole = app.openapi()
    described = whole["paths"][route.path][route.method.lower()].get("requestBody")
    if described is None:
        return {}
    if "application/json" not in described["content"]:
        return {"content": FILES[route.key].encode()}
    return {"json": example(described["content"]["application/json"]["schema"], whole, things)}


# --- who asks -------------------------------------------------------------------------------------


@dataclass
class Ground:
    """A district where both branches have one of everything, and people of every role."""

    site: Site
    things: dict[str, dict[str, str]]
    """By branch and kind: what a path calls it."""

    def client(self, branch: str, role: Role) -> Client:
        """Signed in, and with a token, of a role in the branch (or 区)."""
        client = self.site.client(token=f"{branch} {role.value}")
        return client.sign_in(f"{branch} {role.value}".replace(" ", "-"))

    def request(self, client: Client, route: Route, names: dict[str, str], **query: str) -> Any:
        things = self.things["甲"] | names
        more_ = more(self.site.app, route, things)
        # Compressed, an address within the answer would change its length.
        headers = {"Accept-Encoding": "identity"}
        return client.request(
            route.method, route.url(names), params=query, headers=headers, **more_
        )

    def everything(self) -> dict[str, list[Any]]:
        """All rows of all tables."""
        with reading(self.site.engine) as conn:
            return {
                table.name: list(conn.execute(select(table)).all())
                for table in s.metadata.sorted_tables
            }


@pytest.fixture
def ground(engine: Engine) -> Ground:
    site = Site(engine, joining=Joining(bytes(10), "mqtt://broker.example"))
    things: dict[str, dict[str, str]] = {}
    with engine.begin() as conn:
        world = site.world(conn)
        for branch in BRANCHES:
            world.venue(f"堂{branch}", branch)
            world.device(f"机{branch}", f"堂{branch}")
            world.meeting(f"会{branch}", branch, f"堂{branch}")
            things[branch] = {kind: str(make(site, world, branch)) for kind, make in THINGS.items()}
        for branch in ("区", *BRANCHES):
            member = BRANCHES.get(branch, "王")
            for role in Role:
                name = f"{branch}-{role.value}"
                # The operators are members too: they have every right there is.
                has_member = role in {Role.MEMBER, Role.OPERATOR}
                site.account(conn, name, name, branch, role, member if has_member else None)
                site.tokens[f"{branch} {role.value}"] = new_token(
                    conn,
                    name,
                    branch,
                    minutes(-1000),
                    role=role,
                    member_id=world.ids[member] if role is Role.MEMBER else None,
                )
        # Tokens of other roles have no member, but for one that must have every right.
        operators = s.tokens.c.role == Role.OPERATOR.value
        for branch, member in {**BRANCHES, "区": "王"}.items():
            conn.execute(
                update(s.tokens)
                .where(operators, s.tokens.c.organisation_id == world.ids[branch])
                .values(member_id=world.ids[member])
            )
    return Ground(site, things)


# --- the promises ---------------------------------------------------------------------------------


def test_the_table_is_the_applications(ground: Ground) -> None:
    assert [str(each) for each in routes(ground.site.app)] == [str(each) for each in ALL]
    assert {each.key for each in ALL} >= OPEN | ANYBODY | set(RIGHTS) | set(BODIES)
    assert len(ALL) >= 20


@pytest.mark.parametrize("route", NAMING, ids=str)
def test_what_a_path_names_is_known_here(route: Route) -> None:
    for kind in route.kinds:
        assert kind in THINGS, (
            f"{route}: call the parameter what it names (such as meeting), and add to THINGS in"
            f" {__name__} how a {kind} of a branch is made; or to WORDS, if nobody owns it"
        )


@pytest.mark.parametrize("route", CLOSED, ids=str)
def test_a_route_asks_for_a_right(route: Route) -> None:
    assert route.right is not None or route.key in ANYBODY, (
        f"{route}: take its caller from page_right(…) or api_right(…), see hub.context"
    )
    assert route.right is None or route.key not in ANYBODY


@pytest.mark.parametrize("credential", ["none", "wrong"])
def test_nobody_gets_nothing(ground: Ground, credential: str) -> None:
    wrong = []
    for route in CLOSED:
        client = ground.site.client()
        headers = {}
        if credential == "wrong":
            headers = {"Authorization": "Bearer shk_" + 43 * "A"}
            client.cookies.set("shuaka_session", 43 * "A")
        # Also what does not exist: nobody learns which.
        answers = set()
        for names in (ground.things["甲"], nothing(route)):
            response = client.request(route.method, route.url(names), headers=headers)
            answers.add((response.status_code, response.headers.get("location", "")[:13]))
            if re.search("会甲|堂甲|机甲|[甲李]名", response.text):
                wrong.append(f"{route}: tells something")
        if route.is_api or STREAMS.search(route.path):
            expected = (401, "")
        else:
            expected = (303, "/sign-in?next" if route.method == "GET" else "/sign-in")
        if answers != {expected}:
            wrong.append(f"{route}: {answers}, not {expected}")
    assert wrong == []


def nothing(route: Route) -> dict[str, str]:
    return {kind: NOTHING.get(kind, str(NOWHERE)) for kind in (*route.kinds, *route.asked_kinds)}


def test_another_sub_tree_is_404_to_the_byte(ground: Ground) -> None:
    """For each parameter in turn, the others being one's own; also before a form is looked at."""
    client = ground.client("乙", Role.OPERATOR)
    own, theirs = ground.things["乙"], ground.things["甲"]
    before = ground.everything()
    wrong = []
    for route in NAMING:
        for kind in route.kinds:
            refused = [
                ground.request(client, route, {**own, kind: name})
                for name in (theirs[kind], nothing(route)[kind])
            ]
            if any(each.status_code != 404 for each in refused):
                said = [each.status_code for each in refused]
                wrong.append(f"{route}: {{{kind}}} of another sub-tree, and of nothing: {said}")
            # What is hidden and what does not exist look the same.
            if _told(refused[0], theirs[kind]) != _told(refused[1], nothing(route)[kind]):
                wrong.append(f"{route}: tells which {kind} exists")
        for kind in route.asked_kinds:
            refused = [
                ground.request(client, route, own, **{kind: name})
                for name in (theirs[kind], nothing(route)[kind])
            ]
            if route.is_api and any(each.status_code not in {404, 422} for each in refused):
                said = [each.status_code for each in refused]
                wrong.append(f"{route}?{kind}= of another sub-tree, and of nothing: {said}")
            if _told(refused[0], theirs[kind]) != _told(refused[1], nothing(route)[kind]):
                wrong.append(f"{route}: tells which ?{kind}= exists")
        if ground.everything() != before:
            wrong.append(f"{route}: has changed something")
            before = ground.everything()
    assert wrong == []


def _told(response: Any, name: str) -> Any:
    return response.status_code, response.text.replace(name, ""), dict(response.headers)


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
def test_who_lacks_the_right_gets_403_and_changes_nothing(ground: Ground, role: Role) -> None:
    client = ground.client("甲", role)
    has_member = role in {Role.MEMBER, Role.OPERATOR}
    rights = rights_of(role, 1 if has_member else None)
    before = ground.everything()
    wrong, tried = [], 0
    for route in CLOSED:
        if route.right is None or route.right in rights:
            continue
        tried += 1
        for names in (ground.things["甲"], ground.things["乙"], nothing(route)):
            response = ground.request(client, route, names)
            if response.status_code != 403:
                wrong.append(f"{route} needs {route.right}: {response.status_code}")
        if ground.everything() != before:
            wrong.append(f"{route}: has changed something")
            before = ground.everything()
    assert wrong == []
    assert tried or role is Role.OPERATOR


ANSWERS = {
    "GET": {200, 303},
    "DELETE": {200, 204, 409, 422},
    # An empty form, or a body that is made up, may be refused; that says why.
    "POST": {200, 201, 204, 303, 409, 422},
    "PUT": {200, 204, 409, 422},
    "PATCH": {200, 204, 409, 422},
}


def answer(ground: Ground, client: Client, route: Route) -> str | None:
    """What is wrong with the answer to somebody who may; None: nothing."""
    response = ground.request(client, route, ground.things["甲"])
    location = response.headers.get("location", "")
    is_fine = response.status_code in ANSWERS[route.method] or (
        route.key in NEEDS_MORE and response.status_code == 404
    )
    if is_fine and not location.startswith(("/sign-in", "/password")):
        return None
    said = response.text if route.is_api else ""
    return f"{route}: {response.status_code} {location}{said[:300]}"


@pytest.mark.parametrize("branch", ["甲", "区"])
def test_ones_own_sub_tree_is_shown(ground: Ground, branch: str) -> None:
    client = ground.client(branch, Role.OPERATOR)
    wrong = []
    for route in CLOSED:
        # What is 李's own is not of the one who asks for 区.
        is_own = route.right is Right.OWN and branch == "区"
        if route.method == "GET" and not STREAMS.search(route.path) and not is_own:
            wrong.append(answer(ground, client, route))
    assert [each for each in wrong if each] == []


@pytest.mark.parametrize("route", [each for each in CLOSED if each.method != "GET"], ids=str)
def test_ones_own_sub_tree_may_be_changed(ground: Ground, route: Route) -> None:
    """Each in a district of its own, as the one before may have ended what this one needs."""
    assert answer(ground, ground.client("甲", Role.OPERATOR), route) is None


def test_before_a_given_password_is_replaced_there_is_nothing(ground: Ground) -> None:
    client = ground.client("甲", Role.OPERATOR)
    with ground.site.engine.begin() as conn:
        conn.execute(update(s.accounts).values(must_change=True))
    before = ground.everything()
    wrong = []
    for route in CLOSED:
        if route.is_api or route.path == "/password":
            continue
        response = ground.request(client, route, ground.things["甲"])
        said = response.status_code, response.headers.get("location")
        allowed = {(401, None), (403, None)} if STREAMS.search(route.path) else {(303, "/password")}
        if said not in allowed:
            wrong.append(f"{route}: {said}")
    assert wrong == []
    assert ground.everything() == before
    assert client.get("/password").status_code == 200


def test_a_form_of_another_site_is_refused_everywhere(ground: Ground) -> None:
    client = ground.client("甲", Role.OPERATOR)
    before = ground.everything()
    headers = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    for route in ALL:
        if not route.is_api and route.method != "GET":
            url = route.url(ground.things["甲"])
            assert client.request(route.method, url, headers=headers).status_code == 403, str(route)
    assert ground.everything() == before


def test_a_token_of_the_api_opens_no_page_and_a_session_no_api(ground: Ground) -> None:
    for route in CLOSED:
        session = ground.site.client().sign_in("甲-OPERATOR")
        token = ground.site.client(token="甲 OPERATOR")
        client = session if route.is_api else token
        response = ground.request(client, route, ground.things["甲"])
        assert response.status_code in {401, 303}, str(route)
        assert route.is_api or STREAMS.search(route.path) or response.status_code == 303


def test_a_made_up_body_fits_its_description() -> None:
    whole = {"components": {"schemas": {"Kind": {"enum": ["A", "B"], "type": "string"}}}}
    described = {
        "type": "object",
        "required": ["kind", "meeting", "n", "words", "all"],
        "properties": {
            "kind": {"$ref": "#/components/schemas/Kind"},
            "meeting": {"type": "string", "format": "uuid"},
            "n": {"anyOf": [{"type": "integer", "minimum": 3}, {"type": "null"}]},
            "words": {"type": "string", "minLength": 2},
            "all": {"type": "array", "items": {"type": "boolean"}, "minItems": 1},
            "optional": {"type": "string"},
        },
    }
    made = example(described, whole, {"meeting": "m"})
    assert made == {"kind": "A", "meeting": "m", "n": 3, "words": "xx", "all": [True]}
