"""The fixed values behind `tests/vectors`: one of each message, and the bytes it is on the wire.

`python -m tests.protocol.samples` writes the vectors that do not exist yet. It never writes over
one: see tests/vectors/README.md.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from protocol import cbor
from protocol.batch import (
    Batch,
    Heartbeat,
    Hello,
    HubState,
    Parcel,
    Range,
    ReaderState,
    Receipt,
)
from protocol.courierfile import Channel, CourierReader, Direction, Ending, Item, begin, end
from protocol.credential import Assurance, Credential, member_credential
from protocol.fleet import Certificate, CertificateRequest, Command, NextKeys, Order
from protocol.identity import (
    Enrolment,
    EnrolmentCode,
    HubKeys,
    MessageType,
    OpeningKey,
    Signed,
    SigningKey,
    enrolment_proof,
    open_enrolment,
)
from protocol.journal import (
    Act,
    Action,
    ClockSample,
    EpochHeader,
    Gap,
    Parent,
    ReaderDown,
    ReaderUp,
    Stamp,
    Tap,
    chain_start,
    decode_entry,
    encode_entry,
    link,
)
from protocol.roster import Board, BoardQuorum, OpenMeeting, Roster, cards_of
from protocol.sealing import Place, SubjectBox, open_sealed, seal_to, subject_digest

VECTORS = Path(__file__).parent.parent / "vectors"

EDGE_KEY = SigningKey(bytes(range(0x20)))
EDGE_SEAL = OpeningKey(bytes(range(0x20, 0x40)))
HUB_SIGN = SigningKey(bytes(range(0x40, 0x60)))
HUB_SEAL = OpeningKey(bytes(range(0x60, 0x80)))
HUB = HubKeys(HUB_SIGN.public, HUB_SEAL.public)
CONTENT_KEY = bytes(range(0x80, 0xA0))
EDGE = bytes.fromhex("e0" * 15 + "01")
BOOT = bytes.fromhex("b0" * 15 + "01")
EPOCH = bytes.fromhex("ec" * 15 + "02")
PARENT_EPOCH = bytes.fromhex("ec" * 15 + "01")
GENERATION = 1_790_000_000
# HPKE makes a new ephemeral key each time: these bytes were made once, for HUB_SEAL, EDGE, EPOCH.
WRAPPED_KEY = bytes.fromhex(
    "d630332c3d26bb2bc7c9b0dac6163754f47e70ac4205eda21cf6c5616a00831cccafa17d5d8fdb93"
    "2aec25b803704b7be0a510f78638986189b1e6be19ebee4a969559b8cafcd3d427bd17f0b6d86745"
)

AT = Stamp(boottime_ms=61_234, wall_ms=1_790_000_061_234, trusted=True)
UNTRUSTED = Stamp(boottime_ms=5, wall_ms=-1, trusted=False)

HEADER = EpochHeader(
    edge=EDGE,
    epoch=EPOCH,
    boot=BOOT,
    opened=Stamp(60_000, 1_790_000_060_000, trusted=True),
    parent=Parent(PARENT_EPOCH, 41, bytes(range(32))),
    software="0.1.0",
    hub_key=HUB_SEAL.public_id,
    wrapped_key=WRAPPED_KEY,
)
FIRST_HEADER = dataclasses.replace(HEADER, opened=UNTRUSTED, parent=None)
REHEARSAL_HEADER = dataclasses.replace(HEADER, parent=None, rehearsal=True)
HEADER_BYTES = HEADER.encode()

BOX = SubjectBox(CONTENT_KEY, EDGE, EPOCH)
UID = Credential("uid", "", "04A1B2C3D4E5F6")
CHIP = Credential("example-chip", "330000", "0012345678")
UID_NONCE = bytes(range(0xA0, 0xAC))
CHIP_NONCE = bytes(range(0xB0, 0xBC))
SEALED_UID = BOX.seal(2, UID, UID_NONCE)
SEALED_CHIP = BOX.seal(3, CHIP, CHIP_NONCE)
MEMBER = member_credential("党员-0042")
SECRETARY_NONCE = bytes(range(0xC0, 0xCC))
MEMBER_NONCE = bytes(range(0xD0, 0xDC))
SEALED_SECRETARY = BOX.seal(2, CHIP, SECRETARY_NONCE)
SEALED_MEMBER = BOX.seal(2, MEMBER, MEMBER_NONCE, Place.ABOUT)

CLOCK = ClockSample(AT)
TAP = Tap(AT, "东门", Assurance.UID, subject_digest(SEALED_UID))
CHIP_TAP = Tap(UNTRUSTED, "东门", Assurance.AUTHENTICATED, subject_digest(SEALED_CHIP))
UP = ReaderUp(AT, "东门")
DOWN = ReaderDown(AT, "东门", "unplugged")
OPENED = Action(
    AT, "东门", Act.OPENED, None, Assurance.AUTHENTICATED, subject_digest(SEALED_SECRETARY), None
)
HEAD_COUNT = Action(
    UNTRUSTED, "东门", Act.HEAD_COUNT, 23, Assurance.UID, subject_digest(SEALED_CHIP), None
)
WITNESSED = Action(
    AT,
    "东门",
    Act.WITNESSED,
    None,
    Assurance.AUTHENTICATED,
    subject_digest(SEALED_SECRETARY),
    subject_digest(SEALED_MEMBER),
)
LATER_ACT = Action(AT, "东门", 7, 5, Assurance.UID, bytes(range(32)), bytes(range(32, 64)))
# of kind 2 before that was an action: nobody writes one, and it is kept as it is
UNKNOWN_ENTRY = bytes.fromhex("860219f6181b000001a0c4516218f566e5bc80e4bc9aa1616e0c")

ITEMS = (
    encode_entry(CLOCK),
    encode_entry(TAP),
    encode_entry(CHIP_TAP),
    encode_entry(UP),
    Gap(5, 7, bytes(range(0x20, 0x40)), "unreadable"),
    UNKNOWN_ENTRY,
    encode_entry(DOWN),
)
LINKS = tuple(link(1, chain_start(HEADER_BYTES), ITEMS))
BATCH = Batch(HEADER_BYTES, 1, chain_start(HEADER_BYTES), ITEMS, withheld=(3,), subjects=1)
ACTION_ITEMS = tuple(encode_entry(each) for each in (CLOCK, WITNESSED, HEAD_COUNT, LATER_ACT))
ACTION_BATCH = Batch(
    HEADER_BYTES, 1, chain_start(HEADER_BYTES), ACTION_ITEMS, withheld=(3, 4), subjects=2
)
HELLO = Hello(HEADER_BYTES, ((PARENT_EPOCH, 40, 41), (EPOCH, 1, 9)))
HEARTBEAT = Heartbeat(
    epoch=EPOCH,
    head=9,
    digest=LINKS[-1].digest,
    at=AT,
    released=7,
    first_held=1,
    unreceipted=2,
    readers=(
        ReaderState("东门", up=True, since_boottime_ms=60_100),
        ReaderState("西门", up=False, since_boottime_ms=61_000),
    ),
)
CLOSING = dataclasses.replace(HEARTBEAT, released=9, unreceipted=0, readers=(), closing=True)
IDLE = Heartbeat(EPOCH, 0, chain_start(HEADER_BYTES), UNTRUSTED, 0, 1, 0, ())
RECEIPT = Receipt(EDGE, GENERATION, EPOCH, 9, LINKS[-1].digest)
NOTHING_YET = Receipt(EDGE, GENERATION, EPOCH, 0, chain_start(HEADER_BYTES))
HOLES = Receipt(
    EDGE,
    GENERATION,
    EPOCH,
    2,
    LINKS[1].digest,
    (Range(4, 7, LINKS[4].digest), Range(9, 9, LINKS[6].digest)),
)
ONLINE = HubState(GENERATION, 3, online=True)
OFFLINE = HubState(GENERATION, 3, online=False)
ROSTER_KEY = bytes(range(0xC0, 0xD0))
ROSTER = Roster(
    edge=EDGE,
    issued_ms=1_790_000_050_000,
    key=ROSTER_KEY,
    meetings=(
        OpenMeeting(1_790_000_000_000, 1_790_007_200_000, cards_of(ROSTER_KEY, [UID, CHIP])),
        OpenMeeting(1_790_010_000_000, 1_790_017_200_000, frozenset()),
    ),
)
BOARD = Board("东桥村党支部 支部党员大会", 1_790_001_800_000, 42, 39, BoardQuorum.MET)
BOARD_ROSTER = dataclasses.replace(
    ROSTER,
    meetings=(dataclasses.replace(ROSTER.meetings[0], board=BOARD), ROSTER.meetings[1]),
)
# HPKE again: made once, for EDGE_SEAL and the ROSTER's edge and time of issue.
SEALED_ROSTER = bytes.fromhex(
    "8e6c1a95403e71e2b4c3a028f25008ad7b8e2acc1ea008bc8c04cdabe83c8b5a06f8b1227ab7ad42"
    "01ab6d5d64a9e3e65a6fa1a1716977d977430022957ec4186e7766a227ba5eb9d1a67392484c3014"
    "5ea1f2ae31392c45c05eebd0553aeb56c2bfa839b5d8f20ba0605bf6da59b78dc2ccf29c5d35878e"
    "3234e0"
)
CERTIFICATE_REQUEST = CertificateRequest(EDGE, bytes(range(16)), b"a request for one key")
CERTIFICATE = Certificate(EDGE, bytes(range(16)), b"an edge's certificate", b"its authority's")
NEXT_KEYS = NextKeys(2, HubKeys(EDGE_KEY.public, EDGE_SEAL.public))
ORDER = Order(EDGE, 1_790_000_050_000, Command.RETIRE)
CODE = EnrolmentCode(0x1_2345_6789_ABCD_EF01, HUB.fingerprint())
PROOF = enrolment_proof(CODE.verifier(), EDGE_KEY.public, EDGE_SEAL.public, CODE.fingerprint)
ENROLMENT = Enrolment(
    edge=EDGE,
    name="河东村村民中心",
    edge_sign=EDGE_KEY.public,
    hub=HUB,
    generation=GENERATION,
    mqtt_url="mqtt://hub.example:1883",
    proof=PROOF,
)

ACTION_PARCEL = Parcel(
    EDGE_KEY.sign(MessageType.BATCH, ACTION_BATCH.encode()), (SEALED_SECRETARY, SEALED_MEMBER)
)
PARCEL = Parcel(EDGE_KEY.sign(MessageType.BATCH, BATCH.encode()), (SEALED_UID,))

UP_ITEMS = (
    Item(Channel.HELLO, EDGE, EDGE_KEY.sign(MessageType.HELLO, HELLO.encode())),
    Item(Channel.JOURNAL, EDGE, PARCEL.encode()),
    Item(Channel.STATE, EDGE, EDGE_KEY.sign(MessageType.HEARTBEAT, HEARTBEAT.encode())),
)
DOWN_ITEMS = (
    Item(Channel.KEYS, EDGE, NEXT_KEYS.seal(HUB_SIGN)),
    Item(Channel.RECEIPT, EDGE, HUB_SIGN.sign(MessageType.RECEIPT, RECEIPT.encode())),
    Item(Channel.ORDER, EDGE, ORDER.seal(HUB_SIGN)),
)


@dataclass(frozen=True)
class Sample:
    """A value and its two directions; `rule` is the CDDL rule that its bytes obey."""

    what: str
    rule: str
    value: Any
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def signed(
    what: str, message: MessageType, key: SigningKey, value: Any, decode: Callable[[bytes], Any]
) -> Sample:
    return Sample(
        what,
        f"signed-{message}",
        value,
        lambda each: key.sign(message, each.encode()),
        lambda data: decode(Signed.parse(data, message).verify(key.public)),
    )


def content_of(roster: Roster) -> bytes:
    """What `Roster.seal` seals."""
    signed = Signed.parse(roster.seal(HUB_SIGN, EDGE_SEAL.public), MessageType.ROSTER)
    _, _, sealed = cbor.decode(signed.payload, "roster")
    return open_sealed(EDGE_SEAL, sealed, roster_info(roster))


def roster_with(content: bytes) -> Roster:
    """What `Roster.open` makes of `content`, sealed as ROSTER is."""
    sealed = seal_to(EDGE_SEAL.public, content, roster_info(ROSTER))
    payload = cbor.encode([EDGE, ROSTER.issued_ms, sealed])
    data = HUB_SIGN.sign(MessageType.ROSTER, payload)
    return Roster.open(data, HUB_SIGN.public, EDGE, EDGE_SEAL)


def roster_info(roster: Roster) -> bytes:
    return b"shuaka/1/roster" + roster.edge + roster.issued_ms.to_bytes(8)


def courier_file(direction: Direction, items: Sequence[Item]) -> bytes:
    return begin(direction) + b"".join(each.encode() for each in items) + end(len(items))


def read_courier_file(direction: Direction, data: bytes) -> tuple[Item, ...]:
    """The items of a file, which must be whole."""
    reader = CourierReader(direction)
    items = reader.feed(data)
    reader.close()
    assert (reader.ending, reader.passed_over) == (Ending.WHOLE, 0)
    return tuple(items)


def courier_sample(what: str, direction: Direction, items: tuple[Item, ...]) -> Sample:
    return Sample(
        what,
        "courier-record",
        items,
        lambda each: courier_file(direction, each),
        lambda data: read_courier_file(direction, data),
    )


def certificate_request(data: bytes) -> CertificateRequest:
    asked, signed = CertificateRequest.parse(data)
    signed.verify(EDGE_KEY.public)
    return asked


SAMPLES: Mapping[str, Sample] = {
    "epoch-header": Sample(
        "an epoch header that names its parent",
        "epoch-header", HEADER, EpochHeader.encode, EpochHeader.decode,
    ),
    "epoch-header-first": Sample(
        "the header of a journal's first epoch, opened by an untrusted clock",
        "epoch-header", FIRST_HEADER, EpochHeader.encode, EpochHeader.decode,
    ),
    "epoch-header-rehearsal": Sample(
        "the header of a rehearsal, which counts for nothing",
        "epoch-header", REHEARSAL_HEADER, EpochHeader.encode, EpochHeader.decode,
    ),
    "entry-tap": Sample("a tap of a card's UID", "entry", TAP, encode_entry, decode_entry),
    "entry-tap-chip": Sample(
        "a tap of an authenticated card, by an untrusted clock",
        "entry", CHIP_TAP, encode_entry, decode_entry,
    ),
    "entry-clock": Sample("a clock sample", "entry", CLOCK, encode_entry, decode_entry),
    "entry-reader-up": Sample("a reader works", "entry", UP, encode_entry, decode_entry),
    "entry-reader-down": Sample("a reader does not", "entry", DOWN, encode_entry, decode_entry),
    "entry-action-opened": Sample(
        "a meeting is opened with an authenticated card",
        "entry", OPENED, encode_entry, decode_entry,
    ),
    "entry-action-head-count": Sample(
        "23 people are here, by an untrusted clock", "entry", HEAD_COUNT, encode_entry, decode_entry
    ),
    "entry-action-witnessed": Sample(
        "the member of subject-member is here, as the card of subject-authoriser says",
        "entry", WITNESSED, encode_entry, decode_entry,
    ),
    "entry-action-later": Sample(
        "an act that only a later version knows: an action all the same",
        "entry", LATER_ACT, encode_entry, decode_entry,
    ),
    "entry-unknown": Sample(
        "an entry of a kind that is not known: kept as it is",
        "entry", UNKNOWN_ENTRY, lambda each: each, lambda data: data,
    ),
    "subject-uid": Sample(
        "a UID sealed for seq 2 under content_key, with a fixed nonce",
        "sealed-subject", UID,
        lambda each: BOX.seal(2, each, UID_NONCE), lambda data: BOX.open(2, data),
    ),
    "subject-chip": Sample(
        "a chip's number sealed for seq 3 under content_key, with a fixed nonce",
        "sealed-subject", CHIP,
        lambda each: BOX.seal(3, each, CHIP_NONCE), lambda data: BOX.open(3, data),
    ),
    "subject-authoriser": Sample(
        "the chip's number that authorises an action at seq 2, sealed as that of a tap would be",
        "sealed-subject", CHIP,
        lambda each: BOX.seal(2, each, SECRETARY_NONCE), lambda data: BOX.open(2, data),
    ),
    "subject-member": Sample(
        "the member that the action at seq 2 speaks of, sealed for that place alone",
        "sealed-subject", MEMBER,
        lambda each: BOX.seal(2, each, MEMBER_NONCE, Place.ABOUT),
        lambda data: BOX.open(2, data, Place.ABOUT),
    ),
    "batch": Sample(
        "the payload of a batch: entries 1 to 9, of which 5 to 7 are a gap, 8 is of an unknown "
        "kind, and the subject of 3 is withheld",
        "batch", BATCH, Batch.encode, Batch.decode,
    ),
    "journal": Sample(
        "what is published to up/<edge>/journal: that batch, signed by the edge, and the subject "
        "of 2 beside it",
        "parcel", PARCEL, Parcel.encode, Parcel.decode,
    ),
    "batch-actions": Sample(
        "the payload of a batch: a clock sample, a member witnessed, a head-count and a later act, "
        "of which the subjects of the last two are withheld",
        "batch", ACTION_BATCH, Batch.encode, Batch.decode,
    ),
    "journal-actions": Sample(
        "that batch, signed, and beside it both subjects of entry 2",
        "parcel", ACTION_PARCEL, Parcel.encode, Parcel.decode,
    ),
    "hello": signed("two epochs held", MessageType.HELLO, EDGE_KEY, HELLO, Hello.decode),
    "heartbeat": signed(
        "two readers, one of which is down",
        MessageType.HEARTBEAT, EDGE_KEY, HEARTBEAT, Heartbeat.decode,
    ),
    "heartbeat-closing": signed(
        "the last word of an edge that retires",
        MessageType.HEARTBEAT, EDGE_KEY, CLOSING, Heartbeat.decode,
    ),
    "heartbeat-empty": signed(
        "a new epoch with no entry and no reader, by an untrusted clock",
        MessageType.HEARTBEAT, EDGE_KEY, IDLE, Heartbeat.decode,
    ),
    "receipt": signed(
        "everything up to 9", MessageType.RECEIPT, HUB_SIGN, RECEIPT, Receipt.decode
    ),
    "receipt-holes": signed(
        "up to 2, and 4 to 7 and 9 beyond holes",
        MessageType.RECEIPT, HUB_SIGN, HOLES, Receipt.decode,
    ),
    "receipt-nothing": signed(
        "nothing yet: the digest is that before entry 1",
        MessageType.RECEIPT, HUB_SIGN, NOTHING_YET, Receipt.decode,
    ),
    "hub-state-online": signed(
        "the hub listens", MessageType.HUB_STATE, HUB_SIGN, ONLINE, HubState.decode
    ),
    "hub-state-offline": signed(
        "the hub's will", MessageType.HUB_STATE, HUB_SIGN, OFFLINE, HubState.decode
    ),
    "roster": Sample(
        "two meetings, of which the first expects the cards of subject-uid and subject-chip; the "
        "sealing is fixed",
        "signed-roster", ROSTER,
        lambda each: HUB_SIGN.sign(
            MessageType.ROSTER, cbor.encode([each.edge, each.issued_ms, SEALED_ROSTER])
        ),
        lambda data: Roster.open(data, HUB_SIGN.public, EDGE, EDGE_SEAL),
    ),
    "roster-content": Sample(
        "what is sealed in roster",
        "roster-content", ROSTER, content_of, roster_with,
    ),
    "roster-content-board": Sample(
        "the content of a roster that tells a screen of its first meeting",
        "roster-content", BOARD_ROSTER, content_of, roster_with,
    ),
    "certificate-request": Sample(
        "an edge asks for a certificate",
        "signed-certificate-request", CERTIFICATE_REQUEST,
        lambda each: each.seal(EDGE_KEY), certificate_request,
    ),
    "certificate": Sample(
        "the answer to certificate-request",
        "signed-certificate", CERTIFICATE,
        lambda each: each.seal(HUB_SIGN),
        lambda data: Certificate.open(data, HUB_SIGN.public, CERTIFICATE_REQUEST),
    ),
    "hub-keys": Sample(
        "the hub's second change of keys, signed with its first signing key",
        "signed-hub-keys", NEXT_KEYS,
        lambda each: each.seal(HUB_SIGN), lambda data: NextKeys.open(data, HUB_SIGN.public),
    ),
    "order": Sample(
        "an edge is told to retire",
        "signed-order", ORDER,
        lambda each: each.seal(HUB_SIGN), lambda data: Order.open(data, HUB_SIGN.public, EDGE),
    ),
    "enrolment": Sample(
        "the answer to an enrolment with the code of keys.json",
        "signed-enrolment", ENROLMENT,
        lambda each: HUB_SIGN.sign(MessageType.ENROLMENT, each.encode()),
        lambda data: open_enrolment(data, CODE, EDGE_KEY.public, PROOF),
    ),
    "courier-up": courier_sample(
        "a file from an edge: hello, journal and heartbeat of the vectors of these names",
        Direction.UP, UP_ITEMS,
    ),
    "courier-down": courier_sample(
        "a file for an edge: hub-keys, receipt and order of the vectors of these names",
        Direction.DOWN, DOWN_ITEMS,
    ),
}  # fmt: skip


def plain(value: Any) -> Any:
    """`value` as JSON has it: bytes in hex, records by their fields."""
    match value:
        case bytes():
            return value.hex()
        case Enum():
            return value.value
        case frozenset():
            return sorted(plain(each) for each in value)
        case tuple():
            return [plain(each) for each in value]
        case _ if dataclasses.is_dataclass(value):
            fields = {
                each.name: getattr(value, each.name)
                for each in dataclasses.fields(value)
                # what older vectors know nothing of
                if each.name not in {"board", "rehearsal", "closing"} or getattr(value, each.name)
            }
            return {"type": type(value).__name__} | {k: plain(v) for k, v in fields.items()}
        case _:
            return value


def keys() -> dict[str, Any]:
    """Keys and what is derived from them without a message of its own."""
    return {
        "what": "the keys of every vector, and what follows from them",
        "edge_sign": pair(EDGE_KEY),
        "edge_seal": pair(EDGE_SEAL),
        "hub_sign": pair(HUB_SIGN),
        "hub_seal": pair(HUB_SEAL),
        "content_key": CONTENT_KEY.hex(),
        "wrapped_key": WRAPPED_KEY.hex(),
        "hub_fingerprint": HUB.fingerprint().hex(),
        "enrolment_secret": f"{CODE.secret:018x}",
        "enrolment_code": str(CODE),
        "enrolment_verifier": CODE.verifier().hex(),
        "enrolment_proof": PROOF.hex(),
    }


def pair(key: SigningKey | OpeningKey) -> dict[str, str]:
    return {
        "private": key.raw().hex(),
        "public": key.public.hex(),
        "key_id": key.public_id.hex(),
    }


def chain() -> dict[str, Any]:
    """digest(0) to digest(9) of the batch; within the gap there is none."""
    return {
        "what": "the chain through the batch: the digest before entry 1, and after each item",
        "start": chain_start(HEADER_BYTES).hex(),
        "after": [[each.last, each.digest.hex()] for each in LINKS],
    }


def vector(sample: Sample) -> dict[str, Any]:
    return {
        "what": sample.what,
        "rule": sample.rule,
        "value": plain(sample.value),
        "hex": sample.encode(sample.value).hex(),
    }


def all_vectors() -> dict[str, dict[str, Any]]:
    return {"keys": keys(), "chain": chain()} | {
        name: vector(sample) for name, sample in SAMPLES.items()
    }


def write_missing() -> list[str]:
    written = []
    for name, content in all_vectors().items():
        path = VECTORS / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
            written.append(path.name)
    return written


if __name__ == "__main__":
    print("\n".join(write_missing()) or "nothing is missing")
