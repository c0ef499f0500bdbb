"""The store against a model of it: whatever is done in whatever order, both say the same."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection

from batchproxy.jobs.store import (
    TERMINAL,
    WORKER_LOST,
    Claim,
    Entry,
    ItemResult,
    JobState,
    JobStore,
    KeyConflict,
    Kind,
    Lease,
    LeaseLost,
    NewJob,
    NotFound,
    Outcome,
    Parked,
    WrongState,
)
from batchproxy.jobs.store.tables import metadata

from ..place import LEASE, Place, item, ok

T = TypeVar("T")

# For a long search, in which each example takes about a quarter of a second.
EXAMPLES = int(os.environ.get("BATCHPROXY_EXAMPLES", "20"))
LOST = 2
CHUNK = 3
KEEP = 500.0
LIVE = (JobState.QUEUED, JobState.RUNNING)
ENDING = (JobState.FINALIZING, JobState.CANCELLING)
RESULTS = st.sampled_from([Outcome.OK, Outcome.ERROR])
PARTS = st.integers(min_value=1, max_value=7)


@dataclass
class ModelChunk:
    first: int
    seqs: list[int]
    due: float | None
    holder: bool = False
    epoch: int = 0
    lost: int = 0
    parked: dict[int, float] = field(default_factory=dict)
    intents: set[int] = field(default_factory=set)

    @property
    def lost_with(self) -> int:
        """With how many workers it is lost, if it is claimed now. A single item is given up only once it is blamed."""
        if len(self.seqs) != 1:
            return self.lost + self.holder
        return LOST if self.lost >= LOST else min(self.lost + self.holder, LOST - 1)


@dataclass
class ModelJob:
    id: str
    owner: str
    n: int
    key: str | None
    state: JobState
    expires_at: float | None
    chunks: dict[int, ModelChunk]
    results: dict[int, tuple[Outcome, str | None]] = field(default_factory=dict)
    ending: JobState | None = None
    purge_at: float | None = None
    # A reader that follows the results.
    cursor: str | None = None
    followed: list[int] = field(default_factory=list)

    def left(self, chunk: ModelChunk) -> list[int]:
        return [seq for seq in chunk.seqs if seq not in self.results]

    def put(self, chunk: ModelChunk, seq: int, outcome: Outcome, failure: str | None = None) -> None:
        self.results[seq] = (outcome, failure)
        chunk.parked.pop(seq, None)
        chunk.intents.discard(seq)
        if not self.left(chunk):
            chunk.due, chunk.holder = None, False

    def leased(self, now: float) -> list[float]:
        items = [chunk for no, chunk in self.chunks.items() if no > Kind.FINALIZE]
        return [chunk.due for chunk in items if chunk.holder and chunk.due is not None and chunk.due > now]

    def stop(self, state: JobState, ending: JobState, now: float) -> None:
        self.state, self.ending = state, ending
        self.chunks[Kind.FINALIZE] = ModelChunk(0, [], max(self.leased(now), default=now))

    def advance(self, now: float) -> None:
        if self.state in ENDING:
            last = self.chunks[Kind.FINALIZE]
            if not last.holder:
                last.due = now
        elif self.state in LIVE and all(chunk.due is None for no, chunk in self.chunks.items() if no >= 0):
            self.stop(JobState.FINALIZING, JobState.COMPLETED, now)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self, store: JobStore, place: Place, runner: asyncio.Runner) -> None:
        super().__init__()
        self.store, self.clock, self.runner = store, place.clock, runner
        self.jobs: dict[str, ModelJob] = {}
        self.gone: dict[str, str] = {}
        self.leases: list[Lease] = []
        self.steps = 0
        self.run(store._database.write(_emptied))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    # What clients do

    @rule(
        owner=st.sampled_from("ab"),
        n=st.integers(min_value=0, max_value=7),
        key=st.sampled_from([None, None, "k"]),
        deadline=st.sampled_from([None, 40.0]),
        commits=st.sampled_from([True, True, True, False]),
    )
    def submit(self, owner: str, n: int, key: str | None, deadline: float | None, commits: bool) -> None:
        there = [job for job in self.jobs.values() if key is not None and (job.owner, job.key) == (owner, key)]

        async def submitted() -> tuple[str, bool] | None:
            new = NewJob(owner=owner, idempotency_key=key, deadline=deadline, keep=KEEP)
            async with self.store.submission(new) as submission:
                for seq in range(n):
                    await submission.add(item(seq))
                if not commits:
                    return None
                done = await submission.commit()
                return done.job.id, done.created

        if commits and there and there[0].n != n:
            with pytest.raises(KeyConflict):
                self.run(submitted())
            return
        answer = self.run(submitted())
        if answer is None:
            return
        assert answer[1] == (not there)
        if not there:
            chunks = {
                no: ModelChunk(first, list(range(first, min(first + CHUNK, n))), self.clock.now)
                for no, first in enumerate(range(0, n, CHUNK))
            }
            expires_at = None if deadline is None else self.clock.now + deadline
            job = ModelJob(answer[0], owner, n, key, JobState.QUEUED, expires_at, chunks)
            self.jobs[job.id] = job
            job.advance(self.clock.now)
        else:
            assert answer[0] == there[0].id

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = self.drawn(data)
        self.run(self.store.ending.cancel(job.id, job.owner))
        if job.state in LIVE:
            job.stop(JobState.CANCELLING, JobState.CANCELLED, self.clock.now)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        job = self.drawn(data)
        if job.state not in TERMINAL:
            with pytest.raises(WrongState):
                self.run(self.store.retention.delete(job.id, job.owner))
            return
        self.run(self.store.retention.delete(job.id, job.owner))
        del self.jobs[job.id]
        self.gone[job.id] = "not_found"

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), outcomes=st.sets(st.sampled_from(Outcome), min_size=1))
    def retry(self, data: st.DataObject, outcomes: set[Outcome]) -> None:
        job = self.drawn(data)
        wanted = [seq for seq, (outcome, _) in sorted(job.results.items()) if outcome in outcomes]
        if job.state not in TERMINAL or not wanted:
            with pytest.raises(WrongState):
                self.run(self.store.retry(job.id, job.owner, outcomes=outcomes))
            return
        again = self.run(self.store.retry(job.id, job.owner, outcomes=outcomes)).job
        assert again.retry_of == job.id
        n = len(wanted)
        chunks = {
            no: ModelChunk(first, list(range(first, min(first + CHUNK, n))), self.clock.now)
            for no, first in enumerate(range(0, n, CHUNK))
        }
        self.jobs[again.id] = ModelJob(again.id, job.owner, n, None, JobState.QUEUED, None, chunks)

    # What workers do

    @rule()
    def claim_all(self) -> None:
        """All that can be claimed is, and nothing else; of items that may be what workers are lost with, one."""
        has_suspect = any(
            chunk.holder and chunk.due is not None and chunk.due > self.clock.now and self.is_suspect(chunk, chunk.lost)
            for job in self.jobs.values()
            for chunk in job.chunks.values()
        )
        claims = self.run(self.store.claims.claim("w", 100))
        expected = {lease for job in list(self.jobs.values()) for lease in self.claimable(job)}
        granted = {claimed.lease for claimed in claims}
        chunks = {lease: self.jobs[lease.job].chunks[lease.chunk] for lease in expected}
        suspects = {lease for lease, chunk in chunks.items() if self.is_suspect(chunk, chunk.lost_with)}
        assert granted - suspects == expected - suspects
        assert len(granted & suspects) == (0 if has_suspect else min(1, len(suspects)))
        for claimed in claims:
            self.taken(claimed)

    @precondition(lambda self: not any(self.is_used(job) for job in self.jobs.values()))
    @rule()
    def claim_one(self) -> None:
        """One of those that can be claimed, from an owner with the least in hand."""
        held = {owner: 0 for owner in "ab"}
        for job in self.jobs.values():
            held[job.owner] += len(job.leased(self.clock.now))
            held[job.owner] += any(
                chunk.holder and (chunk.due or 0) > self.clock.now
                for no, chunk in job.chunks.items()
                if no == Kind.FINALIZE
            )
        claims = self.run(self.store.claims.claim("w", 1))
        expected = {lease: job.owner for job in list(self.jobs.values()) for lease in self.claimable(job)}
        assert len(claims) == min(1, len(expected))
        for claimed in claims:
            assert claimed.lease in expected
            assert held[claimed.owner] == min(held[owner] for owner in expected.values())
            self.taken(claimed)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        leases = data.draw(st.sets(st.sampled_from(self.leases), min_size=1))
        renewal = self.run(self.store.claims.renew(leases))
        assert renewal.renewed == {lease for lease in leases if self.held(lease)}
        for lease in renewal.renewed:
            self.jobs[lease.job].chunks[lease.chunk].due = self.clock.now + LEASE
        ids = {lease.job for lease in leases}
        assert renewal.stopping == {each for each in ids if each not in self.jobs or self.jobs[each].state not in LIVE}

    @precondition(lambda self: any(self.blamable(lease) for lease in self.leases))
    @rule(data=st.data())
    def blame(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from([lease for lease in self.leases if self.blamable(lease)]))
        job = self.held(lease)
        assert self.run(self.store.claims.blame(lease)) == (job is not None)
        if job is not None:
            job.chunks[lease.chunk].lost = LOST

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), part=PARTS, outcome=RESULTS)
    def settle(self, data: st.DataObject, part: int, outcome: Outcome) -> None:
        lease, seqs = self.some(data, part)
        results = tuple(ItemResult(seq=seq, outcome=outcome, finished_at=self.clock.now) for seq in seqs)
        self.written(Entry(lease=lease, results=results), seqs)
        job = self.held(lease)
        if job is not None and lease.chunk >= 0:
            chunk = job.chunks[lease.chunk]
            for seq in seqs:
                if seq not in job.results:
                    job.put(chunk, seq, outcome)
            if chunk.due is None:
                job.advance(self.clock.now)

    @precondition(lambda self: any(map(self.held, self.leases)))
    @rule()
    def settle_the_rest(self) -> None:
        """Of all that is leased, so that jobs come to their end."""
        for lease in self.leases:
            job = self.held(lease)
            if job is not None and lease.chunk >= 0:
                chunk = job.chunks[lease.chunk]
                seqs = job.left(chunk)
                self.written(Entry(lease=lease, results=tuple(ok(seq) for seq in seqs)), seqs)
                for seq in seqs:
                    job.put(chunk, seq, Outcome.OK)
                job.advance(self.clock.now)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), part=PARTS, due_in=st.sampled_from([0.0, 5.0, 60.0]))
    def park(self, data: st.DataObject, part: int, due_in: float) -> None:
        lease, seqs = self.some(data, part)
        self.written(Entry(lease=lease, parked=tuple(Parked(seq, 1, due_in) for seq in seqs)), seqs)
        job = self.held(lease)
        if job is not None and lease.chunk >= 0:
            chunk = job.chunks[lease.chunk]
            for seq in seqs:
                if seq not in job.results:
                    chunk.parked[seq] = self.clock.now + due_in
                    chunk.intents.discard(seq)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), part=PARTS, withdraws=st.booleans())
    def intend(self, data: st.DataObject, part: int, withdraws: bool) -> None:
        lease, seqs = self.some(data, part)
        self.intended(lease, seqs, withdraws=withdraws)

    def intended(self, lease: Lease, seqs: list[int], *, withdraws: bool = False) -> None:
        self.written(Entry(lease=lease, intended=tuple(seqs)), seqs)
        if withdraws:
            self.written(Entry(lease=lease, withdrawn=tuple(seqs)), [])
        job = self.held(lease)
        if job is not None and lease.chunk >= 0 and not withdraws:
            job.chunks[lease.chunk].intents.update(seq for seq in seqs if seq not in job.results)
        elif job is not None and lease.chunk >= 0:
            job.chunks[lease.chunk].intents.difference_update(seqs)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), delay=st.sampled_from([0.0, 0.0, 45.0]))
    def release(self, data: st.DataObject, delay: float) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        released = self.run(self.store.claims.release([lease], delay=delay))
        job = self.held(lease)
        assert released == ({lease} if job is not None else set())
        if job is not None:
            chunk = job.chunks[lease.chunk]
            left = job.left(chunk)
            chunk.holder = False
            chunk.lost = chunk.lost if len(chunk.seqs) != 1 else min(chunk.lost, LOST - 1)
            all_parked = left and all(seq in chunk.parked for seq in left)
            chunk.due = max(self.clock.now + delay, min(chunk.parked.values()) if all_parked else 0)
            if lease.kind is not Kind.FINALIZE:
                job.advance(self.clock.now)

    @precondition(lambda self: any(lease.kind is Kind.FINALIZE for lease in self.leases))
    @rule(data=st.data(), finishes=st.booleans())
    def finalize(self, data: st.DataObject, finishes: bool) -> None:
        lease = data.draw(st.sampled_from([lease for lease in self.leases if lease.kind is Kind.FINALIZE]))
        job = self.held(lease)
        if job is None:
            with pytest.raises(LeaseLost):
                self.run(self.store.ending.settle_rest(lease))
            with pytest.raises(LeaseLost):
                self.run(self.store.ending.finish(lease))
            return
        if job.leased(self.clock.now):
            with pytest.raises(WrongState):
                self.run(self.store.ending.settle_rest(lease))
            return
        self.run(self.store.ending.settle_rest(lease))
        outcome = Outcome.CANCELLED if job.ending is JobState.CANCELLED else Outcome.EXPIRED
        for no, chunk in job.chunks.items():
            for seq in job.left(chunk) if no >= 0 else ():
                job.put(chunk, seq, Outcome.UNKNOWN if seq in chunk.intents else outcome)
        if finishes:
            self.run(self.store.ending.finish(lease))
            assert job.ending is not None
            job.state, job.purge_at = job.ending, self.clock.now + KEEP
            job.chunks[Kind.FINALIZE].due, job.chunks[Kind.FINALIZE].holder = None, False

    # What time does

    @rule(seconds=st.sampled_from([1.0, 10.0, 31.0, 600.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def expire(self) -> None:
        due = {
            job.id
            for job in self.jobs.values()
            if job.state in LIVE and job.expires_at is not None and job.expires_at <= self.clock.now
        }
        assert set(self.run(self.store.ending.expire())) == due
        for job_id in due:
            self.jobs[job_id].stop(JobState.FINALIZING, JobState.EXPIRED, self.clock.now)

    @rule()
    def sweep(self) -> None:
        swept = self.run(self.store.retention.sweep())
        due = [job.id for job in self.jobs.values() if job.purge_at is not None and job.purge_at <= self.clock.now]
        assert swept.purged == len(due)
        assert swept.advanced == 0, "an end was not begun at once"
        for job_id in due:
            del self.jobs[job_id]
            self.gone[job_id] = "gone"

    # What everybody sees

    @invariant()
    def says_the_same(self) -> None:
        """One job at a time, for all of them would take long; all at the end."""
        self.steps += 1
        if self.jobs:
            self.check(list(self.jobs.values())[self.steps % len(self.jobs)])

    def teardown(self) -> None:
        for job in self.jobs.values():
            self.check(job)
        for job_id, code in self.gone.items():
            with pytest.raises(NotFound) as raised:
                self.run(self.store.jobs.get(job_id, None))
            assert raised.value.code == code

    def check(self, job: ModelJob) -> None:
        shown = self.run(self.store.jobs.get(job.id, job.owner))
        assert shown.state is job.state, f"{shown.state} is not {job.state}"
        counts = shown.counts
        outcomes = [outcome for outcome, _ in job.results.values()]
        assert (counts.total, counts.done) == (job.n, len(job.results))
        assert (counts.ok, counts.failed) == (outcomes.count(Outcome.OK), outcomes.count(Outcome.ERROR))
        assert (counts.cancelled, counts.expired, counts.unknown) == tuple(
            map(outcomes.count, (Outcome.CANCELLED, Outcome.EXPIRED, Outcome.UNKNOWN))
        )
        assert counts.parked == sum(len(chunk.parked) for chunk in job.chunks.values())
        page = self.run(self.store.results.in_order(job.id, job.owner))
        prefix = next((seq for seq in range(job.n) if seq not in job.results), job.n)
        assert [(each.seq, (each.outcome, each.failure)) for each in page.results] == [
            (seq, job.results[seq]) for seq in range(prefix)
        ]
        assert page.complete == (job.state in TERMINAL)
        self.follow(job)

    def follow(self, job: ModelJob) -> None:
        while True:
            page = self.run(self.store.results.in_completion_order(job.id, job.owner, after=job.cursor, limit=2))
            job.cursor = page.cursor
            job.followed += [each.seq for each in page.results]
            if not page.results:
                break
        assert len(job.followed) == len(set(job.followed)), "a result came twice"
        assert set(job.followed) == job.results.keys()
        assert page.complete == (job.state in TERMINAL)

    # The model

    def drawn(self, data: st.DataObject) -> ModelJob:
        return self.jobs[data.draw(st.sampled_from(sorted(self.jobs)))]

    def held(self, lease: Lease) -> ModelJob | None:
        job = self.jobs.get(lease.job)
        chunk = None if job is None else job.chunks.get(lease.chunk)
        return job if chunk is not None and chunk.holder and chunk.epoch == lease.epoch else None

    def some(self, data: st.DataObject, part: int) -> tuple[Lease, list[int]]:
        """A lease, held or not, and some of the items of its chunk."""
        lease = data.draw(st.sampled_from([lease for lease in self.leases if lease.chunk >= 0] or self.leases))
        job = self.jobs.get(lease.job)
        seqs = [] if job is None else job.chunks[lease.chunk].seqs
        return lease, [seq for n, seq in enumerate(seqs) if part >> n & 1]

    def written(self, entry: Entry, seqs: list[int]) -> None:
        [verdict] = self.run(self.store.checkpoints.write([entry]))
        job = self.held(entry.lease)
        assert verdict.held == (job is not None)
        assert {*verdict.kept, *verdict.dropped} == (set(seqs) if job is not None else set())

    def is_used(self, job: ModelJob) -> bool:
        """Whether claiming may change chunks that are not granted."""
        return any(chunk.epoch for no, chunk in job.chunks.items() if chunk.due is not None) or job.state in ENDING

    def claimable(self, job: ModelJob) -> list[Lease]:
        """What will be granted, once the rules for lost chunks were applied."""
        now = self.clock.now
        if job.state in ENDING:
            last = job.chunks[Kind.FINALIZE]
            if last.due is None or last.due > now:
                return []
            if job.leased(now):
                last.due, last.holder = max(job.leased(now)), False
                return []
            return [Lease(job.id, Kind.FINALIZE, last.epoch + 1)]
        if job.state not in LIVE:
            return []
        granted = []
        spent = False
        for no, chunk in sorted(job.chunks.items()):
            if chunk.due is None or chunk.due > now:
                continue
            lost = chunk.lost_with
            for seq in sorted(chunk.intents):
                job.put(chunk, seq, Outcome.UNKNOWN)
            left = job.left(chunk)
            if chunk.epoch and lost >= LOST and left:
                granted += [Lease(job.id, child, 1) for child in self.poisoned(job, chunk, left)]
                spent = True
            elif left:
                granted.append(Lease(job.id, no, chunk.epoch + 1))
            else:
                spent = True
        if spent:
            job.advance(now)
            if job.state in ENDING:
                assert not granted
        return granted

    def is_suspect(self, chunk: ModelChunk, lost: int) -> bool:
        return len(chunk.seqs) == 1 and lost >= LOST - 1

    def blamable(self, lease: Lease) -> bool:
        """Whether it was one of a suspect."""
        job = self.jobs.get(lease.job)
        if job is None or lease.chunk not in job.chunks:
            return False
        return self.is_suspect(job.chunks[lease.chunk], job.chunks[lease.chunk].lost)

    def poisoned(self, job: ModelJob, chunk: ModelChunk, left: list[int]) -> list[int]:
        """The chunks that come of it."""
        if len(chunk.seqs) == 1:
            job.put(chunk, left[0], Outcome.ERROR, WORKER_LOST)
            return []
        no = max(job.chunks) + 1
        for n, seq in enumerate(left):
            parked = {seq: chunk.parked[seq]} if seq in chunk.parked else {}
            job.chunks[no + n] = ModelChunk(seq, [seq], self.clock.now, parked=parked)
        chunk.seqs = [seq for seq in chunk.seqs if seq not in left]
        chunk.parked, chunk.due, chunk.holder = {}, None, False
        return list(range(no, no + len(left)))

    def taken(self, claimed: Claim) -> None:
        """What a claim says is what the model knows."""
        lease = claimed.lease
        job = self.jobs[lease.job]
        chunk = job.chunks[lease.chunk]
        assert (claimed.owner, claimed.lost) == (job.owner, chunk.lost_with)
        assert claimed.is_suspect == self.is_suspect(chunk, chunk.lost_with)
        if lease.kind is Kind.ITEMS:
            assert claimed.open_seqs == job.left(chunk)
            assert {seq: each.due_in for seq, each in claimed.parked.items()} == {
                seq: max(due - self.clock.now, 0) for seq, due in chunk.parked.items()
            }
            items = self.run(self.store.inputs.items(claimed))
            assert list(items) == claimed.open_seqs
            if job.state is JobState.QUEUED:
                job.state = JobState.RUNNING
        chunk.lost = chunk.lost_with
        chunk.epoch, chunk.holder, chunk.due = lease.epoch, True, self.clock.now + LEASE
        self.leases.append(lease)


async def _emptied(connection: AsyncConnection, now: float) -> None:
    for table in metadata.sorted_tables:
        await connection.execute(delete(table))


@contextmanager
def machines(place: Place) -> Iterator[Callable[[], StoreMachine]]:
    with asyncio.Runner() as runner:
        opening = place.opened(lost=LOST, chunk_items=CHUNK)
        store = runner.run(opening.__aenter__())
        try:
            yield partial(StoreMachine, store, place, runner)
        finally:
            runner.run(opening.__aexit__(None, None, None))


def check(place: Place, examples: int) -> None:
    with machines(place) as made:
        run_state_machine_as_test(
            made,  # type: ignore[arg-type] # any callable will do
            settings=settings(
                max_examples=examples,
                stateful_step_count=40,
                suppress_health_check=list(HealthCheck),
                # Making a failure smaller, or looking for others, takes minutes here: to be done by hand.
                phases=[Phase.explicit, Phase.generate],
                report_multiple_bugs=False,
            ),
        )


def test_it_is_as_the_model(place: Place) -> None:
    """On both databases."""
    check(place, EXAMPLES)


@pytest.mark.parametrize("intended", [[], [4], [3, 4], [3, 4, 5]], ids=len)
def test_a_chunk_is_split_as_in_the_model(place: Place, intended: list[int]) -> None:
    """Whatever is left of it, once what was intended is `unknown`."""
    with machines(place) as made:
        machine = made()
        machine.submit(owner="a", n=7, key=None, deadline=None, commits=True)
        machine.claim_all()
        machine.pass_time(seconds=31.0)
        machine.claim_all()
        [job] = machine.jobs.values()
        machine.intended(Lease(job.id, 1, 2), intended)
        machine.pass_time(seconds=31.0)
        machine.claim_all()
        assert sorted(job.chunks) == list(range(3 + 3 + 3 - len(intended)))
        assert {seq for seq, (outcome, _) in job.results.items() if outcome is Outcome.UNKNOWN} == set(intended)
        machine.settle_the_rest()
        machine.teardown()
