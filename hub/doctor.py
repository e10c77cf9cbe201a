"""What is wrong with this hub, in plain words, and what to do about it. Changes nothing."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from sqlalchemy import Engine, select

from hub.authority import DAY_MS, Authority, ends_ms, is_due
from hub.broker import BrokerError, Told, certificate_in, is_up_to_date
from hub.certificates import admitted
from hub.config import Settings
from hub.domain.terms import DeviceStatus
from hub.keys import FILE_NAME, Keyring, KeysError, is_backed_up
from hub.store import schema as s
from hub.store.engine import reading
from protocol.topics import Broker

TIMEOUT_S: Final = 5.0
LISTEN_S: Final = 0.5
"""With TLS 1.3 a broker says only afterwards that it does not take the certificate."""
EARLY_MS: Final = 365 * DAY_MS
"""How long before its end the authority's own certificate is told of."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `advice` is empty where there is nothing to do."""

    good: bool
    what: str
    advice: str = ""


def examine(settings: Settings, keyring: Keyring, engine: Engine, now_ms: int) -> list[Finding]:
    """Everything, keys first."""
    found = list(_keys(settings, keyring))
    broker = Broker.parse(settings.mqtt)
    if not (broker.tls and Broker.parse(settings.broker_for_edges).tls):
        found.append(
            Finding(
                good=False,
                what="broker without TLS: whoever reaches it sees when cards are tapped, and may"
                " keep taps from coming in",
                advice="Good for trying out. Otherwise: docs/operations.md, The broker with TLS.",
            )
        )
    if not broker.tls:
        return [*found, *_plain(broker)]
    try:
        authority = Authority.load(settings.data)
    except KeysError as error:
        return [*found, Finding(good=False, what=str(error), advice="See `shuaka-hub broker`.")]
    found += _authority(authority, now_ms)
    found += _answers(broker, authority, now_ms)
    found += _folder(settings, engine, now_ms)
    found += _devices(engine, now_ms)
    return found


def _keys(settings: Settings, keyring: Keyring) -> Iterator[Finding]:
    if is_backed_up(settings.data):
        yield Finding(good=True, what=f"keys: {FILE_NAME} is backed up")
    else:
        yield Finding(
            good=False,
            what=f"keys: {FILE_NAME} as it is now is not backed up: without it, taps that devices"
            " still hold can be read by nobody",
            advice="`shuaka-hub keys backup FILE`, with a stick that goes into the safe; apart"
            " from the database.",
        )
    if len(keyring.open) > 1:
        yield Finding(
            good=True, what=f"keys: {len(keyring.open) - 1} retired, see `shuaka-hub keys list`"
        )


def _plain(broker: Broker) -> Iterator[Finding]:
    where = f"broker {broker.host}:{broker.port}"
    try:
        socket.create_connection((broker.host, broker.port), timeout=TIMEOUT_S).close()
    except OSError as error:
        yield Finding(
            good=False, what=f"{where} cannot be reached: {error}", advice="Does mosquitto run?"
        )
    else:
        yield Finding(good=True, what=f"{where} answers")


def _authority(authority: Authority, now_ms: int) -> Iterator[Finding]:
    days = (authority.ends_ms() - now_ms) // DAY_MS
    good = authority.ends_ms() - now_ms > EARLY_MS
    yield Finding(
        good=good,
        what=f"authority: ends in {days} days",
        advice=""
        if good
        else "With it end all certificates and the list of revoked ones, and the broker lets"
        " nobody in. Move hub-ca.key and hub-ca.pem away, run `shuaka-hub broker`, restart serve:"
        " devices then get certificates of the new one by themselves.",
    )


def _answers(broker: Broker, authority: Authority, now_ms: int) -> Iterator[Finding]:
    where = f"broker {broker.host}:{broker.port}"
    try:
        with (
            socket.create_connection((broker.host, broker.port), timeout=TIMEOUT_S) as plain,
            authority.as_hub(now_ms).wrap_socket(plain, server_hostname=broker.host) as wrapped,
        ):
            shown = wrapped.getpeercert(binary_form=True) or b""
            wrapped.settimeout(LISTEN_S)
            with suppress(TimeoutError):
                if not wrapped.recv(1):
                    raise ConnectionError("it hangs up")
    except ssl.SSLError as error:
        yield Finding(
            good=False,
            what=f"{where}: TLS fails: {error.reason or error}",
            advice="Is it the mosquitto that `shuaka-hub broker` made the files for, and has it"
            " read them anew?",
        )
    except OSError as error:
        yield Finding(
            good=False, what=f"{where} cannot be reached: {error}", advice="Does mosquitto run?"
        )
    else:
        certificate = x509.load_der_x509_certificate(shown)
        days = (ends_ms(certificate) - now_ms) // DAY_MS
        yield Finding(good=True, what=f"{where} lets the hub in; its certificate: {days} days")


def _folder(settings: Settings, engine: Engine, now_ms: int) -> Iterator[Finding]:
    if not settings.broker_dir:
        yield Finding(
            good=False,
            what="broker_dir is not set: the broker does not hear of devices that come or go",
            advice="Set it to the folder that `shuaka-hub broker` made.",
        )
        return
    folder = Path(settings.broker_dir)
    try:
        told = Told.load(folder)
    except BrokerError as error:
        yield Finding(good=False, what=str(error), advice="Run it as the hub's own user.")
        return
    if told is None:
        yield Finding(
            good=False, what=f"{folder}: is not made yet", advice="Run `shuaka-hub broker`."
        )
        return
    with reading(engine) as conn:
        edges = admitted(conn, now_ms).edges
    certificate = certificate_in(folder)
    if not is_up_to_date(folder, edges) or certificate is None or is_due(certificate, now_ms):
        yield Finding(
            good=False,
            what=f"{folder}: is not as the fleet is",
            advice="serve brings it up to date every few seconds: does it run, and what does its"
            " log say of the broker?",
        )
    else:
        yield Finding(good=True, what=f"{folder}: lets in {len(edges)} devices")


def _devices(engine: Engine, now_ms: int) -> Iterator[Finding]:
    d, c = s.devices.c, s.certificates.c
    holds = select(c.id).where(c.device_id == d.id, c.expires_ms > now_ms).exists()
    without = select(d.name).where(d.status == DeviceStatus.ACTIVE, ~holds).order_by(d.name)
    with reading(engine) as conn:
        names = conn.scalars(without).all()
    if names:
        shown = "、".join(names[:10]) + ("…" if len(names) > 10 else "")
        yield Finding(
            good=False,
            what=f"{len(names)} active devices hold no certificate that is good now: {shown}",
            advice="They ask for one by themselves once they reach this hub's API; see"
            " `shuaka-edge doctor` there.",
        )
