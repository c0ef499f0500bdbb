"""The body of a request that came alone, taken from the client at the upstream's pace.

Knows: ASGI's `receive`. Must not know: where the body goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from ..engine.model import Receive

GATHERED = 64 * 1024
"""A body that declares no more than this is taken whole first: then a slow client holds no place at an upstream, and
the request may be tried again."""


class ClientLeft(Exception):
    """There is nobody left to answer."""


class BodyTooLarge(Exception):
    """The client's body goes over the limit."""


class BodyTimeout(Exception):
    """The client's body did not come in time."""


class Upload:
    """An iterator over a body that is still coming. Raises `ClientLeft`, `BodyTooLarge` and `BodyTimeout`.

    `least` is how many bytes a second have to come, when all that the client kept us waiting is more than `patience`.
    """

    def __init__(
        self,
        receive: Receive,
        first: bytes,
        *,
        most: int | None,
        least: int | None = None,
        patience: float = 0.0,
        ended: Callable[[], None],
    ) -> None:
        self._receive = receive
        self._first: bytes | None = first
        self._most = most
        self._least = least
        self._patience = patience
        self._ended = ended
        self._is_done = False
        self.size = len(first)
        self.is_waiting = False
        """Whether it is the client that keeps everybody waiting."""

    def __repr__(self) -> str:
        return f"Upload(size={self.size}, {'done' if self._is_done else 'open'})"

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._is_done:
            raise StopAsyncIteration
        self.is_waiting = True
        if self._least is None:
            message = await self._receive()
        else:
            since = monotonic()
            message = await self._receive()
            # What the upstream kept the client waiting does not count.
            self._patience -= monotonic() - since
        self.is_waiting = False
        if message["type"] != "http.request":
            raise ClientLeft
        piece: bytes = message.get("body", b"")
        self.size += len(piece)
        if self._most is not None and self.size > self._most:
            raise BodyTooLarge
        if not message.get("more_body", False):
            self._is_done = True
            self._ended()
        elif self._least is not None and self._patience + self.size / self._least < 0:
            raise BodyTimeout
        return piece


async def take(
    receive: Receive,
    *,
    declared: int | None,
    most: int | None,
    least: int | None = None,
    patience: float,
    ended: Callable[[], None],
) -> bytes | Upload:
    """The whole body, if it is short or already there; else an iterator over it.

    A short one has to come within `patience`; of others `least` is the bytes a second. `ended` is called when the last
    of it has come. Raises `ClientLeft`, `BodyTooLarge`, `BodyTimeout`.
    """
    if most is not None and declared is not None and declared > most:
        raise BodyTooLarge
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(patience):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientLeft
                piece = message.get("body", b"")
                size += len(piece)
                if most is not None and size > most:
                    raise BodyTooLarge
                pieces.append(piece)
                is_last = not message.get("more_body", False)
                if is_last or declared is None or declared > GATHERED:
                    break
    except TimeoutError:
        raise BodyTimeout from None
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if not is_last:
        return Upload(receive, body, most=most, least=least, patience=patience, ended=ended)
    ended()
    return body
