"""Excel files to hand out: a template to fill in, and a file given back with what is wrong in it.

Promises: every cell is text, a date or a number; none is a formula, whatever stands in it. Codes
and card numbers stand in columns of the text format, so that a spreadsheet leaves them alone.
"""

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from xlsxwriter import Workbook

from hub.imports.rows import PROBLEMS_HEADING, Grid, Problem
from hub.imports.words import COLUMNS, EXPLAINED, HEADINGS, Kind, Register, allowed, kind_of

_FORMATS: Final = {
    Kind.TEXT: "@",
    Kind.DAY: "yyyy-mm-dd",
    Kind.MOMENT: "yyyy-mm-dd hh:mm",
    Kind.NUMBER: "0",
}
_ROWS: Final = 1000
"""So many rows of a template offer the words to choose from."""


def template(register: Register) -> bytes:
    """An empty .xlsx with the register's headings, and a sheet that explains them."""
    out = io.BytesIO()
    columns = COLUMNS[register]
    with _workbook(out) as book:
        head = book.add_format({"bold": True, "bg_color": "#FFF1F0", "border": 1})
        sheet = book.add_worksheet(register.zh)
        sheet.freeze_panes(1, 0)
        for at, column in enumerate(columns.all):
            held = book.add_format({"num_format": _FORMATS[kind_of(column)]})
            sheet.set_column(at, at, 20, held)
            sheet.write_string(0, at, HEADINGS[register][column][0], head)
            words = allowed(register, column)
            if words:
                sheet.data_validation(1, at, _ROWS, at, {"validate": "list", "source": [*words]})
        told = book.add_worksheet("填写说明")
        wrapped = book.add_format({"text_wrap": True, "valign": "top", "num_format": "@"})
        for at, (name, width) in enumerate(
            (("列名", 18), ("是否必填", 10), ("怎样填", 56), ("可填的词", 40), ("示例", 24))
        ):
            told.set_column(at, at, width, wrapped)
            told.write_string(0, at, name, head)
        for at, column in enumerate(columns.all, 1):
            meaning, example = EXPLAINED[register][column]
            needed = "必填" if column in columns.required else "可不填"
            if column in MAY_BE_EMPTY.get(register, ()):
                needed = "可空着"
            choice = "、".join(allowed(register, column))
            for where, text in enumerate(
                (HEADINGS[register][column][0], needed, meaning, choice, example)
            ):
                told.write_string(at, where, text, wrapped)
    return out.getvalue()


MAY_BE_EMPTY: Final[Mapping[Register, frozenset[str]]] = {
    Register.ORGANISATIONS: frozenset({"parent"}),
    Register.CARDS: frozenset({"member", "from"}),
}
"""Columns that must be there, and in which nothing need stand."""


def told_xlsx(grid: Grid, problems: Iterable[Problem]) -> bytes:
    """The file's rows as they came, with a first column 问题 that says what is wrong in each.

    It can be corrected and imported as it is.
    """
    out = io.BytesIO()
    with _workbook(out) as book:
        head = book.add_format({"bold": True, "bg_color": "#FFF1F0", "border": 1})
        text = book.add_format({"num_format": "@"})
        wrong = book.add_format({"num_format": "@", "font_color": "#A8071A", "text_wrap": True})
        sheet = book.add_worksheet("请改正后再导入")
        sheet.freeze_panes(1, 1)
        sheet.set_column(0, 0, 60, wrong)
        sheet.set_column(1, len(grid.headings), 20, text)
        for number, cells in enumerate(_told(grid, problems)):
            for at, cell in enumerate(cells):
                held = head if number == 0 else wrong if at == 0 else text
                sheet.write_string(number, at, cell, held)
    return out.getvalue()


def _told(grid: Grid, problems: Iterable[Problem]) -> Iterable[Sequence[str]]:
    said: dict[int | None, list[str]] = defaultdict(list)
    for each in problems:
        value = "" if each.value is None else f"“{each.value}”"
        column = "" if each.column is None else f"{each.heading or each.column}："
        said[each.row].append(f"{column}{value}{each.message}")
    whole = said.get(None, []) + said.get(grid.head, [])
    width = len(grid.headings)
    # A file that was given out before has the column already.
    kept = [at for at in range(width) if grid.headings[at] != PROBLEMS_HEADING]
    yield [PROBLEMS_HEADING, *(grid.headings[at] for at in kept)]
    for at, (number, cells) in enumerate(grid.rows):
        here = [*(whole if at == 0 else ()), *said.get(number, ())]
        padded = [*map(str, cells), *[""] * (width - len(cells))]
        yield ["；".join(here), *(padded[each] for each in kept), *padded[width:]]


def _workbook(out: io.BytesIO) -> Any:
    return Workbook(
        out,
        {
            # A row at a time: nothing is held of a long file.
            "constant_memory": True,
            "strings_to_formulas": False,
            "strings_to_urls": False,
            "strings_to_numbers": False,
        },
    )
