"""The edge's configuration: one TOML file, typed, with good defaults for all that can have one.

A mistake is refused with file, key and what is expected there; an unknown key is a mistake.
"""

import re
import stat
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec

from edge.cards.classic_sector import KEY_BYTES
from edge.cards.settings import CardsSection, Plan, needs_key, plan_of
from edge.clock import Trust
from edge.feedback.gpio import PinNumbers
from edge.readers.nfc import NfcDevice
from edge.readers.supervised import DEFAULT_READ_TIMEOUT_MS
from edge.readers.wedge import Wedge
from edge.store import KEEP_DAYS, KEEP_ENTRIES
from edge.taps import DEFAULT_WINDOW_MS
from protocol.credential import CardNumberFormat
from protocol.topics import Broker

_NFC_DEVICE: Final = re.compile(r"/[\w./:+@,-]+|usb(:[0-9A-Fa-f]{4}){2}", re.ASCII)

DEFAULT_DATA: Final = "/var/lib/shuaka-edge"
_KEY_FILE_BYTES: Final = 64


class ConfigError(Exception):
    """The file cannot be used; the message names file, key and what is expected."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class EdgeSection(_Section, frozen=True):
    """`[edge]`"""

    data: Path = Path(DEFAULT_DATA)
    """Folder of journal and keys; a relative path is relative to the configuration file."""


class WedgeSection(_Section, frozen=True):
    """`[[readers.wedge]]`: a reader that types like a keyboard."""

    device: Path
    """Its event device, best by /dev/input/by-id, which stays the same."""
    format: CardNumberFormat = CardNumberFormat.DEC10
    """How it writes a UID."""
    name: str = ""
    """What it is called; empty: after its device."""

    @property
    def wedge(self) -> Wedge:
        """As its driver takes it."""
        return Wedge(self.device, self.format, self.name)


class NfcSection(_Section, frozen=True):
    """`[[readers.nfc]]`: an NFC chip that is no PC/SC reader."""

    device: str
    """A PN532's serial line, or `usb:` and the numbers of a reader that nfcpy knows."""
    name: str = ""
    """What it is called; empty: after its device."""

    @property
    def chip(self) -> NfcDevice:
        """As its driver takes it."""
        return NfcDevice(self.device, self.name)


class ReadersSection(_Section, frozen=True):
    """`[readers]`"""

    pcsc: bool = True
    """Use the PC/SC readers (pcscd)."""
    read_timeout_ms: Annotated[int, msgspec.Meta(ge=200, le=10_000)] = DEFAULT_READ_TIMEOUT_MS
    """A card that has given no answer after this is unreadable."""
    debounce_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = DEFAULT_WINDOW_MS
    """The same card within this of its last appearance is one tap (edge.taps)."""
    nfc: tuple[NfcSection, ...] = ()
    """NFC chips that are no PC/SC readers."""
    wedge: tuple[WedgeSection, ...] = ()
    """Readers that type like a keyboard."""


class JournalSection(_Section, frozen=True):
    """`[journal]`"""

    keep_days: Annotated[int, msgspec.Meta(ge=0, le=3_650)] = KEEP_DAYS
    """Days of running time that an entry is kept after its receipt; see edge.store.Retention."""
    keep_entries: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = KEEP_ENTRIES
    """At most so many are kept after their receipt."""


class ClockSection(_Section, frozen=True):
    """`[clock]`"""

    trust: Trust = Trust.AUTO
    """`auto`, `always` or `never`, see edge.clock."""


class MqttSection(_Section, frozen=True):
    """`[mqtt]`"""

    url: str | None = None
    """`mqtt://host:port`, in place of the broker that the hub named at enrolment."""


class UsbSection(_Section, frozen=True):
    """`[usb]`"""

    mounts: Path | None = None
    """Folder below which sticks are mounted; a marked one is written to. None: no stick is."""


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


class KioskSection(_Section, frozen=True):
    """`[kiosk]`"""

    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None
    """Of 127.0.0.1, where a browser on this machine finds the screen; None: no screen."""


class Config(_Section, frozen=True):
    """The whole file."""

    edge: EdgeSection = EdgeSection()
    readers: ReadersSection = ReadersSection()
    cards: CardsSection = CardsSection()
    journal: JournalSection = JournalSection()
    clock: ClockSection = ClockSection()
    mqtt: MqttSection = MqttSection()
    usb: UsbSection = UsbSection()
    feedback: FeedbackSection = FeedbackSection()
    kiosk: KioskSection = KioskSection()


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
    mounts = config.usb.mounts
    if mounts is not None and (not mounts.is_absolute() or ".." in mounts.parts):
        raise ConfigError(f"{path}: usb.mounts: {mounts}: a folder whose path begins with /")
    pins = config.feedback.gpio.used
    if len(set(pins)) < len(pins):
        raise ConfigError(f"{path}: feedback.gpio: two things on one pin")
    try:
        plan_of(config.cards)
    except ValueError as error:
        raise ConfigError(f"{path}: cards.{error}") from error
    _check_wedges(path, config.readers.wedge)
    _check_once(path, config.readers)
    folder = path.absolute().parent
    cards = config.cards
    if needs_key(cards):
        sector = cards.classic_sector
        sector = msgspec.structs.replace(sector, key_file=folder / sector.key_file)
        cards = msgspec.structs.replace(cards, classic_sector=sector)
    edge = EdgeSection(folder / config.edge.data)
    return msgspec.structs.replace(config, edge=edge, cards=cards)


def _check_wedges(path: Path, wedges: Sequence[WedgeSection]) -> None:
    at = f"{path}: readers.wedge"
    for each in wedges:
        if not each.device.is_absolute():
            raise ConfigError(f"{at}.device: {each.device}: a path that begins with /")
        if each.format is CardNumberFormat.DEC8:
            raise ConfigError(
                f"{at}.format: dec8 shows three of a card's four bytes and fits 256 cards; set the"
                " reader to ten digits or to hex"
            )


def _check_once(path: Path, readers: ReadersSection) -> None:
    """Each device and each name stands for one reader, whatever its driver."""
    devices: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for each in readers.nfc:
        if not _NFC_DEVICE.fullmatch(each.device):
            raise ConfigError(
                f"{path}: readers.nfc.device: {each.device}: the path of a serial line, such as"
                " /dev/ttyS0, or the numbers of a USB reader, such as usb:054c:06c3"
            )
    blocks = [
        *(("nfc", each.device, each.name, each.chip.reader) for each in readers.nfc),
        *(("wedge", str(each.device), each.name, each.wedge.reader) for each in readers.wedge),
    ]
    for kind, device, name, reader in blocks:
        at = f"{path}: readers.{kind}"
        if not name.isprintable():
            raise ConfigError(f"{at}.name: a name without line breaks and the like")
        devices[device] += 1
        names[reader] += 1
        for what, value, times in (
            ("device", device, devices[device]),
            ("name", reader, names[reader]),
        ):
            if times > 1:
                raise ConfigError(f"{at}.{what}: {value} stands there more than once")


def card_plan(section: CardsSection) -> Plan:
    """How cards are read, with the key that it takes. ConfigError names the key file."""
    if not needs_key(section):
        return plan_of(section)
    path = section.classic_sector.key_file
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{path}: is no file, and should hold the key")
        if mode & 0o077:
            raise ConfigError(
                f"{path}: other users can read the key: mode 0600 is wanted (chmod 600 {path})"
            )
        with path.open("rb") as file:
            text = file.read(_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read: {error.strerror}") from error
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES or len(text) > _KEY_FILE_BYTES:
        raise ConfigError(f"{path}: a key is {2 * KEY_BYTES} hex digits, and nothing else")
    return plan_of(section, key)


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
    raise ValueError("Expected the path of a folder or file, in quotes")
