"""Subjects that only the hub can read.

Each epoch has a content key that lives in the edge's memory alone and travels wrapped to the hub
(HPKE, RFC 9180, base mode: DHKEM X25519, HKDF-SHA256, ChaCha20-Poly1305). Each subject is sealed
under it with ChaCha20-Poly1305 (RFC 8439), padded so that its length tells nothing, and bound to
edge, epoch and seq, and to its place where an entry has two. A stolen edge can therefore tell
nobody's taps.
"""

import hashlib
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from protocol import cbor
from protocol.credential import MAX_FIELD_CHARS, Credential, InvalidCredentialError
from protocol.errors import LocalError, Reason, RemoteError
from protocol.identity import OpeningKey, sealing_key

CONTENT_KEY_BYTES: Final = 32
WRAPPED_KEY_BYTES: Final = 32 + CONTENT_KEY_BYTES + 16
"""HPKE: 32 bytes encapsulation, the key, 16 bytes tag."""
MAX_WRAPPED_KEY_BYTES: Final = 256
"""Room for another suite: the hub's key id tells which one it is."""
NONCE_BYTES: Final = 12
PAD_TO: Final = 64
MAX_SEALED_BYTES: Final = 1024

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def seal_to(public_key: bytes, content: bytes, info: bytes) -> bytes:
    """`content` for the owner of `public_key` (X25519, raw) alone, bound to `info`; +48 bytes."""
    return _SUITE.encrypt(content, sealing_key(public_key), info=info)


def open_sealed(key: OpeningKey, sealed: bytes, info: bytes) -> bytes:
    """What `seal_to` sealed for `key` with the same `info`; InvalidTag or ValueError otherwise."""
    return _SUITE.decrypt(sealed, key.key, info=info)


def wrap_content_key(content_key: bytes, hub_seal: bytes, edge: bytes, epoch: bytes) -> bytes:
    """`content_key` for the owner of `hub_seal` alone: 80 bytes, encapsulation first."""
    return seal_to(hub_seal, content_key, _info(edge, epoch))


def unwrap_content_key(wrapped: bytes, key: OpeningKey, edge: bytes, epoch: bytes) -> bytes:
    """The content key; RemoteError(MALFORMED) if it was not wrapped for `key`, edge and epoch."""
    try:
        content_key = open_sealed(key, wrapped, _info(edge, epoch))
    except (InvalidTag, ValueError) as error:
        raise RemoteError(Reason.MALFORMED, "the content key cannot be unwrapped") from error
    if len(content_key) != CONTENT_KEY_BYTES:
        raise RemoteError(Reason.MALFORMED, f"a content key of {len(content_key)} bytes")
    return content_key


def subject_digest(sealed: bytes) -> bytes:
    """SHA-256 of a sealed subject: all that the signed entry says of it."""
    return hashlib.sha256(sealed).digest()


class Place(IntEnum):
    """Which of an entry's subjects it is: one sealed as the one never opens as the other."""

    CARD = 0
    """The card that was held to the reader: a tap's subject, or who authorises an action."""
    ABOUT = 1
    """Whom an action speaks of."""


class SubjectBox:
    """Seals and opens the subjects of one epoch."""

    __slots__ = ("_aead", "_of_about", "_of_card")

    def __init__(self, content_key: bytes, edge: bytes, epoch: bytes) -> None:
        self._aead = ChaCha20Poly1305(content_key)
        # an array's items stand one after the other: [edge, epoch, seq] up to the seq
        self._of_card = cbor.encode([edge, epoch, 0])[:-1]
        self._of_about = cbor.encode([edge, epoch, 0, 0])[:-2]

    def seal(
        self, seq: int, credential: Credential, nonce: bytes, place: Place = Place.CARD
    ) -> bytes:
        """Nonce ‖ ciphertext ‖ tag; `nonce` is 12 random bytes, never used twice in an epoch."""
        if len(nonce) != NONCE_BYTES:
            raise LocalError(f"a nonce has {NONCE_BYTES} bytes")
        plain = cbor.encode([credential.scheme, credential.issuer, credential.value])
        padded = plain + bytes(-len(plain) % PAD_TO)
        return nonce + self._aead.encrypt(nonce, padded, self._bound_to(seq, place))

    def open(self, seq: int, sealed: bytes, place: Place = Place.CARD) -> Credential:
        """The credential; RemoteError(MALFORMED) if it was not sealed for this seq and place."""
        try:
            padded = self._aead.decrypt(
                sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self._bound_to(seq, place)
            )
        except (InvalidTag, ValueError) as error:
            raise RemoteError(Reason.MALFORMED, "the subject cannot be opened") from error
        # CBOR delimits itself: what follows the value is the padding
        fields = cbor.Fields(cbor.decode_prefix(padded, "subject"), "subject", 3)
        try:
            return Credential(
                fields.text("scheme", MAX_FIELD_CHARS),
                fields.text("issuer", MAX_FIELD_CHARS),
                fields.text("value", MAX_FIELD_CHARS),
            )
        except InvalidCredentialError as error:
            raise RemoteError(Reason.MALFORMED, f"subject: {error}") from error

    def _bound_to(self, seq: int, place: Place) -> bytes:
        """[edge, epoch, seq] of a card; [edge, epoch, seq, place] of any other subject."""
        if place is Place.CARD:
            return self._of_card + cbor.encode(seq)
        return self._of_about + cbor.encode(seq) + cbor.encode(int(place))


def _info(edge: bytes, epoch: bytes) -> bytes:
    return b"shuaka/1/content-key" + edge + epoch
