"""Where large contents lie: the seam, and the folder that is the default beside SQLite.

A blob has a `place`, such as the id of its job, and a name in it. It is written once, from the front to the back, and
is there as soon as `commit` has returned, even if the power fails. A place is cleared as a whole.

Knows: bytes and files. Must not know: jobs, tables.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from .errors import Gone, LeaseLost
from .faults import translated

T = TypeVar("T")

PIECE = 256 * 1024
"""How much is read or written at once."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class BlobWriter(Protocol):
    """`size` counts what was written so far. `abort` removes what there is under that name, committed or not.

    Raises `StoreError`, and `LeaseLost` if its place was cleared meanwhile.
    """

    size: int

    async def write(self, data: bytes) -> None: ...
    async def commit(self) -> None: ...
    async def abort(self) -> None: ...


class BlobStore(Protocol):
    """Raises `StoreError`, and `Gone` for what is not there any more."""

    def writer(self, place: str, name: str) -> BlobWriter: ...
    async def read(self, place: str, name: str, start: int, length: int) -> bytes: ...
    def stream(self, place: str, name: str, start: int = 0) -> AsyncIterator[bytes]: ...
    async def clear(self, place: str) -> None:
        """Removes all that is in a place; of one that is not there, nothing."""
        ...


def gone(place: str) -> Gone:
    return Gone(f"The content of {place} is not there any more.")


class Folder:
    """Blobs as files. Who reads one that is removed meanwhile reads it to its end."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __repr__(self) -> str:
        return f"Folder({self._root})"

    def writer(self, place: str, name: str) -> FileWriter:
        return FileWriter(self._root, self._path(place) / checked(name))

    async def read(self, place: str, name: str, start: int, length: int) -> bytes:
        with translated():
            data = await asyncio.to_thread(_read, self._path(place) / checked(name), start, length)
        if data is None or len(data) != length:
            raise gone(place)
        return data

    async def stream(self, place: str, name: str, start: int = 0) -> AsyncIterator[bytes]:
        with translated():
            file = await asyncio.to_thread(_opened, self._path(place) / checked(name), start)
        if file is None:
            raise gone(place)
        try:
            while data := await asyncio.to_thread(file.read, PIECE):
                yield data
        finally:
            file.close()

    async def clear(self, place: str) -> None:
        with translated():
            await asyncio.to_thread(_removed, self._path(place))

    def _path(self, place: str) -> Path:
        # The end of an id is random, its beginning is not: so that no folder gets too many.
        return self._root / checked(place)[-2:] / place


class FileWriter:
    """Gathers small writes. Whoever is cancelled leaves a thread behind, and the next call waits for that."""

    def __init__(self, root: Path, path: Path) -> None:
        self.size = 0
        self._root = root
        self._path = path
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._file: BinaryIO | None = None
        self._thread: asyncio.Task[None] | None = None

    async def write(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_size += len(data)
        self.size += len(data)
        if self._waiting_size >= PIECE:
            await self._in_thread(self._written)

    async def commit(self) -> None:
        await self._in_thread(self._committed)

    async def abort(self) -> None:
        self._waiting = []
        await self._in_thread(self._aborted)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        if self._thread is not None and not self._thread.done():
            await asyncio.wait([self._thread])
        thread = self._thread = asyncio.ensure_future(asyncio.to_thread(work))
        thread.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        with translated():
            try:
                await asyncio.shield(thread)
            except FileNotFoundError as error:
                raise LeaseLost(f"{self._path.parent.name} was cleared while it was being written.") from error

    def _written(self) -> None:
        if self._file is None:
            self._root.mkdir(mode=0o700, exist_ok=True)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb", buffering=0)
        data = memoryview(b"".join(self._waiting))
        self._waiting, self._waiting_size = [], 0
        while data:
            # A disk that gets full takes a part first, and refuses the rest.
            data = data[self._file.write(data) :]

    def _committed(self) -> None:
        self._written()
        assert self._file is not None
        os.fsync(self._file.fileno())
        self._file.close()
        # The names must be durable too, as far up as they may be new.
        for folder in (self._path.parent, self._path.parent.parent, self._path.parent.parent.parent):
            _sync_folder(folder)

    def _aborted(self) -> None:
        if self._file is not None:
            self._file.close()
        self._path.unlink(missing_ok=True)


def checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a blob")
    return name


def _read(path: Path, start: int, length: int) -> bytes | None:
    file = _opened(path, start)
    if file is None:
        return None
    with file:
        return file.read(length)


def _opened(path: Path, start: int) -> BinaryIO | None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    file.seek(start)
    return file


def _removed(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=not folder.exists())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # there are no such handles
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
