"""Messages to others: taken by one sender at a time, and told at least once."""

from __future__ import annotations

import asyncio

from batchproxy.jobs.store import JobStore, Message
from tests.proxy.on_a_loop import on_a_loop

from ..place import Place, claim, settle, submit


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
