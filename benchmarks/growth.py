"""How the cost of an item grows: with its batch, with the bodies, with batches at one time, with workers.

Knows: which quantities are set against each other. Must not know: limits, for curves have none.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from statistics import median, quantiles

from benchmarks import memory
from benchmarks.apps import MEBIBYTE
from benchmarks.client import Connection, connected, exchange_all
from benchmarks.memory import FORMS
from benchmarks.readings import Curve, Effort, Section
from benchmarks.rounds import interleaved
from benchmarks.sides import IN_PROCESS, PROXY, SERVERS, SIZES, Ask, ask, grown, proxy_with_workers, sides

Points = dict[str, list[tuple[float, float]]]

ITEMS = (1, 10, 100, 1000, 10_000)
BODIES = 8  # items of a batch whose bodies grow
BATCHES = (1, 2, 4, 8, 16, 32, 64)
ITEMS_AT_ONE_TIME = 20  # of each of several batches
WORKERS = (1, 2, 3, 4)
CLIENTS = 32  # connections that keep several workers busy
KIBIBYTE = 1024


def ask_items(count: int, form: str = "buffered") -> Ask:
    """A batch of so many small items."""
    return ask([f"/item/{number}" for number in range(count)], form)


def ask_bodies(size: int, form: str) -> Ask:
    """A batch whose answers have bodies of this size."""
    return ask([f"/bytes/{size}/{number}" for number in range(BODIES)], form)


def chosen(points: Sequence[int], effort: Effort) -> list[int]:
    """All points; every second one in a quick run."""
    return list(points[:: 1 if effort.slow_rounds > 1 else 2])


# Items of a batch


async def measure_items(effort: Effort) -> AsyncIterator[Curve]:
    """CPU time and memory of an item, by the number of items in its batch."""
    cpu: Points = {}
    async with sides() as found:
        for name, side in found.items():
            samples = {
                str(count): partial(side.cost, ask_items(count), max(1, effort.count(4000) // count)) for count in ITEMS
            }
            rounds = await interleaved(samples, effort.slow_rounds)
            cpu[name] = [(count, rounds.middle(str(count)) * 1e6) for count in ITEMS]
    x = "items of a batch"
    yield Curve(name="items-cpu", title="CPU time by items of a batch", x=x, y="CPU of an item, µs", series=cpu)
    counts = chosen([count for count in ITEMS if count >= 100], effort)
    peaks = await peaks_of({count: partial(ask_items, count) for count in counts}, lambda count: (count, 100))
    y = "peak growth for an item, KiB"
    per_item = {name: [(x, peak / x / KIBIBYTE) for x, peak in points] for name, points in peaks.items()}
    yield Curve(name="items-memory", title="Memory by items of a batch", x=x, y=y, series=per_item)


async def peaks_of(asks: Mapping[int, Callable[[str], Ask]], shape: Callable[[int], tuple[int, int]]) -> Points:
    """By how many bytes memory grows, each time in a fresh process; `shape` is a point's items and bytes of each."""
    peaks: Points = {}
    for form in FORMS:
        peaks[f"{IN_PROCESS}, {form}"] = [(x, memory.grown(form, *shape(x))[0]) for x in asks]
    for name, server in SERVERS.items():
        for form in FORMS:
            peaks[f"{name}, {form}"] = [(x, await grown(server, asked(form))) for x, asked in asks.items()]
    return peaks


# Bodies


async def measure_bodies(effort: Effort) -> AsyncIterator[Curve]:
    """CPU time, memory and the wait for the first result, by the size of the answers."""
    sizes = chosen(SIZES, effort)
    cpu: Points = {}
    wait: Points = {}
    async with sides() as found:
        for name, side in found.items():
            for form in FORMS:
                asks = {size: ask_bodies(size, form) for size in sizes}
                costs = {f"cpu {size}": partial(side.cost, asks[size], times(size, effort)) for size in sizes}
                waits = {f"wait {size}": partial(side.wait, asks[size]) for size in sizes}
                rounds = await interleaved({**costs, **waits}, effort.slow_rounds)
                cpu[f"{name}, {form}"] = [(size, rounds.middle(f"cpu {size}") * 1e6) for size in sizes]
                wait[f"{name}, {form}"] = [(size, rounds.middle(f"wait {size}") * 1e3) for size in sizes]
    x, by = "bytes of a body", f"by the size of a body, batch of {BODIES}"
    yield Curve(name="bodies-cpu", title=f"CPU time {by}", x=x, y="CPU of an item, µs", series=cpu)
    yield Curve(name="bodies-wait", title=f"Time to the first result {by}", x=x, y="wait, ms", series=wait)
    large = [size for size in sizes if size >= 10 * KIBIBYTE]  # less is lost among what an interpreter takes in stock
    peaks = await peaks_of({size: partial(ask_bodies, size) for size in large}, lambda size: (BODIES, size))
    y = "peak growth / bytes of all answers"
    shares = {name: [(x, peak / (x * BODIES)) for x, peak in points] for name, points in peaks.items()}
    yield Curve(name="bodies-memory", title=f"Peak memory {by}", x=x, y=y, series=shares)


def times(size: int, effort: Effort) -> int:
    """How often a batch of such bodies is sent for one sample."""
    return max(1, min(effort.count(1000) // BODIES, 8 * MEBIBYTE // size))


# Batches at one time


async def measure_batches(effort: Effort) -> AsyncIterator[Curve]:
    """CPU time of an item and the wait for a batch, by how many batches run at one time."""
    cpu: Points = {}
    wait: Points = {}
    for name, server in SERVERS.items():
        spent: dict[int, list[float]] = {count: [] for count in BATCHES}
        waits: dict[int, list[float]] = {count: [] for count in BATCHES}
        with server() as running:
            async with connected(running.port, max(BATCHES)) as connections:
                for _ in range(effort.slow_rounds + 1):
                    for count in BATCHES:
                        begin = running.cpu()
                        waited = await waits_of(connections[:count], max(2 * count, effort.count(200)))
                        spent[count].append((running.cpu() - begin) / (len(waited) * ITEMS_AT_ONE_TIME))
                        waits[count] += waited
        cpu[name] = [(count, median(spent[count][1:]) * 1e6) for count in BATCHES]
        for form, percentile in (("p50", 49), ("p99", 98)):
            wait[f"{name}, {form}"] = [(count, quantiles(waits[count], n=100)[percentile] * 1e3) for count in BATCHES]
    x, by = "batches at one time", f"by batches at one time, {ITEMS_AT_ONE_TIME} items each"
    yield Curve(name="batches-cpu", title=f"CPU time {by}", x=x, y="CPU of an item, µs", series=cpu)
    yield Curve(name="batches-wait", title=f"Wait for a batch {by}", x=x, y="wait, ms", series=wait)


async def waits_of(connections: Sequence[Connection], batches: int) -> list[float]:
    """Seconds of each batch, while each connection sends the next as soon as it has its answer."""
    request, waited = ask_items(ITEMS_AT_ONE_TIME).request, []

    async def send(connection: Connection) -> None:
        for _ in range(batches // len(connections)):
            begin = time.perf_counter()
            await connection.exchange(request)
            waited.append(time.perf_counter() - begin)

    await asyncio.gather(*map(send, connections))
    return waited


# Workers


async def measure_workers(effort: Effort) -> AsyncIterator[Curve]:
    """Items a second and memory, by the number of workers of the proxy; all that takes part shares the cores."""
    rates: list[tuple[float, float]] = []
    sizes: list[tuple[float, float]] = []
    requests = [ask_items(100).request] * (effort.count(20_000) // 100)
    for workers in WORKERS:
        with proxy_with_workers(workers) as running:
            async with connected(running.port, CLIENTS) as connections:
                await exchange_all(connections, requests)
                seen = [await rate(connections, requests) for _ in range(effort.slow_rounds)]
                rates.append((workers, median(seen)))
            sizes.append((workers, running.memory_of_all() / MEBIBYTE))
    x = "workers"
    yield Curve(name="workers-rate", title="Items a second by workers", x=x, y="items a second", series={PROXY: rates})
    yield Curve(name="workers-memory", title="Memory by workers", x=x, y="MiB of all processes", series={PROXY: sizes})


async def rate(connections: Sequence[Connection], requests: Sequence[bytes]) -> float:
    """Items a second."""
    begin = time.perf_counter()
    await exchange_all(connections, requests)
    return 100 * len(requests) / (time.perf_counter() - begin)


SECTION = Section(
    name="growth",
    title="Growth",
    measures={
        "items": measure_items,
        "bodies": measure_bodies,
        "batches": measure_batches,
        "workers": measure_workers,
    },
)
