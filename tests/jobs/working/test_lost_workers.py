"""Workers that are killed, frozen and ended, in processes of their own, on both databases."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from batchproxy.engine.model import Receive, Scope, Send
from batchproxy.jobs.store import WORKER_LOST, JobState, Outcome
from batchproxy.jobs.working import JobWorker
from tests.jobs.place import Place
from tests.proxy.on_a_loop import on_a_loop

from .lines import Api, Lines, ended, get, post, quick, results, store_at, submit, until
from .workers import freeze, holds_nothing, outlive, send, workers

PLACES = 6
HELD = 20
"""So many items has a worker at most in its chunks. One that is thawed goes on with them until it hears that they are
another's: its leases would last, if it were not for `outlive`."""


@on_a_loop
async def test_workers_that_are_killed(place: Place, tmp_path: Path) -> None:
    """Early, half-way and late: nothing is lost, and nothing is done again but what was in flight."""
    n, api = 300, Api(tmp_path)
    with workers(place, tmp_path, concurrency=PLACES) as started:
        async with store_at(place) as store:
            job_id = await submit(store, [get(f"/slow/{n}") for n in range(n)])
            for share in (0.1, 0.5, 0.9):
                process = started.start()
                await until(partial(_has_arrived, api, n * share))
                await started.kill(process)
                await outlive(process, place)
            started.start()
            job = await ended(store, job_id)
            assert (job.state, job.counts.ok, job.counts.unknown) == (JobState.COMPLETED, n, 0)
            assert [each.seq for each in await results(store, job_id)] == list(range(n))
            counted = api.ledger.counted
            assert len(counted) == n
            assert 0 < counted.total() - n <= 3 * PLACES


@on_a_loop
async def test_a_write_is_never_sent_twice(place: Place, tmp_path: Path) -> None:
    """Of a killed worker: what may have been sent is unknown, and says so; the rest is done by the next one."""
    n, api = 40, Api(tmp_path)
    with workers(place, tmp_path, concurrency=PLACES) as started:
        async with store_at(place) as store:
            process = started.start()
            job_id = await submit(
                store, [*(post(f"/items/{n}") for n in range(5)), *(post(f"/gated/{n}") for n in range(5, n))]
            )
            await until(lambda: len(api.ledger.lines) == 5 + PLACES)
            await started.kill(process)
            await outlive(process, place)
            api.open_gate()
            async with JobWorker(store, [Lines(api.app)], quick(concurrency=PLACES)):
                job = await ended(store, job_id)
            assert job.state is JobState.COMPLETED
            assert (job.counts.ok + job.counts.unknown, PLACES <= job.counts.unknown <= PLACES) == (n, True)
            assert set(api.ledger.counted.values()) == {1}
            found = await results(store, job_id)
            assert len([each for each in found if each.outcome is Outcome.UNKNOWN]) == job.counts.unknown


@on_a_loop
async def test_a_worker_that_is_frozen_and_thawed(place: Place, tmp_path: Path) -> None:
    """Another one has its work by then: what it says is not heard, and it goes on with other work."""
    api = Api(tmp_path)
    with workers(place, tmp_path, concurrency=PLACES) as started:
        async with store_at(place) as store:
            frozen = started.start()
            reads, writes = [get(f"/gated/r{n}") for n in range(3)], [post(f"/gated/w{n}") for n in range(3)]
            job_id = await submit(store, [*reads, *writes, *(get(f"/items/{n}") for n in range(30))])
            await until(lambda: len(api.ledger.lines) >= PLACES)
            await freeze(frozen, place)
            await outlive(frozen, place)
            api.open_gate()
            async with JobWorker(store, [Lines(api.app)], quick(concurrency=PLACES)):
                job = await ended(store, job_id)
                told = await results(store, job_id)
            send(frozen, signal.SIGCONT)
            assert (job.counts.ok, job.counts.unknown) == (33, 3)
            answered = {json.loads(each.body)["pid"] for each in told[:3]}
            assert answered == {os.getpid()}
            assert {each.outcome for each in told[3:6]} == {Outcome.UNKNOWN}
            another = await submit(store, [get(f"/items/again-{n}") for n in range(30)])
            assert (await ended(store, another)).counts.ok == 30
            assert await results(store, job_id) == told
            await started.end(frozen)
            counted = api.ledger.counted
            assert max(counted[f"POST w{n}"] for n in range(3)) == 1
            assert counted.total() - len(counted) <= HELD


@on_a_loop
async def test_workers_that_freeze_again_and_again(place: Place, tmp_path: Path) -> None:
    """In turn, each until others have its work: the job ends, and no more is done again than each of them had then."""
    n, api = 500, Api(tmp_path)
    with workers(place, tmp_path, concurrency=PLACES) as started:
        async with store_at(place) as store:
            two = [started.start(), started.start()]
            await until(lambda: all(map(started.is_up, two)))
            job_id = await submit(store, [*(get(f"/slow/{n}") for n in range(n)), get("/gated/last")])
            for process in two:
                # On a slow machine all may be done by then, but for the last one.
                await until(partial(_has_arrived, api, min(len(api.ledger.lines) + 20, n)))
                await freeze(process, place)
                await outlive(process, place)
                await until(partial(holds_nothing, process, place))
                send(process, signal.SIGCONT)
            api.open_gate()
            job = await ended(store, job_id)
            assert (job.state, job.counts.ok) == (JobState.COMPLETED, n + 1)
            assert [each.seq for each in await results(store, job_id)] == list(range(n + 1))
            counted = api.ledger.counted
            assert len(counted) == n + 1
            assert counted.total() - len(counted) <= len(two) * HELD
            for process in two:
                await started.end(process)


@on_a_loop
async def test_a_rolling_restart(place: Place, tmp_path: Path) -> None:
    """Each worker is ended, and the next one goes on, though the leases would last for long: nothing is done twice."""
    n, api = 200, Api(tmp_path)
    with workers(place, tmp_path, store={"lease": 600}, concurrency=PLACES) as started:
        async with store_at(place, lease=600) as store:
            job_id = await submit(store, [post(f"/items/{n}") for n in range(n)])
            for share in (0.2, 0.4):
                process = started.start()
                await until(partial(_has_arrived, api, n * share))
                await started.end(process)
            started.start()
            job = await ended(store, job_id)
            assert (job.counts.ok, job.counts.unknown) == (n, 0)
            assert api.ledger.counted == Counter(f"POST {n}" for n in range(n))


@on_a_loop
async def test_an_item_that_kills_its_worker(place: Place, tmp_path: Path) -> None:
    """It is found, and ends `worker_lost`, alone: the others are done, in their order, by whoever comes next."""
    api = Api(tmp_path)
    quickly: dict[str, Any] = {"lost": 2}
    with workers(place, tmp_path, store=quickly, concurrency=1) as started:
        async with store_at(place, **quickly) as store:
            items = [
                get("/items/a", id="a"),
                get("/items/{x}", id="b", vars={"x": "a#/body/name"}),
                get("/poison/p", id="p", depends_on=["b"]),
                get("/items/c", id="c", depends_on=["p"]),
                get("/items/{x}-d", id="d", vars={"x": "b#/body/name"}, depends_on=["e"]),
                get("/items/e", id="e"),
            ]
            job_id = await submit(store, items)
            process = started.start()

            async def is_done() -> bool:
                nonlocal process
                if not process.is_alive():
                    await outlive(process, place)
                    process = started.start()
                return (await store.jobs.get(job_id, None)).is_terminal

            await until(is_done)
            found = await results(store, job_id)
            assert [(each.status, each.failure) for each in found] == [
                (200, None),
                (200, None),
                (0, WORKER_LOST),
                (424, "dependency_failed"),
                (200, None),
                (200, None),
            ]
            counted = api.ledger.counted
            assert counted.pop("GET p") == 4
            assert counted == {"GET a": 2, "GET a-d": 1, "GET e": 1}


@on_a_loop
async def test_several_items_that_kill_their_workers(sqlite: Place, tmp_path: Path) -> None:
    """Each of them is found, in one chunk or in several at once; whoever was only there when one did it is done."""
    quickly: dict[str, Any] = {"lost": 2, "chunk_items": 3}
    n, guilty = 18, {1, 7, 10}
    with workers(sqlite, tmp_path, store=quickly, concurrency=4) as started:
        async with store_at(sqlite, **quickly) as store:
            items = [get(f"/poison/{seq}" if seq in guilty else f"/slow/{seq}") for seq in range(n)]
            job_id = await submit(store, items)
            process = started.start()

            async def is_done() -> bool:
                nonlocal process
                if not process.is_alive():
                    await outlive(process, sqlite)
                    process = started.start()
                return (await store.jobs.get(job_id, None)).is_terminal

            await until(is_done)
            found = await results(store, job_id)
            assert {each.seq for each in found if each.failure == WORKER_LOST} == guilty
            assert {each.seq for each in found if each.outcome is Outcome.OK} == set(range(n)) - guilty


@on_a_loop
async def test_an_item_with_which_workers_were_lost_runs_alone(sqlite: Place, tmp_path: Path) -> None:
    """Nothing runs beside it, also of others; they wait for that, and then go on side by side."""
    api = Api(tmp_path)
    running, beside = set[str](), defaultdict[str, set[str]](set)

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].rpartition("/")[2]
        running.add(name)
        for each in running:
            beside[each] |= running - {each}
        try:
            await api.app(scope, receive, send)
        finally:
            running.discard(name)

    async with store_at(sqlite, lease=0.01, lost=2, chunk_items=1) as losing:
        suspects = await submit(losing, [get(f"/slow/s{n}") for n in range(2)])
        assert len(await losing.claims.claim("lost", 10)) == 2
    async with store_at(sqlite, lease=60, lost=2) as store:
        others = await submit(store, [get(f"/slow/n{n}") for n in range(30)], owner="bob")
        async with JobWorker(store, [Lines(watched)], quick(concurrency=4)):
            assert (await ended(store, suspects)).counts.ok == 2
            assert (await ended(store, others)).counts.ok == 30
    assert (beside["s0"], beside["s1"]) == (set(), set())
    assert max(len(beside[f"n{n}"]) for n in range(30)) >= 3


def _has_arrived(api: Api, n: float) -> bool:
    return len(api.ledger.lines) >= n
