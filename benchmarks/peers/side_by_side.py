"""Peers on the same work as ours: what their servers spend on an item, alone and in batches.

Knows: which peers are set against ours, and the rows. Must not know: how a peer is installed or started.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks.apps import JSON, item
from benchmarks.client import connected, exchange_all, get
from benchmarks.peers import servers
from benchmarks.peers.formats import (
    BASSMASTER,
    DRF_BATCH_REQUESTS,
    EXPRESS_BATCH_REQUESTS,
    KINTO,
    NATIVE,
    Format,
    body_of,
)
from benchmarks.peers.nginx import with_lua, with_njs
from benchmarks.proxied import proxying
from benchmarks.readings import Effort, Goal, Reading, microseconds
from benchmarks.rounds import Rounds, Sample, interleaved
from benchmarks.server import Server, cores, on_core, serving
from benchmarks.upstreams import items_served

OURS = "ours"
MANY_CONNECTIONS = 20
SIZES = (10, 100)
CHEAP, DEAR = 2000, 500  # items of one sample, so that no peer takes all the time
WARM_UP, COMPILED_WARM_UP = 1000, 10_000  # items; Node compiles while it runs, and gets quicker for so long


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Somebody who answers batches."""

    name: str
    running: Callable[[], AbstractContextManager[Server]]
    format: Format = NATIVE
    items: int = CHEAP
    warm_up: int = WARM_UP


def answering(core: int) -> list[Peer]:
    """Servers that answer the items themselves, ours first."""
    return [
        Peer(name=OURS, running=partial(serving, "benchmarks.apps:served")),
        Peer(name="pure app", running=partial(serving, "benchmarks.peers.apps:pure_batching")),
        Peer(name="bassmaster", running=servers.hapi_bassmaster, format=BASSMASTER, warm_up=COMPILED_WARM_UP),
        Peer(name="Kinto", running=servers.kinto, format=KINTO, items=DEAR),
        Peer(name="drf-batch-requests", running=servers.django_drf, format=DRF_BATCH_REQUESTS, items=DEAR),
        Peer(
            name="express-batch-requests",
            running=servers.express_batch_requests,
            format=EXPRESS_BATCH_REQUESTS,
            items=DEAR,
            warm_up=COMPILED_WARM_UP,
        ),
        Peer(name="ASGITransport", running=partial(serving, "benchmarks.peers.apps:naive"), items=DEAR),
        Peer(name="nginx with Lua", running=partial(with_lua, core)),
        Peer(name="nginx with njs", running=partial(with_njs, core)),
    ]


def passing_on(core: int, upstream: int) -> list[Peer]:
    """Servers that get every item from the same upstream, ours first."""
    return [
        Peer(name=OURS, running=partial(proxying, upstream)),
        Peer(name="nginx with Lua", running=partial(with_lua, core, upstream)),
        Peer(name="nginx with njs", running=partial(with_njs, core, upstream)),
        Peer(name="Node", running=partial(servers.node_proxy, upstream), warm_up=COMPILED_WARM_UP),
        Peer(name="pyreqwest", running=partial(servers.over_pyreqwest, upstream)),
        Peer(name="aiohttp", running=partial(servers.over_aiohttp, upstream)),
    ]


ANSWERING = {
    "pure app": "ours on a pure app",
    "bassmaster": "hapi + bassmaster",
    "Kinto": "Kinto, waitress",
    "drf-batch-requests": "drf-batch-requests",
    "express-batch-requests": "express-batch-requests",
    "ASGITransport": "httpx.ASGITransport",
    "nginx with Lua": "nginx with Lua",
    "nginx with njs": "nginx with njs",
}
PASSING_ON = {
    "nginx with Lua": "nginx with Lua",
    "nginx with njs": "nginx with njs",
    "Node": "plain Node",
    "pyreqwest": "our core over pyreqwest",
    "aiohttp": "our core over aiohttp",
}
LEAST = {"bassmaster": 2.0, "Kinto": 7.0, "drf-batch-requests": 7.0, "express-batch-requests": 15.0}

PEER_GOALS: Mapping[str, Goal] = {
    **{
        f"P1 {name}": Goal(text=f"CPU, batch of 100, {text} / ours", at_least=LEAST.get(name))
        for name, text in ANSWERING.items()
    },
    **{f"P2 {name}": Goal(text=f"CPU, batch of 10, {text} / ours") for name, text in ANSWERING.items()},
    **{
        f"P3 {name}": Goal(text=f"20 connections / batch of 100, {text}")
        for name, text in {OURS: "ours on Starlette", **ANSWERING}.items()
    },
    **{f"P4 {name}": Goal(text=f"proxied, batch of 100, {text} / ours") for name, text in PASSING_ON.items()},
    **{f"P5 {name}": Goal(text=f"proxied, batch of 10, {text} / ours") for name, text in PASSING_ON.items()},
}


async def measure_peers(effort: Effort) -> list[Reading]:
    """The server's CPU of an item: every peer answers it by itself, and then from one upstream."""
    first, second = cores()
    readings = await _answering(effort, answering(first))
    with ExitStack() as stack:
        try:
            upstream = stack.enter_context(items_served(second))
        except FileNotFoundError as missing:
            _skipped("P4 and P5", missing)
            return readings
        return [*readings, *await _passing_on(effort, passing_on(first, upstream.port), upstream)]


async def _answering(effort: Effort, peers: Sequence[Peer]) -> list[Reading]:
    with _side_by_side(peers) as sides:
        expected = [item(number) for number in range(max(SIZES))]
        for peer, server in sides:
            await _same(peer, server, expected)
            await _same_alone(peer, server, expected)
        samples = _batches(sides, effort)
        samples.update({f"{peer.name} alone": partial(_cost_alone, peer, server, effort) for peer, server in sides})
        rounds = await interleaved(samples, max(3, effort.rounds // 2))
    others = [peer.name for peer, _ in sides[1:]]
    return [
        *[_against_ours("P1", name, 100, rounds) for name in others],
        *[_against_ours("P2", name, 10, rounds) for name in others],
        *[_saved(peer.name, rounds) for peer, _ in sides],
    ]


async def _passing_on(effort: Effort, peers: Sequence[Peer], upstream: Server) -> list[Reading]:
    async with connected(upstream.port, 1) as (connection,):
        expected = [body_of(await connection.exchange(get(number))) for number in range(max(SIZES))]
    with _side_by_side(peers) as sides:
        for peer, server in sides:
            await _same(peer, server, expected)
        rounds = await interleaved(_batches(sides, effort), max(3, effort.rounds // 2))
    others = [peer.name for peer, _ in sides[1:]]
    return [
        *[_against_ours("P4", name, 100, rounds) for name in others],
        *[_against_ours("P5", name, 10, rounds) for name in others],
    ]


# Rows


def _against_ours(row: str, name: str, size: int, rounds: Rounds) -> Reading:
    theirs, ours = f"{name} {size}", f"{OURS} {size}"
    detail = f"{microseconds(rounds.middle(theirs))}, ours {microseconds(rounds.middle(ours))}"
    return Reading(row=f"{row} {name}", ratio=rounds.ratio(theirs, ours), detail=detail)


def _saved(name: str, rounds: Rounds) -> Reading:
    alone, batch = f"{name} alone", f"{name} 100"
    detail = f"alone {microseconds(rounds.middle(alone))}, in a batch {microseconds(rounds.middle(batch))}"
    return Reading(row=f"P3 {name}", ratio=rounds.ratio(alone, batch), detail=detail)


# Servers


@contextmanager
def _side_by_side(peers: Sequence[Peer]) -> Iterator[list[tuple[Peer, Server]]]:
    """All of them on the first core and this process on the second; who is not installed is told and left out."""
    _, second = cores()
    sides = []
    with ExitStack() as stack:
        for peer in peers:
            try:
                sides.append((peer, stack.enter_context(peer.running())))
            except FileNotFoundError as missing:
                _skipped(peer.name, missing)
        stack.enter_context(on_core(second))
        yield sides


def _skipped(what: str, missing: FileNotFoundError) -> None:
    print(f"peers: {what} skipped, {missing}", file=sys.stderr, flush=True)


async def _same(peer: Peer, server: Server, expected: list[JSON]) -> None:
    """Refuses to measure a peer whose batches answer something else, and lets it get warm."""
    async with connected(server.port, 1) as connections:
        for size in SIZES:
            bodies = peer.format.bodies(await connections[0].exchange(peer.format.batch(size, server.port)))
            if bodies != expected[:size]:
                raise RuntimeError(f"{peer.name} answers {bodies[:2]} in a batch of {size}")
        await exchange_all(connections, [peer.format.batch(100, server.port)] * (peer.warm_up // 100))


async def _same_alone(peer: Peer, server: Server, expected: list[JSON]) -> None:
    """Refuses to measure a peer that answers something else to the items alone."""
    async with connected(server.port, 1) as (connection,):
        for number, body in enumerate(expected):
            answer = body_of(await connection.exchange(peer.format.single(number, server.port)))
            if answer != body:
                raise RuntimeError(f"{peer.name} answers {answer} to item {number} alone")


# Samples


def _batches(sides: Sequence[tuple[Peer, Server]], effort: Effort) -> dict[str, Sample]:
    return {
        f"{peer.name} {size}": partial(_cost_in_batch, peer, server, size, effort)
        for size in SIZES
        for peer, server in sides
    }


async def _cost_in_batch(peer: Peer, server: Server, size: int, effort: Effort) -> float:
    """CPU seconds that the server spends on each item of batches over one connection."""
    count, batch = effort.count(peer.items), peer.format.batch(size, server.port)
    return await _cost(server, 1, [batch] * (count // size)) / count


async def _cost_alone(peer: Peer, server: Server, effort: Effort) -> float:
    """CPU seconds that the server spends on each item alone."""
    count = effort.count(peer.items)
    singles = [peer.format.single(number % 100, server.port) for number in range(count)]
    return await _cost(server, MANY_CONNECTIONS, singles) / count


async def _cost(server: Server, connections: int, requests: Sequence[bytes]) -> float:
    """CPU seconds for all requests. Connections are new, since servers close idle ones, and open before the count."""
    async with connected(server.port, connections) as opened:
        await exchange_all(opened, [requests[0]] * connections)
        begin = server.cpu()
        await exchange_all(opened, requests)
        return server.cpu() - begin
