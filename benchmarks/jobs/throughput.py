"""J1, J2 and J8: jobs through the store alone, worked on by processes in which the app answers at once.

Knows: stores, workers, who owns which job. Must not know: HTTP.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from batchproxy import BatchMiddleware
from batchproxy.jobs.store import JobStore, StoreSettings, opened
from benchmarks.driver import batch_cost
from benchmarks.groups import Group
from benchmarks.jobs.apps import PATH, PLACES, answering
from benchmarks.jobs.stores import DATABASES, NewUrl
from benchmarks.jobs.workers import LONGEST_SECONDS, POLL_SECONDS, app_workers, ended, submitted
from benchmarks.readings import Effort, Reading, microseconds
from benchmarks.rounds import Sample, interleaved, spread

WORKERS = (1, 2)
ITEMS = 3000
LARGE, SMALL = 50_000, 10


class Side:
    """Some workers on one store, and what they did."""

    def __init__(self, store: JobStore, workers: Sequence[Group]) -> None:
        self._store = store
        self._workers = workers
        self.costs: list[float] = []
        self.submissions: list[float] = []

    async def seconds(self, items: int) -> float:
        """Of one item, from when the first was claimed until the job had ended, by the time of the database."""
        begin = time.perf_counter()
        job = await submitted(self._store, items)
        self.submissions.append(items / (time.perf_counter() - begin))
        before = self.cpu()
        job = await ended(self._store, job)
        assert job.started_at is not None
        assert job.finished_at is not None
        self.costs.append((self.cpu() - before) / items)
        return (job.finished_at - job.started_at) / items

    def cpu(self) -> float:
        return sum(worker.cpu() for worker in self._workers)


@asynccontextmanager
async def sides(new_url: NewUrl, counts: Sequence[int]) -> AsyncIterator[dict[int, Side]]:
    """By the number of their workers, each with a store of its own."""
    async with AsyncExitStack() as stack:
        found = {}
        for count in counts:
            url = new_url()
            store = await stack.enter_async_context(opened(StoreSettings(url=url)))
            found[count] = Side(store, stack.enter_context(app_workers(url, count)))
        yield found


async def measure_store(database: str, effort: Effort) -> list[Reading]:
    """J1 and J2 on one database; a quick run has one worker alone."""
    alone = BatchMiddleware(answering, path=PATH)
    items = effort.count(ITEMS)
    counts = WORKERS if effort.slow_rounds > 1 else WORKERS[:1]
    with DATABASES[database]() as new_url:
        async with sides(new_url, counts) as found:
            samples: dict[str, Sample] = {str(count): partial(side.seconds, items) for count, side in found.items()}
            samples["batch"] = partial(batch_cost, alone, 100, items)
            rounds = await interleaved(samples, effort.slow_rounds)
    batch = rounds.middle("batch")
    readings = []
    for count, side in found.items():
        detail = f"CPU of an item {microseconds(middle(side.costs[2:]))}, submitted {middle(side.submissions):,.0f}/s"
        if count > 1:
            detail += f", {rounds.ratio('1', str(count)).middle:.2f} times one worker"
        rates = [1 / seconds for seconds in rounds.figures[str(count)]]
        readings.append(Reading(row=f"J1 {database} {count}", ratio=spread(rates), detail=detail))
    costs = found[1].costs[2:]  # without the round that does not count
    detail = f"worker {microseconds(middle(costs))}, batch {microseconds(batch)}"
    return [*readings, Reading(row=f"J2 {database}", ratio=spread([cost / batch for cost in costs]), detail=detail)]


def middle(figures: Sequence[float]) -> float:
    return spread(list(figures)).middle


async def measure_owners(effort: Effort) -> list[Reading]:
    """J8: a job of somebody else, after a large one has begun."""
    readings = []
    for database, databases in DATABASES.items():
        with databases() as new_url:
            waits, done = [], []
            for _ in range(min(effort.slow_rounds, 3)):
                url = new_url()
                async with opened(StoreSettings(url=url)) as store:
                    with app_workers(url, 1):
                        wait, share = await _small_beside_large(store)
                waits.append(wait)
                done.append(share)
        detail = f"meanwhile {middle(done):,.0f} items of the large one ended, {PLACES} places"
        readings.append(Reading(row=f"J8 {database}", ratio=spread(waits), detail=detail))
    return readings


async def _small_beside_large(store: JobStore) -> tuple[float, int]:
    """Seconds until the small job has ended; how many items of the large one have by then."""
    large = await submitted(store, LARGE, owner="ann")
    async with asyncio.timeout(LONGEST_SECONDS):
        while (begun := (await store.jobs.get(large.id, None)).counts.done) < LARGE // 50:
            await asyncio.sleep(POLL_SECONDS)
    begin = time.perf_counter()
    await ended(store, await submitted(store, SMALL, owner="bob"))
    wait_for_it = time.perf_counter() - begin
    now = await store.jobs.get(large.id, None)
    if now.is_terminal:
        raise RuntimeError("The large job has ended before the small one")
    await store.ending.cancel(large.id, None)
    return wait_for_it, now.counts.done - begun
