"""Who signs and who may read: keys, their ids, COSE signatures, the enrolment code.

Signatures are COSE_Sign1 (RFC 9052 §4.2) with Ed25519 (RFC 8032; algorithm -19 of RFC 9864) over
the exact bytes that travel. The protected header names algorithm, key and message type, so that a
receipt can never pass for a batch and another algorithm (SM2) can follow.
"""

import hashlib
import hmac
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from protocol import cbor
from protocol.errors import LocalError, Reason, RemoteError

VERSION: Final = 1
KEY_ID_BYTES: Final = 8
ALGORITHM_ED25519: Final = -19
HEADER_ALGORITHM: Final = 1
HEADER_KEY_ID: Final = 4
HEADER_TYPE: Final = 16  # RFC 9596

MAX_MESSAGE_BYTES: Final = 64 * 1024
"""The largest MQTT payload either side sends or reads."""


class MessageType(StrEnum):
    """What a signed message is; the `typ` header reads `shuaka/<version>/<type>`."""

    BATCH = "batch"
    HELLO = "hello"
    HEARTBEAT = "heartbeat"
    RECEIPT = "receipt"
    HUB_STATE = "hub-state"
    ROSTER = "roster"
    ENROLMENT = "enrolment"
    CERTIFICATE_REQUEST = "certificate-request"
    CERTIFICATE = "certificate"
    HUB_KEYS = "hub-keys"
    ORDER = "order"


def key_id(public_key: bytes) -> bytes:
    """The eight bytes by which the wire names a public key (raw, 32 bytes)."""
    return hashlib.sha256(public_key).digest()[:KEY_ID_BYTES]


class SigningKey:
    """An Ed25519 private key."""

    __slots__ = ("_key", "public", "public_id")

    def __init__(self, raw: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(raw)
        self.public = self._key.public_key().public_bytes_raw()
        self.public_id = key_id(self.public)

    @classmethod
    def generate(cls) -> Self:
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    def raw(self) -> bytes:
        """The 32 bytes of the private key."""
        return self._key.private_bytes_raw()

    def sign(self, message: MessageType, payload: bytes) -> bytes:
        """`payload` as a COSE_Sign1 array of type `message`."""
        protected = cbor.encode(
            {
                HEADER_ALGORITHM: ALGORITHM_ED25519,
                HEADER_KEY_ID: self.public_id,
                HEADER_TYPE: f"shuaka/{VERSION}/{message}",
            }
        )
        signature = self._key.sign(_to_be_signed(protected, payload))
        return cbor.encode([protected, {}, payload, signature])


class OpeningKey:
    """An X25519 private key: opens what was sealed to its public half."""

    __slots__ = ("key", "public", "public_id")

    def __init__(self, raw: bytes) -> None:
        self.key = X25519PrivateKey.from_private_bytes(raw)
        self.public = self.key.public_key().public_bytes_raw()
        self.public_id = key_id(self.public)

    @classmethod
    def generate(cls) -> Self:
        return cls(X25519PrivateKey.generate().private_bytes_raw())

    def raw(self) -> bytes:
        """The 32 bytes of the private key."""
        return self.key.private_bytes_raw()


def sealing_key(public_key: bytes) -> X25519PublicKey:
    return X25519PublicKey.from_public_bytes(public_key)


@dataclass(frozen=True, slots=True)
class Signed:
    """A COSE_Sign1 message, parsed and not yet verified."""

    message: MessageType
    signer: bytes
    """The key id that the message claims."""
    payload: bytes
    _protected: bytes
    _signature: bytes

    @classmethod
    def parse(cls, data: bytes, expected: MessageType) -> Self:
        """Reads `data`; raises RemoteError: MALFORMED, FUTURE_VERSION or WRONG_TYPE.

        Nothing in the payload is looked at: that waits for `verify`.
        """
        what = f"signed {expected}"
        if len(data) > MAX_MESSAGE_BYTES:
            raise RemoteError(Reason.OVERSIZE, f"{len(data)} bytes")
        fields = cbor.Fields(cbor.decode(data, what), what, 4)
        protected = fields.octets("protected header", 1, 128)
        if type(fields.any()) is not dict:
            raise RemoteError(Reason.MALFORMED, f"{what}: unprotected header is not a map")
        payload = fields.octets("payload", 0, MAX_MESSAGE_BYTES)
        signature = fields.octets("signature", 0, 128)
        header = cbor.decode(protected, "protected header")
        if type(header) is not dict:
            raise RemoteError(Reason.MALFORMED, "protected header is not a map")
        kind = header.get(HEADER_TYPE)
        parts = re.fullmatch(r"shuaka/([0-9]+)/([^/]+)", kind) if type(kind) is str else None
        if parts is None:
            raise RemoteError(Reason.WRONG_TYPE, f"type {kind!r} is not of this project")
        if parts[1] != str(VERSION):
            raise RemoteError(Reason.FUTURE_VERSION, f"{kind!r} is not of version {VERSION}")
        if parts[2] != expected:
            raise RemoteError(Reason.WRONG_TYPE, f"{kind!r} where a {expected} belongs")
        algorithm = header.get(HEADER_ALGORITHM)
        if type(algorithm) is not int or algorithm != ALGORITHM_ED25519:
            raise RemoteError(Reason.FUTURE_VERSION, "signed by an algorithm not known here")
        signer = header.get(HEADER_KEY_ID)
        if type(signer) is not bytes or len(signer) != KEY_ID_BYTES:
            raise RemoteError(Reason.MALFORMED, "no key id")
        return cls(expected, signer, payload, protected, signature)

    def verify(self, public_key: bytes) -> bytes:
        """The payload, if `public_key` (raw) signed it; else RemoteError(BAD_SIGNATURE)."""
        if self.signer != key_id(public_key):
            raise RemoteError(Reason.BAD_SIGNATURE, "signed by another key")
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(
                self._signature, _to_be_signed(self._protected, self.payload)
            )
        except InvalidSignature as error:
            raise RemoteError(Reason.BAD_SIGNATURE, "the signature does not fit") from error
        return self.payload


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    # RFC 9052 §4.4: context, body_protected, external_aad, payload
    return cbor.encode(["Signature1", protected, b"", payload])


# --- enrolment ------------------------------------------------------------------------------------

SECRET_BITS: Final = 65
FINGERPRINT_BYTES: Final = 10
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no I, L, O, U
_READ_AS: Final = str.maketrans("ILO", "110")
_GROUP: Final = 5
_SECRET_CHARS: Final = 13
_FINGERPRINT_CHARS: Final = 16


class InvalidCodeError(ValueError):
    """An enrolment code that was mistyped; the message says how."""


@dataclass(frozen=True, slots=True)
class HubKeys:
    """The public halves of a hub's two keys, raw, 32 bytes each."""

    sign: bytes
    seal: bytes

    def fingerprint(self) -> bytes:
        """80 bits that name both keys, and nothing but a preimage of SHA-256 can forge."""
        return hashlib.sha256(b"shuaka/1/hub-keys" + self.sign + self.seal).digest()[
            :FINGERPRINT_BYTES
        ]


@dataclass(frozen=True, slots=True)
class EnrolmentCode:
    """What a technician types: a one-time secret, and which hub it is for.

    Written as six groups of five characters, the last of which is a check character.
    """

    secret: int
    fingerprint: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.secret < 1 << SECRET_BITS or len(self.fingerprint) != FINGERPRINT_BYTES:
            raise LocalError("a code has 65 bits of secret and 80 of fingerprint")

    def __str__(self) -> str:
        body = _base32(self.secret, _SECRET_CHARS) + _base32(
            int.from_bytes(self.fingerprint), _FINGERPRINT_CHARS
        )
        text = body + _check_character(body)
        return "-".join(text[at : at + _GROUP] for at in range(0, len(text), _GROUP))

    def __repr__(self) -> str:
        return "EnrolmentCode(…)"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what was typed: any case or width, spaces or dashes, O for 0, I and L for 1."""
        plain = unicodedata.normalize("NFKC", text)  # an input method types ＡＢＣ１２
        kept = (c for c in plain if not c.isspace() and unicodedata.category(c) != "Pd")
        typed = "".join(kept).upper().translate(_READ_AS)
        wanted = _SECRET_CHARS + _FINGERPRINT_CHARS + 1
        for character in typed:
            if character not in _ALPHABET:
                raise InvalidCodeError(f"the code contains {character!r}, which no code has")
        if len(typed) != wanted:
            raise InvalidCodeError(f"the code has {len(typed)} characters of {wanted}")
        if _check_character(typed[:-1]) != typed[-1]:
            raise InvalidCodeError("the code was mistyped: its last character does not fit")
        return cls(
            _unbase32(typed[:_SECRET_CHARS]),
            _unbase32(typed[_SECRET_CHARS:-1]).to_bytes(FINGERPRINT_BYTES),
        )

    def verifier(self) -> bytes:
        """SHA-256 of the secret: what the hub stores, and the key of `enrolment_proof`."""
        return hashlib.sha256(self.secret.to_bytes(9)).digest()


def enrolment_proof(verifier: bytes, sign: bytes, seal: bytes, fingerprint: bytes) -> bytes:
    """HMAC-SHA256: shows that an edge was given the code, for these keys and this hub."""
    said = cbor.encode(["shuaka/1/enrol", sign, seal, fingerprint])
    return hmac.digest(verifier, said, "sha256")


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The hub's answer: who the edge is from now on, and whom it trusts."""

    edge: bytes
    name: str
    edge_sign: bytes
    hub: HubKeys
    generation: int
    mqtt_url: str
    proof: bytes = b""
    """The request's: the answer is to that request and to no other. Not kept afterwards."""

    def encode(self) -> bytes:
        return cbor.encode(
            [
                self.edge,
                self.name,
                self.edge_sign,
                self.hub.sign,
                self.hub.seal,
                self.generation,
                self.mqtt_url,
                self.proof,
            ]
        )


def open_enrolment(data: bytes, code: EnrolmentCode, edge_sign: bytes, proof: bytes) -> Enrolment:
    """The enrolment in a signed answer, if it comes from the code's hub and answers this request.

    Raises RemoteError; BAD_SIGNATURE where the hub is not the one that the code names.
    """
    signed = Signed.parse(data, MessageType.ENROLMENT)
    fields = cbor.Fields(cbor.decode(signed.payload, "enrolment"), "enrolment", 8)
    enrolment = Enrolment(
        edge=fields.octets("edge", 16),
        name=fields.text("name", 64),
        edge_sign=fields.octets("edge key", 32),
        hub=HubKeys(fields.octets("hub signing key", 32), fields.octets("hub sealing key", 32)),
        generation=fields.uint("generation"),
        mqtt_url=fields.text("mqtt url", 256),
        proof=fields.octets("proof", 32),
    )
    # The keys come out of the message itself: it is the code's fingerprint that vouches for them.
    if not hmac.compare_digest(enrolment.hub.fingerprint(), code.fingerprint):
        raise RemoteError(Reason.BAD_SIGNATURE, "another hub answered than the code names")
    signed.verify(enrolment.hub.sign)
    if enrolment.edge_sign != edge_sign or not hmac.compare_digest(enrolment.proof, proof):
        raise RemoteError(Reason.BAD_SIGNATURE, "the answer is to another request")
    return enrolment


def _base32(number: int, characters: int) -> str:
    return "".join(_ALPHABET[number >> 5 * at & 31] for at in reversed(range(characters)))


def _unbase32(text: str) -> int:
    number = 0
    for character in text:
        number = number << 5 | _ALPHABET.index(character)
    return number


def _check_character(body: str) -> str:
    return _ALPHABET[hashlib.sha256(body.encode()).digest()[0] & 31]
