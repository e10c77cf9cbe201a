"""The edge's certificate for the broker: asked of the hub by a signature, and renewed in time.

Promises: the broker is known by the hub's own authority alone, and by its name; the time is left
out of it, since a device without a battery clock may believe that it is 1970. For the same reason
a certificate that a broker does not take is replaced, whatever our clock says of it. A certificate
and the authority that came with it are one file, which is whole or not there.

It does not say what is sent or believed: that is signed end to end (protocol.identity).
"""

import logging
import random
import secrets
import socket
import ssl
import threading
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edge.enrol import IdentityError, Keys, load_hub_url, load_identity
from edge.request import NO_CHECK_TIME, HubAddress, RequestError, ask
from edge.wholefile import write
from protocol.errors import RemoteError
from protocol.fleet import NONCE_BYTES, Certificate, CertificateRequest
from protocol.identity import Enrolment

KEY_FILE: Final = "edge-tls.key"
CERTIFICATE_FILE: Final = "edge-tls.pem"
LOOK_EVERY_S: Final = 60.0
FIRST_WAIT_S: Final = 5.0
LONGEST_WAIT_S: Final = 3600.0

log = logging.getLogger(__name__)


class CertificateError(Exception):
    """There is no certificate that can be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Held:
    """The certificate on disk, and by whom the broker is known."""

    certificate: x509.Certificate
    authority: x509.Certificate

    @classmethod
    def load(cls, data: Path) -> Self | None:
        """None where there is none yet. Raises CertificateError where it cannot be used."""
        path = data / CERTIFICATE_FILE
        try:
            certificate, authority = x509.load_pem_x509_certificates(path.read_bytes())
            key = load_pem_private_key((data / KEY_FILE).read_bytes(), password=None)
            if key.public_key() != certificate.public_key():
                raise ValueError("it is of another key")  # noqa: TRY301
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CertificateError(f"{path}: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise CertificateError(f"{path}: cannot be used ({error})") from error
        return cls(certificate, authority)

    @property
    def ends_ms(self) -> int:
        return int(self.certificate.not_valid_after_utc.timestamp()) * 1000

    def is_due(self, now_ms: int) -> bool:
        """Whether two thirds of its life are over."""
        begins_ms = int(self.certificate.not_valid_before_utc.timestamp()) * 1000
        return now_ms >= begins_ms + (self.ends_ms - begins_ms) * 2 // 3


def request(data: Path, hub: HubAddress, enrolment: Enrolment, keys: Keys) -> Held:
    """Asks the hub for a certificate and keeps it in `data`. Raises CertificateError."""
    try:
        key = _load_or_make_key(data)
    except OSError as error:
        raise CertificateError(f"{data / KEY_FILE}: {error.strerror}") from error
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, SHA256())
    asked = CertificateRequest(
        enrolment.edge, secrets.token_bytes(NONCE_BYTES), csr.public_bytes(Encoding.DER)
    )
    body = {"request": urlsafe_b64encode(asked.seal(keys.sign)).decode().rstrip("=")}
    try:
        # Whom we ask does not matter: the answer is believed for its signature.
        answer = ask(hub, "POST", "/api/v1/certificate", body, checks_time=False)
        raw = urlsafe_b64decode(str(answer["answer"]) + "==")
        given = Certificate.open(raw, enrolment.hub.sign, asked)
        held = Held(
            x509.load_der_x509_certificate(given.certificate),
            x509.load_der_x509_certificate(given.authority),
        )
        if held.certificate.public_key() != key.public_key():
            raise CertificateError("the hub gave a certificate for another key")
    except RequestError as error:
        raise CertificateError(str(error)) from error
    except RemoteError as error:
        raise CertificateError(f"the hub's answer is not to be trusted: {error.detail}") from error
    except (KeyError, ValueError) as error:
        raise CertificateError(f"{hub} did not answer as a hub does ({error})") from error
    both = (held.certificate, held.authority)
    try:
        write(data / CERTIFICATE_FILE, b"".join(each.public_bytes(Encoding.PEM) for each in both))
    except OSError as error:
        raise CertificateError(f"{data / CERTIFICATE_FILE}: {error.strerror}") from error
    return held


class Certificates:
    """What this edge shows to the broker; `start` it, and it sees that there is always one."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._refused = threading.Event()
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="certificate", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def context(self, host: str) -> ssl.SSLContext:
        """How to go to the broker that is called `host`. Raises CertificateError."""
        held = Held.load(self._data)
        if held is None:
            self._wake.set()
            raise CertificateError("there is no certificate yet: the hub is asked for one")
        context = _Certified(host)
        try:
            context.load_verify_locations(cadata=held.authority.public_bytes(Encoding.PEM).decode())
            context.load_cert_chain(self._data / CERTIFICATE_FILE, self._data / KEY_FILE)
        except OSError as error:  # as is ssl.SSLError
            raise CertificateError(f"{self._data / CERTIFICATE_FILE}: {error}") from error
        return context

    def refused(self) -> None:
        """The broker did not take our certificate, or is not of our authority: ask anew."""
        self._refused.set()
        self._wake.set()

    # ------------------------------------------------------------------

    def _run(self) -> None:
        wait = FIRST_WAIT_S
        told = ""
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                asked = self._renew_if_due()
                trouble = ""
            except (CertificateError, IdentityError) as error:
                asked, trouble = True, str(error)
            except Exception as error:
                log.exception("the certificate could not be renewed")
                asked, trouble = True, str(error)
            if trouble and trouble != told:
                log.warning("no new certificate: %s", trouble)
            told = trouble
            if not asked:
                wait = FIRST_WAIT_S
                self._wake.wait(LOOK_EVERY_S)
            else:
                # Asked for in vain, or refused again and again: ever less often.
                self._stopping.wait(wait * random.uniform(0.5, 1.0))
                wait = min(wait * 2, LONGEST_WAIT_S)

    def _renew_if_due(self) -> bool:
        """Whether the hub was asked."""
        refused = self._refused.is_set()
        try:
            held = Held.load(self._data)
        except CertificateError as error:
            log.warning("%s; the hub is asked for another", error)
            held = None
        if held is not None and not refused and not held.is_due(time.time_ns() // 1_000_000):
            return False
        identity = load_identity(self._data)
        hub_url = load_hub_url(self._data)
        if identity is None or not hub_url:
            raise CertificateError(
                "the hub's address is not known: this device was enrolled by an earlier version;"
                " run shuaka-edge certificate --hub URL"
            )
        request(self._data, HubAddress.parse(hub_url), *identity)
        self._refused.clear()
        log.info("a new certificate for the broker")
        return True


def _load_or_make_key(data: Path) -> ec.EllipticCurvePrivateKey:
    """A key that cannot be used is replaced: only certificates that end with it depend on it."""
    path = data / KEY_FILE
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
    except (FileNotFoundError, ValueError, TypeError):
        pass
    made = ec.generate_private_key(ec.SECP256R1())
    write(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


class _Certified(ssl.SSLContext):
    """TLS 1.3 to a broker with a certificate for `host`, wherever the connection goes first."""

    def __new__(cls, _host: str) -> Self:
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, host: str) -> None:
        self._host = host
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        self.verify_flags |= NO_CHECK_TIME

    def wrap_socket(self, sock: socket.socket, *args: Any, **more: Any) -> ssl.SSLSocket:
        return super().wrap_socket(sock, *args, **{**more, "server_hostname": self._host})
