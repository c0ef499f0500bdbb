"""The store cannot be written, or is not there: work waits for it, and goes on."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batchproxy.jobs.store import Claim, Lease, Renewal, StoreBusy, StoreCorrupt, StoreUnreachable
from batchproxy.jobs.working import JobWorker, holds
from batchproxy.jobs.working.outages import Outage, patiently, repeated
from batchproxy.jobs.working.plan import Plan, Start
from tests.engine.on_virtual_time import on_virtual_time
from tests.jobs.place import Place
from tests.jobs.postgresql import cluster
from tests.proxy.on_a_loop import on_a_loop

from .lines import Api, Lines, ended, get, post, quick, store_at, submit, until


@on_a_loop
async def test_places_are_held_until_the_commit(
    sqlite: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as nothing can be written, nothing more is begun than there are places; then all goes on."""
    api = Api(tmp_path)
    async with store_at(sqlite, wait=0.1, lease=60) as store:
        async with JobWorker(store, [Lines(api.app)], quick(concurrency=4)):
            job_id = await submit(
                store, [post(f"/gated/{n}") for n in range(20)], options={"delivery": "at_least_once"}
            )
            await until(lambda: api.in_flight == 4)
            lock = sqlite3.connect(sqlite.url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
            # Not on the loop, which may be in the midst of a transaction.
            await asyncio.to_thread(lock.execute, "BEGIN IMMEDIATE")
            api.open_gate()
            await until(lambda: api.in_flight == 0)
            await until(lambda: "work.waits" in caplog.text)
            assert len(api.ledger.lines) == 4
            lock.execute("ROLLBACK")
            lock.close()
            assert (await ended(store, job_id)).counts.ok == 20
        assert set(api.ledger.counted.values()) == {1}


def test_a_database_that_is_gone_for_a_while(tmp_path: Path) -> None:
    """Longer than the leases last: what was answered meanwhile counts, and no item is sent twice."""
    api = Api(tmp_path)
    with cluster() as server:
        url = server.new_url()

        @on_a_loop
        async def check() -> None:
            async with (
                store_at(Place(url, tmp_path), wait=1, lease=2) as store,
                JobWorker(store, [Lines(api.app)], quick(concurrency=4)) as worker,
            ):
                items = [post(f"/gated/{n}") for n in range(12)]
                job_id = await submit(store, [*items, get("/items/last")])
                await until(lambda: api.in_flight == 4)
                await asyncio.to_thread(server.stop)
                api.open_gate()
                await until(lambda: api.in_flight == 0)
                [chunk, *_] = worker._chunks
                await until(lambda: not chunk.hold.is_sure)
                await asyncio.to_thread(server.start)
                job = await ended(store, job_id)
                assert (job.counts.ok, job.counts.unknown) == (13, 0)
            assert set(api.ledger.counted.values()) == {1}

        check()


@on_a_loop
async def test_a_store_that_is_broken_is_asked_again(
    sqlite: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what does not pass by itself may be repaired: no item that was answered is lost with the worker."""
    api = Api(tmp_path)
    async with store_at(sqlite) as store:
        commit, broken = store.checkpoints.commit, [StoreCorrupt("on purpose"), RuntimeError("on purpose")]

        async def failing(*given):  # type: ignore[no-untyped-def]
            if broken:
                raise broken.pop()
            return await commit(*given)

        monkeypatch.setattr(store.checkpoints, "commit", failing)
        monkeypatch.setattr("batchproxy.jobs.working.chunk._LATER", 0.05)
        monkeypatch.setattr("batchproxy.jobs.working.chunk._SOON", 0.05)
        async with JobWorker(store, [Lines(api.app)], quick()):
            job = await ended(store, await submit(store, [get(f"/items/{n}") for n in range(5)]))
            assert job.counts.ok == 5


@on_a_loop
async def test_a_chunk_without_progress_is_given_back(
    sqlite: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever keeps a worker from going on with it: an alarm is raised, and somebody else may do better."""
    api = Api(tmp_path)
    next_one = Plan.next
    forgotten: list[Plan] = []

    def forgetful(plan: Plan, now: float, enter: Callable[[str], bool]) -> Start | None:
        if not forgotten:
            forgotten.append(plan)
        return None if plan is forgotten[0] else next_one(plan, now, enter)

    monkeypatch.setattr(Plan, "next", forgetful)
    async with store_at(sqlite, lease=0.6) as store, JobWorker(store, [Lines(api.app)], quick(watchdog=1)):
        job_id = await submit(store, [get("/items/a")])
        assert (await ended(store, job_id)).counts.ok == 1
        assert "chunk.stuck" in caplog.text


@on_a_loop
async def test_nothing_is_claimed_by_who_cannot_rely_on_what_he_has(
    sqlite: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else he would take his own work from himself, along with the results that wait to be committed."""
    api = Api(tmp_path)
    async with store_at(sqlite) as store:
        renew, claim = store.claims.renew, store.claims.claim
        is_out, claimed_while_unsure = True, 0

        async def renewing(leases: Collection[Lease]) -> Renewal:
            if is_out:
                raise StoreUnreachable("on purpose")
            return await renew(leases)

        async def claiming(*given: Any, **named: Any) -> list[Claim]:
            nonlocal claimed_while_unsure
            claimed_while_unsure += not worker._is_sure
            return await claim(*given, **named)

        monkeypatch.setattr(store.claims, "renew", renewing)
        monkeypatch.setattr(store.claims, "claim", claiming)
        async with JobWorker(store, [Lines(api.app)], quick(concurrency=4, poll=0.01)) as worker:
            job_id = await submit(store, [post("/gated/a"), *(post(f"/items/{n}") for n in range(30))])
            await until(lambda: api.in_flight == 1)
            with monkeypatch.context() as patched:
                patched.setattr(holds, "_USABLE", 0)
                await until(lambda: not worker._is_sure)
                await until(partial(_has_passed, time.monotonic() + 0.5))
            is_out = False
            api.open_gate()
            job = await ended(store, job_id)
        assert (job.counts.ok, claimed_while_unsure) == (31, 0)


@on_a_loop
async def test_nothing_is_begun_by_who_cannot_rely_on_what_he_has(
    sqlite: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By his own clock: who was frozen begins nothing until the store has said what he still has."""
    api, may = Api(tmp_path), asyncio.Event()
    async with store_at(sqlite) as store:
        renew = store.claims.renew

        async def renewing(leases: Collection[Lease]) -> Renewal:
            await may.wait()
            return await renew(leases)

        monkeypatch.setattr(store.claims, "renew", renewing)
        async with JobWorker(store, [Lines(api.app)], quick(concurrency=2)):
            items = [*(get(f"/gated/{n}") for n in range(2)), *(get(f"/items/{n}") for n in range(6))]
            job_id = await submit(store, items)
            await until(lambda: api.in_flight == 2)

            async def is_committed() -> bool:
                return (await store.jobs.get(job_id, None)).counts.ok == 2

            with monkeypatch.context() as patched:
                patched.setattr(holds, "_USABLE", 0)
                api.open_gate()
                await until(is_committed)
                await until(partial(_has_passed, time.monotonic() + 0.3))
                assert len(api.ledger.lines) == 2
            may.set()
            assert (await ended(store, job_id)).counts.ok == 8


@on_a_loop
async def test_what_cannot_be_given_back_is_kept(
    sqlite: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk for which there is no place is done in its turn: else nobody would do it as long as its lease lasts."""
    api, refused = Api(tmp_path), list[Lease]()

    async def refusing(leases: Collection[Lease]) -> set[Lease]:
        refused.extend(leases)
        raise StoreBusy("on purpose")

    async with store_at(sqlite, lease=600) as store, JobWorker(store, [Lines(api.app)], quick(concurrency=4)):
        job_id = await submit(store, [get(f"/gated/{n}") for n in range(20)])
        await until(lambda: api.in_flight == 4)
        with monkeypatch.context() as patched:
            patched.setattr(store.claims, "release", refusing)
            await until(lambda: refused)
        api.open_gate()
        assert (await ended(store, job_id)).counts.ok == 20
    assert set(api.ledger.counted.values()) == {1}


def _has_passed(when: float) -> bool:
    return time.monotonic() >= when


@on_virtual_time
async def test_patience_ends() -> None:
    """With the error, as soon as it is too late; at once, if it does not pass."""
    asked: list[int] = []

    async def unreachable() -> None:
        asked.append(1)
        raise StoreUnreachable("on purpose")

    with pytest.raises(StoreUnreachable):
        await patiently(unreachable, lambda: len(asked) < 5)
    assert len(asked) == 5

    async def corrupt() -> None:
        raise StoreCorrupt("on purpose")

    with pytest.raises(StoreCorrupt):
        await patiently(corrupt, lambda: True)


@on_virtual_time
async def test_a_loop_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it raises; an outage is told once, and that it is over."""
    raised: list[Exception] = [StoreUnreachable("a")] * 4 + [ValueError("b")]
    pauses: list[float] = []
    enough = asyncio.Event()

    async def once() -> float:
        if raised:
            raise raised.pop()
        enough.set()
        return 7.0

    async def sleep(pause: float) -> None:
        pauses.append(pause)
        await asyncio.sleep(pause)

    class Noted(Outage):
        async def wait(self, seconds: float) -> None:
            pauses.append(seconds)
            await super().wait(seconds)

    task = asyncio.ensure_future(repeated("claim", once, sleep, Noted()))
    await enough.wait()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert len(pauses) == 6
    assert all(0.02 < pause <= 0.4 for pause in pauses[1:5])
    assert pauses[1] < pauses[4]
    assert pauses[5] == 7.0
    assert caplog.text.count("work.waits") == 1
    assert caplog.text.count("work.failed") == 1


@on_virtual_time
async def test_who_finds_the_store_back_wakes_the_others() -> None:
    """However long their own pauses have become: leases are to be renewed as soon as work can be claimed."""
    loop = asyncio.get_running_loop()
    outage, found = Outage(), list[float]()

    async def once() -> float:
        if loop.time() < 60:
            raise StoreUnreachable("on purpose")
        found.append(loop.time())
        return 1000.0

    tasks = [asyncio.ensure_future(repeated(name, once, asyncio.sleep, outage)) for name in ("claim", "renew", "beat")]
    while len(found) < len(tasks):
        await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert max(found) == min(found)
