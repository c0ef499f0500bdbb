"""Serve the older shop with a thread-pool server, as such apps are served: python -m examples.legacy [[HOST:]PORT]

It listens at 127.0.0.1:9000 if nothing is given, and keeps its data until it ends. An open socket (`fd:3`) may stand
in place of a port.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import waitress  # type: ignore[import-untyped]

from examples.legacy.app import create_app
from examples.shop.store import Store

HOST, PORT = "127.0.0.1", 9000


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, and removes its data
    place = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", str(PORT))
    try:
        listener = _listener(place)
    except (OSError, ValueError) as error:
        print(f"The older shop cannot listen at {place}: {error}", file=sys.stderr)
        return 1
    with listener, tempfile.TemporaryDirectory(prefix="shop-") as folder, suppress(KeyboardInterrupt):
        store = Store(Path(os.environ.get("SHOP_DATABASE") or Path(folder, "shop.db")))
        host, port = listener.getsockname()
        print(f"The older shop is at http://{host}:{port}", file=sys.stderr, flush=True)
        waitress.serve(create_app(store), sockets=[listener], threads=16, _quiet=True)
    return 0


def _listener(place: str) -> socket.socket:
    if place.startswith("fd:"):
        return socket.socket(fileno=int(place.removeprefix("fd:")))
    host, _, port = place.rpartition(":")
    return socket.create_server((host or HOST, int(port)))


if __name__ == "__main__":
    sys.exit(main())
