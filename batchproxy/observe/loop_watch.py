"""Notices that the event loop was held up: by code that blocks, such as a guard that waits without `await`.

Knows: the clock of the loop. Must not know: what it runs.
"""

from __future__ import annotations

import asyncio
import logging

logger = logging.getLogger("batchproxy")

EVERY = 0.5
BLOCKED = 0.25
"""Seconds by which a turn of the loop may be late before it is told of."""


class LoopWatch:
    """Looks twice a second whether its turn comes in time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._expected = self._loop.time() + EVERY
        self._timer = self._loop.call_at(self._expected, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        late = self._loop.time() - self._expected
        if late > BLOCKED:
            logger.warning("loop.blocked: seconds=%.2f Nothing was served meanwhile; a guard or transport waits", late)
        self.start()
