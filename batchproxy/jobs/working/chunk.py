"""The work on one chunk: its items are begun when the worker has a place, and their places held until what became of
them is committed.

Knows: one lease, its items, their tasks. Must not know: other chunks, when leases are renewed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from ...engine.errors import BatchError
from ...engine.events import ItemEnded, Observer
from ...engine.model import SAFE_METHODS, Item, Result
from ...engine.target import AppTarget, Budget
from ..store import (
    Checkpointer,
    Claim,
    ItemResult,
    Job,
    JobStore,
    NotFound,
    Outcome,
    Parked,
    StoreError,
    item_result,
)
from .backoff import Ruling, is_repeatable, pause, retry_after, ruling
from .holds import Hold, StoreTime
from .kinds import JobBatch, JobKind, Unready
from .outages import patiently
from .plan import Plan, Start, detail_of
from .sending import Sending, Tails
from .settings import WorkSettings
from .upstreams import Gates

logger = logging.getLogger("batchproxy")

T = TypeVar("T")

_LATER = 30.0
"""How long a chunk is left alone with which something is wrong."""
_SOON = 1.0
_SOURCES = 8
"""From how many answers at once values are taken that others wait for: each may be large."""
_SHORT_REST = 2.0
"""What limits make others wait for is no rest."""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What all work of one worker has in common. `wake` tells it that something may be begun, or has ended."""

    store: JobStore
    kinds: Mapping[str, JobKind]
    settings: WorkSettings
    checkpointer: Checkpointer
    gates: Gates
    tails: Tails
    time: StoreTime
    wake: Callable[[], None]
    observers: Sequence[Observer] = ()


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
        self._job: Job
        self._target: AppTarget
        self._ending = False
        self._delay = 0.0
        self._tasks: dict[asyncio.Task[None], Start | None] = {}
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"ChunkWork({self.hold!r}, busy={self.busy}, {self._plan!r})"

    @property
    def ready(self) -> int:
        """How many items could be begun at once; as long as it is not known, all that are open."""
        if self._ending:
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
        return None if self._plan is None or self._ending else self._plan.next_due

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
        if plan is None or self._ending or not self.hold.is_sure or self.busy >= self._given.policy.concurrency:
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
        self._ending = True
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
        if self._ending or plan is None or not plan.open:
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
        job, items = await self._ask(lambda: inputs.around(claim))
        self._job = job
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
        most = given.policy.max_response_bytes
        concurrency = min(given.policy.concurrency, self._tools.settings.concurrency)
        self._given = given
        self._target = AppTarget(
            given.entry,
            given.connection,
            given.batch,
            max_response_bytes=most,
            budget=Budget(most * concurrency, final=False),
        )
        self._plan = plan
        self._settle_unsent(plan.fill(self._loop.time()))
        self._touch()

    async def _planned(self, job: Job, given: JobBatch) -> Plan:
        claim, results = self.hold.claim, self._tools.store.results
        settled = claim.settled
        if len(given.seqs) > claim.n:
            settled = {**await self._ask(lambda: results.settled(job.id)), **settled}
        plan = Plan(
            given,
            job.endpoint,
            open_seqs=claim.open_seqs,
            settled=settled,
            parked=claim.parked,
            now=self._loop.time(),
        )
        sources = plan.sources
        for start in range(0, len(sources), _SOURCES):
            plan.recall(await self._ask(partial(results.of, job.id, sources[start : start + _SOURCES])))
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
        self._ending = True

    # Items

    async def _do(self, start: Start) -> None:
        """One item, from its place to its checkpoint."""
        is_left = False
        try:
            is_left = not await self._attempt(start)
        except asyncio.CancelledError:
            is_left = True
        except StoreError as error:
            logger.error("item.left job=%s seq=%d code=%s %s", self._job.id, start.seq, error.code, error)
            is_left = True
            self.give_back(_SOON)
        except Exception:
            logger.exception("item.left job=%s seq=%d", self._job.id, start.seq)
            is_left = True
            self.give_back(_LATER)
        finally:
            if is_left and self._plan is not None:
                self._plan.put_back(start)
            self._tools.gates[start.upstream].leave()
            self.busy -= 1

    async def _attempt(self, start: Start) -> bool:
        """Whether it is known what became of the item, or it waits for another attempt; committed."""
        checkpointer, lease = self._tools.checkpointer, self.hold.lease
        repeatable = is_repeatable(start.item, self._given.delivery)
        if self.is_suspect:
            if not await self._ask(lambda: self._tools.store.claims.blame(lease)):
                self.lose()
                return False
            if self._ending or not self.hold.is_sure:
                return False
        if not repeatable:
            if not (await checkpointer.intend(lease, start.seq)).held:
                self.lose()
                return False
            if self._ending or not self.hold.is_sure:
                await checkpointer.withdraw(lease, start.seq)
                return False
        began, began_at = self._loop.time(), self._tools.time.now()
        sending = self._sending(start, repeatable=repeatable)
        start.is_sending = True
        try:
            result = await sending.answer()
        finally:
            start.is_sending = False
        self._touch()
        start.attempts += 1
        try:
            what = ruling(result, sending.notes, repeatable=repeatable)
            due_in = self._due_in(start, what, result)
            if due_in is None:
                return await self._settle(start, result, began_at, sending.notes, self._loop.time() - began)
            if what is Ruling.REFUSED:
                await self._rest(start, result, due_in, sending.notes)
            return await self._park(start, result, due_in)
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

    async def _park(self, start: Start, result: Result, due_in: float) -> bool:
        now = self._loop.time()
        parked = Parked(
            start.seq, start.attempts, due_in, detail_of(start.failures, str(result.failure or result.status))
        )
        if not (await self._tools.checkpointer.park(self.hold.lease, parked)).held:
            self.lose()
            return False
        if self._plan is not None:
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
        self, start: Start, result: Result, began_at: float, notes: Mapping[str, Any], elapsed: float
    ) -> bool:
        kept = msgspec.structs.replace(
            item_result(result, seq=start.seq, custom_id=start.item.id, attempts=start.attempts),
            started_at=began_at,
            finished_at=self._tools.time.now(),
        )
        if not (await self._tools.checkpointer.settle(self.hold.lease, kept)).held:
            self.lose()
            return False
        here = msgspec.structs.replace(result, index=start.index)
        self._tell(ItemEnded(self._given.batch, start.item, here, elapsed, notes))
        if self._plan is not None:
            self._settle_unsent(self._plan.settle(here, self._loop.time()))
        return True

    def _settle_unsent(self, results: Sequence[Result]) -> None:
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
            logger.error("chunk.left job=%s code=%s %s", self._job.id, error.code, error)
            self.give_back(_SOON)
            return
        if not verdict.held:
            self.lose()
            return
        if self._plan is not None:
            self._plan.note(results)
        for each in results:
            self._tell(ItemEnded(given.batch, given.batch.items[each.index], each, 0.0, {}))

    # Its parts

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        return await patiently(call, lambda: not self._ending)

    def _spawn(self, coroutine: Coroutine[Any, Any, None], start: Start | None) -> None:
        task = self._loop.create_task(coroutine, name="batchproxy item of a job")
        self._tasks[task] = start
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._touch()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("chunk.left job=%s", self._job.id, exc_info=error)
            self.give_back(_LATER)

    def _touch(self) -> None:
        self.progress = self._loop.time()
        self._changed.set()
        self._tools.wake()

    def _tell(self, event: ItemEnded) -> None:
        for observer in self._tools.observers:
            if event.result.status < 400 and getattr(observer, "only_failures", False):
                continue
            try:
                observer.item_ended(event)
            except Exception:
                logger.exception("observer.failed observer=%s", type(observer).__name__)


def _has_key(item: Item) -> bool:
    return any(name == b"idempotency-key" for name, _ in item.headers)
