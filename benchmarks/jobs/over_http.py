"""J3 and J4: jobs over HTTP: `batchproxy serve` takes them, `batchproxy worker` passes their items on to nginx.

Knows: what is sent to whom. Must not know: how jobs are kept.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from batchproxy.jobs.store import JobStore, StoreSettings, opened
from benchmarks.client import connected, post
from benchmarks.driver import batch_body
from benchmarks.groups import Group, listening, nginx
from benchmarks.jobs.apps import PLACES
from benchmarks.jobs.clients import JSON_TYPE, LINES_TYPE, Client, aside, lines_of
from benchmarks.jobs.stores import DATABASES
from benchmarks.jobs.throughput import WORKERS, middle
from benchmarks.jobs.workers import ended, working
from benchmarks.pressure import UPSTREAM
from benchmarks.readings import Effort, Reading, microseconds
from benchmarks.rounds import Sample, interleaved, spread
from benchmarks.upstreams import free_port

ITEMS = 3000
FEW = 10
LINES = 50_000

CONFIG = """
server: {{listen: "127.0.0.1:{port}", admin: "off", watch: false, log: {{access: false}}}}
upstreams:
  items: {{url: "http://127.0.0.1:{upstream}", max_in_flight: {places}, max_connections: {places}}}
endpoints:
  - {{path: /batch, concurrency: {places}}}
jobs:
  store: {{url: "{url}"}}
  anonymous: true
  worker: {{embedded: {embedded}, concurrency: {places}, chunks: {places}, poll: 0.5s}}
"""


@dataclass
class Site:
    """A server that takes jobs, the workers, what they pass items on to; and what was spent."""

    server: Group
    workers: Sequence[Group]
    upstream: Group
    store: JobStore
    items: int = 0
    cpu: dict[str, float] = field(default_factory=dict)

    async def seconds(self, items: int) -> float:
        """Of one item, from when the first was claimed until the job had ended."""
        body = lines_of(items)
        path = await aside(Client(self.server.port).submit, LINES_TYPE, body, len(body))
        job = await self.store.jobs.get(path.rpartition("/")[2], None)
        before = self._spent()
        job = await ended(self.store, job)
        for name, cpu in self._spent().items():
            self.cpu[name] = self.cpu.get(name, 0.0) + cpu - before[name]
        self.items += items
        assert job.started_at is not None
        assert job.finished_at is not None
        return (job.finished_at - job.started_at) / items

    def _spent(self) -> dict[str, float]:
        return {"workers": sum(worker.cpu() for worker in self.workers), "nginx": self.upstream.cpu()}

    def told(self) -> str:
        return "CPU of an item: " + ", ".join(
            f"{name} {microseconds(cpu / self.items)}" for name, cpu in self.cpu.items()
        )


@contextmanager
def served(
    url: str, upstream: Group, *, workers: int = 0, embedded: bool = False
) -> Iterator[tuple[Group, list[Group]]]:
    """The server, which works on jobs itself if it is said so, and so many workers."""
    port = free_port()
    with TemporaryDirectory() as folder, ExitStack() as stack:
        config = Path(folder, "batchproxy.yaml")
        works = str(embedded).lower()
        config.write_text(CONFIG.format(port=port, upstream=upstream.port, places=PLACES, url=url, embedded=works))
        command = [sys.executable, "-m", "batchproxy"]
        server = stack.enter_context(listening([*command, "serve", "--config", str(config)], port))
        work = [*command, "worker", "--config", str(config)]
        yield server, [stack.enter_context(working(work)) for _ in range(workers)]


async def measure_http(effort: Effort) -> list[Reading]:
    """J3: the same jobs on both databases, with one and two workers."""
    items = effort.count(ITEMS)
    async with AsyncExitStack() as stack:
        upstream = stack.enter_context(nginx(UPSTREAM, options=""))
        sites: dict[str, Site] = {}
        for database, databases in DATABASES.items():
            new_url = stack.enter_context(databases())
            for count in WORKERS:
                url = new_url()
                server, workers = stack.enter_context(served(url, upstream, workers=count))
                store = await stack.enter_async_context(opened(StoreSettings(url=url)))
                sites[f"{database} {count}"] = Site(server, workers, upstream, store)
        samples: dict[str, Sample] = {name: partial(site.seconds, items) for name, site in sites.items()}
        rounds = await interleaved(samples, min(effort.slow_rounds, 3))
    return [
        Reading(row=f"J3 {name}", ratio=spread([1 / seconds for seconds in rounds.figures[name]]), detail=site.told())
        for name, site in sites.items()
    ]


# What it costs to be accepted


async def measure_submissions(effort: Effort) -> list[Reading]:
    """J4: with a server that takes jobs and leaves them to others; then with one that does them itself."""
    readings = []
    with nginx(UPSTREAM, options="") as upstream:
        for database, databases in DATABASES.items():
            with databases() as new_url:
                with served(new_url(), upstream) as (server, _):
                    readings += await _accepted(database, server, effort)
                with served(new_url(), upstream, embedded=True) as (server, _):
                    readings.append(await _awaited(database, server, effort))
    return readings


async def _accepted(database: str, server: Group, effort: Effort) -> list[Reading]:
    client, hundred, lines = Client(server.port), batch_body(100), lines_of(LINES)
    times = effort.count(200) // 4
    cpu: dict[str, list[float]] = {"JSON": [], "lines": []}

    async def json_batches() -> float:
        begin, before = time.perf_counter(), server.cpu()
        for _ in range(times):
            await aside(client.submit, JSON_TYPE, hundred, len(hundred))
        cpu["JSON"].append((server.cpu() - before) / (100 * times))
        return (time.perf_counter() - begin) / times

    async def many_lines() -> float:
        begin, before = time.perf_counter(), server.cpu()
        path = await aside(client.submit, LINES_TYPE, lines, len(lines))
        spent, seconds = server.cpu() - before, time.perf_counter() - begin
        cpu["lines"].append(spent / LINES)
        await aside(client.cancel, path)
        return seconds / LINES

    rounds = await interleaved({"JSON": json_batches, "lines": many_lines}, min(effort.slow_rounds, 2))
    return [
        Reading(
            row=f"J4 {database} {name}",
            ratio=spread([1 / seconds for seconds in rounds.figures[name]]),
            detail=f"server's CPU of an item {microseconds(middle(cpu[name]))}, one client",
        )
        for name in cpu
    ]


async def _awaited(database: str, server: Group, effort: Effort) -> Reading:
    """The same small batch, at once, and as a job for whose end the answer waits."""
    body = batch_body(FEW)
    plain = post(body)
    ways = {"at once": plain, "job": plain.replace(b"accept:", b"prefer: respond-async, wait=20\r\naccept:")}
    ways = {name: request.replace(b"authorization: Bearer 0123\r\n", b"") for name, request in ways.items()}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    times = effort.count(400) // 8
    async with connected(server.port, 1) as [connection]:

        async def wait(name: str) -> float:
            begin, before = time.perf_counter(), server.cpu()
            for _ in range(times):
                await connection.exchange(ways[name])
            cpu[name].append((server.cpu() - before) / times)
            return (time.perf_counter() - begin) / times

        rounds = await interleaved({name: partial(wait, name) for name in ways}, effort.slow_rounds)
    told = ", ".join(
        f"{name} {rounds.middle(name) * 1e3:.1f} ms, CPU {middle(cpu[name]) * 1e3:.1f} ms" for name in ways
    )
    return Reading(row=f"J4 {database} async", ratio=rounds.ratio("job", "at once"), detail=told)
