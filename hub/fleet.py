"""How devices are, in words that somebody understands who stands before one.

Promises: of a device everything is from its own signed statements and from the registers; what is
wrong comes first the gravest. Reads only. Where a device stands or stood, at venues outside of the
scope, is not told.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Connection, Row, and_, func, select, union_all

from hub.domain.attendance import moment
from hub.domain.completeness import CLOCKS_APART_MS, Completeness, Obstacle
from hub.domain.terms import DeviceStatus
from hub.domain.words import Words
from hub.store import schema as s
from hub.store.expected import holds
from hub.store.queries import Named, device_completeness
from hub.store.scope import Scope, sees_device, within

SILENT_MS: Final = 100_000
"""A device that has said nothing for so long is silent: it speaks every 30 s."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A card reader, as the device names it."""

    name: str
    is_up: bool


@dataclass(frozen=True, slots=True)
class Clock:
    """A device's clock, as of its newest statement."""

    is_trusted: bool
    offset_ms: int
    """How far it is ahead of the hub's; of a clock that is not trusted it says little."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A device's last rehearsal (演练), which counts for nothing."""

    at_ms: int
    """When the last of it came in."""
    taps: int
    """How many taps of virtual cards came."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What came in from a device that has left or is compromised, and that nobody has admitted."""

    entries: int
    from_ms: int
    """When the first of it came in, and the last."""
    to_ms: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """How a device leaves the fleet, or left it."""

    retiring_ms: int | None = None
    """When it was told to retire."""
    left_ms: int | None = None
    is_gone: bool = False
    """It has left without a last word: it may hold what the hub has not."""
    compromised_ms: int | None = None
    waiting: Waiting | None = None
    is_forked: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    """A device and how it is; but for `rehearsed`, nothing of a rehearsal."""

    id: int
    public_id: str
    name: str
    status: DeviceStatus
    venue: Named | None
    """Where it stands now; None: nowhere."""
    placed_ms: int | None
    """Since when."""
    code_expires_ms: int | None
    """Until when its enrolment code can be used; None: there is none."""
    last_contact_ms: int | None
    unreceipted: int | None
    """Entries that it has not sent, or of which it does not know that they came; None: not said."""
    clock: Clock | None
    readers: tuple[Reader, ...]
    software: str | None
    through_ms: int | None
    """Its record is complete up to then."""
    rehearsed: Rehearsed | None
    leaving: "Leaving"
    troubles: tuple[Words, ...]
    """What is wrong, a sentence each."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a device stood."""

    venue: str | None
    """None: at a venue outside of the scope."""
    from_ms: int
    to_ms: int | None


def devices(
    conn: Connection,
    scope: Scope,
    now_ms: int,
    zone: ZoneInfo,
    device_id: int | None = None,
    *,
    is_cut_off: bool = False,
) -> list[Device]:
    """The devices of the scope by name, or the one of them that has this id.

    `is_cut_off`: the hub itself takes in nothing now, so that no device is blamed for silence.
    """
    d, p, v = s.devices.c, s.placements.c, s.venues.c
    rows = conn.execute(
        select(
            d.id,
            d.public_id,
            d.name,
            d.status,
            d.retiring_ms,
            d.left_ms,
            d.closing_epoch,
            d.compromised_ms,
            p.valid_from_ms,
            v.public_id.label("venue_public_id"),
            v.code.label("venue_code"),
            v.name.label("venue_name"),
        )
        .outerjoin(s.placements, and_(p.device_id == d.id, holds(s.placements, now_ms)))
        .outerjoin(s.venues, v.id == p.venue_id)
        .where(sees_device(scope), *([] if device_id is None else [d.id == device_id]))
        .order_by(d.name)
    ).all()
    ids = [row.id for row in rows]
    known, heard = device_completeness(conn, ids), _heard(conn, d.id.in_(ids))
    codes, software = _codes(conn, ids, now_ms), _software(conn, ids)
    rehearsed = _rehearsed(conn, ids)
    waiting = _waiting(conn, ids)
    return [
        _device(
            row,
            known[row.id],
            waiting.get(row.id),
            heard.get(row.id),
            codes.get(row.id),
            software.get(row.id),
            rehearsed.get(row.id),
            now_ms,
            zone,
            is_cut_off=is_cut_off,
        )
        for row in rows
    ]


def history(conn: Connection, scope: Scope, device_id: int) -> list[Placed]:
    """Where a device stood, the latest first."""
    p, v = s.placements.c, s.venues.c
    return [
        Placed(row.name if row.is_ours else None, row.valid_from_ms, row.valid_to_ms)
        for row in conn.execute(
            select(
                v.name,
                p.valid_from_ms,
                p.valid_to_ms,
                within(scope, v.organisation_id).label("is_ours"),
            )
            .join(s.venues, v.id == p.venue_id)
            .where(p.device_id == device_id)
            .order_by(p.valid_from_ms.desc())
        )
    ]


def _device(
    row: Any,
    known: Completeness,
    waiting: Waiting | None,
    heard: Row[Any] | None,
    code_expires_ms: int | None,
    software: str | None,
    rehearsed: Rehearsed | None,
    now_ms: int,
    zone: ZoneInfo,
    *,
    is_cut_off: bool,
) -> Device:
    clock: Clock | None = None
    readers: tuple[Reader, ...] = ()
    unreceipted = None
    if heard is not None:
        clock = Clock(heard.trusted, heard.wall_ms - heard.received_ms)
        readers = _readers(heard.readers)
        unreceipted = heard.unreceipted
    found = Device(
        row.id,
        str(row.public_id),
        row.name,
        DeviceStatus(row.status),
        None
        if row.valid_from_ms is None
        else Named(str(row.venue_public_id), row.venue_code, row.venue_name),
        row.valid_from_ms,
        code_expires_ms,
        known.last_contact_ms,
        unreceipted,
        clock,
        readers,
        software,
        known.through_ms,
        rehearsed,
        Leaving(
            row.retiring_ms,
            row.left_ms,
            row.status == DeviceStatus.RETIRED and row.closing_epoch is None,
            row.compromised_ms,
            waiting,
            known.obstacle is Obstacle.FORKED,
        ),
        (),
    )
    troubles = _troubles(found, known, now_ms, zone, is_cut_off=is_cut_off)
    return replace(found, troubles=tuple(troubles))


def _troubles(
    device: Device, known: Completeness, now_ms: int, zone: ZoneInfo, *, is_cut_off: bool
) -> Iterator[Words]:
    if device.status is DeviceStatus.PENDING:
        if device.code_expires_ms is None:
            yield Words("还没有登记，登记码已用完或过期：请重新生成登记码")
        else:
            yield Words("等待登记：请在设备上输入登记码")
        return
    if device.leaving.waiting is not None:
        yield Words("有{n}条记录等待核准：核准后才计入考勤", n=device.leaving.waiting.entries)
    if device.status is not DeviceStatus.ACTIVE:
        return
    if device.leaving.retiring_ms is not None:
        yield Words("正在退役：等待设备交清记录，请先不要断电断网")
    if known.obstacle is Obstacle.FORKED:
        yield from FORKED
    if device.venue is None:
        yield Words("没有登记在任何会场：刷卡算不到会议里")
    if device.last_contact_ms is None:
        if is_cut_off:
            return
        if device.rehearsed is None:
            yield Words("登记后还没有联系过：请检查设备的电源和网络")
        else:
            yield Words("只演练过，还没有正式运行：请在设备上启动签到服务")
        return
    if not is_cut_off and now_ms - device.last_contact_ms > SILENT_MS:
        yield Words(
            "设备静默：{at}以后没有消息，请检查电源和网络",
            at=moment(device.last_contact_ms, now_ms, zone),
        )
    if not device.readers:
        yield Words("读卡器未连接：请插上读卡器")
    for each in device.readers:
        if not each.is_up:
            yield Words("读卡器“{name}”未连接：请检查接线", name=each.name)
    clock = device.clock
    if clock is not None and not clock.is_trusted:
        yield Words("时钟未校准：刷卡先记下，时间以后再定；请检查网络或硬件时钟")
    elif clock is not None and abs(clock.offset_ms) > CLOCKS_APART_MS:
        minutes = -(-abs(clock.offset_ms) // 60_000)
        if clock.offset_ms > 0:
            yield Words("时钟快了约{n}分钟：请检查设备的时间", n=minutes)
        else:
            yield Words("时钟慢了约{n}分钟：请检查设备的时间", n=minutes)
    if device.unreceipted:
        yield Words("还有{n}条未上传", n=device.unreceipted)
    elif known.obstacle in {Obstacle.MISSING, Obstacle.MISSING_EARLIER}:
        yield Words("{why}", why=known.obstacle)
    if holes := sum(not each.is_forked for each in known.holes):
        yield Words("有{n}段记录已损坏，读不出来：建议更换存储卡", n=holes)


FORKED: Final = (
    Words("记录出现分叉：存储卡可能被复制或换过。请不要再换卡，用过的卡都留好"),
    Words("请查清另一张卡的去向，再办理“处理分叉”；处理前会议会一直待定"),
)


def _readers(said: str) -> tuple[Reader, ...]:
    """As ingest wrote them; what cannot be read is no reader."""
    try:
        return tuple(Reader(str(each["name"]), bool(each["up"])) for each in json.loads(said))
    except (ValueError, TypeError, KeyError):
        return ()


def _heard(conn: Connection, which: ColumnElement[bool]) -> Mapping[int, Row[Any]]:
    """By device: its newest heartbeat."""
    h = s.heartbeats.c
    newest = (
        select(h.id)
        .where(h.device_id == s.devices.c.id)
        .order_by(h.received_ms.desc(), h.boottime_ms.desc(), h.head_seq.desc(), h.id.desc())
        .limit(1)
        .correlate(s.devices)
        .scalar_subquery()
    )
    return {
        row.device_id: row
        for row in conn.execute(
            select(s.heartbeats).where(h.id.in_(select(newest).select_from(s.devices).where(which)))
        )
    }


def _codes(conn: Connection, ids: Sequence[int], now_ms: int) -> dict[int, int]:
    c = s.enrolment_codes.c
    return {
        row.device_id: row.expires_ms
        for row in conn.execute(
            select(c.device_id, func.max(c.expires_ms).label("expires_ms"))
            .where(c.device_id.in_(ids), c.used_at_ms.is_(None), c.expires_ms > now_ms)
            .group_by(c.device_id)
        )
    }


def _software(conn: Connection, ids: Sequence[int]) -> dict[int, str]:
    """By device: what it ran when it was last started, as far as the hub has heard."""
    p = s.epochs.c
    last = select(func.max(p.id)).where(p.device_id.in_(ids), ~p.rehearsal).group_by(p.device_id)
    return {
        row.device_id: row.software
        for row in conn.execute(select(p.device_id, p.software).where(p.id.in_(last)))
    }


def _waiting(conn: Connection, ids: Sequence[int]) -> dict[int, Waiting]:
    """By device: what waits for somebody to admit it."""
    h, b, e = s.held_messages.c, s.batches.c, s.epochs.c
    every = union_all(
        select(h.device_id, h.received_ms, h.entries).where(h.device_id.in_(ids)),
        select(e.device_id, b.received_ms, b.last - b.first + 1)
        .join(s.epochs, e.id == b.epoch_id)
        .where(
            b.held,
            e.device_id.in_(
                select(s.devices.c.id).where(
                    s.devices.c.id.in_(ids), s.devices.c.compromised_ms.is_not(None)
                )
            ),
        ),
    ).subquery("every")
    c = every.c
    return {
        row.device_id: Waiting(int(row.entries), row.from_ms, row.to_ms)
        for row in conn.execute(
            select(
                c.device_id,
                func.sum(c.entries).label("entries"),
                func.min(c.received_ms).label("from_ms"),
                func.max(c.received_ms).label("to_ms"),
            ).group_by(c.device_id)
        )
    }


def _rehearsed(conn: Connection, ids: Sequence[int]) -> dict[int, Rehearsed]:
    """By device: its last rehearsal, the epochs of which go on from each other."""
    p, b = s.epochs.c, s.batches.c
    received = select(func.max(b.received_ms)).where(b.epoch_id == p.id).scalar_subquery()
    known: dict[int, dict[bytes, Any]] = {}
    for row in conn.execute(
        select(p.device_id, p.epoch, p.parent_epoch, p.rehearsed, received.label("received_ms"))
        .where(p.device_id.in_(ids), p.rehearsal)
        .order_by(p.id)
    ):
        known.setdefault(row.device_id, {})[row.epoch] = row
    found = {}
    for device_id, epochs in known.items():
        line: list[Any] = []
        # They need not have come in the order in which they were opened; nor need a header be true.
        followed = {row.parent_epoch for row in epochs.values()}
        ends = [row for epoch, row in epochs.items() if epoch not in followed]
        each = (ends or list(epochs.values()))[-1]
        while each is not None and each not in line:
            line.append(each)
            each = epochs.get(each.parent_epoch)
        times = [row.received_ms for row in line if row.received_ms is not None]
        if times:
            found[device_id] = Rehearsed(max(times), sum(row.rehearsed for row in line))
    return found
