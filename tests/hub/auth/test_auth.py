"""Accounts, sessions and tokens: kept as digests, locked in time, over when they should be."""

import json
import re
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, BoundedSemaphore
from typing import Any

import httpx
import pytest
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import Engine, delete, event, func, select, update
from sqlalchemy.exc import DBAPIError

from hub.app import create_app
from hub.auth import accounts, grants
from hub.auth.accounts import (
    AccountError,
    SignInError,
    change_password,
    disable,
    first_password,
    prepare,
    reset_password,
    sign_in,
)
from hub.auth.callers import Caller
from hub.auth.sessions import SESSION_MS, begin_session, end_session, find_session, which_hold
from hub.auth.tokens import (
    TokenError,
    caller_by_token,
    list_tokens,
    new_token,
    revoke,
    sha256,
)
from hub.domain.terms import Role
from hub.store import schema as s
from hub.store.engine import reading
from hub.store.scope import NotFoundError
from tests.hub.site import PASSWORD, ZONE, Client, Site, make_account, serving
from tests.hub.world import World, district, minutes, public_id

NOW = 1_777_000_000_000
MINUTE = 60_000


@pytest.fixture
def world(engine: Engine) -> World:
    with engine.begin() as conn:
        return district(conn)


def account(engine: Engine, world: World, login: str = "li", **more: Any) -> int:
    values: dict[str, Any] = {"name": "李", "role": Role.SECRETARY, "organisation": "甲"} | more
    with engine.begin() as conn:
        organisation_id = world.ids[values.pop("organisation")]
        values = {"member_id": None, "password": PASSWORD, "must_change": False} | values
        public = make_account(
            conn, login=login, organisation_id=organisation_id, now_ms=NOW, **values
        )
        return int(conn.scalars(select(s.accounts.c.id).filter_by(public_id=public)).one())


def row(engine: Engine, account_id: int) -> Any:
    with reading(engine) as conn:
        return conn.execute(select(s.accounts).filter_by(id=account_id)).one()


def cookies(engine: Engine, account_id: int, count: int) -> list[str]:
    with engine.begin() as conn:
        return [begin_session(conn, account_id, "browser", NOW) for _ in range(count)]


def holds(engine: Engine, cookie: str, now_ms: int = NOW) -> bool:
    with reading(engine) as conn:
        return find_session(conn, cookie, now_ms) is not None


def acts(engine: Engine) -> list[str]:
    with reading(engine) as conn:
        return list(conn.scalars(select(s.audit.c.what).order_by(s.audit.c.id)))


# --- passwords ------------------------------------------------------------------------------------


def test_a_password_is_kept_as_argon2id_alone(engine: Engine, world: World) -> None:
    key = account(engine, world)
    stored = row(engine, key)
    assert stored.password.startswith("$argon2id$")
    assert PASSWORD not in repr(stored)
    other = account(engine, world, "wang")
    assert row(engine, other).password != stored.password, "salted"


def test_the_real_hash_takes_memory_and_time() -> None:
    # RFC 9106, 4: the second recommended option.
    assert re.match(r"\$argon2id\$v=19\$m=65536,t=3,p=4\$", Argon2Hasher().hash("x"))


@pytest.mark.parametrize("login", ["li", " LI ", "ｌｉ"])
def test_whoever_knows_the_password_signs_in(engine: Engine, world: World, login: str) -> None:
    key = account(engine, world, "Li")
    found = sign_in(engine, login, PASSWORD, NOW)
    assert found.caller.account_id == key
    assert found.caller.token_id is None
    assert (found.caller.role, found.caller.organisation) == (Role.SECRETARY, "甲名")
    assert not found.must_change


@pytest.mark.parametrize(
    "password", ["short", "x" * 129, "aaaaaaaaaaaa", "abababababab", "mylogin123", "12MYLOGIN34"]
)
def test_a_password_that_can_be_guessed_is_refused(
    engine: Engine, world: World, password: str
) -> None:
    with pytest.raises(AccountError) as refused:
        account(engine, world, "mylogin", password=password)
    assert refused.value.field == "new"
    with reading(engine) as conn:
        assert conn.execute(select(s.accounts)).all() == []


def test_first_passwords_differ_and_can_be_read_aloud() -> None:
    made = {first_password() for _ in range(200)}
    assert len(made) == 200
    for each in made:
        assert re.fullmatch(r"(?:[abcdefghjkmnpqrstuvwxyz2-9]{4}-){3}[a-z2-9]{4}", each)
        accounts.check_password(each, "o")


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"login": ""}, "login"),
        ({"login": "a b"}, "login"),
        ({"login": "x" * 65}, "login"),
        ({"login": "a\x00b"}, "login"),
        ({"name": " "}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"role": Role.MEMBER}, "member"),
    ],
)
def test_an_account_that_cannot_be_made_leaves_nothing(
    engine: Engine, world: World, more: dict[str, Any], field: str
) -> None:
    with pytest.raises(AccountError) as refused:
        account(engine, world, **({"login": "li"} | more))
    assert refused.value.field == field
    with reading(engine) as conn:
        assert conn.execute(select(s.accounts)).all() == []


def test_a_login_is_given_once_whatever_its_case(engine: Engine, world: World) -> None:
    account(engine, world, "Straße")
    with pytest.raises(AccountError, match="已有人使用"):
        account(engine, world, "STRASSE")


def test_two_who_take_the_same_login_at_once(engine: Engine, world: World) -> None:
    def make(_: int) -> bool:
        try:
            account(engine, world)
        except AccountError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(make, range(4))) == [False, False, False, True]


# --- lock-out -------------------------------------------------------------------------------------


def wrong(engine: Engine, now_ms: int, login: str = "li", password: str = "x" * 12) -> Any:
    with pytest.raises(SignInError) as refused:
        sign_in(engine, login, password, now_ms)
    return refused.value.locked_until_ms


def test_five_wrong_passwords_lock_and_each_further_one_for_longer(
    engine: Engine, world: World
) -> None:
    key = account(engine, world)
    now = NOW
    for _ in range(4):
        assert wrong(engine, now) is None
    sign_in(engine, "li", PASSWORD, now)
    for _ in range(5):
        assert wrong(engine, now) is None, "counted anew since the right one"
    expected = 1
    for _ in range(7):
        until = row(engine, key).locked_until_ms
        assert until - now == expected * MINUTE
        assert wrong(engine, until - 1, password=PASSWORD) == until, "the right one neither"
        assert row(engine, key).locked_until_ms == until, "asking while locked adds nothing"
        now = until
        assert wrong(engine, now) is None
        expected = min(2 * expected, 15)
    sign_in(engine, "li", PASSWORD, row(engine, key).locked_until_ms)
    assert (row(engine, key).failures, row(engine, key).locked_until_ms) == (0, None)


def test_guesses_made_at_the_same_time_are_not_more(
    engine: Engine, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = account(engine, world)
    matches = accounts._matches
    monkeypatch.setattr(accounts, "_LINE", BoundedSemaphore(40))
    monkeypatch.setattr(accounts, "_CHECKS", BoundedSemaphore(40))
    together = Barrier(13)

    def at_once(password: str, hashed: str) -> bool:
        found = matches(password, hashed)
        together.wait(30)
        if password == PASSWORD:
            time.sleep(1)  # the wrong ones are first
        return found

    monkeypatch.setattr(accounts, "_matches", at_once)

    def guess(number: int) -> bool:
        try:
            sign_in(engine, "li", PASSWORD if number == 12 else f"guess number {number}", NOW)
        except SignInError:
            return False
        return True

    with ThreadPoolExecutor(13) as pool:
        assert not any(pool.map(guess, range(13))), "the right one came after five others"
    assert row(engine, key).failures == 5
    assert acts(engine) == ["account.locked"]


def test_wrong_passwords_are_forgotten_after_a_day(engine: Engine, world: World) -> None:
    key = account(engine, world)
    for _ in range(4):
        assert wrong(engine, NOW) is None
    later = NOW + accounts.FORGET_MS
    assert row(engine, key).failures == 4
    wrong(engine, later)
    assert row(engine, key).locked_until_ms == later + MINUTE, "just within the day"
    much_later = later + accounts.FORGET_MS + 1
    wrong(engine, much_later)
    assert (row(engine, key).failures, row(engine, key).locked_until_ms) == (1, None)
    assert sign_in(engine, "li", PASSWORD, much_later).failures == 1


def test_each_lock_is_told_once(engine: Engine, world: World) -> None:
    account(engine, world)
    for _ in range(9):
        wrong(engine, NOW)
    assert acts(engine) == ["account.locked"]
    wrong(engine, NOW + MINUTE)
    assert acts(engine) == ["account.locked"] * 2
    with reading(engine) as conn:
        told = conn.execute(select(s.audit)).all()
    assert {each.actor for each in told} == {"未登录的人"}
    assert [json.loads(each.details) for each in told] == [{"failures": 5}, {"failures": 6}]
    assert {each.organisation_id for each in told} == {world.ids["甲"]}


def test_a_flood_of_sign_ins_leaves_everything_else_answering(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(password: str, hashed: str) -> bool:
        time.sleep(0.4)
        return False

    monkeypatch.setattr(accounts, "_matches", slow)
    with serving(site.app) as (url, _), httpx.Client(base_url=url, timeout=60) as client:

        def sign_in_(number: int) -> httpx.Response:
            form = {"login": f"nobody{number}", "password": "wrong password"}
            return client.post("/sign-in", data=form)

        with ThreadPoolExecutor(80) as pool:
            flood = [pool.submit(sign_in_, each) for each in range(80)]
            time.sleep(0.3)
            began = time.monotonic()
            assert client.get("/api/v1/health").status_code == 200
            taken = time.monotonic() - began
            said = [each.result() for each in flood]
    assert taken < 3
    assert {each.status_code for each in said} == {403, 503}
    turned_away = [each for each in said if each.status_code == 503]
    assert "现在登录的人太多" in turned_away[0].text
    assert all(int(each.headers["retry-after"]) > 0 for each in turned_away)


def test_no_password_is_hashed_while_others_cannot_write(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = accounts._HASH
    hashed: list[str] = []

    class Watched:
        def hash(self, password: str) -> str:
            with site.engine.begin() as conn:  # waits, and fails, if somebody else writes
                conn.execute(update(s.accounts).values(failures=0))
            hashed.append(password)
            return real.hash(password)

        verify = real.verify

    operator = site.signed_in("甲管")
    monkeypatch.setattr(accounts, "_HASH", Watched())
    form = {"login": "neu", "name": "新", "role": "AUDITOR", "organisation": str(public_id("甲"))}
    assert operator.post("/accounts/new", data=form).status_code == 200
    with reading(site.engine) as conn:
        neu = conn.scalars(select(s.accounts.c.public_id).filter_by(login="neu")).one()
    assert operator.post(f"/accounts/{neu}/reset").status_code == 200
    new = {"old": PASSWORD, "new": "my own password", "again": "my own password"}
    assert operator.post("/password", data=new).status_code == 303
    assert len(hashed) == 3


def test_nobody_learns_which_login_there_is(engine: Engine, world: World) -> None:
    """The same answer to the byte, while the account is open and while it is locked."""
    account(engine, world, "qqq")
    client = Client(create_app(engine, zone=ZONE, clock=lambda: NOW), None)
    for _ in range(9):
        said = []
        for login in ("qqq", "zzz"):
            form = {"login": login, "password": "wrong password"}
            headers = {"Accept-Encoding": "identity"}
            response = client.post("/sign-in", data=form, headers=headers)
            said.append((response.status_code, response.text.replace(login, "")))
        assert said[0] == said[1]
    assert wrong(engine, NOW, "qqq", PASSWORD) is not None, "it was locked"


@pytest.mark.parametrize("login", ["li", "nobody", "locked"])
def test_nor_by_what_is_written(engine: Engine, world: World, login: str) -> None:
    """As many transactions that write, whether there is such an account or not."""
    account(engine, world)
    account(engine, world, "locked")
    with engine.begin() as conn:
        a = s.accounts.c
        conn.execute(
            update(s.accounts).where(a.login == "locked").values(locked_until_ms=NOW + MINUTE)
        )
    written: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE"):
            written.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    wrong(engine, NOW, login)
    event.remove(engine, "before_cursor_execute", note)
    assert len(written) == 1


def test_nor_by_the_time_it_takes(
    engine: Engine, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = accounts.PasswordHash((Argon2Hasher(time_cost=3, memory_cost=8192, parallelism=1),))
    monkeypatch.setattr(accounts, "_HASH", slow)
    monkeypatch.setattr(accounts, "_NOBODY", slow.hash("nobody's"))
    account(engine, world)
    account(engine, world, "locked")
    account(engine, world, "disabled")
    with engine.begin() as conn:
        a = s.accounts.c
        conn.execute(
            update(s.accounts).where(a.login == "locked").values(locked_until_ms=NOW + MINUTE)
        )
        conn.execute(update(s.accounts).where(a.login == "disabled").values(disabled_ms=NOW))
    taken: dict[str, list[float]] = {}
    for _ in range(7):
        for login in ("li", "nobody", "locked", "disabled", "a b"):
            began = time.process_time()
            wrong(engine, NOW, login)
            taken.setdefault(login, []).append(time.process_time() - began)
        with engine.begin() as conn:
            conn.execute(update(s.accounts).values(failures=0))
    medians = {login: statistics.median(each) for login, each in taken.items()}
    assert max(medians.values()) < 2 * min(medians.values()), medians


def test_guesses_of_the_old_password_count_too(engine: Engine, world: World) -> None:
    key = account(engine, world)
    caller = sign_in(engine, "li", PASSWORD, NOW).caller
    for _ in range(5):
        with pytest.raises(AccountError, match="原密码不对"):
            change(engine, caller, "wrong password", "another fine one")
    with pytest.raises(AccountError, match="原密码不对"):
        change(engine, caller, PASSWORD, "another fine one")
    assert row(engine, key).locked_until_ms == NOW + MINUTE


# --- replacing a password -------------------------------------------------------------------------


def change(engine: Engine, caller: Caller, old: str, new: str, keep: bytes | None = None) -> None:
    change_password(engine, caller, old, new, keep_session=keep, now_ms=NOW)


def test_a_changed_password_ends_all_other_sessions(engine: Engine, world: World) -> None:
    key = account(engine, world, must_change=True)
    other = account(engine, world, "other")
    caller = sign_in(engine, "li", PASSWORD, NOW).caller
    mine, *rest = cookies(engine, key, 3)
    [theirs] = cookies(engine, other, 1)
    change(engine, caller, PASSWORD, "another fine one", sha256(mine))
    assert holds(engine, mine)
    assert not any(holds(engine, each) for each in rest)
    assert holds(engine, theirs)
    assert not row(engine, key).must_change
    wrong(engine, NOW, password=PASSWORD)
    sign_in(engine, "li", "another fine one", NOW)
    assert acts(engine) == ["account.change_password"]


@pytest.mark.parametrize("new", [PASSWORD, "short", "x" * 129])
def test_a_password_that_will_not_do_changes_nothing(
    engine: Engine, world: World, new: str
) -> None:
    key = account(engine, world)
    caller = sign_in(engine, "li", PASSWORD, NOW).caller
    [cookie] = cookies(engine, key, 1)
    with pytest.raises(AccountError) as refused:
        change(engine, caller, PASSWORD, new)
    assert refused.value.field == "new"
    assert holds(engine, cookie)
    sign_in(engine, "li", PASSWORD, NOW)
    assert acts(engine) == []


def test_of_two_changes_at_once_one_holds(
    engine: Engine, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    account(engine, world)
    caller = sign_in(engine, "li", PASSWORD, NOW).caller
    real = accounts.hash_password

    def and_meanwhile(password: str) -> str:
        monkeypatch.setattr(accounts, "hash_password", real)
        change(engine, caller, PASSWORD, "the quicker one")
        return real(password)

    monkeypatch.setattr(accounts, "hash_password", and_meanwhile)
    with pytest.raises(AccountError, match="刚刚被改过"):
        change(engine, caller, PASSWORD, "the slower one")
    sign_in(engine, "li", "the quicker one", NOW)


def test_a_reset_ends_sessions_and_lock_and_must_be_replaced(engine: Engine, world: World) -> None:
    key = account(engine, world)
    for _ in range(5):
        wrong(engine, NOW)
    [cookie] = cookies(engine, key, 1)
    with engine.begin() as conn:
        prepared = prepare()
        reset_password(conn, key, prepared.hashed, None)
    assert not holds(engine, cookie)
    assert sign_in(engine, "li", prepared.password, NOW).must_change
    wrong(engine, NOW, password=PASSWORD)


# --- the end of accounts --------------------------------------------------------------------------


def test_a_disabled_account_is_nobody_and_can_come_back(engine: Engine, world: World) -> None:
    key = account(engine, world)
    [cookie] = cookies(engine, key, 1)
    with engine.begin() as conn:
        disable(conn, key, NOW)
    assert not holds(engine, cookie)
    wrong(engine, NOW, password=PASSWORD)
    with engine.begin() as conn:
        accounts.enable(conn, key)
    assert not holds(engine, cookie), "what ended stays ended"
    sign_in(engine, "li", PASSWORD, NOW)


def test_a_session_does_not_outlive_a_disabled_account(engine: Engine, world: World) -> None:
    """However it was written: disabled between the password and the session, say."""
    key = account(engine, world)
    [cookie] = cookies(engine, key, 1)
    with engine.begin() as conn:
        conn.execute(update(s.accounts).values(disabled_ms=NOW))
        assert which_hold(conn, [sha256(cookie)], world.ids["甲"], NOW) == frozenset()
    assert not holds(engine, cookie)


def test_the_last_operator_of_the_district_stays(engine: Engine, world: World) -> None:
    one = account(engine, world, "one", role=Role.OPERATOR, organisation="区")
    two = account(engine, world, "two", role=Role.OPERATOR, organisation="区")
    account(engine, world, "three", role=Role.OPERATOR, organisation="甲")
    account(engine, world, "four", role=Role.AUDITOR, organisation="区")

    def end(key: int) -> bool:
        try:
            with engine.begin() as conn:
                disable(conn, key, NOW)
        except AccountError:
            return False
        return True

    # Both at the same time: each would have found the other one.
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(end, (one, two))) == [False, True]
    with reading(engine) as conn:
        left = conn.scalar(
            select(func.count()).where(
                s.accounts.c.id.in_([one, two]), s.accounts.c.disabled_ms.is_(None)
            )
        )
    assert left == 1


# --- sessions -------------------------------------------------------------------------------------


def test_a_session_is_its_account_and_only_its_digest_is_kept(engine: Engine, world: World) -> None:
    key = account(engine, world)
    with engine.begin() as conn:
        cookie = begin_session(conn, key, "Fire\x00fox\n" + "x" * 500, NOW)
        stored = conn.execute(select(s.sessions)).one()
        found = find_session(conn, cookie, NOW)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", cookie)
    assert cookie not in repr(stored)
    assert stored.session_sha256 == sha256(cookie)
    assert stored.browser.startswith("Firefoxxx")
    assert len(stored.browser) == 120
    assert found is not None
    assert found.caller == sign_in(engine, "li", PASSWORD, NOW).caller
    for wrong_one in ("", cookie[:-1], cookie + "=", cookie.swapcase(), "\ud800"):
        assert not holds(engine, wrong_one)


def test_a_session_ends_by_time_and_by_signing_out(engine: Engine, world: World) -> None:
    one, two = cookies(engine, account(engine, world), 2)
    assert one != two
    assert holds(engine, one, NOW + SESSION_MS - 1)
    assert not holds(engine, one, NOW + SESSION_MS)
    with engine.begin() as conn:
        end_session(conn, one)
    assert not holds(engine, one)
    assert holds(engine, two)
    with engine.begin() as conn:
        begin_session(conn, 1, "", NOW + SESSION_MS)
        assert len(conn.execute(select(s.sessions)).all()) == 1, "those that are over go"


# --- what is granted ------------------------------------------------------------------------------


@pytest.fixture
def site(engine: Engine) -> Site:
    site = Site(engine)
    with engine.begin() as conn:
        for branch in ("区", "甲", "乙"):
            site.account(conn, f"{branch}管", f"{branch}管", branch, Role.OPERATOR)
    return site


@contextmanager
def asking(site: Site, login: str = "甲管") -> Iterator[tuple[Any, Caller]]:
    caller = sign_in(site.engine, login, PASSWORD, NOW).caller
    with site.engine.begin() as conn:
        yield conn, caller


def grant(site: Site, by: str = "甲管", **more: Any) -> grants.Granted:
    values: dict[str, Any] = {
        "login": "neu",
        "name": "新",
        "role": Role.SECRETARY,
        "organisation": public_id("甲"),
        "member": None,
        "now_ms": minutes(0),
    } | more
    if values["role"] is Role.SECRETARY and values["member"] is None:
        values["no_member"] = True
    with asking(site, by) as (conn, caller):
        return grants.create_account(conn, caller, prepare(), **values)


def test_what_is_granted_is_within_ones_own_and_told_once(site: Site) -> None:
    granted = grant(site, role=Role.MEMBER, member=public_id("李"))
    found = sign_in(site.engine, "neu", granted.password, NOW)
    assert found.must_change
    assert found.caller.member_id == site.ids["李"]
    with reading(site.engine) as conn:
        for table in s.metadata.sorted_tables:
            assert granted.password not in repr(conn.execute(select(table)).all())
        [act] = conn.execute(select(s.audit)).all()
    assert (act.actor, act.what, act.object) == ("甲管", "account.create", "account")
    assert act.object_id == granted.public_id
    assert act.organisation_id == site.ids["甲"]
    assert json.loads(act.details) == {"role": "MEMBER", "member": str(public_id("李"))}, "no name"


@pytest.mark.parametrize(
    "more",
    [
        {"organisation": public_id("乙")},
        {"organisation": public_id("区")},
        {"organisation": public_id("nowhere")},
        {"member": public_id("钱")},
        {"member": public_id("nowhere")},
    ],
)
def test_nobody_gives_more_than_they_have(site: Site, more: dict[str, Any]) -> None:
    with pytest.raises(NotFoundError):
        grant(site, **more)
    with pytest.raises(NotFoundError), asking(site) as (conn, caller):
        if "member" in more:
            raise NotFoundError
        grants.create_token(
            conn, caller, name="neu", role=Role.AUDITOR, expires_ms=None, now_ms=NOW, **more
        )
    assert acts(site.engine) == []


def test_another_sub_trees_accounts_are_not_there(site: Site) -> None:
    granted = grant(site, "乙管", organisation=public_id("乙"))
    cookie = cookies(site.engine, site_account(site, "neu"), 1)[0]
    with reading(site.engine) as conn:
        session = conn.scalars(select(s.sessions.c.public_id)).one()
    for deed in (
        lambda *who: grants.reset_account(*who, prepare(), granted.public_id, NOW),
        lambda *who: grants.disable_account(*who, granted.public_id, NOW),
        lambda *who: grants.enable_account(*who, granted.public_id, NOW),
        lambda *who: grants.end_all_sessions(*who, granted.public_id, NOW),
        lambda *who: grants.end_one_session(*who, session, NOW, may_others=True),
    ):
        with pytest.raises(NotFoundError), asking(site) as who:
            deed(*who)
    assert holds(site.engine, cookie)
    with asking(site, "区管") as (conn, caller):
        grants.end_one_session(conn, caller, session, NOW, may_others=True)
    assert not holds(site.engine, cookie)


def site_account(site: Site, login: str) -> int:
    with reading(site.engine) as conn:
        return int(conn.scalars(select(s.accounts.c.id).filter_by(login=login)).one())


def test_ones_own_account_is_not_ended_by_oneself(site: Site) -> None:
    with reading(site.engine) as conn:
        own = conn.scalars(select(s.accounts.c.public_id).filter_by(login="甲管")).one()
    with pytest.raises(AccountError), asking(site) as (conn, caller):
        grants.disable_account(conn, caller, own, NOW)
    with pytest.raises(AccountError), asking(site) as (conn, caller):
        grants.reset_account(conn, caller, prepare(), own, NOW)


def test_of_others_sessions_one_needs_the_right(site: Site) -> None:
    [mine] = cookies(site.engine, site_account(site, "甲"), 1)
    [theirs] = cookies(site.engine, site_account(site, "甲管"), 1)
    with reading(site.engine) as conn:
        by_cookie = dict(
            conn.execute(select(s.sessions.c.session_sha256, s.sessions.c.public_id)).all()
        )
    with pytest.raises(NotFoundError), asking(site, "甲") as (conn, caller):
        grants.end_one_session(conn, caller, by_cookie[sha256(theirs)], NOW, may_others=False)
    with asking(site, "甲") as (conn, caller):
        grants.end_one_session(conn, caller, by_cookie[sha256(mine)], NOW, may_others=False)
    assert not holds(site.engine, mine)
    assert holds(site.engine, theirs)


def test_a_branch_gets_its_accounts_once(site: Site) -> None:
    account_of_wang = grant(site, login="王", role=Role.SECRETARY, member=public_id("王"))
    with asking(site) as (conn, caller):
        made = grants.create_member_accounts(
            conn, caller, public_id("甲"), [prepare() for _ in range(5)], minutes(0)
        )
    assert [each.name for each in made] == ["李名", "赵名"], "王 has one already"
    assert {each.login for each in made} == {"李", "赵"}
    for each in made:
        found = sign_in(site.engine, each.login, each.password, NOW)
        assert (found.caller.role, found.must_change) == (Role.MEMBER, True)
    with asking(site) as (conn, caller):
        again = grants.create_member_accounts(
            conn, caller, public_id("甲"), [prepare() for _ in range(5)], minutes(0)
        )
    assert again == []
    assert account_of_wang.login == "王"
    with pytest.raises(NotFoundError), asking(site) as (conn, caller):
        grants.create_member_accounts(conn, caller, public_id("乙"), [prepare()], NOW)


def test_a_code_that_is_a_login_already_gets_a_number(site: Site) -> None:
    grant(site, login="李", name="另一人")
    with asking(site) as (conn, caller):
        made = grants.create_member_accounts(conn, caller, public_id("甲"), [prepare()], minutes(0))
    assert [each.login for each in made] == ["李-2"]


# --- the first run --------------------------------------------------------------------------------

FIRST = {
    "code": "the code",
    "district": "某区党委",
    "district_code": "D1",
    "name": "管理员",
    "login": "admin",
    "password": PASSWORD,
    "again": PASSWORD,
}


def new_hub(engine: Engine) -> Client:
    app = create_app(engine, zone=ZONE, clock=lambda: NOW, first_run_code="the code")
    return Client(app, None)


def test_the_first_run_makes_one_administrator_and_the_district(engine: Engine) -> None:
    client = new_hub(engine)
    assert "/first-run" in client.get("/sign-in").text
    assert client.get("/first-run?code=the+code").status_code == 200
    response = client.post("/first-run", data=FIRST)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert client.get("/").status_code == 200
    assert client.get("/accounts").status_code == 200
    assert new_hub(engine).sign_in("admin").get("/").status_code == 200
    for again in (new_hub(engine), client):
        assert again.get("/first-run").status_code == 404
        assert again.post("/first-run", data=FIRST).status_code == 404
        assert again.post("/first-run", data={**FIRST, "login": "two"}).status_code == 404
    assert "/first-run" not in new_hub(engine).get("/sign-in").text
    with reading(engine) as conn:
        [found] = conn.execute(select(s.accounts)).all()
        [organisation] = conn.execute(select(s.organisations)).all()
    assert (found.role, found.must_change) == ("OPERATOR", False)
    assert (organisation.code, organisation.name) == ("D1", "某区党委")
    assert acts(engine) == ["hub.first_run", "session.begin"]
    with reading(engine) as conn:
        first = conn.execute(select(s.audit).where(s.audit.c.what == "hub.first_run")).one()
    assert (first.actor, first.account_id, first.object_id) == (
        found.name,
        found.id,
        found.public_id,
    )


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"code": ""}, "code"),
        ({"code": "another"}, "code"),
        ({"code": "启动"}, "code"),
        ({"district": ""}, "district"),
        ({"district": "a\x00b"}, "district"),
        ({"district_code": "某区"}, "district_code"),
        ({"name": ""}, "name"),
        ({"login": "a b"}, "login"),
        ({"again": "something else"}, "again"),
        ({"password": "short", "again": "short"}, "password"),
    ],
)
def test_a_first_run_that_will_not_do_makes_nothing(
    engine: Engine, more: dict[str, str], field: str
) -> None:
    client = new_hub(engine)
    response = client.post("/first-run", data=FIRST | more)
    assert response.status_code == 422
    assert f'id="e-{field}"' in response.text
    assert PASSWORD not in response.text
    assert "set-cookie" not in response.headers
    with reading(engine) as conn:
        for table in (s.accounts, s.organisations, s.audit, s.sessions):
            assert conn.execute(select(table)).all() == []


def test_of_two_first_runs_at_once_one_is_the_first(engine: Engine) -> None:
    app = create_app(engine, zone=ZONE, clock=lambda: NOW, first_run_code="the code")
    # FastAPI works out a route at its first request, and for that changes the warnings' filters,
    # which all threads share: a warning is an error here.
    assert Client(app, None).post("/first-run", data={}).status_code == 422

    def run(number: int) -> int:
        form = FIRST | {"login": f"admin{number}", "district_code": f"D{number}"}
        return Client(app, None).post("/first-run", data=form).status_code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(run, range(4))) == [303, 404, 404, 404]
    with reading(engine) as conn:
        assert len(conn.execute(select(s.accounts)).all()) == 1
        assert len(conn.execute(select(s.organisations)).all()) == 1


# --- the logs -------------------------------------------------------------------------------------


def test_an_act_and_its_entry_are_there_together_or_not_at_all(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room for the log")

    monkeypatch.setattr("hub.audit.record", fail)
    with reading(site.engine) as conn:
        before = len(conn.execute(select(s.accounts)).all())
    with pytest.raises(RuntimeError):
        grant(site)
    with reading(site.engine) as conn:
        assert len(conn.execute(select(s.accounts)).all()) == before
    caller = sign_in(site.engine, "甲", PASSWORD, NOW).caller
    with pytest.raises(RuntimeError):
        change(site.engine, caller, PASSWORD, "another fine one")
    sign_in(site.engine, "甲", PASSWORD, NOW)


@pytest.mark.parametrize("table", [s.audit, s.accesses], ids=lambda table: table.name)
def test_what_is_in_a_log_stays(site: Site, table: Any) -> None:
    grant(site)
    site.signed_in("甲").get(f"/meetings/{public_id('会')}")
    with reading(site.engine) as conn:
        before = conn.execute(select(table)).all()
    assert before
    for statement in (update(table).values(actor="nobody"), delete(table)):
        with pytest.raises(DBAPIError, match="append-only"), site.engine.begin() as conn:
            conn.execute(statement)
    with reading(site.engine) as conn:
        assert conn.execute(select(table)).all() == before


# --- tokens ---------------------------------------------------------------------------------------


def test_a_token_is_its_holder_and_only_its_digest_is_kept(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        token = new_token(conn, "王秘书", "甲", NOW)
        assert re.fullmatch(r"shk_[A-Za-z0-9_-]{43}", token)
        caller = caller_by_token(conn, token, NOW)
        assert caller is not None
        assert (caller.name, caller.organisation_id) == ("王秘书", world.ids["甲"])
        assert caller.account_id is None
        assert caller.role is Role.AUDITOR
        assert caller.organisation == "甲名"
        assert caller.organisation_public_id == str(public_id("甲"))
        stored = conn.execute(select(s.tokens)).one()
        assert stored.token_sha256 == sha256(token)
        assert token not in repr(stored)


def test_tokens_differ(engine: Engine) -> None:
    with engine.begin() as conn:
        district(conn)
        assert len({new_token(conn, f"{number}", "区", NOW) for number in range(20)}) == 20


def test_an_unknown_expired_or_revoked_token_is_nobody(engine: Engine) -> None:
    with engine.begin() as conn:
        district(conn)
        token = new_token(conn, "a", "区", NOW, NOW + 10)
        other = new_token(conn, "b", "区", NOW)
        assert caller_by_token(conn, token, NOW + 9) is not None
        assert caller_by_token(conn, token, NOW + 10) is None
        for wrong_one in ("", token[:-1], token + "=", token.upper(), f" {token}", "\ud800"):
            assert caller_by_token(conn, wrong_one, NOW) is None
        assert revoke(conn, "b", NOW)
        assert not revoke(conn, "b", NOW + 5)
        assert caller_by_token(conn, other, NOW) is None
        assert [(each.name, each.revoked_ms) for each in list_tokens(conn)] == [
            ("a", None),
            ("b", NOW),
        ]
        assert [each.state(NOW + 9) for each in list_tokens(conn)] == ["valid", "revoked"]
        assert [each.state(NOW + 10) for each in list_tokens(conn)] == ["expired", "revoked"]


@pytest.mark.parametrize(
    ("name", "organisation", "more", "field"),
    [
        ("", "区", {}, "name"),
        ("x" * 65, "区", {}, "name"),
        ("a\nb", "区", {}, "name"),
        ("taken", "区", {}, "name"),
        ("new", "没有", {}, "organisation"),
        ("new", "区", {"expires_ms": NOW}, "expires"),
        ("new", "区", {"role": Role.MEMBER}, "member"),
        ("new", "区", {"member_id": 1}, "member"),
    ],
)
def test_a_token_that_cannot_be_made_leaves_nothing(
    engine: Engine, name: str, organisation: str, more: dict[str, Any], field: str
) -> None:
    with engine.begin() as conn:
        district(conn)
        new_token(conn, "taken", "区", NOW)
        with pytest.raises(TokenError) as refused:
            new_token(conn, name, organisation, NOW, **more)
        assert refused.value.field == field
        assert len(list_tokens(conn)) == 1


def test_revoking_what_does_not_exist_is_an_error(engine: Engine) -> None:
    with engine.begin() as conn, pytest.raises(TokenError, match="nobody"):
        revoke(conn, "nobody", NOW)
