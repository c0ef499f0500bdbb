"""Large files, with a server in a process of its own."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from openai import OpenAI

from batchproxy.engine.settings import MiB
from tests.programs import Ended, serving
from tests.serving import PATIENCE, Server, ask

from .site import CHAT, chat, create, ended

N = 10_000


@contextmanager
def server(folder: Path, lease: float = 30) -> Iterator[Server]:
    with serving(
        lambda listener: [
            *(sys.executable, "-m", "uvicorn", "--factory", "tests.jobs.openai.server:app"),
            *("--fd", str(listener.fileno()), "--log-level", "warning"),
        ],
        environment=lambda _: {"JOBS_FOLDER": str(folder), "JOBS_LEASE": str(lease)},
    ) as made:
        yield made


def peak(server: Server) -> int:
    """The most memory that the server's process has had."""
    [found] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid(server)}/status").read_text())
    return int(found) * 1024


def pid(server: Server) -> int:
    found = ask(server, "GET", "/").json()["pid"]
    assert isinstance(found, int)
    return found


def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="sk", timeout=PATIENCE)


def content(n: int, padding: str) -> bytes:
    written = io.BytesIO()
    for number in range(n):
        line = chat(f"request-{number}", f"{number % 100:02}")
        line["body"]["padding"] = padding
        written.write(json.dumps(line).encode() + b"\n")
    return written.getvalue()


def test_many_lines_take_little_memory(folder: Path) -> None:
    """They come in, are checked, done, and go out as two files, without ever being held as a whole."""
    whole = content(N, "x" * 500)
    with server(folder) as running:
        before = peak(running)
        with client(running) as ann:
            file = ann.files.create(file=("in.jsonl", whole), purpose="batch")
            uploaded = peak(running) - before
            batch = ann.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
            done = ended(ann, batch)
            assert done.status == "completed"
            assert done.request_counts is not None
            failed = N // 100
            assert done.request_counts.model_dump() == {"total": N, "completed": N - failed, "failed": failed}
            names = []
            for name, n in ((done.output_file_id, N - failed), (done.error_file_id, failed)):
                assert name is not None
                with ann.files.with_streaming_response.content(name) as answer:
                    found = [re.findall(r'"custom_id":"([^"]+)"', line)[0] for line in answer.iter_lines()]
                assert len(found) == n
                names += found
        assert sorted(names) == sorted(f"request-{n}" for n in range(N))
        grown = peak(running) - before
    size = f"{len(whole) / MiB:.0f} MiB in, {N * 700 / MiB:.0f} MiB out"
    assert uploaded < 20 * MiB, f"{uploaded / MiB:.0f} MiB for the upload of {size}"
    assert grown < 60 * MiB, f"{grown / MiB:.0f} MiB for {size}"


def test_a_server_that_is_killed_amid_a_batch_loses_nothing(folder: Path) -> None:
    """The next one goes on with what is not done, and each line is in one file, once."""
    n = 2000
    with suppress(Ended), server(folder, lease=2) as running, client(running) as ann:
        batch = create(ann, content(n, ""))
        while (found := ann.batches.retrieve(batch.id).request_counts) is None or not 0 < found.completed < n:
            assert ann.batches.retrieve(batch.id).status in ("validating", "in_progress")
        os.kill(pid(running), signal.SIGKILL)
    with server(folder, lease=2) as running, client(running) as ann:
        done = ended(ann, batch)
        assert done.status == "completed"
        assert done.request_counts is not None
        assert done.request_counts.model_dump() == {"total": n, "completed": n - n // 100, "failed": n // 100}
        written = [ann.files.content(name or "").text for name in (done.output_file_id, done.error_file_id)]
        names = [json.loads(line)["custom_id"] for line in "".join(written).splitlines()]
        assert sorted(names) == sorted(f"request-{each}" for each in range(n))
        assert len(ann.files.list().data) == 3
