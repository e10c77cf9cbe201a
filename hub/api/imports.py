"""`/api/v1/imports`: a register from an Excel or CSV file, all of it or nothing."""

import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from hub.api.models import Out, Problem
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, api_right
from hub.imports.files import read_file
from hub.imports.jobs import BusyError, Desk, record
from hub.imports.plan import Asked, Report, apply, plan
from hub.imports.rows import MAX_BYTES, Reading
from hub.imports.rows import Problem as Wrong
from hub.imports.words import Register
from hub.store.engine import reading

MAX_PROBLEMS: Final = 1000
_LONGEST_NAME: Final = 200
_RETRY_AFTER: Final = {"Retry-After": "30"}

Asking = Annotated[Caller, Depends(api_right(Right.PEOPLE))]

router = APIRouter(prefix="/api/v1")


class ImportProblemOut(Out):
    """What is wrong, and where."""

    row: int | None = Field(description="As a spreadsheet counts; null: the file as a whole.")
    column: str | None = Field(description="By its name in the documentation, where it has one.")
    heading: str | None = Field(description="What the file calls the column, if otherwise.")
    value: str | None
    message: str = Field(description="In Chinese, as people who keep the lists read it.")


class ImportRefused(Problem):
    """Nothing was taken."""

    problems: list[ImportProblemOut] = Field(
        default=[], description=f"What is wrong with the file, up to {MAX_PROBLEMS}."
    )


class ImportOut(Out):
    """What an import did, or with `dry_run` would do."""

    dry_run: bool
    rows: int
    added: int
    changed: int
    unchanged: int


_FILE: Final = {"type": "string", "format": "binary", "contentMediaType": "text/csv"}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": f"The file, up to {MAX_BYTES >> 20} MB.",
        "content": {
            "text/csv": {"schema": _FILE},
            "application/octet-stream": {"schema": _FILE},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": _FILE,
                        "columns": {
                            "type": "string",
                            "description": "Where the file's headings are others: a JSON object,"
                            " our column -> heading. Columns that are not named are passed over.",
                        },
                        "fixed": {
                            "type": "string",
                            "description": "With `columns`: a JSON object, our column -> what"
                            " stands in all its rows.",
                        },
                    },
                }
            },
        },
    }
}


@router.post(
    "/imports/{register}",
    tags=["registers"],
    response_model=ImportOut,
    openapi_extra=_BODY,
    responses={
        400: {"model": Problem, "description": "The form cannot be read."},
        401: {"model": Problem, "description": "No token, or one that does not hold."},
        403: {"model": Problem, "description": "The token's role may not do this."},
        413: {"model": Problem, "description": "The file is too large."},
        422: {"model": ImportRefused, "description": "Nothing was taken; it is said why."},
        503: {
            "model": Problem,
            "description": "Too many import now: try again after as many seconds as `Retry-After`"
            " says. Or the database cannot be used now.",
        },
    },
)
async def import_register(
    request: Request,
    caller: Asking,
    hub: Hub,
    register: Register,
    dry_run: Annotated[bool, Query(description="Only say what it would do.")] = False,
    renames: Annotated[
        bool, Query(description="Members: a name that differs is a new name.")
    ] = False,
) -> Response:
    """Take a file into a register, all of it or nothing; the same again changes nothing.

    Only organisations of the token's sub-tree are known. Columns: see docs/operations.md. The hub
    takes one file at a time, those of its pages included; a request waits a while for its turn.
    """
    columns, name = None, ""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1, max_fields=2) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise HTTPException(422, "file: is missing")
            data = await run_in_threadpool(file.file.read, MAX_BYTES + 1)
            name = (file.filename or "")[-_LONGEST_NAME:]
            columns = _reading(form.get("columns"), form.get("fixed"))
    else:
        data = await request.body()
    try:
        answer = await run_in_threadpool(
            _answer,
            hub,
            request.app.state.desk,
            caller,
            register,
            data,
            name,
            columns,
            dry_run=dry_run,
            renames=renames,
        )
    except BusyError:
        raise HTTPException(503, "other imports are being done; try again", _RETRY_AFTER) from None
    return JSONResponse(answer.model_dump(), 422 if isinstance(answer, ImportRefused) else 200)


def _reading(columns: Any, fixed: Any) -> Reading | None:
    if columns is None:
        if fixed is not None:
            raise HTTPException(422, "fixed: goes with columns")
        return None
    return Reading(_object("columns", columns), _object("fixed", "{}" if fixed is None else fixed))


def _object(name: str, text: Any) -> dict[str, str]:
    try:
        found: Any = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise HTTPException(422, f"{name}: is no JSON object of strings")
    return found


def _answer(
    hub: Context,
    desk: Desk,
    caller: Caller,
    register: Register,
    data: bytes,
    name: str,
    columns: Reading | None,
    *,
    dry_run: bool,
    renames: bool,
) -> ImportOut | ImportRefused:
    problems: list[Wrong] = []
    with desk.turn():
        grid = read_file(data, problems)
        if grid is None:
            return _refused(problems)
        asked, now_ms = Asked(register, grid, columns, renames), hub.clock()
        if dry_run:
            with reading(hub.engine) as conn:
                report = plan(conn, asked, now_ms, caller.organisation_id)
        else:
            with hub.engine.begin() as conn:
                report = apply(conn, asked, now_ms, caller.organisation_id)
                if report.ok:
                    record(conn, caller, report, name, grid.sha256, now_ms)
    return _told(report, dry_run=dry_run) if report.ok else _refused(report.problems)


def _told(report: Report, *, dry_run: bool) -> ImportOut:
    return ImportOut(
        dry_run=dry_run,
        rows=report.rows,
        added=report.added,
        changed=report.changed,
        unchanged=report.unchanged,
    )


def _refused(problems: list[Wrong] | tuple[Wrong, ...]) -> ImportRefused:
    return ImportRefused(
        detail=f"file: {len(problems)} problem(s); nothing was taken",
        problems=[
            ImportProblemOut(
                row=each.row,
                column=each.column,
                heading=each.heading,
                value=each.value,
                message=each.message,
            )
            for each in problems[:MAX_PROBLEMS]
        ],
    )
