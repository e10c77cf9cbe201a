"""Many rows into one table, as fast as the database takes them: COPY, or one prepared statement.

The rows are part of the caller's transaction. Values reach the driver as they are (no SQLAlchemy
types, no defaults), so the table's columns are numbers, texts, booleans and bytes; a conflict is an
error. What fails is raised as a SQLAlchemyError, like everything else on the connection.

And `chunks`, for what one statement cannot name at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, TypeVar, cast

import psycopg
from sqlalchemy import Connection, Table
from sqlalchemy.exc import DBAPIError

from hub.store.engine import keep_primary_message

CHUNK: Final = 5000
"""How many keys one statement names at most: both databases take some 32,000."""

T = TypeVar("T")


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """The items in order, at most `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def insert_rows(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert `rows`, each of which names every column of `table`, of which it has several."""
    if not rows:
        return
    names = [column.name for column in table.columns]
    columns = ", ".join(f'"{name}"' for name in names)
    values = map(itemgetter(*names), rows)
    if conn.dialect.name == "postgresql":
        _copy(conn, f"COPY {table.name} ({columns}) FROM STDIN", values)
    else:
        marks = ", ".join("?" * len(names))
        statement = f"INSERT INTO {table.name} ({columns}) VALUES ({marks})"  # noqa: S608
        conn.exec_driver_sql(statement, list(values))


def _copy(conn: Connection, statement: str, rows: "map[tuple[Any, ...]]") -> None:
    driver = cast("psycopg.Connection", conn.connection.driver_connection)
    try:
        with driver.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as error:
        keep_primary_message(error)
        raise DBAPIError(statement, None, error) from error
