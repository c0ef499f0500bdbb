"""nginx and Caddy with the snippets of deploy/, in front of the whole batchproxy process.

Nothing here is timed: the upstream holds an answer until the client has read the one before it.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from batchproxy.engine.model import Message, Receive, Scope, Send
from batchproxy.server.job_settings import Jobs
from batchproxy.server.openai_settings import OpenAI
from tests.deploy.artifacts import DEPLOY
from tests.programs import batchproxy, program, run
from tests.serving import PATIENCE, App, Response, Server, ask, parse, request, serve
from tests.upstreams.nginx import nginx

Connect = Callable[[], socket.socket]

CONFIG = """
server:
  trusted_proxies: [127.0.0.1/32]
upstreams:
  api:
    url: {url}
"""

NGINX = DEPLOY / "nginx" / "batchproxy.conf"
CADDY = DEPLOY / "caddy" / "Caddyfile"
PROXY = "127.0.0.1:8080"

JSON = [("Content-Type", "application/json")]
BATCH = b'{"requests": [{"path": "/held"}, {"path": "/quick"}]}'


def api() -> App:
    """`/held` is answered, and `/events` goes on, after somebody has asked for `/release`; each shows its headers."""
    released = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (kind := (await receive())["type"]) != "lifespan.shutdown":
                await send({"type": f"{kind}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        path = scope["path"]
        while (await receive()).get("more_body", False):
            pass  # who is answered amid a long body may find the connection closed
        kind = b"text/event-stream" if path == "/events" else b"text/plain"
        if path == "/release":
            released.set()
        if path == "/held":
            await released.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        if path == "/events":
            await send(piece(b"data: first\n\n"))
            await released.wait()
        names = (b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip", b"connection")
        shown = [b"%b: %b" % header for header in scope["headers"] if header[0] in names]
        await send(piece(b"\n".join(shown)))
        await send({"type": "http.response.body"})

    def piece(body: bytes) -> Message:
        return {"type": "http.response.body", "body": body, "more_body": True}

    return app


@pytest.fixture
def upstream() -> Iterator[Server]:
    with serve(api()) as server:
        yield server


@pytest.fixture(params=["nginx", "caddy"])
def front(request: pytest.FixtureRequest, upstream: Server, tmp_path: Path) -> Iterator[Connect]:
    """How to connect to the front proxy, behind which batchproxy and the upstream stand."""
    with (
        batchproxy(CONFIG.format(url=upstream.url), tmp_path) as proxy,
        FRONTS[request.param](proxy, tmp_path) as connect,
    ):
        yield connect


@contextmanager
def behind_nginx(proxy: Server, folder: Path, snippet: str | None = None) -> Iterator[Connect]:
    snippet = snippet or NGINX.read_text("utf-8")
    for written, here in ((PROXY, f"{proxy.host}:{proxy.port}"), ("listen 80;", "listen LISTEN;")):
        assert snippet.count(written) == 1
        snippet = snippet.replace(written, here)
    with nginx(snippet, folder) as server:
        yield lambda: socket.create_connection((server.host, server.port), timeout=PATIENCE)


@contextmanager
def behind_caddy(proxy: Server, folder: Path, snippet: str | None = None) -> Iterator[Connect]:
    """Caddy listens at a socket of the file system, and calls back when it does."""
    path = folder / "caddy.sock"
    snippet = snippet or CADDY.read_text("utf-8")
    for written, here in ((PROXY, f"{proxy.host}:{proxy.port}"), (":80 {", f"http:// {{\n\tbind unix/{path}")):
        assert snippet.count(written) == 1
        snippet = snippet.replace(written, here)
    file = folder / "Caddyfile"
    file.write_text("{\n\tadmin off\n}\n" + snippet, "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as started, _caddy(file, started):
        yield lambda: _connected(path)


@contextmanager
def _caddy(file: Path, started: socket.socket) -> Iterator[None]:
    host, port = started.getsockname()
    command = [program("caddy"), "run", "--config", str(file), "--adapter", "caddyfile", "--pingback", f"{host}:{port}"]
    with (file.parent / "caddy.log").open("w") as log:
        process = subprocess.Popen(command, env=_at_home(file.parent), stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        assert process.stdin is not None
        process.stdin.write(b"up")
        process.stdin.close()
        started.settimeout(PATIENCE)
        try:
            call, _ = started.accept()
        except TimeoutError:
            pytest.fail((file.parent / "caddy.log").read_text())
        with call:
            assert call.recv(16) == b"up"
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _at_home(folder: Path) -> Mapping[str, str]:
    """Caddy keeps what it knows in the test's folder."""
    return {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    connection.connect(str(path))
    return connection


FRONTS = {"nginx": behind_nginx, "caddy": behind_caddy}


def exchanged(connect: Connect, payload: bytes) -> Response:
    with closing(connect()) as connection:
        connection.sendall(payload)
        return parse(b"".join(iter(lambda: connection.recv(65536), b"")))


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_each_answer_arrives_when_it_is_there(front: Connect, upstream: Server, accept: str) -> None:
    """The first line of a streamed batch is at the client while the second item has not been answered."""
    with closing(front()) as connection:
        connection.sendall(request("POST", "/batch", [*JSON, ("Accept", accept)], BATCH))
        received = b""
        while b'"index":1' not in received.replace(b" ", b""):
            received += _more(connection)
        assert b'"index":0' not in received.replace(b" ", b"")
        ask(upstream, "GET", "/release")
        while piece := connection.recv(65536):
            received += piece
    answer = parse(received)
    assert answer.status == 200
    assert b'"succeeded":2' in answer.body.replace(b" ", b"")


def test_events_of_an_api_arrive_one_by_one(front: Connect, upstream: Server) -> None:
    """A stream that the API itself sends is not held back either."""
    with closing(front()) as connection:
        connection.sendall(request("GET", "/events"))
        received = b""
        while b"data: first" not in received:
            received += _more(connection)
        ask(upstream, "GET", "/release")
        while piece := connection.recv(65536):
            received += piece
    assert parse(received).status == 200


def test_the_client_is_who_the_front_proxy_says(front: Connect) -> None:
    """What the client claims about itself is replaced by what the front proxy sees; the host stays the client's."""
    claims = [(name, "203.0.113.9") for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded")]
    payload = request("GET", "/headers", [("Host", "shop.example"), *claims])
    shown = exchanged(front, payload).body.decode()
    assert "203.0.113.9" not in shown
    lines = dict(line.split(": ", 1) for line in shown.splitlines())
    assert lines["host"] == lines["x-forwarded-host"] == "shop.example"
    assert lines["x-forwarded-proto"] == "http"


def test_a_batch_that_is_too_large_is_refused(front: Connect) -> None:
    """A batch that says that it is larger than any may be gets 413 before its body is sent."""
    head = request("POST", "/batch", [*JSON, ("Content-Length", str(8 * 1024 * 1024 + 1))])
    with closing(front()) as connection:
        connection.sendall(head)
        assert _more(connection).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("name", "file", "off", "on"),
    [
        ("nginx", NGINX, "    client_max_body_size 8m;", "    #client_max_body_size 200m;"),
        ("caddy", CADDY, "\t\tmax_size 8MiB", "\t#\tmax_size 200MiB"),
    ],
)
def test_with_its_line_for_jobs_larger_bodies_pass(
    name: str, file: Path, off: str, on: str, upstream: Server, tmp_path: Path
) -> None:
    """What the snippet says of jobs is as much as they may have, and with it a body of more than 8 MiB gets through."""
    said = re.search(r"\d+", on)
    assert said is not None
    assert int(said[0]) * 1024 * 1024 > max(Jobs().max_bytes, OpenAI(path="/v1").max_batch_bytes)
    snippet = file.read_text("utf-8")
    assert snippet.count(off) == snippet.count(on) == 1
    snippet = snippet.replace(on, "").replace(off, on.replace("#", ""))
    body = b"x" * (8 * 1024 * 1024 + 1)
    with (
        batchproxy(CONFIG.format(url=upstream.url), tmp_path) as proxy,
        FRONTS[name](proxy, tmp_path, snippet) as connect,
    ):
        assert exchanged(connect, request("POST", "/quick", body=body)).status == 200


def test_caddy_takes_the_snippet(tmp_path: Path) -> None:
    """`caddy validate` accepts the file, and `caddy adapt` finds the stream setting."""
    file = ["--config", str(CADDY), "--adapter", "caddyfile"]
    run(program("caddy"), "validate", *file, env=_at_home(tmp_path))
    assert '"flush_interval":-1' in run(program("caddy"), "adapt", *file, env=_at_home(tmp_path)).stdout


def test_nginx_takes_the_snippet(tmp_path: Path) -> None:
    """`nginx -t` accepts it, in a configuration that has nothing else; only the port is not ours to take."""
    snippet, file = tmp_path / "batchproxy.conf", tmp_path / "nginx.conf"
    snippet.write_text(NGINX.read_text("utf-8").replace("listen 80;", f"listen unix:{tmp_path}/nginx.sock;"), "utf-8")
    file.write_text(f"pid {tmp_path}/pid; events {{}} http {{ access_log off; include {snippet}; }}", "utf-8")
    run(program("nginx"), "-t", "-q", "-c", file, "-e", "stderr")


def _more(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    assert piece, "the connection ended early"
    return piece
