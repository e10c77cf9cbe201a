"""The main navigation: an entry for each area of pages."""

from dataclasses import dataclass
from typing import Final

from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.domain.words import Words


@dataclass(frozen=True, slots=True)
class Entry:
    """One area, and where it begins. `section` is what its pages call themselves."""

    section: str
    path: str
    icon: str
    words: Words
    right: Right


ENTRIES: Final = (
    Entry("meetings", "/", "meeting", Words("会议考勤"), Right.VIEW),
    Entry("asks", "/asks", "leave", Words("待审批"), Right.MEETINGS),
    Entry("objections", "/objections", "flag", Words("异议"), Right.MEETINGS),
    Entry("attendance", "/attendance", "search", Words("考勤查询"), Right.VIEW),
    Entry("members", "/members", "people", Words("党员名册"), Right.VIEW),
    Entry("taps", "/taps", "tap", Words("待核对的刷卡"), Right.TAPS),
    Entry("desk", "/cards/desk", "card", Words("发卡台"), Right.TAPS),
    Entry("devices", "/devices", "device", Words("设备与会场"), Right.DEVICES_VIEW),
    Entry("imports", "/imports", "in", Words("导入"), Right.PEOPLE),
    Entry("accounts", "/accounts", "key", Words("账号管理"), Right.ACCESS),
    Entry("log", "/log", "log", Words("日志"), Right.AUDIT),
    Entry("own", "/me", "person", Words("我的考勤"), Right.OWN),
)


def navigation(caller: Caller | None) -> tuple[Entry, ...]:
    """The entries that whoever is signed in may open."""
    if caller is None:
        return ()
    return tuple(each for each in ENTRIES if caller.may(each.right))
