"""A worker for the app that answers at once: `python -m benchmarks.jobs.worker`, with the store of the environment.

As `batchproxy worker --app` has it, but that it looks for work more often: with SQLite nobody tells it of any.
"""

import asyncio
import os
import signal
import sys

from batchproxy.jobs.resources.service import JobService
from batchproxy.jobs.store import StoreSettings, opened
from batchproxy.jobs.working import JobWorker, WorkSettings
from batchproxy.server.loop import run
from benchmarks.jobs.apps import PLACES, URL, quick


async def work() -> int:
    """Until the process is told to end."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    assert isinstance(quick.jobs, JobService)
    settings = WorkSettings(concurrency=PLACES, chunks=PLACES, poll=0.2)
    async with opened(StoreSettings(url=os.environ[URL])) as store, JobWorker(store, quick.jobs.kinds, settings):
        print("working", file=sys.stderr, flush=True)
        await asked.wait()
    return 0


if __name__ == "__main__":
    sys.exit(run(work()))
