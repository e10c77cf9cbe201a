"""Local accounts: a login, a password kept as Argon2id, a role in one sub-tree.

Promises: a wrong login, a wrong password and a locked account look the same and take as long; five
wrong passwords lock the account for a minute, each further one for twice as long up to a quarter of
an hour, also when they are tried at the same time; wrong ones are forgotten after a day without
one; each lock is in the audit log. However many sign in at once, a few wait and the others are
turned away at once: whatever else the hub does goes on. A changed password ends every session of
the account; the last account that could make others cannot be taken away.

Whoever knows a login can keep its account locked by being wrong again and again: see
docs/operations.md for what to do then. No password is hashed while a transaction is open.

Functions that write take a connection in a write transaction and leave the commit to the caller.
Messages are for the person at the page.
"""

import secrets
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any, Final
from uuid import UUID

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    and_,
    delete,
    func,
    insert,
    select,
    update,
)

from hub import audit
from hub.auth.callers import Caller, caller_of, select_callers
from hub.domain.terms import Role
from hub.domain.words import Words
from hub.store import schema as s
from hub.store.engine import reading

MIN_PASSWORD_CHARS: Final = 10
MAX_PASSWORD_CHARS: Final = 128
MAX_LOGIN_CHARS: Final = 64
MAX_NAME_CHARS: Final = 64
FREE_FAILURES: Final = 5
FIRST_LOCK_MS: Final = 60_000
LONGEST_LOCK_MS: Final = 15 * 60_000
FORGET_MS: Final = 24 * 3600 * 1000
"""Wrong passwords are forgotten when there was none for so long."""
MOST_AT_ONCE: Final = 6
"""Of sign-ins: two are looked at, the others wait; whoever comes then is told to come again."""
PATIENCE_S: Final = 10.0

_HASH: Final = PasswordHash((Argon2Hasher(),))
# Each check takes 64 MiB for a moment.
_CHECKS: Final = BoundedSemaphore(2)
_LINE: Final = BoundedSemaphore(MOST_AT_ONCE)
_NOBODY: Final = _HASH.hash(secrets.token_urlsafe())
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"


_LOCK: Final = 0x6163636F  # an arbitrary key for PostgreSQL's advisory lock


class AccountError(ValueError):
    """An account cannot be made or changed; the message says why, and `field` names the input."""

    def __init__(self, field: str, message: Words) -> None:
        super().__init__(message)
        self.field = field


class SignInError(Exception):
    """The sign-in is refused. `locked_until_ms`: until when, if the account is locked."""

    def __init__(self, locked_until_ms: int | None = None) -> None:
        super().__init__("refused")
        self.locked_until_ms = locked_until_ms


class BusyError(Exception):
    """So many are signing in that this password was not looked at, and counted for nothing."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Whoever gave the right password."""

    caller: Caller
    must_change: bool
    failures: int
    """Wrong passwords before this right one, those left out that were forgotten."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A first password and what is kept of it; made before the transaction, as it takes a while."""

    password: str
    hashed: str


def prepare() -> Prepared:
    """A first password."""
    password = first_password()
    return Prepared(password, hash_password(password))


def add_account(
    conn: Connection,
    *,
    login: str,
    name: str,
    role: Role,
    organisation_id: int,
    member_id: int | None,
    hashed: str,
    must_change: bool,
    now_ms: int,
    made_by_account_id: int | None = None,
) -> UUID:
    """A new account; gives its public id. Raises AccountError.

    The password was checked and hashed before, which takes its time. A member has one account of
    role MEMBER.
    """
    login = as_login(login)
    name = name.strip()
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise AccountError("name", Words("姓名应为1到{most}个字", most=MAX_NAME_CHARS))
    if role is Role.MEMBER and member_id is None:
        raise AccountError("member", Words("党员账号必须对应一名党员"))
    lock_accounts(conn)
    taken = select(s.accounts.c.id).where(s.accounts.c.login == login)
    if conn.scalar(taken) is not None:
        raise AccountError("login", Words("这个登录名已有人使用，请换一个"))
    _must_be_the_only_one(conn, role, member_id)
    public_id = s.new_public_id()
    conn.execute(
        insert(s.accounts).values(
            public_id=public_id,
            login=login,
            name=name,
            role=role.value,
            organisation_id=organisation_id,
            member_id=member_id,
            password=hashed,
            must_change=must_change,
            made_by_account_id=made_by_account_id,
            created_ms=now_ms,
        )
    )
    return public_id


def sign_in(engine: Engine, login: str, password: str, now_ms: int) -> SignedIn:
    """Whoever this is. Raises SignInError, BusyError. Takes its own transactions."""
    a = s.accounts.c
    try:
        known_as = as_login(login)
    except AccountError:
        known_as = ""
    row = _checked(engine, and_(a.login == known_as, a.disabled_ms.is_(None)), password, now_ms)
    with reading(engine) as conn:
        found = conn.execute(
            select_callers(s.accounts).where(a.id == row.id, a.password == row.password)
        ).one_or_none()
    if found is None:  # changed meanwhile
        raise SignInError
    failures = 0 if _are_forgotten(row, now_ms) else row.failures
    return SignedIn(caller_of(found, s.accounts), row.must_change, failures)


def change_password(
    engine: Engine, caller: Caller, old: str, new: str, *, keep_session: bytes | None, now_ms: int
) -> None:
    """Replace one's own password; ends all other sessions. Raises AccountError.

    A wrong one counts as at the sign-in: a session left open is no place for guesses.
    """
    a = s.accounts.c
    try:
        row = _checked(engine, a.id == caller.account_id, old, now_ms)
    except SignInError:
        raise AccountError("old", Words("原密码不对")) from None
    except BusyError:
        raise AccountError("old", Words("现在登录的人太多，请过一会儿再试")) from None
    check_password(new, row.login)
    if new == old:
        raise AccountError("new", Words("新密码不能与原密码相同"))
    hashed = hash_password(new)
    with engine.begin() as conn:
        changed = conn.execute(
            update(s.accounts)
            .where(a.id == row.id, a.password == row.password)
            .values(password=hashed, must_change=False)
        )
        if changed.rowcount != 1:
            raise AccountError("old", Words("密码刚刚被改过，请重新登录"))
        end_sessions(conn, row.id, keep_session)
        audit.record(
            conn,
            caller,
            "account.change_password",
            row.organisation_id,
            "account",
            row.public_id,
            now_ms,
        )


@contextmanager
def _turn() -> Iterator[None]:
    """One of the few whose password is looked at. Raises BusyError."""
    if not _LINE.acquire(blocking=False):
        raise BusyError
    try:
        if not _CHECKS.acquire(timeout=PATIENCE_S):
            raise BusyError
        try:
            yield
        finally:
            _CHECKS.release()
    finally:
        _LINE.release()


def _checked(engine: Engine, which: ColumnElement[bool], password: str, now_ms: int) -> Row[Any]:
    """The account, if there is one and this is its password. Raises SignInError, BusyError."""
    with _turn():
        with reading(engine) as conn:
            row = conn.execute(select(s.accounts).where(which)).one_or_none()
        # Whether there is such an account must not show in the time that the answer takes.
        is_open = row is not None and not _is_locked(row, now_ms)
        is_right = _matches(password, row.password if row is not None and is_open else _NOBODY)
    with engine.begin() as conn:
        # Of guesses made at the same time those count for nothing that find the account locked now.
        found = conn.execute(select(s.accounts).where(which).with_for_update()).one_or_none()
        if row is None or found is None or not is_open or _is_locked(found, now_ms):
            _write_as_long(conn)
        elif is_right and found.password == row.password:
            conn.execute(
                update(s.accounts)
                .where(s.accounts.c.id == row.id)
                .values(failures=0, failed_ms=None, locked_until_ms=None)
            )
            return found
        else:
            _count_failure(conn, found, now_ms)
    is_locked = found is not None and _is_locked(found, now_ms)
    raise SignInError(found.locked_until_ms if found is not None and is_locked else None)


def _is_locked(row: Row[Any], now_ms: int) -> bool:
    return (row.locked_until_ms or 0) > now_ms


def reset_password(
    conn: Connection, account_id: int, hashed: str, made_by_account_id: int | None
) -> None:
    """Give an account a new first password; ends its sessions and its lock."""
    conn.execute(
        update(s.accounts)
        .where(s.accounts.c.id == account_id)
        .values(
            password=hashed,
            must_change=True,
            failures=0,
            failed_ms=None,
            locked_until_ms=None,
            made_by_account_id=made_by_account_id,
        )
    )
    end_sessions(conn, account_id)


def disable(conn: Connection, account_id: int, now_ms: int) -> None:
    """End an account and its sessions; what it did stays. Raises AccountError."""
    a = s.accounts.c
    lock_accounts(conn)
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
            raise AccountError("account", Words("这是最后一个全区管理员账号，不能停用"))
    conn.execute(
        update(s.accounts)
        .where(a.id == account_id, a.disabled_ms.is_(None))
        .values(disabled_ms=now_ms)
    )
    end_sessions(conn, account_id)


def enable(conn: Connection, account_id: int) -> None:
    """Let a disabled account sign in again. Raises AccountError."""
    lock_accounts(conn)
    row = conn.execute(select(s.accounts).where(s.accounts.c.id == account_id)).one()
    _must_be_the_only_one(conn, Role(row.role), row.member_id)
    conn.execute(update(s.accounts).where(s.accounts.c.id == account_id).values(disabled_ms=None))


def lock_accounts(conn: Connection) -> None:
    """Until the end of the transaction nobody else adds or disables accounts."""
    if conn.dialect.name == "postgresql":  # SQLite has one writer anyway
        conn.execute(select(func.pg_advisory_xact_lock(_LOCK)))


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


def hash_password(password: str) -> str:
    """What is kept of a password; takes some tenths of a second and 64 MiB."""
    with _CHECKS:
        return _HASH.hash(password)


def first_password() -> str:
    """A password to hand over: 80 bits in groups that can be read aloud."""
    groups = ["".join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(4)]
    return "-".join(groups)


def check_password(password: str, login: str = "") -> None:
    """Raises AccountError where nobody should use this password (NIST SP 800-63B, 3.1.1)."""
    if len(password) < MIN_PASSWORD_CHARS:
        raise AccountError("new", Words("密码至少要有{least}个字符", least=MIN_PASSWORD_CHARS))
    if len(password) > MAX_PASSWORD_CHARS:
        raise AccountError("new", Words("密码最多{most}个字符", most=MAX_PASSWORD_CHARS))
    # A login of a letter or two is part of good passwords as well.
    has_login = len(login.encode()) > 3 and login in password.casefold()
    if len(set(password)) < 4 or has_login:
        raise AccountError("new", Words("密码太容易猜到：不要重复同一个字符，也不要包含登录名"))


def as_login(text: str) -> str:
    """A login as it is kept: NFKC, in small letters. Raises AccountError."""
    login = unicodedata.normalize("NFKC", text).strip().casefold()
    if not login or len(login) > MAX_LOGIN_CHARS or not login.isprintable() or " " in login:
        raise AccountError(
            "login", Words("登录名应为1到{most}个字符，不含空格", most=MAX_LOGIN_CHARS)
        )
    return login


def _must_be_the_only_one(conn: Connection, role: Role, member_id: int | None) -> None:
    a = s.accounts.c
    if role is Role.MEMBER and conn.scalar(
        select(a.id).where(
            a.role == Role.MEMBER.value, a.member_id == member_id, a.disabled_ms.is_(None)
        )
    ):
        raise AccountError("member", Words("这名党员已有在用的党员账号，可以重设它的密码"))


def _are_forgotten(row: Row[Any], now_ms: int) -> bool:
    return row.failed_ms is None or now_ms - row.failed_ms > FORGET_MS


def _count_failure(conn: Connection, row: Row[Any], now_ms: int) -> None:
    failures = 1 if _are_forgotten(row, now_ms) else row.failures + 1
    until_ms = _locked(failures, now_ms)
    conn.execute(
        update(s.accounts)
        .where(s.accounts.c.id == row.id)
        .values(failures=failures, failed_ms=now_ms, locked_until_ms=until_ms)
    )
    if until_ms is not None:
        audit.record(
            conn,
            audit.Stranger(),
            "account.locked",
            row.organisation_id,
            "account",
            row.public_id,
            now_ms,
            failures=failures,
        )


def _write_as_long(conn: Connection) -> None:
    """Change nothing, with as much writing as a failure that is counted."""
    a = s.accounts.c
    some = select(func.min(a.id)).scalar_subquery()
    conn.execute(update(s.accounts).where(a.id == some).values(failures=a.failures))


def _locked(failures: int, now_ms: int) -> int | None:
    if failures < FREE_FAILURES:
        return None
    longer = min(failures - FREE_FAILURES, 10)
    return now_ms + min(FIRST_LOCK_MS << longer, LONGEST_LOCK_MS)


def _matches(password: str, hashed: str) -> bool:
    return len(password) <= MAX_PASSWORD_CHARS and _HASH.verify(password, hashed)


def _roots() -> Any:
    return select(s.organisations.c.id).where(s.organisations.c.parent_id.is_(None))


def end_sessions(conn: Connection, account_id: int, keep: bytes | None = None) -> None:
    """End all sessions of an account, but for the one with the key `keep`."""
    t = s.sessions.c
    statement = delete(s.sessions).where(t.account_id == account_id)
    conn.execute(statement if keep is None else statement.where(t.session_sha256 != keep))
