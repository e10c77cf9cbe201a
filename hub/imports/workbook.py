"""An Excel file (.xlsx, .xls and their kin) of bytes, as a `Grid`.

Promises: whatever the bytes are, the answer is a grid or problems, never an exception; a file made
to be unpacked into more than there is room for, or to take for ever, costs a process of its own and
nothing else: what that process tells is read line by line, and cut off where it is too much. Values
are read, formulas are not worked out; of several sheets the first that is visible and not empty.

Run as a program it is that process: bytes on standard input; on standard output lines of JSON, the
first an object (the sheet, or why not), then an array of cells for each row.
"""

import datetime as dt
import hashlib
import io
import json
import resource
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from threading import Timer
from typing import IO, Any, Final

from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetVisibleEnum

from hub.imports.rows import (
    MAX_CELL_CHARS,
    MAX_COLUMNS,
    MAX_ROWS,
    TITLE_ROWS,
    Grid,
    Number,
    Problem,
    grid_of,
    stripped,
)

MAX_UNPACKED_BYTES: Final = 256 << 20
_MAX_MEMORY_BYTES: Final = 2 << 30
_MAX_SECONDS: Final = 60
_MAX_LINE_BYTES: Final = 2 << 20
"""More than the longest row: of `MAX_COLUMNS` cells of `MAX_CELL_CHARS` characters of six bytes."""

_ZIP: Final = b"PK\x03\x04"
_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

_WORDS: Final = {
    "password": "文件有密码：请去掉密码后再导入",
    "broken": "不是能读的Excel文件：请用表格软件打开，另存为 .xlsx 后再导入",
    "wide": f"超过{MAX_COLUMNS}列",
    "empty": "文件是空的",
}


def is_workbook(data: bytes) -> bool:
    """Whether the bytes begin as an Excel file does."""
    return data.startswith((_ZIP, _OLE))


def read_workbook(data: bytes, problems: list[Problem]) -> Grid | None:
    """What a file holds, or None and the problems of the file itself. Takes a process."""
    refused = _refused(data)
    found: list[Problem] = []
    grid = None
    if refused is None:
        try:
            grid = _asked(data, found)
        except _RefusedError as error:
            refused = str(error)
    if refused is not None:
        found = [Problem(None, None, None, refused)]
    problems += found
    return grid


class _RefusedError(Exception):
    """Why the file as a whole is not read, in plain words."""


def _refused(data: bytes) -> str | None:
    if not data.startswith(_ZIP):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            size = sum(each.file_size for each in packed.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError):
        return _WORDS["broken"]
    if size > MAX_UNPACKED_BYTES:
        return f"解压后超过{MAX_UNPACKED_BYTES >> 20} MB：请分成几个文件"
    return None


def _asked(data: bytes, problems: list[Problem]) -> Grid | None:
    child = subprocess.Popen(
        [sys.executable, "-I", "-m", "hub.imports.workbook"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdin is not None  # noqa: S101
    assert child.stdout is not None  # noqa: S101
    too_long = Timer(2 * _MAX_SECONDS, child.kill)
    too_long.start()
    try:
        # It reads all of it before it tells anything: neither waits for the other.
        with suppress(BrokenPipeError):
            child.stdin.write(data)
        with suppress(BrokenPipeError):
            child.stdin.close()
        said = _line(child.stdout)
        if "refused" in said:
            raise _RefusedError(_WORDS[said["refused"]])
        return grid_of(_rows(child.stdout), hashlib.sha256(data).digest(), problems, said["sheet"])
    finally:
        too_long.cancel()
        child.stdout.close()
        child.kill()
        child.wait()


def _rows(told: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
    number = 0
    while (cells := _line(told)) is not None:
        number += 1
        yield (
            number,
            [cell if isinstance(cell, str) else Number.of(cell) for cell in cells],
        )


def _line(told: IO[bytes]) -> Any:
    """What the next line says; the last is null, unless the process ended before it was done."""
    line = told.readline(_MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise _RefusedError("文件太大或已损坏，读不完：请删去多余的行、列和工作表，另存后再导入")
    return json.loads(line)


# --- In the process of its own --------------------------------------------------------------


def _tell(said: Any) -> None:
    sys.stdout.buffer.write(json.dumps(said).encode() + b"\n")


def _read(data: bytes) -> None:
    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(data))
        for each in book.sheets_metadata:
            if each.visible is not SheetVisibleEnum.Visible:
                continue
            sheet = book.get_sheet_by_name(each.name)
            if sheet.end is None:
                continue
            if sheet.width > MAX_COLUMNS:
                _tell({"refused": "wide"})
                return
            _tell({"sheet": each.name[:MAX_CELL_CHARS]})
            for number, row in enumerate(sheet.iter_rows()):
                if number > MAX_ROWS + 2 * TITLE_ROWS:
                    break
                _tell([_cell(value) for value in row])
            _tell(None)
            return
    except PasswordError:
        _tell({"refused": "password"})
    except CalamineError:
        _tell({"refused": "broken"})
    else:
        _tell({"refused": "empty"})


def _cell(value: Any) -> str | float:
    match value:
        case bool():
            return "是" if value else "否"
        case int() | float():
            return value
        case dt.datetime():
            rounded = value + dt.timedelta(microseconds=500_000)
            return rounded.replace(microsecond=0).isoformat(sep=" ")
        case dt.date():
            return value.isoformat()
        case dt.time():
            return value.isoformat(timespec="minutes")
        case _:
            text = stripped(str(value))
            return text if len(text) <= MAX_CELL_CHARS else text[: MAX_CELL_CHARS - 1] + "…"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_MAX_SECONDS, _MAX_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _read(sys.stdin.buffer.read())
