"""An Excel file (.xlsx, .xls and their kin) of bytes, as a `Grid`.

Promises: whatever the bytes are, the answer is a grid or problems, never an exception; a file made
to be unpacked into more than there is room for, or to take for ever, costs a process of its own and
nothing else. Values are read, formulas are not worked out; of several sheets the first that is
visible and not empty.

Run as a program it is that process: bytes on standard input, JSON on standard output.
"""

import datetime as dt
import hashlib
import io
import json
import resource
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, Final

from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetVisibleEnum

from hub.imports.rows import MAX_COLUMNS, MAX_ROWS, TITLE_ROWS, Grid, Number, Problem, grid_of

MAX_UNPACKED_BYTES: Final = 256 << 20
_MAX_MEMORY_BYTES: Final = 2 << 30
_MAX_SECONDS: Final = 60

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
    said = _refused(data) or _asked(data)
    if isinstance(said, str):
        problems.append(Problem(None, None, None, said))
        return None
    return grid_of(_numbered(said["rows"]), hashlib.sha256(data).digest(), problems, said["sheet"])


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


def _asked(data: bytes) -> dict[str, Any] | str:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-m", "hub.imports.workbook"],
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=2 * _MAX_SECONDS,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return "文件太大或已损坏，读不完：请删去多余的行、列和工作表，另存后再导入"
    said: dict[str, Any] = json.loads(done.stdout)
    return _WORDS[said["refused"]] if "refused" in said else said


def _numbered(rows: Sequence[Sequence[str | float]]) -> Iterator[tuple[int, list[str]]]:
    for number, cells in enumerate(rows, 1):
        yield (
            number,
            [cell if isinstance(cell, str) else Number.of(cell) for cell in cells],
        )


# --- In the process of its own --------------------------------------------------------------


def _read(data: bytes) -> dict[str, Any]:
    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(data))
        for each in book.sheets_metadata:
            if each.visible is not SheetVisibleEnum.Visible:
                continue
            sheet = book.get_sheet_by_name(each.name)
            if sheet.end is None:
                continue
            if sheet.width > MAX_COLUMNS:
                return {"refused": "wide"}
            rows = []
            for row in sheet.iter_rows():
                rows.append([_cell(value) for value in row])
                if len(rows) > MAX_ROWS + 2 * TITLE_ROWS:
                    break
            return {"sheet": each.name, "rows": rows}
    except PasswordError:
        return {"refused": "password"}
    except CalamineError:
        return {"refused": "broken"}
    return {"refused": "empty"}


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
            return str(value)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_MAX_SECONDS, _MAX_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps(_read(sys.stdin.buffer.read())))
