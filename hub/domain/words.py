"""A sentence for people that can be said in another language later.

It is the Chinese text, and keeps the template and the values it was made of. Which languages there
are, and what anything is called in them, is not known here: see `hub.web.words`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

from hub.domain.terms import Term


class Words(str):
    """`Words("设备“{name}”", name="一号")`: the text 设备“一号”, with template and values.

    Places are filled as by `str.format`; a `Term` is said by its Chinese. Values may be `Words`
    or `Term`s, which are then translated with the rest; all else is said as it is.
    """

    __slots__ = ("template", "values")

    template: str
    values: Mapping[str, object]

    def __new__(cls, template: str, /, **values: object) -> Self:
        """A template without values is said as it is; KeyError for a place that has no value."""
        text = template
        if values:
            text = template.format(
                **{name: v.zh if isinstance(v, Term) else v for name, v in values.items()}
            )
        words = super().__new__(cls, text)
        words.template = template
        words.values = MappingProxyType(values)
        return words

    def __deepcopy__(self, _memo: object) -> Self:
        """Itself: nothing of it can be changed."""
        return self
