"""What each fault does to a site, until it is over.

Knows: signals, disks, servers. Must not know: when a fault comes.
"""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import asyncpg

from batchproxy.jobs.store import Clock, StoreError, StoreSettings, opened
from benchmarks.chaos.drawing import Fault, Kind
from benchmarks.chaos.site import Site
from tests.jobs.disk import fill
from tests.jobs.postgresql import Cluster
from tests.jobs.working.workers import is_writing

_PATIENCE = 10.0
_DEAD = 125.0
"""After so many seconds a submission that says nothing is taken for dead."""


class Ground:
    """Where the store of a round is. `disk` is the folder of a disk of its own, `server` that of the database."""

    def __init__(self, url: str, folder: Path, *, disk: Path | None = None, server: Cluster | None = None) -> None:
        self.url = url
        self.folder = folder
        self.disk = disk
        self.server = server

    @property
    def file(self) -> Path:
        """Of SQLite."""
        return Path(self.url.removeprefix("sqlite:///"))


Strike: TypeAlias = Callable[[Fault, Site, Ground], Awaitable[bool]]


async def strike(fault: Fault, site: Site, ground: Ground) -> bool:
    """Does it, and waits until it is over; whether it was done at all."""
    return await STRIKES[fault.kind](fault, site, ground)


async def _kill_worker(fault: Fault, site: Site, ground: Ground) -> bool:
    async with site.turns[fault.whom]:
        site.workers[fault.whom].kill()
        await site.start_worker(fault.whom)
    return True


async def _freeze_worker(fault: Fault, site: Site, ground: Ground) -> bool:
    async with site.turns[fault.whom]:
        worker = site.workers[fault.whom]
        tries_until = time.monotonic() + _PATIENCE
        while time.monotonic() < tries_until:
            worker.send(signal.SIGSTOP)
            try:
                is_in_the_midst = await is_writing(ground.url)
            except (OSError, asyncpg.PostgresError):
                is_in_the_midst = True
            if not is_in_the_midst:
                await asyncio.sleep(fault.seconds)
                worker.send(signal.SIGCONT)
                return True
            worker.send(signal.SIGCONT)
            await asyncio.sleep(random.uniform(0.02, 0.1))
    return False


async def _freeze_anywhere(fault: Fault, site: Site, ground: Ground) -> bool:
    async with site.turns[fault.whom]:
        worker = site.workers[fault.whom]
        worker.send(signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        worker.send(signal.SIGCONT)
    return True


async def _restart_worker(fault: Fault, site: Site, ground: Ground) -> bool:
    async with site.turns[fault.whom]:
        worker = site.workers[fault.whom]
        worker.send(signal.SIGTERM)
        if await worker.ended() != 0:
            raise RuntimeError(f"{worker} did not end in an orderly way")
        await site.start_worker(fault.whom)
    return True


async def _kill_submitter(fault: Fault, site: Site, ground: Ground) -> bool:
    site.web.kill()
    await site.start_web()
    return True


async def _stop_database(fault: Fault, site: Site, ground: Ground) -> bool:
    server = ground.server
    assert server is not None
    # The loop waits for that, so that the server is there again whoever is cancelled.
    server.stop("immediate")
    try:
        await asyncio.sleep(fault.seconds)
    finally:
        server.start()
    return True


async def _fill_disk(fault: Fault, site: Site, ground: Ground) -> bool:
    if ground.disk is None:
        return await _limit_files(fault, site, ground)
    filler = ground.disk / "filler"
    fill(filler)
    await asyncio.sleep(fault.seconds)
    filler.unlink()
    return True


async def _limit_files(fault: Fault, site: Site, ground: Ground) -> bool:
    sizes = [each.stat().st_size for each in (ground.file, Path(f"{ground.file}-wal")) if each.exists()]
    limited = site.processes
    for process in limited:
        process.limit_files(max(sizes))
    await asyncio.sleep(fault.seconds)
    for process in limited:
        process.limit_files(-1)
    return True


STRIKES: Mapping[Kind, Strike] = {
    Kind.KILL_WORKER: _kill_worker,
    Kind.FREEZE_WORKER: _freeze_worker,
    Kind.FREEZE_ANYWHERE: _freeze_anywhere,
    Kind.RESTART_WORKER: _restart_worker,
    Kind.KILL_SUBMITTER: _kill_submitter,
    Kind.STOP_DATABASE: _stop_database,
    Kind.FILL_DISK: _fill_disk,
    Kind.LIMIT_FILES: _limit_files,
}


async def forget_the_dead(ground: Ground) -> None:
    """What a sweep does two minutes later: submissions of which nothing was heard are taken away, and their keys free.

    With leases that are longer than that, so that workers are not forgotten.
    """
    settings = StoreSettings(url=ground.url, lease=10 * _DEAD)
    with suppress(StoreError):
        async with opened(settings, clock=Clock(lambda: _DEAD)) as store:
            await store.retention.sweep()
