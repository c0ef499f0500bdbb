"""Stores for tests, on both databases."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from batchproxy.jobs.store.settings import Bucket
from batchproxy.jobs.store.tables import VERSION_TABLE

from .buckets import VARIABLES, Buckets, buckets
from .place import Place
from .postgresql import Cluster, cluster


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[Buckets]:
    with buckets() as server:
        yield server


@pytest.fixture
def bucket(bucket_server: Buckets, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """With nothing in it, and credentials for it in the environment."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    return bucket_server.new()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: most tests are not about the disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="batchproxy-", dir=memory))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def shared_url(postgresql: Cluster) -> str:
    """A database that is emptied for each test: making one takes longer than most tests."""
    return postgresql.new_url()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, folder: Path) -> Place:
    """Where a store can be opened that has nothing in it, on each database."""
    made: Place = request.getfixturevalue("sqlite" if request.param == "sqlite" else "postgresql_place")
    return made


@pytest.fixture
def postgresql_place(shared_url: str, folder: Path) -> Place:
    """For what happens only where several write at once."""
    asyncio.run(_emptied(shared_url))
    return Place(shared_url, folder)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of SQLite with tables and nothing in them, to be copied: to make them takes longer than many a test."""
    folder = tmp_path_factory.mktemp("tables")
    made = Place(f"sqlite:///{folder}/jobs.db", folder)
    asyncio.run(_prepared(made))
    [file] = folder.glob("jobs.db*")  # nothing is beside it that would belong to it
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def new_place(request: pytest.FixtureRequest, folder: Path) -> Place:
    """Where not even tables are."""
    if request.param == "sqlite":
        return Place(f"sqlite:///{folder}/jobs.db", folder)
    return Place(request.getfixturevalue("postgresql").new_url(), folder)


@pytest.fixture
def new_sqlite(folder: Path) -> Place:
    """Where not even a file is."""
    return Place(f"sqlite:///{folder}/jobs.db", folder)


@pytest.fixture
def sqlite(new_sqlite: Place, tables: Path) -> Place:
    shutil.copy(tables, new_sqlite.settings().file)
    return new_sqlite


async def _prepared(place: Place) -> None:
    async with place.opened():
        pass


async def _emptied(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE tablename LIKE 'batchproxy\\_%'")
        if names := {row["tablename"] for row in rows} - {VERSION_TABLE}:
            # Not by DELETE, which leaves its traces: some tests weigh what is there.
            await connection.execute(f"TRUNCATE {', '.join(names)}")
    finally:
        await connection.close()
