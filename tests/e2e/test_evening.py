"""The first evening: from an empty hub to an exported record, in a browser, on real parts.

First run, imports with a mistake corrected, two devices enrolled, accounts, a meeting with taps
that arrive live, a forgotten card witnessed, a leave, a paper sheet, an offline device that syncs
late, an unknown card bound, 补签 decided by a second person, an objection, the export, the member's
own pages. Operator and deputy sit at a desk, secretary and member hold a phone. Every screen on the
way must be accessible, fit, and complain of nothing.

With SHUAKA_SCREENS=FOLDER each screen is saved there: that is how the pictures in docs/ are made.
"""

import csv
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from python_calamine import CalamineWorkbook
from xlsxwriter import Workbook

from tests.hub.web.axe import assert_accessible, assert_light, sticking_out
from tests.hub.web.test_browser import FLAGS, watched
from tests.rig import Mosquitto, Pcscd, TcpProxy, UidCard, VirtualReader, private_dir, wait_for
from tests.rig.product import PASSWORD, Edge, Hub

pytestmark = [pytest.mark.servers, pytest.mark.browser]

DISTRICT = Path(__file__).parents[2] / "deploy/demo/district"
ZONE = ZoneInfo(f"Etc/GMT{datetime.now(UTC).hour - 12:+}")
"""Where it is about noon now (UTC+3 is Etc/GMT-3), so that no evening falls on two days."""
BRANCH = "清溪社区党支部"
VENUE = "清溪社区党群服务中心三楼会议室"
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}
MOST = 1300
"""Pixels of height of a saved screen: longer ones cannot be read in a document."""


def rows(register: str) -> list[list[str]]:
    return list(csv.reader((DISTRICT / f"{register}.csv").read_text("utf-8-sig").splitlines()))


def members_of(branch: str) -> list[tuple[str, str]]:
    """(code, name) of the branch's members, as the file lists them."""
    return [(row[0], row[1]) for row in rows("members")[1:] if row[2] == branch]


def uid_of(code: str) -> bytes:
    (number,) = [row[3] for row in rows("cards")[1:] if row[1] == code]
    return bytes.fromhex(number)


def a_meeting_around(now: datetime) -> tuple[datetime, datetime]:
    """Began a few minutes ago, within the district's grace."""
    begin = (now - timedelta(minutes=5)).replace(second=0, microsecond=0)
    return begin, begin + timedelta(minutes=90)


def set_policies(hub: Hub) -> None:
    """The district's time zone, and an hour of grace; before anything is there."""
    with closing(sqlite3.connect(hub.database.removeprefix("sqlite:///"))) as db, db:
        for name, value in (("time_zone", ZONE.key), ("grace_minutes", "60")):
            db.execute("UPDATE policies SET value = ? WHERE name = ?", [value, name])


class Screens:
    """Looks at each screen: axe, nothing that sticks out, nothing complained of; may save it."""

    def __init__(self) -> None:
        folder = os.environ.get("SHUAKA_SCREENS")
        self.folder = Path(folder).resolve() if folder else None
        self.complaints: list[str] = []
        self.seen: list[str] = []

    def look(self, page: Page, name: str) -> None:
        """`name` is the file's, such as first-run; whoever reads the docs sees it."""
        assert_accessible(page)
        assert sticking_out(page) == [], f"{name}: {page.url}"
        assert self.complaints == [], f"{name}: {page.url}"
        self.seen.append(name)
        if self.folder is not None:
            self.save(page, self.folder / f"{name}.png")

    def save(self, page: Page, path: Path) -> None:
        """The page on a screen that is high enough for it, or for most of a long list."""
        path.parent.mkdir(parents=True, exist_ok=True)
        size = page.viewport_size
        assert size is not None
        height = page.evaluate("document.documentElement.scrollHeight")
        height = max(size["height"], min(height, MOST))
        page.set_viewport_size({"width": size["width"], "height": height})
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=path)
        page.set_viewport_size(size)


class Evening:
    """The servers, and three people with a browser each."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.screens = Screens()
        self.pcscds = [stack.enter_context(Pcscd(directory / f"pcscd{n}")) for n in (1, 2)]
        self.broker = stack.enter_context(Mosquitto(directory / "mosquitto"))
        self.second_line = stack.enter_context(TcpProxy(self.broker.port))
        self.hub = stack.enter_context(Hub(directory / "hub", mqtt=self.broker.url))
        self.hub.command("init")
        set_policies(self.hub)
        self.hub.start()
        self.edges = [
            stack.enter_context(Edge(directory / "edge1", self.pcscds[0].env)),
            stack.enter_context(
                Edge(
                    directory / "edge2",
                    self.pcscds[1].env,
                    mqtt=f"mqtt://127.0.0.1:{self.second_line.port}",
                )
            ),
        ]
        self.readers: list[VirtualReader] = []
        playwright = stack.enter_context(sync_playwright())
        self.chromium: Browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=FLAGS,
            # Dates and buttons as they are there; without chromium-l10n they are American.
            env={**os.environ, "LANG": "C.UTF-8", "LANGUAGE": "zh_CN"},
        )
        stack.callback(self.chromium.close)
        self.stack = stack

    def person(self, size: dict[str, int]) -> Page:
        """A browser of their own, at a desk or on a phone."""
        context: BrowserContext = self.chromium.new_context(
            viewport={"width": size["width"], "height": size["height"]},
            locale="zh-CN",
            timezone_id=ZONE.key,
            has_touch=size is PHONE,
            accept_downloads=True,
        )
        self.stack.callback(context.close)
        return watched(context, self.screens.complaints)

    def go(self, page: Page, path: str) -> None:
        page.goto(self.hub.url + path)


@pytest.fixture
def evening() -> Iterator[Evening]:
    with private_dir() as directory, ExitStack() as stack:
        yield Evening(directory, stack)


# --- the story --------------------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_the_first_evening(evening: Evening, tmp_path: Path) -> None:
    operator = evening.person(DESK)
    first_run(evening, operator)
    import_everything(evening, operator, tmp_path)
    enrol(evening, operator)
    first = accounts(evening, operator)
    secretary, deputy, member = (evening.person(size) for size in (PHONE, DESK, PHONE))
    sign_in(evening, secretary, "shuji", first["shuji"])
    sign_in(evening, deputy, "fushuji", first["fushuji"])
    sign_in(evening, member, "dangyuan", first["dangyuan"])
    meeting = new_meeting(evening, secretary)
    yesterday = back_fill(evening, secretary, deputy)
    object_to(evening, secretary, deputy, member, yesterday)
    devices(evening, operator)  # they have had time to be heard of twice
    hold(evening, operator, secretary, meeting)
    with second_device_offline(evening, operator):
        unknown_card(evening, operator, secretary, meeting)
    export(evening, operator, meeting, tmp_path)
    own_page(evening, member)
    registers(evening, operator, secretary, meeting)
    seen = evening.screens.seen
    assert len(seen) == len(set(seen)) >= 45


def first_run(evening: Evening, page: Page) -> None:
    wait_for(lambda: "first-run?code=" in log_of(evening.hub), "the address of the first run")
    address = re.findall(r"https?://\S+/first-run\?code=[\w-]+", log_of(evening.hub))[-1]
    evening.go(page, "/")
    page.get_by_role("link", name="建立管理员账号").wait_for()
    evening.screens.look(page, "sign-in")
    evening.go(page, "/first-run")
    page.get_by_label("启动码").fill("wrong")
    page.get_by_label("区县党委名称").fill("清溪街道党工委")
    page.get_by_label("区县党委编号").fill("QX")
    page.get_by_label("您的姓名").fill("管理员")
    page.get_by_label("登录名").fill("admin")
    page.get_by_label("密码", exact=True).fill(PASSWORD)
    page.get_by_label("再输一次密码").fill(PASSWORD)
    page.get_by_role("button", name="建立").click()
    page.get_by_text("启动码不对").first.wait_for()
    assert_accessible(page)
    evening.screens.complaints.clear()  # the browser notes the 422
    page.goto(address)
    evening.screens.look(page, "first-run")
    page.get_by_label("区县党委名称").fill("清溪街道党工委")
    page.get_by_label("区县党委编号").fill("QX")
    page.get_by_label("您的姓名").fill("管理员")
    page.get_by_label("登录名").fill("admin")
    page.get_by_label("密码", exact=True).fill(PASSWORD)
    page.get_by_label("再输一次密码").fill(PASSWORD)
    page.get_by_role("button", name="建立").click()
    page.get_by_text("管理员账号已建立").wait_for()


def import_everything(evening: Evening, page: Page, folder: Path) -> None:
    evening.go(page, "/imports")
    evening.screens.look(page, "imports")
    for register in ("organisations", "members", "venues", "cards"):
        path = DISTRICT / f"{register}.csv"
        if register == "members":
            path = wrong_members(folder)
        upload(evening, page, register, path)
        if register == "members":
            page.get_by_text("什么都没有导入").wait_for()
            page.get_by_text("请将该列设为文本格式").first.wait_for()
            evening.screens.look(page, "import-problems")
            with page.expect_download() as got:
                page.get_by_role("link", name="下载标出问题的文件").click()
            marked = folder / "problems.xlsx"
            got.value.save_as(marked)
            said = str(CalamineWorkbook.from_path(marked).get_sheet_by_index(0).to_python())
            assert "文本格式" in said
            upload(evening, page, register, DISTRICT / "members.csv")
        confirm = page.get_by_role("button", name="确认导入")
        confirm.wait_for()
        if register == "members":
            evening.screens.look(page, "import-preview")
        confirm.click()
        page.get_by_text("已全部导入").wait_for()
    evening.screens.look(page, "import-done")
    # The same again changes nothing.
    upload(evening, page, "cards", DISTRICT / "cards.csv")
    page.get_by_text("都已经有了").wait_for()


def upload(evening: Evening, page: Page, register: str, path: Path) -> None:
    evening.go(page, f"/imports/{register}")
    page.get_by_label("文件").set_input_files(path)
    page.get_by_role("button", name="上传并预览").click()
    page.wait_for_url("**/imports/work**")
    page.locator("h1", has_text=re.compile("预览|有问题|对应各列")).wait_for(timeout=20_000)


def wrong_members(folder: Path) -> Path:
    """The members as a spreadsheet in which codes became numbers, as spreadsheets do."""
    path = folder / "members.xlsx"
    with Workbook(path) as book:
        sheet = book.add_worksheet("党员")
        for column, name in enumerate(rows("members")[0]):
            sheet.write_string(0, column, name)
        for number, row in enumerate(rows("members")[1:], 1):
            for column, value in enumerate(row):
                sheet.write_string(number, column, value)
            if number <= 2:
                sheet.write_number(number, 0, 330102199001011234 + number)
    return path


def enrol(evening: Evening, page: Page) -> None:
    for number, (name, edge) in enumerate(zip(("门口-01", "门口-02"), evening.edges, strict=True)):
        evening.go(page, "/devices/new")
        page.get_by_label("设备名称").fill(name)
        page.get_by_label("装在哪个会场").select_option(label=labelled(page, "装在哪个会场", VENUE))
        page.get_by_role("button", name="添加并生成登记码").click()
        code = page.locator("p.code").inner_text().strip()
        if number == 0:
            evening.screens.look(page, "device-code")
        edge.enrol(evening.hub.url, code)
        edge.start()
        reader = VirtualReader(evening.pcscds[number].ports[0])
        evening.readers.append(evening.stack.enter_context(reader))


def accounts(evening: Evening, page: Page) -> dict[str, str]:
    """First passwords, by login: one account made on the page, the others by command."""
    member, name = members_of("QX-01")[0]
    given = {
        login: evening.hub.account(login, *more)
        for login, more in {
            "fushuji": ("SECRETARY", "QX-01", "--name", "李副书记"),
            "jiandu": ("AUDITOR", "QX", "--name", "陈监督员"),
            "dangyuan": ("MEMBER", "QX-01", "--name", name, "--member", member),
        }.items()
    }
    evening.go(page, "/accounts/new")
    page.get_by_label("姓名", exact=True).fill("王书记")
    page.get_by_label("登录名").fill("shuji")
    page.get_by_label("支部书记").check()
    page.get_by_label("不对应党员").check()
    page.get_by_label("组织", exact=True).select_option(label=labelled(page, "组织", BRANCH))
    evening.screens.look(page, "account-new")
    page.get_by_role("button", name="建立账号").click()
    page.get_by_role("heading", name="初始密码").wait_for()
    evening.screens.look(page, "account-password")
    given["shuji"] = page.locator("dd.code").inner_text().strip()
    evening.go(page, "/accounts")
    expect(page.get_by_role("row").filter(has_text="王书记")).to_contain_text("待改密码")
    evening.screens.look(page, "accounts")
    evening.go(page, "/accounts/branch")
    page.get_by_label("组织（不含下级）").select_option(
        label=labelled(page, "组织（不含下级）", BRANCH)
    )
    page.get_by_role("button", name="看看有哪些人").click()
    page.get_by_role("heading", name="还没有账号的党员：23人").wait_for()
    evening.screens.look(page, "accounts-branch")
    evening.hub.command("token", "add", "统计程序", "--org", "QX")
    evening.go(page, "/tokens")
    expect(page.get_by_role("row").filter(has_text="统计程序")).to_contain_text("监督员")
    evening.screens.look(page, "tokens")
    return given


def labelled(page: Page, field: str, part: str) -> str:
    """The whole label of the option that has `part` in it."""
    labels = page.get_by_label(field, exact=True).locator("option").all_inner_texts()
    return next(each for each in labels if part in each)


def devices(evening: Evening, page: Page) -> None:
    wait_for(lambda: devices_fine(evening, page), "two devices that are heard of", 60)
    evening.screens.look(page, "devices")
    page.get_by_role("link", name="门口-01").click()
    expect(page.locator("main")).to_contain_text(VENUE)
    evening.screens.look(page, "device")
    evening.go(page, "/venues")
    expect(page.get_by_role("row").filter(has_text=VENUE)).to_contain_text("2台")
    evening.screens.look(page, "venues")


def devices_fine(evening: Evening, page: Page) -> bool:
    evening.go(page, "/devices")
    return page.get_by_text("所有设备都正常").count() == 1


def sign_in(evening: Evening, page: Page, login: str, first: str) -> None:
    evening.go(page, "/sign-in")
    page.get_by_label("登录名").fill(login)
    page.get_by_label("密码").fill(first)
    page.get_by_role("button", name="登录").click()
    page.wait_for_url("**/password")
    page.get_by_label("初始密码").fill(first)
    page.get_by_label("新密码", exact=True).fill(PASSWORD)
    page.get_by_label("再输一次新密码").fill(PASSWORD)
    page.get_by_role("button", name="修改密码").click()
    page.get_by_text("密码已修改").wait_for()


def new_meeting(evening: Evening, page: Page) -> str:
    begin, end = a_meeting_around(datetime.now(ZONE))
    evening.go(page, "/meetings/new")
    page.get_by_label("会议类型").select_option(label="支部党员大会")
    page.get_by_label("会议名称").fill("十一月支部党员大会")
    fill_times(page, begin, end)
    page.get_by_label("会场").select_option(label=labelled(page, "会场", VENUE))
    page.get_by_label("主持人").fill("王书记")
    evening.screens.look(page, "meeting-new-phone")
    return saved(page)


def fill_times(page: Page, begin: datetime, end: datetime) -> None:
    page.get_by_label("日期").fill(begin.date().isoformat())
    page.get_by_label("开始时间").fill(f"{begin:%H:%M}")
    page.get_by_label("结束时间").fill(f"{end:%H:%M}")


def saved(page: Page) -> str:
    """Saves a new meeting; gives its public id."""
    page.get_by_role("button", name="保存").click()
    page.wait_for_url(re.compile(r"/meetings/[0-9a-f-]{36}"))
    found = re.search(r"/meetings/([0-9a-f-]{36})", page.url)
    assert found
    return found[1]


def tap(evening: Evening, device: int, code: str) -> None:
    edge = evening.edges[device]
    seen = len(edge.lights)
    evening.readers[device].tap_until_read(UidCard(uid_of(code)))
    edge.wait_recorded(seen)


def hold(evening: Evening, operator: Page, secretary: Page, meeting: str) -> None:
    members = members_of("QX-01")
    evening.go(operator, f"/meetings/{meeting}")
    operator.get_by_text("实时更新中").wait_for(timeout=40_000)
    screen = evening.person({"width": 1920, "height": 1080})
    screen.context.add_cookies(operator.context.cookies())
    evening.go(screen, f"/meetings/{meeting}/screen")
    for code, name in members[:3]:
        tap(evening, 0, code)
        row = operator.get_by_role("row").filter(has_text=name)
        expect(row.first).to_contain_text("出席", timeout=10_000)
    expect(screen.get_by_text("实时更新中")).to_be_visible(timeout=10_000)
    expect(screen.locator("main")).to_contain_text(re.compile(r"实到\s*3"), timeout=10_000)
    assert not any(name in screen.content() for _, name in members), "a shared screen names nobody"
    assert screen.evaluate("document.documentElement.scrollHeight") <= 1080, "nobody scrolls there"
    evening.screens.look(screen, "screen")
    screen.close()
    evening.screens.look(operator, "meeting-live")
    # On the secretary's phone: one forgot the card, one is ill.
    evening.go(secretary, f"/meetings/{meeting}/desk")
    evening.screens.look(secretary, "desk-phone")
    witness = secretary.get_by_role("button", name=re.compile(f"证明到场.*{members[4][1]}"))
    witness.click()
    expect(witness).to_have_count(0)
    secretary.get_by_role("link", name=re.compile(f"请假.*{members[5][1]}")).click()
    secretary.get_by_label("病假").check()
    evening.screens.look(secretary, "leave-phone")
    secretary.get_by_role("button", name="保存").click()
    secretary.get_by_role("status").first.wait_for()
    evening.go(operator, f"/meetings/{meeting}/sheet/print")
    evening.screens.look(operator, "sheet-print")
    evening.go(operator, f"/meetings/{meeting}")
    operator.get_by_text("实时更新中").wait_for(timeout=40_000)
    evening.go(secretary, f"/meetings/{meeting}/sheet")
    secretary.get_by_role("checkbox", name=re.compile(members[6][1])).check()
    evening.screens.look(secretary, "sheet-phone")
    secretary.get_by_role("button", name="录入").click()
    secretary.get_by_role("status").first.wait_for()
    evening.go(secretary, f"/meetings/{meeting}/desk")
    secretary.get_by_label("清点人数").fill("6")
    secretary.get_by_role("button", name="记下").click()
    secretary.get_by_role("button", name="确认已召开").click()
    secretary.get_by_text("已确认召开").first.wait_for()
    evening.screens.look(secretary, "desk-done-phone")
    for number, word in ((4, "现场证明"), (5, "请假"), (6, "出席")):
        row = operator.get_by_role("row").filter(has_text=members[number][1])
        expect(row.first).to_contain_text(word, timeout=10_000)


@contextmanager
def second_device_offline(evening: Evening, operator: Page) -> Iterator[None]:
    """The second device has no network: what is tapped there is known later, and then counts."""
    evening.second_line.refuse(True)
    evening.second_line.cut()
    code, name = members_of("QX-01")[7]
    tap(evening, 1, code)
    row = operator.get_by_role("row").filter(has_text=name)
    expect(row.first).to_contain_text("未见")
    yield
    expect(row.first).to_contain_text("未见")
    evening.second_line.refuse(False)
    expect(row.first).to_contain_text("出席", timeout=60_000)


def back_fill(evening: Evening, secretary: Page, deputy: Page) -> str:
    """A meeting of yesterday, without a device: 待定, and 补签 that a second person grants."""
    code, name = members_of("QX-01")[8]
    begin = datetime.now(ZONE).replace(hour=19, minute=30) - timedelta(days=1)
    evening.go(secretary, "/meetings/new")
    secretary.get_by_label("会议类型").select_option(label="党课")
    secretary.get_by_label("会议名称").fill("十一月党课")
    fill_times(secretary, begin, begin + timedelta(minutes=60))
    secretary.get_by_label("会场").select_option(label=labelled(secretary, "会场", VENUE))
    meeting = saved(secretary)
    evening.go(secretary, f"/meetings/{meeting}/desk")
    secretary.get_by_role("button", name="确认已召开").click()
    secretary.get_by_text("已确认召开").first.wait_for()
    evening.go(secretary, f"/meetings/{meeting}")
    secretary.get_by_role("heading", name="为什么是“待定”").wait_for()
    evening.screens.look(secretary, "meeting-pending-phone")
    evening.go(secretary, f"/meetings/{meeting}/back-fill")
    secretary.get_by_label("党员").select_option(label=labelled(secretary, "党员", code))
    secretary.get_by_label("补签原因").fill("忘带党员卡，当晚坐在第二排")
    evening.screens.look(secretary, "back-fill-phone")
    secretary.get_by_role("button", name="提交申请").click()
    secretary.get_by_text("须由另一人审批").first.wait_for()
    agree = re.compile(f"^同意.*{name}")
    evening.go(secretary, "/asks")
    secretary.get_by_text("须由另一人审批").first.wait_for()
    assert not secretary.get_by_role("button", name=agree).count()  # not by who asked
    evening.go(deputy, "/asks")
    evening.screens.look(deputy, "asks")
    deputy.get_by_role("button", name=agree).click()
    deputy.get_by_text("已同意。").wait_for()
    evening.go(deputy, f"/meetings/{meeting}")
    row = deputy.get_by_role("row").filter(has_text=name)
    expect(row).to_contain_text("补签")
    deputy.get_by_role("heading", name="为什么是“待定”").wait_for()
    evening.screens.look(deputy, "meeting-pending")
    return meeting


def object_to(evening: Evening, secretary: Page, deputy: Page, member: Page, meeting: str) -> None:
    """A member objects; who confirmed the meeting may not decide it, another secretary does."""
    _, name = members_of("QX-01")[0]
    evening.go(member, f"/me/meetings/{meeting}")
    expect(member.locator("main")).to_contain_text("待定")
    member.get_by_role("link", name="提出异议").click()
    member.get_by_label("哪里不对").fill("那天我到会听了党课，还发了言。")
    evening.screens.look(member, "objection-new-phone")
    member.get_by_role("button", name="提交").click()
    member.get_by_role("status").first.wait_for()
    evening.go(secretary, "/objections")
    secretary.get_by_role("link", name=re.compile(name)).click()
    secretary.get_by_role("heading", name="本人的意见").wait_for()
    expect(secretary.get_by_role("button", name="提交处理结果")).to_have_count(0)
    evening.go(deputy, "/objections")
    evening.screens.look(deputy, "objections")
    deputy.get_by_role("link", name=re.compile(name)).click()
    deputy.get_by_label("异议成立，记录需要更正").check()
    deputy.get_by_label("理由").fill("我也在场，他坐在我旁边。")
    evening.screens.look(deputy, "objection")
    deputy.get_by_role("button", name="提交处理结果").click()
    deputy.get_by_text("异议成立，已告知本人").wait_for()
    # What was upheld changes nothing by itself: it is put right as the page says.
    evening.go(deputy, f"/meetings/{meeting}/desk")
    deputy.get_by_role("button", name=re.compile(f"证明到场.*{name}")).click()
    deputy.get_by_role("status").first.wait_for()
    evening.go(member, f"/me/meetings/{meeting}")
    expect(member.locator("main")).to_contain_text("现场证明")
    expect(member.locator("main")).to_contain_text("我也在场，他坐在我旁边。")
    evening.screens.look(member, "objection-decided-phone")


def unknown_card(evening: Evening, operator: Page, secretary: Page, meeting: str) -> None:
    """A card that nobody knows: bound on the phone, and then its tap counts."""
    _, name = members_of("QX-01")[9]
    seen = len(evening.edges[0].lights)
    evening.readers[0].tap_until_read(UidCard(bytes.fromhex("9E10B5C7")))
    evening.edges[0].wait_recorded(seen)

    def listed() -> bool:
        evening.go(secretary, f"/taps?meeting={meeting}")
        return secretary.get_by_text("B5C7").count() > 0

    wait_for(listed, "the unknown card in the list", 20)
    assert "9E10B5C7" not in secretary.content()
    evening.screens.look(secretary, "taps-phone")
    row = operator.get_by_role("row").filter(has_text=name)
    expect(row.first).to_contain_text("未见")
    secretary.get_by_role("link", name=re.compile("是谁的卡")).click()
    evening.screens.look(secretary, "tap-phone")
    secretary.get_by_role("link", name=re.compile(name)).click()
    evening.screens.look(secretary, "tap-bind-phone")
    secretary.get_by_role("button", name="登记为本人的卡").click()
    secretary.get_by_text("已登记持卡人").wait_for()
    expect(row.first).to_contain_text("出席", timeout=10_000)


def export(evening: Evening, page: Page, meeting: str, folder: Path) -> None:
    evening.go(page, f"/meetings/{meeting}")
    page.get_by_role("link", name="查询和导出").click()
    evening.screens.look(page, "attendance")
    assert_light(page.context, page.url)
    found = {}
    for form in ("Excel", "CSV"):
        with page.expect_download() as got:
            page.get_by_role("link", name=f"导出 {form}").click()
        path = folder / got.value.suggested_filename
        got.value.save_as(path)
        found[form] = path
    table = CalamineWorkbook.from_path(found["Excel"]).get_sheet_by_index(0).to_python()
    text = found["CSV"].read_text("utf-8-sig")
    members = members_of("QX-01")
    wanted = ["出席"] * 3 + ["未见", "现场证明", "请假", "出席", "出席", "未见", "出席"]
    for (code, name), verdict in zip(members, wanted, strict=False):
        (row,) = [each for each in table if code in each]
        assert name in row
        assert any(verdict in str(cell) for cell in row), row
        (line,) = [each for each in text.splitlines() if code in each]
        assert name in line
        assert verdict in line


def own_page(evening: Evening, page: Page) -> None:
    evening.go(page, "/me")
    expect(page.locator("main")).to_contain_text("十一月支部党员大会")
    evening.screens.look(page, "own-phone")
    page.get_by_role("link", name="十一月支部党员大会").first.click()
    expect(page.locator("main")).to_contain_text("门口-01")
    evening.screens.look(page, "own-entry-phone")
    evening.go(page, "/me/access")
    expect(page.locator("main")).to_contain_text("管理员")
    evening.screens.look(page, "own-access-phone")
    evening.go(page, "/me/cards")
    expect(page.locator("main")).to_contain_text(
        uid_of(members_of("QX-01")[0][0]).hex().upper()[-4:]
    )
    evening.screens.look(page, "own-cards-phone")


def registers(evening: Evening, operator: Page, secretary: Page, meeting: str) -> None:
    """What was not on the way: lists, logs, and the pages that change a meeting."""
    code, name = members_of("QX-01")[9]
    evening.go(secretary, "/")
    expect(secretary.locator("main")).to_contain_text("十一月支部党员大会")
    evening.screens.look(secretary, "meetings-phone")
    evening.go(secretary, f"/meetings/{meeting}/statements")
    expect(secretary.locator("main")).to_contain_text("王书记")
    evening.screens.look(secretary, "statements-phone")
    evening.go(secretary, f"/meetings/{meeting}/edit")
    expect(secretary.get_by_label("会议名称")).to_have_value("十一月支部党员大会")
    evening.screens.look(secretary, "meeting-edit-phone")
    evening.go(secretary, f"/meetings/{meeting}/cancel")
    secretary.get_by_role("button", name="取消会议").wait_for()
    evening.screens.look(secretary, "meeting-cancel-phone")
    evening.go(secretary, f"/meetings/{meeting}/partners")
    secretary.get_by_label("组织名称或编号").fill("柳巷")
    secretary.get_by_role("button", name="查询").click()
    secretary.get_by_label("柳巷村党支部").check()
    evening.screens.look(secretary, "meeting-partners-phone")
    evening.go(secretary, "/sessions")
    expect(secretary.locator("main")).to_contain_text("就是这里")
    evening.screens.look(secretary, "sessions-phone")
    evening.go(operator, "/members")
    evening.screens.look(operator, "members")
    operator.get_by_label("姓名、拼音或编号").fill(code)
    operator.get_by_role("button", name="查询").click()
    operator.get_by_role("link", name=name, exact=True).click()
    expect(operator.locator("main")).to_contain_text("十一月支部党员大会")
    evening.screens.look(operator, "member")
    operator.get_by_role("link", name="卡", exact=True).click()
    expect(operator.get_by_role("row").filter(has_text="B5C7")).to_contain_text("在用")
    evening.screens.look(operator, "member-cards")
    for path, said, screen in (
        ("/log", "类型：党课；会议名称：十一月党课", "log"),
        ("/log/looks", "李副书记", "log-looks"),
    ):
        evening.go(operator, path)
        expect(operator.get_by_role("row").filter(has_text=said).first).to_be_visible()
        evening.screens.look(operator, screen)
    evening.go(operator, "/log")
    operator.get_by_role("link", name=re.compile("^打开.*会议情况：清点人数")).click()
    operator.get_by_role("heading", name="办理记录").wait_for()


def log_of(hub: Hub) -> str:
    path = hub.directory / "hub.log"
    return path.read_text("utf-8", errors="replace") if path.exists() else ""
