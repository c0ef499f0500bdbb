"""What time it is, for leases, deadlines and retention: the time of the database, never that of a worker.

SQLite has no clock of its own, and serves one machine: there it is the clock of that machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# How long to wait for locks is set along with it, for it is the first statement of every transaction: a setting of the
# session would go to somebody else's transaction behind a pooler.
_POSTGRESQL = text(
    "SELECT extract(epoch FROM clock_timestamp())::float8, set_config('lock_timeout', :wait, true)",
)


class Clock:
    """`ahead` is by how many seconds the time that counts is ahead of the database's: tests move it."""

    def __init__(self, ahead: Callable[[], float] = lambda: 0.0) -> None:
        self._ahead = ahead

    async def start(self, connection: AsyncConnection, wait: float) -> float:
        """The time at the start of a transaction, in seconds of the epoch; it waits so long for each lock."""
        if connection.dialect.name == "sqlite":
            return time.time() + self._ahead()
        row = (await connection.execute(_POSTGRESQL, {"wait": f"{max(int(wait * 1000), 1)}ms"})).one()
        return float(row[0]) + self._ahead()
