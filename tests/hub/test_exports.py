"""Files for a spreadsheet: read back by a reader that is not ours, whatever was typed in."""

import csv
import io
import tracemalloc
import zipfile
from collections.abc import Iterator

import pytest
from python_calamine import CalamineWorkbook

from hub.exports import LONGEST_CELL, FileFormat, inert, table_file

EVIL = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2",
    "@SUM(A1)",
    "＝1",
    "＋1",
    "－1",
    "＠x",
    "\t=1",
    "\r=1",
    "\n=1",
    '=HYPERLINK("http://x.example","y")',
    "http://x.example",
    "mailto:x@y.example",
    "{=1}",
    "0012",
    "330102199001011234",
    '引号"，逗号,\n换行',
    "\x01\x0b",
]
ABOVE = [["期间", "2026-01-01"], ["=导出人", "=2+2"]]
TITLES = ["编号", "姓名", "次数"]


def read(form: FileFormat, rows: list[list[str | int]]) -> bytes:
    with table_file(form, "考勤", ABOVE, TITLES, rows) as file:
        return file.read()


def test_csv_is_rfc_4180_with_its_mark_and_no_formula() -> None:
    content = read(FileFormat.CSV, [[each, "名", 3] for each in EVIL])
    assert content.startswith(b"\xef\xbb\xbf")
    text = content.decode("utf-8-sig")
    assert text.endswith("\r\n")
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert {len(row) for row in rows} == {3}
    assert rows[:3] == [["期间", "2026-01-01", ""], ["'=导出人", "'=2+2", ""], TITLES]
    for (cell, name, taps), evil in zip(rows[3:], EVIL, strict=True):
        assert (name, taps) == ("名", "3")
        assert cell in {evil, f"'{evil}"}
        assert cell[0] not in "=+-@＝＋－＠\t\r\n"


def test_xlsx_holds_texts_as_texts_and_numbers_as_numbers() -> None:
    content = read(FileFormat.XLSX, [[each, "名", 3] for each in EVIL])
    book = CalamineWorkbook.from_filelike(io.BytesIO(content))
    assert book.sheet_names == ["考勤"]
    rows = book.get_sheet_by_index(0).to_python()
    assert rows[1][:2] == ["=导出人", "=2+2"]
    assert rows[2] == TITLES
    for (cell, name, taps), evil in zip(rows[3:], EVIL, strict=True):
        assert (name, taps) == ("名", 3.0)
        assert isinstance(cell, str)
        if evil.isprintable():
            assert cell == evil
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        sheet = parts.read("xl/worksheets/sheet1.xml").decode()
        assert "<f>" not in sheet
        assert "<hyperlink" not in sheet
        assert not any("externalLink" in name for name in parts.namelist())


def test_a_text_that_no_cell_holds_is_cut() -> None:
    content = read(FileFormat.XLSX, [["x" * (LONGEST_CELL + 5), "", 0]])
    rows = CalamineWorkbook.from_filelike(io.BytesIO(content)).get_sheet_by_index(0).to_python()
    assert len(rows[3][0]) == LONGEST_CELL


@pytest.mark.parametrize("form", FileFormat)
def test_memory_does_not_grow_with_the_rows(form: FileFormat) -> None:
    def peak(count: int) -> int:
        def rows() -> Iterator[list[str | int]]:
            for number in range(count):
                yield [f"编号 {number}", f"一个名字 {number}" * 3, number]

        tracemalloc.start()
        with table_file(form, "考勤", ABOVE, TITLES, rows()):
            found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = peak(4000), peak(16_000)
    assert large < small + 100_000


@pytest.mark.parametrize("form", FileFormat)
def test_a_failure_leaves_no_file_open(form: FileFormat) -> None:
    def rows() -> Iterator[list[str | int]]:
        yield ["a", "b", 1]
        raise RuntimeError("database away")

    with pytest.raises(RuntimeError, match="database away"):
        table_file(form, "考勤", ABOVE, TITLES, rows())


def test_inert_changes_nothing_else() -> None:
    for text in ("", "李名", "1-2", "a=b", "'x", " =x"):
        assert inert(text) == text
