"""Tables as files for a spreadsheet: CSV (RFC 4180, UTF-8 with its mark) and xlsx.

Promises: rows are written as they come, none is held; no cell is ever a formula, a link or a number
that was a text, whatever somebody has typed in; above the table stands what it is of. The file is
on the disk without a name, and is gone when it is closed.
"""

import csv
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import IO, Final, assert_never
from urllib.parse import quote

import xlsxwriter
from fastapi.responses import StreamingResponse

BEGINS_A_FORMULA: Final = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
LONGEST_CELL: Final = 32_767
"""Characters that a cell of a spreadsheet holds."""
_CHUNK: Final = 64 * 1024
_WIDEST: Final = 40

Cell = str | int


class FileFormat(StrEnum):
    """What can be had."""

    CSV = "csv"
    XLSX = "xlsx"

    @property
    def media_type(self) -> str:
        """As HTTP calls it."""
        match self:
            case FileFormat.CSV:
                return "text/csv; charset=utf-8"
            case FileFormat.XLSX:
                return "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
            case _:
                assert_never(self)


def inert(cell: str) -> str:
    """`cell` so that no spreadsheet takes it for a formula."""
    return f"'{cell}" if cell.startswith(BEGINS_A_FORMULA) else cell


def table_file(
    form: FileFormat,
    sheet: str,
    above: Sequence[Sequence[str]],
    titles: Sequence[str],
    rows: Iterable[Sequence[Cell]],
) -> IO[bytes]:
    """The table in a file, open at its beginning; `above`: lines of name and value over it."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  closed by whoever sends it
    try:
        match form:
            case FileFormat.CSV:
                _write_csv(file, above, titles, rows)
            case FileFormat.XLSX:
                _write_xlsx(file, sheet, above, titles, rows)
            case _:
                assert_never(form)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def download(file: IO[bytes], form: FileFormat, name: str) -> StreamingResponse:
    """An answer that sends the file and closes it. `name` is without its ending."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}.{form}",
        "Content-Length": str(size),
    }
    return StreamingResponse(_pieces(file), 200, headers, form.media_type)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(_CHUNK):
            yield piece


def _write_csv(
    file: IO[bytes],
    above: Sequence[Sequence[str]],
    titles: Sequence[str],
    rows: Iterable[Sequence[Cell]],
) -> None:
    text = io.TextIOWrapper(file, "utf-8-sig", newline="", write_through=False)
    writer = csv.writer(text)

    def write(row: Sequence[Cell]) -> None:
        # Each line has as many fields as the table, as RFC 4180 wants it.
        cells = [inert(cell) if isinstance(cell, str) else cell for cell in row]
        writer.writerow([*cells, *[""] * (len(titles) - len(cells))])

    for line in above:
        write(line)
    write(titles)
    for row in rows:
        write(row)
    text.detach()  # flushes


def _write_xlsx(
    file: IO[bytes],
    sheet: str,
    above: Sequence[Sequence[str]],
    titles: Sequence[str],
    rows: Iterable[Sequence[Cell]],
) -> None:
    options = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_numbers": False,
        "strings_to_urls": False,
    }
    with xlsxwriter.Workbook(file, options) as book:
        page = book.add_worksheet(sheet)
        bold = book.add_format({"bold": True})
        title = book.add_format({"bold": True, "bg_color": "#F5F5F5", "bottom": 1})
        # In constant memory, whatever is of the whole sheet comes before its rows.
        page.set_landscape()
        page.set_paper(9)
        page.fit_to_pages(1, 0)
        page.repeat_rows(len(above))
        page.freeze_panes(len(above) + 1, 0)
        for column, name in enumerate(titles):
            page.set_column(column, column, min(_WIDEST, max(10, 4 * len(name))))
        for number, (name, *values) in enumerate(above):
            page.write_string(number, 0, name, bold)
            for column, value in enumerate(values, 1):
                page.write_string(number, column, value[:LONGEST_CELL])
        for column, name in enumerate(titles):
            page.write_string(len(above), column, name, title)
        for number, row in enumerate(rows, len(above) + 1):
            for column, cell in enumerate(row):
                if isinstance(cell, int):
                    page.write_number(number, column, cell)
                else:
                    page.write_string(number, column, cell[:LONGEST_CELL])
