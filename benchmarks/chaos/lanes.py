"""Several rounds at once: as many lanes, each of which takes the next round when it is through with one.

Knows: how lanes are started, asked and ended. Must not know: what happens in them.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from benchmarks.chaos.drawing import drawn
from benchmarks.chaos.lane import unpacked
from benchmarks.chaos.running import Report
from benchmarks.chaos.site import ROOT

_LONGEST_LINE = 2**20
_PATIENCE = 60.0
"""How long a lane may take to end: it stops PostgreSQL, and removes what it made."""


def usual() -> int:
    """How many: rounds wait for leases half of the time."""
    return 2 * len(os.sched_getaffinity(0))


async def drive(
    seed: int, numbers: Iterable[int], names: Sequence[str], at_once: int, took: Callable[[Report], None]
) -> None:
    """Runs them all; `took` is told of each as soon as it is over, in whatever order that is."""
    left = iter(numbers)
    async with asyncio.TaskGroup() as lanes:
        for _ in range(at_once):
            lanes.create_task(_lane(seed, left, names, took))


async def _lane(seed: int, left: Iterator[int], names: Sequence[str], took: Callable[[Report], None]) -> None:
    # What is pressed on the keyboard reaches a session: lanes are to be ended from here, and by nobody else.
    words = [sys.executable, "-m", "benchmarks.chaos.lane", str(seed), *names]
    while (number := next(left, None)) is not None:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=PIPE, stdout=PIPE, cwd=ROOT, start_new_session=True, limit=_LONGEST_LINE
        )
        try:
            while number is not None:
                report = await _asked(process, number)
                took(report or Report(round=drawn(seed, number, names), wrong=["what ran it has ended, see above"]))
                number = next(left, None) if report else None
        finally:
            await _ended(process)


async def _asked(process: Process, number: int) -> Report | None:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(ConnectionError):
        process.stdin.write(b"%d\n" % number)
        await process.stdin.drain()
    line = await process.stdout.readline()
    return unpacked(line) if line else None


async def _ended(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_PATIENCE):
            await process.wait()
    finally:
        # With all that it may have started, if it has not ended as it should.
        if process.returncode != 0:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
