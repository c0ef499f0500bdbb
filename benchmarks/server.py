"""A real uvicorn in a process of its own, on a port of its own choice, and the CPU time it has used.

Knows: processes, and Linux's scheduler accounting. Must not know: what is sent to the server.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

from benchmarks.apps import ROOT

RUNNING = re.compile(r"running on http://127\.0\.0\.1:(\d+)")


class Server:
    """A running uvicorn: where it listens and what it has cost so far."""

    def __init__(self, process_id: int, port: int) -> None:
        self.port = port
        self._tasks = Path(f"/proc/{process_id}/task")

    def __repr__(self) -> str:
        return f"<Server on port {self.port}>"

    def cpu(self) -> float:
        """User and system seconds of all its threads, from the scheduler, to the nanosecond."""
        return sum(int((task / "schedstat").read_text().split()[0]) for task in self._tasks.iterdir()) / 1e9


@contextmanager
def serving(application: str) -> Iterator[Server]:
    """Starts uvicorn on the first core, and this process on the second."""
    cores = sorted(os.sched_getaffinity(0))
    options = ["--loop", "uvloop", "--http", "httptools", "--host", "127.0.0.1", "--port", "0", "--no-access-log"]
    command = [sys.executable, "-m", "uvicorn", application, "--app-dir", str(ROOT), *options]
    os.sched_setaffinity(0, cores[:1])  # inherited by the server
    process = Popen(command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, text=True)
    os.sched_setaffinity(0, cores[1:] or cores)
    try:
        yield Server(process.pid, port_told(process))
    finally:
        process.terminate()
        process.communicate(timeout=20)
        os.sched_setaffinity(0, cores)


def port_told(process: Popen[str]) -> int:
    """Reads what the server says until it names its port."""
    said = []
    for line in process.stderr or ():
        said.append(line)
        if match := RUNNING.search(line):
            return int(match[1])
    raise RuntimeError("The server did not start:\n" + "".join(said))
