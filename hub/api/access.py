"""`/api/v1/accounts`, `/sessions`, `/tokens`, `/audit`, `/accesses`: who may, who did, who looked.

What the rules of `hub.auth.grants` refuse is 409, with the field and the reason in English. A first
password or a token is in the one answer that made it, and nowhere else.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import AfterValidator, Field
from sqlalchemy import Connection, Row

from hub.api.answers import DONE, OF_ONE
from hub.api.models import In, Moment, Out, Paged, Period, Ref, Time, Told
from hub.audit import Look
from hub.auth import grants
from hub.auth.accounts import AccountError, prepare
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.auth.tokens import TokenError
from hub.context import Context, Hub, api_right
from hub.days import span_ms
from hub.domain.terms import Role
from hub.store.engine import reading
from hub.store.log_query import Asked, acts, count_acts, count_looks, looks
from hub.store.scope import find_organisation
from hub.web.words import Language, speaking, t

Granting = Annotated[Caller, Depends(api_right(Right.ACCESS))]
Reading = Annotated[Caller, Depends(api_right(Right.AUDIT))]

router = APIRouter(prefix="/api/v1", tags=["access"])


# --- In -------------------------------------------------------------------------------------


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds what cannot be printed")
    return text


Printable = Annotated[str, AfterValidator(_printable)]


class AccountsAsked(Paged):
    """The query of the list of accounts."""

    text: Printable = Field("", max_length=64, description="Part of login, name, organisation.")
    role: Role | None = None
    state: Literal["active", "disabled", "all"] = "all"


class SessionsAsked(Paged):
    """The query of the list of sessions."""

    account: UUID | None = Field(None, description="Of this account alone.")


class LogAsked(Period):
    """The query of the two logs."""

    actor: Printable = Field("", max_length=64, description="Part of the name of whoever did it.")
    account: UUID | None = Field(None, description="Done with this account.")
    area: str = Field("", pattern="^[a-z_]{0,32}$", description="How `what` begins: meeting.")


class NewAccount(In):
    """An account to be made."""

    login: str = Field(min_length=1, max_length=64, examples=["wang"])
    name: str = Field(min_length=1, max_length=64, examples=["Wang"])
    role: Role
    organisation: UUID = Field(description="It sees this one and all below it.")
    member: UUID | None = Field(
        None, description="Whose own it is; MEMBER, SECRETARY and OPERATOR need one."
    )
    no_member: bool = Field(
        False, description="For SECRETARY and OPERATOR without one: it is said that there is none."
    )


class NewToken(In):
    """A token to be made."""

    name: str = Field(min_length=1, max_length=64, examples=["statistics"])
    role: Role = Field(description="Not MEMBER: those tokens members make on their own page.")
    organisation: UUID = Field(description="It sees this one and all below it.")
    expires_at: Moment | None = Field(None, description="Within a year; null: in a year.")


# --- Out ------------------------------------------------------------------------------------


class Called(Out):
    """What has a name."""

    public_id: str
    name: str


class AccountOut(Out):
    """An account: one role in one organisation and all below it."""

    public_id: str
    login: str
    name: str
    role: Role
    organisation: Ref
    member: Called | None
    must_change: bool = Field(description="The first password was not replaced yet.")
    locked_until: Time | None = Field(description="After wrong passwords.")
    created_at: Time
    disabled_at: Time | None


class GrantedOut(Out):
    """An account with its first password, told this once."""

    account: AccountOut
    first_password: str


class SessionOut(Out):
    """Where an account is signed in."""

    public_id: str
    account: str = Field(description="The account's public id.")
    login: str
    browser: str
    created_at: Time
    expires_at: Time


class TokenOut(Out):
    """A token; itself it is not known any more."""

    public_id: str
    name: str
    role: Role
    organisation: Ref
    member: Called | None
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class NewTokenOut(Out):
    """A new token, told this once."""

    token: TokenOut
    secret: str = Field(description="The bearer token.")


class _Entry(Out):
    at: Time
    actor: str = Field(description="The name as it was then.")
    role: Role | None = Field(description="None: the hub's own machine.")
    account: str | None
    token: str | None
    what: str = Field(examples=["meeting.create"])


class ActOut(_Entry):
    """Something that was done."""

    organisation: Called | None = Field(description="None: the hub as a whole.")
    object: str
    object_id: str | None
    details: dict[str, Any]


class LookOut(_Entry):
    """Somebody was shown personal data: of a meeting, a member, or an organisation."""

    meeting: Called | None
    member: Called | None
    organisation: Called | None
    from_at: Time | None = Field(description="The period shown.")
    to_at: Time | None


class _List(Out):
    total: int = Field(description="How many items there are in all.")
    limit: int
    offset: int


class AccountList(_List):
    """Accounts, by login."""

    items: list[AccountOut]


class SessionList(_List):
    """Sessions that hold now, the latest first."""

    items: list[SessionOut]


class TokenList(_List):
    """Tokens ever made, by name."""

    items: list[TokenOut]


class ActList(_List):
    """Acts, the latest first."""

    items: list[ActOut]


class LookList(_List):
    """Looks, the latest first."""

    items: list[LookOut]


class GrantedList(Out):
    """New accounts with their first passwords, told this once."""

    items: list[GrantedOut]
    remaining: int = Field(description="Members still without an account: ask again.")


# --- Accounts -------------------------------------------------------------------------------


@router.get("/accounts", responses=OF_ONE)
def list_accounts(
    caller: Granting, hub: Hub, query: Annotated[AccountsAsked, Query()]
) -> AccountList:
    """The accounts of the sub-tree."""
    asked = grants.Asked(query.text, query.role, query.state)
    scope = caller.organisation_id
    with reading(hub.engine) as conn:
        total = grants.count_accounts(conn, scope, asked)
        rows = grants.list_accounts(conn, scope, asked, query.limit, query.offset)
    hub.looks(caller, Look("accounts.api", organisation_id=scope))
    return AccountList(
        total=total,
        limit=query.limit,
        offset=query.offset,
        items=[_account(hub, each) for each in rows],
    )


@router.post("/accounts", responses=DONE, status_code=201)
def create_account(caller: Granting, hub: Hub, wanted: NewAccount) -> GrantedOut:
    """Make an account; its first password is replaced at the first sign-in."""
    prepared = prepare()
    with _doing(hub) as conn:
        granted = grants.create_account(
            conn,
            caller,
            prepared,
            login=wanted.login,
            name=wanted.name,
            role=wanted.role,
            organisation=wanted.organisation,
            member=wanted.member,
            no_member=wanted.no_member,
            now_ms=hub.clock(),
        )
        return _granted(hub, conn, caller, granted)


@router.post("/organisations/{organisation}/member-accounts", responses=DONE, status_code=201)
def create_member_accounts(caller: Granting, hub: Hub, organisation: UUID) -> GrantedList:
    """Make an account for each member of an organisation who has none, so many at once."""
    now_ms = hub.clock()
    with reading(hub.engine) as conn:
        at = find_organisation(conn, caller.organisation_id, organisation)
        count = len(grants.without_account(conn, at.id, now_ms))
    prepared = [prepare() for _ in range(min(count, grants.MOST_AT_ONCE))]
    with _doing(hub) as conn:
        made = grants.create_member_accounts(conn, caller, organisation, prepared, now_ms)
        return GrantedList(
            items=[_granted(hub, conn, caller, each) for each in made],
            remaining=len(grants.without_account(conn, at.id, now_ms)),
        )


@router.get("/accounts/{account}", responses=OF_ONE)
def one_account(caller: Granting, hub: Hub, account: UUID) -> AccountOut:
    """One account."""
    with reading(hub.engine) as conn:
        row = grants.find_account(conn, caller.organisation_id, account)
    if row.member_id is not None:
        hub.looks(caller, Look("account.api", member_id=row.member_id))
    return _account(hub, row)


@router.post("/accounts/{account}/reset", responses=DONE)
def reset_account(caller: Granting, hub: Hub, account: UUID) -> GrantedOut:
    """Give a new first password; ends the account's sessions and its lock."""
    with reading(hub.engine) as conn:
        grants.find_account(conn, caller.organisation_id, account)
    prepared = prepare()
    with _doing(hub) as conn:
        granted = grants.reset_account(conn, caller, prepared, account, hub.clock())
        return _granted(hub, conn, caller, granted)


@router.post("/accounts/{account}/disable", responses=DONE)
def disable_account(caller: Granting, hub: Hub, account: UUID) -> AccountOut:
    """End an account, its sessions and the tokens that it made; again: no change."""
    with _doing(hub) as conn:
        grants.disable_account(conn, caller, account, hub.clock())
        return _account(hub, grants.find_account(conn, caller.organisation_id, account))


@router.post("/accounts/{account}/enable", responses=DONE)
def enable_account(caller: Granting, hub: Hub, account: UUID) -> AccountOut:
    """Let an account sign in again; again: no change."""
    with _doing(hub) as conn:
        grants.enable_account(conn, caller, account, hub.clock())
        return _account(hub, grants.find_account(conn, caller.organisation_id, account))


# --- Sessions -------------------------------------------------------------------------------


@router.get("/sessions", responses=OF_ONE)
def list_sessions(
    caller: Granting, hub: Hub, query: Annotated[SessionsAsked, Query()]
) -> SessionList:
    """The sessions of the sub-tree's accounts that hold now."""
    scope, now_ms = caller.organisation_id, hub.clock()
    with reading(hub.engine) as conn:
        account_id = None
        if query.account is not None:
            account_id = grants.find_account(conn, scope, query.account).id
        total = grants.count_sessions(conn, scope, account_id, now_ms)
        rows = grants.list_sessions(conn, scope, account_id, now_ms, query.limit, query.offset)
    told = Told(hub.zone)
    return SessionList(
        total=total,
        limit=query.limit,
        offset=query.offset,
        items=[
            SessionOut(
                public_id=str(each.public_id),
                account=str(each.account_public_id),
                login=each.login,
                browser=each.browser,
                created_at=told.time(each.created_ms),
                expires_at=told.time(each.expires_ms),
            )
            for each in rows
        ],
    )


@router.post("/sessions/{session}/end", responses=DONE, status_code=204)
def end_session(caller: Granting, hub: Hub, session: UUID) -> None:
    """Sign it out."""
    with _doing(hub) as conn:
        grants.end_one_session(conn, caller, session, hub.clock(), may_others=True)


# --- Tokens ---------------------------------------------------------------------------------


@router.get("/tokens", responses=OF_ONE)
def list_tokens(caller: Granting, hub: Hub, query: Annotated[Paged, Query()]) -> TokenList:
    """The tokens of the sub-tree."""
    with reading(hub.engine) as conn:
        total = grants.count_tokens(conn, caller.organisation_id)
        rows = grants.list_tokens(conn, caller.organisation_id, query.limit, query.offset)
    hub.looks(caller, Look("accounts.api", organisation_id=caller.organisation_id))
    return TokenList(
        total=total,
        limit=query.limit,
        offset=query.offset,
        items=[_token(hub, each) for each in rows],
    )


@router.post("/tokens", responses=DONE, status_code=201)
def create_token(caller: Granting, hub: Hub, wanted: NewToken) -> NewTokenOut:
    """Make a token."""
    at = wanted.expires_at
    with _doing(hub) as conn:
        public_id, secret = grants.create_token(
            conn,
            caller,
            name=wanted.name,
            role=wanted.role,
            organisation=wanted.organisation,
            expires_ms=None if at is None else int(at.timestamp() * 1000),
            now_ms=hub.clock(),
        )
        row = grants.find_token(conn, caller.organisation_id, public_id)
    return NewTokenOut(token=_token(hub, row), secret=secret)


@router.get("/tokens/{token}", responses=OF_ONE)
def one_token(caller: Granting, hub: Hub, token: UUID) -> TokenOut:
    """One token."""
    with reading(hub.engine) as conn:
        row = grants.find_token(conn, caller.organisation_id, token)
    if row.member is not None:
        hub.looks(caller, Look("accounts.api", organisation_id=caller.organisation_id))
    return _token(hub, row)


@router.post("/tokens/{token}/revoke", responses=DONE)
def revoke_token(caller: Granting, hub: Hub, token: UUID) -> TokenOut:
    """Make a token worthless at once; again: no change."""
    with _doing(hub) as conn:
        grants.revoke_token(conn, caller, token, hub.clock())
        return _token(hub, grants.find_token(conn, caller.organisation_id, token))


# --- The logs -------------------------------------------------------------------------------


@router.get("/audit", responses=OF_ONE)
def list_audit(caller: Reading, hub: Hub, query: Annotated[LogAsked, Query()]) -> ActList:
    """What was done in the sub-tree; for the whole district also to the hub as a whole."""
    scope = caller.organisation_id
    with reading(hub.engine) as conn:
        asked = _asked(hub, conn, caller, query)
        total = count_acts(conn, scope, asked)
        rows = acts(conn, scope, asked, query.limit, query.offset)
    return ActList(
        total=total,
        limit=query.limit,
        offset=query.offset,
        items=[
            ActOut(
                **_entry(hub, each),
                organisation=_called(each.organisation_public_id, each.organisation),
                object=each.object,
                object_id=_text(each.object_id),
                details=json.loads(each.details),
            )
            for each in rows
        ],
    )


@router.get("/accesses", responses=OF_ONE)
def list_accesses(caller: Reading, hub: Hub, query: Annotated[LogAsked, Query()]) -> LookList:
    """Who was shown personal data of the sub-tree."""
    scope, now_ms, told = caller.organisation_id, hub.clock(), Told(hub.zone)
    with reading(hub.engine) as conn:
        asked = _asked(hub, conn, caller, query)
        total = count_looks(conn, scope, asked, now_ms)
        rows = looks(conn, scope, asked, now_ms, query.limit, query.offset)
    if any(each.member is not None for each in rows):
        hub.looks(caller, Look("log.api", organisation_id=scope))
    return LookList(
        total=total,
        limit=query.limit,
        offset=query.offset,
        items=[
            LookOut(
                **_entry(hub, each),
                meeting=_called(each.meeting_public_id, each.meeting),
                member=_called(each.member_public_id, each.member),
                organisation=_called(each.organisation_public_id, each.organisation),
                from_at=told.maybe(each.from_ms),
                to_at=told.maybe(each.to_ms),
            )
            for each in rows
        ],
    )


# --- Helpers --------------------------------------------------------------------------------


@contextmanager
def _doing(hub: Context) -> Iterator[Connection]:
    """A transaction; what the rules refuse is 409 in English."""
    try:
        with hub.engine.begin() as conn:
            yield conn
    except (AccountError, TokenError) as error:
        with speaking(Language.EN):
            raise HTTPException(409, f"{error.field}: {t(error)}") from error


def _asked(hub: Context, conn: Connection, caller: Caller, query: LogAsked) -> Asked:
    account_id = None
    if query.account is not None:
        account_id = grants.find_account(conn, caller.organisation_id, query.account).id
    span = span_ms(*query.days(hub.local(hub.clock()).date()), hub.zone)
    return Asked(*span, actor=query.actor, area=query.area, account_id=account_id)


def _account(hub: Context, row: Row[Any]) -> AccountOut:
    told = Told(hub.zone)
    is_locked = (row.locked_until_ms or 0) > hub.clock()
    return AccountOut(
        public_id=str(row.public_id),
        login=row.login,
        name=row.name,
        role=Role(row.role),
        organisation=_organisation(row),
        member=_called(row.member_public_id, row.member),
        must_change=row.must_change,
        locked_until=told.time(row.locked_until_ms) if is_locked else None,
        created_at=told.time(row.created_ms),
        disabled_at=told.maybe(row.disabled_ms),
    )


def _granted(hub: Context, conn: Connection, caller: Caller, granted: grants.Granted) -> GrantedOut:
    row = grants.find_account(conn, caller.organisation_id, granted.public_id)
    return GrantedOut(account=_account(hub, row), first_password=granted.password)


def _token(hub: Context, row: Row[Any]) -> TokenOut:
    told = Told(hub.zone)
    return TokenOut(
        public_id=str(row.public_id),
        name=row.name,
        role=Role(row.role),
        organisation=_organisation(row),
        member=_called(row.member_public_id, row.member),
        created_at=told.time(row.created_ms),
        expires_at=told.maybe(row.expires_ms),
        revoked_at=told.maybe(row.revoked_ms),
    )


def _organisation(row: Row[Any]) -> Ref:
    return Ref(
        public_id=str(row.organisation_public_id),
        code=row.organisation_code,
        name=row.organisation,
    )


def _entry(hub: Context, row: Row[Any]) -> dict[str, Any]:
    return {
        "at": Told(hub.zone).time(row.at_ms),
        "actor": row.actor,
        "role": None if row.role is None else Role(row.role),
        "account": _text(row.account_public_id),
        "token": _text(row.token_public_id),
        "what": row.what,
    }


def _called(public_id: UUID | None, name: str | None) -> Called | None:
    return None if public_id is None else Called(public_id=str(public_id), name=name or "")


def _text(public_id: UUID | None) -> str | None:
    return None if public_id is None else str(public_id)
