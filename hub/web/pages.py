"""Rendering: the templates, and the page for what went wrong."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

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
_environment.globals["asset"] = {
    path.name: _asset(path.name) for path in STATIC.iterdir() if path.is_file()
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
    return HTMLResponse(render(template, **values), status, headers)


_FAILURES: Final = {
    403: ("不能这样提交", "请回到原来的页面，重新操作一次。"),
    404: ("没有找到这个页面", "地址可能有误，或者这项内容不在您的管理范围内。"),
    405: ("不能这样打开", "请从会议页面进入。"),
    413: ("提交的内容太大", "请减少内容后再试。"),
    503: ("暂时不能查询", "系统的数据库现在连不上，请稍后刷新本页；一直不行请联系技术人员。"),
}
_FAILURE: Final = ("出了点问题", "系统已记下这次错误，请稍后再试；一直不行请联系技术人员。")


def error_page(status: int, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    """What a person reads when a page cannot be shown."""
    title, words = _FAILURES.get(status, _FAILURE)
    return page("error.html", status, headers, title=title, words=words, caller=None)
