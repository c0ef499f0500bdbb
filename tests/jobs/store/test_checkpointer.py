"""Group commit: few transactions for many checkpoints, and nobody goes on before his is committed."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from batchproxy.jobs.store import (
    BlobStore,
    BlobWriter,
    Checkpointer,
    Entry,
    JobsError,
    LeaseLost,
    Parked,
    StoreFull,
    Verdict,
)
from batchproxy.jobs.store.blobs import Folder
from batchproxy.jobs.store.checkpoints import Checkpoints
from batchproxy.jobs.store.settling import Bodies
from tests.proxy.on_a_loop import on_a_loop

from ..place import Place, claim, ok, submit


@on_a_loop
async def test_many_checkpoints_share_a_transaction(place: Place) -> None:
    """What comes while one is committed goes into the next, all together."""
    passed: Counter[str] = Counter()
    async with place.opened(lambda point: passed.update([point]), chunk_items=200) as store:
        job = await submit(store, 200)
        claimed = await claim(store)
        async with store.checkpointer() as checkpointer:
            verdicts = await asyncio.gather(*(checkpointer.settle(claimed.lease, ok(seq)) for seq in range(200)))
        assert verdicts == [Verdict(held=True, kept=(seq,)) for seq in range(200)]
        assert passed["checkpoint.committed"] <= 2
        assert (await store.jobs.get(job.id, "ann")).counts.done == 200


@on_a_loop
async def test_nobody_goes_on_before_the_commit(place: Place) -> None:
    """Whoever is told that it is kept finds it in the store."""
    async with place.opened(chunk_items=50) as store:
        job = await submit(store, 50)
        claimed = await claim(store)

        async def one(seq: int) -> None:
            await checkpointer.settle(claimed.lease, ok(seq))
            assert [each.seq for each in await store.results.of(job.id, [seq])] == [seq]

        async with store.checkpointer(window=0.001) as checkpointer:
            await asyncio.gather(*map(one, range(50)))


@on_a_loop
async def test_one_lease_that_is_lost_harms_no_other(place: Place) -> None:
    """In one transaction each is told what became of his own."""
    async with place.opened() as store:
        await submit(store, 6)
        one, two = await store.claims.claim("w", 2)
        await store.claims.release([one.lease])
        said = [
            Entry(lease=one.lease, results=(ok(0),)),
            Entry(lease=two.lease, results=(ok(3),)),
            Entry(lease=two.lease, results=(ok(3), ok(4)), parked=(Parked(3, 1, 1.0), Parked(5, 1, 1.0))),
        ]
        assert await store.checkpoints.write(said) == [
            Verdict(held=False),
            Verdict(held=True, kept=(3,)),
            Verdict(held=True, kept=(3, 4, 3, 5)),
        ]


@on_a_loop
async def test_who_leaves_is_left_out(place: Place) -> None:
    """A checkpoint whose caller is cancelled before its turn is not made; the others are."""
    async with place.opened() as store:
        job = await submit(store, 3)
        claimed = await claim(store)
        async with store.checkpointer() as checkpointer:
            waiting = [asyncio.create_task(checkpointer.settle(claimed.lease, ok(seq))) for seq in range(3)]
            await asyncio.sleep(0)
            waiting[1].cancel()
            await asyncio.wait(waiting)
        assert [each.seq for each in await store.results.of(job.id, [0, 1, 2])] in ([0, 2], [0, 1, 2])
        assert not waiting[0].cancelled()


@on_a_loop
async def test_at_the_end_everything_is_committed(place: Place) -> None:
    """Leaving the block waits for what was said; then nothing more is taken."""
    async with place.opened() as store:
        job = await submit(store, 3)
        claimed = await claim(store)
        async with store.checkpointer() as checkpointer:
            waiting = [asyncio.create_task(checkpointer.settle(claimed.lease, ok(seq))) for seq in range(3)]
            await asyncio.sleep(0)
        assert all(each.done() for each in waiting)
        assert (await store.jobs.get(job.id, "ann")).counts.done == 3
        with pytest.raises(RuntimeError):
            await checkpointer.settle(claimed.lease, ok(0))


class Failing(Checkpoints):
    """Fails so many times with one error."""

    def __init__(self, inner: Checkpoints, error: JobsError, times: int) -> None:
        self._inner = inner
        self._error = error
        self.left = times

    async def commit(self, entries: list[Entry], bodies: Bodies) -> list[Verdict]:  # type: ignore[override]
        if self.left:
            self.left -= 1
            raise self._error
        return await self._inner.commit(entries, bodies)

    async def keep_bodies(self, entries: object) -> Bodies:
        return await self._inner.keep_bodies(entries)  # type: ignore[arg-type]


@on_a_loop
async def test_only_what_passes_is_tried_again(sqlite: Place) -> None:
    """A full disk is waited for; another error is told to all who wait."""
    async with sqlite.opened() as store:
        await submit(store, 3)
        claimed = await claim(store)
        async with Checkpointer(Failing(store.checkpoints, StoreFull("full"), 2)) as checkpointer:
            assert (await checkpointer.settle(claimed.lease, ok(0))).kept == (0,)
        async with Checkpointer(Failing(store.checkpoints, LeaseLost("lost"), 1)) as checkpointer:
            with pytest.raises(LeaseLost):
                await checkpointer.settle(claimed.lease, ok(1))
            assert (await checkpointer.settle(claimed.lease, ok(1))).kept == (1,)


@on_a_loop
async def test_large_bodies_of_one_commit_share_a_blob(sqlite: Place) -> None:
    """So that there is one file to make durable, not one for each."""

    class Counting(Folder):
        names: list[str] = []  # noqa: RUF012

        def writer(self, place: str, name: str) -> BlobWriter:  # type: ignore[override]
            self.names.append(name)
            return super().writer(place, name)

    folder: BlobStore = Counting(sqlite.folder / "blobs")
    async with sqlite.opened(inline_bytes=10) as store:
        checkpoints = Checkpoints(store._database, folder, store.hints, lambda point: None)
        await submit(store, 3)
        claimed = await claim(store)
        bodies = [bytes([seq]) * 1000 for seq in range(3)]
        await checkpoints.write([Entry(lease=claimed.lease, results=(ok(seq, bodies[seq]),)) for seq in range(3)])
        assert len(Counting.names) == 1
        kept = b"".join([piece async for piece in folder.stream(claimed.lease.job, Counting.names[0])])
        assert kept == b"".join(bodies)
