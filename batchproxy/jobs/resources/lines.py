"""A body that comes in pieces: within its limits and its time, and as lines.

Knows: ASGI's `receive`, line ends. Must not know: what is in a line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from ...engine.errors import ReadTimeout, TooLarge
from ...engine.model import Headers, Receive
from ...request import CLOSE, Disconnected

_MOST_DIGITS = 30
_BOM = b"\xef\xbb\xbf"


class Body:
    """The pieces of a body. `is_complete` once the last one has come; before, an error has to close the connection.

    Raises `TooLarge`, `ReadTimeout`, and `Disconnected` if the client leaves.
    """

    def __init__(self, receive: Receive, *, most: int, pause: float, total: float, http1: bool) -> None:
        self.size = 0
        self.is_complete = False
        self._receive = receive
        self._most = most
        self._pause = pause
        self._total = total
        self._http1 = http1

    @property
    def closing(self) -> Headers:
        """The unread rest cannot be told from the next request."""
        return (CLOSE,) if self._http1 and not self.is_complete else ()

    def check_length(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises `TooLarge` for a body that is declared to be, before any of it is read."""
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and (len(declared) > _MOST_DIGITS or int(declared) > self._most):
            said = declared[:_MOST_DIGITS].decode("ascii")
            raise TooLarge(f"The body has {said} bytes; the limit is {self._most}.")

    async def pieces(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._total
        pause_ends = loop.time() + self._pause
        while not self.is_complete:
            try:
                async with asyncio.timeout_at(min(end, pause_ends)):
                    message = await self._receive()
            except TimeoutError:
                raise ReadTimeout(
                    f"The body must arrive within {self._total:g} s, without a pause of more than {self._pause:g} s."
                ) from None
            if message["type"] == "http.disconnect":
                raise Disconnected
            piece = message.get("body", b"")
            self.size += len(piece)
            if self.size > self._most:
                raise TooLarge(f"The body has at least {self.size} bytes; the limit is {self._most}.")
            self.is_complete = not message.get("more_body", False)
            if piece:
                yield piece
            # What is done with a piece is not the client's time.
            pause_ends = loop.time() + self._pause if piece else pause_ends


class Line(bytes):
    """Kept with its number, from 1, for whoever has to say where a fault is."""

    number: int

    def __new__(cls, text: bytes, number: int) -> Line:
        line = super().__new__(cls, text)
        line.number = number
        return line


class LineReader:
    """Lines out of pieces, each without the blanks around it; empty ones are counted and left out.

    Raises `TooLarge` for one that is longer than `longest`; `number` is the line that is being read.
    """

    def __init__(self, longest: int) -> None:
        self.number = 1
        self._longest = longest
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[Line]:
        first, *others = piece.split(b"\n")
        lines: list[Line] = []
        self._add(first)
        for other in others:
            self._end(lines)
            self._add(other)
        return lines

    def close(self) -> list[Line]:
        """The last line, if nothing ends it."""
        lines: list[Line] = []
        self._end(lines)
        return lines

    def _add(self, part: bytes) -> None:
        if part:
            self._size += len(part)
            if self._size > self._longest:
                raise TooLarge(f"Line {self.number} has more than {self._longest} bytes.")
            self._parts.append(part)

    def _end(self, lines: list[Line]) -> None:
        text = b"".join(self._parts)
        if self.number == 1:
            text = text.removeprefix(_BOM)
        if text := text.strip(b" \t\r"):
            lines.append(Line(text, self.number))
        self.number += 1
        self._parts.clear()
        self._size = 0
