"""The lines of an ended job in the order of its items, as one content: how large it is, and how to begin within it.

Nothing of it is kept but marks: so many bytes come before the page behind that cursor. They are noted by whoever passes
along; the size is known once somebody has come to the end.

Knows: pages, cursors and sizes. Must not know: HTTP messages.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import NamedTuple

from ...request import Disconnected
from ..store import JobStore
from .entries import Entries
from .problems import Unavailable
from .reading import PAGE, Asked, page, texts
from .watching import Watch

_STRIDE = 256 * 1024
"""How far marks are apart, at first."""
_MOST_MARKS = 1024
_MOST_CONTENTS = 32


class Mark(NamedTuple):
    """So many bytes come before the page `after` that cursor, with which so many results are `left` to be read."""

    offset: int
    after: str | None
    left: int | None


class Content:
    """What is known of one. `size` is None until its end was seen."""

    def __init__(self, asked: Asked) -> None:
        self.size: int | None = None
        self.measuring = asyncio.Lock()
        self._stride = _STRIDE
        self._marks = [Mark(0, asked.after, asked.limit)]

    @property
    def last(self) -> Mark:
        return self._marks[-1]

    def before(self, offset: int) -> Mark:
        return self._marks[bisect_right(self._marks, offset, key=lambda mark: mark.offset) - 1]

    def note(self, mark: Mark) -> None:
        if mark.offset < self.last.offset + self._stride:
            return
        self._marks.append(mark)
        if len(self._marks) > _MOST_MARKS:
            self._stride *= 2
            del self._marks[1::2]


class Contents:
    """Of one endpoint: those that were asked for last, by their versions."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._known: OrderedDict[str, Content] = OrderedDict()
        # Who measures is not slowed by a reader: so all of them together do it page by page.
        self._turn = asyncio.Lock()

    def of(self, etag: str, asked: Asked) -> Content:
        found = self._known.setdefault(etag, Content(asked))
        self._known.move_to_end(etag)
        if len(self._known) > _MOST_CONTENTS:
            self._known.popitem(last=False)
        return found

    async def pieces(
        self, content: Content, asked: Asked, entries: Entries, mark: Mark
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """From a mark to the end, each piece with the number of bytes before it. Raises `JobsError`."""
        offset, after, left = mark
        here = asked._replace(after=after, limit=left)
        first = await page(self._store, here, after, PAGE if left is None else min(left, PAGE))
        async for each, text in texts(self._store, here, first, entries, None):
            content.note(Mark(offset, after, left))
            yield offset, text
            offset += len(text)
            after = each.cursor
            if left is not None:
                left -= len(each.results)
        content.size = offset

    async def size(self, content: Content, asked: Asked, entries: Entries, watch: Watch) -> int:
        """Passes along what nobody has passed yet. Raises `JobsError`, `Disconnected` and `Unavailable`."""
        async with content.measuring:
            if content.size is None:
                async with aclosing(self.pieces(content, asked, entries, content.last)) as pieces:
                    while await self._next(pieces):
                        if watch.has_left:
                            raise Disconnected
                        if watch.is_over:
                            raise Unavailable("The size is not known in time; go on from a cursor (`after`) instead.")
            assert content.size is not None
            return content.size

    async def _next(self, pieces: AsyncIterator[tuple[int, bytes]]) -> bool:
        async with self._turn:
            return await anext(pieces, None) is not None
