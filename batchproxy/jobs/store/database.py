"""Transactions on SQLite or PostgreSQL: how they begin and end, what they wait for, what their errors mean.

Knows: engines, connections, locks. Must not know: any table.

A transaction is a function that is given a connection and the time. It runs in a task of its own, which is not
cancelled once it has begun: whoever is cancelled while he waits for it leaves when it has ended. So none stays open,
and none is committed behind one's back. It may be run more than once, so it must keep nothing between runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from .clock import Clock
from .errors import StoreBusy, StoreUnreachable
from .faults import AGAIN, sqlstate, translated
from .settings import StoreSettings
from .trips import connected

if TYPE_CHECKING:
    import asyncpg

T = TypeVar("T")
Work = Callable[[AsyncConnection, float], Awaitable[T]]

_PAUSE = 0.02
_TRIES = 4
"""How often a transaction is run that the database ends in favour of another."""


class Turn:
    """Whether a transaction has begun; before, whoever asked for it may still leave."""

    __slots__ = ("begun",)

    def __init__(self) -> None:
        self.begun = False


class Database:
    """`write` and `read` run a transaction; `aclose` waits for those that run, and from then on there are none."""

    def __init__(self, settings: StoreSettings, clock: Clock) -> None:
        self.settings = settings
        self.is_sqlite = not settings.is_postgresql
        self._clock = clock
        self._running: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        # SQLite has one writer at a time; those of this process queue here, in order, instead of polling for the lock.
        self._turn = asyncio.Lock()
        if self.is_sqlite:
            self._writer = _sqlite(settings, connections=1, reads=False)
            self._reader = _sqlite(settings, connections=settings.connections, reads=True)
        else:
            self._writer = create_async_engine(
                "postgresql+asyncpg://",
                pool_size=settings.connections,
                max_overflow=0,
                pool_timeout=settings.wait,
                pool_pre_ping=True,
                connect_args={"async_creator_fn": partial(dial, settings), **_preparing(settings)},
            )
            # Over the same connections. What one reads in several steps must fit together.
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ")

    def __repr__(self) -> str:
        return f"Database({'sqlite' if self.is_sqlite else 'postgresql'}, running={len(self._running)})"

    async def prepare(self) -> None:
        """Gives a file of SQLite its modes, which it keeps. Raises `StoreError`."""
        if not self.is_sqlite:
            return
        tries_until = asyncio.get_running_loop().time() + self.settings.wait
        while True:
            try:
                with translated():
                    await self._set_modes()
            except StoreBusy:
                # Of several processes that do this at once, some are told so without any waiting.
                if asyncio.get_running_loop().time() > tries_until:
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                return

    async def write(self, work: Work[T]) -> T:
        """What `work` returns, once it is committed. Raises `StoreError`."""
        return await self._waited_for(partial(self._write, work))

    async def read(self, work: Work[T]) -> T:
        """What `work` returns, all of it as it was at one moment. Raises `StoreError`."""
        return await self._waited_for(partial(self._read, work))

    async def shrink(self, pages: int) -> bool:
        """Gives the disk back so many pages of a file, if they are free; whether there are more. Raises `StoreError`.

        A server does so by itself.
        """
        return self.is_sqlite and await self._waited_for(partial(self._shrink, pages))

    async def aclose(self) -> None:
        self._is_closed = True
        while self._running:
            await asyncio.wait(self._running)
        await self._writer.dispose()
        await self._reader.dispose()

    async def _set_modes(self) -> None:
        async with self._turn, self._writer.connect() as connection:
            await connection.exec_driver_sql("PRAGMA auto_vacuum = INCREMENTAL")  # counts only for a file that is new
            await connection.exec_driver_sql("PRAGMA journal_mode = WAL")

    async def _waited_for(self, run: Callable[[Turn], Coroutine[Any, Any, T]]) -> T:
        if self._is_closed:
            # Else the driver would connect anew, and nobody would end that.
            raise StoreUnreachable("The store is closed in this process.")
        turn = Turn()
        task = asyncio.get_running_loop().create_task(run(turn))
        self._running.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not turn.begun:
                task.cancel()
            await _ended(task)
            raise

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio complains if who waited has left

    async def _write(self, work: Work[T], turn: Turn) -> T:
        with translated(of_server=not self.is_sqlite):
            if self.is_sqlite:
                # A transaction that reads first and asks for the lock later would fail at once, whatever the timeout.
                return await self._in_turn(turn, partial(self._between, "BEGIN IMMEDIATE", work))
            turn.begun = True
            for _ in range(_TRIES - 1):
                try:
                    return await self._whole(work)
                except DBAPIError as error:
                    if sqlstate(error) not in AGAIN:
                        raise
            return await self._whole(work)

    async def _shrink(self, pages: int, turn: Turn) -> bool:
        with translated():
            return await self._in_turn(turn, partial(_shrunk, pages))

    async def _in_turn(self, turn: Turn, what: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self.settings.wait * 2):
                await self._turn.acquire()
        except TimeoutError:
            raise StoreBusy("Too many wait to write into the store; try again.") from None
        try:
            turn.begun = True
            async with self._writer.connect() as connection:
                return await what(connection)
        finally:
            self._turn.release()

    async def _whole(self, work: Work[T]) -> T:
        async with self._writer.begin() as connection:
            return await self._started(work, connection)

    async def _read(self, work: Work[T], turn: Turn) -> T:
        turn.begun = True
        with translated(of_server=not self.is_sqlite):
            async with self._reader.connect() as connection:
                if self.is_sqlite:
                    return await self._between("BEGIN", work, connection)
                return await self._started(work, connection)

    async def _started(self, work: Work[T], connection: AsyncConnection) -> T:
        return await work(connection, await self._clock.start(connection, self.settings))

    async def _between(self, begin: str, work: Work[T], connection: AsyncConnection) -> T:
        await connection.exec_driver_sql(begin)
        try:
            value = await self._started(work, connection)
            await connection.exec_driver_sql("COMMIT")
        except BaseException:
            try:
                await connection.exec_driver_sql("ROLLBACK")
            except DBAPIError:
                pass  # after some errors, such as a full disk, SQLite has done so itself
            raise
        return value


async def _ended(task: asyncio.Task[Any]) -> None:
    """Waits for a task, however often it is cancelled: a transaction takes a bounded time."""
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            pass


async def _shrunk(pages: int, connection: AsyncConnection) -> bool:
    free = await _free_pages(connection)
    if not free:
        return False
    # Each step of the statement frees a page, and has no row: of the driver only scripts go on to the end of it.
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    await raw.driver_connection.executescript(f"PRAGMA incremental_vacuum({pages})")
    return 0 < await _free_pages(connection) < free  # of a file that somebody made anew in another mode, nothing is


async def _free_pages(connection: AsyncConnection) -> int:
    return int((await connection.exec_driver_sql("PRAGMA freelist_count")).scalar_one())


async def dial(settings: StoreSettings) -> asyncpg.Connection:
    """A connection to PostgreSQL. The driver reads the URL, not SQLAlchemy, which knows fewer of the options that are
    usual there."""
    import asyncpg

    cached = {"statement_cache_size": 0} if settings.pooler else {}
    return await asyncpg.connect(settings.server, timeout=settings.wait, **cached)


def _preparing(settings: StoreSettings) -> dict[str, Any]:
    """Behind a pooler the next transaction may have another server, which knows nothing of the statements that were
    prepared for this one; and of those of others it knows the names. So they get none."""
    if not settings.pooler:
        return {}
    return {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}


def _sqlite(settings: StoreSettings, *, connections: int, reads: bool) -> AsyncEngine:
    # Left to itself, the driver begins transactions where it sees fit: here every one is spelled out.
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{settings.file}",
        async_creator=partial(connected, settings.file),
        isolation_level="AUTOCOMMIT",
        pool_size=connections,
        max_overflow=0,
        pool_timeout=settings.wait,
        pool_reset_on_return=None,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(settings.wait * 1000)}")
        if reads:
            cursor.execute("PRAGMA query_only = ON")
        else:
            # Anything less may lose what was committed when the power fails.
            cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    return engine
