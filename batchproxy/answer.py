"""The answer of a batch over HTTP: collected into one document, or streamed as items end.

`Collected` and `Streamed` are the emitters that a `Run` gives its results to. Small pieces are joined, large ones go
out as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator

import msgspec

from .dialects import Writer
from .engine.deadline import within
from .engine.errors import BatchError
from .engine.model import Headers, Result, Send
from .engine.target import Budget

_LARGE = 64 * 1024
_LARGEST = 256 * 1024
HEARTBEAT = 15.0
"""Seconds without a record after which a stream of events shows that it lives."""


class Collected:
    """All results in one document with a length, sent when the last one is there."""

    has_left = False
    """Whether nobody took the answer to its end."""

    def __init__(
        self, writer: Writer, send: Send, headers: Headers, *, count: int, budget: Budget, write_timeout: float
    ) -> None:
        self.backlog = 0
        self._budget = budget
        self._writer = writer
        self._send = send
        self._headers = headers
        self._entries: list[list[bytes] | None] = [None] * count
        self._write_timeout = write_timeout
        self._has_large = False
        self._gone = False
        self._loop = asyncio.get_running_loop()

    def begin(self, *, wake: Callable[[], None], leave: Callable[[], None]) -> None:
        pass

    def put(self, result: Result) -> None:
        # Written now, so that a body which has to be encoded is not kept in two forms.
        if not self._gone:
            entry = self._writer.write(result)
            if self._writer.excess:
                _charge(self._writer, self._budget)
            self._entries[result.index] = entry
            if len(entry) > 1:
                self._has_large = True

    async def flush(self) -> None:
        pass

    async def close(self) -> None:
        if self._gone:
            return
        blocks = self._blocks()
        self._entries.clear()
        length = sum(map(len, blocks))
        headers = ((b"content-type", self._writer.media_type.encode("ascii")), (b"content-length", b"%d" % length))
        last = len(blocks) - 1
        try:
            await self._deliver(start(200, (*headers, *self._headers)))
            for position, block in enumerate(blocks):
                blocks[position] = b""
                for part, is_last in _parts(block):
                    await self._deliver(body(part, more=position < last or not is_last))
        except (TimeoutError, OSError):
            # A reader that takes nothing is gone; so is one whose connection is closed.
            self._gone = self.has_left = True

    def _deliver(self, message: dict[str, object]) -> Awaitable[None]:
        return within(self._loop.time() + self._write_timeout, self._send(message))

    def _blocks(self) -> list[bytes]:
        writer = self._writer
        if not self._has_large:
            entries = writer.separator.join([entry[0] for entry in self._entries if entry])
            return [b"".join((writer.head(), entries, writer.tail()))]
        pieces = [writer.head()]
        for position, entry in enumerate(self._entries):
            if position:
                pieces.append(writer.separator)
            pieces += entry or ()
        pieces.append(writer.tail())
        return _blocks(pieces)

    def discard(self) -> None:
        self._gone = True
        self._entries.clear()


def _charge(writer: Writer, budget: Budget) -> int:
    """What was written is held, and may be several times as long as what came: control characters take six bytes."""
    excess, writer.excess = writer.excess, 0
    budget.left -= excess
    if budget.left < 0:
        budget.overdraw()
    return excess


class Streamed:
    """Each result as a record of its own, sent as it comes, at the reader's pace."""

    def __init__(self, writer: Writer, send: Send, headers: Headers, *, budget: Budget, write_timeout: float) -> None:
        self.backlog = 0
        self._writer = writer
        self._send = send
        self._budget = budget
        self._write_timeout = write_timeout
        self._pieces: list[bytes] = []
        self._held = 0
        self._gone = False
        self._start: Headers | None = (
            (b"content-type", _with_charset(writer.media_type)),
            # So that front proxies hand on each record when it comes.
            (b"x-accel-buffering", b"no"),
            *headers,
        )
        self._loop = asyncio.get_running_loop()
        self._heart: asyncio.TimerHandle | None = None
        self._wake: Callable[[], None]
        self._leave: Callable[[], None]

    def begin(self, *, wake: Callable[[], None], leave: Callable[[], None]) -> None:
        self._wake, self._leave = wake, leave

    def put(self, result: Result) -> None:
        if self._gone:
            self._budget.left += len(result.body)
            return
        pieces = self._writer.write(result)
        self._pieces += pieces
        self.backlog += sum(map(len, pieces))
        self._held += len(result.body)
        if self._writer.excess:
            self._held += _charge(self._writer, self._budget)

    async def flush(self) -> None:
        if self._start is not None and not self._gone:
            message, self._start = start(200, self._start), None
            await self._deliver(message)
        while self._pieces and not self._gone:
            pieces, self._pieces = self._pieces, []
            size, held = sum(map(len, pieces)), self._held
            self._held = 0
            blocks = _blocks(pieces)
            del pieces
            for position, block in enumerate(blocks):
                blocks[position] = b""
                for part, _ in _parts(block):
                    await self._deliver(body(part, more=True))
            if not self._gone:
                self.backlog -= size
            self._budget.left += held
        self._beat_later()

    async def close(self) -> None:
        if self._heart is not None:
            self._heart.cancel()
        await self._deliver(body(self._writer.tail(), more=False))

    def discard(self) -> None:
        self._gone = True
        self._pieces.clear()
        self.backlog = 0
        if self._heart is not None:
            self._heart.cancel()
        # They hold whoever gives us results, as he holds us.
        self._wake = self._leave = _nobody

    async def _deliver(self, message: dict[str, object]) -> None:
        if self._gone:
            return
        try:
            await within(self._loop.time() + self._write_timeout, self._send(message))
        except (TimeoutError, OSError):
            self._leave()

    def _beat_later(self) -> None:
        if self._heart is not None:
            self._heart.cancel()
        if self._writer.heartbeat and not self._gone:
            self._heart = self._loop.call_later(HEARTBEAT, self._beat)

    def _beat(self) -> None:
        if not self._pieces:
            self._pieces.append(self._writer.heartbeat)
            self.backlog += len(self._writer.heartbeat)
        self._wake()


def _nobody() -> None:
    """There is nobody to tell any more."""


def _with_charset(media_type: str) -> bytes:
    return (f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type).encode("ascii")


def _parts(block: bytes) -> Iterator[tuple[bytes, bool]]:
    """Slices for the server to send one by one, each in its own time, and whether it is the last of the block."""
    if len(block) <= _LARGEST:
        yield block, True
        return
    for position in range(0, len(block), _LARGEST):
        yield block[position : position + _LARGEST], position + _LARGEST >= len(block)


def _blocks(pieces: Iterable[bytes]) -> list[bytes]:
    """The same bytes in fewer parts: small ones joined, large ones as they are."""
    blocks: list[bytes] = []
    small: list[bytes] = []
    size = 0
    for piece in pieces:
        if len(piece) >= _LARGE:
            blocks += (b"".join(small), piece)
            small, size = [], 0
            continue
        small.append(piece)
        size += len(piece)
        if size >= _LARGE:
            blocks.append(b"".join(small))
            small, size = [], 0
    blocks.append(b"".join(small))
    return blocks


def start(status: int, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, object]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content: bytes, *, more: bool = False) -> dict[str, object]:
    return {"type": "http.response.body", "body": content, "more_body": more}


async def whole(send: Send, status: int, media_type: bytes, content: bytes, headers: Headers, *, head: bool) -> None:
    """A short answer at once; for HEAD without its content."""
    about = ((b"content-type", media_type), (b"content-length", b"%d" % len(content)))
    await send(start(status, (*about, *headers)))
    await send(body(b"" if head else content))


async def problem(send: Send, error: BatchError, problem_type: str, headers: Headers, *, head: bool = False) -> None:
    """An RFC 9457 problem document about the whole batch."""
    document = {
        "type": f"{problem_type}#{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
    }
    if error.line is not None:
        document["line"] = error.line
    if error.pointer is not None:
        document["pointer"] = error.pointer
    content = msgspec.json.encode(document)
    await whole(send, error.status, b"application/problem+json", content, (*error.headers, *headers), head=head)
