"""Rendering: the templates, and the page for what went wrong.

The language and what else the visit brings is known to every template, see `hub.web.visit`.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hub.auth.callers import Caller
from hub.domain.words import Words
from hub.web.navigation import navigation
from hub.web.visit import here, left_notice
from hub.web.words import spoken, t

HERE: Final = Path(__file__).parent
STATIC: Final = HERE / "static"


def _asset(name: str) -> str:
    """The address of a static file; it changes with the content, so it can be cached for good."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


_environment: Final = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_environment.globals |= {
    "asset": {
        path.name: _asset(path.relative_to(STATIC).as_posix())
        for path in STATIC.rglob("*")
        if path.is_file()
    },
    "t": t,
    "spoken": spoken,
    "here": here,
    "left_notice": left_notice,
}


def render(template: str, **values: Any) -> str:
    """A template's text; a value that it uses and is not given is an error."""
    return _environment.get_template(template).render(**values)


def page(
    template: str,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **values: Any,
) -> HTMLResponse:
    """A page from a template; see `render`."""
    values = {"nav": navigation(values.get("caller")), **values}
    return HTMLResponse(render(template, **values), status, headers)


_FAILURES: Final = {
    403: (
        Words("没有权限"),
        Words("您的账号不能做这件事。确实需要的，请联系管理员。"),
    ),
    404: (Words("没有找到这个页面"), Words("地址可能有误，或者这项内容不在您的管理范围内。")),
    405: (Words("不能这样打开"), Words("请从会议页面进入。")),
    413: (Words("提交的内容太大"), Words("请减少内容后再试。")),
    503: (
        Words("暂时不能查询"),
        Words("系统的数据库现在连不上，请稍后刷新本页；一直不行请联系技术人员。"),
    ),
}
_FAILURE: Final = (
    Words("出了点问题"),
    Words("系统已记下这次错误，请稍后再试；一直不行请联系技术人员。"),
)


_FOREIGN: Final = (
    Words("没有提交"),
    Words("这次提交不是从本系统的页面发出的。请回到原来的页面，重新操作一次。"),
)


def error_page(
    status: int,
    headers: Mapping[str, str] | None = None,
    *,
    caller: Caller | None = None,
    is_foreign: bool = False,
) -> HTMLResponse:
    """What a person reads when a page cannot be shown.

    `caller`: who is signed in, where that is known; `is_foreign`: a form came from another site.
    """
    title, words = _FOREIGN if is_foreign else _FAILURES.get(status, _FAILURE)
    return page("error.html", status, headers, title=title, words=words, caller=caller, section="")
