"""Websockets through the proxy: handshakes byte for byte, messages both ways, ends on either side."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve as serve_websockets, unix_serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from batchproxy.engine.routing import Route, RouteTable
from batchproxy.proxy.app import ReverseProxy
from batchproxy.proxy.settings import TLS, Timeouts, Upstream

from .fronting import Front, beside, fronted, proxied, served
from .on_a_loop import on_a_loop
from .scripted import Peer, response, upstream

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def websockets(
    handler: Callable[[ServerConnection], Awaitable[None]] = echo,
    *,
    routes: list[Route] | None = None,
    settings: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    **more: Any,
) -> AsyncIterator[Front]:
    """The proxy in front of a server of the library's."""
    options: dict[str, Any] = {"compression": None, "close_timeout": 1, "max_size": None} | more
    async with serve_websockets(handler, "127.0.0.1", 0, **options) as behind:
        port = next(iter(behind.sockets)).getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        app = proxied({"api": Upstream(**{"url": url, **(settings or {})})}, routes or [Route(upstream="api")])
        async with beside(served(app, **(server or {}))) as front:
            yield front


def at(front: Front, path: str = "/ws") -> str:
    return f"ws://{front.server.host}:{front.server.port}{path}"


def connected(front: Front, path: str = "/ws", **more: Any) -> connect:
    return connect(at(front, path), **({"compression": None, "proxy": None, "max_size": None} | more))


@on_a_loop
async def test_messages_pass_both_ways() -> None:
    """Texts and bytes arrive as they were sent, in order, empty ones and large ones too."""
    async with websockets() as front, connected(front) as client:
        for message in ("", "ä", b"", b"\x00\xff", "x" * 1_000_000, bytes(2_000_000)):
            await client.send(message)
        for message in ("", "ä", b"", b"\x00\xff", "x" * 1_000_000, bytes(2_000_000)):
            assert await client.recv() == message


@on_a_loop
async def test_the_handshake_that_an_upstream_gets() -> None:
    """Path, query and end-to-end headers as they came, our own added; those of the handshake are of this hop."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.write(
            response(b"no", b"X-Why: because", b"Connection: X-Gone", b"X-Gone: 1", status=b"403 Forbidden")
        )

    route = Route(upstream="api", path="/api", strip_prefix=True, add_headers={"X-Key": "k"})
    async with fronted(script, routes=[route], prefix="/base") as front:
        given = {"X-A": "1", "Authorization": "secret", "X-Forwarded-For": "6.6.6.6", "Cookie": "a=b"}
        more: dict[str, Any] = {"origin": "https://page.test", "user_agent_header": "agent"}
        protocols = [Subprotocol("chat.v2"), Subprotocol("chat")]
        with pytest.raises(InvalidStatus) as refused:
            await connected(front, "/api/w%2Fs;a=b?x=%20&y", additional_headers=given, subprotocols=protocols, **more)
        answer = refused.value.response
        assert (answer.status_code, answer.body, answer.headers["X-Why"]) == (403, b"no", "because")
        assert "X-Gone" not in answer.headers
        lines = front.received().split(b"\r\n")
        host = f"{front.server.host}:{front.server.port}".encode()
        assert lines[0] == b"GET /base/w%2Fs;a=b?x=%20&y HTTP/1.1"
        names = [line.partition(b":")[0].lower() for line in lines[1:] if line]
        assert len(set(names)) == len(names)
        fields = dict(line.lower().split(b": ", 1) for line in lines[1:] if line)
        del fields[b"sec-websocket-key"]
        assert fields == {
            b"host": host,
            b"origin": b"https://page.test",
            b"upgrade": b"websocket",
            b"connection": b"upgrade",
            b"sec-websocket-version": b"13",
            b"sec-websocket-protocol": b"chat.v2, chat",
            b"user-agent": b"agent",
            b"x-a": b"1",
            b"authorization": b"secret",
            b"cookie": b"a=b",
            b"x-forwarded-for": b"127.0.0.1",
            b"x-forwarded-proto": b"http",
            b"x-forwarded-host": host,
            b"x-forwarded-port": host.partition(b":")[2],
            b"forwarded": b'for=127.0.0.1;host="' + host + b'";proto=http',
            b"via": b"1.1 batchproxy",
            b"cdn-loop": b"batchproxy",
            b"x-key": b"k",
        }


@on_a_loop
async def test_what_an_upstream_accepts_with() -> None:
    """The subprotocol that it chose and its headers reach the client."""

    def headers(_connection: ServerConnection, _request: Request, answer: Response) -> Response:
        answer.headers["Set-Cookie"] = "a=1"
        return answer

    protocols = [Subprotocol("b"), Subprotocol("a")]
    async with (
        websockets(subprotocols=[Subprotocol("a")], process_response=headers) as front,
        connected(front, subprotocols=protocols) as client,
    ):
        assert client.subprotocol == "a"
        assert client.response is not None
        assert client.response.headers["Set-Cookie"] == "a=1"


@pytest.mark.parametrize(("code", "arrives"), [(1000, 1000), (1001, 1001), (3000, 3000), (4321, 4321)])
@pytest.mark.parametrize("who", ["client", "upstream"])
def test_close_codes_pass(who: str, code: int, arrives: int) -> None:
    """Whoever closes first, the other side hears the same code and reason."""
    heard: list[Any] = []
    done = asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        if who == "upstream":
            await connection.close(code, "so it is")
            return
        await connection.wait_closed()
        heard.append((connection.close_code, connection.close_reason))
        done.set()

    @on_a_loop
    async def check() -> None:
        async with websockets(handler) as front, connected(front) as client:
            if who == "client":
                await client.close(code, "so it is")
                await done.wait()
            else:
                with pytest.raises(ConnectionClosed) as closed:
                    await client.recv()
                assert closed.value.rcvd is not None
                heard.append((closed.value.rcvd.code, closed.value.rcvd.reason))
            assert heard == [(arrives, "so it is")]

    check()


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_a_side_that_vanishes(who: str) -> None:
    """When one side is cut off, the other one is closed, with a code that says so."""
    closed = asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        if who == "upstream":
            connection.transport.abort()
        await connection.wait_closed()
        closed.set()

    @on_a_loop
    async def check() -> None:
        async with websockets(handler) as front, connected(front) as client:
            await client.send("begin")
            if who == "client":
                client.transport.abort()
                await closed.wait()
            else:
                with pytest.raises(ConnectionClosed) as ended:
                    await client.recv()
                assert ended.value.rcvd is not None
                assert ended.value.rcvd.code == 1014

    check()


@on_a_loop
async def test_redirects_are_for_the_client() -> None:
    """An upstream that answers with a redirect is not left for another one."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.write(response(b"", b"Location: /elsewhere", status=b"302 Found"))

    async with fronted(script) as front:
        reader, writer = await asyncio.open_connection(front.server.host, front.server.port)
        lines = [
            "GET /ws HTTP/1.1",
            "Host: h",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
        ]
        writer.write("\r\n".join([*lines, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""]).encode())
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert data.startswith(b"HTTP/1.1 302 ")
        assert b"/elsewhere" in data
        assert len(front.upstream.peers) == 1


async def hang_up(peer: Peer) -> None:
    await peer.head()


async def garbage(peer: Peer) -> None:
    await peer.head()
    await peer.write(b"SSH-2.0-OpenSSH\r\n\r\n")


async def not_a_websocket(peer: Peer) -> None:
    await peer.head()
    await peer.write(SWITCH + b"Sec-WebSocket-Accept: wrong\r\n\r\n")


async def silent(peer: Peer) -> None:
    await peer.head()
    await peer.rest()


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (hang_up, 502, "unreachable"),
        (garbage, 502, "bad_response"),
        (not_a_websocket, 502, "bad_response"),
        (silent, 504, "timeout"),
    ],
)
def test_upstreams_that_do_not_shake_hands(script: Any, status: int, code: str) -> None:
    """The client gets the same problem documents as for any other request."""

    @on_a_loop
    async def check() -> None:
        timeouts = Timeouts(connect=0.3, first_byte=0.2) if script is silent else Timeouts(first_byte=60)
        async with fronted(script, timeouts=timeouts) as front:
            with pytest.raises(InvalidStatus) as refused:
                await connected(front)
            answer = refused.value.response
            assert answer.status_code == status
            assert f'"code":"{code}"'.encode() in (answer.body or b"")

    check()


@on_a_loop
async def test_routes_judge_handshakes() -> None:
    """A handshake is a GET to the rules of a route."""
    routes = [
        Route(upstream="api", path="/a", deny=["GET /a/secret"]),
        Route(upstream="api", path="/b", methods=["POST"]),
    ]
    async with websockets(routes=routes) as front:
        for path, status in (("/a/secret", 403), ("/b", 405), ("/c", 404)):
            with pytest.raises(InvalidStatus) as refused:
                await connected(front, path)
            assert refused.value.response.status_code == status
        async with connected(front, "/a/public") as client:
            await client.send("hello")
            assert await client.recv() == "hello"


@on_a_loop
async def test_messages_over_the_limit() -> None:
    """A message that is larger than the route takes, in either direction, ends the connection with 1009."""

    async def large(connection: ServerConnection) -> None:
        if connection.request is not None and connection.request.path == "/down":
            await connection.send("x" * 1001)
        async for _ in connection:
            raise AssertionError

    routes = [Route(upstream="api", max_request_bytes=1000, max_response_bytes=1000)]
    async with websockets(large, routes=routes) as front:
        for path in ("/up", "/down"):
            async with connected(front, path) as client:
                if path == "/up":
                    await client.send("x" * 1001)
                with pytest.raises(ConnectionClosed) as ended:
                    await client.recv()
                assert ended.value.rcvd is not None
                assert ended.value.rcvd.code == 1009


@on_a_loop
async def test_a_connection_on_which_nothing_is_said_is_closed() -> None:
    """The idle deadline ends it, on both sides."""
    closed = asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closed.set()

    async with websockets(handler, settings={"timeouts": Timeouts(idle=0.3)}) as front, connected(front) as client:
        with pytest.raises(ConnectionClosed) as ended:
            await client.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1001
        await closed.wait()


@on_a_loop
async def test_a_server_that_stops_tells_both_sides() -> None:
    """At shutdown neither side is left waiting."""
    codes: list[int | None] = []

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()
        codes.append(connection.close_code)

    async with websockets(handler) as front:
        client = await connected(front)
    await client.wait_closed()
    assert client.close_code == 1012
    assert codes == [1012]


@on_a_loop
async def test_an_upstream_on_a_unix_socket(tmp_path: Path) -> None:
    """An upstream may listen on a unix socket."""
    path = str(tmp_path / "ws.sock")
    async with unix_serve(echo, path, compression=None):
        with served(proxied({"api": Upstream(url=f"unix:{path}")}, [Route(upstream="api")])) as front:
            async with connected(front) as client:
                await client.send("hello")
                assert await client.recv() == "hello"


@on_a_loop
async def test_an_upstream_over_tls(tmp_path: Path) -> None:
    """The certificate is proved as for any other request; a wrong one is `unreachable`."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("up.test").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with serve_websockets(echo, "127.0.0.1", 0, ssl=context, compression=None) as behind:
        url = f"https://127.0.0.1:{next(iter(behind.sockets)).getsockname()[1]}"
        for name, works in (("up.test", True), ("other.test", False)):
            tls = TLS(ca=str(tmp_path / "ca.pem"), server_name=name)
            with served(proxied({"api": Upstream(url=url, tls=tls)}, [Route(upstream="api")])) as front:
                if works:
                    async with connected(front) as client:
                        await client.send("hello")
                        assert await client.recv() == "hello"
                    continue
                with pytest.raises(InvalidStatus) as refused:
                    await connected(front)
                assert b'"code":"unreachable"' in (refused.value.response.body or b"")


@on_a_loop
async def test_a_client_that_leaves_while_the_upstream_thinks() -> None:
    """The upstream's handshake is given up with the client's."""
    async with fronted(silent) as front:
        opening = asyncio.create_task(connected(front).__aenter__())
        while not (front.upstream.peers and front.received()):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        await front.upstream.peers[0].ended.wait()


@pytest.mark.parametrize("answer", [response(b"no", status=b"403 Forbidden"), b"no"])
def test_a_server_that_cannot_answer_a_handshake(answer: bytes) -> None:
    """Without the extension for it, a refusal is a plain one."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.write(answer + b"\r\n\r\n")

    @on_a_loop
    async def check() -> None:
        async with upstream(script) as behind:
            app = ReverseProxy(RouteTable([Route(upstream="api")]), {"api": Upstream(url=behind.url)})
            sent: list[Any] = []
            left = [{"type": "websocket.connect"}]

            async def receive() -> Any:
                return left.pop() if left else await asyncio.get_running_loop().create_future()

            async def send(message: Any) -> None:
                sent.append(message)

            scope: dict[str, Any] = {"type": "websocket", "http_version": "1.1", "scheme": "ws", "path": "/x"}
            scope |= {"query_string": b"", "headers": [(b"host", b"h")], "client": ("192.0.2.1", 1)}
            await app(scope, receive, send)
            assert [each["type"] for each in sent] == ["websocket.close"]
            await app(scope, receive_nothing, send)
            assert len(sent) == 1
            await app.aclose()

    check()


async def receive_nothing() -> Any:
    return {"type": "websocket.disconnect", "code": 1006}


@on_a_loop
async def test_many_at_once() -> None:
    """Connections do not disturb each other."""

    async def talk(front: Front, number: int) -> None:
        async with connected(front) as client:
            for count in range(20):
                await client.send(f"{number} {count}")
                assert await client.recv() == f"{number} {count}"

    async with websockets() as front:
        await asyncio.gather(*(talk(front, number) for number in range(20)))
