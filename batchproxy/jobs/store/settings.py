"""The settings of the store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...engine.errors import SettingError
from ...engine.settings import Bytes, KiB, MiB, Seconds, Settings, count, optional_count, seconds

_POSTGRESQL = re.compile(r"postgres(?:ql)?(?:\+asyncpg)?://")
_DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class StoreSettings(Settings):
    """Where jobs are kept, and for how long.

    `url` is `sqlite:///path/to/file` or `postgresql://…`. `hosts` is on how many machines processes share the store;
    more than one need PostgreSQL. `blobs` is the folder for large contents; None for the database itself with
    PostgreSQL, and a folder beside the file with SQLite. `wait` is how long a transaction waits for others.

    `lease` is how long work belongs to a worker that says nothing. `lost` is with how many lost workers a chunk is
    split, and a single item given up. `submit` is how long a submission may pause before it is taken for dead.
    `inline_bytes` is the largest content that lies in the row itself.
    """

    url: str
    hosts: int = count(1)
    blobs: str | None = None
    connections: int = count(8)
    wait: Seconds = seconds(5)
    lease: Seconds = seconds(30)
    lost: int = count(3)
    submit: Seconds = seconds(120)
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
        if not self.is_postgresql and not self.url.removeprefix("sqlite:///"):
            raise SettingError("url", self.url, "expected the path of a file: jobs in memory would not be durable")
        if not self.is_postgresql and "?" in self.url:
            raise SettingError("url", self.url, "expected the path of a file, without ? and options")
        if not self.is_postgresql and self.hosts > 1:
            raise SettingError("hosts", self.hosts, "SQLite serves one machine only; use postgresql:// for several")

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
    def driver_url(self) -> str:
        """The URL with the asynchronous driver in it."""
        if self.is_postgresql:
            return _POSTGRESQL.sub("postgresql+asyncpg://", self.url, count=1)
        return f"sqlite+aiosqlite:///{self.file}"

    @property
    def blob_folder(self) -> Path | None:
        if self.blobs is not None:
            return Path(self.blobs)
        return None if self.is_postgresql else self.file.with_name(f"{self.file.name}-blobs")
