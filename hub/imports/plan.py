"""Importing a register from a file: what it would do, and doing it.

Promises: a file is taken whole or not at all, and says everything that is wrong with it at once;
the same file again changes nothing; what is taken is what was previewed, byte for byte. After it
the derived attendance is what the registers now say.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection

from hub.derive import lock
from hub.imports.draft import Draft, Fate, State
from hub.imports.files import read_file
from hub.imports.registers import draw_up
from hub.imports.rows import Grid, Problem, Reading, Row, rows_of
from hub.imports.words import COLUMNS, HEADINGS, Register
from hub.store.policies import Policies
from hub.store.scope import EVERYTHING, Scope

Progress = Callable[[int, int], None]
"""Told (rows looked at, rows)."""
PREVIEWED: Final = 50


class NotPreviewedError(ValueError):
    """What is to be taken is not what was previewed."""

    def __init__(self) -> None:
        """In plain words."""
        super().__init__("文件或选项与预览时不同：请重新预览后再导入")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be taken, and how its columns are read."""

    register: Register
    grid: Grid
    reading: Reading | None = None
    renames: bool = False
    """Whether members may get other names."""

    @property
    def digest(self) -> str:
        """A name for exactly this: the file's bytes, and how they are read."""
        reading = self.reading
        how = [
            self.register.value,
            self.renames,
            None if reading is None else [dict(reading.columns), dict(reading.fixed)],
        ]
        words = json.dumps(how, sort_keys=True, ensure_ascii=True).encode()
        return hashlib.sha256(self.grid.sha256 + words).hexdigest()


@dataclass(frozen=True, slots=True)
class Line:
    """A row as it was read, and what becomes of it."""

    row: int
    cells: dict[str, str]
    """By our columns."""
    state: State
    changed: tuple[str, ...] = ()
    """Our columns whose values change."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an import does, or did; with any problem it does nothing, and the three counts are 0."""

    register: Register
    rows: int
    added: int
    changed: int
    unchanged: int
    problems: tuple[Problem, ...]
    digest: str = ""
    lines: tuple[Line, ...] = field(default=(), repr=False)
    """The first rows; those that are wrong, or change something, before the others."""

    @property
    def ok(self) -> bool:
        """Whether it is taken."""
        return not self.problems


def plan(
    conn: Connection,
    asked: Asked,
    now_ms: int,
    scope: Scope = EVERYTHING,
    progress: Progress | None = None,
) -> Report:
    """What `apply` would do now; writes nothing, and needs no write transaction.

    `now_ms` decides which time zone holds.
    """
    return _draw_up(conn, asked, now_ms, scope, progress)[0]


def apply(
    conn: Connection,
    asked: Asked,
    now_ms: int,
    scope: Scope = EVERYTHING,
    *,
    digest: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Take a file into the registers, or say why not and leave everything as it was.

    `conn` is in a write transaction, which the caller commits. Whatever lies outside of `scope` is
    unknown, and stays as it is. `digest`: of the preview; NotPreviewedError if it was another.
    What depends on the changes is derived anew in the same transaction.
    """
    if digest is not None and digest != asked.digest:
        raise NotPreviewedError
    lock(conn)
    report, draft = _draw_up(conn, asked, now_ms, scope, progress)
    if report.ok:
        draft.write()
    return report


def import_file(
    conn: Connection,
    register: Register,
    data: bytes,
    now_ms: int,
    scope: Scope = EVERYTHING,
    *,
    reading: Reading | None = None,
    renames: bool = False,
) -> Report:
    """Read an Excel or CSV file and `apply` it, without a preview."""
    problems: list[Problem] = []
    grid = read_file(data, problems)
    if grid is None:
        return Report(register, 0, 0, 0, 0, tuple(problems))
    return apply(conn, Asked(register, grid, reading, renames), now_ms, scope)


def _draw_up(
    conn: Connection, asked: Asked, now_ms: int, scope: Scope, progress: Progress | None
) -> tuple[Report, Draft]:
    problems: list[Problem] = []
    register = asked.register
    rows = rows_of(asked.grid, COLUMNS[register], HEADINGS[register], asked.reading, problems)
    policies = Policies.load(conn)
    draft = Draft(
        conn,
        rows,
        policies,
        policies.zone(now_ms),
        now_ms,
        scope,
        asked.renames,
        progress or (lambda _done, _all: None),
    )
    draw_up(draft, register)
    ordered = sorted(problems, key=lambda each: (each.row or 0, each.column or ""))
    counts = Counter(fate.state for fate in draft.fates.values())
    if problems:
        counts.clear()
    report = Report(
        register,
        len(asked.grid.rows),
        counts[State.ADDED],
        counts[State.CHANGED],
        counts[State.UNCHANGED],
        tuple(ordered),
        asked.digest,
        _lines(rows, draft.fates),
    )
    return report, draft


def _lines(rows: list[Row], fates: dict[int, Fate]) -> tuple[Line, ...]:
    """The first rows of each state, so that what changes is not lost among what does not."""
    found = []
    for row in rows:
        fate = fates.get(row.number, Fate(State.WRONG))
        state = State.WRONG if row.failed else fate.state
        found.append(Line(row.number, row.cells, state, fate.columns))
    order = (State.WRONG, State.CHANGED, State.ADDED, State.UNCHANGED)
    return tuple(sorted(found, key=lambda each: order.index(each.state))[:PREVIEWED])
