"""The processes that work on jobs, as they present themselves: for operators to see, and to be asked to stop.

An id is of one start of a process. Nothing depends on these rows: leases alone say who may do what.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .database import Database
from .ids import new_id
from .tables import worker


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    host: str
    pid: int
    version: str
    started_at: float
    beat_at: float
    draining: bool


class Workers:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(self, *, version: str = "") -> str:
        """The id of a new worker."""
        worker_id = new_id()

        async def work(connection: AsyncConnection, now: float) -> None:
            await connection.execute(insert(worker), _row(worker_id, version, now))

        await self._database.write(work)
        return worker_id

    async def beat(self, worker_id: str, *, version: str = "") -> bool:
        """Says that the worker lives, also if it was forgotten, as one that was frozen or cut off for long. Whether it
        is asked to stop: to claim nothing more, and to end."""
        mine = worker.c.id == worker_id

        async def work(connection: AsyncConnection, now: float) -> bool:
            known = await connection.execute(update(worker).where(mine).values(beat_at=now))
            if known.rowcount == 0:
                await connection.execute(insert(worker), _row(worker_id, version, now))
            return bool((await connection.execute(select(worker.c.draining).where(mine))).scalar_one_or_none())

        return await self._database.write(work)

    async def drain(self, worker_id: str) -> bool:
        """Asks a worker to stop; whether there is such a one."""

        async def work(connection: AsyncConnection, now: float) -> bool:
            asked = update(worker).where(worker.c.id == worker_id).values(draining=True)
            return bool((await connection.execute(asked)).rowcount)

        return await self._database.write(work)

    async def leave(self, worker_id: str) -> None:
        """The worker ends. What it still has leased is to be released before."""

        async def work(connection: AsyncConnection, now: float) -> None:
            await connection.execute(worker.delete().where(worker.c.id == worker_id))

        await self._database.write(work)

    async def list(self) -> list[Worker]:
        """The oldest first; lost ones as well, for some time."""

        async def work(connection: AsyncConnection, now: float) -> list[Worker]:
            rows = await connection.execute(select(worker).order_by(worker.c.id))
            return [Worker(**row._mapping) for row in rows]

        return await self._database.read(work)


def _row(worker_id: str, version: str, now: float) -> dict[str, Any]:
    row = {"id": worker_id, "host": socket.gethostname(), "pid": os.getpid(), "version": version}
    return row | {"started_at": now, "beat_at": now, "draining": False}
