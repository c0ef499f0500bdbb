"""Clients that have not taken all of their answer: who is slow keeps the connection, who has stopped does not."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest

from batchproxy.engine.model import Receive, Scope, Send
from batchproxy.server.http import HttpServer, admin_server
from tests.proxy.on_a_loop import LOOPS, run
from tests.serving import PATIENCE

KiB = 1024


class Answered(asyncio.Protocol):
    """A connection over which everything has been written."""

    def __init__(self) -> None:
        self.is_over = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(bytes(16 * 1024 * KiB))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_over.set()


async def unasked(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("Nobody asks.")


def ends() -> tuple[socket.socket, socket.socket]:
    """The server's end of a connection, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * KiB)
        client.settimeout(PATIENCE)
        client.connect(listening.getsockname())
        ours, _ = listening.accept()
    return ours, client


async def looks_at_rest(server: HttpServer, now: float) -> None:
    """Looks until nothing moves any more."""
    found: list[object] = []
    while len(found) < 10 or set(found[-10:]) != {found[-1]}:
        await asyncio.sleep(0.01)
        server._cut_unread(now)
        [(left, _)] = server._unread.values()
        found.append(left)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_is_slow_keeps_the_connection_and_who_stops_does_not(loop: str) -> None:
    async def main() -> None:
        server, (ours, client) = admin_server(unasked), ends()
        _, connection = await asyncio.get_running_loop().create_connection(Answered, sock=ours)
        with client:
            server.server_state.connections.add(connection)  # type: ignore[arg-type]
            await looks_at_rest(server, 0.0)
            for now in (4.0, 8.0, 12.0):
                # As much as the system tells about, and too little for it to take more of us.
                left = 256 * KiB
                while left > 0:
                    left -= len(client.recv(left))
                await looks_at_rest(server, now)
            assert not connection.is_over.is_set()
            server._cut_unread(18.0)
            await asyncio.wait_for(connection.is_over.wait(), PATIENCE)

    run(main(), loop)
