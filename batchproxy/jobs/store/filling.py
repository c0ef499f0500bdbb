"""Putting items into a job: they are packed into chunks, and these are written as they come.

Knows: chunks and where their inputs lie. Must not know: who fills a job, and by which right (a guard says that).
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from .blobs import BlobStore, BlobWriter
from .database import Database
from .ids import new_id
from .packing import packed
from .tables import chunk, chunk_input

Guard = Callable[[AsyncConnection, float, int], Awaitable[None]]
"""Called in each transaction, with the bytes stored so far; raises if the job may not be filled any more."""

_ROWS = 64
"""How many chunks are written in one transaction."""

FRESH: dict[str, Any] = dict.fromkeys(
    ("epoch", "lost", "done_n", "failed_n", "cancelled_n", "expired_n", "unknown_n", "parked_n", "result_bytes"), 0
) | {"has_intents": False, "holder": None, "blob": None, "blob_start": None, "blob_length": None}
"""What a chunk has that nobody has claimed."""


class Filling:
    """`add` items, `finish`, and `write` what is left in the transaction that makes the job ready."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        job_id: str,
        owner: str,
        guard: Guard,
        *,
        chunk_items: int | None,
        chunk_bytes: int | None = None,
    ) -> None:
        self.total = 0
        self.stored = 0
        self.blob_name = f"input-{new_id()}"
        self._settings = database.settings
        self._chunk_items = chunk_items or self._settings.chunk_items
        self._chunk_bytes = chunk_bytes or self._settings.chunk_bytes
        self._database = database
        self._blobs = blobs
        self._job = job_id
        self._owner = owner
        self._guard = guard
        self._digest = hashlib.sha256()
        self._items: list[bytes] = []
        self._items_size = 0
        self._chunks: list[dict[str, Any]] = []
        self._inputs: list[dict[str, Any]] = []
        self._next_no = 0
        self._writer: BlobWriter | None = None

    @property
    def fingerprint(self) -> bytes:
        return self._digest.digest()

    def note(self, item: bytes) -> None:
        """Takes an item into the fingerprint, and into nothing else."""
        self._digest.update(len(item).to_bytes(8, "big"))
        self._digest.update(item)

    async def add(self, item: bytes) -> None:
        self.note(item)
        if self._items and self._items_size + len(item) > self._chunk_bytes:
            await self._close_chunk()
        self._items.append(item)
        self._items_size += len(item)
        self.total += 1
        if len(self._items) >= self._chunk_items:
            await self._close_chunk()

    async def finish(self) -> None:
        """Makes durable what lies outside of the database."""
        if self._items:
            await self._close_chunk()
        if self._writer is not None:
            await self._writer.commit()

    async def write(self, connection: AsyncConnection, now: float) -> None:
        """The chunks that are not written yet."""
        await self._guard(connection, now, self.stored)
        if self._chunks:
            await connection.execute(insert(chunk), [{**row, "due_at": now} for row in self._chunks])
        if self._inputs:
            await connection.execute(insert(chunk_input), self._inputs)

    async def abort(self) -> None:
        if self._writer is not None:
            await self._writer.abort()

    async def _close_chunk(self) -> None:
        data, n = packed(self._items), len(self._items)
        row = FRESH | {"job": self._job, "no": self._next_no, "owner": self._owner, "first_seq": self.total - n}
        row |= {"span": n, "n": n, "input_no": self._next_no, "input_skip": 0}
        if len(data) <= self._settings.inline_bytes:
            self._inputs.append({"job": self._job, "no": self._next_no, "data": data})
        else:
            if self._writer is None:
                self._writer = self._blobs.writer(self._job, self.blob_name)
            row |= {"blob": self.blob_name, "blob_start": self._writer.size, "blob_length": len(data)}
            await self._writer.write(data)
        self._chunks.append(row)
        self._items, self._items_size = [], 0
        self._next_no += 1
        self.stored += len(data)
        if len(self._chunks) >= _ROWS:
            await self._database.write(self.write)
            self._chunks, self._inputs = [], []
