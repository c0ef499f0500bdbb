"""Trips to the thread in which SQLite is: one for each statement.

The driver makes four of them, for a cursor, the statement, its rows, and the end of the cursor. Measured, a trip takes
longer than most statements of ours: what passes between two threads has to wait for the interpreter's lock twice.

Knows: the driver, and what SQLAlchemy asks of it. Must not know: transactions, tables.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiosqlite


class _Answer(NamedTuple):
    description: Any
    rowcount: int
    lastrowid: int | None
    rows: list[Any]


class Cursor:
    """Has all rows as soon as its statement has run, and holds nothing in the thread."""

    __slots__ = ("_answer", "_connection", "arraysize")

    def __init__(self, connection: Connection) -> None:
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
        self._answer = await self._connection.run(_executed, sql, parameters)
        return self

    async def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> Cursor:
        self._answer = await self._connection.run(_executed_many, sql, parameters)
        return self

    async def fetchall(self) -> list[Any]:
        return self._answer.rows

    async def close(self) -> None:
        """It is closed."""


class Connection(aiosqlite.Connection):
    def cursor(self) -> Cursor:  # type: ignore[override]
        return Cursor(self)

    async def run(self, what: Callable[..., _Answer], *arguments: Any) -> _Answer:
        """What it returns, called in the thread."""
        answer: _Answer = await self._execute(what, self._conn, *arguments)  # type: ignore[no-untyped-call]
        return answer


async def connected(file: Path) -> Connection:
    """A connection with a thread of its own, which does not keep the process from ending."""
    connection = Connection(partial(sqlite3.connect, file, check_same_thread=False), 64)
    connection._thread.daemon = True
    await connection
    return connection


def _executed(connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> _Answer:
    cursor = connection.execute(sql, parameters)
    try:
        rows = cursor.fetchall() if cursor.description else []
        return _Answer(cursor.description, cursor.rowcount, cursor.lastrowid, rows)
    finally:
        cursor.close()


def _executed_many(connection: sqlite3.Connection, sql: str, parameters: Iterable[Sequence[Any]]) -> _Answer:
    cursor = connection.executemany(sql, parameters)
    try:
        return _Answer(None, cursor.rowcount, cursor.lastrowid, [])
    finally:
        cursor.close()
