"""Filling a job that was submitted without items: by the worker that reads them from somewhere, and checks them.

It has a lease on `Kind.VALIDATE`. If it is lost, the next one begins anew; `Ending.fail` ends a job that is not valid.
"""

from __future__ import annotations

from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .blobs import BlobStore
from .database import Database
from .ending import advance, drop_items, held
from .errors import WrongState
from .filling import Filling
from .hints import WORK, Hints
from .model import Job, Lease
from .quotas import check_stored_bytes, lock_owner
from .reading import found
from .states import JobState
from .tables import chunk, job


class Validation:
    """`start`, `add` each item, `commit`. Each raises `LeaseLost`, `WrongState`, `QuotaExceeded`, `StoreError`."""

    def __init__(
        self, database: Database, blobs: BlobStore, hints: Hints, lease: Lease, owner: str, chunk_items: int | None
    ) -> None:
        self._database = database
        self._hints = hints
        self._lease = lease
        self._owner = owner
        self._filling = Filling(database, blobs, lease.job, owner, self._guard, chunk_items=chunk_items)

    async def start(self) -> None:
        """Forgets what an earlier attempt has added."""

        async def work(connection: AsyncConnection, now: float) -> None:
            await self._guard(connection, now, 0)
            await drop_items(connection, self._lease.job)

        await self._database.write(work)

    async def add(self, item: bytes) -> None:
        await self._filling.add(item)

    async def commit(self) -> Job:
        """From now on the items can be claimed."""
        await self._filling.finish()
        mine = job.c.id == self._lease.job

        async def work(connection: AsyncConnection, now: float) -> Job:
            await self._filling.write(connection, now)
            of_chunk = (chunk.c.job == self._lease.job, chunk.c.no == self._lease.chunk)
            await connection.execute(delete(chunk).where(*of_chunk))
            await connection.execute(
                update(job)
                .where(mine, job.c.state == JobState.VALIDATING)
                .values(state=JobState.QUEUED, version=job.c.version + 1, total=self._filling.total)
            )
            await advance(connection, [self._lease.job], now)
            await self._hints.announce(connection, WORK, self._lease.job)
            return await found(connection, self._lease.job, None, now)

        validated = await self._database.write(work)
        self._hints.give(WORK, self._lease.job)
        return validated

    async def _guard(self, connection: AsyncConnection, now: float, stored: int) -> None:
        await held(connection, self._lease)
        if self._database.settings.stored_bytes is not None:
            await lock_owner(connection, self._owner)
        kept = await connection.execute(
            update(job)
            .where(job.c.id == self._lease.job, job.c.state == JobState.VALIDATING)
            .values(stored_bytes=stored)
        )
        if kept.rowcount == 0:
            raise WrongState(f"The job {self._lease.job} is not being validated any more.")
        await check_stored_bytes(connection, self._database.settings, self._owner, 0)
