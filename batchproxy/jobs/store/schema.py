"""The schema of the database: its version, and whether that is the newest.

A database without tables gets them; an older one is migrated, in one transaction; a newer or foreign one is refused.
What all that takes is imported when there is something to do: most starts find the newest schema, and need none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from .database import Database
from .tables import VERSION_TABLE

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


async def pending(database: Database, folders: Sequence[Path] = (MIGRATIONS / "versions",)) -> str | None:
    """What `migrate` would do, in words; None for nothing. It only looks. Raises `StoreError`."""
    return await database.read(lambda connection, now: connection.run_sync(_pending, folders))


def newest(folders: Sequence[Path]) -> str:
    """The version that the newest migration leads to, by the name of its file."""
    names = [file.stem for folder in folders for file in folder.glob("v[0-9]*.py")]
    return max(name.removeprefix("v").partition("_")[0] for name in names)


def _upgrade(connection: Connection, folders: Sequence[Path]) -> None:
    if _noted(connection) != newest(folders):
        from .migrating import upgrade

        upgrade(connection, folders)


def _pending(connection: Connection, folders: Sequence[Path]) -> str | None:
    if _noted(connection) == newest(folders):
        return None
    from .migrating import outstanding

    return outstanding(connection, folders)


def _noted(connection: Connection) -> str | None:
    """The version that the database has; None if it says none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return version
