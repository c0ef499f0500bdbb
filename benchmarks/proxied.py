"""Goals B1 to B4: items passed on to an nginx over sockets, by us and by others.

Knows: which proxies are set against each other. Must not know: the limits they should keep.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.client import Connection, connected, exchange_all, post
from benchmarks.driver import batch_body
from benchmarks.readings import Effort, Reading, microseconds
from benchmarks.rounds import Ratio, interleaved
from benchmarks.server import Server, cores, serving, started
from benchmarks.upstreams import items_served, lua_batching

NODE = Path(__file__).with_name("node_proxy.mjs")


CONFIG = """
server: {{listen: "127.0.0.1:0", admin: "off", watch: false}}
upstreams:
  items: {{url: "http://127.0.0.1:{upstream}", max_in_flight: 100, max_connections: 100}}
endpoints:
  - {{path: /batch, concurrency: 100}}
"""


@contextmanager
def proxying(upstream: int) -> Iterator[Server]:
    """The whole process, as users start it, with its access log on."""
    with TemporaryDirectory() as folder:
        config = Path(folder) / "batchproxy.yaml"
        config.write_text(CONFIG.format(upstream=upstream))
        with started([sys.executable, "-m", "batchproxy", "serve", "--config", str(config)]) as server:
            yield server


class Side(NamedTuple):
    """A proxy under measurement, and a connection to it."""

    server: Server
    connections: Sequence[Connection]


async def measure_b(effort: Effort) -> list[Reading]:
    """CPU of the proxying process for each item of a batch of 100; every item goes to the same nginx."""
    first, second = cores()
    async with AsyncExitStack() as stack:
        upstream = stack.enter_context(items_served(second))
        environment = {"BENCHMARK_UPSTREAM": str(upstream.port)}
        sides = {
            "ours": stack.enter_context(proxying(upstream.port)),
            "aiohttp": stack.enter_context(serving("benchmarks.proxies:over_aiohttp", environment)),
            "lua": stack.enter_context(lua_batching(upstream.port, first)),
        }
        node = shutil.which("node")
        if node is not None:
            sides["node"] = stack.enter_context(started([node, str(NODE), str(upstream.port)]))
        samples = {}
        count = effort.count(2000)
        for name, server in sides.items():
            connections = await stack.enter_async_context(connected(server.port, 1))
            await _same(name, connections[0])
            samples[name] = partial(_cost, Side(server, connections), count)
        rounds = await interleaved(samples, max(5, effort.rounds // 2))
        memory = sides["ours"].resident_memory() / 2**20
    cost = {name: f"{name} {microseconds(rounds.middle(name))}" for name in samples}
    readings = [
        Reading(row="B1", ratio=rounds.ratio("aiohttp", "ours"), detail=f"{cost['aiohttp']}, {cost['ours']}"),
        Reading(row="B2", ratio=rounds.ratio("ours", "lua"), detail=f"{cost['ours']}, {cost['lua']}"),
    ]
    if "node" in samples:
        detail = f"{cost['node']}, {cost['ours']}"
        readings.append(Reading(row="B3", ratio=rounds.ratio("node", "ours"), detail=detail))
    readings.append(Reading(row="B4", ratio=Ratio(middle=memory, low=memory, high=memory), detail="MiB, after the run"))
    return readings


async def _cost(side: Side, items: int) -> float:
    begin = side.server.cpu()
    await exchange_all(side.connections, [post(batch_body(100))] * (items // 100))
    return (side.server.cpu() - begin) / items


async def _same(name: str, connection: Connection) -> None:
    """Refuses to measure a proxy that answers something else than the upstream."""
    answer = await connection.exchange(post(batch_body(100)))
    entries = json.loads(answer.partition(b"\r\n\r\n")[2])["responses"]
    if [entry["status"] for entry in entries] != [200] * 100 or [entry["body"]["id"] for entry in entries] != [
        *range(100)
    ]:
        raise RuntimeError(f"{name} answers {entries[:2]}")
