"""Waiting for something to happen to a job, for a client that may leave, in a server that may stop.

Hints make it quick; the poll makes it right.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from ...engine.model import Receive
from ..store import JobStore

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0


class Hint(Protocol):
    async def wait(self, at_most: float) -> bool: ...


class Watch:
    """`changed` waits for the next hint on one job; `is_over` says that nobody waits any more."""

    __slots__ = ("_end", "_hint", "_leaving", "_loop", "_poll", "_stopping")

    def __init__(
        self, hint: Hint, leaving: asyncio.Task[None], stopping: asyncio.Event, *, poll: float, seconds: float
    ) -> None:
        self._hint = hint
        self._leaving = leaving
        self._stopping = stopping
        self._poll = poll
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + seconds

    @property
    def has_left(self) -> bool:
        """Whether the client has."""
        return self._leaving.done()

    @property
    def is_over(self) -> bool:
        return self._leaving.done() or self._stopping.is_set() or self._loop.time() >= self._end

    async def changed(self) -> None:
        """Returns at a hint, when it is time to look anyway, or when it is over."""
        at_most = min(self._poll, self._end - self._loop.time())
        if at_most <= 0 or self.is_over:
            return
        waits = {
            asyncio.ensure_future(self._hint.wait(at_most)),
            asyncio.ensure_future(self._stopping.wait()),
        }
        try:
            await asyncio.wait({*waits, self._leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            await _ended(waits)


@asynccontextmanager
async def watching(
    store: JobStore, job_id: str, receive: Receive, stopping: asyncio.Event, *, poll: float, seconds: float
) -> AsyncIterator[Watch]:
    """From here on no hint on the job is missed, and it is noticed when the client leaves."""
    leaving = asyncio.create_task(_left(receive), name="batchproxy jobs client")
    try:
        with store.hints.on(job_id) as hint:
            yield Watch(hint, leaving, stopping, poll=poll, seconds=seconds)
    finally:
        leaving.cancel()
        await _ended({leaving})


async def _left(receive: Receive) -> None:
    pause = 0.0
    while (message := await receive())["type"] != "http.disconnect":
        # What comes is the rest of a body that nobody asked for. A layer in front may repeat its end for ever, and must
        # not keep us busy.
        if not message.get("more_body", False):
            pause = min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        await asyncio.sleep(pause)


async def _ended(tasks: Iterable[asyncio.Future[Any]]) -> None:
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task})
