"""Whose people they are: of whom a file may speak that an operator of a sub-tree imports.

Promises: it may speak of those who belong to the scope now, and give them places there; of those
who left it may only repeat what is known. Nobody is given a place that would show what they did
while they were members elsewhere: whoever is a member of an organisation outside of the scope, or
was, is on a committee, in a group or in an office of the scope only while a member in it. A
transfer is imported by whoever is above both organisations.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, select

from hub.domain.attendance import Validity
from hub.domain.terms import Body, OrgKind
from hub.store import schema as s
from hub.store.scope import Everything, Scope, subtree

STRANGER: Final = (
    "这个编号在您的管理范围以外已有人使用：若是另一个人，请换一个编号；若是此人转入，请由上级导入"
)
LEFT: Final = "此人现在不是您管理的组织的党员，不能由您更改：请由上级导入"
ELSEWHERE: Final = (
    "此人曾是或现是别处的党员，这段时间并不都是您管理的组织的党员：请改填时间，或请由上级导入"
)


@dataclass(frozen=True, slots=True)
class _Place:
    organisation_id: int
    validity: Validity


@dataclass(frozen=True, slots=True)
class People:
    """The members that there are, by id, as a scope sees them."""

    is_everything: bool = False
    own: frozenset[int] = frozenset()
    """Who belongs to the scope now."""
    former: frozenset[int] = frozenset()
    """Others who have a place in it, or had one."""
    placed: frozenset[int] = frozenset()
    """Who has a place anywhere, or had one."""
    abroad: frozenset[int] = frozenset()
    """Who is a member outside of it, or was."""
    _homes: frozenset[int] = field(default=frozenset(), repr=False)

    @classmethod
    def load(cls, conn: Connection, scope: Scope, now_ms: int) -> "People":
        """Whoever has a place, or had one."""
        if isinstance(scope, Everything):
            return cls(is_everything=True)
        o, m = s.organisations.c, s.memberships.c
        inside = frozenset(conn.scalars(select(subtree(scope).c.id)))
        top = conn.execute(select(o.kind, o.parent_id).where(o.id == scope)).one()
        # A group's people are members in the branch that it is a part of.
        is_group = top.kind == OrgKind.GROUP.value
        around = inside | {top.parent_id} if is_group and top.parent_id is not None else inside
        groups = frozenset(conn.scalars(select(o.id).where(o.kind == OrgKind.GROUP.value)))
        homes: dict[int, list[_Place]] = defaultdict(list)
        others: dict[int, list[_Place]] = defaultdict(list)
        for row in conn.execute(
            select(m.member_id, m.organisation_id, m.body, m.valid_from_ms, m.valid_to_ms)
        ):
            place = _Place(row.organisation_id, Validity(row.valid_from_ms, row.valid_to_ms))
            is_home = row.body == Body.MEMBER.value and row.organisation_id not in groups
            (homes if is_home else others)[row.member_id].append(place)
        own, former = set(), set()
        for key in homes.keys() | others.keys():
            decide = others[key] if is_group else homes[key] or others[key]
            if any(each.organisation_id in inside for each in _at(decide, now_ms)):
                own.add(key)
            elif any(each.organisation_id in inside for each in homes[key] + others[key]):
                former.add(key)
        return cls(
            is_everything=False,
            own=frozenset(own),
            former=frozenset(former),
            placed=frozenset(homes.keys() | others.keys()),
            abroad=frozenset(
                key
                for key, several in homes.items()
                if any(each.organisation_id not in around for each in several)
            ),
            _homes=frozenset(around - groups),
        )

    def refused(self, member: Any, name: str | None) -> str | None:
        """Why a file may not speak of a member who is known, by that name; it tells no other."""
        if self.is_everything or member.id in self.own:
            return None
        if member.id in self.former:
            return LEFT if name not in {None, member.name} else None
        if member.id in self.placed or name not in {None, member.name}:
            return STRANGER
        return None

    def is_home(self, organisation_id: int, body: Body) -> bool:
        """Whether a place is that of a member of the scope, a group being a part of one."""
        return body is Body.MEMBER and organisation_id in self._homes

    def place_refused(
        self, member_id: int | None, validity: Validity, homes: Iterable[Validity] | None
    ) -> str | None:
        """Why a new or other place cannot be given to a member whose homes in the scope these are.

        `homes` None: the place is a home itself. `member_id` None: of a new member.
        """
        if member_id is None or self.is_everything:
            return None
        if member_id in self.former:
            return LEFT
        if homes is None or member_id not in self.abroad or _cover(homes, validity):
            return None
        return ELSEWHERE


def _at(places: Iterable[_Place], at_ms: int) -> list[_Place]:
    """The places of that moment; where there is none the last before it, or else the first."""
    ordered = sorted(places, key=lambda each: each.validity.from_ms)
    held = [each for each in ordered if each.validity.holds(at_ms)]
    before = [each for each in ordered if each.validity.from_ms <= at_ms]
    return held or before[-1:] or ordered[:1]


def _cover(homes: Iterable[Validity], validity: Validity) -> bool:
    """Whether at every moment of `validity` one of them holds."""
    at_ms = validity.from_ms
    for each in sorted(homes, key=lambda each: each.from_ms):
        if each.holds(at_ms):
            if each.to_ms is None:
                return True
            at_ms = each.to_ms
    return validity.to_ms is not None and at_ms >= validity.to_ms
