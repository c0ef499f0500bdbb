"""One HTTP request to an ASGI app, with the client's end in the test's hands.

Knows: ASGI, and how a batch answer is read off the wire. Must not know: the package under test.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from .virtual_time import now

JSON: TypeAlias = Any
Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

HeaderMap: TypeAlias = Mapping[str, str | Iterable[str] | None]
"""Names to values; None takes a default away, several values become several fields."""

HOST = "api.example"
CLIENT = ("203.0.113.9", 4711)


class Exchange:
    """One request; `sent` are the app's messages, each with the moment at which it was sent.

    As with a real server, `receive` tells of the disconnect after the client has left and after the answer is complete,
    and what is sent to a client that has left is dropped.
    """

    def __init__(
        self,
        app: App,
        *,
        method: str = "POST",
        path: str = "/batch",
        query: str = "",
        headers: HeaderMap | None = None,
        chunks: Iterable[bytes] = (b"",),
        complete: bool = True,
        more_scope: Mapping[str, Any] | None = None,
    ) -> None:
        self.app = app
        self.sent: list[tuple[float, Message]] = []
        self.taken = 0
        self._arriving = deque(chunks)
        self._complete = complete
        self._left = False
        self._answered = asyncio.Event()
        self._something_new = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()
        given = {"host": HOST, **_lower(headers or {})}
        if complete and "content-length" not in given and "transfer-encoding" not in given and method == "POST":
            given["content-length"] = str(sum(map(len, self._arriving)))
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": _wire(given),
            "client": CLIENT,
            "server": (HOST, 80),
            **(more_scope or {}),
        }
        self.task: asyncio.Task[None] = asyncio.get_running_loop().create_task(self._run())

    # The client's end

    def feed(self, chunk: bytes, *, complete: bool = False) -> None:
        """Let more of the body arrive."""
        self._arriving.append(chunk)
        self._complete = complete
        self._something_new.set()

    def leave(self) -> None:
        """Close the connection."""
        self._left = True
        self._something_new.set()
        self._reading.set()

    def stop_reading(self) -> None:
        """Take nothing more, so that `send` does not return."""
        self._reading.clear()

    def read_on(self) -> None:
        self._reading.set()

    async def answered(self) -> Reply:
        """The answer, as soon as its last byte is there; what the app does afterwards goes on."""
        waiting = asyncio.get_running_loop().create_task(self._answered.wait())
        await asyncio.wait({waiting, self.task}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not self._answered.is_set():
            await self.task
            raise AssertionError("the app returned without a complete answer")
        return self.so_far()

    async def finished(self) -> Reply:
        """The answer, after the app has returned."""
        await self.task
        assert self._answered.is_set(), "the app returned without a complete answer"
        return self.so_far()

    def so_far(self) -> Reply:
        """What the client has seen until now."""
        messages = [message for _, message in self.sent]
        assert messages, "nothing has been sent"
        ends = [not message.get("more_body", False) for message in messages[1:]]
        assert not any(ends[:-1]), "something was sent after the end of the answer"
        assert [message["type"] for message in messages] == [
            "http.response.start",
            *["http.response.body"] * (len(messages) - 1),
        ]
        start, *parts = messages
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in start.get("headers", ()))
        body = b"".join(part.get("body", b"") for part in parts)
        return Reply(status=start["status"], headers=headers, body=body, at=self.sent[-1][0], pieces=self._pieces())

    def _pieces(self) -> tuple[tuple[float, bytes], ...]:
        return tuple((at, message.get("body", b"")) for at, message in self.sent[1:])

    # The server's end

    async def _run(self) -> None:
        await self.app(self.scope, self._receive, self._send)

    async def _receive(self) -> Message:
        while True:
            if self._arriving:
                self.taken += 1
                chunk = self._arriving.popleft()
                return {
                    "type": "http.request",
                    "body": chunk,
                    "more_body": bool(self._arriving) or not self._complete,
                }
            if self._left or self._answered.is_set():
                return {"type": "http.disconnect"}
            self._something_new.clear()
            await self._something_new.wait()

    async def _send(self, message: Message) -> None:
        await self._reading.wait()
        if self._left:
            return
        self.sent.append((now(), message))
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered.set()
            self._something_new.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer as it stood on the wire; `at` is the moment of its last message."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: float = 0.0
    pieces: tuple[tuple[float, bytes], ...] = ()

    def values(self, name: str) -> list[str]:
        return [value for each, value in self.headers if each.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        values = self.values(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    def json(self) -> JSON:
        return strict_json(self.body)

    @property
    def responses(self) -> list[JSON]:
        """The entries of a buffered answer."""
        assert self.status == 200, self.body
        responses = self.json()["responses"]
        assert isinstance(responses, list)
        return responses

    @property
    def only(self) -> JSON:
        """The entry of a batch of one item."""
        (entry,) = self.responses
        return entry

    @property
    def problem(self) -> JSON:
        """The problem document of a batch that was refused."""
        assert self.header("content-type") == "application/problem+json", self.body
        document = self.json()
        assert document["status"] == self.status
        return document

    @property
    def refusal(self) -> tuple[int, str, str | None]:
        """Status, code and pointer of a batch that was refused."""
        return self.status, self.problem["code"], self.problem.get("pointer")

    @property
    def lines(self) -> list[JSON]:
        """The records of an NDJSON answer."""
        assert self.status == 200, self.body
        assert self.body.endswith(b"\n")
        return [strict_json(line) for line in self.body.split(b"\n")[:-1]]

    @property
    def events(self) -> list[tuple[str, JSON]]:
        """Name and data of the server-sent events, read as the HTML standard says, comments skipped."""
        assert self.status == 200, self.body
        return [event for block in _blocks(self.body) if (event := _event(block)) is not None]

    @property
    def comments(self) -> list[bytes]:
        return [line for block in _blocks(self.body) for line in block if line.startswith(b":")]

    def moment_of(self, text: bytes) -> float:
        """When the piece with this text was sent."""
        return next(at for at, piece in self.pieces if text in piece)


def failure(entry: JSON) -> tuple[int, str] | None:
    """Status and code of an entry that the batch layer made, None for one that the API made."""
    if "error" not in entry:
        return None
    document = entry["body"]
    assert entry["headers"]["content-type"] == "application/problem+json"
    assert (document["status"], document["code"]) == (entry["status"], entry["error"])
    assert isinstance(document["type"], str)
    assert document["title"]
    assert document["detail"]
    return entry["status"], entry["error"]


def failures(reply: Reply) -> list[tuple[int, str] | None]:
    return [failure(entry) for entry in reply.responses]


def _blocks(stream: bytes) -> list[list[bytes]]:
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert lines.endswith(b"\n\n"), "the last event does not end"
    return [block.split(b"\n") for block in lines.split(b"\n\n") if block]


def _event(block: list[bytes]) -> tuple[str, JSON] | None:
    fields = [line.partition(b":") for line in block if not line.startswith(b":")]
    if not fields:
        return None
    names = [value.removeprefix(b" ").decode() for field, _, value in fields if field == b"event"]
    data = [value.removeprefix(b" ") for field, _, value in fields if field == b"data"]
    assert {field for field, _, _ in fields} <= {b"event", b"data"}
    return (names or ["message"])[-1], strict_json(b"\n".join(data))


def strict_json(document: bytes) -> JSON:
    """Read one JSON document as RFC 8259 has it: UTF-8 without a mark, no NaN, nothing behind it, no lone surrogate."""
    value = json.loads(document.decode("utf-8"), parse_constant=_not_json, parse_int=_integer)
    json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 4000 else float("1e308")


def _lower(headers: HeaderMap) -> dict[str, str | Iterable[str] | None]:
    return {name.lower(): value for name, value in headers.items()}


def _wire(headers: HeaderMap) -> list[tuple[bytes, bytes]]:
    pairs: list[tuple[bytes, bytes]] = []
    for name, value in headers.items():
        values = [value] if isinstance(value, str) else value or []
        pairs += [(name.encode("latin-1"), each.encode("latin-1")) for each in values]
    return pairs


# Asking


async def ask(app: App, *, body: bytes | Iterable[bytes] = b"", **request: Any) -> Reply:
    """Send one request and wait until the app has returned."""
    chunks = [body] if isinstance(body, bytes) else body
    return await Exchange(app, chunks=chunks, **request).finished()


def exchange_of(
    app: App,
    items: Iterable[JSON] | bytes,
    *,
    options: JSON = None,
    headers: HeaderMap | None = None,
    **request: Any,
) -> Exchange:
    """Begin to send a batch; the bytes of a whole document may be given instead of items."""
    document = items if isinstance(items, bytes) else written(items, options)
    return Exchange(app, chunks=[document], headers={"content-type": "application/json", **(headers or {})}, **request)


async def send_batch(app: App, items: Iterable[JSON] | bytes, **request: Any) -> Reply:
    """Send a batch and wait until the app has returned."""
    return await exchange_of(app, items, **request).finished()


def written(items: Iterable[JSON], options: JSON = None) -> bytes:
    document = {"requests": list(items)} | ({} if options is None else {"options": options})
    return json.dumps(document).encode()
