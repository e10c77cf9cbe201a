"""Access tokens: made once, shown once, kept as SHA-256 only.

A token is `shk_` and 256 random bits, so neither salt nor back-off is needed. It stands for a role
in one organisation: its holder learns of nothing but that organisation and all below it. Programs
use tokens; people have accounts.

Functions that write take a connection in a write transaction and leave the commit to the caller.
"""

import hashlib
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, and_, insert, or_, select, update

from hub.auth.callers import Caller, caller_of, select_callers
from hub.domain.terms import Role
from hub.domain.words import Words
from hub.store import schema as s
from hub.store.scope import EVERYTHING, Scope, within

PREFIX: Final = "shk_"
SECRET_BYTES: Final = 32
MAX_NAME_CHARS: Final = 64


class TokenError(ValueError):
    """A token cannot be made or revoked; the message says why, and `field` names the input."""

    def __init__(self, field: str, message: Words) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What may be told of a token; the token itself is not known any more."""

    public_id: UUID
    name: str
    role: Role
    organisation_code: str
    organisation: str
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None

    @classmethod
    def of(cls, row: Row[Any]) -> "TokenInfo":
        """From a row of tokens with `organisation_code` and `organisation`."""
        return cls(
            row.public_id,
            row.name,
            Role(row.role),
            row.organisation_code,
            row.organisation,
            row.created_ms,
            row.expires_ms,
            row.revoked_ms,
        )

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
    *,
    role: Role = Role.AUDITOR,
    member_id: int | None = None,
    made_by_account_id: int | None = None,
) -> str:
    """A new token for the sub-tree of `organisation_code`, to be shown now and never again.

    A MEMBER's token is of that member alone.

    Raises TokenError.
    """
    if not name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise TokenError("name", Words("令牌的名称应为1到{most}个字符", most=MAX_NAME_CHARS))
    if expires_ms is not None and expires_ms <= now_ms:
        raise TokenError("expires", Words("到期时间已经过去"))
    organisation_id = conn.scalar(
        select(s.organisations.c.id).where(s.organisations.c.code == organisation_code)
    )
    if organisation_id is None:
        raise TokenError("organisation", Words("没有编号为“{code}”的组织", code=organisation_code))
    if conn.scalar(select(s.tokens.c.id).where(s.tokens.c.name == name)) is not None:
        raise TokenError("name", Words("已有名称为“{name}”的令牌，请换一个名称", name=name))
    if (role is Role.MEMBER) != (member_id is not None):
        raise TokenError("member", Words("党员令牌必须对应一名党员，其他令牌不对应"))
    token = PREFIX + random_text()
    conn.execute(
        insert(s.tokens).values(
            public_id=s.new_public_id(),
            name=name,
            role=role.value,
            member_id=member_id,
            token_sha256=sha256(token),
            organisation_id=organisation_id,
            made_by_account_id=made_by_account_id,
            created_ms=now_ms,
            expires_ms=expires_ms,
        )
    )
    return token


def revoke(conn: Connection, name: str, now_ms: int) -> bool:
    """End a token; False where that was done before.

    Raises TokenError where there is no token of this name.
    """
    row = conn.execute(select(s.tokens).where(s.tokens.c.name == name)).one_or_none()
    if row is None:
        raise TokenError("name", Words("没有名称为“{name}”的令牌", name=name))
    if row.revoked_ms is not None:
        return False
    conn.execute(update(s.tokens).where(s.tokens.c.id == row.id).values(revoked_ms=now_ms))
    return True


def list_tokens(conn: Connection, scope: Scope = EVERYTHING) -> list[TokenInfo]:
    """All tokens ever made for organisations of the scope, by name."""
    t, o = s.tokens.c, s.organisations.c
    return [
        TokenInfo.of(row)
        for row in conn.execute(
            select(s.tokens, o.code.label("organisation_code"), o.name.label("organisation"))
            .join(s.organisations, o.id == t.organisation_id)
            .where(within(scope, t.organisation_id))
            .order_by(t.name)
        )
    ]


def caller_by_token(conn: Connection, token: str, now_ms: int) -> Caller | None:
    """Whoever holds this token; None where it is unknown, expired or revoked."""
    row = conn.execute(
        select_callers(s.tokens).where(s.tokens.c.token_sha256 == sha256(token), is_valid(now_ms))
    ).one_or_none()
    return None if row is None else caller_of(row, s.tokens)


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
