"""The hub's own keys: one signs receipts, the other opens what edges seal to it.

They live in one file, mode 0600, outside of the database: whoever has the database alone reads no
sealed subject. Losing the opening key makes taps not yet ingested unreadable for good, so the file
must be backed up apart from the database. Retired opening keys stay in the file until no device
holds entries under them.
"""

import json
import os
import tempfile
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from protocol.identity import HubKeys, OpeningKey, SigningKey

FILE_NAME: Final = "hub-keys.json"


class KeysError(Exception):
    """The key file is missing, there already, or cannot be read; the message names it."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """The signing key and the opening keys; the first of these is the one now in use."""

    sign: SigningKey
    open: tuple[OpeningKey, ...]

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
        if path.exists():
            raise KeysError(f"{path}: this hub has its keys already; they are not replaced")
        made = cls(SigningKey.generate(), (OpeningKey.generate(),))
        content = {
            "format": 1,
            "sign": b64encode(made.sign.raw()).decode(),
            "open": [b64encode(key.raw()).decode() for key in made.open],
        }
        try:
            _write_once(path, json.dumps(content).encode())
        except FileExistsError as error:
            raise KeysError(
                f"{path}: this hub has its keys already; they are not replaced"
            ) from error
        except OSError as error:
            raise KeysError(f"{path}: {error.strerror}") from error
        return made

    @classmethod
    def load(cls, data: Path) -> Self:
        """The keys in `data`; KeysError with what to do where they cannot be read."""
        path = data / FILE_NAME
        try:
            open_to_all = path.stat().st_mode & 0o007
            content = json.loads(path.read_bytes())
            if content["format"] != 1:
                raise ValueError(f"format {content['format']!r} is none that this version reads")  # noqa: TRY301
            keyring = cls(
                SigningKey(b64decode(content["sign"], validate=True)),
                tuple(OpeningKey(b64decode(raw, validate=True)) for raw in content["open"]),
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


def _write_once(path: Path, content: bytes) -> None:
    """Whole or not at all, durable, readable by its owner alone; FileExistsError if it is there."""
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(scratch, path)
    finally:
        os.unlink(scratch)  # noqa: PTH108  mkstemp gives a string
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
