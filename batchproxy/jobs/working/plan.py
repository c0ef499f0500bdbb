"""Which items of a chunk may be begun now: what the engine's schedule says, and what is known from before.

What has a result already is settled again in its turn, so that whoever depends on it starts, or does not, as if nothing
had happened in between.

Knows: order, dependencies, values, lanes, parked items. Must not know: stores, time but as a number; no await.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import heappop, heappush

import msgspec

from ...engine.errors import Failure
from ...engine.lanes import Lanes
from ...engine.model import Item, OnError, Refusal, Result, failed
from ...engine.references import Values, complete
from ...engine.schedule import Schedule
from ..store import ItemResult, Outcome, Parked, Settled
from .kinds import JobBatch
from .upstreams import upstream_of

logger = logging.getLogger("batchproxy")


class Start(msgspec.Struct, eq=False, gc=False):
    """An item that is to be begun, its values put in. `attempts` were made before, of which `failures` failed."""

    index: int
    seq: int
    item: Item
    upstream: str
    attempts: int = 0
    failures: int = 0
    is_sending: bool = False


class Plan:
    """Made of a batch that has been judged. `open_seqs` are the items that are to be done here.

    `settled` are those that have a result, and `earlier` these results of those from which values are taken. Raises
    `BatchError` if the batch cannot be scheduled.
    """

    def __init__(
        self,
        given: JobBatch,
        endpoint: str,
        *,
        open_seqs: Collection[int],
        settled: Mapping[int, Settled],
        parked: Mapping[int, Parked],
        now: float,
    ) -> None:
        batch, policy = given.batch, given.policy
        self._batch = batch
        self._seqs = given.seqs
        self._policy = policy
        self._judge = given.judge
        self._endpoint = endpoint
        self._schedule = Schedule(batch, max_depth=policy.max_dependency_depth)
        self._values = Values(batch.items, policy)
        self._settled = settled
        self._open = set(open_seqs)
        self._parked = {seq: (now + each.due_in, each) for seq, each in parked.items()}
        self._ready: dict[str, deque[Start]] = {}
        self._waiting: list[tuple[float, int, Start]] = []
        self._lanes: Lanes[Start] | None = None
        if given.judge.has_lanes:
            self._lanes = Lanes(lambda start: given.judge.lane(start.item))

    def __repr__(self) -> str:
        return f"Plan(open={len(self._open)}, ready={self.ready}, waiting={len(self._waiting)})"

    @property
    def open(self) -> Collection[int]:
        """The items without a result."""
        return self._open

    @property
    def ready(self) -> int:
        """How many items could be begun, if their upstreams let them."""
        return sum(map(len, self._ready.values()))

    @property
    def upstreams(self) -> list[str]:
        """Those of the items that could be begun."""
        return [name for name, queue in self._ready.items() if queue]

    @property
    def next_due(self) -> float | None:
        """When the next item that waits for another attempt may be begun."""
        return self._waiting[0][0] if self._waiting else None

    @property
    def sources(self) -> list[int]:
        """The settled items from whose answers others take values."""
        wanted = [self._seqs[index] for index in self._values.sources]
        return [seq for seq in wanted if seq in self._settled and self._settled[seq].outcome is Outcome.OK]

    def recall(self, earlier: Sequence[ItemResult]) -> None:
        """The answers of `sources`, or of some of them."""
        for each in earlier:
            index = bisect_left(self._seqs, each.seq)
            self._take_values(Result(index, each.status, each.headers, each.body))

    def fill(self, now: float) -> list[Result]:
        """Sees what may be begun; the results of items that never will be."""
        unsent: list[Result] = []
        while (index := self._schedule.take()) is not None:
            unsent += self._placed(index, now)
        return unsent

    def next(self, now: float, enter: Callable[[str], bool]) -> Start | None:
        """The next item to be begun, of an upstream that may be entered; then it has been."""
        while self._waiting and self._waiting[0][0] <= now:
            self._put(heappop(self._waiting)[2])
        for name, queue in self._ready.items():
            if queue and enter(name):
                return queue.popleft()
        return None

    def put_back(self, start: Start) -> None:
        """An item that was not begun after all, or of which nothing is known."""
        if start.seq in self._open:
            self._ready.setdefault(start.upstream, deque()).appendleft(start)

    def park(self, start: Start, due: float) -> None:
        """An item that is tried again later; whoever waits for it goes on waiting."""
        heappush(self._waiting, (due, start.index, start))

    def settle(self, result: Result, now: float) -> list[Result]:
        """The result of an item is committed: the results of those that will not be begun because of it."""
        self._open.discard(self._seqs[result.index])
        if result.status < 400 and result.index in self._values.sources:
            self._take_values(result)
        skipped = self._settle(result)
        self._leave_lane(result.index)
        return [*skipped, *self.fill(now)]

    def note(self, results: Sequence[Result]) -> None:
        """Items that never began have their results."""
        self._open.difference_update(self._seqs[each.index] for each in results)

    def _placed(self, index: int, now: float) -> list[Result]:
        seq = self._seqs[index]
        known = self._settled.get(seq)
        if known is not None:
            is_ok = known.outcome is Outcome.OK and known.status < 400
            return self._settle(Result(index, known.status if is_ok else max(known.status, 400)))
        if seq not in self._open:
            return []  # somebody else does it, and whoever waits for it is to wait
        item = self._completed(index)
        if isinstance(item, Refusal):
            result = failed(index, item.failure, item.detail)
            return [result, *self._settle(result)]
        start = Start(index, seq, item, upstream_of(item, self._batch.caller, self._policy, self._endpoint))
        if self._lanes is None or self._lanes.enter(start):
            self._admit(start, now)
        return []

    def _completed(self, index: int) -> Item | Refusal:
        if index in self._batch.refused:
            return self._batch.refused[index]
        item = self._batch.items[index]
        if item.template is None:
            return item
        try:
            completed = complete(item, self._values, self._batch.caller, self._policy)
            return completed if isinstance(completed, Refusal) else self._judge.item(completed) or completed
        except Exception:
            # A defect of ours; it must not keep the job from its end.
            logger.exception("item.failed batch=%s index=%d", self._batch.id, self._seqs[index])
            return Refusal(Failure.APP_ERROR, "The item could not be completed.")

    def _admit(self, start: Start, now: float) -> None:
        due, parked = self._parked.pop(start.seq, (now, None))
        if parked is not None:
            start.attempts, start.failures = parked.attempt, failures_of(parked.detail)
        if due > now:
            heappush(self._waiting, (due, start.index, start))
        else:
            self._put(start)

    def _put(self, start: Start) -> None:
        self._ready.setdefault(start.upstream, deque()).append(start)

    def _settle(self, result: Result) -> list[Result]:
        if result.status >= 400 and self._batch.options.on_error is OnError.STOP:
            self._take_back()
        skipped = self._schedule.settle(result)
        return [each for each in skipped if self._seqs[each.index] in self._open]

    def _take_back(self) -> None:
        """What has not begun goes back into the schedule, which is about to abandon it."""
        starts = [start for queue in self._ready.values() for start in queue]
        starts += [start for _, _, start in self._waiting]
        if self._lanes is not None:
            starts += self._lanes.clear()
        for queue in self._ready.values():
            queue.clear()
        self._waiting.clear()
        for start in starts:
            self._schedule.put_back(start.index)

    def _take_values(self, result: Result) -> None:
        try:
            self._values.take(result)
        except Exception:
            # A defect of ours; whoever needs the values fails, and the job goes on.
            logger.exception("item.failed batch=%s index=%d", self._batch.id, self._seqs[result.index])

    def _leave_lane(self, index: int) -> None:
        if self._lanes is not None:
            self._lanes.leave(index)
            while self._lanes.following:
                self._admit(self._lanes.following.popleft(), 0.0)


def detail_of(failures: int, text: str) -> str:
    """What is kept with an item that waits for another attempt."""
    return f"{failures} failed; {text}"


def failures_of(detail: str) -> int:
    """How many attempts have failed, other than by an overload."""
    number = detail.partition(" ")[0]
    return int(number) if number.isdigit() else 0
