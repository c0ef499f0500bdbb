"""Processes that work on jobs, and jobs for them.

Knows: the commands of workers, the form in which items lie in the store. Must not know: what is measured.
"""

import asyncio
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from subprocess import DEVNULL, PIPE, Popen
from threading import Thread

from batchproxy.engine.model import Caller, Item, Options
from batchproxy.jobs.resources import kind_name
from batchproxy.jobs.resources.secrets import Secret, Vault
from batchproxy.jobs.resources.stored import packed_item, packed_options
from batchproxy.jobs.store import Job, JobStore, NewJob
from benchmarks.apps import ROOT
from benchmarks.groups import Group
from benchmarks.jobs.apps import PATH, URL

POLL_SECONDS = 0.02
LONGEST_SECONDS = 120.0


@contextmanager
def working(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Group]:
    """A worker that has said that it works; it ends with the block."""
    process = Popen(
        command,
        cwd=ROOT,
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        said: list[str] = []
        for line in process.stderr or ():
            said.append(line)
            if "working" in line:
                break
        else:
            raise RuntimeError("The worker did not start:\n" + "".join(said))
        # What it says later must not fill the pipe.
        Thread(target=deque, args=(process.stderr, 0), daemon=True).start()
        yield Group(process.pid, 0)
    finally:
        process.terminate()
        process.wait(timeout=40)


@contextmanager
def app_workers(url: str, count: int) -> Iterator[list[Group]]:
    """So many workers for the app that answers at once."""
    command = [sys.executable, "-m", "benchmarks.jobs.worker"]
    with ExitStack() as stack:
        yield [stack.enter_context(working(command, {URL: url})) for _ in range(count)]


async def submitted(store: JobStore, items: int, *, owner: str = "ann") -> Job:
    """A job of GETs, as the resource of the endpoint stores them."""
    caller = Caller(request_id="b", host="127.0.0.1", inherited=())
    secret = Secret()
    new = NewJob(
        owner=owner,
        kind=kind_name(PATH),
        endpoint=PATH,
        options=packed_options(caller, Options()),
        secret=Vault(None).sealed(secret, owner),
    )
    async with store.submission(new) as submission:
        for number in range(items):
            item = Item(number, "GET", b"/item/%d" % number)
            await submission.add(packed_item(item, None, secret))
        return (await submission.commit()).job


async def ended(store: JobStore, job: Job) -> Job:
    """The job once it has ended, all of it well."""
    async with asyncio.timeout(LONGEST_SECONDS):
        while not job.is_terminal:
            await asyncio.sleep(POLL_SECONDS)
            job = await store.jobs.get(job.id, None)
    if job.counts.ok != job.total:
        raise RuntimeError(f"The job ended {job.state} with {job.counts}")
    return job
