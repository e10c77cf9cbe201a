"""Who asks: an account or a token, with its role, its sub-tree and perhaps its member.

And who that is: `person_of` follows a token to whoever made it, and an account that names no member
to whoever gave it its password.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, select

from hub.auth.rights import Right, rights_of
from hub.domain.stating import Person
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


def person_of(conn: Connection, name: str, account_id: int | None, token_id: int | None) -> Person:
    """All that is known to be theirs who acted, or act, under this name with one of the two.

    A member's account is that member's, whoever made it: the member is told. The hub's own machine,
    with neither id, is nobody.
    """
    accounts: set[int] = set()
    tokens: set[int] = set()
    members: set[int] = set()
    here = account_id
    if token_id is not None:
        t = s.tokens.c
        tokens.add(token_id)
        made = conn.execute(select(t.member_id, t.made_by_account_id).where(t.id == token_id)).one()
        if made.member_id is not None:
            members.add(made.member_id)
        here = made.made_by_account_id
    own = here
    while here is not None and here not in accounts:
        a = s.accounts.c
        accounts.add(here)
        row = conn.execute(select(a.member_id, a.made_by_account_id).where(a.id == here)).one()
        if row.member_id is not None:
            members.add(row.member_id)
        here = None if row.member_id is not None else row.made_by_account_id
    is_machine = account_id is None and token_id is None
    return Person(
        own,
        frozenset(accounts),
        frozenset(tokens),
        frozenset(members),
        "" if is_machine else name,
    )
