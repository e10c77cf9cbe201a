"""Numbers of policy, as dated data: what holds, for whom, from when, and on whose word.

The only reader of the `policies` table. A row for an organisation holds for all below it, a nearer
row before a farther one; among rows of one organisation the latest that has begun holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, select

from hub.store.schema import organisations, policies

TIME_ZONE: Final = "time_zone"
OPENS_BEFORE_MINUTES: Final = "check_in_opens_before_minutes"
GRACE_MINUTES: Final = "grace_minutes"
BACK_FILL_DAYS: Final = "back_fill_days"
BACK_FILL_PER_YEAR: Final = "back_fill_per_year"
QUORUM_ASSEMBLY: Final = "quorum_assembly"


@dataclass(frozen=True, slots=True)
class Policy:
    """A row: the value from `valid_from_ms` on, and the source that it cites."""

    value: str
    valid_from_ms: int
    source: str


class Policies:
    """All policies, loaded once, to be asked many times."""

    def __init__(
        self,
        rows: Mapping[tuple[str, int | None], Sequence[Policy]],
        parents: Mapping[int, int | None],
    ) -> None:
        """`rows` by (name, organisation id or None for everywhere)."""
        self._rows = rows
        self._parents = parents

    @classmethod
    def load(cls, conn: Connection) -> Self:
        """Everything that the database holds now."""
        rows: dict[tuple[str, int | None], list[Policy]] = {}
        p = policies.c
        for row in conn.execute(
            select(p.name, p.organisation_id, p.value, p.valid_from_ms, p.source)
        ):
            rows.setdefault((row.name, row.organisation_id), []).append(
                Policy(row.value, row.valid_from_ms, row.source)
            )
        parents: dict[int, int | None] = {}
        if any(organisation is not None for _, organisation in rows):
            parents = {
                row.id: row.parent_id
                for row in conn.execute(select(organisations.c.id, organisations.c.parent_id))
            }
        return cls(rows, parents)

    def at(self, name: str, at_ms: int, organisation_id: int | None = None) -> Policy:
        """What holds at `at_ms` for the organisation, or everywhere where None is asked.

        Raises LookupError where nothing does.
        """
        where: int | None = organisation_id
        while True:
            begun = [
                each for each in self._rows.get((name, where), ()) if each.valid_from_ms <= at_ms
            ]
            if begun:
                return max(begun, key=lambda each: each.valid_from_ms)
            if where is None:
                raise LookupError(f"no policy {name!r} holds at {at_ms}")
            where = self._parents.get(where)

    def number(self, name: str, at_ms: int, organisation_id: int) -> int:
        """A policy that is a whole number, of minutes or days or times as its name says."""
        return int(self.at(name, at_ms, organisation_id).value)

    def zone(self, at_ms: int) -> ZoneInfo:
        """The district's time zone."""
        return ZoneInfo(self.at(TIME_ZONE, at_ms).value)
