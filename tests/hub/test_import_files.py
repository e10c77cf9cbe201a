"""Excel or CSV, our headings or others': the same rows, or the reason why not."""

import io
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select
from xlsxwriter import Workbook

from hub.imports.draft import State
from hub.imports.files import read_file
from hub.imports.plan import Asked, NotPreviewedError, Report, apply, import_file, plan
from hub.imports.rows import AS_TEXT, Grid, Number, Problem, Reading, guess, rows_of
from hub.imports.sheets import template, told_xlsx
from hub.imports.words import COLUMNS, EXPLAINED, HEADINGS, Register, allowed
from hub.store import schema as s
from hub.store.engine import reading
from tests.hub.test_imports import NOW, held, take_all

DAY, MOMENT, TEXT = "yyyy-mm-dd", "yyyy-mm-dd hh:mm", "@"


def sheet(rows: Sequence[Sequence[Any]], at: tuple[int, int] = (0, 0), **more: Any) -> bytes:
    """An .xlsx; a cell is a value, or (value, number format)."""
    out = io.BytesIO()
    with Workbook(out, {"in_memory": True}) as book:
        for name, several in {"一": rows, **more}.items():
            page = book.add_worksheet(name)
            if name == "hidden":
                page.hide()
            for down, cells in enumerate(several, at[0]):
                for right, cell in enumerate(cells, at[1]):
                    value, shown = cell if isinstance(cell, tuple) else (cell, "General")
                    held_as = book.add_format({"num_format": shown})
                    page.write(down, right, value, held_as)
    return out.getvalue()


def _at(day: int, hour: int, minute: int) -> tuple[datetime, str]:
    return datetime(2026, 7, day, hour, minute), MOMENT  # noqa: DTZ001  as a sheet has it


def grid_of(data: bytes) -> Grid:
    found: list[Problem] = []
    grid = read_file(data, found)
    assert grid is not None, found
    return grid


def problems_of(data: bytes) -> list[str]:
    found: list[Problem] = []
    assert read_file(data, found) is None
    return [str(each) for each in found]


def where(report: Report) -> list[tuple[int | None, str | None]]:
    return [(each.row, each.column) for each in report.problems]


# --- Excel ----------------------------------------------------------------------------------


def test_cells_of_a_sheet_say_what_a_person_sees() -> None:
    grid = grid_of(
        sheet(
            [
                ["党员名册"],
                [],
                ["文字", "整数", "小数", "日期", "时刻", "是否", "公式", "错误", "空", "钟点"],
                [
                    ("0012", TEXT),
                    5,
                    5.5,
                    (date(2026, 7, 1), DAY),
                    _at(1, 14, 30),
                    True,
                    "=1+1",
                    "  两边有空格\u3000",
                    "",
                    (time(9, 5), "hh:mm"),
                ],
                [],
                [("尾", TEXT)],
            ],
            at=(1, 2),
        )
    )
    assert (grid.head, grid.sheet, grid.headings[0]) == (4, "一", "文字")
    [first, last] = grid.rows
    rest = ("0", "两边有空格", "", "09:05")
    assert first == (
        5,
        ("0012", "5", "5.5", "2026-07-01", "2026-07-01 14:30:00", "是", *rest),
    )
    assert [isinstance(cell, Number) for cell in first[1][:4]] == [False, True, True, False]
    assert last[0] == 7


@pytest.mark.parametrize(
    ("register", "rows", "where_wrong"),
    [
        (Register.VENUES, [["编号", "名称", "组织"], [12, "会场", "jia"]], [(2, "code")]),
        (
            Register.VENUES,
            [["编号", "名称", "组织"], [330102199001011234, "会场", "jia"]],
            [(2, "code")],
        ),
        (
            Register.VENUES,
            [["编号", "名称", "组织"], [("3.30102E+17", TEXT), "会场", 7]],
            [(2, "code"), (2, "organisation")],
        ),
        (
            Register.CARDS,
            [
                ["card", "member", "format", "number", "from"],
                [("n1", TEXT), "m1", "dec10", 1234567890, (date(2026, 1, 1), DAY)],
            ],
            [(2, "number")],
        ),
        (Register.VENUES, [["编号", "名称", "组织"], [("12", TEXT), 2026, "jia"]], []),
        (
            Register.MEMBERS,
            [
                ["党员编号", "姓名", "所在党支部", "转入日期", "党员类别"],
                ["m8", "八", "甲村党支部", (date(2026, 7, 1), DAY), "预备党员"],
                ["m9", "九", "甲村党支部", 20260701, "正式党员"],
                ["m10", "十", "甲村党支部", "2026年7月1日", "有"],
            ],
            [],
        ),
        (
            Register.MEMBERS,
            [["党员编号", "姓名", "组织", "开始日期"], ["m8", "八", "jia", 46204]],
            [(2, "from")],
        ),
        (
            Register.MEETINGS,
            [
                [*(names[0] for names in HEADINGS[Register.MEETINGS].values())],
                [
                    *("h1", "jia", "党课", "课", "礼堂"),
                    _at(3, 14, 30),
                    _at(3, 16, 0),
                    5,
                ],
            ],
            [],
        ),
        (
            Register.MEETINGS,
            [
                [*(names[0] for names in HEADINGS[Register.MEETINGS].values())],
                [*("h1", "jia", "党课", "课", "礼堂", (date(2026, 7, 3), DAY), "", 5.5)],
            ],
            [(2, "end"), (2, "grace_minutes"), (2, "start")],
        ),
    ],
)
def test_what_excel_made_a_number_is_no_code_and_a_count_or_date_is_what_it_says(
    engine: Engine,
    register: Register,
    rows: list[list[Any]],
    where_wrong: list[tuple[int | None, str | None]],
) -> None:
    with engine.begin() as conn:
        take_all(conn)
        report = import_file(conn, register, sheet(rows), NOW)
        assert where(report) == where_wrong, [str(each) for each in report.problems]
        assert where_wrong or report.added == len(rows) - 1
        if (2, "code") in where_wrong or (2, "number") in where_wrong:
            assert AS_TEXT in "".join(str(each) for each in report.problems)
            assert "请将该列设为文本格式" in AS_TEXT


def test_excel_and_csv_say_the_same(engine: Engine) -> None:
    rows = [
        ["党员编号", "姓名", "组织编号", "开始日期", "表决权", "结束日期"],
        ["m8", "八", "jia", "2026-07-01", "无", ""],
        ["m9", "九", "jia", "2026-07-01", "", "2027-01-01"],
    ]
    text = "".join(",".join(cells) + "\n" for cells in rows)
    with engine.begin() as conn:
        take_all(conn)
        assert import_file(conn, Register.MEMBERS, sheet(rows), NOW).added == 2
        before = held(conn)
        votes = select(s.memberships.c.votes).join(s.members).where(s.members.c.code == "m8")
        assert conn.scalar(votes) is False
        again = import_file(conn, Register.MEMBERS, text.encode(), NOW)
        assert (again.unchanged, again.problems) == (2, ())
        assert held(conn) == before


def test_of_several_sheets_the_first_that_can_be_seen_and_holds_something_is_read() -> None:
    data = sheet([], hidden=[["a", "b"], [1, 2]], 三=[["编号", "名称"], ["x", "y"]], 四=[["z"]])
    assert grid_of(data).sheet == "三"
    assert grid_of(data).rows == ((2, ("x", "y")),)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"PK\x03\x04" + b"x" * 100, "不是能读的Excel"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(4000), "不是能读的Excel"),
        (sheet([]), "空的"),
        (sheet([["编号", "名称"]]), "只有表头"),
        (sheet([["列"] * 201, ["格"] * 201]), "200列"),
    ],
)
def test_a_workbook_that_cannot_be_read_is_told_why(data: bytes, word: str) -> None:
    [problem] = problems_of(data)
    assert word in problem


def _zipped(parts: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    return out.getvalue()


def _with_first_sheet(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(sheet([["编号", "名称"], ["x", "y"]]))) as packed:
        parts = {name: packed.read(name) for name in packed.namelist()}
    return _zipped({**parts, "xl/worksheets/sheet1.xml": content})


def test_a_file_made_to_fill_the_memory_is_refused_and_the_hub_lives() -> None:
    bomb = _with_first_sheet(b" " * (300 << 20))
    assert len(bomb) < 1 << 20
    assert "解压后超过256 MB" in problems_of(bomb)[0]
    # One cell in each of two far corners: sixteen thousand million of them between.
    far = io.BytesIO()
    with Workbook(far, {"in_memory": True}) as book:
        page = book.add_worksheet()
        page.write(0, 0, "编号")
        page.write(1_048_575, 16_383, "x")
    assert "读不完" in problems_of(far.getvalue())[0]
    # A size that the directory of the archive lies about.
    lying = bytearray(_with_first_sheet(b"<x>" + b" " * (300 << 20)))
    size = (300 << 20) + 3
    real, small = size.to_bytes(4, "little"), (1000).to_bytes(4, "little")
    assert real in lying
    assert problems_of(bytes(lying).replace(real, small))


def _repeating(rows: int, columns: int, text: str) -> bytes:
    """A sheet whose cells are all one text, which the file holds once."""
    with zipfile.ZipFile(io.BytesIO(sheet([["x"]]))) as packed:
        parts = {name: packed.read(name) for name in packed.namelist()}
    cell = '<c r="{}{}" t="s"><v>0</v></c>'
    lines = (
        f'<row r="{row}">'
        + "".join(cell.format(chr(ord("A") + column), row) for column in range(columns))
        + "</row>"
        for row in range(1, rows + 1)
    )
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    parts["xl/worksheets/sheet1.xml"] = (
        f"<worksheet {space}><sheetData>{''.join(lines)}</sheetData></worksheet>"
    ).encode()
    parts["xl/sharedStrings.xml"] = f"<sst {space}><si><t>{text}</t></si></sst>".encode()
    return _zipped(parts)


_WITH_LITTLE_MEMORY = """
import resource, sys
from hub.imports.files import read_file
data = sys.stdin.buffer.read()
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + (int(sys.argv[1]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
problems = []
grid = read_file(data, problems)
print(*problems, None if grid is None else len(grid.rows))
"""


def _with_little_memory(data: bytes, megabytes: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _WITH_LITTLE_MEMORY, str(megabytes)],
        input=data,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-300:]
    return done.stdout.decode().strip()


def test_a_small_file_that_says_one_long_text_often_takes_no_memory_of_the_hubs() -> None:
    bomb = _repeating(300, 2, "长" * 400_000)
    assert len(bomb) < 20_000
    assert _with_little_memory(bomb, 100) == "299"
    cells = grid_of(bomb).rows[0][1]
    assert [len(cell) for cell in cells] == [1000, 1000]
    assert cells[0].endswith("长…"), "that something is missing can be seen"


def test_a_file_of_too_many_cells_is_refused_while_it_is_read() -> None:
    # 240,000 cells of a thousand characters each.
    bomb = _repeating(12_000, 20, "长" * 1000)
    assert len(bomb) < 2_000_000
    assert "内容已太多" in _with_little_memory(bomb, 400)
    text = "编号,名称\n" + ",".join(["ab"] * 4_000_000)
    assert "第2行：到这一行内容已太多" in problems_of(text.encode())[0]


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.binary(max_size=300), st.integers(0, 10_000))
def test_no_workbook_is_too_broken(junk: bytes, at: int) -> None:
    whole = sheet([["编号", "名称"], ["x", "y"]])
    found: list[Problem] = []
    spoilt = whole[: at % len(whole)] + junk + whole[at % len(whole) + len(junk) :]
    assert read_file(b"PK\x03\x04" + spoilt[4:], found) is not None or found


# --- Columns --------------------------------------------------------------------------------

EXPORT = [
    ["某区党员名册"],
    ["序号", "姓 名", "性别", "党员编号（必填）", "所在党支部", "进入当前支部日期", "备注", "备注"],
    ["1", "八", "女", "m8", "甲村党支部", "2026.07.01", "x", "y"],
    ["2", "九", "男", "m9", "甲村党支部", "2026/7/1", "", ""],
]


def test_a_list_as_people_have_it_is_read_by_a_mapping_that_is_guessed(engine: Engine) -> None:
    grid = grid_of(sheet(EXPORT))
    columns = guess(grid.headings, COLUMNS[Register.MEMBERS], HEADINGS[Register.MEMBERS])
    assert columns == {
        "code": "党员编号（必填）",
        "name": "姓 名",
        "organisation": "所在党支部",
        "from": "进入当前支部日期",
    }
    with engine.begin() as conn:
        take_all(conn)
        strict = apply(conn, Asked(Register.MEMBERS, grid), NOW)
        assert [(each.row, each.column) for each in strict.problems] == [
            (2, "备注"),
            (2, "序号"),
            (2, "性别"),
        ]
        report = apply(conn, Asked(Register.MEMBERS, grid, Reading(columns)), NOW)
        assert (report.problems, report.added) == ((), 2)


def test_what_a_list_does_not_say_can_be_said_for_all_its_rows(engine: Engine) -> None:
    grid = grid_of(sheet([["姓名", "编号"], ["八", "m8"], ["九", "m9"]]))
    fixed = {"organisation": "jia", "from": "2026-07-01", "body": "委员"}
    with engine.begin() as conn:
        take_all(conn)
        asked = Asked(Register.MEMBERS, grid, Reading({"code": "编号", "name": "姓名"}, fixed))
        assert apply(conn, asked, NOW).added == 2
        wrong = Reading({"code": "编号", "name": "姓名"}, {**fixed, "from": "昨天"})
        report = plan(conn, Asked(Register.MEMBERS, grid, wrong), NOW)
        assert where(report) == [(2, "from"), (3, "from")]
        assert "开始日期" in str(report.problems[0])


@pytest.mark.parametrize(
    ("columns", "fixed", "where_wrong"),
    [
        ({"code": "编号"}, {}, [(1, "name"), (1, "organisation")]),
        ({"code": "编号", "name": "无此列", "organisation": "组织"}, {}, [(1, "无此列")]),
        ({"code": "编号", "name": "名", "organisation": "组织"}, {}, [(1, "名")]),
        (
            {"code": "编号", "name": "组织", "colour": "组织"},
            {"organisation": "jia"},
            [(0, "colour")],
        ),
        (
            {"code": "编号", "name": "组织"},
            {"code": "x", "organisation": "jia", "shape": ""},
            [(0, "code"), (0, "shape")],
        ),
    ],
)
def test_a_mapping_that_does_not_fit_is_told_why(
    columns: dict[str, str], fixed: dict[str, str], where_wrong: list[tuple[int, str]]
) -> None:
    grid = grid_of(sheet([["编号", "名", "名", "组织"], ["x", "y", "z", "jia"]]))
    found: list[Problem] = []
    register = Register.VENUES
    reading = Reading(columns, fixed)
    assert rows_of(grid, COLUMNS[register], HEADINGS[register], reading, found) == []
    assert sorted((each.row or 0, each.column) for each in found) == where_wrong


@pytest.mark.parametrize("register", list(Register))
def test_every_column_has_a_chinese_name_of_its_own_and_an_explanation(register: Register) -> None:
    columns = COLUMNS[register].all
    assert set(columns) == set(HEADINGS[register]) == set(EXPLAINED[register])
    official = [HEADINGS[register][column][0] for column in columns]
    assert len(set(official)) == len(official)
    assert guess(official, COLUMNS[register], HEADINGS[register]) == dict(
        zip(columns, official, strict=True)
    )
    for column in columns:
        others = {name for each in columns if each != column for name in HEADINGS[register][each]}
        assert not others & {HEADINGS[register][column][0]}, column


# --- Preview and files that are given out ---------------------------------------------------


def test_a_preview_says_what_would_be_done_and_writes_nothing(engine: Engine) -> None:
    rows = [
        ["编号", "姓名", "组织", "开始日期", "结束日期"],
        ["m1", "李一", "jia", "2020-01-01", ""],
        ["m2", "王二", "jia", "2020-01-01", "2026-01-01"],
        ["m8", "八", "jia", "2026-07-01", ""],
    ]
    asked = Asked(Register.MEMBERS, grid_of(sheet(rows)))
    seen: list[tuple[int, int]] = []
    with engine.begin() as conn:
        take_all(conn)
        before = held(conn)
    with reading(engine) as conn:
        report = plan(
            conn, asked, NOW, progress=lambda done, all_rows: seen.append((done, all_rows))
        )
        assert held(conn) == before
    assert seen == [(0, 3)]
    assert (report.added, report.changed, report.unchanged) == (1, 1, 1)
    assert [(each.row, each.state, each.changed) for each in report.lines] == [
        (3, State.CHANGED, ("to",)),
        (4, State.ADDED, ()),
        (2, State.UNCHANGED, ()),
    ]
    assert report.lines[0].cells["name"] == "王二"
    with engine.begin() as conn:
        done = apply(conn, asked, NOW, digest=report.digest)
        assert (done.added, done.changed) == (1, 1)
        other = Asked(Register.MEMBERS, grid_of(sheet([*rows, rows[-1]])))
        for each in (other, Asked(asked.register, asked.grid, renames=True)):
            with pytest.raises(NotPreviewedError, match="重新预览"):
                apply(conn, each, NOW, digest=report.digest)


def test_problems_come_back_in_the_file_and_it_can_be_corrected_there(engine: Engine) -> None:
    rows = [
        ["名册"],
        ["编号", "姓名", "组织", "开始日期"],
        ["m8", "=HYPERLINK(1)", "nowhere", (date(2026, 7, 1), DAY)],
        ["m9", "九", "jia", "昨天"],
    ]
    with engine.begin() as conn:
        take_all(conn)
        data = sheet([[cell if cell != rows[2][1] else "x" for cell in row] for row in rows])
        grid = grid_of(data)
        report = plan(conn, Asked(Register.MEMBERS, grid), NOW)
        back = grid_of(told_xlsx(grid, report.problems))
        assert back.headings == ("问题", "编号", "姓名", "组织", "开始日期")
        assert [cells[1:] for _, cells in back.rows] == [
            ("m8", "x", "nowhere", "2026-07-01"),
            ("m9", "九", "jia", "昨天"),
        ]
        assert "没有这个编号的组织" in back.rows[0][1][0]
        assert "组织：" in back.rows[0][1][0]
        assert "不是日期" in back.rows[1][1][0]
        again = plan(conn, Asked(Register.MEMBERS, back), NOW)
        assert where(again) == [(2, "organisation"), (3, "from")]
        # And once more: the column is there once.
        twice = grid_of(told_xlsx(back, again.problems))
        assert twice.headings == back.headings
        assert "没有这个编号的组织" in twice.rows[0][1][0]
        right = [["旧的话", "m8", "八", "jia", "2026-07-01"], ["", "m9", "九", "jia", "2026-07-01"]]
        corrected = sheet([[*back.headings], *right])
        assert import_file(conn, Register.MEMBERS, corrected, NOW).added == 2


def test_what_is_given_out_holds_no_formula() -> None:
    grid = grid_of('编号,名称\n"=1+1",＝cmd\n@x,+1\n'.encode())
    out = told_xlsx(grid, [Problem(None, None, None, "整个文件的问题")])
    with zipfile.ZipFile(io.BytesIO(out)) as packed:
        assert b"<f>" not in packed.read("xl/worksheets/sheet1.xml")
    assert grid_of(out).rows[0][1] == ("整个文件的问题", "=1+1", "＝cmd")


@pytest.mark.parametrize("register", list(Register))
def test_a_template_is_read_as_the_register_it_is_for(register: Register, tmp_path: Path) -> None:
    data = template(register)
    assert problems_of(data) == ["只有表头，没有一行内容"]
    from python_calamine import CalamineWorkbook

    book = CalamineWorkbook.from_filelike(io.BytesIO(data))
    assert book.sheet_names == [register.zh, "填写说明"]
    told = book.get_sheet_by_index(1).to_python()[1:]
    assert len(told) == len(COLUMNS[register].all)
    # The examples, filled in below the headings, are understood.
    headings = book.get_sheet_by_index(0).to_python()[0]
    grid = grid_of(sheet([headings, [str(row[4]) for row in told]]))
    found: list[Problem] = []
    [row] = rows_of(grid, COLUMNS[register], HEADINGS[register], None, found)
    assert found == []
    for column in COLUMNS[register].all:
        words = allowed(register, column)
        assert not words or row.cells[column] in words
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        assert b'formatCode="@"' in packed.read("xl/styles.xml") or b'numFmtId="49"' in packed.read(
            "xl/styles.xml"
        )


@pytest.mark.parametrize("register", list(Register))
def test_the_examples_of_the_templates_fit_together(engine: Engine, register: Register) -> None:
    """The seven of them, in order, are a small district."""
    with engine.begin() as conn:
        conn.execute(
            s.devices.insert().values(
                public_id=s.new_public_id(), name="村部一号", status="PENDING"
            )
        )
        top = [
            ["组织编号", "组织名称", "组织类型", "上级组织编号"],
            ["DW001", "某镇党委", "党委", ""],
        ]
        assert import_file(conn, Register.ORGANISATIONS, sheet(top), NOW).added == 1
        for each in Register:
            columns = COLUMNS[each].all
            rows = [
                [HEADINGS[each][column][0] for column in columns],
                [EXPLAINED[each][column][1] for column in columns],
            ]
            report = import_file(conn, each, sheet(rows), NOW)
            assert (report.problems, report.added) == ((), 1), each
            if each is register:
                break
        assert conn.scalar(select(func.count()).select_from(s.organisations)) == 2
