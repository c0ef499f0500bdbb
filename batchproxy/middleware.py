"""`BatchMiddleware`: our paths, else the app, untouched."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, Protocol

from . import answer, lifespan, openapi
from .endpoint import Endpoint, Jobs, Visit
from .engine.errors import BatchError, Failure, SettingError
from .engine.events import Observer
from .engine.execute import Run
from .engine.in_flight import InFlight
from .engine.model import ASGIApp, Receive, Scope, Send
from .engine.target import EXTENSION, Call, Entry, Exchange, Take, exchange_of
from .entry import entry, is_layer, mount_of
from .lifespan import Lodger

JOBS = "/jobs"
"""What stands behind the path of an endpoint for its jobs."""


class JobService(Jobs, Lodger, Protocol):
    """The jobs of a middleware, as long as the app lives."""

    def drain(self) -> None:
        """Ends what waits for jobs, or streams their results."""

    def has(self, path: str) -> bool:
        """Whether a path, without the mount, is that of another API over the same jobs."""

    async def call(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """A request to such an API. May raise `BatchError`."""


class JobsAsked(Protocol):
    """The settings of jobs, `batchproxy.jobs.resources.JobsSettings`: this module needs nothing that they need."""

    def service(
        self, endpoints: Sequence[Endpoint], entry: Callable[[str], Entry], observers: Sequence[Observer] = ()
    ) -> JobService:
        """`entry` says for a `root_path` where items enter. Raises `SettingError`."""


class BatchMiddleware:
    """Gives an ASGI app a batch endpoint; everything else passes through.

    `settings` are those of one `Endpoint`; give `endpoints` for several. `observers` are told what became of items and
    batches. With `jobs`, all endpoints take batches that outlive their connection; these are worked on in this process,
    in the lifespan of the app. A wrong setting stops the start of the app: it is reported as `lifespan.startup.failed`,
    for some frameworks make their middleware so late that an exception would be lost.
    """

    def __init__(
        self,
        app: ASGIApp | None = None,
        /,
        path: str = "/batch",
        *,
        endpoints: Sequence[Endpoint] | None = None,
        observers: Sequence[Observer] = (),
        jobs: JobsAsked | None = None,
        **settings: Any,
    ) -> None:
        # Some frameworks, and older versions of Starlette, give it by name. Then it is no setting.
        app = settings.pop("app", None) if app is None else app
        if app is None:
            raise TypeError("BatchMiddleware wraps an ASGI app: BatchMiddleware(app, ...)")
        self.app: ASGIApp = app
        self._error: SettingError | None = None
        self._endpoints: dict[str, Endpoint] = {}
        self._observers = tuple(observers)
        self._in_flight = InFlight()
        self._running: set[Run] = set()
        self._lifespan_state: dict[str, Any] | None = None
        self._mount = ""
        self._is_published = False
        self._outermost: object = None
        self._jobs: JobService | None = None
        self._job_paths: list[tuple[str, Endpoint]] = []
        takes = hasattr(type(app), "take_batch_item")
        self._jobless: ASGIApp = (_JoblessTaking if takes else _Jobless)(app, self._is_of_jobs)
        try:
            self._endpoints = _endpoints(path, endpoints, settings, least=int(jobs is None))
            if jobs is not None:
                self._jobs = _service(jobs, list(self._endpoints.values()), self._job_entry, self._observers)
                self._job_paths = [(path + JOBS, endpoint) for path, endpoint in self._endpoints.items()]
        except SettingError as error:
            self._error = error
            return
        # Where the app is not wrapped itself, it shows in the first scope.
        self._is_published = self._publish(app)

    @property
    def jobs(self) -> JobService | None:
        """The jobs of its endpoints, if it has any."""
        return self._jobs

    def __repr__(self) -> str:
        return f"BatchMiddleware({', '.join(self._endpoints)})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_http = scope["type"] == "http"
        if not (is_http and self._is_published):
            if self._error is not None:
                await _fail(self._error, scope, receive, send)
                return
            self._look_at(scope)
        exchange, extensions = None, scope.get("extensions")
        if extensions and EXTENSION in extensions:
            exchange = exchange_of(scope)
            if exchange is None:
                # Only an item of ours may say that it is one.
                scope = {**scope, "extensions": {key: value for key, value in extensions.items() if key != EXTENSION}}
        if self._jobs is not None:
            if scope["type"] == "lifespan":
                await lifespan.live(self.app, self._jobs, scope, receive, send)
                return
            if is_http and self._jobs.has(path := self._path(scope)):
                if exchange is not None:
                    await _refuse_nested(exchange, send)
                else:
                    await self._call(self._jobs, path, scope, receive, send)
                return
            found = self._jobs_at(scope) if is_http else None
            if found is not None:
                if exchange is not None:
                    await _refuse_nested(exchange, send)
                else:
                    await self._visit(found[0], scope, receive, send).serve(found[1])
                return
        endpoint = None
        if is_http:
            # Looked up without a method, most of the time: all that this costs a request that is no batch.
            endpoint = self._endpoints.get(self._path(scope) if scope.get("root_path") else scope["path"])
        if endpoint is None or (exchange is not None and scope["method"] != "POST"):
            await self.app(scope, receive, send)
        elif exchange is not None:
            await _refuse_nested(exchange, send)
        else:
            await self._visit(endpoint, scope, receive, send).serve()

    def _look_at(self, scope: Scope) -> None:
        """What can be learnt from the scopes that come first: the state of the lifespan, and the app around us."""
        if scope["type"] == "lifespan":
            self._lifespan_state = scope.get("state", {})
            self._outermost = scope.get("app")
        if not self._is_published and ("app" in scope or scope["type"] == "http"):
            self._is_published = True
            app = scope.get("app")
            if is_layer(self, app):
                self._publish(app)

    def _visit(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> Visit:
        mount = mount_of(scope)
        return Visit(
            endpoint,
            scope,
            receive,
            send,
            wrapped=self.app,
            entry=self._entry(scope),
            mount=mount,
            endpoints=[mount + path for path in self._endpoints],
            in_flight=endpoint.in_flight or self._in_flight,
            running=self._running,
            observers=self._observers,
            jobs=self._jobs,
        )

    async def _call(self, jobs: JobService, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await jobs.call(path, scope, receive, send)
        except BatchError as error:
            await answer.problem(send, error, path, (), head=scope["method"] == "HEAD")

    def _entry(self, scope: Scope) -> Entry:
        """Where items enter; jobs are as little within their reach as batches are."""
        found = entry(scope, self, self.app, self._lifespan_state)
        return found if self._jobs is None or found.app is not self.app else found._replace(app=self._jobless)

    def _job_entry(self, root_path: str) -> Entry:
        """As `_entry`, for items whose batch has no connection any more."""
        scope: Scope = {"root_path": root_path, "state": self._lifespan_state}
        return self._entry(scope if self._outermost is None else {**scope, "app": self._outermost})

    def drain(self, grace: float) -> None:
        """At shutdown: moves the deadline of every running batch to `grace` seconds from now, unless it is earlier."""
        if self._running:
            deadline = asyncio.get_running_loop().time() + grace
            for run in list(self._running):
                run.hasten(deadline)

        if self._jobs is not None:
            self._jobs.drain()

    def _publish(self, app: object) -> bool:
        return openapi.publish(app, list(self._endpoints.values()), mount=lambda: self._mount, jobs=self._jobs)

    def _is_of_jobs(self, scope: Scope) -> bool:
        return self._jobs_at(scope) is not None or (self._jobs is not None and self._jobs.has(self._path(scope)))

    def _jobs_at(self, scope: Scope) -> tuple[Endpoint, str] | None:
        """The endpoint whose jobs a path is of, and what follows."""
        path = self._path(scope)
        for prefix, endpoint in self._job_paths:
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
                return endpoint, path[len(prefix) :]
        return None

    def _path(self, scope: Scope) -> str:
        """The path below the mount."""
        path: str = scope["path"]
        if scope.get("root_path"):
            self._mount = mount_of(scope)
            path = path[len(self._mount) :]
        return path


class _Jobless:
    """The wrapped app as items see it, which have jobs as little within their reach as batches."""

    def __init__(self, app: ASGIApp, is_of_jobs: Callable[[Scope], bool]) -> None:
        self._app = app
        self._is_of_jobs = is_of_jobs

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        exchange = exchange_of(scope)
        if exchange is not None and self._is_of_jobs(scope):
            return _refuse_nested(exchange, send)
        return self._app(scope, receive, send)


class _JoblessTaking(_Jobless):
    """Of an app that takes items on without a task."""

    def __init__(self, app: Any, is_of_jobs: Callable[[Scope], bool]) -> None:
        super().__init__(app, is_of_jobs)
        self._take: Take = app.take_batch_item

    def take_batch_item(self, exchange: Exchange, go_on: Callable[[Exchange, Call], None]) -> bool:
        path = exchange.item.path
        # Whatever is not plainly somewhere else is looked at when it is called.
        if b"%" in path or exchange.target.root_path or self._is_of_jobs({"path": path.decode("ascii")}):
            return False
        return self._take(exchange, go_on)


def _endpoints(
    path: str, given: Sequence[Endpoint] | None, settings: dict[str, Any], *, least: int
) -> dict[str, Endpoint]:
    """By their paths. There may be none where there are other APIs over jobs."""
    known = [each.name for each in fields(Endpoint)]
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(sorted(known))}"
            raise SettingError(name, settings[name], f"there is no such setting; {hint}")
    if given is None:
        return {path: Endpoint(path=path, **settings)}
    if settings or path != "/batch":
        raise SettingError("endpoints", given, "expected no other settings beside it: each Endpoint has its own")
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) < least:
        raise SettingError("endpoints", given, "expected a list of Endpoint objects")
    found: dict[str, Endpoint] = {}
    for endpoint in given:
        if not isinstance(endpoint, Endpoint):
            raise SettingError("endpoints", endpoint, "expected an Endpoint object")
        if endpoint.path in found:
            raise SettingError("endpoints", endpoint.path, "expected a different path for each endpoint")
        found[endpoint.path] = endpoint
    return found


def _service(
    jobs: JobsAsked, endpoints: Sequence[Endpoint], entry: Callable[[str], Entry], observers: Sequence[Observer]
) -> JobService:
    if not callable(getattr(jobs, "service", None)):
        raise SettingError("jobs", jobs, "expected a JobsSettings(…) object of batchproxy.jobs.resources")
    for endpoint in endpoints:
        if any(endpoint.path.startswith(f"{other.path}{JOBS}") for other in endpoints):
            raise SettingError("endpoints", endpoint.path, "expected a path that is not among the jobs of another one")
    return jobs.service(endpoints, entry, observers)


async def _fail(error: SettingError, scope: Scope, receive: Receive, send: Send) -> None:
    """The start fails with the setting's error; a server that never asks gets it with every request."""
    if scope["type"] != "lifespan":
        raise error
    while (await receive())["type"] != "lifespan.startup":
        pass
    await send({"type": "lifespan.startup.failed", "message": str(error)})


async def _refuse_nested(exchange: Exchange, send: Send) -> None:
    exchange.report(Failure.NESTED_BATCH, "An item may not be a batch.")
    await answer.whole(send, Failure.NESTED_BATCH.status, b"text/plain", b"", (), head=False)
