"""The configuration file: defaults, and errors that name file, key and what is expected."""

from pathlib import Path

import pytest

from edge.clock import Trust
from edge.config import Config, ConfigError, load
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
            """,
        )
    )
    assert config.edge.data == tmp_path / "state" / "edge"
    assert (config.readers.pcsc, config.readers.read_timeout_ms) == (False, 500)
    assert config.readers.debounce_ms == 0
    assert config.clock.trust is Trust.NEVER
    assert config.mqtt.url == "mqtt://broker.example:1884"
    assert config.feedback.console is False


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
        ("[readers]\ndebounce_ms = 1e9", ["readers.debounce_ms"]),
        ("[clock]\ntrust = 'maybe'", ["clock.trust", "maybe"]),
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
