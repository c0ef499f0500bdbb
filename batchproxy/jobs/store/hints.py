"""Hints that something happened, so that nobody has to wait for the next poll. Each may be lost; none is an answer.

A topic is `work`, when there is something to claim, `outbox`, when there is something to be told, or the id of a job,
when it has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from .database import dial
from .settings import StoreSettings

if TYPE_CHECKING:
    pass

WORK = "work"
OUTBOX = "outbox"
CHANNEL = "batchproxy"
_NOTIFY = text("SELECT pg_notify(:channel, :topic)")
_LONGEST_PAUSE = 30.0


class Hint:
    """`wait` returns at the next hint, or after so many seconds; hints since the last one are not missed."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def give(self) -> None:
        self._event.set()

    async def wait(self, at_most: float) -> bool:
        """Whether there was a hint."""
        try:
            async with asyncio.timeout(at_most):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Hints:
    """Inside a process by a call; between processes by LISTEN and NOTIFY where there is PostgreSQL.

    Behind a pooler nobody listens: that would be left to a connection that serves somebody else next.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._waiting: dict[str, set[Hint]] = {}
        self._listening: asyncio.Task[None] | None = None

    @contextmanager
    def on(self, topic: str) -> Iterator[Hint]:
        hint = Hint()
        self._waiting.setdefault(topic, set()).add(hint)
        try:
            yield hint
        finally:
            self._waiting[topic].discard(hint)
            if not self._waiting[topic]:
                del self._waiting[topic]

    def give(self, *topics: str) -> None:
        """To those who wait in this process; to be called once the transaction is committed."""
        for topic in topics:
            for hint in self._waiting.get(topic, ()):
                hint.give()

    async def announce(self, connection: AsyncConnection, *topics: str) -> None:
        """To other processes, as soon as the transaction is committed."""
        if connection.dialect.name == "postgresql":
            for topic in topics:
                await connection.execute(_NOTIFY, {"channel": CHANNEL, "topic": topic})

    def start(self) -> None:
        if self._settings.is_postgresql and not self._settings.pooler:
            self._listening = asyncio.get_running_loop().create_task(self._listen(), name="batchproxy hints")

    async def aclose(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
            self._listening = None

    async def _listen(self) -> None:
        import asyncpg

        pause = 1.0
        while True:
            try:
                await self._listen_once()
                pause = 1.0
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                pause = min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _listen_once(self) -> None:
        connection = await dial(self._settings)
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, self._heard)
            await lost.wait()
        finally:
            await connection.close(timeout=self._settings.wait)

    def _heard(self, connection: Any, pid: int, channel: str, topic: str) -> None:
        self.give(topic)
