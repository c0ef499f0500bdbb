"""Active health checks: each address is asked from time to time, and what it says is believed after a while.

Knows: thresholds, and when to ask. Must not know: what an address is, how it is asked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from .settings import HealthCheck

PROBES_AT_ONCE = 4
"""How many addresses of an upstream are asked at the same time."""
_JITTER = 0.1


class Health:
    """What is believed of an address: well until the first check, which decides alone; then only so many checks in a
    row that say otherwise change it."""

    __slots__ = ("_healthy", "_streak", "_unhealthy", "is_checked", "is_good")

    def __init__(self, healthy: int = 1, unhealthy: int = 1) -> None:
        self._healthy = healthy
        self._unhealthy = unhealthy
        self._streak = 0
        self.is_checked = False
        self.is_good = True

    def __repr__(self) -> str:
        return f"Health({'good' if self.is_good else 'bad'}, against={self._streak})"

    def note(self, passed: bool) -> bool:
        """Takes in one check; whether it changed what is believed."""
        is_first, self.is_checked = not self.is_checked, True
        if passed == self.is_good:
            self._streak = 0
            return False
        self._streak += 1
        if not is_first and self._streak < (self._healthy if passed else self._unhealthy):
            return False
        self._streak = 0
        self.is_good = passed
        return True


class HealthChecks:
    """Makes each of `probes` every `interval`, a little earlier or later, until `aclose`, which cancels them."""

    def __init__(
        self,
        settings: HealthCheck,
        probes: Sequence[Callable[[], Awaitable[None]]],
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._settings = settings
        self._uniform = uniform
        self._probes = probes
        self._at_once = asyncio.Semaphore(PROBES_AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._ask(probe), name="batchproxy health check") for probe in self._probes]

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks = []

    async def _ask(self, probe: Callable[[], Awaitable[None]]) -> None:
        interval = self._settings.interval
        # The first ones come soon, for somebody waits for them, but several processes do not ask at the same moment.
        pause = self._uniform(0, interval * _JITTER)
        while True:
            await asyncio.sleep(pause)
            async with self._at_once:
                await probe()
            pause = self._uniform(interval * (1 - _JITTER), interval * (1 + _JITTER))
