"""Goal A1 in machine instructions: the same comparison under valgrind's callgrind, nearly free of noise.

A process that did 2,000 requests is counted, and one that did 6,000; the difference, divided by 4,000, is one
request's share, without the start of the interpreter, the imports or the warm-up. `python -m
benchmarks.instructions KIND COUNT` is what valgrind runs.
"""

import asyncio
import gc
import os
import re
import shutil
import sys
from subprocess import CompletedProcess, run
from tempfile import TemporaryDirectory

import uvloop

from batchproxy import BatchMiddleware
from benchmarks.apps import ROOT, pure
from benchmarks.driver import bare_cost, batch_cost
from benchmarks.readings import Effort, Reading
from benchmarks.rounds import spread

FEW, MANY = 2_000, 6_000
COLLECTED = re.compile(r"Collected : (\d+)")


async def measure_instructions(effort: Effort) -> list[Reading]:
    """Instructions of an item in a batch of 100 against those of a bare call, pure app."""
    if shutil.which("valgrind") is None:
        raise FileNotFoundError("valgrind is not installed")
    with TemporaryDirectory() as folder:
        bare, batch = each("bare", folder), each("batch", folder)
    detail = f"bare {bare:,.0f}, batch {batch:,.0f} instructions an item, callgrind, difference of two counts"
    return [Reading(row="A1 instructions", ratio=spread([batch / bare]), detail=detail)]


def each(kind: str, folder: str) -> float:
    """Instructions of one more request."""
    ran([], kind, 100, folder)  # so that each of the counted processes finds all modules compiled
    return (collected(kind, MANY, folder) - collected(kind, FEW, folder)) / (MANY - FEW)


def collected(kind: str, count: int, folder: str) -> int:
    """Instructions of a whole process that makes `count` requests."""
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind.{kind}.{count}"]
    finished = ran(valgrind, kind, count, folder)
    match = COLLECTED.search(finished.stderr)
    if match is None:
        raise RuntimeError(f"callgrind told no count: {finished.stderr[-500:]}")
    return int(match[1])


def ran(under: list[str], kind: str, count: int, folder: str) -> CompletedProcess[str]:
    """A process of its own that makes `count` requests; compiled modules are kept in the folder."""
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
    command = [*under, sys.executable, "-m", "benchmarks.instructions", kind, str(count)]
    return run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)


async def work(kind: str, count: int) -> None:
    """What is counted. The collector looks at what the work makes, not at the modules that happen to be loaded."""
    gc.freeze()
    if kind == "bare":
        await bare_cost(pure, count)
    else:
        await batch_cost(BatchMiddleware(pure), 100, count)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(sys.argv[1], int(sys.argv[2])))
