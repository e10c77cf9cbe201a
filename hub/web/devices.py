"""Devices: how they are, adding one, its code, where it stands; and the venues.

An enrolment code is in the one answer to the form that asked for it, and nowhere else: not in an
address, not in a cookie. Sent again, the form makes another code.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Annotated, Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import segno
from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from sqlalchemy import Connection

from hub import fleet, venues
from hub.auth.callers import Caller
from hub.auth.rights import Right
from hub.context import Context, Hub, page_right
from hub.days import moment_from
from hub.devices import Added, DeviceError, add_device, new_code, place
from hub.domain.attendance import moment as near
from hub.domain.completeness import CLOCKS_APART_MS
from hub.domain.terms import DeviceStatus
from hub.domain.words import Words
from hub.store.engine import reading
from hub.store.scope import NotFoundError, find_device, find_venue
from hub.venues import VenueError, change_venue, make_venue
from hub.web.live import cut_off
from hub.web.pages import page
from hub.web.view import Chip
from hub.web.visit import done
from hub.web.words import t

Looking = Annotated[Caller, Depends(page_right(Right.DEVICES_VIEW))]
Changing = Annotated[Caller, Depends(page_right(Right.DEVICES))]
Text = Annotated[str, Form()]

_ENROL: Final = "sudo -u shuaka-edge /opt/shuaka/bin/shuaka-edge enrol"
NOT_A_TIME: Final = Words("日期或时间没有看懂，请重新选择。")

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device, as a page shows it."""

    public_id: str
    name: str
    chip: Chip
    venue: str | None
    placed: str | None
    last_contact: Words | None
    backlog: int | None
    clock: Words
    readers: tuple[tuple[str, bool], ...]
    software: str | None
    through: str | None
    rehearsal: Words | None
    troubles: tuple[Words, ...]
    is_waiting: bool
    code_until: str | None
    left: tuple[tuple[Words, str], ...]
    """How it leaves the fleet, or left it: labels and times."""


@router.get("/devices")
def device_list(caller: Looking, hub: Hub) -> Response:
    """The devices of the sub-tree and how they are."""
    now_ms, is_cut_off = hub.clock(), cut_off(hub)
    with reading(hub.engine) as conn:
        found = fleet.devices(conn, caller.organisation_id, now_ms, hub.zone, is_cut_off=is_cut_off)
    # Whoever has little time sees first what needs them.
    shown = [
        view(each, hub, is_cut_off=is_cut_off)
        for each in sorted(found, key=lambda each: not each.troubles)
    ]
    return page(
        "devices.html",
        caller=caller,
        section="devices",
        devices=shown,
        wrong=sum(bool(each.troubles) for each in shown),
        is_cut_off=is_cut_off,
        as_of=f"{hub.local(now_ms):%H:%M}",
    )


@router.get("/devices/new")
def new_device_page(caller: Changing, hub: Hub) -> Response:
    """The form that adds a device."""
    return _new(caller, hub, {"name": "", "venue": ""}, {})


@router.post("/devices/new")
def add(
    request: Request, caller: Changing, hub: Hub, name: Text = "", venue: Text = ""
) -> Response:
    """Add it, and show the code of its enrolment, once."""
    now_ms, joining = hub.clock(), hub.joining
    if joining is None:
        raise HTTPException(503)
    try:
        with hub.engine.begin() as conn:
            place_at = find_venue(conn, caller.organisation_id, _id(venue, "venue"))
            added = add_device(conn, caller, joining.fingerprint, name, place_at.code, now_ms)
    except DeviceError as error:
        return _new(caller, hub, {"name": name, "venue": venue}, {error.field: error})
    return code_page(request, caller, hub, added)


@router.get("/devices/{device}")
def one_device(caller: Looking, hub: Hub, device: UUID) -> Response:
    """A device: how it is, where it stood, and what may be done with it."""
    now = hub.local(hub.clock())
    values = {"venue": "", "day": f"{now:%Y-%m-%d}", "time": f"{now:%H:%M}", "replaces": ""}
    return _device(caller, hub, device, values, {})


@router.post("/devices/{device}/code")
def another_code(request: Request, caller: Changing, hub: Hub, device: UUID) -> Response:
    """A new code for a device that waits to be enrolled."""
    joining = hub.joining
    with hub.engine.begin() as conn:
        row = find_device(conn, caller.organisation_id, device)
        if joining is None:
            raise HTTPException(503)
        try:
            added = new_code(conn, caller, joining.fingerprint, row, hub.clock())
        except DeviceError as error:
            return done(f"/devices/{device}", error, "warn")
    return code_page(request, caller, hub, added)


@router.post("/devices/{device}/place")
def place_it(
    caller: Changing,
    hub: Hub,
    device: UUID,
    venue: Text = "",
    day: Text = "",
    time: Text = "",
    replaces: Text = "",
) -> Response:
    """Say where it stands from a time on."""
    values = {"venue": venue, "day": day, "time": time, "replaces": replaces}
    try:
        with hub.engine.begin() as conn:
            row = find_device(conn, caller.organisation_id, device)
            at_ms = _moment(day, time, hub)
            put = (
                None
                if venue == NOWHERE
                else find_venue(conn, caller.organisation_id, _id(venue, "venue"))
            )
            place(conn, caller, row, put, at_ms, hub.clock(), replaces=replaces == "yes")
    except DeviceError as error:
        field = {"at": "replaces"}.get(error.field, error.field)
        return _device(caller, hub, device, values, {field: error})
    return done(f"/devices/{device}", Words("设备的位置已登记，刷卡记录已重新计算。"))


NOWHERE: Final = "none"


# --- Venues -----------------------------------------------------------------------------------


@router.get("/venues")
def venue_list(caller: Looking, hub: Hub) -> Response:
    """The venues of the sub-tree."""
    with reading(hub.engine) as conn:
        found = venues.venues(conn, caller.organisation_id, hub.clock())
    return page("venues.html", caller=caller, section="devices", venues=found)


@router.get("/venues/new")
def new_venue_page(caller: Changing, hub: Hub) -> Response:
    """The form that adds a venue."""
    values = {"code": "", "name": "", "organisation": caller.organisation_public_id}
    return _venue(caller, hub, None, values, {})


@router.post("/venues/new")
def add_venue(
    caller: Changing, hub: Hub, code: Text = "", name: Text = "", organisation: Text = ""
) -> Response:
    """Add it."""
    try:
        with hub.engine.begin() as conn:
            owner = _id(organisation, "organisation")
            make_venue(conn, caller, code, name, owner, hub.clock())
    except (VenueError, DeviceError) as error:
        values = {"code": code, "name": name, "organisation": organisation}
        return _venue(caller, hub, None, values, {error.field: error})
    return done("/venues", Words("会场已添加。"))


@router.get("/venues/{venue}")
def one_venue(caller: Changing, hub: Hub, venue: UUID) -> Response:
    """The form that changes a venue."""
    with reading(hub.engine) as conn:
        row = find_venue(conn, caller.organisation_id, venue)
        owner = next(
            each.organisation.public_id
            for each in venues.venues(conn, caller.organisation_id, hub.clock())
            if each.public_id == str(row.public_id)
        )
    values = {"code": row.code, "name": row.name, "organisation": owner}
    return _venue(caller, hub, str(venue), values, {})


@router.post("/venues/{venue}")
def change(
    caller: Changing, hub: Hub, venue: UUID, name: Text = "", organisation: Text = ""
) -> Response:
    """Change it."""
    try:
        with hub.engine.begin() as conn:
            row = find_venue(conn, caller.organisation_id, venue)
            owner = _id(organisation, "organisation")
            change_venue(conn, caller, venue, name, owner, hub.clock())
    except (VenueError, DeviceError) as error:
        values = {"code": row.code, "name": name, "organisation": organisation}
        return _venue(caller, hub, str(venue), values, {error.field: error})
    return done("/venues", Words("会场已保存。"))


# --- Helpers ----------------------------------------------------------------------------------


def view(device: fleet.Device, hub: Context, *, is_cut_off: bool) -> DeviceView:
    """A device for a page; `is_cut_off`: the hub itself takes in nothing now."""

    def at(at_ms: int | None) -> str | None:
        return None if at_ms is None else moment(at_ms, hub.zone)

    return DeviceView(
        device.public_id,
        device.name,
        _chip(device, is_cut_off=is_cut_off),
        None if device.venue is None else device.venue.name,
        at(device.placed_ms),
        None
        if device.last_contact_ms is None
        else near(device.last_contact_ms, hub.clock(), hub.zone),
        device.unreceipted,
        _clock(device.clock),
        tuple((each.name, each.is_up) for each in device.readers),
        device.software,
        at(device.through_ms),
        None
        if device.rehearsed is None
        else Words(
            "{at}，收到{n}次模拟刷卡，不计入考勤",
            at=near(device.rehearsed.at_ms, hub.clock(), hub.zone),
            n=device.rehearsed.taps,
        ),
        device.troubles,
        device.status is DeviceStatus.PENDING,
        at(device.code_expires_ms),
        tuple(_left(device.leaving, hub.zone)),
    )


def _left(leaving: fleet.Leaving, zone: ZoneInfo) -> Iterator[tuple[Words, str]]:
    for label, at_ms in (
        (Words("通知退役"), leaving.retiring_ms),
        (Words("退役时间"), leaving.left_ms),
        (Words("失密时间"), leaving.compromised_ms),
    ):
        if at_ms is not None:
            yield label, moment(at_ms, zone)
    if (waits := leaving.waiting) is not None:
        span = (moment(each, zone) for each in (waits.from_ms, waits.to_ms))
        yield Words("等待核准的记录收到于"), "—".join(span)


ACTS: Final[Mapping[str, tuple[Words, Right]]] = {
    "rename": (Words("改名称"), Right.DEVICES),
    "renew": (Words("重新登记"), Right.DEVICES),
    "settle": (Words("处理分叉"), Right.DEVICES),
    "admit": (Words("核准记录"), Right.TRUST),
    "retire": (Words("退役"), Right.DEVICES),
    "gone": (Words("遗失退役"), Right.DEVICES),
    "compromise": (Words("标记失密"), Right.TRUST),
}
"""What may be done with a device beside placing it; each has a page that says what follows."""


def acts_of(device: fleet.Device, caller: Caller) -> list[tuple[str, Words]]:
    """Which of `ACTS` make sense for a device as it is, and are the caller's to do."""
    status, leaving = device.status, device.leaving
    is_there = status is not DeviceStatus.PENDING
    fitting = {
        "rename": True,
        "renew": is_there and device.venue is not None,
        "settle": leaving.is_forked,
        "admit": leaving.waiting is not None,
        "retire": status is DeviceStatus.ACTIVE and leaving.retiring_ms is None,
        "gone": status is DeviceStatus.ACTIVE,
        "compromise": is_there,
    }
    return [
        (act, words) for act, (words, right) in ACTS.items() if fitting[act] and caller.may(right)
    ]


def moment(at_ms: int, zone: ZoneInfo) -> str:
    """A local time to the minute; of a time that no calendar holds a dash."""
    try:
        return f"{datetime.fromtimestamp(at_ms / 1000, zone):%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError):
        return "—"


def _chip(device: fleet.Device, *, is_cut_off: bool) -> Chip:
    if device.status is not DeviceStatus.ACTIVE:
        style = "info" if device.status is DeviceStatus.PENDING else "stop"
        return Chip(style, "open" if style == "info" else "stop", device.status.zh)
    if device.troubles:
        return Chip("warn", "alert", Words("要处理"))
    if is_cut_off:
        return Chip("open", "ask", Words("现在不知道"))
    return Chip("ok", "ok", Words("正常"))


def _clock(clock: fleet.Clock | None) -> Words:
    if clock is None:
        return Words("还不知道")
    if not clock.is_trusted:
        return Words("未校准")
    seconds = round(abs(clock.offset_ms) / 1000)
    # What a report takes on its way looks like a slow clock.
    if seconds < 2 or -CLOCKS_APART_MS <= clock.offset_ms < 0:
        return Words("已校准")
    if clock.offset_ms > 0:
        return Words("已校准，比服务器快{n}秒", n=seconds)
    return Words("已校准，比服务器慢{n}秒", n=seconds)


def _id(text: str, field: str) -> UUID:
    """A public id from a list; DeviceError where nothing was chosen, 404 for nonsense."""
    if not text:
        raise DeviceError(field, Words("请选择一项。"))
    try:
        return UUID(text)
    except ValueError:
        raise NotFoundError from None


def _moment(day: str, time: str, hub: Context) -> int:
    at_ms = moment_from(day, time, hub.zone)
    if at_ms is None:
        raise DeviceError("day", NOT_A_TIME)
    return at_ms


def _venue_choices(conn: Connection, caller: Caller, hub: Context) -> list[tuple[str, str]]:
    found = venues.venues(conn, caller.organisation_id, hub.clock())
    return [
        ("", t("请选择")),
        *((v.public_id, f"{v.name}（{v.organisation.name}）") for v in found),
    ]


def _new(
    caller: Caller, hub: Context, values: Mapping[str, str], errors: Mapping[str, object]
) -> Response:
    with reading(hub.engine) as conn:
        choices = _venue_choices(conn, caller, hub)
    return page(
        "device-new.html",
        422 if errors else 200,
        caller=caller,
        section="devices",
        values=values,
        errors=errors,
        venues=choices,
        broker=_lonely_broker(hub),
    )


def _lonely_broker(hub: Context) -> str:
    """The broker's address that devices will be told, where only this machine reaches it."""
    broker = "" if hub.joining is None else hub.joining.broker
    return broker if is_this_machine(broker) else ""


def _device(
    caller: Caller,
    hub: Context,
    device: UUID,
    values: Mapping[str, str],
    errors: Mapping[str, object],
) -> Response:
    is_cut_off = cut_off(hub)
    with reading(hub.engine) as conn:
        row = find_device(conn, caller.organisation_id, device)
        [found] = fleet.devices(
            conn, caller.organisation_id, hub.clock(), hub.zone, row.id, is_cut_off=is_cut_off
        )
        placed = fleet.history(conn, caller.organisation_id, row.id)
        choices = _venue_choices(conn, caller, hub)
    return page(
        "device.html",
        422 if errors else 200,
        caller=caller,
        section="devices",
        device=view(found, hub, is_cut_off=is_cut_off),
        is_cut_off=is_cut_off,
        broker=_lonely_broker(hub),
        placed=[
            (
                each.venue,
                moment(each.from_ms, hub.zone),
                None if each.to_ms is None else moment(each.to_ms, hub.zone),
            )
            for each in placed
        ],
        venues=[*choices, (NOWHERE, t("不在任何会场（收起来了）"))],
        values=values,
        errors=errors,
        acts=acts_of(found, caller),
    )


def code_page(request: Request, caller: Caller, hub: Context, added: Added) -> Response:
    """The one page that shows a code."""
    url = str(request.base_url).rstrip("/")
    command = (
        f"sudo -u shuaka-edge /opt/shuaka/bin/shuaka-edge enrol --hub {url} --code {added.code}"
    )
    broker = "" if hub.joining is None else hub.joining.broker
    return page(
        "device-code.html",
        caller=caller,
        section="devices",
        name=added.name,
        public_id=str(added.public_id),
        code=str(added.code),
        command=command,
        picture=segno.make(command, error="m").svg_data_uri(scale=5, border=4),
        until=moment(added.expires_ms, hub.zone),
        lonely=is_this_machine(broker),
        broker=broker,
        url=url,
        is_url_lonely=is_this_machine(url),
    )


def is_this_machine(url: str) -> bool:
    """Whether an address is one that only the machine itself can reach."""
    host = url.partition("//")[2].rpartition("@")[2]
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _venue(
    caller: Caller,
    hub: Context,
    venue: str | None,
    values: Mapping[str, Any],
    errors: Mapping[str, object],
) -> Response:
    with reading(hub.engine) as conn:
        owners = venues.organisations(conn, caller.organisation_id)
    return page(
        "venue.html",
        422 if errors else 200,
        caller=caller,
        section="devices",
        venue=venue,
        values=values,
        errors=errors,
        owners=[(each.public_id, each.name) for each in owners],
    )
