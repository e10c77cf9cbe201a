"""The configuration file: defaults, and errors that name file, key and what is expected."""

import os
from pathlib import Path

import pytest

from edge.cards.classic_sector import Content, Place, WhichKey
from edge.cards.settings import Plan
from edge.clock import Trust
from edge.config import Config, ConfigError, card_plan, load
from edge.daemon import Daemon
from edge.feedback.gpio import PinNumbers
from protocol.credential import CardNumberFormat
from protocol.topics import Broker


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "edge.toml"
    path.write_text(text, "utf-8")
    return path


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load(written(tmp_path, "")) == Config()
    assert Config().edge.data == Path("/var/lib/shuaka-edge")
    assert Config().readers.read_timeout_ms == 1000


def test_every_key(tmp_path: Path) -> None:
    config = load(
        written(
            tmp_path,
            """
            [edge]
            data = "state/edge"
            [readers]
            pcsc = false
            read_timeout_ms = 500
            debounce_ms = 0
            [clock]
            trust = "never"
            [mqtt]
            url = "mqtt://broker.example:1884"
            [feedback]
            console = false
            reader = false
            sound = true
            [feedback.gpio]
            green = 17
            buzzer = 0
            [kiosk]
            port = 8081
            """,
        )
    )
    assert config.edge.data == tmp_path / "state" / "edge"
    assert (config.readers.pcsc, config.readers.read_timeout_ms) == (False, 500)
    assert config.readers.debounce_ms == 0
    assert config.clock.trust is Trust.NEVER
    assert config.mqtt.url == "mqtt://broker.example:1884"
    assert config.feedback.console is False
    assert config.kiosk.port == 8081
    assert (config.feedback.reader, config.feedback.sound) == (False, True)
    assert config.feedback.gpio == PinNumbers(green=17, buzzer=0)
    assert config.feedback.gpio.used == (17, 0)


def test_a_relative_folder_is_the_files_and_not_the_shells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, '[edge]\ndata = "state"')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(Path("../edge.toml")).edge.data.resolve() == tmp_path / "state"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[reader]", ["unknown key", "reader"]),
        ("[readers]\npcscd = true", ["readers", "unknown key", "pcscd"]),
        ("[readers]\npcsc = 1", ["readers.pcsc", "bool", "int"]),
        ("[readers]\nread_timeout_ms = 10", ["readers.read_timeout_ms", ">= 200"]),
        ("[readers]\nread_timeout_ms = true", ["readers.read_timeout_ms", "int", "bool"]),
        ("[feedback.gpio]\ngreen = 28", ["feedback.gpio.green", "<= 27"]),
        ("[feedback.gpio]\ngreen = -1", ["feedback.gpio.green", ">= 0"]),
        ("[feedback.gpio]\ngreen = 'GPIO17'", ["feedback.gpio.green", "int", "str"]),
        ("[feedback.gpio]\nblue = 17", ["feedback.gpio", "unknown key", "blue"]),
        ("[feedback.gpio]\ngreen = 17\nred = 17", ["feedback.gpio", "two things on one pin"]),
        ("[feedback]\ngpio = 17", ["feedback.gpio", "a section"]),
        ("[readers]\ndebounce_ms = 1e9", ["readers.debounce_ms"]),
        ("[clock]\ntrust = 'maybe'", ["clock.trust", "maybe"]),
        ("[kiosk]\nport = 0", ["kiosk.port", ">= 1"]),
        ("[kiosk]\nport = 65536", ["kiosk.port", "<= 65535"]),
        ("[kiosk]\nport = '8080'", ["kiosk.port", "int"]),
        ("edge = 3", ["edge", "a section", "int"]),
        ("[edge]\ndata = 3", ["edge.data", "path of a folder"]),
        ('[edge]\ndata = ""', ["edge.data", "path of a folder"]),
        ("[edge]\n[mqtt]\nurl = mqtt", ["is not TOML", "line 3"]),
        ("[edge]\ndata = 'a'\ndata = 'b'", ["is not TOML"]),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        load(path)
    for word in [str(path), *words]:
        assert word in str(refused.value)
    assert "secret" not in str(refused.value)


def test_nfc_chips_are_named_in_blocks(tmp_path: Path) -> None:
    blocks = """
        [[readers.nfc]]
        device = "/dev/serial/by-id/usb-1a86_USB_Serial-if00-port0"
        [[readers.nfc]]
        device = "usb:054c:06c3"
        name = "后门"
        """
    chips = [each.chip for each in load(written(tmp_path, blocks)).readers.nfc]
    assert [each.reader for each in chips] == ["nfc usb-1a86_USB_Serial-if00-port0", "后门"]
    assert chips[1].device == "usb:054c:06c3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[readers.nfc]]", ["device"]),
        ("[[readers.nfc]]\ndevice = 'ttyS0'", ["readers.nfc.device", "ttyS0", "serial line"]),
        ("[[readers.nfc]]\ndevice = '/dev/ttyS0; reboot'", ["readers.nfc.device", "serial line"]),
        ("[[readers.nfc]]\ndevice = 'usb:054c'", ["readers.nfc.device", "usb:054c:06c3"]),
        ('[[readers.nfc]]\ndevice = "/dev/ttyS0"\nname = "a\\nb"', ["readers.nfc.name"]),
        (
            "[[readers.nfc]]\ndevice = '/dev/ttyS0'\n" * 2,
            ["readers.nfc.device", "/dev/ttyS0", "more than once"],
        ),
        (
            (
                '[readers]\nnfc = [{device = "/dev/ttyS0", name = "a"}]\n'
                'wedge = [{device = "/dev/input", name = "a"}]'
            ),
            ["readers.wedge.name", "a stands", "more than once"],
        ),
    ],
)
def test_nfc_chips_that_cannot_be_are_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        load(written(tmp_path, text))
    for word in words:
        assert word in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    (tmp_path / "gbk.toml").write_bytes('[edge]\ndata = "党"'.encode("gb18030"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "gbk.toml")


def test_a_deep_file_is_refused_and_does_not_crash(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not TOML"):
        load(written(tmp_path, "edge = " + "[" * 100_000))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "http://host",
        "mqtt://",
        "mqtt://host:99999",
        "mqtt://host:x",
        "mqtt://host:0",
        "mqtt://[host",
        "mqtt://user:secret@host",
        "mqtt://:secret@host",
        "mqtt://@host",
        "mqtt://host/secret",
        "mqtt://host?secret",
        "mqtt://host#secret",
    ],
)
def test_a_broker_that_the_daemon_could_not_use_is_refused_here(tmp_path: Path, url: str) -> None:
    path = written(tmp_path, f"[mqtt]\nurl = '{url}'")
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: mqtt.url: Expected mqtt://HOST")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("mqtt://host", Broker("host", 1883, tls=False)),
        ("mqtts://host/", Broker("host", 8883, tls=True)),
        ("mqtt://[::1]:1884", Broker("::1", 1884, tls=False)),
    ],
)
def test_a_broker_that_it_can_use_is_taken(tmp_path: Path, url: str, broker: Broker) -> None:
    assert load(written(tmp_path, f"[mqtt]\nurl = '{url}'")).mqtt.url == url
    assert Broker.parse(url) == broker


# --- cards ----------------------------------------------------------------------------------------

SECTOR = """
[cards]
profiles = ["id-card-b", "cpu-file", "classic-sector", "uid"]
[cards.classic-sector]
sector = 3
block = 1
offset = 2
length = 12
content = "bcd"
issuer = "campus"
key = "B"
key_file = "keys/sector.key"
[cards.cpu-file]
application = "A00000000386980701"
sfi = 1
length = 16
issuer_at = 0
serial_at = 8
serial_bytes = 8
dated = false
"""


def keyed(tmp_path: Path, key: str | bytes = "A0A1A2A3A4A5\n", mode: int = 0o600) -> Path:
    (tmp_path / "keys").mkdir()
    path = tmp_path / "keys" / "sector.key"
    path.write_bytes(key if isinstance(key, bytes) else key.encode())
    path.chmod(mode)
    return path


def test_how_cards_are_read(tmp_path: Path) -> None:
    keyed(tmp_path)
    plan = card_plan(load(written(tmp_path, SECTOR)).cards)
    assert plan.profiles == ("id-card-b", "cpu-file", "classic-sector", "uid")
    assert plan.sector is not None
    assert plan.sector.place == Place(3, 1, 2, 12, Content.BCD)
    assert plan.sector.key == bytes.fromhex("A0A1A2A3A4A5")
    assert (plan.sector.which, plan.sector.numbering) == (WhichKey.B, "campus")
    assert plan.layout.application == bytes.fromhex("A00000000386980701")
    assert (plan.layout.serial_at, plan.layout.serial_bytes, plan.layout.dated) == (8, 8, False)


def test_without_the_sector_no_key_is_looked_for(tmp_path: Path) -> None:
    config = load(written(tmp_path, "[cards.classic-sector]\nkey_file = 'none'"))
    assert card_plan(config.cards) == Plan()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o644, 0o777])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = keyed(tmp_path, mode=mode)
    with pytest.raises(ConfigError) as refused:
        card_plan(load(written(tmp_path, SECTOR)).cards)
    assert str(refused.value).startswith(f"{path}: other users can read the key")
    assert f"chmod 600 {path}" in str(refused.value)


@pytest.mark.parametrize(
    "key", ["", "A0A1A2A3A4", "A0A1A2A3A4A5A6", "A0A1A2A3A4AG", "钥匙", b"\xff" * 6, "00" * 40_000]
)
def test_what_is_no_key_is_refused_and_not_told(tmp_path: Path, key: str | bytes) -> None:
    path = keyed(tmp_path, key)
    with pytest.raises(ConfigError, match="12 hex digits") as refused:
        card_plan(load(written(tmp_path, SECTOR)).cards)
    assert str(refused.value).startswith(f"{path}: ")
    assert "A0A1" not in str(refused.value)


def test_a_key_file_that_is_none_is_named(tmp_path: Path) -> None:
    config = load(written(tmp_path, SECTOR))
    path = tmp_path / "keys" / "sector.key"
    with pytest.raises(ConfigError, match=f"{path}: the key cannot be read: No such file"):
        card_plan(config.cards)
    path.parent.mkdir()
    for make in (os.mkfifo, Path.mkdir):  # neither is waited for
        make(path)
        with pytest.raises(ConfigError, match=f"{path}: is no file"):
            card_plan(config.cards)
        path.rmdir() if path.is_dir() else path.unlink()


def test_the_daemon_does_not_begin_without_its_key(tmp_path: Path) -> None:
    keyed(tmp_path, mode=0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Daemon(load(written(tmp_path, SECTOR)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[cards]\nprofiles = []", ["cards.profiles", "at least one"]),
        ("[cards]\nprofiles = ['uid', 'cpu-file']", ["cards.profiles", "cpu-file", "never asked"]),
        ("[cards]\nprofiles = ['nfc']", ["cards.profiles", "nfc"]),
        ("[cards]\nprofiles = 'uid'", ["cards.profiles", "array"]),
        ("[cards]\nprofiles = ['classic-sector']", ["cards.classic-sector: issuer"]),
        (
            "[cards]\nprofiles = ['classic-sector']\n[cards.classic-sector]\nblock = 3",
            ["cards.classic-sector: block", "keys"],
        ),
        (
            "[cards]\nprofiles = ['cpu-file']\n[cards.cpu-file]\napplication = '10'",
            ["cards.cpu-file: application", "2 digits"],
        ),
        (
            "[cards]\nprofiles = ['cpu-file']\n[cards.cpu-file]\napplication = '10zz'",
            ["cards.cpu-file: application", "hex digits"],
        ),
        ("[cards.classic-sector]\nkey = 'A0A1A2A3A4A5'", ["cards.classic-sector.key"]),
        ("[cards.classic]\nsector = 1", ["cards", "unknown key", "classic"]),
        ("[cards.cpu-file]\nserial = 1", ["cards.cpu-file", "unknown key", "serial"]),
        ("[cards.classic-sector]\nkey_file = ''", ["key_file", "path"]),
    ],
)
def test_a_mistake_in_cards_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        load(path)
    for word in [str(path), *words]:
        assert word in str(refused.value)


# --- readers that type ----------------------------------------------------------------------------


def test_readers_that_type(tmp_path: Path) -> None:
    config = load(
        written(
            tmp_path,
            """
            [[readers.wedge]]
            device = "/dev/input/by-id/usb-A-event-kbd"
            [[readers.wedge]]
            device = "/dev/input/by-id/usb-B-event-kbd"
            format = "hex-reversed"
            name = "大门"
            """,
        )
    )
    first, second = (each.wedge for each in config.readers.wedge)
    assert (first.reader, first.format) == ("wedge usb-A-event-kbd", CardNumberFormat.DEC10)
    assert (second.reader, second.format) == ("大门", CardNumberFormat.HEX_REVERSED)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        (['format = "hex"'], ["readers.wedge", "device"]),
        (['device = "event0"'], ["readers.wedge.device", "begins with /"]),
        (['device = "/d"\nformat = "dec8"'], ["readers.wedge.format", "256 cards"]),
        (['device = "/d"\nformat = "octal"'], ["readers.wedge", "format", "octal"]),
        (['device = "/d"\nname = "a\\nb"'], ["readers.wedge.name"]),
        (['device = "/d"\nnmae = "a"'], ["readers.wedge", "unknown key", "nmae"]),
        (['device = "/d"', 'device = "/d"\nname = "x"'], ["device", "/d", "more than once"]),
        (['device = "/a/d"', 'device = "/b/d"'], ["name", "wedge d", "more than once"]),
    ],
)
def test_a_mistake_in_a_wedge_is_named(tmp_path: Path, blocks: list[str], words: list[str]) -> None:
    path = written(tmp_path, "\n".join(f"[[readers.wedge]]\n{block}" for block in blocks))
    with pytest.raises(ConfigError) as refused:
        load(path)
    for word in [str(path), *words]:
        assert word in str(refused.value)
