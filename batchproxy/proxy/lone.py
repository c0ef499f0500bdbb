"""A request that came alone: handed through both ways at the pace of the slower side.

Knows: ASGI from the app's side, and what to do when one side ends before the other. Must not know: batches, routing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ..engine.errors import Failure
from ..engine.headers import of_answer
from ..engine.model import Headers, Message, Receive, Scope, Send
from . import problem
from .passage import Passage
from .problem import CLOSE, Problem
from .transports import IDLE_TIMEOUT, Outgoing, Pairs, Sent, UpstreamError
from .uploads import BodyTimeout, BodyTooLarge, ClientLeft, Upload, take
from .ways import Way

logger = logging.getLogger("batchproxy")

_LATE = Problem(408, "request_timeout", "The body of the request did not arrive in time.", (CLOSE,))


class Broken(Exception):
    """An answer had begun and cannot be finished. Raised so that the server cuts the connection: never may a part be
    taken for the whole."""


class LoneRequest:
    """One request on its way to an upstream, and the answer on its way back."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        way: Way,
        target: bytes,
        headers: Pairs,
        notes: dict[str, Any],
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._way = way
        self._target = target
        self._headers = headers
        self._notes = notes
        self._loop = asyncio.get_running_loop()
        self._idle = way.upstream.settings.timeouts.idle
        self._limit = asyncio.timeout(None)
        self._watcher: asyncio.Task[None] | None = None
        self._answer: Passage | None = None
        self._upload: Upload | None = None
        self._has_begun = False
        self._has_left = False
        self._is_answered = False

    async def serve(self) -> None:
        """Raises `Broken`."""
        found: Problem | None = None
        try:
            async with self._limit:
                found = await self._exchange()
        except ClientLeft:
            self._notes["flags"] = "DC"
        except TimeoutError:
            if not self._limit.expired():
                raise
            if not self._has_left:
                # A reader that takes nothing.
                self._notes["flags"] = "DT"
                self._log("client.too_slow", "it took nothing of the answer for too long")
                raise Broken("The client took nothing of the answer for too long.") from None
            self._notes["flags"] = "DC"
        finally:
            if self._answer is not None:
                self._answer.close()
            await self._stop_watching()
        if found is None:
            return
        self._notes["code"] = found.code
        if self._has_begun:
            raise Broken("The answer broke off.")
        request_id = problem.request_id(self._notes, self._scope["headers"]).encode("ascii")
        await problem.answer(found, self._scope, self._send, more=((b"x-request-id", request_id),))

    async def _exchange(self) -> Problem | None:
        """Passes the request on and the answer back; or says what is to be answered instead."""
        way = self._way
        declared = _declared(self._scope["headers"])
        timeout = way.route.timeout
        deadline = None if timeout is None else self._loop.time() + timeout
        try:
            body = await take(
                self._receive,
                declared=declared,
                most=way.max_request_bytes,
                least=way.upstream.settings.min_upload_rate,
                patience=self._idle if timeout is None else min(self._idle, timeout),
                ended=self._watch,
            )
            length = None
            if isinstance(body, Upload):
                self._upload, length = body, declared
            request = Outgoing(self._scope["method"], self._target, self._headers, body, length, deadline)
            answer = self._answer = await way.upstream.send(request, notes=self._notes)
            return await self._pass_back(answer)
        except UpstreamError as fault:
            found = self._failed(fault)
            fault.forget()
            return found
        except BodyTooLarge:
            detail = f"The body is larger than {way.max_request_bytes} bytes."
            return problem.of(Failure.BODY_TOO_LARGE, detail, (CLOSE,))
        except BodyTimeout:
            return _LATE

    async def _pass_back(self, answer: Passage) -> Problem | None:
        status, most = answer.status, self._way.max_response_bytes
        is_bodiless = status in (204, 304)
        headers, length = of_answer(answer.headers, keep_length=not is_bodiless)
        if self._scope["method"] == "HEAD" or is_bodiless:
            length = 0
        if most is not None and length is not None and length > most:
            return problem.of(Failure.RESPONSE_TOO_LARGE)
        await self._begin(status, headers)
        size = 0
        while piece := await answer.read():
            size += len(piece)
            if most is not None and size > most:
                self._log("upstream.failed", f"the body has more than {most} bytes")
                return problem.of(Failure.RESPONSE_TOO_LARGE)
            if size == length:
                # To its very end, so that the connection can be used again.
                if await answer.read():
                    return problem.of(Failure.BAD_RESPONSE)
                await self._end(piece)
                return None
            await self._deliver({"type": "http.response.body", "body": piece, "more_body": True})
        await self._end(b"")
        return None

    async def _begin(self, status: int, headers: Headers) -> None:
        self._has_begun = True
        await self._deliver({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def _end(self, piece: bytes) -> None:
        # A server says `http.disconnect` after the last of an answer, too.
        self._is_answered = True
        await self._deliver({"type": "http.response.body", "body": piece, "more_body": False})

    async def _deliver(self, message: Message) -> None:
        """Returns when the server has taken it, at the pace of the client."""
        self._limit.reschedule(self._loop.time() + self._idle)
        try:
            await self._send(message)
        except OSError:
            # ASGI, since 2.4: the client is gone. Older servers take what is sent and drop it.
            raise ClientLeft from None
        if self._has_left:
            raise ClientLeft
        self._limit.reschedule(None)

    # Endings

    def _failed(self, fault: UpstreamError) -> Problem:
        upload = self._upload
        if fault.reason is IDLE_TIMEOUT and fault.sent is not Sent.ALL and upload is not None and upload.is_waiting:
            return _LATE
        self._log("upstream.failed", str(fault))
        failure = fault.reason.failure
        return problem.of(failure, headers=((b"retry-after", b"1"),) if failure.status == 503 else ())

    def _log(self, event: str, detail: str) -> None:
        request_id = problem.request_id(self._notes, self._scope["headers"])
        logger.warning("%s: request=%s upstream=%s %s", event, request_id, self._way.upstream.name, detail)

    # The client

    def _watch(self) -> None:
        """From now on nothing comes from the client any more, but that it leaves."""
        if self._watcher is None:
            self._watcher = self._loop.create_task(self._await_leaving(), name="batchproxy watcher")

    async def _await_leaving(self) -> None:
        # One message is enough: a layer in front that replays the body for ever must not keep us busy.
        if (await self._receive())["type"] == "http.disconnect" and not self._is_answered:
            self._has_left = True
            self._limit.reschedule(self._loop.time())

    async def _stop_watching(self) -> None:
        # It and the upload hold us: without this all would live until the collector comes.
        watcher, self._watcher, self._upload = self._watcher, None, None
        if watcher is None:
            return
        watcher.cancel()
        if not watcher.done():
            await asyncio.wait([watcher])
        if not watcher.cancelled() and watcher.exception() is not None:
            logger.error("client.watching_failed", exc_info=watcher.exception())


def _declared(headers: list[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and len(value) <= 18:
            return int(value)
    return None
