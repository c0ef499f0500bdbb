"""httpx's transports in the place of our own: the same bytes, the same failures; and HTTP/2 with a real nginx."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from batchproxy.engine.errors import SettingError
from batchproxy.proxy.addresses import located
from batchproxy.proxy.settings import TLS, Retry, Timeouts, Upstream
from batchproxy.proxy.transports import Outgoing, Sent, UpstreamError
from batchproxy.proxy.transports.choice import make
from batchproxy.proxy.transports.httpx import HttpxTransport
from batchproxy.proxy.transports.native import NativeTransport
from batchproxy.proxy.upstream import LiveUpstream

from . import nginx as real
from .on_a_loop import on_a_loop
from .scripted import Peer, answering, response, upstream

SOON = 0.2


def transport(url: str, **settings: Any) -> HttpxTransport:
    made = make(Upstream(url=url, transport=settings.pop("transport", "httpx"), **settings), located(url))
    assert isinstance(made, HttpxTransport)
    return made


def get(target: bytes = b"/", *headers: tuple[bytes, bytes], method: str = "GET", **more: Any) -> Outgoing:
    return Outgoing(method, target, [(b"host", b"h"), *headers], **more)


async def whole(pool: HttpxTransport, request: Outgoing) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    answer = await pool.send(request)
    pieces = []
    try:
        while piece := await answer.read():
            pieces.append(piece)
    finally:
        answer.close()
    return answer.status, answer.headers, b"".join(pieces)


async def failing(pool: HttpxTransport, request: Outgoing) -> UpstreamError:
    with pytest.raises(UpstreamError) as error:
        await whole(pool, request)
    await pool.aclose()
    return error.value


def known(error: UpstreamError) -> tuple[str, Sent, bool]:
    return error.reason.name, error.sent, error.answered


# Bytes


@on_a_loop
async def test_the_request_is_written_as_it_is() -> None:
    """Path, names and values go out byte for byte; only framing is added, and nothing of httpx's own."""
    fields = [(b"x-B", b"\xff \xc3\xbc"), (b"cookie", b"a=1"), (b"x-a", b"1"), (b"x-a", b"2")]
    async with upstream() as server:
        pool = transport(server.url)
        await whole(pool, get(b"//a/%2e%2f/.;x/\"<>[]|'?q=%zz&&", *fields))
        await whole(pool, get(b"/", method="POST", body=b"abc"))
        await whole(pool, get(b"/", method="POST"))
        await whole(pool, get(b"*", method="OPTIONS"))
        await pool.aclose()
        (peer,) = server.peers
        assert bytes(peer.received) == (
            b"GET //a/%2e%2f/.;x/\"<>[]|'?q=%zz&& HTTP/1.1\r\nhost: h\r\nx-B: \xff \xc3\xbc\r\ncookie: a=1\r\n"
            b"x-a: 1\r\nx-a: 2\r\n\r\n"
            b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc"
            b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"
            b"OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n"
        )


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for each in given:
        yield each


@on_a_loop
async def test_a_body_in_pieces() -> None:
    """Chunked, or by the length that is known."""

    async def script(peer: Peer) -> None:
        await peer.until(b"0\r\n\r\n")
        await peer.write(response())
        await peer.request()
        await peer.write(response())
        await peer.rest()

    async with upstream(script) as server:
        pool = transport(server.url)
        await whole(pool, get(method="PUT", body=pieces(b"ab", b"", b"c")))
        await whole(pool, get(method="PUT", body=pieces(b"ab", b"c"), length=3))
        await pool.aclose()
        assert bytes(server.peers[0].received) == (
            b"PUT / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
            b"PUT / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc"
        )


@on_a_loop
async def test_a_body_of_the_wrong_length_is_our_mistake() -> None:
    """It says nothing about the upstream."""
    async with upstream() as server:
        pool = transport(server.url)
        for given in ((b"ab",), (b"ab", b"cd")):
            with pytest.raises(ValueError, match="its declared length"):
                await whole(pool, get(method="PUT", body=pieces(*given), length=3))
        await pool.aclose()


@on_a_loop
async def test_the_answer_comes_as_it_is() -> None:
    """Not decoded, not followed, nothing kept; names in lower case, values byte for byte."""
    packed = gzip.compress(b"x" * 1000)
    answer = response(
        packed,
        b"Content-Encoding: gzip",
        b"Set-Cookie: a=1; Path=/",
        b"SET-COOKIE: b=\xff",
        b"Location:  /elsewhere ",
        status=b"302 Found",
    )
    async with upstream(answering(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + answer)) as server:
        pool = transport(server.url)
        status, headers, body = await whole(pool, get())
        assert (status, body) == (302, packed)
        assert headers == [
            (b"content-encoding", b"gzip"),
            (b"set-cookie", b"a=1; Path=/"),
            (b"set-cookie", b"b=\xff"),
            (b"location", b"/elsewhere"),
            (b"content-length", b"%d" % len(packed)),
        ]
        await whole(pool, get())
        await pool.aclose()
        assert b"cookie" not in bytes(server.peers[0].received)
        assert len(server.peers) == 1


@pytest.mark.parametrize(
    ("method", "answer", "body"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n", b""),
        ("GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc"),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
    ],
)
def test_framing_of_answers(method: str, answer: bytes, body: bytes) -> None:
    """Whatever ends the body, it is read to its end."""

    @on_a_loop
    async def run() -> None:
        async with upstream(answering(answer, then_close=True)) as server:
            pool = transport(server.url)
            assert (await whole(pool, get(method=method)))[2] == body
            await pool.aclose()

    run()


@on_a_loop
async def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy is taken from it."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with upstream() as server:
        pool = transport(server.url)
        assert (await whole(pool, get()))[0] == 200
        await pool.aclose()


@on_a_loop
async def test_unix_sockets(tmp_path: Path) -> None:
    """An address may be one."""
    path = str(tmp_path / "up.sock")
    async with upstream(path=path) as server:
        pool = transport(f"unix:{path}")
        assert (await whole(pool, get(b"/x")))[2] == b"ok"
        await pool.aclose()
        assert bytes(server.peers[0].received).startswith(b"GET /x HTTP/1.1\r\nhost: h\r\n")


# Connections


@on_a_loop
async def test_a_connection_is_used_again() -> None:
    """If its answer was read to the end; one that was given up is cut."""
    async with upstream(answering(response(b"x" * 10))) as server:
        pool = transport(server.url)
        for _ in range(3):
            await whole(pool, get())
        assert len(server.peers) == 1
        answer = await pool.send(get())
        answer.close()
        answer.close()
        await server.peers[0].ended.wait()
        assert await answer.read() == b""
        await whole(pool, get())
        assert len(server.peers) == 2
        await pool.aclose()
        await server.peers[1].ended.wait()


@on_a_loop
async def test_a_cancelled_request_cuts_its_connection() -> None:
    """While the head is waited for, and while the body is."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if len(server.peers) == 2:
            await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")
        arrived.set()
        await peer.rest()

    async with upstream(script) as server:
        pool = transport(server.url)
        for _ in range(2):
            arrived = asyncio.Event()
            task = asyncio.create_task(whole(pool, get()))
            await arrived.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await server.peers[-1].ended.wait()
        await pool.aclose()
        assert repr(pool) == f"HttpxTransport({server.url}, running=0, closing=0)"


@on_a_loop
async def test_after_expire_no_connection_of_before_is_used() -> None:
    """What runs goes on, and is closed at its end."""
    async with upstream() as server:
        pool = transport(server.url)
        await whole(pool, get())
        pool.expire()
        await server.peers[0].ended.wait()
        answer = await pool.send(get())
        pool.expire()
        await whole(pool, get())
        assert await answer.read() == b"ok"
        assert await answer.read() == b""
        await server.peers[1].ended.wait()
        assert len(server.peers) == 3
        await pool.aclose()


# Failures


@on_a_loop
async def test_nobody_listens() -> None:
    """Nothing was sent."""
    with real.unused_port() as port:
        error = await failing(transport(f"http://127.0.0.1:{port}"), get())
    assert known(error) == ("connect-failure", Sent.NOTHING, False)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", ("reset-before-response", Sent.ALL, False)),
        (b"nonsense\r\n\r\n", ("bad-response", Sent.ALL, True)),
        # httpx does not tell a part of a head from nothing.
        (b"HTTP/1.1 200 OK\r\nx: ", ("reset-before-response", Sent.ALL, False)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na", ("bad-response", Sent.ALL, True)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc", ("truncated", Sent.ALL, True)),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc", ("truncated", Sent.ALL, True)),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 2000 + b"\r\n\r\n", ("bad-response", Sent.ALL, True)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n", ("response-too-large", Sent.ALL, True)),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * 101, ("response-too-large", Sent.ALL, True)),
        (b"HTTP/1.1 101 Other\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", ("bad-response", Sent.ALL, True)),
        (b"HTTP/1.1 600 What\r\ncontent-length: 0\r\n\r\n", ("bad-response", Sent.ALL, True)),
    ],
)
def test_answers_that_are_none(answer: bytes, expected: tuple[str, Sent, bool]) -> None:
    """Each kind of broken answer is told apart, and what is known of it is right."""

    @on_a_loop
    async def run() -> None:
        async with upstream(answering(answer, then_close=True)) as server:
            pool = transport(server.url, max_response_header_bytes=1000, max_response_bytes=100)
            assert known(await failing(pool, get())) == expected

    run()


@on_a_loop
async def test_resets() -> None:
    """Before the answer, and inside it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if len(server.peers) == 2:
            await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")
            await asked.wait()
        peer.reset()

    asked = asyncio.Event()
    async with upstream(script) as server:
        pool = transport(server.url)
        with pytest.raises(UpstreamError) as error:
            await pool.send(get())
        assert known(error.value) == ("reset-before-response", Sent.ALL, False)
        answer = await pool.send(get())
        assert await answer.read() == b"ab"
        asked.set()
        with pytest.raises(UpstreamError) as error:
            await answer.read()
        assert known(error.value) == ("truncated", Sent.ALL, True)
        await pool.aclose()


@pytest.mark.parametrize(
    ("start", "timeouts", "deadline", "expected"),
    [
        (b"", Timeouts(first_byte=SOON), None, "first-byte-timeout"),
        (b"", Timeouts(), SOON, "total-timeout"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", Timeouts(idle=SOON), None, "idle-timeout"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", Timeouts(), SOON, "total-timeout"),
    ],
)
def test_deadlines(start: bytes, timeouts: Timeouts, deadline: float | None, expected: str) -> None:
    """For the head, between two pieces, and for the whole exchange."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(start)
        await peer.rest()

    @on_a_loop
    async def run() -> None:
        async with upstream(script) as server:
            pool = transport(server.url, timeouts=timeouts)
            limit = None if deadline is None else asyncio.get_running_loop().time() + deadline
            error = await failing(pool, get(deadline=limit))
            assert error.reason.name == expected
            await server.peers[0].ended.wait()

    run()


@on_a_loop
async def test_a_transport_without_deadlines_gets_ours() -> None:
    """What the head may take at most is kept around it."""
    pool = transport("http://h", transport=f"{__name__}:Silent", timeouts=Timeouts(connect=SOON, first_byte=SOON))
    assert (await failing(pool, get())).reason.name == "first-byte-timeout"


@on_a_loop
async def test_a_server_that_proves_nothing_gets_nothing(tmp_path: Path) -> None:
    """Its certificate is checked against the bundle, and its name."""
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    context = _server_context(authority)
    async with upstream(tls=context) as server:
        url = f"https://localhost:{server.port}"
        for tls in (TLS(), TLS(ca=str(tmp_path / "other.pem")), TLS(ca=str(tmp_path / "ca.pem"), server_name="else")):
            error = await failing(transport(url, tls=tls), get())
            assert known(error) == ("tls-failure", Sent.NOTHING, False)
        pool = transport(
            f"https://127.0.0.1:{server.port}", tls=TLS(ca=str(tmp_path / "ca.pem"), server_name="localhost")
        )
        assert (await whole(pool, get()))[0] == 200
        await pool.aclose()


def _server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


# The choice


class Silent(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.get_running_loop().create_future()
        raise AssertionError


def mocked() -> httpx.AsyncBaseTransport:
    return httpx.MockTransport(lambda request: httpx.Response(201, content=request.url.raw_path))


class Broken(httpx.AsyncBaseTransport):
    def __init__(self, fault: Exception) -> None:
        self._fault = fault

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise self._fault

    async def aclose(self) -> None:
        raise self._fault


NOT_A_FUNCTION = "x"


def no_transport() -> str:
    return "x"


@on_a_loop
async def test_a_transport_of_somebody_else() -> None:
    """`package.module:factory` gives any httpx transport, which reads the URL."""
    pool = transport("http://h", transport=f"{__name__}:mocked")
    assert await whole(pool, get(b"/x%2Fy?z=1")) == (201, [(b"content-length", b"10")], b"/x%2Fy?z=1")
    await pool.aclose()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (httpx.ConnectTimeout("x"), "connect-timeout"),
        (httpx.ReadTimeout("x"), "first-byte-timeout"),
        (httpx.WriteTimeout("x"), "idle-timeout"),
        (httpx.PoolTimeout("x"), "overloaded"),
        (httpx.ConnectError("x"), "connect-failure"),
        (httpx.UnsupportedProtocol("x"), "connect-failure"),
        (httpx.RemoteProtocolError("x"), "bad-response"),
        (ConnectionResetError("x"), "connect-failure"),
    ],
)
def test_faults_of_somebody_else(fault: Exception, expected: str) -> None:
    """Each of httpx's exceptions has a reason; what cannot be closed does no harm."""

    @on_a_loop
    async def run() -> None:
        pool = HttpxTransport(located("http://h"), Upstream(url="http://h"), factory=lambda: Broken(fault))
        with pytest.raises(UpstreamError) as error:
            await pool.send(get())
        assert error.value.reason.name == expected
        pool.expire()

    run()


@on_a_loop
async def test_a_request_that_httpx_refuses_is_our_mistake() -> None:
    """It says nothing about the upstream."""
    fault = httpx.LocalProtocolError("x")
    pool = HttpxTransport(located("http://h"), Upstream(url="http://h"), factory=lambda: Broken(fault))
    with pytest.raises(ValueError, match="cannot be sent"):
        await pool.send(get())


def test_transports_that_are_not_there() -> None:
    """Told when the upstream is made."""
    for name, expected in (
        ("nothing.of.the:kind", "No module named"),
        (f"{__name__}:nothing", "has no attribute"),
        (f"{__name__}:NOT_A_FUNCTION", "expected a function"),
        (f"{__name__}:no_transport", "expected it to make"),
    ):
        with pytest.raises(SettingError, match=expected):
            transport("http://h", transport=name)


@on_a_loop
async def test_the_choice() -> None:
    """Native unless something else is asked for; the prefix is nobody's business here."""
    made = make(Upstream(url="http://h/api"), located("http://h/api"))
    assert isinstance(made, NativeTransport)
    assert "http://h, " in repr(made)
    await made.aclose()


# HTTP/2


@pytest.fixture(scope="module")
def server() -> Iterator[real.Nginx]:
    with real.nginx({"big": b"0123456789abcdef" * 65536}) as running:
        yield running


needs_nginx = pytest.mark.skipif(real.PROGRAM is None, reason="nginx is not installed")


@needs_nginx
def test_http2_is_spoken(server: real.Nginx) -> None:
    """Over TLS by negotiation; target, `Host` and fields arrive as they were given."""

    @on_a_loop
    async def run() -> None:
        pool = transport(server.url, tls=TLS(ca=server.ca), http2=True)
        request = Outgoing("POST", b"//a%2Fb/x?y=%C3%BC", [(b"host", b"api.example"), (b"x", b"1")], body=b"abc")
        status, headers, body = await whole(pool, request)
        assert (status, dict(headers)[b"x-protocol"]) == (200, b"HTTP/2.0")
        assert body == b"POST //a%2Fb/x?y=%C3%BC host=api.example length=3 x=1"
        await pool.aclose()

    run()


@needs_nginx
def test_without_http2_it_is_http1(server: real.Nginx) -> None:
    """It is a setting, and off by default."""

    @on_a_loop
    async def run() -> None:
        pool = transport(server.url, tls=TLS(ca=server.ca))
        assert dict((await whole(pool, get()))[1])[b"x-protocol"] == b"HTTP/1.1"
        await pool.aclose()

    run()


@needs_nginx
def test_http2_without_tls(server: real.Nginx) -> None:
    """Where nothing can be negotiated, it is spoken from the first byte."""

    @on_a_loop
    async def run() -> None:
        pool = transport(f"unix:{server.folder}/plain.sock", http2=True)
        assert dict((await whole(pool, get()))[1])[b"x-protocol"] == b"HTTP/2.0"
        await pool.aclose()

    run()


@needs_nginx
def test_many_exchanges_over_http2(server: real.Nginx) -> None:
    """At the same time, large and small, none and given up; all of them are right, and nothing is held at the end."""

    @on_a_loop
    async def run() -> None:
        settings = Upstream(url=server.url, tls=TLS(ca=server.ca), transport="httpx", http2=True)
        live = LiveUpstream("up", settings)

        async def one(number: int) -> None:
            target = [b"/files/big", b"/none", b"/x", b"/files/big"][number % 4]
            answer = await live.send(get(target))
            if number % 4 == 3:
                answer.close()
                return
            size = 0
            while piece := await answer.read():
                size += len(piece)
            assert answer.status == (204 if number % 4 == 1 else 200)
            assert size == [1 << 20, 0, size][number % 4]

        await asyncio.gather(*map(one, range(40)))
        assert live.state()["in_flight"] == 0
        await live.aclose()

    run()


@needs_nginx
def test_an_upstream_over_http2_is_retried_too(server: real.Nginx) -> None:
    """A stream that ends without an answer is a reset before a response."""

    @on_a_loop
    async def run() -> None:
        settings = Upstream(
            url=server.url, tls=TLS(ca=server.ca), transport="httpx", http2=True, retry=Retry(backoff=0)
        )
        live = LiveUpstream("up", settings)
        notes: dict[str, Any] = {}
        with pytest.raises(UpstreamError) as error:
            await live.send(get(b"/cut"), notes=notes)
        assert known(error.value) == ("reset-before-response", Sent.ALL, False)
        assert notes["attempts"] == 2
        await live.aclose()

    run()
