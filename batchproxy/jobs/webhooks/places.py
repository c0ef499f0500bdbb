"""How many requests are under way at once: in all, and to each host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class _Lane:
    __slots__ = ("free", "users")

    def __init__(self, places: int) -> None:
        self.free = asyncio.Semaphore(places)
        self.users = 0


class Places:
    """Who waits for his host takes no place from others; hosts that nobody asks for are forgotten."""

    def __init__(self, concurrency: int, per_host: int) -> None:
        self._free = asyncio.Semaphore(concurrency)
        self._per_host = per_host
        self._lanes: dict[str, _Lane] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    @asynccontextmanager
    async def at(self, host: str) -> AsyncIterator[None]:
        lane = self._lanes.setdefault(host, _Lane(self._per_host))
        lane.users += 1
        try:
            async with lane.free, self._free:
                yield
        finally:
            lane.users -= 1
            if not lane.users:
                del self._lanes[host]
