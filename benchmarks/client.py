"""A lean HTTP/1.1 load generator: keep-alive connections, one request at a time on each.

Knows: just enough HTTP for answers that declare their length, or come in chunks. Must not know: what is measured.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import cast

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
LAST_CHUNK = b"\r\n0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One keep-alive connection; `first_byte` is when the body of the last answer began to arrive."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._received = bytearray()
        self._body = 0  # where it begins; 0 before that
        self._expected = 0  # bytes, head included; 0 for chunks
        self.first_byte = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("The server closed the connection"))

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        if not self._body:
            end = received.find(b"\r\n\r\n")
            if end < 0:
                return
            length = LENGTH.search(received, 0, end + 2)
            self._body = end + 4
            is_chunked = length is None and CHUNKED.search(received, 0, end + 2)
            self._expected = 0 if is_chunked else self._body + (int(length[1]) if length else 0)
        if not self.first_byte and len(received) > self._body:
            self.first_byte = time.perf_counter()
        is_whole = len(received) >= self._expected if self._expected else received.endswith(LAST_CHUNK)
        if is_whole and self._answer is not None:
            self._received, self._body, self._expected = bytearray(), 0, 0
            self._answer.set_result(bytes(received))

    async def exchange(self, request: bytes) -> bytes:
        """Sends one request and returns the answer, head and body."""
        assert self._transport is not None
        self._answer, self.first_byte = asyncio.get_running_loop().create_future(), 0.0
        self._transport.write(request)
        answer = await self._answer
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"The server answered {answer[:500]!r}")
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[Connection]]:
    """So many open connections."""
    loop = asyncio.get_running_loop()
    connections = [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


async def exchange_all(connections: Iterable[Connection], requests: Iterable[bytes]) -> None:
    """Sends all requests, each connection taking the next as soon as it has its answer."""
    left = iter(requests)
    await asyncio.gather(*[_drain(connection, left) for connection in connections])


async def _drain(connection: Connection, left: Iterator[bytes]) -> None:
    for request in left:
        await connection.exchange(request)


def get(number: int) -> bytes:
    """GET /item/{number}."""
    return b"GET /item/%d HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: */*\r\nauthorization: Bearer 0123\r\n\r\n" % number


def post(body: bytes, accept: bytes = b"*/*") -> bytes:
    """POST /batch with this body."""
    head = b"POST /batch HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: %b\r\nauthorization: Bearer 0123\r\n" % accept
    return b"%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (head, len(body), body)
