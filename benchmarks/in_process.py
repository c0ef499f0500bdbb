"""Goals A1 to A5 and A9: the middleware called through its ASGI interface, in one process, on uvloop.

Knows: which costs are set against each other. Must not know: the limits they should keep.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial

import orjson

from batchproxy import BatchMiddleware
from benchmarks.apps import MEBIBYTE, App, Message, constant, fastapi, prose, pure, records, sometimes_slow, starlette
from benchmarks.driver import Feed, bare_cost, batch_body, batch_cost, batch_scope, same_answers
from benchmarks.readings import Effort, Reading, microseconds
from benchmarks.replay import Replay
from benchmarks.rounds import interleaved, spread

ROOM = 64 * MEBIBYTE
LARGE_BATCH = 20
FIRST_RESULT_BATCH = 20


async def measure_a1(effort: Effort) -> AsyncIterator[Reading]:
    """A batch of 100 against the same requests given to the bare app."""
    apps: list[tuple[str, App, int]] = [
        ("pure", pure, 8000),
        ("Starlette", starlette(), 4000),
        ("FastAPI", fastapi(), 2000),
    ]
    for name, app, items in apps:
        batching, count = BatchMiddleware(app), effort.count(items)
        await same_answers(app, batching, [1, 100])
        samples = {"bare": partial(bare_cost, app, count), "batch": partial(batch_cost, batching, 100, count)}
        rounds = await interleaved(samples, effort.rounds)
        detail = f"bare {microseconds(rounds.middle('bare'))}, batch {microseconds(rounds.middle('batch'))} an item"
        yield Reading(row=f"A1 {name}", ratio=rounds.ratio("batch", "bare"), detail=detail)


async def measure_a2(effort: Effort) -> list[Reading]:
    """What a replay through httpx.ASGITransport adds to the bare app, against what we add."""
    batching, replay, count = BatchMiddleware(pure), Replay(pure), effort.count(4000)
    await same_answers(pure, replay, [100])
    samples = {
        "bare": partial(bare_cost, pure, count),
        "batch": partial(batch_cost, batching, 100, count),
        "replay": partial(batch_cost, replay, 100, count // 4),
    }
    rounds = await interleaved(samples, effort.rounds)
    bare = rounds.middle("bare")
    detail = (
        f"replay adds {microseconds(rounds.middle('replay') - bare)}, we {microseconds(rounds.middle('batch') - bare)}"
    )
    return [Reading(row="A2", ratio=rounds.excess("replay", "batch", "bare"), detail=detail)]


async def measure_a3(effort: Effort) -> list[Reading]:
    """What a request that is no batch pays for passing the middleware."""
    count = effort.count(10_000)
    samples = {"without": partial(bare_cost, pure, count), "with": partial(bare_cost, BatchMiddleware(pure), count)}
    rounds = await interleaved(samples, effort.rounds)
    added = rounds.middle("with") - rounds.middle("without")
    return [Reading(row="A3", ratio=rounds.ratio("with", "without"), detail=f"adds {microseconds(added)}")]


async def measure_a4(effort: Effort) -> list[Reading]:
    """Whether the cost of an item stays the same when the batch is a hundred times larger."""
    batching = BatchMiddleware(pure, max_items=10_000, max_total_response_bytes=ROOM)
    await same_answers(pure, batching, [10_000])
    samples = {
        "100": partial(batch_cost, batching, 100, 10_000),
        "10000": partial(batch_cost, batching, 10_000, 10_000),
    }
    rounds = await interleaved(samples, max(3, effort.rounds // 2))
    detail = f"{microseconds(rounds.middle('100'))} an item at 100, {microseconds(rounds.middle('10000'))} at 10,000"
    return [Reading(row="A4", ratio=rounds.ratio("10000", "100"), detail=detail)]


async def measure_a5(effort: Effort) -> AsyncIterator[Reading]:
    """Decoding and encoding a body of 1 MiB once, against all that we do with an item that has such an answer."""
    for name, body in (("short values", records(MEBIBYTE)), ("long strings", prose(MEBIBYTE))):
        batching = BatchMiddleware(constant(body), max_total_response_bytes=ROOM)
        samples = {"re-encode": partial(reencode_cost, body), "item": partial(batch_cost, batching, LARGE_BATCH, 1)}
        rounds = await interleaved(samples, max(3, effort.rounds // 2))
        detail = f"orjson {microseconds(rounds.middle('re-encode'))}, we {microseconds(rounds.middle('item'))}"
        yield Reading(row=f"A5 {name}", ratio=rounds.ratio("re-encode", "item"), detail=detail)


async def reencode_cost(body: bytes) -> float:
    """CPU seconds of one orjson round trip."""
    begin = time.process_time()
    for _ in range(LARGE_BATCH):
        orjson.dumps(orjson.loads(body))
    return (time.process_time() - begin) / LARGE_BATCH


async def measure_a9(effort: Effort) -> list[Reading]:
    """When the first result is there, if one of twenty items takes half a second."""
    batching, body = BatchMiddleware(sometimes_slow), batch_body(FIRST_RESULT_BATCH)
    ratios, buffered, streamed = [], 0.0, 0.0
    for _ in range(effort.slow_rounds):
        buffered = await first_result(batching, body, b"application/json")
        streamed = await first_result(batching, body, b"application/x-ndjson")
        ratios.append(buffered / streamed)
    detail = f"buffered {buffered * 1e3:.1f} ms, NDJSON {streamed * 1e3:.2f} ms"
    return [Reading(row="A9", ratio=spread(ratios), detail=detail)]


async def first_result(app: App, body: bytes, accept: bytes) -> float:
    """Seconds until the first byte of the answer's body."""
    arrival: list[float] = []

    async def send(message: Message) -> None:
        if message.get("body") and not arrival:
            arrival.append(time.perf_counter())

    await asyncio.sleep(0)
    begin = time.perf_counter()
    await app(batch_scope(body, accept), Feed(body).receive, send)
    return arrival[0] - begin
