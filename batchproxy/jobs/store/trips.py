"""Trips to the thread in which SQLite is: one for each statement.

The driver makes four of them, for a cursor, the statement, its rows, and the end of the cursor. Measured, a trip takes
longer than most statements of ours: what passes between two threads has to wait for the interpreter's lock twice.

The one way of the driver that makes a single trip gives nothing but rows: it executes a statement on the connection in
the thread, and fetches all from what that returns. So that connection is one of ours, and returns all that there is to
know. Should a driver do it otherwise, its own way is taken: slower, but right.

Knows: the driver, and what SQLAlchemy asks of it. Must not know: transactions, tables.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiosqlite


class _Answer(NamedTuple):
    description: Any
    rowcount: int
    lastrowid: int | None
    rows: list[Any]

    def fetchall(self) -> _Answer:
        return self


class _Many(NamedTuple):
    """Parameters with which a statement is executed once each."""

    parameters: Iterable[Sequence[Any]]


class _Connection(sqlite3.Connection):
    """Whose statements are over as soon as they have run."""

    def execute(self, sql: str, parameters: Any = ()) -> _Answer:  # type: ignore[override]
        many = isinstance(parameters, _Many)
        cursor = super().executemany(sql, parameters.parameters) if many else super().execute(sql, parameters)
        try:
            rows = cursor.fetchall() if cursor.description else []
            return _Answer(cursor.description, cursor.rowcount, cursor.lastrowid, rows)
        finally:
            cursor.close()


class Cursor:
    """Has all rows as soon as its statement has run, and holds nothing in the thread."""

    __slots__ = ("_answer", "_connection", "arraysize")

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._answer = _Answer(None, -1, None, [])
        self.arraysize = 1

    async def __aenter__(self) -> Cursor:
        return self

    @property
    def description(self) -> Any:
        return self._answer.description

    @property
    def rowcount(self) -> int:
        return self._answer.rowcount

    @property
    def lastrowid(self) -> int | None:
        return self._answer.lastrowid

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        self._answer = await self._connection.execute_fetchall(sql, parameters)  # type: ignore[assignment]
        return self

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> Cursor:
        self._answer = await self._connection.execute_fetchall(sql, _Many(parameters))  # type: ignore[assignment]
        return self

    async def fetchall(self) -> list[Any]:
        return self._answer.rows

    async def close(self) -> None:
        """It is closed."""


async def connected(file: Path) -> aiosqlite.Connection:
    """A connection with a thread of its own, which does not keep the process from ending."""
    connection = aiosqlite.connect(file, factory=_Connection, check_same_thread=False)
    thread = getattr(connection, "_thread", None)
    if thread is not None:
        thread.daemon = True
    await connection
    if isinstance(await connection.execute_fetchall("SELECT 1"), _Answer):
        connection.cursor = partial(Cursor, connection)  # type: ignore[assignment,method-assign]
    return connection
