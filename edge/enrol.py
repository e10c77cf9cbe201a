"""Who this edge is: its keys on disk, and how it joins a hub with a one-time code.

The keys are made once and kept, so that a request whose answer was lost can be repeated with the
same code (protocol.identity says how the two convince each other).
"""

import json
import os
import urllib.error
import urllib.request
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import msgspec

from protocol.errors import RemoteError
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
TIMEOUT_S: Final = 15


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


@dataclass(frozen=True, slots=True)
class Keys:
    """The edge's own private keys."""

    sign: SigningKey
    seal: OpeningKey

    @classmethod
    def load_or_make(cls, data: Path) -> Self:
        """Raises IdentityError. A file that exists is never overwritten."""
        path = data / KEYS_FILE
        try:
            if not path.exists():
                data.mkdir(parents=True, exist_ok=True, mode=0o700)
                made = cls(SigningKey.generate(), OpeningKey.generate())
                _write(path, _KeysFile(made.sign.raw(), made.seal.raw()))
                return made
            stored = msgspec.json.decode(path.read_bytes(), type=_KeysFile)
            return cls(SigningKey(stored.sign), OpeningKey(stored.seal))
        except OSError as error:
            raise IdentityError(f"{path}: {error.strerror}") from error
        except ValueError as error:  # msgspec's errors, and a key of a wrong length
            raise IdentityError(f"{path}: {error}") from error


def load_enrolment(data: Path) -> Enrolment | None:
    """The enrolment on disk, None where there is none. Raises IdentityError."""
    path = data / ENROLMENT_FILE
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=_EnrolmentFile)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IdentityError(f"{path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise IdentityError(f"{path}: {error}") from error
    return Enrolment(
        edge=stored.edge,
        name=stored.name,
        edge_sign=stored.edge_sign,
        hub=HubKeys(stored.hub_sign, stored.hub_seal),
        generation=stored.generation,
        mqtt_url=stored.mqtt_url,
    )


def enrol(data: Path, hub_url: str, code: EnrolmentCode) -> Enrolment:
    """Joins the hub at `hub_url` (http:// or https://) and keeps its answer in `data`.

    Raises EnrolError in plain words, IdentityError; nothing is written unless the hub that the
    code names said yes.
    """
    if urlsplit(hub_url).scheme not in {"http", "https"} or not urlsplit(hub_url).hostname:
        raise EnrolError(f"{hub_url!r} is not the address of a hub, such as https://hub.example")
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
    answer = _post(hub_url.rstrip("/") + "/api/v1/enrol", request)
    try:
        signed = urlsafe_b64decode(str(answer["answer"]) + "==")
        enrolment = open_enrolment(signed, code, keys.sign.public)
        Broker.parse(enrolment.mqtt_url)
    except RemoteError as error:
        raise EnrolError(f"the hub's answer is not to be trusted: {error.detail}") from error
    except (KeyError, ValueError) as error:
        raise EnrolError(f"{hub_url} did not answer as a hub does ({error})") from error
    _write(
        data / ENROLMENT_FILE,
        _EnrolmentFile(
            edge=enrolment.edge,
            name=enrolment.name,
            edge_sign=enrolment.edge_sign,
            hub_sign=enrolment.hub.sign,
            hub_seal=enrolment.hub.seal,
            generation=enrolment.generation,
            mqtt_url=enrolment.mqtt_url,
        ),
    )
    return enrolment


def _post(url: str, body: dict[str, str]) -> dict[str, object]:
    request = urllib.request.Request(  # noqa: S310  the scheme was checked
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
            answer = json.loads(response.read(64 * 1024))
    except urllib.error.HTTPError as error:
        with error:
            raise EnrolError(_refusal(error)) from error
    except urllib.error.URLError as error:
        raise EnrolError(f"{url} cannot be reached: {error.reason}") from error
    except (OSError, ValueError) as error:
        raise EnrolError(f"{url} did not answer as a hub does: {error}") from error
    if not isinstance(answer, dict):
        raise EnrolError(f"{url} did not answer as a hub does")
    return answer


def _refusal(error: urllib.error.HTTPError) -> str:
    try:
        detail = json.loads(error.read(64 * 1024))["detail"]
    except (OSError, ValueError, KeyError, TypeError):
        detail = error.reason
    return f"the hub refused ({error.code}): {detail}"


def _write(path: Path, content: msgspec.Struct) -> None:
    """Whole or not at all, durable, readable by its owner alone."""
    scratch = path.with_suffix(".new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(content))
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _to_text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")
