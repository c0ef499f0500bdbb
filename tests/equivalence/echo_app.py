"""An app of plain ASGI, which tells everything it was asked, or answers exactly as it was told to.

Knows: ASGI. Must not know: batches.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal, TypeAlias

import msgspec

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

HEADER = "x-answer"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the app is told to answer, in the header `x-answer` of the request."""

    status: int = 200
    headers: list[tuple[str, str]] = []
    chunks: list[bytes] = []
    raises: Literal["never", "before", "between", "after"] = "never"
    silent: bool = False

    def written(self) -> str:
        return base64.b64encode(msgspec.json.encode(self)).decode()

    @classmethod
    def read(cls, value: bytes) -> Answer:
        return msgspec.json.decode(base64.b64decode(value), type=cls)


class Told(Exception):
    """Was asked for."""


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return await _lifespan(receive, send)
    body = await _body(receive)
    told = [value for name, value in scope["headers"] if name.decode() == HEADER]
    await _answer(Answer.read(told[0]) if told else _echo(scope, body), send)
    return None


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body


def _echo(scope: Message, body: bytes) -> Answer:
    unsaid = (b"connection", b"content-length") if not body else (b"connection",)
    headers = sorted([name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"])
    seen = {
        "method": scope["method"],
        "path": scope["path"],
        "raw_path": scope["raw_path"].decode("latin-1"),
        "query_string": scope["query_string"].decode("latin-1"),
        "root_path": scope["root_path"],
        "http_version": scope["http_version"],
        "scheme": scope["scheme"],
        "server": scope["server"],
        "client": scope["client"][0],
        "asgi": scope["asgi"],
        "headers": [pair for pair in headers if pair[0].encode() not in unsaid],
        "body": body,
    }
    return Answer(headers=[("content-type", "application/json")], chunks=[msgspec.json.encode(seen)])


async def _answer(answer: Answer, send: Send) -> None:
    if answer.raises == "before":
        raise Told
    if answer.silent:
        return
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    *chunks, last = answer.chunks or [b""]
    for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await asyncio.sleep(0)
    if answer.raises == "between":
        raise Told
    await send({"type": "http.response.body", "body": last})
    if answer.raises == "after":
        raise Told
