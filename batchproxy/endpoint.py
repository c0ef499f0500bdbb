"""One batch endpoint: HTTP in, a batch run, its answer out.

`Endpoint` holds the settings; `serve` is the way of one request through the layers.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import msgspec

from . import answer, browsers, request
from .answer import Collected, Streamed
from .description import description
from .dialects import DIALECTS, Dialect
from .engine.errors import BatchError, MethodNotAllowed, SettingError
from .engine.events import BatchEnded, Observer
from .engine.execute import PORTION, Run
from .engine.in_flight import InFlight
from .engine.model import ASGIApp, Batch, Guard, Headers, Receive, Scope, Send
from .engine.paths import canonical
from .engine.policy import Judge, Policy
from .engine.schedule import Schedule
from .engine.settings import strings
from .engine.target import AppTarget, Budget, Entry

logger = logging.getLogger("batchproxy")

ALLOWED = b"GET, HEAD, OPTIONS, POST"


@dataclass(frozen=True, kw_only=True)
class Endpoint(Policy):
    """A path that takes batches, and the settings of what they may do. Raises `SettingError`.

    `path` is that of the endpoint; the others are described in docs/settings.md, with their defaults.
    """

    path: str = "/batch"
    dialect: str = "native"
    trusted_origins: Collection[str] = ()
    describe: bool = True
    guards: Sequence[Guard] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_path()
        if self.dialect not in DIALECTS:
            raise SettingError("dialect", self.dialect, f"expected one of {', '.join(DIALECTS)}")
        for origin in strings("trusted_origins", self.trusted_origins):
            if not _is_origin(origin):
                expected = "expected origins such as `https://app.example.com`; `*` is not accepted"
                raise SettingError("trusted_origins", self.trusted_origins, expected)
        if not isinstance(self.describe, bool):
            raise SettingError("describe", self.describe, "expected True or False")
        if isinstance(self.guards, str) or not isinstance(self.guards, Sequence):
            raise SettingError("guards", self.guards, "expected a list of `async (Batch) -> Batch` functions")
        for guard in self.guards:
            if not callable(guard) or not _is_async(guard):
                raise SettingError("guards", guard, "expected an `async (Batch) -> Batch` function")

    def _check_path(self) -> None:
        read = canonical(self.path) if isinstance(self.path, str) else None
        if not isinstance(read, tuple) or "?" in self.path or "%" in self.path or self.path.endswith("/"):
            raise SettingError("path", self.path, "expected a path such as `/batch`, without a `/` at its end")

    @cached_property
    def spoken(self) -> Dialect:
        """What reads and writes the dialect."""
        return DIALECTS[self.dialect]

    @cached_property
    def trusted(self) -> frozenset[str]:
        return frozenset(self.trusted_origins)


def _is_origin(text: str) -> bool:
    """Whether this is an origin as browsers write it; one in another form would never match."""
    return re.fullmatch(r"https?://(?:[a-z0-9.\-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?", text) is not None


def _is_async(guard: object) -> bool:
    return inspect.iscoroutinefunction(guard) or inspect.iscoroutinefunction(type(guard).__call__)


class Jobs(Protocol):
    """The jobs behind the endpoints: for batches that outlive their connection. Each method may raise `BatchError`."""

    def takes(self, visit: Visit) -> bool:
        """Whether the batch of this request is to become a job."""

    async def submit(self, visit: Visit) -> int:
        """Takes the batch and answers; the status of the answer."""

    async def serve(self, visit: Visit, rest: str) -> None:
        """Answers a request to what is below the path of the jobs, `rest` of which is left."""

    def description(self, endpoint: Endpoint, problem_type: str) -> dict[str, Any]:
        """What the endpoint says about its jobs."""

    def operations(self, endpoint: Endpoint) -> dict[str, dict[str, Any]]:
        """The paths of an OpenAPI document, and what may be done there."""


class Visit:
    """One request to an endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        wrapped: ASGIApp,
        entry: Entry,
        mount: str,
        endpoints: Collection[str],
        in_flight: InFlight,
        running: set[Run],
        observers: Sequence[Observer] = (),
        jobs: Jobs | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.scope = scope
        self.receive = receive
        self.send = send
        self.mount = mount
        self.endpoints = endpoints
        self._wrapped = wrapped
        self._entry = entry
        self._jobs = jobs
        self._in_flight = in_flight
        self._running = running
        self._observers = observers
        self._began = time.monotonic()
        self._batch: Batch | None = None
        self._run: Run | None = None
        self._is_streamed = False
        self.fields = request.fields(scope)
        self.id = request.request_id(self.fields)
        self.headers: Headers = (
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-request-id", self.id.encode("ascii")),
            *browsers.cors(self.fields, endpoint.trusted),
        )
        self.is_page = browsers.is_page(self.fields)
        self.problem_type = mount + endpoint.path

    async def serve(self, below: str | None = None) -> None:
        """`below` is set for the jobs of the endpoint: what follows their path."""
        method = self.scope["method"]
        is_head = method == "HEAD"
        try:
            if below is not None and self._jobs is not None:
                await self._jobs.serve(self, below)
            elif method == "POST":
                await (self._take() if self._observers else self._take_batch())
            elif browsers.is_preflight(method, self.fields):
                await self._preflight()
            elif not self.endpoint.describe:
                await self._wrapped(self.scope, self.receive, self.send)
            elif method in ("GET", "HEAD", "OPTIONS"):
                await self._describe(is_head=is_head)
            else:
                raise MethodNotAllowed("Send the batch with POST.", headers=((b"allow", ALLOWED),))
        except BatchError as error:
            await answer.problem(self.send, error, self.problem_type, self.headers, head=is_head)
        except request.Disconnected:
            return

    async def _take(self) -> None:
        """Takes the batch, and tells what became of it."""
        status: int = 200
        code: str | None = None
        try:
            status = await self._take_batch()
        except BatchError as error:
            status, code = error.status, error.code
            raise
        except request.Disconnected:
            status, code = 400, "client_left"
            raise
        except BaseException:
            # What the server then answers, if anybody is there to read it.
            status, code = 500, "not_finished"
            raise
        finally:
            self._tell(status, code)

    def _tell(self, status: int, code: str | None) -> None:
        run, batch = self._run, self._batch
        succeeded = 0 if run is None else run.succeeded
        event = BatchEnded(
            request_id=self.id,
            path=self.endpoint.path,
            batch=batch,
            status=status,
            code=code,
            succeeded=succeeded,
            failed=0 if run is None or batch is None else len(batch.items) - succeeded,
            elapsed=time.monotonic() - self._began,
            client_left=code == "client_left" or (run is not None and run.client_left),
            streamed=self._is_streamed,
        )
        for observer in self._observers:
            try:
                observer.batch_ended(event)
            except Exception:
                logger.exception("observer.failed observer=%s", type(observer).__name__)

    async def _preflight(self) -> None:
        origin = self.fields[b"origin"].decode("latin-1")
        if origin not in self.endpoint.trusted:
            await self._wrapped(self.scope, self.receive, self.send)
            return
        await self.send(answer.start(204, (*self.headers, *browsers.preflight(self.fields))))
        await self.send(answer.body(b""))

    async def _describe(self, *, is_head: bool) -> None:
        said = description(self.endpoint, self.endpoint.spoken, self._in_flight, self.problem_type)
        if self._jobs is not None:
            said["jobs"] = self._jobs.description(self.endpoint, self.problem_type)
        content = msgspec.json.encode(said)
        headers = ((b"allow", ALLOWED), *self.headers)
        await answer.whole(self.send, 200, b"application/json", content, headers, head=is_head)

    async def _take_batch(self) -> int:
        """The status of the answer."""
        endpoint, fields = self.endpoint, self.fields
        if self.is_page:
            browsers.check_site(fields, endpoint.trusted)
        if self._jobs is not None and self._jobs.takes(self):
            return await self._jobs.submit(self)
        request.check_content(fields)
        accept = fields.get(b"accept")
        media_type = request.negotiate(
            None if accept is None else accept.decode("latin-1"), endpoint.spoken.media_types
        )
        is_http1 = self.scope.get("http_version", "1.1").startswith("1")
        request.check_length(fields, endpoint, http1=is_http1)
        self._in_flight.check()
        body = await request.read_body(self.receive, endpoint, http1=is_http1)
        caller = request.caller(self.scope, fields, self.mount, id=self.id, browser=self.is_page)
        minimal = b"prefer" in fields and request.prefers_minimal(fields)
        batch = endpoint.spoken.read(body, caller, endpoint, minimal=minimal)
        if len(batch.items) > PORTION:
            # Reading a large batch takes as long as a few items do: others get their turn before it goes on.
            await asyncio.sleep(0)
        judge = Judge(endpoint, caller, self.endpoints)
        batch = judge.batch(batch)
        # Before the guards, so that a batch which cannot run counts for nobody's quota.
        schedule = Schedule(batch, max_depth=endpoint.max_dependency_depth)
        self._in_flight.check(min(endpoint.concurrency, len(batch.items)))
        if endpoint.guards:
            batch = await self.guarded(batch)
            schedule = Schedule(batch, max_depth=endpoint.max_dependency_depth)
        self._batch = batch
        await self._execute(batch, schedule, media_type, judge)
        return 200

    async def guarded(self, batch: Batch) -> Batch:
        """The batch as the guards of the endpoint let it through."""
        for guard in self.endpoint.guards:
            batch = await guard(batch)
            if not isinstance(batch, Batch):
                raise TypeError(f"A guard returns the batch; {guard!r} returned {type(batch).__name__}.")
        return batch

    async def _execute(self, batch: Batch, schedule: Schedule, media_type: str, judge: Judge) -> None:
        endpoint = self.endpoint
        writer = endpoint.spoken.writer(batch, media_type, endpoint, problem_type=self.problem_type)
        headers = self.headers
        if batch.options.minimal:
            headers = (*headers, (b"preference-applied", b"return=minimal"))
        budget = Budget(endpoint.max_total_response_bytes, final=writer.ordered)
        target = AppTarget(
            self._entry,
            self.scope,
            batch,
            max_response_bytes=endpoint.max_response_bytes,
            budget=budget,
        )
        emitter: Collected | Streamed
        if writer.ordered:
            count = len(batch.items)
            emitter = Collected(
                writer, self.send, headers, count=count, budget=budget, write_timeout=endpoint.write_timeout
            )
        else:
            emitter = Streamed(writer, self.send, headers, budget=budget, write_timeout=endpoint.write_timeout)
        run = Run(
            batch,
            schedule,
            target,
            emitter,
            policy=endpoint,
            judge=judge,
            in_flight=self._in_flight,
            watch=lambda: self._watch(run),
            observers=self._observers,
        )
        self._run, self._is_streamed = run, not writer.ordered
        self._running.add(run)
        try:
            await run.execute()
            if isinstance(emitter, Collected) and emitter.has_left:
                run.client_left = True
        finally:
            self._running.discard(run)

    async def _watch(self, run: Run) -> None:
        # One message is enough: a layer in front that replays the body for ever must not keep us busy.
        if (await self.receive())["type"] == "http.disconnect":
            run.leave()
