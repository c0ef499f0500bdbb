"""What all workers together may ask of one upstream: so many items in a second, so many at once, none if it is blocked.

A worker takes a block of tokens and places, to last for about a second. Places lapse if it is not heard of again.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from sqlalchemy import Update, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from ...engine.settings import Seconds, Settings, optional_count, seconds
from .database import Database
from .tables import limiter, slot

_if_absent = {
    "postgresql": postgresql.insert(limiter).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(limiter).on_conflict_do_nothing(),
}
_LEAST_SHARE = 0.05
_GROWTH = 0.05
"""By which part of all places an upstream that was overloaded gets more, every second."""


@dataclass(frozen=True, kw_only=True)
class Limits(Settings):
    """`rate` items in `per` seconds, as many at once as the `burst`; `max_in_flight` together. None is no limit."""

    rate: int | None = optional_count()
    per: Seconds = seconds(1)
    burst: int | None = optional_count()
    max_in_flight: int | None = optional_count()

    @property
    def most(self) -> int:
        """The tokens that are there when nobody took any for long."""
        return self.burst or self.rate or 0


class Allowance(msgspec.Struct, frozen=True):
    """`items` may be begun now, and `places` of this worker be in use until `places_for` seconds from now.

    `wait` is the time after which asking again may give more.
    """

    items: int
    places: int
    places_for: float
    wait: float


class Limiter:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, upstream: str, worker: str, limits: Limits, *, items: int, places: int) -> Allowance:
        """A block of at most `items` tokens; the places of this worker become at most `places`, used ones included."""

        async def work(connection: AsyncConnection, now: float) -> Allowance:
            tokens, share, blocked_until = await _row(connection, upstream, limits, now)
            granted = await self._places(connection, upstream, worker, limits, share, places, now)
            taken = items if limits.max_in_flight is None else min(items, granted)
            wait = 0.0 if granted >= places else limits.per
            if limits.rate is not None:
                taken = min(taken, int(tokens))
                if taken < items:
                    wait = max(wait, (1 - (tokens - taken) % 1) * limits.per / limits.rate)
            if blocked_until > now:
                taken, wait = 0, blocked_until - now
            # Where there is no rate, nothing is owed to one that may be set later.
            left = tokens if limits.rate is None else tokens - taken
            await connection.execute(_of(upstream).values(tokens=left, share=share, refilled_at=now))
            return Allowance(taken, granted, self._database.settings.lease, wait)

        return await self._database.write(work)

    async def give_back(self, upstream: str, worker: str) -> None:
        """The worker has nothing in flight there any more."""

        async def work(connection: AsyncConnection, now: float) -> None:
            await connection.execute(delete(slot).where(slot.c.upstream == upstream, slot.c.worker == worker))

        await self._database.write(work)

    async def block(self, upstream: str, limits: Limits, *, delay: float) -> None:
        """The upstream said that it wants a rest: nobody begins anything for `delay` seconds, and then with half the
        places, which grow again bit by bit."""

        async def work(connection: AsyncConnection, now: float) -> None:
            tokens, share, blocked_until = await _row(connection, upstream, limits, now)
            if blocked_until <= now:  # else it is the same overload, seen by another item
                share = max(share / 2, _LEAST_SHARE)
            until = max(blocked_until, now + delay)
            await connection.execute(
                _of(upstream).values(tokens=tokens, share=share, refilled_at=now, blocked_until=until)
            )

        await self._database.write(work)

    async def _places(
        self,
        connection: AsyncConnection,
        upstream: str,
        worker: str,
        limits: Limits,
        share: float,
        places: int,
        now: float,
    ) -> int:
        if limits.max_in_flight is None:
            return places
        others = select(func.coalesce(func.sum(slot.c.n), 0)).where(
            slot.c.upstream == upstream, slot.c.worker != worker, slot.c.due_at > now
        )
        most = max(int(limits.max_in_flight * share), 1)
        free = most - int((await connection.execute(others)).scalar_one())
        granted = max(min(places, free), 0)
        mine = (slot.c.upstream == upstream, slot.c.worker == worker)
        await connection.execute(delete(slot).where(*mine))
        if granted:
            row = {"upstream": upstream, "worker": worker, "n": granted}
            await connection.execute(insert(slot), row | {"due_at": now + self._database.settings.lease})
        return granted


async def _row(connection: AsyncConnection, upstream: str, limits: Limits, now: float) -> tuple[float, float, float]:
    """Tokens, share of the places, and until when it is blocked; locked."""
    query = select(limiter).where(limiter.c.upstream == upstream).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        new = {"upstream": upstream, "tokens": limits.most, "refilled_at": now, "share": 1.0, "blocked_until": 0.0}
        await connection.execute(_if_absent[connection.dialect.name], new)
        row = (await connection.execute(query)).one()
    passed = max(now - row.refilled_at, 0.0)
    tokens = row.tokens if limits.rate is None else min(row.tokens + passed / limits.per * limits.rate, limits.most)
    return tokens, min(row.share + passed * _GROWTH, 1.0), row.blocked_until


def _of(upstream: str) -> Update:
    return update(limiter).where(limiter.c.upstream == upstream)
