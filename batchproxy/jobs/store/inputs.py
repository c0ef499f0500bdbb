"""The items of a job, as they were submitted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, Select, bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .blobs import BlobStore
from .database import Database
from .errors import Gone
from .model import Claim, Counts, Job
from .packing import unpacked
from .reading import job_of, visible_row
from .tables import chunk, chunk_input

_chunk = select(chunk).where(chunk.c.job == bindparam("of_job"), chunk.c.no == bindparam("of_no"))
_data = select(chunk_input.c.data).where(
    chunk_input.c.job == bindparam("of_job"), chunk_input.c.no == bindparam("of_no")
)


class Inputs:
    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    async def items(self, claim: Claim) -> dict[int, bytes]:
        """Those of the claimed items that have no result yet, by number. Raises `Gone`."""
        there = await self.chunk(claim.lease.job, claim.lease.chunk)
        return {seq: there[seq] for seq in claim.open_seqs}

    async def around(self, claim: Claim) -> tuple[Job, dict[int, bytes]]:
        """The job, its counts left out, and the items among which those that are claimed belong, by number.

        These are all that the chunk had at first; and of a chunk that was split, because of an item with which workers
        were lost, all of the job, if that had no other chunk: they may wait for each other. Raises `NotFound`, `Gone`.
        """
        job_id, no = claim.lease.job, claim.lease.chunk

        async def work(connection: AsyncConnection, now: float) -> tuple[Job, Row[Any], bytes | None]:
            job = await visible_row(connection, job_id, None)
            row = await _chunk_row(connection, job_id, no)
            if row.no != row.input_no:
                first = list(await connection.execute(_as_submitted(job_id).limit(2)))
                if len(first) == 1:
                    row = await _chunk_row(connection, job_id, first[0].no)
            return job_of(job, Counts(job.total)), row, await _lying(connection, row)

        job, row, data = await self._database.read(work)
        return job, await self._unpacked(row, data)

    async def chunk(self, job_id: str, no: int) -> dict[int, bytes]:
        """All items that a chunk had at first, by number. Raises `Gone`."""

        async def work(connection: AsyncConnection, now: float) -> tuple[Row[Any], bytes | None]:
            row = await _chunk_row(connection, job_id, no)
            return row, await _lying(connection, row)

        return await self._unpacked(*await self._database.read(work))

    async def _unpacked(self, row: Row[Any], data: bytes | None) -> dict[int, bytes]:
        job_id = row.job
        if row.blob is not None:
            data = await self._blobs.read(job_id, row.blob, row.blob_start, row.blob_length)
        if data is None:
            raise Gone(f"The items of the job {job_id} are not there any more.")
        items = unpacked(data)[row.input_skip : row.input_skip + row.span]
        return dict(enumerate(items, row.first_seq))

    async def some(self, job_id: str, seqs: Collection[int]) -> dict[int, bytes]:
        """Some items of a job, by number. Raises `Gone`."""
        query = _as_submitted(job_id).where(
            chunk.c.first_seq <= max(seqs), chunk.c.first_seq + chunk.c.span > min(seqs)
        )

        async def work(connection: AsyncConnection, now: float) -> Sequence[int]:
            return [row.no for row in await connection.execute(query)]

        found: dict[int, bytes] = {}
        for no in await self._database.read(work):
            items = await self.chunk(job_id, no)
            found.update((seq, items[seq]) for seq in seqs if seq in items)
        return found

    async def chunk_numbers(self, job_id: str) -> Sequence[int]:
        """The chunks as they were submitted, in the order of their items."""

        async def work(connection: AsyncConnection, now: float) -> Sequence[int]:
            return [row.no for row in await connection.execute(_as_submitted(job_id))]

        return await self._database.read(work)


def _as_submitted(job_id: str) -> Select[tuple[int]]:
    return (
        select(chunk.c.no)
        .where(chunk.c.job == job_id, chunk.c.no >= 0, chunk.c.no == chunk.c.input_no)
        .order_by(chunk.c.no)
    )


async def _chunk_row(connection: AsyncConnection, job_id: str, no: int) -> Row[Any]:
    """Raises `Gone`."""
    row = (await connection.execute(_chunk, {"of_job": job_id, "of_no": no})).one_or_none()
    if row is None:
        raise Gone(f"There is no chunk {no} of the job {job_id} any more.")
    return row


async def _lying(connection: AsyncConnection, row: Row[Any]) -> bytes | None:
    """The input of a chunk, if it is small enough to be in the row."""
    found = await connection.execute(_data, {"of_job": row.job, "of_no": row.input_no})
    data: bytes | None = found.scalar_one_or_none()
    return data
