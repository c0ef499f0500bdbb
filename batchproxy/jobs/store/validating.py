"""Filling a job that was submitted without items: by the worker that reads them from somewhere, and checks them.

It has a lease on `Kind.VALIDATE`. If it is lost, the next one begins anew; `Ending.fail` ends a job that is not valid.
The name of the blob that is being filled is in the row of that lease, so that the next one can remove it.
"""

from __future__ import annotations

from types import TracebackType

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .blobs import BlobStore
from .database import Database
from .ending import advance, drop_items, held
from .errors import JobsError, LeaseLost, QuotaExceeded, WrongState
from .filling import Filling
from .hints import WORK, Hints
from .model import Job, Lease
from .quotas import check_stored_bytes, lock_owner
from .reading import found
from .states import JobState
from .tables import chunk, job


class Validation:
    """`async with store.validation(claim) as v:`, `await v.add(item)` for each, `await v.commit()`.

    Left without a commit, nothing remains. Each raises `LeaseLost`, `WrongState`, `QuotaExceeded`, `StoreError`.
    """

    def __init__(
        self, database: Database, blobs: BlobStore, hints: Hints, lease: Lease, owner: str, chunk_items: int | None
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._hints = hints
        self._lease = lease
        self._owner = owner
        self._filling = Filling(database, blobs, lease.job, owner, self._guard, chunk_items=chunk_items)
        self._is_open = self._may_be_committed = False

    async def __aenter__(self) -> Validation:
        """Removes what an earlier attempt has left behind."""
        left = await self._database.read(self._left)
        if left is not None:
            await self._blobs.writer(self._lease.job, left).abort()

        async def work(connection: AsyncConnection, now: float) -> None:
            await self._guard(connection, now, 0)
            await drop_items(connection, self._lease.job)
            await connection.execute(update(chunk).where(self._mine).values(blob=self._filling.blob_name))

        await self._database.write(work)
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_open:
            await self._abort()

    async def add(self, item: bytes) -> None:
        await self._filling.add(item)

    async def commit(self) -> Job:
        """From now on the items can be claimed."""
        await self._filling.finish()
        mine = job.c.id == self._lease.job

        async def work(connection: AsyncConnection, now: float) -> Job:
            await self._filling.write(connection, now)
            await connection.execute(delete(chunk).where(self._mine))
            await connection.execute(
                update(job)
                .where(mine, job.c.state == JobState.VALIDATING)
                .values(state=JobState.QUEUED, version=job.c.version + 1, total=self._filling.total)
            )
            await advance(connection, [self._lease.job], now)
            await self._hints.announce(connection, WORK, self._lease.job)
            return await found(connection, self._lease.job, None, now)

        self._may_be_committed = True  # even if the answer of the database is never heard
        try:
            validated = await self._database.write(work)
        except (LeaseLost, WrongState, QuotaExceeded):
            self._may_be_committed = False
            raise
        self._is_open = False
        self._hints.give(WORK, self._lease.job)
        return validated

    @property
    def _mine(self) -> ColumnElement[bool]:
        return (chunk.c.job == self._lease.job) & (chunk.c.no == self._lease.chunk)

    async def _left(self, connection: AsyncConnection, now: float) -> str | None:
        """The blob of an earlier attempt: whoever makes a later one has a later lease, so it is not ours to remove."""
        query = select(chunk.c.blob).where(self._mine, chunk.c.epoch == self._lease.epoch)
        found: str | None = (await connection.execute(query)).scalar_one_or_none()
        return found

    async def _abort(self) -> None:
        """What cannot be removed now is by the next attempt, or along with the job."""
        self._is_open = False

        async def work(connection: AsyncConnection, now: float) -> None:
            await self._guard(connection, now, 0)
            await drop_items(connection, self._lease.job)
            await connection.execute(update(chunk).where(self._mine).values(blob=None))

        try:
            if self._may_be_committed:
                await self._database.write(work)  # raises if it is
                await self._filling.abort()
            else:
                await self._filling.abort()
                await self._database.write(work)
        except JobsError:
            pass

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
