"""Apps under uvicorn for the tail of the latencies: items that wait, and a large heap that goes on growing.

Knows: ASGI, and the environment, for each is a process of its own. Must not know: what is measured.
"""

import asyncio
import gc
import os
from collections import deque
from typing import Any

from batchproxy import BatchMiddleware, InFlight
from benchmarks.apps import Receive, Scope, Send, item, pure, sometimes_slow

FREEZE = "BENCHMARK_FREEZE"
SHARED_PLACES = 16
WAIT_SECONDS = 0.005
UNHURRIED_SECONDS = 0.1
LIVE_OBJECTS = 300_000
KEPT_ITEMS = 20_000


async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
    """The pure application, but each item waits, as for a database."""
    await asyncio.sleep(WAIT_SECONDS)
    await pure(scope, receive, send)


async def unhurried(scope: Scope, receive: Receive, send: Send) -> None:
    """The pure application as a slow upstream."""
    await asyncio.sleep(UNHURRIED_SECONDS)
    await pure(scope, receive, send)


class LargeHeap:
    """The pure application with many live objects, and a cache of the latest answers.

    So the collector has reason to look at all of them now and then. Where `FREEZE` is in the environment, it is treated
    at the start as the standalone process treats it.
    """

    def __init__(self) -> None:
        self._live: list[list[int]] = []
        self._cache: deque[dict[str, Any]] = deque(maxlen=KEPT_ITEMS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live_on(receive, send)
            return
        self._cache.append(item(len(self._cache)))
        await pure(scope, receive, send)

    async def _live_on(self, receive: Receive, send: Send) -> None:
        await receive()
        self._live = [[number] for number in range(LIVE_OBJECTS)]
        if FREEZE in os.environ:
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 50)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


one_slow = BatchMiddleware(sometimes_slow)
sharing_places = BatchMiddleware(waiting, in_flight=InFlight(SHARED_PLACES))
large_heap = BatchMiddleware(LargeHeap())
