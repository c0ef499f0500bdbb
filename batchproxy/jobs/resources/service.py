"""The jobs of one app: the store, the resources of each endpoint, and a worker in this process, from start to stop.

Knows: how the parts are put together. Must not know: what they do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ...endpoint import Endpoint, Visit
from ...engine.errors import SettingError, Unsupported
from ...engine.events import Observer
from ...engine.model import ASGIApp, Receive, Scope, Send
from ...engine.target import Entry
from ..store import JobStore, opened
from ..webhooks import WebhookSender
from ..working import JobKind, JobWorker
from .apis import JobApi
from .callbacks import opener
from .describing import described
from .native import NativeKind
from .openapi import operations
from .problems import Unavailable
from .resources import JobResources
from .secrets import Vault, box_of
from .submitting import is_lines_type
from .wishes import preferences

if TYPE_CHECKING:
    from .settings import JobsSettings

logger = logging.getLogger("batchproxy")


class JobService:
    """`start` it in the lifespan of the app, and `stop` it there. Raises `SettingError`.

    `kinds` are what a worker has to know of these jobs, also one in another process.
    """

    def __init__(
        self,
        settings: JobsSettings,
        endpoints: Sequence[Endpoint],
        entry: Callable[[str], Entry],
        observers: Sequence[Observer] = (),
    ) -> None:
        self._settings = settings
        self._vault = Vault(box_of(settings.secret_key_file), settings.plain_headers)
        self._endpoints = endpoints
        paths = [endpoint.path for endpoint in endpoints]
        for path in settings.endpoint_delivery:
            if path not in paths:
                raise SettingError("jobs.endpoint_delivery", path, f"expected one of {', '.join(paths)}")
        self.kinds: list[JobKind] = [
            NativeKind(
                endpoint.path,
                endpoint,
                self._vault,
                entry=entry,
                endpoints=paths,
                delivery=settings.delivery_at(endpoint.path),
                callbacks=settings.webhooks is not None,
            )
            for endpoint in endpoints
        ]
        self.kinds += [api.kind(self._vault, entry=entry, endpoints=paths) for api in settings.apis]
        self._paths = paths
        self._apis: list[tuple[JobApi, ASGIApp]] = []
        self._observers = observers
        self._resources: dict[str, JobResources] = {}
        self._visits: set[asyncio.Task[object]] = set()
        self._visit_ended = asyncio.Event()
        self._living: asyncio.Task[None] | None = None
        self._stop: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"JobService({self._settings.store!r}, {'running' if self._resources else 'not running'})"

    @property
    def settings(self) -> JobsSettings:
        """Whoever works on these jobs needs them too, wherever it is."""
        return self._settings

    @property
    def observers(self) -> Sequence[Observer]:
        """Who is told of items, wherever they are done."""
        return self._observers

    def webhooks(self, store: JobStore) -> WebhookSender:
        """A sender for what callers of these jobs want to be told of; there must be settings for it."""
        assert self._settings.webhooks is not None
        return WebhookSender(store, self._settings.webhooks, opened=opener(self._vault))

    # In the lifespan of the app

    async def start(self) -> None:
        """Returns once the store is open and work goes on. Raises what stands in the way of that."""
        self._stop = asyncio.Event()
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # In a task of its own, for the app's may begin and end its lifespan in different ones.
        self._living = asyncio.create_task(self._live(begun, self._stop), name="batchproxy jobs")
        await begun

    async def stop(self) -> None:
        """Hands over what runs, and closes the store."""
        if self._living is None or self._stop is None:
            return
        self.drain()
        self._resources, self._apis = {}, []
        await self._leave_alone(self._settings.work.grace)
        self._stop.set()
        await self._living
        self._living = None

    def drain(self) -> None:
        for resources in self._resources.values():
            resources.stopping.set()

    async def _leave_alone(self, grace: float) -> None:
        """Returns when no request uses the store any more; those that take too long are broken off."""
        try:
            async with asyncio.timeout(grace):
                await self._unvisited()
        except TimeoutError:
            for task in self._visits:
                task.cancel()
            await self._unvisited()

    async def _unvisited(self) -> None:
        while self._visits:
            self._visit_ended.clear()
            await self._visit_ended.wait()

    async def _live(self, begun: asyncio.Future[None], stop: asyncio.Event) -> None:
        try:
            async with opened(self._settings.store) as store:
                made = {
                    endpoint.path: JobResources(store, self._settings, endpoint, self._vault)
                    for endpoint in self._endpoints
                }
                about = (store, self._settings, self._vault)
                apis = [(api, api.resources(*about, endpoints=self._paths)) for api in self._settings.apis]
                async with AsyncExitStack() as stack:
                    if self._settings.worker:
                        if self._settings.webhooks is not None:
                            await stack.enter_async_context(self.webhooks(store))
                        worker = JobWorker(store, self.kinds, self._settings.work, observers=self._observers)
                        await stack.enter_async_context(worker)
                    self._resources, self._apis = made, apis
                    begun.set_result(None)
                    await stop.wait()
        except Exception as fault:
            if begun.done():
                logger.exception("jobs.failed: the store or its worker ended")
            else:
                begun.set_exception(fault)
        finally:
            self._resources, self._apis = {}, []
            if not begun.done():
                begun.cancel()

    # For visits

    def takes(self, visit: Visit) -> bool:
        """A batch that prefers to be answered asynchronously. Raises `Unsupported` for lines that do not."""
        if preferences(visit.fields).respond_async:
            return True
        if is_lines_type(visit.fields):
            raise Unsupported("Lines are taken as a job only; send them with the header `Prefer: respond-async`.")
        return False

    async def submit(self, visit: Visit) -> int:
        resources = self._of(visit)
        with self._visiting():
            return await resources.submit(visit)

    async def serve(self, visit: Visit, rest: str) -> None:
        resources = self._of(visit)
        with self._visiting():
            await resources.serve(visit, rest)

    def has(self, path: str) -> bool:
        """Whether a path, without the mount, is that of another API over the same jobs."""
        return any(api.takes(path) for api in self._settings.apis)

    async def call(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """A request to such an API."""
        app = next((app for api, app in self._apis if api.takes(path)), None)
        if app is None:
            raise _not_running()
        with self._visiting():
            await app(scope, receive, send)

    @contextmanager
    def _visiting(self) -> Iterator[None]:
        """As long as this lasts, the store stays open."""
        task = asyncio.current_task()
        assert task is not None
        self._visits.add(task)
        try:
            yield
        finally:
            self._visits.discard(task)
            self._visit_ended.set()

    def _of(self, visit: Visit) -> JobResources:
        found = self._resources.get(visit.endpoint.path)
        if found is None:
            raise _not_running()
        return found

    def description(self, endpoint: Endpoint, problem_type: str) -> dict[str, Any]:
        return described(self._settings, endpoint, problem_type)

    def operations(self, endpoint: Endpoint) -> dict[str, dict[str, Any]]:
        return operations(self._settings, endpoint)


def _not_running() -> Unavailable:
    return Unavailable(
        "Jobs do not run here: they begin with the lifespan of the app, so that the server must not be without"
        " (`uvicorn --lifespan off`), and the app not mounted inside of another."
    )
