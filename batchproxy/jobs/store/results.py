"""Reading results, also before a job has ended: none is missed, none comes twice, whoever commits in which order.

In the order of the input they come up to the first item that has none yet. In the order of completion each comes when
it is there; of those that were there before the reader came, the order is only roughly that of time.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ...engine.model import Headers
from .blobs import BlobStore
from .cursors import CompletionCursor, InputCursor, opened, sealed
from .database import Database
from .model import ItemResult, Outcome, Page, Settled
from .reading import visible_row
from .states import TERMINAL
from .tables import chunk, result

_LOOK = 1000
"""How many results are looked at in one step, to find those that are asked for."""
_CHUNKS = 32
_PAGE_BYTES = 8 * 1024 * 1024

_headers = msgspec.msgpack.Decoder(Headers)
_short = (result.c.seq, result.c.chunk, result.c.ordinal, result.c.outcome, result.c.finished_at)


class Results:
    """`outcomes` are those that are asked for; none means all. Pages end early when their bodies are large.

    Raises `NotFound`, `Gone` and `BadCursor`.
    """

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    async def in_order(
        self,
        job_id: str,
        owner: str | None,
        *,
        after: str | None = None,
        limit: int = 100,
        outcomes: Collection[Outcome] = (),
    ) -> Page:
        """In the order of the input, up to the first item without a result."""
        cursor = InputCursor(job_id) if after is None else opened(after, InputCursor, job_id)

        async def work(connection: AsyncConnection, now: float) -> tuple[Row[Any], list[Row[Any]], int]:
            job = await visible_row(connection, job_id, owner)
            next_seq = cursor.next_seq
            chosen: list[int] = []
            while len(chosen) < limit:
                query = (
                    select(*_short)
                    .where(result.c.job == job_id, result.c.seq >= next_seq)
                    .order_by(result.c.seq)
                    .limit(_LOOK)
                )
                before = next_seq
                for row in await connection.execute(query):
                    if row.seq != next_seq or len(chosen) == limit:
                        break
                    next_seq += 1
                    if not outcomes or row.outcome in outcomes:
                        chosen.append(row.seq)
                if next_seq < before + _LOOK:
                    break
            return job, await _rows(connection, job_id, chosen), next_seq

        job, rows, next_seq = await self._database.read(work)
        results = await self._loaded(job_id, rows)
        if len(results) < len(rows):
            next_seq = results[-1].seq + 1
        is_complete = job.state in TERMINAL and next_seq >= job.total
        return Page(tuple(results), sealed(InputCursor(job_id, next_seq)), is_complete)

    async def in_completion_order(
        self,
        job_id: str,
        owner: str | None,
        *,
        after: str | None = None,
        limit: int = 100,
        outcomes: Collection[Outcome] = (),
    ) -> Page:
        """Each as soon as it is there."""
        cursor = CompletionCursor(job_id) if after is None else opened(after, CompletionCursor, job_id)

        async def work(
            connection: AsyncConnection, now: float
        ) -> tuple[Row[Any], Sequence[Row[Any]], list[Row[Any]], list[Row[Any]]]:
            job = await visible_row(connection, job_id, owner)
            chunks = (await connection.execute(_chunks(job_id, cursor.base))).all()
            passed: list[Row[Any]] = []
            chosen: list[int] = []
            unread = [each for each in chunks if cursor.read.get(each.no, 0) < each.done_n][:_CHUNKS]
            if unread:
                rows = (await connection.execute(_news(job_id, unread, cursor))).all()
                for row in _by_time(rows):
                    if len(chosen) == limit:
                        break
                    passed.append(row)
                    if not outcomes or row.outcome in outcomes:
                        chosen.append(row.seq)
            return job, chunks, passed, await _rows(connection, job_id, chosen)

        job, chunks, passed, rows = await self._database.read(work)
        results = await self._loaded(job_id, rows)
        if len(results) < len(rows):
            last = results[-1].seq
            passed = passed[: 1 + next(n for n, row in enumerate(passed) if row.seq == last)]
        moved = _moved(cursor, chunks, passed)
        is_read = all(_is_read(each, moved) for each in chunks)
        return Page(tuple(results), sealed(moved), job.state in TERMINAL and is_read)

    async def of(self, job_id: str, seqs: Collection[int]) -> list[ItemResult]:
        """The results of some items, for others that depend on them; nothing for those that have none."""

        async def work(connection: AsyncConnection, now: float) -> list[Row[Any]]:
            query = select(result).where(result.c.job == job_id, result.c.seq.in_(seqs)).order_by(result.c.seq)
            return list(await connection.execute(query))

        return [await self._whole(job_id, row) for row in await self._database.read(work)]

    async def settled(self, job_id: str) -> dict[int, Settled]:
        """What is known of all items that have a result, without their answers."""
        each = result.c
        query = select(each.seq, each.outcome, each.status, each.failure).where(each.job == job_id)

        async def work(connection: AsyncConnection, now: float) -> dict[int, Settled]:
            rows = await connection.execute(query)
            return {row.seq: Settled(Outcome(row.outcome), row.status, row.failure) for row in rows}

        return await self._database.read(work)

    async def seqs(self, job_id: str, start: int, end: int, outcomes: Collection[Outcome]) -> list[int]:
        """The items from `start` to before `end` that have one of these outcomes."""
        query = (
            select(result.c.seq)
            .where(result.c.job == job_id, result.c.seq >= start, result.c.seq < end, result.c.outcome.in_(outcomes))
            .order_by(result.c.seq)
        )

        async def work(connection: AsyncConnection, now: float) -> list[int]:
            return [row.seq for row in await connection.execute(query)]

        return await self._database.read(work)

    async def _loaded(self, job_id: str, rows: Iterable[Row[Any]]) -> list[ItemResult]:
        """As many as fit into a page, with their bodies."""
        results: list[ItemResult] = []
        size = 0
        for row in rows:
            length = len(row.body) if row.blob is None else row.blob_length
            if results and size + length > _PAGE_BYTES:
                break
            size += length
            results.append(await self._whole(job_id, row))
        return results

    async def _whole(self, job_id: str, row: Row[Any]) -> ItemResult:
        if row.blob is None:
            return _result(row, row.body)
        return _result(row, await self._blobs.read(job_id, row.blob, row.blob_start, row.blob_length))


def _chunks(job_id: str, base: int) -> Any:
    each = chunk.c
    columns = (each.no, each.first_seq, each.span, each.n, each.done_n, each.due_at)
    return select(*columns).where(each.job == job_id, each.no >= base).order_by(each.no)


def _news(job_id: str, unread: Sequence[Row[Any]], cursor: CompletionCursor) -> Any:
    """The results of some chunks that were not read, those of each in the order of their commits."""
    each = result.c
    of_chunks = [
        and_(
            each.seq >= row.first_seq,
            each.seq < row.first_seq + row.span,
            each.chunk == row.no,
            each.ordinal > cursor.read.get(row.no, 0),
            each.ordinal <= row.done_n,
        )
        for row in unread
    ]
    return select(*_short).where(each.job == job_id, or_(*of_chunks)).order_by(each.chunk, each.ordinal)


def _by_time(rows: Sequence[Row[Any]]) -> Iterable[Row[Any]]:
    """Merged by time as far as the order inside of each chunk lets it."""
    of_chunk: dict[int, list[Row[Any]]] = {}
    for row in rows:
        of_chunk.setdefault(row.chunk, []).append(row)
    return heapq.merge(*of_chunk.values(), key=lambda row: (row.finished_at, row.chunk))


def _moved(cursor: CompletionCursor, chunks: Sequence[Row[Any]], passed: Sequence[Row[Any]]) -> CompletionCursor:
    read = {**cursor.read, **{row.chunk: row.ordinal for row in passed}}
    base = cursor.base
    for row in chunks:
        if row.no != base or row.due_at is not None or read.get(base, 0) < row.done_n:
            break
        read.pop(base, None)
        base += 1
    return CompletionCursor(cursor.job, base, read)


def _is_read(row: Row[Any], cursor: CompletionCursor) -> bool:
    return bool(row.no < cursor.base or cursor.read.get(row.no, 0) >= row.done_n)


async def _rows(connection: AsyncConnection, job_id: str, seqs: Sequence[int]) -> list[Row[Any]]:
    """The whole rows, in the order of `seqs`."""
    if not seqs:
        return []
    query = select(result).where(result.c.job == job_id, result.c.seq.in_(seqs))
    rows = {row.seq: row for row in await connection.execute(query)}
    return [rows[seq] for seq in seqs]


def _result(row: Row[Any], body: bytes) -> ItemResult:
    return ItemResult(
        seq=row.seq,
        outcome=Outcome(row.outcome),
        status=row.status,
        headers=_headers.decode(row.headers),
        body=body,
        custom_id=row.custom_id,
        failure=row.failure,
        detail=row.detail,
        attempts=row.attempts,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
