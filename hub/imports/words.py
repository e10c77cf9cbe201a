"""What the columns of the registers are called in Chinese, what may stand in them, and examples.

Words only: nothing here decides anything. The first word of a column is the one that templates
use; the others are found in lists that people have.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from hub.domain.terms import Body, MeetingKind, Office, OrgKind, Term
from hub.imports.rows import Columns
from protocol.credential import CLASSIC_SECTOR_SCHEME, CPU_FILE_SCHEME, CardNumberFormat


class Register(Term):
    """What a file can hold, in the order in which a new district imports them."""

    ORGANISATIONS = "organisations", "组织"
    MEMBERS = "members", "党员"
    OFFICES = "offices", "职务"
    VENUES = "venues", "会场"
    PLACEMENTS = "placements", "设备位置"
    CARDS = "cards", "党员卡"
    MEETINGS = "meetings", "会议"


COLUMNS: Final[Mapping[Register, Columns]] = {
    Register.ORGANISATIONS: Columns(("code", "name", "kind", "parent")),
    Register.MEMBERS: Columns(("code", "name", "organisation", "from"), ("body", "votes", "to")),
    Register.OFFICES: Columns(("member", "organisation", "office", "from"), ("to",)),
    Register.VENUES: Columns(("code", "name", "organisation")),
    Register.PLACEMENTS: Columns(("device", "venue", "from"), ("to",)),
    Register.CARDS: Columns(("card", "member", "format", "number", "from"), ("to", "issuer")),
    Register.MEETINGS: Columns(
        ("code", "organisation", "kind", "title", "venue", "start", "end"), ("grace_minutes",)
    ),
}
"""`members`: a row is a membership. `cards`: a row is a number of a card and who holds the card
from when; a card without a holder leaves `member` and `from` empty."""

_ORGANISATION: Final = (
    "组织编号",
    "所属组织编号",
    "所属组织",
    "所在组织",
    "组织",
    "组织名称",
    "党组织",
    "党组织名称",
    "所在党组织",
    "所属党组织",
    "党支部",
    "支部",
    "支部名称",
    "党支部名称",
    "所在支部",
    "所属支部",
    "所在党支部",
    "所属党支部",
)
_MEMBER: Final = (
    "党员编号",
    "编号",
    "人员编号",
    "人员代码",
    "党员代码",
    "工号",
    "公民身份号码",
    "身份证号",
    "身份证号码",
)
_VENUE: Final = ("会场编号", "会场", "会场名称", "地点", "会议地点")
_FROM: Final = ("开始日期", "起始日期", "开始时间", "起始时间")
_TO: Final = ("结束日期", "终止日期", "截止日期", "结束时间")

HEADINGS: Final[Mapping[Register, Mapping[str, tuple[str, ...]]]] = {
    Register.ORGANISATIONS: {
        "code": (
            "组织编号",
            "编号",
            "编码",
            "代码",
            "组织编码",
            "组织代码",
            "党组织编号",
            "党组织代码",
        ),
        "name": ("组织名称", "名称", "全称", "党组织名称", "党组织全称", "支部名称", "党支部名称"),
        "kind": ("组织类型", "类型", "类别", "组织类别", "党组织类型", "党组织类别"),
        "parent": ("上级组织编号", "上级编号", "上级", "上级组织", "上级党组织", "上级党组织名称"),
    },
    Register.MEMBERS: {
        "code": _MEMBER,
        "name": ("姓名", "党员姓名", "名字"),
        "organisation": _ORGANISATION,
        "from": (
            *_FROM,
            "转入日期",
            "转入时间",
            "组织关系转入日期",
            "组织关系转入时间",
            "入党支部时间",
            "入党支部日期",
            "进入支部日期",
            "进入当前支部日期",
        ),
        "body": ("身份",),
        "votes": ("表决权", "有无表决权", "党员类别", "人员类别", "党员类型"),
        "to": (*_TO, "转出日期", "转出时间", "组织关系转出日期", "组织关系转出时间"),
    },
    Register.OFFICES: {
        "member": _MEMBER,
        "organisation": _ORGANISATION,
        "office": ("职务", "党内职务", "职务名称", "现任职务"),
        "from": ("任职日期", "任职时间", "任职开始日期", "任现职日期", *_FROM),
        "to": ("免职日期", "离任日期", "免职时间", "离任时间", "任职结束日期", *_TO),
    },
    Register.VENUES: {
        "code": ("会场编号", "编号", "编码"),
        "name": ("会场名称", "名称", "会场", "地点"),
        "organisation": _ORGANISATION,
    },
    Register.PLACEMENTS: {
        "device": ("设备名称", "设备"),
        "venue": _VENUE,
        "from": _FROM,
        "to": _TO,
    },
    Register.CARDS: {
        "card": ("卡片编号", "党员卡编号", "卡编号", "卡面编号", "卡面号"),
        "member": ("党员编号", "持卡人编号", *_MEMBER[2:]),
        "format": ("卡号格式", "格式"),
        "number": ("卡号", "物理卡号", "芯片号", "芯片卡号", "UID"),
        "from": ("开始日期", "发卡日期", "领卡日期", "启用日期", *_FROM[1:]),
        "to": (*_TO, "停用日期", "退卡日期"),
        "issuer": ("发卡方代码",),
    },
    Register.MEETINGS: {
        "code": ("会议编号", "编号", "活动编号"),
        "organisation": (*_ORGANISATION, "召开组织", "主办组织", "召开支部"),
        "kind": ("会议类型", "类型", "会议类别", "活动类型"),
        "title": ("会议名称", "名称", "会议主题", "主题", "标题", "活动名称", "活动主题"),
        "venue": _VENUE,
        "start": ("开始时间", "会议开始时间", "会议时间", "起始时间"),
        "end": ("结束时间", "会议结束时间", "终止时间"),
        "grace_minutes": ("迟到宽限分钟", "宽限分钟", "迟到宽限"),
    },
}


class InTheCard(StrEnum):
    """Numbers that stand in a card's files or sectors, by the scheme of their credentials."""

    CPU_FILE = CPU_FILE_SCHEME
    CLASSIC_SECTOR = CLASSIC_SECTOR_SCHEME


CARD_FORMATS: Final[Mapping[str, CardNumberFormat | InTheCard]] = {
    "hex": CardNumberFormat.HEX,
    "十六进制": CardNumberFormat.HEX,
    "hex-reversed": CardNumberFormat.HEX_REVERSED,
    "十六进制反序": CardNumberFormat.HEX_REVERSED,
    "dec10": CardNumberFormat.DEC10,
    "十位十进制": CardNumberFormat.DEC10,
    "dec10-reversed": CardNumberFormat.DEC10_REVERSED,
    "十位十进制反序": CardNumberFormat.DEC10_REVERSED,
    "dec8": CardNumberFormat.DEC8,
    "cpu-file": InTheCard.CPU_FILE,
    "卡内文件": InTheCard.CPU_FILE,
    "classic-sector": InTheCard.CLASSIC_SECTOR,
    "卡内扇区": InTheCard.CLASSIC_SECTOR,
}


class Votes(Term):
    """Whether a member may vote, as lists say it."""

    YES = "YES", "有"
    NO = "NO", "无"


VOTES: Final[Mapping[str, Votes]] = {
    **dict.fromkeys(("有", "是", "yes", "true", "正式党员", "正式"), Votes.YES),
    **dict.fromkeys(("无", "否", "没有", "no", "false", "预备党员", "预备"), Votes.NO),
}


class Kind(StrEnum):
    """What a template's column should be formatted as."""

    TEXT = "text"
    DAY = "day"
    MOMENT = "moment"
    NUMBER = "number"


DAYS: Final = frozenset({"from", "to"})
MOMENTS: Final = frozenset({"start", "end"})
NUMBERS: Final = frozenset({"grace_minutes"})


def kind_of(column: str) -> Kind:
    """How a spreadsheet should hold it; whatever is a code is text."""
    if column in DAYS:
        return Kind.DAY
    if column in MOMENTS:
        return Kind.MOMENT
    return Kind.NUMBER if column in NUMBERS else Kind.TEXT


def allowed(register: Register, column: str) -> tuple[str, ...]:
    """The words that may stand in a column; empty: whatever is right."""
    match register, column:
        case Register.ORGANISATIONS, "kind":
            return tuple(each.zh for each in OrgKind)
        case Register.MEMBERS, "body":
            return tuple(each.zh for each in Body)
        case Register.MEMBERS, "votes":
            return tuple(each.zh for each in Votes)
        case Register.OFFICES, "office":
            return tuple(each.zh for each in Office)
        case Register.CARDS, "format":
            return (
                "十六进制",
                "十六进制反序",
                "十位十进制",
                "十位十进制反序",
                "卡内文件",
                "卡内扇区",
            )
        case Register.MEETINGS, "kind":
            return tuple(each.zh for each in MeetingKind)
        case _:
            return ()


_FROM_HERE: Final = "从这一天起，如 2026-07-01"
_TO_HERE: Final = "到这一天为止（含当天）；空着表示至今"
_ORGANISATION_HERE: Final = "组织编号；没有重名时也可写组织名称"
_VENUE_HERE: Final = "会场编号；没有重名时也可写会场名称"
_CODE_HERE: Final = "自己编，不重复，最多64个字符，中间没有空格"

EXPLAINED: Final[Mapping[Register, Mapping[str, tuple[str, str]]]] = {
    Register.ORGANISATIONS: {
        "code": (_CODE_HERE, "ZB001"),
        "name": ("组织的全称", "甲村党支部"),
        "kind": ("组织的层级", "党支部"),
        "parent": ("上级组织的编号；最上级空着", "DW001"),
    },
    Register.MEMBERS: {
        "code": (
            "自己编，不重复，最多64个字符，中间没有空格；同一人的几行写同一个编号",
            "M001",
        ),
        "name": ("身份证上的姓名", "张三"),
        "organisation": (_ORGANISATION_HERE, "ZB001"),
        "from": (_FROM_HERE, "2026-01-01"),
        "body": ("空着表示党员；支委另写一行，填委员", "党员"),
        "votes": ("空着表示有；预备党员等填无", "有"),
        "to": (_TO_HERE, ""),
    },
    Register.OFFICES: {
        "member": ("党员的编号", "M001"),
        "organisation": (_ORGANISATION_HERE, "ZB001"),
        "office": ("在这个组织里的职务；一人几职写几行", "书记"),
        "from": (_FROM_HERE, "2026-01-01"),
        "to": (_TO_HERE, ""),
    },
    Register.VENUES: {
        "code": (_CODE_HERE, "HC001"),
        "name": ("大家平时的叫法", "村部二楼会议室"),
        "organisation": (_ORGANISATION_HERE, "ZB001"),
    },
    Register.PLACEMENTS: {
        "device": ("设备的名称，与设备页面上的一致", "村部一号"),
        "venue": (_VENUE_HERE, "HC001"),
        "from": (_FROM_HERE, "2026-01-01"),
        "to": (_TO_HERE, ""),
    },
    Register.CARDS: {
        "card": ("印在卡面上的编号，或自己编", "K0001"),
        "member": ("持卡人的党员编号；还没发出的卡空着", "M001"),
        "format": (
            "读卡器显示的顺序为十六进制，十位数字的为十位十进制，字节顺序相反的选反序；设备读卡内文件、扇区的另选",
            "十六进制",
        ),
        "number": (
            "芯片的号码；十位十进制不能丢前面的0；卡内文件填序列号，卡内扇区填扇区里的号码",
            "04A1B2C3D4E5F6",
        ),
        "from": ("从这一天起，如 2026-07-01；还没发出的卡空着", "2026-01-01"),
        "to": (_TO_HERE, ""),
        "issuer": (
            "卡内文件填发卡方代码（16位），卡内扇区填设备设置里的issuer；其他格式空着",
            "",
        ),
    },
    Register.MEETINGS: {
        "code": (_CODE_HERE, "HY20260701"),
        "organisation": (_ORGANISATION_HERE, "ZB001"),
        "kind": ("会议的类型", "支部党员大会"),
        "title": ("写在通知和签到表上的名称", "七月支部党员大会"),
        "venue": (_VENUE_HERE, "HC001"),
        "start": ("几月几日几点", "2026-07-01 14:30"),
        "end": ("同一天或24小时以内", "2026-07-01 16:00"),
        "grace_minutes": ("开始后几分钟内不算迟到；空着按本地规定", ""),
    },
}
"""By column: what it means, and an example."""
