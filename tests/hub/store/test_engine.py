"""Opening, migrating, and what a transaction is."""

import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, Table, delete, insert, inspect, select, text, update
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError

from hub.store import schema as s
from hub.store.engine import (
    DatabaseServedError,
    DatabaseTooNewError,
    DatabaseUrlError,
    migrate,
    open_engine,
    reading,
    revision,
    serving,
    unserved,
)
from hub.store.policies import GRACE_MINUTES, TIME_ZONE, Policies
from hub.store.state import begin_generation, begin_session, generation
from tests.hub.world import Entry, district, public_id


def test_the_migrated_schema_is_the_one_in_the_code(engine: Engine) -> None:
    with engine.begin() as conn:
        assert compare_metadata(MigrationContext.configure(conn), s.metadata) == []


def test_the_migrated_schema_has_the_same_checks_and_options(tmp_path: Path) -> None:
    def statements(engine: Engine) -> dict[str, set[str]]:
        with reading(engine) as conn:
            rows = conn.execute(
                text("SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index')")
            )
            return {
                name: {line.strip().rstrip(",") for line in sql.splitlines()}
                for name, sql in rows
                if sql is not None
            }

    migrated, made = (open_engine(f"sqlite:///{tmp_path / name}") for name in ("a", "b"))
    migrate(migrated)
    with made.begin() as conn:
        s.metadata.create_all(conn)
    found = statements(migrated)
    del found["alembic_version"]
    assert found == statements(made)
    migrated.dispose()
    made.dispose()


@pytest.mark.parametrize("table", [s.audit, s.accesses], ids=str)
@pytest.mark.parametrize("statement", [update, delete])
def test_what_was_done_and_looked_at_stays_as_it_was_written(
    engine: Engine, table: Table, statement: Any
) -> None:
    with engine.begin() as conn:
        values = {"object": "x", "details": "{}"} if table is s.audit else {}
        conn.execute(insert(table).values(at_ms=1, actor="a", what="b", **values))
    change = statement(table)
    with pytest.raises(DatabaseError, match="append-only"), engine.begin() as conn:
        conn.execute(change.values(actor="c") if statement is update else change)
    with reading(engine) as conn:
        assert conn.scalars(select(table.c.actor)).all() == ["a"]


def test_every_foreign_key_and_check_has_a_name(engine: Engine) -> None:
    with engine.connect() as conn:
        seen = inspect(conn)
        for table in s.metadata.tables:
            for constraint in (*seen.get_foreign_keys(table), *seen.get_check_constraints(table)):
                assert constraint["name"], table


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    migrate(engine)
    with reading(engine) as conn:
        assert revision(conn) == "0001"
        assert len(conn.execute(select(s.policies)).all()) == 6


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'hub.db'}")
    migrate(engine)
    with engine.begin() as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseTooNewError, match="9999"):
        migrate(engine)
    with reading(engine) as conn:
        assert revision(conn) == "9999"
    engine.dispose()


def test_a_migration_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'hub.db'}")
    with engine.begin() as conn:
        conn.execute(text("CREATE TABLE venues (id INTEGER)"))
    with pytest.raises(DBAPIError):
        migrate(engine)
    with reading(engine) as conn:
        assert inspect(conn).get_table_names() == ["venues"]
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "cannot be read"),
        ("hub.db", "cannot be read"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("mysql://host/db", "mysql"),
        ("postgresql+asyncpg://host/db", "asyncpg"),
    ],
)
def test_a_url_that_is_no_database_of_ours_is_refused(url: str, word: str) -> None:
    with pytest.raises(DatabaseUrlError, match=word):
        open_engine(url)


@pytest.mark.parametrize("url", ["postgresql://h/d", "postgres://h/d", "postgresql+psycopg://h/d"])
def test_postgresql_is_spoken_to_through_psycopg(url: str) -> None:
    engine = open_engine(url)
    assert (engine.dialect.name, engine.driver) == ("postgresql", "psycopg")
    engine.dispose()


def test_a_sqlite_commit_is_durable_and_keys_are_kept(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'hub.db'}")
    with engine.begin() as conn:
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert conn.scalar(text(f"PRAGMA {pragma}")) == value
    engine.dispose()


def test_two_writers_wait_for_each_other_and_none_is_refused(engine: Engine) -> None:
    with engine.begin() as conn:
        begin_generation(conn, 1_000_000)
    failures: list[BaseException] = []

    def add() -> None:
        try:
            for _ in range(20):
                with engine.begin() as conn:
                    # Read, then write: refused half-way if the transaction began as a reader.
                    before = conn.scalar(select(s.hub_state.c.session))
                    time.sleep(0.001)
                    assert begin_session(conn) > (before or 0)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with reading(engine) as conn:
        assert conn.scalar(select(s.hub_state.c.session)) == 80


def test_a_reader_sees_one_moment_and_waits_for_nobody(engine: Engine) -> None:
    with engine.begin() as conn:
        begin_generation(conn, 1_000_000)
    with reading(engine) as reader:
        assert reader.scalar(select(s.hub_state.c.session)) == 0
        with engine.begin() as writer:
            begin_session(writer)
            assert reader.scalar(select(s.hub_state.c.session)) == 0
        assert reader.scalar(select(s.hub_state.c.session)) == 0
    with reading(engine) as reader:
        assert reader.scalar(select(s.hub_state.c.session)) == 1


def test_a_reader_cannot_write_and_its_connection_can_again_afterwards(engine: Engine) -> None:
    with reading(engine) as conn, pytest.raises(DBAPIError):
        begin_generation(conn, 1_000_000)
    with engine.begin() as conn:
        begin_generation(conn, 1_000_000)


def test_a_generation_only_grows_and_a_session_counts_starts(engine: Engine) -> None:
    with engine.begin() as conn:
        assert generation(conn) is None
        with pytest.raises(LookupError, match="init"):
            begin_session(conn)
        assert begin_generation(conn, 1_777_000_000_999) == 1_777_000_000
        assert begin_generation(conn, 5) == 1_777_000_001
        assert [begin_session(conn), begin_session(conn)] == [1, 2]
        assert generation(conn) == 1_777_000_001


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (s.hub_state, {"id": 2, "generation": 1, "session": 1}),
        (
            s.organisations,
            {"public_id": public_id("x"), "code": "x", "name": "x", "kind": "VILLAGE"},
        ),
        (s.members, {"public_id": public_id("x"), "code": "李", "name": "twice"}),
        (
            s.memberships,
            {"member_id": 1, "organisation_id": 999, "body": "MEMBER", "valid_from_ms": 0},
        ),
        (
            s.memberships,
            {
                "member_id": 1,
                "organisation_id": 1,
                "body": "MEMBER",
                "valid_from_ms": 5,
                "valid_to_ms": 5,
            },
        ),
        (s.devices, {"public_id": public_id("x"), "name": "x", "status": "ACTIVE"}),
        (
            s.policies,
            {"name": "x", "organisation_id": 999, "value": "", "valid_from_ms": 0, "source": ""},
        ),
        (
            s.entries,
            {
                "epoch_id": 1,
                "seq": 1,
                "kind": 1,
                "credential_id": 1,
                "subject_state": 0,
                "batch_id": 1,
            },
        ),
    ],
)
def test_what_contradicts_itself_cannot_be_stored(
    engine: Engine, table: object, values: dict[str, object]
) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.epoch("e", "一号")
        world.batch("e", 2, [Entry(1, 1, trusted=True)])
    with pytest.raises(IntegrityError), engine.begin() as conn:
        conn.execute(insert(table).values(values))  # type: ignore[arg-type]


def test_a_policy_is_the_nearest_and_latest_that_has_begun(engine: Engine) -> None:
    with engine.begin() as conn:
        world = district(conn)
        world.organisation("组", "甲", "GROUP")
        for organisation, value, since in (
            (None, "1", 100),
            ("区", "2", 100),
            ("甲", "3", 200),
            ("甲", "4", 300),
        ):
            conn.execute(
                insert(s.policies).values(
                    name=GRACE_MINUTES,
                    organisation_id=None if organisation is None else world.ids[organisation],
                    value=value,
                    valid_from_ms=since,
                    source="test",
                )
            )
        policies = Policies.load(conn)

        def at(organisation: str, moment: int) -> int:
            return policies.number(GRACE_MINUTES, moment, world.ids[organisation])

        assert [at("组", moment) for moment in (99, 100, 199, 200, 299, 300)] == [0, 2, 2, 3, 3, 4]
        assert at("乙", 300) == 2
        assert policies.at(GRACE_MINUTES, 300).value == "1"
        assert policies.zone(0).key == "Asia/Shanghai"
        assert policies.at(TIME_ZONE, 0).source
        with pytest.raises(LookupError, match="no policy"):
            policies.at("colour", 0)
        conn.execute(update(s.policies).values(value="Europe/Nowhere"))


@pytest.mark.servers
def test_two_processes_may_migrate_at_once(postgres_url: str) -> None:
    engines = [open_engine(postgres_url) for _ in range(3)]
    failures: list[BaseException] = []

    def run(engine: Engine) -> None:
        try:
            migrate(engine)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=run, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engines[0]) as conn:
        assert revision(conn) == "0001"
    for engine in engines:
        engine.dispose()
    assert failures == []


def test_what_fails_quotes_no_card_and_no_name(engine: Engine) -> None:
    number = "04SECRETSECRET"
    row = {"scheme": "uid", "issuer": "", "value": number}
    with pytest.raises(IntegrityError) as failed, engine.begin() as conn:
        conn.execute(insert(s.credentials), [row, row])
    told = "".join(traceback.format_exception(failed.value)) + repr(failed.value.orig)
    assert "INSERT INTO credentials" in told
    assert number not in told


def test_what_is_served_is_not_restored_and_the_other_way_round(engine: Engine) -> None:
    url = engine.url.render_as_string(hide_password=False)
    one, other, restoring = (open_engine(url) for _ in range(3))
    began = threading.Event()

    def serve() -> None:
        with serving(one):
            began.set()

    try:
        with serving(one), serving(other), pytest.raises(DatabaseServedError), unserved(restoring):
            pass
        with serving(other), pytest.raises(DatabaseServedError), unserved(restoring):
            pass
        with unserved(restoring):
            waiting = threading.Thread(target=serve)
            waiting.start()
            assert not began.wait(0.5)
        waiting.join(timeout=10)
        assert began.is_set()
    finally:
        for each in (one, other, restoring):
            each.dispose()


@pytest.mark.servers
def test_who_serves_says_so_again_when_the_connections_were_lost(postgres: Any) -> None:
    url = postgres.create_database()
    one, restoring = open_engine(url), open_engine(url)
    try:
        with serving(one):
            with restoring.connect() as conn:
                conn.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
            with reading(one):
                pass
            with pytest.raises(DatabaseServedError), unserved(restoring):
                pass
    finally:
        one.dispose()
        restoring.dispose()


def test_an_exchanged_file_is_still_served(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    one, restoring = open_engine(url), open_engine(url)
    migrate(one)
    with serving(one):
        (tmp_path / "hub.db").rename(tmp_path / "aside.db")
        with pytest.raises(DatabaseServedError), unserved(restoring):
            pass
    one.dispose()
