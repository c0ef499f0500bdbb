"""How many items run at once in a process, shared fairly between batches, with a bounded queue.

Knows: places and who waits for one. Plain calls on one event loop, no await.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .errors import Overloaded, SettingError


class InFlight:
    """At most `limit` items run at once; at most `queue` more places may be asked for; beyond that, 503.

    Share one object between several middlewares to bound them together. It belongs to one event loop.
    Raises `SettingError`.
    """

    def __init__(self, limit: int = 256, *, queue: int = 1024) -> None:
        for name, value, least in (("limit", limit, 1), ("queue", queue, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SettingError(f"in_flight.{name}", value, f"expected an integer of at least {least}")
        self.limit = limit
        self.queue = queue
        self.used = 0
        self.wanted = 0
        self._waiting: deque[Share] = deque()

    def __repr__(self) -> str:
        return f"InFlight({self.limit}, queue={self.queue}, used={self.used}, waiting={len(self._waiting)})"

    def check(self, places: int = 1) -> None:
        """Raises `Overloaded` if a batch that asks for this many places cannot be taken now."""
        if self.wanted + min(places, self.limit) > self.limit + self.queue:
            raise Overloaded("All places for running items are taken, and the queue for them is full.")

    def join(self, places: int, granted: Callable[[], None]) -> Share:
        """A batch's share. `granted` is called when a place that `take` had to wait for is there.

        Raises `Overloaded`.
        """
        self.check(places)
        return Share(self, min(places, self.limit), granted)

    def _pass_on(self) -> None:
        """Gives free places to those who wait, one each in turn, over and over as long as they may want more.

        Many places often become free in one turn of the loop. If a share left the queue with its first one, the others
        would go to whoever comes by first, who takes all.
        """
        while self._waiting and self.used < self.limit:
            share = self._waiting.popleft()
            self.used += 1
            share.reserved += 1
            share.queued = share.held + share.reserved < share.most
            if share.queued:
                self._waiting.append(share)
            share.granted()


class Share:
    """The places of one batch: `take` one for each item, `give_back` each, `leave` at the end."""

    __slots__ = ("_pool", "_wanted", "granted", "held", "most", "queued", "reserved")

    def __init__(self, pool: InFlight, wanted: int, granted: Callable[[], None]) -> None:
        self._pool = pool
        self._wanted = wanted
        self.most = wanted
        self.granted = granted
        self.held = 0
        self.reserved = 0
        self.queued = False
        pool.wanted += wanted

    def take(self) -> bool:
        """Whether a place is there now. If not, the share is queued, and told when there is one."""
        pool = self._pool
        if self.reserved:
            self.reserved -= 1
        elif pool.used < pool.limit and not pool._waiting:
            pool.used += 1
        else:
            if not self.queued:
                self.queued = True
                pool._waiting.append(self)
            return False
        self.held += 1
        return True

    def give_back(self) -> None:
        self.held -= 1
        self._pool.used -= 1
        if self._pool._waiting:
            self._pool._pass_on()

    def give_back_unused(self) -> None:
        """Places that were granted, when there is nothing to start in them now, nor in more."""
        if self.reserved:
            self._pool.used -= self.reserved
            self.reserved = 0
            self._leave_queue()
            self._pool._pass_on()

    def want_no_more(self) -> None:
        """All items have ended: only what still holds a place counts for who may come."""
        self._pool.wanted -= self._wanted - self.held
        self._wanted = self.held

    def leave(self) -> None:
        """Gives everything back; the share is of no further use. May be called twice."""
        pool = self._pool
        self._leave_queue()
        pool.used -= self.held + self.reserved
        pool.wanted -= self._wanted
        self.held = self.reserved = self._wanted = 0
        pool._pass_on()
        # Whom it would tell holds it: without this the two would live until the collector comes.
        self.granted = _nobody

    def _leave_queue(self) -> None:
        if self.queued:
            self._pool._waiting.remove(self)
            self.queued = False


def _nobody() -> None:
    """There is nobody to tell any more."""
