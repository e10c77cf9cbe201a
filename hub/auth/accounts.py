"""Local accounts: a login, a password kept as Argon2id, a role in one sub-tree.

Promises: a wrong login and a wrong password look the same and take as long; five wrong passwords
lock the account for a minute, each further one for twice as long up to a quarter of an hour, also
when they are tried at the same time; a changed password ends every session of the account; the
last account that could make others cannot be taken away.

Functions that write take a connection in a write transaction and leave the commit to the caller.
Messages are for the person at the page.
"""

import secrets
import unicodedata
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any, Final
from uuid import UUID

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import ColumnElement, Connection, Engine, Row, delete, func, insert, select, update

from hub.auth.callers import Caller, caller_of, select_callers
from hub.domain.terms import Role
from hub.store import schema as s
from hub.store.engine import reading

MIN_PASSWORD_CHARS: Final = 10
MAX_PASSWORD_CHARS: Final = 128
MAX_LOGIN_CHARS: Final = 64
MAX_NAME_CHARS: Final = 64
FREE_FAILURES: Final = 5
FIRST_LOCK_MS: Final = 60_000
LONGEST_LOCK_MS: Final = 15 * 60_000

_HASH: Final = PasswordHash((Argon2Hasher(),))
# Each check takes 64 MiB for a moment.
_CHECKS: Final = BoundedSemaphore(2)
_NOBODY: Final = _HASH.hash(secrets.token_urlsafe())
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"


class AccountError(ValueError):
    """An account cannot be made or changed; the message says why, and `field` names the input."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class SignInError(Exception):
    """The sign-in is refused. `locked_until_ms`: until when, if the account is locked."""

    def __init__(self, locked_until_ms: int | None = None) -> None:
        super().__init__("refused")
        self.locked_until_ms = locked_until_ms


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Whoever gave the right password."""

    caller: Caller
    must_change: bool


def make_account(
    conn: Connection,
    *,
    login: str,
    name: str,
    role: Role,
    organisation_id: int,
    member_id: int | None,
    password: str,
    must_change: bool,
    now_ms: int,
) -> UUID:
    """A new account; gives its public id. Raises AccountError."""
    login = _login(login)
    name = name.strip()
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise AccountError("name", f"姓名应为1到{MAX_NAME_CHARS}个字")
    if role is Role.MEMBER and member_id is None:
        raise AccountError("member", "党员账号必须对应一名党员")
    check_password(password, login)
    taken = select(s.accounts.c.id).where(s.accounts.c.login == login)
    if conn.scalar(taken) is not None:
        raise AccountError("login", "这个登录名已有人使用，请换一个")
    public_id = s.new_public_id()
    conn.execute(
        insert(s.accounts).values(
            public_id=public_id,
            login=login,
            name=name,
            role=role.value,
            organisation_id=organisation_id,
            member_id=member_id,
            password=_HASH.hash(password),
            must_change=must_change,
            created_ms=now_ms,
        )
    )
    return public_id


def sign_in(engine: Engine, login: str, password: str, now_ms: int) -> SignedIn:
    """Whoever this is. Raises SignInError. Takes its own transactions: the check takes a while."""
    try:
        known_as = _login(login)
    except AccountError:
        known_as = ""
    a = s.accounts.c
    with engine.begin() as conn:
        row = conn.execute(
            select(s.accounts).where(a.login == known_as, a.disabled_ms.is_(None)).with_for_update()
        ).one_or_none()
        if row is not None:
            if row.locked_until_ms is not None and row.locked_until_ms > now_ms:
                raise SignInError(row.locked_until_ms)
            # Counted before it is looked at: guesses made at the same time count all the same.
            conn.execute(
                update(s.accounts)
                .where(a.id == row.id)
                .values(
                    failures=row.failures + 1, locked_until_ms=_locked(row.failures + 1, now_ms)
                )
            )
    if not _matches(password, _NOBODY if row is None else row.password) or row is None:
        raise SignInError
    with engine.begin() as conn:
        conn.execute(
            update(s.accounts).where(a.id == row.id).values(failures=0, locked_until_ms=None)
        )
        found = conn.execute(
            select_callers(s.accounts).where(a.id == row.id, a.password == row.password)
        ).one_or_none()
    if found is None:  # changed meanwhile
        raise SignInError
    return SignedIn(caller_of(found, s.accounts), row.must_change)


def change_password(
    engine: Engine, account_id: int, old: str, new: str, *, keep_session: bytes | None
) -> None:
    """Replace one's own password; ends all other sessions. Raises AccountError."""
    a = s.accounts.c
    with reading(engine) as conn:
        row = conn.execute(select(s.accounts).where(a.id == account_id)).one()
    if not _matches(old, row.password):
        raise AccountError("old", "原密码不对")
    check_password(new, row.login)
    if new == old:
        raise AccountError("new", "新密码不能与原密码相同")
    hashed = _HASH.hash(new)
    with engine.begin() as conn:
        changed = conn.execute(
            update(s.accounts)
            .where(a.id == account_id, a.password == row.password)
            .values(password=hashed, must_change=False)
        )
        if changed.rowcount != 1:
            raise AccountError("old", "密码刚刚被改过，请重新登录")
        _end_sessions(conn, account_id, keep_session)


def reset_password(conn: Connection, account_id: int) -> str:
    """Give an account a new first password, told this once; ends its sessions and its lock."""
    password = first_password()
    conn.execute(
        update(s.accounts)
        .where(s.accounts.c.id == account_id)
        .values(password=_HASH.hash(password), must_change=True, failures=0, locked_until_ms=None)
    )
    _end_sessions(conn, account_id)
    return password


def disable(conn: Connection, account_id: int, now_ms: int) -> None:
    """End an account and its sessions; what it did stays. Raises AccountError."""
    a = s.accounts.c
    row = conn.execute(select(s.accounts).where(a.id == account_id)).one()
    if row.role == Role.OPERATOR.value and row.disabled_ms is None:
        others = conn.scalar(
            select(func.count()).where(
                a.role == Role.OPERATOR.value,
                a.disabled_ms.is_(None),
                a.id != account_id,
                a.organisation_id.in_(_roots()),
            )
        )
        if not others and conn.scalar(
            select(a.id).where(a.id == account_id, a.organisation_id.in_(_roots()))
        ):
            raise AccountError("account", "这是最后一个全区管理员账号，不能停用")
    conn.execute(
        update(s.accounts)
        .where(a.id == account_id, a.disabled_ms.is_(None))
        .values(disabled_ms=now_ms)
    )
    _end_sessions(conn, account_id)


def enable(conn: Connection, account_id: int) -> None:
    """Let a disabled account sign in again."""
    conn.execute(update(s.accounts).where(s.accounts.c.id == account_id).values(disabled_ms=None))


def has_accounts(conn: Connection) -> bool:
    """Whether the first run is over."""
    return conn.scalar(select(s.accounts.c.id).limit(1)) is not None


def accounts_in(conn: Connection, condition: ColumnElement[bool]) -> list[Row[Any]]:
    """The accounts for which the condition holds, with organisation and member, by login."""
    a, o, m = s.accounts.c, s.organisations.c, s.members.c
    return list(
        conn.execute(
            select(
                s.accounts,
                o.name.label("organisation"),
                o.public_id.label("organisation_public_id"),
                m.name.label("member"),
            )
            .join(s.organisations, o.id == a.organisation_id)
            .outerjoin(s.members, m.id == a.member_id)
            .where(condition)
            .order_by(a.login)
        )
    )


def first_password() -> str:
    """A password to hand over: 80 bits in groups that can be read aloud."""
    groups = ["".join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(4)]
    return "-".join(groups)


def check_password(password: str, login: str = "") -> None:
    """Raises AccountError where nobody should use this password (NIST SP 800-63B, 3.1.1)."""
    if len(password) < MIN_PASSWORD_CHARS:
        raise AccountError("new", f"密码至少要有{MIN_PASSWORD_CHARS}个字符")
    if len(password) > MAX_PASSWORD_CHARS:
        raise AccountError("new", f"密码最多{MAX_PASSWORD_CHARS}个字符")
    if len(set(password)) < 4 or (login and login in password.casefold()):
        raise AccountError("new", "密码太容易猜到：不要重复同一个字符，也不要包含登录名")


def _login(text: str) -> str:
    login = unicodedata.normalize("NFKC", text).strip().casefold()
    if not login or len(login) > MAX_LOGIN_CHARS or not login.isprintable() or " " in login:
        raise AccountError("login", f"登录名应为1到{MAX_LOGIN_CHARS}个字符，不含空格")
    return login


def _locked(failures: int, now_ms: int) -> int | None:
    if failures < FREE_FAILURES:
        return None
    longer = min(failures - FREE_FAILURES, 10)
    return now_ms + min(FIRST_LOCK_MS << longer, LONGEST_LOCK_MS)


def _matches(password: str, hashed: str) -> bool:
    if len(password) > MAX_PASSWORD_CHARS:
        return False
    with _CHECKS:
        return _HASH.verify(password, hashed)


def _roots() -> Any:
    return select(s.organisations.c.id).where(s.organisations.c.parent_id.is_(None))


def _end_sessions(conn: Connection, account_id: int, keep: bytes | None = None) -> None:
    t = s.sessions.c
    statement = delete(s.sessions).where(t.account_id == account_id)
    conn.execute(statement if keep is None else statement.where(t.session_sha256 != keep))
