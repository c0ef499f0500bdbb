"""How jobs end: once, with a result for every item, whoever is lost on the way."""

from __future__ import annotations

import pytest

from batchproxy.jobs.store import JobState, Kind, LeaseLost, Message, NotFound, Outcome, Parked, WrongState
from batchproxy.jobs.store.states import TERMINAL, TRANSITIONS, before
from tests.proxy.on_a_loop import on_a_loop

from ..place import LEASE, Place, claim, complete, end, error, ok, rows, settle, submit


def test_terminal_states_have_nothing_behind_them() -> None:
    """And every other state leads to one."""
    assert {state for state in JobState if not TRANSITIONS[state]} == TERMINAL
    for state in set(JobState) - TERMINAL:
        reached, waiting = set(), [state]
        while waiting:
            reached.add(each := waiting.pop())
            waiting += TRANSITIONS[each] - reached
        assert reached & TERMINAL
        assert state not in before(state)


@on_a_loop
async def test_a_job_of_failures_is_completed(place: Place) -> None:
    """Items fail, jobs do not."""
    async with place.opened() as store:
        job = await submit(store, 3, secret=b"s", keep=60.0)
        claimed = await claim(store)
        await settle(store, claimed, [error(seq) for seq in claimed.open_seqs])
        ended = await end(store)
        assert (ended.state, ended.counts.failed, ended.counts.ok) == (JobState.COMPLETED, 3, 0)
        assert (ended.secret, ended.finished_at, ended.purge_at) == (None, place.clock.now, place.clock.now + 60)
        assert await store.jobs.get(job.id, "ann") == ended


@on_a_loop
@pytest.mark.parametrize("claimed_before", [False, True], ids=["queued", "running"])
async def test_a_cancelled_job_keeps_what_is_done(place: Place, claimed_before: bool) -> None:
    """Nothing more is claimed; the rest is `cancelled`. Asking twice changes nothing."""
    async with place.opened() as store:
        job = await submit(store, 6)
        leases = []
        if claimed_before:
            [claimed] = await store.claims.claim("w", 1)
            await settle(store, claimed, [ok(0)])
            leases = [claimed.lease]
        cancelled = await store.ending.cancel(job.id, "ann")
        assert cancelled.state is JobState.CANCELLING
        assert await store.ending.cancel(job.id, "ann") == cancelled
        assert await store.jobs.stopping([job.id]) == {job.id}
        assert (await store.claims.renew(leases)).stopping == {lease.job for lease in leases}
        if claimed_before:
            assert await store.claims.claim("w", 10) == [], "somebody is still at it"
            await settle(store, claimed, [ok(1)])
            await store.claims.release(leases)
        ended = await end(store)
        done = 2 if claimed_before else 0
        assert (ended.state, ended.counts.ok, ended.counts.cancelled) == (JobState.CANCELLED, done, 6 - done)
        assert (await store.ending.cancel(job.id, "ann")).state is JobState.CANCELLED
        with pytest.raises(NotFound):
            await store.ending.cancel(job.id, "bob")


@on_a_loop
async def test_what_ends_already_is_not_cancelled(place: Place) -> None:
    """Whoever asks amid the end of a job, or behind it, changes nothing: not even when whoever did it is lost."""
    async with place.opened() as store:
        job = await submit(store, 3)
        await settle(store, await claim(store))
        before = await store.jobs.get(job.id, "ann")
        assert before.state is JobState.FINALIZING
        assert await store.ending.cancel(job.id, "ann") == before
        lost = await claim(store, "lost")
        await store.ending.settle_rest(lost.lease)
        assert await store.ending.cancel(job.id, "ann") == before
        place.clock.now += LEASE
        ended = await end(store)
        assert (ended.state, ended.counts.ok, ended.cancel_requested_at) == (JobState.COMPLETED, 3, None)
        assert await store.ending.cancel(job.id, "ann") == ended


@on_a_loop
async def test_the_end_waits_for_a_lost_worker_no_longer_than_its_lease(place: Place) -> None:
    """Items that it may have sent are `unknown`, others as the end says."""
    async with place.opened() as store:
        job = await submit(store, 3)
        claimed = await claim(store, "lost")
        async with store.checkpointer() as checkpointer:
            await checkpointer.intend(claimed.lease, 1)
            await checkpointer.park(claimed.lease, Parked(2, 1, 500.0))
        await store.ending.cancel(job.id, "ann")
        place.clock.now += LEASE / 2
        await store.claims.renew([claimed.lease])
        place.clock.now += LEASE / 2
        assert await store.claims.claim("w", 10) == []
        place.clock.now += LEASE / 2
        ended = await end(store)
        assert (ended.counts.unknown, ended.counts.cancelled, ended.counts.parked) == (1, 2, 0)


@on_a_loop
async def test_an_end_that_is_put_off_comes_back_in_time(place: Place) -> None:
    """And not at once: else whoever cannot do it now tries without a pause."""
    async with place.opened() as store:
        await submit(store, 3)
        await settle(store, await claim(store))
        claimed = await claim(store)
        assert await store.claims.release([claimed.lease], delay=20.0) == {claimed.lease}
        assert await store.claims.claim("w", 10) == []
        assert await store.claims.next_due() == 20.0
        place.clock.now += 20
        assert (await end(store)).state is JobState.COMPLETED


@on_a_loop
async def test_an_end_waits_for_a_worker_that_found_back(place: Place) -> None:
    """Its lease was over, but nobody had its items: what it says of them still counts."""
    async with place.opened() as store:
        job = await submit(store, 6)
        [claimed] = await store.claims.claim("slow", 1)
        await store.ending.cancel(job.id, "ann")
        place.clock.now += LEASE + 1
        ending = await claim(store)
        assert (await store.claims.renew([claimed.lease])).renewed == {claimed.lease}
        with pytest.raises(WrongState):
            await store.ending.settle_rest(ending.lease)
        await store.claims.release([ending.lease])
        assert await store.claims.claim("w", 10) == []
        await settle(store, claimed)
        counts = (await end(store)).counts
        assert (counts.ok, counts.cancelled) == (3, 3)


@on_a_loop
async def test_a_deadline_ends_a_job(place: Place) -> None:
    """Finished items stay, the rest is `expired`; parked ones do not hold it up."""
    async with place.opened() as store:
        job = await submit(store, 6, deadline=100.0)
        claims = await store.claims.claim("w", 2)
        await settle(store, claims[0])
        async with store.checkpointer() as checkpointer:
            await checkpointer.park(claims[1].lease, *(Parked(seq, 1, 500.0) for seq in claims[1].open_seqs))
        await store.claims.release([claims[1].lease])
        assert await store.ending.expire() == []
        place.clock.now += 100
        assert await store.ending.expire() == [job.id]
        assert await store.ending.expire() == []
        ended = await end(store)
        assert (ended.state, ended.counts.ok, ended.counts.expired) == (JobState.EXPIRED, 3, 3)


@on_a_loop
async def test_the_end_comes_once(place: Place) -> None:
    """Of two who do its work, one with a lost lease: the other wins, with one message."""
    async with place.opened() as store:
        await submit(store, 3)
        await settle(store, await claim(store))
        message = Message(event="job.completed", target=b"t", payload=b"p")
        lost = await claim(store, "lost")
        place.clock.now += LEASE + 1
        won = await claim(store)
        assert (won.lease.kind, won.lost) == (Kind.FINALIZE, 1)
        with pytest.raises(LeaseLost):
            await store.ending.finish(lost.lease, messages=[message])
        ended = await store.ending.finish(won.lease, output_file="f", messages=[message])
        assert (ended.state, ended.output_file) == (JobState.COMPLETED, "f")
        with pytest.raises(LeaseLost):
            await store.ending.finish(won.lease, messages=[message])
        assert [each.event for each in await store.outbox.take(10)] == ["job.completed"]


@on_a_loop
async def test_a_job_does_not_end_before_its_items_do(place: Place) -> None:
    """Whoever forgets `settle_rest` is told so."""
    async with place.opened() as store:
        job = await submit(store, 3)
        await store.ending.cancel(job.id, "ann")
        claimed = await claim(store)
        with pytest.raises(WrongState):
            await store.ending.finish(claimed.lease)
        await store.ending.settle_rest(claimed.lease)
        assert (await store.ending.finish(claimed.lease)).state is JobState.CANCELLED


@on_a_loop
async def test_a_cancelled_validation_has_no_items(place: Place) -> None:
    """What it had added by then is as if it had never been."""
    async with place.opened(chunk_items=1) as store:
        job = await submit(store, 0, validate=True)
        claimed = await claim(store)
        async with store.validation(claimed) as validation:
            for _ in range(70):
                await validation.add(b"x")
            await store.ending.cancel(job.id, "ann")
            with pytest.raises(WrongState):
                await validation.commit()
        await store.claims.release([claimed.lease])
        ended = await end(store)
        assert (ended.state, ended.counts.total, ended.counts.done) == (JobState.CANCELLED, 0, 0)


@on_a_loop
async def test_a_job_that_has_ended_can_be_removed(place: Place) -> None:
    """Before, it cannot; afterwards nothing is left, and nobody finds it."""
    async with place.opened(inline_bytes=0) as store:
        job = await submit(store, 3)
        with pytest.raises(WrongState):
            await store.retention.delete(job.id, "ann")
        await complete(store)
        with pytest.raises(NotFound):
            await store.retention.delete(job.id, "bob")
        await store.retention.delete(job.id, "ann")
        with pytest.raises(NotFound):
            await store.results.in_order(job.id, "ann")
        assert [path for path in place.folder.rglob("*-blobs/*/*")] == []


@on_a_loop
async def test_a_job_is_kept_for_its_time(place: Place) -> None:
    """Then it is gone, and known to have been there for some more time; who reads meanwhile is told so."""
    async with place.opened(inline_bytes=0, tombstones=1000) as store:
        nothing = await rows(place)
        job = await submit(store, 9, keep=100.0)
        await complete(store)
        page = await store.results.in_order(job.id, "ann", limit=3)
        place.clock.now += 99
        assert (await store.retention.sweep()).purged == 0
        place.clock.now += 1
        swept = await store.retention.sweep()
        assert (swept.purged, swept.cleared) == (1, 1)
        for question in (
            store.results.in_order(job.id, "ann", after=page.cursor),
            store.jobs.get(job.id, "ann"),
            store.retry(job.id, "ann"),
        ):
            with pytest.raises(NotFound) as raised:
                await question
            assert raised.value.code == "gone"
        with pytest.raises(NotFound) as raised:
            await store.jobs.get(job.id, "bob")
        assert raised.value.code == "not_found"
        assert [path for path in place.folder.rglob("*-blobs/*/*")] == []
        assert (await rows(place)).keys() - nothing.keys() == {"batchproxy_job"}
        place.clock.now += 1000
        await store.retention.sweep()
        assert await rows(place) == nothing
        with pytest.raises(NotFound) as raised:
            await store.jobs.get(job.id, "ann")
        assert raised.value.code == "not_found"


@on_a_loop
async def test_outcomes_are_counted_for_good(place: Place) -> None:
    """The counts of an ended job are those that it had."""
    async with place.opened() as store:
        job = await submit(store, 9)
        for n, claimed in enumerate(await store.claims.claim("w", 3)):
            results = [error(seq) if seq % 3 == n else ok(seq) for seq in claimed.open_seqs]
            await settle(store, claimed, results)
        before_end = (await store.jobs.get(job.id, "ann")).counts
        assert (await end(store)).counts == before_end
        page = await store.results.in_order(job.id, "ann", outcomes=[Outcome.ERROR])
        assert [each.seq for each in page.results] == [0, 4, 8]
