"""Serve the batched shop in a process of its own, send it batches, then keep serving: python -m examples.shop.demo"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import uvicorn

from examples.shop import terminal
from examples.shop.batched import app
from examples.shop.tour import tour

HOST, PORT = "127.0.0.1", 8000

CURL = """curl {url}/api/batch -H 'content-type: application/json' -d '{{"requests": [
    {{"path": "/items/1"}}, {{"method": "POST", "path": "/items", "body": {{"name": "NewItem"}}}}]}}'"""


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m examples.shop.demo", description=__doc__)
    arguments.add_argument("--once", action="store_true", help="end after the batches")
    once = arguments.parse_args().once
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    try:
        with served() as (process, port):
            tour(HOST, port)
            if not once:
                invite(f"http://{HOST}:{port}")
                process.join()
                return 1  # it never ends of its own accord
    except KeyboardInterrupt:
        print("\nThe shop is closed.")
    except (OSError, HTTPException, ValueError, AssertionError) as error:
        print(f"The demo failed: {error!r}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def served() -> Iterator[tuple[BaseProcess, int]]:
    """The shop in a process of its own, so that client and server do not take turns; ended when the block ends."""
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    with listening() as listener:
        port: int = listener.getsockname()[1]
        process = context.Process(target=serve, args=(listener, theirs), daemon=True)
        process.start()
    theirs.close()
    try:
        yield process, port
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


def invite(url: str) -> None:
    terminal.heading("The shop stays open until Ctrl-C; try")
    terminal.line(f"{url}/docs in a browser: the API, and the batch endpoint with an example")
    terminal.line(f"{url}/api/batch in a browser: what the batch endpoint understands, and its limits")
    terminal.line(CURL.format(url=url), whole=True)
    terminal.line()


if __name__ == "__main__":
    sys.exit(main())
