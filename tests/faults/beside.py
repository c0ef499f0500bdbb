"""The whole process beside the loop of a test, which plays its clients and upstreams.

Knows: `whole`. Must not know: what any test is about.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from .whole import Whole, whole


@asynccontextmanager
async def beside(folder: Path, config: str, **more: Any) -> AsyncIterator[Whole]:
    """The process, started and ended without blocking the loop."""
    running = whole(folder, config, **more)
    started = await asyncio.to_thread(running.__enter__)
    try:
        yield started
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
