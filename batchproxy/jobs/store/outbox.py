"""Messages to be told to others, such as webhooks: written along with what they tell, sent at least once.

Who takes one has it for a while, fenced like a chunk; then it is `done`, due again later, given up, or handed back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Row, bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .database import Database
from .hints import OUTBOX, Hints
from .tables import outbox


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """`event` names it: of one event of a job there is one message to each `name`. `target` says where to."""

    event: str
    target: bytes
    payload: bytes
    name: str = "0"


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A message in the hands of one sender. `id` is the same at every attempt; `attempt` is how many there were."""

    id: str
    epoch: int
    job: str
    owner: str
    event: str
    target: bytes
    payload: bytes
    created_at: float
    attempt: int


class Outbox:
    def __init__(self, database: Database, hints: Hints) -> None:
        self._database = database
        self._hints = hints

    async def take(self, want: int = 1, *, lease: float = 60.0) -> list[Taken]:
        """Messages that are due, the oldest first; nobody else gets them for `lease` seconds."""

        async def work(connection: AsyncConnection, now: float) -> list[Taken]:
            query = (
                select(outbox)
                .where(outbox.c.due_at <= now)
                .order_by(outbox.c.due_at)
                .limit(want)
                .with_for_update(skip_locked=True)
            )
            rows = (await connection.execute(query)).all()
            if rows:
                await connection.execute(
                    update(outbox)
                    .where(outbox.c.id == bindparam("of_id"))
                    .values(due_at=now + lease, epoch=outbox.c.epoch + 1),
                    [{"of_id": row.id} for row in rows],
                )
            return [_taken(row) for row in rows]

        return await self._database.write(work)

    async def done(self, message: Taken) -> bool:
        """It was told. Whether that still was this sender's business."""
        return await self._change(delete(outbox).where(*_still(message)))

    async def reschedule(self, message: Taken, *, delay: float, detail: str = "") -> bool:
        """It could not be told, and is due again `delay` seconds from now."""
        is_ours = await self._change(
            update(outbox).where(*_still(message)).values(attempt=outbox.c.attempt + 1, detail=detail[:1000]), delay
        )
        self._hints.give(OUTBOX)  # that may be earlier than what the others of this process wait for
        return is_ours

    async def release(self, messages: Sequence[Taken]) -> None:
        """They were not told, and are due at once: for a sender that ends. What is another's by now is left to him."""

        async def work(connection: AsyncConnection, now: float) -> None:
            for each in messages:
                await connection.execute(update(outbox).where(*_still(each)).values(due_at=now))
            await self._hints.announce(connection, OUTBOX)

        if messages:
            await self._database.write(work)
            self._hints.give(OUTBOX)

    async def next_due(self) -> float | None:
        """In how many seconds the next message is due, in whosoever's hands it is; None if there is none."""

        async def work(connection: AsyncConnection, now: float) -> float | None:
            due: float | None = (await connection.execute(select(func.min(outbox.c.due_at)))).scalar_one()
            return None if due is None else max(due - now, 0.0)

        return await self._database.read(work)

    async def give_up(self, message: Taken, *, detail: str = "") -> bool:
        """It could not be told, and is not tried again; it stays to be looked at until its job is purged."""
        values = {"attempt": outbox.c.attempt + 1, "detail": detail[:1000], "due_at": None}
        return await self._change(update(outbox).where(*_still(message)).values(values))

    async def _change(self, statement: Any, delay: float | None = None) -> bool:
        async def work(connection: AsyncConnection, now: float) -> bool:
            timed = statement if delay is None else statement.values(due_at=now + delay)
            return bool((await connection.execute(timed)).rowcount)

        return await self._database.write(work)


async def put(connection: AsyncConnection, now: float, job_id: str, owner: str, messages: Sequence[Message]) -> None:
    """Writes messages in the transaction of what they tell."""
    rows = [
        {
            "id": f"{job_id}.{each.event}.{each.name}",
            "job": job_id,
            "owner": owner,
            "event": each.event,
            "target": each.target,
            "payload": each.payload,
            "created_at": now,
            "due_at": now,
            "attempt": 0,
            "epoch": 0,
            "detail": "",
        }
        for each in messages
    ]
    if rows:
        await connection.execute(insert(outbox), rows)


def _still(message: Taken) -> tuple[Any, ...]:
    return (outbox.c.id == message.id, outbox.c.epoch == message.epoch, outbox.c.due_at.is_not(None))


def _taken(row: Row[Any]) -> Taken:
    return Taken(
        id=row.id,
        epoch=row.epoch + 1,
        job=row.job,
        owner=row.owner,
        event=row.event,
        target=row.target,
        payload=row.payload,
        created_at=row.created_at,
        attempt=row.attempt,
    )
