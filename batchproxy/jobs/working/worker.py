"""The worker: claims work, keeps its leases, and gives its places to the chunks that it has.

Knows: how much it may do at once, and what it has. Must not know: what is done with a chunk (`chunk.py`) or at the
stages of a job (`stage.py`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from types import TracebackType

from ...engine.events import Observer
from ..store import WORK, Claim, JobStore, Kind, Lease, StoreBusy, StoreError, StoreFull, StoreUnreachable
from .chunk import ChunkWork
from .kinds import JobKind
from .outages import Outage, repeated
from .presence import Presence
from .sending import Tails
from .settings import WorkSettings
from .stage import StageWork
from .tools import Tools
from .upstreams import Gates

logger = logging.getLogger("batchproxy")

_BEAT = 10.0
_LEAST_PAUSE = 0.05
_MOST_BYTES = 64 * 1024 * 1024
"""With so many bytes of items at hand nothing more is claimed, however many chunks that are: those of jobs whose items
wait for each other may be large."""
_LAST_COMMITS = 2.0
"""How long at most a worker that ends waits for checkpoints, once nothing runs any more."""


class JobWorker:
    """Works on the jobs of `store`, as long as its block lasts; then it hands over what it has.

        async with JobWorker(store, [kind], WorkSettings(concurrency=16)) as worker:
            await worker.asked_to_stop.wait()

    Everything that fails on its way is tried again: it stops only when it is left. `asked_to_stop` is set when somebody
    has asked for that through the store (`store.workers.drain`); it has begun to hand over then.
    """

    def __init__(
        self,
        store: JobStore,
        kinds: Iterable[JobKind],
        settings: WorkSettings | None = None,
        *,
        observers: Sequence[Observer] = (),
        version: str = "",
    ) -> None:
        self.asked_to_stop = asyncio.Event()
        self._store = store
        self._settings = settings or WorkSettings()
        self._kinds = {kind.name: kind for kind in kinds}
        self._observers = tuple(observers)
        self._presence = Presence(store, version)
        self._works: dict[Lease, ChunkWork | StageWork] = {}
        self._tasks: dict[asyncio.Task[None], ChunkWork | StageWork] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._is_draining = False
        self._has_work = asyncio.Event()
        self._next_probe = self._next_look = 0.0
        self._may_be_more = True
        self._claiming = asyncio.Lock()
        self._pumping = False
        self._is_quiet = False
        self._lacks_stages = False
        self._timer: asyncio.TimerHandle | None = None
        self._stack = AsyncExitStack()
        self._tools: Tools
        self._loop: asyncio.AbstractEventLoop

    def __repr__(self) -> str:
        return f"JobWorker({self.id}, chunks={len(self._chunks)}, busy={self._busy}, draining={self._is_draining})"

    @property
    def id(self) -> str:
        """Empty as long as the store could not be reached."""
        return self._presence.id

    async def __aenter__(self) -> JobWorker:
        self._loop = asyncio.get_running_loop()
        store, settings = self._store, self._settings
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._presence.leave)
            tails = Tails(settings.item_timeout)
            stack.push_async_callback(tails.aclose)
            gates = Gates(store, settings.limits, settings.concurrency, self._wake)
            stack.push_async_callback(gates.aclose)
            checkpointer = await stack.enter_async_context(store.checkpointer())
            self._hint = stack.enter_context(store.hints.on(WORK))
            self._tools = Tools(
                store=store,
                kinds=self._kinds,
                settings=settings,
                checkpointer=checkpointer,
                gates=gates,
                tails=tails,
                time=self._presence.time,
                wake=self._wake,
                observers=self._observers,
            )
            with suppress(StoreBusy, StoreFull, StoreUnreachable):  # which is no reason not to start
                await self._register()
            outage = Outage()
            self._loops = [
                self._loop.create_task(repeated(name, once, sleep, outage), name=f"batchproxy jobs: {name}")
                for name, once, sleep in (
                    ("beat", self._beat, asyncio.sleep),
                    ("claim", self._claim, self._hint.wait),
                    ("renew", self._renew, asyncio.sleep),
                    ("watch", self._watch, asyncio.sleep),
                    ("sweep", self._sweep, asyncio.sleep),
                )
            ]
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.drain(self._settings.grace)
        finally:
            try:
                await self._end(self._loops)
            finally:
                if self._timer is not None:
                    self._timer.cancel()
                await self._stack.aclose()

    def know(self, kinds: Iterable[JobKind]) -> None:
        """From now on it works on jobs of these kinds; what it has begun goes on."""
        known = {kind.name: kind for kind in kinds}
        self._kinds.clear()
        self._kinds.update(known)

    async def drain(self, grace: float) -> None:
        """Claims and begins nothing any more; what runs has `grace` seconds, then it is broken off.

        What is left is handed over as soon as nothing of it runs here: others can have it at once.
        """
        self._begin_to_drain()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_COMMITS), self._claiming:
                    pass  # what is just being claimed is handed over as well
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=grace)
            for work in list(self._tasks.values()):
                work.cut()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_LAST_COMMITS)
        finally:
            await self._end(list(self._tasks))

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Cancels them, twice if they take the time to tell a store that does not answer."""
        for _ in range(2):
            left = [task for task in tasks if not task.done()]
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=_LAST_COMMITS)

    def _begin_to_drain(self) -> None:
        self._is_draining = True
        for work in list(self._works.values()):
            work.drain()

    async def _register(self) -> None:
        await self._presence.enter()
        self._tools.gates.worker = self.id

    # What it has

    @property
    def _chunks(self) -> list[ChunkWork]:
        return [work for work in self._works.values() if isinstance(work, ChunkWork)]

    @property
    def _busy(self) -> int:
        return sum(chunk.busy for chunk in self._chunks)

    @property
    def _is_sure(self) -> bool:
        """Whether it can rely on all its leases."""
        return all(work.hold.is_sure or work.hold.is_over for work in self._works.values())

    # Work comes

    async def _claim(self) -> float:
        """Claims what there is room for; the pause until it is worth another try."""
        settings, now = self._settings, time.monotonic()
        poll = settings.poll * random.uniform(0.5, 1.5)
        chunks = self._chunks
        is_full = sum(chunk.hold.claim.size for chunk in chunks) >= _MOST_BYTES
        room = 0 if is_full else settings.chunks - len(chunks)
        # One chunk after another, as long as there are places for what is in it.
        lacking = settings.concurrency - sum(0 if chunk.rests(now) else chunk.ready + chunk.busy for chunk in chunks)
        stages = settings.stages - (len(self._works) - len(chunks))
        kinds = [Kind.VALIDATE, Kind.FINALIZE] if stages > 0 else []
        self._lacks_stages = not kinds
        if room > 0 and (lacking > 0 or now >= self._next_probe):
            kinds = [*kinds, Kind.ITEMS]
        elif room <= 0:
            self._make_room(chunks, now)
        if not kinds:
            return poll
        if Kind.ITEMS not in kinds and now < self._next_look:
            return self._next_look - now  # every chunk that ends gives a hint; few of them are the end of a job
        is_probe = lacking <= 0 and Kind.ITEMS in kinds
        if is_probe:
            self._next_probe = now + poll
        async with self._claiming:
            if self._is_draining or not self.id:
                return poll
            if not self._is_sure:
                # After a time without the store: what it has is renewed first, else it would take it from itself, and
                # what is waiting to be committed would be lost.
                return _LEAST_PAUSE
            claims = await self._store.claims.claim(self.id, 1, kinds=kinds)
            if not claims:
                self._next_look = now + _LEAST_PAUSE
            for claim in claims:
                await self._take(claim, now, is_probe=is_probe)
        if Kind.ITEMS in kinds:
            self._may_be_more = bool(claims)
        if claims and not is_probe:
            return 0.0
        if lacking <= 0 or claims:
            return poll
        due = await self._store.claims.next_due()
        # What is due and was not to be had is in the hands of others.
        return poll if not due else min(max(due, _LEAST_PAUSE), poll)

    async def _take(self, claim: Claim, asked: float, *, is_probe: bool) -> None:
        if claim.lease.kind is not Kind.ITEMS:
            self._start(StageWork(claim, asked, self._tools))
            return
        if is_probe and any(work.hold.lease.job == claim.lease.job for work in self._chunks):
            # There are no places for more of this job; only for one of which nothing is here.
            try:
                await self._store.claims.release([claim.lease])
            except StoreError:
                pass  # nobody else may have it now, so it is kept, and done in its turn
            else:
                return
        self._start(ChunkWork(claim, asked, self._tools))

    def _make_room(self, chunks: Sequence[ChunkWork], now: float) -> None:
        """A chunk whose upstreams want a rest makes room for others."""
        chunk, rest = max(((chunk, chunk.rests(now)) for chunk in chunks), key=lambda pair: pair[1])
        if rest > 0:
            chunk.give_back(rest)

    def _start(self, work: ChunkWork | StageWork) -> None:
        if self._is_draining:
            work.drain()
        self._works[work.hold.lease] = work
        self._has_work.set()
        task = self._loop.create_task(work.run(), name="batchproxy work on a job")
        self._tasks[task] = work
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        work = self._tasks.pop(task)
        # Under the same lease nothing else can have begun: each claim has an epoch of its own.
        del self._works[work.hold.lease]
        if not self._works:
            self._has_work.clear()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("work.left job=%s %s: %s", work.hold.lease.job, type(error).__name__, error)
        if self._lacks_stages and isinstance(work, StageWork):
            self._hint.give()  # what there was to claim meanwhile, nobody told again
        self._wake()

    # Places

    def _wake(self) -> None:
        """Something may be begun, or has ended: in a turn of the loop of its own, so that many endings make one."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._is_draining:
            return
        now = self._loop.time()
        chunks = self._chunks
        self._is_quiet = self._gives_way(chunks, now)
        startable = [
            chunk
            for chunk in chunks
            if not (self._is_quiet or chunk.is_suspect) and (chunk.ready or chunk.next_due is not None)
        ]
        free = self._settings.concurrency - self._busy
        by_owner, by_job = Counter[str](), Counter[str]()
        for chunk in chunks:
            by_owner[chunk.owner] += chunk.busy
            by_job[chunk.hold.lease.job] += chunk.busy
        while free > 0 and startable:
            # From the owner that has least, and there from such a job: the oldest of its chunks.
            chunk = min(startable, key=lambda each: (by_owner[each.owner], by_job[each.hold.lease.job]))
            if not chunk.begin(now):
                startable.remove(chunk)
                continue
            free -= 1
            by_owner[chunk.owner] += 1
            by_job[chunk.hold.lease.job] += 1
        # What is due and could not be begun waits for something else.
        self._arm(min((due for chunk in chunks if (due := chunk.next_due) is not None and due > now), default=None))
        if self._may_be_more and sum(chunk.ready for chunk in chunks) < self._settings.concurrency:
            self._hint.give()

    def _gives_way(self, chunks: Sequence[ChunkWork], now: float) -> bool:
        """Whether nothing else is begun, for the sake of an item with which workers were lost: it runs alone, so that
        nobody is taken for guilty who only was there."""
        suspects = [chunk for chunk in chunks if chunk.is_suspect]
        if any(chunk.busy for chunk in suspects):
            return True
        waiting = [chunk for chunk in suspects if chunk.may_begin and not chunk.rests(now)]
        return any(self._busy or chunk.begin(now) for chunk in waiting)

    def _arm(self, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if when is None else self._loop.call_at(when, self._wake)

    # Leases

    async def _renew(self) -> float:
        """Renews exactly the leases of work that goes on here."""
        await self._has_work.wait()
        works = {lease: work for lease, work in self._works.items() if not work.hold.is_over}
        if not works:
            return _LEAST_PAUSE
        ttl = min(work.hold.claim.ttl for work in works.values())
        now = time.monotonic()
        due = min(work.hold.asked for work in works.values()) + ttl / 3
        if now < due:
            return min(due - now, ttl / 10)
        self._look_for_stuck(works.values(), now)
        works = {lease: work for lease, work in works.items() if not work.hold.is_over}
        asked = time.monotonic()
        renewal = await self._store.claims.renew(works.keys())
        for lease, work in works.items():
            if lease in renewal.renewed:
                work.hold.renewed(asked)
            elif not work.hold.is_over:
                work.lose()
        self._stop(renewal.stopping)
        self._wake()
        return 0.0

    def _look_for_stuck(self, works: Iterable[ChunkWork | StageWork], now: float) -> None:
        """A chunk in which nothing happens, for whatever reason, is not kept: others may do better."""
        for work in works:
            if not isinstance(work, ChunkWork) or work.busy or not work.hold.is_sure:
                continue
            ttl = work.hold.claim.ttl
            if now - work.progress < self._settings.watchdog * ttl:
                continue
            if self._is_quiet or self._busy >= self._settings.concurrency:
                continue  # others have all the places
            if not work.is_refused(now - ttl):
                logger.error("chunk.stuck job=%s chunk=%d %r", work.hold.lease.job, work.hold.lease.chunk, work)
            work.hold.is_over = True
            work.give_back(max(work.rests(now), ttl))

    async def _watch(self) -> float:
        """Begins the end of jobs whose deadline is over, ends the work on those that end, and keeps what is in use."""
        await self._store.ending.expire()
        jobs = {lease.job for lease, work in self._works.items() if isinstance(work, ChunkWork)}
        self._stop(await self._store.jobs.stopping(jobs))
        await self._tools.gates.keep_places()
        return self._settings.watch * random.uniform(0.75, 1.0)

    def _stop(self, jobs: Iterable[str]) -> None:
        ending = set(jobs)
        for lease, work in list(self._works.items()):
            if lease.job in ending:
                work.stop()

    async def _beat(self) -> float:
        """Shows that it lives; learns whether it is to stop."""
        if not self.id:
            await self._register()
        if await self._presence.beat() and not self.asked_to_stop.is_set():
            logger.info("worker.drained worker=%s It was asked to stop.", self.id)
            self._begin_to_drain()
            self.asked_to_stop.set()
        return _BEAT * random.uniform(0.75, 1.0)

    async def _sweep(self) -> float:
        await self._store.retention.sweep()
        return self._settings.sweep * random.uniform(0.75, 1.25)
