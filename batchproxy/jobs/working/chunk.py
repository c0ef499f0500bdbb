"""The work on one chunk: its items are begun when the worker has a place, and their places held until what became of
them is committed.

Knows: one lease, its items, their tasks. Must not know: other chunks, when leases are renewed, what an answer means
(`attempts.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from ...engine.errors import BatchError
from ...engine.events import ItemEnded
from ...engine.model import SAFE_METHODS, Result
from ..store import Claim, ItemResult, Job, NotFound, Outcome, StoreError, item_result
from .attempts import Attempts
from .backoff import is_repeatable
from .holds import Hold
from .kinds import JobBatch, Unready
from .outages import patiently
from .plan import Plan, Start
from .tools import Tools

logger = logging.getLogger("batchproxy")

T = TypeVar("T")

_LATER = 30.0
"""How long a chunk is left alone with which something is wrong."""
_SOON = 1.0
_SOURCES = 8
"""From how many answers at once values are taken that others wait for: each may be large."""
_SHORT_REST = 2.0
"""What limits make others wait for is no rest."""


class ChunkWork:
    """`run` it in a task; the worker calls `begin` for each place that it has, and the others when something happens.

    It ends when all its items have results, when those that are left wait for another attempt, and when it is told to:
    then what is left goes back at once.
    """

    def __init__(self, claim: Claim, asked: float, tools: Tools) -> None:
        self.hold = Hold(claim, asked)
        self.owner = claim.owner
        self.busy = 0
        self.progress = asyncio.get_running_loop().time()
        self._tools = tools
        self._loop = asyncio.get_running_loop()
        self._plan: Plan | None = None
        self._given: JobBatch
        self._attempts: Attempts
        self.is_ending = False
        self._delay = 0.0
        self._tasks: dict[asyncio.Task[None], Start | None] = {}
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"ChunkWork({self.hold!r}, busy={self.busy}, {self._plan!r})"

    @property
    def ready(self) -> int:
        """How many items could be begun at once; as long as it is not known, all that are open."""
        if self.is_ending:
            return 0
        if self._plan is None:
            return len(self.hold.claim.open_seqs)
        return min(self._plan.ready, self._given.policy.concurrency - self.busy)

    @property
    def may_begin(self) -> bool:
        """Whether an item could be begun now, if its upstream lets it."""
        return self._plan is not None and self.ready > 0 and self.hold.is_sure

    @property
    def is_suspect(self) -> bool:
        """Whether it is one item with which the worker may be lost, so that nothing else is to run beside it."""
        return self.hold.claim.is_suspect

    @property
    def next_due(self) -> float | None:
        """When an item may be begun that waits for another attempt."""
        return None if self._plan is None or self.is_ending else self._plan.next_due

    def rests(self, now: float) -> float:
        """For how many seconds nothing can be begun of it, for all its upstreams want a rest, and nothing runs."""
        if self._plan is None or self._tasks or not self._plan.ready:
            return 0.0
        rest = min(self._tools.gates[name].rests(now) for name in self._plan.upstreams)
        return rest if rest > _SHORT_REST else 0.0

    def is_refused(self, since: float) -> bool:
        """Whether an upstream of its items has let none of them in, for want of tokens or places, since then."""
        plan, gates = self._plan, self._tools.gates
        return plan is not None and any(gates[name].refused_at >= since for name in plan.upstreams)

    def begin(self, now: float) -> bool:
        """Whether an item was begun: not if nothing may be, under this lease and at these upstreams."""
        plan = self._plan
        if plan is None or self.is_ending or not self.hold.is_sure or self.busy >= self._given.policy.concurrency:
            return False
        gates = self._tools.gates
        start = plan.next(now, lambda name: gates[name].enter(now))
        if start is None:
            return False
        self.busy += 1
        self._spawn(self._do(start), start)
        return True

    # What may happen to it

    def drain(self) -> None:
        """Nothing is begun any more; what runs goes on."""
        self.is_ending = True
        self._changed.set()

    def stop(self) -> None:
        """The job is to end: what has no effect is broken off, for nobody waits for it."""
        self.drain()
        self._break_off(lambda start: start.item.method in SAFE_METHODS)

    def lose(self) -> None:
        """Somebody else has the chunk now: what he does again is broken off."""
        if not self.hold.is_lost:
            lease = self.hold.lease
            logger.warning("lease.lost job=%s chunk=%d epoch=%d", lease.job, lease.chunk, lease.epoch)
            self.hold.lose()
            self.drain()
            self._break_off(lambda start: is_repeatable(start.item, self._given.delivery))

    def give_back(self, delay: float) -> None:
        """Nothing is begun any more, by anybody until `delay` seconds from then."""
        self._delay = max(self._delay, delay)
        self.drain()

    def cut(self) -> None:
        """Everything is broken off that is not about to be committed."""
        self.drain()
        self._break_off(lambda start: True)

    def _break_off(self, which: Callable[[Start], bool]) -> None:
        for task, start in self._tasks.items():
            if start is not None and start.is_sending and which(start):
                task.cancel()

    # Its course

    async def run(self) -> None:
        try:
            await self._open()
            while not self._is_over():
                self._changed.clear()
                await self._changed.wait()
        except NotFound as error:
            # As long as there is work on it a job is not removed: what is not there is perhaps brought back.
            logger.error("chunk.left job=%s chunk=%d %s", self.hold.lease.job, self.hold.lease.chunk, error)
            self.give_back(_LATER)
        except Unready as error:
            logger.warning("chunk.unready job=%s chunk=%d %s", self.hold.lease.job, self.hold.lease.chunk, error)
            self.give_back(error.delay)
        except StoreError as error:
            logger.warning("chunk.left job=%s code=%s %s", self.hold.lease.job, error.code, error)
            self.give_back(_SOON)
        except Exception:
            logger.exception("chunk.left job=%s chunk=%d", self.hold.lease.job, self.hold.lease.chunk)
            self.give_back(_LATER)
        finally:
            await self._close()

    def _is_over(self) -> bool:
        if self._tasks:
            return False
        plan = self._plan
        if self.is_ending or plan is None or not plan.open:
            return True
        if plan.ready:
            return False
        if plan.next_due is None:
            self._delay = _SOON  # those that they wait for are in other hands
        return True

    async def _close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        hold = self.hold
        was_lost, hold.is_over = hold.is_lost, True
        if was_lost or (self._plan is not None and not self._plan.open):
            return
        # Nobody renews it any more: if the store does not come back, it lapses.
        until = self._loop.time() + hold.claim.ttl
        await patiently(
            lambda: self._tools.store.claims.release([hold.lease], delay=self._delay),
            lambda: self._loop.time() < until,
        )

    async def _open(self) -> None:
        """Reads the items, and sees what there is to do."""
        inputs, claim = self._tools.store.inputs, self.hold.claim
        job, items = await self.ask(lambda: inputs.around(claim))
        kind = self._tools.kinds.get(job.kind)
        if kind is None:
            raise Unready(f"This worker knows no jobs of the kind {job.kind!r}.")
        try:
            given = kind.batch(job, items)
            given = msgspec.structs.replace(given, batch=given.judge.batch(given.batch))
            plan = await self._planned(job, given)
        except BatchError as error:
            await self._refuse_all(error)
            return
        self._given = given
        self._attempts = Attempts(job, given, plan, self._tools)
        self._plan = plan
        self.settle_unsent(plan.fill(self._loop.time()))
        self.touch()

    async def _planned(self, job: Job, given: JobBatch) -> Plan:
        claim, results = self.hold.claim, self._tools.store.results
        settled = claim.settled
        if len(given.seqs) > claim.n:
            settled = {**await self.ask(lambda: results.settled(job.id)), **settled}
        plan = Plan(
            given,
            given.upstream or job.endpoint,
            open_seqs=claim.open_seqs,
            settled=settled,
            parked=claim.parked,
            now=self._loop.time(),
        )
        sources = plan.sources
        for start in range(0, len(sources), _SOURCES):
            plan.recall(await self.ask(partial(results.of, job.id, sources[start : start + _SOURCES])))
        return plan

    async def _refuse_all(self, error: BatchError) -> None:
        """The items are no batch: each of them is an error that says why."""
        results = [
            ItemResult(
                seq=seq,
                outcome=Outcome.ERROR,
                status=error.status,
                failure=error.code,
                detail=error.detail,
                attempts=0,
                finished_at=self._tools.time.now(),
            )
            for seq in self.hold.claim.open_seqs
        ]
        verdict = await self._tools.checkpointer.settle(self.hold.lease, *results)
        if verdict.held:
            self.hold.is_over = True
        self.is_ending = True

    # Items

    async def _do(self, start: Start) -> None:
        """One item, from its place to its checkpoint."""
        is_left = False
        try:
            is_left = not await self._attempts.make(self, start)
        except asyncio.CancelledError:
            is_left = True
        except StoreError as error:
            logger.error("item.left job=%s seq=%d code=%s %s", self.hold.lease.job, start.seq, error.code, error)
            is_left = True
            self.give_back(_SOON)
        except Exception:
            logger.exception("item.left job=%s seq=%d", self.hold.lease.job, start.seq)
            is_left = True
            self.give_back(_LATER)
        finally:
            if is_left and self._plan is not None:
                self._plan.put_back(start)
            self._tools.gates[start.upstream].leave()
            self.busy -= 1

    def settle_unsent(self, results: Sequence[Result]) -> None:
        if results:
            self._spawn(self._write_unsent(results), None)

    async def _write_unsent(self, results: Sequence[Result]) -> None:
        """Items that never begin: refused ones, and those that depend on one that failed."""
        given, now = self._given, self._tools.time.now()
        kept = [
            msgspec.structs.replace(
                item_result(each, seq=given.seqs[each.index], custom_id=given.batch.items[each.index].id, attempts=0),
                finished_at=now,
            )
            for each in results
        ]
        try:
            verdict = await self._tools.checkpointer.settle(self.hold.lease, *kept)
        except StoreError as error:
            logger.error("chunk.left job=%s code=%s %s", self.hold.lease.job, error.code, error)
            self.give_back(_SOON)
            return
        if not verdict.held:
            self.lose()
            return
        if self._plan is not None:
            self._plan.note(results)
        for each in results:
            self._tools.tell(ItemEnded(given.batch, given.batch.items[each.index], each, 0.0, {}))

    # Its parts

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """What the store says, however long that takes, unless the work ends."""
        return await patiently(call, lambda: not self.is_ending)

    def _spawn(self, coroutine: Coroutine[Any, Any, None], start: Start | None) -> None:
        task = self._loop.create_task(coroutine, name="batchproxy item of a job")
        self._tasks[task] = start
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self.touch()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("chunk.left job=%s", self.hold.lease.job, exc_info=error)
            self.give_back(_LATER)

    def touch(self) -> None:
        """Something has happened."""
        self.progress = self._loop.time()
        self._changed.set()
        self._tools.wake()
