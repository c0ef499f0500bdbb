"""The first half of the demo: the batched shop, in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import uvicorn

from examples.shop import terminal
from examples.shop.batched import app
from examples.shop.client import Place

HOST, PORT = "127.0.0.1", 8000

CURL = """curl {url}/api/batch -H 'content-type: application/json' -d '{{"requests": [
    {{"path": "/items/1"}}, {{"method": "POST", "path": "/items", "body": {{"name": "NewItem"}}}}]}}'"""


@contextmanager
def served() -> Iterator[tuple[BaseProcess, Place]]:
    """The shop in a process of its own, so that client and server do not take turns; ended when the block ends."""
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    with listening() as listener:
        port: int = listener.getsockname()[1]
        process = context.Process(target=serve, args=(listener, theirs), daemon=True)
        process.start()
    theirs.close()
    try:
        yield process, Place(HOST, port, api="/api", batch="/api/batch")
    finally:
        ours.close()
        process.join()


def listening() -> socket.socket:
    """A socket that accepts connections from now on, though they wait until the server has started."""
    try:
        listener = socket.create_server((HOST, PORT))
    except OSError:
        listener = socket.create_server((HOST, 0))
        print(f"Port {PORT} is taken, so the shop is at port {listener.getsockname()[1]}.")
    return listener


def serve(listener: socket.socket, parent: Connection) -> None:
    """Serve until the parent closes its end of the pipe, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)

    def stop_with_parent() -> None:
        parent.poll(None)
        server.should_exit = True

    threading.Thread(target=stop_with_parent, daemon=True).start()
    server.run(sockets=[listener])


def invite(place: Place) -> None:
    terminal.line(f"{place.url}/docs in a browser: the API, and the batch endpoint with an example")
    terminal.line(f"{place.url}{place.batch} in a browser: what the batch endpoint understands, and its limits")
    terminal.line(CURL.format(url=place.url), whole=True)
    terminal.line()
