"""What one person lets others do: accounts, tokens and sessions of a sub-tree, made and ended.

Promises: nobody gives more than they have: the organisation and the member lie in the caller's own
sub-tree, and what does not is not found (NotFoundError); every act is in the audit log in its own
transaction; a password or token that is made is returned once and kept nowhere. Whoever is given
the means to act as a member, or to read their file, is among those who looked at that member's
data; over the account of a member of somebody else's they have no power. A MEMBER's token is made
by that member alone. What somebody has made is known to be theirs.

Functions that write take a connection in a write transaction and leave the commit to the caller.
What is refused raises AccountError or TokenError, with the name of the input and plain Chinese.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, delete, func, or_, select, true

from hub import audit
from hub.audit import Look
from hub.auth.accounts import (
    AccountError,
    Prepared,
    add_account,
    as_login,
    disable,
    enable,
    end_sessions,
    reset_password,
)
from hub.auth.callers import Caller
from hub.auth.tokens import TokenError, is_valid, new_token, revoke
from hub.domain.terms import Body, Role
from hub.domain.words import Words
from hub.store import schema as s
from hub.store.scope import (
    EVERYTHING,
    NotFoundError,
    Scope,
    find_member,
    find_organisation,
    within,
)

MOST_AT_ONCE: Final = 200
"""Accounts made in one act: each password takes some tenths of a second to hash."""
LONGEST_TOKEN_MS: Final = 366 * 24 * 3600 * 1000
"""A token ends at last so long after it was made."""
_NEED_A_MEMBER: Final = frozenset({Role.SECRETARY, Role.OPERATOR})
"""Who decides on others says who they are: nobody decides on their own case."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A new account, or an account with a new password; told this once."""

    public_id: UUID
    login: str
    name: str
    password: str


# --- accounts -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """Which accounts."""

    text: str = ""
    """Part of login, name, or the organisation's name."""
    role: Role | None = None
    state: str = ""
    """`active` or `disabled`; anything else: both."""


def count_accounts(conn: Connection, scope: int, asked: Asked) -> int:
    """How many there are in the scope."""
    o = s.organisations
    return int(
        conn.scalar(
            select(func.count())
            .select_from(s.accounts.join(o, o.c.id == s.accounts.c.organisation_id))
            .where(_asked(scope, asked))
        )
        or 0
    )


def list_accounts(
    conn: Connection, scope: int, asked: Asked, limit: int, offset: int
) -> Sequence[Row[Any]]:
    """Those accounts, with `organisation`, `organisation_public_id`, `member`, by login."""
    return conn.execute(
        _accounts().where(_asked(scope, asked)).order_by(_A.login).limit(limit).offset(offset)
    ).all()


def find_account(conn: Connection, scope: int, public_id: UUID) -> Row[Any]:
    """An account of the scope, as in `list_accounts`. Raises NotFoundError."""
    row = conn.execute(
        _accounts().where(_A.public_id == public_id, within(scope, _A.organisation_id))
    ).one_or_none()
    if row is None:
        raise NotFoundError
    return row


def create_account(
    conn: Connection,
    caller: Caller,
    prepared: Prepared,
    *,
    login: str,
    name: str,
    role: Role,
    organisation: UUID,
    member: UUID | None,
    no_member: bool = False,
    now_ms: int,
) -> Granted:
    """A new account with a first password. Raises AccountError, NotFoundError.

    `no_member`: it is said that whoever gets the account is no member that the hub knows; without
    either that or a member there is no secretary and no operator.
    """
    at = find_organisation(conn, caller.organisation_id, organisation)
    whose = None if member is None else find_member(conn, caller.organisation_id, member, now_ms)
    if whose is not None and no_member:
        raise AccountError("member", Words("已填写对应的党员，请不要再勾选“不对应党员”"))
    if whose is None and not no_member and role in _NEED_A_MEMBER:
        raise AccountError(
            "member", Words("请填写对应哪名党员；使用人不是名册上的党员的，请勾选“不对应党员”")
        )
    public_id = add_account(
        conn,
        login=login,
        name=name,
        role=role,
        organisation_id=at.id,
        member_id=None if whose is None else whose.id,
        hashed=prepared.hashed,
        must_change=True,
        now_ms=now_ms,
        made_by_account_id=maker_id(conn, caller),
    )
    _record(
        conn,
        caller,
        "account.create",
        at.id,
        public_id,
        now_ms,
        role=role,
        member=None if whose is None else whose.public_id,
    )
    if whose is not None:
        audit.looked(conn, caller, Look("account.create", member_id=whose.id), now_ms)
    return Granted(public_id, as_login(login), name.strip(), prepared.password)


def maker_id(conn: Connection, caller: Caller) -> int | None:
    """Whose will be what the caller makes: an account, also where it acts by a token of its own."""
    if caller.token_id is None:
        return caller.account_id
    made_by = select(_T.made_by_account_id).where(_T.id == caller.token_id)
    found: int | None = conn.scalar(made_by)
    return found


@dataclass(frozen=True, slots=True)
class Waiting:
    """A member of a branch who has no account yet."""

    member_id: int
    public_id: UUID
    code: str
    name: str


def without_account(conn: Connection, organisation_id: int, now_ms: int) -> list[Waiting]:
    """Members who have their place in this organisation itself and no account, by code."""
    m, p = s.members.c, s.memberships.c
    has_one = select(_A.id).where(_A.member_id == m.id, _A.disabled_ms.is_(None)).exists()
    return [
        Waiting(row.id, row.public_id, row.code, row.name)
        for row in conn.execute(
            select(m.id, m.public_id, m.code, m.name)
            .where(
                m.id.in_(
                    select(p.member_id).where(
                        p.organisation_id == organisation_id,
                        p.body == Body.MEMBER.value,
                        p.valid_from_ms <= now_ms,
                        or_(p.valid_to_ms.is_(None), p.valid_to_ms > now_ms),
                    )
                ),
                ~has_one,
            )
            .order_by(m.code)
        )
    ]


def create_member_accounts(
    conn: Connection,
    caller: Caller,
    organisation: UUID,
    prepared: Sequence[Prepared],
    now_ms: int,
) -> list[Granted]:
    """An account of role 党员 for each member of a branch who has none, as far as `prepared` goes.

    The login is the member's code. Raises NotFoundError.
    """
    at = find_organisation(conn, caller.organisation_id, organisation)
    granted = []
    for waiting, each in zip(without_account(conn, at.id, now_ms), prepared, strict=False):
        login = _free_login(conn, waiting.code)
        public_id = add_account(
            conn,
            login=login,
            name=waiting.name,
            role=Role.MEMBER,
            organisation_id=at.id,
            member_id=waiting.member_id,
            hashed=each.hashed,
            must_change=True,
            now_ms=now_ms,
            made_by_account_id=maker_id(conn, caller),
        )
        _record(
            conn,
            caller,
            "account.create",
            at.id,
            public_id,
            now_ms,
            role=Role.MEMBER,
            member=waiting.public_id,
        )
        audit.looked(conn, caller, Look("account.create", member_id=waiting.member_id), now_ms)
        granted.append(Granted(public_id, login, waiting.name, each.password))
    return granted


def reset_account(
    conn: Connection, caller: Caller, prepared: Prepared, public_id: UUID, now_ms: int
) -> Granted:
    """A new first password; ends sessions and lock. Raises AccountError, NotFoundError."""
    row = _to_change(conn, caller, public_id, now_ms)
    if row.id == caller.account_id:
        raise AccountError("account", Words("自己的密码请在“修改密码”里改"))
    reset_password(conn, row.id, prepared.hashed, maker_id(conn, caller))
    _record(conn, caller, "account.reset_password", row.organisation_id, public_id, now_ms)
    if row.member_id is not None:
        audit.looked(conn, caller, Look("account.reset", member_id=row.member_id), now_ms)
    return Granted(public_id, row.login, row.name, prepared.password)


def disable_account(conn: Connection, caller: Caller, public_id: UUID, now_ms: int) -> None:
    """End an account, its sessions and the tokens that it made; again: no change.

    Raises AccountError, NotFoundError.
    """
    row = _to_change(conn, caller, public_id, now_ms)
    if row.id == caller.account_id:
        raise AccountError("account", Words("不能停用自己正在使用的账号"))
    if row.disabled_ms is None:
        disable(conn, row.id, now_ms)
        _record(conn, caller, "account.disable", row.organisation_id, public_id, now_ms)
        revoke_made_by(conn, caller, row.id, now_ms)


def enable_account(conn: Connection, caller: Caller, public_id: UUID, now_ms: int) -> None:
    """Let an account sign in again; again: no change. Its tokens stay revoked.

    Raises AccountError, NotFoundError.
    """
    row = _to_change(conn, caller, public_id, now_ms)
    if row.disabled_ms is not None:
        enable(conn, row.id)
        _record(conn, caller, "account.enable", row.organisation_id, public_id, now_ms)


def count_made_by(conn: Connection, account_id: int, now_ms: int) -> int:
    """How many tokens that this account made are valid."""
    made = and_(_T.made_by_account_id == account_id, is_valid(now_ms))
    return int(conn.scalar(select(func.count()).select_from(s.tokens).where(made)) or 0)


def revoke_made_by(
    conn: Connection, who: Caller | audit.Machine, account_id: int, now_ms: int
) -> None:
    """End the tokens that an account made."""
    made = select(s.tokens).where(_T.made_by_account_id == account_id, is_valid(now_ms))
    for row in conn.execute(made.order_by(_T.id)).all():
        revoke(conn, row.name, now_ms)
        audit.record(conn, who, "token.revoke", row.organisation_id, "token", row.public_id, now_ms)


def _to_change(conn: Connection, caller: Caller, public_id: UUID, now_ms: int) -> Row[Any]:
    """An account of the scope whose member, if any, is not of somebody else's now."""
    row = find_account(conn, caller.organisation_id, public_id)

    def is_of(scope: Scope) -> bool:
        p = s.memberships.c
        return (
            conn.scalar(
                select(p.id)
                .where(
                    p.member_id == row.member_id,
                    within(scope, p.organisation_id),
                    p.valid_from_ms <= now_ms,
                    or_(p.valid_to_ms.is_(None), p.valid_to_ms > now_ms),
                )
                .limit(1)
            )
            is not None
        )

    if row.member_id is not None and is_of(EVERYTHING) and not is_of(caller.organisation_id):
        raise AccountError("account", Words("这名党员现在属于别的组织，他的账号请上级管理员办理"))
    return row


# --- sessions -------------------------------------------------------------------------------


def sessions_of(conn: Connection, account_id: int, now_ms: int) -> Sequence[Row[Any]]:
    """The sessions of an account that hold now, the latest first."""
    return conn.execute(
        select(s.sessions)
        .where(_S.account_id == account_id, _S.expires_ms > now_ms)
        .order_by(_S.created_ms.desc(), _S.id.desc())
    ).all()


def count_sessions(conn: Connection, scope: int, account_id: int | None, now_ms: int) -> int:
    """How many sessions of accounts in the scope hold now."""
    return int(
        conn.scalar(
            select(func.count())
            .select_from(s.sessions.join(s.accounts, _A.id == _S.account_id))
            .where(_held(scope, account_id, now_ms))
        )
        or 0
    )


def list_sessions(
    conn: Connection, scope: int, account_id: int | None, now_ms: int, limit: int, offset: int
) -> Sequence[Row[Any]]:
    """Those sessions with `login` and `account_public_id`, the latest first."""
    statement: Select[Any] = (
        select(
            _S.public_id,
            _S.browser,
            _S.created_ms,
            _S.expires_ms,
            _A.login,
            _A.public_id.label("account_public_id"),
        )
        .join(s.accounts, _A.id == _S.account_id)
        .where(_held(scope, account_id, now_ms))
        .order_by(_S.created_ms.desc(), _S.id.desc())
        .limit(limit)
        .offset(offset)
    )
    return conn.execute(statement).all()


def end_one_session(
    conn: Connection, caller: Caller, public_id: UUID, now_ms: int, *, may_others: bool
) -> Row[Any]:
    """End a session: one's own, or with `may_others` any of the sub-tree; gives its account.

    Raises NotFoundError.
    """
    is_own = _A.id == caller.account_id if caller.account_id is not None else ~true()
    allowed = or_(is_own, within(caller.organisation_id, _A.organisation_id))
    statement: Select[Any] = (
        select(_S.id, _A.id.label("account_id"), _A.public_id, _A.organisation_id, _A.login)
        .join(s.accounts, _A.id == _S.account_id)
        .where(
            _S.public_id == public_id,
            _S.expires_ms > now_ms,
            allowed if may_others else is_own,
        )
    )
    row = conn.execute(statement).one_or_none()
    if row is None:
        raise NotFoundError
    conn.execute(delete(s.sessions).where(_S.id == row.id))
    _record(conn, caller, "session.end", row.organisation_id, row.public_id, now_ms)
    return row


def end_all_sessions(
    conn: Connection, caller: Caller, public_id: UUID, now_ms: int, keep: bytes | None = None
) -> None:
    """End every session of an account, but for `keep`. Raises NotFoundError."""
    row = find_account(conn, caller.organisation_id, public_id)
    end_sessions(conn, row.id, keep)
    _record(conn, caller, "session.end_all", row.organisation_id, public_id, now_ms)


# --- tokens ---------------------------------------------------------------------------------


def create_token(
    conn: Connection,
    caller: Caller,
    *,
    name: str,
    role: Role,
    organisation: UUID,
    expires_ms: int | None,
    now_ms: int,
) -> tuple[UUID, str]:
    """A new token for a program: its public id, and itself, to be shown this once.

    `expires_ms` None: as late as may be. Raises TokenError, NotFoundError.
    """
    if role is Role.MEMBER:
        raise TokenError("role", Words("党员的令牌只能由本人在“我的令牌”里建立"))
    at = find_organisation(conn, caller.organisation_id, organisation)
    return _token(conn, caller, name, role, at.id, at.code, expires_ms, now_ms)


def create_own_token(
    conn: Connection, caller: Caller, name: str, expires_ms: int | None, now_ms: int
) -> str:
    """A token for a program of the caller's, who is a member: it reads that one's own file.

    Raises TokenError, NotFoundError.
    """
    if caller.member_id is None:
        raise NotFoundError
    code = conn.scalars(
        select(s.organisations.c.code).where(s.organisations.c.id == caller.organisation_id)
    ).one()
    _, token = _token(
        conn, caller, name, Role.MEMBER, caller.organisation_id, code, expires_ms, now_ms
    )
    return token


def _token(
    conn: Connection,
    caller: Caller,
    name: str,
    role: Role,
    organisation_id: int,
    code: str,
    expires_ms: int | None,
    now_ms: int,
) -> tuple[UUID, str]:
    name = name.strip()
    last_ms = now_ms + LONGEST_TOKEN_MS
    if expires_ms is not None and expires_ms > last_ms:
        raise TokenError("expires", Words("令牌最长用一年，请选早一些的日期"))
    token = new_token(
        conn,
        name,
        code,
        now_ms,
        last_ms if expires_ms is None else expires_ms,
        role=role,
        member_id=caller.member_id if role is Role.MEMBER else None,
        made_by_account_id=maker_id(conn, caller),
    )
    public_id: UUID = conn.scalars(select(_T.public_id).where(_T.name == name)).one()
    audit.record(
        conn,
        caller,
        "token.create",
        organisation_id,
        "token",
        public_id,
        now_ms,
        role=role,
        expires_ms=expires_ms,
    )
    return public_id, token


def own_tokens(conn: Connection, member_id: int) -> Sequence[Row[Any]]:
    """A member's own tokens, as in `list_tokens`, the latest first."""
    return conn.execute(
        _tokens().where(_T.member_id == member_id).order_by(_T.created_ms.desc(), _T.id.desc())
    ).all()


def revoke_own_token(conn: Connection, caller: Caller, public_id: UUID, now_ms: int) -> None:
    """End one of the caller's own; again: no change. Raises NotFoundError."""
    for row in () if caller.member_id is None else own_tokens(conn, caller.member_id):
        if row.public_id == public_id:
            _revoke(conn, caller, row, now_ms)
            return
    raise NotFoundError


def count_tokens(conn: Connection, scope: int) -> int:
    """How many tokens were ever made for organisations of the scope."""
    condition = within(scope, _T.organisation_id)
    return int(conn.scalar(select(func.count()).select_from(s.tokens).where(condition)) or 0)


def list_tokens(conn: Connection, scope: int, limit: int, offset: int) -> Sequence[Row[Any]]:
    """Those tokens with organisation and member, by name; what is secret of them is not known."""
    return conn.execute(
        _tokens()
        .where(within(scope, _T.organisation_id))
        .order_by(_T.name)
        .limit(limit)
        .offset(offset)
    ).all()


def find_token(conn: Connection, scope: int, public_id: UUID) -> Row[Any]:
    """A token of the scope, as in `list_tokens`. Raises NotFoundError."""
    row = conn.execute(
        _tokens().where(_T.public_id == public_id, within(scope, _T.organisation_id))
    ).one_or_none()
    if row is None:
        raise NotFoundError
    return row


def revoke_token(conn: Connection, caller: Caller, public_id: UUID, now_ms: int) -> None:
    """End a token; again: no change. Raises NotFoundError."""
    _revoke(conn, caller, find_token(conn, caller.organisation_id, public_id), now_ms)


def _revoke(conn: Connection, caller: Caller, row: Row[Any], now_ms: int) -> None:
    if revoke(conn, row.name, now_ms):
        audit.record(
            conn, caller, "token.revoke", row.organisation_id, "token", row.public_id, now_ms
        )


_A: Final = s.accounts.c
_S: Final = s.sessions.c
_T: Final = s.tokens.c


def _record(
    conn: Connection,
    caller: Caller,
    what: str,
    organisation_id: int,
    public_id: UUID,
    now_ms: int,
    **details: Any,
) -> None:
    audit.record(conn, caller, what, organisation_id, "account", public_id, now_ms, **details)


def _accounts() -> Select[Any]:
    o, m = s.organisations.c, s.members.c
    return (
        select(
            s.accounts,
            o.name.label("organisation"),
            o.public_id.label("organisation_public_id"),
            o.code.label("organisation_code"),
            m.name.label("member"),
            m.public_id.label("member_public_id"),
        )
        .join(s.organisations, o.id == _A.organisation_id)
        .outerjoin(s.members, m.id == _A.member_id)
    )


def _tokens() -> Select[Any]:
    o, m = s.organisations.c, s.members.c
    return (
        select(
            _T.public_id,
            _T.name,
            _T.role,
            _T.organisation_id,
            _T.created_ms,
            _T.expires_ms,
            _T.revoked_ms,
            o.name.label("organisation"),
            o.public_id.label("organisation_public_id"),
            o.code.label("organisation_code"),
            m.name.label("member"),
            m.public_id.label("member_public_id"),
        )
        .join(s.organisations, o.id == _T.organisation_id)
        .outerjoin(s.members, m.id == _T.member_id)
    )


def _asked(scope: int, asked: Asked) -> ColumnElement[bool]:
    conditions = [within(scope, _A.organisation_id)]
    if asked.text:
        conditions.append(
            or_(
                _A.login.contains(asked.text.casefold(), autoescape=True),
                _A.name.contains(asked.text, autoescape=True),
                s.organisations.c.name.contains(asked.text, autoescape=True),
            )
        )
    if asked.role is not None:
        conditions.append(_A.role == asked.role.value)
    if asked.state in {"active", "disabled"}:
        is_active = _A.disabled_ms.is_(None)
        conditions.append(is_active if asked.state == "active" else ~is_active)
    return and_(*conditions)


def _held(scope: int, account_id: int | None, now_ms: int) -> ColumnElement[bool]:
    conditions = [within(scope, _A.organisation_id), _S.expires_ms > now_ms]
    if account_id is not None:
        conditions.append(_A.id == account_id)
    return and_(*conditions)


def _free_login(conn: Connection, code: str) -> str:
    """The code as a login, or with a number behind it where that is taken."""
    login = as_login("".join(code.split())[:48])
    known = set(conn.scalars(select(_A.login).where(_A.login.startswith(login, autoescape=True))))
    number = 1
    free = login
    while free in known:
        number += 1
        free = f"{login}-{number}"
    return free
