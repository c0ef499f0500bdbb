"""The jobs of one endpoint, as those who ask see them: looked up, waited for, shown.

Knows: which jobs are there for whom. Must not know: which request means what.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from ... import request
from ...endpoint import Endpoint, Visit
from ...engine.model import Headers
from ..store import Job, JobStore, NotFound
from .entries import Entries
from .events import event_id
from .native import kind_name
from .secrets import CannotOpen, Vault
from .showing import shown
from .stored import unpacked_options
from .watching import Watch, watching

if TYPE_CHECKING:
    import asyncio

    from .settings import JobsSettings

_EXPOSED = b"Location, ETag, Link, Accept-Ranges, Content-Range"


class VisibleJobs:
    """Made once for each endpoint. `kind` is the one that all of them have; `stopping` ends whatever waits."""

    def __init__(
        self, store: JobStore, settings: JobsSettings, endpoint: Endpoint, vault: Vault, stopping: asyncio.Event
    ) -> None:
        self.kind = kind_name(endpoint.path)
        self._store = store
        self._settings = settings
        self._endpoint = endpoint
        self._vault = vault
        self._stopping = stopping

    async def get(self, job_id: str, owner: str) -> Job:
        """One of this endpoint; those of others are not there."""
        job = await self._store.jobs.get(job_id, owner)
        if job.kind != self.kind:
            raise NotFound(f"There is no job {job_id}.")
        return job

    async def awaited(self, visit: Visit, job: Job, wait: int, *, known: str | None) -> Job:
        """The job when it has ended, or is another than `known`, or the time is over. Raises `Disconnected`."""
        async with self.watching(visit, job.id, self.waited(wait)) as watch:
            while True:
                job = await self.get(job.id, job.owner)
                if job.is_terminal or (known is not None and event_id(job) != known) or watch.is_over:
                    break
                await watch.changed()
            if watch.has_left:
                raise request.Disconnected
        return job

    def waited(self, wait: int) -> int:
        """For how many seconds a request is really kept waiting."""
        return min(wait, int(self._settings.wait))

    def watching(self, visit: Visit, job_id: str, seconds: float) -> AbstractAsyncContextManager[Watch]:
        return watching(self._store, job_id, visit.receive, self._stopping, poll=self._settings.poll, seconds=seconds)

    def shown(self, visit: Visit, job: Job) -> dict[str, Any]:
        members = shown(job, base_of(visit), self._settings.delivery_at(self._endpoint.path))
        if (callback := members["callback"]) is not None:
            callback["url"] = self._url(callback["url"], job.owner)
        return members

    def _url(self, kept: str, owner: str) -> str | None:
        """None if the key with which it was encrypted is not here."""
        try:
            return self._vault.opened_url(kept, owner)
        except CannotOpen:
            return None

    def entries(self, visit: Visit, job: Job, *, indexed: bool) -> Entries:
        minimal = unpacked_options(job.options).options.minimal
        return Entries(self._endpoint, visit.problem_type, minimal=minimal, indexed=indexed)


def base_of(visit: Visit) -> str:
    """Where the jobs of the endpoint are, as this client writes it."""
    return f"{visit.problem_type}/jobs"


def headers_of(visit: Visit) -> Headers:
    """Those of each answer; a page that may read it sees ours, too."""
    exposed = b"access-control-expose-headers"
    return tuple((name, b"%b, %b" % (value, _EXPOSED) if name == exposed else value) for name, value in visit.headers)
