"""A decorator for tests that are coroutines and use sockets: they run on a real loop, and may leave no task behind."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

Given = ParamSpec("Given")

# How long a test may hang before it fails; nothing waits for this time to pass. What waits for one thing only gives up
# before, and says for what.
PATIENCE = 120.0
# What a server runs on, and what is used where that is not to be had.
LOOPS = ("asyncio",) if sys.platform == "win32" else ("asyncio", "uvloop")


def on_a_loop(test: Callable[Given, Coroutine[Any, Any, None]]) -> Callable[Given, None]:
    @functools.wraps(test)
    def ordinary(*args: Given.args, **named: Given.kwargs) -> None:
        run(test(*args, **named))

    return ordinary


def run(main: Coroutine[Any, Any, None], loop: str = "asyncio") -> None:
    """Runs a coroutine on one of `LOOPS`."""
    with asyncio.Runner(loop_factory=_loop_factory(loop)) as runner:
        runner.run(_leaving_nothing(main))


def _loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if loop == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


async def _leaving_nothing(test: Coroutine[Any, Any, None]) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    await asyncio.wait_for(test, PATIENCE)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=PATIENCE)
    assert not [task for task in left if not task.done()], "tasks are left"
    assert not complaints, f"something failed unseen: {complaints}"
