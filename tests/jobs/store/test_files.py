"""Files, and the blobs that they and jobs are made of."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchproxy.jobs.store import BlobStore, Gone, LeaseLost, NotFound
from batchproxy.jobs.store.blob_rows import Rows
from batchproxy.jobs.store.blobs import PIECE, Folder
from batchproxy.jobs.store.database import Database
from batchproxy.jobs.store.schema import migrate
from batchproxy.jobs.store.settings import Bucket
from tests.proxy.on_a_loop import on_a_loop

from ..buckets import objects
from ..place import LEASE, Place, claim, submit

SIZES = [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 7]


async def blob_stores(place: Place, bucket: Bucket) -> AsyncIterator[BlobStore]:
    """Each kind of them."""
    yield Folder(place.folder / "blobs")
    if place.is_sqlite:  # once is enough
        yield objects(bucket)
    database = Database(place.settings(), place.clock)
    try:
        await migrate(database)
        yield Rows(database)
    finally:
        await database.aclose()


async def gathered(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


@on_a_loop
async def test_a_blob_is_what_was_written(place: Place, bucket: Bucket) -> None:
    """From any offset on, however it was cut into pieces, in a folder, in a bucket and in the database."""
    chance = random.Random(3)
    async for blobs in blob_stores(place, bucket):
        for size in SIZES:
            data, name = chance.randbytes(size), f"b{size}"
            writer = blobs.writer("p", name)
            left = memoryview(data)
            while left:
                step = chance.choice([1, 1000, 100_000, PIECE])
                await writer.write(bytes(left[:step]))
                left = left[step:]
            await writer.commit()
            assert writer.size == size
            assert await gathered(blobs.stream("p", name)) == data
            for start in {0, 1, size // 2, size - 1, size, PIECE} & set(range(size + 1)):
                assert await gathered(blobs.stream("p", name, start)) == data[start:]
                for length in (0, 1, size - start):
                    if start + length <= size:
                        assert await blobs.read("p", name, start, length) == data[start : start + length]
            with pytest.raises(Gone):
                await blobs.read("p", name, 0, size + 1)


@on_a_loop
async def test_a_place_is_cleared_as_a_whole(place: Place, bucket: Bucket) -> None:
    """Others stay; one that is not there is no harm; what was there is gone."""
    async for blobs in blob_stores(place, bucket):
        for where in ("one", "two"):
            writer = blobs.writer(where, "b")
            await writer.write(b"x")
            await writer.commit()
        await blobs.clear("one")
        await blobs.clear("one")
        await blobs.clear("never")
        with pytest.raises(Gone):
            await blobs.read("one", "b", 0, 1)
        with pytest.raises(Gone):
            await gathered(blobs.stream("one", "b"))
        assert await blobs.read("two", "b", 0, 1) == b"x"


@on_a_loop
async def test_an_aborted_blob_is_not_there(place: Place, bucket: Bucket) -> None:
    """Also if whoever wrote it was cancelled in the midst of it."""
    async for blobs in blob_stores(place, bucket):
        for pause in range(0, 30, 3):
            writer = blobs.writer("p", "b")
            task = asyncio.create_task(writer.write(bytes(4 * PIECE)))
            for _ in range(pause):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await writer.abort()
            with pytest.raises(Gone):
                await blobs.read("p", "b", 0, 1)


def test_names_lead_nowhere_else(tmp_path: Path) -> None:
    """Whatever somebody calls a blob, it lies in its place."""
    for name in ("", ".", "..", "a/b", "/etc", "a\0", "-x", ".x"):
        with pytest.raises(ValueError, match="not the name"):
            Folder(tmp_path).writer("p", name)
        with pytest.raises(ValueError, match="not the name"):
            Folder(tmp_path).writer(name, "b")


@on_a_loop
async def test_a_folder_can_be_read_while_it_is_cleared(sqlite: Place) -> None:
    """Who reads comes to the end of what he reads."""
    blobs = Folder(sqlite.folder / "blobs")
    writer = blobs.writer("p", "b")
    await writer.write(bytes(5 * PIECE))
    await writer.commit()
    size = 0
    async for piece in blobs.stream("p", "b"):
        if not size:
            await blobs.clear("p")
        size += len(piece)
    assert size == 5 * PIECE


@on_a_loop
async def test_files_belong_to_their_owner(place: Place) -> None:
    """Listed, read and removed by nobody else; the newest first."""
    async with place.opened() as store:
        made = []
        for owner in ("ann", "ann", "bob", "ann"):
            async with store.files.upload(owner=owner, purpose="batch", filename="f.jsonl", keep=100) as upload:
                await upload.write(owner.encode())
                made.append(await upload.commit())
        assert (made[0].bytes, made[0].expires_at) == (3, place.clock.now + 100)
        page = await store.files.list("ann", limit=2)
        assert ([each.id for each in page.files], page.has_more) == ([made[3].id, made[1].id], True)
        page = await store.files.list("ann", after=made[1].id, purpose="batch")
        assert ([each.id for each in page.files], page.has_more) == ([made[0].id], False)
        assert await store.files.get(made[0].id, "ann") == made[0]
        assert await gathered(store.files.content(made[0].id, "ann", start=1)) == b"nn"
        with pytest.raises(NotFound):
            await store.files.get(made[0].id, "bob")
        with pytest.raises(NotFound):
            await gathered(store.files.content(made[0].id, "bob"))
        with pytest.raises(NotFound):
            await store.files.delete(made[0].id, "bob")
        await store.files.delete(made[0].id, "ann")
        place.clock.now += 100
        assert (await store.files.list(None)).files == ()
        assert (await store.retention.sweep()).files == 3
        assert [path for path in place.folder.rglob("*-blobs/*/*")] == []


@on_a_loop
async def test_a_file_is_there_as_a_whole_or_not(place: Place) -> None:
    """An upload that is broken off, or dies, leaves nothing."""
    async with place.opened() as store:
        async with store.files.upload(owner="ann", purpose="batch", filename="f") as upload:
            await upload.write(bytes(PIECE))
        async with store.files.upload(owner="ann", purpose="batch", filename="f") as upload:
            await upload.write(bytes(PIECE))
            assert (await store.files.list("ann")).files == ()
            with pytest.raises(NotFound):
                await store.files.get(upload.file_id, "ann")
            place.clock.now += 1000
            assert (await store.retention.sweep()).files == 1
            with pytest.raises(LeaseLost):
                await upload.commit()
        assert [path for path in place.folder.rglob("*-blobs/*/*/*")] == []


@on_a_loop
async def test_a_file_can_be_made_twice(place: Place) -> None:
    """The later one takes the place of the earlier; with a lost lease, none."""
    async with place.opened() as store:
        await submit(store, 3)
        lost = await claim(store, "lost")

        async def make(content: bytes) -> None:
            upload = store.files.upload(
                owner="ann", purpose="batch_output", filename="f", file_id="output", lease=lost.lease
            )
            async with upload:
                await upload.write(content)
                await upload.commit()

        await make(b"first")
        await make(b"second")
        assert await gathered(store.files.content("output", "ann")) == b"second"
        place.clock.now += LEASE
        await claim(store)
        with pytest.raises(LeaseLost):
            await make(b"third")
        assert await gathered(store.files.content("output", "ann")) == b"second"
        await store.retention.sweep()
        assert len((await store.files.list("ann")).files) == 1
