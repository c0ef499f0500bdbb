"""How statements get to SQLite: in one trip each, and by the driver's own way if it does not know ours."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import aiosqlite
import pytest

from batchproxy.jobs.store import JobState
from batchproxy.jobs.store.trips import connected
from tests.proxy.on_a_loop import on_a_loop

from ..place import Place, complete, submit

SQL: tuple[tuple[str, Any, tuple[Any, int, list[Any]]], ...] = (
    ("CREATE TABLE t (a INTEGER PRIMARY KEY, b)", None, (None, -1, [])),
    ("INSERT INTO t (b) VALUES (?)", [(7,), (8,), (9,)], (None, 3, [])),
    ("UPDATE t SET b = b + ? WHERE b > ?", (1, 7), (None, 2, [])),
    ("SELECT a, b FROM t ORDER BY a", None, (["a", "b"], -1, [(1, 7), (2, 9), (3, 10)])),
)


def trips(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.message.startswith("executing") for record in caplog.records)


@on_a_loop
async def test_a_statement_is_one_trip(sqlite: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it gives: columns, a number of rows, rows."""
    connection = await connected(sqlite.settings().file)
    caplog.set_level(logging.DEBUG, "aiosqlite")
    try:
        for sql, parameters, wanted in SQL:
            before = trips(caplog)
            cursor: Any = connection.cursor()
            if isinstance(parameters, list):
                await cursor.executemany(sql, parameters)
            else:
                await cursor.execute(sql, parameters or ())
            columns = cursor.description and [column[0] for column in cursor.description]
            assert (columns, cursor.rowcount, await cursor.fetchall()) == wanted
            assert trips(caplog) - before == 1, sql
    finally:
        await connection.close()


@on_a_loop
async def test_a_driver_that_does_it_otherwise(sqlite: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a later version may, which has other names inside: jobs are done all the same."""

    async def by_a_cursor(self: aiosqlite.Connection, sql: str, parameters: Iterable[Any] = ()) -> list[Any]:
        async with self.cursor() as cursor:
            await cursor.execute(sql, parameters)
            return list(await cursor.fetchall())

    monkeypatch.setattr(aiosqlite.Connection, "execute_fetchall", by_a_cursor)
    async with sqlite.opened() as store:
        job = await submit(store, 4)
        await complete(store)
        await store.retention.sweep()
        assert (await store.jobs.get(job.id, "ann")).state is JobState.COMPLETED
