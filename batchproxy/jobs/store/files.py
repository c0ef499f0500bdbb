"""Files: large contents that live apart from jobs, such as the inputs and outputs of batches that clients upload.

A file is there once it is committed. Storing one again under the id that it has replaces it, so that work which makes
files can be done twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .blobs import BlobStore
from .database import Database
from .ending import held
from .errors import JobsError, LeaseLost, NotFound
from .ids import new_id
from .model import Lease
from .pulse import Pulse
from .quotas import check_stored_bytes, lock_owner
from .tables import file

_NAME = "content"
_NOTED_EVERY = 8 * 1024 * 1024
"""After how many bytes an upload is held against the quota."""


class File(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    owner: str
    purpose: str
    filename: str
    bytes: int
    created_at: float
    expires_at: float | None


class FilePage(msgspec.Struct, frozen=True):
    files: tuple[File, ...]
    has_more: bool


class Files:
    """Every question names the owner; None is the worker or the operator, who sees all."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    def upload(
        self,
        *,
        owner: str,
        purpose: str,
        filename: str,
        keep: float | None = None,
        file_id: str | None = None,
        lease: Lease | None = None,
    ) -> Upload:
        """A file to be written; `keep` is how many seconds it lasts. With a `lease` it is only committed while that is
        held. `async with` it, `write`, `commit`; left without a commit, nothing remains."""
        return Upload(self._database, self._blobs, owner, purpose, filename, keep, file_id or new_id(), lease)

    async def get(self, file_id: str, owner: str | None) -> File:
        """Raises `NotFound`."""

        async def work(connection: AsyncConnection, now: float) -> File:
            return _file(await _row(connection, file_id, owner, now))

        return await self._database.read(work)

    async def list(
        self,
        owner: str | None,
        *,
        purpose: str | None = None,
        oldest_first: bool = False,
        after: str | None = None,
        limit: int = 100,
    ) -> FilePage:
        """The newest first, or the oldest; `after` is the id of the last one before."""
        conditions: list[ColumnElement[bool]] = [file.c.ready.is_(True), file.c.gone.is_(False)]
        if owner is not None:
            conditions.append(file.c.owner == owner)
        if purpose is not None:
            conditions.append(file.c.purpose == purpose)
        if after is not None:
            conditions.append(file.c.id > after if oldest_first else file.c.id < after)
        order = file.c.id if oldest_first else file.c.id.desc()

        async def work(connection: AsyncConnection, now: float) -> FilePage:
            alive = (file.c.expires_at.is_(None)) | (file.c.expires_at > now)
            query = select(file).where(alive, *conditions).order_by(order).limit(limit + 1)
            rows = (await connection.execute(query)).all()
            return FilePage(tuple(_file(row) for row in rows[:limit]), len(rows) > limit)

        return await self._database.read(work)

    async def content(self, file_id: str, owner: str | None, *, start: int = 0) -> AsyncIterator[bytes]:
        """The bytes from `start` on, in pieces. Raises `NotFound`, and `Gone` if it is removed meanwhile."""

        async def work(connection: AsyncConnection, now: float) -> str:
            return str((await _row(connection, file_id, owner, now)).blob)

        place = await self._database.read(work)
        async for piece in self._blobs.stream(place, _NAME, start):
            yield piece

    async def delete(self, file_id: str, owner: str | None) -> None:
        """Raises `NotFound`."""

        async def work(connection: AsyncConnection, now: float) -> str:
            row = await _row(connection, file_id, owner, now)
            await connection.execute(update(file).where(file.c.id == file_id).values(gone=True))
            return str(row.blob)

        await clear_file(self._database, self._blobs, await self._database.write(work))


class Upload:
    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        owner: str,
        purpose: str,
        filename: str,
        keep: float | None,
        file_id: str,
        lease: Lease | None,
    ) -> None:
        self.file_id = file_id
        self.size = 0
        self._database = database
        self._blobs = blobs
        self._owner = owner
        self._purpose = purpose
        self._filename = filename
        self._keep = keep
        self._lease = lease
        # While it is being stored it has a row of its own, which takes the place of the other one at the end.
        self._row_id = new_id()
        self._place = f"file-{self._row_id}"
        self._writer = blobs.writer(self._place, _NAME)
        self._noted = 0
        self._is_open = False
        self._pulse = Pulse(database.settings.submit / 3, lambda: database.write(self._live))

    async def __aenter__(self) -> Upload:
        self._is_open = True
        try:
            await self._database.write(self._begin)
        except BaseException:
            await self._abort()
            raise
        self._pulse.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._pulse.stop()
        finally:
            if self._is_open:
                await self._abort()

    async def write(self, data: bytes) -> None:
        """Raises `QuotaExceeded` and `StoreError`."""
        await self._writer.write(data)
        self.size += len(data)
        if self.size - self._noted >= _NOTED_EVERY:
            self._noted = self.size
            await self._database.write(self._note)

    async def commit(self) -> File:
        """Once this returns, the file is there for good. Raises `LeaseLost` too."""
        await self._writer.commit()

        async def work(connection: AsyncConnection, now: float) -> File:
            if self._lease is not None:
                await held(connection, self._lease)
            await self._note(connection, now)
            replaced = update(file).where(file.c.id == self.file_id)
            await connection.execute(replaced.values(id=new_id(), gone=True))  # a sweep clears it
            values = {"id": self.file_id, "created_at": now, "ready": True}
            values["expires_at"] = None if self._keep is None else now + self._keep
            await connection.execute(update(file).where(file.c.id == self._row_id).values(values))
            return _file(await _row(connection, self.file_id, self._owner, now))

        committed = await self._database.write(work)
        self._is_open = False
        return committed

    async def _begin(self, connection: AsyncConnection, now: float) -> None:
        await lock_owner(connection, self._owner)
        await check_stored_bytes(connection, self._database.settings, self._owner, 0)
        row: dict[str, Any] = {
            "id": self._row_id,
            "owner": self._owner,
            "purpose": self._purpose,
            "filename": self._filename,
        }
        row |= {"bytes": 0, "created_at": now, "expires_at": now + self._database.settings.submit}
        await connection.execute(insert(file), row | {"blob": self._place, "ready": False, "gone": False})

    async def _note(self, connection: AsyncConnection, now: float) -> None:
        settings = self._database.settings
        if settings.stored_bytes is not None:
            await lock_owner(connection, self._owner)
        if not await self._live(connection, now, bytes=self.size):
            raise LeaseLost("The upload paused for too long, and was taken away.")
        await check_stored_bytes(connection, settings, self._owner, 0)

    async def _live(self, connection: AsyncConnection, now: float, **values: Any) -> bool:
        """Whether the upload is still there."""
        alive = (file.c.id == self._row_id, file.c.gone.is_(False))
        until = now + self._database.settings.submit
        return bool((await connection.execute(update(file).where(*alive).values(expires_at=until, **values))).rowcount)

    async def _abort(self) -> None:
        self._is_open = False
        try:
            await self._writer.abort()
            await self._database.write(_removing(self._place))
        except JobsError:
            pass  # a later sweep removes it


async def clear_file(database: Database, blobs: BlobStore, place: str) -> None:
    """Removes what lies in a place, and then the row that names it."""
    await blobs.clear(place)
    await database.write(_removing(place))


def _removing(place: str) -> Callable[[AsyncConnection, float], Awaitable[None]]:
    async def work(connection: AsyncConnection, now: float) -> None:
        await connection.execute(delete(file).where(file.c.blob == place))

    return work


async def _row(connection: AsyncConnection, file_id: str, owner: str | None, now: float) -> Row[Any]:
    row = (await connection.execute(select(file).where(file.c.id == file_id))).one_or_none()
    is_there = row is not None and row.ready and not row.gone and (row.expires_at is None or row.expires_at > now)
    if row is None or not is_there or owner not in (None, row.owner):
        raise NotFound(f"There is no file {file_id}.")
    return row


def _file(row: Row[Any]) -> File:
    return File(
        id=row.id,
        owner=row.owner,
        purpose=row.purpose,
        filename=row.filename,
        bytes=row.bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
