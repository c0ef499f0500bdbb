"""A server in a process of its own, on a port of its own choice, and what it has used.

Knows: processes, and Linux's accounting of them. Must not know: what is sent to the server.
"""

import os
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from threading import Thread

from benchmarks.apps import ROOT

RUNNING = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
MEMORY = re.compile(r"^(VmRSS|VmHWM|Pss):\s*(\d+) kB$", re.MULTILINE)


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
        return _memory(self._process / "status")["VmRSS"]

    def resident_from_now(self) -> int:
        """The same, and from now on the peak counts from there."""
        (self._process / "clear_refs").write_text("5")
        return self.resident_memory()

    def peak_memory(self) -> int:
        """Bytes of memory that it had at most."""
        return _memory(self._process / "status")["VmHWM"]

    def memory_of_all(self) -> int:
        """Bytes that it and its children have, what they share counted once."""
        return sum(_memory(process / "smaps_rollup")["Pss"] for process in _family(self._process))

    def open_files(self) -> int:
        """How many descriptors it has open."""
        return len(list((self._process / "fd").iterdir()))


def _memory(account: Path) -> dict[str, int]:
    return {name: int(kilobytes) * 1024 for name, kilobytes in MEMORY.findall(account.read_text())}


def _family(process: Path) -> Iterator[Path]:
    yield process
    for children in process.glob("task/*/children"):
        for child in children.read_text().split():
            yield from _family(Path("/proc", child))


@cache
def cores() -> tuple[int, int]:
    """Two cores that may be used; the same one twice if there is only one. As they were when it was first asked."""
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
    options += ["--timeout-keep-alive", "600"]  # connections may idle while another side is measured
    command = [sys.executable, "-m", "uvicorn", application, "--app-dir", str(ROOT), *options]
    with started(command, environment) as server:
        yield server


@contextmanager
def started(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Starts a server that tells its address on stderr, on the first core, and this process on the second."""
    allowed = os.sched_getaffinity(0)
    first, second = cores()
    with on_core(first):
        process = _process(command, environment)
    os.sched_setaffinity(0, {second})
    try:
        with _ended(process):
            yield Server(process.pid, port_told(process))
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def started_on_all_cores(command: Sequence[str]) -> Iterator[Server]:
    """Starts such a server, and leaves it and this process wherever the system puts them."""
    process = _process(command)
    with _ended(process):
        yield Server(process.pid, port_told(process))


def _process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> "Popen[str]":
    return Popen(
        command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, text=True, env={**os.environ, **(environment or {})}
    )


@contextmanager
def _ended(process: "Popen[str]") -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=40)


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
