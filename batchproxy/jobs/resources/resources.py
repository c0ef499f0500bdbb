"""The jobs of one endpoint over HTTP: how they are submitted, watched, read, stopped and tried again.

Knows: which request means what, and what is answered. Must not know: tables, leases, how items are run.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ... import answer, browsers, request
from ...endpoint import Endpoint, Visit
from ...engine.model import Headers
from ..store import Job, JobState, JobStore, Outcome
from .events import EVENT_STREAM, event_id, tell
from .principal import Owners
from .problems import BadQuery, NoSuchJob, WrongMethod, told
from .results import ResultsAnswer, wanted
from .retrying import Retry
from .secrets import Vault
from .showing import etag, retry_after
from .streaming import Stream
from .submitting import VARY, Submitting
from .visible import VisibleJobs, base_of, headers_of
from .wishes import Query, idempotency_key, is_known, preferences

if TYPE_CHECKING:
    from .settings import JobsSettings

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STATES = tuple(state.value for state in JobState if state is not JobState.STORING)
_OUTCOMES = tuple(outcome.value for outcome in Outcome)
METHODS: Mapping[str, tuple[str, ...]] = {
    "": ("GET", "HEAD"),
    "/{id}": ("DELETE", "GET", "HEAD"),
    "/{id}/events": ("GET", "HEAD"),
    "/{id}/results": ("GET", "HEAD"),
    "/{id}/cancel": ("POST",),
    "/{id}/retry": ("POST",),
}
"""The resources below the path of the jobs."""

_encode = msgspec.json.encode


class JobResources:
    """Made once for each endpoint that has jobs; `stopping` ends whatever waits or streams."""

    def __init__(self, store: JobStore, settings: JobsSettings, endpoint: Endpoint, vault: Vault) -> None:
        self.stopping = asyncio.Event()
        self._store = store
        self._settings = settings
        self._endpoint = endpoint
        self._vault = vault
        self._owners = Owners(settings.principal, anonymous=settings.anonymous)
        self._visible = VisibleJobs(store, settings, endpoint, vault, self.stopping)
        self._submitting = Submitting(store, settings, endpoint, vault, self._owners, self._visible)
        self._results_answer = ResultsAnswer(store, endpoint)

    def __repr__(self) -> str:
        return f"JobResources({self._endpoint.path}/jobs)"

    async def submit(self, visit: Visit) -> int:
        """Takes the batch of a request that prefers to be answered asynchronously; the status of the answer."""
        return await self._submitting.submit(visit)

    async def serve(self, visit: Visit, rest: str) -> None:
        """One request to what lies below the path of the jobs; `rest` is the path from there."""
        if browsers.is_preflight(visit.scope["method"], visit.fields) and self._is_trusted(visit):
            await self._preflight(visit)
            return
        if visit.is_page:
            browsers.check_site(visit.fields, self._endpoint.trusted)
        job_id, resource = _found(rest)
        method = visit.scope["method"]
        methods = METHODS[resource]
        allow = ((b"allow", ", ".join([*methods, "OPTIONS"]).encode("ascii")),)
        if method == "OPTIONS":
            await visit.send(answer.start(204, (*allow, *headers_of(visit))))
            await visit.send(answer.body(b""))
            return
        if method not in methods:
            raise WrongMethod(f"Allowed here: {', '.join(methods)}.", headers=allow)
        serve: Mapping[tuple[str, str], Callable[[Visit, str, str], Coroutine[Any, Any, None]]] = {
            ("GET", ""): self._list,
            ("GET", "/{id}"): self._show,
            ("GET", "/{id}/events"): self._events,
            ("GET", "/{id}/results"): self._results,
            ("DELETE", "/{id}"): self._delete,
            ("POST", "/{id}/cancel"): self._cancel,
            ("POST", "/{id}/retry"): self._retry,
        }
        owner = await self._owners.of(visit.scope)
        with told():
            await serve["GET" if method == "HEAD" else method, resource](visit, job_id, owner)

    def _is_trusted(self, visit: Visit) -> bool:
        return visit.fields[b"origin"].decode("latin-1") in self._endpoint.trusted

    async def _preflight(self, visit: Visit) -> None:
        allowed = dict(browsers.preflight(visit.fields))
        allowed[b"access-control-allow-methods"] = b"GET, POST, DELETE, OPTIONS"
        await visit.send(answer.start(204, (*headers_of(visit), *allowed.items())))
        await visit.send(answer.body(b""))

    async def _list(self, visit: Visit, _: str, owner: str) -> None:
        query = Query(visit.scope.get("query_string", b""), ("after", "limit", "state"))
        limit = query.number("limit", 20, most=100)
        states = query.choices("state", _STATES)
        found = await self._store.jobs.list(
            owner,
            states=[JobState(state) for state in states],
            kind=self._visible.kind,
            after=query.text("after"),
            limit=limit,
        )
        base = base_of(visit)
        following = None
        if found.cursor is not None:
            chosen = f"&state={','.join(states)}" if states else ""
            following = f"{base}?after={found.cursor}&limit={limit}{chosen}"
        content = {
            "jobs": [self._visible.shown(visit, job) for job in found.jobs],
            "cursor": found.cursor,
            "next": following,
        }
        link = () if following is None else ((b"link", f'<{following}>; rel="next"'.encode()),)
        await self._say(visit, 200, content, link)

    async def _show(self, visit: Visit, job_id: str, owner: str) -> None:
        Query(visit.scope.get("query_string", b""), ())
        job = await self._visible.get(job_id, owner)
        wait = preferences(visit.fields).wait
        applied: Headers = ()
        if wait:
            known = event_id(job) if is_known(visit.fields, etag(job)) else None
            if known is not None or b"if-none-match" not in visit.fields:
                job = await self._visible.awaited(visit, job, wait, known=known)
            applied = ((b"preference-applied", b"wait=%d" % self._visible.waited(wait)),)
        headers = ((b"etag", etag(job).encode("ascii")), *applied, *VARY)
        if not job.is_terminal:
            headers = ((b"retry-after", b"%d" % retry_after(job)), *headers)
        if is_known(visit.fields, etag(job)):
            await visit.send(answer.start(304, (*headers, *headers_of(visit))))
            await visit.send(answer.body(b""))
            return
        await self._say(visit, 200, self._visible.shown(visit, job), headers)

    async def _events(self, visit: Visit, job_id: str, owner: str) -> None:
        Query(visit.scope.get("query_string", b""), ())
        request.negotiate(_text(visit.fields, b"accept"), ("text/event-stream",))
        known = _text(visit.fields, b"last-event-id")
        job = await self._visible.get(job_id, owner)
        if job.is_terminal and known == event_id(job):
            # The HTML standard: with this answer a browser does not come back.
            await visit.send(answer.start(204, headers_of(visit)))
            await visit.send(answer.body(b""))
            return
        if visit.scope["method"] == "HEAD":
            # Without a length, which a stream does not have.
            await visit.send(answer.start(200, ((b"content-type", EVENT_STREAM), *headers_of(visit))))
            await visit.send(answer.body(b""))
            return
        stream = Stream(visit.send, write_timeout=self._endpoint.write_timeout)
        async with self._visible.watching(visit, job_id, self._settings.stream_timeout) as watch:
            job = await self._visible.get(job_id, owner)
            await tell(
                stream,
                watch,
                job,
                lambda: self._visible.get(job_id, owner),
                show=lambda job: self._visible.shown(visit, job),
                known=known,
                headers=headers_of(visit),
            )

    async def _results(self, visit: Visit, job_id: str, owner: str) -> None:
        asks = wanted(visit, job_id, owner)
        job = await self._visible.get(job_id, owner)
        await self._results_answer.give(
            visit,
            asks,
            job,
            self._visible.entries(visit, job, indexed=True),
            headers_of(visit),
            lambda: self._visible.watching(visit, job_id, self._settings.stream_timeout),
        )

    async def _cancel(self, visit: Visit, job_id: str, owner: str) -> None:
        Query(visit.scope.get("query_string", b""), ())
        await self._visible.get(job_id, owner)
        job = await self._store.ending.cancel(job_id, owner)
        await self._say_stopped(visit, job)

    async def _say_stopped(self, visit: Visit, job: Job) -> None:
        headers: Headers = () if job.is_terminal else ((b"retry-after", b"%d" % retry_after(job)),)
        headers = (*headers, (b"etag", etag(job).encode("ascii")))
        await self._say(visit, 200 if job.is_terminal else 202, self._visible.shown(visit, job), headers)

    async def _delete(self, visit: Visit, job_id: str, owner: str) -> None:
        """Stops a job that runs, and removes one that has ended."""
        Query(visit.scope.get("query_string", b""), ())
        job = await self._visible.get(job_id, owner)
        if not job.is_terminal:
            # If it has ended just now, its results are still wanted: it was to be stopped, and not removed.
            await self._say_stopped(visit, await self._store.ending.cancel(job_id, owner))
            return
        await self._store.retention.delete(job_id, owner)
        await visit.send(answer.start(204, headers_of(visit)))
        await visit.send(answer.body(b""))

    async def _retry(self, visit: Visit, job_id: str, owner: str) -> None:
        query = Query(visit.scope.get("query_string", b""), ("outcome",))
        outcomes = tuple(Outcome(each) for each in query.choices("outcome", _OUTCOMES))
        if Outcome.OK in outcomes:
            raise BadQuery("What succeeded is not tried again.")
        key = idempotency_key(visit.fields)
        job = await self._visible.get(job_id, owner)
        caller = request.caller(visit.scope, visit.fields, visit.mount, id=visit.id, browser=visit.is_page)
        secret = self._vault.new_secret(caller.inherited)
        again = Retry(
            self._store,
            self._endpoint,
            job,
            outcomes,
            caller=caller,
            secret=secret,
            endpoints=visit.endpoints,
            guarded=visit.guarded,
        )
        submitted = await again.submit(self._submitting.new(owner, key, self._vault.sealed(secret, owner)))
        base = base_of(visit)
        headers: Headers = (
            (b"location", f"{base}/{submitted.job.id}".encode()),
            (b"retry-after", b"%d" % retry_after(submitted.job)),
        )
        await self._say(visit, 202, self._visible.shown(visit, submitted.job), headers)

    # Answers

    async def _say(self, visit: Visit, status: int, content: object, headers: Headers = ()) -> None:
        await self._say_bytes(visit, status, _encode(content), headers)

    async def _say_bytes(self, visit: Visit, status: int, content: bytes, headers: Headers) -> None:
        head = visit.scope["method"] == "HEAD"
        await answer.whole(visit.send, status, b"application/json", content, (*headers, *headers_of(visit)), head=head)


def _found(rest: str) -> tuple[str, str]:
    """The id of a job and the resource. Raises `NoSuchJob`."""
    if not rest:
        return "", ""
    _, job_id, *names = rest.split("/")
    resource = "".join(f"/{name}" for name in ("{id}", *names))
    if _ID.fullmatch(job_id) is None or resource not in METHODS:
        raise NoSuchJob("There is nothing of this name; the jobs are listed at `jobs`.")
    return job_id, resource


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = fields.get(name)
    return None if value is None else value.decode("latin-1")
