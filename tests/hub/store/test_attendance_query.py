"""Attendance by conditions, against a slow reference that goes through every meeting's page."""

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Connection, Engine, event, insert, select, update

from hub.derive import rebuild
from hub.domain.declared import CAME
from hub.domain.terms import MeetingKind, Verdict
from hub.store import attendance_query as query
from hub.store import schema as s
from hub.store.attendance_query import Asked, Line, TooManyNamedError
from hub.store.engine import reading
from hub.store.expected import holds
from hub.store.queries import meeting_attendance
from hub.store.scope import EVERYTHING, NotFoundError, Scope, subtree
from tests.hub.world import Entry, World, district, minutes, public_id, uid_of

CHINA = ZoneInfo("Asia/Shanghai")
EVER = (0, minutes(10_000_000))


_STARTS = select(s.meetings.c.code, s.meetings.c.starts_ms)


def random_world(conn: Connection, chance: random.Random) -> World:
    world = district(conn)
    world.organisation("组", "甲", "GROUP")
    world.organisation("丙", "区")
    organisations = ["区", "甲", "乙", "丙", "组"]
    for number in range(24):
        since = minutes(chance.randint(-400, 100))
        until = chance.choice([None, since + chance.randint(1, 24_000_000)])
        body = chance.choice(["MEMBER", "MEMBER", "COMMITTEE"])
        world.member(f"m{number:02}", chance.choice(organisations), since, until, body)
        if until is not None and chance.random() < 0.5:
            world.member(f"m{number:02}", chance.choice(organisations), until, None)
    for number in range(14):
        host = chance.choice(organisations)
        world.meeting(
            f"x{number:02}",
            host,
            "礼堂",
            chance.choice([-100, -100, chance.randint(-300, 300)]),
            kind=chance.choice(list(MeetingKind)).value,
            partners=[each for each in organisations if each != host and chance.random() < 0.15],
        )
    conn.execute(
        update(s.meetings).where(s.meetings.c.code.in_(["x00", "x01"])).values(cancelled=True)
    )
    world.epoch("e", "一号")
    cards = [world.card(f"m{number:02}", f"{number:08X}") for number in range(24)]
    taps = [Entry(at, minutes(at), True, chance.choice(cards)) for at in range(-330, 380, 3)]
    world.batch("e", 1, taps)
    said = [(f"x{chance.randrange(14):02}", f"m{chance.randrange(24):02}") for _ in range(40)]
    for number, (meeting, member) in enumerate([*said, ("会", "李"), ("会", "王")]):
        conn.execute(
            insert(s.declarations).values(
                public_id=public_id(f"said {number}"),
                meeting_id=world.ids[meeting],
                kind=("SHEET", "WITNESSED")[number % 2],
                made_ms=minutes(400),
                author="某人",
                member_id=world.ids[member],
            )
        )
    rebuild(conn)
    return world


@dataclass(frozen=True)
class Seen:
    """A row of the reference."""

    meeting: str
    member: str
    verdict: Verdict
    at_ms: int | None
    taps: int
    evidence: Any
    branch: str | None


def reference(conn: Connection, scope: Scope, now_ms: int) -> list[Seen]:
    """All rows of a scope by the meetings' own pages, and by asking of each who belongs there."""
    found = []
    inside = None if scope is EVERYTHING else set(conn.scalars(select(subtree(scope).c.id)))
    m, p = s.meetings.c, s.memberships.c
    for meeting in conn.execute(select(s.meetings).where(~m.cancelled)).all():
        page = meeting_attendance(conn, EVERYTHING, meeting.code, now_ms, CHINA)
        assert page is not None
        hosted = inside is None or meeting.organisation_id in inside
        for row in page.rows:
            places = conn.scalars(
                select(p.organisation_id)
                .join(s.members, s.members.c.id == p.member_id)
                .where(s.members.c.code == row.person.code, holds(s.memberships, meeting.starts_ms))
            ).all()
            belonged = inside is None or any(each in inside for each in places)
            if belonged or (hosted and row.verdict is not Verdict.GUEST):
                found.append(
                    Seen(
                        meeting.code,
                        row.person.code or "",
                        row.verdict,
                        row.at_ms,
                        row.taps,
                        row.evidence,
                        row.person.branch,
                    )
                )
    starts = {row.code: row.starts_ms for row in conn.execute(_STARTS)}
    return sorted(found, key=lambda each: (-starts[each.meeting], each.meeting, each.member))


def as_seen(line: Line) -> Seen:
    return Seen(
        line.meeting.code,
        line.member.code,
        line.verdict,
        line.at_ms,
        line.taps,
        line.evidence,
        line.branch,
    )


def ask(
    conn: Connection, scope: Scope, now_ms: int, asked: Asked | None = None
) -> tuple[list[Seen], query.Totals]:
    found = query.resolve(conn, scope, asked or Asked(*EVER))
    pages: list[Line] = []
    while page := query.lines(conn, found, now_ms, limit=7, offset=len(pages)):
        pages += page
    assert list(query.every_line(conn, found, now_ms, limit=10_000)) == pages
    return [as_seen(each) for each in pages], query.totals(conn, found, now_ms)


@pytest.mark.parametrize("seed", range(3))
def test_every_condition_against_the_reference(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)
    with engine.begin() as conn:
        world = random_world(conn, chance)
    kinds = {}
    verdicts: Counter[Verdict] = Counter()
    with reading(engine) as conn:
        for row in conn.execute(select(s.meetings.c.code, s.meetings.c.kind)):
            kinds[row.code] = MeetingKind(row.kind)
        for scope in (EVERYTHING, *(world.ids[each] for each in ("甲", "乙"))):
            for now_ms in (minutes(-90), minutes(1000)):
                expected = reference(conn, scope, now_ms)
                found, sums = ask(conn, scope, now_ms)
                assert found == expected
                verdicts.update(each.verdict for each in found)
                assert sums.all == query.Sum(len(found), len({each.member for each in found}))
                assert sums.meetings == len({each.meeting for each in found})

                def sum_of(*verdicts: Verdict, found: list[Seen] = found) -> query.Sum:
                    those = [each.member for each in found if each.verdict in verdicts]
                    return query.Sum(len(those), len(set(those)))

                assert sums.expected == sum_of(*set(Verdict) - {Verdict.GUEST})
                assert sums.present == sum_of(*CAME)
                assert sums.by == {
                    verdict: sum_of(verdict) for verdict in {each.verdict for each in found}
                }
                for verdict in Verdict:
                    asked = Asked(*EVER, verdict=verdict)
                    assert ask(conn, scope, now_ms, asked)[0] == [
                        each for each in expected if each.verdict is verdict
                    ]
                for kind in MeetingKind:
                    asked = Asked(*EVER, kind=kind)
                    assert ask(conn, scope, now_ms, asked)[0] == [
                        each for each in expected if kinds[each.meeting] is kind
                    ]
                for name in ("M1", "m05", "李", "lm", "nobody"):
                    asked = Asked(*EVER, name=name)
                    assert ask(conn, scope, now_ms, asked)[0] == [
                        each
                        for each in expected
                        if each.member.startswith(name.lower())
                        or (name in {"李", "lm"} and each.member == "李")
                    ]
        now_ms = minutes(1000)
        for organisation in ("甲", "组", "区"):
            asked = Asked(*EVER, organisation=public_id(organisation))
            assert ask(conn, world.ids["区"], now_ms, asked)[0] == reference(
                conn, world.ids[organisation], now_ms
            )
        whole = reference(conn, EVERYTHING, now_ms)
        for meeting in ("会", "x03", "x00"):
            asked = Asked(*EVER, meeting=public_id(meeting))
            assert ask(conn, EVERYTHING, now_ms, asked)[0] == [
                each for each in whole if each.meeting == meeting
            ]
        member = chance.choice(whole).member
        asked = Asked(*EVER, member=public_id(member))
        assert ask(conn, EVERYTHING, now_ms, asked)[0] == [
            each for each in whole if each.member == member
        ]
        starts = {row.code: row.starts_ms for row in conn.execute(_STARTS)}
        first, last = minutes(-100), minutes(0)
        assert ask(conn, EVERYTHING, now_ms, Asked(first, last))[0] == [
            each for each in whole if first <= starts[each.meeting] < last
        ]
    assert len(verdicts) >= 6


def test_what_lies_outside_is_not_found(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        for asked in (
            Asked(*EVER, organisation=public_id("区")),
            Asked(*EVER, organisation=public_id("甲")),
            Asked(*EVER, meeting=public_id("会")),
            Asked(*EVER, member=public_id("李")),
            Asked(*EVER, member=public_id("nobody")),
        ):
            with pytest.raises(NotFoundError):
                query.resolve(conn, world.ids["乙"], asked)
        # Who had a place in the scope once is not found in a time before that.
        world.member("钱", "甲", minutes(500))
        at = public_id("钱")
        with pytest.raises(NotFoundError):
            query.resolve(conn, world.ids["甲"], Asked(0, minutes(500), member=at))
        assert query.resolve(conn, world.ids["甲"], Asked(0, minutes(501), member=at)).member_id


def test_a_guest_from_elsewhere_is_not_listed_and_a_partners_member_has_no_page(
    engine: Engine,
) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        world.batch("e", 1, [Entry(1, minutes(1), True, uid_of(world, "钱"))])
        rebuild(conn)
        assert {each.member for each in ask(conn, world.ids["甲"], minutes(99))[0]} == set("李王赵")
        [guest] = ask(conn, world.ids["乙"], minutes(99))[0]
        assert (guest.meeting, guest.member, guest.verdict) == ("会", "钱", Verdict.GUEST)
        conn.execute(
            insert(s.meeting_organisations).values(
                meeting_id=world.ids["会"], organisation_id=world.ids["乙"], agreed_ms=0
            )
        )
        rebuild(conn)
        found = query.resolve(conn, world.ids["甲"], Asked(*EVER))
        belongs = {
            line.member.code: line.belongs
            for line in query.lines(conn, found, minutes(99), limit=100)
        }
        assert belongs == {"李": True, "王": True, "赵": True, "钱": False, "孙": False}
        named = Asked(*EVER, name="qm")
        assert [each.member for each in ask(conn, world.ids["甲"], minutes(99), named)[0]] == ["钱"]
        # The partner sees its own people, and nobody else.
        assert {each.member for each in ask(conn, world.ids["乙"], minutes(99))[0]} == set("钱孙")


def test_a_name_that_fits_too_many_is_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "MOST_NAMED", 2)
    with engine.begin() as conn:
        world = district(conn)
        with pytest.raises(TooManyNamedError):
            query.resolve(conn, world.ids["甲"], Asked(*EVER, name="名"))
        # Those of other branches do not count.
        assert query.resolve(conn, world.ids["乙"], Asked(*EVER, name="名")).member_ids


def test_members_by_name_and_page(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        for number in range(25):
            world.member(f"n{number:02}", "乙")
        conn.execute(update(s.members).where(s.members.c.code == "n07").values(name="单小明"))
        world.member("去", "甲", until=minutes(0))

        def codes(scope: str, name: str = "", **page: int) -> tuple[list[str], int]:
            found, count = query.members(
                conn, world.ids[scope], name, minutes(1), **{"limit": 10, **page}
            )
            return [each.code for each in found], count

        assert codes("甲") == (sorted("李王赵"), 3)
        found, count = codes("区")
        more = codes("区", offset=10)[0] + codes("区", offset=20)[0]
        assert (len(found + more), count) == (30, 30)
        assert len(set(found + more)) == 30
        assert codes("区", "sxm") == (["n07"], 1)
        assert codes("甲", "sxm") == ([], 0)
        assert codes("区", "n", offset=20) == (["n20", "n21", "n22", "n23", "n24"], 25)
        line = query.members(conn, EVERYTHING, "单", minutes(1), limit=1)[0][0]
        assert (line.name, line.branch, line.public_id) == ("单小明", "乙名", str(public_id("n07")))


def test_the_tree_of_the_scope(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.organisation("丁", "甲", "GROUP")

        def told(scope: Scope) -> list[tuple[str, int]]:
            return [(each.organisation.code, each.depth) for each in query.tree(conn, scope)]

        below = sorted(["甲", "乙"])
        whole = [("区", 0)]
        for branch in below:
            whole += [(branch, 1), *([("丁", 2)] if branch == "甲" else [])]
        assert told(EVERYTHING) == told(world.ids["区"]) == whole
        assert told(world.ids["甲"]) == [("甲", 0), ("丁", 1)]


def test_the_database_cuts_the_page_and_goes_through_no_whole_table(engine: Engine) -> None:
    asked: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        asked.append((statement, parameters))

    with engine.begin() as conn:
        world = district(conn)
        found = query.resolve(conn, world.ids["甲"], Asked(*EVER))
        event.listen(engine, "before_cursor_execute", note)
        try:
            assert len(query.lines(conn, found, minutes(1), limit=2, offset=1)) == 2
            query.totals(conn, found, minutes(1))
        finally:
            event.remove(engine, "before_cursor_execute", note)
        assert len(asked) == 2
        assert "LIMIT" in asked[0][0]
        assert "OFFSET" in asked[0][0]
        if engine.dialect.name == "sqlite":
            for statement, parameters in asked:
                plan = [
                    row[3]
                    for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                ]
                # Once took a minute where it now takes a second.
                assert not [each for each in plan if each.startswith("SCAN attendances")]
                assert not [each for each in plan if "AUTOMATIC" in each]
