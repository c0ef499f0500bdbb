"""What a sweep removes: all that there is, in rounds, and for a bounded time; a file gets smaller by it."""

from __future__ import annotations

import os
import sqlite3

import pytest

from batchproxy.jobs.store import JobStore, NewJob, retention
from batchproxy.jobs.store.database import Database
from tests.proxy.on_a_loop import on_a_loop

from ..place import Place, complete, submit

MiB = 1024 * 1024


async def ended_jobs(store: JobStore, n: int) -> None:
    for _ in range(n):
        await submit(store, 0, keep=100.0)
    await complete(store)


@on_a_loop
async def test_a_sweep_goes_on_while_there_is_more(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of jobs and of files: however many are due, one sweep does."""
    monkeypatch.setattr(retention, "_JOBS", 2)
    async with place.opened() as store:
        await ended_jobs(store, 7)
        for _ in range(5):
            async with store.files.upload(owner="ann", purpose="p", filename="f", keep=50.0) as upload:
                await upload.write(b"x")
                await upload.commit()
        place.clock.now += 100
        swept = await store.retention.sweep()
        assert (swept.purged, swept.cleared, swept.files) == (7, 7, 5)
        assert (await store.retention.sweep()).purged == 0


@on_a_loop
async def test_a_sweep_takes_a_bounded_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left then is done by the next ones, each of which does something."""
    monkeypatch.setattr(retention, "_JOBS", 2)
    monkeypatch.setattr(retention, "_LONGEST", 0.0)
    async with place.opened() as store:
        await ended_jobs(store, 5)
        place.clock.now += 100
        assert [(await store.retention.sweep()).purged for _ in range(4)] == [2, 2, 1, 0]


async def large_job(store: JobStore) -> str:
    async with store.submission(NewJob(owner="ann", keep=100.0, chunk_items=1)) as submission:
        for _ in range(300):
            await submission.add(os.urandom(8000))
        job_id = (await submission.commit()).job.id
    await store.ending.cancel(job_id, "ann")
    await complete(store)
    return job_id


@on_a_loop
async def test_a_file_gets_smaller(sqlite: Place) -> None:
    """What a removed job took is given back to the disk, and not one page of it."""
    async with sqlite.opened() as store:
        await large_job(store)
    file = sqlite.settings().file
    assert file.stat().st_size > 2 * MiB
    async with sqlite.opened() as store:
        sqlite.clock.now += 100
        await store.retention.sweep()
    assert file.stat().st_size < MiB / 2


@on_a_loop
async def test_a_file_gets_smaller_bit_by_bit(sqlite: Place) -> None:
    """So that others get their turn in between."""
    async with sqlite.opened() as store:
        await store.retention.delete(await large_job(store), "ann")
    database = Database(sqlite.settings(), sqlite.clock)
    try:
        assert await database.shrink(100)
        free = await database.read(lambda connection, now: connection.exec_driver_sql("PRAGMA freelist_count"))
        assert await database.shrink(int(free.scalar_one()) - 1)
        assert not await database.shrink(100)
        assert not await database.shrink(100), "nothing is left"
    finally:
        await database.aclose()


@on_a_loop
async def test_a_file_in_another_mode_is_left_as_it_is(sqlite: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was made anew by somebody's tools: nobody goes on in vain."""
    monkeypatch.setattr(retention, "_LONGEST", float("inf"))
    async with sqlite.opened() as store:
        await submit(store)
    with sqlite3.connect(sqlite.settings().file, isolation_level=None) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("PRAGMA auto_vacuum = NONE")
        other.execute("VACUUM")
    other.close()
    async with sqlite.opened() as store:
        await store.retention.delete(await large_job(store), "ann")
        await store.retention.sweep()
