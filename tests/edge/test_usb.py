"""A stick takes what the hub lacks and brings its receipts; nothing else of it reaches the journal.

Real recorder, journal and courier; sticks are folders that a list of mounts names, and real file
systems where they must be full, write-protected or gone.
"""

import errno
import logging
import os
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from edge import cli
from edge.actsocket import ActServer
from edge.config import ConfigError, load
from edge.couriers import Everybody, usb
from edge.couriers.file import Export, folder_of, up_name, write_whole
from edge.couriers.statement import Statement
from edge.couriers.usb import MARK, Mounted, Sticks, down_name, mounted
from edge.feedback import Standing
from edge.readers import ReaderUp
from edge.store import JournalReader
from protocol.batch import Batch, Heartbeat, Hello, Parcel, Receipt, header_of
from protocol.courierfile import Channel, CourierReader, Direction, Ending, Item, begin, end
from protocol.fleet import Command, Order
from protocol.identity import MessageType, Signed, SigningKey
from protocol.journal import chain_start, link
from tests.edge.test_courier import Place
from tests.rig import free_port, wait_for


@dataclass
class FarHub:
    """The hub, reached by no network: reads files, answers with files."""

    place: Place
    generation: int = 7
    through: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    hellos: list[Hello] = field(default_factory=list)
    beats: list[Heartbeat] = field(default_factory=list)
    seen: Counter[tuple[bytes, int]] = field(default_factory=Counter)

    def read(self, content: bytes) -> CourierReader:
        reader = CourierReader(Direction.UP)
        for item in reader.feed(content):
            assert item.edge == self.place.edge
            self.take(item)
        reader.close()
        return reader

    def take(self, item: Item) -> None:
        key = self.place.keys.sign.public
        match item.channel:
            case Channel.HELLO:
                signed = Signed.parse(item.payload, MessageType.HELLO)
                self.hellos.append(Hello.decode(signed.verify(key)))
            case Channel.STATE:
                signed = Signed.parse(item.payload, MessageType.HEARTBEAT)
                self.beats.append(Heartbeat.decode(signed.verify(key)))
            case _:
                parcel = Parcel.decode(item.payload)
                batch = Batch.decode(Signed.parse(parcel.signed, MessageType.BATCH).verify(key))
                epoch = header_of(batch, item.edge).epoch
                at, digest = self.through.get(epoch, (0, chain_start(batch.header_bytes)))
                for each in link(batch.first, batch.previous, batch.items):
                    self.seen[epoch, each.last] += 1
                    if each.first == at + 1:
                        at, digest = each.last, each.digest
                self.through[epoch] = at, digest

    def receipt(self, of: bytes, **changed: object) -> Item:
        receipt = Receipt(self.place.edge, self.generation, of, *self.through[of])
        receipt = replace(receipt, **changed)  # type: ignore[arg-type]
        signed = self.place.key.sign(MessageType.RECEIPT, receipt.encode())
        return Item(Channel.RECEIPT, self.place.edge, signed)

    def answer(self) -> bytes:
        return answer(*(self.receipt(epoch) for epoch in self.through))

    def order(self) -> Item:
        signed = Order(self.place.edge, 1, Command.RETIRE).seal(self.place.key)
        return Item(Channel.ORDER, self.place.edge, signed)


def answer(*items: Item) -> bytes:
    return begin(Direction.DOWN) + b"".join(each.encode() for each in items) + end(len(items))


class Site:
    """A place without network, a folder below which sticks appear, and the hub far away."""

    def __init__(self, tmp_path: Path) -> None:
        self.place = Place(tmp_path / "data", free_port())
        self.hub = FarHub(self.place)
        self.media = tmp_path / "media"
        self.media.mkdir()
        self.mounts = tmp_path / "mountinfo"
        self.mounts.write_text("")
        self.shown: list[tuple[Standing | None, str]] = []
        place = self.place
        statement = Statement(place.recorder.ask_state)
        stick = place.recorder.stick

        def show(standing: Standing | None, detail: str = "") -> None:
            self.shown.append((standing, detail))
            stick(standing, detail)

        place.recorder.stick = show  # type: ignore[method-assign]
        self.sticks = Sticks(
            place.data,
            place.enrolment,
            place.keys,
            self.media,
            place.recorder,
            statement,
            place.courier.bring,
            self.mounts,
        )
        place.recorder.start(Everybody([place.courier, statement, self.sticks]))
        place.courier.start()

    def stop(self) -> None:
        if self.sticks._thread.ident is not None:
            self.sticks.stop()
            assert not self.sticks.alive()
        self.place.stop()

    def stick(self, name: str = "stick", *, marked: bool = True) -> Path:
        """A folder as a stick's root, not mounted yet."""
        point = self.media / name
        point.mkdir()
        if marked:
            (point / MARK).touch()
        return point

    def plug_in(self, point: Path, number: int = 1) -> None:
        escaped = str(point).replace(" ", "\\040")
        self.mounts.write_text(f"{number} 27 8:1 / {escaped} rw shared:1 - vfat /dev/sda1 rw\n")

    def unplug(self) -> None:
        self.mounts.write_text("")

    def written(self, point: Path) -> bytes:
        return (point / up_name(self.place.edge)).read_bytes()

    def carry(self, point: Path) -> None:
        """To the hub, whole, and its answer onto the stick."""
        assert self.hub.read(self.written(point)).ending is Ending.WHOLE
        (point / down_name(self.place.edge)).write_bytes(self.hub.answer())

    def unreceipted(self) -> int:
        with closing(JournalReader(self.place.data)) as reader:
            return sum(each.head - max(each.released, each.first - 1) for each in reader.epochs())

    def freed(self) -> bool:
        return self.unreceipted() == 0

    def wait_shown(self, standing: Standing | None) -> None:
        wait_for(lambda: standing in [each for each, _ in self.shown], f"{standing} at the door")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usb, "LOOK_S", 0.05)
    monkeypatch.setattr(usb, "AGAIN_S", 0.2)


def test_there_and_back_and_everything_has_its_receipt(site: Site) -> None:
    site.place.tap(5)
    point = site.stick()
    taken, written = site.sticks.serve(point)
    assert (taken, written.entries, written.unreadable) == (0, 6, 0)
    site.carry(point)
    assert site.hub.beats[-1].head == 6
    assert site.hub.beats[-1].unreceipted == 6
    assert not site.freed()
    taken, written = site.sticks.serve(point)
    assert (taken, written.entries) == (1, 0), "what has its receipt is written once more"
    assert site.freed()
    assert site.place.courier.status().unreceipted == 0
    site.place.tap(2)
    assert site.sticks.serve(point)[1].entries == 2
    site.carry(point)
    assert set(site.hub.seen.values()) == {1}
    assert sum(through for through, _ in site.hub.through.values()) == 8
    assert site.hub.hellos[-1].held == ((site.hub.beats[-1].epoch, 7, 8),)


def test_a_backlog_is_many_messages_and_none_is_missing(site: Site) -> None:
    for _ in range(6):
        site.place.tap(100)
    point = site.stick()
    assert site.sticks.serve(point)[1].entries == 601
    reader = site.hub.read(site.written(point))
    assert reader.items > 3
    assert set(site.hub.seen.values()) == {1}
    assert len(site.hub.seen) == 601


def test_cut_off_at_any_byte_nothing_is_made_up_and_the_whole_still_counts_once(
    site: Site,
) -> None:
    site.place.tap(4)
    point = site.stick()
    site.sticks.serve(point)
    content = site.written(point)
    for cut in range(len(begin(Direction.UP)), len(content)):
        hub = FarHub(site.place)
        assert hub.read(content[:cut]).ending is Ending.TRUNCATED
        assert sum(through for through, _ in hub.through.values()) in {0, 5}
    assert site.hub.read(content).ending is Ending.WHOLE
    assert not site.freed(), "only the hub's receipt frees"


def test_receipts_that_are_cut_off_free_what_is_whole_of_them(site: Site) -> None:
    site.place.tap(3)
    point = site.stick()
    site.sticks.serve(point)
    site.hub.read(site.written(point))
    whole = site.hub.answer()
    down = point / down_name(site.place.edge)
    receipt_ends = len(whole) - len(end(1))
    # every byte at which something begins or ends, and some between
    cuts = {*range(0, receipt_ends, 37), receipt_ends - 1}
    for cut in sorted(cuts):
        down.write_bytes(whole[:cut])
        with closing(JournalReader(site.place.data)), folder_of(point) as folder:
            assert site.sticks._answers(folder) == []
        assert not site.freed()
    down.write_bytes(whole[:receipt_ends])
    site.sticks.serve(point)
    assert site.freed()


def forged(site: Site) -> Iterator[tuple[str, Item]]:
    """Answers that free nothing, each for its own reason."""
    [(epoch, (through, digest))] = site.hub.through.items()
    own = site.hub.receipt(epoch)
    yield (
        "signed by a stranger",
        replace(
            own,
            payload=SigningKey.generate().sign(
                MessageType.RECEIPT, Receipt(site.place.edge, 7, epoch, through, digest).encode()
            ),
        ),
    )
    yield (
        "signed by the edge itself",
        replace(
            own,
            payload=site.place.keys.sign.sign(
                MessageType.RECEIPT, Receipt(site.place.edge, 7, epoch, through, digest).encode()
            ),
        ),
    )
    yield "for another edge", site.hub.receipt(epoch, edge=secrets.token_bytes(16))
    yield "of an earlier generation", site.hub.receipt(epoch, generation=6)
    yield "of another epoch", site.hub.receipt(epoch, epoch=secrets.token_bytes(16))
    yield "of another history", site.hub.receipt(epoch, digest=secrets.token_bytes(32))
    yield "beyond the head", site.hub.receipt(epoch, through=through + 5)
    yield "another message", replace(own, channel=Channel.ORDER)
    yield "a flipped byte", replace(own, payload=own.payload[:-9] + b"\0" + own.payload[-8:])


def test_no_forged_foreign_or_stale_receipt_frees_anything(site: Site) -> None:
    site.place.tap(3)
    point = site.stick()
    site.sticks.serve(point)
    site.hub.read(site.written(point))
    for what, item in forged(site):
        (point / down_name(site.place.edge)).write_bytes(answer(item))
        site.sticks.serve(point)
        assert site.unreceipted() == 4, what
    other = replace(site.hub.receipt(next(iter(site.hub.through))), edge=secrets.token_bytes(16))
    (point / down_name(site.place.edge)).write_bytes(answer(other))
    assert site.sticks.serve(point)[0] == 0
    assert site.unreceipted() == 4
    (point / down_name(site.place.edge)).write_bytes(site.hub.answer())
    site.sticks.serve(point)
    assert site.freed()


def test_an_answer_played_back_frees_no_more_than_it_said(site: Site) -> None:
    site.place.tap(2)
    point = site.stick()
    site.sticks.serve(point)
    site.carry(point)
    site.sticks.serve(point)
    site.place.tap(4)
    for _ in range(3):
        assert site.sticks.serve(point) is not None
        assert site.unreceipted() == 4


def test_a_hub_that_was_restored_is_offered_again_what_it_forgot(site: Site) -> None:
    site.place.tap(3)
    point = site.stick()
    site.sticks.serve(point)
    site.carry(point)
    site.sticks.serve(point)
    assert site.freed()
    restored = FarHub(site.place, generation=8)
    epoch = next(iter(site.hub.through))
    with closing(JournalReader(site.place.data)) as reader:
        digest = reader.digest(epoch, 1)
    restored.through[epoch] = 1, digest or b""
    (point / down_name(site.place.edge)).write_bytes(restored.answer())
    site.sticks.serve(point)
    wait_for(lambda: site.unreceipted() == 3, "three entries that the hub forgot")
    site.sticks.serve(point)
    restored.read(site.written(point))
    assert restored.through[epoch][0] == 4


def test_told_to_retire_by_a_stick_it_says_goodbye_by_the_next_ones(site: Site) -> None:
    site.place.tap(2)
    point = site.stick()
    site.sticks.serve(point)
    site.hub.read(site.written(point))
    receipts = [site.hub.receipt(epoch) for epoch in site.hub.through]
    (point / down_name(site.place.edge)).write_bytes(answer(*receipts, site.hub.order()))
    site.sticks.serve(point)
    wait_for(lambda: Standing.RETIRED in site.place.door.standings, "a door that says retired")
    site.sticks.serve(point)
    site.hub.read(site.written(point))
    assert site.hub.beats[-1].closing
    assert site.hub.beats[-1].unreceipted == 0


# --- what may lie on a stick, and what may become of it -------------------------------------------


def bad_files(point: Path, name: str, outside: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    path = point / name
    yield "empty", lambda: path.write_bytes(b"")
    yield "another program's", lambda: path.write_bytes(b"\x89PNG\r\n" * 1000)
    yield "for the other way", lambda: path.write_bytes(begin(Direction.UP) + end(0))
    yield "without an end", lambda: path.write_bytes(begin(Direction.DOWN) * 1)
    yield "a folder", path.mkdir
    yield "a link", lambda: path.symlink_to(outside)
    yield "a link to nowhere", lambda: path.symlink_to("nowhere")
    yield "a pipe", lambda: os.mkfifo(path)
    yield "a device", lambda: path.symlink_to("/dev/zero")
    yield "huge", lambda: sparse(path, 1 << 40)
    yield "huge after a header", lambda: sparse(path, 1 << 40, begin(Direction.DOWN))


def sparse(path: Path, size: int, content: bytes = b"") -> None:
    with path.open("wb") as file:
        file.write(content)
        file.truncate(size)


def test_whatever_lies_there_for_us_the_journal_is_written_all_the_same(
    site: Site, tmp_path: Path
) -> None:
    site.place.tap(3)
    epochs = JournalReader(site.place.data)
    outside = tmp_path / "outside"
    site.hub.through = {
        held.epoch: (4, epochs.digest(held.epoch, 4) or b"") for held in epochs.epochs()
    }
    epochs.close()
    outside.write_bytes(site.hub.answer())
    point = site.stick()
    for what, make in bad_files(point, down_name(site.place.edge), outside):
        make()
        began = time.monotonic()
        taken, written = site.sticks.serve(point)
        assert (taken, written.entries) == (0, 4), what
        assert time.monotonic() - began < 3, what
        path = point / down_name(site.place.edge)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert site.unreceipted() == 4


def test_no_link_on_the_stick_is_followed_when_it_is_written(site: Site, tmp_path: Path) -> None:
    site.place.tap(1)
    precious = tmp_path / "precious"
    precious.write_text("keep")
    point = site.stick()
    name = up_name(site.place.edge)
    for each in (name, f".{name}.part"):
        (point / each).symlink_to(precious)
    site.sticks.serve(point)
    assert precious.read_text() == "keep"
    assert not (point / name).is_symlink()
    assert site.hub.read(site.written(point)).ending is Ending.WHOLE
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / MARK).touch()
    (site.media / "link").symlink_to(elsewhere)
    assert not usb.is_marked(site.media / "link")
    with pytest.raises(OSError, match="Not a directory"):
        site.sticks.serve(site.media / "link")
    assert list(elsewhere.iterdir()) == [elsewhere / MARK]


@pytest.fixture
def filesystem(site: Site) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system below the folder of sticks; gives its root, marked."""
    made: list[Path] = []

    def mount(options: str) -> Path:
        point = site.media / f"real-{len(made)}"
        point.mkdir()
        tried = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(point)],
            check=False,
            capture_output=True,
        )
        if tried.returncode:
            pytest.skip("mounting is forbidden here")
        made.append(point)
        (point / MARK).touch()
        return point

    yield mount
    for point in made:
        subprocess.run(["umount", "--lazy", str(point)], check=False, capture_output=True)


def test_a_full_stick_keeps_what_was_on_it(site: Site, filesystem: Callable[[str], Path]) -> None:
    point = filesystem("size=16k")
    site.place.tap(2)
    site.sticks.serve(point)
    before = site.written(point)
    site.place.tap(150)
    with pytest.raises(OSError, match="No space left") as caught:
        site.sticks.serve(point)
    assert usb._why(caught.value) == "U盘空间不足"
    assert site.written(point) == before
    assert sorted(path.name for path in point.iterdir()) == [MARK, up_name(site.place.edge)]
    assert site.unreceipted() == 153


def test_a_write_protected_stick_is_said_and_its_receipts_are_taken(
    site: Site, filesystem: Callable[[str], Path]
) -> None:
    point = filesystem("size=1m")
    site.place.tap(2)
    site.sticks.serve(point)
    site.carry(point)
    subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
    with pytest.raises(OSError, match="Read-only") as caught:
        site.sticks.serve(point)
    assert usb._why(caught.value) == "U盘写保护"
    assert site.freed()


@pytest.mark.parametrize("step", ["write", "fsync", "replace", "folder", "syncfs"])
def test_pulled_at_any_step_the_file_is_the_old_or_the_new_one(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    point = site.stick()
    site.place.tap(1)
    site.sticks.serve(point)
    before = site.written(point)
    site.place.tap(2)
    pulled = OSError(errno.EIO, "Input/output error")
    calls = Counter[str]()

    def fail(*_: object, **__: object) -> None:
        raise pulled

    def fsync(fd: int) -> None:
        calls["fsync"] += 1
        if calls["fsync"] == {"fsync": 1, "folder": 2}.get(step):
            raise pulled

    class Libc:
        @staticmethod
        def syncfs(_fd: int) -> int:
            return -1 if step == "syncfs" else 0

    monkeypatch.setattr("edge.couriers.file._LIBC", Libc)
    monkeypatch.setattr("edge.couriers.file.os.fsync", fsync)
    if step == "replace":
        monkeypatch.setattr("edge.couriers.file.os.replace", fail)
    if step == "write":
        pieces = Export.pieces

        def torn(self: Export) -> Iterator[bytes]:
            for number, piece in enumerate(pieces(self)):
                if number == 2:
                    raise pulled
                yield piece

        monkeypatch.setattr(Export, "pieces", torn)
    with pytest.raises(OSError, match=r".*"):
        site.sticks.serve(point)
    monkeypatch.undo()
    is_new = step in {"folder", "syncfs"}
    assert (site.written(point) != before) == is_new
    assert not list(point.glob(".*"))
    assert site.hub.read(site.written(point)).ending is Ending.WHOLE
    assert site.unreceipted() == 4


def test_a_stick_that_is_gone_is_an_error_and_nothing_more(site: Site) -> None:
    site.place.tap(1)
    with pytest.raises(FileNotFoundError) as caught:
        site.sticks.serve(site.media / "gone")
    assert usb._why(caught.value) == "U盘被拔出或已损坏"
    assert site.unreceipted() == 2


# --- watching -------------------------------------------------------------------------------------


def test_what_is_mounted_below_the_folder_is_found() -> None:
    lines = (
        "22 27 0:21 / /proc rw,nosuid - proc proc rw\n"
        "40 27 8:1 / /media/pi/MY\\040STICK rw shared:9 - vfat /dev/sda1 rw\n"
        "41 27 8:2 / /media rw - ext4 /dev/sdb1 rw\n"
        "42 27 8:3 / /mediation rw - ext4 /dev/sdc1 rw\n"
        "43 27 8:3 /sub /media/盘\\011 rw - ext4 /dev/sdd1 rw\n"
        "broken\n\nx 1 2 3 /media/x\n"
    )
    assert mounted(Path("/media"), lines) == [
        Mounted(40, Path("/media/pi/MY STICK")),
        Mounted(41, Path("/media")),
        Mounted(43, Path("/media/盘\t")),
    ]


@pytest.mark.parametrize("folder", ["media", "/media/../etc", ""])
def test_a_folder_that_is_none_is_refused(tmp_path: Path, folder: str) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(f'[usb]\nmounts = "{folder}"\n')
    with pytest.raises(ConfigError, match=r"usb\.mounts"):
        load(config)


@pytest.mark.usefixtures("quick")
def test_plugged_in_it_is_written_and_the_door_tells(site: Site) -> None:
    site.sticks.start()
    site.place.tap(2)
    point = site.stick("MY STICK")
    other = site.stick("holiday", marked=False)
    site.plug_in(other, 7)
    time.sleep(0.3)
    assert site.shown == []
    assert list(other.iterdir()) == []
    site.plug_in(point, 8)
    site.wait_shown(Standing.STICK_WRITTEN)
    assert [each for each, _ in site.shown] == [Standing.STICK_WRITING, Standing.STICK_WRITTEN]
    site.carry(point)
    site.unplug()
    site.wait_shown(None)
    site.plug_in(point, 9)
    wait_for(site.freed, "receipts from the stick")


@pytest.mark.usefixtures("quick")
def test_a_stick_that_stays_gets_what_comes_later(site: Site) -> None:
    point = site.stick()
    site.plug_in(point)
    site.sticks.start()
    site.wait_shown(Standing.STICK_WRITTEN)
    site.place.tap(3)

    def holds_all() -> bool:
        hub = FarHub(site.place)
        hub.read(site.written(point))
        return sum(through for through, _ in hub.through.values()) == 4

    wait_for(holds_all, "the later taps on the stick")


@pytest.mark.usefixtures("quick")
def test_what_fails_is_told_for_a_while_and_tried_with_the_next_stick(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(usb, "SHOWN_S", 0.6)
    point = site.stick()
    in_the_way = point / f".{up_name(site.place.edge)}.part"
    in_the_way.mkdir()
    site.plug_in(point)
    site.sticks.start()
    with caplog.at_level(logging.ERROR):
        site.wait_shown(Standing.STICK_FAILED)
    assert "was not written" in caplog.text
    site.unplug()
    time.sleep(0.2)
    assert site.shown[-1][0] is Standing.STICK_FAILED, "pulled in fright, it is still told"
    wait_for(lambda: site.shown[-1][0] is None, "a door without a stick")
    in_the_way.rmdir()
    site.plug_in(point, 2)
    site.wait_shown(Standing.STICK_WRITTEN)


@pytest.mark.usefixtures("quick")
def test_a_list_of_mounts_that_cannot_be_read_ends_nothing(site: Site) -> None:
    site.mounts.unlink()
    site.sticks.start()
    time.sleep(0.3)
    point = site.stick()
    site.plug_in(point)
    site.wait_shown(Standing.STICK_WRITTEN)


def test_the_door_tells_of_a_stick_beside_what_is_red(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    stood: list[tuple[Standing, str]] = []
    monkeypatch.setattr(site.place.door, "stand", lambda *said: stood.append(said))
    site.place.recorder.stick(Standing.STICK_WRITTEN)
    # no reader is up here: that stays red
    wait_for(lambda: stood == [(Standing.NO_READER, "已写入，可以拔出U盘")], "both at the door")
    site.place.recorder.reader_event(ReaderUp("r"))
    wait_for(lambda: (Standing.STICK_WRITTEN, "") in stood, "the stick alone")
    site.place.recorder.stick(None)
    wait_for(lambda: stood[-1][0] is Standing.READY, "a door that is ready")


# --- the command ----------------------------------------------------------------------------------


def export(site: Site, *arguments: str) -> int:
    config = site.place.data.parent / "edge.toml"
    config.write_text('[edge]\ndata = "data"\n')
    with pytest.raises(SystemExit) as caught:
        cli.main(["export", *arguments, "--config", str(config)])
    return int(caught.value.code or 0)


@pytest.fixture
def enrolled(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(cli, "load_identity", lambda _: (site.place.enrolment, site.place.keys))
    return site


def test_export_while_the_daemon_records(
    enrolled: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled.place.tap(3)
    file = tmp_path / "out" / "one.up"
    file.parent.mkdir()
    assert export(enrolled, str(file)) == 0
    assert f"{file}: 4 entries" in capsys.readouterr().out
    reader = enrolled.hub.read(file.read_bytes())
    assert (reader.ending, reader.items) == (Ending.WHOLE, 2)
    assert export(enrolled, str(file.parent)) == 0
    assert (file.parent / up_name(enrolled.place.edge)).exists()


def test_export_asks_the_daemon_up_to_when_nothing_is_missing(
    enrolled: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enrolled.place.tap(2)
    file = tmp_path / "out.up"
    assert export(enrolled, str(file)) == 0
    assert "up to when nothing is missing" in capsys.readouterr().out
    acts = ActServer(enrolled.place.data, enrolled.place.recorder, enrolled.sticks._statement.ask)
    acts.start()
    try:
        assert export(enrolled, str(file)) == 0
    finally:
        acts.stop()
    assert "up to when" not in capsys.readouterr().out
    enrolled.hub.read(file.read_bytes())
    assert [beat.head for beat in enrolled.hub.beats] == [3]


def test_export_of_all_gives_what_has_a_receipt_as_well(enrolled: Site, tmp_path: Path) -> None:
    enrolled.place.tap(3)
    point = enrolled.stick()
    enrolled.sticks.serve(point)
    enrolled.carry(point)
    enrolled.sticks.serve(point)
    file = tmp_path / "out.up"
    assert export(enrolled, str(file)) == 0
    assert CourierReader(Direction.UP).feed(file.read_bytes())[1:] == []
    assert export(enrolled, str(file), "--all") == 0
    hub = FarHub(enrolled.place)
    hub.read(file.read_bytes())
    assert [through for through, _ in hub.through.values()] == [4]


def test_export_says_what_is_wrong(
    enrolled: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(enrolled, str(tmp_path / "nowhere" / "x.up")) == 1
    assert "No such file or directory" in capsys.readouterr().err


def test_a_file_tells_no_card_and_no_name(site: Site) -> None:
    site.place.tap(3)
    point = site.stick()
    site.sticks.serve(point)
    content = site.written(point)
    with closing(JournalReader(site.place.data)) as journal:
        entries = [
            entry for held in journal.epochs() for _, entry, *_ in journal.entries(held.epoch)
        ]
    assert all(entry in content for entry in entries), "the canary is in the wrong cage"
    for number in range(1, 4):
        value = f"{number:014X}"
        for canary in (value.encode(), value.lower().encode(), bytes.fromhex(value)):
            assert canary not in content
    assert site.place.enrolment.name.encode() not in content


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ZeroDivisionError

    (tmp_path / "x").write_bytes(b"old")
    with folder_of(tmp_path) as folder:
        with pytest.raises(ZeroDivisionError):
            write_whole(folder, "x", broken())
        assert (tmp_path / "x").read_bytes() == b"old"
        write_whole(folder, "x", iter([b"n", b"ew"]))
    assert (tmp_path / "x").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]
