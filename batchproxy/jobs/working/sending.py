"""Sends one item into the app, and waits for its answer until its time is over.

Knows: the engine's exchange, the tasks of an item. Must not know: stores, what becomes of the result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from ...engine.errors import Failure
from ...engine.model import Item, Result
from ...engine.target import AppTarget, Exchange

logger = logging.getLogger("batchproxy")


class Tails:
    """What apps do after their answers: it may take as long as an item, and is cancelled then."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, task: asyncio.Task[None]) -> None:
        if task.done():
            return
        self._tasks.add(task)
        timer = asyncio.get_running_loop().call_later(self._timeout, task.cancel)

        def ended(task: asyncio.Task[None]) -> None:
            timer.cancel()
            self._tasks.discard(task)

        task.add_done_callback(ended)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)


class Sending:
    """`answer` is to be awaited once. Cancelled, it tells the app so, and leaves it among the tails."""

    def __init__(self, job: str, item: Item, target: AppTarget, timeout: float, tails: Tails) -> None:
        self._job = job
        self._exchange = Exchange(item, target, self._ended)
        self._timeout = timeout
        self._tails = tails
        self._result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    @property
    def notes(self) -> Mapping[str, Any]:
        """What an app that stands for another server told."""
        return self._exchange.notes

    async def answer(self) -> Result:
        loop = asyncio.get_running_loop()
        exchange = self._exchange
        task = exchange.task = loop.create_task(self._drive(), name="batchproxy item")
        timer = loop.call_later(self._timeout, self._time_out)
        try:
            return await self._result
        except asyncio.CancelledError:
            exchange.disconnect()
            exchange.fail(Failure.NOT_STARTED, "The worker stopped.")
            # In the turn after, so that the app sees `http.disconnect` first, as it would alone.
            loop.call_soon(exchange.cancel)
            raise
        finally:
            timer.cancel()
            self._tails.add(task)

    def _time_out(self) -> None:
        self._exchange.time_out(
            Failure.TIMEOUT, "The item did not end before its deadline; whether a write took effect is unknown."
        )

    def _ended(self, exchange: Exchange, result: Result) -> None:
        if not self._result.done():
            self._result.set_result(result)
        if result.failure is Failure.RESPONSE_TOO_LARGE:
            exchange.cancel()

    async def _drive(self) -> None:
        exchange = self._exchange
        try:
            if not exchange.done:
                await exchange.call()
                if not (exchange.done or exchange.has_reported):
                    self._log(None)
        # An item gets the fate that it would have alone: a server answers whatever the app raises, and lives on.
        except BaseException as raised:
            was_done = exchange.done
            exchange.finish()
            if isinstance(raised, KeyboardInterrupt):
                raise
            if not (isinstance(raised, asyncio.CancelledError) or (was_done and isinstance(raised, OSError))):
                self._log(raised)
        finally:
            exchange.finish()

    def _log(self, raised: BaseException | None) -> None:
        item = self._exchange.item
        logger.error(
            "item.failed job=%s seq=%d id=%s method=%s exception=%s",
            self._job,
            item.index,
            item.id,
            item.method,
            type(raised).__name__ if raised is not None else "none, it returned without an answer",
            exc_info=raised,
        )
