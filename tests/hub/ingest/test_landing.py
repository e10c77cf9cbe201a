"""What lands is stored once and receipted; what is not ours is counted and leaves nothing."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256

import cbor2
import pytest
from sqlalchemy import Connection, Engine, func, select, update

from hub.ingest.landing import Landed, Landing, Message
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.state import begin_generation
from protocol.batch import Parcel, seal_batch
from protocol.credential import member_credential
from protocol.errors import Reason
from protocol.identity import HubKeys, MessageType, OpeningKey, SigningKey
from protocol.journal import Act, Action, Gap, decode_entry, encode_entry
from protocol.topics import Up
from tests.fakes.edge import FakeEdge, uid

NOW = 1_777_000_000_000


@pytest.fixture(scope="module")
def keyring() -> Keyring:
    return Keyring(SigningKey.generate(), (OpeningKey.generate(),))


class Hub:
    """A database and a Landing; each `land` is a transaction."""

    def __init__(self, engine: Engine, keyring: Keyring) -> None:
        self.engine = engine
        self.landing = Landing(keyring)
        self.now_ms = NOW
        with engine.begin() as conn:
            begin_generation(conn, NOW)

    def land(self, *messages: tuple[str, bytes]) -> Landed:
        with self.engine.begin() as conn:
            return self.landing.land(conn, [Message(*each) for each in messages], self.now_ms)

    def read(self, question: Callable[[Connection], object]) -> object:
        with self.engine.begin() as conn:
            return question(conn)

    def count(self, table: object) -> int:
        return int(str(self.read(lambda c: c.scalar(select(func.count()).select_from(table)))))  # type: ignore[arg-type]

    def uids(self) -> list[str | None]:
        """The value of each stored tap, in order of seq."""
        with self.engine.begin() as conn:
            return list(
                conn.scalars(
                    select(s.credentials.c.value)
                    .select_from(
                        s.entries.join(
                            s.credentials, s.credentials.c.id == s.entries.c.credential_id
                        )
                    )
                    .order_by(s.entries.c.epoch_id, s.entries.c.seq)
                )
            )

    def rejected(self) -> dict[str, int]:
        with self.engine.begin() as conn:
            rows = conn.execute(select(s.rejection_counts.c.reason, s.rejection_counts.c.count))
            return {row.reason: row[1] for row in rows}


@pytest.fixture
def hub(engine: Engine, keyring: Keyring) -> Hub:
    return Hub(engine, keyring)


@pytest.fixture
def edge(hub: Hub, keyring: Keyring) -> Iterator[FakeEdge]:
    edge = FakeEdge(keyring.public())
    with hub.engine.begin() as conn:
        edge.add_to(conn)
    yield edge


def test_taps_become_facts_with_their_subjects_opened_and_a_receipt(
    hub: Hub, edge: FakeEdge
) -> None:
    for number in range(5):
        edge.tap(uid(number))
    landed = hub.land((edge.topic(), edge.payload()))
    assert hub.uids() == [uid(number).value for number in range(5)]
    [receipt] = landed.receipts
    assert (receipt.edge, receipt.epoch, receipt.through) == (edge.edge, edge.epoch, 6)
    assert receipt.digest == edge.digests[6]
    assert receipt.have == ()


def test_the_same_batch_again_adds_nothing_and_is_receipted_again(hub: Hub, edge: FakeEdge) -> None:
    edge.tap(uid(1))
    first = hub.land((edge.topic(), edge.payload()))
    again = hub.land((edge.topic(), edge.payload()), (edge.topic(), edge.payload()))
    assert hub.count(s.entries) == 2
    assert hub.count(s.batches) == 1
    assert again.receipts == first.receipts


@pytest.mark.parametrize("seed", range(8))
def test_any_order_any_cuts_any_repeats_store_each_tap_once(
    hub: Hub, edge: FakeEdge, seed: int
) -> None:
    chance = random.Random(seed)
    for number in range(40):
        if number % 4:
            edge.tap(uid(number))
        else:
            edge.act(Act.WITNESSED, uid(number), about=member_credential(f"M-{number}"))
    spans = [(first, min(41, first + chance.randrange(1, 9))) for first in range(1, 42)] * 2
    chance.shuffle(spans)
    while spans:
        group = [spans.pop() for _ in range(min(len(spans), chance.randrange(1, 6)))]
        landed = hub.land(*((edge.topic(), edge.payload(*span)) for span in group))
        assert not landed.rejected
        [receipt] = landed.receipts
        with hub.engine.begin() as conn:
            stored = set(conn.scalars(select(s.entries.c.seq)))
        assert set(range(1, receipt.through + 1)) <= stored
        assert receipt.through + 1 not in stored
        covered = {n for each in receipt.have for n in range(each.first, each.last + 1)}
        assert stored == covered | set(range(1, receipt.through + 1))
    assert hub.uids() == [uid(number).value for number in range(40)]
    assert [(act[0], act[-2]) for act in acts(hub)] == [
        (number + 2, f"M-{number}") for number in range(0, 40, 4)
    ]
    assert hub.count(s.islands) == 0


def test_a_hello_is_answered_for_every_epoch_that_the_hub_knows(hub: Hub, edge: FakeEdge) -> None:
    edge.tap(uid(1))
    hub.land((edge.topic(), edge.payload()))
    old = edge.epoch
    edge.reopen()
    landed = hub.land((edge.topic(Up.HELLO), edge.hello((old, 1, 2), (b"?" * 16, 1, 9))))
    assert {receipt.epoch: receipt.through for receipt in landed.receipts} == {
        old: 2,
        edge.epoch: 0,
    }
    assert not landed.rejected


def test_a_heartbeat_is_kept_once_and_one_of_an_unknown_epoch_is_counted(
    hub: Hub, edge: FakeEdge
) -> None:
    early = hub.land((edge.topic(Up.STATE), edge.heartbeat(NOW)))
    assert early.rejected == {Reason.UNKNOWN_EPOCH: 1}
    hub.land((edge.topic(), edge.payload()))
    beat = edge.heartbeat(NOW + 1)
    hub.land((edge.topic(Up.STATE), beat), (edge.topic(Up.STATE), beat))
    assert hub.count(s.heartbeats) == 1


def test_of_heartbeats_that_say_the_same_the_first_and_the_last_are_kept(
    hub: Hub, edge: FakeEdge
) -> None:
    hub.land((edge.topic(), edge.payload()))
    for minute in range(50):
        hub.land((edge.topic(Up.STATE), edge.heartbeat(NOW + minute * 60_000)))
        with hub.engine.begin() as conn:
            conn.execute(update(s.heartbeats).values(derived=True))
    edge.tap(uid(1))
    hub.land((edge.topic(), edge.payload()))
    for minute in range(50, 60):
        hub.land((edge.topic(Up.STATE), edge.heartbeat(NOW + minute * 60_000)))
    with hub.engine.begin() as conn:
        kept = conn.scalars(select(s.heartbeats.c.wall_ms).order_by(s.heartbeats.c.wall_ms)).all()
    minutes = [(at - NOW) // 60_000 for at in kept]
    # those not derived yet are left alone
    assert minutes == [0, 49, *range(50, 60)]


def test_an_old_heartbeat_that_is_sent_again_is_no_new_contact(hub: Hub, edge: FakeEdge) -> None:
    edge.tap(uid(1))
    hub.land((edge.topic(), edge.payload()))
    beats = [edge.heartbeat(NOW + minute * 60_000) for minute in range(5)]
    other = edge.heartbeat(NOW + 150_000, trusted=False)
    for number, beat in enumerate(beats):
        hub.now_ms = NOW + number * 60_000
        hub.land((edge.topic(Up.STATE), beat))
        with hub.engine.begin() as conn:
            conn.execute(update(s.heartbeats).values(derived=True))
    kept = select(s.heartbeats.c.wall_ms, s.heartbeats.c.received_ms).order_by("wall_ms")
    ends = [(NOW, NOW), (NOW + 240_000, NOW + 240_000)]
    assert hub.read(lambda conn: conn.execute(kept).all()) == ends
    hub.now_ms = NOW + 3_600_000
    for beat in beats:
        hub.land((edge.topic(Up.STATE), beat))
    assert hub.read(lambda conn: conn.execute(kept).all()) == ends
    # One that says something else is kept, and is as old as the next that came in time.
    hub.land((edge.topic(Up.STATE), other))
    late = (NOW + 150_000, NOW + 240_000)
    assert hub.read(lambda conn: conn.execute(kept).all()) == [ends[0], late, ends[1]]


def test_broken_entries_in_a_valid_batch_are_kept_byte_for_byte_and_receipted(
    hub: Hub, edge: FakeEdge
) -> None:
    broken = [
        b"",
        b"\xff" * 40,
        b"\x81" * 200,
        cbor2.dumps([99, 1, 2, True, "a later kind"]),
        cbor2.dumps([1, 1, 2, True, "reader\x00", 0, b"x" * 32]),
        cbor2.dumps([1, -1, 2, 1, "reader", 0, b"x"]),
        cbor2.dumps([1, 2**70, 2**80, True, "reader", 0, b"x" * 32]),
    ]
    edge.tap(uid(1))
    for entry in broken:
        edge.raw(entry)
    edge.tap(uid(2))
    landed = hub.land((edge.topic(), edge.payload()))
    assert landed.receipts[0].through == len(edge.entries)
    assert hub.uids() == [uid(1).value, uid(2).value]
    with hub.engine.begin() as conn:
        rows = conn.execute(
            select(s.entries.c.body, s.entries.c.problem).where(s.entries.c.problem.isnot(None))
        ).all()
    assert [bytes(row.body) for row in rows] == broken
    assert all(row.problem for row in rows)
    # Once each, however often they come.
    assert landed.rejected == {Reason.BROKEN_ENTRY: len(broken)}
    assert not hub.land((edge.topic(), edge.payload())).rejected
    assert hub.rejected() == {Reason.BROKEN_ENTRY: len(broken)}
    with hub.engine.begin() as conn:
        samples = conn.execute(select(s.rejections.c.topic, s.rejections.c.sample)).all()
    assert [tuple(each) for each in samples] == [(edge.topic(), body) for body in broken]


def test_a_stated_gap_lets_the_mark_pass_and_stays_visible(hub: Hub, edge: FakeEdge) -> None:
    for number in range(4):
        edge.tap(uid(number))
    gap = Gap(3, 4, edge.digests[4], "does not fit its digest")
    items = (*edge.entries[:2], gap, edge.entries[4])
    landed = hub.land((edge.topic(), edge.sign(edge.batch(items=items))))
    assert landed.receipts[0].through == 5
    assert landed.receipts[0].digest == edge.digests[5]
    assert hub.uids() == [uid(0).value, uid(3).value]
    with hub.engine.begin() as conn:
        [row] = conn.execute(select(s.gaps)).all()
    assert (row.first, row.last, row.reason) == (3, 4, "does not fit its digest")


def test_entries_that_were_stated_as_lost_and_found_again_take_the_gap_s_place(
    hub: Hub, edge: FakeEdge
) -> None:
    for number in range(5):
        edge.tap(uid(number))
    gap = Gap(3, 5, edge.digests[5], "does not fit its digest")
    items = (*edge.entries[:2], gap, edge.entries[5])
    hub.land((edge.topic(), edge.sign(edge.batch(items=items))))
    assert hub.uids() == [uid(0).value, uid(4).value]
    # the batch does not reach the gap's end: whether it fits there cannot be told
    hub.land((edge.topic(), edge.payload(3, 4)))
    assert hub.uids() == [uid(0).value, uid(4).value]
    landed = hub.land((edge.topic(), edge.payload(4, 6)))
    assert not landed.rejected
    assert hub.uids() == [uid(number).value for number in (0, 2, 3, 4)]
    with hub.engine.begin() as conn:
        [row] = conn.execute(select(s.gaps)).all()
    assert (row.first, row.last, row.digest) == (3, 3, edge.digests[3])
    hub.land((edge.topic(), edge.payload(3, 3)), (edge.topic(), edge.payload()))
    assert hub.uids() == [uid(number).value for number in range(5)]
    assert hub.count(s.gaps) == 0
    again = hub.land((edge.topic(), edge.payload()))
    assert again.receipts[0].through == 6
    assert hub.count(s.entries) == 6


def test_a_gap_stated_and_given_back_in_one_landing_leaves_no_hole(
    hub: Hub, edge: FakeEdge
) -> None:
    edge.tap(uid(1))
    gap = Gap(2, 2, edge.digests[2], "lost")
    stated = edge.sign(edge.batch(items=(edge.entries[0], gap)))
    hub.land((edge.topic(), stated), (edge.topic(), edge.payload()))
    assert hub.uids() == [uid(1).value]
    assert hub.count(s.gaps) == 0


def test_entries_of_a_later_version_keep_their_subjects_or_are_not_receipted(
    hub: Hub, edge: FakeEdge
) -> None:
    seq = len(edge.entries) + 1
    sealed = [edge.box.seal(seq, uid(number), bytes([number] * 12)) for number in (1, 2)]
    edge.raw(cbor2.dumps([9, 1, NOW, True, 4, *[sha256(each).digest() for each in sealed]]))
    whole = seal_batch(edge.batch(), edge.key, sealed)
    parcel = Parcel.decode(whole)
    for fewer in (parcel.subjects[:1], (), (parcel.subjects[0], b"other")):
        landed = hub.land((edge.topic(), Parcel(parcel.signed, fewer).encode()))
        assert landed.rejected == {Reason.DAMAGED_SUBJECTS: 1}
        assert not landed.receipts
    landed = hub.land((edge.topic(), whole))
    assert landed.receipts[0].through == 2
    with hub.engine.begin() as conn:
        kept = conn.execute(select(s.unopened_subjects.c.seq, s.unopened_subjects.c.sealed)).all()
    assert sorted((row.seq, bytes(row.sealed)) for row in kept) == sorted(
        (seq, each) for each in sealed
    )


def test_a_subject_lost_on_the_way_is_no_receipt_and_withheld_by_the_edge_is_one(
    hub: Hub, edge: FakeEdge
) -> None:
    edge.tap(uid(1))
    whole = Parcel.decode(edge.payload())
    stripped = hub.land((edge.topic(), Parcel(whole.signed, ()).encode()))
    flipped = hub.land(
        (edge.topic(), Parcel(whole.signed, (b"\x00" + whole.subjects[0][1:],)).encode())
    )
    assert stripped.rejected == flipped.rejected == {Reason.DAMAGED_SUBJECTS: 1}
    assert not stripped.receipts
    assert not flipped.receipts
    assert hub.count(s.entries) == 0
    landed = hub.land((edge.topic(), edge.sign(replace(edge.batch(), withheld=(2,)))))
    assert landed.receipts[0].through == 2


def test_a_subject_that_cannot_be_opened_is_kept_as_it_came(hub: Hub, edge: FakeEdge) -> None:
    seq = edge.tap(uid(1))
    edge.entries.pop(), edge.digests.pop()
    other = FakeEdge(edge.hub)
    foreign = other.box.seal(seq, uid(1), bytes(12))
    edge.sealed[seq] = foreign
    from protocol.credential import Assurance
    from protocol.journal import Stamp, Tap, encode_entry
    from protocol.sealing import subject_digest

    at = Stamp(1, NOW, trusted=True)
    edge.raw(encode_entry(Tap(at, "reader", Assurance.UID, subject_digest(foreign))))
    landed = hub.land((edge.topic(), edge.payload()))
    assert landed.receipts[0].through == 2
    with hub.engine.begin() as conn:
        [row] = conn.execute(select(s.unopened_subjects)).all()
        state = conn.scalar(select(s.entries.c.subject_state).where(s.entries.c.seq == 2))
    assert bytes(row.sealed) == foreign
    assert state == s.SUBJECT_UNOPENED


def acts(hub: Hub) -> list[tuple[object, ...]]:
    """(seq, what, number, authorising value, state, about's scheme and value, state) of each."""
    a, e = s.actions.c, s.entries.c
    card, about = s.credentials.alias("card"), s.credentials.alias("about")
    with hub.engine.begin() as conn:
        rows = conn.execute(
            select(
                *(a.seq, a.what, a.number, card.c.value, e.subject_state),
                *(about.c.scheme, about.c.value, a.about_state),
            )
            .select_from(s.actions)
            .join(s.entries, (e.epoch_id == a.epoch_id) & (e.seq == a.seq))
            .outerjoin(card, card.c.id == e.credential_id)
            .outerjoin(about, about.c.id == a.about_credential_id)
            .order_by(a.seq)
        )
        return [tuple(row) for row in rows]


MEMBER = member_credential("党员-7")


def test_an_action_is_an_entry_and_says_who_spoke_of_whom(hub: Hub, edge: FakeEdge) -> None:
    edge.tap(uid(1))
    edge.act(Act.WITNESSED, uid(2), about=MEMBER)
    edge.act(Act.HEAD_COUNT, uid(2), number=23)
    edge.act(Act.CLOSED, uid(1))
    landed = hub.land((edge.topic(), edge.payload()))
    assert landed.receipts[0].through == 5
    assert not landed.rejected
    opened, none = s.SUBJECT_OPENED, s.SUBJECT_NONE
    assert acts(hub) == [
        (3, Act.WITNESSED, None, uid(2).value, opened, "member", "党员-7", opened),
        (4, Act.HEAD_COUNT, 23, uid(2).value, opened, None, None, none),
        (5, Act.CLOSED, None, uid(1).value, opened, None, None, none),
    ]
    with hub.engine.begin() as conn:
        rows = conn.execute(select(s.entries).order_by(s.entries.c.seq)).all()
    assert [row.kind for row in rows] == [3, 1, 2, 2, 2]
    assert [bytes(row.body) for row in rows[2:]] == edge.entries[2:]
    assert {row.reader for row in rows[2:]} == {"reader"}
    assert {row.wall_ms for row in rows[2:]} == {NOW}
    again = hub.land((edge.topic(), edge.payload()), (edge.topic(), edge.payload(3, 4)))
    assert again.receipts == landed.receipts
    assert (hub.count(s.actions), hub.count(s.entries)) == (3, 5)


def test_an_act_that_is_not_known_here_is_kept_with_all_that_it_says(
    hub: Hub, edge: FakeEdge
) -> None:
    edge.act(77, uid(1), number=(1 << 63) - 1, about=uid(2))
    edge.act(78, uid(1))
    landed = hub.land((edge.topic(), edge.payload()))
    assert not landed.rejected
    opened = s.SUBJECT_OPENED
    assert acts(hub) == [
        (2, 77, (1 << 63) - 1, uid(1).value, opened, "uid", uid(2).value, opened),
        (3, 78, None, uid(1).value, opened, None, None, s.SUBJECT_NONE),
    ]


@pytest.mark.parametrize(
    "tail",
    [
        ["r", 1, 5, 0, bytes(32), None],
        ["r", 4, None, 0, bytes(32), None],
        ["r", 3, 100_001, 0, bytes(32), None],
        ["r", 1, None, 0, bytes(32)],
        ["r", 40_000, None, 0, bytes(32), None],
    ],
)
def test_an_action_that_cannot_be_is_a_broken_entry_and_no_action(
    hub: Hub, edge: FakeEdge, tail: list[object]
) -> None:
    edge.raw(cbor2.dumps([2, 1, NOW, True, *tail]))
    edge.act(Act.OPENED, uid(1))
    landed = hub.land((edge.topic(), edge.payload()))
    assert landed.receipts[0].through == 3
    assert landed.rejected == {Reason.BROKEN_ENTRY: 1}
    assert [row[0] for row in acts(hub)] == [3]


def test_a_subject_of_an_action_lost_on_the_way_is_no_receipt(hub: Hub, edge: FakeEdge) -> None:
    seq = edge.act(Act.WITNESSED, uid(1), about=MEMBER)
    for batch in (edge.batch(), replace(edge.batch(), withheld=(seq,))):
        whole = Parcel.decode(edge.sign(batch))
        for fewer in (whole.subjects[:1], whole.subjects[1:], ()):
            landed = hub.land((edge.topic(), Parcel(whole.signed, fewer).encode()))
            assert landed.rejected == {Reason.DAMAGED_SUBJECTS: 1}
            assert not landed.receipts
    assert hub.count(s.entries) == hub.count(s.actions) == 0


@pytest.mark.parametrize("rotten", ["sealed", "about", "both"])
def test_a_subject_of_an_action_that_the_edge_withholds_is_missing_and_the_other_is_not(
    hub: Hub, edge: FakeEdge, rotten: str
) -> None:
    seq = edge.act(Act.WITNESSED, uid(1), about=MEMBER)
    if rotten != "about":
        del edge.sealed[seq]
    if rotten != "sealed":
        del edge.about[seq]
    landed = hub.land((edge.topic(), edge.sign(replace(edge.batch(), withheld=(seq,)))))
    assert landed.receipts[0].through == seq
    [(*_, card, card_state, _, about, about_state)] = acts(hub)
    withheld, opened = (None, s.SUBJECT_WITHHELD), s.SUBJECT_OPENED
    assert (card, card_state) == ((uid(1).value, opened) if rotten == "about" else withheld)
    assert (about, about_state) == (("党员-7", opened) if rotten == "sealed" else withheld)


def test_card_and_member_that_changed_places_are_kept_and_open_as_neither(
    hub: Hub, edge: FakeEdge
) -> None:
    seq = edge.act(Act.WITNESSED, uid(1), about=MEMBER)
    said = decode_entry(edge.entries.pop())
    edge.digests.pop()
    assert isinstance(said, Action)
    assert said.about is not None
    edge.raw(encode_entry(replace(said, subject=said.about, about=said.subject)))
    landed = hub.land((edge.topic(), edge.payload()))
    assert landed.receipts[0].through == seq
    assert acts(hub) == [(2, Act.WITNESSED, None, None, s.SUBJECT_UNOPENED, None, None, 3)]
    with hub.engine.begin() as conn:
        kept = conn.execute(select(s.unopened_subjects)).all()
    assert {bytes(row.sealed) for row in kept} == {edge.sealed[seq], edge.about[seq]}
    assert {bytes(row.digest) for row in kept} == {said.subject, said.about}
    assert hub.count(s.credentials) == 0


def test_the_same_card_as_authoriser_and_as_tap_is_one_credential(hub: Hub, edge: FakeEdge) -> None:
    edge.tap(uid(1))
    edge.act(Act.OPENED, uid(1))
    edge.act(Act.WITNESSED, uid(1), about=MEMBER)
    edge.act(Act.WITNESSED, uid(2), about=MEMBER)
    hub.land((edge.topic(), edge.payload()))
    assert hub.count(s.credentials) == 3


def test_another_history_of_one_epoch_is_a_conflict(hub: Hub, edge: FakeEdge) -> None:
    edge.tap(uid(1))
    hub.land((edge.topic(), edge.payload()))
    edge.tap(uid(2))
    forked = replace(edge.batch(3, 3), previous=b"!" * 32)
    landed = hub.land((edge.topic(), edge.sign(forked)))
    assert landed.rejected == {Reason.CONFLICT: 1}
    assert not landed.receipts
    assert hub.count(s.entries) == 2


def _foreign(edge: FakeEdge, keyring: Keyring) -> dict[str, tuple[str, bytes, Reason]]:
    """Messages that are not to be taken, each with the reason that counts it."""
    stranger = FakeEdge(keyring.public())
    good = edge.payload()
    forger = FakeEdge(keyring.public())
    forger.edge = edge.edge
    forger.reopen()
    lost = FakeEdge(HubKeys(keyring.public().sign, OpeningKey.generate().public))
    lost.edge, lost.key = edge.edge, edge.key
    lost.reopen()
    future = cbor2.loads(Parcel.decode(good).signed)
    header = cbor2.loads(future[0])
    header[16] = "shuaka/2/batch"
    future[0] = cbor2.dumps(header)
    bomb = b"\x81" * 60_000 + b"\x00"
    return {
        "random": (edge.topic(), random.Random(1).randbytes(5000), Reason.MALFORMED),
        "empty": (edge.topic(), b"", Reason.MALFORMED),
        "truncated": (edge.topic(), good[:-10], Reason.MALFORMED),
        "a megabyte": (edge.topic(), bytes(1 << 20), Reason.OVERSIZE),
        "nested": (edge.topic(), bomb, Reason.MALFORMED),
        "nested, validly signed": (edge.topic(), edge.parcel_of(bomb[:30_000]), Reason.MALFORMED),
        "signed nonsense": (edge.topic(), edge.parcel_of(b"\xf6"), Reason.MALFORMED),
        "wrong signature": (edge.topic(), forger.payload(), Reason.BAD_SIGNATURE),
        "unknown device": (stranger.topic(), stranger.payload(), Reason.UNKNOWN_DEVICE),
        "another's topic": (edge.topic(), stranger.payload(), Reason.BAD_SIGNATURE),
        "another's epoch": (
            edge.topic(),
            edge.parcel_of(stranger.batch().encode()),
            Reason.WRONG_TOPIC,
        ),
        "no topic of ours": ("shuaka/v1/up/nobody/journal", good, Reason.WRONG_TOPIC),
        "a future version": (
            edge.topic(),
            Parcel(cbor2.dumps(future), ()).encode(),
            Reason.FUTURE_VERSION,
        ),
        "a hello as a batch": (
            edge.topic(),
            Parcel(edge.hello(), ()).encode(),
            Reason.WRONG_TYPE,
        ),
        "a hub key not here": (edge.topic(), lost.payload(), Reason.UNKNOWN_HUB_KEY),
        "a receipt as a heartbeat": (
            edge.topic(Up.STATE),
            edge.sign_bytes(MessageType.RECEIPT, b"\x80"),
            Reason.WRONG_TYPE,
        ),
    }


def test_what_is_not_ours_is_counted_with_its_reason_and_the_rest_goes_on(
    hub: Hub, edge: FakeEdge, keyring: Keyring
) -> None:
    edge.tap(uid(1))
    bad = _foreign(edge, keyring)
    for name, (topic, payload, reason) in bad.items():
        landed = hub.land((topic, payload))
        assert landed.rejected == {reason: 1}, name
        assert not landed.receipts, name
        assert hub.count(s.entries) == 0, name
    mixed = [each[:2] for each in bad.values()]
    landed = hub.land(*mixed[:8], (edge.topic(), edge.payload()), *mixed[8:])
    assert hub.uids() == [uid(1).value]
    assert landed.receipts[0].through == 2
    reasons: dict[str, int] = {}
    for *_, reason in bad.values():
        reasons[reason] = reasons.get(reason, 0) + 2
    assert hub.rejected() == reasons


def test_an_inactive_device_is_told_nothing(hub: Hub, keyring: Keyring) -> None:
    for status in ("RETIRED", "COMPROMISED", "PENDING"):
        gone = FakeEdge(keyring.public())
        gone.tap(uid(1))
        with hub.engine.begin() as conn:
            gone.add_to(conn, status)
        landed = hub.land((gone.topic(), gone.payload()))
        assert landed.held == (status != "PENDING")
        assert landed.rejected == ({Reason.INACTIVE_DEVICE: 1} if status == "PENDING" else {})
        assert not landed.receipts
    assert hub.count(s.entries) == hub.count(s.epochs) == 0


def test_the_samples_of_rejected_messages_are_bounded(hub: Hub, edge: FakeEdge) -> None:
    for _ in range(40):
        hub.land(*[(edge.topic(), bytes(60_000))] * 50)
    assert hub.rejected() == {Reason.MALFORMED: 2000}
    assert hub.count(s.rejections) <= 1000
    with hub.engine.begin() as conn:
        assert all(len(row) <= 256 for row in conn.scalars(select(s.rejections.c.sample)))


def test_a_landing_that_is_rolled_back_leaves_nothing_and_can_be_repeated(
    hub: Hub, edge: FakeEdge
) -> None:
    edge.tap(uid(1))
    message = Message(edge.topic(), edge.payload())
    with pytest.raises(ZeroDivisionError), hub.engine.begin() as conn:
        hub.landing.land(conn, [message], NOW)
        raise ZeroDivisionError
    assert hub.count(s.entries) == 0
    assert hub.count(s.epochs) == 0
    landed = hub.land((edge.topic(), edge.payload()))
    assert landed.receipts[0].through == 2
    assert hub.uids() == [uid(1).value]
