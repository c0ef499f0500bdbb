"""How much memory processes take, as the system counts it, and when it is time to look.

Knows: /proc. Must not know: what they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

MiB = 1024 * 1024
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}
"""With these variables a process gives large blocks back to the system as soon as they are free, so that it holds what
it uses. By itself the allocator keeps blocks of the size of one that it had back before, and the holes between them."""


def resident(pid: int) -> int:
    """Bytes that a process holds now."""
    return _field(pid, "VmRSS")


def _field(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            number, unit = value.split()
            assert unit == "kB"
            return int(number) * 1024
    raise AssertionError(f"no {name} of {pid}")


async def stands_still(count: Callable[[], int], pid: int) -> None:
    """Until it has counted something, and has not gone on for a while in which the process had nothing to do either.

    One that has to wait for the processor stands still as well, and is not done.
    """
    last, still = -1, 0
    while still < 10:
        await asyncio.sleep(0.1)
        still = still + 1 if count() == last and last > 0 and _is_asleep(pid) else 0
        last = count()


def _is_asleep(pid: int) -> bool:
    """Whether each of its threads waits for something else than the processor."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            state = thread.read_text().rpartition(") ")[2][0]
        except FileNotFoundError:
            continue  # it has ended meanwhile
        if state != "S":
            return False
    return True
