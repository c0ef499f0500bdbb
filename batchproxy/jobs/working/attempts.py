"""The attempts at the items of one chunk: each is sent, and what became of it is committed.

Knows: one lease, what an answer says about another attempt. Must not know: places, which item is the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from ...engine.events import ItemEnded
from ...engine.model import SAFE_METHODS, Item, Result
from ...engine.target import AppTarget, Budget
from ..store import Job, Parked, item_result
from .backoff import Ruling, is_repeatable, pause, retry_after, ruling
from .holds import Hold
from .kinds import JobBatch
from .plan import Plan, Start, detail_of
from .sending import Sending
from .tools import Tools

T = TypeVar("T")


class Work(Protocol):
    """The work on the chunk, as far as attempts need it."""

    hold: Hold

    @property
    def is_suspect(self) -> bool: ...

    @property
    def is_ending(self) -> bool: ...

    def lose(self) -> None: ...

    def touch(self) -> None: ...

    def settle_unsent(self, results: Sequence[Result]) -> None: ...

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T: ...


class Attempts:
    """Made once it is known what the items are, and how they go on."""

    def __init__(self, job: Job, given: JobBatch, plan: Plan, tools: Tools) -> None:
        self._job = job
        self._given = given
        self._plan = plan
        self._tools = tools
        self._loop = asyncio.get_running_loop()
        most = given.policy.max_response_bytes
        concurrency = min(given.policy.concurrency, tools.settings.concurrency)
        self._target = AppTarget(
            given.entry,
            given.connection,
            given.batch,
            max_response_bytes=most,
            budget=Budget(most * concurrency, final=False),
        )

    async def make(self, work: Work, start: Start) -> bool:
        """Whether it is known what became of the item, or it waits for another attempt; committed."""
        checkpointer, lease = self._tools.checkpointer, work.hold.lease
        repeatable = is_repeatable(start.item, self._given.delivery)
        if work.is_suspect:
            if not await work.ask(lambda: self._tools.store.claims.blame(lease)):
                work.lose()
                return False
            if work.is_ending or not work.hold.is_sure:
                return False
        if not repeatable:
            if not (await checkpointer.intend(lease, start.seq)).held:
                work.lose()
                return False
            if work.is_ending or not work.hold.is_sure:
                await checkpointer.withdraw(lease, start.seq)
                return False
        began, began_at = self._loop.time(), self._tools.time.now()
        sending = self._sending(start, repeatable=repeatable)
        start.is_sending = True
        try:
            result = await sending.answer()
        finally:
            start.is_sending = False
        work.touch()
        start.attempts += 1
        try:
            what = ruling(result, sending.notes, repeatable=repeatable)
            due_in = self._due_in(start, what, result)
            if due_in is None:
                return await self._settle(work, start, result, began_at, sending.notes, self._loop.time() - began)
            if what is Ruling.REFUSED:
                await self._rest(start, result, due_in, sending.notes)
            return await self._park(work, start, result, due_in)
        finally:
            self._target.budget.left += len(result.body)

    def _sending(self, start: Start, *, repeatable: bool) -> Sending:
        settings, item = self._tools.settings, start.item
        timeout = settings.item_timeout if item.timeout is None else min(item.timeout, settings.item_timeout)
        headers = item.headers
        if repeatable and item.method not in SAFE_METHODS and not _has_key(item):
            headers = (*headers, (b"idempotency-key", f"{self._job.id}-{start.seq}".encode("ascii")))
        # With its number in the job, so that logs and upstreams tell one and the same.
        sent = msgspec.structs.replace(item, index=start.seq, headers=headers)
        return Sending(self._job.id, sent, self._target, timeout, self._tools.tails)

    def _due_in(self, start: Start, what: Ruling, result: Result) -> float | None:
        """In how many seconds the item is tried again; None if this was the last attempt."""
        settings = self._tools.settings
        if what is Ruling.FINAL:
            return None
        if what is Ruling.FAILED:
            start.failures += 1
        if start.failures >= settings.attempts or start.attempts - start.failures >= settings.rests:
            return None
        due_in = pause(start.attempts, retry_after(result.headers), settings)
        deadline = self._job.expires_at
        if deadline is not None and due_in >= self._tools.time.until(deadline):
            return None
        return due_in

    async def _park(self, work: Work, start: Start, result: Result, due_in: float) -> bool:
        now = self._loop.time()
        parked = Parked(
            start.seq, start.attempts, due_in, detail_of(start.failures, str(result.failure or result.status))
        )
        if not (await self._tools.checkpointer.park(work.hold.lease, parked)).held:
            work.lose()
            return False
        self._plan.park(start, now + due_in)
        return True

    async def _rest(self, start: Start, result: Result, due_in: float, notes: Mapping[str, Any]) -> None:
        """All leave the upstream alone that asks for it, or of which the proxy says that it can do nothing now."""
        asked = retry_after(result.headers)
        if asked is None and result.failure is None:
            return  # perhaps it is this item alone
        told = notes.get("upstream")
        gate = self._tools.gates[told if isinstance(told, str) and told else start.upstream]
        await gate.block(due_in if asked is None else min(asked, self._tools.settings.longest_rest))

    async def _settle(
        self, work: Work, start: Start, result: Result, began_at: float, notes: Mapping[str, Any], elapsed: float
    ) -> bool:
        kept = msgspec.structs.replace(
            item_result(result, seq=start.seq, custom_id=start.item.id, attempts=start.attempts),
            started_at=began_at,
            finished_at=self._tools.time.now(),
        )
        if not (await self._tools.checkpointer.settle(work.hold.lease, kept)).held:
            work.lose()
            return False
        here = msgspec.structs.replace(result, index=start.index)
        self._tools.tell(ItemEnded(self._given.batch, start.item, here, elapsed, notes))
        work.settle_unsent(self._plan.settle(here, self._loop.time()))
        return True


def _has_key(item: Item) -> bool:
    return any(name == b"idempotency-key" for name, _ in item.headers)
