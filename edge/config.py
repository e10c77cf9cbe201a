"""The edge's configuration: one TOML file, typed, with good defaults for all that can have one.

A mistake is refused with file, key and what is expected there; an unknown key is a mistake.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Final

import msgspec

from edge.clock import Trust
from edge.feedback.gpio import PinNumbers
from edge.readers.supervised import DEFAULT_READ_TIMEOUT_MS
from edge.taps import DEFAULT_WINDOW_MS
from protocol.topics import Broker

DEFAULT_DATA: Final = "/var/lib/shuaka-edge"


class ConfigError(Exception):
    """The file cannot be used; the message names file, key and what is expected."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class EdgeSection(_Section, frozen=True):
    """`[edge]`"""

    data: Path = Path(DEFAULT_DATA)
    """Folder of journal and keys; a relative path is relative to the configuration file."""


class ReadersSection(_Section, frozen=True):
    """`[readers]`"""

    pcsc: bool = True
    """Use the PC/SC readers (pcscd)."""
    read_timeout_ms: Annotated[int, msgspec.Meta(ge=200, le=10_000)] = DEFAULT_READ_TIMEOUT_MS
    """A card that has given no answer after this is unreadable."""
    debounce_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = DEFAULT_WINDOW_MS
    """The same card within this of its last appearance is one tap (edge.taps)."""


class ClockSection(_Section, frozen=True):
    """`[clock]`"""

    trust: Trust = Trust.AUTO
    """`auto`, `always` or `never`, see edge.clock."""


class MqttSection(_Section, frozen=True):
    """`[mqtt]`"""

    url: str | None = None
    """`mqtt://host:port`, in place of the broker that the hub named at enrolment."""


class FeedbackSection(_Section, frozen=True):
    """`[feedback]`"""

    console: bool = True
    """Write outcomes to standard output, a line each."""
    reader: bool = True
    """Show them by the lamp and buzzer of the reader itself, where its kind is known."""
    sound: bool = False
    """Play them by a loudspeaker."""
    gpio: PinNumbers = PinNumbers()
    """Show them by lamps and a buzzer on these pins."""


class Config(_Section, frozen=True):
    """The whole file."""

    edge: EdgeSection = EdgeSection()
    readers: ReadersSection = ReadersSection()
    clock: ClockSection = ClockSection()
    mqtt: MqttSection = MqttSection()
    feedback: FeedbackSection = FeedbackSection()


def load(path: Path) -> Config:
    """The configuration in the TOML file `path`; ConfigError when it cannot be used."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    try:
        config = msgspec.convert(document, Config, dec_hook=_folder)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_plain(str(error))}") from error
    try:
        if config.mqtt.url is not None:
            Broker.parse(config.mqtt.url)
    except ValueError as error:
        raise ConfigError(f"{path}: mqtt.url: {error}") from error
    pins = config.feedback.gpio.used
    if len(set(pins)) < len(pins):
        raise ConfigError(f"{path}: feedback.gpio: two things on one pin")
    data = path.absolute().parent / config.edge.data
    return msgspec.structs.replace(config, edge=EdgeSection(data))


def _plain(problem: str) -> str:
    """Msgspec's `what - at `$.key`` as `key: what`."""
    what, _, place = problem.partition(" - at `$")
    key = place.removesuffix("`").lstrip(".")
    what = what.replace("Object contains unknown field", "unknown key").replace(
        "`object`", "a section"
    )
    return f"{key}: {what}" if key else what


def _folder(wanted: type, value: object) -> Path:
    if wanted is Path and isinstance(value, str) and value and value.isprintable():
        return Path(value)
    raise ValueError("Expected the path of a folder, in quotes")
