"""Submitting a job: its items come one by one, and it is there as a whole, or not at all.

Knows: idempotency keys, quotas, the durable commit. Must not know: what an item means.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import msgspec
from sqlalchemy import Row, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from . import retention
from .blobs import BlobStore
from .database import Database
from .ending import advance, stage_row
from .errors import JobsError, KeyBusy, KeyConflict, LeaseLost, QuotaExceeded
from .filling import Filling
from .hints import WORK, Hints
from .ids import new_id
from .model import Kind, NewJob, Submitted
from .points import Passing
from .pulse import Pulse
from .quotas import check_open_jobs, check_stored_bytes, lock_owner
from .reading import found
from .states import JobState
from .tables import chunk, job

_UNBORN = (JobState.STORING,)
"""A job that was committed after all is never taken away by its submission, nor if it has ended by then."""


class Submission:
    """`async with store.submission(NewJob(…)) as s:`, `await s.add(item)` for each, `await s.commit()`.

    Left without a commit, nothing remains. If the idempotency key has a job already, the items are only compared.
    Raises `KeyBusy`, `KeyConflict`, `QuotaExceeded`, `StoreError`; after any of them nothing remains either.
    """

    def __init__(
        self, database: Database, blobs: BlobStore, hints: Hints, passing: Passing, new: NewJob, job_id: str | None
    ) -> None:
        self.job_id = job_id or new_id()
        self._new = new
        self._database = database
        self._blobs = blobs
        self._hints = hints
        self._passing = passing
        self._there: Row[Any] | None = None
        self._is_open = self._may_be_committed = False
        self._pulse = Pulse(database.settings.submit / 3, lambda: database.write(self._live))
        self._filling = Filling(
            database,
            blobs,
            self.job_id,
            new.owner,
            self._guard,
            chunk_items=new.chunk_items,
            chunk_bytes=new.chunk_bytes,
        )

    async def __aenter__(self) -> Submission:
        self._is_open = True  # even if the answer of the database is never heard
        try:
            stale = await self._database.write(self._begin)
            if stale is not None:
                await retention.clear(self._database, self._blobs, stale)
                await self._database.write(self._begin)
        except BaseException:
            await self._abort()
            raise
        if self._there is None:
            self._pulse.start()
        self._passing("submit.begun")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._pulse.stop()
        finally:
            if self._is_open:
                await self._abort()

    @property
    def replays(self) -> bool:
        """Whether there is a job with this key already, with which the items are compared."""
        return self._there is not None

    @property
    def total(self) -> int:
        return self._filling.total

    async def add(self, item: bytes) -> None:
        if self._there is not None:
            self._filling.note(item)
        else:
            await self._filling.add(item)
            self._passing("submit.added")

    async def commit(self, fingerprint: bytes | None = None) -> Submitted:
        """Once this returns, the job is there for good. `fingerprint` stands for the content; else that of the items.

        Raises `KeyConflict` if the key belongs to a job with another one.
        """
        fingerprint = fingerprint or self._filling.fingerprint
        if self._there is not None:
            return await self._replayed(self._there, fingerprint)
        await self._filling.finish()
        self._passing("submit.before_commit")

        async def work(connection: AsyncConnection, now: float) -> Submitted:
            await self._filling.write(connection, now)
            return await self._commit(connection, now, fingerprint)

        self._may_be_committed = True  # even if the answer of the database is never heard
        try:
            submitted = await self._database.write(work)
        except (LeaseLost, QuotaExceeded):
            self._may_be_committed = False
            raise
        self._is_open = False
        self._passing("submit.committed")
        self._hints.give(WORK)
        return submitted

    async def _begin(self, connection: AsyncConnection, now: float) -> str | None:
        """Takes the key. Returns the id of a dead submission that has it and must be cleared away first."""
        new = self._new
        await lock_owner(connection, new.owner)
        if new.idempotency_key is not None:
            query = select(job).where(job.c.owner == new.owner, job.c.idempotency_key == new.idempotency_key)
            there = (await connection.execute(query)).one_or_none()
            if there is not None and there.state == JobState.STORING:
                if there.id == self.job_id:
                    return None
                # One that is dead may be committed after all in this moment.
                if there.purge_at > now or not await retention.take_away(connection, there.id, states=_UNBORN):
                    raise KeyBusy("A job with this idempotency key is being stored; ask again when that has ended.")
                return str(there.id)
            self._there = there
            if there is not None:
                return None
        settings = self._database.settings
        await check_open_jobs(connection, settings, new.owner)
        await check_stored_bytes(connection, settings, new.owner, 0)
        try:
            await connection.execute(insert(job), self._row(now))
        except IntegrityError as error:
            raise KeyBusy("A job with this idempotency key is being stored; ask again when that has ended.") from error
        return None

    def _row(self, now: float) -> dict[str, Any]:
        new, settings = self._new, self._database.settings
        return {
            "id": self.job_id,
            "kind": new.kind,
            "owner": new.owner,
            "state": JobState.STORING,
            "version": 1,
            "endpoint": new.endpoint,
            "total": 0,
            "idempotency_key": new.idempotency_key,
            "options": new.options,
            "metadata": msgspec.msgpack.encode(new.metadata),
            "secret": new.secret,
            "priority": new.priority,
            "created_at": now,
            "keep": settings.keep if new.keep is None else new.keep,
            "purge_at": now + settings.submit,
            "input_file": new.input_file,
            "retry_of": new.retry_of,
            "stored_bytes": 0,
            "cleared": False,
        }

    async def _guard(self, connection: AsyncConnection, now: float, stored: int) -> None:
        settings = self._database.settings
        if settings.stored_bytes is not None:
            await lock_owner(connection, self._new.owner)
        if not await self._live(connection, now, stored_bytes=stored):
            raise LeaseLost("The submission paused for too long, and was taken away.")
        await check_stored_bytes(connection, settings, self._new.owner, 0)

    async def _live(self, connection: AsyncConnection, now: float, **values: Any) -> bool:
        """Whether the submission is still there."""
        alive = (job.c.id == self.job_id, job.c.state == JobState.STORING, job.c.gone.is_(None))
        until = now + self._database.settings.submit
        return bool((await connection.execute(update(job).where(*alive).values(purge_at=until, **values))).rowcount)

    async def _commit(self, connection: AsyncConnection, now: float, fingerprint: bytes) -> Submitted:
        new = self._new
        await connection.execute(
            update(job)
            .where(job.c.id == self.job_id)
            .values(
                state=JobState.VALIDATING if new.validate else JobState.QUEUED,
                version=job.c.version + 1,
                total=self._filling.total,
                fingerprint=fingerprint,
                created_at=now,
                expires_at=None if new.deadline is None else now + new.deadline,
                purge_at=None,
            )
        )
        if new.validate:
            await connection.execute(insert(chunk), stage_row(self.job_id, new.owner, Kind.VALIDATE, now))
        else:
            await advance(connection, [self.job_id], now)  # of a job without items there is only the end to do
        await self._hints.announce(connection, WORK)
        return Submitted(await found(connection, self.job_id, new.owner, now), created=True)

    async def _replayed(self, there: Row[Any], fingerprint: bytes) -> Submitted:
        if there.fingerprint != fingerprint:
            raise KeyConflict("This idempotency key belongs to a job with another content.")

        async def work(connection: AsyncConnection, now: float) -> Submitted:
            return Submitted(await found(connection, there.id, self._new.owner, now), created=False)

        return await self._database.read(work)

    async def _forget(self, connection: AsyncConnection, now: float) -> bool:
        return await retention.take_away(connection, self.job_id, states=_UNBORN)

    async def _abort(self) -> None:
        """Leaves nothing behind; what cannot be removed now is, once the submission counts as dead."""
        self._is_open = False
        if self._there is not None:
            return
        try:
            if not self._may_be_committed:
                await self._filling.abort()
            if await self._database.write(self._forget):
                await retention.clear(self._database, self._blobs, self.job_id)
        except JobsError:
            pass
