"""Which profiles a device asks its cards by, as its configuration says it and as a worker gets it.

`CardsSection` is what people write, `[cards]`; `plan_of` checks it and makes the `Plan`, which also
holds the key of a sector. A plan travels to a worker through a pipe and is shown nowhere.
"""

from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from edge.cards.classic_sector import KEY_BYTES, Content, Place, WhichKey
from edge.cards.cpu_file import Layout
from protocol.credential import InvalidCredentialError, classic_sector_credential


class ProfileName(StrEnum):
    """The profiles, by the names of their modules."""

    UID = "uid"
    CLASSIC_SECTOR = "classic-sector"
    CPU_FILE = "cpu-file"
    ID_CARD_B = "id-card-b"


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class ClassicSectorSection(_Struct, frozen=True):
    """`[cards.classic-sector]`: see edge.cards.classic_sector.Place."""

    sector: int = 1
    block: int = 0
    offset: int = 0
    length: int = 16
    content: Content = Content.ASCII
    issuer: str = ""
    """Who gives these numbers, in your own words: the register of cards says the same."""
    key: WhichKey = WhichKey.A
    key_file: Path = Path("classic-sector.key")
    """The key's 12 hex digits, in a file of mode 0600; relative to the configuration file."""


class CpuFileSection(_Struct, frozen=True):
    """`[cards.cpu-file]`: see edge.cards.cpu_file.Layout."""

    application: str = "1001"
    """In hex: a file identifier of 4 digits, or a name of 10 to 32."""
    sfi: int = 21
    length: int = 30
    issuer_at: int = 0
    serial_at: int = 10
    serial_bytes: int = 10
    dated: bool = True
    first_at: int = 20
    last_at: int = 24


class CardsSection(_Struct, frozen=True):
    """`[cards]`"""

    profiles: tuple[ProfileName, ...] = (ProfileName.UID,)
    """In the order in which a card is asked."""
    classic_sector: ClassicSectorSection = msgspec.field(
        default=ClassicSectorSection(), name="classic-sector"
    )
    cpu_file: CpuFileSection = msgspec.field(default=CpuFileSection(), name="cpu-file")


class Sector(_Struct, frozen=True):
    """All that `classic-sector` needs."""

    place: Place
    key: bytes
    which: WhichKey
    numbering: str

    def __repr__(self) -> str:
        return f"Sector({self.place})"


class Plan(_Struct, frozen=True):
    """What a worker reads cards by."""

    profiles: tuple[ProfileName, ...] = (ProfileName.UID,)
    sector: Sector | None = None
    """None where `profiles` has no `classic-sector`."""
    layout: Layout = Layout()


UID_ONLY: Final = Plan()


def needs_key(section: CardsSection) -> bool:
    """Whether `plan_of` needs the sector's key."""
    return ProfileName.CLASSIC_SECTOR in section.profiles


def plan_of(section: CardsSection, key: bytes = bytes(KEY_BYTES)) -> Plan:
    """What `section` comes to. ValueError says which setting cannot be, and why."""
    profiles = section.profiles
    if not profiles:
        raise ValueError("profiles: at least one, or no card is read")
    for each in profiles:
        if profiles.count(each) > 1:
            raise ValueError(f"profiles: {each} stands there more than once")
    if ProfileName.UID in profiles[:-1]:
        after = profiles[profiles.index(ProfileName.UID) + 1]
        raise ValueError(f"profiles: uid reads every card, so {after} after it is never asked")
    if set(profiles) == {ProfileName.ID_CARD_B}:
        raise ValueError("profiles: id-card-b only refuses cards; name one that reads them, too")
    sector = None
    if ProfileName.CLASSIC_SECTOR in profiles:
        sector = _sector(section.classic_sector, key)
    layout = Layout()
    if ProfileName.CPU_FILE in profiles:
        layout = _layout(section.cpu_file)
    return Plan(profiles, sector, layout)


def _sector(section: ClassicSectorSection, key: bytes) -> Sector:
    try:
        place = Place(
            section.sector, section.block, section.offset, section.length, section.content
        )
    except ValueError as error:
        raise ValueError(f"classic-sector: {error}") from error
    try:
        classic_sector_credential(section.issuer, "1")
    except InvalidCredentialError as error:
        raise ValueError(
            "classic-sector: issuer: a name for who gives these numbers, without blanks, such as"
            ' "campus"; the register of cards must say the same'
        ) from error
    return Sector(place, key, section.key, section.issuer)


def _layout(section: CpuFileSection) -> Layout:
    try:
        application = bytes.fromhex(section.application)
    except ValueError as error:
        raise ValueError("cpu-file: application is hex digits") from error
    try:
        return Layout(
            application,
            section.sfi,
            section.length,
            section.issuer_at,
            section.serial_at,
            section.serial_bytes,
            section.dated,
            section.first_at,
            section.last_at,
        )
    except ValueError as error:
        raise ValueError(f"cpu-file: {error}") from error
