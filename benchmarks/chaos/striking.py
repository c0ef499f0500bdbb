"""What each fault does to a site, until it is over.

Knows: signals, disks, servers. Must not know: when a fault comes.
"""

import asyncio
import random
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TypeAlias

from batchproxy.jobs.store import Clock, StoreError, StoreSettings, opened
from benchmarks.chaos.drawing import Fault, Kind
from benchmarks.chaos.seeing import has_accepted, holders, is_held_up
from benchmarks.chaos.site import Process, Site
from tests.jobs.disk import fill
from tests.jobs.postgresql import Cluster

_PATIENCE = 10.0
_LOOK = 0.05
_MOMENT = 0.0002
"""For so long a process runs between two looks at what it has done."""
_SMALLEST = 64 * 1024
"""Logs are files, too."""
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


Strike: TypeAlias = Callable[[Fault, Site, Ground], Awaitable[str]]
"""Says why the fault has not hit anything; nothing if it has."""


async def strike(fault: Fault, site: Site, ground: Ground) -> str:
    """Does it, and waits until it is over; why it has missed, if it has."""
    return await STRIKES[fault.kind](fault, site, ground)


async def _kill_worker(fault: Fault, site: Site, ground: Ground) -> str:
    async with _victim(fault, site, ground) as whom:
        worker = site.workers[whom]
        worker.kill()
        missed = await _idle(ground, worker)
        await site.start_worker(whom)
    return missed


async def _freeze_worker(fault: Fault, site: Site, ground: Ground) -> str:
    async with _victim(fault, site, ground) as whom:
        worker = site.workers[whom]
        tries_until = time.monotonic() + 2 * _PATIENCE
        while time.monotonic() < tries_until:
            await worker.freeze()
            if not await is_held_up(ground.url):
                return await _frozen(fault, worker, ground)
            worker.thaw()
            await asyncio.sleep(random.uniform(0.05, 0.3))
    return "it was always in the midst of a transaction"


async def _freeze_anywhere(fault: Fault, site: Site, ground: Ground) -> str:
    async with _victim(fault, site, ground) as whom:
        worker = site.workers[whom]
        await worker.freeze()
        return await _frozen(fault, worker, ground)


async def _frozen(fault: Fault, worker: Process, ground: Ground) -> str:
    """The rest of it, once the worker stands still."""
    thaws_at = time.monotonic() + fault.seconds
    missed = await _idle(ground, worker)
    await asyncio.sleep(thaws_at - time.monotonic())
    worker.thaw()
    return missed


async def _restart_worker(fault: Fault, site: Site, ground: Ground) -> str:
    async with _victim(fault, site, ground) as whom:
        worker = site.workers[whom]
        missed = await _idle(ground, worker)
        worker.send(signal.SIGTERM)
        if await worker.ended() != 0:
            raise RuntimeError(f"{worker} did not end in an orderly way")
        await site.start_worker(whom)
    return missed


@asynccontextmanager
async def _victim(fault: Fault, site: Site, ground: Ground) -> AsyncIterator[int]:
    """The turn of a worker that has work, as soon as there is one: of the one that was drawn, if it has."""
    workers = len(site.workers)
    order = [(fault.whom + more) % workers for more in range(workers)]
    tries_until = time.monotonic() + _PATIENCE
    whom = None
    while whom is None and time.monotonic() < tries_until:
        pids = await holders(ground.url)
        found = [n for n in order if not site.turns[n].locked() and (pids is None or site.workers[n].pid in pids)]
        whom = next(iter(found), None)
        if whom is None:
            await asyncio.sleep(_LOOK)
    whom = fault.whom if whom is None else whom
    async with site.turns[whom]:
        yield whom


async def _idle(ground: Ground, worker: Process) -> str:
    """A worker that has no work is missed. While the store is away, nobody can give up what he has."""
    pids = await holders(ground.url)
    return "" if pids is None or worker.pid in pids else "the worker had no work"


async def _kill_submitter(fault: Fault, site: Site, ground: Ground) -> str:
    """Whether a submission was cut off, who submits knows. After the last line: when it is committed, and not said."""
    if fault.at >= 1.0:
        tries_until = time.monotonic() + _PATIENCE
        await site.web.freeze()
        while not await has_accepted(ground.url) and time.monotonic() < tries_until:
            site.web.step(_MOMENT)
            await asyncio.sleep(0)
    site.web.kill()
    await site.start_web()
    return ""


async def _stop_database(fault: Fault, site: Site, ground: Ground) -> str:
    server = ground.server
    assert server is not None
    before = site.outages
    # The loop waits for that, so that the server is there again whoever is cancelled.
    server.stop("immediate")
    try:
        await _noticed(fault, site, before)
    finally:
        server.start()
    return _unnoticed(site, before)


async def _fill_disk(fault: Fault, site: Site, ground: Ground) -> str:
    if ground.disk is None:
        return await _limit_files(fault, site, ground) or "no disk could be mounted; files were limited instead"
    before = site.outages
    filler = ground.disk / "filler"
    _shorten(ground.file)
    fill(filler)
    await _noticed(fault, site, before)
    filler.unlink()
    return _unnoticed(site, before)


async def _limit_files(fault: Fault, site: Site, ground: Ground) -> str:
    _shorten(ground.file)
    limited, before = site.processes, site.outages
    for process in limited:
        process.limit_files(_SMALLEST)
    await _noticed(fault, site, before)
    for process in limited:
        process.limit_files(-1)
    return _unnoticed(site, before)


def _shorten(file: Path) -> None:
    """The log of SQLite: else it may have room for a while, and nobody needs any more."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(file, timeout=1.0)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def _noticed(fault: Fault, site: Site, before: int) -> None:
    """As long as it takes, and longer if nobody has met it by then."""
    await asyncio.sleep(fault.seconds)
    tries_until = time.monotonic() + _PATIENCE
    while site.outages == before and time.monotonic() < tries_until:
        await asyncio.sleep(_LOOK)


def _unnoticed(site: Site, before: int) -> str:
    return "" if site.outages > before else "nobody needed the store"


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
