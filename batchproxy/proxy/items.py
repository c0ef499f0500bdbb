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


class Untasked(Passage):
    """The passage of an item on its way without a task; whoever makes one sets what it has of its own."""

    __slots__ = ("exchange", "go_on", "way")
    exchange: Exchange
    go_on: Callable[[Exchange, Call], None]
    way: Way

    def arrived(self) -> None:
        """Called by the transport, in the midst of what it does: all that takes longer is left to a task."""
        exchange = self.exchange
        taken = self.upstream.take_whole(self)
        if taken is None:
            self.go_on(exchange, self._follow)
            return
        status, headers, body = taken
        if self.way.max_response_bytes is not None and len(body) > self.way.max_response_bytes:
            exchange.report(Failure.RESPONSE_TOO_LARGE)
            exchange.finish()
        else:
            exchange.answer(status, headers, body)

    async def _follow(self) -> None:
        await hand_over(self.way, self.upstream.follow(self), self.exchange, self.exchange.send)

    def give_up(self) -> None:
        if self.answer is not None:  # else it has been read to its end
            self.upstream.give_up(self)


def begin(exchange: Exchange, way: Way, target: bytes, headers: Pairs, go_on: Callable[[Exchange, Call], None]) -> bool:
    """Whether an item has been sent without a task; else nothing has happened."""
    item, upstream = exchange.item, way.upstream
    deadline = None if way.timeout is None else way.deadline()
    passage = Untasked(upstream, Outgoing(item.method, target, headers, item.body, None, deadline), {})
    passage.exchange, passage.way, passage.go_on = exchange, way, go_on
    try:
        has_begun = upstream.begin(passage, exchange.started)
    except ValueError:
        return False  # a mistake of ours, which is told by whoever sends it in a task
    if has_begun:
        exchange.notes = passage.notes
        exchange.begun = True
        exchange.untasked = passage.give_up
    return has_begun


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
