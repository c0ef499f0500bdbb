"""What is done while the store cannot be reached, is busy or full: waiting, ever longer, and going on.

Knows: which errors pass. Must not know: what was asked of the store.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..store import StoreError

logger = logging.getLogger("batchproxy")

T = TypeVar("T")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0


class Pauses:
    """The pauses between attempts, full jitter in their upper half; `over` when one has worked."""

    __slots__ = ("_most",)

    def __init__(self) -> None:
        self._most = _FIRST_PAUSE

    @property
    def are_on(self) -> bool:
        return self._most > _FIRST_PAUSE

    def next(self) -> float:
        most, self._most = self._most, min(self._most * 2, _LONGEST_PAUSE)
        return random.uniform(most / 2, most)

    def over(self) -> None:
        self._most = _FIRST_PAUSE


class Outage:
    """What the loops of one worker have in common: who finds the store back wakes those who wait for it."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: set[asyncio.Event] = set()

    async def wait(self, seconds: float) -> None:
        back = asyncio.Event()
        self._waiting.add(back)
        try:
            async with asyncio.timeout(seconds):
                await back.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(back)

    def over(self) -> None:
        for back in self._waiting:
            back.set()


async def patiently(call: Callable[[], Awaitable[T]], goes_on: Callable[[], bool]) -> T:
    """What `call` gives, as soon as the store does; its error once `goes_on` says that it is too late."""
    pauses = Pauses()
    while True:
        try:
            return await call()
        except StoreError as error:
            if not (error.passing and goes_on()):
                raise
            await asyncio.sleep(pauses.next())


async def repeated(
    name: str,
    once: Callable[[], Awaitable[float]],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    outage: Outage | None = None,
) -> None:
    """Calls `once` for ever, with the pause in between that it gives. Nothing that it raises is the end.

    Those with the same `outage` wait no longer for the store than the first of them.
    """
    pauses, outage = Pauses(), outage or Outage()
    while True:
        try:
            pause = await once()
        except StoreError as error:
            if not pauses.are_on:
                logger.warning("work.waits loop=%s code=%s The store cannot do it now: %s", name, error.code, error)
            await outage.wait(pauses.next())
            continue
        except Exception:
            logger.exception("work.failed loop=%s", name)
            pause = _LONGEST_PAUSE
        else:
            if pauses.are_on:
                logger.info("work.goes_on loop=%s", name)
                pauses.over()
                outage.over()
        await sleep(pause)
