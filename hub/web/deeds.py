"""How the logs' entries are said: `meeting.create` is “会议：建立”.

`AREAS` is what comes before the dot, `DEEDS` what comes after it; a test holds both to the code.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from hub.domain.terms import DeclarationKind, LeaveReason, MeetingKind, Role
from hub.domain.words import Words
from hub.imports.words import Register
from hub.web.words import t

AREAS: Final[Mapping[str, Words]] = {
    "meeting": Words("会议"),
    "declaration": Words("会议情况"),
    "objection": Words("异议"),
    "objections": Words("异议"),
    "asks": Words("请假和补签"),
    "attendance": Words("考勤"),
    "member": Words("党员"),
    "members": Words("党员名册"),
    "card": Words("卡"),
    "tap": Words("刷卡"),
    "taps": Words("待核对的刷卡"),
    "register": Words("名册"),
    "venue": Words("会场"),
    "device": Words("设备"),
    "account": Words("账号"),
    "accounts": Words("账号"),
    "session": Words("登录"),
    "token": Words("令牌"),
    "log": Words("日志"),
    "hub": Words("系统"),
    "keys": Words("密钥"),
}
DEEDS: Final[Mapping[str, Words]] = {
    # What was done.
    "create": Words("建立"),
    "make": Words("建立"),
    "add": Words("添加"),
    "edit": Words("修改"),
    "change": Words("修改"),
    "cancel": Words("取消"),
    "restore": Words("恢复"),
    "partners": Words("改动参加的组织"),
    "wrong_code": Words("填了没有的编号"),
    "agree": Words("同意参加"),
    "decline": Words("不同意参加"),
    "withdraw": Words("撤回"),
    "uphold": Words("认定成立"),
    "dismiss": Words("认定不成立"),
    "assign": Words("归会"),
    "bind": Words("绑定"),
    "end": Words("结束"),
    "end_all": Words("全部退出"),
    "lost": Words("挂失"),
    "reinstate": Words("恢复使用"),
    "undo": Words("撤销登记"),
    "elsewhere": Words("读到其他组织的卡"),
    "rotate": Words("更换"),
    "drop": Words("弃用"),
    "import": Words("导入"),
    "code": Words("生成登记码"),
    "place": Words("改位置"),
    "rename": Words("改名称"),
    "retire": Words("退役"),
    "gone": Words("遗失退役"),
    "left": Words("已退役，记录交清"),
    "renew": Words("重新登记"),
    "compromise": Words("标记失密"),
    "admit": Words("核准记录"),
    "settle": Words("处理分叉"),
    "reset_password": Words("重设密码"),
    "locked": Words("多次输错密码，暂时锁定"),
    "change_password": Words("修改密码"),
    "disable": Words("停用"),
    "enable": Words("启用"),
    "revoke": Words("作废"),
    "begin": Words("开始"),
    "first_run": Words("首次使用"),
    # What was looked at.
    "reset": Words("重设密码"),
    "page": Words("查看页面"),
    "api": Words("程序读取"),
    "export": Words("导出"),
    "desk": Words("办理会议"),
    "sheet": Words("签到表"),
    "asks": Words("请假和补签"),
    "statements": Words("办理记录"),
    "cards": Words("卡"),
}
GIVEN: Final[Mapping[str, Words]] = {
    "account.create": Words("为您建立了账号，并拿到了初始密码"),
    "account.reset": Words("重设了您账号的密码，并拿到了初始密码"),
    "token.create": Words("为您建立了令牌"),
}
"""What a member is told of those who were given the means to read their file."""

_NAMES: Final[Mapping[str, Words]] = {
    "login": Words("登录名"),
    "name": Words("名称"),
    "role": Words("角色"),
    "title": Words("会议名称"),
    "reason": Words("原因"),
    "kind": Words("类型"),
    "lines": Words("行数"),
    "register": Words("内容"),
    "file": Words("文件"),
    "number": Words("清点人数"),
    "format": Words("格式"),
    "status": Words("状态"),
    "failures": Words("此前输错密码次数"),
}
"""Of the details that are said; the others are there for programs."""


MANY: Final = frozenset({"accounts", "objections", "members", "taps"})
"""Areas whose entries are found with those of one of them."""


def what_words(what: str) -> str:
    """What was done or looked at in words; what has none is said as it was written."""
    area, _, deed = what.partition(".")
    said: object = DEEDS.get(deed)
    if area == "declaration":
        said = DeclarationKind.__members__.get(deed.upper(), said)
    if area not in AREAS or said is None:
        return what
    return t("{area}：{deed}", area=AREAS[area], deed=said)


def details_words(text: str) -> str:
    """The details of an act that a person understands, in one line."""
    found: Any = json.loads(text)
    said = []
    for key, value in found.items():
        if key in _NAMES and isinstance(value, str | int) and value != "":
            known = key == "register" and value in set(Register)
            words = Register(str(value)) if known else _value(str(value))
            said.append(t("{name}：{value}", name=_NAMES[key], value=words))
    return t("；").join(said)


def _value(text: str) -> object:
    for kind in (Role, DeclarationKind, LeaveReason, MeetingKind):
        if text in kind.__members__:
            return kind[text]
    return text
