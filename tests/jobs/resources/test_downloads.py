"""Results downloaded from a real server: broken off and gone on with, in parts, and compressed; mostly with curl."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from batchproxy.engine.settings import MiB
from tests.programs import program
from tests.serving import PATIENCE, Server, ask

from .site import LINES
from .test_sockets import connected, peak, received, server

PLAIN = [("Accept", LINES)]


def curl(*arguments: str | Path, code: int = 0) -> bytes:
    """What it prints; `code` is how it ends."""
    command = [program("curl"), "--silent", "--show-error", "--header", f"Accept: {LINES}", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
    assert done.returncode == code, done.stderr
    return done.stdout


def job(running: Server, paths: list[str]) -> str:
    """The path of the results of one that has ended."""
    items = "".join(json.dumps({"path": path}) + "\n" for path in paths)
    prefer = [("Prefer", "respond-async"), ("Content-Type", LINES)]
    path = ask(running, "POST", "/batch", prefer, items.encode()).header("location")
    assert b"event: ended" in ask(running, "GET", f"{path}/events").body
    return f"{path}/results"


def test_a_download_goes_on_where_it_was_broken_off(folder: Path) -> None:
    """Broken off along with its server, and gone on with by `curl -C -` at the next one."""
    file = folder / "results"
    with server(folder) as running:
        target = job(running, [f"/{number}" for number in range(1500)])
        whole = ask(running, "GET", target, PLAIN).body
        with connected(running) as connection, file.open("wb") as partial:
            connection.sendall(f"GET {target} HTTP/1.0\r\nHost: a\r\nAccept: {LINES}\r\n\r\n".encode())
            head, _, body = b"".join(until_there_are(50_000, received(connection))).partition(b"\r\n\r\n")
            partial.write(body)
        assert b"accept-ranges: bytes" in head.lower()
    assert 0 < file.stat().st_size < len(whole)
    with server(folder, "h11", works=False) as running:
        url = running.url + target
        curl("-C", "-", "-o", file, url)
        assert file.read_bytes() == whole
        # What is complete is left as it is.
        curl("-C", "-", "-o", file, url)
        assert file.read_bytes() == whole
        assert curl("-r", "1000-1999", url) == whole[1000:2000]
        assert curl("-r", "-10", url) == whole[-10:]
        said = curl("-r", "0-0,5-6", "-D", "-", url)
        assert said.startswith(b"HTTP/1.1 200")
        head = curl("--head", url)
        assert re.search(rb"(?im)^content-length: %d\r$" % len(whole), head)
        refused = curl("-r", f"{len(whole)}-", "-D", "-", url)
        assert refused.startswith(b"HTTP/1.1 416")
        assert f"bytes */{len(whole)}".encode() in refused


def until_there_are(number: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        number -= len(piece)
        if number <= 0:
            return


def test_a_download_is_compressed_for_who_wants_it(folder: Path) -> None:
    """Fewer bytes on the way, the same in the file; a broken one goes on with `-C -` as well."""
    file = folder / "results"
    with server(folder) as running:
        target = job(running, [f"/{number}" for number in range(1000)])
        url = running.url + target
        whole = curl(url)
        assert curl("--compressed", url) == whole
        there = int(curl("--compressed", "-o", file, "-w", "%{size_download}", url))
        assert there < len(whole) / 5
        file.write_bytes(whole[:12_345])
        curl("--compressed", "-C", "-", "-o", file, url)
        assert file.read_bytes() == whole
        page = curl("--compressed", "-H", "Accept: application/json", f"{url}?limit=1000")
        assert len(json.loads(page)["results"]) == 1000


def test_parts_of_a_large_content_take_little_memory(folder: Path) -> None:
    """The first byte near the end of 50 MB is found by passing along, not by holding it."""
    n = 1000
    with server(folder) as running:
        target = job(running, ["/large"] * n)
        before = peak(running)
        reply = ask(running, "GET", target, [*PLAIN, ("Range", "bytes=-1000000")])
        assert reply.status == 206
        assert reply.body.endswith(b'"complete":true}\n')
        said = reply.header("content-range")
        assert said is not None
        size = int(said.rpartition("/")[2])
        assert size > n * 50_000
        assert said == f"bytes {size - 1_000_000}-{size - 1}/{size}"
        grown = peak(running) - before
        # What it takes anyway is 20 to 36 MiB; whoever holds the whole has all of it beside that, once at least.
        assert grown < 58 * MiB, f"{grown / MiB:.0f} MiB more for {size / MiB:.0f} MiB"
