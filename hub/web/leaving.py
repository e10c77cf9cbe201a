"""What is done with a device beside placing it: each a page that says what follows, and the act.

Retired, given up as lost, declared compromised, its later records admitted, a fork settled, another
name, enrolled again. The acts themselves are `hub.leaving`.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from sqlalchemy import Connection

from hub import fleet, leaving
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, page_right
from hub.days import moment_from
from hub.devices import DeviceError
from hub.domain.terms import OtherHistory
from hub.domain.words import Words
from hub.store.engine import reading
from hub.store.scope import find_device
from hub.web.devices import ACTS, NOT_A_TIME, code_page
from hub.web.pages import page
from hub.web.visit import done
from hub.web.words import t

Changing = Annotated[Caller, Depends(page_right(Right.DEVICES))]
Trusting = Annotated[Caller, Depends(page_right(Right.TRUST))]
Text = Annotated[str, Form()]

FOLLOWS: Final[Mapping[str, tuple[Words, ...]]] = {
    "rename": (Words("只改名称；设备和它的记录不变。"),),
    "renew": (
        Words("用原来的名称、在原来的会场登记一台新设备，马上生成登记码。"),
        Words("原来的设备会在名称后面加“（旧1）”，以前的刷卡都留在它名下，照常有效。"),
        Words("原来的设备还在用的，立即按遗失退役：没有交上来的记录，涉及的会议会一直待定。"),
        Words("设备还能用的，请先办“退役”，等它交清记录。"),
    ),
    "settle": (
        Words("两份记录里的刷卡都照常计入。"),
        Words("从现在起不再报警；旧卡再用，会重新报警。"),
        Words("选“另一份记录已全部收到”，以前的会议按收到的记录算完整。"),
        Words("选“另一份记录已经丢失”，分叉期间的会议一直待定。"),
    ),
    "admit": (
        Words("这段时间收到的刷卡计入考勤，设备也会得到回执。"),
        Words("刷卡只能说明谁来过，不能说明谁没来：涉及的会议仍然待定。"),
        Words("核准不能撤销。"),
    ),
    "retire": (
        Words("设备收到通知后不再记录，门口显示“设备已退役”，请大家到其他设备刷卡。"),
        Words("它把手里的记录全部交上来，交清后自动退役；在此以前请不要断电断网。"),
        Words("退役以前的会议，记录交清后照常算完整。"),
        Words("退役不能撤销；以后再用，请重新登记。"),
    ),
    "gone": (
        Words("设备立即退役。它可能还有没有交上来的记录：涉及的会议一直待定，不会判任何人缺席。"),
        Words("以后找到了，把它的记录用U盘导出再导入：退役以前的照常计入，以后的等待核准。"),
        Words("设备可能在别人手里的，请改办“标记失密”。"),
    ),
    "compromise": (
        Words("这个时间以前收到的记录照常有效。"),
        Words("这个时间以后收到的记录不计入考勤，原样保存，等管理员逐段核准。"),
        Words("涉及的会议一直待定，不会判任何人缺席。"),
        Words("不再发给它名单、回执和通知。失密不能撤销；换上新设备，请办“重新登记”。"),
    ),
}
_DANGEROUS: Final = frozenset({"retire", "gone", "compromise", "renew"})

router = APIRouter(include_in_schema=False)


@router.get("/devices/{device}/rename")
def rename_page(caller: Changing, hub: Hub, device: UUID) -> Response:
    """Another name."""
    return _page(caller, hub, device, "rename", {}, {})


@router.post("/devices/{device}/rename")
def rename(
    caller: Changing, hub: Hub, device: UUID, name: Text = "", reason: Text = ""
) -> Response:
    """Call it so from now on."""

    def act(conn: Connection, now_ms: int) -> None:
        leaving.rename(conn, caller, device, name, reason, now_ms)

    words = Words("设备已改名。")
    return _do(caller, hub, device, "rename", {"name": name, "reason": reason}, act, words)


@router.get("/devices/{device}/retire")
def retire_page(caller: Changing, hub: Hub, device: UUID) -> Response:
    """Retire it."""
    return _page(caller, hub, device, "retire", {}, {})


@router.post("/devices/{device}/retire")
def retire(caller: Changing, hub: Hub, device: UUID, reason: Text = "") -> Response:
    """Tell it to hand over what it holds."""

    def act(conn: Connection, now_ms: int) -> None:
        leaving.retire(conn, caller, device, reason, now_ms)

    words = Words("已通知设备退役，交清记录后本页会显示退役时间。")
    return _do(caller, hub, device, "retire", {"reason": reason}, act, words)


@router.get("/devices/{device}/gone")
def gone_page(caller: Changing, hub: Hub, device: UUID) -> Response:
    """Give it up."""
    return _page(caller, hub, device, "gone", {}, {})


@router.post("/devices/{device}/gone")
def gone(caller: Changing, hub: Hub, device: UUID, reason: Text = "") -> Response:
    """It has left now."""

    def act(conn: Connection, now_ms: int) -> None:
        leaving.give_up(conn, caller, device, reason, now_ms)

    return _do(caller, hub, device, "gone", {"reason": reason}, act, Words("设备已按遗失退役。"))


@router.get("/devices/{device}/compromise")
def compromise_page(caller: Trusting, hub: Hub, device: UUID) -> Response:
    """Believe it no more."""
    return _page(caller, hub, device, "compromise", {}, {})


@router.post("/devices/{device}/compromise")
def compromise(
    caller: Trusting, hub: Hub, device: UUID, day: Text = "", time: Text = "", reason: Text = ""
) -> Response:
    """Believe nothing that came in from it since then."""

    def act(conn: Connection, now_ms: int) -> None:
        leaving.compromise(conn, caller, device, _moment(day, time, "day", hub), reason, now_ms)

    values = {"day": day, "time": time, "reason": reason}
    words = Words("已标记失密，考勤已重新计算。设备如已搬走，请登记位置。")
    return _do(caller, hub, device, "compromise", values, act, words)


@router.get("/devices/{device}/admit")
def admit_page(caller: Trusting, hub: Hub, device: UUID) -> Response:
    """Answer for what came in."""
    return _page(caller, hub, device, "admit", {}, {})


@router.post("/devices/{device}/admit")
def admit(
    caller: Trusting,
    hub: Hub,
    device: UUID,
    day: Text = "",
    time: Text = "",
    to_day: Text = "",
    to_time: Text = "",
    reason: Text = "",
) -> Response:
    """Let it count."""

    def act(conn: Connection, now_ms: int) -> None:
        from_ms = _moment(day, time, "day", hub)
        to_ms = _moment(to_day, to_time, "to_day", hub)
        leaving.admit(conn, caller, device, from_ms, to_ms, reason, now_ms)

    values = {"day": day, "time": time, "to_day": to_day, "to_time": to_time, "reason": reason}
    words = Words("已核准，稍后计入考勤。")
    return _do(caller, hub, device, "admit", values, act, words)


@router.get("/devices/{device}/settle")
def settle_page(caller: Changing, hub: Hub, device: UUID) -> Response:
    """Settle a fork."""
    return _page(caller, hub, device, "settle", {}, {})


@router.post("/devices/{device}/settle")
def settle(
    caller: Changing, hub: Hub, device: UUID, other: Text = "", reason: Text = ""
) -> Response:
    """Its record is one again from now on."""

    def act(conn: Connection, now_ms: int) -> None:
        said = OtherHistory.parse(other)
        if said is None:
            raise DeviceError("other", Words("请选择一项。"))
        leaving.settle(conn, caller, device, said, reason, now_ms)

    words = Words("分叉已处理。")
    return _do(caller, hub, device, "settle", {"other": other, "reason": reason}, act, words)


@router.get("/devices/{device}/renew")
def renew_page(caller: Changing, hub: Hub, device: UUID) -> Response:
    """Enrol it again."""
    return _page(caller, hub, device, "renew", {}, {})


@router.post("/devices/{device}/renew")
def renew(
    request: Request, caller: Changing, hub: Hub, device: UUID, reason: Text = ""
) -> Response:
    """Make another of its name, and show the code, once."""
    joining = hub.joining
    try:
        with hub.engine.begin() as conn:
            find_device(conn, caller.organisation_id, device)
            if joining is None:
                raise HTTPException(503)
            added = leaving.renew(conn, caller, joining.fingerprint, device, reason, hub.clock())
    except DeviceError as error:
        return _page(caller, hub, device, "renew", {"reason": reason}, {error.field: error})
    return code_page(request, caller, hub, added)


# --- Helpers --------------------------------------------------------------------------------------

_FIELDS: Final[Mapping[str, Words]] = {
    "device": Words("设备"),
    "name": Words("新名称"),
    "other": Words("另一份记录"),
    "day": Words("从哪天起"),
    "to_day": Words("到哪天"),
    "reason": Words("原因"),
}
_INPUTS: Final[Mapping[str, str]] = {"since": "day", "from": "day", "to": "to_day"}
"""Where a page asks for an input of `hub.leaving` under another name."""


def _do(
    caller: Caller,
    hub: Context,
    device: UUID,
    act: str,
    values: Mapping[str, str],
    do: Callable[[Connection, int], None],
    words: Words,
) -> Response:
    try:
        with hub.engine.begin() as conn:
            find_device(conn, caller.organisation_id, device)
            do(conn, hub.clock())
    except DeviceError as error:
        field = _INPUTS.get(error.field, error.field)
        return _page(caller, hub, device, act, values, {field: error})
    return done(f"/devices/{device}", words)


def _moment(day: str, time: str, field: str, hub: Context) -> int:
    at_ms = moment_from(day, time, hub.zone)
    if at_ms is None:
        raise DeviceError(field, NOT_A_TIME)
    return at_ms


def _page(
    caller: Caller,
    hub: Context,
    device: UUID,
    act: str,
    values: Mapping[str, str],
    errors: Mapping[str, object],
) -> Response:
    now_ms = hub.clock()
    with reading(hub.engine) as conn:
        row = find_device(conn, caller.organisation_id, device)
        [found] = fleet.devices(conn, caller.organisation_id, now_ms, hub.zone, row.id)
    waits = found.leaving.waiting
    begins = hub.local(now_ms if waits is None else waits.from_ms)
    ends = hub.local(now_ms if waits is None else waits.to_ms + 60_000)
    first = {
        "name": found.name,
        "other": "",
        "day": f"{begins:%Y-%m-%d}",
        "time": f"{begins:%H:%M}",
        "to_day": f"{ends:%Y-%m-%d}",
        "to_time": f"{ends:%H:%M}",
        "reason": "",
    }
    return page(
        "device-leave.html",
        422 if errors else 200,
        caller=caller,
        section="devices",
        device=found_view(found),
        act=act,
        title=t(ACTS[act][0]),
        follows=FOLLOWS[act],
        fields=[(name, t(words)) for name, words in _FIELDS.items()],
        others=[(each.value, t(each)) for each in OtherHistory],
        values={**first, **values},
        errors=errors,
        is_danger=act in _DANGEROUS,
    )


def found_view(device: fleet.Device) -> Mapping[str, str | None]:
    """Of a device, what such a page names."""
    return {
        "public_id": device.public_id,
        "name": device.name,
        "venue": None if device.venue is None else device.venue.name,
    }
