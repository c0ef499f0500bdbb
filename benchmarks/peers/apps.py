"""What uvicorn imports for the peers' measurements, beside `benchmarks.apps` and `benchmarks.proxies`."""

import os
from typing import Any

from batchproxy import BatchMiddleware
from benchmarks.apps import Receive, Scope, Send, pure, starlette
from benchmarks.replay import Replay

UPSTREAM = f"http://127.0.0.1:{os.environ.get('BENCHMARK_UPSTREAM', '0')}"


class OverPyreqwest:
    """A reverse proxy over pyreqwest with the least that a proxy does: headers, body, status."""

    def __init__(self) -> None:
        self._client: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if self._client is None:
            self._client = self._made()
        request = self._client.request(scope["method"], f"{UPSTREAM}{scope['raw_path'].decode()}")
        request.headers(
            [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"] if name != b"host"]
        )
        if body := (await receive())["body"]:
            request.body_bytes(body)
        answer = await request.build().send()
        headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(await answer.bytes())})

    def _made(self) -> Any:
        from pyreqwest.client import ClientBuilder  # type: ignore[import-not-found]

        return ClientBuilder().http1_only().no_proxy().max_connections(100).build()


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


pure_batching = BatchMiddleware(pure)
naive = Replay(starlette())
over_pyreqwest = BatchMiddleware(OverPyreqwest(), concurrency=100)
