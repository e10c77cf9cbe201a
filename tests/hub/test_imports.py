"""A file is taken whole or not at all, and says everything that is wrong with it."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, func, insert, select

from hub.derive import derive_batch, rebuild_check
from hub.imports.draft import Draft
from hub.imports.files import read_file
from hub.imports.plan import Report, import_file
from hub.imports.registers import draw_up
from hub.imports.rows import AS_TEXT, Columns, Problem, Row, rows_of
from hub.imports.words import Register
from hub.store import schema as s
from protocol.credential import (
    Credential,
    classic_sector_credential,
    cpu_file_credential,
    uid_credential,
)
from tests.hub.world import LONG_AGO, Entry, World, public_id

NOW = LONG_AGO
FILES: dict[Register, str] = {
    Register.ORGANISATIONS: """code,name,kind,parent
jia,甲村党支部,党支部,qu
qu,某区党委,COMMITTEE,
jia-1,甲村第一党小组,党小组,jia
""",
    Register.MEMBERS: """code,name,organisation,body,from,to
m1,李一,jia,,2020-01-01,
m1,李一,jia,委员,2020-01-01,2026-12-31
m2,王二,jia,MEMBER,2020-01-01,
m2,王二,jia-1,党员,2020-01-01,
""",
    Register.OFFICES: """member,organisation,office,from,to
m1,jia,书记,2020-01-01,
m1,jia,组织委员,2020-01-01,2026-12-31
m2,jia-1,GROUP_LEADER,2020-01-01,
""",
    Register.VENUES: "code,name,organisation\nhall,礼堂,jia\n",
    Register.PLACEMENTS: "device,venue,from,to\n门口 一号,hall,2026-01-01,\n",
    Register.CARDS: """card,member,format,number,from,to
c1,m1,hex,04 A1 B2 C3 D4 E5 F6,2026-01-01,
c1,m1,dec10,0123456789,2026-01-01,
c2,,hex,11223344,,
""",
    Register.MEETINGS: """code,organisation,kind,title,venue,start,end,grace_minutes
x1,jia,支部党员大会,七月大会,hall,2026-07-01 14:30,2026-07-01 16:00,
x2,jia-1,PARTY_GROUP,小组会,hall,2026/7/2 9:00,2026/7/2 10:00,5
""",
}


def take(conn: Connection, register: Register, text: str | bytes) -> Report:
    data = text if isinstance(text, bytes) else text.encode()
    return import_file(conn, register, data, NOW)


def take_all(conn: Connection) -> list[Report]:
    if not conn.scalar(select(func.count()).select_from(s.devices)):
        conn.execute(
            insert(s.devices).values(
                public_id=public_id("d"), name="门口 一号", status="ACTIVE", sign_key=bytes(32)
            )
        )
    return [take(conn, register, text) for register, text in FILES.items()]


def read(data: bytes, columns: Columns) -> tuple[list[Row], list[Problem]]:
    found: list[Problem] = []
    grid = read_file(data, found)
    return ([] if grid is None else rows_of(grid, columns, {}, None, found)), found


def held(conn: Connection) -> dict[str, list[Any]]:
    """All registers, less the random ids."""
    return {
        table.name: sorted(
            repr([value for name, value in row._mapping.items() if name != "change"])
            for row in conn.execute(select(table))
        )
        for table in (
            s.organisations,
            s.members,
            s.memberships,
            s.offices,
            s.venues,
            s.placements,
            s.cards,
            s.credentials,
            s.bindings,
            s.meetings,
            s.meeting_organisations,
        )
    }


def problems(report: Report) -> list[tuple[int | None, str | None]]:
    return [(each.row, each.column) for each in report.problems]


def test_the_files_of_a_district_are_taken_and_the_same_files_change_nothing(
    engine: Engine,
) -> None:
    with engine.begin() as conn:
        first = take_all(conn)
        assert [report.problems for report in first] == [()] * 7
        assert [report.added for report in first] == [3, 4, 3, 1, 1, 3, 2]
        meeting = conn.execute(select(s.meetings).where(s.meetings.c.code == "x1")).one()
        assert meeting.starts_ms == 1_782_887_400_000  # 14:30 in China is 06:30 UTC
        assert meeting.opens_ms == meeting.starts_ms - 30 * 60_000
        assert meeting.grace_minutes == 0
        ends = conn.scalars(
            select(s.memberships.c.valid_to_ms).where(s.memberships.c.body == "COMMITTEE")
        ).all()
        assert ends == [1_798_732_800_000]  # the whole of 2026-12-31
        assert (
            conn.scalar(select(s.credentials.c.value).where(s.credentials.c.value.like("15CD%")))
            == "15CD5B07"
        )
        before = held(conn)
        again = take_all(conn)
        assert [(report.added, report.changed) for report in again] == [(0, 0)] * 7
        assert [report.unchanged for report in again] == [report.rows for report in first]
        assert held(conn) == before


def test_numbers_that_stand_in_a_card_are_those_that_devices_read(engine: Engine) -> None:
    text = (
        "card,member,format,number,from,issuer\n"
        "k1,m1,cpu-file,0000 0000 0000 0012 3abc,2026-01-01,33-01-00-00-12-34-56-78\n"
        "k2,m2,卡内扇区,A-20230815,2026-01-01,campus\n"
        "k2,m2,hex,AABBCCDD,2026-01-01,\n"
    )
    read = {
        cpu_file_credential("3301000012345678", "00000000000000123ABC"): "k1",
        classic_sector_credential("campus", "A-20230815"): "k2",
        uid_credential(bytes.fromhex("AABBCCDD")): "k2",
    }
    with engine.begin() as conn:
        take_all(conn)
        report = take(conn, Register.CARDS, text)
        assert report.problems == ()
        assert report.added == 3
        c = s.credentials.c
        rows = conn.execute(
            select(c.scheme, c.issuer, c.value, s.cards.c.code)
            .join(s.cards, s.cards.c.id == c.card_id)
            .where(s.cards.c.code.in_(["k1", "k2"]))
        )
        assert {Credential(*number): code for *number, code in rows} == read
        assert take(conn, Register.CARDS, text).unchanged == 3


@pytest.mark.parametrize(
    ("register", "text", "added", "changed"),
    [
        (Register.ORGANISATIONS, "code,name,kind,parent\njia,新名,BRANCH,qu\n", 0, 1),
        (Register.ORGANISATIONS, "code,name,kind,parent\njia,甲村党支部,BRANCH,\n", 0, 1),
        (
            Register.MEMBERS,
            "code,name,organisation,from,to\nm2,王二,jia,2020-01-01,2026-01-01\n",
            0,
            1,
        ),
        (Register.VENUES, "name,code,organisation\n大礼堂,hall,jia\n", 0, 1),
        (
            Register.PLACEMENTS,
            (
                "device,venue,from,to\n"
                "门口 一号,hall,2026-01-01,2026-02-01\n"
                "门口 一号,hall,2026-02-02,\n"
            ),
            1,
            1,
        ),
        (Register.CARDS, "card,member,format,number,from\nc2,m2,hex,11223344,2026-01-01\n", 0, 1),
        (
            Register.MEETINGS,
            (
                "code,organisation,kind,title,venue,start,end\n"
                "x1,jia,支部党员大会,七月大会,hall,2026-07-01 15:30,2026-07-01 16:00\n"
            ),
            0,
            1,
        ),
    ],
)
def test_what_differs_is_changed_and_nothing_else(
    engine: Engine, register: Register, text: str, added: int, changed: int
) -> None:
    with engine.begin() as conn:
        take_all(conn)
        report = take(conn, register, text)
        assert (report.problems, report.added, report.changed) == ((), added, changed)
        again = take(conn, register, text)
        assert (again.added, again.changed) == (0, 0)


BAD: list[tuple[Register, str, list[tuple[int | None, str | None]]]] = [
    # Organisations
    (
        Register.ORGANISATIONS,
        "code,name,kind,parent\na,甲,党支部,b\nb,乙,党支部,a\n",
        [(2, "parent"), (3, "parent")],
    ),
    (Register.ORGANISATIONS, "code,name,kind,parent\nqu,区,COMMITTEE,qu\n", [(2, "parent")]),
    (Register.ORGANISATIONS, "code,name,kind,parent\nz,组,党小组,\n", [(2, "parent")]),
    (Register.ORGANISATIONS, "code,name,kind,parent\nz,组,党小组,qu\n", [(2, "parent")]),
    (Register.ORGANISATIONS, "code,name,kind,parent\nz,组,党小组,nobody\n", [(2, "parent")]),
    (Register.ORGANISATIONS, "code,name,kind,parent\njia,甲,党委,\n", [(2, "kind")]),
    (
        Register.ORGANISATIONS,
        "code,name,kind,parent\nz,组,村,qu\n,无,党支部,qu\ny,乙,党支部,qu\ny,乙,党支部,qu\n",
        [(2, "kind"), (3, "code"), (5, "code")],
    ),
    # Members
    (
        Register.MEMBERS,
        (
            "code,name,organisation,from,to\n"
            "m9,九,nowhere,2026-01-01,\n"
            "m9,十,jia,2026-01-01,2025-01-01\n"
            "3.30101E+17,九,jia,2026-13-01,\n"
        ),
        [(2, "organisation"), (3, "name"), (3, "to"), (4, "code"), (4, "from")],
    ),
    (
        Register.MEMBERS,
        "code,name,organisation,from,to\nm2,王二,jia,2025-01-01,\n",
        [(2, "from")],
    ),
    (
        Register.MEMBERS,
        "code,name,organisation,from,to\nm9,九,jia,2025-01-01,2025-06-30\nm9,九,jia,2025-06-30,\n",
        [(3, "from")],
    ),
    (
        Register.MEMBERS,
        "code,name,organisation,from,to\nm9,九,jia,2025-01-01,\nm9,九,jia,2025-01-01,2026-01-01\n",
        [(3, "from")],
    ),
    (
        Register.MEMBERS,
        "code,name,organisation,from\nm2,张三,jia,2020-01-01\n",
        [(2, "name")],
    ),
    (
        Register.MEMBERS,
        "code,name,organisation,from,to\nm2,王二,qu,2026-01-01,\n",
        [(2, "organisation")],
    ),
    (
        Register.MEMBERS,
        (
            "code,name,organisation,from,to\nm9,九,jia,2020-01-01,\n"
            "m9,九,jia-1,2020-01-01,\nm9,九,qu,2019-01-01,2020-01-01\n"
        ),
        [(2, "organisation")],
    ),
    # Venues and placements
    (Register.VENUES, "code,name,organisation\nv,会 场,nowhere\n", [(2, "organisation")]),
    (
        Register.PLACEMENTS,
        "device,venue,from,to\n二号,hall,2026-01-01,\n门口 一号,room,2026-05-01,\n",
        [(2, "device"), (3, "venue")],
    ),
    (
        Register.PLACEMENTS,
        "device,venue,from,to\n门口 一号,hall,2026-05-01,\n",
        [(2, "from")],
    ),
    (
        Register.PLACEMENTS,
        "device,venue,from,to\n门口 一号,hall,2025-05-01,\n",
        [(2, "to")],
    ),
    # Cards
    (
        Register.CARDS,
        (
            "card,member,format,number,from,to\n"
            "n1,m1,dec8,12345678,2026-01-01,\n"
            "n2,m1,hex,1.23E+09,2026-01-01,\n"
            "n3,m1,hex,08112233,2026-01-01,\n"
            "n4,m1,octal,1,2026-01-01,\n"
            "n5,,hex,AABBCCDD,2026-01-01,\n"
            "n6,m7,hex,AABBCCDE,2026-01-01,\n"
            "n7,m1,dec10,123,2026-01-01,\n"
            "n8,m1,hex,AABBCCDF,,\n"
            "n9,m1,hex,FFFFFFFF,2026-01-01,\n"
            "n10,m1,dec10,4294967295,2026-01-01,\n"
            "n11,m1,十位十进制反序,0145000000,2026-01-01,\n"
        ),
        [
            (2, "number"),
            (3, "number"),
            (4, "number"),
            (5, "format"),
            (6, "from"),
            (7, "member"),
            (8, "number"),
            (9, "from"),
            (10, "number"),
            (11, "number"),
            (12, "number"),
        ],
    ),
    (
        Register.CARDS,
        "card,member,format,number,from,to\nn1,m1,hex,11223344,2026-01-01,\n",
        [(2, "number")],
    ),
    (
        Register.CARDS,
        (
            "card,member,format,number,from,issuer\n"
            "n1,m1,cpu-file,00000000000000123456,2026-01-01,\n"
            "n2,m1,cpu-file,00000000000000123456,2026-01-01,330100001234567\n"
            "n3,m1,cpu-file,0000000000000012345,2026-01-01,3301000012345678\n"
            "n4,m1,cpu-file,00000000000000000000,2026-01-01,3301000012345678\n"
            "n5,m1,卡内文件,FFFFFFFFFFFFFFFFFFFF,2026-01-01,3301000012345678\n"
            "n6,m1,classic-sector,20230815,2026-01-01,\n"
            "n7,m1,classic-sector,2023 0815,2026-01-01,campus\n"
            "n8,m1,卡内扇区,0000,2026-01-01,campus\n"
            "n9,m1,classic-sector,12\u200b34,2026-01-01,campus\n"
            "n10,m1,hex,AABBCCDD,2026-01-01,campus\n"
            "n11,m1,classic-sector,1.10101E+17,2026-01-01,campus\n"
        ),
        [
            (2, "issuer"),
            (3, "issuer"),
            (4, "number"),
            (5, "number"),
            (6, "number"),
            (7, "issuer"),
            (8, "number"),
            (9, "number"),
            (10, "number"),
            (11, "issuer"),
            (12, "number"),
        ],
    ),
    (
        Register.CARDS,
        (
            "card,member,format,number,from\nn1,m1,hex,AABBCCDD,2026-01-01\n"
            "n2,m2,hex-reversed,DDCCBBAA,2026-01-01\n"
        ),
        [(3, "number")],
    ),
    (
        Register.CARDS,
        "card,member,format,number,from\nc1,m2,dec10,0123456789,2026-03-01\n",
        [(2, "from")],
    ),
    # Meetings
    (
        Register.MEETINGS,
        (
            "code,organisation,kind,title,venue,start,end,grace_minutes\n"
            "y1,jia,支委会,一,hall,2026-07-01 14:30,2026-07-01 14:30,\n"
            "y2,jia,支委会,二,hall,2026-07-01,2026-07-01 25:00,\n"
            "y3,jia,党小组会,三,hall,2026-07-01 14:30,2026-07-01 15:30,-1\n"
            "y4,qu,支部党员大会,四,hall,2026-07-01 14:30,2026-07-03 15:30,\n"
            "y5,jia,党课,,cellar,2026-02-29 14:30,2026-07-01 15:30,5.5\n"
            "y6,jia,党课,六,hall,1950-07-01 14:30,1950-07-01 15:30,5\n"
            "y1,jia,支委会,六,hall,2026-07-01 14:30,2026-07-01 15:30,\n"
        ),
        [
            (2, "end"),
            (3, "end"),
            (3, "start"),
            (4, "grace_minutes"),
            (4, "kind"),
            (5, "end"),
            (5, "kind"),
            (6, "grace_minutes"),
            (6, "start"),
            (6, "title"),
            (6, "venue"),
            (7, "start"),
            (8, "code"),
        ],
    ),
    # Columns
    (Register.VENUES, "code,name\nv,会场\n", [(1, "organisation")]),
    (Register.VENUES, "code,name,organisation,colour\nv,会场,jia,red\n", [(1, "colour")]),
    (Register.VENUES, "code,name,name,organisation\nv,会场,x,jia\n", [(1, "name")]),
    (Register.VENUES, "code;name;organisation\nv;会场;jia\n", [(1, None)]),
    (Register.VENUES, "code,name,organisation\nv,会场\nw,会场,jia,more\n", [(2, None), (3, None)]),
    (Register.VENUES, 'code,name,organisation\nv,"会\n场",jia\n', [(2, "name")]),
    (Register.VENUES, "code,name,organisation\nv," + "长" * 201 + ",jia\n", [(2, "name")]),
    (Register.VENUES, 'code,name,organisation\nv,会"场,jia\n"x\n', [(3, None)]),
    (Register.VENUES, "code,name,organisation\n", [(None, None)]),
    (Register.VENUES, "\n\n", [(None, None)]),
    (Register.VENUES, "", [(None, None)]),
]


def test_a_column_that_is_not_there_says_nothing_of_what_is_known(engine: Engine) -> None:
    """Nor does a shorter file take back an end, or minutes, that a fuller one brought."""
    fuller = {
        Register.MEMBERS: (
            "code,name,organisation,body,from,to\nm2,王二,jia,,2020-01-01,2026-05-31\n"
        ),
        Register.PLACEMENTS: "device,venue,from,to\n门口 一号,hall,2026-01-01,2026-05-31\n",
        Register.CARDS: (
            "card,member,format,number,from,to\nc1,m1,dec10,0123456789,2026-01-01,2026-05-31\n"
        ),
        Register.MEETINGS: (
            "code,organisation,kind,title,venue,start,end,grace_minutes\n"
            "x1,jia,支部党员大会,七月大会,hall,2026-07-01 14:30,2026-07-01 16:00,15\n"
        ),
    }
    with engine.begin() as conn:
        take_all(conn)
        for register, text in fuller.items():
            assert take(conn, register, text).changed == 1
        before = held(conn)
        for register, text in fuller.items():
            shorter = "".join(line.rpartition(",")[0] + "\n" for line in text.splitlines())
            report = take(conn, register, shorter)
            assert (report.problems, report.changed, report.unchanged) == ((), 0, 1), register
            assert held(conn) == before
            emptied = text.replace(",2026-05-31\n", ",\n").replace(",15\n", ",\n")
            report = take(conn, register, emptied)
            if register is Register.CARDS:
                # But whose a card no longer is, it does not become again by a cell left empty.
                assert problems(report) == [(2, "to")]
            else:
                assert report.changed == 1, "an empty cell says something"
            take(conn, register, text)


def test_who_has_another_name_now_is_renamed_where_that_is_said(engine: Engine) -> None:
    with engine.begin() as conn:
        take_all(conn)
        text = "code,name,organisation,from\nm2,王改名,jia,2020-01-01\n"
        [problem] = take(conn, Register.MEMBERS, text).problems
        assert "王二" in str(problem)
        assert "--rename" in str(problem)
        for changed in (1, 0):
            report = import_file(conn, Register.MEMBERS, text.encode(), NOW, renames=True)
            assert (report.problems, report.changed) == ((), changed)
        assert conn.scalar(select(s.members.c.name).where(s.members.c.code == "m2")) == "王改名"


def test_a_member_moves_to_another_branch_where_the_end_is_given(engine: Engine) -> None:
    with engine.begin() as conn:
        take_all(conn)
        text = (
            "code,name,organisation,from,to\n"
            "m2,王二,qu,2026-01-01,\nm2,王二,jia,2020-01-01,2025-12-31\n"
        )
        report = take(conn, Register.MEMBERS, text)
        assert (report.problems, report.added, report.changed) == ((), 1, 1)


@pytest.mark.parametrize(
    ("register", "text", "shown"),
    [
        (Register.ORGANISATIONS, "code,name,kind,parent\nyi,乙,党支部,qu\n", 0),
        (Register.VENUES, "code,name,organisation\nroom,小房间,jia\n", 0),
        (Register.MEMBERS, "code,name,organisation,from\nm2,王改名,jia,2020-01-01\n", 0),
        (Register.MEMBERS, "code,name,organisation,from\nm3,三,jia,2020-01-01\n", 1),
        (Register.MEMBERS, "code,name,organisation,from\nm3,三,jia,2026-07-02\n", 0),
        (Register.MEMBERS, "code,name,organisation,from,to\nm3,三,jia,2020-01-01,2026-06-30\n", 0),
        (
            Register.MEMBERS,
            "code,name,organisation,from,to\nm2,王二,jia,2020-01-01,2026-06-30\n",
            1,
        ),
        (Register.MEMBERS, "code,name,organisation,from\nm3,三,qu,2020-01-01\n", 0),
        (Register.OFFICES, "member,organisation,office,from\nm2,jia,副书记,2026-01-01\n", 1),
        (
            Register.MEETINGS,
            (
                "code,organisation,kind,title,venue,start,end\n"
                "x1,jia,支部党员大会,改题,hall,2026-07-01 14:30,2026-07-01 16:00\n"
            ),
            1,
        ),
        (Register.CARDS, "card,member,format,number,from\nc2,m2,hex,11223344,2026-01-01\n", 0),
    ],
)
def test_only_what_changed_is_made_anew_and_shown(
    engine: Engine, register: Register, text: str, shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = select(s.meetings.c.change).where(s.meetings.c.code == "x1")
    with engine.begin() as conn:
        take_all(conn)
        monkeypatch.setattr("hub.imports.draft.rebuild", lambda _conn: pytest.fail("all of it"))
        before = conn.scalar(change) or 0
        report = import_file(conn, register, text.encode(), NOW, renames=True)
        assert report.added + report.changed == 1, report.problems
        assert conn.scalar(change) == before + shown
        assert rebuild_check(conn) == []


@pytest.mark.parametrize(("register", "text", "where"), BAD)
def test_what_is_wrong_is_all_said_and_nothing_is_written(
    engine: Engine, register: Register, text: str, where: list[tuple[int | None, str | None]]
) -> None:
    with engine.begin() as conn:
        take_all(conn)
        before = held(conn)
        # A right row beside the wrong ones is not taken either.
        report = take(conn, register, text)
        assert problems(report) == where, [str(each) for each in report.problems]
        assert (report.ok, report.added, report.changed, report.unchanged) == (False, 0, 0, 0)
        assert held(conn) == before


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ("code,name,organisation\nv,会场,jia\n".encode("gb18030"), "UTF-8"),
        ("code,name,organisation\nv,会场,jia\n".encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04rest", "Excel"),
        (b"code,name\0", "零字节"),
        (b"x" * ((32 << 20) + 1), "MB"),
        (b"code,name,organisation\nv," + b"x" * 200_000 + b",jia", "过长"),
    ],
)
def test_a_file_that_is_no_csv_is_told_what_it_is(data: bytes, word: str) -> None:
    rows, found = read(data, Columns(("code", "name", "organisation")))
    assert rows == []
    assert len(found) == 1
    assert word in str(found[0])


def test_a_byte_order_mark_and_blank_lines_are_no_matter(engine: Engine) -> None:
    with engine.begin() as conn:
        take_all(conn)
        text = "\ufeff\r\nCode , name,organisation,,\r\n,,\r\n v9 ,会 场,jia,,\r\n"
        report = take(conn, Register.VENUES, text)
        assert (report.added, report.problems) == (1, ())
        assert conn.scalar(select(s.venues.c.name).where(s.venues.c.code == "v9")) == "会 场"


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("1.10101e17", True),
        ("3.30102E+17", True),
        ("330102.0", True),
        ("1E+17", True),
        ("330102199001011234", False),
        ("01.02", False),
        ("12E45678", False),
    ],
)
def test_numbers_that_a_spreadsheet_spoilt_are_refused(code: str, refused: bool) -> None:
    rows, found = read(f"code\n{code}\n".encode(), Columns(("code",)))
    assert (rows[0].code("code") is None) is refused
    assert (AS_TEXT in "".join(map(str, found))) is refused


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    rows, found = read(b"code,name\n" + data, Columns(("code", "name")))
    for row in rows:
        row.code("code")
        row.text("name")
    assert rows or found


CARDS = "card,member,format,number,from,to\nc7,m2,hex,11223355,2026-01-01,{to}\n"


def _of_c7(conn: Connection) -> list[Any]:
    return list(
        conn.execute(
            select(s.cards.c.status, s.bindings.c.valid_to_ms)
            .join(s.bindings, s.bindings.c.card_id == s.cards.c.id)
            .where(s.cards.c.code == "c7")
        ).all()
    )


@pytest.mark.parametrize(
    ("status", "word"), [("LOST", "已挂失"), ("WITHDRAWN", "已停用"), ("ACTIVE", "已在")]
)
def test_a_file_takes_back_no_loss_and_no_end_by_saying_nothing_of_it(
    engine: Engine, status: str, word: str
) -> None:
    ended_ms = 1_780_279_200_000  # 2026-06-01 10:00 in China
    with engine.begin() as conn:
        take_all(conn)
        assert take(conn, Register.CARDS, CARDS.format(to="")).ok
        conn.execute(s.cards.update().where(s.cards.c.code == "c7").values(status=status))
        [card] = conn.scalars(select(s.cards.c.id).where(s.cards.c.code == "c7"))
        conn.execute(
            s.bindings.update().where(s.bindings.c.card_id == card).values(valid_to_ms=ended_ms)
        )
        for text in (
            CARDS.format(to=""),
            FILES[Register.CARDS] + CARDS.format(to="").split("\n")[1],
        ):
            [problem] = take(conn, Register.CARDS, text).problems
            assert problem.column == "to"
            assert word in problem.message
            assert "2026-06-01 10:00" in problem.message
        later = "2026-07-01"
        anew = "card,member,format,number,from\nc7,m2,hex,11223355,2026-08-01\n"
        assert _of_c7(conn) == [(status, ended_ms)]
        # What the message says can be filled in; and without the column nothing is said.
        told = take(conn, Register.CARDS, CARDS.format(to="2026-06-01 10:00"))
        silent = take(conn, Register.CARDS, CARDS.replace(",to", "").replace(",{to}", ""))
        assert (told.problems, told.unchanged) == (silent.problems, silent.unchanged) == ((), 1)
        # An end that is given is meant; but a lost card is in use again only once it was found.
        is_used = status == "ACTIVE"
        assert take(conn, Register.CARDS, anew).ok == is_used
        if not is_used:
            assert not take(conn, Register.CARDS, CARDS.format(to=later)).ok
            assert _of_c7(conn) == [(status, ended_ms)]
        assert take(conn, Register.CARDS, CARDS.format(to="2026-05-01")).changed == 1


def test_a_meeting_becomes_no_kind_that_a_partner_does_not_hold(engine: Engine) -> None:
    text = (
        "code,organisation,kind,title,venue,start,end\n"
        "x3,jia,{},七月,hall,2026-07-01 14:30,2026-07-01 16:00\n"
    )
    with engine.begin() as conn:
        take_all(conn)
        assert take(conn, Register.MEETINGS, text.format("党课")).ok
        partner = conn.scalar(select(s.organisations.c.id).where(s.organisations.c.code == "qu"))
        meeting = conn.scalar(select(s.meetings.c.id).where(s.meetings.c.code == "x3"))
        conn.execute(
            insert(s.meeting_organisations).values(meeting_id=meeting, organisation_id=partner)
        )
        report = take(conn, Register.MEETINGS, text.format("支部党员大会"))
        assert problems(report) == [(2, "kind")]
        assert "党委不开支部党员大会" in report.problems[0].message
        assert take(conn, Register.MEETINGS, text.format("主题党日")).changed == 1
        # Who takes part no more is in nobody's way.
        conn.execute(
            s.meeting_organisations.update()
            .where(s.meeting_organisations.c.organisation_id == partner)
            .values(left_ms=NOW)
        )
        assert take(conn, Register.MEETINGS, text.format("支部党员大会")).changed == 1


def test_an_organisation_becomes_no_kind_that_does_not_hold_its_meetings(engine: Engine) -> None:
    text = "code,name,kind,parent\njia,甲村党支部,{},qu\n"
    with engine.begin() as conn:
        take_all(conn)
        take(conn, Register.ORGANISATIONS, FILES[Register.ORGANISATIONS])
        # Nothing is below it that would be in the way.
        conn.execute(
            s.organisations.update()
            .where(s.organisations.c.code == "jia-1")
            .values(parent_id=None, kind="COMMITTEE")
        )
        report = take(conn, Register.ORGANISATIONS, text.format("党委"))
        assert problems(report) == [(2, "kind")]
        assert "支部党员大会" in report.problems[0].message
        assert take(conn, Register.ORGANISATIONS, text.format("党总支")).changed == 1


def test_live_pages_are_told_where_a_device_stands_now(engine: Engine) -> None:
    """As when it is placed on its page: whose record is asked for has changed, taps or none."""
    changes = select(s.meetings.c.code, s.meetings.c.change)
    with engine.begin() as conn:
        take_all(conn)
        before = {row.code: row.change for row in conn.execute(changes)}
        text = "device,venue,from,to\n门口 一号,hall,2026-01-01,2026-07-01\n"
        assert take(conn, Register.PLACEMENTS, text).changed == 1
        after = {row.code: row.change for row in conn.execute(changes)}
        assert all(after[code] > before[code] for code in ("x1", "x2"))
        assert take(conn, Register.PLACEMENTS, text).changed == 0
        assert {row.code: row.change for row in conn.execute(changes)} == after


def test_a_stranger_s_number_that_comes_in_during_an_import_is_taken_all_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ingest does it, which waits for no import: after the file was looked at."""

    def then_lands(draft: Draft, register: Register) -> None:
        draw_up(draft, register)
        draft.conn.execute(insert(s.credentials).values(scheme="uid", issuer="", value="AABBCCDD"))

    with engine.begin() as conn:
        take_all(conn)
        monkeypatch.setattr("hub.imports.plan.draw_up", then_lands)
        text = (
            "card,member,format,number,from\n"
            "c9,m2,hex,AABBCCDD,2026-07-01\nc8,m2,hex,AABBCCDE,2026-07-01\n"
        )
        assert take(conn, Register.CARDS, text).added == 2
        found = select(s.credentials.c.value, s.cards.c.code).join(
            s.cards, s.cards.c.id == s.credentials.c.card_id
        )
        assert {("AABBCCDD", "c9"), ("AABBCCDE", "c8")} <= set(conn.execute(found).all())


def test_attendance_follows_an_import_at_once(engine: Engine) -> None:
    with engine.begin() as conn:
        take_all(conn)
        world = World(conn)
        world.ids["一号"] = conn.scalar(select(s.devices.c.id)) or 0
        world.epoch("e", "一号")
        start = conn.scalar(select(s.meetings.c.starts_ms).where(s.meetings.c.code == "x1")) or 0
        stranger = world.card(None, "AABBCCDD")
        world.batch("e", 1, [Entry(1, start, trusted=True, credential_id=stranger)])
        derive_batch(conn)
        assert conn.scalars(select(s.readings.c.outcome)).all() == ["UNMATCHED"]
        report = take(
            conn,
            Register.CARDS,
            "card,member,format,number,from\nc9,m2,hex,AABBCCDD,2026-07-01\n",
        )
        assert report.added == 1
        assert conn.execute(select(s.attendances.c.verdict, s.attendances.c.at_ms)).all() == [
            ("PRESENT", start)
        ]
        assert rebuild_check(conn) == []


def test_a_meeting_that_was_spoken_of_is_not_moved_to_another_day_by_a_file(
    engine: Engine,
) -> None:
    moved = "code,organisation,kind,title,venue,start,end\nx1,jia,支部党员大会,七月大会,hall,"
    with engine.begin() as conn:
        take_all(conn)
        meeting = conn.scalar(select(s.meetings.c.id).where(s.meetings.c.code == "x1"))
        conn.execute(
            insert(s.declarations).values(
                public_id=s.new_public_id(),
                meeting_id=meeting,
                kind="HELD",
                author="某人",
                made_ms=NOW,
            )
        )
        report = take(conn, Register.MEETINGS, moved + "2026-07-08 14:30,2026-07-08 16:00\n")
        assert [(each.row, each.column) for each in report.problems] == [(2, "start")]
        assert "请先在“办理记录”中撤回" in str(report.problems[0])
