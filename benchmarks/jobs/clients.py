"""A client of jobs over HTTP: it sends bodies as they are made, and reads answers as they come.

Knows: just enough of the protocol of jobs. Must not know: what is measured.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any, TypeVar

from benchmarks.jobs.apps import PATH

T = TypeVar("T")

JSON_TYPE, LINES_TYPE = "application/json", "application/x-ndjson"
PIECE = 64 * 1024
PATIENCE = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """What was read, and how many seconds passed until its first bytes came."""

    size: int
    lines: int
    first: float


class Client:
    """Its methods block, and are to be called through `aside`."""

    def __init__(self, port: int) -> None:
        self._port = port

    def submit(self, media_type: str, body: bytes | Iterable[bytes], size: int) -> str:
        """The path of the new job."""
        headers = {"content-type": media_type, "content-length": str(size), "prefer": "respond-async"}
        with self._asked("POST", PATH, headers, body) as response:
            response.read()
            if response.status != 202:
                raise RuntimeError(f"The submission was answered {response.status}")
            return str(response.headers["location"])

    def ended(self, path: str, state: str = "completed") -> dict[str, Any]:
        """The job once it has ended in this state."""
        until = time.monotonic() + PATIENCE
        while True:
            with self._asked("GET", path, {"prefer": "wait=10"}) as response:
                job: dict[str, Any] = json.load(response)
            if job["state"] == state:
                return job
            if time.monotonic() > until:
                raise RuntimeError(f"The job did not end {state}: {job}")

    def results(self, path: str, query: str = "", *, most: int | None = None) -> Download:
        """Reads all results, or about so many bytes of them."""
        begin, first, size, lines = time.perf_counter(), 0.0, 0, 0
        with self._asked("GET", f"{path}/results{query}", {"accept": LINES_TYPE}) as response:
            while (most is None or size < most) and (piece := response.read1(PIECE)):
                first = first or time.perf_counter() - begin
                size += len(piece)
                lines += piece.count(b"\n")
        return Download(size=size, lines=lines, first=first)

    def cancel(self, path: str) -> None:
        with self._asked("POST", f"{path}/cancel", {"content-length": "0"}) as response:
            response.read()

    @contextmanager
    def _asked(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None = None
    ) -> Iterator[HTTPResponse]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, dict(headers))
            yield connection.getresponse()
        finally:
            connection.close()


async def aside(call: Callable[..., T], *arguments: Any, **more: Any) -> T:
    """In a thread: the loop goes on."""
    return await asyncio.to_thread(call, *arguments, **more)


def lines_of(count: int) -> bytes:
    """So many items, a line each."""
    return b"".join(b'{"path": "/item/%d"}\n' % number for number in range(count))
