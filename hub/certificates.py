"""Certificates by which devices come through to the broker: given, and counted no more.

Promises: a device that is active gets one, its first as its next, also where the last has expired;
nobody else does. What it asks is believed for its signature alone. A certificate counts as long as
its device is active under the keys that asked for it.
"""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection, Engine, Row, func, insert, or_, select

from hub.authority import Authority, RequestError, Revoked, ends_ms, key_of_request
from hub.domain.terms import DeviceStatus
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.engine import reading
from protocol.errors import RemoteError
from protocol.fleet import Certificate, CertificateRequest

PERIOD_MS: Final = 3600 * 1000
A_PERIOD: Final = 10
"""How many certificates a device gets within PERIOD_MS."""

log = structlog.get_logger(__name__)


class CertificateRefusedError(Exception):
    """No certificate was given; `status` is the HTTP status that says so."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def certify(
    engine: Engine, keyring: Keyring, authority: Authority, data: bytes, now_ms: int
) -> bytes:
    """The signed answer to a signed request. Raises CertificateRefusedError."""
    try:
        asked, signed = CertificateRequest.parse(data)
    except RemoteError as error:
        raise CertificateRefusedError(422, f"request: {error}") from error
    # Verified without a lock: who is nobody keeps nobody from writing.
    with reading(engine) as conn:
        device = _device(conn, asked.edge)
    if device is None:
        raise _nobody()
    try:
        signed.verify(device.sign_key)
    except RemoteError as error:
        raise _nobody() from error
    try:
        key = key_of_request(asked.request)
    except RequestError as error:
        raise CertificateRefusedError(422, f"request: it {error}") from error
    with engine.begin() as conn:
        _take_place(conn, asked, device.sign_key, now_ms)
        made = authority.for_device(key, asked.edge, now_ms)
        conn.execute(
            insert(s.certificates).values(
                device_id=device.id,
                serial=f"{made.serial_number:x}",
                sign_key=device.sign_key,
                nonce=asked.nonce,
                issued_ms=now_ms,
                expires_ms=ends_ms(made),
            )
        )
    log.info("certificate", device=device.name)
    answer = Certificate(asked.edge, asked.nonce, made.public_bytes(Encoding.DER), authority.der())
    return answer.seal(keyring.sign)


@dataclass(frozen=True, slots=True)
class Admitted:
    """Whom the broker lets in."""

    edges: tuple[bytes, ...]
    """Active devices, by id."""
    revoked: tuple[Revoked, ...]
    """Certificates that would still hold, of devices that are not, or not by these keys."""


def admitted(conn: Connection, now_ms: int) -> Admitted:
    """Whom the broker is to let in now."""
    d, c = s.devices.c, s.certificates.c
    active = d.status == DeviceStatus.ACTIVE
    edges = conn.scalars(select(d.public_id).where(active).order_by(d.public_id))
    revoked = conn.execute(
        select(c.serial, c.issued_ms)
        .join(s.devices, d.id == c.device_id)
        .where(c.expires_ms > now_ms, or_(~active, d.sign_key != c.sign_key))
        .order_by(c.id)
    )
    return Admitted(
        tuple(sorted(edge.bytes for edge in edges)),
        tuple(Revoked(int(row.serial, 16), row.issued_ms) for row in revoked),
    )


def _device(conn: Connection, edge: bytes) -> Row[Any] | None:
    d = s.devices.c
    return conn.execute(
        select(s.devices).where(d.public_id == UUID(bytes=edge), d.status == DeviceStatus.ACTIVE)
    ).one_or_none()


def _take_place(conn: Connection, asked: CertificateRequest, sign_key: bytes, now_ms: int) -> None:
    """Sees, with the device locked, that it is still active and does not ask too often."""
    d, c = s.devices.c, s.certificates.c
    device = conn.execute(
        select(d.id, d.sign_key)
        .where(d.public_id == UUID(bytes=asked.edge), d.status == DeviceStatus.ACTIVE)
        .with_for_update()
    ).one_or_none()
    if device is None or device.sign_key != sign_key:
        raise _nobody()
    own = c.device_id == device.id
    if conn.scalar(select(c.id).where(own, c.nonce == asked.nonce)) is not None:
        raise CertificateRefusedError(409, "this request was answered already: make a new one")
    lately = select(func.count()).select_from(s.certificates)
    if (conn.scalar(lately.where(own, c.issued_ms > now_ms - PERIOD_MS)) or 0) >= A_PERIOD:
        raise CertificateRefusedError(
            429, f"a device gets {A_PERIOD} certificates an hour at most: ask again in an hour"
        )


def _nobody() -> CertificateRefusedError:
    log.warning("certificate refused: the signature is no active device's")
    return CertificateRefusedError(403, "the signature is no active device's")
