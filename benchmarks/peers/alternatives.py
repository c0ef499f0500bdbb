"""What a user does without a batch: many requests with a client library, against one batch with the same library.

Knows: the ways of asking, and the rows. Must not know: how a client library is called.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.apps import JSON, item
from benchmarks.peers.clients import Client, Opening, bare, over_aiohttp, over_httpx
from benchmarks.peers.far import far
from benchmarks.readings import Curve, Effort, Goal, Outcome, Reading, written
from benchmarks.rounds import Rounds
from benchmarks.server import Server, serving

APPLICATION = "benchmarks.apps:served"
ITEMS = (20, 100)
ROUND_TRIPS = (0.0, 0.02, 0.08)  # seconds; none: loopback without a relay
NEAR_ROUNDS = 4  # times as many where nothing waits, since little time shows more noise

Send = Callable[[Client, int], Awaitable[list[JSON]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to ask for many items, and the batch that would do instead."""

    opening: Opening
    at_once: int
    batch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What it took: seconds of waiting, and CPU seconds of the client and of the server."""

    wait: float
    client: float
    server: float


WAYS: Mapping[str, Way] = {
    "httpx one by one": Way(opening=over_httpx, at_once=1, batch="httpx batch"),
    "httpx 20 at once": Way(opening=over_httpx, at_once=20, batch="httpx batch"),
    "aiohttp 20 at once": Way(opening=over_aiohttp, at_once=20, batch="aiohttp batch"),
    "6 connections": Way(opening=bare, at_once=6, batch="bare batch"),
}
BATCHES: Mapping[str, Opening] = {"httpx batch": over_httpx, "aiohttp batch": over_aiohttp, "bare batch": bare}
LIBRARIES = [name for name, way in WAYS.items() if way.opening is not bare]


def _wait_row(name: str, items: int, round_trip: float) -> str:
    return f"U1 {name} N={items} RTT {round_trip * 1e3:.0f} ms"


ALTERNATIVE_GOALS: Mapping[str, Goal] = {
    **{
        _wait_row(name, items, round_trip): Goal(text=f"wait, {name} / batch, N={items}, RTT {round_trip * 1e3:.0f} ms")
        for items in ITEMS
        for round_trip in ROUND_TRIPS
        for name in WAYS
    },
    **{
        f"U2 {name} N={items}": Goal(text=f"client CPU, {name} / batch, N={items}")
        for items in ITEMS
        for name in LIBRARIES
    },
    **{f"U3 {name} N={items}": Goal(text=f"server CPU, {name} / batch, N={items}") for items in ITEMS for name in WAYS},
}


async def measure_alternatives(effort: Effort) -> list[Reading]:
    """Wait, CPU of the client and CPU of the server, over connections that are open and warm."""
    return [outcome async for outcome in compare_alternatives(effort) if isinstance(outcome, Reading)]


async def compare_alternatives(effort: Effort) -> AsyncIterator[Outcome]:
    """The same, and the waits as curves over the distance."""
    with serving(APPLICATION) as server:
        for items in ITEMS:
            series: dict[str, list[tuple[float, float]]] = {name: [] for name in (*WAYS, *BATCHES)}
            for round_trip in ROUND_TRIPS:
                rounds = effort.slow_rounds * (1 if round_trip else NEAR_ROUNDS)
                with far(server.port, round_trip) as port:
                    spent = await _spent(server, port, items, rounds)
                waits = _rounds(spent, lambda each: each.wait)
                for name in WAYS:
                    yield _reading(_wait_row(name, items, round_trip), name, waits)
                if not round_trip:
                    for reading in _costs(items, spent):
                        yield reading
                for name, points in series.items():
                    points.append((round_trip * 1e3, waits.middle(name) * 1e3))
            yield _curve(items, series)


async def _spent(server: Server, port: int, items: int, rounds: int) -> Mapping[str, Sequence[Spent]]:
    """Every way and every batch, once a round: A B C, then C B A."""
    samples = {
        **{
            name: partial(_sample, server, way.opening, port, way.at_once, partial(_singly, way.at_once), items)
            for name, way in WAYS.items()
        },
        **{name: partial(_sample, server, opening, port, 1, _in_one, items) for name, opening in BATCHES.items()},
    }
    spent: dict[str, list[Spent]] = {name: [] for name in samples}
    names = list(samples)
    for _ in range(rounds):
        for name in names:
            spent[name].append(await samples[name]())
        names.reverse()
    return spent


async def _sample(server: Server, opening: Opening, port: int, at_once: int, send: Send, items: int) -> Spent:
    async with opening(port, at_once) as client:
        await _singly(at_once, client, at_once)
        await _in_one(client, 1)
        gc.collect()
        server_begin, client_begin, begin = server.cpu(), time.process_time(), time.perf_counter()
        bodies = await send(client, items)
        wait, spent = time.perf_counter() - begin, time.process_time() - client_begin
        served = server.cpu() - server_begin
    if bodies != [item(number) for number in range(items)]:
        raise RuntimeError(f"The server answers {bodies[:2]}")
    return Spent(wait=wait, client=spent, server=served)


async def _singly(at_once: int, client: Client, items: int) -> list[JSON]:
    """One request an item; each of the workers takes the next item when it has its answer."""
    left, bodies = iter(range(items)), [None] * items

    async def work() -> None:
        for number in left:
            bodies[number] = await client.get(number)

    await asyncio.gather(*[work() for _ in range(at_once)])
    return bodies


async def _in_one(client: Client, items: int) -> list[JSON]:
    """One batch."""
    batch = {"requests": [{"method": "GET", "path": f"/item/{number}"} for number in range(items)]}
    return [answer["body"] for answer in (await client.post(batch))["responses"]]


# Rows


def _rounds(spent: Mapping[str, Sequence[Spent]], quantity: Callable[[Spent], float]) -> Rounds:
    return Rounds({name: [quantity(each) for each in column] for name, column in spent.items()})


def _costs(items: int, spent: Mapping[str, Sequence[Spent]]) -> list[Reading]:
    client, server = _rounds(spent, lambda each: each.client), _rounds(spent, lambda each: each.server)
    return [
        *[_reading(f"U2 {name} N={items}", name, client) for name in LIBRARIES],
        *[_reading(f"U3 {name} N={items}", name, server) for name in WAYS],
    ]


def _reading(row: str, name: str, seconds: Rounds) -> Reading:
    batch = WAYS[name].batch
    detail = f"{_milliseconds(seconds.middle(name))}, {batch} {_milliseconds(seconds.middle(batch))}"
    return Reading(row=row, ratio=seconds.ratio(name, batch), detail=detail)


def _milliseconds(seconds: float) -> str:
    return f"{written(seconds * 1e3, 3)} ms"


def _curve(items: int, series: Mapping[str, Sequence[tuple[float, float]]]) -> Curve:
    return Curve(
        name=f"alternatives-{items}",
        title=f"Wait for {items} items by distance",
        x="round trip, ms",
        y="wait, ms",
        series=series,
    )
