"""The results of a job, page after page, into a file: whatever ends that, one can go on behind what is there.

Knows: pages, cursors, the signals that end a program. Must not know: flags, exit codes of what went wrong.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, BinaryIO, NamedTuple

from .job_server import JobServer, path_of
from .speaking import Code, fail

_PAGE = 1000
_SIGNALS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""Those that end a program, and what is in force if nobody has said otherwise."""


class Page(NamedTuple):
    """Each line is as the server wrote it; `cursor` leads on behind them."""

    lines: list[bytes]
    cursor: str | None
    is_complete: bool


class Export:
    """`cursor` leads on behind what was `written`."""

    def __init__(self, after: str | None) -> None:
        self.written = 0
        self.cursor = after
        self.is_complete = False
        self._is_writing = False
        self._asked: int | None = None

    def write(self, file: BinaryIO, pages: Iterator[Page]) -> None:
        """Raises `KeyboardInterrupt` between two pages; and amid one for who asks twice."""
        for page in pages:
            with self._whole():
                file.write(b"".join(line + b"\n" for line in page.lines))
                file.flush()
                self.written += len(page.lines)
                self.cursor, self.is_complete = page.cursor, page.is_complete

    @property
    def can_go_on(self) -> bool:
        """Whether it is known what was written, and that it is something, and not all."""
        return bool(self.written) and not (self._is_writing or self.is_complete)

    @contextmanager
    def stoppable(self, tell: Callable[[], None]) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the block, and the process after `tell` as they always do."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        taken = [number for number, usual in _SIGNALS.items() if before[number] is usual]
        for number in taken:
            with suppress(ValueError):  # of a thread, to which no signals come
                signal.signal(number, self._stop)
        try:
            yield
        except KeyboardInterrupt:
            tell()
            if self._asked == signal.SIGTERM:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.raise_signal(signal.SIGTERM)
            raise
        finally:
            for number in taken:
                with suppress(ValueError):
                    signal.signal(number, before[number])

    def _stop(self, number: int, frame: FrameType | None) -> None:
        is_first, self._asked = self._asked is None, number
        if not (self._is_writing and is_first):
            raise KeyboardInterrupt

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """A page is written as a whole, or nobody would know behind which line to go on."""
        self._is_writing = True
        yield
        self._is_writing = False
        if self._asked is not None:
            raise KeyboardInterrupt


def pages(server: JobServer, job_id: str, outcome: str | None, after: str | None) -> Iterator[Page]:
    """Up to where the job has come. Ends the program if they cannot be had."""
    import msgspec

    read = msgspec.defstruct("Read", [("results", list[msgspec.Raw]), ("cursor", str | None), ("complete", bool)])
    decoder = msgspec.json.Decoder(read)
    query = {"limit": str(_PAGE)} | ({"outcome": outcome} if outcome else {})
    query |= {"after": after} if after is not None else {}
    while True:
        answer = server.get(path_of(job_id, "/results"), query=query)
        try:
            found: Any = decoder.decode(answer.content)
        except msgspec.MsgspecError:
            fail(Code.NO_ANSWER, f"answered {answer.status_code}, but not with results")
        yield Page([bytes(each) for each in found.results], found.cursor, found.complete)
        if found.complete or found.cursor is None or found.cursor == query.get("after"):
            return
        query["after"] = found.cursor
