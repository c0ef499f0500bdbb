"""What one writes without a batch engine: every item replayed through httpx.ASGITransport.

The yardstick of A2. It has none of the limits, checks or deadlines of the product.
"""

import asyncio
import json

import httpx

from benchmarks.apps import JSON, App, Receive, Scope, Send


class Replay:
    """POST /batch: decode the list, send each item with httpx, gather, encode. One client for all batches."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://replay")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/batch":
            await self._app(scope, receive, send)
            return
        message = await receive()
        items = json.loads(message["body"])["requests"]
        answers = await asyncio.gather(*[self._one(item) for item in items])
        body = json.dumps({"responses": answers}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _one(self, item: dict[str, JSON]) -> dict[str, JSON]:
        answer = await self._client.request(item["method"], item["path"])
        return {"status": answer.status_code, "headers": dict(answer.headers), "body": answer.json()}
