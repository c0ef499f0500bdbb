"""The jobs of the process: one store for all generations, a worker, webhooks, and what each endpoint shows of them.

Knows: how the parts are put together; that a generation goes while the jobs stay. Must not know: what the parts do.

The worker hands every item to the newest generation, at the moment it is sent. A store that is out of reach is tried
again for as long as the process lives; meanwhile jobs are answered 503, and everything else goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from ..endpoint import Endpoint, Visit
from ..engine.errors import SettingError, Unsupported
from ..engine.events import Observer
from ..engine.model import ASGIApp, Receive, Scope, Send
from ..engine.target import Entry
from ..jobs.resources import JobResources, NativeKind, Vault, box_of, kind_name
from ..jobs.resources.apis import JobApi
from ..jobs.resources.describing import described, operations
from ..jobs.resources.problems import NoSuchJob, Unavailable
from ..jobs.resources.resources import is_lines_type
from ..jobs.resources.wishes import preferences
from ..jobs.store import Claim, Job, JobsError, JobState, JobStore, Message, StoreError, opened
from ..jobs.webhooks import WebhookSender, message_for
from ..jobs.working import Failed, Finish, JobBatch, JobKind, JobWorker, Unready
from .job_settings import SECRET, Jobs

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


@dataclass(frozen=True, kw_only=True)
class StoreState:
    """What is known of the store. `code` says why it is not to be had."""

    is_open: bool = False
    code: str = "opening"
    workers: int = 0


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
                settings = replace(self.settings.webhooks.made(), grace=_LAST_WORDS / 2)
                await stack.enter_async_context(WebhookSender(store, settings))
            if self._works and not self._stopping.is_set():
                work = self.settings.worker.made()
                async with JobWorker(store, self._kinds(), work, observers=self._observers) as worker:
                    self.worker = worker
                    self.changed()
                    await self._stopping.wait()
                    await worker.drain(self._grace)
                    self.worker = None
            await self._stopping.wait()

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
        if found is None:
            return None
        return msgspec.structs.replace(found, messages=[*found.messages, *self._told(job, JobState.FAILED)])

    def batch(self, job: Job, items: Mapping[int, bytes]) -> JobBatch:
        found = self._jobs.kind(self.name).batch(job, items)
        return msgspec.structs.replace(found, entry=found.entry._replace(app=self._jobs.serve_item))

    async def finish(self, store: JobStore, claim: Claim, job: Job) -> Sequence[Message] | Finish:
        found = await self._jobs.kind(self.name).finish(store, claim, job)
        told = self._told(job, job.ending)
        if isinstance(found, Finish):
            return msgspec.structs.replace(found, messages=[*found.messages, *told])
        return [*found, *told]

    def _told(self, job: Job, end: JobState | None) -> Sequence[Message]:
        """What is told of every job."""
        webhooks = self._jobs.settings.webhooks
        if webhooks is None or webhooks.url is None:
            return ()
        return (message_for(job, webhooks.url, SECRET, state=end),)


class ServedJobs:
    """The jobs of one generation. `kinds` are those of its endpoints by name, once the middleware has asked for it."""

    def __init__(self, jobs: ProcessJobs, settings: Jobs, apis: Sequence[JobApi]) -> None:
        self._jobs = jobs
        self._on = settings.is_on
        # The store stays what it was at the start, and who is told of ends.
        at_start = jobs.settings
        made = replace(settings, store=at_start.store, webhooks=at_start.webhooks).made()
        self._settings = replace(made, apis=apis)
        self._vault = Vault(box_of(settings.key_file), settings.plain_headers)
        self.kinds: dict[str, JobKind] = {}
        self._paths: list[str] = []
        self._apis: list[tuple[JobApi, ASGIApp]] = []
        self._resources: dict[str, JobResources] = {}
        self._store: JobStore | None = None
        self._is_draining = False
        self.entry: Callable[[str], Entry]

    def service(
        self, endpoints: Sequence[Endpoint], entry: Callable[[str], Entry], observers: Sequence[Observer] = ()
    ) -> ServedJobs:
        """The observers are those that the worker of the process has already."""
        self.entry = entry
        self._paths = paths = [endpoint.path for endpoint in endpoints]
        self.kinds = {
            kind_name(endpoint.path): NativeKind(
                endpoint.path,
                endpoint,
                self._vault,
                entry=entry,
                endpoints=paths,
                delivery=self._settings.delivery_at(endpoint.path),
                callbacks=self._settings.webhooks is not None,
            )
            for endpoint in endpoints
            if self._on(endpoint.path)
        }
        for api in self._settings.apis:
            kind = api.kind(self._vault, entry=entry, endpoints=paths)
            self.kinds[kind.name] = kind
        return self

    async def start(self) -> None:
        """Nothing: the process has begun by then."""

    async def stop(self) -> None:
        """Nothing: the process ends the work."""

    def drain(self) -> None:
        self._is_draining = True
        for resources in self._resources.values():
            resources.stopping.set()

    # For visits

    def takes(self, visit: Visit) -> bool:
        """A batch that prefers to be answered asynchronously. Raises `Unsupported` for lines that do not."""
        is_on = self._on(visit.endpoint.path)
        if is_on and preferences(visit.fields).respond_async:
            return True
        if is_lines_type(visit.fields):
            wanted = "; send them with the header `Prefer: respond-async`" if is_on else ", and there are none here"
            raise Unsupported(f"Lines are taken as a job only{wanted}.")
        return False

    async def submit(self, visit: Visit) -> int:
        return await self._of(visit).submit(visit)

    async def serve(self, visit: Visit, rest: str) -> None:
        await self._of(visit).serve(visit, rest)

    def has(self, path: str) -> bool:
        """Whether a path is that of another API over the same jobs."""
        return any(api.takes(path) for api in self._settings.apis)

    async def call(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """A request to such an API."""
        self._renew()
        app = next(app for api, app in self._apis if api.takes(path))
        await app(scope, receive, send)

    def _renew(self) -> JobStore:
        """The store of now, for which all else is made. Raises `Unavailable`."""
        store = self._jobs.store
        if store is None:
            code = self._jobs.state.code
            raise Unavailable("The store of jobs cannot be used now.", code=code, headers=((b"retry-after", b"5"),))
        if store is not self._store:
            about = (store, self._settings, self._vault)
            self._store, self._resources = store, {}
            self._apis = [(api, api.resources(*about, endpoints=self._paths)) for api in self._settings.apis]
        return store

    def _of(self, visit: Visit) -> JobResources:
        path = visit.endpoint.path
        if not self._on(path):
            raise NoSuchJob("There are no jobs at this path.")
        store = self._renew()
        if path not in self._resources:
            self._resources[path] = JobResources(store, self._settings, visit.endpoint, self._vault)
            if self._is_draining:
                self._resources[path].stopping.set()
        return self._resources[path]

    def description(self, endpoint: Endpoint, problem_type: str) -> dict[str, Any]:
        return described(self._settings, endpoint, problem_type) if self._on(endpoint.path) else {}

    def operations(self, endpoint: Endpoint) -> dict[str, dict[str, Any]]:
        return operations(self._settings, endpoint) if self._on(endpoint.path) else {}


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
