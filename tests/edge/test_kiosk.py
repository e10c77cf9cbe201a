"""The screen at the door: what it shows, to whom it answers, and that it delays nobody.

The server is the real one, on a free port; the recorder and the courier behind it are fakes.
"""

import contextlib
import http.client
import json
import logging
import re
import socket
import sys
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from edge import enrol
from edge import kiosk as package
from edge.acts import Again, Answer, Done, Refused, Tell, Unknown, Waiting, Why, Wish
from edge.clock import SystemClock
from edge.config import Config, EdgeSection, KioskSection
from edge.enrol import Keys
from edge.feedback import ALREADY_ACTED, ALREADY_RECOGNISED, REHEARSING, Notice, Outcome, Standing
from edge.feedback.fanout import Fanout
from edge.kiosk import corner, open_kiosk, server
from edge.kiosk.corner import CannotError
from edge.kiosk.face import RESULT_MS, Face, NotNowError
from edge.kiosk.screen import (
    GONE_MS,
    LARGEST,
    Look,
    Screen,
    State,
    Told,
    Undone,
    age,
    headline,
    screen,
)
from edge.kiosk.server import MAX_PAGES, Kiosk
from edge.readers import Unreadable
from edge.status import CourierStatus, Heard, RecorderStatus, Window
from edge.store import Journal, NewAction, NewTap, Owner
from protocol.batch import ReaderState
from protocol.credential import Assurance, Credential, member_credential
from protocol.identity import OpeningKey, SigningKey
from protocol.journal import Act, ClockSample, ReaderDown, ReaderUp, Stamp
from protocol.roster import Board, BoardQuorum
from tests.fakes.clock import FakeClock
from tests.rig import free_port, wait_for
from tests.rig.processes import accepts

ZONE = ZoneInfo("Asia/Shanghai")
NOW = 1_782_900_000_000  # 18:00 in Shanghai
MINUTE = 60_000
ONLINE = CourierStatus(connected=True, hub_online=True, unreceipted=0, alarm="")


def board(present: int = 23, quorum: BoardQuorum = BoardQuorum.MET) -> Board:
    return Board("清溪支部 支部党员大会", NOW + 30 * MINUTE, 42, present, quorum)


def heard(*windows: Window, issued_ms: int = NOW, boottime_ms: int = 1_000) -> Heard:
    return Heard(windows, issued_ms, boottime_ms)


OPEN = Window(NOW - MINUTE, NOW + 90 * MINUTE, board())
RECORDER = RecorderStatus(
    1_000,
    NOW,
    clock_trusted=True,
    readers=(ReaderState("r", True, 1),),
    failure="",
    stalled=False,
    heard=heard(OPEN),
    taps=5,
)
READY = Told(Standing.READY, "", None, 0, None)


def shown(
    told: Told = READY,
    recorder: RecorderStatus | None = RECORDER,
    courier: CourierStatus | None = ONLINE,
) -> Screen:
    return screen(told, recorder, courier, ZONE)


def news(outcome: Outcome, message: str = "") -> Told:
    return replace(READY, news=Notice(outcome, "r", message), serial=1)


# --- what is shown --------------------------------------------------------------------------------


def test_the_outcomes_differ_in_look_and_words_and_each_has_a_shape_and_colours() -> None:
    told = {each: shown(news(each)) for each in Outcome}
    assert told[Outcome.RECOGNISED].words == "签到成功"
    assert [each for each in Outcome if "签到成功" in told[each].words] == [Outcome.RECOGNISED]
    differing = (Outcome.RECOGNISED, Outcome.UNKNOWN, Outcome.UNREADABLE, Outcome.FAILED)
    assert len({told[each].look for each in differing}) == 4
    assert len({told[each].words for each in differing}) == 4
    page = (server._STATIC / "index.html").read_text("utf-8")
    style = (server._STATIC / "kiosk.css").read_text("utf-8")
    for look in (*Look, "lost"):
        assert page.count(f'id="shape-{look}"') == 1
    for look in set(Look) - {Look.READY}:
        assert f'[data-look="{look}"] main' in style


def test_a_rehearsal_says_so_whatever_else_is_shown() -> None:
    told = [READY, news(Outcome.RECOGNISED), news(Outcome.FAILED)]
    assert {shown(each).banner for each in told} == {""}
    assert {shown(replace(each, rehearsing=True)).banner for each in told} == {REHEARSING}
    face = Face(FakeClock(), rehearsing=True)
    face.show(Notice(Outcome.RECOGNISED, "r"))
    assert face.screen()[0].banner == REHEARSING
    assert Face(FakeClock()).screen()[0].banner == ""


@pytest.mark.parametrize(
    ("message", "wording", "large", "rest"),
    [
        ("签到成功", "签到成功", "签到成功", ""),
        ("已记录，待核对", "已记录，待核对", "已记录，待核对", ""),
        (ALREADY_RECOGNISED, Outcome.ALREADY.wording, "您已签到", "无需重复刷卡"),
        (Outcome.ALREADY.wording, Outcome.ALREADY.wording, "已记录过", "无需重复刷卡"),
        (Outcome.FAILED.wording, Outcome.FAILED.wording, "无法记录", "请联系工作人员"),
        ("没有读到卡，请再刷一次", "请再刷一次", "请再刷一次", "没有读到卡"),
        ("卡拿开太快，请停留一下再刷一次", "请再刷一次", "卡拿开太快", "请停留一下再刷一次"),
        (
            "手机、手表不能代替党员卡，请刷实体卡",
            "请再刷一次",
            "请刷实体卡",
            "手机、手表不能代替党员卡",
        ),
        (
            "此卡不在有效期内，已记录，待核对",
            "已记录，待核对",
            "已记录，待核对",
            "此卡不在有效期内",
        ),
        (
            "不能确定是否已记录：清点人数 23，请联系工作人员",
            Outcome.FAILED.wording,
            "请联系工作人员",
            "不能确定是否已记录：清点人数 23",
        ),
        ("没有一处可以分开的很长的一句话", "x", "没有一处可以分开的很长的一句话", ""),
    ],
)
def test_a_message_is_cut_where_it_can_be_read(
    message: str, wording: str, large: str, rest: str
) -> None:
    assert headline(message, wording) == (large, rest)


def every_message() -> Iterator[tuple[Outcome, str]]:
    yield from ((each, each.wording) for each in Outcome)
    yield Outcome.ALREADY, ALREADY_RECOGNISED
    yield Outcome.ACTED, ALREADY_ACTED
    yield from ((Outcome.UNREADABLE, each.wording) for each in Unreadable)


@pytest.mark.parametrize(("outcome", "message"), list(every_message()))
def test_what_the_door_says_fits_in_one_line_and_none_of_it_is_lost(
    outcome: Outcome, message: str
) -> None:
    drawn = shown(news(outcome, message))
    assert 1 <= len(drawn.words) <= LARGEST
    marks = str.maketrans("", "", "，；：")
    said = (drawn.words + drawn.more).translate(marks)
    assert sorted(said) == sorted(message.translate(marks))
    assert "迟到" not in drawn.words + drawn.more


@pytest.mark.parametrize("standing", list(Standing))
def test_every_standing_fits_in_one_line(standing: Standing) -> None:
    drawn = shown(replace(READY, standing=standing, detail="会议开始"))
    assert len(drawn.words) <= LARGEST
    assert drawn.look is {
        Standing.READY: Look.READY,
        Standing.AWAITING: Look.AWAITING,
        Standing.STICK_WRITING: Look.AWAITING,
        Standing.STICK_WRITTEN: Look.AWAITING,
        Standing.STICK_FAILED: Look.UNDONE,
    }.get(standing, Look.FAILED)
    assert (standing is Standing.READY) or "会议开始" in drawn.more


def test_an_action_says_what_was_recorded() -> None:
    drawn = shown(news(Outcome.ACTED, "已记录：清点人数 23"))
    assert (drawn.look, drawn.words, drawn.more) == (Look.ACTED, "操作已记录", "清点人数 23")
    undone = shown(replace(READY, news=Undone("已取消")))
    assert (undone.look, undone.words, undone.more) == (Look.UNDONE, "没有记录", "已取消")


def test_the_meeting_that_is_open_is_shown_with_its_totals() -> None:
    meeting = shown().meeting
    assert meeting is not None
    assert (meeting.title, meeting.when) == ("清溪支部 支部党员大会", "18:30 开会")
    assert meeting.figures is not None
    assert (meeting.figures.present, meeting.figures.expected) == (23, 42)
    assert meeting.figures.age == meeting.others == ""


@pytest.mark.parametrize(
    ("quorum", "name", "words"),
    [
        (BoardQuorum.MET, "met", "法定人数 达到"),
        (BoardQuorum.NOT_MET, "not_met", "法定人数 未达到"),
        (BoardQuorum.UNKNOWN, "unknown", "法定人数 未知"),
        (BoardQuorum.NOT_ASKED, "", ""),
    ],
)
def test_of_a_quorum_it_is_shown_whether_it_is_met(
    quorum: BoardQuorum, name: str, words: str
) -> None:
    window = replace(OPEN, board=board(quorum=quorum))
    meeting = shown(recorder=replace(RECORDER, heard=heard(window))).meeting
    assert meeting is not None
    assert meeting.figures is not None
    assert (meeting.figures.quorum, meeting.figures.quorum_words) == (name, words)
    if name:
        page = (server._STATIC / "index.html").read_text("utf-8")
        assert f'id="quorum-{name}"' in page


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (0, ""),
        (60_000, ""),
        (60_001, "1 分钟前的数据"),
        (59 * MINUTE, "59 分钟前的数据"),
        (61 * MINUTE, "1 小时前的数据"),
        (50 * 60 * MINUTE, "2 天前的数据"),
    ],
)
def test_what_is_older_than_a_minute_says_how_old_it_is(ms: int, words: str) -> None:
    assert age(ms) == words


def test_the_age_is_told_by_the_time_since_boot_whatever_the_clock_does() -> None:
    later = replace(RECORDER, boottime_ms=1_000 + 3 * MINUTE, wall_ms=5, clock_trusted=False)
    meeting = shown(recorder=later).meeting
    assert meeting is not None
    assert meeting.figures is not None
    assert meeting.figures.age == "3 分钟前的数据"
    assert shown(recorder=later).time == "18:03", "the hub's time, carried on"


def test_a_clock_that_is_wrong_shows_no_wrong_meeting_and_no_time() -> None:
    wrong = replace(RECORDER, wall_ms=NOW + 10**10, clock_trusted=False)
    assert shown(recorder=wrong).meeting == shown().meeting
    assert shown(recorder=replace(wrong, heard=None)).time == ""


def test_before_check_in_the_next_meeting_is_announced_without_totals() -> None:
    soon = Window(NOW + 5 * MINUTE, NOW + 90 * MINUTE, board())
    late = Window(NOW + 50 * MINUTE, NOW + 90 * MINUTE, replace(board(), title="别的"))
    meeting = shown(recorder=replace(RECORDER, heard=heard(late, soon), taps=None)).meeting
    assert meeting is not None
    assert (meeting.title, meeting.when) == ("清溪支部 支部党员大会", "18:05 开始签到")
    assert meeting.figures is None


def test_of_several_meetings_the_earlier_is_shown_and_the_others_are_told_of() -> None:
    later = replace(OPEN, board=replace(board(), title="别的", starts_ms=NOW + 50 * MINUTE))
    over = Window(NOW - 90 * MINUTE, NOW - MINUTE, replace(board(), title="已完"))
    meeting = shown(recorder=replace(RECORDER, heard=heard(over, later, OPEN))).meeting
    assert meeting is not None
    assert (meeting.title, meeting.others) == ("清溪支部 支部党员大会", "另有 1 场会议同时签到")


@pytest.mark.parametrize(
    ("known", "taps", "words"),
    [
        (None, 5, "本机已记录 5 次刷卡"),
        (heard(replace(OPEN, board=None)), 5, "本机已记录 5 次刷卡"),
        (heard(), None, ""),
        (heard(OPEN), 5, ""),
    ],
)
def test_without_a_board_the_device_says_its_own_count(
    known: Heard | None, taps: int | None, words: str
) -> None:
    assert shown(recorder=replace(RECORDER, heard=known, taps=taps)).tally == words


@pytest.mark.parametrize(
    ("courier", "line"),
    [
        (ONLINE, ""),
        (replace(ONLINE, unreceipted=3), ""),
        (replace(ONLINE, hub_online=None), ""),
        (replace(ONLINE, unreceipted=300), "正在上传暂存的 300 条"),
        (
            CourierStatus(connected=False, hub_online=None, unreceipted=3, alarm=""),
            "离线，已暂存 3 条，联网后自动上传",
        ),
        (
            replace(ONLINE, hub_online=False, unreceipted=3),
            "离线，已暂存 3 条，联网后自动上传",
        ),
        (
            CourierStatus(connected=False, hub_online=None, unreceipted=0, alarm=""),
            "离线，刷卡照常记录，联网后自动上传",
        ),
        (None, ""),
    ],
)
def test_while_the_hub_cannot_be_reached_a_line_says_so(
    courier: CourierStatus | None, line: str
) -> None:
    assert shown(courier=courier).line == line


GOOD = ["网络正常", "平台在线", "时钟准确", "读卡正常", "存储正常"]


@pytest.mark.parametrize(
    ("recorder", "courier", "differing"),
    [
        (RECORDER, ONLINE, {}),
        (RECORDER, replace(ONLINE, connected=False), {0: "网络断开", 1: "平台未知"}),
        (RECORDER, replace(ONLINE, hub_online=False), {1: "平台离线"}),
        (RECORDER, replace(ONLINE, hub_online=None), {1: "平台未知"}),
        (replace(RECORDER, clock_trusted=False), ONLINE, {2: "时钟未校准"}),
        (replace(RECORDER, readers=()), ONLINE, {3: "无读卡器"}),
        (replace(RECORDER, readers=(ReaderState("r", False, 1),)), ONLINE, {3: "无读卡器"}),
        (
            replace(RECORDER, readers=(ReaderState("r", False, 1), ReaderState("s", True, 1))),
            ONLINE,
            {3: "读卡 1/2"},
        ),
        (  # it was exchanged for another an hour ago
            replace(
                RECORDER,
                boottime_ms=GONE_MS + 1,
                heard=None,
                readers=(ReaderState("r", False, 1), ReaderState("s", True, 1)),
            ),
            ONLINE,
            {},
        ),
        (replace(RECORDER, failure="disk full"), ONLINE, {4: "存储故障"}),
        (replace(RECORDER, stalled=True), ONLINE, {4: "存储故障"}),
        (
            None,
            None,
            {0: "网络未知", 1: "平台未知", 2: "时钟未知", 3: "读卡未知", 4: "存储未知"},
        ),
    ],
)
def test_the_parts_of_the_device_are_told_in_words(
    recorder: RecorderStatus | None, courier: CourierStatus | None, differing: dict[int, str]
) -> None:
    parts = shown(recorder=recorder, courier=courier).parts
    assert [each.word for each in parts] == [
        differing.get(number, word) for number, word in enumerate(GOOD)
    ]
    for number, part in enumerate(parts):
        assert (part.state is State.GOOD) == (number not in differing)
        assert (part.state is State.UNKNOWN) == ("未知" in part.word)
    page = (server._STATIC / "index.html").read_text("utf-8")
    assert all(f'id="part-{each.name}"' in page for each in parts)


# --- the face -------------------------------------------------------------------------------------


@dataclass
class FakeRecorder:
    clock: FakeClock | SystemClock
    shown: RecorderStatus = RECORDER
    wishes: list[Wish] = field(default_factory=list)
    tells: list[Tell] = field(default_factory=list)
    cancelled: int = 0

    def status(self) -> RecorderStatus:
        return replace(self.shown, boottime_ms=self.clock.boottime_ms())

    def ask(self, wish: Wish, tell: Tell) -> Callable[[], None]:
        self.wishes.append(wish)
        self.tells.append(tell)

        def cancel() -> None:
            self.cancelled += 1

        return cancel


@dataclass
class FakeCourier:
    shown: CourierStatus = ONLINE

    def status(self) -> CourierStatus:
        return self.shown


@dataclass
class Front:
    """A face with somebody behind it, and a clock that a test moves."""

    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.changes = 0
        self.face = Face(self.clock, self._changed)
        self.recorder = FakeRecorder(self.clock)
        self.face.attach(self.recorder, FakeCourier())
        self.face.stand(Standing.READY)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def look(self) -> Look:
        return self.face.screen()[0].look


def test_a_result_is_shown_for_a_while_and_a_new_card_takes_its_place() -> None:
    front = Front()
    assert 2_000 <= RESULT_MS <= 3_000
    front.face.show(Notice(Outcome.RECOGNISED, "r"))
    front.clock.advance(RESULT_MS - 1)
    assert front.look is Look.GOOD
    assert front.face.screen()[1] == 1
    front.face.show(Notice(Outcome.UNKNOWN, "r"))
    assert front.look is Look.CHECK
    front.clock.advance(RESULT_MS - 1)
    assert front.look is Look.CHECK
    front.clock.advance(1)
    assert front.look is Look.READY


def test_the_same_again_is_news() -> None:
    front = Front()
    serials = []
    for _ in range(3):
        front.face.show(Notice(Outcome.RECORDED, "r"))
        serials.append(front.face.screen()[0].serial)
    assert len(set(serials)) == 3
    assert front.changes == 5


def test_before_anything_is_known_it_says_that_it_starts() -> None:
    drawn, _ = Face(FakeClock()).screen()
    assert (drawn.look, drawn.words) == (Look.UNDONE, "正在启动")


def test_an_action_waits_for_its_card_with_the_time_that_is_left() -> None:
    front = Front()
    front.face.ask(Wish(Act.HEAD_COUNT, 23))
    assert front.face.screen()[0].asked is None, "the recorder has not taken it yet"
    with pytest.raises(NotNowError):
        front.face.ask(Wish(Act.OPENED))
    [tell] = front.recorder.tells
    tell(Waiting(30))
    front.face.stand(Standing.AWAITING, "清点人数 23")
    front.clock.advance(9_500)
    tell(Again("没有读清，请再刷一次"))
    drawn, _ = front.face.screen()
    assert drawn.asked is not None
    assert (drawn.asked.words, drawn.asked.left_s) == ("清点人数 23", 21)
    front.face.cancel()
    assert front.recorder.cancelled == 1
    tell(Refused(Why.CANCELLED))
    drawn, _ = front.face.screen()
    assert (drawn.look, drawn.more, drawn.asked) == (Look.UNDONE, "已取消", None)
    front.face.ask(Wish(Act.OPENED))
    assert len(front.recorder.wishes) == 2
    front.face.cancel()
    assert front.recorder.cancelled == 2


@pytest.mark.parametrize("answer", [Done("00", 1), Unknown("bad sector")])
def test_what_the_recorder_shows_itself_is_not_said_twice(answer: Answer) -> None:
    front = Front()
    front.face.ask(Wish(Act.OPENED))
    [tell] = front.recorder.tells
    tell(Waiting(30))
    front.face.show(Notice(Outcome.ACTED, "r", "已记录：会议开始"))
    tell(answer)
    drawn, _ = front.face.screen()
    assert (drawn.look, drawn.asked) == (Look.ACTED, None)
    front.face.ask(Wish(Act.CLOSED))


@pytest.mark.parametrize("why", list(Why))
def test_why_an_action_was_not_recorded_is_told_in_chinese(why: Why) -> None:
    front = Front()
    front.face.ask(Wish(Act.OPENED))
    front.recorder.tells[0](Refused(why, "detail"))
    more = front.face.screen()[0].more
    assert more
    assert not any(char.isascii() and char.isalpha() for char in more)


def test_nothing_is_asked_of_a_device_that_is_not_enrolled() -> None:
    face = Face(FakeClock())
    with pytest.raises(NotNowError):
        face.ask(Wish(Act.OPENED))
    face.cancel()
    assert face.failure() == ""


# --- the corner -----------------------------------------------------------------------------------

CARD = Credential("uid", "", "04C0FFEE112233")
MEMBER = member_credential("DY-007")


def journal_with(data: Path, taps: int) -> None:
    at = Stamp(1_000, NOW, trusted=True)
    owner = Owner(bytes(16), OpeningKey.generate().public)
    journal = Journal.open(data, owner, bytes(16), at)
    journal.append([ReaderUp(at, "r"), ReaderDown(at, "r", "unplugged")])
    journal.append([NewTap(at, "r", Assurance.UID, CARD) for _ in range(taps)])
    journal.append(
        [
            NewAction(at, "r", Act.HEAD_COUNT, 23, Assurance.UID, CARD, None),
            NewAction(at, "r", Act.WITNESSED, None, Assurance.UID, CARD, MEMBER),
            ClockSample(replace(at, trusted=False)),
        ]
    )
    journal.close()


def test_the_last_entries_name_nobody(tmp_path: Path) -> None:
    assert corner.last_entries(tmp_path) == []
    journal_with(tmp_path, 3)
    lines = corner.last_entries(tmp_path)
    assert [line.what for line in lines] == [
        "时钟未校准",
        "现场证明",
        "清点人数 23 人",
        "刷卡（r）",
        "刷卡（r）",
        "刷卡（r）",
        "读卡器断开（r）",
        "读卡器接上（r）",
        "时钟已校准",
    ]
    assert lines[0].when.endswith("？")
    assert not any(line.received for line in lines)
    for secret in (CARD.value, CARD.value[-4:], MEMBER.value):
        assert secret not in repr(lines)


def test_only_the_last_entries_are_shown_over_all_epochs(tmp_path: Path) -> None:
    journal_with(tmp_path, 1_000)
    journal_with(tmp_path, 2)
    lines = corner.last_entries(tmp_path)
    assert len(lines) == corner.LAST
    assert [line.what for line in lines[:3]] == ["时钟未校准", "现场证明", "清点人数 23 人"]
    assert sum(line.what == "刷卡（r）" for line in lines) == 2 + corner.LAST - 8 - 3


def test_a_journal_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"no database" * 1000)
    with pytest.raises(CannotError, match="记录读不出来"):
        corner.last_entries(tmp_path)


@pytest.mark.parametrize(
    ("act", "number", "member", "what"),
    [
        ("open", "7", "x", Wish(Act.OPENED)),
        ("close", "", "", Wish(Act.CLOSED)),
        ("head-count", " 23 ", "", Wish(Act.HEAD_COUNT, 23)),
        ("witness", "", " DY-007 ", Wish(Act.WITNESSED, about=MEMBER)),
    ],
)
def test_what_is_typed_becomes_a_wish(act: str, number: str, member: str, what: Wish) -> None:
    assert corner.wish(act, number, member) == what


@pytest.mark.parametrize(
    ("act", "number", "member"),
    [
        ("steal", "", ""),
        ("head-count", "", ""),
        ("head-count", "-1", ""),
        ("head-count", "１２", ""),
        ("head-count", "100001", ""),
        ("head-count", "0" * 5000, ""),
        ("witness", "", "  "),
        ("witness", "", "x" * 1000),
    ],
)
def test_what_cannot_be_wished_is_refused_in_chinese(act: str, number: str, member: str) -> None:
    with pytest.raises(CannotError) as refused:
        corner.wish(act, number, member)
    assert not refused.value.words.isascii()


def test_a_device_that_is_enrolled_is_not_enrolled_again(tmp_path: Path) -> None:
    assert not corner.here(tmp_path).enrolled
    with pytest.raises(CannotError, match="登记码不对"):
        corner.join(tmp_path, "http://127.0.0.1:1", "no code")
    enrolled(tmp_path)
    assert corner.here(tmp_path).name == "门口"
    with pytest.raises(CannotError, match="已经登记"):
        corner.join(tmp_path, "http://127.0.0.1:1", "no code")
    (tmp_path / "enrolment.json").write_bytes(b"{")
    assert corner.here(tmp_path).enrolled, "nor is one whose file is damaged"


def enrolled(data: Path) -> None:
    keys = Keys.load_or_make(data)
    hub = SigningKey.generate().public, OpeningKey.generate().public
    file = enrol._EnrolmentFile(bytes(16), "门口", keys.sign.public, *hub, 1, "mqtt://127.0.0.1:1")
    enrol._write(data / "enrolment.json", file)


# --- the server -----------------------------------------------------------------------------------


class Door:
    """The kiosk on a free port, with a face and somebody behind it."""

    def __init__(self, data: Path, port: int | None = None) -> None:
        clock = SystemClock()
        self.port = port or free_port()
        self.face = Face(clock)
        self.recorder = FakeRecorder(clock)
        self.courier = FakeCourier()
        self.face.attach(self.recorder, self.courier)
        self.face.stand(Standing.READY)
        self.kiosk = Kiosk(Config(edge=EdgeSection(data)), self.face, self.port)
        self.kiosk.start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def post(self, what: str, said: object, **headers: str) -> tuple[int, Any]:
        given = {
            "Content_Type": "application/json",
            "Origin": self.origin,
            "X_Kiosk_Token": self.kiosk._token,
        } | headers
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        named = {name: value for name, value in given.items() if value != "none"}
        status, _, answer = self.request("POST", f"/corner/{what}", body, **named)
        return status, json.loads(answer) if answer[:1] == b"{" else answer.decode()


class Page:
    """A page's stream, read event by event."""

    def __init__(self, door: Door) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=10)
        self.connection.request("GET", "/events")
        self.answer = self.connection.getresponse()

    def event(self) -> tuple[str, Any]:
        """(name, data) of the next event."""
        name, data = "message", None
        while line := self.answer.readline().rstrip(b"\n"):
            key, _, value = line.partition(b": ")
            if key == b"event":
                name = value.decode()
            elif key == b"data":
                data = json.loads(value)
        return name, data

    def state(self, look: str) -> Any:
        """The next state with this look."""
        while True:
            name, data = self.event()
            if name == "message" and data["look"] == look:
                return data

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path / "data")
    wait_for(lambda: answers(made), "the screen")
    yield made
    made.kiosk.stop()
    assert not made.kiosk._thread.is_alive()


def answers(door: Door) -> bool:
    try:
        return door.request("GET", "/")[0] == 200
    except OSError:
        return False


def test_the_page_and_its_parts_are_ours_alone(door: Door) -> None:
    for path, (_, kind) in server.FILES.items():
        status, headers, body = door.request("GET", path)
        assert (status, headers["content-type"]) == (200, kind)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        text = body.decode()
        assert "style=" not in text
        assert "onclick" not in text
        for target in re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', text):
            assert re.match(r"[#/][a-z]", "".join(target)), target
    assert door.request("GET", "/none")[0] == 404
    assert door.request("GET", "/../server.py")[0] == 404


def test_a_page_gets_the_whole_state_at_once_and_then_what_changes(door: Door) -> None:
    door.face.show(Notice(Outcome.RECOGNISED, "r"))
    pages = [Page(door) for _ in range(3)]
    for page in pages:
        assert page.answer.getheader("content-type") == "text/event-stream; charset=utf-8"
        name, said = page.event()
        assert (name, set(said)) == ("hello", {"token", "version"})
        name, state = page.event()
        assert (name, state["look"], state["words"]) == ("message", "good", "签到成功")
        assert len(state["parts"]) == 5
    began = time.monotonic()
    door.face.show(Notice(Outcome.UNREADABLE, "r"))
    for page in pages:
        page.state("again")
    assert time.monotonic() - began < 0.5
    for page in pages:
        page.state("ready")
        page.close()
    assert 2 < time.monotonic() - began < 4


def test_a_page_hears_a_beat_each_second_while_nothing_changes(door: Door) -> None:
    page = Page(door)
    page.state("ready")
    began = time.monotonic()
    assert [page.event()[0] for _ in range(3)] == ["beat"] * 3
    assert 1.5 < time.monotonic() - began < 5
    page.close()


def test_a_stream_ends_with_the_daemon(tmp_path: Path) -> None:
    door = Door(tmp_path)
    wait_for(lambda: answers(door), "the screen")
    page = Page(door)
    page.state("ready")
    began = time.monotonic()
    door.kiosk.stop()
    assert page.answer.read() is not None
    assert time.monotonic() - began < 3
    assert not answers(door)
    page.close()


def test_so_many_pages_and_no_more_and_a_place_is_free_again(door: Door) -> None:
    pages = [Page(door) for _ in range(MAX_PAGES)]
    for page in pages:
        page.state("ready")
    assert door.request("GET", "/events")[0] == 503
    assert door.request("GET", "/")[0] == 200
    pages[0].close()

    def is_free() -> bool:
        page = Page(door)
        status = page.answer.status
        page.close()
        return status == 200

    wait_for(is_free, "a place", 5)
    for page in pages[1:]:
        page.close()


def test_a_page_that_does_not_read_delays_nobody_and_is_let_go(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SLOW_S", 1.0)
    page = Page(door)
    page.state("ready")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.connect(("127.0.0.1", door.port))
        slow.sendall(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\n\r\n".encode())
        wait_for(lambda: len(door.kiosk._wakes) == 2, "two pages")
        going = threading.Event()

        def changes() -> None:
            while not going.wait(0.002):
                door.face.stand(Standing.AWAITING, "长" * 500 + str(time.monotonic()))

        thread = threading.Thread(target=changes)
        thread.start()
        reading = threading.Thread(target=lambda: page.state("failed"))
        reading.start()
        wait_for(lambda: len(door.kiosk._wakes) == 1, "that the slow page is let go", 20)
        fanout = Fanout([door.face])
        began = time.monotonic()
        fanout.show(Notice(Outcome.FAILED, "r"))
        assert time.monotonic() - began < 0.1
        reading.join(5)
        assert not reading.is_alive()
        going.set()
        thread.join()
        fanout.stop()
    page.close()


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", ""]
)
@pytest.mark.parametrize("path", ["/", "/events", "/kiosk.js"])
def test_it_answers_by_no_other_name(door: Door, host: str, path: str) -> None:
    status, headers, body = door.request("GET", path, Host=host.format(port=door.port))
    assert (status, body) == (403, b"another host")
    assert "content-security-policy" in headers


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}"])
def test_it_answers_by_its_own_names(door: Door, host: str) -> None:
    assert door.request("GET", "/", Host=host.format(port=door.port))[0] == 200


def test_nobody_else_reaches_it(door: Door) -> None:
    def is_refused(address: str) -> bool:
        with socket.socket() as other:
            other.settimeout(2)
            return other.connect_ex((address, door.port)) != 0

    assert not is_refused("127.0.0.1")
    assert is_refused("127.0.0.2")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "none"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"X_Kiosk_Token": "none"},
        {"X_Kiosk_Token": "guess"},
        {"X_Kiosk_Token": "\xff"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "none"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
)
def test_another_page_does_nothing_here(door: Door, headers: dict[str, str]) -> None:
    named = {name: value.format(port=door.port) for name, value in headers.items()}
    assert door.post("ask", {"act": "open"}, **named)[0] == 403
    assert door.recorder.wishes == []
    assert door.post("ask", {"act": "open"}) == (200, {})
    assert door.recorder.wishes == [Wish(Act.OPENED)]


def test_another_page_gets_no_stream(door: Door) -> None:
    assert door.request("GET", "/events", Sec_Fetch_Site="cross-site")[0] == 403
    assert door.request("GET", "/", Sec_Fetch_Site="cross-site")[0] == 200, "a link leads here"
    assert door.request("OPTIONS", "/corner/ask", Origin="http://evil.example")[0] == 403
    assert door.request("GET", "/corner/ask")[0] == 405


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b'{"act": 1}', 400),
        (b"\xff", 400),
        (b"[" * 4000, 400),
        (b'{"act": "' + b"x" * 100_000 + b'"}', 400),
        ({"act": "steal"}, 409),
        ({}, 409),
        ({"act": "head-count", "number": "many"}, 409),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(door: Door, body: object, status: int) -> None:
    found, said = door.post("ask", body)
    assert found == status
    assert said["words"]
    assert door.recorder.wishes == []


def test_an_action_is_asked_for_followed_and_cancelled(door: Door) -> None:
    page = Page(door)
    page.state("ready")
    assert door.post("ask", {"act": "witness", "member": "DY-007"}) == (200, {})
    assert door.post("ask", {"act": "open"})[0] == 409
    [tell] = door.recorder.tells
    tell(Waiting(30))
    door.face.stand(Standing.AWAITING, "现场证明")
    while (state := page.state("awaiting"))["asked"] is None:
        pass
    assert state["asked"] == {"words": "现场证明", "left_s": 30}
    assert "DY-007" not in json.dumps(state)
    assert door.post("cancel", {}) == (200, {})
    assert door.recorder.cancelled == 1
    tell(Refused(Why.CANCELLED))
    assert page.state("undone")["more"] == "已取消"
    page.close()


def test_the_corner_tells_who_it_is_and_what_was_recorded(door: Door, tmp_path: Path) -> None:
    status, found = door.post("look", {})
    assert (status, found["here"]["enrolled"]) == (200, False)
    enrolled(tmp_path / "data")
    journal_with(tmp_path / "data", 2)
    status, found = door.post("look", {"what": "entries"})
    assert found["here"]["name"] == "门口"
    assert [each["what"] for each in found["entries"]][3:5] == ["刷卡（r）"] * 2
    assert CARD.value[-4:] not in json.dumps(found)


def test_the_doctor_is_asked_by_one_at_a_time_and_holds_up_nobody(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, entered = threading.Event(), []

    def slow(_config: Config) -> list[corner.Found]:
        entered.append(1)
        assert going.wait(10)
        return [corner.Found(False, "clock: not synchronised", "Connect the network.")]

    monkeypatch.setattr(corner, "findings", slow)
    door.recorder.shown = replace(RECORDER, failure="disk full")
    found: list[Any] = []
    asking = [
        threading.Thread(target=lambda: found.append(door.post("look", {"what": "findings"})))
        for _ in range(2)
    ]
    for each in asking:
        each.start()
    wait_for(lambda: bool(entered), "the doctor")
    page = Page(door)
    page.state("ready")
    page.close()
    time.sleep(0.2)
    assert len(entered) == 1
    going.set()
    for each in asking:
        each.join()
    assert [status for status, _ in found] == [200, 200]
    assert found[0][1]["findings"][0]["what"] == "clock: not synchronised"
    assert found[0][1]["failure"] == "disk full"


def test_what_fails_by_itself_is_logged_and_answered(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_data: Path) -> corner.Here:
        raise RuntimeError("a bug")

    monkeypatch.setattr(corner, "here", fail)
    assert door.post("look", {})[0] == 500
    wait_for(lambda: "a page could not be answered" in caplog.text, "a line in the log")
    assert door.request("GET", "/")[0] == 200


def test_a_code_is_taken_only_by_a_hub_that_it_names(door: Door, tmp_path: Path) -> None:
    code = urlsafe_b64encode(b"no code").decode()
    status, said = door.post("enrol", {"hub": "http://127.0.0.1:1", "code": code})
    assert (status, said["words"]) == (409, "登记码不对，请核对后再输入")
    assert not (tmp_path / "data" / "enrolment.json").exists()


def test_a_port_that_is_taken_is_said_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "TRY_AGAIN_S", 0.05)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        door = Door(tmp_path, port)
        time.sleep(0.5)
        assert [each.levelname for each in caplog.records] == ["ERROR"]
        assert f"port {port} of 127.0.0.1: Address already in use" in caplog.text
    wait_for(lambda: answers(door), "the screen")
    door.kiosk.stop()


def test_without_a_port_there_is_no_screen() -> None:
    assert Config().kiosk.port is None
    assert open_kiosk(Config()) is None


def test_the_daemon_does_not_wait_for_the_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(edge=EdgeSection(tmp_path), kiosk=KioskSection(free_port()))
    going = threading.Event()
    made = Kiosk.__init__

    def slowly(self: Kiosk, *each: Any) -> None:
        assert going.wait(10)
        made(self, *each)

    monkeypatch.setattr(Kiosk, "__init__", slowly)
    began = time.monotonic()
    screen = open_kiosk(config)
    assert screen is not None
    screen.face.stand(Standing.READY)
    assert time.monotonic() - began < 0.5
    going.set()
    wait_for(lambda: accepts(config.kiosk.port or 0), "the screen")
    screen.stop()
    assert not accepts(config.kiosk.port or 0)


def test_a_missing_extra_is_said_once_in_plain_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "edge.kiosk.server")
    monkeypatch.delattr(package, "server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    screen = open_kiosk(Config(kiosk=KioskSection(8080)))
    assert screen is not None
    screen.face.show(Notice(Outcome.RECORDED, "r"))
    screen.stop()
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "uvicorn is not installed; install shuaka[edge-kiosk]" in record.getMessage()


def test_missing_pages_stop_no_daemon(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(server, "_STATIC", tmp_path)
    screen = open_kiosk(Config(kiosk=KioskSection(8080)))
    assert screen is not None
    screen.stop()
    assert "there is no screen" in caplog.text
