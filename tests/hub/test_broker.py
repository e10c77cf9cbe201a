"""The broker's folder: only what differs is written, and nothing that would lock everybody out."""

import re
import ssl
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from hub import broker
from hub.authority import Authority, Revoked, new_key
from hub.broker import (
    ACL,
    AUTHORITY,
    CERTIFICATE,
    CHANGED,
    CONFIG,
    KEY,
    REVOKED,
    BrokerError,
    Told,
    acl,
    arrange,
    read_anew,
)
from hub.certificates import Admitted
from hub.keys import KeysError
from protocol import topics

DAY_MS = 24 * 3600 * 1000
EDGE, OTHER = bytes(range(16)), bytes(range(16, 32))
TOLD = Told(("hub.example", "10.0.0.7"))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("keys"), now_ms())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "broker"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def revoked_in(folder: Path) -> set[int]:
    listed = x509.load_pem_x509_crl((folder / REVOKED).read_bytes())
    return {each.serial_number for each in listed}


def test_everything_is_there_and_a_second_time_nothing_is_written(
    folder: Path, authority: Authority
) -> None:
    admitted = Admitted((EDGE,), (Revoked(5, now_ms()),))
    assert set(arrange(folder, authority, TOLD, admitted, now_ms())) == {
        *(ACL, AUTHORITY, CERTIFICATE, CONFIG, REVOKED, broker.TOLD),
    }
    before = contents(folder)
    assert arrange(folder, authority, TOLD, admitted, now_ms()) == []
    assert contents(folder) == before
    assert Told.load(folder) == TOLD
    modes = {
        name: stat.S_IMODE((folder / name).stat().st_mode) for name in before if name != CHANGED
    }
    assert set(modes.values()) == {0o640}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_only_what_differs_is_written_and_the_last_of_it_says_so(
    folder: Path, authority: Authority
) -> None:
    arrange(folder, authority, TOLD, Admitted((EDGE,), ()), now_ms())
    before = contents(folder)
    (folder / CHANGED).unlink()
    gone = Admitted((), (Revoked(7, now_ms()),))
    assert set(arrange(folder, authority, TOLD, gone, now_ms())) == {ACL, REVOKED}
    assert (folder / CHANGED).exists()
    assert revoked_in(folder) == {7}
    assert EDGE.hex().encode() not in (folder / ACL).read_bytes()
    for name in (CERTIFICATE, KEY, CONFIG, AUTHORITY):
        assert (folder / name).read_bytes() == before[name]


def test_the_list_of_revoked_ones_never_expires_before_the_authority(
    folder: Path, authority: Authority
) -> None:
    arrange(folder, authority, TOLD, Admitted((), ()), now_ms())
    listed = x509.load_pem_x509_crl((folder / REVOKED).read_bytes())
    assert listed.next_update_utc == authority.certificate.not_valid_after_utc
    assert listed.is_signature_valid(authority.key.public_key())


@pytest.mark.parametrize("name", [REVOKED, CERTIFICATE, ACL, CONFIG, AUTHORITY, CHANGED])
@pytest.mark.parametrize("damage", [b"", b"garbage", None], ids=["empty", "garbage", "gone"])
def test_what_is_damaged_there_is_mended(
    folder: Path, authority: Authority, name: str, damage: bytes | None
) -> None:
    admitted = Admitted((EDGE,), (Revoked(5, now_ms()),))
    arrange(folder, authority, TOLD, admitted, now_ms())
    before = contents(folder)
    if damage is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(damage)
    written = arrange(folder, authority, TOLD, admitted, now_ms())
    if name == CHANGED:
        assert written == []
        return
    assert written == [name]
    assert revoked_in(folder) == {5}
    if name not in {REVOKED, CERTIFICATE}:  # those are signed anew
        assert (folder / name).read_bytes() == before[name]


def test_a_list_of_another_authority_is_replaced(
    folder: Path, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority.make(tmp_path / "other", now_ms())
    arrange(folder, other, TOLD, Admitted((EDGE,), ()), now_ms())
    assert {AUTHORITY, CERTIFICATE, REVOKED} == set(
        arrange(folder, authority, TOLD, Admitted((EDGE,), ()), now_ms())
    )


def test_the_certificate_is_renewed_in_time_for_the_same_key(
    folder: Path, authority: Authority
) -> None:
    """A broker that starts between two renames finds a certificate that fits its key."""
    began = now_ms() - 62 * DAY_MS  # what is tried is tried by the real clock
    arrange(folder, authority, TOLD, Admitted((), ()), began)
    key = (folder / KEY).read_bytes()
    assert arrange(folder, authority, TOLD, Admitted((), ()), began + 50 * DAY_MS) == []
    assert arrange(folder, authority, TOLD, Admitted((), ()), began + 62 * DAY_MS) == [CERTIFICATE]
    assert (folder / KEY).read_bytes() == key


def test_other_names_bring_another_certificate(folder: Path, authority: Authority) -> None:
    arrange(folder, authority, TOLD, Admitted((), ()), now_ms())
    told = Told(("elsewhere.example",))
    assert CERTIFICATE in arrange(folder, authority, told, Admitted((), ()), now_ms())
    names = broker._names_in(x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes()))
    assert names == {"127.0.0.1", "localhost", "elsewhere.example"}


# --- nothing that would lock everybody out --------------------------------------------------------


def test_a_list_that_has_expired_is_not_written(
    folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrange(folder, authority, TOLD, Admitted((EDGE,), ()), now_ms())
    before = contents(folder)
    monkeypatch.setattr(Authority, "ends_ms", lambda _self: now_ms() - 1000)
    with pytest.raises(BrokerError, match="nothing was written"):
        arrange(folder, authority, TOLD, Admitted((), (Revoked(5, now_ms()),)), now_ms())
    assert contents(folder) == before


def test_a_garbled_list_is_not_written(
    folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrange(folder, authority, TOLD, Admitted((EDGE,), ()), now_ms())
    before = contents(folder)
    monkeypatch.setattr(broker, "_revoked", lambda *_: b"-----BEGIN X509 CRL-----\ngarbage\n")
    with pytest.raises(BrokerError, match="nothing was written"):
        arrange(folder, authority, TOLD, Admitted((), (Revoked(5, now_ms()),)), now_ms())
    assert contents(folder) == before


def test_a_list_that_revokes_the_hub_itself_is_not_written(
    folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrange(folder, authority, TOLD, Admitted((EDGE,), ()), now_ms())
    before = contents(folder)
    monkeypatch.setattr(x509, "random_serial_number", lambda: 5)
    with pytest.raises(BrokerError, match=r"nothing was written.*revoked"):
        arrange(folder, authority, TOLD, Admitted((), (Revoked(5, now_ms()),)), now_ms())
    assert contents(folder) == before


def test_a_certificate_for_another_key_is_not_written(
    folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrange(folder, authority, TOLD, Admitted((EDGE,), ()), now_ms())
    before = contents(folder)
    strange = authority.for_broker(new_key().public_key(), TOLD.names, now_ms())
    pem = strange.public_bytes(broker.Encoding.PEM)
    monkeypatch.setattr(broker, "_certificate", lambda *_: pem)
    with pytest.raises(BrokerError, match="nothing was written"):
        arrange(folder, authority, TOLD, Admitted((), ()), now_ms())
    assert contents(folder) == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BrokerError, match="file"):
        arrange(tmp_path / "file" / "broker", authority, TOLD, Admitted((), ()), now_ms())


def test_whoever_reads_meanwhile_finds_whole_files(folder: Path, authority: Authority) -> None:
    arrange(folder, authority, TOLD, Admitted((EDGE,), ()), now_ms())
    stopping = threading.Event()
    broken: list[str] = []

    def read() -> None:
        while not stopping.is_set():
            try:
                x509.load_pem_x509_crl((folder / REVOKED).read_bytes())
            except (ValueError, OSError) as error:
                broken.append(str(error))
            if not (folder / ACL).read_bytes().endswith(b"\n"):
                broken.append("acl")

    reader = threading.Thread(target=read)
    reader.start()
    for serial in range(1, 30):
        admitted = Admitted((EDGE, OTHER)[: serial % 2], (Revoked(serial, now_ms()),))
        arrange(folder, authority, TOLD, admitted, now_ms())
    stopping.set()
    reader.join()
    assert broken == []


# --- what it says ---------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=20, unique=True))
def test_a_row_gives_a_device_what_is_its_own_and_nothing_else(edges: list[bytes]) -> None:
    users: dict[str, list[str]] = {}
    for line in acl(edges).splitlines():
        if user := re.fullmatch(r"user (\S+)", line):
            rows = users.setdefault(user[1], [])
        elif line:
            rows.append(line)
    assert users.keys() == {"shuaka-hub", *(edge.hex() for edge in edges)}
    for edge in edges:
        writes = {row.split()[2] for row in users[edge.hex()] if row.startswith("topic write ")}
        assert writes == {topics.up(edge, channel) for channel in topics.Up}
        reads = {row.split()[2] for row in users[edge.hex()] if row.startswith("topic read ")}
        assert reads == {f"shuaka/v1/down/{edge.hex()}/+", topics.HUB_STATE}
        assert len(users[edge.hex()]) == len(writes) + len(reads)


@pytest.mark.parametrize(
    "host", ["", "a b", "-a", "a-", "a..b", "x" * 64, "a/b", "a\nlistener 1", "10.0.0.1:1", "党"]
)
def test_what_is_no_name_of_a_machine_is_refused(host: str) -> None:
    with pytest.raises(BrokerError, match="name"):
        Told((host,))


@pytest.mark.parametrize(
    "told",
    [
        lambda: Told((), 0),
        lambda: Told((), 70000),
        lambda: Told((), 8883, 8883),
        lambda: Told((), pid_file="relative"),
        lambda: Told((), pid_file="/a\nlistener 1"),
    ],
)
def test_impossible_wishes_are_refused(told: object) -> None:
    assert callable(told)
    with pytest.raises(BrokerError):
        told()


@pytest.mark.parametrize("held", [b"", b"[]", b"{}", b'{"hosts": 5}', b"\xff"])
def test_what_was_told_and_cannot_be_read_is_named(tmp_path: Path, held: bytes) -> None:
    (tmp_path / broker.TOLD).write_bytes(held)
    with pytest.raises(BrokerError, match=r"broker\.json"):
        Told.load(tmp_path)


# --- the signal -----------------------------------------------------------------------------------


def test_no_other_program_is_signalled(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    assert "does not run" in read_anew(str(pid_file))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pid_file.write_text(str(child.pid), "ascii")
    assert "another program" in read_anew(str(pid_file))
    assert child.poll() is None
    child.communicate(b"\n")
    assert "does not run" in read_anew(str(pid_file))  # the number of a process that has ended
    for text in ("", "x", "-1"):
        pid_file.write_text(text, "ascii")
        assert read_anew(str(pid_file))


def test_mosquitto_is_told(tmp_path: Path) -> None:
    """A program of that name, which says that it was told."""
    (tmp_path / "mosquitto").symlink_to(sys.executable)
    told = tmp_path / "told"
    script = (
        "import pathlib, signal, sys\n"
        "signal.signal(signal.SIGHUP, lambda *_: (pathlib.Path(sys.argv[1]).touch(), sys.exit()))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n"
    )
    with subprocess.Popen(
        [tmp_path / "mosquitto", "-c", script, told], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        (tmp_path / "pid").write_text(f"{child.pid}\n", "ascii")
        assert read_anew(str(tmp_path / "pid")) == ""
        assert child.wait(10) == 0
    assert told.exists()


# --- the authority --------------------------------------------------------------------------------


def test_an_interrupted_authority_is_finished_with_the_key_that_is_there(tmp_path: Path) -> None:
    made = Authority.make(tmp_path, now_ms())
    (tmp_path / "hub-ca.pem").unlink()
    again = Authority.load_or_make(tmp_path, now_ms())
    assert again.key.private_numbers() == made.key.private_numbers()
    assert Authority.load(tmp_path).certificate == again.certificate
    for name in ("hub-ca.key", "hub-ca.pem"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("hub-ca.key", b"garbage", "is no key"),
        ("hub-ca.pem", b"garbage", "is no certificate"),
        ("hub-ca.key", None, "no authority yet"),
    ],
)
def test_an_authority_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    Authority.make(tmp_path, now_ms())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(KeysError, match=words):
        Authority.load(tmp_path)


def test_an_authority_whose_key_everybody_can_read_is_refused(tmp_path: Path) -> None:
    Authority.make(tmp_path, now_ms())
    (tmp_path / "hub-ca.key").chmod(0o644)
    with pytest.raises(KeysError, match="chmod 600"):
        Authority.load_or_make(tmp_path, now_ms())


def test_nothing_but_the_authority_s_own_is_its_own(tmp_path: Path, authority: Authority) -> None:
    other = Authority.make(tmp_path, now_ms())
    key = new_key().public_key()
    assert authority.made(authority.for_device(key, EDGE, now_ms()))
    assert not authority.made(other.for_device(key, EDGE, now_ms()))
    assert not authority.made(other.revoke((), now_ms()))


def test_the_hub_s_own_key_is_on_no_disk(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = ssl.SSLContext.load_cert_chain

    def load(self: ssl.SSLContext, path: str) -> None:
        opened.append(str(Path(path).readlink()))
        real(self, path)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load)
    authority.as_hub(now_ms())
    assert [path.partition(" ")[0] for path in opened] == ["/memfd:shuaka"]
