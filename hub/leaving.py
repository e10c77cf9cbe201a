"""How devices leave the fleet, and what becomes of what they recorded.

Promises: each act is one entry of the audit log and has its reason, all in the caller's
transaction; what is refused has changed nothing; what was recorded is never deleted. Doing the same
twice does it once. A device is told by `hub.ingest.orders`, what is admitted is taken in by
`hub.ingest.landing`: here it is only decided.

`conn` is always in a write transaction; whether `who` may is the caller's to ask.
"""

from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    exists,
    func,
    insert,
    not_,
    or_,
    select,
    update,
)

from hub import audit
from hub.derive import lock, rederive_devices
from hub.devices import MAX_NAME_CHARS, Added, DeviceError, Who, checked_name, with_code
from hub.domain.completeness import Obstacle
from hub.domain.terms import DeviceStatus, OtherHistory
from hub.domain.words import Words
from hub.store import schema as s
from hub.store.queries import device_completeness
from hub.store.scope import NotFoundError

MAX_REASON_CHARS: Final = 200


def device_named(conn: Connection, name: str) -> Row[Any]:
    """The row of a device, by its name. Raises DeviceError."""
    row = conn.execute(select(s.devices).where(s.devices.c.name == name)).one_or_none()
    if row is None:
        raise DeviceError("device", Words("没有叫“{name}”的设备。", name=name))
    return row


def retire(conn: Connection, who: Who, device: UUID, reason: str, now_ms: int) -> None:
    """Tells it to record nothing more and to hand over what it holds; then it has left.

    Raises DeviceError.
    """
    row, reason = _begin(conn, device, reason)
    if row.status != DeviceStatus.ACTIVE:
        raise _wrong_status(row)
    if row.retiring_ms is not None:
        return
    _update(conn, row, retiring_ms=now_ms)
    _record(conn, who, "device.retire", row, now_ms, reason=reason)


def give_up(conn: Connection, who: Who, device: UUID, reason: str, now_ms: int) -> None:
    """It is lost or broken: it has left now, and may still hold what nobody will see.

    Should it come back, it is told to retire, and hands over what it holds. Raises DeviceError.
    """
    row, reason = _begin(conn, device, reason)
    if row.status == DeviceStatus.RETIRED and row.closing_epoch is None:
        return
    if row.status != DeviceStatus.ACTIVE:
        raise _wrong_status(row)
    _update(conn, row, status=DeviceStatus.RETIRED, left_ms=now_ms)
    _record(conn, who, "device.gone", row, now_ms, reason=reason)
    _tell(conn, row.id)


def compromise(
    conn: Connection, who: Who, device: UUID, since_ms: int, reason: str, now_ms: int
) -> None:
    """What came in from it since then is believed no more, and nothing that comes later.

    Said again, with an earlier time. Raises DeviceError.
    """
    row, reason = _begin(conn, device, reason)
    if row.status == DeviceStatus.PENDING:
        raise _wrong_status(row)
    if since_ms > now_ms:
        raise DeviceError("since", Words("失密的时间不能在将来。"))
    if row.status == DeviceStatus.COMPROMISED:
        if since_ms == row.compromised_ms:
            return
        if since_ms > row.compromised_ms:
            raise DeviceError(
                "since", Words("失密的时间只能往前改；以后的记录可信的，请逐段核准。")
            )
    _update(conn, row, status=DeviceStatus.COMPROMISED, compromised_ms=since_ms)
    b, h, a = s.batches.c, s.heartbeats.c, s.admissions.c
    conn.execute(
        update(s.batches)
        .where(
            b.epoch_id.in_(select(s.epochs.c.id).where(s.epochs.c.device_id == row.id)),
            b.received_ms >= since_ms,
            ~exists().where(
                a.device_id == row.id, a.from_ms <= b.received_ms, b.received_ms < a.to_ms
            ),
        )
        .values(held=True)
    )
    # Nobody answers for what it says of its own record: only taps are ever admitted.
    conn.execute(
        update(s.heartbeats)
        .where(h.device_id == row.id, h.received_ms >= since_ms)
        .values(held=True)
    )
    _record(conn, who, "device.compromise", row, now_ms, reason=reason, since_ms=since_ms)
    rederive_devices(conn, [row.id])
    _tell(conn, row.id)


def admit(
    conn: Connection, who: Who, device: UUID, from_ms: int, to_ms: int, reason: str, now_ms: int
) -> int:
    """What came in from `from_ms` until before `to_ms` counts; gives how many entries that are.

    Raises DeviceError, also where nothing waits there.
    """
    row, reason = _begin(conn, device, reason)
    if row.status not in {DeviceStatus.COMPROMISED, DeviceStatus.RETIRED}:
        raise _wrong_status(row)
    to_ms = min(to_ms, now_ms)  # nobody answers for what is yet to come
    if not from_ms < to_ms:
        raise DeviceError("to", Words("请填写一段已经过去的时间，开始在前，结束在后。"))
    h, b, a = s.held_messages.c, s.batches.c, s.admissions.c
    in_span = h.received_ms >= from_ms, h.received_ms < to_ms
    conn.execute(
        update(s.held_messages)
        .where(h.device_id == row.id, *in_span, h.problem.is_not(None))
        .values(problem=None)
    )
    arrived = conn.scalar(
        select(func.sum(h.entries)).where(
            h.device_id == row.id,
            *in_span,
            ~exists().where(
                a.device_id == row.id, a.from_ms <= h.received_ms, h.received_ms < a.to_ms
            ),
        )
    )
    was_counted = (
        b.epoch_id.in_(select(s.epochs.c.id).where(s.epochs.c.device_id == row.id)),
        b.received_ms >= from_ms,
        b.received_ms < to_ms,
        b.held,
    )
    counted = conn.scalar(select(func.sum(b.last - b.first + 1)).where(*was_counted))
    if not arrived and not counted:
        raise DeviceError("from", Words("这段时间没有等待核准的记录。"))
    conn.execute(
        insert(s.admissions).values(
            device_id=row.id,
            from_ms=from_ms,
            to_ms=to_ms,
            reason=reason,
            author=who.name,
            made_ms=now_ms,
        )
    )
    conn.execute(update(s.batches).where(*was_counted).values(held=False))
    number = int(arrived or 0) + int(counted or 0)
    _record(
        conn,
        who,
        "device.admit",
        row,
        now_ms,
        reason=reason,
        from_ms=from_ms,
        to_ms=to_ms,
        number=number,
    )
    rederive_devices(conn, [row.id])
    _tell(conn, row.id)
    return number


def settle(
    conn: Connection, who: Who, device: UUID, other: OtherHistory, reason: str, now_ms: int
) -> None:
    """The record had forked, and somebody has looked into it; from now on it is one again.

    All taps count, as before. Raises DeviceError.
    """
    row, reason = _begin(conn, device, reason)
    if row.status == DeviceStatus.PENDING:
        raise _wrong_status(row)
    if device_completeness(conn, [row.id])[row.id].obstacle is not Obstacle.FORKED:
        raise DeviceError("device", Words("这台设备的记录没有分叉，或者已经处理过。"))
    if other is OtherHistory.IN_HAND and (missing := _missing(conn, row.id)):
        raise DeviceError(
            "other",
            Words(
                "还有{n}段开机记录没有收全，不能说另一份记录已全部收到；找不回来的，请选“已经丢失”。",
                n=missing,
            ),
        )
    h, e = s.heartbeats.c, s.epochs.c
    epoch = conn.scalar(
        select(h.epoch)
        .join(s.epochs, (e.device_id == h.device_id) & (e.epoch == h.epoch))
        .where(h.device_id == row.id, ~h.held)
        .order_by(h.received_ms.desc(), h.boottime_ms.desc(), h.head_seq.desc(), h.id.desc())
        .limit(1)
    )
    last = conn.scalar(select(func.max(e.id)).where(e.device_id == row.id, ~e.rehearsal))
    conn.execute(
        insert(s.settlements).values(
            device_id=row.id,
            other=other.value,
            last_epoch_id=last,
            epoch=epoch,
            reason=reason,
            author=who.name,
            made_ms=now_ms,
        )
    )
    _record(conn, who, "device.settle", row, now_ms, reason=reason, other=other.value)
    _tell(conn, row.id)


def rename(conn: Connection, who: Who, device: UUID, name: str, reason: str, now_ms: int) -> None:
    """Another name from now on; it is the same device. Raises DeviceError."""
    row, reason = _begin(conn, device, reason)
    name = checked_name(name)
    if name == row.name:
        return
    _must_be_free(conn, name)
    _update(conn, row, name=name)
    _record(conn, who, "device.rename", row, now_ms, reason=reason, was=row.name, name=name)
    _tell(conn, row.id)


def renew(
    conn: Connection, who: Who, fingerprint: bytes, device: UUID, reason: str, now_ms: int
) -> Added:
    """Its storage died, or it is believed no more: enrolled again, under its name, as another.

    What it recorded stays with whom it was, who has left and goes by another name. Raises
    DeviceError.
    """
    row, reason = _begin(conn, device, reason)
    if row.status == DeviceStatus.PENDING:
        raise _wrong_status(row)
    p = s.placements.c
    placed = conn.execute(
        select(s.placements).where(p.device_id == row.id).order_by(p.valid_from_ms.desc()).limit(1)
    ).one_or_none()
    if placed is None or placed.valid_to_ms is not None or placed.valid_from_ms > now_ms:
        raise DeviceError("device", Words("这台设备现在不在任何会场，请先登记它的位置。"))
    if row.status == DeviceStatus.ACTIVE:
        give_up(conn, who, device, reason, now_ms)
    _update(conn, row, name=_old_name(conn, row.name))
    conn.execute(
        update(s.placements)
        .where(p.id == placed.id)
        .values(valid_to_ms=max(now_ms, placed.valid_from_ms + 1))
    )
    public_id = s.new_public_id()
    device_id = conn.execute(
        insert(s.devices)
        .values(public_id=public_id, name=row.name, status=DeviceStatus.PENDING)
        .returning(s.devices.c.id)
    ).scalar_one()
    conn.execute(
        insert(s.placements).values(
            device_id=device_id, venue_id=placed.venue_id, valid_from_ms=now_ms
        )
    )
    _record(conn, who, "device.renew", row, now_ms, reason=reason, name=row.name, new=public_id)
    rederive_devices(conn, [row.id])
    _tell(conn, row.id)
    venue = conn.execute(select(s.venues).where(s.venues.c.id == placed.venue_id)).one()
    return with_code(conn, who, fingerprint, (device_id, public_id, row.name), venue, now_ms)


# --- Helpers --------------------------------------------------------------------------------------


def _begin(conn: Connection, device: UUID, reason: str) -> tuple[Row[Any], str]:
    """The device's row, kept from changing, and the reason, which must be one."""
    reason = " ".join(reason.split())
    if not reason or len(reason) > MAX_REASON_CHARS or not reason.isprintable():
        raise DeviceError("reason", Words("请写明原因，不超过{n}个字。", n=MAX_REASON_CHARS))
    lock(conn)
    row = conn.execute(
        select(s.devices).where(s.devices.c.public_id == device).with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFoundError
    return row, reason


def _wrong_status(device: Row[Any]) -> DeviceError:
    return DeviceError(
        "device",
        Words(
            "设备“{name}”{status}，不能这样办。",
            name=device.name,
            status=DeviceStatus(device.status),
        ),
    )


def _update(conn: Connection, device: Row[Any], **values: Any) -> None:
    conn.execute(update(s.devices).where(s.devices.c.id == device.id).values(**values))


def _record(
    conn: Connection, who: Who, what: str, device: Row[Any], now_ms: int, **details: Any
) -> None:
    p, v = s.placements.c, s.venues.c
    organisation = conn.scalar(
        select(v.organisation_id)
        .join(s.placements, p.venue_id == v.id)
        .where(p.device_id == device.id)
        .order_by(p.valid_from_ms.desc())
        .limit(1)
    )
    audit.record(conn, who, what, organisation, "device", device.public_id, now_ms, **details)


def _tell(conn: Connection, device_id: int) -> None:
    """What is known of its meetings has changed, also where nobody tapped."""
    conn.execute(
        update(s.meetings)
        .where(
            s.meetings.c.venue_id.in_(
                select(s.placements.c.venue_id).where(s.placements.c.device_id == device_id)
            )
        )
        .values(change=s.meetings.c.change + 1)
    )


def _missing(conn: Connection, device_id: int) -> int:
    """How many epochs of a device the hub has heard of, and not in full."""
    e, h, i = s.epochs.c, s.heartbeats.c, s.islands.c
    later = s.epochs.alias("later").c
    told = select(func.max(h.head_seq)).where(
        h.device_id == e.device_id, h.epoch == e.epoch, ~h.held
    )
    followed = select(func.max(later.parent_seq)).where(
        later.device_id == e.device_id, later.parent_epoch == e.epoch, not_(later.rehearsal)
    )
    not_whole = or_(
        func.coalesce(told.scalar_subquery(), 0) > e.through,
        func.coalesce(followed.scalar_subquery(), 0) > e.through,
        exists().where(i.epoch_id == e.id),
        _has_no_parent(),
    )
    count: int = conn.execute(
        select(func.count())
        .select_from(s.epochs)
        .where(e.device_id == device_id, ~e.rehearsal, not_whole)
    ).scalar_one()
    return count


def _has_no_parent() -> ColumnElement[bool]:
    e, before = s.epochs.c, s.epochs.alias("before").c
    return e.parent_epoch.is_not(None) & ~exists().where(
        before.device_id == e.device_id, before.epoch == e.parent_epoch
    )


def _must_be_free(conn: Connection, name: str) -> None:
    taken = conn.execute(select(s.devices.c.status).where(s.devices.c.name == name)).one_or_none()
    if taken is not None:
        raise DeviceError(
            "name",
            Words(
                "已经有叫“{name}”的设备（{status}），请换一个名称。",
                name=name,
                status=DeviceStatus(taken.status),
            ),
        )


def _old_name(conn: Connection, name: str) -> str:
    """What a device is called whose name goes to another."""
    taken = set(conn.scalars(select(s.devices.c.name)))
    number = 1
    while True:
        end = str(Words("（旧{n}）", n=number))
        found = name[: MAX_NAME_CHARS - len(end)] + end
        if found not in taken:
            return found
        number += 1
