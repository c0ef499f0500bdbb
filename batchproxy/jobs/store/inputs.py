"""The items of a job, as they were submitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .blobs import BlobStore
from .database import Database
from .errors import Gone
from .model import Claim
from .packing import unpacked
from .tables import chunk, chunk_input


class Inputs:
    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    async def items(self, claim: Claim) -> dict[int, bytes]:
        """Those of the claimed items that have no result yet, by number. Raises `Gone`."""
        there = await self.chunk(claim.lease.job, claim.lease.chunk)
        return {seq: there[seq] for seq in claim.open_seqs}

    async def chunk(self, job_id: str, no: int) -> dict[int, bytes]:
        """All items that a chunk had at first, by number. Raises `Gone`."""

        async def work(connection: AsyncConnection, now: float) -> tuple[Row[Any], bytes | None]:
            query = select(chunk).where(chunk.c.job == job_id, chunk.c.no == no)
            row = (await connection.execute(query)).one_or_none()
            if row is None:
                raise Gone(f"There is no chunk {no} of the job {job_id} any more.")
            lying = select(chunk_input.c.data).where(chunk_input.c.job == job_id, chunk_input.c.no == row.input_no)
            return row, (await connection.execute(lying)).scalar_one_or_none()

        row, data = await self._database.read(work)
        if row.blob is not None:
            data = await self._blobs.read(job_id, row.blob, row.blob_start, row.blob_length)
        if data is None:
            raise Gone(f"The items of the job {job_id} are not there any more.")
        items = unpacked(data)[row.input_skip : row.input_skip + row.span]
        return dict(enumerate(items, row.first_seq))

    async def chunk_numbers(self, job_id: str) -> Sequence[int]:
        """The chunks as they were submitted, in the order of their items."""
        query = (
            select(chunk.c.no)
            .where(chunk.c.job == job_id, chunk.c.no >= 0, chunk.c.no == chunk.c.input_no)
            .order_by(chunk.c.no)
        )

        async def work(connection: AsyncConnection, now: float) -> Sequence[int]:
            return [row.no for row in await connection.execute(query)]

        return await self._database.read(work)
