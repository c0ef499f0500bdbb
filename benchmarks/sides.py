"""The sides of the curves: the middleware in this process, behind uvicorn, and the proxy in front of nginx.

Knows: how to send each of them the same batch, and what that has cost. Must not know: which batches make a curve.
"""

import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from benchmarks.apps import MEBIBYTE, growing, records
from benchmarks.client import Connection, connected, post
from benchmarks.driver import Feed, batch_scope, drop
from benchmarks.in_process import first_result
from benchmarks.memory import FORMS
from benchmarks.server import Server, cores, serving, started, started_on_all_cores
from benchmarks.upstreams import files_served

IN_PROCESS, UVICORN, PROXY = "middleware in process", "middleware behind uvicorn", "proxy before nginx"

SIZES = (100, 1024, 10 * 1024, 100 * 1024, MEBIBYTE, 16 * MEBIBYTE)
"""Bytes of the bodies that there are."""

# With the concurrency that users get who set nothing.
CONFIG = """
server: {{listen: "127.0.0.1:0", admin: "off", watch: false, workers: {workers}, header_timeout: 10m, keep_alive: 10m}}
upstreams:
  items: {{url: "http://127.0.0.1:{upstream}"}}
endpoints:
  - {{path: /batch, max_items: 10000, max_response_bytes: 64MiB, max_total_response_bytes: 1GiB}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A batch, and the form in which its answer is wanted."""

    items: int
    body: bytes
    form: str

    @property
    def accept(self) -> bytes:
        return FORMS[self.form]

    @property
    def request(self) -> bytes:
        return post(self.body, self.accept)


def ask(paths: Sequence[str], form: str = "buffered") -> Ask:
    """A batch of GETs of these paths."""
    body = json.dumps({"requests": [{"method": "GET", "path": path} for path in paths]}).encode()
    return Ask(items=len(paths), body=body, form=form)


class Side(Protocol):
    """One that answers batches."""

    async def cost(self, asked: Ask, times: int) -> float:
        """CPU seconds of an item, when the batch is sent so many times, one after another."""

    async def wait(self, asked: Ask) -> float:
        """Seconds until the answer's body begins."""


class InProcess:
    """The middleware around the pure app, called through ASGI."""

    async def cost(self, asked: Ask, times: int) -> float:
        spent = 0.0
        for _ in range(times):
            scope, feed = batch_scope(asked.body, asked.accept), Feed(asked.body)
            begin = time.process_time()
            await growing(scope, feed.receive, drop)
            spent += time.process_time() - begin
        return spent / (times * asked.items)

    async def wait(self, asked: Ask) -> float:
        return await first_result(growing, asked.body, asked.accept)


class Served:
    """A server in a process of its own, asked over one connection."""

    def __init__(self, server: Server, connection: Connection) -> None:
        self._server = server
        self._connection = connection

    async def cost(self, asked: Ask, times: int) -> float:
        begin = self._server.cpu()
        for _ in range(times):
            await self._connection.exchange(asked.request)
        return (self._server.cpu() - begin) / (times * asked.items)

    async def wait(self, asked: Ask) -> float:
        begin = time.perf_counter()
        await self._connection.exchange(asked.request)
        return self._connection.first_byte - begin


@contextmanager
def uvicorn() -> Iterator[Server]:
    """The middleware around the pure app, behind uvicorn."""
    with serving("benchmarks.apps:growing") as server:
        yield server


@contextmanager
def proxy() -> Iterator[Server]:
    """The whole process, in front of nginx."""
    with _proxy_command(1) as command, started(command) as server:
        yield server


@contextmanager
def proxy_with_workers(workers: int) -> Iterator[Server]:
    """The same with several workers, on all cores."""
    with _proxy_command(workers) as command, started_on_all_cores(command) as server:
        yield server


@contextmanager
def _proxy_command(workers: int) -> Iterator[Sequence[str]]:
    with TemporaryDirectory() as name, files_served(Path(name), cores()[1]) as upstream:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's worker may be somebody else
        for size in SIZES:
            (folder / f"{size}.json").write_bytes(records(size))
        config = folder / "batchproxy.yaml"
        config.write_text(CONFIG.format(upstream=upstream.port, workers=workers))
        yield [sys.executable, "-m", "batchproxy", "serve", "--config", str(config)]


SERVERS: Mapping[str, Callable[[], AbstractContextManager[Server]]] = {UVICORN: uvicorn, PROXY: proxy}


@asynccontextmanager
async def sides() -> AsyncIterator[Mapping[str, Side]]:
    """All of them, up and connected."""
    found: dict[str, Side] = {IN_PROCESS: InProcess()}
    async with AsyncExitStack() as stack:
        for name, server in SERVERS.items():
            running = stack.enter_context(server())
            [connection] = await stack.enter_async_context(connected(running.port, 1))
            found[name] = Served(running, connection)
        yield found


async def grown(server: Callable[[], AbstractContextManager[Server]], asked: Ask) -> int:
    """By how many bytes the peak of a fresh server's memory grows while it answers one batch."""
    with server() as running:
        async with connected(running.port, 1) as [connection]:
            await connection.exchange(ask([f"/item/{number}" for number in range(10)], asked.form).request)
            before = running.resident_from_now()
            await connection.exchange(asked.request)
            return running.peak_memory() - before
