"""A code enrols one device, once, whoever tries and however many at a time."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, select

from hub.audit import Machine
from hub.devices import CODE_VALID_MS, REPEAT_MS, DeviceError, EnrolmentRefusedError
from hub.devices import add_device as add
from hub.devices import enrol as hub_enrol
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.engine import reading
from hub.store.state import begin_generation
from protocol.identity import (
    Enrolment,
    EnrolmentCode,
    OpeningKey,
    SigningKey,
    enrolment_proof,
    open_enrolment,
)
from tests.hub.world import World

NOW = 1_777_000_000_000
KEYRING = Keyring(SigningKey.generate(), (OpeningKey.generate(),))
FINGERPRINT = KEYRING.public().fingerprint()
SEAL = OpeningKey.generate().public

Code = Callable[[str], EnrolmentCode]


@pytest.fixture
def code_for(engine: Engine) -> Code:
    """A new code for a device of this name, at the one venue."""
    with engine.begin() as conn:
        begin_generation(conn, NOW)
        world = World(conn)
        world.organisation("o")
        world.venue("v", "o")

    def make(name: str) -> EnrolmentCode:
        with engine.begin() as conn:
            return add(conn, Machine(), FINGERPRINT, name, "v", NOW).code

    return make


def enrol(
    engine: Engine, code: EnrolmentCode, key: SigningKey, now_ms: int = NOW, **changed: Any
) -> Enrolment:
    fingerprint = changed.get("fingerprint", code.fingerprint)
    proof = enrolment_proof(code.verifier(), key.public, SEAL, fingerprint)
    answer = hub_enrol(engine, KEYRING, "mqtt://h", (key.public, SEAL), proof, now_ms)
    return open_enrolment(answer, code, key.public, proof)


def refused(engine: Engine, status: int, code: EnrolmentCode, *arguments: Any, **more: Any) -> None:
    before = devices(engine)
    with pytest.raises(EnrolmentRefusedError) as error:
        enrol(engine, code, *arguments, **more)
    assert error.value.status == status
    assert devices(engine) == before


def devices(engine: Engine) -> list[tuple[Any, ...]]:
    with reading(engine) as conn:
        return [tuple(row) for row in conn.execute(select(s.devices).order_by(s.devices.c.id))]


def test_codes_that_do_not_fit_change_nothing(engine: Engine, code_for: Code) -> None:
    code, key = code_for("门口"), SigningKey.generate()
    refused(engine, 403, EnrolmentCode(code.secret ^ 1, code.fingerprint), key)
    refused(engine, 403, code, key, fingerprint=bytes(10))
    refused(engine, 403, code, key, NOW + CODE_VALID_MS)
    newer = code_for("门口")
    refused(engine, 403, code, key)
    assert enrol(engine, newer, key).name == "门口"


def test_a_code_works_once_and_its_answer_can_be_asked_for_again(
    engine: Engine, code_for: Code
) -> None:
    code, key = code_for("门口"), SigningKey.generate()
    first = enrol(engine, code, key)
    assert enrol(engine, code, key, NOW + REPEAT_MS) == first
    refused(engine, 409, code, SigningKey.generate())
    refused(engine, 409, code, key, NOW + REPEAT_MS + 1)
    with engine.begin() as conn, pytest.raises(DeviceError, match=r"“门口”.*在用"):
        add(conn, Machine(), FINGERPRINT, "门口", "v", NOW)


def test_of_many_that_come_with_one_code_one_is_enrolled(engine: Engine, code_for: Code) -> None:
    code = code_for("门口")
    keys = [SigningKey.generate() for _ in range(6)]
    start = threading.Barrier(len(keys))
    won: list[bytes] = []
    lost: list[int] = []

    def come(key: SigningKey) -> None:
        start.wait()
        try:
            won.append(enrol(engine, code, key).edge_sign)
        except EnrolmentRefusedError as error:
            lost.append(error.status)

    threads = [threading.Thread(target=come, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert lost == [409] * 5
    (device,) = devices(engine)
    assert won[0] in device


@pytest.mark.parametrize("name", ["", " ", "a\tb", "\x1b[2J", "a\u202eb", "长" * 65, "\udcff"])
def test_a_name_that_none_can_be_is_refused(engine: Engine, code_for: Code, name: str) -> None:
    with engine.begin() as conn, pytest.raises(DeviceError, match="1到64个可见"):
        add(conn, Machine(), FINGERPRINT, name, "v", NOW)
    assert devices(engine) == []
