"""The jobs of one generation: what each of its endpoints shows of them, and how its kinds of jobs are understood.

Knows: the endpoints of a generation. Must not know: when the store comes and goes, who works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..endpoint import Endpoint, Visit
from ..engine.errors import Unsupported
from ..engine.events import Observer
from ..engine.model import ASGIApp, Receive, Scope, Send
from ..engine.target import Entry
from ..jobs.resources import JobResources, NativeKind, Vault, box_of, kind_name
from ..jobs.resources.apis import JobApi
from ..jobs.resources.callbacks import opener
from ..jobs.resources.describing import described
from ..jobs.resources.openapi import operations
from ..jobs.resources.problems import NoSuchJob, Unavailable
from ..jobs.resources.submitting import is_lines_type
from ..jobs.resources.wishes import preferences
from ..jobs.store import JobStore
from ..jobs.working import JobKind
from .job_settings import Jobs


@dataclass(frozen=True, kw_only=True)
class StoreState:
    """What is known of the store. `code` says why it is not to be had."""

    is_open: bool = False
    code: str = "opening"
    workers: int = 0


class Holder(Protocol):
    """Who has the store, as far as a generation needs it. `settings` are those of the start."""

    store: JobStore | None
    settings: Jobs
    state: StoreState


class ServedJobs:
    """The jobs of one generation. `kinds` are those of its endpoints by name, once the middleware has asked for it."""

    def __init__(self, holder: Holder, settings: Jobs, apis: Sequence[JobApi]) -> None:
        self._holder = holder
        self._on = settings.is_on
        # The store stays what it was at the start, and who is told of ends.
        at_start = holder.settings
        made = replace(settings, store=at_start.store, webhooks=at_start.webhooks).made()
        self._settings = replace(made, apis=apis)
        self._vault = Vault(box_of(settings.key_file), settings.plain_headers)
        self.opened = opener(self._vault)
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
        store = self._holder.store
        if store is None:
            code = self._holder.state.code
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
