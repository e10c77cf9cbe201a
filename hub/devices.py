"""Devices and how they join: one-time codes, the enrolment, their keys.

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
from sqlalchemy import Connection, Engine, Select, insert, or_, select, update

from hub.derive import lock, rebuild
from hub.domain.terms import DeviceStatus
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

log = structlog.get_logger(__name__)


class DeviceError(Exception):
    """A device cannot be added; the message says why."""


class EnrolmentRefusedError(Exception):
    """An enrolment was refused; `status` is the HTTP status that says so."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Added:
    """A device that waits for its enrolment, and the code to type there. Shown once."""

    name: str
    code: EnrolmentCode
    expires_ms: int


def add_device(
    conn: Connection, keyring: Keyring, name: str, venue_code: str, now_ms: int
) -> Added:
    """Adds a device at a venue, or gives a waiting one a new code. Raises DeviceError."""
    if not name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise DeviceError(f"{name!r}: a name has 1 to {MAX_NAME_CHARS} printable characters")
    venue = _venue(conn, venue_code)
    found = conn.execute(
        select(s.devices).where(s.devices.c.name == name).with_for_update()
    ).one_or_none()
    if found is not None and found.status != DeviceStatus.PENDING:
        raise DeviceError(f"{name!r}: a device of this name is {found.status.lower()} already")
    if found is None:
        device = conn.execute(
            insert(s.devices)
            .values(
                public_id=UUID(bytes=secrets.token_bytes(16)),
                name=name,
                status=DeviceStatus.PENDING,
            )
            .returning(s.devices.c.id)
        ).scalar_one()
        conn.execute(
            insert(s.placements).values(
                device_id=device, venue_id=venue, valid_from_ms=now_ms // 1000 * 1000
            )
        )
    else:
        device = found.id
        placed = conn.execute(
            select(s.placements.c.venue_id).where(
                s.placements.c.device_id == device, s.placements.c.valid_to_ms.is_(None)
            )
        ).scalar()
        if placed != venue:
            raise DeviceError(
                f"{name!r}: is placed at another venue, or at none; use `device move`"
            )
        # a new code replaces the one that was not used
        conn.execute(
            update(s.enrolment_codes)
            .where(s.enrolment_codes.c.device_id == device, s.enrolment_codes.c.expires_ms > now_ms)
            .values(expires_ms=now_ms)
        )
    code = EnrolmentCode(secrets.randbits(SECRET_BITS), keyring.public().fingerprint())
    expires = now_ms + CODE_VALID_MS
    conn.execute(
        insert(s.enrolment_codes).values(
            device_id=device,
            secret_sha256=code.verifier(),
            created_ms=now_ms,
            expires_ms=expires,
        )
    )
    return Added(name, code, expires)


def move_device(conn: Connection, name: str, venue_code: str | None, at_ms: int) -> None:
    """From `at_ms` on, the device is at another venue, or at none; its taps since are read anew.

    Raises DeviceError, also where it was placed later than that.
    """
    lock(conn)
    venue = None if venue_code is None else _venue(conn, venue_code)
    device = conn.execute(select(s.devices.c.id).where(s.devices.c.name == name)).scalar()
    if device is None:
        raise DeviceError(f"{name!r}: there is no device of this name")
    p = s.placements.c
    last = conn.execute(
        select(p.id, p.venue_id, p.valid_from_ms, p.valid_to_ms)
        .where(p.device_id == device)
        .order_by(p.valid_from_ms.desc())
        .limit(1)
    ).one_or_none()
    if last is not None:
        if last.valid_from_ms >= at_ms or (last.valid_to_ms or at_ms) > at_ms:
            raise DeviceError(
                f"{name!r}: was placed for a later time already; correct it by import"
            )
        if last.venue_id == venue and last.valid_to_ms is None:
            raise DeviceError(f"{name!r}: is at {venue_code} already")
        if last.valid_to_ms is None:
            conn.execute(update(s.placements).where(p.id == last.id).values(valid_to_ms=at_ms))
    if venue is not None:
        conn.execute(
            insert(s.placements).values(device_id=device, venue_id=venue, valid_from_ms=at_ms)
        )
    elif last is None or last.valid_to_ms is not None:
        raise DeviceError(f"{name!r}: is at no venue already")
    rebuild(conn)


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


def _venue(conn: Connection, code: str) -> int:
    venue: int | None = conn.scalar(select(s.venues.c.id).where(s.venues.c.code == code))
    if venue is None:
        raise DeviceError(f"{code!r}: there is no venue of this code")
    return venue
