"""What failed in a job, once more: a new job of those items, for whoever asks for it, with his credentials.

Items that waited for others wait for those of them that are tried again; values out of answers that are there are put
in now.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ...endpoint import Endpoint
from ...engine.errors import Failure
from ...engine.model import Batch, Caller, Item, Refusal, Result, Template
from ...engine.policy import Judge
from ...engine.references import Values, complete
from ..store import Job, JobStore, NewJob, Outcome, Submitted, WrongState
from .intake import Guarded, in_one_chunk, with_options
from .problems import Conflict
from .secrets import CannotOpen, Secret
from .stored import is_ordered, packed_item, unpacked_item, unpacked_options

FAILED = (Outcome.ERROR, Outcome.EXPIRED, Outcome.CANCELLED, Outcome.UNKNOWN)


class _Again(NamedTuple):
    """An item of the old job, under its old number."""

    item: Item
    refusal: Refusal | None


class Retry:
    """One job that has ended, tried again. Raises `JobsError`, `Conflict` and `Unprocessable`."""

    def __init__(
        self,
        store: JobStore,
        endpoint: Endpoint,
        job: Job,
        outcomes: Collection[Outcome],
        *,
        caller: Caller,
        secret: Secret,
        endpoints: Collection[str],
        guarded: Guarded,
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._guarded = guarded
        self._job = job
        self._outcomes = tuple(outcomes) or FAILED
        self._said = unpacked_options(job.options)
        self._caller = caller
        self._secret = secret
        self._judge = Judge(endpoint, caller, endpoints)

    async def submit(self, new: NewJob) -> Submitted:
        if not self._job.is_terminal:
            raise WrongState("The job has not ended yet; what failed can be tried again once it has.")
        new = with_options(msgspec.structs.replace(new, retry_of=self._job.id), self._caller, self._said.options)
        numbers = await self._store.inputs.chunk_numbers(self._job.id)
        # Whoever asks again with the same key means the same items.
        said = f"retry {self._job.id} {','.join(sorted(self._outcomes))}"
        fingerprint = hashlib.sha256(said.encode()).digest()
        if len(numbers) == 1 or self._endpoint.guards:
            return await self._submit_whole(new, [each async for each in self._items(numbers)], fingerprint)
        async with self._store.submission(new) as submission:
            is_any = False
            async for item, refusal in self._items(numbers):
                await submission.add(packed_item(item, refusal or self._judge.item(item), self._secret))
                is_any = True
            self._check_any(is_any or submission.replays)
            return await submission.commit(fingerprint)

    async def _submit_whole(self, new: NewJob, items: Sequence[_Again], fingerprint: bytes) -> Submitted:
        """The only way for items that wait for others, and for guards."""
        if any(each.item.after for each in items):
            items = await self._freed(items)
        batch = self._judge.batch(self._batch(items))
        if self._endpoint.guards:
            batch = await self._guarded(batch)
        packed = [packed_item(item, batch.refused.get(item.index), self._secret) for item in batch.items]
        if is_ordered(batch.options, batch.items):
            new = in_one_chunk(new, packed, self._endpoint.max_batch_bytes)
        async with self._store.submission(new) as submission:
            for item in packed:
                await submission.add(item)
            self._check_any(bool(packed) or submission.replays)
            return await submission.commit(fingerprint)

    def _batch(self, items: Sequence[_Again]) -> Batch:
        numbered = [msgspec.structs.replace(each.item, index=index) for index, each in enumerate(items)]
        return Batch(
            id=f"{random.getrandbits(64):016x}",
            dialect=self._endpoint.dialect,
            items=tuple(numbered),
            caller=self._caller,
            options=self._said.options,
            refused={index: each.refusal for index, each in enumerate(items) if each.refusal is not None},
        )

    def _check_any(self, there_is: bool) -> None:
        if not there_is:
            raise WrongState("The job has no items to be tried again.")

    async def _items(self, numbers: Sequence[int]) -> AsyncIterator[_Again]:
        for no in numbers:
            packed = await self._store.inputs.chunk(self._job.id, no)
            wanted = await self._store.results.seqs(self._job.id, min(packed), max(packed) + 1, self._outcomes)
            for seq in wanted:
                yield self._unpacked(seq, packed[seq])

    def _unpacked(self, seq: int, packed: bytes) -> _Again:
        try:
            item, refusal = unpacked_item(seq, packed, Secret())
        except CannotOpen:
            raise Conflict(
                "Items of the job had credentials of their own; these were dropped when it ended. Send them anew.",
                code="credentials_gone",
            ) from None
        if refusal is not None and refusal.failure is Failure.TOO_MANY_FOR_ROUTE:
            refusal = None  # there are fewer now, and they are counted anew
        return _Again(item, refusal)

    # Items that waited for others

    async def _freed(self, items: Sequence[_Again]) -> list[_Again]:
        """Each waits for those of its sources that are tried again, by their new numbers."""
        places = {each.item.index: index for index, each in enumerate(items)}
        done = {source for each in items for source in each.item.after if source not in places}
        found = {each.seq: each for each in await self._store.results.of(self._job.id, sorted(done))}
        succeeded = {seq for seq, each in found.items() if each.outcome is Outcome.OK}
        values = Values([each.item for each in items], self._endpoint)
        for seq in sorted(succeeded & values.sources.keys()):
            there = found[seq]
            values.take(Result(seq, there.status, there.headers, there.body))
        return [self._freed_one(each, places, succeeded, values) for each in items]

    def _freed_one(self, again: _Again, places: dict[int, int], succeeded: set[int], values: Values) -> _Again:
        item, refusal = again
        if refusal is not None or not item.after:
            return again
        left = tuple(source for source in item.after if source in places)
        if any(source not in succeeded and source not in places for source in item.after):
            detail = "An item that it waits for did not succeed, and is not tried again."
            return _bare(item, Refusal(Failure.DEPENDENCY_FAILED, detail))
        template = item.template
        if template is not None:
            sources = {reference.source for reference in template.references}
            if sources <= places.keys():
                return _Again(_moved(_waiting(item, left), places), None)
            if sources & places.keys():
                detail = "It takes values of items that succeeded before and of items that are tried again."
                return _bare(item, Refusal(Failure.REFERENCE_FAILED, detail))
            completed = complete(item, values, self._said.caller, self._endpoint)
            if isinstance(completed, Refusal):
                return _bare(item, completed)
            item = completed
        return _Again(_moved(_waiting(item, left), places), None)


def _moved(item: Item, places: Mapping[int, int]) -> Item:
    """The same item, with those that it waits for under their new numbers; all of them must have one."""
    template = item.template
    if template is not None:
        references = tuple(
            msgspec.structs.replace(reference, source=places[reference.source]) for reference in template.references
        )
        template = Template(references, template.target, template.json_body)
    return msgspec.structs.replace(item, after=tuple(places[each] for each in item.after), template=template)


def _waiting(item: Item, after: tuple[int, ...]) -> Item:
    return msgspec.structs.replace(item, after=after)


def _bare(item: Item, refusal: Refusal) -> _Again:
    """An item that will not be sent, and so waits for nothing."""
    return _Again(Item(item.index, item.method, b"", id=item.id), refusal)
