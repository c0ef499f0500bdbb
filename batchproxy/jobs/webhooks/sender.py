"""Takes what is due out of the outbox, sends it, and says there what became of it.

Knows: the outbox, what an answer means. Must not know: sockets, what a message says.

A message belongs to its sender for as long as its lease; nothing is sent that could not be told to the outbox within
it. A sender that is stopped hands back what it has not sent; one that is killed or cut off just leaves it: it is due
again at the end of the lease.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from ...engine.errors import SettingError
from ..store import OUTBOX, JobStore, StoreError, Taken
from .delivery import Delivery, Reply, Resolve, Resolver, Undelivered
from .guard import WebhookRefused, destination
from .messages import SEALED, Target, target_of, webhook_id
from .places import Places
from .schedule import delay
from .settings import WebhookSettings
from .signing import Secrets, signature

logger = logging.getLogger("batchproxy")

_LEASE = 4.0
"""In timeouts: two in which a message may wait for its turn, one to send it, one to tell the outbox."""
_WAIT = 2.0
_IN_HAND = 8
"""How many messages wait for their turn, for each that may be under way: a host that is slow must not fill them all."""
_BREATH = 0.05
"""What is told at about the same time is taken together; nor is asked more often for what others have."""
_LAST_WORD = 1.0
"""How long handing back may take at the end."""
_LONGEST_PAUSE = 30.0
_MOST_GONE = 1000


def _no_key(sealed: str, owner: str) -> str:
    raise Undelivered("its URL is encrypted, and there is no key for it")


class WebhookSender:
    """Sends from entering to leaving; any number of them share an outbox. Raises `SettingError`.

    `url` is where messages go that name none. `opened` gives a URL that was encrypted for an owner, or raises
    `Undelivered`: somebody else may have the key.
    `resolve`, `now` and `chance` are for tests: the addresses of a host, the time that is signed, and the jitter.
    """

    def __init__(
        self,
        store: JobStore,
        settings: WebhookSettings,
        *,
        url: str | None = None,
        opened: Callable[[str, str], str] = _no_key,
        resolve: Resolve | None = None,
        now: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._settings = settings
        self._url = url
        self._opened = opened
        self._secrets = Secrets(settings)
        self._resolver = Resolver()
        self._delivery = Delivery(settings, resolve or self._resolver)
        self._now = now
        self._chance = chance
        self._places = Places(settings.concurrency, settings.per_host)
        self._in_hand: set[asyncio.Task[None]] = set()
        self._gone: dict[str, None] = {}
        self._unsent: list[Taken] = []
        self._stopping = False
        self._taking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"WebhookSender(in_hand={len(self._in_hand)}, hosts={len(self._places)}, gone={len(self._gone)})"

    async def __aenter__(self) -> Self:
        self._taking = asyncio.get_running_loop().create_task(self._take_all(), name="batchproxy webhooks")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Takes nothing more, lets what is under way come to its end, within `grace`, and hands back the rest."""
        self._stopping = True
        try:
            await _cancelled({self._taking} if self._taking else set())
            if self._in_hand:
                await asyncio.wait(self._in_hand, timeout=self._settings.grace)
        finally:
            self._resolver.close()
            await _cancelled(self._in_hand)
            await self._hand_back()

    async def _hand_back(self) -> None:
        """If that fails, they are due at the end of their lease all the same."""
        try:
            async with asyncio.timeout(_LAST_WORD):
                await self._store.outbox.release(self._unsent)
        except (StoreError, TimeoutError) as fault:
            logger.warning("webhooks.left: messages=%d for others, later: %r", len(self._unsent), fault)

    # Taking

    async def _take_all(self) -> None:
        pause = self._settings.poll
        with self._store.hints.on(OUTBOX) as hint:
            while True:
                try:
                    wait = None if await self._take() else await self._time_left()
                    pause = self._settings.poll
                except Exception as fault:
                    # Whatever it is, others may need us later.
                    logger.error("webhooks.waiting: the outbox cannot be read: %r", fault)
                    pause = min(pause * 2, max(_LONGEST_PAUSE, self._settings.poll))
                    await asyncio.sleep(pause)
                    continue
                if wait is not None:
                    await asyncio.sleep(min(_BREATH, pause))
                    await hint.wait(wait)
                while self._room() < self._settings.concurrency:
                    await asyncio.wait(self._in_hand, return_when=asyncio.FIRST_COMPLETED)

    async def _time_left(self) -> float:
        """How long there may be nothing to do: until the next message is due, or until the next look without a hint."""
        due = await self._store.outbox.next_due()
        poll = self._settings.poll * (0.5 + self._chance())
        return poll if due is None else min(due, poll)

    def _room(self) -> int:
        return self._settings.concurrency * _IN_HAND - len(self._in_hand)

    async def _take(self) -> bool:
        """Whether there was something."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        messages = await self._store.outbox.take(self._room(), lease=_LEASE * self._settings.timeout)
        for message in messages:
            task = loop.create_task(self._handle(message, asked), name=f"batchproxy webhook {message.id}")
            self._in_hand.add(task)
            task.add_done_callback(self._in_hand.discard)
        return bool(messages)

    # One message

    async def _handle(self, message: Taken, asked: float) -> None:
        """All that is done about a message in this lease, which began at `asked` or later."""
        until = asked + _LEASE * self._settings.timeout
        try:
            reply = await self._send(message, asked + _WAIT * self._settings.timeout)
        except asyncio.CancelledError:
            self._unsent.append(message)
            raise
        except TimeoutError:
            logger.info("webhook.postponed: message=%s its host is busy", webhook_id(message))
        except WebhookRefused as refusal:
            await self._give_up(message, str(refusal), until)
        except (Undelivered, SettingError) as fault:
            await self._failed(message, str(fault), None, until)
        except Exception as fault:
            logger.exception("webhook.broken: message=%s", webhook_id(message))
            await self._failed(message, repr(fault), None, until)
        else:
            if reply is not None:
                await self._answered(message, reply, until)

    async def _send(self, message: Taken, begin_by: float) -> Reply | None:
        """The answer, or None if nothing is begun any more: then it is handed back.

        Raises `Undelivered`, `WebhookRefused`, `SettingError`, and `TimeoutError` if its turn did not come.
        """
        target = target_of(message)
        url = self._url_of(target, message.owner)
        to = destination(url, self._settings)
        async with asyncio.timeout_at(begin_by) as turn, self._places.at(to.host):
            turn.reschedule(None)
            if self._stopping:
                self._unsent.append(message)
                return None
            if url in self._gone:
                raise WebhookRefused("It has answered 410 before.")
            return await self._delivery.post(to, self._headers(message, target.secret), message.payload)

    def _url_of(self, target: Target, owner: str) -> str:
        """Where it goes, in plain text, as far as it can be told here. Raises `Undelivered`."""
        url = self._url if target.url is None else target.url
        if url is None:
            raise Undelivered("it goes to the URL of the settings, which have none any more")
        return self._opened(url, owner) if url.startswith(SEALED) else url

    def _headers(self, message: Taken, secret: str) -> list[tuple[str, str]]:
        """Signed anew for each try. Raises `SettingError`."""
        message_id, timestamp = webhook_id(message), int(self._now())
        signed = signature(self._secrets.of(secret), message_id, timestamp, message.payload)
        return [("webhook-id", message_id), ("webhook-timestamp", str(timestamp)), ("webhook-signature", signed)]

    async def _answered(self, message: Taken, reply: Reply, until: float) -> None:
        if 200 <= reply.status <= 299:
            await self._tell(message, lambda: self._store.outbox.done(message), until)
            logger.info("webhook.delivered: message=%s attempt=%d", webhook_id(message), message.attempt + 1)
        elif reply.status == 410:
            self._disable(self._url_of(target_of(message), message.owner))
            await self._give_up(message, "answered 410", until)
        else:
            await self._failed(message, f"answered {reply.status}", reply.retry_after, until)

    async def _failed(self, message: Taken, detail: str, retry_after: float | None, until: float) -> None:
        failed = message.attempt + 1
        wait = delay(failed, self._chance, retry_after)
        if wait is None:
            await self._give_up(message, detail, until)
            return
        logger.warning(
            "webhook.failed: message=%s attempt=%d next=%gs %s", webhook_id(message), failed, round(wait), detail
        )
        await self._tell(message, lambda: self._store.outbox.reschedule(message, delay=wait, detail=detail), until)

    async def _give_up(self, message: Taken, detail: str, until: float) -> None:
        logger.error("webhook.given_up: message=%s attempt=%d %s", webhook_id(message), message.attempt + 1, detail)
        await self._tell(message, lambda: self._store.outbox.give_up(message, detail=detail), until)

    def _disable(self, url: str) -> None:
        """Nothing is sent there any more by this process; the URL that was disabled first is forgotten first."""
        self._gone[url] = None
        if len(self._gone) > _MOST_GONE:
            del self._gone[next(iter(self._gone))]

    async def _tell(self, message: Taken, act: Callable[[], Awaitable[bool]], until: float) -> None:
        """Tells the outbox, as long as the message is ours. If that fails, it is sent once more: at least once."""
        loop = asyncio.get_running_loop()
        pause = self._settings.poll / 10
        while True:
            try:
                if not await act():
                    logger.warning(
                        "webhook.lost: message=%s was taken by another sender meanwhile", webhook_id(message)
                    )
                return
            except StoreError as fault:
                if not fault.passing or loop.time() + pause >= until:
                    logger.error("webhook.untold: message=%s is sent again: %s", webhook_id(message), fault)
                    return
            await asyncio.sleep(pause)
            pause *= 2


async def _cancelled(tasks: set[asyncio.Task[None]]) -> None:
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
