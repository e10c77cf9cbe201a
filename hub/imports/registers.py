"""The rules of each register: what its rows must say, and what they come to.

Promises: everything wrong with a file is noted at its row and column; a row's key decides what it
is the same as, so that the same file again changes nothing. What a file does not mention stays as
it is, a column that it does not have included: nothing is ever removed. A name that differs from
the one a member's code has already is taken for another person's, and refused, unless it is said
that people are renamed.

Dates are in the district's time zone; an end given as a date counts with its whole day.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, assert_never
from zoneinfo import ZoneInfo

from sqlalchemy import select, update

from hub.days import FIRST_DAY, LAST_DAY, span_ms
from hub.domain.attendance import MINUTE_MS, Validity
from hub.domain.stating import Times, kind_refused, move_refused
from hub.domain.terms import Body, CardStatus, MeetingKind, Office, OrgKind
from hub.imports.draft import (
    OUTSIDE,
    Dated,
    Draft,
    Ids,
    Kept,
    Named,
    bring,
    completed,
    differing,
    once,
    validity_of,
)
from hub.imports.people import LEFT, People
from hub.imports.rows import Row
from hub.imports.words import CARD_FORMATS, VOTES, InTheCard, Register, Votes
from hub.store import schema as s
from hub.store.bulk import chunks
from hub.store.policies import GRACE_MINUTES, OPENS_BEFORE_MINUTES
from hub.store.statement_query import standing_of
from protocol.credential import (
    CardNumberFormat,
    Credential,
    InvalidCredentialError,
    classic_sector_credential,
    cpu_file_credential,
    uid_from,
)

MAX_MEETING_MINUTES: Final = 24 * 60

_PARENTS: Final[Mapping[OrgKind, frozenset[OrgKind]]] = {
    OrgKind.COMMITTEE: frozenset({OrgKind.COMMITTEE}),
    OrgKind.GENERAL_BRANCH: frozenset({OrgKind.COMMITTEE}),
    OrgKind.BRANCH: frozenset({OrgKind.COMMITTEE, OrgKind.GENERAL_BRANCH}),
    OrgKind.GROUP: frozenset({OrgKind.BRANCH}),
}
_ONE_AT_A_TIME: Final = frozenset({Office.SECRETARY, Office.GROUP_LEADER})
"""Offices that an organisation has once: whoever left it must not go on to speak for it."""


def draw_up(draft: Draft, register: Register) -> None:
    """Note in `draft` what its rows come to, and in the rows what is wrong with them."""
    match register:
        case Register.ORGANISATIONS:
            _organisations(draft)
        case Register.MEMBERS:
            _members(draft)
        case Register.OFFICES:
            _offices(draft)
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


# --- Organisations --------------------------------------------------------------------------


def _organisations(draft: Draft) -> None:
    known = draft.known(s.organisations)
    by_id = {row.id: code for code, row in known.items()}
    kinds = {code: OrgKind(row.kind) for code, row in known.items()}
    parents = {code: by_id.get(row.parent_id) for code, row in known.items()}
    inside = draft.inside(known, "id")
    taken: dict[str, tuple[Row, str, OrgKind, str | None]] = {}
    asked = []
    for row in draft.rows:
        code, name = row.code("code"), row.text("name")
        kind = row.term("kind", OrgKind)
        parent = row.code("parent") if row.has("parent") else None
        if code is not None:
            asked.append((row, code))
            if code in known and code not in inside:
                row.fail("code", OUTSIDE)
                continue
        if code is not None and kind is not None:
            if not draft.is_everything and not _may_be_below(draft, row, code, parent, parents):
                continue
            kinds[code], parents[code] = kind, parent
            if name is not None:
                taken.setdefault(code, (row, name, kind, parent))
    once(asked, "code")
    visible = {code for code in kinds if code not in known or code in inside}
    _check_tree(taken, kinds, parents, visible, draft.top_code)
    _check_meetings(draft, taken, known)
    inserts, updates = [], []
    for code, (row, name, kind, parent) in taken.items():
        old = known.get(code)
        values = {"code": code, "name": name, "kind": kind.value}
        columns = []
        if old is not None:
            kept = {"name": old.name, "kind": old.kind, "parent": by_id.get(old.parent_id)}
            now = {"name": name, "kind": kind.value, "parent": parent}
            columns = [column for column in kept if kept[column] != now[column]]
        draft.fate(row, is_new=old is None, columns=columns)
        if old is None:
            inserts.append({**values, "public_id": s.new_public_id()})
        elif columns:
            updates.append({"id": old.id, **values})
    draft.later(lambda: draft.insert(s.organisations, inserts))
    draft.later(lambda: draft.update(s.organisations, updates))
    draft.later(
        lambda: _link_parents(draft, {code: parent for code, (*_, parent) in taken.items()})
    )


def _check_meetings(
    draft: Draft,
    taken: Mapping[str, tuple[Row, str, OrgKind, str | None]],
    known: Mapping[str, Any],
) -> None:
    """Refuse that an organisation comes to be of a kind that does not hold its meetings."""
    changed = {
        known[code].id: (row, kind)
        for code, (row, _, kind, _) in taken.items()
        if code in known and known[code].kind != kind.value
    }
    m, mo = s.meetings.c, s.meeting_organisations.c
    for part in chunks(sorted(changed)):
        for organisation_id, held in draft.conn.execute(
            select(mo.organisation_id, m.kind)
            .join(s.meetings, m.id == mo.meeting_id)
            .where(mo.organisation_id.in_(part), mo.left_ms.is_(None))
            .distinct()
            .order_by(mo.organisation_id, m.kind)
        ):
            row, kind = changed[organisation_id]
            if not row.failed and kind_refused(MeetingKind(held), kind) is not None:
                row.fail(
                    "kind",
                    f"它有{MeetingKind(held).zh}，而{kind.zh}不开这种会：请另建一个组织",
                )


def _may_be_below(
    draft: Draft, row: Row, code: str, parent: str | None, parents: Mapping[str, str | None]
) -> bool:
    """Whether an organisation stays within the scope, whose topmost one stays where it is."""
    if code == draft.top_code:
        if parent == parents[code]:
            return True
        row.fail("parent", "您管理的最上级组织，它的上级不能由您更改")
        return False
    if parent is None:
        row.fail("parent", "不能为空：应在您管理的组织之下")
        return False
    return True


def _check_tree(
    taken: Mapping[str, tuple[Row, str, OrgKind, str | None]],
    kinds: Mapping[str, OrgKind],
    parents: Mapping[str, str | None],
    visible: set[str],
    top_code: str | None,
) -> None:
    children: dict[str | None, list[str]] = defaultdict(list)
    for code, parent in parents.items():
        children[parent].append(code)
    for code, (row, _, kind, parent) in taken.items():
        if parent is None:
            if kind is OrgKind.GROUP:
                row.fail("parent", "党小组必须属于一个党支部")
        elif parent not in visible and code != top_code:
            row.fail("parent", "没有这个编号的组织")
        elif _is_in_circle(code, parents):
            row.fail("parent", "上级绕了一圈又回到自己")
        elif kinds[parent] not in _PARENTS[kind]:
            row.fail("parent", f"{kind.zh}的上级不能是{kinds[parent].zh}")
        for child in children.get(code, ()):
            if child not in taken and kind not in _PARENTS[kinds[child]]:
                row.fail("kind", f"其下已有{kinds[child].zh}“{child}”，不能改为{kind.zh}")


def _link_parents(draft: Draft, parents: Mapping[str, str | None]) -> None:
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


# --- Members and their offices --------------------------------------------------------------


def _members(draft: Draft) -> None:
    known = draft.known(s.members)
    persons = draft.persons()
    organisations = draft.inside(draft.known(s.organisations), "id")
    where = Named(organisations, "组织")
    names: dict[str, tuple[Row, str]] = {}
    wanted: list[Dated] = []
    for row in draft.rows:
        code, name = row.code("code"), row.text("name")
        organisation = where.of(row, "organisation")
        body = row.term("body", Body, Body.MEMBER)
        votes = row.word("votes", VOTES) if row.has("votes") else Votes.YES
        validity = validity_of(draft, row)
        if code is not None and code in known and _is_refused(persons, row, known[code], name):
            continue
        if code is not None and name is not None:
            _check_name(draft, row, code, name, names, known)
        if None in {code, organisation, body, votes, validity}:
            continue
        assert code is not None  # noqa: S101
        assert body is not None  # noqa: S101
        assert validity is not None  # noqa: S101
        key = (code, organisation.id, body)
        wanted.append(Dated(key, validity, votes is Votes.YES, None, row))
    codes = {held.id: code for code, held in known.items()}
    kept: dict[tuple[Hashable, int], Dated] = {}
    for held in draft.conn.execute(select(s.memberships)):
        key = (codes[held.member_id], held.organisation_id, Body(held.body))
        lasts = Validity(held.valid_from_ms, held.valid_to_ms)
        kept[key, held.valid_from_ms] = Dated(key, lasts, held.votes, held.id, None)
    wanted = [completed(kept, each, "votes") for each in wanted]
    _refuse_places(persons, known, kept, wanted)
    renamed = {
        code for code, (_, name) in names.items() if code in known and known[code].name != name
    }
    for each in wanted:
        assert isinstance(each.key, tuple)  # noqa: S101
        assert each.row is not None  # noqa: S101
        old = kept.get(each.identity)
        name_too = ["name"] if each.key[0] in renamed else []
        draft.fate(
            each.row, is_new=old is None, columns=[*name_too, *differing(each, old, "votes")]
        )
    _one_home([*kept.values(), *wanted], _groups(draft))
    new = [code for code in names if code not in known]
    draft.touched.members.update(new)
    draft.later(
        lambda: draft.insert(
            s.members,
            [
                {"code": code, "name": names[code][1], "public_id": s.new_public_id()}
                for code in new
            ],
        )
    )
    draft.later(
        lambda: draft.update(
            s.members,
            [{"id": known[code].id, "name": names[code][1]} for code in sorted(renamed)],
        )
    )
    ids = Ids(draft, s.members)

    def values(each: Dated) -> dict[str, Any]:
        assert isinstance(each.key, tuple)  # noqa: S101
        member, organisation_id, its_body = each.key
        return {
            "member_id": ids.of(member),
            "organisation_id": organisation_id,
            "body": its_body.value,
            "votes": each.value,
            "valid_from_ms": each.validity.from_ms,
            "valid_to_ms": each.validity.to_ms,
        }

    def changed(each: Dated, old: Dated | None) -> None:
        assert isinstance(each.key, tuple)  # noqa: S101
        _touch(draft, each.key[1], each, old)

    bring(draft, s.memberships, kept, wanted, values, changed, "同一人在同一组织已有记录")


def _is_refused(persons: People, row: Row, member: Any, name: str | None) -> bool:
    refused = persons.refused(member, name)
    if refused is not None:
        row.fail("code", refused)
    return refused is not None


def _groups(draft: Draft) -> set[int]:
    o = s.organisations.c
    return set(draft.conn.scalars(select(o.id).where(o.kind == OrgKind.GROUP.value)))


def _refuse_places(
    persons: People, known: Mapping[str, Any], kept: Kept, wanted: Iterable[Dated]
) -> None:
    """Refuse places that the scope may not give, unless they are there already."""
    several = list(wanted)
    homes = _homes(persons, {**kept, **{each.identity: each for each in several}})
    for each in several:
        assert isinstance(each.key, tuple)  # noqa: S101
        assert each.row is not None  # noqa: S101
        code, organisation_id, body = each.key
        old = kept.get(each.identity)
        if code not in known or (old is not None and not differing(each, old, "votes")):
            continue
        is_home = persons.is_home(organisation_id, body)
        refused = persons.place_refused(
            known[code].id, each.validity, None if is_home else homes.get(code, [])
        )
        if refused is not None:
            each.row.fail("code" if refused is LEFT else "from", refused)


def _homes(persons: People, memberships: Kept) -> Mapping[Any, list[Validity]]:
    """By the member's code: when somebody is a member in the scope."""
    found: dict[Any, list[Validity]] = defaultdict(list)
    for each in memberships.values():
        assert isinstance(each.key, tuple)  # noqa: S101
        code, organisation_id, body = each.key
        if persons.is_home(organisation_id, body):
            found[code].append(each.validity)
    return found


def _check_name(
    draft: Draft,
    row: Row,
    code: str,
    name: str,
    names: dict[str, tuple[Row, str]],
    known: Mapping[str, Any],
) -> None:
    first, first_name = names.setdefault(code, (row, name))
    if first_name != name:
        row.fail("name", f"与第{first.number}行编号相同，姓名却不同")
    elif not draft.renames and code in known and known[code].name != name:
        row.fail(
            "name",
            f"编号“{code}”已是“{known[code].name}”：若是另一个人，请换一个编号；"
            "若确实改了姓名，请在导入时选择允许改名（命令行加 --rename）",
        )


def _touch(draft: Draft, organisation_id: int, each: Dated, old: Dated | None) -> None:
    draft.touched.places.append((organisation_id, each.validity))
    if old is not None:
        draft.touched.places.append((organisation_id, old.validity))


def _one_home(memberships: Iterable[Dated], groups: set[int]) -> None:
    """Refuse that somebody is a member of two organisations at once; a group is part of one."""
    homes: dict[str, dict[tuple[int, int], Dated]] = defaultdict(dict)
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
                        "同一人同时是两个组织的党员：请先填写前一段的结束时间（委员另填身份 body）",
                    )
                    break


def _offices(draft: Draft) -> None:
    persons = draft.persons()
    seen = {
        code: row
        for code, row in draft.known(s.members).items()
        if persons.is_everything or row.id in persons.own | persons.former
    }
    members = Named(seen, "党员", by_name=False)
    where = Named(draft.inside(draft.known(s.organisations), "id"), "组织")
    wanted: list[Dated] = []
    for row in draft.rows:
        member, organisation = members.of(row, "member"), where.of(row, "organisation")
        office = row.term("office", Office)
        validity = validity_of(draft, row)
        if None in {member, organisation, office, validity}:
            continue
        assert validity is not None  # noqa: S101
        key = (member.id, organisation.id, office)
        wanted.append(Dated(key, validity, "", None, row))
    kept: dict[tuple[Hashable, int], Dated] = {}
    for held in draft.conn.execute(select(s.offices)):
        key = (held.member_id, held.organisation_id, Office(held.office))
        lasts = Validity(held.valid_from_ms, held.valid_to_ms)
        kept[key, held.valid_from_ms] = Dated(key, lasts, "", held.id, None)
    wanted = [completed(kept, each) for each in wanted]
    _refuse_offices(draft, persons, kept, wanted)
    _count(draft, kept, wanted)
    _one_holder([*kept.values(), *wanted])

    def values(each: Dated) -> dict[str, Any]:
        assert isinstance(each.key, tuple)  # noqa: S101
        member_id, organisation_id, its_office = each.key
        return {
            "member_id": member_id,
            "organisation_id": organisation_id,
            "office": its_office.value,
            "valid_from_ms": each.validity.from_ms,
            "valid_to_ms": each.validity.to_ms,
        }

    def changed(each: Dated, old: Dated | None) -> None:
        assert isinstance(each.key, tuple)  # noqa: S101
        _touch(draft, each.key[1], each, old)

    bring(draft, s.offices, kept, wanted, values, changed, "同一人在同一组织已有这一职务")


def _refuse_offices(draft: Draft, persons: People, kept: Kept, wanted: Iterable[Dated]) -> None:
    m = s.memberships.c
    homes: dict[int, list[Validity]] = defaultdict(list)
    for held in draft.conn.execute(select(s.memberships).where(m.body == Body.MEMBER.value)):
        if persons.is_home(held.organisation_id, Body.MEMBER):
            homes[held.member_id].append(Validity(held.valid_from_ms, held.valid_to_ms))
    for each in wanted:
        assert isinstance(each.key, tuple)  # noqa: S101
        assert each.row is not None  # noqa: S101
        member_id, *_ = each.key
        old = kept.get(each.identity)
        if old is not None and not differing(each, old):
            continue
        refused = persons.place_refused(member_id, each.validity, homes.get(member_id, []))
        if refused is not None:
            each.row.fail("member" if refused is LEFT else "from", refused)


def _one_holder(offices: Iterable[Dated]) -> None:
    """Refuse that two people hold at once what an organisation has once."""
    held: dict[tuple[int, Office], dict[tuple[Hashable, int], Dated]] = defaultdict(dict)
    for each in offices:
        assert isinstance(each.key, tuple)  # noqa: S101
        _, organisation_id, office = each.key
        if office in _ONE_AT_A_TIME:
            held[organisation_id, office][each.identity] = each
    for (_, office), several in held.items():
        ordered = sorted(several.values(), key=lambda each: each.validity.from_ms)
        for number, later in enumerate(ordered):
            for earlier in ordered[:number]:
                row = later.row or earlier.row
                if (
                    row is not None
                    and earlier.key != later.key
                    and earlier.validity.overlaps(later.validity)
                ):
                    row.fail("office", f"这个组织同时另有{office.zh}：请先填写前任的结束时间")
                    break


# --- Venues and what stands there -----------------------------------------------------------


def _venues(draft: Draft) -> None:
    known = draft.known(s.venues)
    inside = draft.inside(known)
    where = Named(draft.inside(draft.known(s.organisations), "id"), "组织")
    inserts, updates, asked = [], [], []
    for row in draft.rows:
        code, name = row.code("code"), row.text("name")
        organisation = where.of(row, "organisation")
        if code is not None:
            asked.append((row, code))
            if code in known and code not in inside:
                row.fail("code", OUTSIDE)
                continue
        if code is None or name is None or organisation is None:
            continue
        values = {"code": code, "name": name, "organisation_id": organisation.id}
        old = known.get(code)
        columns = []
        if old is not None:
            columns = ["name"] * (old.name != name)
            columns += ["organisation"] * (old.organisation_id != organisation.id)
        draft.fate(row, is_new=old is None, columns=columns)
        if old is None:
            inserts.append({**values, "public_id": s.new_public_id()})
        elif columns:
            updates.append({"id": old.id, **values})
    once(asked, "code")
    draft.later(lambda: draft.insert(s.venues, inserts))
    draft.later(lambda: draft.update(s.venues, updates))


def _placements(draft: Draft) -> None:
    all_venues = draft.known(s.venues)
    inside = {row.id for row in draft.inside(all_venues).values()}
    where = Named(draft.inside(all_venues), "会场")
    devices = draft.devices()
    wanted: list[Dated] = []
    for row in draft.rows:
        # A device's name may hold blanks: it is no code.
        name = row.text("device")
        device = None if name is None else devices.get(name)
        if name is not None and device is None:
            row.fail("device", "没有这个名称的设备")
        venue = where.of(row, "venue")
        validity = validity_of(draft, row)
        if device is not None and venue is not None and validity is not None:
            wanted.append(Dated(device.id, validity, venue.id, None, row))
    kept: dict[tuple[Hashable, int], Dated] = {
        (row.device_id, row.valid_from_ms): Dated(
            row.device_id,
            Validity(row.valid_from_ms, row.valid_to_ms),
            row.venue_id,
            row.id,
            None,
            row.venue_id not in inside,
        )
        for row in draft.conn.execute(select(s.placements))
    }
    wanted = [completed(kept, each) for each in wanted]
    _count(draft, kept, wanted, "venue")

    def changed(each: Dated, old: Dated | None) -> None:
        assert isinstance(each.key, int)  # noqa: S101
        draft.touched.devices.add(each.key)
        for one in (each, old):
            if one is not None:
                assert isinstance(one.value, int)  # noqa: S101
                draft.touched.stood.append((one.value, one.validity))

    bring(
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
        changed,
        "该设备同时在另一会场",
    )


def _count(draft: Draft, kept: Kept, wanted: Iterable[Dated], *value: str) -> None:
    for each in wanted:
        assert each.row is not None  # noqa: S101
        old = kept.get(each.identity)
        draft.fate(each.row, is_new=old is None, columns=differing(each, old, *value))


# --- Cards ----------------------------------------------------------------------------------


def _cards(draft: Draft) -> None:
    known, all_members = draft.known(s.cards), draft.known(s.members)
    codes = {row.id: code for code, row in known.items()}
    people = draft.people(all_members)
    here = {row.id for row in people.values()}
    members = Named(people, "党员", by_name=False)
    c = s.credentials.c
    credentials = {
        (row.scheme, row.issuer, row.value): row
        for row in draft.conn.execute(select(c.id, c.scheme, c.issuer, c.value, c.card_id))
    }
    kept: dict[tuple[Hashable, int], Dated] = {
        (codes[row.card_id], row.valid_from_ms): Dated(
            codes[row.card_id],
            Validity(row.valid_from_ms, row.valid_to_ms),
            row.member_id,
            row.id,
            None,
            row.member_id not in here,
        )
        for row in draft.conn.execute(select(s.bindings))
    }
    foreign = {each.key for each in kept.values() if each.is_foreign}
    numbers: dict[Credential, tuple[Row, str]] = {}
    cards: dict[str, Row] = {}
    wanted: list[Dated] = []
    for row in draft.rows:
        code = row.code("card")
        credential = _card_number(row)
        binding = _holder(draft, row, members)
        if code in foreign:
            row.fail("card", "这张卡登记在您的管理范围以外")
        if code is None or credential is None or row.failed:
            continue
        cards.setdefault(code, row)
        first, its_card = numbers.setdefault(credential, (row, code))
        if its_card != code:
            row.fail("number", f"与第{first.number}行是同一个卡号，却属于另一张卡")
        old = credentials.get((credential.scheme, credential.issuer, credential.value))
        owner = None if old is None or old.card_id is None else codes[old.card_id]
        if owner is not None and owner != code:
            shown = "" if owner in foreign else f"“{owner}”"
            row.fail("number", f"已登记为另一张卡{shown}的卡号")
        is_new, columns = code not in known, ["number"] * (owner is None)
        if is_new or columns:
            draft.touched.cards.add(code)
        if binding is not None:
            validity, member_id = binding
            each = completed(kept, Dated(code, validity, member_id, None, row))
            wanted.append(each)
            _refuse_use(draft, row, each, kept, known.get(code))
            bound = kept.get(each.identity)
            columns += ["member"] if bound is None else differing(each, bound, "member")
        draft.fate(row, is_new=is_new, columns=columns)
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
    ids = Ids(draft, s.cards)
    bring(
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
        lambda each, _old: draft.touched.cards.add(str(each.key)),
        "这张卡同时由另一人持有",
    )


def _refuse_use(draft: Draft, row: Row, each: Dated, kept: Kept, card: Any) -> None:
    """Refuse that a file takes back a loss, or an end, by saying nothing of it."""
    to_ms, old = each.validity.to_ms, kept.get(each.identity)
    if card is not None and card.status != CardStatus.ACTIVE.value:
        ends = [held.validity.to_ms for held in kept.values() if held.key == each.key]
        last_ms = max((end for end in ends if end is not None), default=None)
        if last_ms is None:
            row.fail("card", f"这张卡已{CardStatus(card.status).zh}，不能登记持卡人")
        elif to_ms is None or to_ms > last_ms:
            row.fail(
                "to",
                f"这张卡已{CardStatus(card.status).zh}，登记到{_moment(last_ms, draft.zone)}为止："
                "请填写这个结束时间；卡又要用，请先在卡的页面恢复使用",
            )
    elif to_ms is None and old is not None and old.validity.to_ms is not None:
        row.fail(
            "to",
            f"这次登记已在{_moment(old.validity.to_ms, draft.zone)}结束："
            "请填写这个结束时间；卡又要用，请在卡的页面恢复使用",
        )


def _moment(at_ms: int, zone: ZoneInfo) -> str:
    """As a cell says it."""
    return f"{datetime.fromtimestamp(at_ms // 1000, zone):%Y-%m-%d %H:%M:%S}".removesuffix(":00")


def _card_number(row: Row) -> Credential | None:
    text = row.text("format")
    number = row.code("number", spaced=True)
    if text is None or number is None:
        return None
    number_format = CARD_FORMATS.get(text.lower())
    if number_format is None:
        row.fail("format", "不认识：应为" + "、".join(CARD_FORMATS) + "之一")
        return None
    if isinstance(number_format, InTheCard):
        return _in_the_card(row, number, number_format)
    if row.has("issuer"):
        row.fail("issuer", "这种格式的卡号没有发卡方：请空着")
        return None
    try:
        return uid_from(number, number_format)
    except InvalidCredentialError:
        row.fail("number", _why(number, number_format))
        return None


def _in_the_card(row: Row, number: str, scheme: InTheCard) -> Credential | None:
    """A number that a device reads from the card's content."""
    digits = re.sub(r"[ :-]", "", number)
    is_hex = re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", digits) is not None
    match scheme:
        case InTheCard.CPU_FILE:
            issuer = row.code("issuer", spaced=True)
            if issuer is None:
                return None
            issuer = re.sub(r"[ :-]", "", issuer)
            if not re.fullmatch(r"[0-9A-Fa-f]{16}", issuer):
                row.fail("issuer", "应为16位十六进制数字")
            elif not is_hex:
                row.fail("number", "应为偶数位的十六进制数字，如20位的序列号")
            elif not digits.strip("0") or not digits.upper().strip("F"):
                row.fail("number", "全是0或F，不是卡号")
            else:
                return cpu_file_credential(issuer, digits)
        case InTheCard.CLASSIC_SECTOR:
            numbering = row.code("issuer")
            if numbering is None or row.code("number") is None:
                return None
            if not number.strip("0"):
                row.fail("number", "全是0，不是卡号")
                return None
            try:
                return classic_sector_credential(numbering, number)
            except InvalidCredentialError:
                row.fail("number", "含有看不见的字符：请重新填写卡号和发卡方代码")
        case _:
            assert_never(scheme)
    return None


def _why(number: str, number_format: CardNumberFormat) -> str:
    digits = "".join(each for each in number if each not in " :-")
    match number_format:
        case CardNumberFormat.DEC8:
            return (
                "是8位写法，一个号码对应256张卡，分不清是哪一张：请重新导出为十六进制或十位十进制"
            )
        case CardNumberFormat.DEC10 | CardNumberFormat.DEC10_REVERSED:
            if not (digits.isdecimal() and len(digits) == 10):
                return "不是十位数字（是否丢了前面的0？请将该列设为文本格式）"
            if int(digits) >= 1 << 32:
                return "超出了十位卡号的范围（应小于4294967295）"
            if int(digits) == (1 << 32) - 1:
                return "全是F，不是卡号"
        case CardNumberFormat.HEX | CardNumberFormat.HEX_REVERSED:
            if any(each not in "0123456789abcdefABCDEF" for each in digits):
                return "含有十六进制以外的字符（只能有0-9和A-F）"
            if len(digits) not in {8, 14, 16, 20}:
                return f"有{len(digits)}位：卡号应为8、14、16或20位十六进制数字"
        case _:
            assert_never(number_format)
    if not digits.strip("0"):
        return "全是0，不是卡号"
    if not digits.upper().strip("F"):
        return "全是F，不是卡号"
    return "是随机卡号（08开头，多为手机），每次刷卡都不同，不能登记"


def _holder(draft: Draft, row: Row, members: Named) -> tuple[Validity, int] | None:
    if not row.has("member"):
        for column in ("from", "to"):
            if row.has(column):
                row.fail(column, "没有持卡人，却填了时间")
        return None
    member = members.of(row, "member")
    validity = validity_of(draft, row)
    return None if member is None or validity is None else (validity, member.id)


def _link_numbers(
    draft: Draft, numbers: Mapping[Credential, str], known: Mapping[Any, Any]
) -> None:
    ids = Ids(draft, s.cards)
    codes = {(each.scheme, each.issuer, each.value): code for each, code in numbers.items()}
    # A number that was a stranger's may have come in since the file was looked at: ingest does not
    # wait for an import. In its order, or each may wait for the other.
    new = sorted(codes.keys() - known.keys())
    draft.insert_new(
        s.credentials,
        [
            {"scheme": scheme, "issuer": issuer, "value": value, "card_id": ids.of(codes[key])}
            for key in new
            for scheme, issuer, value in [key]
        ],
        ["scheme", "issuer", "value"],
    )
    c = s.credentials.c
    unbound = select(c.id, c.scheme, c.issuer, c.value).where(
        c.card_id.is_(None), c.value.is_not(None)
    )
    draft.update(
        s.credentials,
        [
            {"id": row.id, "card_id": ids.of(codes[row.scheme, row.issuer, row.value])}
            for row in draft.conn.execute(unbound).all()
            if (row.scheme, row.issuer, row.value) in codes
        ],
    )


# --- Meetings -------------------------------------------------------------------------------

_COLUMNS_OF: Final = {
    "organisation_id": "organisation",
    "venue_id": "venue",
    "starts_ms": "start",
    "ends_ms": "end",
    "opens_ms": "start",
}
"""Where a value is not called as the column that says it."""


def _meetings(draft: Draft) -> None:
    known = draft.known(s.meetings)
    inside = draft.inside(known)
    where = Named(draft.inside(draft.known(s.organisations), "id"), "组织")
    venues = Named(draft.inside(draft.known(s.venues)), "会场")
    inserts, updates, asked = [], [], []
    left: list[tuple[int, int]] = []
    partners = _partners(draft)
    for row in draft.rows:
        code, title = row.code("code"), row.text("title")
        organisation = where.of(row, "organisation")
        kind = row.term("kind", MeetingKind)
        venue = venues.of(row, "venue")
        starts_ms, ends_ms = _times(draft, row)
        grace = row.whole("grace_minutes", 0, 600) if row.has("grace_minutes") else None
        if code is not None:
            asked.append((row, code))
            if code in known and code not in inside:
                row.fail("code", OUTSIDE)
        old = None if code is None else known.get(code)
        if kind is not None and organisation is not None:
            _check_kind(row, kind, organisation, old, partners)
        if row.failed or code is None or starts_ms is None or kind is None:
            continue
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
        differs = (
            [] if old is None else [name for name in values if getattr(old, name) != values[name]]
        )
        if old is not None and {"opens_ms", "starts_ms", "ends_ms"} & set(differs):
            _check_move(draft, row, old, values)
        columns = dict.fromkeys(_COLUMNS_OF.get(name, name) for name in differs)
        draft.fate(row, is_new=old is None, columns=columns)
        if old is None:
            inserts.append({**values, "public_id": s.new_public_id()})
        elif differs:
            updates.append({"id": old.id, **values, "change": old.change + 1})
            if old.organisation_id != organisation.id:
                left.append((old.id, old.organisation_id))
        if old is None or set(differs) - {"title"}:
            draft.touched.meetings.add(code)
            draft.touched.windows.append(
                (values["venue_id"], values["opens_ms"], values["ends_ms"])
            )
            if old is not None:
                draft.touched.windows.append((old.venue_id, old.opens_ms, old.ends_ms))
    once(asked, "code")
    draft.later(lambda: _leave(draft, left))
    draft.later(lambda: draft.insert(s.meetings, inserts))
    draft.later(lambda: draft.update(s.meetings, updates))
    draft.later(
        lambda: _take_part(
            draft, {each["code"]: each["organisation_id"] for each in inserts + updates}
        )
    )


def _check_move(draft: Draft, row: Row, old: Any, values: Mapping[str, Any]) -> None:
    was = Times(old.opens_ms, old.starts_ms, old.ends_ms, old.cancelled)
    to = Times(values["opens_ms"], values["starts_ms"], values["ends_ms"], old.cancelled)
    stated = {each.kind for each in standing_of(draft.conn, old.id)}
    wrong = move_refused(was, to, stated, draft.now_ms, draft.zone)
    if wrong is not None:
        row.fail("start", wrong)


def _check_kind(
    row: Row, kind: MeetingKind, host: Any, old: Any, partners: Mapping[int, set[OrgKind]]
) -> None:
    wrong = kind_refused(kind, OrgKind(host.kind))
    if wrong is not None:
        row.fail("kind", wrong)
    elif old is not None and kind.value != old.kind:
        for level in sorted(partners.get(old.id, ())):
            wrong = kind_refused(kind, level)
            if wrong is not None:
                row.fail("kind", f"还有别的组织联合参加，{wrong}")


def _partners(draft: Draft) -> Mapping[int, set[OrgKind]]:
    """By meeting: of what kinds the organisations are that take part in another's."""
    m, mo, o = s.meetings.c, s.meeting_organisations.c, s.organisations.c
    found: dict[int, set[OrgKind]] = defaultdict(set)
    for meeting_id, kind in draft.conn.execute(
        select(m.id, o.kind)
        .join(s.meeting_organisations, mo.meeting_id == m.id)
        .join(s.organisations, o.id == mo.organisation_id)
        .where(mo.organisation_id != m.organisation_id, mo.left_ms.is_(None))
    ):
        found[meeting_id].add(OrgKind(kind))
    return found


def _times(draft: Draft, row: Row) -> tuple[int | None, int | None]:
    starts_ms = row.moment_ms("start", draft.zone, timed=True)
    ends_ms = row.moment_ms("end", draft.zone, timed=True)
    if starts_ms is not None and ends_ms is not None:
        if ends_ms <= starts_ms:
            row.fail("end", "结束时间不晚于开始时间")
        elif ends_ms - starts_ms > MAX_MEETING_MINUTES * MINUTE_MS:
            row.fail("end", "会议超过24小时")
    if starts_ms is not None and not _is_sane(starts_ms, draft.zone):
        row.fail("start", f"年份应在{FIRST_DAY.year}到{LAST_DAY.year}之间")
    return starts_ms, ends_ms


def _leave(draft: Draft, left: Iterable[tuple[int, int]]) -> None:
    mo = s.meeting_organisations.c
    for meeting_id, organisation_id in left:
        draft.conn.execute(
            update(s.meeting_organisations)
            .where(
                mo.meeting_id == meeting_id,
                mo.organisation_id == organisation_id,
                mo.left_ms.is_(None),
            )
            .values(left_ms=draft.now_ms)
        )


def _take_part(draft: Draft, hosts: Mapping[str, int]) -> None:
    """Let each meeting's own organisation take part in it; others stay as they are."""
    if not hosts:
        return
    known = draft.known(s.meetings)
    mo = s.meeting_organisations.c
    kept = {
        (row.meeting_id, row.organisation_id): row
        for row in draft.conn.execute(select(s.meeting_organisations).where(mo.left_ms.is_(None)))
    }
    rows = [(known[code].id, organisation_id) for code, organisation_id in hosts.items()]
    draft.insert(
        s.meeting_organisations,
        [
            {
                "meeting_id": meeting_id,
                "organisation_id": organisation_id,
                "agreed_ms": draft.now_ms,
            }
            for meeting_id, organisation_id in rows
            if (meeting_id, organisation_id) not in kept
        ],
    )
    # It was asked to take part in what is its own meeting now.
    waiting = [kept[each].id for each in rows if each in kept and kept[each].agreed_ms is None]
    for part in chunks(waiting):
        draft.conn.execute(
            update(s.meeting_organisations).where(mo.id.in_(part)).values(agreed_ms=draft.now_ms)
        )


def _is_sane(at_ms: int, zone: ZoneInfo) -> bool:
    first, after = span_ms(FIRST_DAY, LAST_DAY, zone)
    return first <= at_ms < after
