"""Blobs as objects in a bucket of S3, or of anything that speaks as it does.

An object is seen once it is whole, so that a blob is there with its commit and not before. Small ones are sent in one
request, larger ones part by part while they are being written. Reads ask for ranges: each is an exchange of its own
that is over soon, however slow the reader is.

Knows: keys, requests, what the answers mean. Must not know: jobs, tables. Credentials are those of the environment or
of the machine; this module never sees them, and tells nothing of what a server says but its code: some quote the key.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)

from .blobs import checked, gone
from .errors import Gone, LeaseLost, StoreBusy, StoreFull, StoreMissing, StoreUnreachable
from .settings import Bucket

T = TypeVar("T")

PART = 5 * 1024 * 1024
"""The least that a part may have which is not the last. What is not more than that is sent at once."""
READ = 1024 * 1024
"""How much is asked for at once."""
LISTED = 1000
"""How many objects a request may list or remove at most."""
_READ_TIMEOUT = 20.0
_TRIES = 2
_AT_ONCE = 16
"""Requests of one process."""

_FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"})
_BUSY = frozenset({"SlowDown", "SlowDownRead", "SlowDownWrite", "TooManyRequests", "RequestLimitExceeded"})
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)


class Objects:
    """`patience` is for how long a connection may take."""

    def __init__(self, bucket: Bucket, *, patience: float) -> None:
        self._bucket = bucket
        self._patience = patience
        self._threads = ThreadPoolExecutor(_AT_ONCE, "batchproxy-s3")
        self._making = threading.Lock()
        self._client: Any = None

    def __repr__(self) -> str:
        return f"Objects({self._bucket.name})"

    def writer(self, place: str, name: str) -> ObjectWriter:
        return ObjectWriter(self, place, self._key(place, name))

    async def read(self, place: str, name: str, start: int, length: int) -> bytes:
        data, _ = await self.in_thread(partial(self._range, place, name, start, max(length, 1)))
        if len(data) < length:
            raise gone(place)
        return data[:length]

    async def stream(self, place: str, name: str, start: int = 0) -> AsyncIterator[bytes]:
        data, size = await self.in_thread(partial(self._range, place, name, start, READ))
        while data:
            yield data
            start += len(data)
            if start >= size:
                return
            data, _ = await self.in_thread(partial(self._range, place, name, start, READ))
        if start < size:
            raise gone(place)

    async def clear(self, place: str) -> None:
        await self.in_thread(partial(self._cleared, place))

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _key(self, place: str, name: str) -> str:
        return self._folder(place) + checked(name)

    def _folder(self, place: str) -> str:
        # The end of an id is random, its beginning is not: a bucket spreads its load by the beginning of keys.
        prefix = f"{self._bucket.prefix}/" if self._bucket.prefix else ""
        return f"{prefix}{checked(place)[-2:]}/{place}/"

    # In a thread

    def ask(self, place: str, operation: str, **said: Any) -> Any:
        """Raises `JobsError`. It has no cause: that would be logged with all that the server said."""
        try:
            return getattr(self._connected(), operation)(Bucket=self._bucket.name, **said)
        except (BotoCoreError, ClientError) as error:
            meaning = self._meant(error, place)
        except RecursionError:
            # What the client makes of a server that redirects whatever it is asked, such as to https.
            why = "its endpoint redirects everything; correct that"
            meaning = StoreUnreachable(f"The bucket {self._bucket.name} cannot be reached: {why}.")
        raise meaning

    def _range(self, place: str, name: str, start: int, length: int) -> tuple[bytes, int]:
        """As many bytes as there are, and the size of the whole."""
        try:
            found = self.ask(
                place, "get_object", Key=self._key(place, name), Range=f"bytes={start}-{start + length - 1}"
            )
        except _NothingThere:
            return b"", start
        try:
            # Without a range it is the whole, which is empty then.
            size = found.get("ContentRange", "").rpartition("/")[2] or found["ContentLength"]
            return found["Body"].read(), int(size)
        except BotoCoreError as error:
            meaning = self._meant(error, place)
        raise meaning

    def _cleared(self, place: str) -> None:
        said: dict[str, Any] = {"Prefix": self._folder(place), "MaxKeys": LISTED}
        while True:
            found = self.ask(place, "list_objects_v2", **said)
            if keys := [{"Key": each["Key"]} for each in found.get("Contents", ())]:
                removed = self.ask(place, "delete_objects", Delete={"Objects": keys, "Quiet": True})
                for each in removed.get("Errors", ()):
                    raise self._told(str(each.get("Code", "")), None, place)
            if not found.get("IsTruncated"):
                return
            said["ContinuationToken"] = found["NextContinuationToken"]

    def _connected(self) -> Any:
        """The client, which is made when it is needed: that takes a while."""
        with self._making:
            if self._client is None:
                self._client = _client(self._bucket, self._patience)
            return self._client

    def _meant(self, error: Exception, place: str) -> Exception:
        if isinstance(error, ClientError):
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return self._told(str(error.response.get("Error", {}).get("Code", "")), status, place)
        if isinstance(error, _NO_CREDENTIALS):
            what = "neither in the environment, such as AWS_ACCESS_KEY_ID, nor of this machine"
            return StoreUnreachable(f"There are no credentials for the bucket {self._bucket.name}: {what}.")
        return StoreUnreachable(
            f"The bucket {self._bucket.name} cannot be reached or read now ({type(error).__name__})."
        )

    def _told(self, code: str, status: int | None, place: str) -> Exception:
        bucket = f"bucket {self._bucket.name}"
        if code == "NoSuchBucket":
            return StoreMissing(f"There is no {bucket} ({code}); make it, or correct its name.")
        if code == "NoSuchUpload" or status == 404:
            return gone(place)
        if status == 416:
            return _NothingThere(code)
        if code in _FULL or status == 507:
            return StoreFull(f"No space is left in the {bucket} ({code}); free some, and it goes on by itself.")
        if code in _BUSY or status == 429:
            return StoreBusy(f"The {bucket} is asked for too much ({code}); try again.")
        if status in (301, 401, 403) or code == "AccessDenied":
            what = "check the credentials, the region and the policy of the bucket"
            return StoreUnreachable(f"The {bucket} does not let this process in ({code}); {what}.")
        return StoreUnreachable(f"The {bucket} cannot be reached or read now ({code or status}).")


class _NothingThere(Exception):
    """There is such an object, and it ends before the range."""


class ObjectWriter:
    """Gathers small writes. Whoever is cancelled leaves a request behind, and the next call waits for that."""

    def __init__(self, objects: Objects, place: str, key: str) -> None:
        self.size = 0
        self._objects = objects
        self._place = place
        self._key = key
        self._waiting = bytearray()
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []
        self._thread: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        self._waiting += data
        self.size += len(data)
        while len(self._waiting) > PART:
            await self._in_thread(self._sent)

    async def commit(self) -> None:
        await self._in_thread(self._committed)

    async def abort(self) -> None:
        await self._in_thread(self._aborted)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        if self._thread is not None and not self._thread.done():
            await asyncio.wait([self._thread])
        thread = self._thread = asyncio.ensure_future(self._objects.in_thread(work))
        thread.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        await asyncio.shield(thread)

    def _sent(self) -> None:
        if self._upload is None:
            self._upload = self._ask("create_multipart_upload")["UploadId"]
        with memoryview(self._waiting) as waiting, waiting[:PART] as first:
            data = bytes(first)
        number = len(self._parts) + 1
        tag = self._ask("upload_part", UploadId=self._upload, PartNumber=number, Body=data)["ETag"]
        self._parts.append({"PartNumber": number, "ETag": tag})
        del self._waiting[:PART]

    def _committed(self) -> None:
        if self._upload is None:
            self._ask("put_object", Body=bytes(self._waiting))
            return
        self._sent()
        self._ask("complete_multipart_upload", UploadId=self._upload, MultipartUpload={"Parts": self._parts})

    def _aborted(self) -> None:
        self._waiting.clear()
        if self._upload is not None:
            try:
                self._ask("abort_multipart_upload", UploadId=self._upload)
            except LeaseLost:
                pass  # it was committed
        self._ask("delete_object")

    def _ask(self, operation: str, **said: Any) -> Any:
        try:
            return self._objects.ask(self._place, operation, Key=self._key, **said)
        except Gone:
            raise LeaseLost(f"{self._place} was cleared while it was being written.") from None


def _client(bucket: Bucket, patience: float) -> Any:
    """What the settings do not say is taken from the environment."""
    logger = logging.getLogger("botocore")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)  # far below, it tells the headers of requests
    endpoint = bucket.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        connect_timeout=patience,
        read_timeout=_READ_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": _TRIES},
        max_pool_connections=_AT_ONCE,
        # Others seldom have a name of a host for each bucket, nor know the checksums that Amazon has added.
        s3=None if endpoint is None else {"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # Where Amazon runs a process it sets the one, and this library reads the other.
    region = bucket.region or os.environ.get("AWS_REGION")
    session = botocore.session.get_session()
    return session.create_client("s3", region_name=region, endpoint_url=endpoint, config=config)
