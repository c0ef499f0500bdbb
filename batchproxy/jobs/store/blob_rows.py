"""Blobs inside the database, in pieces: the default with PostgreSQL, where several machines share the store."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .blobs import PIECE, gone
from .database import Database
from .tables import blob_piece


class Rows:
    """Each piece but the last has the same length, so that the one at an offset is found without reading others."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def writer(self, place: str, name: str) -> RowsWriter:
        return RowsWriter(self._database, place, name)

    async def read(self, place: str, name: str, start: int, length: int) -> bytes:
        last = max(start + length - 1, start)
        pieces = await self._pieces(place, name, start // PIECE, last // PIECE)
        skip = start % PIECE
        data = b"".join(pieces)[skip : skip + length]
        if len(data) != length:
            raise gone(place)
        return data

    async def stream(self, place: str, name: str, start: int = 0) -> AsyncIterator[bytes]:
        no, skip = divmod(start, PIECE)
        while True:
            pieces = await self._pieces(place, name, no, no)
            if not pieces:
                raise gone(place)
            if data := pieces[0][skip:]:
                yield data
            if len(pieces[0]) < PIECE:
                return
            no, skip = no + 1, 0

    async def clear(self, place: str) -> None:
        async def work(connection: AsyncConnection, now: float) -> None:
            await connection.execute(delete(blob_piece).where(blob_piece.c.place == place))

        await self._database.write(work)

    async def _pieces(self, place: str, name: str, first: int, last: int) -> list[bytes]:
        piece = blob_piece.c
        query = (
            select(piece.data)
            .where(piece.place == place, piece.name == name, piece.no.between(first, last))
            .order_by(piece.no)
        )

        async def work(connection: AsyncConnection, now: float) -> list[bytes]:
            return [bytes(row.data) for row in await connection.execute(query)]

        return await self._database.read(work)


class RowsWriter:
    """The last piece is shorter than the others, perhaps empty: it tells that the blob ends there."""

    def __init__(self, database: Database, place: str, name: str) -> None:
        self.size = 0
        self._database = database
        self._place = place
        self._name = name
        self._no = 0
        self._waiting = bytearray()

    async def write(self, data: bytes) -> None:
        self._waiting += data
        self.size += len(data)
        while len(self._waiting) >= PIECE:
            await self._put(PIECE)

    async def commit(self) -> None:
        await self._put(len(self._waiting))

    async def abort(self) -> None:
        piece = blob_piece.c

        async def work(connection: AsyncConnection, now: float) -> None:
            await connection.execute(delete(blob_piece).where(piece.place == self._place, piece.name == self._name))

        await self._database.write(work)

    async def _put(self, length: int) -> None:
        row = {"place": self._place, "name": self._name, "no": self._no, "data": bytes(self._waiting[:length])}
        del self._waiting[:length]
        self._no += 1

        async def work(connection: AsyncConnection, now: float) -> None:
            await connection.execute(insert(blob_piece), row)

        await self._database.write(work)
