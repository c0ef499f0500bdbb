"""Says from time to time that something is going on, so that nobody takes it for dead: however slowly it comes.

Knows: time. Must not know: what is said, or to whom.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .errors import JobsError


class Pulse:
    """`beat` is called every so many seconds from `start` to `stop`. What is short costs no task."""

    __slots__ = ("_beat", "_every", "_task", "_timer")

    def __init__(self, every: float, beat: Callable[[], Awaitable[object]]) -> None:
        self._every = every
        self._beat = beat
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every, self._begin)

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._go_on(), name="batchproxy pulse")

    async def _go_on(self) -> None:
        while True:
            try:
                await self._beat()
            except JobsError:
                pass  # whoever has something to say later is told what is wrong
            await asyncio.sleep(self._every)
