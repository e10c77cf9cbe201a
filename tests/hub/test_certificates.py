"""Certificates for the broker: who gets one, who gets none, and which count no more."""

import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import assume, given
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select, update

from hub.authority import Authority, RequestError, key_of_request
from hub.certificates import A_PERIOD, PERIOD_MS, CertificateRefusedError, admitted, certify
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.engine import reading
from protocol.errors import RemoteError
from protocol.fleet import NONCE_BYTES, Certificate, CertificateRequest
from protocol.identity import SigningKey
from tests.hub.site import Site
from tests.hub.world import World, minutes

NOW = minutes(0)
DAY_MS = 24 * 3600 * 1000


def csr(key: Any = None) -> bytes:
    """A signing request, DER."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    how = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "shuaka-hub")])
    built = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, how)
    return built.public_bytes(Encoding.DER)


@dataclass
class Fleet:
    """Two active devices whose keys we have, and the hub's own."""

    engine: Engine
    keyring: Keyring
    authority: Authority
    keys: dict[str, SigningKey] = field(default_factory=dict)
    ids: dict[str, bytes] = field(default_factory=dict)
    world: dict[str, int] = field(default_factory=dict)

    def add(self, name: str) -> None:
        self.keys[name] = SigningKey.generate()
        with self.engine.begin() as conn:
            World(conn, self.world).device(name, "V")
        self.put(name, sign_key=self.keys[name].public)
        with reading(self.engine) as conn:
            found = conn.scalar(select(s.devices.c.public_id).where(s.devices.c.name == name))
        assert found is not None
        self.ids[name] = found.bytes

    def put(self, name: str, **values: Any) -> None:
        with self.engine.begin() as conn:
            conn.execute(update(s.devices).where(s.devices.c.name == name).values(**values))

    def asks(self, name: str, request: bytes | None = None) -> CertificateRequest:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return CertificateRequest(self.ids[name], nonce, request or csr())

    def certify(self, asked: bytes, now_ms: int = NOW) -> bytes:
        return certify(self.engine, self.keyring, self.authority, asked, now_ms)

    def given(self, name: str, now_ms: int = NOW) -> x509.Certificate:
        asked = self.asks(name)
        answer = self.certify(asked.seal(self.keys[name]), now_ms)
        opened = Certificate.open(answer, self.keyring.sign.public, asked)
        assert opened.authority == self.authority.der()
        return x509.load_der_x509_certificate(opened.certificate)

    def refused(self, asked: bytes, now_ms: int = NOW) -> int:
        with pytest.raises(CertificateRefusedError) as refused:
            self.certify(asked, now_ms)
        return refused.value.status

    def revoked(self, now_ms: int = NOW) -> set[int]:
        with reading(self.engine) as conn:
            return {each.serial for each in admitted(conn, now_ms).revoked}

    def let_in(self) -> set[bytes]:
        with reading(self.engine) as conn:
            return set(admitted(conn, NOW).edges)


@pytest.fixture
def fleet(engine: Engine, tmp_path: Path) -> Fleet:
    data = tmp_path / "keys"
    data.mkdir(mode=0o700)
    found = Fleet(engine, Keyring.make(data), Authority.make(data, NOW))
    with engine.begin() as conn:
        world = World(conn, found.world)
        world.organisation("B")
        world.venue("V", "B")
    for name in ("甲", "乙"):
        found.add(name)
    return found


def test_an_active_device_gets_a_certificate_of_its_own_name_for_its_own_key(fleet: Fleet) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    asked = fleet.asks("甲", csr(key))  # the name in the request is passed over
    answer = fleet.certify(asked.seal(fleet.keys["甲"]))
    opened = Certificate.open(answer, fleet.keyring.sign.public, asked)
    made = x509.load_der_x509_certificate(opened.certificate)
    assert made.public_key() == key.public_key()
    (name,) = made.subject
    assert name.value == fleet.ids["甲"].hex()
    assert made.not_valid_after_utc.timestamp() * 1000 == (NOW + 90 * DAY_MS) // 1000 * 1000
    purpose = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purpose) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    made.verify_directly_issued_by(x509.load_der_x509_certificate(opened.authority))


def test_one_whose_certificate_has_expired_gets_another(fleet: Fleet) -> None:
    first = fleet.given("甲")
    later = NOW + 400 * DAY_MS
    assert fleet.given("甲", later).serial_number != first.serial_number


@pytest.mark.parametrize("status", ["PENDING", "RETIRED", "COMPROMISED"])
def test_who_is_not_active_gets_none(fleet: Fleet, status: str) -> None:
    fleet.put("甲", status=status, left_ms=NOW, compromised_ms=NOW)
    assert fleet.refused(fleet.asks("甲").seal(fleet.keys["甲"])) == 403
    assert fleet.given("乙")


def test_the_signature_says_who_asks(fleet: Fleet) -> None:
    for asked in (
        fleet.asks("甲").seal(fleet.keys["乙"]),
        fleet.asks("甲").seal(SigningKey.generate()),
        CertificateRequest(bytes(16), bytes(16), csr()).seal(fleet.keys["甲"]),
    ):
        assert fleet.refused(asked) == 403
    with reading(fleet.engine) as conn:
        assert conn.scalar(select(func.count()).select_from(s.certificates)) == 0


def test_no_request_is_answered_twice(fleet: Fleet) -> None:
    """Whoever hears one, and steals the key that it is for, gets nothing for it."""
    asked = fleet.asks("甲").seal(fleet.keys["甲"])
    fleet.certify(asked)
    assert fleet.refused(asked, NOW + 100 * DAY_MS) == 409


def test_a_device_that_asks_too_often_waits_and_keeps_nobody_else_waiting(fleet: Fleet) -> None:
    for _ in range(A_PERIOD):
        fleet.given("甲")
    assert fleet.refused(fleet.asks("甲").seal(fleet.keys["甲"])) == 429
    assert fleet.given("乙")
    assert fleet.given("甲", NOW + PERIOD_MS)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa", "p384", "ed25519"],
)
def test_a_request_for_another_kind_of_key_is_refused(fleet: Fleet, key: Any) -> None:
    assert fleet.refused(fleet.asks("甲", csr(key)).seal(fleet.keys["甲"])) == 422


def test_a_request_that_its_own_key_has_not_signed_is_refused(fleet: Fleet) -> None:
    bad = csr()
    bad = bad[:-1] + bytes([bad[-1] ^ 1])
    assert fleet.refused(fleet.asks("甲", bad).seal(fleet.keys["甲"])) == 422


_GOOD = csr()


@given(st.data())
def test_damaged_requests_are_refused_and_stop_nobody(data: st.DataObject) -> None:
    raw = bytearray(_GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    assume(cut != _GOOD)
    with pytest.raises(RequestError):
        key_of_request(cut)


@given(st.binary(max_size=200))
def test_what_is_no_request_is_told_from_one(raw: bytes) -> None:
    with pytest.raises(RemoteError):
        CertificateRequest.parse(raw)
    with pytest.raises(RequestError):
        key_of_request(raw)


# --- which count no more --------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["RETIRED", "COMPROMISED"])
def test_certificates_of_who_has_left_count_no_more_as_long_as_they_would_last(
    fleet: Fleet, status: str
) -> None:
    own = {fleet.given("甲").serial_number for _ in range(3)}
    fleet.given("乙")
    assert fleet.revoked() == set()
    assert fleet.let_in() == set(fleet.ids.values())
    fleet.put("甲", status=status, left_ms=NOW, compromised_ms=NOW)
    assert fleet.revoked() == own
    assert fleet.let_in() == {fleet.ids["乙"]}
    assert fleet.revoked(NOW + 91 * DAY_MS) == set()


def test_a_device_that_is_enrolled_again_brings_its_old_certificates_no_life(fleet: Fleet) -> None:
    old = fleet.given("甲").serial_number
    fleet.keys["甲"] = SigningKey.generate()
    fleet.put("甲", sign_key=fleet.keys["甲"].public)
    new = fleet.given("甲").serial_number
    assert fleet.revoked() == {old}
    assert new not in fleet.revoked()


# --- the route ------------------------------------------------------------------------------------


def test_the_route_gives_what_is_signed_and_refuses_in_words(fleet: Fleet, engine: Engine) -> None:
    site = Site(engine)
    client = site.client()
    asked = fleet.asks("甲")
    text = urlsafe_b64encode(asked.seal(fleet.keys["甲"])).decode().rstrip("=")
    path = "/api/v1/certificate"
    assert client.post(path, json={"request": text}).status_code == 503
    site.certify = fleet.certify
    site.app = site.application()
    client = site.client()
    answer = client.post(path, json={"request": text})
    assert answer.status_code == 200
    for body, status, words in (
        ({"request": text}, 409, "already"),
        ({}, 422, "request"),
        ({"request": ""}, 422, "request"),
        ({"request": "!"}, 422, "request"),
        ({"request": "A" * 9000}, 422, "request"),
        ({"request": "AAAA"}, 422, "request"),
        ({"request": 5}, 422, "request"),
        ({"request": "A" * (1 << 20)}, 413, "body"),
    ):
        refused = client.post(path, json=body)
        assert refused.status_code == status, body
        assert words in refused.json()["detail"]
