"""A sender in a process of its own, to be killed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from batchproxy.jobs.webhooks import WebhookSender
from tests.jobs.place import Place

from .sending import SECRET, VARIABLE, settings


def send(url: str, folder: Path, port: int) -> None:
    """Sends until it is killed."""
    # The environment is that of the process which forks, as it was when that one began.
    os.environ[VARIABLE] = SECRET

    async def main() -> None:
        async with Place(url, folder).opened() as store, WebhookSender(store, settings(port)):
            await asyncio.Event().wait()

    asyncio.run(main())
