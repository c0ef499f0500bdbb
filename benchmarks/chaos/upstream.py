"""The API behind: it writes down each request that has arrived, and answers a moment later.

`python -m benchmarks.chaos.upstream LEDGER` listens on a free port and tells it. A line of the ledger is a time of the
monotonic clock, which all processes of a machine have in common, the item, and its `Idempotency-Key` or `-`. A path is
`/job/number?seconds&bytes`: when it is answered, and with how much.

Knows: sockets. Must not know: who asks, or how often an item may come.
"""

import asyncio
import os
import re
import sys
import time

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_KEY = re.compile(rb"\r\nidempotency-key: *([^\r]*)", re.IGNORECASE)
_END = b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """One request after another."""

    def __init__(self, ledger: int) -> None:
        self._ledger = ledger
        self._received = b""
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(_END)
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if end and len(rest) >= size:
            self._received = rest[size:]
            self._arrived(head)

    def _arrived(self, head: bytes) -> None:
        target = head.split(b" ", 2)[1]
        path, _, query = target.partition(b"?")
        key = _KEY.search(head)
        # In one piece, at once: it is there whatever becomes of anybody.
        os.write(self._ledger, b"%.6f %b %b\n" % (time.monotonic(), path[1:], key[1] if key else b"-"))
        seconds, _, size = query.partition(b"&")
        asyncio.get_running_loop().call_later(float(seconds or 0), self._answer, int(size or 0))

    def _answer(self, size: int) -> None:
        body = b'{"done": true, "text": "%b"}' % (b"x" * size)
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )


async def serve(ledger: str) -> None:
    """Serves until it is ended."""
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(file), "127.0.0.1", 0, backlog=1024)
    print(f"running on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", file=sys.stderr, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
