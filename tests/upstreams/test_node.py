"""Node's HTTP server as the upstream: chunks, trailers, interim answers, events, upgrades, and connections that end."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.equivalence.comparing import PARALLEL, WAYS, Case, binary, in_batch, text
from tests.programs import program, serving
from tests.serving import PATIENCE, Server, ask, parse, raw, request as written
from tests.upstreams.thrice import FRONTS, differences

SCRIPT = Path(__file__).with_name("server.mjs")

CASES = [
    Case("a length", "GET", "/length"),
    Case("only the head", "HEAD", "/length"),
    Case("chunks", "GET", "/chunked"),
    Case("trailers", "GET", "/trailers"),
    Case("interim answers", "GET", "/early"),
    Case("events that end", "GET", "/events"),
    Case("three cookies", "GET", "/cookies"),
    Case("a header twice, one empty, one in Latin-1", "GET", "/headers"),
    Case("a status without a name", "GET", "/phrase", 299),
    Case("no content", "GET", "/empty", 204),
    Case("not modified", "GET", "/unchanged", 304),
    Case("nothing there", "GET", "/not/there", 404),
    Case("path and query as written", "POST", "/upload?a=%2f&&b=[1]&c=;", body=text("x")),
    *(
        Case(f"{method} with a body", method, "/upload", body=binary(bytes(range(256)) * 100))
        for method in ("POST", "PUT", "PATCH", "DELETE")
    ),
    Case("a body of nothing", "POST", "/upload", body=binary(b"")),
    Case("no body", "POST", "/upload"),
    Case("options", "OPTIONS", "/upload"),
]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Server]:
    path = program("node")
    with serving(lambda listener: [path, SCRIPT, str(listener.fileno())]) as server:
        yield server


@pytest.fixture(scope="module", params=FRONTS)
def proxy(request: pytest.FixtureRequest, upstream: Server) -> Iterator[Server]:
    with FRONTS[request.param](upstream) as server:
        yield server


def test_three_ways_give_one_answer(upstream: Server, proxy: Server) -> None:
    """Directly, alone through the proxy and in a batch, Node's answers are the same."""
    assert differences(upstream, proxy, CASES) == []


def test_idle_connections_that_end_cost_no_answer(proxy: Server) -> None:
    """Node closes what is idle for a moment; requests that meet such a connection are answered all the same."""
    for number in range(30):
        entries = in_batch(proxy, PARALLEL, [Case("again", "GET", f"/idle?{number}.{item}") for item in range(8)])
        assert {entry.status for entry in entries} == {200}
        assert ask(proxy, "GET", "/length").status == 200


def test_events_arrive_while_the_answer_goes_on(upstream: Server, proxy: Server) -> None:
    """The first event of a stream is at the client before the upstream knows the second."""
    with closing(socket.create_connection((proxy.host, proxy.port), timeout=PATIENCE)) as connection:
        connection.sendall(written("GET", "/held"))
        received = b""
        while b"data: first" not in received:
            received += connection.recv(65536)
        assert b"last" not in received
        assert ask(upstream, "GET", "/release").body == b"1"
        while piece := connection.recv(65536):
            received += piece
    assert parse(received).body == b"data: first\n\ndata: last\n\n"


def test_a_client_that_leaves_a_stream_ends_it_upstream(upstream: Server, proxy: Server) -> None:
    """When a client goes away in the middle of a stream, the upstream's side of it ends too."""
    with closing(socket.create_connection((proxy.host, proxy.port), timeout=PATIENCE)) as connection:
        connection.sendall(written("GET", "/held"))
        received = b""
        while b"data: first" not in received:
            received += connection.recv(65536)
    while ask(upstream, "GET", "/release").body != b"0":
        pass


@pytest.mark.parametrize("path", ["/reset", "/nonsense"])
def test_no_answer_is_a_bad_gateway(proxy: Server, path: str) -> None:
    """A connection that is reset or answers nonsense is 502, alone and in a batch, and hurts nobody else."""
    assert ask(proxy, "GET", path).status == 502
    for way in WAYS:
        bad, good = in_batch(proxy, way, [Case("bad", "GET", path), Case("good", "GET", "/length")])
        assert (bad.status, good.status) == (502, 200)
        assert bad.error in ("unreachable", "bad_response")


@pytest.mark.parametrize("path", ["/broken", "/torn"])
def test_half_an_answer_is_never_a_success(proxy: Server, path: str) -> None:
    """A body that ends early is `truncated` in a batch; alone, the client's connection breaks off as well."""
    for way in WAYS:
        bad, good = in_batch(proxy, way, [Case("bad", "GET", path), Case("good", "GET", "/length")])
        assert (bad.status, bad.error, good.status) == (502, "truncated", 200)
    answer = raw(proxy, written("GET", path))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert not answer.endswith(b"\r\n0\r\n\r\n")


def test_interim_answers_are_swallowed(proxy: Server) -> None:
    """The client of the proxy sees the one final answer."""
    answer = raw(proxy, written("GET", "/early"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_large_upload_arrives_whole(proxy: Server) -> None:
    """Thirty-two megabytes in chunks are what the upstream reads."""
    sent = os.urandom(1024 * 1024)
    head = b"POST /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = (b"%x\r\n%b\r\n" % (len(sent), sent)) * 32 + b"0\r\n\r\n"
    answer = parse(raw(proxy, head + chunks)).json()
    assert answer["length"] == len(sent) * 32
    assert answer["sha256"] == hashlib.sha256(sent * 32).hexdigest()


def test_an_answer_may_come_before_the_body_was_read(proxy: Server) -> None:
    """An upstream that refuses an upload and closes is heard, though the upload cannot be finished."""
    answer = ask(proxy, "POST", "/refused", body=b"x" * 8_000_000)
    assert answer.status in (413, 502)
    (entry,) = in_batch(proxy, PARALLEL, [Case("refused", "POST", "/refused", body=binary(b"x" * 1000))])
    assert (entry.status, entry.raw_body()) == (413, b"too large")


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0"])
def test_no_upgrade_goes_through(proxy: Server, protocol: str) -> None:
    """An upstream that knows no upgrade is not talked into one; the client never gets a 101."""
    headers = [
        *[("Upgrade", protocol), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Version", "13")],
        ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
    ]
    lines = [f"{name}: {value}" for name, value in headers]
    asked = "\r\n".join(["GET /length HTTP/1.1", "Host: x", "Connection: Upgrade, HTTP2-Settings", *lines, "", ""])
    with closing(socket.create_connection((proxy.host, proxy.port), timeout=PATIENCE)) as connection:
        connection.sendall(asked.encode())
        assert not connection.recv(65536).startswith(b"HTTP/1.1 101")
