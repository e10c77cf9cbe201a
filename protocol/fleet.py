"""Belonging to a hub after enrolment: certificates for the broker, the hub's next keys, orders.

A certificate lets an edge through to the broker and no further: what it says there is believed for
its signature. So a certificate may expire, and whoever is still of the fleet asks for another by
the same signature; the clock of a device that woke up in 1970 does not matter to that.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from protocol import cbor
from protocol.errors import Reason, RemoteError
from protocol.identity import HubKeys, MessageType, Signed, SigningKey
from protocol.journal import ID_BYTES

NONCE_BYTES: Final = 16
PUBLIC_KEY_BYTES: Final = 32
MAX_REQUEST_BYTES: Final = 2048
"""A certificate signing request (PKCS #10, DER) of one key."""
MAX_CERTIFICATE_BYTES: Final = 4096
"""One X.509 certificate, DER."""


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """An edge asks for a certificate for the broker, its first or its next."""

    edge: bytes
    nonce: bytes
    """Random, new with each request: an answer is to one request and to no other."""
    request: bytes
    """PKCS #10 (RFC 2986), DER. Of its content only the key counts."""

    def seal(self, key: SigningKey) -> bytes:
        """The signed message, for POST /api/v1/certificate."""
        return key.sign(
            MessageType.CERTIFICATE_REQUEST, cbor.encode([self.edge, self.nonce, self.request])
        )

    @classmethod
    def parse(cls, data: bytes) -> tuple[Self, Signed]:
        """What is asked, and by whom it claims to be signed: verify that before believing it.

        Raises RemoteError.
        """
        signed = Signed.parse(data, MessageType.CERTIFICATE_REQUEST)
        what = "certificate request"
        fields = cbor.Fields(cbor.decode(signed.payload, what), what, 3)
        return cls(
            fields.octets("edge", ID_BYTES),
            fields.octets("nonce", NONCE_BYTES),
            fields.octets("request", 1, MAX_REQUEST_BYTES),
        ), signed


@dataclass(frozen=True, slots=True)
class Certificate:
    """The hub's answer: what an edge shows to the broker, and by what it knows the broker."""

    edge: bytes
    nonce: bytes
    certificate: bytes
    """X.509 (RFC 5280), DER; its common name is the edge's id in 32 lower-case hex digits."""
    authority: bytes
    """The certificate of the hub's own authority, DER: the only one that counts for the broker."""

    def seal(self, hub: SigningKey) -> bytes:
        payload = cbor.encode([self.edge, self.nonce, self.certificate, self.authority])
        return hub.sign(MessageType.CERTIFICATE, payload)

    @classmethod
    def open(cls, data: bytes, hub_sign: bytes, request: CertificateRequest) -> Self:
        """Raises RemoteError, also where it answers another request."""
        payload = Signed.parse(data, MessageType.CERTIFICATE).verify(hub_sign)
        fields = cbor.Fields(cbor.decode(payload, "certificate"), "certificate", 4)
        found = cls(
            fields.octets("edge", ID_BYTES),
            fields.octets("nonce", NONCE_BYTES),
            fields.octets("certificate", 1, MAX_CERTIFICATE_BYTES),
            fields.octets("authority", 1, MAX_CERTIFICATE_BYTES),
        )
        if (found.edge, found.nonce) != (request.edge, request.nonce):
            raise RemoteError(Reason.BAD_SIGNATURE, "the certificate answers another request")
        return found


@dataclass(frozen=True, slots=True)
class NextKeys:
    """The hub changes one of its keys or both, and says so with the signing key known until then.

    `number` rises with each change. An edge follows a statement that its known key signed and whose
    number is higher than that of the last it followed; of several it is sent, in their order, it
    follows those that fit and passes over the others.
    """

    number: int
    keys: HubKeys

    def seal(self, known: SigningKey) -> bytes:
        """The payload of `down/<edge>/keys`; `known`: the signing key until then."""
        payload = cbor.encode([self.number, self.keys.sign, self.keys.seal])
        return known.sign(MessageType.HUB_KEYS, payload)

    @classmethod
    def open(cls, data: bytes, known: bytes) -> Self:
        """Raises RemoteError; BAD_SIGNATURE where another key than `known` signed it."""
        payload = Signed.parse(data, MessageType.HUB_KEYS).verify(known)
        fields = cbor.Fields(cbor.decode(payload, "hub keys"), "hub keys", 3)
        return cls(
            fields.uint("number"),
            HubKeys(
                fields.octets("signing key", PUBLIC_KEY_BYTES),
                fields.octets("sealing key", PUBLIC_KEY_BYTES),
            ),
        )


class Command(IntEnum):
    """What a hub may order."""

    RETIRE = 1
    """Record nothing any more, hand over what is held, and say that this was all."""


@dataclass(frozen=True, slots=True)
class Order:
    """The hub tells one edge what to do. A command that an edge does not know, it passes over."""

    edge: bytes
    issued_ms: int
    command: int

    def seal(self, hub: SigningKey) -> bytes:
        """The payload of `down/<edge>/order`."""
        payload = cbor.encode([self.edge, self.issued_ms, int(self.command)])
        return hub.sign(MessageType.ORDER, payload)

    @classmethod
    def open(cls, data: bytes, hub_sign: bytes, edge: bytes) -> Self:
        """Raises RemoteError; WRONG_TOPIC where it is for another edge."""
        payload = Signed.parse(data, MessageType.ORDER).verify(hub_sign)
        fields = cbor.Fields(cbor.decode(payload, "order"), "order", 3)
        found = cls(
            fields.octets("edge", ID_BYTES), fields.uint("issued"), fields.uint("command", 255)
        )
        if found.edge != edge:
            raise RemoteError(Reason.WRONG_TOPIC, "the order is for another edge")
        return found
