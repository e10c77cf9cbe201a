"""The hub's database, empty and migrated, on each of the two kinds that the hub runs on."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import Engine, insert, select, text

from hub.auth import accounts
from hub.store import schema as s
from hub.store.engine import migrate, open_engine, reading


@pytest.fixture(scope="session", autouse=True)
def _passwords_are_quick() -> Iterator[None]:
    """Hundreds of sign-ins: a hash takes next to nothing here; test_auth looks at the real one."""
    quick = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "_HASH", quick)
        patch.setattr(accounts, "_NOBODY", quick.hash("nobody's"))
        yield


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "hub.db"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    return path


@pytest.fixture(scope="session")
def _postgres_engine(postgres: Any) -> Iterator[Engine]:
    engine = open_engine(postgres.create_database())
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine on a migrated database without rows but the policies to begin with."""
    if request.param == "sqlite":
        path = tmp_path / "hub.db"
        shutil.copy(request.getfixturevalue("_sqlite_template"), path)
        engine = open_engine(f"sqlite:///{path}")
        yield engine
        engine.dispose()
        return
    engine = request.getfixturevalue("_postgres_engine")
    with reading(engine) as conn:
        policies = [row._asdict() for row in conn.execute(select(s.policies))]
    yield engine
    names = ", ".join(table.name for table in s.metadata.sorted_tables)
    with engine.begin() as conn:
        conn.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
        for policy in policies:
            policy.pop("id")
        conn.execute(insert(s.policies), policies)
