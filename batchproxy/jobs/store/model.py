"""The records that go into the store and come out of it. All of them are immutable.

Knows: what a job, its work and its results are. Must not know: tables, HTTP, what is inside an item.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum

import msgspec

from ...engine.model import Headers, Result
from .states import TERMINAL, JobState


class Outcome(StrEnum):
    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    """The item was being sent when its worker was lost, and is not sent again."""


WORKER_LOST = "worker_lost"
"""The failure of an item with which worker after worker was lost."""


class Counts(msgspec.Struct, frozen=True):
    """`done` of `total` items have a result: `failed`, `cancelled`, `expired` and `unknown` of them otherwise than
    `ok`. Of the others `leased` belong to a worker now, and `parked` wait for another attempt."""

    total: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    unknown: int = 0
    leased: int = 0
    parked: int = 0

    @property
    def ok(self) -> int:
        return self.done - self.failed - self.cancelled - self.expired - self.unknown


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a job before its items come. `options` and `secret` are the caller's own bytes.

    `secret` is dropped as soon as the job ends. `deadline` is in seconds from the commit, `keep` from the end. With
    `validate` the job has no items at first: a worker gets `Kind.VALIDATE`, and adds them. `chunk_items` and
    `chunk_bytes` are how many items and bytes at most go to one worker together; None for the settings.
    """

    owner: str
    kind: str = "batch"
    endpoint: str = ""
    idempotency_key: str | None = None
    options: bytes = b""
    metadata: Mapping[str, str] = {}
    secret: bytes | None = None
    deadline: float | None = None
    keep: float | None = None
    priority: int = 0
    validate: bool = False
    input_file: str | None = None
    retry_of: str | None = None
    chunk_items: int | None = None
    chunk_bytes: int | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it is now. Times are those of the database, in seconds of the epoch.

    `ending` is the terminal state that a job in `finalizing` or `cancelling` is going to have. `version` grows with
    each change of state. `error` is why the job `failed`, in the words of who found out.
    """

    id: str
    kind: str
    owner: str
    state: JobState
    ending: JobState | None
    endpoint: str
    total: int
    options: bytes
    metadata: Mapping[str, str]
    secret: bytes | None
    priority: int
    created_at: float
    started_at: float | None
    finalizing_at: float | None
    cancel_requested_at: float | None
    finished_at: float | None
    expires_at: float | None
    purge_at: float | None
    input_file: str | None
    output_file: str | None
    error_file: str | None
    error: bytes | None
    retry_of: str | None
    stored_bytes: int
    version: int
    counts: Counts

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL


class Submitted(msgspec.Struct, frozen=True):
    """`created` is false if the idempotency key belongs to a job that was there."""

    job: Job
    created: bool


class Kind(IntEnum):
    """What a lease is for. Work that is not items has a number below 0, and no items."""

    ITEMS = 0
    VALIDATE = -1
    FINALIZE = -2


class Lease(msgspec.Struct, frozen=True, order=True):
    """Work in the hands of one worker. Who claims it after this one gets a higher `epoch`, and fences this one off."""

    job: str
    chunk: int
    epoch: int

    @property
    def kind(self) -> Kind:
        return Kind(min(self.chunk, 0))


class Settled(msgspec.Struct, frozen=True):
    """What is known of an item that has a result already: enough to decide about those that depend on it."""

    outcome: Outcome
    status: int
    failure: str | None


class Parked(msgspec.Struct, frozen=True):
    """An item that waits for its next attempt; `due_in` counts from now, `attempt` is how many were made."""

    seq: int
    attempt: int
    due_in: float
    detail: str = ""


class Claim(msgspec.Struct, frozen=True):
    """Work that was claimed: the `n` items from `first_seq` on, without those in `settled`.

    Items in `parked` are tried again when they are due. `ttl` is the time in seconds, from before the claim was sent,
    for which nobody else gets the work. `lost` is how many workers lost it before, `size` how many bytes its items had
    at first, as far as they are not in a row. What `is_suspect` is one item with
    which the next one may be lost: it is to be done alone, after `claims.blame`.
    """

    lease: Lease
    owner: str
    state: JobState
    first_seq: int
    n: int
    settled: Mapping[int, Settled]
    parked: Mapping[int, Parked]
    ttl: float
    lost: int
    is_suspect: bool = False
    size: int = 0

    @property
    def open_seqs(self) -> list[int]:
        return [seq for seq in range(self.first_seq, self.first_seq + self.n) if seq not in self.settled]


class Renewal(msgspec.Struct, frozen=True):
    """`renewed` are those leases that are still held; work of `stopping` jobs is to be ended soon, and not begun."""

    renewed: frozenset[Lease]
    stopping: frozenset[str]


class ItemResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one item; `failure` is the stable code if something else than the API answered it."""

    seq: int
    outcome: Outcome
    status: int = 0
    headers: Headers = ()
    body: bytes = b""
    custom_id: str | None = None
    failure: str | None = None
    detail: str = ""
    attempts: int = 1
    started_at: float = 0.0
    finished_at: float = 0.0


def item_result(result: Result, *, seq: int, custom_id: str | None = None, attempts: int = 1) -> ItemResult:
    """A result of the engine as it is kept; a status of 400 or more is an error, as everywhere."""
    return ItemResult(
        seq=seq,
        outcome=Outcome.OK if result.failure is None and result.status < 400 else Outcome.ERROR,
        status=result.status,
        headers=result.headers,
        body=result.body,
        custom_id=custom_id,
        failure=result.failure,
        detail=result.detail,
        attempts=attempts,
    )


class Verdict(msgspec.Struct, frozen=True):
    """What became of a checkpoint. `kept` are the items whose result counts; `dropped` had another one before.

    If the lease is not `held`, nothing was written.
    """

    held: bool
    kept: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()


class Page(msgspec.Struct, frozen=True):
    """Some results. `cursor` leads to what comes after them; `complete` says that nothing ever will."""

    results: tuple[ItemResult, ...]
    cursor: str
    complete: bool


class JobPage(msgspec.Struct, frozen=True):
    """Some jobs, the newest first. `cursor` is None behind the last."""

    jobs: tuple[Job, ...]
    cursor: str | None
