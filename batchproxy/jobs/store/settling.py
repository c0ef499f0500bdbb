"""Writing results: each item gets one, and the counters of its chunk go along in the same transaction.

Knows: results, intents, parked items. Must not know: who may write them; the caller has locked the chunk and seen that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Row, bindparam, case, delete, insert, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .model import ItemResult, Outcome, Settled
from .tables import chunk, intent, result, retry

_headers = msgspec.msgpack.Encoder().encode


class BlobRange(NamedTuple):
    name: str
    start: int
    length: int


Bodies = Mapping[tuple[str, int], BlobRange]
"""Where the bodies lie that are too large for a row, by job and item."""

_COUNTERS = {
    Outcome.ERROR: "failed_n",
    Outcome.CANCELLED: "cancelled_n",
    Outcome.EXPIRED: "expired_n",
    Outcome.UNKNOWN: "unknown_n",
}
_COUNTED = ("done_n", *_COUNTERS.values(), "result_bytes")
_is_done = chunk.c.done_n + bindparam("add_done_n") >= chunk.c.n
_count = (
    update(chunk)
    .where(chunk.c.job == bindparam("of_job"), chunk.c.no == bindparam("of_no"))
    .values(
        **{name: chunk.c[name] + bindparam(f"add_{name}") for name in _COUNTED},
        due_at=case((_is_done, null()), else_=chunk.c.due_at),
        holder=case((_is_done, null()), else_=chunk.c.holder),
    )
)


def seqs(row: Row[Any]) -> range:
    """The items that a chunk had at first."""
    return range(row.first_seq, row.first_seq + row.span)


async def settled_in(connection: AsyncConnection, row: Row[Any]) -> dict[int, Settled]:
    each = result.c
    query = select(each.seq, each.outcome, each.status, each.failure).where(
        each.job == row.job, each.seq >= row.first_seq, each.seq < row.first_seq + row.span
    )
    return {
        found.seq: Settled(Outcome(found.outcome), found.status, found.failure)
        for found in await connection.execute(query)
    }


async def intended_in(connection: AsyncConnection, row: Row[Any]) -> set[int]:
    """Items that may have been sent, and have no result."""
    if not row.has_intents:
        return set()
    query = select(intent.c.seq).where(intent.c.job == row.job, intent.c.chunk == row.no)
    return {found.seq for found in await connection.execute(query)}


async def settle(connection: AsyncConnection, row: Row[Any], results: Sequence[ItemResult], *, epoch: int) -> bool:
    """Whether the chunk is done with it."""
    return row.job in await settle_all(connection, [(row, results, epoch)], {})


async def settle_all(
    connection: AsyncConnection, writes: Sequence[tuple[Row[Any], Sequence[ItemResult], int]], bodies: Bodies
) -> set[str]:
    """Writes the results of several chunks, each a locked row, with the epoch that they belong to.

    None of them may be there already. Returns the jobs of which a chunk is done now.
    """
    rows = [
        _row(row, each, ordinal, epoch, bodies.get((row.job, each.seq)))
        for row, results, epoch in writes
        for ordinal, each in enumerate(results, row.done_n + 1)
    ]
    if rows:
        await connection.execute(insert(result), rows)
    counts = [_counts(row, results) for row, results, _ in writes if results]
    if counts:
        await connection.execute(_count, counts)
    for row, results, _ in writes:
        settled = [each.seq for each in results]
        if row.has_intents:
            await forget_intents(connection, row.job, settled)
        if row.parked_n:
            await unpark(connection, row, settled)
    return {row.job for row, results, _ in writes if results and row.done_n + len(results) >= row.n}


async def forget_intents(connection: AsyncConnection, job_id: str, settled: Sequence[int]) -> None:
    await connection.execute(delete(intent).where(intent.c.job == job_id, intent.c.seq.in_(settled)))


async def unpark(connection: AsyncConnection, row: Row[Any], settled: Sequence[int]) -> None:
    gone = await connection.execute(delete(retry).where(retry.c.job == row.job, retry.c.seq.in_(settled)))
    if gone.rowcount:
        await connection.execute(
            update(chunk)
            .where(chunk.c.job == row.job, chunk.c.no == row.no)
            .values(parked_n=chunk.c.parked_n - gone.rowcount)
        )


def _row(row: Row[Any], each: ItemResult, ordinal: int, epoch: int, where: BlobRange | None) -> dict[str, Any]:
    return {
        "job": row.job,
        "seq": each.seq,
        "chunk": row.no,
        "ordinal": ordinal,
        "epoch": epoch,
        "outcome": each.outcome.value,
        "status": each.status,
        "custom_id": each.custom_id,
        "failure": None if each.failure is None else str(each.failure),
        "detail": _text(each.detail),
        "attempts": each.attempts,
        "started_at": each.started_at,
        "finished_at": each.finished_at,
        "headers": _headers(each.headers),
        "blob": where and where.name,
        "blob_start": where and where.start,
        "blob_length": where and where.length,
        "body": each.body if where is None else None,
    }


def _text(text: str) -> str:
    """As a database takes it: what somebody has put together of what a caller wrote may hold what none does."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _counts(row: Row[Any], results: Sequence[ItemResult]) -> dict[str, Any]:
    counts = dict.fromkeys((f"add_{name}" for name in _COUNTED), 0)
    for each in results:
        counts["add_done_n"] += 1
        counts["add_result_bytes"] += len(each.body)
        if each.outcome is not Outcome.OK:
            counts[f"add_{_COUNTERS[each.outcome]}"] += 1
    return {**counts, "of_job": row.job, "of_no": row.no}
