"""The jobs of one endpoint over HTTP: how they are submitted, watched, read, stopped and tried again.

Knows: which request means what, and what is answered. Must not know: tables, leases, how items are run.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from ... import answer, browsers, request
from ...endpoint import Endpoint, Visit
from ...engine.errors import BatchError, Unsupported
from ...engine.model import Headers
from ..store import Job, JobsError, JobState, JobStore, NewJob, NotFound, Outcome
from .entries import JSON, NDJSON, Entries, summary
from .events import event_id, tell
from .intake import Intake
from .lines import Body
from .native import kind_name
from .principal import Owners
from .problems import BadQuery, NoSuchJob, WrongMethod, problem_of, told
from .reading import PAGE, Asked, page, pages
from .results import ResultsAnswer, wanted
from .retrying import Retry
from .secrets import Vault
from .showing import etag, retry_after, shown
from .stored import unpacked_options
from .streaming import Stream
from .watching import Watch, watching
from .wishes import Preferences, Query, idempotency_key, is_known, preferences

if TYPE_CHECKING:
    from .settings import JobsSettings

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STATES = tuple(state.value for state in JobState if state is not JobState.STORING)
_OUTCOMES = tuple(outcome.value for outcome in Outcome)
_VARY: Headers = ((b"vary", b"Prefer"),)
_EXPOSED = b"Location, ETag, Link, Accept-Ranges, Content-Range"
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
        self._kind = kind_name(endpoint.path)
        self._results_answer = ResultsAnswer(store, endpoint)
        # What may be in a job may be more than in a batch; each item may be what it may be there.
        self._policy = replace(endpoint, max_items=settings.max_items)

    def __repr__(self) -> str:
        return f"JobResources({self._endpoint.path}/jobs)"

    # Submitting

    async def submit(self, visit: Visit) -> int:
        """Takes the batch of a request that prefers to be answered asynchronously; the status of the answer."""
        fields, endpoint = visit.fields, self._endpoint
        wishes = preferences(fields)
        is_lines = _is_lines(fields)
        key = idempotency_key(fields)
        owner = await self._owners.of(visit.scope)
        http1 = visit.scope.get("http_version", "1.1").startswith("1")
        most = self._settings.max_bytes if is_lines else min(endpoint.max_batch_bytes, self._settings.max_bytes)
        body = Body(
            visit.receive,
            most=most,
            pause=endpoint.read_timeout,
            total=self._settings.upload_timeout if is_lines else endpoint.read_total_timeout,
            http1=http1,
        )
        with _closing(body):
            body.check_length(fields)
            media_type = _negotiated(fields)
            caller = request.caller(visit.scope, fields, visit.mount, id=visit.id, browser=visit.is_page)
            secret = self._vault.new_secret(caller.inherited)
            new = self._new(owner, key, self._vault.sealed(secret, owner))
            intake = Intake(
                self._store,
                self._settings,
                endpoint,
                self._policy,
                caller,
                secret,
                minimal=wishes.minimal,
                endpoints=visit.endpoints,
                new=new,
                guarded=visit.guarded,
            )
            submitted = await (intake.lines(body) if is_lines else intake.json(body))
        return await self._answer(visit, submitted.job, wishes, media_type)

    def _new(self, owner: str, key: str | None, secret: bytes) -> NewJob:
        return NewJob(
            owner=owner,
            kind=self._kind,
            endpoint=self._endpoint.path,
            idempotency_key=key,
            secret=secret,
            deadline=self._settings.deadline,
        )

    async def _answer(self, visit: Visit, job: Job, wishes: Preferences, media_type: str) -> int:
        """The results if they are there in time; else where they are going to be."""
        if wishes.wait:
            with told():
                job = await self._awaited(visit, job, wishes.wait, known=None)
            if job.is_terminal and job.state is not JobState.FAILED:
                await self._answer_done(visit, job, wishes, media_type)
                return 200
        applied = ["respond-async"]
        if wishes.wait:
            applied.append(f"wait={self._waited(wishes.wait)}")
        if wishes.minimal:
            applied.append("return=minimal")
        headers = (
            (b"location", f"{_base(visit)}/{job.id}".encode()),
            *((b"retry-after", b"%d" % retry_after(job)) for _ in range(not job.is_terminal)),
            (b"preference-applied", ", ".join(applied).encode("ascii")),
            *_VARY,
            *_headers(visit),
        )
        await answer.whole(visit.send, 202, b"application/json", _encode(self._shown(visit, job)), headers, head=False)
        return 202

    async def _answer_done(self, visit: Visit, job: Job, wishes: Preferences, media_type: str) -> None:
        """As the batch would have been answered at once, only that it is streamed out of the store."""
        applied = f"wait={self._waited(wishes.wait or 0)}" + (", return=minimal" if wishes.minimal else "")
        headers = (
            (b"content-location", f"{_base(visit)}/{job.id}/results".encode()),
            (b"preference-applied", applied.encode("ascii")),
            *_VARY,
            *_headers(visit),
        )
        asked = Asked(job.id, job.owner, by_completion=False, after=None, limit=None, outcomes=())
        with told():
            first = await page(self._store, asked, None, PAGE)
        is_lines = media_type == NDJSON
        entries = self._entries(visit, job, indexed=is_lines)
        stream = Stream(visit.send, write_timeout=self._endpoint.write_timeout)
        await stream.begin(media_type.encode("ascii"), headers)
        is_first = True
        await stream.write(b"" if is_lines else b'{"responses":[')
        async for each in pages(self._store, asked, first, None):
            written = entries.of(each.results)
            if is_lines:
                await stream.write(b"".join(entry + b"\n" for entry in written))
            elif written:
                await stream.write((b"" if is_first else b",") + b",".join(written))
                is_first = False
        end = b'"summary":%b}' % summary(job.counts)
        await stream.end(b"{%b\n" % end if is_lines else b"],%b" % end)

    # Resources

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
            await visit.send(answer.start(204, (*allow, *_headers(visit))))
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
        await visit.send(answer.start(204, (*_headers(visit), *allowed.items())))
        await visit.send(answer.body(b""))

    async def _job(self, job_id: str, owner: str) -> Job:
        """One of this endpoint; those of others are not there."""
        job = await self._store.jobs.get(job_id, owner)
        if job.kind != self._kind:
            raise NotFound(f"There is no job {job_id}.")
        return job

    async def _list(self, visit: Visit, _: str, owner: str) -> None:
        query = Query(visit.scope.get("query_string", b""), ("after", "limit", "state"))
        limit = query.number("limit", 20, most=100)
        states = query.choices("state", _STATES)
        found = await self._store.jobs.list(
            owner,
            states=[JobState(state) for state in states],
            kind=self._kind,
            after=query.text("after"),
            limit=limit,
        )
        base = _base(visit)
        following = None
        if found.cursor is not None:
            chosen = f"&state={','.join(states)}" if states else ""
            following = f"{base}?after={found.cursor}&limit={limit}{chosen}"
        content = {"jobs": [self._shown(visit, job) for job in found.jobs], "cursor": found.cursor, "next": following}
        link = () if following is None else ((b"link", f'<{following}>; rel="next"'.encode()),)
        await self._say(visit, 200, content, link)

    async def _show(self, visit: Visit, job_id: str, owner: str) -> None:
        Query(visit.scope.get("query_string", b""), ())
        job = await self._job(job_id, owner)
        wait = preferences(visit.fields).wait
        applied: Headers = ()
        if wait:
            known = event_id(job) if is_known(visit.fields, etag(job)) else None
            if known is not None or b"if-none-match" not in visit.fields:
                job = await self._awaited(visit, job, wait, known=known)
            applied = ((b"preference-applied", b"wait=%d" % self._waited(wait)),)
        headers = ((b"etag", etag(job).encode("ascii")), *applied, *_VARY)
        if not job.is_terminal:
            headers = ((b"retry-after", b"%d" % retry_after(job)), *headers)
        if is_known(visit.fields, etag(job)):
            await visit.send(answer.start(304, (*headers, *_headers(visit))))
            await visit.send(answer.body(b""))
            return
        await self._say(visit, 200, self._shown(visit, job), headers)

    async def _awaited(self, visit: Visit, job: Job, wait: int, *, known: str | None) -> Job:
        """The job when it has ended, or is another than `known`, or the time is over. Raises `Disconnected`."""
        async with self._watching(visit, job.id, self._waited(wait)) as watch:
            while True:
                job = await self._job(job.id, job.owner)
                if job.is_terminal or (known is not None and event_id(job) != known) or watch.is_over:
                    break
                await watch.changed()
            if watch.has_left:
                raise request.Disconnected
        return job

    def _waited(self, wait: int) -> int:
        """For how many seconds a request is really kept waiting."""
        return min(wait, int(self._settings.wait))

    def _watching(self, visit: Visit, job_id: str, seconds: float) -> AbstractAsyncContextManager[Watch]:
        return watching(self._store, job_id, visit.receive, self.stopping, poll=self._settings.poll, seconds=seconds)

    async def _events(self, visit: Visit, job_id: str, owner: str) -> None:
        Query(visit.scope.get("query_string", b""), ())
        request.negotiate(_text(visit.fields, b"accept"), ("text/event-stream",))
        known = _text(visit.fields, b"last-event-id")
        job = await self._job(job_id, owner)
        if job.is_terminal and known == event_id(job):
            # The HTML standard: with this answer a browser does not come back.
            await visit.send(answer.start(204, _headers(visit)))
            await visit.send(answer.body(b""))
            return
        if visit.scope["method"] == "HEAD":
            await answer.whole(visit.send, 200, b"text/event-stream", b"", _headers(visit), head=True)
            return
        stream = Stream(visit.send, write_timeout=self._endpoint.write_timeout)
        async with self._watching(visit, job_id, self._settings.stream_timeout) as watch:
            job = await self._job(job_id, owner)
            await tell(
                stream,
                watch,
                job,
                lambda: self._job(job_id, owner),
                show=lambda job: self._shown(visit, job),
                known=known,
                headers=_headers(visit),
            )

    async def _results(self, visit: Visit, job_id: str, owner: str) -> None:
        asks = wanted(visit, job_id, owner)
        job = await self._job(job_id, owner)
        await self._results_answer.give(
            visit,
            asks,
            job,
            self._entries(visit, job, indexed=True),
            _headers(visit),
            lambda: self._watching(visit, job_id, self._settings.stream_timeout),
        )

    async def _cancel(self, visit: Visit, job_id: str, owner: str) -> None:
        Query(visit.scope.get("query_string", b""), ())
        await self._job(job_id, owner)
        job = await self._store.ending.cancel(job_id, owner)
        await self._say_stopped(visit, job)

    async def _say_stopped(self, visit: Visit, job: Job) -> None:
        headers: Headers = () if job.is_terminal else ((b"retry-after", b"%d" % retry_after(job)),)
        headers = (*headers, (b"etag", etag(job).encode("ascii")))
        await self._say(visit, 200 if job.is_terminal else 202, self._shown(visit, job), headers)

    async def _delete(self, visit: Visit, job_id: str, owner: str) -> None:
        """Stops a job that runs, and removes one that has ended."""
        Query(visit.scope.get("query_string", b""), ())
        job = await self._job(job_id, owner)
        if not job.is_terminal:
            # If it has ended just now, its results are still wanted: it was to be stopped, and not removed.
            await self._say_stopped(visit, await self._store.ending.cancel(job_id, owner))
            return
        await self._store.retention.delete(job_id, owner)
        await visit.send(answer.start(204, _headers(visit)))
        await visit.send(answer.body(b""))

    async def _retry(self, visit: Visit, job_id: str, owner: str) -> None:
        query = Query(visit.scope.get("query_string", b""), ("outcome",))
        outcomes = tuple(Outcome(each) for each in query.choices("outcome", _OUTCOMES))
        if Outcome.OK in outcomes:
            raise BadQuery("What succeeded is not tried again.")
        key = idempotency_key(visit.fields)
        job = await self._job(job_id, owner)
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
        submitted = await again.submit(self._new(owner, key, self._vault.sealed(secret, owner)))
        base = _base(visit)
        headers: Headers = (
            (b"location", f"{base}/{submitted.job.id}".encode()),
            (b"retry-after", b"%d" % retry_after(submitted.job)),
        )
        await self._say(visit, 202, self._shown(visit, submitted.job), headers)

    # Answers

    def _shown(self, visit: Visit, job: Job) -> dict[str, Any]:
        return shown(job, _base(visit), self._settings.delivery_at(self._endpoint.path))

    def _entries(self, visit: Visit, job: Job, *, indexed: bool) -> Entries:
        minimal = unpacked_options(job.options).options.minimal
        return Entries(self._endpoint, visit.problem_type, minimal=minimal, indexed=indexed)

    async def _say(self, visit: Visit, status: int, content: object, headers: Headers = ()) -> None:
        await self._say_bytes(visit, status, _encode(content), headers)

    async def _say_bytes(self, visit: Visit, status: int, content: bytes, headers: Headers) -> None:
        head = visit.scope["method"] == "HEAD"
        await answer.whole(visit.send, status, b"application/json", content, (*headers, *_headers(visit)), head=head)


def _base(visit: Visit) -> str:
    return f"{visit.problem_type}/jobs"


def _found(rest: str) -> tuple[str, str]:
    """The id of a job and the resource. Raises `NoSuchJob`."""
    if not rest:
        return "", ""
    _, job_id, *names = rest.split("/")
    resource = "".join(f"/{name}" for name in ("{id}", *names))
    if _ID.fullmatch(job_id) is None or resource not in METHODS:
        raise NoSuchJob("There is nothing of this name; the jobs are listed at `jobs`.")
    return job_id, resource


def _headers(visit: Visit) -> Headers:
    """Those of each answer; a page that may read it sees ours, too."""
    exposed = b"access-control-expose-headers"
    return tuple((name, b"%b, %b" % (value, _EXPOSED) if name == exposed else value) for name, value in visit.headers)


def is_lines_type(fields: Mapping[bytes, bytes]) -> bool:
    """Whether the body is said to be lines."""
    media_type = fields.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    return media_type in (NDJSON, "application/jsonl", "application/ndjson")


def _is_lines(fields: Mapping[bytes, bytes]) -> bool:
    """Raises `Unsupported` if it is neither lines nor JSON."""
    if not is_lines_type(fields):
        request.check_content(fields)
        return False
    if b"content-encoding" in fields:
        raise Unsupported("Send the body without Content-Encoding; it is taken uncompressed only.")
    return True


def _negotiated(fields: Mapping[bytes, bytes]) -> str:
    return request.negotiate(_text(fields, b"accept"), (JSON, NDJSON))


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = fields.get(name)
    return None if value is None else value.decode("latin-1")


@contextmanager
def _closing(body: Body) -> Iterator[None]:
    """An answer before the end of the body closes the connection."""
    try:
        yield
    except BatchError as error:
        error.headers = (*error.headers, *body.closing)
        raise
    except JobsError as error:
        problem = problem_of(error)
        problem.headers = (*problem.headers, *body.closing)
        raise problem from error
