"""Imports that people do on pages, one after another, in a thread beside the requests.

Imports by the API take their turn among them. Promises: a job belongs to the account that began it,
and nobody else sees it; a request for a page never waits for a long file. Nothing of a job is kept
but in memory: after a restart the file is sent again, and what was half done was not done.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from hub import audit
from hub.auth.callers import Caller
from hub.domain.terms import Term
from hub.imports.files import read_file
from hub.imports.plan import Asked, NotPreviewedError, Report, apply, plan
from hub.imports.rows import MAX_WEIGHT, Grid, Problem, Reading, guess, is_ours
from hub.imports.words import COLUMNS, HEADINGS, Register
from hub.store.engine import reading

log = structlog.get_logger(__name__)

MAX_JOBS: Final = 8
MAX_HELD: Final = 2 * MAX_WEIGHT
"""If the files of the jobs weigh more than that together, no other begins."""
MAX_WAITING: Final = 4
"""So many requests may wait for their turn, each in a thread that serves everything else too."""
WAIT_S: Final = 20.0
IDLE_MS: Final = 60 * 60 * 1000
"""A job that nobody has looked at for so long may be forgotten."""


class Stage(Term):
    """How far a job is."""

    READING = "READING", "正在读取"
    COLUMNS = "COLUMNS", "待对应列"
    CHECKING = "CHECKING", "正在核对"
    WRONG = "WRONG", "有问题"
    READY = "READY", "待确认"
    TAKING = "TAKING", "正在导入"
    DONE = "DONE", "已导入"


WORKING: Final = frozenset({Stage.READING, Stage.CHECKING, Stage.TAKING})
_FAILED: Final = "系统出错，什么都没有导入：请重试，仍不行请联系技术人员"


class BusyError(Exception):
    """Too many people import now."""


@dataclass(slots=True)
class Job:
    """One file on its way in."""

    register: Register
    file: str
    stage: Stage
    looked_ms: int
    renames: bool = False
    grid: Grid | None = None
    columns: Reading | None = None
    """None: the headings are ours."""
    problems: tuple[Problem, ...] = ()
    """Of the file as a whole, or why it could not be done."""
    report: Report | None = None
    done: int = 0
    rows: int = 0
    settled: threading.Event = field(default_factory=threading.Event)
    """Set while nothing is being done."""

    def tell(self, done: int, rows: int) -> None:
        """So far it is."""
        self.done, self.rows = done, rows


class Desk:
    """All jobs, by account."""

    def __init__(self, engine: Engine, clock: Callable[[], int]) -> None:
        """Begins nothing."""
        self._engine = engine
        self._clock = clock
        self._jobs: dict[int, Job] = {}
        self._lock = threading.Lock()
        # One file at a time: they take memory, and the database's write lock.
        self._turn = threading.Lock()
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While no other file is read, checked or taken.

        Raises BusyError after `WAIT_S`, or at once where `MAX_WAITING` others wait.
        """
        if not self._waiting.acquire(blocking=False):
            raise BusyError
        try:
            if not self._turn.acquire(timeout=WAIT_S):
                raise BusyError
        finally:
            self._waiting.release()
        try:
            yield
        finally:
            self._turn.release()

    def of(self, caller: Caller) -> Job | None:
        """The account's job."""
        with self._lock:
            job = self._jobs.get(_owner(caller))
            if job is not None:
                job.looked_ms = self._clock()
            return job

    def open(self, caller: Caller, register: Register, file: str, data: bytes) -> Job:
        """Begin a job with a file, in place of the account's earlier one. Raises BusyError."""
        now_ms = self._clock()
        job = Job(register, file, Stage.READING, now_ms)
        with self._lock:
            kept = {
                owner: each
                for owner, each in self._jobs.items()
                if each.looked_ms > now_ms - IDLE_MS or each.stage in WORKING
            }
            earlier = kept.pop(_owner(caller), None)
            held = sum(each.grid.weight for each in kept.values() if each.grid is not None)
            is_full = len(kept) >= MAX_JOBS or held > MAX_HELD
            if is_full or (earlier is not None and earlier.stage in WORKING):
                raise BusyError
            self._jobs = {**kept, _owner(caller): job}
        self._begin(job, lambda: self._read(job, caller, data))
        return job

    def close(self, caller: Caller) -> None:
        """Forget the account's job, unless it is being written just now."""
        with self._lock:
            job = self._jobs.get(_owner(caller))
            if job is not None and job.stage not in WORKING:
                del self._jobs[_owner(caller)]

    def check(self, caller: Caller, job: Job, columns: Reading | None, *, renames: bool) -> None:
        """Look at the rows anew, with other columns or options."""
        with self._lock:
            if job.grid is None or job.stage in {*WORKING, Stage.DONE}:
                return
            job.stage, job.columns, job.renames = Stage.CHECKING, columns, renames
        self._begin(job, lambda: self._check(job, caller))

    def take(self, caller: Caller, job: Job, digest: str) -> None:
        """Write what was previewed."""
        with self._lock:
            if job.grid is None or job.stage is not Stage.READY:
                return
            job.stage = Stage.TAKING
        self._begin(job, lambda: self._take(job, caller, digest))

    def _begin(self, job: Job, work: Callable[[], None]) -> None:
        job.settled.clear()
        threading.Thread(target=self._run, args=(job, work), name="import", daemon=True).start()

    def _run(self, job: Job, work: Callable[[], None]) -> None:
        try:
            with self._turn:
                work()
        except NotPreviewedError as error:
            self._fail(job, str(error))
        except SQLAlchemyError as error:
            log.error("import failed", error=repr(error.__cause__ or error))  # noqa: TRY400  no data
            self._fail(job, _FAILED)
        except Exception:
            log.exception("import failed")
            self._fail(job, _FAILED)
        finally:
            job.settled.set()

    def _fail(self, job: Job, message: str) -> None:
        job.problems = (Problem(None, None, None, message),)
        job.report = None
        job.stage = Stage.WRONG

    def _read(self, job: Job, caller: Caller, data: bytes) -> None:
        problems: list[Problem] = []
        job.grid = read_file(data, problems)
        if job.grid is None:
            job.problems, job.stage = tuple(problems), Stage.WRONG
            return
        columns, known = COLUMNS[job.register], HEADINGS[job.register]
        if is_ours(job.grid, columns, known):
            job.stage = Stage.CHECKING
            self._check(job, caller)
        else:
            job.columns = Reading(guess(job.grid.headings, columns, known))
            job.stage = Stage.COLUMNS

    def _asked(self, job: Job) -> Asked:
        assert job.grid is not None  # noqa: S101
        return Asked(job.register, job.grid, job.columns, job.renames)

    def _check(self, job: Job, caller: Caller) -> None:
        with reading(self._engine) as conn:
            job.report = plan(
                conn, self._asked(job), self._clock(), caller.organisation_id, job.tell
            )
        job.problems = ()
        job.stage = Stage.READY if job.report.ok else Stage.WRONG

    def _take(self, job: Job, caller: Caller, digest: str) -> None:
        assert job.grid is not None  # noqa: S101
        now_ms = self._clock()
        with self._engine.begin() as conn:
            report = apply(
                conn,
                self._asked(job),
                now_ms,
                caller.organisation_id,
                digest=digest,
                progress=job.tell,
            )
            if report.ok:
                record(conn, caller, report, job.file, job.grid.sha256, now_ms)
        # What was right at the preview may be wrong by now: then it says so, and nothing is done.
        job.report = report
        job.stage = Stage.DONE if report.ok else Stage.WRONG
        if report.ok:
            job.grid = None


def record(
    conn: Connection, caller: Caller, report: Report, file: str, sha256: bytes, now_ms: int
) -> None:
    """Write into the audit log what was imported; in the transaction of the import."""
    audit.record(
        conn,
        caller,
        "register.import",
        caller.organisation_id,
        "register",
        None,
        now_ms,
        register=report.register.value,
        file=file,
        sha256=sha256.hex(),
        rows=report.rows,
        added=report.added,
        changed=report.changed,
        unchanged=report.unchanged,
    )


def _owner(caller: Caller) -> int:
    assert caller.account_id is not None  # noqa: S101  pages know no tokens
    return caller.account_id
