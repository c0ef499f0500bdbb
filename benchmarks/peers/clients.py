"""What a user's program asks with: two common libraries, and connections without any, as many as a browser opens.

Knows: how to open each client, and to get and post JSON with it. Must not know: what is asked, or measured.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

import aiohttp
import httpx

from benchmarks.apps import JSON
from benchmarks.client import connected, get, post
from benchmarks.peers.formats import body_of


class Client(NamedTuple):
    """GET /item/{number} and POST /batch, both answering decoded JSON."""

    get: Callable[[int], Awaitable[JSON]]
    post: Callable[[JSON], Awaitable[JSON]]


Opening = Callable[[int, int], AbstractAsyncContextManager[Client]]
"""Takes a port, and how many requests there will be at one time."""


@asynccontextmanager
async def over_httpx(port: int, at_once: int) -> AsyncIterator[Client]:
    """httpx.AsyncClient as it comes, which has room for 100 connections."""
    # Without certificates, which nothing here needs, and which take long to load.
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, verify=False) as client:

        async def get_item(number: int) -> JSON:
            return (await client.get(f"/item/{number}")).json()

        async def post_batch(batch: JSON) -> JSON:
            return (await client.post("/batch", json=batch)).json()

        yield Client(get_item, post_batch)


@asynccontextmanager
async def over_aiohttp(port: int, at_once: int) -> AsyncIterator[Client]:
    """aiohttp.ClientSession as it comes, which has room for 100 connections."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def get_item(number: int) -> JSON:
            async with session.get(f"/item/{number}") as answer:
                return await answer.json()

        async def post_batch(batch: JSON) -> JSON:
            async with session.post("/batch", json=batch) as answer:
                return await answer.json()

        yield Client(get_item, post_batch)


@asynccontextmanager
async def bare(port: int, at_once: int) -> AsyncIterator[Client]:
    """Connections with hardly anything around them: a client whose own cost is small, as a browser's network is."""
    async with connected(port, at_once) as free:

        async def exchange(request: bytes) -> JSON:
            connection = free.pop()
            answer = await connection.exchange(request)
            free.append(connection)
            return body_of(answer)

        async def get_item(number: int) -> JSON:
            return await exchange(get(number))

        async def post_batch(batch: JSON) -> JSON:
            return await exchange(post(json.dumps(batch).encode()))

        yield Client(get_item, post_batch)
