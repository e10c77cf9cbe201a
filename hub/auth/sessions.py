"""Sessions of pages: a cookie with 256 random bits, kept as SHA-256, twelve hours at the most.

A session ends by itself, by signing out, by whoever revokes it, and with its account or that one's
password. The cookie says nothing about its holder.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from hub.auth.callers import Caller, caller_of, select_callers
from hub.auth.tokens import random_text, sha256
from hub.store import schema as s

COOKIE: Final = "shuaka_session"
SESSION_MS: Final = 12 * 3600 * 1000
MAX_BROWSER_CHARS: Final = 120


@dataclass(frozen=True, slots=True)
class Session:
    """A session that holds now."""

    key: bytes
    """SHA-256 of the cookie's value."""
    caller: Caller
    must_change: bool
    """The password was given by somebody else: nothing is shown before it is replaced."""


def begin_session(conn: Connection, account_id: int, browser: str, now_ms: int) -> str:
    """Begin a session and give the cookie's value; also forgets sessions that are over."""
    conn.execute(delete(s.sessions).where(s.sessions.c.expires_ms <= now_ms))
    cookie = random_text()
    conn.execute(
        insert(s.sessions).values(
            public_id=s.new_public_id(),
            session_sha256=sha256(cookie),
            account_id=account_id,
            browser="".join(each for each in browser if each.isprintable())[:MAX_BROWSER_CHARS],
            created_ms=now_ms,
            expires_ms=now_ms + SESSION_MS,
        )
    )
    return cookie


def find_session(conn: Connection, cookie: str, now_ms: int) -> Session | None:
    """The session of this cookie; None where it is unknown, over, or its account is."""
    key = sha256(cookie)
    row = conn.execute(
        select_callers(s.accounts)
        .add_columns(s.accounts.c.must_change)
        .join(s.sessions, s.sessions.c.account_id == s.accounts.c.id)
        .where(
            s.sessions.c.session_sha256 == key,
            s.sessions.c.expires_ms > now_ms,
            s.accounts.c.disabled_ms.is_(None),
        )
    ).one_or_none()
    return None if row is None else Session(key, caller_of(row, s.accounts), row.must_change)


def which_hold(
    conn: Connection, keys: Collection[bytes], organisation_id: int, now_ms: int
) -> frozenset[bytes]:
    """Those of the sessions that still hold, for the sub-tree of this organisation."""
    return frozenset(
        conn.scalars(
            select(s.sessions.c.session_sha256)
            .join(s.accounts, s.accounts.c.id == s.sessions.c.account_id)
            .where(
                s.sessions.c.session_sha256.in_(keys),
                s.accounts.c.organisation_id == organisation_id,
                s.accounts.c.disabled_ms.is_(None),
                s.sessions.c.expires_ms > now_ms,
            )
        )
    )


def end_session(conn: Connection, cookie: str) -> None:
    """End the session of this cookie, if there is one."""
    conn.execute(delete(s.sessions).where(s.sessions.c.session_sha256 == sha256(cookie)))
