"""Access tokens: made once, shown once, kept as SHA-256 only.

A token is `shk_` and 256 random bits, so neither salt nor back-off is needed. It stands for one
organisation: its holder sees that organisation and all below it, and learns of nothing else. That
is what a `Caller` says; every query takes its scope from there.

Functions that write take a connection in a write transaction and leave the commit to the caller.
"""

import hashlib
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, insert, or_, select, update

from hub.store import schema as s

PREFIX: Final = "shk_"
SECRET_BYTES: Final = 32
MAX_NAME_CHARS: Final = 64


class TokenError(Exception):
    """A token cannot be made or revoked; the message says why."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever asks: the token and the organisation whose sub-tree it may see."""

    token_id: int
    name: str
    organisation_id: int
    organisation_public_id: str
    organisation: str
    """The organisation's name."""


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What may be told of a token; the token itself is not known any more."""

    name: str
    organisation_code: str
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None

    def state(self, now_ms: int) -> str:
        """In one word, whether it is of use."""
        if self.revoked_ms is not None:
            return "revoked"
        is_over = self.expires_ms is not None and self.expires_ms <= now_ms
        return "expired" if is_over else "valid"


def new_token(
    conn: Connection,
    name: str,
    organisation_code: str,
    now_ms: int,
    expires_ms: int | None = None,
) -> str:
    """A new token for the sub-tree of `organisation_code`, to be shown now and never again.

    Raises TokenError.
    """
    if not name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise TokenError(f"{name!r}: a name has 1 to {MAX_NAME_CHARS} printable characters")
    if expires_ms is not None and expires_ms <= now_ms:
        raise TokenError(f"{name!r}: would have expired before it begins")
    organisation_id = conn.scalar(
        select(s.organisations.c.id).where(s.organisations.c.code == organisation_code)
    )
    if organisation_id is None:
        raise TokenError(f"{organisation_code!r}: there is no organisation of this code")
    if conn.scalar(select(s.tokens.c.id).where(s.tokens.c.name == name)) is not None:
        raise TokenError(f"{name!r}: a token of this name was made already; choose another name")
    token = PREFIX + random_text()
    conn.execute(
        insert(s.tokens).values(
            name=name,
            token_sha256=sha256(token),
            organisation_id=organisation_id,
            created_ms=now_ms,
            expires_ms=expires_ms,
        )
    )
    return token


def revoke(conn: Connection, name: str, now_ms: int) -> bool:
    """End a token and every session begun with it; False where that was done before.

    Raises TokenError where there is no token of this name.
    """
    row = conn.execute(select(s.tokens).where(s.tokens.c.name == name)).one_or_none()
    if row is None:
        raise TokenError(f"{name!r}: there is no token of this name")
    if row.revoked_ms is not None:
        return False
    conn.execute(update(s.tokens).where(s.tokens.c.id == row.id).values(revoked_ms=now_ms))
    return True


def list_tokens(conn: Connection) -> list[TokenInfo]:
    """All tokens ever made, by name."""
    t = s.tokens.c
    return [
        TokenInfo(*row)
        for row in conn.execute(
            select(t.name, s.organisations.c.code, t.created_ms, t.expires_ms, t.revoked_ms)
            .join(s.organisations, s.organisations.c.id == t.organisation_id)
            .order_by(t.name)
        )
    ]


def caller_by_token(conn: Connection, token: str, now_ms: int) -> Caller | None:
    """Whoever holds this token; None where it is unknown, expired or revoked."""
    row = conn.execute(
        select_callers().where(s.tokens.c.token_sha256 == sha256(token), is_valid(now_ms))
    ).one_or_none()
    return None if row is None else caller_of(row)


def select_callers() -> Select[Any]:
    """Tokens with their organisations, a row being what `caller_of` takes."""
    o = s.organisations.c
    return select(
        s.tokens.c.id, s.tokens.c.name, s.tokens.c.organisation_id, o.public_id, o.name.label("org")
    ).join_from(s.tokens, s.organisations, o.id == s.tokens.c.organisation_id)


def caller_of(row: Row[Any]) -> Caller:
    """The caller in a row of `select_callers`."""
    return Caller(row.id, row.name, row.organisation_id, str(row.public_id), row.org)


def is_valid(now_ms: int) -> ColumnElement[bool]:
    """The condition that a token is neither revoked nor expired."""
    return and_(
        s.tokens.c.revoked_ms.is_(None),
        or_(s.tokens.c.expires_ms.is_(None), s.tokens.c.expires_ms > now_ms),
    )


def random_text() -> str:
    """256 random bits, base64url without padding: 43 characters."""
    return urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).decode().rstrip("=")


def sha256(text: str) -> bytes:
    """The digest under which a secret text is kept; any text, lone surrogates included."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
