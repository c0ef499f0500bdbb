"""Requests over the native transport, for tests that play its upstream with sockets.

Knows: the transport under test, both event loops. Must not know: what upstreams say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import wraps
from typing import Any

import pytest
import uvloop

from batchproxy.proxy.settings import Timeouts
from batchproxy.proxy.transports import Outgoing, UpstreamError
from batchproxy.proxy.transports.native import NativeTransport

from ..scripted import Peer

SOON = 0.2
"""A deadline of those that must pass; nothing else depends on how long it is."""
PATIENCE = 120


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test that is a coroutine on asyncio's loop and on uvloop's; afterwards no task may be left."""

    @wraps(test)
    def ordinary(**given: Any) -> None:
        asyncio.run(_watched(test, given))
        uvloop.run(_watched(test, given))

    return ordinary


def on_asyncio(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """For tests that set the clock, which only asyncio's own loop allows."""

    @wraps(test)
    def ordinary(**given: Any) -> None:
        asyncio.run(_watched(test, given, patience=None))

    return ordinary


async def _watched(
    test: Callable[..., Coroutine[Any, Any, None]], given: dict[str, Any], *, patience: float | None = PATIENCE
) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    await asyncio.wait_for(test(**given), patience)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=PATIENCE)
    assert not [task for task in left if not task.done()]
    assert complaints == []


class Clock:
    """Moves the time of asyncio's loop."""

    def __init__(self) -> None:
        self._ahead = 0.0
        loop = asyncio.get_running_loop()
        ordinary = loop.time
        loop.time = lambda: ordinary() + self._ahead  # type: ignore[method-assign]

    async def advance(self, seconds: float) -> None:
        self._ahead += seconds
        for _ in range(10):
            await asyncio.sleep(0)


def transport(url: str, **more: Any) -> NativeTransport:
    settings: dict[str, Any] = {
        "timeouts": Timeouts(),
        "tls": None,
        "max_connections": 10,
        "idle_expiry": 30.0,
        "max_response_header_bytes": 64 * 1024,
        "max_response_bytes": None,
    }
    return NativeTransport(url, **(settings | more))


def get(target: bytes = b"/", *headers: tuple[bytes, bytes], method: str = "GET", **more: Any) -> Outgoing:
    return Outgoing(method, target, [(b"host", b"h"), *headers], **more)


async def whole(pool: NativeTransport, request: Outgoing) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    answer = await pool.send(request)
    pieces = []
    while piece := await answer.read():
        pieces.append(piece)
    answer.close()
    return answer.status, answer.headers, b"".join(pieces)


async def failing(pool: NativeTransport, request: Outgoing) -> UpstreamError:
    with pytest.raises(UpstreamError) as error:
        await whole(pool, request)
    return error.value


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def silent(peer: Peer) -> None:
    """An upstream that takes everything and answers nothing."""
    await peer.rest()


def soon() -> float:
    """A deadline of a request."""
    return asyncio.get_running_loop().time() + SOON
