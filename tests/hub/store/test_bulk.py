"""Rows written in bulk are what they were, and fail like any other statement."""

import traceback
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from hub.store import schema as s
from hub.store.bulk import insert_rows
from hub.store.engine import reading
from tests.hub.world import Entry, district

HOSTILE = "a\tb\nc\\d\r\"'; \\. \\N 党员 \x01"


def _row(epoch: int, batch: int, seq: int, **more: Any) -> dict[str, Any]:
    return {
        "problem": None,
        "body": None,
        "batch_id": batch,
        "epoch_id": epoch,
        "seq": seq,
        "kind": 4,
        "boottime_ms": 1 << 62,
        "wall_ms": -(1 << 62),
        "trusted": False,
        "reader": "r",
        "assurance": None,
        "credential_id": None,
        "subject_state": 0,
        **more,
    }


@pytest.fixture
def place(engine: Engine) -> tuple[int, int]:
    """Ids of an epoch and of a batch in it."""
    with engine.begin() as conn:
        world = district(conn)
        return world.epoch("e", "一号"), world.batch("e", 1, [Entry(0, 0, trusted=True)])


def test_rows_come_back_as_they_went_in(engine: Engine, place: tuple[int, int]) -> None:
    rows = [
        _row(*place, 10, reader=HOSTILE, body=bytes(range(256)), trusted=True),
        _row(*place, 11, reader="", body=b"", problem=HOSTILE),
    ]
    with engine.begin() as conn:
        insert_rows(conn, s.entries, rows)
    with reading(engine) as conn:
        found = conn.execute(select(s.entries).where(s.entries.c.seq >= 10).order_by("seq"))
        assert [dict(row._mapping) for row in found] == rows


def test_no_rows_are_no_statement(engine: Engine) -> None:
    with engine.begin() as conn:
        insert_rows(conn, s.entries, [])


@pytest.mark.parametrize(
    "broken",
    [
        lambda row: {**row, "seq": 10},  # there already
        lambda row: {**row, "kind": None},
        lambda row: {**row, "subject_state": 9},
    ],
)
def test_a_row_that_cannot_be_leaves_nothing_and_an_error_of_the_usual_kind(
    engine: Engine,
    place: tuple[int, int],
    broken: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    def count(conn: Connection) -> int | None:
        return conn.scalar(select(func.count()).select_from(s.entries))

    with engine.begin() as conn:
        insert_rows(conn, s.entries, [_row(*place, 10)])
        before = count(conn)
    with pytest.raises(SQLAlchemyError), engine.begin() as conn:
        insert_rows(conn, s.entries, [_row(*place, 11), broken(_row(*place, 12))])
    with engine.begin() as conn:  # the connection is fit for use again
        assert count(conn) == before
        insert_rows(conn, s.entries, [_row(*place, 11)])


def test_a_row_that_fails_is_not_quoted(engine: Engine, place: tuple[int, int]) -> None:
    wrong = _row(*place, 10, reader="secret", subject_state=9)
    with pytest.raises(SQLAlchemyError) as failed, engine.begin() as conn:
        insert_rows(conn, s.entries, [wrong])
    assert "secret" not in "".join(traceback.format_exception(failed.value))
