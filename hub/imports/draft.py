"""What a file would change in the registers: collected first, written once all of it is right.

Promises: nothing is written before `write`; after it, what is derived is what the registers now
say, and no more than what changed was derived anew. Whatever lies outside of the scope is treated
as what does not exist, but for codes and cards, which are the whole hub's: those are refused.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Table, bindparam, exists, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from hub.derive import rebuild, rederive_credentials, rederive_devices, rederive_windows
from hub.domain.attendance import Validity
from hub.domain.terms import Term
from hub.imports.people import People
from hub.imports.rows import Row
from hub.store import schema as s
from hub.store.bulk import chunks
from hub.store.policies import Policies
from hub.store.scope import Everything, Scope, sees_device, subtree, taking_part
from protocol.credential import MEMBER_SCHEME

OUTSIDE: Final = "这个编号在您的管理范围以外已有人使用：请换一个编号"
MANY: Final = 500
"""If more changes than that, everything is derived anew, which needs less memory."""


class State(Term):
    """What an import does with a row."""

    ADDED = "ADDED", "新增"
    CHANGED = "CHANGED", "更改"
    UNCHANGED = "UNCHANGED", "不变"
    WRONG = "WRONG", "有问题"


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a row, and in which of our columns what it changes stands."""

    state: State
    columns: tuple[str, ...] = ()


@dataclass(slots=True)
class Touched:
    """What has to be derived anew."""

    places: list[tuple[int, Validity]] = field(default_factory=list)
    """Organisations that others belong to or speak for, and when."""
    members: set[str] = field(default_factory=set)
    """Codes of new members."""
    cards: set[str] = field(default_factory=set)
    devices: set[int] = field(default_factory=set)
    stood: list[tuple[int, Validity]] = field(default_factory=list)
    """Venues, and when a device's standing there may have changed."""
    meetings: set[str] = field(default_factory=set)
    windows: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Draft:
    """The file's rows, and the writes that they come to."""

    conn: Connection
    all_rows: list[Row]
    policies: Policies
    zone: ZoneInfo
    now_ms: int
    scope: Scope
    renames: bool
    progress: Callable[[int, int], None]
    fates: dict[int, Fate] = field(default_factory=dict)
    """By the row's number."""
    touched: Touched = field(default_factory=Touched)
    writes: list[Callable[[], None]] = field(default_factory=list)
    _within: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.scope, Everything):
            self._within = frozenset(self.conn.scalars(select(subtree(self.scope).c.id)))

    @property
    def rows(self) -> Iterator[Row]:
        """Each row, telling how far it is."""
        for at, row in enumerate(self.all_rows):
            if at % 1000 == 0:
                self.progress(at, len(self.all_rows))
            yield row

    @property
    def is_everything(self) -> bool:
        """Whether there is nothing outside of the scope."""
        return isinstance(self.scope, Everything)

    @property
    def top_code(self) -> str | None:
        """The code of the scope's topmost organisation."""
        o = s.organisations.c
        if isinstance(self.scope, Everything):
            return None
        code: str | None = self.conn.scalar(select(o.code).where(o.id == self.scope))
        return code

    def devices(self) -> dict[str, Any]:
        """The devices that the scope sees, by name."""
        d = s.devices
        return {
            row.name: row for row in self.conn.execute(select(d).where(sees_device(self.scope)))
        }

    def is_within(self, organisation_id: int) -> bool:
        """Whether an organisation lies in the scope."""
        return self._within is None or organisation_id in self._within

    def later(self, write: Callable[[], None]) -> None:
        """Do it once the whole file was found to be right, after what was put off before."""
        self.writes.append(write)

    def write(self) -> None:
        """Do all that was put off, and derive anew what that changes."""
        for each in self.writes:
            each()
        self._derive()

    def known(self, table: Table, column: str = "code") -> dict[str, Any]:
        """Every row of the table by its code, in one query, whatever the scope."""
        return {getattr(row, column): row for row in self.conn.execute(select(table))}

    def inside(self, known: Mapping[str, Any], column: str = "organisation_id") -> dict[str, Any]:
        """Those of them that belong to an organisation of the scope."""
        return {code: row for code, row in known.items() if self.is_within(getattr(row, column))}

    def people(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the members who belong to the scope now."""
        own = self.persons()
        return {code: row for code, row in known.items() if own.is_everything or row.id in own.own}

    def persons(self) -> People:
        """Of whom the file may speak."""
        return People.load(self.conn, self.scope, self.now_ms)

    def fate(self, row: Row, *, is_new: bool, columns: Iterable[str] = ()) -> None:
        """Note what becomes of the row."""
        differing = tuple(columns)
        if is_new:
            self.fates[row.number] = Fate(State.ADDED)
        elif differing:
            self.fates[row.number] = Fate(State.CHANGED, differing)
        else:
            self.fates[row.number] = Fate(State.UNCHANGED)

    def insert(self, table: Table, rows: list[dict[str, Any]]) -> None:
        """Add rows that name the same columns."""
        if rows:
            self.conn.execute(insert(table), rows)

    def insert_new(self, table: Table, rows: list[dict[str, Any]], key: list[str]) -> None:
        """Add those of the rows whose key is not there, whoever was faster."""
        if rows:
            dialect = postgresql if self.conn.dialect.name == "postgresql" else sqlite
            statement = dialect.insert(table).on_conflict_do_nothing(index_elements=key)
            self.conn.execute(statement, rows)

    def update(self, table: Table, rows: list[dict[str, Any]]) -> None:
        """Set each row's columns; every row names the same ones, and `id`."""
        if not rows:
            return
        statement = (
            update(table)
            .where(table.c.id == bindparam("to_id"))
            .values({name: bindparam(f"to_{name}") for name in rows[0] if name != "id"})
        )
        self.conn.execute(
            statement, [{f"to_{name}": value for name, value in row.items()} for row in rows]
        )

    # --- Deriving anew ----------------------------------------------------------------------

    def _derive(self) -> None:
        windows, meetings = list(self.touched.windows), self._meetings()
        if self.touched.places:
            for row in self._meetings_of(self.touched.places):
                windows.append((row.venue_id, row.opens_ms, row.ends_ms))
                meetings.add(row.id)
        credentials = self._credentials()
        devices = self.touched.devices
        if max(len(windows), len(credentials), len(devices)) > MANY or self._are_spoken_of():
            rebuild(self.conn)
            return
        if credentials:
            rederive_credentials(self.conn, credentials)
        if devices:
            rederive_devices(self.conn, devices)
            self._tell()
        if windows:
            rederive_windows(self.conn, windows, meetings)

    def _meetings(self) -> set[int]:
        m = s.meetings.c
        return {
            key
            for part in chunks(sorted(self.touched.meetings))
            for key in self.conn.scalars(select(m.id).where(m.code.in_(part)))
        }

    def _meetings_of(self, places: Iterable[tuple[int, Validity]]) -> list[Any]:
        """Those in which an organisation takes part while its place changes."""
        spans: dict[int, list[Validity]] = defaultdict(list)
        for organisation_id, validity in places:
            spans[organisation_id].append(validity)
        m, mo = s.meetings.c, taking_part.c
        found = []
        for part in chunks(sorted(spans)):
            for row in self.conn.execute(
                select(m.id, m.venue_id, m.opens_ms, m.ends_ms, mo.organisation_id)
                .join(taking_part, mo.meeting_id == m.id)
                .where(mo.organisation_id.in_(part))
            ):
                window = Validity(row.opens_ms, row.ends_ms + 1)
                if any(each.overlaps(window) for each in spans[row.organisation_id]):
                    found.append(row)
        return found

    def _tell(self) -> None:
        """Whose record is asked for at a meeting may have changed, also where nobody has tapped."""
        since: dict[int, int] = {}
        for venue_id, validity in self.touched.stood:
            since[venue_id] = min(validity.from_ms, since.get(venue_id, validity.from_ms))
        m = s.meetings.c
        for venue_id, from_ms in since.items():
            self.conn.execute(
                update(s.meetings)
                .where(m.venue_id == venue_id, m.ends_ms >= from_ms)
                .values(change=m.change + 1)
            )

    def _credentials(self) -> set[int]:
        c = s.credentials.c
        return {
            key
            for part in chunks(sorted(self.touched.cards))
            for key in self.conn.scalars(
                select(c.id)
                .join(s.cards, s.cards.c.id == c.card_id)
                .where(s.cards.c.code.in_(part))
            )
        }

    def _are_spoken_of(self) -> bool:
        """Whether somebody spoke of a new member at a reader, before the member was known here."""
        a, c = s.actions.c, s.credentials.c
        spoken = exists().where(a.about_credential_id == c.id)
        return any(
            self.conn.scalar(
                select(c.id).where(c.scheme == MEMBER_SCHEME, c.value.in_(part), spoken).limit(1)
            )
            is not None
            for part in chunks(sorted(self.touched.members))
        )


# --- What several registers need ------------------------------------------------------------


def once(rows: Iterable[tuple[Row, Hashable]], column: str) -> None:
    """Refuse a key that an earlier row has already."""
    first: dict[Hashable, int] = {}
    for row, key in rows:
        if key in first:
            row.fail(column, f"与第{first[key]}行重复")
        else:
            first[key] = row.number


class Named:
    """What a row may refer to, by code or, where that names one alone, by name."""

    def __init__(self, known: Mapping[str, Any], what: str, *, by_name: bool = True) -> None:
        """`what` it is called in messages."""
        self.known = known
        self._what = what
        self._by_name: dict[str, list[Any]] = defaultdict(list)
        if by_name:
            for row in known.values():
                self._by_name[row.name].append(row)

    def of(self, row: Row, column: str) -> Any:
        """What the cell names, or None and a problem."""
        if row.cells.get(column, "") in self._by_name:
            several = self._by_name[row.cells[column]]
            if len(several) == 1 and row.cells[column] not in self.known:
                return several[0]
        code = row.code(column)
        if code is None:
            return None
        if code in self.known:
            return self.known[code]
        if len(self._by_name.get(code, ())) > 1:
            row.fail(column, f"有几个{self._what}都叫这个名字：请填编号")
        else:
            row.fail(column, f"没有这个编号的{self._what}")
        return None


class Ids:
    """Ids by code, looked up when the first is needed: after the file's own rows were inserted."""

    def __init__(self, draft: Draft, table: Table) -> None:
        """Looks nothing up."""
        self._draft = draft
        self._table = table
        self._known: dict[str, Any] | None = None

    def of(self, code: str) -> int:
        """The id of what is known by now."""
        if self._known is None:
            self._known = self._draft.known(self._table)
        key: int = self._known[code].id
        return key


@dataclass(frozen=True, slots=True)
class Dated:
    """A dated row of a register, of the file or of the database: `key` may hold one at a time."""

    key: Hashable
    validity: Validity
    value: Hashable
    id: int | None
    row: Row | None
    is_foreign: bool = False
    """Of the database, and outside of the scope."""

    @property
    def identity(self) -> tuple[Hashable, int]:
        """What makes it the same row as an earlier one."""
        return self.key, self.validity.from_ms


Kept = Mapping[tuple[Hashable, int], Dated]


def validity_of(draft: Draft, row: Row) -> Validity | None:
    """What `from` and `to` say."""
    from_ms = row.moment_ms("from", draft.zone)
    to_ms = row.end_ms("to", draft.zone)
    if from_ms is None:
        return None
    if to_ms is not None and to_ms <= from_ms:
        row.fail("to", "结束时间不晚于开始时间")
        return None
    return Validity(from_ms, to_ms)


def completed(kept: Kept, each: Dated, *silent: str) -> Dated:
    """It, with what is known where the file says nothing: its end, and its value for `silent`."""
    old, row = kept.get(each.identity), each.row
    if old is None or row is None:
        return each
    if not row.knows("to"):
        each = replace(each, validity=old.validity)
    if silent and not any(row.knows(column) for column in silent):
        each = replace(each, value=old.value)
    return each


def bring(
    draft: Draft,
    table: Table,
    kept: Kept,
    wanted: Iterable[Dated],
    values: Callable[[Dated], dict[str, Any]],
    changed: Callable[[Dated, Dated | None], None],
    clash: str,
) -> None:
    """Bring dated rows in: the same key and beginning is the same row, and none may overlap.

    `changed` is told of each one that is new or differs, with what was known before.
    """
    merged: dict[tuple[Hashable, int], Dated] = dict(kept)
    inserts: list[Dated] = []
    updates: list[Dated] = []
    seen: dict[tuple[Hashable, int], Dated] = {}
    for each in wanted:
        assert each.row is not None  # noqa: S101
        twin = seen.get(each.identity)
        if twin is not None:
            assert twin.row is not None  # noqa: S101
            if (twin.validity, twin.value) != (each.validity, each.value):
                each.row.fail("from", f"与第{twin.row.number}行自同一时间起，内容却不同")
            continue
        seen[each.identity] = each
        old = kept.get(each.identity)
        merged[each.identity] = each
        if old is None:
            inserts.append(each)
        elif (old.validity, old.value) != (each.validity, each.value):
            if old.is_foreign:
                each.row.fail("from", "同一时间起已有您管理范围以外的记录")
            updates.append(replace(each, id=old.id))
        else:
            continue
        changed(each, old)
    _refuse_overlaps(merged.values(), clash)
    # Only then do people and cards that the file brings have their ids.
    draft.later(lambda: draft.insert(table, [values(each) for each in inserts]))
    draft.later(lambda: draft.update(table, [{"id": each.id, **values(each)} for each in updates]))


def _refuse_overlaps(several: Iterable[Dated], clash: str) -> None:
    by_key: dict[Hashable, list[Dated]] = defaultdict(list)
    for each in several:
        by_key[each.key].append(each)
    for ordered in by_key.values():
        ordered.sort(key=lambda each: each.validity.from_ms)
        for earlier, later in pairwise(ordered):
            if earlier.validity.overlaps(later.validity):
                row = later.row or earlier.row
                if row is not None:
                    other = earlier if row is later.row else later
                    row.fail(
                        "from" if row is later.row else "to",
                        clash
                        + ("" if other.row is None else f"（第{other.row.number}行）")
                        + "：时间重叠，请先填写前一段的结束时间",
                    )


def differing(each: Dated, old: Dated | None, *value: str) -> list[str]:
    """The columns in which a dated row differs from what is known: `to`, and those of its value."""
    if old is None:
        return []
    columns = [] if old.validity == each.validity else ["to"]
    return columns if old.value == each.value else [*columns, *value]
