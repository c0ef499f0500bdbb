"""Something of ours that lives as long as the app (ASGI lifespan protocol 2.0), whether that has a lifespan or not.

It starts when the app has started, for it may send requests there, and stops before the app does.
"""

from __future__ import annotations

import logging
from typing import Protocol

from .engine.model import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("batchproxy")


class Lodger(Protocol):
    async def start(self) -> None:
        """What it raises stops the start of the app."""

    async def stop(self) -> None: ...


async def live(app: ASGIApp, lodger: Lodger, scope: Scope, receive: Receive, send: Send) -> None:
    """One lifespan of the app, with the lodger in it."""
    await _Lifespan(app, lodger, scope, receive, send).live()


class _Lifespan:
    def __init__(self, app: ASGIApp, lodger: Lodger, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = app
        self._lodger = lodger
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_begun = False
        self._is_living = False
        self._has_spoken = False
        self._has_failed = False

    async def live(self) -> None:
        try:
            try:
                await self._app(self._scope, self.receive, self.send)
            except Exception:
                if self._has_failed:
                    return
                if self._has_spoken:
                    raise
                logger.debug("lifespan.unsupported: the app has none of its own", exc_info=True)
            await self._go_on_alone()
        finally:
            await self._stop()

    async def _go_on_alone(self) -> None:
        """The app takes no part in the lifespan, or no longer does."""
        if not self._has_spoken:
            if not self._is_begun:
                await self._receive()
            await self.send({"type": "lifespan.startup.complete"})
        while self._is_living:
            if (await self.receive())["type"] == "lifespan.shutdown":
                await self._send({"type": "lifespan.shutdown.complete"})

    # The app's side

    async def receive(self) -> Message:
        if self._has_failed:
            return {"type": "lifespan.shutdown"}
        message = await self._receive()
        if message["type"] == "lifespan.startup":
            self._is_begun = True
        else:
            await self._stop()
        return message

    async def send(self, message: Message) -> None:
        if self._has_failed:
            # The server has heard that already; the app only cleans up.
            return
        self._has_spoken = True
        if message["type"] == "lifespan.startup.complete":
            try:
                await self._lodger.start()
            except Exception as fault:
                logger.debug("lifespan.failed", exc_info=True)
                self._has_failed = True
                message = {"type": "lifespan.startup.failed", "message": str(fault)}
            else:
                self._is_living = True
        await self._send(message)

    async def _stop(self) -> None:
        if self._is_living:
            self._is_living = False
            try:
                await self._lodger.stop()
            except Exception:
                # The app is to end in order all the same.
                logger.exception("lifespan.stop_failed")
