"""Durable jobs: a store for batches that outlive their connection, and everything that has to be right about it.

Knows: jobs, chunks, items as bytes, results. Must not know: HTTP, ASGI, the middleware, what an item means.

    async with opened(StoreSettings(url="sqlite:///state/jobs.db")) as store:    # or postgresql://…

To submit, from any process:

    async with store.submission(NewJob(owner="ann", idempotency_key="k1", deadline=86400)) as submission:
        await submission.add(item)                     # bytes, as often as needed; nothing is gathered in memory
        submitted = await submission.commit()          # durable when it returns; left earlier, nothing remains

To work, in as many processes as there are:

    worker = await store.workers.register()
    async with store.checkpointer() as checkpointer:
        for claim in await store.claims.claim(worker, 4):
            match claim.lease.kind:
                case Kind.ITEMS:                       # items by number, without those that have a result
                    items = await store.inputs.items(claim)
                    await checkpointer.intend(claim.lease, seq)            # before sending, if never to be sent twice
                    await checkpointer.settle(claim.lease, ItemResult(…))  # committed when it returns
                    await checkpointer.park(claim.lease, Parked(…))        # to be tried again later
                case Kind.VALIDATE:                    # `async with store.validation(claim)`; or `ending.fail`
                    …
                case Kind.FINALIZE:
                    await store.ending.settle_rest(claim.lease)
                    await store.ending.finish(claim.lease, messages=[…])
        await store.claims.renew(leases)               # every third of `claim.ttl`: exactly those that run
        await store.claims.release(leases)             # at the end of a chunk with parked items, and at a stop

A worker begins nothing of a chunk later than 0.8 · `ttl` after it asked for it or for its renewal, by its own monotonic
clock, and waits for more by `store.hints.on(WORK)` and `store.claims.next_due()`. From time to time every process calls
`store.ending.expire()` and `store.retention.sweep()`. Who tells others what is in `store.outbox` waits for more by
`store.hints.on(OUTBOX)` and `store.outbox.next_due()`.

To read: `store.jobs` (get, list, stopping), `store.results` (in_order, in_completion_order, of), `store.hints`. To
change: `store.ending.cancel`, `store.retry`, `store.retention.delete`. Beside jobs: `store.files`, `store.outbox`,
`store.limiter`, `store.workers`.

Errors are `JobsError` with a stable `code`, drawn in `errors.py`; wrong settings are `SettingError`.
"""

from __future__ import annotations

from .blobs import BlobStore, BlobWriter
from .checkpointer import Checkpointer
from .checkpoints import Entry
from .clock import Clock
from .errors import (
    BadCursor,
    Gone,
    JobsError,
    KeyBusy,
    KeyConflict,
    LeaseLost,
    NotFound,
    QuotaExceeded,
    SchemaForeign,
    SchemaNewer,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreMissing,
    StoreReadOnly,
    StoreUnreachable,
    WrongState,
)
from .files import File, FilePage
from .hints import OUTBOX, WORK
from .limiter import Allowance, Limits
from .model import (
    WORKER_LOST,
    Claim,
    Counts,
    ItemResult,
    Job,
    JobPage,
    Kind,
    Lease,
    NewJob,
    Outcome,
    Page,
    Parked,
    Renewal,
    Settled,
    Submitted,
    Verdict,
    item_result,
)
from .outbox import Message, Taken
from .settings import StoreSettings
from .states import OPEN, STOPPING, TERMINAL, JobState
from .store import JobStore, looked_at, opened
from .workers import Worker

__all__ = [
    "OPEN",
    "OUTBOX",
    "STOPPING",
    "TERMINAL",
    "WORK",
    "WORKER_LOST",
    "Allowance",
    "BadCursor",
    "BlobStore",
    "BlobWriter",
    "Checkpointer",
    "Claim",
    "Clock",
    "Counts",
    "Entry",
    "File",
    "FilePage",
    "Gone",
    "ItemResult",
    "Job",
    "JobPage",
    "JobState",
    "JobStore",
    "JobsError",
    "KeyBusy",
    "KeyConflict",
    "Kind",
    "Lease",
    "LeaseLost",
    "Limits",
    "Message",
    "NewJob",
    "NotFound",
    "Outcome",
    "Page",
    "Parked",
    "QuotaExceeded",
    "Renewal",
    "SchemaForeign",
    "SchemaNewer",
    "Settled",
    "StoreBusy",
    "StoreCorrupt",
    "StoreError",
    "StoreFull",
    "StoreMissing",
    "StoreReadOnly",
    "StoreSettings",
    "StoreUnreachable",
    "Submitted",
    "Taken",
    "Verdict",
    "Worker",
    "WrongState",
    "item_result",
    "looked_at",
    "opened",
]
