"""The closed sets of words that the hub's rules speak in, each with its Chinese.

The identifiers are what the database and the API say; `.zh` is what a person reads. Nothing here
decides anything.
"""

from enum import StrEnum
from typing import Self


class Term(StrEnum):
    """An identifier with the Chinese word it stands for."""

    zh: str

    def __new__(cls, value: str, zh: str = "") -> Self:
        """Make the member `value`, displayed as `zh` (the default serves a look-up by value)."""
        term = str.__new__(cls, value)
        term._value_ = value
        term.zh = zh
        return term

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The member that `text` names by identifier (any case) or by Chinese word, or None."""
        for term in cls:
            if text.upper() == term.value or text == term.zh:
                return term
        return None


class OrgKind(Term):
    """The levels of organisation."""

    COMMITTEE = "COMMITTEE", "党委"
    GENERAL_BRANCH = "GENERAL_BRANCH", "党总支"
    BRANCH = "BRANCH", "党支部"
    GROUP = "GROUP", "党小组"


class Body(Term):
    """In what a person has their place: the organisation itself, or its committee."""

    MEMBER = "MEMBER", "党员"
    COMMITTEE = "COMMITTEE", "委员"


class Office(Term):
    """What a person does for an organisation; it says who may speak for it at the door."""

    SECRETARY = "SECRETARY", "书记"
    DEPUTY_SECRETARY = "DEPUTY_SECRETARY", "副书记"
    ORGANISATION = "ORGANISATION", "组织委员"
    DISCIPLINE = "DISCIPLINE", "纪检委员"
    PUBLICITY = "PUBLICITY", "宣传委员"
    COMMITTEE_MEMBER = "COMMITTEE_MEMBER", "委员"
    GROUP_LEADER = "GROUP_LEADER", "党小组组长"


class MeetingKind(Term):
    """三会一课 and 主题党日."""

    BRANCH_ASSEMBLY = "BRANCH_ASSEMBLY", "支部党员大会"
    BRANCH_COMMITTEE = "BRANCH_COMMITTEE", "支委会"
    PARTY_GROUP = "PARTY_GROUP", "党小组会"
    PARTY_LECTURE = "PARTY_LECTURE", "党课"
    THEME_PARTY_DAY = "THEME_PARTY_DAY", "主题党日"


class Verdict(Term):
    """What is said of one member and one meeting; nothing here says 无故缺席 yet."""

    PRESENT = "PRESENT", "出席"
    LATE = "LATE", "迟到"
    WITNESSED = "WITNESSED", "现场证明"
    BACK_FILLED = "BACK_FILLED", "补签"
    EXCUSED = "EXCUSED", "请假"
    GUEST = "GUEST", "列席"
    NOT_SEEN = "NOT_SEEN", "未见"
    PENDING = "PENDING", "待定"


class Outcome(Term):
    """What became of one tap."""

    COUNTED = "COUNTED", "已计入"
    GUEST = "GUEST", "列席"
    UNPLACED = "UNPLACED", "未归会"
    UNMATCHED = "UNMATCHED", "未识别"
    UNDATED = "UNDATED", "时间待核"


class CardStatus(Term):
    """Whether a card is in use; a tap of a card that is not is recorded all the same."""

    ACTIVE = "ACTIVE", "在用"
    LOST = "LOST", "挂失"
    WITHDRAWN = "WITHDRAWN", "停用"


class CardState(Term):
    """What is known of a card that a desk station (发卡台) has just read."""

    UNKNOWN = "UNKNOWN", "未登记"
    BOUND = "BOUND", "已登记"
    LOST = "LOST", "已挂失"
    ENDED = "ENDED", "已停用"
    ELSEWHERE = "ELSEWHERE", "登记在其他组织"


class DeviceStatus(Term):
    """Where a device stands in the fleet."""

    PENDING = "PENDING", "待登记"
    ACTIVE = "ACTIVE", "在用"
    RETIRED = "RETIRED", "退役"
    COMPROMISED = "COMPROMISED", "失密"


class OtherHistory(Term):
    """What became of the other history of a device whose record had forked."""

    IN_HAND = "IN_HAND", "另一份记录已全部收到"
    LOST = "LOST", "另一份记录已经丢失"


class DeclarationKind(Term):
    """What a person states of a meeting. Nothing stated is changed: it is answered or withdrawn."""

    HELD = "HELD", "确认已召开"
    NOT_HELD = "NOT_HELD", "确认未召开"
    HEAD_COUNT = "HEAD_COUNT", "清点人数"
    WITNESSED = "WITNESSED", "现场证明"
    SHEET = "SHEET", "纸质签到"
    SHEET_COMPLETE = "SHEET_COMPLETE", "签到表已录完"
    LEAVE_ASKED = "LEAVE_ASKED", "申请请假"
    LEAVE_GRANTED = "LEAVE_GRANTED", "准假"
    LEAVE_REFUSED = "LEAVE_REFUSED", "不准假"
    BACK_FILL_ASKED = "BACK_FILL_ASKED", "申请补签"
    BACK_FILL_GRANTED = "BACK_FILL_GRANTED", "同意补签"
    BACK_FILL_REFUSED = "BACK_FILL_REFUSED", "不同意补签"
    TAP_ASSIGNED = "TAP_ASSIGNED", "刷卡归会"
    OBJECTION = "OBJECTION", "异议"
    OBJECTION_UPHELD = "OBJECTION_UPHELD", "异议成立"
    OBJECTION_DISMISSED = "OBJECTION_DISMISSED", "异议不成立"
    WITHDRAWN = "WITHDRAWN", "撤回"


class Evidence(Term):
    """By what an attendance is shown."""

    TAP = "TAP", "刷卡"
    ASSIGNED = "ASSIGNED", "刷卡（人工归会）"
    SHEET = "SHEET", "纸质签到表"
    WITNESSED = "WITNESSED", "现场证明"
    BACK_FILL = "BACK_FILL", "补签"
    LEAVE = "LEAVE", "请假"


class Quorum(Term):
    """Whether enough of those who may vote came."""

    MET = "MET", "达到法定人数"
    NOT_MET = "NOT_MET", "未达到法定人数"
    UNKNOWN = "UNKNOWN", "是否达到法定人数尚不清楚"
    NOT_ASKED = "NOT_ASKED", "不要求法定人数"


class QuorumRule(Term):
    """How “半数以上” of the voters is read."""

    MORE_THAN_HALF = "MORE_THAN_HALF", "超过半数"
    AT_LEAST_HALF = "AT_LEAST_HALF", "半数及以上"


class LeaveReason(Term):
    """The class of a leave's reason: all that is kept of it."""

    ILLNESS = "ILLNESS", "病假"
    WORK = "WORK", "公务"
    AWAY = "AWAY", "外出"
    FAMILY = "FAMILY", "家事"
    OTHER = "OTHER", "其他"


class Role(Term):
    """What an account or a token is there for, within one organisation and all below it."""

    OPERATOR = "OPERATOR", "管理员"
    SECRETARY = "SECRETARY", "支部书记"
    AUDITOR = "AUDITOR", "监督员"
    TECHNICIAN = "TECHNICIAN", "技术员"
    MEMBER = "MEMBER", "党员"
