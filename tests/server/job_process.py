"""Jobs in whole processes, and the upstream that their items reach.

Knows: how a job is submitted and asked for over HTTP. Must not know: what any test is about.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.whole import Whole
from tests.programs import ROOT
from tests.serving import PATIENCE, Response, Server, serve

LINES = [("Content-Type", "application/x-ndjson"), ("Prefer", "respond-async")]


class Behind:
    """An upstream that counts what it gets, and answers so many requests until `open_up`."""

    def __init__(self, server_name: str = "a") -> None:
        self.seen: Counter[str] = Counter()
        self.name = server_name
        self._left = 10**9
        self._lock = threading.Lock()

    def hold_after(self, number: int) -> None:
        with self._lock:
            self._left = number

    def open_up(self) -> None:
        self.hold_after(10**9)

    def _may_pass(self) -> bool:
        with self._lock:
            self._left -= self._left > 0
            return self._left > 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        self.seen[scope["path"]] += 1
        while not self._may_pass():
            await asyncio.sleep(0.005)
        status = 404 if scope["path"].startswith("/missing") else 200
        content = json.dumps({"from": self.name}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    @contextmanager
    def served(self) -> Iterator[Server]:
        with serve(self, access_log=False) as server:
            try:
                yield server
            finally:
                self.open_up()


def lines(paths: list[str]) -> bytes:
    return b"".join(json.dumps({"path": path}).encode() + b"\n" for path in paths)


def submitted(process: Whole, paths: list[str]) -> str:
    """The path of a new job."""
    answer = process.ask("POST", "/batch", LINES, lines(paths))
    assert answer.status == 202, answer
    location = answer.header("location")
    assert location is not None
    return location


def job(process: Whole, path: str) -> Any:
    answer = process.ask("GET", path)
    assert answer.status == 200, answer
    return answer.json()


def waited_for(process: Whole, path: str, condition: Callable[[Any], bool]) -> Any:
    """The job as soon as it is like that."""
    return eventually(lambda: job(process, path), condition)


def eventually(look: Callable[[], Any], condition: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not condition(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def ended(process: Whole, path: str) -> Any:
    return waited_for(process, path, lambda found: found["finished_at"] is not None)


def results(process: Whole, path: str) -> list[Any]:
    answer: Response = process.ask("GET", f"{path}/results?limit=1000", [("Accept", "application/json")])
    assert answer.status == 200, answer
    found = answer.json()
    assert found["complete"]
    return list(found["results"])


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BATCHPROXY_")}
    return {**kept, "PYTHONPATH": str(ROOT), **(variables or {})}


@contextmanager
def working(
    *arguments: str | Path, variables: Mapping[str, str] | None = None, folder: Path | None = None
) -> Iterator[Whole]:
    """`batchproxy worker`; ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "batchproxy", "worker", "--log-format", "json", *map(str, arguments)],
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
    )
    with process:
        running = Whole(process, Path(str(arguments[-1])))
        try:
            running.says("working")
            yield running
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                running.ended()
            finally:
                process.kill()
