"""Sessions of pages: a cookie with 256 random bits, kept as SHA-256, twelve hours at the most.

A session ends by itself, by signing out, and with its token. The cookie says nothing about its
holder.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from hub.auth.tokens import Caller, caller_of, is_valid, random_text, select_callers, sha256
from hub.store import schema as s

COOKIE: Final = "shuaka_session"
SESSION_MS: Final = 12 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Session:
    """A session that holds now."""

    key: bytes
    """SHA-256 of the cookie's value."""
    caller: Caller


def begin_session(conn: Connection, caller: Caller, now_ms: int) -> str:
    """Begin a session and give the cookie's value; also forgets sessions that are over."""
    conn.execute(delete(s.sessions).where(s.sessions.c.expires_ms <= now_ms))
    cookie = random_text()
    conn.execute(
        insert(s.sessions).values(
            session_sha256=sha256(cookie),
            token_id=caller.token_id,
            created_ms=now_ms,
            expires_ms=now_ms + SESSION_MS,
        )
    )
    return cookie


def find_session(conn: Connection, cookie: str, now_ms: int) -> Session | None:
    """The session of this cookie; None where it is unknown, over, or its token is."""
    key = sha256(cookie)
    row = conn.execute(
        select_callers()
        .join(s.sessions, s.sessions.c.token_id == s.tokens.c.id)
        .where(
            s.sessions.c.session_sha256 == key,
            s.sessions.c.expires_ms > now_ms,
            is_valid(now_ms),
        )
    ).one_or_none()
    return None if row is None else Session(key, caller_of(row))


def which_hold(
    conn: Connection, keys: Collection[bytes], organisation_id: int, now_ms: int
) -> frozenset[bytes]:
    """Those of the sessions that still hold, for the sub-tree of this organisation."""
    return frozenset(
        conn.scalars(
            select(s.sessions.c.session_sha256)
            .join(s.tokens, s.tokens.c.id == s.sessions.c.token_id)
            .where(
                s.sessions.c.session_sha256.in_(keys),
                s.tokens.c.organisation_id == organisation_id,
                s.sessions.c.expires_ms > now_ms,
                is_valid(now_ms),
            )
        )
    )


def end_session(conn: Connection, cookie: str) -> None:
    """End the session of this cookie, if there is one."""
    conn.execute(delete(s.sessions).where(s.sessions.c.session_sha256 == sha256(cookie)))
