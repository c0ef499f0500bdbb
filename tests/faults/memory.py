"""How much memory processes take, as the system counts it, and when it is time to look.

Knows: /proc. Must not know: what they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

MiB = 1024 * 1024


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


async def stands_still(count: Callable[[], int]) -> None:
    """Until it has counted something, and has not gone on for a while."""
    last, still = -1, 0
    while still < 10:
        await asyncio.sleep(0.1)
        still = still + 1 if count() == last and last > 0 else 0
        last = count()
