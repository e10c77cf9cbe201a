"""Payloads that no edge would send, on every topic, to the hub's landing: what a network or a thief
may bring. Half of them are broken bytes; the other half is broken inside and validly signed by an
active device, which is the half that gets far.

Nothing may end the landing, nothing that is refused may leave an entry, memory stays bounded, and
after every round an honest batch is stored and receipted as ever.
"""

import random
import secrets
import tracemalloc
from collections.abc import Callable
from typing import Any, Final

import cbor2
from sqlalchemy import func, select

from hub.ingest.landing import Landing, Message
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.engine import migrate, open_engine
from hub.store.state import begin_generation
from protocol.batch import Parcel
from protocol.identity import MessageType, OpeningKey, Signed, SigningKey
from protocol.topics import Up, up
from tests.fakes.edge import FakeEdge, uid
from tests.torture.result import Result

NOW: Final = 1_777_000_000_000
AT_ONCE: Final = 200
"""Payloads a landing."""
MOST_BYTES: Final = 64 << 20
"""By which memory may grow over a run."""


def run(rounds: int, seed: int, folder: Any) -> Result:
    """`rounds` payloads. `lost` counts honest batches that were not stored, `doubled` those that
    were stored more than once.
    """
    engine = open_engine(f"sqlite:///{folder}/fuzz.db")
    migrate(engine)
    keyring = Keyring(SigningKey.generate(), (OpeningKey.generate(),))
    landing, chance = Landing(keyring), random.Random(seed)
    edge, honest = FakeEdge(keyring.public()), FakeEdge(keyring.public())
    with engine.begin() as conn:
        begin_generation(conn, NOW)
        edge.add_to(conn)
        honest.add_to(conn)
    for number in range(20):
        edge.tap(uid(number))
    seeds = _seeds(edge)
    lost = done = 0
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    while done < rounds:
        count = min(AT_ONCE, rounds - done)
        messages = [Message(*_hostile(edge, seeds, chance)) for _ in range(count)]
        seq = honest.tap(uid(100_000 + done))
        messages.insert(
            chance.randrange(count + 1), Message(honest.topic(), honest.payload(1, seq))
        )
        with engine.begin() as conn:
            landed = landing.land(conn, messages, NOW)
        receipts = [each for each in landed.receipts if each.edge == honest.edge]
        lost += not receipts or receipts[-1].through != seq
        done += count
        if len(honest.entries) > 200:
            honest.reopen()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    with engine.begin() as conn:
        c = s.entries.c
        doubled = len(
            conn.execute(
                select(c.epoch_id, c.seq).group_by(c.epoch_id, c.seq).having(func.count() > 1)
            ).all()
        )
    engine.dispose()
    assert grown < MOST_BYTES, f"memory grew by {grown >> 20} MiB"
    return Result("fuzz", done, lost, doubled, f"memory grew by {max(0, grown) >> 10} KiB")


Seeds = list[tuple[Up, MessageType, bytes]]


def _seeds(edge: FakeEdge) -> Seeds:
    """Topic, type and payload of one message of each kind, whole."""
    parcel = Parcel.decode(edge.payload())
    batch = Signed.parse(parcel.signed, MessageType.BATCH).payload
    hello = Signed.parse(edge.hello((edge.epoch, 1, 5)), MessageType.HELLO).payload
    beat = Signed.parse(edge.heartbeat(NOW), MessageType.HEARTBEAT).payload
    return [
        (Up.JOURNAL, MessageType.BATCH, batch),
        (Up.HELLO, MessageType.HELLO, hello),
        (Up.STATE, MessageType.HEARTBEAT, beat),
    ]


def _hostile(edge: FakeEdge, seeds: Seeds, chance: random.Random) -> tuple[str, bytes]:
    channel, kind, payload = chance.choice(seeds)
    changed = chance.choice(CHANGES)(payload, chance)
    sent = edge.key.sign(chance.choice([kind, kind, kind, *MessageType]), changed)
    if channel is Up.JOURNAL:
        subjects = [chance.choice([*edge.sealed.values()]) for _ in range(chance.randrange(3))]
        sent = cbor2.dumps([sent, subjects])
    if chance.random() < 0.5:
        sent = chance.choice(CHANGES)(sent, chance)
    owner = edge.edge if chance.random() < 0.95 else secrets.token_bytes(16)
    where = channel if chance.random() < 0.95 else chance.choice([*Up])
    return up(owner, where), sent


def _flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _splice(data: bytes, chance: random.Random) -> bytes:
    at, to = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:at] + chance.randbytes(chance.randrange(20)) + data[to:]


def _noise(_data: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(300))


def _swell(data: bytes, chance: random.Random) -> bytes:
    return data + bytes(chance.choice([1, 1000, 70_000]))


def _tree(data: bytes, chance: random.Random) -> bytes:
    """One element somewhere in it becomes something else: well-formed, and wrong."""
    try:
        value = cbor2.loads(data)
    except Exception:  # noqa: BLE001 - it was broken already
        return _flip(data, chance)
    return cbor2.dumps(_wrong(value, chance))


def _wrong(value: Any, chance: random.Random) -> Any:
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        if chance.random() < 0.15:
            return value[:at] + value[at + 1 :]
        return [*value[:at], _wrong(value[at], chance), *value[at + 1 :]]
    if isinstance(value, bytes) and len(value) > 40 and chance.random() < 0.7:
        return _tree(value, chance)
    return chance.choice(
        [
            None, True, -1, 0, 1, 501, 1 << 62, (1 << 64) - 1, -(1 << 63), 1.5, "", "x" * 300,
            b"", bytes(16), bytes(32), chance.randbytes(32), [], [[]] * 600, {}, {1: 2}, "\0",
        ]
    )  # fmt: skip


CHANGES: Final[tuple[Callable[[bytes, random.Random], bytes], ...]] = (
    _flip, _flip, _cut, _splice, _noise, _swell, _tree, _tree, _tree, _tree, lambda data, _: data,
)  # fmt: skip
