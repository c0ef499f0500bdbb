"""The schema of the database: its version, and the migrations that lead to it.

A database without tables gets them; an older one is migrated, in one transaction; a newer or foreign one is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from alembic.script.base import Script
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from .database import Database
from .errors import SchemaForeign, SchemaNewer
from .tables import PREFIX

VERSION_TABLE = f"{PREFIX}schema"
MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK = 0x62_61_74_63_68_70_72_6F  # any number that all of us know


async def migrate(database: Database, folders: Sequence[Path] = (MIGRATIONS / "versions",)) -> None:
    """Brings the database to the newest version that is known. Raises `StoreError`."""

    async def work(connection: AsyncConnection, now: float) -> None:
        if not database.is_sqlite:
            # Several processes that start at once migrate one after another.
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            # An index on a large table takes its time.
            await connection.execute(text("SET LOCAL statement_timeout = 0"))
        await connection.run_sync(_upgrade, folders)

    await database.prepare()
    await database.write(work)


def _upgrade(connection: Connection, folders: Sequence[Path]) -> None:
    scripts = _scripts(folders)
    context = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "transactional_ddl": False, "script": scripts}
    )
    current = context.get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if current is None:
        _check_is_ours(connection)
    elif current not in known:
        raise SchemaNewer(
            f"The store was made by a newer version of batchproxy (its schema is {current}, the newest known here "
            f"{scripts.get_current_head()}); use that version, or another store."
        )
    with Operations.context(context):
        for script in _missing(scripts, current):
            script.module.upgrade()
            _note(connection, script.revision)


def _missing(scripts: ScriptDirectory, current: str | None) -> list[Script]:
    """What has to be run, the oldest first."""
    newer = [script for script in scripts.iterate_revisions("heads", current or "base") if script.revision != current]
    return newer[::-1]


def _note(connection: Connection, revision: str) -> None:
    connection.execute(
        text(f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    )
    connection.execute(text(f"DELETE FROM {VERSION_TABLE}"))
    connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES (:revision)"), {"revision": revision})


def _check_is_ours(connection: Connection) -> None:
    there = inspect(connection).get_table_names()
    # A database of PostgreSQL may be shared with an app; a file may not.
    foreign = [name for name in there if connection.dialect.name == "sqlite" or name.startswith(PREFIX)]
    if foreign:
        raise SchemaForeign(f"The database is not a store of batchproxy: it has the table {foreign[0]}; use another.")


def _scripts(folders: Sequence[Path]) -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(map(str, folders)))
    return ScriptDirectory.from_config(config)
