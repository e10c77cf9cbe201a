"""A member's own file: all of it, nobody else's, and who looked at it; and objections."""

import dataclasses
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, delete, select, update

from hub import audit, joining, meetings, objections, own, statements
from hub.auth.callers import Caller
from hub.derive import derive_batch, rederive_meetings, rederive_windows
from hub.domain.terms import DeclarationKind, Evidence, LeaveReason, Role, Verdict
from hub.evidence import how
from hub.objections import ObjectionError, ObjectionState
from hub.store import schema as s
from hub.store.scope import NotFoundError
from protocol.journal import Act
from tests.hub.site import ZONE
from tests.hub.world import Entry, World, district, minutes, public_id, uid_of

AFTER = minutes(300)
PERIOD = (minutes(-1000), minutes(1000))


@pytest.fixture
def world(engine: Engine) -> Iterator[World]:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        yield world


def caller(
    world: World,
    name: str,
    role: Role = Role.SECRETARY,
    organisation: str = "甲",
    member: str | None = None,
    *,
    token: bool = False,
) -> Caller:
    """Somebody with an account, or a token, of their own."""
    member_id = None if member is None else world.ids[member]
    common: dict[str, Any] = {
        "public_id": s.new_public_id(),
        "name": name,
        "role": role.value,
        "organisation_id": world.ids[organisation],
        "member_id": member_id,
        "created_ms": 0,
    }
    if token:
        key = world.add(s.tokens, token_sha256=uuid.uuid4().bytes * 2, **common)
    else:
        key = world.add(s.accounts, login=name, password="x", must_change=False, **common)
    return Caller(
        name,
        role,
        world.ids[organisation],
        str(public_id(organisation)),
        organisation,
        member_id,
        account_id=None if token else key,
        token_id=key if token else None,
    )


def tap(world: World, member: str, at: float, seq: int, device: str = "e") -> None:
    world.batch(device, seq, [Entry(seq, minutes(at), True, uid_of(world, member))])
    derive_batch(world.conn)


def entry(world: World, member: str, meeting: str = "会") -> Any:
    found, _ = own.my_entry(world.conn, world.ids[member], public_id(meeting), AFTER, ZONE)
    return found


def titles(world: World, member: str) -> dict[str, Verdict]:
    found = own.my_meetings(world.conn, world.ids[member], *PERIOD, AFTER)
    return {each.meeting.title: each.verdict for each in found}


# --- My meetings ----------------------------------------------------------------------------


def test_the_whole_file_is_there_and_nobody_elses(world: World) -> None:
    """Also at other branches' meetings, and of a branch that the member has left."""
    world.venue("村部", "乙")
    world.device("二号", "村部")
    world.epoch("f", "二号")
    world.meeting("乙会", "乙", "村部", start=400)
    world.meeting("旧会", "乙", "村部", start=-600)
    world.conn.execute(delete(s.memberships).where(s.memberships.c.member_id == world.ids["李"]))
    world.member("李", "乙", until=minutes(-500))
    world.member("李", "甲", since=minutes(-500))
    world.batch(
        "f",
        1,
        [
            Entry(1, minutes(-601), True, uid_of(world, "李")),
            Entry(2, minutes(399), True, uid_of(world, "李")),
        ],
        received_ms=minutes(900),
    )
    derive_batch(world.conn)
    tap(world, "李", -1, 1)
    assert titles(world, "李") == {
        "旧会题": Verdict.PRESENT,
        "会题": Verdict.PRESENT,
        "乙会题": Verdict.GUEST,
    }
    assert titles(world, "钱") == {"旧会题": Verdict.PENDING, "乙会题": Verdict.NOT_SEEN}
    for member, meeting in (("王", "乙会"), ("钱", "会"), ("李", "无")):
        with pytest.raises(NotFoundError):
            entry(world, member, meeting)


def test_each_kind_of_record_says_how_it_came(world: World) -> None:
    world.office("王", "甲")
    secretary, other = caller(world, "书记"), caller(world, "副书记")
    at = dict.fromkeys(("SHEET", "WITNESSED", "BACK_FILL", "LEAVE", "ACT"), 10.0)
    members = dict(zip(at, ("甲一", "甲二", "甲三", "甲四", "甲五"), strict=True))
    for name in members.values():
        world.member(name, "甲")
    rederive_windows(world.conn, [], [world.ids["会"]])
    tap(world, "李", 2, 1)
    world.batch(
        "e",
        2,
        [
            Entry(
                9,
                minutes(4),
                True,
                uid_of(world, "王"),
                Act.WITNESSED,
                about=world.names("甲五"),
            )
        ],
    )
    derive_batch(world.conn)
    conn, meeting = world.conn, public_id("会")
    who = {kind: public_id(name) for kind, name in members.items()}
    statements.enter_sheet(conn, secretary, meeting, minutes(70), members=[who["SHEET"]])
    statements.witness(conn, secretary, meeting, minutes(50), member=who["WITNESSED"])
    asked = statements.ask_back_fill(
        conn, secretary, meeting, who["BACK_FILL"], "忘带卡", minutes(80)
    )
    statements.decide(conn, other, asked, minutes(90), granted=True)
    asked = statements.ask_leave(
        conn, secretary, meeting, who["LEAVE"], LeaveReason.ILLNESS, minutes(-60)
    )
    statements.decide(conn, other, asked, minutes(-50), granted=True)

    def words(member: str) -> tuple[Evidence, str]:
        source = entry(world, member).source
        return source.evidence, how(source, minutes(0), ZONE)

    card = str(
        conn.scalar(select(s.credentials.c.value).where(s.credentials.c.id == uid_of(world, "李")))
    )
    evidence, said = words("李")
    assert evidence is Evidence.TAP
    assert "礼堂名" in said
    assert "一号" in said
    assert f"卡号末四位{card[-4:]}" in said
    assert card not in said
    assert words(members["SHEET"])[0] is Evidence.SHEET
    assert "书记于" in words(members["SHEET"])[1]
    assert "书记于" in words(members["WITNESSED"])[1]
    evidence, said = words(members["BACK_FILL"])
    assert evidence is Evidence.BACK_FILL
    assert "书记于" in said
    assert "副书记于" in said
    evidence, said = words(members["LEAVE"])
    assert evidence is Evidence.LEAVE
    assert "病" not in said
    evidence, said = words(members["ACT"])
    assert evidence is Evidence.WITNESSED
    assert "王名于" in said
    assert "用自己的卡" in said
    # The officer's card is not the member's: no digit of it is shown.
    assert entry(world, members["ACT"]).source.card == ""
    assert [each.device for each in entry(world, members["ACT"]).facts.said] == ["一号"]
    mine = {each.kind: each.reason for each in entry(world, members["LEAVE"]).facts.said}
    assert mine == {
        DeclarationKind.LEAVE_ASKED: "ILLNESS",
        DeclarationKind.LEAVE_GRANTED: "",
    }


def test_evidence_is_of_the_member_alone(world: World) -> None:
    tap(world, "李", -5, 1)
    tap(world, "王", -4, 2)
    tap(world, "李", 1, 3)
    world.declare("会", "WITNESSED", "赵", at=5)
    world.declare("会", "WITNESSED", "李", at=6)
    rederive_meetings(world.conn, [world.ids["会"]])
    found = entry(world, "李")
    assert [each.at_ms for each in found.facts.taps] == [minutes(-5), minutes(1)]
    assert [each.decides for each in found.facts.taps] == [True, False]
    assert [(each.made_ms, each.decides) for each in found.facts.said] == [(minutes(6), False)]
    text = repr(found) + repr(own.my_meetings(world.conn, world.ids["李"], *PERIOD, AFTER))
    for other in ("王名", "赵名"):
        assert other not in text


def test_a_tap_for_another_meeting_in_the_room_is_no_evidence_here(world: World) -> None:
    """Of the two meetings at once, only that of 乙 expects 钱."""
    world.meeting("乙会", "乙", "礼堂")
    world.declare("会", "OBJECTION", "钱", at=5)
    tap(world, "钱", 1, 1)
    assert titles(world, "钱") == {"乙会题": Verdict.LATE}
    assert entry(world, "钱").facts.taps == ()
    assert len(entry(world, "钱", "乙会").facts.taps) == 1


def test_what_is_not_known_says_why(world: World) -> None:
    found = entry(world, "李")
    assert found.verdict is Verdict.PENDING
    assert found.reasons
    assert found.source is None
    tap(world, "李", 0, 1)
    assert entry(world, "李").reasons == ()


def test_a_tap_that_was_assigned_says_by_whom(world: World) -> None:
    world.batch("e", 1, [Entry(1, minutes(0) - 10**9, False, uid_of(world, "李"))], minutes(500))
    derive_batch(world.conn)
    made = world.declare("会", "TAP_ASSIGNED", epoch_id=world.ids["e"], seq=1, at=100)
    rederive_meetings(world.conn, [world.ids["会"]])
    found = entry(world, "李")
    assert found.source.evidence is Evidence.ASSIGNED
    assert "某人" in how(found.source, minutes(0), ZONE)
    assert [(each.at_ms, each.counts) for each in found.facts.taps] == [(None, True)]
    assert [each.kind for each in found.facts.said] == [DeclarationKind.TAP_ASSIGNED]
    assert entry(world, "王").facts.said == ()
    assert entry(world, "王").facts.taps == ()
    world.declare("会", "WITHDRAWN", about=made, at=120)
    rederive_meetings(world.conn, [world.ids["会"]])
    found = entry(world, "李")
    assert found.source is None
    assert [each.withdrawn_ms for each in found.facts.said] == [minutes(120)]
    assert [each.counts for each in found.facts.taps] == [False]


def test_upcoming_are_those_that_expect_me(world: World) -> None:
    world.meeting("后", "甲", "礼堂", start=2000)
    world.meeting("委", "甲", "礼堂", start=3000, kind="BRANCH_COMMITTEE")
    world.meeting("乙会", "乙", "礼堂", start=2500)
    world.meeting("消", "甲", "礼堂", start=2600)
    world.conn.execute(update(s.meetings).where(s.meetings.c.code == "消").values(cancelled=True))

    def coming(now: float) -> list[str]:
        found = own.upcoming(world.conn, world.ids["李"], minutes(now))
        return [each.meeting.title for each in found]

    assert coming(0) == ["会题", "后题"]
    assert coming(61) == ["后题"]


def test_of_a_card_the_last_four_characters_are_told(world: World) -> None:
    world.card("李", "AABBCCDD99", since=minutes(-100))
    found = own.my_cards(world.conn, world.ids["李"])
    assert found[0].numbers == ("DD99",)
    assert found[0].from_ms == minutes(-100)
    assert len(found) == 2
    world.conn.execute(
        update(s.credentials).where(s.credentials.c.value == "AABBCCDD99").values(value=None)
    )
    assert own.my_cards(world.conn, world.ids["李"])[0].numbers == ()


def test_what_i_asked_for_and_what_became_of_it(world: World) -> None:
    conn, meeting = world.conn, public_id("会")
    me, secretary = caller(world, "李名", Role.MEMBER, member="李"), caller(world, "书记")
    mine = public_id("李")
    first = statements.ask_leave(conn, me, meeting, mine, LeaveReason.WORK, minutes(-100))
    statements.withdraw(conn, me, first, minutes(-90))
    second = statements.ask_leave(
        conn, me, meeting, public_id("李"), LeaveReason.ILLNESS, minutes(-80)
    )
    waiting, gone = own.my_asks(conn, world.ids["李"])
    assert (waiting.public_id, waiting.answer, waiting.is_withdrawn) == (str(second), None, False)
    assert (gone.public_id, gone.is_withdrawn) == (str(first), True)
    refused = statements.decide(conn, secretary, second, minutes(-70), granted=False)
    assert own.my_asks(conn, world.ids["李"])[0].answer is DeclarationKind.LEAVE_REFUSED
    statements.withdraw(conn, secretary, refused, minutes(-60))
    statements.decide(conn, secretary, second, minutes(-50), granted=True)
    granted = own.my_asks(conn, world.ids["李"])[0]
    assert (granted.answer, granted.answered_by) == (DeclarationKind.LEAVE_GRANTED, "书记")
    assert own.my_asks(conn, world.ids["王"]) == []


# --- Who looked -----------------------------------------------------------------------------


def look(world: World, who: Caller, at: float = 0, **of: Any) -> None:
    audit.looked(world.conn, who, audit.Look(of.pop("what", "some.page"), **of), minutes(at))


def seen(world: World, member: str) -> list[str]:
    found = own.looked_at(world.conn, world.ids[member], *PERIOD, ZONE)
    return [each.actor for each in found]


def test_every_kind_of_look_is_shown_and_no_other(world: World) -> None:
    world.meeting("联", "乙", "礼堂", start=500, partners=["甲"])
    world.meeting("乙会", "乙", "礼堂", start=700)
    ids = world.ids

    def by(name: str, **of: Any) -> None:
        look(world, caller(world, name), **of)

    by("本人", member_id=ids["李"])
    by("会议", meeting_id=ids["会"])
    look(world, caller(world, "联席", organisation="乙"), meeting_id=ids["联"])
    by("联席的我方", meeting_id=ids["联"])
    by("支部", organisation_id=ids["甲"], from_ms=minutes(0), to_ms=minutes(9))
    by("全区", organisation_id=ids["区"], from_ms=minutes(0), to_ms=minutes(9))
    by("名单", organisation_id=ids["甲"])
    # A partner's people are in what the host is shown of its own meetings, if one is in the period.
    by("主办", organisation_id=ids["乙"], from_ms=minutes(499), to_ms=minutes(501))
    # And these show nothing of 李.
    by("别人", member_id=ids["王"])
    by("别人在会上", member_id=ids["王"], meeting_id=ids["会"])
    by("别人在支部", member_id=ids["王"], organisation_id=ids["甲"])
    by("别会", meeting_id=ids["乙会"])
    by("别会在全区", meeting_id=ids["乙会"], organisation_id=ids["区"])
    by("别支部", organisation_id=ids["乙"], from_ms=minutes(600), to_ms=minutes(900))
    assert sorted(seen(world, "李")) == sorted(
        ["本人", "会议", "联席", "联席的我方", "支部", "全区", "名单", "主办"]
    )
    assert set(seen(world, "王")) >= {"别人", "别人在会上", "别人在支部"}
    assert "本人" not in seen(world, "王")


def test_a_sub_tree_shows_who_belonged_to_it_in_the_period_shown(world: World) -> None:
    world.member("迟", "甲", since=minutes(100), until=minutes(200))
    for name, first, last in (("前", 0, 100), ("中", 150, 160), ("跨", 0, 101), ("后", 200, 300)):
        look(
            world,
            caller(world, name),
            organisation_id=world.ids["区"],
            from_ms=minutes(first),
            to_ms=minutes(last),
        )
    assert sorted(seen(world, "迟")) == sorted(["中", "跨"])


def test_the_list_of_what_is_asked_for_shows_who_has_asked(world: World) -> None:
    for at in (0, 20):
        who = caller(world, f"书记{at}")
        look(world, who, at, what="asks.page", organisation_id=world.ids["甲"])
    world.declare("会", "LEAVE_ASKED", "李", at=10)
    assert seen(world, "李") == ["书记20"]
    assert seen(world, "王") == []


def test_a_guest_sees_who_looked_at_the_meeting(world: World) -> None:
    look(world, caller(world, "书记"), meeting_id=world.ids["会"])
    assert seen(world, "钱") == []
    tap(world, "钱", 1, 1)
    assert seen(world, "钱") == ["书记"]


def test_a_look_at_a_joint_meeting_is_told_to_those_alone_who_were_shown(world: World) -> None:
    world.meeting("联", "甲", "礼堂", start=500, partners=["乙"])
    for name in ("甲", "乙", "区"):
        look(world, caller(world, name, organisation=name), meeting_id=world.ids["联"])
    assert set(seen(world, "李")) == {"甲", "区"}
    assert set(seen(world, "钱")) == {"甲", "乙", "区"}


def test_a_partner_that_was_taken_out_is_still_told_who_had_looked(world: World) -> None:
    conn, secretary = world.conn, caller(world, "甲的书记")
    world.meeting("联", "甲", "礼堂", start=500, partners=["乙"])
    meeting = {"meeting_id": world.ids["联"]}
    shown = {"organisation_id": world.ids["甲"], "from_ms": minutes(499), "to_ms": minutes(501)}
    look(world, secretary, 10, **meeting)
    look(world, secretary, 11, what="attendance.page", **shown)
    meetings.set_partners(conn, secretary, public_id("联"), [], minutes(20))
    look(world, caller(world, "后来的"), 30, **meeting)
    look(world, caller(world, "后来的名单"), 30, **shown)
    assert seen(world, "钱") == ["甲的书记", "甲的书记"]
    # Nor does asking again, or being turned down, change what was.
    meetings.set_partners(conn, secretary, public_id("联"), ["乙"], minutes(40))
    look(world, caller(world, "未同意时"), 45, **meeting)
    other = caller(world, "乙的书记", organisation="乙")
    joining.answer(conn, other, public_id("联"), public_id("乙"), minutes(50), agreed=True)
    look(world, caller(world, "同意以后"), 60, **meeting)
    assert seen(world, "钱") == ["同意以后", "甲的书记", "甲的书记"]


def test_looks_of_a_day_by_one_person_are_one_line(world: World) -> None:
    who = caller(world, "书记")
    for at in (0, 20, 40):
        look(world, who, at, what="meeting.page", meeting_id=world.ids["会"])
    look(world, who, 50, what="meeting.api", meeting_id=world.ids["会"])
    look(
        world,
        caller(world, "书记", token=True),
        10,
        what="meeting.page",
        meeting_id=world.ids["会"],
    )
    look(world, who, -24 * 60 + 1, what="meeting.page", meeting_id=world.ids["会"])
    found = own.looked_at(world.conn, world.ids["李"], minutes(-3000), minutes(1000), ZONE)
    assert [(each.what, each.times, each.is_program) for each in found] == [
        ("meeting.api", 1, False),
        ("meeting.page", 3, False),
        ("meeting.page", 1, True),
        ("meeting.page", 1, False),
    ]
    assert (found[1].first_ms, found[1].last_ms) == (minutes(0), minutes(40))
    assert (found[0].role, found[0].organisation) == (Role.SECRETARY, "甲名")


# --- Objections -----------------------------------------------------------------------------


def object_to(world: World, member: str, now: float = 100, meeting: str = "会") -> uuid.UUID:
    name = f"{member}的账号"
    me = caller(world, f"{name}{now}", Role.MEMBER, member=member)
    return uuid.UUID(
        objections.object_to(world.conn, me, public_id(meeting), "我到了", minutes(now))
    )


def decide(
    conn: Connection, who: Caller, objection: uuid.UUID, *, upheld: bool = True, now: float = 200
) -> None:
    objections.decide(conn, who, objection, upheld=upheld, reason="已核实", now_ms=minutes(now))


def state(world: World, objection: uuid.UUID) -> ObjectionState:
    (found,) = objections.objections(world.conn, s.declarations.c.public_id == objection)
    return found.state


def test_an_objection_is_made_withdrawn_and_made_again(world: World) -> None:
    conn = world.conn
    me = caller(world, "李名", Role.MEMBER, member="李")
    first = objections.object_to(conn, me, public_id("会"), " 我到了\r\n", minutes(100))
    with pytest.raises(ObjectionError, match="正在处理"):
        objections.object_to(conn, me, public_id("会"), "再提", minutes(101))
    other = caller(world, "王名", Role.MEMBER, member="王")
    with pytest.raises(NotFoundError):
        objections.withdraw(conn, other, uuid.UUID(first), minutes(102))
    objections.withdraw(conn, me, uuid.UUID(first), minutes(102))
    with pytest.raises(ObjectionError, match="已撤回"):
        objections.withdraw(conn, me, uuid.UUID(first), minutes(103))
    with pytest.raises(ObjectionError, match="已撤回"):
        decide(conn, caller(world, "书记"), uuid.UUID(first))
    second = uuid.UUID(objections.object_to(conn, me, public_id("会"), "我到了", minutes(104)))
    decide(conn, caller(world, "副书记"), second)
    with pytest.raises(ObjectionError, match="已经处理过"):
        objections.withdraw(conn, me, second, minutes(300))
    assert [each.state for each in objections.objections_of(conn, world.ids["李"])] == [
        ObjectionState.UPHELD,
        ObjectionState.WITHDRAWN,
    ]
    acts = conn.scalars(select(s.audit.c.what).order_by(s.audit.c.id)).all()
    assert list(acts) == [
        "objection.make",
        "objection.withdraw",
        "objection.make",
        "objection.uphold",
    ]
    assert "我到了" not in "".join(conn.scalars(select(s.audit.c.details)).all())


@pytest.mark.parametrize(
    ("words", "now", "says"),
    [
        ("", 100, "请写明"),
        (" \n ", 100, "请写明"),
        (501 * "字", 100, "最多写500个字"),
        ("a\x00b", 100, "不能显示"),
        ("我到了", -31, "还没有开始"),
    ],
)
def test_an_objection_that_cannot_be_made(world: World, words: str, now: float, says: str) -> None:
    me = caller(world, "李名", Role.MEMBER, member="李")
    with pytest.raises(ObjectionError, match=says):
        objections.object_to(world.conn, me, public_id("会"), words, minutes(now))
    assert world.conn.scalar(select(s.declarations.c.id)) is None
    assert world.conn.scalar(select(s.audit.c.id)) is None


def test_nobody_objects_for_another_or_to_what_is_not_theirs(world: World) -> None:
    with pytest.raises(NotFoundError):
        object_to(world, "钱")
    with pytest.raises(NotFoundError):
        objections.object_to(
            world.conn, caller(world, "书记"), public_id("会"), "我到了", minutes(100)
        )


def test_the_hosts_side_sees_it_and_nobody_else(world: World) -> None:
    """A joint meeting of 乙: the branch of the member takes part, and does not decide."""
    world.meeting("联", "乙", "礼堂", start=50, partners=["甲"])
    made = object_to(world, "李", 100, "联")
    conn, ids = world.conn, world.ids
    assert [str(made)] == [each.public_id for each in objections.open_objections(conn, ids["乙"])]
    assert [str(made)] == [each.public_id for each in objections.open_objections(conn, ids["区"])]
    assert objections.open_objections(conn, ids["甲"]) == []
    with pytest.raises(NotFoundError):
        decide(conn, caller(world, "甲书记"), made)
    decide(conn, caller(world, "乙书记", organisation="乙"), made, upheld=False)
    assert state(world, made) is ObjectionState.DISMISSED
    assert objections.open_objections(conn, ids["乙"]) == []


def test_after_a_tap_alone_anybody_of_the_host_decides(world: World) -> None:
    tap(world, "李", 30, 1)
    made = object_to(world, "李")
    decide(world.conn, caller(world, "书记"), made)
    assert state(world, made) is ObjectionState.UPHELD


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        "SHEET",
        "WITNESSED",
        "LEAVE_GRANTED",
        "LEAVE_REFUSED",
        "BACK_FILL_REFUSED",
        "BACK_FILL_ASKED",
        "HELD",
        "NOT_HELD",
        "SHEET_COMPLETE",
        "TAP_ASSIGNED",
        "withdrawn",
    ],
)
def test_whoever_made_the_entry_does_not_decide(world: World, kind: str, by_token: bool) -> None:
    who, other = caller(world, "书记", token=by_token), caller(world, "副书记")
    author = {"account_id": who.account_id, "token_id": who.token_id}
    member: str | None = "李"
    more: dict[str, Any] = {}
    if kind in {"HELD", "NOT_HELD", "SHEET_COMPLETE"}:
        member = None
    if kind == "TAP_ASSIGNED":
        member = None
        entry = Entry(1, minutes(0) - 10**9, False, uid_of(world, "李"))
        world.batch("e", 1, [entry], minutes(500))
        derive_batch(world.conn)
        more = {"epoch_id": world.ids["e"], "seq": 1}
    if kind == "withdrawn":
        said = world.declare("会", "WITNESSED", "李", at=90)
        world.declare("会", "WITHDRAWN", about=said, at=91, **author)
    else:
        world.declare("会", kind, member, at=90, **author, **more)
    made = object_to(world, "李")
    with pytest.raises(ObjectionError, match="别人处理"):
        decide(world.conn, who, made)
    assert state(world, made) is ObjectionState.OPEN
    decide(world.conn, other, made)
    assert state(world, made) is ObjectionState.UPHELD


def test_one_person_is_one_by_account_token_card_and_name(world: World) -> None:
    conn = world.conn
    world.office("王", "甲")
    account = caller(world, "王书记", member="王")
    world.declare("会", "WITNESSED", "李", at=90, account_id=account.account_id)
    made = object_to(world, "李")
    same = caller(world, "另一账号", member="王")
    named = dataclasses.replace(caller(world, "某某", token=True), name="某人")  # as declared
    for who in (account, same, named):
        with pytest.raises(ObjectionError, match="别人处理"):
            decide(conn, who, made)
    decide(conn, caller(world, "副书记"), made)


@pytest.mark.parametrize("act", [Act.WITNESSED, Act.OPENED, Act.CLOSED])
def test_whose_card_acted_at_the_reader_does_not_decide(world: World, act: Act) -> None:
    world.office("王", "甲")
    about = world.names("李") if act is Act.WITNESSED else None
    world.batch("e", 1, [Entry(1, minutes(5), True, uid_of(world, "王"), act, about=about)])
    derive_batch(world.conn)
    made = object_to(world, "李")
    with pytest.raises(ObjectionError, match="别人处理"):
        decide(world.conn, caller(world, "王书记", member="王"), made)
    decide(world.conn, caller(world, "赵书记", member="赵"), made)


def test_nobody_decides_on_their_own_objection(world: World) -> None:
    made = object_to(world, "李")
    with pytest.raises(ObjectionError, match="本人提出"):
        decide(world.conn, caller(world, "李书记", Role.OPERATOR, "区", member="李"), made)


def test_a_statement_of_another_member_hinders_nobody(world: World) -> None:
    who = caller(world, "书记")
    world.declare("会", "WITNESSED", "王", at=90, account_id=who.account_id)
    made = object_to(world, "李")
    decide(world.conn, who, made)


def test_a_decision_says_why(world: World) -> None:
    made = object_to(world, "李")
    with pytest.raises(ObjectionError, match="理由") as caught:
        objections.decide(
            world.conn, caller(world, "书记"), made, upheld=True, reason=" ", now_ms=AFTER
        )
    assert caught.value.field == "reason"
    decide(world.conn, caller(world, "副书记"), made)
    (found,) = objections.objections_of(world.conn, world.ids["李"])
    assert (found.decided_by, found.decision, found.decided_ms) == (
        "副书记",
        "已核实",
        minutes(200),
    )
    # It changes no attendance by itself.
    assert entry(world, "李").verdict is Verdict.PENDING
    # And the objection is not among what others stated.
    assert entry(world, "李").facts.said == ()


def test_an_objection_of_a_cancelled_meeting_has_no_object(world: World) -> None:
    world.conn.execute(update(s.meetings).values(cancelled=True))
    with pytest.raises(ObjectionError, match="已取消"):
        object_to(world, "李")
    assert entry(world, "李").verdict is None
