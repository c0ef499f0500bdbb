"""Hints: they come, inside of a process and between them, and may fail to come."""

from __future__ import annotations

import asyncio
from pathlib import Path

from batchproxy.jobs.store import WORK, Kind
from tests.proxy.on_a_loop import PATIENCE, on_a_loop

from ..place import LEASE, Place, claim, complete, ok, submit
from ..postgresql import Cluster


@on_a_loop
async def test_waiters_are_woken(place: Place) -> None:
    """Workers by a submission, readers by results and the end."""
    async with place.opened() as store:
        with store.hints.on(WORK) as work:
            job = await submit(store, 3)
            assert await work.wait(PATIENCE)
        claimed = await claim(store)
        with store.hints.on(job.id) as changed, store.hints.on("other") as other:
            async with store.checkpointer() as checkpointer:
                await checkpointer.settle(claimed.lease, ok(0))
            assert await changed.wait(PATIENCE)
            await store.ending.cancel(job.id, "ann")
            assert await changed.wait(PATIENCE)
            assert not await other.wait(0.001)
        assert store.hints._waiting == {}


@on_a_loop
async def test_what_a_claim_changes_is_told(sqlite: Place) -> None:
    """It begins a job, and settles what workers are lost with: those who follow the job do not wait for a poll."""
    # With PostgreSQL a process hears its own hints once more, later.
    async with sqlite.opened(lost=1) as store:
        job = await submit(store, 1)
        with store.hints.on(job.id) as changed, store.hints.on(WORK) as work:
            claimed = await claim(store, "lost")
            assert await changed.wait(PATIENCE), "it runs"
            async with store.checkpointer() as checkpointer:
                await checkpointer.intend(claimed.lease, 0)
            while await changed.wait(0.001) or await work.wait(0.001):
                pass
            sqlite.clock.now += LEASE
            assert await store.claims.claim("w", 1, kinds=[Kind.ITEMS]) == []
            assert (await store.jobs.get(job.id, "ann")).counts.unknown == 1
            assert await changed.wait(PATIENCE), "an item has its result"
            assert await work.wait(PATIENCE), "there is an end to be claimed"
            await complete(store)
            while await changed.wait(0.001):
                pass
            assert await store.claims.claim("w", 1) == []
            assert not await changed.wait(0.001), "nothing has changed"


@on_a_loop
async def test_other_processes_are_told_what_a_claim_changes(postgresql: Cluster, tmp_path: Path) -> None:
    """As soon as it is committed."""
    place = Place(postgresql.new_url(), tmp_path)
    async with place.opened() as here, place.opened() as there:
        with there.hints.on(WORK) as work:
            while not await work.wait(0.05):
                await submit(here, 1)
        job = await submit(here, 1, owner="bob")
        with there.hints.on(job.id) as changed:
            await here.claims.claim("w", 100)
            assert await changed.wait(PATIENCE)


@on_a_loop
async def test_other_processes_are_woken(postgresql: Cluster, tmp_path: Path) -> None:
    """By PostgreSQL, as soon as the listener is there."""
    place = Place(postgresql.new_url(), tmp_path)
    async with place.opened() as here, place.opened() as there:
        with there.hints.on(WORK) as work:
            woken = asyncio.create_task(work.wait(PATIENCE))
            while not woken.done():
                await submit(here, 1)
                await asyncio.sleep(0)
            assert await woken


@on_a_loop
async def test_a_hint_is_not_missed_between_two_waits(sqlite: Place) -> None:
    """What happened since the last one is told at once."""
    async with sqlite.opened() as store:
        with store.hints.on(WORK) as work:
            await submit(store, 1)
            await submit(store, 1)
            assert await work.wait(0.001)
            assert not await work.wait(0.001)
