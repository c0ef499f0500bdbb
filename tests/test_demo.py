"""The demo, as a reader of the README starts it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.documents import README, blocks, section
from tests.programs import ROOT
from tests.serving import PATIENCE

# As long as a slow machine may take for five servers, three dozen rounds of requests, and a job.
LONGEST = 240


def test_the_demo_shows_all_parts_and_ends(tmp_path: Path) -> None:
    """With the usual ports taken or not, the same batches are answered by both shops, a job loses nothing with one of
    its workers, and the exit code is 0. Nothing is left of it."""
    with ExitStack() as taken:
        for port in (8000, 8080, 9000, 9090):
            listener = taken.enter_context(socket.socket())
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue  # somebody else's demo: taken all the same
            listener.listen()
        command = [sys.executable, "-m", "examples.demo", "--once"]
        environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "TMPDIR": str(tmp_path)}
        finished = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST
        )
    assert finished.returncode == 0, finished.stderr
    first, others = finished.stdout.split("2. An older shop behind the proxy")
    second, third = others.split("3. A job for the older shop")
    for half, path in ((first, "POST /api/batch"), (second, "POST /batch")):
        assert half.count(path) == 3
        assert '{"total": 12, "succeeded": 10, "failed": 2}' in half
        assert '{"total": 7, "succeeded": 5, "failed": 2}' in half
    assert "serve --config config/minimal.yaml" in second
    # The progress on what is no terminal.
    assert "\ncompleted: 2000 of 2000 items\n" in finished.stderr
    assert '2000 results, one for each request; their statuses: {"201": 2000}' in third
    shown = re.search(r"(\d+) crates in the shop: (\d+) were sent twice", third)
    assert shown is not None
    assert int(shown[1]) == 2000 + int(shown[2])
    # Why that may be, and why there is no such file afterwards.
    assert re.search(r"sent twice.*\n  This demo allows it \(delivery: at_least_once\): a worker was killed", third)
    assert re.search(r" -o results.ndjson\n  \(what one would type: here the file is a temporary one", third)
    assert "Traceback" not in finished.stderr
    assert [*tmp_path.iterdir()] == []
    # What watches over processes ends behind the last of them.
    until = time.monotonic() + PATIENCE
    while left := processes_with(f"TMPDIR={tmp_path}"):
        assert time.monotonic() < until, left
        time.sleep(0.05)
    _is_what_the_readme_shows(third)


def processes_with(variable: str) -> list[str]:
    """Those that somebody has left, where the system can tell."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if variable.encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def _is_what_the_readme_shows(third: str) -> None:
    """Line by line, whatever the numbers."""
    jobs = section(README.read_text("utf-8"), "Jobs")
    [drawn] = [block.text for block in blocks(jobs) if block.kind == "text drawing"]
    for line in drawn.splitlines():
        pattern = re.sub(r"\d+", r"\\d+", re.escape(line).replace(re.escape("…"), ".*"))
        assert re.search(f"^{pattern}$", third, re.MULTILINE), f"{line!r} is not in\n{third}"
