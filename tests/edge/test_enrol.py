"""Enrolment against hubs that are none, are down, say no, or talk nonsense: nothing half-done."""

import json
import os
import socket
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge import enrol as module
from edge import request
from edge.enrol import EnrolError, IdentityError, Keys, enrol, load_enrolment
from protocol.identity import (
    Enrolment,
    EnrolmentCode,
    HubKeys,
    MessageType,
    OpeningKey,
    SigningKey,
    enrolment_proof,
)

HUB_SIGN = SigningKey.generate()
HUB = HubKeys(HUB_SIGN.public, OpeningKey.generate().public)
CODE = EnrolmentCode(12345, HUB.fingerprint())
PLAIN_HTTP = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return PLAIN_HTTP % status + body


@contextmanager
def server(speak: bytes | Callable[[socket.socket], object]) -> Iterator[str]:
    """Reads one request, says `speak`, hangs up; and again for each that comes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                request = b""
                while b'"proof"' not in request or not request.endswith(b"}"):
                    request += client.recv(4096)
                try:
                    if callable(speak):
                        speak(client)
                    else:
                        client.sendall(speak)
                except OSError:
                    continue

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        assert not thread.is_alive()


def answer_for(
    keys: Keys | None, signer: SigningKey = HUB_SIGN, hub: HubKeys = HUB, mqtt: str = "mqtt://h"
) -> bytes:
    """The answer to a request with these keys and CODE; None: to somebody else's."""
    edge_sign, proof = bytes(32), bytes(32)
    if keys is not None:
        edge_sign = keys.sign.public
        proof = enrolment_proof(CODE.verifier(), edge_sign, keys.seal.public, CODE.fingerprint)
    enrolment = Enrolment(bytes(16), "门口", edge_sign, hub, 7, mqtt, proof)
    signed = signer.sign(MessageType.ENROLMENT, enrolment.encode())
    return json.dumps({"answer": urlsafe_b64encode(signed).decode()}).encode()


def refused(data: Path, url: str, code: EnrolmentCode = CODE) -> str:
    """The one line that says why; nothing but the edge's own keys is there afterwards."""
    with pytest.raises((EnrolError, IdentityError)) as error:
        enrol(data, url, code)
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 500
    if data.is_dir():
        assert {path.name for path in data.iterdir()} <= {"keys.json"}
    return message


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hub.example",
        "ftp://hub.example",
        "http://",
        "http://:8000",
        "http://127.0.0.1:x",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "http://[::1",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\n",
        "http://\udcff",
        "http://me:pw@127.0.0.1",
        "http://127.0.0.1/?a=1",
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_made(tmp_path: Path, url: str) -> None:
    assert "is not the address of a hub" in refused(tmp_path / "data", url)
    assert not (tmp_path / "data").exists()


def test_a_hub_that_is_down_can_be_tried_again_with_the_same_keys(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert f"127.0.0.1:{port} cannot be reached" in refused(tmp_path, f"http://127.0.0.1:{port}")
    keys = (tmp_path / "keys.json").read_bytes()
    assert "cannot be reached" in refused(tmp_path, f"http://127.0.0.1:{port}")
    assert (tmp_path / "keys.json").read_bytes() == keys
    with server(http(answer_for(Keys.load(tmp_path)))) as url:
        assert enrol(tmp_path, url + "/", CODE).name == "门口"
    assert load_enrolment(tmp_path) is not None
    assert (tmp_path / "enrolment.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "did not answer as a hub does"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "did not answer as a hub does"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", "did not answer as a hub does"),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 200_000, "did not answer as a hub does"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n", "did not answer as a hub does"),
        (http(b"<html>Welcome</html>"), "did not answer as a hub does"),
        (http(b"{}"), "did not answer as a hub does"),
        (http(b"[1]"), "did not answer as a hub does"),
        (http(b'{"answer": 5}'), "did not answer as a hub does"),
        (http(b'{"answer": "####"}'), "not to be trusted"),
        (http(b'{"answer": "\xc3\xbc"}'), "did not answer as a hub does"),
        (http(b"[" * 60_000), "did not answer as a hub does"),
        (http(b'{"answer": "' + b"A" * 10_000_000), "did not answer as a hub does"),
        (http(b"\xff\xfe"), "did not answer as a hub does"),
        (http(b"<html>", b"404 Not Found"), "404 Not Found"),
        (http(b"", b"405 Method Not Allowed"), "405"),
        (http(b'{"detail": "get a new code"}', b"403 Forbidden"), "refused (403): get a new code"),
        (http(b'{"detail": "used already"}', b"409 Conflict"), "refused (409): used already"),
        (http(b'{"detail": "\\u001b[2J\\n' + b"x" * 5000 + b'"}', b"403 X"), "refused (403): "),
        (http(b'{"detail": ["a"]}', b"422 X"), "422"),
        (
            b"HTTP/1.1 301 Moved\r\nLocation: https://h.example/\r\nContent-Length: 0\r\n\r\n",
            "sends on to https://h.example/",
        ),
        (http(answer_for(None)), "to another request"),
    ],
)
def test_nonsense_is_refused_in_one_line(tmp_path: Path, said: bytes, words: str) -> None:
    with server(said) as url:
        assert words in refused(tmp_path, url)


def test_another_hub_than_the_codes_is_refused(tmp_path: Path) -> None:
    keys = Keys.load_or_make(tmp_path)
    other = SigningKey.generate()
    theirs = HubKeys(other.public, OpeningKey.generate().public)
    with server(http(answer_for(keys, other, theirs))) as url:
        assert "another hub answered" in refused(tmp_path, url)
    with server(http(answer_for(keys, other, HUB))) as url:
        refused(tmp_path, url)
    with server(http(answer_for(keys, mqtt="http://x"))) as url:
        assert "mqtt" in refused(tmp_path, url)


def test_a_hub_that_keeps_silent_or_dribbles_is_given_up(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(request, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(request, "LONGEST_S", 1.0)

    def dribble(client: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50:
            client.sendall(bytes([byte]))
            time.sleep(0.1)

    for speak in (lambda _: time.sleep(2), dribble):
        began = time.monotonic()
        with server(speak) as url:
            assert "did not answer" in refused(tmp_path, url)
            assert time.monotonic() - began < 1.8


def test_who_is_enrolled_stays_so(tmp_path: Path) -> None:
    with server(http(answer_for(Keys.load_or_make(tmp_path)))) as url:
        enrol(tmp_path, url, CODE)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(EnrolError, match=r"enrolled already .*enrolment\.json"):
            enrol(tmp_path, url, CODE)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_answer_that_cannot_be_kept_can_be_asked_for_again(
    tmp_path: Path, monkeypatch: Any
) -> None:
    keys = Keys.load_or_make(tmp_path)
    with server(http(answer_for(keys))) as url:
        with monkeypatch.context() as patch:

            def full(*_: object) -> None:
                raise OSError(28, os.strerror(28))

            patch.setattr(module, "_write", full)
            assert "the same code again" in refused(tmp_path, url)
        enrol(tmp_path, url, CODE)
    assert Keys.load(tmp_path).sign.public == keys.sign.public


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"sign": "AAAA", "seal": "AAAA"}',
        b'{"sign": "%", "seal": "AAAA"}',
        b'{"sign": "AAAA"}',
    ],
)
def test_a_damaged_key_file_is_named_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    assert str(path) in refused(tmp_path, "http://127.0.0.1:1")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"edge": "AAAA"},
        {"hub_sign": "AAAA"},
        {"edge_sign": ""},
        {"mqtt_url": "http://x"},
        {"mqtt_url": "mqtt://x:99999"},
        {"generation": -1},
        {"name": None},
    ],
)
def test_a_damaged_enrolment_is_named_and_what_to_do(
    tmp_path: Path, change: dict[str, object]
) -> None:
    with server(http(answer_for(Keys.load_or_make(tmp_path)))) as url:
        enrol(tmp_path, url, CODE)
    path = tmp_path / "enrolment.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change), encoding="utf-8")
    with pytest.raises(IdentityError, match=r"enrolment\.json: is no enrolment .*enrol"):
        load_enrolment(tmp_path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(IdentityError, match=r"enrolment\.json: is no enrolment .*enrol"):
        load_enrolment(tmp_path)


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"mine")
    assert str(data) in refused(data, "http://127.0.0.1:1")
    assert data.read_bytes() == b"mine"


def test_what_root_enrols_belongs_to_the_owner_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, 65534)
    else:  # as if, as far as that goes
        monkeypatch.setattr(os, "geteuid", lambda: 0)
    Keys.load_or_make(tmp_path)
    found, folder = (tmp_path / "keys.json").stat(), tmp_path.stat()
    assert (found.st_uid, found.st_gid) == (folder.st_uid, folder.st_gid)
    assert found.st_mode & 0o777 == 0o600
