"""Goals L1 to L6: the whole process under pressure, in front of nginx.

Knows: how much is asked at once, and whose share of the machine is whose. Must not know: how the proxy works.
"""

import asyncio
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.client import Connection, connected, exchange_all, post
from benchmarks.driver import batch_body
from benchmarks.groups import Group, listening, nginx
from benchmarks.readings import Effort, Goal, Reading, Section, microseconds
from benchmarks.rounds import Ratio, interleaved
from benchmarks.server import cores, serving
from benchmarks.slow_app import UNHURRIED_SECONDS
from benchmarks.upstreams import LUA, free_port

GOALS: Mapping[str, Goal] = {
    "L1": Goal(text="items a second, 2 workers, batches of 100", at_least=10_000),
    "L2": Goal(text="CPU of an item, 2 workers, ours / nginx with Lua", at_most=1.5),
    "L3": Goal(text="items that failed under this load", at_most=0),
    "L4": Goal(text="256 items on 256 connections / one item", at_most=2),
    "L5": Goal(text="proxy CPU of an item, upstream over TLS / plain", at_most=1.5),
    "L6": Goal(text="requests that found an open connection, of 1", at_least=0.99),
}

WORKERS = 2
CLIENTS = 8
SECONDS = 4.0
WIDE = 256

UPSTREAM = """
  server {{
    listen 127.0.0.1:{port}{options};
    default_type application/json;
    location = /status {{ stub_status; }}
    location ~ ^/item/(?<number>\\d+)$ {{
      return 200 '{{"id": $number, "name": "item $number", "price": 12.5, "tags": ["new", "sale"], "stock": 7}}';
    }}
  }}
"""
ENCRYPTED = " ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate}"
CONFIG = """
server: {{listen: "127.0.0.1:{port}", admin: "off", watch: false, workers: {workers}, log: {{access: false}}}}
upstreams:
  items: {{url: "{url}", max_in_flight: {places}, max_connections: {places}, tls: {{{tls}}}}}
endpoints:
  - {{path: /batch, max_items: {places}, concurrency: {places}}}
"""
ACCEPTED = re.compile(rb"requests\n (\d+) \d+ (\d+) ")


async def measure_pressure(effort: Effort) -> list[Reading]:
    """L1 to L6."""
    return [*await measure_load(effort), *await measure_width(effort), *await measure_upstreams(effort)]


@contextmanager
def proxying(
    url: str, *, workers: int = 1, places: int = 100, tls: str = "", core: int | None = None
) -> Iterator[Group]:
    """`batchproxy serve`, with as many places as a batch has items."""
    port = free_port()
    with TemporaryDirectory() as folder:
        config = Path(folder, "batchproxy.yaml")
        config.write_text(CONFIG.format(port=port, url=url, workers=workers, places=places, tls=tls))
        command = [sys.executable, "-m", "batchproxy", "serve", "--config", str(config)]
        with listening(command, port, core=core) as group:
            yield group


# L1 to L3: as much as goes, everything on all cores


@dataclass
class Ledger:
    """What was served to one side, and who worked for it."""

    items: int = 0
    failed: int = 0
    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=lambda: {"proxy": 0.0, "nginx": 0.0, "clients": 0.0})

    @property
    def rate(self) -> float:
        return self.items / self.seconds

    def told(self) -> str:
        """Where the time went, for a person."""
        shares = ", ".join(
            f"{name} {microseconds(cpu / self.items)} ({cpu / self.seconds:.0%} of a core)"
            for name, cpu in self.cpu.items()
        )
        return f"{self.rate:,.0f}/s; CPU of an item: {shares}"


async def measure_load(effort: Effort) -> list[Reading]:
    """Eight clients send batches of 100 without a pause, to us and to nginx with Lua in turn."""
    ledgers = {"ours": Ledger(), "lua": Ledger()}
    with ExitStack() as stack:
        upstream = stack.enter_context(nginx(UPSTREAM, options=""))
        sides = {
            "ours": stack.enter_context(proxying(f"http://127.0.0.1:{upstream.port}", workers=WORKERS)),
            "lua": stack.enter_context(nginx(LUA, workers=WORKERS, lua=True, upstream=upstream.port)),
        }
        costs = {
            name: partial(_load, group, upstream, ledgers[name], SECONDS * effort.scale)
            for name, group in sides.items()
        }
        rounds = await interleaved(costs, effort.slow_rounds)
    ours, lua = ledgers["ours"], ledgers["lua"]
    cost = {name: f"{name} {microseconds(rounds.middle(name))}" for name in costs}
    return [
        Reading(row="L1", ratio=alone(ours.rate), detail=f"{ours.told()}"),
        Reading(row="L2", ratio=rounds.ratio("ours", "lua"), detail=f"{cost['ours']}, {cost['lua']}; Lua {lua.told()}"),
        Reading(row="L3", ratio=alone(ours.failed), detail=f"of {ours.items:,}; Lua {lua.failed} of {lua.items:,}"),
    ]


def alone(figure: float) -> Ratio:
    """A figure that is no ratio of two."""
    return Ratio(middle=figure, low=figure, high=figure)


async def _load(proxy: Group, upstream: Group, ledger: Ledger, seconds: float) -> float:
    """CPU seconds of the proxy for each item while as many as possible are asked for."""
    request, items, failed = post(batch_body(100)), 0, 0
    until = time.perf_counter() + seconds

    async def ask(connection: Connection) -> None:
        nonlocal items, failed
        while time.perf_counter() < until:
            answer = await connection.exchange(request)
            items += 100
            failed += 100 - answer.count(b'"status":200')

    begin, before = time.perf_counter(), _cpu(proxy, upstream)
    async with connected(proxy.port, CLIENTS) as connections:
        await asyncio.gather(*map(ask, connections))
        ledger.seconds += time.perf_counter() - begin
        spent = {name: cpu - before[name] for name, cpu in _cpu(proxy, upstream).items()}
    ledger.items += items
    ledger.failed += failed
    for name, cpu in spent.items():
        ledger.cpu[name] += cpu
    return spent["proxy"] / items


def _cpu(proxy: Group, upstream: Group) -> dict[str, float]:
    return {"proxy": proxy.cpu(), "nginx": upstream.cpu(), "clients": time.process_time()}


# L4: many connections at once


async def measure_width(effort: Effort) -> list[Reading]:
    """A batch whose items all wait at an upstream at the same time."""
    first, _ = cores()
    with ExitStack() as stack:
        upstream = stack.enter_context(serving("benchmarks.slow_app:unhurried"))
        proxy = stack.enter_context(proxying(f"http://127.0.0.1:{upstream.port}", places=WIDE, core=first))
        async with connected(proxy.port, 1) as connections:
            samples = {
                "wide": partial(_seconds, connections, post(batch_body(WIDE))),
                "one": partial(_seconds, connections, post(batch_body(1))),
            }
            rounds = await interleaved(samples, effort.slow_rounds)
            open_ones = connections_to(upstream.port)
    if open_ones < WIDE:
        raise RuntimeError(f"{open_ones} connections were open for {WIDE} items")
    detail = (
        f"items of {UNHURRIED_SECONDS * 1e3:.0f} ms: {WIDE} in {rounds.middle('wide') * 1e3:.0f} ms over {open_ones} "
        f"connections, one in {rounds.middle('one') * 1e3:.0f} ms"
    )
    return [Reading(row="L4", ratio=rounds.ratio("wide", "one"), detail=detail)]


async def _seconds(connections: Sequence[Connection], request: bytes) -> float:
    begin = time.perf_counter()
    answer = await connections[0].exchange(request)
    if b'"failed":0}' not in answer[-100:]:
        raise RuntimeError(f"Items failed: {answer[-1000:]!r}")
    return time.perf_counter() - begin


def connections_to(port: int) -> int:
    """How many connections of this machine lead there."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


# L5 and L6: what TLS to the upstream costs, and how often a connection is opened


async def measure_upstreams(effort: Effort) -> list[Reading]:
    """The same batches to the same nginx, plain and encrypted, and its account of connections."""
    first, second = cores()
    count = effort.count(2000)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        authority, certificate = _certificates(folder)
        plain = stack.enter_context(nginx(UPSTREAM, core=second, options=""))
        encrypted = stack.enter_context(nginx(UPSTREAM, core=second, options=ENCRYPTED.format(certificate=certificate)))
        proxies = {
            "plain": stack.enter_context(proxying(f"http://127.0.0.1:{plain.port}", core=first)),
            "TLS": stack.enter_context(
                proxying(f"https://127.0.0.1:{encrypted.port}", tls=f"ca: {authority}", core=first)
            ),
        }
        async with connected(plain.port, 1) as (watching,):
            before = await _accepted(watching)
            samples = {name: partial(_cost, group, count) for name, group in proxies.items()}
            rounds = await interleaved(samples, max(5, effort.rounds // 2))
            connections, requests = (now - then for now, then in zip(await _accepted(watching), before, strict=True))
    cost = ", ".join(f"{name} {microseconds(rounds.middle(name))}" for name in samples)
    return [
        Reading(row="L5", ratio=rounds.ratio("TLS", "plain"), detail=f"{cost}, connections kept"),
        Reading(
            row="L6",
            ratio=alone(1 - connections / requests),
            detail=f"{connections} connections accepted for {requests:,} requests",
        ),
    ]


async def _cost(proxy: Group, items: int) -> float:
    async with connected(proxy.port, 1) as connections:
        begin = proxy.cpu()
        await exchange_all(connections, [post(batch_body(100))] * (items // 100))
        return (proxy.cpu() - begin) / items


async def _accepted(connection: Connection) -> tuple[int, int]:
    """Connections that nginx has accepted, and requests that it has answered."""
    answer = await connection.exchange(b"GET /status HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    found = ACCEPTED.search(answer)
    if found is None:
        raise RuntimeError(f"No status: {answer!r}")
    return int(found[1]), int(found[2])


def _certificates(folder: Path) -> tuple[Path, Path]:
    """The authority's certificate, and a server's with its key."""
    import trustme

    authority, chain = folder / "ca.pem", folder / "server.pem"
    issuer = trustme.CA()
    issuer.cert_pem.write_to_path(authority)
    issuer.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(chain)
    return authority, chain


SECTION = Section(
    name="pressure",
    title="Under pressure",
    measures={"load": measure_load, "width": measure_width, "upstreams": measure_upstreams},
    goals=GOALS,
)
