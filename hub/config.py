"""The hub's settings: `hub.toml`, overridden by environment variables SHUAKA_HUB_*.

An unknown or mistaken setting is refused by name. Relative paths are relative to the file.
"""

from pathlib import Path
from typing import Any, Final, Self

from pydantic import ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from protocol.topics import Broker

DEFAULT_FILE: Final = Path("/etc/shuaka/hub.toml")


class ConfigError(Exception):
    """The settings cannot be used; the message names the file or variable, and the setting."""


class Settings(BaseSettings):
    """All settings of the hub."""

    model_config = SettingsConfigDict(env_prefix="SHUAKA_HUB_", extra="forbid", frozen=True)

    data: Path = Path("/var/lib/shuaka-hub")
    """Folder of the keys and, by default, of the database."""
    database: str = ""
    """`postgresql://…`, or `sqlite:///FILE`; the default is SQLite in `data`."""
    mqtt: str = "mqtt://127.0.0.1:1883"
    """The broker, as the hub reaches it."""
    edge_mqtt: str = ""
    """The broker, as edges reach it; the default is the same."""
    listen: str = "127.0.0.1:8000"
    """Address and port of pages and API."""
    @field_validator("mqtt", "edge_mqtt")
    @classmethod
    def _check_broker(cls, value: str) -> str:
        if value:
            Broker.parse(value)
        return value

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ValueError(f"{value!r} is not ADDRESS:PORT, such as 127.0.0.1:8000")
        return value

    @property
    def address(self) -> tuple[str, int]:
        """`listen` as host and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data / 'hub.db'}"

    @property
    def broker_for_edges(self) -> str:
        return self.edge_mqtt or self.mqtt

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Settings from `path` (or DEFAULT_FILE, if it exists) and the environment.

        Raises ConfigError.
        """
        if path is not None and not path.is_file():
            raise ConfigError(f"{path}: there is no such file")
        file = path or (DEFAULT_FILE if DEFAULT_FILE.is_file() else None)

        class FromFile(cls):  # type: ignore[valid-type, misc]
            model_config = SettingsConfigDict(toml_file=file)

            @classmethod
            def settings_customise_sources(
                cls,
                settings_cls: type[BaseSettings],
                init_settings: PydanticBaseSettingsSource,
                env_settings: PydanticBaseSettingsSource,
                **_others: Any,
            ) -> tuple[PydanticBaseSettingsSource, ...]:
                return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

        try:
            settings: Self = FromFile()
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{file or 'settings'}: {name}: {first['msg']}") from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file}: {error}") from error
        base = file.absolute().parent if file else Path.cwd()
        return settings.model_copy(update={"data": base / settings.data})
