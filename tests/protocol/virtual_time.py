"""An event loop in which waiting costs nothing: the clock jumps to the next timer whenever nothing is ready.

Knows: asyncio. Must not know: ASGI, batches.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

Returned = TypeVar("Returned")

# Real seconds to wait for another thread or a socket when no timer is left; then the test is stuck.
PATIENCE = 60.0
# Virtual seconds after which a test is taken to run in circles; no deadline of the protocol is near it.
LIFETIME = 10_000.0


class VirtualTime(asyncio.SelectorEventLoop):
    """Starts at 0; the tests of a 30 s deadline take as long as their callbacks do."""

    def __init__(self) -> None:
        self._clock = _JumpingClock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


class _JumpingClock(selectors.DefaultSelector):
    """Where a selector would sleep for some seconds, this one says that they have passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            return self._something_from_outside()
        self.now += timeout
        assert self.now < LIFETIME, "the test runs in circles"
        return []

    def _something_from_outside(self) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(PATIENCE)
        assert events, "every task waits for something that nobody does"
        return events


def run(main: Coroutine[Any, Any, Returned]) -> Returned:
    """Run a coroutine on virtual time; afterwards no task may be left, and none may have failed unseen."""
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(_leaving_nothing(main))


async def _leaving_nothing(main: Coroutine[Any, Any, Returned]) -> Returned:
    complaints: list[Mapping[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    returned = await main
    await settled()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks are left: {left}"
    assert not complaints, f"a task failed unseen: {complaints}"
    return returned


async def settled() -> None:
    """Let everything that is ready go on until it waits, at the same time of the clock."""
    for _ in range(50):
        await asyncio.sleep(0)


def now() -> float:
    """Seconds since the test began."""
    return asyncio.get_running_loop().time()


async def until(moment: float) -> None:
    """Wait for a moment of the clock, and let everything of that moment happen."""
    await asyncio.sleep(moment - now())
    await settled()
