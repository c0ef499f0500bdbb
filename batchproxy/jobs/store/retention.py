"""What is removed, and when: ended jobs after their time, deleted ones, submissions that died, files.

A job is taken away first: from then on nobody sees it. Then its contents are cleared, bit by bit, so that nobody waits
long; whatever interrupts that, a later sweep goes on. Who reads the results of a job that is taken away gets `Gone`,
and what is being read from a blob comes to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import and_, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .blobs import BlobStore
from .database import Database
from .ending import advance
from .errors import WrongState
from .files import clear_file
from .hints import Hints
from .reading import visible_row
from .states import STOPPING, TERMINAL, JobState
from .tables import chunk, chunk_input, file, intent, job, limiter, outbox, result, retry, slot, worker

_ROWS = 1000
"""How many results are removed in one transaction."""
_JOBS = 50
"""How many jobs or files are looked for at once."""
_LONGEST = 10.0
"""For how many seconds a sweep goes on to remove what there is."""
_PAGES = 250
"""How many pages of a file are given back in one transaction."""
_WORKER_FORGOTTEN = 10
"""After how many leases without a beat a worker is forgotten."""
_MESSAGE_FORGOTTEN = 7 * 86400.0
"""After how many seconds in which nobody sent it a message about a job that is gone is forgotten."""
_LIMITER_FORGOTTEN = 100 * 86400.0
"""After how many seconds without use it is forgotten what an upstream was asked: whatever it owed is full again by
then, for which nobody has to know its rate here, and a new one begins like that."""


class Swept(msgspec.Struct, frozen=True):
    """What a sweep did."""

    purged: int = 0
    cleared: int = 0
    files: int = 0
    advanced: int = 0
    forgotten: int = 0


class Retention:
    def __init__(self, database: Database, blobs: BlobStore, hints: Hints) -> None:
        self._database = database
        self._blobs = blobs
        self._hints = hints

    async def delete(self, job_id: str, owner: str | None) -> None:
        """Removes a job that has ended. Raises `NotFound`, and `WrongState` for one that has not."""

        async def work(connection: AsyncConnection, now: float) -> None:
            row = await visible_row(connection, job_id, owner)
            if row.state not in TERMINAL:
                raise WrongState(f"The job {job_id} is {row.state}; it can be removed once it has ended.")
            await take_away(connection, job_id)

        await self._database.write(work)
        self._hints.give(job_id)
        await clear(self._database, self._blobs, job_id)

    async def shed(self, job_id: str) -> None:
        """Removes the items and results of a job that has ended, of which all is in its files; its counts stay."""
        if not await self._database.read(lambda connection, now: _has_ended(connection, job_id)):
            raise WrongState(f"The job {job_id} has not ended.")
        await _empty(self._database, self._blobs, job_id)

        async def work(connection: AsyncConnection, now: float) -> None:
            await connection.execute(update(job).where(job.c.id == job_id).values(stored_bytes=0))

        await self._database.write(work)

    async def sweep(self) -> Swept:
        """All that has to be done from time to time, by any number of processes. Takes a bounded time: what there is to
        be removed beyond that is left to the next one."""
        advanced = await self._database.write(self._advance)
        forgotten = await self._database.write(self._forget)
        await self._database.write(self._correct_leases)
        swept = Swept(advanced=advanced, forgotten=forgotten)
        loop = asyncio.get_running_loop()
        until, is_more = loop.time() + _LONGEST, True
        while is_more:
            purged = await self._database.write(self._purge)
            self._hints.give(*purged)
            cleared = await self._database.read(self._to_clear)
            for job_id in cleared:
                await clear(self._database, self._blobs, job_id)
            files = await self._database.write(self._expired_files)
            for place in files:
                await clear_file(self._database, self._blobs, place)
            swept = msgspec.structs.replace(
                swept,
                purged=swept.purged + len(purged),
                cleared=swept.cleared + len(cleared),
                files=swept.files + len(files),
            )
            is_more = max(len(purged), len(cleared), len(files)) == _JOBS and loop.time() < until
        # At least once, or a store in which there is always something to be removed would never get smaller.
        while await self._database.shrink(_PAGES) and loop.time() < until:
            pass
        return swept

    async def _purge(self, connection: AsyncConnection, now: float) -> list[str]:
        """Takes away jobs whose time is over, and submissions that are dead; forgets the oldest tombstones."""
        due = select(job.c.id, job.c.state).where(job.c.purge_at <= now, job.c.gone.is_(None)).limit(_JOBS)
        purged = []
        for row in await connection.execute(due):
            gone = "deleted" if row.state == JobState.STORING else "purged"
            if await take_away(connection, row.id, gone, now + self._database.settings.tombstones):
                purged.append(row.id)
        forgotten = and_(job.c.gone == "purged", job.c.cleared.is_(True), job.c.purge_at <= now)
        await connection.execute(delete(job).where(forgotten))
        return purged

    async def _to_clear(self, connection: AsyncConnection, now: float) -> list[str]:
        query = select(job.c.id).where(job.c.gone.is_not(None), job.c.cleared.is_(False)).limit(_JOBS)
        return [row.id for row in await connection.execute(query)]

    async def _expired_files(self, connection: AsyncConnection, now: float) -> list[str]:
        due = or_(file.c.expires_at <= now, file.c.gone.is_(True))
        places = [row.blob for row in await connection.execute(select(file.c.blob).where(due).limit(_JOBS))]
        await connection.execute(update(file).where(file.c.blob.in_(places)).values(gone=True))
        return places

    async def _advance(self, connection: AsyncConnection, now: float) -> int:
        """The ends that nobody has begun, for whatever reason: each is begun at once otherwise."""
        has_open_items = exists().where(chunk.c.job == job.c.id, chunk.c.no >= 0, chunk.c.due_at.is_not(None))
        states = [JobState.QUEUED, JobState.RUNNING]
        query = select(job.c.id).where(job.c.state.in_(states), job.c.gone.is_(None), ~has_open_items)
        ids = [row.id for row in await connection.execute(query.limit(_JOBS))]
        await advance(connection, ids, now)
        return len(ids)

    async def _forget(self, connection: AsyncConnection, now: float) -> int:
        before = now - _WORKER_FORGOTTEN * self._database.settings.lease
        await connection.execute(delete(slot).where(slot.c.due_at <= before))
        # Of jobs that are gone nobody looks at what could not be told; and what was due so long ago nobody tells.
        is_there = exists().where(job.c.id == outbox.c.job, job.c.gone.is_(None))
        untold = or_(outbox.c.due_at.is_(None), outbox.c.due_at <= now - _MESSAGE_FORGOTTEN)
        await connection.execute(delete(outbox).where(untold, ~is_there))
        unused_since = now - _LIMITER_FORGOTTEN
        unused = (limiter.c.refilled_at <= unused_since, limiter.c.blocked_until <= unused_since)
        await connection.execute(delete(limiter).where(*unused))
        return (await connection.execute(delete(worker).where(worker.c.beat_at <= before))).rowcount

    async def _correct_leases(self, connection: AsyncConnection, now: float) -> None:
        """A clock that was set back would let leases of lost workers last too long, and hold up what waits for them."""
        longest = now + 2 * self._database.settings.lease
        leased = chunk.c.holder.is_not(None)
        await connection.execute(update(chunk).where(leased, chunk.c.due_at > longest).values(due_at=longest))
        await connection.execute(update(slot).where(slot.c.due_at > longest).values(due_at=longest))
        # Stages that were put off, for such a lease or by their kind. Items may have to wait for long, as their
        # upstreams want it.
        in_stages = select(job.c.id).where(job.c.state.in_([JobState.VALIDATING, *STOPPING]))
        put_off = (chunk.c.job.in_(in_stages), chunk.c.no < 0, chunk.c.due_at > longest)
        await connection.execute(update(chunk).where(*put_off).values(due_at=longest))


async def take_away(
    connection: AsyncConnection,
    job_id: str,
    gone: str = "deleted",
    tombstone_until: float | None = None,
    *,
    states: Collection[JobState] = (*TERMINAL, JobState.STORING),
) -> bool:
    """Nobody sees the job any more, and its idempotency key is free. Whether this did it."""
    taken = await connection.execute(
        update(job)
        .where(job.c.id == job_id, job.c.gone.is_(None), job.c.state.in_(states))
        .values(
            gone=gone,
            purge_at=tombstone_until,
            idempotency_key=None,
            secret=None,
            version=job.c.version + 1,
        )
    )
    return bool(taken.rowcount)


async def clear(database: Database, blobs: BlobStore, job_id: str) -> None:
    """Removes the contents of a job that was taken away; of one that is purged, a row stays as a tombstone."""
    await _empty(database, blobs, job_id)

    async def work(connection: AsyncConnection, now: float) -> None:
        given_up = outbox.c.due_at.is_(None)  # the others are still to be told
        await connection.execute(delete(outbox).where(outbox.c.job == job_id, given_up))
        await connection.execute(delete(job).where(job.c.id == job_id, job.c.gone == "deleted"))
        kept = {"cleared": True, "options": b"", "metadata": msgspec.msgpack.encode({}), "error": None}
        await connection.execute(update(job).where(job.c.id == job_id, job.c.gone == "purged").values(kept))

    await database.write(work)


async def _has_ended(connection: AsyncConnection, job_id: str) -> bool:
    query = select(exists().where(job.c.id == job_id, job.c.state.in_(TERMINAL)))
    return bool((await connection.execute(query)).scalar_one())


async def _empty(database: Database, blobs: BlobStore, job_id: str) -> None:
    """Removes all items and results of a job, bit by bit."""

    async def last_seq(connection: AsyncConnection, now: float) -> int:
        query = select(func.max(result.c.seq)).where(result.c.job == job_id)
        last: int | None = (await connection.execute(query)).scalar_one()
        return -1 if last is None else last

    await blobs.clear(job_id)
    for start in range(0, await database.read(last_seq) + 1, _ROWS):
        await database.write(_forgetting(job_id, start))

    async def work(connection: AsyncConnection, now: float) -> None:
        for table in (chunk_input, chunk, retry, intent):
            await connection.execute(delete(table).where(table.c.job == job_id))

    await database.write(work)


def _forgetting(job_id: str, start: int) -> Any:
    async def work(connection: AsyncConnection, now: float) -> None:
        some = (result.c.seq >= start, result.c.seq < start + _ROWS)
        await connection.execute(delete(result).where(result.c.job == job_id, *some))

    return work
