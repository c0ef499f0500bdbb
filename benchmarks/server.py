"""A server in a process of its own, on a port of its own choice, and what it has used.

Knows: processes, and Linux's accounting of them. Must not know: what is sent to the server.
"""

import os
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from threading import Thread

from benchmarks.apps import ROOT

RUNNING = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
RESIDENT = re.compile(r"^VmRSS:\s*(\d+) kB$", re.MULTILINE)


class Server:
    """A running server: where it listens and what it has cost so far."""

    def __init__(self, process_id: int, port: int) -> None:
        self.port = port
        self.process_id = process_id
        self._process = Path(f"/proc/{process_id}")

    def __repr__(self) -> str:
        return f"<Server on port {self.port}>"

    def cpu(self) -> float:
        """User and system seconds of all its threads, from the scheduler, to the nanosecond."""
        return sum(int((task / "schedstat").read_text().split()[0]) for task in self._process.glob("task/*")) / 1e9

    def resident_memory(self) -> int:
        """Bytes of memory that it has now."""
        found = RESIDENT.search((self._process / "status").read_text())
        return int(found[1]) * 1024 if found else 0

    def open_files(self) -> int:
        """How many descriptors it has open."""
        return len(list((self._process / "fd").iterdir()))


def cores() -> tuple[int, int]:
    """Two cores that may be used; the same one twice if there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started in the block runs on this core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})  # inherited by what is started
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def serving(application: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Starts uvicorn on the first core, and this process on the second."""
    options = ["--loop", "uvloop", "--http", "httptools", "--host", "127.0.0.1", "--port", "0", "--no-access-log"]
    command = [sys.executable, "-m", "uvicorn", application, "--app-dir", str(ROOT), *options]
    with started(command, environment) as server:
        yield server


@contextmanager
def started(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Starts a server that tells its address on stderr, on the first core, and this process on the second."""
    allowed = os.sched_getaffinity(0)
    first, second = cores()
    with on_core(first):
        process = Popen(
            command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, text=True, env={**os.environ, **(environment or {})}
        )
    os.sched_setaffinity(0, {second})
    try:
        yield Server(process.pid, port_told(process))
    finally:
        process.terminate()
        process.wait(timeout=40)
        os.sched_setaffinity(0, allowed)


def port_told(process: "Popen[str]") -> int:
    """Reads what the server says until it names its port."""
    said = []
    for line in process.stderr or ():
        said.append(line)
        if match := RUNNING.search(line):
            # What it says later must not fill the pipe.
            Thread(target=deque, args=(process.stderr, 0), daemon=True).start()
            return int(match[1])
    raise RuntimeError("The server did not start:\n" + "".join(said))
