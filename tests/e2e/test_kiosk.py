"""The screen at the door on real parts: a card at pcscd, the daemon, the hub, a browser.

From a device that is not enrolled to a meeting with its totals: each outcome by a real tap, what
the screen says while hub, journal and daemon are away, and the technician's corner. Each screen is
held to the size of its words, to axe, and to a policy that nothing breaks, on three sizes.

With SHUAKA_SCREENS=FOLDER each screen is saved there: that is how the pictures in docs/ are made.
"""

import csv
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from edge.feedback import Notice, Outcome
from tests.edge.test_kiosk import Door, enrolled
from tests.hub.web.axe import assert_accessible
from tests.hub.web.test_browser import FLAGS, watched
from tests.rig import Mosquitto, Pcscd, TcpProxy, UidCard, VirtualReader, private_dir, wait_for
from tests.rig.cards import WrongLengthCard
from tests.rig.processes import accepts, free_port
from tests.rig.product import Edge, Hub

pytestmark = pytest.mark.browser

DISTRICT = Path(__file__).parents[2] / "deploy/demo/district"
ZONE = ZoneInfo("Asia/Shanghai")
SMALL = (800, 480)
SIZES = (SMALL, (1024, 600), (1920, 1080))
MEMBERS = [row[3] for row in csv.reader((DISTRICT / "cards.csv").read_text().splitlines())][1:]
STRANGER = "04DEADBEEF0042"


class Screen:
    """A browser in front of the device, and what was seen in it."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        stack.callback(browser.close)
        width, height = SMALL
        context = browser.new_context(
            viewport={"width": width, "height": height}, locale="zh-CN", has_touch=True
        )
        stack.callback(context.close)
        self.complaints: list[str] = []
        self.page = watched(context, self.complaints)
        self.url = url
        folder = os.environ.get("SHUAKA_SCREENS")
        self.folder = Path(folder).resolve() if folder else None
        self.words: dict[str, str] = {}

    def wait(self, look: str, timeout_s: float = 15) -> None:
        self.page.wait_for_selector(f'body[data-look="{look}"]', timeout=timeout_s * 1000)

    def say(self) -> str:
        return self.page.locator("#words").inner_text()

    @contextmanager
    def still(self) -> Iterator[None]:
        """The page as it is, for longer than it would stay so."""
        self.page.evaluate("window.kept = [draw, lost]; draw = lost = () => {}")
        try:
            yield
        finally:
            self.page.evaluate("[draw, lost] = window.kept; again()")

    def look(self, name: str, look: str, timeout_s: float = 15) -> None:
        """The screen once it has this look; `name` is the file's."""
        self.wait(look, timeout_s)
        with self.still():
            self.check(name)

    def check(self, name: str) -> None:
        page = self.page
        for width, height in SIZES:
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_timeout(350)  # what has just arrived grows to its size
            seen = measured(page)
            assert seen["font"] >= 96, f"{name} {width}: {seen}"
            assert seen["words"]["height"] >= 96, f"{name} {width}: {seen}"
            assert seen["lines"] == 1, f"{name} {width}: {seen}"
            assert seen["outside"] == [], f"{name} {width}: {seen}"
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                end = "" if (width, height) == SMALL else f"-{width}"
                page.screenshot(path=self.folder / f"kiosk-{name}{end}.png")
        page.set_viewport_size({"width": SMALL[0], "height": SMALL[1]})
        assert_accessible(page)
        self.complain_not(name)
        said = page.locator("body").inner_text()
        for never in ("迟到", "郑建国", *MEMBERS[:2], STRANGER):
            assert never not in said
        self.words[name] = self.say()

    def complain_not(self, name: str) -> None:
        # The browser notes that nobody is there; that is what the page itself says.
        assert [each for each in self.complaints if "net::ERR_" not in each] == [], name

    def hold(self) -> None:
        """A finger on the dots at the lower right."""
        dots = self.page.locator("#corner")
        box = dots.bounding_box()
        assert box is not None
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.page.mouse.down()
        self.page.locator("#desk").wait_for(state="visible")
        self.page.mouse.up()

    def corner(self, name: str) -> None:
        """The corner as it is."""
        page = self.page
        assert_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= SMALL[0]
        if self.folder is not None:
            page.screenshot(path=self.folder / f"kiosk-{name}.png")
        said = page.locator("#desk").inner_text()
        for never in ("郑建国", *MEMBERS[:2], MEMBERS[0][-4:], STRANGER[-4:]):
            assert never not in said


def measured(page: Page) -> Any:
    """The words' size as drawn, and what reaches out of its place."""
    return page.evaluate(
        """() => {
          const words = document.getElementById("words");
          const range = document.createRange();
          range.selectNodeContents(words);
          const drawn = range.getBoundingClientRect();
          const stage = document.querySelector(".stage").getBoundingClientRect();
          const shape = document.querySelector(".shape").getBoundingClientRect();
          const out = (box, name) =>
            box.left < stage.left - 1 || box.right > stage.right + 1 ||
            box.top < stage.top - 1 || box.bottom > stage.bottom + 1 ? [name] : [];
          const ink = words.getBoundingClientRect();
          const more = document.getElementById("more").getBoundingClientRect();
          const root = document.documentElement;
          return {
            font: parseFloat(getComputedStyle(words).fontSize),
            words: { width: drawn.width, height: drawn.height },
            lines: Array.from(range.getClientRects()).length,
            outside: [
              ...out(ink, "words"), ...out(shape, "shape"),
              ...(more.height ? out(more, "more") : []),
              ...(root.scrollHeight > innerHeight || root.scrollWidth > innerWidth ? ["page"] : []),
            ],
          };
        }"""
    )


def meeting_now(hub: Hub, folder: Path) -> None:
    """A meeting of the first branch that has begun, of members whose cards are in the register."""
    now = datetime.now(ZONE)
    begin = now - timedelta(minutes=10)
    end = begin + timedelta(hours=2)
    path = folder / "meetings.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["code", "organisation", "kind", "title", "venue", "start", "end"])
        times = [f"{each:%Y-%m-%d %H:%M}" for each in (begin, end)]
        writer.writerow(["T-1", "QX-01", "支部党员大会", "七月党员大会", "V-1", *times])
    hub.command("import", "meetings", str(path))


@pytest.mark.servers
@pytest.mark.timeout(300)
def test_an_evening_at_the_door(tmp_path: Path) -> None:
    with private_dir() as directory, ExitStack() as stack:
        (directory / "pcscd").mkdir()
        pcscd = stack.enter_context(Pcscd(directory / "pcscd"))
        broker = stack.enter_context(Mosquitto(directory / "mosquitto"))
        line = stack.enter_context(TcpProxy(broker.port))
        hub = stack.enter_context(
            Hub(
                directory / "hub",
                mqtt=broker.url,
                edge_mqtt=f"mqtt://127.0.0.1:{line.port}",
            )
        )
        hub.command("init")
        for register in ("organisations", "members", "venues", "cards"):
            hub.command("import", register, str(DISTRICT / f"{register}.csv"))
        hub.start()
        code = hub.command("device", "add", "门口-01", "--venue", "V-1").strip()
        edge = stack.enter_context(Edge(directory / "edge", pcscd.env))
        port = free_port()
        with edge.config.open("a", encoding="utf-8") as file:
            file.write(f"[kiosk]\nport = {port}\n")
        edge.start(wait=False)
        edge.wait_line("未登记", timeout_s=20)
        reader = stack.enter_context(VirtualReader(pcscd.ports[0]))
        screen = Screen(f"http://127.0.0.1:{port}/", stack)
        screen.page.goto(screen.url)

        not_enrolled(screen, hub, code)
        without_a_meeting(screen, reader)
        meeting_now(hub, tmp_path)
        edge.stop()
        away(screen)
        edge.start()
        each_outcome(screen, reader)
        counts(screen)
        with offline(screen, reader, line):
            an_action(screen, reader)
            full_disk(screen, reader, edge)
            corner(screen)
        pcscd_dies(screen, pcscd)
        killed(screen, edge)

        looks = ("good", "check", "again", "failed")
        assert len({screen.words[name] for name in looks}) == len(looks), screen.words
        assert screen.words["good"] == "签到成功"
        screen.complain_not("the end")


# --- what only a browser decides, without the servers ---------------------------------------------


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[tuple[Door, Screen]]:
    """The screen alone, with a fake recorder behind it, in a browser."""
    with ExitStack() as stack:
        enrolled(tmp_path)
        door = Door(tmp_path)
        stack.callback(door.kiosk.stop)
        wait_for(lambda: accepts(door.port), "the screen")
        screen = Screen(f"http://127.0.0.1:{door.port}/", stack)
        screen.page.goto(screen.url)
        screen.wait("ready")
        yield door, screen


HOSTILE = """<!doctype html><title>x</title><script>
const at = "http://127.0.0.1:PORT";
const tries = [
  fetch(at + "/corner/ask", {method: "POST", body: '{"act":"open"}'}),
  fetch(at + "/corner/ask", {method: "POST", mode: "no-cors", body: '{"act":"open"}'}),
  fetch(at + "/corner/ask", {method: "POST", body: '{"act":"open"}',
    headers: {"Content-Type": "application/json", "X-Kiosk-Token": "x"}}),
  fetch(at + "/events").then((each) => each.text()),
  new Promise((good, bad) => {
    const stream = new EventSource(at + "/events");
    stream.addEventListener("hello", good);
    stream.onerror = bad;
  }),
  new Promise((good, bad) => {
    const script = document.createElement("script");
    script.src = at + "/kiosk.js";
    script.onload = good;
    script.onerror = bad;
    document.head.append(script);
  }),
];
const form = document.createElement("form");
form.method = "POST";
form.action = at + "/corner/ask";
form.enctype = "text/plain";
form.target = "f";
const input = document.createElement("input");
[input.name, input.value] = ['{"act":"open","x":"', '"}'];
const frame = document.createElement("iframe");
frame.name = "f";
form.append(input, frame);
document.addEventListener("DOMContentLoaded", () => { document.body.append(form); form.submit(); });
Promise.allSettled(tries).then((all) => {
  window.outcome = all.map((each) => each.status === "rejected" || each.value.type === "opaque");
});
</script>"""


@contextmanager
def served(page: str) -> Iterator[str]:
    """The address of a page that this machine serves, beside the screen."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.timeout(60)
def test_another_page_of_the_same_browser_does_and_learns_nothing(
    shown: tuple[Door, Screen],
) -> None:
    door, screen = shown
    stranger = screen.page.context.new_page()
    # Of this machine too: whom the browser itself keeps away proves nothing of us.
    with served(HOSTILE.replace("PORT", str(door.port))) as elsewhere:
        stranger.goto(elsewhere)
        stranger.wait_for_function("window.outcome !== undefined")
    assert stranger.evaluate("window.outcome") == [True] * 6
    frame = "http://127.0.0.1:" + str(door.port)
    stranger.set_content(f'<iframe src="{frame}/"></iframe>')
    stranger.wait_for_timeout(500)
    assert not any(each.url.startswith(frame) for each in stranger.frames)
    assert door.recorder.wishes == []
    # while our own page may
    screen.hold()
    screen.page.get_by_role("button", name="会议开始").click()
    wait_for(lambda: len(door.recorder.wishes) == 1, "a wish")


@pytest.mark.timeout(60)
def test_a_card_is_shown_while_the_corner_is_open_and_the_corner_comes_back(
    shown: tuple[Door, Screen],
) -> None:
    door, screen = shown
    page = screen.page
    screen.hold()
    page.get_by_label("党员编号").fill("DY-0")
    door.face.show(Notice(Outcome.RECOGNISED, "r"))
    screen.wait("good")
    assert page.evaluate("getComputedStyle(document.getElementById('desk')).opacity") == "0"
    screen.wait("ready")
    assert page.evaluate("getComputedStyle(document.getElementById('desk')).opacity") == "1"
    assert page.get_by_label("党员编号").input_value() == "DY-0"
    page.locator("#close").click()
    screen.hold()
    assert page.get_by_label("党员编号").input_value() == "", "what was typed is not left there"


@pytest.mark.timeout(60)
def test_nothing_moves_for_whoever_asked_for_that(shown: tuple[Door, Screen]) -> None:
    door, screen = shown
    moving = """Array.from(document.getAnimations({subtree: true})).length"""
    assert screen.page.evaluate(moving) > 0
    screen.page.emulate_media(reduced_motion="reduce")
    door.face.show(Notice(Outcome.UNREADABLE, "r"))
    screen.wait("again")
    assert screen.page.evaluate(moving) == 0


@pytest.mark.timeout(60)
def test_two_screens_show_the_same_and_the_same_card_again_is_said_again(
    shown: tuple[Door, Screen],
) -> None:
    door, screen = shown
    other = screen.page.context.new_page()
    other.goto(screen.url)
    other.wait_for_selector('body[data-look="ready"]')
    for page in (screen.page, other):
        page.evaluate(
            "window.said = []; new MutationObserver(() => window.said.push("
            "document.getElementById('say').textContent))"
            ".observe(document.getElementById('say'), {childList: true})"
        )
    for _ in range(2):
        door.face.show(Notice(Outcome.RECOGNISED, "r"))
        for page in (screen.page, other):
            wait_for(partial(has_said, page, "签到成功"), "the words")
            page.evaluate("window.said = []")


def has_said(page: Page, words: str) -> bool:
    return words in page.evaluate("window.said")


# --- the way of that evening ----------------------------------------------------------------------


def not_enrolled(screen: Screen, hub: Hub, code: str) -> None:
    screen.look("not-enrolled", "failed")
    assert screen.say() == "设备未登记"
    screen.hold()
    page = screen.page
    page.get_by_role("tab", name="登记").wait_for()
    page.get_by_label("平台地址").focus()
    # With the keys on the screen: there may be no other.
    for key in ("http://", *hub.url.removeprefix("http://")):
        page.locator("#keys").get_by_role("button", name=key, exact=True).click()
    page.get_by_label("登记码").focus()
    for key in code:
        page.locator("#keys").get_by_role("button", name=key, exact=True).click()
    assert page.get_by_label("平台地址").input_value() == hub.url
    screen.corner("corner-enrol")
    page.locator("#enrol").click()
    page.get_by_text("已登记为“门口-01”").wait_for()
    assert not page.get_by_role("tab", name="登记").is_visible()
    page.locator("#close").click()
    screen.wait("ready")


def without_a_meeting(screen: Screen, reader: VirtualReader) -> None:
    page = screen.page
    expect(page.locator("#title")).to_have_text("刷卡签到")
    expect(page.locator('[data-part="hub"]')).to_have_text("平台在线")
    reader.tap_until_read(UidCard(bytes.fromhex(MEMBERS[0])))
    screen.look("plain", "plain")
    assert screen.say() == "已记录"
    screen.wait("ready")


def away(screen: Screen) -> None:
    screen.wait("lost", 6)


def each_outcome(screen: Screen, reader: VirtualReader) -> None:
    page = screen.page
    screen.wait("ready", 20)
    expect(page.locator("#title")).to_have_text("清溪社区党支部 支部党员大会")
    expect(page.locator("#present")).to_have_text("1")  # tapped before the meeting was known
    reader.tap_until_read(UidCard(bytes.fromhex(MEMBERS[1])))
    screen.look("good", "good")
    screen.wait("ready")
    reader.tap_until_read(UidCard(bytes.fromhex(MEMBERS[2])))
    screen.wait("good")
    # The next card takes its place at once, though the last was shown for a moment only.
    reader.tap_until_read(UidCard(bytes.fromhex(STRANGER)))
    screen.look("check", "check", 2)
    reader.tap_until_read(UidCard(bytes.fromhex(MEMBERS[3])))
    screen.wait("good")
    reader.tap_until_read(UidCard(bytes.fromhex(MEMBERS[3])))
    screen.look("repeat", "repeat")
    assert screen.say() == "您已签到"
    reader.tap_until_read(WrongLengthCard())
    screen.look("again", "again")
    screen.wait("ready")


def counts(screen: Screen) -> None:
    page = screen.page
    # With the next sign of life the hub says how many came.
    expect(page.locator("#present")).to_have_text("4", timeout=45_000)
    expected = int(page.locator("#expected").inner_text())
    assert expected > 10
    expect(page.locator("#quorum-words")).to_have_text("法定人数 未知")
    expect(page.locator("#age")).to_be_empty()
    screen.look("ready", "ready")
    words = [each.inner_text() for each in page.locator("#parts li").all()]
    assert words == ["网络正常", "平台在线", "时钟准确", "读卡正常", "存储正常"]


def an_action(screen: Screen, reader: VirtualReader) -> None:
    page = screen.page
    screen.hold()
    page.get_by_role("textbox", name="人数").focus()
    for key in "23":
        page.locator("#keys").get_by_role("button", name=key, exact=True).click()
    screen.corner("corner-acts")
    page.get_by_role("button", name="清点人数").click()
    screen.look("awaiting", "awaiting")
    expect(page.locator("#more")).to_contain_text("清点人数 23")
    expect(page.locator("#left")).to_contain_text("还剩")
    page.get_by_role("button", name="取消").click()
    screen.look("undone", "undone")
    expect(page.locator("#more")).to_have_text("已取消")
    screen.wait("ready")
    screen.hold()
    page.get_by_role("textbox", name="人数").fill("23")
    page.get_by_role("button", name="清点人数").click()
    screen.wait("awaiting")
    reader.tap_until_read(UidCard(bytes.fromhex(MEMBERS[1])))
    screen.look("acted", "acted")
    expect(page.locator("#more")).to_have_text("清点人数 23")
    screen.wait("ready")


@contextmanager
def offline(screen: Screen, reader: VirtualReader, line: TcpProxy) -> Iterator[None]:
    """No hub while the block runs; what is known of the meeting has grown old at its end."""
    page = screen.page
    line.refuse(refusing=True)
    line.cut()
    expect(page.locator('[data-part="network"]')).to_have_text("网络断开", timeout=20_000)
    reader.tap_until_read(UidCard(bytes.fromhex(MEMBERS[4])))
    screen.wait("good")
    screen.wait("ready")
    expect(page.locator("#line")).to_contain_text("离线，已暂存 1 条")
    yield
    expect(page.locator("#age")).to_contain_text("分钟前的数据", timeout=80_000)
    screen.look("offline", "ready")
    line.refuse(refusing=False)
    expect(page.locator("#line")).to_be_hidden(timeout=30_000)
    expect(page.locator("#age")).to_be_empty(timeout=45_000)


def full_disk(screen: Screen, reader: VirtualReader, edge: Edge) -> None:
    with nobody_can_write(edge):
        reader.tap_until_read(UidCard(bytes.fromhex(MEMBERS[5])))
        screen.look("failed", "failed")
        assert screen.say() == "无法记录"
        expect(screen.page.locator('[data-part="storage"]')).to_have_text("存储故障")
    screen.wait("ready", 20)


@contextmanager
def nobody_can_write(edge: Edge) -> Iterator[None]:
    """While the block runs, the daemon cannot commit to its journal."""
    db = sqlite3.connect(edge.journal, isolation_level=None, timeout=10)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.execute("ROLLBACK")
        db.close()


def corner(screen: Screen) -> None:
    page = screen.page
    # By keyboard as well: held as long as by a finger.
    page.locator("#corner").focus()
    page.keyboard.down("Enter")
    page.locator("#desk").wait_for(state="visible")
    page.keyboard.up("Enter")
    expect(page.locator("#device")).to_have_text("门口-01")
    page.get_by_role("tab", name="最近记录").click()
    page.get_by_text("清点人数 23 人").wait_for()
    screen.corner("corner-entries")
    page.get_by_role("tab", name="检查").click()
    page.get_by_text("broker 127.0.0.1").wait_for(timeout=30_000)
    expect(page.locator("#answer")).to_contain_text(re.compile("都正常|项需要处理"))
    screen.corner("corner-findings")
    page.keyboard.press("Escape")
    assert not page.locator("#desk").is_visible()
    # Let go too early, nothing opens.
    page.locator("#corner").focus()
    page.keyboard.down("Enter")
    page.wait_for_timeout(900)
    page.keyboard.up("Enter")
    page.wait_for_timeout(1_500)
    assert not page.locator("#desk").is_visible()


def pcscd_dies(screen: Screen, pcscd: Pcscd) -> None:
    pcscd.kill()
    screen.look("no-reader", "failed", 20)
    assert screen.say() == "读卡器未连接"
    expect(screen.page.locator('[data-part="reader"]')).to_have_text("无读卡器")
    pcscd.start()
    screen.wait("ready", 25)


def killed(screen: Screen, edge: Edge) -> None:
    page = screen.page
    screen.complain_not("before the end")
    page.evaluate("window.began = 0; window.lostAfter = null")
    page.evaluate(
        "new MutationObserver(() => { if (document.body.dataset.look === 'lost')"
        " window.lostAfter = performance.now() - window.began; })"
        ".observe(document.body, {attributes: true})"
    )
    page.evaluate("window.began = performance.now()")
    edge.kill()
    screen.wait("lost", 6)
    assert page.evaluate("window.lostAfter") < 5_000
    screen.check("lost")
    assert screen.say() == "设备未运行"
    edge.start()
    screen.wait("ready", 15)
    wait_for(lambda: page.evaluate("token !== ''"), "a token")
