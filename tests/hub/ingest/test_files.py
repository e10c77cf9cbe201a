"""A file that was carried lands as if it had come by MQTT, whatever became of it on its way.

Beside the network, many times, cut off, damaged, in any order, by a stranger: each verified entry
is stored once, nothing else ever is, and a receipt speaks only of what is committed.
"""

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select, update

from hub import carried
from hub.carried import import_paths
from hub.ingest import files
from hub.ingest.files import FileIngest, Taken, answer_name
from hub.ingest.landing import Landing, Message
from hub.keys import Keyring
from hub.store import schema as s
from hub.store.engine import open_engine
from hub.store.state import begin_generation
from protocol.batch import Heartbeat, Receipt, open_receipt
from protocol.courierfile import Channel, CourierReader, Direction, Ending, Item, begin, end
from protocol.errors import Reason, RemoteError
from protocol.fleet import Command, NextKeys, Order
from protocol.identity import MessageType, OpeningKey, SigningKey
from protocol.journal import Stamp
from tests.fakes.edge import FakeEdge, uid

NOW = 1_777_000_000_000
HAVING_CARDS = s.entries.join(s.credentials, s.credentials.c.id == s.entries.c.credential_id)


@pytest.fixture(scope="module")
def keyring() -> Keyring:
    return Keyring(SigningKey.generate(), (OpeningKey.generate(),))


class Hub:
    """A database, and what came into it."""

    def __init__(self, engine: Engine, keyring: Keyring) -> None:
        self.engine = engine
        self.keyring = keyring
        with engine.begin() as conn:
            begin_generation(conn, NOW)
        self.said: list[str] = []

    def edge(self, status: str = "ACTIVE") -> FakeEdge:
        edge = FakeEdge(self.keyring.public())
        with self.engine.begin() as conn:
            edge.add_to(conn, status)
        return edge

    def by_mqtt(self, *messages: tuple[str, bytes]) -> None:
        with self.engine.begin() as conn:
            Landing(self.keyring).land(conn, [Message(*each) for each in messages], NOW)

    def take(self, *contents: bytes) -> tuple[list[Taken], list[Receipt]]:
        ingest = FileIngest(self.engine, self.keyring, NOW)
        taken = [ingest.take([content]) for content in contents]
        ingest.derive()
        return taken, [each for _, _, file in ingest.answers() for each in self.receipts(file)]

    def receipts(self, file: bytes) -> list[Receipt]:
        """Those in a file for an edge; each is of this hub and for the edge that it names."""
        reader = CourierReader(Direction.DOWN)
        items = reader.feed(file)
        reader.close()
        assert reader.ending is Ending.WHOLE
        found = []
        for each in items:
            if each.channel is Channel.RECEIPT:
                found.append(open_receipt(each.payload, self.keyring.sign.public))
                assert found[-1].edge == each.edge
        return found

    def run(self, *paths: Path, receipts: Path | None = None) -> bool:
        self.said.clear()
        return import_paths(self.engine, self.keyring, paths, receipts, NOW, self.said.append)

    def uids(self) -> Counter[str]:
        with self.engine.begin() as conn:
            return Counter(conn.scalars(select(s.credentials.c.value).select_from(HAVING_CARDS)))

    def count(self, table: object) -> int:
        with self.engine.begin() as conn:
            return int(str(conn.scalar(select(func.count()).select_from(table))))  # type: ignore[arg-type]


@pytest.fixture
def hub(engine: Engine, keyring: Keyring) -> Hub:
    return Hub(engine, keyring)


@pytest.fixture
def lite(tmp_path: Path, _sqlite_template: Path, keyring: Keyring) -> Iterator[Hub]:
    """On SQLite alone: what is asked does not depend on the database."""
    path = tmp_path / "lite.db"
    path.write_bytes(_sqlite_template.read_bytes())
    engine = open_engine(f"sqlite:///{path}")
    yield Hub(engine, keyring)
    engine.dispose()


def items_of(edge: FakeEdge, size: int = 4) -> list[Item]:
    """As an edge writes them: hello, journal, state."""
    head = len(edge.entries)
    spans = [(first, min(head, first + size - 1)) for first in range(1, head + 1, size)]
    return [
        Item(Channel.HELLO, edge.edge, edge.hello((edge.epoch, 1, head))),
        *(Item(Channel.JOURNAL, edge.edge, edge.payload(*span)) for span in spans),
        Item(Channel.STATE, edge.edge, edge.heartbeat(NOW)),
    ]


def written(items: Sequence[Item]) -> bytes:
    return begin(Direction.UP) + b"".join(each.encode() for each in items) + end(len(items))


def tapped(edge: FakeEdge, count: int, first: int = 0) -> FakeEdge:
    for number in range(first, first + count):
        edge.tap(uid(number))
    return edge


def wanted(*numbers: int) -> Counter[str]:
    return Counter(uid(number).value for number in numbers)


def test_a_file_is_taken_and_answered(hub: Hub) -> None:
    edge = tapped(hub.edge(), 9)
    [taken], [receipt] = hub.take(written(items_of(edge)))
    assert taken.is_sound
    assert (taken.items, taken.journals, taken.batches, taken.entries) == (5, 3, 3, 10)
    assert hub.uids() == wanted(*range(9))
    assert (receipt.epoch, receipt.through, receipt.digest) == (edge.epoch, 10, edge.digests[10])
    assert hub.count(s.heartbeats) == 1
    with hub.engine.begin() as conn:
        assert set(conn.scalars(select(s.batches.c.transport))) == {"usb"}
        assert all(conn.scalars(select(s.batches.c.derived))), "attendance is not made of it"


def test_again_and_beside_the_network_each_entry_is_stored_once(hub: Hub) -> None:
    edge = tapped(hub.edge(), 20)
    hub.by_mqtt((edge.topic(), edge.payload(1, 6)), (edge.topic(), edge.payload(15, 18)))
    file = written(items_of(edge, 5))
    [first, again], [receipt] = hub.take(file, file)
    assert first.batches
    assert (again.batches, again.entries, again.edges) == (0, 0, {edge.edge: None})
    hub.by_mqtt((edge.topic(), edge.payload()))
    assert hub.uids() == wanted(*range(20))
    assert receipt.through == 21


def test_files_and_network_at_the_same_time_store_each_entry_once(hub: Hub) -> None:
    """Three at once: two commands with the same files, and what `serve` does."""
    edges = [tapped(hub.edge(), 30, first=100 * n) for n in range(3)]
    contents = [written(items_of(edge, 3)) for edge in edges]
    failed: list[BaseException] = []
    receipts: list[Receipt] = []

    def guarded(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - told by the test
                failed.append(error)

        return run

    def by_network() -> None:
        for first in range(1, 31, 2):
            for edge in edges:
                hub.by_mqtt((edge.topic(), edge.payload(first, first + 1)))

    works = (
        lambda: receipts.extend(hub.take(*contents)[1]),
        lambda: receipts.extend(hub.take(*reversed(contents))[1]),
        by_network,
    )
    threads = [threading.Thread(target=guarded(each)) for each in works]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed
    assert {each.through for each in receipts} == {31}
    assert hub.uids() == wanted(*(100 * n + m for n in range(3) for m in range(30)))


def test_several_edges_and_epochs_in_one_file_and_in_any_order(lite: Hub) -> None:
    one, two = tapped(lite.edge(), 5), tapped(lite.edge(), 5, first=10)
    items = items_of(one) + items_of(two)
    early = one.epoch
    one.reopen()
    tapped(one, 3, first=20)
    items += items_of(one)
    random.Random(5).shuffle(items)
    [taken], receipts = lite.take(written(items))
    assert lite.uids() == wanted(*range(5), *range(10, 15), *range(20, 23))
    assert {(each.edge, each.epoch, each.through) for each in receipts} == {
        (one.edge, early, 6),
        (one.edge, one.epoch, 4),
        (two.edge, two.epoch, 6),
    }
    assert set(taken.rejected) <= {Reason.UNKNOWN_EPOCH}, "a heartbeat may come first"


def test_cut_off_at_any_byte_it_gives_what_is_whole(lite: Hub) -> None:
    edge = tapped(lite.edge(), 5)
    items = items_of(edge, 2)
    file, header = written(items), len(begin(Direction.UP))
    ingest = FileIngest(lite.engine, lite.keyring, NOW)
    through = 0
    for cut in range(header, len(file), 7):
        taken = ingest.take([file[:cut]])
        assert taken.ending is Ending.TRUNCATED
        assert not taken.rejected
        done = [each for _, _, answer in ingest.answers() for each in lite.receipts(answer)]
        reached = done[0].through if done else 0
        whole = sum(
            header + sum(len(each.encode()) for each in items[: n + 1]) <= cut
            for n in range(len(items))
        )
        assert reached == min(6, 2 * max(0, whole - 1))
        assert reached >= through
        through = reached
    assert lite.uids() == wanted(*range(5))
    for cut in range(header):
        with pytest.raises(RemoteError):
            ingest.take([file[:cut]])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_whatever_becomes_of_a_file_only_what_the_edge_wrote_is_stored_and_once(
    lite: Hub, data: st.DataObject
) -> None:
    """Bytes flipped, items reordered, doubled, dropped, exchanged between edges."""
    one, two = tapped(lite.edge(), 6), tapped(lite.edge(), 6, first=100)
    items = items_of(one, 2) + items_of(two, 2)
    order = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=20))
    items = [items[n] for n in order]
    swaps = data.draw(st.booleans())
    if items and swaps:
        at = data.draw(st.integers(0, len(items) - 1))
        items[at] = replace(items[at], edge=two.edge if items[at].edge == one.edge else one.edge)
    file = bytearray(written(items))
    for _ in range(data.draw(st.integers(0, 3))):
        file[data.draw(st.integers(len(begin(Direction.UP)), len(file) - 1))] ^= 1 << data.draw(
            st.integers(0, 7)
        )
    before = lite.uids()
    _, receipts = lite.take(bytes(file), bytes(file))
    new = lite.uids() - before
    for edge, numbers in ((one, range(6)), (two, range(100, 106))):
        through = {each.through for each in receipts if each.epoch == edge.epoch}
        have = {
            n
            for each in receipts
            if each.epoch == edge.epoch
            for a, b in [(1, each.through), *((span.first, span.last) for span in each.have)]
            for n in range(a, b + 1)
        }
        assert len(through) <= 1
        with lite.engine.begin() as conn:
            stored = Counter(
                conn.scalars(
                    select(s.entries.c.seq)
                    .join(s.epochs, s.epochs.c.id == s.entries.c.epoch_id)
                    .where(s.epochs.c.epoch == edge.epoch)
                )
            )
            rows = dict(
                conn.execute(
                    select(s.entries.c.seq, s.credentials.c.value)
                    .select_from(HAVING_CARDS.join(s.epochs, s.epochs.c.id == s.entries.c.epoch_id))
                    .where(s.epochs.c.epoch == edge.epoch)
                ).all()
            )
        assert set(stored.values()) <= {1}
        assert have == set(stored), "a receipt for what is not stored, or none for what is"
        assert rows == {seq: uid(numbers[seq - 2]).value for seq in stored if seq > 1}
    assert set(new) <= set(wanted(*range(6), *range(100, 106)))


def test_what_is_not_ours_is_counted_and_gets_no_receipt(lite: Hub) -> None:
    stranger, pending = FakeEdge(lite.keyring.public()), lite.edge("PENDING")
    good = tapped(lite.edge(), 3)
    forged = FakeEdge(lite.keyring.public())
    forged.edge = good.edge
    forged.reopen()
    tapped(forged, 3, first=50)
    items = items_of(tapped(stranger, 2)) + items_of(pending) + items_of(forged) + items_of(good)
    [taken], receipts = lite.take(written(items))
    assert [each.epoch for each in receipts] == [good.epoch]
    assert lite.uids() == wanted(*range(3))
    assert taken.rejected[Reason.UNKNOWN_DEVICE] == 3
    assert taken.rejected[Reason.INACTIVE_DEVICE] == 3
    assert taken.rejected[Reason.BAD_SIGNATURE] == 3
    assert not taken.is_sound
    with lite.engine.begin() as conn:
        rows = conn.execute(select(s.rejection_counts.c.reason, s.rejection_counts.c.count))
        assert {row.reason: row[1] for row in rows} == {
            Reason.UNKNOWN_DEVICE: 3,
            Reason.INACTIVE_DEVICE: 3,
            Reason.BAD_SIGNATURE: 3,
        }


def test_a_flood_of_rubbish_is_not_read_to_its_end(lite: Hub) -> None:
    piece = Item(Channel.JOURNAL, bytes(16), b"rubbish").encode() * 100
    read = 0

    def pieces() -> Iterator[bytes]:
        nonlocal read
        yield begin(Direction.UP)
        while True:
            read += 1
            yield piece

    taken = FileIngest(lite.engine, lite.keyring, NOW).take(pieces())
    assert read <= files.MAX_REFUSED // 100 + 2
    assert "it was not read on" in taken.problem


def test_an_item_that_makes_the_code_fail_costs_itself_alone(
    lite: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = tapped(lite.edge(), 6)
    poison = edge.payload(3, 4)
    land = Landing.land

    def failing(self: Landing, conn: object, messages: Sequence[Message], now: int) -> object:
        if any(each.payload == poison for each in messages):
            raise ZeroDivisionError
        return land(self, conn, messages, now)  # type: ignore[arg-type]

    monkeypatch.setattr(Landing, "land", failing)
    items = [Item(Channel.JOURNAL, edge.edge, edge.payload(n, n + 1)) for n in (1, 3, 5)]
    items[1] = Item(Channel.JOURNAL, edge.edge, poison)
    [taken], [receipt] = lite.take(written(items))
    assert taken.rejected == {"made_ingest_fail": 1}
    assert (receipt.through, [(each.first, each.last) for each in receipt.have]) == (2, [(5, 6)])


def test_the_answer_tells_of_the_hubs_changes_of_keys_first(lite: Hub) -> None:
    next_key = SigningKey.generate()
    statement = NextKeys(1, replace(lite.keyring.public(), sign=next_key.public)).seal(
        lite.keyring.sign
    )
    changed = Keyring(next_key, lite.keyring.open, (statement,))
    edge = tapped(lite.edge(), 1)
    ingest = FileIngest(lite.engine, changed, NOW)
    ingest.take([written(items_of(edge))])
    [(whose, number, file)] = ingest.answers()
    assert (whose, number) == (edge.edge, 1)
    items = CourierReader(Direction.DOWN).feed(file)
    assert [each.channel for each in items] == [Channel.KEYS, Channel.RECEIPT]
    assert items[0].payload == statement


def test_a_device_that_is_to_retire_is_told_so_and_its_last_word_is_heard(hub: Hub) -> None:
    edge = tapped(hub.edge(), 3)
    with hub.engine.begin() as conn:
        mine = s.devices.c.public_id == UUID(bytes=edge.edge)
        conn.execute(update(s.devices).where(mine).values(retiring_ms=NOW))
    ingest = FileIngest(hub.engine, hub.keyring, NOW)
    ingest.take([written(items_of(edge))])
    [(_, _, file)] = ingest.answers()
    orders = CourierReader(Direction.DOWN).feed(file)[-1:]
    assert [each.channel for each in orders] == [Channel.ORDER]
    order = Order.open(orders[0].payload, hub.keyring.sign.public, edge.edge)
    assert order.command == Command.RETIRE
    head = len(edge.entries)
    last_word = Heartbeat(
        *(edge.epoch, head, edge.digests[head], Stamp(5, NOW, trusted=True), head, 1, 0, ()),
        closing=True,
    )
    signed = edge.sign_bytes(MessageType.HEARTBEAT, last_word.encode())
    [taken], _ = hub.take(written([Item(Channel.STATE, edge.edge, signed)]))
    assert taken.left == [edge.edge]
    assert any("has retired" in each for each in carried.told(taken, {}))


def test_what_a_compromised_device_sends_is_held_and_not_receipted(hub: Hub) -> None:
    edge = tapped(hub.edge("COMPROMISED"), 3)
    [taken], receipts = hub.take(written(items_of(edge)))
    assert (taken.held, taken.entries, receipts) == (1, 0, [])
    assert not hub.uids()
    assert any("somebody admits them" in each for each in carried.told(taken, {}))


# --- the command's words and files ----------------------------------------------------------------


def test_a_folder_is_taken_in_and_its_receipts_lie_beside(lite: Hub, tmp_path: Path) -> None:
    one, two = tapped(lite.edge(), 4), tapped(lite.edge(), 2, first=50)
    stick = tmp_path / "stick"
    stick.mkdir()
    for edge in (one, two):
        (stick / f"shuaka-{edge.edge.hex()}.up").write_bytes(written(items_of(edge)))
    (stick / "holiday.jpg").write_bytes(b"\xff\xd8")
    assert lite.run(stick), lite.said
    assert sorted(lite.said)[-4:] == sorted(lite.said)
    for edge in (one, two):
        up, down = f"shuaka-{edge.edge.hex()}.up", stick / answer_name(edge.edge)
        assert any(up in each and f"{edge.name}: " in each for each in lite.said)
        [receipt] = lite.receipts(down.read_bytes())
        assert (receipt.edge, receipt.through) == (edge.edge, len(edge.entries))
    assert sorted(path.suffix for path in stick.iterdir()) == [
        ".down",
        ".down",
        ".jpg",
        ".up",
        ".up",
    ]
    assert lite.run(stick, stick)
    assert sum("here already" in each for each in lite.said) == 4
    assert lite.uids() == wanted(*range(4), 50, 51)


def test_what_cannot_be_taken_is_said_and_stops_no_other(lite: Hub, tmp_path: Path) -> None:
    edge = tapped(lite.edge(), 4)
    whole = written(items_of(edge))
    contents = {
        "empty.up": (b"", "no courier file"),
        "image.up": (b"\x89PNG" * 1000, "refused: no courier file"),
        "newer.up": (
            b"\x58\x19" + b"\x83\x6eshuaka-courier\x02\x62up"[:25].ljust(25, b"\0"),
            "refused: ",
        ),
        "down.up": (begin(Direction.DOWN) + end(0), "refused: a courier file for the other way"),
        "nothing.up": (written([]), "there is nothing in it"),
        "short.up": (whole[:-20], "cut off after"),
        "broken.up": (whole[:-20] + b"\xff" * 20, "not whole"),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.up")
    (tmp_path / "link.up").symlink_to("/etc/passwd")
    (tmp_path / "whole.up").write_bytes(whole)
    assert not lite.run(tmp_path, tmp_path / "missing.up", tmp_path / "pipe.up")
    for name, (_, words) in contents.items():
        assert any(name in each and words in each for each in lite.said), (name, lite.said)
    assert any("missing.up" in each and "No such file" in each for each in lite.said)
    assert not any("link.up" in each for each in lite.said)
    assert lite.uids() == wanted(*range(4))


def test_a_folder_without_files_is_said(lite: Hub, tmp_path: Path) -> None:
    assert not lite.run(tmp_path)
    assert lite.said == [f"not read: {tmp_path}: no file in it is called *.up"]


def test_receipts_that_cannot_be_written_are_said_and_what_was_taken_stays(
    lite: Hub, tmp_path: Path
) -> None:
    edge = tapped(lite.edge(), 4)
    file = tmp_path / "a.up"
    file.write_bytes(written(items_of(edge)))
    in_the_way = tmp_path / answer_name(edge.edge)
    in_the_way.mkdir()
    assert not lite.run(file)
    assert "the receipts could not be written" in lite.said[-1]
    assert lite.uids() == wanted(*range(4))
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".part") == []
    other = tmp_path / "other"
    other.mkdir()
    assert lite.run(file, receipts=other)
    assert lite.receipts((other / answer_name(edge.edge)).read_bytes())[0].through == 5


def test_a_link_in_the_way_of_receipts_is_replaced_and_not_followed(
    lite: Hub, tmp_path: Path
) -> None:
    edge = tapped(lite.edge(), 1)
    precious = tmp_path / "precious"
    precious.write_text("keep")
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / answer_name(edge.edge)).symlink_to(precious)
    (stick / "a.up").write_bytes(written(items_of(edge)))
    assert lite.run(stick)
    assert precious.read_text() == "keep"
    assert not (stick / answer_name(edge.edge)).is_symlink()


def test_a_stick_that_fails_while_it_is_read_gives_what_came_before(
    lite: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = tapped(lite.edge(), 8)
    content = written(items_of(edge, 3))
    (tmp_path / "a.up").write_bytes(content)

    def failing(_path: Path) -> Iterator[bytes]:
        yield content[: len(content) * 2 // 3]
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(carried, "pieces_of", failing)
    assert not lite.run(tmp_path)
    assert any("Input/output error" in each for each in lite.said)
    assert lite.uids()
    [receipt] = lite.receipts((tmp_path / answer_name(edge.edge)).read_bytes())
    assert receipt.through == sum(lite.uids().values()) + 1


def test_nothing_that_is_said_or_written_tells_a_card(lite: Hub, tmp_path: Path) -> None:
    edge = tapped(lite.edge(), 3)
    (tmp_path / "a.up").write_bytes(written(items_of(edge)))
    lite.run(tmp_path)
    everything = "\n".join(lite.said).encode() + b"".join(
        path.read_bytes() for path in tmp_path.glob("*.*") if path.suffix in {".up", ".down"}
    )
    for number in range(3):
        value = uid(number).value
        for canary in (value.encode(), value.lower().encode(), bytes.fromhex(value)):
            assert canary not in everything
