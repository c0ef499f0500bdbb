"""The results of a job as its reader asks for them: a page, lines up to where it has come, or lines until its end.

Knows: pages and cursors. Must not know: how an entry looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec

from ...answer import HEARTBEAT
from ..store import JobsError, JobStore, Outcome, Page
from .entries import Entries
from .names import named
from .problems import problem_of
from .streaming import Stream
from .watching import Watch

_encode = msgspec.json.encode
PAGE = 100


class Asked(NamedTuple):
    """`limit` is None for all that there is."""

    job_id: str
    owner: str
    by_completion: bool
    after: str | None
    limit: int | None
    outcomes: tuple[Outcome, ...]


async def page(store: JobStore, asked: Asked, after: str | None, limit: int) -> Page:
    read = store.results.in_completion_order if asked.by_completion else store.results.in_order
    found = await read(asked.job_id, asked.owner, after=after, limit=limit, outcomes=asked.outcomes)
    return await named(store, asked.job_id, found)


async def pages(store: JobStore, asked: Asked, first: Page, watch: Watch | None) -> AsyncIterator[Page]:
    """From the first on, up to where the job has come; with a `watch`, until its end or that of the watch."""
    left = asked.limit
    current = first
    while True:
        yield current
        if left is not None:
            left -= len(current.results)
        if current.complete or left == 0 or (watch is not None and watch.is_over):
            return
        following = await page(store, asked, current.cursor, PAGE if left is None else min(left, PAGE))
        # A page without results still may lead further, where some outcomes are left out.
        if following.cursor == current.cursor and not following.complete:
            if watch is None:
                return
            await watch.changed()
            if watch.is_over:
                return
        current = following


async def texts(
    store: JobStore, asked: Asked, first: Page, entries: Entries, watch: Watch | None
) -> AsyncIterator[tuple[Page, bytes]]:
    """What is written of each page: a line for each result, and one with the cursor that leads on from there."""
    last = first
    async for each in pages(store, asked, first, watch):
        last = each
        lines = entries.of(each.results)
        yield each, b"\n".join([*lines, _mark(each)]) + b"\n" if lines else b""
    # Whoever has got everything has been told so with the last page.
    if not last.results:
        yield last, _mark(last) + b"\n"


async def write_lines(
    stream: Stream, store: JobStore, asked: Asked, first: Page, entries: Entries, watch: Watch | None
) -> None:
    """All of them; at last, if something is wrong, what that is, and the cursor that leads on.

    Where nothing comes for long the cursor is said again: those in between cut a connection that is silent.
    """
    last, loop = first, asyncio.get_running_loop()
    spoke_at = loop.time()
    try:
        async for each, text in texts(store, asked, first, entries, watch):
            last = each
            if not text and loop.time() - spoke_at >= HEARTBEAT:
                text = _mark(each) + b"\n"
            if text:
                await stream.write(text)
                spoke_at = loop.time()
    except JobsError as error:
        problem = problem_of(error)
        about = {"code": problem.code, "detail": problem.detail}
        await stream.end(_encode({"error": about, "cursor": last.cursor, "complete": False}) + b"\n")
        return
    await stream.end()


def _mark(read: Page) -> bytes:
    return _encode({"cursor": read.cursor, "complete": read.complete})
