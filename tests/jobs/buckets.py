"""A server that speaks as S3 does, written by others (moto): a process of its own, gone with the block.

Knows: how it is started, what can be asked of it besides objects. Must not know: what is tested.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, TextIO
from urllib.request import Request, urlopen

from batchproxy.jobs.store.blobs_s3 import Objects
from batchproxy.jobs.store.settings import Bucket
from tests.serving import PATIENCE

KEY, SECRET = "AKIAOFTHETESTS", "the-secret-of-the-tests"
VARIABLES = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "eu-central-1"}


class Buckets:
    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.url = url
        self._process = process
        self._numbers = count()

    def new(self) -> Bucket:
        """A bucket with nothing in it."""
        name = f"bucket-{next(self._numbers)}"
        self._ask("PUT", f"/{name}")
        return self.named(name)

    def named(self, name: str) -> Bucket:
        return Bucket(name, "of/tests", self.url, "us-east-1")

    def keys(self, bucket: Bucket) -> list[str]:
        return re.findall("<Key>(.*?)</Key>", self._ask("GET", f"/{bucket.name}?list-type=2"))

    def uploads(self, bucket: Bucket) -> list[str]:
        """Those that have begun and not ended."""
        return re.findall("<UploadId>(.*?)</UploadId>", self._ask("GET", f"/{bucket.name}?uploads"))

    def lock(self) -> None:
        """From now on it lets nobody in whom it does not know, and it knows nobody."""
        self._ask("POST", "/moto-api/reset-auth", b"0")

    def unlock(self) -> None:
        self._ask("POST", "/moto-api/reset-auth", b"inf")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, method: str, path: str, body: bytes | None = None) -> str:
        headers = {"Content-Type": "application/octet-stream"}
        with urlopen(Request(self.url + path, body, headers, method=method), timeout=PATIENCE) as answer:
            return str(answer.read().decode())


@contextmanager
def buckets() -> Iterator[Buckets]:
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        with process:
            try:
                yield Buckets(process, _said(process, log))
            finally:
                process.kill()


def _said(process: subprocess.Popen[bytes], log: TextIO) -> str:
    """Where it listens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        log.seek(0)
        text = log.read()
        if found := re.search(r"http://127\.0\.0\.1:[0-9]+(?=\s)", text):
            return found[0]
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.02)


def settings_of(bucket: Bucket) -> dict[str, Any]:
    """As settings of a store have it."""
    where = {"blobs": f"s3://{bucket.name}/{bucket.prefix}"}
    return {**where, "blobs_endpoint": bucket.endpoint, "blobs_region": bucket.region}


def objects(bucket: Bucket, *, patience: float = 10) -> Objects:
    return Objects(bucket, patience=patience)
