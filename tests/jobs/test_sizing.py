"""What the page on jobs says about sizes is about what a store takes."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import string
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from batchproxy.jobs.store import ItemResult, JobStore, Kind, NewJob, Outcome, StoreSettings, opened
from tests.documents import DOCS, section, tables
from tests.proxy.on_a_loop import on_a_loop

from .place import Place

PAGE = section((DOCS / "jobs.md").read_text("utf-8"), "Sizing")
ITEM = 150
HEADERS = (
    (b"content-type", b"application/json"),
    (b"content-length", b"200"),
    (b"date", b"Sun, 29 Nov 2026 04:00:00 GMT"),
)
_letters = (string.ascii_letters + string.digits).encode()


def text(size: int) -> bytes:
    """Nothing that could be compressed well."""
    return bytes(random.choices(_letters, k=size))


async def submit(store: JobStore, n: int) -> None:
    new = NewJob(
        owner="a" * 64, endpoint="/batch", options=text(150), secret=text(300), idempotency_key=text(36).decode()
    )
    async with store.submission(new) as submission:
        for _ in range(n):
            await submission.add(text(ITEM))
        await submission.commit()


async def complete(store: JobStore, size: int) -> None:
    async with store.checkpointer() as checkpointer:
        while claims := await store.claims.claim("w", 8):
            for claim in claims:
                if claim.lease.kind is Kind.FINALIZE:
                    await store.ending.settle_rest(claim.lease)
                    await store.ending.finish(claim.lease)
                    continue
                results = [
                    ItemResult(seq=seq, outcome=Outcome.OK, status=200, headers=HEADERS, body=text(size))
                    for seq in claim.open_seqs
                ]
                for start in range(0, len(results), 20):
                    await checkpointer.settle(claim.lease, *results[start : start + 20])


async def taken(place: Place) -> int:
    """The bytes of a store: tables with their indexes, and blobs."""
    if place.is_sqlite:
        file = Path(place.url.removeprefix("sqlite:///"))
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        blobs = file.with_name(f"{file.name}-blobs")
        return sum(path.stat().st_size for path in (file, *blobs.rglob("*")) if path.is_file())
    connection = await asyncpg.connect(place.url)
    try:
        query = (
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relname LIKE 'batchproxy\\_%' AND relkind='r'"
        )
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


async def measured(place: Place, *, jobs: int, items: int, body: int) -> float:
    """Bytes for each item, or for each job of one item."""
    settings = StoreSettings(url=place.url)
    async with opened(settings) as store:
        # So that no index is nearly empty.
        await asyncio.gather(*(submit(store, 1) for _ in range(10)))
        await complete(store, 0)
        before = await taken(place)
        await asyncio.gather(*(submit(store, items) for _ in range(jobs)))
        await complete(store, body)
        return (await taken(place) - before) / (jobs * items)


def said() -> dict[str, tuple[float, float]]:
    """Kilobytes, with SQLite and with PostgreSQL."""
    [table, *_] = tables(PAGE)
    return {name: (float(one), float(other)) for name, one, other in table[1:]}


@pytest.mark.parametrize(
    ("name", "jobs", "items", "body", "within"),
    [
        ("a job of one item, without its answer", 40, 1, 0, 2.0),
        ("an item with an answer of 200 bytes", 1, 1000, 200, 1.4),
        ("of 4,000 bytes", 1, 200, 4000, 1.3),
        ("of 12,000 bytes", 1, 100, 12_000, 1.3),
    ],
)
@on_a_loop
async def test_sizes_are_those_of_the_page(
    name: str, jobs: int, items: int, body: int, within: float, place: Place
) -> None:
    """More or less: pages of databases are never quite full."""
    shown = said()[name][0 if place.is_sqlite else 1] * 1000
    found = await measured(place, jobs=jobs, items=items, body=body)
    assert shown / within < found < shown * within
