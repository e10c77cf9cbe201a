"""What a file holds, as rows of cells that can be asked for what they should hold.

Promises: whatever stands in the cells, the answer is values or problems, never an exception; all
problems of a file are found in one reading, each with its row (as a spreadsheet counts), its
column, its value and what to do about it. It knows no kind of file and no database.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

from hub.domain.terms import Term

MAX_BYTES: Final = 32 << 20
MAX_ROWS: Final = 200_000
MAX_COLUMNS: Final = 200
MAX_CODE_CHARS: Final = 64
MAX_TEXT_CHARS: Final = 200
MAX_CELL_CHARS: Final = 1000
"""What a cell of a sheet holds beyond it is not read: no column of ours takes so much."""
MAX_WEIGHT: Final = 64 << 20
"""Of a file: its characters, each cell counting for `_CELL_WEIGHT` more. In memory it is at most
about six times as many bytes."""
_CELL_WEIGHT: Final = 16
TITLE_ROWS: Final = 10
"""So many rows of one cell each may stand above the headings: titles, as exports have them."""
PROBLEMS_HEADING: Final = "问题"
"""The column that a file of problems has besides; in a file that comes back it is passed over."""

AS_TEXT: Final = "像是被表格软件改成了数字：请将该列设为文本格式，重新填写后再上传"

_MAX_SHOWN_CHARS: Final = 60
_SPREADSHEET_NUMBER: Final = r"[0-9]+\.0*|[0-9]+\.[0-9]+[eE]\+?[0-9]+|[0-9]+[eE]\+[0-9]+"
_WHOLE: Final = 10**15
"""Below this a spreadsheet's number has lost no digit."""

T = TypeVar("T", bound=Term)


class Number(str):
    """A cell that the spreadsheet holds as a number, as text: leading zeros may be lost."""

    __slots__ = ()

    @classmethod
    def of(cls, value: float) -> "Number":
        """As a person would write it."""
        is_whole = value == value // 1 and abs(value) < _WHOLE
        return cls(int(value) if is_whole else value)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where."""

    row: int | None
    """None: the file as a whole."""
    column: str | None
    """Ours, or the file's own heading where it is none of ours. None: the row as a whole."""
    value: str | None
    message: str
    heading: str | None = None
    """What the column is called in the file, where that is another name."""

    def __str__(self) -> str:
        """One line for a person."""
        where = "" if self.row is None else f"第{self.row}行"
        where += "" if self.column is None else f" {self.heading or self.column}列"
        value = "" if self.value is None else f"“{self.value}”"
        return f"{where}{'：' if where else ''}{value}{self.message}"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that a kind of file has."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """The required ones first."""
        return self.required + self.optional


@dataclass(frozen=True, slots=True)
class Grid:
    """What a file holds, whatever its kind: headings, and the rows below that are not blank."""

    sha256: bytes
    """Of the file's bytes."""
    head: int
    """The number of the row of headings."""
    headings: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    """(the row's number, its cells); a cell may be a `Number`."""
    sheet: str | None = None
    """Of several sheets the one that was read."""
    weight: int = 0
    """See `MAX_WEIGHT`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file's columns are to be read where they are not called as ours are."""

    columns: Mapping[str, str]
    """Our column -> the heading in the file; what is not named is passed over."""
    fixed: Mapping[str, str] = field(default_factory=dict)
    """Our column -> what stands in each of its cells."""


@dataclass(slots=True)
class Row:
    """The cells of one row. What a cell cannot answer is noted as a problem, and gives None."""

    number: int
    cells: dict[str, str]
    problems: list[Problem]
    headings: Mapping[str, str] = field(default_factory=dict)
    failed: bool = field(default=False)

    def fail(self, column: str | None, message: str) -> None:
        """Note that the row cannot be taken."""
        value = None if column is None else self.cells.get(column, "")
        if value is not None and len(value) > _MAX_SHOWN_CHARS:
            value = value[:_MAX_SHOWN_CHARS] + "…"
        heading = None if column is None else self.headings.get(column)
        self.problems.append(Problem(self.number, column, value or None, message, heading))
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
            return str(value)
        return None

    def code(self, column: str, *, spaced: bool = False) -> str | None:
        """An identifier, and not something that a spreadsheet made of one.

        `spaced`: blanks may stand in it.
        """
        value = self.text(column)
        if value is None:
            return None
        if isinstance(self.cells[column], Number) or re.fullmatch(_SPREADSHEET_NUMBER, value):
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

    def word(self, column: str, words: Mapping[str, T]) -> T | None:
        """One of `words`, in any case."""
        value = self.text(column)
        if value is None:
            return None
        if value.lower() not in words:
            self.fail(column, "不认识：应为" + "、".join(words) + "之一")
            return None
        return words[value.lower()]

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
        match = re.fullmatch(_DAY + _TIME, value)
        if match is None:
            example = "2026-07-01 14:30" if timed else "2026-07-01"
            self.fail(column, f"不是日期：请按 {example} 的样子填写")
            return None
        year, month, day, *compact, hour, minute, second = match.groups()
        if year is None:
            year, month, day = compact
        if timed and hour is None:
            self.fail(column, "缺少时间：请按 2026-07-01 14:30 的样子填写")
            return None
        parts = (year, month, day, hour, minute, second)
        try:
            local = datetime(*(int(part or 0) for part in parts))  # type: ignore[arg-type]  # noqa: DTZ001
        except ValueError:
            self.fail(column, "没有这个时刻" if timed else "没有这一天")
            return None
        if not 1900 <= local.year <= 2200:
            self.fail(column, "年份应在1900到2200之间")
            return None
        return local, hour is not None

    def _utc_ms(self, column: str, local: datetime, zone: ZoneInfo) -> int | None:
        utc = local.replace(tzinfo=zone).astimezone(UTC)
        if utc.astimezone(zone).replace(tzinfo=None) != local:
            self.fail(column, f"当地（{zone.key}）没有这一时刻")
            return None
        return round(utc.timestamp()) * 1000


_DAY: Final = (
    r"(?:([0-9]{4})[-/.年]([0-9]{1,2})[-/.月]([0-9]{1,2})日?|([0-9]{4})([0-9]{2})([0-9]{2}))"
)
_TIME: Final = r"(?:[ T]+([0-9]{1,2})[:：]([0-9]{2})(?:[:：]([0-9]{2}))?)?"


def grid_of(
    rows: Iterable[tuple[int, Sequence[str]]],
    sha256: bytes,
    problems: list[Problem],
    sheet: str | None = None,
) -> Grid | None:
    """The rows with their numbers, blank ones left out, and the headings found; or a problem.

    Above the headings there may be titles: rows of one cell each.
    """
    kept: list[tuple[int, tuple[str, ...]]] = []
    weight = 0
    for number, cells in rows:
        bare = tuple(cell if isinstance(cell, Number) else stripped(str(cell)) for cell in cells)
        if not any(bare):
            continue
        weight += sum(_CELL_WEIGHT + len(cell) for cell in bare)
        if weight > MAX_WEIGHT:
            problems.append(
                Problem(
                    number,
                    None,
                    None,
                    "到这一行内容已太多：请删去不导入的列，或分成几个文件",
                )
            )
            return None
        kept.append((number, bare))
        if len(kept) > MAX_ROWS + TITLE_ROWS + 1:
            break
    if not kept:
        problems.append(Problem(None, None, None, "文件是空的"))
        return None
    at = next(
        (at for at, (_, cells) in enumerate(kept[: TITLE_ROWS + 1]) if sum(map(bool, cells)) > 1), 0
    )
    head, headings = kept[at]
    while headings and not headings[-1]:
        headings = headings[:-1]
    below = kept[at + 1 :]
    if len(below) > MAX_ROWS:
        number = below[MAX_ROWS][0]
        problems.append(Problem(number, None, None, f"超过{MAX_ROWS}行：请分成几个文件"))
        return None
    if len(headings) > MAX_COLUMNS:
        problems.append(Problem(head, None, None, f"超过{MAX_COLUMNS}列"))
        return None
    if not below:
        problems.append(Problem(None, None, None, "只有表头，没有一行内容"))
        return None
    return Grid(sha256, head, tuple(map(str, headings)), tuple(below), sheet, weight)


def stripped(cell: str) -> str:
    """A cell's text without blanks and invisible characters around it."""
    return cell.strip().strip("\N{ZERO WIDTH NO-BREAK SPACE}\N{ZERO WIDTH SPACE}")


Known = Mapping[str, Sequence[str]]
"""By our column: what else it may be called, the proper Chinese first."""


def guess(headings: Iterable[str], columns: Columns, known: Known) -> dict[str, str]:
    """Our column -> the heading that most likely means it; ambiguous ones are left out."""
    several = list(headings)
    found: dict[str, str] = {}
    for column in columns.all:
        for name in (column, *known.get(column, ())):
            meant = [each for each in several if _plain(each) == _plain(name)]
            if len(meant) == 1 and meant[0] not in found.values():
                found[column] = meant[0]
                break
    return found


def is_ours(grid: Grid, columns: Columns, known: Known) -> bool:
    """Whether every heading is ours, and none is missing."""
    return _ours(grid, columns, known, []) is not None


def rows_of(
    grid: Grid, columns: Columns, known: Known, reading: Reading | None, problems: list[Problem]
) -> list[Row]:
    """The rows, as our columns.

    `reading` None: every heading must be ours, by name or by a word of `known`, so that a slip is
    noticed. The rows share the list of problems: whatever they note is added there.
    """
    if reading is None:
        where = _ours(grid, columns, known, problems)
    else:
        where = _mapped(grid, columns, known, reading, problems)
    if where is None:
        return []
    fixed = {} if reading is None else dict(reading.fixed)
    shown = {column: grid.headings[at] for column, at in where.items()}
    for column in fixed:
        shown[column] = _called(column, known)
    headings = {column: name for column, name in shown.items() if name != column}
    rows = []
    for number, cells in grid.rows:
        inside = {column: cells[at] if at < len(cells) else "" for column, at in where.items()}
        row = Row(number, {**fixed, **inside}, problems, headings)
        if reading is None and len(cells) > len(grid.headings) and any(cells[len(grid.headings) :]):
            row.fail(None, f"有{len(cells)}格，而表头只有{len(grid.headings)}列")
        elif len(cells) < len(grid.headings):
            row.fail(None, f"只有{len(cells)}格，而表头有{len(grid.headings)}列")
        else:
            rows.append(row)
    return rows


def _ours(
    grid: Grid, columns: Columns, known: Known, problems: list[Problem]
) -> dict[str, int] | None:
    if len(grid.headings) == 1 and re.search(r"[;\t]", grid.headings[0]):
        problems.append(Problem(grid.head, None, None, "各列应以逗号分隔"))
        return None
    before = len(problems)
    words = {
        _plain(name): column
        for column in reversed(columns.all)
        for name in (column, *known.get(column, ()))
    }
    where: dict[str, int] = {}
    wrong: list[str] = []
    for at, heading in enumerate(grid.headings):
        if heading == PROBLEMS_HEADING:
            continue
        column = words.get(_plain(heading))
        shown = heading.lower()[:_MAX_SHOWN_CHARS]
        if column is None:
            names = "、".join(_called(each, known) for each in columns.all)
            hint = f"不认识这一列：只能有{names}"
            if shown not in wrong:
                problems.append(Problem(grid.head, shown or None, None, hint))
        elif column in where:
            if column not in wrong:
                problems.append(Problem(grid.head, column, None, "这一列出现了不止一次", heading))
            wrong.append(column)
        else:
            where[column] = at
            continue
        wrong.append(shown)
    problems.extend(
        Problem(grid.head, column, None, "缺少这一列", _called(column, known))
        for column in columns.required
        if column not in where
    )
    return where if len(problems) == before else None


def _mapped(
    grid: Grid, columns: Columns, known: Known, reading: Reading, problems: list[Problem]
) -> dict[str, int] | None:
    before = len(problems)
    where: dict[str, int] = {}
    for column, heading in reading.columns.items():
        if column not in columns.all:
            problems.append(Problem(None, column[:_MAX_SHOWN_CHARS], None, "没有这一列可供导入"))
        elif column in reading.fixed:
            problems.append(
                Problem(None, column, None, "既取自文件，又填了固定值", _called(column, known))
            )
        elif (times := grid.headings.count(heading)) != 1:
            message = "文件里没有这一列" if not times else "文件里有几列都叫这个名字"
            problems.append(Problem(grid.head, heading[:_MAX_SHOWN_CHARS], None, message))
        else:
            where[column] = grid.headings.index(heading)
    problems.extend(
        Problem(None, column[:_MAX_SHOWN_CHARS], None, "没有这一列可供导入")
        for column in reading.fixed
        if column not in columns.all
    )
    problems.extend(
        Problem(grid.head, column, None, "缺少这一列", _called(column, known))
        for column in columns.required
        if column not in reading.columns and column not in reading.fixed
    )
    return where if len(problems) == before else None


def _called(column: str, known: Known) -> str:
    return next(iter(known.get(column, ())), column)


def _plain(heading: str) -> str:
    """A heading without what people put around it: blanks, stars, remarks in brackets."""
    return re.sub(r"[（(【\[].*?[）)】\]]|[\s*＊:：]", "", heading).lower()
