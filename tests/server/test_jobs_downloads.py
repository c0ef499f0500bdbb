"""Results of the whole process over connections that break: `batchproxy jobs export` and curl go on where they were."""

from __future__ import annotations

import io
import json
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from batchproxy.server.commands.exporting import Export, Page
from tests.faults.whole import Whole, whole
from tests.programs import program
from tests.serving import PATIENCE, Server

from .job_process import Behind, ended, environment, eventually, submitted, waited_for
from .test_cli import run, run_here
from .test_jobs_process import config

N = 1300
PATHS = [f"/x/{number}" for number in range(N)]


class Relay:
    """Passes connections on to a server, and closes `cuts` of them: the first after so many bytes of answers, others
    with the first byte."""

    def __init__(self, server: Server, *, after: int, cuts: int) -> None:
        self.cuts = cuts
        self._server = server
        self._after = after

    def pass_on(self, client: socket.socket) -> None:
        with closing(client), socket.create_connection((self._server.host, self._server.port)) as server:
            left = self._after
            while True:
                for ready in select.select([client, server], [], [], PATIENCE)[0]:
                    data = ready.recv(1 << 14)
                    if not data:
                        return
                    if ready is client:
                        server.sendall(data)
                        continue
                    if self.cuts and len(data) >= left:
                        self.cuts -= 1
                        self._after = 1
                        return
                    left -= len(data)
                    client.sendall(data)


@contextmanager
def relayed(server: Server, *, after: int, cuts: int) -> Iterator[tuple[str, Relay]]:
    """Its URL, and how many cuts are left."""
    relay = Relay(server, after=after, cuts=cuts)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=passing, args=(client,), daemon=True).start()

        def passing(client: socket.socket) -> None:
            with suppress(OSError):
                relay.pass_on(client)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", relay
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def done(folder: Path) -> Iterator[tuple[Whole, str]]:
    """A process, and the path of a job that has ended."""
    with Behind().served() as server, whole(folder, config(server, folder)) as process:
        path = submitted(process, PATHS)
        assert ended(process, path)["state"] == "completed"
        yield process, path


def indexes(text: bytes) -> list[int]:
    return [json.loads(line)["index"] for line in text.splitlines()]


def test_export_goes_on_behind_what_it_has(done: tuple[Whole, str], tmp_path: Path) -> None:
    """Connections that break amid a page cost nothing: each result is in the file once, in order."""
    process, path = done
    with relayed(process.server, after=4_000, cuts=3) as (url, relay):
        file = tmp_path / "results"
        found = run("jobs", "export", path.rpartition("/")[2], "-o", str(file), "--url", f"{url}/batch")
        # Where it takes a while to go on, it says so.
        assert (found.returncode, found.stderr.decode().splitlines()[-1]) == (0, f"{N} results")
        assert relay.cuts == 0
    assert indexes(file.read_bytes()) == list(range(N))


def test_export_that_gives_up_says_how_to_go_on(done: tuple[Whole, str], tmp_path: Path) -> None:
    """With the cursor that it tells, another run writes the rest behind what is there."""
    process, path = done
    file = tmp_path / "results"
    command = ["jobs", "export", path.rpartition("/")[2], "-o", str(file)]
    # The first page passes, and then nothing does.
    size = len(process.ask("GET", f"{path}/results?limit=1000", [("Accept-Encoding", "gzip")]).body)
    with relayed(process.server, after=size + 1_000, cuts=10**9) as (url, _):
        found = run(*command, "--url", f"{url}/batch", "--timeout", "2")
    told = found.stderr.decode()
    assert found.returncode == 5
    assert "no answer" in told
    [cursor] = re.findall(r"^1000 results; go on with --after (\S+)$", told, re.MULTILINE)
    assert indexes(file.read_bytes()) == list(range(1000))
    found = run_here(*command, "--url", f"{process.server.url}/batch", "--after", cursor)
    assert (found.returncode, found.stderr.decode()) == (0, f"{N - 1000} results\n")
    assert indexes(file.read_bytes()) == list(range(N))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_export_that_is_interrupted_says_how_to_go_on(
    done: tuple[Whole, str], tmp_path: Path, number: signal.Signals
) -> None:
    """As one that gives up does; and it dies of the signal all the same."""
    process, path = done
    file = tmp_path / "results"
    command = ["jobs", "export", path.rpartition("/")[2], "-o", str(file)]
    # The first page passes, and then nothing does.
    size = len(process.ask("GET", f"{path}/results?limit=1000", [("Accept-Encoding", "gzip")]).body)
    with (
        relayed(process.server, after=size + 1_000, cuts=10**9) as (url, relay),
        subprocess.Popen(
            [sys.executable, "-m", "batchproxy", *command, "--url", f"{url}/batch"],
            env=environment(),
            stderr=subprocess.PIPE,
        ) as running,
    ):
        try:
            eventually(lambda: relay.cuts, lambda cuts: cuts < 10**9)
            running.send_signal(number)
            _, told = running.communicate(timeout=PATIENCE)
        finally:
            running.kill()
    assert running.returncode == -number
    [cursor] = re.findall(rb"^1000 results; go on with --after (\S+)$", told, re.MULTILINE)
    found = run_here(*command, "--url", f"{process.server.url}/batch", "--after", cursor.decode())
    assert (found.returncode, found.stderr.decode()) == (0, f"{N - 1000} results\n")
    assert indexes(file.read_bytes()) == list(range(N))


class Signalled(io.BytesIO):
    """A file in the midst of whose writing signals come."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times

    def write(self, content: Any) -> int:
        written = super().write(content[:3])
        for _ in range(self._times):
            signal.raise_signal(signal.SIGINT)
        return written + super().write(content[3:])


@pytest.mark.parametrize(("times", "there", "told"), [(1, b'{"index":0}\n', 1), (2, b'{"i', 0)])
def test_export_is_not_interrupted_amid_a_page(times: int, there: bytes, told: int) -> None:
    """Or nobody would know behind which line to go on; but who asks twice may have waited for a pipe."""
    pages = iter([Page([b'{"index":0}'], "further", False), Page([b'{"index":1}'], None, True)])
    export, file = Export(None), Signalled(times)
    said: list[str | None] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), export.stoppable(lambda: said.append(export.cursor)):
            export.write(file, pages)
    finally:
        signal.signal(signal.SIGINT, before)
    assert file.getvalue() == there
    assert export.can_go_on == bool(told)
    assert said == ["further" if told else None]


def test_curl_goes_on_with_the_next_process(done: tuple[Whole, str], folder: Path, tmp_path: Path) -> None:
    """A download that breaks off, and the process along with it, is completed by `curl -C -` at the next one."""
    process, path = done
    file = tmp_path / "results"
    asked = ["--silent", "--show-error", "-H", "Accept: application/x-ndjson", "-C", "-", "-o", str(file)]
    expected = process.ask("GET", f"{path}/results", [("Accept", "application/x-ndjson")]).body
    with relayed(process.server, after=len(expected) // 2, cuts=1) as (url, _):
        broken = subprocess.run([program("curl"), *asked, url + f"{path}/results"], check=False, timeout=PATIENCE)
    assert broken.returncode == 18  # "only a part of the file was transferred"
    there = file.read_bytes()
    assert 0 < len(there) < len(expected)
    assert expected.startswith(there)
    process.signal(signal.SIGKILL)
    process.ended()
    with whole(folder, process.file.read_text("utf-8")) as following:
        subprocess.run(
            [program("curl"), *asked, following.server.url + f"{path}/results"], check=True, timeout=PATIENCE
        )
    assert file.read_bytes() == expected


def test_results_that_were_seen_stay(tmp_path: Path) -> None:
    """What somebody has read before the process was killed is there afterwards, byte for byte; it is not done again."""
    behind = Behind()
    with behind.served() as server:
        behind.hold_after(60)
        text = config(server, tmp_path, jobs="worker: {poll: 200ms}")
        with whole(tmp_path, text) as process:
            path = submitted(process, PATHS[:200])
            waited_for(process, path, lambda found: found["counts"]["completed"] >= 40)
            seen = results(process, path)
            process.signal(signal.SIGKILL)
            process.ended()
        behind.open_up()
        with whole(tmp_path, text) as process:
            ended(process, path)
            found = results(process, path)
    assert len(seen) >= 40
    assert len(found) == 200
    assert {index: found[index] for index in seen} == seen
    assert {behind.seen[PATHS[index]] for index in seen} == {1}


def results(process: Whole, path: str) -> dict[int, bytes]:
    """As they stand in the lines, by number."""
    body = process.ask("GET", f"{path}/results?order=completion", [("Accept", "application/x-ndjson")]).body
    return {json.loads(line)["index"]: line for line in body.splitlines() if line.startswith(b'{"index"')}
