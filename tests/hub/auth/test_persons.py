"""Nobody decides on their own case by a second account or a token."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, select

from hub import objections, statements
from hub.auth import grants
from hub.auth.accounts import prepare, reset_password
from hub.auth.callers import Caller, caller_of, person_of, select_callers
from hub.auth.tokens import caller_by_token
from hub.domain.terms import Role
from hub.meetings import MeetingError
from hub.objections import ObjectionError
from hub.store import schema as s
from tests.hub.world import World, district, minutes, public_id

AFTER = minutes(300)


@pytest.fixture
def world(engine: Engine) -> Iterator[World]:
    with engine.begin() as conn:
        yield district(conn)


def account(world: World, login: str, role: Role, member: str | None = None) -> Caller:
    """Made by the hub's own machine."""
    key = world.add(
        s.accounts,
        login=login,
        name=login,
        role=role.value,
        organisation_id=world.ids["甲"],
        member_id=None if member is None else world.ids[member],
        password="x",
        must_change=False,
        public_id=s.new_public_id(),
        created_ms=0,
    )
    return caller(world.conn, key)


def caller(conn: Connection, account_id: int) -> Caller:
    row = conn.execute(select_callers(s.accounts).where(s.accounts.c.id == account_id)).one()
    return caller_of(row, s.accounts)


def granted(world: World, by: Caller, login: str, role: Role, member: str | None = None) -> Caller:
    grants.create_account(
        world.conn,
        by,
        prepare(),
        login=login,
        name=login,
        role=role,
        organisation=public_id("甲"),
        member=None if member is None else public_id(member),
        no_member=member is None,
        now_ms=minutes(0),
    )
    key = world.conn.scalars(select(s.accounts.c.id).filter_by(login=login)).one()
    return caller(world.conn, key)


def token(world: World, by: Caller, name: str, role: Role = Role.SECRETARY) -> Caller:
    _, secret = grants.create_token(
        world.conn,
        by,
        name=name,
        role=role,
        organisation=public_id("甲"),
        expires_ms=None,
        now_ms=minutes(0),
    )
    found = caller_by_token(world.conn, secret, minutes(1))
    assert found is not None
    return found


def is_same(world: World, one: Caller, other: Caller) -> bool:
    found = [
        person_of(world.conn, each.name, each.account_id, each.token_id) for each in (one, other)
    ]
    assert found[0].is_same(found[1]) == found[1].is_same(found[0])
    return found[0].is_same(found[1])


def test_what_somebody_made_is_theirs(world: World) -> None:
    operator = account(world, "operator", Role.OPERATOR, "赵")
    other = account(world, "other", Role.OPERATOR)
    clerk = granted(world, operator, "clerk", Role.SECRETARY)
    program = token(world, operator, "program", Role.OPERATOR)
    of_program = token(world, program, "of program")
    of_clerk = token(world, clerk, "of clerk")
    mine = account(world, "mine", Role.MEMBER, "赵")
    for each in (clerk, program, of_program, of_clerk, mine):
        assert is_same(world, operator, each), each.name
        assert not is_same(world, other, each), each.name
    assert is_same(world, of_program, mine)


def test_a_members_account_is_that_members_whoever_made_it(world: World) -> None:
    operator = account(world, "operator", Role.OPERATOR, "赵")
    wang = granted(world, operator, "wang", Role.SECRETARY, "王")
    assert not is_same(world, operator, wang)
    assert not is_same(world, operator, token(world, wang, "wang's"))


def test_who_resets_an_account_of_no_member_has_it(world: World) -> None:
    operator = account(world, "operator", Role.OPERATOR, "赵")
    colleague = account(world, "colleague", Role.SECRETARY)
    assert not is_same(world, operator, colleague)
    row = world.conn.execute(select(s.accounts).filter_by(id=colleague.account_id)).one()
    grants.reset_account(world.conn, operator, prepare(), row.public_id, minutes(0))
    assert is_same(world, operator, colleague)
    reset_password(world.conn, row.id, "x", None)
    assert not is_same(world, operator, colleague), "by the hub's own machine since"


def test_the_hubs_machine_is_nobody(world: World) -> None:
    nobody = person_of(world.conn, "hub 命令行", None, None)
    assert not nobody.is_same(nobody)


def ask(world: World, who: Caller, member: str) -> Any:
    return statements.ask_back_fill(
        world.conn, who, public_id("会"), public_id(member), "忘了带卡", AFTER
    )


@pytest.mark.parametrize("how", ["clerk", "token", "name"])
def test_nobody_grants_their_own_back_fill(world: World, how: str) -> None:
    operator = account(world, "operator", Role.OPERATOR, "赵")
    asked = ask(world, operator, "赵")
    match how:
        case "clerk":
            again = granted(world, operator, "clerk", Role.SECRETARY)
        case "token":
            again = token(world, operator, "statistics")
        case _:
            made = account(world, "x", Role.SECRETARY)
            again = Caller(
                "operator", made.role, made.organisation_id, "", "", account_id=made.account_id
            )
    with pytest.raises(MeetingError):
        statements.decide(world.conn, again, asked, AFTER, granted=True)
    statements.decide(
        world.conn, account(world, "other", Role.SECRETARY), asked, AFTER, granted=True
    )


def test_nobody_decides_on_their_own_objection_by_a_token(world: World) -> None:
    operator = account(world, "operator", Role.OPERATOR, "赵")
    made = objections.object_to(world.conn, operator, public_id("会"), "我到了", AFTER)
    found = objections.find_objection(world.conn, world.ids["甲"], UUID(made))
    for again in (
        token(world, operator, "statistics"),
        granted(world, operator, "clerk", Role.SECRETARY),
    ):
        assert objections.obstacle(world.conn, again, found) is not None
        with pytest.raises(ObjectionError):
            objections.decide(world.conn, again, UUID(made), upheld=True, reason="x", now_ms=AFTER)
    other = account(world, "other", Role.SECRETARY)
    assert objections.obstacle(world.conn, other, found) is None


def test_nor_on_what_one_stated_by_a_token(world: World) -> None:
    operator = account(world, "operator", Role.OPERATOR)
    program = token(world, operator, "program")
    statements.witness(world.conn, program, public_id("会"), AFTER, member=public_id("李"))
    li = account(world, "li", Role.MEMBER, "李")
    made = objections.object_to(world.conn, li, public_id("会"), "我没到", AFTER)
    found = objections.find_objection(world.conn, world.ids["甲"], UUID(made))
    assert objections.obstacle(world.conn, operator, found) is not None
    assert objections.obstacle(world.conn, account(world, "z", Role.SECRETARY), found) is None


@pytest.mark.parametrize("by_token", [False, True])
def test_nobody_enters_their_own_signature(world: World, by_token: bool) -> None:
    wang = account(world, "wang", Role.OPERATOR, "王")
    who = token(world, wang, "mine") if by_token else wang
    meeting, both = public_id("会"), [public_id("王"), public_id("李")]
    with pytest.raises(MeetingError, match="自己的签名"):
        statements.enter_sheet(world.conn, who, meeting, AFTER, members=both)
    with pytest.raises(MeetingError, match="自己的签名"):
        statements.enter_sheet(world.conn, who, meeting, AFTER, codes=["王"])
    with pytest.raises(MeetingError, match="自己到场"):
        statements.witness(world.conn, who, meeting, AFTER, member=public_id("王"))
    assert world.conn.execute(select(s.declarations)).all() == []
    other = account(world, "other", Role.SECRETARY)
    statements.enter_sheet(world.conn, other, meeting, AFTER, members=both)
    entered = statements.enter_sheet(world.conn, who, meeting, AFTER, members=both)
    assert len(entered) == 2, "what stands may be sent again"
