"""A far network on one machine: a TCP relay that hands on what it reads after half a round trip.

Knows: bytes and timers. It emulates distance only, neither bandwidth nor loss nor the set-up of connections.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast


class Side(asyncio.Protocol):
    """One end of a relayed connection: what comes in here leaves at `peer`, later, in order."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._waiting: deque[bytes] = deque()
        self._transport: asyncio.Transport | None = None
        self.peer: Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._waiting.append(data)
        asyncio.get_running_loop().call_later(self._delay, self._release)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.peer is not None and self.peer._transport is not None:
            self.peer._transport.close()

    def _release(self) -> None:
        data = self._waiting.popleft()
        if self.peer is not None and self.peer._transport is not None:
            self.peer._transport.write(data)


class Entrance(Side):
    """The client's end, which opens the other one; what arrives before that waits its turn."""

    def __init__(self, delay: float, port: int) -> None:
        super().__init__(delay)
        self._port = port
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._transport is not None
        self._transport.pause_reading()
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.peer = await loop.create_connection(lambda: Side(self._delay), "127.0.0.1", self._port)
        self.peer.peer = self
        assert self._transport is not None
        self._transport.resume_reading()


@asynccontextmanager
async def relayed(port: int, round_trip: float) -> AsyncIterator[int]:
    """A port that leads to `port`, `round_trip` seconds away."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Entrance(round_trip / 2, port), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
