"""The life of the process: start, signals, reloads, the orderly end.

Exit codes: 0 after an orderly end, 1 if it could not start, failed while it ran, or was told twice to stop, 78 for a
configuration that does not work.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from ..observe.process_log import close_log, set_up
from . import signals
from .admin import Admin
from .config import ConfigErrors, Loaded
from .fleet import Alone, Fleet, Refused, Working
from .http import HttpServer, address_of, admin_server, bound
from .loop import run
from .reload import Reloader
from .settings import Listener, read_listener

logger = logging.getLogger("batchproxy")

OK, FAILED, BAD_CONFIG = 0, 1, 78

_ONE_WORD = 0.2
"""Within so many seconds, being told again to stop is being told once: timeout(1) tells the process, then its group."""


def serve(load: Callable[[], Loaded], *, listens: bool = True) -> int:
    """The whole process, from reading the configuration to its end; the exit code.

    One that does not listen works on jobs alone.
    """
    try:
        loaded = load()
    except ConfigErrors as errors:
        print(errors, file=sys.stderr)
        return BAD_CONFIG
    log = loaded.config.server.log
    set_up(log.level, log.format)
    for warning in loaded.warnings:
        logger.warning("config.warning: %s", warning)
    listening: dict[str, socket.socket] = {}
    signals.hold()
    try:
        for name, listener in _listeners(loaded, listens=listens):
            listening[name] = _bound(name, listener)
        return run(_live(load, loaded, listening))
    except _NotBound as fault:
        logger.error("listen.failed: %s", fault)
        return FAILED
    finally:
        for each in listening.values():
            each.close()
        close_log()


# Listening


class _NotBound(Exception):
    """A listener could not be had."""


def _listeners(loaded: Loaded, *, listens: bool) -> list[tuple[str, Listener]]:
    server = loaded.config.server
    found = [("listen", read_listener("listen", server.listen))] if listens else []
    if server.admin != "off":
        found.append(("admin", read_listener("admin", server.admin)))
    return found


def _bound(name: str, listener: Listener) -> socket.socket:
    try:
        return bound(listener)
    except OSError as fault:
        where = listener.socket or f"{listener.host}:{listener.port}"
        if listener.descriptor is not None:
            where = f"fd:{listener.descriptor}"
        advice = "; another address or `off` can be set" if name == "admin" else ""
        raise _NotBound(f"server.{name}: {where}: {fault.strerror or fault}{advice}") from None


SocketFiles: TypeAlias = dict[str, tuple[int, int]]
"""Files of unix sockets that we have made, and which they are: not those of sockets that were handed to us."""


def _socket_files(loaded: Loaded, *, listens: bool) -> SocketFiles:
    found: SocketFiles = {}
    for _, listener in _listeners(loaded, listens=listens):
        if listener.socket is not None:
            status = os.stat(listener.socket)
            found[listener.socket] = (status.st_dev, status.st_ino)
    return found


def _remove(files: SocketFiles) -> None:
    """Unless somebody else has taken the name meanwhile."""
    for path, which in files.items():
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if (status.st_dev, status.st_ino) == which:
                os.unlink(path)


# Living


async def _live(load: Callable[[], Loaded], loaded: Loaded, listening: dict[str, socket.socket]) -> int:
    main = listening.get("listen")
    files = _socket_files(loaded, listens=main is not None)
    where = None if main is None else address_of(main, tls=loaded.config.server.tls_certificate is not None)
    fleet: Fleet
    if loaded.config.server.workers > 1:
        from .workers import Workers

        fleet = Workers(main, loaded.config.server.workers)
    else:
        fleet = Working() if main is None else Alone(main)
    life = _Life(load, loaded, fleet, files)
    try:
        return await life.live(where, listening.get("admin"))
    finally:
        _remove(files)


class _Life:
    """Start, run, drain, stop."""

    def __init__(self, load: Callable[[], Loaded], loaded: Loaded, fleet: Fleet, files: SocketFiles) -> None:
        self._files = files
        self._loop = asyncio.get_running_loop()
        self._fleet = fleet
        self._server = loaded.config.server
        self._reloader = Reloader(load, loaded, fleet)
        self._asked: asyncio.Future[int] = self._loop.create_future()
        self._asked_at = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._admin: HttpServer | None = None
        self._reloads_waiting = 0
        self.is_started = False
        self.is_draining = False

    async def live(self, where: str | None, admin: socket.socket | None) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop_asked, number)
        self._loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        for early in signals.taken():
            if early == signal.SIGHUP:
                self._hung_up()
            else:
                self._stop_asked(early)
        administering = self._administer(admin)
        try:
            await self._reloader.begin()
        except Refused as refusal:
            if self._asked.done():
                return OK  # the workers ended because we were asked to
            logger.error("start.failed: %s", refusal)
            return FAILED
        self.is_started = True
        if where is None:
            logger.info("working: on jobs (generation 1)")
        else:
            logger.info("serving: running on %s (generation 1)", where)
        notify_manager("READY=1")
        if self._server.watch and self._reloader.loaded.files:
            self._spawn(self._reloader.watch(), "batchproxy watch")
        code = await self._until_the_end()
        await self._wind_up(administering)
        return code

    async def unavailable(self) -> set[str]:
        return await self._fleet.unavailable()

    async def is_serving(self) -> bool:
        return await self._fleet.is_serving()

    async def jobs(self) -> str | None:
        return await self._fleet.jobs()

    def _administer(self, listening: socket.socket | None) -> asyncio.Task[None] | None:
        if listening is None:
            return None
        app = Admin(
            self,
            self._reloader,
            self._fleet.state,
            hosts=self._server.admin_hosts,
            token=self._server.admin_token,
            any_host=listening.family == socket.AF_UNIX,
        )
        self._admin = admin_server(app)
        logger.info("admin: running on %s", address_of(listening))
        return self._spawn(self._admin.serve(sockets=[listening]), "batchproxy admin")

    async def _until_the_end(self) -> int:
        ends: set[asyncio.Future[Any]] = {self._asked, self._fleet.failed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not self._asked.done():
            logger.error("serving.failed: %s", self._fleet.failed.result())
            return FAILED
        self.is_draining = True
        self._reloader.is_closed = True
        notify_manager("STOPPING=1")
        server = self._reloader.loaded.config.server
        grace, delay = server.grace, server.drain_delay
        logger.info("stopping: delay=%gs grace=%gs", delay, grace)
        self._fleet.drain()
        if delay:
            await asyncio.sleep(delay)
        await self._fleet.stop(grace)
        logger.info("stopped")
        return OK

    async def _wind_up(self, administering: asyncio.Task[None] | None) -> None:
        if self._admin is not None and administering is not None:
            await self._admin.stop(0.5)
            await asyncio.wait({administering})
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    def _stop_asked(self, number: int) -> None:
        now = self._loop.time()
        if not self._asked.done():
            self._asked.set_result(number)
            self._asked_at = now
            return
        if now - self._asked_at < _ONE_WORD:
            return
        logger.warning("stopping.at_once: told twice to stop")
        self._fleet.kill()
        _remove(self._files)
        close_log(0.2)
        os._exit(FAILED)

    def _hung_up(self) -> None:
        """SIGHUP: our terminal is closed, or somebody asks for a reload."""
        if not signals.is_terminal_closed():
            self._reload_asked()
        elif not self._asked.done():
            # The shell says it as well, so it is not counted as being told twice.
            self._stop_asked(signal.SIGHUP)

    def _reload_asked(self) -> None:
        if self._reloads_waiting:
            # One that has not begun reads all that is there by then.
            return
        self._reloads_waiting += 1
        notify_manager("RELOADING=1")
        task = self._spawn(self._reload(), "batchproxy reload")
        task.add_done_callback(lambda _: notify_manager("READY=1"))

    async def _reload(self) -> None:
        # What else was asked for in this turn of the loop is the same.
        await asyncio.sleep(0)
        self._reloads_waiting -= 1
        await self._reloader.reload("SIGHUP")

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("task.failed: %s", task.get_name(), exc_info=task.exception())


def notify_manager(state: str) -> None:
    """Tells systemd, if it is listening (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.connect(address)
        manager.sendall(state.encode())
