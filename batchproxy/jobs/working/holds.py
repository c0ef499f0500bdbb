"""A lease in the hands of this process: until when it can be relied on. And the time of the store.

Knows: monotonic time. Must not know: what is done under a lease.
"""

from __future__ import annotations

import time

from ..store import Claim

_USABLE = 0.8
"""The part of a lease in which something may be begun: the rest is for clocks that differ, and for what takes time."""


class Hold:
    """Each lease has a deadline of its own, by the monotonic clock, counted from before it was asked for.

    It `is_over` once its worker has given it up, or knows that it lost it: from then on it is not renewed.
    """

    __slots__ = ("asked", "claim", "is_lost", "is_over", "lease")

    def __init__(self, claim: Claim, asked: float) -> None:
        self.claim = claim
        self.lease = claim.lease
        self.asked = asked
        self.is_over = self.is_lost = False

    def __repr__(self) -> str:
        state = "lost" if self.is_lost else "over" if self.is_over else "held"
        return f"Hold({self.lease.job}, {self.lease.chunk}, epoch={self.lease.epoch}, {state})"

    def renewed(self, asked: float) -> None:
        self.asked = max(self.asked, asked)

    def lose(self) -> None:
        self.is_lost = self.is_over = True

    @property
    def is_sure(self) -> bool:
        """Whether something may be begun under it now. Not by the time of a loop, which may be that of its last turn,
        before the process was frozen."""
        return not self.is_over and time.monotonic() < self.asked + _USABLE * self.claim.ttl


class StoreTime:
    """The time of the database, as far as it is known here: deadlines of jobs are told in it."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def learn(self, there: float, here: float) -> None:
        self._offset = there - here

    def now(self) -> float:
        return time.monotonic() + self._offset

    def until(self, there: float) -> float:
        """How many seconds are left until then."""
        return there - self.now()
