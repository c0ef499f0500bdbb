"""Jobs as records: one, or a list of an owner's, with their counts."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Row, bindparam, case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .database import Database
from .errors import BadCursor, Gone, NotFound
from .model import Counts, Job, JobPage
from .states import STOPPING, TERMINAL, JobState
from .tables import chunk, job

VISIBLE = (job.c.state != JobState.STORING) & job.c.gone.is_(None)
_encode = msgspec.msgpack.encode
# Made once: to make one takes longer than to run it.
_job = select(job).where(job.c.id == bindparam("of_job"))
_is_leased = chunk.c.holder.is_not(None) & (chunk.c.due_at > bindparam("now"))
_sums = (
    select(
        chunk.c.job,
        func.sum(chunk.c.done_n),
        func.sum(chunk.c.failed_n),
        func.sum(chunk.c.cancelled_n),
        func.sum(chunk.c.expired_n),
        func.sum(chunk.c.unknown_n),
        func.sum(case((_is_leased, chunk.c.n - chunk.c.done_n - chunk.c.parked_n), else_=0)),
        func.sum(chunk.c.parked_n),
    )
    .where(chunk.c.job.in_(bindparam("jobs", expanding=True)))
    .group_by(chunk.c.job)
)


class Jobs:
    """Every question names the owner; None is the worker or the operator, who sees all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, job_id: str, owner: str | None) -> Job:
        """Raises `NotFound`, and `Gone` for one whose time is over."""

        async def work(connection: AsyncConnection, now: float) -> Job:
            return await found(connection, job_id, owner, now)

        return await self._database.read(work)

    async def list(
        self,
        owner: str | None,
        *,
        states: Collection[JobState] = (),
        kind: str | None = None,
        before: str | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> JobPage:
        """The newest first. `before` is the id of a job: only older ones. `after` is the cursor of the page before.

        Raises `BadCursor`.
        """
        conditions: list[ColumnElement[bool]] = [VISIBLE]
        if owner is not None:
            conditions.append(job.c.owner == owner)
        if states:
            conditions.append(job.c.state.in_(states))
        if kind is not None:
            conditions.append(job.c.kind == kind)
        if before is not None:
            conditions.append(job.c.id < before)  # ids are in the order of their times
        if after is not None:
            conditions.append(job.c.id < _opened(after))
        query = select(job).where(*conditions).order_by(job.c.id.desc()).limit(limit + 1)

        async def work(connection: AsyncConnection, now: float) -> JobPage:
            rows = (await connection.execute(query)).all()
            shown = rows[:limit]
            counts = await counted(connection, [row for row in shown if row.counts is None], now)
            jobs = tuple(job_of(row, counts.get(row.id)) for row in shown)
            return JobPage(jobs, _sealed(shown[-1].id) if len(rows) > limit else None)

        return await self._database.read(work)

    async def stopping(self, job_ids: Collection[str]) -> set[str]:
        """Those of the jobs of which nothing more is to be begun: they are cancelled, expired, ended or gone."""
        query = select(job.c.id).where(
            job.c.id.in_(job_ids), job.c.state.not_in([*STOPPING, *TERMINAL]), job.c.gone.is_(None)
        )

        async def work(connection: AsyncConnection, now: float) -> set[str]:
            return set(job_ids) - {row.id for row in await connection.execute(query)}

        return await self._database.read(work) if job_ids else set()


async def visible_row(connection: AsyncConnection, job_id: str, owner: str | None) -> Row[Any]:
    """Raises `NotFound` and `Gone`."""
    row = (await connection.execute(_job, {"of_job": job_id})).one_or_none()
    if row is None or row.state == JobState.STORING or row.gone == "deleted" or owner not in (None, row.owner):
        raise NotFound(f"There is no job {job_id}.")
    if row.gone is not None:
        raise Gone(f"The job {job_id} has been removed, for its time is over.")
    return row


async def found(connection: AsyncConnection, job_id: str, owner: str | None, now: float) -> Job:
    row = await visible_row(connection, job_id, owner)
    counts = await counted(connection, [row] if row.counts is None else [], now)
    return job_of(row, counts.get(row.id))


async def counted(connection: AsyncConnection, rows: Sequence[Row[Any]], now: float) -> Mapping[str, Counts]:
    """The sums over the chunks of open jobs."""
    if not rows:
        return {}
    found = await connection.execute(_sums, {"jobs": [row.id for row in rows], "now": now})
    sums = {row[0]: [int(value) for value in row[1:]] for row in found}
    return {row.id: Counts(row.total, *sums.get(row.id, ())) for row in rows}


def job_of(row: Row[Any], counts: Counts | None) -> Job:
    return Job(
        id=row.id,
        kind=row.kind,
        owner=row.owner,
        state=JobState(row.state),
        ending=None if row.ending is None else JobState(row.ending),
        endpoint=row.endpoint,
        total=row.total,
        options=row.options,
        metadata=msgspec.msgpack.decode(row.metadata, type=dict[str, str]),
        secret=row.secret,
        priority=row.priority,
        created_at=row.created_at,
        started_at=row.started_at,
        finalizing_at=row.finalizing_at,
        cancel_requested_at=row.cancel_requested_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
        purge_at=row.purge_at,
        input_file=row.input_file,
        output_file=row.output_file,
        error_file=row.error_file,
        error=row.error,
        retry_of=row.retry_of,
        stored_bytes=row.stored_bytes,
        version=row.version,
        counts=counts if counts is not None else msgspec.msgpack.decode(row.counts, type=Counts),
    )


def _sealed(job_id: str) -> str:
    return urlsafe_b64encode(_encode(job_id)).rstrip(b"=").decode()


def _opened(cursor: str) -> str:
    try:
        return str(msgspec.msgpack.decode(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=UUID))
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise BadCursor("The cursor is not one that was given out.") from None
