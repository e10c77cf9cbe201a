"""The edge's certificate: asked for, kept, renewed, and a broker known whatever year it is."""

import json
import ssl
import stat
import threading
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from edge import certificate as module
from edge.certificate import (
    CERTIFICATE_FILE,
    KEY_FILE,
    CertificateError,
    Certificates,
    Held,
    request,
)
from edge.enrol import (
    ENROLMENT_FILE,
    IdentityError,
    Keys,
    follow,
    keep_hub_url,
    load_enrolment,
    load_hub_url,
)
from edge.request import NO_CHECK_TIME, HubAddress, NotAskedError, ask
from hub.authority import Authority, key_of_request, key_pem, new_key
from protocol.fleet import Certificate, CertificateRequest, NextKeys
from protocol.identity import Enrolment, HubKeys, OpeningKey, SigningKey
from tests.rig import private_dir, wait_for

EDGE = bytes(range(16))
DAY_MS = 24 * 3600 * 1000
YEAR_MS = 365 * DAY_MS


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def serving(
    handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None
) -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class FakeHub:
    """Answers requests for certificates, as `twist` would have it."""

    folder: Path
    sign: SigningKey = field(default_factory=SigningKey.generate)
    seal: bytes = field(default_factory=lambda: OpeningKey.generate().public)
    asked: list[CertificateRequest] = field(default_factory=list)
    begins_ms: int = field(default_factory=now_ms)
    twist: Callable[[Certificate], Certificate] = lambda given: given
    signer: SigningKey | None = None
    status: int = 200

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.authority = Authority.make(self.folder, now_ms())

    def answer(self, body: bytes, edge_sign: bytes) -> tuple[int, dict[str, str]]:
        asked, signed = CertificateRequest.parse(
            urlsafe_b64decode(json.loads(body)["request"] + "==")
        )
        signed.verify(edge_sign)
        self.asked.append(asked)
        if self.status != 200:
            return self.status, {"detail": "no"}
        key = key_of_request(asked.request)
        made = self.authority.for_device(key, asked.edge, self.begins_ms)
        der = made.public_bytes(Encoding.DER)
        given = self.twist(Certificate(asked.edge, asked.nonce, der, self.authority.der()))
        sealed = given.seal(self.signer or self.sign)
        return 200, {"answer": urlsafe_b64encode(sealed).decode().rstrip("=")}


@dataclass
class Place:
    """An enrolled edge, and a hub that it can reach."""

    data: Path
    hub: FakeHub
    url: str = ""

    def __post_init__(self) -> None:
        self.keys = Keys.load_or_make(self.data)
        keys = HubKeys(self.hub.sign.public, self.hub.seal)
        self.enrolment = Enrolment(
            EDGE, "门口", self.keys.sign.public, keys, 1, "mqtts://b.example"
        )

    def enrol(self, url: str) -> None:
        self.url = url
        stored = {
            "edge": msgspec.json.decode(msgspec.json.encode(EDGE)),
            "name": "门口",
            **{
                name: msgspec.json.decode(msgspec.json.encode(raw))
                for name, raw in (
                    ("edge_sign", self.keys.sign.public),
                    ("hub_sign", self.hub.sign.public),
                    ("hub_seal", self.hub.seal),
                )
            },
            "generation": 1,
            "mqtt_url": "mqtts://b.example",
            "hub_url": url,
        }
        (self.data / ENROLMENT_FILE).write_text(json.dumps(stored), "utf-8")

    def request(self) -> Held:
        return request(self.data, HubAddress.parse(self.url), self.enrolment, self.keys)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path / "edge", FakeHub(tmp_path / "hub"))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = found.hub.answer(body, found.keys.sign.public)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as port:
        found.enrol(f"http://127.0.0.1:{port}")
        yield found


# --- asking ---------------------------------------------------------------------------------------


def test_what_is_given_is_kept_for_its_owner_alone_under_one_key(place: Place) -> None:
    assert Held.load(place.data) is None
    first = place.request()
    key = (place.data / KEY_FILE).read_bytes()
    second = place.request()
    assert (place.data / KEY_FILE).read_bytes() == key
    assert first.certificate != second.certificate
    assert Held.load(place.data) == second
    assert second.authority == place.hub.authority.certificate
    for name in (KEY_FILE, CERTIFICATE_FILE):
        assert stat.S_IMODE((place.data / name).stat().st_mode) == 0o600
    assert len({asked.nonce for asked in place.hub.asked}) == 2


def _other_key(given: Certificate) -> Certificate:
    return replace(given, certificate=given.authority)


@pytest.mark.parametrize(
    ("twist", "words"),
    [
        (lambda given: replace(given, nonce=bytes(16)), "another request"),
        (lambda given: replace(given, edge=bytes(16)), "another request"),
        (lambda given: replace(given, certificate=b"x"), "as a hub does"),
        (lambda given: replace(given, authority=b"x"), "as a hub does"),
        (_other_key, "another key"),
    ],
    ids=["nonce", "edge", "certificate", "authority", "key"],
)
def test_another_answer_is_not_taken_and_what_was_there_stays(
    place: Place, twist: Callable[[Certificate], Certificate], words: str
) -> None:
    held = place.request()
    place.hub.twist = twist
    with pytest.raises(CertificateError, match=words):
        place.request()
    assert Held.load(place.data) == held


def test_an_answer_that_the_hub_has_not_signed_is_not_taken(place: Place) -> None:
    place.hub.signer = SigningKey.generate()
    with pytest.raises(CertificateError, match="not to be trusted"):
        place.request()
    assert Held.load(place.data) is None


@pytest.mark.parametrize("status", [403, 429, 503])
def test_a_refusal_is_told_in_the_hub_s_words(place: Place, status: int) -> None:
    place.hub.status = status
    with pytest.raises(CertificateError, match=str(status)):
        place.request()


# --- keeping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [KEY_FILE, CERTIFICATE_FILE])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff"])
def test_what_cannot_be_used_is_replaced_by_itself(place: Place, name: str, content: bytes) -> None:
    place.request()
    (place.data / name).write_bytes(content)
    certificates = Certificates(place.data)
    with pytest.raises(CertificateError):
        certificates.context("b.example")
    certificates.start()
    try:
        wait_for(lambda: _is_usable(certificates), "a certificate")
    finally:
        certificates.stop()


def _is_usable(certificates: Certificates) -> bool:
    try:
        certificates.context("b.example")
    except CertificateError:
        return False
    return True


def test_a_certificate_of_another_key_is_told_from_our_own(place: Place) -> None:
    place.request()
    (place.data / KEY_FILE).write_bytes(key_pem(new_key()))
    with pytest.raises(CertificateError, match="another key"):
        Held.load(place.data)


def test_of_a_certificate_cut_short_at_any_byte_none_is_used(place: Place) -> None:
    """A file that was written otherwise than whole, as by a storage that lies."""
    place.request()
    path = place.data / CERTIFICATE_FILE
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CertificateError):
            Held.load(place.data)


# --- renewing -------------------------------------------------------------------------------------


@given(st.integers(-60 * YEAR_MS, 60 * YEAR_MS))
def test_it_is_due_once_two_thirds_are_over(offset_ms: int) -> None:
    held = _HELD
    assert held.is_due(_BEGINS_MS + offset_ms) == (offset_ms >= 2 * (91 * DAY_MS) // 3)


def _held() -> Held:
    with private_dir() as folder:
        authority = Authority.make(folder, now_ms())
    made = authority.for_device(new_key().public_key(), EDGE, now_ms())
    return Held(made, authority.certificate)


_HELD = _held()
_BEGINS_MS = int(_HELD.certificate.not_valid_before_utc.timestamp()) * 1000


def test_one_that_is_due_is_renewed(place: Place) -> None:
    place.hub.begins_ms = now_ms() - 62 * DAY_MS
    old = place.request()
    place.hub.begins_ms = now_ms()
    with running(place):
        wait_for(lambda: _certificate(place) != old, "another certificate")


def test_one_that_is_good_is_left_alone(place: Place) -> None:
    held = place.request()
    with running(place):
        time.sleep(0.3)
    assert len(place.hub.asked) == 1
    assert Held.load(place.data) == held


def test_one_that_the_broker_does_not_take_is_replaced_whatever_its_dates_say(
    place: Place,
) -> None:
    held = place.request()
    with running(place) as certificates:
        certificates.refused()
        wait_for(lambda: _certificate(place) != held, "another certificate")
    assert len(place.hub.asked) == 2


def test_a_hub_that_gives_none_is_asked_ever_less_often(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that is retired, and a broker that refuses for ever, are no load on the hub."""
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.05)  # 0.05, 0.1, 0.2, …, less up to half
    for status in (403, 200):
        place.hub.status = status
        place.hub.asked.clear()
        with running(place) as certificates:
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                certificates.refused()
                time.sleep(0.01)
        assert 3 <= len(place.hub.asked) <= 8


def test_a_hub_that_is_away_is_asked_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.05)
    url = load_hub_url(place.data)
    keep_hub_url(place.data, "http://127.0.0.1:1")
    with running(place):
        time.sleep(0.2)
        keep_hub_url(place.data, url)
        wait_for(lambda: _certificate(place) is not None, "a certificate")


def test_without_the_hub_s_address_it_says_what_to_do(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    keep_hub_url(place.data, "")
    with running(place):
        wait_for(lambda: "shuaka-edge certificate --hub URL" in caplog.text, "words")


@contextmanager
def running(place: Place) -> Iterator[Certificates]:
    certificates = Certificates(place.data)
    certificates.start()
    try:
        yield certificates
    finally:
        certificates.stop()


def _certificate(place: Place) -> Held | None:
    return Held.load(place.data)


# --- the broker, whatever year it is --------------------------------------------------------------


@dataclass
class Broker:
    """The server's side of a handshake in memory."""

    context: ssl.SSLContext

    @classmethod
    def by(cls, authority: Authority, at_ms: int, folder: Path, host: str) -> "Broker":
        key = new_key()
        made = authority.for_broker(key.public_key(), [host], at_ms)
        path = folder / "server.pem"
        path.write_bytes(made.public_bytes(Encoding.PEM) + key_pem(key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return cls(context)

    def shake_hands(self, client: ssl.SSLContext, name: str) -> str:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        near = client.wrap_bio(to_client, to_server, server_hostname=name)
        far = self.context.wrap_bio(to_server, to_client, server_side=True)
        for side in (near, far, near):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        return near.version() or ""


@pytest.mark.parametrize("years", [-56, -1, 0, 1, 60])
def test_the_broker_is_known_whatever_year_the_device_believes(
    place: Place, tmp_path: Path, years: int
) -> None:
    """To a device in 1970 the authority and the broker begin in the far future: here they do."""
    (tmp_path / "then").mkdir()
    at_ms = now_ms() - years * YEAR_MS
    authority = Authority.make(tmp_path / "then", at_ms)
    place.hub.authority = authority
    place.hub.begins_ms = at_ms
    place.request()
    broker = Broker.by(authority, at_ms, tmp_path, "b.example")
    certificates = Certificates(place.data)
    assert broker.shake_hands(certificates.context("b.example"), "b.example") == "TLSv1.3"
    strict = certificates.context("b.example")
    strict.verify_flags &= ~NO_CHECK_TIME
    if years == 0:
        broker.shake_hands(strict, "b.example")
    else:  # so the flag is what does it
        with pytest.raises(ssl.SSLCertVerificationError, match=r"expired|not yet valid"):
            broker.shake_hands(strict, "b.example")


def test_a_broker_of_another_name_authority_or_version_is_not_known(
    place: Place, tmp_path: Path
) -> None:
    place.request()
    certificates = Certificates(place.data)
    other = Broker.by(place.hub.authority, now_ms(), tmp_path, "c.example")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname"):
        other.shake_hands(certificates.context("b.example"), "b.example")
    (tmp_path / "else").mkdir()
    strange = Authority.make(tmp_path / "else", now_ms())
    forged = Broker.by(strange, now_ms(), tmp_path, "b.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        forged.shake_hands(certificates.context("b.example"), "b.example")
    old = Broker.by(place.hub.authority, now_ms(), tmp_path, "b.example")
    old.context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        old.shake_hands(certificates.context("b.example"), "b.example")
    device = Broker.by(place.hub.authority, now_ms(), tmp_path, "b.example")
    # another device's certificate is no broker's, though the same authority has made it
    device.context.load_cert_chain(place.data / CERTIFICATE_FILE, place.data / KEY_FILE)
    with pytest.raises(ssl.SSLCertVerificationError):
        device.shake_hands(certificates.context(EDGE.hex()), EDGE.hex())


@pytest.mark.parametrize("years", [-56, 60])
def test_https_to_the_hub_leaves_the_time_out_where_all_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    at_ms = now_ms() - years * YEAR_MS
    authority = Authority.make(tmp_path, at_ms)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "hub-ca.pem"))
    broker = Broker.by(authority, at_ms, tmp_path, "localhost")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler, broker.context) as port:
        hub = HubAddress.parse(f"https://localhost:{port}")
        assert ask(hub, "POST", "/", {}, checks_time=False) == {}
        with pytest.raises(NotAskedError, match=r"expired|not yet valid"):
            ask(hub, "POST", "/", {})


# --- the hub's next keys --------------------------------------------------------------------------


def _next(number: int) -> NextKeys:
    return NextKeys(number, HubKeys(SigningKey.generate().public, OpeningKey.generate().public))


def test_keys_that_are_followed_are_kept_and_an_older_statement_is_passed_over(
    place: Place,
) -> None:
    said = _next(3)
    follow(place.data, said)
    for older in (_next(2), _next(3)):
        follow(place.data, older)
    enrolment = load_enrolment(place.data)
    assert enrolment is not None
    assert enrolment.hub == said.keys
    assert (enrolment.edge, enrolment.name) == (EDGE, "门口")
    assert load_hub_url(place.data) == place.url
    newer = _next(4)
    follow(place.data, newer)
    enrolment = load_enrolment(place.data)
    assert enrolment is not None
    assert enrolment.hub == newer.keys


def test_keys_are_kept_whole_or_not_at_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (place.data / ENROLMENT_FILE).read_bytes()

    def full(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge.enrol.write", full)
    with pytest.raises(IdentityError, match="No space"):
        follow(place.data, _next(1))
    assert (place.data / ENROLMENT_FILE).read_bytes() == before
