"""Leases: each chunk belongs to one worker, who is fenced off once it does not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from batchproxy.jobs.store import (
    WORKER_LOST,
    Claim,
    Entry,
    JobState,
    JobStore,
    Kind,
    Limits,
    Outcome,
    Parked,
    Verdict,
    WrongState,
)
from batchproxy.jobs.store.claims import _Claiming
from batchproxy.jobs.store.tables import retry
from batchproxy.jobs.store.turns import Candidate, shares
from tests.proxy.on_a_loop import on_a_loop

from ..place import LEASE, Place, claim, complete, end, item, ok, settle, submit


def candidates(**jobs: tuple[str, int]) -> list[Candidate]:
    return [Candidate(name, owner, JobState.RUNNING, priority) for name, (owner, priority) in jobs.items()]


def test_shares_are_fair_between_owners() -> None:
    """Who has less comes first, whoever has how many jobs; then equal parts."""
    jobs = candidates(a1=("ann", 0), a2=("ann", 0), b1=("bob", 0))
    assert shares(jobs, {}, 4) == Counter(a1=1, a2=1, b1=2)
    assert shares(jobs, {("ann", "a1"): 3}, 3) == Counter(b1=3)
    assert shares(jobs, {("bob", "b1"): 2}, 2) == Counter(a1=1, a2=1)
    assert shares(jobs, {("ann", "a1"): 1}, 3) == Counter(b1=2, a2=1)


def test_shares_follow_priority_inside_of_an_owner() -> None:
    """The higher priority is served alone, but takes nothing from other owners."""
    jobs = candidates(a1=("ann", 0), a2=("ann", 5), b1=("bob", 0))
    assert shares(jobs, {}, 6) == Counter(a2=3, b1=3)


@on_a_loop
async def test_a_small_job_does_not_wait_for_a_large_one(place: Place) -> None:
    """Of another owner it is claimed next, of the same one as well."""
    async with place.opened() as store:
        large = await submit(store, 60, owner="ann")
        await store.claims.claim("w1", 4)
        small = await submit(store, 3, owner="bob")
        other = await submit(store, 3, owner="ann")
        claims = await store.claims.claim("w1", 3)
        assert {each.lease.job for each in claims[:1]} == {small.id}
        assert other.id in {each.lease.job for each in claims}
        assert large.id in {each.lease.job for each in claims}


@on_a_loop
async def test_a_claim_is_for_one_worker(place: Place) -> None:
    """Many who claim at once get each chunk once."""
    async with place.opened() as store:
        await submit(store, 90)
        claims = await asyncio.gather(*(store.claims.claim(f"w{n}", 5) for n in range(8)))
        chunks = [each.lease.chunk for claimed in claims for each in claimed]
        assert len(chunks) == len(set(chunks))
        rest = await store.claims.claim("w", 30)
        assert sorted(chunks + [each.lease.chunk for each in rest]) == list(range(30))


@on_a_loop
async def test_only_what_is_named_is_renewed(place: Place) -> None:
    """Another chunk of the same worker lapses, and is claimed by somebody else."""
    async with place.opened() as store:
        await submit(store, 6)
        one, two = await store.claims.claim("w1", 2)
        for _ in range(3):
            place.clock.now += LEASE / 2
            assert (await store.claims.renew([one.lease])).renewed == {one.lease}
        other = await claim(store, "w2")
        assert (other.lease.chunk, other.lease.epoch, other.lost) == (two.lease.chunk, two.lease.epoch + 1, 1)
        assert (await store.claims.renew([one.lease, two.lease])).renewed == {one.lease}


@on_a_loop
async def test_a_zombie_writes_nothing(place: Place) -> None:
    """What a worker says of a chunk that somebody else has claimed, is discarded as a whole."""
    async with place.opened() as store:
        job = await submit(store, 3)
        old = await claim(store, "zombie")
        place.clock.now += LEASE + 1
        new = await claim(store, "w2")
        await settle(store, new, [ok(0, b"new")])
        said = Entry(lease=old.lease, results=(ok(0, b"old"), ok(1, b"old")), intended=(2,))
        assert await store.checkpoints.write([said]) == [Verdict(held=False)]
        assert await store.claims.release([old.lease]) == set()
        page = await store.results.in_order(job.id, "ann")
        assert [(each.seq, each.body) for each in page.results] == [(0, b"new")]
        await settle(store, new, [ok(1), ok(2)])
        assert (await store.jobs.get(job.id, "ann")).counts.done == 3


@on_a_loop
async def test_a_zombie_leaves_no_blob(place: Place) -> None:
    """Not even if the job is long gone when it comes to life."""
    async with place.opened(inline_bytes=0) as store:
        job = await submit(store, 3)
        old = await claim(store, "zombie")
        place.clock.now += LEASE + 1
        await complete(store)
        await store.retention.delete(job.id, "ann")
        said = Entry(lease=old.lease, results=(ok(0, b"old"),))
        assert await store.checkpoints.write([said]) == [Verdict(held=False)]
        assert [path for path in place.folder.rglob("*-blobs/*/*/*")] == []


@on_a_loop
async def test_of_two_results_the_first_stays(place: Place) -> None:
    """A later one is said to be dropped; one's own, said again because the answer was lost, is kept."""
    async with place.opened() as store:
        job = await submit(store, 3)
        first = await claim(store)
        said = Entry(lease=first.lease, results=(ok(0, b"first"),))
        assert await store.checkpoints.write([said]) == [Verdict(held=True, kept=(0,))]
        assert await store.checkpoints.write([said]) == [Verdict(held=True, kept=(0,))]
        await store.claims.release([first.lease])
        second = await claim(store)
        assert second.open_seqs == [1, 2]
        assert second.settled[0].status == 200
        [verdict] = await store.checkpoints.write([Entry(lease=second.lease, results=(ok(0, b"second"), ok(1)))])
        assert verdict == Verdict(held=True, kept=(1,), dropped=(0,))
        assert (await store.jobs.get(job.id, "ann")).counts.done == 2


@on_a_loop
async def test_what_is_released_is_there_at_once(place: Place) -> None:
    """Without waiting for the lease, and without counting as lost."""
    async with place.opened(lost=1) as store:
        await submit(store, 3)
        for epoch in range(1, 5):
            claimed = await claim(store)
            assert (claimed.lease.epoch, claimed.lost) == (epoch, 0)
            assert await store.claims.release([claimed.lease]) == {claimed.lease}


@on_a_loop
async def test_parked_items_let_their_chunk_go(place: Place) -> None:
    """It comes back when the first of them is due, and tells which are, and how often they were tried."""
    async with place.opened() as store:
        job = await submit(store, 3)
        claimed = await claim(store)
        async with store.checkpointer() as checkpointer:
            await checkpointer.settle(claimed.lease, ok(1))
            await checkpointer.park(claimed.lease, Parked(0, 1, 50.0, "503"), Parked(2, 3, 90.0))
        assert (await store.jobs.get(job.id, "ann")).counts.parked == 2
        await store.claims.release([claimed.lease])
        assert await store.claims.claim("w", 10) == []
        assert await store.claims.next_due() == 50.0
        place.clock.now += 50
        again = await claim(store)
        assert again.parked == {0: Parked(0, 1, 0.0, "503"), 2: Parked(2, 3, 40.0)}
        await settle(store, again)
        shown = await store.jobs.get(job.id, "ann")
        assert (shown.state, shown.counts.parked, shown.counts.done) == (JobState.FINALIZING, 0, 3)


@on_a_loop
async def test_what_was_intended_is_not_sent_again(place: Place) -> None:
    """After a crash it is `unknown`; what was withdrawn, parked or settled is not."""
    async with place.opened() as store:
        job = await submit(store, 3)
        claimed = await claim(store)
        async with store.checkpointer() as checkpointer:
            assert await checkpointer.intend(claimed.lease, 0, 1, 2) == Verdict(held=True, kept=(0, 1, 2))
            await checkpointer.withdraw(claimed.lease, 1)
            await checkpointer.park(claimed.lease, Parked(2, 1, 0.0))
        place.clock.now += LEASE + 1
        again = await claim(store, "w2")
        assert again.open_seqs == [1, 2]
        assert again.settled[0].outcome is Outcome.UNKNOWN
        async with store.checkpointer() as checkpointer:
            await checkpointer.intend(again.lease, 1, 2)
            await checkpointer.settle(again.lease, ok(1), ok(2))
        assert (await end(store)).counts.unknown == 1
        page = await store.results.in_order(job.id, "ann")
        assert [each.outcome for each in page.results] == [Outcome.UNKNOWN, Outcome.OK, Outcome.OK]


async def lose(store: JobStore, place: Place, poison: bytes) -> None:
    """Workers that are lost as soon as they come to one item; everything else they do."""
    for _ in range(30):
        claims = await store.claims.claim("w", 1, kinds=[Kind.ITEMS])
        if not claims:
            return
        [claimed] = claims
        if claimed.is_suspect:
            assert await store.claims.blame(claimed.lease)
        for seq, each in (await store.inputs.items(claimed)).items():
            if each == poison:
                place.clock.now += LEASE + 1
                break
            await settle(store, claimed, [ok(seq)])
    raise AssertionError("it goes on for ever")


@on_a_loop
async def test_an_item_that_kills_workers_ends_alone(place: Place) -> None:
    """After three lost workers its chunk is split, after three more it is an error; all others are done."""
    async with place.opened(chunk_items=5, inline_bytes=0) as store:
        job = await submit(store, 10)
        await lose(store, place, item(6))
        ended = await end(store)
        assert (ended.counts.ok, ended.counts.failed) == (9, 1)
        [failed] = (await store.results.in_order(job.id, "ann", outcomes=[Outcome.ERROR])).results
        assert (failed.seq, failed.failure, failed.attempts) == (6, WORKER_LOST, 3)
        page = await store.results.in_completion_order(job.id, "ann")
        assert sorted(each.seq for each in page.results) == list(range(10))
        assert page.complete


@on_a_loop
async def test_a_large_chunk_comes_to_single_items_in_two_steps(place: Place) -> None:
    """Each part may have to be read along with all the others: there are not as many of them as there are items.

    What has a result, and what is parked, is in no other hands by that."""
    n, poison, parked = 400, 251, 399
    async with place.opened(chunk_items=n, inline_bytes=1024 * 1024) as store:
        job = await submit(store, n)
        claims = 0
        while found := await store.claims.claim("w", 1, kinds=[Kind.ITEMS]):
            [claimed] = found
            claims += 1
            assert claims < 100, "one for each item"
            if claimed.is_suspect:
                assert await store.claims.blame(claimed.lease)
            items = await store.inputs.items(claimed)
            assert items == {seq: item(seq) for seq in claimed.open_seqs}
            if claims == 1:
                async with store.checkpointer() as checkpointer:
                    await checkpointer.settle(claimed.lease, *(ok(seq) for seq in range(0, n // 2, 2)))
                    await checkpointer.park(claimed.lease, Parked(parked, 1, 0.0), Parked(1, 1, 0.0))
            if item(poison) in items.values():
                place.clock.now += LEASE + 1
                continue
            assert claimed.parked.keys() == {1, parked} & items.keys()
            await settle(store, claimed)
        ended = await end(store)
        assert (ended.counts.ok, ended.counts.failed, ended.counts.parked) == (n - 1, 1, 0)
        [failed] = (await store.results.in_order(job.id, "ann", outcomes=[Outcome.ERROR])).results
        assert (failed.seq, failed.failure) == (poison, WORKER_LOST)
        seen: list[int] = []
        page = await store.results.in_completion_order(job.id, "ann")
        while page.results:
            seen += [each.seq for each in page.results]
            page = await store.results.in_completion_order(job.id, "ann", after=page.cursor)
        assert sorted(seen) == list(range(n))


@on_a_loop
async def test_the_innocent_are_not_given_up_with_the_guilty(place: Place) -> None:
    """Not even by workers that take all they can get, and are lost before anything that they have is done."""
    async with place.opened(chunk_items=5) as store:
        job = await submit(store, 10)
        for n in range(30):
            claims = await store.claims.claim(f"w{n}", 100, kinds=[Kind.ITEMS])
            if not claims:
                break
            for claimed in claims:
                if claimed.is_suspect:
                    await store.claims.blame(claimed.lease)
            if any(6 in claimed.open_seqs for claimed in claims):
                place.clock.now += LEASE + 1
                continue
            for claimed in claims:
                await settle(store, claimed)
        assert (await end(store)).counts.ok == 9
        [failed] = (await store.results.in_order(job.id, "ann", outcomes=[Outcome.ERROR])).results
        assert (failed.seq, failed.failure) == (6, WORKER_LOST)


@on_a_loop
async def test_several_guilty_take_no_innocent_along(place: Place) -> None:
    """One that is at its last chance is lost along with others that run; only what ran alone was it itself."""
    async with place.opened(chunk_items=1, lost=2) as store:
        job = await submit(store, 2)
        first = await store.claims.claim("lost", 10)
        assert [each.is_suspect for each in first] == [False, False]
        for n in range(5):
            # Each time it is lost with something else, and before it was begun.
            place.clock.now += LEASE + 1
            suspect = await claim(store, f"w{n}")
            assert (suspect.first_seq, suspect.lost, suspect.is_suspect) == (0, 1, True)
        place.clock.now += LEASE + 1
        suspect = await claim(store)
        assert await store.claims.blame(suspect.lease)
        await store.claims.release([suspect.lease])  # in an orderly way, which is nobody's fault
        suspect = await claim(store)
        assert (suspect.first_seq, suspect.lost) == (0, 1)
        assert await store.claims.blame(suspect.lease)
        place.clock.now += LEASE + 1
        other = await claim(store)
        assert (other.first_seq, other.is_suspect) == (1, True)
        assert not await store.claims.blame(suspect.lease)
        [failed] = (await store.results.in_completion_order(job.id, "ann")).results
        assert (failed.seq, failed.failure, failed.attempts) == (0, WORKER_LOST, 2)
        await settle(store, other)
        assert (await end(store)).counts.ok == 1


@on_a_loop
async def test_one_item_at_a_time_has_its_last_chance(place: Place) -> None:
    """A worker gets the next one when it is done with it; another worker gets another at once."""
    async with place.opened(chunk_items=1, lost=2) as store:
        await submit(store, 4)
        assert len(await store.claims.claim("lost", 10)) == 4
        place.clock.now += LEASE + 1
        one, two = await claim(store, "w1"), await claim(store, "w2")
        assert [one.lease.chunk, two.lease.chunk] == [0, 1]
        fresh = await submit(store, 1)
        assert (await claim(store, "w1")).lease.job == fresh.id
        assert await store.claims.claim("w1", 10) == []
        await settle(store, one)
        await store.claims.release([two.lease])
        assert (await claim(store, "w1")).lease.chunk == 1
        assert (await claim(store, "w2")).lease.chunk == 2


@on_a_loop
async def test_what_is_parked_moves_along_when_a_chunk_is_split(place: Place) -> None:
    """What was intended as well is `unknown`, and waits for nothing any more."""
    async with place.opened(lost=1) as store:
        job = await submit(store, 3)
        claimed = await claim(store, "lost")
        async with store.checkpointer() as checkpointer:
            await checkpointer.park(claimed.lease, Parked(0, 1, 50.0), Parked(1, 1, 500.0, "503"))
            await checkpointer.intend(claimed.lease, 0)
        place.clock.now += LEASE + 1
        claims = await store.claims.claim("w", 10)
        assert [(each.first_seq, each.n, dict(each.parked)) for each in claims] == [
            (1, 1, {1: Parked(1, 1, 500.0 - LEASE - 1, "503")}),
            (2, 1, {}),
        ]
        counts = (await store.jobs.get(job.id, "ann")).counts
        assert (counts.done, counts.unknown, counts.parked, counts.leased) == (1, 1, 1, 1)
        rows = await store._database.read(_waiting)
        assert rows == {(1, claims[0].lease.chunk)}


async def _waiting(connection: AsyncConnection, now: float) -> set[tuple[int, int]]:
    return {(row.seq, row.chunk) for row in await connection.execute(select(retry.c.seq, retry.c.chunk))}


@on_a_loop
async def test_what_was_said_last_of_an_item_counts(place: Place) -> None:
    """Also if it is committed along with what was said before."""
    async with place.opened() as store:
        await submit(store, 3)
        lease = (await claim(store)).lease
        await store.checkpoints.write(
            [
                Entry(lease=lease, intended=(0, 1, 2)),
                Entry(lease=lease, withdrawn=(0,)),
                Entry(lease=lease, parked=(Parked(1, 1, 0.0), Parked(2, 1, 0.0))),
                Entry(lease=lease, intended=(2,)),
            ]
        )
        place.clock.now += LEASE + 1
        again = await claim(store, "w2")
        assert again.open_seqs == [0, 1]
        assert again.settled[2].outcome is Outcome.UNKNOWN


@asynccontextmanager
async def uncommitted(store: JobStore, worker: str) -> AsyncIterator[asyncio.Task[list[Claim]]]:
    """A claim of one chunk that has been made, and is committed in the end, or as soon as others wait for it."""
    is_made, is_left = asyncio.Event(), asyncio.Event()

    async def work(connection: AsyncConnection, now: float) -> list[Claim]:
        claims = await _Claiming(store._database, connection, now, worker, [Kind.ITEMS]).run(1)
        is_made.set()
        while not is_left.is_set() and not (await connection.execute(_WAITING)).scalar_one():
            await asyncio.sleep(0)
        return claims

    claiming = asyncio.create_task(store._database.write(work))
    try:
        await is_made.wait()
        yield claiming
    finally:
        is_left.set()
        await claiming


_WAITING = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))")


@on_a_loop
async def test_two_workers_split_chunks_of_one_job_at_once(postgresql_place: Place) -> None:
    """The children of both have numbers of their own."""
    async with postgresql_place.opened(lost=1) as store:
        job = await submit(store, 12)
        claims = await store.claims.claim("lost", 4)
        # Of those in between the first worker gets one, and locks the other on the way.
        await store.claims.release([each.lease for each in claims[1:3]])
        postgresql_place.clock.now += LEASE + 1
        async with uncommitted(store, "w1") as claiming:
            two = await store.claims.claim("w2", 10)
        assert [each.first_seq for each in await claiming] == [3]
        assert {each.first_seq for each in two} >= {9, 10, 11}
        claims = [*await claiming, *two, *await store.claims.claim("w3", 10)]
        assert sorted(each.first_seq for each in claims) == [0, 1, 2, 3, 6, 9, 10, 11]
        for claimed in claims:
            await settle(store, claimed)
        assert (await store.jobs.get(job.id, "ann")).counts.ok == 12


@on_a_loop
async def test_an_end_waits_for_a_claim_that_it_did_not_see(postgresql_place: Place) -> None:
    """What was claimed in the moment of a cancellation is done, and what becomes of it counts."""
    async with postgresql_place.opened() as store:
        job = await submit(store, 6)
        [first] = await store.claims.claim("w", 1)
        await store.claims.release([first.lease])
        async with uncommitted(store, "late") as claiming:
            await store.ending.cancel(job.id, "ann")
            ending = await claim(store, "w-end")
            assert ending.lease.kind is Kind.FINALIZE
            with pytest.raises(WrongState):
                await store.ending.settle_rest(ending.lease)
        [late] = await claiming
        await store.claims.release([ending.lease])
        assert await store.claims.claim("w-end", 10) == []
        await settle(store, late)
        counts = (await end(store)).counts
        assert (counts.ok, counts.cancelled) == (3, 3)


@on_a_loop
async def test_a_clock_that_went_back_keeps_no_lease(place: Place) -> None:
    """Leases that would last too long are shortened by the next sweep."""
    async with place.opened() as store:
        await submit(store, 3)
        await claim(store, "lost")
        place.clock.now -= 3600
        await store.retention.sweep()
        place.clock.now += 2 * LEASE + 1
        assert (await claim(store)).lease.epoch == 2


@on_a_loop
async def test_a_clock_that_went_back_holds_up_nothing(place: Place) -> None:
    """Nor does what waits for such a lease: the end of its job, places at an upstream, work that was put off."""
    limits = Limits(max_in_flight=3)
    async with place.opened() as store:
        job = await submit(store, 3)
        await claim(store, "lost")
        await store.limiter.take("u", "lost", limits, items=3, places=3)
        await store.ending.cancel(job.id, "ann")
        put_off = await submit(store, 0, validate=True)
        claimed = await claim(store, "w")
        await store.claims.release([claimed.lease], delay=LEASE)
        place.clock.now -= 3600
        await store.retention.sweep()
        place.clock.now += 2 * LEASE
        kinds = {each.lease.job: each.lease.kind for each in await store.claims.claim("w", 10)}
        assert kinds == {job.id: Kind.FINALIZE, put_off.id: Kind.VALIDATE}
        assert (await store.limiter.take("u", "w", limits, items=3, places=3)).places == 3


@on_a_loop
async def test_workers_are_known_until_they_are_forgotten(place: Place) -> None:
    """They can be asked to stop, and leave; who does neither is forgotten after a while."""
    async with place.opened() as store:
        one, two = await store.workers.register(version="1"), await store.workers.register()
        assert [each.id for each in await store.workers.list()] == [one, two]
        assert not await store.workers.beat(one)
        assert await store.workers.drain(one)
        assert await store.workers.beat(one)
        await store.workers.leave(one)
        assert not await store.workers.drain(one)
        place.clock.now += 20 * LEASE
        assert (await store.retention.sweep()).forgotten == 1
