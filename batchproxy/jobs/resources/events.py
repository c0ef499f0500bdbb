"""The progress of a job as server-sent events (WHATWG HTML): each is the job as it is then.

The id of an event is the version of the job, so that who comes back with `Last-Event-ID` gets only what is new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ...answer import HEARTBEAT
from ...engine.model import Headers
from ..store import Job, JobsError
from .problems import problem_of
from .showing import etag
from .streaming import Stream
from .watching import Watch

EVENT_STREAM = b"text/event-stream; charset=utf-8"
_PACE = 0.2
"""Seconds between two events at least: what happens meanwhile is one."""
_RETRY = b"retry: 2000\n\n"
_encode = msgspec.json.encode


def event_id(job: Job) -> str:
    return etag(job).removeprefix("W/").strip('"')


async def tell(
    stream: Stream,
    watch: Watch,
    job: Job,
    look: Callable[[], Awaitable[Job]],
    *,
    show: Callable[[Job], dict[str, Any]],
    known: str | None,
    headers: Headers,
) -> None:
    """Until the job has ended, or nobody listens any more; `show` says what a job looks like."""
    loop = asyncio.get_running_loop()
    await stream.begin(EVENT_STREAM, headers)
    await stream.write(_RETRY)
    last, spoke_at = known, loop.time()
    while True:
        current = event_id(job)
        if current != last:
            await stream.write(_event(job, current, show(job)))
            last, spoke_at = current, loop.time()
            if not job.is_terminal:
                await asyncio.sleep(_PACE)
        elif loop.time() - spoke_at >= HEARTBEAT:
            await stream.write(b": still running\n\n")
            spoke_at = loop.time()
        if job.is_terminal or watch.is_over:
            break
        await watch.changed()
        try:
            job = await look()
        except JobsError as error:
            problem = problem_of(error)
            await stream.write(
                b"event: error\ndata: %b\n\n" % _encode({"code": problem.code, "detail": problem.detail})
            )
            break
    await stream.end()


def _event(job: Job, id: str, content: dict[str, Any]) -> bytes:
    name = b"ended" if job.is_terminal else b"progress"
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (id.encode("ascii"), name, _encode(content))
