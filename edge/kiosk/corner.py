"""The technician's corner of the screen: what is wrong here, what was recorded last, joining a hub.

Shows nothing of a member: neither a number of a card, which is sealed, nor a name. Each function
may take a while and is called by a thread of its own. The doctor's findings are in English, as on
the command line.
"""

from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Final, assert_never

import msgspec

from edge.acts import ZH, InvalidWishError, Wish
from edge.actsocket import VERBS
from edge.config import Config
from edge.doctor import examine
from edge.enrol import EnrolError, IdentityError, enrol, load_enrolment
from edge.store import FILE_NAME, JournalError, JournalReader
from protocol.credential import InvalidCredentialError, member_credential
from protocol.errors import RemoteError
from protocol.identity import EnrolmentCode, InvalidCodeError
from protocol.journal import (
    MAX_HEAD_COUNT,
    Act,
    Action,
    ClockSample,
    Entry,
    ReaderDown,
    ReaderUp,
    Tap,
    decode_entry,
)

LAST: Final = 30
"""Entries shown."""


class CannotError(Exception):
    """Why something was not done, in plain Chinese, with the particulars as they come."""

    def __init__(self, words: str, detail: str = "") -> None:
        super().__init__(words)
        self.words = words
        self.detail = detail


class Line(msgspec.Struct, frozen=True):
    """An entry of the journal."""

    when: str
    """Local time, with a ? where the clock was not trusted."""
    what: str
    received: bool
    """By the hub."""


class Found(msgspec.Struct, frozen=True):
    """A finding of the doctor."""

    good: bool
    what: str
    advice: str


class Here(msgspec.Struct, frozen=True):
    """Who this device is."""

    enrolled: bool
    name: str
    trouble: str


def here(data: Path) -> Here:
    """Who this device is, as its files say."""
    try:
        enrolment = load_enrolment(data)
    except IdentityError as error:
        return Here(enrolled=True, name="", trouble=str(error))
    if enrolment is None:
        return Here(enrolled=False, name="", trouble="")
    return Here(enrolled=True, name=enrolment.name, trouble="")


def findings(config: Config) -> list[Found]:
    """What the doctor finds."""
    return [Found(each.good, each.what, each.advice) for each in examine(config)]


def last_entries(data: Path) -> list[Line]:
    """The last entries of the journal, the latest first. Raises CannotError."""
    if not (data / FILE_NAME).exists():
        return []
    lines: list[Line] = []
    try:
        with closing(JournalReader(data)) as reader:
            for held in reversed(reader.epochs()):
                first = max(held.first, held.head - (LAST - len(lines)) + 1)
                found = [
                    _line(entry, received=seq <= held.released)
                    for seq, entry, _, _ in reader.entries(held.epoch, first)
                ]
                lines += reversed(found)
                if len(lines) >= LAST:
                    break
    except JournalError as error:
        raise CannotError("记录读不出来", str(error)) from error
    return lines[:LAST]


def join(data: Path, hub: str, code: str) -> str:
    """Joins a hub; gives the device's name. Raises CannotError."""
    if here(data).enrolled:
        raise CannotError("本设备已经登记")
    try:
        return enrol(data, hub.strip(), EnrolmentCode.parse(code)).name
    except InvalidCodeError as error:
        raise CannotError("登记码不对，请核对后再输入", str(error)) from error
    except (EnrolError, IdentityError) as error:
        raise CannotError("没有登记成功", str(error)) from error


def wish(act: str, number: str, member: str) -> Wish:
    """What is asked for at the screen. Raises CannotError."""
    if act not in VERBS:
        raise CannotError("没有这项操作")
    what = VERBS[act]
    try:
        match what:
            case Act.OPENED | Act.CLOSED:
                return Wish(what)
            case Act.HEAD_COUNT:
                return Wish(what, number=_people(number))
            case Act.WITNESSED:
                return Wish(what, about=member_credential(member.strip()))
            case _:
                assert_never(what)
    except InvalidCredentialError as error:
        raise CannotError("请输入党员编号（名册上的）", str(error)) from error
    except InvalidWishError as error:
        raise CannotError("填写有误", str(error)) from error


def _people(text: str) -> int:
    text = text.strip()
    short = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_HEAD_COUNT))
    if not short or int(text) > MAX_HEAD_COUNT:
        raise CannotError(f"请输入人数（0 到 {MAX_HEAD_COUNT}）")
    return int(text)


def _line(raw: bytes, *, received: bool) -> Line:
    try:
        entry = decode_entry(raw)
    except RemoteError:
        return Line("", "读不出来的一条记录", received)
    at = entry.at
    when = f"{datetime.fromtimestamp(at.wall_ms / 1000).astimezone():%m-%d %H:%M:%S}"
    return Line(when if at.trusted else f"{when}？", _what(entry), received)


def _what(entry: Entry) -> str:
    match entry:
        case Tap(reader=reader):
            return f"刷卡（{reader}）"
        case Action(what=what, number=number):
            named = ZH[Act(what)] if what in set(Act) else "其他操作"
            return named + ("" if number is None else f" {number} 人")
        case ClockSample(at):
            return "时钟已校准" if at.trusted else "时钟未校准"
        case ReaderUp(reader=reader):
            return f"读卡器接上（{reader}）"
        case ReaderDown(reader=reader):
            return f"读卡器断开（{reader}）"
        case _:
            assert_never(entry)
