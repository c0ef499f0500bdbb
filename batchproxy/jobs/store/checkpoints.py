"""Checkpoints: what became of items goes into the store, if who says so still has the lease.

The first result of an item stays; who comes later is told that his is dropped. Many checkpoints go into one
transaction: see `checkpointer.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, bindparam, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .blobs import BlobStore
from .database import Database
from .ending import advance
from .errors import StoreError
from .hints import WORK, Hints
from .ids import new_id
from .model import ItemResult, Lease, Parked, Verdict
from .points import Passing
from .settling import BlobRange, Bodies, forget_intents, settle_all, unpark
from .tables import chunk, intent, result, retry

# Made once: to make one takes longer than to run it.
_held = (
    select(chunk)
    .where(
        tuple_(chunk.c.job, chunk.c.no).in_(bindparam("places", expanding=True)),
        chunk.c.holder.is_not(None),
    )
    .order_by(chunk.c.job, chunk.c.no)  # so that two who lock several never wait for each other
    .with_for_update()
)
_known = select(result.c.seq, result.c.epoch).where(
    result.c.job == bindparam("of_job"), result.c.seq.in_(bindparam("seqs", expanding=True))
)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker says about items of one lease.

    `intended` are about to be sent, and must not be sent twice: after a crash they end `unknown`. `withdrawn` were
    intended, but certainly not sent. `parked` wait for another attempt.
    """

    lease: Lease
    results: tuple[ItemResult, ...] = ()
    parked: tuple[Parked, ...] = ()
    intended: tuple[int, ...] = ()
    withdrawn: tuple[int, ...] = ()


class Checkpoints:
    def __init__(self, database: Database, blobs: BlobStore, hints: Hints, passing: Passing) -> None:
        self._database = database
        self._blobs = blobs
        self._hints = hints
        self._passing = passing

    async def write(self, entries: Sequence[Entry]) -> list[Verdict]:
        """All of them in one transaction; a verdict for each. Raises `StoreError`."""
        return await self.commit(entries, await self.keep_bodies(entries))

    async def keep_bodies(self, entries: Iterable[Entry]) -> Bodies:
        """Puts large bodies where they belong: those of one job one after another, to be made durable at once."""
        large: dict[str, dict[int, bytes]] = {}
        for entry in entries:
            for each in entry.results:
                if len(each.body) > self._database.settings.inline_bytes:
                    large.setdefault(entry.lease.job, {})[each.seq] = each.body
        return {
            (job_id, seq): place
            for job_id, bodies in large.items()
            for seq, place in (await self._kept(job_id, bodies)).items()
        }

    async def commit(self, entries: Sequence[Entry], bodies: Bodies) -> list[Verdict]:
        merged = _merged(entries)

        async def work(connection: AsyncConnection, now: float) -> tuple[list[Verdict], set[str]]:
            return await self._commit(connection, now, entries, merged, bodies)

        self._passing("checkpoint.before_commit")
        verdicts, done = await self._database.write(work)
        self._passing("checkpoint.committed")
        await self._discard(entries, verdicts, bodies)
        self._hints.give(*{entry.lease.job for entry in entries}, *((WORK,) if done else ()))
        return verdicts

    async def _discard(self, entries: Sequence[Entry], verdicts: Sequence[Verdict], bodies: Bodies) -> None:
        """Removes bodies of jobs that a late worker has nothing to do with any more: they may be gone already."""
        held = {entry.lease.job for entry, verdict in zip(entries, verdicts, strict=True) if verdict.held}
        for job_id, name in {(job_id, place.name) for (job_id, _), place in bodies.items() if job_id not in held}:
            try:
                await self._blobs.writer(job_id, name).abort()
            except StoreError:
                pass  # it is removed along with the job, if that is still there

    async def _kept(self, job_id: str, bodies: dict[int, bytes]) -> dict[int, BlobRange]:
        name = f"results-{new_id()}"
        writer = self._blobs.writer(job_id, name)
        places = {}
        try:
            for seq, body in bodies.items():
                places[seq] = BlobRange(name, writer.size, len(body))
                await writer.write(body)
            await writer.commit()
        except BaseException:
            await writer.abort()
            raise
        return places

    async def _commit(
        self,
        connection: AsyncConnection,
        now: float,
        entries: Sequence[Entry],
        merged: dict[Lease, _Merged],
        bodies: Bodies,
    ) -> tuple[list[Verdict], set[str]]:
        rows = await held_rows(connection, list(merged))
        # Of a chunk that has none there is nothing to be looked for.
        there = await _there(connection, {lease: merged[lease].seqs for lease, row in rows.items() if row.done_n})
        writes = []
        for lease, row in rows.items():
            said, known = merged[lease], there.get(lease.job, {})
            results = [each for seq, each in said.results.items() if seq not in known]
            row = await _noted(connection, now, row, said, known)
            writes.append((row, results, lease.epoch))
        done = await settle_all(connection, writes, bodies)
        if done:
            is_more = await advance(connection, done, now)
            # Not for every checkpoint: a NOTIFY makes commits of the whole database wait for each other. And for every
            # chunk that ends all workers would ask for work of which there is no more than before.
            await self._hints.announce(connection, *([WORK] if is_more else ()), *sorted(done))
        return [_verdict(entry, rows, there.get(entry.lease.job, {})) for entry in entries], done


class _Merged:
    """What all entries of one lease say together.

    Of two results for one item the first counts; of what else was said of one, the last.
    """

    __slots__ = ("intended", "parked", "results", "withdrawn")

    def __init__(self) -> None:
        self.results: dict[int, ItemResult] = {}
        self.parked: dict[int, Parked] = {}
        self.intended: set[int] = set()
        self.withdrawn: set[int] = set()

    @property
    def seqs(self) -> set[int]:
        return self.results.keys() | self.parked.keys() | self.intended


def _merged(entries: Sequence[Entry]) -> dict[Lease, _Merged]:
    merged: dict[Lease, _Merged] = {}
    for entry in entries:
        said = merged.setdefault(entry.lease, _Merged())
        for each in entry.results:
            said.results.setdefault(each.seq, each)
        said.intended.update(entry.intended)
        said.withdrawn.update(entry.withdrawn)
        said.intended.difference_update(entry.withdrawn)
        for parked in entry.parked:
            said.parked[parked.seq] = parked
            said.intended.discard(parked.seq)
    for said in merged.values():
        for seq in said.results:
            said.parked.pop(seq, None)
            said.intended.discard(seq)
    return merged


async def held_rows(connection: AsyncConnection, leases: Sequence[Lease]) -> dict[Lease, Row[Any]]:
    """The chunks of those leases that are still held, locked."""
    wanted = {(lease.job, lease.chunk, lease.epoch): lease for lease in leases}
    places = list({(lease.job, lease.chunk) for lease in leases})
    rows = {(row.job, row.no, row.epoch): row for row in await connection.execute(_held, {"places": places})}
    return {wanted[place]: row for place, row in rows.items() if place in wanted}


async def _there(connection: AsyncConnection, asked: dict[Lease, set[int]]) -> dict[str, dict[int, int]]:
    """The epochs of results that are there already, by job and item."""
    wanted: dict[str, set[int]] = {}
    for lease, seqs in asked.items():
        wanted.setdefault(lease.job, set()).update(seqs)
    there = {}
    for job_id, seqs in wanted.items():
        if seqs:
            rows = await connection.execute(_known, {"of_job": job_id, "seqs": list(seqs)})
            there[job_id] = {row.seq: row.epoch for row in rows}
    return there


async def _noted(
    connection: AsyncConnection, now: float, row: Row[Any], said: _Merged, known: dict[int, int]
) -> Row[Any]:
    """Writes down intents and parked items; the row as it is then."""
    parked = {seq: each for seq, each in said.parked.items() if seq not in known}
    intended = said.intended - known.keys()
    not_sent = said.withdrawn | parked.keys()
    if not_sent and row.has_intents:
        await forget_intents(connection, row.job, sorted(not_sent))
    if not (parked or intended):
        return row
    if intended:
        await forget_intents(connection, row.job, sorted(intended))  # of this very lease, said twice
        await connection.execute(
            insert(intent), [{"job": row.job, "seq": seq, "chunk": row.no, "epoch": row.epoch} for seq in intended]
        )
    if parked:
        await unpark(connection, row, sorted(parked))
        await connection.execute(
            insert(retry),
            [
                {
                    "job": row.job,
                    "seq": seq,
                    "chunk": row.no,
                    "attempt": each.attempt,
                    "due_at": now + each.due_in,
                    "detail": each.detail,
                }
                for seq, each in parked.items()
            ],
        )
    place = (chunk.c.job == row.job) & (chunk.c.no == row.no)
    await connection.execute(
        update(chunk)
        .where(place)
        .values(parked_n=chunk.c.parked_n + len(parked), has_intents=bool(row.has_intents or intended))
    )
    return (await connection.execute(select(chunk).where(place))).one()


def _verdict(entry: Entry, rows: dict[Lease, Row[Any]], known: dict[int, int]) -> Verdict:
    if entry.lease not in rows:
        return Verdict(held=False)
    said = [each.seq for each in entry.results] + [each.seq for each in entry.parked] + [*entry.intended]
    # A result of this very epoch is our own, from a commit whose answer was lost.
    dropped = tuple(seq for seq in said if known.get(seq, entry.lease.epoch) != entry.lease.epoch)
    return Verdict(held=True, kept=tuple(seq for seq in said if seq not in dropped), dropped=dropped)
