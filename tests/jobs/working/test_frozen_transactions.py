"""A worker that is frozen in the midst of a transaction, with locks, in a process of its own."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

from batchproxy.jobs.store import JobState, checkpoints
from batchproxy.jobs.working import JobWorker
from tests.jobs import processes
from tests.jobs.place import Place
from tests.proxy.on_a_loop import on_a_loop

from .lines import Api, Lines, ended, get, quick, store_at, submit, until
from .workers import send, work


def freezing(url: str, folder: Path) -> None:
    """A worker that stops itself in its first checkpoint, once it has locked the rows of its chunk."""
    there = checkpoints._there
    stops = [signal.SIGSTOP]

    async def stopping(*given: Any) -> Any:
        if stops:
            os.kill(os.getpid(), stops.pop())
        return await there(*given)

    checkpoints._there = stopping  # type: ignore[assignment]
    work(url, folder, {"lease": 2, "wait": 1}, {})


@on_a_loop
async def test_its_locks_go_with_its_lease(postgresql_place: Place, tmp_path: Path) -> None:
    """Others do its work; thawed, it finds that its transaction is over, and goes on with other work."""
    place, api = postgresql_place, Api(tmp_path)
    frozen = processes.started(freezing, place.url, tmp_path)
    try:
        async with store_at(place, lease=2) as store:
            job_id = await submit(store, [get(f"/items/{n}") for n in range(10)])
            await until(partial(_is_stopped, frozen.pid))
            async with JobWorker(store, [Lines(api.app)], quick()):
                job = await ended(store, job_id)
            assert (job.state, job.counts.ok) == (JobState.COMPLETED, 10)
            assert _is_stopped(frozen.pid)
            send(frozen, signal.SIGCONT)
            another = await submit(store, [get(f"/items/again-{n}") for n in range(10)])
            assert (await ended(store, another)).counts.ok == 10
            assert await store.jobs.get(job_id, None) == job
            send(frozen, signal.SIGTERM)
            await until(lambda: not frozen.is_alive())
            assert frozen.exitcode == 0
    finally:
        frozen.kill()
        processes.ended(frozen)


def _is_stopped(pid: int | None) -> bool:
    # The name in brackets may have anything in it.
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(") ")[2].startswith("T")
