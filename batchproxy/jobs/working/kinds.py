"""How a kind of job is understood: the seam between a worker, which knows leases, and those who know what items are.

Knows: what a worker asks of a kind. Must not know: wire formats, leases, order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from ...engine.model import Batch, Caller, Delivery, Scope
from ...engine.policy import Judge, Policy
from ...engine.target import Entry
from ..store import Claim, Job, JobStore, Message


class JobBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Items of a job, as the engine takes them.

    `batch` has them by index, each item's number in the job is at the same index of `seqs`, which are in order. It has
    not been judged: the worker does that, with `judge`, and once more for items that are completed with values.
    `policy` says the rest; of its times, sizes and numbers those of single items count, and `concurrency` for the items
    of one batch.

    `entry` is the app that they are sent into, `connection` what is the same in all their scopes; see `connection`.
    `upstream` is by which name they are limited if there are no routes; None for the endpoint of the job.
    """

    batch: Batch
    seqs: Sequence[int]
    policy: Policy
    judge: Judge
    entry: Entry
    connection: Scope
    delivery: Delivery = Delivery.AT_MOST_ONCE
    upstream: str | None = None


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job is not valid, in the words of its kind, and messages for the outbox about that."""

    error: bytes | None = None
    messages: Sequence[Message] = ()


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """What belongs to the end of a job: messages for the outbox, and the ids of its files.

    With `sheds` these files have all that anybody will ask for: items and results are removed.
    """

    messages: Sequence[Message] = ()
    output_file: str | None = None
    error_file: str | None = None
    sheds: bool = False


class Unready(Exception):
    """Raised by a kind: this process cannot do it now, and nothing is wrong with the job. It is left to others, and
    tried again after `delay` seconds."""

    def __init__(self, detail: str, *, delay: float = 30.0) -> None:
        super().__init__(detail)
        self.delay = delay


class JobKind(Protocol):
    """What a worker does not know of the jobs whose `NewJob.kind` is `name`.

    Each method may raise `Unready`; whatever else it raises that is not meant for it is logged, and tried again later.
    """

    name: str

    async def validate(self, store: JobStore, claim: Claim, job: Job) -> Failed | None:
        """`Kind.VALIDATE`: adds the items by `store.validation(claim)`, or says why the job is not valid.

        May be done again from its beginning by another worker. `LeaseLost` and `WrongState` may be let through; after
        a `NotFound` the job is not valid.
        """

    def batch(self, job: Job, items: Mapping[int, bytes]) -> JobBatch:
        """The items with these numbers, all of them: also some that have a result already, which are not sent again.

        Items that wait for each other, or are to keep an order, are all of their job, so that such a job is to have one
        chunk (`NewJob.chunk_items`). Raises `BatchError` if they are no batch: then all of them are errors.
        """

    async def finish(self, store: JobStore, claim: Claim, job: Job) -> Sequence[Message] | Finish:
        """`Kind.FINALIZE`: every item has its result, `job.ending` is the state that is about to be committed.

        May be done again from its beginning by another worker, so that files have ids that are derived from the job's.
        After a `NotFound` it is, some times; then the job fails.
        """

    def unfinished(self, job: Job) -> Failed:
        """What is said of a job whose end cannot be made, for contents of it are gone."""


def connection(caller: Caller) -> Scope:
    """What the scopes of all items have in common, for a batch whose connection is gone."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": caller.scheme,
        "client": caller.client,
        "server": None,
        "root_path": caller.root_path,
    }
