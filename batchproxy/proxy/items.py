"""An item of a batch: passed on, and its answer handed back.

Knows: exchanges, passages. Must not know: how a way is found, requests that came alone.

Nearly every item has nothing to wait for but its answer: a place and an idle connection are there, and the answer comes
in one read. Such an item is `Untasked`: sent when the batch starts it, answered when its bytes arrive. Whatever is not
so goes on in a task, or is served in one from the beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from ..engine.errors import Failure
from ..engine.model import Message, Receive, Scope, Send
from ..engine.target import Call, Exchange
from . import problem
from .passage import Passage
from .problem import Final, Problem
from .transports import Outgoing, Pairs, UpstreamError
from .ways import Way

logger = logging.getLogger("batchproxy")


class Untasked:
    """An item on its way without a task."""

    __slots__ = ("_exchange", "_go_on", "_passage", "_way")

    def __init__(self, exchange: Exchange, way: Way, go_on: Callable[[Exchange, Call], None]) -> None:
        self._exchange = exchange
        self._way = way
        self._go_on = go_on
        self._passage: Passage

    def begin(self, target: bytes, headers: Pairs) -> bool:
        """Whether it has been sent; else nothing has happened."""
        exchange = self._exchange
        item = exchange.item
        way = self._way
        deadline = None if way.timeout is None else way.deadline()
        request = Outgoing(item.method, target, headers, item.body, None, deadline)
        try:
            passage = way.upstream.begin(request, {}, self._arrived)
        except ValueError:
            return False  # a mistake of ours, which is told by whoever sends it in a task
        if passage is None:
            return False
        self._passage = passage
        exchange.notes = passage.notes
        exchange.begun = True
        exchange.untasked = self._give_up
        return True

    def _arrived(self) -> None:
        """Called by the transport, in the midst of what it does: all that takes longer is left to a task."""
        exchange, passage = self._exchange, self._passage
        taken = passage.upstream.take_whole(passage)
        if taken is None:
            self._go_on(exchange, self._follow)
            return
        status, headers, body = taken
        if self._way.max_response_bytes is not None and len(body) > self._way.max_response_bytes:
            exchange.report(Failure.RESPONSE_TOO_LARGE)
            exchange.finish()
        else:
            exchange.answer(status, headers, body)

    async def _follow(self) -> None:
        passage, exchange = self._passage, self._exchange
        await hand_over(self._way, passage.upstream.follow(passage), exchange, exchange.send)

    def _give_up(self) -> None:
        if self._passage.answer is not None:  # else it has been read to its end
            self._passage.upstream.give_up(self._passage)


async def hand_over(way: Way, sending: Awaitable[Passage], exchange: Exchange, send: Send) -> None:
    """Passes the answer on; if there is none, the exchange is told why."""
    passage = None
    try:
        passage = await sending
        failure = await _pass_on(way, passage, send)
    except UpstreamError as fault:
        failure = fault.reason.failure
        logger.warning(
            "upstream.failed: batch=%s index=%s upstream=%s %s",
            exchange.target.batch_id,
            exchange.item.index,
            way.upstream.name,
            fault,
        )
        fault.forget()
    finally:
        if passage is not None:
            passage.close()
    if failure is not None:
        exchange.report(failure)


async def _pass_on(way: Way, answer: Passage, send: Send) -> Failure | None:
    """In one piece if it comes so. The exchange itself leaves out what concerns the connection."""
    most = way.max_response_bytes
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    size = 0
    piece = await answer.read()
    while piece:
        size += len(piece)
        if most is not None and size > most:
            return Failure.RESPONSE_TOO_LARGE
        following = await answer.read()
        if not following:
            break
        await send(_body(piece, more=True))
        piece = following
    await send(_body(piece, more=False))
    return None


async def refuse(found: Problem, scope: Scope, send: Send, exchange: Exchange) -> None:
    """Tells why an item is not passed on."""
    if not isinstance(found, Final):
        exchange.notes = {"code": found.code}
    if found.failure is not None:
        exchange.report(found.failure, found.detail)
    else:
        await problem.answer(found, scope, send)


async def body_of(receive: Receive) -> bytes:
    """It is there; only a layer in between may hand it over in pieces."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        pieces = [body]
        while message.get("more_body", False):
            message = await receive()
            pieces.append(message.get("body", b""))
        body = b"".join(pieces)
    return body


def _body(piece: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": piece, "more_body": more}
