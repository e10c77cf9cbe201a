"""The hub's own keys: one signs receipts, the other opens what edges seal to it.

They live in one file, mode 0600, outside of the database: whoever has the database alone reads no
sealed subject. Losing the opening key makes taps not yet ingested unreadable for good, so the file
must be backed up apart from the database. Retired opening keys stay in the file until no device
holds entries under them.

Both keys change together (`rotate`): what says so is signed with the key until then, and is kept
for devices that have not heard of it. Each statement follows from the one before and from no other,
so that none of them, played back, leads a device to an older key.
"""

import hashlib
import json
import os
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from hub import durable
from protocol.fleet import NextKeys
from protocol.identity import HubKeys, OpeningKey, SigningKey

FILE_NAME: Final = "hub-keys.json"
BACKED_UP: Final = "hub-keys.backed-up"
"""Holds the SHA-256 of the key file that was backed up last."""


class KeysError(Exception):
    """The key file is missing, there already, or cannot be read; the message names it."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """The signing key and the opening keys; the first of these is the one now in use."""

    sign: SigningKey
    open: tuple[OpeningKey, ...]
    statements: tuple[bytes, ...] = ()
    """What says each change of keys so far, in order: signed NextKeys, for devices."""

    def public(self) -> HubKeys:
        """What an enrolment code vouches for and an edge is given."""
        return HubKeys(self.sign.public, self.open[0].public)

    def opening_key(self, key_id: bytes) -> OpeningKey | None:
        """The opening key of this id, current or retired."""
        return next((key for key in self.open if key.public_id == key_id), None)

    @classmethod
    def make(cls, data: Path) -> Self:
        """New keys, durable in `data`. Raises KeysError where there are keys already."""
        path = data / FILE_NAME
        made = cls(SigningKey.generate(), (OpeningKey.generate(),))
        try:
            durable.write_once(path, _encode(made))
        except FileExistsError as error:
            raise KeysError(
                f"{path}: this hub has its keys already; they are not replaced"
            ) from error
        except OSError as error:
            raise KeysError(f"{path}: {error.strerror}") from error
        return made

    def rotate(self, data: Path) -> Self:
        """New keys in the place of these; the opening keys until now stay. Raises KeysError."""
        sign, opening = SigningKey.generate(), OpeningKey.generate()
        said = NextKeys(len(self.statements) + 1, HubKeys(sign.public, opening.public))
        changed = replace(
            self,
            sign=sign,
            open=(opening, *self.open),
            statements=(*self.statements, said.seal(self.sign)),
        )
        _write(data / FILE_NAME, changed)
        return changed

    def without(self, key_id: bytes, data: Path) -> Self:
        """These without a retired opening key. Raises KeysError for the one in use."""
        if key_id == self.open[0].public_id:
            raise KeysError(f"{key_id.hex()}: this key is the one in use")
        if self.opening_key(key_id) is None:
            raise KeysError(f"{key_id.hex()}: there is no such opening key")
        kept = replace(self, open=tuple(key for key in self.open if key.public_id != key_id))
        _write(data / FILE_NAME, kept)
        return kept

    @classmethod
    def load(cls, data: Path) -> Self:
        """The keys in `data`; KeysError with what to do where they cannot be read."""
        path = data / FILE_NAME
        try:
            open_to_all = path.stat().st_mode & 0o007
            content = json.loads(path.read_bytes())
            if content["format"] not in {1, 2}:
                raise ValueError(f"format {content['format']!r} is none that this version reads")  # noqa: TRY301
            keyring = cls(
                SigningKey(b64decode(content["sign"], validate=True)),
                tuple(OpeningKey(b64decode(raw, validate=True)) for raw in content["open"]),
                tuple(b64decode(each, validate=True) for each in content.get("statements", ())),
            )
            if not keyring.open:
                raise ValueError("it holds no opening key")  # noqa: TRY301
        except FileNotFoundError as error:
            raise KeysError(f"{path}: no keys yet; run shuaka-hub init") from error
        except OSError as error:
            raise KeysError(f"{path}: {error.strerror}") from error
        except KeyError as error:
            raise KeysError(
                f"{path}: is no key file ({error} is missing); restore it from a backup"
            ) from error
        except (ValueError, TypeError, RecursionError) as error:
            raise KeysError(
                f"{path}: is no key file ({error}); restore it from a backup"
            ) from error
        if open_to_all:
            raise KeysError(f"{path}: every user can read the hub's keys: chmod 600 {path}")
        return keyring


def _write(path: Path, keyring: Keyring) -> None:
    try:
        durable.replace(path, _encode(keyring))
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}; the keys are as they were") from error


def _encode(keyring: Keyring) -> bytes:
    return json.dumps(
        {
            "format": 2,
            "sign": b64encode(keyring.sign.raw()).decode(),
            "open": [b64encode(key.raw()).decode() for key in keyring.open],
            "statements": [b64encode(each).decode() for each in keyring.statements],
        }
    ).encode()


def back_up(data: Path, to: Path) -> None:
    """Copies the key file to a new file, reads it back, and keeps in mind that it was done.

    Raises KeysError. On another file system than ours, such as a stick's, there may be no links.
    """
    try:
        content = (data / FILE_NAME).read_bytes()
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if to.read_bytes() != content:
            raise KeysError(f"{to}: holds something else than was written; use another medium")
        durable.replace(data / BACKED_UP, _digest(content))
    except FileExistsError as error:
        raise KeysError(f"{to}: is there already, and is not overwritten") from error
    except OSError as error:
        raise KeysError(f"{error.filename or to}: {error.strerror}") from error


def is_backed_up(data: Path) -> bool:
    """Whether the keys as they are now were backed up. Raises OSError without a key file."""
    try:
        marked = (data / BACKED_UP).read_bytes()
    except FileNotFoundError:
        return False
    return marked.strip() == _digest((data / FILE_NAME).read_bytes()).strip()


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode() + b"\n"
