"""How many requests run at once at one upstream, and who waits for a place.

Knows: places, and a bounded queue in order of arrival. Must not know: addresses, requests.
"""

from __future__ import annotations

import asyncio
from collections import deque

from .transports import OVERLOADED, TOTAL_TIMEOUT, UpstreamError


class Places:
    """At most `limit` hold a place, at most `queue` wait for one.

    A place is taken with `take`, or if there is none at once, with `wait`; then it is given back with `give_back`.
    """

    __slots__ = ("_waiting", "limit", "queue", "used")

    def __init__(self, limit: int, queue: int) -> None:
        self.limit = limit
        self.queue = queue
        self.used = 0
        self._waiting: deque[asyncio.Future[bool]] = deque()

    def __repr__(self) -> str:
        return f"Places({self.limit}, queue={self.queue}, used={self.used}, waiting={self.waiting})"

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def take(self) -> bool:
        """Whether a place was free. None is while somebody waits: then each goes from hand to hand."""
        if self.used >= self.limit:
            return False
        self.used += 1
        return True

    async def wait(self, deadline: float | None) -> None:
        """Returns with a place. Raises `UpstreamError` if the queue is full, or at the deadline."""
        if len(self._waiting) >= self.queue:
            raise UpstreamError(OVERLOADED, f"all {self.limit} places are taken, and {self.queue} requests wait")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(waiter)
        timer = None if deadline is None else loop.call_at(deadline, self._too_late, waiter)
        try:
            has_place = await waiter
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not waiter.cancelled() and waiter.result():
                # It was granted and cancelled in the same turn of the loop.
                self.give_back()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if not has_place:
            raise UpstreamError(TOTAL_TIMEOUT, "no place became free in time")

    def give_back(self) -> None:
        """To whoever has waited longest, if anybody."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(True)
                return
        self.used -= 1

    def _too_late(self, waiter: asyncio.Future[bool]) -> None:
        if not waiter.done():
            self._waiting.remove(waiter)
            waiter.set_result(False)
