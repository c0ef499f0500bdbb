"""Workers in processes of their own, which tests kill, freeze and end."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import Select, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from batchproxy.jobs.store import Clock
from batchproxy.jobs.store.database import Database, T, Work
from batchproxy.jobs.store.tables import chunk, worker
from batchproxy.jobs.working import JobWorker
from tests.jobs import processes
from tests.jobs.place import Place

from .lines import Api, Lines, quick, store_at, until


def work(url: str, folder: Path, store: dict[str, Any], settings: dict[str, Any]) -> None:
    """Until SIGTERM. That it works is shown by a file named by its process."""

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        async with (
            store_at(Place(url, folder), **store) as opened,
            JobWorker(opened, [Lines(Api(folder).app)], quick(**settings)),
        ):
            (folder / f"up-{os.getpid()}").touch()
            await stop.wait()

    asyncio.run(main())


async def freeze(process: ForkServerProcess, place: Place) -> None:
    """Not in the midst of a transaction: then all others would wait for it, for its locks."""
    patience = 0.1
    while True:
        send(process, signal.SIGSTOP)
        while not _is_stopped(process):
            await asyncio.sleep(0.001)
        if not await is_writing(place.url, patience):
            return
        send(process, signal.SIGCONT)
        await asyncio.sleep(random.uniform(0.02, 0.1))  # at another moment
        # It may have been another's, who had to wait for the processor.
        patience = min(2 * patience, 2)


def _is_stopped(process: ForkServerProcess) -> bool:
    """Whether all its threads stand still: the signal takes a moment."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return all((each / "stat").read_text().rpartition(")")[2].split()[0] == "T" for each in tasks)


async def is_writing(url: str, patience: float = 0.1) -> bool:
    """Whether somebody is in the midst of a transaction, and stays there for so long."""
    return _is_locked(url) if url.startswith("sqlite") else await _is_in_transaction(url, patience)


def _is_locked(url: str) -> bool:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return True
    else:
        return False
    finally:
        connection.close()


async def _is_in_transaction(url: str, patience: float) -> bool:
    """Whether a transaction is there that does not end for so long."""
    connection = await asyncpg.connect(url)
    try:
        query = "SELECT pid, xact_start FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid()"
        there = {tuple(row) for row in await connection.fetch(query)}
        end = time.monotonic() + patience
        while there and time.monotonic() < end:
            await asyncio.sleep(0.05)
            there &= {tuple(row) for row in await connection.fetch(query)}
        return bool(there)
    finally:
        await connection.close()


async def outlive(process: ForkServerProcess, place: Place) -> None:
    """The leases of a worker are over, at once. Short ones would be by themselves, but also those of workers that live,
    and have to wait for the processor."""

    async def end(connection: AsyncConnection, now: float) -> None:
        await connection.execute(update(chunk).where(chunk.c.holder.in_(_its(process))).values(due_at=now))

    await _done(place, end)


async def holds_nothing(process: ForkServerProcess, place: Place) -> bool:
    """Whether others have all that a worker had."""

    async def look(connection: AsyncConnection, now: float) -> bool:
        held = select(chunk.c.no).where(chunk.c.holder.in_(_its(process)))
        return (await connection.execute(held)).first() is None

    return await _done(place, look)


def _its(process: ForkServerProcess) -> Select[Any]:
    """The ids of the process: it may have entered twice."""
    return select(worker.c.id).where(worker.c.pid == process.pid)


async def _done(place: Place, what: Work[T]) -> T:
    database = Database(place.settings(), Clock())
    try:
        return await database.write(what)
    finally:
        await database.aclose()


class Workers:
    """All of one place, with the same settings."""

    def __init__(self, place: Place, folder: Path, store: dict[str, Any], settings: dict[str, Any]) -> None:
        self._given = (place.url, folder, store, settings)
        self._folder = folder
        self._processes: list[ForkServerProcess] = []

    def start(self) -> ForkServerProcess:
        process = processes.started(work, *self._given)
        self._processes.append(process)
        return process

    async def kill(self, process: ForkServerProcess) -> None:
        send(process, signal.SIGKILL)
        await until(lambda: not process.is_alive())

    async def end(self, process: ForkServerProcess) -> None:
        """By SIGTERM, in an orderly way."""
        send(process, signal.SIGTERM)
        await until(lambda: not process.is_alive())
        assert process.exitcode == 0

    def is_up(self, process: ForkServerProcess) -> bool:
        return (self._folder / f"up-{process.pid}").exists()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join(processes.PATIENCE)
            process.close()


@contextmanager
def workers(place: Place, folder: Path, *, store: dict[str, Any] | None = None, **settings: Any) -> Iterator[Workers]:
    made = Workers(place, folder, store or {}, settings)
    try:
        yield made
    finally:
        made.close()


def send(process: ForkServerProcess, number: signal.Signals) -> None:
    assert process.pid is not None
    os.kill(process.pid, number)
