"""The jobs of the process: one store for all generations, a worker, and webhooks.

Knows: how the parts are put together; that a generation goes while the jobs stay. Must not know: what the parts do.

The worker hands every item to the newest generation, at the moment it is sent. A store that is out of reach is tried
again for as long as the process lives; meanwhile jobs are answered 503, and everything else goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from ..engine.errors import SettingError
from ..engine.events import Observer
from ..engine.model import Receive, Scope, Send
from ..jobs.resources.apis import JobApi
from ..jobs.store import Claim, Job, JobsError, JobState, JobStore, Message, StoreError, opened
from ..jobs.webhooks import Undelivered, WebhookSender, message_for
from ..jobs.working import Failed, Finish, JobBatch, JobKind, JobWorker, Unready
from .job_settings import SECRET, Jobs
from .served_jobs import ServedJobs, StoreState

logger = logging.getLogger("batchproxy")

_LOOK = 5.0
"""How often the store is asked whether it is there."""
_PATIENCE = 5.0
"""How long the start waits for a store that does not answer, and a look at it."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_LAST_WORDS = 3.0
"""What the worker needs at the end beyond the time that its items get."""


class Serving(Protocol):
    """The generation of now, as far as jobs need it."""

    served: ServedJobs | None

    async def serve_item(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class ProcessJobs:
    """`start` it, `stop` the work in time, and `aclose` it when no request runs any more. Raises `SettingError`.

    With `works` unset, the settings say whether there is a worker. `newest` says which generation is that of now.
    """

    def __init__(
        self,
        settings: Jobs,
        newest: Callable[[], Serving],
        *,
        observers: Sequence[Observer] = (),
        works: bool | None = None,
    ) -> None:
        self.store: JobStore | None = None
        self.settings = settings
        self.state = StoreState()
        self._newest = newest
        self._observers = observers
        self._works = settings.worker.embedded if works is None else works
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_starting = True
        self._stopping = asyncio.Event()
        self._closing = asyncio.Event()
        self._grace = 0.0
        self._working: asyncio.Task[None] | None = None
        self._living: asyncio.Task[None] | None = None
        self.worker: JobWorker | None = None

    def __repr__(self) -> str:
        return f"ProcessJobs({self.settings.store.made()!r}, {self.state})"

    # From start to end

    async def start(self) -> None:
        """Raises `SettingError`, and `StoreError` for what needs somebody's help; what passes is waited for."""
        if self.settings.store.url is None:
            folder = self.settings.store.made().file.parent
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as fault:
                raise SettingError("jobs.store.url", str(folder), f"expected a folder: {fault.strerror}") from None
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self._living = asyncio.create_task(self._live(), name="batchproxy jobs")
        try:
            async with asyncio.timeout(_PATIENCE):
                await asyncio.shield(self._first)
        except TimeoutError:
            logger.warning("jobs.waiting: the store does not answer yet; all else goes on")
        finally:
            self._is_starting = False

    async def stop(self, grace: float) -> None:
        """The worker claims nothing any more, and hands over what has not ended within so many seconds."""
        self._grace = max(grace - _LAST_WORDS, 0.0)
        self._stopping.set()
        if self._working is not None:
            await asyncio.wait({self._working})

    async def aclose(self) -> None:
        """Closes the store."""
        self._stopping.set()
        self._closing.set()
        if self._living is not None:
            await asyncio.wait({self._living}, timeout=_PATIENCE)
            if not self._living.done():
                self._living.cancel()
                await asyncio.wait({self._living})
            self._living = None

    async def _live(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            try:
                async with opened(self.settings.store.made()) as store:
                    pause = _FIRST_PAUSE
                    await self._with(store)
                    return
            except Exception as fault:
                self._lost(fault)
                if self._is_starting and not self._first.done():
                    if isinstance(fault, StoreError) and fault.passing:
                        self._first.set_result(None)
                    else:
                        self._first.set_exception(fault)
                        return
            finally:
                self.store = None
            await _set_within(self._closing, pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _with(self, store: JobStore) -> None:
        """As long as the store is open."""
        self.store = store
        self.state = StoreState(is_open=True, code="")
        logger.info("jobs.opened: %s", self.shown()["store"])
        if self._is_starting and not self._first.done():
            self._first.set_result(None)
        self._working = asyncio.create_task(self._work(store), name="batchproxy jobs worker")
        looking = asyncio.create_task(self._look(store), name="batchproxy jobs look")
        closing = asyncio.create_task(self._closing.wait())
        try:
            done, _ = await asyncio.wait({closing, self._working}, return_when=asyncio.FIRST_COMPLETED)
            if self._working in done and not self._stopping.is_set():
                await self._working  # it never ends by itself, unless something is wrong
            await closing
        finally:
            for task in (looking, closing, self._working):
                task.cancel()
            await asyncio.wait({looking, closing, self._working})

    def _lost(self, fault: Exception) -> None:
        """Told once, however often it is tried again."""
        code = fault.code if isinstance(fault, JobsError) else type(fault).__name__
        if code != self.state.code:
            trace = None if isinstance(fault, JobsError) else fault
            logger.error("jobs.closed: code=%s %s", code, fault, exc_info=trace)
        self.state = StoreState(code=code)

    async def _look(self, store: JobStore) -> None:
        """Keeps what is known of the store up to date."""
        while True:
            try:
                async with asyncio.timeout(_PATIENCE):
                    workers = await store.workers.list()
                found = StoreState(is_open=True, code="", workers=len(workers))
            except (JobsError, TimeoutError) as fault:
                found = StoreState(code=fault.code if isinstance(fault, JobsError) else "store_unreachable")
            if self.state.is_open and not found.is_open:
                logger.error("jobs.unreachable: code=%s", found.code)
            elif found.is_open and not self.state.is_open:
                logger.info("jobs.reached: the store answers again")
            self.state = found
            await asyncio.sleep(_LOOK)

    # The work

    async def _work(self, store: JobStore) -> None:
        """Until it is to stop."""
        async with AsyncExitStack() as stack:
            if self._works and self.settings.webhooks is not None:
                told = self.settings.webhooks
                settings = replace(told.made(), grace=_LAST_WORDS / 2)
                await stack.enter_async_context(WebhookSender(store, settings, url=told.url, opened=self._opened))
            if self._works and not self._stopping.is_set():
                work = self.settings.worker.made()
                async with JobWorker(store, self._kinds(), work, observers=self._observers) as worker:
                    self.worker = worker
                    self.changed()
                    await self._stopping.wait()
                    await worker.drain(self._grace)
                    self.worker = None
            await self._stopping.wait()

    def _opened(self, url: str, owner: str) -> str:
        served = self._newest().served
        if served is None:
            raise Undelivered("its URL is encrypted, and there are no jobs any more")
        return served.opened(url, owner)

    def _kinds(self) -> list[JobKind]:
        served = self._newest().served
        return [] if served is None else [_NewestKind(name, self) for name in served.kinds]

    # Generations

    def of(self, settings: Jobs | None, apis: Sequence[JobApi] = ()) -> ServedJobs:
        """The jobs of a generation, to be given to its middleware; without a section `jobs` as they were."""
        return ServedJobs(self, self.settings if settings is None else settings, apis)

    def changed(self) -> None:
        """Another generation is that of now."""
        if self.worker is not None:
            self.worker.know(self._kinds())

    def kind(self, name: str) -> JobKind:
        """As the newest generation has it. Raises `Unready`."""
        served = self._newest().served
        found = None if served is None else served.kinds.get(name)
        if found is None:
            raise Unready(f"There is no endpoint with jobs of the kind {name!r} any more.")
        return found

    async def serve_item(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._newest().serve_item(scope, receive, send)

    def shown(self) -> dict[str, Any]:
        """For people."""
        settings = self.settings.store.made()
        return {
            "store": "postgresql" if settings.is_postgresql else str(settings.file),
            "status": "open" if self.state.is_open else self.state.code,
            "workers": self.state.workers,
            "worker": None if self.worker is None else self.worker.id,
        }


class _NewestKind:
    """A kind of job, as the newest generation understands it."""

    def __init__(self, name: str, jobs: ProcessJobs) -> None:
        self.name = name
        self._jobs = jobs

    async def validate(self, store: JobStore, claim: Claim, job: Job) -> Failed | None:
        found = await self._jobs.kind(self.name).validate(store, claim, job)
        return None if found is None else self._failed(found, job)

    def batch(self, job: Job, items: Mapping[int, bytes]) -> JobBatch:
        found = self._jobs.kind(self.name).batch(job, items)
        return msgspec.structs.replace(found, entry=found.entry._replace(app=self._jobs.serve_item))

    async def finish(self, store: JobStore, claim: Claim, job: Job) -> Sequence[Message] | Finish:
        found = await self._jobs.kind(self.name).finish(store, claim, job)
        told = self._told(job, job.ending)
        if isinstance(found, Finish):
            return msgspec.structs.replace(found, messages=[*found.messages, *told])
        return [*found, *told]

    def unfinished(self, job: Job) -> Failed:
        return self._failed(self._jobs.kind(self.name).unfinished(job), job)

    def _failed(self, failed: Failed, job: Job) -> Failed:
        return msgspec.structs.replace(failed, messages=[*failed.messages, *self._told(job, JobState.FAILED)])

    def _told(self, job: Job, end: JobState | None) -> Sequence[Message]:
        """What is told of every job."""
        webhooks = self._jobs.settings.webhooks
        if webhooks is None or webhooks.url is None:
            return ()
        return (message_for(job, None, SECRET, state=end),)


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
