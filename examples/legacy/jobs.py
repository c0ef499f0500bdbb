"""The third part of the demo: a job for the older shop, and two workers, one of which is killed in the midst of it.

All processes are the commands that anybody would type. What the shop has got is counted by the shop itself.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from examples.legacy.demo import HOST, PATIENCE, ROOT, SHOP, Failed, Process, free_port, introduce, process, wait_for
from examples.shop import terminal
from examples.shop.client import JSON, Client, Place

CONFIG = "examples/legacy/jobs.yaml"
ITEMS = 2000
IN_FLIGHT = 6  # what the file says of a worker
KILLED_AT = 800


def tour(shop: Place) -> None:
    """Raises `Failed` if anything is lost, or more is sent twice than may be."""
    with tempfile.TemporaryDirectory(prefix="jobs-") as folder, ExitStack() as running:
        variables = {"STATE_DIRECTORY": folder, "BATCHPROXY_SERVER__ADMIN": "off"}
        port = free_port()
        about = ["--config", CONFIG]
        if shop.port != SHOP:
            about += ["--upstream", f"legacy=http://{HOST}:{shop.port}"]
        command = ["batchproxy", "serve", *about, "--listen", f"{HOST}:{port}", "--log-level", "warning"]
        server = running.enter_context(process(command, variables))
        workers = [
            running.enter_context(process(["batchproxy", "worker", *about], variables, stderr=subprocess.PIPE))
            for _ in range(2)
        ]
        wait_for(server, port)
        for worker in workers:
            _wait_for_work(worker)
        introduce([server, *workers])
        place = Place(HOST, port, api="", batch="/batch")
        with Client(place) as client, Client(shop) as beside:
            job = _submit(client, place)
            _watch(client, place, job, workers[0])
            _export(place, job, beside, Path(folder, "results.ndjson"))


def _submit(client: Client, place: Place) -> str:
    """The path of the job."""
    terminal.heading(f"{ITEMS} requests in one job, a line each: answered as soon as they are safe on the disk")
    lines = [
        json.dumps({"method": "POST", "path": "/items", "body": {"name": f"Crate {number}"}})
        for number in range(1, ITEMS + 1)
    ]
    terminal.line(f"POST {place.batch}")
    terminal.line("Prefer: respond-async")
    terminal.line("Content-Type: application/x-ndjson")
    terminal.line()
    for line in (*lines[:2], "…", lines[-1]):
        terminal.line(line)
    terminal.line()
    began = time.perf_counter()
    status, job = client.submit(lines)
    seconds = time.perf_counter() - began
    terminal.answer(status, f"POST {place.batch}", json.dumps(job))
    terminal.timing(seconds, f"for {ITEMS} requests to be taken")
    return str(job["links"]["self"])


def _watch(client: Client, place: Place, path: str, victim: Process) -> None:
    terminal.heading("Watched to its end; on the way one of the two workers is killed")
    command = ["batchproxy", "jobs", "watch", path.rpartition("/")[2], "--url", place.url + place.batch]
    terminal.line(f"$ {shlex.join(['python', '-m', *command])}", whole=True)
    # Its progress goes to stderr: a bar on a terminal, else lines.
    watching = subprocess.Popen(
        [sys.executable, "-m", *command, "--json"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    with _ended(watching):
        done = _kill_midway(client, path, victim)
        killed = time.perf_counter()
        # A bar is in this line, and is drawn again in the next one.
        start = "\r\x1b[K" if sys.stderr.isatty() and sys.stdout.isatty() else ""
        print(start, end="")
        terminal.line(f"Worker {victim.pid} is killed (SIGKILL) when {done} of {ITEMS} are done")
        out, _ = watching.communicate(timeout=PATIENCE)
    if watching.returncode:
        raise Failed(f"the job ended with {out.decode() or watching.returncode}")
    counts = {name: number for name, number in json.loads(out)["counts"].items() if number}
    terminal.line(f"completed  {json.dumps(counts)}", colour=terminal.GREEN)
    terminal.timing(time.perf_counter() - killed, "from the kill to the end: the other worker has all of the rest")


def _kill_midway(client: Client, path: str, victim: Process) -> int:
    """How many items were done by then."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        _, job = client.get(path)
        assert isinstance(job, dict)
        if job["counts"]["completed"] >= KILLED_AT:
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            return int(job["counts"]["completed"])
        time.sleep(0.02)
    raise Failed("the job does not go on")


def _export(place: Place, path: str, shop: Client, file: Path) -> None:
    terminal.heading("Nothing is lost: the results, and the shop's own count")
    command = ["batchproxy", "jobs", "export", path.rpartition("/")[2], "--url", place.url + place.batch]
    terminal.line(f"$ {shlex.join(['python', '-m', *command, '-o', file.name])}", whole=True)
    terminal.line("(what one would type: here the file is a temporary one, and removed again)")
    finished = subprocess.run(
        [sys.executable, "-m", *command, "-o", str(file)], cwd=ROOT, capture_output=True, check=False, timeout=PATIENCE
    )
    if finished.returncode:
        raise Failed(finished.stderr.decode())
    results: list[JSON] = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    statuses = Counter(str(each["status"]) for each in results)
    _, found = shop.get("/items?q=Crate&size=1")
    assert isinstance(found, dict)
    arrived, twice = found["total"], found["total"] - ITEMS
    terminal.line(f"{len(results)} results, one for each request; their statuses: {json.dumps(statuses)}")
    terminal.line(f"{arrived} crates in the shop: {twice} were sent twice, of the {IN_FLIGHT} in hand at the kill")
    terminal.line("This demo allows it (delivery: at_least_once): a worker was killed, and none knows what it had sent")
    # On a machine that stands still for longer than a lease, the other worker may have lost what it had, too.
    if [each["index"] for each in results] != list(range(ITEMS)) or not 0 <= twice <= 2 * IN_FLIGHT:
        raise Failed("the job is not what it should be")


def _wait_for_work(worker: Process) -> None:
    """Until it says that it works; from then on what it says is read, and forgotten."""
    assert worker.stderr is not None
    said = b""
    for line in worker.stderr:
        said += line
        if b"working" in line:
            threading.Thread(target=worker.stderr.read, daemon=True).start()
            return
    raise Failed(said.decode())


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever becomes of the block, the process ends with it."""
    with process:
        try:
            yield
        finally:
            if process.poll() is None:
                process.kill()
