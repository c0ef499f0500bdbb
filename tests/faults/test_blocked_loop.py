"""Code of the operator's own that blocks the event loop is noticed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import upstream

from .whole import whole

CONFIG = """
server: {{watch: false}}
upstreams: {{api: {{url: '{}'}}}}
endpoints: [{{path: /batch, guards: ['blocking_guard:guard']}}]
"""
GUARD = """
import time


async def guard(batch):
    time.sleep(1)
    return batch
"""


@on_a_loop
async def test_a_guard_that_blocks_is_told_of(tmp_path: Path) -> None:
    """The batch is answered, and the log says for how long nothing else was."""
    (tmp_path / "blocking_guard.py").write_text(GUARD)
    async with upstream() as behind:
        await asyncio.to_thread(_block, tmp_path, CONFIG.format(behind.url))


def _block(folder: Path, config: str) -> None:
    with whole(folder, config, variables={"PYTHONPATH": str(folder)}) as running:
        body = json.dumps({"requests": [{"path": "/a"}]}).encode()
        answer = running.ask("POST", "/batch", [("Content-Type", "application/json")], body)
        assert [entry["status"] for entry in answer.json()["responses"]] == [200]
        assert "seconds=" in running.says("loop.blocked")["detail"]
