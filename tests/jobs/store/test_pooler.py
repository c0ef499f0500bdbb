"""Behind a pooler in transaction mode, for which every transaction may be one of another server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from batchproxy.engine.errors import SettingError
from batchproxy.jobs.store import JobStore, StoreSettings, StoreUnreachable, opened
from tests.proxy.on_a_loop import on_a_loop

from ..place import complete, submit
from ..pooler import SERVERS, pooled
from ..postgresql import Cluster


@pytest.fixture(scope="module")
def direct(postgresql: Cluster) -> str:
    return postgresql.new_url()


@pytest.fixture(scope="module")
def pooler(direct: str) -> Iterator[str]:
    with pooled(direct) as url:
        yield url


async def does_jobs(store: JobStore) -> None:
    for _ in range(2):
        await submit(store, 4)
        await complete(store)


@on_a_loop
async def test_jobs_are_done(direct: str, pooler: str) -> None:
    """By more connections than the pooler has servers; and on those nothing is left behind."""
    settings = StoreSettings(url=pooler, pooler=True, connections=SERVERS + 1, chunk_items=2)
    async with opened(settings) as here, opened(settings) as there:
        await asyncio.gather(*(does_jobs(store) for store in (here, there) * 3))
        assert {job.state.value for job in (await here.jobs.list(None, limit=100)).jobs} == {"completed"}
        connection = await asyncpg.connect(direct)
        try:
            listening = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
        finally:
            await connection.close()
        assert listening == 0
    left = await asyncpg.connect(pooler, statement_cache_size=0)
    try:
        assert await left.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0
        assert await left.fetchval("SELECT count(*) FROM pg_listening_channels()") == 0
    finally:
        await left.close()


@on_a_loop
async def test_who_does_not_say_so_is_told(pooler: str) -> None:
    """What to set, instead of an error of the driver."""
    with pytest.raises(StoreUnreachable, match="set `pooler`"):
        await _without_saying_so(StoreSettings(url=pooler, connections=SERVERS + 1))


async def _without_saying_so(settings: StoreSettings) -> None:
    async with opened(settings) as here, opened(settings) as there:
        while True:
            submissions = (submit(store, 4) for store in (here, there) * 3)
            for each in await asyncio.gather(*submissions, return_exceptions=True):
                if isinstance(each, BaseException):
                    raise each


def test_a_file_has_no_pooler(tmp_path: Path) -> None:
    """It is refused when it is set."""
    with pytest.raises(SettingError, match="postgresql://"):
        StoreSettings(url=f"sqlite:///{tmp_path}/jobs.db", pooler=True)
