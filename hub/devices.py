"""Devices: how they join with one-time codes, and where they are placed.

The hub stores the SHA-256 of a code's secret and nothing that would let a reader of the database
enrol; protocol.identity says how edge and hub convince each other. A code works once: the same
keys get the same answer again for fifteen minutes (a lost reply), other keys are refused.
"""

import hmac
import secrets
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import Connection, Engine, Row, Select, delete, insert, or_, select, update

from hub import audit
from hub.auth.callers import Caller
from hub.derive import lock, rederive_devices
from hub.domain.terms import DeviceStatus
from hub.domain.words import Words
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.engine import reading
from hub.store.state import generation
from protocol.identity import (
    SECRET_BITS,
    Enrolment,
    EnrolmentCode,
    MessageType,
    enrolment_proof,
    sealing_key,
)

CODE_VALID_MS: Final = 7 * 24 * 3600 * 1000
REPEAT_MS: Final = 15 * 60 * 1000
MAX_NAME_CHARS: Final = 64

Who = Caller | audit.Machine
"""Who does it."""

log = structlog.get_logger(__name__)


class DeviceError(ValueError):
    """A device cannot be added or placed so; the message says why, and `field` names the input."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class EnrolmentRefusedError(Exception):
    """An enrolment was refused; `status` is the HTTP status that says so."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Added:
    """A device that waits for its enrolment, and the code to type there. Shown once."""

    public_id: UUID
    name: str
    code: EnrolmentCode
    expires_ms: int


def add_device(
    conn: Connection, who: Who, fingerprint: bytes, name: str, venue_code: str, now_ms: int
) -> Added:
    """Adds a device at a venue, or gives one that waits there a new code. Raises DeviceError.

    `fingerprint` is of the hub's own keys. Whether `who` may use the venue is the caller's to ask.
    """
    lock(conn)
    name = checked_name(name)
    venue = _venue(conn, venue_code)
    found = conn.execute(
        select(s.devices).where(s.devices.c.name == name).with_for_update()
    ).one_or_none()
    if found is not None and found.status != DeviceStatus.PENDING:
        raise DeviceError(
            "name",
            Words(
                "已经有叫“{name}”的设备（{status}），请换一个名称。",
                name=name,
                status=DeviceStatus(found.status),
            ),
        )
    if found is None:
        public_id = s.new_public_id()
        device = conn.execute(
            insert(s.devices)
            .values(public_id=public_id, name=name, status=DeviceStatus.PENDING)
            .returning(s.devices.c.id)
        ).scalar_one()
        conn.execute(
            insert(s.placements).values(
                device_id=device, venue_id=venue.id, valid_from_ms=now_ms // 1000 * 1000
            )
        )
        audit.record(
            conn,
            who,
            "device.add",
            venue.organisation_id,
            "device",
            public_id,
            now_ms,
            name=name,
            venue=venue.code,
        )
    else:
        device, public_id = found.id, found.public_id
        placed = conn.scalar(
            select(s.placements.c.venue_id).where(
                s.placements.c.device_id == device, s.placements.c.valid_to_ms.is_(None)
            )
        )
        if placed != venue.id:
            raise DeviceError(
                "venue",
                Words("设备“{name}”登记在别的会场，或不在任何会场；请先改它的位置。", name=name),
            )
    return with_code(conn, who, fingerprint, (device, public_id, name), venue, now_ms)


def checked_name(name: str) -> str:
    """A name as it is kept. Raises DeviceError."""
    name = name.strip()
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise DeviceError("name", Words("设备名称要有1到{n}个可见的字符。", n=MAX_NAME_CHARS))
    return name


def new_code(
    conn: Connection, who: Who, fingerprint: bytes, device: Row[Any], now_ms: int
) -> Added:
    """A new code for a device (its row) that waits to be enrolled; the old one ends.

    Raises DeviceError for one that does not wait.
    """
    lock(conn)
    if device.status != DeviceStatus.PENDING:
        raise DeviceError("device", Words("这台设备已经登记过，不能再生成登记码。"))
    p, v = s.placements.c, s.venues.c
    venue = conn.execute(
        select(s.venues)
        .join(s.placements, p.venue_id == v.id)
        .where(p.device_id == device.id)
        .order_by(p.valid_from_ms.desc())
        .limit(1)
    ).one_or_none()
    return with_code(
        conn, who, fingerprint, (device.id, device.public_id, device.name), venue, now_ms
    )


def with_code(
    conn: Connection,
    who: Who,
    fingerprint: bytes,
    device: tuple[int, UUID, str],
    venue: Row[Any] | None,
    now_ms: int,
) -> Added:
    """A new code for a device (its id, public id and name) that waits; the old one ends."""
    device_id, public_id, name = device
    conn.execute(
        update(s.enrolment_codes)
        .where(s.enrolment_codes.c.device_id == device_id, s.enrolment_codes.c.expires_ms > now_ms)
        .values(expires_ms=now_ms)
    )
    code = EnrolmentCode(secrets.randbits(SECRET_BITS), fingerprint)
    expires = now_ms + CODE_VALID_MS
    conn.execute(
        insert(s.enrolment_codes).values(
            device_id=device_id,
            secret_sha256=code.verifier(),
            created_ms=now_ms,
            expires_ms=expires,
        )
    )
    audit.record(
        conn,
        who,
        "device.code",
        None if venue is None else venue.organisation_id,
        "device",
        public_id,
        now_ms,
    )
    return Added(public_id, name, code, expires)


def move_device(
    conn: Connection,
    who: Who,
    name: str,
    venue_code: str | None,
    at_ms: int,
    now_ms: int,
    *,
    replaces: bool = False,
) -> None:
    """`place` for the command line, which names device and venue."""
    device = conn.execute(select(s.devices).where(s.devices.c.name == name)).one_or_none()
    if device is None:
        raise DeviceError("device", Words("没有叫“{name}”的设备。", name=name))
    venue = None if venue_code is None else _venue(conn, venue_code)
    place(conn, who, device, venue, at_ms, now_ms, replaces=replaces)


def place(
    conn: Connection,
    who: Who,
    device: Row[Any],
    venue: Row[Any] | None,
    at_ms: int,
    now_ms: int,
    *,
    replaces: bool = False,
) -> None:
    """From `at_ms` on, the device is at another venue, or at none; its taps since are read anew.

    `replaces`: what was said of its place at later times is given up. Raises DeviceError.
    """
    lock(conn)
    p = s.placements.c
    rows = conn.execute(
        select(s.placements, s.venues.c.name, s.venues.c.organisation_id)
        .join(s.venues, s.venues.c.id == p.venue_id)
        .where(p.device_id == device.id)
        .order_by(p.valid_from_ms)
    ).all()
    later = [
        row
        for row in rows
        if row.valid_from_ms >= at_ms or (row.valid_to_ms is not None and row.valid_to_ms > at_ms)
    ]
    if later and not replaces:
        raise DeviceError("at", Words("这个时间以后的位置已经登记过；要改，须选择替换。"))
    before = [row for row in rows if row.valid_from_ms < at_ms]
    last = before[-1] if before else None
    stands = last is not None and (last.valid_to_ms is None or last.valid_to_ms > at_ms)
    here = last.venue_id if last is not None and stands else None
    if not later and here == (None if venue is None else venue.id):
        raise DeviceError(
            "venue",
            Words("设备现在就不在任何会场。")
            if venue is None
            else Words("设备现在就在“{venue}”。", venue=venue.name),
        )
    if venue is None and last is None and later:
        # It would be nowhere, ever, and nobody but the district would find it again.
        raise DeviceError("venue", Words("那时以前没有登记过位置：请选一个会场，或改时间。"))
    conn.execute(delete(s.placements).where(p.device_id == device.id, p.valid_from_ms >= at_ms))
    if last is not None and stands:
        goes_on = venue is not None and last.venue_id == venue.id
        conn.execute(
            update(s.placements)
            .where(p.id == last.id)
            .values(valid_to_ms=None if goes_on else at_ms)
        )
        here = last.venue_id if goes_on else None
    else:
        here = None
    if venue is not None and here is None:
        conn.execute(
            insert(s.placements).values(device_id=device.id, venue_id=venue.id, valid_from_ms=at_ms)
        )
    touched = {row.venue_id for row in (*later, *([last] if last is not None else []))}
    if venue is not None:
        touched.add(venue.id)
    audit.record(
        conn,
        who,
        "device.place",
        (venue or last or rows[-1]).organisation_id,
        "device",
        device.public_id,
        now_ms,
        venue=None if venue is None else venue.code,
        at_ms=at_ms,
        replaces=bool(later),
    )
    rederive_devices(conn, [device.id])
    # Whose record is asked for has changed, also where nobody has tapped.
    conn.execute(
        update(s.meetings)
        .where(s.meetings.c.venue_id.in_(touched), s.meetings.c.ends_ms >= at_ms)
        .values(change=s.meetings.c.change + 1)
    )


def enrol(
    engine: Engine,
    keyring: Keyring,
    mqtt_url: str,
    keys: tuple[bytes, bytes],
    proof: bytes,
    now_ms: int,
) -> bytes:
    """The signed answer to a device that proves its code; `keys` are its signing and sealing key.

    Raises EnrolmentRefusedError.
    """
    sign, seal = keys
    if not _can_be_sealed_to(seal):
        log.warning("enrolment refused: nothing can be sealed to its key")
        raise EnrolmentRefusedError(422, "seal_key: nothing can be sealed to this key")
    fingerprint = keyring.public().fingerprint()
    # Found without a lock: whoever has no code keeps nobody from writing.
    with reading(engine) as conn:
        fitting = [
            row.id
            for row in conn.execute(_codes(now_ms))
            if hmac.compare_digest(
                enrolment_proof(row.secret_sha256, sign, seal, fingerprint), proof
            )
        ]
    if not fitting:
        raise _no_code()
    with engine.begin() as conn:
        code = conn.execute(
            _codes(now_ms)
            .where(s.enrolment_codes.c.id == fitting[0])
            .with_for_update(of=s.enrolment_codes)
        ).one_or_none()
        if code is None:  # replaced by a new one meanwhile
            raise _no_code()
        if code.used_at_ms is not None and (
            code.used_sign_key != sign or now_ms > code.used_at_ms + REPEAT_MS
        ):
            log.warning("enrolment refused: code used already", device=code.name)
            raise EnrolmentRefusedError(409, f"the code of {code.name} was used already")
        if code.used_at_ms is None:
            conn.execute(
                update(s.enrolment_codes)
                .where(s.enrolment_codes.c.id == code.id)
                .values(used_at_ms=now_ms, used_sign_key=sign)
            )
            conn.execute(
                update(s.devices)
                .where(s.devices.c.id == code.device_id)
                .values(
                    status=DeviceStatus.ACTIVE,
                    sign_key=sign,
                    seal_key=seal,
                    enrolled_at_ms=now_ms,
                )
            )
            log.info("enrolled", device=code.name)
        answer = Enrolment(
            edge=code.public_id.bytes,
            name=code.name,
            edge_sign=sign,
            hub=keyring.public(),
            generation=generation(conn) or 0,
            mqtt_url=mqtt_url,
            proof=proof,
        )
    return keyring.sign.sign(MessageType.ENROLMENT, answer.encode())


def _codes(now_ms: int) -> Select[Any]:
    """The codes that may be used now, or were used so lately that the answer may be repeated."""
    c = s.enrolment_codes.c
    return (
        select(s.enrolment_codes, s.devices.c.public_id, s.devices.c.name)
        .join(s.devices)
        .where(or_(c.expires_ms > now_ms, c.used_at_ms >= now_ms - REPEAT_MS))
    )


def _can_be_sealed_to(seal: bytes) -> bool:
    try:
        X25519PrivateKey.generate().exchange(sealing_key(seal))
    except ValueError:  # a point of low order (RFC 7748, section 6.1)
        return False
    return True


def _no_code() -> EnrolmentRefusedError:
    log.warning("enrolment refused: no code fits")
    return EnrolmentRefusedError(403, "no code that is valid now fits: get a new one")


def _venue(conn: Connection, code: str) -> Row[Any]:
    venue = conn.execute(select(s.venues).where(s.venues.c.code == code)).one_or_none()
    if venue is None:
        raise DeviceError("venue", Words("没有编号为“{code}”的会场。", code=code))
    return venue
