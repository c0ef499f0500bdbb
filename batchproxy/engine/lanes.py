"""Serial routes: of the items of a batch that take one, one runs at a time, in the order in which they came.

Pure decisions, no await. Must not know: what else keeps an item from running.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from .routing import Route


class Indexed(Protocol):
    @property
    def index(self) -> int: ...


T = TypeVar("T", bound=Indexed)
"""An item, or whatever stands for one."""


class Lanes(Generic[T]):
    """The lanes of one batch; `lane_of` says which an item takes, if any. `following` are those whose turn has come."""

    __slots__ = ("_lane_of", "_occupied", "_waiting", "following")

    def __init__(self, lane_of: Callable[[T], Route | None]) -> None:
        self._lane_of = lane_of
        self._occupied: dict[int, Route] = {}
        self._waiting: dict[Route, deque[T]] = {}
        self.following: deque[T] = deque()

    def enter(self, item: T) -> bool:
        """Whether the item may run; if another one of its lane does, it waits here."""
        lane = self._lane_of(item)
        if lane is None:
            return True
        if lane in self._waiting:
            self._waiting[lane].append(item)
            return False
        self._waiting[lane] = deque()
        self._occupied[item.index] = lane
        return True

    def leave(self, index: int) -> None:
        """An item has ended; the next one of its lane follows."""
        lane = self._occupied.pop(index, None)
        if lane is None:
            return
        waiting = self._waiting[lane]
        if not waiting:
            del self._waiting[lane]
            return
        following = waiting.popleft()
        self._occupied[following.index] = lane
        self.following.append(following)

    def clear(self) -> list[T]:
        """Those that wait, or whose turn has come: they are not held here any more."""
        held = [*self.following, *(item for lane in self._waiting.values() for item in lane)]
        self.following.clear()
        for lane in self._waiting.values():
            lane.clear()
        return held
