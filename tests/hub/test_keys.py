"""The hub's keys: changed in a chain that leads nowhere but on, backed up, forgotten in time."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select

from hub.keys import FILE_NAME, Keyring, KeysError, back_up, is_backed_up
from hub.sealed import holders
from hub.store import schema as s
from hub.store.engine import reading
from protocol.errors import RemoteError
from protocol.fleet import NextKeys
from protocol.identity import HubKeys
from protocol.journal import EpochHeader, Stamp
from tests.hub.world import World
from tests.rig import private_dir


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir(mode=0o700)
    return tmp_path / "keys"


def followed(known: HubKeys, number: int, statements: list[bytes]) -> HubKeys:
    """What a device believes after these, as protocol.fleet.NextKeys says."""
    for each in statements:
        try:
            said = NextKeys.open(each, known.sign)
        except RemoteError:
            continue
        if said.number > number:
            known, number = said.keys, said.number
    return known


@given(st.data())
def test_whoever_was_away_for_any_number_of_changes_follows_and_nobody_goes_back(
    data: st.DataObject,
) -> None:
    with private_dir() as folder:
        rings = [Keyring.make(folder)]
        for _ in range(data.draw(st.integers(0, 4))):
            rings.append(rings[-1].rotate(folder))
        assert Keyring.load(folder).public() == rings[-1].public()
    last = rings[-1]
    for ring in rings:  # enrolled under each of them
        assert followed(ring.public(), 0, list(last.statements)) == last.public()
    # played back in any order, they lead from the newest keys nowhere
    again = data.draw(st.lists(st.sampled_from(last.statements or (b"x",)), max_size=8))
    assert followed(last.public(), 0, again) == last.public()


def test_old_opening_keys_stay_and_old_signing_keys_do_not(data: Path) -> None:
    first = Keyring.make(data)
    second = first.rotate(data)
    loaded = Keyring.load(data)
    assert loaded.opening_key(first.open[0].public_id) is not None
    assert loaded.open[0].public_id == second.open[0].public_id != first.open[0].public_id
    assert first.sign.raw() not in (data / FILE_NAME).read_bytes()
    assert stat.S_IMODE((data / FILE_NAME).stat().st_mode) == 0o600


def test_the_key_in_use_is_not_dropped_and_a_retired_one_is(data: Path) -> None:
    first = Keyring.make(data)
    second = first.rotate(data)
    with pytest.raises(KeysError, match="in use"):
        second.without(second.open[0].public_id, data)
    with pytest.raises(KeysError, match="no such"):
        second.without(b"12345678", data)
    second.without(first.open[0].public_id, data)
    assert Keyring.load(data).opening_key(first.open[0].public_id) is None


def test_a_change_that_cannot_be_written_changes_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Keyring.make(data)
    before = (data / FILE_NAME).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hub.durable.os.fsync", full)
    with pytest.raises(KeysError, match="as they were"):
        ring.rotate(data)
    assert (data / FILE_NAME).read_bytes() == before
    assert [path.name for path in data.iterdir()] == [FILE_NAME]


def test_a_file_of_the_first_format_is_read(data: Path) -> None:
    ring = Keyring.make(data)
    text = (data / FILE_NAME).read_text("ascii")
    old = text.replace('"format": 2', '"format": 1').replace(', "statements": []', "")
    assert old != text
    (data / FILE_NAME).write_text(old, "ascii")
    assert Keyring.load(data).public() == ring.public()


def test_they_are_backed_up_until_they_change(data: Path, tmp_path: Path) -> None:
    ring = Keyring.make(data)
    assert not is_backed_up(data)
    back_up(data, tmp_path / "stick.json")
    assert is_backed_up(data)
    assert stat.S_IMODE((tmp_path / "stick.json").stat().st_mode) == 0o600
    ring.rotate(data)
    assert not is_backed_up(data)
    with pytest.raises(KeysError, match="is there already"):
        back_up(data, tmp_path / "stick.json")
    assert not is_backed_up(data)
    with pytest.raises(KeysError, match="No such file"):
        back_up(data, tmp_path / "nowhere" / "stick.json")
    (data / FILE_NAME).write_bytes((tmp_path / "stick.json").read_bytes())
    assert Keyring.load(data).public() == ring.public()


# --- who may still need an old one ----------------------------------------------------------------


def _says(
    engine: Engine, device: int, epoch: bytes, hub_key: bytes, unreceipted: int | None, at: int
) -> None:
    """The device begins an epoch under a key, and says how much it holds."""
    header = EpochHeader(
        edge=bytes(16),
        epoch=epoch,
        boot=bytes(16),
        parent=None,
        opened=Stamp(1, 1, trusted=False),
        software="t",
        hub_key=hub_key,
        wrapped_key=bytes(80),
    )
    with engine.begin() as conn:
        world = World(conn)
        world.add(
            s.epochs,
            device_id=device,
            epoch=epoch,
            boot_id=bytes(16),
            header=header.encode(),
            opened_boottime_ms=1,
            opened_wall_ms=1,
            opened_trusted=False,
            software="t",
        )
        conn.execute(
            insert(s.heartbeats).values(
                device_id=device,
                epoch=epoch,
                head_seq=1,
                head_digest=bytes(32),
                boottime_ms=at,
                wall_ms=at,
                trusted=False,
                released_through=0,
                first_held=1,
                unreceipted=unreceipted,
                readers="[]",
                signed=b"",
                received_ms=at,
            )
        )


def test_a_device_is_past_a_key_once_it_says_so_under_a_newer_one(
    engine: Engine, data: Path
) -> None:
    ring = Keyring.make(data).rotate(data).rotate(data)
    newest, middle, oldest = (key.public_id for key in ring.open)
    with engine.begin() as conn:
        world = World(conn)
        world.organisation("B")
        world.venue("V", "B")
        world.device("甲", "V")

    def held_under() -> list[bytes]:
        with reading(engine) as conn:
            return [key for key, names in holders(conn, ring).items() if names]

    with reading(engine) as conn:
        device = conn.scalars(select(s.devices.c.id)).one()
    assert held_under() == [newest, middle, oldest]  # it has said nothing
    _says(engine, device, b"1" * 16, middle, 3, 10)
    assert held_under() == [newest, middle, oldest]  # it may hold what is older
    _says(engine, device, b"2" * 16, middle, None, 20)
    assert held_under() == [newest, middle, oldest]  # an earlier version does not say
    _says(engine, device, b"3" * 16, middle, 0, 30)
    assert held_under() == [newest, middle]
    _says(engine, device, b"4" * 16, newest, 0, 40)
    assert held_under() == [newest]
    _says(engine, device, b"5" * 16, oldest, 0, 50)  # its storage was rolled back
    assert held_under() == [newest, middle, oldest]
