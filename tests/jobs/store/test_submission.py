"""Submitting: a job is there as a whole, or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from batchproxy.jobs.store import (
    Job,
    JobState,
    JobStore,
    KeyBusy,
    KeyConflict,
    Kind,
    LeaseLost,
    NewJob,
    NotFound,
    Outcome,
    QuotaExceeded,
    StoreUnreachable,
    Submitted,
    WrongState,
    retention,
)
from batchproxy.jobs.store.database import Work
from batchproxy.jobs.store.submission import Submission
from batchproxy.jobs.store.tables import file, job
from batchproxy.jobs.store.validating import Validation
from tests.proxy.on_a_loop import on_a_loop

from ..place import LEASE, Place, claim, complete, end, error, item, ok, rows, settle, submit, submitted


@on_a_loop
async def test_what_is_submitted_is_there(place: Place) -> None:
    """All that was said of a job comes back, and its items are as they were."""
    async with place.opened() as store:
        job = await submit(
            store, 7, endpoint="/batch", options=b"o", metadata={"a": "b"}, secret=b"s", deadline=60.0, priority=1
        )
        shown = await store.jobs.get(job.id, "ann")
        assert shown == job
        assert (job.state, job.total, job.endpoint, job.options, job.metadata) == (
            JobState.QUEUED,
            7,
            "/batch",
            b"o",
            {"a": "b"},
        )
        assert job.expires_at == job.created_at + 60
        items: dict[int, bytes] = {}
        for claimed in await store.claims.claim("w", 10):
            items |= await store.inputs.items(claimed)
        assert items == {seq: item(seq) for seq in range(7)}


@on_a_loop
async def test_large_items_lie_outside_of_the_rows(place: Place) -> None:
    """Items of any size come back as they were, in whatever pieces they lie."""
    sizes = [0, 1, 5_000, 300_000, 10, 700_000, 262_144, 3]
    async with place.opened(inline_bytes=4_000, chunk_bytes=300_000) as store:
        async with store.submission(NewJob(owner="ann")) as submission:
            for n, size in enumerate(sizes):
                await submission.add(bytes([n]) * size)
            job = (await submission.commit()).job
        items: dict[int, bytes] = {}
        for claimed in await store.claims.claim("w", 10):
            items |= await store.inputs.items(claimed)
        assert items == {n: bytes([n]) * size for n, size in enumerate(sizes)}
        assert job.stored_bytes >= sum(sizes)


@on_a_loop
async def test_a_job_of_nothing_ends_at_once(place: Place) -> None:
    """Without items there is only the end to do."""
    async with place.opened() as store:
        job = await submit(store, 0)
        assert job.state is JobState.FINALIZING
        assert (await end(store)).state is JobState.COMPLETED


@on_a_loop
async def test_nobody_sees_a_job_that_is_being_stored(place: Place) -> None:
    """It is not listed, not found and not claimed before it is committed."""
    async with place.opened(chunk_items=1) as store, store.submission(NewJob(owner="ann")) as submission:
        for seq in range(70):  # more than are written at once
            await submission.add(item(seq))
        assert (await rows(place))["batchproxy_chunk"] == 64, "nothing is gathered in memory"
        with pytest.raises(NotFound):
            await store.jobs.get(submission.job_id, "ann")
        assert (await store.jobs.list("ann")).jobs == ()
        assert await store.claims.claim("w", 10) == []
        with pytest.raises(NotFound):
            await store.ending.cancel(submission.job_id, "ann")


@on_a_loop
async def test_an_aborted_submission_leaves_nothing(place: Place) -> None:
    """Neither an error nor a cancellation leaves a row or a blob, whenever it comes."""
    async with place.opened(inline_bytes=10, chunk_items=1) as store:
        before = await rows(place)

        async def broken(n: int) -> None:
            async with store.submission(NewJob(owner="ann", idempotency_key="k")) as submission:
                for seq in range(n):
                    await submission.add(item(seq) * 5_000)
                raise ZeroDivisionError

        for n in (0, 1, 70):
            with pytest.raises(ZeroDivisionError):
                await broken(n)
        for pause in range(12):
            task = asyncio.create_task(broken(100))
            for _ in range(pause * 7):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises((asyncio.CancelledError, ZeroDivisionError)):
                await task
        await store.retention.sweep()
        place.clock.now += 1_000
        await store.retention.sweep()
        assert await rows(place) == before
        assert [path for path in place.folder.rglob("*-blobs/*/*/*") if path.is_file()] == []
        assert (await submitted(store, idempotency_key="k")).created


@on_a_loop
async def test_a_key_stands_for_one_job(place: Place) -> None:
    """The same content gives the same job, another one a conflict; another owner has other keys."""
    async with place.opened() as store:
        first = await submitted(store, 3, idempotency_key="k")
        again = await submitted(store, 3, idempotency_key="k")
        assert (first.created, again.created, again.job.id) == (True, False, first.job.id)
        with pytest.raises(KeyConflict):
            await submitted(store, 4, idempotency_key="k")
        other = await submitted(store, 4, owner="bob", idempotency_key="k")
        assert other.created
        await complete(store)
        assert (await submitted(store, 3, idempotency_key="k")).job.state is JobState.COMPLETED
        await store.retention.delete(first.job.id, "ann")
        assert (await submitted(store, 3, idempotency_key="k")).created


@on_a_loop
async def test_a_key_is_busy_while_its_job_is_stored(place: Place) -> None:
    """As long as the other submission lives; once it counts as dead, its key is free, and it cannot be committed."""
    async with place.opened(submit=120) as store, store.submission(NewJob(owner="ann", idempotency_key="k")) as slow:
        await slow.add(item(0))
        with pytest.raises(KeyBusy):
            await submitted(store, 1, idempotency_key="k")
        place.clock.now += 121
        job = await submit(store, 1, idempotency_key="k")
        with pytest.raises(LeaseLost):
            await slow.commit()
        assert (await store.jobs.list("ann")).jobs == (job,)


@on_a_loop
async def test_a_key_is_busy_if_its_submission_is_committed_after_all(
    sqlite: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted as dead, and was too quick for whoever would have cleared it away."""

    async def too_late(*said: object, **more: object) -> bool:
        return False

    async with sqlite.opened(submit=120) as store, store.submission(NewJob(owner="ann", idempotency_key="k")) as slow:
        await slow.add(item(0))
        sqlite.clock.now += 121
        with monkeypatch.context() as patched:
            patched.setattr(retention, "take_away", too_late)
            with pytest.raises(KeyBusy):
                await submitted(store, 1, idempotency_key="k")
        assert (await slow.commit()).created


@on_a_loop
async def test_who_is_slow_is_not_dead(place: Place) -> None:
    """However long nothing comes of a submission or of an upload: their process says that it lives."""
    async with (
        place.opened(submit=0.1) as store,
        store.submission(NewJob(owner="ann", idempotency_key="k")) as slow,
        store.files.upload(owner="ann", purpose="p", filename="f") as upload,
    ):
        for _ in range(3):
            place.clock.now += 0.09
            while await store._database.read(_first_to_die) < place.clock.now + 0.09:
                await asyncio.sleep(0.01)
        with pytest.raises(KeyBusy):
            await submitted(store, 1, idempotency_key="k")
        await store.retention.sweep()
        await slow.add(item(0))
        assert (await slow.commit()).created
        await upload.commit()
        await slow._pulse.stop()
        # It was said of what was being stored, and of nothing that is.
        assert (await store.jobs.list("ann")).jobs[0].purge_at is None
        assert (await store.files.list("ann")).files[0].expires_at is None


async def _first_to_die(connection: AsyncConnection, now: float) -> float:
    of_job = (await connection.execute(select(func.min(job.c.purge_at)))).scalar_one()
    of_file = (await connection.execute(select(func.min(file.c.expires_at)))).scalar_one()
    return float(min(of_job, of_file))


@on_a_loop
async def test_of_many_with_one_key_one_makes_the_job(place: Place) -> None:
    """Whoever comes at the same time is told to ask again, or gets that job."""
    async with place.opened() as store:
        outcomes = await asyncio.gather(
            *(submitted(store, 3, idempotency_key="k") for _ in range(8)), return_exceptions=True
        )
        done = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert sum(each.created for each in done) == 1
        assert all(isinstance(each, KeyBusy) for each in outcomes if isinstance(each, BaseException))
        assert len((await store.jobs.list("ann")).jobs) == 1


@on_a_loop
async def test_an_owner_has_so_many_open_jobs(place: Place) -> None:
    """One more is refused, whoever else has how many, until one has ended."""
    async with place.opened(open_jobs=2) as store:
        for owner in ("ann", "ann", "bob"):
            await submit(store, 1, owner=owner)
        with pytest.raises(QuotaExceeded) as raised:
            await submit(store, 1)
        assert (raised.value.quota, raised.value.limit) == ("open_jobs", 2)
        await complete(store)
        await submit(store, 1)


@on_a_loop
async def test_an_owner_has_so_many_bytes(place: Place) -> None:
    """A job that does not fit is refused on its way, and leaves nothing; results and files count too."""
    mebibyte = 1024 * 1024
    async with place.opened(stored_bytes=mebibyte, chunk_items=1) as store:

        async def submit_bytes(n: int) -> None:
            async with store.submission(NewJob(owner="ann")) as submission:
                for _ in range(n // 10_000):
                    await submission.add(bytes(10_000))
                await submission.commit()

        with pytest.raises(QuotaExceeded, match="stored_bytes"):
            await submit_bytes(2 * mebibyte)
        await submit_bytes(mebibyte // 2)
        with pytest.raises(QuotaExceeded):
            await submit_bytes(mebibyte * 3 // 4)
        async with store.files.upload(owner="ann", purpose="batch", filename="f") as upload:
            await upload.write(bytes(mebibyte // 4))
            await upload.commit()
        with pytest.raises(QuotaExceeded):
            await submit_bytes(mebibyte // 3)
        assert len((await store.jobs.list("ann")).jobs) == 1


@on_a_loop
async def test_a_worker_can_bring_the_items(place: Place) -> None:
    """A job without items is validated by who claims that; begun anew by the next one, if he is lost."""
    async with place.opened() as store:
        job = await submit(store, 0, validate=True)
        assert job.state is JobState.VALIDATING
        lost = await claim(store)
        assert lost.lease.kind is Kind.VALIDATE
        async with store.validation(lost, chunk_items=1) as first:
            for _ in range(70):
                await first.add(b"wrong")
            place.clock.now += 31
            async with store.validation(await claim(store)) as second:
                for seq in range(5):
                    await second.add(item(seq))
                assert await store.claims.claim("w", 10) == []
                validated = await second.commit()
            assert (validated.state, validated.total) == (JobState.QUEUED, 5)
            with pytest.raises(LeaseLost):
                await first.commit()
        claims = await store.claims.claim("w", 10)
        assert [each.open_seqs for each in claims] == [[0, 1, 2], [3, 4]]


def blobs(place: Place) -> int:
    """How many there are outside of the database."""
    return len(list(place.folder.rglob("*-blobs/*/*/*")))


@on_a_loop
@pytest.mark.parametrize("by", ["an error", "a cancellation", "a lost lease", "a cancelled job"])
async def test_a_validation_that_is_given_up_leaves_nothing(place: Place, by: str) -> None:
    """Neither rows nor blobs, nor an open file, however much had come by then."""
    async with place.opened(inline_bytes=0) as store:
        job = await submit(store, 0, validate=True)
        before = await rows(place)

        async def validate() -> None:
            async with store.validation(await claim(store), chunk_items=1) as validation:
                for seq in range(70):
                    await validation.add(item(seq) * 10_000)
                assert await rows(place) != before
                if by == "an error":
                    raise ValueError
                if by == "a cancellation":
                    raise asyncio.CancelledError
                if by == "a lost lease":
                    place.clock.now += LEASE
                    async with store.validation(await claim(store)):
                        pass
                else:
                    await store.ending.cancel(job.id, "ann")
                await validation.commit()

        with pytest.raises((ValueError, asyncio.CancelledError, LeaseLost, WrongState)):
            await validate()
        if by == "a cancelled job":
            place.clock.now += LEASE
            assert (await end(store)).counts.total == 0
            before = await rows(place)
        assert (await rows(place), blobs(place)) == (before, 0)


@on_a_loop
async def test_a_validation_that_died_leaves_nothing(place: Place) -> None:
    """What it had written by then is removed by the next one; or, if there is none, along with the job."""
    async with place.opened(inline_bytes=0) as store:
        kept = await rows(place)
        for is_cancelled in (False, True):
            job = await submit(store, 0, validate=True, keep=100)
            before = await rows(place)
            died = store.validation(await claim(store), chunk_items=1)
            await died.__aenter__()
            for seq in range(70):
                await died.add(item(seq) * 10_000)
            await died._filling.finish()
            assert await rows(place) != before
            place.clock.now += LEASE
            if is_cancelled:
                await store.ending.cancel(job.id, "ann")
                await end(store)
            else:
                async with store.validation(await claim(store)) as validation:
                    assert (await rows(place), blobs(place)) == (before, 0)
                    await validation.commit()
                await end(store)
            place.clock.now += 100
            await store.retention.sweep()
            place.clock.now += store._database.settings.tombstones
            await store.retention.sweep()
            assert (await rows(place), blobs(place)) == (kept, 0)


@on_a_loop
async def test_a_job_that_is_not_valid_fails(place: Place) -> None:
    """The reason is kept, items are not."""
    async with place.opened() as store:
        job = await submit(store, 0, validate=True)
        claimed = await claim(store)
        async with store.validation(claimed, chunk_items=1) as validation:
            for seq in range(70):
                await validation.add(item(seq))
        failed = await store.ending.fail(claimed.lease, b"line 71")
        assert (failed.state, failed.error, failed.total) == (JobState.FAILED, b"line 71", 0)
        assert (await store.results.in_order(job.id, "ann")).complete
        assert await store.claims.claim("w", 10) == []


@on_a_loop
async def test_what_failed_is_tried_again_as_a_new_job(place: Place) -> None:
    """Only those items, in their order; the new job says where it comes from."""
    async with place.opened() as store:
        job = await submit(store, 7, metadata={"a": "b"})
        for claimed in await store.claims.claim("w", 10):
            await settle(store, claimed, [error(seq) if seq % 2 else ok(seq) for seq in claimed.open_seqs])
        await end(store)
        again = (await store.retry(job.id, "ann", outcomes={Outcome.ERROR})).job
        assert (again.retry_of, again.metadata, again.total) == (job.id, {"a": "b"}, 3)
        claimed = await claim(store)
        assert list((await store.inputs.items(claimed)).values()) == [item(1), item(3), item(5)]
        with pytest.raises(NotFound):
            await store.retry(job.id, "bob")
        with pytest.raises(WrongState):
            await store.retry(again.id, "ann")


@on_a_loop
async def test_a_single_item_is_tried_again(place: Place) -> None:
    """However few they are; without any there is nothing to make a job of."""
    async with place.opened() as store:
        job = await submit(store, 1)
        await complete(store)
        again = await store.retry(job.id, "ann", outcomes={Outcome.OK})
        assert (again.created, again.job.total) == (True, 1)
        with pytest.raises(WrongState, match="no items"):
            await store.retry(job.id, "ann")
        assert len((await store.jobs.list("ann")).jobs) == 2


def losing_answers(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next job is committed, and nobody hears of it."""
    write = store._database.write

    async def losing(work: Work[Any]) -> Any:
        answer = await write(work)
        if not isinstance(answer, (Job, Submitted)):
            return answer
        monkeypatch.setattr(store._database, "write", write)
        raise StoreUnreachable("on purpose")

    monkeypatch.setattr(store._database, "write", losing)


@on_a_loop
async def test_a_commit_whose_answer_is_lost_counts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a submission and of a validation: what is being left then may be a job, and is not cleared away."""
    async with place.opened(inline_bytes=0) as store:

        async def fill(filled: Submission | Validation, seq: int) -> None:
            async with filled:
                await filled.add(item(seq))
                losing_answers(store, monkeypatch)
                await filled.commit()

        with pytest.raises(StoreUnreachable):
            await fill(store.submission(NewJob(owner="ann")), 0)
        assert await store.inputs.items(await claim(store)) == {0: item(0)}
        await submit(store, 0, validate=True)
        with pytest.raises(StoreUnreachable):
            await fill(store.validation(await claim(store)), 1)
        assert await store.inputs.items(await claim(store)) == {0: item(1)}


@on_a_loop
async def test_a_job_that_has_ended_before_its_submitter_gave_up_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that who sends it again with its key does not have it done again."""
    async with place.opened() as store:
        write = store._database.write

        async def late(work: Work[Any]) -> Any:
            answer = await write(work)
            if isinstance(answer, Submitted):
                monkeypatch.setattr(store._database, "write", write)
                await complete(store)
                raise StoreUnreachable("on purpose")
            return answer

        async with store.submission(NewJob(owner="ann", idempotency_key="k")) as submission:
            await submission.add(item(0))
            monkeypatch.setattr(store._database, "write", late)
            with pytest.raises(StoreUnreachable):
                await submission.commit()
        again = await submitted(store, 1, idempotency_key="k")
        assert (again.created, again.job.state) == (False, JobState.COMPLETED)
