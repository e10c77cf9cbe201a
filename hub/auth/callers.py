"""Who asks: an account or a token, with its role, its sub-tree and perhaps its member."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, Table, select

from hub.auth.rights import Right, rights_of
from hub.domain.terms import Role
from hub.store import schema as s


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever asks. Exactly one of the two ids is set, but for the hub's own machine: neither."""

    name: str
    role: Role
    organisation_id: int
    organisation_public_id: str
    organisation: str
    """The organisation's name."""
    member_id: int | None = None
    account_id: int | None = None
    token_id: int | None = None

    @property
    def rights(self) -> frozenset[Right]:
        """All that it may do."""
        return rights_of(self.role, self.member_id)

    def may(self, right: Right) -> bool:
        """Whether it has this right; templates ask by `caller.may("VIEW")`."""
        return right in self.rights

    def is_same(self, account_id: int | None, token_id: int | None) -> bool:
        """Whether these ids, of a row written before, are this very caller."""
        return (self.account_id, self.token_id) == (account_id, token_id)


def select_callers(table: Table) -> Select[Any]:
    """Accounts or tokens with their organisations, a row being what `caller_of` takes."""
    o = s.organisations.c
    return select(
        table.c.id,
        table.c.name,
        table.c.role,
        table.c.member_id,
        table.c.organisation_id,
        o.public_id.label("organisation_public_id"),
        o.name.label("organisation"),
    ).join_from(table, s.organisations, o.id == table.c.organisation_id)


def caller_of(row: Row[Any], table: Table) -> Caller:
    """The caller in a row of `select_callers(table)`."""
    return Caller(
        row.name,
        Role(row.role),
        row.organisation_id,
        str(row.organisation_public_id),
        row.organisation,
        row.member_id,
        account_id=row.id if table is s.accounts else None,
        token_id=row.id if table is s.tokens else None,
    )
