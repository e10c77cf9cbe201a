"""Importing registers from Excel or CSV, step by step: file, columns, preview, result.

Nothing is written before the last step, and then all of it or nothing. A person has one file on
its way at a time; it is worked on beside the requests (`hub.imports.jobs`), and a page that waits
for it comes again by itself.
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Final

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, page_right
from hub.domain.words import Words
from hub.exports import FileFormat, download
from hub.imports.jobs import WORKING, BusyError, Desk, Job, Stage
from hub.imports.rows import MAX_BYTES, MAX_ROWS, Grid, Problem, Reading
from hub.imports.sheets import MAY_BE_EMPTY, template, told_xlsx
from hub.imports.words import COLUMNS, EXPLAINED, HEADINGS, Register, allowed
from hub.store import schema as s
from hub.store.engine import reading as reading_of
from hub.web.pages import page
from hub.web.visit import done
from hub.web.words import t

PATIENCE_S: Final = 1.5
"""So long a request waits for what is mostly done by then."""
REFRESH: Final = {"Refresh": "2"}
SHOWN_PROBLEMS: Final = 100
_SAMPLE_ROWS: Final = 3
_LONGEST_NAME: Final = 200

Asking = Annotated[Caller, Depends(page_right(Right.PEOPLE))]

router = APIRouter(include_in_schema=False)


def _desk(request: Request) -> Desk:
    found = request.app.state.desk
    assert isinstance(found, Desk)  # noqa: S101
    return found


Desks = Annotated[Desk, Depends(_desk)]


def _register(register: str) -> Register:
    try:
        return Register(register)
    except ValueError:
        raise HTTPException(404) from None


What = Annotated[Register, Depends(_register)]


@router.get("/imports")
def imports(caller: Asking, desk: Desks) -> Response:
    """What can be imported, in the order in which a new district does it."""
    return page(
        "imports.html", caller=caller, section="imports", registers=Register, job=desk.of(caller)
    )


@router.get("/imports/work")
def work(caller: Asking, desk: Desks, hub: Hub) -> Response:
    """How far the file is: being read, waiting for a decision, or done."""
    job = desk.of(caller)
    if job is None:
        return page("import-none.html", caller=caller, section="imports")
    job = replace(job)  # as it is now: the thread goes on
    if job.stage in WORKING:
        return page(
            "import-waiting.html", headers=REFRESH, caller=caller, section="imports", job=job
        )
    if job.stage is Stage.COLUMNS:
        return RedirectResponse("/imports/work/columns", 303)
    problems = [*job.problems, *(job.report.problems if job.report is not None else ())]
    headings = HEADINGS[job.register]
    return page(
        "import-work.html",
        caller=caller,
        section="imports",
        job=job,
        report=job.report,
        problems=problems[:SHOWN_PROBLEMS],
        count=len(problems),
        columns=[(column, headings[column][0]) for column in _shown(job)],
        named={column: headings[column][0] for column in headings},
        following=_following(job.register, hub),
    )


def _shown(job: Job) -> list[str]:
    """Our columns that the file has."""
    if job.report is None or not job.report.lines:
        return []
    return [each for each in COLUMNS[job.register].all if each in job.report.lines[0].cells]


def _following(register: Register, hub: Context) -> Register | None:
    """What a new district imports next; where devices stand, only once there is one."""
    several = list(Register)
    after = several[several.index(register) + 1 :]
    if after and after[0] is Register.PLACEMENTS:
        with reading_of(hub.engine) as conn:
            if conn.scalar(select(s.devices.c.id).limit(1)) is None:
                after = after[1:]
    return after[0] if after else None


@router.get("/imports/work/columns")
def columns_page(caller: Asking, desk: Desks) -> Response:
    """Which of the file's columns is which of ours."""
    job = desk.of(caller)
    if job is None or job.grid is None or job.stage in WORKING:
        return RedirectResponse("/imports/work", 303)
    reading = job.columns or Reading({})
    values = {f"from-{column}": heading for column, heading in reading.columns.items()}
    values |= {f"all-{column}": value for column, value in reading.fixed.items()}
    return _columns_form(caller, job, job.grid, values, {}, renames=job.renames)


@router.post("/imports/work/columns")
async def choose_columns(request: Request, caller: Asking, desk: Desks) -> Response:
    """Read the file's columns so, and look at its rows."""
    async with request.form(max_files=0, max_fields=100) as form:
        values = {name: text.strip() for name, text in form.items() if isinstance(text, str)}
    job = desk.of(caller)
    if job is None or job.grid is None or job.stage in WORKING:
        return RedirectResponse("/imports/work", 303)
    columns: dict[str, str] = {}
    fixed: dict[str, str] = {}
    errors: dict[str, Words] = {}
    for column in COLUMNS[job.register].all:
        heading, value = values.get(f"from-{column}", ""), values.get(f"all-{column}", "")
        if heading and value:
            errors[f"all-{column}"] = Words("选了文件里的列，就不要再填统一的内容。")
        elif heading and heading not in _choices(job.grid):
            errors[f"from-{column}"] = Words("文件里没有这一列，请重新选择。")
        elif heading:
            columns[column] = heading
        elif value or column in MAY_BE_EMPTY.get(job.register, ()):
            fixed[column] = value
        elif column in COLUMNS[job.register].required:
            errors[f"from-{column}"] = (
                Words("请选择文件里的一列。")
                if column in _EACH_ITS_OWN.get(job.register, ())
                else Words("请选择文件里的一列；文件里没有的，在旁边填各行都相同的内容。")
            )
    renames = "renames" in values
    if errors:
        return _columns_form(caller, job, job.grid, values, errors, renames=renames)
    desk.check(caller, job, Reading(columns, fixed), renames=renames)
    return await _settled(job)


_EACH_ITS_OWN: Final[Mapping[Register, frozenset[str]]] = {
    Register.ORGANISATIONS: frozenset({"code", "name"}),
    Register.MEMBERS: frozenset({"code", "name"}),
    Register.OFFICES: frozenset({"member"}),
    Register.VENUES: frozenset({"code", "name"}),
    Register.PLACEMENTS: frozenset({"device"}),
    Register.CARDS: frozenset({"card", "member", "number"}),
    Register.MEETINGS: frozenset({"code"}),
}
"""Columns in which no two rows say the same, so that nothing is offered for all of them."""


def _choices(grid: Grid) -> list[str]:
    """The headings that name one column."""
    return [each for each in grid.headings if each and grid.headings.count(each) == 1]


def _columns_form(
    caller: Caller,
    job: Job,
    grid: Grid,
    values: Mapping[str, str],
    errors: Mapping[str, Words],
    *,
    renames: bool,
) -> Response:
    columns = COLUMNS[job.register]
    used = {values.get(f"from-{column}") for column in columns.all}
    named = {column: HEADINGS[job.register][column][0] for column in columns.all}
    return page(
        "import-columns.html",
        422 if errors else 200,
        caller=caller,
        section="imports",
        job=job,
        grid=grid,
        columns=[
            (
                column,
                HEADINGS[job.register][column][0],
                column in columns.required
                and column not in MAY_BE_EMPTY.get(job.register, frozenset()),
                EXPLAINED[job.register][column][0],
                column not in _EACH_ITS_OWN.get(job.register, ()),
            )
            for column in columns.all
        ],
        fields=[
            *((f"from-{column}", t(name)) for column, name in named.items()),
            *((f"all-{column}", t(name)) for column, name in named.items()),
        ],
        options=[(each, each) for each in _choices(grid)],
        unused=[each for each in grid.headings if each and each not in used],
        sample=[cells for _, cells in grid.rows[:_SAMPLE_ROWS]],
        values=values,
        errors=errors,
        renames=renames,
    )


@router.post("/imports/work/take")
async def take(request: Request, caller: Asking, desk: Desks) -> Response:
    """Write what was previewed."""
    async with request.form(max_files=0, max_fields=10) as form:
        digest = form.get("digest")
    job = desk.of(caller)
    if job is not None and isinstance(digest, str):
        desk.take(caller, job, digest)
        return await _settled(job)
    return RedirectResponse("/imports/work", 303)


@router.post("/imports/work/drop")
def drop(caller: Asking, desk: Desks) -> Response:
    """Forget the file."""
    desk.close(caller)
    return done("/imports", Words("已放弃，没有导入任何内容。"))


@router.get("/imports/work/problems")
def problems_file(caller: Asking, desk: Desks) -> Response:
    """The file as it came, with a column that says what is wrong in each row."""
    job = desk.of(caller)
    if job is None or job.grid is None or job.report is None:
        raise HTTPException(404)
    problems: tuple[Problem, ...] = job.report.problems
    file = io.BytesIO(told_xlsx(job.grid, problems))
    return download(file, FileFormat.XLSX, f"{t(job.register)}-{t('有问题')}")


@router.get("/imports/{register}")
def upload_page(caller: Asking, register: What) -> Response:
    """Where a file is chosen, and what it should hold."""
    return _upload_form(caller, register, None)


def _upload_form(caller: Caller, register: Register, error: Words | None) -> Response:
    columns = COLUMNS[register]
    return page(
        "import-upload.html",
        200 if error is None else 422,
        caller=caller,
        section="imports",
        register=register,
        columns=[
            (
                HEADINGS[register][column][0],
                column in columns.required
                and column not in MAY_BE_EMPTY.get(register, frozenset()),
                EXPLAINED[register][column][0],
                allowed(register, column),
                EXPLAINED[register][column][1],
            )
            for column in columns.all
        ],
        errors={} if error is None else {"file": error},
        most_mb=MAX_BYTES >> 20,
        most_rows=MAX_ROWS,
    )


@router.get("/imports/{register}/template")
def template_file(_caller: Asking, register: What) -> Response:
    """An empty file to fill in."""
    return download(io.BytesIO(template(register)), FileFormat.XLSX, t(register))


@router.post("/imports/{register}")
async def upload(request: Request, caller: Asking, register: What, desk: Desks) -> Response:
    """Read a file and look at its rows; nothing is written yet."""
    async with request.form(max_files=1, max_fields=10) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile) or not file.size:
            return _upload_form(caller, register, Words("请先选择一个文件。"))
        data = await run_in_threadpool(file.file.read, MAX_BYTES + 1)
        name = (file.filename or "")[-_LONGEST_NAME:]
    try:
        job = desk.open(caller, register, name, data)
    except BusyError:
        return _upload_form(
            caller,
            register,
            Words("现在正在导入的人太多，或您的上一个文件还没处理完：请过一会儿再试。"),
        )
    return await _settled(job)


async def _settled(job: Job) -> Response:
    """To the page of the job, once it is done or has taken a while."""
    await run_in_threadpool(job.settled.wait, PATIENCE_S)
    return RedirectResponse("/imports/work", 303)
