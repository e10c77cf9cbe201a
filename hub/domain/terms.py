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


class DeviceStatus(Term):
    """Where a device stands in the fleet."""

    PENDING = "PENDING", "待登记"
    ACTIVE = "ACTIVE", "在用"
    RETIRED = "RETIRED", "退役"
    COMPROMISED = "COMPROMISED", "失密"
