"""A process that has used up its file descriptors sheds load, and is well again when there are some."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack
from pathlib import Path

from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import upstream
from tests.serving import PATIENCE, Malformed

from .whole import Whole, whole

CONFIG = "server: {{watch: false}}\nupstreams: {{api: {{url: '{}'}}}}\n"


@on_a_loop
async def test_it_recovers_when_descriptors_are_free_again(tmp_path: Path) -> None:
    """Connections beyond what it can hold wait or are closed; it does not spin, and afterwards all is as before."""

    async with upstream() as behind:
        await asyncio.to_thread(_exhaust, tmp_path, CONFIG.format(behind.url))


def _exhaust(folder: Path, config: str) -> None:
    with whole(folder, config, descriptors=64) as running:
        assert running.ask("GET", "/").status == 200
        server = running.server
        with ExitStack() as stack:
            for _ in range(120):
                stack.enter_context(socket.create_connection((server.host, server.port), timeout=PATIENCE))
            while running.descriptors < 60:
                assert running.process.poll() is None
            used = _processor_time(running)
            # One second of the processor's, not of the clock's: a loop that spins would take it while this one waits.
            busy = sum(number * number for number in range(3_000_000))
            assert busy
            assert _processor_time(running) - used < 0.5
        while not _is_served(running):
            assert running.process.poll() is None


def _is_served(running: Whole) -> bool:
    """Until the last of the connections is gone, one more may be closed without an answer."""
    try:
        return running.ask("GET", "/").status == 200
    except (Malformed, OSError):
        return False


def _processor_time(running: Whole) -> float:
    fields = Path(f"/proc/{running.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
