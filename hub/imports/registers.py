"""Importing the registers from CSV.

Promises: a file is taken whole or not at all, and says everything that is wrong with it at once;
the same file again changes nothing; after an import the derived attendance is what the registers
now say. What a file does not mention stays as it is, a column that it does not have included:
nothing is ever removed by an import. A name that differs from the one a member's code has already
is taken for another person's, and refused, unless it is said that people are renamed.

The columns of each kind are in `COLUMNS`. Dates are in the district's time zone; an end given as a
date counts with its whole day.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final, assert_never
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Table, bindparam, delete, insert, select, update

from hub.days import FIRST_DAY, LAST_DAY, span_ms
from hub.derive import lock, rebuild
from hub.domain.attendance import MINUTE_MS, Validity
from hub.domain.terms import Body, CardStatus, MeetingKind, OrgKind
from hub.imports.csvfile import Columns, Problem, Row, read_csv
from hub.store import schema as s
from hub.store.policies import GRACE_MINUTES, OPENS_BEFORE_MINUTES, Policies
from protocol.credential import CardNumberFormat, Credential, InvalidCredentialError, uid_from

MAX_MEETING_MINUTES: Final = 24 * 60


class Register(StrEnum):
    """What a file can hold."""

    ORGANISATIONS = "organisations"
    MEMBERS = "members"
    VENUES = "venues"
    PLACEMENTS = "placements"
    CARDS = "cards"
    MEETINGS = "meetings"


COLUMNS: Final[Mapping[Register, Columns]] = {
    Register.ORGANISATIONS: Columns(("code", "name", "kind", "parent")),
    Register.MEMBERS: Columns(("code", "name", "organisation", "from"), ("body", "to")),
    Register.VENUES: Columns(("code", "name", "organisation")),
    Register.PLACEMENTS: Columns(("device", "venue", "from"), ("to",)),
    Register.CARDS: Columns(("card", "member", "format", "number", "from"), ("to",)),
    Register.MEETINGS: Columns(
        ("code", "organisation", "kind", "title", "venue", "start", "end"), ("grace_minutes",)
    ),
}
"""`members`: a row is a membership. `cards`: a row is a number of a card and who holds the card
from when; a card without a holder leaves `member` and `from` empty."""

_PARENTS: Final[Mapping[OrgKind, frozenset[OrgKind]]] = {
    OrgKind.COMMITTEE: frozenset({OrgKind.COMMITTEE}),
    OrgKind.GENERAL_BRANCH: frozenset({OrgKind.COMMITTEE}),
    OrgKind.BRANCH: frozenset({OrgKind.COMMITTEE, OrgKind.GENERAL_BRANCH}),
    OrgKind.GROUP: frozenset({OrgKind.BRANCH}),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What an import did; with any problem it did nothing, and the three counts are 0."""

    register: Register
    rows: int
    added: int
    changed: int
    unchanged: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether it was taken."""
        return not self.problems


def import_csv(
    conn: Connection, register: Register, data: bytes, now_ms: int, *, renames: bool = False
) -> Report:
    """Take a file into the registers, or say why not and leave everything as it was.

    `conn` is in a write transaction, which the caller commits; `now_ms` decides only which time
    zone holds. `renames`: members may get other names. If anything changed that attendance
    depends on, it is derived anew in the same transaction.
    """
    rows, problems = read_csv(data, COLUMNS[register])
    lock(conn)
    policies = Policies.load(conn)
    draft = _Draft(conn, rows, policies, policies.zone(now_ms))
    match register:
        case Register.ORGANISATIONS:
            _organisations(draft)
        case Register.MEMBERS:
            _members(draft, renames=renames)
        case Register.VENUES:
            _venues(draft)
        case Register.PLACEMENTS:
            _placements(draft)
        case Register.CARDS:
            _cards(draft)
        case Register.MEETINGS:
            _meetings(draft)
        case _:
            assert_never(register)
    if problems:
        ordered = sorted(problems, key=lambda each: (each.row or 0, each.column or ""))
        return Report(register, len(rows), 0, 0, 0, tuple(ordered))
    draft.write()
    if draft.touches_attendance:
        rebuild(conn)
    return Report(register, len(rows), draft.added, draft.changed, draft.unchanged, ())


# --- What a file would change ---------------------------------------------------------------


@dataclass(slots=True)
class _Draft:
    """The file's rows, and the writes that they come to; nothing is written before `write`."""

    conn: Connection
    rows: list[Row]
    policies: Policies
    zone: ZoneInfo
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    touches_attendance: bool = False
    """Whether more changes than names."""
    writes: list[Callable[[], None]] = field(default_factory=list)

    def later(self, write: Callable[[], None]) -> None:
        """Do it once the whole file was found to be right, after what was put off before."""
        self.writes.append(write)

    def write(self) -> None:
        for each in self.writes:
            each()

    def known(self, table: Table, column: str = "code") -> dict[str, Any]:
        """Every row of the table by its code, in one query."""
        return {getattr(row, column): row for row in self.conn.execute(select(table))}

    def count(self, *, is_new: bool, differs: bool) -> None:
        if is_new:
            self.added += 1
        elif differs:
            self.changed += 1
        else:
            self.unchanged += 1

    def insert(self, table: Table, rows: list[dict[str, Any]]) -> None:
        if rows:
            self.conn.execute(insert(table), rows)

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


def _once(rows: Iterable[tuple[Row, Hashable]], column: str) -> None:
    """Refuse a key that an earlier row has already."""
    first: dict[Hashable, int] = {}
    for row, key in rows:
        if key in first:
            row.fail(column, f"与第{first[key]}行重复")
        else:
            first[key] = row.number


def _reference(row: Row, column: str, known: Mapping[str, Any], what: str) -> Any:
    code = row.code(column)
    if code is None:
        return None
    if code not in known:
        row.fail(column, f"没有编号为“{code}”的{what}")
        return None
    return known[code]


@dataclass(frozen=True, slots=True)
class _Dated:
    """A dated row of a register, of the file or of the database: `key` may hold one at a time."""

    key: Hashable
    validity: Validity
    value: int | str
    id: int | None
    row: Row | None


def _dated(
    draft: _Draft,
    table: Table,
    kept: Mapping[tuple[Hashable, int], _Dated],
    wanted: list[_Dated],
    values: Callable[[_Dated], dict[str, Any]],
    clash: str,
) -> None:
    """Bring dated rows in: the same key and beginning is the same row, and none may overlap."""
    merged: dict[tuple[Hashable, int], _Dated] = dict(kept)
    inserts: list[_Dated] = []
    updates: list[_Dated] = []
    seen: dict[tuple[Hashable, int], _Dated] = {}
    for each in wanted:
        assert each.row is not None  # noqa: S101
        identity = (each.key, each.validity.from_ms)
        twin = seen.get(identity)
        if twin is not None:
            assert twin.row is not None  # noqa: S101
            if (twin.validity, twin.value) != (each.validity, each.value):
                each.row.fail("from", f"与第{twin.row.number}行自同一时间起，内容却不同")
            continue
        seen[identity] = each
        old = kept.get(identity)
        merged[identity] = each
        if old is None:
            inserts.append(each)
        elif (old.validity, old.value) != (each.validity, each.value):
            updates.append(replace(each, id=old.id))
    by_key: dict[Hashable, list[_Dated]] = defaultdict(list)
    for each in merged.values():
        by_key[each.key].append(each)
    for several in by_key.values():
        several.sort(key=lambda each: each.validity.from_ms)
        for earlier, later in pairwise(several):
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
    draft.touches_attendance |= bool(inserts or updates)
    # Only then do people and cards that the file brings have their ids.
    draft.later(lambda: draft.insert(table, [values(each) for each in inserts]))
    draft.later(lambda: draft.update(table, [{"id": each.id, **values(each)} for each in updates]))


def _with_known_ends(
    kept: Mapping[tuple[Hashable, int], _Dated], wanted: Iterable[_Dated]
) -> list[_Dated]:
    """`wanted`, with the ends that are known where the file has no column for them."""
    found = []
    for each in wanted:
        old = kept.get((each.key, each.validity.from_ms))
        is_silent = each.row is not None and not each.row.knows("to")
        found.append(each if old is None or not is_silent else replace(each, validity=old.validity))
    return found


def _validity(draft: _Draft, row: Row) -> Validity | None:
    from_ms = row.moment_ms("from", draft.zone)
    to_ms = row.end_ms("to", draft.zone)
    if from_ms is None:
        return None
    if to_ms is not None and to_ms <= from_ms:
        row.fail("to", "结束时间不晚于开始时间")
        return None
    return Validity(from_ms, to_ms)


# --- The registers --------------------------------------------------------------------------


def _organisations(draft: _Draft) -> None:
    known = draft.known(s.organisations)
    by_id = {row.id: code for code, row in known.items()}
    kinds = {code: OrgKind(row.kind) for code, row in known.items()}
    parents = {code: by_id.get(row.parent_id) for code, row in known.items()}
    taken: dict[str, tuple[Row, str, OrgKind, str | None]] = {}
    asked = []
    for row in draft.rows:
        code, name = row.code("code"), row.text("name")
        kind = row.term("kind", OrgKind)
        parent = row.code("parent") if row.has("parent") else None
        if code is not None:
            asked.append((row, code))
        if code is not None and kind is not None:
            kinds[code], parents[code] = kind, parent
            if name is not None:
                taken.setdefault(code, (row, name, kind, parent))
    _once(asked, "code")
    children: dict[str | None, list[str]] = defaultdict(list)
    for code, parent in parents.items():
        children[parent].append(code)
    for code, (row, _, kind, parent) in taken.items():
        if parent is None:
            if kind is OrgKind.GROUP:
                row.fail("parent", "党小组必须属于一个党支部")
        elif parent not in kinds:
            row.fail("parent", f"没有编号为“{parent}”的组织")
        elif _is_in_circle(code, parents):
            row.fail("parent", "上级绕了一圈又回到自己")
        elif kinds[parent] not in _PARENTS[kind]:
            row.fail("parent", f"{kind.zh}的上级不能是{kinds[parent].zh}")
        for child in children.get(code, ()):
            if child not in taken and kind not in _PARENTS[kinds[child]]:
                row.fail("kind", f"其下已有{kinds[child].zh}“{child}”，不能改为{kind.zh}")
    inserts, updates = [], []
    for code, (_, name, kind, parent) in taken.items():
        old = known.get(code)
        values = {"code": code, "name": name, "kind": kind.value}
        differs = old is not None and (old.name, old.kind, by_id.get(old.parent_id)) != (
            name,
            kind.value,
            parent,
        )
        draft.count(is_new=old is None, differs=differs)
        if old is None:
            inserts.append({**values, "public_id": s.new_public_id()})
        elif differs:
            updates.append({"id": old.id, **values})
    draft.later(lambda: draft.insert(s.organisations, inserts))
    draft.later(lambda: draft.update(s.organisations, updates))
    draft.later(
        lambda: _link_parents(draft, {code: parent for code, (*_, parent) in taken.items()})
    )


def _link_parents(draft: _Draft, parents: Mapping[str, str | None]) -> None:
    # Only now has every organisation of the file its id.
    known = draft.known(s.organisations)
    moved = []
    for code, parent in parents.items():
        parent_id = None if parent is None else known[parent].id
        if known[code].parent_id != parent_id:
            moved.append({"id": known[code].id, "parent_id": parent_id})
    draft.update(s.organisations, moved)


def _is_in_circle(code: str, parents: Mapping[str, str | None]) -> bool:
    at, seen = parents.get(code), {code}
    while at is not None and at not in seen:
        seen.add(at)
        at = parents.get(at)
    return at == code


def _members(draft: _Draft, *, renames: bool) -> None:
    known, organisations = draft.known(s.members), draft.known(s.organisations)
    names: dict[str, tuple[Row, str]] = {}
    wanted: list[_Dated] = []
    for row in draft.rows:
        code, name = row.code("code"), row.text("name")
        organisation = _reference(row, "organisation", organisations, "组织")
        body = row.term("body", Body, Body.MEMBER)
        validity = _validity(draft, row)
        if code is not None and name is not None:
            first, first_name = names.setdefault(code, (row, name))
            if first_name != name:
                row.fail("name", f"与第{first.number}行编号相同，姓名却不同")
            elif not renames and code in known and known[code].name != name:
                row.fail(
                    "name",
                    f"编号“{code}”已是“{known[code].name}”：若是另一个人，请换一个编号；"
                    "若确实改了姓名，导入时加上 --rename",
                )
        if None in {code, organisation, body, validity}:
            continue
        assert code is not None  # noqa: S101
        assert body is not None  # noqa: S101
        assert validity is not None  # noqa: S101
        wanted.append(_Dated((code, organisation.id, body), validity, "", None, row))
    codes = {held.id: code for code, held in known.items()}
    kept: dict[tuple[Hashable, int], _Dated] = {}
    for held in draft.conn.execute(select(s.memberships)):
        key = (codes[held.member_id], held.organisation_id, Body(held.body))
        lasts = Validity(held.valid_from_ms, held.valid_to_ms)
        kept[key, held.valid_from_ms] = _Dated(key, lasts, "", held.id, None)
    wanted = _with_known_ends(kept, wanted)
    renamed = {
        code for code, (_, name) in names.items() if code in known and known[code].name != name
    }
    for each in wanted:
        assert isinstance(each.key, tuple)  # noqa: S101
        old = kept.get((each.key, each.validity.from_ms))
        draft.count(
            is_new=old is None,
            differs=each.key[0] in renamed or (old is not None and old.validity != each.validity),
        )
    groups = {row.id for row in organisations.values() if row.kind == OrgKind.GROUP.value}
    _one_home([*kept.values(), *wanted], groups)
    draft.later(
        lambda: draft.insert(
            s.members,
            [
                {"code": code, "name": name, "public_id": s.new_public_id()}
                for code, (_, name) in names.items()
                if code not in known
            ],
        )
    )
    draft.later(
        lambda: draft.update(
            s.members,
            [{"id": known[code].id, "name": names[code][1]} for code in sorted(renamed)],
        )
    )
    ids = _Ids(draft, s.members)

    def values(each: _Dated) -> dict[str, Any]:
        assert isinstance(each.key, tuple)  # noqa: S101
        member, organisation_id, its_body = each.key
        return {
            "member_id": ids.of(member),
            "organisation_id": organisation_id,
            "body": its_body.value,
            "valid_from_ms": each.validity.from_ms,
            "valid_to_ms": each.validity.to_ms,
        }

    _dated(
        draft,
        s.memberships,
        kept,
        wanted,
        values,
        "同一人在同一组织已有记录",
    )


def _one_home(memberships: Iterable[_Dated], groups: set[int]) -> None:
    """Refuse that somebody is a member of two organisations at once; a group is part of one."""
    homes: dict[str, dict[tuple[int, int], _Dated]] = defaultdict(dict)
    for each in memberships:
        assert isinstance(each.key, tuple)  # noqa: S101
        member, organisation_id, body = each.key
        if body is Body.MEMBER and organisation_id not in groups:
            homes[member][organisation_id, each.validity.from_ms] = each
    for several in homes.values():
        ordered = sorted(several.values(), key=lambda each: each.validity.from_ms)
        for number, later in enumerate(ordered):
            for earlier in ordered[:number]:
                row = later.row or earlier.row
                if (
                    row is not None
                    and earlier.key != later.key
                    and earlier.validity.overlaps(later.validity)
                ):
                    row.fail(
                        "organisation",
                        "同一人同时是两个组织的党员：请先填写前一段的结束时间（委员另填 body）",
                    )
                    break


def _venues(draft: _Draft) -> None:
    known, organisations = draft.known(s.venues), draft.known(s.organisations)
    inserts, updates, asked = [], [], []
    for row in draft.rows:
        code, name = row.code("code"), row.text("name")
        organisation = _reference(row, "organisation", organisations, "组织")
        if code is not None:
            asked.append((row, code))
        if code is None or name is None or organisation is None:
            continue
        values = {"code": code, "name": name, "organisation_id": organisation.id}
        old = known.get(code)
        differs = old is not None and (old.name, old.organisation_id) != (name, organisation.id)
        draft.count(is_new=old is None, differs=differs)
        if old is None:
            inserts.append({**values, "public_id": s.new_public_id()})
        elif differs:
            updates.append({"id": old.id, **values})
    _once(asked, "code")
    draft.later(lambda: draft.insert(s.venues, inserts))
    draft.later(lambda: draft.update(s.venues, updates))


def _placements(draft: _Draft) -> None:
    venues, devices = draft.known(s.venues), draft.known(s.devices, "name")
    wanted: list[_Dated] = []
    for row in draft.rows:
        # A device's name may hold blanks: it is no code.
        name = row.text("device")
        device = None if name is None else devices.get(name)
        if name is not None and device is None:
            row.fail("device", "没有这个名称的设备")
        venue = _reference(row, "venue", venues, "会场")
        validity = _validity(draft, row)
        if device is not None and venue is not None and validity is not None:
            wanted.append(_Dated(device.id, validity, venue.id, None, row))
    kept: dict[tuple[Hashable, int], _Dated] = {
        (row.device_id, row.valid_from_ms): _Dated(
            row.device_id,
            Validity(row.valid_from_ms, row.valid_to_ms),
            row.venue_id,
            row.id,
            None,
        )
        for row in draft.conn.execute(select(s.placements))
    }
    wanted = _with_known_ends(kept, wanted)
    _count_dated(draft, kept, wanted)
    _dated(
        draft,
        s.placements,
        kept,
        wanted,
        lambda each: {
            "device_id": each.key,
            "venue_id": each.value,
            "valid_from_ms": each.validity.from_ms,
            "valid_to_ms": each.validity.to_ms,
        },
        "该设备同时在另一会场",
    )


def _count_dated(
    draft: _Draft, kept: Mapping[tuple[Hashable, int], _Dated], wanted: Iterable[_Dated]
) -> None:
    for each in wanted:
        old = kept.get((each.key, each.validity.from_ms))
        draft.count(
            is_new=old is None,
            differs=old is not None and (old.validity, old.value) != (each.validity, each.value),
        )


def _cards(draft: _Draft) -> None:
    known, members = draft.known(s.cards), draft.known(s.members)
    codes = {row.id: code for code, row in known.items()}
    c = s.credentials.c
    credentials = {
        (row.scheme, row.issuer, row.value): row
        for row in draft.conn.execute(select(c.id, c.scheme, c.issuer, c.value, c.card_id))
    }
    kept: dict[tuple[Hashable, int], _Dated] = {
        (codes[row.card_id], row.valid_from_ms): _Dated(
            codes[row.card_id],
            Validity(row.valid_from_ms, row.valid_to_ms),
            row.member_id,
            row.id,
            None,
        )
        for row in draft.conn.execute(select(s.bindings))
    }
    numbers: dict[Credential, tuple[Row, str]] = {}
    cards: dict[str, Row] = {}
    wanted: list[_Dated] = []
    for row in draft.rows:
        code = row.code("card")
        credential = _card_number(row)
        binding = _holder(draft, row, members)
        if code is None or credential is None or row.failed:
            continue
        cards.setdefault(code, row)
        first, its_card = numbers.setdefault(credential, (row, code))
        if its_card != code:
            row.fail("number", f"与第{first.number}行是同一个卡号，却属于另一张卡")
        old = credentials.get((credential.scheme, credential.issuer, credential.value))
        if old is not None and old.card_id is not None and codes[old.card_id] != code:
            row.fail("number", f"已登记为另一张卡“{codes[old.card_id]}”的卡号")
        is_new, differs = code not in known, old is None or old.card_id is None
        draft.touches_attendance |= is_new or differs
        if binding is not None:
            validity, member_id = binding
            [each] = _with_known_ends(kept, [_Dated(code, validity, member_id, None, row)])
            wanted.append(each)
            bound = kept.get((code, validity.from_ms))
            differs |= bound is None or (bound.validity, bound.value) != (each.validity, member_id)
        draft.count(is_new=is_new, differs=differs)
    draft.later(
        lambda: draft.insert(
            s.cards,
            [
                {"code": code, "public_id": s.new_public_id(), "status": CardStatus.ACTIVE.value}
                for code in cards
                if code not in known
            ],
        )
    )
    draft.later(
        lambda: _link_numbers(
            draft, {each: code for each, (_, code) in numbers.items()}, credentials
        )
    )
    ids = _Ids(draft, s.cards)
    _dated(
        draft,
        s.bindings,
        kept,
        wanted,
        lambda each: {
            "card_id": ids.of(str(each.key)),
            "member_id": each.value,
            "valid_from_ms": each.validity.from_ms,
            "valid_to_ms": each.validity.to_ms,
        },
        "这张卡同时由另一人持有",
    )


def _card_number(row: Row) -> Credential | None:
    text = row.text("format")
    number = row.code("number", spaced=True)
    if text is None or number is None:
        return None
    try:
        number_format = CardNumberFormat(text.lower())
    except ValueError:
        row.fail("format", "不认识：应为" + "、".join(CardNumberFormat) + "之一")
        return None
    try:
        return uid_from(number, number_format)
    except InvalidCredentialError as error:
        row.fail("number", f"不是这种格式的卡号：{error}")
        return None


def _holder(draft: _Draft, row: Row, members: Mapping[str, Any]) -> tuple[Validity, int] | None:
    if not row.has("member"):
        for column in ("from", "to"):
            if row.has(column):
                row.fail(column, "没有持卡人，却填了时间")
        return None
    member = _reference(row, "member", members, "党员")
    validity = _validity(draft, row)
    return None if member is None or validity is None else (validity, member.id)


def _link_numbers(
    draft: _Draft, numbers: Mapping[Credential, str], known: Mapping[Any, Any]
) -> None:
    ids = _Ids(draft, s.cards)
    inserts: list[dict[str, Any]] = []
    updates: list[dict[str, Any]] = []
    for each, code in numbers.items():
        old = known.get((each.scheme, each.issuer, each.value))
        if old is None:
            inserts.append(
                {
                    "scheme": each.scheme,
                    "issuer": each.issuer,
                    "value": each.value,
                    "card_id": ids.of(code),
                }
            )
        elif old.card_id is None:
            updates.append({"id": old.id, "card_id": ids.of(code)})
    draft.insert(s.credentials, inserts)
    draft.update(s.credentials, updates)


def _meetings(draft: _Draft) -> None:
    known, organisations = draft.known(s.meetings), draft.known(s.organisations)
    venues = draft.known(s.venues)
    inserts, updates, asked = [], [], []
    left: list[tuple[int, int]] = []
    for row in draft.rows:
        code, title = row.code("code"), row.text("title")
        organisation = _reference(row, "organisation", organisations, "组织")
        kind = row.term("kind", MeetingKind)
        venue = _reference(row, "venue", venues, "会场")
        starts_ms = row.moment_ms("start", draft.zone, timed=True)
        ends_ms = row.moment_ms("end", draft.zone, timed=True)
        grace = row.whole("grace_minutes", 0, 600) if row.has("grace_minutes") else None
        if code is not None:
            asked.append((row, code))
        if kind is not None and organisation is not None:
            _check_kind(row, kind, OrgKind(organisation.kind))
        if starts_ms is not None and ends_ms is not None:
            if ends_ms <= starts_ms:
                row.fail("end", "结束时间不晚于开始时间")
            elif ends_ms - starts_ms > MAX_MEETING_MINUTES * MINUTE_MS:
                row.fail("end", "会议超过24小时")
        if starts_ms is not None and not _is_sane(starts_ms, draft.zone):
            row.fail("start", f"年份应在{FIRST_DAY.year}到{LAST_DAY.year}之间")
        if row.failed or code is None or starts_ms is None or kind is None:
            continue
        old = known.get(code)
        if old is not None and not row.knows("grace_minutes"):
            grace = old.grace_minutes
        before = draft.policies.number(OPENS_BEFORE_MINUTES, starts_ms, organisation.id)
        if grace is None:
            grace = draft.policies.number(GRACE_MINUTES, starts_ms, organisation.id)
        values = {
            "code": code,
            "organisation_id": organisation.id,
            "kind": kind.value,
            "title": title,
            "venue_id": venue.id,
            "starts_ms": starts_ms,
            "ends_ms": ends_ms,
            "opens_ms": starts_ms - before * MINUTE_MS,
            "grace_minutes": grace,
        }
        differing = {
            name for name, value in values.items() if old is None or getattr(old, name) != value
        }
        draft.touches_attendance |= bool(differing - {"title"})
        draft.count(is_new=old is None, differs=bool(differing))
        if old is None:
            inserts.append({**values, "public_id": s.new_public_id()})
        elif differing:
            updates.append({"id": old.id, **values, "change": old.change + 1})
            if old.organisation_id != organisation.id:
                left.append((old.id, old.organisation_id))
    _once(asked, "code")
    draft.later(lambda: _leave(draft, left))
    draft.later(lambda: draft.insert(s.meetings, inserts))
    draft.later(lambda: draft.update(s.meetings, updates))
    draft.later(
        lambda: _take_part(
            draft, {each["code"]: each["organisation_id"] for each in inserts + updates}
        )
    )


def _leave(draft: _Draft, left: Iterable[tuple[int, int]]) -> None:
    mo = s.meeting_organisations.c
    for meeting_id, organisation_id in left:
        draft.conn.execute(
            delete(s.meeting_organisations).where(
                mo.meeting_id == meeting_id, mo.organisation_id == organisation_id
            )
        )


def _take_part(draft: _Draft, hosts: Mapping[str, int]) -> None:
    """Let each meeting's own organisation take part in it; others stay as they are."""
    if not hosts:
        return
    known = draft.known(s.meetings)
    mo = s.meeting_organisations.c
    kept = {
        (row.meeting_id, row.organisation_id)
        for row in draft.conn.execute(select(mo.meeting_id, mo.organisation_id))
    }
    rows = [(known[code].id, organisation_id) for code, organisation_id in hosts.items()]
    draft.insert(
        s.meeting_organisations,
        [
            {"meeting_id": meeting_id, "organisation_id": organisation_id}
            for meeting_id, organisation_id in rows
            if (meeting_id, organisation_id) not in kept
        ],
    )


def _is_sane(at_ms: int, zone: ZoneInfo) -> bool:
    first, after = span_ms(FIRST_DAY, LAST_DAY, zone)
    return first <= at_ms < after


def _check_kind(row: Row, kind: MeetingKind, organisation: OrgKind) -> None:
    match kind:
        case MeetingKind.PARTY_GROUP:
            if organisation is not OrgKind.GROUP:
                row.fail("kind", f"{organisation.zh}不开党小组会：应由党小组召开")
        case MeetingKind.BRANCH_ASSEMBLY | MeetingKind.BRANCH_COMMITTEE:
            if organisation in {OrgKind.GROUP, OrgKind.COMMITTEE}:
                row.fail("kind", f"{organisation.zh}不开{kind.zh}：应由党支部召开")
        case MeetingKind.PARTY_LECTURE | MeetingKind.THEME_PARTY_DAY:
            pass
        case _:
            assert_never(kind)


class _Ids:
    """Ids by code, looked up when the first is needed: after the file's own rows were inserted."""

    def __init__(self, draft: _Draft, table: Table) -> None:
        self._draft = draft
        self._table = table
        self._known: dict[str, Any] | None = None

    def of(self, code: str) -> int:
        if self._known is None:
            self._known = self._draft.known(self._table)
        key: int = self._known[code].id
        return key
