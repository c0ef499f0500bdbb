"""Jobs behind a real server, in a process of its own: large uploads, clients that leave, long answers."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from batchproxy.engine.settings import MiB
from tests.faults.memory import GIVES_BACK
from tests.jobs.place import Place
from tests.programs import serving
from tests.proxy.on_a_loop import run
from tests.serving import PATIENCE, Response, Server, ask, parse

from .site import LINES, rows

N = 50_000
PADDING = "x" * 500


@contextmanager
def server(folder: Path, http: str = "httptools", *, works: bool = True) -> Iterator[Server]:
    with serving(
        lambda listener: [
            *(sys.executable, "-m", "uvicorn", "--factory", "tests.jobs.resources.server:app"),
            *("--fd", str(listener.fileno()), "--http", http, "--log-level", "warning"),
        ],
        environment=lambda _: {"JOBS_FOLDER": str(folder), "JOBS_WORK": str(int(works)), **GIVES_BACK},
    ) as made:
        yield made


def peak(server: Server) -> int:
    """The most memory that the server's process has had."""
    pid = ask(server, "GET", "/").json()
    [found] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found) * 1024


def head(*more: tuple[str, str]) -> bytes:
    lines = ["POST /batch HTTP/1.1", "Host: testserver", "Connection: close", "Prefer: respond-async"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in more), "", ""]).encode()


def connected(server: Server) -> closing[socket.socket]:
    return closing(socket.create_connection((server.host, server.port), timeout=PATIENCE))


def many_lines() -> Iterator[bytes]:
    """A thousand at a time."""
    for start in range(0, N, 1000):
        yield b"".join(
            json.dumps({"id": f"i{n}", "path": f"/{n}", "method": "PUT", "body": PADDING}).encode() + b"\n"
            for n in range(start, start + 1000)
        )


def upload(server: Server) -> Response:
    with connected(server) as connection:
        connection.sendall(head(("Content-Type", LINES), ("Transfer-Encoding", "chunked")))
        for piece in many_lines():
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
        return parse(b"".join(received(connection)))


def received(connection: socket.socket) -> Iterator[bytes]:
    with suppress(ConnectionResetError):  # what came before counts; `parse` notices if it is not all
        while data := connection.recv(1 << 16):
            yield data


def test_a_large_upload_takes_little_memory(folder: Path) -> None:
    """Fifty thousand items go to the store as they come, and their results come out of it in the same way."""
    with server(folder, works=False) as running:
        before = peak(running)
        reply = upload(running)
        assert (reply.status, reply.json()["counts"]["total"]) == (202, N)
        grown = peak(running) - before
        assert grown < 30 * MiB, f"{grown / MiB:.0f} MiB more for {N * len(PADDING) / MiB:.0f} MiB of bodies"
        path = reply.header("location")
        assert path is not None
    with server(folder) as running, connected(running) as connection:
        before = peak(running)
        request = f"GET {path}/results?follow=true&order=completion HTTP/1.0\r\nHost: a\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        seen: set[bytes] = set()
        rest = b""
        for data in received(connection):
            *lines, rest = (rest + data).split(b"\n")
            seen.update(re.findall(rb'^\{"index":(\d+),"outcome":"ok"', b"\n".join(lines), re.MULTILINE))
            if len(seen) >= 5_000:
                # The rest is done in the same way.
                break
        assert peak(running) - before < 60 * MiB


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_a_client_that_leaves_amid_its_upload_leaves_nothing(folder: Path, http: str) -> None:
    """Its connection is closed after some thousand items; nothing of them is there, or left on the disk."""
    place = Place(f"sqlite:///{folder}/jobs.db", folder)
    with server(folder, http, works=False) as running:
        with connected(running) as connection:
            connection.sendall(head(("Content-Type", LINES), ("Content-Length", str(10**8))))
            for number, piece in enumerate(many_lines()):
                connection.sendall(piece)
                if number == 10:
                    break
            wait_for(place, lambda found: bool(found.get("batchproxy_chunk")))
        wait_for(place, lambda found: found == {})
        assert ask(running, "GET", "/batch/jobs").json()["jobs"] == []
        blobs = [path for path in folder.rglob("*") if path.is_file() and "jobs.db" not in path.name]
        assert blobs == []


def test_lines_that_are_wrong_end_the_upload_at_once(folder: Path) -> None:
    """The answer comes while the client still sends, and the connection is closed behind it."""
    with server(folder, works=False) as running, connected(running) as connection:
        connection.sendall(head(("Content-Type", LINES), ("Content-Length", str(10**8))))
        pieces = many_lines()
        connection.sendall(next(pieces) + next(pieces) + b"{\n")
        reply = parse(b"".join(received(connection)))
        assert (reply.status, reply.json()["code"], reply.json()["line"]) == (400, "malformed_json", 2001)
        assert reply.header("connection") == "close"


def test_a_job_is_followed_over_a_connection(folder: Path) -> None:
    """Submitted, followed and watched with nothing but sockets."""
    with server(folder) as running:
        items = "".join(json.dumps({"path": f"/{n}"}) + "\n" for n in range(2000))
        prefer = [("Prefer", "respond-async"), ("Content-Type", LINES)]
        path = ask(running, "POST", "/batch", prefer, items.encode()).header("location")
        reply = ask(running, "GET", f"{path}/results?follow=true")
        lines = [json.loads(line) for line in reply.body.splitlines()]
        assert [line["index"] for line in lines if "index" in line] == list(range(2000))
        assert lines[-1]["complete"] is True
        events = ask(running, "GET", f"{path}/events")
        assert events.body.count(b"event: ended\n") == 1
        assert ask(running, "DELETE", str(path)).status == 204


def wait_for(place: Place, is_so: Callable[[dict[str, int]], bool]) -> None:
    """Until the rows of the store are so."""

    async def waiting() -> None:
        while not is_so(await rows(place)):
            pass

    run(waiting())
