"""J5 to J7: jobs in the app's own process, with everything in it: server, middleware, store, worker, app.

Knows: what is sent, and what the process uses meanwhile. Must not know: how jobs are kept.
"""

import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial

from benchmarks.client import get
from benchmarks.jobs.apps import URL
from benchmarks.jobs.clients import LINES_TYPE, Client, aside, lines_of
from benchmarks.jobs.stores import sqlite
from benchmarks.readings import Effort, Reading
from benchmarks.rounds import Ratio, Sample, interleaved, spread
from benchmarks.server import Server, serving
from benchmarks.tail import Clients, Latencies

LARGE = 50_000
LINE_BYTES = 3990
"""Such lines together are a little less than the 200 MB that a submission may have."""
MEGABYTE = 1_000_000
WARM = 500


def large_lines() -> Iterator[bytes]:
    """Lines of PUTs, in pieces of a hundred; the app gives their bodies back."""
    letters = random.Random(7).choices("abcdefghijklmnopqrstuvwxyz ", k=LINE_BYTES)
    text = "".join(letters).encode()
    for first in range(0, LARGE, 100):
        yield b"".join(map(partial(_line, text), range(first, first + 100)))


def _line(text: bytes, number: int) -> bytes:
    head = b'{"method": "PUT", "path": "/item/%05d", "body": "' % number
    return b'%b%b"}\n' % (head, text[: LINE_BYTES - len(head) - 3])


async def measure_large(effort: Effort) -> AsyncIterator[Reading]:
    """J5 and J6: 50,000 items of 4 kB each, and their answers of the same size."""
    with sqlite() as new_url, serving("benchmarks.jobs.apps:echoing_with_jobs", {URL: new_url()}) as server:
        client = Client(server.port)
        warm = lines_of(WARM)
        await aside(client.results, (await _done(client, warm)))
        before = server.resident_from_now()
        begin = time.perf_counter()
        path = await aside(client.submit, LINES_TYPE, large_lines(), LARGE * LINE_BYTES)
        seconds = time.perf_counter() - begin
        yield _grown("upload", server, before, f"{LARGE * LINE_BYTES / MEGABYTE:.0f} MB in {seconds:.1f} s")
        first = await aside(client.results, path, "?follow=true", most=1)
        detail = f"of a job of {LARGE:,}, from when the submission was accepted"
        yield Reading(row="J6", ratio=figure(first.first), detail=detail)
        server.resident_from_now()
        job = await aside(client.ended, path)
        if job["counts"]["completed"] != LARGE:
            raise RuntimeError(f"The job ended with {job['counts']}")
        began, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
        yield _grown("work", server, before, f"{LARGE / (ended - began).total_seconds():,.0f} items/s")
        server.resident_from_now()
        begin = time.perf_counter()
        read = await aside(client.results, path)
        seconds = time.perf_counter() - begin
        if read.lines < LARGE:
            raise RuntimeError(f"{read.lines} lines of results came")
        yield _grown("download", server, before, f"{read.size / MEGABYTE:.0f} MB in {seconds:.1f} s")


async def _done(client: Client, body: bytes) -> str:
    path = await aside(client.submit, LINES_TYPE, body, len(body))
    await aside(client.ended, path)
    return path


def _grown(name: str, server: Server, before: int, detail: str) -> Reading:
    """By how much the process is larger at its peak than before everything."""
    grown = (server.peak_memory() - before) / MEGABYTE
    return Reading(row=f"J5 {name}", ratio=figure(grown), detail=f"from {before / MEGABYTE:.0f} MB; {detail}")


def figure(value: float) -> Ratio:
    """One that was taken once."""
    return spread([value])


async def measure_live(effort: Effort) -> list[Reading]:
    """J7: a lone client of the app, with and without a job in the same process, which works as it comes."""
    latencies = Latencies()
    lines = lines_of(LARGE)
    with sqlite() as new_url, serving("benchmarks.jobs.apps:gentle", {URL: new_url()}) as server:
        client = Client(server.port)
        await _done(client, lines_of(WARM))
        # None are left out for what held the core meanwhile: it may be the job, in another thread of the process.
        asked = Clients(server.port, [get(number % 100) for number in range(effort.count(800))], 0, [])

        async def beside() -> float:
            async with _running(client, lines):
                return await latencies.worst_percent("beside", asked)

        samples: dict[str, Sample] = {"alone": partial(latencies.worst_percent, "alone", asked), "beside": beside}
        rounds = await interleaved(samples, min(effort.slow_rounds, 3))
    detail = f"ms at 50 90 99 %: {latencies.told('beside')}, alone {latencies.told('alone')}"
    return [Reading(row="J7", ratio=rounds.ratio("beside", "alone"), detail=detail)]


@asynccontextmanager
async def _running(client: Client, lines: bytes) -> AsyncIterator[None]:
    """A job is under way for as long as the block lasts."""
    path = await aside(client.submit, LINES_TYPE, lines, len(lines))
    await aside(client.results, path, "?follow=true", most=1)
    try:
        yield
    finally:
        await aside(client.cancel, path)
        await aside(client.ended, path, "cancelled")
