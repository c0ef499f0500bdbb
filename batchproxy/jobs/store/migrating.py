"""Running migrations, with Alembic.

Knows: what a database lacks, and whose it is. Must not know: transactions. Imported only where it has something to do.
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

from .errors import SchemaForeign, SchemaNewer, StoreReadOnly
from .tables import PREFIX, VERSION_TABLE

_MIGRATIONS = Path(__file__).with_name("migrations")


def outstanding(connection: Connection, folders: Sequence[Path]) -> str | None:
    """What `upgrade` would do, in words; None for nothing. Raises `StoreError`."""
    scripts = _scripts(folders)
    current = _current(_context(connection, scripts), scripts)
    if not _missing(scripts, current):
        return None
    if connection.dialect.name != "sqlite":
        may = connection.execute(text("SELECT has_schema_privilege(current_schema(), 'CREATE')")).scalar()
        if not may:
            raise StoreReadOnly("The user of the database may not make tables; give it CREATE on the schema.")
    if current is None:
        return "its tables will be made at the start"
    return f"its schema {current} will be migrated to {scripts.get_current_head()} at the start"


def upgrade(connection: Connection, folders: Sequence[Path]) -> None:
    """Runs the migrations of these folders that the database lacks. Raises `StoreError`."""
    scripts = _scripts(folders)
    context = _context(connection, scripts)
    current = _current(context, scripts)
    with Operations.context(context):
        for script in _missing(scripts, current):
            script.module.upgrade()
            _note(connection, script.revision)


def _context(connection: Connection, scripts: ScriptDirectory) -> MigrationContext:
    return MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "transactional_ddl": False, "script": scripts}
    )


def _current(context: MigrationContext, scripts: ScriptDirectory) -> str | None:
    """The version of the database; None if it has no tables of ours yet. Raises `SchemaNewer`, `SchemaForeign`."""
    assert context.connection is not None
    current = context.get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if current is None:
        _check_is_ours(context.connection)
    elif current not in known:
        raise SchemaNewer(
            f"The store was made by a newer version of batchproxy (its schema is {current}, the newest known here "
            f"{scripts.get_current_head()}); use that version, or another store."
        )
    return current


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
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(map(str, folders)))
    return ScriptDirectory.from_config(config)
