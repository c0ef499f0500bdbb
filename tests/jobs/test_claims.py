"""Leases: each chunk belongs to one worker, who is fenced off once it does not."""

from __future__ import annotations

import asyncio
from collections import Counter

from batchproxy.jobs import WORKER_LOST, Entry, JobState, JobStore, Kind, Outcome, Parked, Verdict
from batchproxy.jobs.claims import Candidate, shares
from tests.proxy.on_a_loop import on_a_loop

from .place import LEASE, Place, claim, complete, end, item, ok, settle, submit


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
