"""Accounts, sessions and tokens: who may sign in, as what, and where they are signed in.

A first password or a token is in the one answer to the form that asked for it, and nowhere else:
not in an address, not in a cookie. Sent again, the form makes no second account.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from sqlalchemy import Connection, Row

from hub.audit import Look
from hub.auth import grants
from hub.auth.accounts import AccountError, prepare
from hub.auth.callers import Caller
from hub.auth.grants import Asked, Granted
from hub.auth.rights import Right
from hub.auth.tokens import TokenError, TokenInfo, list_tokens
from hub.context import Context, Hub, page_right, session, signed_in
from hub.days import day_from, span_ms
from hub.domain.terms import Role
from hub.domain.words import Words
from hub.store.attendance_query import members, tree
from hub.store.engine import reading
from hub.store.scope import find_member, find_organisation
from hub.web.devices import is_this_machine
from hub.web.pages import page
from hub.web.view import Chip
from hub.web.visit import done
from hub.web.words import t

PAGE_LINES: Final = 50
MOST_FITTING: Final = 20
_LONGEST: Final = 64

ROLES: Final[Mapping[Role, Words]] = {
    Role.SECRETARY: Words("建会、改会，批准请假和补签，看考勤，核对刷卡"),
    Role.AUDITOR: Words("看考勤、设备情况和日志，什么都不能改"),
    Role.TECHNICIAN: Words("添加和安放设备，看不到考勤"),
    Role.MEMBER: Words("只看本人的考勤，申请请假、补签，提出异议"),
    Role.OPERATOR: Words("除党员本人的事以外全部可以做，包括名册、设备、账号和日志"),
}
"""What each role may do, in the order in which a form offers them."""

Granting = Annotated[Caller, Depends(page_right(Right.ACCESS))]
Own = Annotated[Caller, Depends(page_right(Right.OWN))]
Anybody = Annotated[Caller, Depends(signed_in)]
Text = Annotated[str, Form()]

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class AccountLine:
    """An account, as a list shows it."""

    public_id: str
    login: str
    name: str
    role: Role
    organisation: str
    member: str | None
    chip: Chip
    created: str

    @classmethod
    def of(cls, row: Row[Any], hub: Context) -> "AccountLine":
        """From a row of `grants.list_accounts`."""
        return cls(
            str(row.public_id),
            row.login,
            row.name,
            Role(row.role),
            row.organisation,
            row.member,
            _state(row, hub.clock()),
            f"{hub.local(row.created_ms):%Y-%m-%d}",
        )


def _state(row: Row[Any], now_ms: int) -> Chip:
    if row.disabled_ms is not None:
        return Chip("stop", "stop", t("已停用"))
    if (row.locked_until_ms or 0) > now_ms:
        return Chip("warn", "lock", t("暂时锁定"))
    if row.must_change:
        return Chip("open", "key", t("待改密码"))
    return Chip("ok", "ok", t("在用"))


# --- accounts -------------------------------------------------------------------------------


@router.get("/accounts")
def account_list(request: Request, caller: Granting, hub: Hub) -> Response:
    """The accounts of the sub-tree."""
    texts = {name: typed(text) for name, text in request.query_params.items()}
    role = Role.parse(texts.get("role", ""))
    asked = Asked(texts.get("text", ""), role, texts.get("state", "active"))
    number = page_number(texts.get("page", ""))
    scope = caller.organisation_id
    with reading(hub.engine) as conn:
        count = grants.count_accounts(conn, scope, asked)
        rows = grants.list_accounts(conn, scope, asked, PAGE_LINES, (number - 1) * PAGE_LINES)
    _looks(hub, caller)
    return page(
        "accounts.html",
        caller=caller,
        section="accounts",
        asked=asked,
        roles=[(each.value, t(each)) for each in ROLES],
        accounts=[AccountLine.of(each, hub) for each in rows],
        count=count,
        number=number,
        pages=max(1, -(-count // PAGE_LINES)),
        query=urlencode({"text": asked.text, "role": role or "", "state": asked.state}),
    )


@dataclass(frozen=True, slots=True)
class _Form:
    """What the form of a new account holds."""

    login: str = ""
    name: str = ""
    role: str = Role.SECRETARY.value
    organisation: str = ""
    whose: str = ""
    member: str = ""
    no_member: bool = False


@router.get("/accounts/new")
def new_account(
    caller: Granting, hub: Hub, organisation: UUID | None = None, member: UUID | None = None
) -> Response:
    """The form; of a member's account where one is named."""
    now_ms, scope = hub.clock(), caller.organisation_id
    form = _Form(organisation=caller.organisation_public_id)
    with reading(hub.engine) as conn:
        if organisation is not None:
            form = _Form(organisation=str(find_organisation(conn, scope, organisation).public_id))
        if member is not None:
            row = find_member(conn, scope, member, now_ms)
            form = _Form(
                login=row.code.casefold(),
                name=row.name,
                role=Role.MEMBER.value,
                organisation=form.organisation,
                whose=row.code,
            )
        response = _new_account(conn, caller, form, {}, ())
    if member is not None:
        hub.looks(caller, Look("account.page", member_id=row.id))
    return response


@router.post("/accounts/new")
def make_account(
    request: Request,
    caller: Granting,
    hub: Hub,
    login: Text = "",
    name: Text = "",
    role: Text = "",
    organisation: Text = "",
    whose: Text = "",
    member: Text = "",
    no_member: Text = "",
) -> Response:
    """Make it, and show the first password, once."""
    now_ms = hub.clock()
    form = _Form(login, name, role, organisation, whose, member, bool(no_member))
    errors: dict[str, object] = {}
    with reading(hub.engine) as conn:
        found, fitting = _whose(conn, caller, form, now_ms, errors)
        wanted = Role.parse(role)
        if wanted is None:
            errors["role"] = Words("请选择角色")
        if not login.strip():
            errors["login"] = Words("请填写登录名")
        refused = _new_account(conn, caller, form, errors, fitting) if errors else None
    if fitting:
        _looks(hub, caller)
    if refused is not None or wanted is None:
        return refused or Response(status_code=422)
    prepared = prepare()
    try:
        with hub.engine.begin() as conn:
            granted = grants.create_account(
                conn,
                caller,
                prepared,
                login=login,
                name=name,
                role=wanted,
                organisation=_id(organisation),
                member=found,
                no_member=form.no_member,
                now_ms=now_ms,
            )
    except AccountError as error:
        field = "whose" if error.field == "member" else error.field
        with reading(hub.engine) as conn:
            return _new_account(conn, caller, form, {field: error}, fitting)
    return _granted(request, caller, [granted])


@router.get("/accounts/branch")
def branch(caller: Granting, hub: Hub, organisation: UUID | None = None) -> Response:
    """Which members of a branch have no account."""
    with reading(hub.engine) as conn:
        waiting = None
        if organisation is not None:
            at = find_organisation(conn, caller.organisation_id, organisation)
            waiting = grants.without_account(conn, at.id, hub.clock())
        organisations = _organisations(conn, caller)
    if waiting:
        hub.looks(caller, Look("accounts.page", organisation_id=at.id))
    return page(
        "accounts-branch.html",
        caller=caller,
        section="accounts",
        organisations=organisations,
        organisation=str(organisation or ""),
        waiting=waiting,
        most=grants.MOST_AT_ONCE,
    )


@router.post("/accounts/branch")
def make_for_branch(
    request: Request, caller: Granting, hub: Hub, organisation: Text = ""
) -> Response:
    """Make an account for each of them, and show the first passwords, once."""
    if not organisation:
        return done("/accounts/branch", Words("请选择组织"), "warn")
    now_ms, named = hub.clock(), _id(organisation)
    with reading(hub.engine) as conn:
        at = find_organisation(conn, caller.organisation_id, named)
        count = len(grants.without_account(conn, at.id, now_ms))
    prepared = [prepare() for _ in range(min(count, grants.MOST_AT_ONCE))]
    with hub.engine.begin() as conn:
        granted = grants.create_member_accounts(conn, caller, named, prepared, now_ms)
    if not granted:
        return done("/accounts", Words("这个组织的党员都已有账号。"))
    return _granted(request, caller, granted)


@router.get("/accounts/{account}")
def one_account(caller: Granting, hub: Hub, account: UUID) -> Response:
    """An account: what it may do, where it is signed in, and what may be done with it."""
    now_ms = hub.clock()
    with reading(hub.engine) as conn:
        row = grants.find_account(conn, caller.organisation_id, account)
        sessions = grants.sessions_of(conn, row.id, now_ms)
    if row.member_id is not None:
        hub.looks(caller, Look("account.page", member_id=row.member_id))
    return page(
        "account.html",
        caller=caller,
        section="accounts",
        account=AccountLine.of(row, hub),
        may=ROLES[Role(row.role)],
        is_active=row.disabled_ms is None,
        is_own=row.id == caller.account_id,
        sessions=[_session(each, hub, None) for each in sessions],
    )


@router.get("/accounts/{account}/reset")
def ask_reset(caller: Granting, hub: Hub, account: UUID) -> Response:
    """Whether it is really meant."""
    with reading(hub.engine) as conn:
        row = grants.find_account(conn, caller.organisation_id, account)
    return _confirm(
        caller,
        row,
        t("重设密码"),
        t("{name}（{login}）现在的密码马上作废，所有登录都退出。", name=row.name, login=row.login),
        f"/accounts/{account}/reset",
    )


@router.post("/accounts/{account}/reset")
def reset(request: Request, caller: Granting, hub: Hub, account: UUID) -> Response:
    """Give a new first password, and show it, once."""
    with reading(hub.engine) as conn:
        grants.find_account(conn, caller.organisation_id, account)
    prepared = prepare()
    try:
        with hub.engine.begin() as conn:
            granted = grants.reset_account(conn, caller, prepared, account, hub.clock())
    except AccountError as error:
        return done(f"/accounts/{account}", error, "warn")
    return _granted(request, caller, [granted])


@router.get("/accounts/{account}/disable")
def ask_disable(caller: Granting, hub: Hub, account: UUID) -> Response:
    """Whether it is really meant."""
    with reading(hub.engine) as conn:
        row = grants.find_account(conn, caller.organisation_id, account)
        count = grants.count_made_by(conn, row.id, hub.clock())
    words = t(
        "{name}（{login}）不能再登录，现有登录马上退出；做过的事仍保留在日志里，以后可以重新启用。",
        name=row.name,
        login=row.login,
    )
    if count:
        words += t("由这个账号建立的{n}个令牌同时作废，不能恢复。", n=count)
    return _confirm(caller, row, t("停用账号"), words, f"/accounts/{account}/disable")


@router.post("/accounts/{account}/disable")
def disable(caller: Granting, hub: Hub, account: UUID) -> Response:
    """End an account, and the tokens that it made."""
    try:
        with hub.engine.begin() as conn:
            grants.disable_account(conn, caller, account, hub.clock())
    except AccountError as error:
        return done(f"/accounts/{account}", error, "warn")
    return done(f"/accounts/{account}", Words("账号已停用。"))


@router.post("/accounts/{account}/enable")
def enable(caller: Granting, hub: Hub, account: UUID) -> Response:
    """Let it sign in again."""
    try:
        with hub.engine.begin() as conn:
            grants.enable_account(conn, caller, account, hub.clock())
    except AccountError as error:
        return done(f"/accounts/{account}", error, "warn")
    return done(f"/accounts/{account}", Words("账号已重新启用，密码不变。"))


@router.post("/accounts/{account}/sign-out")
def sign_out_everywhere(request: Request, caller: Granting, hub: Hub, account: UUID) -> Response:
    """End all sessions of an account, but for the one that asks."""
    found = session(request)
    with hub.engine.begin() as conn:
        keep = None if found is None else found.key
        grants.end_all_sessions(conn, caller, account, hub.clock(), keep)
    return done(f"/accounts/{account}", Words("这个账号的登录已全部退出。"))


# --- sessions -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionLine:
    """Where somebody is signed in."""

    public_id: str
    browser: str
    since: str
    until: str
    is_this: bool


def _session(row: Row[Any], hub: Context, key: bytes | None) -> SessionLine:
    return SessionLine(
        str(row.public_id),
        browser_words(row.browser),
        f"{hub.local(row.created_ms):%m-%d %H:%M}",
        f"{hub.local(row.expires_ms):%m-%d %H:%M}",
        row.session_sha256 == key,
    )


def browser_words(text: str) -> str:
    """What a browser calls itself, as its owner would: Chrome · Windows."""
    browsers = (
        ("MicroMessenger", Words("微信")),
        ("Edg", "Edge"),
        ("Firefox", "Firefox"),
        ("Chrome", "Chrome"),
        ("Safari", "Safari"),
    )
    systems = (
        ("HarmonyOS", "HarmonyOS"),
        ("Android", Words("安卓手机")),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS", "macOS"),
        ("Linux", "Linux"),
    )
    found = [
        next((t(words) for mark, words in some if mark in text), None)
        for some in (browsers, systems)
    ]
    return " · ".join(each for each in found if each) or text[:40] or t("未知浏览器")


@router.get("/sessions")
def own_sessions(request: Request, caller: Anybody, hub: Hub) -> Response:
    """Where one is signed in oneself."""
    found = session(request)
    assert caller.account_id is not None  # noqa: S101
    with reading(hub.engine) as conn:
        rows = grants.sessions_of(conn, caller.account_id, hub.clock())
    return page(
        "sessions.html",
        caller=caller,
        section="",
        may=ROLES[caller.role],
        sessions=[_session(each, hub, found.key if found else None) for each in rows],
    )


@router.post("/sessions/{session}/end")
def end_session(caller: Anybody, hub: Hub, session: UUID) -> Response:
    """End one: of one's own, or of an account that one manages."""
    with hub.engine.begin() as conn:
        row = grants.end_one_session(
            conn, caller, session, hub.clock(), may_others=caller.may(Right.ACCESS)
        )
    is_own = row.account_id == caller.account_id
    return done("/sessions" if is_own else f"/accounts/{row.public_id}", Words("已退出这个登录。"))


# --- tokens ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenLine:
    """A token, as a list shows it."""

    public_id: str
    name: str
    role: Role
    organisation: str
    created: str
    expires: str | None
    chip: Chip
    is_valid: bool

    @classmethod
    def of(cls, each: TokenInfo, hub: Context) -> "TokenLine":
        """What may be told of a token."""
        state = each.state(hub.clock())
        chip = {
            "valid": Chip("ok", "ok", t("有效")),
            "expired": Chip("stop", "late", t("已过期")),
            "revoked": Chip("stop", "stop", t("已作废")),
        }[state]
        return cls(
            str(each.public_id),
            each.name,
            each.role,
            each.organisation,
            f"{hub.local(each.created_ms):%Y-%m-%d}",
            None if each.expires_ms is None else f"{hub.local(each.expires_ms - 1):%Y-%m-%d}",
            chip,
            state == "valid",
        )


@router.get("/tokens")
def token_list(caller: Granting, hub: Hub) -> Response:
    """The tokens of the sub-tree."""
    with reading(hub.engine) as conn:
        found = list_tokens(conn, caller.organisation_id)
    lines = [TokenLine.of(each, hub) for each in found]
    lines.sort(key=lambda each: not each.is_valid)
    return page("tokens.html", caller=caller, section="accounts", tokens=lines)


@router.get("/tokens/new")
def new_token(caller: Granting, hub: Hub) -> Response:
    """The form."""
    values = {
        "name": "",
        "role": Role.AUDITOR.value,
        "organisation": caller.organisation_public_id,
        "until": _next_year(hub),
    }
    return _new_token(hub, caller, values, {})


@router.post("/tokens/new")
def make_token(
    caller: Granting,
    hub: Hub,
    name: Text = "",
    role: Text = "",
    organisation: Text = "",
    until: Text = "",
) -> Response:
    """Make it, and show it, once."""
    now_ms = hub.clock()
    values = {"name": name, "role": role, "organisation": organisation, "until": until}
    errors: dict[str, object] = {}
    wanted, last = Role.parse(role), day_from(until.strip())
    if wanted is None or wanted is Role.MEMBER:
        errors["role"] = Words("请选择角色")
    if until.strip() and last is None:
        errors["until"] = Words("日期没有看懂，请按 2026-07-01 这样的格式填写。")
    if errors or wanted is None:
        return _new_token(hub, caller, values, errors)
    try:
        with hub.engine.begin() as conn:
            _, token = grants.create_token(
                conn,
                caller,
                name=name,
                role=wanted,
                organisation=_id(organisation),
                expires_ms=None if last is None else span_ms(last, last, hub.zone)[1],
                now_ms=now_ms,
            )
    except TokenError as error:
        field = "until" if error.field == "expires" else error.field
        return _new_token(hub, caller, values, {field: error})
    return page(
        "token-made.html",
        caller=caller,
        section="accounts",
        name=name.strip(),
        token=token,
        is_own=False,
    )


@router.get("/tokens/{token}/revoke")
def ask_revoke(caller: Granting, hub: Hub, token: UUID) -> Response:
    """Whether it is really meant."""
    with reading(hub.engine) as conn:
        row = grants.find_token(conn, caller.organisation_id, token)
    return page(
        "confirm.html",
        caller=caller,
        section="accounts",
        crumbs=[(t("账号管理"), "/accounts"), (t("令牌"), "/tokens"), (row.name, None)],
        title=t("作废令牌"),
        words=t("使用“{name}”的程序马上不能再访问。作废后不能恢复。", name=row.name),
        action=f"/tokens/{token}/revoke",
        button=t("作废"),
        back="/tokens",
        is_danger=True,
    )


@router.post("/tokens/{token}/revoke")
def revoke(caller: Granting, hub: Hub, token: UUID) -> Response:
    """End a token."""
    with hub.engine.begin() as conn:
        grants.revoke_token(conn, caller, token, hub.clock())
    return done("/tokens", Words("令牌已作废。"))


# --- one's own tokens -----------------------------------------------------------------------


@router.get("/me/tokens")
def own_tokens(caller: Own, hub: Hub) -> Response:
    """A member's own tokens."""
    return _own_tokens(hub, caller, {"name": "", "until": _next_year(hub)}, {})


@router.post("/me/tokens")
def make_own_token(caller: Own, hub: Hub, name: Text = "", until: Text = "") -> Response:
    """Make one, and show it, once."""
    values, last = {"name": name, "until": until}, day_from(until.strip())
    if until.strip() and last is None:
        words = Words("日期没有看懂，请按 2026-07-01 这样的格式填写。")
        return _own_tokens(hub, caller, values, {"until": words})
    expires_ms = None if last is None else span_ms(last, last, hub.zone)[1]
    try:
        with hub.engine.begin() as conn:
            token = grants.create_own_token(conn, caller, name, expires_ms, hub.clock())
    except TokenError as error:
        field = "until" if error.field == "expires" else "name"
        return _own_tokens(hub, caller, values, {field: error})
    return page(
        "token-made.html", caller=caller, section="own", name=name.strip(), token=token, is_own=True
    )


@router.post("/me/tokens/revoke")
def revoke_own_token(caller: Own, hub: Hub, which: Text = "") -> Response:
    """End one."""
    if not which:
        return done("/me/tokens", Words("请选择令牌"), "warn")
    with hub.engine.begin() as conn:
        grants.revoke_own_token(conn, caller, _id(which), hub.clock())
    return done("/me/tokens", Words("令牌已作废。"))


def _own_tokens(
    hub: Context, caller: Caller, values: Mapping[str, str], errors: Mapping[str, object]
) -> Response:
    assert caller.member_id is not None  # noqa: S101  Right.OWN says so
    with reading(hub.engine) as conn:
        rows = grants.own_tokens(conn, caller.member_id)
    return page(
        "own-tokens.html",
        422 if errors else 200,
        caller=caller,
        section="own",
        tab="/me/tokens",
        tokens=[TokenLine.of(TokenInfo.of(each), hub) for each in rows],
        values=values,
        errors=errors,
    )


# --- helpers --------------------------------------------------------------------------------


def typed(text: str) -> str:
    """What was typed into a filter, as far as a name can hold it."""
    return "".join(each for each in text if each.isprintable()).strip()[:_LONGEST]


def page_number(text: str) -> int:
    """The page that an address names; anything else is the first."""
    return int(text) if re.fullmatch(r"[1-9][0-9]{0,5}", text) else 1


def _id(text: str) -> UUID:
    """What a form's field names; one that no form of ours would send is 404."""
    try:
        return UUID(text)
    except ValueError:
        raise HTTPException(404) from None


def _today(hub: Context) -> date:
    return datetime.fromtimestamp(hub.clock() / 1000, hub.zone).date()


def _next_year(hub: Context) -> str:
    return (_today(hub) + timedelta(days=365)).isoformat()


def _looks(hub: Context, caller: Caller) -> None:
    """The caller is about to be shown whose accounts there are."""
    hub.looks(caller, Look("accounts.page", organisation_id=caller.organisation_id))


def _role_choices(*without: Role) -> list[tuple[str, str]]:
    return [
        (role.value, t("{role}：{may}", role=role, may=may))
        for role, may in ROLES.items()
        if role not in without
    ]


def _organisations(conn: Connection, caller: Caller) -> list[tuple[str, str]]:
    """The options of an organisation's field, each level a little further in."""
    return [
        (each.organisation.public_id, "\u3000" * each.depth + each.organisation.name)
        for each in tree(conn, caller.organisation_id)
    ]


def _whose(
    conn: Connection, caller: Caller, form: _Form, now_ms: int, errors: dict[str, object]
) -> tuple[UUID | None, tuple[tuple[str, str], ...]]:
    """The member that the form names, and who else it may mean."""
    if not form.whose.strip():
        return None, ()
    scope = caller.organisation_id
    found, count = members(conn, scope, form.whose[:_LONGEST], now_ms, limit=MOST_FITTING)
    exact = [each for each in found if each.code == form.whose.strip()]
    if exact or count == 1:
        return UUID((exact or found)[0].public_id), ()
    fitting = tuple((each.public_id, f"{each.name} {each.code}") for each in found)
    if form.member in {key for key, _ in fitting}:
        return UUID(form.member), fitting
    if not count:
        errors["whose"] = Words("没有找到这名党员")
    elif count > MOST_FITTING:
        errors["whose"] = Words("符合的人太多，请写得更完整一些")
        return None, ()
    else:
        errors["member"] = Words("有{n}人符合，请选择是哪一位", n=count)
    return None, fitting


def _new_account(
    conn: Connection,
    caller: Caller,
    form: _Form,
    errors: Mapping[str, object],
    fitting: tuple[tuple[str, str], ...],
) -> Response:
    return page(
        "account-new.html",
        422 if errors else 200,
        caller=caller,
        section="accounts",
        values=form,
        errors=errors,
        roles=_role_choices(),
        organisations=_organisations(conn, caller),
        fitting=fitting,
    )


def _new_token(
    hub: Context, caller: Caller, values: Mapping[str, str], errors: Mapping[str, object]
) -> Response:
    with reading(hub.engine) as conn:
        organisations = _organisations(conn, caller)
    return page(
        "token-new.html",
        422 if errors else 200,
        caller=caller,
        section="accounts",
        values=values,
        errors=errors,
        roles=_role_choices(Role.MEMBER),
        organisations=organisations,
    )


def _granted(request: Request, caller: Caller, granted: list[Granted]) -> Response:
    address = f"{request.url.scheme}://{request.url.netloc}"
    return page(
        "granted.html",
        caller=caller,
        section="accounts",
        granted=granted,
        address=address,
        is_lonely=is_this_machine(address),
    )


def _confirm(caller: Caller, row: Row[Any], title: str, words: str, action: str) -> Response:
    back = f"/accounts/{row.public_id}"
    return page(
        "confirm.html",
        caller=caller,
        section="accounts",
        crumbs=[(t("账号管理"), "/accounts"), (row.login, back), (title, None)],
        title=title,
        words=words,
        action=action,
        button=title,
        back=back,
        is_danger=True,
    )
