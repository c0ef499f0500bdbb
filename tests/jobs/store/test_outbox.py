"""Messages to others: taken by one sender at a time, and told at least once."""

from __future__ import annotations

import asyncio

import pytest

from batchproxy.jobs.store import OUTBOX, JobStore, LeaseLost, Message
from tests.proxy.on_a_loop import PATIENCE, on_a_loop

from ..place import LEASE, Place, claim, rows, settle, submit


async def say(store: JobStore, *names: str) -> str:
    """Ends a job with messages; its id."""
    job = await submit(store, 1)
    await settle(store, await claim(store))
    claimed = await claim(store)
    messages = [Message(event="job.ended", name=name, target=b"t", payload=name.encode()) for name in names]
    await store.ending.finish(claimed.lease, messages=messages)
    return job.id


@on_a_loop
async def test_a_message_is_for_one_sender(place: Place) -> None:
    """Many who take at once get each once; one that is told is not there any more."""
    async with place.opened() as store:
        names = [f"n{n}" for n in range(10)]
        job_id = await say(store, *names)
        taken = [each for some in await asyncio.gather(*(store.outbox.take(3) for _ in range(6))) for each in some]
        taken += await store.outbox.take(10)
        assert sorted(each.payload.decode() for each in taken) == names
        assert {each.id for each in taken} == {f"{job_id}.job.ended.{name}" for name in names}
        assert all([await store.outbox.done(each) for each in taken])
        place.clock.now += 10_000
        assert await store.outbox.take(10) == []


@on_a_loop
async def test_a_sender_that_is_lost_is_followed_by_another(place: Place) -> None:
    """With the same id; what the lost one says later counts for nothing."""
    async with place.opened() as store:
        await say(store, "n")
        [lost] = await store.outbox.take(lease=60)
        assert await store.outbox.take() == []
        place.clock.now += 60
        [other] = await store.outbox.take()
        assert (other.id, other.attempt) == (lost.id, 0)
        assert not await store.outbox.reschedule(lost, delay=0)
        assert not await store.outbox.done(lost)
        assert await store.outbox.done(other)


@on_a_loop
async def test_a_message_is_tried_again_later(place: Place) -> None:
    """As often as its sender says, until it is given up; then it is removed with its job."""
    async with place.opened() as store:
        job_id = await say(store, "n")
        for attempt in range(3):
            [taken] = await store.outbox.take()
            assert taken.attempt == attempt
            assert await store.outbox.reschedule(taken, delay=100, detail="500")
            assert await store.outbox.take() == []
            place.clock.now += 100
        [taken] = await store.outbox.take()
        assert await store.outbox.give_up(taken, detail="410")
        place.clock.now += 10_000
        assert await store.outbox.take() == []
        await store.retention.delete(job_id, "ann")


@on_a_loop
async def test_what_is_handed_back_is_due_at_once(place: Place) -> None:
    """As if nobody had had it; what is another's by then stays his, what was told stays told."""
    async with place.opened() as store:
        await say(store, "a", "b", "c")
        lost = await store.outbox.take(3, lease=60)
        place.clock.now += 60
        [others] = await store.outbox.take(1, lease=60)
        kept = [each for each in lost if each.id != others.id]
        assert await store.outbox.done(kept[0])
        with store.hints.on(OUTBOX) as hint:
            await store.outbox.release(lost)
            assert await hint.wait(PATIENCE)
        [taken] = await store.outbox.take(3)
        assert (taken.id, taken.attempt) == (kept[1].id, 0)
        assert await store.outbox.done(others)


@on_a_loop
async def test_who_waits_knows_for_how_long(place: Place) -> None:
    """Until the next message is due, in whosoever's hands it is; one that was given up never is."""
    async with place.opened() as store:
        assert await store.outbox.next_due() is None
        with store.hints.on(OUTBOX) as hint:
            await say(store, "a")
            assert await hint.wait(PATIENCE)
        place.clock.now += 5
        assert await store.outbox.next_due() == 0
        [taken] = await store.outbox.take(lease=60)
        assert await store.outbox.next_due() == 60
        assert await store.outbox.reschedule(taken, delay=100)
        assert await store.outbox.next_due() == 100
        assert await store.outbox.give_up(taken)
        assert await store.outbox.next_due() is None


@on_a_loop
async def test_a_failure_is_told_as_well(place: Place) -> None:
    """Of a job that is not valid: along with that, or not at all."""
    async with place.opened() as store:
        message = Message(event="job.failed", target=b"t", payload=b"p")
        job = await submit(store, 0, validate=True)
        lost = await claim(store)
        place.clock.now += LEASE
        claimed = await claim(store)
        with pytest.raises(LeaseLost):
            await store.ending.fail(lost.lease, b"why", messages=[message])
        assert await store.outbox.take() == []
        await store.ending.fail(claimed.lease, b"why", messages=[message])
        [taken] = await store.outbox.take()
        assert (taken.id, taken.owner) == (f"{job.id}.job.failed.0", "ann")


@on_a_loop
async def test_what_is_given_up_after_its_job_is_gone_is_forgotten(place: Place) -> None:
    """The tries may last longer than the job is kept; as long as that is there, it can be looked at."""
    async with place.opened(keep=50_000) as store:
        for _ in range(2):
            await say(store, "n")
        place.clock.now += 100
        first, second = await store.outbox.take(2)
        assert await store.outbox.give_up(first)
        await store.outbox.reschedule(second, delay=100_000)
        await store.retention.sweep()
        assert (await rows(place))["batchproxy_outbox"] == 2
        place.clock.now += 100_000
        await store.retention.sweep()
        [again] = await store.outbox.take(2)
        assert again.id == second.id
        assert await store.outbox.give_up(again)
        await store.retention.sweep()
        assert "batchproxy_outbox" not in await rows(place)


@on_a_loop
async def test_what_nobody_tells_is_forgotten_in_the_end(place: Place) -> None:
    """Once its job is gone, and for so long that nobody seems to send any more."""
    async with place.opened(keep=100, tombstones=1000) as store:
        await say(store, "n")
        place.clock.now += 6 * 86400
        await store.retention.sweep()
        assert (await rows(place))["batchproxy_outbox"] == 1
        place.clock.now += 2 * 86400
        await store.retention.sweep()
        assert "batchproxy_outbox" not in await rows(place)
