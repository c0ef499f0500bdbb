"""Goal A8: how far the memory of a process grows while 100 answers of 1 MiB pass through a batch.

Knows: Linux's account of a process's memory. Each measurement runs in a process of its own, which is
`python -m benchmarks.memory FORM ANSWERS SIZE`.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import PIPE, run

import uvloop

from batchproxy import BatchMiddleware
from benchmarks.apps import MEBIBYTE, ROOT, Message, fresh, pure
from benchmarks.driver import Feed, batch_body, batch_scope, drop
from benchmarks.readings import Effort, Reading
from benchmarks.rounds import spread

ANSWERS = 100
FORMS = {"buffered": b"application/json", "NDJSON": b"application/x-ndjson"}
STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


async def measure_a8(effort: Effort) -> AsyncIterator[Reading]:
    """Growth of the peak of resident memory, against the bytes of the answer."""
    for form in FORMS:
        pairs = [grown(form) for _ in range(effort.slow_rounds)]
        growth, size = pairs[-1]
        detail = f"grew by {growth / MEBIBYTE:.1f} MiB for {size / MEBIBYTE:.1f} MiB of answers"
        yield Reading(row=f"A8 {form}", ratio=spread([g / s for g, s in pairs]), detail=detail)


def grown(form: str, answers: int = ANSWERS, size: int = MEBIBYTE) -> tuple[int, int]:
    """Growth in bytes and bytes sent, told by a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", form, str(answers), str(size)]
    finished = run(command, cwd=ROOT, stdout=PIPE, text=True, check=True)
    growth, size = json.loads(finished.stdout)
    return growth, size


async def observe(form: str, answers: int, size: int) -> tuple[int, int]:
    """Runs one batch in this process and watches its memory."""
    warm = batch_body(10)
    await BatchMiddleware(pure)(batch_scope(warm, FORMS[form]), Feed(warm).receive, drop)
    batching = BatchMiddleware(
        fresh(size), max_items=answers, max_response_bytes=2 * size, max_total_response_bytes=2 * answers * size
    )
    body, sent = batch_body(answers), 0

    async def consume(message: Message) -> None:
        nonlocal sent
        sent += len(message.get("body", b""))
        await asyncio.sleep(0)  # as a socket that took everything, one turn of the loop later

    before = resident_from_now()
    await batching(batch_scope(body, FORMS[form]), Feed(body).receive, consume)
    growth = memory("VmHWM") - before
    if sent < answers * size * 0.99:
        raise RuntimeError(f"Only {sent} bytes of answers came")
    return growth, sent


def resident_from_now() -> int:
    """Bytes that are resident, and from now on the peak counts from them."""
    CLEAR.write_text("5")
    return memory("VmRSS")


def memory(field: str) -> int:
    """One line of /proc/self/status, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.write(json.dumps(runner.run(observe(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
