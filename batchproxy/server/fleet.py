"""Those who serve: this very process, or several workers (`workers.py`). What the life of the process asks of them."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any, Protocol

from ..engine.errors import SettingError
from ..observe.logs import AccessLog, Lines, access_log
from ..observe.loop_watch import LoopWatch
from .collector import leave_alone_what_is_there
from .config import Loaded
from .http import HttpServer, main_server
from .running import Process

logger = logging.getLogger("batchproxy")


class Refused(Exception):
    """A configuration cannot be put to work; the text says why."""


class Fleet(Protocol):
    """One or several processes that serve the same generation."""

    async def start(self, loaded: Loaded, number: int = 1) -> None:
        """Returns when requests are served. Raises `Refused`."""

    async def apply(self, loaded: Loaded, number: int) -> None:
        """All of them, or none. Raises `Refused`."""

    async def state(self) -> list[dict[str, Any]]:
        """What each of them looks like."""

    async def is_serving(self) -> bool:
        """Whether there is anybody who answers requests."""

    async def unavailable(self) -> set[str]:
        """Upstreams that have no healthy address, as all of them see it."""

    async def jobs(self) -> str | None:
        """How the store of jobs is, as the worst of them sees it: empty if it is well; None without jobs."""

    def drain(self) -> None:
        """From now on connections end behind their answers."""

    async def stop(self, grace: float) -> None:
        """Ends what runs within so many seconds, then everything."""

    def kill(self) -> None:
        """Ends at once."""

    @property
    def failed(self) -> asyncio.Future[str]:
        """Has a result when nobody serves any more, though nobody asked for it."""


class Single:
    """What those have in common for whom this very process does it."""

    def __init__(self) -> None:
        self._process: Process
        self._lines: Lines | None = None
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def _begin(self, loaded: Loaded, number: int, *, works: bool | None = None) -> None:
        """Raises `Refused`."""
        settings = loaded.config.server.log
        log: AccessLog | None = None
        if settings.access:
            log, self._lines = access_log(settings.format, items=settings.items)
        self._process = await begun(loaded, number, log, works=works)

    async def apply(self, loaded: Loaded, number: int) -> None:
        try:
            self._process.apply(loaded, number)
        except Exception as fault:
            raise Refused(_told(fault)) from fault

    def check(self, loaded: Loaded) -> None:
        """Whether `apply` would work. Raises `Refused`."""
        try:
            self._process.check(loaded)
        except Exception as fault:
            raise Refused(_told(fault)) from fault

    async def state(self) -> list[dict[str, Any]]:
        return [self._process.state()]

    async def unavailable(self) -> set[str]:
        return set(self._process.unavailable)

    async def jobs(self) -> str | None:
        return self._process.trouble_with_jobs


class Alone(Single):
    """This process serves."""

    def __init__(self, listening: socket.socket) -> None:
        super().__init__()
        self._listening = listening
        self._server: HttpServer
        self._serving: asyncio.Task[None]
        self._watch = LoopWatch(asyncio.get_running_loop())

    async def start(self, loaded: Loaded, number: int = 1) -> None:
        await self._begin(loaded, number)
        process = self._process
        self._server = main_server(process, loaded.config.server, full=process.full, unreadable=process.unreadable)
        self._serving = asyncio.get_running_loop().create_task(
            self._server.serve(sockets=[self._listening]), name="batchproxy server"
        )
        self._serving.add_done_callback(self._ended)
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.005)
        if self._serving.done():
            raise Refused(f"the server did not start: {self._serving.exception()!r}")
        self._watch.start()
        leave_alone_what_is_there()

    def _ended(self, serving: asyncio.Task[None]) -> None:
        if not self.failed.done():
            fault = None if serving.cancelled() else serving.exception()
            self.failed.set_result("the server ended" if fault is None else repr(fault))

    async def is_serving(self) -> bool:
        return not self._serving.done()

    def drain(self) -> None:
        self._process.is_draining = True

    async def stop(self, grace: float) -> None:
        # A moment before the end, so that what the batches write still gets out.
        self._process.drain(max(grace - min(1.0, grace / 5), 0.0))
        await asyncio.gather(self._server.stop(grace), self._process.stop_jobs(grace))
        await asyncio.wait({self._serving})
        if not self._serving.cancelled() and self._serving.exception() is not None:
            logger.error("stopping.failed: what ran was cut", exc_info=self._serving.exception())
        await self._process.aclose()
        self._watch.stop()
        if self._lines is not None:
            self._lines.close()

    def kill(self) -> None:
        self._server.force_exit = True
        if self._lines is not None:
            self._lines.close(0.2)


class Working(Single):
    """This process works on jobs, and takes no requests."""

    async def start(self, loaded: Loaded, number: int = 1) -> None:
        if loaded.config.jobs is None:
            raise Refused("the configuration has no `jobs`")
        await self._begin(loaded, number, works=True)

    async def is_serving(self) -> bool:
        return True

    def drain(self) -> None:
        """There is nobody whose connection could end."""

    async def stop(self, grace: float) -> None:
        await self._process.stop_jobs(grace)
        await self._process.aclose()
        if self._lines is not None:
            self._lines.close()

    def kill(self) -> None:
        if self._lines is not None:
            self._lines.close(0.2)


async def begun(loaded: Loaded, number: int, log: AccessLog | None, *, works: bool | None = None) -> Process:
    """The app of this process, with its jobs at work. Raises `Refused`."""
    try:
        process = Process(loaded, number, access_log=log, works=works)
    except Exception as fault:
        raise Refused(_told(fault)) from fault
    try:
        await process.start()
    except Exception as fault:
        await process.aclose()
        raise Refused(f"jobs: {_told(fault)}") from fault
    return process


def _told(fault: Exception) -> str:
    """Transports and guards of the operator's own may raise anything when they are made."""
    return str(fault) if isinstance(fault, SettingError) else f"{type(fault).__name__}: {fault}"
