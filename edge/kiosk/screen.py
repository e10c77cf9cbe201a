"""What the screen at the door shows, as a function of what is known. Pure: no clock, no I/O.

The screen never shows late, absent or rankings, no name and no number of a card: of a meeting it
shows totals, and of a card what `edge.feedback` says of it. What it knows from the hub it shows
with its age.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, assert_never
from zoneinfo import ZoneInfo

import msgspec

from edge.feedback import REHEARSING, Notice, Outcome, Standing
from edge.status import CourierStatus, Heard, RecorderStatus, Window
from protocol.roster import Board, BoardQuorum

LARGEST: Final = 8
"""Characters that fit in one line of 96 pixels on a screen of 800."""
FRESH_MS: Final = 60_000
"""Knowledge that is older is shown with its age."""
MANY: Final = 20
"""So many entries that wait while the hub listens are worth a line."""

GONE_MS: Final = 3_600_000
"""A reader that has been down for longer was taken away, or has another name at another port."""


class Look(StrEnum):
    """Colour, shape and symbol of the whole screen; the style sheet has one of each for it."""

    READY = "ready"
    AWAITING = "awaiting"
    GOOD = "good"
    """Recorded and recognised."""
    PLAIN = "plain"
    """Recorded."""
    REPEAT = "repeat"
    """Recorded a moment ago."""
    CHECK = "check"
    """Recorded, to be checked."""
    ACTED = "acted"
    """An action is recorded."""
    UNDONE = "undone"
    """An action was not recorded, and nothing is wrong."""
    AGAIN = "again"
    """Not readable: try again."""
    FAILED = "failed"
    """Cannot record."""


class State(StrEnum):
    """How a part of the device is."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"


class Part(msgspec.Struct, frozen=True):
    """A part of the device, such as its reader: an icon by `name` and `state`, and a word."""

    name: str
    state: State
    word: str


class Figures(msgspec.Struct, frozen=True):
    """Totals of a meeting whose check-in is open."""

    present: int
    expected: int
    quorum: str
    """`met`, `not_met`, `unknown`, or empty where none is asked for."""
    quorum_words: str
    age: str
    """How old this is, in words; empty while it is fresh."""


class Meeting(msgspec.Struct, frozen=True):
    """A meeting here that is open to check-in, or is the next to be."""

    title: str
    when: str
    others: str
    """That further meetings are open, in words; empty where none is."""
    figures: Figures | None
    """None before check-in opens."""


class Asked(msgspec.Struct, frozen=True):
    """An action that was asked for on this screen and waits for its card."""

    words: str
    left_s: int


class Screen(msgspec.Struct, frozen=True):
    """Everything that a page needs to draw itself."""

    look: Look
    words: str
    """At most LARGEST characters, or the longest that there are: the largest on the screen."""
    more: str
    serial: int
    """Grows with each card and each answer: the same words again are news."""
    meeting: Meeting | None
    tally: str
    line: str
    """About the way to the hub; empty where it is open."""
    parts: tuple[Part, ...]
    time: str
    """Hours and minutes, where a trusted clock or the hub tells them."""
    asked: Asked | None
    banner: str
    """What is true of all the rest; empty but in a rehearsal."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the device says of itself and of the last card."""

    standing: Standing | None
    """None: nothing was said yet."""
    detail: str
    news: "Notice | Undone | None"
    """What became of the last card or action, as long as that is shown."""
    serial: int
    asked: Asked | None
    rehearsing: bool = False


@dataclass(frozen=True, slots=True)
class Undone:
    """An action that was asked for and was not recorded; `why` in plain Chinese."""

    why: str


def screen(
    told: Told,
    recorder: RecorderStatus | None,
    courier: CourierStatus | None,
    zone: ZoneInfo | None = None,
) -> Screen:
    """The screen; `recorder` and `courier` are None before the device is enrolled.

    Times of day are in `zone`, by default the machine's.
    """
    look, words, more = _said(told)
    hub_ms = _hub_ms(recorder)
    meeting = None if recorder is None else _meeting(recorder, zone)
    return Screen(
        look,
        words,
        more,
        told.serial,
        meeting,
        _tally(recorder, meeting),
        _line(courier),
        _parts(recorder, courier),
        "" if hub_ms is None else _hour(hub_ms, zone),
        told.asked,
        REHEARSING if told.rehearsing else "",
    )


def headline(message: str, wording: str) -> tuple[str, str]:
    """A message as what is shown large, and the rest of it.

    `wording` is what is always said of such a thing: it is shown large where the message has it.
    """
    if len(message) <= LARGEST:
        return message, ""
    if len(wording) <= LARGEST and wording in message:
        return wording, message.replace(wording, "").strip("，；：")
    first, last = re.split("[，；：]", message, maxsplit=1), re.split("[，；]", message)[-1]
    if len(first[0]) <= LARGEST:
        return first[0], "".join(first[1:])
    if len(last) <= LARGEST:
        return last, message.removesuffix(last).strip("，；")
    return message, ""


def age(ms: int) -> str:
    """How long ago, in words; empty while it is not worth saying."""
    minutes = ms // 60_000
    if ms <= FRESH_MS:
        return ""
    if minutes < 60:
        return f"{max(1, minutes)} 分钟前的数据"
    if minutes < 48 * 60:
        return f"{minutes // 60} 小时前的数据"
    return f"{minutes // (24 * 60)} 天前的数据"


# --------------------------------------------------------------------------------------------------


def _said(told: Told) -> tuple[Look, str, str]:
    match told.news:
        case Notice(outcome=Outcome.ACTED, message=message):
            wording = Outcome.ACTED.wording
            rest = message.removeprefix(wording).removeprefix("已记录：").strip("；，")
            return Look.ACTED, wording, rest
        case Notice(outcome=outcome, message=message):
            return _look(outcome), *headline(message, outcome.wording)
        case Undone(why):
            return Look.UNDONE, "没有记录", why
        case None:
            pass
    if told.standing is None:
        return Look.UNDONE, "正在启动", ""
    words, more = headline(told.standing.wording, told.standing.wording)
    detail = f"（{told.detail}）" if told.detail else ""
    match told.standing:
        case Standing.READY:
            return Look.READY, words, more or "将卡平放在读卡区，看到结果后拿开"
        case Standing.AWAITING:
            return Look.AWAITING, words, f"{told.detail}　{more}" if told.detail else more
        case Standing.NO_READER | Standing.CANNOT_RECORD | Standing.NOT_ENROLLED | Standing.RETIRED:
            return Look.FAILED, words, more + detail
        case Standing.STICK_WRITING | Standing.STICK_WRITTEN:
            return Look.AWAITING, words, more + detail
        case Standing.STICK_FAILED:
            return Look.UNDONE, words, more + detail
        case _:
            assert_never(told.standing)


def _look(outcome: Outcome) -> Look:
    match outcome:
        case Outcome.RECOGNISED:
            return Look.GOOD
        case Outcome.RECORDED:
            return Look.PLAIN
        case Outcome.ALREADY:
            return Look.REPEAT
        case Outcome.UNKNOWN:
            return Look.CHECK
        case Outcome.ACTED:
            return Look.ACTED
        case Outcome.UNREADABLE:
            return Look.AGAIN
        case Outcome.FAILED | Outcome.NOT_ENROLLED | Outcome.RETIRED:
            return Look.FAILED
        case _:
            assert_never(outcome)


def _hub_ms(recorder: RecorderStatus | None) -> int | None:
    """The time now: the device's where it is trusted, otherwise the hub's, carried on."""
    if recorder is None:
        return None
    if recorder.clock_trusted:
        return recorder.wall_ms
    if recorder.heard is None:
        return None
    return _carried(recorder.heard, recorder)


def _carried(heard: Heard, recorder: RecorderStatus) -> int:
    return heard.issued_ms + recorder.boottime_ms - heard.boottime_ms


def _meeting(recorder: RecorderStatus, zone: ZoneInfo | None) -> Meeting | None:
    heard = recorder.heard
    if heard is None:
        return None
    # By the hub's clock, which wrote the windows: a wrong clock here shows no wrong meeting.
    now_ms = _carried(heard, recorder)
    known = [(each, each.board) for each in heard.windows if each.board is not None]
    known.sort(key=lambda each: each[1].starts_ms)
    opened = [each for each in known if each[0].opens_ms <= now_ms <= each[0].closes_ms]
    if opened:
        window, board = opened[0]
        others = f"另有 {len(opened) - 1} 场会议同时签到" if len(opened) > 1 else ""
        figures = _figures(board, recorder.boottime_ms - heard.boottime_ms)
        return Meeting(board.title, _when(window, board, zone, now_ms), others, figures)
    ahead = [each for each in known if each[0].opens_ms > now_ms]
    if not ahead:
        return None
    window, board = min(ahead, key=lambda each: each[0].opens_ms)
    return Meeting(board.title, _when(window, board, zone, now_ms), "", None)


def _when(window: Window, board: Board, zone: ZoneInfo | None, now_ms: int) -> str:
    if now_ms < window.opens_ms:
        return f"{_hour(window.opens_ms, zone)} 开始签到"
    return f"{_hour(board.starts_ms, zone)} 开会"


_QUORUM: Final = {
    BoardQuorum.MET: ("met", "法定人数 达到"),
    BoardQuorum.NOT_MET: ("not_met", "法定人数 未达到"),
    BoardQuorum.UNKNOWN: ("unknown", "法定人数 未知"),
    BoardQuorum.NOT_ASKED: ("", ""),
}


def _figures(board: Board, age_ms: int) -> Figures:
    return Figures(board.present, board.expected, *_QUORUM[board.quorum], age(age_ms))


def _tally(recorder: RecorderStatus | None, meeting: Meeting | None) -> str:
    """The device's own count, where the hub's is not known."""
    if recorder is None or recorder.taps is None or meeting is not None:
        return ""
    return f"本机已记录 {recorder.taps} 次刷卡"


def _line(courier: CourierStatus | None) -> str:
    if courier is None:
        return ""
    if not courier.connected or courier.hub_online is False:
        if courier.unreceipted:
            return f"离线，已暂存 {courier.unreceipted} 条，联网后自动上传"
        return "离线，刷卡照常记录，联网后自动上传"
    if courier.unreceipted >= MANY:
        return f"正在上传暂存的 {courier.unreceipted} 条"
    return ""


def _parts(recorder: RecorderStatus | None, courier: CourierStatus | None) -> tuple[Part, ...]:
    return (*_way(courier), *_own(recorder))


def _way(courier: CourierStatus | None) -> tuple[Part, Part]:
    if courier is None:
        return Part("network", State.UNKNOWN, "网络未知"), Part("hub", State.UNKNOWN, "平台未知")
    if not courier.connected:
        return Part("network", State.BAD, "网络断开"), Part("hub", State.UNKNOWN, "平台未知")
    network = Part("network", State.GOOD, "网络正常")
    match courier.hub_online:
        case True:
            return network, Part("hub", State.GOOD, "平台在线")
        case False:
            return network, Part("hub", State.BAD, "平台离线")
        case None:
            return network, Part("hub", State.UNKNOWN, "平台未知")


def _own(recorder: RecorderStatus | None) -> tuple[Part, Part, Part]:
    if recorder is None:
        return (
            Part("clock", State.UNKNOWN, "时钟未知"),
            Part("reader", State.UNKNOWN, "读卡未知"),
            Part("storage", State.UNKNOWN, "存储未知"),
        )
    known = [
        each
        for each in recorder.readers
        if each.up or recorder.boottime_ms - each.since_boottime_ms < GONE_MS
    ]
    up = sum(each.up for each in known)
    all_up = up == len(known)
    return (
        Part("clock", State.GOOD, "时钟准确")
        if recorder.clock_trusted
        else Part("clock", State.BAD, "时钟未校准"),
        Part("reader", State.GOOD, "读卡正常")
        if up and all_up
        else Part("reader", State.BAD, f"读卡 {up}/{len(known)}" if up else "无读卡器"),
        Part("storage", State.BAD, "存储故障")
        if recorder.failure or recorder.stalled
        else Part("storage", State.GOOD, "存储正常"),
    )


def _hour(at_ms: int, zone: ZoneInfo | None) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000).astimezone(zone):%H:%M}"
