"""What an item costs in machine instructions, counted by valgrind's callgrind: nearly free of noise.

`python -m benchmarks.instructions --check` compares with the accepted counts in instructions.json, and fails where one
is 3 % above; `--accept` writes the counts of now. What valgrind runs is `python -m benchmarks.instructions --count
KIND`, which calls `getppid` before and after the requests that count; callgrind writes down what was spent at each such
call, so neither the start of the interpreter nor imports nor the warm-up are in the figure.

Counts are kept for each build of Python, and each is held against its own: two builds of 3.11 by the same compiler
(-O3 with a shared libpython, Debian's -O2) differ by 5 to 15 %, and ratios between the counts by 5 to 7 %, for a bare
call is mostly `json` and a batch mostly the interpreter's loop. README.md has the figures.

Knows: callgrind, and what is run under it. Must not know: how the package does its work.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from subprocess import PIPE, STDOUT, run
from tempfile import TemporaryDirectory
from typing import TypedDict, cast

import uvloop

from batchproxy import BatchMiddleware, Endpoint
from batchproxy.engine.routing import Route, RouteTable
from batchproxy.proxy.app import ReverseProxy
from batchproxy.proxy.entrance import Entrance
from batchproxy.proxy.forwarding import Forwarding
from batchproxy.proxy.settings import Upstream
from batchproxy.proxy.upstream import LiveUpstream
from benchmarks.apps import ROOT, App, pure
from benchmarks.driver import BLOCK, Feed, answer_of_batch, batch_body, batch_scope, drop, single_scope
from benchmarks.readings import Effort, Reading
from benchmarks.rounds import spread

ACCEPTED = ROOT / "benchmarks" / "instructions.json"
MOST_GROWTH = 1.03
WARM, COUNTED = 10, 20  # blocks of requests
SMALL = 10
LONGEST_SECONDS = 300.0  # of one count
SPENT = re.compile(r"^summary: (\d+)$", re.MULTILINE)
COUNTED_LIBRARIES = ("msgspec", "uvloop", "httptools")

Block = Callable[[], Awaitable[None]]


class Accepted(TypedDict):
    """The counts of one build of Python, and what else they depend on."""

    versions: dict[str, str]
    counts: dict[str, int]


# What is counted


@asynccontextmanager
async def bare() -> AsyncIterator[Block]:
    """Requests given to the pure app, one after another."""
    feed = Feed(b"")

    async def calls() -> None:
        for number in range(BLOCK):
            await pure(single_scope(number), feed.receive, drop)

    yield calls


@asynccontextmanager
async def batch() -> AsyncIterator[Block]:
    """A batch around the pure app."""
    yield await _batch_of(BatchMiddleware(pure))


@asynccontextmanager
async def small() -> AsyncIterator[Block]:
    """Batches of ten around the pure app: what is done once for a batch is a fifth of them."""
    one = await _batch_of(BatchMiddleware(pure), SMALL)

    async def batches() -> None:
        for _ in range(BLOCK // SMALL):
            await one()

    yield batches


@asynccontextmanager
async def proxied() -> AsyncIterator[Block]:
    """A batch whose items take the way of the served process, over kept connections to an upstream in this one.

    A Unix socket hands over at once what is written to it, whatever else the machine does; over TCP, how often the loop
    turns is up to the kernel.
    """
    with TemporaryDirectory() as folder:
        place = f"{folder}/upstream"
        async with await asyncio.get_running_loop().create_unix_server(Scripted, place):
            upstream = LiveUpstream("items", Upstream(url=f"unix:{place}"))
            table = RouteTable([Route(path="/", upstream="items")])
            proxy = ReverseProxy(table, {"items": upstream}, forwarding=None)
            endpoint = Endpoint(path="/batch", routes=table)
            try:
                yield await _batch_of(Entrance(BatchMiddleware(proxy, endpoints=[endpoint]), forwarding=Forwarding()))
            finally:
                await upstream.aclose()


class Scripted(asyncio.Protocol):
    """An upstream that answers each request with the same bytes. Its work counts too: it is always the same."""

    ANSWER = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 14\r\n\r\n{"id": 123456}'

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(self.ANSWER)


async def _batch_of(app: App, size: int = BLOCK) -> Block:
    body = batch_body(size)
    if any(answer["status"] != 200 for answer in await answer_of_batch(app, body)):
        raise RuntimeError("A batch that fails is not to be counted")

    async def one() -> None:
        await app(batch_scope(body), Feed(body).receive, drop)
        await asyncio.sleep(0)

    return one


KINDS: Mapping[str, Callable[[], AbstractAsyncContextManager[Block]]] = {
    "bare": bare,
    "batch": batch,
    "small": small,
    "proxied": proxied,
}


async def spend(kind: str) -> None:
    """Runs what counts between two calls of `getppid`."""
    async with KINDS[kind]() as block:
        for _ in range(WARM):
            await block()
        gc.collect()
        gc.freeze()  # the collector looks at what requests make, not at the modules that happen to be loaded
        os.getppid()
        for _ in range(COUNTED):
            await block()
        os.getppid()


# Counting


def counted(kind: str) -> int:
    """Instructions of one request."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise FileNotFoundError("valgrind is not installed; on Debian: apt-get install valgrind")
    with TemporaryDirectory() as folder:
        tool = [valgrind, "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={folder}/spent"]
        command = [sys.executable, "-m", "benchmarks.instructions", "--count", kind]
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        finished = run(
            [*tool, *command], cwd=ROOT, env=environment, stdout=PIPE, stderr=STDOUT, text=True, timeout=LONGEST_SECONDS
        )
        # The first was written before what counts, the second behind it.
        spent = SPENT.search(second.read_text()) if (second := Path(folder, "spent.2")).exists() else None
        if finished.returncode or spent is None:
            raise RuntimeError(f"callgrind told no count of {kind}: {finished.stdout[-2000:]}")
    return round(int(spent[1]) / (COUNTED * BLOCK))


async def measure_instructions(effort: Effort) -> AsyncIterator[Reading]:
    """Instructions of an item in a batch of 100 against those of a bare call, and of one that is passed on."""
    counts = {}
    for kind in ("bare", "batch", "proxied"):
        counts[kind] = counted(kind)
        if kind == "batch":
            detail = f"bare {counts['bare']:,}, batch {counts['batch']:,} instructions an item"
            yield Reading(row="A1 instructions", ratio=spread([counts["batch"] / counts["bare"]]), detail=detail)
    detail = f"proxied {counts['proxied']:,} instructions an item, the scripted upstream's included"
    yield Reading(row="B instructions", ratio=spread([counts["proxied"] / counts["batch"]]), detail=detail)


# Accepted counts


def build() -> str:
    """Which build of Python this is, as far as instructions go."""
    flags = f"{sysconfig.get_config_var('PY_CFLAGS')}".split()
    levels = [flag for flag in flags if flag.startswith("-O")]
    parts = [
        f"{platform.python_implementation()} {sys.version_info.major}.{sys.version_info.minor}",
        platform.machine(),
        platform.python_compiler(),
        *levels[-1:],
        *(["PGO"] if "--enable-optimizations" in f"{sysconfig.get_config_var('CONFIG_ARGS')}" else []),
    ]
    return " ".join(parts)


def libraries() -> dict[str, str]:
    """The exact Python, and the libraries whose instructions are counted too."""
    return {"Python": platform.python_version(), **{name: version(name) for name in COUNTED_LIBRARIES}}


def accepted() -> dict[str, Accepted]:
    """By build."""
    found: dict[str, Accepted] = json.loads(ACCEPTED.read_text()) if ACCEPTED.exists() else {}
    return found


def accept(counts: Mapping[str, int]) -> None:
    """Keeps the counts of now for this build."""
    known = accepted()
    known[build()] = {"versions": libraries(), "counts": dict(counts)}
    ACCEPTED.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


def judged(counts: Mapping[str, int], known: Accepted) -> list[str]:
    """One line for each kind that has grown too much."""
    grown = [
        f"{kind} takes {counts[kind] / was - 1:+.1%} instructions"
        for kind, was in known["counts"].items()
        if counts[kind] > was * MOST_GROWTH
    ]
    here = libraries()
    other = [
        f"{name} {was} (here {here.get(name)})" for name, was in known["versions"].items() if was != here.get(name)
    ]
    if grown and other:
        grown.append(f"accepted with {', '.join(other)}")
    return grown


def main() -> None:
    """Counts, compares, accepts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description="Instructions of an item.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="fail where one is 3 %% above what is accepted")
    what.add_argument("--accept", action="store_true", help="these are the accepted ones from now on")
    what.add_argument("--count", choices=list(KINDS), help="what valgrind runs")
    options = parser.parse_args()
    if options.count:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(spend(options.count))
        return
    known = accepted().get(build())
    counts = {}
    for kind in KINDS:
        counts[kind] = counted(kind)
        was = known["counts"].get(kind) if known else None
        change = f"{counts[kind] / was - 1:+8.2%} on {was:,}" if was else "    none accepted"
        print(f"{kind:8} {counts[kind]:9,} instructions an item {change}", flush=True)
    if options.accept:
        accept(counts)
    elif known is None:
        print(f"No counts are accepted for {build()}; --accept writes them.")
    elif grown := judged(counts, known):
        sys.exit("; ".join(grown) + ". If that is worth it: python -m benchmarks.instructions --accept")


if __name__ == "__main__":
    main()
