"""The reverse proxy in an app of one's own, under servers that are not ours: what they hand on must not differ.

Each server is a process of its own, started from its own command line, in front of an upstream made of a socket.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route as Own

from batchproxy import BatchMiddleware, Route, RouteTable
from batchproxy.proxy.app import ReverseProxy
from batchproxy.proxy.settings import HealthCheck, Timeouts, Upstream
from tests.programs import ROOT
from tests.serving import PATIENCE, App, Malformed, Response, Server, ask, parse, raw, request

from . import scripted
from .scripted import Peer

KINDS = ("uvicorn", "hypercorn", "granian")
OTHERS = tuple(kind for kind in KINDS if kind != "uvicorn")
every_server = pytest.mark.parametrize("kind", KINDS)
# What a server says of itself and of the connection.
OF_THE_SERVER = {"connection", "date", "keep-alive", "server", "transfer-encoding"}
# Than any test waits: what ends before has been ended by a client that left.
LONGER = 10 * PATIENCE
AT_MOST_HELD = 24 * 1024 * 1024


# The app


def app() -> App:
    """What the servers serve, made in their process."""
    if os.environ["FORM"] == "alone":
        return saying_goodbye(batched(proxy(health_check=HealthCheck(path="/started"))))
    legacy = proxy()

    async def hello(_: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        yield
        await legacy.aclose()

    return saying_goodbye(Starlette(routes=[Own("/hello", hello), Mount("/api", batched(legacy))], lifespan=life))


def proxy(**settings: Any) -> ReverseProxy:
    url = os.environ["UPSTREAM"]
    api = Upstream(url=url, timeouts=Timeouts(first_byte=LONGER, idle=LONGER), **settings)
    routes = RouteTable([Route(upstream="api"), Route(path="/down", upstream="nowhere")])
    return ReverseProxy(routes, {"api": api, "nowhere": Upstream(url="http://127.0.0.1:9")})


def batched(app: App) -> App:
    return BatchMiddleware(app, item_timeout=LONGER, batch_timeout=LONGER)


def saying_goodbye(app: App) -> App:
    """Before the lifespan ends, tells the upstream, which answers when all other connections to it are closed."""

    async def layer(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "lifespan.shutdown.complete":
                host, port = os.environ["UPSTREAM"].removeprefix("http://").split(":")
                await asyncio.to_thread(ask, Server(host=host, port=int(port)), "GET", "/ended")
            await send(message)

        await app(scope, receive, sending if scope["type"] == "lifespan" else send)

    return layer


# The upstream


class Gate:
    """Where the upstream has come to, and whether it may go on; between threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._steps = asyncio.Semaphore(0)
        self.reached, self.left = threading.Event(), threading.Event()
        self.written = 0

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._steps.release)

    async def passed(self) -> None:
        await self._steps.acquire()


@dataclass
class Behind:
    """One upstream; a request names its gate in the query."""

    loop: asyncio.AbstractEventLoop
    upstream: scripted.Upstream = field(default_factory=scripted.Upstream)
    gates: dict[str, Gate] = field(default_factory=dict)

    def gate(self, name: str) -> Gate:
        return self.gates.setdefault(name, Gate(self.loop))

    async def script(self, peer: Peer) -> None:
        while head := await peer.head():
            target = head.split(b" ")[1].decode("latin-1")
            path, _, query = target.partition("?")
            play = PLAYS.get(path.strip("/").partition("/")[0], whole)
            try:
                await play(self, peer, head, self.gate(query))
            except ConnectionError:
                self.gate(query).left.set()
                raise


async def body_of(peer: Peer, head: bytes) -> bytes:
    if length := re.search(rb"\r\ncontent-length: *(\d+)\r\n", head, re.IGNORECASE):
        return await peer.exactly(int(length[1]))
    body = b""
    if re.search(rb"\r\ntransfer-encoding: *chunked\r\n", head, re.IGNORECASE):
        while size := int(await peer.until(b"\r\n"), 16):
            body += await peer.exactly(size)
            await peer.exactly(2)
        await peer.until(b"\r\n")
    return body


async def whole(behind: Behind, peer: Peer, head: bytes, gate: Gate) -> None:
    """All that came, but for what cannot be the same, in an answer with fields of many kinds."""
    body = await body_of(peer, head)
    # A body that was there at once has a length, however it came; and each connection has its port.
    same = re.sub(rb"\r\n(content-length: \d+|transfer-encoding: chunked)(?=\r\n)|(?<=127\.0\.0\.1):\d+", b"", head)
    content = same + hashlib.sha256(body).hexdigest().encode()
    fields = (b"content-type: text/plain", b"set-cookie: a=1", b"Set-Cookie: b=2; Path=/", b"X-Empty:", b"ETag: \xe9")
    hop = (b"Connection: x-hop", b"X-Hop: 1", b"Keep-Alive: timeout=5", b"Date: Mon, 01 Jan 2024 00:00:00 GMT")
    answer = scripted.response(content, *fields, *hop)
    await peer.write(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head.startswith(b"HEAD ") else answer)


async def status(behind: Behind, peer: Peer, head: bytes, gate: Gate) -> None:
    code = head.split(b" ")[1].split(b"/")[2]
    if code in (b"204", b"304"):
        await peer.write(b'HTTP/1.1 %b X\r\netag: "1"\r\n\r\n' % code)
    else:
        await peer.write(
            scripted.response(b"as said", b"content-type: text/plain", b"retry-after: 7", status=code + b" As Said")
        )


async def upload(behind: Behind, peer: Peer, head: bytes, gate: Gate) -> None:
    size = int(await peer.until(b"\r\n"), 16)
    first = await peer.exactly(size + 2)
    gate.reached.set()
    await peer.until(b"0\r\n\r\n")
    await peer.write(scripted.response(first[:-2]))


HALF = bytes(number % 251 for number in range(1_500_000))


async def download(behind: Behind, peer: Peer, head: bytes, gate: Gate) -> None:
    await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (2 * len(HALF)) + HALF)
    await gate.passed()
    await peer.write(HALF)


async def chunks(behind: Behind, peer: Peer, head: bytes, gate: Gate) -> None:
    chunk = b"%x\r\n%b\r\n" % (len(HALF), HALF)
    await peer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk)
    await gate.passed()
    await peer.write(chunk + b"0\r\n\r\n")


async def events(behind: Behind, peer: Peer, head: bytes, gate: Gate) -> None:
    await peer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    for number in range(3):
        await peer.write(b"9\r\ndata: %d\n\n\r\n" % number)
        await gate.passed()
    await peer.write(b"0\r\n\r\n")


async def late(behind: Behind, peer: Peer, head: bytes, gate: Gate) -> None:
    gate.reached.set()
    await gate.passed()
    await peer.write(scripted.response(b"late", b"content-type: text/plain"))


async def never(behind: Behind, peer: Peer, head: bytes, gate: Gate) -> None:
    gate.reached.set()
    await peer.rest()
    gate.left.set()


async def cut(behind: Behind, peer: Peer, head: bytes, gate: Gate) -> None:
    framing = b"transfer-encoding: chunked\r\n\r\n5\r\n" if b"/cut/chunks" in head else b"content-length: 9\r\n\r\n"
    await peer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"begin")
    if b"/cut/chunks" in head:
        await peer.write(b"\r\n")
    await gate.passed()
    peer.close()


async def endless(behind: Behind, peer: Peer, head: bytes, gate: Gate) -> None:
    await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n")
    while True:
        await peer.write(HALF)
        gate.written += len(HALF)


async def ended(behind: Behind, peer: Peer, head: bytes, gate: Gate) -> None:
    for other in behind.upstream.peers:
        if other is not peer:
            await other.ended.wait()
    gate.reached.set()
    await peer.write(scripted.response())
    peer.close()


PLAYS: dict[str, Callable[[Behind, Peer, bytes, Gate], Awaitable[None]]] = {
    play.__name__: play for play in (status, upload, download, chunks, events, late, never, cut, endless, ended)
}


@contextmanager
def upstreams(count: int) -> Iterator[list[Behind]]:
    """So many of them, on a loop in a thread of its own."""
    found: list[Behind] = []
    are_there = threading.Event()
    loop = asyncio.new_event_loop()
    may_end = asyncio.Event()

    async def live() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(count):
                behind = Behind(loop)
                behind.upstream = await stack.enter_async_context(scripted.upstream(behind.script))
                found.append(behind)
            are_there.set()
            await may_end.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(live())

    thread = threading.Thread(target=run, name="upstreams", daemon=True)
    thread.start()
    assert are_there.wait(PATIENCE)
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(may_end.set)
        thread.join(PATIENCE)


# The servers


@dataclass(frozen=True)
class Host:
    """A server with the app, and the upstream behind it."""

    kind: str
    server: Server
    behind: Behind
    process: subprocess.Popen[bytes]
    said: Any

    def end(self) -> str:
        """Ends it as operators do; what it said."""
        self.stop()
        return self.ended()

    def stop(self) -> None:
        self.process.terminate()

    def ended(self) -> str:
        code = self.process.wait(PATIENCE)
        self.said.seek(0)
        text: str = self.said.read().decode("utf-8", "replace")
        # Uvicorn ends by the signal that it was sent, once it has done everything.
        assert code == (-signal.SIGTERM if self.kind == "uvicorn" else 0), text
        return text

    def ask(self, *arguments: Any) -> Response:
        return ask(self.server, *arguments)


def command(kind: str, listener: socket.socket) -> list[str]:
    name = f"{__name__}:app"
    python = [sys.executable, "-m", kind]
    if kind == "uvicorn":
        return [*python, "--factory", name, "--fd", str(listener.fileno()), "--lifespan", "on", "--no-access-log"]
    if kind == "hypercorn":
        return [*python, f"{name}()", "--bind", f"fd://{listener.fileno()}"]
    port = str(listener.getsockname()[1])
    return [*python, "--interface", "asgi", "--factory", name, "--host", "127.0.0.1", "--port", port]


@contextmanager
def hosting(kind: str, behind: Behind, *, form: str = "mounted") -> Iterator[Host]:
    """Starts a server at a free port; it ends with the block, if it has not been ended."""
    with socket.socket() as listener, tempfile.TemporaryFile() as said:
        # Granian takes over no socket: what we have bound keeps the port for it, as long as we do not listen there.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        if kind != "granian":
            listener.listen(512)
        host, port = listener.getsockname()
        process = subprocess.Popen(
            command(kind, listener),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "UPSTREAM": behind.upstream.url, "FORM": form},
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        found = Host(kind, Server(host=host, port=port), behind, process, said)
        try:
            until(lambda: accepts(found))
            yield found
        finally:
            # With the workers that it may have.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def accepts(host: Host) -> bool:
    assert host.process.poll() is None, host.ended()
    try:
        socket.create_connection((host.server.host, host.server.port), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, Host]]:
    with upstreams(len(KINDS)) as behind, ExitStack() as running:
        found = {kind: running.enter_context(hosting(kind, each)) for kind, each in zip(KINDS, behind, strict=True)}
        yield found
        for host in found.values():
            host.end()


# Asking


class Client:
    """A connection that is read and written step by step."""

    def __init__(self, host: Host, head: str, *fields: str) -> None:
        self.socket = socket.create_connection((host.server.host, host.server.port), timeout=PATIENCE)
        lines = (f"{head} HTTP/1.1", "Host: h", "Connection: close", *fields, "", "")
        self.send("\r\n".join(lines).encode())
        self._seen = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def until(self, mark: bytes) -> bytes:
        """All that has come, at least up to the mark."""
        while mark not in self._seen:
            data = self.socket.recv(65536)
            assert data, self._seen[-1000:]
            self._seen += data
        return self._seen

    def rest(self) -> bytes:
        with suppress(ConnectionError):
            while data := self.socket.recv(65536):
                self._seen += data
        return self._seen


def shape(response: Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """What a client is told, end to end."""
    kept = [(name.lower(), value) for name, value in response.headers if name.lower() not in OF_THE_SERVER]
    return response.status, kept, response.body


def batch(*items: Any, **options: Any) -> bytes:
    return json.dumps({"requests": items, "options": options} if options else {"requests": items}).encode()


JSON, NDJSON = ("Content-Type", "application/json"), ("Accept", "application/x-ndjson")
MINE = ("X-Request-ID", "mine")
ODD = [("X-A", "1"), ("x-a", "2, 3"), ("Cookie", "a=b"), ("Cookie", "c=d"), ("X_B", "c"), ("TE", "trailers")]
ITEMS = (
    {"id": "fine", "path": "/api/whole?a=%20"},
    {"method": "PUT", "path": "/api/whole/x%2Fy", "headers": {"x-a": ["1", "2"], "content-type": "a/b"}, "body": "é"},
    {"path": "/api/status/503"},
    {"path": "/api/down"},
    {"path": "/api/status/204"},
    {"path": "/hello"},
)
REQUESTS = {
    "get": request("GET", "/api/whole/a%2Fb;c=d/%7Ee//f?q=%20&x", ODD),
    "post": request("POST", "/api/whole", [("Content-Type", "a/b")], bytes(range(256)) * 400),
    "chunked": request("PUT", "/api/whole", [("Transfer-Encoding", "chunked")]) + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    "empty": request("POST", "/api/whole", (), b""),
    "head": request("HEAD", "/api/whole"),
    "options": request("OPTIONS", "/api/whole"),
    "unusual": request("PROPFIND", "/api/whole"),
    # Granian calls this version `1`, and so does `Via`.
    "old": b"GET /api/whole HTTP/1.0\r\nHost: h\r\n\r\n",
    "expecting": request("POST", "/api/whole", [("Expect", "100-continue")], b"12"),
    "not found": request("GET", "/api/status/404"),
    "no content": request("GET", "/api/status/204"),
    "not modified": request("GET", "/api/status/304"),
    "failing": request("GET", "/api/status/500"),
    "down": request("GET", "/api/down", [MINE]),
    "dots": request("GET", "/api/%2e%2e/hello", [MINE]),
    "own": request("GET", "/hello"),
    "batch": request("POST", "/api/batch", [JSON, MINE], batch(*ITEMS)),
    "streamed": request("POST", "/api/batch", [JSON, NDJSON, MINE], batch(*ITEMS, execution="sequential")),
    "not json": request("POST", "/api/batch", [JSON, MINE], b"{"),
    "described": request("GET", "/api/batch", [MINE]),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_answers_are_the_same(name: str, hosts: dict[str, Host]) -> None:
    """Status, end-to-end fields in their order, and body, in which the upstream tells every byte that it got."""
    method = REQUESTS[name].partition(b" ")[0].decode()
    seen = {kind: shape(parse(raw(host.server, REQUESTS[name]), method=method)) for kind, host in hosts.items()}
    if name == "old":
        code, fields, body = seen.pop("granian")
        longer = [(key, str(int(value) + 2)) if key == "content-length" else (key, value) for key, value in fields]
        assert (code, longer, body.replace(b"via: 1 ", b"via: 1.0 ")) == seen["uvicorn"]
    assert [kind for kind in seen if seen[kind] != seen["uvicorn"]] == []


def test_what_is_the_servers_own(hosts: dict[str, Host]) -> None:
    """What the documents say of each; where a new version does better, so should they."""
    longer = request("GET", "/api/whole", [("X-Long", "a" * 20_000)])
    fields = [request("GET", "/api/whole", [(f"X-{number}", "1") for number in range(count)]) for count in (98, 99)]
    trailing = request("PUT", "/api/whole", [("Transfer-Encoding", "chunked")]) + b"0\r\nX-Trailing: 1\r\n\r\n"
    absolute = b"GET http://h/api/whole HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    hostless = b"GET /api/whole HTTP/1.0\r\n\r\n"
    assert outcomes(hosts, longer.removesuffix(b"\r\n"), "hypercorn") == {"hypercorn": 431}
    assert outcomes(hosts, longer, "uvicorn", "granian") == {"uvicorn": 200, "granian": 200}
    assert outcomes(hosts, fields[0]) == {"uvicorn": 200, "hypercorn": 200, "granian": 200}
    assert outcomes(hosts, fields[1]) == {"uvicorn": 200, "hypercorn": 200, "granian": 431}
    assert outcomes(hosts, absolute) == {"uvicorn": 200, "hypercorn": 404, "granian": 200}
    assert outcomes(hosts, hostless) == {"uvicorn": 200, "hypercorn": 200, "granian": 400}
    assert [kind for kind in KINDS if b"x-trailing" in raw(hosts[kind].server, trailing)] == ["uvicorn"]


def outcomes(hosts: dict[str, Host], payload: bytes, *kinds: str) -> dict[str, int]:
    return {kind: parse(raw(hosts[kind].server, payload)).status for kind in kinds or KINDS}


# Step by step


@every_server
def test_an_upload_streams(kind: str, hosts: dict[str, Host]) -> None:
    """The first piece is with the upstream before the next one is sent."""
    gate = hosts[kind].behind.gate("upload")
    with Client(hosts[kind], "POST /api/upload?upload", "Transfer-Encoding: chunked") as client:
        client.send(b"3\r\nabc\r\n")
        assert gate.reached.wait(PATIENCE)
        client.send(b"3\r\ndef\r\n0\r\n\r\n")
        assert parse(client.rest()).body == b"abc"


@every_server
@pytest.mark.parametrize("play", ["download", "chunks"])
def test_a_download_streams(play: str, kind: str, hosts: dict[str, Host]) -> None:
    """The first half is with the client before the upstream makes the second."""
    with Client(hosts[kind], f"GET /api/{play}?{play}") as client:
        client.until(b"\r\n\r\n")
        client.until(HALF[-200:-100])
        hosts[kind].behind.gate(play).open()
        response = parse(client.rest())
    assert response.body == HALF + HALF
    assert response.header("content-length") == (str(2 * len(HALF)) if play == "download" else None)


@every_server
def test_events_pass_one_by_one(kind: str, hosts: dict[str, Host]) -> None:
    """Each event reaches the client before the next one is made."""
    with Client(hosts[kind], "GET /api/events?events") as client:
        for number in range(3):
            client.until(b"data: %d\n\n" % number)
            hosts[kind].behind.gate("events").open()
        response = parse(client.rest())
    assert (response.header("content-type"), response.body) == (
        "text/event-stream",
        b"data: 0\n\ndata: 1\n\ndata: 2\n\n",
    )


@every_server
def test_results_pass_one_by_one(kind: str, hosts: dict[str, Host]) -> None:
    """A streamed batch tells of an item while the other still runs."""
    body = batch({"path": "/api/late?streamed"}, {"path": "/api/status/200"})
    fields = ("Content-Type: application/json", "Accept: application/x-ndjson", f"Content-Length: {len(body)}")
    with Client(hosts[kind], "POST /api/batch", *fields) as client:
        client.send(body)
        client.until(b'"index":1,')
        assert hosts[kind].behind.gate("streamed").reached.wait(PATIENCE)
        hosts[kind].behind.gate("streamed").open()
        records = [json.loads(line) for line in parse(client.rest()).body.splitlines()]
    assert [record.get("index") for record in records] == [1, 0, None]
    assert (records[1]["body"], records[2]["summary"]["succeeded"]) == ("late", 2)


# Ends that come too early


@every_server
@pytest.mark.parametrize("play", ["cut/length", "cut/chunks"])
def test_what_breaks_off_is_not_made_whole(play: str, kind: str, hosts: dict[str, Host]) -> None:
    """Alone, the connection is cut, so that no client takes the part for all; as an item, it is told."""
    gate = hosts[kind].behind.gate(play)
    with Client(hosts[kind], f"GET /api/{play}?{play}") as client:
        client.until(b"begin")
        gate.open()
        with pytest.raises(Malformed):
            parse(client.rest())
    gate.open()
    answered = hosts[kind].ask("POST", "/api/batch", [JSON], batch({"path": f"/api/{play}?{play}"})).json()
    assert answered["responses"][0]["error"] == "truncated"


LEAVING = {
    "before an answer": ("GET /api/never?{}", b""),
    "in a batch": ("POST /api/batch", batch({"path": "/api/never?{}"})),
    "in a stream": ("POST /api/batch", batch({"path": "/api/status/200"}, {"path": "/api/never?{}"})),
    "in an answer": ("GET /api/endless?{}", b""),
}


@every_server
@pytest.mark.parametrize("when", LEAVING)
def test_a_client_that_leaves(when: str, kind: str, hosts: dict[str, Host]) -> None:
    """The upstream is cut off: nobody waits for the answer any more."""
    gate = hosts[kind].behind.gate(when.replace(" ", "-"))
    head, body = LEAVING[when]
    body = body.replace(b"{}", when.replace(" ", "-").encode())
    fields = ["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []
    fields += ["Accept: application/x-ndjson"] if when == "in a stream" else []
    with Client(hosts[kind], head.format(when.replace(" ", "-")), *fields) as client:
        client.send(body)
        if when == "in an answer":
            client.until(HALF[-200:-100])
        else:
            assert gate.reached.wait(PATIENCE)
        if when == "in a stream":
            client.until(b'"index":0')
    assert gate.left.wait(PATIENCE)


@every_server
def test_a_slow_reader_slows_the_upstream(kind: str, hosts: dict[str, Host]) -> None:
    """What a client does not take is not read from the upstream either."""
    gate = hosts[kind].behind.gate("slow")
    with Client(hosts[kind], "GET /api/endless?slow") as client:
        client.until(b"\r\n\r\n")
        assert at_rest(lambda: gate.written) < AT_MOST_HELD
    assert gate.left.wait(PATIENCE)


def at_rest(measure: Callable[[], int]) -> int:
    """The value once it stops changing."""
    last, calm = measure(), 0
    while calm < 30 and last < 2 * AT_MOST_HELD:
        time.sleep(0.01)
        calm = calm + 1 if measure() == last else 0
        last = measure()
    return last


# The lifespan


@every_server
def test_upstreams_live_as_long_as_the_lifespan(kind: str) -> None:
    """As the whole app, the proxy opens its upstreams at the start, unasked; their connections are closed before the
    lifespan ends, by an app around it as well."""
    with upstreams(2) as (behind, mounted), ExitStack() as running:
        alone = running.enter_context(hosting(kind, behind, form="alone"))
        inside = running.enter_context(hosting(kind, mounted))
        until(lambda: any(b"GET /started " in bytes(peer.received) for peer in behind.upstream.peers))
        for host, path in ((alone, "/status/200"), (inside, "/api/status/200")):
            assert host.ask("GET", path).body == b"as said"
            assert not all(peer.ended.is_set() for peer in host.behind.upstream.peers)
            host.stop()
        for host in (alone, inside):
            assert "Traceback" not in host.ended()
            assert host.behind.gate("").reached.is_set()
