"""Devices and how they join: one-time codes, the enrolment, their keys.

The hub stores the SHA-256 of a code's secret and nothing that would let a reader of the database
enrol; protocol.identity says how edge and hub convince each other. A code works once: the same
keys get the same answer again for fifteen minutes (a lost reply), other keys are refused.
"""

import hmac
import secrets
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, insert, select, update

from hub.domain.terms import DeviceStatus
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.state import generation
from protocol.identity import (
    SECRET_BITS,
    Enrolment,
    EnrolmentCode,
    MessageType,
    enrolment_proof,
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
    venue = conn.execute(select(s.venues.c.id).where(s.venues.c.code == venue_code)).scalar()
    if venue is None:
        raise DeviceError(f"{venue_code!r}: there is no venue of this code")
    found = conn.execute(select(s.devices).where(s.devices.c.name == name)).one_or_none()
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
            insert(s.placements).values(device_id=device, venue_id=venue, valid_from_ms=now_ms)
        )
    else:
        device = found.id
        placed = conn.execute(
            select(s.placements.c.venue_id).where(
                s.placements.c.device_id == device, s.placements.c.valid_to_ms.is_(None)
            )
        ).scalar()
        if placed != venue:
            raise DeviceError(f"{name!r}: is placed at another venue; change that by import")
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
    fingerprint = keyring.public().fingerprint()
    with engine.begin() as conn:
        code = next(
            (
                row
                for row in conn.execute(
                    select(
                        s.enrolment_codes,
                        s.devices.c.public_id,
                        s.devices.c.name,
                        s.devices.c.status,
                    )
                    .join(s.devices)
                    .where(s.enrolment_codes.c.expires_ms > now_ms)
                    .with_for_update()
                )
                if hmac.compare_digest(
                    enrolment_proof(row.secret_sha256, sign, seal, fingerprint), proof
                )
            ),
            None,
        )
        if code is None:
            log.warning("enrolment refused: no code fits")
            raise EnrolmentRefusedError(403, "no code that is valid now fits: get a new one")
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
        )
    return keyring.sign.sign(MessageType.ENROLMENT, answer.encode())
