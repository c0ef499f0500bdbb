"""The schema: made, migrated as a whole or not at all, refused if it is newer or somebody else's."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from batchproxy.jobs.store import (
    JobState,
    Limits,
    SchemaForeign,
    SchemaNewer,
    StoreReadOnly,
    StoreSettings,
    StoreUnreachable,
    looked_at,
)
from batchproxy.jobs.store.database import Database
from batchproxy.jobs.store.schema import MIGRATIONS, migrate, newest, pending
from batchproxy.jobs.store.tables import PREFIX, VERSION_TABLE, metadata
from tests.programs import run as run_program
from tests.proxy.on_a_loop import on_a_loop

from ..place import Place, complete, settle, submit
from ..postgresql import Cluster

FIRST = Path(__file__).with_name("first_schema.sql")
LATER = """
from alembic import op
import sqlalchemy as sa

revision = "9999"
down_revision = "{head}"

def upgrade():
    op.add_column("batchproxy_worker", sa.Column("later", sa.Text()))
    op.execute("{statement}")
"""

ADDITIVE = """
from alembic import op
import sqlalchemy as sa

revision = "9999"
down_revision = "{head}"

def upgrade():
    for name in {tables}:
        op.add_column(name, sa.Column("later", sa.Text(), nullable=False, server_default="x"))
"""

OPENS = """
import asyncio, sys
from batchproxy.jobs.store import StoreSettings, opened

async def main():
    async with opened(StoreSettings(url=sys.argv[1])):
        print("opened,", "with" if "alembic" in sys.modules else "without", "alembic")

asyncio.run(main())
"""


def differences(connection: Connection) -> list[object]:
    def ours(name: str | None, kind: str, parents: object) -> bool:
        return kind != "table" or ((name or "").startswith(PREFIX) and name != VERSION_TABLE)

    context = MigrationContext.configure(connection, opts={"include_name": ours, "compare_type": True})
    found: list[object] = compare_metadata(context, metadata)
    return found


async def run(database: Database, statement: str) -> list[object]:
    async def work(connection: AsyncConnection, now: float) -> list[object]:
        done = await connection.execute(text(statement))
        return [tuple(row) for row in done] if done.returns_rows else []

    return await database.write(work)


@on_a_loop
async def test_migrations_make_what_is_written(new_place: Place) -> None:
    """The tables are those of `tables.py`, column by column."""
    database = Database(new_place.settings(), new_place.clock)
    try:
        await migrate(database)
        assert await database.read(lambda connection, now: connection.run_sync(differences)) == []
    finally:
        await database.aclose()


@on_a_loop
async def test_many_may_open_a_new_store_at_once(new_place: Place) -> None:
    """One of them makes the tables, the others wait for it."""
    databases = [Database(new_place.settings(), new_place.clock) for _ in range(8)]
    try:
        await asyncio.gather(*map(migrate, databases))
        assert await run(databases[0], f"SELECT version_num FROM {VERSION_TABLE}") == [("0001",)]
    finally:
        for database in databases:
            await database.aclose()


@on_a_loop
async def test_the_newest_schema_needs_no_alembic(sqlite: Place) -> None:
    """A start that finds it spares its import, which is a good part of the time and the memory of a start."""
    async with sqlite.opened():
        pass
    told = await asyncio.to_thread(run_program, sys.executable, "-c", OPENS, sqlite.url)
    assert told.stdout == "opened, without alembic\n"


def test_migrations_are_named_by_their_version(tmp_path: Path) -> None:
    """The newest is known by its name, and is what Alembic takes for the newest."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    assert newest([MIGRATIONS / "versions"]) == scripts.get_current_head()
    for script in scripts.walk_revisions():
        assert Path(script.path).name.startswith(f"v{script.revision}_")
    (tmp_path / "v0012_more.py").touch()
    assert newest([MIGRATIONS / "versions", tmp_path]) == "0012"


@on_a_loop
async def test_a_store_of_the_first_schema_is_taken_over(new_sqlite: Place) -> None:
    """A job that was open then is done now; results that were there stay."""
    with sqlite3.connect(new_sqlite.settings().file) as connection:
        connection.executescript(FIRST.read_text("utf-8"))
    connection.close()
    async with new_sqlite.opened() as store:
        [job] = (await store.jobs.list("ann")).jobs
        assert (job.state, job.counts.done, job.total) == (JobState.RUNNING, 3, 6)
        new_sqlite.clock.now += 3600
        await complete(store)
        ended = await store.jobs.get(job.id, "ann")
        assert (ended.state, ended.counts.ok) == (JobState.COMPLETED, 6)


@on_a_loop
async def test_migrations_are_done_as_a_whole(new_place: Place, tmp_path: Path) -> None:
    """One that fails leaves everything as it was; the corrected one is done then."""
    folders = (MIGRATIONS / "versions", tmp_path / "later")
    folders[1].mkdir()
    file = folders[1] / "v9999.py"
    database = Database(new_place.settings(), new_place.clock)
    try:
        await migrate(database)
        file.write_text(LATER.format(head="0001", statement="INSERT INTO nowhere VALUES (1)"))
        with pytest.raises(Exception, match="nowhere"):
            await migrate(database, folders)
        assert await database.read(lambda connection, now: connection.run_sync(differences)) == []
        file.write_text(LATER.format(head="0001", statement="SELECT 1"))
        await migrate(database, folders)
        assert await run(database, "SELECT later FROM batchproxy_worker") == []
        await migrate(database, folders)
        with pytest.raises(SchemaNewer, match="9999"):
            await migrate(database)
    finally:
        await database.aclose()


@on_a_loop
async def test_old_processes_go_on_while_a_newer_one_migrates(new_place: Place, tmp_path: Path) -> None:
    """What has begun with the old tables ends; and new work is taken and done by those that are still there."""
    later = ADDITIVE.format(head="0001", tables=[table.name for table in metadata.sorted_tables])
    (tmp_path / "v9999.py").write_text(later)
    async with new_place.opened() as old:
        await submit(old, 9)
        held = await old.claims.claim("old", 2)
        await settle(old, held[0])
        await old.limiter.take("u", "old", Limits(rate=5, max_in_flight=5), items=1, places=1)
        newer = Database(new_place.settings(), new_place.clock)
        try:
            await migrate(newer, (MIGRATIONS / "versions", tmp_path))
        finally:
            await newer.aclose()
        assert (await old.claims.renew([held[1].lease])).renewed == {held[1].lease}
        await settle(old, held[1])
        await old.limiter.take("u", "old", Limits(rate=5, max_in_flight=5), items=1, places=1)
        job = await submit(old, 4, idempotency_key="k", input_file="f")
        await complete(old)
        assert {each.counts.ok for each in (await old.jobs.list("ann")).jobs} == {9, 4}
        assert len((await old.results.in_order(job.id, "ann")).results) == 4
        assert await old.workers.beat(await old.workers.register()) is False
        assert await old.outbox.take(1) == []
        await old.retention.delete(job.id, "ann")
        await old.retention.sweep()
        with pytest.raises(SchemaNewer):
            async with new_place.opened():
                pass


@on_a_loop
async def test_a_look_changes_nothing(new_place: Place, tmp_path: Path) -> None:
    """It says what opening the store would do at first, and what would be wrong."""
    settings = new_place.settings()
    assert "will be made" in str(await looked_at(settings))
    assert not (new_place.is_sqlite and settings.file.exists())
    database = Database(settings, new_place.clock)
    try:
        await run(database, "SELECT 1")  # a file without tables
        assert await looked_at(settings) == "its tables will be made at the start"
        await migrate(database)
        assert await looked_at(settings) is None
        later = tmp_path / "later"
        later.mkdir()
        (later / "v9999.py").write_text(LATER.format(head="0001", statement="SELECT 1"))
        told = await pending(database, (MIGRATIONS / "versions", later))
        assert told == "its schema 0001 will be migrated to 9999 at the start"
        assert await looked_at(settings) is None
        await run(database, f"UPDATE {VERSION_TABLE} SET version_num = '0777'")
        with pytest.raises(SchemaNewer, match=r"0777.*0001"):
            await looked_at(settings)
    finally:
        await database.aclose()


@on_a_loop
async def test_a_look_tells_who_may_not_make_tables(postgresql: Cluster) -> None:
    """Since PostgreSQL 15 others than the owner of a database may not, unless they are given that."""
    url = postgresql.new_url()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE ROLE weak LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        with pytest.raises(StoreReadOnly, match="CREATE"):
            await looked_at(StoreSettings(url=url.replace("postgres@", "weak@")))
        with pytest.raises(StoreUnreachable, match="does not let this user in"):
            await looked_at(StoreSettings(url=url.replace("postgres@", "nobody@")))
    finally:
        await connection.execute("DROP ROLE weak")
        await connection.close()


@on_a_loop
async def test_a_newer_store_is_refused(new_place: Place) -> None:
    """In a sentence that tells both versions; nothing is changed."""
    database = Database(new_place.settings(), new_place.clock)
    try:
        await migrate(database)
        await run(database, f"UPDATE {VERSION_TABLE} SET version_num = '0777'")
        with pytest.raises(SchemaNewer, match=r"0777.*0001"):
            async with new_place.opened():
                pass
        assert await run(database, f"SELECT version_num FROM {VERSION_TABLE}") == [("0777",)]
    finally:
        await database.aclose()


@on_a_loop
async def test_a_foreign_file_is_refused(new_sqlite: Place) -> None:
    """A database of something else is not written into."""
    file = new_sqlite.settings().file
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE books (title TEXT)")
    connection.close()
    with pytest.raises(SchemaForeign, match="books"):
        async with new_sqlite.opened():
            pass
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("books",)]
    connection.close()


@on_a_loop
async def test_a_database_is_shared_with_an_app(postgresql: Cluster, tmp_path: Path) -> None:
    """On PostgreSQL other tables are left alone."""
    place = Place(postgresql.new_url(), tmp_path)
    database = Database(place.settings(), place.clock)
    try:
        await run(database, "CREATE TABLE books (title TEXT)")
        async with place.opened() as store:
            await submit(store, 1)
        assert await run(database, "SELECT * FROM books") == []
    finally:
        await database.aclose()
