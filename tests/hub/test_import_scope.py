"""An operator imports into their own sub-tree: nothing else is known, and nothing else changes.

And whatever was imported, in whatever order: what is derived is what a rebuild would give.
"""

import random
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, select

from hub.derive import derive_batch, rebuild_check
from hub.imports.plan import Report, import_file
from hub.imports.words import Register
from hub.store import schema as s
from hub.store.scope import Scope
from protocol.journal import KIND_ACTION, Act
from tests.hub.test_imports import held
from tests.hub.world import START, Entry, World, district, minutes, uid_of


def take(conn: Connection, register: Register, text: str, scope: Scope) -> Report:
    return import_file(conn, register, text.encode(), START, scope)


def two_branches(conn: Connection) -> World:
    """The district, with what each branch has of its own, and a group in 甲."""
    world = district(conn)
    world.organisation("甲一", "甲", kind="GROUP")
    world.venue("乙厅", "乙")
    world.device("二号", "乙厅")
    world.meeting("乙会", "乙", "乙厅")
    world.member("游", "乙", until=START)
    world.add(
        s.offices,
        member_id=world.ids["钱"],
        organisation_id=world.ids["乙"],
        office="SECRETARY",
        valid_from_ms=START - 1000,
    )
    return world


def card_of(world: World, member: str) -> Any:
    """(card's code, number)"""
    return world.conn.execute(
        select(s.cards.c.code, s.credentials.c.value)
        .join(s.bindings, s.bindings.c.card_id == s.cards.c.id)
        .join(s.credentials, s.credentials.c.card_id == s.cards.c.id)
        .where(s.bindings.c.member_id == world.ids[member])
    ).one()


OUTSIDE = [
    (Register.ORGANISATIONS, "code,name,kind,parent\n乙,改名,党支部,区\n", ["code"]),
    (Register.ORGANISATIONS, "code,name,kind,parent\n丙,丙,党支部,区\n", ["parent"]),
    (Register.ORGANISATIONS, "code,name,kind,parent\n丙,丙,党委,\n", ["parent"]),
    (Register.ORGANISATIONS, "code,name,kind,parent\n乙一,组,党小组,乙\n", ["parent"]),
    (Register.ORGANISATIONS, "code,name,kind,parent\n甲,甲名,党支部,乙\n", ["parent"]),
    (Register.ORGANISATIONS, "code,name,kind,parent\n甲,甲名,党支部,\n", ["parent"]),
    (Register.ORGANISATIONS, "code,name,kind,parent\n甲一,甲一名,党小组,乙\n", ["parent"]),
    (Register.MEMBERS, "code,name,organisation,from\n新,新,乙,2026-01-01\n", ["organisation"]),
    (Register.MEMBERS, "code,name,organisation,from\n新,新,乙名,2026-01-01\n", ["organisation"]),
    (Register.MEMBERS, "code,name,organisation,from\n钱,钱名,甲,2026-01-01\n", ["code"]),
    (Register.MEMBERS, "code,name,organisation,from\n游,冒名,甲,2026-01-01\n", ["code"]),
    (Register.OFFICES, "member,organisation,office,from\n钱,甲,书记,2026-01-01\n", ["member"]),
    (
        Register.OFFICES,
        "member,organisation,office,from\n李,乙,书记,2026-01-01\n",
        ["organisation"],
    ),
    (Register.VENUES, "code,name,organisation\n乙厅,甲厅,甲\n", ["code"]),
    (Register.VENUES, "code,name,organisation\n新厅,新厅,乙\n", ["organisation"]),
    (Register.VENUES, "code,name,organisation\n礼堂,礼堂名,乙\n", ["organisation"]),
    (Register.PLACEMENTS, "device,venue,from\n二号,礼堂,2026-01-01\n", ["device"]),
    (Register.PLACEMENTS, "device,venue,from\n一号,乙厅,2026-01-01\n", ["venue"]),
    (
        Register.MEETINGS,
        (
            "code,organisation,kind,title,venue,start,end\n"
            "乙会,甲,党课,抢,礼堂,2026-07-01 14:30,2026-07-01 15:30\n"
        ),
        ["code"],
    ),
    (
        Register.MEETINGS,
        (
            "code,organisation,kind,title,venue,start,end\n"
            "新会,乙,党课,课,乙厅,2026-07-01 14:30,2026-07-01 15:30\n"
        ),
        ["organisation", "venue"],
    ),
    (
        Register.CARDS,
        "card,member,format,number,from\n新卡,钱,hex,AABBCCDD,2026-01-01\n",
        ["member"],
    ),
    (
        Register.CARDS,
        "card,member,format,number,from\n{card},李,hex,AABBCCDD,2026-01-01\n",
        ["card"],
    ),
    (
        Register.CARDS,
        "card,member,format,number,from\n新卡,李,hex,{number},2026-01-01\n",
        ["number"],
    ),
]


@pytest.mark.parametrize(("register", "text", "columns"), OUTSIDE)
def test_what_lies_outside_is_unknown_and_stays_as_it_is(
    engine: Engine, register: Register, text: str, columns: list[str]
) -> None:
    with engine.begin() as conn:
        world = two_branches(conn)
        card, number = card_of(world, "钱")
        before = held(conn)
        report = take(conn, register, text.format(card=card, number=number), world.ids["甲"])
        assert sorted(str(each.column) for each in report.problems) == columns
        assert held(conn) == before
        for each in report.problems:
            assert each.message.count("乙") <= (each.value or "").count("乙")
            assert "钱名" not in str(each)


def test_within_the_sub_tree_everything_can_be_imported(engine: Engine) -> None:
    files = {
        Register.ORGANISATIONS: (
            "code,name,kind,parent\n甲,新甲名,党支部,区\n甲一,甲一名,党小组,甲\n甲二,二组,党小组,甲\n"
        ),
        Register.MEMBERS: (
            "code,name,organisation,from\n新,新,甲,2026-01-01\n李,李名,甲一,2026-01-01\n"
        ),
        Register.OFFICES: "member,organisation,office,from\n李,甲,书记,2026-01-01\n",
        Register.VENUES: "code,name,organisation\n小厅,小厅,甲二\n",
        Register.PLACEMENTS: "device,venue,from,to\n一号,小厅,2035-01-01,\n",
        Register.CARDS: "card,member,format,number,from\n新卡,新,hex,AABBCCDD,2026-01-01\n",
        Register.MEETINGS: (
            "code,organisation,kind,title,venue,start,end\n"
            "甲二会,甲二,党小组会,会,小厅,2026-07-01 14:30,2026-07-01 15:30\n"
        ),
    }
    with engine.begin() as conn:
        world = two_branches(conn)
        conn.execute(s.placements.update().values(valid_to_ms=START + 1))
        for register, text in files.items():
            report = take(conn, register, text, world.ids["甲"])
            assert report.problems == (), register
            assert report.added >= 1
            again = take(conn, register, text, world.ids["甲"])
            assert (again.added, again.changed) == (0, 0)
        # The district's own operator may take the same files, and others.
        for register, text in files.items():
            assert take(conn, register, text, world.ids["区"]).unchanged == text.count("\n") - 1
        moved = "code,name,organisation,from,to\n钱,钱名,甲,2035-01-01,\n"
        assert not take(conn, Register.MEMBERS, moved, world.ids["区"]).ok, "two homes at once"


PEOPLE = "code,name,organisation,body,from,to\n"
OFFICES = "member,organisation,office,from,to\n"
TRANSFER = f"{PEOPLE}周,周名,甲,党员,2025-03-20 11:06,2025-12-31\n周,周名,乙,党员,2026-01-01,\n"
"""The day it becomes known is in April."""


def _moved(conn: Connection) -> World:
    """周 was in 甲, in its group and in an office there; the district moved 周 to 乙."""
    world = two_branches(conn)
    world.member("周", "甲")
    top = world.ids["区"]
    assert take(conn, Register.MEMBERS, f"{PEOPLE}周,周名,甲一,党员,2025-06-01,\n", top).ok
    assert take(conn, Register.OFFICES, f"{OFFICES}周,甲,宣传委员,2025-06-01,\n", top).ok
    report = take(conn, Register.MEMBERS, TRANSFER, top)
    assert (report.problems, report.added, report.changed) == ((), 1, 1)
    return world


def test_a_transfer_is_imported_by_whoever_is_above_and_both_branches_go_on(
    engine: Engine,
) -> None:
    with engine.begin() as conn:
        world = _moved(conn)
        assert take(conn, Register.MEMBERS, TRANSFER, world.ids["区"]).unchanged == 2
        # The new branch has its member, in every place that begins after the first day there.
        own = (
            f"{PEOPLE}周,周名,乙,党员,2026-01-01,2030-12-31\n"
            "周,周名,乙,委员,2026-02-01,2030-06-30\n"
        )
        assert take(conn, Register.MEMBERS, own, world.ids["乙"]).problems == ()
        text = f"{OFFICES}周,乙,组织委员,2026-02-01,2030-06-30\n"
        assert take(conn, Register.OFFICES, text, world.ids["乙"]).added == 1
        # The old one may send its own list once more: it says what is known.
        [mine, _] = TRANSFER.splitlines()[1:]
        assert take(conn, Register.MEMBERS, f"{PEOPLE}{mine}\n", world.ids["甲"]).unchanged == 1
        text = f"{OFFICES}周,甲,宣传委员,2025-06-01,\n"
        assert take(conn, Register.OFFICES, text, world.ids["甲"]).unchanged == 1


@pytest.mark.parametrize(
    ("register", "text"),
    [
        (Register.MEMBERS, f"{PEOPLE}周,周名,甲,委员,2000-01-01,\n"),
        (Register.MEMBERS, f"{PEOPLE}周,周名,甲,委员,2025-06-01,2025-07-01\n"),
        (Register.MEMBERS, f"{PEOPLE}周,周名,甲一,党员,2025-06-01,2040-01-01\n"),
        (Register.MEMBERS, f"{PEOPLE}周,周名,甲一,党员,2000-01-01,2001-01-01\n"),
        (Register.MEMBERS, f"{PEOPLE}周,周名,甲,党员,2025-03-20 11:06,2025-11-30\n"),
        (Register.MEMBERS, f"{PEOPLE}周,改名,甲,党员,2025-03-20 11:06,2025-12-31\n"),
        (Register.OFFICES, f"{OFFICES}周,甲,副书记,2026-02-01,\n"),
        (Register.OFFICES, f"{OFFICES}周,甲,宣传委员,2025-06-01,2040-01-01\n"),
    ],
)
def test_a_former_branch_does_not_take_a_member_back_nor_rename_them(
    engine: Engine, register: Register, text: str
) -> None:
    with engine.begin() as conn:
        world = _moved(conn)
        conn.execute(s.members.update().where(s.members.c.code == "周").values(name="周新名"))
        text = text.replace("周名", "周新名")
        before = held(conn)
        report = import_file(conn, register, text.encode(), START, world.ids["甲"], renames=True)
        [problem] = report.problems
        assert "请由上级导入" in problem.message
        assert held(conn) == before
        # Nor does it learn the name that they have now.
        text = text.replace("周新名", "周名").replace("改名", "周名")
        for each in import_file(conn, register, text.encode(), START, world.ids["甲"]).problems:
            assert "周新名" not in str(each)


@pytest.mark.parametrize(
    ("register", "text"),
    [
        (Register.MEMBERS, f"{PEOPLE}钱,钱名,甲,委员,2000-01-01,\n"),
        (Register.MEMBERS, f"{PEOPLE}钱,钱名,甲,委员,2026-01-31,2026-03-01\n"),
        (Register.MEMBERS, f"{PEOPLE}钱,钱名,甲一,党员,2025-06-01,\n"),
        (
            Register.MEMBERS,
            f"{PEOPLE}钱,钱名,甲一,党员,2026-03-01,\n钱,钱名,甲,党员,2026-02-01,2027-01-01\n",
        ),
        (Register.OFFICES, f"{OFFICES}钱,甲,书记,2025-06-01,\n"),
    ],
)
def test_a_new_branch_does_not_reach_into_the_time_before(
    engine: Engine, register: Register, text: str
) -> None:
    with engine.begin() as conn:
        world = two_branches(conn)
        moved = (
            f"{PEOPLE}钱,钱名,乙,党员,2025-03-20 11:06,2026-01-31\n钱,钱名,甲,党员,2026-02-01,\n"
        )
        assert take(conn, Register.MEMBERS, moved, world.ids["区"]).ok
        before = held(conn)
        [problem] = take(conn, register, text, world.ids["甲"]).problems
        assert (problem.column, "请由上级导入" in problem.message) == ("from", True)
        assert held(conn) == before
        # Whoever is above both may: nothing of it is hidden from them.
        assert take(conn, register, text, world.ids["区"]).ok


def test_an_end_that_was_a_slip_is_put_right_until_another_branch_has_the_member(
    engine: Engine,
) -> None:
    with engine.begin() as conn:
        world = two_branches(conn)
        world.member("周", "甲")
        ended = f"{PEOPLE}周,周名,甲,党员,2025-03-20 11:06,2026-01-31\n"
        assert take(conn, Register.MEMBERS, ended, world.ids["甲"]).changed == 1
        right = ended.replace("01-31", "12-31")
        assert take(conn, Register.MEMBERS, right, world.ids["甲"]).changed == 1
        assert take(conn, Register.MEMBERS, ended, world.ids["甲"]).changed == 1
        # 乙 alone cannot take who was in 甲.
        arrived = f"{PEOPLE}周,周名,乙,党员,2026-02-01,\n"
        [problem] = take(conn, Register.MEMBERS, arrived, world.ids["乙"]).problems
        assert (problem.column, "请由上级导入" in problem.message) == ("code", True)
        assert take(conn, Register.MEMBERS, arrived, world.ids["区"]).added == 1
        assert not take(conn, Register.MEMBERS, right, world.ids["甲"]).ok


def test_who_has_no_place_anywhere_is_taken_by_their_name_alone(engine: Engine) -> None:
    with engine.begin() as conn:
        world = two_branches(conn)
        conn.execute(s.members.insert().values(public_id=s.new_public_id(), code="闲", name="闲名"))
        text = f"{PEOPLE}闲,另名,甲,党员,2026-01-01,\n"
        for renames in (False, True):
            [problem] = import_file(
                conn, Register.MEMBERS, text.encode(), START, world.ids["甲"], renames=renames
            ).problems
            assert "请由上级导入" in problem.message
            assert "闲名" not in str(problem)
        text = text.replace("另名", "闲名")
        assert take(conn, Register.MEMBERS, text, world.ids["甲"]).added == 1


def test_a_group_keeps_its_own_people(engine: Engine) -> None:
    with engine.begin() as conn:
        world = two_branches(conn)
        text = f"{PEOPLE}李,李名,甲一,党员,2026-01-01,\n"
        [problem] = take(conn, Register.MEMBERS, text, world.ids["甲一"]).problems
        assert problem.column == "code"
        assert take(conn, Register.MEMBERS, text, world.ids["甲"]).added == 1
        ended = text.replace(",\n", ",2026-12-31\n").replace("from,2026-12-31", "from,to")
        assert take(conn, Register.MEMBERS, ended, world.ids["甲一"]).changed == 1


def test_a_name_that_several_have_names_none(engine: Engine) -> None:
    with engine.begin() as conn:
        world = two_branches(conn)
        for code in ("丙", "丁"):
            world.organisation(code, "区")
        named = s.organisations.c.code.in_(["丙", "丁"])
        conn.execute(s.organisations.update().where(named).values(name="同名"))
        text = "code,name,organisation\n丙厅,丙厅,同名\n"
        [problem] = take(conn, Register.VENUES, text, world.ids["区"]).problems
        assert "都叫这个名字" in problem.message
        # Where only one of them can be seen, it is that one.
        assert take(conn, Register.VENUES, text, world.ids["丙"]).added == 1
        # A code goes before a name.
        text = "code,name,kind,parent\n同名,又一个,党支部,区\n"
        take(conn, Register.ORGANISATIONS, text, world.ids["区"])
        text = "code,name,organisation\n丁厅,丁厅,同名\n"
        assert take(conn, Register.VENUES, text, world.ids["区"]).added == 1


@pytest.mark.parametrize("office", ["书记", "党小组组长"])
def test_an_organisation_has_one_of_some_offices_at_a_time(engine: Engine, office: str) -> None:
    head = "member,organisation,office,from,to\n"
    with engine.begin() as conn:
        world = two_branches(conn)
        top = world.ids["区"]
        first = f"{head}李,甲,{office},2026-01-01,\n"
        assert take(conn, Register.OFFICES, first, top).added == 1
        second = f"{head}王,甲,{office},2026-07-01,\n"
        [problem] = take(conn, Register.OFFICES, second, top).problems
        assert (problem.row, problem.column) == (2, "office")
        both = f"{head}王,甲,{office},2026-07-01,\n李,甲,{office},2026-01-01,2026-06-30\n"
        report = take(conn, Register.OFFICES, both, top)
        assert (report.problems, report.added, report.changed) == ((), 1, 1)
        many = f"{head}王,甲,副书记,2026-07-01,\n李,甲,副书记,2026-01-01,\n"
        assert take(conn, Register.OFFICES, many, top).added == 2


# --- What is derived ------------------------------------------------------------------------


def _action(world: World, seq: int, by: str, about: str, at_ms: int) -> None:
    """Somebody's card at 一号 witnesses a member by code."""
    batch = world.batch("e", seq, [Entry(at_ms - minutes(-1000), at_ms, True, uid_of(world, by))])
    world.conn.execute(
        s.entries.update()
        .where(s.entries.c.batch_id == batch, s.entries.c.seq == seq)
        .values(kind=KIND_ACTION)
    )
    named = world.conn.scalar(select(s.credentials.c.id).where(s.credentials.c.value == about))
    named = named or world.add(s.credentials, scheme="member", issuer="", value=about)
    world.add(
        s.actions,
        epoch_id=world.ids["e"],
        seq=seq,
        what=Act.WITNESSED,
        about_credential_id=named,
        about_state=1,
    )


def test_who_was_witnessed_before_being_known_here_is_there_after_the_import(
    engine: Engine,
) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        _action(world, 1, "李", "新", minutes(1))
        while derive_batch(conn).batches:
            pass
        said = (
            select(s.attendances.c.verdict)
            .join(s.members, s.members.c.id == s.attendances.c.member_id)
            .where(s.members.c.code == "新")
        )
        top = world.ids["区"]
        text = "code,name,organisation,from\n新,新,甲,2020-01-01\n"
        assert take(conn, Register.MEMBERS, text, top).added == 1
        assert rebuild_check(conn) == []
        assert conn.scalars(said).all() == [], "李 may not yet say so"
        text = "member,organisation,office,from\n李,甲,书记,2020-01-01\n"
        assert take(conn, Register.OFFICES, text, top).added == 1
        assert conn.scalars(said).all() == ["WITNESSED"]
        assert rebuild_check(conn) == []


def test_a_guest_who_was_witnessed_is_there_once_known_in_another_branch(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        _action(world, 1, "李", "新", minutes(1))
        top = world.ids["区"]
        take(
            conn, Register.OFFICES, "member,organisation,office,from\n李,甲,书记,2020-01-01\n", top
        )
        while derive_batch(conn).batches:
            pass
        text = "code,name,organisation,from\n新,新,乙,2020-01-01\n"
        assert take(conn, Register.MEMBERS, text, top).added == 1
        said = (
            select(s.attendances.c.verdict)
            .join(s.members, s.members.c.id == s.attendances.c.member_id)
            .where(s.members.c.code == "新")
        )
        assert conn.scalars(said).all() == ["GUEST"]
        assert rebuild_check(conn) == []


def test_who_left_before_a_meeting_was_a_guest_there_and_who_came_was_expected(
    engine: Engine,
) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        entry = Entry(1, minutes(-1), True, uid_of(world, "李"))
        world.batch("e", 1, [entry, Entry(2, minutes(-1), True, uid_of(world, "钱"))])
        derive_batch(conn)
        moved = (
            "code,name,organisation,from,to\n"
            "李,李名,甲,2025-03-20 11:06,2026-04-23\n李,李名,乙,2026-04-24,\n"
            "钱,钱名,乙,2025-03-20 11:06,2026-04-23\n钱,钱名,甲,2026-04-24,\n"
        )
        a = s.attendances.c
        said = select(s.members.c.code, a.verdict).join(s.members, s.members.c.id == a.member_id)
        assert set(conn.execute(said).all()) == {("李", "PRESENT"), ("钱", "GUEST")}
        assert take(conn, Register.MEMBERS, moved, world.ids["区"]).problems == ()
        assert set(conn.execute(said).all()) == {("李", "GUEST"), ("钱", "PRESENT")}
        assert rebuild_check(conn) == []


@pytest.mark.parametrize("many", [0, 500])
@pytest.mark.parametrize("seed", range(6))
def test_after_any_import_what_is_derived_is_what_a_rebuild_gives(
    engine: Engine, seed: int, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.imports.draft.MANY", many)
    chance = random.Random(seed)
    with engine.begin() as conn:
        world = two_branches(conn)
        world.epoch("e", "一号")
        world.epoch("f", "二号", boot="other")
        people = ["李", "王", "赵", "钱", "孙"]
        strangers = [world.card(None, f"AABBCC{number:02}") for number in range(4)]
        for seq in range(1, 30):
            at = minutes(chance.randrange(-60, 200))
            member = chance.choice(people)
            if chance.random() < 0.2:
                _action(world, seq, member, chance.choice([*people, "新0", "新1"]), at)
            else:
                entry = Entry(at - minutes(-1000), at, True, uid_of(world, member))
                world.batch("e", seq, [entry])
            card = chance.choice([*strangers, uid_of(world, chance.choice(people))])
            world.batch("f", seq, [Entry(seq, at, True, card)])
        while derive_batch(conn).batches:
            pass
        taken = 0
        for _ in range(25):
            register, text = _some_file(chance)
            taken += take(conn, register, text, world.ids["区"]).ok
            assert rebuild_check(conn) == [], (register, text)
        assert taken > 5


def _some_file(chance: random.Random) -> tuple[Register, str]:
    """A file of one row, which may be right."""
    member = chance.choice(["李", "王", "钱", "新0", "新1"])
    organisation = chance.choice(["甲", "乙", "甲一"])
    venue = chance.choice(["礼堂", "乙厅"])
    # The meetings begin on 2026-04-24 at 11:06; what there is began at the first of these.
    day = chance.choice(["2025-03-20 11:06", "2025-03-20 11:06", "2026-04-24 11:20"])
    end = chance.choice(["", "2026-04-23", "2026-04-24 11:20", "2026-04-24 11:40"])
    hour = chance.randrange(10, 13)
    match chance.choice([*Register, Register.MEMBERS, Register.MEMBERS]):
        case Register.MEMBERS:
            body = chance.choice(["党员", "党员", "委员"])
            if chance.random() < 0.7:
                organisation = "乙" if member == "钱" else "甲"
            name = member if member.startswith("新") else f"{member}名"
            return Register.MEMBERS, (
                f"code,name,organisation,body,from,to\n{member},{name},{organisation},{body},{day},{end}\n"
            )
        case Register.OFFICES:
            office = chance.choice(["副书记", "组织委员"])
            return Register.OFFICES, (
                f"member,organisation,office,from,to\n{member},{organisation},{office},{day},{end}\n"
            )
        case Register.PLACEMENTS:
            device = chance.choice(["一号", "二号"])
            return Register.PLACEMENTS, f"device,venue,from,to\n{device},{venue},{day},{end}\n"
        case Register.CARDS:
            number = f"AABBCC{chance.randrange(4):02}"
            return Register.CARDS, (
                f"card,member,format,number,from,to\nK{chance.randrange(3)},{member},hex,{number},{day},{end}\n"
            )
        case Register.MEETINGS:
            code = chance.choice(["会", "乙会", "新会"])
            return Register.MEETINGS, (
                "code,organisation,kind,title,venue,start,end\n"
                f"{code},{chance.choice('甲乙')},{chance.choice(['党课', '支委会'])},课,{venue},"
                f"2026-04-24 {hour}:00,2026-04-24 {hour + 1}:{chance.randrange(60):02}\n"
            )
        case _:
            return Register.VENUES, f"code,name,organisation\n{venue},{venue},{organisation}\n"
