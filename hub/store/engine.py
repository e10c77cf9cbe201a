"""Opening the hub's database, and bringing its schema up to this version of the code.

One URL selects the database: `sqlite:///FILE` or `postgresql://…` (psycopg 3). Promises:

- `engine.begin()` is a write transaction: on SQLite `BEGIN IMMEDIATE`, so that it waits for its
  turn at the start and is never refused half-way; a commit is durable (WAL, synchronous=FULL).
- `reading(engine)` is a read transaction: one snapshot from first to last statement, never waiting
  for a writer; a write inside it fails.
- `migrate(engine)` is all or nothing, safe to run from two processes, and refuses a database that
  a newer version of the code has written.
- what fails quotes no value of a row: neither parameters nor PostgreSQL's DETAIL.
- `serving` and `unserved` exclude each other, also between processes, for as long as they last.

It does not create PostgreSQL databases or roles, and it offers no database in memory.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

BUSY_TIMEOUT_MS: Final = 30_000
"""How long a SQLite connection waits for another's write lock before it gives up."""

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_MIGRATION_LOCK: Final = 0x73687561  # arbitrary keys for PostgreSQL's advisory locks
_SERVING_LOCK: Final = 0x73687562
_READ_OPTION: Final = "shuaka_read"


class DatabaseUrlError(ValueError):
    """The setting that names the database cannot be used; the message says why."""


class DatabaseTooNewError(RuntimeError):
    """The database was written by a newer version of this program."""

    def __init__(self, found: str, known: str) -> None:
        """`found`: the revision in the database; `known`: the newest that this code has."""
        super().__init__(
            f"the database is at schema revision {found}, which this version does not know "
            f"(its newest is {known}): install the newer version, or restore an older backup"
        )
        self.found = found
        self.known = known


class DatabaseServedError(RuntimeError):
    """A `serve` works on this database."""


def open_engine(url: str) -> Engine:
    """An engine on the database that `url` names; nothing is connected or created yet.

    Raises DatabaseUrlError for anything but a SQLite file or PostgreSQL.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(
            parsed, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}, hide_parameters=True
        )
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = create_engine(parsed, pool_pre_ping=True, hide_parameters=True)
        event.listen(engine, "handle_error", _quote_no_row)
        event.listen(engine, "begin", _begin_postgresql)
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection in a read-only transaction over one snapshot, rolled back at the end."""
    with engine.connect().execution_options(**{_READ_OPTION: True}) as conn:
        yield conn


@contextmanager
def serving(engine: Engine) -> Iterator[None]:
    """Says that this process serves the database; several may. Waits for an `unserved`.

    On SQLite a lock on a file beside the database, which outlives a database that is exchanged; on
    PostgreSQL one that every connection of the engine holds, so that it comes back with them.
    """
    if engine.dialect.name == "sqlite":
        with _lock_file(engine) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield
        return
    event.listen(engine, "connect", _hold_serving_lock)
    engine.dispose()  # connections from before hold none
    try:
        engine.connect().close()
        yield
    finally:
        event.remove(engine, "connect", _hold_serving_lock)
        engine.dispose()


@contextmanager
def unserved(engine: Engine) -> Iterator[None]:
    """While it lasts no `serving` begins; on SQLite the database itself is not opened.

    Raises DatabaseServedError where somebody serves it.
    """
    if engine.dialect.name == "sqlite":
        with _lock_file(engine) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise DatabaseServedError from error
            yield
        return
    with engine.connect() as conn:
        for _ in range(20):  # a connection that was closed a moment ago may hold its lock still
            if conn.scalar(text(f"SELECT pg_try_advisory_lock({_SERVING_LOCK})")):
                break
            time.sleep(0.1)
        else:
            raise DatabaseServedError
        yield
        conn.exec_driver_sql(f"SELECT pg_advisory_unlock({_SERVING_LOCK})")


@contextmanager
def _lock_file(engine: Engine) -> Iterator[int]:
    lock = os.open(f"{engine.url.database}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield lock
    finally:
        os.close(lock)


def _hold_serving_lock(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SELECT pg_advisory_lock_shared({_SERVING_LOCK})")
    cursor.close()
    connection.commit()  # it is the session's, and stays


def migrate(engine: Engine) -> None:
    """Bring the schema to this code's newest revision, in one transaction.

    Raises DatabaseTooNewError, and changes nothing, if the database is ahead of this code.
    """
    with engine.begin() as conn:
        if conn.dialect.name == "postgresql":
            conn.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        if not is_current(conn):
            config = _alembic()
            config.attributes["connection"] = conn
            command.upgrade(config, "head")


def is_current(conn: Connection) -> bool:
    """Whether the schema is at this code's newest revision. Raises DatabaseTooNewError."""
    scripts = ScriptDirectory.from_config(_alembic())
    head, found = scripts.get_current_head(), revision(conn)
    if found is not None and found not in {each.revision for each in scripts.walk_revisions()}:
        raise DatabaseTooNewError(found, head or "none")
    return found == head


def revision(conn: Connection) -> str | None:
    """The schema revision that the database is at, or None before the first migration."""
    return MigrationContext.configure(conn).get_current_revision()


def keep_primary_message(error: BaseException) -> None:
    """Takes from a PostgreSQL error what quotes rows: all but its primary message."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        error.args = (error.diag.message_primary,)


def _quote_no_row(context: ExceptionContext) -> None:
    original, wrapped = context.original_exception, context.sqlalchemy_exception
    whole = str(original)
    keep_primary_message(original)
    if wrapped is not None:
        wrapped.args = tuple(str(each).replace(whole, str(original)) for each in wrapped.args)


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise DatabaseUrlError(
            "the database URL cannot be read: expected sqlite:///FILE or postgresql://…"
        ) from None
    match parsed.drivername:
        case "sqlite" | "sqlite+pysqlite":
            if parsed.database in {None, "", ":memory:"}:
                raise DatabaseUrlError("the database URL names no file: expected sqlite:///FILE")
            return parsed.set(drivername="sqlite+pysqlite")
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise DatabaseUrlError(
                f"{other!r} is no database this hub knows: expected sqlite or postgresql"
            )


def _configure_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection)  # noqa: S101
    # The driver must not begin transactions by itself: it does so before writes only, and not
    # before DDL. `_begin_sqlite` does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(conn: Connection) -> None:
    read = bool(conn.get_execution_options().get(_READ_OPTION))
    conn.exec_driver_sql(f"PRAGMA query_only={'ON' if read else 'OFF'}")
    conn.exec_driver_sql("BEGIN" if read else "BEGIN IMMEDIATE")


def _begin_postgresql(conn: Connection) -> None:
    if conn.get_execution_options().get(_READ_OPTION):
        conn.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
