"""Jobs are worked on to their end, through the engine, into a real app."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from batchproxy.engine.errors import Invalid
from batchproxy.engine.events import BatchEnded, ItemEnded
from batchproxy.engine.policy import Policy
from batchproxy.jobs.store import Claim, Gone, ItemResult, Job, JobState, JobStore, Message, NotFound, Outcome
from batchproxy.jobs.working import JobBatch, JobWorker, Unready
from tests.jobs.place import Place
from tests.proxy.on_a_loop import on_a_loop

from .lines import Api, Lines, ended, get, in_state, post, quick, results, store_at, submit, until


@on_a_loop
async def test_every_item_gets_its_result(place: Place, tmp_path: Path) -> None:
    """In several chunks, each item is sent once, and its answer is kept; the end is told once."""
    api = Api(tmp_path)
    async with store_at(place) as store, JobWorker(store, [Lines(api.app)], quick()) as worker:
        assert worker.id in {each.id for each in await store.workers.list()}
        job_id = await submit(store, [get(f"/items/{n}", id=f"id-{n}") for n in range(35)])
        job = await ended(store, job_id)
        assert (job.state, job.counts.ok, job.counts.total) == (JobState.COMPLETED, 35, 35)
        found = await results(store, job_id)
        assert [json.loads(each.body)["name"] for each in found] == [str(n) for n in range(35)]
        assert [each.custom_id for each in found] == [f"id-{n}" for n in range(35)]
        assert {each.attempts for each in found} == {1}
        assert all(job.created_at - 60 < each.started_at <= each.finished_at for each in found)
        assert api.ledger.counted == {f"GET {n}": 1 for n in range(35)}
        assert [(each.event, each.payload) for each in await store.outbox.take(9)] == [("job.ended", b"completed")]
        assert api.headers["3"]["authorization"] == "secret"
        assert api.headers["3"]["host"] == "api.example.com"
    async with store_at(place) as store:
        assert await store.workers.list() == []


@on_a_loop
async def test_failures_of_items_are_results(sqlite: Place, tmp_path: Path) -> None:
    """Answers of 400 and more, refused items and apps that raise: the job is completed all the same."""
    api = Api(tmp_path)
    kind = Lines(api.app, Policy(max_items=1000, deny=["/secret/**"]))
    async with store_at(sqlite) as store, JobWorker(store, [kind], quick()):
        items = [get("/items/a?status=404"), get("/secret/b"), get("/raising/c"), get("/batch"), post("/items/e")]
        job = await ended(store, await submit(store, items))
        assert (job.state, job.counts.failed, job.counts.ok) == (JobState.COMPLETED, 4, 1)
        found = await results(store, job.id)
        assert [(each.status, each.failure, each.attempts) for each in found] == [
            (404, None, 1),
            (403, "forbidden", 0),
            (500, None, 1),
            (400, "nested_batch", 0),
            (200, None, 1),
        ]


@on_a_loop
async def test_items_that_are_no_batch(sqlite: Place, tmp_path: Path) -> None:
    """Each of them is an error that says why, and the job is completed."""

    class Unreadable(Lines):
        def batch(self, job: Job, items: Mapping[int, bytes]) -> JobBatch:
            raise Invalid("Nobody can read this.")

    async with store_at(sqlite) as store, JobWorker(store, [Unreadable(Api(tmp_path).app)], quick()):
        job = await ended(store, await submit(store, [get("/items/a"), get("/items/b")]))
        assert (job.state, job.counts.failed) == (JobState.COMPLETED, 2)
        found = await results(store, job.id)
        assert [(each.failure, each.detail) for each in found] == [("invalid_batch", "Nobody can read this.")] * 2


@on_a_loop
async def test_what_one_worker_cannot_do_is_left_to_others(sqlite: Place, tmp_path: Path) -> None:
    """One that does not know the kind, or is not ready for it, gives it back; another one has it soon."""

    class Locked(Lines):
        def batch(self, job: Job, items: Mapping[int, bytes]) -> JobBatch:
            raise Unready("The key is not here.", delay=0.05)

    api = Api(tmp_path)
    async with store_at(sqlite) as store:
        async with JobWorker(store, [Locked(api.app)], quick()):
            job_id = await submit(store, [get("/items/a")])
            await in_state(store, job_id, JobState.RUNNING)
        async with JobWorker(store, [Lines(api.app)], quick()):
            assert (await ended(store, job_id)).counts.ok == 1
        async with JobWorker(store, [], quick()):
            job_id = await submit(store, [get("/items/b")], kind="strange")
            await in_state(store, job_id, JobState.RUNNING)


@on_a_loop
async def test_no_more_items_than_there_are_places(place: Place, tmp_path: Path) -> None:
    """However many jobs and chunks there are."""
    api = Api(tmp_path)
    async with store_at(place) as store, JobWorker(store, [Lines(api.app)], quick(concurrency=5)):
        jobs = [await submit(store, [get(f"/gated/{n}") for n in range(15)], owner=owner) for owner in ("ann", "bob")]
        await until(lambda: api.in_flight == 5)
        api.open_gate()
        for job_id in jobs:
            assert (await ended(store, job_id)).counts.ok == 15
        assert api.most == 5


@on_a_loop
async def test_a_small_job_does_not_wait_for_a_large_one(place: Place, tmp_path: Path) -> None:
    """Of another owner, though the large one has all the places: it has its share as soon as one is free."""
    api = Api(tmp_path)
    async with store_at(place) as store, JobWorker(store, [Lines(api.app)], quick(concurrency=2, poll=0.05)):
        large = await submit(store, [get(f"/gated/{n}") for n in range(500)], owner="ann")
        await until(lambda: api.in_flight == 2)
        small = await submit(store, [get(f"/items/small-{n}") for n in range(3)], owner="bob")

        async def is_claimed() -> bool:
            return (await store.jobs.get(small, None)).state is JobState.RUNNING

        await until(is_claimed)
        api.open_gate()
        job = await ended(store, small)
        assert job.counts.ok == 3
        assert (await store.jobs.get(large, None)).counts.done < 100


@on_a_loop
async def test_a_job_is_validated_by_a_worker(place: Place, tmp_path: Path) -> None:
    """Its items are added, or it fails, and says why."""
    api = Api(tmp_path)
    async with store_at(place) as store, JobWorker(store, [Lines(api.app)], quick()):
        items = [get(f"/items/{n}") for n in range(12)]
        good = await submit(store, [], validate=True, options={"items": items})
        bad = await submit(store, [], validate=True, options={"items": [*items, None]})
        job = await ended(store, good)
        assert (job.state, job.counts.ok) == (JobState.COMPLETED, 12)
        job = await ended(store, bad)
        assert (job.state, job.error, job.total) == (JobState.FAILED, b"item 12", 0)
        assert sorted(api.ledger.counted.values()) == [1] * 12


@on_a_loop
async def test_what_is_made_of_nothing_fails(place: Place, tmp_path: Path) -> None:
    """What a job is to be made of is gone, and does not come back: it is not validated for ever."""

    class Missing(Lines):
        async def validate(self, store: JobStore, claim: Claim, job: Job) -> None:
            raise NotFound("on purpose")

    async with store_at(place) as store, JobWorker(store, [Missing(Api(tmp_path).app)], quick()):
        job = await ended(store, await submit(store, [], validate=True))
        assert (job.state, job.error) == (JobState.FAILED, None)


@on_a_loop
@pytest.mark.parametrize("is_cancelled", [False, True], ids=["completed", "cancelled"])
async def test_an_end_that_cannot_be_made(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_cancelled: bool,
) -> None:
    """For results are gone: it is tried some times, as they may come back; then the job fails, and that is told."""
    monkeypatch.setattr("batchproxy.jobs.working.stage._LATER", 0.01)
    monkeypatch.setattr("batchproxy.jobs.working.stage._TRIES", 3)
    monkeypatch.setattr("batchproxy.jobs.working.stage._LONG_ENOUGH", 0.0)
    tries = 0

    class Missing(Lines):
        async def finish(self, store: JobStore, claim: Claim, job: Job) -> Sequence[Message]:
            nonlocal tries
            tries += 1
            raise Gone("on purpose")

    async with store_at(place) as store:
        job_id = await submit(store, [get("/items/a")])
        if is_cancelled:
            await store.ending.cancel(job_id, "ann")
        async with JobWorker(store, [Missing(Api(tmp_path).app)], quick(poll=0.01)):
            job = await ended(store, job_id)
        assert (job.state, job.error, tries) == (JobState.FAILED, b"gone", 3)
        assert job.counts.done == 1, "what is known of its items stays"
        assert [each.payload for each in await store.outbox.take(9)] == [b"gone"]
    assert caplog.text.count("stage.failed") == 1


@on_a_loop
async def test_items_that_are_not_there_are_waited_for(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody may bring them back. Until then they are not claimed again and again, and that is said."""
    monkeypatch.setattr("batchproxy.jobs.working.chunk._LATER", 1.0)
    api = Api(tmp_path)
    async with store_at(place, inline_bytes=0) as store:
        job_id = await submit(store, [get("/items/a")])
        read, is_back = store.inputs._blobs.read, False

        async def reading(*given: Any) -> bytes:
            if not is_back:
                raise Gone("on purpose")
            return await read(*given)

        monkeypatch.setattr(store.inputs._blobs, "read", reading)
        async with JobWorker(store, [Lines(api.app)], quick(poll=0.01)):
            await until(lambda: "chunk.left" in caplog.text)
            is_back = True
            assert (await ended(store, job_id)).counts.ok == 1
        assert caplog.text.count("chunk.left") == 1


# Ends that come before


@on_a_loop
async def test_a_cancelled_job_ends_soon(place: Place, tmp_path: Path) -> None:
    """Nothing of it is begun any more; a read that runs is broken off, a write comes to its end, and both are told."""
    api = Api(tmp_path)
    async with (
        store_at(place, chunk_items=6, lease=600) as store,
        JobWorker(store, [Lines(api.app)], quick(concurrency=4)),
    ):
        first = [get("/items/done"), get("/gated/read"), post("/gated/write")]
        job_id = await submit(store, [*first, *(get(f"/gated/{n}") for n in range(30))])
        await until(lambda: api.in_flight == 4)
        await store.ending.cancel(job_id, "ann")
        await until(lambda: api.left == 3)
        assert api.in_flight == 1
        api.open_gate()
        job = await ended(store, job_id)
        assert (job.state, job.counts.ok, job.counts.cancelled) == (JobState.CANCELLED, 2, 31)
        found = await results(store, job_id)
        assert [each.outcome for each in found[:3]] == [Outcome.OK, Outcome.CANCELLED, Outcome.OK]
        assert len(api.ledger.lines) == 5


@on_a_loop
async def test_a_deadline_ends_a_job(place: Place, tmp_path: Path) -> None:
    """What is done stays, the rest is expired."""
    api, now = Api(tmp_path), [0.0]
    async with (
        store_at(place, ahead=lambda: now[0], lease=3600) as store,
        JobWorker(store, [Lines(api.app)], quick(concurrency=2)),
    ):
        job_id = await submit(store, [get("/items/a"), *(get(f"/gated/{n}") for n in range(20))], deadline=1000)

        async def is_begun() -> bool:
            return (await store.jobs.get(job_id, "ann")).counts.ok == 1 and api.in_flight == 2

        await until(is_begun)
        now[0] = 1000
        job = await ended(store, job_id)
        assert (job.state, job.counts.ok, job.counts.expired) == (JobState.EXPIRED, 1, 20)
        assert job.finished_at is not None
        assert job.expires_at is not None
        assert job.finished_at >= job.expires_at


# Order and values


@on_a_loop
async def test_items_wait_for_each_other(sqlite: Place, tmp_path: Path) -> None:
    """Values come out of earlier answers; who depends on a failed item never runs."""
    api = Api(tmp_path)
    async with store_at(sqlite) as store, JobWorker(store, [Lines(api.app)], quick()):
        items = [
            get("/items/{x}", vars={"x": "second#/body/id"}, id="third"),
            get("/items/abcd", id="second", depends_on=["first"]),
            get("/items/first", id="first"),
            get("/items/fails?status=500", id="fails"),
            get("/items/never", id="never", depends_on=["fails"]),
            get("/items/neither", depends_on=["never"]),
        ]
        job = await ended(store, await submit(store, items))
        assert job.state is JobState.COMPLETED
        found = await results(store, job.id)
        assert [each.status for each in found] == [200, 200, 200, 500, 424, 424]
        assert json.loads(found[0].body)["name"] == "4"
        lines = [line for line in api.ledger.lines if line != "GET fails"]
        assert lines == ["GET first", "GET abcd", "GET 4"]


@on_a_loop
async def test_a_job_that_stops_on_an_error(sqlite: Place, tmp_path: Path) -> None:
    """One after another, and none after the first failure."""
    api = Api(tmp_path)
    options = {"envelope": {"options": {"execution": "sequential", "on_error": "stop"}}}
    async with store_at(sqlite) as store, JobWorker(store, [Lines(api.app)], quick()):
        items = [get("/items/0"), get("/items/1?status=409"), get("/items/2"), get("/items/3")]
        job = await ended(store, await submit(store, items, options=options))
        found = await results(store, job.id)
        assert [(each.status, each.failure) for each in found] == [
            (200, None),
            (409, None),
            (424, "stopped"),
            (424, "stopped"),
        ]
        assert api.ledger.lines == ["GET 0", "GET 1"]


@on_a_loop
async def test_items_wait_for_each_other_over_a_restart(place: Place, tmp_path: Path) -> None:
    """The next worker knows the values of earlier answers, and which items have failed."""
    api = Api(tmp_path)
    items = [
        get("/items/first", id="first"),
        get("/items/fails?status=500", id="fails"),
        get("/gated/both", id="gated", depends_on=["first"]),
        get("/items/never", depends_on=["fails", "gated"]),
        get("/items/{x}", vars={"x": "first#/body/id"}, depends_on=["gated"]),
        post("/gated/write", id="write"),
        get("/items/neither", depends_on=["write"]),
    ]
    async with store_at(place, lease=600) as store:
        async with JobWorker(store, [Lines(api.app)], quick(grace=0)):
            job_id = await submit(store, items)
            await until(lambda: api.in_flight == 2)
        assert (await store.jobs.get(job_id, None)).counts.done == 3
        api.open_gate()
        async with JobWorker(store, [Lines(api.app)], quick()):
            await ended(store, job_id)
        found = await results(store, job_id)
        assert [each.status for each in found] == [200, 500, 200, 424, 200, 0, 424]
        assert json.loads(found[4].body)["name"] == "5"
        assert found[5].outcome is Outcome.UNKNOWN
        assert api.ledger.counted == {
            "GET first": 1,
            "GET fails": 1,
            "GET both": 2,
            "POST write": 1,
            "GET 5": 1,
        }


# The worker itself


@on_a_loop
async def test_a_worker_hands_over_what_it_has(place: Place, tmp_path: Path) -> None:
    """It ends what runs, and the next one has the rest at once, long before the leases are over: none is done twice."""
    api = Api(tmp_path)
    async with store_at(place, lease=600) as store:
        async with JobWorker(store, [Lines(api.app)], quick(concurrency=3)):
            job_id = await submit(store, [post(f"/gated/{n}") for n in range(30)])
            await until(lambda: api.in_flight == 3)
            asyncio.get_running_loop().call_soon(api.open_gate)
        done = (await store.jobs.get(job_id, None)).counts.done
        assert 3 <= done < 30
        async with JobWorker(store, [Lines(api.app)], quick()):
            job = await ended(store, job_id)
        assert (job.counts.ok, job.counts.unknown) == (30, 0)
        assert set(api.ledger.counted.values()) == {1}


@on_a_loop
async def test_what_runs_longer_than_the_grace_is_broken_off(place: Place, tmp_path: Path) -> None:
    """Reads are done again by the next one; a write that may have taken effect is not: it is unknown."""
    api = Api(tmp_path)
    async with store_at(place, lease=600) as store:
        async with JobWorker(store, [Lines(api.app)], quick(concurrency=2, grace=0)):
            job_id = await submit(store, [get("/gated/read"), post("/gated/write"), post("/items/later")])
            await until(lambda: api.in_flight == 2)
        assert api.left == 2
        api.open_gate()
        async with JobWorker(store, [Lines(api.app)], quick()):
            await ended(store, job_id)
        assert [each.outcome for each in await results(store, job_id)] == [Outcome.OK, Outcome.UNKNOWN, Outcome.OK]
        assert api.ledger.counted == {"GET read": 2, "POST write": 1, "POST later": 1}


@on_a_loop
async def test_what_was_not_sent_yet_is_handed_over_as_well(sqlite: Place, tmp_path: Path) -> None:
    """Though it was about to be: a write is known not to have been sent, so that the next worker sends it."""
    api = Api(tmp_path)
    workers: list[JobWorker] = []

    def passing(point: str) -> None:
        if point == "checkpoint.before_commit":  # of the intents
            workers[0]._begin_to_drain()

    async with store_at(sqlite, passing, lease=600) as store:
        async with JobWorker(store, [Lines(api.app)], quick()) as worker:
            workers.append(worker)
            job_id = await submit(store, [post(f"/items/{n}") for n in range(5)])
            await until(lambda: "draining=True" in repr(worker))
        assert api.ledger.lines == []
        async with JobWorker(store, [Lines(api.app)], quick()):
            job = await ended(store, job_id)
        assert (job.counts.ok, job.counts.unknown) == (5, 0)


@on_a_loop
async def test_a_worker_that_is_asked_to_stop(sqlite: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the store: it claims nothing more, hands over, and says so."""
    monkeypatch.setattr("batchproxy.jobs.working.worker._BEAT", 0.05)
    api = Api(tmp_path)
    async with store_at(sqlite) as store, JobWorker(store, [Lines(api.app)], quick()) as worker:
        assert await store.workers.drain(worker.id)
        await worker.asked_to_stop.wait()
        job_id = await submit(store, [get("/items/a")])
        async with JobWorker(store, [Lines(api.app)], quick()) as other:
            await ended(store, job_id)
            assert repr(other).startswith("JobWorker(")


@on_a_loop
async def test_a_worker_that_is_cancelled_leaves_nothing(sqlite: Place, tmp_path: Path) -> None:
    """No task, no lease; the test's loop sees to the tasks."""
    api = Api(tmp_path)
    async with store_at(sqlite, lease=600) as store:
        worker = JobWorker(store, [Lines(api.app)], quick(concurrency=2, grace=60))

        async def work() -> None:
            async with worker:
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        job_id = await submit(store, [get(f"/gated/{n}") for n in range(5)])
        await until(lambda: api.in_flight == 2)
        task.cancel()
        await until(lambda: "draining=True" in repr(worker))
        task.cancel()
        await asyncio.wait([task])
        assert api.in_flight == 0
        api.open_gate()
        async with JobWorker(store, [Lines(api.app)], quick()):
            assert (await ended(store, job_id)).counts.ok == 5


@on_a_loop
async def test_observers_are_told_of_items(sqlite: Place, tmp_path: Path) -> None:
    """Of each, once what became of it is committed; what an observer raises harms nobody."""
    told: list[tuple[str | None, int]] = []

    class Observer:
        def item_ended(self, event: ItemEnded) -> None:
            told.append((event.item.id, event.result.status))
            raise RuntimeError("on purpose")

        def batch_ended(self, event: BatchEnded) -> None:
            raise AssertionError

    api = Api(tmp_path)
    async with store_at(sqlite) as store, JobWorker(store, [Lines(api.app)], quick(), observers=[Observer()]):
        items = [get("/items/a", id="a"), get("/items/b?status=404", id="b"), get("/batch", id="c")]
        await ended(store, await submit(store, items))
        assert sorted(told, key=str) == [("a", 200), ("b", 404), ("c", 400)]


@on_a_loop
async def test_large_chunks_are_not_held_in_any_number(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with so many bytes of items claims no more, however many places and chunks it may have; all are done."""
    monkeypatch.setattr("batchproxy.jobs.working.worker._MOST_BYTES", 50_000)
    api = Api(tmp_path)
    async with store_at(place) as store:
        large = [post("/gated/x", body="x" * 3_000, id=str(n)) for n in range(10)]
        options = {"envelope": {"options": {"execution": "sequential"}}}
        said: dict[str, Any] = {"options": options, "chunk_items": 100, "chunk_bytes": 1_000_000}
        jobs = [await submit(store, large, **said) for _ in range(5)]
        async with JobWorker(store, [Lines(api.app)], quick(concurrency=30)) as worker:
            await until(lambda: api.in_flight == 2)
            for _ in range(20):
                await worker._claim()
            assert [len(chunk.hold.claim.open_seqs) for chunk in worker._chunks] == [10, 10]
            api.open_gate()
            for job_id in jobs:
                assert (await ended(store, job_id)).counts.ok == 10


@on_a_loop
async def test_values_of_a_large_job_are_found_again(place: Place, tmp_path: Path) -> None:
    """The next worker takes them out of the answers that are kept, a few at a time; so it does of single items, after
    a chunk was split."""
    api = Api(tmp_path)
    n = 30
    sources = [get(f"/items/s{k}", id=f"s{k}") for k in range(n)]
    users = [get("/items/{x}-again", vars={"x": f"s{k}#/body/name"}) for k in range(n)]
    async with store_at(place, lost=1, lease=600) as store:
        job_id = await submit(store, [*sources, *users], chunk_items=2 * n)
        [claimed] = await store.claims.claim("w", 1)
        answers = [
            ItemResult(
                seq=k,
                outcome=Outcome.OK,
                status=200,
                headers=((b"content-type", b"application/json"),),
                body=b'{"name": "s%d"}' % k,
            )
            for k in range(n)
        ]
        async with store.checkpointer() as checkpointer:
            await checkpointer.settle(claimed.lease, *answers)
        await store.claims.release([claimed.lease])
        async with JobWorker(store, [Lines(api.app)], quick(concurrency=30)):
            assert (await ended(store, job_id)).counts.ok == 2 * n
        assert sorted(api.ledger.lines) == sorted(f"GET s{k}-again" for k in range(n))
