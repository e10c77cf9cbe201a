"""Who this edge is: its keys on disk, and how it joins a hub with a one-time code.

The keys are made once and kept, so that a request whose answer was lost can be repeated with the
same code (protocol.identity says how the two convince each other).
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from edge.request import HubAddress, RequestError, ask
from edge.wholefile import write
from protocol.errors import RemoteError
from protocol.fleet import NextKeys
from protocol.identity import (
    Enrolment,
    EnrolmentCode,
    HubKeys,
    OpeningKey,
    SigningKey,
    enrolment_proof,
    open_enrolment,
)
from protocol.topics import Broker

KEYS_FILE: Final = "keys.json"
ENROLMENT_FILE: Final = "enrolment.json"


class EnrolError(Exception):
    """Why the edge could not be enrolled, and what to do."""


class IdentityError(Exception):
    """Keys or enrolment on disk cannot be read; the message names the file."""


class _KeysFile(msgspec.Struct, forbid_unknown_fields=True):
    sign: bytes
    seal: bytes


class _EnrolmentFile(msgspec.Struct):
    edge: bytes
    name: str
    edge_sign: bytes
    hub_sign: bytes
    hub_seal: bytes
    generation: int
    mqtt_url: str
    hub_url: str = ""
    """Where the hub's API is; empty in a file of an earlier version."""
    keys_number: int = 0
    """Of the last change of the hub's keys that was followed."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The edge's own private keys."""

    sign: SigningKey
    seal: OpeningKey

    @classmethod
    def load(cls, data: Path) -> Self:
        """The keys on disk. Raises IdentityError, also where there are none."""
        path = data / KEYS_FILE
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=_KeysFile)
            return cls(SigningKey(stored.sign), OpeningKey(stored.seal))
        except FileNotFoundError as error:
            raise IdentityError(
                f"{path}: the keys of this device are gone; restore them from a backup, or move"
                f" {ENROLMENT_FILE} away and enrol this device anew"
            ) from error
        except OSError as error:
            raise IdentityError(f"{path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:  # no JSON, or a key of a wrong length
            raise IdentityError(
                f"{path}: is no key file ({error}); restore it from a backup, or move it away and"
                " enrol this device anew"
            ) from error

    @classmethod
    def load_or_make(cls, data: Path) -> Self:
        """Raises IdentityError. A file that exists is never overwritten."""
        path = data / KEYS_FILE
        try:
            if path.exists():
                return cls.load(data)
            data.mkdir(parents=True, exist_ok=True, mode=0o700)
            made = cls(SigningKey.generate(), OpeningKey.generate())
            _write(path, _KeysFile(made.sign.raw(), made.seal.raw()))
        except OSError as error:
            raise IdentityError(f"{path}: {error.strerror}") from error
        return made


def load_enrolment(data: Path) -> Enrolment | None:
    """The enrolment on disk, None where there is none. Raises IdentityError."""
    stored = _load(data)
    if stored is None:
        return None
    return Enrolment(
        edge=stored.edge,
        name=stored.name,
        edge_sign=stored.edge_sign,
        hub=HubKeys(stored.hub_sign, stored.hub_seal),
        generation=stored.generation,
        mqtt_url=stored.mqtt_url,
    )


def load_hub_url(data: Path) -> str:
    """Where the API of this edge's hub is; empty where that is not known. Raises IdentityError."""
    stored = _load(data)
    return "" if stored is None else stored.hub_url


def keep_hub_url(data: Path, hub_url: str) -> None:
    """The hub's API is elsewhere from now on. Raises IdentityError."""
    stored = _load(data)
    if stored is not None:
        _keep(data, msgspec.structs.replace(stored, hub_url=hub_url))


def follow(data: Path, said: NextKeys) -> None:
    """The hub has these keys from now on. Raises IdentityError.

    Whether the key known until then said so has been looked at. An older statement, played back,
    is passed over.
    """
    stored = _load(data)
    if stored is not None and said.number > stored.keys_number:
        _keep(
            data,
            msgspec.structs.replace(
                stored,
                hub_sign=said.keys.sign,
                hub_seal=said.keys.seal,
                keys_number=said.number,
            ),
        )


def _keep(data: Path, stored: _EnrolmentFile) -> None:
    try:
        _write(data / ENROLMENT_FILE, stored)
    except OSError as error:
        raise IdentityError(f"{data / ENROLMENT_FILE}: {error.strerror}") from error


def _load(data: Path) -> _EnrolmentFile | None:
    path = data / ENROLMENT_FILE
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=_EnrolmentFile)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IdentityError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise IdentityError(_no_enrolment(path, error)) from error
    try:
        Broker.parse(stored.mqtt_url)
        if (
            stored.generation < 0
            or len(stored.edge) != 16
            or any(len(key) != 32 for key in (stored.edge_sign, stored.hub_sign, stored.hub_seal))
        ):
            raise ValueError("an id, a key or a number is impossible")  # noqa: TRY301
    except ValueError as error:
        raise IdentityError(_no_enrolment(path, error)) from error
    return stored


def load_identity(data: Path) -> tuple[Enrolment, Keys] | None:
    """Who this edge is, and its keys; None where it is not enrolled. Raises IdentityError."""
    enrolment = load_enrolment(data)
    if enrolment is None:
        return None
    keys = Keys.load(data)
    if keys.sign.public != enrolment.edge_sign:
        raise IdentityError(
            f"{data / KEYS_FILE}: these keys are not those that were enrolled; restore those, or"
            f" move {ENROLMENT_FILE} away and enrol this device anew"
        )
    return enrolment, keys


def _no_enrolment(path: Path, error: Exception) -> str:
    return (
        f"{path}: is no enrolment ({error}); restore it from a backup, or move it away and enrol"
        " this device anew"
    )


def enrol(data: Path, hub_url: str, code: EnrolmentCode) -> Enrolment:
    """Joins the hub at `hub_url` (http:// or https://) and keeps its answer in `data`.

    Raises EnrolError in plain words, IdentityError; nothing but this edge's own keys is written
    unless the hub that the code names said yes.
    """
    try:
        hub = HubAddress.parse(hub_url)
    except RequestError as error:
        raise EnrolError(str(error)) from error
    if load_enrolment(data) is not None:
        raise EnrolError(
            f"this device is enrolled already ({data / ENROLMENT_FILE}); move that file away to"
            " enrol it anew"
        )
    keys = Keys.load_or_make(data)
    proof = enrolment_proof(code.verifier(), keys.sign.public, keys.seal.public, code.fingerprint)
    request = {
        "sign_key": _to_text(keys.sign.public),
        "seal_key": _to_text(keys.seal.public),
        "proof": _to_text(proof),
    }
    try:
        # The code's fingerprint says whether it is the hub; a clock that is off need not stop it.
        answer = ask(hub, "POST", "/api/v1/enrol", request, checks_time=False)
    except RequestError as error:
        raise EnrolError(str(error)) from error
    try:
        signed = urlsafe_b64decode(str(answer["answer"]) + "==")
        enrolment = open_enrolment(signed, code, keys.sign.public, proof)
        Broker.parse(enrolment.mqtt_url)
    except RemoteError as error:
        raise EnrolError(f"the hub's answer is not to be trusted: {error.detail}") from error
    except (KeyError, ValueError) as error:
        raise EnrolError(f"{hub_url} did not answer as a hub does ({error})") from error
    stored = _EnrolmentFile(
        edge=enrolment.edge,
        name=enrolment.name,
        edge_sign=enrolment.edge_sign,
        hub_sign=enrolment.hub.sign,
        hub_seal=enrolment.hub.seal,
        generation=enrolment.generation,
        mqtt_url=enrolment.mqtt_url,
        hub_url=str(hub),
    )
    try:
        _write(data / ENROLMENT_FILE, stored)
    except OSError as error:
        raise EnrolError(
            f"{data / ENROLMENT_FILE}: {error.strerror}; mend that and enter the same code again"
            " within fifteen minutes"
        ) from error
    return enrolment


def _write(path: Path, content: msgspec.Struct) -> None:
    write(path, msgspec.json.encode(content))


def _to_text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")
