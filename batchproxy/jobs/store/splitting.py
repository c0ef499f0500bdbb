"""Splitting a chunk with which worker after worker was lost, until it is known with which of its items.

Knows: chunks, their inputs, parked items. Must not know: leases, how many workers are too many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

from sqlalchemy import Row, bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .ending import locked
from .filling import FRESH
from .tables import chunk, retry

_APART = 256
"""A chunk of up to so many items is split into single ones at once."""


async def split(connection: AsyncConnection, row: Row[Any], left: Sequence[int], now: float) -> Row[Any]:
    """What is left becomes chunks of their own, in the end of single items; the row of the old one, which has only
    the others."""
    # Of two workers that split chunks of one job at once, the second sees which numbers the first took; and the end
    # of the job, if that has begun meanwhile, sees all of them.
    await locked(connection, row.job)
    last = select(func.max(chunk.c.no)).where(chunk.c.job == row.job)
    first_no = (await connection.execute(last)).scalar_one() + 1
    kept = {name: getattr(row, name) for name in ("job", "owner", "input_no", "blob", "blob_start", "blob_length")}
    parts = {no: part for no, part in enumerate(_parts(row.span, left), first_no)}
    children = []
    for no, part in parts.items():
        span = part[-1] - part[0] + 1
        child = {"no": no, "first_seq": part[0], "span": span, "n": len(part), "due_at": now}
        # Who claims one with items that have results has to look for them, as in one that somebody had before.
        child |= {"epoch": 0 if span == len(part) else row.epoch}
        children.append(FRESH | kept | child | {"input_skip": row.input_skip + part[0] - row.first_seq})
    await connection.execute(insert(chunk), children)
    of_chunk = (chunk.c.job == row.job) & (chunk.c.no == row.no)
    await connection.execute(update(chunk).where(of_chunk).values(n=row.n - len(left), lost=0))
    await _move_parked(connection, row, parts)
    return (await connection.execute(select(chunk).where(of_chunk))).one()


async def _move_parked(connection: AsyncConnection, row: Row[Any], parts: Mapping[int, Sequence[int]]) -> None:
    """Items that wait for another attempt do so in their new chunks."""
    to = {seq: no for no, part in parts.items() for seq in part}
    waiting = select(retry.c.seq).where(retry.c.job == row.job, retry.c.seq.in_(to))
    parked = {found.seq: to[found.seq] for found in await connection.execute(waiting)}
    if not parked:
        return
    moved = update(retry).where(retry.c.job == row.job, retry.c.seq == bindparam("of_seq"))
    await connection.execute(
        moved.values(chunk=bindparam("to_chunk")), [{"of_seq": seq, "to_chunk": no} for seq, no in parked.items()]
    )
    counted = update(chunk).where(chunk.c.job == row.job, chunk.c.no == bindparam("of_no"))
    await connection.execute(
        counted.values(parked_n=bindparam("to_parked")),
        [{"of_no": no, "to_parked": n} for no, n in Counter(parked.values()).items()],
    )
    left_over = chunk.c.parked_n - len(parked)  # those that end `unknown` in their second attempt
    await connection.execute(
        update(chunk).where(chunk.c.job == row.job, chunk.c.no == row.no).values(parked_n=left_over)
    )


def _parts(span: int, left: Sequence[int]) -> list[Sequence[int]]:
    """How a chunk is split that workers are lost with: into single items, but for a large one. Each part of that has to
    be read along with all the others, if its items wait for each other: so it comes to single ones in two steps."""
    size = 1 if span <= _APART else isqrt(len(left))
    return [left[start : start + size] for start in range(0, len(left), size)]
