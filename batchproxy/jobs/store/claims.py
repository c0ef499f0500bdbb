"""Leases: who may work on which chunk, and until when.

Claiming a chunk gives it a higher epoch. All that its worker says later names that epoch, and is worth nothing once
somebody else has claimed the chunk or it was released. Leases are renewed one by one, by those who really work on them:
a worker that has lost sight of a chunk must not keep it.

Knows: what may be claimed, and in which order. Must not know: what workers do with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, case, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .checkpoints import held_rows
from .database import Database
from .ending import advance, postponed
from .hints import WORK, Hints
from .model import WORKER_LOST, Claim, ItemResult, Kind, Lease, Outcome, Parked, Renewal
from .points import Passing
from .settling import intended_in, seqs, settle, settled_in
from .splitting import split
from .states import STOPPING, TERMINAL, JobState
from .tables import chunk, job, retry
from .turns import Candidate, shares

_CANDIDATES = 256
"""How many jobs are looked at for one claim."""

_KINDS: tuple[tuple[Collection[JobState], ColumnElement[bool]], ...] = (
    ((JobState.QUEUED, JobState.RUNNING), chunk.c.no >= 0),
    ((JobState.VALIDATING,), chunk.c.no == Kind.VALIDATE),
    (tuple(STOPPING), chunk.c.no == Kind.FINALIZE),
)
"""Which work there is for a job in which state."""

_grant = (
    update(chunk)
    .where(chunk.c.job == bindparam("of_job"), chunk.c.no == bindparam("of_no"))
    .values(
        holder=bindparam("to_holder"),
        due_at=bindparam("to_due_at"),
        epoch=bindparam("to_epoch"),
        lost=bindparam("to_lost"),
        has_intents=False,
    )
)
_renew = (
    update(chunk)
    .where(chunk.c.job == bindparam("of_job"), chunk.c.no == bindparam("of_no"))
    .values(due_at=bindparam("to_due_at"))
)
_blame = update(chunk).where(chunk.c.job == bindparam("of_job"), chunk.c.no == bindparam("of_no"))
_release = (
    update(chunk)
    .where(chunk.c.job == bindparam("of_job"), chunk.c.no == bindparam("of_no"))
    .values(holder=None, due_at=bindparam("to_due_at"))
)


class Claims:
    def __init__(self, database: Database, hints: Hints, passing: Passing) -> None:
        self._database = database
        self._hints = hints
        self._passing = passing

    async def claim(self, worker: str, want: int = 1, *, kinds: Collection[Kind] = tuple(Kind)) -> list[Claim]:
        """At most `want` chunks, each for `lease` seconds; fair between owners, then between jobs of one owner.

        Of chunks that a lost worker had, items that were intended become `unknown`; a chunk with which too many were
        lost is split, in the end into single items, and such an item becomes an error, `worker_lost`. One for which one
        more lost worker is too many is a suspect, of which a worker has one at a time. It is given up only if its
        worker is lost after `blame`: else the innocent would be judged along with the guilty.
        """

        async def work(connection: AsyncConnection, now: float) -> tuple[list[Claim], list[str]]:
            claiming = _Claiming(self._database, connection, now, worker, kinds)
            claims = await claiming.run(want)
            await self._hints.announce(connection, *claiming.topics)
            return claims, claiming.topics

        claims, topics = await self._database.write(work)
        self._passing("claim.committed")
        self._hints.give(*topics)
        return claims

    async def renew(self, leases: Collection[Lease]) -> Renewal:
        """Another `lease` seconds for each that is still held; and which of their jobs are to be ended."""
        if not leases:
            return Renewal(frozenset(), frozenset())

        async def work(connection: AsyncConnection, now: float) -> Renewal:
            held = list(await held_rows(connection, list(leases)))
            until = now + self._database.settings.lease
            if held:
                await connection.execute(_renew, [_place(lease) | {"to_due_at": until} for lease in held])
            going = select(job.c.id).where(
                job.c.id.in_({lease.job for lease in leases}), job.c.state.not_in([*STOPPING, *TERMINAL])
            )
            stopping = {lease.job for lease in leases} - {row.id for row in await connection.execute(going)}
            return Renewal(frozenset(held), frozenset(stopping))

        return await self._database.write(work)

    async def blame(self, lease: Lease) -> bool:
        """Before a suspect is begun, while nothing else runs: it has done it if the worker is lost from now on.

        Whether the lease is still held.
        """

        async def work(connection: AsyncConnection, now: float) -> bool:
            rows = await held_rows(connection, [lease])
            if rows:
                await connection.execute(_blame.values(lost=self._database.settings.lost), _place(lease))
            return bool(rows)

        return await self._database.write(work)

    async def release(self, leases: Collection[Lease], *, delay: float = 0.0) -> set[Lease]:
        """Gives work back, to be claimed by anybody `delay` seconds later; those that were still held.

        A chunk of which all open items are parked waits until the first of them is due. What is released does not
        count as lost.
        """
        if not leases:
            return set()

        async def work(connection: AsyncConnection, now: float) -> set[Lease]:
            held = await held_rows(connection, list(leases))
            if held:
                await connection.execute(
                    _release,
                    [
                        _place(lease) | {"to_due_at": max(now + delay, await _next_due(connection, row, now))}
                        for lease, row in held.items()
                    ],
                )
                limit = self._database.settings.lost
                if blamed := [lease for lease, row in held.items() if _is_blamed(row, limit)]:
                    await connection.execute(_blame.values(lost=_last_chance(limit)), [_place(each) for each in blamed])
                # What is released of an end comes back when it was said to, and not at once.
                await advance(connection, {lease.job for lease in held if lease.kind is not Kind.FINALIZE}, now)
                await self._hints.announce(connection, WORK)
            return set(held)

        released = await self._database.write(work)
        if released:
            self._hints.give(WORK)
        return released

    async def next_due(self) -> float | None:
        """In how many seconds there may be something to claim, as far as it is known now; None for nothing at all."""

        async def work(connection: AsyncConnection, now: float) -> float | None:
            due: float | None = (await connection.execute(_first_due())).scalar_one()
            return None if due is None else max(due - now, 0.0)

        return await self._database.read(work)


class _Claiming:
    """One claim, in its transaction."""

    def __init__(
        self, database: Database, connection: AsyncConnection, now: float, worker: str, kinds: Collection[Kind]
    ) -> None:
        self._settings = database.settings
        self._connection = connection
        self._now = now
        self._worker = worker
        self._kinds = kinds
        self._granted: list[tuple[Row[Any], JobState, int]] = []
        self._seen: set[tuple[str, int]] = set()
        self._done: set[str] = set()
        self._changed: set[str] = set()
        self._limit = database.settings.lost
        self._last_chance = _last_chance(self._limit)
        self._has_suspect: bool | None = None  # as long as there is no other, nobody asks

    async def run(self, want: int) -> list[Claim]:
        jobs = {row.id: row for row in await self._candidates()}
        held = await self._held() if len(jobs) > 1 else {}
        while jobs and len(self._granted) < want:
            for job_id, n in shares(jobs.values(), held, want - len(self._granted)).items():
                rows = await self._locked(jobs[job_id], n)
                for row in rows:
                    await self._take(row, jobs[job_id])
                held[jobs[job_id].owner, job_id] = held.get((jobs[job_id].owner, job_id), 0) + len(rows)
                if not rows:
                    del jobs[job_id]
        if self._done:
            await advance(self._connection, self._done, self._now)
        return await self._grant()

    @property
    def topics(self) -> list[str]:
        """What others want to know of: jobs that have begun, or have new results, and work that there is now."""
        return sorted(self._changed) + ([WORK] if self._done else [])

    async def _candidates(self) -> list[Candidate]:
        """Open jobs with something that is due: the first of every owner, then the second ones, …"""
        rows = await self._connection.execute(_with_work(frozenset(self._kinds)), {"now": self._now})
        return [Candidate(row.id, row.owner, JobState(row.state), row.priority) for row in rows]

    async def _held(self) -> dict[tuple[str, str], int]:
        """How many chunks are being worked on, by owner and job."""
        query = (
            select(chunk.c.owner, chunk.c.job, func.count())
            .where(chunk.c.holder.is_not(None), chunk.c.due_at > self._now)
            .group_by(chunk.c.owner, chunk.c.job)
        )
        return {(row[0], row[1]): row[2] for row in await self._connection.execute(query)}

    async def _locked(self, candidate: Candidate, n: int) -> Sequence[Row[Any]]:
        matching = [condition for states, condition in _KINDS if candidate.state in states]
        query = (
            select(chunk)
            .where(chunk.c.job == candidate.id, chunk.c.due_at <= self._now, *matching, *self._unsuspected())
            .order_by(chunk.c.no)
            .limit(n + len(self._seen))
            .with_for_update(skip_locked=True)
        )
        rows = [row for row in await self._connection.execute(query) if (row.job, row.no) not in self._seen][:n]
        self._seen.update((row.job, row.no) for row in rows)
        return rows

    async def _take(self, row: Row[Any], candidate: Candidate) -> None:
        lost = self._lost(row)
        if row.no == Kind.FINALIZE:
            until = await postponed(self._connection, row.job, self._now)
            if until is not None:
                await self._connection.execute(_release, _place_of(row) | {"to_due_at": until})
                return
        elif row.no >= 0 and row.epoch:
            if await self._is_spent(row, lost):
                return
            if row.span == 1 and lost >= self._last_chance and not await self._is_first_suspect():
                return
        self._granted.append((row, candidate.state, lost))

    def _lost(self, row: Row[Any]) -> int:
        """With how many workers; of single items, those that count."""
        lost: int = row.lost + (row.holder is not None)
        if row.no < 0 or row.span > 1:
            return lost
        return self._limit if _is_blamed(row, self._limit) else min(lost, self._last_chance)

    async def _is_first_suspect(self) -> bool:
        """Whether the worker has no other item that may be what workers are lost with; from now on it has one."""
        if self._has_suspect is None:
            mine = (chunk.c.holder == self._worker, chunk.c.due_at > self._now)
            query = select(exists().where(*mine, chunk.c.span == 1, chunk.c.lost >= self._last_chance))
            self._has_suspect = bool((await self._connection.execute(query)).scalar_one())
        is_first, self._has_suspect = not self._has_suspect, True
        return is_first

    def _unsuspected(self) -> list[ColumnElement[bool]]:
        """For a worker that has such an item, the others are not even looked at, but for those that may end by that."""
        if not self._has_suspect:
            return []
        lost = chunk.c.lost + case((chunk.c.holder.is_not(None), 1), else_=0)
        return [or_(chunk.c.span != 1, chunk.c.has_intents, lost < self._last_chance, chunk.c.lost >= self._limit)]

    async def _is_spent(self, row: Row[Any], lost: int) -> bool:
        """Whether nothing is left to claim of a chunk that somebody had before."""
        there = await settled_in(self._connection, row)
        unknown = sorted(await intended_in(self._connection, row) - there.keys())
        left = [seq for seq in seqs(row) if seq not in there and seq not in unknown]
        results = [ItemResult(seq=seq, outcome=Outcome.UNKNOWN, finished_at=self._now) for seq in unknown]
        is_poison = lost >= self._limit
        if is_poison and left and row.span == 1:
            results.append(
                ItemResult(
                    seq=left.pop(),
                    outcome=Outcome.ERROR,
                    failure=WORKER_LOST,
                    detail=f"{lost} workers were lost while they had this item.",
                    attempts=lost,
                    finished_at=self._now,
                )
            )
        if is_poison and left:
            row = await split(self._connection, row, left, self._now)
        if results:
            await settle(self._connection, row, results, epoch=row.epoch)
            self._changed.add(row.job)
        if not left or is_poison:
            await self._connection.execute(_release, _place_of(row) | {"to_due_at": None})
            self._done.add(row.job)
            return True
        return False

    async def _grant(self) -> list[Claim]:
        if not self._granted:
            return []
        ttl = self._settings.lease
        await self._connection.execute(
            _grant,
            [
                _place_of(row)
                | {"to_holder": self._worker, "to_due_at": self._now + ttl, "to_epoch": row.epoch + 1, "to_lost": lost}
                for row, _, lost in self._granted
            ],
        )
        begun = {row.job for row, state, _ in self._granted if state is JobState.QUEUED}
        self._changed |= begun
        for job_id in sorted(begun):
            await self._connection.execute(
                update(job)
                .where(job.c.id == job_id, job.c.state == JobState.QUEUED)
                .values(state=JobState.RUNNING, version=job.c.version + 1, started_at=self._now)
            )
        return [
            Claim(
                lease=Lease(row.job, row.no, row.epoch + 1),
                owner=row.owner,
                state=JobState.RUNNING if state is JobState.QUEUED else state,
                first_seq=row.first_seq,
                n=row.span,
                settled=await settled_in(self._connection, row) if row.epoch else {},
                parked=await self._parked(row) if row.parked_n else {},
                ttl=ttl,
                lost=lost,
                size=row.blob_length or 0,
                is_suspect=row.no >= 0 and row.span == 1 and lost >= self._last_chance,
            )
            for row, state, lost in self._granted
        ]

    async def _parked(self, row: Row[Any]) -> dict[int, Parked]:
        query = select(retry).where(retry.c.job == row.job, retry.c.chunk == row.no)
        return {
            each.seq: Parked(each.seq, each.attempt, max(each.due_at - self._now, 0.0), each.detail)
            for each in await self._connection.execute(query)
        }


def _last_chance(limit: int) -> int:
    """The number of lost workers with which a single item is a suspect."""
    return max(limit - 1, 1)


def _is_blamed(row: Row[Any], limit: int) -> bool:
    return bool(row.no >= 0 and row.span == 1 and row.lost >= limit)


async def _next_due(connection: AsyncConnection, row: Row[Any], now: float) -> float:
    """When the first item of a chunk may be tried: later than now only if all that are open are parked."""
    if row.parked_n < row.n - row.done_n or not row.parked_n:
        return now
    query = select(func.min(retry.c.due_at)).where(retry.c.job == row.job, retry.c.chunk == row.no)
    due: float | None = (await connection.execute(query)).scalar_one()
    return now if due is None else due


def _matching(kinds: Collection[Kind]) -> ColumnElement[bool]:
    """That the work of a chunk fits the state of its job."""
    wanted: ColumnElement[bool] = chunk.c.no.in_([kind for kind in kinds if kind is not Kind.ITEMS])
    if Kind.ITEMS in kinds:
        wanted = or_(wanted, chunk.c.no >= 0)
    return and_(or_(*(and_(job.c.state.in_(states), condition) for states, condition in _KINDS)), wanted)


@cache
def _with_work(kinds: frozenset[Kind]) -> Select[Any]:
    """Open jobs with such work that is due at `now`: made once, for making it takes longer than running it."""
    is_due = exists().where(chunk.c.job == job.c.id, chunk.c.due_at <= bindparam("now"), _matching(kinds))
    turn = func.row_number().over(partition_by=job.c.owner, order_by=(job.c.priority.desc(), job.c.id))
    states = [state for states, _ in _KINDS for state in states]
    return (
        select(job.c.id, job.c.owner, job.c.state, job.c.priority, turn.label("turn"))
        .where(job.c.state.in_(states), job.c.gone.is_(None), is_due)
        .order_by("turn", job.c.id)
        .limit(_CANDIDATES)
    )


@cache
def _first_due() -> Select[Any]:
    """When the first of all open work is due."""
    is_open = exists().where(job.c.id == chunk.c.job, _matching(tuple(Kind)), job.c.gone.is_(None))
    return select(func.min(chunk.c.due_at)).where(chunk.c.due_at.is_not(None), is_open)


def _place(lease: Lease) -> dict[str, Any]:
    return {"of_job": lease.job, "of_no": lease.chunk}


def _place_of(row: Row[Any]) -> dict[str, Any]:
    return {"of_job": row.job, "of_no": row.no}
