"""What time it is, for leases, deadlines and retention: the time of the database, never that of a worker.

SQLite has no clock of its own, and serves one machine: there it is the clock of that machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from .settings import StoreSettings

# The bounds of the transaction are set along with it, for it is the first statement of every one: a setting of the
# session would go to somebody else's transaction behind a pooler.
_POSTGRESQL = text(
    "SELECT extract(epoch FROM clock_timestamp())::float8, set_config('lock_timeout', :lock, true),"
    " set_config('statement_timeout', :statement, true), set_config('idle_in_transaction_session_timeout', :idle, true)"
)


class Clock:
    """`ahead` is by how many seconds the time that counts is ahead of the database's: tests move it."""

    def __init__(self, ahead: Callable[[], float] = lambda: 0.0) -> None:
        self._ahead = ahead

    async def start(self, connection: AsyncConnection, settings: StoreSettings) -> float:
        """The time at the start of a transaction, in seconds of the epoch; it gets its bounds along with it."""
        if connection.dialect.name == "sqlite":
            return time.time() + self._ahead()
        bounds = {"lock": settings.wait, "statement": settings.statement_time, "idle": settings.idle_time}
        said = {name: f"{max(int(bound * 1000), 1)}ms" for name, bound in bounds.items()}
        row = (await connection.execute(_POSTGRESQL, said)).one()
        return float(row[0]) + self._ahead()
