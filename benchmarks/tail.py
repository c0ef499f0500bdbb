"""Goals T1 to T5: what the slowest answers wait for, and who waits for whom.

Knows: which clients are set beside each other. Must not know: how a server shares its time.
"""

import asyncio
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, cast

from benchmarks.apps import SLOW_SECONDS
from benchmarks.client import Connection, connected, get, post
from benchmarks.driver import batch_body
from benchmarks.over_sockets import APPLICATION
from benchmarks.readings import Effort, Goal, Reading, Section
from benchmarks.rounds import Sample, interleaved, spread
from benchmarks.server import Server, cores, serving, started
from benchmarks.slow_app import FREEZE, LIVE_OBJECTS, SHARED_PLACES, WAIT_SECONDS
from benchmarks.upstreams import items_served, lua_batching

RIVALS = 3

GOALS: Mapping[str, Goal] = {
    "T1": Goal(text="99 results beside a slow item, buffered / NDJSON", at_least=50),
    "T2 app": Goal(text="p99 of single requests, beside batches / alone", at_most=2),
    "T2 proxy": Goal(text="the same, through the proxy", at_most=2),
    "T3 app": Goal(text="p99 of batches of 10, beside batches / alone", at_most=2),
    "T3 proxy": Goal(text="the same, through the proxy", at_most=2),
    "T3 Lua": Goal(text="the same, through nginx with Lua"),
    "T4": Goal(text="p99 of small batches, sharing places / alone", at_most=1 + RIVALS),
    "T5 frozen": Goal(text="worst / median batch, large heap, frozen", at_most=4),
    "T5 usual": Goal(text="the same, collector as Python sets it"),
}

BIG, TEN = post(batch_body(100)), post(batch_body(10))
LONGEST_PAUSE = 0.003
"""Between two requests of the small client, so that they come at any point of a batch."""
DISTURBED = 100e-6
"""Seconds for which others held a core of ours; a request that met them tells nothing of us."""
WORST_OF = 1200
"""Batches of which the worst is looked for: enough for a collection of everything."""


async def measure_tail(effort: Effort) -> list[Reading]:
    """T1 to T5."""
    return [
        *await measure_mixed(effort),
        *await measure_beside(effort),
        *await measure_shares(effort),
        *await measure_collector(effort),
    ]


PROXY = """
server: {{listen: "127.0.0.1:0", admin: "off", watch: false}}
upstreams: {{items: {{url: "http://127.0.0.1:{upstream}"}}}}
"""


@contextmanager
def as_it_comes(upstream: int) -> Iterator[Server]:
    """The proxy with the defaults of all its limits."""
    with TemporaryDirectory() as folder:
        config = Path(folder) / "batchproxy.yaml"
        config.write_text(PROXY.format(upstream=upstream))
        with started([sys.executable, "-m", "batchproxy", "serve", "--config", str(config)]) as server:
            yield server


# T1: one slow item among fast ones


class Arrivals(asyncio.Protocol):
    """A connection for one request, and when each result of its answer was there, in seconds."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self._began = 0.0
        self.times: list[float] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._began = time.perf_counter()
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        there = self._received.count(b'"status":200')
        self.times += [time.perf_counter() - self._began] * (there - len(self.times))

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


async def measure_mixed(effort: Effort) -> list[Reading]:
    """When the results of 99 fast items are there, if the first takes half a second."""
    ratios, buffered, streamed = [], 0.0, 0.0
    with serving("benchmarks.slow_app:one_slow") as server:
        for _ in range(effort.slow_rounds):
            buffered = await _all_but_one(server.port, b"application/json")
            streamed = await _all_but_one(server.port, b"application/x-ndjson")
            ratios.append(buffered / streamed)
    slow = f"{SLOW_SECONDS * 1e3:.0f} ms"
    detail = f"one item of {slow}; the others buffered after {buffered * 1e3:.0f} ms, NDJSON {streamed * 1e3:.1f} ms"
    return [Reading(row="T1", ratio=spread(ratios), detail=detail)]


async def _all_but_one(port: int, accept: bytes) -> float:
    """Seconds until 99 results of 100 are there."""
    body = batch_body(100)
    head = b"POST /batch HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n"
    request = b"%baccept: %b\r\ncontent-length: %d\r\n\r\n%b" % (head, accept, len(body), body)
    loop = asyncio.get_running_loop()
    _, arrivals = await loop.create_connection(partial(Arrivals, request), "127.0.0.1", port)
    await arrivals.ended
    if len(arrivals.times) != 100:
        raise RuntimeError(f"{len(arrivals.times)} results came of 100")
    return arrivals.times[98]


# T2 to T4: a small client, alone and beside others who send large batches without a pause


class Clients(NamedTuple):
    """A small client: what it asks of whom; how many are beside it; which processes have their core for themselves."""

    port: int
    requests: Sequence[bytes]
    beside: int
    undisturbed: Sequence[int]


class Latencies:
    """Seconds of all requests, by the name of their sample."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._left_out: dict[str, int] = defaultdict(int)

    async def worst_percent(self, name: str, clients: Clients) -> float:
        """A sample: 99 of 100 requests of the small client are no slower.

        What the rest of the machine does must not count: requests are left out during which another process held a
        core that should be free of it.
        """
        pauses, everything, undisturbed = random.Random(7), [], []
        async with connected(clients.port, 1 + clients.beside) as (small, *big), sending(big):
            with waits_for_cores(clients.undisturbed) as waited:
                await small.exchange(clients.requests[0])
                for request in clients.requests:
                    await asyncio.sleep(pauses.uniform(0, LONGEST_PAUSE))
                    before, begin = waited(), time.perf_counter()
                    await small.exchange(request)
                    everything.append(time.perf_counter() - begin)
                    if waited() - before < DISTURBED:
                        undisturbed.append(everything[-1])
        # On a machine that is too busy even for that, all count; what is told shows it.
        seconds = undisturbed if len(undisturbed) > len(everything) / 10 else everything
        self._seconds[name] += seconds
        self._left_out[name] += len(everything) - len(seconds)
        return percentile(seconds, 0.99)

    def told(self, name: str) -> str:
        """Percentiles over all rounds, for a person."""
        seconds = self._seconds[name]
        figures = " ".join(f"{percentile(seconds, share) * 1e3:.2f}" for share in (0.5, 0.9, 0.99))
        return f"{figures} ({self._left_out[name]} of {self._left_out[name] + len(seconds)} left out)"


@contextmanager
def waits_for_cores(process_ids: Sequence[int]) -> Iterator[Callable[[], float]]:
    """A clock: for how many seconds the main threads of these processes have been ready, but not run."""
    with ExitStack() as stack:
        files = [stack.enter_context(open(f"/proc/{each}/schedstat", "rb")) for each in process_ids]

        def waited() -> float:
            return sum(int(os.pread(file.fileno(), 100, 0).split()[1]) for file in files) / 1e9

        yield waited


def percentile(seconds: Sequence[float], share: float) -> float:
    """So large a share is no greater."""
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


@asynccontextmanager
async def sending(connections: Sequence[Connection]) -> AsyncIterator[None]:
    """Each of the connections sends batches of 100 until the block ends."""
    going = True

    async def send(connection: Connection) -> None:
        while going:
            await connection.exchange(BIG)

    senders = [asyncio.ensure_future(send(connection)) for connection in connections]
    try:
        yield
    finally:
        going = False
        await asyncio.gather(*senders)


async def measure_beside(effort: Effort) -> list[Reading]:
    """Server on the first core, clients and nginx as the upstream on the second, alone and together."""
    first, second = cores()
    latencies, samples = Latencies(), dict[str, Sample]()
    count = effort.count(800)
    asked = {"T2": [get(number % 100) for number in range(count)], "T3": [TEN] * count}
    with ExitStack() as stack:
        upstream = stack.enter_context(items_served(second))
        app = stack.enter_context(serving(APPLICATION))
        proxy = stack.enter_context(as_it_comes(upstream.port))
        lua = stack.enter_context(lua_batching(upstream.port, first))
        sides: dict[str, tuple[int, list[int], list[str]]] = {
            "app": (app.port, [app.process_id, os.getpid()], ["T2", "T3"]),
            # The upstream shares our core.
            "proxy": (proxy.port, [proxy.process_id], ["T2", "T3"]),
            "Lua": (lua.port, [lua.process_id], ["T3"]),
        }
        for side, (port, undisturbed, goals) in sides.items():
            for goal in goals:
                for others, beside in enumerate(("alone", "beside")):
                    name = f"{goal} {side} {beside}"
                    clients = Clients(port, asked[goal], others, undisturbed)
                    samples[name] = partial(latencies.worst_percent, name, clients)
        rounds = await interleaved(samples, effort.slow_rounds)

    def reading(row: str) -> Reading:
        alone, beside = f"{row} alone", f"{row} beside"
        detail = f"ms at 50 90 99 %: {latencies.told(beside)}, alone {latencies.told(alone)}"
        return Reading(row=row, ratio=rounds.ratio(beside, alone), detail=detail)

    return [reading(f"{goal} {side}") for goal in ("T2", "T3") for side in sides if goal in sides[side][2]]


async def measure_shares(effort: Effort) -> list[Reading]:
    """Batches of five items, each of which waits, against three clients with batches of 100; one pool of places."""
    latencies = Latencies()
    few = [post(batch_body(5))] * (effort.count(400) // 2)
    with serving("benchmarks.slow_app:sharing_places") as server:
        samples = {
            name: partial(latencies.worst_percent, name, Clients(server.port, few, others, [server.process_id]))
            for name, others in (("alone", 0), ("beside", RIVALS))
        }
        rounds = await interleaved(samples, effort.slow_rounds)
    detail = (
        f"5 items of {WAIT_SECONDS * 1e3:.0f} ms, {RIVALS} x 100 beside, {SHARED_PLACES} places; "
        f"ms at 50 90 99 %: {latencies.told('beside')}, alone {latencies.told('alone')}"
    )
    return [Reading(row="T4", ratio=rounds.ratio("beside", "alone"), detail=detail)]


# T5: the collector


async def measure_collector(effort: Effort) -> list[Reading]:
    """The slowest of many batches, with the collector as the standalone process sets it, and as Python does."""
    samples, batches = dict[str, Sample](), defaultdict[str, list[float]](list)
    with ExitStack() as stack:
        for name, environment in (("frozen", {FREEZE: "1"}), ("usual", {})):
            server = stack.enter_context(serving("benchmarks.slow_app:large_heap", environment))
            samples[name] = partial(_worst_batch, server, batches[name])
        rounds = await interleaved(samples, effort.slow_rounds)

    def reading(name: str) -> Reading:
        median, worst = (f"{percentile(batches[name], share) * 1e3:.1f}" for share in (0.5, 1))
        detail = f"{LIVE_OBJECTS:,} live objects: median {median} ms, worst of {len(batches[name]):,} {worst} ms"
        return Reading(row=f"T5 {name}", ratio=spread(rounds.figures[name]), detail=detail)

    return [reading(name) for name in samples]


async def _worst_batch(server: Server, batches: list[float]) -> float:
    """How much longer than the median batch the slowest takes, less the time for which others held one of the cores."""
    seconds = []
    async with connected(server.port, 1) as (connection,):
        with waits_for_cores([server.process_id, os.getpid()]) as waited:
            for _ in range(WORST_OF):
                before, begin = waited(), time.perf_counter()
                await connection.exchange(BIG)
                seconds.append(time.perf_counter() - begin - (waited() - before))
    batches += seconds
    return max(seconds) / percentile(seconds, 0.5)


SECTION = Section(
    name="tail",
    title="Tail and fairness",
    measures={
        "mixed": measure_mixed,
        "beside": measure_beside,
        "shares": measure_shares,
        "collector": measure_collector,
    },
    goals=GOALS,
)
