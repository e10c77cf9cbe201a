"""Which devices may still hold entries that only a retired key of the hub opens."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, select

from hub.domain.terms import DeviceStatus
from hub.keys import Keyring
from hub.store import schema as s
from protocol.journal import EpochHeader

_MAY_SEND: Final = (DeviceStatus.ACTIVE, DeviceStatus.COMPROMISED)


def holders(conn: Connection, keyring: Keyring) -> Mapping[bytes, list[str]]:
    """By key id, names of the devices that may hold entries under that key or an older one.

    A device is past a key once it says, in an epoch under a newer one, that the hub has everything.
    One that has said nothing yet is past none.
    """
    order = [key.public_id for key in keyring.open]
    d = s.devices.c
    found: dict[bytes, list[str]] = {key: [] for key in order}
    for device in conn.execute(
        select(d.id, d.name).where(d.status.in_(_MAY_SEND)).order_by(d.name)
    ):
        at = _under(conn, device.id)
        newest = order.index(at) if at in order else len(order)
        for index, key in enumerate(order):
            if index <= newest:
                found[key].append(device.name)
    return found


def _under(conn: Connection, device_id: int) -> bytes | None:
    """The key of the epoch in which a device said last that all is received; None: it did not."""
    h, e = s.heartbeats.c, s.epochs.c
    last = conn.execute(
        select(h.unreceipted, e.header)
        .join(s.epochs, (e.device_id == h.device_id) & (e.epoch == h.epoch))
        .where(h.device_id == device_id)
        .order_by(h.received_ms.desc(), h.id.desc())
        .limit(1)
    ).one_or_none()
    if last is None or last.unreceipted != 0:
        return None
    return EpochHeader.decode(last.header).hub_key
