"""How jobs end: all items have a result, or a cancellation, a deadline, a failure came before.

    the last item settles ──┐
    cancel ─────────────────┼─▶ a piece of work `Kind.FINALIZE` ─▶ settle_rest ─▶ (files) ─▶ finish
    deadline ───────────────┘

Whoever has the lease on it does these steps; each can be done again by the next if it is lost in between, and `finish`
is one transaction, fenced by the lease: the end comes once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, bindparam, delete, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .database import Database
from .errors import LeaseLost, WrongState
from .filling import FRESH
from .hints import OUTBOX, WORK, Hints
from .model import ItemResult, Job, Kind, Lease, Outcome
from .outbox import Message, put
from .points import Passing
from .reading import counted, found, visible_row
from .settling import intended_in, seqs, settle, settled_in
from .states import STOPPABLE, STOPPING, JobState, before
from .tables import chunk, chunk_input, job

_RESTS = 10
"""How many chunks get the results that are missing in one transaction."""
_EXPIRED_AT_ONCE = 100


_of_job = select(job).where(job.c.id == bindparam("of_job")).with_for_update()
_has_open = select(exists().where(chunk.c.job == bindparam("of_job"), chunk.c.no >= 0, chunk.c.due_at.is_not(None)))


class Ending:
    def __init__(self, database: Database, hints: Hints, passing: Passing) -> None:
        self._database = database
        self._hints = hints
        self._passing = passing

    async def cancel(self, job_id: str, owner: str | None) -> Job:
        """Asks for the end of a job; of one that ends already or has ended, nothing changes. Raises `NotFound`."""

        async def work(connection: AsyncConnection, now: float) -> Job:
            await visible_row(connection, job_id, owner)
            changed = {"ending": JobState.CANCELLED, "cancel_requested_at": now}
            if await _stop(connection, job_id, JobState.CANCELLING, now, changed):
                await self._hints.announce(connection, WORK, job_id)
            return await found(connection, job_id, owner, now)

        cancelled = await self._database.write(work)
        self._hints.give(WORK, job_id)
        return cancelled

    async def expire(self) -> list[str]:
        """Begins the end of jobs whose deadline is over; their ids."""
        query = (
            select(job.c.id)
            .where(job.c.state.in_(STOPPABLE), job.c.expires_at.is_not(None))
            .order_by(job.c.expires_at)
            .limit(_EXPIRED_AT_ONCE)
        )

        async def work(connection: AsyncConnection, now: float) -> list[str]:
            changed = {"ending": JobState.EXPIRED, "finalizing_at": now}
            due = [row.id for row in await connection.execute(query.where(job.c.expires_at <= now))]
            expired = [each for each in due if await _stop(connection, each, JobState.FINALIZING, now, changed)]
            if expired:
                await self._hints.announce(connection, WORK, *expired)
            return expired

        expired = await self._database.write(work)
        if expired:
            self._hints.give(WORK, *expired)
        return expired

    async def settle_rest(self, lease: Lease) -> None:
        """Gives every item without a result the one that fits the end. Raises `LeaseLost`.

        Raises `WrongState` if a worker has some of them after all: it claimed them in the moment in which the end
        began, or has found back to them. Then the lease is to be released; the next one waits for that worker.
        """
        while await self._database.write(lambda connection, now: self._settle_some(connection, now, lease)):
            self._passing("finalize.settled")

    async def finish(
        self,
        lease: Lease,
        *,
        output_file: str | None = None,
        error_file: str | None = None,
        messages: Sequence[Message] = (),
    ) -> Job:
        """The terminal state, what is told about it, and how long it is kept. Raises `LeaseLost`.

        Raises `WrongState` if an item has no result yet: `settle_rest` comes first.
        """
        values = {"output_file": output_file, "error_file": error_file}

        async def work(connection: AsyncConnection, now: float) -> Job:
            await held(connection, lease)
            if await _has_open_items(connection, lease.job):
                raise WrongState(f"Items of the job {lease.job} have no result yet.")
            row = await locked(connection, lease.job)
            return await self._end(connection, now, lease, JobState(row.ending), values, messages)

        return await self._ended(work, messages)

    async def fail(self, lease: Lease, error: bytes | None, *, messages: Sequence[Message] = ()) -> Job:
        """The end of a job that is not valid, or that cannot be brought to another. Raises `LeaseLost`."""

        async def work(connection: AsyncConnection, now: float) -> Job:
            await held(connection, lease)
            row = await locked(connection, lease.job)
            if row.state not in before(JobState.FAILED):
                raise WrongState(f"The job {lease.job} is {row.state}.")
            if lease.kind is Kind.VALIDATE:
                await drop_items(connection, lease.job)
            return await self._end(connection, now, lease, JobState.FAILED, {"error": error}, messages)

        return await self._ended(work, messages)

    async def _ended(self, work: Any, messages: Sequence[Message]) -> Job:
        self._passing("finalize.before_commit")
        ended: Job = await self._database.write(work)
        self._passing("finalize.committed")
        self._hints.give(ended.id, *_topics(messages))
        return ended

    async def _settle_some(self, connection: AsyncConnection, now: float, lease: Lease) -> bool:
        """Whether there may be more."""
        await held(connection, lease)
        row = await locked(connection, lease.job)
        if row.total == 0:
            await drop_items(connection, lease.job)  # its validation did not come to an end: there never were items
            return False
        outcome = Outcome.CANCELLED if row.ending == JobState.CANCELLED else Outcome.EXPIRED
        query = (
            select(chunk)
            .where(chunk.c.job == lease.job, chunk.c.no >= 0, chunk.c.due_at.is_not(None))
            .order_by(chunk.c.no)
            .limit(_RESTS)
            .with_for_update()
        )
        rows = (await connection.execute(query)).all()
        if any(each.holder is not None and each.due_at > now for each in rows):
            raise WrongState(f"A worker still has items of the job {lease.job}.")
        for each in rows:
            there = await settled_in(connection, each)
            sent = await intended_in(connection, each)
            results = [
                ItemResult(seq=seq, outcome=Outcome.UNKNOWN if seq in sent else outcome, attempts=0, finished_at=now)
                for seq in seqs(each)
                if seq not in there
            ]
            await settle(connection, each, results, epoch=each.epoch + 1)
        return len(rows) == _RESTS

    async def _end(
        self,
        connection: AsyncConnection,
        now: float,
        lease: Lease,
        state: JobState,
        values: dict[str, Any],
        messages: Sequence[Message],
    ) -> Job:
        row = await locked(connection, lease.job)
        await connection.execute(
            update(chunk).where(chunk.c.job == lease.job, chunk.c.no < 0).values(due_at=None, holder=None)
        )
        counts = (await counted(connection, [row], now))[lease.job]
        sizes = select(func.coalesce(func.sum(chunk.c.result_bytes), 0)).where(chunk.c.job == lease.job)
        size = int((await connection.execute(sizes)).scalar_one())
        await connection.execute(
            update(job)
            .where(job.c.id == lease.job, job.c.state.in_(before(state)))
            .values(
                **values,
                state=state,
                ending=state,
                version=job.c.version + 1,
                finished_at=now,
                purge_at=now + row.keep,
                secret=None,
                counts=msgspec.msgpack.encode(counts),
                stored_bytes=job.c.stored_bytes + size,
            )
        )
        await put(connection, now, lease.job, row.owner, messages)
        await self._hints.announce(connection, lease.job, *_topics(messages))
        return await found(connection, lease.job, None, now)


def _topics(messages: Sequence[Message]) -> tuple[str, ...]:
    """Of those who have something to do because a job has ended: workers have not."""
    return (OUTBOX,) if messages else ()


async def advance(connection: AsyncConnection, job_ids: Collection[str], now: float) -> bool:
    """Begins the end of jobs that have nothing left to do, now that work of theirs has ended.

    Whether there may be something to claim because of this.
    """
    is_more = False
    for job_id in sorted(job_ids):
        # Of two workers that end the last two chunks at once, the second sees what the first did.
        row = await locked(connection, job_id)
        if row.state in STOPPING:
            is_more = True
            # Whoever claims it looks whether somebody else still has items of it.
            await connection.execute(
                update(chunk)
                .where(chunk.c.job == job_id, chunk.c.no == Kind.FINALIZE, chunk.c.holder.is_(None))
                .values(due_at=now)
            )
        elif row.state in (JobState.QUEUED, JobState.RUNNING) and not await _has_open_items(connection, job_id):
            is_more = True
            await _stop(
                connection, job_id, JobState.FINALIZING, now, {"ending": JobState.COMPLETED, "finalizing_at": now}
            )
    return is_more


def stage_row(job_id: str, owner: str, kind: Kind, due_at: float) -> dict[str, Any]:
    """Work that is not items, as a chunk without any."""
    row = {"job": job_id, "no": kind, "owner": owner, "first_seq": 0, "span": 0, "n": 0, "due_at": due_at}
    return FRESH | row | {"input_no": kind, "input_skip": 0}


async def held(connection: AsyncConnection, lease: Lease) -> Row[Any]:
    """The chunk of a lease, locked. Raises `LeaseLost`."""
    query = select(chunk).where(chunk.c.job == lease.job, chunk.c.no == lease.chunk).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None or row.holder is None or row.epoch != lease.epoch:
        raise LeaseLost(f"Somebody else has chunk {lease.chunk} of job {lease.job} now, or it has ended.")
    return row


async def postponed(connection: AsyncConnection, job_id: str, now: float) -> float | None:
    """Until when the end of a job waits for workers that still have items of it; None if it need not."""
    leased = (chunk.c.job == job_id) & (chunk.c.no > Kind.FINALIZE) & chunk.c.holder.is_not(None)
    query = select(func.max(chunk.c.due_at)).where(leased, chunk.c.due_at > now)
    until: float | None = (await connection.execute(query)).scalar_one()
    return until


async def drop_items(connection: AsyncConnection, job_id: str) -> None:
    """Of a job whose items are not complete. What lies in blobs is removed along with the job."""
    await connection.execute(delete(chunk).where(chunk.c.job == job_id, chunk.c.no >= 0))
    await connection.execute(delete(chunk_input).where(chunk_input.c.job == job_id))


async def _stop(connection: AsyncConnection, job_id: str, state: JobState, now: float, values: dict[str, Any]) -> bool:
    """Whether the job has left the states that can be stopped because of this."""
    left = await connection.execute(
        update(job)
        .where(job.c.id == job_id, job.c.state.in_(STOPPABLE & set(before(state))), job.c.gone.is_(None))
        .values(state=state, version=job.c.version + 1, **values)
    )
    if left.rowcount == 0:
        return False
    row = await locked(connection, job_id)
    until = await postponed(connection, job_id, now)
    await connection.execute(insert(chunk), stage_row(job_id, row.owner, Kind.FINALIZE, until or now))
    return True


async def locked(connection: AsyncConnection, job_id: str) -> Row[Any]:
    """The row of a job, to which nobody else does anything until this transaction ends."""
    return (await connection.execute(_of_job, {"of_job": job_id})).one()


async def _has_open_items(connection: AsyncConnection, job_id: str) -> bool:
    return bool((await connection.execute(_has_open, {"of_job": job_id})).scalar_one())
