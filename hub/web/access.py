"""Signing in and out, the first run, and one's own password.

The first run makes the administrator and the district, once: it needs the code that `serve` writes
to its log for as long as there is no account.
"""

import hmac
import re
from typing import Annotated, Final

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import Connection, insert, select

from hub import audit
from hub.auth.accounts import (
    AccountError,
    BusyError,
    SignInError,
    add_account,
    as_login,
    change_password,
    check_password,
    has_accounts,
    hash_password,
    lock_accounts,
    sign_in,
)
from hub.auth.sessions import COOKIE, SESSION_MS, begin_session, end_session
from hub.context import Context, Hub, NotSignedInError, session
from hub.domain.terms import OrgKind, Role
from hub.domain.words import Words
from hub.store import schema as s
from hub.store.engine import reading
from hub.web.pages import page
from hub.web.visit import done

Text = Annotated[str, Form()]

router = APIRouter(include_in_schema=False)

_REFUSED: Final = Words(
    "登录名或密码不对，请核对后重新输入。连续输错多次会暂时锁定：请过几分钟再试，或请管理员重设密码。"
)
_BUSY: Final = Words("现在登录的人太多，请过几秒再试。")
BUSY_S: Final = 5
"""When to come again."""
_CODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def local_path(path: str) -> str:
    r"""`path` if it is one of this site's, otherwise the start page.

    A browser reads `//host` and `/\host` as another site, and leaves out tabs and line ends.
    """
    return path if re.fullmatch(r"/(?:[!-.0-\[\]-~][!-\[\]-~]*)?", path) else "/"


@router.get("/sign-in")
def sign_in_page(request: Request, hub: Hub, next: str = "/") -> Response:  # noqa: A002  as in the address
    """Where login and password are typed in; who is signed in already goes on."""
    back = local_path(next)
    if session(request) is not None:
        return RedirectResponse(back, 303)
    with reading(hub.engine) as conn:
        is_new = not has_accounts(conn)
    return page("sign-in.html", caller=None, back=back, problem=None, login="", is_new=is_new)


@router.post("/sign-in")
def sign_in_here(
    request: Request,
    hub: Hub,
    login: Text = "",
    password: Text = "",
    next: Text = "/",  # noqa: A002
) -> Response:
    """Begin a session."""
    back, now_ms = local_path(next), hub.clock()
    try:
        found = sign_in(hub.engine, login, password, now_ms)
    except SignInError:
        # The same for all: whether there is an account of this login is nobody's business.
        return _not_signed_in(403, back, login, _REFUSED)
    except BusyError:
        response = _not_signed_in(503, back, login, _BUSY)
        response.headers["Retry-After"] = str(BUSY_S)
        return response
    account_id = found.caller.account_id
    assert account_id is not None  # noqa: S101
    with hub.engine.begin() as conn:
        old = request.cookies.get(COOKIE)
        if old is not None:
            end_session(conn, old)
        cookie = begin_session(conn, account_id, request.headers.get("user-agent", ""), now_ms)
        audit.record(
            conn,
            found.caller,
            "session.begin",
            found.caller.organisation_id,
            "account",
            None,
            now_ms,
            **({"failures": found.failures} if found.failures else {}),
        )
    return _with_cookie(RedirectResponse(back, 303), request, cookie)


def _not_signed_in(status: int, back: str, login: str, problem: Words) -> Response:
    return page(
        "sign-in.html", status, caller=None, back=back, problem=problem, login=login, is_new=False
    )


@router.post("/sign-out")
def sign_out(request: Request, hub: Hub) -> Response:
    """End the session."""
    cookie = request.cookies.get(COOKIE)
    # Whoever has no session must not wait for, nor take, the database's write lock.
    found = session(request)
    if cookie is not None and found is not None:
        at = found.caller.organisation_id
        with hub.engine.begin() as conn:
            end_session(conn, cookie)
            audit.record(conn, found.caller, "session.end", at, "account", None, hub.clock())
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(
        COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return response


# --- The first run --------------------------------------------------------------------------


@router.get("/first-run")
def first_run_page(hub: Hub, code: str = "") -> Response:
    """The form that makes the administrator and the district."""
    _must_be_first(hub)
    return _first_run(200, {"code": code}, {})


@router.post("/first-run")
def first_run(
    request: Request,
    hub: Hub,
    code: Text = "",
    district: Text = "",
    district_code: Text = "",
    name: Text = "",
    login: Text = "",
    password: Text = "",
    again: Text = "",
) -> Response:
    """Make both, and sign in."""
    _must_be_first(hub)
    now_ms = hub.clock()
    values = {
        "code": code,
        "district": district.strip(),
        "district_code": district_code.strip(),
        "name": name,
        "login": login,
    }
    errors: dict[str, object] = {}
    if not hmac.compare_digest(code.strip().encode(), hub.first_run_code.encode()):
        errors["code"] = Words("启动码不对：它写在服务启动时的日志里")
    if not 1 <= len(values["district"]) <= 200 or not values["district"].isprintable():
        errors["district"] = Words("请填写区县党委的名称")
    if not _CODE.fullmatch(values["district_code"]):
        errors["district_code"] = Words("编号只用字母、数字和 . _ -，最多64个")
    if password != again:
        errors["again"] = Words("两次输入的密码不一样")
    if errors:
        return _first_run(422, values, errors)
    try:
        check_password(password, as_login(login))
        hashed = hash_password(password)
        with hub.engine.begin() as conn:
            lock_accounts(conn)
            if has_accounts(conn):
                raise HTTPException(404)
            organisation_id = _district(conn, values["district_code"], values["district"])
            add_account(
                conn,
                login=login,
                name=name,
                role=Role.OPERATOR,
                organisation_id=organisation_id,
                member_id=None,
                hashed=hashed,
                must_change=False,
                now_ms=now_ms,
            )
            account_id = conn.scalars(select(s.accounts.c.id)).one()
            cookie = begin_session(conn, account_id, request.headers.get("user-agent", ""), now_ms)
            made = conn.execute(select(s.accounts)).one()
            who = audit.Newcomer(made.name, made.id, organisation_id)
            audit.record(
                conn, who, "hub.first_run", organisation_id, "account", made.public_id, now_ms
            )
    except AccountError as error:
        field = "password" if error.field == "new" else error.field
        return _first_run(422, values, {field: error})
    return _with_cookie(
        done("/", Words("管理员账号已建立。下一步：导入组织和党员。")), request, cookie
    )


def _must_be_first(hub: Context) -> None:
    with reading(hub.engine) as conn:
        if has_accounts(conn):
            raise HTTPException(404)


def _first_run(status: int, values: dict[str, str], errors: dict[str, object]) -> Response:
    shown = {"code": "", "district": "", "district_code": "", "name": "", "login": "", **values}
    return page("first-run.html", status, caller=None, values=shown, errors=errors)


def _district(conn: Connection, code: str, name: str) -> int:
    """The organisation of this code, made where there is none."""
    known = conn.scalar(select(s.organisations.c.id).where(s.organisations.c.code == code))
    if known is not None:
        return int(known)
    made: int = conn.execute(
        insert(s.organisations)
        .values(public_id=s.new_public_id(), code=code, name=name, kind=OrgKind.COMMITTEE.value)
        .returning(s.organisations.c.id)
    ).scalar_one()
    return made


# --- One's own password ---------------------------------------------------------------------


@router.get("/password")
def password_page(request: Request) -> Response:
    """The form that replaces one's own password."""
    found = session(request)
    if found is None:
        raise NotSignedInError(request)
    return page("password.html", caller=found.caller, section="", must=found.must_change, errors={})


@router.post("/password")
def password(
    request: Request, hub: Hub, old: Text = "", new: Text = "", again: Text = ""
) -> Response:
    """Replace it; all other sessions of the account end."""
    found = session(request)
    if found is None:
        raise NotSignedInError(request)
    errors: dict[str, object] = {}
    if new != again:
        errors["again"] = Words("两次输入的密码不一样")
    else:
        try:
            change_password(
                hub.engine, found.caller, old, new, keep_session=found.key, now_ms=hub.clock()
            )
        except AccountError as error:
            errors[error.field] = error
    if errors:
        return page(
            "password.html",
            422,
            caller=found.caller,
            section="",
            must=found.must_change,
            errors=errors,
        )
    return done("/", Words("密码已修改，其他设备上的登录已全部退出。"))


def _with_cookie(response: RedirectResponse, request: Request, cookie: str) -> Response:
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=SESSION_MS // 1000,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response
