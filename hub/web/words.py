"""The language of the pages: Chinese is what is written, English is looked up beside it.

`t("共 {n} 场", n=3)` in a template or a view gives the text in the language of the visit (see
`hub.web.visit`). The Chinese is the key in english.toml; a template or view with a Chinese text
that is not given to `t`, or has no English, fails a test. What people typed in (names, titles,
reasons) is data and is never translated.
"""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Final

from hub.domain.terms import Term
from hub.domain.words import Words


class Language(StrEnum):
    """What pages can be read in."""

    ZH = "zh"
    EN = "en"

    @property
    def tag(self) -> str:
        """As `<html lang>` says it (BCP 47)."""
        return "zh-CN" if self is Language.ZH else "en"


ENGLISH: Final[Mapping[str, str]] = tomllib.loads(
    (Path(__file__).parent / "english.toml").read_text(encoding="utf-8")
)
"""Chinese template -> English template, with the same places."""

_spoken: Final = ContextVar("language", default=Language.ZH)


def spoken() -> Language:
    """The language of what is being made; Chinese unless somebody said otherwise."""
    return _spoken.get()


def speak(language: Language) -> None:
    """From here on, in this request or task, `t` speaks `language`."""
    _spoken.set(language)


@contextmanager
def speaking(language: Language) -> Iterator[None]:
    """Within it, `t` speaks `language`."""
    token = _spoken.set(language)
    try:
        yield
    finally:
        _spoken.reset(token)


def t(words: object, /, **values: object) -> str:
    """`words` in the language spoken.

    A text with `values` is a template; `Words` bring theirs along; a `Term` is its word; an
    exception says what it was raised with. A text that the catalogue does not know stays as it is:
    data, or what was translated before.
    """
    if isinstance(words, BaseException):
        words = words.args[0] if words.args else ""
    if isinstance(words, Term):
        words = words.zh
    template, inside = str(words), values
    if isinstance(words, Words):
        template, inside = words.template, {**words.values, **values}
    if spoken() is Language.EN:
        template = ENGLISH.get(template, template)
    if not inside:
        return template
    return template.format(
        **{
            name: t(each) if isinstance(each, Words | Term) else each
            for name, each in inside.items()
        }
    )


_WEEKDAYS: Final = (
    (Words("星期一"), Words("周一")),
    (Words("星期二"), Words("周二")),
    (Words("星期三"), Words("周三")),
    (Words("星期四"), Words("周四")),
    (Words("星期五"), Words("周五")),
    (Words("星期六"), Words("周六")),
    (Words("星期日"), Words("周日")),
)


def day_words(day: date) -> str:
    """A day with its year and weekday: 2026年4月24日 星期五, Friday 2026-04-24."""
    return t(
        "{year}年{month}月{day}日 {weekday}",
        year=day.year,
        month=day.month,
        day=day.day,
        weekday=t(_WEEKDAYS[day.weekday()][0]),
    )


def short_day(day: date) -> str:
    """A day without its year: 4月24日 周五, Fri 04-24."""
    return t(
        "{month}月{day}日 {weekday}",
        month=day.month,
        day=day.day,
        weekday=t(_WEEKDAYS[day.weekday()][1]),
    )
