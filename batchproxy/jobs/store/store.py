"""The store as a whole: its rooms, each with one noun, and how it is opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

import msgspec

from ...engine.errors import SettingError
from .blob_rows import Rows
from .blobs import BlobStore, Folder
from .checkpointer import Checkpointer
from .checkpoints import Checkpoints
from .claims import Claims
from .clock import Clock
from .database import Database
from .ending import Ending
from .errors import WrongState
from .faults import translated
from .files import Files
from .hints import Hints
from .inputs import Inputs
from .limiter import Limiter
from .model import Claim, Job, NewJob, Outcome, Submitted
from .outbox import Outbox
from .places import check_place, make_private
from .points import Passing, unnoticed
from .reading import Jobs
from .results import Results
from .retention import Retention
from .schema import migrate, pending
from .settings import StoreSettings
from .submission import Submission
from .validating import Validation
from .workers import Workers

TRIED_AGAIN = frozenset({Outcome.ERROR, Outcome.EXPIRED, Outcome.CANCELLED, Outcome.UNKNOWN})


class JobStore:
    """Made by `opened`. Who has it needs nothing else of this package than the records and errors."""

    def __init__(self, database: Database, blobs: BlobStore, hints: Hints, passing: Passing) -> None:
        self._database = database
        self._blobs = blobs
        self._passing = passing
        self.hints = hints
        self.jobs = Jobs(database)
        self.inputs = Inputs(database, blobs)
        self.claims = Claims(database, hints, passing)
        self.checkpoints = Checkpoints(database, blobs, hints, passing)
        self.ending = Ending(database, hints, passing)
        self.results = Results(database, blobs)
        self.retention = Retention(database, blobs, hints)
        self.outbox = Outbox(database, hints)
        self.files = Files(database, blobs)
        self.limiter = Limiter(database)
        self.workers = Workers(database)

    def __repr__(self) -> str:
        return f"JobStore({self._database!r})"

    def submission(self, new: NewJob, *, job_id: str | None = None) -> Submission:
        """A job to be filled; see `Submission`."""
        return Submission(self._database, self._blobs, self.hints, self._passing, new, job_id)

    def validation(self, claim: Claim, *, chunk_items: int | None = None) -> Validation:
        """The filling of a job that was submitted without items; see `Validation`."""
        return Validation(self._database, self._blobs, self.hints, claim.lease, claim.owner, chunk_items)

    def checkpointer(self, *, window: float = 0.0) -> Checkpointer:
        """Group commit for the checkpoints of one worker; see `Checkpointer`."""
        return Checkpointer(self.checkpoints, window=window)

    async def retry(
        self, job_id: str, owner: str | None, *, outcomes: Collection[Outcome] = TRIED_AGAIN, new: NewJob | None = None
    ) -> Submitted:
        """A new job of those items of an ended one that had such an outcome, in the order that they had.

        It is as the other one was, unless `new` says otherwise; the secret is gone with the end. Raises `NotFound`,
        `Gone`, and `WrongState` for a job that has not ended, or has no such items.
        """
        job = await self.jobs.get(job_id, owner)
        if not job.is_terminal:
            raise WrongState(f"The job {job_id} is {job.state}; what failed can be tried again once it has ended.")
        again = new or NewJob(
            owner=job.owner, kind=job.kind, endpoint=job.endpoint, options=job.options, metadata=job.metadata
        )
        async with self.submission(msgspec.structs.replace(again, retry_of=job_id, validate=False)) as submission:
            async for item in self._items_with(job, outcomes):
                await submission.add(item)
            if submission.total == 0 and not submission.replays:
                raise WrongState(f"The job {job_id} has no items to try again.")
            return await submission.commit()

    async def _items_with(self, job: Job, outcomes: Collection[Outcome]) -> AsyncIterator[bytes]:
        for no in await self.inputs.chunk_numbers(job.id):
            items = await self.inputs.chunk(job.id, no)
            wanted = await self.results.seqs(job.id, min(items), max(items) + 1, outcomes)
            for seq in wanted:
                yield items[seq]


@asynccontextmanager
async def opened(
    settings: StoreSettings,
    *,
    blobs: Callable[[Database], BlobStore] | None = None,
    clock: Clock | None = None,
    passing: Passing = unnoticed,
) -> AsyncIterator[JobStore]:
    """The store of these settings, with the newest schema. Raises `SettingError` and `StoreError`.

    `blobs` replaces the place of large contents.
    """
    if not settings.is_postgresql:
        check_place(settings.file)
        with translated():
            make_private(settings.file)
    database = Database(settings, clock or Clock())
    hints = Hints(settings)
    try:
        await migrate(database)
        place = (blobs or blobs_of)(database)
        hints.start()
        yield JobStore(database, place, hints, passing)
    finally:
        await hints.aclose()
        await database.aclose()


async def looked_at(settings: StoreSettings) -> str | None:
    """What `opened` would do at first, in words; None for nothing. It only looks.

    Raises `SettingError` and `StoreError`.
    """
    if not settings.is_postgresql:
        check_place(settings.file)
        if not settings.file.exists():
            return "its file will be made at the start"
    database = Database(settings, Clock())
    try:
        return await pending(database)
    finally:
        await database.aclose()


def blobs_of(database: Database) -> BlobStore:
    """Where the settings want large contents to be. Raises `SettingError` if a package for that is missing."""
    settings = database.settings
    if settings.bucket is not None:
        return objects_of(settings)
    return Rows(database) if settings.blob_folder is None else Folder(settings.blob_folder)


def objects_of(settings: StoreSettings) -> BlobStore:
    """The bucket of these settings. Raises `SettingError`."""
    assert settings.bucket is not None
    try:
        from .blobs_s3 import Objects
    except ModuleNotFoundError:
        raise SettingError("blobs", settings.blobs, "expected batchproxy[s3] to be installed") from None
    return Objects(settings.bucket, patience=settings.wait)
