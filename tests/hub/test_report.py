"""What `shuaka-hub attendance` prints: for people a table, for programs CSV and JSON."""

import csv
import io
import json
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, insert, update

from hub.derive import rebuild
from hub.report import Attendance, Format, render
from hub.store import schema as s
from hub.store.queries import meeting_attendance, member_attendance, organisation_attendance
from hub.store.scope import EVERYTHING
from tests.hub.world import Entry, district, minutes, public_id, uid_of

CHINA = ZoneInfo("Asia/Shanghai")
EVER = (0, minutes(10_000_000))


@pytest.fixture
def told(engine: Engine) -> dict[str, Attendance]:
    """A meeting with a tap, a guest, a signed sheet, a leave, and what was stated of it."""
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        taps = [
            Entry(at, minutes(at), True, uid_of(world, who)) for at, who in ((3, "李"), (4, "钱"))
        ]
        world.batch("e", 1, taps)
        for kind, member, number in (
            ("SHEET", "王", None),
            ("HELD", None, None),
            ("HEAD_COUNT", None, 4),
            ("LEAVE_ASKED", "赵", None),
        ):
            asked = world.add(
                s.declarations,
                public_id=public_id(kind),
                meeting_id=world.ids["会"],
                kind=kind,
                member_id=None if member is None else world.ids[member],
                number=number,
                reason="ILLNESS" if member == "赵" else None,
                author="某人",
                made_ms=minutes(1),
            )
        world.add(
            s.declarations,
            public_id=public_id("granted"),
            meeting_id=world.ids["会"],
            kind="LEAVE_GRANTED",
            member_id=world.ids["赵"],
            about_id=asked,
            author="某人",
            made_ms=minutes(2),
        )
        conn.execute(
            insert(s.meeting_organisations).values(
                meeting_id=world.ids["会"],
                organisation_id=world.organisation("丙", "区"),
                agreed_ms=0,
            )
        )
        conn.execute(update(s.meetings).values(chair="王主持"))
        conn.execute(update(s.members).where(s.members.c.code == "李").values(name="=1+1"))
        rebuild(conn)
        now = minutes(90)
        found: dict[str, Attendance | None] = {
            "meeting": meeting_attendance(conn, EVERYTHING, "会", now, CHINA),
            "member": member_attendance(conn, EVERYTHING, "赵", *EVER, now),
            "organisation": organisation_attendance(conn, EVERYTHING, "甲", *EVER, now),
        }
    assert all(found.values())
    return {name: each for name, each in found.items() if each is not None}


def rows(attendance: Attendance) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render(attendance, Format.CSV, CHINA))))


def test_csv_has_a_column_for_the_word_and_one_for_the_identifier(
    told: dict[str, Attendance],
) -> None:
    by_code = {row["编号"]: row for row in rows(told["meeting"])}
    assert by_code["李"] == {
        "编号": "李",
        "姓名": "'=1+1",
        "组织": "甲名",
        "结果": "迟到",
        "verdict": "LATE",
        "签到时间": "2026-04-24 11:09:00",
        "依据": "刷卡",
        "evidence": "TAP",
        "刷卡次数": "1",
    }
    assert (by_code["王"]["verdict"], by_code["王"]["evidence"]) == ("PRESENT", "SHEET")
    assert (by_code["赵"]["verdict"], by_code["赵"]["evidence"]) == ("EXCUSED", "LEAVE")
    assert by_code["钱"]["verdict"] == "GUEST"
    [of_member] = rows(told["member"])
    assert (of_member["kind"], of_member["verdict"]) == ("BRANCH_ASSEMBLY", "EXCUSED")
    [of_organisation] = rows(told["organisation"])
    counts = [of_organisation[each] for each in ("应到", "实到", "迟到", "请假", "待定", "列席")]
    assert counts == ["3", "2", "1", "1", "0", "1"]


def test_a_table_says_each_term_beside_its_identifier(told: dict[str, Attendance]) -> None:
    text = render(told["meeting"], Format.TABLE, CHINA)
    for words in (
        "迟到 LATE",
        "纸质签到表 SHEET",
        "请假 EXCUSED",
        "应到 3　实到 2　迟到 1　请假 1",
        "联合召开：丙名",
        "主持人：王主持",
        "法定人数：达到法定人数 MET",
        "已确认召开",
        "清点人数：4",
    ):
        assert words in text
    assert "支部党员大会 BRANCH_ASSEMBLY" in render(told["member"], Format.TABLE, CHINA)


@pytest.mark.parametrize("what", ["meeting", "member", "organisation"])
def test_json_holds_all_of_it(told: dict[str, Attendance], what: str) -> None:
    found = json.loads(render(told[what], Format.JSON, CHINA))
    assert found["as_of_ms"] == minutes(90)
    if what == "meeting":
        assert found["quorum"] == "MET"
        assert found["rows"][0]["evidence"] in {"TAP", "SHEET", "LEAVE"}
