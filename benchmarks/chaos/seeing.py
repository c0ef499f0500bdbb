"""Whether there was anything to hit when a fault came: what is being worked on, by whom.

Knows: the tables of the store. Must not know: faults.
"""

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import Any

import asyncpg

from batchproxy.jobs.store.tables import PREFIX
from tests.jobs.working.workers import is_writing

_ACCEPTED = f"SELECT id FROM {PREFIX}job WHERE state <> 'storing'"
_HELD = f"SELECT w.pid FROM {PREFIX}chunk c JOIN {PREFIX}worker w ON c.holder = w.id"
_TRANSACTIONS = """
SELECT pid || ' ' || xact_start FROM pg_stat_activity
WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
"""
_PATIENCE = 5.0
_LOOK = 0.05
_LONGEST_TRANSACTION = 0.3


async def holders(url: str) -> list[int] | None:
    """The process of who has it, for each piece of work that somebody has; None if the store cannot tell."""
    return await _asked(url, _HELD)


async def has_accepted(url: str) -> bool:
    """Whether a job has been committed."""
    return bool(await _asked(url, _ACCEPTED))


async def is_held_up(url: str) -> bool:
    """Whether a transaction does not end; if the store cannot tell, that may be why. Others' may take their time."""
    if url.startswith("sqlite"):
        return await is_writing(url)
    there = await _asked(url, _TRANSACTIONS)
    looks_until = time.monotonic() + _LONGEST_TRANSACTION
    while there and time.monotonic() < looks_until:
        await asyncio.sleep(_LOOK)
        now = await _asked(url, _TRANSACTIONS)
        there = None if now is None else [each for each in there if each in now]
    return there is None or bool(there)


async def _asked(url: str, query: str) -> list[Any] | None:
    """The first column of the answer."""
    try:
        if url.startswith("sqlite"):
            return _of_file(url.removeprefix("sqlite:///"), query)
        async with asyncio.timeout(_PATIENCE):
            return await _of_server(url, query)
    except (sqlite3.Error, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return None


def _of_file(file: str, query: str) -> list[Any]:
    with closing(sqlite3.connect(file, timeout=_PATIENCE)) as connection:
        return [value for (value,) in connection.execute(query)]


async def _of_server(url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [value for (value,) in await connection.fetch(query)]
    finally:
        await connection.close()
