"""A worker as it shows itself in the store: that it came, that it lives, that it leaves; and what it learns by that.

Knows: the row of one worker, the time of the store. Must not know: work, leases.
"""

from __future__ import annotations

import logging
import time

from ..store import JobStore, StoreError
from .holds import StoreTime

logger = logging.getLogger("batchproxy")


class Presence:
    """`id` is empty as long as the store knows nothing of the worker."""

    def __init__(self, store: JobStore, version: str) -> None:
        self.id = ""
        self.time = StoreTime()
        self._workers = store.workers
        self._version = version

    async def enter(self) -> None:
        asked = time.monotonic()
        worker_id = await self._workers.register(version=self._version)
        # Before anything is claimed: a deadline that is judged by a wrong clock may seem to be over.
        await self._learn_time(worker_id, (asked + time.monotonic()) / 2)
        self.id = worker_id

    async def beat(self) -> bool:
        """Whether the worker is asked to stop."""
        asked = time.monotonic()
        is_to_stop = await self._workers.beat(self.id, version=self._version)
        await self._learn_time(self.id, (asked + time.monotonic()) / 2)
        return is_to_stop

    async def leave(self) -> None:
        try:
            if self.id:
                await self._workers.leave(self.id)
        except StoreError as error:
            logger.warning("worker.left worker=%s code=%s", self.id, error.code)

    async def _learn_time(self, worker_id: str, here: float) -> None:
        """From what the store has noted of this worker, at about that time of ours."""
        for each in await self._workers.list():
            if each.id == worker_id:
                self.time.learn(each.beat_at, here)
