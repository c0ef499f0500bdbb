"""An answer that is written bit by bit, at the reader's pace.

Knows: ASGI's `send`, and that a content may be coded. Must not know: what is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ... import answer
from ...engine.model import Headers, Send
from ...request import Disconnected
from ..store import JobsError
from .coding import Gzip


class Stream:
    """`begin`, `write` as often as there is something, `end`. Raises `Disconnected` if nobody takes it."""

    def __init__(self, send: Send, *, write_timeout: float, gzip: Gzip | None = None) -> None:
        self._send = send
        self._write_timeout = write_timeout
        self._gzip = gzip

    async def begin(self, media_type: bytes, headers: Headers, *, status: int = 200) -> None:
        # The second is for front proxies, so that they hand on each bit when it comes.
        about = ((b"content-type", media_type), (b"x-accel-buffering", b"no"))
        await self._deliver(answer.start(status, (*about, *headers)))

    async def write(self, content: bytes) -> None:
        if content:
            written = content if self._gzip is None else await self._gzip.part(content)
            await self._deliver(answer.body(written, more=True))

    async def end(self, content: bytes = b"") -> None:
        await self._deliver(answer.body(content if self._gzip is None else await self._gzip.end(content)))

    async def _deliver(self, message: dict[str, object]) -> None:
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._send(message)
        except (TimeoutError, OSError):
            # A reader that takes nothing is gone; so is one whose connection is closed.
            raise Disconnected from None


@contextmanager
def cut_off() -> Iterator[None]:
    """If what is written cannot be read any more, the connection is: nobody is to take what he has got for all of it,
    and whoever goes on later must have got nothing else in between."""
    try:
        yield
    except JobsError:
        raise Disconnected from None
