"""What one owner may have in the store: so many open jobs, so many bytes."""

from __future__ import annotations

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from .errors import QuotaExceeded
from .settings import StoreSettings
from .states import OPEN
from .tables import file, job

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:owner, 20531))")


async def lock_owner(connection: AsyncConnection, owner: str) -> None:
    """Lets one transaction after another decide about an owner; on SQLite writers are alone anyway."""
    if connection.dialect.name != "sqlite":
        await connection.execute(_LOCK, {"owner": owner})


async def check_open_jobs(connection: AsyncConnection, settings: StoreSettings, owner: str) -> None:
    if settings.open_jobs is None:
        return
    query = select(func.count()).where(job.c.owner == owner, job.c.state.in_(OPEN), job.c.gone.is_(None))
    if (await connection.execute(query)).scalar_one() >= settings.open_jobs:
        raise QuotaExceeded("open_jobs", settings.open_jobs)


async def check_stored_bytes(connection: AsyncConnection, settings: StoreSettings, owner: str, more: int) -> None:
    """`more` is what the owner wants to add."""
    if settings.stored_bytes is None:
        return
    if await stored_bytes(connection, owner) + more > settings.stored_bytes:
        raise QuotaExceeded("stored_bytes", settings.stored_bytes)


async def stored_bytes(connection: AsyncConnection, owner: str) -> int:
    """Inputs, results of ended jobs, and files; those that are being stored count as far as they have come."""
    jobs = select(func.coalesce(func.sum(job.c.stored_bytes), 0)).where(job.c.owner == owner, job.c.gone.is_(None))
    files = select(func.coalesce(func.sum(file.c.bytes), 0)).where(file.c.owner == owner, file.c.gone.is_(False))
    return int((await connection.execute(jobs)).scalar_one()) + int((await connection.execute(files)).scalar_one())
