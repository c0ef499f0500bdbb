"""Short words for tests of webhooks: somebody who receives them over a socket, and jobs whose end is told."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection
from standardwebhooks import Webhook

from batchproxy.jobs.store import JobStore
from batchproxy.jobs.store.database import Database
from batchproxy.jobs.webhooks import WebhookSender, WebhookSettings, message_for
from tests.jobs.place import Place, claim, settle, submit
from tests.proxy.on_a_loop import PATIENCE
from tests.proxy.scripted import Peer, Script, Upstream, upstream

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 65))).decode()
VARIABLE = "BATCHPROXY_TEST_WEBHOOK_SECRET"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
_OUTBOX = text("SELECT attempt, due_at, detail FROM batchproxy_outbox ORDER BY id")


@dataclass(frozen=True)
class Received:
    """One request, as who receives it sees it."""

    headers: Mapping[str, str]
    body: bytes
    first: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def timestamp(self) -> int:
        return int(self.headers["webhook-timestamp"])

    def verified(self, secret: str = SECRET) -> Any:
        """What it says, if the reference library believes it."""
        return Webhook(secret).verify(self.body, dict(self.headers))


@dataclass(eq=False)
class Receiver:
    """Keeps what it got, and how many requests were there at once."""

    upstream: Upstream
    answer: Script
    received: list[Received] = field(default_factory=list)
    running: int = 0
    most: int = 0

    @property
    def port(self) -> int:
        return self.upstream.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?from=us"

    async def play(self, peer: Peer) -> None:
        request = await peer.request()
        if not request:
            return
        self.received.append(_read(request))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.answer(peer)
        finally:
            self.running -= 1

    async def got(self, count: int) -> list[Received]:
        await until(lambda: len(self.received) >= count)
        return self.received


@asynccontextmanager
async def receiving(answer: Script | None = None, **said: Any) -> AsyncIterator[Receiver]:
    """Each connection has one request, which is kept, and then `answer` goes on."""
    receiver: Receiver

    async def script(peer: Peer) -> None:
        await receiver.play(peer)

    async with upstream(script, **said) as state:
        receiver = Receiver(state, answer or writing(NO_CONTENT))
        yield receiver


def writing(*answers: bytes) -> Script:
    """An answer for one request after another; the last one is given again and again."""
    left = list(answers)

    async def script(peer: Peer) -> None:
        await peer.write(left.pop(0) if len(left) > 1 else left[0])

    return script


async def silence(peer: Peer) -> None:
    """Says nothing until the other side has enough."""
    await peer.rest()


def settings(*ports: int, **changed: Any) -> WebhookSettings:
    said = {"secrets": {"default": [f"env:{VARIABLE}"]}, "http": True, "ports": ports, "allow": ["127.0.0.0/8"]}
    return WebhookSettings(**{**said, "poll": 0.02, "timeout": 10, **changed})


def resolving(addresses: Mapping[str, Sequence[str]]) -> Callable[[str, int], Any]:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses[host]

    return resolve


async def tell(store: JobStore, url: str | None, *, secret: str = "default", times: int = 1) -> str:
    """Ends a job, which is told so many times; its id."""
    job = await submit(store, 1)
    await settle(store, await claim(store))
    claimed = await claim(store)
    ending = await store.jobs.get(job.id, "ann")
    messages = [message_for(ending, url, secret, name=str(n)) for n in range(times)]
    await store.ending.finish(claimed.lease, messages=messages)
    return job.id


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def settled(sender: WebhookSender) -> None:
    """Whatever the sender has in hand has been told to the outbox."""
    await until(lambda: "in_hand=0" in repr(sender))


async def left(place: Place) -> list[tuple[int, float | None, str]]:
    """Of each message in the outbox how many tries failed, when it is due again, and why."""
    database = Database(place.settings(), place.clock)

    async def work(connection: AsyncConnection, now: float) -> Sequence[Row[Any]]:
        return (await connection.execute(_OUTBOX)).all()

    rows = await database.read(work)
    await database.aclose()
    return [(row.attempt, None if row.due_at is None else row.due_at - place.clock.now, row.detail) for row in rows]


async def emptied(place: Place) -> None:
    """Waits until all has been told."""
    async with asyncio.timeout(PATIENCE):
        while await left(place):
            await asyncio.sleep(0.01)


async def failures(place: Place, count: int) -> tuple[float | None, str]:
    """Waits until the first message has failed so often; when it is due again, and why it failed."""
    async with asyncio.timeout(PATIENCE):
        while not (rows := await left(place)) or rows[0][0] != count:
            await asyncio.sleep(0.01)
    return rows[0][1], rows[0][2]


def _read(request: bytes) -> Received:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Received(headers=headers, body=body, first=first)
