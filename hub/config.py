"""The hub's settings: `hub.toml`, overridden by environment variables SHUAKA_HUB_*.

An unknown or mistaken setting is refused by name. Relative paths are relative to the file.
"""

import os
from pathlib import Path
from typing import Any, Final, Self

from pydantic import ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from sqlalchemy import make_url

from hub.store.engine import open_engine
from protocol.topics import Broker

_ENVIRONMENT: Final = "SHUAKA_HUB_"
CONFIG_VARIABLE: Final = f"{_ENVIRONMENT}CONFIG"
"""Names the file, in place of `--config`."""

DEFAULT_FILE: Final = Path("/etc/shuaka/hub.toml")


class ConfigError(Exception):
    """The settings cannot be used; the message names the file or variable, and the setting."""


class Settings(BaseSettings):
    """All settings of the hub."""

    model_config = SettingsConfigDict(env_prefix=_ENVIRONMENT, extra="forbid", frozen=True)

    data: Path = Path("/var/lib/shuaka-hub")
    """Folder of the keys and, by default, of the database."""
    database: str = ""
    """`postgresql://…`, or `sqlite:///FILE`; the default is SQLite in `data`."""
    mqtt: str = "mqtt://127.0.0.1:1883"
    """The broker, as the hub reaches it."""
    edge_mqtt: str = ""
    """The broker, as edges reach it; the default is the same."""
    broker_dir: str = ""
    """The broker's folder, made by `shuaka-hub broker`; `serve` keeps it up to date."""
    listen: str = "127.0.0.1:8000"
    """Address and port of pages and API."""

    @field_validator("data", mode="before")
    @classmethod
    def _check_data(cls, value: object) -> object:
        if not isinstance(value, (str, Path)) or not str(value) or not str(value).isprintable():
            raise ValueError("expected the path of a folder, in quotes")
        return value

    @field_validator("database")
    @classmethod
    def _check_database(cls, value: str) -> str:
        if value:
            open_engine(value).dispose()
        return value

    @field_validator("mqtt", "edge_mqtt")
    @classmethod
    def _check_broker(cls, value: str) -> str:
        if value:
            Broker.parse(value)
        return value

    @field_validator("broker_dir")
    @classmethod
    def _check_broker_dir(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("expected the path of a folder, in quotes")
        return value

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host.strip("[]") or not port.isdecimal() or not 0 < int(port) < 1 << 16:
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
        for variable in os.environ:
            ours = variable.upper().startswith(_ENVIRONMENT) and variable != CONFIG_VARIABLE
            if ours and variable[len(_ENVIRONMENT) :].lower() not in cls.model_fields:
                raise ConfigError(f"{variable}: unknown setting (an environment variable)")
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
            variable = f"{_ENVIRONMENT}{name.upper()}"
            where = variable if variable in os.environ else f"{file}: {name}"
            what = first["msg"].removeprefix("Value error, ")
            what = what.replace("Extra inputs are not permitted", "unknown setting")
            raise ConfigError(f"{where}: {what}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: is not UTF-8 text (byte {error.start})") from error
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{file}: is not TOML: {error}") from error
        base = file.absolute().parent if file else Path.cwd()
        return settings.model_copy(
            update={
                "data": base / settings.data,
                "database": _beside(base, settings.database),
                "broker_dir": settings.broker_dir and str(base / settings.broker_dir),
            }
        )


def _beside(base: Path, database: str) -> str:
    """The same database, where a SQLite file that is named without a folder lies in `base`."""
    if not database:
        return ""
    url = make_url(database)
    if url.get_backend_name() != "sqlite" or url.database is None:
        return database
    return url.set(database=str(base / url.database)).render_as_string(hide_password=False)
