"""The settings of the store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from ...engine.errors import SettingError
from ...engine.settings import Bytes, KiB, MiB, Seconds, Settings, count, optional_count, seconds

_POSTGRESQL = re.compile(r"postgres(?:ql)?(?:\+asyncpg)?://")
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^]\[:,/?#@]*)(?::[0-9]{1,5})?"
_SERVER = re.compile(rf"[a-z+]+://(?:[^/?#]*@)?{_HOST}(?:,{_HOST})*(?:/[^?#]*)?(?:\?[^#]*)?")
_DAY = 86400.0
_S3 = "s3://"
_BUCKET = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9])((?:/[A-Za-z0-9_=.-]+)*)/?")


class Bucket(NamedTuple):
    """Where large contents are kept as objects: without an endpoint at Amazon, in the usual region without one."""

    name: str
    prefix: str
    endpoint: str | None
    region: str | None


@dataclass(frozen=True, kw_only=True)
class StoreSettings(Settings):
    """Where jobs are kept, and for how long.

    `url` is `sqlite:///path/to/file` or `postgresql://…`. `hosts` is on how many machines processes share the store;
    more than one need PostgreSQL. `blobs` is the folder for large contents, or `s3://bucket/prefix`; None for the
    database itself with PostgreSQL, and a folder beside the file with SQLite. `blobs_endpoint` is the URL of a server
    that speaks as S3 does, and `blobs_region` its region; what is None is taken from the environment
    (`AWS_ENDPOINT_URL`, `AWS_REGION`), as credentials always are. `wait` is how long a transaction waits for others.
    With `pooler` the URL leads to a pooler that gives out connections for one transaction, such as PgBouncer.

    `lease` is how long work belongs to a worker that says nothing. `lost` is with how many lost workers a chunk is
    split, and a single item given up. `submit` is how long a submission or an upload says nothing before it is taken
    for dead: as long as its process lives, it does, however slowly anything comes. `inline_bytes` is the largest
    content that lies in the row itself.
    """

    url: str
    hosts: int = count(1)
    blobs: str | None = None
    blobs_endpoint: str | None = None
    blobs_region: str | None = None
    pooler: bool = False
    connections: int = count(8)
    wait: Seconds = seconds(5)
    lease: Seconds = seconds(30)
    lost: int = count(3)
    submit: Seconds = seconds(30)
    keep: Seconds = seconds(_DAY)
    tombstones: Seconds = seconds(7 * _DAY)
    chunk_items: int = count(100)
    chunk_bytes: Bytes = count(256 * KiB)
    inline_bytes: Bytes = count(8 * KiB, least=0)
    open_jobs: int | None = optional_count()
    stored_bytes: Bytes | None = optional_count(least=MiB)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.url, str) or not (self.is_postgresql or self.url.startswith("sqlite:///")):
            raise SettingError("url", self.url, "expected sqlite:///path/to/file or postgresql://user@host/database")
        if self.is_postgresql and not _SERVER.fullmatch(self.url):
            # What stands there may be a password.
            expected = "expected postgresql://user@host:port/database, with what is special percent-encoded"
            raise SettingError("url", "postgresql://…", expected)
        if not self.is_postgresql and not self.url.removeprefix("sqlite:///"):
            raise SettingError("url", self.url, "expected the path of a file: jobs in memory would not be durable")
        if not self.is_postgresql and "?" in self.url:
            raise SettingError("url", self.url, "expected the path of a file, without ? and options")
        if not self.is_postgresql and self.hosts > 1:
            raise SettingError("hosts", self.hosts, "SQLite serves one machine only; use postgresql:// for several")
        if not isinstance(self.pooler, bool):
            raise SettingError("pooler", self.pooler, "expected true or false")
        if self.pooler and not self.is_postgresql:
            raise SettingError("pooler", self.pooler, "expected `url` to be postgresql://… along with it")
        self._check_blobs()

    def _check_blobs(self) -> None:
        if self.blobs is not None and self.blobs.startswith(_S3):
            match = _BUCKET.fullmatch(self.blobs)
            if match is None or {".", ".."} & set(match[2].split("/")):
                # Who puts credentials there does not want to see them here.
                expected = "expected s3://bucket or s3://bucket/prefix, and credentials in the environment alone"
                raise SettingError("blobs", "s3://…", expected)
        elif self.blobs is not None and "://" in self.blobs:
            raise SettingError("blobs", self.blobs.partition("://")[0], "expected a folder, or s3://bucket/prefix")
        for name in ("blobs_endpoint", "blobs_region"):
            if getattr(self, name) is not None and self.bucket is None:
                raise SettingError(name, getattr(self, name), "expected `blobs` to be s3://bucket/prefix along with it")
        if self.blobs_endpoint is not None and not _is_endpoint(self.blobs_endpoint):
            expected = "expected a URL such as https://s3.example.com, without credentials"
            raise SettingError("blobs_endpoint", "…", expected)
        if self.blobs_region is not None and not re.fullmatch(r"[A-Za-z0-9-]+", self.blobs_region):
            raise SettingError("blobs_region", self.blobs_region, "expected a region such as eu-central-1")

    def __repr__(self) -> str:
        return f"StoreSettings({'postgresql' if self.is_postgresql else self.file})"

    @property
    def is_postgresql(self) -> bool:
        return _POSTGRESQL.match(self.url) is not None

    @property
    def file(self) -> Path:
        """The file of SQLite."""
        return Path(self.url.removeprefix("sqlite:///")).absolute()

    @property
    def server(self) -> str:
        """The URL of a PostgreSQL as libpq reads it: of several hosts, too, and with options such as `sslmode`."""
        return _POSTGRESQL.sub("postgresql://", self.url, count=1)

    @property
    def statement_time(self) -> float:
        """How long one statement may take on a server: longer than it waits for a lock, and a lease at least."""
        return max(self.lease, 2 * self.wait)

    @property
    def idle_time(self) -> float:
        """How long a process may say nothing amid a transaction, before the server ends it, along with its locks.

        Somebody who is frozen there must not hold up others for longer than his leases last, or they wait anyway.
        """
        return max(self.lease / 2, self.wait)

    @property
    def blob_folder(self) -> Path | None:
        if self.blobs is not None:
            return None if self.blobs.startswith(_S3) else Path(self.blobs)
        return None if self.is_postgresql else self.file.with_name(f"{self.file.name}-blobs")

    @property
    def bucket(self) -> Bucket | None:
        match = None if self.blobs is None else _BUCKET.fullmatch(self.blobs)
        return None if match is None else Bucket(match[1], match[2][1:], self.blobs_endpoint, self.blobs_region)


def _is_endpoint(text: str) -> bool:
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        return False
    is_pure = not (url.query or url.fragment or "@" in url.netloc or re.search(r"[\s\x00-\x1f]", text))
    return url.scheme in ("http", "https") and bool(url.hostname) and is_pure
