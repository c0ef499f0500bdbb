"""Connections of clients, byte by byte: beyond the limit, without HTTP, of HTTP/1.0, and after an answer."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.test_ending_under_load import Held, held, rest
from tests.faults.whole import Whole, whole
from tests.proxy.scripted import response
from tests.serving import PATIENCE, parse, request

CONFIG = """
server: {{watch: false, max_connections: 1, keep_alive: {keep_alive}, header_timeout: 30s}}
upstreams: {{api: {{url: '{url}'}}}}
routes: [{{path: /, upstream: api}}, {{path: /refused, upstream: api, allow: ["/nothing"]}}]
"""
HANDSHAKE = [
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
]


@pytest.fixture
def behind() -> Iterator[Held]:
    with held() as found:
        yield found


@pytest.fixture
def running(behind: Held, tmp_path: Path) -> Iterator[Whole]:
    with whole(tmp_path, CONFIG.format(url=behind.url, keep_alive="30s")) as found:
        yield found


def line(running: Whole, **wanted: object) -> dict[str, object]:
    """The line of the access log that says so, when the process has ended."""
    running.process.terminate()
    running.ended()
    (found,) = (each for each in running.lines if wanted.items() <= each.items())
    return found


# Beyond the limit


@pytest.mark.parametrize("headers", [[], HANDSHAKE], ids=["request", "websocket"])
def test_who_comes_beyond_the_limit_is_told_and_logged(
    headers: list[tuple[str, str]], behind: Held, running: Whole
) -> None:
    """As many as the setting says are served; the next is answered 503, with a line that says why."""
    first = behind.sends(running.server, request("GET", "/first"))
    source = behind.takes()
    asked = request("GET", "/beyond", headers)
    if headers:
        asked = asked.replace(b"Connection: close", b"Connection: Upgrade")
    answer = parse(rest(behind.sends(running.server, asked)))
    assert (answer.status, answer.json()["code"], answer.header("retry-after")) == (503, "overloaded", "1")
    source.sendall(response(b"first"))
    assert parse(rest(first)).body == b"first"
    found = line(running, flags="OM")
    assert (found["url.path"], found["http.response.status_code"], found["code"]) == ("/beyond", 503, "overloaded")


def test_requests_of_one_connection_count_once(behind: Held, running: Whole) -> None:
    """Pipelined ones are within the limit, though the first may still be tidying up."""
    client = behind.sends(running.server, b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n" + request("GET", "/2"))
    for _ in range(2):
        behind.takes().sendall(response(b"ok", b"connection: close"))
    assert rest(client).count(b" 200 ") == 2


# No HTTP


def test_what_is_no_http_has_a_line(behind: Held, running: Whole) -> None:
    """Without a method or a path, for there is none."""
    assert parse(rest(behind.sends(running.server, b"\x16\x03\x01\x02\x00\r\n\r\n"))).status == 400
    found = line(running, flags="DPE")
    assert (found["http.response.status_code"], found["client.address"]) == (400, "127.0.0.1")
    assert found["request_id"]
    assert "url.path" not in found


def test_who_does_not_finish_a_head_is_told_and_logged(behind: Held, tmp_path: Path) -> None:
    """Of whichever request of a connection it is; one that says nothing at all is closed without a word."""
    config = CONFIG.format(url=behind.url, keep_alive="30s").replace("header_timeout: 30s", "header_timeout: 2s")
    with whole(tmp_path, config) as running:
        beginnings = [b"", b"G", b"GET /half HTTP/1.1\r\nHost: a\r\nX"]
        clients = [behind.sends(running.server, each) for each in beginnings]
        answers = [rest(each) for each in clients]
        second = behind.sends(running.server, b"GET /refused HTTP/1.1\r\nHost: a\r\n\r\nGET /second")
        whole_answer, _, late = rest(second).rpartition(b"HTTP/1.1 ")
        assert answers[0] == b""
        for answer in (*answers[1:], b"HTTP/1.1 " + late):
            told = parse(answer)
            assert (told.status, told.header("connection")) == (408, "close")
        assert parse(whole_answer).status == 403
        running.process.terminate()
        running.ended()
        found = [each for each in running.lines if each["http.response.status_code"] == 408]
        assert [(each["code"], each["flags"]) for each in found] == [("request_timeout", "DT")] * 3
        assert found[0]["client.address"] == "127.0.0.1"
        assert "url.path" not in found[0]


def test_garbage_behind_a_request_does_not_end_up_in_its_answer(behind: Held, running: Whole) -> None:
    """The answer that is on its way is given as it is, and nothing after it."""
    client = behind.sends(running.server, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    source = behind.takes()
    source.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n" + b"a" * 100)
    received = b""
    while not received.endswith(b"a"):
        received += client.recv(65536)
    client.sendall(b"\x00 garbage\r\n\r\n")
    running.says("Invalid HTTP request received.")
    source.sendall(b"a" * 300)
    assert parse(received + rest(client)).body == b"a" * 400
    assert line(running, flags="DPE")


@pytest.mark.parametrize(("behind_it", "status"), [(b"\x00 garbage\r\n\r\n", 400), (b"GET /half HTTP/1.1\r\nX: ", 408)])
def test_what_is_no_head_behind_a_request_has_one_line(
    behind_it: bytes, status: int, behind: Held, tmp_path: Path
) -> None:
    """However long the answer to the request takes, and whatever still comes."""
    config = CONFIG.format(url=behind.url, keep_alive="30s").replace("header_timeout: 30s", "header_timeout: 1s")
    with whole(tmp_path, config.replace("max_connections: 1", "max_connections: 9")) as running:
        client = behind.sends(running.server, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + behind_it)
        source = behind.takes()
        for _ in range(2):
            # Whoever comes later is turned away later.
            assert parse(rest(behind.sends(running.server, b"GET /late"))).status == 408
            client.sendall(b"T")
        source.sendall(response(b"whole"))
        assert parse(rest(client)).body == b"whole"
        running.process.terminate()
        running.ended()
        statuses = [each["http.response.status_code"] for each in running.lines if "url.path" not in each]
        assert sorted(statuses) == sorted([status, 408, 408])


def test_a_body_that_turns_to_garbage_cuts_its_answer(behind: Held, running: Whole) -> None:
    """An answer that has begun is cut, and has no second head in its midst."""
    client = behind.sends(running.server, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    source = behind.takes()
    source.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n" + b"a" * 100)
    received = b""
    while not received.endswith(b"a"):
        received += client.recv(65536)
    client.sendall(b"no chunk\r\n")
    assert (received + rest(client)).count(b"HTTP/1.1") == 1


SWITCH = b"Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
NO_HANDSHAKES = {
    "another method": b"POST /x HTTP/1.1\r\n" + SWITCH + b"Content-Length: 3\r\n\r\nabc",
    "a body": b"GET /x HTTP/1.1\r\n" + SWITCH + b"Content-Length: 3\r\n\r\nabc",
    "many headers": b"GET /x HTTP/1.1\r\n" + SWITCH + b"X: y\r\n" * 200 + b"\r\n",
    "a long header": b"GET /x HTTP/1.1\r\n" + SWITCH + b"X: " + b"y" * 9000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("kind", NO_HANDSHAKES)
def test_what_is_no_handshake_is_refused(kind: str, behind: Held, running: Whole) -> None:
    """At once, and the connection is closed."""
    assert parse(rest(behind.sends(running.server, NO_HANDSHAKES[kind]))).status == 400


def test_a_websocket_that_is_refused_is_no_error(behind: Held, running: Whole) -> None:
    """The client has its answer, and the log of the process nothing: anybody could fill it."""
    handshake = request("GET", "/refused", HANDSHAKE).replace(b"Connection: close", b"Connection: Upgrade")
    assert parse(rest(behind.sends(running.server, handshake))).status == 403
    assert line(running, **{"url.path": "/refused"})["flags"] == "NP"
    assert [each for each in running.log if each["level"] == "error"] == []


def test_a_websocket_over_a_used_connection_stays(behind: Held, tmp_path: Path) -> None:
    """The time for idle connections is not for what has become a websocket."""
    config = CONFIG.format(url=behind.url, keep_alive="4s").replace("max_connections: 1", "max_connections: 9")
    with whole(tmp_path, config) as running:
        refused = b"GET /refused HTTP/1.1\r\nHost: a\r\n\r\n"
        client = behind.sends(running.server, refused)
        received = client.recv(65536)
        while b"forbidden" not in received:
            received += client.recv(65536)
        client.sendall(request("GET", "/x", HANDSHAKE).replace(b"Connection: close", b"Connection: Upgrade"))
        source = behind.takes()
        # Whoever was idle later is closed later.
        assert b" 403 " in rest(behind.sends(running.server, refused))
        source.sendall(response(b"no websocket"))
        assert client.recv(65536).startswith(b"HTTP/1.1 ")


def test_an_upgrade_of_another_method_is_an_ordinary_request(behind: Held, running: Whole) -> None:
    """A server may ignore what it is offered; the upstream does not hear of it."""
    client = behind.sends(running.server, b"POST /x HTTP/1.1\r\n" + SWITCH + b"Content-Length: 0\r\n\r\n")
    source = behind.takes()
    source.sendall(response(b"posted", b"connection: close"))
    received = b""
    while not received.endswith(b"posted"):
        received += client.recv(65536)
    assert b"upgrade" not in source.recv(65536).lower()


# HTTP/1.0


def asks(behind: Held, running: Whole, method: str = "GET") -> tuple[socket.socket, socket.socket]:
    """A client of HTTP/1.0, and the upstream's side of its request."""
    client = behind.sends(running.server, f"{method} / HTTP/1.0\r\nHost: a\r\n\r\n".encode())
    return client, behind.takes()


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"


def test_an_answer_without_a_length_ends_with_the_connection(behind: Held, running: Whole) -> None:
    """A client that knows no chunks gets none."""
    client, source = asks(behind, running)
    source.sendall(CHUNKED + b"5\r\n done\r\n0\r\n\r\n")
    head, _, body = rest(client).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"half done"


def test_an_answer_with_a_length_keeps_it(behind: Held, running: Whole) -> None:
    """There is nothing to change about it."""
    client, source = asks(behind, running)
    source.sendall(response(b"whole"))
    answer = parse(rest(client))
    assert (answer.body, answer.header("content-length")) == (b"whole", "5")


def test_an_answer_that_breaks_off_does_not_look_whole(behind: Held, running: Whole) -> None:
    """Where the end of the connection is that of the answer, a cut is a reset."""
    client, source = asks(behind, running)
    source.sendall(CHUNKED)
    received = b""
    while not received.endswith(b"half"):
        received += client.recv(65536)
    source.close()
    with pytest.raises(ConnectionResetError):
        rest(client)


def test_a_killed_process_leaves_no_answer_that_looks_whole(behind: Held, running: Whole) -> None:
    """Even then."""
    client, source = asks(behind, running)
    source.sendall(CHUNKED)
    received = b""
    while not received.endswith(b"half"):
        received += client.recv(65536)
    running.process.kill()
    with pytest.raises(ConnectionResetError):
        rest(client)


# After an answer


def test_who_takes_nothing_of_an_answer_keeps_no_connection(behind: Held, tmp_path: Path) -> None:
    """The answer is cut, and so is the connection, though what was written for it has never gone out."""
    config = CONFIG.replace("url: '{url}'", "url: '{url}', timeouts: {{idle: 2s}}")
    with whole(tmp_path, config.format(url=behind.url, keep_alive="1s")) as running:
        before = running.descriptors
        client = behind.sends(running.server, request("GET", "/"))
        source = behind.takes()
        source.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(OSError):
            while True:
                source.sendall(bytes(65536))
        source.close()
        deadline = time.monotonic() + PATIENCE
        while running.descriptors > before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running.descriptors <= before
        client.close()
        assert line(running, flags="DT")["http.response.status_code"] == 200


@pytest.mark.parametrize("accepted", ["application/json", "application/x-ndjson"])
def test_who_takes_nothing_of_a_batch_has_left(accepted: str, behind: Held, tmp_path: Path) -> None:
    """That is no error of ours, and its line says why the answer was no success."""
    config = CONFIG.format(url=behind.url, keep_alive="30s") + "endpoints: [{path: /batch, write_timeout: 1s}]\n"
    with whole(tmp_path, config) as running:
        batch = json.dumps({"requests": [{"path": "/a"}] * 3}).encode()
        headers = [("Content-Type", "application/json"), ("Accept", accepted)]
        with behind.sends(running.server, request("POST", "/batch", headers, batch)):
            for _ in range(3):
                behind.takes().sendall(response(b"x" * 8_000_000, b"content-type: text/plain"))
            deadline = time.monotonic() + PATIENCE
            while not running.lines and time.monotonic() < deadline:
                time.sleep(0.05)
        assert line(running, msg="batch")["flags"] == "DC"
        assert [each for each in running.log if each["level"] == "error"] == []


@pytest.mark.parametrize("last", [b"x" * 5, b"x"], ids=["all", "some"])
def test_a_body_that_comes_after_its_answer_keeps_no_connection(last: bytes, behind: Held, tmp_path: Path) -> None:
    """Refused before its body was there: whether the rest comes or not, the connection ends as an idle one."""
    with whole(tmp_path, CONFIG.format(url=behind.url, keep_alive="1s")) as running:
        head = b"POST /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
        client = behind.sends(running.server, head)
        received = b""
        while b'"forbidden"' not in received:
            received += client.recv(65536)
        client.sendall(last)
        client.settimeout(PATIENCE)
        assert rest(client) in (b"", b"}")
