"""The hub's own certificate authority: which devices the broker lets in, and how they know it.

A certificate says who may come through to the broker and nothing more: what a device says there is
believed for its signature (protocol.identity). So the authority needs no backup: where it is lost,
a new one is made, and devices that no broker lets in ask for another certificate by themselves.

Promises: its key never leaves the hub's folder, and is made once. Keys are P-256, signatures ECDSA
with SHA-256; certificates are as RFC 5280 wants them.
"""

import ipaddress
import os
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hub.durable import replace, write_once
from hub.keys import KeysError

KEY_FILE: Final = "hub-ca.key"
CERTIFICATE_FILE: Final = "hub-ca.pem"

DAY_MS: Final = 24 * 3600 * 1000
AUTHORITY_MS: Final = 3653 * DAY_MS
CERTIFICATE_MS: Final = 90 * DAY_MS
BACKDATED_MS: Final = DAY_MS
"""A broker on another machine whose clock is a little behind must not find it not yet valid."""
HUB_NAME: Final = "shuaka-hub"
"""The hub's common name, and so its user name at the broker."""
NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for."""


class RequestError(ValueError):
    """A certificate signing request that cannot be answered; the message says why."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """A certificate that counts no more."""

    serial: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Authority:
    """The authority's key and certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, data: Path, now_ms: int) -> Self:
        """A new authority in `data`; what an interrupted one left is finished. Raises KeysError."""
        try:
            with suppress(FileExistsError):
                write_once(data / KEY_FILE, key_pem(new_key()))
            key = _load_key(data / KEY_FILE)
            made = cls(key, _vouch_for_itself(key, now_ms))
            replace(data / CERTIFICATE_FILE, made.pem())
        except OSError as error:
            raise KeysError(f"{error.filename or data}: {error.strerror}") from error
        return made

    @classmethod
    def load(cls, data: Path) -> Self:
        """The authority in `data`. Raises KeysError, also where there is none."""
        path = data / CERTIFICATE_FILE
        key = _load_key(data / KEY_FILE)
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            if certificate.public_key() != key.public_key():
                raise ValueError("it is of another key")  # noqa: TRY301
        except OSError as error:
            raise KeysError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise KeysError(
                f"{path}: is no certificate of this authority ({error}); move it and {KEY_FILE}"
                " away: the next shuaka-hub broker makes a new one"
            ) from error
        return cls(key, certificate)

    @classmethod
    def load_or_make(cls, data: Path, now_ms: int) -> Self:
        """Raises KeysError."""
        if (data / KEY_FILE).exists() and (data / CERTIFICATE_FILE).exists():
            return cls.load(data)
        return cls.make(data, now_ms)

    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    def der(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.DER)

    def ends_ms(self) -> int:
        return _ms(self.certificate.not_valid_after_utc)

    def for_device(
        self, key: ec.EllipticCurvePublicKey, edge: bytes, now_ms: int
    ) -> x509.Certificate:
        """A client certificate of 90 days; its common name is the edge's id in hex."""
        return self._certify(key, edge.hex(), ExtendedKeyUsageOID.CLIENT_AUTH, now_ms)

    def for_hub(self, key: ec.EllipticCurvePublicKey, now_ms: int) -> x509.Certificate:
        """A client certificate of the hub itself."""
        return self._certify(key, HUB_NAME, ExtendedKeyUsageOID.CLIENT_AUTH, now_ms)

    def for_broker(
        self, key: ec.EllipticCurvePublicKey, hosts: Iterable[str], now_ms: int
    ) -> x509.Certificate:
        """A server certificate for these names and addresses."""
        return self._certify(key, "broker", ExtendedKeyUsageOID.SERVER_AUTH, now_ms, hosts)

    def _certify(
        self,
        key: ec.EllipticCurvePublicKey,
        name: str,
        purpose: x509.ObjectIdentifier,
        now_ms: int,
        hosts: Iterable[str] = (),
    ) -> x509.Certificate:
        ends_ms = min(now_ms + CERTIFICATE_MS, self.ends_ms())
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_at(now_ms - BACKDATED_MS))
            .not_valid_after(_at(ends_ms))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(self._identifier(), critical=False)
        )
        if names := [_host(host) for host in hosts]:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, SHA256())

    def revoke(self, revoked: Iterable[Revoked], now_ms: int) -> x509.CertificateRevocationList:
        """The list of what counts no more; good for as long as the authority is."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(_at(now_ms - BACKDATED_MS))
            .next_update(_at(self.ends_ms()))
            .add_extension(x509.CRLNumber(now_ms), critical=False)
            .add_extension(self._identifier(), critical=False)
        )
        for each in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(each.serial)
                .revocation_date(_at(each.at_ms))
                .build()
            )
        return builder.sign(self.key, SHA256())

    def made(self, certificate: x509.Certificate | x509.CertificateRevocationList) -> bool:
        """Whether it is of this authority."""
        key = self.key.public_key()
        if isinstance(certificate, x509.CertificateRevocationList):
            return certificate.is_signature_valid(key)
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def as_hub(self, now_ms: int) -> ssl.SSLContext:
        """How the hub goes to the broker: TLS 1.3, by a certificate made for this connection.

        The time is left out of it, as edges do: what counts is whose the broker is.
        """
        key = new_key()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= NO_CHECK_TIME
        context.load_verify_locations(cadata=self.pem().decode())
        own = self.for_hub(key.public_key(), now_ms).public_bytes(Encoding.PEM) + key_pem(key)
        with in_memory(own) as path:
            context.load_cert_chain(path)
        return context

    def _identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())


def key_of_request(request: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key that a certificate signing request (PKCS #10, DER) is for, and signed with.

    Raises RequestError.
    """
    try:
        parsed = x509.load_der_x509_csr(request)
        key = parsed.public_key()
        fits = parsed.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RequestError("is no certificate signing request in DER") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RequestError("is of another kind of key than P-256")
    if not fits:
        raise RequestError("is not signed by its own key")
    return key


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def ends_ms(certificate: x509.Certificate) -> int:
    """When a certificate ends."""
    return _ms(certificate.not_valid_after_utc)


def is_due(certificate: x509.Certificate, now_ms: int) -> bool:
    """Whether two thirds of a certificate's life are over."""
    begins = _ms(certificate.not_valid_before_utc)
    return now_ms >= begins + (ends_ms(certificate) - begins) * 2 // 3


@contextmanager
def in_memory(content: bytes) -> Iterator[str]:
    """A path from which OpenSSL, which takes keys from files alone, reads what is on no disk."""
    descriptor = os.memfd_create("shuaka", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        open_to_all = path.stat().st_mode & 0o007
        key = load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("it is of another kind")  # noqa: TRY301
    except FileNotFoundError as error:
        raise KeysError(f"{path}: no authority yet; run shuaka-hub broker") from error
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeysError(
            f"{path}: is no key ({error}); move it away: the next shuaka-hub broker makes a new one"
        ) from error
    if open_to_all:
        raise KeysError(f"{path}: every user can read the authority's key: chmod 600 {path}")
    return key


def _vouch_for_itself(key: ec.EllipticCurvePrivateKey, now_ms: int) -> x509.Certificate:
    public = key.public_key()
    # A name of its own, so that an authority that takes this one's place is told from it.
    name = _named(f"shuaka {x509.SubjectKeyIdentifier.from_public_key(public).digest[:6].hex()}")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_at(now_ms - BACKDATED_MS))
        .not_valid_after(_at(now_ms + AUTHORITY_MS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, SHA256())
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    """`signs`: for itself, as a certificate of TLS does; otherwise certificates and their lists."""
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not signs,
        crl_sign=not signs,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC)


def _ms(at: datetime) -> int:
    return int(at.timestamp()) * 1000
