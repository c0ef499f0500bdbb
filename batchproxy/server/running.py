"""The app of the process: hands each request to the generation of now, and changes generations while it runs.

Knows: generations. Must not know: how configurations are read, which server calls it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..engine.events import Observer
from ..engine.in_flight import InFlight
from ..engine.model import ASGIApp, Message, Receive, Scope, Send
from ..observe.logs import AccessLog
from ..proxy.problem import CLOSE, Problem, answer, notes_of
from .config import Loaded
from .generation import Generation
from .protocols import Client

if TYPE_CHECKING:
    from .jobs import ProcessJobs

logger = logging.getLogger("batchproxy")


class Process:
    """An ASGI app that serves the newest generation; requests that run stay with theirs. Raises `SettingError`.

    Jobs, if there are any, begin with `start`; `works` says whether they are worked on here, whatever the configuration
    says.
    """

    def __init__(
        self, loaded: Loaded, number: int = 1, *, access_log: AccessLog | None = None, works: bool | None = None
    ) -> None:
        server = loaded.config.server
        self.in_flight = InFlight(server.max_in_flight, queue=server.max_queue)
        self.is_draining = False
        self._access_log = access_log
        self._observers: Sequence[Observer] = () if access_log is None else (access_log,)
        self.jobs: ProcessJobs | None = None
        if loaded.config.jobs is not None:
            # What they need is imported only where they are asked for.
            from .jobs import ProcessJobs

            self.jobs = ProcessJobs(
                loaded.config.jobs, lambda: self._generation, observers=self._observers, works=works
            )
        self._generation = self._made(loaded, number)
        self._generation.start()
        self._retiring: dict[Generation, asyncio.Task[None]] = {}
        self._app: ASGIApp = self._serve if access_log is None else access_log.around(self._serve)
        self.full: ASGIApp = _refuse if access_log is None else access_log.around(_refuse)
        """Answers what is beyond the connections that the process may have."""

    def __repr__(self) -> str:
        return f"Process({self._generation!r}, retiring={len(self._retiring)})"

    @property
    def generation(self) -> Generation:
        return self._generation

    def _made(self, loaded: Loaded, number: int) -> Generation:
        return Generation(loaded, number, in_flight=self.in_flight, observers=self._observers, jobs=self.jobs)

    async def start(self) -> None:
        """Begins with jobs. Raises `SettingError` and `StoreError`."""
        if self.jobs is not None:
            await self.jobs.start()

    async def stop_jobs(self, grace: float) -> None:
        """Jobs that are worked on here end within so many seconds, or are handed over."""
        if self.jobs is not None:
            await self.jobs.stop(grace)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, _closing(send) if self.is_draining else send)

    def unreadable(self, client: Client, status: int) -> None:
        """A client sent what is no head of HTTP, or not the whole of one."""
        if self._access_log is not None:
            self._access_log.unreadable(None if client is None else client[0], status)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._generation.serve(scope, receive, send)

    def apply(self, loaded: Loaded, number: int) -> None:
        """From the next request on this configuration counts. Raises `SettingError`; then nothing has changed."""
        following = self._made(loaded, number)
        following.start()
        last, self._generation = self._generation, following
        if self.jobs is not None:
            self.jobs.changed()
        self._retire(last)

    def check(self, loaded: Loaded) -> None:
        """Makes a generation, and throws it away. Raises `SettingError`."""
        self._made(loaded, 0)

    def _retire(self, last: Generation) -> None:
        task = asyncio.get_running_loop().create_task(last.retire(), name=f"batchproxy retiring {last.number}")
        self._retiring[last] = task

        def retired(done: asyncio.Task[None]) -> None:
            del self._retiring[last]
            if not done.cancelled() and done.exception() is not None:
                logger.error("generation.retiring_failed: generation=%d", last.number, exc_info=done.exception())

        task.add_done_callback(retired)

    def drain(self, grace: float) -> None:
        """Running batches end within so many seconds, and connections close behind their answers."""
        self.is_draining = True
        for generation in (self._generation, *self._retiring):
            generation.drain(grace)

    @property
    def running(self) -> int:
        """How many requests run now."""
        return self._generation.running + sum(generation.running for generation in self._retiring)

    @property
    def unavailable(self) -> list[str]:
        """Upstreams without a healthy address."""
        return [name for name, upstream in self._generation.upstreams.items() if not upstream.is_available]

    @property
    def trouble_with_jobs(self) -> str | None:
        """The code of what keeps the store from being used; empty if nothing does, None without jobs."""
        return None if self.jobs is None else self.jobs.state.code

    def state(self) -> dict[str, Any]:
        """For people: generations and their upstreams."""
        in_flight = {"limit": self.in_flight.limit, "queue": self.in_flight.queue, "used": self.in_flight.used}
        retiring = [{"generation": each.number, "running": each.running} for each in self._retiring]
        jobs = {} if self.jobs is None else {"jobs": self.jobs.shown()}
        return {**self._generation.state(), "items_in_flight": in_flight, "retiring": retiring, **jobs}

    async def aclose(self) -> None:
        """Closes the store, and all upstreams."""
        if self.jobs is not None:
            await self.jobs.aclose()
        for task in list(self._retiring.values()):
            task.cancel()
        if self._retiring:
            await asyncio.wait(list(self._retiring.values()))
        await self._generation.aclose()


@asynccontextmanager
async def running(loaded: Loaded, *, access_log: AccessLog | None = None) -> AsyncIterator[Process]:
    """The app of a configuration, for as long as the block lasts. Raises `SettingError` and `StoreError`."""
    process = Process(loaded, access_log=access_log)
    try:
        await process.start()
        yield process
    finally:
        await process.stop_jobs(0.0)
        await process.aclose()


_FULL = Problem(503, "overloaded", "There are too many connections.", (CLOSE, (b"retry-after", b"1")))


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    notes_of(scope).update(code=_FULL.code, flags="OM")
    await answer(_FULL, scope, send)


def _closing(send: Send) -> Send:
    """Tells the client that this connection ends (RFC 9112, section 9.6)."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"connection"]
            message = {**message, "headers": [*headers, (b"connection", b"close")]}
        await send(message)

    return closing
