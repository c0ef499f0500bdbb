"""`within` beside `asyncio.timeout_at`, which it is to be told from by its cost alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from batchproxy.engine.deadline import within
from tests.protocol.virtual_time import now

from .on_virtual_time import on_virtual_time

DEADLINE = 5.0
Said = list[str]


async def at_once(said: Said) -> str:
    said.append("at once")
    return "given"


async def raising(said: Said) -> str:
    raise LookupError("at once")


async def after(said: Said, *pauses: float) -> str:
    for pause in pauses:
        await asyncio.sleep(pause)
        said.append(f"slept {pause:g}")
    return "given"


async def raising_late(said: Said) -> str:
    await asyncio.sleep(1)
    raise LookupError("late")


async def timing_out_by_itself(said: Said) -> str:
    await asyncio.sleep(1)
    raise TimeoutError("its own")


async def cleaning_up(said: Said) -> str:
    try:
        await asyncio.sleep(60)
    finally:
        said.append("cleans up")
        await asyncio.sleep(1)
        said.append("clean")
    return "given"


async def swallowing(said: Said) -> str:
    for _ in range(2):
        try:
            await asyncio.sleep(4)
        except asyncio.CancelledError:
            said.append("no")
    await asyncio.sleep(2)
    return "given all the same"


async def raising_instead(said: Said) -> str:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise LookupError("instead") from None
    return "given"


async def of_others(said: Said) -> str:
    given = await asyncio.gather(after(said, 1), after(said, 2))
    return " ".join(given)


def a_future(said: Said) -> Awaitable[str]:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def given() -> None:
        if not future.done():
            future.set_result("given")

    asyncio.get_running_loop().call_later(1, given)
    return future


def a_future_that_is_done(said: Said) -> Awaitable[str]:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.set_result("given")
    return future


def a_future_for_ever(said: Said) -> Awaitable[str]:
    return asyncio.get_running_loop().create_future()


class Ending(NamedTuple):
    """How something came to its end, when, what it said, and how often its task is still to be cancelled."""

    given: object
    moment: float
    said: Said
    cancelling: int


AWAITED: list[Callable[[Said], Awaitable[str]]] = [
    at_once,
    raising,
    lambda said: after(said, 1),
    lambda said: after(said, 0, 0, 1, 2),
    lambda said: after(said, 2, 2, 2),
    lambda said: after(said, 60),
    raising_late,
    timing_out_by_itself,
    cleaning_up,
    swallowing,
    raising_instead,
    of_others,
    a_future,
    a_future_that_is_done,
    a_future_for_ever,
]


async def timeout_at(deadline: float, awaited: Awaitable[str]) -> str:
    async with asyncio.timeout_at(deadline):
        return await awaited


async def ending_of(
    limited: Callable[[float, Awaitable[str]], Awaitable[str]],
    awaited: Callable[[Said], Awaitable[str]],
    deadline: float,
    cancelled_at: float | None,
) -> Ending:
    said: Said = []
    began = now()

    async def main() -> Ending:
        try:
            given: object = await limited(began + deadline, awaited(said))
        except Exception as raised:
            given = repr(raised)
        except asyncio.CancelledError:
            given = "cancelled"
        task = asyncio.current_task()
        assert task is not None
        return Ending(given, now() - began, said, task.cancelling())

    task = asyncio.ensure_future(main())
    if cancelled_at is not None:
        asyncio.get_running_loop().call_later(cancelled_at, task.cancel)
    return await task


@pytest.mark.parametrize("awaited", AWAITED)
@pytest.mark.parametrize("deadline", [DEADLINE, 0.0, -1.0])
@pytest.mark.parametrize("cancelled_at", [None, 0.5, 3.0, 5.5])
@on_virtual_time
async def test_it_ends_as_with_a_timeout(
    awaited: Callable[[Said], Awaitable[str]], deadline: float, cancelled_at: float | None
) -> None:
    """Whatever is awaited, and whoever cancels: the same result, at the same time, and as much of it has run."""
    ours = await ending_of(within, awaited, deadline, cancelled_at)
    assert ours == await ending_of(timeout_at, awaited, deadline, cancelled_at)


@on_virtual_time
async def test_what_waits_too_long_is_a_timeout() -> None:
    """The table above would be satisfied with two deadlines that never come."""
    with pytest.raises(TimeoutError):
        await within(DEADLINE, after([], 60))
    assert now() == DEADLINE


@on_virtual_time
async def test_what_does_not_wait_takes_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is all that it is for."""
    loop: Any = asyncio.get_running_loop()
    timers: list[float] = []
    call_at = loop.call_at

    def noted(when: float, *rest: Any, **named: Any) -> asyncio.TimerHandle:
        timers.append(when)
        timer: asyncio.TimerHandle = call_at(when, *rest, **named)
        return timer

    monkeypatch.setattr(loop, "call_at", noted)
    assert await within(DEADLINE, at_once([])) == "given"
    assert timers == []
    await within(DEADLINE, after([], 0))
    assert timers == [DEADLINE]


@on_virtual_time
async def test_what_is_closed_closes_what_it_waits_for() -> None:
    """As when the loop ends while something still waits."""
    said: Said = []

    async def waiting() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            said.append("closed")

    async def outer() -> None:
        await within(now() + DEADLINE, waiting())

    coroutine = outer()
    coroutine.send(None)
    coroutine.close()
    assert said == ["closed"]
