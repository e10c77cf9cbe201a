"""Servers and databases for the tests, and three rules that hold for every test.

- A test that uses one of the server fixtures is marked `servers`; `-m "not servers"` leaves the
  quick ones.
- No test reaches beyond loopback: a connection or a name look-up elsewhere raises.
- A server that is not installed is a failure. A test may skip for want of something that the
  machine cannot give; with SHUAKA_REQUIRE_ALL=1, as in CI, that fails too, unless it wants to mount
  something, which whoever builds in a container may not.
"""

import ipaddress
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Mosquitto, Pcscd, Postgres, private_dir

_MAY_BE_MISSING = ("mounting is forbidden here", "no ext4 on a loop device")
_SERVER_FIXTURES = {"mosquitto", "pcscd", "postgres", "postgres_url", "database_url"}


class NetworkRefusedError(Exception):
    """A test tried to leave this machine."""


def _refuse_network(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        address = args[1]
        if isinstance(address, tuple) and not _is_loopback(address[0]):
            raise NetworkRefusedError(f"a test connects to {address[0]}: only loopback is allowed")
    elif event == "socket.getaddrinfo" and args[0] and not _is_loopback(args[0]):
        raise NetworkRefusedError(f"a test looks up {args[0]!r}: only loopback is allowed")


def _is_loopback(host: str | bytes) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def pytest_configure() -> None:
    # An audit hook sees every Python-level connection, whichever library makes it.
    sys.addaudithook(_refuse_network)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("servers")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get("SHUAKA_REQUIRE_ALL") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        if not any(each in str(reason) for each in _MAY_BE_MISSING):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} must not be skipped here: {reason}"
    return report


@pytest.fixture
def rig_dir() -> Iterator[Path]:
    """A fresh directory whose path is short enough for Unix sockets."""
    with private_dir() as path:
        yield path


@pytest.fixture(scope="session")
def mosquitto() -> Iterator[Mosquitto]:
    """One broker for all tests that only use it; one that stops or kills it makes its own."""
    with private_dir() as path, Mosquitto(path) as broker:
        yield broker


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL for all tests, without fsync; take a database of it by `postgres_url`."""
    with private_dir() as path, Postgres(path, fsync=False) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A fresh, empty PostgreSQL database of the hub's plain role, as a SQLAlchemy URL."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty database of each kind in turn, as a SQLAlchemy URL."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'hub.sqlite'}"


@pytest.fixture
def pcscd(rig_dir: Path) -> Iterator[Pcscd]:
    """A private pcscd with two readers, nothing on them."""
    directory = rig_dir / "pcscd"
    directory.mkdir()
    with Pcscd(directory, slots=2) as daemon:
        yield daemon
