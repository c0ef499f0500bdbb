"""Goals A6 and A7: a Starlette app behind a real uvicorn, asked over sockets.

Knows: which ways of asking are set against each other. Must not know: the limits they should keep.
"""

import json
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial

from benchmarks.client import Connection, connected, exchange_all, get, post
from benchmarks.driver import batch_body
from benchmarks.readings import Effort, Reading, microseconds
from benchmarks.relay import relayed
from benchmarks.rounds import Ratio, interleaved
from benchmarks.server import Server, serving

APPLICATION = "benchmarks.apps:served"
MANY_CONNECTIONS = 20
BROWSER_CONNECTIONS = 6
DISTANCES = ((20, 0.02), (100, 0.02), (100, 0.08))  # items, seconds of a round trip


async def measure_a6(effort: Effort) -> list[Reading]:
    """The server's CPU time of an item: sent singly, and in batches over one connection."""
    with serving(APPLICATION) as server:
        async with connected(server.port, MANY_CONNECTIONS) as many, connected(server.port, 1) as one:
            await same_over_sockets(one[0])
            tens, hundreds = post(batch_body(10)), post(batch_body(100))
            count = effort.count(4000)
            singles = [get(number % 100) for number in range(count)]
            samples = {
                "single": partial(server_cost, server, many, singles, count),
                "lone": partial(server_cost, server, one, singles[: count // 4], count // 4),
                "ten": partial(server_cost, server, one, [tens] * (count // 10), count),
                "hundred": partial(server_cost, server, one, [hundreds] * (count // 50), 2 * count),
            }
            rounds = await interleaved(samples, max(5, effort.rounds // 2))
    names = {"single": "20 connections", "lone": "1 connection", "ten": "batch of 10", "hundred": "batch of 100"}
    cost = {name: f"{text} {microseconds(rounds.middle(name))}" for name, text in names.items()}

    def reading(row: str, upper: str, lower: str) -> Reading:
        return Reading(row=f"A6 {row}", ratio=rounds.ratio(upper, lower), detail=f"{cost[upper]}, {cost[lower]}")

    return [
        reading("20 connections / batch of 10", "single", "ten"),
        reading("20 connections / batch of 100", "single", "hundred"),
        reading("1 connection / batch of 100", "lone", "hundred"),
    ]


async def server_cost(
    server: Server, connections: Sequence[Connection], requests: Sequence[bytes], items: int
) -> float:
    """CPU seconds that the server spends on each item."""
    begin = server.cpu()
    await exchange_all(connections, requests)
    return (server.cpu() - begin) / items


async def same_over_sockets(connection: Connection) -> None:
    """Refuses to measure a server that answers something else than the item alone."""
    answer = await connection.exchange(post(batch_body(100)))
    bodies = [answer["body"] for answer in json.loads(_body(answer))["responses"]]
    alone = [json.loads(_body(await connection.exchange(get(number)))) for number in range(100)]
    if bodies != alone:
        raise RuntimeError(f"The batch answers something else than the server alone: {bodies[:2]}")


def _body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


async def measure_a7(effort: Effort) -> AsyncIterator[Reading]:
    """How long a client far away waits: six connections, as a browser has, against one batch."""
    with serving(APPLICATION) as server:
        for items, round_trip in DISTANCES:
            ratio, detail = await at_distance(server, items, round_trip, effort.slow_rounds)
            name = f"A7 N={items} RTT {round_trip * 1e3:.0f} ms"
            yield Reading(row=name, ratio=ratio, detail=detail)


async def at_distance(server: Server, items: int, round_trip: float, rounds: int) -> tuple[Ratio, str]:
    """The two latencies at one distance, over connections that are open and warm."""
    singles, batch = [get(number) for number in range(items)], [post(batch_body(items))]
    async with (
        relayed(server.port, round_trip) as port,
        connected(port, BROWSER_CONNECTIONS) as six,
        connected(port, 1) as one,
    ):
        samples = {"six": partial(seconds, six, singles), "batch": partial(seconds, one, batch)}
        measured = await interleaved(samples, rounds)
    detail = f"6 connections {measured.middle('six') * 1e3:.0f} ms, one batch {measured.middle('batch') * 1e3:.1f} ms"
    return measured.ratio("six", "batch"), detail


async def seconds(connections: Sequence[Connection], requests: Sequence[bytes]) -> float:
    """Seconds until the last answer is there."""
    begin = time.perf_counter()
    await exchange_all(connections, requests)
    return time.perf_counter() - begin
