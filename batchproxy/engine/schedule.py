"""Which items may start now, and which never will: pure decisions, no await.

`take` gives the next item that may start; `settle` is told what became of one, and gives the results of those that can
no longer run. Without dependencies it costs next to nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush

from .errors import Failure, Invalid
from .model import SAFE_METHODS, Batch, Execution, Item, OnError, Result, failed

# An access to a member costs as much as a call.
_ORDERED_WRITES, _SEQUENTIAL, _STOP = Execution.ORDERED_WRITES, Execution.SEQUENTIAL, OnError.STOP


class Schedule:
    """The order of one batch. Raises `Invalid` for a cycle (spelled out) or too long a chain of dependencies."""

    def __init__(self, batch: Batch, *, max_depth: int = 32) -> None:
        items = batch.items
        self._items = items
        self._orders_writes = batch.options.execution is _ORDERED_WRITES
        self._is_sequential = batch.options.execution is _SEQUENTIAL
        self._stops = batch.options.on_error is _STOP
        self._missing: dict[int, int] = {}
        self._dependants: dict[int, list[int]] = {}
        waiting = [item for item in items if item.after]
        if waiting:
            self._connect(waiting)
            _check_order(items, self._dependants, dict(self._missing), max_depth)
        # Both in request order: those that could start from the beginning, and those whose dependencies have settled.
        self._writes: deque[int] = deque()
        self._freed_reads: list[int] = []
        self._freed_writes: list[int] = []
        if self._orders_writes:
            self._reads = deque([item.index for item in items if not item.after and item.method in SAFE_METHODS])
            self._writes.extend([item.index for item in items if not item.after and item.method not in SAFE_METHODS])
        elif waiting:
            self._reads = deque([item.index for item in items if not item.after])
        else:
            self._reads = deque(range(len(items)))
        # Nothing decides but the order of the requests: the rule, and then nearly free.
        self._is_plain = not (self._orders_writes or self._is_sequential or waiting or self._stops)
        self._running = 0
        self._writing = False
        self.unsettled = len(items)

    def __repr__(self) -> str:
        startable = sorted([*self._reads, *self._writes, *self._freed_reads, *self._freed_writes])
        return f"Schedule(startable={startable}, waiting={sorted(self._missing)}, unsettled={self.unsettled})"

    def _connect(self, waiting: list[Item]) -> None:
        for item in waiting:
            self._missing[item.index] = len(item.after)
            for before in item.after:
                self._dependants.setdefault(before, []).append(item.index)

    def take(self) -> int | None:
        """The index of the next item that may start: the first one in request order. It counts as running."""
        if self._is_plain:
            return self._reads.popleft() if self._reads else None
        if self._is_sequential and self._running:
            return None
        index = self._next_read_or_write()
        if index is not None:
            self._running += 1
        return index

    def _next_read_or_write(self) -> int | None:
        read = _first(self._reads, self._freed_reads)
        write = None if self._writing else _first(self._writes, self._freed_writes)
        if read is not None and (write is None or read < write):
            return _pop_first(self._reads, self._freed_reads)
        if write is None:
            return None
        self._writing = True
        return _pop_first(self._writes, self._freed_writes)

    def put_back(self, index: int) -> None:
        """An item that was taken could not start after all; it is the next again."""
        if self._is_plain:
            self._reads.appendleft(index)
            return
        self._running -= 1
        if self._is_ordered_write(index):
            self._writing = False
            heappush(self._freed_writes, index)
        else:
            heappush(self._freed_reads, index)

    def settle(self, result: Result) -> Sequence[Result]:
        """A running item ended: the results of the items that will not run because of it."""
        self.unsettled -= 1
        if self._is_plain:
            return ()
        self._running -= 1
        index = result.index
        if self._writing and self._is_ordered_write(index):
            self._writing = False
        if result.status < 400:
            self._free_dependants(index)
            return ()
        skipped = self._skip_dependants(index)
        if self._stops:
            skipped += self.abandon(Failure.STOPPED, "An earlier item failed, and the batch stops on an error.")
        return skipped

    def abandon(self, failure: Failure, detail: str) -> list[Result]:
        """Nothing new starts: the results of all items that have not begun."""
        left = sorted([*self._reads, *self._writes, *self._freed_reads, *self._freed_writes, *self._missing])
        for queue in (self._reads, self._writes, self._freed_reads, self._freed_writes, self._missing):
            queue.clear()
        self.unsettled -= len(left)
        return [failed(index, failure, detail) for index in left]

    def _is_ordered_write(self, index: int) -> bool:
        return self._orders_writes and self._items[index].method not in SAFE_METHODS

    def _free_dependants(self, index: int) -> None:
        for dependant in self._dependants.pop(index, ()):
            missing = self._missing.get(dependant)
            if missing is None:
                continue
            if missing > 1:
                self._missing[dependant] = missing - 1
                continue
            del self._missing[dependant]
            heappush(self._freed_writes if self._is_ordered_write(dependant) else self._freed_reads, dependant)

    def _skip_dependants(self, index: int) -> list[Result]:
        skipped: list[Result] = []
        doomed = deque([index])
        while doomed:
            source = doomed.popleft()
            for dependant in self._dependants.pop(source, ()):
                if self._missing.pop(dependant, None) is None:
                    continue
                skipped.append(
                    failed(dependant, Failure.DEPENDENCY_FAILED, f"{_named(self._items[source])} did not succeed.")
                )
                doomed.append(dependant)
        self.unsettled -= len(skipped)
        return skipped


def _first(from_start: deque[int], freed: list[int]) -> int | None:
    if from_start:
        return from_start[0] if not freed or from_start[0] < freed[0] else freed[0]
    return freed[0] if freed else None


def _pop_first(from_start: deque[int], freed: list[int]) -> int:
    if from_start and (not freed or from_start[0] < freed[0]):
        return from_start.popleft()
    return heappop(freed)


def _named(item: Item) -> str:
    return f"Item {item.index}" if item.id is None else f"Item `{item.id}`"


def _check_order(
    items: tuple[Item, ...], dependants: dict[int, list[int]], missing: dict[int, int], max_depth: int
) -> None:
    """Walks the items level by level (Kahn's algorithm); what is never reached lies on or behind a cycle."""
    level = [item.index for item in items if not item.after]
    depth = 0
    while level:
        following: list[int] = []
        for index in level:
            for dependant in dependants.get(index, ()):
                missing[dependant] -= 1
                if not missing[dependant]:
                    del missing[dependant]
                    following.append(dependant)
        depth += bool(following)
        if depth > max_depth:
            raise Invalid(
                f"Items may wait for each other {max_depth} deep; this chain is longer.",
                pointer=f"/requests/{min(following)}",
            )
        level = following
    if missing:
        raise _cycle(items, missing)


def _cycle(items: tuple[Item, ...], left: dict[int, int]) -> Invalid:
    """Follows one unmet dependency after another until an item comes again."""
    index, trail = min(left), []
    while index not in trail:
        trail.append(index)
        index = next(before for before in items[index].after if before in left)
    cycle = [*trail[trail.index(index) :], index]
    # Spelled in the direction of waiting, from its first item in request order.
    start = cycle.index(min(cycle[:-1]))
    cycle = [*cycle[start:-1], *cycle[:start], cycle[start]]
    names = [items[each].id or str(each) for each in cycle]
    return Invalid(
        f"Items wait for each other: {' → '.join(names)}.",
        code="dependency_cycle",
        pointer=f"/requests/{cycle[0]}/{'depends_on' if items[cycle[0]].template is None else 'vars'}",
    )
