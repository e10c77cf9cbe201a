"""Tokens and sessions: shown once, kept as digests, over when they should be."""

import re

import pytest
from sqlalchemy import Engine, select

from hub.auth.sessions import SESSION_MS, begin_session, end_session, find_session
from hub.auth.tokens import (
    TokenError,
    caller_by_token,
    list_tokens,
    new_token,
    revoke,
    sha256,
)
from hub.store import schema as s
from tests.hub.world import district, public_id

NOW = 1_777_000_000_000


def test_a_token_is_its_holder_and_only_its_digest_is_kept(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        token = new_token(conn, "王秘书", "甲", NOW)
        assert re.fullmatch(r"shk_[A-Za-z0-9_-]{43}", token)
        caller = caller_by_token(conn, token, NOW)
        assert caller is not None
        assert (caller.name, caller.organisation_id) == ("王秘书", world.ids["甲"])
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
        for wrong in ("", token[:-1], token + "=", token.upper(), f" {token}", "\ud800"):
            assert caller_by_token(conn, wrong, NOW) is None
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
    ("name", "organisation", "expires_ms", "complaint"),
    [
        ("", "区", None, "1 to 64"),
        ("x" * 65, "区", None, "1 to 64"),
        ("a\nb", "区", None, "printable"),
        ("taken", "区", None, "already"),
        ("new", "没有", None, "没有"),
        ("new", "区", NOW, "expired"),
    ],
)
def test_a_token_that_cannot_be_made_leaves_nothing(
    engine: Engine, name: str, organisation: str, expires_ms: int | None, complaint: str
) -> None:
    with engine.begin() as conn:
        district(conn)
        new_token(conn, "taken", "区", NOW)
        with pytest.raises(TokenError, match=complaint):
            new_token(conn, name, organisation, NOW, expires_ms)
        assert len(list_tokens(conn)) == 1


def test_revoking_what_does_not_exist_is_an_error(engine: Engine) -> None:
    with engine.begin() as conn, pytest.raises(TokenError, match="nobody"):
        revoke(conn, "nobody", NOW)


def test_a_session_ends_by_time_by_signing_out_and_with_its_token(engine: Engine) -> None:
    with engine.begin() as conn:
        district(conn)
        caller = caller_by_token(conn, new_token(conn, "a", "甲", NOW, NOW + 10**9), NOW)
        assert caller is not None
        cookies = [begin_session(conn, caller, NOW) for _ in range(3)]
        assert len(set(cookies)) == 3
        for cookie in cookies:
            found = find_session(conn, cookie, NOW)
            assert found is not None
            assert found.caller == caller
            assert find_session(conn, cookie, NOW + SESSION_MS - 1) is not None
            assert find_session(conn, cookie, NOW + SESSION_MS) is None
        end_session(conn, cookies[0])
        assert find_session(conn, cookies[0], NOW) is None
        assert find_session(conn, cookies[1], NOW) is not None
        late = begin_session(conn, caller, NOW + SESSION_MS)
        assert len(conn.execute(select(s.sessions)).all()) == 1
        revoke(conn, "a", NOW)
        assert find_session(conn, late, NOW) is None


def test_a_session_does_not_outlive_its_token(engine: Engine) -> None:
    with engine.begin() as conn:
        district(conn)
        caller = caller_by_token(conn, new_token(conn, "a", "甲", NOW, NOW + 10), NOW)
        assert caller is not None
        cookie = begin_session(conn, caller, NOW)
        assert find_session(conn, cookie, NOW + 9) is not None
        assert find_session(conn, cookie, NOW + 10) is None
