"""Runs a batch against a target: the only concurrent loop.

Decides nothing about order (that is `Schedule`) and nothing about bytes (that is the emitter): it starts what may
start, one task for each item, watches the deadlines, and hands on every result as soon as it is released.

Plain asyncio, for it is several times cheaper than task groups: a task each and one future to wake the loop that
writes. One timer serves all deadlines of a batch.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import copy_context
from types import coroutine
from typing import Any, Protocol

from .completion import Completion
from .errors import Failure
from .events import Audience, Observer, log_fault
from .in_flight import InFlight
from .lanes import Lanes
from .model import SAFE_METHODS, Batch, Item, OnError, Refusal, Result, failed
from .policy import Judge, Policy
from .schedule import Schedule
from .settings import KiB
from .target import AppTarget, Call, Exchange

# An item that never suspends costs no turn of the loop: measured, 0.6 to 0.9 µs less.
_EAGER = sys.version_info >= (3, 12)
_Task: Any = asyncio.Task
_NAME = "batchproxy item"

WRITE_AHEAD = 256 * KiB
"""Nothing new starts while this many bytes wait to be written to a slow reader."""
PORTION = 5
"""So many items of a batch start in one turn of the loop; then others are served.

Measured, Starlette behind uvicorn: the p99 of a single request beside batches of 100 is 1.5 times that of one alone; it
was 3.2 times with 16. An item in a batch of 100 costs 5 % more. Through the proxy it is 1.5 to 2 times; with 10 it was
2.3 times.
"""
_EARLY_TURNS = 4
_WATCH_LATER = 0.01
"""Seconds after which a batch begins to look whether its client has left: most have ended by then.

Measured: 40 µs less for such a batch.
"""
_TIMER_RESOLUTION = 0.001


class Emitter(Protocol):
    """Where results go: collected into one answer, or sent each as it comes."""

    backlog: int
    """How many bytes have been put in and not yet been taken by the reader."""

    def begin(self, *, wake: Callable[[], None], leave: Callable[[], None]) -> None:
        """Called once: `wake` asks for a `flush`, `leave` tells that the reader is gone."""

    def put(self, result: Result) -> None:
        """Takes a released result; never waits."""

    async def flush(self) -> None:
        """Writes what was put in; returns when the reader has taken it."""

    async def close(self) -> None:
        """Writes the end, after the last result."""

    def discard(self) -> None:
        """The reader is gone: nothing is written any more."""


@coroutine
def _turn() -> Generator[None, None, None]:
    """One turn of the loop, as `asyncio.sleep(0)` takes it, in one call."""
    yield


class Run:
    """One batch while it runs. Made inside the context that every item gets a copy of.

    `watch` is a call that returns when the client has left; it is made once there is something to wait for.

    Raises `Overloaded` if there is no place for the batch, before anything runs.
    """

    __slots__ = (
        "_alive",
        "_armed",
        "_audience",
        "_awake",
        "_batch",
        "_batch_timeout",
        "_budget",
        "_completion",
        "_concurrency",
        "_context",
        "_deadline",
        "_emitter",
        "_interrupt",
        "_is_written",
        "_item_timeout",
        "_items",
        "_lanes",
        "_loop",
        "_pumping",
        "_refused",
        "_room",
        "_running",
        "_schedule",
        "_share",
        "_take",
        "_target",
        "_tells_all",
        "_timer",
        "_waits",
        "_waker",
        "_watch",
        "_watcher",
        "client_left",
        "succeeded",
    )

    def __init__(
        self,
        batch: Batch,
        schedule: Schedule,
        target: AppTarget,
        emitter: Emitter,
        *,
        policy: Policy,
        judge: Judge,
        in_flight: InFlight,
        watch: Callable[[], Coroutine[Any, Any, None]],
        observers: Sequence[Observer] = (),
    ) -> None:
        self._schedule = schedule
        self._batch = batch
        self._items = batch.items
        self._refused = batch.refused
        self._target = target
        self._take = target.take
        self._budget = target.budget
        self._emitter = emitter
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._concurrency = policy.concurrency
        self._item_timeout = policy.item_timeout
        # Items that have begun and not ended, and those whose tasks have not, which may outlive their items.
        self._running = 0
        self._alive: dict[Exchange, None] = {}
        has_values = [item for item in batch.items if item.template is not None]
        self._completion = Completion(batch, policy, judge) if has_values else None
        self._lanes: Lanes[Item] | None = Lanes(judge.lane) if judge.has_lanes else None
        self._audience = Audience(batch, observers, self._context) if observers else None
        self._tells_all = self._audience is not None and bool(self._audience.hearing_all)
        self.succeeded = 0
        self.client_left = False
        self._is_written = False
        timeout = batch.options.timeout
        self._batch_timeout = policy.batch_timeout if timeout is None else min(timeout, policy.batch_timeout)
        self._deadline = self._loop.time() + self._batch_timeout
        self._timer: asyncio.TimerHandle | None = None
        # When there is something to look at; a timer is set only once there is something to wait for.
        self._armed = self._deadline
        self._watch = watch
        self._watcher: asyncio.Task[None] | None = None
        self._waits = False
        self._pumping = False
        self._waker: asyncio.Future[None] | None = None
        self._awake = False
        # Made when an item waits for it, which few ever do.
        self._room: asyncio.Event | None = None
        self._interrupt: KeyboardInterrupt | None = None
        self._share = in_flight.join(min(policy.concurrency, len(batch.items)), self._pump_soon)
        emitter.begin(wake=self._wake, leave=self.leave)

    async def execute(self) -> None:
        """Runs the batch to its end; returns when the last result is written and no task of an item is left."""
        try:
            self._pump()
            # A few turns of the loop, in which items that never wait come to their end.
            for _ in range(_EARLY_TURNS):
                await _turn()
                if not self._schedule.unsettled:
                    break
            else:
                self._keep_watch()
            while True:
                self._awake = False
                await self._emitter.flush()
                self._tell_of_room()
                if not self._schedule.unsettled and not self._emitter.backlog:
                    break
                if not self._awake:
                    if self._running < self._schedule.unsettled:
                        self._pump_soon()
                    await self._sleep()
            self._share.want_no_more()
            await self._emitter.close()
            self._is_written = True
            if self._alive:
                self._reap()
            while self._alive:
                # Work that the apps do after their answers.
                await self._sleep()
                self._reap()
        finally:
            if self._alive or self._schedule.unsettled or self._watcher is not None:
                await self._clean_up()
            else:
                self._release()
        watcher, self._watcher = self._watcher, None
        if watcher is not None and not watcher.cancelled():
            watcher.result()
        if self._interrupt is not None:
            raise self._interrupt

    def leave(self) -> None:
        """The client left: nothing new starts, safe items are cancelled, others run to their deadline."""
        self.client_left = not self._is_written
        self._emitter.discard()
        self._give_up("The client left.")
        for exchange in self._unended():
            exchange.disconnect()
            if exchange.item.method in SAFE_METHODS or not exchange.begun:
                exchange.fail(Failure.NOT_STARTED, "The client left.")
                # In the turn after, so that the app sees `http.disconnect` first, as it would alone.
                self._loop.call_soon(exchange.cancel)
        self._tell_of_room()
        self._wake()

    def hasten(self, deadline: float) -> None:
        """Moves the batch's deadline forward to this time of the event loop."""
        if deadline < self._deadline:
            self._deadline = deadline
            if deadline < self._armed:
                self._arm(deadline)

    # Starting

    def _pump_soon(self) -> None:
        """Starts what may start, in a turn of the loop of its own: many endings make one turn."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump, context=self._context)

    def _pump(self) -> None:
        self._pumping = False
        share, schedule, lanes = self._share, self._schedule, self._lanes
        now = self._loop.time()
        for _ in range(min(PORTION, self._concurrency - self._running)):
            if self._emitter.backlog > WRITE_AHEAD:
                break
            if lanes is not None and lanes.following:
                if not share.take():
                    break
                self._launch(lanes.following.popleft(), now)
                continue
            index = schedule.take()
            if index is None:
                break
            if index in self._refused:
                refusal = self._refused[index]
                self._settle(failed(index, refusal.failure, refusal.detail))
            elif share.take():
                item = self._items[index]
                if item.template is None and lanes is None:
                    self._launch(item, now)
                else:
                    self._start(item, now)
            else:
                schedule.put_back(index)
                break
        else:
            if self._running < self._concurrency and self._running < schedule.unsettled:
                # Others get their turn before this batch goes on.
                self._pump_soon()
        if share.reserved and not self._pumping:
            share.give_back_unused()

    def _start(self, item: Item, now: float) -> None:
        """Starts an item for which there is a place, if nothing else keeps it from starting."""
        if self._completion is not None and item.template is not None:
            completed = self._completion.of(item)
            if isinstance(completed, Refusal):
                self._share.give_back()
                self._settle(failed(item.index, completed.failure, completed.detail))
                return
            item = completed
        if self._lanes is None or self._lanes.enter(item):
            self._launch(item, now)
        else:
            self._share.give_back()

    def _leave_lane(self, index: int) -> None:
        """An item has ended; another one of its serial route may start."""
        if self._lanes is not None:
            self._lanes.leave(index)
            if self._lanes.following:
                self._pump_soon()

    def _clear_lanes(self) -> None:
        """What waits for its turn goes back into the schedule, which is about to abandon it."""
        if self._lanes is not None:
            for item in self._lanes.clear():
                self._schedule.put_back(item.index)

    def _launch(self, item: Item, now: float) -> None:
        timeout = self._item_timeout
        if item.timeout is not None and item.timeout < timeout:
            timeout = item.timeout
        deadline = now + timeout
        exchange = Exchange(item, self._target, self._ended, now, deadline)
        if deadline < self._armed:
            self._arm(deadline)
        self._running += 1
        self._alive[exchange] = None
        take = self._take
        if take is not None and self._emitter.backlog <= WRITE_AHEAD:
            # Measured: 6 µs less than with a task.
            try:
                if take(exchange, self._go_on):
                    return
            except Exception as fault:
                # A defect of ours; the app is called, if nothing has been sent.
                log_fault(self._batch, item, fault)
                if exchange.untasked is not None:
                    return
        # With a name given, none has to be made: measured, 0.2 µs less. A `partial` of it took 1,900 instructions more.
        coroutine, context = self._drive(exchange, exchange.call), self._context.copy()
        if not _EAGER:
            exchange.task = _Task(coroutine, loop=self._loop, name=_NAME, context=context)
            return
        exchange.task = _Task(coroutine, loop=self._loop, name=_NAME, context=context, eager_start=True)
        if exchange.cancelled:
            # It ended itself in its first, eager step, when there was no task yet to cancel.
            exchange.cancel()

    def _go_on(self, exchange: Exchange, call: Call) -> None:
        """An item that was taken on without a task needs one after all."""
        self._loop.create_task(self._resume(exchange, call), name=_NAME, context=self._context.copy())

    async def _resume(self, exchange: Exchange, call: Call) -> None:
        if exchange.untasked is None:
            return  # it has been given up meanwhile
        # Only now: before its first step a task cannot be cancelled so that it gives back what it holds.
        exchange.task, exchange.untasked = asyncio.current_task(), None
        await self._drive(exchange, call)

    async def _drive(self, exchange: Exchange, call: Call) -> None:
        try:
            # What has begun without a task goes on whoever reads: it holds a place of others.
            if self._emitter.backlog > WRITE_AHEAD and not exchange.begun:
                await self._have_room(exchange)
            if not exchange.done:
                await call()
                if not (exchange.done or exchange.has_reported):
                    log_fault(self._batch, exchange.item, None)
        # An item gets the fate that it would have alone: a server answers whatever the app raises, and lives on.
        except BaseException as raised:
            was_done = exchange.done
            exchange.finish()
            if self._must_go_on(exchange, raised, was_done=was_done):
                raise
        finally:
            if not exchange.done:
                exchange.finish()
            self._let_go(exchange)

    def _let_go(self, exchange: Exchange) -> None:
        del self._alive[exchange]
        if exchange.holds_place:
            self._free_place(exchange)
        if not self._alive:
            self._wake()

    def _free_place(self, exchange: Exchange) -> None:
        exchange.holds_place = False
        self._share.give_back()
        self._leave_lane(exchange.item.index)

    async def _have_room(self, exchange: Exchange) -> None:
        """Waits until the reader has taken what was written; the item's time begins only then."""
        allowed = exchange.deadline - self._loop.time()
        exchange.deadline = float("inf")
        room = self._room = self._room or asyncio.Event()
        while self._emitter.backlog > WRITE_AHEAD and not exchange.done:
            room.clear()
            await room.wait()
        if exchange.done:
            return
        exchange.deadline = self._loop.time() + allowed
        if exchange.deadline < self._armed:
            self._arm(exchange.deadline)

    def _tell_of_room(self) -> None:
        if self._room is not None:
            self._room.set()

    def _must_go_on(self, exchange: Exchange, raised: BaseException, *, was_done: bool) -> bool:
        """Whether what came out of an item's app concerns more than the item; what the app did wrong is logged."""
        if isinstance(raised, asyncio.CancelledError):
            if exchange.cancelled:
                return False
            if exchange.task is not None and exchange.task.cancelling():
                return True
        if isinstance(raised, KeyboardInterrupt):
            self._interrupt = raised
        # What `send` raises when nobody reads any more is no fault of the app.
        if not (was_done and not exchange.has_answered and isinstance(raised, OSError)):
            log_fault(self._batch, exchange.item, raised)
        return False

    # Ending

    def _ended(self, exchange: Exchange, result: Result) -> None:
        self._running -= 1
        if result.failure is None:
            # What the app does after its answer delays nobody. A failed item keeps its place until its task has ended.
            exchange.holds_place = False
            self._share.give_back()
            if self._lanes is not None:
                self._leave_lane(exchange.item.index)
        elif result.failure is Failure.RESPONSE_TOO_LARGE and exchange.untasked is None:
            exchange.cancel()
        if exchange.untasked is not None:
            # There is no task that could do it.
            self._let_go(exchange)
            if result.failure is None:
                exchange.untasked = None
            else:
                exchange.cancel()
        self._settle(result, exchange)

    def _settle(self, result: Result, exchange: Exchange | None = None) -> None:
        emitter, schedule = self._emitter, self._schedule
        if result.status < 400:
            self.succeeded += 1
            if self._completion is not None:
                self._completion.take(result)
            if self._audience is not None and self._tells_all:
                self._tell(self._audience, result, exchange)
        else:
            if self._lanes is not None and self._batch.options.on_error is OnError.STOP:
                self._clear_lanes()
            if self._audience is not None:
                self._tell(self._audience, result, exchange)
        skipped = schedule.settle(result)
        try:
            emitter.put(result)
        except Exception as fault:
            # A result that cannot be written; it must not keep the batch from its end.
            log_fault(self._batch, self._items[result.index], fault)
            emitter.put(failed(result.index, Failure.APP_ERROR, "The answer could not be written."))
        if skipped:
            for each in skipped:
                self._put_unsent(each)
        if self._budget.exhausted:
            self._give_up("The answers of this batch have reached their limit together.")
        if emitter.backlog or not schedule.unsettled:
            self._wake()
        if not self._pumping and self._running < schedule.unsettled:
            self._pump_soon()

    def _give_up(self, detail: str) -> None:
        """Nothing new starts; what has not begun is answered `not_started`."""
        self._clear_lanes()
        for result in self._schedule.abandon(Failure.NOT_STARTED, detail):
            self._put_unsent(result)

    def _put_unsent(self, result: Result) -> None:
        """The result of an item that never began."""
        if self._audience is not None:
            self._tell(self._audience, result, None)
        self._emitter.put(result)

    def _tell(self, audience: Audience, result: Result, exchange: Exchange | None) -> None:
        if exchange is None:
            audience.tell(self._items[result.index], result)
        else:
            elapsed = self._loop.time() - exchange.started
            audience.tell(exchange.item, result, elapsed=elapsed, notes=exchange.notes)

    # Deadlines: the timer is set to the earliest one that may matter, and looks at all items when it fires

    def _arm(self, when: float) -> None:
        self._armed = when
        if not self._waits:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._tick, context=self._context)

    def _tick(self) -> None:
        if self._watcher is None:
            self._watcher = self._loop.create_task(self._watch())
        now = self._loop.time() + _TIMER_RESOLUTION
        if now >= self._deadline:
            self._expire()
            return
        self._reap()
        for exchange in self._unended():
            if exchange.deadline <= now:
                exchange.time_out(
                    Failure.TIMEOUT, "The item did not end before its deadline; whether a write took effect is unknown."
                )
        self._arm(min([self._deadline, *(exchange.deadline for exchange in self._unended())]))

    def _expire(self) -> None:
        self._armed = float("inf")
        self._reap()
        # Decided before the running items end, so that none of the rest starts, or fails, because of them.
        too_late = "The batch's deadline came before the item began."
        self._clear_lanes()
        left = self._schedule.abandon(Failure.NOT_STARTED, too_late)
        for exchange in self._unended():
            if exchange.begun:
                exchange.time_out(
                    Failure.BATCH_TIMEOUT,
                    "The batch's deadline came before the item ended; whether a write took effect is unknown.",
                )
            else:
                exchange.fail(Failure.NOT_STARTED, too_late)
        for result in left:
            self._put_unsent(result)
        self._tell_of_room()
        self._wake()

    def _unended(self) -> list[Exchange]:
        return [exchange for exchange in self._alive if not exchange.done]

    # Waiting

    def _wake(self) -> None:
        self._awake = True
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    def _keep_watch(self) -> None:
        """From now on the deadlines count, and the client may leave: there is something to wait for."""
        self._waits = True
        self._arm(min(self._armed, self._loop.time() + _WATCH_LATER))

    def _reap(self) -> None:
        """Forgets items whose tasks an app has cancelled before they began; they have not ended by themselves."""
        for exchange in [each for each in self._alive if each.task is not None and each.task.done()]:
            exchange.finish()
            self._let_go(exchange)

    async def _sleep(self) -> None:
        self._waker = self._loop.create_future()
        try:
            await self._waker
        finally:
            self._waker = None

    async def _clean_up(self) -> None:
        """Leaves nothing behind: no timer, no task, no place. Our own task may be cancelled, and again meanwhile."""
        self._waits = False
        if self._timer is not None:
            self._timer.cancel()
        self._clear_lanes()
        for result in self._schedule.abandon(Failure.NOT_STARTED, "The server stopped."):
            if self._audience is not None:
                self._tell(self._audience, result, None)
        self._emitter.discard()
        tasks = {exchange.task for exchange in self._alive if exchange.task is not None}
        self._tell_of_room()
        for exchange in self._unended():
            exchange.disconnect()
            exchange.fail(Failure.NOT_STARTED, "The server stopped.")
        if self._watcher is not None:
            self._watcher.cancel()
            tasks.add(self._watcher)
        for exchange in list(self._alive):
            exchange.cancel()
        # An anyio scope cancels us in every turn of the loop. So items are cancelled once, and clean up in peace; and
        # only what has not ended is waited for: `wait` takes a turn even for what has, and would never get it.
        cancelled = False
        while tasks := {task for task in tasks if not task.done()}:
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError:
                cancelled = True
        self._release()
        if cancelled:
            self._watcher = None
            raise asyncio.CancelledError

    def _release(self) -> None:
        """Nothing of this batch goes on."""
        if self._timer is not None:
            self._timer.cancel()
        self._emitter.discard()
        self._share.leave()
        # It leads back to us. So that this batch, and all bodies in it, go at once, and not when the collector comes.
        del self._watch
