"""Whether something may be stated, asked for or decided of a meeting: pure.

Promises: every function gives None where it may, otherwise the reason in plain Chinese. Whose
sub-tree a meeting lies in is not asked here (`hub.store.scope`), nor what follows from a statement
(`hub.domain.declared`).

Times are ms since the Unix epoch, UTC; `now_ms` is always an argument.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, assert_never
from zoneinfo import ZoneInfo

from hub.days import FIRST_DAY, LAST_DAY, span_ms
from hub.domain.attendance import MINUTE_MS
from hub.domain.declared import CAME
from hub.domain.terms import DeclarationKind, MeetingKind, OrgKind, Term, Verdict
from hub.domain.words import Words

MAX_MEETING_MS: Final = 24 * 60 * MINUTE_MS
MAX_HEAD_COUNT: Final = 100_000

ASKS: Final = {
    DeclarationKind.LEAVE_ASKED: (DeclarationKind.LEAVE_GRANTED, DeclarationKind.LEAVE_REFUSED),
    DeclarationKind.BACK_FILL_ASKED: (
        DeclarationKind.BACK_FILL_GRANTED,
        DeclarationKind.BACK_FILL_REFUSED,
    ),
}
"""What is asked for and decided on, with the two answers: yes and no."""
ANSWERS: Final = frozenset(answer for answers in ASKS.values() for answer in answers)
TIED: Final = (
    DeclarationKind.HELD,
    DeclarationKind.NOT_HELD,
    DeclarationKind.HEAD_COUNT,
    DeclarationKind.SHEET,
    DeclarationKind.SHEET_COMPLETE,
    DeclarationKind.WITNESSED,
    DeclarationKind.TAP_ASSIGNED,
    DeclarationKind.BACK_FILL_GRANTED,
)
"""What is stated of a meeting as it was on its day; none of it moves to another with it."""
_OBJECTIONS: Final = frozenset(
    {
        DeclarationKind.OBJECTION,
        DeclarationKind.OBJECTION_UPHELD,
        DeclarationKind.OBJECTION_DISMISSED,
    }
)


@dataclass(frozen=True, slots=True)
class Times:
    """When a meeting is, and whether it was called off."""

    opens_ms: int
    starts_ms: int
    ends_ms: int
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Person:
    """Who acts, as far as the hub can tell people apart: all that is known to be theirs."""

    account: int | None = None
    """With which they act, or made the token with which they act."""
    accounts: frozenset[int] = frozenset()
    """That one, and whoever's it may have been: see `hub.auth.callers.person_of`."""
    tokens: frozenset[int] = frozenset()
    members: frozenset[int] = frozenset()
    name: str = ""
    """As they are called; empty: not compared."""

    def is_same(self, other: "Person") -> bool:
        """Whether these are taken to be one: by account, token or member, or by name."""
        return bool(
            self.account in other.accounts
            or other.account in self.accounts
            or self.tokens & other.tokens
            or self.members & other.members
            or (self.name.strip() and self.name.strip() == other.name.strip())
        )


# --- Meetings -------------------------------------------------------------------------------


def kind_refused(kind: MeetingKind, level: OrgKind) -> Words | None:
    """Whether an organisation of this level holds such meetings. Source: 条例 (2018)."""
    match kind:
        case MeetingKind.PARTY_GROUP:
            holds, who = level is OrgKind.GROUP, OrgKind.GROUP
        case MeetingKind.BRANCH_ASSEMBLY | MeetingKind.BRANCH_COMMITTEE:
            holds, who = level in {OrgKind.BRANCH, OrgKind.GENERAL_BRANCH}, OrgKind.BRANCH
        case MeetingKind.PARTY_LECTURE | MeetingKind.THEME_PARTY_DAY:
            return None
        case _:
            assert_never(kind)
    if holds:
        return None
    return Words("{level}不开{what}：应由{who}召开", level=level, what=kind, who=who)


def times_refused(starts_ms: int, ends_ms: int, zone: ZoneInfo) -> tuple[str, Words] | None:
    """Whether a meeting may have these times; the field that is wrong, and why."""
    first, after = span_ms(FIRST_DAY, LAST_DAY, zone)
    if not first <= starts_ms < after:
        years = Words("年份应在{first}到{last}之间", first=FIRST_DAY.year, last=LAST_DAY.year)
        return "starts", years
    if ends_ms <= starts_ms:
        return "ends", Words("结束时间应晚于开始时间")
    if ends_ms - starts_ms > MAX_MEETING_MS:
        return "ends", Words("会议不能超过24小时")
    return None


def move_refused(
    was: Times,
    to: Times,
    stated: Collection[DeclarationKind],
    now_ms: int,
    zone: ZoneInfo,
) -> Words | None:
    """Whether a meeting of which this stands may move; the reason names what to withdraw first.

    It may not move to another local day, nor to where one of these could not be stated yet. What
    was done at readers is no reason: it stays where it was done. A called-off meeting is no
    exception, since it can be taken up again.
    """
    if (was.opens_ms, was.starts_ms, was.ends_ms) == (to.opens_ms, to.starts_ms, to.ends_ms):
        return None
    days = {datetime.fromtimestamp(each.starts_ms / 1000, zone).date() for each in (was, to)}
    then = replace(to, cancelled=False)
    tied = [
        kind
        for kind in TIED
        if kind in stated
        and (len(days) > 1 or now_ms < to.opens_ms or when_refused(kind, then, now_ms) is not None)
    ]
    if not tied:
        return None
    what = Words("“{what}”", what=tied[0])
    for kind in tied[1:]:
        what = Words("{before}、“{what}”", before=what, what=kind)
    return Words(
        "已按原来的时间办理了{what}，不能改到别的日期或还没有到的时间。请先在“办理记录”中撤回。",
        what=what,
    )


# --- Statements -----------------------------------------------------------------------------


def when_refused(kind: DeclarationKind, meeting: Times, now_ms: int) -> Words | None:
    """Whether the moment has come for a statement of this kind."""
    if meeting.cancelled:
        return Words("会议已取消，请先恢复会议。")
    match kind:
        case (
            DeclarationKind.HELD
            | DeclarationKind.HEAD_COUNT
            | DeclarationKind.WITNESSED
            | DeclarationKind.SHEET
        ) if now_ms < meeting.opens_ms:
            return Words("会议签到还没有开始，请到时再办理。")
        case DeclarationKind.NOT_HELD if now_ms < meeting.starts_ms:
            return Words("会议还没有到开始时间；不再召开的，请取消会议。")
        case DeclarationKind.SHEET_COMPLETE | DeclarationKind.BACK_FILL_ASKED if (
            now_ms <= meeting.ends_ms
        ):
            return Words("会议还没有结束，请结束后再办理。")
        case _:
            return None


def member_refused(
    kind: DeclarationKind, verdict: Verdict | None, *, is_expected: bool
) -> Words | None:
    """Whether a statement of this kind may be made of a member of whom `verdict` is known."""
    match kind:
        case DeclarationKind.LEAVE_ASKED | DeclarationKind.BACK_FILL_ASKED:
            if not is_expected:
                return Words("这名党员不在本次会议的应到名单中。")
            if verdict in CAME:
                return Words("这名党员已有到会记录。")
        case DeclarationKind.WITNESSED:
            if verdict in CAME or verdict is Verdict.GUEST:
                return Words("这名党员已有到会记录。")
        case _:
            pass
    return None


def head_count_refused(number: int) -> Words | None:
    """Whether it can be a number of people."""
    if 0 <= number <= MAX_HEAD_COUNT:
        return None
    return Words("人数应在0到{most}之间", most=MAX_HEAD_COUNT)


def sheet_complete_refused(signatures: int) -> Words | None:
    """Whether a paper sheet with so many entered signatures can be declared complete."""
    return None if signatures else Words("请先录入签到表上的签名，再确认录完。")


class Idle(Term):
    """Why an act at a reader counts for nothing."""

    OTHER_VERSION = "OTHER_VERSION", "这个版本不认识这种操作"
    NO_MEETING = "NO_MEETING", "当时这个会场没有会议在签到"
    NO_HOLDER = "NO_HOLDER", "不知道是谁的卡"
    NO_OFFICE = "NO_OFFICE", "刷卡人当时没有参会组织的职务，也不是委员"
    NO_SUCH_MEMBER = "NO_SUCH_MEMBER", "按编号找不到这名党员"


def act_idle(
    *, known: bool, is_open: bool, has_holder: bool, speaks: bool, names_somebody: bool
) -> Idle | None:
    """Why an act at a reader counts for nothing, the first reason; None: it counts.

    `known`: this version knows such acts; `is_open`: a meeting was, there and then; `speaks`: the
    card's holder may speak for one of those; `names_somebody`: it needs no member, or has one.
    """
    if not known:
        return Idle.OTHER_VERSION
    if not is_open:
        return Idle.NO_MEETING
    if not has_holder:
        return Idle.NO_HOLDER
    if not speaks:
        return Idle.NO_OFFICE
    return None if names_somebody else Idle.NO_SUCH_MEMBER


# --- 补签 -------------------------------------------------------------------------------------


def back_fill_deadline_ms(ends_ms: int, days: int, zone: ZoneInfo) -> int:
    """The end of the local day that is `days` after that of the meeting's end."""
    day = datetime.fromtimestamp(ends_ms / 1000, zone).date() + timedelta(days=days)
    return span_ms(day, day, zone)[1]


def back_fill_refused(
    ends_ms: int, now_ms: int, *, days: int, used: int, limit: int, zone: ZoneInfo
) -> Words | None:
    """Whether 补签 may still be asked for: `used` others in the calendar year of the meeting."""
    if now_ms >= back_fill_deadline_ms(ends_ms, days, zone):
        return Words("已超过补签期限：应在会议结束后{days}天内申请。", days=days)
    return too_many_back_fills(used=used, limit=limit)


def too_many_back_fills(*, used: int, limit: int) -> Words | None:
    """Whether a member with `used` others in the calendar year may have one more."""
    if used < limit:
        return None
    return Words("这名党员本年度的补签次数已满（每年最多{limit}次）。", limit=limit)


# --- Answers and withdrawals ----------------------------------------------------------------


def answer_refused(
    ask: DeclarationKind, *, answered: bool, decides: Person, asked: Person, member_id: int | None
) -> Words | None:
    """Whether `decides` may answer what `asked` asked for, for a member.

    Source: cautious default: nobody decides for themselves; 补签 needs a second person.
    """
    if ask not in ASKS:
        return Words("这一项不需要审批。")
    if answered:
        return Words("这项申请已经办理；要更改的，请先撤回原来的答复。")
    if member_id in decides.members:
        return Words("不能审批自己的申请，请由他人办理。")
    if ask is DeclarationKind.BACK_FILL_ASKED and decides.is_same(asked):
        return Words("补签须由申请人以外的人审批。")
    return None


def withdrawal_refused(
    kind: DeclarationKind, *, stands: bool, answered: bool, as_member: bool
) -> Words | None:
    """Whether a statement may be withdrawn; `as_member`: by the member whom it speaks of.

    A member takes back only what they asked for, while nobody has answered.
    """
    if kind is DeclarationKind.WITHDRAWN or not stands:
        return Words("这一项已经撤回。")
    if as_member:
        if kind not in {*ASKS, DeclarationKind.OBJECTION}:
            return Words("这一项不能由本人撤回。")
        if answered:
            return Words("这项申请已经办理，不能再撤回。")
        return None
    if kind in _OBJECTIONS:
        return Words("异议只能由本人撤回。")
    return None


def act_withdrawal_refused(*, withdrawn: bool, as_member: bool) -> Words | None:
    """Whether an act at a reader may be withdrawn; `as_member`: by the one whom it witnesses."""
    if withdrawn:
        return Words("这一项已经撤回。")
    return Words("这一项不能由本人撤回。") if as_member else None
