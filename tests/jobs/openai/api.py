"""An API as OpenAI's is, as far as batches need one: it answers by what it is told.

Knows: completions, embeddings, errors. Must not know: batches.
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from batchproxy.engine.model import Receive, Scope, Send


class Api:
    """`seen` are the requests that came, `held` those whose content was `hold`: they wait for `release`. `most_held` is
    how many of them there were at one time.

    It may be looked at from another thread.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.held = threading.Semaphore(0)
        self.holding = self.most_held = 0
        self.release = threading.Event()

    def seen_by(self, key: str) -> list[tuple[str, dict[str, str], Any]]:
        """What came with this key."""
        return [each for each in list(self.seen) if each[1].get("authorization") == f"Bearer {key}"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        said = json.loads(body) if body else None
        self.seen.append((scope["path"], headers, said))
        status, media_type, content = await self._answer(scope["path"], headers, said)
        about = [(b"content-type", media_type), (b"x-request-id", b"req_of_api")]
        await send({"type": "http.response.start", "status": status, "headers": about})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, path: str, headers: dict[str, str], said: Any) -> tuple[int, bytes, bytes]:
        if not headers.get("authorization", "").startswith("Bearer "):
            return _json(401, {"error": {"message": "no key", "type": "invalid_request_error"}})
        if path == "/v1/embeddings":
            vector = {"object": "embedding", "index": 0, "embedding": [float(len(said["input"])), 0.5]}
            return _json(200, {"object": "list", "model": said["model"], "data": [vector]})
        if path != "/v1/chat/completions":
            return _json(404, {"error": {"message": "no such path"}})
        content = said["messages"][0]["content"]
        if content == "hold":
            self.holding += 1
            self.most_held = max(self.most_held, self.holding)
            self.held.release()
            try:
                while not self.release.is_set():
                    await asyncio.sleep(0.01)
            finally:
                self.holding -= 1
        if content == "fail":
            return _json(400, {"error": {"message": "bad prompt", "type": "invalid_request_error", "code": "bad"}})
        if content == "text":
            return 200, b"text/plain; charset=utf-8", "grüße\r\n".encode()
        if content == "lines":
            return 200, b"application/json", b'{\r\n "a":\n [1]\r\n}'
        if content == "broken":
            raise RuntimeError("the app is broken")
        message = {"role": "assistant", "content": f"echo {content}"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        completion = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": said["model"]}
        return _json(200, {**completion, "choices": [choice]})


def _json(status: int, content: Any) -> tuple[int, bytes, bytes]:
    return status, b"application/json", json.dumps(content).encode()
