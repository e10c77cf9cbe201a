"""A CSV file of bytes, as rows of cells that can be asked for what they should hold.

Promises: whatever the bytes are, the answer is rows or problems, never an exception; all problems
of a file are found in one reading, each with its row (as a spreadsheet counts: the header is row
1), its column, its value and what to do about it. It knows no database.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

from hub.domain.terms import Term

MAX_BYTES: Final = 32 << 20
MAX_ROWS: Final = 200_000
MAX_CODE_CHARS: Final = 64
MAX_TEXT_CHARS: Final = 200
_MAX_SHOWN_CHARS: Final = 60

AS_TEXT: Final = "像是被表格软件改成了数字：请将该列设为文本格式，重新填写后再导出"

_SPREADSHEET_NUMBER: Final = r"[0-9]+\.0*|[0-9]+\.[0-9]+[eE]\+?[0-9]+|[0-9]+[eE]\+[0-9]+"

T = TypeVar("T", bound=Term)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where."""

    row: int | None
    """None: the file as a whole."""
    column: str | None
    """None: the row as a whole."""
    value: str | None
    message: str

    def __str__(self) -> str:
        """One line for a person."""
        where = "" if self.row is None else f"第{self.row}行"
        where += "" if self.column is None else f" {self.column}列"
        value = "" if self.value is None else f"“{self.value}”"
        return f"{where}{'：' if where else ''}{value}{self.message}"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that a kind of file has; more are refused, so that a slip is noticed."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


@dataclass(slots=True)
class Row:
    """The cells of one row. What a cell cannot answer is noted as a problem, and gives None."""

    number: int
    cells: dict[str, str]
    problems: list[Problem]
    failed: bool = field(default=False)

    def fail(self, column: str | None, message: str) -> None:
        """Note that the row cannot be taken."""
        value = None if column is None else self.cells.get(column, "")
        if value is not None and len(value) > _MAX_SHOWN_CHARS:
            value = value[:_MAX_SHOWN_CHARS] + "…"
        self.problems.append(Problem(self.number, column, value or None, message))
        self.failed = True

    def knows(self, column: str) -> bool:
        """Whether the file has this column: an empty cell says something, no column nothing."""
        return column in self.cells

    def has(self, column: str) -> bool:
        """Whether something stands in the cell."""
        return bool(self.cells.get(column))

    def text(self, column: str) -> str | None:
        """Any text of up to `MAX_TEXT_CHARS` characters, but not none."""
        value = self.cells.get(column, "")
        if not value:
            self.fail(column, "不能为空")
        elif len(value) > MAX_TEXT_CHARS:
            self.fail(column, f"超过{MAX_TEXT_CHARS}个字")
        elif any(ord(char) < ord(" ") for char in value):
            self.fail(column, "含有换行或控制字符")
        else:
            return value
        return None

    def code(self, column: str, *, spaced: bool = False) -> str | None:
        """An identifier, and not something that a spreadsheet made of one.

        `spaced`: blanks may stand in it.
        """
        value = self.text(column)
        if value is None:
            return None
        if re.fullmatch(_SPREADSHEET_NUMBER, value):
            self.fail(column, AS_TEXT)
        elif len(value) > MAX_CODE_CHARS:
            self.fail(column, f"超过{MAX_CODE_CHARS}个字符")
        elif not spaced and re.search(r"\s", value):
            self.fail(column, "中间不能有空格")
        else:
            return value
        return None

    def term(self, column: str, terms: type[T], default: T | None = None) -> T | None:
        """One of a closed set, by identifier or by Chinese word."""
        if default is not None and not self.has(column):
            return default
        value = self.text(column)
        if value is None:
            return None
        term = terms.parse(value)
        if term is None:
            self.fail(column, "不认识：应为" + "、".join(each.zh for each in terms) + "之一")
        return term

    def whole(self, column: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`."""
        value = self.text(column)
        if value is None:
            return None
        if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
            self.fail(column, f"应为{low}到{high}的整数")
            return None
        return int(value)

    def moment_ms(self, column: str, zone: ZoneInfo, *, timed: bool = False) -> int | None:
        """A date, meaning its beginning, or a date with a time; in local time, to UTC ms.

        `timed`: the time of day must be given.
        """
        parsed = self._local(column, timed=timed)
        return None if parsed is None else self._utc_ms(column, parsed[0], zone)

    def end_ms(self, column: str, zone: ZoneInfo) -> int | None:
        """The end of a validity: a date counts with its whole day, a time is the moment after.

        None, without a problem, where the cell is empty: until further notice.
        """
        if not self.has(column):
            return None
        parsed = self._local(column, timed=False)
        if parsed is None:
            return None
        local, has_time = parsed
        return self._utc_ms(column, local if has_time else local + timedelta(days=1), zone)

    def _local(self, column: str, *, timed: bool) -> tuple[datetime, bool] | None:
        value = self.text(column)
        if value is None:
            return None
        match = re.fullmatch(
            r"([0-9]{4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,2})"
            r"(?:[ T]+([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?)?",
            value,
        )
        if match is None:
            example = "2026-07-01 14:30" if timed else "2026-07-01"
            self.fail(column, f"不是日期：请按 {example} 的样子填写")
            return None
        has_time = match[4] is not None
        if timed and not has_time:
            self.fail(column, "缺少时间：请按 2026-07-01 14:30 的样子填写")
            return None
        try:
            local = datetime(*(int(part or 0) for part in match.groups()))  # type: ignore[arg-type]  # noqa: DTZ001
        except ValueError:
            self.fail(column, "没有这一天或这一时刻")
            return None
        if not 1900 <= local.year <= 2200:
            self.fail(column, "年份应在1900到2200之间")
            return None
        return local, has_time

    def _utc_ms(self, column: str, local: datetime, zone: ZoneInfo) -> int | None:
        utc = local.replace(tzinfo=zone).astimezone(UTC)
        if utc.astimezone(zone).replace(tzinfo=None) != local:
            self.fail(column, f"当地（{zone.key}）没有这一时刻")
            return None
        return round(utc.timestamp()) * 1000


def read_csv(data: bytes, columns: Columns) -> tuple[list[Row], list[Problem]]:
    """The rows of a file, blank ones left out, and the problems of the file itself.

    The rows share the list of problems: whatever they note is added there.
    """
    problems: list[Problem] = []
    text = _decode(data, problems)
    if text is None:
        return [], problems
    rows: list[Row] = []
    names: list[str] | None = None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 0
    try:
        for number, cells in enumerate(reader, 1):
            stripped = [cell.strip() for cell in cells]
            if not any(stripped):
                continue
            if names is None:
                names = _header(number, stripped, columns, problems)
                if names is None:
                    return [], problems
                continue
            if len(rows) >= MAX_ROWS:
                problems.append(Problem(number, None, None, f"超过{MAX_ROWS}行：请分成几个文件"))
                return [], problems
            row = Row(number, dict(zip(names, stripped, strict=False)), problems)
            if len(stripped) > len(names) and any(stripped[len(names) :]):
                row.fail(None, f"有{len(stripped)}格，而表头只有{len(names)}列")
            elif len(stripped) < len(names):
                row.fail(None, f"只有{len(stripped)}格，而表头有{len(names)}列")
            else:
                rows.append(row)
    except csv.Error as error:
        problems.append(
            Problem(number + 1, None, None, f"不是正确的CSV（引号不成对，或一格过长）：{error}")
        )
        return [], problems
    if names is None:
        problems.append(Problem(None, None, None, "文件是空的"))
    elif not rows and not problems:
        problems.append(Problem(None, None, None, "只有表头，没有一行内容"))
    return rows, problems


def _decode(data: bytes, problems: list[Problem]) -> str | None:
    if len(data) > MAX_BYTES:
        problems.append(Problem(None, None, None, f"文件超过{MAX_BYTES >> 20} MB：请分成几个文件"))
    elif data.startswith(b"PK\x03\x04"):
        problems.append(Problem(None, None, None, "这是Excel文件：请另存为“CSV UTF-8”"))
    elif data.startswith((b"\xff\xfe", b"\xfe\xff")):
        problems.append(Problem(None, None, None, "文件是UTF-16编码：请另存为“CSV UTF-8”"))
    elif b"\0" in data:
        problems.append(Problem(None, None, None, "文件含有零字节，不是文本文件"))
    else:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            row = data.count(b"\n", 0, error.start) + 1
            problems.append(
                Problem(row, None, None, "不是UTF-8编码：请在表格软件中另存为“CSV UTF-8”")
            )
    return None


def _header(
    number: int, cells: Sequence[str], columns: Columns, problems: list[Problem]
) -> list[str] | None:
    names = [cell.lower() for cell in cells]
    while names and not names[-1]:
        names.pop()
    known = columns.required + columns.optional
    if len(names) == 1 and re.search(r"[;\t]", names[0]):
        problems.append(Problem(number, None, None, "各列应以逗号分隔"))
        return None
    found = len(problems)
    problems.extend(
        Problem(number, name, None, "缺少这一列") for name in columns.required if name not in names
    )
    for name in dict.fromkeys(names):
        if name not in known:
            hint = f"不认识这一列：只能有{'、'.join(known)}"
            problems.append(Problem(number, name[:_MAX_SHOWN_CHARS] or None, None, hint))
        elif names.count(name) > 1:
            problems.append(Problem(number, name, None, "这一列出现了不止一次"))
    return names if len(problems) == found else None
