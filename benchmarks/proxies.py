"""What ours is measured against: the same batch core over aiohttp.

Knows: ASGI. The upstream's port comes in the environment. Must not know: what is measured.
"""

import os
from typing import Any

from batchproxy import BatchMiddleware

UPSTREAM = f"http://127.0.0.1:{os.environ.get('BENCHMARK_UPSTREAM', '0')}"


class OverAiohttp:
    """A reverse proxy over aiohttp with the least that a proxy does: headers, body, status."""

    def __init__(self) -> None:
        self._session: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if self._session is None:
            self._session = self._made()
        headers = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"] if name != b"host"]
        body = (await receive())["body"]
        target = f"{UPSTREAM}{scope['raw_path'].decode()}"
        async with self._session.request(scope["method"], target, headers=headers, data=body or None) as answer:
            content = await answer.read()
            raw = [(name.lower(), value) for name, value in answer.raw_headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    def _made(self) -> Any:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=100)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False)


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


over_aiohttp = BatchMiddleware(OverAiohttp(), concurrency=100)
