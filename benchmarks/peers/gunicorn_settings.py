"""One worker that keeps connections, and that tells its address as the other servers do."""

import sys
from typing import Any

bind = "127.0.0.1:0"
worker_class = "gthread"  # the default class closes every connection
workers = 1
threads = 1
control_socket_disable = True  # it would lie in the home folder


def post_worker_init(worker: Any) -> None:
    """Called once the worker has loaded the application."""
    print(f"running on http://127.0.0.1:{worker.sockets[0].getsockname()[1]}", file=sys.stderr, flush=True)
