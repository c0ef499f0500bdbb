"""A worker for the jobs of somebody's own app: the app lives as in a server, and only items of jobs enter it.

Store, work and webhooks are as the app's own settings say.

Knows: the lifespan, and where in an app our middleware is. Must not know: requests.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import uvicorn

from ..engine.errors import SettingError
from ..jobs.resources.service import JobService
from ..jobs.store import StoreError, StoreSettings, opened
from ..jobs.working import JobWorker
from ..middleware import BatchMiddleware
from ..observe.process_log import close_log, set_up
from . import signals
from .collector import leave_alone_what_is_there
from .configuration.checking import imported
from .loop import run
from .settings import Log

logger = logging.getLogger("batchproxy")

_MOST_LAYERS = 1000


def work(name: str, store: str | None, concurrency: int | None, *, level: str, form: str) -> int:
    """Works until it is told to end; the exit code. None is what the app says. Raises `SettingError`."""
    if store is not None:
        StoreSettings(url=store)
    log = Log(level=level, format=form)  # type: ignore[arg-type]
    try:
        app = imported(name)
    except Exception as fault:
        # Whatever the module raises, it is this name that cannot be followed.
        raise SettingError("--app", name, f"expected a module and its app: {type(fault).__name__}: {fault}") from None
    set_up(log.level, log.format)
    try:
        return run(_live(app, store, concurrency))
    finally:
        close_log()


async def _live(app: Any, url: str | None, concurrency: int | None) -> int:
    asked = asyncio.Event()
    # There is no file to read again.
    hangup = () if signals.is_hangup_ignored() else (signal.SIGHUP,)
    for number in (signal.SIGTERM, signal.SIGINT, *hangup):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    if signals.taken():
        asked.set()
    config = uvicorn.Config(app, lifespan="auto", log_config=None)
    config.load()
    lifespan = config.lifespan_class(config)
    await lifespan.startup()
    if lifespan.should_exit:
        logger.error("start.failed: the app did not start")
        return 1
    try:
        service = _service(app)
        if service is None:
            logger.error("start.failed: there is no BatchMiddleware with jobs around or in the app")
            return 1
        settings = service.settings
        kept = settings.store if url is None else replace(settings.store, url=url)
        work = settings.work
        if concurrency is not None:
            work = replace(work, concurrency=concurrency, chunks=max(concurrency, work.chunks))
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(opened(kept))
            if settings.webhooks is not None:
                await stack.enter_async_context(service.webhooks(store))
            await stack.enter_async_context(JobWorker(store, service.kinds, work, observers=service.observers))
            leave_alone_what_is_there()
            logger.info("working: on jobs of %s", ", ".join(kind.name for kind in service.kinds))
            await asked.wait()
            logger.info("stopping")
    except (SettingError, StoreError) as fault:
        logger.error("start.failed: jobs: %s", fault)
        return 1
    finally:
        await lifespan.shutdown()
    logger.info("stopped")
    return 0


def _service(app: Any) -> JobService | None:
    """The jobs of the outermost of our middlewares in an app; a framework has put its layers together by now."""
    layer = app
    for _ in range(_MOST_LAYERS):
        if isinstance(layer, BatchMiddleware):
            return layer.jobs if isinstance(layer.jobs, JobService) else None
        layer = getattr(layer, "middleware_stack", None) or getattr(layer, "app", None)
        if layer is None:
            return None
    return None
