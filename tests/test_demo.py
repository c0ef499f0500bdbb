"""The demo, as a reader of the README starts it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack

from tests.programs import ROOT

# As long as a slow machine may take for two servers and three dozen rounds of requests.
LONGEST = 100


def test_the_demo_shows_both_halves_and_ends() -> None:
    """With the usual ports taken or not, the same batches are answered by both shops, and the exit code is 0."""
    with ExitStack() as taken:
        for port in (8000, 8080, 9000, 9090):
            listener = taken.enter_context(socket.socket())
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue  # somebody else's demo: taken all the same
            listener.listen()
        command = [sys.executable, "-m", "examples.demo", "--once"]
        environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
        finished = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST
        )
    assert finished.returncode == 0, finished.stderr
    first, second = finished.stdout.split("2. An older shop behind the proxy")
    for half, path in ((first, "POST /api/batch"), (second, "POST /batch")):
        assert half.count(path) == 3
        assert '{"total": 12, "succeeded": 10, "failed": 2}' in half
        assert '{"total": 7, "succeeded": 5, "failed": 2}' in half
    assert "serve --config config/minimal.yaml" in second
