"""A register is imported on pages, step by step; nothing is written before the last."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, delete, func, select

from hub.auth.callers import Caller
from hub.domain.terms import Role
from hub.imports import jobs
from hub.imports.jobs import Desk, Stage
from hub.imports.words import COLUMNS, EXPLAINED, HEADINGS, Register, allowed
from hub.store import schema as s
from hub.store.engine import reading
from hub.web.words import ENGLISH
from tests.hub.site import Client, Site
from tests.hub.test_import_files import EXPORT, grid_of, sheet
from tests.hub.world import LONG_AGO

MEMBERS = [
    ["党员编号", "姓名", "组织编号", "开始日期"],
    ["m8", "八", "甲", "2026-07-01"],
    ["m9", "<b>九</b>", "甲", "2026-07-01"],
]


@pytest.fixture
def operator(site: Site) -> Client:
    with site.engine.begin() as conn:
        site.account(conn, "op", "管理员", "区", Role.OPERATOR)
        site.account(conn, "op2", "另一管理员", "区", Role.OPERATOR)
        site.account(conn, "branch", "支部管理员", "甲", Role.OPERATOR)
    return site.signed_in("op")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    for each in threading.enumerate():
        if each.name == "import":
            each.join(20)


def send(client: Client, register: str, data: bytes, name: str = "名册.xlsx") -> httpx.Response:
    return client.post(f"/imports/{register}", files={"file": (name, data)})


def work(client: Client) -> str:
    """The page of the job, once it is settled."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        response = client.get("/imports/work")
        if response.status_code == 303:
            response = client.get(response.headers["location"])
        assert response.status_code == 200
        if "refresh" not in response.headers:
            return response.text
        time.sleep(0.05)
    raise AssertionError("it never ends")


def digest_of(page: str) -> str:
    return page.split('name="digest" value="')[1].split('"', maxsplit=1)[0]


def members(site: Site) -> int:
    with reading(site.engine) as conn:
        return conn.scalar(select(func.count()).select_from(s.members)) or 0


def test_where_devices_stand_is_next_only_once_there_is_one(site: Site, operator: Client) -> None:
    venues = [["会场编号", "会场名称", "组织编号"], ["v8", "村部", "甲"]]

    def following() -> str:
        send(operator, "venues", sheet(venues))
        operator.post("/imports/work/take", data={"digest": digest_of(work(operator))})
        page = work(operator)
        venues[1][0] += "1"
        assert "已全部导入" in page
        return page

    assert "/imports/placements" in following()
    with site.engine.begin() as conn:
        for table in (s.epochs, s.placements, s.devices):
            conn.execute(delete(table))
    page = following()
    assert "/imports/placements" not in page
    assert "接着导入党员卡" in page
    assert "第一次使用请跳过" in operator.get("/imports").text


def test_what_differs_in_each_row_is_not_offered_for_all(operator: Client) -> None:
    send(operator, "members", sheet([["代号", "名", "支部"], ["m8", "八", "甲"]]))
    html = work(operator)
    assert 'name="from-code"' in html
    assert 'name="all-code"' not in html
    assert 'name="all-name"' not in html
    assert 'name="all-from"' in html
    response = operator.post("/imports/work/columns", data={"from-name": "名"})
    assert '<a href="#f-from-code">党员编号</a>' in response.text
    assert "各行都填（可不填）" not in html


def test_from_the_template_to_the_result(site: Site, operator: Client) -> None:
    before = members(site)
    assert "党员" in operator.get("/imports").text
    page = operator.get("/imports/members").text
    assert 'enctype="multipart/form-data"' in page
    assert EXPLAINED[Register.MEMBERS]["to"][0] in page
    file = operator.get("/imports/members/template")
    assert file.headers["content-type"].startswith("application/vnd.openxml")
    assert file.content.startswith(b"PK")
    assert send(operator, "members", sheet(MEMBERS)).headers["location"] == "/imports/work"
    page = work(operator)
    assert "还没有导入" in page
    assert "&lt;b&gt;九&lt;/b&gt;" in page
    assert "名册.xlsx" in page
    assert "名册.xlsx" in operator.get("/imports").text
    assert members(site) == before
    response = operator.post("/imports/work/take", data={"digest": digest_of(page)})
    assert response.status_code == 303
    page = work(operator)
    assert "已全部导入：新增2行" in page
    assert "/imports/offices" in page
    assert members(site) == before + 2
    with reading(site.engine) as conn:
        [row] = conn.execute(select(s.audit).where(s.audit.c.what == "register.import")).all()
        details = json.loads(row.details)
        assert row.actor == "管理员"
        assert row.organisation_id == site.ids["区"]
        assert (details["register"], details["file"], details["added"]) == (
            "members",
            "名册.xlsx",
            2,
        )
        assert "八" not in row.details
    # Once more: there is nothing to do, and nothing to press.
    send(operator, "members", sheet(MEMBERS))
    page = work(operator)
    assert "不需要导入" in page
    assert "digest" not in page


def test_what_is_wrong_is_shown_and_comes_back_as_a_file(site: Site, operator: Client) -> None:
    before = members(site)
    wrong = [*MEMBERS, ["m10", "十", "nowhere", "昨天"]]
    send(operator, "members", sheet(wrong))
    page = work(operator)
    assert "文件有2个问题" in page
    assert "第4行" in page
    assert "没有这个编号的组织" in page
    assert "digest" not in page
    assert operator.post("/imports/work/take", data={"digest": "0" * 64}).status_code == 303
    assert "文件有2个问题" in work(operator)
    file = operator.get("/imports/work/problems")
    back = grid_of(file.content)
    assert back.headings[0] == "问题"
    assert "不是日期" in back.rows[2][1][0]
    assert members(site) == before
    right = sheet([back.headings, *[["", *cells[1:]] for _, cells in back.rows[:2]]])
    send(operator, "members", right)
    operator.post("/imports/work/take", data={"digest": digest_of(work(operator))})
    assert "已全部导入" in work(operator)
    assert members(site) == before + 2


def test_a_list_with_other_columns_is_matched_first(site: Site, operator: Client) -> None:
    before = members(site)
    rows = [row.copy() for row in EXPORT]
    rows[2][4] = rows[3][4] = "甲"
    send(operator, "members", sheet(rows))
    page = work(operator)
    assert "对应各列" in page
    assert '<option value="党员编号（必填）" selected>' in page
    assert "性别" in page.split("不导入的列")[1]
    response = operator.post("/imports/work/columns", data={"from-code": "序号", "all-code": "x"})
    assert response.status_code == 422
    assert "不要再填" in response.text
    assert "请选择文件里的一列" in response.text
    response = operator.post("/imports/work/columns", data={"from-code": "没有的"})
    assert "文件里没有这一列" in response.text
    chosen = {
        "from-code": "党员编号（必填）",
        "from-name": "姓 名",
        "from-from": "进入当前支部日期",
        "all-organisation": "甲",
        "all-votes": "无",
        "from-body": "",
    }
    assert operator.post("/imports/work/columns", data=chosen).status_code == 303
    page = work(operator)
    assert "还没有导入" in page
    again = operator.get("/imports/work/columns").text
    assert '<option value="姓 名" selected>' in again
    assert 'name="all-organisation" type="text" value="甲"' in again
    operator.post("/imports/work/take", data={"digest": digest_of(page)})
    assert "新增2行" in work(operator)
    assert members(site) == before + 2
    with reading(site.engine) as conn:
        votes = select(s.memberships.c.votes).join(s.members).where(s.members.c.code == "m8")
        assert conn.scalar(votes) is False


def test_a_new_name_is_taken_only_where_that_is_chosen(site: Site, operator: Client) -> None:
    rows = [MEMBERS[0], ["李", "李新名", "甲", "2026-01-01"]]
    with site.engine.begin() as conn:
        ended = s.memberships.update().where(s.memberships.c.member_id == site.ids["李"])
        conn.execute(ended.values(valid_to_ms=LONG_AGO + 1))
    send(operator, "members", sheet(rows))
    assert "允许改名" in work(operator)
    names = dict(zip(("code", "name", "organisation", "from"), MEMBERS[0], strict=True))
    chosen = {f"from-{column}": heading for column, heading in names.items()}
    operator.post("/imports/work/columns", data={**chosen, "renames": "yes"})
    operator.post("/imports/work/take", data={"digest": digest_of(work(operator))})
    assert "已全部导入" in work(operator)
    with reading(site.engine) as conn:
        name = select(s.members.c.name).where(s.members.c.code == "李")
        assert conn.scalar(name) == "李新名"


def test_a_card_list_taken_again_does_not_undo_a_loss(site: Site, operator: Client) -> None:
    cards = [
        ["卡编号", "持卡人编号", "卡号格式", "卡号", "开始日期", "结束日期"],
        ["k9", "李", "hex", "04AABBCCDDEE11", "2025-06-01", ""],
    ]
    send(operator, "cards", sheet(cards))
    operator.post("/imports/work/take", data={"digest": digest_of(work(operator))})
    assert "已全部导入" in work(operator)
    with reading(site.engine) as conn:
        card = conn.scalar(select(s.cards.c.public_id).where(s.cards.c.code == "k9"))
    lost = {"day": "2026-04-24", "time": "11:00"}
    assert operator.post(f"/cards/{card}/lost", data=lost).status_code == 303
    send(operator, "cards", sheet(cards))
    page = work(operator)
    assert "这张卡已挂失，登记到2026-04-24 11:00为止" in page
    assert "digest" not in page
    cards[1][-1] = "2026-04-24 11:00"
    send(operator, "cards", sheet(cards))
    assert "不需要导入" in work(operator)


def test_only_what_was_previewed_is_taken(site: Site, operator: Client) -> None:
    before = members(site)
    send(operator, "members", sheet(MEMBERS[:2]))
    old = digest_of(work(operator))
    send(operator, "members", sheet(MEMBERS))
    work(operator)
    operator.post("/imports/work/take", data={"digest": old})
    assert "重新预览" in work(operator)
    assert members(site) == before
    # Nor what has become wrong since.
    send(operator, "members", sheet(MEMBERS))
    page = work(operator)
    with site.engine.begin() as conn:
        conn.execute(s.members.insert().values(code="m8", name="别人", public_id=s.new_public_id()))
    operator.post("/imports/work/take", data={"digest": digest_of(page)})
    page = work(operator)
    assert "在您的管理范围以外已有人使用" in page
    assert "别人" not in page
    assert members(site) == before + 1


def test_a_job_is_its_accounts_own_and_its_scope_too(site: Site, operator: Client) -> None:
    send(operator, "members", sheet(MEMBERS))
    work(operator)
    other = site.signed_in("op2")
    assert "没有正在处理的文件" in other.get("/imports/work").text
    assert other.get("/imports/work/problems").status_code == 404
    assert other.get("/imports/work/columns").headers["location"] == "/imports/work"
    assert "名册.xlsx" not in other.get("/imports").text
    branch = site.signed_in("branch")
    send(branch, "members", sheet([MEMBERS[0], ["m8", "八", "乙", "2026-07-01"]]))
    assert "没有这个编号的组织" in work(branch)
    assert "还没有导入" in work(operator)
    operator.post("/imports/work/drop")
    assert "没有正在处理的文件" in work(operator)
    assert "没有这个编号的组织" in work(branch)


@pytest.mark.parametrize("role", [Role.SECRETARY, Role.AUDITOR, Role.TECHNICIAN])
def test_who_may_not_is_refused(site: Site, role: Role) -> None:
    with site.engine.begin() as conn:
        site.account(conn, "x", "某人", "区", role)
    client = site.signed_in("x")
    for path in ("/imports", "/imports/work", "/imports/members", "/imports/members/template"):
        assert client.get(path).status_code == 403
    assert send(client, "members", sheet(MEMBERS)).status_code == 403
    assert client.post("/imports/work/take", data={"digest": ""}).status_code == 403
    # Nor is a file read of somebody who is not signed in.
    response = send(site.client(), "members", b"x" * 10_000_000)
    assert response.headers["location"].startswith("/sign-in")


def test_what_is_no_import_is_404(site: Site, operator: Client) -> None:
    for path in ("/imports/nothing", "/imports/nothing/template", "/imports/MEMBERS"):
        assert operator.get(path).status_code == 404
    assert operator.post("/imports/nothing").status_code == 404


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({}, "请先选择一个文件"),
        ({"file": ("", b"")}, "请先选择一个文件"),
        ({"file": ("空.csv", b"")}, "请先选择一个文件"),
        ({"other": ("x.csv", b"a,b\n1,2\n")}, "请先选择一个文件"),
    ],
)
def test_a_form_without_a_file_says_so(
    site: Site, operator: Client, files: dict[str, Any], word: str
) -> None:
    response = operator.post("/imports/members", files=files)
    assert response.status_code == 422
    assert word in response.text


def test_what_cannot_be_read_is_told_and_a_larger_body_is_not_read(
    site: Site, operator: Client
) -> None:
    send(operator, "members", "编号\xff".encode("latin-1", "ignore"), "x.csv")
    assert "UTF-8" in work(operator)
    assert operator.get("/imports/work/problems").status_code == 404
    assert send(operator, "members", b"x" * (33 << 20)).status_code == 413
    # All other addresses take no more than before.
    response = operator.post("/imports/work/columns", data={"from-code": "x" * 70_000})
    assert response.status_code == 413


def test_while_it_is_worked_on_the_page_says_how_far_it_is(
    site: Site, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, original = threading.Event(), jobs.plan

    def slow(conn: Any, asked: Any, now_ms: int, scope: Any, progress: Any) -> Any:
        progress(1, 2)
        assert going.wait(20)
        return original(conn, asked, now_ms, scope, progress)

    monkeypatch.setattr(jobs, "plan", slow)
    monkeypatch.setattr("hub.web.imports.PATIENCE_S", 0.2)
    send(operator, "members", sheet(MEMBERS))
    response = operator.get("/imports/work")
    assert response.headers["refresh"] == "2"
    assert "已看1行，共2行" in response.text
    assert '<progress aria-label="进度" max="2" value="1">' in response.text
    # Nothing else is begun with it, and it is not lost.
    assert send(operator, "members", sheet(MEMBERS)).status_code == 422
    operator.post("/imports/work/drop")
    operator.post("/imports/work/columns", data={})
    going.set()
    assert "还没有导入" in work(operator)


def test_a_fault_of_our_own_is_told_without_what_it_was(
    site: Site, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("李一 330102")

    monkeypatch.setattr(jobs, "plan", broken)
    send(operator, "members", sheet(MEMBERS))
    page = work(operator)
    assert "系统出错，什么都没有导入" in page
    assert "330102" not in page


def test_so_many_jobs_are_kept_and_for_so_long(engine: Engine) -> None:
    now = [0]
    desk = Desk(engine, lambda: now[0])

    def caller(number: int) -> Caller:
        return Caller("x", Role.OPERATOR, 1, "", "", account_id=number)

    data = sheet([["x", "y"], ["1", "2"]])
    for number in range(jobs.MAX_JOBS):
        job = desk.open(caller(number), Register.VENUES, "x", data)
        assert job.settled.wait(20)
        assert job.stage is Stage.COLUMNS
    with pytest.raises(jobs.BusyError):
        desk.open(caller(99), Register.VENUES, "x", data)
    assert desk.open(caller(0), Register.VENUES, "x", data).settled.wait(20)
    now[0] = jobs.IDLE_MS + 1
    assert desk.of(caller(3)) is not None
    assert desk.open(caller(99), Register.VENUES, "x", data).settled.wait(20)
    assert desk.of(caller(3)) is not None
    assert desk.of(caller(4)) is None


def test_large_files_that_wait_for_their_people_are_few(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = sheet([["x", "y"], ["1" * 100, "2"]])
    monkeypatch.setattr(jobs, "MAX_HELD", 200)
    desk = Desk(engine, lambda: 0)

    def caller(number: int) -> Caller:
        return Caller("x", Role.OPERATOR, 1, "", "", account_id=number)

    for number in range(2):
        assert desk.open(caller(number), Register.VENUES, "x", data).settled.wait(20)
    with pytest.raises(jobs.BusyError):
        desk.open(caller(2), Register.VENUES, "x", data)
    # One's own earlier file goes, and does not count.
    assert desk.open(caller(1), Register.VENUES, "x", data).settled.wait(20)
    desk.close(caller(0))
    assert desk.open(caller(2), Register.VENUES, "x", data).settled.wait(20)


@pytest.mark.parametrize("register", list(Register))
def test_what_the_templates_say_has_its_english(register: Register) -> None:
    for column in COLUMNS[register].all:
        meaning, _ = EXPLAINED[register][column]
        for words in (HEADINGS[register][column][0], meaning, *allowed(register, column)):
            assert words in ENGLISH
