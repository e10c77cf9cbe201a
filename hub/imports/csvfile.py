"""A CSV file of bytes, as a `Grid`.

Promises: whatever the bytes are, the answer is a grid or problems, never an exception.
"""

import csv
import hashlib
import io
from collections.abc import Iterator

from hub.imports.rows import Grid, Problem, grid_of


def read_csv(data: bytes, problems: list[Problem]) -> Grid | None:
    """What a file holds, or None and the problems of the file itself."""
    text = _decode(data, problems)
    if text is None:
        return None
    try:
        return grid_of(_lines(text), hashlib.sha256(data).digest(), problems)
    except _NoCsvError as error:
        problems.append(
            Problem(error.row, None, None, f"不是正确的CSV（引号不成对，或一格过长）：{error}")
        )
        return None


class _NoCsvError(Exception):
    def __init__(self, row: int, why: csv.Error) -> None:
        self.row = row
        super().__init__(str(why))


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    number = 0
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), 1):
            yield number, cells
    except csv.Error as error:
        raise _NoCsvError(number + 1, error) from error


def _decode(data: bytes, problems: list[Problem]) -> str | None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        problems.append(Problem(None, None, None, "文件是UTF-16编码：请另存为“CSV UTF-8”"))
    elif b"\0" in data:
        problems.append(Problem(None, None, None, "文件含有零字节，不是文本文件"))
    else:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            row = data.count(b"\n", 0, error.start) + 1
            problems.append(
                Problem(
                    row,
                    None,
                    None,
                    "不是UTF-8编码：请直接导入Excel文件，或在表格软件中另存为“CSV UTF-8”",
                )
            )
    return None
