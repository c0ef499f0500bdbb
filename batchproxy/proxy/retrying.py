"""Whether a failed attempt is followed by another, and when.

Knows: methods, reasons, the budget. Decides at once; chance comes in as an argument.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

from .settings import RETRY_ON, Retry
from .transports import FIRST_BYTE_TIMEOUT, IDEMPOTENT, Outgoing, UpstreamError


class Retrying:
    """The retries of one upstream; `running` counts those that hold a part of the budget."""

    __slots__ = ("_on", "_settings", "_uniform", "refused", "running", "total")

    def __init__(self, settings: Retry, *, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._settings = settings
        self._uniform = uniform
        names: Collection[str] = {name for each in settings.on for name in RETRY_ON[each]}
        # Whoever limits a single attempt wants another one.
        self._on = {*names, FIRST_BYTE_TIMEOUT.name} if settings.per_try_timeout is not None else names
        self.running = 0
        self.total = 0
        self.refused = 0

    def __repr__(self) -> str:
        return f"Retrying(running={self.running}, total={self.total}, refused={self.refused})"

    def pause(self, request: Outgoing, fault: UpstreamError, attempts: int, running: int) -> float | None:
        """How long to wait before one more attempt; None for none. `attempts` have been made; `running` requests run.

        A pause that is given takes a part of the budget, which `done` gives back.
        """
        settings = self._settings
        if attempts > settings.attempts or fault.answered or fault.reason.name not in self._on:
            return None
        if not may_be_repeated(request):
            return None
        if self.running >= max(settings.min_budget, settings.budget * running):
            self.refused += 1
            return None
        self.running += 1
        self.total += 1
        # Full jitter: those who failed together do not come back together.
        return self._uniform(0, min(settings.max_backoff, settings.backoff * 2.0 ** min(attempts - 1, 64)))

    def done(self, retries: int) -> None:
        self.running -= retries


def may_be_repeated(request: Outgoing) -> bool:
    """Whether sending it twice does what sending it once does, and it is all there to be sent again."""
    if not isinstance(request.body, bytes):
        return False
    return request.method in IDEMPOTENT or any(name.lower() == b"idempotency-key" for name, _ in request.headers)
