"""What tests do in processes of their own: working beside others, and ending at a certain point."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Coroutine
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

from batchproxy.jobs.store import JobStore, Kind, Message, StoreError

from .place import Place, ok, submitted

T = TypeVar("T")

PATIENCE = 60

_context: ForkServerContext = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["tests.jobs.processes", "tests.jobs.chaos.forks", "tests.jobs.working.workers", "asyncpg", "aiosqlite"]
)

Point = tuple[str, int]
"""A name, and the how manieth time it is passed."""


def started(target: Callable[..., None], *arguments: object) -> ForkServerProcess:
    process = _context.Process(target=target, args=arguments)
    process.start()
    return process


def ended(process: ForkServerProcess) -> int | None:
    """Its exit code."""
    try:
        process.join(PATIENCE)
        return process.exitcode
    finally:
        process.kill()
        process.join()
        process.close()


# What they do; each is given where the store is


def work(url: str, folder: Path, report: Path, worker: str) -> None:
    """Claims one chunk after another until there is none, and reports the items that it did."""

    async def working(store: JobStore) -> list[int]:
        done: list[int] = []
        async with store.checkpointer() as checkpointer:
            while claims := await store.claims.claim(worker, 1, kinds=[Kind.ITEMS]):
                [claimed] = claims
                done += claimed.open_seqs
                await asyncio.gather(*(checkpointer.settle(claimed.lease, ok(seq)) for seq in claimed.open_seqs))
        return done

    report.write_text("\n".join(map(str, _run(url, folder, working))))


def submit(url: str, folder: Path, point: Point, n: int) -> None:
    _run(url, folder, lambda store: submitted(store, n, idempotency_key="k"), point)


def settle(url: str, folder: Path, point: Point) -> None:
    async def settling(store: JobStore) -> None:
        [claimed] = await store.claims.claim("lost", 1)
        async with store.checkpointer() as checkpointer:
            await checkpointer.settle(claimed.lease, *(ok(seq) for seq in claimed.open_seqs))

    _run(url, folder, settling, point)


def finish(url: str, folder: Path, point: Point) -> None:
    _run(url, folder, finishing, point)


def fill(url: str, folder: Path, limit: int, report: Path) -> None:
    """Submits with a limit on the size of files, until that is reached, and without it once more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    async def filling(store: JobStore) -> list[str]:
        codes = []
        for _ in range(500):
            try:
                await submitted(store, 300)
            except StoreError as error:
                codes.append(error.code)
                break
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await submitted(store, 300)
        return codes

    report.write_text("\n".join(_run(url, folder, filling)))


async def finishing(store: JobStore) -> None:
    """The end of a job, with a file under an id of its own, and a message."""
    [claimed] = await store.claims.claim("w", 1)
    await store.ending.settle_rest(claimed.lease)
    file_id = f"output-{claimed.lease.job}"
    async with store.files.upload(
        owner=claimed.owner, purpose="batch_output", filename="f", file_id=file_id, lease=claimed.lease
    ) as upload:
        await upload.write(b"output")
        await upload.commit()
    message = Message(event="job.ended", target=b"t", payload=b"p")
    await store.ending.finish(claimed.lease, output_file=file_id, messages=[message])


def _run(url: str, folder: Path, what: Callable[[JobStore], Coroutine[Any, Any, T]], point: Point = ("", 0)) -> T:
    async def main() -> T:
        async with Place(url, folder).opened(killing(point), inline_bytes=0) as store:
            return await what(store)

    return asyncio.run(main())


def killing(point: Point) -> Callable[[str], None]:
    """Ends the process there, as if its power had failed."""
    name, left = point

    def passing(passed: str) -> None:
        nonlocal left
        if passed == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return passing
