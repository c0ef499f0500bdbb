"""Blobs in a bucket: large ones, what goes wrong with the server, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import socket
import sys
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from batchproxy.engine.errors import SettingError
from batchproxy.jobs.store import Gone, JobsError, StoreError, StoreSettings, blobs_s3
from batchproxy.jobs.store.blobs_s3 import PART, READ
from batchproxy.jobs.store.settings import Bucket
from batchproxy.jobs.store.store import objects_of
from tests.faults.memory import MiB
from tests.proxy.on_a_loop import LOOPS, PATIENCE, on_a_loop, run

from ..buckets import KEY, SECRET, Buckets, buckets, objects, settings_of
from ..place import Place, claim, complete, ok, settle, submit

GROWTH = 40 * MiB
"""What a writer and a reader may take beside what they are given: some parts that are under way."""


async def written(blobs: object, data: bytes, name: str = "b") -> None:
    writer = blobs.writer("p", name)  # type: ignore[attr-defined]
    for start in range(0, len(data), 300_007):
        await writer.write(data[start : start + 300_007])
    await writer.commit()


async def gathered(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def come_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


# Large contents


@pytest.mark.parametrize("loop", LOOPS)
def test_a_large_blob_comes_in_parts(loop: str, bucket_server: Buckets, bucket: Bucket) -> None:
    """It is sent while it is written, seen by nobody before its commit, and read from any offset, by many at once."""
    data = random.Random(5).randbytes(2 * PART + PART // 2 + 7)

    async def test() -> None:
        blobs = objects(bucket)
        writer = blobs.writer("p", "b")
        for start in range(0, len(data), 300_007):
            await writer.write(data[start : start + 300_007])
        await come_true(lambda: bucket_server.uploads(bucket) != [])
        with pytest.raises(Gone):
            await blobs.read("p", "b", 0, 1)
        await writer.commit()
        assert (bucket_server.uploads(bucket), writer.size) == ([], len(data))
        starts = [0, 1, READ, READ - 1, PART, PART + 1, len(data) - 1, len(data)]
        found = await asyncio.gather(*(gathered(blobs.stream("p", "b", start)) for start in starts))
        assert [len(each) for each in found] == [len(data) - start for start in starts]
        assert all(each == data[start:] for start, each in zip(starts, found, strict=True))
        assert await blobs.read("p", "b", PART - 5, 10) == data[PART - 5 : PART + 5]

    run(test(), loop)


@on_a_loop
async def test_memory_stays_flat(bucket: Bucket) -> None:
    """Of a blob of 64 MiB a few parts are held, on the way there and back."""
    blobs, piece, size = objects(bucket), os.urandom(MiB), 0
    # What is allocated is counted, not what the process holds: that varies with what ran in it before.
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        writer = blobs.writer("p", "b")
        for _ in range(64):
            await writer.write(piece)
        await writer.commit()
        async for found in blobs.stream("p", "b"):
            size += len(found)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == 64 * MiB
    assert most - before < GROWTH


@on_a_loop
async def test_a_large_blob_that_is_abandoned_leaves_nothing(bucket_server: Buckets, bucket: Bucket) -> None:
    """No object, and no parts that would be paid for; whether it was broken off between writes, or in one."""
    blobs = objects(bucket)
    for pause in (0, 1, 5, 50):
        writer = blobs.writer("p", "b")
        await writer.write(bytes(PART + 1))
        task = asyncio.create_task(writer.write(bytes(4 * PART)))
        for _ in range(pause):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await writer.abort()
        assert (bucket_server.keys(bucket), bucket_server.uploads(bucket)) == ([], [])


@on_a_loop
async def test_who_commits_may_be_cancelled(bucket_server: Buckets, bucket: Bucket) -> None:
    """What is under way then comes to its end before it is removed."""
    blobs = objects(bucket)
    for size in (1, PART, PART + 1):
        for pause in (0, 1, 3, 30):
            writer = blobs.writer("p", "b")
            await writer.write(bytes(size))
            task = asyncio.create_task(writer.commit())
            for _ in range(pause):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await writer.abort()
            assert (bucket_server.keys(bucket), bucket_server.uploads(bucket)) == ([], [])


@on_a_loop
async def test_a_place_with_many_blobs_is_cleared(
    bucket_server: Buckets, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one answer of the server lists, and not those of another place that begins alike."""
    monkeypatch.setattr(blobs_s3, "LISTED", 2)
    blobs = objects(bucket)
    await asyncio.gather(*(written(blobs, b"x", f"b{number}") for number in range(5)))
    other = blobs.writer("pp", "b")
    await other.write(b"x")
    await other.commit()
    await blobs.clear("p")
    assert bucket_server.keys(bucket) == ["of/tests/pp/pp/b"]


# What goes wrong


@on_a_loop
async def test_a_server_that_goes_amid_a_blob(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes is told so, in the write or at the commit; so is who gives up, and who reads."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with buckets() as server:
        blobs = objects(server.new(), patience=0.3)
        await written(blobs, bytes(2 * READ), "whole")
        pieces = blobs.stream("p", "whole")
        assert len(await anext(pieces)) == READ
        small, large = blobs.writer("p", "small"), blobs.writer("p", "large")
        await small.write(b"x")
        await large.write(bytes(2 * PART))
        server.kill()
        for call in (small.commit, lambda: large.write(bytes(4 * PART)), small.abort, large.abort):
            with pytest.raises(StoreError, match="cannot be reached or read now") as caught:
                await call()
            assert (caught.value.code, caught.value.passing) == ("store_unreachable", True)
        with pytest.raises(StoreError, match="cannot be reached"):
            await anext(pieces)
        with pytest.raises(StoreError, match="cannot be reached"):
            await blobs.clear("p")


async def asked(blobs: object) -> AsyncIterator[JobsError]:
    """What each way to ask for something is refused with."""
    writer = blobs.writer("p", "new")  # type: ignore[attr-defined]
    large = blobs.writer("p", "large")  # type: ignore[attr-defined]

    async def in_parts() -> None:
        await large.write(bytes(2 * PART))
        await large.commit()

    for call in (
        writer.commit,
        in_parts,
        lambda: blobs.read("p", "b", 0, 1),  # type: ignore[attr-defined]
        lambda: gathered(blobs.stream("p", "b")),  # type: ignore[attr-defined]
        lambda: blobs.clear("p"),  # type: ignore[attr-defined]
    ):
        with pytest.raises(JobsError) as caught:
            await call()
        yield caught.value


@on_a_loop
async def test_a_bucket_that_is_not_there(bucket_server: Buckets, bucket: Bucket) -> None:
    """It is missing, and not the blob in it."""
    async for error in asked(objects(bucket_server.named("no-such-bucket"))):
        assert error.code == "store_missing"
        assert "no bucket no-such-bucket" in str(error)


@on_a_loop
async def test_a_bucket_that_lets_nobody_in(bucket_server: Buckets, bucket: Bucket) -> None:
    """Somebody may correct that while the process runs: what waits for it then goes on."""
    blobs = objects(bucket)
    await written(blobs, b"x")
    bucket_server.lock()
    try:
        async for error in asked(blobs):
            assert (error.code, isinstance(error, StoreError) and error.passing) == ("store_unreachable", True)
            assert f"{bucket.name} does not let this process in (InvalidAccessKeyId)" in str(error)
            assert not {KEY, SECRET} & set(str(error).split())
    finally:
        bucket_server.unlock()
    assert await blobs.read("p", "b", 0, 1) == b"x"


@asynccontextmanager
async def answering(status: str, code: str) -> AsyncIterator[str]:
    """A server that refuses everything, and quotes what it should not."""
    body = f"<Error><Code>{code}</Code><Message>no {KEY}</Message><Signed>{SECRET}</Signed></Error>".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        for length in re.findall(rb"(?i)content-length: (\d+)", head):
            await reader.readexactly(int(length))
        writer.write(b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status.encode(), len(body)))
        writer.write(body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("status", "code", "meaning"),
    [
        ("507 Insufficient Storage", "XMinioStorageFull", "store_full"),
        ("403 Forbidden", "QuotaExceeded", "store_full"),
        ("403 Forbidden", "SignatureDoesNotMatch", "store_unreachable"),
        ("401 Unauthorized", "Unknown", "store_unreachable"),
        ("503 Slow Down", "SlowDown", "store_busy"),
        ("429 Too Many Requests", "TooManyRequests", "store_busy"),
        ("500 Internal Server Error", "InternalError", "store_unreachable"),
        ("301 Moved Permanently", "redirects everything", "store_unreachable"),
    ],
)
def test_what_errors_mean(
    status: str, code: str, meaning: str, bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    """Each has a code of the store, and of what the server says only its own: the rest may hold a credential."""

    async def test() -> None:
        async with answering(status, code) as url:
            blobs = objects(bucket._replace(endpoint=url), patience=0.2)
            with caplog.at_level(logging.DEBUG), pytest.raises(StoreError) as caught:
                await written(blobs, b"x")
            assert caught.value.code == meaning
            told = "".join(traceback.format_exception(caught.value)) + caplog.text
            assert code in told or status[:3] in told
            assert KEY not in told
            assert SECRET not in told

    run(test())


@on_a_loop
async def test_without_credentials(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the environment nor of the machine: that is what is told."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(StoreError, match="There are no credentials for the bucket") as caught:
            await written(objects(bucket, patience=0.1), b"x")
    assert caught.value.code == "store_unreachable"


# As the place of a store


@on_a_loop
async def test_jobs_and_files_in_a_bucket(place: Place, bucket_server: Buckets, bucket: Bucket) -> None:
    """Inputs, results and files that are large lie there as long as they are kept; nothing does afterwards."""
    body = os.urandom(20_000)
    async with place.opened(**settings_of(bucket), inline_bytes=4) as store:
        job = await submit(store, 3)
        claimed = await claim(store)
        assert list((await store.inputs.items(claimed)).values()) == [b"item 0", b"item 1", b"item 2"]
        await settle(store, claimed, [ok(seq, body) for seq in claimed.open_seqs])
        await complete(store)
        page = await store.results.in_order(job.id, "ann")
        assert [each.body for each in page.results] == [body] * 3
        async with store.files.upload(owner="ann", purpose="batch", filename="f") as upload:
            await upload.write(body)
            file = await upload.commit()
        assert await gathered(store.files.content(file.id, "ann", start=5)) == body[5:]
        assert len(bucket_server.keys(bucket)) == 3
        await store.files.delete(file.id, "ann")
        await store.retention.delete(job.id, "ann")
        assert bucket_server.keys(bucket) == []
        with pytest.raises(Gone):
            await gathered(objects(bucket).stream(job.id, "b"))


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        ({"blobs": "s3://"}, "blobs"),
        ({"blobs": "s3://x"}, "blobs"),
        ({"blobs": "s3://key:hidden@bucket/x"}, "blobs"),
        ({"blobs": "s3://bucket/a/../b"}, "blobs"),
        ({"blobs": "s3://bucket//a"}, "blobs"),
        ({"blobs": "s3://bucket?region=x"}, "blobs"),
        ({"blobs": "gs://bucket"}, "blobs"),
        ({"blobs_endpoint": "https://s3.example.com"}, "blobs_endpoint"),
        ({"blobs": "folder", "blobs_region": "eu-central-1"}, "blobs_region"),
        ({"blobs": "s3://bucket", "blobs_endpoint": "s3.example.com"}, "blobs_endpoint"),
        ({"blobs": "s3://bucket", "blobs_endpoint": "https://key:hidden@s3.example.com"}, "blobs_endpoint"),
        ({"blobs": "s3://bucket", "blobs_endpoint": "https://s3.example.com:port"}, "blobs_endpoint"),
        ({"blobs": "s3://bucket", "blobs_region": "eu central"}, "blobs_region"),
    ],
)
def test_what_is_no_bucket(given: dict[str, str], setting: str) -> None:
    """It is refused when it is set, and what may be a credential is not repeated."""
    with pytest.raises(SettingError) as caught:
        StoreSettings(url="sqlite:///x.db", **given)  # type: ignore[arg-type]
    assert caught.value.setting == setting
    assert "hidden" not in str(caught.value)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named; whoever has no bucket does not need it."""
    settings = StoreSettings(url="sqlite:///x.db", blobs="s3://bucket/a/b/")
    assert settings.bucket == Bucket("bucket", "a/b", None, None)
    monkeypatch.setitem(sys.modules, "botocore", None)
    monkeypatch.delitem(sys.modules, "batchproxy.jobs.store.blobs_s3")
    with pytest.raises(SettingError, match=r"batchproxy\[s3\] to be installed"):
        objects_of(settings)
