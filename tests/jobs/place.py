"""Where a store is, on a time that tests set; and short words for what tests do again and again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from batchproxy.jobs.store import (
    Claim,
    Clock,
    ItemResult,
    Job,
    JobStore,
    Kind,
    NewJob,
    Outcome,
    StoreSettings,
    Submitted,
    opened,
)
from batchproxy.jobs.store.database import Database
from batchproxy.jobs.store.points import Passing, unnoticed
from batchproxy.jobs.store.tables import metadata

START = 1_800_000_000.0
LEASE = 30.0


class SetClock(Clock):
    """Stands still until it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START

    async def start(self, connection: AsyncConnection, settings: StoreSettings) -> float:
        await super().start(connection, settings)
        return self.now


class Place:
    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.clock = SetClock()

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def settings(self, **changed: Any) -> StoreSettings:
        # Nobody waits for so long, but on a slow machine.
        return StoreSettings(**{"url": self.url, "lease": LEASE, "chunk_items": 3, "wait": 60, **changed})

    @asynccontextmanager
    async def opened(self, passing: Passing = unnoticed, **changed: Any) -> AsyncIterator[JobStore]:
        async with opened(self.settings(**changed), clock=self.clock, passing=passing) as store:
            yield store


def item(seq: int) -> bytes:
    return b"item %d" % seq


async def submit(store: JobStore, n: int = 3, *, owner: str = "ann", **said: Any) -> Job:
    return (await submitted(store, n, owner=owner, **said)).job


async def submitted(store: JobStore, n: int = 3, *, owner: str = "ann", **said: Any) -> Submitted:
    async with store.submission(NewJob(owner=owner, **said)) as submission:
        for seq in range(n):
            await submission.add(item(seq))
        return await submission.commit()


def ok(seq: int, body: bytes = b"") -> ItemResult:
    return ItemResult(seq=seq, outcome=Outcome.OK, status=200, body=body)


def error(seq: int) -> ItemResult:
    return ItemResult(seq=seq, outcome=Outcome.ERROR, status=500)


async def claim(store: JobStore, worker: str = "w1") -> Claim:
    """The only thing that there is to claim."""
    [claimed] = await store.claims.claim(worker, 10)
    return claimed


async def settle(store: JobStore, claimed: Claim, results: Sequence[ItemResult] | None = None) -> None:
    """All that is open in a chunk, or these results."""
    async with store.checkpointer() as checkpointer:
        said = [ok(seq) for seq in claimed.open_seqs] if results is None else results
        assert (await checkpointer.settle(claimed.lease, *said)).held


async def end(store: JobStore) -> Job:
    """Does the work of the end, which must be there."""
    claimed = await claim(store, "w-end")
    assert claimed.lease.kind is Kind.FINALIZE
    await store.ending.settle_rest(claimed.lease)
    return await store.ending.finish(claimed.lease)


async def complete(store: JobStore) -> None:
    """Does all that there is to do."""
    while claims := await store.claims.claim("w1", 10):
        for claimed in claims:
            if claimed.lease.kind is Kind.FINALIZE:
                await store.ending.settle_rest(claimed.lease)
                await store.ending.finish(claimed.lease)
            else:
                await settle(store, claimed)


async def rows(place: Place) -> dict[str, int]:
    """How many rows there are in each table that has any."""
    database = Database(place.settings(), place.clock)
    try:
        counts = await database.read(_count)
    finally:
        await database.aclose()
    return {name: n for name, n in counts.items() if n}


async def _count(connection: AsyncConnection, now: float) -> dict[str, int]:
    names = [table.name for table in metadata.sorted_tables]
    return {name: (await connection.exec_driver_sql(f"SELECT count(*) FROM {name}")).scalar_one() for name in names}
