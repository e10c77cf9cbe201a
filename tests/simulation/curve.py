"""Signatures that cost little: a keyed hash in the place of Ed25519, for whoever trusts itself.

Everything around the curve stays the product's: envelope, key ids, types, refusals. The public key
is all it takes to sign here, so it shows nothing about Ed25519; some worlds sign for real.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Self

from cryptography.exceptions import InvalidSignature

from protocol import identity


class _Public:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @classmethod
    def from_public_bytes(cls, raw: bytes) -> Self:
        return cls(raw)

    def public_bytes_raw(self) -> bytes:
        return self._raw

    def made(self, message: bytes) -> bytes:
        return hashlib.blake2b(message, key=self._raw, digest_size=64).digest()

    def verify(self, signature: bytes, message: bytes) -> None:
        if signature != self.made(message):
            raise InvalidSignature


class _Private:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._public = _Public(hashlib.blake2b(raw, digest_size=32).digest())

    @classmethod
    def from_private_bytes(cls, raw: bytes) -> Self:
        return cls(raw)

    def private_bytes_raw(self) -> bytes:
        return self._raw

    def public_key(self) -> _Public:
        return self._public

    def sign(self, message: bytes) -> bytes:
        return self._public.made(message)


@contextlib.contextmanager
def cheap() -> Iterator[None]:
    """Within it, keys are made and messages verified with the hash."""
    kept = identity.Ed25519PrivateKey, identity.Ed25519PublicKey
    identity.Ed25519PrivateKey = _Private  # type: ignore[misc, assignment]
    identity.Ed25519PublicKey = _Public  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        identity.Ed25519PrivateKey, identity.Ed25519PublicKey = kept  # type: ignore[misc]
