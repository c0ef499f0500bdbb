"""Setting up PostgreSQL as the page on jobs says: each statement is run, by the role and in the database it names.

The tests build on each other as the sections of the page do, so they share one made site.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from batchproxy.jobs.store import JobStore, NewJob, StoreSettings, opened
from batchproxy.jobs.store.hints import Hints
from batchproxy.jobs.store.tables import metadata
from batchproxy.jobs.working import JobWorker
from tests.documents import DOCS, section
from tests.proxy.on_a_loop import on_a_loop, run

from .place import complete, submit
from .postgresql import Cluster, binaries
from .working.lines import Api, Lines, ended, get, quick, submit as submit_lines

PAGE = section((DOCS / "jobs.md").read_text("utf-8"), "Setting up PostgreSQL")


class Block(NamedTuple):
    database: str
    role: str
    statements: list[str]


def blocks() -> list[Block]:
    found = re.findall(r"^~~~sql in=(\w+) as=(\w+)\n(.*?)^~~~$", PAGE, re.MULTILINE | re.DOTALL)
    return [
        Block(database, role, [each.strip() for each in text.split(";") if each.strip()])
        for database, role, text in found
    ]


def url(cluster: Cluster, database: str, role: str) -> str:
    folder = cluster.new_url().rpartition("=")[2]
    return f"postgresql://{role}@/{database}?host={folder}"


async def execute(place: str, statements: list[str]) -> list[Any]:
    """The rows of the last one."""
    connection = await asyncpg.connect(place)
    rows: list[Any] = []
    try:
        for each in statements:
            rows = await connection.fetch(each)
    finally:
        await connection.close()
    return rows


class Site:
    """The server as the page leaves it; `rows` is what its statements gave, by their first words."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.rows: dict[str, list[Any]] = {}

    def url(self, database: str = "batchproxy", role: str = "batchproxy") -> str:
        return url(self._cluster, database, role)

    async def make(self) -> None:
        await execute(self.url("postgres", "postgres"), ["CREATE DATABASE shop"])
        for number, block in enumerate(blocks()):
            place = self.url(block.database, block.role)
            self.rows[block.statements[-1].split()[0]] = await execute(place, block.statements)
            if number == 0:
                # "The first process makes the tables."
                async with opened(StoreSettings(url=self.url())) as store:
                    await submit(store)

    @asynccontextmanager
    async def store(self, database: str = "batchproxy", role: str = "batchproxy") -> AsyncIterator[JobStore]:
        async with opened(StoreSettings(url=self.url(database, role))) as store:
            yield store


@pytest.fixture(scope="module")
def site(postgresql: Cluster) -> Site:
    made = Site(postgresql)
    run(made.make())
    return made


async def does_a_job(store: JobStore) -> None:
    job = await submit(store)
    await complete(store)
    assert (await store.jobs.get(job.id, "ann")).is_terminal


@pytest.mark.parametrize(
    ("database", "role"), [("batchproxy", "batchproxy"), ("batchproxy", "batchproxy_runs"), ("shop", "batchproxy")]
)
@on_a_loop
async def test_jobs_are_done_by_each_role(site: Site, database: str, role: str) -> None:
    """By the owner, by the role that may not change tables, and in the database of an app."""
    async with site.store(database, role) as store:
        await does_a_job(store)


@on_a_loop
async def test_the_tables_of_an_app_are_apart(site: Site) -> None:
    """All of ours are in our schema."""
    async with site.store("shop"):
        query = "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename LIKE 'batchproxy\\_%'"
        rows = await execute(site.url("shop", "postgres"), [query])
    assert [row["schemaname"] for row in rows] == ["batchproxy"]


@on_a_loop
async def test_the_role_that_runs_may_change_no_table(site: Site) -> None:
    """Neither ours nor by making others; new ones of the owner it may use."""
    for statement in ("DROP TABLE batchproxy_job", "ALTER TABLE batchproxy_job ADD x int", "CREATE TABLE public.x ()"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(site.url(role="batchproxy_runs"), [statement])
    await execute(site.url(), ["CREATE TABLE batchproxy_later (x int)"])
    await execute(site.url(role="batchproxy_runs"), ["INSERT INTO batchproxy_later VALUES (1)"])
    await execute(site.url(), ["DROP TABLE batchproxy_later"])


@on_a_loop
async def test_others_may_not_connect(site: Site) -> None:
    """What is not granted to them."""
    await execute(site.url("postgres", "postgres"), ["CREATE ROLE somebody LOGIN"])
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await execute(site.url(role="somebody"), [])


@on_a_loop
async def test_tables_have_their_settings(site: Site) -> None:
    """Those that are named are ours, and show what is dead in them."""
    rows = await execute(site.url(), ["SELECT relname FROM pg_class WHERE 'autovacuum' < ANY (reloptions)"])
    assert {"batchproxy_chunk", "batchproxy_result", "batchproxy_limiter"} <= {row["relname"] for row in rows}
    ours = {table.name for table in metadata.sorted_tables}
    assert ours <= {row["relname"] for row in site.rows["SELECT"]}


@on_a_loop
async def test_commits_are_as_durable_as_the_role_says(site: Site) -> None:
    """Nothing of ours makes them less so."""
    assert len(site.rows["SHOW"]) == 1

    async def work(connection: AsyncConnection, now: float) -> str:
        return str((await connection.exec_driver_sql("SHOW synchronous_commit")).scalar_one())

    for level in ("local", "on"):
        await execute(site.url("postgres", "postgres"), [f"ALTER ROLE batchproxy SET synchronous_commit = {level}"])
        async with site.store() as store:
            assert await store._database.write(work) == level


@on_a_loop
async def test_a_process_has_few_connections(site: Site) -> None:
    """So many as it is allowed, and one for hints, however much is asked at once."""
    async with opened(StoreSettings(url=site.url(role="batchproxy_runs"), connections=3)) as store:
        await asyncio.gather(*(submit(store, owner=f"o{number}") for number in range(30)))
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'batchproxy_runs'"
        [row] = await execute(site.url(role="postgres"), [query])
        assert 1 <= row["count"] <= 3 + 1
        await complete(store)


@on_a_loop
async def test_without_any_hint_the_poll_does(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a pooler in transaction mode: a worker in another process sees new work, and does it."""
    monkeypatch.setattr(Hints, "start", lambda self: None)
    api = Api(tmp_path)
    async with site.store() as here, site.store() as there, JobWorker(there, [Lines(api.app)], quick(poll=0.2)):
        job_id = await submit_lines(here, [get(f"/items/{number}") for number in range(30)])
        assert (await ended(here, job_id)).counts.ok == 30
        assert len(api.ledger.lines) == 30


@on_a_loop
async def test_a_backup_has_all_of_it(site: Site, tmp_path: Path) -> None:
    """The dump that is shown, restored, is a store in which open jobs are open, with contents of any size."""
    found = binaries()
    assert found is not None
    [text] = re.findall(r"^~~~sh\n(pg_dump.*?)^~~~$", PAGE, re.MULTILINE | re.DOTALL)
    environment: Mapping[str, str] = {
        "PATH": f"{found}{os.pathsep}{os.environ['PATH']}",
        "PGHOST": site.url().rpartition("=")[2],
        "PGUSER": "postgres",
    }
    large = os.urandom(100_000)
    async with site.store() as store, store.submission(NewJob(owner="ann")) as submission:
        await submission.add(large)
        job_id = (await submission.commit()).job.id
    await execute(site.url("postgres", "postgres"), ["CREATE DATABASE restored OWNER batchproxy"])
    for command in text.splitlines():
        program, *arguments = command.split()
        process = await asyncio.create_subprocess_exec(program, *arguments, cwd=tmp_path, env=environment)
        assert await process.wait() == 0, command
    async with site.store("restored") as store:
        [claim] = [each for each in await store.claims.claim("w", 100) if each.lease.job == job_id]
        assert await store.inputs.items(claim) == {0: large}
