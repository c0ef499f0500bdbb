"""A batch that prefers to be answered asynchronously: taken as a job, and answered with that, or with its results.

Knows: what such a request asks for, and what is answered. Must not know: what a body says, how items are run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from ... import answer, request
from ...endpoint import Endpoint, Visit
from ...engine.errors import BatchError, Unsupported
from ...engine.events import NOTES
from ...engine.model import Headers
from ..store import Job, JobsError, JobState, JobStore, NewJob
from .entries import JSON, NDJSON, summary
from .intake import Intake
from .lines import Body
from .principal import Owners
from .problems import problem_of
from .reading import PAGE, Asked, page, pages
from .secrets import Vault
from .showing import retry_after
from .streaming import Stream, cut_off
from .visible import VisibleJobs, base_of, headers_of
from .wishes import Preferences, idempotency_key, preferences

if TYPE_CHECKING:
    from .settings import JobsSettings

logger = logging.getLogger("batchproxy")

VARY: Headers = ((b"vary", b"Prefer"),)
_encode = msgspec.json.encode


class Submitting:
    """Made once for each endpoint."""

    def __init__(
        self,
        store: JobStore,
        settings: JobsSettings,
        endpoint: Endpoint,
        vault: Vault,
        owners: Owners,
        visible: VisibleJobs,
    ) -> None:
        self._store = store
        self._settings = settings
        self._endpoint = endpoint
        self._vault = vault
        self._owners = owners
        self._visible = visible
        # What may be in a job may be more than in a batch; each item may be what it may be there.
        self._policy = replace(endpoint, max_items=settings.max_items)

    async def submit(self, visit: Visit) -> int:
        """Takes the batch; the status of the answer."""
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
            new = self.new(owner, key, self._vault.sealed(secret, owner))
            intake = Intake(
                self._store,
                self._settings,
                endpoint,
                self._policy,
                caller,
                secret,
                self._vault,
                minimal=wishes.minimal,
                endpoints=visit.endpoints,
                new=new,
                guarded=visit.guarded,
            )
            submitted = await (intake.lines(body) if is_lines else intake.json(body))
        _note(visit, submitted.job)
        return await self._answer(visit, submitted.job, wishes, media_type)

    def new(self, owner: str, key: str | None, secret: bytes) -> NewJob:
        """What is said of a job without looking at its items."""
        return NewJob(
            owner=owner,
            kind=self._visible.kind,
            endpoint=self._endpoint.path,
            idempotency_key=key,
            secret=secret,
            deadline=self._settings.deadline,
        )

    async def _answer(self, visit: Visit, job: Job, wishes: Preferences, media_type: str) -> int:
        """The results if they are there in time; else where they are going to be."""
        visible = self._visible
        if wishes.wait:
            try:
                job = await visible.awaited(visit, job, wishes.wait, known=None)
                if job.is_terminal and job.state is not JobState.FAILED:
                    await self._answer_done(visit, job, wishes, media_type)
                    return 200
            except JobsError as error:
                # The job is there, and must not look refused: it would be sent once more.
                logger.warning("job.unseen: job=%s code=%s it was accepted, and cannot be read", job.id, error.code)
        applied = ["respond-async"]
        if wishes.wait:
            applied.append(f"wait={visible.waited(wishes.wait)}")
        if wishes.minimal:
            applied.append("return=minimal")
        headers = (
            (b"location", f"{base_of(visit)}/{job.id}".encode()),
            *((b"retry-after", b"%d" % retry_after(job)) for _ in range(not job.is_terminal)),
            (b"preference-applied", ", ".join(applied).encode("ascii")),
            *VARY,
            *headers_of(visit),
        )
        content = _encode(visible.shown(visit, job))
        await answer.whole(visit.send, 202, b"application/json", content, headers, head=False)
        return 202

    async def _answer_done(self, visit: Visit, job: Job, wishes: Preferences, media_type: str) -> None:
        """As the batch would have been answered at once, only that it is streamed out of the store.

        Raises `JobsError` as long as nothing was said.
        """
        applied = f"wait={self._visible.waited(wishes.wait or 0)}" + (", return=minimal" if wishes.minimal else "")
        headers = (
            (b"content-location", f"{base_of(visit)}/{job.id}/results".encode()),
            (b"preference-applied", applied.encode("ascii")),
            *VARY,
            *headers_of(visit),
        )
        asked = Asked(job.id, job.owner, by_completion=False, after=None, limit=None, outcomes=())
        first = await page(self._store, asked, None, PAGE)
        is_lines = media_type == NDJSON
        entries = self._visible.entries(visit, job, indexed=is_lines)
        stream = Stream(visit.send, write_timeout=self._endpoint.write_timeout)
        await stream.begin(media_type.encode("ascii"), headers)
        is_first = True
        await stream.write(b"" if is_lines else b'{"responses":[')
        with cut_off():
            async for each in pages(self._store, asked, first, None):
                written = entries.of(each.results)
                if is_lines:
                    await stream.write(b"".join(entry + b"\n" for entry in written))
                elif written:
                    await stream.write((b"" if is_first else b",") + b",".join(written))
                    is_first = False
        end = b'"summary":%b}' % summary(job.counts)
        await stream.end(b"{%b\n" % end if is_lines else b"],%b" % end)


def _note(visit: Visit, job: Job) -> None:
    """Tells whoever writes the access log what has become of the batch."""
    notes = (visit.scope.get("extensions") or {}).get(NOTES)
    if isinstance(notes, dict):
        notes["job"] = (job.id, job.total)


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
    accept = fields.get(b"accept")
    return request.negotiate(None if accept is None else accept.decode("latin-1"), (JSON, NDJSON))


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
