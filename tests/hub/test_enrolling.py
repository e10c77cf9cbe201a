"""Enrolling under load and at the edges: who has no code holds nobody up; a lost reply is given."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, select, update

from hub.audit import Machine
from hub.devices import (
    CODE_VALID_MS,
    REPEAT_MS,
    Added,
    EnrolmentRefusedError,
    add_device,
    enrol,
)
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.engine import reading
from protocol.identity import OpeningKey, SigningKey, enrolment_proof, open_enrolment
from tests.hub.site import Site
from tests.hub.world import World, minutes

NOW = minutes(0)


def _add(conn: Connection, keyring: Keyring) -> Added:
    return add_device(conn, Machine(), keyring.public().fingerprint(), "D", "V", NOW)


@dataclass
class Newcomer:
    """A device that was given a code."""

    engine: Engine
    keyring: Keyring
    added: Added
    sign: SigningKey = field(default_factory=SigningKey.generate)
    seal: bytes = field(default_factory=lambda: OpeningKey.generate().public)

    def proof(self, verifier: bytes | None = None) -> bytes:
        fingerprint = self.keyring.public().fingerprint()
        verifier = verifier or self.added.code.verifier()
        return enrolment_proof(verifier, self.sign.public, self.seal, fingerprint)

    def enrol(self, now_ms: int = NOW, *, verifier: bytes | None = None) -> bytes:
        keys = self.sign.public, self.seal
        proof = self.proof(verifier)
        return enrol(self.engine, self.keyring, "mqtt://h", keys, proof, now_ms)

    def refused(self, now_ms: int = NOW, *, verifier: bytes | None = None) -> int:
        with pytest.raises(EnrolmentRefusedError) as refused:
            self.enrol(now_ms, verifier=verifier)
        return refused.value.status


@pytest.fixture
def newcomer(engine: Engine, tmp_path: Path) -> Newcomer:
    (tmp_path / "keys").mkdir(mode=0o700)
    keyring = Keyring.make(tmp_path / "keys")
    with engine.begin() as conn:
        world = World(conn)
        world.organisation("B")
        world.venue("V", "B")
        return Newcomer(engine, keyring, _add(conn, keyring))


@contextmanager
def somebody_writes(engine: Engine) -> Iterator[None]:
    with engine.connect() as conn, conn.begin() as transaction:
        conn.execute(update(s.devices).values(name=s.devices.c.name))
        conn.execute(update(s.enrolment_codes).values(used_at_ms=None))
        yield
        transaction.rollback()


def at_once(ask: Callable[[], Any]) -> Any:
    """What `ask` gives; it fails where that takes long."""
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001  told by `result`
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer.result(timeout=5)


def test_who_has_no_code_waits_for_nobody(newcomer: Newcomer, engine: Engine) -> None:
    with somebody_writes(engine):
        assert at_once(lambda: newcomer.refused(verifier=b"?" * 32)) == 403
    assert newcomer.enrol()


def test_who_signs_out_without_a_session_waits_for_nobody(engine: Engine) -> None:
    site = Site(engine)
    with somebody_writes(engine):
        client = site.client()
        client.cookies.set("shuaka_session", "x")
        assert at_once(lambda: client.post("/sign-out")).status_code == 303


def test_a_code_that_was_replaced_between_look_and_lock_is_refused(
    newcomer: Newcomer, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def then_replaced(engine: Engine) -> Iterator[Any]:
        with reading(engine) as conn:
            yield conn
        with engine.begin() as conn:
            _add(conn, newcomer.keyring)

    monkeypatch.setattr("hub.devices.reading", then_replaced)
    assert newcomer.refused() == 403
    with reading(engine) as conn:
        assert conn.scalar(select(s.devices.c.status)) == "PENDING"


def test_a_lost_reply_is_repeated_also_when_the_code_is_over_meanwhile(newcomer: Newcomer) -> None:
    used_ms = NOW + CODE_VALID_MS - 1
    newcomer.enrol(used_ms)
    again = newcomer.enrol(used_ms + REPEAT_MS)
    enrolment = open_enrolment(again, newcomer.added.code, newcomer.sign.public, newcomer.proof())
    assert enrolment.name == "D"
    thief = Newcomer(newcomer.engine, newcomer.keyring, newcomer.added)
    assert thief.refused(used_ms + REPEAT_MS) == 409
    assert newcomer.refused(used_ms + REPEAT_MS + 1) == 403


def test_a_code_that_is_over_and_was_not_used_is_refused(newcomer: Newcomer) -> None:
    assert newcomer.refused(NOW + CODE_VALID_MS) == 403


@pytest.mark.parametrize("seal", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"])
def test_a_key_that_nothing_can_be_sealed_to_is_refused(newcomer: Newcomer, seal: bytes) -> None:
    newcomer.seal = seal
    assert newcomer.refused() == 422
    newcomer.seal = OpeningKey.generate().public
    assert newcomer.enrol(), "the code was not used up"
